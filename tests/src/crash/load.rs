//! Writers with confirms and consumers that ack, requeue and reject at random.
//!
//! Keeps: a message is in the log before its first byte is written, a delivery before its ack.
//! Never: fails the test by itself; a thread ends with its socket and hands back its log.
//! In: `run`, a set of threads per cycle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::ledger::{Delivery, Fate, Order, Sent};
use super::message::{self, Id};
use super::peer::Peer;
use super::random::Random;
use super::topology::{FANOUT, FANOUT_ROUTE, RULES, TARGETS};
use crate::wire::assembly::Received;
use crate::wire::content::Content;
use crate::wire::method::Method;
use crate::wire::value::Value;

/// What the threads of one cycle share.
#[derive(Debug, Default)]
pub struct Shared {
    pub stop: AtomicBool,
    /// Nobody waits for anything any more: the server does not answer.
    pub abandon: AtomicBool,
    pub order: Arc<Order>,
    /// Copies sent so far; with the arrivals it tells the backlog.
    pub sent: Arc<AtomicU64>,
}

impl Shared {
    /// For another set of threads at the same time, that stops by itself.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            order: self.order.clone(),
            sent: self.sent.clone(),
            ..Self::default()
        }
    }

    /// # Errors
    /// The load was given up.
    fn look(&self) -> Result<()> {
        if self.abandon.load(Ordering::Relaxed) {
            bail!("given up");
        }
        Ok(())
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn backlog(&self) -> u64 {
        self.sent
            .load(Ordering::Relaxed)
            .saturating_sub(self.order.so_far())
    }
}

/// What a writer leaves beside its log of messages.
#[derive(Debug, Default)]
pub struct Wrote {
    pub nacked: u64,
    pub returned: u64,
    pub end: End,
}

/// Why a thread ended: nothing when it was told to.
pub type End = Option<String>;

/// Publishes until the server is gone or it is told to stop and all is confirmed.
pub fn write(address: SocketAddr, writer: u16, log: &mut Sent, shared: &Shared) -> Wrote {
    let mut wrote = Wrote::default();
    let ended = try_to_write(address, writer, log, shared, &mut wrote);
    wrote.end = ended.err().map(|fault| fault.to_string());
    wrote
}

fn try_to_write(
    address: SocketAddr,
    writer: u16,
    log: &mut Sent,
    shared: &Shared,
    wrote: &mut Wrote,
) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    peer.call(1, &Method::named("confirm.select")?, "confirm.select-ok")?;
    let mut outstanding: BTreeMap<u64, u64> = BTreeMap::new();
    let mut tag = 0;
    loop {
        shared.look()?;
        let room = outstanding.len() < WINDOW && shared.backlog() < BACKLOG_MAX;
        let room = room && !shared.stops();
        if room {
            tag += 1;
            outstanding.insert(tag, publish(&mut peer, writer, log, shared)?);
            if !outstanding.len().is_multiple_of(8) {
                continue;
            }
            peer.flush()?;
        } else if shared.stops() && outstanding.is_empty() {
            return Ok(());
        }
        let wait = if room {
            Duration::ZERO
        } else {
            Duration::from_millis(20)
        };
        let mut received = if room {
            peer.ready()?
        } else {
            peer.next(wait)?
        };
        while let Some(confirm) = received {
            settle(&confirm, &mut outstanding, log, wrote);
            received = peer.ready()?;
        }
    }
}

/// Puts one message into the peer's output and into the log; returns its number.
fn publish(peer: &mut Peer, writer: u16, log: &mut Sent, shared: &Shared) -> Result<u64> {
    let next = log.routes.len();
    let fanned = next % 10 == 9;
    let queue = (next / 3 + usize::from(writer)) % TARGETS;
    let number = log.send(if fanned { FANOUT_ROUTE } else { 1 << queue });
    let (exchange, key) = if fanned {
        (FANOUT, "")
    } else {
        ("", RULES[queue].name)
    };
    let publish = Method::named("basic.publish")?
        .with("exchange", Value::str(exchange))?
        .with("routing-key", Value::str(key))?
        .with("mandatory", Value::Bool(true))?;
    let mut content = Content {
        body: message::body(Id { writer, number }),
        ..Content::default()
    };
    content.properties[3] = Some(Value::int(2));
    peer.put(1, &publish, Some(&content))?;
    shared
        .sent
        .fetch_add(if fanned { 2 } else { 1 }, Ordering::Relaxed);
    Ok(number)
}

fn settle(
    received: &Received,
    outstanding: &mut BTreeMap<u64, u64>,
    log: &mut Sent,
    wrote: &mut Wrote,
) {
    let name = received.method.spec.name;
    if name == "basic.return" {
        wrote.returned += 1;
        return;
    }
    let tag = received.method.int("delivery-tag").cast_unsigned();
    let first = if received.method.int("multiple") == 1 {
        0
    } else {
        tag
    };
    let settled: Vec<u64> = outstanding
        .range(first..=tag)
        .map(|(tag, _)| *tag)
        .collect();
    for tag in settled {
        let number = outstanding.remove(&tag);
        match (name, number) {
            ("basic.ack", Some(number)) => log.confirm(number),
            _ => wrote.nacked += 1,
        }
    }
}

/// How a consumer settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Acks, requeues and rejects.
    AtRandom,
    /// Acks all, to drain.
    AckAll,
}

/// One consumer: where, what, how.
#[derive(Clone, Copy, Debug)]
pub struct Consumer {
    pub address: SocketAddr,
    pub queue: u8,
    pub session: u32,
    pub manner: Manner,
    pub seed: u64,
}

/// What a consumer saw.
#[derive(Debug, Default)]
pub struct Consumed {
    pub deliveries: Vec<Delivery>,
    pub damaged: Vec<String>,
    pub end: End,
}

impl Consumer {
    /// Consumes until the server is gone, or it is told to stop and holds nothing.
    pub fn run(self, shared: &Shared) -> Consumed {
        let mut consumed = Consumed::default();
        let ended = self.try_to_run(shared, &mut consumed);
        consumed.end = ended.err().map(|fault| fault.to_string());
        consumed
    }

    fn try_to_run(self, shared: &Shared, consumed: &mut Consumed) -> Result<()> {
        let mut random = Random::new(self.seed);
        let mut peer = Peer::connect(self.address)?;
        let qos = Method::named("basic.qos")?.with("prefetch-count", Value::int(PREFETCH))?;
        peer.call(1, &qos, "basic.qos-ok")?;
        let name = Value::str(RULES[usize::from(self.queue)].name);
        let consume = Method::named("basic.consume")?.with("queue", name)?;
        peer.call(1, &consume, "basic.consume-ok")?;
        // Delivery tags that are not settled yet, and where they stand in the log.
        let mut held: Vec<(i64, usize)> = Vec::new();
        let mut enough = 1;
        loop {
            shared.look()?;
            let received = peer.next(Duration::from_millis(5))?;
            let idle = received.is_none();
            if let Some(received) = received {
                held.extend(self.note(&received, shared, consumed)?);
            }
            if !held.is_empty() && (idle || held.len() >= enough) {
                enough = usize::try_from(random.between(1, 20))?;
                self.settle(&mut peer, &mut held, &mut random, consumed)?;
            }
            if idle && held.is_empty() && shared.stops() {
                return peer.flush();
            }
        }
    }

    fn note(
        self,
        received: &Received,
        shared: &Shared,
        consumed: &mut Consumed,
    ) -> Result<Option<(i64, usize)>> {
        let content = received.content.as_ref().context("not a delivery")?;
        let tag = received.method.int("delivery-tag");
        let id = match message::read(&content.body) {
            Ok(id) => id,
            Err(fault) => {
                consumed
                    .damaged
                    .push(format!("queue {}: {fault}", self.queue));
                return Ok(None);
            }
        };
        consumed.deliveries.push(Delivery {
            at: shared.order.next(),
            queue: self.queue,
            session: self.session,
            id,
            redelivered: received.method.int("redelivered") == 1,
            fate: Fate::Held,
            late: false,
        });
        Ok(Some((tag, consumed.deliveries.len() - 1)))
    }

    /// Settles all that is held. The log says so before the bytes leave.
    fn settle(
        self,
        peer: &mut Peer,
        held: &mut Vec<(i64, usize)>,
        random: &mut Random,
        consumed: &mut Consumed,
    ) -> Result<()> {
        while !held.is_empty() {
            let multiple = self.manner == Manner::AckAll || random.chance(25);
            if multiple {
                let last = held.len() - 1;
                put(peer, "basic.ack", held[last].0, &["multiple"])?;
                for (_, at) in held.drain(..) {
                    consumed.deliveries[at].fate = Fate::Acked;
                }
                break;
            }
            let at = usize::try_from(random.draw() % held.len() as u64)?;
            let (tag, at) = held.swap_remove(at);
            let (fate, name, flags): (_, _, &[&str]) = match random.draw() % 100 {
                0..80 => (Fate::Acked, "basic.ack", &[]),
                80..87 => (Fate::Requeued, "basic.reject", &["requeue"]),
                87..93 => (Fate::Requeued, "basic.nack", &["requeue"]),
                _ => (Fate::Rejected, "basic.reject", &[]),
            };
            consumed.deliveries[at].fate = fate;
            put(peer, name, tag, flags)?;
            held.sort_unstable();
        }
        peer.flush()
    }
}

fn put(peer: &mut Peer, name: &str, tag: i64, flags: &[&str]) -> Result<()> {
    let mut method = Method::named(name)?.with("delivery-tag", Value::Int(b'l', tag))?;
    for flag in flags {
        method.set(flag, Value::Bool(true))?;
    }
    peer.put(1, &method, None)
}

/// Unconfirmed messages of one writer.
const WINDOW: usize = 100;

/// Writers wait beyond this, so that the final drain ends.
const BACKLOG_MAX: u64 = 20_000;

const PREFETCH: i64 = 50;
