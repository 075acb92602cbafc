//! A look at settled messages that a queue keeps, and how many an order to replay would mean.
//!
//! Keeps: looking changes nothing; a segment is read off the queues' path, one at a time.
//! In: the gateway's HTTP routes; the order itself is a `Redrive` (`operator`).

use crate::error::Result;
use crate::model::*;
use crate::page::{Filling, Page, Seen};
use crate::queue::Piece;
use crate::queue::retained::Entry;
use crate::rules::filter::Filter;
use crate::shard::replay::Segment;
use crate::{ReadBack, Store, StoreInner};

/// What is kept of a queue's settled messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub messages: u64,
    /// Bodies, and a little for each message.
    pub bytes: u64,
}

impl Store {
    /// What a queue keeps of its settled messages; `None` when it is not to keep any.
    ///
    /// # Errors
    /// `NotFound`: no such queue. `Exclusive`: it belongs to a connection.
    pub fn retained(&self, vhost: &str, queue: &str) -> Result<Option<Kept>> {
        let shard = self.lock();
        let id = shard.queue(0, vhost, queue)?;
        let retained = shard.queues.get(&id).and_then(|q| q.log.retained.as_ref());
        Ok(retained.map(|retained| Kept {
            messages: retained.messages(),
            bytes: retained.bytes(),
        }))
    }

    /// Settled messages from `from` on, below `until`, at most `limit` that the filter means.
    ///
    /// # Errors
    /// As `retained`.
    pub async fn peek_retained(
        &self,
        (vhost, queue): (&str, &str),
        filter: &Filter,
        (mut from, until): (Seq, Seq),
        limit: u32,
    ) -> Result<Page> {
        // What was settled a moment ago is in its segment then.
        self.on_disk().await?;
        let mut filling = Filling::new(limit);
        loop {
            let Some((id, entry)) = self.next_retained((vhost, queue), (from, until), filter)?
            else {
                return Ok(filling.end(None));
            };
            let Some((_, pieces)) = self.0.read_retained(id, &entry).await? else {
                continue;
            };
            let found: Vec<Piece> = {
                let shard = self.lock();
                let single = |piece: &Piece| {
                    let piece = piece.clone();
                    (0..piece.count).map(move |offset| piece.slice(offset, 1))
                };
                let singles = pieces.iter().flat_map(single);
                let is_meant = |one: &Piece| {
                    (from..until).contains(&one.first)
                        && filter.matches(&one.block, one.index(0), one.at)
                        && shard.is_settled(id, one.first)
                };
                singles.filter(is_meant).collect()
            };
            for piece in found {
                let seq = piece.first;
                let seen = Seen {
                    seq,
                    piece,
                    due_at: None,
                    failures: 0,
                };
                if !filling.take(seen) {
                    return Ok(filling.end(Some(seq)));
                }
            }
            from = entry.last + 1;
        }
    }

    /// How many settled messages a replay would publish.
    ///
    /// # Errors
    /// As `retained`.
    pub async fn count_retained(
        &self,
        (vhost, queue): (&str, &str),
        filter: &Filter,
        (mut from, until): (Seq, Seq),
    ) -> Result<u64> {
        self.on_disk().await?;
        let mut count = 0;
        while let Some((id, entry)) = self.next_retained((vhost, queue), (from, until), filter)? {
            let whole = from <= entry.first && entry.last < until && filter.is_empty();
            if whole && self.holds_settled_only(id) {
                count += u64::from(entry.count);
                from = entry.last + 1;
                continue;
            }
            let Some((_, pieces)) = self.0.read_retained(id, &entry).await? else {
                continue;
            };
            let shard = self.lock();
            for piece in &pieces {
                let meant = (0..piece.count).filter(|&offset| {
                    let seq = piece.first + u64::from(offset);
                    (from..until).contains(&seq)
                        && filter.matches(&piece.block, piece.index(offset), piece.at)
                        && shard.is_settled(id, seq)
                });
                count += meant.count() as u64;
            }
            from = entry.last + 1;
        }
        Ok(count)
    }

    fn next_retained(
        &self,
        (vhost, queue): (&str, &str),
        range: (Seq, Seq),
        filter: &Filter,
    ) -> Result<Option<(QueueId, Entry)>> {
        let shard = self.lock();
        let id = shard.queue(0, vhost, queue)?;
        Ok(shard
            .next_retained(id, range, filter)
            .map(|entry| (id, entry)))
    }

    /// True when no message of a retained segment waits for another try.
    fn holds_settled_only(&self, id: QueueId) -> bool {
        let shard = self.lock();
        let queue = shard.queues.get(&id);
        queue.is_some_and(|queue| queue.log.stragglers.is_empty() && queue.log.waiting.is_empty())
    }
}

impl StoreInner {
    /// The messages of a retained segment, none where it cannot be read; `None` when it went
    /// meanwhile: whoever walks looks again.
    pub(crate) async fn read_retained(
        &self,
        id: QueueId,
        entry: &Entry,
    ) -> Result<Option<Segment>> {
        // Its row may be in the commit under way.
        let told = self.lock().on_disk();
        told.await.map_err(|_| crate::Error::Stopped)?;
        let found = crate::read(&*self.backend, entry.id, entry.first, entry.first_at).await;
        let is_sound = matches!(found, ReadBack::Sound(_));
        let pieces = match found {
            ReadBack::Sound(pieces) | ReadBack::Damaged(pieces) => pieces,
            ReadBack::Unreadable => Vec::new(),
        };
        let shard = self.lock();
        let retained = shard.queues.get(&id).and_then(|q| q.log.retained.as_ref());
        let now = retained.and_then(|retained| retained.from(entry.first));
        if now.is_none_or(|now| now.id != entry.id) {
            return Ok(None);
        }
        if !is_sound {
            tracing::error!(segment = entry.id.0, "a retained segment is damaged");
        }
        Ok(Some((entry.id, pieces)))
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
