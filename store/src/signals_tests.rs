//! Signals on a store with the engine in memory, through crashes.

use std::time::Duration;

use amqp::field::Value;

use super::*;
use crate::operator::tests::{World, ids, world};
use crate::shard::Got;
use crate::sql::memory::Memory;

const SECOND: Micros = 1_000_000;
const MS: Micros = 1_000;
const TRIES_MAX: u32 = 5_000;

/// `World::publish` says in the header `even` which messages have an even id: two keys.
fn by_parity(retry_delay_ms: i32) -> [(&'static str, Value); 3] {
    [
        ("x-retry-limit", Value::I32(100)),
        ("x-partition-header", Value::text("even")),
        ("x-retry-delay", Value::I32(retry_delay_ms)),
    ]
}

impl World {
    async fn signals(&self, queue: &str, keys: usize) -> Signals {
        let signals = self.store.signals(("/", queue), keys).await;
        signals.expect("signals")
    }

    async fn heads(&self, queue: &str) -> Vec<Head> {
        let keys = self.signals(queue, 10).await.keys.expect("order by key");
        assert!(!keys.partial);
        keys.heads
    }

    /// Takes one message, which stays out. Answers its tag.
    async fn take(&self, queue: &str) -> u64 {
        for _ in 0..TRIES_MAX {
            let got = {
                let mut shard = self.store.lock();
                let id = shard.queue(0, "/", queue).expect("a queue");
                shard.get(id, self.key, false)
            };
            match got {
                Got::Message { tag, .. } => return tag,
                _ => self.store.on_disk().await.expect("on disk"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("nothing comes from {queue}");
    }

    fn head_of_line_at(&self, queue: &str) -> Option<Micros> {
        let stats = self.store.stats().queues;
        let found = stats.iter().find(|known| &*known.name == queue);
        found.expect("a queue").head_of_line_at
    }
}

fn told(heads: &[Head]) -> Vec<(&str, HeadState, u64)> {
    let one = |head: &'_ Head| (head.state, head.behind);
    let keys = heads.iter().map(|head| head.key.as_deref().expect("read"));
    let rest = heads.iter().map(one);
    keys.zip(rest)
        .map(|(key, (state, behind))| (key, state, behind))
        .collect()
}

#[tokio::test]
async fn heads_are_told_with_their_states_and_a_crash_keeps_their_ages() {
    let world = world(Memory::new()).await;
    world.declare("q", &by_parity(3_600_000));
    let before = world.store.now();
    world.publish("q", 0..6).await;
    let after = world.store.now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.kill("q", 1).await;
    world.take("q").await;
    let heads = world.heads("q").await;
    let expected = [
        ("true", HeadState::Backoff, 2),
        ("false", HeadState::Out, 2),
    ];
    assert_eq!(told(&heads), expected);
    let accepted: Vec<Micros> = heads
        .iter()
        .map(|head| head.accepted_at.expect("known"))
        .collect();
    assert!(accepted.iter().all(|at| (before..=after).contains(at)));
    assert_eq!(world.head_of_line_at("q"), Some(accepted[0]));
    let ready = world.signals("q", 1).await.oldest_ready_at.expect("ready");
    assert!((before..=after).contains(&ready));

    let world = world.after_a_crash().await;
    let heads = world.heads("q").await;
    let expected = [
        ("true", HeadState::Backoff, 2),
        // What was out is ready again.
        ("false", HeadState::Ready, 2),
    ];
    assert_eq!(told(&heads), expected);
    assert_eq!(heads[0].accepted_at, Some(accepted[0]));
    // Segments tell milliseconds.
    let again = heads[1].accepted_at.expect("known");
    assert!((accepted[1] - again).abs() <= MS, "{again} {accepted:?}");
    assert_eq!(world.head_of_line_at("q"), Some(accepted[0]));
    // The oldest that is ready is the one that was out.
    let ready = world.signals("q", 1).await.oldest_ready_at.expect("ready");
    assert!((accepted[1] - ready).abs() <= MS);
}

#[tokio::test]
async fn a_head_ages_through_all_its_attempts() {
    let mut world = world(Memory::new()).await;
    world.declare("q", &by_parity(10));
    world.publish("q", 0..1).await;
    let accepted = world.heads("q").await[0].accepted_at;
    for crash in [false, true, false] {
        let begun = world.store.now();
        world.kill("q", 1).await;
        let heads = world.heads("q").await;
        let failed_at = world.store.now();
        // A machine that is busy may take longer to look than the backoff lasts.
        if failed_at - begun < 8 * MS {
            assert_eq!(told(&heads), [("true", HeadState::Backoff, 0)]);
        }
        if crash {
            world = world.after_a_crash().await;
        }
        let tag = world.take("q").await;
        assert!(world.store.now() > failed_at, "its backoff was over");
        let heads = world.heads("q").await;
        assert_eq!(told(&heads), [("true", HeadState::Out, 0)]);
        let at = heads[0].accepted_at.zip(accepted);
        let (at, first) = at.expect("both known");
        assert!((at - first).abs() <= MS, "after a crash: {crash}");
        assert_eq!(world.head_of_line_at("q"), Some(at));
        assert!(world.store.lock().nack(world.key, tag, false, true));
    }
    let tag = world.take("q").await;
    assert!(world.store.lock().ack(world.key, tag, false));
    assert_eq!(world.heads("q").await, []);
    assert_eq!(world.head_of_line_at("q"), None);
}

#[tokio::test]
async fn keys_of_messages_on_disk_are_read_and_the_work_is_bounded() {
    let world = world(Memory::new()).await;
    world.declare("q", &by_parity(10));
    world.publish("q", 0..101).await;
    let expected = [
        ("true", HeadState::Ready, 50),
        ("false", HeadState::Ready, 49),
    ];
    assert_eq!(told(&world.heads("q").await), expected);
    let world = world.after_a_crash().await;
    assert_eq!(told(&world.heads("q").await), expected, "from disk");
    assert_eq!(world.store.stats().resident_bytes, 0, "and nothing stays");
    let one = world.signals("q", 1).await.keys.expect("order by key");
    assert_eq!(told(&one.heads), [("true", HeadState::Ready, 50)]);
    assert!(one.partial, "there is a second key");

    world.publish("q", 101..17_000).await;
    for world in [world.after_a_crash().await] {
        let keys = world.signals("q", 10).await.keys.expect("order by key");
        assert!(keys.partial);
        let seen: u64 = keys.heads.iter().map(|head| head.behind + 1).sum();
        assert_eq!(seen, 16_384);
    }
}

#[tokio::test]
async fn what_is_settled_is_not_counted_behind_a_head() {
    let world = world(Memory::new()).await;
    world.declare("q", &by_parity(3_600_000));
    world.publish("q", 0..40).await;
    for _ in 0..7 {
        let tag = world.take("q").await;
        assert!(world.store.lock().ack(world.key, tag, false));
    }
    world.store.on_disk().await.expect("on disk");
    let expected = [
        ("false", HeadState::Ready, 16),
        ("true", HeadState::Ready, 15),
    ];
    assert_eq!(told(&world.heads("q").await), expected);
    let world = world.after_a_crash().await;
    assert_eq!(told(&world.heads("q").await), expected);
}

#[tokio::test]
async fn growth_is_sampled_every_five_seconds() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    let growth = async |world: &World| world.signals("q", 1).await.growth;
    let start = world.store.now();
    let sample = |seconds| world.store.lock().sample(start + seconds * SECOND);
    sample(0);
    world.publish("q", 0..60).await;
    (1..5).for_each(sample);
    assert_eq!(growth(&world).await.minute(), 0.0, "not time yet");
    sample(5);
    assert_eq!(growth(&world).await.minute(), 12.0);
    assert_eq!(growth(&world).await.five_minutes(), 12.0);
    // Taken is not settled: the depth is the same, and the growth fades.
    world.take("q").await;
    sample(10);
    let faded = growth(&world).await.minute();
    assert!((5.0..7.0).contains(&faded), "{faded}");
    assert_eq!(world.drain("q").await.len(), 59);
    sample(15);
    assert!(growth(&world).await.minute() < 0.0);
}

#[tokio::test]
async fn dead_letters_are_none_from_the_first_second_on() {
    let world = world(Memory::new()).await;
    world.declare("q", &[("x-retry-limit", Value::I32(0))]);
    world.declare("plain", &[]);
    world.declare("grave", &[]);
    let exchange = [
        ("x-dead-letter-exchange", Value::text("")),
        ("x-dead-letter-routing-key", Value::text("grave")),
    ];
    world.declare("other", &exchange);
    let dead = async |queue: &str| {
        let signals = world.signals(queue, 1).await;
        (signals.dead_letter_queue, signals.dead_letters)
    };
    assert_eq!(dead("q").await, (Some("q.dlq".into()), Some(0)));
    assert_eq!(dead("other").await, (Some("grave".into()), Some(0)));
    assert_eq!(dead("plain").await, (None, None));
    for queue in ["q", "other"] {
        world.publish(queue, 0..3).await;
        world.kill(queue, 2).await;
    }
    assert_eq!(dead("q").await, (Some("q.dlq".into()), Some(2)));
    assert_eq!(dead("other").await, (Some("grave".into()), Some(2)));
    let stats = world.store.stats().queues;
    let told = |name: &str| {
        let found = stats.iter().find(|queue| &*queue.name == name);
        found.expect("a queue").dead_letters
    };
    assert_eq!((told("q"), told("other")), (Some(2), Some(2)));
    assert_eq!((told("plain"), told("grave")), (None, None));
    assert_eq!(world.drain("q.dlq").await.len(), 2);
    assert_eq!(dead("q").await, (Some("q.dlq".into()), Some(0)));
}

#[tokio::test]
async fn the_oldest_delivery_is_told_to_the_second() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    world.declare("other", &[]);
    world.publish("q", 0..2).await;
    world.publish("other", 0..1).await;
    let start = world.store.now();
    let oldest = async |queue: &str| world.signals(queue, 1).await.oldest_unacked_at;
    assert_eq!(oldest("q").await, None);
    world.store.lock().sample(start);
    world.take("other").await;
    let first = world.take("q").await;
    world.store.lock().sample(start + 30 * SECOND);
    let second = world.take("q").await;
    assert_eq!(oldest("q").await, Some(start));
    assert!(world.store.lock().ack(world.key, first, false));
    assert_eq!(oldest("q").await, Some(start + 30 * SECOND));
    assert!(world.store.lock().ack(world.key, second, false));
    assert_eq!(oldest("q").await, None);
    assert_eq!(oldest("other").await, Some(start));
}

#[tokio::test]
async fn what_waits_is_not_ready_and_ages_from_when_its_wait_is_over() {
    let world = world(Memory::new()).await;
    world.declare("q", &[("x-retry-delay", Value::I32(60))]);
    world.publish("q", 0..1).await;
    let accepted = world.signals("q", 1).await.oldest_ready_at;
    world.kill("q", 1).await;
    let waits = world.signals("q", 1).await;
    assert_eq!((waits.ready, waits.waiting), (0, 1));
    assert_eq!(waits.oldest_ready_at, None);
    let due = loop {
        let now = world.signals("q", 1).await;
        if let Some(at) = now.oldest_ready_at {
            break at;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    // Less the jitter of a fifth.
    assert!(due >= accepted.expect("ready") + 48 * MS);
    // Due in its row when the store starts again, and no younger for it.
    let world = world.after_a_crash().await;
    let again = loop {
        if let Some(at) = world.signals("q", 1).await.oldest_ready_at {
            break at;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(again, due);
    assert_eq!(world.peek("q", &Default::default()).await, ids(0..1));
}
