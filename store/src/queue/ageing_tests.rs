//! Priorities that grow with waiting, against a list that is sorted anew each time.

use amqp::content::Address;
use proptest::prelude::*;

use super::*;

const LEVELS: u8 = 9;

fn piece(priority: u8, count: u32, at: Micros) -> Piece {
    let properties = properties::Properties {
        delivery_mode: Some(2),
        priority: Some(priority),
        ..Default::default()
    };
    let mut block = Block::default();
    for _ in 0..count {
        block.push(&Address::new(b"", b"q"), &properties.encode(), b"body");
    }
    Piece::new(0, count, Arc::new(block), 0, at)
}

/// The order in which the messages of a log leave.
fn order(log: &mut Log) -> Vec<Seq> {
    let mut seqs = Vec::new();
    while let Take::Run { piece, .. } = log.take(100) {
        seqs.extend(piece.first..piece.first + u64::from(piece.count));
    }
    seqs
}

/// Priority and time of each message, by seq, and where it is.
#[derive(Default)]
struct Model {
    messages: Vec<(u8, Micros)>,
    ready: BTreeSet<Seq>,
    unacked: BTreeSet<Seq>,
    interval: Micros,
}

impl Model {
    /// The next to leave: whose priority, grown by waiting, is the highest at any time.
    fn next(&self) -> Option<Seq> {
        let standing = |seq: &Seq| {
            let (priority, at) = self.messages[*seq as usize];
            let level = LEVELS - priority.min(LEVELS);
            match self.interval {
                0 => (0, level, *seq),
                interval => (at + interval * Micros::from(level), level, *seq),
            }
        };
        self.ready.iter().copied().min_by_key(standing)
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Messages of one priority, so many µs after those before.
    Append(u8, u32, Micros),
    Take(u32),
    /// The oldest or the youngest of those that are out comes back.
    PutBack(bool),
    Settle(bool),
    Interval(u64),
    Purge,
}

/// Whole milliseconds make ties.
fn later() -> impl Strategy<Value = Micros> {
    prop_oneof![0..3_000i64, (0..4i64).prop_map(|ms| ms * 1000)]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u8, 1..4u32, later()).prop_map(|(p, n, later)| Op::Append(p, n, later)),
        6 => (1..5u32).prop_map(Op::Take),
        3 => any::<bool>().prop_map(Op::PutBack),
        3 => any::<bool>().prop_map(Op::Settle),
        1 => prop_oneof![Just(0), Just(1), Just(2), Just(1_000)].prop_map(Op::Interval),
        1 => Just(Op::Purge),
    ]
}

fn pick(set: &mut BTreeSet<Seq>, first: bool) -> Option<Seq> {
    match first {
        true => set.pop_first(),
        false => set.pop_last(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn the_order_is_that_of_a_sorted_list(ops in prop::collection::vec(ops(), 1..120)) {
        let (mut log, mut model) = (Log::new(LEVELS), Model::default());
        let mut now = 0;
        for op in ops {
            match op {
                Op::Append(priority, count, later) => {
                    now += later;
                    let first = log.next_seq();
                    log.append(piece(priority, count, now));
                    model.messages.extend(vec![(priority, now); count as usize]);
                    model.ready.extend(first..first + u64::from(count));
                }
                Op::Take(max) => match log.take(max) {
                    Take::Run { piece, .. } => {
                        prop_assert!(piece.count <= max);
                        for seq in piece.first..piece.first + u64::from(piece.count) {
                            prop_assert_eq!(model.next(), Some(seq));
                            model.ready.remove(&seq);
                            model.unacked.insert(seq);
                        }
                    }
                    _ => prop_assert!(model.ready.is_empty()),
                },
                Op::PutBack(first) => {
                    if let Some(seq) = pick(&mut model.unacked, first) {
                        log.put_back(seq, 1, None);
                        model.ready.insert(seq);
                    }
                }
                Op::Settle(first) => {
                    if let Some(seq) = pick(&mut model.unacked, first) {
                        log.settle(seq, 1);
                    }
                }
                Op::Interval(ms) => {
                    log.age_priorities(Some(ms));
                    model.interval = ms as Micros * 1000;
                }
                Op::Purge => {
                    log.purge();
                    model.ready.clear();
                }
            }
            prop_assert_eq!(log.ready(), model.ready.len() as u64);
            prop_assert_eq!(log.peek().map(|piece| piece.first), model.next());
        }
    }
}

#[test]
fn a_low_priority_does_not_starve() {
    let starved = |interval| {
        let mut log = Log::new(LEVELS);
        log.age_priorities(interval);
        log.append(piece(0, 1, 0));
        let mut passed = 0;
        // One of the highest comes each ms, and one leaves.
        for ms in 1..1_000 {
            log.append(piece(9, 1, ms * 1000));
            match log.take(1) {
                Take::Run { piece, .. } if piece.first == 0 => return passed,
                _ => passed += 1,
            }
        }
        passed
    };
    assert_eq!(starved(None), 999);
    assert_eq!(starved(Some(10)), 90, "nine levels, ten ms each");
    assert_eq!(starved(Some(1)), 9);
}

#[test]
fn a_change_of_the_interval_holds_for_what_waits() {
    let order_with = |intervals: &[u64]| {
        let mut log = Log::new(LEVELS);
        for (priority, ms) in [(0, 0), (5, 10), (9, 20)] {
            log.append(piece(priority, 1, ms * 1000));
        }
        intervals
            .iter()
            .for_each(|ms| log.age_priorities(Some(*ms)));
        order(&mut log)
    };
    assert_eq!(order_with(&[]), [2, 1, 0]);
    assert_eq!(order_with(&[1]), [0, 1, 2]);
    assert_eq!(order_with(&[1, 0]), [2, 1, 0]);
    // Nine levels are 27 ms, ten ms and four levels 22, and 20 ms are 20.
    assert_eq!(order_with(&[3]), [2, 1, 0]);
    assert_eq!(order_with(&[u64::MAX]), [2, 1, 0]);
}

#[test]
fn whoever_comes_out_of_a_row_does_not_make_its_priority_young() {
    let mut log = Log::new(LEVELS);
    log.age_priorities(Some(10));
    let seq = log.reserve(true);
    log.wait(seq, 500_000, 1, true);
    log.append(piece(0, 1, 1_000));
    log.append(piece(9, 1, 400_000));
    log.wake(seq, piece(0, 1, 500_000).slice(0, 1));
    // It stands before the other of its priority, which is old enough to be next.
    assert_eq!(order(&mut log), [0, 1, 2]);
}

#[test]
fn no_body_is_read_to_choose() {
    for (interval, first) in [(0, 2), (1, 0)] {
        let mut log = Log::new(LEVELS);
        log.age_priorities(Some(interval));
        let mut rows = Vec::new();
        for (priority, at) in [(0, 1_000), (9, 100_000)] {
            log.append(piece(priority, 2, at));
            log.start_saving(false, |chunk| {
                let id = SegmentId(100 + chunk.first);
                chunk.start_saving(id, false);
                rows.push(id);
            });
        }
        rows.iter().for_each(|id| log.saved(*id, Row::default()));
        log.handed = log.next_seq();
        log.evict(0, false);
        assert_eq!(log.resident, 0);
        let Take::Load(wanted) = log.take(10) else {
            panic!("its body is on disk");
        };
        assert_eq!(wanted, SegmentId(100 + first));
    }
}

#[test]
fn a_restart_keeps_what_was_gained() {
    for (interval, expected) in [(0, [2, 3, 0, 1]), (1, [0, 1, 2, 3])] {
        let stored = |first: Seq, at| Stored {
            id: SegmentId(first + 1),
            first,
            last: first + 1,
            count: 2,
            bytes: 8,
            at,
            last_at: at,
            settled: None,
        };
        let rows = [stored(0, 1_000), stored(2, 100_000)];
        let (mut log, partial) = Log::restore(rows.into_iter(), Marks::default(), LEVELS);
        let read = |first: Seq| {
            let (priority, at) = if first == 0 { (0, 1_000) } else { (9, 100_000) };
            let mut piece = piece(priority, 2, at);
            piece.first = first;
            ReadBack::Sound(vec![piece])
        };
        for (id, first, _) in partial {
            log.recount(id, read(first));
        }
        log.age_priorities(Some(interval));
        log.handed = log.next_seq();
        let mut left = Vec::new();
        loop {
            match log.take(10) {
                Take::Run { piece, .. } => left.extend((0..2).map(|n| piece.first + n)),
                Take::Load(id) => log.loaded(id, read(id.0 - 1)),
                _ => break,
            }
        }
        assert_eq!(left, expected, "interval {interval}");
    }
}
