//! What is written reads back, of this version and the one before; what is damaged is named.

use amqp::field::{Table, Value};
use amqp::properties::Properties;
use proptest::prelude::*;

use super::*;

const FIRST: Seq = 100;
const AT: Micros = 5_000_000;

#[derive(Clone, Debug)]
struct Message {
    key: i64,
    body: Vec<u8>,
    queue: bool,
    /// Of the sequence and of the time, ms, since the message before.
    gap: u32,
    later: u32,
}

fn message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 16),
        1 => prop::collection::vec(any::<u8>(), 0..600),
        1 => Just(vec![7; 400]),
    ];
    let gap = prop_oneof![6 => Just(0u32), 1 => 0..50u32];
    let later = prop_oneof![6 => Just(0u32), 1 => 0..5000u32];
    (any::<i64>(), body, any::<bool>(), gap, later).prop_map(|(key, body, queue, gap, later)| {
        Message {
            key,
            body,
            queue,
            gap,
            later,
        }
    })
}

fn block(messages: &[Message]) -> Block {
    let mut block = Block::default();
    for message in messages {
        let mut headers = Table::default();
        headers.insert("x-deduplication-header", Value::I64(message.key));
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let queue: &[u8] = if message.queue { b"one" } else { b"other" };
        let address = Address::new(b"", queue);
        block.push(&address, &properties.encode(), &message.body);
    }
    block
}

/// Sequence and time, ms, of each message from the first.
fn places(messages: &[Message]) -> Vec<(u32, u32)> {
    let (mut seq, mut at) = (0, 0);
    let place = |message: &Message| {
        at += message.later;
        let place = (seq + message.gap, at);
        seq += message.gap + 1;
        place
    };
    messages.iter().map(place).collect()
}

fn written(messages: &[Message]) -> (Vec<u8>, Vec<u8>) {
    let block = block(messages);
    let mut encoder = Encoder::default();
    for (index, (seq, at)) in places(messages).into_iter().enumerate() {
        encoder.push(&block, index, seq, at);
    }
    assert_eq!(encoder.count() as usize, messages.len());
    encoder.finish()
}

/// As version 1 wrote it.
fn written_whole(messages: &[Message]) -> (Vec<u8>, Vec<u8>) {
    let block = block(messages);
    let (mut index, mut data) = (vec![VERSION_WHOLE], Vec::new());
    index.extend((block.addresses.len() as u16).to_le_bytes());
    for address in &block.addresses {
        index.extend((address.wire().len() as u16).to_le_bytes());
        index.extend(address.wire());
    }
    index.extend((messages.len() as u32).to_le_bytes());
    for (at, (seq, ms)) in places(messages).into_iter().enumerate() {
        let (entry, content) = (block.entries[at], block.content(at));
        let crc = crc32fast::hash(content);
        for word in [seq, entry.len, entry.body_size, ms, crc] {
            index.extend(word.to_le_bytes());
        }
        index.extend(entry.address.to_le_bytes());
        index.extend([entry.flags, entry.priority]);
        data.extend(content);
    }
    (index, data)
}

/// Sequence, time, address and wire bytes.
type Served = (Seq, Micros, Vec<u8>, Vec<u8>);

/// Every message that reads back, and those that do not.
fn read(index: &[u8], data: &[u8]) -> Option<(Vec<Served>, Vec<Seq>)> {
    let decoded = decode(index, data.to_vec(), FIRST, AT)?;
    let mut out = Vec::new();
    for piece in &decoded.pieces {
        for offset in 0..piece.count {
            let at = piece.index(offset);
            let entry = piece.block.entries[at];
            let address = &piece.block.addresses[usize::from(entry.address)];
            let content = piece.block.content(at).to_vec();
            let seq = piece.first + u64::from(offset);
            out.push((seq, piece.at, address.wire().to_vec(), content));
        }
    }
    Some((out, decoded.damaged))
}

fn expected(messages: &[Message]) -> Vec<Served> {
    let block = block(messages);
    let places = places(messages).into_iter().enumerate();
    let one = |(at, (seq, ms)): (usize, (u32, u32))| {
        let address = &block.addresses[usize::from(block.entries[at].address)];
        let content = block.content(at).to_vec();
        let (seq, at) = (FIRST + u64::from(seq), AT + i64::from(ms) * 1000);
        (seq, at, address.wire().to_vec(), content)
    };
    places.map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_reads_back(messages in prop::collection::vec(message(), 1..60)) {
        for (index, data) in [written(&messages), written_whole(&messages)] {
            let all = expected(&messages);
            let seqs: Vec<Seq> = all.iter().map(|message| message.0).collect();
            prop_assert_eq!(read(&index, &data), Some((all, Vec::new())));
            let contents = inspect(&index, &data, FIRST).expect("an index");
            prop_assert_eq!(contents.seqs, seqs);
            prop_assert!(contents.damaged.is_empty());
            prop_assert_eq!(contents.data_bytes, data.len() as u64);
            let bodies: usize = messages.iter().map(|message| message.body.len()).sum();
            prop_assert_eq!(contents.body_bytes, bodies as u64);
        }
    }

    #[test]
    fn what_is_damaged_is_named_and_nothing_else_is_served_changed(
        messages in prop::collection::vec(message(), 1..60),
        at in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (index, mut data) = written(&messages);
        let at = at.index(data.len());
        match cut {
            true => data.truncate(at),
            false => data[at] ^= 0x10,
        }
        let all = expected(&messages);
        let (served, damaged) = read(&index, &data).expect("an index");
        prop_assert!(!damaged.is_empty());
        prop_assert!(cut || damaged.len() <= GROUP as usize);
        prop_assert_eq!(served.len() + damaged.len(), all.len());
        for message in &served {
            prop_assert!(all.contains(message));
        }
        let contents = inspect(&index, &data, FIRST).expect("an index");
        prop_assert_eq!(contents.damaged, damaged);
    }

    #[test]
    fn no_index_makes_it_stumble(
        messages in prop::collection::vec(message(), 1..20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut index, data) = written(&messages);
        for (at, byte) in changes {
            let at = at.index(index.len());
            index[at] = byte;
        }
        if let Some(cut) = cut {
            index.truncate(cut.index(index.len()));
        }
        let all = expected(&messages);
        let read = read(&index, &data);
        let seen = inspect(&index, &data, FIRST);
        prop_assert_eq!(read.is_some(), seen.is_some());
        for message in read.map_or_else(Vec::new, |(served, _)| served) {
            let known = all.iter().any(|other| other.3 == message.3);
            prop_assert!(known, "a message that nobody wrote");
        }
    }
}

#[test]
fn messages_that_begin_alike_take_half_of_the_room() {
    let message = |key: i64| Message {
        key,
        body: key.to_le_bytes().repeat(2),
        queue: true,
        gap: 0,
        later: 0,
    };
    let messages: Vec<Message> = (0..1000).map(message).collect();
    let bytes = |(index, data): (Vec<u8>, Vec<u8>)| index.len() + data.len();
    let (now, before) = (bytes(written(&messages)), bytes(written_whole(&messages)));
    assert!(now * 2 < before, "{now} bytes of {before}");
}

#[test]
fn of_a_damaged_message_only_what_is_shared_is_damage_to_others() {
    let message = |key: i64| Message {
        key,
        body: vec![1; 16],
        queue: true,
        gap: 0,
        later: 0,
    };
    let messages: Vec<Message> = (0..40).map(message).collect();
    let (index, data) = written(&messages);
    let whole = block(&messages).content(0).len();
    let damaged = |at: usize| {
        let mut data = data.clone();
        data[at] ^= 1;
        read(&index, &data).expect("an index").1
    };
    let all: Vec<Seq> = (FIRST..FIRST + u64::from(GROUP)).collect();
    assert_eq!(
        damaged(0),
        all,
        "of the whole one, what all of its group share"
    );
    assert_eq!(
        damaged(whole - 1),
        [FIRST],
        "and its end, which none shares"
    );
    assert_eq!(damaged(whole), [FIRST + 1], "of another");
}
