//! A server process of a test: started, watched, ended.
//!
//! Keeps: no process outlives its `Process`; ports that were free a moment ago.
//! Never: knows which server it is.
//! In: `rabbitmq`, `leveret`.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running child process with its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

impl Process {
    /// Starts it with stdin closed, stdout and stderr appended to `output`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, output: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(output)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self {
            child,
            output: output.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// SIGTERM, and SIGKILL when it has not ended after `limit`.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        Command::new("kill")
            .arg("-TERM")
            .arg(self.id().to_string())
            .status()?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(10));
        }
        self.kill()?;
        bail!("it did not end within {limit:?} of SIGTERM")
    }

    /// Waits until something listens there.
    ///
    /// # Errors
    /// The process ended, or the time was over; the error holds the end of its output.
    pub fn await_port(&mut self, address: SocketAddr, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.last_output());
            }
            if Instant::now() > deadline {
                bail!(
                    "{address} does not answer after {limit:?}: {}",
                    self.last_output()
                );
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// The last lines that it wrote, and what it said when it panicked first.
    pub fn last_output(&self) -> String {
        let text = std::fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let panic = text
            .lines()
            .skip_while(|line| !line.contains("panicked at"))
            .take(PANIC_LINES);
        let mut lines: Vec<_> = panic.collect();
        let count = text.lines().count();
        lines.extend(text.lines().skip(count.saturating_sub(LAST_LINES)));
        lines.join("\n")
    }
}

const PANIC_LINES: usize = 12;
const LAST_LINES: usize = 20;

/// A loopback address that nobody listens on.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
