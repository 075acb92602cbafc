//! Keys that exchanges took for the messages of a run, until it is known that those were accepted.
//!
//! Keeps: whoever is told that a message was not accepted, or whose message found no queue, may
//! publish it again and is no duplicate then; with it, that keys for the disk go with the next
//! commit. The plug-in knows no giving back.
//! In: `route` and `publish`, for runs through an `x-message-deduplication` exchange.

use super::*;
use crate::topology::duplicates::Key;

pub(super) struct Taken {
    block: Arc<Block>,
    /// Index in the block, exchange, key.
    keys: Vec<(u32, Arc<str>, Key)>,
    /// Indexes of messages that were not accepted, the last one included.
    refused: Vec<(u32, u32)>,
}

impl Shard {
    /// What the last look took belongs to this message.
    pub(super) fn note_taken(&mut self, run: &Run<'_>, index: u32) {
        let Some(names) = self.vhosts.get_mut(run.vhost) else {
            return;
        };
        if names.taken.is_empty() && names.kept.is_empty() {
            return;
        }
        if !names.kept.is_empty() {
            self.disk_first = true;
            self.note_kept(run.vhost);
        }
        let Some(names) = self.vhosts.get_mut(run.vhost) else {
            return;
        };
        let taken = self.taken.get_or_insert_with(|| Taken {
            block: run.block.clone(),
            keys: Vec::new(),
            refused: Vec::new(),
        });
        let keys = names.taken.drain(..);
        taken
            .keys
            .extend(keys.map(|(exchange, key)| (index, exchange, key)));
    }

    /// Keys that the last look may have taken go with the next commit.
    pub(super) fn note_kept(&mut self, vhost: &str) {
        let Some(names) = self.vhosts.get_mut(vhost) else {
            return;
        };
        for id in names.kept.drain(..) {
            if let Some(queue) = self.queues.get_mut(&id) {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
        }
    }

    /// These messages were not accepted.
    pub(super) fn note_refused(&mut self, block: &Arc<Block>, first: u32, count: u32) {
        // What they drive out is of other blocks.
        if let Some(taken) = &mut self.taken
            && Arc::ptr_eq(&taken.block, block)
        {
            let last = first.saturating_add(count - 1);
            // A full queue refuses many, one after the other.
            match taken.refused.last_mut() {
                Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
                _ => taken.refused.push((first, last)),
            }
        }
    }

    /// The run is over: keys of refused messages are free again.
    pub(super) fn free_refused(&mut self, vhost: &str) {
        let Some(taken) = self.taken.take() else {
            return;
        };
        let Some(names) = self.vhosts.get_mut(vhost) else {
            return;
        };
        for (index, exchange, key) in &taken.keys {
            let is_in = |(first, last): &(u32, u32)| (*first..=*last).contains(index);
            if taken.refused.iter().any(is_in) {
                names.give_back(exchange, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use amqp::field::Value;

    use super::*;
    use crate::Store;
    use crate::definitions::{ExchangeDeclare, QueueDeclare};
    use crate::model::{BindingSpec, DestinationKind};
    use crate::sql::memory::Memory;
    use crate::topology::duplicates::HEADER;

    /// A deduplicating exchange before a work queue that refuses a second message.
    async fn world() -> (Store, ChannelKey, QueueId) {
        let store = Store::open(Arc::new(Memory::default()), Options::default());
        let store = store.await.expect("a start");
        let mut shard = store.lock();
        let session = shard.open_session(Arc::default());
        let key = ChannelKey {
            session,
            channel: 1,
        };
        shard.open_channel(key);
        let mut arguments = Table::default();
        arguments.insert("x-cache-size", Value::I32(100));
        let ask = ExchangeDeclare {
            name: "once".into(),
            kind: "x-message-deduplication".into(),
            durable: false,
            auto_delete: false,
            internal: false,
            arguments,
        };
        shard.declare_exchange(&"/".into(), ask).expect("declared");
        let mut arguments = Table::default();
        arguments.insert("x-retry-limit", Value::I32(3));
        arguments.insert("x-max-length", Value::I32(1));
        arguments.insert("x-overflow", Value::text("reject-publish"));
        let ask = QueueDeclare {
            name: "q".into(),
            arguments,
            ..QueueDeclare::default()
        };
        let declared = shard.declare_queue(session, &"/".into(), ask);
        declared.expect("declared");
        let id = shard.queue(session, "/", "q").expect("a queue");
        drop(shard);
        (store, key, id)
    }

    fn bind(store: &Store) {
        let spec = BindingSpec {
            vhost: "/".into(),
            source: "once".into(),
            destination_kind: DestinationKind::Queue,
            destination: "q".into(),
            routing_key: Vec::new(),
            arguments: Vec::new(),
        };
        store.lock().bind(spec).expect("bound");
    }

    /// Messages with these keys in one run, each perhaps with a header that no work queue takes;
    /// which were confirmed, which refused, by number from 1.
    fn publish(
        store: &Store,
        key: ChannelKey,
        messages: &[(&str, bool)],
    ) -> (Vec<u64>, Vec<u64>, bool) {
        let mut block = Block::default();
        for (name, unsound) in messages {
            let mut headers = Table::default();
            headers.insert(HEADER, Value::text(name));
            if *unsound {
                headers.insert("x-delay", Value::text("soon"));
            }
            let properties = Properties {
                headers: Some(headers),
                ..Properties::default()
            };
            block.push(&Address::new(b"once", b""), &properties.encode(), b"x");
        }
        let (vhost, block) = (Arc::from("/"), Arc::new(block));
        let run = Run {
            channel: Some(key),
            confirm: 1,
            count: messages.len() as u32,
            ..Run::alone(&vhost, &block)
        };
        let mut shard = store.lock();
        let is_sound = shard.publish(&run).is_ok();
        let (mut confirmed, mut refused) = (Vec::new(), Vec::new());
        for out in shard.take_outbox(key.session) {
            match out {
                Out::Confirm { first, count, .. } => confirmed.extend(first..first + count),
                Out::Refuse { number, .. } => refused.push(number),
                _ => {}
            }
        }
        confirmed.sort_unstable();
        (confirmed, refused, is_sound)
    }

    fn take_one(store: &Store, id: QueueId, key: ChannelKey) {
        let got = store.lock().get(id, key, true);
        assert!(matches!(got, Got::Message { .. }));
    }

    #[tokio::test]
    async fn who_was_refused_may_come_again() {
        let (store, key, id) = world().await;
        bind(&store);
        let (confirmed, refused, _) = publish(&store, key, &[("a", false), ("b", false)]);
        assert_eq!((confirmed, refused), (vec![1], vec![2]));
        take_one(&store, id, key);
        let (confirmed, refused, _) = publish(&store, key, &[("b", false), ("a", false)]);
        assert_eq!((confirmed, refused), (vec![1, 2], vec![]));
        take_one(&store, id, key);
        let got = store.lock().get(id, key, true);
        assert!(matches!(got, Got::Empty), "a was a duplicate");
    }

    #[tokio::test]
    async fn an_unsound_message_and_those_behind_it_take_no_key() {
        let (store, key, id) = world().await;
        bind(&store);
        let (confirmed, _, is_sound) =
            publish(&store, key, &[("a", false), ("b", true), ("c", false)]);
        assert_eq!((confirmed, is_sound), (vec![1], false));
        take_one(&store, id, key);
        for name in ["b", "c"] {
            assert_eq!(publish(&store, key, &[(name, false)]).0, [1]);
            take_one(&store, id, key);
        }
    }

    #[tokio::test]
    async fn what_reached_no_queue_takes_no_key() {
        let (store, key, id) = world().await;
        assert_eq!(publish(&store, key, &[("a", false)]).0, [1]);
        bind(&store);
        assert_eq!(publish(&store, key, &[("a", false)]).0, [1]);
        take_one(&store, id, key);
    }
}
