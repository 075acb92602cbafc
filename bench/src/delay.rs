//! A million messages that wait for their times: accepted with confirms, kept over a restart,
//! delivered late by so much.
//!
//! Keeps: one clock over fill and delivery, so that lateness is receipt minus due time, which the
//! message names itself: how long its publish took does not count.
//! Never: lets the first come due before the restart is over.
//! In: `main`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::broker::{Broker, End};
use crate::consumer::{self, Consumer};
use crate::control::{Control, Phase};
use crate::link::{Declare, Link};
use crate::measurement::Measurement;
use crate::procfs::{Usage, rss_kib};
use crate::producer::{self, Number, Pace, Producer};
use crate::run::{self, join, mib, per_message_us, rss_peak_mib};
use crate::sequence::Checker;
use crate::wire::Publication;
use crate::workload::Workload;

const QUEUE: &str = "bench-q00";
const MESSAGES: u64 = 1_000_000;

/// Plays it; the first measurement is the fill, the second the deliveries.
pub(crate) fn play(
    mut broker: Broker,
    workload: &Workload,
    (first_ms, span_ms): (u64, u64),
    end: End,
) -> Result<Vec<Measurement>> {
    let mut link = Link::open(broker.amqp)?;
    link.declare_queue_with(QUEUE, Declare::Durable, &[("x-retry-limit", 5)])?;
    link.close()?;
    let control = Control::new();
    control.enter(Phase::Measure);
    let began = Instant::now();
    let number = Number::Due {
        epoch_ns: control.began_at_ns(),
        first_ms,
        span_ms,
        messages: MESSAGES,
    };
    let mut filled = fill(&broker, workload, number, &control)?;
    filled.rss_mib = rss_kib(broker.pid()).map(|kib| kib as f64 / 1_024.0);
    let restart = broker.restart(end)?;
    ensure!(
        began.elapsed() < Duration::from_millis(first_ms),
        "the first messages came due before the restart was over"
    );
    let mut delivered = deliver(&broker, workload, &control)?;
    delivered.restart_s = Some(restart.as_secs_f64());
    broker.stop()?;
    Ok(vec![filled, delivered])
}

fn fill(
    broker: &Broker,
    workload: &Workload,
    number: Number,
    control: &Control,
) -> Result<Measurement> {
    let plan = producer::Plan {
        id: 0,
        publication: Publication {
            exchange: "",
            routing_key: QUEUE,
            body_bytes: workload.body_bytes,
            persistent: true,
            header: Some("x-deliver-at"),
        },
        number,
        window: workload.window,
        pace: Pace::Count { messages: MESSAGES },
        copies: 1,
    };
    let producers = vec![Producer::connect(broker.amqp, &plan)?];
    let mut result = Measurement::new(&format!("{}-fill", workload.name), broker.kind, true);
    let (before, began) = (Usage::of(broker.pid())?, Instant::now());
    let produced = thread::scope(|scope| {
        join(
            scope.spawn(|| producer::drive(producers, control)),
            "producer",
        )
    })?;
    let used = Usage::of(broker.pid())?.since(before);
    result.messages_per_s = produced.published as f64 / began.elapsed().as_secs_f64();
    result.published_per_s = Some(result.messages_per_s);
    result.nacked = produced.nacked;
    result.broker_cpu_us = Some(used.cpu_us / produced.published.max(1) as f64);
    result.generator_cpu_us = Some(per_message_us(produced.cpu_ns, produced.published));
    result.written_mib = used.written_bytes.map(mib);
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok(result)
}

fn deliver(broker: &Broker, workload: &Workload, control: &Control) -> Result<Measurement> {
    let mut result = Measurement::new(&format!("{}-late", workload.name), broker.kind, true);
    let before = Usage::of(broker.pid())?;
    let plan = run::consumer_plan(workload, QUEUE, 0);
    let consumers = vec![Consumer::connect(broker.amqp, &plan, 0)?];
    let summary = thread::scope(|scope| {
        let checker = Checker::new(1, 1, 1);
        let consuming = scope.spawn(|| consumer::drive(consumers, checker, control));
        while control.consumed() == 0 && !consuming.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let began = Instant::now();
        let last = run::wait_for_drain(control, MESSAGES, || !consuming.is_finished());
        result.messages_per_s = control.consumed() as f64 / (last - began).as_secs_f64();
        control.enter(Phase::Done);
        join(consuming, "consumer")
    })?;
    let used = Usage::of(broker.pid())?.since(before);
    result.e2e = summary.latency.quantiles();
    result.broker_cpu_us = Some(used.cpu_us / summary.tally.unique.max(1) as f64);
    result.tally = Some(summary.tally.settle(MESSAGES));
    result.left = run::left(broker, &[QUEUE.to_owned()])?;
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok(result)
}
