//! A page of messages as operators see them: as many as were asked for, and bounded in bytes.
//!
//! Keeps: a page holds copies of its messages only, so that it pins no block of a queue; where it
//! ends is the first message that it could not take.
//! In: `operator` and `replay`, which walk.

use std::sync::Arc;

use amqp::content::Block;

use crate::model::{Micros, Seq};
use crate::queue::Piece;

/// Contents on one page, bytes: a page ends there whatever its limit, and with one message at
/// least. A page of plain messages never meets it; it bounds what a look at large ones costs.
pub const PAGE_BYTES_MAX: u64 = 16 << 20;

/// A message as an operator sees it.
pub struct Seen {
    /// Its place in the queue.
    pub seq: Seq,
    /// Content and the time at which this queue accepted it.
    pub piece: Piece,
    /// Until when it waits.
    pub due_at: Option<Micros>,
    /// How often it has failed or come back.
    pub failures: u32,
}

/// Some of a queue's messages, in order.
pub struct Page {
    pub messages: Vec<Seen>,
    /// Where to go on: no message is skipped and none seen twice, whatever comes and goes
    /// meanwhile. `None` at the end; what is looked for may end before.
    pub next: Option<Seq>,
}

/// A page as it fills.
pub(crate) struct Filling {
    messages: Vec<Seen>,
    limit: usize,
    bytes: u64,
}

impl Filling {
    /// For at most so many messages, and one at least.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            messages: Vec::new(),
            limit: limit.max(1) as usize,
            bytes: 0,
        }
    }

    /// Takes a message; false: the page ends before it.
    pub(crate) fn take(&mut self, seen: Seen) -> bool {
        let bytes = self.bytes + seen.piece.memory_bytes();
        let has_room = self.messages.len() < self.limit && bytes <= PAGE_BYTES_MAX;
        if !has_room && !self.messages.is_empty() {
            return false;
        }
        self.bytes = bytes;
        let piece = alone(&seen.piece);
        self.messages.push(Seen { piece, ..seen });
        true
    }

    /// How many more it may take.
    pub(crate) fn wants(&self) -> u32 {
        let left = self.limit.saturating_sub(self.messages.len());
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    pub(crate) fn end(self, next: Option<Seq>) -> Page {
        Page {
            messages: self.messages,
            next,
        }
    }
}

/// The first message of a piece in a block of its own.
fn alone(piece: &Piece) -> Piece {
    if piece.block.entries.len() == 1 {
        return piece.clone();
    }
    let mut block = Block::default();
    let index = piece.index(0);
    block.push_copy(&piece.block, index, piece.block.address(index), None);
    Piece {
        block: Arc::new(block),
        count: 1,
        from: 0,
        ..piece.clone()
    }
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;

    use super::*;

    fn seen(block: &Arc<Block>, at: u32) -> Seen {
        let seq = u64::from(at);
        Seen {
            seq,
            piece: Piece::new(seq, 1, block.clone(), at, 7),
            due_at: None,
            failures: 0,
        }
    }

    fn block(bodies: &[usize]) -> Arc<Block> {
        let mut block = Block::default();
        for &bytes in bodies {
            block.push(&Address::new(b"x", b"k"), &[0, 0], &vec![7; bytes]);
        }
        Arc::new(block)
    }

    #[test]
    fn a_page_ends_at_its_limit_and_pins_no_block() {
        let block = block(&[1, 2, 3]);
        let mut filling = Filling::new(2);
        assert!(filling.take(seen(&block, 0)) && filling.take(seen(&block, 1)));
        assert_eq!(filling.wants(), 0);
        assert!(!filling.take(seen(&block, 2)));
        assert_eq!(Arc::strong_count(&block), 1);
        let page = filling.end(Some(2));
        let piece = &page.messages[1].piece;
        assert_eq!(piece.block.body(piece.index(0)).len(), 2);
        assert_eq!(piece.block.address(0).routing_key(), b"k");
        assert_eq!((piece.first, piece.at), (1, 7));
    }

    #[test]
    fn a_page_ends_at_its_bytes_but_holds_one_message() {
        let large = PAGE_BYTES_MAX as usize;
        let block = block(&[large, 1, large / 2, large / 2]);
        let mut filling = Filling::new(9);
        assert!(filling.take(seen(&block, 0)), "larger than a page");
        assert!(!filling.take(seen(&block, 1)));
        let mut filling = Filling::new(9);
        assert!(filling.take(seen(&block, 1)) && filling.take(seen(&block, 2)));
        assert!(!filling.take(seen(&block, 3)));
    }
}
