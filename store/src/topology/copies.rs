//! The headers CC and BCC: more routing keys for one message. Pure.
//!
//! Keeps: whoever receives the message sees CC as it was sent, and BCC never.
//! In: `gateway::session` asks about each message that has headers; `shard` when one moves on.

use amqp::content::{Block, Entry};
use amqp::field::{self, Table, Value};
use amqp::properties::{self, Properties};

use crate::definitions::kind_of;

const CC: &str = "CC";
const BCC: &str = "BCC";

/// Further keys of a message, and its properties where a header had to go.
#[derive(Debug, PartialEq, Eq)]
pub struct Copies {
    pub keys: Vec<Vec<u8>>,
    pub properties: Option<Vec<u8>>,
}

/// What these properties ask for; `None`: nothing, which costs no decoding.
///
/// # Errors
/// RabbitMQ's text where a header is no array.
pub fn of(raw: &[u8]) -> Result<Option<Copies>, String> {
    let asks = |key: &[u8]| key == CC.as_bytes() || key == BCC.as_bytes();
    if !properties::headers(raw).is_some_and(|headers| field::any_key(headers, asks)) {
        return Ok(None);
    }
    let Ok(mut parsed) = Properties::parse(raw) else {
        return Ok(None);
    };
    let Some(headers) = &mut parsed.headers else {
        return Ok(None);
    };
    let mut keys = Vec::new();
    for name in [CC, BCC] {
        if let Some(value) = headers.find(name) {
            let found = texts(value).ok_or_else(|| {
                let kind = kind_of(value);
                format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}")
            })?;
            keys.extend(found);
        }
    }
    let hidden = headers.remove(BCC).is_some();
    Ok(Some(Copies {
        keys,
        properties: hidden.then(|| parsed.encode()),
    }))
}

/// Keys of a stored message beside its own.
pub fn of_stored(block: &Block, index: usize) -> Vec<Vec<u8>> {
    if block.entries[index].flags & Entry::ASKS == 0 {
        return Vec::new();
    }
    let copies = of(block.properties(index)).ok().flatten();
    copies.map_or_else(Vec::new, |copies| copies.keys)
}

/// The keys that a table's CC names.
pub fn in_headers(headers: &Table) -> Vec<Vec<u8>> {
    headers.find(CC).and_then(texts).unwrap_or_default()
}

/// Puts those of `keys` that are not in CC back into BCC, for a message that is not seen yet.
pub fn hide(headers: &mut Table, keys: &[Vec<u8>]) {
    let open = in_headers(headers);
    let hidden = keys.iter().filter(|key| !open.contains(key));
    let hidden: Vec<Value> = hidden.cloned().map(Value::LongStr).collect();
    if !hidden.is_empty() {
        headers.insert(BCC, Value::Array(hidden));
    }
}

/// A message that goes on under a key of its queue is copied to nobody.
pub fn forget(headers: &mut Table) {
    headers.remove(CC);
}

/// Texts of an array, as RabbitMQ takes them: others in it count for nothing.
fn texts(value: &Value) -> Option<Vec<Vec<u8>>> {
    let Value::Array(values) = value else {
        return None;
    };
    let text = |value: &Value| match value {
        Value::LongStr(text) => Some(text.clone()),
        _ => None,
    };
    Some(values.iter().filter_map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, Value)]) -> Result<Option<Copies>, String> {
        let mut table = Table::default();
        for (name, value) in headers {
            table.insert(name, value.clone());
        }
        let properties = Properties {
            headers: Some(table),
            priority: Some(1),
            ..Properties::default()
        };
        of(&properties.encode())
    }

    #[test]
    fn keys_are_found_and_bcc_is_hidden() {
        let list = |texts: &[&str]| Value::Array(texts.iter().map(|t| Value::text(t)).collect());
        assert_eq!(asked(&[("a", Value::Void)]), Ok(None));
        let nested = Table(vec![(b"CC".to_vec(), list(&["x"]))]);
        assert_eq!(asked(&[("a", Value::Table(nested))]), Ok(None));
        let found = asked(&[("CC", list(&["x", "y"]))]);
        let keys = vec![b"x".to_vec(), b"y".to_vec()];
        let properties = None;
        assert_eq!(found, Ok(Some(Copies { keys, properties })));
        let found = asked(&[("CC", list(&["x"])), ("BCC", list(&["z"]))]);
        let found = found.expect("sound").expect("asked");
        assert_eq!(found.keys, [b"x".to_vec(), b"z".to_vec()]);
        let left = found.properties.as_deref().expect("changed");
        let left = Properties::parse(left).expect("sound");
        assert_eq!(left.header("CC"), Some(&list(&["x"])));
        assert_eq!((left.header("BCC"), left.priority), (None, Some(1)));
        let mut headers = Table::default();
        headers.insert("CC", list(&["x"]));
        hide(&mut headers, &found.keys);
        assert_eq!(headers.find("BCC"), Some(&list(&["z"])));
        let refused = asked(&[("BCC", Value::text("z"))]);
        let text = "invalid message: {unacceptable_type_in_header,\"BCC\",longstr}";
        assert_eq!(refused, Err(text.to_owned()));
    }
}
