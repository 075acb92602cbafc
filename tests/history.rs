//! The rules of work on the product's binary: random work, `kill -9` in the middle of it, and an
//! account of every message at the end.
//!
//! Keeps: two clients that know nothing of each other, ours on the bare wire and lapin; a publisher
//! that the server stops and lets go on; after each start a replay of what was settled and kept.
//! Never: lets a timing decide; see `tests::history::checker` for what is checked.
//! `LEVERET_HISTORY_RUNS` (3), `LEVERET_HISTORY_KILLS` (6 each) and `LEVERET_HISTORY_SEED` set
//! length and choices.

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::Lapin;
use tests::crash::random::Random;
use tests::history::checker::{Verdict, check};
use tests::history::client::{Bare, Client};
use tests::history::drive::{Driver, drain};
use tests::history::flow::{self, Flow};
use tests::history::ledger::{Book, Event, Ledger, Replay};
use tests::history::queues::QUEUES;
use tests::history::replays::{self, Doors};
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
        println!("{}", summary(&book, confirmed, &verdict));
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
        ensure!(book.stops > 0, "no publisher was stopped: no load, no test");
        let copies = book.replays.iter().map(|replay| replay.copies.len());
        ensure!(copies.sum::<usize>() > 0, "nothing was replayed: no test");
        let waited = |replay: &Replay| replay.room.is_some_and(|room| replay.waited == room);
        ensure!(book.replays.iter().any(waited), "no replay waited: no test");
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
    let mut next = [0; 3];
    for _ in 0..kills {
        let alive = match random.chance(50) {
            true => random.between(1_200, 2_200),
            false => random.between(200, 1_000),
        };
        live(&mut server, &ledger, &mut random, &mut next, alive)?;
        ledger.open().note(Event::Killed);
        server.restart()?;
        let doors = doors(&server);
        // The kill may come before its end, in this life or the next.
        replays::order(doors, &ledger, random.between(50, 2_000)).context("ordering a replay")?;
    }
    let mut drained = settle_all(server.amqp, &ledger, &mut next[2]).context("the final drain")?;
    let doors = doors(&server);
    drained &= replays::collect(doors, &ledger, DRAIN_MAX).context("taking the replays")?;
    replays::list(doors, &ledger)?;
    server.stop()?;
    Ok((ledger, drained))
}

/// Both clients work until the server dies.
fn live(
    server: &mut Leveret,
    ledger: &Ledger,
    random: &mut Random,
    [first, second, third]: &mut [u64; 3],
    alive: u64,
) -> Result<()> {
    let (address, stop) = (server.amqp, AtomicBool::new(false));
    let mut flow = Flow {
        writer: FLOW,
        obeys: random.chance(50),
        ledger,
        stop: &stop,
        most: FLOW_MESSAGES,
        next: third,
    };
    thread::scope(|scope| {
        // Both end with the server.
        scope.spawn(move || flow.run(address));
        scope.spawn(|| flow::watch(address, ledger, &stop));
        for (writer, next) in (0..).zip([first, second]) {
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

/// Works until nothing is left, while a publisher that was stopped goes on and comes to its end.
fn settle_all(address: SocketAddr, ledger: &Ledger, next: &mut u64) -> Result<bool> {
    let (stop, is_through) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut flow = Flow {
        writer: FLOW,
        obeys: false,
        ledger,
        stop: &stop,
        most: FLOW_MESSAGES,
        next,
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let through = flow.run(address).is_ok() && !stop.load(Ordering::Relaxed);
            is_through.store(through, Ordering::Relaxed);
        });
        let drained = settle_until(address, ledger, &is_through);
        stop.store(true, Ordering::Relaxed);
        drained
    })
}

fn settle_until(address: SocketAddr, ledger: &Ledger, through: &AtomicBool) -> Result<bool> {
    let is_there = |queue: usize| Ok(Bare::ready(address, &QUEUES[queue].dead())?.is_some());
    let is_done = || {
        if !through.load(Ordering::Relaxed) {
            return Ok(false);
        }
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

fn doors(server: &Leveret) -> Doors {
    Doors {
        amqp: server.amqp,
        http: server.http,
    }
}

fn summary(book: &Book, confirmed: usize, verdict: &Verdict) -> String {
    let (sent, stops) = (book.sent.len(), book.stops);
    let copies: usize = book.replays.iter().map(|replay| replay.copies.len()).sum();
    let longest = book.lengths.iter().map(|(_, most)| *most).max();
    let counts: Vec<_> = verdict
        .faults()
        .map(|(kind, faults)| format!("{kind} {}", faults.count))
        .collect();
    format!(
        "history: {sent} sent, {confirmed} confirmed, {} deliveries ({} flagged), {} dead, {} \
         duplicates dropped, {} leases ended, {} kept, {copies} copies of {} replays, {stops} \
         stops, at most {} ready; {}",
        verdict.delivered,
        verdict.redelivered,
        verdict.dead,
        verdict.duplicates,
        verdict.lease_ends,
        book.kept.last().map_or(0, BTreeMap::len),
        book.replays.len(),
        longest.unwrap_or(0),
        counts.join(", "),
    )
}

/// Messages of one client in one history.
const MESSAGES: u64 = 3_000;
/// The writer that only publishes.
const FLOW: u16 = 2;
/// Its messages in one life, at most: many times what a full queue lets through.
const FLOW_MESSAGES: u64 = 3_000;
/// Then what is missing is lost.
const DRAIN_MAX: Duration = Duration::from_secs(60);
