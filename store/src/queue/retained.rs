//! Settled messages that a queue keeps for a replay: which segments hold them, and which go. Pure.
//!
//! Keeps: segments leave whole, the longest settled first, as soon as their time is over or the
//! others alone fill the size; small ones side by side become one, so that the list stays short.
//! Never: holds a body, or reads a clock: the commit that takes the changes says what time it is.
//! In: `Log` adds what it is done with; `Shard::cut` takes the changes; replays and `peek` look.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::model::{Micros, SegmentId, Seq};
use crate::queue::{CHUNK_BYTES, Piece};
use crate::topology::arguments::Retention;

/// What a message costs beside its body, bytes, about: so that empty ones have a size, too.
pub const MESSAGE_BYTES: u64 = 64;
/// Adjacent segments that become one: so many, each of a size within this, bytes. Two tiers write
/// a message a few times at most and leave few segments.
const TIERS: [(usize, Range<u64>); 2] = [(64, 0..32 << 10), (8, 32 << 10..128 << 10)];
/// Segments become one only when they were settled within this share of the time that they are
/// kept, as all stay as long as the newest.
const SPAN_SHARE: u64 = 8;
/// Segments that leave in one commit, at most: a start after a long stop, or the end of a
/// retention, may find gigabytes that are over, and must not hold up everybody's confirms. The next
/// second goes on.
pub(super) const DROPS_MAX: usize = 256;
/// Segments that must come before another look for adjacent ones.
const LOOK_EVERY: usize = 64;

/// A segment all of whose messages are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: SegmentId,
    pub first: Seq,
    /// Inclusive.
    pub last: Seq,
    pub count: u32,
    /// Body bytes.
    pub bytes: u64,
    /// When its messages were accepted.
    pub first_at: Micros,
    pub last_at: Micros,
    /// When the last of its messages was settled.
    pub settled_at: Micros,
}

impl Entry {
    fn cost(&self) -> u64 {
        self.bytes + u64::from(self.count) * MESSAGE_BYTES
    }
}

/// What a commit must write.
#[derive(Default)]
pub struct Changes {
    pub put: Vec<(SegmentId, Micros)>,
    pub dropped: Vec<SegmentId>,
    /// Waiting rows whose messages are settled: (new segment, seq).
    pub rows: Vec<(SegmentId, Seq)>,
    /// A new segment, the first seq that it may hold, and its messages.
    pub merged: Option<(SegmentId, Seq, Vec<Piece>)>,
}

/// The settled messages of one queue.
#[derive(Default)]
pub struct Retained {
    limits: Retention,
    /// By first seq; they do not overlap.
    entries: BTreeMap<Seq, Entry>,
    ages: BTreeSet<(Micros, Seq)>,
    messages: u64,
    bytes: u64,
    /// First seqs of entries that are settled as of the next commit.
    fresh: BTreeSet<Seq>,
    dropped: Vec<SegmentId>,
    /// Settled messages that are in a waiting row only, and their body bytes.
    rows: Vec<(Seq, u32)>,
    merged: Option<(Vec<SegmentId>, Vec<Piece>)>,
    /// Segments that came since the last look for adjacent ones.
    news: usize,
}

impl Retained {
    pub fn new(limits: Retention) -> Self {
        Self {
            limits,
            news: LOOK_EVERY,
            ..Self::default()
        }
    }

    /// Other limits from the next commit on.
    pub fn limit(&mut self, limits: Retention) {
        self.limits = limits;
    }

    /// What was on disk at the start.
    pub fn restore(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.ages.insert((entry.settled_at, entry.first));
        self.entries.insert(entry.first, entry);
    }

    /// A segment on disk is settled.
    pub fn add(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.fresh.insert(entry.first);
        self.entries.insert(entry.first, entry);
        self.news += 1;
    }

    fn count_in(&mut self, entry: &Entry) {
        self.messages += u64::from(entry.count);
        self.bytes += entry.cost();
    }

    /// A message that was settled before, as far as its segment knows, is settled indeed. False:
    /// it is in none of them.
    pub fn touch(&mut self, seq: Seq) -> bool {
        let found = self.at(seq).map(|entry| (entry.settled_at, entry.first));
        if let Some((_, first)) = found {
            self.fresh.insert(first);
        }
        found.is_some()
    }

    /// A message that never was in a segment is settled.
    pub fn add_row(&mut self, seq: Seq, body: u32) {
        self.rows.push((seq, body));
    }

    /// The message that was added last is not settled after all: it waits again, in its row.
    pub fn stays_in_row(&mut self, seq: Seq) {
        self.rows.pop_if(|(last, _)| *last == seq);
    }

    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bodies, and a little for each message.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn at(&self, seq: Seq) -> Option<&Entry> {
        let (_, entry) = self.entries.range(..=seq).next_back()?;
        (entry.last >= seq).then_some(entry)
    }

    /// The segment that holds this seq, or the next one that holds any.
    pub fn from(&self, seq: Seq) -> Option<Entry> {
        let after = || self.entries.range(seq..).next().map(|(_, entry)| entry);
        self.at(seq).or_else(after).copied()
    }

    /// True when time alone may end what is kept.
    pub fn is_timed(&self) -> bool {
        self.limits.ms.is_some() && !self.entries.is_empty()
    }

    /// True when a segment came that no commit has recorded.
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// True when the next commit has something to write.
    pub fn has_changes(&self, now: Micros) -> bool {
        !self.fresh.is_empty()
            || !self.dropped.is_empty()
            || !self.rows.is_empty()
            || self.merged.is_some()
            || self.oldest_over(now).is_some()
    }

    /// What changed up to `now`. `busy`: a message of the segment is not settled yet, as it waits
    /// for another try. `number` numbers new segments.
    pub fn take_changes(
        &mut self,
        now: Micros,
        busy: impl Fn(&Entry) -> bool,
        mut number: impl FnMut() -> SegmentId,
    ) -> Changes {
        let mut out = Changes::default();
        for (seq, body) in std::mem::take(&mut self.rows) {
            let id = number();
            out.rows.push((id, seq));
            self.add(Entry {
                id,
                first: seq,
                last: seq,
                count: 1,
                bytes: body.into(),
                first_at: now,
                last_at: now,
                settled_at: now,
            });
        }
        if let Some((ids, pieces)) = self.merged.take() {
            self.replace(&ids, pieces, &mut out, &mut number);
        }
        for first in std::mem::take(&mut self.fresh) {
            self.stamp(first, now, &mut out);
        }
        for _ in 0..DROPS_MAX {
            let Some(first) = self.oldest_over(now) else {
                break;
            };
            let entry = self.entries.get(&first).copied();
            let timed = |entry: &Entry| !self.is_oversized(entry) && busy(entry);
            match entry {
                Some(entry) if timed(&entry) => self.stamp(first, now, &mut out),
                _ => {
                    self.remove(first);
                    self.dropped.extend(entry.map(|entry| entry.id));
                }
            }
        }
        out.dropped.append(&mut self.dropped);
        out.put.retain(|(id, _)| !out.dropped.contains(id));
        out
    }

    fn stamp(&mut self, first: Seq, now: Micros, out: &mut Changes) {
        if let Some(entry) = self.entries.get_mut(&first) {
            self.ages.remove(&(entry.settled_at, first));
            entry.settled_at = now;
            self.ages.insert((now, first));
            out.put.push((entry.id, now));
        }
    }

    /// The first seq of the longest settled segment, if it is to go.
    fn oldest_over(&self, now: Micros) -> Option<Seq> {
        let &(at, first) = self.ages.first()?;
        let span = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000);
        let is_old = self
            .limits
            .ms
            .is_some_and(|ms| at.saturating_add(span(ms)) <= now);
        let entry = self.entries.get(&first)?;
        (is_old || self.is_oversized(entry)).then_some(first)
    }

    /// True when what is left without it fills the size alone.
    fn is_oversized(&self, entry: &Entry) -> bool {
        let left = self.bytes.saturating_sub(entry.cost());
        self.limits.bytes.is_some_and(|most| left >= most)
    }

    fn remove(&mut self, first: Seq) -> Option<Entry> {
        let entry = self.entries.remove(&first)?;
        self.ages.remove(&(entry.settled_at, first));
        self.fresh.remove(&first);
        self.messages = self.messages.saturating_sub(u64::from(entry.count));
        self.bytes = self.bytes.saturating_sub(entry.cost());
        Some(entry)
    }

    /// Everything goes: the queue keeps nothing any more.
    pub fn into_segments(self) -> impl Iterator<Item = SegmentId> {
        let entries = self.entries.into_values().map(|entry| entry.id);
        entries.chain(self.dropped)
    }

    /// Small segments side by side, if so many came that a look is worth it: (id, first, time).
    pub fn to_merge(&mut self) -> Option<Vec<(SegmentId, Seq, Micros)>> {
        if self.news < LOOK_EVERY || self.merged.is_some() {
            return None;
        }
        for (count, sizes) in TIERS {
            if let Some(run) = self.run(count, &sizes) {
                return Some(run);
            }
        }
        self.news = 0;
        None
    }

    fn run(&self, count: usize, sizes: &Range<u64>) -> Option<Vec<(SegmentId, Seq, Micros)>> {
        let span = self.limits.ms.map_or(u64::MAX, |ms| ms / SPAN_SHARE * 1000);
        let mut run: Vec<&Entry> = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.values() {
            let fits = |run: &[&Entry]| {
                let (Some(first), Some(last)) = (run.first(), run.last()) else {
                    return true;
                };
                entry.first == last.last + 1
                    && entry.settled_at.abs_diff(first.settled_at) <= span
                    && bytes + entry.cost() <= CHUNK_BYTES
            };
            let joins = sizes.contains(&entry.cost()) && !self.fresh.contains(&entry.first);
            if !joins || !fits(&run) {
                run.clear();
                bytes = 0;
            }
            if joins {
                bytes += entry.cost();
                run.push(entry);
            }
            if run.len() == count {
                return Some(run.iter().map(|e| (e.id, e.first, e.first_at)).collect());
            }
        }
        None
    }

    /// Messages of segments that were read to become one; `None` when they cannot.
    pub fn merge(&mut self, ids: Vec<SegmentId>, pieces: Option<Vec<Piece>>) {
        match pieces {
            Some(pieces) => self.merged = Some((ids, pieces)),
            // Not asked for again before others came.
            None => self.news = 0,
        }
    }

    fn replace(
        &mut self,
        ids: &[SegmentId],
        pieces: Vec<Piece>,
        out: &mut Changes,
        number: &mut impl FnMut() -> SegmentId,
    ) {
        let old: Vec<Entry> = self
            .entries
            .values()
            .filter(|entry| ids.contains(&entry.id))
            .copied()
            .collect();
        let count: u64 = old.iter().map(|entry| u64::from(entry.count)).sum();
        let read: u64 = pieces.iter().map(|piece| u64::from(piece.count)).sum();
        let (Some(first), Some(last)) = (old.first(), old.last()) else {
            return;
        };
        if old.len() != ids.len() || count != read {
            self.news = 0;
            return;
        }
        let entry = Entry {
            id: number(),
            first: first.first,
            last: last.last,
            count: read as u32,
            bytes: old.iter().map(|entry| entry.bytes).sum(),
            first_at: old.iter().map(|e| e.first_at).min().unwrap_or_default(),
            last_at: old.iter().map(|e| e.last_at).max().unwrap_or_default(),
            settled_at: old.iter().map(|e| e.settled_at).max().unwrap_or_default(),
        };
        let is_fresh = old.iter().any(|entry| self.fresh.contains(&entry.first));
        for entry in &old {
            self.remove(entry.first);
            self.dropped.push(entry.id);
        }
        self.restore(entry);
        if is_fresh {
            self.fresh.insert(entry.first);
        }
        out.put.push((entry.id, entry.settled_at));
        out.merged = Some((entry.id, entry.first, pieces));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, first: Seq, count: u32) -> Entry {
        Entry {
            id: SegmentId(id),
            first,
            last: first + u64::from(count) - 1,
            count,
            bytes: u64::from(count) * 36,
            first_at: 0,
            last_at: 0,
            settled_at: Micros::MAX,
        }
    }

    fn kept(ms: Option<u64>, bytes: Option<u64>) -> Retained {
        Retained::new(Retention { ms, bytes })
    }

    fn changes(retained: &mut Retained, now: Micros, busy: bool) -> Changes {
        retained.take_changes(now, |_| busy, || SegmentId(99))
    }

    #[test]
    fn segments_go_when_their_time_is_over() {
        let mut retained = kept(Some(2), None);
        retained.add(entry(1, 10, 5));
        let made = changes(&mut retained, 100, false);
        assert_eq!(made.put, [(SegmentId(1), 100)]);
        retained.add(entry(2, 0, 10));
        assert!(changes(&mut retained, 2099, false).dropped.is_empty());
        assert!(!retained.has_changes(2099) && retained.has_changes(2100));
        assert_eq!(changes(&mut retained, 2100, false).dropped, [SegmentId(1)]);
        assert_eq!((retained.messages(), retained.bytes()), (10, 1000));
        // One with a message that waits for another try is not settled yet.
        let made = changes(&mut retained, 9000, true);
        assert_eq!(
            (made.put, made.dropped),
            (vec![(SegmentId(2), 9000)], vec![])
        );
        assert_eq!(
            changes(&mut retained, 11_000, false).dropped,
            [SegmentId(2)]
        );
        assert_eq!((retained.messages(), retained.bytes()), (0, 0));
    }

    #[test]
    fn no_commit_drops_more_than_it_can_bear() {
        let mut retained = kept(Some(2), None);
        let all = 2 * DROPS_MAX as u64 + 3;
        for id in 0..all {
            retained.restore(Entry {
                settled_at: 0,
                ..entry(id, id, 1)
            });
        }
        for count in [DROPS_MAX, DROPS_MAX, 3] {
            assert!(retained.has_changes(9000));
            assert_eq!(changes(&mut retained, 9000, false).dropped.len(), count);
        }
        assert!(!retained.has_changes(9000));
    }

    #[test]
    fn the_oldest_go_when_the_others_fill_the_size() {
        let mut retained = kept(None, Some(1000));
        retained.add(entry(1, 10, 10));
        changes(&mut retained, 1, false);
        retained.add(entry(2, 0, 9));
        assert!(changes(&mut retained, 2, false).dropped.is_empty());
        retained.add(entry(3, 20, 1));
        assert_eq!(changes(&mut retained, 3, true).dropped, [SegmentId(1)]);
        assert_eq!(retained.bytes(), 1000);
        // One that is larger than the size alone stays until another fills it.
        retained.add(entry(4, 30, 100));
        let gone = changes(&mut retained, 4, false).dropped;
        assert_eq!(gone, [SegmentId(2), SegmentId(3)]);
        retained.limit(Retention {
            ms: Some(1),
            bytes: None,
        });
        assert_eq!(changes(&mut retained, 2000, false).dropped, [SegmentId(4)]);
    }

    #[test]
    fn a_seq_finds_its_segment_or_the_next() {
        let mut retained = kept(Some(1000), None);
        retained.add(entry(1, 10, 5));
        retained.add(entry(2, 20, 5));
        let id = |seq| retained.from(seq).map(|entry| entry.id.0);
        let found = [0, 10, 14, 15, 20, 24, 25].map(id);
        assert_eq!(
            found,
            [Some(1), Some(1), Some(1), Some(2), Some(2), Some(2), None]
        );
        changes(&mut retained, 5, false);
        assert!(retained.touch(14) && !retained.touch(15));
        assert_eq!(changes(&mut retained, 7, false).put, [(SegmentId(1), 7)]);
    }

    #[test]
    fn a_message_of_a_row_gets_a_segment() {
        let mut retained = kept(Some(1000), None);
        retained.add_row(7, 36);
        let made = changes(&mut retained, 5, false);
        assert_eq!(made.rows, [(SegmentId(99), 7)]);
        assert_eq!(made.put, [(SegmentId(99), 5)]);
        assert_eq!((retained.messages(), retained.bytes()), (1, 100));
    }

    #[test]
    fn small_ones_side_by_side_become_one() {
        let mut retained = kept(Some(8_000), None);
        for at in 0..70 {
            // A gap after the third.
            let first = if at < 3 { at } else { at + 1 };
            retained.add(entry(at, first, 1));
            changes(&mut retained, 5, false);
        }
        let run = retained.to_merge().expect("they are many");
        let ids: Vec<SegmentId> = run.iter().map(|(id, ..)| *id).collect();
        let expected: Vec<SegmentId> = (3..67).map(SegmentId).collect();
        assert_eq!(ids, expected);
        // What was read is not what it should be: all stay as they are.
        retained.merge(ids, Some(Vec::new()));
        let made = changes(&mut retained, 6, false);
        assert!(made.merged.is_none() && made.dropped.is_empty());
        assert_eq!(retained.messages(), 70);
        // They must have been settled at about the same time.
        let mut slow = kept(Some(8_000), None);
        for at in 0..70 {
            slow.add(entry(at, at, 1));
            changes(&mut slow, at as i64 * 20_000, false);
        }
        assert!(slow.to_merge().is_none());
    }
}
