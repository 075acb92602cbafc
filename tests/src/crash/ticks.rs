//! A schedule of every second under crashes: no tick twice, none missing without a reason.
//!
//! Keeps: each tick's nominal time as its message says it; the spans in which no server ran.
//! Never: compares a tick with the clock; lateness is allowed.
//! In: `tests/crash.rs`. With `catch_up = "latest"` a restart fires the newest missed tick only, so
//! that a second may be missing when no server ran through some of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::Faults;
use super::load::Shared;
use super::peer::Peer;
use super::topology::TICKS;
use crate::wire::method::Method;
use crate::wire::value::{Value, entry};

/// The schedule, as configuration.
pub const CONFIG: &str = r#"
[[schedule]]
name = "every-second"
cron = "* * * * * *"
target = { queue = "crash.ticks" }
body = "tick"
catch_up = "latest"
"#;

/// One delivery of a tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Seconds since 1970.
    pub nominal: i64,
    pub redelivered: bool,
}

/// A span in which no server ran, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Down {
    pub from: f64,
    pub to: f64,
}

/// Seconds since 1970.
pub fn clock() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Consumes ticks until the server is gone, or it is told to stop.
pub fn consume(address: SocketAddr, shared: &Shared, faults: &mut Faults) -> Vec<Tick> {
    let mut ticks = Vec::new();
    let _ = try_to_consume(address, shared, &mut ticks, faults);
    ticks
}

fn try_to_consume(
    address: SocketAddr,
    shared: &Shared,
    ticks: &mut Vec<Tick>,
    faults: &mut Faults,
) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    let consume = Method::named("basic.consume")?.with("queue", Value::str(TICKS))?;
    peer.call(1, &consume, "basic.consume-ok")?;
    while !shared.stop.load(std::sync::atomic::Ordering::Relaxed) {
        let Some(received) = peer.next(Duration::from_millis(20))? else {
            continue;
        };
        let content = received.content.as_ref().context("not a delivery")?;
        let nominal = match content.get("headers") {
            Some(Value::Table(headers)) => entry(headers, "x-scheduled-time").and_then(instant),
            _ => None,
        };
        match nominal {
            Some(nominal) => {
                let redelivered = received.method.int("redelivered") == 1;
                ticks.push(Tick {
                    nominal,
                    redelivered,
                });
            }
            None => faults.add(|| format!("a tick without a nominal time: {content:?}")),
        }
        let tag = received
            .method
            .get("delivery-tag")
            .cloned()
            .unwrap_or(Value::Void);
        peer.put(
            1,
            &Method::named("basic.ack")?.with("delivery-tag", tag)?,
            None,
        )?;
        peer.flush()?;
    }
    Ok(())
}

/// Judges all ticks: `down` holds every span without a server but those before the first tick
/// and after the last.
pub fn check(ticks: &[Tick], down: &[Down], faults: &mut Faults) {
    let mut silent: BTreeMap<i64, usize> = BTreeMap::new();
    for tick in ticks {
        *silent.entry(tick.nominal).or_default() += usize::from(!tick.redelivered);
    }
    for (nominal, _) in silent.iter().filter(|(_, count)| **count > 1) {
        faults.add(|| format!("the tick of {nominal} came twice"));
    }
    let (Some(first), Some(last)) = (silent.keys().next(), silent.keys().last()) else {
        return faults.add(|| "no tick came at all".to_owned());
    };
    for nominal in (*first..*last).filter(|nominal| !silent.contains_key(nominal)) {
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century fit")]
        let (from, to) = (nominal as f64, (nominal + 1) as f64);
        if !down.iter().any(|down| down.from <= to && down.to >= from) {
            faults.add(|| format!("the tick of {nominal} is missing, the server ran"));
        }
    }
}

/// A timestamp, or RFC 3339 text, as seconds since 1970.
fn instant(value: &Value) -> Option<i64> {
    match value {
        Value::Time(at) => i64::try_from(*at).ok(),
        Value::Str(text) => rfc3339(std::str::from_utf8(text).ok()?),
        _ => None,
    }
}

fn rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let zone = rest.find(['Z', '+', '-']).map(|at| &rest[at..])?;
    let offset = match zone.split_at(1) {
        ("Z", _) => 0,
        (sign, clock) => {
            let (hours, minutes) = clock.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    // Days since 1970 by the calendar's 400-year cycle, years beginning in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(ticks: &[(i64, bool)], down: &[(f64, f64)]) -> usize {
        let tick = |(nominal, redelivered): &(i64, bool)| Tick {
            nominal: *nominal,
            redelivered: *redelivered,
        };
        let ticks: Vec<_> = ticks.iter().map(tick).collect();
        let down: Vec<_> = down
            .iter()
            .map(|(from, to)| Down {
                from: *from,
                to: *to,
            })
            .collect();
        let mut faults = Faults::default();
        check(&ticks, &down, &mut faults);
        faults.count
    }

    #[test]
    fn ticks_come_once_and_all() {
        assert_eq!(faults(&[(1, false), (2, false), (3, false)], &[]), 0);
        assert_eq!(faults(&[(1, false), (1, true), (2, false)], &[]), 0);
        assert_eq!(faults(&[(1, false), (1, false), (2, false)], &[]), 1);
        assert_eq!(faults(&[(1, false), (3, false)], &[]), 1);
        assert_eq!(faults(&[], &[]), 1);
    }

    #[test]
    fn a_gap_needs_a_reason() {
        let gap = [(1, false), (5, false)];
        assert_eq!(faults(&gap, &[(2.5, 4.5)]), 0);
        assert_eq!(faults(&gap, &[(3.2, 4.5)]), 1);
        assert_eq!(faults(&gap, &[(0.1, 1.5)]), 3);
    }

    #[test]
    fn instants_are_read() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339("2026-11-24T02:39:20.000Z"), Some(1_795_487_960));
        assert_eq!(rfc3339("2024-02-29T12:00:00+01:00"), Some(1_709_204_400));
        assert_eq!(rfc3339("soon"), None);
    }
}
