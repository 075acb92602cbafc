//! Which policy holds for a queue or an exchange, and what it gives. Pure.
//!
//! Keeps: at most one policy and one operator policy hold for an object, the highest priority of
//! each; between equals, the first by name.
//! Never: an object; `Shard` asks again for each when a policy changes.
//! In: `administration::policies` (changes), `Shard` (declarations and changes).
//! RabbitMQ: rabbit_policy, rabbit_policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use amqp::field::Table;

use crate::access::Pattern;
use crate::error::Result;
use crate::model::{ApplyTo, PolicyKind, PolicySpec};

mod definition;
mod effective;

pub use definition::check;
pub use effective::effective;

/// What a policy is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Exchange,
    ClassicQueue,
    QuorumQueue,
}

impl Subject {
    /// A queue, by its `x-queue-type`.
    pub fn queue(declared: &Table) -> Self {
        let kind = declared.find("x-queue-type").and_then(|v| v.as_text());
        match kind {
            Some("quorum") => Self::QuorumQueue,
            _ => Self::ClassicQueue,
        }
    }

    fn is_meant(self, apply_to: ApplyTo) -> bool {
        match apply_to {
            ApplyTo::All => true,
            ApplyTo::Exchanges => self == Self::Exchange,
            ApplyTo::Queues => self != Self::Exchange,
            ApplyTo::ClassicQueues => self == Self::ClassicQueue,
            ApplyTo::QuorumQueues => self == Self::QuorumQueue,
            ApplyTo::Streams => false,
        }
    }
}

/// A policy ready to be asked.
pub struct Policy {
    pub spec: PolicySpec,
    pub definition: Table,
    pattern: Pattern,
}

/// All policies of a node.
#[derive(Default)]
pub struct Policies {
    /// By vhost and kind: the highest priority first, then by name.
    by_vhost: BTreeMap<(Arc<str>, PolicyKind), Vec<Policy>>,
}

impl Policies {
    /// Adds or replaces.
    ///
    /// # Errors
    /// `PreconditionFailed`: the pattern, a key or a value cannot be used.
    pub fn put(&mut self, spec: PolicySpec) -> Result<()> {
        let policy = compile(spec)?;
        let key = (policy.spec.vhost.clone(), policy.spec.kind);
        let list = self.by_vhost.entry(key).or_default();
        list.retain(|known| known.spec.name != policy.spec.name);
        list.push(policy);
        list.sort_by(|a, b| {
            let priority = b.spec.priority.cmp(&a.spec.priority);
            priority.then_with(|| a.spec.name.cmp(&b.spec.name))
        });
        Ok(())
    }

    /// True when it was there.
    pub fn remove(&mut self, kind: PolicyKind, vhost: &str, name: &str) -> bool {
        let Some(list) = self.by_vhost.get_mut(&(vhost.into(), kind)) else {
            return false;
        };
        let before = list.len();
        list.retain(|known| &*known.spec.name != name);
        before != list.len()
    }

    pub fn remove_vhost(&mut self, vhost: &str) {
        self.by_vhost.retain(|(at, _), _| &**at != vhost);
    }

    /// The one that holds.
    pub fn holding(
        &self,
        kind: PolicyKind,
        vhost: &Arc<str>,
        name: &str,
        subject: Subject,
    ) -> Option<&Policy> {
        if self.by_vhost.is_empty() {
            return None;
        }
        let list = self.by_vhost.get(&(vhost.clone(), kind))?;
        list.iter().find(|policy| {
            subject.is_meant(policy.spec.apply_to) && policy.pattern.is_match(name.as_bytes())
        })
    }

    /// By vhost, users' before operators', the highest priority first.
    pub fn iter(&self) -> impl Iterator<Item = &PolicySpec> {
        self.by_vhost.values().flatten().map(|policy| &policy.spec)
    }
}

/// # Errors
/// `PreconditionFailed`: the pattern, a key or a value cannot be used.
pub fn compile(spec: PolicySpec) -> Result<Policy> {
    let definition = check(&spec)?;
    let pattern = definition::pattern(&spec)?;
    Ok(Policy {
        spec,
        definition,
        pattern,
    })
}

#[cfg(test)]
mod tests {
    use amqp::field::Value;

    use super::*;

    fn policy(kind: PolicyKind, name: &str, pattern: &str, priority: i32) -> PolicySpec {
        let mut definition = Table::default();
        definition.insert("max-length", Value::I64(i64::from(priority)));
        PolicySpec {
            kind,
            vhost: "/".into(),
            name: name.into(),
            pattern: pattern.into(),
            apply_to: ApplyTo::All,
            priority,
            definition: definition.encode(),
        }
    }

    #[test]
    fn the_highest_priority_that_matches_holds() {
        let mut all = Policies::default();
        for (name, pattern, priority) in [("b", "^q", 1), ("a", "^q", 1), ("c", "^q1$", 5)] {
            let put = all.put(policy(PolicyKind::User, name, pattern, priority));
            assert_eq!(put, Ok(()));
        }
        let vhost: Arc<str> = "/".into();
        let holds = |all: &Policies, name: &str| {
            let found = all.holding(PolicyKind::User, &vhost, name, Subject::ClassicQueue);
            found.map(|policy| policy.spec.name.to_string())
        };
        assert_eq!(holds(&all, "q1").as_deref(), Some("c"));
        assert_eq!(holds(&all, "q2").as_deref(), Some("a"));
        assert_eq!(holds(&all, "x"), None);
        assert!(all.remove(PolicyKind::User, "/", "c"));
        assert!(!all.remove(PolicyKind::Operator, "/", "a"));
        assert_eq!(holds(&all, "q1").as_deref(), Some("a"));
        let other = all.holding(PolicyKind::Operator, &vhost, "q1", Subject::ClassicQueue);
        assert!(other.is_none());
    }

    #[test]
    fn apply_to_names_kinds_of_objects() {
        use Subject::{ClassicQueue, Exchange, QuorumQueue};
        for (apply_to, meant) in [
            (ApplyTo::All, vec![Exchange, ClassicQueue, QuorumQueue]),
            (ApplyTo::Exchanges, vec![Exchange]),
            (ApplyTo::Queues, vec![ClassicQueue, QuorumQueue]),
            (ApplyTo::ClassicQueues, vec![ClassicQueue]),
            (ApplyTo::QuorumQueues, vec![QuorumQueue]),
            (ApplyTo::Streams, vec![]),
        ] {
            for subject in [Exchange, ClassicQueue, QuorumQueue] {
                assert_eq!(subject.is_meant(apply_to), meant.contains(&subject));
            }
        }
    }
}
