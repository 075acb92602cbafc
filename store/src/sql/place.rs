//! Where a store is, and which engine keeps it: the one place where a URL becomes an engine.
//!
//! Keeps: what operators' commands need of an engine beside `Backend` is asked here, so that a
//! command names no engine.
//! Never: reads a row.
//! In: `gateway`, for the server and for the commands on stores.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Backend;
use super::sqlite::{self, OpenError, Sqlite};

/// A store's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The database's file.
    Sqlite(PathBuf),
}

/// What can be said of a store without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub engine: &'static str,
    /// Highest migration that ran, and that this program has.
    pub schema: i64,
    pub schema_ours: i64,
    /// The process that has it open.
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
        }
    }

    /// # Errors
    /// There is no store, or it cannot be read.
    pub async fn standing(&self) -> Result<Standing, OpenError> {
        match self {
            Self::Sqlite(path) => {
                let schema = sqlite::schema(path).await?;
                let (bytes, log_bytes) = sqlite::sizes(path);
                Ok(Standing {
                    engine: "SQLite",
                    schema: schema.found,
                    schema_ours: schema.ours,
                    served_by: sqlite::holder(path),
                    bytes,
                    log_bytes,
                })
            }
        }
    }

    /// True when something is there, a store or not.
    pub fn exists(&self) -> bool {
        match self {
            Self::Sqlite(path) => path.exists(),
        }
    }

    /// Runs the migrations that are missing; answers the newest before and after.
    ///
    /// # Errors
    /// There is no store, it is in use, or a migration failed.
    pub async fn migrate(&self) -> Result<(i64, i64), OpenError> {
        let before = self.standing().await?;
        self.open().await?.close().await;
        let after = self.standing().await?;
        Ok((before.schema, after.schema))
    }

    /// Copies the whole store, served or not, as it is at one commit, to a new file that is a store
    /// itself; answers its bytes.
    ///
    /// # Errors
    /// There is no store, the file exists, or it cannot be written.
    pub async fn backup(&self, to: &Path) -> Result<u64, OpenError> {
        match self {
            Self::Sqlite(path) => sqlite::backup(path, to).await,
        }
    }

    /// Removes the store, for a copy that is begun anew. The caller has seen that it is one.
    ///
    /// # Errors
    /// It is in use, or cannot be removed.
    pub async fn discard(&self) -> Result<(), OpenError> {
        match self {
            Self::Sqlite(path) => sqlite::discard(path).await,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
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
            assert_eq!(Place::parse(text), Ok(Place::Sqlite(file.into())), "{text}");
        }
        for text in ["", "sqlite:", "sqlite://", "other://host/db"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
