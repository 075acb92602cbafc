//! From measurements to a table: medians over repetitions, ratios between brokers.
//!
//! Keeps: order of the catalogue. Never: drops a failed run silently: its row says so.
//! In: `main` prints and writes the text; `gate` reads the rows.

use std::fmt::Write as _;

use serde::Serialize;

use crate::broker::Kind;
use crate::latency::Quantiles;
use crate::measurement::Measurement;
use crate::sequence::Tally;
use crate::soak::Soak;

/// All repetitions of one workload on one broker.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) broker: Kind,
    pub(crate) durability: &'static str,
    pub(crate) runs: usize,
    /// Median of the runs that count.
    pub(crate) messages_per_s: f64,
    pub(crate) messages_per_s_min: f64,
    pub(crate) messages_per_s_max: f64,
    pub(crate) published_per_s: Option<f64>,
    /// Medians of each quantile.
    pub(crate) e2e: Option<Quantiles>,
    pub(crate) confirm: Option<Quantiles>,
    pub(crate) broker_cpu_us: Option<f64>,
    pub(crate) generator_cpu_us: Option<f64>,
    /// Highest of all runs.
    pub(crate) rss_peak_mib: Option<f64>,
    pub(crate) rss_mib: Option<f64>,
    /// The same, for each idle connection.
    pub(crate) kib_each: Option<f64>,
    pub(crate) fsyncs_per_s: Option<f64>,
    pub(crate) commits_per_s: Option<f64>,
    pub(crate) written_mib: Option<f64>,
    pub(crate) database_cpu_us: Option<f64>,
    pub(crate) stored_bytes: Option<f64>,
    /// Of the last run that has one.
    pub(crate) soak: Option<Soak>,
    /// Sums over all runs.
    pub(crate) tally: Tally,
    pub(crate) left: u64,
    pub(crate) nacked: u64,
    /// Longest of all runs.
    pub(crate) restart_s: Option<f64>,
    pub(crate) served_s: Option<f64>,
    pub(crate) clean: bool,
    pub(crate) failures: Vec<String>,
}

/// Groups by workload and broker, in the order of first appearance of the workload.
pub(crate) fn rows(measurements: &[Measurement]) -> Vec<Row> {
    let mut groups: Vec<(&str, Kind, Vec<&Measurement>)> = Vec::new();
    for run in measurements {
        let found = groups
            .iter_mut()
            .find(|(name, broker, _)| *name == run.workload && *broker == run.broker);
        match found {
            Some((_, _, runs)) => runs.push(run),
            None => groups.push((&run.workload, run.broker, vec![run])),
        }
    }
    let first_seen = |name: &str| groups.iter().position(|group| group.0 == name);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&index| (first_seen(groups[index].0), groups[index].1));
    order
        .into_iter()
        .map(|index| row(&groups[index].2))
        .collect()
}

/// Rate of Leveret over rate of the peer for a workload.
pub(crate) fn ratio(rows: &[Row], workload: &str, peer: Kind) -> Option<f64> {
    let ours = find(rows, workload, Kind::Leveret)?.messages_per_s;
    let theirs = find(rows, workload, peer)?.messages_per_s;
    (ours > 0.0 && theirs > 0.0).then(|| ours / theirs)
}

pub(crate) fn find<'a>(rows: &'a [Row], workload: &str, broker: Kind) -> Option<&'a Row> {
    rows.iter()
        .find(|row| row.workload == workload && row.broker == broker)
}

/// The table in Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| workload | broker | class | msg/s | min–max | ratio | e2e p50 / p99 / p99.9 ms \
         | confirm p50 / p99 ms | CPU µs/msg | generator µs/msg | peak RSS MiB | fsyncs/s \
         | commits/s \
         | MiB written | lost / doubled / reordered |\n\
         |---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let ratio = match row.broker {
            Kind::Leveret => [Kind::RabbitMq, Kind::SkipLocked]
                .into_iter()
                .find_map(|peer| ratio(rows, &row.workload, peer)),
            Kind::RabbitMq | Kind::SkipLocked => None,
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {}–{} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.workload,
            row.broker.name(),
            row.durability,
            thousands(row.messages_per_s),
            thousands(row.messages_per_s_min),
            thousands(row.messages_per_s_max),
            ratio.map_or_else(dash, |ratio| format!("**{ratio:.1} ×**")),
            triple(row.e2e),
            pair(row.confirm),
            number(row.broker_cpu_us, 2),
            number(row.generator_cpu_us, 2),
            number(row.rss_peak_mib, 0),
            number(row.fsyncs_per_s, 0),
            number(row.commits_per_s, 0),
            number(row.written_mib, 1),
            outcome(row),
        );
    }
    text
}

/// Lines about restarts and failures, which have no column.
pub(crate) fn remarks(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let name = row.broker.name();
        if let Some(each) = row.kib_each {
            let _ = writeln!(
                text,
                "- {} on {name}: {each:.1} KiB a connection",
                row.workload
            );
        }
        if let (Some(restart), Some(served)) = (row.restart_s, row.served_s) {
            let _ = writeln!(
                text,
                "- {} on {name}: connections after {restart:.2} s, first delivery after {served:.2} s.",
                row.workload
            );
        }
        if row.left > 0 || row.nacked > 0 || row.tally.damaged > 0 {
            let _ = writeln!(
                text,
                "- {} on {name}: {} messages left behind, {} refused, {} damaged.",
                row.workload, row.left, row.nacked, row.tally.damaged
            );
        }
        if let Some(cpu) = row.database_cpu_us {
            let _ = writeln!(
                text,
                "- {} on {name}: {cpu:.2} µs of PostgreSQL's CPU a message{}.",
                row.workload,
                row.stored_bytes.map_or_else(String::new, |bytes| format!(
                    ", {bytes:.0} bytes stored for each"
                )),
            );
        }
        if let Some(soak) = &row.soak {
            text.push_str(&soaked(&row.workload, name, soak));
        }
        for failure in &row.failures {
            let _ = writeln!(text, "- {} on {name} FAILED: {failure}", row.workload);
        }
    }
    text
}

fn soaked(workload: &str, name: &str, soak: &Soak) -> String {
    let Soak { first, last, .. } = soak;
    format!(
        "- {workload} on {name}, first quarter → last of {:.0} s: {} → {} msg/s ({:.2}), CPU of \
         server and PostgreSQL {} → {} µs/msg, cores taken by others {} → {}, tables {:.0} → {:.0} MiB ({:.2}), catalogue {:.1} → \
         {:.1} MiB; {} transactions behind the snapshot.\n",
        soak.seconds,
        thousands(first.messages_per_s),
        thousands(last.messages_per_s),
        soak.kept(),
        number(first.cpu_us, 2),
        number(last.cpu_us, 2),
        number(first.foreign_cores, 2),
        number(last.foreign_cores, 2),
        first.tables_mib,
        last.tables_mib,
        soak.grown(),
        first.catalogue_mib,
        last.catalogue_mib,
        soak.pinned,
    )
}

/// One line while the runs go on.
pub(crate) fn brief(run: &Measurement) -> String {
    if let Some(failure) = &run.failure {
        return format!(
            "{:<34} {:<11} FAILED: {failure}",
            run.workload,
            run.broker.name()
        );
    }
    let tally = run.tally.unwrap_or_default();
    format!(
        "{:<34} {:<11} {:>10} msg/s  e2e {} ms  cpu {} µs  gen {} µs  {}/{}/{}{}",
        run.workload,
        run.broker.name(),
        thousands(run.messages_per_s),
        triple(run.e2e),
        number(run.broker_cpu_us, 2),
        number(run.generator_cpu_us, 2),
        tally.lost,
        tally.doubled,
        tally.reordered,
        if run.is_clean() { "" } else { "  NOT CLEAN" },
    )
}

fn row(runs: &[&Measurement]) -> Row {
    let counted: Vec<&Measurement> = runs
        .iter()
        .copied()
        .filter(|run| run.failure.is_none())
        .collect();
    let values = |pick: fn(&Measurement) -> Option<f64>| -> Vec<f64> {
        counted.iter().filter_map(|run| pick(run)).collect()
    };
    let rates = values(|run| Some(run.messages_per_s));
    Row {
        workload: runs[0].workload.clone(),
        broker: runs[0].broker,
        durability: runs[0].durability,
        runs: runs.len(),
        messages_per_s: median(&rates).unwrap_or(0.0),
        messages_per_s_min: rates.iter().copied().reduce(f64::min).unwrap_or(0.0),
        messages_per_s_max: rates.iter().copied().reduce(f64::max).unwrap_or(0.0),
        published_per_s: median(&values(|run| run.published_per_s)),
        e2e: median_quantiles(counted.iter().filter_map(|run| run.e2e).collect()),
        confirm: median_quantiles(counted.iter().filter_map(|run| run.confirm).collect()),
        broker_cpu_us: median(&values(|run| run.broker_cpu_us)),
        generator_cpu_us: median(&values(|run| run.generator_cpu_us)),
        rss_peak_mib: values(|run| run.rss_peak_mib).into_iter().reduce(f64::max),
        rss_mib: values(|run| run.rss_mib).into_iter().reduce(f64::max),
        kib_each: values(|run| run.kib_each).into_iter().reduce(f64::max),
        fsyncs_per_s: median(&values(|run| run.fsyncs_per_s)),
        commits_per_s: median(&values(|run| run.commits_per_s)),
        written_mib: median(&values(|run| run.written_mib)),
        database_cpu_us: median(&values(|run| run.database_cpu_us)),
        stored_bytes: median(&values(|run| run.stored_bytes)),
        soak: counted.iter().rev().find_map(|run| run.soak.clone()),
        tally: sum(counted.iter().filter_map(|run| run.tally)),
        left: counted.iter().map(|run| run.left).sum(),
        nacked: counted.iter().map(|run| run.nacked).sum(),
        restart_s: values(|run| run.restart_s).into_iter().reduce(f64::max),
        served_s: values(|run| run.served_s).into_iter().reduce(f64::max),
        clean: runs.iter().all(|run| run.is_clean()),
        failures: runs.iter().filter_map(|run| run.failure.clone()).collect(),
    }
}

fn sum(tallies: impl Iterator<Item = Tally>) -> Tally {
    tallies.fold(Tally::default(), |sum, tally| Tally {
        unique: sum.unique + tally.unique,
        lost: sum.lost + tally.lost,
        doubled: sum.doubled + tally.doubled,
        reordered: sum.reordered + tally.reordered,
        redelivered: sum.redelivered + tally.redelivered,
        damaged: sum.damaged + tally.damaged,
    })
}

/// The middle value; the mean of the middle two.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn median_quantiles(all: Vec<Quantiles>) -> Option<Quantiles> {
    let of = |pick: fn(&Quantiles) -> f64| median(&all.iter().map(pick).collect::<Vec<_>>());
    Some(Quantiles {
        p50_us: of(|quantiles| quantiles.p50_us)?,
        p99_us: of(|quantiles| quantiles.p99_us)?,
        p999_us: of(|quantiles| quantiles.p999_us)?,
        max_us: of(|quantiles| quantiles.max_us)?,
    })
}

fn outcome(row: &Row) -> String {
    if !row.failures.is_empty() {
        return "FAILED".to_owned();
    }
    format!(
        "{} / {} / {}",
        row.tally.lost, row.tally.doubled, row.tally.reordered
    )
}

fn triple(quantiles: Option<Quantiles>) -> String {
    quantiles.map_or_else(dash, |q| {
        format!("{} / {} / {}", ms(q.p50_us), ms(q.p99_us), ms(q.p999_us))
    })
}

fn pair(quantiles: Option<Quantiles>) -> String {
    quantiles.map_or_else(dash, |q| format!("{} / {}", ms(q.p50_us), ms(q.p99_us)))
}

fn dash() -> String {
    "–".to_owned()
}

fn ms(us: f64) -> String {
    let ms = us / 1_000.0;
    if ms < 10.0 {
        format!("{ms:.3}")
    } else {
        format!("{ms:.0}")
    }
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(dash, |value| format!("{value:.decimals$}"))
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn run(workload: &str, broker: Kind, rate: f64) -> Measurement {
        Measurement {
            messages_per_s: rate,
            ..Measurement::new(workload, broker, true)
        }
    }

    #[test]
    fn medians_ratios_and_extremes() {
        let all = [
            run("a", Kind::Leveret, 300.0),
            run("a", Kind::RabbitMq, 10.0),
            run("a", Kind::Leveret, 100.0),
            run("a", Kind::RabbitMq, 30.0),
            run("a", Kind::Leveret, 200.0),
            run("b", Kind::RabbitMq, 5.0),
        ];
        let rows = rows(&all);
        assert_eq!(rows.len(), 3);
        let ours = find(&rows, "a", Kind::Leveret).unwrap();
        assert_eq!((ours.messages_per_s, ours.runs), (200.0, 3));
        assert_eq!(
            (ours.messages_per_s_min, ours.messages_per_s_max),
            (100.0, 300.0)
        );
        assert_eq!(ratio(&rows, "a", Kind::RabbitMq), Some(10.0));
        assert_eq!(ratio(&rows, "b", Kind::RabbitMq), None);
    }

    #[test]
    fn a_failed_run_gives_no_figure_but_stays_visible() {
        let mut failed = run("a", Kind::Leveret, 0.0);
        failed.failure = Some("broke".to_owned());
        let rows = rows(&[run("a", Kind::Leveret, 50.0), failed]);
        assert_eq!(rows[0].messages_per_s, 50.0);
        assert!(!rows[0].clean);
        assert!(markdown(&rows).contains("FAILED"));
        assert!(remarks(&rows).contains("broke"));
    }

    #[test]
    fn unknown_figures_are_dashes() {
        let text = markdown(&rows(&[run("a", Kind::RabbitMq, 1_234_567.0)]));
        let line = text.lines().nth(2).unwrap();
        assert!(line.contains("| 1,234,567 |"), "{line}");
        assert!(line.contains("| – | – | – | – | – | – | – |"), "{line}");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(12_345.0), "12,345");
    }
}
