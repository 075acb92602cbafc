//! Publishers of full queues that block, on a store with the engine in memory.

use std::time::Duration;

use amqp::field::Value;

use super::*;
use crate::Store;
use crate::definitions::QueueDeclare;
use crate::shard::Got;
use crate::sql::memory::Memory;

/// A store, and a publisher's channel.
struct Stage {
    store: Store,
    key: ChannelKey,
}

impl Stage {
    async fn start() -> Self {
        let store = Store::open(Arc::new(Memory::default()), Options::default());
        let store = store.await.expect("a start");
        let key = open(&store);
        Self { store, key }
    }

    fn declare(&self, name: &str, arguments: &[(&str, Value)]) -> QueueId {
        let mut table = Table::default();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        let ask = QueueDeclare {
            name: name.into(),
            durable: true,
            arguments: table,
            ..QueueDeclare::default()
        };
        let mut shard = self.store.lock();
        let declared = shard.declare_queue(0, &"/".into(), ask);
        declared.expect("declared");
        shard.queue(0, "/", name).expect("a queue")
    }

    /// A queue that blocks at so many messages.
    fn blocking(&self, name: &str, max: i64) -> QueueId {
        self.declare(name, &[("x-max-length", Value::I64(max)), block()])
    }

    fn publish_from(&self, key: ChannelKey, exchange: &str, routing_key: &str, count: u32) {
        let mut block = Block::default();
        for _ in 0..count {
            let address = Address::new(exchange.as_bytes(), routing_key.as_bytes());
            block.push(&address, &Properties::default().encode(), b"12345");
        }
        let (vhost, block) = ("/".into(), Arc::new(block));
        let run = Run {
            vhost: &vhost,
            channel: Some(key),
            block: &block,
            first: 0,
            count,
            confirm: 1,
            mandatory: false,
            copies: &[],
        };
        let published = self.store.lock().publish(&run);
        assert!(published.expect("published").is_empty());
    }

    fn publish(&self, queue: &str, count: u32) {
        self.publish_from(self.key, "", queue, count);
    }

    fn take(&self, id: QueueId, count: u32) {
        for _ in 0..count {
            let got = self.store.lock().get(id, self.key, true);
            assert!(matches!(got, Got::Message { .. }));
        }
    }

    fn ready(&self, id: QueueId) -> u64 {
        self.store.lock().queues[&id].log.ready()
    }

    fn is_stopped(&self) -> bool {
        self.store.lock().is_stopped(self.key.session)
    }

    /// What its client was told since the last time.
    fn told(&self) -> Vec<String> {
        told(&self.store, self.key)
    }

    fn lay(&self, definition: &[(&str, Value)]) {
        let mut table = Table::default();
        for (key, value) in definition {
            table.insert(key, value.clone());
        }
        let policy = PolicySpec {
            kind: PolicyKind::User,
            vhost: "/".into(),
            name: "p".into(),
            pattern: ".*".into(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: table.encode(),
        };
        self.store.lock().put_policy(policy).expect("a policy");
    }
}

fn block() -> (&'static str, Value) {
    ("x-overflow", Value::text("block"))
}

fn open(store: &Store) -> ChannelKey {
    let mut shard = store.lock();
    let session = shard.open_session(Arc::default());
    let key = ChannelKey {
        session,
        channel: 1,
    };
    shard.open_channel(key);
    key
}

fn told(store: &Store, key: ChannelKey) -> Vec<String> {
    let outbox = store.lock().take_outbox(key.session);
    let words = outbox.into_iter().filter_map(|out| match out {
        Out::Blocked(reason) => Some(reason),
        Out::Unblocked => Some("go on".into()),
        Out::Refuse { .. } => Some("refused".into()),
        _ => None,
    });
    words.collect()
}

fn full(name: &str) -> String {
    format!("queue '{name}' in vhost '/' is full")
}

#[tokio::test]
async fn a_full_queue_takes_what_comes_and_stops_who_sent_it() {
    let stage = Stage::start().await;
    let id = stage.blocking("q", 10);
    let other = open(&stage.store);
    stage.publish("q", 9);
    assert!(!stage.is_stopped() && stage.told().is_empty());
    stage.publish("q", 6);
    assert!(stage.is_stopped());
    assert_eq!(stage.told(), [full("q")], "told once, and nothing refused");
    assert_eq!(stage.ready(id), 15, "what has been read is taken");
    stage.publish_from(other, "", "q", 1);
    assert_eq!(told(&stage.store, other), [full("q")]);
    assert_eq!(stage.store.stats().publishers_stopped, 2);
    stage.take(id, 6);
    assert!(
        stage.is_stopped() && stage.told().is_empty(),
        "ten are left"
    );
    stage.take(id, 1);
    assert!(!stage.is_stopped());
    assert_eq!(stage.told(), ["go on"]);
    assert_eq!(told(&stage.store, other), ["go on"]);
}

#[tokio::test]
async fn confirms_come_though_the_publisher_is_stopped() {
    let stage = Stage::start().await;
    stage.blocking("q", 2);
    stage.publish("q", 5);
    assert!(stage.is_stopped());
    stage.store.on_disk().await.expect("on disk");
    let outbox = stage.store.lock().take_outbox(stage.key.session);
    let confirmed = outbox.iter().map(|out| match out {
        Out::Confirm { count, .. } => *count,
        Out::Refuse { .. } => panic!("refused"),
        _ => 0,
    });
    // Transient messages, which wait for no disk.
    assert_eq!(confirmed.sum::<u64>(), 5);
}

#[tokio::test]
async fn a_message_that_a_consumer_takes_at_once_fills_no_queue() {
    let stage = Stage::start().await;
    let id = stage.blocking("q", 0);
    let consumer = Consumer {
        key: open(&stage.store),
        tag: Arc::from(&b"c"[..]),
        no_ack: false,
        exclusive: false,
        prefetch: 3,
        unacked: 0,
        priority: 0,
        timeout_ms: None,
        leases: false,
    };
    let key = consumer.key;
    stage
        .store
        .lock()
        .consume(id, consumer)
        .expect("a consumer");
    stage.publish("q", 3);
    assert!(!stage.is_stopped(), "a limit of none is one of one");
    stage.publish("q", 1);
    assert!(stage.is_stopped());
    assert!(stage.store.lock().ack(key, 1, false));
    assert_eq!(stage.told(), [full("q"), "go on".into()]);
    assert_eq!(stage.ready(id), 0);
}

#[tokio::test]
async fn bytes_fill_a_queue_as_well() {
    let stage = Stage::start().await;
    let id = stage.declare("q", &[("x-max-length-bytes", Value::I64(50)), block()]);
    stage.publish("q", 9);
    assert!(!stage.is_stopped());
    stage.publish("q", 1);
    assert!(stage.is_stopped());
    stage.take(id, 1);
    assert!(!stage.is_stopped(), "45 of 50");
}

/// Whatever makes room, or takes the limit away, lets publishers go.
#[tokio::test]
async fn every_way_out_of_a_queue_lets_publishers_go() {
    let stage = Stage::start().await;
    type Way = fn(&Stage, QueueId);
    let ways: &[(&str, Way)] = &[
        ("purge", |stage, id| _ = stage.store.lock().purge(id)),
        ("delete", |stage, id| _ = stage.store.lock().drop_queue(id)),
        ("remove", |stage, id| {
            let removed = stage.store.lock().remove_ready(id, &[0, 1, 2]);
            assert_eq!(removed, 3);
        }),
        ("more", |stage, _| {
            stage.lay(&[("max-length", Value::I64(100))]);
        }),
        ("other", |stage, _| {
            let overflow = Value::text("reject-publish");
            stage.lay(&[("max-length", Value::I64(3)), ("overflow", overflow)]);
        }),
        ("none", |stage, _| {
            let policy = stage.store.lock().delete_policy(PolicyKind::User, "/", "p");
            policy.expect("a policy");
        }),
        ("expire", |stage, id| {
            let overflow = Value::text("block");
            let ttl = ("message-ttl", Value::I64(1));
            stage.lay(&[("max-length", Value::I64(3)), ("overflow", overflow), ttl]);
            std::thread::sleep(Duration::from_millis(5));
            stage.store.lock().tick();
            assert_eq!(stage.ready(id), 0);
        }),
    ];
    for (name, way) in ways {
        stage.lay(&[
            ("max-length", Value::I64(3)),
            ("overflow", Value::text("block")),
        ]);
        let id = stage.declare(name, &[]);
        stage.publish(name, 3);
        assert!(stage.is_stopped(), "{name}");
        way(&stage, id);
        assert!(!stage.is_stopped(), "{name}");
        assert_eq!(stage.told(), [full(name), "go on".into()]);
        stage.lay(&[
            ("max-length", Value::I64(3)),
            ("overflow", Value::text("block")),
        ]);
        stage.store.lock().drop_queue(id);
    }
}

#[tokio::test]
async fn a_publisher_goes_on_when_all_that_stopped_it_is_over() {
    let stage = Stage::start().await;
    let (a, b) = (stage.blocking("a", 1), stage.blocking("b", 1));
    stage.publish("a", 1);
    stage.publish("b", 1);
    let both = format!("{} & {}", full("a"), full("b"));
    assert_eq!(stage.told(), [full("a"), both.clone()]);
    let alarm = |holds| stage.store.set_alarm(Cause::DiskFree, holds);
    alarm(true);
    assert_eq!(stage.told(), [format!("low on disk & {both}")]);
    stage.take(a, 1);
    assert!(stage.told().is_empty());
    alarm(false);
    assert!(stage.is_stopped() && stage.told().is_empty(), "b is full");
    alarm(true);
    stage.take(b, 1);
    let reason = stage.store.lock().reason_to_wait(stage.key.session);
    assert_eq!(reason.as_deref(), Some("low on disk"));
    alarm(false);
    assert_eq!(stage.told().last().map(String::as_str), Some("go on"));
    assert!(!stage.is_stopped());
}

#[tokio::test]
async fn a_publisher_that_leaves_is_forgotten() {
    let stage = Stage::start().await;
    let id = stage.blocking("q", 10);
    let gone = open(&stage.store);
    stage.publish_from(gone, "", "q", 12);
    stage.store.lock().close_session(gone.session, true);
    assert!(!stage.store.lock().queues[&id].stops_publishers);
    assert!(!stage.store.lock().is_stopped(gone.session));
    stage.take(id, 3);
    // Nobody waits, so nine are nine below ten.
    stage.publish("q", 1);
    assert!(stage.is_stopped(), "it is at its limit");
}

#[tokio::test]
async fn what_moves_by_itself_is_neither_refused_nor_lost() {
    let stage = Stage::start().await;
    let full_one = stage.blocking("full", 1);
    let to_full = ("x-dead-letter-routing-key", Value::text("full"));
    let source = stage.declare("s", &[("x-dead-letter-exchange", Value::text("")), to_full]);
    stage.publish("full", 1);
    stage.publish("s", 3);
    let tags: Vec<u64> = (0..3)
        .map(|_| match stage.store.lock().get(source, stage.key, false) {
            Got::Message { tag, .. } => tag,
            _ => panic!("no message"),
        })
        .collect();
    let last = tags.last().copied().unwrap_or_default();
    assert!(stage.store.lock().nack(stage.key, last, true, false));
    assert_eq!((stage.ready(full_one), stage.ready(source)), (4, 0));
    stage.take(full_one, 4);
    assert!(!stage.is_stopped());
}

#[tokio::test]
async fn who_cannot_be_stopped_finds_no_room() {
    let stage = Stage::start().await;
    let id = stage.blocking("q", 2);
    let three = vec![(Properties::default().encode(), b"1".to_vec()); 3];
    let accepted = stage.store.publish_to_queue(("/", "q"), &three, None);
    assert_eq!(accepted.await.expect("published"), [true, true, false]);
    assert_eq!(stage.ready(id), 2, "what is not taken is not there");
    let accepted = stage.store.publish_to_queue(("/", "q"), &three, None);
    assert_eq!(accepted.await.expect("published"), [false; 3]);
    assert_eq!(stage.ready(id), 2);
    assert!(!stage.store.lock().has_room(id, 1, 1));
    stage.take(id, 2);
    assert!(stage.store.lock().has_room(id, 2, 1));
}
