//! What the rules say becomes of each message. Pure.
//!
//! Keeps: one place for each message that was accepted; a copy of all this for each cut is what a
//! crash must bring back.
//! Never: asks the queues; `world` compares the two after each step.
//! In: `world` plays a step on both.

use std::collections::BTreeMap;

use super::rules::{RULES, Retry};
use crate::model::{Micros, Seq};
use crate::queue::consumers::ChannelKey;
use crate::topology::arguments::LEASE_MS;

/// A queue's position in the list, and a place in it.
pub(super) type Spot = (usize, Seq);

/// What a message brings along wherever it goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    pub(super) id: u64,
    pub(super) persistent: bool,
    pub(super) key: Option<u8>,
    pub(super) priority: u8,
    /// Its own `x-retry-limit`.
    pub(super) limit: Option<u32>,
    /// It went through a crash: its record of attempts may have gaps.
    pub(super) gaps: bool,
}

/// A delivery: by a tag on a channel, be it a client's or that of all receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) key: ChannelKey,
    pub(super) tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    Out {
        holder: Holder,
        until: Option<Micros>,
        span_ms: u64,
    },
    /// Until an instant that jitter may choose within a span.
    Waiting {
        from: Micros,
        to: Micros,
    },
    /// Its consumer is done with it, and what follows waits for its content to be read.
    Undecided(Fault),
}

/// A message in one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) traits: Traits,
    pub(super) place: Place,
    /// Attempts that failed, or returns where those are counted.
    pub(super) failures: u32,
    /// A crash leaves it.
    pub(super) stored: bool,
    /// It has a row of its own, and the instant in it has come when a crash brings it back.
    pub(super) in_row: bool,
    /// It was out, or could have been, when a crash came: its key waits for it.
    pub(super) holds: bool,
    /// The queue in which it died last.
    pub(super) origin: Option<usize>,
    /// It may say that it was handed out before although it was not: only a crash excuses that.
    pub(super) recovered: bool,
}

/// Why a delivery ends without an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Rejected,
    Returned,
    Lost,
    Late,
    /// Its consumer left in peace.
    Left,
    /// Its consumer asked for it anew.
    Recovered,
    /// A receiver gave it back uncounted.
    Released,
}

/// A message that must now be found at the end of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) queue: usize,
    pub(super) copy: Copy,
    pub(super) death: Option<Death>,
}

/// How it died.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) source: usize,
    pub(super) reason: &'static str,
    pub(super) failures: u32,
    pub(super) limit: u32,
    pub(super) gaps: bool,
}

/// An operator's walk through a dead-letter queue.
#[derive(Clone, Debug)]
pub(super) struct Redrive {
    pub(super) queue: usize,
    pub(super) next: Seq,
    pub(super) until: Seq,
    pub(super) moved: u64,
    pub(super) runs: bool,
}

/// All that must survive a crash, and what will not.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) copies: BTreeMap<Spot, Copy>,
    pub(super) paused: [bool; super::rules::COUNT],
    /// When each key came that the window has taken, ms.
    pub(super) keys: BTreeMap<u8, i64>,
    pub(super) redrives: BTreeMap<String, Redrive>,
}

impl Copy {
    pub(super) fn new(queue: usize, traits: Traits) -> Self {
        Self {
            traits,
            place: Place::Ready,
            failures: 0,
            stored: traits.persistent || RULES[queue].window_ms.is_some(),
            in_row: false,
            holds: false,
            origin: None,
            recovered: false,
        }
    }

    pub(super) fn holder(&self) -> Option<Holder> {
        match self.place {
            Place::Out { holder, .. } => Some(holder),
            _ => None,
        }
    }

    /// Retries after the first delivery.
    pub(super) fn limit(&self, retry: &Retry) -> u32 {
        self.traits.limit.unwrap_or(retry.limit)
    }

    /// Waits for its time after a failure, or after a crash.
    fn is_in_backoff(&self) -> bool {
        let waits = matches!(self.place, Place::Waiting { .. });
        waits && (self.failures > 0 || self.holds)
    }
}

/// Until when a message waits that failed so often.
fn backoff(retry: &Retry, failures: u32, now: Micros) -> Place {
    let growth = retry.multiplier.powi(failures.cast_signed() - 1);
    let plain = (retry.delay_ms as f64 * growth).min(retry.max_delay_ms as f64);
    let at = |ms: f64| now + (ms as Micros) * 1000;
    Place::Waiting {
        from: at(plain * (1.0 - retry.jitter)),
        to: at(plain * (1.0 + retry.jitter)),
    }
}

impl Model {
    /// A delivery ends with a fault. Answers what goes elsewhere.
    pub(super) fn fail(&mut self, spot: Spot, fault: Fault, now: Micros) -> Option<Arrival> {
        let rule = &RULES[spot.0];
        let copy = self.copies.get_mut(&spot)?;
        copy.place = Place::Ready;
        if fault == Fault::Released {
            return None;
        }
        if let Some(retry) = &rule.retry {
            if matches!(fault, Fault::Left | Fault::Recovered) {
                return None;
            }
            copy.failures += 1;
            if copy.failures > copy.limit(retry) {
                return self.die(spot, "delivery_limit");
            }
            if fault == Fault::Rejected {
                copy.place = backoff(retry, copy.failures, now);
                (copy.stored, copy.in_row) = (true, true);
            }
            return None;
        }
        if fault == Fault::Rejected {
            return self.die(spot, "rejected");
        }
        if let Some(limit) = rule.returns {
            copy.failures += 1;
            if copy.failures > limit {
                return self.die(spot, "delivery_limit");
            }
        }
        None
    }

    /// The end in this queue; answers where it goes on.
    fn die(&mut self, spot: Spot, reason: &'static str) -> Option<Arrival> {
        let copy = self.copies.remove(&spot)?;
        let rule = &RULES[spot.0];
        let queue = rule.dead?;
        let retry = rule.retry.as_ref();
        Some(Arrival {
            queue,
            copy: Copy {
                origin: Some(spot.0),
                ..Copy::new(queue, copy.traits)
            },
            death: Some(Death {
                source: spot.0,
                reason,
                failures: if retry.is_some() { copy.failures } else { 0 },
                limit: retry.map_or(0, |retry| copy.limit(retry)),
                gaps: copy.traits.gaps,
            }),
        })
    }

    /// True while its key comes in the window.
    pub(super) fn is_known(&self, key: u8, now: Micros) -> bool {
        let span = RULES[super::rules::ONCE].window_ms.unwrap_or(0);
        self.keys
            .get(&key)
            .is_some_and(|at| *at > now / 1000 - span)
    }

    pub(super) fn ready(&self, queue: usize) -> u64 {
        let all = self.copies.range((queue, 0)..=(queue, Seq::MAX));
        all.filter(|(_, copy)| copy.place == Place::Ready).count() as u64
    }

    /// Messages that take up room of a key.
    fn busy(&self, queue: usize, key: u8) -> usize {
        let skip = RULES[queue].keys.is_none_or(|keys| keys.skip);
        let all = self.copies.range((queue, 0)..=(queue, Seq::MAX));
        let same = all.filter(|(_, copy)| copy.traits.key == Some(key));
        let holds = |copy: &Copy| match copy.place {
            Place::Out { .. } | Place::Undecided(_) => true,
            _ => !skip && copy.is_in_backoff(),
        };
        same.filter(|(_, copy)| holds(copy)).count()
    }

    /// A ready message may go out as far as its key goes.
    pub(super) fn has_room(&self, (queue, _): Spot, copy: &Copy) -> bool {
        match (RULES[queue].keys, copy.traits.key) {
            (Some(keys), Some(key)) => self.busy(queue, key) < keys.concurrency,
            _ => true,
        }
    }

    /// True when, of two ready messages of a queue, the first must go out first.
    pub(super) fn precedes(&self, queue: usize, first: Seq, second: Seq) -> bool {
        let (rule, of) = (&RULES[queue], |seq| self.copies.get(&(queue, seq)));
        let (Some(a), Some(b)) = (of(first), of(second)) else {
            return false;
        };
        if rule.keys.is_some() && a.traits.key != b.traits.key {
            return false;
        }
        let standing =
            |copy: &Copy, seq| (rule.levels - copy.traits.priority.min(rule.levels), seq);
        standing(a, first) < standing(b, second)
    }

    /// How long a delivery may take, ms.
    pub(super) fn lease_ms(queue: usize, wish: Option<u64>, by_receiver: bool) -> Option<u64> {
        let own = RULES[queue]
            .retry
            .map(|retry| retry.lease_ms.unwrap_or(LEASE_MS));
        match by_receiver {
            true => wish.or(own).or(Some(LEASE_MS)),
            false => own,
        }
    }

    /// What is left of it after a crash.
    pub(super) fn crash(&mut self) {
        self.copies.retain(|_, copy| copy.stored);
        for copy in self.copies.values_mut() {
            copy.recovered = true;
            copy.traits.gaps = true;
            copy.holds = copy.in_row && !matches!(copy.place, Place::Waiting { .. });
            copy.place = match copy.place {
                Place::Waiting { from, to } => Place::Waiting { from, to },
                // Its time had come.
                _ if copy.in_row => Place::Waiting { from: 0, to: 0 },
                _ => Place::Ready,
            };
        }
    }
}
