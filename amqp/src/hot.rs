//! The hot methods outward: deliver, get-ok, return, confirms. Allocation-free.
//!
//! Keeps: one template per run of deliveries, contents copied once with the channel patched.
//! Source: §1.8 (class 60); confirm frames as RabbitMQ's.

use crate::content::{Block, Entry, frame_size};

const END: u8 = 0xCE;

fn frame(out: &mut Vec<u8>, channel: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(1);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    write(out);
    let size = (out.len() - start - 7) as u32;
    out[start + 3..start + 7].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

fn short(out: &mut Vec<u8>, text: &[u8]) {
    let length = text.len().min(255);
    out.push(length as u8);
    out.extend_from_slice(&text[..length]);
}

/// Copies a content, its frames re-addressed to `channel` and re-split for a smaller `frame_max`.
pub fn content(out: &mut Vec<u8>, channel: u16, block: &Block, index: usize, frame_max: u32) {
    let entry = &block.entries[index];
    let bytes = block.content(index);
    let limit = if frame_max == 0 {
        usize::MAX
    } else {
        frame_max as usize - 8
    };
    let channel = channel.to_be_bytes();
    if entry.flags & Entry::SPLIT == 0 || fits(bytes, limit) {
        let start = out.len();
        out.extend_from_slice(bytes);
        let mut at = start;
        while at < out.len() {
            out[at + 1..at + 3].copy_from_slice(&channel);
            at += frame_size(&out[at..]) + 8;
        }
        return;
    }
    let header = frame_size(bytes) + 8;
    let start = out.len();
    out.extend_from_slice(&bytes[..header]);
    out[start + 1..start + 3].copy_from_slice(&channel);
    for part in block.body(index).chunks(limit) {
        out.push(3);
        out.extend_from_slice(&channel);
        out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        out.extend_from_slice(part);
        out.push(END);
    }
}

fn fits(mut frames: &[u8], limit: usize) -> bool {
    while !frames.is_empty() {
        let size = frame_size(frames);
        if size > limit {
            return false;
        }
        frames = &frames[size + 8..];
    }
    true
}

/// Deliveries of `count` messages from `first` on, with rising tags.
#[expect(clippy::too_many_arguments, reason = "the fields of basic.deliver")]
pub fn deliver_run(
    out: &mut Vec<u8>,
    channel: u16,
    consumer_tag: &[u8],
    first_tag: u64,
    redelivered: bool,
    block: &Block,
    first: usize,
    count: usize,
    frame_max: u32,
) {
    let mut template = [0u8; 1024];
    let (mut size, mut tag_at, mut address) = (0, 0, None);
    for step in 0..count {
        let index = first + step;
        let entry = &block.entries[index];
        if address != Some(entry.address) {
            address = Some(entry.address);
            let wire = block.addresses[usize::from(entry.address)].wire();
            let tag_len = consumer_tag.len().min(255);
            let payload = 4 + 1 + tag_len + 8 + 1 + wire.len();
            size = payload + 8;
            tag_at = 12 + tag_len;
            template[0] = 1;
            template[1..3].copy_from_slice(&channel.to_be_bytes());
            template[3..7].copy_from_slice(&(payload as u32).to_be_bytes());
            template[7..11].copy_from_slice(&[0, 60, 0, 60]);
            template[11] = tag_len as u8;
            template[12..tag_at].copy_from_slice(&consumer_tag[..tag_len]);
            template[tag_at + 8] = u8::from(redelivered);
            template[tag_at + 9..tag_at + 9 + wire.len()].copy_from_slice(wire);
            template[size - 1] = END;
        }
        template[tag_at..tag_at + 8].copy_from_slice(&(first_tag + step as u64).to_be_bytes());
        out.extend_from_slice(&template[..size]);
        content(out, channel, block, index, frame_max);
    }
}

/// basic.get-ok with its content.
#[expect(clippy::too_many_arguments, reason = "the fields of basic.get-ok")]
pub fn get_ok(
    out: &mut Vec<u8>,
    channel: u16,
    tag: u64,
    redelivered: bool,
    remaining: u32,
    block: &Block,
    index: usize,
    frame_max: u32,
) {
    frame(out, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 71]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(redelivered));
        out.extend_from_slice(block.address(index).wire());
        out.extend_from_slice(&remaining.to_be_bytes());
    });
    content(out, channel, block, index, frame_max);
}

/// basic.return with its content.
pub fn returned(
    out: &mut Vec<u8>,
    channel: u16,
    (code, text): (u16, &str),
    block: &Block,
    index: usize,
    frame_max: u32,
) {
    frame(out, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 50]);
        out.extend_from_slice(&code.to_be_bytes());
        short(out, text.as_bytes());
        out.extend_from_slice(block.address(index).wire());
    });
    content(out, channel, block, index, frame_max);
}

/// basic.ack from the server: a confirm.
pub fn confirm_ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    frame(out, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 80]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// basic.nack from the server: a refused publish.
pub fn confirm_nack(out: &mut Vec<u8>, channel: u16, tag: u64) {
    frame(out, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 120]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(0);
    });
}

/// basic.cancel from the server, no-wait.
pub fn cancel(out: &mut Vec<u8>, channel: u16, consumer_tag: &[u8]) {
    frame(out, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 30]);
        short(out, consumer_tag);
        out.push(1);
    });
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed test")]
mod tests {
    use amq_protocol::protocol::{AMQPClass, basic};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::client::{self, Frame, Payload, decode_all};
    use crate::content::Address;
    use crate::limits::{FRAME_MAX, FRAME_MIN};

    const PROPERTIES: &[u8] = b"\x90\x00\x0atext/plain\x02";
    const SIZES: [usize; 7] = [0, 1, 16, 4088, 4089, 131_064, 300_001];

    fn body(size: usize) -> Vec<u8> {
        (0..size).map(|n| (n % 251) as u8).collect()
    }

    fn block(messages: &[(u8, usize)]) -> Block {
        let mut block = Block::default();
        for (address, size) in messages {
            let key = format!("key.{address}");
            let address = Address::new(b"exchange", key.as_bytes());
            block.push(&address, PROPERTIES, &body(*size));
        }
        block
    }

    /// Takes one method and its content off the front; answers the method and the body.
    fn message(frames: &mut std::slice::Iter<'_, Frame>, channel: u16, limit: usize) -> Message {
        let mut next = || {
            let frame = frames.next().unwrap();
            assert_eq!(frame.channel, channel);
            frame.payload.clone()
        };
        let Payload::Method(method) = next() else {
            panic!("no method")
        };
        let Payload::Header {
            body_size,
            properties,
        } = next()
        else {
            panic!("no header")
        };
        assert_eq!(
            properties.content_type().as_ref().unwrap().as_str(),
            "text/plain"
        );
        assert_eq!(*properties.delivery_mode(), Some(2));
        let mut body = Vec::new();
        while (body.len() as u64) < body_size {
            let Payload::Body(part) = next() else {
                panic!("no body")
            };
            assert!((1..=limit).contains(&part.len()), "{} B", part.len());
            body.extend(part);
        }
        (method, body)
    }

    type Message = (AMQPClass, Vec<u8>);

    fn deliver(tag: u64, redelivered: bool, key: u8) -> AMQPClass {
        AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
            consumer_tag: "a consumer".into(),
            delivery_tag: tag,
            redelivered,
            exchange: "exchange".into(),
            routing_key: format!("key.{key}").as_str().into(),
        }))
    }

    proptest! {
        #[test]
        fn a_run_reads_as_its_messages(
            messages in vec((0u8..3, prop::sample::select(&SIZES[..])), 1..6),
            skip in 0usize..3,
            frame_max in prop::sample::select(&[0, FRAME_MIN, 8192, FRAME_MAX][..]),
            redelivered in any::<bool>(),
            channel in 1u16..,
        ) {
            let block = block(&messages);
            let first = skip.min(messages.len() - 1);
            let count = messages.len() - first;
            let mut out = vec![];
            let tag = b"a consumer";
            deliver_run(&mut out, channel, tag, 7, redelivered, &block, first, count, frame_max);
            let frames = decode_all(&out)?;
            let mut frames = frames.iter();
            let limit = if frame_max == 0 { usize::MAX } else { frame_max as usize - 8 };
            for (number, (key, size)) in messages[first..].iter().enumerate() {
                let (method, read) = message(&mut frames, channel, limit);
                prop_assert_eq!(method, deliver(7 + number as u64, redelivered, *key));
                prop_assert!(read == body(*size));
            }
            prop_assert!(frames.next().is_none());
        }
    }

    #[test]
    fn what_needs_no_split_goes_out_as_it_came_in() {
        let mut wire = Vec::new();
        let address = Address::new(b"", b"q");
        client::publish(
            &mut wire,
            9,
            &address,
            false,
            PROPERTIES,
            &body(10_000),
            FRAME_MIN,
        );
        let method = frame_size(&wire) + 8;
        let mut block = Block::default();
        block.push(&address, PROPERTIES, &body(10_000));
        block.data = wire[method..].to_vec();
        block.entries[0].len = block.data.len() as u32;
        let mut out = Vec::new();
        content(&mut out, 9, &block, 0, FRAME_MIN);
        assert_eq!(out, block.data);
    }

    #[test]
    fn longest_names_fit_a_delivery() {
        let long = [b'n'; 255];
        let mut block = Block::default();
        block.push(&Address::new(&long, &long), PROPERTIES, b"");
        let mut out = Vec::new();
        deliver_run(&mut out, 1, &long, u64::MAX, false, &block, 0, 1, FRAME_MAX);
        let frames = decode_all(&out).unwrap();
        let Payload::Method(AMQPClass::Basic(basic::AMQPMethod::Deliver(m))) = &frames[0].payload
        else {
            panic!("{frames:?}")
        };
        assert_eq!(m.consumer_tag.as_str().len(), 255);
        assert_eq!(
            (m.exchange.as_str().len(), m.routing_key.as_str().len()),
            (255, 255)
        );
        assert_eq!(m.delivery_tag, u64::MAX);
    }

    #[test]
    fn single_messages_read_as_written() {
        let block = block(&[(1, 3), (2, 5000)]);
        let mut out = Vec::new();
        get_ok(&mut out, 3, 8, true, 17, &block, 1, FRAME_MIN);
        returned(&mut out, 3, (312, "NO_ROUTE"), &block, 0, FRAME_MIN);
        let frames = decode_all(&out).unwrap();
        let mut frames = frames.iter();
        let (method, read) = message(&mut frames, 3, 4088);
        let expected = basic::GetOk {
            delivery_tag: 8,
            redelivered: true,
            exchange: "exchange".into(),
            routing_key: "key.2".into(),
            message_count: 17,
        };
        assert_eq!(method, AMQPClass::Basic(basic::AMQPMethod::GetOk(expected)));
        assert_eq!(read, body(5000));
        let (method, read) = message(&mut frames, 3, 4088);
        let expected = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "exchange".into(),
            routing_key: "key.1".into(),
        };
        assert_eq!(
            method,
            AMQPClass::Basic(basic::AMQPMethod::Return(expected))
        );
        assert_eq!(read, body(3));
        assert_eq!(frames.next(), None);
    }

    #[test]
    fn confirms_and_cancels_are_as_the_oracle_writes_them() {
        let mut ours = Vec::new();
        confirm_ack(&mut ours, 4, 1 << 40, true);
        confirm_ack(&mut ours, 4, 5, false);
        confirm_nack(&mut ours, 4, 6);
        cancel(&mut ours, 4, b"tag");
        let ack = |delivery_tag, multiple| {
            basic::AMQPMethod::Ack(basic::Ack {
                delivery_tag,
                multiple,
            })
        };
        let nack = basic::Nack {
            delivery_tag: 6,
            ..Default::default()
        };
        let cancel = basic::Cancel {
            consumer_tag: "tag".into(),
            nowait: true,
        };
        let mut theirs = Vec::new();
        for method in [
            ack(1 << 40, true),
            ack(5, false),
            basic::AMQPMethod::Nack(nack),
            basic::AMQPMethod::Cancel(cancel),
        ] {
            client::method(&mut theirs, 4, &AMQPClass::Basic(method));
        }
        assert_eq!(ours, theirs);
    }
}
