//! What the dashboard shows: rows of panels, each with its queries.
//!
//! Keeps: one place for every query. In a query, `{node}` and `{queue}` stand for the selectors
//! that the reader chose (`{queue 5m}`: and a mean's window), and `[span]` for the range that fits
//! the picture's resolution.
//! Never: knows Grafana's form; `dashboard` does.
//! In: `dashboard`.

/// Panels under one heading.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: &'static [Panel],
}

/// One picture.
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// What a reader should make of it.
    pub(super) about: &'static str,
    pub(super) form: Form,
    /// Grafana's name of the unit.
    pub(super) unit: &'static str,
    /// Legend and short PromQL; [`query`] makes it whole.
    pub(super) queries: &'static [(&'static str, &'static str)],
}

/// How it looks.
pub(super) enum Form {
    /// One number.
    Number,
    /// One number that is red from 1 on.
    Alarm,
    /// A line for each series.
    Lines,
    /// Areas that add up.
    Stack,
}

pub(super) const ROWS: &[Row] = &[
    Row {
        title: "At a glance",
        panels: &[
            Panel {
                title: "Ready",
                about: "Messages that a consumer could have now.",
                form: Form::Number,
                unit: "short",
                queries: &[("ready", "sum(leveret_queue_messages_ready{queue})")],
            },
            Panel {
                title: "Unacked",
                about: "Messages that a consumer has and has not settled.",
                form: Form::Number,
                unit: "short",
                queries: &[("unacked", "sum(leveret_queue_messages_unacked{queue})")],
            },
            Panel {
                title: "Waiting",
                about: "Messages with a time before which nobody gets them: delayed, or between two attempts.",
                form: Form::Number,
                unit: "short",
                queries: &[("waiting", "sum(leveret_queue_messages_waiting{queue})")],
            },
            Panel {
                title: "Dead letters",
                about: "Messages in dead-letter queues. Each one wants a look.",
                form: Form::Alarm,
                unit: "short",
                queries: &[("dead", "sum(leveret_dead_letter_queue_messages{queue})")],
            },
            Panel {
                title: "Store blocked",
                about: "1 while the disk is full: publishers wait, consumers go on.",
                form: Form::Alarm,
                unit: "short",
                queries: &[("blocked", "max(leveret_store_blocked{node})")],
            },
            Panel {
                title: "Versions running",
                about: "How many different versions the chosen instances run.",
                form: Form::Number,
                unit: "short",
                queries: &[(
                    "versions",
                    "count(count by (version) (leveret_build_info{node}))",
                )],
            },
        ],
    },
    Row {
        title: "Messages",
        panels: &[
            Panel {
                title: "In",
                about: "Published by clients, schedules and calls; confirmed to publishers.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[
                    (
                        "published",
                        "sum(rate(leveret_messages_published_total{node}[span]))",
                    ),
                    (
                        "confirmed",
                        "sum(rate(leveret_messages_confirmed_total{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Out",
                about: "Handed to consumers; settled by them.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[
                    (
                        "delivered",
                        "sum(rate(leveret_messages_delivered_total{node}[span]))",
                    ),
                    (
                        "acked",
                        "sum(rate(leveret_messages_acked_total{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Second tries",
                about: "Handed out again after a return or a lost consumer; sent into a wait before the next attempt.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[
                    (
                        "redelivered",
                        "sum(rate(leveret_messages_redelivered_total{node}[span]))",
                    ),
                    (
                        "retried",
                        "sum(rate(leveret_messages_retried_total{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Dead-lettered",
                about: "Given up, by reason.",
                form: Form::Stack,
                unit: "suffix:/s",
                queries: &[(
                    "{{reason}}",
                    "sum by (reason) (rate(leveret_messages_dead_lettered_total{node}[span]))",
                )],
            },
            Panel {
                title: "Nowhere to go",
                about: "Reached no queue; of these, returned to a publisher that asked for it.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[
                    (
                        "returned",
                        "sum(rate(leveret_messages_returned_total{node}[span]))",
                    ),
                    (
                        "unroutable",
                        "sum(rate(leveret_messages_unroutable_total{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Expired",
                about: "Not consumed within their time to live.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[(
                    "expired",
                    "sum(rate(leveret_messages_expired_total{node}[span]))",
                )],
            },
        ],
    },
    Row {
        title: "Queues (the fifteen largest)",
        panels: &[
            Panel {
                title: "Ready",
                about: "Messages that a consumer could have now.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, sum by (vhost, queue) (leveret_queue_messages_ready{queue}))",
                )],
            },
            Panel {
                title: "Unacked",
                about: "Messages that a consumer has and has not settled.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, sum by (vhost, queue) (leveret_queue_messages_unacked{queue}))",
                )],
            },
            Panel {
                title: "Waiting",
                about: "Delayed, or between two attempts.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, sum by (vhost, queue) (leveret_queue_messages_waiting{queue}))",
                )],
            },
            Panel {
                title: "Age of the oldest ready message",
                about: "How far the consumers of a queue are behind.",
                form: Form::Lines,
                unit: "s",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, max by (vhost, queue) (leveret_queue_oldest_ready_age_seconds{queue}))",
                )],
            },
            Panel {
                title: "Head of line",
                about: "Age of the oldest message that holds, or is held by, its key: how long the slowest key has stood.",
                form: Form::Lines,
                unit: "s",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, max by (vhost, queue) (leveret_queue_head_of_line_seconds{queue}))",
                )],
            },
            Panel {
                title: "Growth",
                about: "How much more comes than is settled, over five minutes; below zero a queue is worked off.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, sum by (vhost, queue) (leveret_queue_growth_messages_per_second{queue 5m}))",
                )],
            },
            Panel {
                title: "Dead letters",
                about: "Depth of each dead-letter queue.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, sum by (vhost, queue) (leveret_dead_letter_queue_messages{queue}))",
                )],
            },
            Panel {
                title: "Consumers",
                about: "Consumers of each queue.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{vhost}} {{queue}}",
                    "topk(15, sum by (vhost, queue) (leveret_queue_consumers{queue}))",
                )],
            },
        ],
    },
    Row {
        title: "Calls",
        panels: &[
            Panel {
                title: "Jobs by state",
                about: "What became of the calls that are still kept.",
                form: Form::Stack,
                unit: "short",
                queries: &[("{{state}}", "sum by (state) (leveret_jobs{node})")],
            },
            Panel {
                title: "Submitted and finished",
                about: "Calls accepted, and jobs that reached a final state.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[
                    (
                        "submitted",
                        "sum(rate(leveret_jobs_submitted_total{node}[span]))",
                    ),
                    (
                        "{{state}}",
                        "sum by (state) (rate(leveret_jobs_finished_total{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Time from call to answer",
                about: "From the acceptance of a call to its final state.",
                form: Form::Lines,
                unit: "s",
                queries: &[
                    (
                        "p50",
                        "histogram_quantile(0.5, sum by (le) (rate(leveret_job_seconds_bucket{node}[span])))",
                    ),
                    (
                        "p95",
                        "histogram_quantile(0.95, sum by (le) (rate(leveret_job_seconds_bucket{node}[span])))",
                    ),
                    (
                        "p99",
                        "histogram_quantile(0.99, sum by (le) (rate(leveret_job_seconds_bucket{node}[span])))",
                    ),
                ],
            },
        ],
    },
    Row {
        title: "Schedules",
        panels: &[
            Panel {
                title: "Ticks",
                about: "Fired by each schedule within the last hour.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{schedule}}",
                    "sum by (schedule) (increase(leveret_schedule_fires_total{node}[1h]))",
                )],
            },
            Panel {
                title: "Lateness",
                about: "How long after its nominal time the last tick was on disk.",
                form: Form::Lines,
                unit: "s",
                queries: &[(
                    "{{schedule}}",
                    "max by (schedule) (leveret_schedule_lateness_seconds{node})",
                )],
            },
            Panel {
                title: "Time since the last tick",
                about: "A schedule that stopped shows as a line that climbs.",
                form: Form::Lines,
                unit: "s",
                queries: &[(
                    "{{schedule}}",
                    "time() - max by (schedule) (leveret_schedule_last_fire_timestamp_seconds{node})",
                )],
            },
        ],
    },
    Row {
        title: "Store",
        panels: &[
            Panel {
                title: "Commits",
                about: "Transactions on disk per second.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[(
                    "commits",
                    "sum(rate(leveret_store_commits_total{node}[span]))",
                )],
            },
            Panel {
                title: "Time of a commit",
                about: "What a confirm waits for, at least.",
                form: Form::Lines,
                unit: "s",
                queries: &[
                    (
                        "p50",
                        "histogram_quantile(0.5, sum by (le) (rate(leveret_store_commit_seconds_bucket{node}[span])))",
                    ),
                    (
                        "p99",
                        "histogram_quantile(0.99, sum by (le) (rate(leveret_store_commit_seconds_bucket{node}[span])))",
                    ),
                    (
                        "mean",
                        "sum(rate(leveret_store_commit_seconds_sum{node}[span])) / sum(rate(leveret_store_commit_seconds_count{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Size of a commit",
                about: "More load makes larger commits, not more of them.",
                form: Form::Lines,
                unit: "bytes",
                queries: &[
                    (
                        "p50",
                        "histogram_quantile(0.5, sum by (le) (rate(leveret_store_commit_bytes_bucket{node}[span])))",
                    ),
                    (
                        "p99",
                        "histogram_quantile(0.99, sum by (le) (rate(leveret_store_commit_bytes_bucket{node}[span])))",
                    ),
                    (
                        "mean",
                        "sum(rate(leveret_store_commit_bytes_sum{node}[span])) / sum(rate(leveret_store_commit_bytes_count{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "On disk",
                about: "The database and its write-ahead log.",
                form: Form::Lines,
                unit: "bytes",
                queries: &[
                    (
                        "{{instance}} database",
                        "sum by (instance) (leveret_store_disk_bytes{node})",
                    ),
                    (
                        "{{instance}} log",
                        "sum by (instance) (leveret_store_wal_bytes{node})",
                    ),
                ],
            },
            Panel {
                title: "Messages per commit",
                about: "How well commits are shared.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "published",
                    "sum(rate(leveret_messages_published_total{node}[span])) / sum(rate(leveret_store_commits_total{node}[span]))",
                )],
            },
            Panel {
                title: "Written",
                about: "Bytes that commits hold.",
                form: Form::Lines,
                unit: "Bps",
                queries: &[(
                    "committed",
                    "sum(rate(leveret_store_commit_bytes_sum{node}[span]))",
                )],
            },
        ],
    },
    Row {
        title: "Process",
        panels: &[
            Panel {
                title: "Connections and channels",
                about: "Open now.",
                form: Form::Lines,
                unit: "short",
                queries: &[
                    ("connections", "sum(leveret_connections{node})"),
                    ("channels", "sum(leveret_channels{node})"),
                ],
            },
            Panel {
                title: "Connection churn",
                about: "A client that connects for each message shows here.",
                form: Form::Lines,
                unit: "suffix:/s",
                queries: &[
                    (
                        "opened",
                        "sum(rate(leveret_connections_opened_total{node}[span]))",
                    ),
                    (
                        "closed",
                        "sum(rate(leveret_connections_closed_total{node}[span]))",
                    ),
                ],
            },
            Panel {
                title: "Memory",
                about: "Of the process, and of message bodies within it.",
                form: Form::Lines,
                unit: "bytes",
                queries: &[
                    (
                        "{{instance}} process",
                        "process_resident_memory_bytes{leveret}",
                    ),
                    ("{{instance}} bodies", "leveret_memory_resident_bytes{node}"),
                ],
            },
            Panel {
                title: "Processor",
                about: "Cores in use.",
                form: Form::Lines,
                unit: "short",
                queries: &[(
                    "{{instance}}",
                    "rate(process_cpu_seconds_total{leveret}[span])",
                )],
            },
        ],
    },
];

/// A short query made whole.
pub(super) fn query(short: &str) -> String {
    let words = [
        ("{node}", r#"{instance=~"$instance"}"#),
        ("{leveret}", r#"{job=~".*leveret.*",instance=~"$instance"}"#),
        (
            "{queue}",
            r#"{instance=~"$instance",vhost=~"$vhost",queue=~"$queue"}"#,
        ),
        (
            "{queue 5m}",
            r#"{instance=~"$instance",vhost=~"$vhost",queue=~"$queue",window="5m"}"#,
        ),
        ("[span]", "[$__rate_interval]"),
    ];
    words.iter().fold(short.to_owned(), |text, (word, whole)| {
        text.replace(word, whole)
    })
}
