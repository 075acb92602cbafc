//! Turns: a backlog is dealt out as evenly as single messages are.

use std::sync::Arc;

use super::*;
use crate::Store;
use crate::definitions::QueueDeclare;
use crate::sql::memory::Memory;

const CONSUMERS: u16 = 3;

/// What each consumer got of a backlog of blocks of these lengths.
async fn dealt(blocks: &[u32]) -> Vec<u32> {
    let store = Store::open(Arc::new(Memory::default()), Options::default());
    let store = store.await.expect("a start");
    let mut shard = store.lock();
    let session = shard.open_session(Arc::default());
    let key = |channel| ChannelKey { session, channel };
    let ask = QueueDeclare {
        name: "q".into(),
        ..QueueDeclare::default()
    };
    let vhost = Arc::from("/");
    shard.declare_queue(session, &vhost, ask).expect("declared");
    let id = shard.queue(session, "/", "q").expect("a queue");
    for channel in 1..=CONSUMERS {
        shard.open_channel(key(channel));
        let consumer = Consumer {
            key: key(channel),
            tag: Arc::from(&b"c"[..]),
            no_ack: true,
            exclusive: false,
            prefetch: 0,
            unacked: 0,
            priority: 0,
            timeout_ms: None,
            leases: false,
        };
        shard.consume(id, consumer).expect("room");
    }
    shard.queues.get_mut(&id).expect("declared").spec.paused = true;
    for count in blocks {
        let mut block = Block::default();
        for _ in 0..*count {
            block.push(
                &Address::new(b"", b"q"),
                &Properties::default().encode(),
                b"x",
            );
        }
        let block = Arc::new(block);
        let run = Run {
            count: *count,
            ..Run::alone(&vhost, &block)
        };
        shard.publish(&run).expect("published");
    }
    shard.queues.get_mut(&id).expect("declared").spec.paused = false;
    shard.pump(id);
    let mut got = vec![0; usize::from(CONSUMERS)];
    for out in shard.take_outbox(session) {
        if let Out::Deliver { channel, piece, .. } = out {
            got[usize::from(channel) - 1] += piece.count;
        }
    }
    got
}

#[tokio::test]
async fn each_gets_the_same_of_a_backlog() {
    for blocks in [
        &[30][..],
        &[1, 29],
        &[6, 1, 23],
        &[1; 30],
        &[299, 1],
        &[4, 5, 291],
        &[3],
    ] {
        let share = blocks.iter().sum::<u32>() / u32::from(CONSUMERS);
        let got = dealt(blocks).await;
        assert_eq!(got, [share; CONSUMERS as usize], "of {blocks:?}");
    }
}
