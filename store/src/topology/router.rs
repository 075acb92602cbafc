//! How one exchange finds the destinations of a message: an index per exchange type. Pure.
//!
//! Keeps: adding, removing and finding cost little, however many bindings there are.
//! In: `Exchange`.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Message;
use super::headers::Headers;
use super::target::{Found, Target, Targets};
use super::topic::Trie;
use crate::model::BindingSpec;

pub(super) enum Router {
    Direct(HashMap<Box<[u8]>, Targets, RandomState>),
    Fanout(Targets),
    Topic(Trie),
    Headers(Headers),
}

impl Router {
    /// `None`: no such exchange type.
    pub(super) fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "direct" => Self::Direct(HashMap::default()),
            "fanout" => Self::Fanout(Targets::default()),
            "topic" => Self::Topic(Trie::default()),
            "headers" => Self::Headers(Headers::default()),
            _ => return None,
        })
    }

    /// True when messages with equal routing keys may go different ways.
    pub(super) fn varies(&self) -> bool {
        matches!(self, Self::Headers(_))
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
        }
    }

    pub(super) fn find(&self, message: &Message<'_>, found: &mut Found) {
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
        }
    }
}
