//! Placeholder header, replaced by the room's author.

pub mod cron;
