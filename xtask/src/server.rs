//! A Leveret for tests in other languages: on free ports, in a folder that goes with it.
//!
//! Keeps: no server and no folder outlive their value, except the folder of a failure.
//! Never: builds the binary.
//! In: `suite`.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self as os, Child};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// A running server.
pub(crate) struct Server {
    pub(crate) amqp: SocketAddr,
    pub(crate) http: SocketAddr,
    child: Option<Child>,
    folder: PathBuf,
}

impl Server {
    /// Starts `binary` and waits until it says that it is ready.
    ///
    /// # Errors
    /// It does not come up; the error holds the end of its log.
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        let folder = env::temp_dir().join(format!("leveret-xtask-{}", os::id()));
        fs::create_dir_all(&folder)?;
        let (amqp, http) = (free_address()?, free_address()?);
        let log = File::create(folder.join("server.log"))?;
        let mut command = process::command(&binary.to_string_lossy(), &["serve", "--log", "info"]);
        command
            .current_dir(&folder)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args([
                "--amqp-listen",
                &amqp.to_string(),
                "--http-listen",
                &http.to_string(),
            ])
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut server = Self {
            amqp,
            http,
            child: Some(child),
            folder,
        };
        server.await_ready()?;
        Ok(server)
    }

    /// Asks it to end, and wants it to end well.
    ///
    /// # Errors
    /// It had ended before, takes too long, or ends with another code than 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        let mut child = self.child.take().context("it is not running")?;
        if let Some(status) = child.try_wait()? {
            bail!("it had ended with {status}:\n{}", self.log_end());
        }
        process::ask_to_end(&child);
        match process::wait(&mut child, STOP_MAX)? {
            Some(status) if status.success() => {
                let _ = fs::remove_dir_all(&self.folder);
                Ok(())
            }
            Some(status) => bail!("SIGTERM ended it with {status}:\n{}", self.log_end()),
            None => {
                process::end_tree(&mut child);
                bail!(
                    "{} s after SIGTERM it still ran:\n{}",
                    STOP_MAX.as_secs(),
                    self.log_end()
                )
            }
        }
    }

    /// The last lines of its log.
    pub(crate) fn log_end(&self) -> String {
        let text = fs::read(self.folder.join("server.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !is_ready(self.http).unwrap_or(false) {
            if let Some(status) = self
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                bail!("the server ended with {status}:\n{}", self.log_end());
            }
            if Instant::now() > deadline {
                bail!(
                    "not ready after {} s:\n{}",
                    START_MAX.as_secs(),
                    self.log_end()
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            process::end_tree(child);
        }
    }
}

fn is_ready(http: SocketAddr) -> Result<bool> {
    let mut socket = TcpStream::connect(http)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// A loopback address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 40;
