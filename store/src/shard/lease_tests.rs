//! Leases under random histories: receivers and a consumer on one work queue, and time.
//!
//! Keeps: a message is held by one and done once; what comes after a lease's end changes nothing
//! and is counted; nothing is lost.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::receive::{Begun, Ending, LeaseKey, Wish};
use super::*;
use crate::definitions::QueueDeclare;
use crate::topology::arguments::LEASE_MAX_MS;

#[derive(Clone, Debug)]
enum Op {
    Publish(u32),
    Receive {
        max: u32,
        lease_ms: Option<u64>,
    },
    Consume(u32),
    Done(usize),
    Failed(usize),
    Released(usize),
    Extend(usize, u64),
    /// Until the so-manieth end of a lease.
    Pass(usize),
    /// Backoff is over.
    Wake,
}

fn op() -> impl Strategy<Value = Op> {
    let lease = proptest::option::of(1..LEASE_MAX_MS);
    let receive = (1..5u32, lease).prop_map(|(max, lease_ms)| Op::Receive { max, lease_ms });
    prop_oneof![
        4 => (1..5u32).prop_map(Op::Publish),
        5 => receive,
        1 => (1..4u32).prop_map(Op::Consume),
        6 => (0..30usize).prop_map(Op::Done),
        3 => (0..30usize).prop_map(Op::Failed),
        2 => (0..30usize).prop_map(Op::Released),
        2 => (0..30usize, 1..LEASE_MAX_MS).prop_map(|(nth, ms)| Op::Extend(nth, ms)),
        3 => (0..6usize).prop_map(Op::Pass),
        2 => Just(Op::Wake),
    ]
}

/// A delivery, by a lease or by a consumer's tag.
#[derive(Clone, Copy, PartialEq)]
enum Handle {
    Lease(LeaseKey),
    Tag(u64),
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Out(Micros),
    /// Its lease is over, and nobody has said anything since.
    Over,
    Ended,
}

struct Held {
    handle: Handle,
    message: u64,
    state: State,
}

struct World {
    shard: Shard,
    queue: QueueId,
    consumer: ChannelKey,
    published: u64,
    done: BTreeSet<u64>,
    held: Vec<Held>,
    late: u64,
    attempts: BTreeMap<u64, u32>,
}

impl World {
    fn new() -> Self {
        let told = || Arc::new(Notify::new());
        let mut shard = Shard::new(Options::default(), told(), told());
        shard.add_vhost(&"/".into());
        shard.open_receivers(told());
        let session = shard.open_session(told());
        let consumer = ChannelKey {
            session,
            channel: 1,
        };
        shard.open_channel(consumer);
        let mut arguments = Table::default();
        arguments.insert("x-retry-limit", amqp::field::Value::I64(1000));
        let ask = QueueDeclare {
            name: "q".into(),
            arguments,
            ..QueueDeclare::default()
        };
        let declared = shard.declare_queue(session, &"/".into(), ask);
        declared.expect("a queue");
        let queue = shard.queue(session, "/", "q").expect("it is there");
        Self {
            shard,
            queue,
            consumer,
            published: 0,
            done: BTreeSet::new(),
            held: Vec::new(),
            late: 0,
            attempts: BTreeMap::new(),
        }
    }

    fn publish(&mut self, count: u32) {
        for _ in 0..count {
            self.published += 1;
            let mut block = Block::default();
            let body = self.published.to_be_bytes();
            block.push(&Address::new(b"", b"q"), &[0, 0], &body);
            let (vhost, block) = ("/".into(), Arc::new(block));
            let run = Run::alone(&vhost, &block);
            assert_eq!(self.shard.publish(&run).expect("a queue"), []);
        }
    }

    /// A delivery is of a message that nobody else has and that is not done.
    fn see(&mut self, handle: Handle, piece: &Piece, offset: u32, until: Micros) {
        let body = piece.block.body(piece.index(offset));
        let message = u64::from_be_bytes((*body).try_into().expect("an id"));
        assert!(!self.done.contains(&message), "{message} was done");
        let others = self.held.iter().filter(|held| held.message == message);
        for other in others {
            assert!(!matches!(other.state, State::Out(_)), "{message} is out");
            assert!(other.handle != handle, "a handle comes twice");
        }
        let state = State::Out(until);
        self.held.push(Held {
            handle,
            message,
            state,
        });
    }

    fn receive(&mut self, max: u32, lease_ms: Option<u64>) {
        let wish = Wish {
            max,
            waits: false,
            lease_ms,
        };
        let begun = self.shard.receive(self.queue, &wish).expect("no limit");
        let Begun::Handed(leased) = begun else {
            panic!("nothing is on disk");
        };
        assert!(leased.len() <= max as usize);
        for one in leased {
            self.see(Handle::Lease(one.key), &one.piece, 0, one.until);
            let id = self.held.last().expect("it was seen").message;
            let before = self.attempts.insert(id, one.attempt).unwrap_or(0);
            assert!(one.attempt >= before.max(1), "attempts fall");
        }
    }

    fn consume(&mut self, prefetch: u32) {
        if self.shard.has_consumer(self.consumer, b"c") {
            return self.shard.cancel(self.consumer, b"c");
        }
        let consumer = Consumer {
            key: self.consumer,
            tag: Arc::from(&b"c"[..]),
            no_ack: false,
            exclusive: false,
            prefetch,
            unacked: 0,
            priority: 0,
            timeout_ms: None,
            leases: false,
        };
        self.shard.consume(self.queue, consumer).expect("room");
        self.shard.pump(self.queue);
    }

    fn listen(&mut self) {
        for out in self.shard.take_outbox(self.consumer.session) {
            let Out::Deliver { first, piece, .. } = out else {
                continue;
            };
            for offset in 0..piece.count {
                let tag = first + u64::from(offset);
                let channel = self.shard.channel(self.consumer).expect("open");
                let holds =
                    |run: &&Unacked| (run.first..run.first + u64::from(run.count)).contains(&tag);
                let run = channel.unacked.iter().find(holds).expect("unacked");
                let until = run.deadline.expect("a lease");
                self.see(Handle::Tag(tag), &piece, offset, until);
            }
        }
    }

    fn end(&mut self, nth: usize, ending: Ending<'_>) {
        self.listen();
        let n = self.held.len();
        let Some(held) = self.held.get_mut(nth % n.max(1)) else {
            return;
        };
        let (message, before) = (held.message, held.state);
        held.state = State::Ended;
        let is_out = matches!(before, State::Out(_));
        let known = match (held.handle, ending) {
            (Handle::Lease(key), _) => self.shard.end_lease(key, ending) == is_out,
            (Handle::Tag(tag), ending) => {
                let verdict = match ending {
                    Ending::Done => Verdict::Ack,
                    Ending::Failed(_) => Verdict::Nack { requeue: false },
                    Ending::Released => Verdict::Nack { requeue: true },
                };
                let known = self.shard.conclude(self.consumer, (tag, false), verdict);
                known == (before != State::Ended)
            }
        };
        assert!(known, "{message}: another answer than its state says");
        self.late += u64::from(before == State::Over);
        if is_out && matches!(ending, Ending::Done) {
            assert!(self.done.insert(message), "{message} is done twice");
        }
    }

    fn extend(&mut self, nth: usize, ms: u64) {
        let n = self.held.len();
        let Some(held) = self.held.get_mut(nth % n.max(1)) else {
            return;
        };
        let Handle::Lease(key) = held.handle else {
            return;
        };
        match (self.shard.extend_lease(key, Some(ms)), held.state) {
            (Some(until), State::Out(before)) => {
                assert!(until >= before, "less than it had");
                held.state = State::Out(until);
            }
            (None, State::Over | State::Ended) => {}
            _ => panic!("another answer than its state says"),
        }
    }

    fn pass(&mut self, nth: usize) {
        self.listen();
        let until = |held: &Held| match held.state {
            State::Out(until) => Some(until),
            _ => None,
        };
        let mut ends: Vec<Micros> = self.held.iter().filter_map(until).collect();
        ends.sort_unstable();
        let Some(&now) = ends.get(nth % ends.len().max(1)) else {
            return;
        };
        for held in &mut self.held {
            if until(held).is_some_and(|until| until <= now) {
                held.state = State::Over;
            }
        }
        self.shard.end_leases(now);
    }

    fn wake(&mut self) {
        let Some(queue) = self.shard.queues.get_mut(&self.queue) else {
            return;
        };
        for seq in queue.log.waiting.due(Micros::MAX) {
            let piece = queue.log.parked.remove(seq).expect("kept in memory");
            queue.log.wake(seq, piece);
        }
        self.shard.pump(self.queue);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Publish(count) => self.publish(count),
            Op::Receive { max, lease_ms } => self.receive(max, lease_ms),
            Op::Consume(prefetch) => self.consume(prefetch),
            Op::Done(nth) => self.end(nth, Ending::Done),
            Op::Failed(nth) => self.end(nth, Ending::Failed("why")),
            Op::Released(nth) => self.end(nth, Ending::Released),
            Op::Extend(nth, ms) => self.extend(nth, ms),
            Op::Pass(nth) => self.pass(nth),
            Op::Wake => self.wake(),
        }
        self.listen();
    }

    /// Everything comes back, and is done.
    fn finish(&mut self) {
        if self.shard.has_consumer(self.consumer, b"c") {
            self.consume(0);
        }
        self.pass(usize::MAX);
        while self
            .held
            .iter()
            .any(|held| matches!(held.state, State::Out(_)))
        {
            self.pass(0);
        }
        self.wake();
        self.receive(u32::MAX, None);
        (0..self.held.len()).for_each(|nth| self.end(nth, Ending::Done));
        let all: BTreeSet<u64> = (1..=self.published).collect();
        assert_eq!(self.done, all);
        assert_eq!(self.shard.counters.late, self.late);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_delivery_is_settled_once(ops in proptest::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.step(op));
        world.finish();
    }
}
