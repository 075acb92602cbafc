//! The order of what happened, in batches.

pub mod batch;
pub mod segment;
pub(crate) mod writer;
