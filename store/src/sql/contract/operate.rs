//! The contract's cases about moves that operators asked for, and keys of deduplication windows.

use super::*;

fn redrive(id: &str, moved: u64) -> RedriveRow {
    RedriveRow {
        id: id.into(),
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
