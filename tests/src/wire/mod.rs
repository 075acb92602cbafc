//! AMQP 0-9-1 as the tests speak it: a codec of their own, driven by a table.
//!
//! Keeps: independence from the product, so that a shared mistake cannot hide.
//! Never: opens a socket.
//! In: `conversation` and `crash`.

pub mod assembly;
pub mod content;
pub mod frame;
pub mod method;
pub mod value;
