//! The peer on PostgreSQL: a queue as a table, taken from with `for update skip locked`.
//!
//! Keeps: what is said to be confirmed is committed with `synchronous_commit = on`; the same
//! numbers, bodies and window as through a broker.
//! Never: is made slower than it has to be. Rows come and go by the batch, statements are prepared
//! once, each is a transaction of its own and so one trip, and producers do not run away from
//! consumers. A consumer that died would lose the batch it had taken, which spares the peer a trip.
//! In: `main`. One thread for all producers, one for all consumers, as with a broker.

use std::cell::RefCell;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio_postgres::types::Type;

use crate::broker::Kind;
use crate::control::{Control, Phase, sharpen_timers, thread_cpu_ns};
use crate::database::{self, Database, PEER_SCHEMA};
use crate::latency::Latency;
use crate::measurement::Measurement;
use crate::run::{self, Timing, join, mib, per_message_us, wait_for_drain, watch};
use crate::sequence::{Checker, Place, Tally};
use crate::soak;
use crate::wire::{self, Fields};
use crate::workload::{Shape, Workload};

/// Sessions that insert; together they have no more unconfirmed than the window.
const PRODUCERS: u8 = 4;
/// Sessions that take: on two cores neither 2, 4 nor 16 gave more.
const CONSUMERS: usize = 8;
/// As many as a consumer of the broker acks at once. With 500 it takes about twice as many a
/// second.
const TAKEN_AT_ONCE: usize = 100;
/// How far producers may be ahead: a short table is quicker to take from.
const LEAD_MAX: u64 = 10_000;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// True for workloads that the peer can play: one queue, one rate, no rules.
pub(crate) fn can_play(workload: &Workload) -> bool {
    let shape = matches!(
        workload.shape,
        Shape::OneQueue {
            producers: 1,
            consumers: 1
        } | Shape::Pinned
    );
    shape && workload.window.is_some() && workload.keys.is_none()
}

/// Plays it on the server at `url`.
pub(crate) fn play(url: &str, workload: &Workload, timing: Timing) -> Result<Vec<Measurement>> {
    let database = Database::connect(url)?;
    database.run(&format!(
        "create schema {PEER_SCHEMA}; create table {PEER_SCHEMA}.message \
         (id bigint generated always as identity primary key, body bytea not null)"
    ))?;
    let control = Control::new();
    let mut result = Measurement::new(&workload.name, Kind::SkipLocked, true);
    thread::scope(|scope| {
        let consuming = scope.spawn(|| consume(url, workload, &control));
        let producing = scope.spawn(|| produce(url, workload, &control));
        let of = (&control, timing.window);
        let soaking = soak::spawn(scope, workload, (url, PEER_SCHEMA, None), of);
        let alive = || !consuming.is_finished() && !producing.is_finished();
        let window = measure(&database, &control, timing, alive, &mut result);
        control.enter(Phase::Drain);
        let produced = join(producing, "producers");
        if let Ok(produced) = &produced {
            wait_for_drain(&control, produced.messages, || !consuming.is_finished());
        }
        control.enter(Phase::Done);
        let consumed = join(consuming, "consumers")?;
        let produced = produced?;
        window?;
        result.soak = soaking.map(|soaking| join(soaking, "soak")).transpose()?;
        result.e2e = consumed.latency.quantiles();
        result.confirm = produced.latency.quantiles();
        result.generator_cpu_us = Some(
            per_message_us(produced.cpu_ns, produced.messages)
                + per_message_us(consumed.cpu_ns, consumed.tally.unique),
        );
        result.tally = Some(consumed.tally.settle(produced.messages));
        anyhow::Ok(())
    })?;
    let left = database.number(&format!("select count(*) from {PEER_SCHEMA}.message"))?;
    result.left = left.unsigned_abs();
    Ok(vec![result])
}

fn measure(
    database: &Database,
    control: &Control,
    timing: Timing,
    alive: impl Fn() -> bool,
    result: &mut Measurement,
) -> Result<()> {
    watch(timing.warm_up, &alive)?;
    let (reading, before) = (database.reading()?, run::Counts::of(control));
    control.enter(Phase::Measure);
    watch(timing.window, &alive)?;
    let after = run::Counts::of(control);
    let spent = database.reading()?.since(reading);
    control.enter(Phase::Drain);
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let messages = (after.consumed - before.consumed).max(1) as f64;
    result.messages_per_s = messages / seconds;
    result.published_per_s = Some((after.published - before.published) as f64 / seconds);
    result.written_mib = Some(mib(spent.wal_bytes));
    result.fsyncs_per_s = spent.wal_syncs.map(|count| count as f64 / seconds);
    result.database_cpu_us = spent.cpu_us.map(|us| us / messages);
    Ok(())
}

/// What a thread did.
struct Summary {
    messages: u64,
    latency: Latency,
    tally: Tally,
    cpu_ns: u64,
}

fn produce(url: &str, workload: &Workload, control: &Control) -> Result<Summary> {
    sharpen_timers();
    let cpu_before = thread_cpu_ns();
    let window = workload.window.unwrap_or(1);
    let batch = (window / usize::from(PRODUCERS)).max(1);
    let latency = RefCell::new(Latency::new());
    let sessions =
        (0..PRODUCERS).map(|id| insert(url, (id, batch), workload.body_bytes, control, &latency));
    let counts = database::runtime()?.block_on(try_join_all(sessions))?;
    Ok(Summary {
        messages: counts.into_iter().sum(),
        latency: latency.into_inner(),
        tally: Tally::default(),
        cpu_ns: thread_cpu_ns() - cpu_before,
    })
}

/// One session that inserts by the batch; how many messages.
async fn insert(
    url: &str,
    (id, batch): (u8, usize),
    body_bytes: usize,
    control: &Control,
    latency: &RefCell<Latency>,
) -> Result<u64> {
    let client = database::connect(url).await?;
    let text = format!("insert into {PEER_SCHEMA}.message (body) select unnest($1::bytea[])");
    let statement = client.prepare_typed(&text, &[Type::BYTEA_ARRAY]).await?;
    let mut bodies = vec![vec![0; body_bytes]; batch];
    let mut seq = 0;
    while control.phase() < Phase::Drain {
        if control.published().saturating_sub(control.consumed()) >= LEAD_MAX {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        let at = control.now_ns();
        for body in &mut bodies {
            body[..8].copy_from_slice(&u64::to_be_bytes(seq));
            body[8..16].copy_from_slice(&wire::mark(id, at).to_be_bytes());
            seq += 1;
        }
        control.add_published(batch as u64);
        client.execute(&statement, &[&bodies]).await?;
        control.add_confirmed(batch as u64);
        if control.phase() == Phase::Measure {
            let took = control.now_ns() - at;
            (0..batch).for_each(|_| latency.borrow_mut().record(took));
        }
    }
    Ok(seq)
}

fn consume(url: &str, workload: &Workload, control: &Control) -> Result<Summary> {
    sharpen_timers();
    let cpu_before = thread_cpu_ns();
    let checker = Checker::new(1, CONSUMERS, usize::from(PRODUCERS));
    let seen = RefCell::new((checker, Latency::new()));
    let sessions =
        (0..CONSUMERS).map(|index| take(url, index, workload.body_bytes, control, &seen));
    database::runtime()?.block_on(try_join_all(sessions))?;
    let (checker, latency) = seen.into_inner();
    Ok(Summary {
        messages: checker.tally().unique,
        latency,
        tally: checker.tally(),
        cpu_ns: thread_cpu_ns() - cpu_before,
    })
}

/// One session that takes by the batch until the end of the run.
async fn take(
    url: &str,
    index: usize,
    body_bytes: usize,
    control: &Control,
    seen: &RefCell<(Checker, Latency)>,
) -> Result<()> {
    let client = database::connect(url).await?;
    let text = format!(
        "delete from {PEER_SCHEMA}.message where id = any(array( \
         select id from {PEER_SCHEMA}.message order by id \
         limit {TAKEN_AT_ONCE} for update skip locked)) returning id, body"
    );
    let statement = client.prepare(&text).await?;
    let place = Place {
        stream: 0,
        consumer: index,
        redelivered: false,
    };
    while control.phase() < Phase::Done {
        let mut rows = client.query(&statement, &[]).await?;
        if rows.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        // A statement returns rows as it meets them.
        rows.sort_by_key(|row| row.get::<_, i64>(0));
        let (now, measuring) = (control.now_ns(), control.phase() == Phase::Measure);
        let (checker, latency) = &mut *seen.borrow_mut();
        for row in &rows {
            let body: &[u8] = row.try_get(1)?;
            let mut fields = Fields(body);
            let (seq, mark) = (fields.u64()?, fields.u64()?);
            let (producer, at_ns) = wire::unmark(mark);
            checker.note(place, producer, seq);
            if body.len() != body_bytes {
                checker.note_damaged();
            }
            if measuring {
                latency.record(now.saturating_sub(at_ns));
            }
        }
        control.add_consumed(rows.len() as u64);
    }
    Ok(())
}
