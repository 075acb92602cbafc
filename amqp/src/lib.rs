//! AMQP 0-9-1 with RabbitMQ's extensions: bytes ⇄ methods ⇄ session. Pure.
//!
//! Keeps: sizes are checked before bytes are kept, depths before tables are decoded; contents stay
//! in wire form from the publisher's frame to the consumer's.
//! Never: a socket, a clock, a task; time comes in as an argument.
//! In: `gateway::session` feeds a [`connection::Connection`]; `store` knows no more than
//! [`content::Block`] and the tables in it.

#[cfg(any(test, feature = "client"))]
pub mod client;
pub mod connection;
pub mod content;
pub mod control;
mod event;
pub mod field;
pub mod hot;
pub mod limits;
pub mod properties;
pub mod reply;
pub mod sasl;
pub mod tags;

pub use amq_protocol::protocol;
