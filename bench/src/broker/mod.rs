//! Starts, restarts and stops a broker of our own on free ports in a directory of our own.
//!
//! Keeps: one process per `Broker`, ended by its id when the value is dropped; where `setpriv`
//! exists, the kernel ends it too if we die first.
//! Never: touches a broker that it did not start.
//! In: `run`, `backlog`, `calls`.

mod leveret;
mod rabbitmq;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;

use crate::link::Link;

pub(crate) use leveret::{Stored, stored};

const START_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LAST_LINES: usize = 5;

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Leveret,
    RabbitMq,
    /// A table of PostgreSQL; no broker, see `skip_locked`.
    SkipLocked,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Leveret => "Leveret",
            Self::RabbitMq => "RabbitMQ",
            Self::SkipLocked => "SKIP LOCKED",
        }
    }
}

/// Where the programs are and where they may write.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) leveret: PathBuf,
    pub(crate) rabbitmq: PathBuf,
    pub(crate) work_dir: PathBuf,
    /// A PostgreSQL that is Leveret's store, and the peer's.
    pub(crate) store: Option<String>,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum End {
    /// SIGKILL: nothing is flushed.
    Kill,
    /// SIGTERM: an orderly stop.
    Term,
}

/// A running broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) kind: Kind,
    pub(crate) amqp: SocketAddr,
    pub(crate) http: SocketAddr,
    places: Places,
    dir: TempDir,
    process: Process,
    /// RabbitMQ's name service, an instance of our own.
    epmd: Option<(Process, u16)>,
}

impl Broker {
    /// Starts the broker with an empty data directory and waits until it takes AMQP connections.
    pub(crate) fn start(kind: Kind, places: &Places) -> Result<Self> {
        fs::create_dir_all(&places.work_dir).context("make the working directory")?;
        let dir = tempfile::Builder::new()
            .prefix("broker-")
            .tempdir_in(&places.work_dir)?;
        let amqp = free_address()?;
        let http = free_address()?;
        let epmd = match kind {
            Kind::Leveret | Kind::SkipLocked => None,
            Kind::RabbitMq => Some(rabbitmq::start_epmd(dir.path())?),
        };
        let epmd_port = epmd.as_ref().map(|(_, port)| *port);
        let process = spawn(kind, places, dir.path(), amqp, http, epmd_port)?;
        let mut broker = Self {
            kind,
            amqp,
            http,
            places: places.clone(),
            dir,
            process,
            epmd,
        };
        broker.wait_until_served()?;
        Ok(broker)
    }

    /// The PostgreSQL that it stores in.
    pub(crate) fn store(&self) -> Option<&str> {
        self.places.store.as_deref()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends the process and starts it again on the same data and ports; the time from the start of
    /// the new process until it takes an AMQP connection.
    pub(crate) fn restart(&mut self, end: End) -> Result<Duration> {
        match end {
            End::Kill => self.process.kill(),
            End::Term => self.process.stop()?,
        }
        let began = Instant::now();
        let epmd_port = self.epmd.as_ref().map(|(_, port)| *port);
        self.process = spawn(
            self.kind,
            &self.places,
            self.dir.path(),
            self.amqp,
            self.http,
            epmd_port,
        )?;
        self.wait_until_served()?;
        Ok(began.elapsed())
    }

    /// An orderly stop; the data directory is removed.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.stop()
    }

    fn wait_until_served(&mut self) -> Result<()> {
        let end = Instant::now() + START_WITHIN;
        loop {
            if let Some(status) = self.process.0.try_wait()? {
                bail!(
                    "{} ended at once: {status}: {}",
                    self.kind.name(),
                    self.log_tail()
                );
            }
            if let Ok(link) = Link::open_within(self.amqp, Duration::from_secs(2)) {
                return link.close();
            }
            if Instant::now() > end {
                bail!("{} does not answer: {}", self.kind.name(), self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the broker printed: the first panic, if any, else the last lines; in one line.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("output.log")).unwrap_or_default();
        last_words(&text)
    }
}

/// A child process that does not outlive this value.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program with its output in `log`.
    fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self(child))
    }

    fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let end = Instant::now() + STOP_WITHIN;
        while Instant::now() < end {
            if self.0.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        bail!("the broker ignored SIGTERM for {} s", STOP_WITHIN.as_secs());
    }

    fn kill(&mut self) {
        // Failure means that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(
    kind: Kind,
    places: &Places,
    dir: &Path,
    amqp: SocketAddr,
    http: SocketAddr,
    epmd_port: Option<u16>,
) -> Result<Process> {
    let mut command = match kind {
        Kind::Leveret => {
            let store = places.store.as_deref();
            leveret::command((&places.leveret, store), dir, amqp, http)
        }
        Kind::RabbitMq => {
            let epmd_port = epmd_port.context("RabbitMQ needs its epmd")?;
            // The HTTP port is free for Erlang's distribution: no management plug-in runs.
            rabbitmq::command(&places.rabbitmq, dir, amqp, http.port(), epmd_port)?
        }
        Kind::SkipLocked => bail!("a table is no process"),
    };
    Process::spawn(&mut command, &dir.join("output.log"))
}

/// A command whose process the kernel ends when we die, where `setpriv` is installed.
fn bound_to_us(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A loopback address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let panicked = lines.iter().position(|line| line.contains("panicked at"));
    let from = panicked.unwrap_or_else(|| lines.len().saturating_sub(LAST_LINES));
    lines[from..]
        .iter()
        .take(LAST_LINES)
        .copied()
        .collect::<Vec<_>>()
        .join(" ⏎ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_is_shown_rather_than_what_followed_it() {
        let mut log = String::from("started\nthread 'x' panicked at queue.rs:7:\nno room\n");
        log.extend((0..100).map(|frame| format!("{frame}: frame\n")));
        let words = last_words(&log);
        assert!(
            words.starts_with("thread 'x' panicked at queue.rs:7: ⏎ no room"),
            "{words}"
        );
        assert!(words.matches('⏎').count() < LAST_LINES);
    }

    #[test]
    fn without_a_panic_the_end_is_shown() {
        assert_eq!(last_words("a\n\nb\n"), "a ⏎ b");
        assert_eq!(last_words(""), "");
    }
}
