//! Publishers that never wait for anything: what they cost, and who can still work.
//!
//! Keeps: memory bounded by bytes (I8), whatever the size and durability of the messages.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::conversation::client::{Client, Incoming, Opening};
use tests::leveret::Leveret;
use tests::wire::method::Method;
use tests::wire::value::Value;
use tokio::net::TcpStream;

/// Longer than any answer takes here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Content published by one flood: many times what may be in memory.
const FLOOD: usize = 800 << 20;
/// One and a half budgets of 64 MiB, their copies on the way to the disk, what the allocator keeps,
/// and the process itself: some 400 MiB. Without a bound it is more than the flood.
const RESIDENT_MAX: u64 = 600 << 20;
const QUEUE: &str = "flood";

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 1];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

/// Whole messages for the queue, about 64 KiB of them, and their number.
fn messages(size: usize, persistent: bool) -> (Vec<u8>, usize) {
    let mut publish = vec![0, 60, 0, 40, 0, 0, 0, QUEUE.len() as u8];
    publish.extend(QUEUE.as_bytes());
    publish.push(0);
    let mut header = vec![0, 60, 0, 0];
    header.extend((size as u64).to_be_bytes());
    header.extend([0x10, 0, if persistent { 2 } else { 1 }]);
    let body = vec![b'x'; size];
    let one = [frame(1, &publish), frame(2, &header), frame(3, &body)].concat();
    let count = (64_usize << 10).div_ceil(one.len());
    (one.repeat(count), count)
}

async fn connect(server: &Leveret) -> Result<Client> {
    let mut client = Client::new(TcpStream::connect(server.amqp).await?);
    client.open(&Opening::default(), PATIENCE).await?;
    client.open_channel(1, PATIENCE).await?;
    Ok(client)
}

async fn ask(client: &mut Client, method: Method, answer: &str) -> Result<()> {
    client.send(1, &method, None).await?;
    client.await_method(1, answer, PATIENCE).await?;
    Ok(())
}

async fn declare(client: &mut Client) -> Result<()> {
    let declare = Method::named("queue.declare")?
        .with("queue", Value::str(QUEUE))?
        .with("durable", Value::Bool(true))?;
    ask(client, declare, "queue.declare-ok").await
}

async fn consume(client: &mut Client) -> Result<()> {
    let qos = Method::named("basic.qos")?.with("prefetch-count", Value::int(50))?;
    ask(client, qos, "basic.qos-ok").await?;
    let consume = Method::named("basic.consume")?.with("queue", Value::str(QUEUE))?;
    ask(client, consume, "basic.consume-ok").await
}

/// Acks a delivery; false for anything else.
async fn ack(client: &mut Client, incoming: &Incoming) -> Result<bool> {
    let Incoming::Method(received) = incoming else {
        return Ok(false);
    };
    if received.method.spec.name != "basic.deliver" {
        return Ok(false);
    }
    let tag = received.method.int("delivery-tag");
    let ack = Method::named("basic.ack")?.with("delivery-tag", Value::int(tag))?;
    client.send(1, &ack, None).await?;
    Ok(true)
}

fn resident(server: &Leveret) -> Result<u64> {
    let pid = server.id().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<u64>()? << 10)
}

#[expect(
    clippy::print_stdout,
    reason = "the figure is for whoever reads the test run"
)]
fn flood(size: usize, persistent: bool) -> Result<()> {
    let server = Leveret::start("")?;
    run(async {
        let mut client = connect(&server).await?;
        declare(&mut client).await?;
        let (wire, _) = messages(size, persistent);
        let (mut highest, began) = (0, Instant::now());
        for _ in 0..FLOOD / wire.len() {
            let written = tokio::time::timeout(PATIENCE, client.write(&wire)).await;
            written.context("the publisher is stopped for good")?;
            highest = highest.max(resident(&server)?);
        }
        println!(
            "{size} B, persistent {persistent}: {} MiB in {:?}, at most {} MiB resident",
            FLOOD >> 20,
            began.elapsed(),
            highest >> 20
        );
        ensure!(highest < RESIDENT_MAX, "{} MiB resident", highest >> 20);
        let mut reader = connect(&server).await?;
        consume(&mut reader).await?;
        for _ in 0..1_000 {
            let delivery = reader.next(Some(1), PATIENCE).await?;
            ensure!(ack(&mut reader, &delivery).await?, "{}", delivery.show());
        }
        Ok(())
    })
}

#[test]
fn floods_of_any_kind_cost_bounded_memory() -> Result<()> {
    for size in [16 << 10, 16] {
        for persistent in [false, true] {
            flood(size, persistent)?;
        }
    }
    Ok(())
}

/// One connection that publishes without end and consumes what it published.
#[test]
fn who_publishes_and_consumes_on_one_connection_is_never_stuck() -> Result<()> {
    let server = Leveret::start("")?;
    run(async {
        let mut client = connect(&server).await?;
        declare(&mut client).await?;
        consume(&mut client).await?;
        let (wire, each) = messages(16 << 10, true);
        let (mut written, mut acked) = (0, 0);
        let count = (300 << 20) / wire.len();
        while written < count {
            let fits = tokio::time::timeout(PATIENCE, client.write(&wire)).await;
            fits.context("the publisher is stopped for good")?;
            written += 1;
            while let Ok(incoming) = client.next(Some(1), Duration::ZERO).await {
                acked += usize::from(ack(&mut client, &incoming).await?);
            }
        }
        let due = count * each;
        while acked < due {
            let incoming = client.next(Some(1), PATIENCE).await?;
            acked += usize::from(ack(&mut client, &incoming).await?);
        }
        Ok(())
    })
}
