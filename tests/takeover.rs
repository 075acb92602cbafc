//! Nodes that share a store: one dies or stands still, and the other goes on.
//!
//! Keeps: what was confirmed is delivered, by whichever node; nothing else is; first deliveries are
//! in order; the node that stood still lets its clients go and stands by.
//! Never: judges by time; generous limits only end a test that hangs.
//! In: `cargo xtask test`, with `LEVERET_TEST_STORE`; without a shared store there is nothing to
//! test.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tests::leveret::Leveret;

/// Short, so that a takeover takes a second or two.
const CONFIG: &str = "[store]\nlease = \"1s\"\n";
const TAKEOVER_MAX: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longer than the lease.
const PAUSE: Duration = Duration::from_secs(3);
const QUEUE: &str = "shared";
/// Messages between two faults.
const ROUND: u64 = 300;

#[test]
fn what_was_confirmed_outlives_its_owner() -> Result<()> {
    let shared = std::env::var_os("LEVERET_TEST_STORE");
    ensure!(shared.is_some(), "LEVERET_TEST_STORE names no database");
    let mut nodes = vec![Leveret::start(CONFIG)?];
    let second = nodes[0].standby(CONFIG)?;
    nodes.push(second);
    let mut ledger = Ledger::default();
    for round in 0..6 {
        let owner = owner(&nodes)?;
        runtime()?.block_on(ledger.publish(&nodes[owner]))?;
        ensure!(!nodes[1 - owner].is_ready(), "two nodes own the store");
        match round % 3 {
            0 => {
                nodes[owner].kill()?;
                await_owner(&nodes, 1 - owner)?;
                nodes[owner].launch()?;
            }
            1 => {
                ledger.is_held = true;
                runtime()?.block_on(stand_still(&nodes, owner))?;
            }
            _ => {
                nodes[owner].stop()?;
                await_owner(&nodes, 1 - owner)?;
                nodes[owner].launch()?;
            }
        }
    }
    let owner = owner(&nodes)?;
    runtime()?.block_on(ledger.drain(&nodes[owner]))
}

/// The owner is stopped for longer than its lease, with a client that waits.
async fn stand_still(nodes: &[Leveret], owner: usize) -> Result<()> {
    let (connection, _) = open(&nodes[owner]).await?;
    nodes[owner].signal("STOP")?;
    tokio::time::sleep(PAUSE).await;
    let taken = await_owner(nodes, 1 - owner);
    nodes[owner].signal("CONT")?;
    taken?;
    let begun = Instant::now();
    while connection.status().connected() {
        ensure!(begun.elapsed() < TAKEOVER_MAX, "it keeps its clients");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(!nodes[owner].is_ready(), "it says that it is ready");
    Ok(())
}

fn owner(nodes: &[Leveret]) -> Result<usize> {
    let begun = Instant::now();
    loop {
        if let Some(found) = nodes.iter().position(Leveret::is_ready) {
            return Ok(found);
        }
        if begun.elapsed() > TAKEOVER_MAX {
            let last = nodes.last().map(Leveret::last_output);
            bail!("nobody owns the store: {last:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn await_owner(nodes: &[Leveret], expected: usize) -> Result<()> {
    let begun = Instant::now();
    while !nodes[expected].is_ready() {
        let last = || nodes[expected].last_output();
        ensure!(begun.elapsed() < TAKEOVER_MAX, "no takeover: {}", last());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What was sent, and what came of it.
#[derive(Default)]
struct Ledger {
    sent: u64,
    confirmed: BTreeSet<u64>,
    is_held: bool,
}

impl Ledger {
    async fn publish(&mut self, node: &Leveret) -> Result<()> {
        let (_connection, channel) = open(node).await?;
        for _ in 0..ROUND {
            self.sent += 1;
            let body = self.sent.to_string();
            let properties = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let confirm = channel
                .basic_publish(
                    "".into(),
                    QUEUE.into(),
                    options,
                    body.as_bytes(),
                    properties,
                )
                .await?
                .await?;
            ensure!(matches!(confirm, Confirmation::Ack(_)), "{confirm:?}");
            self.confirmed.insert(self.sent);
        }
        Ok(())
    }

    /// Everything that is there is what was confirmed, in order.
    async fn drain(&self, node: &Leveret) -> Result<()> {
        let (_connection, channel) = open(node).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel
            .basic_consume(QUEUE.into(), "all".into(), options, FieldTable::default())
            .await?;
        let mut found = Vec::new();
        while found.len() < self.confirmed.len() {
            let next = tokio::time::timeout(ANSWER_MAX, consumer.next()).await;
            let next = next.with_context(|| format!("only {} came", found.len()))?;
            let delivery = next.context("the consumer ended")??;
            found.push(std::str::from_utf8(&delivery.data)?.parse::<u64>()?);
            delivery.ack(BasicAckOptions::default()).await?;
        }
        ensure!(self.is_held, "no owner stood still");
        let expected: Vec<u64> = self.confirmed.iter().copied().collect();
        ensure!(found == expected, "{} messages, not as sent", found.len());
        let left = declare(&channel).await?;
        ensure!(left == 0, "{left} more messages than were sent");
        Ok(())
    }
}

async fn open(node: &Leveret) -> Result<(Connection, Channel)> {
    let url = format!("amqp://guest:guest@{}/%2f", node.amqp);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    declare(&channel).await?;
    Ok((connection, channel))
}

/// Answers how many messages are ready.
async fn declare(channel: &Channel) -> Result<u32> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare(QUEUE.into(), options, FieldTable::default());
    Ok(queue.await?.message_count())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(1).enable_all().build()?)
}
