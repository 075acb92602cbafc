//! Order by key against a naive model: random histories, checked after every step.
//!
//! Keeps: of each key at most `concurrency` messages out, in seq order (I4); every message is in
//! one place (I1); nothing that could go out is forgotten, and no key starves.

use std::collections::{BTreeMap, BTreeSet};

use amqp::content::Address;
use amqp::field::{Table, Value};
use amqp::properties::Properties;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Keys of messages; 0 for none.
    Append(Vec<u8>, bool),
    Take(u32),
    TakeHead,
    Withdraw(usize),
    Settle(usize),
    PutBack(usize),
    Park(usize),
    Wake(usize),
    Save,
    Evict,
    Purge,
    /// The queue ceases to keep order by key, and begins again.
    Toggle,
}

fn op() -> impl Strategy<Value = Op> {
    let nth = 0..64usize;
    prop_oneof![
        8 => (proptest::collection::vec(0..5u8, 1..12), any::<bool>())
            .prop_map(|(keys, persistent)| Op::Append(keys, persistent)),
        10 => (1..9u32).prop_map(Op::Take),
        1 => Just(Op::TakeHead),
        1 => nth.clone().prop_map(Op::Withdraw),
        8 => nth.clone().prop_map(Op::Settle),
        3 => nth.clone().prop_map(Op::PutBack),
        3 => nth.clone().prop_map(Op::Park),
        3 => nth.prop_map(Op::Wake),
        4 => Just(Op::Save),
        2 => Just(Op::Evict),
        1 => Just(Op::Purge),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    Out,
    Parked,
    Gone,
}

struct World {
    log: Log,
    partition: Partition,
    keys: Vec<u8>,
    places: Vec<Place>,
    /// Their content lives beside the log.
    woken: BTreeSet<Seq>,
    /// Rows on disk.
    rows: BTreeMap<SegmentId, Vec<Piece>>,
    last_segment: u64,
}

fn block_of(keys: &[u8], persistent: bool) -> Arc<Block> {
    let mut block = Block::default();
    for key in keys {
        let mut headers = Table::default();
        headers.insert("other", Value::text("text"));
        if *key > 0 {
            headers.insert("k", Value::I32(i32::from(*key)));
        }
        let properties = Properties {
            delivery_mode: persistent.then_some(2),
            headers: Some(headers),
            ..Properties::default()
        };
        block.push(&Address::new(b"", b"q"), &properties.encode(), b"body");
    }
    Arc::new(block)
}

impl World {
    fn new(concurrency: u32, skip: bool) -> Self {
        let partition = Partition {
            header: "k".into(),
            concurrency,
            skip,
            interval: 0,
        };
        let mut log = Log::default();
        log.keep_order_by_key(Some(partition.clone()));
        Self {
            log,
            partition,
            keys: Vec::new(),
            places: Vec::new(),
            woken: BTreeSet::new(),
            rows: BTreeMap::new(),
            last_segment: 0,
        }
    }

    fn in_place(&self, place: Place) -> Vec<Seq> {
        let found = |(seq, &at): (usize, &Place)| (at == place).then_some(seq as Seq);
        self.places.iter().enumerate().filter_map(found).collect()
    }

    fn place(&mut self, seq: Seq) -> &mut Place {
        &mut self.places[seq as usize]
    }

    fn nth(&self, place: Place, nth: usize) -> Option<Seq> {
        let all = self.in_place(place);
        (!all.is_empty()).then(|| all[nth % all.len()])
    }

    fn piece(&self, seq: Seq) -> Piece {
        let block = block_of(&[self.keys[seq as usize]], true);
        Piece::new(seq, 1, block, 0, 0)
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Append(keys, persistent) => {
                let block = block_of(&keys, persistent);
                let piece = Piece::new(0, keys.len() as u32, block, 0, 0);
                self.log.append(piece);
                self.places.extend(keys.iter().map(|_| Place::Ready));
                self.keys.extend(keys);
            }
            Op::Take(max) => drop(self.take(max)),
            Op::TakeHead => {
                if let Take::Run { piece, .. } = self.log.take_head() {
                    let first = self.in_place(Place::Ready).first().copied();
                    assert_eq!(first, Some(piece.first), "the head is the oldest ready one");
                    self.log.settle(piece.first, 1);
                    *self.place(piece.first) = Place::Gone;
                }
            }
            Op::Withdraw(nth) => {
                let Some(seq) = self.nth(Place::Ready, nth) else {
                    return;
                };
                if let Browse::Load(id) = self.log.browse(seq, 1) {
                    let pieces = self.rows[&id].clone();
                    self.log.loaded(id, ReadBack::Sound(pieces));
                }
                let piece = self.log.withdraw(seq).expect("it is ready");
                assert_eq!(piece.first, seq);
                self.log.settle(seq, 1);
                *self.place(seq) = Place::Gone;
            }
            Op::Settle(nth) => {
                if let Some(seq) = self.nth(Place::Out, nth) {
                    self.log.settle(seq, 1);
                    *self.place(seq) = Place::Gone;
                }
            }
            Op::PutBack(nth) => {
                if let Some(seq) = self.nth(Place::Out, nth) {
                    let own = self.woken.contains(&seq).then(|| self.piece(seq));
                    self.log.put_back(seq, 1, own);
                    *self.place(seq) = Place::Ready;
                }
            }
            Op::Park(nth) => {
                if let Some(seq) = self.nth(Place::Out, nth) {
                    self.log.park(seq, 5, 1, true);
                    *self.place(seq) = Place::Parked;
                }
            }
            Op::Wake(nth) => {
                if let Some(seq) = self.nth(Place::Parked, nth) {
                    self.log.wake(seq, self.piece(seq));
                    self.woken.insert(seq);
                    *self.place(seq) = Place::Ready;
                }
            }
            Op::Save => self.save(),
            Op::Evict => drop(self.log.evict(0, false)),
            Op::Purge => {
                let ready = self.in_place(Place::Ready);
                assert_eq!(self.log.purge().count as usize, ready.len());
                ready.iter().for_each(|&seq| *self.place(seq) = Place::Gone);
            }
            Op::Toggle => {
                self.log.keep_order_by_key(None);
                self.log.keep_order_by_key(Some(self.partition.clone()));
            }
        }
    }

    fn save(&mut self) {
        let (rows, last) = (&mut self.rows, &mut self.last_segment);
        let mut ids = Vec::new();
        self.log.start_saving(false, |chunk| {
            *last += 1;
            let id = SegmentId(*last);
            let (pieces, _) = chunk.start_saving(id, false);
            rows.insert(id, pieces);
            ids.push(id);
        });
        ids.into_iter()
            .for_each(|id| self.log.saved(id, Row::default()));
        self.log.handed = self.log.next_seq();
    }

    /// Takes once, loading and committing as a shard would.
    fn take(&mut self, max: u32) -> Vec<Seq> {
        for _ in 0..10_000 {
            match self.log.take(max) {
                Take::Run { piece, .. } => {
                    let seqs: Vec<Seq> =
                        (piece.first..piece.first + u64::from(piece.count)).collect();
                    assert!(seqs.len() <= max as usize);
                    for (offset, &seq) in (0..).zip(&seqs) {
                        assert_eq!(*self.place(seq), Place::Ready, "{seq} was not ready");
                        self.has_turn(seq);
                        *self.place(seq) = Place::Out;
                        let lanes = self.log.lanes.as_ref().expect("order by key");
                        let key = lanes.key_of(&piece.block, piece.index(offset));
                        assert_eq!(key == 0, self.keys[seq as usize] == 0);
                    }
                    return seqs;
                }
                Take::Load(id) => {
                    let pieces = self.rows[&id].clone();
                    self.log.loaded(id, ReadBack::Sound(pieces));
                }
                Take::Fence => self.save(),
                Take::Empty => {
                    let able: Vec<Seq> = self.able();
                    assert!(able.is_empty(), "{able:?} could have gone out");
                    return Vec::new();
                }
            }
        }
        panic!("neither a message nor an end");
    }

    /// Nothing older of the same key is ready, and there is room.
    fn has_turn(&self, seq: Seq) {
        let key = self.keys[seq as usize];
        if key == 0 {
            return;
        }
        let older = self.keys[..seq as usize].iter().zip(&self.places);
        let waits = older
            .filter(|(k, at)| **k == key && **at == Place::Ready)
            .count();
        assert_eq!(waits, 0, "{seq} overtook one of its key");
        assert!(self.busy(key) < self.partition.concurrency as usize);
    }

    fn busy(&self, key: u8) -> usize {
        let counts = |at: &Place| match at {
            Place::Out => true,
            Place::Parked => !self.partition.skip,
            _ => false,
        };
        let all = self.keys.iter().zip(&self.places);
        all.filter(|(k, at)| **k == key && counts(at)).count()
    }

    /// Ready messages whose key has room.
    fn able(&self) -> Vec<Seq> {
        let room: BTreeSet<u8> = (1..5)
            .filter(|&key| self.busy(key) < self.partition.concurrency as usize)
            .collect();
        let ready = self.in_place(Place::Ready).into_iter();
        ready
            .filter(|&seq| {
                let key = self.keys[seq as usize];
                key == 0 || room.contains(&key)
            })
            .collect()
    }

    fn check(&self) {
        self.log.check();
        let count = |place| self.in_place(place).len() as u64;
        assert_eq!(self.log.ready(), count(Place::Ready));
        assert_eq!(self.log.unacked(), count(Place::Out));
        assert_eq!(self.log.waiting.len() as u64, count(Place::Parked));
    }

    /// In the end everything goes out, each message once.
    fn drain(&mut self) {
        while let Some(seq) = self.nth(Place::Parked, 0) {
            self.run(Op::Wake(0));
            assert_eq!(*self.place(seq), Place::Ready);
        }
        for _ in 0..10_000 {
            while self.nth(Place::Out, 0).is_some() {
                self.run(Op::Settle(0));
            }
            if self.take(3).is_empty() {
                break;
            }
        }
        self.check();
        assert!(self.places.iter().all(|&at| at == Place::Gone));
        let lanes = self.log.lanes.as_ref().expect("order by key");
        assert!(lanes.is_idle(), "something is remembered of nothing");
    }
}

/// A selection where builds are slow, many by hand in a release build.
const CASES: u32 = if cfg!(debug_assertions) { 300 } else { 20_000 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn one_message_of_a_key_at_a_time_in_order(
        ops in proptest::collection::vec(op(), 1..120),
        concurrency in 1..4u32,
        skip in any::<bool>(),
    ) {
        let mut world = World::new(concurrency, skip);
        for op in ops {
            world.run(op);
            world.check();
        }
        world.drain();
    }
}

#[test]
fn a_key_with_a_million_does_not_starve_the_others() {
    let mut world = World::new(1, false);
    let mut keys = vec![1; 5_000];
    keys.extend([2, 3, 2, 3]);
    world.run(Op::Append(keys, false));
    let mut first = Vec::new();
    for _ in 0..12 {
        for seq in world.take(10) {
            first.push(world.keys[seq as usize]);
            world.log.settle(seq, 1);
            *world.place(seq) = Place::Gone;
        }
    }
    let of = |key| first.iter().filter(|k| **k == key).count();
    assert_eq!((of(2), of(3)), (2, 2), "{first:?}");
    world.drain();
}

#[test]
fn a_resting_key_waits_and_others_go_on() {
    let mut world = World::new(1, false);
    let interval = 1_000;
    let partition = Partition {
        interval,
        ..world.partition.clone()
    };
    world.log.keep_order_by_key(Some(partition));
    world.run(Op::Append(vec![1, 1, 1, 2], false));
    world.log.set_now(0);
    let mut took = Vec::new();
    for now in 0..3_001 {
        world.log.set_now(now);
        while let Take::Run { piece, .. } = world.log.take(1) {
            took.push((now, piece.first));
            world.log.settle(piece.first, 1);
        }
    }
    assert_eq!(took, [(0, 0), (0, 3), (1000, 1), (2000, 2)]);
}

#[test]
fn order_by_key_can_be_turned_on_and_off_on_a_live_queue() {
    let mut world = World::new(1, false);
    world.run(Op::Append(vec![1, 1, 2, 2, 0], true));
    world.save();
    let out = world.take(5);
    assert_eq!(out, [0]);
    world.run(Op::PutBack(0));
    world.run(Op::Toggle);
    world.check();
    world.drain();
}
