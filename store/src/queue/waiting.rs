//! Messages of a queue that wait for their time. Pure.
//!
//! Keeps: by seq and by due time, so that a look at the clock costs nothing while none is due.
//! In: `Log`'s owner.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::{Micros, Seq};

#[derive(Default)]
pub struct Waiting {
    due: BTreeMap<Seq, Micros>,
    order: BTreeSet<(Micros, Seq)>,
    /// Up to here contents were asked for.
    asked_to: (Micros, Seq),
    /// Came later, and stand before.
    overtaken: Vec<Seq>,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.due.len()
    }

    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Seqs above `after`, with when they are due.
    pub fn after(&self, after: Option<Seq>) -> impl Iterator<Item = (Seq, Micros)> {
        let from = after.map_or(0, |seq| seq + 1);
        self.due.range(from..).map(|(&seq, &due)| (seq, due))
    }

    pub fn contains(&self, seq: Seq) -> bool {
        self.due.contains_key(&seq)
    }

    /// When the first of them is due.
    pub fn next_due(&self) -> Option<Micros> {
        self.order.first().map(|&(due, _)| due)
    }

    /// Waits until `due`; one that waits already waits until then instead.
    pub fn insert(&mut self, seq: Seq, due: Micros) {
        self.remove(seq);
        self.due.insert(seq, due);
        self.order.insert((due, seq));
        if (due, seq) <= self.asked_to {
            self.overtaken.push(seq);
        }
    }

    pub fn remove(&mut self, seq: Seq) -> bool {
        let Some(due) = self.due.remove(&seq) else {
            return false;
        };
        self.order.remove(&(due, seq));
        true
    }

    /// Those whose time has come, in order. They wait on until their content is here and they are
    /// removed.
    pub fn due(&self, now: Micros) -> Vec<Seq> {
        let due = self.order.iter().take_while(|(due, _)| *due <= now);
        due.map(|&(_, seq)| seq).collect()
    }

    /// Those whose time comes before `horizon`, each named once, and at most `limit` of them: their
    /// content is to be read, so that it is here when they are due.
    pub fn ahead(&mut self, horizon: Micros, limit: usize) -> Vec<Seq> {
        let mut out = std::mem::take(&mut self.overtaken);
        out.retain(|seq| self.due.contains_key(seq));
        let from = Bound::Excluded(self.asked_to);
        let to = Bound::Included((horizon, Seq::MAX));
        if self.asked_to >= (horizon, Seq::MAX) {
            return out;
        }
        for &(due, seq) in self.order.range((from, to)).take(limit) {
            out.push(seq);
            self.asked_to = (due, seq);
        }
        out
    }

    /// Its content was not there: it is asked for once more.
    pub fn ask_again(&mut self, seq: Seq) {
        self.overtaken.push(seq);
    }

    /// Until when a message waits.
    pub fn due_of(&self, seq: Seq) -> Option<Micros> {
        self.due.get(&seq).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_for_once_in_time() {
        let mut waiting = Waiting::default();
        for (seq, due) in [(1, 50), (2, 10), (3, 30), (4, 30)] {
            waiting.insert(seq, due);
        }
        assert!(waiting.ahead(5, 9).is_empty());
        assert_eq!(waiting.ahead(30, 2), [2, 3]);
        waiting.insert(5, 20);
        waiting.insert(6, 60);
        assert_eq!(
            waiting.ahead(30, 9),
            [5, 4],
            "what comes later may be due before"
        );
        assert!(waiting.ahead(30, 9).is_empty());
        assert_eq!(waiting.due(20), [2, 5]);
        assert_eq!(waiting.next_due(), Some(10));
        assert!(waiting.remove(2));
        assert_eq!(waiting.due(20), [5]);
        waiting.insert(5, 40);
        assert_eq!(waiting.ahead(60, 9), [5, 1, 6], "moved: asked for again");
        assert_eq!(waiting.due_of(5), Some(40));
    }
}
