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

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use amqp::content::{Block, Entry};
use amqp::properties;
use foldhash::fast::RandomState;

use crate::model::{Micros, SegmentId, Seq};
use crate::planted::{Planted, planted};
use crate::topology::arguments::{Partition, Retention};

mod ageing;
mod ages;
mod browse;
mod chunk;
pub mod consumers;
mod counts;
mod disk;
pub mod growth;
mod lanes;
pub mod merge;
pub mod retained;
mod take;
mod waiting;

#[cfg(test)]
mod ageing_tests;
#[cfg(test)]
mod lanes_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(crate) mod places;

pub use ages::{Content, Head, HeadState, Heads, Stretch};
pub use browse::Browse;
pub use chunk::{Chunk, Place, Row};
pub use disk::{Marks, Stored};
use lanes::Lanes;
pub(crate) use lanes::{key_and_text, key_in};
pub use merge::Thrift;
use retained::Retained;
pub use waiting::{Parked, Waiting};

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

    /// How many messages from the front on come before one that has expired by its own word; the
    /// first one is not asked.
    pub fn live(&self, now: Micros) -> u32 {
        if !self.expiring {
            return self.count;
        }
        let over = |&offset: &u32| {
            let flags = self.entry(offset).flags;
            flags & Entry::HAS_EXPIRATION != 0
                && self.expires_at(offset).is_some_and(|at| at <= now)
        };
        (1..self.count).find(over).unwrap_or(self.count)
    }

    /// When a message expires by its own word.
    fn expires_at(&self, offset: u32) -> Option<Micros> {
        let text = properties::expiration(self.block.properties(self.index(offset)))?;
        let ms: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        Some(self.at.saturating_add(ms.saturating_mul(1000)))
    }

    pub fn entry(&self, offset: u32) -> &Entry {
        &self.block.entries[self.index(offset)]
    }

    /// What the messages cost in memory: wire bytes and their share of the block's index.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let own = size_of::<Self>() + self.count as usize * size_of::<Entry>();
        self.wire_bytes() + own as u64
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

/// A ready message that the cursor does not find: it came back, or it has a priority.
#[derive(Clone)]
struct Aside {
    /// The content, when it is not in a chunk (it waited in a row of its own).
    own: Option<Box<Piece>>,
    /// False for a message that was never handed out.
    redelivered: bool,
    /// Its wire bytes still count as never handed out.
    counted: bool,
}

/// Where a ready message stands: how far its priority is below the queue's highest, then its seq.
type Standing = (u8, Seq);

/// What is remembered of an unacked message whose content may leave memory meanwhile.
#[derive(Clone, Copy, Default)]
struct Out {
    level: u8,
    body: u32,
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
    chunks: VecDeque<Chunk>,
    /// Ready messages beside the cursor's; in a queue with priorities, all of them.
    aside: BTreeMap<Standing, Aside>,
    /// Highest priority that makes a difference; 0 in a queue without priorities.
    levels: u8,
    /// A message gains one priority by waiting so long, µs; 0: it gains none.
    ageing: Micros,
    /// Order by key, where the queue keeps it: messages held behind busy keys stand here.
    lanes: Option<Box<Lanes>>,
    /// Whose turn it is: the held, or the cursor's.
    lanes_turn: bool,
    /// The cursor did not get to the end of what it may look at.
    unfinished: bool,
    /// Unacked messages, where priorities or body bytes ask for it.
    out: HashMap<Seq, Out, RandomState>,
    pub attempts: HashMap<Seq, u32, RandomState>,
    counts: counts::Counts,
    /// When messages were accepted that have waited since and live outside the chunks.
    pub since: HashMap<Seq, Micros, RandomState>,
    /// Messages outside the log that wait in rows.
    pub waiting: Waiting,
    /// Contents of waiting messages: those of a queue that is not durable, and those that are due
    /// soon.
    pub parked: Parked,
    /// Memory of ready messages whose content is not in a chunk.
    own_bytes: u64,
    expiring: bool,
    /// Messages that wait no more, and whose content lives in a waiting row until they are
    /// settled.
    pub stragglers: BTreeSet<Seq>,
    /// Waiting rows of messages that are settled.
    pub dead_rows: Vec<Seq>,
    /// First seqs of chunks with settled bits that no commit has recorded.
    touched: Vec<Seq>,
    /// All chunks below are saved, or need not be.
    unsaved_from: Seq,
    cursor: Seq,
    /// All messages that a consumer ever had are below.
    top: Seq,
    next: Seq,
    ready: u64,
    /// Wire bytes of ready messages that were never handed out.
    ready_bytes: u64,
    ready_body: Option<u64>,
    unacked: u64,
    pub resident: u64,
    /// Nothing leaves before it is on disk, so that no crash can make it come twice.
    pub disk_first: bool,
    /// Those below go to the disk before anybody gets them, too.
    disk_first_to: Seq,
    /// Messages below may have been handed out according to the newest commit that is on disk.
    pub handed: Seq,
    /// The same for the commit under way: enough for the messages that it brings to disk itself.
    pub handed_pending: Seq,
    /// Messages below were possibly handed out before the last restart.
    recovered_handed: Seq,
    /// Segments that are wholly settled and can go from the store.
    pub dead_segments: Vec<SegmentId>,
    /// Messages that could not be read; they are set aside.
    pub quarantined: u64,
    /// Where in `chunks` the cursor was last, to find it again at once.
    hint: usize,
    pub thrift: Thrift,
    merge: merge::Progress,
    /// What is kept of settled messages, where something is.
    pub retained: Option<Box<Retained>>,
    /// Segments that were retained, and are no more.
    pub unretained: Vec<SegmentId>,
}

impl Log {
    /// An empty log; `levels` is the highest priority that makes a difference, 0 for none.
    pub fn new(levels: u8) -> Self {
        Self {
            levels,
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

    /// Whether body bytes are counted, from now on. Of bodies on disk the share of what is left
    /// is taken.
    pub fn count_bodies(&mut self, count: bool) {
        if count && self.ready_body.is_none() {
            let aside = self.aside.iter().filter_map(|(&(_, seq), aside)| {
                let content = aside
                    .own
                    .as_deref()
                    .cloned()
                    .or_else(|| self.content(seq))?;
                Some(content.body_bytes())
            });
            let held = self.lanes.iter().flat_map(|lanes| lanes.held_seqs());
            let held = held.filter_map(|seq| Some(self.content_held(seq)?.body_bytes()));
            let rest = self
                .chunks
                .iter()
                .map(|chunk| chunk.body_bytes_from(self.cursor));
            let all = aside.sum::<u64>() + held.sum::<u64>() + rest.sum::<u64>();
            self.ready_body = Some(all);
        } else if !count {
            self.ready_body = None;
        }
    }

    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// Messages below may have been handed out.
    pub fn handed_to(&self) -> Seq {
        match self.levels {
            0 if self.lanes.is_none() => self.cursor.max(self.top),
            _ => self.top,
        }
        .max(self.recovered_handed.min(self.next))
    }

    /// What is here goes to the disk before anybody gets it; all of it must be on the way there.
    pub fn wait_for_disk(&mut self) {
        self.disk_first_to = self.next;
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
        let (first, count) = (piece.first, piece.count);
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
        if self.levels > 0 {
            self.stand_by_priority(first, count, false);
            self.cursor = self.next;
        }
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

    /// A seq for a message that will not be in the log; its content is in a row of its own, if
    /// `in_row`.
    pub fn reserve(&mut self, in_row: bool) -> Seq {
        self.close_back();
        let seq = self.next;
        self.next += 1;
        if in_row {
            self.stragglers.insert(seq);
        }
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
        let body = match self.retained {
            Some(_) => self.out.get(&first).map_or(0, |out| out.body),
            None => 0,
        };
        self.forget(seq, end);
        if let Some(lanes) = &mut self.lanes {
            (seq..end).for_each(|seq| lanes.release(seq));
        }
        // One at a time, and nothing to its chunk: it was settled there when it moved out, which a
        // chunk that was not read since a restart does not know.
        if count == 1 && self.stragglers.remove(&first) {
            self.end_row(first, body);
            return out;
        }
        while seq < end {
            let Some(at) = self.chunk_of(seq) else {
                seq += 1;
                continue;
            };
            let upto = end.min(self.chunks[at].last + 1);
            self.settle_in(at, seq, upto, &mut out.tickets);
            seq = upto;
            if self.chunks[at].is_done() {
                self.drop_chunk(at);
            }
        }
        if self.retained.is_some() {
            // It will be written all the same, and its publisher hears of it then.
            out.tickets.clear();
        }
        out
    }

    fn forget(&mut self, from: Seq, end: Seq) {
        for seq in from..end {
            if self.attempts.is_empty() && self.out.is_empty() && self.since.is_empty() {
                return;
            }
            self.forget_count(seq);
            self.out.remove(&seq);
            self.since.remove(&seq);
        }
    }

    fn settle_in(&mut self, at: usize, from: Seq, end: Seq, tickets: &mut Vec<(u64, u32)>) {
        let chunk = &mut self.chunks[at];
        let known = chunk.unsaved_bits;
        chunk.settle(from, end, tickets);
        if !known && chunk.unsaved_bits {
            self.touched.push(chunk.first);
        }
        let noted = chunk.noted || self.retained.is_some();
        if !noted && chunk.may_merge() && chunk.is_sparse(&self.thrift) {
            chunk.noted = true;
            self.merge
                .became_sparse(chunk.first, self.thrift.sparse_age);
        }
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
        if self.stays(at) {
            return;
        }
        if at == 0 || !self.chunks[at].is_open() {
            self.remove_chunk(at);
        }
        if self
            .chunks
            .front()
            .is_some_and(|front| front.is_open() && front.is_done())
            && !self.stays(0)
        {
            self.remove_chunk(0);
        }
    }

    fn remove_chunk(&mut self, at: usize) {
        if let Some(chunk) = self.chunks.remove(at) {
            self.merge.chunk_gone();
            self.resident = self.resident.saturating_sub(chunk.resident_bytes());
            self.retire(&chunk);
            self.hint = self.hint.saturating_sub(usize::from(at <= self.hint));
        }
    }

    /// An unacked message waits until `due`, outside the log; what it settles there lives on in a
    /// row of its own, so that no publisher may be told of it before a commit.
    pub fn park(&mut self, seq: Seq, due: Micros, failures: u32, in_row: bool) {
        if let Some(lanes) = &mut self.lanes {
            lanes.park(seq);
        }
        let accepted = self.accepted_at(seq);
        self.settle(seq, 1);
        if let Some(retained) = &mut self.retained {
            retained.stays_in_row(seq);
        }
        self.since.extend(accepted.map(|at| (seq, at)));
        self.wait(seq, due, failures, in_row);
        if self.lanes.as_ref().is_some_and(|lanes| lanes.blocks(seq)) {
            self.waiting.hurry(seq);
        }
    }

    /// A message that is not in the log waits until `due`.
    pub fn wait(&mut self, seq: Seq, due: Micros, failures: u32, in_row: bool) {
        if failures > 0 {
            self.attempts.insert(seq, failures);
        }
        self.parked.remove(seq);
        self.waiting.insert(seq, due);
        self.waiting.in_rows = in_row;
        self.stragglers.remove(&seq);
    }

    /// A message that waits for its time ends. False: it does not wait.
    pub fn cancel_waiting(&mut self, seq: Seq) -> bool {
        if !self.waiting.remove(seq) {
            return false;
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.cancel(seq);
        }
        self.attempts.remove(&seq);
        self.since.remove(&seq);
        self.parked.remove(seq);
        if self.waiting.in_rows {
            self.dead_rows.push(seq);
        }
        true
    }

    /// Removes every ready message (not the unacked ones); answers how many, and their tickets.
    pub fn purge(&mut self) -> Settled {
        let count = self.ready;
        let mut out = Settled::default();
        for (_, seq) in std::mem::take(&mut self.aside).into_keys() {
            self.unacked += 1;
            out.tickets.extend(self.settle(seq, 1).tickets);
        }
        let held = self.lanes.as_mut().map(|lanes| lanes.purge());
        for seq in held.into_iter().flatten() {
            self.unacked += 1;
            out.tickets.extend(self.settle(seq, 1).tickets);
        }
        let from = self.cursor;
        self.cursor = self.next;
        self.forget_counts(from);
        let first = self.chunks.partition_point(|chunk| chunk.last < from);
        for at in (first..self.chunks.len()).rev() {
            let (start, end) = (from.max(self.chunks[at].first), self.chunks[at].last + 1);
            self.settle_in(at, start, end, &mut out.tickets);
            if self.chunks[at].is_done() && !self.stays(at) {
                self.remove_chunk(at);
            }
        }
        if self.retained.is_some() {
            out.tickets.clear();
        }
        self.ready = 0;
        self.ready_bytes = 0;
        self.own_bytes = 0;
        self.ready_body = self.ready_body.map(|_| 0);
        out.count = u32::try_from(count).unwrap_or(u32::MAX);
        out
    }

    /// Memory of contents that came out of rows and that no consumer has: they cannot leave it.
    pub fn read_back_bytes(&self) -> u64 {
        self.own_bytes + self.parked.bytes()
    }

    /// True when some message may carry an expiration of its own.
    pub fn may_expire(&self) -> bool {
        self.expiring
    }

    pub fn is_waiting(&self, seq: Seq) -> bool {
        self.waiting.contains(seq)
    }

    /// True while the message is here and not settled.
    pub fn has(&self, seq: Seq) -> bool {
        let at = self.chunk_of(seq);
        at.is_some_and(|at| !self.chunks[at].is_settled(seq))
            || self.is_waiting(seq)
            || self.stragglers.contains(&seq)
    }

    /// The content of an unacked message, when it is in memory.
    pub fn content(&self, seq: Seq) -> Option<Piece> {
        let (piece, offset) = self.chunks.get(self.chunk_of(seq)?)?.find(seq)?;
        Some(piece.slice(offset, 1))
    }

    fn content_held(&self, seq: Seq) -> Option<Piece> {
        let aside = self.lanes.as_ref()?.aside(seq);
        let own = aside.and_then(|aside| aside.own.as_deref().cloned());
        own.or_else(|| self.content(seq))
    }

    /// Order by key from now on, or no more. Messages that are out when it begins count for none.
    pub fn keep_order_by_key(&mut self, partition: Option<Partition>) {
        match (&mut self.lanes, partition) {
            (None, None) => {}
            (Some(lanes), Some(new)) if lanes.partition().header == new.header => lanes.change(new),
            (_, new) => {
                for (seq, aside) in self.lanes.take().into_iter().flat_map(|l| l.dissolve()) {
                    let aside = aside.unwrap_or(Aside {
                        own: None,
                        redelivered: false,
                        counted: true,
                    });
                    self.aside.insert((0, seq), aside);
                }
                let Some(new) = new else { return };
                let mut lanes = Lanes::new(new);
                for ((level, seq), aside) in std::mem::take(&mut self.aside) {
                    let own = aside.own.as_deref().cloned();
                    let content = own.or_else(|| self.content(seq));
                    let key = content.map(|piece| lanes.key_of(&piece.block, piece.index(0)));
                    if !lanes.wake(seq, key.unwrap_or(0), aside.clone()) {
                        self.aside.insert((level, seq), aside);
                    }
                }
                self.lanes = Some(Box::new(lanes));
            }
        }
    }

    /// A message that has waited in a row since before a restart blocks its key.
    pub fn parked_by_key(&mut self, seq: Seq, piece: &Piece) {
        if let Some(lanes) = &mut self.lanes {
            let key = lanes.key_of(&piece.block, piece.index(0));
            lanes.parked(seq, key);
            self.waiting.hurry(seq);
        }
    }

    /// True when only a message that waits for its time would let any go out: each of those that
    /// are here waits for its key.
    pub fn needs_urgent(&self) -> bool {
        match &self.lanes {
            Some(lanes) => !lanes.has_turn() && self.cursor == self.next && self.aside.is_empty(),
            // Nothing is held back by key: what is urgent leaves the queue as soon as it is here.
            None => true,
        }
    }

    /// The clock, for keys that rest between two messages.
    pub fn set_now(&mut self, now: Micros) {
        if let Some(lanes) = &mut self.lanes {
            lanes.set_now(now);
        }
    }

    /// Some key rests, or the cursor has not looked at everything: time alone lets it go on.
    pub fn goes_on_by_time(&self) -> bool {
        let resting = |lanes: &Lanes| lanes.next_rested().is_some();
        self.unfinished || self.lanes.as_deref().is_some_and(resting)
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
