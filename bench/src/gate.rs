//! What a release must reach, judged on the rows of one run.
//!
//! Keeps: the list of gates. Never: passes a gate whose workload ran without the figure it needs.
//! In: `main` prints the verdicts; `--check` turns a failed one into a failed process.

use crate::broker::Kind;
use crate::report::{Row, find, ratio};
use crate::soak::Soak;

/// One demand and how it came out.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Verdict {
    pub(crate) demand: String,
    pub(crate) measured: String,
    pub(crate) passed: bool,
}

const RATIOS: [(&str, f64); 4] = [
    ("persistent-confirm2000-ack100-16", 15.0),
    ("persistent-confirm2000-ack100-1k", 8.0),
    ("transient-autoack-16", 12.0),
    ("fill-confirm2000-16", 20.0),
];
const CPU: [&str; 2] = ["persistent-confirm2000-ack100-16", "transient-autoack-16"];
const CPU_US_MAX: f64 = 1.0;
const LATENCY: [&str; 2] = ["latency-2000-persistent", "latency-2000"];
const LATENCY_SHARE_MAX: f64 = 0.5;
const TOPICS: [&str; 2] = ["topic-1", "topic-1000"];
/// Routing through 1,000 bindings may cost twice what one costs.
const TOPICS_CPU_MAX: f64 = 2.0;
const RSS_MIB_MAX: f64 = 300.0 * 1e6 / 1_048_576.0;
const RESTART_S_MAX: f64 = 3.0;
const CALLS_PER_S_MIN: f64 = 5_000.0;
const IDLE_KIB_MAX: f64 = 30.0;
const CHURN_PER_S_MIN: f64 = 2_000.0;
/// What a rule may cost: CPU where nothing fails, or throughput.
const WORK_CPU_MAX: f64 = 1.3;
const KEEPS: [(&str, &str, f64); 2] = [
    ("rules-partition-100k", "rules-none", 0.5),
    ("rules-dedup-1m", "rules-none-unique", 0.5),
];
/// Of what was offered, while some of it fails and comes back.
const RETRY_SHARE_MIN: f64 = 0.98;
/// How late whatever waits may come, µs.
const LATE_US_MAX: f64 = 20_000.0;
const DELAY_ACCEPTED_MIN: f64 = 100_000.0;
const DELAY_RSS_MIB_MAX: f64 = 200.0 * 1e6 / 1_048_576.0;
const DELAY_RESTART_S_MAX: f64 = 2.0;

/// What is demanded where the store is a PostgreSQL that shares the machine.
const SHARED_RATES: [(&str, f64); 2] = [
    ("persistent-confirm2000-ack100-16", 300_000.0),
    ("stored-confirm2000-ack100-1k", 40_000.0),
];
const SHARED_RATIO: (&str, f64) = ("persistent-confirm2000-ack100-16", 20.0);
/// Where no message may be settled before it is stored: bytes of its body.
const STORED: [(&str, f64); 3] = [
    ("stored-confirm2000-ack100-16", 16.0),
    ("stored-confirm2000-ack100-1k", 1_024.0),
    (SOAK, 1_024.0),
];
const SOAK: &str = "soak-pinned";
/// Of the first quarter's rate in the last one, beside a long transaction.
const KEPT_MIN: f64 = 0.9;
/// Slots and journals are truncated by turns, so that their size swings.
const GROWN_MAX: f64 = 1.1;

/// The verdicts on all workloads that were run on a PostgreSQL.
pub(crate) fn judge_shared(rows: &[Row]) -> Vec<Verdict> {
    let ran = |name: &str| rows.iter().any(|row| row.workload == name);
    let ours = |name: &str| find(rows, name, Kind::Leveret);
    let mut verdicts = Vec::new();
    for (name, least) in SHARED_RATES.into_iter().filter(|(name, _)| ran(name)) {
        let rate = ours(name).map(|row| row.messages_per_s);
        verdicts.push(at_least(&format!("{name}: msg/s"), rate, least));
    }
    let (name, least) = SHARED_RATIO;
    if ran(name) {
        let demand = format!("{name}: ratio to a SKIP LOCKED queue");
        verdicts.push(at_least(
            &demand,
            ratio(rows, name, Kind::SkipLocked),
            least,
        ));
    }
    for (name, least) in STORED.into_iter().filter(|(name, _)| ran(name)) {
        let bytes = ours(name).and_then(|row| row.stored_bytes);
        let demand = format!("{name}: bytes stored per message");
        verdicts.push(at_least(&demand, bytes, least));
    }
    if ran(SOAK) {
        let soak = ours(SOAK).and_then(|row| row.soak.as_ref());
        let kept = soak.map(Soak::kept);
        let demand = format!("{SOAK}: rate of the last quarter by the first's ≥ {KEPT_MIN}");
        let passed = kept.is_some_and(|kept| kept >= KEPT_MIN);
        verdicts.push(verdict(&demand, kept, passed));
        let demand = format!("{SOAK}: tables of the last quarter by the first's");
        verdicts.push(at_most(&demand, soak.map(Soak::grown), GROWN_MAX));
    }
    verdicts.extend(cleanliness(rows));
    verdicts
}

/// The verdicts on all workloads that were run.
pub(crate) fn judge(rows: &[Row]) -> Vec<Verdict> {
    let ran = |name: &str| rows.iter().any(|row| row.workload == name);
    let ours = |name: &str| find(rows, name, Kind::Leveret);
    let mut verdicts = Vec::new();
    for (name, least) in RATIOS.into_iter().filter(|(name, _)| ran(name)) {
        verdicts.push(at_least(
            &format!("{name}: ratio"),
            ratio(rows, name, Kind::RabbitMq),
            least,
        ));
    }
    for name in CPU.into_iter().filter(|name| ran(name)) {
        let cpu = ours(name).and_then(|row| row.broker_cpu_us);
        verdicts.push(at_most(
            &format!("{name}: broker CPU µs per message"),
            cpu,
            CPU_US_MAX,
        ));
    }
    for name in LATENCY.into_iter().filter(|name| ran(name)) {
        let p99 = |kind| Some(find(rows, name, kind)?.e2e?.p99_us);
        let share = p99(Kind::Leveret)
            .zip(p99(Kind::RabbitMq))
            .map(|(ours, peer)| ours / peer);
        let demand = format!("{name}: p99 as a share of RabbitMQ's");
        verdicts.push(at_most(&demand, share, LATENCY_SHARE_MAX));
    }
    if TOPICS.into_iter().all(ran) {
        let [one, many] = TOPICS.map(|name| ours(name).and_then(|row| row.broker_cpu_us));
        let cost = many.zip(one).map(|(many, one)| many / one);
        let demand = "topic-1000: broker CPU per message, as a multiple of topic-1's";
        verdicts.push(at_most(demand, cost, TOPICS_CPU_MAX));
    }
    if ran("backlog-5m-fill") {
        let rss = ours("backlog-5m-fill").and_then(|row| row.rss_peak_mib);
        verdicts.push(at_most(
            "backlog-5m: peak RSS MiB while filling",
            rss,
            RSS_MIB_MAX,
        ));
        let served = ours("backlog-5m-drain").and_then(|row| row.served_s);
        let demand = "backlog-5m: seconds from restart to first delivery";
        verdicts.push(at_most(demand, served, RESTART_S_MAX));
    }
    if ran("calls-64") {
        let rate = ours("calls-64").map(|row| row.messages_per_s);
        verdicts.push(at_least(
            "calls-64: accepted per second",
            rate,
            CALLS_PER_S_MIN,
        ));
    }
    if ran("idle-10k") {
        let each = ours("idle-10k").and_then(|row| row.kib_each);
        verdicts.push(at_most("idle-10k: KiB per connection", each, IDLE_KIB_MAX));
    }
    if ran("churn") {
        let rate = ours("churn").map(|row| row.messages_per_s);
        verdicts.push(at_least("churn: rounds per second", rate, CHURN_PER_S_MIN));
    }
    verdicts.extend(rules(rows));
    verdicts.extend(cleanliness(rows));
    verdicts
}

/// What the rules of work must not cost.
fn rules(rows: &[Row]) -> Vec<Verdict> {
    let ran = |name: &str| rows.iter().any(|row| row.workload == name);
    let ours = |name: &str| find(rows, name, Kind::Leveret);
    let mut verdicts = Vec::new();
    if ["rules-none", "rules-work"].into_iter().all(ran) {
        let cpu = |name| ours(name).and_then(|row| row.broker_cpu_us);
        let cost = cpu("rules-work").zip(cpu("rules-none"));
        let demand = "rules-work: broker CPU per message, as a multiple of rules-none's";
        verdicts.push(at_most(
            demand,
            cost.map(|(work, none)| work / none),
            WORK_CPU_MAX,
        ));
    }
    for (name, plain, least) in KEEPS {
        if ran(name) && ran(plain) {
            let rate = |name| ours(name).map(|row| row.messages_per_s);
            let share = rate(name)
                .zip(rate(plain))
                .map(|(with, without)| with / without);
            let passed = share.is_some_and(|share| share >= least);
            let demand = format!("{name}: throughput as a share of {plain}'s ≥ {least:.1}");
            verdicts.push(verdict(&demand, share, passed));
        }
    }
    let p99 = |name| Some(ours(name)?.e2e?.p99_us);
    if let Some(row) = ours("rules-retry-50k") {
        let share = row
            .published_per_s
            .map(|offered| row.messages_per_s / offered);
        let passed = share.is_some_and(|share| share >= RETRY_SHARE_MIN);
        let demand = format!("rules-retry-50k: settled of what was offered ≥ {RETRY_SHARE_MIN}");
        verdicts.push(verdict(&demand, share, passed));
        let demand = "rules-retry-50k: p99 of how late a retry is, µs";
        verdicts.push(at_most(demand, p99("rules-retry-50k"), LATE_US_MAX));
    }
    if let Some(fill) = ours("delay-1m-fill") {
        let demand = "delay-1m: accepted per second";
        verdicts.push(at_least(
            demand,
            Some(fill.messages_per_s),
            DELAY_ACCEPTED_MIN,
        ));
        let demand = "delay-1m: resident MiB with all of them waiting";
        verdicts.push(at_most(demand, fill.rss_mib, DELAY_RSS_MIB_MAX));
        let late = "delay-1m-late";
        let demand = "delay-1m: p99 of how late a message is, µs";
        verdicts.push(at_most(demand, p99(late), LATE_US_MAX));
        let restart = ours(late).and_then(|row| row.restart_s);
        let demand = "delay-1m: seconds of a restart with all of them waiting";
        verdicts.push(at_most(demand, restart, DELAY_RESTART_S_MAX));
    }
    verdicts
}

/// A run that judged nothing has not passed.
pub(crate) fn passed(verdicts: &[Verdict]) -> bool {
    !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.passed)
}

/// Speed counts only where each message arrived once, in order, and none was left.
fn cleanliness(rows: &[Row]) -> Option<Verdict> {
    let ours: Vec<&Row> = rows
        .iter()
        .filter(|row| row.broker == Kind::Leveret)
        .collect();
    let unclean: Vec<&str> = ours
        .iter()
        .filter(|row| !row.clean)
        .map(|row| row.workload.as_str())
        .collect();
    let measured = match unclean.as_slice() {
        [] => format!("all {}", ours.len()),
        names => format!("not {}", names.join(", ")),
    };
    (!ours.is_empty()).then(|| Verdict {
        demand: "each workload: nothing lost, doubled, reordered, damaged, left".to_owned(),
        measured,
        passed: unclean.is_empty(),
    })
}

fn at_least(demand: &str, value: Option<f64>, least: f64) -> Verdict {
    verdict(
        &format!("{demand} ≥ {least:.0}"),
        value,
        value.is_some_and(|value| value >= least),
    )
}

fn at_most(demand: &str, value: Option<f64>, most: f64) -> Verdict {
    verdict(
        &format!("{demand} ≤ {most:.1}"),
        value,
        value.is_some_and(|value| value <= most),
    )
}

fn verdict(demand: &str, value: Option<f64>, passed: bool) -> Verdict {
    let measured = value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"));
    Verdict {
        demand: demand.to_owned(),
        measured,
        passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Quantiles;
    use crate::measurement::Measurement;
    use crate::report::rows;
    use crate::sequence::Tally;

    fn pair(name: &str, ours: f64, theirs: f64, cpu_us: f64) -> [Measurement; 2] {
        let make = |broker, rate| Measurement {
            messages_per_s: rate,
            broker_cpu_us: Some(cpu_us),
            ..Measurement::new(name, broker, true)
        };
        [make(Kind::Leveret, ours), make(Kind::RabbitMq, theirs)]
    }

    #[test]
    fn the_ratio_and_the_cpu_decide() {
        let name = "persistent-confirm2000-ack100-16";
        let at = |ours, cpu_us| passed(&judge(&rows(&pair(name, ours, 100.0, cpu_us))));
        assert!(at(1_500.0, 1.0));
        assert!(!at(1_499.0, 1.0));
        assert!(!at(1_500.0, 1.01));
    }

    #[test]
    fn a_missing_side_does_not_pass() {
        let [ours, theirs] = pair("fill-confirm2000-16", 9e9, 1.0, 0.1);
        assert!(!passed(&judge(&rows(&[ours]))));
        assert!(!passed(&judge(&rows(&[theirs]))));
        assert!(!passed(&judge(&[])));
    }

    #[test]
    fn a_failed_run_does_not_pass_even_where_no_figure_is_demanded() {
        let [mut ours, _] = pair("fanout-1-10", 9.0, 1.0, 0.1);
        assert!(passed(&judge(&rows(std::slice::from_ref(&ours)))));
        ours.failure = Some("broke".to_owned());
        assert!(!passed(&judge(&rows(&[ours]))));
    }

    #[test]
    fn the_latency_gate_compares_p99() {
        let judge_p99 = |ours: f64, theirs: f64| {
            let mut both = pair(LATENCY[0], 2_000.0, 2_000.0, 9.0);
            for (run, p99_us) in both.iter_mut().zip([ours, theirs]) {
                run.e2e = Some(Quantiles {
                    p50_us: 1.0,
                    p99_us,
                    p999_us: 9e9,
                    max_us: 9e9,
                });
            }
            passed(&judge(&rows(&both)))
        };
        assert!(judge_p99(500.0, 1_000.0));
        assert!(!judge_p99(501.0, 1_000.0));
    }

    #[test]
    fn a_rule_is_judged_beside_the_plain_queue() {
        let one = |name: &str, rate, cpu_us| {
            let [ours, _] = pair(name, rate, 1.0, cpu_us);
            ours
        };
        let judged = |partition, cpu_us| {
            let runs = [
                one("rules-none", 100.0, 1.0),
                one("rules-work", 100.0, cpu_us),
                one("rules-partition-100k", partition, 1.0),
            ];
            passed(&judge(&rows(&runs)))
        };
        assert!(judged(50.0, 1.3));
        assert!(!judged(49.0, 1.3));
        assert!(!judged(50.0, 1.31));
    }

    #[test]
    fn retries_keep_the_pace_and_come_in_time() {
        let judged = |settled, p99_us| {
            let [mut run, _] = pair("rules-retry-50k", settled, 1.0, 1.0);
            run.published_per_s = Some(100.0);
            run.e2e = Some(Quantiles {
                p50_us: 1.0,
                p99_us,
                p999_us: 9e9,
                max_us: 9e9,
            });
            passed(&judge(&rows(&[run])))
        };
        assert!(judged(98.0, 20_000.0));
        assert!(!judged(97.0, 20_000.0));
        assert!(!judged(98.0, 20_001.0));
    }

    #[test]
    fn on_postgresql_rate_ratio_and_storing_decide() {
        let name = "persistent-confirm2000-ack100-16";
        let at = |ours, peer| {
            let mut both = pair(name, ours, peer, 9.0);
            both[1].broker = Kind::SkipLocked;
            passed(&judge_shared(&rows(&both)))
        };
        assert!(at(300_000.0, 15_000.0));
        assert!(!at(299_999.0, 14_000.0));
        assert!(!at(300_000.0, 15_001.0));
        let stored = |bytes| {
            let [mut ours, _] = pair("stored-confirm2000-ack100-1k", 40_000.0, 1.0, 9.0);
            ours.stored_bytes = bytes;
            passed(&judge_shared(&rows(&[ours])))
        };
        assert!(stored(Some(1_024.0)));
        assert!(!stored(Some(900.0)));
        assert!(!stored(None));
    }

    #[test]
    fn one_lost_message_fails_the_check() {
        let mut both = pair("transient-autoack-16", 9_999.0, 1.0, 0.1);
        both[0].tally = Some(Tally {
            lost: 1,
            ..Tally::default()
        });
        assert!(!passed(&judge(&rows(&both))));
    }

    #[test]
    fn the_backlog_is_judged_on_memory_and_restart() {
        let outcome = |rss: f64, served: f64| {
            let fill = Measurement {
                rss_peak_mib: Some(rss),
                ..Measurement::new("backlog-5m-fill", Kind::Leveret, true)
            };
            let drain = Measurement {
                served_s: Some(served),
                ..Measurement::new("backlog-5m-drain", Kind::Leveret, true)
            };
            passed(&judge(&rows(&[fill, drain])))
        };
        assert!(outcome(280.0, 2.9));
        assert!(!outcome(290.0, 2.9));
        assert!(!outcome(280.0, 3.1));
    }
}
