//! The nouns of the store: ids, places, rows. Pure.
//!
//! Keeps: one word for one thing (house rule: AMQP's word wins).
//! Never: behaviour; seen by every room of the crate and sees none of them.

use std::fmt;
use std::sync::Arc;

/// Microseconds since the Unix epoch, UTC. The only form in which an instant is stored.
pub type Micros = i64;

/// Position of a message in its queue: dense, rising, assigned by the queue's owner.
pub type Seq = u64;

/// A queue's number in the store; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// A segment row's number in the store; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

/// A deferred call's identity: a UUIDv7, so that ids sort by time of submission.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub [u8; 16]);

impl JobId {
    /// Parses the canonical hyphenated form.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::parse_str(text)
            .ok()
            .map(|id| Self(id.into_bytes()))
    }
}

impl JobId {
    /// When it was made, to the millisecond: the first 48 bits of a UUIDv7 (RFC 9562 §5.7).
    pub fn created_at(self) -> Micros {
        let ms = self.0[..6]
            .iter()
            .fold(0, |ms, &byte| ms << 8 | i64::from(byte));
        ms * 1000
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A vhost as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VhostSpec {
    pub name: Arc<str>,
    /// For people.
    pub description: String,
    /// Comma-separated, for people.
    pub tags: String,
    /// `x-queue-type` of queues that are declared without; empty for `classic`.
    pub default_queue_type: String,
}

/// A user with the hash RabbitMQ would store: base64(salt4 ++ H(salt4 ++ password)).
#[derive(Clone, PartialEq, Eq)]
pub struct UserSpec {
    pub name: Arc<str>,
    /// Empty: the user cannot log in with a password.
    pub password_hash: String,
    /// `rabbit_password_hashing_sha256`, `…_sha512` or `…_md5`.
    pub hashing: String,
    /// Comma-separated, e.g. `administrator`.
    pub tags: String,
}

impl fmt::Debug for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserSpec({})", self.name)
    }
}

/// What a user may do in a vhost: three regular expressions, as in RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionSpec {
    pub vhost: Arc<str>,
    pub user: Arc<str>,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// What a user may do with routing keys of a topic exchange, on top of `PermissionSpec`; without
/// one for the exchange every key is allowed, as in RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPermissionSpec {
    pub vhost: Arc<str>,
    pub user: Arc<str>,
    pub exchange: Arc<str>,
    /// Of keys to publish with; `{username}` and `{vhost}` are replaced.
    pub write: String,
    /// Of keys to bind with.
    pub read: String,
}

/// Who made a policy: users see and change theirs, operators set bounds over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    User,
    Operator,
}

impl PolicyKind {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
        }
    }
}

/// Which objects a policy may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyTo {
    All,
    Exchanges,
    Queues,
    ClassicQueues,
    QuorumQueues,
    Streams,
}

impl ApplyTo {
    pub const ALL: [Self; 6] = [
        Self::All,
        Self::Exchanges,
        Self::Queues,
        Self::ClassicQueues,
        Self::QuorumQueues,
        Self::Streams,
    ];

    /// RabbitMQ's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exchanges => "exchanges",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.as_str() == text)
    }
}

/// A rule that gives arguments to the queues and exchanges whose names match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    pub kind: PolicyKind,
    pub vhost: Arc<str>,
    pub name: Arc<str>,
    pub pattern: String,
    pub apply_to: ApplyTo,
    /// The highest that matches wins.
    pub priority: i32,
    /// Key and value, e.g. `max-length`: an AMQP field table in wire form, without its length.
    pub definition: Vec<u8>,
}

/// A runtime parameter, kept for tools. A global one has neither vhost nor component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    pub vhost: Arc<str>,
    pub component: Arc<str>,
    pub name: Arc<str>,
    /// A JSON document.
    pub value: String,
}

/// Whom a limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitOf {
    Vhost,
    User,
}

impl LimitOf {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vhost => "vhost",
            Self::User => "user",
        }
    }
}

/// What is counted: connections of either, queues of a vhost, channels of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitName {
    MaxChannels,
    MaxConnections,
    MaxQueues,
}

impl LimitName {
    const ALL: [Self; 3] = [Self::MaxChannels, Self::MaxConnections, Self::MaxQueues];

    /// RabbitMQ's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxChannels => "max-channels",
            Self::MaxConnections => "max-connections",
            Self::MaxQueues => "max-queues",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

/// A limit; a negative value is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    pub of: LimitOf,
    /// The vhost or the user.
    pub subject: Arc<str>,
    pub name: LimitName,
    pub value: i64,
}

/// A durable exchange as stored. `arguments` is an AMQP field table in wire
/// form, without its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeSpec {
    pub vhost: Arc<str>,
    pub name: Arc<str>,
    /// The exchange type, e.g. `direct`.
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Vec<u8>,
}

/// A durable queue as stored. `arguments` is an AMQP field table in wire
/// form, without its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    pub id: QueueId,
    pub vhost: Arc<str>,
    pub name: Arc<str>,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    /// True when the work rules (retry, backoff, lease, dead-letter queue) apply.
    pub work: bool,
    pub arguments: Vec<u8>,
    /// Nothing is handed out until an operator resumes it.
    pub paused: bool,
}

/// Where a binding leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DestinationKind {
    Queue,
    Exchange,
}

impl DestinationKind {
    /// The word in the store and in RabbitMQ's definitions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        }
    }
}

/// A durable binding; all fields together are its identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BindingSpec {
    pub vhost: Arc<str>,
    pub source: Arc<str>,
    pub destination_kind: DestinationKind,
    pub destination: Arc<str>,
    pub routing_key: Vec<u8>,
    pub arguments: Vec<u8>,
}

/// A deferred call's life, as a word in the store and on the wire.
///
/// ```text
/// queued ──► running ⇄ retrying ──► succeeded | failed | cancelled | expired
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    Queued,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
    Expired,
}

impl JobState {
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True once the job can change no more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired
        )
    }
}

/// A deferred call as stored, without its result body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub vhost: Arc<str>,
    /// As in the URL, e.g. `queue/fib`.
    pub target: String,
    /// The user that submitted it.
    pub principal: String,
    pub state: JobState,
    /// 1 for the first delivery; 0 while never delivered.
    pub attempt: u32,
    pub max_attempts: u32,
    pub created_at: Micros,
    pub started_at: Option<Micros>,
    pub completed_at: Option<Micros>,
    pub next_attempt_at: Option<Micros>,
    pub deadline_at: Micros,
    /// When the result is forgotten (set with a final state).
    pub expires_at: Option<Micros>,
    /// How long the result is kept after completion, ms.
    pub result_ttl_ms: i64,
    pub idempotency_key: Option<String>,
    pub error: Option<JobError>,
    /// Size and type of the result, when there is one.
    pub result: Option<ResultMeta>,
}

/// Why a job failed, as the parts of a problem document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// Last segment of the problem type, e.g. `worker-error`, `no-reply`, `deadline-exceeded`.
    pub code: String,
    pub detail: String,
}

/// How far a worker is with a job, as it said last. Of this attempt only, and not kept on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// 0 to 100; `None` when it gave no number.
    pub percent: Option<f64>,
    pub message: Option<String>,
    pub updated_at: Micros,
}

/// What is known of a result without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultMeta {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub bytes: u64,
}

/// A worker's reply, verbatim.
#[derive(Clone, PartialEq, Eq)]
pub struct JobResult {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub body: Vec<u8>,
}

impl fmt::Debug for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobResult({} bytes)", self.body.len())
    }
}

/// An idempotency key's claim on a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClaim {
    /// principal, vhost, target and key joined by NUL: unique together.
    pub scope: String,
    pub job: JobId,
    /// SHA-256 of method, target, content type and body.
    pub fingerprint: [u8; 32],
    pub expires_at: Micros,
}

/// A schedule's place in time; its definition lives in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRow {
    pub name: String,
    /// Hash of expression, zone, target and body: when it changes the ledger restarts at now.
    pub spec_hash: u64,
    /// Nominal time of the newest tick, or the time the schedule was first seen.
    pub last_nominal_at: Micros,
}

/// One line of the fire ledger; (schedule, nominal time) is unique (I7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FireRow {
    pub schedule: String,
    pub nominal_at: Micros,
    pub fired_at: Micros,
}

/// How far a redrive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedriveState {
    Running,
    Done,
    Cancelled,
    /// Its source or its target is gone; what was not moved stays where it is.
    Failed,
}

impl RedriveState {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Cancelled, Self::Failed];

    /// The word in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Which messages of its source an order means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RedriveKind {
    /// Those that are ready: they move.
    #[default]
    Ready,
    /// Those that were settled and are kept: they are published again. A replay.
    Retained,
}

impl RedriveKind {
    const ALL: [Self; 2] = [Self::Ready, Self::Retained];

    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Retained => "retained",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A move of messages out of a queue, or a replay of settled ones, as far as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct RedriveRow {
    pub id: Arc<str>,
    pub kind: RedriveKind,
    pub queue: QueueId,
    pub vhost: Arc<str>,
    /// The queue's name.
    pub source: Arc<str>,
    /// Where to; `None`: each message to the queue in which it died.
    pub target: Option<Arc<str>>,
    /// `rules::filter::Filter`, encoded.
    pub filter: Vec<u8>,
    /// Messages a second, at most.
    pub rate: Option<f64>,
    /// Messages from here on came after it began, and are left alone.
    pub until: Seq,
    /// Messages below were looked at.
    pub next: Seq,
    pub moved: u64,
    /// Meant, but with nowhere to go.
    pub skipped: u64,
    pub state: RedriveState,
    /// Why it failed.
    pub detail: String,
    pub created_at: Micros,
    pub ended_at: Option<Micros>,
}
