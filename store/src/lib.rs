//! The store: what is accepted is kept, held by one, and settled once.
//!
//! Keeps: the promises I1 (one place per message), I2 (confirmed means on disk), I3 (redelivered
//! messages say so), I4 (order), I5 (bounded failures), I6 (one final state per job), I7 (one
//! firing per nominal time).
//! Never: a socket, a protocol state, a time zone.
//! In: `scheduler` fires, `gateway` publishes, consumes, declares and submits.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amqp::content::{Address, Block};
use amqp::field::Table;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

pub mod access;
pub mod administration;
pub mod alarms;
pub mod clock;
pub mod definitions;
pub mod error;
pub mod log;
pub mod model;
pub mod operator;
pub mod page;
pub mod password;
mod planted;
pub mod policy;
pub mod queue;
pub mod receive;
pub mod replay;
pub mod rules;
pub mod shard;
pub mod signals;
pub mod sql;
pub mod topology;
pub mod upkeep;

use error::Noun;
pub use error::{Error, Result};
use log::batch::{JobChange, WaitingRow};
use model::*;
use queue::{Log, Marks, Piece, ReadBack, Stored};
use shard::merge::Merge;
use shard::time::NextTick;
use shard::{Run, Shard};
pub use signals::QueueStats;
use topology::Exchange;
use topology::arguments::Retention;

/// Bodies kept in memory beyond what is needed at once, bytes.
const MEMORY_BUDGET: u64 = 64 << 20;
/// RabbitMQ's `consumer_timeout` since 3.8.17: half an hour, ms.
pub const CONSUMER_TIMEOUT_MS: u64 = 1_800_000;
/// After a database refused to read: it is asked again, but not at once.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// Waiting rows read at a time: some megabytes.
const ROWS_TOGETHER: usize = 256;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Message bodies kept in memory, bytes; those beyond live on disk only.
    pub memory_budget: u64,
    /// The work rules hold for every queue (`work_rules = "all"`).
    pub work_rules_all: bool,
    /// Until an unacked delivery of a quorum queue closes its channel, ms; `None`: never. Any queue
    /// and any consumer may have their own.
    pub consumer_timeout_ms: Option<u64>,
    /// First user: name and password, made when there is no user at all; none where definitions
    /// bring the users.
    pub default_user: Option<(String, String)>,
    pub default_vhost: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_budget: MEMORY_BUDGET,
            work_rules_all: false,
            consumer_timeout_ms: Some(CONSUMER_TIMEOUT_MS),
            default_user: Some(("guest".into(), "guest".into())),
            default_vhost: "/".into(),
        }
    }
}

/// A tick to fire: one message and one line of the ledger.
#[derive(Clone)]
pub struct Fire {
    pub schedule: String,
    pub spec_hash: u64,
    pub nominal_at: Micros,
    pub vhost: String,
    pub exchange: String,
    pub routing_key: String,
    /// Raw AMQP properties.
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

/// A look at everything, for metrics.
#[derive(Clone, Debug)]
pub struct Stats {
    pub queues: Vec<QueueStats>,
    pub connections: u64,
    pub channels: u64,
    pub counters: shard::Counters,
    pub resident_bytes: u64,
    /// Connections that wait for room in a full queue.
    pub publishers_stopped: u64,
    pub alarms: alarms::Alarms,
}

/// A cheap handle on the one store of this process.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

pub(crate) struct StoreInner {
    shard: Mutex<Shard>,
    pub(crate) backend: Arc<dyn sql::Backend>,
    pub(crate) writer: Arc<Notify>,
    loader: Arc<Notify>,
    pub(crate) drained: Notify,
    stopping: AtomicBool,
    /// What runs as long as the store is open.
    tasks: Mutex<Vec<AbortHandle>>,
    keys: Mutex<HashSet<String>>,
    access_version: Arc<AtomicU64>,
}

impl StoreInner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Shard> {
        // A panic under the lock may have broken an invariant: crash before corrupt.
        self.shard.lock().unwrap_or_else(|_| {
            tracing::error!("a panic left the queues in an unknown state, stopping");
            std::process::exit(70)
        })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Resolves when somebody waits for a commit, or for room in memory.
    pub(crate) async fn urgent(&self) {
        while !self.lock().is_urgent() {
            self.writer.notified().await;
        }
    }
}

/// Held while a request with an idempotency key is being accepted.
pub struct KeyGuard {
    store: Arc<StoreInner>,
    scope: String,
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        if let Ok(mut keys) = self.store.keys.lock() {
            keys.remove(&self.scope);
        }
    }
}

impl Store {
    /// Recovers and starts serving.
    ///
    /// # Errors
    /// `Io` when the database cannot be read, `Corrupt` when its contents contradict each other.
    pub async fn open(backend: Arc<dyn sql::Backend>, options: Options) -> Result<Self> {
        let image = backend.load().await.map_err(|e| Error::Io(e.to_string()))?;
        if upkeep::copy::is_incomplete(&image) {
            return Err(Error::Refused {
                noun: Noun::Store,
                name: String::new(),
                detail: upkeep::copy::INCOMPLETE.into(),
            });
        }
        let (writer, loader) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut shard = Shard::new(options, writer.clone(), loader.clone());
        recover(&mut shard, image, backend.as_ref()).await?;
        let access_version = shard.directory.version();
        let inner = Arc::new(StoreInner {
            access_version,
            shard: Mutex::new(shard),
            backend,
            writer,
            loader,
            drained: Notify::new(),
            stopping: AtomicBool::new(false),
            tasks: Mutex::default(),
            keys: Mutex::new(HashSet::new()),
        });
        let receivers = Arc::new(Notify::new());
        inner.lock().open_receivers(receivers.clone());
        let tasks = [
            tokio::spawn(log::writer::run(inner.clone())),
            tokio::spawn(load(inner.clone())),
            tokio::spawn(tick(inner.clone())),
            tokio::spawn(receive::run(inner.clone(), receivers)),
        ];
        let tasks = tasks.iter().map(JoinHandle::abort_handle).collect();
        *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        let store = Self(inner);
        store.on_disk().await?;
        store.resume_redrives();
        Ok(store)
    }

    /// The queues. Held for one batch of work, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock()
    }

    /// Returns when everything done so far is on disk.
    pub async fn on_disk(&self) -> Result<()> {
        let told = self.lock().on_disk();
        told.await.map_err(|_| Error::Stopped)
    }

    pub fn backend(&self) -> &Arc<dyn sql::Backend> {
        &self.0.backend
    }

    pub fn now(&self) -> Micros {
        clock::now()
    }

    pub fn new_job_id(&self) -> JobId {
        JobId(clock::new_id())
    }

    /// Accepts a call: job, key and message in one commit; returns when it is on disk.
    ///
    /// # Errors
    /// `NotFound` when the queue does not exist, `Busy` when it has no room.
    pub async fn submit_call(
        &self,
        job: Job,
        key: Option<KeyClaim>,
        queue: &str,
        properties: Vec<u8>,
        body: Vec<u8>,
    ) -> Result<()> {
        let mut block = Block::default();
        block.push(&Address::new(b"", queue.as_bytes()), &properties, &body);
        let block = Arc::new(block);
        let told = {
            let mut shard = self.lock();
            let vhost = job.vhost.clone();
            let id = shard.queue(0, &vhost, queue)?;
            if !shard.has_room(id, 1, body.len() as u64) {
                return Err(Error::Busy {
                    noun: Noun::Queue,
                    name: queue.to_owned(),
                    detail: format!("queue '{queue}' in vhost '{vhost}' has no room"),
                });
            }
            shard.make_work_queue(id);
            shard.pending.jobs.push(JobChange::Submit {
                job: Box::new(job),
                key,
            });
            shard.counters.jobs_submitted += 1;
            shard.publish(&Run::alone(&vhost, &block))?;
            shard.on_disk()
        };
        told.await.map_err(|_| Error::Stopped)
    }

    /// `None`: a request with this scope is being accepted right now.
    pub fn claim_key(&self, scope: &str) -> Option<KeyGuard> {
        let mut keys = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(scope.to_owned()).then(|| KeyGuard {
            store: self.0.clone(),
            scope: scope.to_owned(),
        })
    }

    /// Returns when the job became final, or after `limit`.
    pub async fn wait_job(&self, id: JobId, limit: Duration) {
        let (tell, told) = oneshot::channel();
        self.lock().job_waiters.entry(id).or_default().push(tell);
        // It may have become final before the waiter was there.
        if let Ok(Some(job)) = self.0.backend.job(id).await
            && job.state.is_final()
        {
            return;
        }
        let _ = tokio::time::timeout(limit, told).await;
        let mut shard = self.lock();
        if let Some(waiters) = shard.job_waiters.get_mut(&id) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                shard.job_waiters.remove(&id);
            }
        }
    }

    /// Ends a job; false when it had ended before.
    pub async fn finish_job(
        &self,
        id: JobId,
        state: JobState,
        error: Option<JobError>,
        result: Option<JobResult>,
    ) -> Result<bool> {
        let known = self
            .0
            .backend
            .job(id)
            .await
            .map_err(|e| Error::Io(e.to_string()))?;
        if known.is_none_or(|job| job.state.is_final()) {
            return Ok(false);
        }
        let at = clock::now();
        let told = {
            let mut shard = self.lock();
            shard.pending.jobs.push(JobChange::Finish {
                id,
                state,
                at,
                error,
                result,
            });
            shard.on_disk()
        };
        told.await.map_err(|_| Error::Stopped)?;
        Ok(true)
    }

    /// True when the password is the user's; `guest` comes from loopback only, as in RabbitMQ.
    pub fn check_password(&self, user: &str, password: &str, peer_is_loopback: bool) -> bool {
        let known = self.lock().directory.users.get(user).cloned();
        let right = password::verify(known.as_ref(), password);
        right && (user != "guest" || peer_is_loopback)
    }

    /// Changes whenever anybody's rights may have changed; asked without a lock.
    pub fn access_version(&self) -> u64 {
        self.0.access_version.load(Ordering::Acquire)
    }

    /// The user's rights in the vhost as they are now.
    pub fn rights(&self, user: &str, vhost: &str) -> Arc<access::Rights> {
        self.lock().directory.rights(user, vhost)
    }

    /// True when there is such a user, whose identity was shown without a password; `guest` again
    /// comes from loopback only.
    pub fn check_user(&self, user: &str, peer_is_loopback: bool) -> bool {
        let known = self.lock().directory.users.contains_key(user);
        known && (user != "guest" || peer_is_loopback)
    }

    pub fn has_queue(&self, vhost: &str, queue: &str) -> bool {
        self.lock().has_queue(vhost, queue)
    }

    /// A durable work queue that is there afterwards.
    pub async fn declare_work_queue(&self, vhost: &str, queue: &str) -> Result<()> {
        self.lock().ensure_queue(&vhost.into(), queue, true);
        self.on_disk().await
    }

    pub fn schedule_rows(&self) -> Vec<ScheduleRow> {
        self.lock().schedules.values().cloned().collect()
    }

    /// Ledger lines and messages in one commit; a nominal time at or before the newest is left out.
    pub async fn fire(&self, fires: Vec<Fire>) -> Result<()> {
        let mut held = Vec::new();
        let told = {
            let mut shard = self.lock();
            let fired_at = clock::now();
            for fire in fires {
                let known = shard.schedules.get(&fire.schedule);
                if known.is_some_and(|row| {
                    row.spec_hash == fire.spec_hash && row.last_nominal_at >= fire.nominal_at
                }) {
                    continue;
                }
                let mut block = Block::default();
                let address = Address::new(fire.exchange.as_bytes(), fire.routing_key.as_bytes());
                block.push(&address, &fire.properties, &fire.body);
                let vhost: Arc<str> = fire.vhost.as_str().into();
                match shard.hold(&vhost, &Arc::new(block)) {
                    Some(more) => held.extend(more),
                    None => tracing::warn!(
                        schedule = fire.schedule,
                        exchange = fire.exchange,
                        "the exchange is gone: this tick reaches nobody"
                    ),
                }
                let row = ScheduleRow {
                    name: fire.schedule.clone(),
                    spec_hash: fire.spec_hash,
                    last_nominal_at: fire.nominal_at,
                };
                shard.pending.fires.push(FireRow {
                    schedule: fire.schedule,
                    nominal_at: fire.nominal_at,
                    fired_at,
                });
                shard.put_schedule(row);
            }
            shard.on_disk()
        };
        told.await.map_err(|_| Error::Stopped)?;
        self.lock().release_held(held);
        Ok(())
    }

    pub async fn put_schedule(&self, row: ScheduleRow) -> Result<()> {
        let told = {
            let mut shard = self.lock();
            shard.put_schedule(row);
            shard.on_disk()
        };
        told.await.map_err(|_| Error::Stopped)
    }

    pub fn stats(&self) -> Stats {
        let mut shard = self.lock();
        let queues = shard.queue_stats();
        Stats {
            queues,
            connections: shard.connection_count(),
            channels: shard
                .sessions
                .values()
                .map(|s| s.channels.len() as u64)
                .sum(),
            counters: shard.counters.clone(),
            resident_bytes: shard.queues.values().map(|queue| queue.log.resident).sum(),
            publishers_stopped: shard.publishers_stopped(),
            alarms: shard.alarms(),
        }
    }

    /// What is due now and then: settled messages that were kept long enough go, and depths are
    /// sampled. Called about once a second.
    pub fn end_retention(&self) {
        let mut shard = self.lock();
        shard.end_retention();
        shard.sample(clock::now());
    }

    /// Publishers must wait, or may go on as far as this cause goes.
    pub fn set_alarm(&self, cause: alarms::Cause, holds: bool) {
        let mut shard = self.lock();
        if cause == alarms::Cause::Memory {
            shard.set_pressed(holds);
        }
        shard.set_alarm(cause, holds);
    }

    /// Copies what is published and delivered in a vhost to `amq.rabbitmq.trace`, until a restart.
    ///
    /// # Errors
    /// `NotFound` when there is no such vhost.
    pub fn set_tracing(&self, vhost: &str, traced: bool) -> Result<()> {
        self.lock().set_tracing(vhost, traced)
    }

    /// Whether a vhost is traced.
    ///
    /// # Errors
    /// `NotFound` when there is no such vhost.
    pub fn is_traced(&self, vhost: &str) -> Result<bool> {
        self.lock().traces(vhost)
    }

    /// Drains: one last commit with exact heads, then the database is closed. Sessions are closed
    /// before.
    pub async fn stop(&self) {
        self.lock().settle_marks();
        self.0.stopping.store(true, Ordering::Release);
        tokio::select! {
            _ = self.on_disk() => {}
            // What is not on disk by now never will be: another node owns the store.
            _ = self.0.backend.lost() => {}
        }
        self.0.backend.close().await;
        let tasks = self.0.tasks.lock();
        for task in tasks.unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        // A request may come after its session, or hold the store for longer.
        self.lock().close();
    }
}

impl Shard {
    fn put_schedule(&mut self, row: ScheduleRow) {
        self.pending
            .schedules
            .retain(|known| known.name != row.name);
        self.pending.schedules.push(row.clone());
        self.schedules.insert(row.name.clone(), row);
    }
}

async fn recover(
    shard: &mut Shard,
    mut image: sql::Image,
    backend: &dyn sql::Backend,
) -> Result<()> {
    (shard.last_queue, shard.last_segment) = (image.last_queue_id, image.last_segment_id);
    for vhost in &image.vhosts {
        shard.add_vhost(&vhost.name);
    }
    shard.recover_access(&mut image);
    let exchanges = image.exchanges.iter();
    let alternates: Vec<_> = exchanges
        .map(|spec| shard.effective_alternate(spec))
        .collect();
    let mut alternates = alternates.into_iter();
    for spec in image.exchanges {
        let (name, alternate) = (spec.name.clone(), alternates.next().flatten());
        let Some(names) = shard.vhosts.get_mut(&spec.vhost) else {
            continue;
        };
        match Exchange::new(spec) {
            Ok(mut exchange) => {
                exchange.alternate = alternate;
                names.exchanges.insert(name, exchange);
            }
            Err(error) => tracing::error!(exchange = &*name, error, "the exchange is left out"),
        }
    }
    let heads: HashMap<QueueId, _> = image
        .heads
        .into_iter()
        .map(|head| (head.queue, head))
        .collect();
    let bits: HashMap<SegmentId, Vec<u8>> = image.settled.into_iter().collect();
    let mut segments: HashMap<QueueId, Vec<sql::SegmentHeader>> = HashMap::new();
    for segment in image.segments {
        segments.entry(segment.queue).or_default().push(segment);
    }
    let rows = image.retained.iter();
    let retained: HashMap<SegmentId, Micros> =
        rows.map(|row| (row.segment, row.settled_at)).collect();
    for spec in image.queues {
        let id = spec.id;
        let declared = Table::parse(&spec.arguments).unwrap_or_default();
        let arguments = shard.effective_arguments(&spec, &declared);
        let marks = heads.get(&id).map_or_else(Marks::default, |row| Marks {
            head: row.head,
            handed: row.handed,
            next: row.next,
        });
        let all = segments.remove(&id).unwrap_or_default();
        let (kept, headers): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|header| retained.contains_key(&header.id));
        let stored = headers.iter().map(|header| Stored {
            id: header.id,
            first: header.first_seq,
            last: header.last_seq,
            count: header.count,
            bytes: header.bytes,
            at: header.first_at,
            last_at: header.last_at,
            settled: bits.get(&header.id).map(Vec::as_slice),
        });
        let (mut log, partial) = Log::restore(stored, marks, arguments.max_priority);
        // What is on disk stays there until the queue says that it keeps nothing.
        let known = (!kept.is_empty()).then(Retention::default);
        log.retain(arguments.retention.filter(|_| spec.durable).or(known));
        for header in kept {
            let settled_at = retained.get(&header.id).copied().unwrap_or_default();
            log.restore_retained(header.retained(settled_at));
        }
        for (segment, first, first_at) in partial {
            let found = read(backend, segment, first, first_at).await;
            if let ReadBack::Damaged(_) = found {
                shard.pending.damaged.push(segment);
            }
            log.recount(segment, found);
        }
        shard.insert_queue(spec, arguments, log);
        shard.mark(id);
    }
    let mut blocking: HashMap<QueueId, Vec<Seq>> = HashMap::new();
    for rows in image.waiting.chunk_by(|a, b| a.queue == b.queue) {
        let id = rows[0].queue;
        let Some(queue) = shard.queues.get_mut(&id) else {
            continue;
        };
        let partition = queue.arguments.partition.as_ref();
        let keeps_order = partition.is_some_and(|partition| !partition.skip);
        let mut waiting = Vec::with_capacity(rows.len());
        for row in rows {
            if row.due_at == WaitingRow::COUNT_ONLY {
                queue.log.recall_count(row.seq, row.attempt);
                continue;
            }
            waiting.push((row.seq, row.due_at));
            if row.attempt > 0 {
                queue.log.attempts.insert(row.seq, row.attempt);
            }
            // One whose time has come may have been out, and others of its key wait for it.
            if keeps_order && (row.attempt > 0 || row.due_at <= clock::now()) {
                blocking.entry(id).or_default().push(row.seq);
            }
        }
        queue.log.waiting.restore(&waiting);
    }
    drop(image.waiting);
    for (queue, seqs) in blocking {
        block_keys(shard, backend, queue, &seqs).await?;
    }
    for spec in image.bindings {
        if let Some(names) = shard.vhosts.get_mut(&spec.vhost) {
            names.bind(spec);
        }
    }
    shard.schedules = image
        .schedules
        .into_iter()
        .map(|row| (row.name.clone(), row))
        .collect();
    shard.keep_keys();
    shard.restore_keys(image.deduplication);
    let redrives = image.redrives.into_iter();
    shard.redrives = redrives.map(|row| (row.id.clone(), row)).collect();
    shard.first_start();
    Ok(())
}

/// Messages in backoff hold their keys, which only their rows know.
async fn block_keys(
    shard: &mut Shard,
    backend: &dyn sql::Backend,
    id: QueueId,
    seqs: &[Seq],
) -> Result<()> {
    for seqs in seqs.chunks(ROWS_TOGETHER) {
        let rows = backend.read_waiting(id, seqs.to_vec()).await;
        for row in rows.map_err(|e| Error::Io(e.to_string()))? {
            let (aged, data) = (row.is_aged(), row.data);
            let decoded = log::segment::decode(&row.index, data, row.seq, row.due_at);
            let piece = decoded.and_then(|decoded| decoded.pieces.into_iter().next());
            if let (Some(piece), Some(queue)) = (piece, shard.queues.get_mut(&id)) {
                if aged {
                    queue.log.since.insert(row.seq, row.accepted_at);
                }
                queue.log.parked_by_key(row.seq, &piece);
            }
        }
    }
    Ok(())
}

async fn read(backend: &dyn sql::Backend, id: SegmentId, first: Seq, at: Micros) -> ReadBack {
    match backend.read_segment(id).await {
        Ok(Some(body)) => match log::segment::decode(&body.index, body.data, first, at) {
            Some(decoded) if decoded.damaged.is_empty() => ReadBack::Sound(decoded.pieces),
            Some(decoded) => ReadBack::Damaged(decoded.pieces),
            None => ReadBack::Damaged(Vec::new()),
        },
        Ok(None) => ReadBack::Damaged(Vec::new()),
        Err(error) => {
            tracing::error!(segment = id.0, %error, "the segment cannot be read");
            ReadBack::Unreadable
        }
    }
}

/// The messages of several segments in one block. A row that is gone was settled meanwhile.
async fn read_together(backend: &dyn sql::Backend, merge: &Merge) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    for &(id, first, at) in &merge.rows {
        let Some(body) = backend.read_segment(id).await.ok()? else {
            continue;
        };
        let decoded = log::segment::decode(&body.index, body.data, first, at)?;
        if !decoded.damaged.is_empty() {
            return None;
        }
        pieces.extend(decoded.pieces);
    }
    queue::merge::join(&pieces)
}

/// Reads bodies back, off the queues' path.
async fn load(store: Arc<StoreInner>) {
    loop {
        store.loader.notified().await;
        loop {
            let (loads, dues) = {
                let mut shard = store.lock();
                (
                    std::mem::take(&mut shard.loads),
                    std::mem::take(&mut shard.due_reads),
                )
            };
            if loads.is_empty() && dues.is_empty() {
                // Merging has time: whoever waits for a message goes first.
                let Some(merge) = store.lock().merge.take() else {
                    break;
                };
                let joined = read_together(store.backend.as_ref(), &merge).await;
                store.lock().merged(&merge, joined);
            }
            for (queue, segment) in loads {
                let place = store
                    .lock()
                    .queues
                    .get(&queue)
                    .and_then(|q| q.log.place_of(segment));
                let Some((first, at)) = place else {
                    store.lock().not_loaded(queue);
                    continue;
                };
                let found = read(store.backend.as_ref(), segment, first, at).await;
                store.lock().loaded(queue, segment, found);
            }
            for (queue, seqs) in dues {
                for seqs in seqs.chunks(ROWS_TOGETHER) {
                    read_back(&store, queue, seqs).await;
                }
            }
        }
    }
}

/// Contents of waiting messages; those that were not read are asked for again.
async fn read_back(store: &StoreInner, queue: QueueId, seqs: &[Seq]) {
    let mut rows = Vec::new();
    let may = store.lock().may_read_back(queue, seqs);
    if !may.is_empty() {
        match store.backend.read_waiting(queue, may).await {
            Ok(found) => rows = found,
            Err(error) => {
                tracing::error!(%error, "waiting messages cannot be read");
                tokio::time::sleep(READ_AGAIN).await;
            }
        }
    }
    let mut shard = store.lock();
    rows.iter().for_each(|row| shard.woken(row));
    shard.not_there_yet(queue, seqs);
}

async fn tick(store: Arc<StoreInner>) {
    let timer = store.lock().timer.clone();
    while !store.is_stopping() {
        let next = store.lock().next_tick();
        match next {
            NextTick::Within(span) => tokio::time::sleep(span).await,
            NextTick::At(at) => {
                let span = u64::try_from(at - clock::now()).unwrap_or(0);
                let _ = tokio::time::timeout(Duration::from_micros(span), timer.notified()).await;
            }
            NextTick::Never => timer.notified().await,
        }
        store.lock().tick();
    }
}
