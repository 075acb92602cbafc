//! A PostgreSQL for tests and benchmarks of the shared store: Debian's server with its defaults,
//! in a folder that goes with it.
//!
//! Keeps: no server and no folder outlive their value; the server is reached from this machine
//! only.
//! Never: touches a cluster that is there.
//! In: `suite`, `bench`, `torture`.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self as os, Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// Versions that are looked for, newest first.
const VERSIONS: [u32; 5] = [18, 17, 16, 15, 14];
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);

/// A running server with an empty database.
pub(crate) struct Postgres {
    port: u16,
    child: Child,
    programs: PathBuf,
    folder: PathBuf,
}

impl Postgres {
    /// # Errors
    /// There is no server on this machine, or it does not come up.
    pub(crate) fn start() -> Result<Self> {
        let folders = VERSIONS.map(|version| format!("/usr/lib/postgresql/{version}/bin"));
        let programs = folders.into_iter().map(PathBuf::from);
        let programs = programs
            .into_iter()
            .find(|folder| folder.join("postgres").exists())
            .context("no PostgreSQL: cargo xtask install brings it")?;
        let folder = env::temp_dir().join(format!("leveret-postgres-{}", os::id()));
        fs::create_dir_all(&folder)?;
        // The server does not run as root.
        let user = user()?;
        let command = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.current_dir(&folder);
            if let Some((user, group)) = user {
                command.uid(user).gid(group);
            }
            command
        };
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group))?;
        }
        let data = folder.join("data");
        let mut make = command("initdb");
        make.args([
            "--auth=trust",
            "--username=leveret",
            "--encoding=UTF8",
            "-D",
        ]);
        let made = make.arg(&data).output()?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let log = fs::File::create(folder.join("log"))?;
        let mut serve = command("postgres");
        serve.arg("-D").arg(&data).arg("-p").arg(port.to_string());
        serve.arg("-k").arg(&folder);
        for setting in ["listen_addresses=127.0.0.1", "max_connections=300"] {
            serve.args(["-c", setting]);
        }
        let child = serve.stdout(log.try_clone()?).stderr(log).spawn()?;
        let server = Self {
            port,
            child,
            programs: programs.clone(),
            folder,
        };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
                bail!("PostgreSQL does not come up:\n{log}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its database, as `leveret --store` takes it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://leveret@127.0.0.1:{}/postgres", self.port)
    }

    /// What a test program needs to use it, and to make it fail.
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        let shown = |path: PathBuf| path.to_string_lossy().into_owned();
        [
            ("LEVERET_TEST_STORE", self.url()),
            ("LEVERET_TEST_PG_CTL", shown(self.programs.join("pg_ctl"))),
            ("LEVERET_TEST_PG_DATA", shown(self.folder.join("data"))),
        ]
    }

    /// The server's process; another one than was started, after a test restarted it.
    fn id(&self) -> Option<u32> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: sessions end, and the data need not be sound any more, but is.
        if let Some(id) = self.id() {
            let _ = Command::new("kill")
                .args(["-INT", &id.to_string()])
                .status();
        }
        let deadline = Instant::now() + STOP_MAX;
        while self.id().is_some() && Instant::now() < deadline {
            sleep(Duration::from_millis(20));
        }
        if !matches!(process::wait(&mut self.child, STOP_MAX), Ok(Some(_))) {
            process::end_tree(&mut self.child);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Numbers of the user that Debian's package made, where we are root.
fn user() -> Result<Option<(u32, u32)>> {
    let own = fs::read_to_string("/proc/self/status")?;
    let is_root = own.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !is_root {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let parts: Vec<&str> = line
        .context("there is no user postgres")?
        .split(':')
        .collect();
    Ok(Some((parts[2].parse()?, parts[3].parse()?)))
}
