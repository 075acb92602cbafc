//! How often messages of the log came back, for a restart. Pure.
//!
//! Keeps: a count that the store knows has a row there until its message is settled or moves to a
//! row of its own, which then tells the count.
//! In: `Log`; `shard` asks for counts to be recorded and writes them with the next commit.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::{Log, Seq};

/// Which counts the store is to know, and which it knows.
#[derive(Default)]
pub(super) struct Counts {
    fresh: HashSet<Seq, RandomState>,
    recorded: HashSet<Seq, RandomState>,
}

impl Log {
    /// The count of a message is to survive a restart, if the message does. One in a row of its own
    /// has it there.
    pub fn record_count(&mut self, seq: Seq) {
        let stays = |at: usize| self.chunks[at].keeps(seq);
        if !self.stragglers.contains(&seq)
            && !self.is_waiting(seq)
            && self.chunk_of(seq).is_some_and(stays)
        {
            self.counts.fresh.insert(seq);
        }
    }

    /// Counts for the next commit to write.
    pub fn take_counts(&mut self) -> Vec<(Seq, u32)> {
        let fresh: Vec<Seq> = self.counts.fresh.drain().collect();
        self.counts.recorded.extend(fresh.iter().copied());
        let known = |seq| self.attempts.get(&seq).map(|count| (seq, *count));
        fresh.into_iter().filter_map(known).collect()
    }

    /// The store knows of a count; when its message is gone, the row may go.
    pub fn recall_count(&mut self, seq: Seq, count: u32) {
        if self.has(seq) {
            self.attempts.insert(seq, count);
            self.counts.recorded.insert(seq);
        } else {
            self.dead_rows.push(seq);
        }
    }

    /// The message is settled, or moves.
    pub(super) fn forget_count(&mut self, seq: Seq) {
        self.attempts.remove(&seq);
        self.counts.fresh.remove(&seq);
        if self.counts.recorded.remove(&seq) {
            self.dead_rows.push(seq);
        }
    }

    /// All messages from `from` on are settled.
    pub(super) fn forget_counts(&mut self, from: Seq) {
        let gone = self.attempts.keys().filter(|seq| **seq >= from);
        let gone: Vec<Seq> = gone.copied().collect();
        for seq in gone {
            if !self.is_waiting(seq) {
                self.forget_count(seq);
            }
        }
    }
}
