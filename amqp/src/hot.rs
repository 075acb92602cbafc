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
