//! Messages that were delayed, on a store with the engine in memory.

use std::time::Duration;

use amqp::field::Value;

use super::*;
use crate::Store;
use crate::definitions::QueueDeclare;
use crate::shard::Got;
use crate::sql::memory::Memory;

const BODY: usize = 16 << 10;
const COUNT: u64 = 2_000;

/// A store with a work queue, and a channel.
async fn store(more: &[(&str, Value)]) -> (Store, ChannelKey, QueueId) {
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
    arguments.insert("x-retry-limit", Value::I32(3));
    for (name, value) in more {
        arguments.insert(name, value.clone());
    }
    let ask = QueueDeclare {
        name: "q".into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    let declared = shard.declare_queue(session, &"/".into(), ask);
    declared.expect("declared");
    let id = shard.queue(0, "/", "q").expect("a queue");
    drop(shard);
    (store, key, id)
}

/// A message of one key.
fn message(delay_ms: Option<i32>, bytes: usize) -> Arc<Block> {
    let mut headers = Table::default();
    headers.insert("k", Value::I32(7));
    if let Some(ms) = delay_ms {
        headers.insert("x-delay", Value::I32(ms));
    }
    let properties = Properties {
        delivery_mode: Some(2),
        headers: Some(headers),
        ..Properties::default()
    };
    let mut block = Block::default();
    let address = Address::new(b"", b"q");
    block.push(&address, &properties.encode(), &vec![7; bytes]);
    Arc::new(block)
}

fn publish(store: &Store, block: &Arc<Block>) {
    let published = store.lock().publish(&Run::alone(&"/".into(), block));
    published.expect("published");
}

async fn fail(store: &Store, id: QueueId, key: ChannelKey) {
    loop {
        let got = store.lock().get(id, key, false);
        if let Got::Message { tag, .. } = got {
            assert!(store.lock().nack(key, tag, false, false));
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_is_due_stays_in_its_row_until_there_is_a_taker() {
    let (store, key, id) = store(&[]).await;
    for _ in 0..COUNT {
        publish(&store, &message(Some(1), BODY));
    }
    store.on_disk().await.expect("on disk");
    let in_memory = || store.lock().queues[&id].log.read_back_bytes();
    while in_memory() < READ_BACK_BYTES {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Whoever reads them looks at the limit once for so many.
    let most = READ_BACK_BYTES + 300 * (BODY as u64 + 1024);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(in_memory() <= most, "{} bytes", in_memory());
    }
    let mut taken = 0;
    while taken < COUNT {
        let got = store.lock().get(id, key, true);
        match got {
            Got::Message { .. } => taken += 1,
            Got::Later | Got::Empty => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    store.on_disk().await.expect("on disk");
    let log = &store.lock().queues[&id].log;
    assert_eq!(log.read_back_bytes(), 0);
    assert!(log.waiting.is_empty() && log.ready() == 0 && log.unacked() == 0);
}

#[tokio::test]
async fn a_key_goes_on_however_much_waits_behind_it() {
    let (store, key, id) = store(&[
        ("x-partition-header", Value::text("k")),
        ("x-retry-delay", Value::I32(300)),
    ])
    .await;
    publish(&store, &message(None, 1));
    fail(&store, id, key).await;
    // They come due first, and stand behind the one that failed.
    for _ in 0..COUNT {
        publish(&store, &message(Some(1), BODY));
    }
    let mut sizes = Vec::new();
    while sizes.len() as u64 <= COUNT {
        let got = store.lock().get(id, key, true);
        match got {
            Got::Message { piece, .. } => sizes.push(piece.entry(0).body_size as usize),
            Got::Later | Got::Empty => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    assert_eq!(sizes.iter().position(|size| *size == 1), Some(0));
}
