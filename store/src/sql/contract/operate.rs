//! The contract's cases about moves that operators asked for, and keys of deduplication windows.

use super::*;

fn redrive(id: &str, moved: u64) -> RedriveRow {
    RedriveRow {
        id: id.into(),
        kind: if moved > 5 {
            RedriveKind::Retained
        } else {
            RedriveKind::Ready
        },
        queue: QueueId(1),
        vhost: "/".into(),
        source: "q1".into(),
        target: (moved > 5).then(|| "q2".into()),
        filter: vec![1, 2, moved as u8],
        rate: (moved > 5).then_some(0.5),
        until: u64::from(u32::MAX) + 7,
        next: moved,
        moved,
        skipped: moved / 2,
        state: RedriveState::Running,
        detail: String::new(),
        created_at: 5,
        ended_at: None,
    }
}

pub(super) async fn redrives_are_replaced_and_dropped(bench: Bench) {
    let put = |rows| Batch {
        redrives: rows,
        ..Batch::default()
    };
    let rows = vec![redrive("b", 1), redrive("a", 9)];
    bench.commit(put(rows)).await.unwrap();
    let mut ended = redrive("b", 1);
    (ended.moved, ended.next, ended.skipped) = (4, 50, 3);
    (ended.state, ended.ended_at) = (RedriveState::Failed, Some(8));
    ended.detail = "no queue 'q2'".into();
    bench.commit(put(vec![ended.clone()])).await.unwrap();
    assert_eq!(
        bench.load().await.redrives,
        [redrive("a", 9), ended.clone()]
    );
    let drop = Batch {
        dropped_redrives: vec!["a".into(), "none".into()],
        ..Batch::default()
    };
    bench.commit(drop).await.unwrap();
    assert_eq!(bench.load().await.redrives, [ended]);
}

fn keys(queue: u64, newest_ms: i64) -> DeduplicationRow {
    DeduplicationRow {
        queue: QueueId(queue),
        newest_ms,
        entries: vec![newest_ms as u8; 44],
    }
}

pub(super) async fn keys_come_with_their_commit_and_go_by_age(bench: Bench) {
    let with = |rows: Vec<DeduplicationRow>| Batch {
        deduplication: rows,
        ..Batch::default()
    };
    let first = Batch {
        deduplication: vec![keys(2, 7), keys(1, 5)],
        ..put_queues([1, 2])
    };
    bench.commit(first).await.unwrap();
    bench.commit(with(vec![keys(1, 6)])).await.unwrap();
    assert_eq!(
        bench.load().await.deduplication,
        [keys(2, 7), keys(1, 5), keys(1, 6)]
    );
    let unsynced = Arc::new(with(vec![keys(1, 9)]));
    bench.backend().commit(unsynced, false).await.unwrap();
    // What is dropped is what was there before.
    let drop = Batch {
        dropped_deduplication: vec![(QueueId(1), 6), (QueueId(3), 99)],
        ..with(vec![keys(1, 4), keys(1, 8)])
    };
    bench.commit(drop).await.unwrap();
    let bench = bench.crash().await;
    assert_eq!(
        bench.load().await.deduplication,
        [keys(2, 7), keys(1, 9), keys(1, 4), keys(1, 8)]
    );
    done(bench).await;
}

pub(super) async fn retirement_keeps_every_key(bench: Bench) {
    let entries = |image: Image| {
        let mut all: Vec<(u64, Vec<u8>, bool)> = Vec::new();
        for row in &image.deduplication {
            for entry in row.entries.chunks(22) {
                let is_old = row.newest_ms < i64::from(entry[0]);
                all.push((row.queue.0, entry.to_vec(), is_old));
            }
        }
        all.sort();
        all
    };
    let first = Batch {
        deduplication: (1..=120).map(|n| keys(1 + n as u64 % 3, n)).collect(),
        ..put_queues([1, 2, 3, 4])
    };
    bench.commit(first).await.unwrap();
    let large = DeduplicationRow {
        queue: QueueId(4),
        newest_ms: 7,
        entries: vec![7; 22 * 500],
    };
    let second = Batch {
        deduplication: vec![keys(4, 1), large],
        ..Batch::default()
    };
    bench.commit(second).await.unwrap();
    let before = entries(bench.load().await);
    assert_eq!(before.len(), 2 * 121 + 500);
    assert!(before.iter().all(|(.., is_old)| !is_old));
    for _ in 0..3 {
        bench.backend().retire(1_000, 0, 0, 10).await.unwrap();
        assert_eq!(entries(bench.load().await), before);
    }
    let drop = Batch {
        dropped_deduplication: (1..=4).map(|n| (QueueId(n), 120)).collect(),
        ..Batch::default()
    };
    bench.commit(drop).await.unwrap();
    assert_eq!(bench.load().await.deduplication, []);
    done(bench).await;
}

pub(super) async fn a_deleted_queue_takes_its_keys_along(bench: Bench) {
    let first = Batch {
        deduplication: (1..2500).map(|n| keys(1 + n as u64 % 2, n)).collect(),
        ..put_queues([1, 2])
    };
    bench.commit(first).await.unwrap();
    let delete = Batch {
        definitions: vec![DefinitionChange::DeleteQueue(QueueId(1))],
        ..Batch::default()
    };
    bench.commit(delete).await.unwrap();
    bench.backend().maintain().await.unwrap();
    let rows = bench.load().await.deduplication;
    assert_eq!(rows.len(), 1250);
    assert!(rows.iter().all(|row| row.queue == QueueId(2)));
    let bench = bench.reopen().await;
    assert_eq!(bench.load().await.deduplication, rows);
    done(bench).await;
}

fn kept(segment: u64, queue: u64, settled_at: Micros) -> RetainedRow {
    RetainedRow {
        segment: SegmentId(segment),
        queue: QueueId(queue),
        settled_at,
    }
}

pub(super) async fn settled_segments_are_kept_and_go(bench: Bench) {
    let settled = |segment| SettledRow {
        segment: SegmentId(segment),
        queue: QueueId(1),
        bits: vec![0xFF, 3],
    };
    let first = Batch {
        segments: vec![segment(1, 1, 0), segment(2, 1, 10), segment(3, 1, 20)],
        settled: vec![settled(1), settled(2)],
        ..put_queues([1])
    };
    bench.commit(first).await.unwrap();
    let retain = Batch {
        retained: vec![kept(2, 1, 7), kept(1, 1, 5)],
        ..Batch::default()
    };
    bench.commit(retain).await.unwrap();
    let bench = bench.crash().await;
    let image = bench.load().await;
    assert_eq!(image.retained, [kept(1, 1, 5), kept(2, 1, 7)]);
    assert_eq!((image.settled, image.segments.len()), (Vec::new(), 3));
    // A later time replaces the first one; what is dropped takes its segment along, even when it
    // is put in the same commit.
    let drop = Batch {
        retained: vec![kept(1, 1, 9), kept(3, 1, 9)],
        dropped_retained: vec![SegmentId(2), SegmentId(3), SegmentId(77)],
        ..Batch::default()
    };
    bench.commit(drop).await.unwrap();
    let bench = bench.crash().await;
    let image = bench.load().await;
    assert_eq!(image.retained, [kept(1, 1, 9)]);
    let left: Vec<SegmentId> = image.segments.iter().map(|row| row.id).collect();
    assert_eq!(left, [SegmentId(1)]);
    assert!(image.last_segment_id >= 3);
    done(bench).await;
}

pub(super) async fn a_waiting_row_becomes_a_segment(bench: Bench) {
    let first = Batch {
        waiting: vec![waiting(1, 4, 0), waiting(1, 5, 2)],
        ..put_queues([1])
    };
    bench.commit(first).await.unwrap();
    let keep = |segment, seq| KeptRow {
        segment: SegmentId(segment),
        queue: QueueId(1),
        seq,
        settled_at: 70,
    };
    let second = Batch {
        kept_waiting: vec![keep(8, 5), keep(9, 6)],
        retained: vec![kept(8, 1, 70), kept(9, 1, 70)],
        ..Batch::default()
    };
    bench.commit(second).await.unwrap();
    let bench = bench.crash().await;
    let image = bench.load().await;
    let left: Vec<Seq> = image.waiting.iter().map(|row| row.seq).collect();
    assert_eq!(left, [4]);
    // What has no row is left out.
    assert_eq!(image.retained, [kept(8, 1, 70)]);
    let header = &image.segments[0];
    assert_eq!((header.first_seq, header.last_seq, header.count), (5, 5, 1));
    assert_eq!((header.first_at, header.last_at), (70, 70));
    let body = bench.backend().read_segment(SegmentId(8)).await.unwrap();
    let body = body.expect("its content");
    let row = waiting(1, 5, 2);
    assert_eq!((body.index, body.data), (row.index, row.data));
    done(bench).await;
}

pub(super) async fn a_deleted_queue_takes_what_it_kept_along(bench: Bench) {
    let first = Batch {
        segments: vec![segment(1, 1, 0), segment(2, 2, 0)],
        retained: vec![kept(1, 1, 5), kept(2, 2, 5)],
        ..put_queues([1, 2])
    };
    bench.commit(first).await.unwrap();
    let delete = Batch {
        definitions: vec![DefinitionChange::DeleteQueue(QueueId(1))],
        ..Batch::default()
    };
    bench.commit(delete).await.unwrap();
    assert_eq!(bench.load().await.retained, [kept(2, 2, 5)]);
    for _ in 0..3 {
        bench.backend().maintain().await.unwrap();
    }
    let bench = bench.crash().await;
    let image = bench.load().await;
    assert_eq!(image.retained, [kept(2, 2, 5)]);
    assert_eq!(image.segments.len(), 1);
    done(bench).await;
}
