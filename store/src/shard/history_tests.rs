//! The queues of a node under random histories with crashes, on the engine in memory.
//!
//! Keeps: confirmed messages survive (I2) in one place (I1), what was acknowledged on disk stays
//! away, and a message that comes again says so (I3).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::definitions::QueueDeclare;
use crate::log::writer::encode;
use crate::queue::Thrift;
use crate::sql::Backend;
use crate::sql::memory::Memory;

#[derive(Clone, Debug)]
enum Op {
    Publish { target: u8, count: u32 },
    Consume { queue: u8, prefetch: u32 },
    Ack { nth: usize, multiple: bool },
    Nack { nth: usize, requeue: bool },
    CloseChannel(u8),
    Tick,
    Cut,
    Commit,
    Spill,
    Crash { arrived: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3u8, 1..4u32).prop_map(|(target, count)| Op::Publish { target, count }),
        3 => (0..4u8, 1..5u32).prop_map(|(queue, prefetch)| Op::Consume { queue, prefetch }),
        6 => (0..20usize, any::<bool>()).prop_map(|(nth, multiple)| Op::Ack { nth, multiple }),
        5 => (0..20usize, any::<bool>()).prop_map(|(nth, requeue)| Op::Nack { nth, requeue }),
        1 => (0..3u8).prop_map(Op::CloseChannel),
        2 => Just(Op::Tick),
        4 => Just(Op::Cut),
        4 => Just(Op::Commit),
        1 => Just(Op::Spill),
        1 => any::<bool>().prop_map(|arrived| Op::Crash { arrived }),
    ]
}

const QUEUES: [&str; 4] = ["plain", "work", "dead", "work.dlq"];

/// Where a copy came to first: dead letters stay copies of that.
fn origin(queue: &str) -> &'static str {
    match queue {
        "plain" | "dead" => "plain",
        _ => "work",
    }
}

#[derive(Default)]
struct Copy {
    confirmed: bool,
    /// The number of the cut that takes the acknowledgement.
    acked_in: Option<u64>,
}

struct World {
    memory: Memory,
    shard: Shard,
    session: usize,
    cut: Option<Cut>,
    cuts: u64,
    committed: u64,
    last_id: u64,
    last_confirm: u64,
    merges: u64,
    numbers: BTreeMap<u64, u64>,
    copies: BTreeMap<(&'static str, u64), Copy>,
    /// (channel, tag) → queue, id.
    unacked: BTreeMap<(u16, u64), (&'static str, u64)>,
    seen: BTreeSet<(&'static str, u64)>,
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

fn start(memory: &Memory) -> Shard {
    let told = || Arc::new(Notify::new());
    let mut shard = Shard::new(Options::default(), told(), told());
    wait(async {
        let image = memory.load().await.expect("an image");
        crate::recover(&mut shard, image, memory)
            .await
            .expect("a start");
    });
    shard
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        let shard = start(&memory);
        let mut world = Self {
            memory,
            shard,
            session: 0,
            cut: None,
            cuts: 0,
            committed: 0,
            last_id: 0,
            last_confirm: 0,
            merges: 0,
            numbers: BTreeMap::new(),
            copies: BTreeMap::new(),
            unacked: BTreeMap::new(),
            seen: BTreeSet::new(),
        };
        world.connect();
        world.declare();
        world.be_thrifty();
        world.commit_all();
        world
    }

    /// Merges what would be too few elsewhere.
    fn connect(&mut self) {
        self.be_thrifty();
        self.session = self.shard.open_session(Arc::new(Notify::new()));
        (1..=4).for_each(|channel| self.shard.open_channel(self.key(channel)));
    }

    fn be_thrifty(&mut self) {
        for queue in self.shard.queues.values_mut() {
            queue.log.thrift = Thrift {
                small_count: 3,
                sparse_share: 2,
                sparse_bytes: 0,
                sparse_age: 1,
                ..Thrift::default()
            };
        }
    }

    fn key(&self, channel: u16) -> ChannelKey {
        ChannelKey {
            session: self.session,
            channel,
        }
    }

    fn declare(&mut self) {
        use amqp::field::Value;
        let vhost: Arc<str> = "/".into();
        let plain = [
            ("x-dead-letter-exchange", Value::text("")),
            ("x-dead-letter-routing-key", Value::text("dead")),
            ("x-max-length", Value::I32(12)),
            // No limit, but returns are counted.
            ("x-delivery-limit", Value::I32(-1)),
        ];
        let work = [
            ("x-retry-limit", Value::I32(1)),
            ("x-retry-delay", Value::I32(0)),
        ];
        for (name, arguments) in [("plain", &plain[..]), ("work", &work), ("dead", &[])] {
            let mut ask = QueueDeclare {
                name: name.into(),
                durable: true,
                ..QueueDeclare::default()
            };
            for (key, value) in arguments {
                ask.arguments.insert(key, value.clone());
            }
            let declared = self.shard.declare_queue(self.session, &vhost, ask);
            declared.expect("a queue");
        }
        for name in ["plain", "work"] {
            let bound = self.shard.bind(BindingSpec {
                vhost: vhost.clone(),
                source: "amq.fanout".into(),
                destination_kind: DestinationKind::Queue,
                destination: name.into(),
                routing_key: Vec::new(),
                arguments: Vec::new(),
            });
            bound.expect("a binding");
        }
    }

    fn play(&mut self, op: &Op) {
        match *op {
            Op::Publish { target, count } => self.publish(target, count),
            Op::Consume { queue, prefetch } => self.consume(queue, prefetch),
            Op::Ack { nth, multiple } => self.ack(nth, multiple),
            Op::Nack { nth, requeue } => {
                if let Some((channel, tag)) = self.pick(nth) {
                    let (queue, id) = self.unacked[&(channel, tag)];
                    if !requeue && origin(queue) != queue {
                        // Dead letters go nowhere: that is their end.
                        self.end_of(queue, id);
                    }
                    self.unacked.remove(&(channel, tag));
                    assert!(self.shard.nack(self.key(channel), tag, false, requeue));
                }
            }
            Op::CloseChannel(channel) => {
                let channel = u16::from(channel) + 2;
                self.listen();
                self.unacked.retain(|(known, _), _| *known != channel);
                let key = self.key(channel);
                self.shard.close_channel(key, channel == 2);
                self.shard.open_channel(key);
            }
            Op::Tick => {
                self.shard.tick();
                self.serve();
            }
            Op::Cut => self.take_cut(),
            Op::Commit => self.commit(),
            Op::Spill => {
                for queue in self.shard.queues.values_mut() {
                    queue.log.evict(0, true);
                }
            }
            Op::Crash { arrived } => self.crash(arrived),
        }
        self.listen();
        for queue in self.shard.queues.values() {
            queue.log.check();
        }
    }

    fn publish(&mut self, target: u8, count: u32) {
        let (exchange, key, origins) = match target {
            0 => ("", "plain", &["plain"][..]),
            1 => ("", "work", &["work"][..]),
            _ => ("amq.fanout", "", &["plain", "work"][..]),
        };
        let properties = Properties {
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let mut block = Block::default();
        let first = self.last_confirm + 1;
        for _ in 0..count {
            self.last_id += 1;
            self.last_confirm += 1;
            self.numbers.insert(self.last_confirm, self.last_id);
            let address = Address::new(exchange.as_bytes(), key.as_bytes());
            let body = self.last_id.to_be_bytes();
            block.push(&address, &properties.encode(), &body);
            for &origin in origins {
                self.copies.insert((origin, self.last_id), Copy::default());
            }
        }
        let (vhost, block) = ("/".into(), Arc::new(block));
        let run = Run {
            channel: Some(self.key(1)),
            count,
            confirm: first,
            ..Run::alone(&vhost, &block)
        };
        let unroutable = self.shard.publish(&run).expect("an exchange");
        assert_eq!(unroutable, []);
    }

    fn id_of(&self, queue: &str) -> Option<QueueId> {
        self.shard.queue(self.session, "/", queue).ok()
    }

    fn consume(&mut self, queue: u8, prefetch: u32) {
        let name = QUEUES[usize::from(queue)];
        let (Some(id), key) = (self.id_of(name), self.key(u16::from(queue % 3) + 2)) else {
            return;
        };
        if self.shard.has_consumer(key, name.as_bytes()) {
            return self.shard.cancel(key, name.as_bytes());
        }
        let consumer = Consumer {
            key,
            tag: name.as_bytes().into(),
            no_ack: false,
            exclusive: false,
            prefetch,
            unacked: 0,
            priority: 0,
            timeout_ms: None,
            leases: false,
        };
        self.shard.consume(id, consumer).expect("a consumer");
        self.shard.pump(id);
    }

    fn pick(&self, nth: usize) -> Option<(u16, u64)> {
        let n = self.unacked.len();
        self.unacked.keys().nth(nth % n.max(1)).copied()
    }

    fn ack(&mut self, nth: usize, multiple: bool) {
        let Some((channel, tag)) = self.pick(nth) else {
            return;
        };
        self.listen();
        let from = if multiple { 0 } else { tag };
        let known = self.unacked.range((channel, from)..=(channel, tag));
        let gone: Vec<_> = known.map(|(key, copy)| (*key, *copy)).collect();
        assert!(self.shard.ack(self.key(channel), tag, multiple));
        for (key, (queue, id)) in gone {
            self.unacked.remove(&key);
            self.end_of(queue, id);
        }
    }

    fn end_of(&mut self, queue: &str, id: u64) {
        let copy = self.copies.get_mut(&(origin(queue), id)).expect("a copy");
        copy.acked_in = Some(self.cuts + 1);
    }

    fn take_cut(&mut self) {
        if self.cut.is_none() {
            self.cuts += 1;
            let mut cut = self.shard.cut(self.cuts);
            encode(&mut cut);
            self.cut = Some(cut);
        }
    }

    fn store(&self, cut: &mut Cut) {
        let batch = Arc::new(std::mem::take(&mut cut.batch));
        wait(self.memory.commit(batch.clone(), true)).expect("a commit");
        cut.batch.jobs.clone_from(&batch.jobs);
    }

    fn commit(&mut self) {
        if let Some(mut cut) = self.cut.take() {
            self.store(&mut cut);
            self.committed = self.cuts;
            self.shard.committed(cut, &[]);
        }
    }

    fn commit_all(&mut self) {
        self.commit();
        self.take_cut();
        self.commit();
        self.serve();
    }

    /// What the loader does.
    fn serve(&mut self) {
        for (queue, segment) in std::mem::take(&mut self.shard.loads) {
            let log = self.shard.queues.get(&queue).map(|queue| &queue.log);
            let Some((first, at)) = log.and_then(|log| log.place_of(segment)) else {
                continue;
            };
            let found = wait(crate::read(&self.memory, segment, first, at));
            self.shard.loaded(queue, segment, found);
        }
        if let Some(merge) = self.shard.merge.take() {
            let joined = wait(crate::read_together(&self.memory, &merge));
            assert!(joined.is_some(), "sound rows");
            self.merges += 1;
            self.shard.merged(&merge, joined);
        }
        for (queue, seqs) in std::mem::take(&mut self.shard.due_reads) {
            let rows = wait(self.memory.read_waiting(queue, seqs.clone()));
            let rows = rows.expect("rows");
            rows.iter().for_each(|row| self.shard.woken(row));
            self.shard.not_there_yet(queue, &seqs);
        }
    }

    /// What the client hears.
    fn listen(&mut self) {
        self.serve();
        for out in self.shard.take_outbox(self.session) {
            match out {
                Out::Deliver {
                    channel,
                    tag,
                    first,
                    piece,
                    redelivered,
                } => {
                    let queue = *QUEUES.iter().find(|q| q.as_bytes() == &*tag).expect("one");
                    for offset in 0..piece.count {
                        let id = self.see(queue, &piece, offset, redelivered);
                        let tag = first + u64::from(offset);
                        self.unacked.insert((channel, tag), (queue, id));
                    }
                }
                Out::Confirm { first, count, .. } => {
                    for number in first..first + count {
                        let id = self.numbers[&number];
                        for origin in ["plain", "work"] {
                            if let Some(copy) = self.copies.get_mut(&(origin, id)) {
                                copy.confirmed = true;
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn see(&mut self, queue: &'static str, piece: &Piece, offset: u32, redelivered: bool) -> u64 {
        let body = piece.block.body(piece.index(offset));
        let id = u64::from_be_bytes((*body).try_into().expect("an id"));
        if !self.seen.insert((queue, id)) {
            assert!(
                redelivered,
                "{id} comes from {queue} again and does not say so"
            );
        }
        let copy = &self.copies[&(origin(queue), id)];
        let gone = copy.acked_in.is_some_and(|cut| cut <= self.committed);
        assert!(!gone, "{id} comes from {queue} after its ack is on disk");
        id
    }

    fn crash(&mut self, arrived: bool) {
        if let Some(mut cut) = self.cut.take().filter(|_| arrived) {
            self.store(&mut cut);
            self.committed = self.cuts;
        }
        for copy in self.copies.values_mut() {
            if copy.acked_in.is_some_and(|cut| cut > self.committed) {
                // The ack is lost with the process: it may come again.
                copy.acked_in = None;
                copy.confirmed = false;
            }
        }
        // A dead letter is new where it goes; a move that no commit has seen is done again.
        self.seen.retain(|(queue, _)| origin(queue) == *queue);
        self.memory = self.memory.crash();
        self.shard = start(&self.memory);
        self.cuts = self.committed;
        self.unacked.clear();
        self.connect();
    }

    /// A last crash; then all that is left is fetched.
    fn end(&mut self) {
        self.crash(true);
        let mut found = BTreeSet::new();
        self.commit_all();
        for name in QUEUES {
            let Some(id) = self.id_of(name) else { continue };
            self.wake_all(id);
            let mut tries = 0;
            loop {
                match self.shard.get(id, self.key(1), true) {
                    Got::Message {
                        piece, redelivered, ..
                    } => {
                        let message = self.see(name, &piece, 0, redelivered);
                        let fresh = found.insert((origin(name), message));
                        assert!(fresh, "{message} is in two places");
                    }
                    Got::Later => self.commit_all(),
                    Got::Empty => break,
                }
                tries += 1;
                assert!(tries < 10_000, "{name} never ends");
            }
        }
        for ((origin, id), copy) in &self.copies {
            if copy.confirmed && copy.acked_in.is_none() {
                assert!(found.contains(&(*origin, *id)), "{origin} lost {id}");
            }
        }
        self.commit_all();
        let left = wait(self.memory.load()).expect("an image").waiting;
        assert!(left.is_empty(), "{} rows of no message", left.len());
    }

    fn wake_all(&mut self, id: QueueId) {
        let Some(queue) = self.shard.queues.get_mut(&id) else {
            return;
        };
        let seqs = queue.log.waiting.due(Micros::MAX);
        // Their time has come.
        seqs.iter()
            .for_each(|seq| queue.log.waiting.insert(*seq, 0));
        let count = queue.log.waiting.come_due(0).len();
        assert_eq!(count, seqs.len());
        let rows = wait(self.memory.read_waiting(id, seqs)).expect("rows");
        assert_eq!(rows.len(), count, "waiting rows");
        rows.iter().for_each(|row| self.shard.woken(row));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_confirmed_is_there_once(ops in prop::collection::vec(op(), 1..100)) {
        let mut world = World::new();
        for op in &ops {
            world.play(op);
        }
        world.end();
    }
}
