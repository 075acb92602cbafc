//! What all clients of a history did and saw, in one order.
//!
//! Keeps: a publish and a word are here before their first byte is written, a delivery before
//! anything is said of it; so what stands later came later.
//! In: `drive` writes, `checker` reads.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::crash::message::Id;

/// What a client says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Ack,
    /// It failed: `basic.reject` or `basic.nack` without requeue.
    Fail,
    /// `basic.nack` with requeue.
    Return,
}

/// A message as it was published.
#[derive(Clone, Debug)]
pub struct Sent {
    pub queue: usize,
    pub key: Option<String>,
    /// Its message-id.
    pub name: Option<String>,
    /// Retries that it may have.
    pub limit: i64,
    pub own_limit: bool,
    pub delay_ms: Option<u32>,
    /// Before its first byte was written.
    pub at: Instant,
    pub confirmed: bool,
}

/// A message as it was delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub queue: usize,
    /// From its dead-letter queue.
    pub dead: bool,
    pub id: Id,
    pub redelivered: bool,
    /// `x-attempt`, 1 where it has none.
    pub attempt: i64,
    /// `x-max-attempts`.
    pub most: Option<i64>,
    /// `x-last-error`.
    pub error: Option<String>,
    /// The numbers in `x-attempts`.
    pub record: Vec<i64>,
    pub at: Instant,
}

/// One line.
#[derive(Clone, Debug)]
pub enum Event {
    /// To a session, which is one connection.
    Delivered(u32, Delivery),
    /// Of the delivery in that line.
    Said(usize, Word),
    /// A session ended, with or without a goodbye.
    Left { session: u32, peacefully: bool },
    /// The server was killed.
    Killed,
}

/// An order to publish again what is kept, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The server's name for it.
    pub id: String,
    /// A queue of its own.
    pub target: String,
    /// How many ready messages that takes.
    pub room: Option<i64>,
    /// What was kept when it was given.
    pub listed: BTreeMap<u64, Id>,
    /// Ready messages of its queue before anybody worked on them.
    pub waited: i64,
    /// How it ended, and how many messages it says that it published.
    pub state: String,
    pub moved: u64,
    /// What came: place, message, attempt.
    pub copies: Vec<(i64, Id, i64)>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Book {
    pub sent: BTreeMap<Id, Sent>,
    pub events: Vec<Event>,
    pub refused: u64,
    /// How often a publisher was stopped.
    pub stops: u64,
    /// For each life, how many ready messages stood in the queue that stops its publishers: at
    /// first, and at most.
    pub lengths: Vec<(i64, i64)>,
    /// Settled messages that were kept, by place, as each life began and when all was over.
    pub kept: Vec<BTreeMap<u64, Id>>,
    pub replays: Vec<Replay>,
    /// What no client should ever see.
    pub damaged: Vec<String>,
    sessions: u32,
}

/// The book, for all threads.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Book>);

impl Ledger {
    pub fn open(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close(self) -> Book {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Adds a line; answers where it stands.
    pub fn note(&mut self, event: Event) -> usize {
        self.events.push(event);
        self.events.len() - 1
    }

    pub fn session(&mut self) -> u32 {
        self.sessions += 1;
        self.sessions
    }

    pub fn confirm(&mut self, id: Id) {
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.confirmed = true;
        }
    }
}
