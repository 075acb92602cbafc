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
async fn store() -> (Store, ChannelKey, QueueId) {
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

fn delayed(ms: i32) -> Arc<Block> {
    let mut headers = Table::default();
    headers.insert("x-delay", Value::I32(ms));
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    let mut block = Block::default();
    block.push(&Address::new(b"", b"q"), &properties.encode(), &[7; BODY]);
    Arc::new(block)
}

#[tokio::test]
async fn what_is_due_stays_in_its_row_until_there_is_a_taker() {
    let (store, key, id) = store().await;
    let vhost: Arc<str> = "/".into();
    for _ in 0..COUNT {
        let block = delayed(1);
        let published = store.lock().publish(&Run::alone(&vhost, &block));
        published.expect("published");
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
