//! `kill -9` in the middle of load, again and again, and a strict account afterwards.
//!
//! Keeps: the log of the load in this process; the server is another one.
//! Never: forgives; see `tests::crash` for what is checked.
//! `LEVERET_CRASH_CYCLES` (50) and `LEVERET_CRASH_SEED` set length and choices.

use std::env;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::crash::run::{Place, Run, Work};
use tests::crash::ticks;
use tests::crash::topology;
use tests::leveret::Leveret;

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the summary is for whoever reads the test run"
)]
fn kill_nine_loses_nothing() -> Result<()> {
    let cycles = number("LEVERET_CRASH_CYCLES").unwrap_or(50);
    let seed = number("LEVERET_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("crash test: {cycles} cycles, seed {seed}");
    let mut server = Leveret::start(ticks::CONFIG)?;
    topology::declare(server.amqp)?;
    let mut run = Run::new(seed);
    let mut slowest = Duration::ZERO;
    for at in 0..usize::try_from(cycles)? {
        let took = cycle(&mut server, &mut run, at).with_context(|| format!("cycle {at}"))?;
        slowest = slowest.max(took);
    }
    run.drain(Place::from(&server)).context("the final drain")?;
    let tail = format!("slowest start {:.0} ms", slowest.as_secs_f64() * 1000.0);
    run.judge(&format!("crash: {cycles} kills"), &tail)
        .with_context(|| format!("seed {seed}"))?;
    ensure!(run.calls.refused == 0, "a server that lived answered 503");
    server.stop()?;
    Ok(())
}

/// Load, kill, start, look; says how long the start took.
fn cycle(server: &mut Leveret, run: &mut Run, cycle: usize) -> Result<Duration> {
    let alive = Duration::from_millis(run.random.between(200, 1500));
    let place = Place::from(&*server);
    run.under_load(place, Work::Cycle(cycle), |_, _| {
        thread::sleep(alive);
        server.kill()
    })?;
    let from = ticks::clock();
    let took = server.restart()?;
    run.was_down(from);
    run.verify(place)?;
    Ok(took)
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}
