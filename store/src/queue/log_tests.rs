//! Single histories of a log that once went wrong.

use amqp::content::Address;

use super::*;

pub(super) fn piece(count: u32, persistent: bool) -> Piece {
    let properties = properties::Properties {
        delivery_mode: persistent.then_some(2),
        ..Default::default()
    };
    let mut block = Block::default();
    for _ in 0..count {
        block.push(&Address::new(b"", b"q"), &properties.encode(), b"body");
    }
    Piece::new(0, count, Arc::new(block), 0, 0)
}

/// A commit that saves everything; answers the saved rows with their first seq.
fn save(log: &mut Log, handed: Seq) -> Vec<(SegmentId, Seq)> {
    let mut rows = Vec::new();
    log.start_saving(false, |chunk| {
        let id = SegmentId(100 + chunk.first);
        chunk.start_saving(id, false);
        rows.push((id, chunk.first));
    });
    rows.iter()
        .for_each(|(id, _)| log.saved(*id, Row::default()));
    log.handed = handed;
    rows
}

fn taken(log: &mut Log, max: u32) -> Option<(Seq, u32, bool)> {
    match log.take(max) {
        Take::Run {
            piece, redelivered, ..
        } => Some((piece.first, piece.count, redelivered)),
        _ => None,
    }
}

fn on_disk(first: Seq, last: Seq, count: u32) -> Stored<'static> {
    Stored {
        id: SegmentId(first + 1),
        first,
        last,
        count,
        bytes: 4,
        at: 0,
        last_at: 0,
        settled: None,
    }
}

#[test]
fn a_purge_tells_what_it_settled_behind_an_unacked_message() {
    let mut log = Log::default();
    log.append(piece(3, true));
    save(&mut log, 3);
    assert_eq!(taken(&mut log, 1), Some((0, 1, false)));
    assert_eq!(log.purge().count, 2);
    let mut bits = Vec::new();
    log.settled_rows(|_, row| bits.push(row));
    assert_eq!(bits, [vec![0b110]]);
}

#[test]
fn a_held_message_stays_behind_what_came_before_it() {
    let mut log = Log::default();
    log.append(piece(2, false));
    let seq = log.reserve(true);
    log.append(piece(1, false));
    log.appear(seq, piece(1, true).slice(0, 1).at_seq(seq));
    log.handed = Seq::MAX;
    let order: Vec<_> = std::iter::from_fn(|| taken(&mut log, 1)).collect();
    let seqs: Vec<Seq> = order.iter().map(|(seq, _, _)| *seq).collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
}

#[test]
fn the_end_of_a_message_that_waited_leaves_its_unread_segment_alone() {
    let marks = Marks {
        head: 0,
        handed: 1,
        next: 2,
    };
    // Seq 0 moved out before the segment was written, which its header does not say.
    let (mut log, _) = Log::restore([on_disk(0, 1, 1)].into_iter(), marks, 0);
    log.wait(0, 0, 1, true);
    log.wake(0, piece(1, true));
    assert_eq!(taken(&mut log, 1), Some((0, 1, true)));
    log.settle(0, 1);
    assert_eq!((log.ready(), log.chunks.len()), (1, 1));
    assert_eq!(log.dead_rows, [0]);
}

#[test]
fn a_run_ends_where_the_recorded_mark_ends() {
    let marks = Marks {
        head: 0,
        handed: 2,
        next: 5,
    };
    let (mut log, _) = Log::restore([on_disk(0, 4, 5)].into_iter(), marks, 0);
    assert!(matches!(log.take(5), Take::Load(_)));
    log.loaded(SegmentId(1), ReadBack::Sound(vec![piece(5, true)]));
    assert_eq!(taken(&mut log, 5), Some((0, 2, true)));
    assert!(matches!(log.take(5), Take::Fence));
    log.handed = 5;
    assert_eq!(taken(&mut log, 5), Some((2, 3, false)));
}

#[test]
fn a_clean_stop_remembers_what_a_crash_left_to_redeliver() {
    let marks = Marks {
        head: 0,
        handed: 2,
        next: 5,
    };
    let (log, _) = Log::restore([on_disk(0, 4, 5)].into_iter(), marks, 0);
    assert_eq!(log.handed_to(), 2);
}

#[test]
fn a_publisher_hears_of_each_copy_once() {
    let mut log = Log::default();
    let mut ticketed = piece(2, true);
    ticketed.ticket = 7;
    log.append(ticketed);
    assert_eq!(taken(&mut log, 1), Some((0, 1, false)));
    log.park(0, 0, 1, false);
    log.wake(0, piece(1, true));
    assert_eq!(taken(&mut log, 1), Some((0, 1, true)));
    assert_eq!(log.settle(0, 1).tickets, []);
}

#[test]
fn damage_takes_a_returned_message_away_and_ends() {
    let marks = Marks {
        head: 0,
        handed: 5,
        next: 2,
    };
    let (mut log, _) = Log::restore([on_disk(0, 1, 2)].into_iter(), marks, 0);
    log.loaded(SegmentId(1), ReadBack::Sound(vec![piece(2, true)]));
    assert_eq!(taken(&mut log, 1), Some((0, 1, true)));
    log.evict(0, true);
    log.put_back(0, 1, None);
    log.chunks[0].evict();
    log.loaded(SegmentId(1), ReadBack::Damaged(Vec::new()));
    assert_eq!((log.ready(), log.quarantined), (0, 2));
    assert!(matches!(log.take(1), Take::Empty));
}

/// A queue filled one confirmed message at a time, merged as the store would.
fn fill(log: &mut Log, count: u64, rows: &mut BTreeMap<SegmentId, Vec<Piece>>) -> u64 {
    let (mut last, mut written) = (rows.len() as u64 * 1000, 0);
    let mut save = |log: &mut Log, rows: &mut BTreeMap<SegmentId, Vec<Piece>>| {
        let mut ids = Vec::new();
        log.start_saving(false, |chunk| {
            last += 1;
            let (pieces, _) = chunk.start_saving(SegmentId(last), false);
            chunk.take_replaced().iter().for_each(|id| {
                rows.remove(id);
            });
            rows.insert(SegmentId(last), pieces);
            ids.push(SegmentId(last));
        });
        ids.into_iter().for_each(|id| log.saved(id, Row::default()));
    };
    for _ in 0..count {
        log.append(piece(1, true));
        save(log, rows);
        if let Some(ids) = log.to_merge() {
            let pieces: Vec<Piece> = ids.iter().flat_map(|id| rows[id].clone()).collect();
            written += pieces.iter().map(Piece::memory_bytes).sum::<u64>();
            let joined = merge::join(&pieces).expect("few addresses");
            assert!(log.merge(&ids, joined));
        }
    }
    save(log, rows);
    written
}

#[test]
fn a_hundred_thousand_small_commits_end_as_few_segments() {
    let mut log = Log::default();
    let mut rows = BTreeMap::new();
    let written = fill(&mut log, 100_000, &mut rows);
    let bytes: u64 = log.chunks.iter().map(|chunk| chunk.bytes).sum();
    assert_eq!((log.ready(), rows.len()), (100_000, log.chunks.len()));
    assert!(log.chunks.len() < 250, "{} segments", log.chunks.len());
    assert!(written < 8 * bytes, "{written} bytes for {bytes}");
}

#[test]
fn a_few_old_messages_do_not_hold_a_large_segment() {
    let mut log = Log::new(0);
    log.handed = Seq::MAX;
    let properties = [0x10, 0, 2];
    for _ in 0..40 {
        let mut block = Block::default();
        for _ in 0..20 {
            block.push(&Address::new(b"", b"q"), &properties, &[0; 10_000]);
        }
        log.append(Piece::new(0, 20, Arc::new(block), 0, 0));
        save(&mut log, Seq::MAX);
    }
    while taken(&mut log, 20).is_some() {}
    log.settle(1, 19);
    assert_eq!(
        log.to_merge(),
        None,
        "acks in order make it sparse for a moment"
    );
    for n in 1..=16 {
        log.settle(n * 20, 20);
    }
    let ids = log.to_merge().expect("what holds a large row");
    assert_eq!(ids, [SegmentId(100)]);
    let old = log.content(0).expect("in memory");
    assert!(log.merge(&ids, vec![old]));
    let (mut dropped, mut messages) = (Vec::new(), 0);
    log.start_saving(false, |chunk| {
        let (pieces, _) = chunk.start_saving(SegmentId(1), false);
        messages += pieces.iter().map(|piece| piece.count).sum::<u32>();
        dropped = chunk.take_replaced();
    });
    assert_eq!((dropped, messages), (ids, 1));
}

impl Piece {
    fn at_seq(mut self, seq: Seq) -> Self {
        self.first = seq;
        self
    }
}
