//! Connections themselves: what one costs while it does nothing, and how fast they come and go.
//!
//! Keeps: an idle connection has one open channel; a fleeting one declares, publishes and closes.
//! Never: sends a heartbeat (both sides agree on 0).
//! In: `main`.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::broker::Broker;
use crate::control::thread_cpu_ns;
use crate::link::{Declare, Link};
use crate::measurement::Measurement;
use crate::procfs::{Usage, rss_kib};
use crate::run::{left, per_message_us, rss_peak_mib};
use crate::workload::Workload;

const QUEUE: &str = "bench-fleeting";
/// After the last connection, until buffers of its opening are given back.
const SETTLE: Duration = Duration::from_secs(3);
/// Before the count begins: pools and thread-local buffers exist then.
const FIRST: usize = 64;
/// Descriptors of this process beside its connections.
const OWN_FILES: u64 = 64;

/// Opens them all and leaves them alone; `kib_each` is what they added to the broker.
pub(crate) fn idle(broker: &Broker, workload: &Workload, count: usize) -> Result<Measurement> {
    raise_limit(count as u64)?;
    let mut result = Measurement::new(&workload.name, broker.kind, false);
    let open = || -> Result<TcpStream> { Ok(Link::open(broker.amqp)?.into_parts()?.0) };
    let mut held = (0..FIRST).map(|_| open()).collect::<Result<Vec<_>>>()?;
    thread::sleep(SETTLE);
    let before = rss_kib(broker.pid()).context("the broker's resident size")?;
    let began = Instant::now();
    for number in 0..count {
        held.push(open().with_context(|| format!("connection {number}"))?);
    }
    result.messages_per_s = count as f64 / began.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let after = rss_kib(broker.pid()).context("the broker's resident size")?;
    result.kib_each = Some(after.saturating_sub(before) as f64 / count as f64);
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok(result)
}

/// Connect, declare, publish, close, on some threads; `messages_per_s` counts the rounds.
pub(crate) fn churn(
    broker: &Broker,
    workload: &Workload,
    (threads, span): (usize, Duration),
) -> Result<Measurement> {
    let mut result = Measurement::new(&workload.name, broker.kind, false);
    let before = Usage::of(broker.pid())?;
    let (address, began) = (broker.amqp, Instant::now());
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn(move || -> Result<(u64, u64)> {
                let mut rounds = 0;
                while began.elapsed() < span {
                    let mut link = Link::open(address)?;
                    link.declare_queue(QUEUE, Declare::Transient)?;
                    link.publish(QUEUE, b"hello")?;
                    link.close()?;
                    rounds += 1;
                }
                Ok((rounds, thread_cpu_ns()))
            })
        })
        .collect();
    let (mut rounds, mut cpu_ns) = (0, 0);
    for worker in workers {
        let Ok(worked) = worker.join() else {
            bail!("a client panicked");
        };
        let (some, spent) = worked?;
        rounds += some;
        cpu_ns += spent;
    }
    let used = Usage::of(broker.pid())?.since(before);
    result.messages_per_s = rounds as f64 / began.elapsed().as_secs_f64();
    result.broker_cpu_us = Some(used.cpu_us / rounds.max(1) as f64);
    result.generator_cpu_us = Some(per_message_us(cpu_ns, rounds));
    result.rss_peak_mib = rss_peak_mib(broker);
    let found = left(broker, &[QUEUE.to_owned()])?;
    if found != rounds {
        result.failure = Some(format!("{rounds} messages sent, {found} in the queue"));
    }
    Ok(result)
}

fn raise_limit(connections: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = connections + FIRST as u64 + OWN_FILES;
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("{needed} open files; raise the hard limit (ulimit -Hn)"))
}
