//! What a broken disk does: bits that flipped, and no room left.
//!
//! Keeps: nothing confirmed is lost, damage is named and the rest is served.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use lapin::PublisherConfirm;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tempfile::TempDir;
use tests::leveret::Leveret;

const QUEUE: &str = "kept";
/// Longer than any answer takes here.
const PATIENCE: Duration = Duration::from_secs(20);

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

async fn connect(server: &Leveret) -> Result<(Connection, Channel)> {
    let url = format!("amqp://guest:guest@{}/%2f", server.amqp);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(QUEUE.into(), durable, FieldTable::default())
        .await?;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, body: &str) -> Result<PublisherConfirm> {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(
        "".into(),
        QUEUE.into(),
        options,
        body.as_bytes(),
        persistent,
    );
    Ok(sent.await?)
}

async fn consume(channel: &Channel) -> Result<Consumer> {
    let options = BasicConsumeOptions::default();
    Ok(channel
        .basic_consume(QUEUE.into(), "".into(), options, FieldTable::default())
        .await?)
}

/// The next body, acked.
async fn next(consumer: &mut Consumer) -> Result<String> {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .context("no delivery came")?
        .context("the consumer ended")??;
    delivery.ack(BasicAckOptions::default()).await?;
    Ok(String::from_utf8(delivery.data)?)
}

fn body(number: usize) -> String {
    format!("message-{number:05}-{}", "x".repeat(100))
}

/// One that fills a disk soon.
fn large(number: usize) -> String {
    format!("{}{}", body(number), "y".repeat(100_000))
}

fn flip(file: &Path, text: &str) -> Result<usize> {
    let bytes = fs::read(file)?;
    let found = bytes
        .windows(text.len())
        .enumerate()
        .filter(|(_, window)| *window == text.as_bytes());
    let places: Vec<usize> = found.map(|(at, _)| at).collect();
    let database = OpenOptions::new().write(true).open(file)?;
    for at in &places {
        database.write_all_at(b"M", *at as u64)?;
    }
    Ok(places.len())
}

#[test]
fn a_damaged_message_is_set_aside_and_the_rest_is_served() -> Result<()> {
    const COUNT: usize = 500;
    const BROKEN: usize = 321;
    // It begins like no other: what messages share stands in the file once.
    let broken = format!("broken-{}", body(BROKEN));
    let sent = |number| match number {
        BROKEN => broken.clone(),
        _ => body(number),
    };
    let mut server = Leveret::start("")?;
    run(async {
        let (_connection, channel) = connect(&server).await?;
        for number in 0..COUNT {
            publish(&channel, &sent(number)).await?.await?;
        }
        Ok(())
    })?;
    server.stop()?;
    let database = server.folder().join("data/leveret.db");
    let flipped = flip(&database, &broken[..40])?;
    assert!(flipped > 0, "the message is not in the database file");
    server.restart()?;
    run(async {
        let (_connection, channel) = connect(&server).await?;
        let mut consumer = consume(&channel).await?;
        for number in (0..COUNT).filter(|number| *number != BROKEN) {
            assert_eq!(next(&mut consumer).await?, body(number));
        }
        Ok(())
    })?;
    let said = server.last_output();
    assert!(
        said.contains("damaged: set aside") && said.contains(QUEUE),
        "{said}"
    );
    server.stop()?;
    server.restart()?;
    run(async {
        let (_connection, channel) = connect(&server).await?;
        publish(&channel, "after").await?.await?;
        let mut consumer = consume(&channel).await?;
        assert_eq!(next(&mut consumer).await?, "after");
        Ok(())
    })
}

/// A file system of its own that can be full.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size: &str) -> Result<Self> {
        let place = TempDir::with_prefix("small-disk-")?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(place.path())
            .status()?;
        if !mounted.success() {
            bail!("mounting a tmpfs needs root");
        }
        Ok(Self(place))
    }

    /// Leaves `left` bytes of room.
    fn fill(&self, left: u64) -> Result<()> {
        let free = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(self.0.path())
            .output()?;
        let free = String::from_utf8(free.stdout)?;
        let free: u64 = free
            .lines()
            .nth(1)
            .context("df said nothing")?
            .trim()
            .parse()?;
        let filler = Command::new("fallocate")
            .arg("-l")
            .arg((free - left).to_string())
            .arg(self.0.path().join("filler"))
            .status()?;
        if !filler.success() {
            bail!("fallocate failed");
        }
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.path().join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_blocks_publishers_and_loses_nothing() -> Result<()> {
    const BEFORE: usize = 200;
    const BEHIND: usize = 1000;
    let disk = SmallDisk::new("900m")?;
    // Without the alarm that comes before: here the disk itself says no.
    let mut server = Leveret::start_in(disk.0.path(), "[alarm]\ndisk_free = 0\n")?;
    run(async {
        let (connection, channel) = connect(&server).await?;
        for number in 0..BEFORE {
            publish(&channel, &body(number)).await?.await?;
        }
        disk.fill(2 << 20)?;
        let mut waiting = Vec::new();
        while !connection.status().blocked() {
            waiting.push(publish(&channel, &large(BEFORE + waiting.len())).await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let said = server.last_output();
            assert!(waiting.len() < BEHIND, "publishers are not blocked: {said}");
        }
        // What is there can be drained while the disk is full: acks always flow.
        let (_other, reader) = connect_passively(&server).await?;
        let mut consumer = consume(&reader).await?;
        for number in 0..BEFORE {
            assert_eq!(next(&mut consumer).await?, body(number));
        }
        disk.empty()?;
        let count = waiting.len();
        for confirm in waiting {
            tokio::time::timeout(PATIENCE, confirm)
                .await
                .context("no confirm after there was room")??;
        }
        for number in BEFORE..BEFORE + count {
            assert_eq!(next(&mut consumer).await?, large(number));
        }
        publish(&channel, "after").await?.await?;
        assert_eq!(next(&mut consumer).await?, "after");
        assert!(!connection.status().blocked());
        Ok(())
    })?;
    let ended = server.stop()?;
    assert!(ended.success(), "{ended}");
    Ok(())
}

#[test]
fn an_alarm_comes_before_the_disk_is_full_and_goes_when_there_is_room() -> Result<()> {
    let disk = SmallDisk::new("900m")?;
    let server = Leveret::start_in(disk.0.path(), "")?;
    run(async {
        let (connection, channel) = connect(&server).await?;
        publish(&channel, "before").await?.await?;
        // A tenth of the disk is the limit.
        disk.fill(60 << 20)?;
        let deadline = Instant::now() + PATIENCE;
        while !connection.status().blocked() {
            ensure!(
                Instant::now() < deadline,
                "not blocked: {}",
                server.last_output()
            );
            drop(publish(&channel, "during").await?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let metrics = get(&server, "/metrics")?;
        ensure!(metrics.contains("\nleveret_alarm_disk 1\n"), "{metrics}");
        ensure!(metrics.contains("\nleveret_alarm_memory 0\n"), "{metrics}");
        // Nobody is told who has published nothing, and what is there can be fetched.
        let (quiet, reader) = connect_passively(&server).await?;
        let mut consumer = consume(&reader).await?;
        assert_eq!(next(&mut consumer).await?, "before");
        ensure!(!quiet.status().blocked());
        disk.empty()?;
        let deadline = Instant::now() + PATIENCE;
        while connection.status().blocked() {
            ensure!(
                Instant::now() < deadline,
                "still blocked: {}",
                server.last_output()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        publish(&channel, "after").await?.await?;
        Ok(())
    })
}

fn get(server: &Leveret, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(server.http)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A second connection, which declares nothing.
async fn connect_passively(server: &Leveret) -> Result<(Connection, Channel)> {
    let url = format!("amqp://guest:guest@{}/%2f", server.amqp);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}
