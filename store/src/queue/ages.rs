//! How old a queue's messages are: the oldest ready one, and the head of each key. Pure.
//!
//! Keeps: an age counts from when the queue accepted the message; that of a ready message which
//! has waited, from when its wait was over. A restart changes neither.
//! Never: walks through more than `LINE_MAX` and `TAIL_MAX` messages; reads a body.
//! In: `shard::signals`.
//!
//! ```text
//!        out, in backoff, held behind its key │ never looked at
//!   seq   17   18   19   20   21   22   23    │ 24   25   26 …
//!   key    a    b    a    c    a    b    a    │  d    a    b
//!          ▲    ▲         ▲                   │  ▲
//!          the head of each key's line: `Lanes::line` finds those left of the cursor, the tail
//!          right of it is looked through by whoever asked, without the queues' lock
//! ```

use super::*;

/// Slots of the line that are looked at, at most: about a millisecond.
const LINE_MAX: usize = 1 << 15;
/// Messages behind the cursor whose keys are looked at, at most.
const TAIL_MAX: u32 = 1 << 14;
/// Times that a chunk remembers while its contents are on disk: 256 bytes beside a megabyte.
const TIMES_MAX: usize = 16;

/// Where the head of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadState {
    /// A consumer with room could have it, or its key rests.
    Ready,
    /// A consumer has it.
    Out,
    /// It failed and waits for its next attempt.
    Backoff,
}

impl HeadState {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Out => "out",
            Self::Backoff => "backoff",
        }
    }
}

/// Where the content of a message is, for whoever reads it.
pub enum Content {
    Here(Piece),
    /// The segment, its first seq and its time.
    Segment(SegmentId, Seq, Micros),
    /// A waiting row of its own.
    Row,
    /// With its consumer, or gone.
    Elsewhere,
}

/// The oldest unsettled message of a key.
pub struct Head {
    pub seq: Seq,
    /// The key's fingerprint.
    pub key: u64,
    pub state: HeadState,
    pub accepted_at: Option<Micros>,
    /// Messages of its key behind it that the cursor has passed.
    pub behind: u64,
    pub content: Content,
}

/// Messages behind the cursor.
pub enum Stretch {
    Here(Piece),
    /// On disk: the segment, its first seq and time, and the runs (first, end) that are not
    /// settled.
    Stored(SegmentId, Seq, Micros, Vec<(Seq, Seq)>),
}

/// The keys with the oldest heads, and what the cursor has not come to.
pub struct Heads {
    /// The header that holds the key.
    pub header: Arc<str>,
    pub heads: Vec<Head>,
    pub tail: Vec<Stretch>,
    /// There is more than was looked at.
    pub partial: bool,
}

impl Log {
    /// When the oldest ready message was accepted; of one that has waited, when that was over.
    pub fn oldest_ready_at(&self) -> Option<Micros> {
        if self.ready == 0 {
            return None;
        }
        let first = |level: u8| {
            let range = self.aside.range((level, 0)..=(level, Seq::MAX));
            range.map(|(&standing, _)| standing).next()
        };
        let aside = match self.aside.is_empty() {
            true => None,
            false => (0..=self.levels).filter_map(first).min_by_key(|s| s.1),
        };
        let held = self.lanes.as_ref().and_then(|lanes| lanes.first_held());
        let ahead = self.first_ahead();
        let beside = aside.map(|(_, seq)| seq);
        let seq = [beside, held, ahead].into_iter().flatten().min()?;
        let own = match aside.filter(|(_, known)| *known == seq) {
            Some(standing) => self.aside.get(&standing),
            None => self.lanes.as_ref().and_then(|lanes| lanes.aside(seq)),
        };
        match own.and_then(|aside| aside.own.as_deref()) {
            Some(own) => Some(own.at),
            None => Some(self.chunks[self.chunk_of(seq)?].accepted_at(seq)),
        }
    }

    /// The first message that the cursor will find.
    fn first_ahead(&self) -> Option<Seq> {
        let at = self
            .chunks
            .partition_point(|chunk| chunk.last < self.cursor);
        let mut chunks = self.chunks.range(at..);
        chunks.find_map(|chunk| chunk.first_unsettled(self.cursor))
    }

    /// When a message that is not settled was accepted, as far as that is known here.
    pub fn accepted_at(&self, seq: Seq) -> Option<Micros> {
        if let Some(&at) = self.since.get(&seq) {
            return Some(at);
        }
        let chunk = &self.chunks[self.chunk_of(seq)?];
        Some(chunk.accepted_at(seq))
    }

    /// When the oldest head of all keys was accepted that is out, held or in a backoff that blocks.
    /// `None`: there is none, or the queue keeps no order by key.
    pub fn head_of_line_at(&self) -> Option<Micros> {
        let seq = self.lanes.as_ref()?.first_in_line()?;
        self.accepted_at(seq)
    }

    /// The `most` keys with the oldest heads among the messages that the cursor has passed, and
    /// the messages that it has not. `None`: the queue keeps no order by key.
    pub fn heads(&self, most: usize) -> Option<Heads> {
        let lanes = self.lanes.as_ref()?;
        let mut out = Heads {
            header: lanes.partition().header.clone(),
            heads: Vec::new(),
            tail: Vec::new(),
            partial: false,
        };
        let mut seen = BTreeSet::new();
        let mut steps = 0;
        for slot in lanes.line() {
            steps += 1;
            let more = match slot {
                Some((seq, key)) if seen.insert(key) => Some((seq, key)),
                _ => None,
            };
            out.partial = steps == LINE_MAX || more.is_some() && out.heads.len() == most;
            if out.partial {
                break;
            }
            out.heads
                .extend(more.map(|(seq, key)| self.head_at(lanes, seq, key)));
        }
        // A key that was not come to would pass for one that begins there.
        if steps < LINE_MAX {
            self.tail(&mut out);
        }
        Some(out)
    }

    fn head_at(&self, lanes: &Lanes, seq: Seq, key: u64) -> Head {
        let held = lanes.is_held(seq);
        let state = match (held, lanes.blocks(seq)) {
            (true, _) => HeadState::Ready,
            (false, true) => HeadState::Backoff,
            (false, false) => HeadState::Out,
        };
        let behind = lanes.held_of(key) as u64 - u64::from(held);
        Head {
            seq,
            key,
            state,
            accepted_at: self.accepted_at(seq),
            behind,
            content: self.where_is(seq),
        }
    }

    fn where_is(&self, seq: Seq) -> Content {
        let parked = || self.parked.get(seq).cloned();
        if let Some(piece) = self.content_held(seq).or_else(parked) {
            return Content::Here(piece);
        }
        if self.waiting.contains(seq) || self.stragglers.contains(&seq) {
            return Content::Row;
        }
        let chunk = self.chunk_of(seq).map(|at| &self.chunks[at]);
        match chunk.and_then(|chunk| Some((chunk.segment()?, chunk))) {
            Some((id, chunk)) => Content::Segment(id, chunk.first, chunk.at),
            None => Content::Elsewhere,
        }
    }

    fn tail(&self, out: &mut Heads) {
        let at = self
            .chunks
            .partition_point(|chunk| chunk.last < self.cursor);
        let mut left = TAIL_MAX;
        for chunk in self.chunks.range(at..) {
            if left == 0 {
                break;
            }
            let mut from = self.cursor.max(chunk.first);
            if let (false, Some(id)) = (chunk.is_resident(), chunk.segment()) {
                let runs = chunk.unsettled_runs(from, left);
                let count: u64 = runs.iter().map(|(from, end)| end - from).sum();
                left -= count as u32;
                out.tail
                    .push(Stretch::Stored(id, chunk.first, chunk.at, runs));
                continue;
            }
            while left > 0
                && let Some(piece) = chunk.ready_from(from, left)
            {
                from = piece.first + u64::from(piece.count);
                left -= piece.count;
                out.tail.push(Stretch::Here(piece));
            }
        }
        out.partial |= left == 0;
    }
}

/// When the messages of a chunk were accepted, in so few words that all chunks can keep them: up
/// to `TIMES_MAX` places from which on a time holds.
#[derive(Default)]
pub(super) struct Times(Box<[(Seq, Micros)]>);

impl Times {
    pub(super) fn of(pieces: &[Piece]) -> Self {
        let mut all: Vec<(Seq, Micros)> = Vec::new();
        for piece in pieces {
            if all.last().is_none_or(|(_, at)| *at != piece.at) {
                all.push((piece.first, piece.at));
            }
        }
        if all.len() > TIMES_MAX {
            // Evenly over the span: what stands between two counts as the earlier.
            let (first, last) = (all[0].1, all[all.len() - 1].1);
            let step = (last - first) / (TIMES_MAX as Micros - 1);
            let mut kept: Option<Micros> = None;
            all.retain(|&(_, at)| {
                let keep = kept.is_none_or(|known| at < known || at - known > step);
                if keep {
                    kept = Some(at);
                }
                keep
            });
            all.truncate(TIMES_MAX);
        }
        Self(all.into())
    }

    /// The time of a message, or a little earlier; `None` before the first.
    pub(super) fn at(&self, seq: Seq) -> Option<Micros> {
        let place = self.0.partition_point(|(first, _)| *first <= seq);
        place.checked_sub(1).map(|place| self.0[place].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::log_tests::piece;

    /// One message accepted at each of these times.
    fn log_of(times: &[Micros]) -> Log {
        let mut log = Log::default();
        for &at in times {
            let one = Piece {
                at,
                ..piece(1, true)
            };
            log.append(one);
        }
        log
    }

    fn to_disk(log: &mut Log) {
        let mut ids = Vec::new();
        log.start_saving(false, |chunk| {
            let id = SegmentId(chunk.first + 1);
            chunk.start_saving(id, false);
            ids.push(id);
        });
        ids.into_iter().for_each(|id| log.saved(id, Row::default()));
        log.handed = Seq::MAX;
        assert!(log.evict(0, false) > 0);
    }

    #[test]
    fn the_oldest_ready_message_is_known_while_its_content_is_on_disk() {
        let mut log = log_of(&[10, 20, 30]);
        assert_eq!(log.oldest_ready_at(), Some(10));
        assert!(matches!(log.take(2), Take::Run { .. }));
        assert!(matches!(log.take(2), Take::Run { .. }));
        assert_eq!(log.oldest_ready_at(), Some(30), "what is out is not ready");
        to_disk(&mut log);
        assert_eq!(log.oldest_ready_at(), Some(30));
        log.put_back(1, 1, None);
        assert_eq!(log.oldest_ready_at(), Some(20));
        log.settle(0, 1);
        assert!(matches!(log.take(1), Take::Load(_)));
        assert_eq!(log.oldest_ready_at(), Some(20));
        log.purge();
        assert_eq!(log.oldest_ready_at(), None);
    }

    #[test]
    fn a_priority_makes_no_message_younger() {
        let mut log = Log::new(3);
        let with = |priority, at| {
            let properties = properties::Properties {
                priority: Some(priority),
                ..Default::default()
            };
            let mut block = Block::default();
            let address = amqp::content::Address::new(b"", b"q");
            block.push(&address, &properties.encode(), b"body");
            Piece::new(0, 1, Arc::new(block), 0, at)
        };
        log.append(with(0, 10));
        log.append(with(3, 20));
        assert_eq!(log.oldest_ready_at(), Some(10));
        let Take::Run { piece, .. } = log.take(1) else {
            panic!("one is ready");
        };
        assert_eq!(piece.at, 20, "the higher priority goes first");
        assert_eq!(log.oldest_ready_at(), Some(10));
    }

    #[test]
    fn times_of_a_chunk_are_few_and_never_far_off() {
        let pieces: Vec<Piece> = (0..1_000)
            .map(|n| Piece {
                first: 2 * n,
                at: 5_000 + n as Micros,
                ..piece(2, true)
            })
            .collect();
        let times = Times::of(&pieces);
        assert!(times.0.len() <= TIMES_MAX, "{}", times.0.len());
        for piece in &pieces {
            for seq in [piece.first, piece.first + 1] {
                let late = piece.at - times.at(seq).expect("known");
                assert!((0..=1_000 / 15 + 1).contains(&late), "{seq}: {late}");
            }
        }
        assert_eq!(Times::of(&[]).at(3), None);
        let few = Times::of(&pieces[..TIMES_MAX]);
        assert!(
            pieces[..TIMES_MAX]
                .iter()
                .all(|p| few.at(p.first) == Some(p.at))
        );
    }
}
