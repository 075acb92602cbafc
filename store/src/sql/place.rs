//! Where a store is, and which engine keeps it: the one place where a URL becomes an engine.
//!
//! Keeps: what operators' commands need of an engine beside `Backend` is asked here, so that a
//! command names no engine.
//! Never: reads a row.
//! In: `gateway`, for the server and for the commands on stores.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::Backend;
use super::postgres::{self, Postgres, Target};
use super::sqlite::{self, Sqlite};

/// A store's place.
#[derive(Clone)]
pub enum Place {
    /// The database's file.
    Sqlite(PathBuf),
    /// A database that nodes share, and how one of them owns it.
    Postgres(Box<Target>, postgres::Options),
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
    /// What this engine does not do, and what does it.
    #[error("{0}")]
    Elsewhere(String),
}

/// What can be said of a store without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub engine: String,
    /// Highest migration that ran, and that this program has.
    pub schema: i64,
    pub schema_ours: i64,
    /// The process that has it open, or the node that owns it.
    pub served_by: Option<String>,
    /// Bytes of the database, and of the log beside it.
    pub bytes: u64,
    pub log_bytes: u64,
}

impl Place {
    /// `DIR`, `sqlite:DIR` for a directory, `sqlite://FILE` for a database's file.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let in_folder = |folder: &str| Self::Sqlite(Path::new(folder).join(DATABASE));
        let sqlite = match text.split_once(':') {
            Some(("sqlite", rest)) => rest,
            Some(("postgres" | "postgresql", _)) => {
                let target = Target::parse(text, None, None).map_err(|error| error.to_string())?;
                return Ok(Self::Postgres(
                    Box::new(target),
                    postgres::Options::default(),
                ));
            }
            Some((engine, rest)) if rest.starts_with("//") => {
                return Err(format!("'{engine}' is no engine of this version"));
            }
            _ => text,
        };
        let place = match sqlite.strip_prefix("//") {
            Some(file) if text.starts_with("sqlite:") => Self::Sqlite(file.into()),
            _ => in_folder(sqlite),
        };
        match sqlite.trim_start_matches('/').is_empty() {
            true => Err(format!("'{text}' names no store")),
            false => Ok(place),
        }
    }

    /// Opens the store to serve or to fill it, making it where there is none.
    ///
    /// # Errors
    /// It is in use, or cannot be opened.
    pub async fn open(&self) -> Result<Arc<dyn Backend>, OpenError> {
        match self {
            Self::Sqlite(path) => Ok(Arc::new(Sqlite::open(path, Default::default()).await?)),
            Self::Postgres(target, options) => {
                let options = postgres::Options {
                    wait: false,
                    ..options.clone()
                };
                let nobody = watch::channel(postgres::Standing::default()).0;
                let opened = Postgres::open(Target::clone(target), options, &nobody).await?;
                Ok(Arc::new(opened))
            }
        }
    }

    /// Opens a store of this schema for reading, whether it is served or not; everything read is of
    /// one commit. `alone`: it must not be served, and cannot be meanwhile.
    ///
    /// # Errors
    /// There is none, it is of another schema, in use (only when `alone`), or cannot be read.
    pub async fn look(&self, alone: bool) -> Result<Arc<dyn Backend>, OpenError> {
        match self {
            Self::Sqlite(path) => Ok(Arc::new(Sqlite::look(path, alone).await?)),
            Self::Postgres(target, _) => {
                let looking = Postgres::look(Target::clone(target)).await?;
                if !alone {
                    return Ok(Arc::new(looking));
                }
                // Whoever owns it is alone with it.
                looking.close().await;
                self.open().await
            }
        }
    }

    /// # Errors
    /// There is no store, or it cannot be read.
    pub async fn status(&self) -> Result<Status, OpenError> {
        match self {
            Self::Sqlite(path) => {
                let schema = sqlite::schema(path).await?;
                let (bytes, log_bytes) = sqlite::sizes(path);
                Ok(Status {
                    engine: "SQLite".into(),
                    schema: schema.found,
                    schema_ours: schema.ours,
                    served_by: sqlite::holder(path),
                    bytes,
                    log_bytes,
                })
            }
            Self::Postgres(target, _) => {
                let seen = Postgres::see(target).await?;
                let owner = seen.owner.filter(|row| !row.is_free());
                Ok(Status {
                    engine: format!("PostgreSQL {}", seen.server.version),
                    schema: seen.schema,
                    schema_ours: seen.schema_ours,
                    served_by: owner.map(|row| row.node),
                    bytes: seen.bytes,
                    log_bytes: 0,
                })
            }
        }
    }

    /// True when something is there, a store or not.
    pub fn exists(&self) -> bool {
        match self {
            Self::Sqlite(path) => path.exists(),
            // A look says more.
            Self::Postgres(..) => true,
        }
    }

    /// Runs the migrations that are missing; answers the newest before and after.
    ///
    /// # Errors
    /// There is no store, it is in use, or a migration failed.
    pub async fn migrate(&self) -> Result<(i64, i64), OpenError> {
        if let Self::Postgres(target, _) = self {
            return Ok(Postgres::migrate(target).await?);
        }
        let before = self.status().await?;
        self.open().await?.close().await;
        let after = self.status().await?;
        Ok((before.schema, after.schema))
    }

    /// Copies the whole store, served or not, as it is at one commit, to a new file that is a store
    /// itself; answers its bytes.
    ///
    /// # Errors
    /// There is no store, the file exists, or it cannot be written.
    pub async fn backup(&self, to: &Path) -> Result<u64, OpenError> {
        match self {
            Self::Sqlite(path) => Ok(sqlite::backup(path, to).await?),
            Self::Postgres(target, _) => Err(OpenError::Elsewhere(format!(
                "{}: PostgreSQL makes its own backups: pg_dump, or pg_basebackup and an archive",
                target.name()
            ))),
        }
    }

    /// Removes the store, for a copy that is begun anew. The caller has seen that it is one.
    ///
    /// # Errors
    /// It is in use, or cannot be removed.
    pub async fn discard(&self) -> Result<(), OpenError> {
        match self {
            Self::Sqlite(path) => Ok(sqlite::discard(path).await?),
            Self::Postgres(target, _) => Err(OpenError::Elsewhere(format!(
                "{}: drop the database or the schema, and create it anew",
                target.name()
            ))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(target, _) => target.name().fmt(f),
        }
    }
}

/// The database's file in a data directory.
pub const DATABASE: &str = "leveret.db";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_directory_or_a_url() {
        for (text, file) in [
            ("data", "data/leveret.db"),
            ("/var/lib/leveret", "/var/lib/leveret/leveret.db"),
            ("sqlite:/data", "/data/leveret.db"),
            ("sqlite:///data/x.db", "/data/x.db"),
            ("sqlite://x.db", "x.db"),
            ("a:b", "a:b/leveret.db"),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!(place.to_string(), file, "{text}");
        }
        let shared = Place::parse("postgres://me:secret@host/db").unwrap();
        assert_eq!(shared.to_string(), "postgres://me@host:5432/db");
        for text in [
            "",
            "sqlite:",
            "sqlite://",
            "other://host/db",
            "postgres://host",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
