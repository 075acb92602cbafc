//! The `leveret` binary: flags, start, stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use gateway::listen;
use gateway::session::Shared;
use store::sql::Backend;
use store::sql::memory::Memory;
use store::sql::sqlite::{self, Sqlite};
use store::{Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An asynchronous-work server: RabbitMQ clients connect to it unchanged.
#[derive(Parser)]
#[command(name = "leveret", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server (the default).
    Serve(Serve),
}

#[derive(clap::Args, Clone)]
struct Serve {
    /// Where the database lives.
    #[arg(long, env = "LEVERET_DATA_DIR", default_value = "./leveret-data")]
    data_dir: PathBuf,
    /// Address for AMQP 0-9-1.
    #[arg(long, env = "LEVERET_AMQP_LISTEN", default_value = "127.0.0.1:5672")]
    amqp_listen: SocketAddr,
    /// `sqlite` (in the data directory) or `memory` (nothing survives a restart).
    #[arg(long, env = "LEVERET_STORE", default_value = "sqlite")]
    store: String,
    /// error, warn, info, debug or a filter as in `info,store=debug`.
    #[arg(long, env = "LEVERET_LOG", default_value = "info")]
    log: String,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let serve = match cli.command {
        Some(Command::Serve(serve)) => serve,
        None => cli.serve,
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&serve.log).context("--log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(serve))
}

async fn run(serve: Serve) -> anyhow::Result<()> {
    let backend: Arc<dyn Backend> = match serve.store.as_str() {
        "memory" => Arc::new(Memory::new()),
        "sqlite" => {
            let path = serve.data_dir.join("leveret.db");
            Arc::new(Sqlite::open(&path, sqlite::Options::default()).await?)
        }
        other => bail!("--store {other}: expected sqlite or memory"),
    };
    let user = std::env::var("RABBITMQ_DEFAULT_USER").unwrap_or_else(|_| "guest".into());
    let password = std::env::var("RABBITMQ_DEFAULT_PASS").unwrap_or_else(|_| "guest".into());
    let options = Options {
        default_user: (user, password),
        ..Options::default()
    };
    let store = Store::open(backend, options).await?;
    let listener = TcpListener::bind(serve.amqp_listen)
        .await
        .with_context(|| format!("cannot listen on {}", serve.amqp_listen))?;
    let stop = CancellationToken::new();
    let shared = Arc::new(Shared::new("RabbitMQ", "4.2.0", amqp::limits::MESSAGE_MAX));
    let serving = listen::serve(listener, store.clone(), shared, stop.clone());
    let housekeeping = tokio::spawn(maintain(store.clone(), stop.clone()));
    banner(&serve);
    ended().await?;
    tracing::info!("stopping");
    stop.cancel();
    serving.await?;
    housekeeping.await?;
    store.stop().await;
    Ok(())
}

/// Checkpoints, off the commit path.
async fn maintain(store: Store, stop: CancellationToken) {
    let mut interval = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        if let Err(error) = store.backend().maintain().await {
            tracing::warn!(%error, "housekeeping failed, trying again");
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a new user reads first")]
fn banner(serve: &Serve) {
    println!("Leveret {}", env!("CARGO_PKG_VERSION"));
    println!(
        "  AMQP 0-9-1   amqp://{}   (guest/guest, from this machine only)",
        serve.amqp_listen
    );
    println!("  data         {}", serve.data_dir.display());
    println!("Server startup complete");
}

async fn ended() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
