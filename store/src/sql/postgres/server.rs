//! A PostgreSQL server for this process's tests, and a database in it for each.
//!
//! Keeps: the server is this process's own, in a temporary folder, on a free port; it ends with it.
//! A test that asks for a server which is not installed fails, and says how to install it.
//! In: `contract.rs` and the tests of `postgres`.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use super::*;

/// Versions that are looked for, newest first.
const VERSIONS: [u32; 5] = [18, 17, 16, 15, 14];
/// A server that is not up by then never will be.
const UP_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(super) port: u16,
    process: Child,
    dir: tempfile::TempDir,
}

/// Statics are not dropped: the server ends when the pipe to its watcher does.
static SERVER: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

fn programs() -> PathBuf {
    let all = VERSIONS
        .iter()
        .map(|version| format!("/usr/lib/postgresql/{version}/bin"));
    let found = all
        .map(PathBuf::from)
        .find(|path| path.join("postgres").exists());
    found.unwrap_or_else(|| panic!("no PostgreSQL server here: apt-get install postgresql"))
}

impl Server {
    fn start() -> Self {
        let programs = programs();
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        // The server refuses to run as root.
        let user = is_root().then(postgres_user);
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let as_user = |command: &mut Command| {
            if let Some((user, group)) = user {
                command.uid(user).gid(group);
            }
        };
        let mut make = Command::new(programs.join("initdb"));
        make.args([
            "--auth=trust",
            "--username=leveret",
            "--encoding=UTF8",
            "--no-sync",
            "-D",
        ]);
        make.arg(&data).current_dir(dir.path());
        as_user(&mut make);
        let made = make.output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        // The first line that fits counts.
        let access = data.join("pg_hba.conf");
        let rest = std::fs::read_to_string(&access).unwrap();
        let first = format!("host all +{ASKS_PASSWORD} 127.0.0.1/32 scram-sha-256\n");
        std::fs::write(&access, first + &rest).unwrap();
        certify(dir.path(), user);
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Self::run(&programs, &data, dir.path(), port, as_user);
        let server = Self { port, process, dir };
        server.wait();
        server
    }

    /// The server under a shell that ends it when this process is gone, however it went.
    fn run(
        programs: &Path,
        data: &Path,
        dir: &Path,
        port: u16,
        as_user: impl Fn(&mut Command),
    ) -> Child {
        let script = "\"$1\" -D \"$2\" -p \"$3\" -k \"$4\" \
             -c listen_addresses=127.0.0.1 -c max_connections=400 -c shared_buffers=64MB \
             -c ssl=on -c ssl_cert_file=\"$4/cert.pem\" -c ssl_key_file=\"$4/key.pem\" \
             -c logging_collector=off >\"$4/log\" 2>&1 </dev/null & \
             server=$!; cat >/dev/null; kill -INT $server; wait $server";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command
            .arg(programs.join("postgres"))
            .arg(data)
            .arg(port.to_string())
            .arg(dir);
        command
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        as_user(&mut command);
        command.process_group(0).spawn().unwrap()
    }

    fn wait(&self) {
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < UP_WITHIN, "the server did not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(self.process.id() > 0);
    }

    async fn client(&self, database: &str) -> Client {
        let url = format!("postgres://leveret@127.0.0.1:{}/{database}", self.port);
        loop {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, link)) => {
                    tokio::spawn(link);
                    return client;
                }
                Err(error) if error.code().is_some_and(|code| code.code() == "57P03") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// A certificate for `localhost`, signed by itself, and its key.
fn certify(dir: &Path, user: Option<(u32, u32)>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    for (name, text) in [
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
    ] {
        let file = dir.join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(&file, Some(user), Some(group)).unwrap();
        }
    }
}

/// What the server shows; its signer, too.
pub(super) fn certificate() -> PathBuf {
    SERVER.get().unwrap().dir.path().join("cert.pem")
}

/// Members of this role have to give a password.
pub(super) const ASKS_PASSWORD: &str = "asks_password";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Numbers of the user that the package made.
fn postgres_user() -> (u32, u32) {
    let text = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|line| line.starts_with("postgres:"));
    let parts: Vec<&str> = line.expect("no user 'postgres'").split(':').collect();
    (parts[2].parse().unwrap(), parts[3].parse().unwrap())
}

/// A database of its own.
pub(crate) struct Database {
    pub(super) name: String,
}

impl Database {
    pub(crate) async fn new() -> Self {
        let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(Server::start));
        let server = server.await.unwrap();
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let client = server.client("postgres").await;
        client
            .batch_execute(&format!("create database {name}"))
            .await
            .unwrap();
        Self { name }
    }

    pub(super) fn url(&self) -> String {
        let port = SERVER.get().unwrap().port;
        format!("postgres://leveret@127.0.0.1:{port}/{}", self.name)
    }

    pub(super) fn target(&self) -> Target {
        Target::parse(&self.url(), None, None).unwrap()
    }

    /// A client beside the engine.
    pub(super) async fn client(&self) -> Client {
        SERVER.get().unwrap().client(&self.name).await
    }

    pub(crate) async fn open(&self, options: Options) -> Postgres {
        let standing = watch::channel(Standing::default()).0;
        Postgres::open(self.target(), options, &standing)
            .await
            .unwrap()
    }

    /// As if the lease had ended.
    pub(crate) async fn free(&self) {
        let client = self.client().await;
        let row = client.query_one(statement::OWNER_READ, &[]).await.unwrap();
        let epoch: i64 = row.get(0);
        client
            .execute(statement::OWNER_RELEASE, &[&epoch])
            .await
            .unwrap();
    }
}
