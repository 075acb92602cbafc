//! One exchange: its bindings, by identity and as an index. Pure.
//!
//! Keeps: a binding is there once, and in both or in neither.
//! In: `Vhost`.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::field::{Table, Value};
use foldhash::fast::RandomState;

use super::Message;
use super::router::Router;
use super::target::{Found, Target};
use crate::definitions::kind_of;
use crate::model::{BindingSpec, ExchangeSpec};

pub struct Exchange {
    pub spec: ExchangeSpec,
    pub alternate: Option<String>,
    bindings: HashMap<Arc<BindingSpec>, Target, RandomState>,
    /// Exchanges that bindings lead to, with the number of bindings.
    onward: HashMap<Arc<str>, u32, RandomState>,
    router: Router,
    /// Whether messages with one key may go different ways from here, and the version of the
    /// topology for which that was found out.
    pub(super) varies: Option<(u64, bool)>,
}

impl Exchange {
    pub fn has_type(kind: &str) -> bool {
        Router::of(kind).is_some()
    }

    /// # Errors
    /// Why there can be no such exchange, in RabbitMQ's words.
    pub fn new(spec: ExchangeSpec) -> Result<Self, String> {
        let arguments = Table::parse(&spec.arguments).unwrap_or_default();
        let Some(router) = Router::of(&spec.kind) else {
            return Err(format!("unknown exchange type '{}'", spec.kind));
        };
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
        Ok(Self {
            spec,
            alternate,
            bindings: HashMap::default(),
            onward: HashMap::default(),
            router,
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

    pub(super) fn find(&mut self, message: &Message<'_>, found: &mut Found) {
        self.router.find(message, found);
    }

    /// True when messages with equal routing keys may go different ways, wherever they come from.
    pub(super) fn looks_inside(&self) -> bool {
        self.router.varies()
    }

    /// Exchanges that a message may go on to from here.
    pub(super) fn onward(&self) -> impl Iterator<Item = &str> {
        let bound = self.onward.keys().map(|name| &**name);
        bound.chain(self.alternate.as_deref())
    }
}
