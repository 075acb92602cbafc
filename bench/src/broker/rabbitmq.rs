//! RabbitMQ as a child process: node, ports, files and name service all of our own.
//!
//! Keeps: nothing outside the given directory, not even Erlang's cookie (`HOME` points there).
//! Never: runs Debian's wrapper, which would switch to another user, and never a plug-in.
//! In: `broker`. Defaults are otherwise those of the package: classic queues, no configuration.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Process, bound_to_us, free_address};

const EPMD_WITHIN: Duration = Duration::from_secs(5);

/// Starts a name service, so that the node does not start one that outlives it.
pub(super) fn start_epmd(dir: &Path) -> Result<(Process, u16)> {
    let port = free_address()?.port();
    let mut command = bound_to_us(Path::new("epmd"));
    command
        .args(["-port", &port.to_string()])
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    let process = Process::spawn(&mut command, &dir.join("epmd.log"))?;
    let end = Instant::now() + EPMD_WITHIN;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > end {
            bail!("epmd does not answer on port {port}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok((process, port))
}

pub(super) fn command(
    program: &Path,
    dir: &Path,
    amqp: SocketAddr,
    distribution_port: u16,
    epmd_port: u16,
) -> Result<Command> {
    let plugins = dir.join("enabled_plugins");
    fs::write(&plugins, "[].\n").context("write the list of plug-ins")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = bound_to_us(program);
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"))
        .env("HOME", dir)
        // The script then replaces itself by the Erlang machine, so that our child is the broker.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env(
            "RABBITMQ_NODENAME",
            format!("bench{}@localhost", amqp.port()),
        )
        .env("RABBITMQ_NODE_IP_ADDRESS", amqp.ip().to_string())
        .env("RABBITMQ_NODE_PORT", amqp.port().to_string())
        .env("RABBITMQ_DIST_PORT", distribution_port.to_string())
        .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
        .env("RABBITMQ_CONFIG_FILE", dir.join("none"))
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"));
    Ok(command)
}
