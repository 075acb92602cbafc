//! The catalogue of workloads, under stable names.
//!
//! Keeps: each name describes all that matters: durability, confirms, acks, size.
//! Never: differs between brokers.
//! In: `main` selects, `run`, `backlog`, `calls` and `connections` play.

use anyhow::{Result, bail};

use crate::consumer::Ack;

/// Prefetch for acks in groups: well above the group, so that the broker never waits for an ack.
const PREFETCH_GROUPED: u16 = 5_000;
const PREFETCH_EACH: u16 = 1_000;
const SIZES: [(usize, &str); 4] = [(16, "16"), (256, "256"), (1_024, "1k"), (16_384, "16k")];

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Producers into one queue, consumers out of it.
    OneQueue { producers: u8, consumers: u8 },
    /// So many queues, each with a producer and a consumer.
    Queues { count: u8 },
    /// One producer, a fanout exchange, so many queues with one consumer each.
    Fanout { queues: u8 },
    /// One producer through a topic exchange with so many bindings, one of which matches.
    Topic { bindings: u16 },
    /// One producer at a fixed rate, one queue, one consumer.
    Paced { per_second: u64 },
    /// One producer and no consumer; afterwards a consumer drains the queue.
    FillAndDrain,
    /// A counted backlog, a restart in the middle, a drain.
    Backlog,
    /// HTTP calls on keep-alive connections.
    Calls { connections: usize },
    /// Connections with one channel each that do nothing.
    Idle { connections: usize },
    /// Connections that declare, publish one message and close, on so many threads.
    Churn { threads: usize },
    /// One producer at a fixed rate, one queue, one consumer that fails one in so many messages
    /// once.
    Retries { per_second: u64, one_in: u64 },
    /// A million messages that wait, a restart, and each at its time; spread from `first_ms` on.
    Delay { first_ms: u64, span_ms: u64 },
    /// One producer, one queue, one consumer, for minutes, beside a transaction that holds a
    /// snapshot of the same PostgreSQL.
    Pinned,
}

/// What the queue keeps beside order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    None,
    /// The work rules: leases, retries, dead letters. Nothing fails.
    Work,
    /// One message of a key at a time.
    Partition,
    /// A key once within a second: each is new, and takes a place in the window until it is over.
    Deduplication,
    /// A failed message comes back so much later, to the millisecond.
    Retries,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) body_bytes: usize,
    pub(crate) persistent: bool,
    /// Confirms with so many in flight.
    pub(crate) window: Option<usize>,
    pub(crate) ack: Ack,
    pub(crate) rules: Rules,
    /// Each message has a header with one of so many keys; 0 for one of its own.
    pub(crate) keys: Option<u64>,
}

impl Workload {
    fn one(name: &str, size: (usize, &str), ack: Ack) -> Self {
        Self {
            name: format!("{name}-{}", size.1),
            shape: Shape::OneQueue {
                producers: 1,
                consumers: 1,
            },
            body_bytes: size.0,
            persistent: false,
            window: None,
            ack,
            rules: Rules::None,
            keys: None,
        }
    }

    /// The arguments of its queues.
    pub(crate) fn arguments(&self) -> &'static [(&'static str, i64)] {
        match self.rules {
            Rules::None => &[],
            Rules::Work => &[("x-retry-limit", 5)],
            Rules::Partition => &[("x-partition-concurrency", 1)],
            Rules::Deduplication => &[("x-deduplication-window", 1_000)],
            Rules::Retries => &[("x-retry-delay", RETRY_DELAY_MS), ("x-retry-jitter", 0)],
        }
    }

    fn confirmed(self, window: usize) -> Self {
        Self {
            persistent: true,
            window: Some(window),
            ..self
        }
    }

    fn shaped(name: &str, shape: Shape, ack: Ack) -> Self {
        Self {
            name: name.to_owned(),
            shape,
            ..Self::one(name, SIZES[0], ack)
        }
    }

    pub(crate) fn prefetch(&self) -> u16 {
        match self.ack {
            Ack::Auto => 0,
            Ack::Each => PREFETCH_EACH,
            Ack::Every(_) | Ack::Confirmed(_) => PREFETCH_GROUPED,
        }
    }

    /// The header that its messages carry.
    pub(crate) fn header(&self) -> Option<&'static str> {
        self.keys.map(|keys| match keys {
            0 => "x-deduplication-header",
            _ => "x-partition-key",
        })
    }

    /// Queues that get a copy of each message.
    pub(crate) fn copies(&self) -> usize {
        match self.shape {
            Shape::Fanout { queues } => usize::from(queues),
            _ => 1,
        }
    }

    /// Runs that fill disks, take minutes or exist for Leveret only are played when asked for.
    pub(crate) fn is_special(&self) -> bool {
        matches!(
            self.shape,
            Shape::Backlog
                | Shape::Calls { .. }
                | Shape::Idle { .. }
                | Shape::Churn { .. }
                | Shape::Retries { .. }
                | Shape::Delay { .. }
                | Shape::Pinned
        ) || self.keys.is_some()
            || matches!(self.ack, Ack::Confirmed(_))
    }
}

/// All workloads, in the order of the table.
pub(crate) fn catalogue() -> Vec<Workload> {
    let every = Ack::Every(100);
    let mut all = Vec::new();
    for size in SIZES {
        all.push(Workload::one("transient-autoack", size, Ack::Auto));
    }
    for size in SIZES {
        all.push(Workload::one("transient-ack1", size, Ack::Each));
    }
    for size in SIZES {
        all.push(Workload::one("transient-ack100", size, every));
    }
    for size in SIZES {
        all.push(Workload::one("persistent-confirm1-ack1", size, Ack::Each).confirmed(1));
    }
    for size in SIZES {
        all.push(Workload::one("persistent-confirm2000-ack100", size, every).confirmed(2_000));
    }
    for size in SIZES {
        all.push(Workload::one("persistent-confirm2000-ack1", size, Ack::Each).confirmed(2_000));
    }
    for window in [2_000, 10_000] {
        for size in [SIZES[0], SIZES[2]] {
            let fill = Workload::one(&format!("fill-confirm{window}"), size, every);
            all.push(Workload {
                shape: Shape::FillAndDrain,
                ..fill.confirmed(window)
            });
        }
    }
    let fan_in = Shape::OneQueue {
        producers: 16,
        consumers: 4,
    };
    all.push(Workload::shaped("fanin-16-1-4", fan_in, every));
    all.push(Workload::shaped(
        "queues-32",
        Shape::Queues { count: 32 },
        Ack::Auto,
    ));
    all.push(Workload::shaped(
        "fanout-1-10",
        Shape::Fanout { queues: 10 },
        Ack::Auto,
    ));
    for bindings in [1, 1_000] {
        let name = format!("topic-{bindings}");
        all.push(Workload::shaped(
            &name,
            Shape::Topic { bindings },
            Ack::Auto,
        ));
    }
    let paced = Shape::Paced { per_second: PACE };
    all.push(Workload::shaped("latency-2000", paced, Ack::Auto));
    let durable = Workload::shaped("latency-2000-persistent", paced, Ack::Each);
    all.push(durable.confirmed(2_000));
    all.push(Workload::shaped("backlog-5m", Shape::Backlog, every).confirmed(2_000));
    all.push(
        Workload::shaped("calls-64", Shape::Calls { connections: 64 }, Ack::Auto).confirmed(1),
    );
    let idle = Shape::Idle {
        connections: 10_000,
    };
    all.push(Workload::shaped("idle-10k", idle, Ack::Auto));
    all.push(Workload::shaped(
        "churn",
        Shape::Churn { threads: 8 },
        Ack::Auto,
    ));
    all.extend(of_rules());
    all.extend(of_storing());
    all
}

/// Each message is stored: its consumer waits with the ack for the publisher's confirm.
fn of_storing() -> Vec<Workload> {
    let ack = Ack::Confirmed(100);
    let one = |name: &str, size| Workload::one(name, size, ack).confirmed(2_000);
    vec![
        one("stored-confirm2000-ack100", SIZES[0]),
        one("stored-confirm2000-ack100", SIZES[2]),
        Workload {
            name: "soak-pinned".to_owned(),
            shape: Shape::Pinned,
            ..one("soak-pinned", SIZES[2])
        },
    ]
}

/// What the rules of work cost: the same messages through queues that differ in their rules only.
fn of_rules() -> Vec<Workload> {
    let one = |name: &str, rules| Workload {
        name: name.to_owned(),
        rules,
        keys: Some(KEYS),
        ..Workload::one(name, SIZES[0], Ack::Every(100)).confirmed(2_000)
    };
    let unique = |name: &str, rules| Workload {
        keys: Some(0),
        window: Some(WINDOW_OF_DISK),
        ..one(name, rules)
    };
    let retries = Shape::Retries {
        per_second: 50_000,
        one_in: 10,
    };
    let delay = |name: &str, first_ms, span_ms| {
        let shape = Shape::Delay { first_ms, span_ms };
        Workload::shaped(name, shape, Ack::Every(100)).confirmed(10_000)
    };
    vec![
        one("rules-none", Rules::None),
        one("rules-work", Rules::Work),
        one("rules-partition-100k", Rules::Partition),
        unique("rules-none-unique", Rules::None),
        unique("rules-dedup-1m", Rules::Deduplication),
        Workload {
            rules: Rules::Retries,
            ..Workload::shaped("rules-retry-50k", retries, Ack::Every(100)).confirmed(10_000)
        },
        delay("delay-1m", 60_000, 600_000),
        delay("delay-1m-short", 40_000, 60_000),
    ]
}

/// After a failure, where one in some messages fails.
pub(crate) const RETRY_DELAY_MS: i64 = 1_000;

/// Unconfirmed messages where each confirm waits for the disk whatever the consumer does: so many
/// that the disk's latency, 10 ms with three commits, does not decide below five million a second.
const WINDOW_OF_DISK: usize = 50_000;

/// Keys of the workloads of rules.
const KEYS: u64 = 100_000;

/// Messages a second of the latency workloads.
pub(crate) const PACE: u64 = 2_000;

/// The workloads on which the release is judged.
pub(crate) const QUICK: [&str; 6] = [
    "persistent-confirm2000-ack100-16",
    "persistent-confirm2000-ack100-1k",
    "transient-autoack-16",
    "fill-confirm2000-16",
    "latency-2000",
    "latency-2000-persistent",
];

/// Those on which Leveret on a shared PostgreSQL is judged.
pub(crate) const SHARED: [&str; 5] = [
    "persistent-confirm2000-ack100-16",
    "persistent-confirm2000-ack100-1k",
    "stored-confirm2000-ack100-16",
    "stored-confirm2000-ack100-1k",
    "soak-pinned",
];

/// The workloads whose names equal or begin with one of the patterns; an unknown pattern is an
/// error. No pattern means all but the special ones.
pub(crate) fn select(patterns: &[String]) -> Result<Vec<Workload>> {
    let all = catalogue();
    if patterns.is_empty() {
        return Ok(all
            .into_iter()
            .filter(|workload| !workload.is_special())
            .collect());
    }
    for pattern in patterns {
        if !all.iter().any(|workload| matches(&workload.name, pattern)) {
            bail!("no workload is called {pattern}; --list shows all");
        }
    }
    let chosen = |workload: &Workload| patterns.iter().any(|p| matches(&workload.name, p));
    Ok(all.into_iter().filter(chosen).collect())
}

/// `name` matches itself; `name*` matches all that begin so.
fn matches(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_quick_exists() {
        let all = catalogue();
        let names: HashSet<&str> = all.iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for name in QUICK.into_iter().chain(SHARED) {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn persistent_workloads_use_confirms() {
        for workload in catalogue() {
            assert_eq!(
                workload.persistent,
                workload.window.is_some(),
                "{}",
                workload.name
            );
        }
    }

    #[test]
    fn selection_is_exact_unless_starred() {
        let names = |patterns: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
            select(&patterns)
                .unwrap()
                .into_iter()
                .map(|workload| workload.name)
                .collect()
        };
        assert_eq!(names(&["transient-ack1-16"]), ["transient-ack1-16"]);
        assert_eq!(names(&["fan*"]), ["fanin-16-1-4", "fanout-1-10"]);
        assert!(!names(&[]).contains(&"backlog-5m".to_owned()));
        assert!(select(&["nothing".to_owned()]).is_err());
    }
}
