//! Where the dead go: messages that were rejected, expired, or had no room.
//!
//! Keeps: the move is one commit, and while a message lives on, its publisher hears of it with that
//! commit and not before (I2). Under `at-least-once` one that has nowhere to go waits here.
//! In: `settle`, `time`, `deliver`, `publish`.
//! RabbitMQ: rabbit_dead_letter, rabbit_fifo_dlx_worker.

use super::*;

/// Before a dead message that had nowhere to go is tried again, ms: long enough that very many of
/// them cost little.
const DEAD_RETRY_MS: u64 = 30_000;

/// A dead message on its way.
struct Passage {
    block: Arc<Block>,
    targets: Vec<QueueId>,
}

impl Shard {
    /// An unacked message ends in this queue and goes where the dead go, in one commit.
    pub(super) fn bury(&mut self, id: QueueId, piece: &Piece, reason: Reason) {
        let passage = self.passage(id, piece, reason);
        if self.must_wait(id, passage.as_ref()) {
            return self.keep_dead(id, piece, reason);
        }
        self.tell_end(piece, reason);
        let lives_on = self.pass_dead(passage, reason);
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.failures.remove(&piece.first);
        if planted(Planted::DeadUnsettled) {
            return;
        }
        let settled = queue.log.settle(piece.first, 1);
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        if !lives_on {
            self.release(settled.tickets);
        }
    }

    /// Sends a message that never was in the queue on to where its dead go.
    pub(super) fn dead_letter(&mut self, id: QueueId, piece: &Piece, reason: Reason) {
        self.tell_end(piece, reason);
        let passage = self.passage(id, piece, reason);
        self.pass_dead(passage, reason);
    }

    /// A message that waited is ready again, or still dead.
    pub(super) fn wake(&mut self, id: QueueId, seq: Seq, piece: Piece) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let has_headers = piece.entry(0).flags & Entry::HAS_HEADERS != 0;
        let raw = piece.block.properties(piece.index(0));
        let dead = has_headers.then(|| dead_letter::kept(raw)).flatten();
        let Some((reason, raw)) = dead else {
            return queue.log.wake(seq, piece);
        };
        queue.log.take_waiting(seq);
        let mut block = Block::default();
        let index = piece.index(0);
        block.push_copy(&piece.block, index, piece.block.address(index), Some(&raw));
        let piece = Piece::new(seq, 1, Arc::new(block), 0, piece.at);
        self.bury(id, &piece, reason);
    }

    /// True when the queue lets go of no message that has nowhere to go, and this one has not.
    fn must_wait(&self, id: QueueId, passage: Option<&Passage>) -> bool {
        let queue = self.queues.get(&id);
        if !queue.is_some_and(|queue| queue.arguments.keeps_dead) {
            return false;
        }
        passage.is_none_or(|passage| {
            let body = u64::from(passage.block.entries[0].body_size);
            let targets = &passage.targets;
            targets.is_empty() || targets.iter().any(|target| self.is_full(*target, body))
        })
    }

    /// A dead message waits until there is a way, and says so in its row.
    fn keep_dead(&mut self, id: QueueId, piece: &Piece, reason: Reason) {
        let known = self.queues.get(&id);
        let known = known.and_then(|queue| queue.log.attempts.get(&piece.first));
        let attempts = known.copied().unwrap_or(0);
        let raw = dead_letter::keep(piece.block.properties(piece.index(0)), reason);
        self.park(id, (piece.first, piece), &raw, attempts, DEAD_RETRY_MS);
        // It goes to another queue, not to a taker of this one.
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.log.waiting.hurry(piece.first);
        }
    }

    /// A call ends with its message.
    fn tell_end(&mut self, piece: &Piece, reason: Reason) {
        let expired = reason == Reason::Expired;
        if expired {
            self.counters.expired += 1;
        }
        let Some(id) = job_of(&piece.block, piece.index(0)) else {
            return;
        };
        let (state, code) = match expired {
            true => (JobState::Expired, "deadline-exceeded"),
            false => (JobState::Failed, "worker-error"),
        };
        let detail = format!("the call was dead-lettered: {}", reason.as_str());
        let error = Some(JobError {
            code: code.into(),
            detail,
        });
        self.pending.jobs.push(JobChange::Finish {
            id,
            state,
            at: clock::now(),
            error,
            result: None,
        });
        self.want_commit();
    }

    /// The message as it goes on, and to which queues; `None`: its queue's dead go nowhere.
    fn passage(&mut self, id: QueueId, piece: &Piece, reason: Reason) -> Option<Passage> {
        let index = piece.index(0);
        let queue = self.queues.get(&id)?;
        let attempts = queue.attempts_of(piece);
        let attempts = attempts.filter(|_| !planted(Planted::RecordForgotten));
        let name = queue.spec.name.clone();
        let vhost = queue.spec.vhost.clone();
        let old = piece.block.address(index);
        let arguments = &queue.arguments;
        let key = arguments.dead_letter_key.clone().map(String::into_bytes);
        let has_key = key.is_some();
        let work = arguments.work.is_some();
        let (exchange, key) = match arguments.dead_letter_exchange.clone() {
            Some(exchange) => (exchange, key.unwrap_or_else(|| old.routing_key().to_vec())),
            None if work && reason != Reason::Expired => {
                let target = format!("{name}.dlq");
                self.ensure_queue(&vhost, &target, false);
                (String::new(), target.into_bytes())
            }
            None => return None,
        };
        let seconds = (clock::now() / 1_000_000) as u64;
        let attempts = attempts.as_ref();
        let mut raw =
            dead_letter::properties(&piece.block, index, &name, reason, seconds, attempts);
        if has_key {
            raw = dead_letter::without_copies(raw);
        }
        let mut block = Block::default();
        let address = Address::new(exchange.as_bytes(), &key);
        block.push_copy(&piece.block, index, &address, Some(&raw));
        block.entries[0].flags &= !Entry::JOB;
        let block = Arc::new(block);
        let found = self.route(&vhost, &block, 0)?;
        let before = piece.block.properties(index);
        let goes = |target: &QueueId| {
            self.queues.get(target).is_some_and(|queue| {
                *target != id && !dead_letter::is_cycle(before, &queue.spec.name, reason)
                    || reason == Reason::Rejected
            })
        };
        let targets = found.as_slice().iter().copied().filter(goes).collect();
        Some(Passage { block, targets })
    }

    /// False: it goes nowhere.
    fn pass_dead(&mut self, passage: Option<Passage>, reason: Reason) -> bool {
        let Some(Passage { block, targets }) = passage else {
            return false;
        };
        let counts = &mut self.counters.dead_lettered;
        *counts.entry(reason.as_str()).or_default() += 1;
        if targets.is_empty() {
            return false;
        }
        self.append_all(&targets, None, &block, (0, 1), 0);
        true
    }
}
