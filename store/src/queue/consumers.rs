//! Who gets the next message: consumers of one queue, their credit and their turn. Pure.
//!
//! Keeps: equal turns among consumers with credit; an exclusive consumer is alone.
//! In: `shard` asks whose turn it is and books what was handed out.

use std::sync::Arc;

/// Names a session's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    pub session: usize,
    pub channel: u16,
}

pub struct Consumer {
    pub key: ChannelKey,
    pub tag: Arc<[u8]>,
    pub no_ack: bool,
    pub exclusive: bool,
    /// Unacked messages allowed; 0 = no limit.
    pub prefetch: u32,
    pub unacked: u32,
    pub priority: i32,
}

impl Consumer {
    /// Messages it may still be handed.
    pub fn credit(&self) -> u32 {
        match (self.no_ack, self.prefetch) {
            (true, _) | (_, 0) => u32::MAX,
            (false, limit) => limit.saturating_sub(self.unacked),
        }
    }
}

#[derive(Default)]
pub struct Consumers {
    list: Vec<Consumer>,
    turn: usize,
}

impl Consumers {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_exclusive(&self) -> bool {
        self.list.iter().any(|consumer| consumer.exclusive)
    }

    pub fn add(&mut self, consumer: Consumer) {
        let at = self
            .list
            .partition_point(|known| known.priority >= consumer.priority);
        self.list.insert(at, consumer);
    }

    pub fn remove(&mut self, key: ChannelKey, tag: &[u8]) -> bool {
        let before = self.list.len();
        self.list
            .retain(|consumer| consumer.key != key || &*consumer.tag != tag);
        self.turn = 0;
        before != self.list.len()
    }

    pub fn drain(&mut self) -> Vec<Consumer> {
        std::mem::take(&mut self.list)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.list.iter()
    }

    pub fn find(&mut self, key: ChannelKey, tag: &[u8]) -> Option<&mut Consumer> {
        self.list
            .iter_mut()
            .find(|consumer| consumer.key == key && &*consumer.tag == tag)
    }

    /// The next consumer that `can` take something, of the highest priority that has one, and how
    /// many such consumers there are. Advances the turn.
    pub fn next(&mut self, can: impl Fn(&Consumer) -> bool) -> Option<(&mut Consumer, usize)> {
        let able = |consumer: &Consumer| consumer.credit() > 0 && can(consumer);
        let best = self.list.iter().find(|c| able(c))?.priority;
        let count = self
            .list
            .iter()
            .filter(|c| c.priority == best && able(c))
            .count();
        let n = self.list.len();
        let at = (0..n)
            .map(|step| (self.turn + step) % n)
            .find(|&at| self.list[at].priority == best && able(&self.list[at]))?;
        self.turn = (at + 1) % n;
        Some((&mut self.list[at], count))
    }
}
