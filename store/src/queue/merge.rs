//! Segments of a standing backlog that are small, or mostly settled, become one. Pure.
//!
//! Keeps: places and order as they are; the rows that go and the row that comes are one commit, so
//! that a crash finds either. What is settled meanwhile is left out, or told by bits later.
//! Never: takes what the cursor is about to read, or what exists in memory only.
//! In: `Shard` asks after a commit what is worth it, reads the rows off its path, and hands the
//! messages back.

use amqp::content::Address;

use super::*;

/// When segments are merged.
#[derive(Clone, Copy, Debug)]
pub struct Thrift {
    /// So many adjacent small segments are worth a row.
    pub small_count: usize,
    /// Below, a segment is small, bytes: what one merge costs stays below this per segment saved.
    pub small_bytes: u64,
    /// So many segments that were merged once, and are still not large, are merged again.
    pub grown_count: usize,
    /// From here on a segment stays as it is, bytes: a fill with confirms makes such ones by
    /// itself, and writing them again would cost more than their number.
    pub large_bytes: u64,
    /// A merged segment is no larger, bytes.
    pub most_bytes: u64,
    /// A segment with less than one unsettled message in so many is sparse.
    pub sparse_share: u32,
    /// Sparse segments below are not worth the trouble, bytes.
    pub sparse_bytes: u64,
    /// A segment that became sparse is left in peace until so many others have gone: acks in
    /// order make every segment sparse for a moment.
    pub sparse_age: u64,
}

impl Default for Thrift {
    fn default() -> Self {
        Self {
            small_count: 64,
            small_bytes: 32 << 10,
            grown_count: 16,
            large_bytes: 48 << 10,
            most_bytes: CHUNK_BYTES,
            sparse_share: 8,
            sparse_bytes: 64 << 10,
            sparse_age: 16,
        }
    }
}

/// So many segments are merged already when they fill a large one.
const FULL_RUN: usize = 16;
/// Addresses that one block can name.
const ADDRESSES_MAX: usize = u16::MAX as usize;

/// What has been looked at.
#[derive(Default)]
pub(super) struct Progress {
    /// All segments below are as they should be.
    from: Seq,
    /// Chunks there were at the last look in vain.
    seen: usize,
    /// First seqs of chunks that became sparse, and how many chunks must have gone before a look.
    sparse: VecDeque<(Seq, u64)>,
    /// Chunks that have gone.
    gone: u64,
}

impl Progress {
    pub(super) fn chunk_gone(&mut self) {
        self.gone += 1;
    }

    pub(super) fn became_sparse(&mut self, first: Seq, age: u64) {
        self.sparse.push_back((first, self.gone + age));
    }
}

impl Log {
    /// Adjacent segments that are worth merging, if any.
    pub fn to_merge(&mut self) -> Option<Vec<SegmentId>> {
        let thrift = self.thrift;
        self.sparse_to_merge(&thrift)
            .or_else(|| self.small_to_merge(&thrift))
    }

    fn sparse_to_merge(&mut self, thrift: &Thrift) -> Option<Vec<SegmentId>> {
        while let Some(&(first, due)) = self.merge.sparse.front() {
            if due > self.merge.gone {
                return None;
            }
            self.merge.sparse.pop_front();
            let chunk = self.chunk_of(first).map(|at| &self.chunks[at]);
            let fits = |chunk: &&Chunk| {
                chunk.is_sparse(thrift)
                    && chunk.may_merge()
                    && !(chunk.first..=chunk.last).contains(&self.cursor)
            };
            if let Some(id) = chunk.filter(fits).and_then(Chunk::segment) {
                return Some(vec![id]);
            }
        }
        None
    }

    fn small_to_merge(&mut self, thrift: &Thrift) -> Option<Vec<SegmentId>> {
        if self.chunks.len() < self.merge.seen + thrift.small_count / 4 {
            self.merge.seen = self.merge.seen.min(self.chunks.len());
            return None;
        }
        let ahead = match self.levels {
            0 => self.cursor,
            _ => 0,
        };
        // The cursor's chunk and the one after it are about to be read.
        let near = self.chunks.partition_point(|chunk| chunk.last < ahead);
        let near = if ahead == 0 && self.levels > 0 {
            0
        } else {
            near + 2
        };
        let known = self
            .chunks
            .partition_point(|chunk| chunk.last < self.merge.from);
        let mut run = Run::default();
        for chunk in self.chunks.range(near.max(known).min(self.chunks.len())..) {
            let joins = chunk.may_merge() && chunk.bytes < thrift.large_bytes;
            // A retained row must hold whatever seqs it spans.
            if self.retained.is_some() && run.next.is_some_and(|next| next != chunk.first) {
                run = Run::default();
            }
            if !joins || run.bytes + chunk.bytes > thrift.most_bytes {
                if run.ids.len() >= FULL_RUN.min(thrift.small_count) {
                    return Some(run.ids);
                }
                run = Run::default();
                self.merge.from = chunk.first;
            }
            if !joins {
                self.merge.from = chunk.last + 1;
                continue;
            }
            let Some(id) = chunk.segment() else { continue };
            run.next = Some(chunk.last + 1);
            if let Some(ids) = run.add(id, chunk.bytes, thrift) {
                return Some(ids);
            }
        }
        self.merge.seen = self.chunks.len();
        None
    }

    /// Puts one chunk in the place of these segments' chunks; the next commit writes it and drops
    /// their rows. `pieces` are the messages of the segments, in one block. False: they are no
    /// longer side by side.
    pub fn merge(&mut self, ids: &[SegmentId], pieces: Vec<Piece>) -> bool {
        let here = |chunk: &Chunk| chunk.segment().is_some_and(|id| ids.contains(&id));
        let Some(at) = self.chunks.iter().position(here) else {
            return true;
        };
        let count = self
            .chunks
            .range(at..)
            .take_while(|chunk| here(chunk))
            .count();
        let all = self.chunks.iter().filter(|chunk| here(chunk)).count();
        let whole = |chunk: &Chunk| chunk.may_merge() && chunk.live_among(&pieces) == chunk.live;
        // What went meanwhile and is retained must not be written again.
        let gone = self.retained.is_some() && count != ids.len();
        if count != all || gone || !self.chunks.range(at..at + count).all(whole) {
            return false;
        }
        let old: Vec<Chunk> = self.chunks.drain(at..at + count).collect();
        let (first, last) = (old[0].first, old[count - 1].last);
        let before: u64 = old.iter().map(Chunk::resident_bytes).sum();
        let pieces = pieces.iter().filter_map(|piece| {
            let from = piece.first.max(first);
            let end = (piece.first + u64::from(piece.count)).min(last + 1);
            let mut part = piece.slice(
                u32::try_from(from.checked_sub(piece.first)?).ok()?,
                u32::try_from(end.checked_sub(from)?).ok()?,
            );
            // What is on disk stays there, whatever its publisher asked.
            part.persistent = true;
            (part.count > 0).then_some(part)
        });
        let pieces = pieces.collect();
        let chunk = Chunk::merged(old, pieces);
        self.resident = (self.resident + chunk.bytes).saturating_sub(before);
        self.touched.retain(|seq| !(first..=last).contains(seq));
        self.unsaved_from = self.unsaved_from.min(first);
        self.hint = 0;
        self.merge.seen = 0;
        self.chunks.insert(at, chunk);
        if self.chunks[at].is_done() {
            self.drop_chunk(at);
        }
        true
    }

    /// These segments did not read back as they were written: they are left to whoever needs
    /// their messages.
    pub fn leave_unmerged(&mut self, ids: &[SegmentId]) {
        for chunk in &mut self.chunks {
            if chunk.segment().is_some_and(|id| ids.contains(&id)) {
                chunk.stays = true;
            }
        }
    }
}

/// A run of segments side by side.
#[derive(Default)]
struct Run {
    ids: Vec<SegmentId>,
    bytes: u64,
    /// The seq after its last.
    next: Option<Seq>,
    /// How many at its end are small.
    small: usize,
    grown: usize,
}

impl Run {
    /// Adds one; answers those that are worth a merge now.
    fn add(&mut self, id: SegmentId, bytes: u64, thrift: &Thrift) -> Option<Vec<SegmentId>> {
        self.ids.push(id);
        self.bytes += bytes;
        if bytes < thrift.small_bytes {
            self.small += 1;
        } else {
            self.small = 0;
            self.grown += 1;
        }
        if self.small >= thrift.small_count {
            return Some(self.ids.split_off(self.ids.len() - self.small));
        }
        (self.grown >= thrift.grown_count).then(|| std::mem::take(&mut self.ids))
    }
}

/// The messages in one block, so that a merged chunk does not keep many. `None`: they have more
/// addresses than a block can name.
pub fn join(pieces: &[Piece]) -> Option<Vec<Piece>> {
    let mut block = Block::default();
    let mut known: HashMap<Address, u16, RandomState> = HashMap::default();
    let mut runs: Vec<(Seq, u32, u32, Micros)> = Vec::new();
    for piece in pieces {
        for offset in 0..piece.count {
            let index = piece.index(offset);
            let address = piece.block.address(index);
            let number = match known.get(address) {
                Some(&number) => number,
                None if known.len() >= ADDRESSES_MAX => return None,
                None => {
                    let number = known.len() as u16;
                    block.addresses.push(address.clone());
                    known.insert(address.clone(), number);
                    number
                }
            };
            let at = block.entries.len() as u32;
            let entry = Entry {
                offset: u32::try_from(block.data.len()).ok()?,
                address: number,
                ..*piece.entry(offset)
            };
            block.data.extend_from_slice(piece.block.content(index));
            block.entries.push(entry);
            let seq = piece.first + u64::from(offset);
            match runs.last_mut() {
                Some((first, count, _, time))
                    if *first + u64::from(*count) == seq && *time == piece.at =>
                {
                    *count += 1;
                }
                _ => runs.push((seq, 1, at, piece.at)),
            }
        }
    }
    let block = Arc::new(block);
    let piece = |(first, count, from, at)| Piece::new(first, count, block.clone(), from, at);
    Some(runs.into_iter().map(piece).collect())
}
