//! The schema's steps, compiled in, and what a refusal of them means to the operator.
//!
//! Keeps: a database from a newer release, or one whose steps were changed, is never touched.
//! Never: creates a table outside `/migrations/sqlite`.
//! In: `Sqlite::open`, before anything else is read.

use std::path::Path;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr, SqlStr, SqliteConnection};

use super::OpenError;

macro_rules! migrations {
    ($($version:literal = $file:literal),* $(,)?) => {
        /// Number, file name without `.sql`, and text of each step, in order.
        pub(in crate::sql) const ALL: &[(i64, &str, &str)] = &[$((
            $version,
            $file,
            include_str!(concat!("../../../../migrations/sqlite/", $file, ".sql")),
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

/// Brings the schema up to date. Idempotent.
pub(super) async fn run(conn: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    migrator()
        .run_direct(None, conn, false)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(version) => OpenError::Newer {
                path: path.to_owned(),
                version,
            },
            MigrateError::VersionMismatch(version) => OpenError::Changed {
                path: path.to_owned(),
                version,
            },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                OpenError::from_sql(path, &error)
            }
            other => OpenError::Other {
                path: path.to_owned(),
                detail: other.to_string(),
            },
        })
}

fn migrator() -> Migrator {
    let steps = ALL.iter().map(|(version, file, text)| {
        let sql: SqlStr = (*text).into_sql_str();
        Migration::new(*version, (*file).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(steps.collect())
}
