//! A log's way to disk and back: what a commit takes, what it may forget, what is read again.
//!
//! Keeps: a message is either in a row, in a chunk that a commit will take, or need not survive.
//! In: `Shard::cut` and `committed`, the loader, recovery.

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
            let mut chunk = Chunk::saved(id, first, row.last, row.count, row.bytes, row.at);
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
        chunk.noted = chunk.is_sparse(&self.thrift);
        if chunk.noted {
            self.merge.became_sparse(chunk.first, 0);
        }
        chunk.removable &= removable;
        if chunk.is_done() {
            self.dead_segments.extend(chunk.dead_segments());
            self.chunks.remove(at);
        }
    }

    /// Chunks that a commit should append, in order; under memory `pressure` also those that
    /// only need room. `each` answers the row's id.
    pub fn start_saving(&mut self, pressure: bool, mut each: impl FnMut(&mut Chunk)) {
        let from = if pressure { 0 } else { self.unsaved_from };
        let at = self.chunks.partition_point(|chunk| chunk.last < from);
        for chunk in self.chunks.range_mut(at..) {
            if chunk.wants_saving(pressure) {
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

    /// A segment is on disk.
    pub fn saved(&mut self, id: SegmentId) {
        let found = |chunk: &Chunk| chunk.place == Place::Saving(id);
        let Some(at) = self.chunks.iter().position(found) else {
            self.dead_segments.push(id);
            return;
        };
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
}
