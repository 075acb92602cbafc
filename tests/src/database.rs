//! The PostgreSQL that `cargo xtask` started for the tests, as something that can fail.
//!
//! Keeps: it runs as the user who owns its folder.
//! Never: starts or stops it for good; whoever made it does.
//! In: `tests/torture.rs`.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A server, by its folder and the program that controls it.
#[derive(Debug)]
pub struct Database {
    control: PathBuf,
    data: PathBuf,
}

impl Database {
    /// What `LEVERET_TEST_PG_CTL` and `LEVERET_TEST_PG_DATA` name.
    ///
    /// # Errors
    /// One of them is not set.
    pub fn from_environment() -> Result<Self> {
        let path = |name| env::var_os(name).map(PathBuf::from).context(name);
        Ok(Self {
            control: path("LEVERET_TEST_PG_CTL")?,
            data: path("LEVERET_TEST_PG_DATA")?,
        })
    }

    /// Restarts it as after a power failure: no session ends well, the log is replayed.
    ///
    /// # Errors
    /// It does not come up again.
    pub fn restart_at_once(&self) -> Result<()> {
        let owner = fs::metadata(&self.data)?;
        let own = fs::metadata("/proc/self")?;
        let mut command = Command::new(&self.control);
        command
            .current_dir(&self.data)
            .args(["restart", "--wait", "--silent", "--mode", "immediate", "-D"])
            .arg(&self.data)
            .arg("--log")
            .arg(self.data.with_file_name("restarts.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if owner.uid() != own.uid() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let status = command.status()?;
        ensure!(status.success(), "pg_ctl restart ended with {status}");
        Ok(())
    }
}
