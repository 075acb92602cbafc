//! Logs to stderr, and the recorder behind `/metrics`.
//!
//! Keeps: buckets for every histogram by name, so that each is a histogram and not a summary.
//! In: `cli` calls both once, before anything else runs.

use std::io::IsTerminal as _;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Installs the log; `filter` as in `info` or `info,store=debug`.
///
/// # Errors
/// The filter cannot be read.
pub fn log(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log level {filter}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        log.json().init()
    } else {
        log.init()
    }
    Ok(())
}

/// Installs the recorder that the rooms' counters and histograms go to.
///
/// # Errors
/// There is one already.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), BYTES)?;
    let handle = builder.install_recorder()?;
    for (name, help) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *help);
    }
    for (name, help) in GAUGES {
        metrics::describe_gauge!(*name, *help);
    }
    for (name, help) in COUNTERS {
        metrics::describe_counter!(*name, *help);
    }
    Ok(handle)
}

/// Counters that the rooms record, and what they tell.
const COUNTERS: &[(&str, &str)] = &[
    (
        "leveret_schedule_fires_total",
        "Ticks of a schedule since the start.",
    ),
    (
        "leveret_store_fenced_total",
        "Commits refused because another node owns the store.",
    ),
    (
        "leveret_store_went_back_total",
        "Times that the database lacked commits which it had confirmed.",
    ),
];

/// Histograms that the rooms record, and what they tell.
const HISTOGRAMS: &[(&str, &str)] = &[
    (
        "leveret_store_commit_seconds",
        "Time of one commit, the sync included.",
    ),
    (
        "leveret_store_commit_bytes",
        "Message bytes that one commit appended.",
    ),
    (
        "leveret_job_seconds",
        "Time from a call's acceptance to its final state.",
    ),
];
/// Gauges that the rooms set, and what they tell.
const GAUGES: &[(&str, &str)] = &[
    (
        "leveret_schedule_lateness_seconds",
        "How late the newest tick fired.",
    ),
    (
        "leveret_schedule_last_fire_timestamp_seconds",
        "Nominal time of the newest tick, seconds since the epoch.",
    ),
];

/// From one fsync of a fast disk to a call that took hours.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0, 600.0, 3600.0,
];
/// From an ack to the largest commit.
const BYTES: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
