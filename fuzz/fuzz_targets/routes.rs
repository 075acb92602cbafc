//! Bindings and messages: the index finds what a plain reading of the rules finds. Pure.
#![no_main]

use std::collections::BTreeSet;

use amqp::content::{Address, Block};
use amqp::field::{Table, Value};
use amqp::properties::Properties;
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use store::model::{BindingSpec, DestinationKind, ExchangeSpec, QueueId};
use store::topology::{Exchange, Message, Moment, Vhost};

const WORDS: [&str; 6] = ["a", "b", "", "*", "#", "long-word"];
const KINDS: [&str; 3] = ["topic", "headers", "direct"];
const MATCHES: [&str; 2] = ["all", "any"];
const NAMES: [&str; 3] = ["h", "i", "x-own"];

#[derive(Arbitrary, Debug)]
struct Binding {
    queue: u8,
    words: Vec<u8>,
    matching: u8,
    headers: Vec<(u8, Option<i8>)>,
    /// Taken away again.
    undone: bool,
}

#[derive(Arbitrary, Debug)]
struct Sent {
    words: Vec<u8>,
    headers: Vec<(u8, i8)>,
}

#[derive(Arbitrary, Debug)]
struct Case {
    kind: u8,
    bindings: Vec<Binding>,
    messages: Vec<Sent>,
}

fn key(words: &[u8]) -> String {
    let words = words.iter().take(12);
    let words = words.map(|at| WORDS[usize::from(*at) % WORDS.len()]);
    words.collect::<Vec<_>>().join(".")
}

fn table(binding: &Binding) -> Table {
    let mut table = Table::default();
    let matching = MATCHES[usize::from(binding.matching) % MATCHES.len()];
    table.insert("x-match", Value::text(matching));
    for (name, value) in binding.headers.iter().take(8) {
        let value = value.map_or(Value::Void, |value| Value::I32(value.into()));
        table.insert(NAMES[usize::from(*name) % NAMES.len()], value);
    }
    table
}

/// § 3.1.3.3, word by word.
fn topic(pattern: &[&str], words: &[&str]) -> bool {
    match (pattern.split_first(), words.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => (0..=words.len()).any(|skip| topic(rest, &words[skip..])),
        (Some((&"*", rest)), Some((_, words))) => topic(rest, words),
        (Some((word, rest)), Some((first, words))) => word == first && topic(rest, words),
        _ => false,
    }
}

/// Without `-with-x`, names that begin with `x-` do not count; no value stands for any.
fn headers(binding: &Table, message: &Table) -> bool {
    let any = binding.find("x-match") == Some(&Value::text("any"));
    let asked = binding
        .0
        .iter()
        .filter(|(name, _)| !name.starts_with(b"x-"));
    let mut found = asked.map(|(name, wanted)| {
        let given = message.0.iter().find(|(known, _)| known == name);
        given.is_some_and(|(_, given)| *wanted == Value::Void || wanted == given)
    });
    if any {
        found.any(|one| one)
    } else {
        found.all(|one| one)
    }
}

fn split(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

fn vhost(kind: &str) -> Vhost {
    let mut vhost = Vhost::default();
    for number in 0..4 {
        let name = format!("q{number}").into();
        vhost.queues.insert(name, QueueId(number + 1));
    }
    let spec = ExchangeSpec {
        vhost: "/".into(),
        name: "x".into(),
        kind: kind.into(),
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: Vec::new(),
    };
    let exchange = Exchange::new(spec).expect("a known type");
    vhost.exchanges.insert("x".into(), exchange);
    vhost.forget_routes();
    vhost
}

fn spec(binding: &Binding) -> BindingSpec {
    BindingSpec {
        vhost: "/".into(),
        source: "x".into(),
        destination_kind: DestinationKind::Queue,
        destination: format!("q{}", binding.queue % 4).into(),
        routing_key: key(&binding.words).into_bytes(),
        arguments: table(binding).encode(),
    }
}

fuzz_target!(|case: Case| {
    let kind = KINDS[usize::from(case.kind) % KINDS.len()];
    let mut vhost = vhost(kind);
    let bindings: Vec<&Binding> = case.bindings.iter().take(24).collect();
    for binding in &bindings {
        vhost.bind(spec(binding));
    }
    let undone: Vec<BindingSpec> = bindings
        .iter()
        .filter(|binding| binding.undone)
        .map(|binding| spec(binding))
        .collect();
    for spec in &undone {
        vhost.unbind(spec);
    }
    for sent in case.messages.iter().take(8) {
        let key = key(&sent.words);
        let mut given = Table::default();
        for (name, value) in sent.headers.iter().take(8) {
            given.insert(
                NAMES[usize::from(*name) % NAMES.len()],
                Value::I32((*value).into()),
            );
        }
        let properties = Properties {
            headers: Some(given.clone()),
            ..Properties::default()
        };
        let mut block = Block::default();
        block.push(
            &Address::new(b"x", key.as_bytes()),
            &properties.encode(),
            b"",
        );
        let message = Message::new(&block, 0, &[], Moment::default());
        let looked = vhost.look("x", &message).expect("the exchange is there");
        let found: BTreeSet<u64> = looked.as_slice().iter().map(|id| id.0).collect();
        assert_eq!(found.len(), looked.as_slice().len(), "a queue twice");
        let live = bindings
            .iter()
            .filter(|binding| !undone.contains(&spec(binding)));
        let due = live.filter(|binding| {
            let pattern = self::key(&binding.words);
            match kind {
                "topic" => topic(&split(&pattern), &split(&key)),
                "headers" => headers(&table(binding), &given),
                _ => pattern == key,
            }
        });
        let due: BTreeSet<u64> = due
            .map(|binding| u64::from(binding.queue % 4) + 1)
            .collect();
        assert_eq!(found, due, "{kind} {key}");
    }
});
