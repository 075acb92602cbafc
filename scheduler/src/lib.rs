//! Time: what is due, and the tasks that act on it.
//!
//! Keeps: one firing per nominal time (I7); what decides (`cron`) is pure, what acts (`ticker`,
//! `janitor`) is a thin shell over the store's verbs.
//! Never: a socket, a configuration file, AMQP's wire form; those are the gateway's.

pub mod cron;
pub mod janitor;
pub mod ticker;
