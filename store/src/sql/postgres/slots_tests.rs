//! Slots, against tables that keep every row.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Put(u64),
    Forget(usize),
    PutWaiting(u64),
    DropWaiting(usize),
    Turn,
    Truncate,
    Move,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1..400_u64).prop_map(Op::Put),
        7 => any::<usize>().prop_map(Op::Forget),
        3 => (0..50_u64).prop_map(Op::PutWaiting),
        3 => any::<usize>().prop_map(Op::DropWaiting),
        4 => Just(Op::Turn),
        3 => Just(Op::Truncate),
        2 => Just(Op::Move),
    ]
}

/// What a server would hold: rows by slot, whether they are needed or not.
#[derive(Default)]
struct Tables {
    segments: BTreeMap<u64, usize>,
    /// Rows of each slot since it was truncated, needed or not.
    filled: [u64; SLOTS],
    waiting: [u64; SLOTS],
}

proptest! {
    #[test]
    fn nothing_needed_is_truncated_and_nothing_filled_is_filled_anew(
        ops in prop::collection::vec(op(), 1..300),
    ) {
        let (mut slots, mut tables) = (Slots::default(), Tables::default());
        slots.limit(1_000, 20);
        let mut next = 0;
        for op in ops {
            match op {
                Op::Put(bytes) => {
                    next += 1;
                    let slot = slots.current();
                    slots.put(SegmentId(next), Place { queue: QueueId(1), slot, bytes });
                    tables.segments.insert(next, slot);
                    tables.filled[slot] += 1;
                }
                Op::Forget(at) => {
                    let ids: Vec<u64> = tables.segments.keys().copied().collect();
                    if let Some(id) = ids.get(at % ids.len().max(1)) {
                        slots.forget(SegmentId(*id));
                        tables.segments.remove(id);
                    }
                }
                Op::PutWaiting(seq) => {
                    let slot = slots.current();
                    slots.put_waiting(slot, QueueId(1), seq, 10);
                    prop_assert!(slots.may_wait(QueueId(1), seq));
                    tables.waiting[slot] += 1;
                    tables.filled[slot] += 1;
                }
                Op::DropWaiting(at) => {
                    let with: Vec<usize> = slots.with_waiting().collect();
                    if let Some(slot) = with.get(at % with.len().max(1)) {
                        slots.drop_waiting(*slot, 1);
                        tables.waiting[*slot] -= 1;
                    }
                }
                Op::Turn => {
                    if let Some(slot) = slots.next() {
                        prop_assert_ne!(slot, slots.current());
                        prop_assert_eq!(tables.filled[slot], 0);
                        slots.turn_to(slot);
                    }
                }
                Op::Truncate => {
                    for slot in slots.to_truncate() {
                        prop_assert_ne!(slot, slots.current());
                        prop_assert_eq!(tables.waiting[slot], 0);
                        prop_assert!(tables.segments.values().all(|at| *at != slot));
                        slots.truncated(slot);
                        tables.filled[slot] = 0;
                    }
                }
                Op::Move => {
                    let Some(from) = slots.to_move() else { continue };
                    let to = slots.current();
                    prop_assert_ne!(from, to);
                    let ids = slots.some_of(from, 500);
                    for id in &ids {
                        prop_assert_eq!(tables.segments.insert(id.0, to), Some(from));
                        tables.filled[to] += 1;
                    }
                    if ids.is_empty() {
                        let rows = tables.waiting[from].min(3);
                        prop_assert!(rows > 0, "nothing to move");
                        slots.moved_waiting(from, to, rows);
                        tables.waiting[from] -= rows;
                        tables.waiting[to] += rows;
                        tables.filled[to] += rows;
                    } else {
                        slots.moved(&ids, to);
                    }
                }
            }
            for (id, slot) in &tables.segments {
                prop_assert_eq!(slots.place(SegmentId(*id)).map(|place| place.slot), Some(*slot));
            }
            let with: Vec<usize> = slots.with_waiting().collect();
            let known = (0..SLOTS).filter(|&at| tables.waiting[at] > 0);
            prop_assert_eq!(with, known.collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_straggler_is_moved_so_that_its_slot_can_go() {
    let mut slots = Slots::default();
    slots.limit(1_000, 1_000);
    let put = |slots: &mut Slots, id| {
        let place = Place {
            queue: QueueId(1),
            slot: slots.current(),
            bytes: 100,
        };
        slots.put(SegmentId(id), place);
    };
    (1..=10).for_each(|id| put(&mut slots, id));
    let next = slots.next();
    assert_eq!(next, Some(1));
    slots.turn_to(1);
    (2..=10).for_each(|id| slots.forget(SegmentId(id)));
    assert_eq!((slots.to_move(), slots.to_truncate()), (Some(0), vec![]));
    let ids = slots.some_of(0, 50);
    assert_eq!(ids, [SegmentId(1)]);
    slots.moved(&ids, 1);
    assert_eq!((slots.to_move(), slots.to_truncate()), (None, vec![0]));
}
