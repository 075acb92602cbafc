//! How fast a queue's depth grows: messages a second, over a minute and over five. Pure.
//!
//! Keeps: an exponentially weighted mean of the growth between samples, so that a burst that is
//! over fades; a young queue's mean is of what it has lived, not of nothing before.
//! Never: counts messages; whoever samples gives the depth, every few seconds and not per message.
//! In: `Shard::sample`, for every queue.

use crate::model::Micros;

/// Spans of the means, seconds.
const SPANS: [f64; 2] = [60.0, 300.0];

/// Growth of one queue. Costs some fifty bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Growth {
    last: Option<(u64, Micros)>,
    means: [Mean; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    /// How much of the span was seen, 0 to 1.
    weight: f64,
}

impl Growth {
    /// The depth at an instant. After a clock that was set back the means go on from there.
    pub fn sample(&mut self, depth: u64, now: Micros) {
        let last = self.last.replace((depth, now));
        let Some((before, at)) = last.filter(|(_, at)| *at < now) else {
            return;
        };
        let seconds = (now - at) as f64 / 1e6;
        let rate = (depth as f64 - before as f64) / seconds;
        for (mean, span) in self.means.iter_mut().zip(SPANS) {
            let keep = (-seconds / span).exp();
            mean.sum = mean.sum * keep + rate * (1.0 - keep);
            mean.weight = mean.weight * keep + (1.0 - keep);
        }
    }

    /// Messages a second over the last minute; negative while the queue shrinks.
    pub fn minute(&self) -> f64 {
        self.means[0].rate()
    }

    /// The same over the last five minutes.
    pub fn five_minutes(&self) -> f64 {
        self.means[1].rate()
    }
}

impl Mean {
    fn rate(self) -> f64 {
        match self.weight > 0.0 {
            true => self.sum / self.weight,
            false => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.02 * b.abs().max(1.0)
    }

    #[test]
    fn a_steady_growth_is_told_from_the_second_sample_on() {
        let mut growth = Growth::default();
        assert_eq!(growth.minute(), 0.0);
        growth.sample(100, 0);
        assert_eq!(growth.minute(), 0.0, "one sample is no growth");
        for n in 1..100i64 {
            growth.sample(100 + 35 * n as u64, n * 5 * SECOND);
            assert!(near(growth.minute(), 7.0) && near(growth.five_minutes(), 7.0));
        }
    }

    #[test]
    fn a_burst_fades_and_the_short_mean_forgets_first() {
        let mut growth = Growth::default();
        growth.sample(0, 0);
        growth.sample(10_000, 5 * SECOND);
        let mut at = 5;
        for _ in 0..24 {
            at += 5;
            growth.sample(10_000, at * SECOND);
        }
        // Two minutes later: e^-2 of 5/60 of 2,000 a second, and e^-0.4 of 5/300.
        assert!(
            (18.0..32.0).contains(&growth.minute()),
            "{}",
            growth.minute()
        );
        assert!(growth.five_minutes() > 2.0 * growth.minute());
        for _ in 0..600 {
            at += 5;
            growth.sample(10_000, at * SECOND);
        }
        assert!(growth.minute() < 1e-6 && growth.five_minutes() < 0.01);
    }

    #[test]
    fn a_queue_that_is_worked_off_shrinks() {
        let mut growth = Growth::default();
        for n in 0..60i64 {
            growth.sample(6_000 - 100 * n as u64, n * 5 * SECOND);
        }
        assert!(near(growth.minute(), -20.0) && near(growth.five_minutes(), -20.0));
    }

    #[test]
    fn uneven_samples_weigh_by_their_time() {
        let (mut even, mut uneven) = (Growth::default(), Growth::default());
        for n in 0..=60i64 {
            even.sample(10 * n as u64, n * SECOND);
            if n % 7 == 0 || n == 60 {
                uneven.sample(10 * n as u64, n * SECOND);
            }
        }
        assert!(near(even.minute(), uneven.minute()));
    }

    #[test]
    fn a_clock_that_is_set_back_invents_no_growth() {
        let mut growth = Growth::default();
        growth.sample(0, 100 * SECOND);
        growth.sample(50, 105 * SECOND);
        growth.sample(60, 20 * SECOND);
        growth.sample(60, 20 * SECOND);
        assert!(near(growth.minute(), 10.0), "{}", growth.minute());
        growth.sample(110, 25 * SECOND);
        assert!(near(growth.minute(), 10.0), "{}", growth.minute());
    }
}
