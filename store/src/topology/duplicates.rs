//! Which messages an exchange has seen already. Pure.
//!
//! Keeps: a bounded number of keys, by their hash; the oldest goes first. They live in memory, as
//! the plug-in's do by default; with `x-cache-persistence` = `disk` a durable exchange has a queue
//! without name or message, to which its keys are written as those of a window are.
//! In: `Exchange`.
//! Source: the plug-in `rabbitmq_message_deduplication`; unlike there a duplicate is confirmed.

use std::collections::{HashMap, VecDeque};

use amqp::field::{Table, Value};
use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};

use crate::model::{Micros, QueueId};
use crate::rules::window::{self, ENTRY};

/// The header that names what must not come twice.
pub(crate) const HEADER: &str = "x-deduplication-header";
const SIZE: &str = "x-cache-size";
pub(crate) const TTL: &str = "x-cache-ttl";
/// Keys of one exchange, at most, whatever it asks for: about 64 MB.
const KEYS_MAX: usize = 1_000_000;
/// Keys of all exchanges of a node, at most: about 256 MB. A declaration beyond is refused.
pub(crate) const ALL_KEYS_MAX: usize = 4 * KEYS_MAX;

/// Before the exchange's name in that of the queue of its keys: clients cannot declare such a name.
const PREFIX: &str = "amq.deduplication.";
/// On disk a key without an end has its time behind this, ms: two thousand years.
const FOREVER_MS: i64 = 1 << 46;
/// All keys are written anew when so many times as many rows came since as may be kept, so that
/// forgotten ones do not stay on disk; never for fewer than so many.
const REWRITE_AFTER: usize = 2;
const REWRITE_MIN: usize = 10_000;
/// Rows whose keys are all over leave the disk once in this time, ms.
const DROP_PAUSE_MS: i64 = 60_000;

/// Name of the queue that the keys of an exchange are written to.
pub(crate) fn queue_name(exchange: &str) -> String {
    format!("{PREFIX}{exchange}")
}

/// The exchange whose keys a queue keeps.
pub(crate) fn exchange_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(PREFIX)
}

/// Keys for the disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Rows whose newest time is this or before go first, ms.
    pub drop_to: Option<i64>,
    /// The newest time of these, ms.
    pub newest_ms: i64,
    /// `rules::window` layout: when each ends.
    pub entries: Vec<u8>,
}

/// A value, as its hash.
pub(crate) type Key = [u8; 16];

/// What a message's key says of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Keyless,
    Duplicate,
    /// It has taken this key.
    New(Key),
}

pub(super) struct Seen {
    size: usize,
    ttl_ms: Option<u64>,
    until: HashMap<Key, Micros, RandomState>,
    order: VecDeque<(Key, Micros)>,
    disk: Option<Disk>,
}

/// What of the keys is on disk.
#[derive(Default)]
struct Disk {
    queue: Option<QueueId>,
    /// Since the last commit.
    fresh: Vec<u8>,
    /// Keys in rows, some of which may be forgotten.
    written: usize,
    dropped_ms: i64,
}

impl Seen {
    /// # Errors
    /// The plug-in's texts.
    pub(super) fn parse(arguments: &Table) -> Result<Self, String> {
        let size = arguments.find(SIZE).and_then(positive).ok_or_else(|| {
            format!("Missing or invalid argument, '{SIZE}' must be an integer greater than 0")
        })?;
        let ttl_ms = match arguments.find(TTL) {
            None => None,
            Some(value) => Some(positive(value).ok_or_else(|| {
                format!("Invalid argument, '{TTL}' must be an integer greater than 0")
            })?),
        };
        let place = arguments.find("x-cache-persistence");
        let disk = match place.map(Value::as_text) {
            None | Some(Some("memory")) => None,
            Some(Some("disk")) => Some(Disk::default()),
            Some(_) => {
                let text =
                    "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
                return Err(text.to_owned());
            }
        };
        Ok(Self {
            size: usize::try_from(size).unwrap_or(KEYS_MAX).min(KEYS_MAX),
            ttl_ms,
            until: HashMap::default(),
            order: VecDeque::new(),
            disk,
        })
    }

    /// Nothing of the exchange survives a restart, so its keys need not.
    pub(super) fn stay_in_memory(&mut self) {
        self.disk = None;
    }

    /// True where keys go to the disk.
    pub(super) fn wants_queue(&self) -> bool {
        self.disk.is_some()
    }

    /// The queue that its keys are written to.
    pub(super) fn queue(&self) -> Option<QueueId> {
        self.disk.as_ref()?.queue
    }

    pub(super) fn set_queue(&mut self, queue: QueueId) -> bool {
        let disk = self.disk.as_mut().filter(|disk| disk.queue.is_none());
        disk.is_some_and(|disk| disk.queue.replace(queue).is_none())
    }

    /// How many keys it may come to have.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A message with the same key that came before and still counts makes this one a duplicate;
    /// otherwise this one counts from now on. Messages without a key are never the same.
    pub(super) fn judge(&mut self, headers: &Table, now: Micros) -> Judgement {
        let Some(value) = headers.find(HEADER) else {
            return Judgement::Keyless;
        };
        let key = key(value);
        if self.until.get(&key).is_some_and(|until| *until > now) {
            return Judgement::Duplicate;
        }
        let ttl = headers.find(TTL).and_then(positive).or(self.ttl_ms);
        let span = ttl.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000));
        let until = span.map_or(Micros::MAX, |span| now.saturating_add(span));
        self.until.insert(key, until);
        self.order.push_back((key, until));
        if let Some(disk) = &mut self.disk {
            disk.fresh.extend(record(&key, until, now));
        }
        while self.until.len() > self.size || self.order.len() > 2 * self.size {
            self.forget_oldest();
        }
        Judgement::New(key)
    }

    /// The message that took the key was not accepted after all: it may come again.
    pub(super) fn give_back(&mut self, key: &Key) {
        if self.until.remove(key).is_some()
            && let Some(at) = self.order.iter().rposition(|(known, _)| known == key)
        {
            self.order.remove(at);
        }
        if let Some(disk) = &mut self.disk {
            let mut records = disk.fresh.chunks_exact(ENTRY);
            if let Some(at) = records.rposition(|record| record.starts_with(key)) {
                disk.fresh.drain(at * ENTRY..(at + 1) * ENTRY);
            }
        }
    }

    /// What the commit takes along that takes the messages of these keys along.
    pub(super) fn take_written(&mut self, now: Micros) -> Option<Written> {
        let disk = self.disk.as_mut()?;
        let mut out = Written::default();
        if now / 1000 - disk.dropped_ms > DROP_PAUSE_MS {
            disk.dropped_ms = now / 1000;
            out.drop_to = Some(now / 1000);
        }
        out.entries = std::mem::take(&mut disk.fresh);
        disk.written += out.entries.len() / ENTRY;
        if disk.written > REWRITE_MIN.max(REWRITE_AFTER * self.size) {
            out.drop_to = Some(i64::MAX);
            out.entries.clear();
            let live = self.order.iter();
            let live = live.filter(|(key, until)| self.until.get(key) == Some(until));
            for (key, until) in live {
                out.entries.extend(record(key, *until, now));
            }
            disk.written = out.entries.len() / ENTRY;
        }
        let times = window::records(&out.entries).map(|(_, ms)| ms);
        out.newest_ms = times.max().unwrap_or_default();
        (out != Written::default()).then_some(out)
    }

    /// Records of a start, in the order of their rows.
    pub(super) fn restore(&mut self, stored: &[u8], now: Micros) {
        let Some(disk) = &mut self.disk else {
            return;
        };
        for (key, ms) in window::records(stored) {
            disk.written += 1;
            let until = match ms {
                FOREVER_MS.. => Micros::MAX,
                _ => ms.saturating_mul(1000),
            };
            if until <= now {
                continue;
            }
            let known = self.until.entry(key).or_insert(Micros::MIN);
            *known = until.max(*known);
            self.order.push_back((key, until));
        }
        while self.until.len() > self.size || self.order.len() > 2 * self.size {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((key, until)) = self.order.pop_front() else {
            return;
        };
        // A key that came again after its time stands further back in the order.
        if self.until.get(&key) == Some(&until) {
            self.until.remove(&key);
        }
    }
}

/// A key on disk, with when it ends: of those that never do the older ones still stand first.
fn record(key: &Key, until: Micros, now: Micros) -> [u8; ENTRY] {
    let ms = match until {
        Micros::MAX => FOREVER_MS + now / 1000,
        until => until / 1000 + 1,
    };
    window::entry(key, ms.min((1 << 47) - 1))
}

pub(crate) fn positive(value: &Value) -> Option<u64> {
    let number = match value.as_text() {
        Some(text) => text.parse().ok(),
        None => value.as_i64().and_then(|number| u64::try_from(number).ok()),
    };
    number.filter(|number| *number > 0)
}

/// Integers of any width are one key.
pub(crate) fn key(value: &Value) -> Key {
    let same = match value.as_i64() {
        Some(number) => Value::I64(number),
        None => value.clone(),
    };
    let digest = Sha256::digest(Table(vec![(Vec::new(), same)]).encode());
    let mut key = Key::default();
    key.copy_from_slice(&digest[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(arguments: &[(&str, i64)]) -> Seen {
        let mut table = Table::default();
        for (name, value) in arguments {
            table.insert(name, Value::I64(*value));
        }
        Seen::parse(&table).expect("sound arguments")
    }

    fn is_duplicate(seen: &mut Seen, key: &str, now: Micros) -> bool {
        let mut headers = Table::default();
        headers.insert(HEADER, Value::text(key));
        seen.judge(&headers, now) == Judgement::Duplicate
    }

    #[test]
    fn a_key_that_was_given_back_is_new_and_lasts() {
        let mut seen = seen(&[(SIZE, 2)]);
        let mut headers = Table::default();
        headers.insert(HEADER, Value::text("a"));
        let Judgement::New(key) = seen.judge(&headers, 1) else {
            panic!("it was not there");
        };
        seen.give_back(&key);
        assert!(!is_duplicate(&mut seen, "a", 2));
        assert!(!is_duplicate(&mut seen, "b", 3));
        assert!(
            is_duplicate(&mut seen, "a", 4),
            "no older entry drives it out"
        );
        assert_eq!(seen.order.len(), 2);
    }

    #[test]
    fn the_oldest_keys_are_forgotten() {
        let mut seen = seen(&[(SIZE, 2)]);
        assert!(!is_duplicate(&mut seen, "a", 1));
        assert!(is_duplicate(&mut seen, "a", 2));
        assert!(!is_duplicate(&mut seen, "b", 3));
        assert!(!is_duplicate(&mut seen, "c", 4));
        assert!(is_duplicate(&mut seen, "b", 5));
        assert!(!is_duplicate(&mut seen, "a", 6), "two keys are kept");
        assert_eq!(seen.judge(&Table::default(), 7), Judgement::Keyless);
        assert_eq!(seen.judge(&Table::default(), 8), Judgement::Keyless);
    }

    #[test]
    fn a_key_counts_for_its_time() {
        let mut seen = seen(&[(SIZE, 3), (TTL, 1)]);
        for round in 0..100 {
            let now = round * 2000;
            assert!(!is_duplicate(&mut seen, "a", now), "{round}");
            assert!(is_duplicate(&mut seen, "a", now + 999));
        }
        assert!(seen.order.len() <= 6);
    }

    fn on_disk(size: i64, ttl: Option<i64>) -> Seen {
        let mut table = Table::default();
        table.insert(SIZE, Value::I64(size));
        table.insert("x-cache-persistence", Value::text("disk"));
        if let Some(ttl) = ttl {
            table.insert(TTL, Value::I64(ttl));
        }
        Seen::parse(&table).expect("sound arguments")
    }

    #[test]
    fn keys_on_disk_are_known_after_a_restart() {
        let mut seen = on_disk(2, None);
        let mut rows = Vec::new();
        for (now, key) in ["a", "b", "c"].iter().enumerate() {
            assert!(!is_duplicate(&mut seen, key, now as Micros));
            rows.push(seen.take_written(now as Micros).expect("a key"));
        }
        assert_eq!(seen.take_written(3), None);
        let mut again = on_disk(2, None);
        rows.iter().for_each(|row| again.restore(&row.entries, 9));
        assert!(is_duplicate(&mut again, "b", 10) && is_duplicate(&mut again, "c", 10));
        assert!(!is_duplicate(&mut again, "a", 10), "two keys are kept");
    }

    #[test]
    fn keys_on_disk_end_in_time() {
        let mut seen = on_disk(9, Some(5));
        assert!(!is_duplicate(&mut seen, "a", 1_000));
        let row = seen.take_written(1_000).expect("a key");
        for (now, known) in [(5_999, true), (7_000, false)] {
            let mut again = on_disk(9, Some(5));
            again.restore(&row.entries, now);
            assert_eq!(is_duplicate(&mut again, "a", now), known);
        }
        let later = 1_000 + (DROP_PAUSE_MS + 1) * 1_000;
        let dropped = seen.take_written(later).expect("old rows go");
        assert!(dropped.drop_to >= Some(row.newest_ms) && dropped.entries.is_empty());
    }

    #[test]
    fn a_key_that_was_given_back_is_not_written() {
        let mut seen = on_disk(9, None);
        assert!(!is_duplicate(&mut seen, "a", 1) && !is_duplicate(&mut seen, "b", 1));
        let mut headers = Table::default();
        headers.insert(HEADER, Value::text("a"));
        seen.give_back(&key(&Value::text("a")));
        let row = seen.take_written(1).expect("b");
        let kept: Vec<Key> = window::records(&row.entries).map(|(key, _)| key).collect();
        assert_eq!(kept, [key(&Value::text("b"))]);
    }

    #[test]
    fn forgotten_keys_leave_the_disk() {
        let mut seen = on_disk(100, None);
        let mut rows: Vec<Written> = Vec::new();
        for number in 0..3 * REWRITE_MIN {
            assert!(!is_duplicate(&mut seen, &number.to_string(), 1));
            let row = seen.take_written(1).expect("a key");
            rows.retain(|known| row.drop_to.is_none_or(|to| known.newest_ms > to));
            rows.push(row);
            let keys = rows
                .iter()
                .map(|row| row.entries.len() / ENTRY)
                .sum::<usize>();
            assert!(keys <= REWRITE_MIN + 100, "{keys} keys on disk");
        }
        let mut again = on_disk(100, None);
        rows.iter().for_each(|row| again.restore(&row.entries, 2));
        assert!(is_duplicate(
            &mut again,
            &(3 * REWRITE_MIN - 1).to_string(),
            3
        ));
    }

    #[test]
    fn a_size_is_needed() {
        assert!(Seen::parse(&Table::default()).is_err());
    }
}
