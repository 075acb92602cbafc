//! Sockets in, sockets out; the binary's rooms.
//!
//! Keeps: one door per protocol; `reply` is the only translation of errors.

pub mod listen;
pub mod reply;
pub mod session;
