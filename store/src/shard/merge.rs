//! Small and mostly settled segments become few, one merge at a time.
//!
//! Keeps: reading and joining happen off the queues' path; what is written goes with the next
//! commit.
//! In: `committed` looks what is worth it, the loader reads.

use super::*;

/// Segments of one queue to be read for a merge: row, first seq, time.
pub(crate) struct Merge {
    pub(crate) queue: QueueId,
    pub(crate) rows: Vec<(SegmentId, Seq, Micros)>,
    /// They are settled and kept.
    pub(crate) retained: bool,
}

impl Shard {
    pub(super) fn consider_merge(&mut self, id: QueueId) {
        if self.merging {
            return;
        }
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let row = |log: &Log, id| log.place_of(id).map(|(first, at)| (id, first, at));
        let (rows, retained) = match (queue.log.to_merge(), &mut queue.log.retained) {
            (Some(ids), _) => {
                let rows = ids.into_iter().filter_map(|id| row(&queue.log, id));
                (rows.collect(), false)
            }
            (None, Some(retained)) => match retained.to_merge() {
                Some(rows) => (rows, true),
                None => return,
            },
            (None, None) => return,
        };
        self.merging = true;
        self.merge = Some(Merge {
            queue: id,
            rows,
            retained,
        });
        self.loader.notify_one();
    }

    /// The segments were read; `None` when they cannot be merged.
    pub(crate) fn merged(&mut self, merge: &Merge, pieces: Option<Vec<Piece>>) {
        self.merging = false;
        let Some(queue) = self.queues.get_mut(&merge.queue) else {
            return;
        };
        let ids: Vec<SegmentId> = merge.rows.iter().map(|(id, _, _)| *id).collect();
        if merge.retained {
            if let Some(retained) = &mut queue.log.retained {
                retained.merge(ids, pieces);
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
            return;
        }
        if pieces.is_some_and(|pieces| queue.log.merge(&ids, pieces)) {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            // What was asked for by the old names will not be found.
            self.decide(merge.queue);
        } else {
            queue.log.leave_unmerged(&ids);
        }
    }
}

#[cfg(test)]
impl Shard {
    /// Looks at every queue for what is worth a merge.
    pub(crate) fn consider_all_merges(&mut self) {
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        ids.into_iter().for_each(|id| self.consider_merge(id));
    }
}
