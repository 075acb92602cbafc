//! Reads beside the commits.
//!
//! Keeps: each sees whole commits only; `load` is one snapshot. Header scans never name a blob
//! column.
//! Never: writes.
//! In: `Postgres`, for every verb that reads.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::access;
use super::journal::{Line, State};
use super::session::{Fault, Session};
use super::slots::{Place, SLOTS, Slots};
use super::statement::{self, Text};
use super::value::{
    Decoded, Value, Words, bits, name, number, small, some_text, text, word, wrong,
};
use crate::log::batch::{DeduplicationRow, RetainedRow, SegmentRow, WaitingRow};
use crate::model::*;
use crate::sql::{
    BackendError, Cursor, Exported, Image, JobFilter, SegmentBody, SegmentHeader, WaitingHeader,
};

type Answer<T> = Result<T, tokio_postgres::Error>;

/// All that a start finds: what is declared and where everything stands.
pub(super) struct Found {
    pub(super) image: Image,
    pub(super) state: State,
    pub(super) slots: Slots,
    /// Which journal lines go to, and its length, about.
    pub(super) journal: usize,
    pub(super) journal_bytes: u64,
    /// The other journal has lines that are not needed.
    pub(super) stale_journal: bool,
}

/// One snapshot of everything.
pub(super) async fn find(session: &mut Session) -> Result<Found, BackendError> {
    session.run(SNAPSHOT).await.map_err(failed)?;
    let found = find_all(session).await;
    let ended = session.run("commit").await;
    let found = found?;
    ended.map_err(failed)?;
    Ok(found)
}

const SNAPSHOT: &str = "begin isolation level repeatable read, read only";

/// The same, in a snapshot that stays: whatever is read afterwards is of the same commit. It holds
/// every table, so that none is truncated meanwhile.
pub(super) async fn stay(session: &mut Session) -> Result<Found, BackendError> {
    session.run(PATIENCE).await.map_err(failed)?;
    session.run(SNAPSHOT).await.map_err(failed)?;
    Ok(find_all(session).await?)
}

/// A check may think for long between two reads.
const PATIENCE: &str =
    "set idle_in_transaction_session_timeout = 0; set statement_timeout = 0; set lock_timeout = 0";

async fn find_all(session: &mut Session) -> Answer<Found> {
    let mut lines: Vec<(usize, Line)> = Vec::new();
    for journal in 0..2 {
        let text = Text::of_slot(statement::JOURNAL_LIST, journal);
        let found = session.each(text, Line::read).await?;
        lines.extend(found.into_iter().map(|line| (journal, line)));
    }
    lines.sort_by_key(|(_, line)| line.position);
    let mut state = State::default();
    for (_, line) in &lines {
        state.take(line, true);
    }
    let journal = lines.last().map_or(0, |(journal, _)| *journal);
    let here = lines.iter().filter(|(at, _)| *at == journal);
    let journal_bytes = here.map(|(_, line)| line.bytes()).sum();
    let stale_journal = lines.iter().any(|(at, _)| *at != journal);
    drop(lines);
    let mut slots = Slots::default();
    slots.turn_to(state.slot);
    let mut image = definitions(session).await?;
    for slot in 0..SLOTS {
        let text = Text::of_slot(statement::SEGMENT_LIST, slot);
        for (header, bytes) in session
            .each(text, |row| Ok((segment(row)?, number(row, 9)?)))
            .await?
        {
            if state.is_gone(header.id) {
                slots.put_dead(slot, bytes);
                continue;
            }
            let queue = header.queue;
            slots.put(header.id, Place { queue, slot, bytes });
            image.segments.push(header);
        }
        let text = Text::of_slot(statement::WAITING_LIST, slot);
        for (header, bytes) in session
            .each(text, |row| Ok((waiting(row)?, number(row, 4)?)))
            .await?
        {
            slots.put_waiting(slot, header.queue, header.seq, bytes);
            image.waiting.push(header);
        }
    }
    state.read_whole();
    image.heads = state.heads.values().copied().collect();
    image.heads.sort_unstable_by_key(|row| row.queue);
    image.settled = settled(&state);
    let queues = image.queues.iter().map(|queue| queue.id.0);
    image.last_queue_id = queues.max().unwrap_or(0).max(state.last_queue);
    let segments = image.segments.iter().map(|segment| segment.id.0);
    image.last_segment_id = segments.max().unwrap_or(0).max(state.last_segment);
    Ok(Found {
        image,
        state,
        slots,
        journal,
        journal_bytes,
        stale_journal,
    })
}

fn settled(state: &State) -> Vec<(SegmentId, Vec<u8>)> {
    let rows = state.settled.values();
    let mut rows: Vec<_> = rows.map(|row| (row.segment, row.bits.clone())).collect();
    rows.sort_unstable_by_key(|(id, _)| *id);
    rows
}

async fn definitions(session: &mut Session) -> Answer<Image> {
    use statement::*;
    Ok(Image {
        vhosts: session.each(VHOST_LIST, access::vhost).await?,
        users: session.each(USER_LIST, access::user).await?,
        permissions: session.each(PERMISSION_LIST, access::permission).await?,
        topic_permissions: session
            .each(TOPIC_PERMISSION_LIST, access::topic_permission)
            .await?,
        policies: session.each(POLICY_LIST, access::policy).await?,
        parameters: session.each(PARAMETER_LIST, access::parameter).await?,
        limits: session.each(LIMIT_VALUE_LIST, access::limit).await?,
        exchanges: session.each(EXCHANGE_LIST, exchange).await?,
        queues: session.each(QUEUE_LIST, queue).await?,
        bindings: session.each(BINDING_LIST, binding).await?,
        retained: session.each(RETAINED_LIST, retained).await?,
        schedules: session.each(SCHEDULE_LIST, schedule).await?,
        redrives: session.each(REDRIVE_LIST, redrive).await?,
        deduplication: session.each(DEDUPLICATION_LIST, deduplication).await?,
        ..Image::default()
    })
}

/// From the slot where it was a moment ago; if it has moved since, from wherever it stands, in one
/// snapshot.
pub(super) async fn read_segment(
    session: &mut Session,
    id: SegmentId,
    slot: usize,
) -> Answer<Option<SegmentBody>> {
    let body = |row: &Row| {
        Ok(SegmentBody {
            index: row.try_get(0)?,
            data: row.try_get(1)?,
        })
    };
    for text in [
        Text::of_slot(statement::SEGMENT_READ, slot),
        statement::SEGMENT_READ_ANY.into(),
    ] {
        let rows = session.rows(text, vec![Box::new(bits(id.0))]).await?;
        if let Some(row) = rows.first() {
            return body(row).map(Some);
        }
    }
    Ok(None)
}

/// From the one slot that has some; where several have, or rows move, from all in one snapshot.
pub(super) async fn read_waiting(
    session: &mut Session,
    queue: QueueId,
    seqs: &[Seq],
    slots: &[usize],
) -> Answer<Vec<WaitingRow>> {
    let mut found = Vec::new();
    if let [slot] = *slots {
        let text = Text::of_slot(statement::WAITING_READ, slot);
        found = read_rows(session, queue, seqs, text).await?;
    }
    if found.len() < seqs.len() {
        found = read_rows(session, queue, seqs, statement::WAITING_READ_ANY.into()).await?;
    }
    let places: HashMap<Seq, usize> = seqs.iter().copied().zip(0..).collect();
    found.sort_unstable_by_key(|row| places.get(&row.seq).copied());
    Ok(found)
}

async fn read_rows(
    session: &mut Session,
    queue: QueueId,
    seqs: &[Seq],
    text: Text,
) -> Answer<Vec<WaitingRow>> {
    let wanted: Vec<i64> = seqs.iter().map(|seq| bits(*seq)).collect();
    let values: Vec<Value<'_>> = vec![Box::new(bits(queue.0)), Box::new(wanted)];
    let row = |row: &Row| {
        Ok(WaitingRow {
            queue,
            seq: number(row, 0)?,
            due_at: row.try_get(1)?,
            attempt: small(row, 2)?,
            accepted_at: row.try_get(3)?,
            index: row.try_get(4)?,
            data: row.try_get(5)?,
        })
    };
    session.rows(text, values).await?.iter().map(row).collect()
}

/// Rows that only checks and copies ask for, behind a key.
pub(super) async fn page(
    session: &mut Session,
    after: &Cursor,
    limit: u32,
) -> Answer<Vec<Exported>> {
    let (sql, mut values): (&'static str, Vec<Value<'_>>) = match after {
        Cursor::Damaged(id) => (statement::DAMAGED_SEGMENT_PAGE, vec![Box::new(bits(id.0))]),
        Cursor::Result(id) => (statement::JOB_RESULT_PAGE, vec![Box::new(&id.0[..])]),
        Cursor::Claim(scope) => (statement::JOB_KEY_PAGE, vec![Box::new(Words(scope))]),
        Cursor::Fire(schedule, nominal_at) => (
            statement::FIRE_PAGE,
            vec![Box::new(Words(schedule)), Box::new(*nominal_at)],
        ),
    };
    values.push(Box::new(i64::from(limit)));
    let rows = session.rows(sql, values).await?;
    let read = |row: &Row| {
        Ok(match after {
            Cursor::Damaged(_) => {
                let header = segment(row)?;
                Exported::Damaged(SegmentRow {
                    id: header.id,
                    queue: header.queue,
                    first_seq: header.first_seq,
                    last_seq: header.last_seq,
                    count: header.count,
                    bytes: header.bytes,
                    transient: header.transient,
                    first_at: header.first_at,
                    last_at: header.last_at,
                    index: row.try_get(9)?,
                    data: row.try_get(10)?,
                })
            }
            Cursor::Result(_) => Exported::Result(job_id(row, 0)?, number(row, 1)?),
            Cursor::Claim(_) => Exported::Claim(claim(row)?, row.try_get(4)?),
            Cursor::Fire(..) => Exported::Fire(FireRow {
                schedule: text(row, 0)?,
                nominal_at: row.try_get(1)?,
                fired_at: row.try_get(2)?,
            }),
        })
    };
    rows.iter().map(read).collect()
}

fn claim(row: &Row) -> Decoded<KeyClaim> {
    Ok(KeyClaim {
        scope: text(row, 0)?,
        job: job_id(row, 1)?,
        fingerprint: bytes(row, 2)?,
        expires_at: row.try_get(3)?,
    })
}

pub(super) async fn damaged_segments(session: &mut Session) -> Answer<Vec<SegmentHeader>> {
    session.each(statement::DAMAGED_SEGMENT_LIST, segment).await
}

pub(super) async fn read_job(session: &mut Session, id: JobId) -> Answer<Option<Job>> {
    let rows = session
        .rows(statement::JOB_READ, vec![Box::new(&id.0[..])])
        .await?;
    rows.first().map(job).transpose()
}

pub(super) async fn read_job_result(session: &mut Session, id: JobId) -> Answer<Option<JobResult>> {
    let rows = session
        .rows(statement::JOB_RESULT_READ, vec![Box::new(&id.0[..])])
        .await?;
    let result = |row: &Row| {
        Ok(JobResult {
            content_type: some_text(row, 0)?,
            content_encoding: some_text(row, 1)?,
            body: row.try_get(2)?,
        })
    };
    rows.first().map(result).transpose()
}

pub(super) async fn key_claim(
    session: &mut Session,
    scope: &str,
    now: Micros,
) -> Answer<Option<KeyClaim>> {
    let values: Vec<Value<'_>> = vec![Box::new(Words(scope)), Box::new(now)];
    let rows = session.rows(statement::JOB_KEY_READ, values).await?;
    rows.first().map(claim).transpose()
}

pub(super) async fn list_jobs(session: &mut Session, filter: JobFilter) -> Answer<Vec<Job>> {
    // One byte longer than an id, so above each of them.
    let before = filter
        .before
        .map_or_else(|| vec![0xff; 17], |id| id.0.to_vec());
    let mut values: Vec<Value<'_>> = vec![
        Box::new(before),
        Box::new(filter.vhost.as_deref().map(Words)),
        Box::new(filter.target.as_deref().map(Words)),
        Box::new(i64::from(filter.limit)),
    ];
    let sql = match filter.state {
        Some(state) => {
            values.push(Box::new(state.as_str()));
            statement::JOB_LIST_IN_STATE
        }
        None => statement::JOB_LIST,
    };
    session.rows(sql, values).await?.iter().map(job).collect()
}

pub(super) async fn job_counts(session: &mut Session) -> Answer<Vec<(JobState, u64)>> {
    let count = |row: &Row| Ok((word(row, 0, JobState::parse)?, number(row, 1)?));
    session.each(statement::JOB_COUNT, count).await
}

pub(super) async fn overdue_jobs(
    session: &mut Session,
    now: Micros,
    limit: u32,
) -> Answer<Vec<Job>> {
    let values: Vec<Value<'_>> = vec![Box::new(now), Box::new(i64::from(limit))];
    let rows = session.rows(statement::JOB_LIST_OVERDUE, values).await?;
    rows.iter().map(job).collect()
}

pub(super) fn failed(fault: Fault) -> BackendError {
    BackendError(match fault {
        Fault::Fenced => "another node owns the store".into(),
        Fault::Refused(text) | Fault::Full(text) | Fault::Lost(text) => text,
    })
}

impl From<tokio_postgres::Error> for BackendError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(super::session::describe(&error))
    }
}

fn bytes<const N: usize>(row: &Row, at: usize) -> Decoded<[u8; N]> {
    let found: &[u8] = row.try_get(at)?;
    found.try_into().map_err(|_| wrong(row, at))
}

fn job_id(row: &Row, at: usize) -> Decoded<JobId> {
    Ok(JobId(bytes(row, at)?))
}

fn exchange(row: &Row) -> Decoded<ExchangeSpec> {
    Ok(ExchangeSpec {
        vhost: name(row, 0)?,
        name: name(row, 1)?,
        kind: text(row, 2)?,
        durable: row.try_get(3)?,
        auto_delete: row.try_get(4)?,
        internal: row.try_get(5)?,
        arguments: row.try_get(6)?,
    })
}

fn queue(row: &Row) -> Decoded<QueueSpec> {
    Ok(QueueSpec {
        id: QueueId(number(row, 0)?),
        vhost: name(row, 1)?,
        name: name(row, 2)?,
        durable: row.try_get(3)?,
        exclusive: row.try_get(4)?,
        auto_delete: row.try_get(5)?,
        work: row.try_get(6)?,
        arguments: row.try_get(7)?,
        paused: row.try_get(8)?,
    })
}

fn binding(row: &Row) -> Decoded<BindingSpec> {
    let destination_kind = match row.try_get::<_, &str>(2)? {
        "queue" => DestinationKind::Queue,
        _ => DestinationKind::Exchange,
    };
    Ok(BindingSpec {
        vhost: name(row, 0)?,
        source: name(row, 1)?,
        destination_kind,
        destination: name(row, 3)?,
        routing_key: row.try_get(4)?,
        arguments: row.try_get(5)?,
    })
}

fn segment(row: &Row) -> Decoded<SegmentHeader> {
    Ok(SegmentHeader {
        id: SegmentId(number(row, 0)?),
        queue: QueueId(number(row, 1)?),
        first_seq: number(row, 2)?,
        last_seq: number(row, 3)?,
        count: small(row, 4)?,
        bytes: number(row, 5)?,
        transient: row.try_get(6)?,
        first_at: row.try_get(7)?,
        last_at: row.try_get(8)?,
    })
}

fn retained(row: &Row) -> Decoded<RetainedRow> {
    Ok(RetainedRow {
        segment: SegmentId(number(row, 0)?),
        queue: QueueId(number(row, 1)?),
        settled_at: row.try_get(2)?,
    })
}

fn waiting(row: &Row) -> Decoded<WaitingHeader> {
    Ok(WaitingHeader {
        queue: QueueId(number(row, 0)?),
        seq: number(row, 1)?,
        due_at: row.try_get(2)?,
        attempt: small(row, 3)?,
    })
}

fn schedule(row: &Row) -> Decoded<ScheduleRow> {
    Ok(ScheduleRow {
        name: text(row, 0)?,
        spec_hash: number(row, 1)?,
        last_nominal_at: row.try_get(2)?,
    })
}

fn deduplication(row: &Row) -> Decoded<DeduplicationRow> {
    Ok(DeduplicationRow {
        queue: QueueId(number(row, 0)?),
        newest_ms: row.try_get(1)?,
        entries: row.try_get(2)?,
    })
}

fn redrive(row: &Row) -> Decoded<RedriveRow> {
    Ok(RedriveRow {
        id: name(row, 0)?,
        queue: QueueId(number(row, 1)?),
        vhost: name(row, 2)?,
        source: name(row, 3)?,
        target: some_text(row, 4)?.map(Into::into),
        filter: row.try_get(5)?,
        rate: row.try_get(6)?,
        until: number(row, 7)?,
        next: number(row, 8)?,
        moved: number(row, 9)?,
        skipped: number(row, 10)?,
        state: word(row, 11, RedriveState::parse)?,
        detail: text(row, 12)?,
        created_at: row.try_get(13)?,
        ended_at: row.try_get(14)?,
        kind: word(row, 15, RedriveKind::parse)?,
    })
}

fn job(row: &Row) -> Decoded<Job> {
    let result = match row.try_get::<_, Option<i64>>(19)? {
        None => None,
        Some(bytes) => Some(ResultMeta {
            content_type: some_text(row, 17)?,
            content_encoding: some_text(row, 18)?,
            bytes: bytes.cast_unsigned(),
        }),
    };
    let error = some_text(row, 15)?.zip(some_text(row, 16)?);
    Ok(Job {
        id: job_id(row, 0)?,
        vhost: name(row, 1)?,
        target: text(row, 2)?,
        principal: text(row, 3)?,
        state: word(row, 4, JobState::parse)?,
        attempt: small(row, 5)?,
        max_attempts: small(row, 6)?,
        created_at: row.try_get(7)?,
        started_at: row.try_get(8)?,
        completed_at: row.try_get(9)?,
        next_attempt_at: row.try_get(10)?,
        deadline_at: row.try_get(11)?,
        expires_at: row.try_get(12)?,
        result_ttl_ms: row.try_get(13)?,
        idempotency_key: some_text(row, 14)?,
        error: error.map(|(code, detail)| JobError { code, detail }),
        result,
    })
}
