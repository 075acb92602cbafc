//! Contents in wire form: header frame and body frames back to back, many in one block.
//!
//! Keeps: a published content is copied once; a delivery, a segment and a page-in all use the
//! same bytes. Channel numbers inside are the publisher's; `hot` patches them on the way out.

use std::borrow::Cow;

use crate::limits::{FRAME_MAX, FRAME_MIN};
use crate::properties;

/// One message inside a [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Start of the content header frame in `Block::data`.
    pub offset: u32,
    /// Wire bytes: header frame and body frames.
    pub len: u32,
    pub body_size: u32,
    /// Index into `Block::addresses`.
    pub address: u16,
    pub flags: u8,
    /// Basic priority; 0 when absent.
    pub priority: u8,
}

impl Entry {
    pub const PERSISTENT: u8 = 1;
    pub const HAS_EXPIRATION: u8 = 2;
    pub const HAS_HEADERS: u8 = 4;
    pub const HAS_REPLY_TO: u8 = 8;
    pub const HAS_USER_ID: u8 = 16;
    /// Some header asks the broker for something, or may: see [`field::asks`](crate::field::asks).
    pub const ASKS: u8 = 32;
    /// The message carries a deferred call; set by the store only.
    pub const JOB: u8 = 64;
    /// Some frame is larger than the smallest frame a consumer may have asked for.
    pub const SPLIT: u8 = 128;
}

/// Flags and priority of a raw property block; `None` when it is malformed.
pub fn flags_of(raw: &[u8]) -> Option<(u8, u8)> {
    let scanned = properties::scan(raw).ok()?;
    let word = u16::from_be_bytes(*raw.first_chunk::<2>()?);
    let has = |number: u16, flag: u8| {
        if word & (1 << (15 - number)) != 0 {
            flag
        } else {
            0
        }
    };
    let persistent = if scanned.delivery_mode == 2 {
        Entry::PERSISTENT
    } else {
        0
    };
    let flags = persistent
        | if scanned.asks { Entry::ASKS } else { 0 }
        | has(2, Entry::HAS_HEADERS)
        | has(6, Entry::HAS_REPLY_TO)
        | has(7, Entry::HAS_EXPIRATION)
        | has(11, Entry::HAS_USER_ID);
    Some((flags, scanned.priority))
}

/// Exchange and routing key as two short strings, the form of basic.publish and basic.deliver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(Box<[u8]>);

impl Address {
    /// Both at most 255 bytes; longer ones are cut.
    pub fn new(exchange: &[u8], routing_key: &[u8]) -> Self {
        let mut wire = Vec::with_capacity(2 + exchange.len() + routing_key.len());
        for text in [exchange, routing_key] {
            let length = text.len().min(255);
            wire.push(length as u8);
            wire.extend_from_slice(&text[..length]);
        }
        Self(wire.into())
    }

    /// `None` unless the bytes are exactly two short strings.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let second = 1 + usize::from(*wire.first()?);
        let end = second + 1 + usize::from(*wire.get(second)?);
        (end == wire.len()).then(|| Self(wire.into()))
    }

    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    pub fn exchange(&self) -> &[u8] {
        &self.0[1..1 + usize::from(self.0[0])]
    }

    pub fn routing_key(&self) -> &[u8] {
        &self.0[2 + usize::from(self.0[0])..]
    }
}

/// Contents from one read turn, or one stored segment.
#[derive(Debug, Default)]
pub struct Block {
    pub data: Vec<u8>,
    pub entries: Vec<Entry>,
    pub addresses: Vec<Address>,
}

impl Block {
    /// Wire bytes of one message.
    pub fn content(&self, index: usize) -> &[u8] {
        let entry = &self.entries[index];
        &self.data[entry.offset as usize..(entry.offset + entry.len) as usize]
    }

    /// Property flags and list.
    pub fn properties(&self, index: usize) -> &[u8] {
        let content = self.content(index);
        &content[7 + 12..7 + frame_size(content)]
    }

    /// The body, joined where it came in several frames.
    pub fn body(&self, index: usize) -> Cow<'_, [u8]> {
        let content = self.content(index);
        let mut at = &content[frame_size(content) + 8..];
        if at.is_empty() {
            return Cow::Borrowed(&[]);
        }
        let first = frame_size(at);
        if first + 8 == at.len() {
            return Cow::Borrowed(&at[7..7 + first]);
        }
        let mut out = Vec::with_capacity(self.entries[index].body_size as usize);
        while !at.is_empty() {
            let size = frame_size(at);
            out.extend_from_slice(&at[7..7 + size]);
            at = &at[size + 8..];
        }
        Cow::Owned(out)
    }

    pub fn address(&self, index: usize) -> &Address {
        &self.addresses[usize::from(self.entries[index].address)]
    }

    /// Index of an address, added when it is new.
    ///
    /// # Panics
    /// At the 65,537th address: an entry has no number for it.
    pub fn intern(&mut self, address: &Address) -> u16 {
        let at = self
            .addresses
            .iter()
            .rposition(|known| known == address)
            .unwrap_or_else(|| {
                self.addresses.push(address.clone());
                self.addresses.len() - 1
            });
        u16::try_from(at).expect("a block built here has few addresses")
    }

    /// Appends a message built by the server. Answers its index.
    pub fn push(&mut self, address: &Address, raw_properties: &[u8], body: &[u8]) -> usize {
        let address = self.intern(address);
        let offset = self.data.len();
        let (mut flags, priority) = flags_of(raw_properties).unwrap_or_default();
        self.data.extend_from_slice(&[2, 0, 0]);
        self.data
            .extend_from_slice(&(12 + raw_properties.len() as u32).to_be_bytes());
        self.data.extend_from_slice(&[0, 60, 0, 0]);
        self.data
            .extend_from_slice(&(body.len() as u64).to_be_bytes());
        self.data.extend_from_slice(raw_properties);
        self.data.push(0xCE);
        for part in body.chunks(FRAME_MAX as usize - 8) {
            self.data.extend_from_slice(&[3, 0, 0]);
            self.data
                .extend_from_slice(&(part.len() as u32).to_be_bytes());
            self.data.extend_from_slice(part);
            self.data.push(0xCE);
        }
        if body.len() > FRAME_MIN as usize - 8 {
            flags |= Entry::SPLIT;
        }
        self.entries.push(Entry {
            offset: offset as u32,
            len: (self.data.len() - offset) as u32,
            body_size: body.len() as u32,
            address,
            flags,
            priority,
        });
        self.entries.len() - 1
    }

    /// Appends a copy of another block's message, with other properties where given.
    pub fn push_copy(
        &mut self,
        other: &Self,
        index: usize,
        address: &Address,
        raw_properties: Option<&[u8]>,
    ) -> usize {
        let entry = other.entries[index];
        let Some(raw) = raw_properties else {
            let address = self.intern(address);
            let offset = self.data.len() as u32;
            self.data.extend_from_slice(other.content(index));
            self.entries.push(Entry {
                offset,
                address,
                ..entry
            });
            return self.entries.len() - 1;
        };
        let at = self.push(address, raw, &other.body(index));
        self.entries[at].flags |= entry.flags & Entry::JOB;
        at
    }
}

/// Payload size from a frame's own header.
pub(crate) fn frame_size(frame: &[u8]) -> usize {
    u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::field::{Table, Value};
    use crate::properties::Properties;

    #[test]
    fn what_was_pushed_comes_back() {
        let mut block = Block::default();
        let address = Address::new(b"x", b"some.key");
        let body = vec![7u8; 300_000];
        block.push(&address, &[0x10, 0, 2], b"");
        let at = block.push(&address, &[0x10, 0, 2], &body);
        assert_eq!(&*block.body(0), b"");
        assert_eq!(&*block.body(at), &body[..]);
        assert_eq!(block.properties(at), [0x10, 0, 2]);
        assert_eq!(block.entries[at].flags, Entry::PERSISTENT | Entry::SPLIT);
        assert_eq!(block.address(at).routing_key(), b"some.key");
        let mut copy = Block::default();
        copy.push_copy(&block, at, &Address::new(b"", b"q"), Some(&[0, 0]));
        assert_eq!(&*copy.body(0), &body[..]);
        assert_eq!(copy.entries[0].flags, Entry::SPLIT);
        block.entries[at].flags |= Entry::JOB;
        let same = copy.push_copy(&block, at, &Address::new(b"", b"other"), None);
        assert_eq!(copy.content(same), block.content(at));
        assert_eq!(copy.entries[same].flags, block.entries[at].flags);
        assert_eq!(copy.address(same).routing_key(), b"other");
        let job = copy.push_copy(&block, at, &Address::new(b"", b"q"), Some(&[0, 0]));
        assert_eq!(copy.entries[job].flags, Entry::SPLIT | Entry::JOB);
    }

    #[test]
    fn only_headers_that_may_ask_for_something_are_marked() {
        let marked = |key: &str| {
            let mut headers = Table::default();
            headers.insert("x-partition-key", Value::I32(1));
            headers.insert(key, Value::I32(1));
            let properties = Properties {
                headers: Some(headers),
                ..Properties::default()
            };
            let (flags, _) = flags_of(&properties.encode()).unwrap();
            flags & Entry::ASKS != 0
        };
        for key in [
            "CC",
            "BCC",
            "x-delay",
            "x-deliver-at",
            "x-retry-limit",
            "x-death",
        ] {
            assert!(marked(key), "{key}");
        }
        for key in ["cc", "x-", "x-match", "delay", ""] {
            assert!(!marked(key), "{key}");
        }
    }
}
