//! What the threads of one run share: its phase, its counters, its clock.
//!
//! Keeps: counters only grow; the phase only moves forward.
//! Never: blocks a data thread; all fields are relaxed atomics, updated once per batch.
//! In: `run` moves the phase, `producer` and `consumer` count.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Where a run stands. Histograms record in `Measure` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    WarmUp,
    Measure,
    /// Producers finish what they began; consumers go on.
    Drain,
    /// Consumers stop too.
    Done,
}

#[derive(Debug)]
pub(crate) struct Control {
    began: Instant,
    began_at_ns: u64,
    phase: AtomicU8,
    published: AtomicU64,
    confirmed: AtomicU64,
    consumed: AtomicU64,
    confirmed_below: AtomicU64,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            began_at_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as u64),
            phase: AtomicU8::new(Phase::WarmUp as u8),
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            confirmed_below: AtomicU64::new(0),
        }
    }

    /// When the run began, ns since 1970.
    pub(crate) fn began_at_ns(&self) -> u64 {
        self.began_at_ns
    }

    /// Nanoseconds since the run began.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Measure,
            2 => Phase::Drain,
            _ => Phase::Done,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn add_published(&self, count: u64) {
        self.published.fetch_add(count, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn add_confirmed(&self, count: u64) {
        self.confirmed.fetch_add(count, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn add_consumed(&self, count: u64) {
        self.consumed.fetch_add(count, Ordering::Relaxed);
    }

    /// All numbers below are confirmed; for runs with one producer.
    pub(crate) fn set_confirmed_below(&self, seq: u64) {
        self.confirmed_below.fetch_max(seq, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn confirmed_below(&self) -> u64 {
        self.confirmed_below.load(Ordering::Relaxed)
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub(crate) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }
}

/// CPU time of the calling thread so far, user and kernel, ns.
pub(crate) fn thread_cpu_ns() -> u64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64
}

/// Makes this thread's timed waits end within microseconds instead of the default 50 µs late.
/// Only precision is lost where the kernel refuses.
pub(crate) fn sharpen_timers() {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// A span for `poll`.
pub(crate) fn timespec(span: Duration) -> rustix::time::Timespec {
    rustix::time::Timespec {
        tv_sec: span.as_secs() as i64,
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_never_goes_back() {
        let control = Control::new();
        control.enter(Phase::Drain);
        control.enter(Phase::Measure);
        assert_eq!(control.phase(), Phase::Drain);
        control.enter(Phase::Done);
        assert_eq!(control.phase(), Phase::Done);
    }

    #[test]
    fn thread_cpu_time_counts_work_and_not_sleep() {
        let before = thread_cpu_ns();
        std::thread::sleep(Duration::from_millis(30));
        let slept = thread_cpu_ns() - before;
        let until = thread_cpu_ns() + 20_000_000;
        while thread_cpu_ns() < until {
            std::hint::spin_loop();
        }
        assert!(slept < 15_000_000, "sleep cost {slept} ns");
    }
}
