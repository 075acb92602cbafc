//! Keys in the order in which they came, found by their hash. Pure.
//!
//! Keeps: each key with its time, in one stretch of memory per [`CHUNK`] keys, as it stands on
//! disk, so that a commit copies what came since the last one and the oldest go from the front. An
//! index finds them, by one line of the processor's cache: a place there says the number of an
//! entry, and one whose entry went is free without that anybody came to free it.
//! Never: reads a clock, or knows how long a key counts.
//! In: `window`.
//!
//! ```text
//! entry   hash 16 · accepted at, ms since the epoch 6
//! line    mark u32, never zero · 7 · whether there was one without room u32
//!         number u32 · 7 · of the newest entry that was without room u32
//! ```

use std::collections::VecDeque;

/// Bytes of a hash.
pub const HASH: usize = 16;
/// Bytes of a key on disk.
pub const ENTRY: usize = HASH + 6;

/// Half of a SHA-256.
pub type Hash = [u8; HASH];

/// Entries side by side: ninety kilobytes.
const CHUNK: u64 = 4096;
/// Parts of the index: each is laid anew alone, in well under a millisecond.
const PARTS: u64 = 256;
/// Places of a line; an eighth says what had no room.
const PLACES: usize = 7;
/// A bit of each place.
const ALL: u32 = (1 << PLACES) - 1;
/// Keys to a line, in the mean, when a part is laid anew for them, and when because they are too
/// many: one line in eight then has more than there is room for.
const EACH_NEW: u64 = 4;
const EACH_MOST: u64 = 5;
/// A part this small stays as it is.
const LINES_MIN: u64 = 2;
/// So many lines without room after each other are chance no more.
const CROWDED: usize = 16;

/// Entries in their order, and where to find them.
pub struct Recent {
    chunks: VecDeque<Vec<u8>>,
    /// Numbers of the oldest entry and of the one to come.
    front: u64,
    next: u64,
    parts: Box<[Vec<Line>]>,
    /// Sees to it that publishers cannot choose where their keys stand.
    seed: u64,
}

#[derive(Clone, Default)]
#[repr(align(64))]
struct Line {
    marks: [u32; PLACES + 1],
    numbers: [u32; PLACES + 1],
}

/// Where a key stands, or would.
struct Home {
    part: usize,
    mark: u32,
}

impl Recent {
    pub fn new(seed: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            front: 0,
            next: 0,
            parts: (0..PARTS).map(|_| Vec::new()).collect(),
            seed: seed | 1,
        }
    }

    /// Entries that are kept.
    pub fn count(&self) -> u64 {
        self.next - self.front
    }

    /// The number of the entry to come.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// When the key came, ms.
    pub fn find(&self, key: &Hash) -> Option<i64> {
        let home = self.home(key);
        let lines = &self.parts[home.part];
        let mut at = line_of(home.mark, lines.len());
        for _ in 0..lines.len() {
            let line = &lines[at];
            if let Some(place) = self.place_of(line, home.mark, key) {
                let number = self.number(line.numbers[place]);
                return Some(at_ms(self.entry(number)));
            }
            if !self.goes_on(line) {
                return None;
            }
            at = after(at, lines.len());
        }
        None
    }

    /// Takes a key, and forgets when it came before; false where that was `after` this time, ms.
    /// Keys come in the order of their times, but for those of a restart.
    pub fn take(&mut self, key: &Hash, at_ms: i64, after_ms: i64) -> bool {
        let home = self.home(key);
        self.fit(home.part);
        loop {
            let lines = &self.parts[home.part];
            let first = line_of(home.mark, lines.len());
            let (mut at, mut free) = (first, None);
            let mut known = None;
            let mut steps = 0;
            loop {
                let line = &lines[at];
                known = known.or_else(|| {
                    let place = self.place_of(line, home.mark, key)?;
                    Some((at, place))
                });
                free = free.or_else(|| Some((at, self.free(line)?)));
                steps += 1;
                let ends = known.is_some() || free.is_some() && !self.goes_on(line);
                if ends || steps == lines.len() {
                    break;
                }
                at = after(at, lines.len());
            }
            if let Some((line, place)) = known {
                let number = self.number(lines[line].numbers[place]);
                if self::at_ms(self.entry(number)) > after_ms {
                    return false;
                }
            }
            let lines = lines.len() as u64;
            let crowded = steps > CROWDED && lines * PARTS < self.count();
            let Some((line, place)) = known.or(free).filter(|_| !crowded) else {
                self.lay(home.part, lines * 2);
                continue;
            };
            let number = self.next as u32;
            self.put(home.part, (first, line, place), home.mark, number);
            self.append(&entry(key, at_ms));
            return true;
        }
    }

    /// Writes a place, and in the lines before it that they had no room.
    fn put(
        &mut self,
        part: usize,
        (first, line, place): (usize, usize, usize),
        mark: u32,
        number: u32,
    ) {
        let (front, kept) = (self.front as u32, self.next - self.front);
        let ahead = |number: u32| number.wrapping_sub(front);
        let lines = &mut self.parts[part];
        let mut at = first;
        while at != line {
            let newest = ahead(lines[at].numbers[PLACES]);
            let known = lines[at].marks[PLACES] != 0 && u64::from(newest) < kept;
            if !known || newest < ahead(number) {
                lines[at].marks[PLACES] = 1;
                lines[at].numbers[PLACES] = number;
            }
            at = after(at, lines.len());
        }
        lines[line].marks[place] = mark;
        lines[line].numbers[place] = number;
    }

    fn append(&mut self, entry: &[u8; ENTRY]) {
        if self.next / CHUNK - self.front / CHUNK == self.chunks.len() as u64 {
            // The first grows as it must: there are many queues with few keys.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            let bytes = room as usize * ENTRY;
            self.chunks.push_back(Vec::with_capacity(bytes));
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.extend_from_slice(entry);
        }
        self.next += 1;
    }

    /// Forgets the oldest entries that came at this time or before, ms, so many at most.
    pub fn expire(&mut self, until_ms: i64, most: usize) {
        for _ in 0..most {
            if self.oldest_ms().is_none_or(|oldest| oldest > until_ms) {
                return;
            }
            self.front += 1;
            if self.front == self.next {
                // What comes next begins a chunk, whichever number it has.
                self.front = self.front.next_multiple_of(CHUNK);
                self.next = self.front;
                self.chunks.clear();
            } else if self.front.is_multiple_of(CHUNK) {
                self.chunks.pop_front();
            }
        }
    }

    /// The time of the entry that came first, ms.
    pub fn oldest_ms(&self) -> Option<i64> {
        (self.front < self.next).then(|| at_ms(self.entry(self.front)))
    }

    /// Entries from this number on, as they stand on disk.
    pub fn since(&self, number: u64) -> Vec<u8> {
        let number = number.max(self.front);
        let mut out = Vec::with_capacity(self.next.saturating_sub(number) as usize * ENTRY);
        let mut skip = (number % CHUNK) as usize * ENTRY;
        let first = (number / CHUNK).saturating_sub(self.front / CHUNK) as usize;
        for chunk in self.chunks.iter().skip(first) {
            out.extend_from_slice(chunk.get(skip..).unwrap_or_default());
            skip = 0;
        }
        out
    }

    /// Brings the lines of these keys into the processor's cache: one after the other each would
    /// wait for memory.
    pub fn touch<'a>(&self, keys: impl Iterator<Item = &'a Hash>) {
        let seen = keys.map(|key| {
            let home = self.home(key);
            let lines = &self.parts[home.part];
            let line = lines.get(line_of(home.mark, lines.len()));
            line.map_or(0, |line| line.marks[0])
        });
        std::hint::black_box(seen.fold(0, |seen, mark| seen ^ mark));
    }

    fn home(&self, key: &Hash) -> Home {
        let mut half = [0; 8];
        half.copy_from_slice(&key[8..]);
        let mixed = u128::from(u64::from_le_bytes(half) ^ self.seed) * u128::from(self.seed);
        let mixed = (mixed as u64) ^ (mixed >> 64) as u64;
        Home {
            part: (mixed % PARTS) as usize,
            mark: (mixed >> 32) as u32 | 1,
        }
    }

    /// Where in this line the key's entry is named.
    fn place_of(&self, line: &Line, mark: u32, key: &Hash) -> Option<usize> {
        let mut found = 0u32;
        for (place, known) in line.marks.iter().enumerate() {
            found |= u32::from(*known == mark) << place;
        }
        found &= ALL;
        while found != 0 {
            let place = found.trailing_zeros() as usize;
            let number = line.numbers[place];
            if self.is_kept(number) && self.entry(self.number(number))[..HASH] == *key {
                return Some(place);
            }
            found &= found - 1;
        }
        None
    }

    /// A place whose entry went, or that never had one.
    fn free(&self, line: &Line) -> Option<usize> {
        let mut free = 0u32;
        for (place, (mark, number)) in line.marks.iter().zip(&line.numbers).enumerate() {
            free |= u32::from((*mark == 0) | !self.is_kept(*number)) << place;
        }
        free &= ALL;
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    /// True while an entry is kept that had no room in this line.
    fn goes_on(&self, line: &Line) -> bool {
        line.marks[PLACES] != 0 && self.is_kept(line.numbers[PLACES])
    }

    /// After four thousand millions of keys one that went may seem to be kept: its place is then
    /// not free for a while, and whoever looks for it there finds another key.
    fn is_kept(&self, number: u32) -> bool {
        number.wrapping_sub(self.front as u32) < (self.next - self.front) as u32
    }

    /// Of the entry that a place names.
    fn number(&self, number: u32) -> u64 {
        let ahead = number.wrapping_sub(self.front as u32);
        self.front + u64::from(ahead)
    }

    fn entry(&self, number: u64) -> &[u8] {
        let chunk = (number / CHUNK - self.front / CHUNK) as usize;
        let at = (number % CHUNK) as usize * ENTRY;
        &self.chunks[chunk][at..at + ENTRY]
    }

    /// Sees to it that a part has lines for its share of the keys.
    fn fit(&mut self, part: usize) {
        let (lines, count) = (self.parts[part].len() as u64, self.count());
        let is_large = lines > LINES_MIN && count * 2 < lines * PARTS;
        if lines == 0 || count >= lines * PARTS * EACH_MOST || is_large {
            let wanted = count / (PARTS * EACH_NEW) + 1;
            self.lay(part, wanted.max(LINES_MIN));
        }
    }

    /// Lays a part anew, with so many lines, or more where chance wants more.
    fn lay(&mut self, part: usize, lines: u64) {
        let old = std::mem::replace(&mut self.parts[part], vec![Line::default(); lines as usize]);
        for line in &old {
            for place in 0..PLACES {
                let (mark, number) = (line.marks[place], line.numbers[place]);
                if mark != 0 && self.is_kept(number) {
                    self.lay_one(part, mark, number);
                }
            }
        }
    }

    fn lay_one(&mut self, part: usize, mark: u32, number: u32) {
        let lines = &self.parts[part];
        let first = line_of(mark, lines.len());
        let mut at = first;
        for _ in 0..lines.len() {
            if let Some(place) = self.free(&lines[at]) {
                return self.put(part, (first, at, place), mark, number);
            }
            at = after(at, lines.len());
        }
        // Full to the last place, which no share of the keys makes it.
        let more = lines.len() as u64 * 2;
        self.lay(part, more);
        self.lay_one(part, mark, number);
    }

    #[cfg(test)]
    pub fn memory_bytes(&self) -> usize {
        let lines: usize = self.parts.iter().map(Vec::capacity).sum();
        let entries: usize = self.chunks.iter().map(Vec::capacity).sum();
        lines * size_of::<Line>() + entries
    }
}

fn line_of(mark: u32, lines: usize) -> usize {
    ((u64::from(mark) * lines as u64) >> 32) as usize
}

fn after(at: usize, lines: usize) -> usize {
    match at + 1 {
        end if end == lines => 0,
        next => next,
    }
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

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
