//! `x-delayed-message`: which messages wait, and for how long. Pure.
//!
//! Keeps: a delayed message waits in a queue that belongs to its exchange and has no name for
//! clients; it is routed when its time has come, by the bindings there are then.
//! In: `Exchange`, and `shard::delay`, which keeps the messages; work queues delay by the same
//! headers.
//! Source: the plug-in `rabbitmq_delayed_message_exchange`; unlike there any delay is kept, and a
//! message that waits is not returned as unroutable.

use amqp::content::{Block, Entry};
use amqp::field::{self, Table, Value};
use amqp::properties::{self, Properties};

use super::asked::shown;
use super::{Exchange, copies};
use crate::model::{Micros, QueueId};

/// The exchange type.
pub const KIND: &str = "x-delayed-message";
const HEADER: &str = "x-delay";
/// The instant instead of the span: an AMQP timestamp (seconds), or a whole number of ms since
/// 1970.
const INSTANT: &str = "x-deliver-at";
/// No message waits longer: ten years, ms.
const SPAN_MAX: i64 = 315_360_000_000;
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
fn span_ms(headers: &Table) -> Option<u64> {
    let ms = span_of(headers.find(HEADER)?)?;
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

fn span_of(value: &Value) -> Option<i64> {
    match value {
        Value::F32(bits) => Some(f64::from(f32::from_bits(*bits)) as i64),
        Value::F64(bits) => Some(f64::from_bits(*bits) as i64),
        value => match value.as_text() {
            Some(text) => text.parse().ok(),
            None => value.as_i64(),
        },
    }
}

/// How long a message with these headers waits from `now` on, ms; `None`: not at all.
pub(super) fn wait_ms(headers: &Table, now: Micros) -> Option<u64> {
    span_ms(headers).or_else(|| {
        let left = instant_ms(headers.find(INSTANT)?)?.saturating_sub(now / 1000);
        u64::try_from(left).ok().filter(|ms| *ms > 0)
    })
}

fn instant_ms(value: &Value) -> Option<i64> {
    match value {
        Value::Timestamp(seconds) => i64::try_from(seconds.saturating_mul(1000)).ok(),
        value => value.as_i64(),
    }
}

/// True when some message of these may ask for a delay.
pub fn asks(block: &Block, index: usize) -> bool {
    if block.entries[index].flags & Entry::ASKS == 0 {
        return false;
    }
    let raw = properties::headers(block.properties(index));
    let ours = |key: &[u8]| key == HEADER.as_bytes() || key == INSTANT.as_bytes();
    raw.is_some_and(|raw| field::any_key(raw, ours))
}

/// What is wrong with the delay that a message asks a work queue for: header and reason.
pub fn refusal(block: &Block, index: usize, now: Micros) -> Option<(&'static str, String)> {
    if !asks(block, index) {
        return None;
    }
    let headers = Table::parse(properties::headers(block.properties(index))?).ok()?;
    if let Some(value) = headers.find(HEADER) {
        return match span_of(value) {
            None => {
                let shown = shown(value);
                let reason = format!("{shown} is no number of milliseconds within 0 to {SPAN_MAX}");
                Some((HEADER, reason))
            }
            Some(ms) if ms > SPAN_MAX => {
                Some((HEADER, format!("{ms} is not within 0 to {SPAN_MAX}")))
            }
            Some(_) => None,
        };
    }
    let value = headers.find(INSTANT)?;
    match instant_ms(value) {
        None => {
            let reason = format!(
                "{} is neither a timestamp nor a number of milliseconds since 1970, at most \
                 {SPAN_MAX} from now",
                shown(value)
            );
            Some((INSTANT, reason))
        }
        Some(at) if at.saturating_sub(now / 1000) > SPAN_MAX => {
            Some((INSTANT, format!("{at} is more than {SPAN_MAX} ms from now")))
        }
        Some(_) => None,
    }
}

/// Until when the message waits, and its properties for afterwards: the delay is negated, so that
/// no exchange behind delays it again; BCC is back, for when it goes on. An instant is the same for
/// all who name it, whenever they came.
pub fn take_due(
    block: &Block,
    index: usize,
    keys: &[Vec<u8>],
    now: Micros,
) -> Option<(Micros, Vec<u8>)> {
    let raw = block.properties(index);
    properties::headers(raw)?;
    let mut parsed = Properties::parse(raw).ok()?;
    let headers = parsed.headers.as_mut()?;
    let ms = wait_ms(headers, now)?;
    let mut from = now / 1000 * 1000;
    if span_ms(headers).is_some() {
        from = now;
        let negated = match i32::try_from(ms) {
            Ok(ms) => Value::I32(-ms),
            Err(_) => Value::I64(i64::try_from(ms).map_or(i64::MIN, |ms| -ms)),
        };
        headers.insert(HEADER, negated);
    }
    copies::hide(headers, keys);
    let span = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000);
    Some((from.saturating_add(span), parsed.encode()))
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;

    use super::*;

    /// How long it waits, ms, and its delay afterwards.
    fn delayed(value: Value) -> Option<(Micros, Value)> {
        let mut headers = Table::default();
        headers.insert(HEADER, value);
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let mut block = Block::default();
        block.push(&Address::new(b"x", b"k"), &properties.encode(), b"");
        let (due, raw) = take_due(&block, 0, &[], 0)?;
        let after = Properties::parse(&raw).expect("just encoded");
        Some((due / 1000, after.header(HEADER)?.clone()))
    }

    #[test]
    fn an_instant_stays_as_it_is() {
        let message = |value: Value| {
            let mut headers = Table::default();
            headers.insert(INSTANT, value);
            let properties = Properties {
                headers: Some(headers),
                ..Properties::default()
            };
            let mut block = Block::default();
            block.push(&Address::new(b"x", b"k"), &properties.encode(), b"");
            block
        };
        let now = 1_000_000_000_000_000;
        for (value, ms) in [
            (Value::Timestamp(1_000_000_007), Some(7_000)),
            (Value::I64(1_000_000_000_250), Some(250)),
            (Value::I64(999_999_999_999), None),
        ] {
            let block = message(value);
            assert_eq!(refusal(&block, 0, now), None);
            let found = take_due(&block, 0, &[], now);
            let due = ms.map(|ms: Micros| now + ms * 1_000);
            assert_eq!(found.as_ref().map(|(due, _)| *due), due);
            // Whoever comes later in this millisecond has the same instant.
            let later = take_due(&block, 0, &[], now + 999);
            assert_eq!(later.map(|(due, _)| due), due);
            if let Some((_, raw)) = found {
                assert_eq!(raw, block.properties(0));
            }
        }
        let refused = |value| refusal(&message(value), 0, now).map(|(_, why)| why);
        assert!(refused(Value::text("tomorrow")).is_some());
        assert!(refused(Value::Timestamp(u64::MAX)).is_some());
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
