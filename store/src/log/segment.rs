//! The form of a segment: an index blob and a data blob. Pure.
//!
//! Keeps: each message carries a CRC-32 of its wire bytes; a damaged one is named, never served.
//! Messages of one publisher begin alike (frame, properties, names of headers), so one in
//! [`GROUP`] is whole and the others say how many bytes they share with it: a small message takes
//! half of the room, and damage to it is damage to no other but for the whole ones.
//!
//! ```text
//! index  version u8=2 · addresses u16 · (len u16 · wire bytes)* · messages u32 · record*
//! record fields u8 · shared u8 · crc u32, and of what `fields` names, being otherwise as in the
//!        message before: seq-first u32 (one more) · len u32 · body u32 · at ms u32
//!        · address u16, flags u8, priority u8
//! data   of each message what it does not share, back to back
//! ```
//!
//! A message's wire bytes are its content header frame and its body frames. Version 1, which is
//! read and not written, shares nothing and has all fields: seq-first, len, body, at, crc, address,
//! flags, priority.
//! In: `log::writer` encodes, `shard` decodes what it reads back, `upkeep` looks whether it is
//! whole.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::content::{Address, Block, Entry};

use crate::model::{Micros, Seq};
use crate::queue::Piece;

const VERSION: u8 = 2;
const VERSION_WHOLE: u8 = 1;
/// Bytes of a record of version 1, and the fewest of one of version 2.
const RECORD_WHOLE: usize = 24;
const RECORD_MIN: usize = 6;
/// One message in so many is whole: what is lost with it when it is damaged, at most.
const GROUP: u32 = 16;

const SEQ: u8 = 1;
const LEN: u8 = 2;
const BODY: u8 = 4;
const AT: u8 = 8;
const KIND: u8 = 16;

/// What the index says of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    seq: u32,
    len: u32,
    body: u32,
    at: u32,
    crc: u32,
    address: u16,
    flags: u8,
    priority: u8,
    /// Bytes at its beginning that it has from the last message that shares none.
    shared: u8,
}

impl Record {
    /// What the next message is like, unless its record says otherwise.
    fn next(self) -> Self {
        Self {
            seq: self.seq.wrapping_add(1),
            ..self
        }
    }

    fn write(&self, expected: &Self, out: &mut Vec<u8>) {
        let kind = |it: &Self| (it.address, it.flags, it.priority);
        let mut bytes = [0; RECORD_MIN + 20];
        let mut end = RECORD_MIN;
        let words = [
            (SEQ, self.seq, expected.seq),
            (LEN, self.len, expected.len),
            (BODY, self.body, expected.body),
            (AT, self.at, expected.at),
        ];
        for (field, word, expected) in words {
            if word != expected {
                bytes[0] |= field;
                bytes[end..end + 4].copy_from_slice(&word.to_le_bytes());
                end += 4;
            }
        }
        if kind(self) != kind(expected) {
            bytes[0] |= KIND;
            bytes[end..end + 2].copy_from_slice(&self.address.to_le_bytes());
            bytes[end + 2] = self.flags;
            bytes[end + 3] = self.priority;
            end += 4;
        }
        bytes[1] = self.shared;
        bytes[2..RECORD_MIN].copy_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&bytes[..end]);
    }

    fn read(at: &mut &[u8], expected: &Self) -> Option<Self> {
        let [fields, shared] = *take(at, 2)?.first_chunk()?;
        let mut record = Self {
            shared,
            crc: word(at)?,
            ..*expected
        };
        let words = [
            (SEQ, &mut record.seq),
            (LEN, &mut record.len),
            (BODY, &mut record.body),
            (AT, &mut record.at),
        ];
        for (field, value) in words {
            if fields & field != 0 {
                *value = word(at)?;
            }
        }
        if fields & KIND != 0 {
            record.address = u16::from_le_bytes(*take(at, 2)?.first_chunk()?);
            [record.flags, record.priority] = *take(at, 2)?.first_chunk()?;
        }
        let known = SEQ | LEN | BODY | AT | KIND;
        let sound = fields & !known == 0 && u32::from(record.shared) <= record.len;
        sound.then_some(record)
    }

    fn read_whole(at: &mut &[u8]) -> Option<Self> {
        Some(Self {
            seq: word(at)?,
            len: word(at)?,
            body: word(at)?,
            at: word(at)?,
            crc: word(at)?,
            address: u16::from_le_bytes(*take(at, 2)?.first_chunk()?),
            flags: take(at, 1)?[0],
            priority: take(at, 1)?[0],
            shared: 0,
        })
    }
}

/// Encodes the given messages. `at_base` is the segment's first time.
#[derive(Default)]
pub struct Encoder {
    addresses: Vec<Address>,
    known: HashMap<Address, usize, foldhash::fast::RandomState>,
    newest: Option<usize>,
    records: Vec<u8>,
    data: Vec<u8>,
    /// Where in `data` the last whole message stands.
    whole: (usize, usize),
    expected: Record,
    count: u32,
    bytes: u64,
}

impl Encoder {
    /// Adds one message; `seq` and `at` relative to the segment's first.
    pub fn push(&mut self, block: &Block, index: usize, seq_delta: u32, at_ms: u32) {
        let entry = block.entries[index];
        let address = &block.addresses[usize::from(entry.address)];
        let address = match self.newest {
            Some(known) if self.addresses[known] == *address => known,
            _ => self.intern(address),
        };
        self.newest = Some(address);
        let content = block.content(index);
        let shared = match self.count % GROUP {
            0 => {
                self.whole = (self.data.len(), self.data.len() + content.len());
                0
            }
            _ => shared(&self.data[self.whole.0..self.whole.1], content),
        };
        let record = Record {
            seq: seq_delta,
            len: entry.len,
            body: entry.body_size,
            at: at_ms,
            crc: crc32fast::hash(content),
            address: u16::try_from(address).unwrap_or(0),
            flags: entry.flags,
            priority: entry.priority,
            shared,
        };
        record.write(&self.expected, &mut self.records);
        self.expected = record.next();
        self.data.extend_from_slice(&content[usize::from(shared)..]);
        self.count += 1;
        self.bytes += u64::from(entry.body_size);
    }

    fn intern(&mut self, address: &Address) -> usize {
        if let Some(&known) = self.known.get(address) {
            return known;
        }
        let at = self.addresses.len();
        self.addresses.push(address.clone());
        self.known.insert(address.clone(), at);
        at
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// (index blob, data blob).
    pub fn finish(self) -> (Vec<u8>, Vec<u8>) {
        let mut index = Vec::with_capacity(16 + self.records.len());
        index.push(VERSION);
        index.extend_from_slice(&(self.addresses.len() as u16).to_le_bytes());
        for address in &self.addresses {
            index.extend_from_slice(&(address.wire().len() as u16).to_le_bytes());
            index.extend_from_slice(address.wire());
        }
        index.extend_from_slice(&self.count.to_le_bytes());
        index.extend_from_slice(&self.records);
        (index, self.data)
    }
}

/// How many bytes two messages have alike at their beginning, 255 at most.
fn shared(whole: &[u8], content: &[u8]) -> u8 {
    const STEP: usize = 8;
    let most = whole.len().min(content.len()).min(usize::from(u8::MAX));
    let (whole, content) = (&whole[..most], &content[..most]);
    let mut steps = whole.chunks_exact(STEP).zip(content.chunks_exact(STEP));
    let alike = steps.position(|(one, other)| one != other);
    let alike = alike.unwrap_or(most / STEP) * STEP;
    let mut rest = whole[alike..].iter().zip(&content[alike..]);
    let more = rest.position(|(one, other)| one != other);
    (alike + more.unwrap_or(most - alike)) as u8
}

/// A segment read back: its messages as pieces over one block, and the seqs that are damaged.
pub struct Decoded {
    pub pieces: Vec<Piece>,
    pub damaged: Vec<Seq>,
}

/// Decodes; `None` when the index itself cannot be read.
pub fn decode(index: &[u8], data: Vec<u8>, first: Seq, first_at: Micros) -> Option<Decoded> {
    let (addresses, records) = read_index(index)?;
    let mut block = Block {
        addresses,
        data: unfold(&records, data),
        ..Block::default()
    };
    let mut offset = 0usize;
    let mut damaged = Vec::new();
    let mut runs: Vec<(Seq, u32, u32, Micros)> = Vec::new();
    for record in records {
        let (seq, len) = (first.saturating_add(u64::from(record.seq)), record.len);
        let entry = Entry {
            // Where that is too far, there is no content either.
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            len,
            body_size: record.body,
            address: record.address,
            flags: record.flags,
            priority: record.priority,
        };
        let range = offset..offset + len as usize;
        offset = range.end;
        let sound = block
            .data
            .get(range)
            .is_some_and(|bytes| crc32fast::hash(bytes) == record.crc)
            && usize::from(entry.address) < block.addresses.len();
        let index = block.entries.len() as u32;
        block.entries.push(entry);
        if !sound {
            damaged.push(seq);
            continue;
        }
        let at = first_at + i64::from(record.at) * 1000;
        match runs.last_mut() {
            Some((run, from, n, run_at))
                if *run + u64::from(*n) == seq && *from + *n == index && *run_at == at =>
            {
                *n += 1;
            }
            _ => runs.push((seq, index, 1, at)),
        }
    }
    let block = Arc::new(block);
    let pieces = runs
        .into_iter()
        .map(|(first, from, count, at)| Piece::new(first, count, block.clone(), from, at))
        .collect();
    Some(Decoded { pieces, damaged })
}

/// The wire bytes of all messages back to back; where the data ends early, they do.
fn unfold(records: &[Record], data: Vec<u8>) -> Vec<u8> {
    if records.iter().all(|record| record.shared == 0) {
        return data;
    }
    let shared: usize = records.iter().map(|it| usize::from(it.shared)).sum();
    let mut out = Vec::with_capacity(data.len() + shared);
    let (mut at, mut whole) = (0, 0);
    for record in records {
        let own = record.len as usize - usize::from(record.shared);
        let from = whole..whole + usize::from(record.shared);
        let Some(own) = data.get(at..at + own).filter(|_| from.end <= out.len()) else {
            break;
        };
        if record.shared == 0 {
            whole = out.len();
        }
        out.extend_from_within(from);
        out.extend_from_slice(own);
        at += own.len();
    }
    out
}

fn read_index(index: &[u8]) -> Option<(Vec<Address>, Vec<Record>)> {
    let mut at = index;
    let version = take(&mut at, 1)?[0];
    let count = u16::from_le_bytes(*take(&mut at, 2)?.first_chunk()?);
    let mut addresses = Vec::with_capacity(usize::from(count).min(at.len()));
    for _ in 0..count {
        let len = u16::from_le_bytes(*take(&mut at, 2)?.first_chunk()?);
        addresses.push(Address::from_wire(take(&mut at, usize::from(len))?)?);
    }
    let count = word(&mut at)? as usize;
    let fits = match version {
        VERSION_WHOLE => at.len() == count.checked_mul(RECORD_WHOLE)?,
        VERSION => at.len() >= count.checked_mul(RECORD_MIN)?,
        _ => false,
    };
    if !fits {
        return None;
    }
    let mut records = Vec::with_capacity(count);
    let mut expected = Record::default();
    for _ in 0..count {
        let record = match version {
            VERSION_WHOLE => Record::read_whole(&mut at)?,
            _ => Record::read(&mut at, &expected)?,
        };
        expected = record.next();
        records.push(record);
    }
    at.is_empty().then_some((addresses, records))
}

/// What a segment holds, looked at without building messages of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Of every message, in the order of the index, whole or damaged.
    pub seqs: Vec<Seq>,
    /// Of those that do not read back as written, or whose address is not there.
    pub damaged: Vec<Seq>,
    /// Body bytes, as the index says.
    pub body_bytes: u64,
    /// Bytes of the data blob that belong to a message.
    pub data_bytes: u64,
}

/// Checks every message against its CRC; `None` when the index itself cannot be read.
pub fn inspect(index: &[u8], data: &[u8], first: Seq) -> Option<Contents> {
    let (addresses, records) = read_index(index)?;
    let mut contents = Contents::default();
    let mut whole: &[u8] = &[];
    for record in records {
        let seq = first.saturating_add(u64::from(record.seq));
        let from = usize::try_from(contents.data_bytes).ok()?;
        contents.data_bytes += u64::from(record.len) - u64::from(record.shared);
        let own = usize::try_from(contents.data_bytes)
            .ok()
            .and_then(|to| data.get(from..to));
        if record.shared == 0 {
            whole = own.unwrap_or_default();
        }
        let shared = whole.get(..usize::from(record.shared));
        let sound = own.zip(shared).is_some_and(|(own, shared)| {
            let mut crc = crc32fast::Hasher::new();
            crc.update(shared);
            crc.update(own);
            crc.finalize() == record.crc
        }) && usize::from(record.address) < addresses.len();
        if !sound {
            contents.damaged.push(seq);
        }
        contents.seqs.push(seq);
        contents.body_bytes += u64::from(record.body);
    }
    Some(contents)
}

fn word(at: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*take(at, 4)?.first_chunk()?))
}

fn take<'a>(at: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    if at.len() < n {
        return None;
    }
    let (head, tail) = at.split_at(n);
    *at = tail;
    Some(head)
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
