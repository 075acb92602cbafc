//! What a start leaves out of the image, and the engine then deletes bit by bit.
//!
//! Keeps: what only a crash, or a queue deleted a moment before it, can have left.
//! Never: deletes.
//! In: the SQL engines' `load`.

use std::collections::{HashSet, VecDeque};

use super::Image;
use crate::model::*;

/// Rows that nobody can see any more and `maintain` has yet to delete.
#[derive(Default)]
pub(super) struct Doomed {
    pub(super) queues: Vec<QueueId>,
    pub(super) segments: VecDeque<SegmentId>,
}

/// Takes transient segments, and all rows of queues that are gone, out of the image.
pub(super) fn prune(image: &mut Image) -> Doomed {
    let queues: HashSet<QueueId> = image.queues.iter().map(|queue| queue.id).collect();
    let mut doomed = Doomed::default();
    image.heads.retain(|row| queues.contains(&row.queue));
    image.segments.retain(|row| {
        let keep = queues.contains(&row.queue) && !row.transient;
        if !keep {
            doomed.segments.push_back(row.id);
        }
        keep
    });
    let kept: HashSet<SegmentId> = image.segments.iter().map(|row| row.id).collect();
    image.settled.retain(|(id, _)| kept.contains(id));
    let mut gone = HashSet::new();
    image.retained.retain(|row| {
        if !queues.contains(&row.queue) && gone.insert(row.queue) {
            doomed.queues.push(row.queue);
        }
        kept.contains(&row.segment)
    });
    image.waiting.retain(|row| {
        let keep = queues.contains(&row.queue);
        if !keep && gone.insert(row.queue) {
            doomed.queues.push(row.queue);
        }
        keep
    });
    image.deduplication.retain(|row| {
        let keep = queues.contains(&row.queue);
        if !keep && gone.insert(row.queue) {
            doomed.queues.push(row.queue);
        }
        keep
    });
    doomed
}
