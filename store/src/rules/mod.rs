//! Verdicts on a message: when to try again, how to mark a dead one, whether it is here already.
//! Pure.

pub mod attempt;
pub mod dead_letter;
pub mod filter;
pub mod lease;
pub mod rate;
pub mod recent;
pub mod redrive;
pub mod replay;
pub mod retry;
pub mod unique;
pub mod window;
