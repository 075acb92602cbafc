//! Which queues does this message reach? Pure.
//!
//! Keeps: exchanges and bindings of one vhost; each queue reached once however many ways lead
//! there; an address that was asked for is answered from memory, unless its messages differ.
//! In: `shard` asks per run of messages; `definitions` changes what is there.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use amqp::content::{Address, Block};
use amqp::field::{Table, Value};
use amqp::properties;
use foldhash::fast::RandomState;

use crate::model::{BindingSpec, DestinationKind, Micros, QueueId};

pub mod arguments;
mod asked;
pub mod copies;
pub mod delay;
pub(crate) mod duplicates;
mod exchange;
mod hash;
mod headers;
mod history;
mod router;
mod routes;
mod target;
mod topic;

pub(crate) use asked::shown;

pub use exchange::Exchange;
pub use routes::{Queues, Way};
pub use target::Target;

use duplicates::Key;
use routes::Routes;
use target::Found;

/// What routing may look at.
pub struct Message<'a> {
    key: &'a [u8],
    /// Routing keys beside the message's own: CC and BCC.
    copies: &'a [Vec<u8>],
    /// Absent where only the key counts.
    content: Option<(&'a Block, usize)>,
    headers: OnceCell<Table>,
    moment: Moment,
    /// Its delay is over, or counts for nothing.
    undelayed: bool,
}

/// What is handed to routing from outside, so that it reads no clock and throws no dice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    pub now: Micros,
    pub chance: u64,
}

impl<'a> Message<'a> {
    pub fn new(block: &'a Block, index: usize, copies: &'a [Vec<u8>], moment: Moment) -> Self {
        Self {
            copies,
            content: Some((block, index)),
            moment,
            ..Self::any_with(block.address(index).routing_key())
        }
    }

    /// Stands for all messages with a key.
    fn any_with(key: &'a [u8]) -> Self {
        Self {
            key,
            copies: &[],
            content: None,
            headers: OnceCell::new(),
            moment: Moment::default(),
            undelayed: false,
        }
    }

    /// As a message whose delay is over.
    pub fn undelayed(self) -> Self {
        Self {
            undelayed: true,
            ..self
        }
    }

    fn is_delayed(&self) -> bool {
        !self.undelayed && delay::wait_ms(self.headers(), self.moment.now).is_some()
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.key).chain(self.copies.iter().map(Vec::as_slice))
    }

    fn headers(&self) -> &Table {
        self.headers.get_or_init(|| {
            properties::headers(self.properties())
                .and_then(|raw| Table::parse(raw).ok())
                .unwrap_or_default()
        })
    }

    fn properties(&self) -> &[u8] {
        let content = self.content;
        content.map_or(&[], |(block, index)| block.properties(index))
    }
}

impl From<Found> for Queues {
    fn from(found: Found) -> Self {
        match Self::of(found.queues) {
            Self::None if found.dropped => Self::Dropped,
            queues => queues,
        }
    }
}

/// One vhost's names.
#[derive(Default)]
pub struct Vhost {
    pub exchanges: BTreeMap<Arc<str>, Exchange>,
    pub queues: HashMap<Arc<str>, QueueId, RandomState>,
    /// Bindings by where they lead, so that what goes takes them along without a search.
    into: HashMap<Target, HashSet<Arc<BindingSpec>, RandomState>, RandomState>,
    routes: Routes,
    /// Keys that exchanges took for the message that `look` was last asked for.
    pub(crate) taken: Vec<(Arc<str>, Key)>,
    /// Queues that the keys of exchanges are written to which it passed.
    pub(crate) kept: Vec<QueueId>,
    /// Copies of what is published and delivered go to the trace exchange.
    pub traced: bool,
}

impl Vhost {
    /// How messages to an address go; `None` when there is no such exchange.
    pub fn way(&mut self, address: &Address) -> Option<Way> {
        if address.exchange().is_empty() {
            return Some(Way {
                queues: Some(self.by_name(address.routing_key())),
                internal: false,
            });
        }
        if let Some(way) = self.routes.find(address) {
            return Some(way);
        }
        let exchange = std::str::from_utf8(address.exchange()).ok()?;
        let varies = self.varies(exchange)?;
        let any = Message::any_with(address.routing_key());
        let way = Way {
            queues: (!varies).then(|| self.walk(exchange, &any)),
            internal: self.exchanges.get(exchange)?.spec.internal,
        };
        self.routes.keep(address, way.clone());
        Some(way)
    }

    /// Queues that one message to `exchange` reaches; `None` when there is no such exchange.
    pub fn look(&mut self, exchange: &str, message: &Message<'_>) -> Option<Queues> {
        if exchange.is_empty() {
            let found = message.keys().flat_map(|key| self.by_name(key).first());
            return Some(Queues::of(found.collect()));
        }
        self.exchanges.get(exchange)?;
        Some(self.walk(exchange, message))
    }

    fn by_name(&self, key: &[u8]) -> Queues {
        let name = std::str::from_utf8(key).ok();
        let known = name.and_then(|name| self.queues.get(name));
        known.map_or(Queues::None, |id| Queues::One(*id))
    }

    fn walk(&mut self, exchange: &str, message: &Message<'_>) -> Queues {
        let mut found = self.walk_on(exchange, message);
        self.taken = std::mem::take(&mut found.taken);
        self.kept = std::mem::take(&mut found.kept);
        found.into()
    }

    /// An exchange's key may be taken again: its message was not accepted.
    pub(crate) fn give_back(&mut self, exchange: &str, key: &Key) {
        if let Some(exchange) = self.exchanges.get_mut(exchange) {
            exchange.give_back(key);
        }
    }

    fn walk_on(&mut self, exchange: &str, message: &Message<'_>) -> Found {
        let mut found = Found::default();
        let Some(first) = self.exchanges.get_mut(exchange) else {
            return found;
        };
        first.find(message, &mut found);
        if found.exchanges.is_empty() && (found.len() > 0 || first.alternate.is_none()) {
            return found;
        }
        let mut seen: HashSet<Arc<str>, RandomState> = HashSet::default();
        seen.insert(first.spec.name.clone());
        if found.len() == 0 {
            found
                .exchanges
                .extend(first.alternate.as_deref().map(Into::into));
        }
        while let Some(name) = found.exchanges.pop() {
            let Some(exchange) = self.exchanges.get_mut(&name) else {
                continue;
            };
            if !seen.insert(name) {
                continue;
            }
            let before = found.len();
            exchange.find(message, &mut found);
            if found.len() == before {
                found
                    .exchanges
                    .extend(exchange.alternate.as_deref().map(Into::into));
            }
        }
        found
    }

    /// True when messages with one key may go different ways from this exchange.
    fn varies(&mut self, exchange: &str) -> Option<bool> {
        let version = self.routes.version();
        match self.exchanges.get(exchange)?.varies {
            Some((at, varies)) if at == version => return Some(varies),
            _ => {}
        }
        let (mut seen, mut open) = (HashSet::new(), vec![exchange]);
        let mut varies = false;
        while let Some(name) = open.pop() {
            if let Some(exchange) = self.exchanges.get(name).filter(|_| seen.insert(name)) {
                varies |= exchange.looks_inside();
                open.extend(exchange.onward());
            }
        }
        self.exchanges.get_mut(exchange)?.varies = Some((version, varies));
        Some(varies)
    }

    /// Lets a queue keep an exchange's delayed messages. False: the exchange delays none, or has
    /// its queue.
    pub fn set_delay_queue(&mut self, exchange: &str, queue: QueueId) -> bool {
        let exchange = self.exchanges.get_mut(exchange);
        exchange.is_some_and(|exchange| exchange.set_delay_queue(queue))
    }

    /// Lets a queue keep an exchange's keys. False: the exchange writes none, or has its queue.
    pub fn set_key_queue(&mut self, exchange: &str, queue: QueueId) -> bool {
        let exchange = self.exchanges.get_mut(exchange);
        exchange.is_some_and(|exchange| exchange.set_key_queue(queue))
    }

    /// Queues with a name, and those that keep what exchanges delay or remember.
    pub fn all_queues(&self) -> impl Iterator<Item = QueueId> {
        let exchanges = self.exchanges.values();
        let kept = exchanges.flat_map(|it| it.delay_queue().into_iter().chain(it.key_queue()));
        self.queues.values().copied().chain(kept)
    }

    /// What is known of addresses counts no more: an exchange came, went or was changed.
    pub fn forget_routes(&mut self) {
        self.routes.forget();
    }

    /// Adds a binding whose ends exist; false when it is there already, or an end is not.
    pub fn bind(&mut self, spec: BindingSpec) -> bool {
        let target = match spec.destination_kind {
            DestinationKind::Queue => match self.queues.get(&spec.destination) {
                Some(id) => Target::Queue(*id),
                None => return false,
            },
            DestinationKind::Exchange => Target::Exchange(spec.destination.clone()),
        };
        let Some(exchange) = self.exchanges.get_mut(&spec.source) else {
            return false;
        };
        if exchange.has(&spec) {
            return false;
        }
        let spec = Arc::new(spec);
        exchange.add(&spec, target.clone());
        self.into.entry(target).or_default().insert(spec);
        self.routes.forget();
        true
    }

    /// Removes a binding; false when it was not there.
    pub fn unbind(&mut self, spec: &BindingSpec) -> bool {
        let exchange = self.exchanges.get_mut(&spec.source);
        let Some((spec, target)) = exchange.and_then(|exchange| exchange.remove(spec)) else {
            return false;
        };
        if let Some(known) = self.into.get_mut(&target) {
            known.remove(&spec);
            if known.is_empty() {
                self.into.remove(&target);
            }
        }
        self.routes.forget();
        true
    }

    /// Removes the bindings that lead to something that goes; answers them.
    pub fn unbind_all(&mut self, target: &Target) -> Vec<Arc<BindingSpec>> {
        let Some(specs) = self.into.remove(target) else {
            return Vec::new();
        };
        for spec in &specs {
            if let Some(exchange) = self.exchanges.get_mut(&spec.source) {
                exchange.remove(spec);
            }
        }
        self.routes.forget();
        specs.into_iter().collect()
    }

    /// Removes an exchange with the bindings of which it is the source; answers both.
    pub fn remove(&mut self, exchange: &str) -> Option<(Exchange, Vec<Arc<BindingSpec>>)> {
        let specs: Vec<_> = self.exchanges.get(exchange)?.bindings().cloned().collect();
        specs.iter().for_each(|spec| {
            self.unbind(spec);
        });
        self.routes.forget();
        Some((self.exchanges.remove(exchange)?, specs))
    }
}

/// Integers are equal by value, whatever their width.
pub fn equal(left: &Value, right: &Value) -> bool {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

#[cfg(test)]
mod measure;
#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
