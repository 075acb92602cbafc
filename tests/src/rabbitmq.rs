//! RabbitMQ as oracle: Debian's package, run for one test in a folder of its own.
//!
//! Keeps: nothing of it outside that folder; its name server runs on a port of its own.
//! Never: touches a RabbitMQ of the system.
//! In: `tests/conversation.rs`, `tests/operator.rs`.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::server::{Process, free_address};

/// A running RabbitMQ. Its end is the end of the value.
#[derive(Debug)]
pub struct RabbitMq {
    pub address: SocketAddr,
    /// What its commands need to know; none for a server that ran already.
    place: Option<Place>,
    // Dropped in this order: the node, its name server, the folder.
    _processes: Vec<Process>,
    _folder: Option<TempDir>,
}

#[derive(Debug)]
struct Place {
    home: PathBuf,
    node: String,
    name_server: String,
}

impl RabbitMq {
    /// Runs `rabbitmqctl`; returns what it printed.
    ///
    /// # Errors
    /// It failed, or the server is not one of ours.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let place = self.place.as_ref().context("not a server of ours")?;
        let output = Command::new(CTL)
            .args(["-q", "-n", &place.node])
            .args(args)
            .env("HOME", &place.home)
            .env("ERL_EPMD_PORT", &place.name_server)
            .output()?;
        if !output.status.success() {
            let (out, err) = (output.stdout, output.stderr);
            bail!(
                "rabbitmqctl {args:?}: {}{}",
                String::from_utf8_lossy(&out),
                String::from_utf8_lossy(&err)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a node, or takes the one at `TEST_RABBITMQ` (an address), which must hold the users
    /// of `DEFINITIONS`.
    ///
    /// # Errors
    /// It is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        if let Ok(address) = env::var("TEST_RABBITMQ") {
            let address = address.parse().context("TEST_RABBITMQ")?;
            return Ok(Self {
                address,
                place: None,
                _processes: Vec::new(),
                _folder: None,
            });
        }
        if !Path::new(SERVER).exists() {
            bail!("{SERVER} is missing: install the package rabbitmq-server");
        }
        let folder = TempDir::with_prefix("rabbitmq-")?;
        let (address, name_server, distribution) =
            (free_address()?, free_address()?, free_address()?);
        let home = folder.path();
        fs::write(home.join("plugins"), PLUGINS)?;
        fs::write(home.join("definitions.json"), DEFINITIONS)?;
        let definitions = home.join("definitions.json");
        fs::write(
            home.join("rabbitmq.conf"),
            format!(
                "log.console = false\nload_definitions = {}\n",
                definitions.display()
            ),
        )?;
        let port = name_server.port().to_string();
        let name = format!("oracle{}@localhost", address.port());
        let place = Place {
            home: home.to_owned(),
            node: name.clone(),
            name_server: port.clone(),
        };
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &port, "-address", "127.0.0.1"]);
        let epmd = Process::start(&mut epmd, &home.join("epmd.log"))?;
        let mut command = Command::new(SERVER);
        command
            .env("HOME", home)
            .env("ERL_EPMD_PORT", port)
            .env("RABBITMQ_NODENAME", name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", address.port().to_string())
            .env("RABBITMQ_DIST_PORT", distribution.port().to_string())
            .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", home.join("env.conf"))
            // The start script then becomes the node itself, instead of waiting for it.
            .env("detached", "1");
        let mut node = Process::start(&mut command, &home.join("node.log"))?;
        node.await_port(address, Duration::from_secs(120))
            .context("starting RabbitMQ")?;
        Ok(Self {
            address,
            place: Some(place),
            _processes: vec![node, epmd],
            _folder: Some(folder),
        })
    }
}

/// Exchange types that come with the package.
const PLUGINS: &str = "[rabbitmq_consistent_hash_exchange,rabbitmq_random_exchange,\
                       rabbitmq_recent_history_exchange,rabbitmq_sharding].";

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// Users, vhosts and limits that the conversations count on; our servers take the same file.
pub const DEFINITIONS: &str = include_str!("../conversation/definitions.json");
