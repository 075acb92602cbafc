//! Consumes, checks and acknowledges; one thread drives many connections.
//!
//! Keeps: each delivery is counted, checked for its number and size, and acknowledged as asked.
//! Never: blocks on a write: acks wait in a buffer while the broker does not read.
//! In: `run`. Latency is receive time minus the time in the stamp, taken once per read.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

use crate::control::{Control, Phase, sharpen_timers, thread_cpu_ns, timespec};
use crate::latency::Latency;
use crate::link::{Inbox, Link, closed_by_broker};
use crate::producer::would_wait;
use crate::sequence::{Checker, Place, Tally};
use crate::wire::{self, Fields, Malformed, method};

const IDLE_WAIT: Duration = Duration::from_millis(5);
const FLUSH_WITHIN: Duration = Duration::from_secs(30);

/// How deliveries are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The broker forgets a message when it sends it.
    Auto,
    Each,
    /// One `multiple` ack per so many deliveries.
    Every(u32),
    /// The same, but only once their publisher has its confirms for all of them: then none can
    /// have been settled before it was stored.
    Confirmed(u32),
}

/// Which messages fail at first, and when the broker should bring them back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failing {
    pub(crate) one_in: u64,
    pub(crate) back_after: Duration,
}

/// One consumer.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) queue: &'a str,
    /// Index of the queue among those that get each message.
    pub(crate) stream: usize,
    pub(crate) ack: Ack,
    /// 0 is unlimited.
    pub(crate) prefetch: u16,
    pub(crate) body_bytes: usize,
    /// Latency is then how late those that failed come back.
    pub(crate) failing: Option<Failing>,
}

/// What a thread of consumers saw.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) tally: Tally,
    pub(crate) latency: Latency,
    pub(crate) cpu_ns: u64,
}

/// A connected consumer; deliveries may already be on their way.
#[derive(Debug)]
pub(crate) struct Consumer {
    socket: TcpStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    written: usize,
    ack: Ack,
    body_bytes: u64,
    place: Place,
    expect: Expect,
    unacked: u32,
    last_tag: u64,
    /// The newest that did not fail: a `multiple` ack must not name one that is settled.
    last_good: u64,
    failures: Failures,
    /// The message that is being read fails.
    fails: bool,
    /// Its number.
    seq: u64,
    /// Acks that wait for confirms: below which number, and the delivery tag.
    held: VecDeque<(u64, u64)>,
}

/// What failed and has not come back.
#[derive(Debug)]
struct Failures {
    asked: Option<Failing>,
    /// When each is due again.
    due_ns: HashMap<u64, u64>,
}

impl Failures {
    /// True for a message that is to fail now; of one that comes back it is noted how late that is.
    #[inline]
    fn take(&mut self, shared: &mut Shared<'_>, turn: &Turn, seq: u64) -> bool {
        let Some(asked) = self.asked.filter(|asked| seq.is_multiple_of(asked.one_in)) else {
            return false;
        };
        let Some(due_ns) = self.due_ns.remove(&seq) else {
            let again = turn.now_ns + asked.back_after.as_nanos() as u64;
            self.due_ns.insert(seq, again);
            return true;
        };
        if turn.measuring {
            shared.latency.record(turn.now_ns.saturating_sub(due_ns));
        }
        false
    }
}

/// Which frame of a content comes next.
#[derive(Debug, Clone, Copy)]
enum Expect {
    Method,
    Header,
    /// So many bytes of the body are still to come.
    Body {
        missing: u64,
        first: bool,
    },
}

/// What all consumers of a thread share.
struct Shared<'a> {
    control: &'a Control,
    checker: Checker,
    latency: Latency,
}

/// What one read brought.
struct Turn {
    now_ns: u64,
    measuring: bool,
    deliveries: u64,
}

impl Consumer {
    pub(crate) fn connect(address: SocketAddr, plan: &Plan<'_>, index: usize) -> Result<Self> {
        let mut link = Link::open(address)?;
        link.consume(plan.queue, plan.prefetch, plan.ack == Ack::Auto)?;
        let (socket, inbox) = link.into_parts()?;
        Ok(Self {
            socket,
            inbox,
            outbox: Vec::new(),
            written: 0,
            ack: plan.ack,
            body_bytes: plan.body_bytes as u64,
            place: Place {
                stream: plan.stream,
                consumer: index,
                redelivered: false,
            },
            expect: Expect::Method,
            unacked: 0,
            last_tag: 0,
            last_good: 0,
            failures: Failures {
                asked: plan.failing,
                due_ns: HashMap::new(),
            },
            fails: false,
            seq: 0,
            held: VecDeque::new(),
        })
    }

    /// Takes what was read; then one more `read` until the socket is empty.
    fn turn(&mut self, shared: &mut Shared<'_>) -> Result<()> {
        self.take_frames(shared)?;
        match self.inbox.fill(&self.socket) {
            Ok(_) => self.take_frames(shared)?,
            Err(error) if would_wait(&error) => {}
            Err(error) => return Err(error).context("read from the broker"),
        }
        self.ack_confirmed(shared.control.confirmed_below());
        self.flush()
    }

    fn take_frames(&mut self, shared: &mut Shared<'_>) -> Result<()> {
        let mut turn = Turn {
            now_ns: shared.control.now_ns(),
            measuring: shared.control.phase() == Phase::Measure,
            deliveries: 0,
        };
        while let Some((frame, span)) = wire::scan(self.inbox.unread())? {
            match (frame.kind, self.expect) {
                (wire::METHOD, Expect::Method) => {
                    let mut fields = Fields(frame.payload);
                    match fields.method()? {
                        method::DELIVER => {
                            fields.short()?;
                            self.last_tag = fields.u64()?;
                            self.place.redelivered = fields.u8()? & 1 == 1;
                            self.expect = Expect::Header;
                        }
                        method::CLOSE => return Err(closed_by_broker("connection", fields)),
                        method::CHANNEL_CLOSE => return Err(closed_by_broker("channel", fields)),
                        id => bail!("a consumer got the unexpected method {id:?}"),
                    }
                }
                (wire::HEADER, Expect::Header) => {
                    let missing = Fields(frame.payload.get(4..).unwrap_or_default()).u64()?;
                    self.expect = Expect::Body {
                        missing,
                        first: true,
                    };
                    if missing != self.body_bytes {
                        shared.checker.note_damaged();
                        if missing == 0 {
                            self.settle(&mut turn);
                        }
                    }
                }
                (wire::BODY, Expect::Body { missing, first }) => {
                    if first {
                        let seq = Fields(frame.payload).u64()?;
                        self.seq = seq;
                        self.fails = self.failures.take(shared, &turn, seq);
                    }
                    if first && !self.fails {
                        let latency = &mut shared.latency;
                        note(
                            &mut shared.checker,
                            self.failures.asked.is_none().then_some(latency),
                            self.place,
                            &turn,
                            frame.payload,
                        )?;
                    }
                    let missing = missing
                        .checked_sub(frame.payload.len() as u64)
                        .ok_or(Malformed("body longer than its header says"))?;
                    self.expect = Expect::Body {
                        missing,
                        first: false,
                    };
                    if missing == 0 {
                        self.settle(&mut turn);
                    }
                }
                (wire::HEARTBEAT, _) => {}
                _ => return Err(Malformed("frame out of place").into()),
            }
            self.inbox.consume(span);
        }
        if turn.deliveries > 0 {
            shared.control.add_consumed(turn.deliveries);
        }
        Ok(())
    }

    #[inline]
    fn settle(&mut self, turn: &mut Turn) {
        self.expect = Expect::Method;
        if self.fails {
            self.fails = false;
            return wire::push_nack(&mut self.outbox, 1, self.last_tag);
        }
        self.last_good = self.last_tag;
        turn.deliveries += 1;
        match self.ack {
            Ack::Auto => {}
            Ack::Each => wire::push_ack(&mut self.outbox, 1, self.last_tag, false),
            Ack::Every(count) => {
                self.unacked += 1;
                if self.unacked == count {
                    self.ack_rest();
                }
            }
            Ack::Confirmed(count) => {
                self.unacked += 1;
                if self.unacked == count {
                    self.unacked = 0;
                    self.held.push_back((self.seq + 1, self.last_good));
                }
            }
        }
    }

    /// The newest ack that waited for no more than these confirms; it stands for older ones too.
    fn ack_confirmed(&mut self, confirmed_below: u64) {
        let mut newest = None;
        while let Some((_, tag)) = self.held.pop_front_if(|(seq, _)| *seq <= confirmed_below) {
            newest = Some(tag);
        }
        if let Some(tag) = newest {
            wire::push_ack(&mut self.outbox, 1, tag, true);
        }
    }

    fn ack_rest(&mut self) {
        if self.unacked > 0 {
            wire::push_ack(&mut self.outbox, 1, self.last_good, true);
            self.unacked = 0;
        }
    }

    fn flush(&mut self) -> Result<()> {
        while self.written < self.outbox.len() {
            match (&self.socket).write(&self.outbox[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if would_wait(&error) => return Ok(()),
                Err(error) => return Err(error).context("write acks to the broker"),
            }
        }
        self.outbox.clear();
        self.written = 0;
        Ok(())
    }

    fn waits_to_write(&self) -> bool {
        self.written < self.outbox.len()
    }
}

#[inline]
fn note(
    checker: &mut Checker,
    latency: Option<&mut Latency>,
    place: Place,
    turn: &Turn,
    body: &[u8],
) -> Result<(), Malformed> {
    let mut fields = Fields(body);
    let (seq, mark) = (fields.u64()?, fields.u64()?);
    let (producer, at_ns) = wire::unmark(mark);
    checker.note(place, producer, seq);
    if let Some(latency) = latency.filter(|_| turn.measuring) {
        latency.record(turn.now_ns.saturating_sub(at_ns));
    }
    Ok(())
}

/// Runs consumers until `Done`, then acks the rest and closes them in order.
pub(crate) fn drive(
    mut consumers: Vec<Consumer>,
    checker: Checker,
    control: &Control,
) -> Result<Summary> {
    sharpen_timers();
    let cpu_before = thread_cpu_ns();
    let mut shared = Shared {
        control,
        checker,
        latency: Latency::new(),
    };
    let mut ready = vec![true; consumers.len()];
    while control.phase() < Phase::Done {
        for (consumer, _) in consumers
            .iter_mut()
            .zip(&ready)
            .filter(|(_, ready)| **ready)
        {
            consumer.turn(&mut shared)?;
        }
        wait(&consumers, &mut ready)?;
    }
    let cpu_ns = thread_cpu_ns() - cpu_before;
    for consumer in consumers {
        finish(consumer)?;
    }
    Ok(Summary {
        tally: shared.checker.tally(),
        latency: shared.latency,
        cpu_ns,
    })
}

fn wait(consumers: &[Consumer], ready: &mut [bool]) -> Result<()> {
    let mut polled: Vec<PollFd<'_>> = consumers
        .iter()
        .map(|consumer| {
            let out = if consumer.waits_to_write() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            PollFd::new(&consumer.socket, PollFlags::IN | out)
        })
        .collect();
    match poll(&mut polled, Some(&timespec(IDLE_WAIT))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    for ((ready, entry), consumer) in ready.iter_mut().zip(&polled).zip(consumers) {
        *ready = !entry.revents().is_empty() || !consumer.held.is_empty();
    }
    Ok(())
}

fn finish(mut consumer: Consumer) -> Result<()> {
    // By now all is confirmed.
    consumer.ack_confirmed(u64::MAX);
    consumer.ack_rest();
    consumer.socket.set_nonblocking(false)?;
    consumer.socket.set_write_timeout(Some(FLUSH_WITHIN))?;
    consumer.flush()?;
    Link::from_parts(consumer.socket, consumer.inbox)?.close()
}
