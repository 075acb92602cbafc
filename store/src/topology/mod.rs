//! Which queues does this message reach? Pure.
//!
//! Keeps: exchanges and bindings of one vhost; RabbitMQ's four exchange types and alternate
//! exchanges, each queue reached once however many ways lead there.
//! In: `shard` asks per (exchange, routing key) and caches the answer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use amqp::field::{Table, Value};

use crate::model::{BindingSpec, DestinationKind, ExchangeSpec, QueueId};

pub mod arguments;

pub struct Exchange {
    pub spec: ExchangeSpec,
    pub alternate: Option<String>,
    pub bindings: Vec<Binding>,
}

pub struct Binding {
    pub spec: BindingSpec,
    arguments: Table,
}

impl Binding {
    pub fn new(spec: BindingSpec) -> Self {
        let arguments = Table::parse(&spec.arguments).unwrap_or_default();
        Self { spec, arguments }
    }
}

/// One vhost's names.
#[derive(Default)]
pub struct Vhost {
    pub exchanges: BTreeMap<Arc<str>, Exchange>,
    pub queues: BTreeMap<Arc<str>, QueueId>,
}

impl Vhost {
    /// Queues that a message to `exchange` reaches; `None` when there is no such exchange.
    pub fn route(
        &self,
        exchange: &str,
        key: &[u8],
        headers: Option<&Table>,
    ) -> Option<Vec<QueueId>> {
        if exchange.is_empty() {
            let name = std::str::from_utf8(key).unwrap_or("");
            return Some(self.queues.get(name).copied().into_iter().collect());
        }
        self.exchanges.get(exchange)?;
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        self.walk(exchange, key, headers, &mut seen, &mut out);
        out.sort_unstable();
        out.dedup();
        Some(out)
    }

    fn walk<'a>(
        &'a self,
        name: &'a str,
        key: &[u8],
        headers: Option<&Table>,
        seen: &mut HashSet<&'a str>,
        out: &mut Vec<QueueId>,
    ) {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let Some(exchange) = self.exchanges.get(name).filter(|_| seen.insert(name)) else {
                continue;
            };
            let mut matched = false;
            for binding in &exchange.bindings {
                if !matches(&exchange.spec.kind, binding, key, headers) {
                    continue;
                }
                matched = true;
                match binding.spec.destination_kind {
                    DestinationKind::Queue => {
                        out.extend(self.queues.get(&binding.spec.destination));
                    }
                    DestinationKind::Exchange => open.push(&binding.spec.destination),
                }
            }
            if !matched && let Some(alternate) = &exchange.alternate {
                open.push(alternate);
            }
        }
    }

    /// True when routing through `exchange` may depend on more than the routing key.
    pub fn looks_at_headers(&self, exchange: &str) -> bool {
        !exchange.is_empty() && self.exchanges.values().any(|e| e.spec.kind == "headers")
    }
}

fn matches(kind: &str, binding: &Binding, key: &[u8], headers: Option<&Table>) -> bool {
    match kind {
        "fanout" => true,
        "topic" => topic(&binding.spec.routing_key, key),
        "headers" => headers_match(&binding.arguments, headers),
        _ => binding.spec.routing_key == key,
    }
}

/// `*` is one word, `#` zero or more; words are separated by dots and may be empty.
pub fn topic(pattern: &[u8], key: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = words(pattern);
    let key: Vec<&[u8]> = words(key);
    // Row by row, so that many `#` cost words × words and never more.
    let mut row = vec![false; key.len() + 1];
    row[0] = true;
    for part in pattern {
        let mut next = vec![false; key.len() + 1];
        if part == b"#" {
            let mut open = false;
            for (at, reached) in row.iter().enumerate() {
                open |= reached;
                next[at] = open;
            }
        } else {
            for at in 0..key.len() {
                next[at + 1] = row[at] && (part == b"*" || part == key[at]);
            }
        }
        row = next;
    }
    row[key.len()]
}

fn words(text: &[u8]) -> Vec<&[u8]> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split(|&byte| byte == b'.').collect()
    }
}

/// RabbitMQ's x-match: all (default), any, all-with-x, any-with-x; a void value asks for presence.
fn headers_match(arguments: &Table, headers: Option<&Table>) -> bool {
    let mode = arguments
        .find("x-match")
        .and_then(Value::as_text)
        .unwrap_or("all");
    let with_x = mode.ends_with("-with-x");
    let mut wanted = arguments
        .0
        .iter()
        .filter(|(key, _)| key != b"x-match" && (with_x || !key.starts_with(b"x-")));
    let holds = |(key, value): &(Vec<u8>, Value)| {
        let found = headers.and_then(|table| {
            table
                .0
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, found)| found)
        });
        found.is_some_and(|found| matches!(value, Value::Void) || equal(value, found))
    };
    if mode.starts_with("any") {
        wanted.any(holds)
    } else {
        wanted.all(holds)
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
mod tests {
    use super::*;

    #[test]
    fn topic_words() {
        for (pattern, key, expected) in [
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("*", "", false),
            ("#.b.#", "a.b.c", true),
            ("*.*", "a.", true),
            ("a.#.#.d", "a.d", true),
            ("a.b", "a.b.c", false),
        ] {
            assert_eq!(
                topic(pattern.as_bytes(), key.as_bytes()),
                expected,
                "{pattern} {key}"
            );
        }
    }
}
