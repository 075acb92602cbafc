//! When a schedule fires. Pure: no clock, no task, no store.
//!
//! Keeps: a nominal time depends only on the expression, the zone and the rules, so every node
//! and every restart computes the same one; the store's ledger makes each fire once.
//! Never: fires anything. The ticker asks a `Plan` what is due and commits the answer.
//! In: the ticker, configuration checks, previews.
//!
//! ```text
//! text ──expression──▶ Expression ──calendar (+ zone, rules)──▶ instants ──misfire──▶ Due
//! ```

mod calendar;
mod expression;
mod field;
mod misfire;
mod zone;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use calendar::{Gap, Overlap, Rules, next, prev};
pub use expression::{Dialect, Expression, Invalid};
pub use misfire::{CATCH_UP_MAX, CatchUp, Due, ON_TIME};
pub use zone::find as find_zone;

/// All that decides when one schedule fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the user wrote.
    pub expression: Expression,
    /// Whose clock on the wall the expression speaks of.
    pub zone: TimeZone,
    /// What daylight saving does to it.
    pub rules: Rules,
    /// What an outage does to it.
    pub catch_up: CatchUp,
    /// Missed ticks older than this are not caught up.
    pub window: Duration,
}

impl Plan {
    /// A plan with the natural daylight-saving rules, catch-up `Latest` and a window of a day.
    pub fn new(expression: Expression, zone: TimeZone) -> Self {
        let rules = Rules::natural(&expression);
        let window = Duration::from_secs(24 * 60 * 60);
        Self {
            expression,
            zone,
            rules,
            catch_up: CatchUp::default(),
            window,
        }
    }

    /// The first nominal time after `at`, strictly; `None` when the schedule is over.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        next(&self.expression, &self.zone, at, self.rules)
    }

    /// The last nominal time before `at`, strictly.
    pub fn previous_before(&self, at: Timestamp) -> Option<Timestamp> {
        prev(&self.expression, &self.zone, at, self.rules)
    }

    /// Nominal times after `at`, one by one; ends when the schedule is over.
    pub fn upcoming(&self, at: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next_after(at), |last| self.next_after(*last))
    }

    /// What to fire now and when to look again.
    ///
    /// `last_nominal` is the latest nominal time already fired or passed over; for a schedule
    /// that is new, or whose expression changed, the instant of that change. A clock that went
    /// back fires nothing. Bounded by the catch-up policy, not by the time since `last_nominal`.
    pub fn due(&self, last_nominal: Timestamp, now: Timestamp) -> Due {
        misfire::due(self, last_nominal, now)
    }
}
