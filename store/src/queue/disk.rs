//! A log's way to disk and back: what a commit takes, what it may forget, what is read again.
//!
//! Keeps: a message is either in a row, in a chunk that a commit will take, or need not survive.
//! In: `Shard::cut` and `committed`, the loader, recovery.

use super::retained::{Changes, Entry};
use super::*;

/// A segment as found on disk, without its bodies.
pub struct Stored<'a> {
    pub id: SegmentId,
    pub first: Seq,
    /// Inclusive.
    pub last: Seq,
    pub count: u32,
    /// Body bytes.
    pub bytes: u64,
    pub at: Micros,
    pub last_at: Micros,
    /// What a row of its own says is settled, one bit per seq from `first`.
    pub settled: Option<&'a [u8]>,
}

/// A queue's place as the newest commit recorded it.
#[derive(Clone, Copy, Default)]
pub struct Marks {
    /// Everything below is settled or waits in a row.
    pub head: Seq,
    /// Messages below may have been handed out.
    pub handed: Seq,
    pub next: Seq,
}

impl Log {
    /// A log as found on disk, segments in order, and those (first seq, time) whose bodies must be
    /// read once and given to `recount` before the log is used.
    pub fn restore<'a>(
        stored: impl Iterator<Item = Stored<'a>>,
        marks: Marks,
        levels: u8,
    ) -> (Self, Vec<(SegmentId, Seq, Micros)>) {
        let mut log = Self {
            cursor: marks.head,
            next: marks.next,
            handed: marks.handed,
            recovered_handed: marks.handed,
            levels,
            expiring: true,
            ready_body: Some(0),
            ..Self::default()
        };
        let mut partial = Vec::new();
        for row in stored {
            log.next = log.next.max(row.last + 1);
            let (id, first) = (row.id, row.first);
            let (count, bytes, last_at) = (row.count, row.bytes, row.last_at);
            let content = Row {
                count,
                bytes,
                last_at,
            };
            let mut chunk = Chunk::saved(id, (first, row.last), content, row.at);
            log.ready += u64::from(row.count);
            log.ready_bytes += row.bytes;
            if marks.head > first || row.settled.is_some() || levels > 0 {
                chunk.mark_settled(marks.head, row.settled);
                partial.push((id, first, row.at));
            }
            log.chunks.push_back(chunk);
        }
        log.ready_body = Some(log.ready_bytes);
        log.unsaved_from = log.next;
        if levels > 0 {
            log.cursor = log.next;
        }
        (log, partial)
    }

    /// Recovery of a segment that was read: counts what is left, keeps no body.
    pub fn recount(&mut self, id: SegmentId, found: ReadBack) {
        let (pieces, removable) = found.pieces();
        let Some(at) = self.position(id) else {
            return;
        };
        let chunk = &mut self.chunks[at];
        let (before, bytes) = (chunk.live, chunk.bytes);
        chunk.load(pieces);
        self.ready = self.ready.saturating_sub(u64::from(before - chunk.live));
        let left = chunk.live_body_bytes();
        self.ready_bytes = (self.ready_bytes + left).saturating_sub(bytes);
        self.ready_body = self
            .ready_body
            .map(|all| (all + left).saturating_sub(bytes));
        if self.levels > 0 {
            let chunk = &self.chunks[at];
            let live = (chunk.first..=chunk.last).filter(|&seq| !chunk.is_settled(seq));
            for seq in live.collect::<Vec<_>>() {
                self.stand_by_priority(seq, 1, seq < self.recovered_handed);
            }
        }
        let chunk = &mut self.chunks[at];
        chunk.evict();
        chunk.noted = chunk.is_sparse(&self.thrift) && self.retained.is_none();
        if chunk.noted {
            self.merge.became_sparse(chunk.first, 0);
        }
        chunk.removable &= removable;
        if chunk.is_done()
            && let Some(chunk) = self.chunks.remove(at)
        {
            self.retire(&chunk);
        }
    }

    /// Chunks that a commit should append, in order; under memory `pressure` also those that
    /// only need room. `each` answers the row's id.
    pub fn start_saving(&mut self, pressure: bool, mut each: impl FnMut(&mut Chunk)) {
        let from = if pressure { 0 } else { self.unsaved_from };
        let retained = self.retained.is_some();
        let at = self.chunks.partition_point(|chunk| chunk.last < from);
        for chunk in self.chunks.range_mut(at..) {
            if chunk.wants_saving(pressure, retained) {
                each(chunk);
            }
        }
        self.unsaved_from = match self.chunks.back() {
            Some(back) if back.is_open() => back.first,
            _ => self.next,
        };
    }

    /// Settled bits that the queue's head does not tell, of segments already on disk.
    pub fn settled_rows(&mut self, mut each: impl FnMut(SegmentId, Vec<u8>)) {
        let touched = std::mem::take(&mut self.touched);
        for first in touched {
            let at = self.chunks.partition_point(|chunk| chunk.last < first);
            let Some(chunk) = self.chunks.get_mut(at).filter(|chunk| chunk.first == first) else {
                continue;
            };
            match chunk.place {
                Place::Saved(_) if at == 0 && chunk.is_settled_in_order() => {
                    chunk.unsaved_bits = false;
                }
                Place::Saved(id) => {
                    if let Some(bits) = chunk.bits_to_save() {
                        each(id, bits);
                    }
                }
                _ => self.touched.push(first),
            }
        }
    }

    /// A segment is on disk, and holds this.
    pub fn saved(&mut self, id: SegmentId, row: Row) {
        let found = |chunk: &Chunk| chunk.place == Place::Saving(id);
        let Some(at) = self.chunks.iter().position(found) else {
            self.dead_segments.push(id);
            return;
        };
        self.chunks[at].row = row;
        let freed = self.chunks[at].saved_now();
        self.resident = self.resident.saturating_sub(freed);
        if self.chunks[at].is_done() {
            self.drop_chunk(at);
        }
    }

    /// Body read back from the store; messages that were damaged are set aside.
    pub fn loaded(&mut self, id: SegmentId, found: ReadBack) {
        let (pieces, removable) = found.pieces();
        let Some(at) = self.position(id) else {
            return;
        };
        let before = self.chunks[at].live;
        self.chunks[at].removable &= removable;
        let (bytes, gaps) = self.chunks[at].load(pieces);
        self.resident += bytes;
        let lost = before.saturating_sub(self.chunks[at].live);
        if lost > 0 {
            self.quarantined += u64::from(lost);
            self.set_aside(u64::from(lost), &gaps);
        }
        if self.chunks[at].is_done() {
            self.drop_chunk(at);
        }
    }

    /// `lost` of these seqs hold no message any more: those that were ready are not.
    fn set_aside(&mut self, lost: u64, gaps: &[Seq]) {
        let before = self.aside.len();
        self.aside
            .retain(|(_, seq), aside| aside.own.is_some() || gaps.binary_search(seq).is_err());
        let held = self.lanes.as_mut().map_or(0, |lanes| {
            let mut gone = 0;
            for &seq in gaps {
                let own = lanes.aside(seq).is_some_and(|aside| aside.own.is_some());
                if lanes.is_held(seq) && !own {
                    lanes.take_held(seq);
                    gone += 1;
                }
            }
            gone
        });
        let returned = (before - self.aside.len()) as u64 + held;
        let fresh = gaps.iter().filter(|&&seq| seq >= self.cursor).count() as u64;
        let ready = returned + fresh.min(lost.saturating_sub(returned));
        self.ready = self.ready.saturating_sub(ready);
    }

    /// Drops bodies that are safe on disk and not about to be read, newest first, until
    /// `target` resident bytes are left. `keep_next` keeps the chunk under the cursor and the one
    /// after.
    pub fn evict(&mut self, target: u64, keep_next: bool) -> u64 {
        let before = self.resident;
        let keep = self
            .chunks
            .partition_point(|chunk| chunk.last < self.cursor)
            + 1;
        for at in (0..self.chunks.len()).rev() {
            if self.resident <= target {
                break;
            }
            if keep_next && (at == keep || at + 1 == keep) {
                continue;
            }
            let freed = self.chunks[at].evict();
            self.resident = self.resident.saturating_sub(freed);
        }
        before - self.resident
    }

    /// The next chunks whose bodies are on disk, right after the cursor's.
    pub fn read_ahead(&self) -> Option<SegmentId> {
        let at = self
            .chunks
            .partition_point(|chunk| chunk.last < self.cursor);
        self.chunks
            .range(at.min(self.chunks.len())..)
            .take(3)
            .find(|chunk| !chunk.is_resident())
            .and_then(Chunk::segment)
    }

    /// Where a saved segment begins: its first seq and time.
    pub fn place_of(&self, id: SegmentId) -> Option<(Seq, Micros)> {
        let chunk = &self.chunks[self.position(id)?];
        Some((chunk.first, chunk.at))
    }

    /// The saved segment that holds a message, unless that is settled.
    pub fn segment_of(&self, seq: Seq) -> Option<SegmentId> {
        let chunk = &self.chunks[self.chunk_of(seq)?];
        chunk.segment().filter(|_| !chunk.is_settled(seq))
    }

    /// First and last seq of a saved segment.
    pub fn range_of(&self, id: SegmentId) -> Option<(Seq, Seq)> {
        let chunk = &self.chunks[self.position(id)?];
        Some((chunk.first, chunk.last))
    }

    fn position(&self, id: SegmentId) -> Option<usize> {
        self.chunks
            .iter()
            .position(|chunk| chunk.segment() == Some(id))
    }

    /// A segment that was retained before the start.
    pub fn restore_retained(&mut self, entry: Entry) {
        if let Some(retained) = &mut self.retained {
            retained.restore(entry);
        }
    }

    /// Keeps settled messages from now on, or no more.
    pub fn retain(&mut self, retention: Option<Retention>) {
        match (&mut self.retained, retention) {
            (None, None) => {}
            (Some(retained), Some(limits)) => retained.limit(limits),
            (None, Some(limits)) => self.retained = Some(Box::new(Retained::new(limits))),
            (Some(_), None) => {
                let gone = self.retained.take().map(|retained| *retained);
                self.unretained
                    .extend(gone.into_iter().flat_map(Retained::into_segments));
                // They waited for nothing but their row.
                for at in (0..self.chunks.len()).rev() {
                    if self.chunks[at].is_done() && !self.chunks[at].is_saving() {
                        self.remove_chunk(at);
                    }
                }
            }
        }
    }

    /// A chunk that has no message left stays until its row is written: that is under way, or its
    /// messages are retained.
    pub(super) fn stays(&self, at: usize) -> bool {
        let chunk = &self.chunks[at];
        let unsaved = chunk.segment().is_none();
        chunk.is_saving() || unsaved && self.retained.is_some() && chunk.may_be_retained()
    }

    /// Nothing of a chunk is left: its row goes, or is retained.
    pub(super) fn retire(&mut self, chunk: &Chunk) {
        let row = chunk.segment().filter(|_| chunk.may_be_retained());
        match (&mut self.retained, row) {
            (Some(retained), Some(id)) if chunk.row.count > 0 => {
                retained.add(Entry {
                    id,
                    first: chunk.first,
                    last: chunk.last,
                    count: chunk.row.count,
                    bytes: chunk.row.bytes,
                    first_at: chunk.at,
                    last_at: chunk.row.last_at,
                    settled_at: Micros::MAX,
                });
                let others = chunk.dead_segments().filter(|other| *other != id);
                self.dead_segments.extend(others);
            }
            _ => self.dead_segments.extend(chunk.dead_segments()),
        }
    }

    /// A message that lives in a waiting row is settled. What came out of a segment is retained
    /// there; what never was in one takes its row along.
    pub(super) fn end_row(&mut self, seq: Seq, body: u32) {
        if let Some(retained) = &mut self.retained {
            let known = retained.touch(seq);
            if !known && self.chunk_of(seq).is_none() {
                if let Some(retained) = &mut self.retained {
                    retained.add_row(seq, body);
                }
                return;
            }
        }
        self.dead_rows.push(seq);
    }

    /// True when a segment was retired since the last commit.
    pub fn has_retired(&self) -> bool {
        self.retained.as_ref().is_some_and(|r| r.has_fresh())
    }

    /// True when the next commit has something to say of what is retained.
    pub fn retains_anew(&self, now: Micros) -> bool {
        !self.unretained.is_empty() || self.retained.as_ref().is_some_and(|r| r.has_changes(now))
    }

    /// What a commit must write of it.
    pub fn retained_changes(
        &mut self,
        now: Micros,
        number: impl FnMut() -> SegmentId,
    ) -> Option<Changes> {
        let mut out = match &mut self.retained {
            Some(retained) => {
                let (rows, waiting) = (&self.stragglers, &self.waiting);
                let busy = |entry: &Entry| {
                    let mut out = rows.range(entry.first..=entry.last);
                    out.next().is_some() || waiting.any_within(entry.first, entry.last)
                };
                retained.take_changes(now, busy, number)
            }
            None if self.unretained.is_empty() => return None,
            None => Changes::default(),
        };
        let some = self.unretained.len().min(retained::DROPS_MAX);
        out.dropped.extend(self.unretained.drain(..some));
        Some(out)
    }
}
