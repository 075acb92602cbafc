//! Operators' walks through a queue: look at its messages, take some out, move some elsewhere.
//!
//! Keeps: a message that moves leaves its queue and reaches the other in one commit, whole and once
//! (I1); what is out with a consumer is left alone; one step is short.
//! Never: waits for a body; whoever walks reads it and comes again.
//! In: `Store`'s operators' verbs.

use super::*;
use crate::queue::Browse;
use crate::queue::retained::Entry;
use crate::rules::filter::Filter;
use crate::rules::redrive;

/// Messages looked at in one step, so that the queues are not held up: about a millisecond.
pub(super) const LOOK_MAX: u32 = 1_000;

/// A stretch of a queue, looked at.
#[derive(Default)]
pub(crate) struct Looked {
    /// Those that the filter means, one by one.
    pub(crate) found: Vec<Piece>,
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<Seq>,
    /// A body must be read first.
    pub(crate) loading: bool,
}

/// How one step of a redrive ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many were moved, and there may be more.
    Moved(u32),
    /// A body must be read first.
    Loading,
    /// This retained segment must be read first.
    Read(Entry),
    /// The target has no room.
    Full,
    /// Done, cancelled, failed or unknown.
    Ended,
}

impl Shard {
    /// Looks at ready messages from `from` on, below `until`; stops after `most` that are meant.
    pub(crate) fn look_over(
        &mut self,
        id: QueueId,
        (from, until): (Seq, Seq),
        filter: &Filter,
        most: u32,
    ) -> Looked {
        let mut out = Looked::default();
        let mut seq = from;
        let mut left = LOOK_MAX;
        loop {
            let Some(queue) = self.queues.get_mut(&id) else {
                return out;
            };
            if left == 0 || out.found.len() >= most as usize {
                let has_more = match queue.log.browse(seq, 1) {
                    Browse::Found(piece) => piece.first < until,
                    Browse::Load(_) => true,
                    Browse::End => false,
                };
                out.next = has_more.then_some(seq);
                return out;
            }
            match queue.log.browse(seq, left) {
                Browse::Found(piece) if piece.first < until => {
                    for offset in 0..piece.count {
                        let one = piece.slice(offset, 1);
                        left -= 1;
                        seq = one.first + 1;
                        if one.first < until && filter.matches(&one.block, one.index(0), one.at) {
                            out.found.push(one);
                        }
                        if out.found.len() >= most as usize {
                            break;
                        }
                    }
                }
                Browse::Found(_) | Browse::End => return out,
                Browse::Load(segment) => {
                    out.next = Some(seq);
                    out.loading = true;
                    self.want_load(id, segment);
                    return out;
                }
            }
        }
    }

    /// Removes these ready messages; answers how many.
    pub(crate) fn remove_ready(&mut self, id: QueueId, seqs: &[Seq]) -> u64 {
        let mut count = 0;
        for &seq in seqs {
            let taken = self.queues.get_mut(&id).and_then(|q| q.log.withdraw(seq));
            if taken.is_some() {
                self.settle(id, seq, 1);
                count += 1;
            }
        }
        self.resume_publishers(id);
        count
    }

    /// Ends a message that waits for its time. False: it does not wait any more.
    pub(crate) fn cancel_waiting(&mut self, id: QueueId, seq: Seq) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            return false;
        };
        if !queue.log.cancel_waiting(seq) {
            return false;
        }
        self.pending
            .waiting
            .retain(|row| row.queue != id || row.seq != seq);
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        self.pump(id);
        true
    }

    /// Stops or resumes a queue. Its publishers notice nothing.
    pub(crate) fn set_paused(&mut self, id: QueueId, paused: bool) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        if queue.spec.paused != paused {
            queue.spec.paused = paused;
            if queue.spec.durable && !planted(Planted::PauseUnwritten) {
                let spec = queue.spec.clone();
                self.pending
                    .definitions
                    .push(crate::log::batch::DefinitionChange::PutQueue(spec));
                self.want_commit();
            }
        }
        self.pump(id);
    }

    /// One step of a redrive: at most `most` messages.
    pub(crate) fn redrive_step(&mut self, redrive: &str, most: u32) -> Step {
        let Some(row) = self.redrives.get(redrive).cloned() else {
            return Step::Ended;
        };
        if row.state != RedriveState::Running {
            return Step::Ended;
        }
        let filter = Filter::decode(&row.filter);
        let (Some(filter), true) = (filter, self.queues.contains_key(&row.queue)) else {
            let detail = format!("no queue '{}' in vhost '{}'", row.source, row.vhost);
            return self.end_redrive(row, RedriveState::Failed, detail);
        };
        let target = match &row.target {
            None => None,
            Some(name) => match self.queue(0, &row.vhost, name) {
                Ok(id) => Some(id),
                Err(error) => {
                    return self.end_redrive(row, RedriveState::Failed, error.to_string());
                }
            },
        };
        let looked = self.look_over(row.queue, (row.next, row.until), &filter, most);
        let (mut row, mut moved, mut full) = (row, 0, false);
        let before = row.moved + row.skipped;
        for piece in &looked.found {
            match self.move_one(row.queue, piece, &row.vhost, target) {
                Moved::There => moved += 1,
                Moved::Nowhere => row.skipped += 1,
                Moved::Full => {
                    row.next = piece.first;
                    full = true;
                    break;
                }
            }
        }
        row.moved += u64::from(moved);
        if !full {
            row.next = looked.next.unwrap_or(row.until);
        }
        let loading = looked.loading;
        if looked.next.is_none() && !full {
            return self.end_redrive(row, RedriveState::Done, String::new());
        }
        match full {
            true => {
                let has_come_on = row.moved + row.skipped > before;
                self.wait_for_room(row, has_come_on);
            }
            false => self.put_redrive(row),
        }
        match moved {
            _ if full => Step::Full,
            0 if loading => Step::Loading,
            moved => Step::Moved(moved),
        }
    }

    pub(crate) fn end_redrive(
        &mut self,
        mut row: RedriveRow,
        state: RedriveState,
        detail: String,
    ) -> Step {
        row.state = state;
        row.detail = detail;
        row.ended_at = Some(clock::now());
        self.put_redrive(row);
        Step::Ended
    }

    /// Whoever waits for room looks again and again: where nothing moved, nothing is written.
    pub(super) fn wait_for_room(&mut self, row: RedriveRow, has_come_on: bool) {
        if has_come_on {
            self.put_redrive(row);
        }
    }

    pub(crate) fn put_redrive(&mut self, row: RedriveRow) {
        self.pending.redrives.retain(|known| known.id != row.id);
        if !planted(Planted::RedriveUnwritten) || row.next == 0 {
            self.pending.redrives.push(row.clone());
        }
        self.redrives.insert(row.id.clone(), row);
        self.writer.notify_one();
    }

    fn move_one(
        &mut self,
        id: QueueId,
        piece: &Piece,
        vhost: &Arc<str>,
        target: Option<QueueId>,
    ) -> Moved {
        let index = piece.index(0);
        let origin = redrive::origin(&piece.block, index);
        let (target, address) = match target {
            Some(target) => (target, piece.block.address(index).clone()),
            None => {
                let found = origin
                    .and_then(|(name, address)| Some((self.queue(0, vhost, &name).ok()?, address)));
                match found.filter(|(target, _)| *target != id) {
                    Some(found) => found,
                    None => return Moved::Nowhere,
                }
            }
        };
        let body = u64::from(piece.entry(0).body_size);
        if self.lacks_room(target, body) {
            return Moved::Full;
        }
        let Some(seq) = self
            .queues
            .get_mut(&id)
            .and_then(|queue| queue.log.withdraw(piece.first))
            .map(|piece| piece.first)
        else {
            return Moved::Nowhere;
        };
        let raw = redrive::properties(piece.block.properties(index));
        let mut block = Block::default();
        block.push_copy(&piece.block, index, &address, Some(&raw));
        self.append_moved(target, Arc::new(block));
        // Its publisher hears of it with this commit, not before: it lives on.
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.log.settle(seq, 1);
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
        Moved::There
    }

    /// Appends what was accepted long ago: no rule for publishers applies.
    pub(super) fn append_moved(&mut self, id: QueueId, block: Arc<Block>) {
        let mut piece = Piece::new(0, 1, block, 0, clock::now());
        self.note_appended(piece.memory_bytes());
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        piece.persistent = (piece.persistent || queue.writes_all()) && queue.spec.durable;
        if piece.persistent {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
        queue.log.append(piece);
        self.pump(id);
        self.trim(id);
    }
}

enum Moved {
    There,
    /// It stays: where it came from is gone, or is here.
    Nowhere,
    Full,
}
