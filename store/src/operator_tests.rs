//! Operators' verbs on a store with the engine in memory, through crashes.

use amqp::field::{Table, Value};
use amqp::properties::Properties;

use super::*;
use crate::Options;
use crate::definitions::QueueDeclare;
use crate::queue::consumers::ChannelKey;
use crate::shard::{Got, Run};
use crate::sql::memory::Memory;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) memory: Arc<Memory>,
    pub(crate) key: ChannelKey,
}

pub(crate) async fn world(memory: Memory) -> World {
    let memory = Arc::new(memory);
    let store = Store::open(memory.clone(), Options::default());
    let store = store.await.expect("a start");
    let mut shard = store.lock();
    let session = shard.open_session(Arc::default());
    let key = ChannelKey {
        session,
        channel: 1,
    };
    shard.open_channel(key);
    drop(shard);
    World { store, memory, key }
}

impl World {
    pub(crate) fn declare(&self, name: &str, arguments: &[(&str, Value)]) {
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
        let declared = shard.declare_queue(self.key.session, &"/".into(), ask);
        declared.expect("declared");
    }

    pub(crate) async fn publish(&self, queue: &str, ids: std::ops::Range<u32>) {
        for id in ids {
            let mut headers = Table::default();
            headers.insert("even", Value::Bool(id % 2 == 0));
            let properties = Properties {
                message_id: Some(id.to_string().into_bytes()),
                delivery_mode: Some(2),
                headers: Some(headers),
                ..Properties::default()
            };
            let mut block = Block::default();
            let address = Address::new(b"", queue.as_bytes());
            block.push(&address, &properties.encode(), &[7; 100]);
            let vhost: Arc<str> = "/".into();
            let block = Arc::new(block);
            let published = self.store.lock().publish(&Run::alone(&vhost, &block));
            published.expect("published");
        }
        self.store.on_disk().await.expect("on disk");
    }

    /// Ids in the queue, taken for good.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<(u32, Properties)> {
        let mut out = Vec::new();
        loop {
            let got = {
                let mut shard = self.store.lock();
                let id = shard.queue(0, "/", queue).expect("a queue");
                shard.get(id, self.key, true)
            };
            match got {
                Got::Message { piece, .. } => out.push(read(&piece)),
                Got::Later => self.store.on_disk().await.expect("on disk"),
                Got::Empty => return out,
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn kill_one(&self, queue: &str) -> bool {
        let mut shard = self.store.lock();
        let id = shard.queue(0, "/", queue).expect("a queue");
        let Got::Message { tag, .. } = shard.get(id, self.key, false) else {
            return false;
        };
        shard.nack(self.key, tag, false, false)
    }

    pub(crate) async fn kill(&self, queue: &str, count: usize) {
        for _ in 0..count {
            while !self.kill_one(queue) {
                self.store.on_disk().await.expect("on disk");
                tokio::task::yield_now().await;
            }
        }
        self.store.on_disk().await.expect("on disk");
    }

    pub(crate) async fn after_a_crash(self) -> Self {
        world(self.memory.crash()).await
    }

    pub(crate) async fn ended(&self, id: &str) -> RedriveRow {
        loop {
            let row = self.store.redrive_of(id).expect("known");
            if row.state != RedriveState::Running {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn peek(&self, queue: &str, filter: &Filter) -> Vec<u32> {
        let page = self.store.peek(("/", queue), Which::Ready, filter, 0, 1000);
        let page = page.await.expect("a page");
        assert_eq!(page.next, None);
        page.messages
            .iter()
            .map(|seen| read(&seen.piece).0)
            .collect()
    }
}

pub(crate) fn read(piece: &Piece) -> (u32, Properties) {
    let index = piece.index(0);
    let properties = Properties::parse(piece.block.properties(index)).expect("sound");
    let id = properties.message_id.clone().expect("an id");
    assert_eq!(&*piece.block.body(index), [7; 100]);
    let id = String::from_utf8(id).expect("digits");
    (id.parse().expect("digits"), properties)
}

pub(crate) fn ids(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

const ONCE: [(&str, Value); 1] = [("x-retry-limit", Value::I32(0))];

#[tokio::test]
async fn looking_finds_and_changes_nothing() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    world.publish("q", 0..30).await;
    assert_eq!(world.peek("q", &Filter::default()).await, ids(0..30));
    let filter = Filter {
        headers: vec![("even".into(), "false".into())],
        ..Filter::default()
    };
    assert_eq!(world.peek("q", &filter).await.len(), 15);
    let first = world.store.peek(("/", "q"), Which::Ready, &filter, 0, 4);
    let first = first.await.expect("a page");
    let seqs: Vec<Seq> = first.messages.iter().map(|seen| seen.seq).collect();
    assert_eq!((seqs, first.next), (vec![1, 3, 5, 7], Some(8)));
    let left = world.drain("q").await;
    assert_eq!(
        left.len(),
        30,
        "nothing is gone, and nothing was handed out"
    );
    assert!(
        world
            .store
            .peek(("/", "none"), Which::Ready, &filter, 0, 1)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_is_meant_is_purged() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    world.publish("q", 0..20).await;
    let filter = Filter {
        ids: vec!["3".into(), "4".into(), "99".into()],
        ..Filter::default()
    };
    let store = &world.store;
    let count = |dry| store.purge_matching(("/", "q"), Which::Ready, &filter, dry);
    assert_eq!(count(true).await.expect("counted"), 2);
    assert_eq!(count(false).await.expect("purged"), 2);
    assert_eq!(count(false).await.expect("purged"), 0);
    let again = self::world(world.memory.crash()).await;
    let left: Vec<u32> = again.drain("q").await.iter().map(|(id, _)| *id).collect();
    let expected: Vec<u32> = (0..20).filter(|id| ![3, 4].contains(id)).collect();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn the_dead_go_back_to_where_they_died() {
    let world = world(Memory::new()).await;
    world.declare("a", &ONCE);
    world.declare("b", &ONCE);
    world.publish("a", 0..6).await;
    world.publish("b", 6..8).await;
    assert!(
        world.store.dead_letter_queue("/", "a").is_err(),
        "nobody has died"
    );
    world.kill("a", 6).await;
    world.kill("b", 2).await;
    assert_eq!(
        world.store.dead_letter_queue("/", "a").expect("one"),
        "a.dlq"
    );
    let ask = Redrive {
        vhost: "/".into(),
        source: "a.dlq".into(),
        filter: Filter {
            headers: vec![("even".into(), "true".into())],
            ..Filter::default()
        },
        ..Redrive::default()
    };
    let row = world.store.redrive(ask).await.expect("begun");
    let row = world.ended(&row.id).await;
    assert_eq!(
        (row.state, row.moved, row.skipped),
        (RedriveState::Done, 3, 0)
    );
    let back = world.drain("a").await;
    let found: Vec<u32> = back.iter().map(|(id, _)| *id).collect();
    assert_eq!(found, [0, 2, 4]);
    for (_, properties) in &back {
        assert_eq!(properties.header("x-attempt"), None, "attempts begin anew");
        assert_eq!(properties.header("x-redrive-count"), Some(&Value::I64(1)));
        assert!(properties.header("x-death").is_some());
    }
    assert_eq!(world.drain("a.dlq").await.len(), 3);
    assert_eq!(world.drain("b.dlq").await.len(), 2);
}

#[tokio::test]
async fn a_redrive_goes_on_after_a_crash_and_loses_and_doubles_nothing() {
    let mut world = world(Memory::new()).await;
    world.declare("from", &[]);
    world.declare("to", &[]);
    world.publish("from", 0..2_000).await;
    let ask = Redrive {
        vhost: "/".into(),
        source: "from".into(),
        target: Some("to".into()),
        rate: Some(4_000.0),
        ..Redrive::default()
    };
    let row = world.store.redrive(ask).await.expect("begun");
    let mut crashes = 0;
    loop {
        let known = world.store.redrive_of(&row.id).expect("known");
        if known.state != RedriveState::Running {
            assert_eq!((known.state, known.moved), (RedriveState::Done, 2_000));
            break;
        }
        // Between two commits, wherever that is.
        if known.moved > crashes * 400 {
            crashes += 1;
            let memory = world.memory.crash();
            world = self::world(memory).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(crashes >= 3, "it was interrupted {crashes} times");
    let found: Vec<u32> = world.drain("to").await.iter().map(|(id, _)| *id).collect();
    assert_eq!(found, ids(0..2_000));
    assert_eq!(world.drain("from").await.len(), 0);
}

#[tokio::test]
async fn a_redrive_waits_for_room_and_ends_with_its_target() {
    for overflow in ["reject-publish", "block"] {
        redrive_into_a_full_queue(overflow).await;
    }
}

async fn redrive_into_a_full_queue(overflow: &str) {
    let world = world(Memory::new()).await;
    world.declare("from", &[]);
    let bounded = [
        ("x-max-length", Value::I32(5)),
        ("x-overflow", Value::text(overflow)),
    ];
    world.declare("to", &bounded);
    world.publish("from", 0..8).await;
    let ask = Redrive {
        vhost: "/".into(),
        source: "from".into(),
        target: Some("to".into()),
        ..Redrive::default()
    };
    let none = Redrive {
        target: Some("none".into()),
        ..ask.clone()
    };
    assert!(world.store.redrive(none).await.is_err());
    let same = Redrive {
        target: Some("from".into()),
        ..ask.clone()
    };
    assert!(world.store.redrive(same).await.is_err());
    let row = world.store.redrive(ask).await.expect("begun");
    while world.store.redrive_of(&row.id).expect("known").moved < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.store.on_disk().await.expect("on disk");
    {
        let mut shard = world.store.lock();
        assert_eq!(shard.redrive_step(&row.id, 9), Step::Full);
        assert!(shard.pending.redrives.is_empty(), "it waits without a word");
    }
    let deleted = world.store.lock().delete_queue(0, "/", "to", false, false);
    assert_eq!(deleted.expect("deleted"), 5);
    let row = world.ended(&row.id).await;
    assert_eq!((row.state, row.moved), (RedriveState::Failed, 5));
    assert_eq!(row.detail, "no queue 'to' in vhost '/'");
    assert_eq!(world.drain("from").await.len(), 3, "the others stay");
    assert!(!world.store.cancel_redrive(&row.id).await.expect("asked"));
}

#[tokio::test]
async fn waiting_messages_are_listed_and_cancelled() {
    let world = world(Memory::new()).await;
    let arguments = [("x-retry-delay", Value::I32(60_000))];
    world.declare("q", &arguments);
    world.publish("q", 0..5).await;
    world.kill("q", 5).await;
    let all = Filter::default();
    let page = world.store.peek(("/", "q"), Which::Waiting, &all, 0, 3);
    let page = page.await.expect("a page");
    let found: Vec<u32> = page
        .messages
        .iter()
        .map(|seen| read(&seen.piece).0)
        .collect();
    assert_eq!((found, page.next), (ids(0..3), Some(3)));
    assert!(
        page.messages
            .iter()
            .all(|seen| seen.due_at.is_some() && seen.failures == 1)
    );
    let one = Filter {
        ids: vec!["2".into()],
        ..Filter::default()
    };
    let purged = world
        .store
        .purge_matching(("/", "q"), Which::Waiting, &one, false);
    assert_eq!(purged.await.expect("purged"), 1);
    let again = self::world(world.memory.crash()).await;
    let page = again.store.peek(("/", "q"), Which::Waiting, &all, 0, 10);
    assert_eq!(page.await.expect("a page").messages.len(), 4);
    let purged = again
        .store
        .purge_matching(("/", "q"), Which::Waiting, &all, false);
    assert_eq!(purged.await.expect("purged"), 4);
}

#[tokio::test]
async fn a_paused_queue_takes_and_hands_out_nothing_until_it_is_resumed() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    world
        .store
        .set_paused("/", "q", true)
        .await
        .expect("paused");
    world.publish("q", 0..3).await;
    assert_eq!(world.drain("q").await.len(), 0);
    let again = self::world(world.memory.crash()).await;
    assert_eq!(
        again.drain("q").await.len(),
        0,
        "a restart does not resume it"
    );
    again
        .store
        .set_paused("/", "q", false)
        .await
        .expect("resumed");
    assert_eq!(again.drain("q").await.len(), 3);
}

/// What nobody waited for is not yet safe; whoever asks later is told when it is.
#[tokio::test]
async fn on_disk_speaks_for_commits_before_it() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    world.publish("q", 0..2).await;
    let id = world.store.lock().queue(0, "/", "q").expect("a queue");
    loop {
        let got = world.store.lock().get(id, world.key, true);
        match got {
            Got::Message { .. } => break,
            _ => world.store.on_disk().await.expect("on disk"),
        }
    }
    // Its settling goes with a commit that waits for no disk.
    let before = world.store.stats().counters.commits;
    while world.store.stats().counters.commits == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.store.on_disk().await.expect("on disk");
    let again = self::world(world.memory.crash()).await;
    let left: Vec<u32> = again.drain("q").await.iter().map(|(id, _)| *id).collect();
    assert_eq!(left, [1]);
}

/// Reads a queue page by page; `between` is called after each page.
async fn walked(
    world: &World,
    which: Which,
    limit: u32,
    mut between: impl AsyncFnMut(u32),
) -> Vec<Seq> {
    let (mut from, mut seen, mut pages) = (0, Vec::new(), 0);
    loop {
        let all = Filter::default();
        let page = world.store.peek(("/", "q"), which, &all, from, limit);
        let page = page.await.expect("a page");
        assert!(page.messages.len() <= limit as usize);
        seen.extend(page.messages.iter().map(|seen| seen.seq));
        let Some(next) = page.next else {
            return seen;
        };
        from = next;
        between(pages).await;
        pages += 1;
    }
}

#[tokio::test]
async fn a_walk_sees_each_message_that_stays_once_while_others_come_and_go() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    world.publish("q", 0..300).await;
    let id = world.store.lock().queue(0, "/", "q").expect("a queue");
    let (mut gone, mut published) = (std::collections::BTreeSet::new(), 300);
    let seen = walked(&world, Which::Ready, 7, async |page| {
        // Some from the middle, before and behind the reader; the head goes out and returns.
        let seqs = (0..4).map(|n| (u64::from(page) * 4 + n) * 137 % 300);
        {
            let mut shard = world.store.lock();
            for seq in seqs {
                if shard.remove_ready(id, &[seq]) > 0 {
                    gone.insert(seq);
                }
            }
            if let Got::Message { tag, .. } = shard.get(id, world.key, false) {
                shard.nack(world.key, tag, false, true);
            }
        }
        if page < 20 {
            world.publish("q", published..published + 3).await;
            published += 3;
        }
    })
    .await;
    assert!(gone.len() > 50);
    let stays = |seq: &Seq| *seq < 300 && !gone.contains(seq);
    let found: Vec<Seq> = seen.iter().copied().filter(stays).collect();
    let expected: Vec<Seq> = (0..300).filter(stays).collect();
    assert_eq!(found, expected);
    assert!(seen.is_sorted_by(|a, b| a < b), "none twice");
}

#[tokio::test]
async fn a_walk_over_what_waits_sees_each_that_stays_once() {
    let world = world(Memory::new()).await;
    world.declare("q", &[("x-retry-delay", Value::I32(60_000))]);
    world.publish("q", 0..40).await;
    world.kill("q", 40).await;
    let id = world.store.lock().queue(0, "/", "q").expect("a queue");
    let seen = walked(&world, Which::Waiting, 3, async |page| {
        let cancelled = [u64::from(page) * 5, 39 - u64::from(page)];
        for seq in cancelled {
            world.store.lock().cancel_waiting(id, seq);
        }
        world.publish("q", 40 + page..41 + page).await;
        world.kill("q", 1).await;
    })
    .await;
    let left = walked(&world, Which::Waiting, 1000, async |_| ()).await;
    let stays = |seq: &&Seq| **seq < 40;
    let left: Vec<&Seq> = left.iter().filter(stays).collect();
    let found: Vec<&Seq> = seen.iter().filter(|seq| left.contains(seq)).collect();
    assert_eq!(found, left);
    assert!(seen.is_sorted_by(|a, b| a < b), "none twice");
}

#[tokio::test]
async fn the_end_of_a_walk_is_known_at_once() {
    let world = world(Memory::new()).await;
    world.declare("q", &[("x-retry-delay", Value::I32(60_000))]);
    let all = Filter::default();
    let next = async |which, limit| {
        let page = world.store.peek(("/", "q"), which, &all, 0, limit);
        page.await.expect("a page").next
    };
    world.publish("q", 0..4).await;
    assert_eq!(next(Which::Ready, 4).await, None);
    assert_eq!(next(Which::Ready, 3).await, Some(3));
    world.kill("q", 4).await;
    assert_eq!(next(Which::Waiting, 4).await, None);
    assert_eq!(next(Which::Waiting, 3).await, Some(3));
}

#[tokio::test]
async fn redrives_are_listed_by_pages_and_the_oldest_forgotten() {
    let world = world(Memory::new()).await;
    world.declare("q", &[]);
    let row = RedriveRow {
        ended_at: Some(clock::now()),
        state: RedriveState::Done,
        ..world.store.redrive(nowhere()).await.expect("begun")
    };
    let named = |n: usize| RedriveRow {
        id: format!("00000000-0000-7000-8000-{n:012}").into(),
        ..row.clone()
    };
    {
        let mut shard = world.store.lock();
        let many = (0..REMEMBERED_MAX).map(named);
        many.for_each(|row| drop(shard.redrives.insert(row.id.clone(), row)));
    }
    let first = world.store.redrives(None, 2);
    assert_eq!(first[1].id, named(1).id);
    // It goes on from one that is forgotten meanwhile.
    world.store.lock().redrives.remove(&first[1].id);
    let second = world.store.redrives(Some(&first[1].id), 2);
    assert_eq!(second[0].id, named(2).id);
    let new = world.store.redrive(nowhere()).await.expect("begun");
    let known = world.store.redrives(None, usize::MAX);
    assert_eq!(known.len(), REMEMBERED_MAX);
    assert_eq!(known.last().map(|row| &row.id), Some(&new.id));
    assert_ne!(known[0].id, named(0).id);
}

fn nowhere() -> Redrive {
    Redrive {
        vhost: "/".into(),
        source: "q".into(),
        ..Redrive::default()
    }
}
