//! Queues that take a message once: what has the key of one that is still there is dropped. Pure.
//!
//! Keeps: one key for each message that is in the queue and has one, of so many at most that the
//! oldest are forgotten; in memory, so that a restart forgets the keys of messages that it keeps.
//! In: `shard`, where a queue has the argument `x-message-deduplication`.
//! Source: the plug-in `rabbitmq_message_deduplication`; unlike there a duplicate is confirmed.

use std::collections::HashMap;

use amqp::content::Block;
use amqp::field::{self, Table, Value};
use amqp::properties;
use foldhash::fast::RandomState;

use crate::model::{Micros, Seq};
use crate::topology::duplicates::{HEADER, Key, TTL, key, positive};

const ARGUMENT: &str = "x-message-deduplication";
/// Keys that are kept before those of gone messages are looked for.
const SWEEP_MIN: usize = 1024;
/// Keys of one queue, at most: about 64 MB.
const KEYS_MAX: usize = 1_000_000;

/// The keys of one queue.
pub struct Unique {
    ttl_ms: Option<u64>,
    keys: HashMap<Key, (Seq, Micros), RandomState>,
    sweep_at: usize,
}

impl Unique {
    /// `None`: the queue takes every message.
    pub fn of(arguments: &[u8]) -> Option<Self> {
        if !field::any_key(arguments, |key| key == ARGUMENT.as_bytes()) {
            return None;
        }
        let table = Table::parse(arguments).ok()?;
        (table.find(ARGUMENT) == Some(&Value::Bool(true))).then(|| Self {
            ttl_ms: table.find(TTL).and_then(positive),
            keys: HashMap::default(),
            sweep_at: SWEEP_MIN,
        })
    }

    /// True when the message may enter, as `seq`; `is_there` says of others whether they still are.
    pub fn admit(
        &mut self,
        (block, index): (&Block, usize),
        seq: Seq,
        now: Micros,
        is_there: impl Fn(Seq) -> bool,
    ) -> bool {
        let raw = properties::headers(block.properties(index));
        let headers = raw.and_then(|raw| Table::parse(raw).ok());
        let Some(headers) = headers else {
            return true;
        };
        let Some(value) = headers.find(HEADER) else {
            return true;
        };
        let key = key(value);
        if let Some(&(seq, until)) = self.keys.get(&key)
            && until > now
            && is_there(seq)
        {
            return false;
        }
        let ttl = headers.find(TTL).and_then(positive).or(self.ttl_ms);
        let span = ttl.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000));
        let until = span.map_or(Micros::MAX, |span| now.saturating_add(span));
        self.keys.insert(key, (seq, until));
        if self.keys.len() > self.sweep_at {
            self.keys
                .retain(|_, (seq, until)| *until > now && is_there(*seq));
            if self.keys.len() >= KEYS_MAX {
                self.forget_oldest();
            }
            self.sweep_at = (self.keys.len() * 2).clamp(SWEEP_MIN, KEYS_MAX);
        }
        true
    }

    /// Half of the keys go, so that this is seldom.
    fn forget_oldest(&mut self) {
        let mut seqs: Vec<Seq> = self.keys.values().map(|&(seq, _)| seq).collect();
        let middle = seqs.len() / 2;
        let (_, &mut middle, _) = seqs.select_nth_unstable(middle);
        self.keys.retain(|_, (seq, _)| *seq > middle);
    }
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;
    use amqp::properties::Properties;

    use super::*;

    fn message(key: usize) -> Block {
        let mut headers = Table::default();
        headers.insert(HEADER, Value::I64(key as i64));
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let mut block = Block::default();
        block.push(&Address::new(b"", b"q"), &properties.encode(), b"");
        block
    }

    #[test]
    fn a_key_is_free_again_when_its_message_is_gone() {
        let mut arguments = Table::default();
        assert!(Unique::of(&arguments.encode()).is_none());
        arguments.insert(ARGUMENT, Value::Bool(true));
        let mut unique = Unique::of(&arguments.encode()).expect("asked");
        let block = message(1);
        assert!(unique.admit((&block, 0), 7, 0, |_| true));
        assert!(!unique.admit((&block, 0), 8, 0, |seq| seq == 7));
        assert!(unique.admit((&block, 0), 8, 0, |_| false));
        assert!(!unique.admit((&block, 0), 9, 0, |seq| seq == 8));
        for number in 0..SWEEP_MIN * 4 {
            assert!(unique.admit((&message(number), 0), 10, 0, |_| false));
        }
        assert!(unique.keys.len() <= SWEEP_MIN + 1, "gone ones are swept");
    }

    #[test]
    fn a_long_queue_remembers_its_newest_keys() {
        let mut arguments = Table::default();
        arguments.insert(ARGUMENT, Value::Bool(true));
        let mut unique = Unique::of(&arguments.encode()).expect("asked");
        for number in 0..KEYS_MAX as i64 {
            let key = key(&Value::I64(-1 - number));
            unique.keys.insert(key, (number as Seq, Micros::MAX));
        }
        unique.sweep_at = KEYS_MAX;
        let seq = KEYS_MAX as Seq;
        assert!(unique.admit((&message(1), 0), seq, 0, |_| true));
        assert!(unique.keys.len() <= KEYS_MAX / 2 + 1);
        assert!(!unique.admit((&message(1), 0), seq + 1, 0, |_| true));
    }
}
