//! What happened, as the test process saw it.
//!
//! Keeps: every message sent, every confirm, every delivery in the order of its arrival.
//! Never: judges; `checker` does.
//! In: `load` writes, one log per thread and cycle, merged here.

use std::sync::atomic::{AtomicU64, Ordering};

use super::message::Id;

/// What the consumer did with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: the server died first.
    Held,
    Acked,
    Requeued,
    /// Given up: dropped, or dead-lettered where the queue says so.
    Rejected,
}

/// One delivery of one message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Position in the order of all arrivals.
    pub at: u64,
    /// Which queue, as its position in the test's list.
    pub queue: u8,
    /// One consumer's life.
    pub session: u32,
    pub id: Id,
    pub redelivered: bool,
    pub fate: Fate,
    /// From a node that stood still while another took the store over: no promise holds for what
    /// was in its hands, but that it was sent, and that the new owner delivers what is not acked.
    pub late: bool,
}

/// One writer's messages; the position is the number.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// A bit for each queue that the message goes to; 0 when it was not sent.
    pub routes: Vec<u8>,
    pub confirmed: Vec<bool>,
}

/// All logs together.
#[derive(Debug, Default)]
pub struct Ledger {
    pub writers: Vec<Sent>,
    pub deliveries: Vec<Delivery>,
    /// Publishes that the server refused.
    pub nacked: u64,
    /// Mandatory messages that came back: a binding or a queue was missing.
    pub returned: u64,
    /// Bodies that nobody wrote.
    pub damaged: Vec<String>,
}

impl Ledger {
    pub fn new(writers: usize) -> Self {
        Self {
            writers: vec![Sent::default(); writers],
            ..Self::default()
        }
    }

    pub fn is_confirmed(&self, id: Id) -> bool {
        let writer = self.writers.get(usize::from(id.writer));
        let flags = writer.map_or(&[][..], |sent| &sent.confirmed);
        usize::try_from(id.number)
            .ok()
            .and_then(|at| flags.get(at))
            .is_some_and(|yes| *yes)
    }

    pub fn sent(&self) -> usize {
        let sent = |writer: &Sent| writer.routes.iter().filter(|route| **route != 0).count();
        self.writers.iter().map(sent).sum()
    }

    pub fn confirmed(&self) -> usize {
        let confirmed = |writer: &Sent| writer.confirmed.iter().filter(|yes| **yes).count();
        self.writers.iter().map(confirmed).sum()
    }
}

impl Sent {
    /// The next message; returns its number.
    pub fn send(&mut self, route: u8) -> u64 {
        self.routes.push(route);
        self.confirmed.push(false);
        self.routes.len() as u64 - 1
    }

    pub fn confirm(&mut self, number: u64) {
        if let Some(flag) = usize::try_from(number)
            .ok()
            .and_then(|at| self.confirmed.get_mut(at))
        {
            *flag = true;
        }
    }

    /// Where a message goes; `None` when it was never sent.
    pub fn route(&self, number: u64) -> Option<u8> {
        let route = usize::try_from(number)
            .ok()
            .and_then(|at| self.routes.get(at));
        route.copied().filter(|route| *route != 0)
    }
}

/// Gives each arrival its position. A message that one consumer puts back reaches the next one
/// later than the first, so that positions tell which delivery came before which.
#[derive(Debug, Default)]
pub struct Order(AtomicU64);

impl Order {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub fn so_far(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
