//! Messages that an `x-delayed-message` exchange, or a work queue, holds back.
//!
//! Keeps: each waits in a row, of the exchange's own queue where an exchange delays it, so that a
//! restart does not lose it; when its time has come it moves on to the queues that the exchange
//! then leads to, in one commit. BCC waits along, and goes before anybody sees the message.
//! In: `append_all` and `hold` put messages here; `pump` sends them on.

use super::*;
use crate::topology::{Message, copies, delay};

impl Shard {
    /// Holds messages back in their queue, or in that of their exchange.
    pub(super) fn hold_back(
        &mut self,
        id: QueueId,
        block: &Block,
        (first, count): (u32, u32),
        now: Micros,
        copies: &[Vec<u8>],
    ) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for index in first as usize..(first + count) as usize {
            // Other keys are for an exchange, which routes again.
            let keys = match queue.delays_for {
                Some(_) => copies,
                None => &[],
            };
            let Some((due_at, raw)) = delay::take_due(block, index, keys, now) else {
                continue;
            };
            let mut copy = Block::default();
            copy.push_copy(block, index, block.address(index), Some(&raw));
            let seq = queue.log.reserve(false);
            queue.log.wait(seq, due_at, 0, queue.spec.durable);
            if !queue.spec.durable {
                let piece = Piece::new(seq, 1, Arc::new(copy), 0, due_at);
                queue.log.parked.insert(seq, piece);
                continue;
            }
            let mut encoder = segment::Encoder::default();
            encoder.push(&copy, 0, 0, 0);
            let (index, data) = encoder.finish();
            self.pending.waiting.push(WaitingRow {
                queue: id,
                seq,
                due_at,
                attempt: 0,
                accepted_at: now,
                index,
                data,
            });
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
        self.watch(id);
    }

    /// Appends to a work queue what wants no delay, and holds the rest back.
    pub(super) fn append_timed(&mut self, id: QueueId, piece: &Piece) {
        let now = piece.at;
        let mut from = 0;
        for offset in 0..=piece.count {
            let index = piece.index(offset);
            let ends = offset == piece.count;
            let waits = !ends
                && delay::asks(&piece.block, index)
                && delay::take_due(&piece.block, index, &[], now).is_some();
            if !waits && !ends {
                continue;
            }
            if let Some(queue) = self.queues.get_mut(&id).filter(|_| offset > from) {
                queue.log.append(piece.slice(from, offset - from));
            }
            if waits {
                self.hold_back(id, &piece.block, (index as u32, 1), now, &[]);
            }
            from = offset + 1;
        }
    }

    /// Sends on what has waited long enough.
    pub(super) fn send_on(&mut self, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id).filter(|q| q.log.ready() > 0) else {
                return;
            };
            let Some(exchange) = queue.delays_for.clone() else {
                return;
            };
            let vhost = queue.spec.vhost.clone();
            let Take::Run { piece, .. } = queue.log.take_head() else {
                return;
            };
            let moment = self.moment();
            let index = piece.index(0);
            let copies = copies::of(piece.block.properties(index)).ok().flatten();
            let (keys, seen) =
                copies.map_or_else(Default::default, |copies| (copies.keys, copies.properties));
            let message = Message::new(&piece.block, index, &keys, moment).undelayed();
            let names = self.vhosts.get_mut(&vhost);
            let queues = names.and_then(|names| names.look(&exchange, &message));
            self.note_kept(&vhost);
            match queues {
                Some(queues) if !queues.as_slice().is_empty() => {
                    let (block, part) = match seen {
                        Some(raw) => {
                            let mut block = Block::default();
                            let address = piece.block.address(index);
                            block.push_copy(&piece.block, index, address, Some(&raw));
                            (Arc::new(block), (0, 1))
                        }
                        None => (piece.block.clone(), (index as u32, 1)),
                    };
                    self.append_published(queues.as_slice(), None, &block, part, 0);
                }
                _ => self.counters.unroutable += 1,
            }
            self.settle(id, piece.first, 1);
        }
    }
}

impl Piece {
    /// Some message asks for a delay.
    pub(super) fn wants_delay(&self) -> bool {
        (0..self.count).any(|offset| delay::asks(&self.block, self.index(offset)))
    }
}
