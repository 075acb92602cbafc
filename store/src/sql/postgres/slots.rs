//! Where segments and waiting rows stand, and what can become of each slot. Pure.
//!
//! Keeps: a slot is filled, rests, and is truncated once nothing of it is needed; the one that is
//! filled is never truncated, and a slot that is not empty is never filled anew.
//! Never: talks to the server.
//! In: `writer` asks what to do and tells what was done; `reader` asks where a segment is.

use std::collections::{HashMap, HashSet};

use crate::model::*;

/// Tables of each kind: `segment_00` to `segment_15`.
pub(super) const SLOTS: usize = 16;
/// Of a resting slot so little is needed that it pays to move it: one in so many bytes.
const SPARSE: u64 = 8;
/// Fewer free slots than this, and the sparsest is moved however much of it is needed.
const SPARE: usize = 3;

/// Where a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) queue: QueueId,
    pub(super) slot: usize,
    pub(super) bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Written since it was empty.
    rows: u64,
    bytes: u64,
    /// Needed of it.
    live: u64,
    live_bytes: u64,
    /// Waiting rows in it.
    pub(super) waiting: u64,
}

impl Slot {
    fn is_needed(&self) -> bool {
        self.live > 0 || self.waiting > 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    places: HashMap<SegmentId, Place>,
    all: [Slot; SLOTS],
    current: usize,
    /// Of each queue the highest message that ever waited: what is above has no row yet.
    waited: HashMap<QueueId, Seq>,
    /// When a slot is full.
    bytes_max: u64,
    rows_max: u64,
}

impl Slots {
    /// See `Options`.
    pub(super) fn limit(&mut self, bytes_max: u64, rows_max: u64) {
        (self.bytes_max, self.rows_max) = (bytes_max, rows_max);
    }

    pub(super) fn current(&self) -> usize {
        self.current
    }

    pub(super) fn place(&self, id: SegmentId) -> Option<Place> {
        self.places.get(&id).copied()
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.places.keys().copied()
    }

    pub(super) fn count(&self) -> usize {
        self.places.len()
    }

    /// Segments of queues that are gone.
    pub(super) fn of_queues(&self, queues: &[QueueId]) -> Vec<SegmentId> {
        let queues: HashSet<QueueId> = queues.iter().copied().collect();
        let of = |(id, place): (&SegmentId, &Place)| queues.contains(&place.queue).then_some(*id);
        self.places.iter().filter_map(of).collect()
    }

    /// Slots in which a waiting row may stand.
    pub(super) fn with_waiting(&self) -> impl Iterator<Item = usize> {
        let all = self.all.iter().enumerate();
        all.filter(|(_, slot)| slot.waiting > 0).map(|(at, _)| at)
    }

    /// False for a row that surely replaces none.
    pub(super) fn may_wait(&self, queue: QueueId, seq: Seq) -> bool {
        self.waited
            .get(&queue)
            .is_some_and(|&highest| seq <= highest)
    }

    /// A segment was stored, or found at a start.
    pub(super) fn put(&mut self, id: SegmentId, place: Place) {
        let slot = &mut self.all[place.slot];
        slot.rows += 1;
        slot.bytes += place.bytes;
        slot.live += 1;
        slot.live_bytes += place.bytes;
        self.places.insert(id, place);
    }

    /// A row was found at a start that is not needed.
    pub(super) fn put_dead(&mut self, slot: usize, bytes: u64) {
        self.all[slot].rows += 1;
        self.all[slot].bytes += bytes;
    }

    /// A segment is not needed any more.
    pub(super) fn forget(&mut self, id: SegmentId) {
        if let Some(place) = self.places.remove(&id) {
            let slot = &mut self.all[place.slot];
            slot.live -= 1;
            slot.live_bytes -= place.bytes;
        }
    }

    pub(super) fn put_waiting(&mut self, slot: usize, queue: QueueId, seq: Seq, bytes: u64) {
        self.all[slot].rows += 1;
        self.all[slot].bytes += bytes;
        self.all[slot].waiting += 1;
        let highest = self.waited.entry(queue).or_default();
        *highest = seq.max(*highest);
    }

    pub(super) fn drop_waiting(&mut self, slot: usize, rows: u64) {
        self.all[slot].waiting = self.all[slot].waiting.saturating_sub(rows);
    }

    /// Counted anew, where what a commit deleted is not known.
    pub(super) fn set_waiting(&mut self, slot: usize, rows: u64) {
        let slot = &mut self.all[slot];
        slot.waiting = rows;
        // What was moved there in that commit was not counted: a slot with rows is not empty.
        slot.rows = slot.rows.max(rows);
    }

    pub(super) fn forget_queues(&mut self, queues: &[QueueId]) {
        for queue in queues {
            self.waited.remove(queue);
        }
    }

    /// Waiting rows moved from one slot to another.
    pub(super) fn moved_waiting(&mut self, from: usize, to: usize, rows: u64) {
        self.drop_waiting(from, rows);
        self.all[to].waiting += rows;
        self.all[to].rows += rows;
        self.all[to].bytes += rows * WAITING_BYTES;
    }

    /// Segments moved from where they were.
    pub(super) fn moved(&mut self, ids: &[SegmentId], to: usize) {
        for id in ids {
            if let Some(place) = self.place(*id) {
                self.forget(*id);
                self.put(*id, Place { slot: to, ..place });
            }
        }
    }

    /// Rows go here from now on.
    pub(super) fn turn_to(&mut self, slot: usize) {
        self.current = slot;
    }

    /// The slot to go on with, when the present one is full and another is empty.
    pub(super) fn next(&self) -> Option<usize> {
        let now = &self.all[self.current];
        let needed: u64 = self.all.iter().map(|slot| slot.live_bytes).sum();
        if now.bytes < self.bytes_max.max(needed / 8) && now.rows < self.rows_max {
            return None;
        }
        let others = (1..SLOTS).map(|step| (self.current + step) % SLOTS);
        others.into_iter().find(|&at| self.all[at].rows == 0)
    }

    /// Resting slots of which nothing is needed.
    pub(super) fn to_truncate(&self) -> Vec<usize> {
        let all = self.all.iter().enumerate();
        let done =
            all.filter(|(at, slot)| *at != self.current && slot.rows > 0 && !slot.is_needed());
        done.map(|(at, _)| at).collect()
    }

    pub(super) fn truncated(&mut self, slot: usize) {
        self.all[slot] = Slot::default();
    }

    /// A resting slot whose rest had better stand elsewhere.
    pub(super) fn to_move(&self) -> Option<usize> {
        let free = self.all.iter().filter(|slot| slot.rows == 0).count();
        let resting = self.all.iter().enumerate();
        let resting = resting.filter(|(at, slot)| *at != self.current && slot.is_needed());
        let needed = |slot: &Slot| slot.live_bytes + slot.waiting * WAITING_BYTES;
        let sparsest = resting.min_by_key(|(_, slot)| needed(slot) * 1000 / slot.bytes.max(1));
        let (at, slot) = sparsest?;
        let is_sparse = needed(slot) * SPARSE <= slot.bytes;
        // Moving what is all needed makes no room.
        let helps = needed(slot) * 10 <= slot.bytes * 9;
        (is_sparse || free < SPARE && helps).then_some(at)
    }

    /// Some of the segments of a slot, up to so many bytes, at least one.
    pub(super) fn some_of(&self, slot: usize, bytes: u64) -> Vec<SegmentId> {
        let mut sum = 0;
        let of = self.places.iter().filter(|(_, place)| place.slot == slot);
        let some = of.take_while(|(_, place)| {
            let fits = sum == 0 || sum + place.bytes <= bytes;
            sum += place.bytes;
            fits
        });
        some.map(|(id, _)| *id).collect()
    }
}

/// About what a waiting row takes, where its size is not at hand.
pub(super) const WAITING_BYTES: u64 = 256;

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
