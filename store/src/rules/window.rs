//! Queues that take a key once within a time (`x-deduplication-window`). Pure.
//!
//! Keeps: a key that came less than the window ago is a duplicate, any other is not; so many keys
//! at most, beyond which new ones are refused, never let in twice. What no commit has taken yet
//! waits in `take_fresh`, so that a key reaches the disk with its message.
//! Never: reads a clock, or decodes a table.
//! In: `shard`, for what is published; recovery.
//!
//! A key is kept as half of its SHA-256. With the most keys there can be, the chance that any two
//! of them ever meet is about 1 in 10^25, and to make two meet on purpose takes 2^64 tries.

use std::sync::Arc;

use amqp::content::{Block, Entry};
use amqp::{field, properties};
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

pub use super::recent::{ENTRY, Hash, entry, records};
use super::recent::{HASH, Recent};
use crate::model::Micros;
use crate::planted::{Planted, planted};

/// The header that holds the key, where a queue names no other; also the argument that names one.
pub const HEADER: &str = "x-deduplication-header";
/// The argument that asks for it, ms.
pub const ARGUMENT: &str = "x-deduplication-window";
/// Shorter windows forget before a client has tried again.
pub const SPAN_MIN_MS: u64 = 1_000;
/// Thirty days: the longest that clients keep trying.
pub const SPAN_MAX_MS: u64 = 2_592_000_000;
/// Keys of one queue, at most: about 330 MB. Beyond, publishes with a new key are refused.
pub const KEYS_MAX: usize = 8_000_000;

/// Rows are dropped a 1024th of the window at a time, or once in a second, ms.
const DROPS: i64 = 1024;
const DROP_MIN_MS: i64 = 1_000;
/// Keys that are over leave with each that comes: more than one, so that they become fewer.
const EXPIRED_EACH: usize = 2;
/// Keys whose places are brought into the processor's nearest cache together.
const TOUCHED: usize = 64;

/// What a queue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// The header that holds the key.
    pub header: Arc<str>,
    pub span_ms: u64,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may enter, and its key is taken from now on.
    New,
    /// Its key came before.
    Duplicate,
    /// No more keys can be kept.
    Full,
}

/// The keys of one queue.
pub struct Window {
    asked: Deduplication,
    known: Recent,
    most: usize,
    /// The entry before which a commit took all along; `None` where nothing is written.
    fresh_from: Option<u64>,
    /// Rows whose keys all came before are dropped from the store; when they were last, ms.
    dropped_ms: i64,
}

impl Window {
    /// No key is taken yet. `stored`: keys will be asked for by `take_fresh`.
    pub fn new(asked: Deduplication, stored: bool, seed: u64) -> Self {
        Self {
            asked,
            known: Recent::new(seed),
            most: KEYS_MAX,
            fresh_from: stored.then_some(0),
            dropped_ms: 0,
        }
    }

    /// What holds from now on, for keys that are known, too.
    pub fn set(&mut self, asked: Deduplication) {
        self.asked = asked;
    }

    /// The key of a message.
    pub fn key(&self, block: &Block, index: usize) -> Option<Hash> {
        let flags = block.entries[index].flags;
        key(block.properties(index), &self.asked.header, flags)
    }

    /// The keys of messages side by side; a call has its own, and its caller waits for the answer.
    pub fn keys(&self, block: &Block, (first, count): (u32, u32)) -> Vec<Option<Hash>> {
        let all = first as usize..(first + count) as usize;
        let is_call = |index: usize| block.entries[index].flags & Entry::JOB != 0;
        all.map(|index| self.key(block, index).filter(|_| !is_call(index)))
            .collect()
    }

    /// Says what becomes of each of these keys, in their order; messages without one are `New`.
    pub fn admit_all(&mut self, keys: &[Option<Hash>], now: Micros, mut each: impl FnMut(Verdict)) {
        for keys in keys.chunks(TOUCHED) {
            self.known.touch(keys.iter().flatten());
            for key in keys {
                each(key.map_or(Verdict::New, |key| self.admit(&key, now)));
            }
        }
    }

    /// True when the key came less than the window ago.
    pub fn is_known(&self, key: &Hash, now: Micros) -> bool {
        let known = self.known.find(key);
        known.is_some_and(|at_ms| at_ms > self.over_ms(now / 1000))
    }

    /// Takes a key, unless it is known or there are too many.
    pub fn admit(&mut self, key: &Hash, now: Micros) -> Verdict {
        let over = self.over_ms(now / 1000);
        self.known.expire(over, EXPIRED_EACH);
        if self.count() >= self.most {
            return match self.is_known(key, now) {
                true => Verdict::Duplicate,
                false => Verdict::Full,
            };
        }
        match self.known.take(key, now / 1000, over) {
            true => Verdict::New,
            false => Verdict::Duplicate,
        }
    }

    /// False when a new key would be refused.
    pub fn has_room(&self, now: Micros) -> bool {
        let over = self.over_ms(now / 1000);
        let oldest = self.known.oldest_ms();
        self.count() < self.most || oldest.is_some_and(|oldest| oldest <= over)
    }

    /// Keys that came at this time or before are free again.
    fn over_ms(&self, now_ms: i64) -> i64 {
        if planted(Planted::WindowNeverEnds) {
            return i64::MIN;
        }
        now_ms - self.asked.span_ms.cast_signed()
    }

    /// Keys as records, for the commit that takes their messages along, with the newest's time, ms.
    pub fn take_fresh(&mut self) -> Option<(i64, Vec<u8>)> {
        let from = self.fresh_from.replace(self.known.next())?;
        let taken = self.known.since(from);
        let newest = records(&taken).map(|(_, at_ms)| at_ms).max()?;
        Some((newest, taken))
    }

    /// Rows of which no key is newer than this, ms, can go; asked with each commit, answered now
    /// and then.
    pub fn take_drop(&mut self, now: Micros) -> Option<i64> {
        let now_ms = now / 1000;
        let pause = (self.asked.span_ms.cast_signed() / DROPS).max(DROP_MIN_MS);
        if now_ms - self.dropped_ms < pause {
            return None;
        }
        self.dropped_ms = now_ms;
        Some(self.over_ms(now_ms))
    }

    /// Records of a start. A key of the future, from a clock that was wrong, counts from now.
    pub fn restore(&mut self, stored: &[u8], now: Micros) {
        let now_ms = now / 1000;
        let over = self.over_ms(now_ms);
        for (key, at_ms) in records(stored).filter(|(_, at_ms)| *at_ms > over) {
            let at_ms = at_ms.min(now_ms);
            self.known.take(&key, at_ms, at_ms - 1);
        }
        self.fresh_from = self.fresh_from.map(|_| self.known.next());
    }

    /// Keys that are kept, some of which may be over.
    pub fn count(&self) -> usize {
        self.known.count() as usize
    }

    #[cfg(test)]
    pub fn keep_at_most(&mut self, most: usize) {
        self.most = most;
    }
}

/// The key of a message: in the named header, else in `x-deduplication-header`, else its
/// message-id. Texts are one key wherever they stand, integers of any width are, too.
fn key(raw: &[u8], header: &str, flags: u8) -> Option<Hash> {
    let headers = match flags & Entry::HAS_HEADERS {
        0 => None,
        _ => properties::headers(raw),
    };
    let find = |name: &str| field::raw(headers?, name.as_bytes());
    let named = find(header).or_else(|| find(HEADER).filter(|_| header != HEADER));
    let (letter, value) = match named {
        Some(found) => found,
        None => (b'S', properties::message_id(raw)?),
    };
    match integer(letter, value) {
        Some(number) => Some(hash(b'l', &number.to_be_bytes())),
        None if value.is_empty() => None,
        None => Some(hash(if letter == b'x' { b'S' } else { letter }, value)),
    }
}

/// Half of the SHA-256 of a letter and what follows it.
fn hash(letter: u8, value: &[u8]) -> Hash {
    if value.len() <= SHORT {
        return hash_short(letter, value);
    }
    let digest = Sha256::new().chain_update([letter]).chain_update(value);
    let digest: [u8; 32] = digest.finalize().into();
    let mut half = Hash::default();
    half.copy_from_slice(&digest[..HASH]);
    half
}

/// The same, of what takes one block (FIPS 180-4, 5.1.1 and 6.2): half of the time of the other
/// goes into its buffers.
fn hash_short(letter: u8, value: &[u8]) -> Hash {
    let mut block = [0; 64];
    block[0] = letter;
    block[1..=value.len()].copy_from_slice(value);
    block[value.len() + 1] = 0x80;
    let bits = 8 * (value.len() as u64 + 1);
    block[56..].copy_from_slice(&bits.to_be_bytes());
    let mut state = SHA_256;
    compress256(&mut state, &[block]);
    let mut half = Hash::default();
    for (bytes, word) in half.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    half
}

/// Bytes that fit a block beside their letter, the mark of their end and their count.
const SHORT: usize = 64 - 8 - 1 - 1;
/// Where SHA-256 begins (FIPS 180-4, 5.3.3).
const SHA_256: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

fn integer(letter: u8, value: &[u8]) -> Option<i128> {
    let signed = matches!(letter, b'b' | b's' | b'U' | b'I' | b'l' | b'L');
    if !signed && !matches!(letter, b'B' | b'u' | b'i') {
        return None;
    }
    let negative = signed && value.first().is_some_and(|byte| byte & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    Some(
        value
            .iter()
            .fold(start, |number, byte| number << 8 | i128::from(*byte)),
    )
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
