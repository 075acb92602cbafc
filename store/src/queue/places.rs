//! Where each message of a log stands, counted from all its lists, for tests of the whole.
//!
//! Keeps: an answer found apart from `ready`, `unacked` and the other sums, so that it can
//! contradict them.
//! In: `shard::history`.

use std::collections::HashSet;

use super::*;

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    Ready,
    Waiting,
    Unacked,
}

impl Log {
    /// Every message that is not settled. `held` says which seqs a row on disk holds, asked only
    /// for rows of which some messages were left out and that are not in memory.
    ///
    /// # Errors
    /// A message is in two places, or is settled and in one.
    pub(crate) fn stands(
        &self,
        held: impl Fn(SegmentId) -> HashSet<Seq>,
    ) -> Result<BTreeMap<Seq, Stand>, String> {
        let mut there: HashSet<Seq> = self.stragglers.iter().copied().collect();
        for chunk in &self.chunks {
            let mut seqs: Vec<Seq> = (chunk.first..=chunk.last)
                .filter(|&seq| !chunk.is_settled(seq))
                .collect();
            if let Some(row) = chunk.segment().filter(|_| !chunk.is_resident())
                && seqs.len() != chunk.live as usize
            {
                let held = held(row);
                seqs.retain(|seq| held.contains(seq));
            }
            if seqs.len() != chunk.live as usize {
                let (first, last, live) = (chunk.first, chunk.last, chunk.live);
                return Err(format!("{live} live in {first}..={last}, but {seqs:?}"));
            }
            for seq in seqs {
                if !there.insert(seq) {
                    return Err(format!("{seq} is in its chunk and in a row of its own"));
                }
            }
        }
        let listed = |seq: &Seq| self.parked.contains(*seq) || self.is_waiting(*seq);
        there.extend(self.waiting.after(None).map(|(seq, _)| seq));
        if let Some(seq) = self.parked.seqs().find(|seq| !self.is_waiting(*seq)) {
            return Err(format!("{seq} is parked and does not wait"));
        }
        let aside: Vec<Seq> = self.aside.keys().map(|&(_, seq)| seq).collect();
        let lanes: Vec<Seq> = self.lanes.iter().flat_map(|l| l.held_seqs()).collect();
        let gone = |seq: &&Seq| !there.contains(seq);
        if let Some(seq) = aside.iter().chain(&lanes).find(gone) {
            return Err(format!("{seq} is settled and ready"));
        }
        let mut out = BTreeMap::new();
        for seq in there {
            let beside = aside.iter().filter(|known| **known == seq).count();
            let behind = lanes.iter().filter(|known| **known == seq).count();
            let ahead = beside + behind == 0
                && self.levels == 0
                && seq >= self.cursor
                && !self.stragglers.contains(&seq)
                && !listed(&seq);
            let ready = beside + behind + usize::from(ahead);
            let stand = match (ready, listed(&seq)) {
                (0, true) => Stand::Waiting,
                (1, false) => Stand::Ready,
                (0, false) => Stand::Unacked,
                _ => return Err(format!("{seq} is in several places")),
            };
            out.insert(seq, stand);
        }
        let count = |stand| out.values().filter(|known| **known == stand).count() as u64;
        let (ready, unacked) = (count(Stand::Ready), count(Stand::Unacked));
        if (ready, unacked) != (self.ready, self.unacked) {
            let sums = (self.ready, self.unacked);
            return Err(format!(
                "ready and unacked are {ready}, {unacked}, not {sums:?}"
            ));
        }
        let counted = |seq: &&Seq| !out.contains_key(seq);
        match self.attempts.keys().chain(self.since.keys()).find(counted) {
            Some(seq) => Err(format!("attempts or an age of {seq}, which is settled")),
            None => Ok(out),
        }
    }

    /// The content of a ready or unacked message, when it is in memory.
    pub(crate) fn content_of(&self, seq: Seq) -> Option<Piece> {
        let standing = (0..=self.levels).map(|level| (level, seq));
        let mut aside = standing.filter_map(|standing| self.aside.get(&standing));
        let own = aside.find_map(|aside| aside.own.as_deref().cloned());
        own.or_else(|| self.content_held(seq))
            .or_else(|| self.content(seq))
    }

    /// No message is out, held or in backoff.
    pub(crate) fn lanes_are_idle(&self) -> bool {
        self.lanes.as_ref().is_none_or(|lanes| lanes.is_idle())
    }
}
