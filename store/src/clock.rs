//! The only door to the wall clock and to chance.
//!
//! Keeps: instants as microseconds since the epoch, never running backwards within a process.
//! Never: turns time back, not even a simulated one.
//! In: everything that stamps or compares times. `simulation`: tests whose time is the runtime's;
//! `manual`: tests of this crate that say what time it is.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Micros;

static NEWEST: AtomicI64 = AtomicI64::new(0);

/// Now, in microseconds since the epoch, UTC. Never smaller than an earlier answer.
pub fn now() -> Micros {
    #[cfg(test)]
    if let Some(now) = manual::now() {
        return now;
    }
    #[cfg(feature = "simulation")]
    if let Some(now) = simulation::now() {
        return now;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    NEWEST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// A new time-ordered identity (UUIDv7).
pub fn new_id() -> [u8; 16] {
    uuid::Uuid::now_v7().into_bytes()
}

/// Sixteen bytes of chance for names that must not be guessed.
pub fn random_bytes() -> [u8; 16] {
    uuid::Uuid::new_v4().into_bytes()
}

/// A clock that stands and jumps with tokio's paused time, for tests.
///
/// It is chosen per thread: a runtime with paused time has one thread only, and simulations beside
/// each other, or beside a test in real time, must not share their time.
#[cfg(feature = "simulation")]
pub mod simulation {
    use std::cell::Cell;

    use tokio::time::Instant;

    use crate::model::Micros;

    thread_local! {
        static START: Cell<Option<(Instant, Micros)>> = const { Cell::new(None) };
    }

    /// From here on, on this thread, [`super::now`] is the present time plus what passes on the
    /// runtime. Called within that runtime, before a store is opened on it.
    pub fn follow_runtime() {
        START.set(None);
        START.set(Some((Instant::now(), super::now())));
    }

    pub(super) fn now() -> Option<Micros> {
        let (start, base) = START.get()?;
        let passed = i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
        Some(base.saturating_add(passed))
    }
}

/// A clock that stands until its test moves it, on that test's thread alone.
#[cfg(test)]
pub(crate) mod manual {
    use std::cell::Cell;

    use crate::model::Micros;

    thread_local! {
        static NOW: Cell<Option<Micros>> = const { Cell::new(None) };
    }

    /// While it lives, [`super::now`] is what was set on this thread.
    pub(crate) struct Manual(());

    impl Manual {
        pub(crate) fn start(now: Micros) -> Self {
            NOW.set(Some(now));
            Self(())
        }

        /// Time passes; it never runs backwards.
        pub(crate) fn pass(&self, span: Micros) {
            assert!(span >= 0, "time goes on");
            NOW.set(NOW.get().map(|now| now + span));
        }
    }

    impl Drop for Manual {
        fn drop(&mut self) {
            NOW.set(None);
        }
    }

    pub(super) fn now() -> Option<Micros> {
        NOW.get()
    }
}
