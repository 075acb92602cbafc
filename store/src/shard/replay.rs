//! Settled messages that a queue keeps are published again, step by step.
//!
//! Keeps: each step is one commit, with how far it came; what its step's commit lacks, the next
//! start does again. A copy gets a seq past the end that was fixed when the order was taken, so
//! that a replay into its own queue ends.
//! Never: reads a segment; whoever walks brings what it has read.
//! In: `Store`'s operators' verbs, which walk.

use super::sweep::{LOOK_MAX, Step};
use super::*;
use crate::queue::retained::Entry;
use crate::rules::filter::Filter;
use crate::rules::replay;

/// A retained segment, and its messages.
pub(crate) type Segment = (SegmentId, Vec<Piece>);

impl Shard {
    /// The segment that holds the next settled messages from `from` on, below `until`, which the
    /// filter may mean by their time.
    pub(crate) fn next_retained(
        &self,
        id: QueueId,
        (mut from, until): (Seq, Seq),
        filter: &Filter,
    ) -> Option<Entry> {
        let retained = self.queues.get(&id)?.log.retained.as_ref()?;
        loop {
            let entry = retained.from(from);
            let entry = entry.filter(|entry| from < until && entry.first < until)?;
            let early = filter.since.is_some_and(|since| entry.last_at < since);
            let late = filter.until.is_some_and(|until| entry.first_at >= until);
            if !early && !late {
                return Some(entry);
            }
            from = entry.last + 1;
        }
    }

    /// True when a message that a retained segment holds is settled: it does not wait for another
    /// try.
    pub(crate) fn is_settled(&self, id: QueueId, seq: Seq) -> bool {
        self.queues.get(&id).is_some_and(|q| !q.log.has(seq))
    }

    /// One step of a replay: at most `most` copies, out of the segment that was `read`.
    pub(crate) fn replay_step(&mut self, id: &str, most: u32, read: Option<&Segment>) -> Step {
        let running = |row: &&RedriveRow| row.state == RedriveState::Running;
        let Some(mut row) = self.redrives.get(id).filter(running).cloned() else {
            return Step::Ended;
        };
        let (Some(filter), Some(name)) = (Filter::decode(&row.filter), row.target.clone()) else {
            return self.end_redrive(row, RedriveState::Failed, "no such order".into());
        };
        let source = self.queues.get(&row.queue);
        if source.is_none_or(|queue| queue.log.retained.is_none()) {
            let (source, vhost) = (&row.source, &row.vhost);
            let detail = format!("queue '{source}' in vhost '{vhost}' keeps no settled messages");
            return self.end_redrive(row, RedriveState::Failed, detail);
        }
        let target = match self.queue(0, &row.vhost, &name) {
            Ok(target) => target,
            Err(error) => return self.end_redrive(row, RedriveState::Failed, error.to_string()),
        };
        let Some(entry) = self.next_retained(row.queue, (row.next, row.until), &filter) else {
            return self.end_redrive(row, RedriveState::Done, String::new());
        };
        let Some((_, pieces)) = read.filter(|(id, _)| *id == entry.id) else {
            return Step::Read(entry);
        };
        let (mut copied, mut looked) = (0, 0);
        let from = row.next;
        let upto = |piece: &Piece| piece.first + u64::from(piece.count);
        let pieces = pieces.iter().filter(|piece| upto(piece) > from);
        let seqs = pieces.flat_map(|piece| {
            let skip = from.saturating_sub(piece.first) as u32;
            (skip..piece.count).map(move |offset| (piece, offset))
        });
        for (piece, offset) in seqs {
            let seq = piece.first + u64::from(offset);
            if seq >= row.until {
                break;
            }
            if copied == most || looked == LOOK_MAX {
                row.next = seq;
                self.put_redrive(row);
                return Step::Moved(copied);
            }
            looked += 1;
            let index = piece.index(offset);
            if !filter.matches(&piece.block, index, piece.at) || !self.is_settled(row.queue, seq) {
                continue;
            }
            let body = u64::from(piece.entry(offset).body_size);
            if self.lacks_room(target, body) {
                row.next = seq;
                self.wait_for_room(row, copied > 0);
                return Step::Full;
            }
            let raw = replay::properties(piece.block.properties(index), &row.source, seq);
            let mut block = Block::default();
            let address = piece.block.address(index);
            block.push_copy(&piece.block, index, address, Some(&raw));
            self.append_moved(target, Arc::new(block));
            row.moved += 1;
            copied += 1;
        }
        if pieces_are_missing(&entry, read) {
            row.skipped += u64::from(entry.count);
        }
        row.next = (entry.last + 1).min(row.until);
        self.put_redrive(row);
        Step::Moved(copied)
    }
}

/// The segment could not be read.
fn pieces_are_missing(entry: &Entry, read: Option<&Segment>) -> bool {
    entry.count > 0 && read.is_some_and(|(_, pieces)| pieces.is_empty())
}
