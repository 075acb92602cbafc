//! Ready messages looked at where they stand, and single ones taken out of the middle.
//!
//! Keeps: looking changes nothing; what is withdrawn was never handed out.
//! In: `shard::sweep`, for operators.

use super::*;

/// What stands at or after a place.
pub enum Browse {
    /// Ready messages, one after the other.
    Found(Piece),
    /// The next one's body is on disk.
    Load(SegmentId),
    End,
}

impl Log {
    /// The first ready messages at or after `from`, in seq order, at most `max`.
    pub fn browse(&mut self, from: Seq, max: u32) -> Browse {
        let aside = self.first_aside(from);
        let held = self
            .lanes
            .as_ref()
            .and_then(|lanes| lanes.first_held_from(from));
        let limit = [aside.map(|(_, seq)| seq), held]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Seq::MAX);
        match self.browse_log(from.max(self.cursor), limit, max) {
            Browse::End => {}
            found => return found,
        }
        if limit == Seq::MAX {
            return Browse::End;
        }
        let own = match aside.filter(|(_, seq)| *seq == limit) {
            Some(standing) => self.aside.get(&standing).and_then(|a| a.own.as_deref()),
            None => {
                let lanes = self.lanes.as_ref();
                lanes.and_then(|lanes| lanes.aside(limit)?.own.as_deref())
            }
        };
        if let Some(own) = own {
            return Browse::Found(own.clone());
        }
        let chunk = self.chunk_of(limit).map(|at| &self.chunks[at]);
        match chunk.map(|chunk| (chunk.find(limit), chunk.segment())) {
            Some((Some((piece, offset)), _)) => Browse::Found(piece.slice(offset, 1)),
            Some((None, Some(segment))) => Browse::Load(segment),
            // Set aside as damaged: what comes after it is looked at.
            _ => self.browse(limit + 1, max),
        }
    }

    fn browse_log(&self, from: Seq, limit: Seq, max: u32) -> Browse {
        if self.levels > 0 {
            return Browse::End;
        }
        let at = self.chunks.partition_point(|chunk| chunk.last < from);
        for chunk in self.chunks.range(at..) {
            if chunk.first >= limit {
                break;
            }
            if chunk.is_done() {
                continue;
            }
            if !chunk.is_resident() {
                return chunk.segment().map_or(Browse::End, Browse::Load);
            }
            if let Some(piece) = chunk.ready_from(from, max) {
                if piece.first >= limit {
                    break;
                }
                let below = u64::from(piece.count).min(limit - piece.first);
                return Browse::Found(piece.slice(0, below as u32));
            }
        }
        Browse::End
    }

    fn first_aside(&self, from: Seq) -> Option<Standing> {
        let first = |level| {
            let range = self.aside.range((level, from)..=(level, Seq::MAX));
            range.map(|(&standing, _)| standing).next()
        };
        (0..=self.levels)
            .filter_map(first)
            .min_by_key(|&(_, seq)| seq)
    }

    /// Takes one ready message out of the middle, for its end: the caller settles it at once.
    /// `None`: it is not ready any more, or its body is on disk.
    pub fn withdraw(&mut self, seq: Seq) -> Option<Piece> {
        let found = match self.browse(seq, 1) {
            Browse::Found(piece) if piece.first == seq => piece,
            _ => return None,
        };
        Some(self.take_out(found))
    }
}
