//! What to do about ticks that were missed. Pure.
//!
//! Keeps: nothing at or before the last nominal time fires again, whatever the clock does; the
//! work is bounded by the policy, never by the length of the outage.
//! Never: reads a clock or knows the ledger; the shell hands in both instants.
//! In: `Plan::due`.  Out: `Due`, which the shell commits.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Plan;

/// Which of the missed ticks fire after an outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CatchUp {
    /// None of them.
    None,
    /// The most recent one only, if no tick is due on time as well.
    #[default]
    Latest,
    /// Up to `max` (at most `CATCH_UP_MAX`), the most recent ones, oldest first.
    All {
        /// How many may fire at once.
        max: u32,
    },
}

/// What is to be done at one look at a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Nominal times to fire now, oldest first; later than the last one, not later than now.
    pub fire: Vec<Timestamp>,
    /// When to look again; `None` when the schedule is over.
    pub next: Option<Timestamp>,
    /// At least one tick was missed for good.
    pub skipped: bool,
}

/// Ticks this late still count as on time and fire under every policy, so that a slow disk or a
/// quick restart loses nothing.
pub const ON_TIME: Duration = Duration::from_secs(5);

/// The most ticks one look at a schedule fires.
pub const CATCH_UP_MAX: u32 = 10_000;

/// Applies the catch-up policy to the ticks in `(last_nominal, now]`.
pub(super) fn due(plan: &Plan, last_nominal: Timestamp, now: Timestamp) -> Due {
    let next = plan.next_after(last_nominal.max(now));
    let on_time = earlier(now, ON_TIME);
    let window = earlier(now, plan.window);
    let mut fire = Vec::new();
    let mut skipped = false;
    // Walking back from now costs the same after a second and after ten years.
    let mut tick = tick_at_or_before(plan, now);
    while let Some(nominal) = tick.filter(|nominal| *nominal > last_nominal) {
        let room = match plan.catch_up {
            CatchUp::All { max } => fire.len() < max.min(CATCH_UP_MAX) as usize,
            CatchUp::Latest => fire.is_empty(),
            CatchUp::None => false,
        };
        if nominal < on_time && !(room && nominal >= window) {
            skipped = true;
            break;
        }
        fire.push(nominal);
        tick = plan.previous_before(nominal);
    }
    fire.reverse();
    Due {
        fire,
        next,
        skipped,
    }
}

fn tick_at_or_before(plan: &Plan, now: Timestamp) -> Option<Timestamp> {
    let just_after = now
        .checked_add(SignedDuration::from_nanos(1))
        .unwrap_or(now);
    plan.previous_before(just_after)
}

/// `span` before `now`, or the beginning of time.
fn earlier(now: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    now.checked_sub(span).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
#[path = "misfire_tests.rs"]
mod tests;
