//! What the lapin suites share: a connection a test, unique names, waiting.
//!
//! Every name carries a random prefix and is deleted after its test. AMQP_URL names the broker.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, Error, ErrorKind,
    ExchangeKind,
};

pub const PATIENCE: Duration = Duration::from_secs(15);

pub fn url() -> String {
    let url =
        std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@localhost:5672/".into());
    // lapin takes a bare "/" as the vhost with the empty name.
    match url.strip_suffix('/') {
        Some(bare) => format!("{bare}/%2f"),
        None => url,
    }
}

pub async fn connect(url: &str) -> Result<Connection, Error> {
    Connection::connect(url, ConnectionProperties::default()).await
}

pub struct World {
    pub prefix: String,
    pub connection: Connection,
    queues: Mutex<BTreeSet<String>>,
    exchanges: Mutex<BTreeSet<String>>,
}

/// Runs one test with a connection of its own, and cleans up behind it.
pub fn check<F, T>(body: F)
where
    F: FnOnce(std::sync::Arc<World>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = std::sync::Arc::new(World {
            prefix: format!(
                "clients-rust-{}",
                &uuid::Uuid::new_v4().simple().to_string()[..12]
            ),
            connection: connect(&url()).await.unwrap(),
            queues: Mutex::default(),
            exchanges: Mutex::default(),
        });
        let outcome = tokio::spawn(tokio::time::timeout(4 * PATIENCE, body(world.clone()))).await;
        world.clean().await;
        match outcome {
            Ok(in_time) => in_time.expect("the test took too long"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    });
}

impl World {
    pub async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    pub async fn confirm_channel(&self) -> Channel {
        let channel = self.channel().await;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        channel
    }

    pub fn queue_name(&self, label: &str) -> String {
        let name = format!("{}-{label}", self.prefix);
        self.queues.lock().unwrap().insert(name.clone());
        name
    }

    pub async fn queue(&self, channel: &Channel, label: &str, arguments: FieldTable) -> String {
        let name = self.queue_name(label);
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .queue_declare(name.as_str().into(), options, arguments)
            .await
            .unwrap();
        name
    }

    pub async fn exchange(&self, channel: &Channel, label: &str, kind: ExchangeKind) -> String {
        let name = format!("{}-{label}", self.prefix);
        self.exchanges.lock().unwrap().insert(name.clone());
        let options = ExchangeDeclareOptions::default();
        channel
            .exchange_declare(name.as_str().into(), kind, options, FieldTable::default())
            .await
            .unwrap();
        name
    }

    async fn clean(&self) {
        let connection = connect(&url()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let _ = self.connection.close(200, "done".into()).await;
        let (queues, exchanges) = (
            self.queues.lock().unwrap().clone(),
            self.exchanges.lock().unwrap().clone(),
        );
        for queue in queues {
            channel
                .queue_delete(queue.into(), QueueDeleteOptions::default())
                .await
                .unwrap();
        }
        for exchange in exchanges {
            channel
                .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
                .await
                .unwrap();
        }
        connection.close(200, "done".into()).await.unwrap();
    }
}

pub async fn declare(
    channel: &Channel,
    queue: &str,
    options: QueueDeclareOptions,
) -> Result<lapin::Queue, Error> {
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
}

pub async fn passive(channel: &Channel, queue: &str) -> Result<lapin::Queue, Error> {
    declare(
        channel,
        queue,
        QueueDeclareOptions {
            passive: true,
            ..Default::default()
        },
    )
    .await
}

/// How many messages are ready, after all that this channel sent before.
pub async fn ready(channel: &Channel, queue: &str) -> u32 {
    passive(channel, queue).await.unwrap().message_count()
}

pub async fn until_ready(channel: &Channel, queue: &str, count: u32) {
    let deadline = Instant::now() + PATIENCE;
    while ready(channel, queue).await != count {
        assert!(
            Instant::now() < deadline,
            "waited too long for {count} messages"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) {
    let options = BasicPublishOptions::default();
    let sent = channel
        .basic_publish(exchange.into(), key.into(), options, body, properties)
        .await
        .unwrap();
    // On a channel with confirms this waits for one.
    sent.await.unwrap();
}

/// Publishes the bodies to the queue and waits until they are all in it.
pub async fn fill(channel: &Channel, queue: &str, bodies: &[String]) {
    let before = ready(channel, queue).await;
    for body in bodies {
        publish(
            channel,
            "",
            queue,
            body.as_bytes(),
            BasicProperties::default(),
        )
        .await;
    }
    until_ready(channel, queue, before + bodies.len() as u32).await;
}

/// Fetches one message, waiting for it to be routed.
pub async fn get(channel: &Channel, queue: &str, no_ack: bool) -> Delivery {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(message) = channel
            .basic_get(queue.into(), BasicGetOptions { no_ack })
            .await
            .unwrap()
        {
            return message.delivery;
        }
        assert!(Instant::now() < deadline, "no message in {queue}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn consume(channel: &Channel, queue: &str, no_ack: bool) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack,
        ..Default::default()
    };
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .unwrap()
}

pub async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut got = Vec::new();
    while got.len() < count {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        got.push(
            next.expect("too few deliveries")
                .expect("the consumer ended")
                .unwrap(),
        );
    }
    got
}

pub fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|d| String::from_utf8(d.data.clone()).unwrap())
        .collect()
}

pub fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

pub fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

pub fn string(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Expects this reply code and text prefix.
#[track_caller]
pub fn refused<T>(outcome: Result<T, Error>, code: u16, prefix: &str) {
    let error = outcome.err().expect("a refusal");
    let ErrorKind::ProtocolError(reply) = error.kind() else {
        panic!("expected {code} {prefix}, got {error:?}");
    };
    assert_eq!(reply.get_id(), code, "{}", reply.get_message());
    assert!(
        reply.get_message().as_str().starts_with(prefix),
        "{} lacks {prefix}",
        reply.get_message()
    );
}
