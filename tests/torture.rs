//! Two nodes on one store: load, a fault, and again, with a strict account at the end.
//!
//! Keeps: the log of the load in this process; see `tests::crash` for what is checked.
//! Never: judges by time; takeovers are measured, and generous limits only end a test that hangs.
//! In: `cargo xtask torture`, and a few faults of each kind in `cargo xtask test`.
//! `LEVERET_TORTURE_RESTARTS`, `_TAKEOVERS`, `_PAUSES` (2 each), `_FAILOVERS` (0) and `_SEED` set
//! length and choices. With failovers the store is a cluster of the test's own, in which nothing
//! else restarts PostgreSQL.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::crash::load::End;
use tests::crash::random::Random;
use tests::crash::run::{Place, Run, Work};
use tests::crash::ticks;
use tests::crash::topology;
use tests::database::Database;
use tests::leveret::Leveret;
use tests::patroni::Patroni;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// PostgreSQL ends at once and comes up again.
    Restart,
    /// The owner is killed while another node stands by.
    Takeover,
    /// The owner stands still until another node owns the store, then goes on.
    Pause,
    /// PostgreSQL's primary dies, or hands over, and its synchronous standby becomes primary.
    Failover,
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the summary is for whoever reads the test run"
)]
fn what_was_confirmed_outlives_every_fault() -> Result<()> {
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let faults = faults(seed);
    println!("torture: {} faults, seed {seed}", faults.len());
    let patroni = faults.contains(&Fault::Failover).then(Patroni::start);
    let mut pair = Pair::start(seed, patroni.transpose()?)?;
    for (cycle, fault) in faults.iter().enumerate() {
        let begun = Instant::now();
        pair.suffer(cycle, *fault)
            .with_context(|| format!("cycle {cycle}, {fault:?}, seed {seed}"))?;
        let seconds = begun.elapsed().as_secs_f64();
        println!("{:4} {fault:?}: {seconds:.1} s", cycle + 1);
    }
    pair.close(&faults)
        .with_context(|| format!("seed {seed}"))?;
    Ok(())
}

/// All faults that are asked for, in an order of chance.
fn faults(seed: u64) -> Vec<Fault> {
    let kinds = [
        (Fault::Restart, "RESTARTS", 2),
        (Fault::Takeover, "TAKEOVERS", 2),
        (Fault::Pause, "PAUSES", 2),
        (Fault::Failover, "FAILOVERS", 0),
    ];
    let mut random = Random::new(seed);
    let mut faults = Vec::new();
    for (fault, name, usual) in kinds {
        for _ in 0..number(name).unwrap_or(usual) {
            faults.push((random.draw(), fault));
        }
    }
    faults.sort_by_key(|(place, _)| *place);
    faults.into_iter().map(|(_, fault)| fault).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(format!("LEVERET_TORTURE_{name}")).ok()?;
    text.parse().ok()
}

/// Two nodes, of which one owns the store.
struct Pair {
    nodes: [Leveret; 2],
    run: Run,
    seen: Seen,
    /// Where PostgreSQL itself fails over.
    patroni: Option<Patroni>,
}

/// What is told at the end.
#[derive(Default)]
struct Seen {
    takeovers: Vec<Duration>,
    /// Restarts of the database through which all clients kept their connections.
    kept: usize,
    /// From the primary's end to a node that owns the store again.
    failovers: Vec<Duration>,
    /// Commits of owners that had stood still, refused.
    fenced: u64,
    /// How the clients of an owner that stood still ended.
    ends: BTreeMap<String, usize>,
}

impl Pair {
    fn start(seed: u64, patroni: Option<Patroni>) -> Result<Self> {
        let config = format!(
            "[store]\nlease = \"{}s\"\n{}",
            LEASE.as_secs(),
            ticks::CONFIG
        );
        let shared = match &patroni {
            Some(patroni) => patroni.url(),
            None => env::var("LEVERET_TEST_STORE").context("LEVERET_TEST_STORE names no store")?,
        };
        let first = Leveret::start_on(&shared, &config)?;
        let second = first.standby(&config)?;
        topology::declare(first.amqp)?;
        Ok(Self {
            nodes: [first, second],
            run: Run::new(seed),
            seen: Seen::default(),
            patroni,
        })
    }

    /// Load, a fault, and a look at what must be there after it.
    fn suffer(&mut self, cycle: usize, fault: Fault) -> Result<()> {
        let owner = self.owner()?;
        self.await_node(1 - owner, "stand by", Leveret::is_standby)?;
        match fault {
            Fault::Restart => self.restart(cycle, owner)?,
            Fault::Takeover => self.take_over(cycle, owner)?,
            Fault::Pause => self.pause(cycle, owner)?,
            Fault::Failover => self.fail_over(cycle, owner)?,
        }
        let owner = self.owner()?;
        self.run.verify(Place::from(&self.nodes[owner]))
    }

    fn restart(&mut self, cycle: usize, owner: usize) -> Result<()> {
        let database = Database::from_environment()?;
        let alive = self.some_time();
        let place = Place::from(&self.nodes[owner]);
        let ends = self
            .run
            .under_load(place, Work::Cycle(cycle), |run, shared| {
                sleep(alive);
                let from = ticks::clock();
                database.restart_at_once()?;
                // Whoever kept its connection goes on.
                sleep(alive);
                run.was_down(from);
                shared.stop.store(true, Ordering::Relaxed);
                Ok(())
            })?;
        self.seen.kept += usize::from(ends.iter().all(Option::is_none));
        let from = ticks::clock();
        self.owner()?;
        self.run.was_down(from);
        Ok(())
    }

    fn take_over(&mut self, cycle: usize, owner: usize) -> Result<()> {
        let alive = self.some_time();
        let Self {
            nodes, run, seen, ..
        } = self;
        let place = Place::from(&nodes[owner]);
        let mut killed = (Instant::now(), ticks::clock());
        run.under_load(place, Work::Cycle(cycle), |_, _| {
            sleep(alive);
            killed = (Instant::now(), ticks::clock());
            nodes[owner].kill()
        })?;
        let (at, from) = killed;
        await_owner(nodes, 1 - owner)?;
        seen.takeovers.push(at.elapsed());
        run.was_down(from);
        nodes[owner].launch()
    }

    fn pause(&mut self, cycle: usize, owner: usize) -> Result<()> {
        let (alive, behind) = (self.some_time(), self.some_time());
        let Self {
            nodes, run, seen, ..
        } = self;
        let (old, new) = (&nodes[owner], &nodes[1 - owner]);
        let fenced = old.figure(FENCED)?;
        let ends = run.under_load(Place::from(old), Work::Cycle(cycle), |run, _| {
            sleep(alive);
            let (at, from) = (Instant::now(), ticks::clock());
            old.signal("STOP")?;
            await_owner(nodes, 1 - owner)?;
            seen.takeovers.push(at.elapsed());
            run.was_down(from);
            let mark = run.arrivals();
            // The old owner goes on in the middle of the new one's work.
            run.under_load(Place::from(new), Work::Beside, |_, shared| {
                sleep(behind);
                old.signal("CONT")?;
                sleep(behind);
                shared.stop.store(true, Ordering::Relaxed);
                Ok(())
            })?;
            run.late_from = Some(mark);
            Ok(())
        })?;
        let untold = ends.iter().find(|end| !is_let_go(end)).cloned();
        for end in ends {
            let end = end.unwrap_or_else(|| "told to stop by the test".to_owned());
            *seen.ends.entry(end).or_default() += 1;
        }
        ensure!(
            untold.is_none(),
            "a client of the old owner ended otherwise than by 320: {untold:?}"
        );
        self.await_node(owner, "stand by", Leveret::is_standby)?;
        self.seen.fenced += self.nodes[owner].figure(FENCED)? - fenced;
        Ok(())
    }

    /// By turns the primary is killed with its Patroni, and asked to hand over.
    fn fail_over(&mut self, cycle: usize, owner: usize) -> Result<()> {
        let alive = self.some_time();
        let patroni = self.patroni.as_mut().context("there is no cluster")?;
        let primary = patroni.primary()?;
        let place = Place::from(&self.nodes[owner]);
        let mut began = (Instant::now(), ticks::clock());
        self.run
            .under_load(place, Work::Cycle(cycle), |_, shared| {
                sleep(alive);
                began = (Instant::now(), ticks::clock());
                if cycle.is_multiple_of(2) {
                    patroni.kill(primary)?;
                } else {
                    patroni.switch_over(primary)?;
                }
                patroni.await_primary(1 - primary)?;
                sleep(alive);
                shared.stop.store(true, Ordering::Relaxed);
                Ok(())
            })?;
        let (at, from) = began;
        self.owner()?;
        self.seen.failovers.push(at.elapsed());
        self.run.was_down(from);
        self.patroni.as_mut().map_or(Ok(()), Patroni::mend)
    }

    fn some_time(&mut self) -> Duration {
        Duration::from_millis(self.run.random.between(200, 1000))
    }

    fn owner(&self) -> Result<usize> {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.nodes.iter().position(Leveret::is_ready) {
                return Ok(found);
            }
            let last = || self.nodes.each_ref().map(Leveret::last_output);
            ensure!(
                begun.elapsed() < TAKEOVER_MAX,
                "no owner: {}",
                last().join("\n---\n")
            );
            sleep(LOOK_AFTER);
        }
    }

    fn await_node(&self, node: usize, what: &str, is: fn(&Leveret) -> bool) -> Result<()> {
        let (begun, node) = (Instant::now(), &self.nodes[node]);
        while !is(node) {
            ensure!(
                begun.elapsed() < TAKEOVER_MAX,
                "it does not {what}: {}",
                node.last_output()
            );
            sleep(LOOK_AFTER);
        }
        Ok(())
    }

    fn close(mut self, faults: &[Fault]) -> Result<()> {
        let owner = self.owner()?;
        let place = Place::from(&self.nodes[owner]);
        self.run.drain(place).context("the final drain")?;
        let back = self.nodes.iter().map(|node| node.figure(WENT_BACK));
        let back: u64 = back.sum::<Result<u64>>()?;
        let head = format!("torture: {}", self.seen.counts(faults));
        let judged = self.run.judge(&head, &self.seen.told());
        judged.with_context(|| self.last_words(owner))?;
        ensure!(
            !faults.contains(&Fault::Pause) || self.seen.fenced > 0,
            "no commit of an old owner was refused"
        );
        ensure!(back == 0, "the database lacked what it had confirmed");
        for node in &mut self.nodes {
            node.stop()?;
        }
        Ok(())
    }
}

impl Pair {
    /// For a failure: what the nodes said, and what the store says of itself.
    fn last_words(&self, owner: usize) -> String {
        let verified = self.nodes[owner].command(&["store", "verify"]);
        let verified = verified.map(|output| {
            let [out, error] = [output.stdout, output.stderr];
            [out, error].map(|text| String::from_utf8_lossy(&text).into_owned())
        });
        let said = self.nodes.each_ref().map(Leveret::last_output);
        format!("{}\n{verified:?}", said.join("\n---\n"))
    }
}

impl Seen {
    /// How many of each kind.
    fn counts(&self, faults: &[Fault]) -> String {
        let count = |kind| faults.iter().filter(|fault| **fault == kind).count();
        let kept = format!(
            "restarts of PostgreSQL (clients kept through {})",
            self.kept
        );
        let fenced = format!("pauses ({} commits refused)", self.fenced);
        let kinds = [
            (Fault::Restart, kept),
            (Fault::Takeover, "takeovers".to_owned()),
            (Fault::Pause, fenced),
            (Fault::Failover, "failovers of PostgreSQL".to_owned()),
        ];
        let counts = kinds.map(|(kind, text)| (count(kind), text)).into_iter();
        let counts = counts.filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts
            .map(|(count, text)| format!("{count} {text}"))
            .collect();
        counts.join(", ")
    }

    fn told(&self) -> String {
        let mut parts = vec![format!("lease {LEASE:?}")];
        if !self.takeovers.is_empty() {
            let slow = self.takeovers.iter().filter(|took| **took > LEASE * 2);
            let (took, slow) = (span(&self.takeovers), slow.count());
            parts.push(format!(
                "taken over after {took}, {slow} times later than two leases"
            ));
        }
        if !self.failovers.is_empty() {
            let took = span(&self.failovers);
            parts.push(format!("a node serves after a failover within {took}"));
        }
        if !self.ends.is_empty() {
            let ends = self.ends.iter();
            let ends: Vec<_> = ends.map(|(end, count)| format!("{count} {end}")).collect();
            parts.push(format!("clients of paused owners: {}", ends.join(", ")));
        }
        parts.join("; ")
    }
}

fn span(times: &[Duration]) -> String {
    let seconds = || times.iter().map(Duration::as_secs_f64);
    let (least, most) = (
        seconds().fold(f64::MAX, f64::min),
        seconds().fold(0.0, f64::max),
    );
    format!("{least:.1} to {most:.1} s")
}

fn is_let_go(end: &End) -> bool {
    let told = |text: &String| text.starts_with("connection.close 320");
    end.as_ref().is_some_and(told)
}

fn await_owner(nodes: &[Leveret], expected: usize) -> Result<()> {
    let begun = Instant::now();
    while !nodes[expected].is_ready() {
        let last = || nodes[expected].last_output();
        ensure!(begun.elapsed() < TAKEOVER_MAX, "no takeover: {}", last());
        sleep(LOOK_AFTER);
    }
    Ok(())
}

const LEASE: Duration = Duration::from_secs(2);
const FENCED: &str = "leveret_store_fenced_total";
const WENT_BACK: &str = "leveret_store_went_back_total";
const TAKEOVER_MAX: Duration = Duration::from_secs(60);
const LOOK_AFTER: Duration = Duration::from_millis(20);
