//! A channel's confirms: completed ranges joined into few frames. Pure.
//!
//! Keeps: `multiple` is used only for a prefix of which every number is complete.

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
        } else {
            self.done.insert(first, (count, false));
        }
    }

    /// One number was refused.
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
                Some((first, count, false)) if first == self.acked => {
                    self.done.remove(&first);
                    self.acked += count;
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
}
