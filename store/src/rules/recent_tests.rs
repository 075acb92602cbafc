//! The table against a map: what it finds, what it forgets, and what it gives to a commit.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Few first bytes and few second halves, so that keys meet in parts and in marks.
fn key(number: u8) -> Hash {
    let mut key = [0; HASH];
    key[0] = number % 3;
    key[1] = number;
    key[8] = number % 5;
    key
}

#[derive(Clone, Debug)]
enum Op {
    Take(u8),
    /// Its time is so many ms before now, as a restart may bring it.
    TakeOlder(u8, u8),
    Pass(u8),
    Expire(u8),
    Find(u8),
    Since,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => any::<u8>().prop_map(Op::Take),
        1 => any::<(u8, u8)>().prop_map(|(key, ago)| Op::TakeOlder(key, ago)),
        3 => any::<u8>().prop_map(Op::Pass),
        3 => any::<u8>().prop_map(Op::Expire),
        4 => any::<u8>().prop_map(Op::Find),
        1 => Just(Op::Since),
    ]
}

fn check(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut recent = Recent::new(3);
    let mut known: HashMap<u8, i64> = HashMap::new();
    // In the order in which they came.
    let mut entries: Vec<(u8, i64)> = Vec::new();
    let (mut now, mut gone) = (1_000, 0);
    for op in ops {
        match op {
            Op::Take(number) => {
                let newer = known.get(&number).is_some_and(|at| *at > now - 100);
                prop_assert_eq!(recent.take(&key(number), now, now - 100), !newer);
                if !newer {
                    known.insert(number, now);
                    entries.push((number, now));
                }
            }
            Op::TakeOlder(number, ago) => {
                let at = now - i64::from(ago);
                let newer = known.get(&number).is_some_and(|known| *known >= at);
                prop_assert_eq!(recent.take(&key(number), at, at - 1), !newer);
                if !newer {
                    known.insert(number, at);
                    entries.push((number, at));
                }
            }
            Op::Pass(ms) => now += i64::from(ms),
            Op::Expire(most) => {
                let until = now - 200;
                recent.expire(until, usize::from(most));
                for _ in 0..most {
                    let Some((number, at)) = entries.get(gone).filter(|(_, at)| *at <= until)
                    else {
                        break;
                    };
                    let again = entries[gone + 1..].iter().any(|(other, _)| other == number);
                    if !again {
                        prop_assert_eq!(known.remove(number), Some(*at));
                    }
                    gone += 1;
                }
            }
            Op::Find(number) => {
                prop_assert_eq!(recent.find(&key(number)), known.get(&number).copied());
            }
            Op::Since => {
                let kept = entries[gone..].iter();
                let kept: Vec<_> = kept.map(|(number, at)| (key(*number), *at)).collect();
                prop_assert_eq!(records(&recent.since(0)).collect::<Vec<_>>(), kept);
            }
        }
        prop_assert_eq!(recent.count() as usize, entries.len() - gone);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_knows_what_a_map_knows(ops in prop::collection::vec(op(), 1..400)) {
        check(ops)?;
    }
}

#[test]
fn entries_go_over_the_ends_of_chunks() {
    let mut recent = Recent::new(1);
    let key = |number: u64| {
        let mut key = [0; HASH];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        key
    };
    for number in 0..5 * CHUNK {
        assert!(recent.take(&key(number), number as i64 + 1, 0));
        if number >= 2 * CHUNK {
            recent.expire((number - 2 * CHUNK) as i64 + 1, 2);
        }
    }
    assert_eq!(recent.count(), 2 * CHUNK);
    assert_eq!(recent.oldest_ms(), Some(3 * CHUNK as i64 + 1));
    let from = 5 * CHUNK - 3;
    let newest: Vec<Hash> = records(&recent.since(from)).map(|(key, _)| key).collect();
    assert_eq!(newest, (from..5 * CHUNK).map(key).collect::<Vec<_>>());
    let all = recent.since(0);
    assert_eq!(all.len() as u64, 2 * CHUNK * ENTRY as u64);
    recent.expire(i64::MAX, usize::MAX);
    assert_eq!((recent.count(), recent.oldest_ms()), (0, None));
    assert!(recent.since(0).is_empty());
    assert!(recent.take(&key(1), 1, 0));
    assert_eq!(recent.find(&key(1)), Some(1));
}
