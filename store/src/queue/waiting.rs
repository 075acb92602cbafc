//! Messages of a queue that wait for their time. Pure.
//!
//! Keeps: by seq and by due time, so that a look at the clock costs nothing while none is due.
//! In: `Log`'s owner.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Micros, Seq};

#[derive(Default)]
pub struct Waiting {
    due: BTreeMap<Seq, Micros>,
    order: BTreeSet<(Micros, Seq)>,
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
    }

    pub fn remove(&mut self, seq: Seq) -> bool {
        let Some(due) = self.due.remove(&seq) else {
            return false;
        };
        self.order.remove(&(due, seq));
        true
    }

    /// Those that have waited long enough, in seq order. They wait on until their content is
    /// here and they are removed, but are not due again.
    pub fn take_due(&mut self, now: Micros) -> Vec<Seq> {
        let mut out = Vec::new();
        while let Some(&(due, seq)) = self.order.first().filter(|(due, _)| *due <= now) {
            self.order.remove(&(due, seq));
            self.due.insert(seq, Micros::MAX);
            out.push(seq);
        }
        out.iter().for_each(|&seq| {
            self.order.insert((Micros::MAX, seq));
        });
        out.sort_unstable();
        out
    }
}
