//! The rules of work on the product's binary: random work, `kill -9` in the middle of it, and an
//! account of every message at the end.
//!
//! Keeps: two clients that know nothing of each other: ours on the bare wire, and lapin.
//! Never: lets a timing decide; see `tests::history::checker` for what is checked.
//! `LEVERET_HISTORY_RUNS` (3), `LEVERET_HISTORY_KILLS` (6 each) and `LEVERET_HISTORY_SEED` set
//! length and choices.

use std::env;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::Lapin;
use tests::crash::random::Random;
use tests::history::checker::{Verdict, check};
use tests::history::client::{Bare, Client};
use tests::history::drive::{Driver, drain};
use tests::history::ledger::{Event, Ledger};
use tests::history::queues::QUEUES;
use tests::leveret::Leveret;

#[path = "src/history/lapin.rs"]
mod client;

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the summary is for whoever reads the test run"
)]
fn the_rules_of_work_survive_kill_nine() -> Result<()> {
    let runs = number("LEVERET_HISTORY_RUNS").unwrap_or(3);
    let kills = number("LEVERET_HISTORY_KILLS").unwrap_or(6);
    let seed = number("LEVERET_HISTORY_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    for run in 0..runs {
        let seed = seed.wrapping_add(run);
        println!("history: {kills} kills, seed {seed}");
        let (ledger, drained) = play(kills, seed)?;
        let book = ledger.close();
        let verdict = check(&book);
        let confirmed = book.sent.values().filter(|sent| sent.confirmed).count();
        println!("{}", summary(book.sent.len(), confirmed, &verdict));
        let mut clean = true;
        for (kind, faults) in verdict.faults() {
            clean &= faults.count == 0;
            for fault in &faults.first {
                println!("FAULT    {kind}: {fault}");
            }
        }
        ensure!(clean, "promises were broken, see above (seed {seed})");
        ensure!(drained, "the queues never became empty (seed {seed})");
        ensure!(book.refused == 0, "{} publishes were refused", book.refused);
        ensure!(confirmed > 0, "nothing was confirmed: no load, no test");
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// One history: its ledger, and whether everything could be drained.
fn play(kills: u64, seed: u64) -> Result<(Ledger, bool)> {
    let mut random = Random::new(seed);
    let mut server = Leveret::start("")?;
    let ledger = Ledger::default();
    Bare::connect(server.amqp)?.declare()?;
    let mut next = [0; 2];
    for _ in 0..kills {
        let alive = match random.chance(50) {
            true => random.between(1_200, 2_200),
            false => random.between(200, 1_000),
        };
        live(&mut server, &ledger, &mut random, &mut next, alive)?;
        ledger.open().note(Event::Killed);
        server.restart()?;
    }
    let drained = settle_all(server.amqp, &ledger).context("the final drain")?;
    server.stop()?;
    Ok((ledger, drained))
}

/// Both clients work until the server dies.
fn live(
    server: &mut Leveret,
    ledger: &Ledger,
    random: &mut Random,
    next: &mut [u64; 2],
    alive: u64,
) -> Result<()> {
    let (address, stop) = (server.amqp, AtomicBool::new(false));
    thread::scope(|scope| {
        for (writer, next) in (0..).zip(next) {
            let mut driver = Driver {
                writer,
                random: Random::new(random.draw()),
                ledger,
                stop: &stop,
                most: MESSAGES,
                next,
            };
            scope.spawn(move || driver.run(|| connect(writer, address)));
        }
        thread::sleep(Duration::from_millis(alive));
        server.kill()
    })
}

fn connect(writer: u16, address: SocketAddr) -> Result<Box<dyn Client>> {
    Ok(match writer {
        0 => Box::new(Bare::connect(address)?),
        _ => Box::new(Lapin::connect(address)?),
    })
}

fn settle_all(address: SocketAddr, ledger: &Ledger) -> Result<bool> {
    let is_there = |queue: usize| Ok(Bare::ready(address, &QUEUES[queue].dead())?.is_some());
    let is_done = || {
        for queue in QUEUES {
            for name in [queue.name.to_owned(), queue.dead()] {
                if Bare::ready(address, &name)?.unwrap_or(0) > 0 {
                    return Ok(false);
                }
            }
        }
        // What waits for its time is no ready message yet.
        let faults = check(&ledger.open()).lost.count;
        Ok(faults == 0)
    };
    let mut client = Bare::connect(address)?;
    drain(&mut client, ledger, is_there, is_done, DRAIN_MAX)
}

fn summary(sent: usize, confirmed: usize, verdict: &Verdict) -> String {
    let counts: Vec<_> = verdict
        .faults()
        .map(|(kind, faults)| format!("{kind} {}", faults.count))
        .collect();
    format!(
        "history: {sent} sent, {confirmed} confirmed, {} deliveries ({} flagged), {} dead, {} \
         duplicates dropped, {} leases ended; {}",
        verdict.delivered,
        verdict.redelivered,
        verdict.dead,
        verdict.duplicates,
        verdict.lease_ends,
        counts.join(", "),
    )
}

/// Messages of one client in one history.
const MESSAGES: u64 = 3_000;
/// Then what is missing is lost.
const DRAIN_MAX: Duration = Duration::from_secs(60);
