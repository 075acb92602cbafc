//! A publisher to the queue that stops its publishers; and whoever watches how long that queue is.
//!
//! Keeps: the ledger knows of each message before the server can; a publisher that is told to stop
//! does so, or writes on until its socket takes no more, as it was drawn.
//! Never: consumes; what makes room are the other clients.
//! In: `tests/history.rs`, a thread of each for each life of the server, and in the final drain.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{Bare, Client, Heard};
use super::ledger::{Ledger, Sent};
use super::queues::{NARROW, QUEUES};
use crate::crash::message::Id;
use crate::crash::peer::Peer;
use crate::crash::topology;

/// A publisher, over its connections.
#[derive(Debug)]
pub struct Flow<'a> {
    pub writer: u16,
    /// Stops when it is told to; else TCP stops it.
    pub obeys: bool,
    pub ledger: &'a Ledger,
    pub stop: &'a AtomicBool,
    /// Messages that it may publish now.
    pub most: u64,
    /// Number of its next message.
    pub next: &'a mut u64,
}

impl Flow<'_> {
    /// Publishes all of it; returns when that is confirmed.
    ///
    /// # Errors
    /// The server is gone.
    pub fn run(&mut self, address: SocketAddr) -> Result<()> {
        let mut client = Bare::connect_told(address)?;
        let (end, mut unconfirmed, mut stopped) = (*self.next + self.most, 0_u64, false);
        while (*self.next < end || unconfirmed > 0) && !self.stop.load(Ordering::Relaxed) {
            let rests = *self.next == end || self.obeys && stopped;
            if !rests {
                self.publish(&mut client)?;
                unconfirmed += 1;
            }
            let mut within = match rests {
                true => REST,
                false => Duration::ZERO,
            };
            while let Some(heard) = client.hear(within)? {
                within = Duration::ZERO;
                let mut book = self.ledger.open();
                match heard {
                    Heard::Confirmed(id) => {
                        book.confirm(id);
                        unconfirmed -= 1;
                    }
                    Heard::Refused(_) => {
                        book.refused += 1;
                        unconfirmed -= 1;
                    }
                    Heard::Stopped(now) => {
                        stopped = now;
                        book.stops += u64::from(now);
                    }
                    other => book.damaged.push(format!("a publisher heard {other:?}")),
                }
            }
        }
        Ok(())
    }

    fn publish(&mut self, client: &mut Bare) -> Result<()> {
        let id = Id {
            writer: self.writer,
            number: *self.next,
        };
        *self.next += 1;
        let sent = Sent {
            queue: NARROW,
            key: None,
            name: None,
            limit: QUEUES[NARROW].limit,
            own_limit: false,
            delay_ms: None,
            at: Instant::now(),
            confirmed: false,
        };
        self.ledger.open().sent.insert(id, sent.clone());
        client.publish(id, &sent)
    }
}

/// Notes how long the queue is, again and again.
///
/// # Errors
/// The server is gone.
pub fn watch(address: SocketAddr, ledger: &Ledger, stop: &AtomicBool) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    let mut length = || topology::ready(&mut peer, QUEUES[NARROW].name);
    let first = length()?;
    ledger.open().lengths.push((first, first));
    while !stop.load(Ordering::Relaxed) {
        let now = length()?;
        if let Some((_, most)) = ledger.open().lengths.last_mut() {
            *most = now.max(*most);
        }
        std::thread::sleep(BETWEEN);
    }
    Ok(())
}

/// Between two looks for an answer.
const REST: Duration = Duration::from_millis(20);
/// Between two looks at the queue.
const BETWEEN: Duration = Duration::from_millis(10);
