//! Which messages an exchange has seen already. Pure.
//!
//! Keeps: a bounded number of keys, by their hash; the oldest goes first. Lives in memory, as the
//! plug-in's does by default.
//! In: `Exchange`.
//! Source: the plug-in `rabbitmq_message_deduplication`; unlike there a duplicate is confirmed.

use std::collections::{HashMap, VecDeque};

use amqp::field::{Table, Value};
use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};

use crate::model::Micros;

/// The header that names what must not come twice.
pub(crate) const HEADER: &str = "x-deduplication-header";
const SIZE: &str = "x-cache-size";
pub(crate) const TTL: &str = "x-cache-ttl";
/// Keys of one exchange, at most, whatever it asks for: about 64 MB.
const KEYS_MAX: usize = 1_000_000;
/// Keys of all exchanges of a node, at most: about 256 MB. A declaration beyond is refused.
pub(crate) const ALL_KEYS_MAX: usize = 4 * KEYS_MAX;

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
        if let Some(value) = arguments.find("x-cache-persistence")
            && !matches!(value.as_text(), Some("memory" | "disk"))
        {
            let text = "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
            return Err(text.to_owned());
        }
        Ok(Self {
            size: usize::try_from(size).unwrap_or(KEYS_MAX).min(KEYS_MAX),
            ttl_ms,
            until: HashMap::default(),
            order: VecDeque::new(),
        })
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

    #[test]
    fn a_size_is_needed() {
        assert!(Seen::parse(&Table::default()).is_err());
    }
}
