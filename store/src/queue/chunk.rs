//! A stretch of a queue's log: what one commit will append, or what one segment holds. Pure.
//!
//! Keeps: which of its messages are settled, and where their bodies are.
//! In: `Log` only.
//!
//! ```text
//! Open ──close──► Closed ──cut──► Saving ──done──► Saved      (Open goes to Saving directly, too)
//! ```

use crate::model::{Micros, SegmentId, Seq};
use crate::queue::ages::Times;
use crate::queue::{Piece, Thrift};

/// How far a chunk is on its way to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Open,
    Closed,
    Saving(SegmentId),
    Saved(SegmentId),
}

/// What a segment row holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    pub count: u32,
    /// Body bytes.
    pub bytes: u64,
    pub last_at: Micros,
}

pub struct Chunk {
    pub first: Seq,
    /// Inclusive.
    pub last: Seq,
    /// Unsettled messages.
    pub live: u32,
    /// Messages that the chunk began with.
    pub total: u32,
    /// Wire bytes appended.
    pub bytes: u64,
    pub place: Place,
    pub at: Micros,
    pieces: Vec<Piece>,
    resident: bool,
    /// Some message is not persistent and exists in memory only.
    volatile: bool,
    persistent: bool,
    tickets: bool,
    /// All below is settled.
    done: Seq,
    /// Settled seqs at or above `done`, one bit per seq from `first`.
    bits: Option<Vec<u64>>,
    /// Settled since the last cut, out of order, in a saved chunk.
    pub unsaved_bits: bool,
    /// False when the row could not be read: it stays for whoever repairs.
    pub removable: bool,
    /// Rows that hold the messages until the chunk's own row is on disk.
    replaces: Vec<SegmentId>,
    /// The messages are on disk already, in rows that the next save replaces.
    again: bool,
    /// Not to be merged: its row did not read back well.
    pub stays: bool,
    /// Noted as sparse.
    pub noted: bool,
    /// What its row holds, once it has one.
    pub row: Row,
    /// When its messages were accepted, while their contents are on disk.
    times: Times,
}

impl Chunk {
    pub fn open(first: Seq, at: Micros) -> Self {
        Self {
            first,
            last: first,
            live: 0,
            total: 0,
            bytes: 0,
            place: Place::Open,
            at,
            pieces: Vec::new(),
            resident: true,
            volatile: false,
            persistent: false,
            tickets: false,
            done: first,
            bits: None,
            unsaved_bits: false,
            removable: true,
            replaces: Vec::new(),
            again: false,
            stays: false,
            noted: false,
            row: Row::default(),
            times: Times::default(),
        }
    }

    /// One chunk in the place of several, all on disk and side by side; `pieces` hold their
    /// messages.
    pub fn merged(old: Vec<Self>, pieces: Vec<Piece>) -> Self {
        let mut new = Self::open(old[0].first, old[0].at);
        new.last = old.last().map_or(new.first, |chunk| chunk.last);
        new.place = Place::Closed;
        new.persistent = true;
        new.again = true;
        new.resident = false;
        new.bytes = pieces.iter().map(Piece::memory_bytes).sum();
        let mut seq = new.first;
        for chunk in old {
            new.at = new.at.min(chunk.at);
            new.live += chunk.live;
            new.replaces.extend(chunk.dead_segments());
            // Of a chunk that went meanwhile everything is settled.
            (seq..chunk.first).for_each(|gone| new.set(gone));
            let settled = (chunk.first..=chunk.last).filter(|&seq| chunk.is_settled(seq));
            settled.for_each(|gone| new.set(gone));
            seq = chunk.last + 1;
        }
        new.load(pieces);
        new.total = new.live;
        new
    }

    /// True when the chunk is a row that another may replace.
    pub fn may_merge(&self) -> bool {
        matches!(self.place, Place::Saved(_))
            && self.persistent
            && !self.volatile
            && self.removable
            && !self.stays
    }

    /// How many of the chunk's unsettled messages are among these.
    pub fn live_among(&self, pieces: &[Piece]) -> u32 {
        let mut live = 0;
        for piece in pieces {
            let from = piece.first.max(self.first);
            let end = (piece.first + u64::from(piece.count)).min(self.last + 1);
            live += (from..end).filter(|&seq| !self.is_settled(seq)).count();
        }
        live as u32
    }

    /// True when hardly anything is left of a row that is not small.
    pub fn is_sparse(&self, thrift: &Thrift) -> bool {
        self.live > 0
            && self.bytes >= thrift.sparse_bytes
            && u64::from(self.live) * u64::from(thrift.sparse_share) < u64::from(self.total)
    }
    /// A segment found on disk; `head` cuts its settled front off.
    pub fn saved(id: SegmentId, (first, last): (Seq, Seq), row: Row, at: Micros) -> Self {
        Self {
            last,
            live: row.count,
            total: row.count,
            bytes: row.bytes,
            row,
            place: Place::Saved(id),
            resident: false,
            persistent: true,
            ..Self::open(first, at)
        }
    }

    /// Applies what the store knows to be settled; the caller loads the chunk right after.
    pub fn mark_settled(&mut self, head: Seq, bits: Option<&[u8]>) {
        self.done = self.done.max(head.min(self.last + 1));
        if let Some(bytes) = bits {
            for seq in self.first..=self.last {
                let at = (seq - self.first) as usize;
                if bytes
                    .get(at / 8)
                    .is_some_and(|byte| byte & (1 << (at % 8)) != 0)
                {
                    self.set(seq);
                }
            }
        }
    }

    pub fn append(&mut self, piece: Piece, bytes: u64) {
        self.last = piece.first + u64::from(piece.count) - 1;
        self.live += piece.count;
        self.total += piece.count;
        self.bytes += bytes;
        self.volatile |= !piece.persistent;
        self.persistent |= piece.persistent;
        self.tickets |= piece.ticket != 0;
        self.pieces.push(piece);
    }

    pub fn close(&mut self) {
        if self.place == Place::Open {
            self.place = Place::Closed;
        }
    }

    pub fn is_open(&self) -> bool {
        self.place == Place::Open
    }

    pub fn is_saving(&self) -> bool {
        matches!(self.place, Place::Saving(_))
    }

    pub fn is_done(&self) -> bool {
        self.live == 0
    }

    pub fn is_resident(&self) -> bool {
        self.resident
    }

    /// The row that holds (or will hold) the messages.
    pub fn segment(&self) -> Option<SegmentId> {
        match self.place {
            Place::Saved(id) => Some(id),
            _ => None,
        }
    }

    /// The rows to remove with the chunk.
    pub fn dead_segments(&self) -> impl Iterator<Item = SegmentId> {
        let own = self.segment().filter(|_| self.removable);
        own.into_iter().chain(self.replaces.iter().copied())
    }

    /// True when the store has the messages, be it in rows that are about to be replaced.
    pub fn is_on_disk(&self) -> bool {
        self.again || matches!(self.place, Place::Saved(_))
    }

    /// Rows that go when the chunk's own is written; asked for once, by the commit that does both.
    pub fn take_replaced(&mut self) -> Vec<SegmentId> {
        std::mem::take(&mut self.replaces)
    }

    /// False when a crash forgets the message, whatever a commit takes along.
    pub fn keeps(&self, seq: Seq) -> bool {
        let persistent = |(piece, _): (&Piece, u32)| piece.persistent;
        !self.volatile || self.find(seq).is_none_or(persistent)
    }

    /// True when a commit should take it along; under memory `pressure` also for room alone, and
    /// where settled messages are `retained` even when no other is left.
    pub fn wants_saving(&self, pressure: bool, retained: bool) -> bool {
        match self.place {
            Place::Open | Place::Closed if retained && self.persistent => true,
            Place::Open => self.persistent && self.live > 0,
            Place::Closed => (self.persistent || pressure) && self.live > 0,
            Place::Saving(_) | Place::Saved(_) => false,
        }
    }

    /// The pieces to encode, under the row's id from now on, and whether a restart may forget
    /// them. Under `pressure` messages that are not persistent go along, to make room.
    pub fn start_saving(&mut self, id: SegmentId, pressure: bool) -> (Vec<Piece>, bool) {
        self.place = Place::Saving(id);
        self.volatile &= !pressure;
        let taken = self
            .pieces
            .iter()
            .filter(|piece| piece.persistent || pressure);
        (taken.cloned().collect(), !self.persistent)
    }

    /// The row is on disk. Answers the bytes that leave memory: what was read for a merge alone.
    pub fn saved_now(&mut self) -> u64 {
        if let Place::Saving(id) = self.place {
            self.place = Place::Saved(id);
        }
        if std::mem::take(&mut self.tickets) {
            for piece in &mut self.pieces {
                piece.ticket = 0;
            }
        }
        match std::mem::take(&mut self.again) {
            true => self.evict(),
            false => 0,
        }
    }

    pub fn done_to(&self) -> Seq {
        self.done
    }

    pub fn is_settled(&self, seq: Seq) -> bool {
        if seq < self.done {
            return true;
        }
        let at = (seq - self.first) as usize;
        self.bits
            .as_ref()
            .and_then(|bits| bits.get(at / 64))
            .is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn set(&mut self, seq: Seq) {
        let words = ((self.last - self.first) / 64 + 1) as usize;
        let bits = self.bits.get_or_insert_with(Vec::new);
        if bits.len() < words {
            bits.resize(words, 0);
        }
        let at = (seq - self.first) as usize;
        bits[at / 64] |= 1 << (at % 64);
    }

    /// Settles [from, end); notes publishers that still wait for these copies, each copy once.
    pub fn settle(&mut self, from: Seq, end: Seq, tickets: &mut Vec<(u64, u32)>) {
        let from = from.max(self.done);
        if from >= end {
            return;
        }
        self.unsaved_bits = true;
        let newly = if self.bits.is_none() && from == self.done {
            self.done = end;
            self.claims(from, end, tickets);
            (end - from) as u32
        } else {
            self.settle_scattered(from, end, tickets)
        };
        self.live = self.live.saturating_sub(newly);
    }

    /// The publishers' claims on [from, end).
    fn claims(&self, from: Seq, end: Seq, tickets: &mut Vec<(u64, u32)>) {
        if !self.tickets {
            return;
        }
        for piece in &self.pieces[self.piece_at(from)..] {
            if piece.first >= end {
                break;
            }
            if piece.ticket != 0 {
                let low = piece.first.max(from);
                let high = (piece.first + u64::from(piece.count)).min(end);
                tickets.push((piece.ticket, (high - low) as u32));
            }
        }
    }

    fn settle_scattered(&mut self, from: Seq, end: Seq, tickets: &mut Vec<(u64, u32)>) -> u32 {
        let mut newly = 0;
        for seq in from..end {
            if !self.is_settled(seq) {
                self.set(seq);
                self.claims(seq, seq + 1, tickets);
                newly += 1;
            }
        }
        while self.done <= self.last && self.is_settled(self.done) {
            self.done += 1;
        }
        newly
    }

    /// Settled bits for the store; `None` when nothing changed, or all is settled.
    pub fn bits_to_save(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.unsaved_bits) || self.live == 0 {
            return None;
        }
        Some(self.settled_bits())
    }

    /// The same for a row that is written with settled messages in it.
    pub fn bits_with_row(&mut self) -> Option<Vec<u8>> {
        self.unsaved_bits = false;
        (self.done > self.first || self.bits.is_some()).then(|| self.settled_bits())
    }

    /// True when the chunk has messages that are, or will be, in a row of the store for good.
    pub fn may_be_retained(&self) -> bool {
        self.persistent && self.removable
    }

    fn settled_bits(&self) -> Vec<u8> {
        let count = (self.last - self.first + 1) as usize;
        let mut out = vec![0u8; count.div_ceil(8)];
        for (at, word) in self.bits.iter().flatten().enumerate() {
            for (byte, bits) in out.iter_mut().skip(at * 8).zip(word.to_le_bytes()) {
                *byte = bits;
            }
        }
        let done = (self.done - self.first) as usize;
        out[..done / 8].fill(0xFF);
        if !done.is_multiple_of(8) {
            out[done / 8] |= (1 << (done % 8)) - 1;
        }
        out
    }

    /// True when the queue's head alone says what is settled here, given that it is the front.
    pub fn is_settled_in_order(&self) -> bool {
        self.bits.is_none()
    }

    fn piece_at(&self, seq: Seq) -> usize {
        self.pieces
            .partition_point(|piece| piece.first + u64::from(piece.count) <= seq)
    }

    pub fn find(&self, seq: Seq) -> Option<(&Piece, u32)> {
        let piece = self.pieces.get(self.piece_at(seq))?;
        (piece.first <= seq).then(|| (piece, (seq - piece.first) as u32))
    }

    /// The first unsettled messages at or after `seq`, at most `max`, in one run.
    pub fn ready_from(&self, seq: Seq, max: u32) -> Option<Piece> {
        let mut at = self.piece_at(seq);
        let mut seq = seq.max(self.done);
        while let Some(piece) = self.pieces.get(at) {
            seq = seq.max(piece.first);
            let end = piece.first + u64::from(piece.count);
            if self.bits.is_some() {
                while seq < end && self.is_settled(seq) {
                    seq += 1;
                }
            }
            if seq < end {
                let mut stop = end.min(seq + u64::from(max));
                if self.bits.is_some() {
                    stop = (seq..stop).find(|&s| self.is_settled(s)).unwrap_or(stop);
                }
                return Some(piece.slice((seq - piece.first) as u32, (stop - seq) as u32));
            }
            at += 1;
        }
        None
    }

    /// Body bytes of unsettled messages at hand.
    pub fn live_body_bytes(&self) -> u64 {
        let mut sum = 0;
        for piece in &self.pieces {
            let live = (0..piece.count).filter(|&at| !self.is_settled(piece.first + u64::from(at)));
            sum += live
                .map(|at| u64::from(piece.entry(at).body_size))
                .sum::<u64>();
        }
        sum
    }

    /// Body bytes of unsettled messages from `seq` on; of a chunk on disk, its share.
    pub fn body_bytes_from(&self, seq: Seq) -> u64 {
        if self.last < seq {
            return 0;
        }
        if !self.resident {
            return self.bytes * u64::from(self.live) / u64::from(self.total.max(1));
        }
        let mut sum = 0;
        let mut from = seq.max(self.first);
        while let Some(piece) = self.ready_from(from, u32::MAX) {
            sum += piece.body_bytes();
            from = piece.first + u64::from(piece.count);
        }
        sum
    }

    pub fn resident_bytes(&self) -> u64 {
        if self.resident { self.bytes } else { 0 }
    }

    /// Forgets bodies that are safe on disk; answers the bytes freed.
    pub fn evict(&mut self) -> u64 {
        if !self.resident || self.volatile || !matches!(self.place, Place::Saved(_)) {
            return 0;
        }
        self.resident = false;
        self.times = Times::of(&self.pieces);
        self.pieces = Vec::new();
        self.bytes
    }

    /// Takes bodies read back; seqs that are not among them were settled before the save, or are
    /// damaged. Answers the bytes now resident and these seqs.
    pub fn load(&mut self, pieces: Vec<Piece>) -> (u64, Vec<Seq>) {
        if self.resident {
            return (0, Vec::new());
        }
        let mut expected = self.first;
        let mut live = 0;
        let mut gaps = Vec::new();
        for piece in &pieces {
            gaps.extend(expected..piece.first);
            expected = piece.first + u64::from(piece.count);
            live += (piece.first..expected)
                .filter(|&seq| !self.is_settled(seq))
                .count() as u32;
        }
        gaps.extend(expected..=self.last);
        gaps.retain(|&seq| !self.is_settled(seq));
        gaps.iter().for_each(|&seq| self.set(seq));
        while self.done <= self.last && self.is_settled(self.done) {
            self.done += 1;
        }
        self.live = live;
        self.pieces = pieces;
        self.resident = true;
        (self.bytes, gaps)
    }

    /// When a message was accepted; while its content is on disk, or it left the chunk, this may
    /// be earlier by a sixteenth of the chunk's span.
    pub fn accepted_at(&self, seq: Seq) -> Micros {
        let found = self.find(seq).map(|(piece, _)| piece.at);
        found.or_else(|| self.times.at(seq)).unwrap_or(self.at)
    }

    /// The first unsettled seq at or after `from`.
    pub fn first_unsettled(&self, from: Seq) -> Option<Seq> {
        let mut seqs = from.max(self.done)..=self.last;
        seqs.find(|&seq| !self.is_settled(seq))
    }

    /// Runs (first, end) of unsettled seqs at or after `from`, which end behind `most` messages.
    pub fn unsettled_runs(&self, from: Seq, most: u32) -> Vec<(Seq, Seq)> {
        let mut runs: Vec<(Seq, Seq)> = Vec::new();
        let mut left = most;
        for seq in from.max(self.done)..=self.last {
            if left == 0 {
                break;
            }
            if self.is_settled(seq) {
                continue;
            }
            left -= 1;
            match runs.last_mut().filter(|(_, end)| *end == seq) {
                Some((_, end)) => *end += 1,
                None => runs.push((seq, seq + 1)),
            }
        }
        runs
    }
}
