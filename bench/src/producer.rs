//! Publishes as fast as the broker lets it, or on a timetable; one thread drives many connections.
//!
//! Keeps: what was stamped is sent whole; never more unconfirmed messages than the window; sockets
//! are non-blocking and replies are read between writes, so that a broker that stops reading until
//! its confirms are read cannot deadlock with us.
//! Never: skips a due message: on a timetable (open loop) a late message carries the time at which
//! it should have been sent, so that a stall of the broker shows in each message it delayed.
//! In: `run`.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

use crate::confirms::Window;
use crate::control::{Control, Phase, sharpen_timers, thread_cpu_ns, timespec};
use crate::latency::Latency;
use crate::link::{Inbox, Link, closed_by_broker};
use crate::wire::{self, Block, Fields, Publication, method};

/// Bytes stamped and written at once.
const BLOCK_BYTES: usize = 64 * 1024;
const CONFIRMS_WITHIN: Duration = Duration::from_secs(60);
const LEAD_WAIT: Duration = Duration::from_micros(500);
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// When messages are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// As fast as possible, but at most so many messages ahead of the consumers.
    Flat { lead_max: u64 },
    /// One message each interval, whatever the broker does.
    Every { interval_ns: u64 },
    /// So many messages, as fast as possible.
    Count { messages: u64 },
}

/// What the header of a message says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    None,
    /// One of so many keys, in turn.
    Key {
        keys: u64,
    },
    /// Each its own.
    Unique,
    /// When the message is due, ms since 1970: so many messages spread evenly over a span.
    Due {
        /// The run's begin, ns since 1970.
        epoch_ns: u64,
        /// From the run's begin to the first.
        first_ms: u64,
        span_ms: u64,
        messages: u64,
    },
}

impl Number {
    fn of(self, seq: u64) -> u64 {
        match self {
            Self::None => 0,
            Self::Key { keys } => seq % keys,
            Self::Unique => seq,
            Self::Due {
                epoch_ns,
                first_ms,
                span_ms,
                messages,
            } => epoch_ns / 1_000_000 + first_ms + span_ms * seq / messages,
        }
    }
}

/// One producer.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) id: u8,
    pub(crate) publication: Publication<'a>,
    /// Confirms on, with so many messages in flight.
    pub(crate) window: Option<usize>,
    pub(crate) pace: Pace,
    /// Deliveries that each message leads to; used for the lead only.
    pub(crate) copies: u64,
    pub(crate) number: Number,
}

/// What a thread of producers did.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) published: u64,
    pub(crate) nacked: u64,
    pub(crate) confirm: Latency,
    pub(crate) cpu_ns: u64,
}

/// A connected producer.
#[derive(Debug)]
pub(crate) struct Producer {
    stream: TcpStream,
    inbox: Inbox,
    id: u8,
    block: Block,
    /// The part of the block that is stamped and not written yet.
    pending: Range<usize>,
    window: Option<Window>,
    pace: Pace,
    copies: u64,
    number: Number,
    next_seq: u64,
    nacked: u64,
    began_ns: Option<u64>,
}

impl Producer {
    pub(crate) fn connect(address: SocketAddr, plan: &Plan<'_>) -> Result<Self> {
        let mut link = Link::open(address)?;
        if plan.window.is_some() {
            link.select_confirms()?;
        }
        let (stream, inbox) = link.into_parts()?;
        Ok(Self {
            stream,
            inbox,
            id: plan.id,
            block: Block::new(&plan.publication, BLOCK_BYTES),
            pending: 0..0,
            window: plan.window.map(Window::new),
            pace: plan.pace,
            copies: plan.copies,
            number: plan.number,
            next_seq: 0,
            nacked: 0,
            began_ns: None,
        })
    }

    /// Reads, stamps and writes once; says what it waits for now.
    fn turn(&mut self, control: &Control, confirm: &mut Latency) -> Result<Need> {
        self.read_replies(control, confirm)?;
        let mut need = Need::Nothing;
        if self.pending.is_empty() {
            need = self.refill(control);
        }
        if !self.pending.is_empty() {
            need = self.write()?;
        }
        Ok(need)
    }

    fn refill(&mut self, control: &Control) -> Need {
        if control.phase() >= Phase::Drain {
            return self.finished();
        }
        let now = control.now_ns();
        let began = *self.began_ns.get_or_insert(now);
        let room = self.window.as_ref().map_or(usize::MAX, Window::room);
        if room == 0 {
            return Need::Reply;
        }
        let (due, otherwise) = match self.pace {
            Pace::Flat { lead_max } => {
                let lead = (control.published() * self.copies).saturating_sub(control.consumed());
                (lead_max.saturating_sub(lead), Need::Wait(LEAD_WAIT))
            }
            Pace::Count { messages } => (messages - self.next_seq, self.finished()),
            Pace::Every { interval_ns } => {
                let passed = (now - began) / interval_ns + 1;
                let next_at = began + self.next_seq * interval_ns;
                let wait = Duration::from_nanos(next_at.saturating_sub(now));
                (passed - self.next_seq, Need::Wait(wait))
            }
        };
        let count = due.min(room as u64).min(self.block.capacity() as u64) as usize;
        if count == 0 {
            return otherwise;
        }
        self.stamp(count, now, began);
        control.add_published(count as u64);
        Need::Nothing
    }

    fn stamp(&mut self, count: usize, now: u64, began: u64) {
        for index in 0..count {
            let at = match self.pace {
                Pace::Every { interval_ns } => began + self.next_seq * interval_ns,
                Pace::Flat { .. } | Pace::Count { .. } => now,
            };
            let number = self.number.of(self.next_seq);
            let due = match self.number {
                Number::Due { epoch_ns, .. } => number * 1_000_000 - epoch_ns,
                Number::None | Number::Key { .. } | Number::Unique => at,
            };
            self.block
                .stamp(index, self.next_seq, wire::mark(self.id, due));
            self.block.number(index, number.cast_signed());
            if let Some(window) = &mut self.window {
                window.publish(at);
            }
            self.next_seq += 1;
        }
        self.pending = 0..self.block.span(count);
    }

    fn write(&mut self) -> Result<Need> {
        match (&self.stream).write(&self.block.bytes()[self.pending.clone()]) {
            Ok(count) => {
                self.pending.start += count;
                Ok(if self.pending.is_empty() {
                    Need::Nothing
                } else {
                    Need::Room
                })
            }
            Err(error) if would_wait(&error) => Ok(Need::Room),
            Err(error) => {
                // The broker's last words say more than the broken pipe.
                let mut last_words = Latency::new();
                self.read_replies(&Control::new(), &mut last_words)?;
                Err(error).context("write to the broker")
            }
        }
    }

    fn read_replies(&mut self, control: &Control, confirm: &mut Latency) -> Result<()> {
        loop {
            match self.inbox.fill(&self.stream) {
                Ok(_) => self.take_replies(control, confirm)?,
                Err(error) if would_wait(&error) => return Ok(()),
                Err(error) => return Err(error).context("read from the broker"),
            }
        }
    }

    fn take_replies(&mut self, control: &Control, confirm: &mut Latency) -> Result<()> {
        let now = control.now_ns();
        let measuring = control.phase() == Phase::Measure;
        let mut settled = 0;
        while let Some((frame, span)) = wire::scan(self.inbox.unread())? {
            if frame.kind == wire::METHOD {
                let mut fields = Fields(frame.payload);
                let id = fields.method()?;
                match (id, &mut self.window) {
                    (method::ACK | method::NACK, Some(window)) => {
                        let (tag, multiple) = (fields.u64()?, fields.u8()? & 1 == 1);
                        let latency = measuring.then_some(&mut *confirm);
                        let Ok(count) = window.confirm(tag, multiple, now, latency) else {
                            bail!("confirm of tag {tag}, which is not outstanding");
                        };
                        settled += count;
                        self.nacked += if id == method::NACK { count } else { 0 };
                    }
                    (method::CLOSE, _) => return Err(closed_by_broker("connection", fields)),
                    (method::CHANNEL_CLOSE, _) => return Err(closed_by_broker("channel", fields)),
                    (method::BLOCKED | method::UNBLOCKED, _) => {}
                    (id, _) => bail!("a publisher got the unexpected method {id:?}"),
                }
            }
            self.inbox.consume(span);
        }
        if let Some(window) = &self.window {
            control.set_confirmed_below(window.confirmed_below());
        }
        control.add_confirmed(settled);
        Ok(())
    }

    fn finished(&self) -> Need {
        match &self.window {
            Some(window) if window.unconfirmed() > 0 => Need::Reply,
            _ => Need::Rest,
        }
    }
}

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Call it again at once.
    Nothing,
    /// Room in the socket.
    Room,
    /// A confirm.
    Reply,
    /// Time; a reply may come before.
    Wait(Duration),
    /// All is sent and confirmed.
    Rest,
}

/// Runs producers until each has sent what it should (`Drain` ends open-ended ones) and all is
/// confirmed, then closes them in order.
pub(crate) fn drive(mut producers: Vec<Producer>, control: &Control) -> Result<Summary> {
    sharpen_timers();
    let cpu_before = thread_cpu_ns();
    let mut confirm = Latency::new();
    let mut needs = vec![Need::Nothing; producers.len()];
    let mut drain_ends_ns = None;
    while needs.iter().any(|need| *need != Need::Rest) {
        for (producer, need) in producers.iter_mut().zip(&mut needs) {
            if *need == Need::Nothing {
                *need = producer.turn(control, &mut confirm)?;
            }
        }
        if !needs.contains(&Need::Nothing) {
            wait(&producers, &mut needs)?;
        }
        if control.phase() >= Phase::Drain {
            let now = control.now_ns();
            let end = *drain_ends_ns.get_or_insert(now + CONFIRMS_WITHIN.as_nanos() as u64);
            if now > end {
                bail!(
                    "confirms are still missing {} s after the end",
                    CONFIRMS_WITHIN.as_secs()
                );
            }
        }
    }
    let cpu_ns = thread_cpu_ns() - cpu_before;
    let published = producers.iter().map(|producer| producer.next_seq).sum();
    let nacked = producers.iter().map(|producer| producer.nacked).sum();
    for producer in producers {
        Link::from_parts(producer.stream, producer.inbox)?.close()?;
    }
    Ok(Summary {
        published,
        nacked,
        confirm,
        cpu_ns,
    })
}

fn wait(producers: &[Producer], needs: &mut [Need]) -> Result<()> {
    let mut limit = IDLE_WAIT;
    let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(producers.len());
    for (producer, need) in producers.iter().zip(needs.iter()) {
        let flags = match need {
            Need::Room => PollFlags::IN | PollFlags::OUT,
            _ => PollFlags::IN,
        };
        if let Need::Wait(span) = need {
            limit = limit.min(*span);
        }
        polled.push(PollFd::new(&producer.stream, flags));
    }
    let ready = match poll(&mut polled, Some(&timespec(limit))) {
        Ok(ready) => ready,
        Err(rustix::io::Errno::INTR) => 0,
        Err(error) => return Err(error.into()),
    };
    for (need, entry) in needs.iter_mut().zip(&polled) {
        let woken = !entry.revents().is_empty();
        // After a time-out all look again: the phase may have moved.
        if (woken || ready == 0 || matches!(need, Need::Wait(_))) && *need != Need::Rest {
            *need = Need::Nothing;
        }
    }
    Ok(())
}

pub(crate) fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
