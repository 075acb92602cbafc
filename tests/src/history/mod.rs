//! Random histories of the rules of work against the product's binary, which dies again and again.
//!
//! Keeps: what was published and confirmed, delivered and said, in one order of all clients; a
//! verdict on it when everything is drained.
//! Never: looks inside; what excuses a message that comes again is what the message itself says.
//! In: `tests/history.rs`. The same rules within one process: `store/src/shard/history`.

pub mod checker;
pub mod client;
pub mod drive;
pub mod flow;
pub mod ledger;
pub mod queues;
pub mod replays;
