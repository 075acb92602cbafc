//! `x-delayed-message`: which messages wait, and for how long. Pure.
//!
//! Keeps: a delayed message waits in a queue that belongs to its exchange and has no name for
//! clients; it is routed when its time has come, by the bindings there are then.
//! In: `Exchange`, and `shard::delay`, which keeps the messages.
//! Source: the plug-in `rabbitmq_delayed_message_exchange`; unlike there any delay is kept, and a
//! message that waits is not returned as unroutable.

use amqp::content::Block;
use amqp::field::{Table, Value};
use amqp::properties::{self, Properties};

use super::{Exchange, copies};
use crate::model::QueueId;

/// The exchange type.
pub const KIND: &str = "x-delayed-message";
const HEADER: &str = "x-delay";
/// Before the exchange's name in that of its queue: clients cannot declare such a name.
const PREFIX: &str = "amq.delayed.";

#[derive(Default)]
pub(super) struct Delay {
    pub(super) queue: Option<QueueId>,
}

/// Name of the queue that keeps what an exchange delays.
pub fn queue_name(exchange: &str) -> String {
    format!("{PREFIX}{exchange}")
}

/// The exchange whose delayed messages a queue keeps.
pub fn exchange_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(PREFIX)
}

/// How an exchange routes when the time has come.
///
/// # Errors
/// The plug-in's text.
pub(super) fn inner_kind(arguments: &Table) -> Result<&str, String> {
    let kind = arguments.find("x-delayed-type").and_then(Value::as_text);
    kind.filter(|kind| *kind != KIND && Exchange::has_type(kind))
        .ok_or_else(|| {
            "Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned()
        })
}

/// How long a message with these headers waits, ms; `None`: not at all.
pub(super) fn span_ms(headers: &Table) -> Option<u64> {
    let value = headers.find(HEADER)?;
    let ms = match value {
        Value::F32(bits) => f64::from(f32::from_bits(*bits)) as i64,
        Value::F64(bits) => f64::from_bits(*bits) as i64,
        value => match value.as_text() {
            Some(text) => text.parse().ok()?,
            None => value.as_i64()?,
        },
    };
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

/// How long the message waits, ms, and its properties for afterwards: the delay is negated, so
/// that no exchange behind delays it again; BCC is back, for when it goes on.
pub fn take_span(block: &Block, index: usize, keys: &[Vec<u8>]) -> Option<(u64, Vec<u8>)> {
    let raw = block.properties(index);
    properties::headers(raw)?;
    let mut parsed = Properties::parse(raw).ok()?;
    let headers = parsed.headers.as_mut()?;
    let ms = span_ms(headers)?;
    let negated = match i32::try_from(ms) {
        Ok(ms) => Value::I32(-ms),
        Err(_) => Value::I64(i64::try_from(ms).map_or(i64::MIN, |ms| -ms)),
    };
    headers.insert(HEADER, negated);
    copies::hide(headers, keys);
    Some((ms, parsed.encode()))
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;

    use super::*;

    fn delayed(value: Value) -> Option<(u64, Value)> {
        let mut headers = Table::default();
        headers.insert(HEADER, value);
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let mut block = Block::default();
        block.push(&Address::new(b"x", b"k"), &properties.encode(), b"");
        let (ms, raw) = take_span(&block, 0, &[])?;
        let after = Properties::parse(&raw).expect("just encoded");
        Some((ms, after.header(HEADER)?.clone()))
    }

    #[test]
    fn delays_of_every_form_are_negated() {
        for (value, ms, after) in [
            (Value::I32(5000), 5000, Value::I32(-5000)),
            (Value::U8(7), 7, Value::I32(-7)),
            (Value::text("90"), 90, Value::I32(-90)),
            (Value::F64(1500.5f64.to_bits()), 1500, Value::I32(-1500)),
            (Value::I64(1 << 40), 1 << 40, Value::I64(-(1 << 40))),
        ] {
            assert_eq!(delayed(value), Some((ms, after)));
        }
        for value in [
            Value::I32(0),
            Value::I32(-5),
            Value::text("soon"),
            Value::Void,
        ] {
            assert_eq!(delayed(value), None);
        }
    }
}
