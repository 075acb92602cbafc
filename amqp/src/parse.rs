//! Frames inward: whole publishes and acks by hand, anything else frame by frame. Pure.
//!
//! Keeps: a content that lies whole in the input is copied once and allocates nothing; one that
//! comes in pieces is assembled per channel, its size checked at the header.
//! Never: decodes a control method; `connection` does, and calls this.
//!
//! ```text
//! type 1 │ channel 2 │ size 4 │ payload │ 0xCE      1 method, 2 header, 3 body, 8 heartbeat
//! ```

use super::{Closing, Connection, Event, Fault, State};
use crate::content::{Address, Entry, flags_of, frame_size};
use crate::limits::{ASSEMBLING_MAX, FRAME_MIN, FRAME_OVERHEAD, PRE_AUTH_FRAME_MAX};
use crate::reply::{Close, Scope};

const END: u8 = 0xCE;
/// What a fault in a content names: basic.publish.
const CAUSE: (u16, u16) = (60, 40);

/// A content under way on one channel.
pub(super) struct Assembly {
    address: Address,
    mandatory: bool,
    /// Body bytes still to come; `None` before the header.
    left: Option<u64>,
    body_size: u64,
    pub(super) data: Vec<u8>,
    split: bool,
    flags: u8,
    priority: u8,
}

impl Assembly {
    fn of(address: Address, mandatory: bool) -> Self {
        Self {
            address,
            mandatory,
            left: None,
            body_size: 0,
            data: Vec::new(),
            split: false,
            flags: 0,
            priority: 0,
        }
    }

    /// What came was not the frame that is due; texts as RabbitMQ's.
    pub(super) fn due(&self) -> Close {
        let text = match self.left {
            None => "expected content header for class 60, got non content header frame instead",
            Some(_) => "expected content body, got non content body frame instead",
        };
        Close::connection(505, text, CAUSE)
    }

    /// Checks the next header (2) or body (3) frame and counts it.
    fn take(&mut self, kind: u8, payload: &[u8], message_max: u64) -> Fault {
        match (kind, self.left) {
            (2, None) => self.header(payload, message_max),
            (3, Some(left)) => {
                let left = left.checked_sub(payload.len() as u64).ok_or_else(|| {
                    Close::connection(501, "content body is longer than declared", CAUSE)
                })?;
                self.left = Some(left);
                Ok(())
            }
            _ => Err(self.due()),
        }
    }

    fn header(&mut self, payload: &[u8], message_max: u64) -> Fault {
        if payload.len() < 14 {
            return Err(Close::connection(
                502,
                "cannot decode content header",
                CAUSE,
            ));
        }
        if payload[..2] != [0, 60] {
            let class = u16::from_be_bytes([payload[0], payload[1]]);
            let text =
                format!("expected content header for class 60, got one for class {class} instead");
            return Err(Close::connection(505, text, CAUSE));
        }
        let size = u64::from_be_bytes(payload[4..12].try_into().unwrap_or_default());
        let Some((flags, priority)) = flags_of(&payload[12..]) else {
            return Err(Close::connection(502, "cannot decode properties", CAUSE));
        };
        if size > message_max {
            let text =
                format!("message size {size} is larger than configured max size {message_max}");
            return Err(Close::channel(406, text, CAUSE));
        }
        (self.flags, self.priority) = (flags, priority);
        (self.left, self.body_size) = (Some(size), size);
        Ok(())
    }
}

impl Connection {
    // ---- the hot path ----------------------------------------------------------------------

    /// One whole publish (method, header, bodies) or settlement at the front; `None`: not so.
    pub(super) fn fast(&mut self, input: &[u8]) -> Option<usize> {
        let head = input.get(..11)?;
        if head[0] != 1 || head[7..10] != [0, 60, 0] {
            return None;
        }
        let number = u16::from_be_bytes([head[1], head[2]]);
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let frame = input
            .get(..size + 8)
            .filter(|frame| frame[size + 7] == END)?;
        match head[10] {
            40 => self.fast_publish(number, size, input),
            80 | 90 | 120 if size == 13 => self.settlement(number, frame),
            _ => None,
        }
    }

    /// Ack, reject or nack, all of one form: the tag, then bits.
    fn settlement(&mut self, number: u16, frame: &[u8]) -> Option<usize> {
        let channel = self.channels.get(&number)?;
        if !channel.is_ready() {
            return None;
        }
        let tag = u64::from_be_bytes(frame[11..19].try_into().ok()?);
        let bits = frame[19];
        let multiple = bits & 1 != 0;
        match frame[10] {
            80 => self.events.ack(number, tag, multiple),
            90 => self.events.reject(number, tag, bits & 1 != 0),
            _ => self.events.nack(number, tag, multiple, bits & 2 != 0),
        }
        Some(frame.len())
    }

    fn fast_publish(&mut self, number: u16, size: usize, input: &[u8]) -> Option<usize> {
        let limit = self.payload_max();
        if size > limit {
            return None;
        }
        let address_end = 7 + size - 1;
        let wire = input.get(13..address_end)?;
        let bits = input[address_end];
        let exchange = usize::from(*wire.first()?);
        let key = usize::from(*wire.get(1 + exchange)?);
        if wire.len() != exchange + key + 2 || bits & 2 != 0 {
            return None;
        }
        let header = &input[size + 8..];
        let head = header.get(..19)?;
        let header_size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let body_size = u64::from_be_bytes(head[11..19].try_into().ok()?);
        if head[0] != 2
            || head[1..3] != input[1..3]
            || header_size > limit
            || header_size < 14
            || header.get(header_size + 7) != Some(&END)
            || head[7..9] != [0, 60]
            || body_size > self.options.message_max
        {
            return None;
        }
        let (bodies, large) = bodies(
            header.get(header_size + 8..)?,
            &input[1..3],
            body_size,
            limit,
        )?;
        let content = header_size + 8 + bodies;
        let (flags, priority) = flags_of(&header[19..header_size + 7])?;
        let large = large || header_size + FRAME_OVERHEAD > FRAME_MIN as usize;
        let split = if large { Entry::SPLIT } else { 0 };
        let address = self.intern(wire)?;
        let channel = self.channels.get_mut(&number).filter(|c| c.is_ready())?;
        let confirm = channel.next_confirm();
        let offset = self.block.data.len();
        self.block.data.extend_from_slice(&header[..content]);
        let entry = Entry {
            offset: offset as u32,
            len: content as u32,
            body_size: body_size as u32,
            address,
            flags: flags | split,
            priority,
        };
        self.published(number, entry, bits & 1 != 0, confirm);
        Some(size + 8 + content)
    }

    fn intern(&mut self, wire: &[u8]) -> Option<u16> {
        let known = &self.block.addresses;
        let from = known.len().saturating_sub(8);
        if let Some(at) = known[from..]
            .iter()
            .rposition(|address| address.wire() == wire)
        {
            return u16::try_from(from + at).ok();
        }
        let at = u16::try_from(known.len()).ok()?;
        self.block.addresses.push(Address::from_wire(wire)?);
        Some(at)
    }

    fn published(&mut self, number: u16, entry: Entry, mandatory: bool, confirm: u64) {
        let at = self.block.entries.len() as u32;
        let alike = |other: &Entry| {
            other.address == entry.address
                && (other.flags ^ entry.flags) & (Entry::PERSISTENT | Entry::HAS_REPLY_TO) == 0
        };
        let alike = self.block.entries.last().is_some_and(alike);
        self.events.publish(number, at, alike, mandatory, confirm);
        self.block.entries.push(entry);
    }

    // ---- any frame -------------------------------------------------------------------------

    pub(super) fn frame(&mut self, input: &[u8]) -> Result<Option<usize>, Close> {
        let Some(head) = input.get(..7) else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let open = matches!(self.state, State::Open | State::Opening | State::Closing);
        // Eight bytes more than the strict payload limit, as RabbitMQ's.
        let limit = if open {
            self.payload_max().saturating_add(8)
        } else {
            PRE_AUTH_FRAME_MAX as usize
        };
        if size > limit {
            let text = format!("type {}, payload of {size} bytes exceeds {limit}", head[0]);
            return Err(Close::connection(501, text, (0, 0)));
        }
        let Some(frame) = input.get(..size + 8) else {
            return Ok(None);
        };
        if frame[size + 7] != END {
            return Err(Close::connection(501, "missing frame end octet", (0, 0)));
        }
        let number = u16::from_be_bytes([frame[1], frame[2]]);
        let payload = &frame[7..size + 7];
        match frame[0] {
            1 => self.method(number, payload)?,
            2 | 3 => self.content(number, frame)?,
            8 if number == 0 => {}
            8 => return Err(Close::connection(505, "heartbeat on a channel", (0, 0))),
            kind => {
                let text = format!("unknown frame type {kind}");
                return Err(Close::connection(501, text, (0, 0)));
            }
        }
        Ok(Some(size + 8))
    }

    /// A header or body frame of a content that did not come in one piece.
    fn content(&mut self, number: u16, frame: &[u8]) -> Fault {
        if self.state == State::Closing {
            return Ok(());
        }
        let nothing_due = || {
            let text = "expected method frame, got non method frame instead";
            Close::connection(505, text, (0, 0))
        };
        let channel = self.channels.get_mut(&number).ok_or_else(nothing_due)?;
        if channel.closing != Closing::No {
            return Ok(());
        }
        let assembly = channel.content.as_mut().ok_or_else(nothing_due)?;
        let payload = &frame[7..frame.len() - 1];
        match assembly.take(frame[0], payload, self.options.message_max) {
            Ok(()) => {}
            Err(close) if close.scope == Scope::Channel => {
                channel.content = None;
                channel.closing = Closing::Fault;
                self.events.push(Event::ChannelError {
                    channel: number,
                    close,
                });
                return Ok(());
            }
            Err(close) => return Err(close),
        }
        assembly.split |= frame.len() > FRAME_MIN as usize;
        // An empty body frame says nothing; kept, it would only cost.
        if frame[0] == 2 || !payload.is_empty() {
            self.assembling += frame.len() as u64;
            if self.assembling > ASSEMBLING_MAX.max(2 * self.options.message_max) {
                return Err(Close::connection(506, "too many contents under way", CAUSE));
            }
            assembly.data.extend_from_slice(frame);
        }
        if assembly.left == Some(0)
            && let Some(done) = channel.content.take()
        {
            let confirm = channel.next_confirm();
            self.assembled(number, &done, confirm)?;
        }
        Ok(())
    }

    /// A content is whole: into the block with it.
    fn assembled(&mut self, number: u16, done: &Assembly, confirm: u64) -> Fault {
        self.assembling = self.assembling.saturating_sub(done.data.len() as u64);
        let address = self
            .intern(done.address.wire())
            .ok_or_else(|| Close::connection(506, "too many addresses in one turn", CAUSE))?;
        let entry = Entry {
            offset: self.block.data.len() as u32,
            len: done.data.len() as u32,
            body_size: done.body_size as u32,
            address,
            flags: done.flags | if done.split { Entry::SPLIT } else { 0 },
            priority: done.priority,
        };
        self.block.data.extend_from_slice(&done.data);
        self.published(number, entry, done.mandatory, confirm);
        Ok(())
    }

    /// basic.publish by hand, as `fast` does: names are bytes, whatever way the frames came.
    pub(super) fn publish(&mut self, number: u16, payload: &[u8]) -> Fault {
        let Some(channel) = self.channels.get_mut(&number) else {
            return Err(Close::connection(504, "expected 'channel.open'", CAUSE));
        };
        let parts = payload.get(6..).and_then(<[u8]>::split_last);
        let parts = parts.and_then(|(bits, wire)| Some((*bits, Address::from_wire(wire)?)));
        let Some((bits, address)) = parts else {
            return Err(Close::connection(502, "cannot decode method 60.40", CAUSE));
        };
        if bits & 2 != 0 {
            return Err(Close::connection(540, "immediate=true", CAUSE));
        }
        channel.content = Some(Assembly::of(address, bits & 1 != 0));
        Ok(())
    }

    /// Largest payload of the negotiated frame size; zero there means no limit.
    fn payload_max(&self) -> usize {
        match self.frame_max {
            0 => u32::MAX as usize - FRAME_OVERHEAD,
            size => size as usize - FRAME_OVERHEAD,
        }
    }

    /// No further address has a number.
    pub(super) fn block_is_full(&self) -> bool {
        self.block.addresses.len() > usize::from(u16::MAX)
    }
}

/// Bytes of the body frames at the front that make up `left`, and whether one is larger than the
/// smallest frame a consumer may ask for; `None` unless they are whole and alike.
fn bodies(input: &[u8], channel: &[u8], mut left: u64, limit: usize) -> Option<(usize, bool)> {
    let (mut at, mut large) = (0, false);
    while left > 0 {
        let frame = input.get(at..)?;
        let head = frame.first_chunk::<7>()?;
        let size = frame_size(head);
        let sound = head[0] == 3 && head[1..3] == *channel && size > 0 && size <= limit;
        if !sound || frame.get(size + 7) != Some(&END) {
            return None;
        }
        left = left.checked_sub(size as u64)?;
        large |= size + FRAME_OVERHEAD > FRAME_MIN as usize;
        at += size + FRAME_OVERHEAD;
    }
    Some((at, large))
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed test; any instant"
)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::connection::testing::{frame, open, publish_method, run};
    use crate::content::Block;
    use crate::limits::FRAME_MAX;
    fn header(channel: u16, size: u64, properties: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0];
        payload.extend_from_slice(&size.to_be_bytes());
        payload.extend_from_slice(properties);
        frame(2, channel, &payload)
    }

    /// A publish whose body comes in frames of `piece` bytes.
    fn publish(channel: u16, key: &[u8], body: &[u8], piece: usize) -> Vec<u8> {
        let mut out = publish_method(channel, b"x", key, 0);
        out.extend(header(channel, body.len() as u64, &[0x10, 0, 2]));
        body.chunks(piece)
            .for_each(|part| out.extend(frame(3, channel, part)));
        out
    }

    fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 80];
        payload.extend_from_slice(&tag.to_be_bytes());
        payload.push(u8::from(multiple));
        frame(1, channel, &payload)
    }

    /// One line per message or settlement, whatever runs it came in.
    fn lines(events: &[Event], block: &Block) -> Vec<String> {
        let mut out = Vec::new();
        for event in events {
            match event {
                Event::Publish {
                    channel,
                    first,
                    count,
                    mandatory,
                    confirm,
                } => {
                    for at in *first as usize..(first + count) as usize {
                        let key = String::from_utf8_lossy(block.address(at).routing_key());
                        let body = block.body(at);
                        let number = if *confirm > 0 {
                            confirm + at as u64 - u64::from(*first)
                        } else {
                            0
                        };
                        out.push(format!(
                            "{channel} {key} {mandatory} {number} {:?} {:?} {:?}",
                            block.entries[at].flags,
                            block.properties(at),
                            body
                        ));
                    }
                }
                other => out.push(format!("{other:?}")),
            }
        }
        out
    }

    fn mixed() -> Vec<u8> {
        let mut wire = frame(1, 1, &[0, 85, 0, 10, 0]);
        for n in 0..6u8 {
            wire.extend(publish(1, b"a", &[n; 16], 100));
        }
        wire.extend(ack(2, 7, true));
        wire.extend(publish(1, b"b", &[9; 300], 100));
        wire.extend(publish(2, b"", b"", 1));
        // Two contents interleaved frame by frame.
        wire.extend(publish_method(1, b"x", b"one", 1));
        wire.extend(publish_method(2, b"x", b"\xff two", 0));
        wire.extend(header(2, 4, &[0, 0]));
        wire.extend(header(1, 2, &[0, 0]));
        wire.extend(frame(3, 2, b"tw"));
        wire.extend(frame(3, 1, b"o1"));
        wire.extend(frame(3, 2, b"o2"));
        wire.extend(frame(8, 0, b""));
        wire.extend(ack(1, 1, false));
        wire
    }

    /// Feeds the parts as reads, each a turn of its own.
    fn fed(parts: &[&[u8]]) -> Vec<String> {
        let mut machine = open(&[1, 2]);
        let (mut buffer, mut out) = (Vec::new(), Vec::new());
        for part in parts {
            buffer.extend_from_slice(part);
            let used = machine.handle_bytes(Instant::now(), &buffer);
            buffer.drain(..used);
            let block = machine.take_block();
            let events: Vec<_> = std::iter::from_fn(|| machine.poll_event()).collect();
            out.extend(lines(&events, &block));
        }
        assert!(buffer.is_empty());
        out
    }

    #[test]
    fn equal_publishes_come_as_one_run() {
        let mut machine = open(&[1]);
        let mut wire = frame(1, 1, &[0, 85, 0, 10, 0]);
        for n in 0..5u8 {
            wire.extend(publish(1, b"a", &[n; 16], 100));
        }
        wire.extend(publish(1, b"b", b"last", 100));
        let (events, block) = run(&mut machine, &wire);
        let runs: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Publish {
                    first,
                    count,
                    confirm,
                    ..
                } => Some((*first, *count, *confirm)),
                _ => None,
            })
            .collect();
        assert_eq!(runs, [(0, 5, 1), (5, 1, 6)]);
        assert_eq!(block.addresses.len(), 2);
        assert_eq!(&*block.body(4), &[4; 16]);
    }

    #[test]
    fn every_split_gives_the_same_messages() {
        let wire = mixed();
        let whole = fed(&[&wire]);
        assert_eq!(whole.len(), 13);
        for at in 0..=wire.len() {
            assert_eq!(fed(&[&wire[..at], &wire[at..]]), whole, "split at {at}");
        }
        let bytes: Vec<_> = wire.chunks(1).collect();
        assert_eq!(fed(&bytes), whole);
    }

    #[test]
    fn a_body_in_pieces_is_one_body_and_flags_agree() {
        let body: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        for piece in [1000, 4088, 4089, 20_000] {
            let wire = publish(1, b"k", &body, piece);
            let mut machine = open(&[1]);
            let (_, fast) = run(&mut machine, &wire);
            let (cut, rest) = wire.split_at(wire.len() - 1);
            let mut machine = open(&[1]);
            let used = machine.handle_bytes(Instant::now(), cut);
            let (_, slow) = run(&mut machine, &[&cut[used..], rest].concat());
            assert_eq!(&*fast.body(0), &body[..]);
            assert_eq!((fast.entries, fast.data), (slow.entries.clone(), slow.data));
            assert_eq!(slow.entries[0].flags & Entry::SPLIT != 0, piece > 4088);
        }
    }

    /// By hand and through the decoder, every bit means the same.
    #[test]
    fn settlements_read_as_the_decoder_reads_them() {
        for method in [80, 90, 120] {
            for bits in 0..4u8 {
                let mut payload = vec![0, 60, 0, method];
                payload.extend_from_slice(&77u64.to_be_bytes());
                payload.push(bits);
                let (rest, class) = amq_protocol::protocol::parse_class(&payload[..]).unwrap();
                assert!(rest.is_empty());
                let mut machine = open(&[1]);
                machine
                    .channel_method(1, class, (60, u16::from(method)))
                    .unwrap();
                let slow = format!("{:?}", machine.poll_event());
                let (fast, _) = run(&mut open(&[1]), &frame(1, 1, &payload));
                assert_eq!(format!("{:?}", fast.first()), slow);
                assert!(slow.contains("77"));
            }
        }
    }

    /// What the first failing frame is answered with.
    fn fault(wire: &[u8]) -> (u16, Scope) {
        let mut machine = open(&[1]);
        let (events, block) = run(&mut machine, wire);
        assert!(block.entries.is_empty());
        match events.last() {
            Some(Event::Failed(close) | Event::ChannelError { close, .. }) => {
                (close.code, close.scope)
            }
            other => panic!("no fault but {other:?}"),
        }
    }

    #[test]
    fn faults_have_their_codes() {
        let method = publish_method(1, b"x", b"k", 0);
        let with = |rest: Vec<u8>| [method.clone(), rest].concat();
        let mut open_end = publish(1, b"k", b"body", 9);
        *open_end.last_mut().unwrap() = 0;
        let size = FRAME_MAX + 1;
        let large = [&[3, 0, 1][..], &size.to_be_bytes()].concat();
        let over = [header(1, 3, &[0, 0]), frame(3, 1, b"four")].concat();
        let connection = [
            (open_end, 501),
            (large, 501),
            (frame(4, 0, b""), 501),
            (frame(8, 1, b""), 505),
            (frame(3, 1, b"x"), 505),
            (header(1, 1, &[0, 0]), 505),
            (with(method.clone()), 505),
            (with(frame(1, 1, &[0, 60, 0, 99])), 505),
            (
                with(frame(2, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])),
                505,
            ),
            (frame(3, 7, b"x"), 505),
            (with(frame(3, 1, b"x")), 505),
            (with(over), 501),
            (with(header(1, 1, &[0x80, 0, 9])), 502),
            (publish_method(1, b"x", b"k", 2), 540),
            (publish_method(3, b"x", b"k", 0), 504),
            (frame(1, 1, &[0, 60, 0, 40, 0, 0, 9, 0]), 502),
            (frame(1, 1, &[0, 60, 0, 99]), 540),
            (frame(1, 1, &[0, 77, 0, 10]), 540),
            (frame(1, 1, &[0]), 501),
            (frame(1, 1, &[0, 85, 0, 10, 0, 0]), 502),
            (frame(1, 0, &[0, 60, 0, 40, 0, 0, 0, 0, 0]), 504),
            (frame(1, 0, &[0, 20, 0, 10, 0]), 504),
            (frame(1, 0, &[0, 10, 0, 40, 1, b'/', 0, 0]), 504),
            (frame(1, 3, &[0, 10, 0, 51]), 504),
            (frame(1, 3, &[0, 60, 0, 110, 1]), 504),
            (frame(1, 1, &[0, 60, 0, 111]), 503),
            (frame(1, 1, &[0, 20, 0, 20, 0]), 540),
            (frame(1, 1, &[0, 60, 0, 10, 0, 0, 0, 100, 0, 0, 0]), 540),
            (frame(1, 1, &[0, 10, 0, 70, 0, 0, 0, 0, 0]), 503),
        ];
        for (wire, code) in connection {
            assert_eq!(fault(&wire), (code, Scope::Connection), "{wire:?}");
        }
        let huge = with(header(1, crate::limits::MESSAGE_MAX + 1, &[0, 0]));
        assert_eq!(fault(&huge), (406, Scope::Channel));
    }

    #[test]
    fn empty_body_frames_do_not_count_as_kept_bytes() {
        let mut machine = open(&[1]);
        let mut wire = publish_method(1, b"x", b"k", 0);
        wire.extend(header(1, 2, &[0, 0]));
        wire.extend(frame(3, 1, b"a"));
        (0..100).for_each(|_| wire.extend(frame(3, 1, b"")));
        wire.extend(frame(3, 1, b"b"));
        let (_, block) = run(&mut machine, &wire);
        assert_eq!(&*block.body(0), b"ab");
        assert_eq!(machine.assembling, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_after_open_end_in_order(bytes in vec(any::<u8>(), 0..200)) {
            let mut machine = open(&[1]);
            let used = machine.handle_bytes(Instant::now(), &bytes);
            prop_assert!(used <= bytes.len());
        }

        #[test]
        fn any_three_reads_are_alike(a in 0usize..600, b in 0usize..600) {
            let wire = mixed();
            let (a, b) = (a.min(b).min(wire.len()), a.max(b).min(wire.len()));
            prop_assert_eq!(fed(&[&wire[..a], &wire[a..b], &wire[b..]]), fed(&[&wire]));
        }
    }

    #[test]
    #[ignore = "prints nanoseconds per publish; run by hand in release"]
    fn price() {
        let mut wire = Vec::new();
        (0..1000).for_each(|_| wire.extend(publish(1, b"key", &[7; 16], 100)));
        let mut machine = open(&[1]);
        let start = Instant::now();
        for _ in 0..2000 {
            run(&mut machine, &wire);
        }
        let each: Duration = start.elapsed() / 2_000_000;
        std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("{each:?} each\n").as_bytes(),
        )
        .unwrap();
    }
}
