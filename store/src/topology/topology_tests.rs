//! A vhost's names and bindings, through its public verbs.

use super::*;
use crate::model::ExchangeSpec;

pub(super) fn exchange(vhost: &mut Vhost, name: &str, kind: &str, alternate: Option<&str>) {
    let mut arguments = Table::default();
    if let Some(alternate) = alternate {
        arguments.insert("alternate-exchange", Value::text(alternate));
    }
    let spec = ExchangeSpec {
        vhost: "/".into(),
        name: name.into(),
        kind: kind.into(),
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: arguments.encode(),
    };
    let exchange = Exchange::new(spec).expect("a known type");
    vhost.exchanges.insert(name.into(), exchange);
    vhost.forget_routes();
}

pub(super) fn queue(vhost: &mut Vhost, number: u64) {
    vhost
        .queues
        .insert(format!("q{number}").into(), QueueId(number));
}

pub(super) fn binding(source: &str, destination: &str, key: &str) -> BindingSpec {
    let destination_kind = if destination.starts_with('q') {
        DestinationKind::Queue
    } else {
        DestinationKind::Exchange
    };
    BindingSpec {
        vhost: "/".into(),
        source: source.into(),
        destination_kind,
        destination: destination.into(),
        routing_key: key.as_bytes().to_vec(),
        arguments: Vec::new(),
    }
}

fn reached(vhost: &mut Vhost, exchange: &str, key: &str) -> Vec<u64> {
    let address = Address::new(exchange.as_bytes(), key.as_bytes());
    let mut block = Block::default();
    block.push(&address, &[0, 0], b"");
    let numbers = |queues: Queues| queues.as_slice().iter().map(|id| id.0).collect::<Vec<_>>();
    let looked = vhost.look(exchange, &Message::new(&block, 0, &[], Moment::default()));
    let looked = numbers(looked.expect("the exchange is there"));
    for asked in ["found out", "remembered"] {
        if let Some(queues) = vhost.way(&address).and_then(|way| way.queues) {
            assert_eq!(numbers(queues), looked, "{asked}");
        }
    }
    looked
}

#[test]
fn exchanges_lead_on_and_cycles_end() {
    let mut vhost = Vhost::default();
    (1..=4).for_each(|number| queue(&mut vhost, number));
    exchange(&mut vhost, "t", "topic", Some("spare"));
    exchange(&mut vhost, "f", "fanout", None);
    exchange(&mut vhost, "spare", "direct", Some("t"));
    for (source, destination, key) in [
        ("t", "f", "a.#"),
        ("f", "t", ""),
        ("f", "q1", ""),
        ("t", "q2", "a.b"),
        ("t", "q1", "a.b"),
        ("spare", "q3", "z"),
    ] {
        assert!(vhost.bind(binding(source, destination, key)));
    }
    assert!(!vhost.bind(binding("t", "q1", "a.b")), "it is there");
    assert_eq!(reached(&mut vhost, "t", "a.b"), [1, 2]);
    assert_eq!(reached(&mut vhost, "t", "z"), [3]);
    assert_eq!(reached(&mut vhost, "t", "y"), [0u64; 0]);
    assert_eq!(reached(&mut vhost, "", "q4"), [4]);
    assert!(vhost.unbind(&binding("f", "q1", "")));
    assert_eq!(reached(&mut vhost, "t", "a.c"), [0u64; 0]);
    let gone = vhost.unbind_all(&Target::Queue(QueueId(1)));
    assert_eq!(gone.len(), 1);
    assert_eq!(reached(&mut vhost, "t", "a.b"), [2]);
    let (_, gone) = vhost.remove("t").expect("it is there");
    assert_eq!(gone.len(), 2);
    let onward = vhost.unbind_all(&Target::Exchange("t".into()));
    assert_eq!(onward.len(), 1);
    assert_eq!(reached(&mut vhost, "spare", "y"), [0u64; 0]);
    assert!(vhost.way(&Address::new(b"t", b"a")).is_none());
}

#[test]
fn only_what_leads_to_headers_varies() {
    let mut vhost = Vhost::default();
    for (name, kind, alternate) in [
        ("h", "headers", None),
        ("plain", "fanout", None),
        ("near", "direct", Some("h")),
        ("far", "topic", None),
    ] {
        exchange(&mut vhost, name, kind, alternate);
    }
    let varies = |vhost: &mut Vhost, name: &str| {
        let way = vhost.way(&Address::new(name.as_bytes(), b"k"));
        way.is_some_and(|way| way.queues.is_none())
    };
    assert!(vhost.bind(binding("far", "near", "k")));
    for (name, expected) in [("plain", false), ("h", true), ("near", true), ("far", true)] {
        assert_eq!(varies(&mut vhost, name), expected, "{name}");
    }
    assert!(vhost.unbind(&binding("far", "near", "k")));
    assert!(!varies(&mut vhost, "far"), "it leads there no more");
}

/// A bound that only a quadratic algorithm misses, by far.

#[test]
fn many_bindings_come_and_go() {
    // Were one of these steps a search, the test would take minutes.
    const MANY: u64 = 40_000;
    for kind in ["direct", "topic", "fanout", "headers"] {
        let mut vhost = Vhost::default();
        exchange(&mut vhost, "x", kind, None);
        for number in 0..MANY {
            queue(&mut vhost, number);
            assert!(vhost.bind(binding("x", &format!("q{number}"), "same.#")));
            let key = format!("k.{number}");
            assert!(vhost.bind(binding("x", "q0", &key)));
        }
        for number in 0..MANY {
            vhost.unbind_all(&Target::Queue(QueueId(number)));
        }
        assert!(vhost.exchanges["x"].is_unused());
    }
}

/// How many of these messages each of four queues gets.
fn shares(kind: &str, keys: impl Iterator<Item = String>) -> [u32; 4] {
    let mut vhost = Vhost::default();
    exchange(&mut vhost, "x", kind, None);
    for number in 0..4 {
        queue(&mut vhost, number);
        assert!(vhost.bind(binding("x", &format!("q{number}"), "1")));
    }
    let mut shares = [0; 4];
    for (chance, key) in (0..).zip(keys) {
        let mut block = Block::default();
        block.push(&Address::new(b"x", key.as_bytes()), &[0, 0], b"");
        let moment = Moment { now: 0, chance };
        let found = vhost.look("x", &Message::new(&block, 0, &[], moment));
        let Some(Queues::One(id)) = found else {
            panic!("{kind} found {found:?}");
        };
        shares[id.0 as usize] += 1;
    }
    shares
}

#[test]
fn one_of_many_is_each_in_turn_or_by_key() {
    const MESSAGES: usize = 1000;
    let same = || std::iter::repeat_n("k".to_owned(), MESSAGES);
    let different = || (0..MESSAGES).map(|number| number.to_string());
    for kind in ["x-random", "x-local-random"] {
        let shares = shares(kind, same());
        assert!(shares.iter().all(|share| *share > 180), "{kind} {shares:?}");
    }
    for kind in ["x-modulus-hash", "x-consistent-hash"] {
        let spread = shares(kind, different());
        assert!(spread.iter().all(|share| *share > 180), "{kind} {spread:?}");
        let together = shares(kind, same());
        assert!(together.contains(&(MESSAGES as u32)), "{kind} {together:?}");
    }
}
