//! A copy of the database in one file, while a node serves it or while none does.
//!
//! `vacuum into`, not SQLite's backup interface: that one begins anew whenever another process
//! commits, unless it copies everything in one step, and then it is no better. `vacuum into` reads
//! in one transaction, on a connection that only reads, so it sees one commit whole and no commit
//! waits for it; what it writes has no log and no free pages.
//!
//! Keeps: under its name the copy is complete and on disk; a file that is there is never touched.
//! In: `place`.
//!
//! ```text
//! NAME.PID.part ──vacuum into──► fsync ──rename, refuses an existing NAME──► NAME ──fsync of the
//! folder
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sqlx::Connection;

use super::{OpenError, Options, folder, look, statement};

/// Copies the database at `path` to the file `to`; answers its bytes.
///
/// # Errors
/// There is no store, `to` exists, or the copy cannot be written. Nothing is left of it then.
pub async fn backup(path: &Path, to: &Path) -> Result<u64, OpenError> {
    look::schema(path).await?;
    let exists = || OpenError::Exists {
        path: to.to_owned(),
    };
    if std::fs::symlink_metadata(to).is_ok() {
        return Err(exists());
    }
    let part = part(to);
    let at = |source| OpenError::Io {
        path: part.clone(),
        source,
    };
    // Made here, so that nobody else may read it: users and their password hashes are in it.
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part);
    drop(made.map_err(at)?);
    let written = write(path, &part).await.and_then(|bytes| {
        publish(&part, to).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => OpenError::Io {
                path: to.to_owned(),
                source,
            },
        })?;
        Ok(bytes)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

async fn write(path: &Path, part: &Path) -> Result<u64, OpenError> {
    let mut conn = look::connect_to_read(path, &Options::default()).await?;
    let Some(name) = part.to_str() else {
        return Err(OpenError::Other {
            path: part.to_owned(),
            detail: "the name is not UTF-8".into(),
        });
    };
    let written = sqlx::query(statement::ENGINE_BACKUP)
        .bind(name.to_owned())
        .execute(&mut conn)
        .await;
    let _ = conn.close().await;
    written.map_err(|error| OpenError::from_sql(path, &error))?;
    let synced = File::open(part).and_then(|file| {
        file.sync_all()?;
        Ok(file.metadata()?.len())
    });
    synced.map_err(|source| OpenError::Io {
        path: part.to_owned(),
        source,
    })
}

/// Gives the file its name, unless that is taken.
fn publish(part: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, part, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot refuse: it was looked at before.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(part, to)?,
        done => done?,
    }
    File::open(folder(to))?.sync_all()
}

fn part(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    name.into()
}
