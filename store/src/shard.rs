//! The queues of a node behind one lock: inputs in batches, outputs into sessions' outboxes.
//!
//! Keeps: whatever one call does enters the same commit, so moves between queues are one step.
//! Never: waits, or touches SQL; `log::writer` takes what is pending, `gateway::session` calls the
//! verbs, the timer task calls `tick`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use amqp::content::{Address, Block, Entry};
use amqp::field::Table;
use amqp::properties::{self, Properties};
use foldhash::fast::RandomState;
use tokio::sync::{Notify, oneshot};

use crate::Options;
use crate::access::directory::Directory;
use crate::alarms::{Alarms, Cause, Watched};
use crate::clock;
use crate::error::{Error, Noun, Result};
use crate::log::batch::{
    Batch, HeadRow, JobChange, KeptRow, RetainedRow, SegmentRow, SettledRow, WaitingRow,
};
use crate::log::segment;
use crate::model::*;
use crate::planted::{Planted, planted};
use crate::policy::Policies;
use crate::queue::consumers::{ChannelKey, Consumer, Consumers};
use crate::queue::growth::Growth;
use crate::queue::{Log, Piece, ReadBack, Row, Take};
use crate::rules::attempt::{self, Failure, Fault};
use crate::rules::dead_letter::{self, Attempts, Reason};
use crate::rules::lease::Durations;
use crate::rules::rate::Rate;
use crate::rules::retry;
use crate::rules::unique::Unique;
use crate::rules::window::Window;
use crate::topology::Vhost;
use crate::topology::arguments::{Arguments, Work};

mod commit;
mod credit;
#[cfg(test)]
mod credit_tests;
mod dead;
mod delay;
#[cfg(test)]
mod delay_tests;
mod deliver;
#[cfg(test)]
mod deliver_tests;
#[cfg(test)]
mod history;
#[cfg(test)]
mod history_tests;
pub(crate) mod lease;
#[cfg(test)]
mod lease_tests;
mod lifecycle;
pub(crate) mod merge;
mod pressure;
mod publish;
pub mod receive;
pub(crate) mod replay;
mod reply;
mod route;
mod settle;
pub(crate) mod signals;
pub(crate) mod sweep;
mod taken;
pub(crate) mod time;
mod trace;
mod window;

use time::later;

pub use pressure::Pace;
pub use route::{Run, Unroutable};

/// Deliveries that may lie in a session's outbox, bytes: a slow reader costs no more.
const OUTBOX_BYTES: u64 = 1 << 20;
/// Messages handed to one of several consumers in one turn, at most.
const TURN_MAX: u32 = 64;
/// Ready bytes in a queue with busy consumers above which publishers are slowed.
const SLOW_BYTES: u64 = 8 << 20;
/// Publishes waiting for their confirm above which publishers are slowed.
const TICKETS_MAX: usize = 100_000;
/// Contents of waiting messages are read so long before they are due, µs: a commit that is under
/// way may hold a reader up.
const READ_AHEAD: Micros = 250_000;
/// And so many at a time: a burst costs no more memory at once.
const READ_AHEAD_MAX: usize = 4_096;
/// Contents out of a queue's rows that no consumer has taken, bytes: they cannot leave memory, so
/// what is due beyond stays in its row until there is a taker (I8).
const READ_BACK_BYTES: u64 = 16 << 20;
/// Contents that others wait for and that are read beyond, at a time.
const URGENT_MAX: usize = 64;
/// Publisher and consumer address of direct reply-to.
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Replies to deferred calls are captured here: the job's id follows.
pub const REPLY_TO_JOB: &str = "amq.rabbitmq.reply-to.job.";

/// What a session must write to its client.
pub enum Out {
    Deliver {
        channel: u16,
        tag: Arc<[u8]>,
        first: u64,
        piece: Piece,
        redelivered: bool,
    },
    /// Confirm numbers that are safe now.
    Confirm {
        channel: u16,
        first: u64,
        count: u64,
    },
    /// A confirm number that was refused.
    Refuse {
        channel: u16,
        number: u64,
    },
    /// The server cancels a consumer.
    Cancel {
        channel: u16,
        tag: Arc<[u8]>,
    },
    /// A delivery was not acknowledged in so many ms: the channel must be closed.
    TimedOut {
        channel: u16,
        ms: u64,
    },
    Blocked(String),
    Unblocked,
    /// An operator ends the connection.
    Close {
        code: u16,
        text: String,
    },
}

/// Counters since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub published: u64,
    pub confirmed: u64,
    pub returned: u64,
    pub unroutable: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub acked: u64,
    pub retried: u64,
    pub expired: u64,
    pub deduplicated: u64,
    pub dead_lettered: BTreeMap<&'static str, u64>,
    pub commits: u64,
    /// Deliveries that came back because their lease was over.
    pub leases_ended: u64,
    /// Settlements of such deliveries, ignored.
    pub late: u64,
    pub quarantined: u64,
    pub jobs_submitted: u64,
    pub jobs_finished: BTreeMap<&'static str, u64>,
    pub connections_opened: u64,
    pub connections_closed: u64,
}

pub(crate) struct Unacked {
    first: u64,
    count: u32,
    queue: QueueId,
    seq: Seq,
    /// Empty for basic.get.
    consumer: Arc<[u8]>,
    redelivered: bool,
    /// Content that is not in the log.
    own: Option<Piece>,
    /// End of the lease on a work queue, of the consumer's patience elsewhere.
    deadline: Option<Micros>,
    /// How long that was, ms.
    patience_ms: u64,
    /// When it was handed out, where that is measured; 0 elsewhere.
    started: Micros,
    /// When it was handed out, to the second.
    handed_at: Micros,
    /// It returns at its deadline, whatever the queue's rules.
    leased: bool,
}

#[derive(Default)]
pub(crate) struct Channel {
    next_tag: u64,
    unacked: VecDeque<Unacked>,
    pub(crate) consumers: HashMap<Arc<[u8]>, QueueId, RandomState>,
    pub(crate) prefetch: u32,
    /// Shared by all consumers of the channel; 0 = no limit.
    pub(crate) window: u32,
    /// Unacked deliveries to consumers, all together.
    in_window: u32,
    /// The earliest end of a lease, or none.
    next_lease: Option<Micros>,
    /// Deliveries whose lease is over and which their consumer may still settle, in vain.
    late: lease::Late,
    pub(crate) reply_consumer: Option<(Arc<[u8]>, Arc<str>)>,
}

pub(crate) struct Session {
    pub(crate) outbox: Vec<Out>,
    outbox_bytes: u64,
    notify: Arc<Notify>,
    pub(crate) channels: HashMap<u16, Channel, RandomState>,
    stalled: Vec<QueueId>,
    pub(crate) exclusive: Vec<QueueId>,
    /// User and vhost, once the connection is open.
    pub(crate) login: Option<(Arc<str>, Arc<str>)>,
    /// What a trace, and an operator, calls it.
    pub(crate) connection: Arc<str>,
}

impl Session {
    /// Deliveries that are neither acked nor given back.
    pub(crate) fn unacked(&self) -> u64 {
        let runs = self.channels.values().flat_map(|channel| &channel.unacked);
        runs.map(|run| u64::from(run.count)).sum()
    }
}

pub(crate) struct Queue {
    pub(crate) spec: QueueSpec,
    pub(crate) arguments: Arguments,
    pub(crate) log: Log,
    pub(crate) consumers: Consumers,
    pub(crate) owner: Option<usize>,
    pub(crate) had_consumer: bool,
    loading: Option<SegmentId>,
    dirty: bool,
    /// The mark of what may have been handed out that the newest cut took along; the end of time
    /// asks the next one for all there is.
    saved_handed: Seq,
    /// The head that the newest commit recorded.
    saved_head: Seq,
    idle_since: Micros,
    /// Rows of a queue that is not durable may be in the store.
    spilled: bool,
    /// In `Shard::timed`.
    watched: bool,
    /// Deliveries that failed, and whose content must be read before it is clear what follows.
    undecided: HashMap<Seq, Failing, RandomState>,
    /// The exchange whose delayed messages it keeps: it has no name for clients, and no consumer.
    delays_for: Option<Arc<str>>,
    /// The exchange whose keys it keeps: it has neither a name for clients nor a message.
    keys_for: Option<Arc<str>>,
    /// It takes a message once.
    unique: Option<Box<Unique>>,
    /// What its messages take, where leases go by that.
    durations: Option<Box<Durations>>,
    /// It takes a key once within a time.
    window: Option<Box<Window>>,
    /// Duplicates since the start.
    pub(crate) deduplicated: u64,
    rate: Rate,
    /// The rate allowed no more: time lets it go on.
    throttled: bool,
    /// It is full, and publishers wait for room in it.
    stops_publishers: bool,
    /// Failed attempts that the messages' headers do not have yet, as they came back at once.
    failures: HashMap<Seq, Vec<Failure>, RandomState>,
    growth: Growth,
}

struct Ticket {
    channel: ChannelKey,
    first: u64,
    count: u32,
    outstanding: u32,
    done: bool,
}

/// What the writer takes for one commit.
#[derive(Default)]
pub(crate) struct Cut {
    pub(crate) batch: Batch,
    /// Segments to encode outside the lock.
    pub(crate) saving: Vec<Saving>,
    pub(crate) tickets_below: u64,
    pub(crate) waiters: Vec<oneshot::Sender<()>>,
    /// Somebody waits for the disk.
    pub(crate) sync: bool,
    /// Queue, mark of what may have been handed out, head.
    heads: Vec<(QueueId, Seq, Seq)>,
}

pub(crate) struct Saving {
    pub(crate) id: SegmentId,
    pub(crate) queue: QueueId,
    /// Of the chunk: settled bits count from here, whatever is left out.
    pub(crate) first: Seq,
    pub(crate) pieces: Vec<Piece>,
    /// Seqs not to write: settled before the cut.
    pub(crate) settled: Vec<Seq>,
    /// A restart forgets them.
    pub(crate) transient: bool,
    /// No chunk of the log: segments that are kept become one.
    pub(crate) retained: bool,
    /// What was written.
    pub(crate) row: Row,
}

/// A message on its way to disk that nobody may see before it is there.
pub(crate) struct Held {
    queue: QueueId,
    /// Its place; none in a queue that keeps nothing on disk.
    seq: Option<Seq>,
    piece: Piece,
}

pub struct Shard {
    pub(crate) options: Options,
    pub(crate) vhosts: BTreeMap<Arc<str>, Vhost>,
    pub(crate) directory: Directory,
    pub(crate) policies: Policies,
    pub(crate) queues: HashMap<QueueId, Queue, RandomState>,
    pub(crate) sessions: HashMap<usize, Session, RandomState>,
    next_session: usize,
    pub(crate) last_queue: u64,
    pub(crate) last_segment: u64,
    pub(crate) pending: Batch,
    dirty: Vec<QueueId>,
    tickets: VecDeque<Ticket>,
    ticket_base: u64,
    waiters: Vec<oneshot::Sender<()>>,
    /// Nothing is written any more.
    closed: bool,
    pub(crate) wanted: bool,
    replies: HashMap<Arc<str>, (ChannelKey, Arc<[u8]>), RandomState>,
    pub(crate) loads: Vec<(QueueId, SegmentId)>,
    pub(crate) due_reads: Vec<(QueueId, Vec<Seq>)>,
    pub(crate) schedules: BTreeMap<String, ScheduleRow>,
    pub(crate) redrives: BTreeMap<Arc<str>, RedriveRow>,
    /// Told when a body was read for whoever walks through a queue.
    pub(crate) read_back: Arc<Notify>,
    pub(crate) job_waiters: HashMap<JobId, Vec<oneshot::Sender<()>>, RandomState>,
    receivers: receive::Receivers,
    /// Jobs that somebody works on.
    running: HashMap<JobId, lease::Running, RandomState>,
    pub counters: Counters,
    alarms: Alarms,
    pub watched: Watched,
    memory: pressure::Memory,
    credit: credit::Credit,
    pub(crate) writer: Arc<Notify>,
    pub(crate) loader: Arc<Notify>,
    chance: u64,
    slow: bool,
    /// Queues that time may change.
    timed: Vec<QueueId>,
    /// The earliest end of a lease on any channel.
    next_lease: Option<Micros>,
    pub(crate) timer: Arc<Notify>,
    /// Queues whose next message waits for a commit that says it may have been handed out.
    fenced: Vec<QueueId>,
    /// Segments that the loader is to read for a merge.
    pub(crate) merge: Option<merge::Merge>,
    /// A merge is under way.
    merging: bool,
    /// Some vhost is traced.
    tracing: bool,
    /// Of some waiting message there may be several rows for the next commit.
    rewritten: bool,
    /// There is, or was, a work queue.
    pub(crate) works: bool,
    /// There is, or was, a queue with a deduplication window.
    windows: bool,
    /// There is, or was, a queue that stops its publishers.
    blocks: bool,
    /// CC and BCC of the message that is being published, while it is.
    copies: Vec<Vec<u8>>,
    /// Of the run that is being published.
    taken: Option<taken::Taken>,
    /// What is published now passed an exchange whose keys go to the disk, and so it does before
    /// anybody sees it or hears of it.
    disk_first: bool,
    /// The time of the newest second, for what need not be told more exactly.
    second: Micros,
    /// When depths were sampled last.
    sampled_at: Micros,
}

impl Shard {
    pub(crate) fn new(options: Options, writer: Arc<Notify>, loader: Arc<Notify>) -> Self {
        Self {
            options,
            vhosts: BTreeMap::new(),
            directory: Directory::default(),
            policies: Policies::default(),
            queues: HashMap::default(),
            sessions: HashMap::default(),
            next_session: 1,
            last_queue: 0,
            last_segment: 0,
            pending: Batch::default(),
            dirty: Vec::new(),
            tickets: VecDeque::new(),
            ticket_base: 1,
            waiters: Vec::new(),
            closed: false,
            wanted: false,
            replies: HashMap::default(),
            loads: Vec::new(),
            due_reads: Vec::new(),
            schedules: BTreeMap::new(),
            redrives: BTreeMap::new(),
            read_back: Arc::new(Notify::new()),
            job_waiters: HashMap::default(),
            receivers: receive::Receivers::default(),
            running: HashMap::default(),
            counters: Counters::default(),
            alarms: Alarms::default(),
            watched: Watched::default(),
            memory: pressure::Memory::default(),
            credit: credit::Credit::default(),
            writer,
            loader,
            chance: 0x9E37_79B9_7F4A_7C15,
            slow: false,
            timed: Vec::new(),
            next_lease: None,
            timer: Arc::new(Notify::new()),
            fenced: Vec::new(),
            merge: None,
            merging: false,
            tracing: false,
            rewritten: false,
            works: false,
            windows: false,
            blocks: false,
            copies: Vec::new(),
            taken: None,
            disk_first: false,
            second: clock::now(),
            sampled_at: 0,
        }
    }

    /// A new connection; `notify` is told when its outbox has something.
    pub fn open_session(&mut self, notify: Arc<Notify>) -> usize {
        let id = self.next_session;
        self.next_session += 1;
        self.counters.connections_opened += 1;
        let session = Session {
            outbox: Vec::new(),
            outbox_bytes: 0,
            notify,
            channels: HashMap::default(),
            stalled: Vec::new(),
            exclusive: Vec::new(),
            login: None,
            connection: Arc::default(),
        };
        self.sessions.insert(id, session);
        id
    }

    /// The connection is gone: consumers leave, unacked messages return, exclusive queues go.
    pub fn close_session(&mut self, id: usize, lost: bool) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let mut channels: Vec<u16> = session.channels.keys().copied().collect();
        channels.sort_unstable();
        // What one channel gives back must not go to another that is lost as well.
        let consumers: Vec<(QueueId, u16, Arc<[u8]>)> = channels
            .iter()
            .flat_map(|id| {
                let consumers = session.channels[id].consumers.iter();
                consumers.map(|(tag, queue)| (*queue, *id, tag.clone()))
            })
            .collect();
        for (queue, channel, tag) in consumers {
            if planted(Planted::LostHandsOn) {
                break;
            }
            let key = ChannelKey {
                session: id,
                channel,
            };
            self.remove_consumer(queue, key, &tag);
        }
        for channel in channels {
            self.close_channel(
                ChannelKey {
                    session: id,
                    channel,
                },
                lost,
            );
        }
        let exclusive = self
            .sessions
            .remove(&id)
            .map(|s| s.exclusive)
            .unwrap_or_default();
        self.forget_publisher(id);
        for queue in exclusive {
            self.drop_queue(queue);
        }
        self.counters.connections_closed += 1;
    }

    pub fn open_channel(&mut self, key: ChannelKey) {
        if let Some(session) = self.sessions.get_mut(&key.session) {
            session.channels.insert(
                key.channel,
                Channel {
                    next_tag: 1,
                    ..Channel::default()
                },
            );
        }
    }

    /// Consumers leave, unacked messages return; `lost` when the client did not say goodbye.
    pub fn close_channel(&mut self, key: ChannelKey, lost: bool) {
        let Some(session) = self.sessions.get_mut(&key.session) else {
            return;
        };
        let Some(channel) = session.channels.remove(&key.channel) else {
            return;
        };
        if let Some((_, name)) = &channel.reply_consumer {
            self.replies.remove(name);
        }
        // A channel opened under this number later must never hear of these.
        for ticket in self.tickets.iter_mut().filter(|t| t.channel == key) {
            ticket.done = true;
        }
        for (tag, queue) in &channel.consumers {
            self.remove_consumer(*queue, key, tag);
        }
        let mut touched = Vec::new();
        for unacked in channel.unacked {
            touched.push(unacked.queue);
            let why = match lost {
                true if !planted(Planted::LostUncounted) => Return::Lost,
                false if planted(Planted::LeftCounted) => Return::Lost,
                _ => Return::Left,
            };
            self.give_back(&unacked, unacked.seq, unacked.count, why);
        }
        touched.extend(channel.consumers.values());
        touched.sort_unstable();
        touched.dedup();
        for queue in touched {
            self.pump(queue);
        }
    }

    pub(crate) fn channel(&mut self, key: ChannelKey) -> Option<&mut Channel> {
        self.sessions
            .get_mut(&key.session)?
            .channels
            .get_mut(&key.channel)
    }

    /// Takes what the session must write; consumers that waited for room go on.
    pub fn take_outbox(&mut self, id: usize) -> Vec<Out> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Vec::new();
        };
        let out = std::mem::take(&mut session.outbox);
        session.outbox_bytes = 0;
        let stalled = std::mem::take(&mut session.stalled);
        for queue in stalled {
            self.pump(queue);
        }
        out
    }

    /// True while some delivery to this connection is neither acked nor given back.
    pub fn has_deliveries(&self, id: usize) -> bool {
        let session = self.sessions.get(&id);
        session.is_some_and(|s| {
            s.channels
                .values()
                .any(|channel| !channel.unacked.is_empty())
        })
    }

    pub(crate) fn send(&mut self, id: usize, out: Out) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.outbox.push(out);
            session.notify.notify_one();
        }
    }
}

/// Why an unacked message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    /// Its consumer gave it back (basic.nack).
    Given,
    /// Its consumer asked for it anew (basic.recover).
    Recovered,
    /// Its consumer failed with it (basic.reject).
    Rejected,
    /// Its consumer was lost.
    Lost,
    /// Its lease ended.
    Late,
    /// Its consumer left in peace.
    Left,
}

/// How a delivery failed.
#[derive(Clone, Debug)]
enum Failing {
    Returned(Return),
    /// With a reason, in the worker's own words.
    Failed(Fault, Option<String>),
}

/// What a client says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ack,
    Nack { requeue: bool },
    Reject { requeue: bool },
}

/// What basic.get found.
pub enum Got {
    Message {
        tag: u64,
        piece: Piece,
        redelivered: bool,
        remaining: u32,
    },
    Empty,
    /// The message is being fetched from disk: ask again after the next commit or load.
    Later,
}

impl Unacked {
    /// No message of a queue.
    fn of(queue: QueueId) -> Self {
        Self {
            first: 0,
            count: 0,
            queue,
            seq: 0,
            consumer: Arc::default(),
            redelivered: false,
            own: None,
            deadline: None,
            patience_ms: 0,
            started: 0,
            handed_at: 0,
            leased: false,
        }
    }

    fn empty(&self) -> Self {
        Self {
            consumer: self.consumer.clone(),
            redelivered: self.redelivered,
            ..Self::of(self.queue)
        }
    }

    fn split_front(&mut self, count: u32) -> Self {
        let front = Self {
            first: self.first,
            count,
            seq: self.seq,
            own: self.own.clone(),
            deadline: self.deadline,
            patience_ms: self.patience_ms,
            started: self.started,
            handed_at: self.handed_at,
            leased: self.leased,
            ..self.empty()
        };
        self.first += u64::from(count);
        self.seq += u64::from(count);
        self.count -= count;
        front
    }
}

fn job_of(block: &Block, index: usize) -> Option<JobId> {
    let address = properties::reply_to(block.properties(index))?;
    if block.entries[index].flags & Entry::HAS_REPLY_TO == 0 {
        return None;
    }
    JobId::parse(
        std::str::from_utf8(address)
            .ok()?
            .strip_prefix(REPLY_TO_JOB)?,
    )
}

/// The message with the number of its returns in a header, as RabbitMQ's quorum queues tell it.
fn counted(piece: &Piece, returns: u32) -> Piece {
    let index = piece.index(0);
    let Ok(mut properties) = Properties::parse(piece.block.properties(index)) else {
        return piece.clone();
    };
    let headers = properties.headers.get_or_insert_with(Table::default);
    // RabbitMQ 4.3 tells apart how often a message failed and how often it was handed out; here
    // both count every return, as the first did before.
    for name in ["x-acquired-count", "x-delivery-count"] {
        headers.insert(name, amqp::field::Value::I64(returns.into()));
    }
    let mut block = Block::default();
    let raw = properties.encode();
    block.push_copy(&piece.block, index, piece.block.address(index), Some(&raw));
    Piece {
        block: Arc::new(block),
        from: 0,
        ..piece.clone()
    }
}

/// The message with what a work queue tells of its attempts.
fn numbered(piece: &Piece, attempt: u32, retry_limit: u32, failures: &[Failure]) -> Piece {
    let index = piece.index(0);
    let raw = piece.block.properties(index);
    let raw = attempt_properties(raw, attempt, retry_limit, failures);
    let mut block = Block::default();
    block.push_copy(&piece.block, index, piece.block.address(index), Some(&raw));
    Piece {
        block: Arc::new(block),
        from: 0,
        ..piece.clone()
    }
}

fn attempt_properties(raw: &[u8], attempt: u32, retry_limit: u32, failures: &[Failure]) -> Vec<u8> {
    let Ok(mut properties) = Properties::parse(raw) else {
        return raw.to_vec();
    };
    let headers = properties.headers.get_or_insert_with(Table::default);
    attempt::record(headers, failures);
    attempt::number(headers, attempt, retry_limit);
    properties.encode()
}
