//! A channel's confirms: completed ranges joined into few frames. Pure.
//!
//! Keeps: `multiple` is used only for a prefix of which every number is complete; each number is
//! told once, in order, however often and in whatever order it was completed.
//! In: the gateway's session, one per channel in confirm mode.

use std::collections::BTreeMap;

/// What to tell the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    Ack { tag: u64, multiple: bool },
    Nack { tag: u64 },
}

pub struct Confirms {
    /// All numbers below were told.
    next: u64,
    /// Complete ranges above, first → (count, refused).
    done: BTreeMap<u64, (u64, bool)>,
    /// In-order completion not told yet: all below are complete and acked.
    acked: u64,
}

impl Default for Confirms {
    fn default() -> Self {
        Self {
            next: 1,
            done: BTreeMap::new(),
            acked: 1,
        }
    }
}

impl Confirms {
    /// Numbers [first, first + count) are safe.
    pub fn complete(&mut self, first: u64, count: u64) {
        if first == self.acked && self.done.is_empty() {
            self.acked += count;
            return;
        }
        let known = self.done.entry(first).or_insert((count, false));
        known.0 = known.0.max(count);
    }

    /// One number was refused, and is not completed by anyone else.
    pub fn reject(&mut self, tag: u64) {
        self.done.insert(tag, (1, true));
    }

    /// Tells the finished prefix, in order.
    pub fn drain(&mut self, mut tell: impl FnMut(Confirm)) {
        loop {
            let front = self
                .done
                .first_key_value()
                .map(|(&f, &(n, refused))| (f, n, refused));
            match front {
                Some((first, count, false)) if first <= self.acked => {
                    self.done.remove(&first);
                    self.acked = self.acked.max(first + count);
                }
                // Told already; a verdict cannot be taken back.
                Some((first, _, true)) if first < self.acked => {
                    self.done.remove(&first);
                }
                Some((first, _, true)) if first == self.acked => {
                    self.done.remove(&first);
                    self.flush(&mut tell);
                    tell(Confirm::Nack { tag: first });
                    self.acked += 1;
                    self.next = self.acked;
                }
                _ => break,
            }
        }
        self.flush(&mut tell);
    }

    fn flush(&mut self, tell: &mut impl FnMut(Confirm)) {
        if self.acked > self.next {
            tell(Confirm::Ack {
                tag: self.acked - 1,
                multiple: self.acked - self.next > 1,
            });
            self.next = self.acked;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn drain(confirms: &mut Confirms) -> Vec<Confirm> {
        let mut out = Vec::new();
        confirms.drain(|confirm| out.push(confirm));
        out
    }

    #[test]
    fn only_the_finished_prefix_is_told() {
        let mut confirms = Confirms::default();
        confirms.complete(4, 2);
        assert_eq!(drain(&mut confirms), []);
        confirms.complete(1, 2);
        assert_eq!(
            drain(&mut confirms),
            [Confirm::Ack {
                tag: 2,
                multiple: true
            }]
        );
        confirms.reject(3);
        assert_eq!(
            drain(&mut confirms),
            [
                Confirm::Nack { tag: 3 },
                Confirm::Ack {
                    tag: 5,
                    multiple: true
                }
            ]
        );
        confirms.complete(6, 1);
        assert_eq!(
            drain(&mut confirms),
            [Confirm::Ack {
                tag: 6,
                multiple: false
            }]
        );
    }

    #[test]
    fn a_number_completed_twice_is_told_once_and_stops_nothing() {
        let mut confirms = Confirms::default();
        confirms.complete(3, 2);
        confirms.complete(3, 1);
        confirms.complete(2, 2);
        confirms.complete(1, 1);
        assert_eq!(
            drain(&mut confirms),
            [Confirm::Ack {
                tag: 4,
                multiple: true
            }]
        );
        confirms.complete(2, 4);
        assert_eq!(
            drain(&mut confirms),
            [Confirm::Ack {
                tag: 5,
                multiple: false
            }]
        );
        assert!(confirms.done.is_empty());
    }

    proptest! {
        /// Runs of 1 to 4 numbers, each refused (single ones only) or not, completed in any order,
        /// told now and then.
        #[test]
        fn every_number_hears_its_verdict_in_order(
            runs in vec((1u64..5, any::<bool>(), any::<bool>(), any::<u32>()), 1..40),
        ) {
            let (mut next, mut order, mut expected) = (1, Vec::new(), Vec::new());
            for (count, refused, tell, rank) in runs {
                let refused = refused && count == 1;
                order.push((rank, next, count, refused, tell));
                expected.extend((next..next + count).map(|tag| (tag, !refused)));
                next += count;
            }
            order.sort_unstable();
            let (mut confirms, mut complete, mut heard) =
                (Confirms::default(), HashSet::new(), Vec::new());
            for (_, first, count, refused, tell) in order {
                if refused {
                    confirms.reject(first);
                } else {
                    confirms.complete(first, count);
                }
                complete.extend(first..first + count);
                if tell {
                    hear(&mut confirms, &mut heard);
                    let ready = (1..).take_while(|tag| complete.contains(tag)).count();
                    prop_assert_eq!(heard.len(), ready);
                }
            }
            hear(&mut confirms, &mut heard);
            prop_assert_eq!(heard, expected);
        }
    }

    /// As a publisher reads it: (number, accepted).
    fn hear(confirms: &mut Confirms, heard: &mut Vec<(u64, bool)>) {
        confirms.drain(|confirm| {
            let last = heard.len() as u64;
            match confirm {
                Confirm::Ack {
                    tag,
                    multiple: true,
                } => heard.extend((last + 1..=tag).map(|tag| (tag, true))),
                Confirm::Ack { tag, .. } => heard.push((tag, true)),
                Confirm::Nack { tag } => heard.push((tag, false)),
            }
        });
    }
}
