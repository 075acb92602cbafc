//! What the test programs share: a wire codec, conversations, servers, and the crash checker.
//!
//! Keeps: its own opinion about AMQP; nothing here links the product.
//! Never: is part of the product.
//! In: `conversation.rs`, `crash.rs`, and the client tests beside them.

pub mod conversation;
pub mod crash;
pub mod database;
pub mod history;
pub mod leveret;
pub mod patroni;
pub mod rabbitmq;
pub mod server;
pub mod wire;
