//! A long load beside a transaction that holds a snapshot: does throughput fall, do tables grow?
//!
//! Keeps: one transaction open from before the first message to after the last sample; that it
//! holds back cleaning is shown, not assumed.
//! Never: judges; `gate` does.
//! In: `run` and `skip_locked` spawn it beside workloads of the shape `Pinned`.

use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::control::{Control, Phase};
use crate::database::Database;
use crate::procfs::{self, Usage};
use crate::run::{Timing, mib};
use crate::workload::{Shape, Workload};

/// Between two samples, but at least `SAMPLES_MIN` in a run.
const INTERVAL: Duration = Duration::from_secs(10);
const SAMPLES_MIN: u32 = 12;
const LOOK: Duration = Duration::from_millis(5);
/// Tables that are filled by turns need some turns until they are as large as they will be.
const WARM_UP: Duration = Duration::from_secs(30);

/// A reader that stays: from its first statement on it sees what there was, and its number is one
/// that all later transactions have to think of.
const PIN: &str = "begin isolation level repeatable read; select txid_current(), 1";
/// How many transactions began since the snapshot that the oldest session holds.
const PINNED: &str = "select coalesce(max(age(backend_xmin)), 0)::int8 from pg_stat_activity \
    where backend_type = 'client backend' and state = 'idle in transaction'";

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(crate) at_s: f64,
    pub(crate) consumed: u64,
    /// CPU time of PostgreSQL, and of Leveret where it is Leveret's run, µs.
    pub(crate) cpu_us: Option<f64>,
    /// CPU time of all else on this machine, but for the load generator, µs.
    pub(crate) foreign_us: Option<f64>,
    pub(crate) tables_mib: f64,
    pub(crate) catalogue_mib: f64,
}

/// All samples, and how the last quarter differs from the first.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Soak {
    pub(crate) first: Quarter,
    pub(crate) last: Quarter,
    pub(crate) seconds: f64,
    /// Transactions that began while the snapshot was held.
    pub(crate) pinned: i64,
    pub(crate) samples: Vec<Sample>,
}

/// Means over a quarter of the time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Quarter {
    pub(crate) messages_per_s: f64,
    /// Per message.
    pub(crate) cpu_us: Option<f64>,
    /// Cores that others took: a rate falls with them, and CPU per message does not.
    pub(crate) foreign_cores: Option<f64>,
    pub(crate) tables_mib: f64,
    pub(crate) catalogue_mib: f64,
}

impl Soak {
    fn of(samples: Vec<Sample>, pinned: i64) -> Result<Self> {
        let steps = samples.len().saturating_sub(1);
        let quarter = (steps / 4).max(1);
        ensure!(steps >= 2, "too short for two samples");
        Ok(Self {
            first: Quarter::of(&samples[..=quarter]),
            last: Quarter::of(&samples[steps - quarter..]),
            seconds: samples[steps].at_s - samples[0].at_s,
            pinned,
            samples,
        })
    }

    /// Rate of the last quarter over that of the first.
    pub(crate) fn kept(&self) -> f64 {
        self.last.messages_per_s / self.first.messages_per_s
    }

    /// Size of the tables in the last quarter over that in the first.
    pub(crate) fn grown(&self) -> f64 {
        self.last.tables_mib / self.first.tables_mib
    }
}

impl Quarter {
    /// Of samples of which the first is the beginning only.
    fn of(samples: &[Sample]) -> Self {
        let (begin, rest) = (samples[0], &samples[1..]);
        let end = rest[rest.len() - 1];
        let messages = end.consumed.saturating_sub(begin.consumed) as f64;
        let mean =
            |pick: fn(&Sample) -> f64| rest.iter().map(pick).sum::<f64>() / rest.len() as f64;
        let seconds = end.at_s - begin.at_s;
        let spent = end.cpu_us.zip(begin.cpu_us).map(|(now, then)| now - then);
        let foreign = end.foreign_us.zip(begin.foreign_us);
        Self {
            messages_per_s: messages / seconds,
            cpu_us: spent.map(|us| us / messages.max(1.0)),
            foreign_cores: foreign.map(|(now, then)| (now - then) / seconds / 1e6),
            tables_mib: mean(|sample| sample.tables_mib),
            catalogue_mib: mean(|sample| sample.catalogue_mib),
        }
    }
}

/// How long the parts of such a run take.
pub(crate) fn timing(window: Duration) -> Timing {
    Timing {
        warm_up: WARM_UP.min(window / 4),
        window,
    }
}

/// Where samples are taken: the server, the schema, the broker's process.
pub(crate) type Source<'a> = (&'a str, &'a str, Option<u32>);

/// Begins, for workloads that want it; the thread ends when the run drains.
pub(crate) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    workload: &Workload,
    source: Source<'scope>,
    (control, window): (&'scope Control, Duration),
) -> Option<ScopedJoinHandle<'scope, Result<Soak>>> {
    let interval = INTERVAL.min(window / SAMPLES_MIN);
    (workload.shape == Shape::Pinned).then(|| scope.spawn(move || watch(source, control, interval)))
}

fn watch((url, schema, broker): Source<'_>, control: &Control, interval: Duration) -> Result<Soak> {
    let holder = Database::connect(url)?;
    holder.run(PIN)?;
    let transaction = holder.number("select txid_current_if_assigned()")?;
    let database = Database::connect(url)?;
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut next = None;
    while control.phase() < Phase::Drain {
        let now = Instant::now();
        if control.phase() < Phase::Measure || next.is_some_and(|next| now < next) {
            thread::sleep(LOOK);
            continue;
        }
        next = Some(next.unwrap_or(now) + interval);
        let sizes = database.sizes(schema)?;
        let broker_us = broker
            .map(Usage::of)
            .transpose()?
            .map_or(0.0, |usage| usage.cpu_us);
        let cpu_us = database.reading()?.cpu_us.map(|us| us + broker_us);
        let own_us = Usage::of(std::process::id())?.cpu_us;
        let all = procfs::machine_busy_us().zip(cpu_us);
        samples.push(Sample {
            at_s: began.elapsed().as_secs_f64(),
            consumed: control.consumed(),
            cpu_us,
            foreign_us: all.map(|(all, ours)| all - ours - own_us),
            tables_mib: mib(sizes.tables),
            catalogue_mib: mib(sizes.catalogue),
        });
    }
    let pinned = database.number(PINNED)?;
    let still = holder.number("select txid_current_if_assigned()")?;
    ensure!(still == transaction, "the long transaction ended early");
    Soak::of(samples, pinned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sample(at_s: f64, consumed: u64, tables_mib: f64) -> Sample {
        Sample {
            at_s,
            consumed,
            cpu_us: Some(consumed as f64 * 2.0),
            foreign_us: Some(at_s * 500_000.0),
            tables_mib,
            catalogue_mib: 8.0,
        }
    }

    #[test]
    fn the_first_quarter_is_compared_with_the_last() {
        let rates = [100, 100, 90, 90, 80, 80, 70, 50];
        let mut samples = vec![sample(5.0, 0, 1_000.0)];
        for (step, rate) in rates.into_iter().enumerate() {
            let last = samples[step];
            samples.push(sample(
                last.at_s + 1.0,
                last.consumed + rate,
                10.0 + step as f64,
            ));
        }
        let soak = Soak::of(samples, 7).unwrap();
        assert_eq!(
            (soak.first.messages_per_s, soak.last.messages_per_s),
            (100.0, 60.0)
        );
        assert_eq!(soak.kept(), 0.6);
        // The size before the beginning counts for no quarter.
        assert_eq!((soak.first.tables_mib, soak.last.tables_mib), (10.5, 16.5));
        assert_eq!((soak.seconds, soak.first.cpu_us), (8.0, Some(2.0)));
        assert_eq!(soak.last.foreign_cores, Some(0.5));
    }

    #[test]
    fn a_run_without_samples_is_no_soak() {
        assert!(Soak::of(vec![sample(0.0, 0, 1.0)], 1).is_err());
    }
}
