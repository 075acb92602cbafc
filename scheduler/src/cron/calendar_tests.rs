//! Daylight saving in the zones that have broken schedulers, and properties over random ones.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{Plan, find_zone};
use super::*;

fn plan(text: &str, zone: &str) -> Plan {
    Plan::new(
        Expression::parse(text, "report").unwrap(),
        find_zone(zone).unwrap(),
    )
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Fires in `(from, to]`, written as local time with offset.
fn between(plan: &Plan, from: &str, to: &str) -> Vec<String> {
    let to = at(to);
    let found: Vec<Timestamp> = plan
        .upcoming(at(from))
        .take_while(|fire| *fire <= to)
        .take(200)
        .collect();
    let mut back: Vec<Timestamp> = Vec::new();
    let mut before = to.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
    while let Some(fire) = plan.previous_before(before).filter(|fire| *fire > at(from)) {
        back.push(fire);
        before = fire;
    }
    back.reverse();
    assert_eq!(found, back, "forwards and backwards differ");
    found
        .into_iter()
        .map(|fire| {
            fire.to_zoned_datetime(plan.zone.clone())
                .strftime("%m-%d %H:%M%:z")
                .to_string()
        })
        .collect()
}

struct Case {
    zone: &'static str,
    text: &'static str,
    from: &'static str,
    to: &'static str,
    expected: &'static [&'static str],
}

fn check(cases: &[Case]) {
    for case in cases {
        let found = between(&plan(case.text, case.zone), case.from, case.to);
        assert_eq!(
            found, case.expected,
            "{} {} from {}",
            case.zone, case.text, case.from
        );
    }
}

/// 2026: forward on March 8 at 07:00Z (02:00 EST), back on November 1 at 06:00Z (02:00 EDT).
#[test]
fn new_york_gap() {
    let (from, to) = ("2026-03-08T05:00:00Z", "2026-03-09T04:30:00Z");
    let zone = "America/New_York";
    check(&[
        Case {
            zone,
            from,
            to,
            text: "30 2 * * *",
            expected: &["03-08 03:00-04:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "0 2 * * *",
            expected: &["03-08 03:00-04:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "0 3 * * *",
            expected: &["03-08 03:00-04:00"],
        },
        // Both swallowed times and the next regular one share one instant: one fire.
        Case {
            zone,
            from,
            to,
            text: "0,15,45 2 * * *",
            expected: &["03-08 03:00-04:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "0 2,3 * * *",
            expected: &["03-08 03:00-04:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "15 1,2,3 * * *",
            expected: &[
                "03-08 01:15-05:00",
                "03-08 03:00-04:00",
                "03-08 03:15-04:00",
            ],
        },
        // Rhythms skip what does not exist.
        Case {
            zone,
            from,
            to,
            text: "*/30 2 * * *",
            expected: &[],
        },
        Case {
            zone,
            from,
            to,
            text: "*/30 1-3 * * *",
            expected: &[
                "03-08 01:00-05:00",
                "03-08 01:30-05:00",
                "03-08 03:00-04:00",
                "03-08 03:30-04:00",
            ],
        },
    ]);
}

#[test]
fn new_york_fold() {
    let (from, to) = ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z");
    let zone = "America/New_York";
    check(&[
        Case {
            zone,
            from,
            to,
            text: "30 1 * * *",
            expected: &["11-01 01:30-04:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "0,30 1 * * *",
            expected: &["11-01 01:00-04:00", "11-01 01:30-04:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "0 2 * * *",
            expected: &["11-01 02:00-05:00"],
        },
        Case {
            zone,
            from,
            to,
            text: "0 */30 1 * * *",
            expected: &[
                "11-01 01:00-04:00",
                "11-01 01:30-04:00",
                "11-01 01:00-05:00",
                "11-01 01:30-05:00",
            ],
        },
        Case {
            zone,
            from,
            to: "2026-11-01T08:00:00Z",
            text: "0 * * * *",
            expected: &[
                "11-01 01:00-04:00",
                "11-01 01:00-05:00",
                "11-01 02:00-05:00",
                "11-01 03:00-05:00",
            ],
        },
    ]);
}

#[test]
fn rules_can_be_chosen() {
    let zone = "America/New_York";
    let (spring, spring_end) = ("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z");
    let (autumn, autumn_end) = ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z");
    let with = |text, gap, overlap| Plan {
        rules: Rules { gap, overlap },
        ..plan(text, zone)
    };
    let fixed = with("30 2 * * *", Gap::Skip, Overlap::Both);
    assert_eq!(between(&fixed, spring, spring_end), Vec::<String>::new());
    let rhythm = with("*/20 2 * * *", Gap::Next, Overlap::First);
    assert_eq!(between(&rhythm, spring, spring_end), ["03-08 03:00-04:00"]);
    let fixed = with("30 1 * * *", Gap::Next, Overlap::Last);
    assert_eq!(between(&fixed, autumn, autumn_end), ["11-01 01:30-05:00"]);
    let fixed = with("30 1 * * *", Gap::Next, Overlap::Both);
    assert_eq!(
        between(&fixed, autumn, autumn_end),
        ["11-01 01:30-04:00", "11-01 01:30-05:00"]
    );
    let rhythm = with("*/30 1 * * *", Gap::Skip, Overlap::First);
    assert_eq!(
        between(&rhythm, autumn, autumn_end),
        ["11-01 01:00-04:00", "11-01 01:30-04:00"]
    );
    let rhythm = with("*/30 1 * * *", Gap::Skip, Overlap::Last);
    assert_eq!(
        between(&rhythm, autumn, autumn_end),
        ["11-01 01:00-05:00", "11-01 01:30-05:00"]
    );
}

#[test]
fn searching_from_inside_a_fold_goes_on_in_order() {
    let plan = plan("*/30 1 * * *", "America/New_York");
    for (from, expected) in [
        ("2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z"),
        ("2026-11-01T05:59:59Z", "2026-11-01T06:00:00Z"),
        ("2026-11-01T06:00:00Z", "2026-11-01T06:30:00Z"),
        ("2026-11-01T06:00:00.5Z", "2026-11-01T06:30:00Z"),
        ("2026-11-01T06:30:00Z", "2026-11-02T06:00:00Z"),
    ] {
        assert_eq!(plan.next_after(at(from)), Some(at(expected)), "{from}");
    }
}

#[test]
fn berlin_lord_howe_and_utc() {
    check(&[
        Case {
            zone: "Europe/Berlin",
            text: "30 2 * * *",
            from: "2026-03-28T00:00:00Z",
            to: "2026-03-30T12:00:00Z",
            expected: &[
                "03-28 02:30+01:00",
                "03-29 03:00+02:00",
                "03-30 02:30+02:00",
            ],
        },
        Case {
            zone: "Europe/Berlin",
            text: "15,45 2 * * *",
            from: "2026-10-24T12:00:00Z",
            to: "2026-10-25T12:00:00Z",
            expected: &["10-25 02:15+02:00", "10-25 02:45+02:00"],
        },
        Case {
            zone: "Europe/Berlin",
            text: "0 9 * * 1-5",
            from: "2026-03-26T12:00:00Z",
            to: "2026-03-30T12:00:00Z",
            expected: &["03-27 09:00+01:00", "03-30 09:00+02:00"],
        },
        // Half an hour: 02:00-02:30 is missing in October and 01:30-02:00 comes twice in April.
        Case {
            zone: "Australia/Lord_Howe",
            text: "15 2 * * *",
            from: "2026-10-03T12:00:00Z",
            to: "2026-10-04T12:00:00Z",
            expected: &["10-04 02:30+11:00"],
        },
        Case {
            zone: "Australia/Lord_Howe",
            text: "*/15 2 * * *",
            from: "2026-10-03T12:00:00Z",
            to: "2026-10-04T12:00:00Z",
            expected: &["10-04 02:30+11:00", "10-04 02:45+11:00"],
        },
        Case {
            zone: "Australia/Lord_Howe",
            text: "45 1 * * *",
            from: "2026-04-04T12:00:00Z",
            to: "2026-04-05T12:00:00Z",
            expected: &["04-05 01:45+11:00"],
        },
        Case {
            zone: "Australia/Lord_Howe",
            text: "*/15 1 * * *",
            from: "2026-04-04T12:00:00Z",
            to: "2026-04-05T12:00:00Z",
            expected: &[
                "04-05 01:00+11:00",
                "04-05 01:15+11:00",
                "04-05 01:30+11:00",
                "04-05 01:45+11:00",
                "04-05 01:30+10:30",
                "04-05 01:45+10:30",
            ],
        },
        Case {
            zone: "UTC",
            text: "30 2 * * *",
            from: "2026-03-28T00:00:00Z",
            to: "2026-03-29T12:00:00Z",
            expected: &["03-28 02:30+00:00", "03-29 02:30+00:00"],
        },
    ]);
}

#[test]
fn cairo_casablanca_and_apia() {
    check(&[
        // The clock jumps at midnight on the last Friday of April: the day begins at 01:00.
        Case {
            zone: "Africa/Cairo",
            text: "0 0 * * *",
            from: "2026-04-22T23:00:00Z",
            to: "2026-04-25T12:00:00Z",
            expected: &["04-24 01:00+03:00", "04-25 00:00+03:00"],
        },
        // The date fields are those of the civil time that was swallowed.
        Case {
            zone: "Africa/Cairo",
            text: "30 0 24 4 *",
            from: "2026-04-01T00:00:00Z",
            to: "2026-05-01T00:00:00Z",
            expected: &["04-24 01:00+03:00"],
        },
        // Back to 23:00 at the end of the last Thursday of October.
        Case {
            zone: "Africa/Cairo",
            text: "30 23 * * *",
            from: "2026-10-29T12:00:00Z",
            to: "2026-10-30T12:00:00Z",
            expected: &["10-29 23:30+03:00"],
        },
        Case {
            zone: "Africa/Cairo",
            text: "0 0 * * *",
            from: "2026-10-29T12:00:00Z",
            to: "2026-10-30T12:00:00Z",
            expected: &["10-30 00:00+02:00"],
        },
        // Ramadan: back on February 15, forward on March 22, the other way round than elsewhere.
        Case {
            zone: "Africa/Casablanca",
            text: "30 2 * * *",
            from: "2026-02-14T12:00:00Z",
            to: "2026-02-15T12:00:00Z",
            expected: &["02-15 02:30+01:00"],
        },
        Case {
            zone: "Africa/Casablanca",
            text: "30 2 * * *",
            from: "2026-03-21T12:00:00Z",
            to: "2026-03-22T12:00:00Z",
            expected: &["03-22 03:00+01:00"],
        },
        // December 30, 2011 did not exist: its fixed times fire once, as the 31st begins.
        Case {
            zone: "Pacific/Apia",
            text: "0 9 * * *",
            from: "2011-12-29T12:00:00Z",
            to: "2011-12-31T00:00:00Z",
            expected: &[
                "12-29 09:00-10:00",
                "12-31 00:00+14:00",
                "12-31 09:00+14:00",
            ],
        },
        Case {
            zone: "Pacific/Apia",
            text: "0 */12 * * *",
            from: "2011-12-29T09:00:00Z",
            to: "2011-12-31T00:00:00Z",
            expected: &[
                "12-29 00:00-10:00",
                "12-29 12:00-10:00",
                "12-31 00:00+14:00",
                "12-31 12:00+14:00",
            ],
        },
    ]);
}

#[test]
fn rare_dates_are_found_far_ahead_and_far_back() {
    let leap = plan("0 0 29 2 *", "America/New_York");
    assert_eq!(
        leap.next_after(at("2097-01-01T00:00:00Z")),
        Some(at("2104-02-29T05:00:00Z"))
    );
    assert_eq!(
        leap.previous_before(at("2104-01-01T00:00:00Z")),
        Some(at("2096-02-29T05:00:00Z"))
    );
    let once = plan("0 0 12 1 1 * 2030", "Europe/Berlin");
    let only = at("2030-01-01T11:00:00Z");
    assert_eq!(once.next_after(at("2026-01-01T00:00:00Z")), Some(only));
    assert_eq!(once.next_after(only), None);
    assert_eq!(once.previous_before(at("2400-01-01T00:00:00Z")), Some(only));
    assert_eq!(once.previous_before(only), None);
}

#[test]
fn the_ends_of_time_are_quiet() {
    let plan = plan("* * * * * *", "Pacific/Apia");
    assert_eq!(plan.next_after(Timestamp::MAX), None);
    assert_eq!(
        plan.next_after(at("-000500-01-01T00:00:00Z")),
        Some(Timestamp::UNIX_EPOCH)
    );
    assert_eq!(plan.previous_before(Timestamp::UNIX_EPOCH), None);
    assert_eq!(plan.previous_before(Timestamp::MIN), None);
    let every = Plan {
        expression: Expression::parse("@every 7s", "x").unwrap(),
        ..plan
    };
    assert_eq!(every.next_after(Timestamp::MAX), None);
    assert_eq!(every.previous_before(Timestamp::MIN), None);
}

#[test]
fn every_is_anchored_to_the_epoch() {
    let plan = plan("@every 90s", "America/New_York");
    assert_eq!(
        plan.next_after(Timestamp::UNIX_EPOCH),
        Some(at("1970-01-01T00:01:30Z"))
    );
    assert_eq!(
        plan.next_after(at("2026-11-01T05:59:59.9Z")),
        Some(at("2026-11-01T06:00:00Z"))
    );
    assert_eq!(
        plan.next_after(at("2026-11-01T06:00:00Z")),
        Some(at("2026-11-01T06:01:30Z"))
    );
    assert_eq!(
        plan.previous_before(at("2026-11-01T06:01:30Z")),
        Some(at("2026-11-01T06:00:00Z"))
    );
    assert_eq!(
        plan.next_after(at("1969-12-31T23:59:59.5Z")),
        Some(Timestamp::UNIX_EPOCH)
    );
}

#[test]
fn at_fires_once() {
    let plan = plan("@at 2027-03-01T09:00:00.2509999Z", "UTC");
    let instant = at("2027-03-01T09:00:00.250Z"); // To the millisecond.
    assert_eq!(plan.next_after(at("2027-03-01T09:00:00Z")), Some(instant));
    assert_eq!(plan.next_after(instant), None);
    assert_eq!(plan.previous_before(instant), None);
    assert_eq!(
        plan.previous_before(at("2027-03-01T09:00:01Z")),
        Some(instant)
    );
}

/// The same set by brute force: every civil minute of a window, mapped by `jiff`'s own rules.
fn scan(plan: &Plan, from: i64, to: i64) -> BTreeSet<i64> {
    let Kind::Civil(matcher) = plan.expression.kind() else {
        panic!("no pattern")
    };
    let mut fires = BTreeSet::new();
    let mut civil = (from - 2 * 86_400).div_euclid(60) * 60;
    while civil < to + 2 * 86_400 {
        let time = Civil::from_seconds(civil).unwrap();
        if matcher.cron.is_time_matching(&time).unwrap() {
            let both = plan.zone.to_ambiguous_timestamp(time.0);
            let earlier = both.earlier().unwrap().as_second();
            let later = both.later().unwrap().as_second();
            match both.offset() {
                jiff::tz::AmbiguousOffset::Unambiguous { .. } => {
                    fires.insert(earlier);
                }
                jiff::tz::AmbiguousOffset::Gap { before, after } => {
                    if plan.rules.gap == Gap::Next {
                        fires.insert(transition_between(&plan.zone, civil, before, after));
                    }
                }
                jiff::tz::AmbiguousOffset::Fold { .. } => {
                    if plan.rules.overlap != Overlap::Last {
                        fires.insert(earlier);
                    }
                    if plan.rules.overlap != Overlap::First {
                        fires.insert(later);
                    }
                }
            }
        }
        civil += 60;
    }
    fires.range(from..=to).copied().collect()
}

/// The instant at which the offset changes, found by bisection.
fn transition_between(zone: &TimeZone, civil: i64, before: Offset, after: Offset) -> i64 {
    let offset = |second| zone.to_offset(Timestamp::from_second(second).unwrap());
    let (mut low, mut high) = (
        civil - i64::from(after.seconds()) - 1,
        civil - i64::from(before.seconds()) + 1,
    );
    assert_eq!(offset(low), before);
    while high - low > 1 {
        let middle = i64::midpoint(low, high);
        if offset(middle) == before {
            low = middle
        } else {
            high = middle
        }
    }
    high
}

const ZONES: [&str; 12] = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Antarctica/Troll",
    "America/St_Johns",
    "Asia/Tehran",
];

fn minute_field() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..60_u8).prop_map(|minute| minute.to_string()),
        2 => (0..30_u8, 30..60_u8).prop_map(|(one, two)| format!("{one},{two}")),
        1 => (5..31_u8).prop_map(|step| format!("*/{step}")),
        1 => (0..30_u8, 31..60_u8).prop_map(|(low, high)| format!("{low}-{high}/2")),
    ]
}

fn hour_field() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..5_u8).prop_map(|hour| hour.to_string()),
        1 => Just("23".to_owned()),
        2 => (0..3_u8, 3..24_u8).prop_map(|(one, two)| format!("{one},{two}")),
        2 => Just("*".to_owned()),
        1 => (0..3_u8, 3..6_u8).prop_map(|(low, high)| format!("{low}-{high}")),
    ]
}

fn day_fields() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just("* * *"),
        1 => Just("* * 0"),
        1 => Just("* * 1-5"),
        1 => Just("L * *"),
        1 => Just("1,15 * 5"),
        1 => Just("*/2 * 7"),
        1 => Just("? 3,4,10,11 SUN#1"),
    ]
}

fn rules() -> impl Strategy<Value = Option<Rules>> {
    let gap = prop_oneof![Just(Gap::Next), Just(Gap::Skip)];
    let overlap = prop_oneof![
        Just(Overlap::First),
        Just(Overlap::Last),
        Just(Overlap::Both)
    ];
    proptest::option::of((gap, overlap).prop_map(|(gap, overlap)| Rules { gap, overlap }))
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let zone = proptest::sample::select(ZONES.as_slice());
    (minute_field(), hour_field(), day_fields(), zone, rules()).prop_map(
        |(minute, hour, days, zone, rules)| {
            let mut plan = plan(&format!("{minute} {hour} {days}"), zone);
            plan.rules = rules.unwrap_or(plan.rules);
            plan
        },
    )
}

/// An instant, most often within a day of one of the zone's transitions.
fn instant(plan: &Plan, year_second: i64, nearness: i64, close: bool) -> i64 {
    let anywhere = FIRST + year_second;
    if !close {
        return anywhere;
    }
    let from = Timestamp::from_second(anywhere).unwrap();
    let transition = plan.zone.following(from).next();
    transition.map_or(anywhere, |found| found.timestamp().as_second() + nearness)
}

/// 2005-01-01 and a span of 25 years: zone rules of the past and the projected future.
const FIRST: i64 = 1_104_537_600;
const SPAN: i64 = 25 * 365 * 86_400;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn stepping_visits_what_a_scan_of_civil_minutes_finds(
        plan in any_plan(),
        year_second in 0..SPAN,
        nearness in -86_400..86_400_i64,
        close in prop::bool::weighted(0.8),
    ) {
        let from = instant(&plan, year_second, nearness, close);
        let to = from + 3 * 86_400;
        let expected = scan(&plan, from + 1, to);
        let start = Timestamp::from_second(from).unwrap();
        let stepped: Vec<i64> =
            plan.upcoming(start).map(Timestamp::as_second).take_while(|at| *at <= to).collect();
        prop_assert_eq!(&stepped, &expected.iter().copied().collect::<Vec<_>>());
        let mut back = Vec::new();
        let mut before = Timestamp::from_second(to + 1).unwrap();
        while let Some(fire) = plan.previous_before(before).filter(|fire| *fire > start) {
            prop_assert!(fire < before);
            back.push(fire.as_second());
            before = fire;
        }
        back.reverse();
        prop_assert_eq!(back, stepped);
    }

    #[test]
    fn next_is_later_and_prev_undoes_it(
        plan in any_plan(),
        year_second in 0..SPAN,
        nearness in -86_400..86_400_i64,
        nanosecond in 0..1_000_000_000_i32,
    ) {
        let second = instant(&plan, year_second, nearness, true);
        let from = Timestamp::new(second, nanosecond).unwrap();
        let next = plan.next_after(from).unwrap();
        prop_assert!(next > from);
        // Nothing lies between: the last fire before the next one is not after where we stood.
        let last = plan.previous_before(next).unwrap();
        prop_assert!(last <= from);
        prop_assert_eq!(plan.next_after(last), Some(next));
    }

    #[test]
    fn every_steps_evenly(
        period in 1..10_000_000_i64,
        second in -SPAN..SPAN,
        nanosecond in 0..1_000_000_000_i32,
    ) {
        let plan = plan(&format!("@every {period}s"), "UTC");
        let from = Timestamp::new(second, nanosecond).unwrap();
        let next = plan.next_after(from).unwrap();
        prop_assert!(next > from);
        prop_assert_eq!(next.as_second() % period, 0);
        let last = plan.previous_before(next).unwrap();
        prop_assert_eq!(next.as_second() - last.as_second(), period);
        prop_assert!(last <= from);
    }

    #[test]
    fn no_text_panics(text in "[0-9*/,LWH#?+@a-z ()-]{0,40}", quartz in any::<bool>()) {
        use super::super::Dialect;
        let dialect = if quartz { Dialect::Quartz } else { Dialect::Posix };
        if let Ok(expression) = Expression::parse_as(&text, "report", dialect) {
            let plan = Plan::new(expression, TimeZone::UTC);
            let next = plan.next_after(Timestamp::UNIX_EPOCH);
            prop_assert!(next.is_none_or(|next| next > Timestamp::UNIX_EPOCH));
        }
    }
}
