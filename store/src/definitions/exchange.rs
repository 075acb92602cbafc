//! Declaring and deleting exchanges and bindings, with RabbitMQ's texts.
//!
//! Keeps: what goes takes its bindings along, and auto-delete exchanges that led there only.
//! In: `gateway::session`, recovery, and `shard` when a queue goes.

use std::sync::Arc;

use amqp::field::Table;

use super::{QueueDeclare, failed, not_found, refused, same_arguments};
use crate::error::{Noun, Result};
use crate::log::batch::DefinitionChange;
use crate::model::*;
use crate::shard::Shard;
use crate::topology::duplicates::{self, ALL_KEYS_MAX};
use crate::topology::{Exchange, Target, delay};

/// Exchanges that every vhost has: (name, type, internal).
const PREDECLARED: [(&str, &str, bool); 7] = [
    ("", "direct", false),
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.topic", "topic", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
];

/// Arguments that are compared when an exchange is declared again, as RabbitMQ does.
const COMPARED: [&str; 1] = ["alternate-exchange"];

/// What exchange.declare asks.
#[derive(Clone, Debug, Default)]
pub struct ExchangeDeclare {
    pub name: String,
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
}

impl Shard {
    /// Creates a vhost with its predeclared exchanges.
    pub(crate) fn add_vhost(&mut self, name: &Arc<str>) {
        let vhost = self.vhosts.entry(name.clone()).or_default();
        for (exchange, kind, internal) in PREDECLARED {
            let spec = ExchangeSpec {
                vhost: name.clone(),
                name: exchange.into(),
                kind: kind.into(),
                durable: true,
                auto_delete: false,
                internal,
                arguments: Vec::new(),
            };
            let exchange = Exchange::new(spec).expect("the predeclared types are known");
            let name = exchange.spec.name.clone();
            vhost.exchanges.entry(name).or_insert(exchange);
        }
        vhost.forget_routes();
    }

    pub fn check_exchange(&self, vhost: &str, name: &str) -> Result<()> {
        self.exchange(vhost, name)
            .map(|_| ())
            .ok_or_else(|| not_found(Noun::Exchange, name, vhost))
    }

    fn exchange(&self, vhost: &str, name: &str) -> Option<&Exchange> {
        self.vhosts.get(vhost)?.exchanges.get(name)
    }

    /// Passive declare.
    pub fn check_declared(&self, vhost: &str, name: &str) -> Result<()> {
        not_default(name)?;
        self.check_exchange(vhost, name)
    }

    /// Declares. True: a commit must come before the answer.
    pub fn declare_exchange(&mut self, vhost: &Arc<str>, ask: ExchangeDeclare) -> Result<bool> {
        let name = ask.name.as_str();
        not_default(name)?;
        // Before anything else, as in RabbitMQ.
        if !Exchange::has_type(&ask.kind) {
            let detail = format!("unknown exchange type '{}'", ask.kind);
            return Err(failed(Noun::Exchange, name, detail));
        }
        if let Some(known) = self.exchange(vhost, name) {
            same_exchange(&known.spec, &ask)?;
            return Ok(false);
        }
        if name.starts_with("amq.") {
            let detail = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(refused(Noun::Exchange, name, detail));
        }
        let spec = ExchangeSpec {
            vhost: vhost.clone(),
            name: name.into(),
            kind: ask.kind.clone(),
            durable: ask.durable,
            auto_delete: ask.auto_delete,
            internal: ask.internal,
            arguments: ask.arguments.encode(),
        };
        let mut exchange =
            Exchange::new(spec).map_err(|detail| failed(Noun::Exchange, name, detail))?;
        self.check_keys(&exchange)?;
        exchange.alternate = self.effective_alternate(&exchange.spec);
        if ask.durable {
            let spec = exchange.spec.clone();
            self.pending
                .definitions
                .push(DefinitionChange::PutExchange(spec));
        }
        let mut keepers = Vec::new();
        if exchange.delays() {
            keepers.push(delay::queue_name(name));
        }
        if exchange.wants_key_queue() {
            keepers.push(duplicates::queue_name(name));
        }
        if let Some(names) = self.vhosts.get_mut(vhost) {
            names.exchanges.insert(exchange.spec.name.clone(), exchange);
            names.forget_routes();
        }
        for name in keepers {
            let keeper = QueueDeclare {
                name,
                durable: ask.durable,
                ..QueueDeclare::default()
            };
            self.create_queue(vhost, &keeper, false)?;
        }
        Ok(ask.durable)
    }

    /// Exchanges of a store from before keys went to the disk get the queues for theirs.
    pub(crate) fn keep_keys(&mut self) {
        let without =
            |exchange: &&Exchange| exchange.wants_key_queue() && exchange.key_queue().is_none();
        let exchanges = self.vhosts.values().flat_map(|it| it.exchanges.values());
        let specs = exchanges.filter(without).map(|exchange| &exchange.spec);
        let all: Vec<_> = specs
            .map(|it| (it.vhost.clone(), it.name.clone()))
            .collect();
        for (vhost, name) in all {
            let keeper = QueueDeclare {
                name: duplicates::queue_name(&name),
                durable: true,
                ..QueueDeclare::default()
            };
            if let Err(error) = self.create_queue(&vhost, &keeper, false) {
                tracing::error!(%error, exchange = %name, "its keys stay in memory");
            }
        }
    }

    /// What exchanges remember of messages to know them again lies in memory, which has an end.
    fn check_keys(&self, new: &Exchange) -> Result<()> {
        if new.keys_max() == 0 {
            return Ok(());
        }
        let all = self
            .vhosts
            .values()
            .flat_map(|vhost| vhost.exchanges.values());
        let taken: usize = all.map(Exchange::keys_max).sum();
        let left = ALL_KEYS_MAX.saturating_sub(taken);
        if new.keys_max() <= left {
            return Ok(());
        }
        let (name, vhost) = (&new.spec.name, &new.spec.vhost);
        let detail = format!(
            "invalid arg 'x-cache-size' for exchange '{name}' in vhost '{vhost}': of the \
             {ALL_KEYS_MAX} keys of a node {left} are left"
        );
        Err(failed(Noun::Exchange, name, detail))
    }

    /// Deletes; a missing exchange is no error.
    pub fn delete_exchange(
        &mut self,
        vhost: &Arc<str>,
        name: &str,
        if_unused: bool,
    ) -> Result<bool> {
        not_default(name)?;
        if name.starts_with("amq.") {
            let detail =
                format!("deletion of system exchange '{name}' in vhost '{vhost}' not allowed");
            return Err(refused(Noun::Exchange, name, detail));
        }
        let Some(known) = self.exchange(vhost, name) else {
            return Ok(false);
        };
        if if_unused && !known.is_unused() {
            let detail = format!("exchange '{name}' in vhost '{vhost}' in use");
            return Err(failed(Noun::Exchange, name, detail));
        }
        let durable = known.spec.durable;
        self.remove_exchange(vhost, name);
        Ok(durable)
    }

    fn remove_exchange(&mut self, vhost: &str, name: &str) {
        let mut going: Vec<Arc<str>> = vec![name.into()];
        while let Some(name) = going.pop() {
            let Some(names) = self.vhosts.get_mut(vhost) else {
                return;
            };
            let Some((exchange, from)) = names.remove(&name) else {
                continue;
            };
            let into = names.unbind_all(&Target::Exchange(name));
            for keeper in exchange
                .delay_queue()
                .into_iter()
                .chain(exchange.key_queue())
            {
                self.drop_queue(keeper);
            }
            going.extend(self.emptied(vhost, &into));
            self.forget_bindings(from);
            self.forget_bindings(into);
            if exchange.spec.durable {
                let (vhost, name) = (exchange.spec.vhost, exchange.spec.name);
                self.pending
                    .definitions
                    .push(DefinitionChange::DeleteExchange { vhost, name });
            }
        }
        self.writer.notify_one();
    }

    /// Auto-delete exchanges that lost their last binding with these.
    fn emptied(&self, vhost: &str, lost: &[Arc<BindingSpec>]) -> Vec<Arc<str>> {
        let mut out: Vec<Arc<str>> = lost
            .iter()
            .filter_map(|binding| self.exchange(vhost, &binding.source))
            .filter(|exchange| exchange.spec.auto_delete && exchange.is_unused())
            .map(|exchange| exchange.spec.name.clone())
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Removed bindings leave the store, too; one that was never there is no error.
    fn forget_bindings(&mut self, gone: Vec<Arc<BindingSpec>>) {
        let changes = gone.into_iter().map(Arc::unwrap_or_clone);
        self.pending
            .definitions
            .extend(changes.map(DefinitionChange::DeleteBinding));
    }

    /// Binds. True: a commit must come before the answer.
    pub fn bind(&mut self, mut spec: BindingSpec) -> Result<bool> {
        self.check_ends(&spec)?;
        sort_arguments(&mut spec);
        if let Some(exchange) = self.exchange(&spec.vhost, &spec.source) {
            let checked = exchange.check(&spec);
            checked.map_err(|detail| failed(Noun::Binding, &spec.source, detail))?;
        }
        let durable = self.is_durable(&spec);
        let Some(names) = self.vhosts.get_mut(&spec.vhost) else {
            return Ok(false);
        };
        if !names.bind(spec.clone()) {
            return Ok(false);
        }
        self.tell_history(&spec);
        if durable {
            self.pending
                .definitions
                .push(DefinitionChange::PutBinding(spec));
        }
        Ok(durable)
    }

    /// Whoever binds to an exchange that remembers gets what it remembers.
    fn tell_history(&mut self, binding: &BindingSpec) {
        let exchange = self.exchange(&binding.vhost, &binding.source);
        let messages = exchange.map(Exchange::history).unwrap_or_default();
        for block in messages {
            match binding.destination_kind {
                DestinationKind::Queue => {
                    if let Ok(id) = self.find(&binding.vhost, &binding.destination) {
                        self.append_all(&[id], None, &block, (0, 1), 0);
                    }
                }
                DestinationKind::Exchange => {
                    self.pass_on(&binding.vhost, &binding.destination, &block);
                }
            }
        }
    }

    /// Unbinds; a binding that is not there is no error.
    pub fn unbind(&mut self, spec: &BindingSpec) -> Result<bool> {
        check_default(spec)?;
        let mut spec = spec.clone();
        sort_arguments(&mut spec);
        let durable = self.is_durable(&spec);
        let names = self.vhosts.get_mut(&spec.vhost);
        if !names.is_some_and(|names| names.unbind(&spec)) {
            return Ok(false);
        }
        let lost = Arc::new(spec);
        for name in self.emptied(&lost.vhost, std::slice::from_ref(&lost)) {
            self.remove_exchange(&lost.vhost, &name);
        }
        if durable {
            self.forget_bindings(vec![lost]);
        }
        Ok(durable)
    }

    fn check_ends(&self, spec: &BindingSpec) -> Result<()> {
        check_default(spec)?;
        match spec.destination_kind {
            DestinationKind::Queue => {
                self.find(&spec.vhost, &spec.destination)?;
            }
            DestinationKind::Exchange => self.check_exchange(&spec.vhost, &spec.destination)?,
        }
        self.check_exchange(&spec.vhost, &spec.source)
    }

    pub(crate) fn is_durable(&self, spec: &BindingSpec) -> bool {
        let exchange = |name: &str| {
            self.exchange(&spec.vhost, name)
                .is_some_and(|exchange| exchange.spec.durable)
        };
        let destination = match spec.destination_kind {
            DestinationKind::Queue => self
                .find(&spec.vhost, &spec.destination)
                .ok()
                .and_then(|id| self.queues.get(&id))
                .is_some_and(|queue| queue.spec.durable),
            DestinationKind::Exchange => exchange(&spec.destination),
        };
        destination && exchange(&spec.source)
    }

    /// The queue is gone: so are its name and its bindings.
    pub(crate) fn remove_names(&mut self, spec: &QueueSpec) {
        let Some(names) = self.vhosts.get_mut(&spec.vhost) else {
            return;
        };
        names.queues.remove(&spec.name);
        let gone = names.unbind_all(&Target::Queue(spec.id));
        for name in self.emptied(&spec.vhost, &gone) {
            self.remove_exchange(&spec.vhost, &name);
        }
        self.forget_bindings(gone);
    }
}

fn not_default(name: &str) -> Result<()> {
    if name.is_empty() {
        let detail = "operation not permitted on the default exchange".to_owned();
        return Err(refused(Noun::Exchange, name, detail));
    }
    Ok(())
}

fn check_default(spec: &BindingSpec) -> Result<()> {
    not_default(&spec.source)?;
    match spec.destination_kind {
        DestinationKind::Queue => Ok(()),
        DestinationKind::Exchange => not_default(&spec.destination),
    }
}

/// The order of arguments is no part of a binding's identity.
fn sort_arguments(spec: &mut BindingSpec) {
    if spec.arguments.is_empty() {
        return;
    }
    if let Ok(mut table) = Table::parse(&spec.arguments) {
        table.0.sort_by(|(left, _), (right, _)| left.cmp(right));
        spec.arguments = table.encode();
    }
}

fn same_exchange(known: &ExchangeSpec, ask: &ExchangeDeclare) -> Result<()> {
    let (name, vhost) = (ask.name.as_str(), &*known.vhost);
    let differs = |argument: &str, received: &str, current: &str| {
        let detail = format!(
            "inequivalent arg '{argument}' for exchange '{name}' in vhost '{vhost}': received \
             '{received}' but current is '{current}'"
        );
        Err(failed(Noun::Exchange, name, detail))
    };
    if known.kind != ask.kind {
        return differs("type", &ask.kind, &known.kind);
    }
    for (argument, received, current) in [
        ("durable", ask.durable, known.durable),
        ("auto_delete", ask.auto_delete, known.auto_delete),
        ("internal", ask.internal, known.internal),
    ] {
        if received != current {
            return differs(argument, &received.to_string(), &current.to_string());
        }
    }
    let current = Table::parse(&known.arguments).unwrap_or_default();
    let noun = Noun::Exchange;
    same_arguments(noun, name, vhost, &ask.arguments, &current, &COMPARED)
}
