//! From an expression and a zone to instants. Pure.
//!
//! Keeps: `next(t) > t`, `prev(t) < t`, and both walk the same set of instants, so that stepping
//! from anywhere visits every fire once and in order.
//! Never: reads a clock. Matching is `croner`'s, on civil time; zones and daylight saving are
//! decided here, because a pattern with a comma list must behave like one with a single value.
//! In: `Plan`, `misfire`.
//!
//! ```text
//! instants   ──────────┬───────────────────┬────────────▶   transitions cut the line into
//! offset        -5     │        -4         │     -5         segments of one offset each
//! civil   … 01:59:59   │03:00 …    01:59:59│01:00 …
//!                     gap 02:00-03:00     fold 01:00-02:00
//! ```
//! A segment's fires are its civil matches, less the pass of a fold the rules leave out, plus the
//! transition itself when a gap before it swallowed a match.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::{CivilDateTime, Cron, CronDateTime, Resolution, Weekday};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::expression::{Expression, Kind};

/// What happens to a civil time that the clock jumps over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gap {
    /// Fire once, at the first instant after the jump, however many times were jumped over.
    Next,
    /// Do not fire.
    Skip,
}

/// What happens to a civil time that comes twice because the clock goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// Fire at the earlier of the two instants.
    First,
    /// Fire at the later.
    Last,
    /// Fire at both.
    Both,
}

/// The daylight-saving rules of one schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// For the hour that does not exist.
    pub gap: Gap,
    /// For the hour that exists twice.
    pub overlap: Overlap,
}

impl Rules {
    /// What users expect: a time of day happens exactly once each day, a rhythm follows the clock
    /// on the wall. The rule of Vixie cron, cronie, Cronos and Quartz.NET 4.
    pub fn natural(expression: &Expression) -> Self {
        if expression.is_fixed() {
            Self {
                gap: Gap::Next,
                overlap: Overlap::First,
            }
        } else {
            Self {
                gap: Gap::Skip,
                overlap: Overlap::Both,
            }
        }
    }
}

/// The first fire after `after`; `None` when there is none left.
pub fn next(
    expression: &Expression,
    zone: &TimeZone,
    after: Timestamp,
    rules: Rules,
) -> Option<Timestamp> {
    match expression.kind() {
        Kind::At(at) => (*at > after).then_some(*at),
        Kind::Every(period) => {
            let count = floor_second(after).div_euclid(*period).checked_add(1)?;
            Timestamp::from_second(count.checked_mul(*period)?).ok()
        }
        Kind::Civil(matcher) => {
            let start = floor_second(after).max(-1) + 1;
            let found = Walk {
                matcher,
                zone,
                rules,
            }
            .forward(start)?;
            Timestamp::from_second(found).ok()
        }
    }
}

/// The last fire before `before`; `None` when there is none, at the latest at the epoch.
pub fn prev(
    expression: &Expression,
    zone: &TimeZone,
    before: Timestamp,
    rules: Rules,
) -> Option<Timestamp> {
    // The greatest whole second below `before`.
    let last = match before.subsec_nanosecond() {
        1.. => before.as_second(),
        _ => before.as_second() - 1,
    };
    match expression.kind() {
        Kind::At(at) => (*at < before).then_some(*at),
        Kind::Every(period) => {
            Timestamp::from_second(last.div_euclid(*period).checked_mul(*period)?).ok()
        }
        Kind::Civil(matcher) => {
            let found = Walk {
                matcher,
                zone,
                rules,
            }
            .backward(last)?;
            Timestamp::from_second(found).ok()
        }
    }
}

/// A pattern over civil time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matcher {
    pub(super) cron: Cron,
    pub(super) fixed: bool,
}

impl Matcher {
    /// Whether any civil time from 1970 on matches.
    pub(super) fn fires(&self) -> bool {
        self.at_or_after(0).is_some()
    }

    /// Civil times are counted in seconds from the civil 1970-01-01T00:00:00.
    fn at_or_after(&self, civil: i64) -> Option<i64> {
        let found = self
            .cron
            .find_next_occurrence(&Civil::from_seconds(civil)?, true);
        found.ok()?.to_seconds()
    }

    fn at_or_before(&self, civil: i64) -> Option<i64> {
        let found = self
            .cron
            .find_previous_occurrence(&Civil::from_seconds(civil)?, true);
        found.ok()?.to_seconds()
    }

    fn matches_within(&self, from: i64, to: i64) -> bool {
        self.at_or_after(from).is_some_and(|civil| civil < to)
    }
}

/// A search through the segments of one zone. Instants and civil times are both in seconds.
struct Walk<'a> {
    matcher: &'a Matcher,
    zone: &'a TimeZone,
    rules: Rules,
}

/// A stretch of instants with one offset.
struct Segment {
    /// The transition it begins with, and the offset before it.
    start: Option<(i64, i64)>,
    offset: i64,
    /// The transition it ends with (not part of it), and the offset after it.
    end: Option<(i64, i64)>,
}

impl Walk<'_> {
    /// The first fire at or after `from`.
    fn forward(&self, mut from: i64) -> Option<i64> {
        for _ in 0..SEGMENTS_MAX {
            let segment = self.segment(from)?;
            if segment.start.is_some_and(|(start, _)| start == from)
                && self.fires_after_gap(&segment)
            {
                return Some(from);
            }
            let (low, high) = self.civil_bounds(&segment);
            let found = self.matcher.at_or_after(low.max(from + segment.offset));
            if let Some(civil) = found
                && civil < high
            {
                return Some(civil - segment.offset);
            }
            let (end, _) = segment.end?;
            // Close to a fold the next segment may hold civil times below the ones searched; far
            // from it everything before `found` is known to be empty.
            from = if end - from > REACH {
                end.max(found? - REACH)
            } else {
                end
            };
        }
        None
    }

    /// The last fire at or before `last`.
    fn backward(&self, mut last: i64) -> Option<i64> {
        for _ in 0..SEGMENTS_MAX {
            if last < 0 {
                return None;
            }
            let segment = self.segment(last)?;
            let (low, high) = self.civil_bounds(&segment);
            let found = self
                .matcher
                .at_or_before((high - 1).min(last + segment.offset));
            if let Some(civil) = found
                && civil >= low
            {
                let instant = civil - segment.offset;
                return (instant >= 0).then_some(instant);
            }
            let (start, _) = segment.start?;
            if self.fires_after_gap(&segment) {
                return (start >= 0).then_some(start);
            }
            let before = start - 1;
            last = if last - start > REACH {
                before.min(found? + REACH)
            } else {
                before
            };
        }
        None
    }

    fn segment(&self, at: i64) -> Option<Segment> {
        let here = Timestamp::from_second(at).ok()?;
        let offset_at = |second: i64| {
            let instant = Timestamp::from_second(second).ok()?;
            Some(i64::from(self.zone.to_offset(instant).seconds()))
        };
        // `preceding` is exclusive; a transition at `at` begins this segment.
        let start = Timestamp::from_second(at + 1)
            .ok()
            .and_then(|after| self.zone.preceding(after).next())
            .map(|transition| transition.timestamp().as_second())
            .and_then(|start| Some((start, offset_at(start - 1)?)));
        let end = self.zone.following(here).next().map(|transition| {
            (
                transition.timestamp().as_second(),
                i64::from(transition.offset().seconds()),
            )
        });
        Some(Segment {
            start,
            offset: offset_at(at)?,
            end,
        })
    }

    /// The civil times of the segment that count, as a half-open range.
    fn civil_bounds(&self, segment: &Segment) -> (i64, i64) {
        let offset = segment.offset;
        let low = match segment.start {
            Some((start, before)) if self.rules.overlap == Overlap::First => {
                start + offset.max(before)
            }
            Some((start, _)) => start + offset,
            None => i64::MIN,
        };
        let high = match segment.end {
            Some((end, after)) if self.rules.overlap == Overlap::Last => end + offset.min(after),
            Some((end, _)) => end + offset,
            None => i64::MAX,
        };
        (low, high)
    }

    /// Whether the gap before the segment swallowed a match that its first instant makes up for.
    fn fires_after_gap(&self, segment: &Segment) -> bool {
        match segment.start {
            Some((start, before)) if before < segment.offset && self.rules.gap == Gap::Next => self
                .matcher
                .matches_within(start + before, start + segment.offset),
            _ => false,
        }
    }
}

/// A civil time as the matcher sees it: it exists once, always.
#[derive(Clone)]
struct Civil(DateTime);

impl Civil {
    fn from_seconds(seconds: i64) -> Option<Self> {
        let instant = Timestamp::from_second(seconds).ok()?;
        Some(Self(Offset::UTC.to_datetime(instant)))
    }

    fn to_seconds(&self) -> Option<i64> {
        Offset::UTC
            .to_timestamp(self.0)
            .ok()
            .map(Timestamp::as_second)
    }
}

impl CronDateTime for Civil {
    fn to_civil(&self) -> CivilDateTime {
        CivilDateTime::from_ymd_hms_opt(
            i32::from(self.0.year()),
            unsigned(self.0.month()),
            unsigned(self.0.day()),
            unsigned(self.0.hour()),
            unsigned(self.0.minute()),
            unsigned(self.0.second()),
        )
        .expect("both calendars are the proleptic Gregorian one")
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(unsigned(self.0.weekday().to_sunday_zero_offset()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let small = |value: u32| i8::try_from(value).map_err(|_| CronError::InvalidDate);
        let found = DateTime::new(
            year,
            small(civil.month())?,
            small(civil.day())?,
            small(civil.hour())?,
            small(civil.minute())?,
            small(civil.second())?,
            0,
        );
        found
            .map(Self)
            .map(Resolution::Single)
            .map_err(|_| CronError::InvalidDate)
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        Self::from_seconds(self.to_seconds()?.checked_add(seconds)?)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// Parts of a civil time are never negative.
fn unsigned(part: i8) -> u32 {
    u32::from(part.unsigned_abs())
}

/// The last whole second at or before an instant, also before the epoch.
fn floor_second(at: Timestamp) -> i64 {
    at.as_second() - i64::from(at.subsec_nanosecond() < 0)
}

/// How far from a transition its fold or gap, and the difference between civil time and UTC, can
/// be felt. Offsets stay below 26 h, so three days leave a wide margin.
const REACH: i64 = 3 * 86_400;

/// Segments one search may visit. Two suffice away from clustered transitions; the bound only
/// keeps damaged zone data from looping.
const SEGMENTS_MAX: usize = 256;

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
