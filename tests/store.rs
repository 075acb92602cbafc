//! Operators' commands on whole stores, with the product's binary.
//!
//! Keeps: what was confirmed before a backup began is in the backup.
//! Never: looks into a database itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value as Json;
use tests::leveret::Leveret;

/// The drill: a backup while publishing, verified, put in the store's place, started, consumed.
#[test]
fn a_backup_holds_what_was_confirmed_before_it_began() -> Result<()> {
    let mut server = Leveret::start("")?;
    let file = server.folder().join("backup.db");
    let target = file.display().to_string();
    let confirmed = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let backup = ["store", "backup", "--json", "--to", &target];
    let (before, published) = runtime()?.block_on(async {
        let channel = open(&server).await?;
        declare(&channel, "orders").await?;
        let publishing = publish(&channel, &confirmed, &stop);
        let working = async {
            while confirmed.load(Ordering::Acquire) < 500 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let before = confirmed.load(Ordering::Acquire);
            let told = tokio::task::block_in_place(|| done(&server, &backup))?;
            let told: Json = serde_json::from_str(&told)?;
            ensure!(told["bytes"] == fs::metadata(&file)?.len(), "{told}");
            let during = confirmed.load(Ordering::Acquire);
            // And publishing goes on.
            while confirmed.load(Ordering::Acquire) == during {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The store that is served can be looked at and checked, too.
            let status =
                tokio::task::block_in_place(|| done(&server, &["store", "status", "--json"]))?;
            let status: Json = serde_json::from_str(&status)?;
            let id = server.id().context("it runs")?.to_string();
            ensure!(status["served_by"] == id, "{status}");
            ensure!(status["counts"]["queues"] == 1, "{status}");
            ensure!(
                status["counts"]["ready"].as_u64() >= Some(during),
                "{status}"
            );
            tokio::task::block_in_place(|| done(&server, &["store", "verify"]))?;
            Ok(before)
        };
        let working = async {
            let outcome = working.await;
            stop.store(true, Ordering::Release);
            outcome
        };
        let (published, before) = tokio::join!(publishing, working);
        anyhow::Ok((before?, published?))
    })?;
    let again = refused(&server, &backup, 3)?;
    ensure!(again.contains("exists, and is left as it is"), "{again}");
    done(
        &server,
        &["store", "verify", "--store", &format!("sqlite://{target}")],
    )?;

    server.stop()?;
    restore(&server, &file)?;
    server.restart()?;
    let found = runtime()?.block_on(consume(&server))?;
    let count = found.len() as u64;
    ensure!(
        (before..=published).contains(&count),
        "{before} {count} {published}"
    );
    // One commit, whole: no gap, and nothing that came later.
    ensure!(found == (0..count).collect(), "{count} messages with a gap");
    Ok(())
}

/// Ready, settled out of order, waiting: a copy serves what its source would.
#[test]
fn a_copy_serves_what_its_source_held() -> Result<()> {
    let mut server = Leveret::start("")?;
    let (from, to) = (server.folder().join("data"), server.folder().join("copy"));
    let (from, to) = (
        from.display().to_string(),
        format!("sqlite:{}", to.display()),
    );
    let copy = ["store", "copy", "--json", "--from", &from, "--to", &to];
    runtime()?.block_on(async {
        let channel = open(&server).await?;
        declare(&channel, "orders").await?;
        declare(&channel, LATER).await?;
        for number in 0..100 {
            let queue = if number >= 90 { LATER } else { "orders" };
            send(&channel, queue, number).await?;
        }
        let mut held = Vec::new();
        for _ in 0..50 {
            let options = BasicGetOptions::default();
            let got = channel.basic_get("orders".into(), options).await?;
            held.push(got.context("a message")?);
        }
        for (place, got) in held.iter().enumerate() {
            // All but every third, so that bits are settled behind the head.
            if place % 3 != 0 {
                got.delivery.ack(BasicAckOptions::default()).await?;
            }
        }
        // Its answer comes after the acks were read.
        declare(&channel, "orders").await
    })?;
    let served = refused(&server, &copy, 4)?;
    ensure!(served.contains("is in use by process"), "{served}");
    server.stop()?;
    let status = done(&server, &["store", "status", "--json"])?;
    let status: Json = serde_json::from_str(&status)?;
    ensure!(status["served_by"].is_null(), "{status}");
    ensure!(status["counts"]["ready"] == 90 - 33, "{status}");
    ensure!(status["counts"]["waiting"] == 10, "{status}");

    let told: Json = serde_json::from_str(&done(&server, &copy)?)?;
    ensure!(told["queues"] == 2 && told["waiting"] == 10, "{told}");
    let full = refused(&server, &copy, 3)?;
    ensure!(
        full.contains("the target is not empty: it has vhosts"),
        "{full}"
    );
    done(&server, &["store", "verify"])?;
    let copied = server.folder().join("copy").join("leveret.db");
    let url = format!("sqlite://{}", copied.display());
    done(&server, &["store", "verify", "--store", &url])?;
    let of_copy: Json = serde_json::from_str(&done(
        &server,
        &["store", "status", "--json", "--store", &url],
    )?)?;
    ensure!(of_copy["counts"] == status["counts"], "{of_copy} {status}");

    restore(&server, &copied)?;
    server.restart()?;
    let found = runtime()?.block_on(consume(&server))?;
    let left = (0..90).filter(|number| *number >= 50 || number % 3 == 0);
    ensure!(found == left.collect(), "{found:?}");
    Ok(())
}

/// A second process is told who is there; what cannot be opened is told apart.
#[test]
fn what_cannot_be_opened_is_told_apart() -> Result<()> {
    let mut server = Leveret::start("")?;
    let id = server.id().context("it runs")?;
    let listen = [
        "--amqp-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ];
    let second = refused(&server, &[&["serve"], &listen[..]].concat(), 1)?;
    let expected = format!("leveret.db is in use by process {id}; one process may open a store");
    ensure!(second.contains(&expected), "{second}");
    refused(&server, &["store", "migrate"], 4)?;
    server.stop()?;
    let told = done(&server, &["store", "migrate"])?;
    ensure!(told.contains("nothing to do"), "{told}");

    let nowhere = server.folder().join("nowhere").display().to_string();
    for verb in ["status", "verify", "migrate"] {
        let told = refused(&server, &["store", verb, "--store", &nowhere], 6)?;
        ensure!(
            told.contains(&format!("there is no store at {nowhere}")),
            "{told}"
        );
    }
    ensure!(!Path::new(&nowhere).exists(), "a look made a directory");
    let text = server.folder().join("text.db");
    fs::write(&text, "x".repeat(4096))?;
    let url = format!("sqlite://{}", text.display());
    let told = refused(&server, &["store", "verify", "--store", &url], 6)?;
    ensure!(told.contains("text.db is not a store"), "{told}");
    Ok(())
}

/// A byte that turned over in a message is found by number, and told by the exit code.
#[test]
fn a_damaged_message_is_named() -> Result<()> {
    let mut server = Leveret::start("")?;
    runtime()?.block_on(async {
        let channel = open(&server).await?;
        declare(&channel, "orders").await?;
        for number in 0..3 {
            send(&channel, "orders", number).await?;
        }
        anyhow::Ok(())
    })?;
    server.stop()?;
    let file = server.folder().join("data").join("leveret.db");
    let mut bytes = fs::read(&file)?;
    let body = body(1);
    let at = bytes.windows(body.len()).position(|window| window == body);
    bytes[at.context("the message is in the file")?] ^= 1;
    fs::write(&file, bytes)?;
    let output = server.command(&["store", "verify", "--json"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let found: Json = serde_json::from_slice(&output.stdout)?;
    ensure!(found.as_array().map(Vec::len) == Some(1), "{found}");
    let found = &found[0];
    ensure!(
        found["severity"] == "damage" && found["vhost"] == "/",
        "{found}"
    );
    ensure!(
        found["queue"] == "orders" && found["segment"].is_u64(),
        "{found}"
    );
    ensure!(found["first"] == 1 && found["last"] == 1, "{found}");
    let output = server.command(&["store", "verify"])?;
    let line = String::from_utf8(output.stdout)?;
    let expected = "seqs 1 to 1, queue 'orders' in vhost '/': does not read back as written\n";
    ensure!(
        line.starts_with("damage: segment ") && line.ends_with(expected),
        "{line}"
    );
    Ok(())
}

async fn open(server: &Leveret) -> Result<Channel> {
    let url = format!("amqp://guest:guest@{}/%2f", server.amqp);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// A work queue, whose messages come with a delay of an hour.
const LATER: &str = "later";

async fn declare(channel: &Channel, queue: &str) -> Result<()> {
    let mut arguments = FieldTable::default();
    if queue == LATER {
        arguments.insert("x-retry-limit".into(), AMQPValue::LongInt(3));
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await?;
    Ok(())
}

/// Publishes numbered messages, some at a time, until told to stop; answers how many were
/// confirmed.
async fn publish(channel: &Channel, confirmed: &AtomicU64, stop: &AtomicBool) -> Result<u64> {
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Acquire) {
        let first = confirmed.load(Ordering::Acquire);
        let begun = Instant::now();
        let some = (first..first + 20).map(|number| send(channel, "orders", number));
        futures::future::try_join_all(some).await?;
        slowest = slowest.max(begun.elapsed());
        confirmed.fetch_add(20, Ordering::Release);
    }
    ensure!(slowest < STALL_MAX, "a confirm took {slowest:?}");
    Ok(confirmed.load(Ordering::Acquire))
}

async fn send(channel: &Channel, queue: &str, number: u64) -> Result<()> {
    let mut headers = FieldTable::default();
    if queue == LATER {
        headers.insert("x-delay".into(), AMQPValue::LongLongInt(3_600_000));
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(headers);
    let options = BasicPublishOptions::default();
    let confirm = channel
        .basic_publish("".into(), queue.into(), options, &body(number), properties)
        .await?
        .await?;
    ensure!(
        matches!(confirm, Confirmation::Ack(_)),
        "{number}: {confirm:?}"
    );
    Ok(())
}

fn body(number: u64) -> Vec<u8> {
    format!("message {number:08}").into_bytes()
}

/// Takes and acks what is ready; answers the numbers. None comes twice.
async fn consume(server: &Leveret) -> Result<BTreeSet<u64>> {
    let channel = open(server).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume(
            "orders".into(),
            "all".into(),
            options,
            FieldTable::default(),
        )
        .await?;
    let mut found = BTreeSet::new();
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await {
        let delivery = next.context("the consumer ended")??;
        let number = std::str::from_utf8(&delivery.data)?;
        let number = number.trim_start_matches("message ").parse()?;
        ensure!(found.insert(number), "{number} came twice");
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(found)
}

/// Puts a database in the place of the server's.
fn restore(server: &Leveret, file: &Path) -> Result<()> {
    let data = server.folder().join("data");
    fs::remove_dir_all(&data)?;
    fs::create_dir(&data)?;
    fs::copy(file, data.join("leveret.db"))?;
    Ok(())
}

fn done(server: &Leveret, args: &[&str]) -> Result<String> {
    let output = server.command(args)?;
    let Output { stdout, stderr, .. } = &output;
    let error = String::from_utf8_lossy(stderr);
    let text = String::from_utf8_lossy(stdout);
    ensure!(output.status.success(), "leveret {args:?}: {error}{text}");
    Ok(text.into_owned())
}

fn refused(server: &Leveret, args: &[&str], code: i32) -> Result<String> {
    let output = server.command(args)?;
    let found = output.status.code();
    let error = String::from_utf8(output.stderr)?;
    ensure!(found == Some(code), "leveret {args:?}: {found:?} {error}");
    Ok(error)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

/// No confirm may wait for a backup; what it takes on a busy machine is far below.
const STALL_MAX: Duration = Duration::from_secs(5);
