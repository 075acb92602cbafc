//! Latencies in a histogram with three significant digits. Pure.
//!
//! Keeps: nanoseconds from 1 to 10 minutes; longer ones count as 10 minutes.
//! Never: averages quantiles; repetitions are combined by the median of each.

use hdrhistogram::Histogram;
use serde::Serialize;

const LONGEST_NS: u64 = 600_000_000_000;

/// A histogram of nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

/// What a report shows, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid"))
    }

    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// `None` when nothing was recorded.
    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        (self.count() > 0).then(|| Quantiles {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1_000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn close(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() <= expected * 0.002,
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn quantiles_of_a_uniform_ramp() {
        let mut latency = Latency::new();
        for us in 1..=10_000u64 {
            latency.record(us * 1_000);
        }
        let quantiles = latency.quantiles().unwrap();
        close(quantiles.p50_us, 5_000.0);
        close(quantiles.p99_us, 9_900.0);
        close(quantiles.p999_us, 9_990.0);
        close(quantiles.max_us, 10_000.0);
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert_eq!(Latency::new().quantiles(), None);
    }

    #[test]
    fn zero_and_huge_values_are_clamped_not_lost() {
        let mut latency = Latency::new();
        latency.record(0);
        latency.record(u64::MAX);
        assert_eq!(latency.count(), 2);
    }
}
