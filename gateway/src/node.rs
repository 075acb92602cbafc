//! One running node: what starts, in which order, and how it ends.
//!
//! Keeps: listeners open only after recovery and the schedules' targets; a stop loses nothing:
//! sessions close first, then time stops, then the store drains.
//! Never: reads the environment or the file; `config` did.
//! In: `cli`.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::janitor::Janitor;
use scheduler::ticker::Ticker;
use store::sql::Backend;
use store::sql::memory::Memory;
use store::sql::place::Place;
use store::{Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Listen, Listener, StoreUrl};
use crate::listen::{Door, Room};
use crate::session::Shared;
use crate::tls::Tls;
use crate::{admin, alarm, definitions, http, listen};

/// How long requests and sessions under way may take to end.
const GOODBYE_WITHIN: Duration = Duration::from_secs(10);

/// Descriptors that AMQP connections leave to the database, HTTP and the log.
const KEPT: usize = 128;
/// Linux's number for an address family that the kernel was built without.
const EAFNOSUPPORT: i32 = 97;

/// The first user and vhost, made when the store has none.
pub struct First {
    pub user: String,
    pub password: String,
    pub vhost: String,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The store cannot be opened, or an address cannot be listened on.
pub async fn run(config: Config, first: First, recorder: PrometheusHandle) -> anyhow::Result<()> {
    // Taken before anything is stored, so that a second node on the same ports changes nothing.
    let tls = config.tls.clone().map(Tls::load).transpose()?;
    let amqp = doors(
        &config.listen,
        [Listener::Amqp, Listener::Amqps],
        tls.as_ref(),
    )
    .await?;
    let web = doors(
        &config.listen,
        [Listener::Http, Listener::Https],
        tls.as_ref(),
    )
    .await?;
    let options = Options {
        work_rules_all: config.work_rules_all,
        // As in RabbitMQ, a file of definitions stands for the first user.
        default_user: config
            .load_definitions
            .is_none()
            .then(|| (first.user.clone(), first.password)),
        default_vhost: first.vhost,
        consumer_timeout_ms: config.consumer_timeout_ms,
        ..Options::default()
    };
    let store = Store::open(backend(&config).await?, options).await?;
    if let Some(path) = &config.load_definitions {
        load_definitions(&store, path).await?;
    }
    let ticker = Ticker::start(store.clone(), config.schedules.clone()).await?;
    let ticker = Arc::new(ticker);
    let janitor = Janitor::start(store.clone());
    let stop = CancellationToken::new();
    alarm::watch(store.clone(), config.alarm, stop.clone());
    if let Some(tls) = tls {
        tls.watch(stop.clone())?;
    }
    banner(&config, &first.user, &amqp, &web);
    let shared = Shared::new("RabbitMQ", "4.2.0", amqp::limits::MESSAGE_MAX);
    let shared = Arc::new(shared.with(config.auth.clone(), config.listen.connections_max));
    let sessions = listen::serve(amqp, store.clone(), shared, room(), stop.clone());
    let app = http::App {
        store: store.clone(),
        ticker: ticker.clone(),
        calls: config.calls,
        recorder,
        stop: stop.clone(),
        leases: http::LeaseNames::default(),
    };
    let requests = http::serve(web, app);
    let commands = admin::socket::serve(&config.data_dir, store.clone(), stop.clone()).await;
    ended().await?;
    tracing::info!("stopping");
    stop.cancel();
    let goodbye = async { tokio::join!(sessions, requests) };
    if tokio::time::timeout(GOODBYE_WITHIN, goodbye).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    if let Some(commands) = commands {
        let _ = commands.await;
    }
    ticker.stop().await;
    janitor.stop().await;
    store.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Before anybody connects, so that no client finds half of it.
async fn load_definitions(store: &Store, path: &Path) -> anyhow::Result<()> {
    let failed = || format!("load_definitions: {}", path.display());
    let text = std::fs::read_to_string(path).with_context(failed)?;
    let all = definitions::read(&text, None).with_context(failed)?;
    let left_out = store.lock().import(all).with_context(failed)?;
    for (binding, error) in left_out {
        let (vhost, source, destination) = (&*binding.vhost, &*binding.source, binding.destination);
        tracing::warn!(vhost, source, destination = &*destination, %error, "a binding is left out");
    }
    store.on_disk().await?;
    tracing::info!("definitions loaded");
    Ok(())
}

/// Opens the addresses of a protocol, without and with TLS.
async fn doors(
    listen: &Listen,
    [plain, secure]: [Listener; 2],
    tls: Option<&Arc<Tls>>,
) -> anyhow::Result<Vec<Door>> {
    let mut doors = Vec::new();
    for (name, tls) in [(plain, None), (secure, tls)] {
        for address in listen.of(name) {
            let listener = match TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) if is_spare(*address, &doors, &error) => {
                    tracing::info!(%address, "this machine has no such address");
                    continue;
                }
                Err(error) => return Err(error).context(format!("cannot listen on {address}")),
            };
            doors.push(Door {
                listener,
                proxied: listen.proxied.contains(&name),
                tls: tls.cloned(),
            });
        }
    }
    Ok(doors)
}

/// Many a machine has no IPv6: `::1` is left out beside 127.0.0.1 with the same port.
fn is_spare(address: SocketAddr, doors: &[Door], error: &io::Error) -> bool {
    let missing = matches!(
        error.kind(),
        ErrorKind::AddrNotAvailable | ErrorKind::Unsupported
    );
    let twin = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    let mut open = doors
        .iter()
        .filter_map(|door| door.listener.local_addr().ok());
    let no_family = error.raw_os_error() == Some(EAFNOSUPPORT);
    (missing || no_family) && address.is_ipv6() && open.any(|other| other == twin)
}

/// As many descriptors as the system allows, less what store, HTTP and log need.
fn room() -> Arc<Room> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let most = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let most = most.and_then(|most| usize::try_from(most).ok());
    Room::new(most.map_or(usize::MAX, |most| most.saturating_sub(KEPT)))
}

/// The database's file; none in memory.
pub(crate) fn database(config: &Config) -> Option<PathBuf> {
    match &config.store {
        StoreUrl::Memory => None,
        StoreUrl::Sqlite(Some(path)) => Some(path.clone()),
        StoreUrl::Sqlite(None) => Some(config.data_dir.join("leveret.db")),
    }
}

pub(crate) async fn backend(config: &Config) -> anyhow::Result<Arc<dyn Backend>> {
    let Some(path) = database(config) else {
        return Ok(Arc::new(Memory::new()));
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(Place::Sqlite(path).open().await?)
}

#[expect(clippy::print_stdout, reason = "what a new user reads first")]
fn banner(config: &Config, user: &str, amqp: &[Door], web: &[Door]) {
    let (amqp_list, amqp) = addresses(amqp, ["amqp", "amqps"]);
    let (web_list, web) = addresses(web, ["http", "https"]);
    let login = match user {
        "guest" => "guest / guest, from this machine only".to_owned(),
        other => format!("{other}, with the password you set at the first start"),
    };
    let data = database(config).map_or_else(
        || "in memory: nothing survives a restart".to_owned(),
        |path| path.display().to_string(),
    );
    let file = config
        .file
        .as_ref()
        .map_or_else(|| "none".to_owned(), |f| f.display().to_string());
    println!("Leveret {}", env!("CARGO_PKG_VERSION"));
    println!("  AMQP 0-9-1   {amqp_list}");
    println!("  HTTP         {web_list}");
    println!("  login        {login}");
    println!("  data         {data}");
    println!(
        "  config       {file}, {} schedules",
        config.schedules.len()
    );
    println!();
    println!("Try next:");
    println!("  1. connect any RabbitMQ client to {amqp}/, or run examples/python/worker_fib.py");
    println!("  2. curl -i -u guest:guest -d '{{\"n\":30}}' {web}/v1/calls/queue/fib");
    println!("  3. put a [[schedule]] into leveret.toml: docs/guide/schedules.md");
}

/// All as one text, and the first alone.
fn addresses(doors: &[Door], schemes: [&str; 2]) -> (String, String) {
    let address = |door: &Door| {
        let scheme = schemes[usize::from(door.tls.is_some())];
        let address = door.listener.local_addr().ok()?;
        Some(format!("{scheme}://{address}"))
    };
    let all: Vec<_> = doors.iter().filter_map(address).collect();
    let first = all.first().cloned();
    (all.join("  "), first.unwrap_or_else(|| "(nothing)".into()))
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
