//! What operators and alerts want to know of a queue: depths, ages, growth, and which keys stand.
//!
//! Keeps: ages are instants, so that whoever shows them subtracts once; a list of keys is bounded,
//! and says when there is more.
//! Never: changes anything; holds the queues while a body is read.
//! In: the gateway's `/v1/queues/{queue}/signals`, `/metrics` and commands.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::segment;
use crate::model::*;
pub use crate::queue::HeadState;
use crate::queue::growth::Growth;
use crate::queue::{Content, Heads, Piece, Stretch, key_and_text, key_in};
use crate::replay::Kept;
use crate::{Store, sql};

/// Keys that can be asked for at a time.
pub const KEYS_MAX: usize = 100;
/// Segments read for one answer, about a megabyte each, one at a time.
const SEGMENTS_MAX: usize = 16;

/// One queue, as metrics see it.
#[derive(Clone, Debug)]
pub struct QueueStats {
    pub vhost: Arc<str>,
    pub name: Arc<str>,
    pub ready: u64,
    pub unacked: u64,
    pub waiting: u64,
    pub consumers: u64,
    pub oldest_ready_at: Option<Micros>,
    /// It keeps order by key.
    pub keeps_order: bool,
    /// When the oldest head of a key was accepted that is out, in backoff or held.
    pub head_of_line_at: Option<Micros>,
    pub growth: Growth,
    pub ready_bytes: u64,
    pub dead_letter: bool,
    /// Messages in the queue where its dead go; `None` where they are dropped.
    pub dead_letters: Option<u64>,
    /// How long a delivery may be unsettled now, ms; none where the work rules do not hold.
    pub lease_ms: Option<u64>,
    /// Duplicates that were dropped since the start.
    pub deduplicated: u64,
    /// What is kept of its settled messages, where something is to be.
    pub retained: Option<Kept>,
}

/// The signals of one queue at an instant.
#[derive(Clone, Debug)]
pub struct Signals {
    /// The instant, from which ages count back.
    pub at: Micros,
    pub ready: u64,
    pub unacked: u64,
    /// In backoff or delayed.
    pub waiting: u64,
    pub consumers: u64,
    /// Where its dead go; it may not be there before the first.
    pub dead_letter_queue: Option<String>,
    /// Messages there.
    pub dead_letters: Option<u64>,
    pub growth: Growth,
    /// When the oldest ready message was accepted, or its wait was over.
    pub oldest_ready_at: Option<Micros>,
    /// When the oldest delivery that is not settled went out, to the second.
    pub oldest_unacked_at: Option<Micros>,
    /// `None`: the queue keeps no order by key.
    pub keys: Option<Keys>,
}

/// The keys of a queue with the oldest heads, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    pub heads: Vec<Head>,
    /// There are more keys or messages than were looked at: the counts are at least.
    pub partial: bool,
}

/// The oldest unsettled message of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// As people write it; `None` when the message could not be read.
    pub key: Option<String>,
    /// Its place in the queue.
    pub seq: Seq,
    pub state: HeadState,
    pub accepted_at: Option<Micros>,
    /// Messages of the key behind it, those in backoff or delayed not counted.
    pub behind: u64,
}

impl Store {
    /// The signals of a queue; with order by key the `keys` keys with the oldest heads, at most
    /// `KEYS_MAX`.
    ///
    /// # Errors
    /// `NotFound`: no such queue. `Exclusive`: it belongs to a connection. `Io`.
    pub async fn signals(&self, queue: (&str, &str), keys: usize) -> Result<Signals> {
        let keys = keys.min(KEYS_MAX);
        let (id, mut signals, heads) = self.lock().signals(queue, keys)?;
        if let Some(heads) = heads {
            signals.keys = Some(self.look_at_keys(id, heads, keys).await?);
        }
        Ok(signals)
    }

    async fn look_at_keys(&self, id: QueueId, found: Heads, most: usize) -> Result<Keys> {
        let rows = self.rows_of(id, &found).await?;
        let mut reader = Reader {
            backend: self.backend().as_ref(),
            left: SEGMENTS_MAX,
            newest: None,
        };
        let mut line = Line {
            header: found.header,
            places: HashMap::new(),
            keys: Keys {
                heads: Vec::new(),
                partial: found.partial,
            },
        };
        for head in found.heads {
            let content = match head.content {
                Content::Here(piece) => Some(piece),
                Content::Row => rows.get(&head.seq).cloned(),
                Content::Segment(segment, first, at) => {
                    let pieces = reader.read(segment, first, at).await?;
                    one_of(pieces.unwrap_or_default(), head.seq)
                }
                Content::Elsewhere => None,
            };
            let known = content.and_then(|p| key_and_text(&line.header, &p.block, p.index(0)));
            line.places.insert(head.key, line.keys.heads.len());
            line.keys.heads.push(Head {
                key: known.map(|(_, text)| text),
                seq: head.seq,
                state: head.state,
                accepted_at: head.accepted_at,
                behind: head.behind,
            });
        }
        for stretch in found.tail {
            match stretch {
                Stretch::Here(piece) => line.pass(&piece, most),
                Stretch::Stored(segment, first, at, runs) => {
                    let Some(pieces) = reader.read(segment, first, at).await? else {
                        line.keys.partial = true;
                        break;
                    };
                    let parts = pieces.iter().flat_map(|piece| parts_of(piece, &runs));
                    parts.for_each(|part| line.pass(&part, most));
                }
            }
        }
        let mut keys = line.keys;
        keys.heads
            .sort_by_key(|head| (head.accepted_at.unwrap_or(Micros::MAX), head.seq));
        Ok(keys)
    }

    /// Contents of heads that are in waiting rows.
    async fn rows_of(&self, id: QueueId, found: &Heads) -> Result<HashMap<Seq, Piece>> {
        let rows = found
            .heads
            .iter()
            .filter(|head| matches!(head.content, Content::Row));
        let seqs: Vec<Seq> = rows.map(|head| head.seq).collect();
        if seqs.is_empty() {
            return Ok(HashMap::new());
        }
        // What was parked a moment ago must be in its row.
        self.on_disk().await?;
        let rows = self.backend().read_waiting(id, seqs).await;
        let rows = rows.map_err(|error| Error::Io(error.to_string()))?;
        let decoded = rows.into_iter().filter_map(|row| {
            let decoded = segment::decode(&row.index, row.data, row.seq, row.due_at)?;
            Some((row.seq, decoded.pieces.into_iter().next()?))
        });
        Ok(decoded.collect())
    }
}

/// Reads a bounded number of segments, one after the other.
struct Reader<'a> {
    backend: &'a dyn sql::Backend,
    left: usize,
    /// It may be asked for several times in a row.
    newest: Option<(SegmentId, Vec<Piece>)>,
}

impl Reader<'_> {
    /// `None`: no more may be read, or it is gone or damaged.
    async fn read(&mut self, id: SegmentId, first: Seq, at: Micros) -> Result<Option<Vec<Piece>>> {
        if let Some((known, pieces)) = &self.newest
            && *known == id
        {
            return Ok(Some(pieces.clone()));
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let body = self.backend.read_segment(id).await;
        let Some(body) = body.map_err(|error| Error::Io(error.to_string()))? else {
            return Ok(None);
        };
        let decoded = segment::decode(&body.index, body.data, first, at);
        let pieces = decoded.map(|decoded| decoded.pieces);
        self.newest = pieces.clone().map(|pieces| (id, pieces));
        Ok(pieces)
    }
}

/// Heads by their key's fingerprint, as messages pass in seq order.
struct Line {
    header: Arc<str>,
    places: HashMap<u64, usize>,
    keys: Keys,
}

impl Line {
    /// Ready messages that stand behind all that passed before.
    fn pass(&mut self, piece: &Piece, most: usize) {
        for offset in 0..piece.count {
            let index = piece.index(offset);
            let key = key_in(&self.header, &piece.block, index);
            match self.places.get(&key) {
                _ if key == 0 => {}
                Some(&place) => self.keys.heads[place].behind += 1,
                None if self.keys.heads.len() >= most => self.keys.partial = true,
                None => {
                    let known = key_and_text(&self.header, &piece.block, index);
                    self.places.insert(key, self.keys.heads.len());
                    self.keys.heads.push(Head {
                        key: known.map(|(_, text)| text),
                        seq: piece.first + u64::from(offset),
                        state: HeadState::Ready,
                        accepted_at: Some(piece.at),
                        behind: 0,
                    });
                }
            }
        }
    }
}

fn one_of(pieces: Vec<Piece>, seq: Seq) -> Option<Piece> {
    let mut all = pieces.into_iter();
    let found =
        all.find(|piece| (piece.first..piece.first + u64::from(piece.count)).contains(&seq));
    found.map(|piece| piece.slice((seq - piece.first) as u32, 1))
}

/// What lies within the runs (first, end).
fn parts_of<'a>(piece: &'a Piece, runs: &'a [(Seq, Seq)]) -> impl Iterator<Item = Piece> + 'a {
    let end = piece.first + u64::from(piece.count);
    let at = runs.partition_point(|&(_, run_end)| run_end <= piece.first);
    let within = runs[at..].iter().take_while(move |(first, _)| *first < end);
    within.map(move |&(first, run_end)| {
        let (from, to) = (first.max(piece.first), run_end.min(end));
        piece.slice((from - piece.first) as u32, (to - from) as u32)
    })
}

#[cfg(test)]
#[path = "signals_tests.rs"]
mod tests;
