//! Everything that is declared and defined, taken in and given out as one.
//!
//! Keeps: an import enters one commit whole, or changes nothing; what exists already as a queue or
//! an exchange stays as it is, as in RabbitMQ; rows about people and places replace older ones.
//! Never: the form of a file; `gateway::definitions` reads and writes it.

use std::collections::BTreeSet;

use amqp::field::Table;

use super::users::{check_limit, check_permission, check_topic_permission, check_user};
use super::*;
use crate::administration::policies::check_policy;
use crate::administration::vhosts::check_parameter;
use crate::definitions::{ExchangeDeclare, QueueDeclare};

/// A durable queue as a definition.
#[derive(Clone, Debug)]
pub struct QueueDefinition {
    pub vhost: Arc<str>,
    pub declare: QueueDeclare,
    /// The work rules hold although no argument says so.
    pub work: bool,
}

/// A durable exchange as a definition.
#[derive(Clone, Debug)]
pub struct ExchangeDefinition {
    pub vhost: Arc<str>,
    pub declare: ExchangeDeclare,
}

/// A node's definitions, or one vhost's.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    pub vhosts: Vec<VhostSpec>,
    pub users: Vec<UserSpec>,
    pub permissions: Vec<PermissionSpec>,
    pub topic_permissions: Vec<TopicPermissionSpec>,
    pub parameters: Vec<ParameterSpec>,
    pub policies: Vec<PolicySpec>,
    pub limits: Vec<LimitSpec>,
    pub exchanges: Vec<ExchangeDefinition>,
    pub queues: Vec<QueueDefinition>,
    pub bindings: Vec<BindingSpec>,
}

/// What an import did, to be undone when a later step is refused.
enum Done {
    Vhost(Arc<str>),
    Exchange(Arc<str>, String),
    Queue(QueueId),
    Binding(BindingSpec),
}

impl Shard {
    /// Takes all in, or nothing. Answers the bindings that were left out because an end is not
    /// there, with the reason: RabbitMQ 3.10 exports bindings of internal exchanges without these.
    ///
    /// # Errors
    /// Whatever the first object that cannot be taken was refused for; it is named.
    pub fn import(&mut self, all: Definitions) -> Result<Vec<(BindingSpec, Error)>> {
        self.judge(&all)?;
        let mut done = Vec::new();
        let left_out = match self.declare_all(&all, &mut done) {
            Ok(left_out) => left_out,
            Err(error) => {
                for step in done.into_iter().rev() {
                    self.undo(step);
                }
                return Err(error);
            }
        };
        for vhost in all.vhosts {
            self.put_vhost(vhost)?;
        }
        for user in all.users {
            self.put_user(user)?;
        }
        for permission in all.permissions {
            self.put_permission(permission)?;
        }
        for topic in all.topic_permissions {
            self.put_topic_permission(topic)?;
        }
        for parameter in all.parameters {
            self.put_parameter(parameter)?;
        }
        for limit in all.limits {
            self.put_limit(limit)?;
        }
        let places: BTreeSet<Arc<str>> = all.policies.iter().map(|p| p.vhost.clone()).collect();
        for policy in all.policies {
            self.keep_policy(policy)?;
        }
        places.iter().for_each(|vhost| self.apply_policies(vhost));
        Ok(left_out)
    }

    /// Everything that needs no object to be judged.
    fn judge(&self, all: &Definitions) -> Result<()> {
        let vhosts: BTreeSet<&str> = all.vhosts.iter().map(|row| &*row.name).collect();
        let users: BTreeSet<&str> = all.users.iter().map(|row| &*row.name).collect();
        let need_vhost = |name: &str| match vhosts.contains(name) {
            true => Ok(()),
            false => self.need_vhost(name),
        };
        let need_user = |name: &str| match users.contains(name) {
            true => Ok(()),
            false => self.need_user(name),
        };
        if vhosts.contains("") {
            return Err(invalid(Noun::Vhost, "", "a vhost needs a name"));
        }
        all.users.iter().try_for_each(check_user)?;
        for row in &all.permissions {
            need_vhost(&row.vhost)?;
            need_user(&row.user)?;
            check_permission(row)?;
        }
        for row in &all.topic_permissions {
            need_vhost(&row.vhost)?;
            need_user(&row.user)?;
            check_topic_permission(row)?;
        }
        for row in &all.parameters {
            if !row.vhost.is_empty() {
                need_vhost(&row.vhost)?;
            }
            check_parameter(row)?;
        }
        for row in &all.policies {
            need_vhost(&row.vhost)?;
            check_policy(row)?;
        }
        for row in &all.limits {
            match row.of {
                LimitOf::Vhost => need_vhost(&row.subject)?,
                LimitOf::User => need_user(&row.subject)?,
            }
            check_limit(row)?;
        }
        Ok(())
    }

    fn declare_all(
        &mut self,
        all: &Definitions,
        done: &mut Vec<Done>,
    ) -> Result<Vec<(BindingSpec, Error)>> {
        for vhost in &all.vhosts {
            if !self.has_vhost(&vhost.name) {
                self.put_vhost(vhost.clone())?;
                done.push(Done::Vhost(vhost.name.clone()));
            }
        }
        for ExchangeDefinition { vhost, declare } in &all.exchanges {
            self.need_vhost(vhost)?;
            if self.check_exchange(vhost, &declare.name).is_err() {
                self.declare_exchange(vhost, declare.clone())?;
                done.push(Done::Exchange(vhost.clone(), declare.name.clone()));
            }
        }
        for queue in &all.queues {
            self.need_vhost(&queue.vhost)?;
            if queue.declare.name.is_empty() {
                return Err(invalid(Noun::Queue, "", "a queue needs a name"));
            }
            if !self.has_queue(&queue.vhost, &queue.declare.name) {
                let id = self.create_queue(&queue.vhost, &queue.declare, queue.work)?;
                done.push(Done::Queue(id));
            }
        }
        let mut left_out = Vec::new();
        for binding in &all.bindings {
            self.need_vhost(&binding.vhost)?;
            match self.bind(binding.clone()) {
                Ok(true) => done.push(Done::Binding(binding.clone())),
                Ok(false) => {}
                Err(error @ Error::NotFound { .. }) => left_out.push((binding.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok(left_out)
    }

    fn undo(&mut self, step: Done) {
        // Each was done a moment ago: there is nothing to refuse.
        match step {
            Done::Vhost(name) => drop(self.delete_vhost(&name)),
            Done::Exchange(vhost, name) => drop(self.delete_exchange(&vhost, &name, false)),
            Done::Queue(id) => drop(self.drop_queue(id)),
            Done::Binding(binding) => drop(self.unbind(&binding)),
        }
    }

    /// The definitions of the node, or of one vhost and nothing beside it.
    pub fn export(&self, only: Option<&str>) -> Definitions {
        let book = &self.directory;
        let meant = |vhost: &str| only.is_none_or(|name| name == vhost);
        let whole = only.is_none();
        let (exchanges, bindings) = self.declared(&meant);
        Definitions {
            vhosts: rows(book.vhosts.values(), |_| whole),
            users: rows(book.users.values(), |_| whole),
            permissions: rows(book.permissions.values(), |_| whole),
            topic_permissions: rows(book.topic_permissions.values(), |_| whole),
            parameters: rows(book.parameters.values(), |row| meant(&row.vhost)),
            policies: rows(self.policies.iter(), |row| meant(&row.vhost)),
            limits: rows(book.limits.values(), |row| {
                whole || row.of == LimitOf::Vhost && meant(&row.subject)
            }),
            queues: self.durable_queues(&meant),
            exchanges,
            bindings,
        }
    }

    fn durable_queues(&self, meant: &impl Fn(&str) -> bool) -> Vec<QueueDefinition> {
        let names = self.vhosts.iter().filter(|(vhost, _)| meant(vhost));
        let ids = names.flat_map(|(_, names)| names.queues.values());
        let queues = ids.filter_map(|id| self.queues.get(id));
        let durable = queues.map(|queue| &queue.spec).filter(|spec| spec.durable);
        let mut durable: Vec<_> = durable.collect();
        durable.sort_by_key(|spec| (&spec.vhost, &spec.name));
        durable
            .into_iter()
            .map(|spec| QueueDefinition {
                vhost: spec.vhost.clone(),
                work: spec.work,
                declare: QueueDeclare {
                    name: spec.name.to_string(),
                    durable: true,
                    auto_delete: spec.auto_delete,
                    arguments: Table::parse(&spec.arguments).unwrap_or_default(),
                    ..QueueDeclare::default()
                },
            })
            .collect()
    }

    fn declared(
        &self,
        meant: &impl Fn(&str) -> bool,
    ) -> (Vec<ExchangeDefinition>, Vec<BindingSpec>) {
        let (mut exchanges, mut bindings) = (Vec::new(), Vec::new());
        for (vhost, names) in self.vhosts.iter().filter(|(vhost, _)| meant(vhost)) {
            for exchange in names.exchanges.values().filter(|known| known.spec.durable) {
                let spec = &exchange.spec;
                let durable = exchange.bindings().filter(|spec| self.is_durable(spec));
                let mut durable: Vec<_> = durable.map(|spec| (**spec).clone()).collect();
                durable.sort_by_cached_key(|spec| {
                    (
                        spec.destination.clone(),
                        spec.routing_key.clone(),
                        spec.arguments.clone(),
                    )
                });
                bindings.append(&mut durable);
                if spec.name.is_empty() || spec.name.starts_with("amq.") {
                    continue;
                }
                exchanges.push(ExchangeDefinition {
                    vhost: vhost.clone(),
                    declare: ExchangeDeclare {
                        name: spec.name.to_string(),
                        kind: spec.kind.clone(),
                        durable: true,
                        auto_delete: spec.auto_delete,
                        internal: spec.internal,
                        arguments: Table::parse(&spec.arguments).unwrap_or_default(),
                    },
                });
            }
        }
        (exchanges, bindings)
    }
}

fn rows<'a, T: Clone + 'a>(all: impl Iterator<Item = &'a T>, meant: impl Fn(&T) -> bool) -> Vec<T> {
    all.filter(|row| meant(row)).cloned().collect()
}
