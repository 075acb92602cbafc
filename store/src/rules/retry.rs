//! When is a failed message tried again? Pure.
//!
//! Keeps: `delay · multiplier^(n-1)`, capped, spread by the jitter; `None` at the limit (I5).

use crate::topology::arguments::{DelayedRetry, Work};

/// Milliseconds until the next try after `failures` failures; `None`: no more tries.
/// `chance` in 0..1 spreads the delay.
pub fn backoff_ms(work: &Work, failures: u32, chance: f64) -> Option<u64> {
    if failures > work.retry_limit {
        return None;
    }
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let plain =
        (work.delay_ms as f64 * work.multiplier.powi(exponent)).min(work.max_delay_ms as f64);
    let spread = 1.0 + work.jitter * (2.0 * chance - 1.0);
    Some((plain * spread).max(0.0) as u64)
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
        let rules = Arguments::parse(&amqp::field::Table::default(), true);
        let work = rules.expect("no arguments").work.expect("work rules");
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16)] {
            assert_eq!(backoff_ms(&work, failures, 0.5), Some(seconds * 1000));
            assert_eq!(backoff_ms(&work, failures, 0.0), Some(seconds * 800));
            assert_eq!(backoff_ms(&work, failures, 1.0), Some(seconds * 1200));
        }
        assert_eq!(backoff_ms(&work, 6, 0.5), None);
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
