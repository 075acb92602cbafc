//! The shared engine: one PostgreSQL, owned by one node at a time, with others standing by.
//!
//! Keeps: what `commit(sync)` answered is in the server's log on its disk, and on its synchronous
//! standbys where it has some. Every transaction that writes asks first whether this node still
//! owns the store. Nothing that is written per message is ever updated or deleted row by row, so
//! that a long transaction beside it does no harm.
//! Never: decides anything about messages or jobs; serves reads from a standby.
//! In: `Store` calls it as a `Backend`; the node waits in `open` and listens to `lost`.
//!
//! ```text
//! commit, retire, sweeps ──► writer task ──► session W ──┐ load, reads
//! ─────────────────────────────► sessions R ─┼─► owner, journal_N, segment_NN, waiting_NN, … lease
//! ───────────────────► renewing task ► session L ──┘
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::owner::Taken;
use self::session::{Fault, Role, Session};
use self::slots::Slots;
use self::writer::{Due, Request, Writer};
use super::doomed::{Doomed, prune};
use super::*;

mod access;
mod apply;
#[cfg(test)]
mod engine_tests;
mod journal;
mod look;
pub(super) mod migration;
mod owner;
mod reader;
#[cfg(test)]
pub(crate) mod server;
mod session;
mod slots;
pub(super) mod statement;
mod target;
mod value;
mod writer;

pub use look::Seen;
pub use migration::SchemaError;
pub use owner::{OwnerRow, Standing};
pub use session::{Server, Unusable};
pub use target::{Target, UrlError};

/// How a store is owned.
#[derive(Clone, Debug)]
pub struct Options {
    /// An owner that was not heard of for so long is no owner any more. At least a second, so that
    /// a server's restart seldom costs it.
    pub lease: Duration,
    /// This node, for people.
    pub node: String,
    /// Whose store it is; another cluster's is refused.
    pub cluster: String,
    /// Waits while another node owns it, or while it cannot be used.
    pub wait: bool,
    /// A slot is filled up to this many bytes, or an eighth of all that is needed where that is
    /// more: so many slots are enough for a backlog of any size.
    pub slot_bytes: u64,
    /// And up to this many rows: their index entries cost as much as small contents.
    pub slot_rows: u64,
    /// A journal begins anew at this length, or at four times what a beginning takes, bytes.
    pub journal_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            node: "leveret".into(),
            cluster: "leveret".into(),
            wait: true,
            slot_bytes: 64 << 20,
            slot_rows: 200_000,
            journal_bytes: 16 << 20,
        }
    }
}

/// Why a database will not be this node's store, however long it waits.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("{to}: {source}")]
    Schema { to: String, source: SchemaError },
    #[error(
        "{to} is the store of cluster '{found}', and this node belongs to '{ours}' (cluster_name); \
         give each cluster a database or a schema of its own"
    )]
    Cluster {
        to: String,
        found: String,
        ours: String,
    },
    #[error("there is no store in {to}")]
    Missing { to: String },
    #[error(
        "{to} is of an older release (its newest migration is {found}, here it is {ours}); \
         `leveret store migrate`, or a start, brings it up to date"
    )]
    Older { to: String, found: i64, ours: i64 },
    #[error("{to} is owned by node '{owner}': it has to be asked")]
    Owned { to: String, owner: String },
    #[error("{to}: {detail}")]
    Other { to: String, detail: String },
}

/// An open store, and this process its owner. Everything else about it is behind `Backend`.
pub struct Postgres {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Request>,
    readers: [tokio::sync::Mutex<Option<Session>>; READERS],
    next_reader: AtomicU64,
    tasks: Vec<JoinHandle<()>>,
    /// What the start found, until `load` asks.
    image: Mutex<Option<Image>>,
    bytes: AtomicU64,
    /// Calls of `maintain`, so that not each of them asks for the size.
    maintained: AtomicU64,
    /// One session, whose snapshot is read, and nothing is written.
    looks: bool,
}

/// What the tasks have in common.
struct Shared {
    target: Target,
    options: Options,
    slots: Mutex<Slots>,
    lost: watch::Sender<Option<String>>,
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, why: &str) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                tracing::error!(reason = why, "this node does not own the store any more");
                *lost = Some(why.to_owned());
            }
            first
        });
    }

    fn why_lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }
}

impl Postgres {
    /// Waits until this node owns the store; creates the schema where it is missing. `standing`
    /// says what it waits for.
    ///
    /// # Errors
    /// What waiting does not help against: a schema that is not this release's, another cluster's
    /// store, a server that is too old, a role that may not create tables.
    pub async fn open(
        target: Target,
        options: Options,
        standing: &watch::Sender<Standing>,
    ) -> Result<Self, OpenError> {
        loop {
            let taken = owner::wait(&target, &options, standing).await?;
            match Self::start(target.clone(), options.clone(), taken).await {
                Ok(started) => return Ok(started),
                Err(detail) => {
                    // The lease ends by itself; whoever is first then takes it.
                    let to = target.name();
                    standing.send_replace(Standing::Unusable(format!("{to}: {detail}")));
                    tracing::error!(reason = detail, "the store could not be read, trying again");
                    tokio::time::sleep(options.lease / 2).await;
                }
            }
        }
    }

    async fn start(target: Target, options: Options, taken: Taken) -> Result<Self, String> {
        let text = |error: Unusable| error.to_string();
        let mut reading = Session::open(&target, Role::Reader).await.map_err(text)?;
        let found = reader::find(&mut reading).await.map_err(|error| error.0)?;
        let session = Session::open(&target, Role::Writer).await.map_err(text)?;
        report(&session.server);
        let (lost, _) = watch::channel(None);
        let mut slots = found.slots;
        slots.limit(options.slot_bytes, options.slot_rows);
        let shared = Arc::new(Shared {
            target: target.clone(),
            options,
            slots: Mutex::new(slots),
            lost,
        });
        let epoch = taken.epoch;
        let (writer, requests) = mpsc::channel(WRITER_INBOX);
        let task = Writer {
            shared: Arc::clone(&shared),
            epoch,
            state: found.state,
            journal: found.journal,
            journal_bytes: found.journal_bytes,
            stale_journal: found.stale_journal,
            session: Some(session),
            doomed: Doomed::default(),
            key_rows: LOOK_AT_KEYS,
            keys_merged: 0,
            held: Default::default(),
            number: 0,
            synced: 0,
        };
        let renewing = owner::renew(Arc::clone(&shared), target, taken);
        let tasks = vec![tokio::spawn(task.run(requests)), tokio::spawn(renewing)];
        Ok(Self {
            shared,
            writer,
            readers: [
                tokio::sync::Mutex::new(Some(reading)),
                tokio::sync::Mutex::default(),
            ],
            next_reader: AtomicU64::new(0),
            tasks,
            image: Mutex::new(Some(found.image)),
            bytes: AtomicU64::new(0),
            maintained: AtomicU64::new(0),
            looks: false,
        })
    }

    /// A reader's session. A connection that ended is opened again, once.
    async fn reader(&self) -> Result<ReaderSession<'_>, BackendError> {
        if self.looks {
            let place = self.readers[0].lock().await;
            return Ok(ReaderSession { place });
        }
        let at = self.next_reader.fetch_add(1, Ordering::Relaxed) as usize % READERS;
        let mut place = self.readers[at].lock().await;
        if place.as_ref().is_none_or(Session::is_closed) {
            let opened = Session::open(&self.shared.target, Role::Reader).await;
            *place = Some(opened.map_err(|error| BackendError(error.to_string()))?);
        }
        Ok(ReaderSession { place })
    }

    async fn try_to_read(&self, id: SegmentId, slot: usize) -> Result<Option<SegmentBody>, Fault> {
        let mut reader = self.reader().await.map_err(|error| Fault::Lost(error.0))?;
        let session = reader.session().map_err(|error| Fault::Lost(error.0))?;
        let found = reader::read_segment(session, id, slot).await;
        found.map_err(|error| session::judge(&error))
    }

    /// Sends a request to the writer and waits for its answer.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, BackendError>>) -> Request,
    ) -> Result<T, BackendError> {
        let (reply, answer) = oneshot::channel();
        self.writer
            .send(request(reply))
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// What it means that the writer does not answer: with a store that was lost, nothing more.
    fn gone(&self, otherwise: CommitError) -> CommitError {
        match self.shared.why_lost() {
            Some(why) => CommitError::Fenced(why),
            None => otherwise,
        }
    }

    /// Ends without a word to the server, as a process that is killed.
    #[cfg(test)]
    pub(super) fn abandon(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A session that nobody else uses for the moment.
struct ReaderSession<'a> {
    place: tokio::sync::MutexGuard<'a, Option<Session>>,
}

impl ReaderSession<'_> {
    fn session(&mut self) -> Result<&mut Session, BackendError> {
        self.place.as_mut().ok_or_else(closed)
    }
}

/// In the order that `Image` says.
fn sorted(mut image: Image) -> Image {
    let segments = &mut image.segments;
    segments.sort_unstable_by_key(|row| (row.queue, row.first_seq, row.id));
    let waiting = &mut image.waiting;
    waiting.sort_unstable_by_key(|row| (row.queue, row.seq));
    image
}

/// What a server's settings mean for the promises.
fn report(server: &Server) {
    if !server.fsync {
        tracing::error!("the server runs with fsync = off: a power cut loses confirmed messages");
    }
    match server.synchronous_standbys.as_str() {
        "" => tracing::info!(
            version = server.version,
            "what is confirmed is on the disk of this one server: no synchronous standby is set",
        ),
        names => tracing::info!(
            version = server.version,
            standbys = names,
            level = server.synchronous_commit,
            "what is confirmed is on synchronous standbys, too",
        ),
    }
}

impl Backend for Postgres {
    fn load(&self) -> Pending<'_, Result<Image, BackendError>> {
        Box::pin(async move {
            let kept = self
                .image
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let mut image = match kept {
                Some(image) => image,
                None => {
                    let mut reader = self.reader().await?;
                    reader::find(reader.session()?).await?.image
                }
            };
            let doomed = prune(&mut image);
            let image = sorted(image);
            let sent = self.writer.send(Request::Doom(doomed)).await;
            sent.map_err(|_| closed())?;
            Ok(image)
        })
    }

    fn commit(&self, batch: Arc<Batch>, sync: bool) -> Pending<'_, Result<Committed, CommitError>> {
        // What the start found is not how it is any more.
        drop(
            self.image
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let sent = self
                .writer
                .send(Request::Commit { batch, sync, reply })
                .await;
            sent.map_err(|_| self.gone(CommitError::NotDone(closed().0)))?;
            let unknown = || CommitError::Unknown("the writer is gone".into());
            answer.await.unwrap_or_else(|_| Err(self.gone(unknown())))
        })
    }

    fn committed_number(&self) -> Pending<'_, Result<u64, BackendError>> {
        Box::pin(self.ask(|reply| Request::Number { reply }))
    }

    fn image(&self) -> Pending<'_, Result<Image, BackendError>> {
        Box::pin(async move {
            if self.looks
                && let Some(image) = &*self.image.lock().unwrap_or_else(PoisonError::into_inner)
            {
                return Ok(image.clone());
            }
            let mut reader = self.reader().await?;
            Ok(sorted(reader::find(reader.session()?).await?.image))
        })
    }

    fn export(
        &self,
        after: Cursor,
        limit: u32,
    ) -> Pending<'_, Result<Vec<Exported>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::page(reader.session()?, &after, limit).await?)
        })
    }

    fn import(&self, rows: Arc<Import>) -> Pending<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let sent = self.writer.send(Request::Import { rows, reply }).await;
            sent.map_err(|_| self.gone(CommitError::NotDone(closed().0)))?;
            let unknown = || CommitError::Unknown("the writer is gone".into());
            answer.await.unwrap_or_else(|_| Err(self.gone(unknown())))
        })
    }

    fn check(&self) -> Pending<'_, Result<Vec<String>, BackendError>> {
        // The server has checks of its own (`pg_amcheck`), for its administrator.
        Box::pin(async { Ok(Vec::new()) })
    }

    fn read_segment(
        &self,
        id: SegmentId,
    ) -> Pending<'_, Result<Option<SegmentBody>, BackendError>> {
        Box::pin(async move {
            loop {
                let Some(place) = self.shared.slots().place(id) else {
                    return Ok(None);
                };
                match self.try_to_read(id, place.slot).await {
                    Ok(found) => return Ok(found),
                    // What cannot be read is set aside, and a server that is away comes back: the
                    // answer waits for it as long as this node owns the store.
                    Err(Fault::Lost(_)) if !self.looks && self.shared.why_lost().is_none() => {
                        tokio::time::sleep(READ_AGAIN).await;
                    }
                    Err(fault) => return Err(reader::failed(fault)),
                }
            }
        })
    }

    fn damaged_segments(&self) -> Pending<'_, Result<Vec<SegmentHeader>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::damaged_segments(reader.session()?).await?)
        })
    }

    fn read_waiting(
        &self,
        queue: QueueId,
        seqs: Vec<Seq>,
    ) -> Pending<'_, Result<Vec<WaitingRow>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            let slots: Vec<usize> = self.shared.slots().with_waiting().collect();
            Ok(reader::read_waiting(reader.session()?, queue, &seqs, &slots).await?)
        })
    }

    fn job(&self, id: JobId) -> Pending<'_, Result<Option<Job>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::read_job(reader.session()?, id).await?)
        })
    }

    fn job_result(&self, id: JobId) -> Pending<'_, Result<Option<JobResult>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::read_job_result(reader.session()?, id).await?)
        })
    }

    fn key_claim(
        &self,
        scope: String,
        now: Micros,
    ) -> Pending<'_, Result<Option<KeyClaim>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::key_claim(reader.session()?, &scope, now).await?)
        })
    }

    fn jobs(&self, filter: JobFilter) -> Pending<'_, Result<Vec<Job>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::list_jobs(reader.session()?, filter).await?)
        })
    }

    fn job_counts(&self) -> Pending<'_, Result<Vec<(JobState, u64)>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::job_counts(reader.session()?).await?)
        })
    }

    fn overdue_jobs(&self, now: Micros, limit: u32) -> Pending<'_, Result<Vec<Job>, BackendError>> {
        Box::pin(async move {
            let mut reader = self.reader().await?;
            Ok(reader::overdue_jobs(reader.session()?, now, limit).await?)
        })
    }

    fn retire(
        &self,
        now: Micros,
        tombstone_ms: i64,
        fires_before: Micros,
        limit: u32,
    ) -> Pending<'_, Result<Retired, BackendError>> {
        let tombstones_at = now.saturating_sub(tombstone_ms.saturating_mul(1000));
        let due = Due {
            results_at: now,
            tombstones_at,
            fires_before,
            limit,
        };
        Box::pin(self.ask(move |reply| Request::Retire { due, reply }))
    }

    fn maintain(&self) -> Pending<'_, Result<(), BackendError>> {
        Box::pin(async move {
            self.ask(|reply| Request::Maintain { reply }).await?;
            let calls = self.maintained.fetch_add(1, Ordering::Relaxed);
            if calls.is_multiple_of(SIZE_EVERY) {
                let mut reader = self.reader().await?;
                let rows = reader
                    .session()?
                    .rows(statement::DATABASE_BYTES, vec![])
                    .await?;
                let bytes = rows.first().map_or(Ok(0), |row| value::number(row, 0))?;
                self.bytes.store(bytes, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn room(&self) -> Pending<'_, Result<Option<Room>, BackendError>> {
        // The server's disk is not this node's to see; it says when it is full.
        Box::pin(async { Ok(None) })
    }

    fn disk_bytes(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), 0)
    }

    fn lost(&self) -> Pending<'_, String> {
        let mut lost = self.shared.lost.subscribe();
        Box::pin(async move {
            let found = lost.wait_for(Option::is_some).await;
            found.ok().and_then(|why| why.clone()).unwrap_or_default()
        })
    }

    fn close(&self) -> Pending<'_, ()> {
        Box::pin(async {
            let (reply, done) = oneshot::channel();
            // With a store that was lost, nothing under way matters, nor how long it takes.
            if self.shared.why_lost().is_none()
                && self.writer.send(Request::Close { reply }).await.is_ok()
            {
                let _ = done.await;
            }
            for task in &self.tasks {
                task.abort();
            }
            for place in &self.readers {
                if let Some(session) = place.lock().await.take() {
                    session.close();
                }
            }
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn closed() -> BackendError {
    BackendError("the store is closed".into())
}

const READERS: usize = 2;
/// Between two tries to read from a server that is away.
const READ_AGAIN: Duration = Duration::from_millis(100);
const WRITER_INBOX: usize = 16;
/// At the start nobody knows how many small rows of keys there are.
const LOOK_AT_KEYS: u64 = 1024;
/// Calls of `maintain`, one a second, between two looks at the size.
const SIZE_EVERY: u64 = 10;
