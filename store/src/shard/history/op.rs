//! The steps of a history, and how often each is drawn.
//!
//! In: `mod` draws, `world` plays.

use proptest::prelude::*;

use super::rules::{COUNT, TARGETS};

/// A message to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft {
    pub(super) persistent: bool,
    pub(super) key: Option<u8>,
    /// What the window looks at: a message-id.
    pub(super) name: Option<u8>,
    pub(super) priority: u8,
    pub(super) delay_ms: Option<u16>,
    /// `x-retry-limit` of its own.
    pub(super) limit: Option<u32>,
}

/// What a client says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Ack,
    Nack { requeue: bool },
    Reject { requeue: bool },
}

/// A step. Whatever is `nth` is taken among those there are, round and round.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// One run to a queue, or, beyond the list, one message to all that the fanout reaches.
    Publish {
        target: usize,
        draft: Draft,
        count: u32,
    },
    /// A consumer comes, or goes when it is there.
    Consume {
        queue: usize,
        channel: usize,
        prefetch: u32,
    },
    Get {
        queue: usize,
        channel: usize,
    },
    Receive {
        queue: usize,
        max: u32,
        lease_ms: Option<u64>,
    },
    Settle {
        nth: usize,
        word: Word,
        multiple: bool,
    },
    /// What comes too late, or a second time.
    Late {
        nth: usize,
        word: Word,
    },
    Extend {
        nth: usize,
        ms: Option<u64>,
    },
    Recover {
        channel: usize,
    },
    CloseChannel {
        channel: usize,
        lost: bool,
    },
    CloseSession {
        session: usize,
        lost: bool,
    },
    Pass {
        ms: u64,
    },
    Tick,
    Pause {
        queue: usize,
    },
    Redrive {
        queue: usize,
    },
    RedriveStep {
        nth: usize,
        most: u32,
    },
    Remove {
        nth: usize,
    },
    CancelWaiting {
        nth: usize,
    },
    Purge {
        queue: usize,
    },
    /// The loader reads what is asked for.
    Serve,
    /// It reads waiting rows, and hands them in later.
    Read,
    HandIn,
    /// Bodies leave memory; `all`: also those that are read next.
    Spill {
        all: bool,
    },
    Cut,
    Commit,
    /// All is written, read and woken that can be.
    Rest,
    /// `arrived`: the commit under way reached the disk. `power`: what no commit waited for did
    /// not.
    Crash {
        arrived: bool,
        power: bool,
    },
}

fn draft() -> impl Strategy<Value = Draft> {
    let delay = prop_oneof![4 => Just(None), 1 => (1..200u16).prop_map(Some)];
    let limit = prop_oneof![5 => Just(None), 1 => (0..4u32).prop_map(Some)];
    let key = prop_oneof![1 => Just(None), 5 => (0..3u8).prop_map(Some)];
    let name = prop_oneof![1 => Just(None), 5 => (0..4u8).prop_map(Some)];
    let persistent = prop_oneof![4 => Just(true), 1 => Just(false)];
    (persistent, key, name, 0..4u8, delay, limit).prop_map(
        |(persistent, key, name, priority, delay_ms, limit)| Draft {
            persistent,
            key,
            name,
            priority,
            delay_ms,
            limit,
        },
    )
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        5 => Just(Word::Ack),
        3 => Just(Word::Nack { requeue: false }),
        3 => Just(Word::Nack { requeue: true }),
        2 => Just(Word::Reject { requeue: false }),
        1 => Just(Word::Reject { requeue: true }),
    ]
}

/// Channels of all sessions together.
pub(super) const CHANNELS: usize = 4;

/// What a history is about: some queues more than others, and calm or rough weather.
#[derive(Clone, Copy, Debug)]
struct Theme {
    queues: [usize; 2],
    /// How often memory is short, and how often somebody crashes or leaves.
    spills: u32,
    breaks: u32,
}

fn theme() -> impl Strategy<Value = Theme> {
    let rate = || prop_oneof![3 => Just(1), 1 => Just(6)];
    ((0..TARGETS, 0..COUNT), rate(), rate()).prop_map(|((first, second), spills, breaks)| Theme {
        queues: [first, second],
        spills,
        breaks,
    })
}

impl Theme {
    fn queue(self) -> impl Strategy<Value = usize> {
        prop_oneof![6 => prop::sample::select(self.queues.to_vec()), 2 => 0..TARGETS, 1 => 0..COUNT]
    }

    fn target(self) -> impl Strategy<Value = usize> {
        prop_oneof![6 => Just(self.queues[0]), 3 => 0..TARGETS, 1 => Just(TARGETS)]
    }

    fn client(self) -> impl Strategy<Value = Op> {
        let (channel, queue) = (|| 0..CHANNELS, || self.queue());
        let lease = || proptest::option::of(1..3_000u64);
        prop_oneof![
            12 => (self.target(), draft(), 1..4u32)
                .prop_map(|(target, draft, count)| Op::Publish { target, draft, count }),
            6 => (queue(), channel(), 1..4u32)
                .prop_map(|(queue, channel, prefetch)| Op::Consume { queue, channel, prefetch }),
            3 => (queue(), channel()).prop_map(|(queue, channel)| Op::Get { queue, channel }),
            2 => (queue(), 1..4u32, lease())
                .prop_map(|(queue, max, lease_ms)| Op::Receive { queue, max, lease_ms }),
            14 => (0..50usize, word(), prop::bool::weighted(0.2))
                .prop_map(|(nth, word, multiple)| Op::Settle { nth, word, multiple }),
            2 => (0..50usize, word()).prop_map(|(nth, word)| Op::Late { nth, word }),
            1 => (0..50usize, lease()).prop_map(|(nth, ms)| Op::Extend { nth, ms }),
            1 => channel().prop_map(|channel| Op::Recover { channel }),
            self.breaks => (channel(), any::<bool>())
                .prop_map(|(channel, lost)| Op::CloseChannel { channel, lost }),
            self.breaks => (0..2usize, any::<bool>())
                .prop_map(|(session, lost)| Op::CloseSession { session, lost }),
        ]
    }

    fn operator(self) -> impl Strategy<Value = Op> {
        let queue = || self.queue();
        prop_oneof![
            3 => queue().prop_map(|queue| Op::Pause { queue }),
            3 => (TARGETS..COUNT).prop_map(|queue| Op::Redrive { queue }),
            5 => (0..9usize, 1..4u32).prop_map(|(nth, most)| Op::RedriveStep { nth, most }),
            2 => (0..50usize).prop_map(|nth| Op::Remove { nth }),
            2 => (0..50usize).prop_map(|nth| Op::CancelWaiting { nth }),
            2 => queue().prop_map(|queue| Op::Purge { queue }),
        ]
    }

    fn node(self) -> impl Strategy<Value = Op> {
        let span = prop_oneof![4 => 1..120u64, 1 => 500..1_500u64];
        prop_oneof![
            4 => span.prop_map(|ms| Op::Pass { ms }),
            6 => Just(Op::Tick),
            4 => Just(Op::Serve),
            1 => Just(Op::Read),
            1 => Just(Op::HandIn),
            self.spills => any::<bool>().prop_map(|all| Op::Spill { all }),
            5 => Just(Op::Cut),
            5 => Just(Op::Commit),
            1 => Just(Op::Rest),
            self.breaks => (any::<bool>(), any::<bool>())
                .prop_map(|(arrived, power)| Op::Crash { arrived, power }),
        ]
    }

    fn op(self) -> impl Strategy<Value = Op> {
        prop_oneof![22 => self.client(), 3 => self.operator(), 12 => self.node()]
    }
}

/// Some dozen of them.
pub(super) fn history() -> impl Strategy<Value = Vec<Op>> {
    theme().prop_flat_map(|theme| prop::collection::vec(theme.op(), 1..120))
}
