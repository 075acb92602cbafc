//! The form of a segment: an index blob and a data blob. Pure.
//!
//! Keeps: each message carries a CRC-32 of its wire bytes; a damaged one is named, never served.
//!
//! ```text
//! index  version u8=1 · addresses u16 · (len u16 · wire bytes)* · messages u32 · record*
//! record seq-first u32 · len u32 · body u32 · at ms u32 · crc u32
//!        address u16 · flags u8 · priority u8
//! data   content header frame + body frames of each message, back to back
//! ```
//! In: `log::writer` encodes, `shard` decodes what it reads back, `upkeep` looks whether it is
//! whole.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::content::{Address, Block, Entry};

use crate::model::{Micros, Seq};
use crate::queue::Piece;

const VERSION: u8 = 1;
const RECORD: usize = 24;

/// Encodes the given messages. `at_base` is the segment's first time.
#[derive(Default)]
pub struct Encoder {
    addresses: Vec<Address>,
    known: HashMap<Address, usize, foldhash::fast::RandomState>,
    newest: Option<usize>,
    records: Vec<u8>,
    data: Vec<u8>,
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
        let crc = crc32fast::hash(content);
        let mut record = [0u8; RECORD];
        record[0..4].copy_from_slice(&seq_delta.to_le_bytes());
        record[4..8].copy_from_slice(&entry.len.to_le_bytes());
        record[8..12].copy_from_slice(&entry.body_size.to_le_bytes());
        record[12..16].copy_from_slice(&at_ms.to_le_bytes());
        record[16..20].copy_from_slice(&crc.to_le_bytes());
        record[20..22].copy_from_slice(&u16::try_from(address).unwrap_or(0).to_le_bytes());
        record[22] = entry.flags;
        record[23] = entry.priority;
        self.records.extend_from_slice(&record);
        self.data.extend_from_slice(content);
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

/// A segment read back: its messages as pieces over one block, and the seqs that are damaged.
pub struct Decoded {
    pub pieces: Vec<Piece>,
    pub damaged: Vec<Seq>,
}

/// Decodes; `None` when the index itself cannot be read.
pub fn decode(index: &[u8], data: Vec<u8>, first: Seq, first_at: Micros) -> Option<Decoded> {
    let mut at = index;
    if take(&mut at, 1)?[0] != VERSION {
        return None;
    }
    let addresses = u16::from_le_bytes(take(&mut at, 2)?.try_into().ok()?);
    let mut block = Block {
        data,
        ..Block::default()
    };
    for _ in 0..addresses {
        let len = usize::from(u16::from_le_bytes(take(&mut at, 2)?.try_into().ok()?));
        block
            .addresses
            .push(Address::from_wire(take(&mut at, len)?)?);
    }
    let count = u32::from_le_bytes(take(&mut at, 4)?.try_into().ok()?) as usize;
    if at.len() != count * RECORD {
        return None;
    }
    let mut offset = 0u32;
    let mut damaged = Vec::new();
    let mut runs: Vec<(Seq, u32, u32, Micros)> = Vec::new();
    for record in at.chunks_exact(RECORD) {
        let word =
            |i: usize| u32::from_le_bytes([record[i], record[i + 1], record[i + 2], record[i + 3]]);
        let (seq, len) = (first + u64::from(word(0)), word(4));
        let entry = Entry {
            offset,
            len,
            body_size: word(8),
            address: u16::from_le_bytes([record[20], record[21]]),
            flags: record[22],
            priority: record[23],
        };
        let range = offset as usize..offset as usize + len as usize;
        offset += len;
        let sound = block
            .data
            .get(range)
            .is_some_and(|bytes| crc32fast::hash(bytes) == word(16))
            && usize::from(entry.address) < block.addresses.len();
        let index = block.entries.len() as u32;
        block.entries.push(entry);
        if !sound {
            damaged.push(seq);
            continue;
        }
        let at = first_at + i64::from(word(12)) * 1000;
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
    let mut at = index;
    if take(&mut at, 1)?[0] != VERSION {
        return None;
    }
    let addresses = u16::from_le_bytes(take(&mut at, 2)?.try_into().ok()?);
    for _ in 0..addresses {
        let len = usize::from(u16::from_le_bytes(take(&mut at, 2)?.try_into().ok()?));
        Address::from_wire(take(&mut at, len)?)?;
    }
    let count = u32::from_le_bytes(take(&mut at, 4)?.try_into().ok()?) as usize;
    if at.len() != count * RECORD {
        return None;
    }
    let mut contents = Contents::default();
    for record in at.chunks_exact(RECORD) {
        let word =
            |i: usize| u32::from_le_bytes([record[i], record[i + 1], record[i + 2], record[i + 3]]);
        let seq = first.saturating_add(u64::from(word(0)));
        let from = usize::try_from(contents.data_bytes).ok()?;
        contents.data_bytes += u64::from(word(4));
        let content = usize::try_from(contents.data_bytes)
            .ok()
            .and_then(|to| data.get(from..to));
        let sound = content.is_some_and(|bytes| crc32fast::hash(bytes) == word(16))
            && u16::from_le_bytes([record[20], record[21]]) < addresses;
        if !sound {
            contents.damaged.push(seq);
        }
        contents.seqs.push(seq);
        contents.body_bytes += u64::from(word(8));
    }
    Some(contents)
}

fn take<'a>(at: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    if at.len() < n {
        return None;
    }
    let (head, tail) = at.split_at(n);
    *at = tail;
    Some(head)
}
