//! What is deployed for watching works: metrics, dashboard and alerts, with Prometheus itself.
//!
//! Keeps: every panel's query is asked, every alert fires, every counter tells what happened.
//! Never: draws a picture.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use monitoring::dashboard::{Query, queries};
use monitoring::load::{Done, Load};
use monitoring::prometheus::{Prometheus, deploy};
use tests::leveret::Leveret;
use tests::server::free_address;

#[path = "src/monitoring/mod.rs"]
mod monitoring;

const DASHBOARD: &str = "grafana/dashboards/leveret.json";
const CONFIG: &str = r#"
[[schedule]]
name = "every-second"
cron = "* * * * * *"
target = { queue = "ticks" }
body = "{}"
"#;

/// What the server's documentation promises; some have labels, some are histograms.
const METRICS: [&str; 40] = [
    "leveret_queue_messages_ready",
    "leveret_queue_messages_unacked",
    "leveret_queue_messages_waiting",
    "leveret_queue_oldest_ready_age_seconds",
    "leveret_queue_head_of_line_seconds",
    "leveret_queue_growth_messages_per_second",
    "leveret_queue_dead_letters",
    "leveret_dead_letter_queue_messages",
    "leveret_queue_consumers",
    "leveret_messages_published_total",
    "leveret_messages_confirmed_total",
    "leveret_messages_returned_total",
    "leveret_messages_unroutable_total",
    "leveret_messages_delivered_total",
    "leveret_messages_redelivered_total",
    "leveret_messages_acked_total",
    "leveret_messages_retried_total",
    "leveret_messages_dead_lettered_total",
    "leveret_messages_expired_total",
    "leveret_store_commits_total",
    "leveret_store_commit_seconds_bucket",
    "leveret_store_commit_bytes_bucket",
    "leveret_store_disk_bytes",
    "leveret_store_wal_bytes",
    "leveret_store_blocked",
    "leveret_memory_resident_bytes",
    "leveret_connections",
    "leveret_channels",
    "leveret_connections_opened_total",
    "leveret_connections_closed_total",
    "leveret_jobs",
    "leveret_jobs_submitted_total",
    "leveret_jobs_finished_total",
    "leveret_job_seconds_bucket",
    "leveret_schedule_fires_total",
    "leveret_schedule_lateness_seconds",
    "leveret_schedule_last_fire_timestamp_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "leveret_build_info",
];

/// What must be more than nothing after the load; each a whole query.
const ABOVE_ZERO: [&str; 15] = [
    "leveret_queue_messages_ready{queue=\"backlog\"}",
    "leveret_queue_messages_unacked{queue=\"held\"}",
    "leveret_queue_messages_waiting{queue=\"patient\"}",
    "leveret_queue_oldest_ready_age_seconds{queue=\"backlog\"}",
    "leveret_queue_head_of_line_seconds{queue=\"keyed\"}",
    "leveret_queue_growth_messages_per_second{queue=\"backlog\",window=\"5m\"}",
    "leveret_queue_dead_letters{queue=\"strict\"}",
    "leveret_dead_letter_queue_messages{queue=\"strict.dlq\"}",
    "leveret_queue_consumers{queue=\"fib\"}",
    "leveret_messages_expired_total",
    "leveret_store_commits_total",
    "leveret_store_disk_bytes",
    "leveret_schedule_fires_total{schedule=\"every-second\"}",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
];

#[test]
fn a_loaded_server_answers_every_panel() -> Result<()> {
    let server = Leveret::start(CONFIG)?;
    let load = Load::start(server.amqp, server.http);
    let prometheus = Prometheus::start(server.http)?;
    let all = queries(&deploy().join(DASHBOARD))?;
    let mut problems = Problems::default();
    problems.of(await_empty("panels without data", || {
        if load.is_over() {
            bail!("the load broke off");
        }
        unanswered(&prometheus, &all)
    }));
    if load.is_over() {
        let done = load.stop().with_context(|| server.last_output())?;
        bail!("the load ended by itself after {done:?}");
    }
    problems.of(await_empty("nothing counted", || {
        missing_above_zero(&prometheus)
    }));
    problems.of(await_empty("not on /metrics", || {
        missing_metrics(server.http)
    }));
    problems.of(check_rules(&prometheus));
    let done = load.stop()?;
    problems.of(await_empty("counted otherwise", || {
        differences(server.http, done)
    }));
    problems.of(lint(server.http));
    problems.none()
}

/// The check above can fail: nobody publishes these metrics here.
#[test]
fn a_server_without_metrics_answers_no_panel() -> Result<()> {
    let nobody = free_address()?;
    let prometheus = Prometheus::start(nobody)?;
    let all = queries(&deploy().join(DASHBOARD))?;
    // Until the first scrape has failed, so that silence is an answer.
    await_empty("scrapes", || {
        Ok(if prometheus.has_data("up == 0")? {
            vec![]
        } else {
            vec!["up".to_owned()]
        })
    })?;
    assert_eq!(unanswered(&prometheus, &all)?.len(), all.len());
    Ok(())
}

#[test]
fn every_alert_fires_where_it_should() -> Result<()> {
    let folder = deploy().join("prometheus");
    let names = names_after(&fs::read_to_string(folder.join("alerts.yml"))?, "- alert: ");
    let tested = fs::read_to_string(folder.join("alerts_test.yml"))?;
    for name in &names {
        let part = tested.split("- alertname: ").find(|part| {
            part.lines().next() == Some(name.as_str()) && part.contains("- exp_labels:")
        });
        part.with_context(|| format!("no test in alerts_test.yml lets {name} fire"))?;
    }
    assert!(names.len() >= 4, "{names:?}");
    for words in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
    ] {
        promtool(&words, None)?;
    }
    promtool(&["test", "rules", "alerts_test.yml"], None)
}

/// What several checks found, so that one does not hide the next.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn of(&mut self, outcome: Result<()>) {
        self.0
            .extend(outcome.err().map(|error| format!("{error:#}")));
    }

    fn none(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            bail!("{}", self.0.join("\n"))
        }
    }
}

/// Asks until nothing is left over, and then fails with what is.
fn await_empty(what: &str, mut left: impl FnMut() -> Result<Vec<String>>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = left()?;
        if now.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{what}:\n  {}", now.join("\n  "));
        }
        sleep(Duration::from_millis(200));
    }
}

fn unanswered(prometheus: &Prometheus, all: &[Query]) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for query in all {
        if !prometheus.has_data(&query.text)? {
            left.push(format!("{}: {}", query.panel, query.text));
        }
    }
    Ok(left)
}

fn missing_above_zero(prometheus: &Prometheus) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for query in ABOVE_ZERO {
        if !prometheus.has_data(&format!("{query} > 0"))? {
            left.push(query.to_owned());
        }
    }
    Ok(left)
}

fn missing_metrics(server: SocketAddr) -> Result<Vec<String>> {
    let there = Exposed::read(server)?;
    let gone = METRICS
        .iter()
        .filter(|name| !there.values.contains_key(**name));
    Ok(gone.map(|name| (*name).to_owned()).collect())
}

/// Rules evaluate on real metrics, and the dead letters of the load have been noticed.
fn check_rules(prometheus: &Prometheus) -> Result<()> {
    await_empty("rules that do not stand well", || {
        let mut left = Vec::new();
        for rule in prometheus.rules()? {
            let (name, health) = (&rule["name"], &rule["health"]);
            let noticed = rule["state"] == "pending" || rule["state"] == "firing";
            if health != "ok" || (name == "LeveretDeadLetters" && !noticed) {
                left.push(rule.to_string());
            }
        }
        Ok(left)
    })
}

/// Where the server counts otherwise than its clients.
fn differences(server: SocketAddr, done: Done) -> Result<Vec<String>> {
    let there = Exposed::read(server)?;
    let expected = [
        ("leveret_messages_returned_total", done.returned),
        (
            "leveret_messages_unroutable_total",
            done.returned + done.dropped,
        ),
        // Two more: those of `patient` and `keyed`, which wait for an hour.
        ("leveret_messages_retried_total", done.retried + 2),
        ("leveret_messages_dead_lettered_total", done.dead_lettered),
        ("leveret_jobs_submitted_total", done.calls),
        ("leveret_jobs_finished_total", done.calls),
    ];
    let mut left = Vec::new();
    for (name, count) in expected {
        let told = there.sum(name);
        if told != count as f64 {
            left.push(format!("{name} is {told}, the clients saw {count}"));
        }
    }
    // The worker's replies and what schedules and calls publish count too, so these are floors.
    for (name, count) in [
        ("leveret_messages_confirmed_total", done.confirmed),
        ("leveret_messages_published_total", done.confirmed),
        ("leveret_messages_acked_total", done.acked + done.calls),
        ("leveret_messages_redelivered_total", done.requeued),
    ] {
        let told = there.sum(name);
        if told < count as f64 {
            left.push(format!(
                "{name} is {told}, the clients saw at least {count}"
            ));
        }
    }
    Ok(left)
}

/// The text of `/metrics`, read as its consumers read it.
struct Exposed {
    /// By name, over all labels.
    values: BTreeMap<String, f64>,
}

impl Exposed {
    fn read(server: SocketAddr) -> Result<Self> {
        let answer = monitoring::http::get(server, "/metrics")?;
        if answer.status != 200 {
            bail!("/metrics: {answer:?}");
        }
        let mut values = BTreeMap::new();
        for line in answer
            .body
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            // Labels may hold blanks; no value does.
            let (_, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let value: f64 = value.parse().with_context(|| line.to_owned())?;
            *values.entry(name.to_owned()).or_insert(0.0) += value;
        }
        Ok(Self { values })
    }

    fn sum(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or_default()
    }
}

/// Prometheus' own opinion on names, types and help texts.
fn lint(server: SocketAddr) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("metrics");
    fs::write(&file, monitoring::http::get(server, "/metrics")?.body)?;
    promtool(&["check", "metrics"], Some(fs::File::open(file)?))
}

fn promtool(words: &[&str], input: Option<fs::File>) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(words).current_dir(deploy().join("prometheus"));
    if let Some(input) = input {
        command.stdin(input);
    }
    let output = command.output().context("starting promtool")?;
    if !output.status.success() {
        let (out, err) = (output.stdout, output.stderr);
        let text = [out, err]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat();
        bail!("promtool {words:?}: {text}");
    }
    Ok(())
}

fn names_after(text: &str, front: &str) -> Vec<String> {
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(front));
    names.map(str::to_owned).collect()
}

const PATIENCE: Duration = Duration::from_secs(60);
