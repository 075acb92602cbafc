//! Lines and states, against sets.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Put,
    Drop(usize),
    Settle(usize, u8),
    Keep(usize),
    Head(u64, u64),
    DropQueue(u64),
    Whole,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Put),
        4 => any::<usize>().prop_map(Op::Drop),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(at, bits)| Op::Settle(at, bits)),
        1 => any::<usize>().prop_map(Op::Keep),
        3 => (0..4_u64, 0..100_u64).prop_map(|(queue, head)| Op::Head(queue, head)),
        1 => (0..4_u64).prop_map(Op::DropQueue),
        1 => Just(Op::Whole),
    ]
}

proptest! {
    /// What a start reads from the last whole line on is what was known when the last line was
    /// written; rows of segments that went stay in their tables all the time.
    #[test]
    fn a_start_finds_what_was_known(ops in prop::collection::vec(op(), 1..80)) {
        let (mut known, mut lines) = (State::default(), Vec::<Line>::new());
        let (mut rows, mut live) = (0_u64, BTreeSet::<u64>::new());
        for op in ops {
            let one = |at: usize| live.iter().nth(at % live.len().max(1)).map(|id| SegmentId(*id));
            let mut line = Line::default();
            match op {
                Op::Put => {
                    rows += 1;
                    line.last_segment = rows;
                }
                Op::Drop(at) => line.dropped_segments.extend(one(at)),
                Op::Settle(at, bits) => line.settled.extend(one(at).map(|segment| SettledRow {
                    segment,
                    queue: QueueId(1),
                    bits: vec![bits],
                })),
                Op::Keep(at) => line.unsettled.extend(one(at)),
                Op::Head(queue, head) => line.heads.push(HeadRow {
                    queue: QueueId(queue),
                    head,
                    handed: head,
                    next: head + 1,
                }),
                Op::DropQueue(queue) => line.dropped_queues.push(QueueId(queue)),
                Op::Whole => {
                    line = known.whole(live.iter().map(|id| SegmentId(*id)));
                    lines.clear();
                }
            }
            line.position = known.position + 1;
            if line.last_segment > 0 && !line.whole {
                live.insert(line.last_segment);
            }
            for id in &line.dropped_segments {
                live.remove(&id.0);
            }
            known.take(&line, false);
            lines.push(line);

            let mut found = State::default();
            lines.iter().for_each(|line| found.take(line, true));
            let there = (1..=rows).filter(|id| !found.is_gone(SegmentId(*id)));
            prop_assert_eq!(there.collect::<BTreeSet<_>>(), live.clone());
            found.read_whole();
            prop_assert_eq!(&found, &known);
        }
    }

    #[test]
    fn ranges_hold_the_numbers_and_no_others(
        numbers in prop::collection::btree_set(0..200_u64, 0..60),
    ) {
        let found = ranges(numbers.iter().rev().copied().collect());
        let all = found.iter().flat_map(|(first, last)| *first..=*last);
        prop_assert_eq!(all.collect::<BTreeSet<_>>(), numbers);
        prop_assert!(found.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
    }
}
