//! Verdicts on a message: when to try again, how to mark a dead one. Pure.

pub mod dead_letter;
pub mod retry;
