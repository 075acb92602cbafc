//! The headers exchange: bindings found by one of the pairs they ask for. Pure.
//!
//! Keeps: only bindings that share a pair with the message are looked at closely.
//! In: `Router`.
//! RabbitMQ: `x-match` is `all` (default), `any`, `all-with-x` or `any-with-x`; without `-with-x`
//! keys that begin with `x-` are ignored; a void value asks for the header's presence.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use amqp::field::{Table, Value};
use foldhash::fast::RandomState;

use super::equal;
use super::target::{Found, Target};
use crate::definitions::{kind_of, plain};
use crate::model::BindingSpec;

struct Rule {
    any: bool,
    wanted: Vec<(Vec<u8>, Value)>,
    target: Target,
    /// Under which marks the rule is found; none for one that matches whatever comes.
    marks: Vec<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Headers {
    rules: HashMap<u64, Rule, RandomState>,
    numbers: HashMap<Arc<BindingSpec>, u64, RandomState>,
    last: u64,
    by_mark: HashMap<Vec<u8>, BTreeSet<u64>, RandomState>,
    /// Rules that ask for nothing: they match every message.
    always: BTreeSet<u64>,
}

impl Headers {
    pub(super) fn add(&mut self, spec: &Arc<BindingSpec>, target: &Target) {
        let (any, wanted) = wanted(&Table::parse(&spec.arguments).unwrap_or_default());
        let mut marks: Vec<Vec<u8>> = wanted
            .iter()
            .map(|(name, value)| mark(name, value))
            .collect();
        let others = |mark: &Vec<u8>| self.by_mark.get(mark).map_or(0, BTreeSet::len);
        if !any && let Some(rarest) = marks.iter().min_by_key(|mark| others(mark)).cloned() {
            // All pairs must be there, so that looking under one of them is enough.
            marks = vec![rarest];
        }
        self.last += 1;
        let number = self.last;
        for mark in &marks {
            self.by_mark.entry(mark.clone()).or_default().insert(number);
        }
        if !any && marks.is_empty() {
            self.always.insert(number);
        }
        let target = target.clone();
        self.numbers.insert(spec.clone(), number);
        self.rules.insert(
            number,
            Rule {
                any,
                wanted,
                target,
                marks,
            },
        );
    }

    pub(super) fn remove(&mut self, spec: &BindingSpec) {
        let Some(number) = self.numbers.remove(spec) else {
            return;
        };
        let Some(rule) = self.rules.remove(&number) else {
            return;
        };
        self.always.remove(&number);
        for mark in rule.marks {
            if let Some(numbers) = self.by_mark.get_mut(&mark) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_mark.remove(&mark);
                }
            }
        }
    }

    pub(super) fn find(&self, headers: &Table, found: &mut Found) {
        let mut candidates: Vec<u64> = self.always.iter().copied().collect();
        for (name, value) in &headers.0 {
            for mark in [mark(name, value), mark(name, &Value::Void)] {
                candidates.extend(self.by_mark.get(&mark).into_iter().flatten());
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        for number in candidates {
            if let Some(rule) = self.rules.get(&number)
                && rule.matches(headers)
            {
                found.add(&rule.target);
            }
        }
    }
}

impl Rule {
    fn matches(&self, headers: &Table) -> bool {
        let holds = |(name, value): &(Vec<u8>, Value)| {
            let same = headers.0.iter().find(|(key, _)| key == name);
            same.is_some_and(|(_, found)| matches!(value, Value::Void) || equal(value, found))
        };
        if self.any {
            self.wanted.iter().any(holds)
        } else {
            self.wanted.iter().all(holds)
        }
    }
}

/// # Errors
/// RabbitMQ's words against an `x-match` that is none.
pub(super) fn check(arguments: &[u8]) -> Result<(), String> {
    let table = Table::parse(arguments).unwrap_or_default();
    let Some(value) = table.find("x-match") else {
        return Ok(());
    };
    match value.as_text() {
        Some("all" | "any" | "all-with-x" | "any-with-x") => Ok(()),
        Some(other) => Err(format!(
            "Invalid x-match field value {other}; expected all, any, all-with-x, or any-with-x"
        )),
        None => Err(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            kind_of(value),
            plain(value)
        )),
    }
}

/// Whether one pair is enough, and the pairs that count.
fn wanted(arguments: &Table) -> (bool, Vec<(Vec<u8>, Value)>) {
    let mode = arguments
        .find("x-match")
        .and_then(Value::as_text)
        .unwrap_or("all");
    let with_x = mode.ends_with("-with-x");
    let counts = |name: &[u8]| name != b"x-match" && (with_x || !name.starts_with(b"x-"));
    let pairs = arguments.0.iter().filter(|(name, _)| counts(name));
    (mode.starts_with("any"), pairs.cloned().collect())
}

/// One text for all pairs that are equal: integers by value, whatever their width.
fn mark(name: &[u8], value: &Value) -> Vec<u8> {
    let mut out = vec![name.len() as u8];
    out.extend_from_slice(name);
    match (value, value.as_i64()) {
        (Value::Void, _) => out.push(b'?'),
        (_, Some(number)) => {
            out.push(b'#');
            out.extend_from_slice(&number.to_be_bytes());
        }
        (value, None) => {
            out.push(b'=');
            out.extend(Table(vec![(Vec::new(), value.clone())]).encode());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{DestinationKind, QueueId};

    fn spec(number: usize, arguments: &Table) -> Arc<BindingSpec> {
        Arc::new(BindingSpec {
            vhost: "/".into(),
            source: "h".into(),
            destination_kind: DestinationKind::Queue,
            destination: number.to_string().into(),
            routing_key: Vec::new(),
            arguments: arguments.encode(),
        })
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            (0i64..2).prop_map(Value::I64),
            (0i32..2).prop_map(Value::I32),
            Just(Value::text("t")),
            Just(Value::Void),
        ]
    }

    fn table(names: &'static [&'static str]) -> impl Strategy<Value = Table> {
        vec((proptest::sample::select(names), value()), 0..4).prop_map(|pairs| {
            let mut table = Table::default();
            pairs
                .into_iter()
                .for_each(|(name, value)| table.insert(name, value));
            table
        })
    }

    proptest! {
        #[test]
        fn the_index_hides_no_binding(
            bindings in vec((table(&["a", "b", "x-c"]), 0usize..5), 0..12),
            gone in vec(any::<prop::sample::Index>(), 0..6),
            messages in vec(table(&["a", "b", "x-c", "d"]), 1..8),
        ) {
            let mut headers = Headers::default();
            let mut all = Vec::new();
            for (number, (mut arguments, mode)) in bindings.into_iter().enumerate() {
                let modes = ["all", "any", "all-with-x", "any-with-x"];
                if let Some(mode) = modes.get(mode) {
                    arguments.insert("x-match", Value::text(mode));
                }
                let spec = spec(number, &arguments);
                headers.add(&spec, &Target::Queue(QueueId(number as u64)));
                all.push((spec, number as u64, arguments));
            }
            for index in gone {
                if !all.is_empty() {
                    let (spec, ..) = all.swap_remove(index.index(all.len()));
                    headers.remove(&spec);
                }
            }
            for message in messages {
                let mut found = Found::default();
                headers.find(&message, &mut found);
                found.queues.sort_unstable();
                let mut expected = Vec::new();
                for (_, number, arguments) in &all {
                    let (any, wanted) = wanted(arguments);
                    let target = Target::Queue(QueueId(*number));
                    let rule = Rule { any, wanted, target, marks: Vec::new() };
                    if rule.matches(&message) {
                        expected.push(QueueId(*number));
                    }
                }
                expected.sort_unstable();
                prop_assert_eq!(found.queues, expected);
            }
        }
    }
}
