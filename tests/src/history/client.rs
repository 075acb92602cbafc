//! A client of a history: publishes with confirms, consumes, settles. Ours is on the bare wire.
//!
//! Keeps: which confirm is of which message.
//! In: `drive`; `tests/history.rs` has the other one.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ledger::{Delivery, Sent, Word};
use super::queues::{KEY, QUEUES};
use crate::crash::message::{self, Id};
use crate::crash::peer::Peer;
use crate::wire::assembly::Received;
use crate::wire::content::{Content, position};
use crate::wire::method::Method;
use crate::wire::value::{Table, Value, entry};

/// What a client is told.
#[derive(Debug)]
pub enum Heard {
    Confirmed(Id),
    Refused(Id),
    Delivered {
        tag: u64,
        delivery: Delivery,
    },
    /// The server reads no more from who publishes, or reads again.
    Stopped(bool),
    Damaged(String),
}

/// A connection with one channel in confirm mode. Whoever drops it does not say goodbye.
pub trait Client {
    /// # Errors
    /// The server is gone.
    fn publish(&mut self, id: Id, sent: &Sent) -> Result<()>;

    /// Consumes from a queue, or from its dead-letter queue.
    ///
    /// # Errors
    /// The server is gone.
    fn consume(&mut self, queue: usize, dead: bool) -> Result<()>;

    /// # Errors
    /// The server is gone.
    fn settle(&mut self, tag: u64, word: Word) -> Result<()>;

    /// The next thing that comes, if one comes in time.
    ///
    /// # Errors
    /// The server is gone, or closes the channel or the connection.
    fn hear(&mut self, within: Duration) -> Result<Option<Heard>>;

    /// Says goodbye, and waits for the answer.
    ///
    /// # Errors
    /// The server is gone.
    fn close(&mut self) -> Result<()>;

    /// True when dropping it ends its socket at once.
    fn can_be_lost(&self) -> bool;
}

/// Headers of a message, for any client.
pub fn headers(sent: &Sent) -> Vec<(&'static str, HeaderValue)> {
    let mut out = Vec::new();
    if let Some(key) = &sent.key {
        out.push((KEY, HeaderValue::Text(key.clone())));
    }
    if let Some(ms) = sent.delay_ms {
        out.push(("x-delay", HeaderValue::Number(ms.into())));
    }
    if QUEUES[sent.queue].room.is_some() {
        out.push(("filling", HeaderValue::Text("-".repeat(FILLING))));
    }
    if sent.own_limit {
        out.push(("x-retry-limit", HeaderValue::Number(sent.limit)));
    }
    out
}

/// A header's value.
#[derive(Clone, Debug)]
pub enum HeaderValue {
    Text(String),
    Number(i64),
}

/// Our own client.
#[derive(Debug)]
pub struct Bare {
    peer: Peer,
    next: u64,
    unconfirmed: BTreeMap<u64, Id>,
    heard: VecDeque<Heard>,
}

impl Bare {
    /// Connects and asks for confirms.
    ///
    /// # Errors
    /// The server refuses or is gone.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::on(Peer::connect(address)?)
    }

    /// The same, and is told when it is stopped.
    ///
    /// # Errors
    /// The server refuses or is gone.
    pub fn connect_told(address: SocketAddr) -> Result<Self> {
        Self::on(Peer::connect_told(address)?)
    }

    fn on(mut peer: Peer) -> Result<Self> {
        peer.call(1, &Method::named("confirm.select")?, "confirm.select-ok")?;
        let qos = Method::named("basic.qos")?.with("prefetch-count", Value::int(PREFETCH))?;
        peer.call(1, &qos, "basic.qos-ok")?;
        Ok(Self {
            peer,
            next: 1,
            unconfirmed: BTreeMap::new(),
            heard: VecDeque::new(),
        })
    }

    /// Declares all queues.
    ///
    /// # Errors
    /// The server refuses or is gone.
    pub fn declare(&mut self) -> Result<()> {
        for queue in QUEUES {
            let declare = Method::named("queue.declare")?
                .with("queue", Value::str(queue.name))?
                .with("durable", Value::Bool(true))?
                .with("arguments", Value::Table(queue.arguments()))?;
            self.peer.call(1, &declare, "queue.declare-ok")?;
        }
        Ok(())
    }

    /// How many ready messages a queue has; `None`: there is no such queue.
    ///
    /// # Errors
    /// The server is gone.
    pub fn ready(address: SocketAddr, queue: &str) -> Result<Option<i64>> {
        // A refusal closes the channel, hence a connection for each question.
        let mut peer = Peer::connect(address)?;
        match crate::crash::topology::ready(&mut peer, queue) {
            Ok(count) => Ok(Some(count)),
            Err(fault) if fault.to_string().contains("NOT_FOUND") => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn take(&mut self, received: &Received) -> Result<()> {
        let method = &received.method;
        let tag = method.int("delivery-tag").cast_unsigned();
        match method.spec.name {
            "basic.ack" | "basic.nack" => {
                let first = match method.int("multiple") {
                    1 => 0,
                    _ => tag,
                };
                let all = self.unconfirmed.range(first..=tag);
                for tag in all.map(|(tag, _)| *tag).collect::<Vec<_>>() {
                    let id = self.unconfirmed.remove(&tag).context("it was there")?;
                    self.heard.push_back(match method.spec.name {
                        "basic.ack" => Heard::Confirmed(id),
                        _ => Heard::Refused(id),
                    });
                }
            }
            "basic.deliver" => {
                let content = received.content.as_ref().context("no content")?;
                let redelivered = method.int("redelivered") == 1;
                let headers = match content.get("headers") {
                    Some(Value::Table(headers)) => headers.clone(),
                    _ => Vec::new(),
                };
                let from = method.text("consumer-tag");
                let read = delivery(&from, &content.body, redelivered, &headers);
                self.heard.push_back(match read {
                    Ok(delivery) => Heard::Delivered { tag, delivery },
                    Err(fault) => Heard::Damaged(format!("{fault:#}")),
                });
            }
            "connection.blocked" => self.heard.push_back(Heard::Stopped(true)),
            "connection.unblocked" => self.heard.push_back(Heard::Stopped(false)),
            other => bail!("{other} came"),
        }
        Ok(())
    }
}

/// A delivery, from what any client sees of it. The consumer's tag says where it comes from.
///
/// # Errors
/// It is none of ours.
pub fn delivery(tag: &str, body: &[u8], redelivered: bool, headers: &Table) -> Result<Delivery> {
    let (queue, dead) = source(tag).with_context(|| format!("a consumer '{tag}'"))?;
    let number = |name| entry(headers, name).and_then(Value::as_int);
    let error = entry(headers, "x-last-error").and_then(Value::as_str);
    let error = error.map(|text| String::from_utf8_lossy(text).into_owned());
    let record = match entry(headers, "x-attempts") {
        Some(Value::Array(list)) => list.iter().filter_map(attempt_of).collect(),
        _ => Vec::new(),
    };
    Ok(Delivery {
        queue,
        dead,
        id: message::read(body)?,
        redelivered,
        attempt: number("x-attempt").unwrap_or(1),
        most: number("x-max-attempts"),
        error,
        record,
        at: Instant::now(),
    })
}

fn attempt_of(entry_of: &Value) -> Option<i64> {
    match entry_of {
        Value::Table(table) => entry(table, "attempt")?.as_int(),
        _ => None,
    }
}

/// The tag of a consumer.
pub fn tag(queue: usize, dead: bool) -> String {
    let name = QUEUES[queue].name;
    match dead {
        true => QUEUES[queue].dead(),
        false => name.to_owned(),
    }
}

fn source(tag: &str) -> Option<(usize, bool)> {
    let queue = |name: &str| QUEUES.iter().position(|queue| queue.name == name);
    match tag.strip_suffix(".dlq") {
        Some(name) => Some((queue(name)?, true)),
        None => Some((queue(tag)?, false)),
    }
}

impl Client for Bare {
    fn publish(&mut self, id: Id, sent: &Sent) -> Result<()> {
        let queue = Value::str(QUEUES[sent.queue].name);
        let publish = Method::named("basic.publish")?.with("routing-key", queue)?;
        let mut content = Content {
            body: message::body(id),
            ..Content::default()
        };
        let mut put = |name: &str, value| -> Result<()> {
            content.properties[position(name).context("a property")?] = Some(value);
            Ok(())
        };
        put("delivery-mode", Value::int(2))?;
        if let Some(name) = &sent.name {
            put("message-id", Value::str(name))?;
        }
        let headers = headers(sent).into_iter().map(|(name, value)| {
            let value = match value {
                HeaderValue::Text(text) => Value::str(&text),
                HeaderValue::Number(number) => Value::int(number),
            };
            (name.to_owned(), value)
        });
        put("headers", Value::Table(headers.collect()))?;
        self.unconfirmed.insert(self.next, id);
        self.next += 1;
        self.peer.put(1, &publish, Some(&content))?;
        self.peer.flush()
    }

    fn consume(&mut self, queue: usize, dead: bool) -> Result<()> {
        let tag = Value::str(&tag(queue, dead));
        let consume = Method::named("basic.consume")?
            .with("queue", tag.clone())?
            .with("consumer-tag", tag)?;
        self.peer.call(1, &consume, "basic.consume-ok")?;
        Ok(())
    }

    fn settle(&mut self, tag: u64, word: Word) -> Result<()> {
        let tag = Value::Int(b'l', tag.cast_signed());
        let method = match word {
            Word::Ack => Method::named("basic.ack")?,
            Word::Fail => Method::named("basic.reject")?,
            Word::Return => Method::named("basic.nack")?.with("requeue", Value::Bool(true))?,
        };
        self.peer.put(1, &method.with("delivery-tag", tag)?, None)?;
        self.peer.flush()
    }

    fn hear(&mut self, within: Duration) -> Result<Option<Heard>> {
        if self.heard.is_empty()
            && let Some(received) = self.peer.next(within)?
        {
            self.take(&received)?;
        }
        Ok(self.heard.pop_front())
    }

    fn close(&mut self) -> Result<()> {
        let close = Method::named("connection.close")?;
        self.peer.call(0, &close, "connection.close-ok")?;
        Ok(())
    }

    fn can_be_lost(&self) -> bool {
        true
    }
}

/// What each message to a queue without room is filled with: what is under way is few messages.
pub const FILLING: usize = 4_096;
/// Unsettled deliveries of one consumer.
pub const PREFETCH: i64 = 8;
