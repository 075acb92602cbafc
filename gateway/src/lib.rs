//! Sockets in, sockets out; the binary's rooms.
//!
//! Keeps: one door per protocol; `reply` is the only translation of errors to AMQP, and
//! `http::problem` to HTTP.

mod access;
pub mod admin;
pub mod alarm;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod definitions;
pub mod http;
pub mod listen;
pub mod node;
pub mod proxy_protocol;
pub mod reply;
pub mod session;
pub mod telemetry;
pub mod tls;
