//! How many deliveries a rate allows now. Pure.
//!
//! Keeps: no more than the rate over any second, but for what a tenth of a second may save up.
//! In: `shard`, where a queue has `x-rate-limit`.

use crate::model::Micros;

/// What may be saved up while nothing is delivered, seconds: enough to bridge the timer's grain.
const SAVED: f64 = 0.1;

/// A bucket that fills with time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    tokens: f64,
    at: Option<Micros>,
}

impl Rate {
    /// Deliveries allowed at `now`.
    pub fn allowed(&mut self, per_second: f64, now: Micros) -> u32 {
        let most = (per_second * SAVED).max(1.0);
        let passed = self
            .at
            .map_or(f64::INFINITY, |at| (now - at).max(0) as f64 / 1e6);
        self.tokens = (self.tokens + passed * per_second).min(most);
        self.at = Some(now);
        self.tokens as u32
    }

    pub fn spend(&mut self, count: u32) {
        self.tokens -= f64::from(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_the_rate(
            per_second in 0.01f64..10_000.0,
            steps in proptest::collection::vec((0i64..500_000, 1u32..100), 1..200),
        ) {
            let mut rate = Rate::default();
            let (mut now, mut sent) = (0, 0u64);
            for (step, asked) in steps {
                now += step;
                let n = rate.allowed(per_second, now).min(asked);
                rate.spend(n);
                sent += u64::from(n);
                let most = per_second * now as f64 / 1e6 + (per_second * SAVED).max(1.0);
                prop_assert!(sent as f64 <= most + 1e-3, "{sent} of {most}");
            }
        }
    }

    #[test]
    fn a_steady_taker_gets_the_whole_rate() {
        let mut rate = Rate::default();
        let mut sent = 0;
        for tick in 0..500 {
            let n = rate.allowed(1000.0, tick * 20_000);
            rate.spend(n);
            sent += n;
        }
        assert!((9_900..=10_200).contains(&sent), "{sent}");
    }
}
