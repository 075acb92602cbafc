//! Benchmark of Leveret beside RabbitMQ, or on PostgreSQL beside a queue in SQL: starts both, loads
//! them alternately, writes a table.
//!
//! Keeps: nothing between runs; each run has a fresh process and an empty data directory.
//! Never: uses a product crate, so that it measures what a client sees.
//! In: `cargo xtask bench`, or `cargo run --release -p bench -- …`.
//! Page: docs/reference/benchmark.md.
//!
//! ```text
//! main ─ workload (what) ─ run, backlog, calls, connections (how) ─ measurement ─ report, gate
//!                            │
//!             producer, consumer ─ wire, link, confirms, sequence, latency
//!             broker, procfs, fsyncs
//!          skip_locked (the peer on PostgreSQL) ─ database ─ soak
//! ```
#![expect(
    clippy::print_stdout,
    reason = "the table is the product of this program"
)]

mod backlog;
mod broker;
mod calls;
mod confirms;
mod connections;
mod consumer;
mod control;
mod database;
mod delay;
mod fsyncs;
mod gate;
mod latency;
mod link;
mod loopback;
mod measurement;
mod procfs;
mod producer;
mod report;
mod run;
mod sequence;
mod skip_locked;
mod soak;
mod wire;
mod workload;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::broker::{Broker, End, Kind, Places};
use crate::consumer::Ack;
use crate::database::Database;
use crate::measurement::Measurement;
use crate::run::Timing;
use crate::workload::{QUICK, SHARED, Shape, Workload};

/// The generator must stay below this to be out of the way, µs per message for both sides.
const GENERATOR_US_MAX: f64 = 0.3;
const SELF_TEST_MESSAGES: u64 = 3_000_000;
/// Long enough for a p99 of some thousand messages.
const RELAY_FOR: Duration = Duration::from_secs(3);

/// Load Leveret and RabbitMQ alternately and compare them.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Options {
    /// Workloads by name, `name*` for all that begin so; none means all but the special ones.
    workloads: Vec<String>,
    /// Show the names of all workloads.
    #[arg(long)]
    list: bool,
    /// Only the six workloads on which a release is judged.
    #[arg(long, conflicts_with = "workloads")]
    quick: bool,
    /// Fail unless the demands on the workloads that were run are met.
    #[arg(long)]
    check: bool,
    /// Measure the peer only.
    #[arg(long, conflicts_with_all = ["leveret_only", "check"])]
    peer_only: bool,
    /// Measure Leveret only.
    #[arg(long)]
    leveret_only: bool,
    /// Measure what the load generator itself costs, against a sink and a source of its own.
    #[arg(long)]
    self_test: bool,
    /// Length of the measuring window.
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    seconds: f64,
    /// Load before the window.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    warm_up: f64,
    /// Repetitions of each workload on each broker.
    #[arg(long, default_value_t = 1, value_name = "N")]
    repetitions: u32,
    /// Messages of the workload backlog-5m.
    #[arg(long, default_value_t = 5_000_000, value_name = "N")]
    backlog: u64,
    /// How backlog-5m ends the broker.
    #[arg(long, value_enum, default_value_t = End::Kill)]
    end: End,
    /// Calls of the workload calls-64.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    calls: u64,
    /// Leveret stores in this PostgreSQL, and a queue in SQL there is its peer; `cargo xtask bench
    /// --store postgres` starts one for the time of the run.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Length of the workload soak-pinned.
    #[arg(long, default_value_t = 60.0, value_name = "S")]
    soak: f64,
    #[arg(
        long,
        env = "LEVERET_BIN",
        default_value = "target/release/leveret",
        value_name = "FILE"
    )]
    leveret_path: PathBuf,
    #[arg(
        long,
        default_value = "/usr/lib/rabbitmq/bin/rabbitmq-server",
        value_name = "FILE"
    )]
    rabbitmq_path: PathBuf,
    /// Data directories of the brokers; should be on a disk, not on a memory file system.
    #[arg(long, default_value = "target/bench/work", value_name = "DIR")]
    work_dir: PathBuf,
    /// Where report.md and report.json go.
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        for workload in workload::catalogue() {
            println!("{}", workload.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let generator = self_test()?;
    if options.self_test {
        return Ok(ExitCode::SUCCESS);
    }
    let measurements = measure_all(&options)?;
    let rows = report::rows(&measurements);
    let verdicts = match options.store {
        Some(_) => gate::judge_shared(&rows),
        None => gate::judge(&rows),
    };
    let text = page(&options, &generator, &rows, &verdicts);
    fs::create_dir_all(&options.out).context("make the output directory")?;
    fs::write(options.out.join("report.md"), &text)?;
    let json = serde_json::json!({
        "generator": generator, "rows": rows, "verdicts": verdicts, "runs": measurements,
    });
    fs::write(
        options.out.join("report.json"),
        serde_json::to_vec_pretty(&json)?,
    )?;
    println!("\n{text}");
    println!("written: {}/report.md, report.json", options.out.display());
    let failed = options.check && !gate::passed(&verdicts);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Plays all workloads, the brokers in turn: A B, then again A B.
fn measure_all(options: &Options) -> Result<Vec<Measurement>> {
    let workloads = if options.quick {
        workload::select(&QUICK.map(str::to_owned))?
    } else if options.store.is_some() && options.workloads.is_empty() {
        workload::select(&SHARED.map(str::to_owned))?
    } else {
        workload::select(&options.workloads)?
    };
    let pinned = |workload: &Workload| workload.shape == Shape::Pinned;
    if options.store.is_none() && workloads.iter().any(pinned) {
        bail!("soak-pinned needs a PostgreSQL: --store");
    }
    let places = places(options)?;
    let mut measurements = Vec::new();
    for workload in &workloads {
        for repetition in 1..=options.repetitions {
            for kind in kinds(options, workload) {
                let (load, _) = procfs::machine_load();
                for mut measurement in measure_one(options, &places, workload, kind) {
                    measurement.repetition = repetition;
                    measurement.machine_load = load;
                    println!("{}", report::brief(&measurement));
                    measurements.push(measurement);
                }
            }
        }
    }
    Ok(measurements)
}

fn kinds(options: &Options, workload: &Workload) -> Vec<Kind> {
    let leveret = !options.peer_only;
    let (peer, can_play) = match options.store {
        Some(_) => (Kind::SkipLocked, skip_locked::can_play(workload)),
        // RabbitMQ has no calls.
        None => (
            Kind::RabbitMq,
            !matches!(workload.shape, Shape::Calls { .. }),
        ),
    };
    let mut kinds = Vec::new();
    kinds.extend(leveret.then_some(Kind::Leveret));
    kinds.extend((!options.leveret_only && can_play).then_some(peer));
    kinds
}

/// A failure is a measurement too: the other workloads go on.
fn measure_one(
    options: &Options,
    places: &Places,
    workload: &Workload,
    kind: Kind,
) -> Vec<Measurement> {
    play(options, places, workload, kind).unwrap_or_else(|error| {
        let failure = Some(format!("{error:#}"));
        let failed = Measurement::new(&workload.name, kind, workload.persistent);
        vec![Measurement { failure, ..failed }]
    })
}

fn play(
    options: &Options,
    places: &Places,
    workload: &Workload,
    kind: Kind,
) -> Result<Vec<Measurement>> {
    let timing = match workload.shape {
        Shape::Pinned => soak::timing(Duration::from_secs_f64(options.soak)),
        _ => Timing {
            warm_up: Duration::from_secs_f64(options.warm_up),
            window: Duration::from_secs_f64(options.seconds),
        },
    };
    if let Some(store) = &places.store {
        Database::connect(store)?.empty()?;
        if kind == Kind::SkipLocked {
            return skip_locked::play(store, workload, timing);
        }
    }
    let broker = Broker::start(kind, places)?;
    let outcome = match workload.shape {
        Shape::Backlog => return backlog::play(broker, workload, options.backlog, options.end),
        Shape::Delay { first_ms, span_ms } => {
            return delay::play(broker, workload, (first_ms, span_ms), options.end);
        }
        Shape::Calls { connections } => {
            calls::play(&broker, workload, connections, options.calls).map(|one| vec![one])
        }
        Shape::Idle { connections } => {
            connections::idle(&broker, workload, connections).map(|one| vec![one])
        }
        Shape::Churn { threads } => {
            connections::churn(&broker, workload, (threads, timing.window)).map(|one| vec![one])
        }
        _ => run::play(&broker, workload, timing),
    };
    let outcome = outcome.with_context(|| format!("its last words: {}", broker.log_tail()));
    let stopped = broker.stop();
    let mut measurements = outcome?;
    if let (Err(error), Some(last)) = (stopped, measurements.last_mut()) {
        last.failure = Some(format!("{error:#}"));
    }
    Ok(measurements)
}

fn places(options: &Options) -> Result<Places> {
    let absolute = |path: &PathBuf| std::path::absolute(path).context("absolute path");
    let places = Places {
        leveret: absolute(&options.leveret_path)?,
        rabbitmq: absolute(&options.rabbitmq_path)?,
        work_dir: absolute(&options.work_dir)?,
        store: options.store.clone(),
    };
    if !options.peer_only && !places.leveret.exists() {
        bail!(
            "{} does not exist: build it, or --leveret-path",
            places.leveret.display()
        );
    }
    if !options.leveret_only && places.store.is_none() && !places.rabbitmq.exists() {
        bail!(
            "{} does not exist: install rabbitmq-server, or --leveret-only",
            places.rabbitmq.display()
        );
    }
    Ok(places)
}

/// What the generator costs, in lines for the report.
fn self_test() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let cases = [
        ("no confirms, auto-ack", None, Ack::Auto),
        (
            "confirm window 2,000, ack per 100",
            Some(2_000),
            Ack::Every(100),
        ),
        ("confirm window 2,000, ack each", Some(2_000), Ack::Each),
    ];
    for (name, window, ack) in cases {
        let cost = loopback::generator_cost(SELF_TEST_MESSAGES, window, ack)?;
        let total_us = (cost.publish_ns + cost.consume_ns) / 1_000.0;
        let line = format!(
            "generator, 16 B, {name}: publish {:.0} ns + consume {:.0} ns = {total_us:.2} µs{}",
            cost.publish_ns,
            cost.consume_ns,
            if total_us > GENERATOR_US_MAX {
                " (ABOVE 0.3 µs)"
            } else {
                ""
            },
        );
        println!("{line}");
        lines.push(line);
    }
    let best = loopback::relay_latency(workload::PACE, RELAY_FOR)?;
    let line = best.map_or_else(
        || "nothing came through the relay".to_owned(),
        |best| {
            format!(
                "a relay without any work, {} msg/s: e2e {:.3} / {:.3} / {:.3} ms, the best that \
                 sockets and threads allow here",
                workload::PACE,
                best.p50_us / 1_000.0,
                best.p99_us / 1_000.0,
                best.p999_us / 1_000.0,
            )
        },
    );
    println!("{line}");
    lines.push(line);
    Ok(lines)
}

fn page(
    options: &Options,
    generator: &[String],
    rows: &[report::Row],
    verdicts: &[gate::Verdict],
) -> String {
    let (load, stolen) = procfs::machine_load();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "# Benchmark\n\n{cores} cores shared by broker and generator, load average {load:.1}, \
         {stolen:.1} % of CPU time stolen by the host since boot. Warm-up {} s, window {} s, \
         {} repetitions, median shown.\n\n{}\n{}",
        options.warm_up,
        options.seconds,
        options.repetitions,
        report::markdown(rows),
        report::remarks(rows),
    );
    for line in generator {
        text.push_str(&format!("- {line}\n"));
    }
    if !options.peer_only && !verdicts.is_empty() {
        text.push_str("\n| demand | measured | |\n|---|---:|---|\n");
        for verdict in verdicts {
            let mark = if verdict.passed { "met" } else { "**MISSED**" };
            text.push_str(&format!(
                "| {} | {} | {mark} |\n",
                verdict.demand, verdict.measured
            ));
        }
    }
    text
}
