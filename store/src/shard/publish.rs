//! Messages in: appended to the queues they reach, confirmed.
//!
//! Keeps: one claim to a confirm per run; refused messages are told at once.
//! In: `route`, `settle`, `Store`.

use super::*;

impl Shard {
    pub(crate) fn append_all(
        &mut self,
        queues: &[QueueId],
        key: Option<ChannelKey>,
        block: &Arc<Block>,
        (first, count): (u32, u32),
        confirm: u64,
    ) {
        if count > 1 && queues.iter().any(|id| self.may_refuse(*id)) {
            // There may be room for some of them only.
            for offset in 0..count {
                let confirm = if confirm == 0 {
                    0
                } else {
                    confirm + u64::from(offset)
                };
                self.append_all(queues, key, block, (first + offset, 1), confirm);
            }
            return;
        }
        // What this drives out of a queue has no part in them.
        let copies = std::mem::take(&mut self.copies);
        let disk_first = self.disk_first;
        let now = clock::now();
        let persistent = block.entries[first as usize].flags & Entry::PERSISTENT != 0;
        let piece = Piece::new(0, count, block.clone(), first, now);
        // What is delayed is written whatever its delivery mode: it may wait for long.
        let durable = |shard: &Self, id: &QueueId| {
            shard.queues.get(id).is_some_and(|queue| {
                queue.spec.durable && (persistent || queue.delays_for.is_some())
            })
        };
        let saved = queues.iter().filter(|id| durable(self, id)).count() as u32;
        let body = u64::from(block.entries[first as usize].body_size);
        let full: Vec<QueueId> = queues
            .iter()
            .copied()
            .filter(|id| self.is_full(*id, body))
            .collect();
        let refused = !full.is_empty();
        if refused {
            self.note_refused(block, first, count);
        }
        let ticket = match key.filter(|_| confirm != 0) {
            Some(channel) if refused => {
                self.refuse(channel, confirm, count);
                0
            }
            Some(channel) if saved > 0 && !planted(Planted::ConfirmedEarly) => {
                self.claim(channel, (confirm, count), saved * count)
            }
            Some(_) => {
                self.confirm_now(key, confirm, count, false);
                0
            }
            None => 0,
        };
        self.note_appended(piece.memory_bytes() * queues.len() as u64);
        for id in queues {
            if full.contains(id) {
                self.turn_away(*id, &piece);
                continue;
            }
            let Some(queue) = self.queues.get_mut(id) else {
                continue;
            };
            if queue.delays_for.is_some() {
                self.hold_back(*id, block, (first, count), now, &copies);
                continue;
            }
            let mut piece = piece.clone();
            // A key shares its message's fate, so with a window both are written; what is to be
            // kept must be written, too.
            let writes = persistent || disk_first || queue.writes_all();
            piece.persistent = writes && queue.spec.durable;
            piece.ticket = if piece.persistent { ticket } else { 0 };
            if piece.persistent {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
            if queue.unique.is_some() {
                self.append_unique(*id, &piece);
            } else if queue.arguments.work.is_some() && piece.wants_delay() {
                self.append_timed(*id, &piece);
            } else {
                queue.log.append(piece);
            }
            if let Some(queue) = self
                .queues
                .get_mut(id)
                .filter(|q| q.spec.durable && disk_first)
            {
                queue.log.wait_for_disk();
            }
            // What a consumer takes at once is never one too many.
            self.pump(*id);
            self.trim(*id);
            if let Some(publisher) = key.filter(|_| self.blocks) {
                self.stop_publisher(*id, publisher.session);
            }
            self.slow |= self.queues.get(id).is_some_and(|queue| {
                queue.log.ready_bytes() > SLOW_BYTES && !queue.consumers.is_empty()
            });
        }
        if self.wanted {
            self.writer.notify_one();
        }
    }

    pub(super) fn refuse(&mut self, channel: ChannelKey, confirm: u64, count: u32) {
        for number in confirm..confirm + u64::from(count) {
            let out = Out::Refuse {
                channel: channel.channel,
                number,
            };
            self.send(channel.session, out);
        }
    }

    /// A publisher's claim to confirms that come with the next commit, or before it when so many
    /// copies are settled first.
    fn claim(&mut self, channel: ChannelKey, (first, count): (u64, u32), outstanding: u32) -> u64 {
        let ticket = self.ticket_base + self.tickets.len() as u64;
        self.tickets.push_back(Ticket {
            channel,
            first,
            count,
            outstanding,
            done: false,
        });
        self.wanted = true;
        ticket
    }

    /// Appends what the queue does not have already.
    fn append_unique(&mut self, id: QueueId, piece: &Piece) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for offset in 0..piece.count {
            let (seq, message) = (queue.log.next_seq(), (&*piece.block, piece.index(offset)));
            let (log, unique) = (&queue.log, queue.unique.as_mut());
            if unique.is_none_or(|keys| keys.admit(message, seq, piece.at, |seq| log.has(seq))) {
                queue.log.append(piece.slice(offset, 1));
            } else {
                queue.deduplicated += 1;
                self.counters.deduplicated += 1;
            }
        }
    }

    /// Writes a message to the queues it reaches without handing it out yet: a tick must be in
    /// the ledger before anybody sees it (I7). `None`: no such exchange.
    pub(crate) fn hold(&mut self, vhost: &Arc<str>, block: &Arc<Block>) -> Option<Vec<Held>> {
        let now = clock::now();
        self.counters.published += 1;
        let mut held = Vec::new();
        for id in self.route(vhost, block, 0)?.as_slice().iter().copied() {
            if self.windows && !self.admits(id, block) {
                continue;
            }
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            if queue.delays_for.is_some() {
                self.hold_back(id, block, (0, 1), now, &[]);
                continue;
            }
            if !queue.spec.durable {
                held.push(Held {
                    queue: id,
                    seq: None,
                    piece: Piece::new(0, 1, block.clone(), 0, now),
                });
                continue;
            }
            let seq = queue.log.reserve(true);
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            let mut encoder = segment::Encoder::default();
            encoder.push(block, 0, 0, 0);
            let (index, data) = encoder.finish();
            self.pending.waiting.push(WaitingRow {
                queue: id,
                seq,
                due_at: now,
                attempt: 0,
                accepted_at: now,
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

    pub(super) fn may_refuse(&self, id: QueueId) -> bool {
        let queue = self.queues.get(&id);
        queue.is_some_and(|queue| queue.arguments.reject_publish)
    }

    /// True when a message of so many body bytes would be one too many.
    pub(super) fn is_full(&self, id: QueueId, body: u64) -> bool {
        let Some(queue) = self.queues.get(&id).filter(|q| q.arguments.reject_publish) else {
            return false;
        };
        let (log, asked) = (&queue.log, &queue.arguments);
        asked.max_length.is_some_and(|max| log.ready() + 1 > max)
            || asked
                .max_length_bytes
                .is_some_and(|max| log.ready_body_bytes() + body > max)
    }

    /// A message for which there was no room, and where it goes instead.
    pub(super) fn turn_away(&mut self, id: QueueId, piece: &Piece) {
        let queue = self.queues.get(&id);
        if queue.is_some_and(|queue| queue.arguments.bury_refused) {
            self.dead_letter(id, piece, Reason::Maxlen);
        }
    }

    /// Drops heads beyond the queue's length, where that is how it stays short.
    pub(super) fn trim(&mut self, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            let (log, asked) = (&queue.log, &queue.arguments);
            let over = asked.max_length.is_some_and(|max| log.ready() > max)
                || asked
                    .max_length_bytes
                    .is_some_and(|max| log.ready_body_bytes() > max);
            if !over || asked.reject_publish || asked.block {
                return;
            }
            let piece = match queue.log.take_head() {
                Take::Run { piece, .. } => piece,
                // Its body goes to a dead-letter exchange; the next tick looks again.
                Take::Load(segment) => return self.want_load(id, segment),
                Take::Fence | Take::Empty => return,
            };
            self.bury(id, &piece, Reason::Maxlen);
        }
    }

    /// True when a publisher since the last call was faster than its consumers, who come first.
    pub fn take_slow(&mut self) -> bool {
        std::mem::take(&mut self.slow) || self.tickets.len() > TICKETS_MAX
    }

    pub(super) fn mark_dirty(dirty: &mut Vec<QueueId>, writer: &Notify, queue: &mut Queue) {
        if queue.spec.durable && !queue.dirty {
            queue.dirty = true;
            if dirty.is_empty() {
                writer.notify_one();
            }
            dirty.push(queue.spec.id);
        }
    }

    /// Confirms at once, or with the next commit when `durable`.
    pub(super) fn confirm_now(
        &mut self,
        key: Option<ChannelKey>,
        first: u64,
        count: u32,
        durable: bool,
    ) {
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

    pub(super) fn want_commit(&mut self) {
        self.wanted = true;
        self.writer.notify_one();
    }

    /// Resolves when everything done so far is on disk, or never will be.
    pub fn on_disk(&mut self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        if !self.closed {
            self.waiters.push(tell);
        }
        self.want_commit();
        told
    }

    /// Whoever waits for the disk, or will, is told that nothing comes any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.waiters.clear();
    }

    pub(super) fn release(&mut self, settled: Vec<(u64, u32)>) {
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
}

impl Queue {
    /// True when every message goes to disk, whatever its publisher asked.
    pub(super) fn writes_all(&self) -> bool {
        self.window.is_some() || self.log.retained.is_some()
    }
}
