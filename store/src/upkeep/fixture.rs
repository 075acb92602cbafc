//! A small store with something of each kind, for the tests of this room.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use amqp::content::{Address, Block};

use super::verify::{self, Finding, Verified};
use crate::log::batch::*;
use crate::log::segment::Encoder;
use crate::model::*;
use crate::sql::memory::Memory;
use crate::sql::*;

/// What is written to it; tests change it before.
pub(super) struct Rows {
    pub(super) batch: Batch,
    pub(super) import: Import,
}

impl Rows {
    pub(super) fn drop_vhost(&mut self) {
        let is_vhost = |change: &DefinitionChange| {
            matches!(change, DefinitionChange::Access(AccessChange::PutVhost(_)))
        };
        self.batch.definitions.retain(|change| !is_vhost(change));
    }
}

/// Two queues: `orders` with two segments, one of them settled in part, a message that waits and a
/// count of attempts; `kept` with a retained segment. A job with a result, one that runs.
pub(super) fn rows() -> Rows {
    let batch = Batch {
        definitions: vec![
            DefinitionChange::Access(AccessChange::PutVhost(VhostSpec {
                name: "/".into(),
                ..VhostSpec::default()
            })),
            DefinitionChange::PutQueue(queue(1, "orders")),
            DefinitionChange::PutQueue(queue(2, "kept")),
        ],
        segments: vec![segment(1, 1, 0), segment(2, 1, 10), segment(3, 2, 0)],
        settled: vec![SettledRow {
            segment: SegmentId(2),
            queue: QueueId(1),
            bits: vec![0b0000_0100, 0],
        }],
        retained: vec![RetainedRow {
            segment: SegmentId(3),
            queue: QueueId(2),
            settled_at: 5_000_000,
        }],
        heads: vec![head(1, 3, 20), head(2, 10, 10)],
        waiting: vec![waiting(1, 12), WaitingRow::count(QueueId(1), 15, 2)],
        schedules: vec![ScheduleRow {
            name: "nightly".into(),
            spec_hash: 7,
            last_nominal_at: 9,
        }],
        fires: vec![FireRow {
            schedule: "nightly".into(),
            nominal_at: 9,
            fired_at: 10,
        }],
        jobs: vec![JobChange::Claim {
            key: KeyClaim {
                scope: "scope".into(),
                job: JobId([3; 16]),
                fingerprint: [4; 32],
                expires_at: 1_000,
            },
            at: 10,
        }],
        deduplication: vec![DeduplicationRow {
            queue: QueueId(1),
            newest_ms: 5,
            entries: vec![1; 22],
        }],
        ..Batch::default()
    };
    let import = Import {
        jobs: vec![job(1, Some(b"42")), job(2, None)],
        last_queue_id: 11,
        last_segment_id: 12,
        ..Import::default()
    };
    Rows { batch, import }
}

pub(super) async fn filled(rows: Rows) -> Memory {
    let store = Memory::new();
    fill(&store, rows).await;
    store
}

pub(super) async fn fill(store: &dyn Backend, rows: Rows) {
    store.commit(Arc::new(rows.batch), true).await.unwrap();
    store.import(Arc::new(rows.import)).await.unwrap();
}

pub(super) async fn verified(store: &dyn Backend) -> (Verified, Vec<Finding>) {
    let mut found = Vec::new();
    let done = verify::verify(store, &mut |finding| found.push(finding)).await;
    (done.unwrap(), found)
}

fn queue(id: u64, name: &str) -> QueueSpec {
    QueueSpec {
        id: QueueId(id),
        vhost: "/".into(),
        name: name.into(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        work: false,
        arguments: Vec::new(),
        paused: false,
    }
}

fn head(queue: u64, head: u64, next: u64) -> HeadRow {
    HeadRow {
        queue: QueueId(queue),
        head,
        handed: head,
        next,
    }
}

/// Ten messages of four bytes each.
fn segment(id: u64, queue: u64, first_seq: u64) -> SegmentRow {
    let (index, data) = content(10);
    SegmentRow {
        id: SegmentId(id),
        queue: QueueId(queue),
        first_seq,
        last_seq: first_seq + 9,
        count: 10,
        bytes: 40,
        transient: false,
        first_at: 1_000_000,
        last_at: 2_000_000,
        index,
        data,
    }
}

fn waiting(queue: u64, seq: u64) -> WaitingRow {
    let (index, data) = content(1);
    WaitingRow {
        queue: QueueId(queue),
        seq,
        due_at: 9_000_000,
        attempt: 1,
        accepted_at: 1_000_000,
        index,
        data,
    }
}

fn content(messages: u32) -> (Vec<u8>, Vec<u8>) {
    let mut block = Block::default();
    let mut encoder = Encoder::default();
    for n in 0..messages {
        block.push(&Address::new(b"", b"orders"), &[0, 0], &n.to_be_bytes());
        encoder.push(&block, n as usize, n, 0);
    }
    encoder.finish()
}

fn job(n: u8, body: Option<&[u8]>) -> (Job, Option<JobResult>) {
    let is_done = body.is_some();
    let result = body.map(|body| JobResult {
        content_type: Some("text/plain".into()),
        content_encoding: None,
        body: body.to_vec(),
    });
    let job = Job {
        id: JobId([n; 16]),
        vhost: "/".into(),
        target: "queue/orders".into(),
        principal: "guest".into(),
        state: match is_done {
            true => JobState::Succeeded,
            false => JobState::Running,
        },
        attempt: 1,
        max_attempts: 6,
        created_at: 100,
        started_at: Some(110),
        completed_at: is_done.then_some(150),
        next_attempt_at: None,
        deadline_at: 10_000,
        expires_at: is_done.then_some(1_000),
        result_ttl_ms: 5,
        idempotency_key: Some("key".into()),
        error: None,
        result: result.as_ref().map(|result| ResultMeta {
            content_type: result.content_type.clone(),
            content_encoding: None,
            bytes: result.body.len() as u64,
        }),
    };
    (job, result)
}
