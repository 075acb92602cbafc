//! `/metrics`: the store's figures as Prometheus text, then what the rooms recorded themselves.
//!
//! Keeps: the names that dashboards and alerts rely on; one block per metric.
//! Never: counts anything; it reads `Store::stats`, the backend and `/proc/self`.
//! In: the router.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use store::QueueStats;
use store::model::JobState;
use store::shard::Counters;

use super::App;
use super::problem::Problem;

/// Ticks per second in `/proc/self/stat`: a constant of Linux's interface, not of its kernel.
const USER_HZ: f64 = 100.0;

/// Everything, in the text format 0.0.4.
pub(super) async fn render(State(app): State<App>) -> Result<Response, Problem> {
    let jobs = app.store.backend().job_counts().await?;
    let now = app.store.now();
    let mut stats = app.store.stats();
    stats
        .queues
        .sort_by(|a, b| (&a.vhost, &a.name).cmp(&(&b.vhost, &b.name)));
    let (disk, wal) = app.store.backend().disk_bytes();
    let mut page = Page::default();
    page.queues(&stats.queues, now);
    page.counters(&stats.counters);
    page.gauge("store_disk_bytes", "Bytes of the database files.", disk);
    page.gauge("store_wal_bytes", "Bytes of the write-ahead log.", wal);
    page.gauge(
        "store_blocked",
        "1 while publishers must wait.",
        u64::from(stats.alarms.any()),
    );
    page.gauge(
        "publishers_stopped",
        "Connections that wait for room in a full queue.",
        stats.publishers_stopped,
    );
    page.gauge(
        "alarm_memory",
        "1 while publishers must wait for memory.",
        u64::from(stats.alarms.memory()),
    );
    page.gauge(
        "alarm_disk",
        "1 while publishers must wait for room on the disk.",
        u64::from(stats.alarms.disk()),
    );
    page.gauge(
        "memory_resident_bytes",
        "Message bytes held in memory.",
        stats.resident_bytes,
    );
    page.gauge("connections", "Open AMQP connections.", stats.connections);
    page.gauge("channels", "Open AMQP channels.", stats.channels);
    page.head("leveret_jobs", "gauge", "Jobs by state.");
    for state in JobState::ALL {
        let count = jobs
            .iter()
            .find(|(known, _)| *known == state)
            .map_or(0, |(_, count)| *count);
        page.line("leveret_jobs", &[("state", state.as_str())], count);
    }
    Ok(page.answer(&app.recorder))
}

/// What a node knows without a store: of its process, and what the rooms recorded.
pub(super) fn render_process(recorder: &PrometheusHandle) -> Response {
    Page::default().answer(recorder)
}

#[derive(Default)]
struct Page(String);

impl Page {
    /// Ends with what every node tells.
    fn answer(mut self, recorder: &PrometheusHandle) -> Response {
        let name = "leveret_build_info";
        self.head(name, "gauge", "1, with the version as label.");
        self.line(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.process();
        recorder.run_upkeep();
        self.0.push_str(&recorder.render());
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], self.0).into_response()
    }

    fn queues(&mut self, queues: &[QueueStats], now: i64) {
        let age = |queue: &QueueStats| {
            queue
                .oldest_ready_at
                .map_or(0.0, |at| (now - at).max(0) as f64 / 1e6)
        };
        self.each("messages_ready", "Messages ready.", queues, |queue| {
            queue.ready as f64
        });
        self.each("messages_unacked", "Messages out.", queues, |queue| {
            queue.unacked as f64
        });
        self.each(
            "messages_waiting",
            "Messages in backoff.",
            queues,
            |queue| queue.waiting as f64,
        );
        self.each("consumers", "Consumers.", queues, |queue| {
            queue.consumers as f64
        });
        self.each(
            "oldest_ready_age_seconds",
            "Age of the oldest ready message.",
            queues,
            age,
        );
        self.signals(queues, now);
        let name = "leveret_queue_messages_deduplicated_total";
        self.head(name, "counter", "Duplicates that the queue dropped.");
        for queue in queues.iter().filter(|queue| queue.deduplicated > 0) {
            let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
            self.line(name, &labels, queue.deduplicated);
        }
        type Of = fn(&store::replay::Kept) -> u64;
        let kept: [(&str, &str, Of); 2] = [
            (
                "leveret_queue_retained_messages",
                "Settled messages that the queue keeps.",
                |kept| kept.messages,
            ),
            (
                "leveret_queue_retained_bytes",
                "Their bodies, and 64 bytes for each.",
                |kept| kept.bytes,
            ),
        ];
        for (name, help, of) in kept {
            self.head(name, "gauge", help);
            for queue in queues {
                let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
                if let Some(kept) = &queue.retained {
                    self.line(name, &labels, of(kept));
                }
            }
        }
        let name = "leveret_queue_lease_seconds";
        self.head(name, "gauge", "How long a delivery may be unsettled.");
        for queue in queues {
            let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
            if let Some(ms) = queue.lease_ms {
                self.line(name, &labels, ms as f64 / 1e3);
            }
        }
        let name = "leveret_dead_letter_queue_messages";
        self.head(name, "gauge", "Messages in a dead-letter queue.");
        for queue in queues.iter().filter(|queue| queue.dead_letter) {
            let count = queue.ready + queue.unacked + queue.waiting;
            self.line(
                name,
                &[("vhost", &queue.vhost), ("queue", &queue.name)],
                count,
            );
        }
    }

    /// What alerts ask for, beside the depths: one line for each queue, however many keys it has.
    fn signals(&mut self, queues: &[QueueStats], now: i64) {
        let name = "leveret_queue_head_of_line_seconds";
        self.head(
            name,
            "gauge",
            "Age of the oldest head of a key that is out, in backoff or held; 0 when there is none.",
        );
        for queue in queues.iter().filter(|queue| queue.keeps_order) {
            let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
            let age = queue.head_of_line_at.map_or(0, |at| (now - at).max(0));
            self.line(name, &labels, age as f64 / 1e6);
        }
        let name = "leveret_queue_growth_messages_per_second";
        self.head(
            name,
            "gauge",
            "Growth of the queue's depth; negative while it shrinks.",
        );
        for queue in queues {
            let means = [
                ("1m", queue.growth.minute()),
                ("5m", queue.growth.five_minutes()),
            ];
            for (window, rate) in means {
                let labels = [
                    ("vhost", &*queue.vhost),
                    ("queue", &*queue.name),
                    ("window", window),
                ];
                self.line(name, &labels, rate);
            }
        }
        let name = "leveret_queue_dead_letters";
        self.head(
            name,
            "gauge",
            "Messages in the dead-letter queue of this queue.",
        );
        for queue in queues {
            let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
            if let Some(count) = queue.dead_letters {
                self.line(name, &labels, count);
            }
        }
    }

    fn each(
        &mut self,
        what: &str,
        help: &str,
        queues: &[QueueStats],
        figure: impl Fn(&QueueStats) -> f64,
    ) {
        let name = format!("leveret_queue_{what}");
        self.head(&name, "gauge", help);
        for queue in queues {
            self.line(
                &name,
                &[("vhost", &queue.vhost), ("queue", &queue.name)],
                figure(queue),
            );
        }
    }

    fn counters(&mut self, counters: &Counters) {
        for (what, help, count) in [
            (
                "messages_published",
                "Messages taken from publishers.",
                counters.published,
            ),
            ("messages_confirmed", "Confirms sent.", counters.confirmed),
            (
                "messages_returned",
                "Mandatory messages returned.",
                counters.returned,
            ),
            (
                "messages_unroutable",
                "Messages that reached no queue.",
                counters.unroutable,
            ),
            (
                "messages_delivered",
                "Deliveries to consumers.",
                counters.delivered,
            ),
            (
                "messages_redelivered",
                "Deliveries marked as redelivered.",
                counters.redelivered,
            ),
            ("messages_acked", "Messages acked.", counters.acked),
            (
                "messages_retried",
                "Messages sent into backoff.",
                counters.retried,
            ),
            (
                "messages_expired",
                "Messages whose time ran out.",
                counters.expired,
            ),
            (
                "messages_deduplicated",
                "Duplicates that an exchange or a queue confirmed and dropped.",
                counters.deduplicated,
            ),
            (
                "leases_ended",
                "Deliveries that came back because their lease was over.",
                counters.leases_ended,
            ),
            (
                "settlements_late",
                "Acks and nacks of deliveries whose lease was over, ignored.",
                counters.late,
            ),
            (
                "messages_quarantined",
                "Damaged messages that were set aside.",
                counters.quarantined,
            ),
            (
                "store_commits",
                "Commits to the database.",
                counters.commits,
            ),
            (
                "connections_opened",
                "AMQP connections accepted.",
                counters.connections_opened,
            ),
            (
                "connections_closed",
                "AMQP connections ended.",
                counters.connections_closed,
            ),
            ("jobs_submitted", "Calls accepted.", counters.jobs_submitted),
        ] {
            let name = format!("leveret_{what}_total");
            self.head(&name, "counter", help);
            self.line(&name, &[], count);
        }
        let name = "leveret_messages_dead_lettered_total";
        self.head(name, "counter", "Messages dead-lettered, by reason.");
        for (reason, count) in &counters.dead_lettered {
            self.line(name, &[("reason", reason)], count);
        }
        let name = "leveret_jobs_finished_total";
        self.head(name, "counter", "Jobs that reached their final state.");
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            let count = counters
                .jobs_finished
                .get(state.as_str())
                .copied()
                .unwrap_or(0);
            self.line(name, &[("state", state.as_str())], count);
        }
    }

    fn process(&mut self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = resident_bytes(&status) {
            let name = "process_resident_memory_bytes";
            self.head(name, "gauge", "Resident memory.");
            self.line(name, &[], bytes);
        }
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let name = "process_cpu_seconds_total";
            self.head(name, "counter", "CPU time, user and system.");
            self.line(name, &[], seconds);
        }
    }

    fn gauge(&mut self, what: &str, help: &str, value: u64) {
        let name = format!("leveret_{what}");
        self.head(&name, "gauge", help);
        self.line(&name, &[], value);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in brackets may hold spaces: fields are counted after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) as f64 / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_queues_cannot_break_a_line() {
        let mut page = Page::default();
        page.line("m", &[("queue", "a\"b\\c\nd"), ("vhost", "/")], 1);
        assert_eq!(page.0, "m{queue=\"a\\\"b\\\\c\\nd\",vhost=\"/\"} 1\n");
    }

    #[test]
    fn proc_is_read_by_field() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t  12 kB\n"), Some(12_288));
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
