//! Schedules: any text is refused with a reason or gives nominal times that rise. Pure.
#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use scheduler::cron::{Dialect, Expression, Plan, find_zone};

const ZONES: [&str; 5] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
];

fuzz_target!(|input: &[u8]| {
    let [choice, year, text @ ..] = input else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let dialect = if choice & 1 == 0 {
        Dialect::Posix
    } else {
        Dialect::Quartz
    };
    let Ok(expression) = Expression::parse_as(text, "fuzz", dialect) else {
        let _ = find_zone(text);
        return;
    };
    let zone = find_zone(ZONES[usize::from(choice >> 1) % ZONES.len()]).expect("a known zone");
    let plan = Plan::new(expression, zone);
    let start = i64::from(*year) * 31_557_600;
    let mut at = Timestamp::from_second(start).expect("within jiff's range");
    for _ in 0..4 {
        let Some(next) = plan.next_after(at) else {
            return;
        };
        assert!(next > at, "{next} is not after {at}");
        let before = plan.previous_before(next);
        assert!(
            before.is_none_or(|before| before <= at),
            "{before:?} lies between {at} and {next}"
        );
        at = next;
    }
});
