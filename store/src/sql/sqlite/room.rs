//! The directory around the database: one process at a time, and a reserve for a full disk.
//!
//! Keeps: two processes never open one database (an flock that ends with the process, however it
//! ends); when the disk fills, there are some MiB left for acks and deletes.
//! Never: touches the database's own files.
//! In: `Sqlite::open` locks; the writer releases the ballast; `maintain` puts it back.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use crate::sql::Room;

/// Creates the directory where it is missing, and makes it known to the disk: SQLite syncs only
/// what is inside.
pub(super) fn create(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Takes the directory's lock, or names the process that has it. It ends with the file handle.
pub(super) fn lock(path: &Path) -> io::Result<Result<File, String>> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(std::process::id().to_string().as_bytes())?;
            Ok(Ok(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Ok(Err(holder))
        }
        Err(other) => Err(other.into()),
    }
}

/// Who has the directory's lock, if anybody. Makes no file.
pub(super) fn holder(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
    let mut holder = String::new();
    match taken {
        Err(rustix::io::Errno::WOULDBLOCK) => file.read_to_string(&mut holder).ok().map(|_| holder),
        _ => None,
    }
}

/// A file of no use but its size.
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    pub(super) fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes }
    }

    /// Gives the room back to the file system. True when there was some to give.
    pub(super) fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Puts the file back when four times its size is free, so that it never fills the disk itself.
    pub(super) fn restore(&self) -> io::Result<()> {
        if self.bytes == 0 || self.path.exists() {
            return Ok(());
        }
        let dir = self.path.parent().unwrap_or_else(|| Path::new("."));
        if free_bytes(dir)? < self.bytes.saturating_mul(4) {
            return Ok(());
        }
        let file = File::create(&self.path)?;
        let filled = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if let Err(error) = filled {
            // Without real blocks behind it the file is a promise that cannot be kept.
            self.release();
            return Err(error.into());
        }
        Ok(())
    }
}

/// What this process may still write on the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    Ok(of(dir)?.free)
}

/// The file system of `dir`.
pub(super) fn of(dir: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(Room {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        size: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}
