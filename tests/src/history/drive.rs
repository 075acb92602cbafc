//! What a client does, drawn from a seed: publishes, works well and badly, leaves, comes back.
//!
//! Keeps: the ledger knows of everything before the server can.
//! Never: fails the test by itself; an end of the socket is the end of the session.
//! In: `tests/history.rs`, a thread for each client and life of the server.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{Client, Heard};
use super::ledger::{Event, Ledger, Sent, Word};
use super::queues::{KEY, Keys, NARROW, QUEUES};
use crate::crash::message::Id;
use crate::crash::random::Random;

/// One client, over its connections.
#[derive(Debug)]
pub struct Driver<'a> {
    pub writer: u16,
    pub random: Random,
    pub ledger: &'a Ledger,
    pub stop: &'a AtomicBool,
    /// Messages that it may publish in all.
    pub most: u64,
    /// Number of its next message.
    pub next: &'a mut u64,
}

/// A delivery that is not settled yet.
struct Held {
    tag: u64,
    line: usize,
    word: Word,
    /// Steps until the word is said; `None`: never.
    after: Option<u64>,
}

impl Driver<'_> {
    /// Works until the server is gone or it is told to stop.
    pub fn run(&mut self, mut connect: impl FnMut() -> Result<Box<dyn Client>>) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(mut client) = connect() else { return };
            let session = self.ledger.open().session();
            let peacefully = match self.work(client.as_mut(), session) {
                // The server is gone, and with it all sessions.
                Err(_) => return,
                Ok(()) if client.can_be_lost() && self.random.chance(50) => false,
                Ok(()) => client.close().is_ok(),
            };
            // Before its socket ends, so that nothing that follows from it stands earlier.
            let left = Event::Left {
                session,
                peacefully,
            };
            self.ledger.open().note(left);
        }
    }

    fn work(&mut self, client: &mut dyn Client, session: u32) -> Result<()> {
        for queue in 0..QUEUES.len() {
            if self.random.chance(80) {
                client.consume(queue, false)?;
            }
        }
        let mut held: VecDeque<Held> = VecDeque::new();
        let steps = self.random.between(40, 900);
        for _ in 0..steps {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if self.random.chance(25) {
                for _ in 0..self.random.between(1, 5) {
                    self.publish(client, session)?;
                }
            }
            let mut within = Duration::from_millis(3);
            while let Some(heard) = client.hear(within)? {
                held.extend(self.note(heard, session));
                within = Duration::ZERO;
            }
            self.settle(client, &mut held)?;
        }
        Ok(())
    }

    fn publish(&mut self, client: &mut dyn Client, session: u32) -> Result<()> {
        if *self.next >= self.most {
            return Ok(());
        }
        let id = Id {
            writer: self.writer,
            number: *self.next,
        };
        *self.next += 1;
        let sent = self.draw(id, session);
        self.ledger.open().sent.insert(id, sent.clone());
        client.publish(id, &sent)
    }

    fn draw(&mut self, id: Id, session: u32) -> Sent {
        let random = &mut self.random;
        // The last one has a publisher of its own.
        let at = usize::try_from(random.draw() % NARROW as u64).unwrap_or(0);
        let queue = &QUEUES[at];
        // Order is that of one channel: keys are its own.
        let key = queue.keys.filter(|_| random.chance(90));
        let key = key.map(|_| format!("{KEY} {} of {session}", random.draw() % 2));
        // A name is drawn again soon, by either client.
        let name = queue.once && random.chance(90);
        let name = match (queue.keeps, name) {
            (true, _) => Some(id.name()),
            (_, true) => Some(format!("name {}", *self.next / 8 * 4 + random.draw() % 6)),
            _ => None,
        };
        // Where order is kept for good, a delay would be another order.
        let delays = queue.keys != Some(Keys::Block) && random.chance(10);
        let delay_ms = delays.then(|| u32::try_from(random.between(30, 150)).unwrap_or(0));
        let own_limit = random.chance(15);
        let limit = match own_limit {
            true => (random.draw() % 4).cast_signed(),
            false => queue.limit,
        };
        Sent {
            queue: at,
            key,
            name,
            limit,
            own_limit,
            delay_ms,
            at: Instant::now(),
            confirmed: false,
        }
    }

    fn note(&mut self, heard: Heard, session: u32) -> Option<Held> {
        let mut book = self.ledger.open();
        let (tag, delivery) = match heard {
            Heard::Confirmed(id) => {
                book.confirm(id);
                return None;
            }
            Heard::Refused(_) => {
                book.refused += 1;
                return None;
            }
            Heard::Damaged(why) => {
                book.damaged.push(why);
                return None;
            }
            Heard::Stopped(_) => return None,
            Heard::Delivered { tag, delivery } => (tag, delivery),
        };
        let line = book.note(Event::Delivered(session, delivery));
        drop(book);
        let word = match self.random.draw() % 100 {
            0..62 => Word::Ack,
            62..84 => Word::Fail,
            _ => Word::Return,
        };
        let after = match self.random.draw() % 100 {
            0..70 => Some(0),
            70..92 => Some(self.random.between(1, 40)),
            _ => None,
        };
        Some(Held {
            tag,
            line,
            word,
            after,
        })
    }

    fn settle(&mut self, client: &mut dyn Client, held: &mut VecDeque<Held>) -> Result<()> {
        for _ in 0..held.len() {
            let Some(mut one) = held.pop_front() else {
                break;
            };
            match one.after {
                Some(0) => {
                    self.ledger.open().note(Event::Said(one.line, one.word));
                    client.settle(one.tag, one.word)?;
                }
                after => {
                    one.after = after.map(|steps| steps - 1);
                    held.push_back(one);
                }
            }
        }
        Ok(())
    }
}

/// Acks everything that is left, dead letters, too, until `is_done` says so or the time is over.
///
/// # Errors
/// The server is gone.
pub fn drain(
    client: &mut dyn Client,
    ledger: &Ledger,
    mut dead_is_there: impl FnMut(usize) -> Result<bool>,
    mut is_done: impl FnMut() -> Result<bool>,
    limit: Duration,
) -> Result<bool> {
    let session = ledger.open().session();
    let mut consumed = [false; QUEUES.len()];
    for queue in 0..QUEUES.len() {
        client.consume(queue, false)?;
    }
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        for (queue, consumed) in consumed.iter_mut().enumerate() {
            if !*consumed && dead_is_there(queue)? {
                client.consume(queue, true)?;
                *consumed = true;
            }
        }
        let mut quiet = true;
        while let Some(heard) = client.hear(QUIET)? {
            let Heard::Delivered { tag, delivery } = heard else {
                continue;
            };
            quiet = false;
            let mut book = ledger.open();
            let line = book.note(Event::Delivered(session, delivery));
            book.note(Event::Said(line, Word::Ack));
            drop(book);
            client.settle(tag, Word::Ack)?;
        }
        if quiet && is_done()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Nothing comes for so long: what waits for its time waits less.
const QUIET: Duration = Duration::from_millis(300);
