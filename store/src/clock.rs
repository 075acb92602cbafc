//! The only door to the wall clock and to chance.
//!
//! Keeps: instants as microseconds since the epoch, never running backwards within a process.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Micros;

static NEWEST: AtomicI64 = AtomicI64::new(0);

/// Now, in microseconds since the epoch, UTC. Never smaller than an earlier answer.
pub fn now() -> Micros {
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
