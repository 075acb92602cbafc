//! Settled messages that are kept and replayed, on a store with the engine in memory, through
//! crashes.

use amqp::field::Value;

use super::*;
use crate::operator::tests::{World, ids, read, world};
use crate::operator::{Redrive, Which};
use crate::shard::Got;
use crate::shard::sweep::Step;
use crate::sql::memory::Memory;

const HOUR: [(&str, Value); 1] = [("x-retain", Value::I32(3_600_000))];

impl World {
    async fn retained(&self, queue: &str, filter: &Filter) -> Vec<u32> {
        let all = (0, Seq::MAX);
        let page = self
            .store
            .peek_retained(("/", queue), filter, all, 10_000)
            .await;
        let page = page.expect("a page");
        assert_eq!(page.next, None);
        let found: Vec<u32> = page
            .messages
            .iter()
            .map(|seen| read(&seen.piece).0)
            .collect();
        let count = self.store.count_retained(("/", queue), filter, all).await;
        assert_eq!(count.expect("counted"), found.len() as u64);
        found
    }

    async fn replay(&self, order: Redrive) -> RedriveRow {
        let begun = self.store.redrive(Redrive {
            kind: RedriveKind::Retained,
            vhost: "/".into(),
            ..order
        });
        let id = begun.await.expect("begun").id;
        self.ended(&id).await
    }

    /// Waits until so many were moved, and not one more.
    async fn moved(&self, id: &str, count: u64) {
        let moved = || self.store.redrive_of(id).expect("known").moved;
        while moved() < count {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(moved(), count);
        self.store.on_disk().await.expect("on disk");
    }

    /// Another look at a target without room leaves nothing to write.
    async fn waits_without_a_word(&self, id: &str) {
        let look = |read: Option<&Segment>| {
            let mut shard = self.store.lock();
            let step = shard.replay_step(id, 100, read);
            assert!(shard.pending.redrives.is_empty(), "{step:?}");
            (step, shard.queue(0, "/", "q").expect("a queue"))
        };
        let (Step::Read(entry), source) = look(None) else {
            panic!("it has more to read");
        };
        let read = self.store.0.read_retained(source, &entry).await;
        let segment = read.expect("read").expect("it is kept");
        assert_eq!(look(Some(&segment)).0, Step::Full);
    }

    /// A message that waits for a moment in a row of its own.
    async fn publish_later(&self, queue: &str, id: u32) {
        use amqp::content::{Address, Block};
        let mut headers = amqp::field::Table::default();
        headers.insert("x-delay", Value::I32(1));
        let properties = amqp::properties::Properties {
            message_id: Some(id.to_string().into_bytes()),
            delivery_mode: Some(2),
            headers: Some(headers),
            ..Default::default()
        };
        let mut block = Block::default();
        let address = Address::new(b"", queue.as_bytes());
        block.push(&address, &properties.encode(), &[7; 100]);
        let (vhost, block) = ("/".into(), std::sync::Arc::new(block));
        let published = self
            .store
            .lock()
            .publish(&crate::Run::alone(&vhost, &block));
        published.expect("published");
        self.store.on_disk().await.expect("on disk");
    }

    /// The tag of the next delivery.
    async fn got(&self, queue: &str) -> u64 {
        loop {
            let got = {
                let mut shard = self.store.lock();
                let id = shard.queue(0, "/", queue).expect("a queue");
                shard.get(id, self.key, false)
            };
            match got {
                Got::Message { tag, .. } => return tag,
                _ => self.store.on_disk().await.expect("on disk"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The first message of a queue, for good.
    async fn take_first(&self, queue: &str) -> u32 {
        loop {
            let got = {
                let mut shard = self.store.lock();
                let id = shard.queue(0, "/", queue).expect("a queue");
                shard.get(id, self.key, true)
            };
            match got {
                Got::Message { piece, .. } => return read(&piece).0,
                _ => self.store.on_disk().await.expect("on disk"),
            }
            tokio::task::yield_now().await;
        }
    }
}

fn from(source: &str) -> Redrive {
    Redrive {
        source: source.into(),
        ..Redrive::default()
    }
}

#[tokio::test]
async fn what_is_acked_before_and_after_its_commit_survives_a_crash() {
    let world = world(Memory::new()).await;
    world.declare("q", &HOUR);
    world.declare("plain", &[]);
    for queue in ["q", "plain"] {
        world.publish(queue, 0..20).await;
        world.drain(queue).await;
    }
    world.store.on_disk().await.expect("on disk");
    let none = Filter::default();
    assert_eq!(world.retained("q", &none).await, ids(0..20));
    assert_eq!(world.retained("plain", &none).await, ids(0..0));
    assert_eq!(world.store.retained("/", "plain").expect("a queue"), None);
    let kept = world.store.retained("/", "q").expect("a queue");
    let bytes = 20 * (100 + 64);
    assert_eq!(
        kept,
        Some(Kept {
            messages: 20,
            bytes
        })
    );
    // Published and acked within one commit.
    let told = {
        let mut shard = world.store.lock();
        drop_in(&mut shard, &world, 20..25);
        shard.on_disk()
    };
    told.await.expect("on disk");
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, ids(0..25));
    assert_eq!(world.drain("q").await.len(), 0);
}

/// Publishes and acks before any commit.
fn drop_in(shard: &mut crate::shard::Shard, world: &World, range: std::ops::Range<u32>) {
    use amqp::content::{Address, Block};
    let mut block = Block::default();
    for id in range {
        let properties = amqp::properties::Properties {
            message_id: Some(id.to_string().into_bytes()),
            delivery_mode: Some(2),
            ..Default::default()
        };
        block.push(&Address::new(b"", b"q"), &properties.encode(), &[7; 100]);
    }
    let count = block.entries.len();
    let block = std::sync::Arc::new(block);
    let vhost = "/".into();
    let run = crate::Run {
        count: count as u32,
        ..crate::Run::alone(&vhost, &block)
    };
    shard.publish(&run).expect("published");
    let id = shard.queue(0, "/", "q").expect("a queue");
    for _ in 0..count {
        let got = shard.get(id, world.key, true);
        assert!(matches!(got, Got::Message { .. }), "it is in memory");
    }
}

#[tokio::test]
async fn what_is_settled_out_of_order_does_not_come_back() {
    let world = world(Memory::new()).await;
    world.declare("q", &HOUR);
    world.publish("q", 0..6).await;
    let mut tags = Vec::new();
    while tags.len() < 6 {
        let got = {
            let mut shard = world.store.lock();
            let id = shard.queue(0, "/", "q").expect("a queue");
            shard.get(id, world.key, false)
        };
        match got {
            Got::Message { tag, .. } => tags.push(tag),
            _ => world.store.on_disk().await.expect("on disk"),
        }
    }
    for at in [4, 1] {
        assert!(world.store.lock().ack(world.key, tags[at], false));
    }
    world.store.on_disk().await.expect("on disk");
    let world = world.after_a_crash().await;
    let left: Vec<u32> = world.drain("q").await.iter().map(|(id, _)| *id).collect();
    assert_eq!(left, [0, 2, 3, 5]);
    assert_eq!(world.retained("q", &Filter::default()).await, ids(0..6));
}

#[tokio::test]
async fn a_replay_publishes_what_is_meant_to_the_same_and_another_queue() {
    let world = world(Memory::new()).await;
    world.declare("q", &HOUR);
    world.declare("other", &[]);
    world.publish("q", 0..10).await;
    world.drain("q").await;
    let even = Filter {
        headers: vec![("even".into(), "true".into())],
        ..Filter::default()
    };
    let order = Redrive {
        target: Some("other".into()),
        filter: even.clone(),
        from: 2,
        until: Some(8),
        ..from("q")
    };
    let row = world.replay(order).await;
    assert_eq!((row.state, row.moved, row.next), (RedriveState::Done, 3, 8));
    let got = world.drain("other").await;
    let found: Vec<u32> = got.iter().map(|(id, _)| *id).collect();
    assert_eq!(found, [2, 4, 6]);
    let properties = &got[0].1;
    assert_eq!(
        properties.header("x-replayed-from"),
        Some(&Value::text("q"))
    );
    assert_eq!(properties.header("x-replayed-seq"), Some(&Value::I64(2)));
    // Into its own queue it ends, though the copies are kept there, too.
    let row = world.replay(from("q")).await;
    assert_eq!((row.moved, row.target.as_deref()), (10, Some("q")));
    assert_eq!(world.drain("q").await.len(), 10);
    assert_eq!(world.retained("q", &Filter::default()).await.len(), 20);
    // By the time of acceptance.
    let none = Filter::default();
    let middle = {
        let page = world.store.peek_retained(("/", "q"), &none, (10, 11), 1);
        page.await.expect("a page").messages[0].piece.at
    };
    let later = Filter {
        since: Some(middle),
        ..Filter::default()
    };
    assert_eq!(world.retained("q", &later).await.len(), 10);
    let refused = world.store.redrive(Redrive {
        kind: RedriveKind::Retained,
        vhost: "/".into(),
        ..from("other")
    });
    let error = refused.await.expect_err("it keeps nothing").to_string();
    assert!(error.contains("keeps no settled messages"), "{error}");
}

#[tokio::test]
async fn a_crash_in_a_replay_loses_and_doubles_nothing() {
    let world = world(Memory::new()).await;
    world.declare("q", &HOUR);
    world.declare("other", &[]);
    world.publish("q", 0..60).await;
    world.drain("q").await;
    let order = Redrive {
        kind: RedriveKind::Retained,
        vhost: "/".into(),
        target: Some("other".into()),
        rate: Some(200.0),
        ..from("q")
    };
    let id = world.store.redrive(order).await.expect("begun").id;
    let moved = || world.store.redrive_of(&id).map_or(0, |row| row.moved);
    while moved() < 5 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let world = world.after_a_crash().await;
    assert_eq!(world.ended(&id).await.state, RedriveState::Done);
    let got: Vec<u32> = world
        .drain("other")
        .await
        .iter()
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(got, ids(0..60));
}

#[tokio::test]
async fn a_replay_waits_for_room() {
    let limits = [("x-max-length", 5), ("x-max-length-bytes", 500)];
    for overflow in ["block", "reject-publish", "reject-publish-dlx"] {
        for limit in limits {
            replay_into_a_bounded_queue(overflow, limit).await;
        }
    }
}

/// Twelve messages of 100 bytes into room for five: to another queue through a crash, and back to
/// the queue that keeps them.
async fn replay_into_a_bounded_queue(overflow: &str, (limit, room): (&str, i32)) {
    let bounded = [
        (limit, Value::I32(room)),
        ("x-overflow", Value::text(overflow)),
    ];
    let kept: Vec<_> = bounded.iter().chain(&HOUR).cloned().collect();
    let mut world = world(Memory::new()).await;
    world.declare("q", &kept);
    world.declare("to", &bounded);
    for first in [0, 4, 8] {
        world.publish("q", first..first + 4).await;
        world.drain("q").await;
    }
    for target in ["to", "q"] {
        let order = Redrive {
            kind: RedriveKind::Retained,
            vhost: "/".into(),
            target: Some(target.into()),
            until: Some(12),
            ..from("q")
        };
        let id = world.store.redrive(order).await.expect("begun").id;
        world.moved(&id, 5).await;
        world = world.after_a_crash().await;
        let found = world.peek(target, &Filter::default()).await;
        assert_eq!(
            found,
            ids(0..5),
            "{overflow} {limit}: no more than it holds"
        );
        world.waits_without_a_word(&id).await;
        // Whoever makes room lets the next ones in, one by one, and no more.
        for gone in 0..7 {
            assert_eq!(world.take_first(target).await, gone);
            world.moved(&id, 6 + u64::from(gone)).await;
            let found = world.peek(target, &Filter::default()).await;
            assert_eq!(found, ids(gone + 1..gone + 6), "{overflow} {limit}");
        }
        let row = world.ended(&id).await;
        assert_eq!((row.state, row.moved), (RedriveState::Done, 12));
        world.drain(target).await;
    }
}

#[tokio::test]
async fn a_message_that_is_retried_is_replayed_once_it_is_settled() {
    let world = world(Memory::new()).await;
    let work = [
        ("x-retain", Value::I32(3_600_000)),
        ("x-retry-limit", Value::I32(5)),
        ("x-retry-delay", Value::I32(1)),
    ];
    world.declare("q", &work);
    world.publish("q", 0..1).await;
    world.kill("q", 1).await;
    let none = Filter::default();
    assert_eq!(world.retained("q", &none).await, ids(0..0));
    while world.drain("q").await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let page = world
        .store
        .peek_retained(("/", "q"), &none, (0, Seq::MAX), 10)
        .await
        .expect("a page");
    assert_eq!(page.messages.len(), 1);
    // As it was published: no attempt is in its headers.
    let seen = read(&page.messages[0].piece).1;
    assert_eq!(seen.header("x-attempt"), None);
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, ids(0..1));
}

#[tokio::test]
async fn a_tick_that_was_never_in_a_segment_is_kept() {
    let world = world(Memory::new()).await;
    world.declare("q", &HOUR);
    let fire = crate::Fire {
        schedule: "s".into(),
        spec_hash: 1,
        nominal_at: 5,
        vhost: "/".into(),
        exchange: String::new(),
        routing_key: "q".into(),
        properties: amqp::properties::Properties {
            message_id: Some(b"7".to_vec()),
            ..Default::default()
        }
        .encode(),
        body: vec![7; 100],
    };
    world.store.fire(vec![fire]).await.expect("fired");
    assert_eq!(world.drain("q").await.len(), 1);
    let none = Filter::default();
    assert_eq!(world.retained("q", &none).await, [7]);
    let kept = world.store.retained("/", "q").expect("a queue");
    assert_eq!(kept.map(|kept| kept.messages), Some(1));
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, [7]);
    assert_eq!(world.drain("q").await.len(), 0);
}

#[tokio::test]
async fn small_segments_become_one_and_lose_nothing() {
    let world = world(Memory::new()).await;
    world.declare("q", &HOUR);
    for id in 0..150 {
        world.publish("q", id..id + 1).await;
        assert_eq!(world.drain("q").await.len(), 1);
        world.store.on_disk().await.expect("on disk");
    }
    let rows = |world: &World| {
        let memory = world.memory.clone();
        async move {
            let image = crate::sql::Backend::load(&*memory).await.expect("an image");
            image.retained.len()
        }
    };
    while rows(&world).await >= 64 {
        world.store.lock().consider_all_merges();
        world.store.on_disk().await.expect("on disk");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let none = Filter::default();
    assert_eq!(world.retained("q", &none).await, ids(0..150));
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, ids(0..150));
}

#[tokio::test]
async fn what_is_kept_ends_by_size_and_by_a_policy() {
    let world = world(Memory::new()).await;
    world.declare("q", &[("x-retain-bytes", Value::I32(1_000))]);
    for at in 0..6 {
        world.publish("q", at * 4..at * 4 + 4).await;
        world.drain("q").await;
        world.store.on_disk().await.expect("on disk");
        world.store.on_disk().await.expect("on disk");
    }
    let none = Filter::default();
    // Four messages to a segment of 656 bytes: two of them fill the size.
    let left = world.retained("q", &none).await;
    assert!(left.len() >= 7 && left.len() <= 12, "{left:?}");
    assert_eq!(left.last(), Some(&23));
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, left);
    // A policy begins and ends it on a queue that is there.
    world.declare("live", &[]);
    let policy = |key: &str| {
        let mut definition = amqp::field::Table::default();
        definition.insert(key, Value::I64(60_000));
        PolicySpec {
            kind: PolicyKind::User,
            vhost: "/".into(),
            name: "p".into(),
            pattern: "^live$".into(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: definition.encode(),
        }
    };
    world.publish("live", 0..3).await;
    let put = world.store.lock().put_policy(policy("retain"));
    put.expect("put");
    world.drain("live").await;
    assert_eq!(world.retained("live", &none).await, ids(0..3));
    let put = world.store.lock().put_policy(policy("max-length"));
    put.expect("put");
    assert_eq!(world.store.retained("/", "live").expect("a queue"), None);
    world.store.on_disk().await.expect("on disk");
    let image = crate::sql::Backend::load(&*world.memory).await;
    let live = {
        let shard = world.store.lock();
        shard.queue(0, "/", "live").expect("a queue")
    };
    let image = image.expect("an image");
    assert!(image.retained.iter().all(|row| row.queue != live));
    assert!(image.segments.iter().all(|row| row.queue != live));
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let world = world(Memory::new()).await;
    let declare = |durable: bool, exclusive: bool, key: &str, value: Value| {
        let mut table = amqp::field::Table::default();
        table.insert(key, value);
        let ask = crate::definitions::QueueDeclare {
            name: "x".into(),
            durable,
            exclusive,
            arguments: table,
            ..Default::default()
        };
        let mut shard = world.store.lock();
        let made = shard.declare_queue(world.key.session, &"/".into(), ask);
        made.err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    for (durable, exclusive, key, value, reason) in [
        (
            false,
            false,
            "x-retain",
            Value::I32(5_000),
            "5000 contradicts a transient or exclusive queue, which keeps nothing",
        ),
        (
            true,
            true,
            "x-retain-bytes",
            Value::I32(7),
            "7 contradicts a transient or exclusive queue, which keeps nothing",
        ),
        (
            true,
            false,
            "x-retain",
            Value::I32(999),
            "999 is not within 1000 to 31536000000",
        ),
        (
            true,
            false,
            "x-retain-bytes",
            Value::I32(-1),
            "-1 is not within 1 to 1125899906842624",
        ),
        (
            true,
            false,
            "x-retain",
            Value::text("1d"),
            "'1d' (longstr) is not within 1000 to 31536000000",
        ),
    ] {
        let text = declare(durable, exclusive, key, value);
        let expected = format!("invalid arg '{key}' for queue 'x' in vhost '/': {reason}");
        assert!(text.ends_with(&expected), "{text}");
    }
}

#[tokio::test]
async fn a_message_in_its_row_that_failed_comes_again_and_is_kept_once() {
    let world = world(Memory::new()).await;
    let work = [
        ("x-retain", Value::I32(3_600_000)),
        ("x-retry-delay", Value::I32(1)),
    ];
    world.declare("q", &work);
    world.publish_later("q", 7).await;
    world.kill("q", 1).await;
    let none = Filter::default();
    assert_eq!(world.retained("q", &none).await, ids(0..0));
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, ids(0..0));
    assert_eq!(world.take_first("q").await, 7);
    assert_eq!(world.retained("q", &none).await, [7]);
    let world = world.after_a_crash().await;
    assert_eq!(world.retained("q", &none).await, [7]);
    assert_eq!(world.drain("q").await.len(), 0);
}

#[tokio::test]
async fn a_message_in_its_row_that_came_back_and_died_stays_dead() {
    let world = world(Memory::new()).await;
    let work = [
        ("x-retain", Value::I32(3_600_000)),
        ("x-retry-limit", Value::I32(1)),
    ];
    world.declare("q", &work);
    world.publish_later("q", 7).await;
    let first = world.got("q").await;
    {
        // Back and dead within one commit, which has a row to put and a row to keep.
        let mut shard = world.store.lock();
        assert!(shard.nack(world.key, first, false, true));
        let id = shard.queue(0, "/", "q").expect("a queue");
        let Got::Message { tag, .. } = shard.get(id, world.key, false) else {
            panic!("it is in memory");
        };
        assert!(shard.nack(world.key, tag, false, true));
    }
    world.store.on_disk().await.expect("on disk");
    let world = world.after_a_crash().await;
    let none = Filter::default();
    let waiting = world.store.peek(("/", "q"), Which::Waiting, &none, 0, 9);
    assert_eq!(waiting.await.expect("a page").messages.len(), 0, "it died");
    assert_eq!(world.drain("q").await.len(), 0, "it died");
    assert_eq!(world.drain("q.dlq").await.len(), 1);
    assert_eq!(world.retained("q", &none).await, [7]);
}
