//! The one task that writes: requests in, one transaction at a time.
//!
//! Keeps: a request runs to its end whoever stops waiting for it. A failed commit is told apart as
//! "no room", "not stored" and "unknown"; after one, the connection is replaced, so that nothing of
//! the failed transaction can leak into the next.
//! Never: reads for others; waits for a checkpoint that runs beside it.
//! In: `Sqlite` sends `Request`s; `checkpoint` asks for the last step of its work.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::apply::{self, Fault, Place, Texts};
use super::keys;
use super::script::Script;
use super::{Role, Shared, connect, statement};
use crate::log::batch::{Batch, Committed, DefinitionChange, JobChange};
use crate::model::*;
use crate::sql::{BackendError, CommitError, Import, Retired};

type Reply<T> = oneshot::Sender<T>;

pub(super) enum Request {
    Commit {
        batch: Arc<Batch>,
        sync: bool,
        reply: Reply<Result<Committed, CommitError>>,
    },
    Import {
        rows: Arc<Import>,
        reply: Reply<Result<(), CommitError>>,
    },
    Number {
        reply: Reply<Result<u64, BackendError>>,
    },
    Retire {
        due: Due,
        reply: Reply<Result<Retired, BackendError>>,
    },
    /// Deletes segments nobody can see any more.
    SweepSegments {
        ids: Vec<SegmentId>,
        reply: Reply<Result<u64, BackendError>>,
    },
    /// Deletes up to `SWEEP_WAITING` waiting rows of a queue that is gone; answers how many.
    SweepWaiting {
        queue: QueueId,
        reply: Reply<Result<u64, BackendError>>,
    },
    /// Ends the present log: what is left in it goes to the database, and it starts again.
    Restart {
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// What `Backend::retire` was asked.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub(super) results_at: Micros,
    pub(super) tombstones_at: Micros,
    pub(super) fires_before: Micros,
    pub(super) limit: u32,
}

/// Waiting rows per sweep: a few milliseconds.
pub(super) const SWEEP_WAITING: u64 = 1000;

/// Below this the file system counts as full, whatever the error said.
const NO_ROOM_BYTES: u64 = 1 << 20;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) conn: Option<SqliteConnection>,
    pub(super) place: Place,
    /// Held as long as anything can be written.
    pub(super) lock: File,
}

struct State {
    shared: Arc<Shared>,
    conn: Option<SqliteConnection>,
    place: Place,
    texts: Texts,
    /// What `synchronous` is set to: full, or normal.
    syncing: bool,
    /// Bytes in the log, about, since the checkpointer was nudged and since the log began again.
    since_nudge: u64,
    since_restart: u64,
    /// Value of `since_restart` at which commits wait for the log to begin again.
    restart_at: u64,
    /// Deduplication rows since small ones were merged; at the start nobody knows.
    key_rows: u64,
    /// Rows up to this one were merged.
    keys_merged: i64,
}

impl Writer {
    /// Serves until `Close`, or until every sender is gone.
    pub(super) async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let Self {
            shared,
            conn,
            place,
            lock,
        } = self;
        let restart_at = shared.options.wal_bytes_max;
        let mut state = State {
            shared,
            conn,
            place,
            texts: Texts::new(),
            syncing: true,
            since_nudge: 0,
            since_restart: 0,
            restart_at,
            key_rows: keys::LOOK_AFTER,
            keys_merged: 0,
        };
        let mut closed = None;
        while let Some(request) = requests.recv().await {
            // An answer nobody waits for is no error.
            match request {
                Request::Commit { batch, sync, reply } => {
                    let _ = reply.send(state.commit(&batch, sync).await);
                }
                Request::Import { rows, reply } => {
                    let _ = reply.send(state.import(&rows).await);
                }
                Request::Number { reply } => {
                    let _ = reply.send(state.number().await);
                }
                Request::Retire { due, reply } => {
                    let _ = reply.send(state.retire(due).await);
                }
                Request::SweepSegments { ids, reply } => {
                    let _ = reply.send(state.sweep_segments(&ids).await);
                }
                Request::SweepWaiting { queue, reply } => {
                    let _ = reply.send(state.sweep_waiting(queue).await);
                }
                Request::Restart { reply } => {
                    state.restart().await;
                    let _ = reply.send(());
                }
                Request::Close { reply } => {
                    state.finish().await;
                    closed = Some(reply);
                    break;
                }
            }
        }
        if let Some(conn) = state.conn {
            let _ = conn.close().await;
        }
        drop(lock);
        if let Some(reply) = closed {
            let _ = reply.send(());
        }
    }
}

impl State {
    async fn commit(&mut self, batch: &Batch, sync: bool) -> Result<Committed, CommitError> {
        if self.since_restart >= self.restart_at {
            self.restart().await;
        }
        if adds_content(batch) {
            self.expect_room(batch).await?;
        }
        let mark = self.place.segment_mark;
        let fault = match self.try_commit(batch, sync).await {
            Ok(committed) => {
                self.committed(batch);
                return Ok(committed);
            }
            Err(fault) => fault,
        };
        self.place.segment_mark = mark;
        let was_open = self.abandon(matches!(fault, Fault::Fence(_))).await;
        let error = judge(fault, was_open, || self.shared.free_bytes() < NO_ROOM_BYTES);
        if let CommitError::Full(_) = error {
            self.make_room().await;
        }
        Err(error)
    }

    async fn try_commit(&mut self, batch: &Batch, sync: bool) -> Result<Committed, Fault> {
        self.connection().await?;
        let Self {
            conn: Some(conn),
            texts,
            place,
            syncing,
            ..
        } = self
        else {
            return Err(Fault::Sql(sqlx::Error::WorkerCrashed));
        };
        if *syncing != sync {
            let text = if sync {
                statement::SYNCHRONOUS_FULL
            } else {
                statement::SYNCHRONOUS_NORMAL
            };
            run(conn, text).await?;
            *syncing = sync;
        }
        apply::batch(conn, texts, place, batch).await
    }

    /// Counts what the batch added to the log and remembers what it left to sweep.
    fn committed(&mut self, batch: &Batch) {
        let gone = batch.definitions.iter().filter_map(|change| match change {
            DefinitionChange::DeleteQueue(id) => Some(*id),
            _ => None,
        });
        let gone: Vec<_> = gone.collect();
        if !gone.is_empty() {
            self.shared.doomed().queues.extend(gone);
        }
        self.key_rows += batch.deduplication.len() as u64;
        self.grew(log_bytes(batch, u64::from(self.shared.options.page_bytes)));
    }

    fn grew(&mut self, bytes: u64) {
        self.since_restart += bytes;
        self.since_nudge += bytes;
        if self.since_nudge >= self.shared.options.checkpoint_bytes {
            self.since_nudge = 0;
            self.shared.nudge.notify_one();
        }
    }

    /// Lets go of the reserve, so that the batches which free space can be stored.
    async fn make_room(&mut self) {
        if self.shared.ballast.release() {
            tracing::warn!("no room for a commit: the ballast file was released");
        }
        if self.missing(0).await == 0 {
            self.restart().await;
        }
    }

    /// Refuses what would leave too little room to move the log into the database: a disk that is
    /// full with log cannot be emptied by deletes. Looks closer only where room is scarce.
    async fn expect_room(&mut self, batch: &Batch) -> Result<(), CommitError> {
        if self.shared.free_bytes() >= self.shared.options.wal_bytes_max {
            return Ok(());
        }
        let page = u64::from(self.shared.options.page_bytes);
        let bytes = log_bytes(batch, page) + NO_ROOM_BYTES;
        if self.missing(bytes).await == 0 {
            return Ok(());
        }
        if self.missing(0).await == 0 {
            self.restart().await;
        }
        match self.missing(bytes).await {
            0 => Ok(()),
            missing => {
                let text = format!("{missing} bytes are missing on the disk");
                Err(CommitError::Full(text))
            }
        }
    }

    /// See `Shared::missing`. Where it cannot be found out, the commit will tell.
    async fn missing(&mut self, bytes: u64) -> u64 {
        let log_bytes = if bytes == 0 {
            0
        } else {
            self.since_restart + bytes
        };
        let shared = Arc::clone(&self.shared);
        match self.connection().await {
            Ok(conn) => shared.missing(conn, log_bytes, bytes).await.unwrap_or(0),
            Err(_) => 0,
        }
    }

    /// Opens the connection again when the one before had to be given up.
    async fn connection(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        if self.conn.is_none() {
            self.conn = Some(connect(&self.shared.path, &self.shared.options, Role::Writer).await?);
            self.syncing = true;
        }
        self.conn.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Ends what a failed request left open; true when there was something. `keep` is for a fence:
    /// the connection itself is fine.
    async fn abandon(&mut self, keep: bool) -> bool {
        let Some(mut conn) = self.conn.take() else {
            return false;
        };
        // SQLite may have rolled back already, which is an error here and no harm.
        let was_open = run(&mut conn, statement::TRANSACTION_ROLLBACK)
            .await
            .is_ok();
        if keep && was_open {
            self.conn = Some(conn);
        } else {
            let _ = conn.close().await;
        }
        was_open
    }

    async fn import(&mut self, rows: &Import) -> Result<(), CommitError> {
        if self.since_restart >= self.restart_at {
            self.restart().await;
        }
        let done = match self.connection().await {
            Ok(conn) => apply::import(conn, rows).await,
            Err(error) => Err(error.into()),
        };
        let Err(fault) = done else {
            let results = rows.jobs.iter().filter_map(|(_, result)| result.as_ref());
            let aside = rows
                .damaged
                .iter()
                .map(|row| row.index.len() + row.data.len());
            let bytes: usize = results.map(|result| result.body.len()).chain(aside).sum();
            let page = u64::from(self.shared.options.page_bytes);
            self.grew(bytes as u64 + page * (rows.jobs.len() as u64 + 3));
            return Ok(());
        };
        let was_open = self.abandon(false).await;
        Err(judge(fault, was_open, || {
            self.shared.free_bytes() < NO_ROOM_BYTES
        }))
    }

    async fn number(&mut self) -> Result<u64, BackendError> {
        let run = self.place.run;
        let row = sqlx::query(statement::ENGINE_READ_NUMBER)
            .bind(run)
            .fetch_one(self.connection().await?)
            .await?;
        Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
    }

    async fn retire(&mut self, due: Due) -> Result<Retired, BackendError> {
        self.connection().await?;
        let retired = match &mut self.conn {
            Some(conn) => retire_rows(conn, due).await,
            None => Err(sqlx::Error::WorkerCrashed),
        };
        if retired.is_err() {
            self.abandon(false).await;
        }
        self.grew(u64::from(self.shared.options.page_bytes) * 8);
        if retired.is_ok() {
            self.merge_keys().await?;
        }
        Ok(retired?)
    }

    async fn merge_keys(&mut self) -> Result<(), BackendError> {
        if self.key_rows < keys::LOOK_AFTER {
            return Ok(());
        }
        let after = self.keys_merged;
        let conn = self.connection().await?;
        let merged = async {
            run(conn, statement::TRANSACTION_BEGIN).await?;
            let looked = keys::merge(conn, after).await?;
            run(conn, statement::TRANSACTION_COMMIT).await?;
            Ok::<_, sqlx::Error>(looked)
        };
        match merged.await {
            Ok((last, more)) => {
                self.keys_merged = last;
                self.key_rows = if more { keys::LOOK_AFTER } else { 0 };
            }
            Err(error) => {
                self.abandon(false).await;
                return Err(error.into());
            }
        }
        self.grew(keys::MERGE_BYTES);
        Ok(())
    }

    async fn sweep_segments(&mut self, ids: &[SegmentId]) -> Result<u64, BackendError> {
        self.connection().await?;
        let mark = self.place.segment_mark;
        let swept = match self {
            Self {
                conn: Some(conn),
                texts,
                place,
                ..
            } => sweep_rows(conn, texts, place, ids).await,
            _ => Err(Fault::Sql(sqlx::Error::WorkerCrashed)),
        };
        self.grew(u64::from(self.shared.options.page_bytes) * (2 + ids.len() as u64));
        match swept {
            Ok(()) => Ok(ids.len() as u64),
            Err(Fault::Fence(text)) => Err(BackendError(text)),
            Err(Fault::Sql(error) | Fault::Ending(error)) => {
                self.place.segment_mark = mark;
                self.abandon(false).await;
                Err(error.into())
            }
        }
    }

    async fn sweep_waiting(&mut self, queue: QueueId) -> Result<u64, BackendError> {
        let swept = sqlx::query(statement::WAITING_DELETE_OF_QUEUE)
            .bind(queue.0.cast_signed())
            .bind(SWEEP_WAITING.cast_signed())
            .execute(self.connection().await?)
            .await?
            .rows_affected();
        let keys = sqlx::query(statement::DEDUPLICATION_DELETE_OF_QUEUE)
            .bind(queue.0.cast_signed())
            .bind(SWEEP_WAITING.cast_signed())
            .execute(self.connection().await?)
            .await?
            .rows_affected();
        if swept.max(keys) < SWEEP_WAITING {
            sqlx::query(statement::RETAINED_DELETE_OF_QUEUE)
                .bind(queue.0.cast_signed())
                .execute(self.connection().await?)
                .await?;
        }
        self.grew(u64::from(self.shared.options.page_bytes) * (2 + (swept + keys) / 8));
        Ok(swept.max(keys))
    }

    /// Short when the checkpointer went before. A reader in the way makes it end without effect.
    async fn restart(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Ok(conn) = self.connection().await else {
            return;
        };
        let _alone = shared.pass.lock().await;
        let restarted = sqlx::query(statement::CHECKPOINT_RESTART)
            .fetch_one(conn)
            .await
            .and_then(|row| row.try_get::<i64, _>(0));
        match restarted {
            Ok(0) => {
                self.since_restart = 0;
                self.restart_at = shared.options.wal_bytes_max;
                return;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "log restart failed"),
        }
        self.restart_at = self.since_restart + shared.options.checkpoint_bytes;
    }

    /// The last write of a life that ended well.
    async fn finish(&mut self) {
        let Ok(conn) = self.connection().await else {
            return;
        };
        let marked = run(conn, statement::SYNCHRONOUS_FULL).await.is_ok()
            && run(conn, statement::ENGINE_CLOSE).await.is_ok();
        let emptied = run(conn, statement::CHECKPOINT_TRUNCATE).await.is_ok();
        if !(marked && emptied) {
            tracing::warn!("the database was not closed cleanly; the next start will check it");
        }
        self.shared.closing.store(true, Ordering::Release);
    }
}

/// The three-valued answer. `was_open` says that a rollback found the transaction open, so that
/// it cannot have been committed; after an I/O error even then it may be in the log, whole.
fn judge(fault: Fault, was_open: bool, no_room: impl Fn() -> bool) -> CommitError {
    let (error, ending) = match fault {
        Fault::Fence(text) => return CommitError::NotDone(text),
        Fault::Sql(error) => (error, false),
        Fault::Ending(error) => (error, true),
    };
    let text = error.to_string();
    let code = sqlite_code(&error).unwrap_or(0);
    match code & 0xff {
        FULL => CommitError::Full(text),
        // The write failed for want of room, so the commit record cannot be whole.
        IOERR if NO_ROOM.contains(&code) && no_room() => CommitError::Full(text),
        IOERR if ending => CommitError::Unknown(text),
        BUSY | LOCKED => CommitError::NotDone(text),
        _ if ending && !was_open => CommitError::Unknown(text),
        _ => CommitError::NotDone(text),
    }
}

async fn run(conn: &mut SqliteConnection, text: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(text).execute(conn).await.map(drop)
}

async fn sweep_rows(
    conn: &mut SqliteConnection,
    texts: &Texts,
    place: &mut Place,
    ids: &[SegmentId],
) -> Result<(), Fault> {
    let mut script = Script::joined();
    script.statement(conn, statement::TRANSACTION_BEGIN).await?;
    apply::drop_segments(conn, &mut script, texts, place, ids).await?;
    script.send(conn).await?;
    run(conn, statement::TRANSACTION_COMMIT).await?;
    Ok(())
}

async fn retire_rows(conn: &mut SqliteConnection, due: Due) -> Result<Retired, sqlx::Error> {
    let mut retired = Retired::default();
    let limit = due.limit;
    run(conn, statement::TRANSACTION_BEGIN).await?;
    for (text, at, count) in [
        (statement::JOB_RESULT_RETIRE, due.results_at, None),
        (
            statement::JOB_FORGET_RESULT,
            due.results_at,
            Some(&mut retired.results),
        ),
        (
            statement::JOB_RETIRE,
            due.tombstones_at,
            Some(&mut retired.tombstones),
        ),
        (
            statement::JOB_KEY_RETIRE,
            due.results_at,
            Some(&mut retired.keys),
        ),
        (
            statement::FIRE_RETIRE,
            due.fires_before,
            Some(&mut retired.fires),
        ),
    ] {
        let done = sqlx::query(text)
            .bind(at)
            .bind(limit)
            .execute(&mut *conn)
            .await?;
        if let Some(count) = count {
            *count = done.rows_affected();
        }
    }
    run(conn, statement::TRANSACTION_COMMIT).await?;
    Ok(retired)
}

/// False for the batches that make room, or settle something, whatever little they need for it.
fn adds_content(batch: &Batch) -> bool {
    let submits = |change: &JobChange| matches!(change, JobChange::Submit { .. });
    !batch.segments.is_empty() || !batch.waiting.is_empty() || batch.jobs.iter().any(submits)
}

/// About what a batch adds to the log, in whole pages: it only has to be near enough to clock
/// checkpoints by.
fn log_bytes(batch: &Batch, page: u64) -> u64 {
    let blob = |bytes: usize| (bytes as u64 / page + 1) * page;
    let segments: u64 = batch
        .segments
        .iter()
        .map(|row| blob(row.index.len() + row.data.len()))
        .sum();
    let waiting: u64 = batch
        .waiting
        .iter()
        .map(|row| blob(row.index.len() + row.data.len()))
        .sum();
    let keys = batch.deduplication.iter();
    let keys: u64 = keys.map(|row| blob(row.entries.len())).sum();
    let small = batch.heads.len() / 64
        + batch.settled.len() / 8
        + batch.jobs.len()
        + batch.dropped_segments.len() / 2
        + batch.dropped_waiting.len() / 8
        + batch.definitions.len()
        + batch.fires.len() / 8;
    segments + waiting + keys + (small as u64 + 3) * page
}

/// SQLite's extended result code.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

const BUSY: i32 = libsqlite3_sys::SQLITE_BUSY;
const LOCKED: i32 = libsqlite3_sys::SQLITE_LOCKED;
const FULL: i32 = libsqlite3_sys::SQLITE_FULL;
const IOERR: i32 = libsqlite3_sys::SQLITE_IOERR;
/// I/O errors that a full disk may cause.
const NO_ROOM: [i32; 2] = [
    libsqlite3_sys::SQLITE_IOERR_WRITE,
    libsqlite3_sys::SQLITE_IOERR_SHMSIZE,
];

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;

    use libsqlite3_sys::{SQLITE_CONSTRAINT, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE};
    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// An error as the driver gives it.
    #[derive(Debug)]
    struct Code(i32);

    impl fmt::Display for Code {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "code {}", self.0)
        }
    }

    impl Error for Code {}

    impl DatabaseError for Code {
        fn message(&self) -> &str {
            "planned"
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.to_string().into())
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    /// `F`ull, `N`ot done or `U`nknown, for a fault before `commit` and for one that may be after,
    /// each with the transaction found closed and found open.
    fn judged(code: i32, no_room: bool) -> String {
        let fault = |ending| {
            let error = sqlx::Error::Database(Box::new(Code(code)));
            if ending {
                Fault::Ending(error)
            } else {
                Fault::Sql(error)
            }
        };
        let cases = [(false, false), (false, true), (true, false), (true, true)];
        let letter = |(ending, was_open)| match judge(fault(ending), was_open, || no_room) {
            CommitError::Full(_) => 'F',
            CommitError::NotDone(_) => 'N',
            CommitError::Unknown(_) => 'U',
            CommitError::Fenced(_) => 'O',
        };
        cases.into_iter().map(letter).collect()
    }

    #[test]
    fn a_failed_commit_is_unknown_unless_it_cannot_be_stored() {
        for (code, no_room, expected) in [
            (FULL, false, "FFFF"),
            (BUSY, false, "NNNN"),
            (LOCKED | 1 << 8, false, "NNNN"),
            (SQLITE_CONSTRAINT, false, "NNUN"),
            (SQLITE_IOERR_FSYNC, false, "NNUU"),
            (SQLITE_IOERR_FSYNC, true, "NNUU"),
            (SQLITE_IOERR_WRITE, false, "NNUU"),
            (SQLITE_IOERR_WRITE, true, "FFFF"),
        ] {
            assert_eq!(judged(code, no_room), expected, "{code}");
        }
        let crashed = |fault: Fault| judge(fault, false, || false);
        let before = crashed(Fault::Sql(sqlx::Error::WorkerCrashed));
        assert!(matches!(before, CommitError::NotDone(_)));
        let ending = crashed(Fault::Ending(sqlx::Error::WorkerCrashed));
        assert!(matches!(ending, CommitError::Unknown(_)));
    }
}
