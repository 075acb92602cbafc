//! Which priority goes next where waiting counts (`x-priority-ageing`). Pure.
//!
//! Keeps: a message gains on others one priority for each interval that it has waited. As all gain
//! alike, what is compared does not change with time: when a message was accepted, and an interval
//! more for each level that it stands below the highest. So nothing is sorted anew, messages of one
//! priority stay in order, and only the first of each priority is looked at, 256 at most.
//! Never: reads a clock, or a body: when a message was accepted is known of its segment.
//! In: `take`, for the head of a queue with priorities; `shard` sets the interval.

use super::*;

/// First messages of a priority that are looked at for the oldest, where the first has come out of
/// a row of its own: such a one is as old as its return, and what stands behind must not starve.
const LOOK_MAX: usize = 8;

/// What is compared: the least goes first.
fn rank(level: u8, at: Micros, interval: Micros) -> Micros {
    at.saturating_add(interval.saturating_mul(level.into()))
}

impl Log {
    /// From now on waiting counts, a priority for each so many ms; 0 or none: no more. Holds for
    /// what is there, too.
    pub fn age_priorities(&mut self, ms: Option<u64>) {
        let us = ms.unwrap_or(0).saturating_mul(1000);
        self.ageing = Micros::try_from(us).unwrap_or(Micros::MAX);
    }

    /// The first of those beside the cursor.
    pub(super) fn next_aside(&self) -> Option<Standing> {
        if self.ageing == 0 || self.levels == 0 {
            return self.aside.first_key_value().map(|(first, _)| *first);
        }
        let mut best: Option<(Micros, Standing)> = None;
        let mut from = Some(0);
        while let Some(level) = from {
            let Some((&first, _)) = self.aside.range((level, 0)..).next() else {
                break;
            };
            let (level, _) = first;
            let rank = rank(level, self.oldest_of(level), self.ageing);
            // Of two that are alike the higher priority goes first.
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, first));
            }
            from = level.checked_add(1);
        }
        best.map(|(_, first)| first)
    }

    /// When the oldest of a level was accepted.
    fn oldest_of(&self, level: u8) -> Micros {
        let mut oldest = Micros::MAX;
        let all = self.aside.range((level, 0)..=(level, Seq::MAX));
        for (&(_, seq), aside) in all.take(LOOK_MAX) {
            let own = aside.own.as_ref().map(|own| own.at);
            let at = own.or_else(|| {
                let chunk = &self.chunks[self.chunk_of(seq)?];
                Some(chunk.accepted_at(seq))
            });
            // What is not there any more is looked at, and is seen to be gone.
            oldest = oldest.min(at.unwrap_or(Micros::MIN));
            if own.is_none() {
                break;
            }
        }
        oldest
    }
}
