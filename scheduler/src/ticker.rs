//! Schedules into messages: sleeps to the next nominal time and commits what is due. A shell.
//!
//! Keeps: one message per nominal time (I7): the ledger line and the message are one commit, and
//! a schedule moves on only after that commit.
//! Never: decides what is due (`cron::Plan` does) or encodes AMQP (the schedule brings its own).
//! In: the gateway's node starts it with the configured schedules; its HTTP side reads `next`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use store::model::{Micros, ScheduleRow};
use store::{Fire, Result, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cron::Plan;

/// The longest sleep: a clock that was set is noticed after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Ticks in one commit, at most; what is left goes into the next one.
const FIRES_PER_COMMIT: usize = 1_000;

/// The raw AMQP properties of one tick: schedule name, nominal time, time of publishing.
pub type Encode = Arc<dyn Fn(&str, Timestamp, Timestamp) -> Vec<u8> + Send + Sync>;

/// One schedule as configured and checked.
#[derive(Clone)]
pub struct Schedule {
    pub name: String,
    pub plan: Plan,
    pub vhost: String,
    /// Empty: the default exchange, and `routing_key` is a queue that is declared when missing.
    pub exchange: String,
    pub routing_key: String,
    pub body: Vec<u8>,
    pub encode: Encode,
    /// Changes with whatever decides the nominal times; then the ledger restarts at now.
    pub spec_hash: u64,
}

/// What is known of a schedule at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub cron: String,
    pub zone: String,
    pub vhost: String,
    pub exchange: String,
    pub routing_key: String,
    /// The next nominal time; `None` when the schedule is over.
    pub next_at: Option<Timestamp>,
    /// The newest nominal time that fired since this process started.
    pub last_at: Option<Timestamp>,
}

/// A running ticker. Cheap to share by reference; `stop` ends it.
pub struct Ticker {
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
    board: Arc<Mutex<Vec<Status>>>,
}

struct Entry {
    schedule: Schedule,
    last_nominal: Timestamp,
    next: Option<Timestamp>,
}

impl Ticker {
    /// Declares the target queues, brings the ledger in line with the schedules, and starts.
    ///
    /// # Errors
    /// The store's, when a queue or a ledger line cannot be made.
    pub async fn start(store: Store, schedules: Vec<Schedule>) -> Result<Self> {
        let entries = prepare(&store, schedules).await?;
        let board = Arc::new(Mutex::new(entries.iter().map(Entry::status).collect()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(store, entries, board.clone(), stopped));
        Ok(Self {
            stop,
            task: Mutex::new(Some(task)),
            board,
        })
    }

    /// Returns when the commit under way has ended.
    pub async fn stop(&self) {
        let _ = self.stop.send(true);
        let task = lock(&self.task).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    /// All schedules, in the order of the configuration.
    pub fn statuses(&self) -> Vec<Status> {
        lock(&self.board).clone()
    }
}

impl Entry {
    fn status(&self) -> Status {
        let schedule = &self.schedule;
        Status {
            name: schedule.name.clone(),
            cron: schedule.plan.expression.source().to_owned(),
            zone: schedule.plan.zone.iana_name().unwrap_or("UTC").to_owned(),
            vhost: schedule.vhost.clone(),
            exchange: schedule.exchange.clone(),
            routing_key: schedule.routing_key.clone(),
            next_at: self.next,
            last_at: None,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    fn fire(&self, nominal: Timestamp, now: Timestamp) -> Fire {
        let schedule = &self.schedule;
        Fire {
            schedule: schedule.name.clone(),
            spec_hash: schedule.spec_hash,
            nominal_at: nominal.as_microsecond(),
            vhost: schedule.vhost.clone(),
            exchange: schedule.exchange.clone(),
            routing_key: schedule.routing_key.clone(),
            properties: (schedule.encode)(&schedule.name, nominal, now),
            body: schedule.body.clone(),
        }
    }
}

async fn prepare(store: &Store, schedules: Vec<Schedule>) -> Result<Vec<Entry>> {
    let known = store.schedule_rows();
    let mut entries = Vec::with_capacity(schedules.len());
    for schedule in schedules {
        if schedule.exchange.is_empty() {
            store
                .declare_work_queue(&schedule.vhost, &schedule.routing_key)
                .await?;
        }
        let row = known
            .iter()
            .find(|row| row.name == schedule.name && row.spec_hash == schedule.spec_hash);
        let last = match row {
            Some(row) => row.last_nominal_at,
            None => {
                let last_nominal_at = store.now();
                let (name, spec_hash) = (schedule.name.clone(), schedule.spec_hash);
                store
                    .put_schedule(ScheduleRow {
                        name,
                        spec_hash,
                        last_nominal_at,
                    })
                    .await?;
                last_nominal_at
            }
        };
        let last_nominal = instant(last);
        let next = schedule.plan.next_after(last_nominal);
        entries.push(Entry {
            schedule,
            last_nominal,
            next,
        });
    }
    Ok(entries)
}

async fn run(
    store: Store,
    mut entries: Vec<Entry>,
    board: Arc<Mutex<Vec<Status>>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let now = instant(store.now());
        let pause = if let Err(error) = fire_due(&store, &mut entries, &board, now).await {
            tracing::error!(%error, "ticks could not be stored, trying again");
            LOOK_AGAIN
        } else {
            pause(&entries, instant(store.now()))
        };
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Commits what is due at `now`, and moves the schedules on.
async fn fire_due(
    store: &Store,
    entries: &mut [Entry],
    board: &Mutex<Vec<Status>>,
    now: Timestamp,
) -> Result<()> {
    for (index, entry) in entries.iter_mut().enumerate() {
        if !entry.is_due(now) {
            continue;
        }
        let due = entry.schedule.plan.due(entry.last_nominal, now);
        if due.skipped {
            tracing::warn!(
                schedule = entry.schedule.name,
                "ticks were missed and left out"
            );
        }
        for nominals in due.fire.chunks(FIRES_PER_COMMIT) {
            let fires = nominals.iter().map(|nominal| entry.fire(*nominal, now));
            store.fire(fires.collect()).await?;
            let Some(last) = nominals.last() else {
                continue;
            };
            entry.last_nominal = *last;
            count(&entry.schedule.name, nominals.len() as u64, *last, now);
        }
        entry.next = due.next;
        let mut board = lock(board);
        if let Some(status) = board.get_mut(index) {
            status.next_at = due.next;
            status.last_at = due.fire.last().copied().or(status.last_at);
        }
    }
    Ok(())
}

fn count(schedule: &str, fires: u64, nominal: Timestamp, now: Timestamp) {
    let label = || schedule.to_owned();
    let late = now.duration_since(nominal).as_secs_f64();
    metrics::counter!("leveret_schedule_fires_total", "schedule" => label()).increment(fires);
    metrics::gauge!("leveret_schedule_lateness_seconds", "schedule" => label()).set(late);
    metrics::gauge!("leveret_schedule_last_fire_timestamp_seconds", "schedule" => label())
        .set(now.as_microsecond() as f64 / 1e6);
}

fn pause(entries: &[Entry], now: Timestamp) -> Duration {
    let next = entries.iter().filter_map(|entry| entry.next).min();
    next.map_or(LOOK_AGAIN, |next| {
        let left = Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO);
        left.min(LOOK_AGAIN)
    })
}

fn instant(at: Micros) -> Timestamp {
    Timestamp::from_microsecond(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::tz::TimeZone;
    use store::Options;
    use store::sql::memory::Memory;

    use super::*;
    use crate::cron::Expression;

    async fn open() -> Store {
        Store::open(Arc::new(Memory::new()), Options::default())
            .await
            .unwrap()
    }

    fn schedule(cron: &str, spec_hash: u64) -> Schedule {
        let expression = Expression::parse(cron, "report").unwrap();
        Schedule {
            name: "report".into(),
            plan: Plan::new(expression, TimeZone::UTC),
            vhost: "/".into(),
            exchange: String::new(),
            routing_key: "reports".into(),
            body: b"{}".to_vec(),
            encode: Arc::new(|_, _, _| vec![0, 0]),
            spec_hash,
        }
    }

    fn ready(store: &Store) -> u64 {
        store
            .stats()
            .queues
            .iter()
            .find(|queue| &*queue.name == "reports")
            .unwrap()
            .ready
    }

    #[tokio::test]
    async fn a_nominal_time_fires_once_over_restarts() {
        let store = open().await;
        let mut entries = prepare(&store, vec![schedule("0 0 * * *", 1)])
            .await
            .unwrap();
        let board = Mutex::new(entries.iter().map(Entry::status).collect());
        let later = entries[0].next.unwrap();
        fire_due(&store, &mut entries, &board, later).await.unwrap();
        fire_due(&store, &mut entries, &board, later).await.unwrap();
        assert_eq!(ready(&store), 1);
        // A second start knows from the ledger what has fired.
        let mut again = prepare(&store, vec![schedule("0 0 * * *", 1)])
            .await
            .unwrap();
        fire_due(&store, &mut again, &board, later).await.unwrap();
        assert_eq!(ready(&store), 1);
        assert!(again[0].next.unwrap() > later);
        assert_eq!(lock(&board)[0].last_at, Some(later));
    }

    #[tokio::test]
    async fn a_changed_schedule_starts_now() {
        let store = open().await;
        let old = ScheduleRow {
            name: "report".into(),
            spec_hash: 1,
            last_nominal_at: 0,
        };
        store.put_schedule(old).await.unwrap();
        let now = instant(store.now());
        let kept = prepare(&store, vec![schedule("0 0 * * *", 1)])
            .await
            .unwrap();
        assert!(kept[0].is_due(now));
        let changed = prepare(&store, vec![schedule("0 0 * * *", 2)])
            .await
            .unwrap();
        assert!(!changed[0].is_due(now));
    }
}
