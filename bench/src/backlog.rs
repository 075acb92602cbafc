//! A counted backlog that survives a restart: fill with confirms, end the process, start it again,
//! drain all in order.
//!
//! Keeps: the highest resident size of each process, sampled by the kernel (`VmHWM`).
//! Never: reads the queue before the restart, so that no delivery can be a redelivery.
//! In: `main`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

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
const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// Plays it; the first measurement is the fill, the second the restart and drain.
pub(crate) fn play(
    mut broker: Broker,
    workload: &Workload,
    messages: u64,
    end: End,
) -> Result<Vec<Measurement>> {
    let mut link = Link::open(broker.amqp)?;
    link.declare_queue(QUEUE, Declare::Durable)?;
    link.close()?;
    let (filled, published) = fill(&broker, workload, messages)?;
    let rss_before = rss_kib(broker.pid());
    let restart = broker.restart(end)?;
    eprintln!(
        "    {} MiB resident when full, restarted in {:.2} s",
        rss_before.unwrap_or(0) / 1_024,
        restart.as_secs_f64()
    );
    let drained = drain(&broker, workload, published, restart)?;
    broker.stop()?;
    Ok(vec![filled, drained])
}

fn fill(broker: &Broker, workload: &Workload, messages: u64) -> Result<(Measurement, u64)> {
    let plan = producer::Plan {
        id: 0,
        publication: Publication {
            exchange: "",
            routing_key: QUEUE,
            body_bytes: workload.body_bytes,
            persistent: true,
            header: None,
        },
        window: workload.window,
        pace: Pace::Count { messages },
        copies: 1,
        number: Number::None,
    };
    let producers = vec![Producer::connect(broker.amqp, &plan)?];
    let mut result = Measurement::new(&format!("{}-fill", workload.name), broker.kind, true);
    let control = Control::new();
    control.enter(Phase::Measure);
    let (before, began) = (Usage::of(broker.pid())?, Instant::now());
    // Driven on a thread of its own, because timers are sharpened per thread.
    let produced = thread::scope(|scope| {
        join(
            scope.spawn(|| producer::drive(producers, &control)),
            "producer",
        )
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let used = Usage::of(broker.pid())?.since(before);
    result.messages_per_s = produced.published as f64 / seconds;
    result.published_per_s = Some(result.messages_per_s);
    result.confirm = produced.confirm.quantiles();
    result.nacked = produced.nacked;
    result.broker_cpu_us = Some(used.cpu_us / produced.published.max(1) as f64);
    result.generator_cpu_us = Some(per_message_us(produced.cpu_ns, produced.published));
    result.written_mib = used.written_bytes.map(mib);
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok((result, produced.published))
}

fn drain(
    broker: &Broker,
    workload: &Workload,
    published: u64,
    restart: Duration,
) -> Result<Measurement> {
    let mut result = Measurement::new(&format!("{}-drain", workload.name), broker.kind, true);
    let before = Usage::of(broker.pid())?;
    let began = Instant::now();
    let consumers = vec![Consumer::connect(
        broker.amqp,
        &run::consumer_plan(workload, QUEUE, 0),
        0,
    )?];
    let control = Control::new();
    let summary = thread::scope(|scope| {
        let checker = Checker::new(1, 1, 1);
        let consuming = scope.spawn(|| consumer::drive(consumers, checker, &control));
        while control.consumed() == 0 && began.elapsed() < SERVED_WITHIN && !consuming.is_finished()
        {
            thread::sleep(Duration::from_micros(200));
        }
        result.served_s = Some((restart + began.elapsed()).as_secs_f64());
        let last = run::wait_for_drain(&control, published, || !consuming.is_finished());
        result.messages_per_s =
            control.consumed() as f64 / last.duration_since(began).as_secs_f64();
        control.enter(Phase::Done);
        join(consuming, "consumer")
    })?;
    let used = Usage::of(broker.pid())?.since(before);
    let consumed = summary.tally.unique.max(1);
    result.restart_s = Some(restart.as_secs_f64());
    result.broker_cpu_us = Some(used.cpu_us / consumed as f64);
    result.generator_cpu_us = Some(per_message_us(summary.cpu_ns, consumed));
    result.written_mib = used.written_bytes.map(mib);
    result.tally = Some(summary.tally.settle(published));
    result.left = run::left(broker, &[QUEUE.to_owned()])?;
    result.rss_peak_mib = rss_peak_mib(broker);
    Ok(result)
}
