//! The histories judge faults that are planted in the rules: each must be found.
//!
//! Keeps: a check that finds nothing where something is cannot pass for a proof.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{judge, op};
use crate::planted::{Planted, Planting};

/// Histories in which a fault must show. Most show in the first ten; the rarest in some hundred.
const HISTORIES: u32 = 3_000;

/// How many histories it takes, and what they say; a panic of the product is an answer, too. The
/// same ones each time, so that nothing but the rules decides.
fn find(fault: Planted) -> Option<(u32, String)> {
    let _planting = Planting::of(fault);
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    (1..=HISTORIES).find_map(|count| {
        let drawn = op::history().new_tree(&mut runner).ok()?;
        let fault = judge(&drawn.current()).err()?;
        Some((count, fault))
    })
}

#[test]
fn every_planted_fault_is_found() {
    let mut missed = Vec::new();
    for fault in Planted::ALL {
        match find(*fault) {
            Some((count, words)) => eprintln!("{fault:?}: history {count}: {words}"),
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
