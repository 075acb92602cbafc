//! How long work takes, and how long a lease is that measures itself (`x-lease-timeout = auto`).
//! Pure.
//!
//! Keeps: three times the 99th percentile of the newest processing times, never less than the floor
//! and never more than the cap; too few of them are no measure.
//! In: `shard`, once for each run of messages that is acked on a work queue.

use crate::model::Micros;
use crate::topology::arguments::{LEASE_MAX_MS, LEASE_MS};

/// The lease is so many times what nearly all messages take.
const TIMES: u64 = 3;
/// Processing times known before they count as a measure: fewer leave the floor.
pub const ENOUGH: u32 = 20;
/// Times counted before all counts are halved: old ones fade, and a queue whose work changes has
/// another lease after some thousands.
const HALVE_AT: u32 = 10_000;
/// Buckets for each doubling: an estimate is at most an eighth too long, never too short.
const STEPS: u64 = 8;
/// Buckets up to the cap; what takes longer counts there.
const BUCKETS: usize = 190;

/// Processing times of a queue, in buckets that grow with the logarithm.
#[derive(Clone, Debug)]
pub struct Durations {
    buckets: [u32; BUCKETS],
    total: u32,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            total: 0,
        }
    }
}

/// The bucket of a time in ms: one each up to eight, then eight for each doubling.
fn bucket(ms: u64) -> usize {
    if ms < STEPS {
        return ms as usize;
    }
    let doublings = u64::from(ms.ilog2() - STEPS.ilog2());
    let step = (ms >> doublings) - STEPS;
    usize::try_from((doublings + 1) * STEPS + step)
        .unwrap_or(BUCKETS)
        .min(BUCKETS - 1)
}

/// The longest time in a bucket, ms.
fn longest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (doublings, step) = (bucket / STEPS - 1, bucket % STEPS);
    ((STEPS + step + 1) << doublings) - 1
}

impl Durations {
    /// So many messages took this long from their delivery to their settlement.
    pub fn record(&mut self, took: Micros, count: u32) {
        // Up to the next millisecond.
        let ms = u64::try_from(took).unwrap_or(0).div_ceil(1000);
        let count = count.min(HALVE_AT);
        self.buckets[bucket(ms)] += count;
        self.total += count;
        if self.total > HALVE_AT {
            self.total = 0;
            for known in &mut self.buckets {
                *known /= 2;
                self.total += *known;
            }
        }
    }

    /// What 99 of 100 messages do not exceed, ms; `None` while too few were measured.
    pub fn p99_ms(&self) -> Option<u64> {
        if self.total < ENOUGH {
            return None;
        }
        let above = self.total / 100;
        let mut seen = 0;
        let at = self.buckets.iter().rposition(|count| {
            seen += count;
            seen > above
        })?;
        Some(longest(at))
    }

    /// The lease, ms.
    pub fn lease_ms(&self) -> u64 {
        let measured = self.p99_ms().unwrap_or(0).saturating_mul(TIMES);
        measured.clamp(LEASE_MS, LEASE_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_time_has_a_bucket_that_is_not_much_longer() {
        let mut last = 0;
        for ms in (0..5000).chain((5000..=LEASE_MAX_MS).step_by(997)) {
            let at = bucket(ms);
            assert!(at >= last && longest(at) >= ms, "{ms}");
            assert!(longest(at) <= ms + ms / STEPS, "{ms}: {}", longest(at));
            last = at;
        }
        assert!(bucket(LEASE_MAX_MS) < BUCKETS, "the cap is measured");
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn too_few_leave_the_floor_and_enough_make_three_times_the_longest() {
        let mut durations = Durations::default();
        for _ in 1..ENOUGH {
            durations.record(60_000_000, 1);
            assert_eq!(durations.lease_ms(), LEASE_MS);
        }
        durations.record(60_000_000, 1);
        assert!((180_000..=202_500).contains(&durations.lease_ms()));
    }

    #[test]
    fn one_in_a_hundred_does_not_count() {
        let mut durations = Durations::default();
        durations.record(15_000_000, 990);
        durations.record(3_600_000_000, 10);
        assert!((45_000..=50_625).contains(&durations.lease_ms()));
        durations.record(3_600_000_000, 1);
        assert!(durations.lease_ms() >= 10_800_000);
    }

    #[test]
    fn old_times_fade() {
        let mut durations = Durations::default();
        durations.record(3_600_000_000, 5000);
        durations.record(1_000, 30_000);
        for _ in 0..8 {
            durations.record(1_000, HALVE_AT);
        }
        assert_eq!(durations.lease_ms(), LEASE_MS);
    }

    proptest! {
        /// Against the sorted list, as long as nothing was halved.
        #[test]
        fn near_the_true_percentile_within_floor_and_cap(
            times in proptest::collection::vec(0u64..100_000_000, 20..400),
        ) {
            let mut durations = Durations::default();
            times.iter().for_each(|ms| durations.record(*ms as Micros * 1000, 1));
            let mut sorted = times.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let exact = sorted[times.len() / 100];
            let found = durations.p99_ms().unwrap_or(0);
            prop_assert!(exact > LEASE_MAX_MS || found >= exact, "{found} < {exact}");
            prop_assert!(found <= exact + exact / STEPS, "{found} > {exact}");
            prop_assert!((LEASE_MS..=LEASE_MAX_MS).contains(&durations.lease_ms()));
        }

        /// Whatever is recorded: no overflow, and always a lease within its bounds.
        #[test]
        fn anything_may_be_recorded(
            runs in proptest::collection::vec((any::<i64>(), any::<u32>()), 0..200),
        ) {
            let mut durations = Durations::default();
            for (took, count) in runs {
                durations.record(took, count);
                prop_assert!(durations.total <= HALVE_AT);
                prop_assert!((LEASE_MS..=LEASE_MAX_MS).contains(&durations.lease_ms()));
            }
        }
    }
}
