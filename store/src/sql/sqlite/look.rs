//! A store that is only looked at, whether a node serves it or not.
//!
//! Keeps: everything that is read belongs to one commit, the newest at the time of opening: one
//! connection, in one transaction until `close`. While it is open the log of a served store cannot
//! begin again and grows.
//! Never: migrates, writes, repairs or makes a file of the database; verbs that write answer that
//! the store is closed.
//! In: `place`, for checks, counts and the source of a copy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Access;
use rustix::io::Errno;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{Notify, mpsc};

use super::*;

/// The migrations of a database and those of this program, by their highest numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// 0 where none ran.
    pub found: i64,
    pub ours: i64,
}

impl Sqlite {
    /// Opens the database at `path` for reading. `alone` takes the lock, so that nobody serves it
    /// meanwhile. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// There is no such store, it is of another schema, in use (only when `alone`), or cannot be
    /// read.
    pub async fn look(path: &Path, alone: bool) -> Result<Self, OpenError> {
        let sql = |error: sqlx::Error| OpenError::from_sql(path, &error);
        readable(path)?;
        let lock = match alone {
            true => Some(lock(path).await?),
            false => None,
        };
        let options = Options::default();
        let mut conn = connect_to_read(path, &options).await?;
        let schema = schema_of(&mut conn, path).await?;
        if schema.found > schema.ours {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                version: schema.found,
            });
        }
        if schema.found < schema.ours {
            return Err(OpenError::Older {
                path: path.to_owned(),
                found: schema.found,
                ours: schema.ours,
            });
        }
        let page = sqlx::query(statement::ENGINE_PAGE_BYTES);
        let page = page.fetch_one(&mut conn).await.map_err(sql)?;
        sqlx::query(statement::TRANSACTION_BEGIN_READ)
            .execute(&mut conn)
            .await
            .map_err(sql)?;
        // The first read fixes the snapshot.
        sqlx::query(statement::ENGINE_WAS_CLEAN)
            .fetch_one(&mut conn)
            .await
            .map_err(sql)?;
        let shared = Shared {
            path: path.to_owned(),
            ballast: room::Ballast::new(PathBuf::new(), 0),
            dir: folder(path),
            options: Options {
                page_bytes: page.try_get(0).map_err(sql)?,
                ..options
            },
            nudge: Notify::new(),
            pass: tokio::sync::Mutex::default(),
            closing: AtomicBool::new(false),
            doomed: Mutex::default(),
        };
        let (readers, works) = mpsc::channel::<Work>(READER_INBOX);
        let task = async move {
            reader::run(conn, Arc::new(tokio::sync::Mutex::new(works))).await;
            drop(lock);
        };
        Ok(Self {
            shared: Arc::new(shared),
            // Nobody receives.
            writer: mpsc::channel(1).0,
            readers: Mutex::new(Some(readers)),
            tasks: Mutex::new(vec![tokio::spawn(task)]),
        })
    }
}

/// Which migrations ran on the database at `path`, and how many this program has.
///
/// # Errors
/// There is no such store, or it cannot be read.
pub async fn schema(path: &Path) -> Result<Schema, OpenError> {
    readable(path)?;
    let mut conn = connect_to_read(path, &Options::default()).await?;
    let schema = schema_of(&mut conn, path).await;
    let _ = conn.close().await;
    schema
}

/// The process that serves the database at `path`, or works on it alone.
pub fn holder(path: &Path) -> Option<String> {
    room::holder(&folder(path).join(LOCK))
}

/// Bytes of the database and of its log.
pub fn sizes(path: &Path) -> (u64, u64) {
    (length(path), length(&wal_path(path)))
}

/// Removes the database at `path`, for a copy that is begun anew.
///
/// # Errors
/// It is in use, or cannot be removed.
pub async fn discard(path: &Path) -> Result<(), OpenError> {
    let _lock = lock(path).await?;
    let mut shm = path.as_os_str().to_owned();
    shm.push("-shm");
    // The database goes last: as long as it is there, it says that it is incomplete.
    for file in [wal_path(path), shm.into(), path.to_owned()] {
        match std::fs::remove_file(&file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::Io { path: file, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses, in words, what SQLite would only call "unable to open". Opens nothing: closing a
/// second handle would end the locks that this process has on the file.
pub(super) fn readable(path: &Path) -> Result<(), OpenError> {
    let io = |errno: Errno| OpenError::Io {
        path: path.to_owned(),
        source: errno.into(),
    };
    match rustix::fs::access(path, Access::READ_OK) {
        Ok(()) if path.is_dir() => Err(OpenError::NotADatabase {
            path: path.to_owned(),
            detail: "it is a directory".into(),
        }),
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(OpenError::Missing {
            path: path.to_owned(),
        }),
        Err(errno) => Err(io(errno)),
    }
}

pub(super) async fn connect_to_read(
    path: &Path,
    options: &Options,
) -> Result<SqliteConnection, OpenError> {
    connect(path, options, Role::Reader)
        .await
        .map_err(|error| OpenError::from_sql(path, &error))
}

async fn schema_of(conn: &mut SqliteConnection, path: &Path) -> Result<Schema, OpenError> {
    let sql = |error: sqlx::Error| OpenError::from_sql(path, &error);
    let ours = migration::ALL.last().map_or(0, |(version, ..)| *version);
    let tables = tables(conn).await.map_err(sql)?;
    if !tables.iter().any(|name| name == MIGRATIONS) {
        return match tables.is_empty() {
            true => Ok(Schema { found: 0, ours }),
            false => Err(foreign(path)),
        };
    }
    let rows = sqlx::query(statement::ENGINE_SCHEMA)
        .fetch_all(conn)
        .await
        .map_err(sql)?;
    let found = match rows.last() {
        Some(row) => row.try_get(0).map_err(sql)?,
        None => 0,
    };
    Ok(Schema { found, ours })
}

/// Refuses a database of some other program, before anything is made in it.
pub(super) async fn expect_ours(conn: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let sql = |error: sqlx::Error| OpenError::from_sql(path, &error);
    let tables = tables(conn).await.map_err(sql)?;
    match tables.is_empty() || tables.iter().any(|name| name == MIGRATIONS) {
        true => Ok(()),
        false => Err(foreign(path)),
    }
}

async fn tables(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(statement::ENGINE_TABLES)
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

fn foreign(path: &Path) -> OpenError {
    OpenError::NotADatabase {
        path: path.to_owned(),
        detail: "it is the database of some other program".into(),
    }
}

/// Where the list of migrations that ran is kept.
const MIGRATIONS: &str = "_sqlx_migrations";
