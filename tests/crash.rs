//! `kill -9` in the middle of load, again and again, and a strict account afterwards.
//!
//! Keeps: the log of the load in this process; the server is another one.
//! Never: forgives; see `tests::crash` for what is checked.
//! `LEVERET_CRASH_CYCLES` (50) and `LEVERET_CRASH_SEED` set length and choices.

use std::env;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::crash::Faults;
use tests::crash::calls::{self, Calls};
use tests::crash::checker::{Verdict, check};
use tests::crash::ledger::Ledger;
use tests::crash::load::{Consumer, Manner, Shared, write};
use tests::crash::peer::Peer;
use tests::crash::random::Random;
use tests::crash::ticks::{self, Down, Tick};
use tests::crash::topology::{self, RULES, TARGETS};
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
    let mut run = Run::start(seed)?;
    for cycle in 0..usize::try_from(cycles)? {
        run.cycle(cycle).with_context(|| format!("cycle {cycle}"))?;
    }
    run.drain().context("the final drain")?;
    let verdict = check(&mut run.ledger, &RULES);
    ticks::check(&run.ticks, &run.down, &mut run.tick_faults);
    let summary = run.summary(cycles, &verdict);
    println!("{summary}");
    let mut clean = true;
    let own = [
        ("topology", &run.topology_faults),
        ("calls", &run.call_faults),
        ("ticks", &run.tick_faults),
    ];
    for (kind, faults) in verdict.faults().chain(own) {
        clean &= faults.count == 0;
        for fault in &faults.first {
            println!("FAULT    {kind}: {fault}");
        }
    }
    ensure!(
        run.ledger.returned == 0,
        "{} messages found no queue",
        run.ledger.returned
    );
    ensure!(
        run.ledger.confirmed() > 0,
        "nothing was confirmed: no load, no test"
    );
    ensure!(clean, "promises were broken, see above (seed {seed})");
    run.server.stop()?;
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

struct Run {
    server: Leveret,
    random: Random,
    shared: Shared,
    ledger: Ledger,
    calls: Calls,
    ticks: Vec<Tick>,
    down: Vec<Down>,
    /// The last cycle whose changes of the topology were answered.
    changed: Option<usize>,
    session: u32,
    slowest_start: Duration,
    drained_in: Duration,
    topology_faults: Faults,
    call_faults: Faults,
    tick_faults: Faults,
}

impl Run {
    fn start(seed: u64) -> Result<Self> {
        let server = Leveret::start(ticks::CONFIG)?;
        topology::declare(server.amqp)?;
        Ok(Self {
            server,
            random: Random::new(seed),
            shared: Shared::default(),
            ledger: Ledger::new(WRITERS),
            calls: Calls::default(),
            ticks: Vec::new(),
            down: Vec::new(),
            changed: None,
            session: 0,
            slowest_start: Duration::ZERO,
            drained_in: Duration::ZERO,
            topology_faults: Faults::default(),
            call_faults: Faults::default(),
            tick_faults: Faults::default(),
        })
    }

    /// Load, kill, start, look.
    fn cycle(&mut self, cycle: usize) -> Result<()> {
        let alive = Duration::from_millis(self.random.between(200, 1500));
        self.under_load(Some(cycle), Manner::AtRandom, |run, _| {
            thread::sleep(alive);
            run.server.kill()
        })?;
        let from = ticks::clock();
        let took = self.server.restart()?;
        self.slowest_start = self.slowest_start.max(took);
        // The kill was a moment before the clock was read; a second is more than it took.
        self.down.push(Down {
            from: from - 1.0,
            to: ticks::clock(),
        });
        topology::verify(self.server.amqp, self.changed, &mut self.topology_faults)?;
        self.calls.verify(self.server.http, &mut self.call_faults)
    }

    /// Consumes everything that is left, then sees every call to its end.
    fn drain(&mut self) -> Result<()> {
        let started = Instant::now();
        self.under_load(None, Manner::AckAll, |run, shared| {
            let mut peer = Peer::connect(run.server.amqp)?;
            let mut empty = 0;
            while empty < 3 {
                ensure!(
                    started.elapsed() < DRAIN_MAX,
                    "not drained after {DRAIN_MAX:?}"
                );
                thread::sleep(Duration::from_millis(100));
                let mut left = 0;
                for rule in RULES {
                    left += topology::ready(&mut peer, rule.name)?;
                }
                empty = if left == 0 { empty + 1 } else { 0 };
            }
            run.drained_in = started.elapsed();
            run.calls
                .finish(run.server.http, CALLS_MAX, &mut run.call_faults)?;
            // Some seconds with the server up, so that ticks without gaps are seen.
            thread::sleep(Duration::from_secs(5).saturating_sub(started.elapsed()));
            shared.stop.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Runs `act` while all threads work, and takes their logs when they ended.
    fn under_load(
        &mut self,
        cycle: Option<usize>,
        manner: Manner,
        act: impl FnOnce(&mut Self, &Shared) -> Result<()>,
    ) -> Result<()> {
        let (amqp, http) = (self.server.amqp, self.server.http);
        let shared = std::mem::take(&mut self.shared);
        let mut sent = std::mem::take(&mut self.ledger.writers);
        let consumers = self.consumers(manner);
        let writes = cycle.is_some();
        // The drain itself waits for the calls; nobody posts then.
        let mut calls = if writes {
            std::mem::take(&mut self.calls)
        } else {
            Calls::default()
        };
        let mut call_faults = Faults::default();
        let mut tick_faults = Faults::default();
        let (acted, wrote, consumed, ticks, changed) = thread::scope(|scope| {
            let shared = &shared;
            let writers: Vec<_> = (0..)
                .zip(&mut sent)
                .filter(|_| writes)
                .map(|(writer, log)| scope.spawn(move || write(amqp, writer, log, shared)))
                .collect();
            let consumers: Vec<_> = consumers
                .into_iter()
                .map(|consumer| scope.spawn(move || consumer.run(shared)))
                .collect();
            let ticks = scope.spawn(|| ticks::consume(amqp, shared, &mut tick_faults));
            let worker = scope.spawn(|| calls::work(amqp, shared));
            let caller = writes.then(|| {
                scope.spawn(|| {
                    calls.post(http, shared, &mut call_faults);
                })
            });
            let changer = cycle.map(|cycle| {
                scope.spawn(move || topology::change(amqp, cycle).ok().map(|()| cycle))
            });
            let acted = act(self, shared);
            if acted.is_err() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            let wrote: Vec<_> = writers.into_iter().map(join).collect();
            let consumed: Vec<_> = consumers.into_iter().map(join).collect();
            caller.map(join);
            join(worker);
            (acted, wrote, consumed, join(ticks), changer.and_then(join))
        });
        self.shared = shared;
        if writes {
            self.calls = calls;
        }
        self.call_faults.append(call_faults);
        self.tick_faults.append(tick_faults);
        self.ledger.writers = sent;
        for wrote in wrote {
            self.ledger.nacked += wrote.nacked;
            self.ledger.returned += wrote.returned;
        }
        for mut consumed in consumed {
            self.ledger.deliveries.append(&mut consumed.deliveries);
            self.ledger.damaged.append(&mut consumed.damaged);
        }
        self.ticks.extend(ticks);
        self.changed = changed.or(self.changed);
        acted
    }

    fn consumers(&mut self, manner: Manner) -> Vec<Consumer> {
        let drains = manner == Manner::AckAll;
        let queues = if drains { RULES.len() } else { TARGETS };
        let mut consumers = Vec::new();
        for (queue, rule) in (0..).zip(&RULES[..queues]) {
            for _ in 0..if rule.one_consumer { 1 } else { 2 } {
                self.session += 1;
                consumers.push(Consumer {
                    address: self.server.amqp,
                    queue,
                    session: self.session,
                    manner,
                    seed: self.random.draw(),
                });
            }
        }
        consumers
    }

    fn summary(&self, cycles: u64, verdict: &Verdict) -> String {
        let counts: Vec<_> = verdict
            .faults()
            .map(|(kind, faults)| format!("{kind} {}", faults.count))
            .collect();
        format!(
            "crash: {cycles} kills; {} sent, {} confirmed, {} received ({} flagged), {} \
             dead-lettered, {} refused; {}; topology faults {}; {} calls ({} succeeded, {} failed, \
             {} repeated), faults {}; {} ticks, faults {}; slowest start {:.0} ms, drain {:.1} s",
            self.ledger.sent(),
            self.ledger.confirmed(),
            verdict.received,
            verdict.redelivered,
            verdict.dead_lettered,
            self.ledger.nacked,
            counts.join(", "),
            self.topology_faults.count,
            self.calls.accepted.len(),
            self.calls.count("succeeded"),
            self.calls.count("failed"),
            self.calls.repeated,
            self.call_faults.count,
            self.ticks.len(),
            self.tick_faults.count,
            self.slowest_start.as_secs_f64() * 1000.0,
            self.drained_in.as_secs_f64(),
        )
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

const WRITERS: usize = 4;
const DRAIN_MAX: Duration = Duration::from_secs(120);
const CALLS_MAX: Duration = Duration::from_secs(90);
