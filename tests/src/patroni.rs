//! Two PostgreSQL under Patroni with synchronous replication, and HAProxy in front of the primary.
//!
//! Keeps: the files of `deploy/patroni` are what runs; no server outlives its value, and no folder.
//! Never: decides who becomes primary.
//! In: `tests/torture.rs`.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::crash::http::request;
use crate::server::{Process, free_address};

/// A PostgreSQL and the Patroni that watches it.
#[derive(Debug)]
struct Member {
    name: &'static str,
    rest: SocketAddr,
    postgres: SocketAddr,
    data: PathBuf,
    patroni: Option<Process>,
}

/// The whole cluster. Fields are dropped in their order: the folder goes last.
#[derive(Debug)]
pub struct Patroni {
    members: [Member; 2],
    proxy: Option<Process>,
    etcd: SocketAddr,
    coordinator: Option<Process>,
    address: SocketAddr,
    /// The user who runs PostgreSQL, where we are root.
    user: Option<(u32, u32)>,
    folder: TempDir,
}

impl Patroni {
    /// Starts all of it and waits until the standby is a synchronous one.
    ///
    /// # Errors
    /// Something is missing on this machine, or does not come up.
    pub fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("leveret-patroni-")?;
        let user = user()?;
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group))?;
        }
        let member = |name| {
            Ok::<_, anyhow::Error>(Member {
                name,
                rest: free_address()?,
                postgres: free_address()?,
                data: folder.path().join(name),
                patroni: None,
            })
        };
        let mut cluster = Self {
            members: [member("a")?, member("b")?],
            proxy: None,
            etcd: free_address()?,
            coordinator: None,
            address: free_address()?,
            user,
            folder,
        };
        cluster.coordinate()?;
        cluster.launch(0)?;
        await_that("the first primary", || cluster.is(0, "/primary"))?;
        cluster.launch(1)?;
        await_that("the synchronous standby", || cluster.is(1, "/synchronous"))?;
        cluster.proxy()?;
        Ok(cluster)
    }

    /// Its database, as `leveret --store` takes it.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres:{PASSWORD}@{}/postgres?connect_timeout=3",
            self.address
        )
    }

    /// The primary, once there is one.
    ///
    /// # Errors
    /// There is none for a long time.
    pub fn primary(&self) -> Result<usize> {
        let find = || (0..self.members.len()).find(|member| self.is(*member, "/primary"));
        await_that("a primary", || find().is_some())?;
        find().context("the primary went again")
    }

    /// Waits until this one is primary.
    ///
    /// # Errors
    /// It does not become that.
    pub fn await_primary(&self, member: usize) -> Result<()> {
        await_that("the next primary", || self.is(member, "/primary"))
            .with_context(|| self.last_output())
    }

    /// Kills a member's Patroni and its PostgreSQL at once.
    ///
    /// # Errors
    /// They were not running.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        let member = &mut self.members[member];
        // Patroni first: it would start its server again.
        let mut patroni = member.patroni.take().context("it is not running")?;
        patroni.kill()?;
        let id = member.id().context("no PostgreSQL to kill")?;
        ensure!(signal("-KILL", id)?, "it had ended before");
        Ok(())
    }

    /// Asks Patroni to make the other one primary, with both alive.
    ///
    /// # Errors
    /// It refuses.
    pub fn switch_over(&self, from: usize) -> Result<()> {
        let names = format!(
            "{{\"leader\":\"{}\",\"candidate\":\"{}\"}}",
            self.members[from].name,
            self.members[1 - from].name
        );
        let json = [("content-type", "application/json")];
        let rest = self.members[from].rest;
        let answer = request(rest, "POST", "/switchover", &json, names.as_bytes())?;
        ensure!(answer.status == 200, "switchover: {}", answer.text());
        Ok(())
    }

    /// Makes both run, and waits until the one that is no primary is a synchronous standby: the
    /// next fault must find all that was confirmed on it.
    ///
    /// # Errors
    /// That does not happen.
    pub fn mend(&mut self) -> Result<()> {
        for member in 0..self.members.len() {
            if self.members[member].patroni.is_none() {
                self.launch(member)?;
            }
        }
        let primary = self.primary()?;
        let whole = || self.is(primary, "/primary") && self.is(1 - primary, "/synchronous");
        await_that("a synchronous standby", whole).with_context(|| self.last_output())
    }

    fn is(&self, member: usize, path: &str) -> bool {
        let rest = self.members[member].rest;
        request(rest, "GET", path, &[], b"").is_ok_and(|answer| answer.status == 200)
    }

    fn coordinate(&mut self) -> Result<()> {
        let client = format!("http://{}", self.etcd);
        let peer = format!("http://{}", free_address()?);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.folder.path().join("etcd"));
        for (name, value) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
        ] {
            command.arg(name).arg(value);
        }
        let mut etcd = Process::start(&mut command, &self.folder.path().join("etcd.log"))?;
        etcd.await_port(self.etcd, UP_MAX)
            .context("starting etcd")?;
        self.coordinator = Some(etcd);
        Ok(())
    }

    fn launch(&mut self, member: usize) -> Result<()> {
        let member = &mut self.members[member];
        let home = self.folder.path();
        let mut command = Command::new("patroni");
        command
            .current_dir(home)
            .arg(deploy("patroni.yml"))
            .env("PATRONI_NAME", member.name)
            .env("PATRONI_ETCD3_HOSTS", self.etcd.to_string())
            .env("PATRONI_RESTAPI_LISTEN", member.rest.to_string())
            .env("PATRONI_RESTAPI_CONNECT_ADDRESS", member.rest.to_string())
            .env("PATRONI_POSTGRESQL_LISTEN", member.postgres.to_string())
            .env(
                "PATRONI_POSTGRESQL_CONNECT_ADDRESS",
                member.postgres.to_string(),
            )
            .env("PATRONI_POSTGRESQL_DATA_DIR", &member.data)
            .env("PATRONI_POSTGRESQL_BIN_DIR", programs()?)
            .env(
                "PATRONI_POSTGRESQL_PGPASS",
                home.join(format!("{}.pass", member.name)),
            )
            .env("PATRONI_SUPERUSER_USERNAME", "postgres")
            .env("PATRONI_SUPERUSER_PASSWORD", PASSWORD)
            .env("PATRONI_REPLICATION_USERNAME", "replicator")
            .env("PATRONI_REPLICATION_PASSWORD", PASSWORD);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        let log = home.join(format!("{}.log", member.name));
        member.patroni = Some(Process::start(&mut command, &log).context("patroni")?);
        Ok(())
    }

    fn proxy(&mut self) -> Result<()> {
        let [a, b] = &self.members;
        let mut command = Command::new("/usr/sbin/haproxy");
        command
            .arg("-f")
            .arg(deploy("haproxy.cfg"))
            .env("POSTGRES_LISTEN", self.address.to_string())
            .env("POSTGRES_A", a.postgres.to_string())
            .env("POSTGRES_B", b.postgres.to_string())
            .env("PATRONI_A_HOST", a.rest.ip().to_string())
            .env("PATRONI_A_PORT", a.rest.port().to_string())
            .env("PATRONI_B_HOST", b.rest.ip().to_string())
            .env("PATRONI_B_PORT", b.rest.port().to_string());
        let mut proxy = Process::start(&mut command, &self.folder.path().join("haproxy.log"))?;
        proxy.await_port(self.address, UP_MAX).context("haproxy")?;
        self.proxy = Some(proxy);
        Ok(())
    }

    fn last_output(&self) -> String {
        let patronis = self
            .members
            .iter()
            .filter_map(|member| member.patroni.as_ref());
        let texts: Vec<_> = patronis.map(Process::last_output).collect();
        texts.join("\n---\n")
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for member in &mut self.members {
            // Without Patroni nobody starts the server again.
            drop(member.patroni.take());
            member.end();
        }
    }
}

impl Member {
    /// The process of its PostgreSQL, where one runs.
    fn id(&self) -> Option<u32> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let id = file.lines().next()?.trim().parse().ok()?;
        // The file outlives a server that was killed, and its number may be another's by now.
        let place = fs::read_link(format!("/proc/{id}/cwd")).ok()?;
        (place == self.data).then_some(id)
    }

    fn end(&self) {
        let begun = Instant::now();
        while let Some(id) = self.id() {
            let _ = signal("-QUIT", id);
            if begun.elapsed() > UP_MAX {
                return;
            }
            sleep(LOOK_AFTER);
        }
    }
}

fn signal(name: &str, id: u32) -> Result<bool> {
    let mut kill = Command::new("kill");
    kill.args([name, &id.to_string()]).stderr(Stdio::null());
    Ok(kill.status()?.success())
}

fn await_that(what: &str, is: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is() {
        if begun.elapsed() > UP_MAX {
            bail!("waiting for {what}: not there after {UP_MAX:?}");
        }
        sleep(LOOK_AFTER);
    }
    Ok(())
}

/// Numbers of the user that Debian's package made, where we are root: PostgreSQL refuses to be.
fn user() -> Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line.context("there is no user postgres")?;
    let numbers: Vec<u32> = line
        .split(':')
        .filter_map(|part| part.parse().ok())
        .collect();
    match numbers[..] {
        [user, group, ..] => Ok(Some((user, group))),
        _ => bail!("user postgres has no numbers: {line}"),
    }
}

/// The folder of PostgreSQL's programs: where `pg_ctl` is, that the tests were told of.
fn programs() -> Result<PathBuf> {
    let control = env::var_os("LEVERET_TEST_PG_CTL").context("LEVERET_TEST_PG_CTL")?;
    let folder = Path::new(&control).parent();
    folder.map(Path::to_owned).context("it names no program")
}

fn deploy(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("deploy/patroni").join(name)
}

const PASSWORD: &str = "torture";
/// A failover takes up to `ttl`, and a standby that is copied anew some seconds more.
const UP_MAX: Duration = Duration::from_secs(180);
const LOOK_AFTER: Duration = Duration::from_millis(100);
