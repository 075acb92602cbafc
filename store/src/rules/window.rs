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
//!
//! ```text
//! entry, and record on disk   hash 16 · accepted at, ms since the epoch 6
//! ```

use std::sync::Arc;

use amqp::content::{Block, Entry};
use amqp::{field, properties};
use sha2::{Digest, Sha256};

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

const HASH: usize = 16;
/// Bytes of a key on disk.
pub const ENTRY: usize = HASH + 6;
/// Tables of one window: each grows and is swept alone, in well under a millisecond.
const PARTS: usize = 256;
/// Rows are dropped a 1024th of the window at a time, or once in a second, ms.
const DROPS: i64 = 1024;
const DROP_MIN_MS: i64 = 1_000;

/// What a queue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// The header that holds the key.
    pub header: Arc<str>,
    pub span_ms: u64,
}

/// Half of a SHA-256.
pub type Hash = [u8; HASH];

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
    parts: Box<[Part]>,
    count: usize,
    most: usize,
    /// Sees to it that publishers cannot choose where their keys stand.
    seed: u64,
    /// Keys since the last commit took some along; `None` where nothing is written.
    fresh: Option<Vec<u8>>,
    /// Rows whose keys all came before are dropped from the store; when they were last, ms.
    dropped_ms: i64,
}

impl Window {
    /// No key is taken yet. `stored`: keys will be asked for by `take_fresh`.
    pub fn new(asked: Deduplication, stored: bool, seed: u64) -> Self {
        Self {
            asked,
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            count: 0,
            most: KEYS_MAX,
            seed: seed | 1,
            fresh: stored.then(Vec::new),
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

    /// The keys of messages side by side, whose places are then in the processor's cache: one
    /// after the other each would wait for memory.
    pub fn keys(&self, block: &Block, (first, count): (u32, u32)) -> Vec<Option<Hash>> {
        let all = first as usize..(first + count) as usize;
        let keys: Vec<Option<Hash>> = all.map(|index| self.key(block, index)).collect();
        let places = keys.iter().flatten().map(|key| {
            let part = &self.parts[usize::from(key[0])];
            let place = part.home(key, self.seed);
            let (tag, entry) = (part.tags.get(place), part.entries.get(place * ENTRY));
            tag.copied().unwrap_or(0) ^ entry.copied().unwrap_or(0)
        });
        std::hint::black_box(places.fold(0, |seen, byte| seen ^ byte));
        keys
    }

    /// True when the key came less than the window ago.
    pub fn is_known(&self, key: &Hash, now: Micros) -> bool {
        let part = &self.parts[usize::from(key[0])];
        part.find(key, self.seed)
            .is_some_and(|at_ms| at_ms > self.over_ms(now / 1000))
    }

    /// Takes a key, unless it is known or there are too many.
    pub fn admit(&mut self, key: &Hash, now: Micros) -> Verdict {
        let now_ms = now / 1000;
        if self.count >= self.most {
            if self.is_known(key, now) {
                return Verdict::Duplicate;
            }
            if !self.make_room(now_ms) {
                return Verdict::Full;
            }
        }
        let over = self.over_ms(now_ms);
        let part = &mut self.parts[usize::from(key[0])];
        let before = part.count;
        let is_new = part.admit(key, now_ms, over, self.seed);
        self.count = self.count + part.count - before;
        if !is_new {
            return Verdict::Duplicate;
        }
        if let Some(fresh) = &mut self.fresh {
            fresh.extend_from_slice(&entry(key, now / 1000));
        }
        Verdict::New
    }

    /// False when a new key would be refused.
    pub fn has_room(&self, now: Micros) -> bool {
        let over = self.over_ms(now / 1000);
        let mut parts = self.parts.iter();
        self.count < self.most || parts.any(|part| part.count > 0 && part.oldest_ms <= over)
    }

    /// Keys that came at this time or before are free again.
    fn over_ms(&self, now_ms: i64) -> i64 {
        if planted(Planted::WindowNeverEnds) {
            return i64::MIN;
        }
        now_ms - self.asked.span_ms.cast_signed()
    }

    fn put(&mut self, key: &Hash, at_ms: i64) {
        let over = self.over_ms(at_ms);
        let part = &mut self.parts[usize::from(key[0])];
        let before = part.count;
        part.put(key, at_ms, over, self.seed);
        self.count = self.count + part.count - before;
    }

    /// Forgets what is over in the part where that is most. False: nothing is.
    fn make_room(&mut self, now_ms: i64) -> bool {
        let over = self.over_ms(now_ms);
        let oldest = self.parts.iter_mut().filter(|part| part.count > 0);
        let Some(part) = oldest.min_by_key(|part| part.oldest_ms) else {
            return false;
        };
        if part.oldest_ms > over {
            return false;
        }
        let before = part.count;
        part.rebuild(over, self.seed);
        self.count = self.count + part.count - before;
        self.count < self.most
    }

    /// Keys as records, for the commit that takes their messages along, with the newest's time, ms.
    pub fn take_fresh(&mut self) -> Option<(i64, Vec<u8>)> {
        let fresh = self.fresh.as_mut().filter(|fresh| !fresh.is_empty())?;
        let taken = std::mem::take(fresh);
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
            self.put(&key, at_ms.min(now_ms));
        }
    }

    /// Keys that are kept, some of which may be over.
    pub fn count(&self) -> usize {
        self.count
    }

    #[cfg(test)]
    pub fn keep_at_most(&mut self, most: usize) {
        self.most = most;
    }

    #[cfg(test)]
    fn memory_bytes(&self) -> usize {
        let bytes = |part: &Part| part.entries.capacity() + part.tags.capacity();
        self.parts.iter().map(bytes).sum()
    }
}

/// A table with open addressing over entries in one stretch; zeros for none. A search looks at
/// tags, some sixty of which stand in one line of the cache, and so seldom at another's entry.
#[derive(Default)]
struct Part {
    entries: Vec<u8>,
    /// A byte of each key; zero for none.
    tags: Vec<u8>,
    count: usize,
    /// No entry is older.
    oldest_ms: i64,
}

impl Part {
    fn places(&self) -> usize {
        self.tags.len()
    }

    /// Where the search for a key begins.
    fn home(&self, key: &Hash, seed: u64) -> usize {
        let mut half = [0; 8];
        half.copy_from_slice(&key[8..]);
        let mixed = u128::from(u64::from_le_bytes(half) ^ seed) * u128::from(seed);
        let mixed = (mixed as u64) ^ (mixed >> 64) as u64;
        ((u128::from(mixed) * self.places() as u128) >> 64) as usize
    }

    /// The place of a key, or the free one where it would stand.
    fn place(&self, key: &Hash, seed: u64) -> usize {
        let (mut place, tag) = (self.home(key, seed), tag(key));
        loop {
            match self.tags[place] {
                0 => return place,
                found if found == tag && self.entry(place)[..HASH] == *key => return place,
                _ => {}
            }
            place += 1;
            if place == self.tags.len() {
                place = 0;
            }
        }
    }

    /// Zeros where nothing stands.
    fn entry(&self, place: usize) -> &[u8] {
        &self.entries[place * ENTRY..(place + 1) * ENTRY]
    }

    fn find(&self, key: &Hash, seed: u64) -> Option<i64> {
        if self.count == 0 {
            return None;
        }
        let place = self.place(key, seed);
        Some(at_ms(self.entry(place))).filter(|at_ms| *at_ms > 0)
    }

    fn put(&mut self, key: &Hash, at_ms: i64, over: i64, seed: u64) {
        let (place, known) = self.place_for(key, over, seed);
        // Rows come back in any order.
        self.write(place, key, at_ms.max(known), (at_ms, known == 0));
    }

    /// Takes a key unless it came after `over`; false: it did.
    fn admit(&mut self, key: &Hash, at_ms: i64, over: i64, seed: u64) -> bool {
        let (place, known) = self.place_for(key, over, seed);
        if known > over.max(0) {
            return false;
        }
        self.write(place, key, at_ms, (at_ms, known == 0));
        true
    }

    /// Where a key stands or is to stand, and when it came, ms; 0 where it is not there.
    fn place_for(&mut self, key: &Hash, over: i64, seed: u64) -> (usize, i64) {
        // Four fifths full: a miss looks at a dozen tags that stand side by side.
        if (self.count + 1) * 5 > self.places() * 4 {
            self.rebuild(over, seed);
        }
        let place = self.place(key, seed);
        (place, at_ms(self.entry(place)))
    }

    fn set(&mut self, place: usize, key: &Hash, ms: i64) {
        self.entries[place * ENTRY..(place + 1) * ENTRY].copy_from_slice(&entry(key, ms));
        self.tags[place] = tag(key);
    }

    fn write(&mut self, place: usize, key: &Hash, newest_ms: i64, (at_ms, is_new): (i64, bool)) {
        self.set(place, key, newest_ms);
        self.oldest_ms = match self.count {
            0 => at_ms,
            _ => self.oldest_ms.min(at_ms),
        };
        self.count += usize::from(is_new);
    }

    /// Leaves out what is over and makes room for two fifths more.
    fn rebuild(&mut self, over: i64, seed: u64) {
        let old = std::mem::take(&mut self.entries);
        let live = || records(&old).filter(|(_, at_ms)| *at_ms > over);
        let count = live().count();
        let places = count * 16 / 9 + 4;
        *self = Self {
            entries: vec![0; places * ENTRY],
            tags: vec![0; places],
            count,
            oldest_ms: i64::MAX,
        };
        for (key, at_ms) in live() {
            let place = self.place(&key, seed);
            self.set(place, &key, at_ms);
            self.oldest_ms = self.oldest_ms.min(at_ms);
        }
    }
}

/// Parts go by the first byte, and homes by the second half.
fn tag(key: &Hash) -> u8 {
    key[1].max(1)
}

/// A key and a time, ms, as they stand on disk.
pub fn entry(key: &Hash, at_ms: i64) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    out[..HASH].copy_from_slice(key);
    // Zero means none: the first millisecond of 1970 counts as the second.
    out[HASH..].copy_from_slice(&at_ms.max(1).to_le_bytes()[..ENTRY - HASH]);
    out
}

fn at_ms(entry: &[u8]) -> i64 {
    let mut bytes = [0; 8];
    bytes[..ENTRY - HASH].copy_from_slice(&entry[HASH..ENTRY]);
    i64::from_le_bytes(bytes)
}

/// The entries that are there; a torn last one is left out.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = (Hash, i64)> {
    let entries = bytes.chunks_exact(ENTRY);
    let entries = entries.filter_map(|entry| Some((*entry.first_chunk()?, at_ms(entry))));
    entries.filter(|(_, at_ms)| *at_ms > 0)
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
    let mut digest = Sha256::new();
    match integer(letter, value) {
        Some(number) => {
            let mut bytes = [b'l'; 17];
            bytes[1..].copy_from_slice(&number.to_be_bytes());
            digest.update(bytes);
        }
        None if value.is_empty() => return None,
        None => {
            digest.update([if letter == b'x' { b'S' } else { letter }]);
            digest.update(value);
        }
    }
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied()
}

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
