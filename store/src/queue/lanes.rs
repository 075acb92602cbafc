//! Order by key: which key each message has, and which keys may hand out another. Pure.
//!
//! Keeps: of each key at most `concurrency` messages are out at a time, in seq order; a key that
//! waits holds up no other, and keys take turns.
//! Never: a content longer than to find its key.
//! In: `Log` asks for each message that it would hand out, and tells what came back.
//!
//! ```text
//!  the cursor finds a message ──key idle──► out ──settled──► the key is free for its next
//!                             └─key busy──► held, until its turn
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};

use amqp::content::{Block, Entry};
use amqp::field;
use amqp::properties;
use foldhash::fast::{FixedState, RandomState};

use super::Aside;
use crate::model::{Micros, Seq};
use crate::planted::{Planted, planted};
use crate::topology::arguments::Partition;

/// Messages that may stand behind busy keys before the cursor waits: about 64 MiB of seqs.
pub(super) const HELD_MAX: usize = 1 << 20;
/// Seqs whose keys lie in one page: a message that stays long pins 8 KiB.
const PAGE: u64 = 1024;
/// Characters of a key that people are shown: a line's worth.
const TEXT_MAX: usize = 100;

/// A key's fingerprint; 0 for a message without one. Two keys with one fingerprint would wait for
/// each other, and nothing worse.
pub(super) type Key = u64;

#[derive(Default)]
struct Lane {
    /// Out, or in a backoff that blocks.
    busy: u32,
    held: VecDeque<Seq>,
    /// In `free`.
    queued: bool,
    /// Nothing goes out before.
    rests_to: Micros,
}

struct Page {
    keys: Box<[Key]>,
    used: u32,
}

pub(super) struct Lanes {
    partition: Partition,
    lanes: HashMap<Key, Lane, RandomState>,
    /// Keys of messages that are out or held, by page.
    pages: BTreeMap<u64, Page>,
    /// Keys of messages in a backoff that blocks, by seq.
    parked: BTreeMap<Seq, Key>,
    /// All held messages.
    order: BTreeSet<Seq>,
    /// Held messages that came back, or have their content beside the log.
    asides: HashMap<Seq, Aside, RandomState>,
    /// Keys with a held message and room, in turn.
    free: VecDeque<Key>,
    /// Keys that rest, by when they may go on.
    resting: BTreeSet<(Micros, Key)>,
    now: Micros,
}

impl Lanes {
    /// True when some key could hand out a message now.
    pub(super) fn has_turn(&self) -> bool {
        !self.free.is_empty()
    }

    /// True for a message in backoff that holds up its key.
    pub(super) fn blocks(&self, seq: Seq) -> bool {
        self.parked.contains_key(&seq)
    }

    pub(super) fn new(partition: Partition) -> Self {
        Self {
            partition,
            lanes: HashMap::default(),
            pages: BTreeMap::new(),
            parked: BTreeMap::new(),
            order: BTreeSet::new(),
            asides: HashMap::default(),
            free: VecDeque::new(),
            resting: BTreeSet::new(),
            now: 0,
        }
    }

    pub(super) fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Concurrency, rest and what a backoff does change at once; messages keep their keys.
    pub(super) fn change(&mut self, partition: Partition) {
        self.partition = partition;
        let keys: Vec<Key> = self.lanes.keys().copied().collect();
        keys.into_iter().for_each(|key| self.offer(key));
    }

    pub(super) fn key_of(&self, block: &Block, index: usize) -> Key {
        key_in(&self.partition.header, block, index)
    }

    /// Every message that is out, held or in a backoff that blocks, with its key, in seq order. A
    /// step is a slot of a page, whether there is a message or not (`None`), so that whoever
    /// counts steps bounds the time.
    pub(super) fn line(&self) -> impl Iterator<Item = Option<(Seq, Key)>> {
        let slots = self.pages.iter().flat_map(|(&number, page)| {
            let keys = page.keys.iter().zip(number * PAGE..);
            keys.map(|(&key, seq)| (seq, key))
        });
        let mut slots = slots.peekable();
        let mut parked = self.parked.iter().map(|(&seq, &key)| (seq, key)).peekable();
        std::iter::from_fn(move || {
            let slot = slots.peek().map(|slot| slot.0);
            let first = parked.next_if(|one| slot.is_none_or(|slot| one.0 < slot));
            let found = first.or_else(|| slots.next())?;
            Some((found.1 != 0).then_some(found))
        })
    }

    /// The oldest message that is out, held or in a backoff that blocks.
    pub(super) fn first_in_line(&self) -> Option<Seq> {
        self.line().flatten().next().map(|(seq, _)| seq)
    }

    /// Messages held behind a key.
    pub(super) fn held_of(&self, key: Key) -> usize {
        self.lanes.get(&key).map_or(0, |lane| lane.held.len())
    }

    /// The clock, for keys that rest.
    pub(super) fn set_now(&mut self, now: Micros) {
        self.now = now;
        while let Some(&(at, key)) = self.resting.first().filter(|(at, _)| *at <= now) {
            self.resting.remove(&(at, key));
            self.offer(key);
        }
    }

    /// When the first key has rested.
    pub(super) fn next_rested(&self) -> Option<Micros> {
        self.resting.first().map(|&(at, _)| at)
    }

    pub(super) fn held(&self) -> usize {
        self.order.len()
    }

    pub(super) fn held_seqs(&self) -> impl Iterator<Item = Seq> {
        self.order.iter().copied()
    }

    pub(super) fn first_held(&self) -> Option<Seq> {
        self.order.first().copied()
    }

    pub(super) fn first_held_from(&self, from: Seq) -> Option<Seq> {
        self.order.range(from..).next().copied()
    }

    pub(super) fn is_held(&self, seq: Seq) -> bool {
        self.order.contains(&seq)
    }

    pub(super) fn aside(&self, seq: Seq) -> Option<&Aside> {
        self.asides.get(&seq)
    }

    /// The cursor found a message. True: it goes out. False: it is held behind its key.
    pub(super) fn admit(&mut self, seq: Seq, key: Key) -> bool {
        if key == 0 {
            return true;
        }
        let lane = self.lanes.entry(key).or_default();
        let goes = lane.held.front().is_none_or(|&first| seq < first)
            && (lane.busy < self.partition.concurrency || planted(Planted::BusyKeyAdmits))
            && lane.rests_to <= self.now;
        if goes {
            lane.busy += 1;
            self.rest(key);
        } else {
            // Behind it stands what was held back and came before the cursor did.
            let at = lane.held.partition_point(|&other| other < seq);
            lane.held.insert(at, seq);
            self.order.insert(seq);
        }
        self.set(seq, key);
        if !goes {
            self.offer(key);
        }
        goes
    }

    /// The held message whose turn it is, if `ready` says that it can be had now; keys whose
    /// message cannot are passed over, up to `tries`, and the first of them is named.
    pub(super) fn next_free(
        &mut self,
        tries: usize,
        ready: impl Fn(Seq, Option<&Aside>) -> bool,
    ) -> Result<Seq, Option<Seq>> {
        let mut first = None;
        let mut passed = 0;
        while passed < tries.min(self.free.len()) {
            let Some(&key) = self.free.front() else { break };
            let seq = self.lanes.get(&key).and_then(|lane| {
                let has_room = lane.busy < self.partition.concurrency && lane.rests_to <= self.now;
                lane.held.front().copied().filter(|_| has_room)
            });
            match seq {
                None => {
                    self.free.pop_front();
                    if let Some(lane) = self.lanes.get_mut(&key) {
                        lane.queued = false;
                    }
                }
                Some(seq) if ready(seq, self.asides.get(&seq)) => return Ok(seq),
                Some(seq) => {
                    first.get_or_insert(seq);
                    self.free.rotate_left(1);
                    passed += 1;
                }
            }
        }
        Err(first)
    }

    /// The message that `next_free` named goes out. Answers what stood beside it.
    pub(super) fn take_free(&mut self, seq: Seq) -> Option<Aside> {
        let key = self.key(seq);
        self.free.pop_front();
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.queued = false;
            lane.held.pop_front();
            lane.busy += 1;
        }
        self.order.remove(&seq);
        self.rest(key);
        self.offer(key);
        self.asides.remove(&seq)
    }

    /// A held message leaves without going out. Answers what stood beside it.
    pub(super) fn take_held(&mut self, seq: Seq) -> Option<Aside> {
        if !self.order.remove(&seq) {
            return None;
        }
        let key = self.clear(seq);
        if let Some(lane) = self.lanes.get_mut(&key)
            && let Ok(at) = lane.held.binary_search(&seq)
        {
            lane.held.remove(at);
        }
        self.forget_idle(key);
        self.asides.remove(&seq)
    }

    /// A message that was out is settled; it may be one that has no key.
    pub(super) fn release(&mut self, seq: Seq) {
        let key = self.clear(seq);
        if key != 0 {
            self.leave(key);
        }
    }

    /// A message that was out is ready again. False: it has no key.
    pub(super) fn put_back(&mut self, seq: Seq, aside: Aside) -> bool {
        let key = self.key(seq);
        if key == 0 {
            return false;
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.busy = lane.busy.saturating_sub(1);
        }
        if planted(Planted::RequeueLosesKey) {
            self.clear(seq);
            self.offer(key);
            return false;
        }
        self.hold(seq, key, aside);
        true
    }

    /// A message that was out waits in a row of its own.
    pub(super) fn park(&mut self, seq: Seq) {
        let key = self.clear(seq);
        match (key, self.partition.skip) {
            (0, _) => {}
            (_, true) => self.leave(key),
            _ if planted(Planted::BackoffFreesKey) => self.leave(key),
            (_, false) => {
                self.parked.insert(seq, key);
            }
        }
    }

    /// A message with this key waits in a row since before a restart, and blocks its key.
    pub(super) fn parked(&mut self, seq: Seq, key: Key) {
        if key != 0 && !self.partition.skip && !planted(Planted::StartFreesKeys) {
            self.lanes.entry(key).or_default().busy += 1;
            self.parked.insert(seq, key);
        }
    }

    /// A waiting message is ready. False: it has no key.
    pub(super) fn wake(&mut self, seq: Seq, key: Key, aside: Aside) -> bool {
        if let Some(known) = self.parked.remove(&seq)
            && let Some(lane) = self.lanes.get_mut(&known)
        {
            lane.busy = lane.busy.saturating_sub(1);
        }
        if key == 0 {
            return false;
        }
        self.set(seq, key);
        self.hold(seq, key, aside);
        true
    }

    /// A waiting message will not come back.
    pub(super) fn cancel(&mut self, seq: Seq) {
        if let Some(key) = self.parked.remove(&seq) {
            self.leave(key);
        }
    }

    /// Every held message leaves.
    pub(super) fn purge(&mut self) -> Vec<Seq> {
        let held: Vec<Seq> = std::mem::take(&mut self.order).into_iter().collect();
        for &seq in &held {
            self.clear(seq);
        }
        self.asides.clear();
        self.free.clear();
        for lane in self.lanes.values_mut() {
            lane.held.clear();
            lane.queued = false;
        }
        let now = self.now;
        self.lanes
            .retain(|_, lane| lane.busy > 0 || lane.rests_to > now);
        held
    }

    /// All held messages with what stood beside them, when the queue ceases to keep order by key.
    pub(super) fn dissolve(mut self) -> Vec<(Seq, Option<Aside>)> {
        let held = std::mem::take(&mut self.order);
        held.into_iter()
            .map(|seq| (seq, self.asides.remove(&seq)))
            .collect()
    }

    /// True when no message is out, held or in backoff.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.is_empty()
            && self.pages.is_empty()
            && self.parked.is_empty()
            && self.order.is_empty()
            && self.asides.is_empty()
    }

    fn hold(&mut self, seq: Seq, key: Key, aside: Aside) {
        let lane = self.lanes.entry(key).or_default();
        let at = lane.held.partition_point(|&other| other < seq);
        lane.held.insert(at, seq);
        self.order.insert(seq);
        self.asides.insert(seq, aside);
        self.offer(key);
    }

    fn leave(&mut self, key: Key) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.busy = lane.busy.saturating_sub(1);
        }
        self.offer(key);
    }

    /// Queues the key when it has a message and room; forgets it when it has nothing.
    fn offer(&mut self, key: Key) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        if lane.held.is_empty() {
            return self.forget_idle(key);
        }
        if !lane.queued && lane.busy < self.partition.concurrency {
            if lane.rests_to > self.now {
                self.resting.insert((lane.rests_to, key));
            } else {
                lane.queued = true;
                self.free.push_back(key);
            }
        }
    }

    fn forget_idle(&mut self, key: Key) {
        if let Some(lane) = self.lanes.get(&key)
            && lane.busy == 0
            && lane.held.is_empty()
            && lane.rests_to <= self.now
        {
            self.lanes.remove(&key);
        }
    }

    /// The key has just sent something out.
    fn rest(&mut self, key: Key) {
        if self.partition.interval == 0 {
            return;
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.rests_to = self.now.saturating_add(self.partition.interval);
            self.resting.insert((lane.rests_to, key));
        }
    }

    fn key(&self, seq: Seq) -> Key {
        let page = self.pages.get(&(seq / PAGE));
        page.map_or(0, |page| page.keys[(seq % PAGE) as usize])
    }

    fn set(&mut self, seq: Seq, key: Key) {
        let page = self.pages.entry(seq / PAGE).or_insert_with(|| Page {
            keys: vec![0; PAGE as usize].into(),
            used: 0,
        });
        let slot = &mut page.keys[(seq % PAGE) as usize];
        page.used += u32::from(*slot == 0);
        *slot = key;
    }

    fn clear(&mut self, seq: Seq) -> Key {
        let Some(page) = self.pages.get_mut(&(seq / PAGE)) else {
            return 0;
        };
        let key = std::mem::take(&mut page.keys[(seq % PAGE) as usize]);
        page.used -= u32::from(key != 0);
        if page.used == 0 {
            self.pages.remove(&(seq / PAGE));
        }
        key
    }
}

/// The key of a message in this header; 0 when there is none.
pub(crate) fn key_in(header: &str, block: &Block, index: usize) -> Key {
    value_in(header, block, index).map_or(0, fingerprint)
}

/// The key and how people write it; `None` when there is none.
pub(crate) fn key_and_text(header: &str, block: &Block, index: usize) -> Option<(Key, String)> {
    let value = value_in(header, block, index)?;
    Some((fingerprint(value), text(value)))
}

fn value_in<'a>(header: &str, block: &'a Block, index: usize) -> Option<(u8, &'a [u8])> {
    if block.entries[index].flags & Entry::HAS_HEADERS == 0 {
        return None;
    }
    let headers = properties::headers(block.properties(index))?;
    field::raw(headers, header.as_bytes())
}

/// Whole numbers of any width are equal by value; anything else by its bytes.
fn fingerprint((letter, bytes): (u8, &[u8])) -> Key {
    let mut hasher = FixedState::default().build_hasher();
    match number(letter, bytes) {
        Some(number) => hasher.write_i64(number),
        None => {
            hasher.write_u8(letter);
            hasher.write(bytes);
        }
    }
    hasher.finish().max(1)
}

fn number(letter: u8, bytes: &[u8]) -> Option<i64> {
    match (letter, bytes) {
        (b'b', [a]) => Some(i64::from(*a as i8)),
        (b'B', [a]) => Some(i64::from(*a)),
        (b's', [a, b]) => Some(i64::from(i16::from_be_bytes([*a, *b]))),
        (b'u', [a, b]) => Some(i64::from(u16::from_be_bytes([*a, *b]))),
        (b'I', [a, b, c, d]) => Some(i64::from(i32::from_be_bytes([*a, *b, *c, *d]))),
        (b'i', [a, b, c, d]) => Some(i64::from(u32::from_be_bytes([*a, *b, *c, *d]))),
        (b'l' | b'L', bytes) => bytes.first_chunk().map(|word| i64::from_be_bytes(*word)),
        _ => None,
    }
}

/// A number in digits, a text as it is, anything else in hexadecimal; never longer than is read.
fn text((letter, bytes): (u8, &[u8])) -> String {
    if let Some(number) = number(letter, bytes) {
        return number.to_string();
    }
    if let (b't', [truth]) = (letter, bytes) {
        return (*truth != 0).to_string();
    }
    let whole = match std::str::from_utf8(bytes) {
        Ok(text) if matches!(letter, b'S' | b'x') => text.to_owned(),
        _ => bytes
            .iter()
            .take(TEXT_MAX)
            .fold(String::new(), |mut out, byte| {
                out.push_str(&format!("{byte:02x}"));
                out
            }),
    };
    match whole.char_indices().nth(TEXT_MAX) {
        None => whole,
        Some((end, _)) => format!("{}…", &whole[..end]),
    }
}
