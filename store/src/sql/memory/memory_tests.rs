//! What the engine in memory has beyond the contract: crashes, planned failures, a full store.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::sql::contract::{put_queues, segment, waiting};

fn appends(n: u64) -> Arc<Batch> {
    let segments = vec![segment(n, 1, n * 10)];
    Arc::new(Batch {
        number: n,
        segments,
        ..put_queues([1])
    })
}

async fn segments(memory: &Memory) -> Vec<u64> {
    let image = memory.load().await.unwrap();
    image.segments.iter().map(|row| row.id.0).collect()
}

#[tokio::test]
async fn a_crash_loses_what_no_synced_commit_followed() {
    let memory = Memory::new();
    memory.commit(appends(1), false).await.unwrap();
    assert_eq!(segments(&memory).await, [1]);
    assert_eq!(segments(&memory.crash()).await, [0; 0]);
    memory.commit(appends(2), true).await.unwrap();
    memory.commit(appends(3), false).await.unwrap();
    assert_eq!(segments(&memory).await, [1, 2, 3]);
    let after = memory.crash();
    assert_eq!(segments(&after).await, [1, 2]);
    assert_eq!(after.committed_number().await.unwrap(), 0);
    memory.close().await;
    assert_eq!(
        segments(&memory.crash()).await,
        [1, 2, 3],
        "close makes all durable"
    );
}

#[tokio::test]
async fn planned_failures_come_in_order_and_once() {
    let memory = Memory::new();
    memory.fail_next(CommitError::NotDone("planned".into()), false);
    memory.fail_next(CommitError::Unknown("planned".into()), false);
    memory.fail_next(CommitError::Unknown("planned".into()), true);
    for (n, stored) in [(1, 0), (2, 0), (3, 3)] {
        assert!(memory.commit(appends(n), true).await.is_err());
        assert_eq!(memory.committed_number().await.unwrap(), stored);
    }
    memory.commit(appends(4), true).await.unwrap();
    assert_eq!(segments(&memory).await, [3, 4]);
}

#[tokio::test]
async fn a_full_store_takes_only_what_frees_room() {
    let memory = Memory::new();
    memory.commit(appends(1), true).await.unwrap();
    memory.set_full(true);
    let full = memory.commit(appends(2), true).await;
    assert!(matches!(full, Err(CommitError::Full(_))));
    let wait = Batch {
        waiting: vec![waiting(1, 5, 1)],
        ..Batch::default()
    };
    assert!(matches!(
        memory.commit(Arc::new(wait), true).await,
        Err(CommitError::Full(_))
    ));
    let drops = Batch {
        dropped_segments: vec![SegmentId(1)],
        ..Batch::default()
    };
    memory.commit(Arc::new(drops), true).await.unwrap();
    memory.set_full(false);
    memory.commit(appends(2), true).await.unwrap();
    assert_eq!(segments(&memory.crash()).await, [2]);
}
