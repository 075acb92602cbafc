//! One exchange: its bindings, by identity and as an index. Pure.
//!
//! Keeps: a binding is there once, and in both or in neither.
//! In: `Vhost`.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::content::Block;
use amqp::field::{Table, Value};
use foldhash::fast::RandomState;

use super::Message;
use super::delay::{self, Delay};
use super::duplicates::{Judgement, Key, Seen, Written};
use super::history::History;
use super::router::Router;
use super::target::{Found, Target};
use crate::definitions::kind_of;
use crate::model::{BindingSpec, ExchangeSpec, Micros, QueueId};

/// Exchange types; beside them there is `delay::KIND`, which delays one of these.
const KINDS: [&str; 10] = [
    "direct",
    "fanout",
    "topic",
    "headers",
    "x-consistent-hash",
    "x-modulus-hash",
    "x-random",
    "x-local-random",
    "x-recent-history",
    "x-message-deduplication",
];

pub struct Exchange {
    pub spec: ExchangeSpec,
    pub alternate: Option<String>,
    bindings: HashMap<Arc<BindingSpec>, Target, RandomState>,
    /// Exchanges that bindings lead to, with the number of bindings.
    onward: HashMap<Arc<str>, u32, RandomState>,
    router: Router,
    seen: Option<Seen>,
    history: Option<History>,
    delay: Option<Delay>,
    /// Whether messages with one key may go different ways from here, and the version of the
    /// topology for which that was found out.
    pub(super) varies: Option<(u64, bool)>,
}

impl Exchange {
    pub fn has_type(kind: &str) -> bool {
        kind == delay::KIND || KINDS.contains(&kind)
    }

    /// # Errors
    /// Why there can be no such exchange, in RabbitMQ's words.
    pub fn new(spec: ExchangeSpec) -> Result<Self, String> {
        let arguments = Table::parse(&spec.arguments).unwrap_or_default();
        let delays = spec.kind == delay::KIND;
        let kind = if delays {
            delay::inner_kind(&arguments)?
        } else {
            spec.kind.as_str()
        };
        let router = Router::of(kind, &arguments)?;
        let asked = arguments.find("x-message-deduplication") == Some(&Value::Bool(true));
        let seen = (kind == "x-message-deduplication" || asked).then(|| Seen::parse(&arguments));
        let history = (kind == "x-recent-history").then(|| History::parse(&arguments));
        let alternate = match arguments.find("alternate-exchange") {
            None => None,
            Some(Value::LongStr(name)) => Some(String::from_utf8_lossy(name).into_owned()),
            Some(other) => {
                return Err(format!(
                    "invalid type '{}' for arg 'alternate-exchange' in exchange '{}' in vhost '{}'",
                    kind_of(other),
                    spec.name,
                    spec.vhost
                ));
            }
        };
        let mut seen = seen.transpose()?;
        if let Some(seen) = seen.as_mut().filter(|_| !spec.durable) {
            seen.stay_in_memory();
        }
        Ok(Self {
            spec,
            alternate,
            bindings: HashMap::default(),
            onward: HashMap::default(),
            router,
            seen,
            history: history.transpose()?,
            delay: delays.then(Delay::default),
            varies: None,
        })
    }

    /// Bindings of which this is the source, in no order.
    pub fn bindings(&self) -> impl Iterator<Item = &Arc<BindingSpec>> {
        self.bindings.keys()
    }

    /// True when no binding has this as its source.
    pub fn is_unused(&self) -> bool {
        self.bindings.is_empty()
    }

    pub fn has(&self, binding: &BindingSpec) -> bool {
        self.bindings.contains_key(binding)
    }

    pub(super) fn add(&mut self, spec: &Arc<BindingSpec>, target: Target) {
        self.router.add(spec, &target);
        if let Target::Exchange(name) = &target {
            *self.onward.entry(name.clone()).or_default() += 1;
        }
        self.bindings.insert(spec.clone(), target);
    }

    pub(super) fn remove(&mut self, spec: &BindingSpec) -> Option<(Arc<BindingSpec>, Target)> {
        let (spec, target) = self.bindings.remove_entry(spec)?;
        self.router.remove(&spec, &target);
        if let Target::Exchange(name) = &target
            && let Some(count) = self.onward.get_mut(name)
        {
            *count -= 1;
            if *count == 0 {
                self.onward.remove(name);
            }
        }
        Some((spec, target))
    }

    /// # Errors
    /// Why there can be no such binding, in the words of RabbitMQ and its plug-ins.
    pub fn check(&self, binding: &BindingSpec) -> Result<(), String> {
        self.router.check(binding)
    }

    /// What it remembers for whoever binds, oldest first.
    pub fn history(&self) -> Vec<Arc<Block>> {
        self.history
            .as_ref()
            .map_or_else(Vec::new, History::messages)
    }

    /// How many keys of messages it may come to remember.
    pub fn keys_max(&self) -> usize {
        self.seen.as_ref().map_or(0, Seen::size)
    }

    /// True when it keeps delayed messages, in a queue of its own.
    pub fn delays(&self) -> bool {
        self.delay.is_some()
    }

    /// The queue that keeps its delayed messages.
    pub fn delay_queue(&self) -> Option<QueueId> {
        self.delay.as_ref()?.queue
    }

    pub(super) fn set_delay_queue(&mut self, queue: QueueId) -> bool {
        let delay = self.delay.as_mut().filter(|delay| delay.queue.is_none());
        delay.is_some_and(|delay| delay.queue.replace(queue).is_none())
    }

    pub(super) fn find(&mut self, message: &Message<'_>, found: &mut Found) {
        if let Some(queue) = self.delay_queue()
            && message.is_delayed()
        {
            return found.queues.push(queue);
        }
        if let Some(seen) = &mut self.seen {
            found.kept.extend(seen.queue());
            match seen.judge(message.headers(), message.moment.now) {
                Judgement::Keyless => {}
                Judgement::New(key) => found.taken.push((self.spec.name.clone(), key)),
                Judgement::Duplicate => {
                    found.dropped = true;
                    return;
                }
            }
        }
        if let Some(history) = &mut self.history {
            history.remember(message);
        }
        self.router.find(message, found);
    }

    /// True when the keys that it remembers go to the disk.
    pub fn wants_key_queue(&self) -> bool {
        self.seen.as_ref().is_some_and(Seen::wants_queue)
    }

    /// The queue that those are written to.
    pub fn key_queue(&self) -> Option<QueueId> {
        self.seen.as_ref()?.queue()
    }

    pub(super) fn set_key_queue(&mut self, queue: QueueId) -> bool {
        let seen = self.seen.as_mut();
        seen.is_some_and(|seen| seen.set_queue(queue))
    }

    /// What of its keys the commit takes along that takes their messages along.
    pub(crate) fn take_written(&mut self, now: Micros) -> Option<Written> {
        self.seen.as_mut()?.take_written(now)
    }

    /// Keys that a restart found.
    pub(crate) fn restore_keys(&mut self, stored: &[u8], now: Micros) {
        if let Some(seen) = &mut self.seen {
            seen.restore(stored, now);
        }
    }

    pub(super) fn give_back(&mut self, key: &Key) {
        if let Some(seen) = &mut self.seen {
            seen.give_back(key);
        }
    }

    /// True when messages with equal routing keys may go different ways, wherever they come from.
    pub(super) fn looks_inside(&self) -> bool {
        self.router.varies() || self.seen.is_some() || self.history.is_some() || self.delays()
    }

    /// Exchanges that a message may go on to from here.
    pub(super) fn onward(&self) -> impl Iterator<Item = &str> {
        let bound = self.onward.keys().map(|name| &**name);
        bound.chain(self.alternate.as_deref())
    }
}
