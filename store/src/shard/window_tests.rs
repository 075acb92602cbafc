//! Deduplication windows, and exchanges whose keys are on disk, on the engine in memory, through
//! commits, crashes and policies.

use std::collections::{BTreeMap, BTreeSet};

use amqp::field::Value;
use proptest::prelude::*;

use super::*;
use crate::definitions::{ExchangeDeclare, QueueDeclare};
use crate::log::writer::encode;
use crate::model::{BindingSpec, DestinationKind};
use crate::rules::window::{ARGUMENT, HEADER};
use crate::shard::{Got, Run};
use crate::sql::Backend;
use crate::sql::memory::Memory;

const SPAN_MS: i64 = 3_600_000;
const EXCHANGE: &str = "once";

/// A node whose commits are made by hand.
struct World {
    shard: Shard,
    memory: Memory,
    key: ChannelKey,
    confirm: u64,
    commits: u64,
    under_way: Option<Cut>,
}

impl World {
    async fn open(memory: Memory) -> Self {
        let notify = || Arc::new(Notify::new());
        let mut shard = Shard::new(Options::default(), notify(), notify());
        let image = memory.load().await.expect("an image");
        crate::recover(&mut shard, image, &memory)
            .await
            .expect("recovered");
        let session = shard.open_session(notify());
        let key = ChannelKey {
            session,
            channel: 1,
        };
        shard.open_channel(key);
        Self {
            shard,
            memory,
            key,
            confirm: 0,
            commits: 0,
            under_way: None,
        }
    }

    fn declare(&mut self, name: &str, window: bool) {
        let mut arguments = Table::default();
        if window {
            arguments.insert(ARGUMENT, Value::I64(SPAN_MS));
        }
        let ask = QueueDeclare {
            name: name.into(),
            durable: true,
            arguments,
            ..QueueDeclare::default()
        };
        let declared = self.shard.declare_queue(self.key.session, &"/".into(), ask);
        declared.expect("declared");
        drop(self.shard.on_disk());
    }

    /// An exchange that keeps its keys on disk, with a queue that has no window.
    fn declare_exchange(&mut self, size: i32) {
        let mut arguments = Table::default();
        arguments.insert("x-cache-size", Value::I32(size));
        arguments.insert("x-cache-persistence", Value::text("disk"));
        let ask = ExchangeDeclare {
            name: EXCHANGE.into(),
            kind: "x-message-deduplication".into(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments,
        };
        let declared = self.shard.declare_exchange(&"/".into(), ask);
        declared.expect("declared");
        self.declare("q", false);
        let spec = BindingSpec {
            vhost: "/".into(),
            source: EXCHANGE.into(),
            destination_kind: DestinationKind::Queue,
            destination: "q".into(),
            routing_key: Vec::new(),
            arguments: Vec::new(),
        };
        self.shard.bind(spec).expect("bound");
    }

    /// Publishes one run, to a queue or to the exchange; answers the confirm number of its first.
    fn publish(&mut self, target: &str, ids: &[u8]) -> u64 {
        let mut block = Block::default();
        for id in ids {
            let mut headers = Table::default();
            headers.insert(HEADER, Value::Bytes(vec![b'k', *id]));
            let by_exchange = target == EXCHANGE;
            let properties = Properties {
                headers: by_exchange.then_some(headers),
                message_id: Some(vec![b'k', *id]),
                delivery_mode: Some(1 + id % 2),
                ..Properties::default()
            };
            let address = match by_exchange {
                true => Address::new(EXCHANGE.as_bytes(), b""),
                false => Address::new(b"", target.as_bytes()),
            };
            block.push(&address, &properties.encode(), &[*id]);
        }
        let (vhost, block): (Arc<str>, _) = ("/".into(), Arc::new(block));
        let first = self.confirm + 1;
        self.confirm += ids.len() as u64;
        let run = Run {
            channel: Some(self.key),
            count: ids.len() as u32,
            confirm: first,
            ..Run::alone(&vhost, &block)
        };
        self.shard.publish(&run).expect("published");
        first
    }

    fn cut(&mut self) {
        if self.under_way.is_none() {
            self.commits += 1;
            let mut cut = self.shard.cut(self.commits);
            encode(&mut cut);
            self.under_way = Some(cut);
        }
    }

    async fn commit(&mut self) {
        self.cut();
        let Some(mut cut) = self.under_way.take() else {
            return;
        };
        let batch = Arc::new(std::mem::take(&mut cut.batch));
        if !batch.is_empty() {
            self.memory
                .commit(batch, cut.sync)
                .await
                .expect("committed");
        }
        self.shard.committed(cut, &[]);
    }

    /// All that was done is on disk.
    async fn sync(&mut self) {
        if self.under_way.is_some() {
            self.commit().await;
        }
        drop(self.shard.on_disk());
        self.commit().await;
    }

    /// Numbers that were confirmed since the last call.
    fn confirmed(&mut self) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        for told in self.shard.take_outbox(self.key.session) {
            match told {
                Out::Confirm { first, count, .. } => out.extend(first..first + count),
                Out::Refuse { number, .. } => panic!("{number} was refused"),
                _ => {}
            }
        }
        out
    }

    /// What is in the queue, taken for good.
    async fn drain(&mut self, queue: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let id = self.shard.queue(0, "/", queue).expect("a queue");
        loop {
            match self.shard.get(id, self.key, true) {
                Got::Message { piece, .. } => out.push(piece.block.body(piece.index(0))[0]),
                Got::Empty => return out,
                Got::Later => {
                    self.commit().await;
                    for (id, segment) in std::mem::take(&mut self.shard.loads) {
                        self.load(id, segment).await;
                    }
                }
            }
        }
    }

    async fn load(&mut self, id: QueueId, segment: SegmentId) {
        let place = self
            .shard
            .queues
            .get(&id)
            .and_then(|q| q.log.place_of(segment));
        let (first, at) = place.expect("a known segment");
        let found = crate::read(&self.memory, segment, first, at).await;
        self.shard.loaded(id, segment, found);
    }

    async fn crash(self) -> Self {
        Self::open(self.memory.crash()).await
    }
}

#[tokio::test]
async fn a_duplicate_is_confirmed_with_what_it_repeats() {
    let mut world = World::open(Memory::new()).await;
    world.declare("q", true);
    world.commit().await;
    let first = world.publish("q", &[1]);
    world.cut();
    let again = world.publish("q", &[1]);
    assert_eq!(world.confirmed(), [].into());
    world.commit().await;
    assert_eq!(world.confirmed(), [first].into());
    assert_eq!(world.shard.counters.deduplicated, 1);
    world.commit().await;
    assert_eq!(world.confirmed(), [again].into());
    // A crash keeps the message and its key.
    let mut world = world.crash().await;
    world.publish("q", &[1, 2, 2]);
    assert_eq!(world.shard.counters.deduplicated, 2);
    assert_eq!(world.drain("q").await, [1, 2]);
}

#[tokio::test]
async fn nothing_is_done_with_before_its_key_is_on_disk() {
    let mut world = World::open(Memory::new()).await;
    world.declare("q", true);
    world.commit().await;
    // Both modes: a key shares its message's fate.
    world.publish("q", &[1, 2]);
    let id = world.shard.queue(0, "/", "q").expect("a queue");
    let found = world.shard.get(id, world.key, true);
    assert!(matches!(found, Got::Later), "not on disk yet");
    let mut world = world.crash().await;
    assert!(world.drain("q").await.is_empty(), "neither message nor key");
    world.publish("q", &[1, 2]);
    assert_eq!(world.drain("q").await, [1, 2]);
    let confirmed = world.confirmed();
    assert_eq!(confirmed, [1, 2].into());
    let mut world = world.crash().await;
    world.publish("q", &[1, 2, 3]);
    assert_eq!(world.drain("q").await.last(), Some(&3));
    assert_eq!(world.shard.counters.deduplicated, 2);
}

#[tokio::test]
async fn a_policy_changes_the_window_of_a_live_queue() {
    let mut world = World::open(Memory::new()).await;
    world.declare("q", false);
    world.publish("q", &[1, 1]);
    let policy = |ms: i64| {
        let mut definition = Table::default();
        definition.insert("deduplication-window", Value::I64(ms));
        PolicySpec {
            kind: PolicyKind::User,
            vhost: "/".into(),
            name: "p".into(),
            pattern: "^q$".into(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: definition.encode(),
        }
    };
    world.shard.put_policy(policy(SPAN_MS)).expect("a policy");
    world.publish("q", &[1, 1]);
    assert_eq!(world.drain("q").await, [1, 1, 1]);
    world.sync().await;
    let mut world = world.crash().await;
    world.publish("q", &[1]);
    assert_eq!(world.shard.counters.deduplicated, 1);
    world
        .shard
        .delete_policy(PolicyKind::User, "/", "p")
        .expect("no policy");
    world.publish("q", &[1]);
    world.commit().await;
    assert_eq!(world.drain("q").await, [1]);
    let image = world.memory.load().await.expect("an image");
    assert_eq!(image.deduplication, [], "its keys are gone");
    let refused = world
        .shard
        .put_policy(policy(10))
        .err()
        .map(|e| e.to_string());
    assert!(refused.is_some_and(|why| why.contains("10 is not within 1000 to 2592000000")));
}

#[tokio::test]
async fn beyond_the_most_keys_a_publish_is_refused() {
    let mut world = World::open(Memory::new()).await;
    world.declare("q", true);
    let id = world.shard.queue(0, "/", "q").expect("a queue");
    let window = world
        .shard
        .queues
        .get_mut(&id)
        .and_then(|q| q.window.as_mut());
    window.expect("a window").keep_at_most(2);
    world.publish("q", &[1, 2, 3, 1, 4]);
    world.sync().await;
    let (mut confirmed, mut refused) = (Vec::new(), Vec::new());
    for told in world.shard.take_outbox(world.key.session) {
        match told {
            Out::Confirm { first, count, .. } => confirmed.extend(first..first + count),
            Out::Refuse { number, .. } => refused.push(number),
            _ => {}
        }
    }
    assert_eq!((confirmed, refused), (vec![1, 2, 4], vec![3, 5]));
    let mut block = Block::default();
    for id in [3, 1] {
        let properties = Properties {
            message_id: Some(vec![b'k', id]),
            ..Properties::default()
        };
        block.push(&Address::new(b"", b"q"), &properties.encode(), b"");
    }
    assert!(world.shard.refuses_message(id, &block, 0));
    assert!(!world.shard.refuses_message(id, &block, 1), "a duplicate");
    assert_eq!(world.drain("q").await, [1, 2]);
}

#[tokio::test]
async fn a_deleted_queue_forgets_its_keys() {
    let mut world = World::open(Memory::new()).await;
    world.declare("q", true);
    world.publish("q", &[1]);
    world.commit().await;
    let id = world.shard.queue(0, "/", "q").expect("a queue");
    world.shard.drop_queue(id);
    world.declare("q", true);
    world.publish("q", &[1]);
    assert_eq!(world.drain("q").await, [1]);
    let image = world.memory.load().await.expect("an image");
    assert_eq!(image.deduplication.len(), 1);
}

#[tokio::test]
async fn an_exchange_that_keeps_its_keys_knows_them_after_a_crash() {
    let mut world = World::open(Memory::new()).await;
    world.declare_exchange(3);
    world.commit().await;
    world.publish(EXCHANGE, &[1, 2, 1]);
    let id = world.shard.queue(0, "/", "q").expect("a queue");
    let found = world.shard.get(id, world.key, true);
    assert!(matches!(found, Got::Later), "not on disk yet");
    assert_eq!(world.confirmed(), [].into(), "nor is what it repeats");
    let mut world = world.crash().await;
    world.publish(EXCHANGE, &[1, 2, 1]);
    assert_eq!(
        world.drain("q").await,
        [1, 2],
        "neither message nor key was there"
    );
    world.sync().await;
    assert_eq!(world.confirmed(), [1, 2, 3].into());
    let mut world = world.crash().await;
    let hidden = crate::topology::duplicates::queue_name(EXCHANGE);
    assert!(
        world.shard.queue(0, "/", &hidden).is_err(),
        "no client sees it"
    );
    world.publish(EXCHANGE, &[2, 3, 4, 1]);
    assert_eq!(world.drain("q").await, [3, 4, 1], "three keys are kept");
    world
        .shard
        .delete_exchange(&"/".into(), EXCHANGE, false)
        .expect("deleted");
    world.sync().await;
    let image = world.memory.load().await.expect("an image");
    assert_eq!(image.deduplication, [], "its keys went with it");
    assert_eq!(image.queues.len(), 1);
}

#[derive(Clone, Debug)]
enum Op {
    Publish(Vec<u8>),
    Cut,
    Commit,
    Drain,
    Purge,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop::collection::vec(0..12u8, 1..5).prop_map(Op::Publish),
        3 => Just(Op::Cut),
        3 => Just(Op::Commit),
        1 => Just(Op::Drain),
        1 => Just(Op::Purge),
        2 => Just(Op::Crash),
    ]
}

/// A publisher that repeats what was not confirmed, and a consumer: each key is worked on at most
/// once, and once it was confirmed it is there.
async fn check(ops: Vec<Op>, target: &str) {
    let mut world = World::open(Memory::new()).await;
    match target {
        EXCHANGE => world.declare_exchange(100),
        _ => world.declare(target, true),
    }
    world.commit().await;
    // Confirm number to id, of those that wait.
    let mut waiting: BTreeMap<u64, u8> = BTreeMap::new();
    let (mut confirmed, mut worked) = (BTreeSet::new(), BTreeSet::new());
    let mut purged = BTreeSet::new();
    for op in ops.into_iter().chain([Op::Commit, Op::Crash, Op::Drain]) {
        match op {
            Op::Publish(ids) => {
                let first = world.publish(target, &ids);
                waiting.extend((first..).zip(ids));
            }
            Op::Cut => world.cut(),
            Op::Commit => world.commit().await,
            Op::Drain => {
                for id in world.drain("q").await {
                    assert!(worked.insert(id), "{id} came twice");
                }
                world.sync().await;
            }
            Op::Purge => {
                world.sync().await;
                let id = world.shard.queue(0, "/", "q").expect("a queue");
                world.shard.purge(id);
                purged.extend(0..12u8);
                world.sync().await;
            }
            Op::Crash => {
                let told = world.confirmed();
                confirmed.extend(told.iter().filter_map(|number| waiting.get(number)));
                world = world.crash().await;
                waiting.clear();
            }
        }
        let told = world.confirmed();
        confirmed.extend(told.iter().filter_map(|number| waiting.remove(number)));
    }
    for id in &confirmed {
        assert!(worked.contains(id) || purged.contains(id), "{id} is lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_confirmed_is_worked_on_once(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(check(ops.clone(), "q"));
        runtime.block_on(check(ops, EXCHANGE));
    }
}
