//! What one run of one workload on one broker gave.
//!
//! Keeps: figures as measured, one value per repetition; medians are made in `report`.
//! Never: holds a guess: what is unknown is `None` and is printed as `-`.
//! In: filled by `run`, `backlog`, `calls`.

use serde::Serialize;

use crate::broker::Kind;
use crate::latency::Quantiles;
use crate::sequence::Tally;
use crate::soak::Soak;

/// One run. Rates are per second of the measuring window, after the warm-up.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    pub(crate) workload: String,
    pub(crate) broker: Kind,
    /// `D2`: on disk before the confirm; `D0`: may be lost. See the benchmark page.
    pub(crate) durability: &'static str,
    pub(crate) repetition: u32,
    /// Messages consumed; for a fill, confirmed; for calls, accepted.
    pub(crate) messages_per_s: f64,
    pub(crate) published_per_s: Option<f64>,
    /// From the intended time of sending to the receipt by the consumer; for calls, to the answer.
    pub(crate) e2e: Option<Quantiles>,
    /// From the intended time of sending to the confirm.
    pub(crate) confirm: Option<Quantiles>,
    /// CPU time of the broker per message, user and kernel, µs.
    pub(crate) broker_cpu_us: Option<f64>,
    /// CPU time of the load generator per message, both sides together, µs.
    pub(crate) generator_cpu_us: Option<f64>,
    pub(crate) rss_peak_mib: Option<f64>,
    /// Resident size once everything stands still, MiB.
    pub(crate) rss_mib: Option<f64>,
    /// What one idle connection adds to the broker's resident size, KiB.
    pub(crate) kib_each: Option<f64>,
    /// fsync-like system calls of the broker; with PostgreSQL syncs of its write-ahead log.
    pub(crate) fsyncs_per_s: Option<f64>,
    /// Leveret's own count of commits.
    pub(crate) commits_per_s: Option<f64>,
    /// Bytes sent to the disk in the window; with PostgreSQL those of its write-ahead log.
    pub(crate) written_mib: Option<f64>,
    /// CPU time of PostgreSQL per message, µs.
    pub(crate) database_cpu_us: Option<f64>,
    /// Bytes of messages that Leveret gave to its store, per message.
    pub(crate) stored_bytes: Option<f64>,
    pub(crate) soak: Option<Soak>,
    pub(crate) tally: Option<Tally>,
    pub(crate) nacked: u64,
    /// Messages that the broker still held at the end.
    pub(crate) left: u64,
    /// From the start of the process to the first AMQP connection.
    pub(crate) restart_s: Option<f64>,
    /// From the start of the process to the first delivery.
    pub(crate) served_s: Option<f64>,
    /// Load average of the machine when the run began: others may be at work.
    pub(crate) machine_load: f64,
    /// Why the run does not count.
    pub(crate) failure: Option<String>,
}

impl Measurement {
    pub(crate) fn new(workload: &str, broker: Kind, persistent: bool) -> Self {
        Self {
            workload: workload.to_owned(),
            broker,
            // Both fsync before a confirm; RabbitMQ's newer queue types differ, see the page.
            durability: if persistent { "D2" } else { "D0" },
            repetition: 0,
            messages_per_s: 0.0,
            published_per_s: None,
            e2e: None,
            confirm: None,
            broker_cpu_us: None,
            generator_cpu_us: None,
            rss_peak_mib: None,
            rss_mib: None,
            kib_each: None,
            fsyncs_per_s: None,
            commits_per_s: None,
            written_mib: None,
            database_cpu_us: None,
            stored_bytes: None,
            soak: None,
            tally: None,
            nacked: 0,
            left: 0,
            restart_s: None,
            served_s: None,
            machine_load: 0.0,
            failure: None,
        }
    }

    /// Ran to its end, and nothing was lost, doubled, reordered, damaged, refused or left behind.
    pub(crate) fn is_clean(&self) -> bool {
        self.failure.is_none()
            && self.nacked == 0
            && self.left == 0
            && self.tally.is_none_or(|tally| tally.is_clean())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flaw_makes_a_run_unclean() {
        let clean = Measurement::new("x", Kind::Leveret, true);
        assert!(clean.is_clean());
        assert!(
            !Measurement {
                nacked: 1,
                ..clean.clone()
            }
            .is_clean()
        );
        assert!(
            !Measurement {
                left: 1,
                ..clean.clone()
            }
            .is_clean()
        );
        assert!(
            !Measurement {
                failure: Some(String::new()),
                ..clean.clone()
            }
            .is_clean()
        );
        let tally = Some(Tally {
            doubled: 1,
            ..Tally::default()
        });
        assert!(!Measurement { tally, ..clean }.is_clean());
    }
}
