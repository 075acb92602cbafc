//! Outages of seconds and of years, under each policy.
#![allow(clippy::unwrap_used)]

use super::super::{Expression, find_zone};
use super::*;

fn plan(text: &str, catch_up: CatchUp) -> Plan {
    let expression = Expression::parse(text, "report").unwrap();
    Plan {
        catch_up,
        ..Plan::new(expression, find_zone("UTC").unwrap())
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn due(plan: &Plan, last: &str, now: &str) -> (Vec<String>, Option<String>, bool) {
    let Due {
        fire,
        next,
        skipped,
    } = plan.due(at(last), at(now));
    let texts = fire.iter().map(ToString::to_string).collect();
    (texts, next.map(|next| next.to_string()), skipped)
}

const ALL: [CatchUp; 3] = [CatchUp::None, CatchUp::Latest, CatchUp::All { max: 100 }];

#[test]
fn nothing_is_due_between_ticks() {
    for policy in ALL {
        let found = due(
            &plan("0 * * * *", policy),
            "2026-01-01T09:00:00Z",
            "2026-01-01T09:59:59.999Z",
        );
        assert_eq!(
            found,
            (vec![], Some("2026-01-01T10:00:00Z".to_owned()), false),
            "{policy:?}"
        );
    }
}

#[test]
fn a_tick_on_time_fires_under_every_policy() {
    for policy in ALL {
        for now in [
            "2026-01-01T10:00:00Z",
            "2026-01-01T10:00:00.003Z",
            "2026-01-01T10:00:05Z",
        ] {
            let found = due(&plan("0 * * * *", policy), "2026-01-01T09:00:00Z", now);
            let expected = (
                vec!["2026-01-01T10:00:00Z".to_owned()],
                Some("2026-01-01T11:00:00Z".to_owned()),
                false,
            );
            assert_eq!(found, expected, "{policy:?} {now}");
        }
    }
}

#[test]
fn a_short_stall_loses_no_second() {
    for policy in ALL {
        let (fire, next, skipped) = due(
            &plan("* * * * * *", policy),
            "2026-01-01T10:00:00Z",
            "2026-01-01T10:00:03.2Z",
        );
        let expected = [
            "2026-01-01T10:00:01Z",
            "2026-01-01T10:00:02Z",
            "2026-01-01T10:00:03Z",
        ];
        assert_eq!(fire, expected, "{policy:?}");
        assert_eq!(next.unwrap(), "2026-01-01T10:00:04Z");
        assert!(!skipped);
    }
}

#[test]
fn policies_after_an_outage() {
    let (last, now) = ("2026-01-01T09:00:00Z", "2026-01-01T13:30:00Z");
    let next = Some("2026-01-01T14:00:00Z".to_owned());
    let found = due(&plan("0 * * * *", CatchUp::None), last, now);
    assert_eq!(found, (vec![], next.clone(), true));
    let found = due(&plan("0 * * * *", CatchUp::Latest), last, now);
    assert_eq!(
        found,
        (vec!["2026-01-01T13:00:00Z".to_owned()], next.clone(), true)
    );
    let (fire, found_next, skipped) = due(&plan("0 * * * *", CatchUp::All { max: 100 }), last, now);
    let expected = [
        "2026-01-01T10:00:00Z",
        "2026-01-01T11:00:00Z",
        "2026-01-01T12:00:00Z",
        "2026-01-01T13:00:00Z",
    ];
    assert_eq!(
        (fire.as_slice(), found_next, skipped),
        (expected.map(String::from).as_slice(), next, false)
    );
    // A cap keeps the most recent ones, still oldest first.
    let (fire, _, skipped) = due(&plan("0 * * * *", CatchUp::All { max: 2 }), last, now);
    assert_eq!(
        (fire.as_slice(), skipped),
        (expected.map(String::from)[2..].as_ref(), true)
    );
}

#[test]
fn latest_needs_no_catch_up_when_a_tick_is_on_time() {
    let (fire, _, skipped) = due(
        &plan("0 * * * *", CatchUp::Latest),
        "2026-01-01T09:00:00Z",
        "2026-01-01T13:00:01Z",
    );
    assert_eq!(fire, ["2026-01-01T13:00:00Z"]);
    assert!(skipped);
}

#[test]
fn one_missed_tick_is_no_loss_under_latest() {
    let (fire, _, skipped) = due(
        &plan("0 9 * * *", CatchUp::Latest),
        "2026-01-01T09:00:00Z",
        "2026-01-02T11:00:00Z",
    );
    assert_eq!(fire, ["2026-01-02T09:00:00Z"]);
    assert!(!skipped);
}

#[test]
fn the_window_bounds_the_past() {
    let weekly = plan("0 9 * * 1", CatchUp::Latest);
    // Monday 2026-01-05 09:00 was missed; 23 h later it still counts, 25 h later it does not.
    let (fire, _, skipped) = due(&weekly, "2025-12-30T00:00:00Z", "2026-01-06T08:00:00Z");
    assert_eq!((fire.len(), skipped), (1, false));
    let (fire, next, skipped) = due(&weekly, "2025-12-30T00:00:00Z", "2026-01-06T10:00:00Z");
    assert_eq!((fire.len(), skipped), (0, true));
    assert_eq!(next.unwrap(), "2026-01-12T09:00:00Z");
    let narrow = Plan {
        window: Duration::ZERO,
        ..plan("0 * * * *", CatchUp::All { max: 9 })
    };
    let (fire, ..) = due(&narrow, "2026-01-01T09:00:00Z", "2026-01-01T12:00:02Z");
    assert_eq!(
        fire,
        ["2026-01-01T12:00:00Z"],
        "on time is never outside the window"
    );
    let wide = Plan {
        window: Duration::MAX,
        ..plan("0 * * * *", CatchUp::All { max: 9 })
    };
    let (fire, ..) = due(&wide, "2020-01-01T09:00:00Z", "2026-01-01T12:30:00Z");
    assert_eq!(fire.len(), 9);
}

#[test]
fn a_clock_that_went_back_fires_nothing_again() {
    for policy in ALL {
        let found = due(
            &plan("0 * * * *", policy),
            "2026-01-01T13:00:00Z",
            "2026-01-01T09:30:00Z",
        );
        assert_eq!(
            found,
            (vec![], Some("2026-01-01T14:00:00Z".to_owned()), false),
            "{policy:?}"
        );
    }
}

#[test]
fn a_missed_one_shot_fires_once() {
    let once = plan("@at 2026-01-01T09:00:00Z", CatchUp::Latest);
    let found = due(&once, "2025-12-31T00:00:00Z", "2026-01-01T20:00:00Z");
    assert_eq!(
        found,
        (vec!["2026-01-01T09:00:00Z".to_owned()], None, false)
    );
    let found = due(&once, "2026-01-01T09:00:00Z", "2026-01-01T20:00:00Z");
    assert_eq!(found, (vec![], None, false));
    let none = plan("@at 2026-01-01T09:00:00Z", CatchUp::None);
    let found = due(&none, "2025-12-31T00:00:00Z", "2026-01-01T20:00:00Z");
    assert_eq!(found, (vec![], None, true));
}

#[test]
fn years_of_seconds_cost_no_more_than_the_cap() {
    let (last, now) = ("2006-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z");
    let (fire, next, skipped) = due(&plan("* * * * * *", CatchUp::Latest), last, now);
    assert_eq!(fire.len(), 5, "the on-time ones");
    assert_eq!(next.unwrap(), "2026-01-01T00:00:01Z");
    assert!(skipped);
    let greedy = CatchUp::All { max: u32::MAX };
    let (fire, _, skipped) = due(&plan("* * * * * *", greedy), last, now);
    assert_eq!(fire.len(), CATCH_UP_MAX as usize);
    assert_eq!(fire.last().unwrap(), "2026-01-01T00:00:00Z");
    assert!(skipped);
}

#[test]
fn catching_up_then_looking_again_finds_nothing() {
    for text in ["* * * * * *", "*/7 * * * *", "0 9 * * *", "@every 90s"] {
        for policy in ALL {
            let plan = plan(text, policy);
            let now = at("2026-01-02T12:00:00Z");
            let first = plan.due(at("2026-01-01T00:00:00Z"), now);
            assert!(first.next.unwrap() > now, "{text} {policy:?}");
            // The shell records the later of the last fire and `now` as passed over.
            let again = plan.due(now, now);
            assert_eq!(
                (again.fire, again.next),
                (vec![], first.next),
                "{text} {policy:?}"
            );
        }
    }
}
