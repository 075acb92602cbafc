//! The log against a naive model: the same random history on both, compared after every step.
//!
//! Keeps: I1 (one place), I3 (redelivered), I4 (order), tickets once per copy, and what a crash
//! must leave.

use std::collections::BTreeMap;

use amqp::content::Address;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Append {
        count: u32,
        persistent: bool,
        priority: u8,
    },
    Take(u32),
    TakeHead,
    /// Looks at everything, and takes the nth ready message out of the middle.
    Withdraw(usize),
    /// Settles so many unacked messages from the nth on.
    Settle(usize, usize),
    PutBack(usize, usize),
    Park(usize),
    Wake(usize),
    Hold,
    Purge,
    Cut {
        consumers: bool,
        pressure: bool,
    },
    Finish,
    Evict(u64),
    /// Reads so many adjacent segments, from the nth on, for a merge.
    ReadForMerge(usize, usize),
    Merge,
    Crash {
        commit_arrived: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let nth = 0..40usize;
    prop_oneof![
        8 => (1..7u32, any::<bool>(), 0..6u8).prop_map(|(count, persistent, priority)| {
            Op::Append { count, persistent: persistent || priority > 2, priority }
        }),
        8 => (1..10u32).prop_map(Op::Take),
        1 => Just(Op::TakeHead),
        2 => nth.clone().prop_map(Op::Withdraw),
        8 => (nth.clone(), 1..6usize).prop_map(|(at, n)| Op::Settle(at, n)),
        3 => (nth.clone(), 1..6usize).prop_map(|(at, n)| Op::PutBack(at, n)),
        2 => nth.clone().prop_map(Op::Park),
        2 => nth.prop_map(Op::Wake),
        1 => Just(Op::Hold),
        1 => Just(Op::Purge),
        4 => (any::<bool>(), 0..4u8)
            .prop_map(|(consumers, n)| Op::Cut { consumers, pressure: n == 0 }),
        4 => Just(Op::Finish),
        2 => (0..300u64).prop_map(Op::Evict),
        3 => (0..10usize, 1..5usize).prop_map(|(at, n)| Op::ReadForMerge(at, n)),
        3 => Just(Op::Merge),
        2 => any::<bool>().prop_map(|commit_arrived| Op::Crash { commit_arrived }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    Unacked,
    Waiting,
    /// In a row that its commit has not written yet: seen by nobody.
    Held,
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    id: u64,
    place: Place,
    redelivered: bool,
    /// A consumer had it, in this run or before.
    delivered: bool,
    persistent: bool,
    /// Lives in a row of its own.
    row: bool,
    failures: u32,
    level: u8,
    ticket: u64,
}

/// A segment row: its messages by seq.
#[derive(Clone)]
struct Row {
    first: Seq,
    last: Seq,
    transient: bool,
    messages: BTreeMap<Seq, Piece>,
}

impl Row {
    /// As a segment is decoded: one block, a piece per run of seqs.
    fn read(&self) -> Vec<Piece> {
        let mut block = Block::default();
        let mut runs: Vec<(Seq, u32, u32)> = Vec::new();
        for (at, (&seq, piece)) in (0..).zip(&self.messages) {
            let index = piece.index(0);
            block.push_copy(&piece.block, index, piece.block.address(index), None);
            match runs.last_mut() {
                Some((first, count, _)) if *first + u64::from(*count) == seq => *count += 1,
                _ => runs.push((seq, 1, at)),
            }
        }
        let block = Arc::new(block);
        let piece = |(first, count, from)| Piece::new(first, count, block.clone(), from, 0);
        runs.into_iter().map(piece).collect()
    }
}

#[derive(Clone, Default)]
struct Disk {
    rows: BTreeMap<SegmentId, Row>,
    bits: BTreeMap<SegmentId, Vec<u8>>,
    waiting: BTreeMap<Seq, (Piece, u32)>,
    marks: Marks,
}

#[derive(Default)]
struct Commit {
    rows: Vec<(SegmentId, Row)>,
    saving: Vec<SegmentId>,
    bits: Vec<(SegmentId, Vec<u8>)>,
    dropped: Vec<SegmentId>,
    waiting: Vec<(Seq, Piece, u32)>,
    dropped_waiting: Vec<Seq>,
    marks: Marks,
    /// The model as it was then.
    model: Vec<Message>,
}

struct World {
    log: Log,
    levels: u8,
    model: Vec<Message>,
    disk: Disk,
    /// What a restart must bring back.
    durable: Vec<Message>,
    under_way: Option<Commit>,
    pending_waiting: Vec<(Seq, Piece, u32)>,
    last_segment: u64,
    last_id: u64,
    last_ticket: u64,
    to_merge: Option<(Vec<SegmentId>, Vec<Piece>)>,
}

fn message(id: u64, persistent: bool, priority: u8) -> (Vec<u8>, Vec<u8>) {
    let properties = properties::Properties {
        delivery_mode: persistent.then_some(2),
        priority: Some(priority),
        ..Default::default()
    };
    (properties.encode(), id.to_be_bytes().to_vec())
}

fn id_of(piece: &Piece, offset: u32) -> u64 {
    let body = piece.block.body(piece.index(offset));
    u64::from_be_bytes((*body).try_into().expect("an id is eight bytes"))
}

impl World {
    fn new(levels: u8) -> Self {
        Self {
            log: Log::new(levels),
            levels,
            model: Vec::new(),
            disk: Disk::default(),
            durable: Vec::new(),
            under_way: None,
            pending_waiting: Vec::new(),
            last_segment: 0,
            last_id: 0,
            last_ticket: 0,
            to_merge: None,
        }
    }

    fn play(&mut self, op: &Op) {
        match *op {
            Op::Append {
                count,
                persistent,
                priority,
            } => self.append(count, persistent, priority),
            Op::Take(max) => self.take(max),
            Op::TakeHead => self.take_head(),
            Op::Withdraw(nth) => self.withdraw(nth),
            Op::Settle(at, n) => {
                for run in self.unacked_runs(at, n) {
                    self.settle(run.0, run.1);
                }
            }
            Op::PutBack(at, n) => self.put_back(at, n),
            Op::Park(at) => self.park(at),
            Op::Wake(at) => self.wake(at),
            Op::Hold => self.hold(),
            Op::Purge => self.purge(),
            Op::Cut {
                consumers,
                pressure,
            } => {
                if self.under_way.is_none() {
                    self.cut(consumers, pressure);
                }
            }
            Op::Finish => self.finish(),
            Op::Evict(target) => {
                self.log.evict(target, true);
            }
            Op::ReadForMerge(at, n) => self.read_for_merge(at, n),
            Op::Merge => {
                if let Some((ids, pieces)) = self.to_merge.take() {
                    self.log.merge(&ids, pieces);
                }
            }
            Op::Crash { commit_arrived } => self.crash(commit_arrived),
        }
        self.check();
    }

    fn append(&mut self, count: u32, persistent: bool, priority: u8) {
        let mut block = Block::default();
        let ticket = if persistent && count > 1 {
            self.last_ticket += 1;
            self.last_ticket
        } else {
            0
        };
        for n in 0..count {
            self.last_id += 1;
            let persistent = persistent || n % 2 == 1 && priority == 1;
            let (properties, body) = message(self.last_id, persistent, priority);
            block.push(&Address::new(b"", b"q"), &properties, &body);
            self.model.push(Message {
                id: self.last_id,
                place: Place::Ready,
                redelivered: false,
                delivered: false,
                persistent,
                row: false,
                failures: 0,
                level: self.levels - priority.min(self.levels),
                ticket,
            });
        }
        let mut piece = Piece::new(0, count, Arc::new(block), 0, 0);
        piece.ticket = ticket;
        // A piece is persistent or not as a whole; the publisher's run has one delivery mode.
        let first = self.model.len() - count as usize;
        for message in &mut self.model[first..] {
            message.persistent = piece.persistent;
        }
        self.log.append(piece);
    }

    /// Ready messages in the order in which they must leave.
    fn order(&self) -> Vec<Seq> {
        let mut ready: Vec<(u8, Seq)> = (0..)
            .zip(&self.model)
            .filter(|(_, message)| message.place == Place::Ready)
            .map(|(seq, message)| (message.level, seq))
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, seq)| seq).collect()
    }

    fn next(&mut self, max: u32, head: bool) -> Option<(Piece, bool)> {
        for _ in 0..20 {
            let taken = if head {
                self.log.take_head()
            } else {
                self.log.take(max)
            };
            match taken {
                Take::Run {
                    piece, redelivered, ..
                } => return Some((piece, redelivered)),
                Take::Load(id) => self.load(id),
                Take::Fence => {
                    self.finish();
                    self.cut(true, false);
                    self.finish();
                }
                Take::Empty => return None,
            }
        }
        panic!("the log asks for the same again and again");
    }

    fn load(&mut self, id: SegmentId) {
        let row = self.disk.rows.get(&id).expect("a row that is on disk");
        self.log.loaded(id, ReadBack::Sound(row.read()));
    }

    fn take(&mut self, max: u32) {
        let found = self.next(max, false);
        let order = self.order();
        let Some((piece, redelivered)) = found else {
            assert!(order.is_empty(), "ready messages are not found: {order:?}");
            return;
        };
        assert!(piece.count <= max);
        for (offset, seq) in (0..piece.count).zip(piece.first..) {
            assert_eq!(seq, order[offset as usize], "order");
            let message = &mut self.model[seq as usize];
            assert_eq!(id_of(&piece, offset), message.id, "content of {seq}");
            assert_eq!(redelivered, message.redelivered, "redelivered of {seq}");
            message.place = Place::Unacked;
            message.delivered = true;
        }
    }

    /// All ready messages, as an operator sees them.
    fn browse(&mut self) -> Vec<Seq> {
        let (mut from, mut seen) = (0, Vec::new());
        loop {
            match self.log.browse(from, 3) {
                Browse::Found(piece) => {
                    for (offset, seq) in (0..piece.count).zip(piece.first..) {
                        let id = self.model[seq as usize].id;
                        assert_eq!(id_of(&piece, offset), id, "content of {seq}");
                        seen.push(seq);
                    }
                    from = piece.first + u64::from(piece.count);
                }
                Browse::Load(id) => self.load(id),
                Browse::End => return seen,
            }
        }
    }

    fn withdraw(&mut self, nth: usize) {
        let mut order = self.order();
        order.sort_unstable();
        assert_eq!(self.browse(), order);
        let Some(&seq) = order.get(nth % order.len().max(1)) else {
            return;
        };
        if let Browse::Load(id) = self.log.browse(seq, 1) {
            self.load(id);
        }
        let piece = self.log.withdraw(seq).expect("it is ready");
        assert_eq!(id_of(&piece, 0), self.model[seq as usize].id);
        self.model[seq as usize].place = Place::Unacked;
        self.settle(seq, 1);
    }

    fn take_head(&mut self) {
        let found = self.next(1, true);
        let order = self.order();
        let Some((piece, _)) = found else {
            return assert!(order.is_empty());
        };
        assert_eq!(piece.first, order[0]);
        self.model[piece.first as usize].place = Place::Unacked;
        self.settle(piece.first, 1);
    }

    /// Runs of adjacent unacked messages, `n` in all, from the nth on.
    fn unacked_runs(&self, at: usize, n: usize) -> Vec<(Seq, u32)> {
        let unacked = (0..)
            .zip(&self.model)
            .filter(|(_, m)| m.place == Place::Unacked);
        let seqs: Vec<Seq> = unacked.map(|(seq, _)| seq).skip(at % 7).take(n).collect();
        let mut runs: Vec<(Seq, u32)> = Vec::new();
        let own = |seq: Seq| self.model[seq as usize].row;
        for seq in seqs {
            match runs.last_mut() {
                Some((first, count))
                    if *first + u64::from(*count) == seq && !own(seq) && !own(seq - 1) =>
                {
                    *count += 1;
                }
                _ => runs.push((seq, 1)),
            }
        }
        runs
    }

    fn settle(&mut self, first: Seq, count: u32) {
        let mut expected = BTreeMap::new();
        for seq in first..first + u64::from(count) {
            let message = &mut self.model[seq as usize];
            assert_eq!(message.place, Place::Unacked);
            message.place = Place::Settled;
            let ticket = std::mem::take(&mut message.ticket);
            if ticket != 0 {
                *expected.entry(ticket).or_insert(0) += 1;
            }
        }
        let settled = self.log.settle(first, count);
        assert_eq!(settled.count, count);
        assert_tickets(&settled, &expected);
    }

    fn put_back(&mut self, at: usize, n: usize) {
        for (first, count) in self.unacked_runs(at, n) {
            for seq in first..first + u64::from(count) {
                let message = &mut self.model[seq as usize];
                message.place = Place::Ready;
                message.redelivered = true;
                let own = message.row.then(|| self.content(seq));
                self.log.put_back(seq, 1, own);
            }
        }
    }

    fn content(&self, seq: Seq) -> Piece {
        let message = self.model[seq as usize];
        let mut block = Block::default();
        let priority = self.levels - message.level;
        let (properties, body) = message_of(&message, priority);
        block.push(&Address::new(b"", b"q"), &properties, &body);
        Piece::new(seq, 1, Arc::new(block), 0, 0)
    }

    fn park(&mut self, at: usize) {
        let Some((seq, _)) = self.unacked_runs(at, 1).first().copied() else {
            return;
        };
        let piece = self.content(seq);
        let message = &mut self.model[seq as usize];
        message.place = Place::Waiting;
        message.failures += 1;
        message.row = true;
        message.persistent = true;
        message.ticket = 0;
        let failures = message.failures;
        self.log.park(seq, 0, failures, true);
        self.pending_waiting.push((seq, piece, failures));
    }

    fn wake(&mut self, at: usize) {
        let due: Vec<Seq> = self.log.waiting.due(0);
        let stored = |seq: &&Seq| {
            let failures = self.model[**seq as usize].failures;
            self.disk
                .waiting
                .get(seq)
                .is_some_and(|row| row.1 == failures)
        };
        let rows: Vec<Seq> = due.iter().filter(stored).copied().collect();
        let Some(&seq) = rows.get(at % rows.len().max(1)) else {
            return;
        };
        let message = &mut self.model[seq as usize];
        message.place = Place::Ready;
        message.redelivered = message.failures > 0 || message.redelivered;
        let piece = self.disk.waiting[&seq].0.clone();
        self.log.wake(seq, piece);
    }

    fn hold(&mut self) {
        self.last_id += 1;
        let seq = self.log.reserve(true);
        assert_eq!(seq as usize, self.model.len());
        self.model.push(Message {
            id: self.last_id,
            place: Place::Held,
            redelivered: false,
            delivered: false,
            persistent: true,
            row: true,
            failures: 0,
            level: self.levels,
            ticket: 0,
        });
        let piece = self.content(seq);
        self.pending_waiting.push((seq, piece, 0));
    }

    fn purge(&mut self) {
        let mut expected = BTreeMap::new();
        let mut count = 0;
        for message in &mut self.model {
            if message.place == Place::Ready {
                message.place = Place::Settled;
                count += 1;
                let ticket = std::mem::take(&mut message.ticket);
                if ticket != 0 {
                    *expected.entry(ticket).or_insert(0) += 1;
                }
            }
        }
        let settled = self.log.purge();
        assert_eq!(settled.count, count, "purged");
        assert_tickets(&settled, &expected);
    }

    /// What `Shard::cut` does for one queue.
    fn cut(&mut self, consumers: bool, pressure: bool) {
        let mut commit = Commit::default();
        let last = &mut self.last_segment;
        let mut save = |chunk: &mut Chunk, room: bool, commit: &mut Commit| {
            *last += 1;
            let id = SegmentId(*last);
            let (first, end) = (chunk.first, chunk.last);
            let gone: Vec<Seq> = (first..=end).filter(|&s| chunk.is_settled(s)).collect();
            let (pieces, transient) = chunk.start_saving(id, room);
            commit.dropped.extend(chunk.take_replaced());
            let mut messages = BTreeMap::new();
            for piece in &pieces {
                for offset in 0..piece.count {
                    let mut one = piece.slice(offset, 1);
                    one.ticket = 0;
                    if !gone.contains(&one.first) {
                        messages.insert(one.first, one);
                    }
                }
            }
            commit.saving.push(id);
            if let Some(&last) = messages.keys().last() {
                let row = Row {
                    first,
                    last,
                    transient,
                    messages,
                };
                commit.rows.push((id, row));
            }
        };
        self.log
            .start_saving(false, |chunk| save(chunk, false, &mut commit));
        self.log
            .settled_rows(|segment, bits| commit.bits.push((segment, bits)));
        commit.dropped_waiting = std::mem::take(&mut self.log.dead_rows);
        commit.dropped.append(&mut self.log.dead_segments);
        let handed = if consumers {
            self.log.next_seq()
        } else {
            self.log.handed_to()
        };
        let handed = self.log.handed.max(handed);
        self.log.handed_pending = handed;
        commit.marks = Marks {
            head: self.log.head(),
            handed,
            next: self.log.next_seq(),
        };
        if pressure {
            self.log
                .start_saving(true, |chunk| save(chunk, true, &mut commit));
        }
        commit.waiting = std::mem::take(&mut self.pending_waiting);
        commit.model = self.model.clone();
        self.under_way = Some(commit);
    }

    fn store(disk: &mut Disk, commit: &Commit) {
        disk.rows.extend(commit.rows.iter().cloned());
        disk.bits.extend(commit.bits.iter().cloned());
        for id in &commit.dropped {
            disk.rows.remove(id);
            disk.bits.remove(id);
        }
        for seq in &commit.dropped_waiting {
            disk.waiting.remove(seq);
        }
        for (seq, piece, failures) in &commit.waiting {
            disk.waiting.insert(*seq, (piece.clone(), *failures));
        }
        disk.marks = commit.marks;
    }

    fn finish(&mut self) {
        let Some(commit) = self.under_way.take() else {
            return;
        };
        Self::store(&mut self.disk, &commit);
        for id in &commit.saving {
            self.log.saved(*id, crate::queue::Row::default());
        }
        self.log.handed = self.log.handed.max(commit.marks.handed);
        for (message, then) in self.model.iter_mut().zip(&commit.model) {
            if message.ticket != 0 && then.persistent {
                message.ticket = 0;
            }
        }
        for (seq, piece, failures) in commit.waiting {
            if failures == 0 {
                self.log.appear(seq, piece);
                self.model[seq as usize].place = Place::Ready;
            }
        }
        self.durable = commit.model;
    }

    fn read_for_merge(&mut self, at: usize, n: usize) {
        let chunks = self
            .log
            .chunks
            .iter()
            .skip(at)
            .take_while(|c| c.may_merge());
        let ids: Vec<SegmentId> = chunks.take(n).filter_map(Chunk::segment).collect();
        let rows = ids.iter().filter_map(|id| self.disk.rows.get(id));
        let pieces: Vec<Piece> = rows.flat_map(Row::read).collect();
        let joined = merge::join(&pieces).expect("few addresses");
        self.to_merge = (!ids.is_empty()).then_some((ids, joined));
    }

    fn crash(&mut self, commit_arrived: bool) {
        self.to_merge = None;
        if let Some(commit) = self.under_way.take().filter(|_| commit_arrived) {
            Self::store(&mut self.disk, &commit);
            self.durable = commit.model;
        }
        self.pending_waiting.clear();
        self.disk.rows.retain(|_, row| !row.transient);
        let rows = &self.disk.rows;
        self.disk.bits.retain(|id, _| rows.contains_key(id));
        let mut rows: Vec<(&SegmentId, &Row)> = self.disk.rows.iter().collect();
        rows.sort_by_key(|(id, row)| (row.first, **id));
        let stored = rows.iter().map(|(id, row)| Stored {
            id: **id,
            first: row.first,
            last: row.last,
            count: row.messages.len() as u32,
            bytes: row.messages.len() as u64 * 8,
            at: 0,
            last_at: 0,
            settled: self.disk.bits.get(id).map(Vec::as_slice),
        });
        let (log, partial) = Log::restore(stored, self.disk.marks, self.levels);
        self.log = log;
        for (id, _, _) in partial {
            let pieces = self.disk.rows[&id].read();
            self.log.recount(id, ReadBack::Sound(pieces));
        }
        for (&seq, (_, failures)) in &self.disk.waiting {
            self.log.wait(seq, 0, *failures, true);
        }
        self.remember();
    }

    /// The model after a restart.
    fn remember(&mut self) {
        let before = std::mem::take(&mut self.model);
        self.model = std::mem::take(&mut self.durable);
        let found = self.places();
        let next = self.log.next_seq() as usize;
        assert!(next >= self.model.len(), "seqs would be used twice");
        for (seq, message) in (0..).zip(self.model.iter_mut()) {
            let was_delivered = before[seq as usize].delivered;
            message.ticket = 0;
            message.delivered = was_delivered;
            let survives = message.persistent || found.contains_key(&seq);
            message.place = match message.place {
                Place::Settled => Place::Settled,
                _ if !survives => Place::Settled,
                Place::Waiting | Place::Held => Place::Waiting,
                Place::Ready | Place::Unacked if message.row => Place::Waiting,
                Place::Ready | Place::Unacked => Place::Ready,
            };
            message.redelivered = seq < self.disk.marks.handed;
            if was_delivered && message.place != Place::Settled {
                let says_so = message.redelivered || message.failures > 0;
                assert!(says_so, "{seq} would come back as new");
            }
        }
        let nothing = Message {
            id: 0,
            place: Place::Settled,
            redelivered: false,
            delivered: false,
            persistent: false,
            row: false,
            failures: 0,
            level: 0,
            ticket: 0,
        };
        self.model.resize(next, nothing);
        self.durable = self.model.clone();
    }

    /// Where the log has each message that is not settled.
    fn places(&self) -> BTreeMap<Seq, Place> {
        let mut found = BTreeMap::new();
        let mut put = |seq: Seq, place: Place| {
            let known = found.insert(seq, place);
            assert!(known.is_none(), "{seq} is in two places");
        };
        let aside: BTreeMap<Seq, &Aside> =
            self.log.aside.iter().map(|(key, a)| (key.1, a)).collect();
        for &seq in aside.keys() {
            put(seq, Place::Ready);
        }
        for chunk in &self.log.chunks {
            let row = chunk.segment().and_then(|id| self.disk.rows.get(&id));
            for seq in chunk.first..=chunk.last {
                let there = chunk.is_resident() && chunk.find(seq).is_some()
                    || !chunk.is_resident()
                        && row.is_some_and(|row| row.messages.contains_key(&seq));
                if chunk.is_settled(seq) || !there || aside.contains_key(&seq) {
                    continue;
                }
                let fresh = seq >= self.log.cursor && self.levels == 0;
                put(seq, if fresh { Place::Ready } else { Place::Unacked });
            }
        }
        for seq in 0..self.log.next_seq() {
            if self.log.waiting.contains(seq) {
                put(seq, Place::Waiting);
            }
        }
        found
    }

    fn check(&self) {
        self.log.check();
        let found = self.places();
        let mut counts = (0, 0, 0);
        for (seq, message) in (0..).zip(&self.model) {
            let place = found.get(&seq).copied();
            match message.place {
                Place::Ready => counts.0 += 1,
                Place::Unacked => counts.1 += 1,
                Place::Waiting => counts.2 += 1,
                _ => {}
            }
            match message.place {
                Place::Settled | Place::Held => assert_eq!(place, None, "{seq} {message:?}"),
                // Its content is with whoever has it.
                Place::Unacked if message.row => assert_eq!(place, None, "{seq}"),
                expected => assert_eq!(place, Some(expected), "{seq} {message:?}"),
            }
        }
        let log = &self.log;
        let counted = (log.ready(), log.unacked(), log.waiting.len());
        assert_eq!(counted, counts, "ready, unacked, waiting");
        let resident: u64 = log.chunks.iter().map(Chunk::resident_bytes).sum();
        assert_eq!(log.resident, resident, "resident bytes");
    }

    /// Everything out, and nothing may remain.
    fn drain(&mut self) {
        self.finish();
        self.cut(true, false);
        self.finish();
        loop {
            while !self.log.waiting.is_empty() {
                self.wake(0);
            }
            let before = self.log.ready();
            self.take(100);
            for (first, count) in self.unacked_runs(0, usize::MAX) {
                self.settle(first, count);
            }
            if before == 0 && self.log.unacked() == 0 {
                break;
            }
        }
        for _ in 0..2 {
            self.cut(false, false);
            self.finish();
        }
        let left: Vec<_> = self
            .log
            .chunks
            .iter()
            .map(|c| (c.first, c.last, c.live, c.place))
            .collect();
        assert_eq!(left, [], "a chunk stays");
        assert_eq!(self.disk.rows.len(), 0, "a dead segment stays");
        assert_eq!(self.disk.waiting.len(), 0, "a dead waiting row stays");
        assert_eq!(self.log.resident, 0);
        assert_eq!(self.log.ready_bytes(), 0);
    }
}

fn message_of(message: &Message, priority: u8) -> (Vec<u8>, Vec<u8>) {
    self::message(message.id, true, priority)
}

fn assert_tickets(settled: &Settled, expected: &BTreeMap<u64, u32>) {
    let mut released = BTreeMap::new();
    for (ticket, copies) in &settled.tickets {
        *released.entry(*ticket).or_insert(0) += copies;
    }
    assert_eq!(&released, expected, "tickets");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_log_is_what_the_model_says(
        levels in prop_oneof![3 => Just(0u8), 1 => Just(3u8)],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(levels);
        for op in &ops {
            world.play(op);
        }
        world.drain();
    }
}
