//! A node whose clients, clock, loader and commits are the steps of a history.
//!
//! Keeps: each step is done to the queues and to the model, then both are compared (`expect`).
//! In: `mod`.

use std::collections::{BTreeMap, BTreeSet};

use super::expect::Heard;
use super::model::{Arrival, Fault, Holder, Model, Spot};
use super::op::{CHANNELS, Op};
use super::rules::{COUNT, FANNED, RULES};
use super::*;
use crate::clock::manual::Manual;
use crate::definitions::QueueDeclare;
use crate::log::batch::WaitingRow;
use crate::queue::Thrift;
use crate::sql::Backend;
use crate::sql::memory::Memory;

/// What a step answers: the promise that was broken.
pub(super) type Outcome<T = ()> = std::result::Result<T, String>;

/// When histories begin, µs.
const BEGIN: Micros = 1_800_000_000_000_000;

/// What a confirm waits for.
pub(super) struct Claim {
    /// The cut that takes the message along.
    pub(super) stamp: u64,
    pub(super) id: u64,
    pub(super) kind: Promise,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// Not before the message is on disk.
    Strict,
    /// Nor before, unless all its copies came to their ends.
    Loose,
    /// At any time: it is not persistent.
    None,
    Refused,
}

pub(super) struct World {
    pub(super) time: Manual,
    pub(super) memory: Memory,
    pub(super) shard: Shard,
    pub(super) sessions: [usize; 2],
    pub(super) ids: [Option<QueueId>; COUNT],
    pub(super) model: Model,
    /// What a kill, and what a loss of power, would leave.
    pub(super) current: Model,
    pub(super) durable: Model,
    pub(super) durable_cut: u64,
    pub(super) under_way: Option<(Cut, Model)>,
    pub(super) unsynced: u64,
    pub(super) cuts: u64,
    pub(super) claims: BTreeMap<(ChannelKey, u64), Claim>,
    /// When the keys of the window were taken, in cuts.
    pub(super) key_stamps: BTreeMap<u8, u64>,
    pub(super) last_id: u64,
    pub(super) last_number: u64,
    /// All that was ever handed out.
    pub(super) handed: BTreeSet<Spot>,
    /// Deliveries whose lease is over, and those that were settled.
    pub(super) over: Vec<Holder>,
    pub(super) done: Vec<Holder>,
    pub(super) consumers: BTreeMap<(ChannelKey, usize), u32>,
    pub(super) rows: Vec<(QueueId, Vec<Seq>, Vec<WaitingRow>)>,
    pub(super) expected: Vec<Arrival>,
    pub(super) heard: Vec<Heard>,
    pub(super) next: [Seq; COUNT],
    pub(super) redrives: u64,
}

pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

pub(super) fn start(memory: &Memory) -> Shard {
    let told = || Arc::new(Notify::new());
    let mut shard = Shard::new(Options::default(), told(), told());
    wait(async {
        let image = memory.load().await.expect("an image");
        crate::recover(&mut shard, image, memory)
            .await
            .expect("a start");
    });
    shard.open_receivers(told());
    shard
}

impl World {
    pub(super) fn new() -> Outcome<Self> {
        let time = Manual::start(BEGIN);
        let memory = Memory::new();
        let shard = start(&memory);
        let mut world = Self {
            time,
            memory,
            shard,
            sessions: [0; 2],
            ids: [None; COUNT],
            model: Model::default(),
            current: Model::default(),
            durable: Model::default(),
            durable_cut: 0,
            under_way: None,
            unsynced: 0,
            cuts: 0,
            claims: BTreeMap::new(),
            key_stamps: BTreeMap::new(),
            last_id: 0,
            last_number: 0,
            handed: BTreeSet::new(),
            over: Vec::new(),
            done: Vec::new(),
            consumers: BTreeMap::new(),
            rows: Vec::new(),
            expected: Vec::new(),
            heard: Vec::new(),
            next: [0; COUNT],
            redrives: 0,
        };
        (0..2).for_each(|at| world.open_session(at));
        world.declare();
        drop(world.shard.on_disk());
        world.cut();
        world.commit()?;
        world.be_thrifty();
        world.compare()?;
        Ok(world)
    }

    fn declare(&mut self) {
        let vhost: Arc<str> = "/".into();
        for rule in RULES.iter().filter(|rule| rule.is_declared()) {
            let ask = QueueDeclare {
                name: rule.name.into(),
                durable: true,
                arguments: rule.arguments(),
                ..QueueDeclare::default()
            };
            let declared = self.shard.declare_queue(self.sessions[0], &vhost, ask);
            declared.expect("a queue");
        }
        for queue in FANNED {
            let bound = self.shard.bind(BindingSpec {
                vhost: vhost.clone(),
                source: "amq.fanout".into(),
                destination_kind: DestinationKind::Queue,
                destination: RULES[queue].name.into(),
                routing_key: Vec::new(),
                arguments: Vec::new(),
            });
            bound.expect("a binding");
        }
    }

    /// Merges what would be too few elsewhere.
    pub(super) fn be_thrifty(&mut self) {
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

    pub(super) fn open_session(&mut self, at: usize) {
        self.sessions[at] = self.shard.open_session(Arc::new(Notify::new()));
        for channel in 0..CHANNELS {
            let key = self.channel(channel);
            if key.session == self.sessions[at] {
                self.shard.open_channel(key);
            }
        }
    }

    pub(super) fn channel(&self, nth: usize) -> ChannelKey {
        ChannelKey {
            session: self.sessions[nth % 2],
            channel: 1 + (nth / 2) as u16,
        }
    }

    pub(super) fn is_receiver(&self, holder: Holder) -> bool {
        !self.sessions.contains(&holder.key.session)
    }

    /// One step, and the comparison after it.
    pub(super) fn play(&mut self, op: &Op) -> Outcome {
        let standing = self.model.clone();
        self.act(op)?;
        self.listen();
        self.settle_arrivals()?;
        self.see(&standing)?;
        self.see_confirms()?;
        self.compare()?;
        match op {
            Op::Rest => self.is_live(),
            _ => Ok(()),
        }
    }

    fn act(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Publish {
                target,
                draft,
                count,
            } => self.publish(target, draft, count)?,
            Op::Consume {
                queue,
                channel,
                prefetch,
            } => self.consume(queue, self.channel(channel), prefetch),
            Op::Get { queue, channel } => self.get(queue, self.channel(channel)),
            Op::Receive {
                queue,
                max,
                lease_ms,
            } => self.receive(queue, max, lease_ms),
            Op::Settle {
                nth,
                word,
                multiple,
            } => self.settle(nth, word, multiple)?,
            Op::Late { nth, word } => self.be_late(nth, word)?,
            Op::Extend { nth, ms } => self.extend(nth, ms)?,
            Op::Recover { channel } => {
                let key = self.channel(channel);
                self.end_deliveries(key, Fault::Recovered);
                self.shard.recover(key);
            }
            Op::CloseChannel { channel, lost } => {
                let key = self.channel(channel);
                self.forget_channel(key, lost);
                self.shard.close_channel(key, lost);
                self.shard.open_channel(key);
            }
            Op::CloseSession { session, lost } => self.close_session(session, lost),
            Op::Pass { ms } => self.time.pass(ms.cast_signed() * 1000),
            Op::Tick => self.tick(),
            Op::Pause { queue } => self.pause(queue),
            Op::Redrive { queue } => self.redrive(queue),
            Op::RedriveStep { nth, most } => self.redrive_step(nth, most)?,
            Op::Remove { nth } => self.remove(nth),
            Op::CancelWaiting { nth } => self.cancel_waiting(nth)?,
            Op::Purge { queue } => self.purge(queue)?,
            Op::Serve => self.serve(),
            Op::Read => self.read(),
            Op::HandIn => self.hand_in(),
            Op::Spill { all } => {
                for queue in self.shard.queues.values_mut() {
                    queue.log.evict(0, !all);
                }
            }
            Op::Cut => self.cut(),
            Op::Commit => self.commit()?,
            Op::Rest => self.rest()?,
            Op::Crash { arrived, power } => self.crash(arrived, power)?,
        }
        Ok(())
    }

    /// The clock as the queues see it.
    pub(super) fn now(&self) -> Micros {
        clock::now()
    }
}
