//! Receivers: consumers that ask for some messages once, and hold each by a lease instead of a
//! channel's life.
//!
//! Keeps: the turns and the order of consumers, for a receiver is one while it waits; a batch ends
//! at its number, or at a megabyte; a delivery whose receiver has gone returns uncounted.
//! In: `Store::receive` and its neighbours, `receive::run`.

use super::deliver::outbox_bytes;
use super::*;
use crate::topology::arguments::LEASE_MS;

/// Receivers that wait at a time: each is a consumer that every message of its queue looks at.
const WAITING_MAX: usize = 4096;
/// Queues with leases of receivers at a time: channel numbers.
const QUEUES_MAX: usize = 65_535;

/// What a receiver asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Messages, at least 1.
    pub max: u32,
    /// Waits for the first, if need be.
    pub waits: bool,
    /// `None`: the queue's own, or what `auto` begins with where it has none.
    pub lease_ms: Option<u64>,
}

/// Names a delivery to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseKey {
    pub queue: QueueId,
    pub channel: u16,
    pub tag: u64,
}

/// A message that a receiver holds until the lease's end.
#[derive(Clone)]
pub struct Leased {
    pub key: LeaseKey,
    pub piece: Piece,
    pub redelivered: bool,
    /// This delivery's number, from 1.
    pub attempt: u32,
    pub until: Micros,
}

/// How a receiver ends a lease.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    Done,
    /// With a reason, in the worker's words.
    Failed(&'a str),
    /// Returns without counting.
    Released,
}

/// What comes of a wish.
pub enum Begun {
    Handed(Vec<Leased>),
    /// Told when there is something; by this tag it is given up.
    Waiting(Arc<[u8]>, oneshot::Receiver<Result<Vec<Leased>>>),
}

struct Waiting {
    queue: QueueId,
    key: ChannelKey,
    max: u32,
    tell: oneshot::Sender<Result<Vec<Leased>>>,
}

#[derive(Default)]
pub(super) struct Receivers {
    /// The session of all receivers.
    session: Option<usize>,
    /// The channel of a queue's receivers. It stays while the queue does, so that its tags, which
    /// leases are named by, never come twice.
    channels: HashMap<QueueId, u16, RandomState>,
    queues: HashMap<u16, QueueId, RandomState>,
    last_channel: u16,
    waiting: HashMap<Arc<[u8]>, Waiting, RandomState>,
    last_tag: u64,
}

fn too_many(what: &str, name: &str) -> Error {
    Error::Busy {
        noun: Noun::Queue,
        name: name.to_owned(),
        detail: format!("too many {what}"),
    }
}

impl Shard {
    /// Opens the session of all receivers; `notify` is told when `hand_over` has work.
    pub(crate) fn open_receivers(&mut self, notify: Arc<Notify>) {
        let id = self.open_session(notify);
        self.counters.connections_opened -= 1;
        self.receivers.session = Some(id);
    }

    /// Connections of clients.
    pub(crate) fn connection_count(&self) -> u64 {
        let own = usize::from(self.receivers.session.is_some());
        self.sessions.len().saturating_sub(own) as u64
    }

    /// Takes up to so many messages at once, or waits for the first.
    ///
    /// # Errors
    /// `Refused` when the queue is in exclusive use, `Busy` beyond a limit.
    pub fn receive(&mut self, id: QueueId, wish: &Wish) -> Result<Begun> {
        if self.receivers.waiting.len() >= WAITING_MAX {
            return Err(too_many("receivers wait", &self.queue_status(id).0));
        }
        let key = self.receivers_channel(id)?;
        let queue = self.queues.get(&id).ok_or(Error::Stopped)?;
        let floor = queue.arguments.work.is_none().then_some(LEASE_MS);
        self.receivers.last_tag += 1;
        let tag: Arc<[u8]> = self.receivers.last_tag.to_be_bytes().into();
        let consumer = Consumer {
            key,
            tag: tag.clone(),
            no_ack: false,
            exclusive: false,
            prefetch: 1,
            unacked: 0,
            priority: 0,
            timeout_ms: wish.lease_ms.or(floor),
            leases: true,
        };
        self.consume(id, consumer)?;
        let handed = self.fill(id, key, &tag, (wish.max, OUTBOX_BYTES));
        let fetches = || {
            let queue = self.queues.get(&id);
            queue.is_some_and(|queue| queue.loading.is_some()) || self.fenced.contains(&id)
        };
        if !handed.is_empty() || !wish.waits && !fetches() {
            self.cancel(key, &tag);
            return Ok(Begun::Handed(handed));
        }
        let (tell, told) = oneshot::channel();
        let (queue, max) = (id, wish.max);
        let waiting = Waiting {
            queue,
            key,
            max,
            tell,
        };
        self.receivers.waiting.insert(tag.clone(), waiting);
        Ok(Begun::Waiting(tag, told))
    }

    fn receivers_channel(&mut self, id: QueueId) -> Result<ChannelKey> {
        let session = self.receivers.session.ok_or(Error::Stopped)?;
        if let Some(&channel) = self.receivers.channels.get(&id) {
            return Ok(ChannelKey { session, channel });
        }
        if self.receivers.channels.len() >= QUEUES_MAX {
            let queues = &self.queues;
            let mut gone = Vec::new();
            self.receivers.channels.retain(|id, channel| {
                let stays = queues.contains_key(id);
                gone.extend((!stays).then_some(*channel));
                stays
            });
            if gone.is_empty() {
                return Err(too_many("queues have receivers", &self.queue_status(id).0));
            }
            for channel in gone {
                self.receivers.queues.remove(&channel);
                self.close_channel(ChannelKey { session, channel }, false);
            }
        }
        let open = self.sessions.get(&session).map(|slot| &slot.channels);
        let mut channel = self.receivers.last_channel.wrapping_add(1).max(1);
        while open.is_some_and(|open| open.contains_key(&channel)) {
            channel = channel.wrapping_add(1).max(1);
        }
        self.receivers.last_channel = channel;
        self.receivers.channels.insert(id, channel);
        self.receivers.queues.insert(channel, id);
        let key = ChannelKey { session, channel };
        self.open_channel(key);
        Ok(key)
    }

    /// Lets a receiver take one message after the other, up to so many or so many bytes.
    fn fill(
        &mut self,
        id: QueueId,
        key: ChannelKey,
        tag: &Arc<[u8]>,
        (max, room): (u32, u64),
    ) -> Vec<Leased> {
        let mut out: Vec<Leased> = Vec::new();
        let mut bytes = 0;
        loop {
            let before = out.len();
            let queue = self.queues.get_mut(&id);
            if let Some(consumer) = queue.and_then(|queue| queue.consumers.find(key, tag)) {
                consumer.prefetch = consumer.unacked + 1;
            }
            self.pump(id);
            let Some(session) = self.sessions.get_mut(&key.session) else {
                return out;
            };
            let is_mine =
                |out: &mut Out| matches!(out, Out::Deliver { tag: its, .. } if its == tag);
            let mine: Vec<Out> = session.outbox.extract_if(.., is_mine).collect();
            for known in mine {
                let Out::Deliver {
                    first,
                    piece,
                    redelivered,
                    ..
                } = known
                else {
                    continue;
                };
                let cost = outbox_bytes(&piece);
                bytes += cost;
                if let Some(session) = self.sessions.get_mut(&key.session) {
                    session.outbox_bytes = session.outbox_bytes.saturating_sub(cost);
                }
                let key = LeaseKey {
                    queue: id,
                    channel: key.channel,
                    tag: first,
                };
                out.extend(self.leased(key, piece, redelivered));
            }
            let count = u32::try_from(out.len()).unwrap_or(u32::MAX);
            if out.len() == before || count >= max || bytes >= room {
                return out;
            }
        }
    }

    fn leased(&mut self, key: LeaseKey, piece: Piece, redelivered: bool) -> Option<Leased> {
        let made = self.queues.get(&key.queue)?.log.attempts.get(&piece.first);
        let attempt = made.copied().unwrap_or(0) + 1;
        let list = &self.channel(self.receiver(key)?)?.unacked;
        let at = list.partition_point(|run| run.first + u64::from(run.count) <= key.tag);
        let until = list.get(at)?.deadline?;
        Some(Leased {
            key,
            piece,
            redelivered,
            attempt,
            until,
        })
    }

    fn receiver(&self, key: LeaseKey) -> Option<ChannelKey> {
        let session = self.receivers.session?;
        let (known, channel) = (self.receivers.channels.get(&key.queue), key.channel);
        (known == Some(&channel)).then_some(ChannelKey { session, channel })
    }

    /// What came for receivers since the last time goes to them.
    pub(crate) fn hand_over(&mut self) {
        let Some(session) = self.receivers.session else {
            return;
        };
        for out in self.take_outbox(session) {
            match out {
                Out::Deliver {
                    channel,
                    tag,
                    first,
                    piece,
                    redelivered,
                } => {
                    let Some(&queue) = self.receivers.queues.get(&channel) else {
                        continue;
                    };
                    let key = LeaseKey {
                        queue,
                        channel,
                        tag: first,
                    };
                    match self.leased(key, piece, redelivered) {
                        Some(first) => self.tell(&tag, first),
                        None => _ = self.end_lease(key, Ending::Released),
                    }
                }
                Out::Cancel { tag, .. } => {
                    if let Some(waiting) = self.receivers.waiting.remove(&tag) {
                        let error = Error::NotFound {
                            noun: Noun::Queue,
                            name: String::new(),
                            detail: "the queue was deleted".into(),
                        };
                        let _ = waiting.tell.send(Err(error));
                    }
                }
                _ => {}
            }
        }
    }

    /// The first message of a receiver that waited, and what else is there.
    fn tell(&mut self, tag: &Arc<[u8]>, first: Leased) {
        let lease = first.key;
        let Some(waiting) = self.receivers.waiting.remove(tag) else {
            self.end_lease(lease, Ending::Released);
            return;
        };
        let (id, key) = (waiting.queue, waiting.key);
        let room = OUTBOX_BYTES.saturating_sub(outbox_bytes(&first.piece));
        let mut all = vec![first];
        if waiting.max > 1 && room > 0 {
            all.extend(self.fill(id, key, tag, (waiting.max - 1, room)));
        }
        self.cancel(key, tag);
        if let Err(Ok(all)) = waiting.tell.send(Ok(all)) {
            all.into_iter()
                .for_each(|leased| _ = self.end_lease(leased.key, Ending::Released));
        }
    }

    /// A receiver waits no longer. What was on its way to it is told before.
    pub(crate) fn give_up(&mut self, tag: &Arc<[u8]>) {
        self.hand_over();
        if let Some(waiting) = self.receivers.waiting.remove(tag) {
            self.cancel(waiting.key, tag);
        }
    }

    /// False when a queue would refuse one of so many messages, with so many bytes of body in all,
    /// or stop its publisher.
    pub(crate) fn has_room(&self, id: QueueId, count: u64, bytes: u64) -> bool {
        let limited = |q: &&Queue| q.arguments.reject_publish || q.arguments.block;
        let Some(queue) = self.queues.get(&id).filter(limited) else {
            return true;
        };
        let (log, asked) = (&queue.log, &queue.arguments);
        if asked.block && log.ready() == 0 {
            // Whatever its size: it can stop nobody but the next one.
            return true;
        }
        let fits = |max: Option<u64>, sum: u64| max.is_none_or(|max| sum <= max);
        fits(asked.max_length, log.ready() + count)
            && fits(asked.max_length_bytes, log.ready_body_bytes() + bytes)
    }

    /// Keeps the key of a request that is no job, with the next commit.
    pub(crate) fn claim_alone(&mut self, key: KeyClaim) {
        let at = clock::now();
        self.pending.jobs.push(JobChange::Claim { key, at });
    }

    /// True when the name is the address of a call's reply.
    pub(crate) fn is_job_reply(&self, name: &str) -> bool {
        name.strip_prefix(REPLY_TO_JOB)
            .and_then(JobId::parse)
            .is_some()
    }

    /// Ends a lease. False: it had ended, and nothing is changed.
    pub fn end_lease(&mut self, lease: LeaseKey, ending: Ending<'_>) -> bool {
        let Some(key) = self.receiver(lease) else {
            return false;
        };
        let Some(runs) = self.take_unacked(key, lease.tag, false) else {
            let verdict = match ending {
                Ending::Done => Verdict::Ack,
                Ending::Failed(_) => Verdict::Reject { requeue: false },
                Ending::Released => Verdict::Reject { requeue: true },
            };
            self.settled_late(key, (lease.tag, false), verdict);
            return false;
        };
        if let Ending::Done = ending {
            self.acked(key, runs);
            return true;
        }
        for run in runs {
            match ending {
                Ending::Failed(detail) => self.fail(&run, Fault::Rejected, Some(detail)),
                _ => {
                    if let Some(queue) = self.queues.get_mut(&run.queue) {
                        queue.log.put_back(run.seq, run.count, run.own.clone());
                    }
                }
            }
            self.credit(key, &run);
            self.pump(run.queue);
        }
        true
    }

    /// Gives a lease so many ms from now on, or as long as it was anew; never less than it has.
    /// Answers until when; `None`: it has ended.
    pub fn extend_lease(&mut self, lease: LeaseKey, ms: Option<u64>) -> Option<Micros> {
        let key = self.receiver(lease)?;
        self.extend(key, lease.tag, ms)
    }
}
