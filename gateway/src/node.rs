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
use store::sql::postgres::{Postgres, Standing};
use store::{Options, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Listen, Listener, StoreUrl};
use crate::http::Gate;
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

/// Serves until SIGTERM or SIGINT. Where nodes share a store, this one waits until it is the owner,
/// and again when another took over from it.
///
/// # Errors
/// The store cannot be opened, or an address cannot be listened on.
pub async fn run(config: Config, first: First, recorder: PrometheusHandle) -> anyhow::Result<()> {
    // Taken before anything is stored, so that a second node on the same ports changes nothing.
    let tls = config.tls.clone().map(Tls::load).transpose()?;
    let node = Node {
        tls,
        config,
        first,
        recorder,
        gate: Gate::new(),
        ended: ended()?,
    };
    let mut amqp = Some(node.doors([Listener::Amqp, Listener::Amqps]).await?);
    let web = node.doors([Listener::Http, Listener::Https]).await?;
    if let Some(tls) = &node.tls {
        tls.clone().watch(node.ended.clone())?;
    }
    // A standby is not there for AMQP: clients go on to the next address.
    if let StoreUrl::Postgres(_) = node.config.store {
        amqp = None;
    }
    let addresses = addresses(&web, ["http", "https"]);
    let requests = http::serve(web, node.gate.clone(), node.ended.clone());
    loop {
        let Some(backend) = node.backend().await? else {
            break;
        };
        let doors = match amqp.take() {
            Some(doors) => doors,
            None => node.doors([Listener::Amqp, Listener::Amqps]).await?,
        };
        if !node.serve(backend, doors, &addresses).await? {
            break;
        }
        tracing::warn!("standing by again");
    }
    if tokio::time::timeout(GOODBYE_WITHIN, requests)
        .await
        .is_err()
    {
        tracing::warn!("some requests did not end in time");
    }
    tracing::info!("stopped");
    Ok(())
}

/// What outlives each time that this node owns its store.
struct Node {
    config: Config,
    first: First,
    recorder: PrometheusHandle,
    tls: Option<Arc<Tls>>,
    gate: Gate,
    /// Cancelled by a signal.
    ended: CancellationToken,
}

impl Node {
    async fn doors(&self, protocols: [Listener; 2]) -> anyhow::Result<Vec<Door>> {
        doors(&self.config.listen, protocols, self.tls.as_ref()).await
    }

    /// The store, once it is this node's; `None` when it is to end before.
    async fn backend(&self) -> anyhow::Result<Option<Arc<dyn Backend>>> {
        let (standing, known) = watch::channel(Standing::default());
        self.gate.stand_by(known, self.recorder.clone());
        tokio::select! {
            opened = backend(&self.config, Some(&standing)) => opened.map(Some),
            () = self.ended.cancelled() => Ok(None),
        }
    }

    /// Serves with the store; true when it went to another node.
    async fn serve(
        &self,
        backend: Arc<dyn Backend>,
        amqp: Vec<Door>,
        web: &(String, String),
    ) -> anyhow::Result<bool> {
        let config = &self.config;
        let options = Options {
            work_rules_all: config.work_rules_all,
            // As in RabbitMQ, a file of definitions stands for the first user.
            default_user: config
                .load_definitions
                .is_none()
                .then(|| (self.first.user.clone(), self.first.password.clone())),
            default_vhost: self.first.vhost.clone(),
            consumer_timeout_ms: config.consumer_timeout_ms,
            ..Options::default()
        };
        let store = Store::open(backend.clone(), options).await?;
        if let Some(path) = &config.load_definitions {
            load_definitions(&store, path).await?;
        }
        let ticker = Ticker::start(store.clone(), config.schedules.clone()).await?;
        let ticker = Arc::new(ticker);
        let janitor = Janitor::start(store.clone());
        let stop = self.ended.child_token();
        alarm::watch(store.clone(), config.alarm, stop.clone());
        banner(config, &self.first.user, &amqp, web);
        let shared = Shared::new("RabbitMQ", "4.2.0", amqp::limits::MESSAGE_MAX);
        let shared = shared.with(config.auth.clone(), config.listen.connections_max);
        let sessions = listen::serve(amqp, store.clone(), Arc::new(shared), room(), stop.clone());
        // Before anybody is told that the node is ready.
        let commands = admin::socket::serve(&config.data_dir, store.clone(), stop.clone()).await;
        self.gate.open(http::App {
            store: store.clone(),
            ticker: ticker.clone(),
            calls: config.calls,
            recorder: self.recorder.clone(),
            stop: stop.clone(),
            leases: http::LeaseNames::default(),
        });
        let lost = tokio::select! {
            () = self.ended.cancelled() => false,
            reason = backend.lost() => {
                tracing::error!(reason, "another node may own the store: all clients are let go");
                true
            }
        };
        tracing::info!("stopping");
        stop.cancel();
        if tokio::time::timeout(GOODBYE_WITHIN, sessions)
            .await
            .is_err()
        {
            tracing::warn!("some connections did not end in time");
        }
        if let Some(commands) = commands {
            let _ = commands.await;
        }
        ticker.stop().await;
        janitor.stop().await;
        store.stop().await;
        Ok(lost)
    }
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
        StoreUrl::Memory | StoreUrl::Postgres(_) => None,
        StoreUrl::Sqlite(Some(path)) => Some(path.clone()),
        StoreUrl::Sqlite(None) => Some(config.data_dir.join("leveret.db")),
    }
}

/// Opens the store. Where nodes share it, waits until it is this one's and says for what; without
/// anybody to say it to, another owner is an error.
pub(crate) async fn backend(
    config: &Config,
    standing: Option<&watch::Sender<Standing>>,
) -> anyhow::Result<Arc<dyn Backend>> {
    if let StoreUrl::Postgres(shared) = &config.store {
        return match (shared.place()?, standing) {
            (Place::Postgres(target, options), Some(standing)) => {
                let opened = Postgres::open(*target, options, standing).await?;
                Ok(Arc::new(opened))
            }
            (place, _) => Ok(place.open().await?),
        };
    }
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
fn banner(config: &Config, user: &str, amqp: &[Door], (web_list, web): &(String, String)) {
    let (amqp_list, amqp) = addresses(amqp, ["amqp", "amqps"]);
    let login = match user {
        "guest" => "guest / guest, from this machine only".to_owned(),
        other => format!("{other}, with the password you set at the first start"),
    };
    let data = match (&config.store, database(config)) {
        (StoreUrl::Postgres(shared), _) => format!("{shared:?}"),
        (_, Some(path)) => path.display().to_string(),
        (_, None) => "in memory: nothing survives a restart".to_owned(),
    };
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

/// Cancelled by the first signal that asks for an end.
fn ended() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let ended = CancellationToken::new();
    let told = ended.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        told.cancel();
    });
    Ok(ended)
}
