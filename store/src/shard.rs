//! The queues of a node behind one lock: inputs in batches, outputs into sessions' outboxes.
//!
//! Keeps: whatever one call does enters the same commit, so moves between queues are one step.
//! Never: waits, or touches SQL; `log::writer` takes what is pending, `gateway::session` calls the
//! verbs, the timer task calls `tick`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use amqp::content::{Address, Block, Entry};
use amqp::field::Table;
use amqp::properties::{self, Properties};
use foldhash::fast::RandomState;
use tokio::sync::{Notify, oneshot};

use crate::Options;
use crate::clock;
use crate::error::{Error, Noun, Result};
use crate::log::batch::{Batch, HeadRow, JobChange, SettledRow, WaitingRow};
use crate::log::segment;
use crate::model::*;
use crate::queue::consumers::{ChannelKey, Consumer, Consumers};
use crate::queue::{Log, Piece, Take};
use crate::rules::dead_letter::{self, Reason};
use crate::rules::retry;
use crate::topology::Vhost;
use crate::topology::arguments::Arguments;

/// Deliveries that may lie in a session's outbox, bytes: a slow reader costs no more.
const OUTBOX_BYTES: u64 = 1 << 20;
/// Messages handed to one of several consumers in one turn, at most.
const TURN_MAX: u32 = 64;
/// Ready bytes in a queue with busy consumers above which publishers are slowed.
const SLOW_BYTES: u64 = 8 << 20;
/// Publishes waiting for their confirm above which publishers are slowed.
const TICKETS_MAX: usize = 100_000;
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
    Blocked(String),
    Unblocked,
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
    pub dead_lettered: BTreeMap<&'static str, u64>,
    pub commits: u64,
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
    deadline: Option<Micros>,
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
    pub(crate) reply_consumer: Option<(Arc<[u8]>, Arc<str>)>,
}

pub(crate) struct Session {
    pub(crate) outbox: Vec<Out>,
    outbox_bytes: u64,
    notify: Arc<Notify>,
    pub(crate) channels: HashMap<u16, Channel, RandomState>,
    stalled: Vec<QueueId>,
    pub(crate) exclusive: Vec<QueueId>,
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
    /// Unacked deliveries carry a lease: session, channel → looked at by `tick`.
    saved_handed: Seq,
    idle_since: Micros,
    /// Rows of a queue that is not durable may be in the store.
    spilled: bool,
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
    handed: Vec<(QueueId, Seq)>,
}

pub(crate) struct Saving {
    pub(crate) id: SegmentId,
    pub(crate) queue: QueueId,
    pub(crate) pieces: Vec<Piece>,
    /// Seqs not to write: settled before the cut.
    pub(crate) settled: Vec<Seq>,
    /// A restart forgets them.
    pub(crate) transient: bool,
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
    pub(crate) users: BTreeMap<Arc<str>, UserSpec>,
    pub(crate) permissions: Vec<PermissionSpec>,
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
    pub(crate) wanted: bool,
    routes: HashMap<(Arc<str>, Address), Option<Arc<[QueueId]>>, RandomState>,
    replies: HashMap<Arc<str>, (ChannelKey, Arc<[u8]>), RandomState>,
    pub(crate) loads: Vec<(QueueId, SegmentId)>,
    pub(crate) due_reads: Vec<(QueueId, Vec<Seq>)>,
    pub(crate) schedules: BTreeMap<String, ScheduleRow>,
    pub(crate) job_waiters: HashMap<JobId, Vec<oneshot::Sender<()>>, RandomState>,
    pub counters: Counters,
    pub(crate) blocked: Option<String>,
    pub(crate) writer: Arc<Notify>,
    pub(crate) loader: Arc<Notify>,
    chance: u64,
    slow: bool,
}

impl Shard {
    pub(crate) fn new(options: Options, writer: Arc<Notify>, loader: Arc<Notify>) -> Self {
        Self {
            options,
            vhosts: BTreeMap::new(),
            users: BTreeMap::new(),
            permissions: Vec::new(),
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
            wanted: false,
            routes: HashMap::default(),
            replies: HashMap::default(),
            loads: Vec::new(),
            due_reads: Vec::new(),
            schedules: BTreeMap::new(),
            job_waiters: HashMap::default(),
            counters: Counters::default(),
            blocked: None,
            writer,
            loader,
            chance: 0x9E37_79B9_7F4A_7C15,
            slow: false,
        }
    }

    // ---- sessions and channels -------------------------------------------------------------

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
            self.give_back(&unacked, unacked.seq, unacked.count, lost);
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

    fn send(&mut self, id: usize, out: Out) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.outbox.push(out);
            session.notify.notify_one();
        }
    }

    // ---- publish ---------------------------------------------------------------------------

    /// Where a message goes; `None`: no such exchange.
    fn route(&mut self, vhost: &Arc<str>, block: &Block, index: usize) -> Option<Arc<[QueueId]>> {
        let address = block.address(index);
        let exchange = std::str::from_utf8(address.exchange()).ok()?;
        let names = self.vhosts.get(vhost)?;
        let headers = names.looks_at_headers(exchange);
        let key = (vhost.clone(), address.clone());
        if !headers && let Some(route) = self.routes.get(&key) {
            return route.clone();
        }
        let table = if headers {
            properties::headers(block.properties(index)).and_then(|raw| Table::parse(raw).ok())
        } else {
            None
        };
        let route: Option<Arc<[QueueId]>> = names
            .route(exchange, address.routing_key(), table.as_ref())
            .map(Into::into);
        if !headers {
            // Keys come from clients: the cache is dropped whole before it grows without end.
            if self.routes.len() > 100_000 {
                self.routes.clear();
            }
            self.routes.insert(key, route.clone());
        }
        route
    }

    /// The topology changed.
    pub(crate) fn forget_routes(&mut self) {
        self.routes.clear();
    }

    /// True when one route serves all messages of the run.
    pub fn routes_alike(&self, vhost: &str, exchange: &str) -> bool {
        self.vhosts
            .get(vhost)
            .is_none_or(|names| !names.looks_at_headers(exchange))
    }

    /// Appends `count` messages with one address. `confirm` is the number of the first, 0 for
    /// none. Answers how many queues were reached.
    ///
    /// # Errors
    /// `NotFound` when the exchange does not exist, `Refused` when it is internal.
    pub fn publish(
        &mut self,
        vhost: &Arc<str>,
        key: Option<ChannelKey>,
        block: &Arc<Block>,
        (first, count): (u32, u32),
        confirm: u64,
    ) -> Result<usize> {
        let index = first as usize;
        let address = block.address(index);
        let exchange = String::from_utf8_lossy(address.exchange()).into_owned();
        if let Some(found) = self
            .vhosts
            .get(vhost)
            .and_then(|v| v.exchanges.get(&*exchange))
            && found.spec.internal
        {
            let detail =
                format!("cannot publish to internal exchange '{exchange}' in vhost '{vhost}'");
            return Err(Error::Refused {
                noun: Noun::Exchange,
                name: exchange,
                detail,
            });
        }
        self.counters.published += u64::from(count);
        if exchange.is_empty() && address.routing_key().starts_with(REPLY_TO.as_bytes()) {
            let name = String::from_utf8_lossy(address.routing_key()).into_owned();
            if self.reply(&name, block, index) {
                for next in index + 1..index + count as usize {
                    self.reply(&name, block, next);
                }
                self.confirm_now(key, confirm, count, name.starts_with(REPLY_TO_JOB));
                return Ok(1);
            }
        }
        let Some(queues) = self.route(vhost, block, index) else {
            let detail = format!("no exchange '{exchange}' in vhost '{vhost}'");
            return Err(Error::NotFound {
                noun: Noun::Exchange,
                name: exchange,
                detail,
            });
        };
        if queues.is_empty() {
            self.counters.unroutable += u64::from(count);
            self.confirm_now(key, confirm, count, false);
            return Ok(0);
        }
        self.append_all(&queues, key, block, (first, count), confirm);
        Ok(queues.len())
    }

    fn append_all(
        &mut self,
        queues: &[QueueId],
        key: Option<ChannelKey>,
        block: &Arc<Block>,
        (first, count): (u32, u32),
        confirm: u64,
    ) {
        let now = clock::now();
        let persistent = block.entries[first as usize].flags & Entry::PERSISTENT != 0;
        let piece = Piece::new(0, count, block.clone(), first, now);
        let durable = |shard: &Self, id: &QueueId| {
            persistent && shard.queues.get(id).is_some_and(|queue| queue.spec.durable)
        };
        let saved = queues.iter().filter(|id| durable(self, id)).count() as u32;
        let refused = queues.iter().any(|id| self.is_full(*id));
        let mut ticket = 0;
        if let Some(channel) = key.filter(|_| confirm != 0) {
            if refused {
                for number in confirm..confirm + u64::from(count) {
                    self.send(
                        channel.session,
                        Out::Refuse {
                            channel: channel.channel,
                            number,
                        },
                    );
                }
            } else if saved > 0 {
                ticket = self.ticket_base + self.tickets.len() as u64;
                let outstanding = saved * count;
                self.tickets.push_back(Ticket {
                    channel,
                    first: confirm,
                    count,
                    outstanding,
                    done: false,
                });
                self.wanted = true;
            } else {
                self.confirm_now(key, confirm, count, false);
            }
        }
        for id in queues {
            if self.is_full(*id) {
                continue;
            }
            let Some(queue) = self.queues.get_mut(id) else {
                continue;
            };
            let mut piece = piece.clone();
            piece.persistent = persistent && queue.spec.durable;
            piece.ticket = if piece.persistent { ticket } else { 0 };
            if piece.persistent {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
            queue.log.append(piece);
            self.trim(*id);
            self.pump(*id);
            self.slow |= self.queues.get(id).is_some_and(|queue| {
                queue.log.ready_bytes() > SLOW_BYTES && !queue.consumers.is_empty()
            });
        }
        if self.wanted {
            self.writer.notify_one();
        }
    }

    /// Writes a message to the queues it reaches without handing it out yet: a tick must be in
    /// the ledger before anybody sees it (I7). `None`: no such exchange.
    pub(crate) fn hold(&mut self, vhost: &Arc<str>, block: &Arc<Block>) -> Option<Vec<Held>> {
        let now = clock::now();
        self.counters.published += 1;
        let mut held = Vec::new();
        for id in self.route(vhost, block, 0)?.iter().copied() {
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            if !queue.spec.durable {
                held.push(Held {
                    queue: id,
                    seq: None,
                    piece: Piece::new(0, 1, block.clone(), 0, now),
                });
                continue;
            }
            let seq = queue.log.reserve();
            queue.log.stragglers.insert(seq);
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            let mut encoder = segment::Encoder::default();
            encoder.push(block, 0, 0, 0);
            let (index, data) = encoder.finish();
            self.pending.waiting.push(WaitingRow {
                queue: id,
                seq,
                due_at: now,
                attempt: 0,
                index,
                data,
            });
            let piece = Piece::new(seq, 1, block.clone(), 0, now);
            held.push(Held {
                queue: id,
                seq: Some(seq),
                piece,
            });
        }
        Some(held)
    }

    /// The commit that holds them is on disk: hands them out.
    pub(crate) fn release_held(&mut self, held: Vec<Held>) {
        for Held {
            queue: id,
            seq,
            piece,
        } in held
        {
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            match seq {
                Some(seq) => queue.log.appear(seq, piece),
                None => queue.log.append(piece),
            }
            self.pump(id);
        }
    }

    fn is_full(&self, id: QueueId) -> bool {
        self.queues.get(&id).is_some_and(|queue| {
            queue.arguments.reject_publish
                && (queue
                    .arguments
                    .max_length
                    .is_some_and(|max| queue.log.ready() >= max)
                    || queue
                        .arguments
                        .max_length_bytes
                        .is_some_and(|max| queue.log.ready_body_bytes() >= max))
        })
    }

    /// Drops heads beyond the queue's length.
    fn trim(&mut self, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            let over = queue
                .arguments
                .max_length
                .is_some_and(|max| queue.log.ready() > max)
                || queue
                    .arguments
                    .max_length_bytes
                    .is_some_and(|max| queue.log.ready_body_bytes() > max);
            if !over {
                return;
            }
            let Take::Run { piece, .. } = queue.log.take(1) else {
                return;
            };
            self.dead_letter(id, &piece, Reason::Maxlen, None);
            self.settle(id, piece.first, 1);
        }
    }

    /// True when a publisher since the last call was faster than its consumers, who come first.
    pub fn take_slow(&mut self) -> bool {
        std::mem::take(&mut self.slow) || self.tickets.len() > TICKETS_MAX
    }

    fn mark_dirty(dirty: &mut Vec<QueueId>, writer: &Notify, queue: &mut Queue) {
        if queue.spec.durable && !queue.dirty {
            queue.dirty = true;
            if dirty.is_empty() {
                writer.notify_one();
            }
            dirty.push(queue.spec.id);
        }
    }

    /// Confirms at once, or with the next commit when `durable`.
    fn confirm_now(&mut self, key: Option<ChannelKey>, first: u64, count: u32, durable: bool) {
        let Some(key) = key.filter(|_| first != 0) else {
            return;
        };
        if durable {
            self.tickets.push_back(Ticket {
                channel: key,
                first,
                count,
                outstanding: u32::MAX,
                done: false,
            });
            self.want_commit();
            return;
        }
        self.counters.confirmed += u64::from(count);
        let out = Out::Confirm {
            channel: key.channel,
            first,
            count: u64::from(count),
        };
        self.send(key.session, out);
    }

    /// A confirm that goes out with the next commit.
    pub fn confirm_with_commit(&mut self, key: ChannelKey, first: u64, count: u32) {
        self.confirm_now(Some(key), first, count, true);
    }

    fn want_commit(&mut self) {
        self.wanted = true;
        self.writer.notify_one();
    }

    /// Resolves when everything done so far is on disk.
    pub fn on_disk(&mut self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.waiters.push(tell);
        self.want_commit();
        told
    }

    fn release(&mut self, settled: Vec<(u64, u32)>) {
        for (ticket, copies) in settled {
            let Some(at) = ticket.checked_sub(self.ticket_base) else {
                continue;
            };
            let Some(ticket) = self.tickets.get_mut(at as usize) else {
                continue;
            };
            ticket.outstanding = ticket.outstanding.saturating_sub(copies);
            if ticket.outstanding == 0 && !ticket.done {
                ticket.done = true;
                let (key, first, count) = (ticket.channel, ticket.first, ticket.count);
                self.confirm_now(Some(key), first, count, false);
            }
        }
    }

    // ---- direct reply-to and replies of calls ----------------------------------------------

    /// True when the name is somebody's: the message is handed over, or captured as a result.
    fn reply(&mut self, name: &str, block: &Arc<Block>, index: usize) -> bool {
        if let Some(id) = name.strip_prefix(REPLY_TO_JOB) {
            if let Some(id) = JobId::parse(id) {
                self.capture(id, block, index);
            }
            return true;
        }
        let Some((key, tag)) = self.replies.get(name).cloned() else {
            return name.starts_with("amq.rabbitmq.reply-to.");
        };
        let Some(channel) = self.channel(key) else {
            return true;
        };
        let first = channel.next_tag;
        channel.next_tag += 1;
        let piece = Piece::new(0, 1, block.clone(), index as u32, clock::now());
        self.counters.delivered += 1;
        let out = Out::Deliver {
            channel: key.channel,
            tag,
            first,
            piece,
            redelivered: false,
        };
        self.send(key.session, out);
        true
    }

    fn capture(&mut self, id: JobId, block: &Block, index: usize) {
        let Ok(properties) = Properties::parse(block.properties(index)) else {
            return;
        };
        if properties.header("x-progress").is_some() {
            return;
        }
        let text = |value: &Option<Vec<u8>>| {
            value
                .as_ref()
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let content_type = text(&properties.content_type);
        let failed = content_type.as_deref() == Some("application/problem+json")
            || properties.header("x-status").and_then(|v| v.as_text()) == Some("error");
        let body = block.body(index).into_owned();
        let error = failed.then(|| JobError {
            code: "worker-error".into(),
            detail: String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned(),
        });
        let content_encoding = text(&properties.content_encoding);
        self.pending.jobs.push(JobChange::Finish {
            id,
            state: if failed {
                JobState::Failed
            } else {
                JobState::Succeeded
            },
            at: clock::now(),
            error,
            result: Some(JobResult {
                content_type,
                content_encoding,
                body,
            }),
        });
        self.want_commit();
    }

    /// Registers the channel's reply consumer; answers the address publishers are given.
    pub fn subscribe_replies(&mut self, key: ChannelKey, tag: &[u8]) -> Result<()> {
        let failed = |detail: &str| Error::PreconditionFailed {
            noun: Noun::Consumer,
            name: REPLY_TO.into(),
            detail: detail.into(),
        };
        let mut name = format!("{REPLY_TO}.");
        for byte in clock::random_bytes() {
            name.push_str(&format!("{byte:02x}"));
        }
        let name: Arc<str> = name.into();
        let channel = self.channel(key).ok_or(Error::Stopped)?;
        if channel.reply_consumer.is_some() {
            return Err(failed("reply consumer already set"));
        }
        let tag: Arc<[u8]> = tag.into();
        channel.reply_consumer = Some((tag.clone(), name.clone()));
        self.replies.insert(name, (key, tag));
        Ok(())
    }

    /// What stands for `amq.rabbitmq.reply-to` in a publish on this channel.
    pub fn reply_address(&mut self, key: ChannelKey) -> Option<Arc<str>> {
        self.channel(key)?
            .reply_consumer
            .as_ref()
            .map(|(_, name)| name.clone())
    }

    /// True when a requester still listens at this full name.
    pub fn has_reply_address(&self, name: &str) -> bool {
        self.replies.contains_key(name)
    }

    // ---- consume ---------------------------------------------------------------------------

    pub(crate) fn add_consumer(&mut self, id: QueueId, consumer: Consumer) {
        let key = consumer.key;
        let tag = consumer.tag.clone();
        if let Some(channel) = self.channel(key) {
            channel.consumers.insert(tag, id);
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.had_consumer = true;
            queue.consumers.add(consumer);
        }
    }

    /// True when the channel has this consumer tag.
    pub fn has_consumer(&mut self, key: ChannelKey, tag: &[u8]) -> bool {
        self.channel(key).is_some_and(|channel| {
            channel.consumers.contains_key(tag)
                || channel
                    .reply_consumer
                    .as_ref()
                    .is_some_and(|(known, _)| &**known == tag)
        })
    }

    /// The client cancels; unknown tags are no error.
    pub fn cancel(&mut self, key: ChannelKey, tag: &[u8]) {
        let Some(channel) = self.channel(key) else {
            return;
        };
        if channel
            .reply_consumer
            .as_ref()
            .is_some_and(|(known, _)| &**known == tag)
        {
            if let Some((_, name)) = channel.reply_consumer.take() {
                self.replies.remove(&name);
            }
            return;
        }
        if let Some(queue) = channel.consumers.remove(tag) {
            self.remove_consumer(queue, key, tag);
        }
    }

    fn remove_consumer(&mut self, id: QueueId, key: ChannelKey, tag: &[u8]) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.consumers.remove(key, tag);
        if queue.consumers.is_empty() {
            queue.idle_since = clock::now();
            if queue.spec.auto_delete && queue.had_consumer {
                self.drop_queue(id);
            }
        }
    }

    /// Hands out what can be handed out.
    pub fn pump(&mut self, id: QueueId) {
        loop {
            self.expire(id);
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            if queue.log.ready() == 0 || queue.consumers.is_empty() {
                return;
            }
            let sessions = &mut self.sessions;
            let window = |consumer: &Consumer| {
                let session = sessions.get(&consumer.key.session)?;
                let channel = session.channels.get(&consumer.key.channel)?;
                Some(match channel.window {
                    0 => u32::MAX,
                    _ if consumer.no_ack => u32::MAX,
                    limit => limit.saturating_sub(channel.in_window),
                })
            };
            let has_room = |consumer: &Consumer| {
                sessions
                    .get(&consumer.key.session)
                    .is_some_and(|s| s.outbox_bytes < OUTBOX_BYTES)
                    && window(consumer).is_some_and(|left| left > 0)
            };
            let ready = queue.log.ready();
            let Some((consumer, able)) = queue.consumers.next(has_room) else {
                let waiting: Vec<usize> = queue
                    .consumers
                    .iter()
                    .filter(|c| c.credit() > 0)
                    .map(|c| c.key.session)
                    .collect();
                for session in waiting {
                    if let Some(session) = sessions.get_mut(&session)
                        && !session.stalled.contains(&id)
                    {
                        session.stalled.push(id);
                    }
                }
                return;
            };
            let fair = match able {
                1 => 4096,
                _ => u32::try_from(ready / (able as u64 * 4))
                    .unwrap_or(TURN_MAX)
                    .clamp(1, TURN_MAX),
            };
            let timed = queue.arguments.message_ttl_ms.is_some();
            let left = window(consumer).unwrap_or(0);
            let max = if timed {
                1
            } else {
                fair.min(consumer.credit()).min(left)
            };
            let (piece, redelivered, own) = match queue.log.take(max) {
                Take::Run {
                    piece,
                    redelivered,
                    own,
                } => (piece, redelivered, own),
                Take::Load(segment) => {
                    self.want_load(id, segment);
                    return;
                }
                Take::Fence => {
                    Self::mark_dirty(&mut self.dirty, &self.writer, queue);
                    self.wanted = true;
                    self.writer.notify_one();
                    return;
                }
                Take::Empty => return,
            };
            let (key, tag, no_ack) = (consumer.key, consumer.tag.clone(), consumer.no_ack);
            if !no_ack {
                consumer.unacked += piece.count;
            }
            self.deliver(id, (key, tag), piece, (redelivered, own), no_ack);
        }
    }

    fn deliver(
        &mut self,
        id: QueueId,
        (key, tag): (ChannelKey, Arc<[u8]>),
        piece: Piece,
        (redelivered, own): (bool, bool),
        no_ack: bool,
    ) {
        self.counters.delivered += u64::from(piece.count);
        if redelivered {
            self.counters.redelivered += u64::from(piece.count);
        }
        self.note_started(id, &piece);
        let lease = self
            .queues
            .get(&id)
            .and_then(|q| q.arguments.work.as_ref())
            .map(|w| w.lease_ms);
        let deadline = lease.map(|ms| clock::now() + ms as i64 * 1000);
        let (first_seq, count) = (piece.first, piece.count);
        let Some(session) = self.sessions.get_mut(&key.session) else {
            return;
        };
        let Some(channel) = session.channels.get_mut(&key.channel) else {
            return;
        };
        let first = channel.next_tag;
        channel.next_tag += u64::from(count);
        if !no_ack {
            if !tag.is_empty() {
                channel.in_window += count;
            }
            let own = own.then(|| piece.clone());
            if let Some(at) = deadline {
                channel.next_lease = Some(channel.next_lease.map_or(at, |known| known.min(at)));
            }
            channel.unacked.push_back(Unacked {
                first,
                count,
                queue: id,
                seq: first_seq,
                consumer: tag.clone(),
                redelivered,
                own,
                deadline,
            });
        }
        let entries = &piece.block.entries;
        let (head, last) = (&entries[piece.index(0)], &entries[piece.index(count - 1)]);
        session.outbox_bytes +=
            u64::from(last.offset + last.len - head.offset) + 64 * u64::from(count);
        session.outbox.push(Out::Deliver {
            channel: key.channel,
            tag,
            first,
            piece,
            redelivered,
        });
        session.notify.notify_one();
        if no_ack {
            self.counters.acked += u64::from(count);
            self.settle(id, first_seq, count);
        }
    }

    fn note_started(&mut self, id: QueueId, piece: &Piece) {
        let Some(queue) = self.queues.get(&id).filter(|q| q.arguments.work.is_some()) else {
            return;
        };
        for offset in 0..piece.count {
            if let Some(job) = job_of(&piece.block, piece.index(offset)) {
                let seq = piece.first + u64::from(offset);
                let attempt = queue.log.attempts.get(&seq).copied().unwrap_or(0) + 1;
                self.pending.jobs.push(JobChange::Started {
                    id: job,
                    attempt,
                    at: clock::now(),
                });
                self.writer.notify_one();
            }
        }
    }

    /// basic.get: one message, with its tag and how many are left.
    pub fn get(&mut self, id: QueueId, key: ChannelKey, no_ack: bool) -> Got {
        self.expire(id);
        let Some(queue) = self.queues.get_mut(&id) else {
            return Got::Empty;
        };
        queue.idle_since = clock::now();
        match queue.log.take(1) {
            Take::Run {
                piece,
                redelivered,
                own,
            } => {
                let remaining = u32::try_from(queue.log.ready()).unwrap_or(u32::MAX);
                let before = self
                    .sessions
                    .get(&key.session)
                    .map_or(0, |s| s.outbox.len());
                self.deliver(
                    id,
                    (key, Arc::from(&b""[..])),
                    piece,
                    (redelivered, own),
                    no_ack,
                );
                let Some(session) = self.sessions.get_mut(&key.session) else {
                    return Got::Empty;
                };
                match (session.outbox.len() > before)
                    .then(|| session.outbox.pop())
                    .flatten()
                {
                    Some(Out::Deliver {
                        first,
                        piece,
                        redelivered,
                        ..
                    }) => Got::Message {
                        tag: first,
                        piece,
                        redelivered,
                        remaining,
                    },
                    _ => Got::Empty,
                }
            }
            Take::Load(segment) => {
                self.want_load(id, segment);
                Got::Later
            }
            Take::Fence => {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
                // A reader waits: the next commit raises the mark to the end of the queue.
                queue.saved_handed = Seq::MAX;
                self.want_commit();
                Got::Later
            }
            Take::Empty => Got::Empty,
        }
    }

    fn want_load(&mut self, id: QueueId, segment: SegmentId) {
        if let Some(queue) = self.queues.get_mut(&id)
            && queue.loading.is_none()
        {
            queue.loading = Some(segment);
            self.loads.push((id, segment));
            self.loader.notify_one();
        }
    }

    /// A segment was read (or could not be).
    pub(crate) fn loaded(&mut self, id: QueueId, segment: SegmentId, pieces: Vec<Piece>) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.loading = None;
        let before = queue.log.quarantined;
        queue.log.loaded(segment, pieces);
        let lost = queue.log.quarantined - before;
        self.counters.quarantined += lost;
        if lost > 0 {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            tracing::error!(queue = %queue.spec.name, segment = segment.0, lost, "damaged messages set aside");
        }
        self.pump(id);
        if let Some(ahead) = self
            .queues
            .get(&id)
            .filter(|queue| !queue.consumers.is_empty())
            .and_then(|queue| queue.log.read_ahead())
        {
            self.want_load(id, ahead);
        }
    }

    // ---- settle ----------------------------------------------------------------------------

    /// Acknowledges. False: the tag is not known on this channel.
    pub fn ack(&mut self, key: ChannelKey, tag: u64, multiple: bool) -> bool {
        let Some(runs) = self.take_unacked(key, tag, multiple) else {
            return false;
        };
        for run in runs {
            self.counters.acked += u64::from(run.count);
            self.settle(run.queue, run.seq, run.count);
            self.credit(key, &run);
            self.pump(run.queue);
        }
        true
    }

    /// basic.nack and basic.reject. False: the tag is not known on this channel.
    pub fn nack(&mut self, key: ChannelKey, tag: u64, multiple: bool, requeue: bool) -> bool {
        let Some(runs) = self.take_unacked(key, tag, multiple) else {
            return false;
        };
        for run in runs {
            if requeue {
                self.give_back(&run, run.seq, run.count, true);
            } else {
                self.fail(&run, "rejected");
            }
            self.credit(key, &run);
            self.pump(run.queue);
        }
        true
    }

    /// basic.recover with requeue.
    pub fn recover(&mut self, key: ChannelKey) {
        if let Some(runs) = self.take_unacked(key, 0, true) {
            let queues: Vec<QueueId> = runs.iter().map(|run| run.queue).collect();
            for run in runs {
                self.give_back(&run, run.seq, run.count, false);
                self.credit(key, &run);
            }
            queues.into_iter().for_each(|queue| self.pump(queue));
        }
    }

    fn credit(&mut self, key: ChannelKey, run: &Unacked) {
        if let Some(channel) = self.channel(key).filter(|_| !run.consumer.is_empty()) {
            channel.in_window = channel.in_window.saturating_sub(run.count);
            if channel.window > 0 {
                let others: Vec<QueueId> = channel.consumers.values().copied().collect();
                others
                    .into_iter()
                    .filter(|id| *id != run.queue)
                    .for_each(|id| self.pump(id));
            }
        }
        if let Some(queue) = self.queues.get_mut(&run.queue)
            && let Some(consumer) = queue.consumers.find(key, &run.consumer)
        {
            consumer.unacked = consumer.unacked.saturating_sub(run.count);
        }
    }

    fn take_unacked(&mut self, key: ChannelKey, tag: u64, multiple: bool) -> Option<Vec<Unacked>> {
        let channel = self.channel(key)?;
        let list = &mut channel.unacked;
        let mut out = Vec::new();
        if multiple {
            if tag != 0 && tag >= channel.next_tag {
                return None;
            }
            let known = tag == 0 || list.front().is_some_and(|run| run.first <= tag);
            if !known {
                return None;
            }
            while let Some(front) = list.front_mut() {
                let end = front.first + u64::from(front.count);
                if tag == 0 || end - 1 <= tag {
                    out.extend(list.pop_front());
                } else if front.first <= tag {
                    let n = (tag + 1 - front.first) as u32;
                    out.push(front.split_front(n));
                    break;
                } else {
                    break;
                }
            }
            return Some(out);
        }
        let at = list.partition_point(|run| run.first + u64::from(run.count) <= tag);
        let run = list.get_mut(at).filter(|run| run.first <= tag)?;
        let offset = (tag - run.first) as u32;
        if run.count == 1 {
            out.extend(list.remove(at));
            return Some(out);
        }
        if offset == 0 {
            out.push(run.split_front(1));
            return Some(out);
        }
        let mut front = run.split_front(offset);
        let one = run.split_front(1);
        if run.count == 0 {
            list[at] = front;
        } else {
            std::mem::swap(&mut front, run);
            list.insert(at + 1, front);
        }
        out.push(one);
        Some(out)
    }

    pub(crate) fn settle(&mut self, id: QueueId, seq: Seq, count: u32) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let settled = queue.log.settle(seq, count);
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        self.release(settled.tickets);
    }

    /// Back to its place; on a work queue a return counts as an attempt when `counts`.
    fn give_back(&mut self, run: &Unacked, seq: Seq, count: u32, counts: bool) {
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            return;
        };
        if counts && let Some(work) = queue.arguments.work.clone() {
            for offset in 0..count {
                let seq = seq + u64::from(offset);
                let failures = {
                    let known = queue.log.attempts.entry(seq).or_default();
                    *known += 1;
                    *known
                };
                if failures > work.retry_limit {
                    let one = Unacked {
                        seq,
                        count: 1,
                        own: run.own.clone(),
                        ..run.empty()
                    };
                    queue.log.attempts.insert(seq, failures - 1);
                    self.fail(&one, "returned");
                    return self.give_back(run, seq + 1, count - offset - 1, counts);
                }
                queue.log.put_back(seq, 1, run.own.clone());
            }
            return;
        }
        queue.log.put_back(seq, count, run.own.clone());
    }

    /// A failure: the next retry on a work queue, else dead-lettered or dropped.
    fn fail(&mut self, run: &Unacked, error: &str) {
        for offset in 0..run.count {
            let seq = run.seq + u64::from(offset);
            let Some(queue) = self.queues.get_mut(&run.queue) else {
                return;
            };
            if queue.arguments.work.is_none() && queue.arguments.dead_letter_exchange.is_none() {
                self.settle(run.queue, seq, 1);
                continue;
            }
            let piece = match &run.own {
                Some(piece) => Some(piece.clone()),
                None => queue.log.content(seq),
            };
            let Some(piece) = piece else {
                // The body is on disk only: it comes back at its place and fails there again.
                queue.log.put_back(seq, 1, None);
                continue;
            };
            let Some(work) = queue.arguments.work.clone() else {
                self.dead_letter(run.queue, &piece, Reason::Rejected, None);
                self.settle(run.queue, seq, 1);
                continue;
            };
            let failures = queue.log.attempts.get(&seq).copied().unwrap_or(0) + 1;
            self.chance = self
                .chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(clock::now() as u64 | 1);
            let chance = (self.chance >> 11) as f64 / (1u64 << 53) as f64;
            match retry::backoff_ms(&work, failures, chance) {
                Some(ms) => self.park(run.queue, seq, &piece, failures, ms, error),
                None => {
                    self.dead_letter(run.queue, &piece, Reason::DeliveryLimit, Some(failures));
                    self.settle(run.queue, seq, 1);
                }
            }
        }
    }

    /// Moves a message to a waiting row until its next try.
    fn park(&mut self, id: QueueId, seq: Seq, piece: &Piece, failures: u32, ms: u64, error: &str) {
        let now = clock::now();
        let due_at = now + ms as i64 * 1000;
        self.counters.retried += 1;
        if let Some(job) = job_of(&piece.block, piece.index(0)) {
            let error = JobError {
                code: "worker-error".into(),
                detail: error.to_owned(),
            };
            self.pending.jobs.push(JobChange::Retrying {
                id: job,
                next_attempt_at: due_at,
                error,
            });
        }
        let mut block = Block::default();
        let index = piece.index(0);
        let raw = attempt_properties(piece.block.properties(index), failures + 1);
        block.push_copy(&piece.block, index, piece.block.address(index), Some(&raw));
        let mut encoder = segment::Encoder::default();
        encoder.push(&block, 0, 0, 0);
        let (index, data) = encoder.finish();
        self.settle(id, seq, 1);
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.log.attempts.insert(seq, failures);
        queue.log.waiting.insert(seq, due_at);
        queue.log.dead_rows.retain(|row| *row != seq);
        if queue.spec.durable {
            queue.log.stragglers.insert(seq);
        }
        if queue.spec.durable {
            let row = WaitingRow {
                queue: id,
                seq,
                due_at,
                attempt: failures,
                index,
                data,
            };
            self.pending
                .waiting
                .retain(|known| known.queue != id || known.seq != seq);
            self.pending.waiting.push(row);
            self.pending
                .dropped_waiting
                .retain(|known| *known != (id, seq));
        } else {
            let piece = Piece::new(seq, 1, Arc::new(block), 0, now);
            queue.log.parked.insert(seq, piece);
        }
        self.writer.notify_one();
    }

    /// A waiting row was read and its time has come.
    pub(crate) fn woken(&mut self, row: &WaitingRow) {
        let Some(decoded) = segment::decode(&row.index, row.data.clone(), row.seq, clock::now())
        else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&row.queue) else {
            return;
        };
        let Some(piece) = decoded.pieces.into_iter().next() else {
            return;
        };
        if queue.log.is_waiting(row.seq) {
            queue.log.wake(row.seq, piece);
            self.pump(row.queue);
        }
    }

    /// Sends a message on to where the dead go. The caller settles it in `id`.
    fn dead_letter(&mut self, id: QueueId, piece: &Piece, reason: Reason, attempts: Option<u32>) {
        if reason == Reason::Expired {
            self.counters.expired += 1;
        }
        let index = piece.index(0);
        if let Some(job) = job_of(&piece.block, index) {
            let state = if reason == Reason::Expired {
                JobState::Expired
            } else {
                JobState::Failed
            };
            let code = if reason == Reason::Expired {
                "deadline-exceeded"
            } else {
                "worker-error"
            };
            let detail = format!("the call was dead-lettered: {}", reason.as_str());
            let error = Some(JobError {
                code: code.into(),
                detail,
            });
            let at = clock::now();
            self.pending.jobs.push(JobChange::Finish {
                id: job,
                state,
                at,
                error,
                result: None,
            });
            self.want_commit();
        }
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let name = queue.spec.name.clone();
        let vhost = queue.spec.vhost.clone();
        let old = piece.block.address(index);
        let arguments = &queue.arguments;
        let key = arguments.dead_letter_key.clone().map(String::into_bytes);
        let work = arguments.work.is_some();
        let (exchange, key) = match arguments.dead_letter_exchange.clone() {
            Some(exchange) => (exchange, key.unwrap_or_else(|| old.routing_key().to_vec())),
            None if work && reason != Reason::Expired => {
                let target = format!("{name}.dlq");
                self.ensure_queue(&vhost, &target, false);
                (String::new(), target.into_bytes())
            }
            None => return,
        };
        let seconds = (clock::now() / 1_000_000) as u64;
        let raw = dead_letter::properties(&piece.block, index, &name, reason, seconds, attempts);
        let mut block = Block::default();
        let address = Address::new(exchange.as_bytes(), &key);
        block.push_copy(&piece.block, index, &address, Some(&raw));
        block.entries[0].flags &= !Entry::JOB;
        let block = Arc::new(block);
        let Some(targets) = self.route(&vhost, &block, 0) else {
            return;
        };
        let before = piece.block.properties(index);
        let targets: Vec<QueueId> = targets
            .iter()
            .copied()
            .filter(|target| {
                self.queues.get(target).is_some_and(|queue| {
                    *target != id && !dead_letter::is_cycle(before, &queue.spec.name, reason)
                        || reason == Reason::Rejected
                })
            })
            .collect();
        *self
            .counters
            .dead_lettered
            .entry(reason.as_str())
            .or_default() += 1;
        if !targets.is_empty() {
            self.append_all(&targets, None, &block, (0, 1), 0);
        }
    }

    // ---- time ------------------------------------------------------------------------------

    /// Expires heads whose time is over.
    fn expire(&mut self, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            if queue.log.ready() == 0 {
                return;
            }
            let ttl = queue.arguments.message_ttl_ms;
            if ttl.is_none() && !queue.log.may_expire() {
                return;
            }
            let Some(piece) = queue.log.peek() else {
                return;
            };
            let index = piece.index(0);
            let own = properties::expiration(piece.block.properties(index))
                .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
            let limit = match (ttl, own) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) | (None, Some(a)) => a,
                (None, None) => return,
            };
            let at = piece
                .at
                .saturating_add(i64::try_from(limit).unwrap_or(i64::MAX / 2000) * 1000);
            // A consumer with room takes a message of TTL 0 before it expires.
            if at > clock::now() || (limit == 0 && queue.consumers.iter().any(|c| c.credit() > 0)) {
                return;
            }
            let Take::Run { piece, .. } = queue.log.take(1) else {
                return;
            };
            self.dead_letter(id, &piece, Reason::Expired, None);
            self.settle(id, piece.first, 1);
        }
    }

    /// Time passes: heads expire, leases end, retries come due, idle queues go.
    pub fn tick(&mut self) {
        let now = clock::now();
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            self.expire(id);
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            if let Some(ms) = queue.arguments.expires_ms
                && queue.consumers.is_empty()
                && now - queue.idle_since > ms as i64 * 1000
            {
                self.drop_queue(id);
                continue;
            }
            let due = queue.log.take_due(now);
            let (mine, rows): (Vec<Seq>, Vec<Seq>) = due
                .into_iter()
                .partition(|seq| queue.log.parked.contains_key(seq));
            for seq in mine {
                if let Some(piece) = queue.log.parked.remove(&seq) {
                    queue.log.wake(seq, piece);
                }
            }
            if !rows.is_empty() {
                self.due_reads.push((id, rows));
                self.loader.notify_one();
            }
            self.pump(id);
        }
        self.end_leases(now);
    }

    fn end_leases(&mut self, now: Micros) {
        let mut ended = Vec::new();
        for (&session, slot) in &mut self.sessions {
            for (&channel, slot) in &mut slot.channels {
                if slot.next_lease.is_none_or(|at| at > now) {
                    continue;
                }
                let key = ChannelKey { session, channel };
                let mut at = 0;
                while at < slot.unacked.len() {
                    if slot.unacked[at]
                        .deadline
                        .is_some_and(|deadline| deadline <= now)
                    {
                        ended.extend(slot.unacked.remove(at).map(|run| (key, run)));
                    } else {
                        at += 1;
                    }
                }
                slot.next_lease = slot.unacked.iter().filter_map(|run| run.deadline).min();
            }
        }
        for (key, run) in ended {
            self.counters.late += u64::from(run.count);
            self.give_back(&run, run.seq, run.count, true);
            self.credit(key, &run);
            self.pump(run.queue);
        }
    }

    /// True when the tag (or, with `multiple`, one up to it) is unacked on the channel.
    pub fn has_unacked(&mut self, key: ChannelKey, tag: u64, multiple: bool) -> bool {
        let Some(channel) = self.channel(key) else {
            return false;
        };
        let list = &channel.unacked;
        if multiple {
            return tag < channel.next_tag && list.front().is_some_and(|run| run.first <= tag);
        }
        let at = list.partition_point(|run| run.first + u64::from(run.count) <= tag);
        list.get(at).is_some_and(|run| run.first <= tag)
    }

    /// True when `tag` belongs to the past of a channel that has work-queue deliveries: a late
    /// settlement is then ignored, never an error.
    pub fn is_late(&mut self, key: ChannelKey, tag: u64) -> bool {
        self.counters.late > 0
            && self
                .channel(key)
                .is_some_and(|channel| tag < channel.next_tag)
    }

    // ---- commit ----------------------------------------------------------------------------

    /// Everything since the last cut; called by the writer alone.
    pub(crate) fn cut(&mut self, number: u64) -> Cut {
        let mut cut = Cut {
            batch: std::mem::take(&mut self.pending),
            ..Cut::default()
        };
        cut.batch.number = number;
        cut.tickets_below = self.ticket_base + self.tickets.len() as u64;
        cut.waiters = std::mem::take(&mut self.waiters);
        cut.sync = std::mem::take(&mut self.wanted);
        for id in std::mem::take(&mut self.dirty) {
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            queue.dirty = false;
            Self::save(&mut cut, &mut self.last_segment, queue, false);
            let rows = &mut cut.batch.settled;
            queue.log.settled_rows(|segment, bits| {
                rows.push(SettledRow {
                    segment,
                    queue: id,
                    bits,
                });
            });
            let rows = queue.log.dead_rows.drain(..);
            cut.batch.dropped_waiting.extend(rows.map(|seq| (id, seq)));
            cut.batch
                .dropped_segments
                .append(&mut queue.log.dead_segments);
            let all = !queue.consumers.is_empty() || queue.saved_handed == Seq::MAX;
            let handed = if all {
                queue.log.next_seq()
            } else {
                queue.log.cursor()
            };
            queue.saved_handed = handed;
            queue.log.handed = queue.log.handed.max(handed);
            cut.handed.push((id, handed));
            let (head, next) = (queue.log.head(), queue.log.next_seq());
            cut.batch.heads.push(HeadRow {
                queue: id,
                head,
                handed: queue.log.handed,
                next,
            });
        }
        self.make_room(&mut cut);
        cut
    }

    fn save(cut: &mut Cut, last_segment: &mut u64, queue: &mut Queue, pressure: bool) {
        let id = queue.spec.id;
        queue.log.start_saving(pressure, |chunk| {
            *last_segment += 1;
            let segment = SegmentId(*last_segment);
            let settled: Vec<Seq> = (chunk.first..=chunk.last)
                .filter(|&seq| chunk.is_settled(seq))
                .collect();
            let (pieces, transient) = chunk.start_saving(segment, pressure);
            cut.saving.push(Saving {
                id: segment,
                queue: id,
                pieces,
                settled,
                transient,
            });
        });
    }

    /// Under memory pressure messages that need no disk go there too, largest queues first.
    fn make_room(&mut self, cut: &mut Cut) {
        let mut resident: u64 = self.queues.values().map(|queue| queue.log.resident).sum();
        if resident <= self.options.memory_budget {
            return;
        }
        let mut sizes: Vec<(u64, QueueId)> = self
            .queues
            .iter()
            .map(|(&id, queue)| (queue.log.resident, id))
            .collect();
        sizes.sort_unstable_by_key(|&(size, _)| std::cmp::Reverse(size));
        for (size, id) in sizes {
            if resident <= self.options.memory_budget {
                break;
            }
            resident = resident.saturating_sub(size);
            if let Some(queue) = self.queues.get_mut(&id) {
                Self::save(cut, &mut self.last_segment, queue, true);
                queue.spilled = true;
            }
        }
    }

    /// The commit is on disk: confirms and waiters go out.
    pub(crate) fn committed(&mut self, cut: Cut, refused: &[JobId]) {
        self.counters.commits += 1;
        for saving in &cut.saving {
            let Some(queue) = self.queues.get_mut(&saving.queue) else {
                continue;
            };
            queue.log.saved(saving.id);
            if queue.log.head() > 0 && !queue.log.dead_segments.is_empty() {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
        }
        while self.ticket_base < cut.tickets_below {
            let Some(ticket) = self.tickets.pop_front() else {
                break;
            };
            self.ticket_base += 1;
            if !ticket.done {
                self.confirm_now(Some(ticket.channel), ticket.first, ticket.count, false);
            }
        }
        for waiter in cut.waiters {
            let _ = waiter.send(());
        }
        for change in &cut.batch.jobs {
            let JobChange::Finish { id, state, .. } = change else {
                continue;
            };
            if !refused.contains(id) {
                *self
                    .counters
                    .jobs_finished
                    .entry(state.as_str())
                    .or_default() += 1;
            }
            for waiter in self.job_waiters.remove(id).unwrap_or_default() {
                let _ = waiter.send(());
            }
        }
        for (id, _) in &cut.handed {
            self.pump(*id);
        }
        self.evict();
    }

    fn evict(&mut self) {
        let resident: u64 = self.queues.values().map(|queue| queue.log.resident).sum();
        if resident <= self.options.memory_budget {
            return;
        }
        let mut over = resident - self.options.memory_budget;
        for queue in self.queues.values_mut() {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(queue.log.evict(queue.log.resident.saturating_sub(over)));
        }
    }

    // ---- queues ----------------------------------------------------------------------------

    pub(crate) fn insert_queue(&mut self, spec: QueueSpec, arguments: Arguments, mut log: Log) {
        let id = spec.id;
        log.count_bodies(arguments.max_length_bytes.is_some());
        if !spec.durable {
            // Nothing of it survives a restart, so nothing must be marked before it is handed out.
            log.handed = Seq::MAX;
        }
        if let Some(names) = self.vhosts.get_mut(&spec.vhost) {
            names.queues.insert(spec.name.clone(), id);
        }
        self.forget_routes();
        let queue = Queue {
            spec,
            arguments,
            log,
            consumers: Consumers::default(),
            owner: None,
            had_consumer: false,
            loading: None,
            dirty: false,
            saved_handed: 0,
            idle_since: clock::now(),
            spilled: false,
        };
        self.queues.insert(id, queue);
    }

    /// Removes a queue with its bindings and messages; its consumers hear of it. Answers how many
    /// messages were ready.
    pub(crate) fn drop_queue(&mut self, id: QueueId) -> u64 {
        let Some(mut queue) = self.queues.remove(&id) else {
            return 0;
        };
        let ready = queue.log.ready();
        self.remove_names(&queue.spec);
        let tickets = queue.log.purge().tickets;
        self.release(tickets);
        for consumer in queue.consumers.drain() {
            if let Some(channel) = self.channel(consumer.key) {
                channel.consumers.remove(&consumer.tag);
            }
            let out = Out::Cancel {
                channel: consumer.key.channel,
                tag: consumer.tag,
            };
            self.send(consumer.key.session, out);
        }
        if let Some(owner) = queue.owner.and_then(|owner| self.sessions.get_mut(&owner)) {
            owner.exclusive.retain(|known| *known != id);
        }
        if queue.spec.durable || queue.spilled {
            self.pending.waiting.retain(|row| row.queue != id);
            self.pending
                .definitions
                .push(crate::log::batch::DefinitionChange::DeleteQueue(id));
            self.writer.notify_one();
        }
        ready
    }

    /// Removes ready messages; answers how many.
    pub fn purge(&mut self, id: QueueId) -> u64 {
        let Some(queue) = self.queues.get_mut(&id) else {
            return 0;
        };
        let settled = queue.log.purge();
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        self.release(settled.tickets);
        u64::from(settled.count)
    }

    pub(crate) fn touch(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.idle_since = clock::now();
        }
    }

    /// Publishers are stopped (with a reason) or may go on.
    pub(crate) fn set_blocked(&mut self, reason: Option<String>) {
        if self.blocked.is_some() == reason.is_some() {
            return;
        }
        self.blocked.clone_from(&reason);
        let ids: Vec<usize> = self.sessions.keys().copied().collect();
        for id in ids {
            self.send(id, reason.clone().map_or(Out::Unblocked, Out::Blocked));
        }
    }

    /// A queue whose rows must be looked at by the next commit.
    pub(crate) fn mark(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
    }

    /// Before a clean stop: what was never handed out must not come back as redelivered.
    pub(crate) fn settle_marks(&mut self) {
        for queue in self.queues.values_mut() {
            queue.log.handed = queue.log.cursor();
            queue.saved_handed = 0;
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }
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
    fn empty(&self) -> Self {
        Self {
            first: 0,
            count: 0,
            queue: self.queue,
            seq: 0,
            consumer: self.consumer.clone(),
            redelivered: self.redelivered,
            own: None,
            deadline: None,
        }
    }

    fn split_front(&mut self, count: u32) -> Self {
        let front = Self {
            first: self.first,
            count,
            seq: self.seq,
            own: self.own.clone(),
            deadline: self.deadline,
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

fn attempt_properties(raw: &[u8], attempt: u32) -> Vec<u8> {
    let Ok(mut properties) = Properties::parse(raw) else {
        return raw.to_vec();
    };
    let headers = properties.headers.get_or_insert_with(Table::default);
    headers.insert("x-attempt", amqp::field::Value::I32(attempt as i32));
    properties.encode()
}
