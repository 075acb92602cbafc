//! How one exchange finds the destinations of a message: an index per exchange type. Pure.
//!
//! Keeps: adding, removing and finding cost little, however many bindings there are.
//! In: `Exchange`.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::field::Table;
use foldhash::fast::RandomState;

use super::Message;
use super::hash::{Consistent, Listed, On, mix, weight};
use super::headers::{self, Headers};
use super::target::{Found, Target, Targets};
use super::topic::Trie;
use crate::model::BindingSpec;

pub(super) enum Router {
    Direct(HashMap<Box<[u8]>, Targets, RandomState>),
    Fanout(Targets),
    Topic(Trie),
    Headers(Headers),
    Consistent(Consistent),
    Modulus(Listed),
    Random(Listed),
}

impl Router {
    /// # Errors
    /// Why there can be no such exchange.
    pub(super) fn of(kind: &str, arguments: &Table) -> Result<Self, String> {
        Ok(match kind {
            "direct" => Self::Direct(HashMap::default()),
            "fanout" | "x-recent-history" | "x-message-deduplication" => {
                Self::Fanout(Targets::default())
            }
            "topic" => Self::Topic(Trie::default()),
            "headers" => Self::Headers(Headers::default()),
            "x-consistent-hash" => Self::Consistent(Consistent::new(On::parse(arguments)?)),
            "x-modulus-hash" => Self::Modulus(Listed::default()),
            "x-random" | "x-local-random" => Self::Random(Listed::default()),
            _ => return Err(format!("unknown exchange type '{kind}'")),
        })
    }

    /// # Errors
    /// Why there can be no such binding, in the words of RabbitMQ and its plug-ins.
    pub(super) fn check(&self, binding: &BindingSpec) -> Result<(), String> {
        match self {
            Self::Headers(_) => headers::check(&binding.arguments),
            Self::Consistent(_) => weight(&binding.routing_key).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// True when messages with equal routing keys may go different ways.
    pub(super) fn varies(&self) -> bool {
        match self {
            Self::Headers(_) | Self::Random(_) => true,
            Self::Consistent(ring) => ring.looks_inside(),
            _ => false,
        }
    }

    pub(super) fn add(&mut self, spec: &Arc<BindingSpec>, target: &Target) {
        match self {
            Self::Direct(keys) => match keys.get_mut(&*spec.routing_key) {
                Some(targets) => targets.add(target),
                None => {
                    let mut targets = Targets::default();
                    targets.add(target);
                    keys.insert(spec.routing_key.as_slice().into(), targets);
                }
            },
            Self::Fanout(targets) => targets.add(target),
            Self::Topic(trie) => trie.add(&spec.routing_key, target),
            Self::Headers(headers) => headers.add(spec, target),
            Self::Consistent(ring) => ring.add(spec, target),
            Self::Modulus(list) | Self::Random(list) => list.add(spec, target),
        }
    }

    pub(super) fn remove(&mut self, spec: &BindingSpec, target: &Target) {
        match self {
            Self::Direct(keys) => {
                if let Some(targets) = keys.get_mut(&*spec.routing_key) {
                    targets.remove(target);
                    if targets.is_empty() {
                        keys.remove(&*spec.routing_key);
                    }
                }
            }
            Self::Fanout(targets) => targets.remove(target),
            Self::Topic(trie) => trie.remove(&spec.routing_key, target),
            Self::Headers(headers) => headers.remove(spec),
            Self::Consistent(ring) => ring.remove(spec, target),
            Self::Modulus(list) | Self::Random(list) => list.remove(spec, target),
        }
    }

    pub(super) fn find(&mut self, message: &Message<'_>, found: &mut Found) {
        match self {
            Self::Direct(keys) => {
                for key in message.keys() {
                    if let Some(targets) = keys.get(key) {
                        targets.find(found);
                    }
                }
            }
            Self::Fanout(targets) => targets.find(found),
            Self::Topic(trie) => message.keys().for_each(|key| trie.find(key, found)),
            Self::Headers(headers) => headers.find(message.headers(), found),
            Self::Consistent(ring) => ring.find(message, found),
            Self::Modulus(list) => list.find_by_key(message.key, found),
            Self::Random(list) => list.pick(mix(message.moment.chance), found),
        }
    }
}
