//! What is read, what is refused, and in which words.
#![allow(clippy::unwrap_used)]

use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::*;

fn error(text: &str) -> String {
    Expression::parse(text, "report").unwrap_err().to_string()
}

/// Civil fires from an instant on, in UTC.
fn fires(expression: &Expression, from: &str, count: usize) -> Vec<String> {
    let Kind::Civil(matcher) = expression.kind() else {
        panic!("no pattern")
    };
    let plan = super::super::Plan::new(expression.clone(), jiff::tz::TimeZone::UTC);
    assert!(matcher.fires());
    let from: DateTime = from.parse().unwrap();
    let from = Offset::UTC.to_timestamp(from).unwrap();
    plan.upcoming(from)
        .take(count)
        .map(|at| Offset::UTC.to_datetime(at).to_string().replace('T', " "))
        .collect()
}

fn posix(text: &str, from: &str, count: usize) -> Vec<String> {
    fires(&Expression::parse(text, "report").unwrap(), from, count)
}

fn quartz(text: &str, from: &str, count: usize) -> Vec<String> {
    fires(
        &Expression::parse_as(text, "report", Dialect::Quartz).unwrap(),
        from,
        count,
    )
}

#[test]
fn five_six_and_seven_fields() {
    assert_eq!(
        posix("30 9 * * *", "2026-01-01T00:00:00", 1),
        ["2026-01-01 09:30:00"]
    );
    assert_eq!(
        posix("15 30 9 * * *", "2026-01-01T00:00:00", 1),
        ["2026-01-01 09:30:15"]
    );
    assert_eq!(
        posix("0 0 0 1 1 * 2030", "2026-01-01T00:00:00", 2),
        ["2030-01-01 00:00:00"]
    );
    assert_eq!(
        posix("  0\t9  * * * ", "2026-01-01T00:00:00", 1),
        ["2026-01-01 09:00:00"]
    );
}

#[test]
fn weekdays_count_from_sunday_as_zero_or_seven() {
    // 2026-01-04 is a Sunday.
    for text in ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * SUNDAY"] {
        assert_eq!(
            posix(text, "2026-01-01T00:00:00", 1),
            ["2026-01-04 00:00:00"],
            "{text}"
        );
    }
    assert_eq!(
        posix("0 9 * * 1-5", "2026-01-02T12:00:00", 2),
        ["2026-01-05 09:00:00", "2026-01-06 09:00:00"]
    );
    assert_eq!(
        posix("0 0 * * 5-7", "2026-01-01T12:00:00", 4),
        [
            "2026-01-02 00:00:00",
            "2026-01-03 00:00:00",
            "2026-01-04 00:00:00",
            "2026-01-09 00:00:00"
        ]
    );
    // Quartz: 1 is Sunday, so 2-6 is Monday to Friday.
    assert_eq!(
        quartz("0 0 9 ? * 2-6", "2026-01-02T12:00:00", 1),
        ["2026-01-05 09:00:00"]
    );
    assert_eq!(
        quartz("0 0 9 ? * 1", "2026-01-02T12:00:00", 1),
        ["2026-01-04 09:00:00"]
    );
}

#[test]
fn day_fields_match_either_unless_one_begins_with_a_star() {
    // Friday the 13th: 2026-02-13.
    assert_eq!(
        posix("0 0 13 * 5", "2026-01-10T00:00:00", 3),
        [
            "2026-01-13 00:00:00",
            "2026-01-16 00:00:00",
            "2026-01-23 00:00:00"
        ]
    );
    assert_eq!(
        posix("0 0 13 * +5", "2026-01-10T00:00:00", 1),
        ["2026-02-13 00:00:00"]
    );
    assert_eq!(
        quartz("0 0 0 13 * 6", "2026-01-10T00:00:00", 1),
        ["2026-02-13 00:00:00"]
    );
    // A stepped star counts as unrestricted: odd days that are Mondays.
    assert_eq!(
        posix("0 0 */2 * 1", "2026-01-01T00:00:00", 2),
        ["2026-01-05 00:00:00", "2026-01-19 00:00:00"]
    );
    let either = Expression::parse("0 0 13 * 5", "report").unwrap();
    assert_eq!(
        either.warning(),
        Some("fires when the day of month or the day of week matches; write +5 for both")
    );
    assert_eq!(
        Expression::parse("0 0 13 * +5", "report")
            .unwrap()
            .warning(),
        None
    );
}

#[test]
fn special_days() {
    assert_eq!(
        posix("0 0 L * *", "2028-01-31T12:00:00", 2),
        ["2028-02-29 00:00:00", "2028-03-31 00:00:00"]
    );
    // The last weekday of May 2026 is Friday the 29th.
    assert_eq!(
        posix("0 0 LW * *", "2026-05-02T00:00:00", 1),
        ["2026-05-29 00:00:00"]
    );
    // 2026-02-15 is a Sunday; 2026-08-15 a Saturday; the 1st stays in its month.
    assert_eq!(
        posix("0 0 15W 2 *", "2026-01-01T00:00:00", 1),
        ["2026-02-16 00:00:00"]
    );
    assert_eq!(
        posix("0 0 15W 8 *", "2026-01-01T00:00:00", 1),
        ["2026-08-14 00:00:00"]
    );
    assert_eq!(
        posix("0 0 1W 8 *", "2026-01-01T00:00:00", 1),
        ["2026-08-03 00:00:00"]
    );
    assert_eq!(
        posix("0 0 * * FRI#2", "2026-01-01T00:00:00", 1),
        ["2026-01-09 00:00:00"]
    );
    assert_eq!(
        posix("0 0 * * 5L", "2026-01-01T00:00:00", 1),
        ["2026-01-30 00:00:00"]
    );
    assert_eq!(
        posix("0 0 ? * 0L", "2026-01-01T00:00:00", 1),
        ["2026-01-25 00:00:00"]
    );
    assert_eq!(
        quartz("0 0 0 ? * L", "2026-01-01T00:00:00", 1),
        ["2026-01-03 00:00:00"]
    );
    assert_eq!(
        posix("0 0 L,15W * *", "2026-02-01T00:00:00", 2),
        ["2026-02-16 00:00:00", "2026-02-28 00:00:00"]
    );
}

#[test]
fn aliases() {
    for (alias, expected) in [
        ("@yearly", "2027-01-01 00:00:00"),
        ("@Annually", "2027-01-01 00:00:00"),
        ("@monthly", "2026-02-01 00:00:00"),
        ("@weekly", "2026-01-04 00:00:00"),
        ("@daily", "2026-01-02 00:00:00"),
        ("@MIDNIGHT", "2026-01-02 00:00:00"),
        ("@hourly", "2026-01-01 01:00:00"),
    ] {
        assert_eq!(
            posix(alias, "2026-01-01T00:30:00", 1),
            [expected],
            "{alias}"
        );
    }
    assert!(Expression::parse("@daily", "report").unwrap().is_fixed());
    assert!(!Expression::parse("@hourly", "report").unwrap().is_fixed());
}

#[test]
fn spans_and_instants() {
    for (text, seconds) in [
        ("@every 90s", 90),
        ("@every 1h30m", 5_400),
        ("@every 1d", 86_400),
        ("@EVERY 5M", 300),
    ] {
        let expression = Expression::parse(text, "report").unwrap();
        assert_eq!(expression.kind(), &Kind::Every(seconds), "{text}");
    }
    let at = Expression::parse("@at 2027-03-01t09:00:00+01:00", "report").unwrap();
    assert_eq!(
        at.kind(),
        &Kind::At("2027-03-01T08:00:00Z".parse().unwrap())
    );
    assert!(at.is_one_shot());
}

#[test]
fn hash_depends_on_the_name_only() {
    let parse = |name| Expression::parse("H H(0-7) * * *", name).unwrap();
    assert_eq!(parse("report"), parse("report"));
    assert_ne!(parse("report"), parse("invoice"));
    assert!(parse("report").is_fixed());
    // Pinned: an upgrade must not move schedules.
    assert_eq!(
        fires(&parse("report"), "2026-01-01T00:00:00", 1),
        [PINNED_REPORT]
    );
    assert_eq!(
        fires(&parse("invoice"), "2026-01-01T00:00:00", 1),
        [PINNED_INVOICE]
    );
    // A stepped hash still keeps its rhythm.
    let stepped = posix("H/15 * * * *", "2026-01-01T00:59:59", 5);
    let minutes: Vec<u32> = stepped
        .iter()
        .map(|at| at[14..16].parse().unwrap())
        .collect();
    assert!(minutes[0] < 15);
    assert_eq!(minutes[1] - minutes[0], 15);
    assert_eq!(minutes[4], minutes[0]);
}

#[test]
fn fixed_and_rhythmic() {
    for (text, fixed) in [
        ("30 2 * * *", true),
        ("0,30 1 * * *", true),
        ("0 1,13 * * *", true),
        ("0 0 2 * * 1-5", true),
        ("0 30 2 1-7 1-3 * 2030-2040", true),
        ("H H * * *", true),
        ("*/30 1 * * *", false),
        ("0 1-3 * * *", false),
        ("0 * * * *", false),
        ("0-30 5 * * *", false),
        ("* 0 2 * * *", false),
        ("@every 1d", false),
    ] {
        assert_eq!(
            Expression::parse(text, "report").unwrap().is_fixed(),
            fixed,
            "{text}"
        );
    }
}

#[test]
fn refusals() {
    for (text, expected) in [
        ("61 * * * *", "minute: 61 is out of range 0-59"),
        ("0 61 * * * *", "minute: 61 is out of range 0-59"),
        ("61 0 * * * *", "second: 61 is out of range 0-59"),
        ("", "expression: the text is empty"),
        (
            "* * *",
            "expression: * * * has 3 fields; write 5 (minute hour day month weekday), \
             6 (second first) or 7 (second first, year last)",
        ),
        ("0 0 31 2 *", "day of month and month: 31 2 never occurs"),
        (
            "0 0 31 feb,APR *",
            "day of month and month: 31 feb,APR never occurs",
        ),
        ("0 0 0 29 2 * 2027", "date fields: 29 2 * 2027 never occurs"),
        ("0 0 31 2 +1", "date fields: 31 2 +1 never occurs"),
        ("0 0 1-7 * +1#2", "date fields: 1-7 * +1#2 never occurs"),
        (
            "TZ=UTC 0 0 * * *",
            "expression: TZ=UTC 0 0 * * * sets a zone; write it in the schedule's `zone`",
        ),
        (
            "@often",
            "expression: @often is not known; there are @yearly, @annually, @monthly, @weekly, \
             @daily, @midnight, @hourly, @every 90s and @at <time>",
        ),
        (
            "@reboot",
            "expression: @reboot is not supported: a schedule fires at times, not at starts of \
             the server",
        ),
        ("@every", "@every: @every needs a span, as in @every 90s"),
        ("@every 0s", "@every: 0s is no time at all; the least is 1s"),
        (
            "@every 90",
            "@every: 90 is not a span such as 90s, 5m, 1h30m or 1d",
        ),
        (
            "@every 500ms",
            "@every: 500ms is not a span such as 90s, 5m, 1h30m or 1d",
        ),
        (
            "@every -5m",
            "@every: -5m is not a span such as 90s, 5m, 1h30m or 1d",
        ),
        (
            "@every 99999999d",
            "@every: 99999999d is longer than 100 years",
        ),
        (
            "@at 2027-03-01 09:00",
            "@at: 2027-03-01 09:00 is not an RFC 3339 time with an offset, as in \
             2027-03-01T09:00:00Z",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    let long = "1,".repeat(600) + "1 * * * *";
    assert_eq!(
        error(&long),
        "expression: the text is longer than 1024 bytes"
    );
}

#[test]
fn years_step_from_the_epoch() {
    assert_eq!(
        posix("0 0 0 1 1 * */2", "2025-06-01T00:00:00", 2),
        ["2026-01-01 00:00:00", "2028-01-01 00:00:00"]
    );
}

const PINNED_REPORT: &str = "2026-01-01 07:04:00";
const PINNED_INVOICE: &str = "2026-01-01 03:29:00";
