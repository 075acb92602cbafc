//! One queue's life, from publish to settle. Pure.
//!
//! Keeps: each accepted message is in exactly one of ready, unacked, waiting, settled (I1); ready
//! messages leave in seq order, a requeued one from its old place (I4).
//! Never: reads a clock, a socket or SQL.
//! In: `shard` appends, takes, settles.  Out: runs, load requests, chunks to save.
//!
//! ```text
//!  head            cursor                     next
//!   |  settled or    |  ready, never handed    |
//!   |  unacked or    |  out                    |
//!   |  returned      |                         |
//!   [chunk saved][chunk saved, body on disk][chunk saving][open chunk]
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use amqp::content::{Block, Entry};

use crate::model::{Micros, SegmentId, Seq};

mod chunk;
pub mod consumers;

pub use chunk::{Chunk, Place};

/// Body bytes after which a chunk is closed: the largest segment row but for one larger message.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Consecutive seqs whose contents lie in one block.
#[derive(Clone)]
pub struct Piece {
    pub first: Seq,
    pub count: u32,
    pub block: Arc<Block>,
    /// Block index of the first; the others follow it.
    pub from: u32,
    /// When the messages were accepted.
    pub at: Micros,
    /// The publisher's claim to a confirm; 0 when none waits.
    pub ticket: u64,
    pub persistent: bool,
    pub expiring: bool,
}

impl Piece {
    pub fn new(first: Seq, count: u32, block: Arc<Block>, from: u32, at: Micros) -> Self {
        let mut piece = Self {
            first,
            count,
            block,
            from,
            at,
            ticket: 0,
            persistent: false,
            expiring: false,
        };
        for offset in 0..count {
            let flags = piece.entry(offset).flags;
            piece.persistent |= flags & Entry::PERSISTENT != 0;
            piece.expiring |= flags & Entry::HAS_EXPIRATION != 0;
        }
        piece
    }

    /// Block index of the message `offset` after the first.
    pub fn index(&self, offset: u32) -> usize {
        (self.from + offset) as usize
    }

    pub fn entry(&self, offset: u32) -> &Entry {
        &self.block.entries[self.index(offset)]
    }

    /// What the messages cost in memory: wire bytes and their share of the block's index.
    fn memory_bytes(&self) -> u64 {
        self.wire_bytes() + u64::from(self.count) * size_of::<Entry>() as u64
    }

    fn body_bytes(&self) -> u64 {
        (0..self.count)
            .map(|offset| u64::from(self.entry(offset).body_size))
            .sum()
    }

    fn wire_bytes(&self) -> u64 {
        let first = &self.block.entries[self.from as usize];
        let last = &self.block.entries[(self.from + self.count - 1) as usize];
        u64::from(last.offset + last.len - first.offset)
    }

    /// A part of this piece.
    pub fn slice(&self, offset: u32, count: u32) -> Self {
        let first = self.first + u64::from(offset);
        Self {
            first,
            count,
            from: self.from + offset,
            ..self.clone()
        }
    }
}

/// What a consumer gets next.
pub enum Take {
    /// Messages to hand out, and whether they were handed out before.
    Run {
        piece: Piece,
        redelivered: bool,
        /// The content is not in the log: it waited in a row of its own.
        own: bool,
    },
    /// The next message's body is on disk: read this segment, then take again.
    Load(SegmentId),
    /// The store must first know that messages are being handed out (one commit).
    Fence,
    Empty,
}

/// A message that came back, kept at its old place.
#[derive(Clone)]
struct Returned {
    /// The content, when it is not in a chunk (it waited in a row of its own).
    own: Option<Piece>,
    /// False for a message that was held back and never handed out.
    redelivered: bool,
}

/// A segment's messages as they came back from the store.
pub enum ReadBack {
    Sound(Vec<Piece>),
    /// Some messages are missing or do not match their checksum: these are the others.
    Damaged(Vec<Piece>),
    /// The row cannot be read at all, so it is not touched either.
    Unreadable,
}

impl ReadBack {
    /// The messages that can be served, and whether the row may be removed later.
    fn pieces(self) -> (Vec<Piece>, bool) {
        match self {
            Self::Sound(pieces) | Self::Damaged(pieces) => (pieces, true),
            Self::Unreadable => (Vec::new(), false),
        }
    }
}

/// What settling touched.
#[derive(Default)]
pub struct Settled {
    pub count: u32,
    /// (ticket, copies) of publishers that still wait for a confirm.
    pub tickets: Vec<(u64, u32)>,
}

/// The log part of a queue: which messages exist and where each is.
#[derive(Default)]
pub struct Log {
    pub chunks: VecDeque<Chunk>,
    returned: BTreeMap<Seq, Returned>,
    pub attempts: std::collections::HashMap<Seq, u32, foldhash::fast::RandomState>,
    /// Messages outside the log that wait in rows: seq → due.
    pub waiting: BTreeMap<Seq, Micros>,
    /// Contents of waiting messages of a queue that is not durable.
    pub parked: BTreeMap<Seq, Piece>,
    expiring: bool,
    /// Messages whose content lives in a waiting row, until they are settled.
    pub stragglers: std::collections::HashSet<Seq, foldhash::fast::RandomState>,
    /// Waiting rows of messages that are settled.
    pub dead_rows: Vec<Seq>,
    /// First seqs of chunks with settled bits that no commit has recorded.
    touched: Vec<Seq>,
    /// All chunks below are saved, or need not be.
    unsaved_from: Seq,
    cursor: Seq,
    next: Seq,
    ready: u64,
    /// Wire bytes of ready messages that were never handed out.
    ready_bytes: u64,
    ready_body: Option<u64>,
    unacked: u64,
    pub resident: u64,
    /// Messages below may have been handed out according to the newest commit that is on disk.
    pub handed: Seq,
    /// The same for the commit under way: enough for the messages that it brings to disk itself.
    pub handed_pending: Seq,
    /// Messages below were possibly handed out before the last restart.
    recovered_handed: Seq,
    /// Segments that are wholly settled and can go from the store.
    pub dead_segments: Vec<SegmentId>,
    /// Chunks that could not be read; their messages are set aside.
    pub quarantined: u64,
    /// Where in `chunks` the cursor was last, to find it again at once.
    hint: usize,
}

impl Log {
    /// A log as recovered: `chunks` in order with bodies on disk.
    pub fn recovered(chunks: VecDeque<Chunk>, head: Seq, handed: Seq, next: Seq) -> Self {
        let ready = chunks.iter().map(|c| u64::from(c.live)).sum();
        let ready_bytes = chunks.iter().map(|c| c.bytes).sum();
        Self {
            chunks,
            cursor: head,
            next,
            ready,
            ready_bytes,
            handed,
            expiring: true,
            recovered_handed: handed,
            ..Self::default()
        }
    }

    pub fn ready(&self) -> u64 {
        self.ready
    }

    pub fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// Body bytes of ready messages; kept only where a limit asks for it.
    pub fn ready_body_bytes(&self) -> u64 {
        self.ready_body.unwrap_or(0)
    }

    /// Whether body bytes are counted, from now on.
    pub fn count_bodies(&mut self, count: bool) {
        self.ready_body = count.then_some(self.ready_body.unwrap_or(self.ready_bytes));
    }

    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    pub fn next_seq(&self) -> Seq {
        self.next
    }

    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// Everything below is settled or waits in a row.
    pub fn head(&self) -> Seq {
        self.chunks
            .front()
            .map_or(self.next, |chunk| chunk.done_to())
    }

    /// Appends messages; `piece.first` is assigned here.
    pub fn append(&mut self, mut piece: Piece) {
        piece.first = self.next;
        self.next += u64::from(piece.count);
        let bytes = piece.wire_bytes();
        self.expiring |= piece.expiring;
        self.ready += u64::from(piece.count);
        self.ready_bytes += bytes;
        if let Some(total) = &mut self.ready_body {
            *total += piece.body_bytes();
        }
        let bytes = piece.memory_bytes();
        self.resident += bytes;
        let open = self
            .chunks
            .back()
            .is_some_and(|c| c.is_open() && c.bytes < CHUNK_BYTES);
        if !open {
            self.close_back();
            self.chunks.push_back(Chunk::open(piece.first, piece.at));
        }
        let back = self.chunks.back_mut().expect("a chunk was pushed");
        back.append(piece, bytes);
    }

    fn chunk_of(&self, seq: Seq) -> Option<usize> {
        if let Some(chunk) = self.chunks.get(self.hint)
            && chunk.first <= seq
            && seq <= chunk.last
        {
            return Some(self.hint);
        }
        let at = self.chunks.partition_point(|chunk| chunk.last < seq);
        (at < self.chunks.len() && self.chunks[at].first <= seq).then_some(at)
    }

    /// The next ready messages, at most `max`, as one run. Moves them to unacked.
    pub fn take(&mut self, max: u32) -> Take {
        let found = self.look(max, true);
        self.take_found(found)
    }

    /// The head, for its end and not for a consumer: nobody will have seen it, so that the store
    /// need not know before.
    pub fn take_head(&mut self) -> Take {
        let found = self.look(1, false);
        self.take_found(found)
    }

    fn take_found(&mut self, found: Look) -> Take {
        match found {
            Look::Found {
                piece,
                returned,
                own,
            } => {
                let before = self
                    .returned
                    .get(&piece.first)
                    .is_some_and(|r| r.redelivered);
                let redelivered = (returned && before) || piece.first < self.recovered_handed;
                let n = u64::from(piece.count);
                if returned {
                    self.returned.remove(&piece.first);
                } else {
                    self.cursor = piece.first + n;
                    self.ready_bytes = self.ready_bytes.saturating_sub(piece.wire_bytes());
                    if let Some(total) = &mut self.ready_body {
                        *total = total.saturating_sub(piece.body_bytes());
                    }
                }
                self.ready -= n;
                self.unacked += n;
                Take::Run {
                    piece,
                    redelivered,
                    own,
                }
            }
            Look::Load(id) => Take::Load(id),
            Look::Fence => Take::Fence,
            Look::Empty => Take::Empty,
        }
    }

    /// The head, if its body is at hand.
    pub fn peek(&mut self) -> Option<Piece> {
        match self.look(1, false) {
            Look::Found { piece, .. } => Some(piece),
            _ => None,
        }
    }

    /// What must be read before the head can be looked at.
    pub fn head_on_disk(&mut self) -> Option<SegmentId> {
        match self.look(1, false) {
            Look::Load(segment) => Some(segment),
            _ => None,
        }
    }

    fn look(&mut self, max: u32, fenced: bool) -> Look {
        if let Some((&seq, returned)) = self.returned.first_key_value() {
            if let Some(own) = &returned.own {
                return Look::Found {
                    piece: own.clone(),
                    returned: true,
                    own: true,
                };
            }
            let Some(at) = self.chunk_of(seq) else {
                self.returned.remove(&seq);
                self.ready = self.ready.saturating_sub(1);
                return self.look(max, fenced);
            };
            return match self.chunks[at].find(seq) {
                Some((piece, offset)) => Look::Found {
                    piece: piece.slice(offset, 1),
                    returned: true,
                    own: false,
                },
                None => self.chunks[at].segment().map_or(Look::Empty, Look::Load),
            };
        }
        loop {
            if self.cursor >= self.next {
                return Look::Empty;
            }
            let at = match self.chunk_of(self.cursor) {
                Some(at) => at,
                None => {
                    // A gap between chunks: everything there is settled.
                    let at = self
                        .chunks
                        .partition_point(|chunk| chunk.last < self.cursor);
                    match self.chunks.get(at) {
                        Some(chunk) => {
                            self.cursor = chunk.first;
                            at
                        }
                        None => {
                            self.cursor = self.next;
                            return Look::Empty;
                        }
                    }
                }
            };
            self.hint = at;
            let chunk = &self.chunks[at];
            let mark = match chunk.place {
                Place::Open | Place::Closed => Seq::MAX,
                Place::Saving(_) => self.handed.max(self.handed_pending),
                Place::Saved(_) => self.handed,
            };
            if fenced && self.cursor >= mark {
                return Look::Fence;
            }
            if !chunk.is_resident() {
                return chunk.segment().map_or(Look::Empty, Look::Load);
            }
            match chunk.ready_from(self.cursor, max) {
                Some(piece) => {
                    return Look::Found {
                        piece,
                        returned: false,
                        own: false,
                    };
                }
                None => self.cursor = chunk.last + 1,
            }
        }
    }

    /// Unacked messages come back to their places.
    pub fn put_back(&mut self, first: Seq, count: u32, own: Option<Piece>) {
        for seq in first..first + u64::from(count) {
            self.unacked -= 1;
            self.ready += 1;
            self.returned.insert(
                seq,
                Returned {
                    own: own.clone(),
                    redelivered: true,
                },
            );
        }
    }

    /// A message whose waiting time is over becomes ready at its old place.
    pub fn wake(&mut self, seq: Seq, piece: Piece) {
        self.waiting.remove(&seq);
        let redelivered = self.attempts.contains_key(&seq);
        self.show(seq, piece, redelivered);
    }

    /// A message that was held back until its commit becomes ready.
    pub fn appear(&mut self, seq: Seq, piece: Piece) {
        self.show(seq, piece, false);
    }

    fn show(&mut self, seq: Seq, piece: Piece, redelivered: bool) {
        self.expiring |= piece.expiring;
        self.ready += 1;
        let own = Some(piece);
        self.returned.insert(seq, Returned { own, redelivered });
    }

    /// A seq for a message that will not be in the log.
    pub fn reserve(&mut self) -> Seq {
        self.close_back();
        let seq = self.next;
        self.next += 1;
        seq
    }

    /// Unacked messages reach their end.
    pub fn settle(&mut self, first: Seq, count: u32) -> Settled {
        self.unacked -= u64::from(count);
        let mut out = Settled {
            count,
            tickets: Vec::new(),
        };
        let (mut seq, end) = (first, first + u64::from(count));
        if !self.stragglers.is_empty() {
            let gone = (seq..end).filter(|seq| self.stragglers.remove(seq));
            self.dead_rows.extend(gone);
        }
        while seq < end {
            if !self.attempts.is_empty() {
                self.attempts.remove(&seq);
            }
            let Some(at) = self.chunk_of(seq) else {
                seq += 1;
                continue;
            };
            let chunk = &mut self.chunks[at];
            let upto = end.min(chunk.last + 1);
            let known = chunk.unsaved_bits;
            chunk.settle(seq, upto, &mut out.tickets);
            if !known && chunk.unsaved_bits {
                self.touched.push(chunk.first);
            }
            if !self.attempts.is_empty() {
                for gone in seq..upto {
                    self.attempts.remove(&gone);
                }
            }
            seq = upto;
            if self.chunks[at].is_done() {
                self.drop_chunk(at);
            }
        }
        out
    }

    fn close_back(&mut self) {
        let Some(back) = self.chunks.back_mut() else {
            return;
        };
        back.close();
        if back.is_done() {
            self.drop_chunk(self.chunks.len() - 1);
        }
    }

    fn drop_chunk(&mut self, at: usize) {
        // The open chunk and one under way to disk stay until they are saved.
        if self.chunks[at].is_saving() {
            return;
        }
        if (at == 0 || !self.chunks[at].is_open())
            && let Some(chunk) = self.chunks.remove(at)
        {
            self.resident = self.resident.saturating_sub(chunk.resident_bytes());
            self.dead_segments.extend(chunk.dead_segment());
            self.hint = self.hint.saturating_sub(usize::from(at <= self.hint));
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

    /// Removes every ready message (not the unacked ones); answers how many, and their tickets.
    pub fn purge(&mut self) -> Settled {
        let count = self.ready;
        let mut out = Settled::default();
        let returned: Vec<Seq> = std::mem::take(&mut self.returned).into_keys().collect();
        for seq in returned {
            self.unacked += 1;
            out.tickets.extend(self.settle(seq, 1).tickets);
        }
        let (from, next) = (self.cursor, self.next);
        self.cursor = next;
        while let Some(at) = self
            .chunks
            .iter()
            .position(|c| c.last >= from && !c.is_swept(from))
        {
            let chunk = &mut self.chunks[at];
            let start = from.max(chunk.first);
            let end = chunk.last + 1;
            chunk.settle(start, end, &mut out.tickets);
            if chunk.is_done() && !chunk.is_saving() {
                let chunk = self.chunks.remove(at).expect("position was found");
                self.resident = self.resident.saturating_sub(chunk.resident_bytes());
                self.dead_segments.extend(chunk.dead_segment());
                self.hint = 0;
            }
        }
        self.ready = 0;
        self.ready_bytes = 0;
        self.ready_body = self.ready_body.map(|_| 0);
        out.count = u32::try_from(count).unwrap_or(u32::MAX);
        out
    }

    /// Body read back from the store; messages that were damaged are set aside.
    pub fn loaded(&mut self, id: SegmentId, found: ReadBack) {
        let (pieces, removable) = found.pieces();
        let Some(at) = self
            .chunks
            .iter()
            .position(|chunk| chunk.segment() == Some(id))
        else {
            return;
        };
        let before = self.chunks[at].live;
        self.chunks[at].removable &= removable;
        let bytes = self.chunks[at].load(pieces);
        self.resident += bytes;
        let lost = before - self.chunks[at].live;
        self.ready = self.ready.saturating_sub(u64::from(lost));
        self.quarantined += u64::from(lost);
        if self.chunks[at].is_done() {
            self.drop_chunk(at);
        }
    }

    /// Drops bodies that are safe on disk and not about to be read, newest first, until
    /// `target` resident bytes are left. Keeps the chunk under the cursor and the one after.
    pub fn evict(&mut self, target: u64) -> u64 {
        let before = self.resident;
        let keep = self
            .chunks
            .partition_point(|chunk| chunk.last < self.cursor)
            + 1;
        for at in (0..self.chunks.len()).rev() {
            if self.resident <= target {
                break;
            }
            if at == keep || at + 1 == keep {
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

    /// When the oldest ready message was accepted.
    pub fn oldest_ready_at(&self) -> Option<Micros> {
        if self.ready == 0 {
            return None;
        }
        let seq = self.returned.keys().next().copied().unwrap_or(self.cursor);
        let at = self.chunks.partition_point(|chunk| chunk.last < seq);
        self.chunks.get(at).map(|chunk| chunk.accepted_at(seq))
    }

    /// True when some message may carry an expiration of its own.
    pub fn may_expire(&self) -> bool {
        self.expiring
    }

    pub fn is_waiting(&self, seq: Seq) -> bool {
        self.waiting.contains_key(&seq)
    }

    /// Messages that have waited long enough; each is answered once.
    pub fn take_due(&mut self, now: Micros) -> Vec<Seq> {
        let due: Vec<Seq> = self
            .waiting
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(&seq, _)| seq)
            .collect();
        for seq in &due {
            // Still waiting until its content is here, but not due again.
            self.waiting.insert(*seq, Micros::MAX);
        }
        due
    }

    /// The content of an unacked message, when it is in memory.
    pub fn content(&self, seq: Seq) -> Option<Piece> {
        let (piece, offset) = self.chunks.get(self.chunk_of(seq)?)?.find(seq)?;
        Some(piece.slice(offset, 1))
    }

    /// Where a saved segment begins: its first seq and time.
    pub fn place_of(&self, id: SegmentId) -> Option<(Seq, Micros)> {
        let chunk = self
            .chunks
            .iter()
            .find(|chunk| chunk.segment() == Some(id))?;
        Some((chunk.first, chunk.at))
    }

    /// First and last seq of a saved segment.
    pub fn range_of(&self, id: SegmentId) -> Option<(Seq, Seq)> {
        let chunk = self.chunks.iter().find(|c| c.segment() == Some(id))?;
        Some((chunk.first, chunk.last))
    }

    /// Recovery of a segment that is settled in part: counts what is left, keeps no body.
    pub fn recount(&mut self, id: SegmentId, found: ReadBack) {
        let (pieces, removable) = found.pieces();
        let Some(at) = self
            .chunks
            .iter()
            .position(|chunk| chunk.segment() == Some(id))
        else {
            return;
        };
        let before = self.chunks[at].live;
        self.chunks[at].load(pieces);
        self.ready = self
            .ready
            .saturating_sub(u64::from(before - self.chunks[at].live));
        self.chunks[at].evict();
        if self.chunks[at].is_done() {
            if removable {
                self.dead_segments.push(id);
            }
            self.chunks.remove(at);
        }
    }

    /// A segment is on disk.
    pub fn saved(&mut self, id: SegmentId) {
        let Some(at) = self
            .chunks
            .iter()
            .position(|chunk| chunk.place == Place::Saving(id))
        else {
            self.dead_segments.push(id);
            return;
        };
        self.chunks[at].saved_now();
        if self.chunks[at].is_done() {
            self.drop_chunk(at);
        }
    }

    /// All invariants that hold between two calls; for debug builds and tests.
    pub fn check(&self) {
        debug_assert!(self.cursor <= self.next);
        let mut last = None;
        for chunk in &self.chunks {
            debug_assert!(last.is_none_or(|last| last < chunk.first));
            last = Some(chunk.last);
        }
    }
}

enum Look {
    Found {
        piece: Piece,
        returned: bool,
        own: bool,
    },
    Load(SegmentId),
    Fence,
    Empty,
}
