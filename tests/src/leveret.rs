//! The product's binary, run for one test in a folder of its own.
//!
//! Keeps: data directory and ports over restarts, so that a crash can be followed by a start.
//! Never: builds the binary.
//! In: `tests/conversation.rs`, `tests/crash.rs`, `tests/operator.rs`, `tests/torture.rs`.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::server::{Process, free_address};

/// A server that can be killed and started again.
#[derive(Debug)]
pub struct Leveret {
    pub amqp: SocketAddr,
    pub http: SocketAddr,
    process: Option<Process>,
    folder: TempDir,
    /// The database that nodes share, and their schema in it.
    database: Option<String>,
    schema: String,
    binary: PathBuf,
}

impl Leveret {
    /// Starts it with the text of a configuration file, empty for none: on SQLite, or in a schema
    /// of its own of the database that `LEVERET_TEST_STORE` names.
    ///
    /// # Errors
    /// There is no binary, or it does not come up.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_in(&env::temp_dir(), config)
    }

    /// The same, with its folder inside `parent`.
    ///
    /// # Errors
    /// There is no binary, or it does not come up.
    pub fn start_in(parent: &Path, config: &str) -> Result<Self> {
        let mut server = Self::stopped(parent, config, env::var("LEVERET_TEST_STORE").ok())?;
        server.restart()?;
        Ok(server)
    }

    /// The same, on a database of the test's own.
    ///
    /// # Errors
    /// There is no binary, or it does not come up.
    pub fn start_on(database: &str, config: &str) -> Result<Self> {
        let mut server = Self::stopped(&env::temp_dir(), config, Some(database.to_owned()))?;
        server.restart()?;
        Ok(server)
    }

    /// Another node on the store that this one shares; it waits until this one is gone.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn standby(&self, config: &str) -> Result<Self> {
        let mut server = Self::stopped(&env::temp_dir(), config, self.database.clone())?;
        server.schema.clone_from(&self.schema);
        server.launch()?;
        Ok(server)
    }

    fn stopped(parent: &Path, config: &str, database: Option<String>) -> Result<Self> {
        let folder = TempDir::with_prefix_in("leveret-", parent)?;
        fs::write(folder.path().join("leveret.toml"), config)?;
        let name = folder.path().file_name().unwrap_or_default();
        // Names of schemas are in small letters: two folders must not become one.
        let name = name.to_string_lossy();
        let own: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            amqp: free_address()?,
            http: free_address()?,
            process: None,
            folder,
            database,
            schema: format!("t{own}"),
            binary: binary()?,
        })
    }

    /// Starts it again on the same data; returns how long it took to be ready.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.launch()?;
        let process = self.process.as_mut().context("it was started")?;
        process
            .await_port(self.amqp, START_MAX)
            .context("starting leveret")?;
        self.await_ready(started + START_MAX)?;
        Ok(started.elapsed())
    }

    /// Starts it, and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let home = self.folder.path();
        let mut command = Command::new(&self.binary);
        command
            .current_dir(home)
            .arg("serve")
            .arg("--config")
            .arg(home.join("leveret.toml"))
            .arg("--data-dir")
            .arg(home.join("data"))
            .arg("--amqp-listen")
            .arg(self.amqp.to_string())
            .arg("--http-listen")
            .arg(self.http.to_string())
            .args(["--log", "warn"]);
        if let Some(store) = self.store() {
            command.arg("--store").arg(store);
        }
        self.process = Some(Process::start(&mut command, &home.join("server.log"))?);
        Ok(())
    }

    /// True when it owns its store and takes work.
    pub fn is_ready(&self) -> bool {
        self.ask_ready().unwrap_or(false)
    }

    /// True when it answers that another node owns the store.
    pub fn is_standby(&self) -> bool {
        let answer = self.ask("/readyz").unwrap_or_default();
        answer.starts_with("HTTP/1.1 503") && answer.contains("urn:leveret:problem:standby")
    }

    /// SIGSTOP or SIGCONT, as `kill` names them.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal(&self, name: &str) -> Result<()> {
        let id = self.id().context("it is not running")?.to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status()?;
        ensure!(sent.success(), "kill -s {name} {id}");
        Ok(())
    }

    /// Its process, where it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// A figure of its metrics that has no labels; 0 before it was ever counted.
    ///
    /// # Errors
    /// It tells no metrics.
    pub fn figure(&self, name: &str) -> Result<u64> {
        let answer = self.ask("/metrics")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "/metrics: {answer}");
        let mut lines = answer.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == name);
        Ok(found.map_or(Ok(0), |(_, value)| value.trim().parse())?)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it is not running")?;
        let status = process.kill()?;
        if status.code().is_some() {
            bail!(
                "it had ended by itself with {status}: {}",
                process.last_output()
            );
        }
        Ok(())
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// It was not running, or does not end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("it is not running")?;
        process
            .stop(Duration::from_secs(30))
            .with_context(|| process.last_output())
    }

    /// Runs a command of the binary on this server's data, whether the server runs or not.
    ///
    /// # Errors
    /// The command could not be run.
    pub fn command(&self, args: &[&str]) -> Result<Output> {
        let home = self.folder.path();
        let mut command = Command::new(&self.binary);
        command.current_dir(home).args(args);
        command.arg("--data-dir").arg(home.join("data"));
        if let Some(store) = self.store() {
            command.arg("--store").arg(store);
        }
        Ok(command.output()?)
    }

    fn store(&self) -> Option<String> {
        let database = self.database.as_ref()?;
        let parameter = if database.contains('?') { '&' } else { '?' };
        Some(format!("{database}{parameter}schema={}", self.schema))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it wrote last.
    pub fn last_output(&self) -> String {
        self.process
            .as_ref()
            .map(Process::last_output)
            .unwrap_or_default()
    }

    fn await_ready(&self, deadline: Instant) -> Result<()> {
        loop {
            match self.ask_ready() {
                Ok(true) => return Ok(()),
                outcome if Instant::now() > deadline => {
                    bail!("/readyz says {outcome:?}: {}", self.last_output());
                }
                _ => sleep(Duration::from_millis(10)),
            }
        }
    }

    fn ask_ready(&self) -> Result<bool> {
        Ok(self.ask("/readyz")?.starts_with("HTTP/1.1 200"))
    }

    fn ask(&self, path: &str) -> Result<String> {
        let mut socket = TcpStream::connect(self.http)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        socket.write_all(head.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// `LEVERET_BIN`, or what was built last.
fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LEVERET_BIN") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["release", "debug"].map(|profile| target.join(profile).join("leveret"));
    let age = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
    let newest = built
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(age);
    newest.context("no leveret binary: build it (`cargo build --release`) or set LEVERET_BIN")
}

const START_MAX: Duration = Duration::from_secs(60);
