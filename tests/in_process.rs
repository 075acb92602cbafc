//! The server in this process: pipes instead of sockets, the engine in memory, time that jumps.
//!
//! Keeps: one thread, so that time passes only when nobody has anything left to do; a wait of an
//! hour costs nothing, and "nothing comes" is certain.
//! Never: goes round the doors of the product: a pipe ends in the session that a socket ends in.
//! In: `conversation.rs`, the only test program that links the product.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway::definitions;
use gateway::listen::Peer;
use gateway::session::{self, Shared};
use store::Store;
use store::clock::simulation;
use store::sql::Backend;
use store::sql::memory::Memory;
use tests::conversation::client::{Client, Opening};
use tests::conversation::stage::Stage;
use tests::rabbitmq::DEFINITIONS;
use tests::wire::content::{Content, position};
use tests::wire::method::Method;
use tests::wire::value::Value;
use tokio::io::DuplexStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A store and the sessions on it.
pub(crate) struct InProcess {
    store: Store,
    shared: Arc<Shared>,
    stop: CancellationToken,
    sessions: Mutex<JoinSet<()>>,
}

/// A runtime whose time stands still while there is something to do.
///
/// # Errors
/// The operating system refuses.
pub(crate) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

impl InProcess {
    /// A fresh node, on the runtime of the caller.
    ///
    /// # Errors
    /// The store does not open.
    pub(crate) async fn start() -> Result<Self> {
        simulation::follow_runtime();
        Self::start_on(Arc::new(Memory::new())).await
    }

    async fn start_on(engine: Arc<Memory>) -> Result<Self> {
        let store = Store::open(engine, store::Options::default()).await?;
        store.lock().import(definitions::read(DEFINITIONS, None)?)?;
        store.on_disk().await?;
        let message_max = amqp::limits::MESSAGE_MAX;
        Ok(Self {
            store,
            shared: Arc::new(Shared::new("RabbitMQ", "4.2.0", message_max)),
            stop: CancellationToken::new(),
            sessions: Mutex::default(),
        })
    }

    /// Turns the fire-hose on.
    ///
    /// # Errors
    /// The vhost is gone.
    pub(crate) fn trace(&self) -> Result<()> {
        Ok(self.store.set_tracing("/", true)?)
    }

    /// Ends it as the binary ends, when all clients have gone.
    ///
    /// # Errors
    /// A session panicked, or something of a client is still there.
    pub(crate) async fn stop(self) -> Result<()> {
        sleep(GOODBYE).await;
        let left = self.store.stats();
        self.stop.cancel();
        let mut sessions = self
            .sessions
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = sessions.join_next().await {
            ended?;
        }
        self.store.stop().await;
        ensure!(left.connections == 0, "{} sessions left", left.connections);
        let names: Vec<_> = left.queues.iter().map(|queue| &queue.name).collect();
        ensure!(names.is_empty(), "queues left: {names:?}");
        let bytes = left.resident_bytes;
        ensure!(bytes == 0, "{bytes} bytes of messages left");
        Ok(())
    }
}

impl InProcess {
    pub(crate) fn store(&self) -> Store {
        self.store.clone()
    }

    /// A connection to it.
    pub(crate) fn stream(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(PIPE);
        let peer = Peer {
            address: Some(([127, 0, 0, 1], 5672).into()),
            local: Some(([127, 0, 0, 1], 5672).into()),
            tls: false,
            certified: None,
        };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.spawn(session::run(
            server,
            peer,
            self.store.clone(),
            self.shared.clone(),
            self.stop.clone(),
        ));
        client
    }
}

impl Stage for InProcess {
    type Stream = DuplexStream;

    fn name(&self) -> &'static str {
        "leveret in process"
    }

    fn family(&self) -> &'static str {
        "leveret"
    }

    fn has_virtual_time(&self) -> bool {
        true
    }

    async fn connect(&self) -> io::Result<DuplexStream> {
        Ok(self.stream())
    }
}

/// After a restart no body is in memory, and nobody comes to ask for one.
#[test]
fn a_ttl_runs_on_over_a_restart() -> Result<()> {
    runtime()?.block_on(async {
        let dead_letters = vec![
            ("x-dead-letter-exchange".to_owned(), Value::str("")),
            ("x-dead-letter-routing-key".to_owned(), Value::str("dead")),
        ];
        let durable = |method: Method| method.with("durable", Value::Bool(true));
        let queue =
            |name| durable(Method::named("queue.declare")?.with("queue", Value::str(name))?);
        let declare = [
            queue("dead")?,
            queue("wait")?.with("arguments", Value::Table(dead_letters))?,
        ];
        let publish = Method::named("basic.publish")?.with("routing-key", Value::str("wait"))?;
        let property = ("expiration", Value::str("60000"));
        let disk = after_a_crash(&declare, &publish, property).await?;
        let after = InProcess::start_on(disk).await?;
        sleep(Duration::from_secs(59)).await;
        assert_eq!(ready(&after, ["wait", "dead"]), [Some(1), Some(0)]);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(ready(&after, ["wait", "dead"]), [Some(0), Some(1)]);
        Ok(())
    })
}

/// What an exchange delays is a row like any other.
#[test]
fn a_delay_runs_on_over_a_restart() -> Result<()> {
    runtime()?.block_on(async {
        let durable = |method: Method| method.with("durable", Value::Bool(true));
        let inner = vec![("x-delayed-type".to_owned(), Value::str("fanout"))];
        let declare = [
            durable(Method::named("exchange.declare")?.with("exchange", Value::str("later"))?)?
                .with("type", Value::str("x-delayed-message"))?
                .with("arguments", Value::Table(inner))?,
            durable(Method::named("queue.declare")?.with("queue", Value::str("q"))?)?,
            Method::named("queue.bind")?
                .with("queue", Value::str("q"))?
                .with("exchange", Value::str("later"))?,
        ];
        let publish = Method::named("basic.publish")?.with("exchange", Value::str("later"))?;
        let delay = Value::Table(vec![("x-delay".to_owned(), Value::int(60_000))]);
        let disk = after_a_crash(&declare, &publish, ("headers", delay)).await?;
        let after = InProcess::start_on(disk.clone()).await?;
        sleep(Duration::from_secs(59)).await;
        assert_eq!(ready(&after, ["q"]), [Some(0)]);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(ready(&after, ["q"]), [Some(1)]);
        // It moved on in one commit: another crash neither loses nor doubles it.
        after.store.on_disk().await?;
        let again = InProcess::start_on(Arc::new(disk.crash())).await?;
        sleep(Duration::from_secs(120)).await;
        assert_eq!(ready(&again, ["q"]), [Some(1)]);
        let stats = again.store.stats().queues;
        assert!(stats.iter().all(|queue| queue.waiting == 0));
        Ok(())
    })
}

/// Dead, with nowhere to go, it is kept; why it died is on disk with it.
#[test]
fn a_dead_message_is_kept_over_a_restart() -> Result<()> {
    runtime()?.block_on(async {
        let arguments = vec![
            (
                "x-dead-letter-strategy".to_owned(),
                Value::str("at-least-once"),
            ),
            ("x-overflow".to_owned(), Value::str("reject-publish")),
            ("x-dead-letter-exchange".to_owned(), Value::str("later")),
        ];
        let queue = |name| {
            let declare = Method::named("queue.declare")?.with("queue", Value::str(name))?;
            declare.with("durable", Value::Bool(true))
        };
        let declare = [queue("q")?.with("arguments", Value::Table(arguments))?];
        let publish = Method::named("basic.publish")?.with("routing-key", Value::str("q"))?;
        let property = ("expiration", Value::str("1000"));
        let disk = after_a_crash(&declare, &publish, property).await?;
        let dying = InProcess::start_on(disk.clone()).await?;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(ready(&dying, ["q"]), [Some(0)]);
        dying.store.on_disk().await?;
        let after = InProcess::start_on(Arc::new(disk.crash())).await?;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(ready(&after, ["q"]), [Some(0)], "no consumer gets it");
        let mut client = Client::new(after.connect().await?);
        client.open(&Opening::default(), GOODBYE).await?;
        client.open_channel(1, GOODBYE).await?;
        let exchange = Method::named("exchange.declare")?
            .with("exchange", Value::str("later"))?
            .with("type", Value::str("fanout"))?;
        let bind = Method::named("queue.bind")?
            .with("queue", Value::str("dead"))?
            .with("exchange", Value::str("later"))?;
        for method in [exchange, queue("dead")?, bind] {
            client.send(1, &method, None).await?;
            let answer = format!("{}-ok", method.spec.name);
            client.await_method(1, &answer, GOODBYE).await?;
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(ready(&after, ["q", "dead"]), [Some(0), Some(1)]);
        let get = Method::named("basic.get")?.with("queue", Value::str("dead"))?;
        client.send(1, &get, None).await?;
        let got = client.await_method(1, "basic.get-ok", GOODBYE).await?;
        let headers = got
            .content
            .and_then(|content| content.properties[2].clone());
        let headers = format!("{headers:?}");
        assert!(
            headers.contains("original-expiration") && !headers.contains("x-leveret"),
            "{headers}"
        );
        Ok(())
    })
}

/// Each restart would otherwise give a message that brings its consumers down new lives.
#[test]
fn returns_are_counted_over_restarts() -> Result<()> {
    runtime()?.block_on(async {
        let arguments = vec![
            ("x-queue-type".to_owned(), Value::str("quorum")),
            ("x-delivery-limit".to_owned(), Value::int(3)),
        ];
        let declare = [Method::named("queue.declare")?
            .with("queue", Value::str("q"))?
            .with("durable", Value::Bool(true))?
            .with("arguments", Value::Table(arguments))?];
        let publish = Method::named("basic.publish")?.with("routing-key", Value::str("q"))?;
        let property = ("message-id", Value::str("m"));
        let mut disk = after_a_crash(&declare, &publish, property).await?;
        for life in 0..4 {
            let server = InProcess::start_on(disk.clone()).await?;
            let mut client = Client::new(server.connect().await?);
            client.open(&Opening::default(), GOODBYE).await?;
            client.open_channel(1, GOODBYE).await?;
            let get = Method::named("basic.get")?.with("queue", Value::str("q"))?;
            client.send(1, &get, None).await?;
            let got = client.await_method(1, "basic.get-ok", GOODBYE).await?;
            let headers = got
                .content
                .and_then(|content| content.properties[2].clone());
            let count = match &headers {
                Some(Value::Table(headers)) => {
                    let found = headers.iter().find(|(name, _)| name == "x-delivery-count");
                    found.and_then(|(_, count)| count.as_int())
                }
                _ => None,
            };
            assert_eq!(count, (life > 0).then_some(life), "{headers:?}");
            let nack = Method::named("basic.nack")?
                .with("delivery-tag", Value::int(1))?
                .with("requeue", Value::Bool(true))?;
            client.send(1, &nack, None).await?;
            let qos = Method::named("basic.qos")?;
            client.send(1, &qos, None).await?;
            client.await_method(1, "basic.qos-ok", GOODBYE).await?;
            let left = u64::from(life < 3);
            assert_eq!(ready(&server, ["q"]), [Some(left)]);
            server.store.on_disk().await?;
            disk = Arc::new(disk.crash());
        }
        // Nothing of it is left behind.
        let image = disk.load().await;
        assert!(image.is_ok_and(|image| image.waiting.is_empty()));
        Ok(())
    })
}

/// Declares, publishes one persistent message, waits for its confirm, and crashes; answers what is
/// on the disk then.
async fn after_a_crash(
    declare: &[Method],
    publish: &Method,
    property: (&str, Value),
) -> Result<Arc<Memory>> {
    simulation::follow_runtime();
    let disk = Arc::new(Memory::new());
    let before = InProcess::start_on(disk.clone()).await?;
    let mut client = Client::new(before.connect().await?);
    client.open(&Opening::default(), GOODBYE).await?;
    client.open_channel(1, GOODBYE).await?;
    for method in declare {
        client.send(1, method, None).await?;
        client
            .await_method(1, &format!("{}-ok", method.spec.name), GOODBYE)
            .await?;
    }
    let confirm = Method::named("confirm.select")?;
    client.send(1, &confirm, None).await?;
    client.await_method(1, "confirm.select-ok", GOODBYE).await?;
    let mut content = Content::default();
    for (name, value) in [("delivery-mode", Value::int(2)), property] {
        let at = position(name).context("a property")?;
        content.properties[at] = Some(value);
    }
    client.send(1, publish, Some(&content)).await?;
    client.await_method(1, "basic.ack", GOODBYE).await?;
    Ok(Arc::new(disk.crash()))
}

/// Ready messages of queues.
fn ready<const N: usize>(server: &InProcess, queues: [&str; N]) -> [Option<u64>; N] {
    let found = server.store.stats().queues;
    queues.map(|queue| {
        let found = found.iter().find(|stats| &*stats.name == queue);
        found.map(|stats| stats.ready)
    })
}

/// Bytes under way in one direction; small, so that writers meet a full pipe.
const PIPE: usize = 16 << 10;

/// Longer than a session waits for its client to hang up.
const GOODBYE: Duration = Duration::from_secs(60);
