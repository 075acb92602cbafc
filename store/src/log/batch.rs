//! What one commit holds. Pure.
//!
//! Keeps: everything in a `Batch` becomes durable together or not at all, so that `tx`, a
//! dead-letter move, a tick and "job + message" are one step each.
//! Never: decides; `shard` fills it under its lock, `log::writer` hands it to a backend.

use std::sync::Arc;

use crate::model::*;

/// A definition created, changed or removed. Puts overwrite; deletes of missing rows are no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefinitionChange {
    Access(AccessChange),
    PutExchange(ExchangeSpec),
    DeleteExchange {
        vhost: Arc<str>,
        name: Arc<str>,
    },
    PutQueue(QueueSpec),
    /// Removes the queue with its segments, settled rows, head and waiting messages.
    DeleteQueue(QueueId),
    PutBinding(BindingSpec),
    DeleteBinding(BindingSpec),
}

/// A change of who may do what, or of what operators define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessChange {
    PutVhost(VhostSpec),
    /// Takes everything declared and defined in it along, but for queues: each needs a
    /// `DeleteQueue` of its own.
    DeleteVhost(Arc<str>),
    PutUser(UserSpec),
    /// Takes its permissions and limits along.
    DeleteUser(Arc<str>),
    PutPermission(PermissionSpec),
    DeletePermission {
        vhost: Arc<str>,
        user: Arc<str>,
    },
    PutTopicPermission(TopicPermissionSpec),
    DeleteTopicPermission {
        vhost: Arc<str>,
        user: Arc<str>,
        exchange: Arc<str>,
    },
    PutPolicy(PolicySpec),
    DeletePolicy {
        kind: PolicyKind,
        vhost: Arc<str>,
        name: Arc<str>,
    },
    PutParameter(ParameterSpec),
    DeleteParameter {
        vhost: Arc<str>,
        component: Arc<str>,
        name: Arc<str>,
    },
    PutLimit(LimitSpec),
    DeleteLimit {
        of: LimitOf,
        subject: Arc<str>,
        name: LimitName,
    },
}

/// Messages that one commit appends to one queue: one row, written once, never updated.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentRow {
    pub id: SegmentId,
    pub queue: QueueId,
    pub first_seq: Seq,
    pub last_seq: Seq,
    /// Messages inside; fewer than `last_seq - first_seq + 1` where some were settled first.
    pub count: u32,
    /// Body bytes inside.
    pub bytes: u64,
    /// True when a restart forgets the messages: they were spilled for room, not for safety.
    pub transient: bool,
    pub first_at: Micros,
    pub last_at: Micros,
    /// `log::segment` layout.
    pub index: Vec<u8>,
    pub data: Vec<u8>,
}

/// Settled messages of a segment that is neither whole nor fully settled: one bit per seq from
/// `first_seq`, least significant bit first, 1 = settled. Replaces the row before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledRow {
    pub segment: SegmentId,
    pub queue: QueueId,
    pub bits: Vec<u8>,
}

/// A segment whose messages are all settled, and which is kept. Replaces the row before it, and
/// whatever `SettledRow` there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedRow {
    pub segment: SegmentId,
    pub queue: QueueId,
    /// When the last of its messages was settled.
    pub settled_at: Micros,
}

/// A waiting row that becomes a segment of one message, as the message is settled and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptRow {
    pub segment: SegmentId,
    pub queue: QueueId,
    pub seq: Seq,
    pub settled_at: Micros,
}

/// A queue's small, hot row; replaces the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRow {
    pub queue: QueueId,
    /// Every message below is settled or waits in a row of its own.
    pub head: Seq,
    /// Messages below may have been handed out; after a crash they come back as redelivered.
    pub handed: Seq,
    /// The next seq to assign; seqs are never used twice.
    pub next: Seq,
}

/// A message that waits for its time outside the segments (backoff, delay).
#[derive(Clone, PartialEq, Eq)]
pub struct WaitingRow {
    pub queue: QueueId,
    pub seq: Seq,
    pub due_at: Micros,
    pub attempt: u32,
    /// When the queue took it; 0 where that is not known.
    pub accepted_at: Micros,
    /// A one-message segment in `log::segment` layout.
    pub index: Vec<u8>,
    pub data: Vec<u8>,
}

impl WaitingRow {
    /// In place of an instant: the row has no content and no message waits in it, it only counts
    /// how often one of the log came back.
    pub const COUNT_ONLY: Micros = Micros::MIN;

    /// True for a message that failed, whose age counts from when it was accepted. A delayed one
    /// begins to age when its delay is over.
    pub fn is_aged(&self) -> bool {
        self.attempt > 0 && self.accepted_at > 0
    }

    pub fn count(queue: QueueId, seq: Seq, attempt: u32) -> Self {
        Self {
            queue,
            seq,
            due_at: Self::COUNT_ONLY,
            attempt,
            accepted_at: 0,
            index: Vec::new(),
            data: Vec::new(),
        }
    }
}

/// Keys that one commit brought to a queue with a deduplication window: never updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeduplicationRow {
    pub queue: QueueId,
    /// When the newest key inside came, ms.
    pub newest_ms: i64,
    /// `rules::window` layout.
    pub entries: Vec<u8>,
}

/// A step in a job's life. Applied in order within the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobChange {
    /// A new job, with the claim of its idempotency key.
    Submit {
        job: Box<Job>,
        key: Option<KeyClaim>,
    },
    /// The key of a request that is no job; `KeyClaim::job` is an identity of its own.
    Claim { key: KeyClaim, at: Micros },
    /// Handed to a worker. Ignored when the job is final.
    Started { id: JobId, attempt: u32, at: Micros },
    /// Failed and will be tried again. Ignored when the job is final.
    Retrying {
        id: JobId,
        next_attempt_at: Micros,
        error: JobError,
    },
    /// Reached its final state. Ignored when the job is final already (I6: written once);
    /// `Committed::refused` then names it.
    Finish {
        id: JobId,
        state: JobState,
        at: Micros,
        error: Option<JobError>,
        result: Option<JobResult>,
    },
}

/// Everything since the last commit.
#[derive(Clone, Default, PartialEq)]
pub struct Batch {
    /// Rises by one per commit of this process; for logs and tests.
    pub number: u64,
    pub definitions: Vec<DefinitionChange>,
    pub segments: Vec<SegmentRow>,
    pub settled: Vec<SettledRow>,
    /// Segments whose messages are all settled (or merged elsewhere); their settled rows go too.
    pub dropped_segments: Vec<SegmentId>,
    pub retained: Vec<RetainedRow>,
    /// Applied before `dropped_waiting`; what has no waiting row is left out.
    pub kept_waiting: Vec<KeptRow>,
    /// Retained segments to forget, after `retained`; missing ones are no error.
    pub dropped_retained: Vec<SegmentId>,
    /// Segments to copy aside for whoever repairs; missing ones are no error, nor is a second time.
    pub damaged: Vec<SegmentId>,
    pub heads: Vec<HeadRow>,
    pub waiting: Vec<WaitingRow>,
    pub dropped_waiting: Vec<(QueueId, Seq)>,
    pub jobs: Vec<JobChange>,
    pub schedules: Vec<ScheduleRow>,
    pub dropped_schedules: Vec<String>,
    pub fires: Vec<FireRow>,
    pub redrives: Vec<RedriveRow>,
    /// Forgotten; missing ones are no error.
    pub dropped_redrives: Vec<Arc<str>>,
    /// Applied after `dropped_deduplication`.
    pub deduplication: Vec<DeduplicationRow>,
    /// A queue's rows go whose newest key came at this time, ms, or before.
    pub dropped_deduplication: Vec<(QueueId, i64)>,
}

impl Batch {
    /// True when a commit would write nothing.
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
            && self.segments.is_empty()
            && self.settled.is_empty()
            && self.dropped_segments.is_empty()
            && self.retained.is_empty()
            && self.kept_waiting.is_empty()
            && self.dropped_retained.is_empty()
            && self.damaged.is_empty()
            && self.heads.is_empty()
            && self.waiting.is_empty()
            && self.dropped_waiting.is_empty()
            && self.jobs.is_empty()
            && self.schedules.is_empty()
            && self.dropped_schedules.is_empty()
            && self.fires.is_empty()
            && self.redrives.is_empty()
            && self.dropped_redrives.is_empty()
            && self.deduplication.is_empty()
            && self.dropped_deduplication.is_empty()
    }
}

/// What a commit answered besides "on disk".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Jobs whose `Finish` came too late: they were final already.
    pub refused: Vec<JobId>,
}
