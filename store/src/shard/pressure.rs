//! How much of the messages is in memory, and what follows when it is too much.
//!
//! Keeps: memory bounded by bytes whatever publishers do (I8): beyond a small multiple of the
//! budget nothing more is taken until the writer has caught up; consumers and acks go on.
//! In: `gateway::session` asks after each turn of a publisher; `commit` and `tick` look again.

use super::*;

/// What a publisher must do after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Go,
    /// The disk is behind for a moment: rest, then ask again.
    Rest,
    /// An alarm holds: wait until told.
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
    pub fn pace(&mut self) -> Pace {
        self.look_at_memory();
        match (self.alarms.any(), self.is_behind()) {
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

    /// The process is too large (or is not any more): what can be read back leaves memory.
    pub(crate) fn set_pressed(&mut self, pressed: bool) {
        self.memory.pressed = pressed;
        if pressed {
            self.writer.notify_one();
        }
    }
}

/// How long publishers rest before they are told, µs: a checkpoint's length is nothing to report.
const PATIENCE: Micros = 1_000_000;
