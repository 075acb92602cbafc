//! One suite for every engine: what `Backend` promises, verb by verb.
//!
//! Keeps: a promise that no case here names is no promise.
//! Never: looks behind the seam; what is about one engine only stands beside that engine.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tempfile::TempDir;

use self::access::*;
use self::alike::*;
use self::export::*;
use self::job::*;
use self::operate::*;
use super::memory::Memory;
use super::postgres::server::Database;
use super::postgres::{self, Postgres};
use super::sqlite::{Options, Sqlite};
use super::*;
use crate::log::batch::*;

mod access;
mod alike;
mod export;
mod job;
mod operate;

/// An engine under test, with its place on disk.
pub(super) enum Bench {
    Memory(Box<Memory>),
    Sqlite {
        engine: Sqlite,
        dir: TempDir,
    },
    Postgres {
        engine: Box<Postgres>,
        database: Database,
    },
}

#[derive(Clone, Copy)]
enum Kind {
    Memory,
    Sqlite,
    Postgres,
}

impl Bench {
    async fn new(kind: Kind) -> Self {
        match kind {
            Kind::Memory => Self::Memory(Box::default()),
            Kind::Sqlite => Self::sqlite(tempfile::tempdir().unwrap()).await,
            Kind::Postgres => Self::postgres(Database::new().await).await,
        }
    }

    pub(super) async fn sqlite(dir: TempDir) -> Self {
        let options = Options {
            ballast_bytes: 0,
            ..Options::default()
        };
        let engine = Sqlite::open(&dir.path().join("leveret.db"), options)
            .await
            .unwrap();
        Self::Sqlite { engine, dir }
    }

    async fn postgres(database: Database) -> Self {
        let engine = Box::new(database.open(postgres::Options::default()).await);
        Self::Postgres { engine, database }
    }

    fn backend(&self) -> &dyn Backend {
        match self {
            Self::Memory(engine) => &**engine,
            Self::Sqlite { engine, .. } => engine,
            Self::Postgres { engine, .. } => &**engine,
        }
    }

    /// Ends well and starts again.
    async fn reopen(self) -> Self {
        self.backend().close().await;
        match self {
            Self::Memory(engine) => Self::Memory(Box::new(engine.crash())),
            Self::Sqlite { engine, dir } => {
                drop(engine);
                Self::sqlite(dir).await
            }
            Self::Postgres { engine, database } => {
                drop(engine);
                Self::postgres(database).await
            }
        }
    }

    /// Starts from the files as they are now, as after `kill -9`.
    async fn crash(self) -> Self {
        match self {
            Self::Memory(engine) => Self::Memory(Box::new(engine.crash())),
            Self::Sqlite { engine, dir } => {
                let copy = tempfile::tempdir().unwrap();
                for name in ["leveret.db", "leveret.db-wal"] {
                    std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
                }
                engine.close().await;
                Self::sqlite(copy).await
            }
            Self::Postgres { engine, database } => {
                engine.abandon();
                drop(engine);
                // The lease of a node that died would have to end first.
                database.free().await;
                Self::postgres(database).await
            }
        }
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.backend().commit(Arc::new(batch), true).await
    }

    async fn load(&self) -> Image {
        self.backend().load().await.unwrap()
    }

    async fn job(&self, n: u8) -> Option<Job> {
        self.backend().job(id(n)).await.unwrap()
    }
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::new(super::Kind::Memory).await).await;
            })*
        }
        mod on_sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::new(super::Kind::Sqlite).await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::new(super::Kind::Postgres).await).await;
            })*
        }
    };
}

contract! {
    a_new_store_is_empty,
    definitions_come_back_in_order,
    a_put_overwrites_and_a_delete_of_nothing_passes,
    definitions_apply_in_order_within_a_batch,
    two_queues_of_one_name_are_refused,
    reopen_keeps_everything,
    a_crash_keeps_what_was_synced,
    segments_come_back_ordered_and_whole,
    a_segment_id_is_taken_once,
    settled_and_heads_are_replaced,
    dropped_segments_take_their_settled_rows,
    damaged_segments_are_kept_aside,
    many_rows_of_each_kind,
    transient_segments_do_not_outlive_the_process,
    a_deleted_queue_leaves_nothing,
    ids_are_not_used_twice,
    waiting_rows_are_put_after_drops,
    waiting_rows_come_in_the_order_asked,
    a_refused_batch_stores_nothing,
    a_tick_fires_once,
    commits_are_numbered,
    reads_run_beside_commits,
    a_dropped_commit_still_runs,
    a_job_goes_through_its_life,
    a_result_is_kept_verbatim,
    a_job_finishes_once,
    changes_of_a_final_job_are_ignored,
    job_changes_apply_in_order,
    a_job_cannot_finish_as_open,
    a_key_claims_until_it_expires,
    jobs_are_listed_newest_first,
    jobs_are_counted_by_state,
    overdue_jobs_come_oldest_first,
    retire_works_in_bounded_steps,
    retire_leaves_open_jobs_alone,
    schedules_are_replaced_and_dropped,
    redrives_are_replaced_and_dropped,
    settled_segments_are_kept_and_go,
    a_waiting_row_becomes_a_segment,
    a_deleted_queue_takes_what_it_kept_along,
    keys_come_with_their_commit_and_go_by_age,
    a_deleted_queue_takes_its_keys_along,
    retirement_keeps_every_key,
    an_empty_batch_passes,
    rules_come_back_in_order,
    a_rule_is_replaced_and_deleted,
    a_deleted_user_leaves_no_right_behind,
    a_deleted_vhost_leaves_nothing,
    random_batches_are_alike,
    an_image_leaves_nothing_out,
    pages_go_on_behind_their_cursor,
    an_import_is_put_as_it_is,
    a_refused_import_stores_nothing,
    a_whole_store_has_nothing_to_tell,
}

// Fixtures: `n` alone tells one from the other.

fn queue(n: u64) -> QueueSpec {
    QueueSpec {
        id: QueueId(n),
        vhost: "/".into(),
        name: format!("q{n}").into(),
        durable: true,
        exclusive: false,
        auto_delete: n.is_multiple_of(2),
        work: n.is_multiple_of(3),
        arguments: vec![n as u8; 3],
        paused: n.is_multiple_of(5),
    }
}

pub(super) fn put_queues(numbers: impl IntoIterator<Item = u64>) -> Batch {
    let puts = numbers
        .into_iter()
        .map(|n| DefinitionChange::PutQueue(queue(n)));
    Batch {
        definitions: puts.collect(),
        ..Batch::default()
    }
}

/// Ten messages, seqs from `first_seq`, with content that depends on the id.
pub(super) fn segment(n: u64, queue: u64, first_seq: u64) -> SegmentRow {
    SegmentRow {
        id: SegmentId(n),
        queue: QueueId(queue),
        first_seq,
        last_seq: first_seq + 9,
        count: 10,
        bytes: 160,
        transient: false,
        first_at: 1_000 + n as i64,
        last_at: 2_000 + n as i64,
        index: n.to_le_bytes().to_vec(),
        data: vec![n as u8; 200],
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

fn settled(segment: u64, queue: u64, bits: u8) -> SettledRow {
    SettledRow {
        segment: SegmentId(segment),
        queue: QueueId(queue),
        bits: vec![bits, bits],
    }
}

pub(super) fn waiting(queue: u64, seq: u64, attempt: u32) -> WaitingRow {
    WaitingRow {
        queue: QueueId(queue),
        seq,
        due_at: 5_000 + seq as i64,
        attempt,
        accepted_at: 1_000 + i64::from(attempt),
        index: vec![attempt as u8; 4],
        data: vec![seq as u8; 40],
    }
}

fn id(n: u8) -> JobId {
    JobId([n; 16])
}

fn job(n: u8) -> Job {
    Job {
        id: id(n),
        vhost: "/".into(),
        target: format!("queue/{}", n % 2),
        principal: "guest".into(),
        state: JobState::Queued,
        attempt: 0,
        max_attempts: 6,
        created_at: 100,
        started_at: None,
        completed_at: None,
        next_attempt_at: None,
        deadline_at: 10_000 - i64::from(n),
        expires_at: None,
        result_ttl_ms: 5,
        idempotency_key: Some(format!("key-{n}")),
        error: None,
        result: None,
    }
}

fn submit(n: u8) -> JobChange {
    JobChange::Submit {
        job: Box::new(job(n)),
        key: None,
    }
}

fn finish(n: u8, state: JobState, at: Micros, body: Option<&[u8]>) -> JobChange {
    let result = body.map(|body| JobResult {
        content_type: Some("text/plain".into()),
        content_encoding: None,
        body: body.to_vec(),
    });
    JobChange::Finish {
        id: id(n),
        state,
        at,
        error: None,
        result,
    }
}

fn jobs(changes: impl IntoIterator<Item = JobChange>) -> Batch {
    Batch {
        jobs: changes.into_iter().collect(),
        ..Batch::default()
    }
}

fn fire(schedule: &str, nominal_at: Micros, fired_at: Micros) -> FireRow {
    FireRow {
        schedule: schedule.into(),
        nominal_at,
        fired_at,
    }
}

fn fires(rows: impl IntoIterator<Item = FireRow>) -> Batch {
    Batch {
        fires: rows.into_iter().collect(),
        ..Batch::default()
    }
}

fn schedule(name: &str, spec_hash: u64, last_nominal_at: Micros) -> ScheduleRow {
    ScheduleRow {
        name: name.into(),
        spec_hash,
        last_nominal_at,
    }
}

/// Something in every field.
fn full_batch() -> Batch {
    let mut batch = put_queues([1, 2]);
    batch.definitions.extend(other_definitions());
    Batch {
        number: 7,
        segments: vec![segment(1, 1, 0), segment(2, 2, 0), segment(3, 1, 10)],
        settled: vec![settled(1, 1, 0b11)],
        heads: vec![head(1, 2, 20), head(2, 0, 10)],
        waiting: vec![waiting(1, 1, 2), waiting(2, 4, 1)],
        jobs: vec![
            submit(1),
            submit(2),
            finish(2, JobState::Succeeded, 200, Some(b"done")),
        ],
        schedules: vec![schedule("report", u64::MAX, 60)],
        fires: vec![fire("report", 60, 61)],
        ..batch
    }
}

fn other_definitions() -> Vec<DefinitionChange> {
    let exchange = |name: &str, kind: &str| ExchangeSpec {
        vhost: "/".into(),
        name: name.into(),
        kind: kind.into(),
        durable: true,
        auto_delete: false,
        internal: name == "inner",
        arguments: vec![1, 2, 3],
    };
    let user = UserSpec {
        name: "guest".into(),
        password_hash: "aGFzaA==".into(),
        hashing: "rabbit_password_hashing_sha256".into(),
        tags: "administrator".into(),
    };
    let permission = PermissionSpec {
        vhost: "/".into(),
        user: "guest".into(),
        configure: ".*".into(),
        write: "^a".into(),
        read: String::new(),
    };
    vec![
        DefinitionChange::Access(AccessChange::PutVhost(vhost("/"))),
        DefinitionChange::Access(AccessChange::PutUser(user)),
        DefinitionChange::Access(AccessChange::PutPermission(permission)),
        DefinitionChange::PutExchange(exchange("logs", "topic")),
        DefinitionChange::PutExchange(exchange("inner", "x-consistent-hash")),
        DefinitionChange::PutBinding(binding("q1", b"a.#")),
        DefinitionChange::PutBinding(BindingSpec {
            destination_kind: DestinationKind::Exchange,
            ..binding("inner", b"")
        }),
    ]
}

fn binding(destination: &str, routing_key: &[u8]) -> BindingSpec {
    BindingSpec {
        vhost: "/".into(),
        source: "logs".into(),
        destination_kind: DestinationKind::Queue,
        destination: destination.into(),
        routing_key: routing_key.to_vec(),
        arguments: vec![9],
    }
}

/// Ends the store well, so that its tasks are gone before the runtime is.
async fn done(bench: Bench) {
    bench.backend().close().await;
}

async fn a_new_store_is_empty(bench: Bench) {
    assert_eq!(bench.load().await, Image::default());
    assert_eq!(bench.backend().committed_number().await.unwrap(), 0);
    assert!(bench.backend().job_counts().await.unwrap().is_empty());
    let room = bench.backend().room().await.unwrap();
    assert!(
        room.is_none_or(|room| room.free > 0 && room.size > 0),
        "{room:?}"
    );
    assert!(
        bench
            .backend()
            .read_segment(SegmentId(1))
            .await
            .unwrap()
            .is_none()
    );
    done(bench).await;
}

async fn definitions_come_back_in_order(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    let image = bench.load().await;
    assert_eq!(image.queues, [queue(1), queue(2)]);
    assert_eq!(image.vhosts, [vhost("/")]);
    let names: Vec<_> = image.exchanges.iter().map(|row| &*row.name).collect();
    assert_eq!(names, ["inner", "logs"]);
    assert_eq!(image.exchanges[0].kind, "x-consistent-hash");
    assert!(image.exchanges[0].internal && !image.exchanges[1].internal);
    assert_eq!(image.users[0].password_hash, "aGFzaA==");
    assert_eq!(image.permissions[0].write, "^a");
    let kinds: Vec<_> = image
        .bindings
        .iter()
        .map(|row| row.destination_kind)
        .collect();
    assert_eq!(kinds, [DestinationKind::Exchange, DestinationKind::Queue]);
    assert_eq!(image.bindings[1], binding("q1", b"a.#"));
    assert_eq!(image.schedules, [schedule("report", u64::MAX, 60)]);
    done(bench).await;
}

async fn a_put_overwrites_and_a_delete_of_nothing_passes(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    let before = bench.load().await;
    let again = Batch {
        definitions: other_definitions(),
        ..put_queues([])
    };
    bench.commit(again).await.unwrap();
    assert_eq!(bench.load().await, before);

    let renamed = QueueSpec {
        name: "other".into(),
        work: true,
        ..queue(1)
    };
    let nothing = [
        DefinitionChange::PutQueue(renamed.clone()),
        DefinitionChange::DeleteQueue(QueueId(99)),
        DefinitionChange::Access(AccessChange::DeleteUser("nobody".into())),
        DefinitionChange::DeleteExchange {
            vhost: "/".into(),
            name: "nothing".into(),
        },
        DefinitionChange::DeleteBinding(binding("q1", b"other key")),
    ];
    bench
        .commit(Batch {
            definitions: nothing.into(),
            ..Batch::default()
        })
        .await
        .unwrap();
    let after = bench.load().await;
    assert_eq!(after.queues, [renamed, queue(2)]);
    assert_eq!(after.segments, before.segments);
    assert_eq!(
        (after.bindings, after.exchanges),
        (before.bindings, before.exchanges)
    );

    let gone = [
        DefinitionChange::Access(AccessChange::DeleteUser("guest".into())),
        DefinitionChange::DeleteExchange {
            vhost: "/".into(),
            name: "logs".into(),
        },
        DefinitionChange::DeleteBinding(binding("q1", b"a.#")),
    ];
    bench
        .commit(Batch {
            definitions: gone.into(),
            ..Batch::default()
        })
        .await
        .unwrap();
    let after = bench.load().await;
    assert!(after.users.is_empty() && after.permissions.is_empty());
    assert_eq!((after.bindings.len(), after.exchanges.len()), (1, 1));
    done(bench).await;
}

async fn definitions_apply_in_order_within_a_batch(bench: Bench) {
    bench.commit(put_queues([1])).await.unwrap();
    let successor = QueueSpec {
        id: QueueId(5),
        ..queue(1)
    };
    let swap = [
        DefinitionChange::DeleteQueue(QueueId(1)),
        DefinitionChange::PutQueue(successor.clone()),
    ];
    bench
        .commit(Batch {
            definitions: swap.into(),
            ..Batch::default()
        })
        .await
        .unwrap();
    assert_eq!(bench.load().await.queues, [successor]);
    done(bench).await;
}

async fn two_queues_of_one_name_are_refused(bench: Bench) {
    bench.commit(put_queues([1])).await.unwrap();
    let twin = QueueSpec {
        id: QueueId(5),
        ..queue(1)
    };
    let definitions = vec![DefinitionChange::PutQueue(twin)];
    let refused = bench
        .commit(Batch {
            definitions,
            ..Batch::default()
        })
        .await;
    assert!(
        matches!(refused, Err(CommitError::NotDone(_))),
        "{refused:?}"
    );
    assert_eq!(bench.load().await.queues, [queue(1)]);
    done(bench).await;
}

async fn reopen_keeps_everything(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    let before = bench.load().await;
    let job = bench.job(2).await;
    assert!(job.is_some());
    let bench = bench.reopen().await;
    assert_eq!(bench.load().await, before);
    assert_eq!(bench.job(2).await, job);
    assert_eq!(
        bench
            .backend()
            .job_result(id(2))
            .await
            .unwrap()
            .unwrap()
            .body,
        b"done"
    );
    done(bench).await;
}

async fn a_crash_keeps_what_was_synced(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    let before = bench.load().await;
    let bench = bench.crash().await;
    assert_eq!(bench.load().await, before);
    let body = bench
        .backend()
        .read_segment(SegmentId(3))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(body.data, segment(3, 1, 10).data);
    assert_eq!(
        bench.backend().committed_number().await.unwrap(),
        0,
        "a new process counts anew"
    );
    done(bench).await;
}

async fn segments_come_back_ordered_and_whole(bench: Bench) {
    let mut rows = vec![
        segment(4, 2, 0),
        segment(1, 1, 10),
        segment(3, 1, 0),
        segment(2, 1, 0),
    ];
    rows[0].data = vec![0xab; 1 << 20];
    rows[1].count = 3;
    let batch = Batch {
        segments: rows.clone(),
        ..put_queues([1, 2])
    };
    bench.commit(batch).await.unwrap();
    let image = bench.load().await;
    let ids: Vec<_> = image.segments.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, [2, 3, 1, 4]);
    for row in &rows {
        let found = image
            .segments
            .iter()
            .find(|found| found.id == row.id)
            .unwrap();
        let expected = SegmentHeader {
            id: row.id,
            queue: row.queue,
            first_seq: row.first_seq,
            last_seq: row.last_seq,
            count: row.count,
            bytes: row.bytes,
            transient: row.transient,
            first_at: row.first_at,
            last_at: row.last_at,
        };
        assert_eq!(*found, expected);
        let body = bench.backend().read_segment(row.id).await.unwrap().unwrap();
        assert!(body.index == row.index && body.data == row.data);
    }
    done(bench).await;
}

async fn a_segment_id_is_taken_once(bench: Bench) {
    bench
        .commit(Batch {
            segments: vec![segment(1, 1, 0)],
            ..put_queues([1])
        })
        .await
        .unwrap();
    let again = Batch {
        segments: vec![segment(1, 1, 50)],
        ..Batch::default()
    };
    assert!(matches!(
        bench.commit(again).await,
        Err(CommitError::NotDone(_))
    ));
    let hollow = SegmentRow {
        count: 11,
        ..segment(2, 1, 10)
    };
    let hollow = Batch {
        segments: vec![hollow],
        ..Batch::default()
    };
    assert!(matches!(
        bench.commit(hollow).await,
        Err(CommitError::NotDone(_))
    ));
    assert_eq!(bench.load().await.segments[0].first_seq, 0);
    done(bench).await;
}

async fn settled_and_heads_are_replaced(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    let batch = Batch {
        settled: vec![settled(1, 1, 0xff), settled(3, 1, 1)],
        heads: vec![head(1, 10, 30)],
        ..Batch::default()
    };
    bench.commit(batch).await.unwrap();
    let image = bench.load().await;
    assert_eq!(
        image.settled,
        [(SegmentId(1), vec![0xff; 2]), (SegmentId(3), vec![1; 2])]
    );
    assert_eq!(image.heads, [head(1, 10, 30), head(2, 0, 10)]);
    done(bench).await;
}

async fn damaged_segments_are_kept_aside(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    for _ in 0..2 {
        let aside = Batch {
            damaged: vec![SegmentId(1), SegmentId(42)],
            dropped_segments: vec![SegmentId(1)],
            ..Batch::default()
        };
        bench.commit(aside).await.unwrap();
        let kept = bench.backend().damaged_segments().await.unwrap();
        let kept: Vec<_> = kept.iter().map(|row| row.id.0).collect();
        assert_eq!(kept, [1]);
    }
    let ids: Vec<_> = bench
        .load()
        .await
        .segments
        .iter()
        .map(|row| row.id.0)
        .collect();
    assert_eq!(ids, [3, 2]);
    done(bench).await;
}

async fn dropped_segments_take_their_settled_rows(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    let drops = vec![SegmentId(1), SegmentId(42)];
    bench
        .commit(Batch {
            dropped_segments: drops,
            ..Batch::default()
        })
        .await
        .unwrap();
    let image = bench.load().await;
    let ids: Vec<_> = image.segments.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, [3, 2]);
    assert!(image.settled.is_empty());
    assert!(
        bench
            .backend()
            .read_segment(SegmentId(1))
            .await
            .unwrap()
            .is_none()
    );
    let merged = Batch {
        segments: vec![segment(5, 1, 20)],
        dropped_segments: vec![SegmentId(5)],
        ..Batch::default()
    };
    bench.commit(merged).await.unwrap();
    assert_eq!(
        bench.load().await.segments.len(),
        2,
        "dropped within its own batch"
    );
    done(bench).await;
}

/// Row counts that fill, overfill and underfill every form of a statement.
async fn many_rows_of_each_kind(bench: Bench) {
    const ROWS: u64 = 333;
    let batch = Batch {
        segments: (1..=ROWS).map(|n| segment(n, n, 0)).collect(),
        settled: (1..=ROWS).map(|n| settled(n, n, n as u8)).collect(),
        heads: (1..=ROWS).map(|n| head(n, n, n + 1)).collect(),
        waiting: (1..=ROWS).map(|n| waiting(n, n, 1)).collect(),
        jobs: (0..200).map(submit).collect(),
        ..put_queues(1..=ROWS)
    };
    let (heads, bits) = (batch.heads.clone(), batch.settled.clone());
    bench.commit(batch).await.unwrap();
    let image = bench.load().await;
    assert_eq!(image.heads, heads);
    assert_eq!(image.segments.len(), 333);
    assert!(
        image
            .settled
            .iter()
            .zip(&bits)
            .all(|(found, put)| *found == (put.segment, put.bits.clone()))
    );
    assert_eq!(image.waiting.len(), 333);
    for n in 0..200 {
        assert_eq!(bench.job(n).await, Some(job(n)));
    }
    let drops = Batch {
        dropped_segments: (1..=ROWS).filter(|n| *n != 77).map(SegmentId).collect(),
        dropped_waiting: (1..=ROWS)
            .filter(|n| *n != 78)
            .map(|n| (QueueId(n), n))
            .collect(),
        ..Batch::default()
    };
    bench.commit(drops).await.unwrap();
    let image = bench.load().await;
    assert_eq!(
        image
            .segments
            .iter()
            .map(|row| row.id.0)
            .collect::<Vec<_>>(),
        [77]
    );
    assert_eq!(image.settled.len(), 1);
    assert_eq!(
        image.waiting.iter().map(|row| row.seq).collect::<Vec<_>>(),
        [78]
    );
    done(bench).await;
}

async fn transient_segments_do_not_outlive_the_process(bench: Bench) {
    let spilled = SegmentRow {
        transient: true,
        ..segment(2, 1, 10)
    };
    let batch = Batch {
        segments: vec![segment(1, 1, 0), spilled],
        settled: vec![settled(2, 1, 1)],
        ..put_queues([1])
    };
    bench.commit(batch).await.unwrap();
    assert!(
        bench
            .backend()
            .read_segment(SegmentId(2))
            .await
            .unwrap()
            .is_some()
    );
    let bench = bench.reopen().await;
    let image = bench.load().await;
    assert_eq!(
        image
            .segments
            .iter()
            .map(|row| row.id.0)
            .collect::<Vec<_>>(),
        [1]
    );
    assert!(image.settled.is_empty());
    assert!(image.last_segment_id >= 2);
    bench.backend().maintain().await.unwrap();
    assert!(
        bench
            .backend()
            .read_segment(SegmentId(2))
            .await
            .unwrap()
            .is_none()
    );
    done(bench).await;
}

async fn a_deleted_queue_leaves_nothing(bench: Bench) {
    let mut batch = full_batch();
    batch
        .segments
        .extend((10..200).map(|n| segment(n, 1, n * 10)));
    batch
        .waiting
        .extend((10..2500).map(|seq| waiting(1, seq, 1)));
    bench.commit(batch).await.unwrap();
    let deleted = vec![DefinitionChange::DeleteQueue(QueueId(1))];
    bench
        .commit(Batch {
            definitions: deleted,
            ..Batch::default()
        })
        .await
        .unwrap();
    bench.backend().maintain().await.unwrap();
    for segment in [1, 3, 10, 199] {
        assert!(
            bench
                .backend()
                .read_segment(SegmentId(segment))
                .await
                .unwrap()
                .is_none()
        );
    }
    let seqs = (0..2500).collect();
    assert!(
        bench
            .backend()
            .read_waiting(QueueId(1), seqs)
            .await
            .unwrap()
            .is_empty()
    );
    let bench = bench.reopen().await;
    let image = bench.load().await;
    assert_eq!(image.queues, [queue(2)]);
    assert_eq!(image.heads, [head(2, 0, 10)]);
    assert_eq!(
        image
            .segments
            .iter()
            .map(|row| row.id.0)
            .collect::<Vec<_>>(),
        [2]
    );
    assert!(image.settled.is_empty());
    assert_eq!(
        image
            .waiting
            .iter()
            .map(|row| row.queue.0)
            .collect::<Vec<_>>(),
        [2]
    );
    done(bench).await;
}

async fn ids_are_not_used_twice(bench: Bench) {
    let batch = Batch {
        segments: vec![segment(8, 4, 0), segment(9, 4, 10)],
        ..put_queues([3, 4])
    };
    bench.commit(batch).await.unwrap();
    let image = bench.load().await;
    assert_eq!((image.last_queue_id, image.last_segment_id), (4, 9));
    let batch = Batch {
        definitions: vec![DefinitionChange::DeleteQueue(QueueId(4))],
        dropped_segments: vec![SegmentId(9), SegmentId(8)],
        ..Batch::default()
    };
    bench.commit(batch).await.unwrap();
    let bench = bench.reopen().await;
    let image = bench.load().await;
    assert_eq!(image.last_queue_id, 4);
    assert!(image.last_segment_id >= 9);
    assert!(image.segments.is_empty());
    done(bench).await;
}

async fn waiting_rows_are_put_after_drops(bench: Bench) {
    let first = Batch {
        waiting: vec![waiting(1, 1, 1), waiting(1, 2, 1)],
        ..put_queues([1])
    };
    bench.commit(first).await.unwrap();
    // Out and back within one commit: the message must not be lost.
    let again = Batch {
        dropped_waiting: vec![(QueueId(1), 1), (QueueId(1), 77)],
        waiting: vec![waiting(1, 1, 2), waiting(1, 2, 5)],
        ..Batch::default()
    };
    bench.commit(again).await.unwrap();
    let rows = bench
        .backend()
        .read_waiting(QueueId(1), vec![1, 2])
        .await
        .unwrap();
    assert!(rows == [waiting(1, 1, 2), waiting(1, 2, 5)]);
    assert_eq!(bench.load().await.waiting[1].attempt, 5);
    done(bench).await;
}

async fn waiting_rows_come_in_the_order_asked(bench: Bench) {
    let rows = vec![waiting(2, 9, 1), waiting(1, 5, 1), waiting(1, 3, 1)];
    bench
        .commit(Batch {
            waiting: rows,
            ..put_queues([1, 2])
        })
        .await
        .unwrap();
    let places = bench.load().await.waiting;
    let places: Vec<_> = places
        .iter()
        .map(|row| (row.queue.0, row.seq, row.due_at))
        .collect();
    assert_eq!(places, [(1, 3, 5_003), (1, 5, 5_005), (2, 9, 5_009)]);
    let found = bench
        .backend()
        .read_waiting(QueueId(1), vec![5, 4, 9, 3])
        .await
        .unwrap();
    assert!(found == [waiting(1, 5, 1), waiting(1, 3, 1)]);
    done(bench).await;
}

async fn a_refused_batch_stores_nothing(bench: Bench) {
    bench.commit(fires([fire("report", 60, 61)])).await.unwrap();
    let before = bench.load().await;
    let refused = bench.commit(full_batch()).await;
    assert!(
        matches!(refused, Err(CommitError::NotDone(_))),
        "{refused:?}"
    );
    assert_eq!(bench.load().await, before);
    assert_eq!(bench.job(1).await, None);
    assert_eq!(bench.backend().committed_number().await.unwrap(), 0);
    let retried = Batch {
        fires: vec![fire("report", 120, 121)],
        ..full_batch()
    };
    bench.commit(retried).await.unwrap();
    assert_eq!(bench.load().await.queues.len(), 2);
    done(bench).await;
}

async fn a_tick_fires_once(bench: Bench) {
    bench
        .commit(fires([
            fire("a", 60, 61),
            fire("b", 60, 61),
            fire("a", 120, 121),
        ]))
        .await
        .unwrap();
    let again = bench
        .commit(fires([fire("c", 60, 61), fire("a", 60, 999)]))
        .await;
    assert!(matches!(again, Err(CommitError::NotDone(_))));
    let twice = bench
        .commit(fires([fire("d", 60, 61), fire("d", 60, 61)]))
        .await;
    assert!(matches!(twice, Err(CommitError::NotDone(_))));
    bench
        .commit(fires([fire("c", 60, 61), fire("d", 60, 61)]))
        .await
        .unwrap();
    done(bench).await;
}

async fn commits_are_numbered(bench: Bench) {
    let numbered = |number| Batch {
        number,
        ..put_queues([1])
    };
    bench
        .commit(Batch {
            heads: vec![head(1, 0, 1)],
            ..numbered(1)
        })
        .await
        .unwrap();
    assert_eq!(bench.backend().committed_number().await.unwrap(), 1);
    bench.commit(numbered(2)).await.unwrap();
    assert_eq!(bench.backend().committed_number().await.unwrap(), 2);
    let gone = vec![DefinitionChange::DeleteQueue(QueueId(1))];
    let batch = Batch {
        definitions: gone,
        heads: vec![head(2, 0, 1)],
        ..numbered(3)
    };
    bench.commit(batch).await.unwrap();
    assert_eq!(bench.backend().committed_number().await.unwrap(), 3);
    let refused = Batch {
        fires: vec![fire("a", 1, 1), fire("a", 1, 1)],
        ..numbered(4)
    };
    assert!(bench.commit(refused).await.is_err());
    assert_eq!(bench.backend().committed_number().await.unwrap(), 3);
    let bench = bench.reopen().await;
    assert_eq!(bench.backend().committed_number().await.unwrap(), 0);
    bench
        .commit(Batch {
            heads: vec![head(3, 0, 1)],
            ..numbered(1)
        })
        .await
        .unwrap();
    assert_eq!(bench.backend().committed_number().await.unwrap(), 1);
    done(bench).await;
}

async fn reads_run_beside_commits(bench: Bench) {
    bench
        .commit(Batch {
            segments: vec![segment(1, 1, 0)],
            ..put_queues([1])
        })
        .await
        .unwrap();
    let backend = bench.backend();
    for n in 2..40 {
        let batch = Arc::new(Batch {
            segments: vec![segment(n, 1, n * 10)],
            ..Batch::default()
        });
        let (committed, old, newer) = tokio::join!(
            backend.commit(batch, true),
            backend.read_segment(SegmentId(n - 1)),
            backend.read_segment(SegmentId(n)),
        );
        committed.unwrap();
        assert!(old.unwrap().unwrap().data == segment(n - 1, 1, 0).data);
        // There or not there yet, never half.
        assert!(
            newer
                .unwrap()
                .is_none_or(|body| body.data == segment(n, 1, 0).data)
        );
    }
    done(bench).await;
}

async fn a_dropped_commit_still_runs(bench: Bench) {
    let batch = Arc::new(Batch {
        number: 1,
        ..full_batch()
    });
    let mut commit = bench.backend().commit(batch, true);
    // One poll hands it over; then the caller goes away.
    let polled = std::future::poll_fn(|context| {
        std::task::Poll::Ready(commit.as_mut().poll(context).is_ready())
    });
    polled.await;
    drop(commit);
    assert_eq!(bench.backend().committed_number().await.unwrap(), 1);
    assert_eq!(bench.load().await.queues.len(), 2);
    done(bench).await;
}

async fn schedules_are_replaced_and_dropped(bench: Bench) {
    let put = |rows: Vec<ScheduleRow>| Batch {
        schedules: rows,
        ..Batch::default()
    };
    bench
        .commit(put(vec![schedule("b", 1, 10), schedule("a", u64::MAX, 20)]))
        .await
        .unwrap();
    bench.commit(put(vec![schedule("b", 2, 70)])).await.unwrap();
    let rows = bench.load().await.schedules;
    assert_eq!(rows, [schedule("a", u64::MAX, 20), schedule("b", 2, 70)]);
    let swap = Batch {
        dropped_schedules: vec!["a".into(), "b".into(), "none".into()],
        ..put(vec![schedule("b", 3, 0)])
    };
    bench.commit(swap).await.unwrap();
    assert_eq!(bench.load().await.schedules, [schedule("b", 3, 0)]);
    done(bench).await;
}

async fn an_empty_batch_passes(bench: Bench) {
    let batch = Batch {
        number: 3,
        ..Batch::default()
    };
    bench
        .backend()
        .commit(Arc::new(batch), false)
        .await
        .unwrap();
    bench
        .commit(Batch {
            number: 4,
            ..Batch::default()
        })
        .await
        .unwrap();
    assert_eq!(bench.backend().committed_number().await.unwrap(), 4);
    done(bench).await;
}
