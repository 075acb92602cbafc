//! Counts what became of numbered messages: lost, doubled, reordered, damaged. Pure.
//!
//! Keeps: one `Seen` per stream (queue) and producer, in memory that grows with disorder only; per
//! consumer the last number of each producer.
//! Never: knows sockets or time.
//! In: `consumer` calls `note` for each delivery; `run` asks `tally`.

use std::collections::VecDeque;

use serde::Serialize;

/// Numbers further ahead than this are taken for damage, which bounds the bitmap at 32 MiB.
const SPAN_MAX: u64 = 1 << 28;

/// Which numbers of one producer arrived in one stream.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// All numbers below are seen; a multiple of 64.
    base: u64,
    /// Bitmap from `base` on.
    words: VecDeque<u64>,
    unique: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    New,
    Again,
    /// Not a number that a producer of this run could have sent.
    Damaged,
}

impl Seen {
    #[inline]
    pub(crate) fn insert(&mut self, seq: u64) -> Arrival {
        if seq < self.base {
            return Arrival::Again;
        }
        let distance = seq - self.base;
        if distance >= SPAN_MAX {
            return Arrival::Damaged;
        }
        let (word, bit) = ((distance / 64) as usize, 1u64 << (distance % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit != 0 {
            return Arrival::Again;
        }
        self.words[word] |= bit;
        self.unique += 1;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.base += 64;
        }
        Arrival::New
    }

    #[cfg(test)]
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }
}

/// The sums of a run. `lost` is filled in by whoever knows how much was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) unique: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Arrived at a consumer after a later number of the same producer, not marked redelivered.
    pub(crate) reordered: u64,
    pub(crate) redelivered: u64,
    /// Wrong size, unknown producer or impossible number.
    pub(crate) damaged: u64,
}

impl Tally {
    /// Fills in `lost` from what the producers say they sent to all streams together.
    pub(crate) fn settle(mut self, expected: u64) -> Self {
        self.lost = expected.saturating_sub(self.unique);
        self
    }

    /// True when each message arrived exactly once, whole and in order.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.reordered == 0 && self.damaged == 0
    }
}

/// Checks all deliveries of a run.
#[derive(Debug)]
pub(crate) struct Checker {
    producers: usize,
    /// `streams × producers`.
    seen: Vec<Seen>,
    /// `consumers × producers`: the next number that would be in order.
    next: Vec<u64>,
    tally: Tally,
}

impl Checker {
    pub(crate) fn new(streams: usize, consumers: usize, producers: usize) -> Self {
        let mut seen = Vec::new();
        seen.resize_with(streams * producers, Seen::default);
        Self {
            producers,
            seen,
            next: vec![0; consumers * producers],
            tally: Tally::default(),
        }
    }

    #[inline]
    pub(crate) fn note(&mut self, at: Place, producer: u8, seq: u64) {
        let producer = usize::from(producer);
        if producer >= self.producers {
            self.tally.damaged += 1;
            return;
        }
        match self.seen[at.stream * self.producers + producer].insert(seq) {
            Arrival::New => self.tally.unique += 1,
            Arrival::Again => self.tally.doubled += 1,
            Arrival::Damaged => {
                self.tally.damaged += 1;
                return;
            }
        }
        self.tally.redelivered += u64::from(at.redelivered);
        let next = &mut self.next[at.consumer * self.producers + producer];
        if seq >= *next {
            *next = seq + 1;
        } else if !at.redelivered {
            self.tally.reordered += 1;
        }
    }

    pub(crate) fn note_damaged(&mut self) {
        self.tally.damaged += 1;
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }
}

/// Where a delivery arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) stream: usize,
    pub(crate) consumer: usize,
    pub(crate) redelivered: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HERE: Place = Place {
        stream: 0,
        consumer: 0,
        redelivered: false,
    };

    fn played(numbers: &[u64]) -> Tally {
        let mut checker = Checker::new(1, 1, 1);
        for &seq in numbers {
            checker.note(HERE, 0, seq);
        }
        checker.tally()
    }

    #[test]
    fn in_order_is_clean_and_takes_one_word() {
        let mut seen = Seen::default();
        for seq in 0..10_000 {
            assert_eq!(seen.insert(seq), Arrival::New);
            assert!(seen.words.len() <= 1);
        }
        assert_eq!(seen.unique(), 10_000);
        assert!(played(&[0, 1, 2, 3]).settle(4).is_clean());
    }

    #[test]
    fn a_gap_is_lost() {
        let tally = played(&[0, 1, 3]).settle(4);
        assert_eq!((tally.lost, tally.doubled, tally.reordered), (1, 0, 0));
        assert!(!tally.is_clean());
    }

    #[test]
    fn the_missing_tail_is_lost() {
        assert_eq!(played(&[0, 1]).settle(5).lost, 3);
    }

    #[test]
    fn a_second_copy_is_doubled_also_below_the_base() {
        let mut numbers: Vec<u64> = (0..200).collect();
        numbers.extend([3, 199]);
        let tally = played(&numbers).settle(200);
        assert_eq!((tally.lost, tally.doubled), (0, 2));
        assert!(!tally.is_clean());
    }

    #[test]
    fn a_swap_is_one_reordered() {
        let tally = played(&[0, 2, 1, 3]).settle(4);
        assert_eq!((tally.lost, tally.doubled, tally.reordered), (0, 0, 1));
        assert!(!tally.is_clean());
    }

    #[test]
    fn redelivered_may_come_late() {
        let mut checker = Checker::new(1, 1, 1);
        checker.note(HERE, 0, 1);
        checker.note(
            Place {
                redelivered: true,
                ..HERE
            },
            0,
            0,
        );
        let tally = checker.tally();
        assert_eq!((tally.reordered, tally.redelivered), (0, 1));
    }

    #[test]
    fn consumers_of_one_queue_share_what_was_seen_but_not_the_order() {
        let mut checker = Checker::new(1, 2, 1);
        checker.note(HERE, 0, 1);
        checker.note(
            Place {
                consumer: 1,
                ..HERE
            },
            0,
            0,
        );
        assert!(checker.tally().settle(2).is_clean());
        checker.note(
            Place {
                consumer: 1,
                ..HERE
            },
            0,
            1,
        );
        assert_eq!(checker.tally().doubled, 1);
    }

    #[test]
    fn streams_and_producers_are_kept_apart() {
        let mut checker = Checker::new(2, 2, 2);
        for (stream, producer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            checker.note(
                Place {
                    stream,
                    consumer: stream,
                    redelivered: false,
                },
                producer,
                0,
            );
        }
        assert!(checker.tally().settle(4).is_clean());
    }

    #[test]
    fn wild_numbers_are_damage_and_cost_no_memory() {
        let mut checker = Checker::new(1, 1, 1);
        checker.note(HERE, 0, u64::MAX);
        checker.note(HERE, 9, 0);
        assert_eq!(checker.tally().damaged, 2);
        assert!(checker.seen[0].words.is_empty());
    }
}
