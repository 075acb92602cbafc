//! Messages out: whose turn, how many, and basic.get.
//!
//! Keeps: credit, windows and outboxes bound what one consumer holds.
//! In: whatever makes a message ready or gives a consumer room.

use super::lease::Running;
use super::*;

/// How messages are handed out.
#[derive(Clone, Copy)]
pub(super) struct Handing {
    redelivered: bool,
    /// The content is not in the log.
    own: bool,
    no_ack: bool,
    /// The consumer's own patience, ms.
    timeout_ms: Option<u64>,
    /// Its end returns the delivery.
    leased: bool,
}

impl Shard {
    pub(crate) fn add_consumer(&mut self, id: QueueId, consumer: Consumer) {
        let key = consumer.key;
        let tag = consumer.tag.clone();
        if let Some(channel) = self.channel(key) {
            channel.consumers.insert(tag, id);
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            // A receiver that comes and goes is no reason for a queue to go with it.
            queue.had_consumer |= !consumer.leases;
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

    pub(super) fn remove_consumer(&mut self, id: QueueId, key: ChannelKey, tag: &[u8]) {
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

    /// Hands out what can be handed out; publishers that waited for room go on.
    pub fn pump(&mut self, id: QueueId) {
        self.hand_out(id);
        if self.blocks {
            self.resume_publishers(id);
        }
    }

    fn hand_out(&mut self, id: QueueId) {
        self.watch(id);
        // Consumers yet to come in this round, what each gets, and what the last one has to get
        // still: all the same, so that a backlog is dealt out as evenly as single messages are.
        let (mut to_come, mut share, mut owed) = (0, 0, 0);
        loop {
            self.expire(id);
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            if queue.log.ready() == 0 || queue.consumers.is_empty() || queue.spec.paused {
                if queue.delays_for.is_some() {
                    self.send_on(id);
                }
                return;
            }
            let allowed = queue.allowed_now();
            queue.throttled = allowed == 0;
            if queue.throttled {
                return self.watch(id);
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
            if owed == 0 {
                if to_come == 0 {
                    to_come = able;
                    share = match able {
                        1 => 4096,
                        _ => u32::try_from(ready / (able as u64 * 4))
                            .unwrap_or(TURN_MAX)
                            .clamp(1, TURN_MAX),
                    };
                }
                to_come -= 1;
                owed = share;
            }
            let asked = &queue.arguments;
            let one = asked.message_ttl_ms.is_some()
                || (asked.counts || asked.work.is_some()) && !queue.log.attempts.is_empty();
            let left = window(consumer).unwrap_or(0);
            let max = if one {
                1
            } else {
                owed.min(consumer.credit()).min(left).min(allowed)
            };
            let now = match queue.log.may_expire() {
                true => clock::now(),
                false => Micros::MIN,
            };
            let (piece, redelivered, own) = match queue.log.take_live(max, now) {
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
                    self.fenced.push(id);
                    self.want_commit();
                    return;
                }
                // Of the ready ones each waits for its key.
                Take::Empty => return self.watch(id),
            };
            queue.rate.spend(piece.count);
            let (key, tag, no_ack) = (consumer.key, consumer.tag.clone(), consumer.no_ack);
            let handing = Handing {
                redelivered,
                own,
                no_ack,
                timeout_ms: consumer.timeout_ms,
                leased: consumer.leases,
            };
            if !no_ack {
                consumer.unacked += piece.count;
            }
            // A run ends with its block; who got less than its share goes on.
            owed = max.saturating_sub(piece.count);
            if owed > 0 {
                queue.consumers.stay();
            }
            self.deliver(id, (key, tag), piece, handing);
        }
    }

    pub(super) fn deliver(
        &mut self,
        id: QueueId,
        (key, tag): (ChannelKey, Arc<[u8]>),
        mut piece: Piece,
        handing: Handing,
    ) {
        let Handing {
            redelivered,
            own,
            no_ack,
            timeout_ms,
            leased,
        } = handing;
        self.counters.delivered += u64::from(piece.count);
        if redelivered {
            self.counters.redelivered += u64::from(piece.count);
        }
        self.note_started(id, key, &piece);
        if self.tracing {
            self.trace_delivery(id, key, &piece, redelivered);
        }
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let asked = &queue.arguments;
        let patience = match &asked.work {
            Some(_) if leased && timeout_ms.is_some() => timeout_ms,
            Some(_) => queue.lease_ms(),
            // RabbitMQ 4.3 asks for no patience of its own but on quorum queues.
            None => timeout_ms
                .or(asked.consumer_timeout_ms)
                .or_else(|| self.options.consumer_timeout_ms.filter(|_| asked.quorum)),
        };
        let patience = patience.filter(|ms| *ms > 0 && !no_ack);
        let now = patience.map_or(0, |_| clock::now());
        let deadline = patience.map(|ms| later(now, ms));
        let is_measured = asked
            .work
            .as_ref()
            .is_some_and(|work| work.lease_ms.is_none());
        // What comes back is the message without what this delivery says of its attempts.
        let own = own.then(|| piece.clone());
        if redelivered && let Some(&returns) = queue.log.attempts.get(&piece.first) {
            if let Some(work) = &asked.work {
                let rules = retry::for_message(work, &piece.block, piece.index(0));
                let failures = queue.failures.get(&piece.first);
                let failures = failures.map_or(&[][..], Vec::as_slice);
                piece = numbered(&piece, returns + 1, rules.retry_limit, failures);
            } else if asked.counts {
                piece = counted(&piece, returns);
            }
        }
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
            if let Some(at) = deadline {
                channel.next_lease = Some(channel.next_lease.map_or(at, |known| known.min(at)));
                if self.next_lease.is_none_or(|known| at < known) {
                    self.next_lease = Some(at);
                    self.timer.notify_one();
                }
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
                patience_ms: patience.unwrap_or(0),
                started: if is_measured { now } else { 0 },
                handed_at: now.max(self.second),
                leased,
            });
        }
        session.outbox_bytes += outbox_bytes(&piece);
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

    pub(super) fn note_started(&mut self, id: QueueId, key: ChannelKey, piece: &Piece) {
        let Some(queue) = self.queues.get(&id).filter(|q| q.arguments.work.is_some()) else {
            return;
        };
        for offset in 0..piece.count {
            if let Some(job) = job_of(&piece.block, piece.index(offset)) {
                let seq = piece.first + u64::from(offset);
                self.running.insert(job, Running::new(key, id, seq));
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
        if queue.spec.paused || queue.allowed_now() == 0 {
            return Got::Empty;
        }
        match queue.log.take_live(1, Micros::MIN) {
            Take::Run {
                piece,
                redelivered,
                own,
            } => {
                queue.rate.spend(1);
                let remaining = u32::try_from(queue.log.ready()).unwrap_or(u32::MAX);
                self.resume_publishers(id);
                let before = self
                    .sessions
                    .get(&key.session)
                    .map_or(0, |s| s.outbox.len());
                let handing = Handing {
                    redelivered,
                    own,
                    no_ack,
                    timeout_ms: None,
                    leased: false,
                };
                self.deliver(id, (key, Arc::from(&b""[..])), piece, handing);
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
                self.fenced.push(id);
                self.want_commit();
                Got::Later
            }
            Take::Empty => Got::Empty,
        }
    }

    pub(super) fn want_load(&mut self, id: QueueId, segment: SegmentId) {
        if let Some(queue) = self.queues.get_mut(&id)
            && queue.loading.is_none()
        {
            queue.loading = Some(segment);
            self.loads.push((id, segment));
            self.loader.notify_one();
        }
    }

    /// A segment that was to be read is gone: it was settled meanwhile, or merged.
    pub(crate) fn not_loaded(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.loading = None;
            self.read_back.notify_waiters();
            self.decide(id);
            self.pump(id);
        }
    }

    /// A segment was read (or could not be).
    pub(crate) fn loaded(&mut self, id: QueueId, segment: SegmentId, found: ReadBack) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.loading = None;
        self.read_back.notify_waiters();
        let before = queue.log.quarantined;
        if let ReadBack::Damaged(_) = found {
            self.pending.damaged.push(segment);
        }
        let range = queue.log.range_of(segment);
        queue.log.loaded(segment, found);
        let lost = queue.log.quarantined - before;
        self.counters.quarantined += lost;
        if lost > 0 {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            let (first, last) = range.unwrap_or_default();
            let queue = &queue.spec.name;
            tracing::error!(%queue, segment = segment.0, first, last, lost, "damaged: set aside");
        }
        self.decide(id);
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
}

/// What a delivery costs in an outbox.
pub(super) fn outbox_bytes(piece: &Piece) -> u64 {
    let (entries, count) = (&piece.block.entries, piece.count);
    let (head, last) = (&entries[piece.index(0)], &entries[piece.index(count - 1)]);
    u64::from(last.offset + last.len - head.offset) + 64 * u64::from(count)
}

impl Queue {
    /// Deliveries that its rate allows now; keys that have rested go on.
    fn allowed_now(&mut self) -> u32 {
        let resting = self.arguments.partition.as_ref();
        let rate = self.arguments.rate_limit;
        if rate.is_none() && resting.is_none_or(|partition| partition.interval == 0) {
            return u32::MAX;
        }
        let now = clock::now();
        self.log.set_now(now);
        rate.map_or(u32::MAX, |rate| self.rate.allowed(rate, now))
    }
}
