//! Policies and operator policies, laid on live queues and exchanges.
//!
//! Keeps: a change holds at once for what exists; a removed policy leaves nothing behind.

use amqp::field::{Table, Value};

use super::*;
use crate::policy::{Subject, compile, effective};
use crate::topology::arguments::Arguments;

impl Shard {
    /// Adds or replaces a policy.
    ///
    /// # Errors
    /// `NotFound` without the vhost, `PreconditionFailed` when it cannot be used.
    pub fn put_policy(&mut self, policy: PolicySpec) -> Result<()> {
        let vhost = policy.vhost.clone();
        self.keep_policy(policy)?;
        self.apply_policies(&vhost);
        Ok(())
    }

    /// As `put_policy`, for several at a time: the caller applies them when all are there.
    pub(super) fn keep_policy(&mut self, policy: PolicySpec) -> Result<()> {
        self.need_vhost(&policy.vhost)?;
        check_policy(&policy)?;
        self.policies.put(policy.clone())?;
        self.change(AccessChange::PutPolicy(policy));
        Ok(())
    }

    /// # Errors
    /// `NotFound`.
    pub fn delete_policy(&mut self, kind: PolicyKind, vhost: &str, name: &str) -> Result<()> {
        self.need_vhost(vhost)?;
        if !self.policies.remove(kind, vhost, name) {
            let noun = match kind {
                PolicyKind::User => Noun::Policy,
                PolicyKind::Operator => Noun::OperatorPolicy,
            };
            return Err(missing(noun, name));
        }
        let vhost: Arc<str> = vhost.into();
        self.change(AccessChange::DeletePolicy {
            kind,
            vhost: vhost.clone(),
            name: name.into(),
        });
        self.apply_policies(&vhost);
        Ok(())
    }

    /// By vhost, users' before operators', the highest priority first.
    pub fn policies(&self) -> impl Iterator<Item = &PolicySpec> {
        self.policies.iter()
    }

    /// What holds for a queue: what it was declared with, and its policies. A policy that makes
    /// no sense together with the declaration leaves the declaration alone.
    pub(crate) fn effective_arguments(&self, queue: &QueueSpec, declared: &Table) -> Arguments {
        let work = queue.work || self.options.work_rules_all;
        let subject = Subject::queue(declared);
        let holding = |kind| {
            let found = self
                .policies
                .holding(kind, &queue.vhost, &queue.name, subject);
            found.map(|policy| &policy.definition)
        };
        let table = effective(
            declared,
            holding(PolicyKind::User),
            holding(PolicyKind::Operator),
        );
        let parsed = Arguments::parse(&table, work).or_else(|(argument, reason)| {
            tracing::warn!(
                queue = &*queue.name,
                argument,
                reason,
                "the policy does not fit the queue and is left out"
            );
            Arguments::parse(declared, work)
        });
        parsed.unwrap_or_default()
    }

    /// What happens to an exchange's unroutable messages: its argument, else its policy.
    pub(crate) fn effective_alternate(&self, exchange: &ExchangeSpec) -> Option<String> {
        let declared = Table::parse(&exchange.arguments).unwrap_or_default();
        let policy = self.policies.holding(
            PolicyKind::User,
            &exchange.vhost,
            &exchange.name,
            Subject::Exchange,
        );
        let policy = policy.and_then(|policy| policy.definition.find("alternate-exchange"));
        let own = declared.find("alternate-exchange");
        own.or(policy).and_then(Value::as_text).map(str::to_owned)
    }

    /// The vhost's policies changed.
    pub(super) fn apply_policies(&mut self, vhost: &Arc<str>) {
        let Some(names) = self.vhosts.get(vhost) else {
            return;
        };
        let exchanges: Vec<_> = names
            .exchanges
            .values()
            .map(|known| {
                (
                    known.spec.name.clone(),
                    self.effective_alternate(&known.spec),
                )
            })
            .collect();
        let queues: Vec<QueueId> = names.queues.values().copied().collect();
        if let Some(names) = self.vhosts.get_mut(vhost) {
            for (name, alternate) in exchanges {
                if let Some(exchange) = names.exchanges.get_mut(&name) {
                    exchange.alternate = alternate;
                }
            }
            names.forget_routes();
        }
        for id in queues {
            let Some(queue) = self.queues.get(&id) else {
                continue;
            };
            let declared = Table::parse(&queue.spec.arguments).unwrap_or_default();
            let arguments = self.effective_arguments(&queue.spec, &declared);
            self.apply_arguments(id, arguments);
        }
    }
}

pub(super) fn check_policy(policy: &PolicySpec) -> Result<()> {
    if policy.name.is_empty() {
        return Err(invalid(Noun::Policy, "", "a policy needs a name"));
    }
    compile(policy.clone()).map(drop)
}
