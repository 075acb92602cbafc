//! The bytes of AMQP 0-9-1 that a load generator needs: frames, arguments, publish templates.
//!
//! Keeps: nothing; every function maps bytes to bytes. Frame layout, big-endian:
//!
//! ```text
//! +------+---------+-----------+=============+------+
//! | type | channel |   size    |   payload   | 0xCE |
//! |  u8  |   u16   |    u32    |  size bytes |  u8  |
//! +------+---------+-----------+=============+------+
//! ```
//!
//! Never: uses the product's codec, so that a fault there cannot hide itself here.
//! In: `link`, `producer`, `consumer`, `loopback`. Source: AMQP 0-9-1 §4.2.

use std::fmt;

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
pub(crate) const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// Bytes of a frame that are not payload.
pub(crate) const FRAME_OVERHEAD: usize = 8;
/// A body starts with a sequence number and a mark, 8 bytes each.
pub(crate) const STAMP_BYTES: usize = 16;
/// The `frame_max` that the generator asks for; both brokers offer the same.
pub(crate) const FRAME_MAX: usize = 131_072;

const END: u8 = 0xCE;
/// More than any frame that a broker may send here; guards against a lost frame boundary.
const PAYLOAD_MAX: usize = 16 << 20;
const DELIVERY_MODE_FLAG: u16 = 0x1000;
const HEADERS_FLAG: u16 = 1 << 13;

/// `(class, method)` as they stand at the start of a method frame.
pub(crate) type MethodId = (u16, u16);

pub(crate) mod method {
    //! The methods that the generator sends or reads.
    use super::MethodId;

    pub(crate) const START: MethodId = (10, 10);
    pub(crate) const START_OK: MethodId = (10, 11);
    pub(crate) const TUNE: MethodId = (10, 30);
    pub(crate) const TUNE_OK: MethodId = (10, 31);
    pub(crate) const OPEN: MethodId = (10, 40);
    pub(crate) const OPEN_OK: MethodId = (10, 41);
    pub(crate) const CLOSE: MethodId = (10, 50);
    pub(crate) const CLOSE_OK: MethodId = (10, 51);
    pub(crate) const BLOCKED: MethodId = (10, 60);
    pub(crate) const UNBLOCKED: MethodId = (10, 61);
    pub(crate) const CHANNEL_OPEN: MethodId = (20, 10);
    pub(crate) const CHANNEL_OPEN_OK: MethodId = (20, 11);
    pub(crate) const CHANNEL_CLOSE: MethodId = (20, 40);
    pub(crate) const CHANNEL_CLOSE_OK: MethodId = (20, 41);
    pub(crate) const EXCHANGE_DECLARE: MethodId = (40, 10);
    pub(crate) const EXCHANGE_DECLARE_OK: MethodId = (40, 11);
    pub(crate) const QUEUE_DECLARE: MethodId = (50, 10);
    pub(crate) const QUEUE_DECLARE_OK: MethodId = (50, 11);
    pub(crate) const QUEUE_BIND: MethodId = (50, 20);
    pub(crate) const QUEUE_BIND_OK: MethodId = (50, 21);
    pub(crate) const QOS: MethodId = (60, 10);
    pub(crate) const QOS_OK: MethodId = (60, 11);
    pub(crate) const CONSUME: MethodId = (60, 20);
    pub(crate) const CONSUME_OK: MethodId = (60, 21);
    pub(crate) const PUBLISH: MethodId = (60, 40);
    pub(crate) const DELIVER: MethodId = (60, 60);
    pub(crate) const ACK: MethodId = (60, 80);
    pub(crate) const NACK: MethodId = (60, 120);
    pub(crate) const CONFIRM_SELECT: MethodId = (85, 10);
    pub(crate) const CONFIRM_SELECT_OK: MethodId = (85, 11);
}

/// The peer's bytes are not AMQP, or not what the generator can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "malformed bytes from the broker: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// One frame, borrowed from the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

/// Takes the first frame of `bytes`: the frame and the bytes that it spans, or `None` while it is
/// incomplete.
#[inline]
pub(crate) fn scan(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Malformed> {
    let Some(head) = bytes.first_chunk::<7>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if size > PAYLOAD_MAX {
        return Err(Malformed("frame larger than 16 MiB"));
    }
    let span = size + FRAME_OVERHEAD;
    if bytes.len() < span {
        return Ok(None);
    }
    if bytes[span - 1] != END {
        return Err(Malformed("frame end octet missing"));
    }
    Ok(Some((
        Frame {
            kind: head[0],
            payload: &bytes[7..span - 1],
        },
        span,
    )))
}

/// Reads method arguments in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(*self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(*self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(*self.take()?))
    }

    pub(crate) fn method(&mut self) -> Result<MethodId, Malformed> {
        Ok((self.u16()?, self.u16()?))
    }

    pub(crate) fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.u8()?);
        let (text, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("short string"))?;
        self.0 = rest;
        Ok(text)
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Malformed("field cut off"))?;
        self.0 = rest;
        Ok(head)
    }
}

/// Builds one method frame.
#[derive(Debug)]
pub(crate) struct Method {
    payload: Vec<u8>,
}

impl Method {
    pub(crate) fn new((class, method): MethodId) -> Self {
        Self {
            payload: Vec::with_capacity(64),
        }
        .u16(class)
        .u16(method)
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.payload.push(value);
        self
    }

    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.payload.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.payload.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.payload.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// At most 255 bytes; names here are the generator's own and shorter.
    pub(crate) fn short(mut self, text: &str) -> Self {
        let len = u8::try_from(text.len()).expect("names of the generator fit a short string");
        self.payload.push(len);
        self.payload.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn long(mut self, bytes: &[u8]) -> Self {
        self = self.u32(u32::try_from(bytes.len()).expect("arguments are small"));
        self.payload.extend_from_slice(bytes);
        self
    }

    /// A field table of boolean `true` values; an empty list gives an empty table.
    pub(crate) fn flags(self, names: &[&str]) -> Self {
        self.long(&flag_pairs(names))
    }

    /// A table of 64-bit numbers.
    pub(crate) fn numbers(self, pairs: &[(&str, i64)]) -> Self {
        let mut table = Vec::new();
        for (name, number) in pairs {
            push_name(&mut table, name);
            table.push(b'l');
            table.extend_from_slice(&number.to_be_bytes());
        }
        self.long(&table)
    }

    /// Client properties: a product name and the capabilities.
    pub(crate) fn client_properties(self, product: &str, capabilities: &[&str]) -> Self {
        let mut table = Vec::new();
        push_name(&mut table, "product");
        table.push(b'S');
        push_long(&mut table, product.as_bytes());
        push_name(&mut table, "capabilities");
        table.push(b'F');
        push_long(&mut table, &flag_pairs(capabilities));
        self.long(&table)
    }

    pub(crate) fn frame(&self, channel: u16, out: &mut Vec<u8>) {
        push_frame(out, METHOD, channel, &self.payload);
    }
}

/// Appends `basic.ack` (21 bytes).
#[inline]
pub(crate) fn push_ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    let mut frame = [
        1, 0, 0, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, END,
    ];
    frame[1..3].copy_from_slice(&channel.to_be_bytes());
    frame[11..19].copy_from_slice(&tag.to_be_bytes());
    frame[19] = u8::from(multiple);
    out.extend_from_slice(&frame);
}

/// Appends `basic.nack` without requeue, of one message.
pub(crate) fn push_nack(out: &mut Vec<u8>, channel: u16, tag: u64) {
    Method::new(method::NACK).u64(tag).u8(0).frame(channel, out);
}

/// What a publisher sends, apart from the stamp.
#[derive(Debug, Clone)]
pub(crate) struct Publication<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    /// Size of the body in bytes, at least [`STAMP_BYTES`].
    pub(crate) body_bytes: usize,
    pub(crate) persistent: bool,
    /// A header that holds a 64-bit number, written into each message.
    pub(crate) header: Option<&'a str>,
}

/// Many copies of one message, back to back, so that sending is: patch 16 bytes each, one `write`.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    message_bytes: usize,
    stamp_at: usize,
    number_at: Option<usize>,
}

impl Block {
    /// Fills about `block_bytes`, at least one message.
    pub(crate) fn new(publication: &Publication<'_>, block_bytes: usize) -> Self {
        let (message, stamp_at, number_at) = encode_publish(publication);
        let copies = (block_bytes / message.len()).max(1);
        let message_bytes = message.len();
        Self {
            bytes: message.repeat(copies),
            message_bytes,
            stamp_at,
            number_at,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len() / self.message_bytes
    }

    pub(crate) fn span(&self, messages: usize) -> usize {
        messages * self.message_bytes
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    pub(crate) fn stamp(&mut self, index: usize, seq: u64, mark: u64) {
        let at = index * self.message_bytes + self.stamp_at;
        self.bytes[at..at + 8].copy_from_slice(&seq.to_be_bytes());
        self.bytes[at + 8..at + STAMP_BYTES].copy_from_slice(&mark.to_be_bytes());
    }
}

impl Block {
    /// Writes the number of the message's header, if it has one.
    #[inline]
    pub(crate) fn number(&mut self, index: usize, number: i64) {
        if let Some(number_at) = self.number_at {
            let at = index * self.message_bytes + number_at;
            self.bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// The second half of a stamp: producer in the top byte, nanoseconds since the run began below.
#[inline]
pub(crate) fn mark(producer: u8, at_ns: u64) -> u64 {
    (u64::from(producer) << 56) | (at_ns & 0x00FF_FFFF_FFFF_FFFF)
}

#[inline]
pub(crate) fn unmark(mark: u64) -> (u8, u64) {
    ((mark >> 56) as u8, mark & 0x00FF_FFFF_FFFF_FFFF)
}

pub(crate) fn push_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size = u32::try_from(payload.len()).expect("payloads of the generator are small");
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
}

/// Header and body frames of a content; the offset of the body's first byte within them.
pub(crate) fn push_content(out: &mut Vec<u8>, channel: u16, body_bytes: usize, mode: u8) -> usize {
    let mut properties = DELIVERY_MODE_FLAG.to_be_bytes().to_vec();
    properties.push(mode);
    push_with(out, channel, body_bytes, &properties)
}

fn push_with(out: &mut Vec<u8>, channel: u16, body_bytes: usize, properties: &[u8]) -> usize {
    let mut header = Vec::with_capacity(12 + properties.len());
    header.extend_from_slice(&60u16.to_be_bytes());
    header.extend_from_slice(&0u16.to_be_bytes());
    header.extend_from_slice(&(body_bytes as u64).to_be_bytes());
    header.extend_from_slice(properties);
    push_frame(out, HEADER, channel, &header);
    let stamp_at = out.len() + 7;
    let body: Vec<u8> = (0..body_bytes).map(|at| b'a' + (at % 26) as u8).collect();
    for part in body.chunks(FRAME_MAX - FRAME_OVERHEAD) {
        push_frame(out, BODY, channel, part);
    }
    stamp_at
}

/// One message, where its stamp goes, and the number of its header.
fn encode_publish(publication: &Publication<'_>) -> (Vec<u8>, usize, Option<usize>) {
    assert!(
        publication.body_bytes >= STAMP_BYTES,
        "a body must hold its stamp"
    );
    let mut out = Vec::with_capacity(publication.body_bytes + 128);
    Method::new(method::PUBLISH)
        .u16(0)
        .short(publication.exchange)
        .short(publication.routing_key)
        .u8(0)
        .frame(1, &mut out);
    let mode = if publication.persistent { 2 } else { 1 };
    let Some(name) = publication.header else {
        let stamp_at = push_content(&mut out, 1, publication.body_bytes, mode);
        return (out, stamp_at, None);
    };
    let mut table = Vec::new();
    push_name(&mut table, name);
    table.extend_from_slice(b"l\0\0\0\0\0\0\0\0");
    let mut properties = (HEADERS_FLAG | DELIVERY_MODE_FLAG).to_be_bytes().to_vec();
    push_long(&mut properties, &table);
    properties.push(mode);
    // The number stands before the delivery mode and the frame's end.
    let number_from_end = 10;
    let header_end = out.len() + 8 + 12 + properties.len();
    let stamp_at = push_with(&mut out, 1, publication.body_bytes, &properties);
    (out, stamp_at, Some(header_end - number_from_end))
}

fn flag_pairs(names: &[&str]) -> Vec<u8> {
    let mut table = Vec::new();
    for name in names {
        push_name(&mut table, name);
        table.extend_from_slice(b"t\x01");
    }
    table
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).expect("names are short"));
    out.extend_from_slice(name.as_bytes());
}

fn push_long(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("values are small");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn scan_waits_for_the_last_byte() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, METHOD, 7, b"abc");
        for cut in 0..bytes.len() {
            assert_eq!(scan(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        let (frame, span) = scan(&bytes).unwrap().unwrap();
        assert_eq!(
            (frame.kind, frame.payload, span),
            (METHOD, &b"abc"[..], bytes.len())
        );
    }

    #[test]
    fn scan_refuses_a_wrong_end_and_a_lying_size() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, BODY, 1, b"abc");
        *bytes.last_mut().unwrap() = 0;
        assert!(scan(&bytes).is_err());
        assert!(scan(&[3, 0, 1, 0xFF, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn publish_is_73_bytes_for_a_16_byte_body_and_a_nine_byte_key() {
        let publication = Publication {
            exchange: "",
            routing_key: "perf-test",
            body_bytes: 16,
            persistent: true,
            header: None,
        };
        let (bytes, stamp_at, _) = encode_publish(&publication);
        let expected_method = [1, 0, 1, 0, 0, 0, 18, 0, 60, 0, 40, 0, 0, 0, 9];
        assert_eq!(bytes[..15], expected_method);
        assert_eq!(&bytes[15..24], b"perf-test");
        assert_eq!(bytes[24..26], [0, END]);
        let header = [
            2, 0, 1, 0, 0, 0, 15, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0x10, 0, 2, END,
        ];
        assert_eq!(bytes[26..49], header);
        assert_eq!(bytes[49..56], [3, 0, 1, 0, 0, 0, 16]);
        assert_eq!((stamp_at, bytes.len()), (56, 73));
    }

    #[test]
    fn a_header_holds_the_number_of_its_message() {
        let publication = Publication {
            exchange: "",
            routing_key: "q",
            body_bytes: 16,
            persistent: true,
            header: Some("key"),
        };
        let mut block = Block::new(&publication, 1_000);
        block.number(1, 0x0102_0304_0506_0708);
        let second = &block.bytes()[block.span(1)..block.span(2)];
        let mut expected = b"\x03keyl".to_vec();
        expected.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 2, END]);
        assert!(second.windows(expected.len()).any(|part| part == expected));
        let (frame, _) = scan(&second[scan(second).unwrap().unwrap().1..])
            .unwrap()
            .unwrap();
        assert_eq!(frame.kind, HEADER);
    }

    #[test]
    fn a_block_stamps_each_copy_and_nothing_else() {
        let publication = Publication {
            exchange: "x",
            routing_key: "k",
            body_bytes: 24,
            persistent: false,
            header: None,
        };
        let mut block = Block::new(&publication, 1_000);
        let (message, stamp_at, _) = encode_publish(&publication);
        assert_eq!(block.capacity(), 1_000 / message.len());
        block.stamp(2, 0x0102_0304_0506_0708, mark(9, 77));
        let third = &block.bytes()[block.span(2)..block.span(3)];
        assert_eq!(third[stamp_at..stamp_at + 8], [1, 2, 3, 4, 5, 6, 7, 8]);
        let second_half =
            u64::from_be_bytes(third[stamp_at + 8..stamp_at + 16].try_into().unwrap());
        assert_eq!(unmark(second_half), (9, 77));
        assert_eq!(third[stamp_at + 16..], message[stamp_at + 16..]);
        assert_eq!(block.bytes()[..block.span(2)], message.repeat(2)[..]);
    }

    #[test]
    fn a_large_body_is_split_at_frame_max() {
        let mut out = Vec::new();
        push_content(&mut out, 1, FRAME_MAX, 1);
        let (header, at) = scan(&out).unwrap().unwrap();
        assert_eq!(header.kind, HEADER);
        let (first, span) = scan(&out[at..]).unwrap().unwrap();
        assert_eq!(first.payload.len(), FRAME_MAX - FRAME_OVERHEAD);
        let (second, _) = scan(&out[at + span..]).unwrap().unwrap();
        assert_eq!(second.payload.len(), FRAME_OVERHEAD);
    }

    #[test]
    fn ack_is_what_the_general_encoder_writes() {
        let (mut fast, mut general) = (Vec::new(), Vec::new());
        push_ack(&mut fast, 3, 0xABCD, true);
        Method::new(method::ACK)
            .u64(0xABCD)
            .u8(1)
            .frame(3, &mut general);
        assert_eq!(fast, general);
    }

    #[test]
    fn fields_stop_at_the_end() {
        let mut fields = Fields(&[0, 5, 2, b'h']);
        assert_eq!(fields.u16().unwrap(), 5);
        assert_eq!(fields.short(), Err(Malformed("short string")));
    }
}
