//! One destination of many: by consistent hash, by modulus, by chance. Pure.
//!
//! Keeps: `x-consistent-hash` spreads evenly by weight, and a binding that comes or goes moves only
//! the keys that it gains or loses; the same key goes the same way after a restart, too.
//! In: `Router`.
//!
//! Each destination draws a number from (key, its name) and the best one wins (rendezvous hashing),
//! weighed so that twice the weight wins twice as often.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use amqp::field::{Table, Value};
use amqp::properties;
use foldhash::fast::RandomState;

use super::Message;
use super::target::{Found, Target};
use crate::definitions::kind_of;
use crate::model::BindingSpec;

/// What a consistent hash exchange hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum On {
    RoutingKey,
    Header(Vec<u8>),
    MessageId,
    CorrelationId,
    Timestamp,
}

impl On {
    /// # Errors
    /// The plug-in's texts.
    pub(super) fn parse(arguments: &Table) -> Result<Self, String> {
        let text = |name: &str| match arguments.find(name) {
            None => Ok(None),
            Some(Value::LongStr(text)) => Ok(Some(text.as_slice())),
            Some(other) => Err(format!(
                "invalid type '{}' for arg '{name}'",
                kind_of(other)
            )),
        };
        match (text("hash-header")?, text("hash-property")?) {
            (Some(_), Some(_)) => {
                Err("hash-header and hash-property are mutually exclusive".to_owned())
            }
            (Some(header), None) => Ok(Self::Header(header.to_vec())),
            (None, Some(b"message_id")) => Ok(Self::MessageId),
            (None, Some(b"correlation_id")) => Ok(Self::CorrelationId),
            (None, Some(b"timestamp")) => Ok(Self::Timestamp),
            (None, Some(other)) => Err(format!(
                "Unsupported property: {}",
                String::from_utf8_lossy(other)
            )),
            (None, None) => Ok(Self::RoutingKey),
        }
    }

    pub(super) fn looks_inside(&self) -> bool {
        *self != Self::RoutingKey
    }

    /// What is missing hashes like nothing at all.
    fn hash(&self, message: &Message<'_>) -> u64 {
        let raw = message.properties();
        match self {
            Self::RoutingKey => hash(message.key),
            Self::Header(name) => {
                let headers = &message.headers().0;
                let found = headers.iter().find(|(key, _)| key == name);
                match found.map(|(_, value)| value) {
                    None => hash(&[]),
                    Some(Value::LongStr(text)) => hash(text),
                    Some(value) => match value.as_i64() {
                        Some(number) => hash(&number.to_be_bytes()),
                        None => hash(&Table(vec![(Vec::new(), value.clone())]).encode()),
                    },
                }
            }
            Self::MessageId => hash(properties::message_id(raw).unwrap_or_default()),
            Self::CorrelationId => hash(properties::correlation_id(raw).unwrap_or_default()),
            Self::Timestamp => hash(properties::timestamp(raw).unwrap_or_default()),
        }
    }
}

struct Member {
    seed: u64,
    /// By order of binding: the oldest counts, as in RabbitMQ.
    weights: Vec<(Vec<u8>, f64)>,
}

/// Destinations of `x-consistent-hash`.
pub(super) struct Consistent {
    on: On,
    members: HashMap<Target, Member, RandomState>,
}

impl Consistent {
    pub(super) fn new(on: On) -> Self {
        Self {
            on,
            members: HashMap::default(),
        }
    }

    pub(super) fn looks_inside(&self) -> bool {
        self.on.looks_inside()
    }

    pub(super) fn add(&mut self, spec: &BindingSpec, target: &Target) {
        let member = self
            .members
            .entry(target.clone())
            .or_insert_with(|| Member {
                seed: hash(spec.destination.as_bytes()),
                weights: Vec::new(),
            });
        let weight = weight(&spec.routing_key).unwrap_or(1);
        // Past 2^53 weights blur; nobody tells them apart.
        member
            .weights
            .push((spec.routing_key.clone(), weight as f64));
    }

    pub(super) fn remove(&mut self, spec: &BindingSpec, target: &Target) {
        if let Some(member) = self.members.get_mut(target) {
            let at = member
                .weights
                .iter()
                .position(|(key, _)| *key == spec.routing_key);
            at.map(|at| member.weights.remove(at));
            if member.weights.is_empty() {
                self.members.remove(target);
            }
        }
    }

    pub(super) fn find(&self, message: &Message<'_>, found: &mut Found) {
        let key = self.on.hash(message);
        let draws = self
            .members
            .iter()
            .map(|(target, member)| (target, member.draw(key)));
        let best = draws.min_by(|(_, left), (_, right)| left.total_cmp(right));
        if let Some((target, _)) = best {
            found.add(target);
        }
    }
}

impl Member {
    /// Exponentially distributed with the weight as its rate: the smallest of several is each
    /// one's as often as its share of all weights.
    fn draw(&self, key: u64) -> f64 {
        let mixed = mix(key ^ self.seed.rotate_left(32));
        let uniform = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let weight = self.weights.first().map_or(1.0, |(_, weight)| *weight);
        -uniform.ln() / weight
    }
}

/// A binding key of `x-consistent-hash` as the weight that it says.
///
/// # Errors
/// The plug-in's texts.
pub(super) fn weight(key: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(key).unwrap_or_default();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let shown = if key.is_empty() {
            "<<>>".to_owned()
        } else {
            format!("<<\"{}\">>", String::from_utf8_lossy(key))
        };
        return Err(format!("The binding key must be an integer: {shown}"));
    }
    match digits.parse().unwrap_or(u64::MAX) {
        weight if weight > 0 && !text.starts_with('-') => Ok(weight),
        _ => Err("The binding key must be greater than 0".to_owned()),
    }
}

/// Destinations in the order of their names, for those that count them.
#[derive(Default)]
pub(super) struct Listed(BTreeMap<(Arc<str>, Target), u32>, Vec<Target>);

impl Listed {
    pub(super) fn add(&mut self, spec: &BindingSpec, target: &Target) {
        let key = (spec.destination.clone(), target.clone());
        let count = self.0.entry(key).or_default();
        *count += 1;
        if *count == 1 {
            self.1.clear();
        }
    }

    pub(super) fn remove(&mut self, spec: &BindingSpec, target: &Target) {
        let key = (spec.destination.clone(), target.clone());
        if let Some(count) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
                self.1.clear();
            }
        }
    }

    /// The destination of `x-modulus-hash`.
    pub(super) fn find_by_key(&mut self, key: &[u8], found: &mut Found) {
        self.pick(hash(key), found);
    }

    /// The destination that a number falls on.
    pub(super) fn pick(&mut self, number: u64, found: &mut Found) {
        let Self(all, list) = self;
        if list.is_empty() {
            list.extend(all.keys().map(|(_, target)| target.clone()));
        }
        if let Some(at) = number.checked_rem(list.len() as u64) {
            found.add(&list[at as usize]);
        }
    }
}

/// FNV-1a, then mixed: the same on every machine and after every restart.
fn hash(bytes: &[u8]) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325u64;
    let all = bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mix(all)
}

/// The finish of SplitMix64: every bit in changes half of the bits out.
pub(super) fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DestinationKind, QueueId};

    const KEYS: u64 = 20_000;

    fn spec(queue: u64, weight: u64) -> BindingSpec {
        BindingSpec {
            vhost: "/".into(),
            source: "h".into(),
            destination_kind: DestinationKind::Queue,
            destination: format!("queue-{queue}").into(),
            routing_key: weight.to_string().into_bytes(),
            arguments: Vec::new(),
        }
    }

    fn ring(weights: &[u64]) -> Consistent {
        let mut ring = Consistent::new(On::RoutingKey);
        for (number, weight) in (0..).zip(weights) {
            ring.add(&spec(number, *weight), &Target::Queue(QueueId(number)));
        }
        ring
    }

    fn all(ring: &Consistent) -> Vec<u64> {
        let find = |number: u64| {
            let mut found = Found::default();
            let key = format!("order.{number}");
            ring.find(&Message::any_with(key.as_bytes()), &mut found);
            found.queues[0].0
        };
        (0..KEYS).map(find).collect()
    }

    #[test]
    fn shares_follow_weights() {
        let weights = [1, 1, 2, 4, 1, 1];
        let homes = all(&ring(&weights));
        for (number, weight) in (0..).zip(weights) {
            let share = homes.iter().filter(|home| **home == number).count() as f64;
            let fair = KEYS as f64 * weight as f64 / 10.0;
            // Six standard deviations of a fair draw.
            let most = 6.0 * (fair * (1.0 - weight as f64 / 10.0)).sqrt();
            assert!((share - fair).abs() < most, "{number}: {share}, not {fair}");
        }
    }

    #[test]
    fn a_queue_takes_only_what_becomes_its_own() {
        let before = all(&ring(&[1, 1, 1, 1]));
        let mut ring = ring(&[1, 1, 1, 1, 1]);
        let after = all(&ring);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(_, home)| *home == 4), "moved elsewhere");
        assert!(moved.count() < KEYS as usize / 4);
        ring.remove(&spec(4, 1), &Target::Queue(QueueId(4)));
        assert_eq!(all(&ring), before, "what it had returns to where it was");
    }

    #[test]
    fn the_first_of_two_weights_counts() {
        let mut ring = ring(&[1, 1]);
        let before = all(&ring);
        ring.add(&spec(0, 50), &Target::Queue(QueueId(0)));
        assert_eq!(all(&ring), before);
        ring.remove(&spec(0, 1), &Target::Queue(QueueId(0)));
        assert_ne!(all(&ring), before, "now the other one does");
    }

    #[test]
    fn weights_are_whole_numbers_above_zero() {
        assert_eq!(weight(b"10"), Ok(10));
        for bad in ["", "x", "1x", " 1", "1.5", "-", "0", "-1"] {
            assert!(weight(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
