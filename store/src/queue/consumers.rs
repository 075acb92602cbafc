//! Who gets the next message: consumers of one queue, their credit and their turn. Pure.
//!
//! Keeps: equal turns among consumers with credit; an exclusive consumer is alone; where one alone
//! is served, it stays until it leaves, or, in a quorum queue, until one of a higher priority is
//! there and all it has is settled.
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
    /// Until an unacked delivery is too late, ms; `None`: the queue's.
    pub timeout_ms: Option<u64>,
    /// What it does not settle in that time returns to the queue, whatever the queue's rules.
    pub leases: bool,
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
    /// Only one is served, until it leaves.
    single: bool,
    /// The one that is served makes way for a higher priority.
    yields: bool,
    active: Option<(ChannelKey, Arc<[u8]>)>,
}

impl Consumers {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether one alone is served (`x-single-active-consumer`), and whether it makes way for a
    /// higher priority: RabbitMQ's quorum queues do so since 4.0, its classic queues do not.
    pub fn be_single(&mut self, single: bool, yields: bool) {
        self.single = single;
        self.yields = yields;
        if !single {
            self.active = None;
        }
    }

    pub fn is_single(&self) -> bool {
        self.single
    }

    pub fn has_exclusive(&self) -> bool {
        self.list.iter().any(|consumer| consumer.exclusive)
    }

    pub fn add(&mut self, consumer: Consumer) {
        if self.single && self.active.is_none() {
            self.active = Some((consumer.key, consumer.tag.clone()));
        }
        let at = self
            .list
            .partition_point(|known| known.priority >= consumer.priority);
        self.list.insert(at, consumer);
        if at < self.turn {
            self.turn += 1;
        }
    }

    pub fn remove(&mut self, key: ChannelKey, tag: &[u8]) -> bool {
        let is_it = |consumer: &Consumer| consumer.key == key && *consumer.tag == *tag;
        let Some(at) = self.list.iter().position(is_it) else {
            return false;
        };
        self.list.remove(at);
        // Whoever comes and goes must not give the first ones more turns.
        if at < self.turn {
            self.turn -= 1;
        }
        let gone = |(active, its): &(ChannelKey, Arc<[u8]>)| *active == key && **its == *tag;
        if self.active.as_ref().is_some_and(gone) {
            let next = self.list.first();
            self.active = next.map(|next| (next.key, next.tag.clone()));
        }
        true
    }

    pub fn drain(&mut self) -> Vec<Consumer> {
        self.active = None;
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
        if self.single {
            return self.next_active(can);
        }
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

    /// The turn is again its whose it just was: it did not get all that it was to get.
    pub fn stay(&mut self) {
        let n = self.list.len();
        if !self.single && n > 0 {
            self.turn = (self.turn + n - 1) % n;
        }
    }

    /// The active one: the first who came; after it the first of the highest priority. One that is
    /// to make way gets no more; the other's turn comes when what it has is settled.
    fn next_active(&mut self, can: impl Fn(&Consumer) -> bool) -> Option<(&mut Consumer, usize)> {
        let (mut key, mut tag) = self.active.clone()?;
        if self.yields {
            let first = self.list.first()?;
            let is_active = |known: &&Consumer| known.key == key && known.tag == tag;
            let active = self.list.iter().find(is_active)?;
            if first.priority > active.priority {
                if active.unacked > 0 {
                    return None;
                }
                (key, tag) = (first.key, first.tag.clone());
                self.active = Some((key, tag.clone()));
            }
        }
        let active = self.find(key, &tag)?;
        (active.credit() > 0 && can(active)).then_some((active, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(tag: &str, priority: i32) -> Consumer {
        Consumer {
            key: ChannelKey {
                session: 1,
                channel: 1,
            },
            tag: tag.as_bytes().into(),
            no_ack: false,
            exclusive: false,
            prefetch: 1,
            unacked: 0,
            priority,
            timeout_ms: None,
            leases: false,
        }
    }

    fn next(consumers: &mut Consumers) -> Option<String> {
        let (consumer, _) = consumers.next(|_| true)?;
        consumer.unacked += 1;
        Some(String::from_utf8_lossy(&consumer.tag).into_owned())
    }

    #[test]
    fn a_single_active_consumer_stays_until_it_leaves() {
        let mut consumers = Consumers::default();
        consumers.be_single(true, false);
        consumers.add(consumer("a", 0));
        assert_eq!(next(&mut consumers).as_deref(), Some("a"));
        consumers.add(consumer("b", 0));
        consumers.add(consumer("c", 5));
        assert_eq!(
            next(&mut consumers),
            None,
            "a has no credit, nobody else is asked"
        );
        let key = consumer("a", 0).key;
        consumers.remove(key, b"a");
        assert_eq!(next(&mut consumers).as_deref(), Some("c"));
        consumers.remove(key, b"c");
        assert_eq!(next(&mut consumers).as_deref(), Some("b"));
    }

    #[test]
    fn one_that_makes_way_does_so_when_its_messages_are_settled() {
        let mut consumers = Consumers::default();
        consumers.be_single(true, true);
        let key = consumer("a", 0).key;
        for tag in ["a", "a2"] {
            consumers.add(Consumer {
                prefetch: 2,
                ..consumer(tag, 0)
            });
        }
        assert_eq!(next(&mut consumers).as_deref(), Some("a"));
        consumers.add(consumer("high", 1));
        assert_eq!(next(&mut consumers), None, "a has room, but makes way");
        consumers.remove(key, b"high");
        assert_eq!(
            next(&mut consumers).as_deref(),
            Some("a"),
            "nobody is waited for"
        );
        consumers.add(consumer("higher", 2));
        assert_eq!(next(&mut consumers), None);
        consumers.find(key, b"a").expect("still there").unacked = 0;
        assert_eq!(next(&mut consumers).as_deref(), Some("higher"));
        consumers.find(key, b"higher").expect("there").unacked = 0;
        consumers.add(consumer("same", 2));
        assert_eq!(next(&mut consumers).as_deref(), Some("higher"));
    }
}
