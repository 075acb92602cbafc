//! Publishes to queues that take a key once within a time.
//!
//! Keeps: decided under the queues' lock, so that of two connections one is first; a key is written
//! with its message, and neither it nor its duplicate is confirmed before that commit (I2).
//! Never: looks at what moves on its own: retries, dead letters, redrives and returns are no
//! publishes.
//! In: `route`, `delay`, `hold`; `cut` asks for the rows, recovery brings them back.

use smallvec::SmallVec;

use super::*;
use crate::log::batch::DeduplicationRow;
use crate::rules::window::{Deduplication, Hash, Verdict, Window};
use crate::topology::duplicates::Written;

/// Mostly one.
type Queues = SmallVec<[QueueId; 2]>;

/// What the queues say of one message.
#[derive(Default, PartialEq, Eq)]
struct Judged {
    /// They take it.
    into: Queues,
    /// They have no room for it, or for its key.
    full: Queues,
    duplicates: u64,
    /// Its confirm waits for the next commit.
    durable: bool,
}

impl Shard {
    /// Appends what is published.
    pub(super) fn append_published(
        &mut self,
        queues: &[QueueId],
        channel: Option<ChannelKey>,
        block: &Arc<Block>,
        (first, count): (u32, u32),
        confirm: u64,
    ) {
        let judges = self.windows && queues.iter().any(|id| self.has_window(*id));
        if !judges && !self.disk_first {
            return self.append_all(queues, channel, block, (first, count), confirm);
        }
        let number = |offset: u32| match confirm {
            0 => 0,
            confirm => confirm + u64::from(offset),
        };
        let now = clock::now();
        let keys = queues
            .iter()
            .map(|id| self.keys(*id, block, (first, count)));
        let keys: Vec<_> = keys.collect();
        // What may be refused is counted one by one.
        let alone = queues.iter().any(|id| self.may_refuse(*id));
        if let ([id], [keys]) = (queues, &keys[..])
            && !alone
            && keys.len() == count as usize
        {
            for (verdict, from, many) in self.ask_window(*id, keys, now) {
                let mut judged = Judged {
                    durable: self.disk_first || self.has_durable_window(*id),
                    ..Judged::default()
                };
                match verdict {
                    Verdict::New => judged.into.push(*id),
                    Verdict::Full => judged.full.push(*id),
                    Verdict::Duplicate => judged.duplicates = 1,
                }
                let part = (first + from, many);
                self.append_judged(&judged, channel, block, part, number(from));
            }
            return;
        }
        let mut run: Option<(u32, Judged)> = None;
        for offset in 0..count {
            let asked = queues.iter().zip(&keys);
            let asked = asked.map(|(id, keys)| (*id, keys.get(offset as usize).copied().flatten()));
            let judged = self.ask_windows(asked, block, ((first + offset) as usize, now));
            if let Some((from, known)) = run.take() {
                if known == judged && !alone && known.full.is_empty() {
                    run = Some((from, known));
                    continue;
                }
                let part = (first + from, offset - from);
                self.append_judged(&known, channel, block, part, number(from));
            }
            match alone {
                true => {
                    let part = (first + offset, 1);
                    self.append_judged(&judged, channel, block, part, number(offset));
                }
                false => run = Some((offset, judged)),
            }
        }
        if let Some((from, known)) = run {
            let part = (first + from, count - from);
            self.append_judged(&known, channel, block, part, number(from));
        }
    }

    fn has_window(&self, id: QueueId) -> bool {
        let queue = self.queues.get(&id);
        queue.is_some_and(|queue| queue.window.is_some())
    }

    /// The keys of messages for a queue's window; none where there is no window.
    fn keys(&self, id: QueueId, block: &Block, part: (u32, u32)) -> Vec<Option<Hash>> {
        let window = self.queues.get(&id).and_then(|queue| queue.window.as_ref());
        window.map_or_else(Vec::new, |window| window.keys(block, part))
    }

    fn has_durable_window(&self, id: QueueId) -> bool {
        let queue = self.queues.get(&id);
        queue.is_some_and(|queue| queue.window.is_some() && queue.spec.durable)
    }

    /// What becomes of messages side by side in the one queue they go to, which refuses none of
    /// them but for its window: the verdict, the first and how many of them. What is refused is
    /// counted one by one.
    fn ask_window(
        &mut self,
        id: QueueId,
        keys: &[Option<Hash>],
        now: Micros,
    ) -> SmallVec<[(Verdict, u32, u32); 4]> {
        let mut runs: SmallVec<[(Verdict, u32, u32); 4]> = SmallVec::new();
        let Some(queue) = self.queues.get_mut(&id) else {
            return runs;
        };
        let Some(window) = &mut queue.window else {
            return runs;
        };
        let (mut offset, mut duplicates) = (0, 0);
        window.admit_all(keys, now, |verdict| {
            duplicates += u64::from(verdict == Verdict::Duplicate);
            match runs.last_mut() {
                Some((known, _, many)) if *known == verdict && verdict != Verdict::Full => {
                    *many += 1;
                }
                _ => runs.push((verdict, offset, 1)),
            }
            offset += 1;
        });
        if duplicates > 0 {
            queue.deduplicated += duplicates;
            // An empty commit would not wait for the one before it to reach the disk.
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
        runs
    }

    /// Asks each queue with the key that the message has for it; its window takes the key of what
    /// enters.
    fn ask_windows(
        &mut self,
        queues: impl Iterator<Item = (QueueId, Option<Hash>)>,
        block: &Block,
        (index, now): (usize, Micros),
    ) -> Judged {
        let body = u64::from(block.entries[index].body_size);
        let mut out = Judged {
            durable: self.disk_first,
            ..Judged::default()
        };
        for (id, key) in queues {
            let full = self.is_full(id, body);
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            let window = queue.window.as_mut();
            out.durable |= window.is_some() && queue.spec.durable;
            let key = window.and_then(|window| Some((key?, window)));
            let verdict = match key {
                Some((key, window)) if full && planted(Planted::WindowTakesRefused) => {
                    match window.admit(&key, now) {
                        Verdict::New => Verdict::Full,
                        known => known,
                    }
                }
                Some((key, window)) if full && !window.is_known(&key, now) => Verdict::Full,
                Some((key, window)) => window.admit(&key, now),
                None if full => Verdict::Full,
                None => Verdict::New,
            };
            match verdict {
                Verdict::New => out.into.push(id),
                Verdict::Full => out.full.push(id),
                Verdict::Duplicate => {
                    out.duplicates += 1;
                    queue.deduplicated += 1;
                    // An empty commit would not wait for the one before it to reach the disk.
                    Self::mark_dirty(&mut self.dirty, &self.writer, queue);
                }
            }
        }
        out
    }

    fn append_judged(
        &mut self,
        judged: &Judged,
        channel: Option<ChannelKey>,
        block: &Arc<Block>,
        (first, count): (u32, u32),
        confirm: u64,
    ) {
        self.counters.deduplicated += judged.duplicates * u64::from(count);
        if !judged.full.is_empty() {
            self.note_refused(block, first, count);
            let piece = Piece::new(0, count, block.clone(), first, clock::now());
            for id in &judged.full {
                self.turn_away(*id, &piece);
            }
            if let Some(channel) = channel.filter(|_| confirm != 0) {
                self.refuse(channel, confirm, count);
            }
            return self.append_all(&judged.into, None, block, (first, count), 0);
        }
        if judged.durable {
            // Not at once when a consumer is done with it: its key must be on disk.
            self.append_all(&judged.into, None, block, (first, count), 0);
            let early = planted(Planted::DuplicateConfirmed) && judged.into.is_empty();
            return self.confirm_now(channel, confirm, count, !early);
        }
        match judged.into[..] {
            [] => self.confirm_now(channel, confirm, count, false),
            _ => self.append_all(&judged.into, channel, block, (first, count), confirm),
        }
    }

    /// True when a publish of this message would be refused: it is no duplicate, and there is no
    /// room for it or for its key.
    pub(crate) fn refuses_message(&self, id: QueueId, block: &Block, index: usize) -> bool {
        let full = self.is_full(id, u64::from(block.entries[index].body_size));
        let window = self.queues.get(&id).and_then(|queue| queue.window.as_ref());
        let key = window.and_then(|window| Some((window, window.key(block, index)?)));
        match key {
            Some((window, key)) => {
                let now = clock::now();
                !window.is_known(&key, now) && (full || !window.has_room(now))
            }
            None => full,
        }
    }

    /// False for a duplicate, or where no key can be kept; for what is written before it is seen.
    pub(super) fn admits(&mut self, id: QueueId, block: &Block) -> bool {
        if !self.has_window(id) {
            return true;
        }
        let key = self.keys(id, block, (0, 1)).pop().flatten();
        let asked = std::iter::once((id, key));
        let judged = self.ask_windows(asked, block, (0, clock::now()));
        self.counters.deduplicated += judged.duplicates;
        !judged.into.is_empty()
    }

    /// Keys that a restart found.
    pub(crate) fn restore_keys(&mut self, rows: Vec<DeduplicationRow>) {
        let now = clock::now();
        for row in rows {
            let Some(queue) = self.queues.get_mut(&row.queue) else {
                continue;
            };
            if let Some(exchange) = &queue.keys_for {
                let names = self.vhosts.get_mut(&queue.spec.vhost);
                if let Some(exchange) = names.and_then(|it| it.exchanges.get_mut(exchange)) {
                    exchange.restore_keys(&row.entries, now);
                }
                continue;
            }
            match &mut queue.window {
                Some(window) => window.restore(&row.entries, now),
                None => drop_rows(&mut self.pending, row.queue),
            }
        }
    }
}

impl Queue {
    /// A window begins, changes or ends; true when the rows of one that ended must go.
    pub(super) fn set_window(&mut self, asked: Option<Deduplication>) -> bool {
        let ended = asked.is_none() && self.window.is_some();
        self.window = match (self.window.take(), asked) {
            (Some(mut window), Some(asked)) => {
                window.set(asked);
                Some(window)
            }
            (None, Some(asked)) => {
                let mut seed = [0; 8];
                seed.copy_from_slice(&clock::random_bytes()[..8]);
                let seed = u64::from_le_bytes(seed);
                Some(Box::new(Window::new(asked, self.spec.durable, seed)))
            }
            (_, None) => None,
        };
        self.log.disk_first = self.window.is_some();
        ended && self.spec.durable
    }

    /// The keys that go with the commit, and how old those are that are not needed any more.
    pub(super) fn save_keys(&mut self, batch: &mut Batch) {
        let id = self.spec.id;
        let Some(window) = &mut self.window else {
            return;
        };
        if let Some(until) = window.take_drop(clock::now()) {
            batch.dropped_deduplication.push((id, until));
        }
        let fresh = window.take_fresh();
        if let Some((newest_ms, entries)) = fresh.filter(|_| !planted(Planted::WindowUnwritten)) {
            batch.deduplication.push(DeduplicationRow {
                queue: id,
                newest_ms,
                entries,
            });
        }
    }
}

/// Keys of an exchange go to the rows of their queue.
pub(super) fn save_written(id: QueueId, written: Written, batch: &mut Batch) {
    let dropped = written.drop_to.map(|until| (id, until));
    batch.dropped_deduplication.extend(dropped);
    if !written.entries.is_empty() {
        batch.deduplication.push(DeduplicationRow {
            queue: id,
            newest_ms: written.newest_ms,
            entries: written.entries,
        });
    }
}

/// All keys of a queue leave the store.
pub(super) fn drop_rows(pending: &mut Batch, id: QueueId) {
    let all = (id, i64::MAX);
    if !pending.dropped_deduplication.contains(&all) {
        pending.dropped_deduplication.push(all);
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
