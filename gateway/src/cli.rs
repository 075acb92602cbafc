//! Flags, environment and commands of the `leveret` binary.
//!
//! Keeps: flags that scripts rely on; a command that fails exits with 1 and says why, and one on a
//! store with a number of its own.
//! Never: does the work; `node` does.
//! In: `main`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Given};
use crate::node::{self, First};
use crate::telemetry;

mod messages;
mod operate;
mod print;
mod running;
mod store;

use operate::Operate;

const HEALTH_WITHIN: Duration = Duration::from_secs(5);

/// An asynchronous-work server: RabbitMQ clients connect to it unchanged.
#[derive(Parser)]
#[command(name = "leveret", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
    /// Print lists as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server (the default).
    Serve,
    /// Read the configuration as `serve` would, and say what is wrong with it.
    CheckConfig,
    /// Ask the server on the HTTP address whether it is ready.
    Health,
    /// The store as a whole: look, check, back up, copy, migrate.
    #[command(subcommand)]
    Store(store::Stores),
    #[command(flatten)]
    Operate(Box<Operate>),
}

#[derive(Args)]
struct Flags {
    /// Configuration file; ./leveret.toml when it exists.
    #[arg(long, global = true, value_name = "FILE", env = "LEVERET_CONFIG")]
    config: Option<PathBuf>,
    /// Where the database lives; ./leveret-data.
    #[arg(long, global = true, value_name = "DIR", env = "LEVERET_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address for AMQP 0-9-1; 127.0.0.1:5672.
    #[arg(long, global = true, value_name = "ADDR", env = "LEVERET_AMQP_LISTEN")]
    amqp_listen: Option<SocketAddr>,
    /// Address for HTTP; 127.0.0.1:15672.
    #[arg(long, global = true, value_name = "ADDR", env = "LEVERET_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// sqlite, sqlite://FILE, postgres://USER@HOST/DATABASE or memory (nothing survives a restart).
    ///
    /// The password comes from LEVERET_STORE_PASSWORD, or the file that
    /// LEVERET_STORE_PASSWORD_FILE names.
    #[arg(long, global = true, value_name = "URL", env = "LEVERET_STORE")]
    store: Option<String>,
    /// error, warn, info, debug, or a filter as in info,store=debug.
    #[arg(long, global = true, value_name = "LEVEL", env = "LEVERET_LOG")]
    log: Option<String>,
}

/// Runs the command line's command to its end.
///
/// # Errors
/// Whatever made it fail, in words for the user.
pub fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let given = cli.flags.into();
    match cli.command {
        None | Some(Command::Serve) => serve(&given),
        Some(Command::CheckConfig) => check(&given),
        Some(Command::Health) => health(&given),
        Some(Command::Store(command)) => store::run(&given, command, cli.json),
        Some(Command::Operate(operate)) => operate::run(&given, *operate, cli.json),
    }
}

/// What the process ends with after this error: 1, but for commands on stores, which tell why.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<store::Ended>()
        .map_or(1, |ended| ended.code)
}

impl From<Flags> for Given {
    fn from(flags: Flags) -> Self {
        Self {
            file: flags.config,
            data_dir: flags.data_dir,
            amqp_listen: flags.amqp_listen,
            http_listen: flags.http_listen,
            store: flags.store,
            store_password: std::env::var("LEVERET_STORE_PASSWORD").ok(),
            store_password_file: std::env::var_os("LEVERET_STORE_PASSWORD_FILE").map(PathBuf::from),
            log: flags.log,
        }
    }
}

fn serve(given: &Given) -> anyhow::Result<()> {
    let config = config::load(given)?;
    telemetry::log(&config.log, config.log_json)?;
    for schedule in &config.schedules {
        if let Some(warning) = schedule.plan.expression.warning() {
            tracing::warn!(schedule = schedule.name, "{warning}");
        }
    }
    let first = first()?;
    let recorder = telemetry::metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(node::run(config, first, recorder))
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn check(given: &Given) -> anyhow::Result<()> {
    let config = config::load(given)?;
    match &config.file {
        Some(file) => println!(
            "{}: ok, {} schedules",
            file.display(),
            config.schedules.len()
        ),
        None => println!("no configuration file; the defaults hold"),
    }
    for schedule in &config.schedules {
        if let Some(warning) = schedule.plan.expression.warning() {
            println!("warning: schedule {}: {warning}", schedule.name);
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn health(given: &Given) -> anyhow::Result<()> {
    let listen = config::load(given)?.listen;
    let address = *listen.http.first().context("no HTTP address to ask")?;
    let mut socket = TcpStream::connect_timeout(&address, HEALTH_WITHIN)
        .with_context(|| format!("nothing answers on {address}"))?;
    socket.set_read_timeout(Some(HEALTH_WITHIN))?;
    let ask = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(ask.as_bytes())?;
    let mut answer = String::new();
    socket.take(64 << 10).read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!(
            "not ready: {}",
            answer.lines().next().unwrap_or("no answer")
        );
    }
    println!("ready");
    Ok(())
}

/// The first user and vhost.
fn first() -> anyhow::Result<First> {
    Ok(First {
        user: setting("RABBITMQ_DEFAULT_USER", "guest")?,
        password: setting("RABBITMQ_DEFAULT_PASS", "guest")?,
        vhost: setting("RABBITMQ_DEFAULT_VHOST", "/")?,
    })
}

/// A variable, the contents of the file that `<name>_FILE` names, or the default.
fn setting(name: &str, default: &str) -> anyhow::Result<String> {
    if let Some(path) = std::env::var_os(format!("{name}_FILE")) {
        let path = PathBuf::from(path);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{name}_FILE: {}", path.display()))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(std::env::var(name).unwrap_or_else(|_| default.to_owned()))
}
