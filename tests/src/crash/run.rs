//! One run: load on a node, again and again, and the account at its end.
//!
//! Keeps: everything that the threads of all loads saw, until it is judged.
//! Never: knows which fault comes; a load does what its caller does, and takes the logs after it.
//! In: `tests/crash.rs`, `tests/torture.rs`.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Faults;
use super::calls::{self, Calls};
use super::checker::{Verdict, check};
use super::ledger::{Ledger, Sent};
use super::load::{Consumed, Consumer, End, Manner, Shared, Wrote, write};
use super::peer::Peer;
use super::random::Random;
use super::ticks::{self, Down, Tick};
use super::topology::{self, RULES, TARGETS};
use crate::leveret::Leveret;

/// Where a node answers.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub amqp: SocketAddr,
    pub http: SocketAddr,
}

impl From<&Leveret> for Place {
    fn from(node: &Leveret) -> Self {
        Self {
            amqp: node.amqp,
            http: node.http,
        }
    }
}

/// Which threads work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// All kinds, and the changes of the topology that belong to a cycle.
    Cycle(usize),
    /// Beside a cycle whose node stands still: writers of its own, no calls.
    Beside,
    /// Nobody writes; consumers take what is left.
    Drain,
}

/// Everything that happened so far.
#[derive(Debug)]
pub struct Run {
    pub random: Random,
    shared: Shared,
    pub ledger: Ledger,
    pub calls: Calls,
    ticks: Vec<Tick>,
    pub down: Vec<Down>,
    /// The last cycle whose changes of the topology were answered.
    changed: Option<usize>,
    session: u32,
    /// Arrivals from here on are late, in the load that ends next.
    pub late_from: Option<u64>,
    drained_in: Duration,
    topology_faults: Faults,
    call_faults: Faults,
    tick_faults: Faults,
    /// Threads that had to be given up.
    pub stuck: Faults,
}

impl Run {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            shared: Shared::default(),
            ledger: Ledger::new(WRITERS * 2),
            calls: Calls::default(),
            ticks: Vec::new(),
            down: Vec::new(),
            changed: None,
            session: 0,
            late_from: None,
            drained_in: Duration::ZERO,
            topology_faults: Faults::default(),
            call_faults: Faults::default(),
            tick_faults: Faults::default(),
            stuck: Faults::default(),
        }
    }

    /// Messages that arrived so far.
    pub fn arrivals(&self) -> u64 {
        self.shared.order.so_far()
    }

    /// A span in which no server was there, until now. What began it was a moment before the clock
    /// was read; a second is more than it took.
    pub fn was_down(&mut self, from: f64) {
        self.down.push(Down {
            from: from - 1.0,
            to: ticks::clock(),
        });
    }

    /// Is what was declared and called there, after a fault?
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn verify(&mut self, place: Place) -> Result<()> {
        topology::verify(place.amqp, self.changed, &mut self.topology_faults)?;
        self.calls.verify(place.http, &mut self.call_faults)
    }

    /// Consumes everything that is left, then sees every call to its end.
    ///
    /// # Errors
    /// The server cannot be asked, or it takes too long.
    pub fn drain(&mut self, place: Place) -> Result<()> {
        let started = Instant::now();
        let drained = self.under_load(place, Work::Drain, |run, shared| {
            let mut peer = Peer::connect(place.amqp)?;
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
                .finish(place.http, CALLS_MAX, &mut run.call_faults)?;
            // Some seconds with the server up, so that ticks without gaps are seen.
            thread::sleep(Duration::from_secs(5).saturating_sub(started.elapsed()));
            shared.stop.store(true, Ordering::Relaxed);
            Ok(())
        });
        drained.map(drop)
    }

    /// Runs `act` while all threads work, and takes their logs when they ended: by the end of
    /// their sockets, or because `act` tells them to stop. Says how writers and consumers ended.
    ///
    /// # Errors
    /// `act` fails.
    pub fn under_load(
        &mut self,
        place: Place,
        work: Work,
        act: impl FnOnce(&mut Self, &Shared) -> Result<()>,
    ) -> Result<Vec<End>> {
        let Place { amqp, http } = place;
        let shared = self.shared.beside();
        let consumers = self.consumers(amqp, work);
        let mut sent = self.take_logs(work);
        // The drain itself waits for the calls; nobody posts then.
        let mut calls = match work {
            Work::Cycle(_) => std::mem::take(&mut self.calls),
            Work::Beside | Work::Drain => Calls::default(),
        };
        let mut call_faults = Faults::default();
        let mut tick_faults = Faults::default();
        let (acted, wrote, consumed, ticks, changed) = thread::scope(|scope| {
            let shared = &shared;
            let writers: Vec<_> = sent
                .iter_mut()
                .map(|(writer, log)| {
                    let writer = *writer;
                    scope.spawn(move || write(amqp, writer, log, shared))
                })
                .collect();
            let consumers: Vec<_> = consumers
                .into_iter()
                .map(|consumer| scope.spawn(move || consumer.run(shared)))
                .collect();
            let ticks = scope.spawn(|| ticks::consume(amqp, shared, &mut tick_faults));
            let worker = scope.spawn(|| calls::work(amqp, shared));
            let cycle = match work {
                Work::Cycle(cycle) => Some(cycle),
                Work::Beside | Work::Drain => None,
            };
            let caller = cycle.map(|_| {
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
            self.await_end(shared, || {
                let writing = writers.iter().filter(|thread| !thread.is_finished());
                let consuming = consumers.iter().filter(|thread| !thread.is_finished());
                (writing.count(), consuming.count())
            });
            // Whoever else still waits is not asked for more.
            shared.stop.store(true, Ordering::Relaxed);
            let wrote: Vec<Wrote> = writers.into_iter().map(join).collect();
            let consumed: Vec<Consumed> = consumers.into_iter().map(join).collect();
            caller.map(join);
            join(worker);
            (acted, wrote, consumed, join(ticks), changer.and_then(join))
        });
        if let Work::Cycle(_) = work {
            self.calls = calls;
        }
        self.call_faults.append(call_faults);
        self.tick_faults.append(tick_faults);
        self.ticks.extend(ticks);
        self.changed = changed.or(self.changed);
        for (writer, log) in sent {
            self.ledger.writers[usize::from(writer)] = log;
        }
        let ends = self.take_over(wrote, consumed);
        acted.map(|()| ends)
    }

    /// Waits until nobody works; after a generous time the rest is given up.
    fn await_end(&mut self, shared: &Shared, left: impl Fn() -> (usize, usize)) {
        let begun = Instant::now();
        loop {
            let (writing, consuming) = left();
            if writing + consuming == 0 {
                return;
            }
            if begun.elapsed() > END_MAX {
                self.stuck.add(|| {
                    format!("{writing} writers and {consuming} consumers wait after {END_MAX:?}")
                });
                return shared.abandon.store(true, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn take_over(&mut self, wrote: Vec<Wrote>, consumed: Vec<Consumed>) -> Vec<End> {
        let late_from = self.late_from.take().unwrap_or(u64::MAX);
        let mut ends = Vec::new();
        for wrote in wrote {
            self.ledger.nacked += wrote.nacked;
            self.ledger.returned += wrote.returned;
            ends.push(wrote.end);
        }
        for mut consumed in consumed {
            for delivery in &mut consumed.deliveries {
                delivery.late = delivery.at >= late_from;
            }
            self.ledger.deliveries.append(&mut consumed.deliveries);
            self.ledger.damaged.append(&mut consumed.damaged);
            ends.push(consumed.end);
        }
        ends
    }

    /// The logs of the writers that work, which come back when they ended.
    fn take_logs(&mut self, work: Work) -> Vec<(u16, Sent)> {
        let writers = match work {
            Work::Cycle(_) => 0..WRITERS,
            Work::Beside => WRITERS..WRITERS * 2,
            Work::Drain => 0..0,
        };
        let logs = (0..).zip(&mut self.ledger.writers);
        let own = logs.filter(|(writer, _)| writers.contains(&usize::from(*writer)));
        own.map(|(writer, log)| (writer, std::mem::take(log)))
            .collect()
    }

    fn consumers(&mut self, address: SocketAddr, work: Work) -> Vec<Consumer> {
        let (manner, queues) = match work {
            Work::Drain => (Manner::AckAll, RULES.len()),
            Work::Cycle(_) | Work::Beside => (Manner::AtRandom, TARGETS),
        };
        let mut consumers = Vec::new();
        for (queue, rule) in (0..).zip(&RULES[..queues]) {
            for _ in 0..if rule.one_consumer { 1 } else { 2 } {
                self.session += 1;
                consumers.push(Consumer {
                    address,
                    queue,
                    session: self.session,
                    manner,
                    seed: self.random.draw(),
                });
            }
        }
        consumers
    }

    /// Judges everything, prints a summary between `head` and `tail`, and each fault.
    ///
    /// # Errors
    /// A promise was broken, or there was no load.
    #[expect(
        clippy::print_stdout,
        reason = "the summary is for whoever reads the test run"
    )]
    pub fn judge(&mut self, head: &str, tail: &str) -> Result<()> {
        let verdict = check(&mut self.ledger, &RULES);
        ticks::check(&self.ticks, &self.down, &mut self.tick_faults);
        println!("{head}; {}; {tail}", self.summary(&verdict));
        let mut clean = true;
        let own = [
            ("topology", &self.topology_faults),
            ("calls", &self.call_faults),
            ("ticks", &self.tick_faults),
            ("stuck", &self.stuck),
        ];
        for (kind, faults) in verdict.faults().chain(own) {
            clean &= faults.count == 0;
            for fault in &faults.first {
                println!("FAULT    {kind}: {fault}");
            }
        }
        ensure!(
            self.ledger.returned == 0,
            "{} messages found no queue",
            self.ledger.returned
        );
        ensure!(
            self.ledger.confirmed() > 0,
            "nothing was confirmed: no load, no test"
        );
        ensure!(clean, "promises were broken, see above");
        Ok(())
    }

    fn summary(&self, verdict: &Verdict) -> String {
        let counts: Vec<_> = verdict
            .faults()
            .map(|(kind, faults)| format!("{kind} {}", faults.count))
            .collect();
        format!(
            "{} sent, {} confirmed, {} received ({} flagged, {} late), {} dead-lettered, {} \
             refused; {}; topology faults {}; {} calls ({} succeeded, {} failed, {} repeated, {} \
             let go), faults {}; {} ticks, faults {}; drain {:.1} s",
            self.ledger.sent(),
            self.ledger.confirmed(),
            verdict.received,
            verdict.redelivered,
            verdict.late,
            verdict.dead_lettered,
            self.ledger.nacked,
            counts.join(", "),
            self.topology_faults.count,
            self.calls.accepted.len(),
            self.calls.count("succeeded"),
            self.calls.count("failed"),
            self.calls.repeated,
            self.calls.refused,
            self.call_faults.count,
            self.ticks.len(),
            self.tick_faults.count,
            self.drained_in.as_secs_f64(),
        )
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Of a cycle; as many again beside it.
const WRITERS: usize = 4;
const DRAIN_MAX: Duration = Duration::from_secs(120);
const CALLS_MAX: Duration = Duration::from_secs(90);
/// For threads that wait for a server: longer than it needs in any fault.
const END_MAX: Duration = Duration::from_secs(60);
