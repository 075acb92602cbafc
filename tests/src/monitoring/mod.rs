//! Leveret under observation: a load that touches every metric, and a Prometheus that watches.
//!
//! Keeps: waits for effects; a deadline only ends what will never come.
//! Never: knows what the server does inside.
//! In: `tests/monitoring.rs`.

pub(crate) mod dashboard;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod prometheus;
