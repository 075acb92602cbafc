//! Where a dead message came from, and what it carries when it goes back. Pure.
//!
//! Keeps: the exchange and routing key with which it was published, so that its consumers see what
//! they saw; its attempts begin anew, its deaths stay on record.
//! In: `shard::sweep`.

use amqp::content::{Address, Block};
use amqp::field::{Table, Value};
use amqp::properties::Properties;

use crate::rules::dead_letter;

/// How often a message was taken out of a dead-letter queue.
pub const REDRIVES: &str = "x-redrive-count";
/// What the attempts before have left: the next ones count from one.
pub const OF_ATTEMPTS: [&str; 6] = [
    "x-attempt",
    "x-max-attempts",
    "x-first-failure",
    "x-last-error",
    "x-delivery-count",
    "x-acquired-count",
];

/// The queue in which a message died last, and the address that it had there; `None` when it
/// carries no death.
pub fn origin(block: &Block, index: usize) -> Option<(String, Address)> {
    let properties = Properties::parse(block.properties(index)).ok()?;
    let death = dead_letter::newest(&properties)?;
    let queue = death.find("queue")?.as_text()?.to_owned();
    let exchange = death.find("exchange").and_then(Value::as_text);
    let key = match death.find("routing-keys") {
        Some(Value::Array(keys)) => keys.first().and_then(Value::as_text),
        _ => None,
    };
    let address = Address::new(
        exchange.unwrap_or_default().as_bytes(),
        key.unwrap_or(&queue).as_bytes(),
    );
    Some((queue, address))
}

/// The properties with which it goes back.
pub fn properties(raw: &[u8]) -> Vec<u8> {
    let Ok(mut properties) = Properties::parse(raw) else {
        return raw.to_vec();
    };
    let headers = properties.headers.get_or_insert_with(Table::default);
    for name in OF_ATTEMPTS {
        headers.remove(name);
    }
    let count = headers.find(REDRIVES).and_then(Value::as_i64).unwrap_or(0);
    headers.insert(REDRIVES, Value::I64(count.saturating_add(1)));
    properties.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::dead_letter::Reason;

    #[test]
    fn a_dead_message_finds_its_way_back() {
        let mut block = Block::default();
        let at = block.push(&Address::new(b"orders", b"eu.new"), &[0, 0], b"");
        let raw = dead_letter::properties(&block, at, "work", Reason::DeliveryLimit, 7, None);
        let mut dead = Block::default();
        dead.push(&Address::new(b"", b"work.dlq"), &raw, b"");
        let (queue, address) = origin(&dead, 0).expect("it died");
        assert_eq!((&*queue, address.exchange()), ("work", &b"orders"[..]));
        assert_eq!(address.routing_key(), b"eu.new");
        let back = Properties::parse(&properties(&properties(&raw))).expect("sound");
        assert_eq!(back.header(REDRIVES), Some(&Value::I64(2)));
        assert_eq!(back.header("x-attempt"), None);
        assert!(back.header("x-death").is_some());
        assert_eq!(origin(&block, at), None);
    }
}
