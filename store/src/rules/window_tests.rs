//! One window alone: its keys, its time, its room, and what a crash leaves of it.

use std::collections::HashMap;

use amqp::content::Address;
use amqp::field::{Table, Value};
use amqp::properties::Properties;
use proptest::prelude::*;

use super::*;

const SECOND: Micros = 1_000_000;

fn asked(span_ms: u64) -> Deduplication {
    Deduplication {
        header: HEADER.into(),
        span_ms,
    }
}

fn window(span_ms: u64) -> Window {
    Window::new(asked(span_ms), true, 7)
}

/// As a hash would be: all over the range.
fn hash(number: u64) -> Hash {
    let digest: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
    *digest.first_chunk().expect("32 bytes")
}

fn key_of(header: &str, headers: &[(&str, Value)], message_id: Option<&str>) -> Option<Hash> {
    let mut table = Table::default();
    for (name, value) in headers {
        table.insert(name, value.clone());
    }
    let properties = Properties {
        headers: (!headers.is_empty()).then_some(table),
        message_id: message_id.map(|id| id.as_bytes().to_vec()),
        ..Properties::default()
    };
    let mut block = Block::default();
    block.push(&Address::new(b"", b"q"), &properties.encode(), b"");
    let asked = Deduplication {
        header: header.into(),
        span_ms: SPAN_MIN_MS,
    };
    Window::new(asked, true, 1).key(&block, 0)
}

#[test]
fn the_named_header_comes_first_and_the_message_id_last() {
    let text = Value::text;
    let of = |id| key_of(HEADER, &[], Some(id));
    assert_eq!(key_of(HEADER, &[], None), None);
    assert_eq!(of(""), None, "an empty id is none");
    assert_ne!(of("a"), of("b"));
    assert_eq!(key_of(HEADER, &[(HEADER, text("a"))], Some("b")), of("a"));
    let both = [(HEADER, text("c")), ("order", text("a"))];
    assert_eq!(key_of("order", &both, Some("b")), of("a"));
    assert_eq!(key_of("order", &both[..1], Some("b")), of("c"));
    assert_eq!(key_of("order", &[("else", text("c"))], Some("b")), of("b"));
    assert_eq!(key_of(HEADER, &[(HEADER, Value::Void)], Some("b")), None);
}

#[test]
fn a_number_is_one_key_in_any_width_and_no_text() {
    let of = |value| key_of(HEADER, &[(HEADER, value)], None);
    let seven = of(Value::I64(7));
    for value in [Value::I8(7), Value::I32(7), Value::U16(7), Value::U32(7)] {
        assert_eq!(of(value), seven);
    }
    assert_eq!(of(Value::I8(-1)), of(Value::I64(-1)));
    assert_ne!(of(Value::I8(-1)), of(Value::U32(u32::MAX)));
    assert_ne!(of(Value::text("7")), seven);
    assert_ne!(of(Value::Bool(true)), of(Value::I8(1)));
}

#[test]
fn a_short_key_has_the_hash_of_a_long_one() {
    let value = [b'v'; 2 * SHORT];
    for len in 1..value.len() {
        let value = &value[..len];
        let whole = Sha256::new().chain_update(b"S").chain_update(value);
        let whole: [u8; 32] = whole.finalize().into();
        assert_eq!(super::hash(b'S', value), whole[..HASH], "{len} bytes");
    }
}

#[test]
fn a_key_is_free_after_its_window_and_not_before() {
    let mut window = window(1000);
    assert_eq!(window.admit(&hash(1), SECOND), Verdict::New);
    assert_eq!(
        window.admit(&hash(1), 2 * SECOND - 1000),
        Verdict::Duplicate
    );
    assert_eq!(window.admit(&hash(2), 2 * SECOND - 1000), Verdict::New);
    assert_eq!(window.admit(&hash(1), 2 * SECOND), Verdict::New);
    assert_eq!(
        window.admit(&hash(1), 3 * SECOND - 1000),
        Verdict::Duplicate
    );
}

#[test]
fn another_window_holds_for_known_keys_too() {
    let mut window = window(10_000);
    assert_eq!(window.admit(&hash(1), SECOND), Verdict::New);
    window.set(asked(1000));
    assert!(!window.is_known(&hash(1), 3 * SECOND));
    window.set(asked(60_000));
    assert!(window.is_known(&hash(1), 30 * SECOND));
}

#[test]
fn beyond_the_most_keys_new_ones_wait_for_old_ones_to_end() {
    let mut window = window(1000);
    window.most = 1000;
    for number in 0..1000 {
        let now = SECOND + number as Micros * 500;
        assert_eq!(window.admit(&hash(number), now), Verdict::New);
    }
    let now = SECOND + 500_000;
    assert!(!window.has_room(now));
    assert_eq!(window.admit(&hash(1000), now), Verdict::Full);
    assert_eq!(window.admit(&hash(1), now), Verdict::Duplicate);
    assert_eq!(window.count(), 1000);
    assert!(window.has_room(2 * SECOND + 10_000));
    assert_eq!(window.admit(&hash(1000), 2 * SECOND + 10_000), Verdict::New);
    assert!(window.count() <= 1000);
}

#[test]
fn a_key_costs_few_bytes_and_old_ones_make_room() {
    let mut window = window(60_000);
    for number in 0..300_000 {
        assert_eq!(window.admit(&hash(number), SECOND), Verdict::New);
    }
    let each = window.known.memory_bytes() / window.count();
    assert!(each <= 40, "{each} bytes a key");
    // Twenty windows' worth of keys take no more room than one's.
    let before = window.known.memory_bytes();
    for number in 300_000..2_000_000u64 {
        let now = SECOND + (number as Micros - 300_000) * 400;
        window.admit(&hash(number), now);
    }
    assert!(window.known.memory_bytes() <= before * 2);
}

#[test]
fn a_clock_that_was_wrong_holds_a_key_for_one_window() {
    let mut before = window(1000);
    assert_eq!(before.admit(&hash(1), 1_000_000 * SECOND), Verdict::New);
    let (newest, stored) = before.take_fresh().expect("a key");
    assert_eq!(newest, 1_000_000_000);
    assert!(before.take_fresh().is_none(), "taken once");
    let mut after = window(1000);
    after.restore(&stored, 50 * SECOND);
    assert!(after.is_known(&hash(1), 50 * SECOND));
    assert!(!after.is_known(&hash(1), 51 * SECOND));
}

#[test]
fn a_torn_record_is_left_out() {
    let mut before = window(1000);
    before.admit(&hash(1), SECOND);
    before.admit(&hash(2), SECOND);
    let (_, stored) = before.take_fresh().expect("keys");
    let mut after = window(1000);
    after.restore(&stored[..stored.len() - 1], SECOND);
    assert!(after.is_known(&hash(1), SECOND));
    assert!(!after.is_known(&hash(2), SECOND));
}

/// By hand: cargo test -p store --release -- --ignored --nocapture a_million_keys
#[test]
#[expect(clippy::print_stdout, reason = "the figures are the point")]
#[ignore = "measures"]
fn a_million_keys() {
    let headers = [(HEADER, Value::text("5f0c2a0e-6f0a-4f0e-9a55-0b6c41d8a3c1"))];
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        std::hint::black_box(key_of(HEADER, &headers, None));
    }
    println!("key with its message: {:?}", begun.elapsed() / 100);
    let keys: Vec<Hash> = (0..1_000_000).map(hash).collect();
    let mut before = window(60_000);
    let begun = std::time::Instant::now();
    let mut longest = std::time::Duration::ZERO;
    for key in &keys {
        let one = std::time::Instant::now();
        before.admit(key, SECOND);
        longest = longest.max(one.elapsed());
    }
    println!(
        "admit: {:?} each, longest {longest:?}",
        begun.elapsed() / 1_000_000
    );
    let (_, stored) = before.take_fresh().expect("keys");
    let mut after = window(60_000);
    let begun = std::time::Instant::now();
    after.restore(&stored, SECOND);
    println!("restore of a million: {:?}", begun.elapsed());
    assert_eq!(after.count(), 1_000_000);
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u8),
    Pass(u32),
    Commit,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..40u8).prop_map(Op::Publish),
        3 => (1..700u32).prop_map(Op::Pass),
        2 => Just(Op::Commit),
        1 => Just(Op::Crash),
    ]
}

/// A store: rows with the time of their newest key, under the same commit as the messages.
#[derive(Default)]
struct Rows(Vec<(i64, Vec<u8>)>);

fn check(ops: Vec<Op>) -> Result<(), TestCaseError> {
    const SPAN_MS: i64 = 1000;
    let mut window = window(SPAN_MS as u64);
    let mut now: Micros = 1_000 * SECOND;
    let mut rows = Rows::default();
    // When each key's newest message came: in all, and among what is on disk.
    let mut accepted: HashMap<u8, i64> = HashMap::new();
    let mut stored: HashMap<u8, i64> = HashMap::new();
    for op in ops {
        match op {
            Op::Publish(key) => {
                let known = accepted.get(&key);
                let is_duplicate = known.is_some_and(|at| at + SPAN_MS > now / 1000);
                let expected = if is_duplicate {
                    Verdict::Duplicate
                } else {
                    Verdict::New
                };
                prop_assert_eq!(window.admit(&hash(key.into()), now), expected);
                if !is_duplicate {
                    accepted.insert(key, now / 1000);
                }
            }
            Op::Pass(ms) => now += Micros::from(ms) * 1000 + 7,
            Op::Commit => {
                if let Some(until) = window.take_drop(now) {
                    rows.0.retain(|(newest, _)| *newest > until);
                }
                rows.0.extend(window.take_fresh());
                stored.clone_from(&accepted);
            }
            Op::Crash => {
                window = self::window(SPAN_MS as u64);
                for (_, entries) in &rows.0 {
                    window.restore(entries, now);
                }
                accepted.clone_from(&stored);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_key_enters_once_in_its_window_and_again_after_it(
        ops in prop::collection::vec(op(), 1..120)
    ) {
        check(ops)?;
    }
}
