//! The storage seam: the one door between rules and SQL.
//!
//! Keeps: verbs at batch or object grain; each says whether it is atomic and idempotent.
//! Never: a rule, except the fences that mirror the state machines (unique keys, final states).
//! In: `log::writer` and `Store` call a `Backend`; `contract.rs` binds every engine to its
//! promises.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::log::batch::{
    Batch, Committed, DeduplicationRow, HeadRow, RetainedRow, SegmentRow, WaitingRow,
};
use crate::model::*;
use crate::queue::retained::Entry;

mod doomed;
pub mod memory;
pub mod place;
pub mod postgres;
pub mod sqlite;

#[cfg(test)]
mod contract;

/// A database future. It runs to its end in a task of the engine's own; dropping it never cancels
/// a statement half way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a commit is not known to be on disk. Callers must tell the three apart.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Surely not stored; there is no room. The same batch may be tried again later.
    #[error("no room: {0}")]
    Full(String),
    /// Surely not stored, for a reason that may pass (lock, connection refused). May be retried.
    #[error("not stored: {0}")]
    NotDone(String),
    /// May or may not be stored. The caller must stop confirming until it knows.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Surely not stored: another node owns the store. Nothing that this one sends is any more.
    #[error("no longer the owner: {0}")]
    Fenced(String),
}

/// A read or an administrative verb that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// A segment without its blobs, for recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub id: SegmentId,
    pub queue: QueueId,
    pub first_seq: Seq,
    pub last_seq: Seq,
    pub count: u32,
    pub bytes: u64,
    pub transient: bool,
    pub first_at: Micros,
    pub last_at: Micros,
}

impl SegmentHeader {
    /// As a queue that keeps it knows it.
    pub fn retained(&self, settled_at: Micros) -> Entry {
        Entry {
            id: self.id,
            first: self.first_seq,
            last: self.last_seq,
            count: self.count,
            bytes: self.bytes,
            first_at: self.first_at,
            last_at: self.last_at,
            settled_at,
        }
    }
}

/// A segment's two blobs.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentBody {
    pub index: Vec<u8>,
    pub data: Vec<u8>,
}

/// A waiting message without its blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingHeader {
    pub queue: QueueId,
    pub seq: Seq,
    pub due_at: Micros,
    pub attempt: u32,
}

/// All that a start needs: definitions and headers, no message bodies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub vhosts: Vec<VhostSpec>,
    pub users: Vec<UserSpec>,
    pub permissions: Vec<PermissionSpec>,
    /// Ordered by vhost, user, exchange.
    pub topic_permissions: Vec<TopicPermissionSpec>,
    /// Ordered by vhost, kind, name.
    pub policies: Vec<PolicySpec>,
    /// Ordered by vhost, component, name.
    pub parameters: Vec<ParameterSpec>,
    /// Ordered by whom they bind, subject, name.
    pub limits: Vec<LimitSpec>,
    pub exchanges: Vec<ExchangeSpec>,
    pub queues: Vec<QueueSpec>,
    pub bindings: Vec<BindingSpec>,
    pub heads: Vec<HeadRow>,
    /// Ordered by queue, then first_seq, then id.
    pub segments: Vec<SegmentHeader>,
    /// (segment, bits) as in `SettledRow`.
    pub settled: Vec<(SegmentId, Vec<u8>)>,
    /// Of the segments, those that are retained. Ordered by segment.
    pub retained: Vec<RetainedRow>,
    /// Ordered by queue, then seq.
    pub waiting: Vec<WaitingHeader>,
    pub schedules: Vec<ScheduleRow>,
    /// Ordered by id.
    pub redrives: Vec<RedriveRow>,
    /// In no order.
    pub deduplication: Vec<DeduplicationRow>,
    /// Highest ids ever used, so that none is used twice (0 when none was).
    pub last_queue_id: u64,
    pub last_segment_id: u64,
}

/// Which jobs to list. All given conditions hold together; newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub vhost: Option<String>,
    pub target: Option<String>,
    pub state: Option<JobState>,
    /// Only jobs with an id below this one (the last of the page before).
    pub before: Option<JobId>,
    pub limit: u32,
}

/// What retention removed in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Results dropped; the job stays as a tombstone.
    pub results: u64,
    /// Tombstones dropped; the job is unknown from now on.
    pub tombstones: u64,
    pub keys: u64,
    pub fires: u64,
}

/// Where a page of `Backend::export` goes on: behind this key of its kind. The `FIRST_…` come
/// before every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Segments that were kept aside, whole.
    Damaged(SegmentId),
    /// Results: only whose, and how long.
    Result(JobId),
    /// Claims of idempotency keys, by scope, bytewise; expired ones, too.
    Claim(String),
    /// The fire ledger, by schedule, bytewise, then nominal time.
    Fire(String, Micros),
}

impl Cursor {
    pub const FIRST_DAMAGED: Self = Self::Damaged(SegmentId(0));
    pub const FIRST_RESULT: Self = Self::Result(JobId([0; 16]));
    pub const FIRST_CLAIM: Self = Self::Claim(String::new());
    pub const FIRST_FIRE: Self = Self::Fire(String::new(), Micros::MIN);
}

/// A row that no other verb lists.
#[derive(Clone, PartialEq, Eq)]
pub enum Exported {
    Damaged(SegmentRow),
    /// A result that is stored, and its bytes.
    Result(JobId, u64),
    /// A claim, and when it was made.
    Claim(KeyClaim, Micros),
    Fire(FireRow),
}

impl Exported {
    /// The cursor of what comes after it.
    pub fn cursor(&self) -> Cursor {
        match self {
            Self::Damaged(row) => Cursor::Damaged(row.id),
            Self::Result(id, _) => Cursor::Result(*id),
            Self::Claim(key, _) => Cursor::Claim(key.scope.clone()),
            Self::Fire(row) => Cursor::Fire(row.schedule.clone(), row.nominal_at),
        }
    }
}

/// What a copy brings and a `Batch` cannot say.
#[derive(Clone, Default, PartialEq)]
pub struct Import {
    /// In whatever state they are; a result stands with the job that says one.
    pub jobs: Vec<(Job, Option<JobResult>)>,
    /// Segments to keep aside.
    pub damaged: Vec<SegmentRow>,
    /// No id up to these is ever given again; 0 for no change.
    pub last_queue_id: u64,
    pub last_segment_id: u64,
}

/// Room for more, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free: u64,
    /// Of the file system, used or not.
    pub size: u64,
}

/// One durable store. Reads may run beside a commit and see only whole commits.
pub trait Backend: Send + Sync + 'static {
    /// Everything a start needs. Called once, after the migrations ran in the engine's `open`.
    /// Deletes what only a crash could have left: transient segments and rows of queues that
    /// are gone. Idempotent.
    fn load(&self) -> Pending<'_, Result<Image, BackendError>>;

    /// Makes the whole batch durable (fsynced when `sync`), atomically. Callers keep one commit
    /// under way at a time. Not idempotent: a batch whose outcome is `Unknown` must not be
    /// sent again before `committed_number` has told.
    ///
    /// Inside: definitions in order; damaged segments copied aside as they stood before;
    /// segments inserted; settled and head rows replaced; dropped segments deleted;
    /// waiting rows kept as segments; retained rows put, then dropped with their segments;
    /// dropped waiting rows deleted, then waiting rows put (one that exists is
    /// replaced); jobs in order; dropped schedules deleted, then schedules put, the
    /// same with redrives; old deduplication rows dropped, then new ones inserted. A fire row that
    /// exists, and an idempotency scope still claimed at its job's `created_at` or at the claim's
    /// own time, is `NotDone`.
    fn commit(&self, batch: Arc<Batch>, sync: bool) -> Pending<'_, Result<Committed, CommitError>>;

    /// Highest `Batch::number` of this process that is on disk, for resolving `Unknown`.
    fn committed_number(&self) -> Pending<'_, Result<u64, BackendError>>;

    /// One segment's blobs; `None` when the row is gone.
    fn read_segment(&self, id: SegmentId)
    -> Pending<'_, Result<Option<SegmentBody>, BackendError>>;

    /// Headers of the segments that were kept aside because they are damaged, by id.
    fn damaged_segments(&self) -> Pending<'_, Result<Vec<SegmentHeader>, BackendError>>;

    /// Whole waiting rows of one queue, in the order asked; missing ones are left out.
    fn read_waiting(
        &self,
        queue: QueueId,
        seqs: Vec<Seq>,
    ) -> Pending<'_, Result<Vec<WaitingRow>, BackendError>>;

    fn job(&self, id: JobId) -> Pending<'_, Result<Option<Job>, BackendError>>;

    /// The reply, verbatim; `None` when there is none (yet, or any more).
    fn job_result(&self, id: JobId) -> Pending<'_, Result<Option<JobResult>, BackendError>>;

    /// The claim on an idempotency scope that has not expired at `now`.
    fn key_claim(
        &self,
        scope: String,
        now: Micros,
    ) -> Pending<'_, Result<Option<KeyClaim>, BackendError>>;

    fn jobs(&self, filter: JobFilter) -> Pending<'_, Result<Vec<Job>, BackendError>>;

    /// Jobs per state, for metrics. States without jobs may be left out.
    fn job_counts(&self) -> Pending<'_, Result<Vec<(JobState, u64)>, BackendError>>;

    /// Open jobs whose deadline is at or before `now`, oldest first.
    fn overdue_jobs(&self, now: Micros, limit: u32) -> Pending<'_, Result<Vec<Job>, BackendError>>;

    /// Retention, in bounded steps of at most `limit` rows per kind: results past `expires_at`,
    /// tombstones `tombstone_ms` after that, expired keys, fires older than `fires_before`.
    /// Deduplication rows may be merged, which loses no entry.
    /// Idempotent. Never touches an open job. Runs between commits, never inside one.
    fn retire(
        &self,
        now: Micros,
        tombstone_ms: i64,
        fires_before: Micros,
        limit: u32,
    ) -> Pending<'_, Result<Retired, BackendError>>;

    /// What `load` reads, as it is: nothing is left out nor deleted, so rows of queues that are
    /// gone and transient segments are there, too. Same orders; one snapshot. For checks and
    /// copies.
    fn image(&self) -> Pending<'_, Result<Image, BackendError>>;

    /// At most `limit` rows of the cursor's kind whose key is above it, by key rising; fewer only
    /// at the end. Keys compare as bytes, whatever the database's language. For checks and copies.
    fn export(&self, after: Cursor, limit: u32)
    -> Pending<'_, Result<Vec<Exported>, BackendError>>;

    /// Puts rows as they are, atomically; on disk with the next synced commit. A job or a damaged
    /// segment that exists is `NotDone`. Not numbered as a commit; never called on a store that
    /// serves.
    fn import(&self, rows: Arc<Import>) -> Pending<'_, Result<(), CommitError>>;

    /// What the engine itself finds wrong with its files, a line each, in its own words; empty
    /// where all is whole, or where the engine has no such check. Reads everything; may take long.
    fn check(&self) -> Pending<'_, Result<Vec<String>, BackendError>>;

    /// Housekeeping off the commit path (checkpoints). Called about once a second.
    fn maintain(&self) -> Pending<'_, Result<(), BackendError>>;

    /// Bytes on disk and in the write-ahead log, for metrics and alarms.
    fn disk_bytes(&self) -> (u64, u64);

    /// What may still be written: free on the file system, and free inside the database. `None`
    /// where no disk is.
    fn room(&self) -> Pending<'_, Result<Option<Room>, BackendError>>;

    /// Resolves, with the reason, when this node does not own the store any more; never, where only
    /// one process can open it.
    fn lost(&self) -> Pending<'_, String> {
        Box::pin(std::future::pending())
    }

    /// Flushes and releases the database. Nothing may be called afterwards.
    fn close(&self) -> Pending<'_, ()>;
}
