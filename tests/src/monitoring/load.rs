//! A small load that makes every kind of thing happen that is counted.
//!
//! Keeps: what it did, exactly, so that the server's counters can be held against it.
//! Never: a heavy load; never depends on who is faster.
//! In: `tests/monitoring.rs`.
//!
//! | queue | what happens there |
//! |---|---|
//! | `orders` | published with confirms, returned once each, acked at the second try |
//! | `flaky` | a work queue with one retry: refused twice, retried once, dead-lettered |
//! | `strict` | a work queue without a retry: refused once, dead-lettered |
//! | `patient` | a work queue whose retry is an hour away: one message waits |
//! | `keyed` | order by key: a message waits an hour for its retry, and another stands behind it |
//! | `short` | messages that expire at once |
//! | `backlog` | messages that nobody consumes |
//! | `held` | messages that a consumer keeps unacked |
//! | `fib` | calls over HTTP and a worker that answers them |

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Event,
};

use super::http;

/// What was done, as the clients saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) confirmed: u64,
    pub(crate) returned: u64,
    pub(crate) dropped: u64,
    pub(crate) requeued: u64,
    pub(crate) retried: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) acked: u64,
    pub(crate) calls: u64,
}

/// A load that runs in a thread of its own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Done>>,
}

impl Load {
    /// Starts it against a server.
    pub(crate) fn start(amqp: SocketAddr, server_http: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?;
            runtime.block_on(rounds(amqp, server_http, &seen))
        });
        Self { stop, thread }
    }

    /// Whether it broke off.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets the round end, then says what was done.
    ///
    /// # Errors
    /// The server did something else than expected.
    pub(crate) fn stop(self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("the load panicked"),
        }
    }
}

async fn rounds(amqp: SocketAddr, server: SocketAddr, stop: &AtomicBool) -> Result<Done> {
    let mut load = Client::open(amqp).await?;
    load.prepare().await?;
    let worker = Client::open(amqp).await?;
    let worker = tokio::spawn(answer_calls(worker));
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        load.round(round)
            .await
            .with_context(|| format!("round {round}"))?;
        load.call(server).await?;
        // A connection that comes and goes.
        Client::open(amqp)
            .await?
            .connection
            .close(200, "done".into())
            .await?;
        round += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if worker.is_finished() {
            bail!("the worker broke off: {:?}", worker.await?);
        }
    }
    worker.abort();
    load.connection.close(200, "done".into()).await?;
    Ok(load.done)
}

/// A connection with a channel in confirm mode.
struct Client {
    connection: Connection,
    channel: Channel,
    /// Keeps its message unacked for as long as it lives.
    holder: Option<Consumer>,
    done: Done,
}

impl Client {
    async fn open(amqp: SocketAddr) -> Result<Self> {
        let url = format!("amqp://guest:guest@{amqp}/%2f");
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        // A channel that the server closed says so here only; calls on it say that it is closed.
        let mut events = connection.events_listener();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Event::Error(error) = event {
                    eprintln!("the load's connection: {error}");
                }
            }
        });
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            connection,
            channel,
            holder: None,
            done: Done::default(),
        })
    }

    async fn prepare(&mut self) -> Result<()> {
        for (queue, limit, delay) in [
            ("flaky", 1, 400),
            ("strict", 0, 10),
            ("patient", 5, 3_600_000),
        ] {
            let arguments = [("x-retry-limit", limit), ("x-retry-delay", delay)];
            self.declare(queue, &arguments).await?;
        }
        let mut by_key = FieldTable::default();
        let header = AMQPValue::LongString("account".into());
        by_key.insert("x-partition-header".into(), header);
        by_key.insert("x-retry-delay".into(), AMQPValue::LongInt(3_600_000));
        self.declare_with("keyed", by_key).await?;
        self.declare("short", &[("x-message-ttl", 0)]).await?;
        for queue in ["orders", "backlog", "held", "fib"] {
            self.declare(queue, &[]).await?;
        }
        // Kept by a consumer that never answers, on a channel of its own.
        self.publish("held", false).await?;
        let mut holder = consume(&self.connection.create_channel().await?, "held").await?;
        holder.next().await.context("nothing to hold")??;
        self.holder = Some(holder);
        for queue in ["patient", "keyed"] {
            self.publish(queue, false).await?;
            self.refuse(queue).await?;
        }
        self.publish("keyed", false).await
    }

    async fn declare(&self, queue: &str, arguments: &[(&str, i32)]) -> Result<()> {
        let mut table = FieldTable::default();
        for (name, number) in arguments {
            table.insert((*name).into(), AMQPValue::LongInt(*number));
        }
        self.declare_with(queue, table).await
    }

    async fn declare_with(&self, queue: &str, table: FieldTable) -> Result<()> {
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        self.channel
            .queue_declare(queue.into(), options, table)
            .await?;
        Ok(())
    }

    async fn round(&mut self, round: u64) -> Result<()> {
        // Not without an end, or the age of its oldest message would be all there is to see.
        if round < 20 {
            self.publish("backlog", false).await?;
        }
        self.publish("short", false).await?;
        self.publish("nowhere", true).await?;
        self.publish("nowhere", false).await?;
        for _ in 0..10 {
            self.publish("orders", false).await?;
            self.give_back("orders").await?;
            self.take("orders", true).await?;
        }
        self.publish("strict", false).await?;
        self.refuse("strict").await?;
        self.done.dead_lettered += 1;
        self.publish("flaky", false).await?;
        self.refuse("flaky").await?;
        self.done.retried += 1;
        self.refuse("flaky").await?;
        self.done.dead_lettered += 1;
        Ok(())
    }

    async fn publish(&mut self, queue: &str, mandatory: bool) -> Result<()> {
        let options = BasicPublishOptions {
            mandatory,
            ..Default::default()
        };
        let mut headers = FieldTable::default();
        headers.insert("account".into(), AMQPValue::LongString("ada".into()));
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_headers(headers);
        let body = b"sixteen bytes...";
        let sent = self
            .channel
            .basic_publish("".into(), queue.into(), options, body, properties);
        match sent.await?.await? {
            Confirmation::Ack(Some(_)) if mandatory => self.done.returned += 1,
            Confirmation::Ack(None) if !mandatory => {}
            other => bail!("a publish to {queue} got {other:?}"),
        }
        self.done.confirmed += 1;
        if queue == "nowhere" && !mandatory {
            self.done.dropped += 1;
        }
        Ok(())
    }

    /// Fetches one, waiting for it, and acks it; it must be a second try or must not be.
    async fn take(&mut self, queue: &str, redelivered: bool) -> Result<()> {
        let message = self.fetch(queue).await?;
        if message.redelivered != redelivered {
            bail!("{queue}: redelivered is {}", message.redelivered);
        }
        message.ack(BasicAckOptions::default()).await?;
        self.done.acked += 1;
        Ok(())
    }

    async fn give_back(&mut self, queue: &str) -> Result<()> {
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        self.fetch(queue).await?.nack(options).await?;
        self.done.requeued += 1;
        Ok(())
    }

    async fn refuse(&mut self, queue: &str) -> Result<()> {
        let options = BasicNackOptions {
            requeue: false,
            ..Default::default()
        };
        self.fetch(queue).await?.nack(options).await?;
        Ok(())
    }

    async fn fetch(&self, queue: &str) -> Result<lapin::message::Delivery> {
        for _ in 0..FETCHES_MAX {
            let got = self
                .channel
                .basic_get(queue.into(), BasicGetOptions::default())
                .await?;
            if let Some(got) = got {
                return Ok(got.delivery);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("nothing comes from {queue}");
    }

    async fn call(&mut self, server: SocketAddr) -> Result<()> {
        let asked = tokio::task::spawn_blocking(move || {
            http::post(
                server,
                "/v1/calls/queue/fib",
                "prefer: wait=10\r\n",
                "{\"n\":30}",
            )
        });
        let answer = asked.await??;
        if answer.status != 200 {
            bail!("a call got {answer:?}");
        }
        self.done.calls += 1;
        Ok(())
    }
}

async fn consume(channel: &Channel, queue: &str) -> Result<Consumer> {
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    Ok(channel
        .basic_consume(queue.into(), "".into(), options, arguments)
        .await?)
}

async fn answer_calls(client: Client) -> Result<()> {
    let mut calls = consume(&client.channel, "fib").await?;
    while let Some(call) = calls.next().await {
        let call = call?;
        let to = call
            .properties
            .reply_to()
            .clone()
            .context("a call without reply_to")?;
        let mut properties = BasicProperties::default();
        if let Some(id) = call.properties.correlation_id() {
            properties = properties.with_correlation_id(id.clone());
        }
        let options = BasicPublishOptions::default();
        let sent = client
            .channel
            .basic_publish("".into(), to, options, b"832040", properties);
        sent.await?.await?;
        call.ack(BasicAckOptions::default()).await?;
    }
    bail!("the consumer ended")
}

const FETCHES_MAX: u32 = 2000;
