//! Messages of a queue that wait for their time. Pure.
//!
//! Keeps: by seq and by due time, so that a look at the clock costs nothing while none is due, in
//! some fifty bytes a message: a million may wait.
//! In: `Log`'s owner.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::Piece;
use crate::model::{Micros, Seq};

/// Seqs side by side whose due times stand in one stretch: bits of a word.
const GROUP: u64 = 64;

#[derive(Default)]
pub struct Waiting {
    due: Dues,
    order: BTreeSet<(Micros, Seq)>,
    /// Up to here contents were asked for.
    asked_to: (Micros, Seq),
    /// Came later, and stand before.
    overtaken: Vec<Seq>,
    /// Those that others wait for.
    urgent: BTreeSet<(Micros, Seq)>,
    /// Those that are due by then were told: they wait for their content only.
    told_to: Micros,
    /// Their contents are in rows.
    pub in_rows: bool,
}

impl Waiting {
    /// Many at once, none of which waits already.
    pub fn restore(&mut self, found: &[(Seq, Micros)]) {
        self.in_rows = true;
        let mut order: Vec<(Micros, Seq)> = found.iter().map(|&(seq, due)| (due, seq)).collect();
        order.sort_unstable();
        self.order = order.into_iter().collect();
        for &(seq, due) in found {
            self.due.insert(seq, due);
        }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Seqs above `after`, with when they are due.
    pub fn after(&self, after: Option<Seq>) -> impl Iterator<Item = (Seq, Micros)> {
        self.due.from(after.map_or(0, |seq| seq + 1))
    }

    /// True when one of these seqs waits, the last one included.
    pub fn any_within(&self, first: Seq, last: Seq) -> bool {
        self.due
            .from(first)
            .next()
            .is_some_and(|(seq, _)| seq <= last)
    }

    pub fn contains(&self, seq: Seq) -> bool {
        self.due.get(seq).is_some()
    }

    /// When the first is due that `come_due` has not told.
    pub fn next_due(&self) -> Option<Micros> {
        let later = (Bound::Excluded((self.told_to, Seq::MAX)), Bound::Unbounded);
        self.order.range(later).next().map(|&(due, _)| due)
    }

    /// Waits until `due`; one that waits already waits until then instead.
    pub fn insert(&mut self, seq: Seq, due: Micros) {
        self.remove(seq);
        self.due.insert(seq, due);
        self.order.insert((due, seq));
        if (due, seq) <= self.asked_to {
            self.overtaken.push(seq);
        }
        // The clock may have been set back.
        self.told_to = self.told_to.min(due.saturating_sub(1));
    }

    pub fn remove(&mut self, seq: Seq) -> bool {
        let Some(due) = self.due.remove(seq) else {
            return false;
        };
        self.order.remove(&(due, seq));
        self.urgent.remove(&(due, seq));
        true
    }

    /// Others wait for this one, so its content comes even when no more is read for want of takers.
    pub fn hurry(&mut self, seq: Seq) {
        if let Some(due) = self.due.get(seq) {
            self.urgent.insert((due, seq));
        }
    }

    /// True for one that `hurry` named.
    pub fn is_urgent(&self, seq: Seq) -> bool {
        let due = self.due.get(seq);
        due.is_some_and(|due| self.urgent.contains(&(due, seq)))
    }

    /// Those that others wait for and whose time comes before `horizon`, at most `limit`. Unlike
    /// `ahead`, a second call names them again.
    pub fn urgent(&self, horizon: Micros, limit: usize) -> Vec<Seq> {
        let due = self.urgent.range(..=(horizon, Seq::MAX));
        due.take(limit).map(|&(_, seq)| seq).collect()
    }

    /// Those whose time has come since the last call, in order: however many are due and have no
    /// taker, a look costs what is new. They wait on until their content is here and they are
    /// removed.
    pub fn come_due(&mut self, now: Micros) -> Vec<Seq> {
        if now <= self.told_to {
            return Vec::new();
        }
        let from = Bound::Excluded((self.told_to, Seq::MAX));
        let due = self.order.range((from, Bound::Included((now, Seq::MAX))));
        self.told_to = now;
        due.map(|&(_, seq)| seq).collect()
    }

    /// `come_due` has told this instant: whoever has the content now must wake the message. Until
    /// then it waits its turn, so that those whose content came early are not overtaken.
    pub fn is_told(&self, due: Micros) -> bool {
        due <= self.told_to
    }

    /// All whose time has come, in order.
    #[cfg(test)]
    pub fn due(&self, now: Micros) -> Vec<Seq> {
        let due = self.order.iter().take_while(|(due, _)| *due <= now);
        due.map(|&(_, seq)| seq).collect()
    }

    /// Those whose time comes before `horizon`, each named once, and at most `limit` of them: their
    /// content is to be read, so that it is here when they are due.
    pub fn ahead(&mut self, horizon: Micros, limit: usize) -> Vec<Seq> {
        self.overtaken.retain(|seq| self.due.get(*seq).is_some());
        let again = self.overtaken.len().min(limit);
        let mut out: Vec<Seq> = self.overtaken.drain(..again).collect();
        let from = Bound::Excluded(self.asked_to);
        let to = Bound::Included((horizon, Seq::MAX));
        if self.asked_to >= (horizon, Seq::MAX) {
            return out;
        }
        for &(due, seq) in self.order.range((from, to)).take(limit - again) {
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
        self.due.get(seq)
    }
}

/// Due times by seq. Those of a burst stand side by side, where they take little more than
/// themselves.
#[derive(Default)]
struct Dues(BTreeMap<u64, Group>);

/// Due times of the seqs whose bits are set, in order.
#[derive(Default)]
struct Group {
    bits: u64,
    times: Vec<Micros>,
}

impl Group {
    fn place(&self, bit: u64) -> usize {
        (self.bits & ((1 << bit) - 1)).count_ones() as usize
    }

    fn has(&self, bit: u64) -> bool {
        self.bits >> bit & 1 == 1
    }
}

impl Dues {
    fn get(&self, seq: Seq) -> Option<Micros> {
        let group = self.0.get(&(seq / GROUP))?;
        let bit = seq % GROUP;
        group.has(bit).then(|| group.times[group.place(bit)])
    }

    /// It must not be there.
    fn insert(&mut self, seq: Seq, due: Micros) {
        let group = self.0.entry(seq / GROUP).or_default();
        let bit = seq % GROUP;
        let place = group.place(bit);
        if group.times.len() == group.times.capacity() {
            // Half more instead of twice as much.
            group.times.reserve_exact(group.times.len() / 2 + 1);
        }
        group.times.insert(place, due);
        group.bits |= 1 << bit;
    }

    fn remove(&mut self, seq: Seq) -> Option<Micros> {
        let group = self.0.get_mut(&(seq / GROUP))?;
        let bit = seq % GROUP;
        if !group.has(bit) {
            return None;
        }
        let due = group.times.remove(group.place(bit));
        group.bits &= !(1 << bit);
        if group.bits == 0 {
            self.0.remove(&(seq / GROUP));
        }
        Some(due)
    }

    fn from(&self, from: Seq) -> impl Iterator<Item = (Seq, Micros)> {
        let groups = self.0.range(from / GROUP..);
        let all = groups.flat_map(|(&number, group)| {
            let seqs = (0..GROUP).filter(|bit| group.has(*bit));
            let seqs = seqs.map(move |bit| number * GROUP + bit);
            seqs.zip(group.times.iter().copied())
        });
        all.skip_while(move |(seq, _)| *seq < from)
    }
}

/// Contents of waiting messages, and how large they are together.
#[derive(Default)]
pub struct Parked {
    pieces: BTreeMap<Seq, Piece>,
    bytes: u64,
}

impl Parked {
    pub fn insert(&mut self, seq: Seq, piece: Piece) {
        self.bytes += piece.memory_bytes();
        if let Some(old) = self.pieces.insert(seq, piece) {
            self.bytes -= old.memory_bytes();
        }
    }

    pub fn remove(&mut self, seq: Seq) -> Option<Piece> {
        let piece = self.pieces.remove(&seq)?;
        self.bytes -= piece.memory_bytes();
        Some(piece)
    }

    pub fn get(&self, seq: Seq) -> Option<&Piece> {
        self.pieces.get(&seq)
    }

    pub fn contains(&self, seq: Seq) -> bool {
        self.pieces.contains_key(&seq)
    }

    #[cfg(test)]
    pub fn seqs(&self) -> impl Iterator<Item = Seq> {
        self.pieces.keys().copied()
    }

    /// What they cost in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn each_is_told_once_when_it_is_due() {
        let mut waiting = Waiting::default();
        for (seq, due) in [(1, 50), (2, 10), (3, 30)] {
            waiting.insert(seq, due);
        }
        assert_eq!(waiting.next_due(), Some(10));
        assert_eq!(waiting.come_due(30), [2, 3]);
        assert_eq!(
            waiting.next_due(),
            Some(50),
            "those wait for their content only"
        );
        assert!(waiting.come_due(40).is_empty());
        assert!(waiting.is_told(40) && !waiting.is_told(41));
        waiting.insert(4, 20);
        assert_eq!(waiting.come_due(50), [4, 3, 1], "the clock was set back");
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn what_others_wait_for_is_named_until_it_waits_no_more() {
        let mut waiting = Waiting::default();
        for (seq, due) in [(1, 50), (2, 10), (3, 30)] {
            waiting.insert(seq, due);
        }
        waiting.hurry(1);
        waiting.hurry(3);
        waiting.hurry(9);
        assert_eq!(waiting.urgent(40, 9), [3]);
        assert_eq!(
            waiting.urgent(50, 1),
            [3],
            "again, and no more than asked for"
        );
        waiting.insert(1, 20);
        assert!(!waiting.is_urgent(1), "it waits anew, for another reason");
        waiting.remove(3);
        assert!(waiting.urgent(99, 9).is_empty());
    }

    #[test]
    fn what_is_asked_for_again_keeps_to_the_limit() {
        let mut waiting = Waiting::default();
        (0..10).for_each(|seq| waiting.insert(seq, 1));
        assert_eq!(waiting.ahead(1, 10).len(), 10);
        (0..10).for_each(|seq| waiting.ask_again(seq));
        assert_eq!(waiting.ahead(1, 4), [0, 1, 2, 3]);
        assert_eq!(waiting.ahead(1, 9), [4, 5, 6, 7, 8, 9]);
    }

    proptest! {
        #[test]
        fn seqs_and_their_times_are_as_in_a_map(
            ops in prop::collection::vec((any::<bool>(), 0..300u64, 0..50i64), 1..200),
            after in 0..300u64,
        ) {
            let mut waiting = Waiting::default();
            let mut model = BTreeMap::new();
            for (insert, seq, due) in ops {
                if insert {
                    waiting.insert(seq, due);
                    model.insert(seq, due);
                } else {
                    prop_assert_eq!(waiting.remove(seq), model.remove(&seq).is_some());
                }
            }
            let all: Vec<_> = model.iter().map(|(&seq, &due)| (seq, due)).collect();
            prop_assert_eq!(waiting.after(None).collect::<Vec<_>>(), all.as_slice());
            let later: Vec<_> = all.iter().copied().filter(|(seq, _)| *seq > after).collect();
            prop_assert_eq!(waiting.after(Some(after)).collect::<Vec<_>>(), later);
            prop_assert_eq!(waiting.len(), model.len());
            let within = model.range(after..=after + 9).next().is_some();
            prop_assert_eq!(waiting.any_within(after, after + 9), within);
            prop_assert_eq!(waiting.next_due(), model.values().min().copied());
            let mut restored = Waiting::default();
            restored.restore(&all);
            prop_assert_eq!(restored.due(Micros::MAX), waiting.due(Micros::MAX));
            prop_assert_eq!(restored.after(None).collect::<Vec<_>>(), all);
        }
    }
}
