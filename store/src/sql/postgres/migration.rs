//! The schema's steps on this engine, compiled in.
//!
//! Keeps: nodes that start together run each step once. A database from a newer release, or one
//! whose steps were changed, is never touched.
//! Never: creates a table outside `/migrations/postgres`, but for its own list.
//! In: `owner`, before a node asks for the lease; `leveret store`.

use sha2::{Digest, Sha256};

use super::session::{Fault, Session};
use super::statement;
use super::value::number;

macro_rules! migrations {
    ($($version:literal = $file:literal),* $(,)?) => {
        /// Number, file name without `.sql`, and text of each step, in order.
        pub(in crate::sql) const ALL: &[(i64, &str, &str)] = &[$((
            $version,
            $file,
            include_str!(concat!("../../../../migrations/postgres/", $file, ".sql")),
        )),*];
    };
}

migrations! {
    1 = "0001_definitions",
    2 = "0002_log",
    3 = "0003_jobs",
    4 = "0004_schedules",
    5 = "0005_damage",
    7 = "0007_exchange_types",
    8 = "0008_access",
    10 = "0010_deduplication",
    12 = "0012_redrive",
    13 = "0013_default_queue_type",
    14 = "0014_retention",
    17 = "0017_accepted",
    18 = "0018_shared_beginnings",
}

/// Why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the schema was made by a newer release (it has migration {0}); start that one")]
    Newer(i64),
    #[error("migration {0} is not the one that built this schema")]
    Changed(i64),
    #[error("migration {version} failed: {detail}")]
    Failed { version: i64, detail: String },
    #[error("{0}")]
    Other(String),
}

/// One for all nodes: the word's first bytes.
const LOCK: i64 = i64::from_be_bytes(*b"leveret\0");

/// Another node may be at it.
const PATIENCE: &str = "set local lock_timeout = '60s'; set local statement_timeout = 0";

/// The schema's newest step, 0 where there is none, and this program's.
pub(super) async fn versions(session: &mut Session) -> Result<(i64, i64), SchemaError> {
    let newest = ALL.last().map_or(0, |step| step.0);
    let there = session.rows(statement::MIGRATION_EXISTS, vec![]).await;
    let there = there.map_err(other)?;
    if !there.first().is_some_and(|row| row.get(0)) {
        return Ok((0, newest));
    }
    let found = session.rows(statement::MIGRATION_NEWEST, vec![]).await;
    let found = found.map_err(other)?;
    let found = found
        .first()
        .map_or(Ok(0), |row| number(row, 0))
        .map_err(other)?;
    Ok((found.cast_signed(), newest))
}

/// Brings the schema up to date, all in one transaction, and creates the one that is named; the
/// versions before and after. Idempotent.
pub(super) async fn run(
    session: &mut Session,
    schema: Option<&str>,
) -> Result<(i64, i64), SchemaError> {
    if let Ok((found, newest)) = versions(session).await
        && found == newest
    {
        check(session).await?;
        return Ok((found, newest));
    }
    session.run("begin").await.map_err(fault)?;
    let done = steps(session, schema).await;
    let ending = if done.is_ok() { "commit" } else { "rollback" };
    let ended = session.run(ending).await;
    let versions = done?;
    ended.map_err(fault)?;
    Ok(versions)
}

async fn steps(session: &mut Session, schema: Option<&str>) -> Result<(i64, i64), SchemaError> {
    session.run(PATIENCE).await.map_err(fault)?;
    let lock = session.rows(statement::MIGRATION_LOCK, vec![Box::new(LOCK)]);
    lock.await.map_err(other)?;
    if let Some(name) = schema {
        let create = format!("create schema if not exists {name}");
        session.run(&create).await.map_err(fault)?;
    }
    session
        .run(statement::MIGRATION_CREATE)
        .await
        .map_err(fault)?;
    let applied = check(session).await?;
    let mut last = applied.last().copied().unwrap_or(0);
    let first = last;
    for (version, name, text) in ALL {
        if applied.contains(version) {
            continue;
        }
        let failed = |error: Fault| SchemaError::Failed {
            version: *version,
            detail: match error {
                Fault::Refused(text) | Fault::Full(text) | Fault::Lost(text) => text,
                Fault::Fenced => "another node owns the store".into(),
            },
        };
        session.run(text).await.map_err(failed)?;
        let insert = statement::MIGRATION_INSERT;
        let sum = Sha256::digest(text.as_bytes()).to_vec();
        let rows = session.rows(
            insert,
            vec![Box::new(*version), Box::new(*name), Box::new(sum)],
        );
        rows.await.map_err(other)?;
        last = *version;
    }
    Ok((first, last))
}

/// The steps that were applied, all of which must be this program's.
async fn check(session: &mut Session) -> Result<Vec<i64>, SchemaError> {
    let rows = session.rows(statement::MIGRATION_LIST, vec![]);
    let mut applied = Vec::new();
    for row in rows.await.map_err(other)? {
        let (version, sum): (i64, Vec<u8>) = (
            row.try_get(0).map_err(other)?,
            row.try_get(1).map_err(other)?,
        );
        let Some((_, _, text)) = ALL.iter().find(|step| step.0 == version) else {
            return Err(SchemaError::Newer(version));
        };
        if Sha256::digest(text.as_bytes()).as_slice() != sum {
            return Err(SchemaError::Changed(version));
        }
        applied.push(version);
    }
    Ok(applied)
}

fn other(error: tokio_postgres::Error) -> SchemaError {
    SchemaError::Other(super::session::describe(&error))
}

fn fault(fault: Fault) -> SchemaError {
    SchemaError::Other(match fault {
        Fault::Refused(text) | Fault::Full(text) | Fault::Lost(text) => text,
        Fault::Fenced => "another node owns the store".into(),
    })
}
