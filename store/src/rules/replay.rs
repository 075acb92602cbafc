//! What a settled message carries when it is published again. Pure.
//!
//! Keeps: exchange, routing key and properties as they were; where it came from is told; its
//! attempts begin anew.
//! In: `shard::replay`.

use amqp::field::{Table, Value};
use amqp::properties::Properties;

use crate::model::Seq;
use crate::rules::dead_letter::KEPT;
use crate::rules::redrive::OF_ATTEMPTS;

/// The queue in which it was settled.
pub const FROM: &str = "x-replayed-from";
/// Its place there.
pub const SEQ: &str = "x-replayed-seq";

/// The properties of the copy.
pub fn properties(raw: &[u8], queue: &str, seq: Seq) -> Vec<u8> {
    let Ok(mut properties) = Properties::parse(raw) else {
        return raw.to_vec();
    };
    let headers = properties.headers.get_or_insert_with(Table::default);
    // A dead message that waited for somewhere to go says so in its row only.
    for name in OF_ATTEMPTS.into_iter().chain([FROM, SEQ, KEPT]) {
        headers.remove(name);
    }
    headers.insert(FROM, Value::text(queue));
    headers.insert(SEQ, Value::I64(seq.cast_signed()));
    properties.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::dead_letter;

    #[test]
    fn a_copy_says_where_it_comes_from_and_no_more_attempts() {
        let mut headers = Table::default();
        headers.insert("x-attempt", Value::I64(3));
        headers.insert("tenant", Value::I64(5));
        let raw = Properties {
            message_id: Some(b"m1".to_vec()),
            headers: Some(headers),
            ..Properties::default()
        };
        let dead = dead_letter::keep(&raw.encode(), dead_letter::Reason::Expired);
        assert!(dead_letter::kept(&dead).is_some());
        let once = properties(&dead, "orders", 7);
        let copy = Properties::parse(&properties(&once, "audit", 9)).expect("sound");
        assert_eq!(copy.message_id.as_deref(), Some(&b"m1"[..]));
        assert_eq!(copy.header("x-attempt"), None);
        assert_eq!(copy.header("tenant"), Some(&Value::I64(5)));
        assert_eq!(copy.header(FROM), Some(&Value::text("audit")));
        assert_eq!(copy.header(SEQ), Some(&Value::I64(9)));
        assert_eq!(copy.headers.map(|table| table.0.len()), Some(3));
    }
}
