//! How much of the messages is in memory, and what follows when it is too much.
//!
//! Keeps: memory bounded by bytes whatever publishers do (I8): beyond a small multiple of the
//! budget nothing more is taken until the writer has caught up; consumers and acks go on.
//! A publisher whose message reached a full queue that blocks is stopped alike, alone, until there
//! is room (`credit`).
//! In: `gateway::session` asks after each turn of a publisher; `commit` and `tick` look again.

use super::*;

/// What a publisher must do after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Go,
    /// The disk is behind for a moment: rest, then ask again.
    Rest,
    /// An alarm holds, or a queue that it published to is full: wait until told.
    Wait,
}

/// Message bytes in memory, known exactly at times and from above always.
#[derive(Default)]
pub(crate) struct Memory {
    /// At the last look.
    summed: u64,
    /// Since then; what left meanwhile is not counted.
    appended: u64,
    /// Since when nothing more is taken.
    behind_since: Option<Micros>,
    /// The process is too large: nothing is kept that can be read back.
    pressed: bool,
}

impl Shard {
    pub(super) fn note_appended(&mut self, bytes: u64) {
        self.memory.appended += bytes;
        if self.memory.appended + self.memory.summed > self.budget() {
            // Messages that need no disk wake nobody: make room for them all the same.
            self.writer.notify_one();
        }
    }

    /// What may stay in memory.
    pub(super) fn budget(&self) -> u64 {
        if self.memory.pressed {
            return 0;
        }
        self.options.memory_budget
    }

    /// Bytes of messages in memory, over all queues.
    pub(crate) fn resident(&mut self) -> u64 {
        let resident = self.queues.values().map(|queue| queue.log.resident).sum();
        (self.memory.summed, self.memory.appended) = (resident, 0);
        resident
    }

    /// True while publishers rest or wait because the disk is behind.
    pub(crate) fn is_behind(&self) -> bool {
        self.memory.behind_since.is_some()
    }

    /// Looks again whether the writer has caught up. Half a budget may come while a commit runs,
    /// whose own copy is as large again.
    pub(crate) fn look_at_memory(&mut self) {
        let budget = self.options.memory_budget;
        let max = budget.saturating_add(budget / 2);
        let Some(since) = self.memory.behind_since else {
            if self.memory.summed + self.memory.appended > max && self.resident() > max {
                self.memory.behind_since = Some(clock::now());
                self.writer.notify_one();
                self.timer.notify_one();
            }
            return;
        };
        if self.resident() <= budget.saturating_add(budget / 4) {
            self.memory.behind_since = None;
            self.set_alarm(Cause::Behind, false);
        } else if clock::now() - since >= PATIENCE {
            self.set_alarm(Cause::Behind, true);
        }
    }

    /// After a publisher's turn, and again while it rests.
    pub fn pace(&mut self, session: usize) -> Pace {
        self.look_at_memory();
        match (self.is_stopped(session), self.is_behind()) {
            (true, _) => Pace::Wait,
            (false, true) => Pace::Rest,
            (false, false) => Pace::Go,
        }
    }

    /// During an alarm a publisher is read by the drop, for the sake of the acks and closes behind
    /// its messages; no more when these drops themselves have filled the memory.
    pub fn may_drip(&mut self) -> bool {
        self.memory.summed + self.memory.appended <= self.options.memory_budget.saturating_mul(4)
    }

    /// True while an alarm or a full queue stops this publisher.
    pub fn is_stopped(&self, session: usize) -> bool {
        self.alarms.any() || self.credit.waits(session)
    }

    /// True while a full queue stops this publisher, whatever alarms hold.
    pub fn waits_for_room(&self, session: usize) -> bool {
        self.credit.waits(session)
    }

    /// Publishers that a full queue stops.
    pub(crate) fn publishers_stopped(&self) -> u64 {
        self.credit.sessions() as u64
    }

    /// Why this publisher must wait, while it must.
    pub fn reason_to_wait(&self, session: usize) -> Option<String> {
        let full = self.credit.awaited(session).filter_map(|id| {
            let QueueSpec { name, vhost, .. } = &self.queues.get(&id)?.spec;
            Some(format!("queue '{name}' in vhost '{vhost}' is full"))
        });
        credit::reason(self.alarms.reason().into_iter().chain(full))
    }

    /// A message of this publisher has reached a queue that may be full.
    pub(super) fn stop_publisher(&mut self, id: QueueId, session: usize) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let stops = queue.arguments.block && (queue.stops_publishers || queue.is_at_limit());
        if !stops || !self.credit.wait(session, id) {
            return;
        }
        queue.stops_publishers = true;
        if let Some(reason) = self.reason_to_wait(session) {
            self.send(session, Out::Blocked(reason));
        }
    }

    /// Lets publishers go on where a queue has room again, or stops nobody any more.
    pub(super) fn resume_publishers(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id).filter(|q| q.stops_publishers) else {
            return;
        };
        if queue.arguments.block && !queue.is_roomy() {
            return;
        }
        queue.stops_publishers = false;
        self.end_waiting(id);
    }

    /// Nobody waits for this queue any more.
    pub(super) fn end_waiting(&mut self, id: QueueId) {
        for session in self.credit.end(id) {
            if !self.alarms.any() {
                self.send(session, Out::Unblocked);
            }
        }
    }

    /// The publisher is gone.
    pub(super) fn forget_publisher(&mut self, session: usize) {
        for id in self.credit.leave(session) {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.stops_publishers = false;
            }
        }
    }

    /// True when a queue refuses one more message, or would stop its publisher for it: whoever
    /// moves messages about, or cannot be stopped, comes again later.
    pub(crate) fn lacks_room(&self, id: QueueId, body: u64) -> bool {
        self.blocks_now(id) || self.is_full(id, body)
    }

    /// True when a publisher of one more message to this queue would be stopped.
    pub(crate) fn blocks_now(&self, id: QueueId) -> bool {
        let queue = self.queues.get(&id);
        queue.is_some_and(|queue| queue.arguments.block && queue.is_at_limit())
    }

    /// The process is too large (or is not any more): what can be read back leaves memory.
    pub(crate) fn set_pressed(&mut self, pressed: bool) {
        self.memory.pressed = pressed;
        if pressed {
            self.writer.notify_one();
        }
    }
}

impl Queue {
    /// No room for one more.
    fn is_at_limit(&self) -> bool {
        let asked = &self.arguments;
        let reached = |limit: Option<u64>, now| limit.is_some_and(|l| credit::is_reached(l, now));
        reached(asked.max_length, self.log.ready())
            || reached(asked.max_length_bytes, self.log.ready_body_bytes())
    }

    /// Far enough below its limit.
    fn is_roomy(&self) -> bool {
        let asked = &self.arguments;
        let roomy = |limit: Option<u64>, now| limit.is_none_or(|l| credit::is_roomy(l, now));
        roomy(asked.max_length, self.log.ready())
            && roomy(asked.max_length_bytes, self.log.ready_body_bytes())
    }
}

/// How long publishers rest before they are told, µs: a checkpoint's length is nothing to report.
const PATIENCE: Micros = 1_000_000;
