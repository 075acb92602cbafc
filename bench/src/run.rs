//! Plays one AMQP workload on one broker and measures it over a steady window.
//!
//! Keeps: warm-up, window, drain, in this order; nothing is left in the broker unchecked.
//! Never: counts what happened outside the window into a rate; lost and doubled messages are
//! counted over the whole run.
//! In: `main`. One thread drives all producers, one all consumers, this one watches.

use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::broker::{Broker, Kind, Stored, stored};
use crate::consumer::{self, Consumer, Failing};
use crate::control::{Control, Phase};
use crate::database::{Database, Reading, SCHEMA};
use crate::fsyncs::Counter;
use crate::link::{Declare, Link};
use crate::measurement::Measurement;
use crate::procfs::{Usage, rss_peak_kib};
use crate::producer::{self, Number, Pace, Producer};
use crate::sequence::Checker;
use crate::soak;
use crate::wire::Publication;
use crate::workload::{RETRY_DELAY_MS, Shape, Workload};

/// How far an unconfirmed publisher may run ahead of the consumers: this bounds the memory and the
/// time of the drain, and is far more than any broker needs to stay busy.
const LEAD_MESSAGES_MAX: u64 = 2_000_000;
const LEAD_BYTES_MAX: u64 = 512 << 20;
/// The drain is over when so long nothing arrived.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_millis(5);
const EXCHANGE: &str = "bench-exchange";
/// Matches the last of the bindings of a topic workload, and no other.
const TOPIC: &str = "stock.0.europe.berlin";

/// How long the parts of a run take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// Plays a workload of any shape but `Backlog` and `Calls`; a fill gives two measurements.
pub(crate) fn play(
    broker: &Broker,
    workload: &Workload,
    timing: Timing,
) -> Result<Vec<Measurement>> {
    let queues = declare(broker, workload)?;
    if workload.shape == Shape::FillAndDrain {
        let (fill, published) = fill(broker, workload, &queues, timing)?;
        let drained = drain(broker, workload, &queues[0], published)?;
        return Ok(vec![fill, drained]);
    }
    Ok(vec![steady(broker, workload, &queues, timing)?])
}

/// Declares what the workload needs; the names of its queues.
fn declare(broker: &Broker, workload: &Workload) -> Result<Vec<String>> {
    let count = match workload.shape {
        Shape::Queues { count } | Shape::Fanout { queues: count } => count,
        _ => 1,
    };
    let queues: Vec<String> = (0..count)
        .map(|index| format!("bench-q{index:02}"))
        .collect();
    let mut link = Link::open(broker.amqp)?;
    let kind = if workload.persistent {
        Declare::Durable
    } else {
        Declare::Transient
    };
    for queue in &queues {
        link.declare_queue_with(queue, kind, workload.arguments())?;
    }
    if let Shape::Fanout { .. } = workload.shape {
        link.declare_exchange(EXCHANGE, "fanout")?;
        for queue in &queues {
            link.bind(queue, EXCHANGE, "")?;
        }
    }
    if let Shape::Topic { bindings } = workload.shape {
        link.declare_exchange(EXCHANGE, "topic")?;
        for number in (0..bindings).rev() {
            link.bind(&queues[0], EXCHANGE, &format!("stock.{number}.*.#"))?;
        }
    }
    link.close()?;
    Ok(queues)
}

fn steady(
    broker: &Broker,
    workload: &Workload,
    queues: &[String],
    timing: Timing,
) -> Result<Measurement> {
    let consumers = connect_consumers(broker, workload, queues)?;
    let producers = connect_producers(broker, workload, queues)?;
    let checker = checker_for(workload, queues.len(), consumers.len(), producers.len());
    let control = Control::new();
    let mut result = Measurement::new(&workload.name, broker.kind, workload.persistent);
    thread::scope(|scope| {
        let consuming = scope.spawn(|| consumer::drive(consumers, checker, &control));
        let producing = scope.spawn(|| producer::drive(producers, &control));
        let alive = || !consuming.is_finished() && !producing.is_finished();
        let soaking = broker.store().and_then(|store| {
            let source = (store, SCHEMA, Some(broker.pid()));
            soak::spawn(scope, workload, source, (&control, timing.window))
        });
        let window = Window::measure(broker, &control, timing, alive);
        control.enter(Phase::Drain);
        let produced = join(producing, "producers");
        if let Ok(produced) = &produced {
            let expected = produced.published * workload.copies() as u64;
            wait_for_drain(&control, expected, || !consuming.is_finished());
        }
        control.enter(Phase::Done);
        let consumed = join(consuming, "consumers")?;
        let produced = produced?;
        let window = window?;
        result.soak = soaking.map(|soaking| join(soaking, "soak")).transpose()?;
        let consumed_count = window.consumed.max(1) as f64;
        result.messages_per_s = window.consumed as f64 / window.seconds;
        window.fill_in(&mut result, consumed_count);
        result.e2e = consumed.latency.quantiles();
        result.confirm = produced.confirm.quantiles();
        result.nacked = produced.nacked;
        result.generator_cpu_us = Some(
            per_message_us(produced.cpu_ns, produced.published)
                + per_message_us(consumed.cpu_ns, consumed.tally.unique),
        );
        let expected = produced.published * workload.copies() as u64;
        result.tally = Some(consumed.tally.settle(expected));
        anyhow::Ok(())
    })?;
    result.left = left(broker, queues)?;
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok(result)
}

fn fill(
    broker: &Broker,
    workload: &Workload,
    queues: &[String],
    timing: Timing,
) -> Result<(Measurement, u64)> {
    let producers = connect_producers(broker, workload, queues)?;
    let control = Control::new();
    let mut result = Measurement::new(&workload.name, broker.kind, workload.persistent);
    let published = thread::scope(|scope| {
        let producing = scope.spawn(|| producer::drive(producers, &control));
        let window = Window::measure(broker, &control, timing, || !producing.is_finished());
        control.enter(Phase::Drain);
        let produced = join(producing, "producers")?;
        let window = window?;
        result.messages_per_s = window.confirmed as f64 / window.seconds;
        window.fill_in(&mut result, window.confirmed.max(1) as f64);
        result.confirm = produced.confirm.quantiles();
        result.nacked = produced.nacked;
        result.generator_cpu_us = Some(per_message_us(produced.cpu_ns, produced.published));
        anyhow::Ok(produced.published)
    })?;
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok((result, published))
}

/// Consumes `expected` messages that stand in the queue already. The rate counts from before the
/// consumer connects to the last message.
pub(crate) fn drain(
    broker: &Broker,
    workload: &Workload,
    queue: &str,
    expected: u64,
) -> Result<Measurement> {
    let name = workload.name.replacen("fill", "drain", 1);
    let mut result = Measurement::new(&name, broker.kind, workload.persistent);
    let (began, before, stored_before) =
        (Instant::now(), Usage::of(broker.pid())?, stored_of(broker));
    let counter = Counter::attach(broker.pid());
    let plan = consumer_plan(workload, queue, 0);
    let consumers = vec![Consumer::connect(broker.amqp, &plan, 0)?];
    let control = Control::new();
    let summary = thread::scope(|scope| {
        let checker = Checker::new(1, 1, 1);
        let consuming = scope.spawn(|| consumer::drive(consumers, checker, &control));
        let last = wait_for_drain(&control, expected, || !consuming.is_finished());
        let seconds = last.duration_since(began).as_secs_f64();
        result.messages_per_s = control.consumed() as f64 / seconds;
        control.enter(Phase::Done);
        join(consuming, "consumers")
    })?;
    let used = Usage::of(broker.pid())?.since(before);
    let consumed = summary.tally.unique.max(1);
    result.broker_cpu_us = Some(used.cpu_us / consumed as f64);
    result.generator_cpu_us = Some(per_message_us(summary.cpu_ns, consumed));
    result.written_mib = used.written_bytes.map(mib);
    result.fsyncs_per_s = counter.and_then(Counter::finish);
    let stored = difference(stored_of(broker), stored_before);
    let seconds = began.elapsed().as_secs_f64();
    result.commits_per_s = stored.map(|stored| stored.commits as f64 / seconds);
    result.tally = Some(summary.tally.settle(expected));
    result.left = left(broker, &[queue.to_owned()])?;
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok(result)
}

/// Differences over the measuring window.
struct Window {
    seconds: f64,
    published: u64,
    confirmed: u64,
    consumed: u64,
    used: Usage,
    fsyncs_per_s: Option<f64>,
    stored: Option<Stored>,
    /// What the run cost its PostgreSQL.
    spent: Option<Reading>,
}

/// The counters of a run at one moment.
pub(crate) struct Counts {
    pub(crate) at: Instant,
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) consumed: u64,
}

impl Counts {
    pub(crate) fn of(control: &Control) -> Self {
        Self {
            at: Instant::now(),
            published: control.published(),
            confirmed: control.confirmed(),
            consumed: control.consumed(),
        }
    }
}

impl Window {
    fn measure(
        broker: &Broker,
        control: &Control,
        timing: Timing,
        alive: impl Fn() -> bool,
    ) -> Result<Self> {
        // Attached before the warm-up, because its own start costs CPU time.
        let counter = Counter::attach(broker.pid());
        let database = broker.store().map(Database::connect).transpose()?;
        let reading = || database.as_ref().map(Database::reading).transpose();
        watch(timing.warm_up, &alive)?;
        let (stored_before, reading_before) = (stored_of(broker), reading()?);
        let (usage_before, counts_before) = (Usage::of(broker.pid())?, Counts::of(control));
        control.enter(Phase::Measure);
        watch(timing.window, &alive)?;
        let (counts, usage) = (Counts::of(control), Usage::of(broker.pid())?);
        control.enter(Phase::Drain);
        let seconds = counts.at.duration_since(counts_before.at).as_secs_f64();
        let stored = difference(stored_of(broker), stored_before);
        let spent = reading()?.zip(reading_before);
        Ok(Self {
            seconds,
            published: counts.published - counts_before.published,
            confirmed: counts.confirmed - counts_before.confirmed,
            consumed: counts.consumed - counts_before.consumed,
            used: usage.since(usage_before),
            fsyncs_per_s: counter.and_then(Counter::finish),
            stored,
            spent: spent.map(|(now, then)| now.since(then)),
        })
    }

    fn fill_in(&self, result: &mut Measurement, messages: f64) {
        result.published_per_s = Some(self.published as f64 / self.seconds);
        result.broker_cpu_us = Some(self.used.cpu_us / messages);
        result.written_mib = self.used.written_bytes.map(mib);
        result.fsyncs_per_s = self.fsyncs_per_s;
        let stored = self.stored;
        result.commits_per_s = stored.map(|stored| stored.commits as f64 / self.seconds);
        result.stored_bytes = stored.map(|stored| stored.bytes as f64 / messages);
        if let Some(spent) = self.spent {
            let syncs = spent.wal_syncs;
            result.written_mib = Some(mib(spent.wal_bytes));
            result.fsyncs_per_s = syncs.map(|count| count as f64 / self.seconds);
            result.database_cpu_us = spent.cpu_us.map(|us| us / messages);
        }
    }
}

pub(crate) fn watch(span: Duration, alive: &impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if !alive() {
            bail!("the load generator stopped early");
        }
        thread::sleep(WATCH.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// Waits until all is consumed, or nothing more comes; the time of the last progress seen.
pub(crate) fn wait_for_drain(
    control: &Control,
    expected: u64,
    alive: impl Fn() -> bool,
) -> Instant {
    let (mut consumed, mut last) = (control.consumed(), Instant::now());
    while consumed < expected && last.elapsed() < SILENCE_MAX && alive() {
        thread::sleep(Duration::from_millis(1));
        let now = control.consumed();
        if now != consumed {
            (consumed, last) = (now, Instant::now());
        }
    }
    // A doubled message may follow the last expected one.
    thread::sleep(Duration::from_millis(20));
    last
}

pub(crate) fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>, who: &str) -> Result<T> {
    let outcome = handle
        .join()
        .map_err(|_| anyhow!("the thread of the {who} panicked"))?;
    outcome.with_context(|| who.to_owned())
}

fn connect_consumers(
    broker: &Broker,
    workload: &Workload,
    queues: &[String],
) -> Result<Vec<Consumer>> {
    let shared = match workload.shape {
        Shape::OneQueue { consumers, .. } => usize::from(consumers),
        _ => 1,
    };
    let fanout = matches!(workload.shape, Shape::Fanout { .. });
    let mut consumers = Vec::new();
    for (index, queue) in queues.iter().enumerate() {
        let plan = consumer_plan(workload, queue, if fanout { index } else { 0 });
        for _ in 0..shared {
            consumers.push(Consumer::connect(broker.amqp, &plan, consumers.len())?);
        }
    }
    Ok(consumers)
}

pub(crate) fn consumer_plan<'a>(
    workload: &Workload,
    queue: &'a str,
    stream: usize,
) -> consumer::Plan<'a> {
    consumer::Plan {
        queue,
        stream,
        ack: workload.ack,
        prefetch: workload.prefetch(),
        body_bytes: workload.body_bytes,
        failing: match workload.shape {
            Shape::Retries { one_in, .. } => Some(Failing {
                one_in,
                back_after: Duration::from_millis(RETRY_DELAY_MS.unsigned_abs()),
            }),
            _ => None,
        },
    }
}

fn connect_producers(
    broker: &Broker,
    workload: &Workload,
    queues: &[String],
) -> Result<Vec<Producer>> {
    let route = |id: u8| match workload.shape {
        Shape::Fanout { .. } => (EXCHANGE, ""),
        Shape::Topic { .. } => (EXCHANGE, TOPIC),
        _ => ("", queues[usize::from(id) % queues.len()].as_str()),
    };
    let count = match workload.shape {
        Shape::OneQueue { producers, .. } => producers,
        Shape::Queues { count } => count,
        _ => 1,
    };
    (0..count)
        .map(|id| {
            let (exchange, routing_key) = route(id);
            let plan = producer::Plan {
                id,
                publication: Publication {
                    exchange,
                    routing_key,
                    body_bytes: workload.body_bytes,
                    persistent: workload.persistent,
                    header: workload.header(),
                },
                number: match workload.keys {
                    None => Number::None,
                    Some(0) => Number::Unique,
                    Some(keys) => Number::Key { keys },
                },
                window: workload.window,
                pace: pace_of(workload),
                copies: workload.copies() as u64,
            };
            Producer::connect(broker.amqp, &plan)
        })
        .collect()
}

fn pace_of(workload: &Workload) -> Pace {
    match workload.shape {
        Shape::Paced { per_second } | Shape::Retries { per_second, .. } => Pace::Every {
            interval_ns: 1_000_000_000 / per_second,
        },
        Shape::FillAndDrain => Pace::Flat { lead_max: u64::MAX },
        _ => {
            let by_bytes = LEAD_BYTES_MAX / workload.body_bytes as u64;
            Pace::Flat {
                lead_max: LEAD_MESSAGES_MAX.min(by_bytes),
            }
        }
    }
}

fn checker_for(workload: &Workload, queues: usize, consumers: usize, producers: usize) -> Checker {
    let streams = if matches!(workload.shape, Shape::Fanout { .. }) {
        queues
    } else {
        1
    };
    Checker::new(streams, consumers, producers)
}

/// Ready messages left in the queues.
pub(crate) fn left(broker: &Broker, queues: &[String]) -> Result<u64> {
    let mut link = Link::open(broker.amqp)?;
    let mut sum = 0;
    for queue in queues {
        sum += u64::from(link.declare_queue(queue, Declare::Passive)?);
    }
    link.close()?;
    Ok(sum)
}

fn stored_of(broker: &Broker) -> Option<Stored> {
    (broker.kind == Kind::Leveret)
        .then(|| stored(broker.http))
        .flatten()
}

fn difference(after: Option<Stored>, before: Option<Stored>) -> Option<Stored> {
    after.zip(before).map(|(after, before)| Stored {
        commits: after.commits.saturating_sub(before.commits),
        bytes: after.bytes.saturating_sub(before.bytes),
    })
}

pub(crate) fn rss_peak_mib(broker: &Broker) -> Option<f64> {
    rss_peak_kib(broker.pid()).map(|kib| kib as f64 / 1_024.0)
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn per_message_us(cpu_ns: u64, messages: u64) -> f64 {
    cpu_ns as f64 / 1_000.0 / messages.max(1) as f64
}
