//! When is a failed message tried again? Pure.
//!
//! Keeps: `delay · multiplier^(n-1)`, capped, spread by the jitter; `None` at the limit (I5).

use amqp::content::{Block, Entry};
use amqp::field::{self, Table};
use amqp::properties;

use crate::planted::{Planted, planted};
use crate::topology::arguments::{DelayedRetry, RETRY_RULES, Work};

/// Headers with which a message asks for retries of its own begin so.
const OWN: &[u8] = b"x-retry-";

/// Milliseconds until the next try after `failures` failures; `None`: no more tries.
/// `chance` in 0..1 spreads the delay.
pub fn backoff_ms(work: &Work, failures: u32, chance: f64) -> Option<u64> {
    let more = u32::from(planted(Planted::LimitOffByOne));
    if failures > work.retry_limit + more {
        return None;
    }
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let plain =
        (work.delay_ms as f64 * work.multiplier.powi(exponent)).min(work.max_delay_ms as f64);
    let spread = 1.0 + work.jitter * (2.0 * chance - 1.0);
    Some((plain * spread).max(0.0) as u64)
}

/// The rules for one message: its own headers before its queue's. What makes no sense was refused
/// when it was published, or came from elsewhere, and is left out.
pub fn for_message(work: &Work, block: &Block, index: usize) -> Work {
    let mut out = work.clone();
    let Some(headers) = own_headers(block, index) else {
        return out;
    };
    for rule in &RETRY_RULES {
        if let Some(Ok(number)) = headers.find(rule.name).map(|value| rule.read(value)) {
            out.set(rule, number);
        }
    }
    out.max_delay_ms = out.max_delay_ms.max(out.delay_ms);
    out
}

/// What is wrong with a message's own rules, if it has any: header and reason.
pub fn refusal(block: &Block, index: usize) -> Option<(&'static str, String)> {
    let headers = own_headers(block, index)?;
    RETRY_RULES.iter().find_map(|rule| {
        let refused = headers.find(rule.name).map(|value| rule.read(value));
        Some((rule.name, refused?.err()?))
    })
}

fn own_headers(block: &Block, index: usize) -> Option<Table> {
    if block.entries[index].flags & Entry::ASKS == 0 {
        return None;
    }
    let raw = properties::headers(block.properties(index))?;
    field::any_key(raw, |key| key.starts_with(OWN)).then(|| Table::parse(raw).ok())?
}

/// How long a message stays away that came back for the `count`th time, ms. RabbitMQ 4.3: linear.
pub fn delayed_ms(delays: &DelayedRetry, count: u32) -> u64 {
    delays
        .min_ms
        .saturating_mul(u64::from(count))
        .min(delays.max_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::arguments::Arguments;

    #[test]
    fn five_retries_double_from_one_second_within_a_fifth() {
        let rules = Arguments::parse(&Table::default(), true);
        let work = rules.expect("no arguments").work.expect("work rules");
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16)] {
            assert_eq!(backoff_ms(&work, failures, 0.5), Some(seconds * 1000));
            assert_eq!(backoff_ms(&work, failures, 0.0), Some(seconds * 800));
            assert_eq!(backoff_ms(&work, failures, 1.0), Some(seconds * 1200));
        }
        assert_eq!(backoff_ms(&work, 6, 0.5), None);
    }

    #[test]
    fn a_message_has_rules_of_its_own() {
        use amqp::content::Address;
        use amqp::field::Value;
        let message = |pairs: &[(&str, Value)]| {
            let mut headers = Table::default();
            for (name, value) in pairs {
                headers.insert(name, value.clone());
            }
            let properties = properties::Properties {
                headers: Some(headers),
                ..Default::default()
            };
            let mut block = Block::default();
            block.push(&Address::new(b"", b"q"), &properties.encode(), b"");
            block
        };
        let rules = Arguments::parse(&Table::default(), true).expect("no arguments");
        let work = rules.work.expect("work rules");
        let half = Value::F64(0.5f64.to_bits());
        let own = message(&[
            ("x-retry-limit", Value::I32(2)),
            ("x-retry-delay", Value::I64(7_200_000)),
            ("x-retry-jitter", half),
        ]);
        let mine = for_message(&work, &own, 0);
        assert_eq!((mine.retry_limit, mine.jitter), (2, 0.5));
        assert_eq!((mine.delay_ms, mine.max_delay_ms), (7_200_000, 7_200_000));
        assert_eq!(mine.multiplier, work.multiplier);
        assert_eq!(refusal(&own, 0), None);
        assert_eq!(
            refusal(&message(&[("x-retry-count", Value::Void)]), 0),
            None
        );
        for (name, value, why) in [
            (
                "x-retry-limit",
                Value::I32(-1),
                "-1 is not within 0 to 10000",
            ),
            (
                "x-retry-limit",
                Value::text("2"),
                "'2' (longstr) is no whole number within 0 to 10000",
            ),
            ("x-retry-jitter", Value::I32(2), "2 is not within 0 to 1"),
            (
                "x-retry-multiplier",
                Value::I32(0),
                "0 is not within 1 to 100",
            ),
        ] {
            let bad = message(&[(name, value)]);
            assert_eq!(refusal(&bad, 0), Some((name, why.to_owned())));
            assert_eq!(for_message(&work, &bad, 0), work);
        }
    }

    #[test]
    fn delays_grow_in_a_line_up_to_their_most() {
        let delays = DelayedRetry {
            failed: true,
            returned: true,
            min_ms: 1000,
            max_ms: 2500,
        };
        let spans = [1, 2, 3, 4].map(|count| delayed_ms(&delays, count));
        assert_eq!(spans, [1000, 2000, 2500, 2500]);
    }
}
