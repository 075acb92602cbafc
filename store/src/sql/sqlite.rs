//! The embedded engine: one SQLite database in WAL mode, one writer, two readers, one checkpointer.
//!
//! Keeps: what `commit(sync)` answered is on disk (`synchronous = full`, read back at the start);
//! one process per database; statements run in this engine's own tasks, so a caller that goes away
//! cancels nothing; the log stays short without a pause in the commits.
//! Never: decides anything about messages or jobs.
//! In: `Store` opens it and calls it as a `Backend`.
//!
//! ```text
//! commit, retire, sweeps ──► writer task ──► connection W ──┐
//! load, reads ─────────────► reader tasks ─► connections R ─┼─► leveret.db, -wal, -shm
//! nudges ──────────────────► checkpointer ─► connection C ──┘   leveret.lock, ballast
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Row, SqliteConnection};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use self::reader::{Reading, Work};
use self::writer::{Due, Request, Writer};
use super::doomed::Doomed;
use super::*;

mod access;
mod apply;
mod backup;
mod checkpoint;
#[cfg(test)]
mod engine_tests;
mod export;
mod keys;
mod look;
#[cfg(test)]
mod measure;
pub(super) mod migration;
mod reader;
mod room;
mod script;
pub(super) mod statement;
mod writer;

pub use backup::backup;
pub use look::{Schema, discard, holder, schema, sizes};

/// How a database is opened. The defaults are measured: `docs/adr/0001-storage.md`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only for a database that does not exist yet: 512 to 65,536, a power of two.
    pub page_bytes: u32,
    /// Page cache of the writer. The others have an eighth of it each.
    pub cache_bytes: u32,
    /// Log that is not in the database yet before the checkpointer begins.
    pub checkpoint_bytes: u64,
    /// Length of the log from which on it is begun again, once nearly all of it was moved.
    pub restart_bytes: u64,
    /// Length of the log that the writer accepts; then commits wait for the checkpoint.
    pub wal_bytes_max: u64,
    /// Room kept for acks and deletes on a full disk; 0 for none.
    pub ballast_bytes: u64,
    /// The database never grows beyond this many pages; commits that need more are `Full`.
    pub pages_max: Option<u32>,
    /// After an unclean end a database up to this size is checked before it is used.
    pub check_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_bytes: 8192,
            cache_bytes: 32 << 20,
            checkpoint_bytes: 16 << 20,
            restart_bytes: 64 << 20,
            wal_bytes_max: 256 << 20,
            ballast_bytes: 16 << 20,
            pages_max: None,
            check_bytes_max: 256 << 20,
        }
    }
}

/// Why a database cannot be used. Each names the file and what to do or look at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{} is in use by process {holder}; one process may open a store ({} says which)",
        path.display(), lock.display()
    )]
    Locked {
        path: PathBuf,
        lock: PathBuf,
        holder: String,
    },
    #[error("there is no store at {}", path.display())]
    Missing { path: PathBuf },
    #[error("{} exists, and is left as it is", path.display())]
    Exists { path: PathBuf },
    #[error(
        "{} is of an older release (its newest migration is {found}, here it is {ours}); \
         `leveret store migrate`, or a start, brings it up to date",
        path.display()
    )]
    Older {
        path: PathBuf,
        found: i64,
        ours: i64,
    },
    #[error(
        "{} was written by a newer release (it has migration {version}); start that one",
        path.display()
    )]
    Newer { path: PathBuf, version: i64 },
    #[error("{}: migration {version} is not the one that built this database", path.display())]
    Changed { path: PathBuf, version: i64 },
    #[error("{} is not a store: {detail}", path.display())]
    NotADatabase { path: PathBuf, detail: String },
    #[error("{} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("SQLite {found} has known faults; {OLDEST_SQLITE} or later is required")]
    OldSqlite { found: String },
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {detail}", path.display())]
    Other { path: PathBuf, detail: String },
}

/// An open store. Everything else about it is behind `Backend`.
pub struct Sqlite {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Request>,
    /// Taken by `close`, so that the readers end.
    readers: Mutex<Option<mpsc::Sender<Work>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the tasks have in common.
struct Shared {
    path: PathBuf,
    dir: PathBuf,
    options: Options,
    ballast: room::Ballast,
    /// Wakes the checkpointer.
    nudge: Notify,
    /// One checkpoint at a time: SQLite refuses a second one instead of letting it wait.
    pass: tokio::sync::Mutex<()>,
    closing: AtomicBool,
    doomed: Mutex<Doomed>,
}

impl Shared {
    fn doomed(&self) -> MutexGuard<'_, Doomed> {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files lack on their file system for `log_bytes` more of log and `bytes` more of
    /// content, and for moving all of the log into the database. 0 when there is room. Pages that
    /// are free inside the database count as room.
    async fn missing(
        &self,
        conn: &mut SqliteConnection,
        log_bytes: u64,
        bytes: u64,
    ) -> Result<u64, sqlx::Error> {
        let row = sqlx::query(statement::ENGINE_PAGES).fetch_one(conn).await?;
        let page = u64::from(self.options.page_bytes);
        let pages = row.try_get::<i64, _>(0)?.cast_unsigned() * page;
        let unused = row.try_get::<i64, _>(1)?.cast_unsigned() * page;
        let growth = (pages + bytes.saturating_sub(unused)).saturating_sub(length(&self.path));
        let log_growth = log_bytes.saturating_sub(length(&wal_path(&self.path)));
        Ok((growth + log_growth).saturating_sub(self.free_bytes()))
    }

    fn free_bytes(&self) -> u64 {
        room::free_bytes(&self.dir).unwrap_or(u64::MAX)
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Writer,
    Checkpointer,
    Reader,
}

impl Sqlite {
    /// Opens the database at `path`, creating it, its directory and its schema where missing.
    /// Must be called inside a tokio runtime.
    pub async fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let dir = folder(path);
        room::create(&dir).map_err(io)?;
        let lock = lock(path).await?;
        if path.exists() {
            look::readable(path)?;
        }
        let (conn, place, page_bytes) = prepare(path, &options).await?;
        let options = Options {
            page_bytes,
            ..options
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            ballast: room::Ballast::new(dir.join("ballast"), options.ballast_bytes),
            dir,
            options,
            nudge: Notify::new(),
            pass: tokio::sync::Mutex::default(),
            closing: AtomicBool::new(false),
            doomed: Mutex::default(),
        });
        restore_ballast(&shared);
        let writer = Writer {
            shared: Arc::clone(&shared),
            conn: Some(conn),
            place,
            lock,
        };
        let started = Self::start(shared, writer).await;
        started.map_err(|error| OpenError::from_sql(path, &error))
    }

    /// Opens the other connections and gives each its task.
    async fn start(shared: Arc<Shared>, task: Writer) -> Result<Self, sqlx::Error> {
        let connect = |role| connect(&shared.path, &shared.options, role);
        let (writer, requests) = mpsc::channel(WRITER_INBOX);
        let (readers, works) = mpsc::channel::<Work>(READER_INBOX);
        let works = Arc::new(tokio::sync::Mutex::new(works));
        let mut tasks = Vec::new();
        for _ in 0..READERS {
            let conn = connect(Role::Reader).await?;
            tasks.push(tokio::spawn(reader::run(conn, Arc::clone(&works))));
        }
        let conn = connect(Role::Checkpointer).await?;
        let checkpointer = checkpoint::run(conn, Arc::clone(&shared), writer.downgrade());
        tasks.push(tokio::spawn(checkpointer));
        tokio::spawn(task.run(requests));
        Ok(Self {
            shared,
            writer,
            readers: Mutex::new(Some(readers)),
            tasks: Mutex::new(tasks),
        })
    }

    /// Runs `query` in a reader task and waits for its answer.
    fn read<T, F>(&self, query: F) -> Pending<'_, Result<T, BackendError>>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Reading<'c, Result<T, sqlx::Error>>
            + Send
            + 'static,
    {
        let readers = self
            .readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let work: Work = Box::new(move |conn| {
                Box::pin(async move {
                    let _ = reply.send(query(conn).await);
                })
            });
            let readers = readers.ok_or_else(closed)?;
            readers.send(work).await.map_err(|_| closed())?;
            Ok(answer.await.map_err(|_| closed())??)
        })
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

    /// Deletes some of what is doomed: little enough that commits hardly wait.
    async fn sweep(&self) -> Result<(), BackendError> {
        let queues = std::mem::take(&mut self.shared.doomed().queues);
        for queue in queues {
            let swept = self.sweep_queue(queue).await;
            if !matches!(swept, Ok(true)) {
                self.shared.doomed().queues.push(queue);
            }
            swept?;
        }
        for _ in 0..SWEEPS {
            let ids: Vec<SegmentId> = {
                let mut doomed = self.shared.doomed();
                let count = doomed.segments.len().min(SWEEP_SEGMENTS);
                doomed.segments.drain(..count).collect()
            };
            if ids.is_empty() {
                break;
            }
            let again = ids.clone();
            let swept = self
                .ask(|reply| Request::SweepSegments { ids, reply })
                .await;
            if swept.is_err() {
                self.shared.doomed().segments.extend(again);
            }
            swept?;
        }
        Ok(())
    }

    /// True when nothing of the queue is left but segments, which are then doomed one by one.
    async fn sweep_queue(&self, queue: QueueId) -> Result<bool, BackendError> {
        for _ in 0..SWEEPS {
            let swept = self
                .ask(|reply| Request::SweepWaiting { queue, reply })
                .await?;
            if swept < writer::SWEEP_WAITING {
                let ids = self
                    .read(move |conn| Box::pin(reader::segments_of_queue(conn, queue)))
                    .await?;
                self.shared.doomed().segments.extend(ids);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Backend for Sqlite {
    fn load(&self) -> Pending<'_, Result<Image, BackendError>> {
        let loaded = self.read(|conn| Box::pin(reader::load(conn)));
        Box::pin(async move {
            let (image, doomed) = loaded.await?;
            *self.shared.doomed() = doomed;
            Ok(image)
        })
    }

    fn commit(&self, batch: Arc<Batch>, sync: bool) -> Pending<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let sent = self
                .writer
                .send(Request::Commit { batch, sync, reply })
                .await;
            sent.map_err(|_| CommitError::NotDone(closed().0))?;
            answer
                .await
                .unwrap_or_else(|_| Err(CommitError::Unknown("the writer is gone".into())))
        })
    }

    fn committed_number(&self) -> Pending<'_, Result<u64, BackendError>> {
        Box::pin(self.ask(|reply| Request::Number { reply }))
    }

    fn read_segment(
        &self,
        id: SegmentId,
    ) -> Pending<'_, Result<Option<SegmentBody>, BackendError>> {
        self.read(move |conn| Box::pin(reader::read_segment(conn, id)))
    }

    fn read_waiting(
        &self,
        queue: QueueId,
        seqs: Vec<Seq>,
    ) -> Pending<'_, Result<Vec<WaitingRow>, BackendError>> {
        self.read(move |conn| Box::pin(reader::read_waiting(conn, queue, seqs)))
    }

    fn job(&self, id: JobId) -> Pending<'_, Result<Option<Job>, BackendError>> {
        self.read(move |conn| Box::pin(reader::read_job(conn, id)))
    }

    fn job_result(&self, id: JobId) -> Pending<'_, Result<Option<JobResult>, BackendError>> {
        self.read(move |conn| Box::pin(reader::read_job_result(conn, id)))
    }

    fn key_claim(
        &self,
        scope: String,
        now: Micros,
    ) -> Pending<'_, Result<Option<KeyClaim>, BackendError>> {
        self.read(move |conn| Box::pin(reader::key_claim(conn, scope, now)))
    }

    fn jobs(&self, filter: JobFilter) -> Pending<'_, Result<Vec<Job>, BackendError>> {
        self.read(move |conn| Box::pin(reader::list_jobs(conn, filter)))
    }

    fn damaged_segments(&self) -> Pending<'_, Result<Vec<SegmentHeader>, BackendError>> {
        self.read(|conn| Box::pin(reader::damaged_segments(conn)))
    }

    fn job_counts(&self) -> Pending<'_, Result<Vec<(JobState, u64)>, BackendError>> {
        self.read(|conn| Box::pin(reader::job_counts(conn)))
    }

    fn overdue_jobs(&self, now: Micros, limit: u32) -> Pending<'_, Result<Vec<Job>, BackendError>> {
        self.read(move |conn| Box::pin(reader::overdue_jobs(conn, now, limit)))
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

    fn image(&self) -> Pending<'_, Result<Image, BackendError>> {
        self.read(|conn| Box::pin(reader::image(conn)))
    }

    fn export(
        &self,
        after: Cursor,
        limit: u32,
    ) -> Pending<'_, Result<Vec<Exported>, BackendError>> {
        self.read(move |conn| Box::pin(export::page(conn, after, limit)))
    }

    fn import(&self, rows: Arc<Import>) -> Pending<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let sent = self.writer.send(Request::Import { rows, reply }).await;
            sent.map_err(|_| CommitError::NotDone(closed().0))?;
            answer
                .await
                .unwrap_or_else(|_| Err(CommitError::Unknown("the writer is gone".into())))
        })
    }

    fn check(&self) -> Pending<'_, Result<Vec<String>, BackendError>> {
        self.read(|conn| Box::pin(reader::check(conn)))
    }

    fn maintain(&self) -> Pending<'_, Result<(), BackendError>> {
        Box::pin(async {
            self.shared.nudge.notify_one();
            restore_ballast(&self.shared);
            self.sweep().await
        })
    }

    fn room(&self) -> Pending<'_, Result<Option<Room>, BackendError>> {
        let page = u64::from(self.shared.options.page_bytes);
        Box::pin(async move {
            let unused = self.read(move |conn| {
                Box::pin(async move {
                    let row = sqlx::query(statement::ENGINE_PAGES).fetch_one(conn).await?;
                    Ok(row.try_get::<i64, _>(1)?.cast_unsigned() * page)
                })
            });
            let unused = unused.await?;
            let room = room::of(&self.shared.dir).map_err(|e| BackendError(e.to_string()))?;
            Ok(Some(Room {
                free: room.free.saturating_add(unused),
                size: room.size,
            }))
        })
    }

    fn disk_bytes(&self) -> (u64, u64) {
        (
            length(&self.shared.path),
            length(&wal_path(&self.shared.path)),
        )
    }

    fn close(&self) -> Pending<'_, ()> {
        Box::pin(async {
            self.shared.closing.store(true, Ordering::Release);
            self.shared.nudge.notify_one();
            drop(
                self.readers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
            let tasks =
                std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
            for task in tasks {
                let _ = task.await;
            }
            let (reply, done) = oneshot::channel();
            if self.writer.send(Request::Close { reply }).await.is_ok() {
                let _ = done.await;
            }
        })
    }
}

impl Drop for Sqlite {
    /// Ends the checkpointer. The other tasks end with their senders.
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.nudge.notify_one();
    }
}

impl OpenError {
    fn from_sql(path: &Path, error: &sqlx::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match writer::sqlite_code(error).map(|code| code & 0xff) {
            Some(libsqlite3_sys::SQLITE_NOTADB) => Self::NotADatabase { path, detail },
            Some(libsqlite3_sys::SQLITE_CORRUPT) => Self::Damaged { path, detail },
            _ => Self::Other { path, detail },
        }
    }
}

impl From<sqlx::Error> for BackendError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

/// The writer's connection to a database of the present schema, this opening's numbers, and the
/// size of the database's pages.
async fn prepare(
    path: &Path,
    options: &Options,
) -> Result<(SqliteConnection, apply::Place, u32), OpenError> {
    let sql = |error: sqlx::Error| OpenError::from_sql(path, &error);
    let mut conn = connect(path, options, Role::Writer).await.map_err(sql)?;
    check_engine(&mut conn, path).await?;
    look::expect_ours(&mut conn, path).await?;
    migration::run(&mut conn, path).await?;
    check_contents(&mut conn, path, options).await?;
    let numbers = async {
        let page = sqlx::query(statement::ENGINE_PAGE_BYTES);
        let page = page.fetch_one(&mut conn).await?;
        let opened = sqlx::query(statement::ENGINE_OPEN);
        let opened = opened.fetch_one(&mut conn).await?;
        let place = apply::Place {
            run: opened.try_get(0)?,
            segment_mark: opened.try_get::<i64, _>(1)?.cast_unsigned(),
        };
        Ok((place, page.try_get(0)?))
    };
    let (place, page_bytes) = numbers.await.map_err(sql)?;
    Ok((conn, place, page_bytes))
}

async fn connect(
    path: &Path,
    options: &Options,
    role: Role,
) -> Result<SqliteConnection, sqlx::Error> {
    let cache = if role == Role::Writer {
        options.cache_bytes
    } else {
        options.cache_bytes / 8
    };
    let mut connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(role == Role::Writer)
        .read_only(role == Role::Reader)
        .foreign_keys(false)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_PREPARED)
        .row_buffer_size(ROWS_HANDED_OVER)
        .pragma("temp_store", "memory")
        .pragma("mmap_size", "0")
        .pragma("cache_size", format!("-{}", cache / 1024))
        .disable_statement_logging();
    if role != Role::Reader {
        connect = connect
            .page_size(options.page_bytes)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", options.restart_bytes.to_string());
    }
    if let Some(pages) = options.pages_max {
        connect = connect.pragma("max_page_count", pages.to_string());
    }
    connect.connect().await
}

/// Refuses a library or a file system that cannot keep the engine's promises.
async fn check_engine(conn: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let sql = |error: sqlx::Error| OpenError::from_sql(path, &error);
    let row = sqlx::query(statement::ENGINE_VERSION)
        .fetch_one(&mut *conn)
        .await
        .map_err(sql)?;
    let found: String = row.try_get(0).map_err(sql)?;
    if !new_enough(&found) {
        return Err(OpenError::OldSqlite { found });
    }
    let row = sqlx::query(statement::SYNCHRONOUS_READ)
        .fetch_one(conn)
        .await
        .map_err(sql)?;
    if row.try_get::<i64, _>(0).map_err(sql)? != SYNCHRONOUS_FULL {
        let detail = "synchronous = full did not take".into();
        return Err(OpenError::Other {
            path: path.to_owned(),
            detail,
        });
    }
    Ok(())
}

fn new_enough(version: &str) -> bool {
    let parts = |text: &str| -> Vec<u32> { text.split('.').flat_map(str::parse).collect() };
    parts(version) >= parts(OLDEST_SQLITE)
}

/// After an unclean end: looks for damage, and reports it. What is whole stays usable; damaged
/// segments are found again by their checksums.
async fn check_contents(
    conn: &mut SqliteConnection,
    path: &Path,
    options: &Options,
) -> Result<(), OpenError> {
    let sql = |error: sqlx::Error| OpenError::from_sql(path, &error);
    let row = sqlx::query(statement::ENGINE_WAS_CLEAN)
        .fetch_one(&mut *conn)
        .await
        .map_err(sql)?;
    if row.try_get(0).map_err(sql)? || length(path) > options.check_bytes_max {
        return Ok(());
    }
    let row = sqlx::query(statement::ENGINE_CHECK)
        .fetch_one(conn)
        .await
        .map_err(sql)?;
    let found: String = row.try_get(0).map_err(sql)?;
    if found != "ok" {
        tracing::error!(path = %path.display(), found, "the database is damaged");
    }
    Ok(())
}

/// Takes the lock of the database at `path`. Whoever looks whether it is taken has it for an
/// instant, so this asks more than once.
async fn lock(path: &Path) -> Result<File, OpenError> {
    let file = folder(path).join(LOCK);
    let mut tries = LOCK_TRIES;
    loop {
        let locked = room::lock(&file).map_err(|source| OpenError::Io {
            path: file.clone(),
            source,
        })?;
        match locked {
            Ok(lock) => return Ok(lock),
            Err(_) if tries > 0 => tries -= 1,
            Err(holder) => {
                return Err(OpenError::Locked {
                    path: path.to_owned(),
                    lock: file,
                    holder,
                });
            }
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// Where the database's file is.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn restore_ballast(shared: &Shared) {
    if let Err(error) = shared.ballast.restore() {
        tracing::debug!(%error, "no ballast file");
    }
}

/// 0 for a file that is not there.
fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn closed() -> BackendError {
    BackendError("the store is closed".into())
}

/// The first release without the WAL-reset fault (two connections could lose committed pages).
const OLDEST_SQLITE: &str = "3.51.3";
const SYNCHRONOUS_FULL: i64 = 2;
const LOCK: &str = "leveret.lock";
const LOCK_TRIES: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Nobody else writes, so only a checkpoint or a reader in its way is ever waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// All texts in all their row counts, so that none is ever parsed twice.
const STATEMENTS_PREPARED: usize = 256;
/// Rows that wait between the thread that reads them and ours: each hand-over wakes both.
const ROWS_HANDED_OVER: usize = 1024;
const READERS: usize = 2;
const WRITER_INBOX: usize = 16;
const READER_INBOX: usize = 64;
/// Segments deleted in one transaction, and such transactions in one call of `maintain`.
const SWEEP_SEGMENTS: usize = 32;
const SWEEPS: usize = 32;
