//! The rules of work under random histories: a model that says what must be, and the queues of a
//! node on the engine in memory, which are to agree with it after every step.
//!
//! Keeps: I1 (one place), I2 (confirmed is on disk), I3 (one holder, and what comes again says
//! so), I4 (order of a queue, of a key, of a priority), I5 (failures are bounded and on record),
//! one message for a key of a window, and that what comes too late changes nothing; through
//! leases, backoff, delays, redrives, pauses, lost clients and crashes.
//! In: `cargo test -p store history`; `LEVERET_HISTORIES` sets how many are played.

mod cases;
mod clients;
mod expect;
mod model;
mod node;
mod op;
mod operators;
mod planted_tests;
mod rules;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use op::Op;
use world::World;

use super::*;

/// Histories that an ordinary test run plays.
const HISTORIES: u32 = 300;

/// Plays a history to its end.
///
/// # Errors
/// What was promised and did not hold.
fn play(ops: &[Op]) -> std::result::Result<(), String> {
    let mut world = World::new()?;
    for (at, op) in ops.iter().enumerate() {
        let played = world.play(op);
        played.map_err(|fault| format!("step {at}, {op:?}: {fault}"))?;
    }
    world
        .finish()
        .map_err(|fault| format!("at the end: {fault}"))
}

/// The same; a panic of the product is a fault like any other.
fn judge(ops: &[Op]) -> std::result::Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| play(ops)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// A history, one step a line.
fn told(ops: &[Op]) -> String {
    let lines = ops.iter().enumerate();
    lines.map(|(at, op)| format!("{at:4} {op:?}\n")).collect()
}

#[test]
fn every_rule_holds_in_every_history() {
    let asked = std::env::var("LEVERET_HISTORIES");
    let cases = asked.ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::new(Config {
        cases: cases.unwrap_or(HISTORIES),
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&op::history(), |ops| {
        judge(&ops).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(fault, ops)) => panic!("{fault}\n{}", told(&ops)),
        Err(fault) => panic!("{fault}"),
    }
}
