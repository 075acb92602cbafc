//! Reads beside the commits, on read-only connections.
//!
//! Keeps: each read runs to its end in a task of this file and sees whole commits only; `load` is
//! one transaction. Header scans never name a blob column.
//! Never: writes.
//! In: `Sqlite` hands in closures; every other verb's query is here.

use std::collections::HashMap;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{Mutex, mpsc};

use super::{access, statement, writer};
use crate::log::batch::{DeduplicationRow, HeadRow, RetainedRow, WaitingRow};
use crate::model::*;
use crate::sql::doomed::{Doomed, prune};
use crate::sql::{Image, JobFilter, SegmentBody, SegmentHeader, WaitingHeader};

pub(super) type Reading<'c, T> = Pin<Box<dyn Future<Output = T> + Send + 'c>>;
/// One read, with its answer sent inside.
pub(super) type Work = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> Reading<'c, ()> + Send>;

/// Serves until every sender is gone. Several of these share one queue of work.
pub(super) async fn run(mut conn: SqliteConnection, works: Arc<Mutex<mpsc::Receiver<Work>>>) {
    loop {
        let next = works.lock().await.recv().await;
        let Some(work) = next else { break };
        work(&mut conn).await;
    }
    let _ = conn.close().await;
}

/// The image, and what it leaves out because only a crash could have left it.
pub(super) async fn load(conn: &mut SqliteConnection) -> Result<(Image, Doomed), sqlx::Error> {
    sqlx::query(statement::TRANSACTION_BEGIN_READ)
        .execute(&mut *conn)
        .await?;
    let loaded = load_all(conn).await;
    sqlx::query(statement::TRANSACTION_COMMIT)
        .execute(conn)
        .await?;
    loaded
}

/// Everything, as it is. A savepoint stands in for the transaction: there may be one already.
pub(super) async fn image(conn: &mut SqliteConnection) -> Result<Image, sqlx::Error> {
    sqlx::query(statement::TRANSACTION_SAVEPOINT)
        .execute(&mut *conn)
        .await?;
    let image = read_all(conn).await.map(sorted);
    sqlx::query(statement::TRANSACTION_RELEASE)
        .execute(conn)
        .await?;
    image
}

async fn load_all(conn: &mut SqliteConnection) -> Result<(Image, Doomed), sqlx::Error> {
    let mut image = read_all(conn).await?;
    let doomed = prune(&mut image);
    Ok((sorted(image), doomed))
}

fn sorted(mut image: Image) -> Image {
    image
        .segments
        .sort_unstable_by_key(|row| (row.queue, row.first_seq, row.id));
    image
        .waiting
        .sort_unstable_by_key(|row| (row.queue, row.seq));
    image
}

async fn read_all(conn: &mut SqliteConnection) -> Result<Image, sqlx::Error> {
    let ids = sqlx::query(statement::ENGINE_LAST_IDS)
        .fetch_one(&mut *conn)
        .await?;
    Ok(Image {
        vhosts: rows(conn, statement::VHOST_LIST, access::vhost).await?,
        users: rows(conn, statement::USER_LIST, access::user).await?,
        permissions: rows(conn, statement::PERMISSION_LIST, access::permission).await?,
        topic_permissions: rows(
            conn,
            statement::TOPIC_PERMISSION_LIST,
            access::topic_permission,
        )
        .await?,
        policies: rows(conn, statement::POLICY_LIST, access::policy).await?,
        parameters: rows(conn, statement::PARAMETER_LIST, access::parameter).await?,
        limits: rows(conn, statement::LIMIT_VALUE_LIST, access::limit).await?,
        exchanges: rows(conn, statement::EXCHANGE_LIST, exchange).await?,
        queues: rows(conn, statement::QUEUE_LIST, queue).await?,
        bindings: rows(conn, statement::BINDING_LIST, binding).await?,
        heads: rows(conn, statement::HEAD_LIST, head).await?,
        segments: rows(conn, statement::SEGMENT_LIST, segment).await?,
        settled: rows(conn, statement::SETTLED_LIST, settled).await?,
        retained: rows(conn, statement::RETAINED_LIST, retained).await?,
        waiting: rows(conn, statement::WAITING_LIST, waiting).await?,
        schedules: rows(conn, statement::SCHEDULE_LIST, schedule).await?,
        redrives: rows(conn, statement::REDRIVE_LIST, redrive).await?,
        deduplication: rows(conn, statement::DEDUPLICATION_LIST, deduplication).await?,
        last_queue_id: number(&ids, 0)?,
        last_segment_id: number(&ids, 1)?,
    })
}

pub(super) async fn segments_of_queue(
    conn: &mut SqliteConnection,
    queue: QueueId,
) -> Result<Vec<SegmentId>, sqlx::Error> {
    let rows = sqlx::query(statement::SEGMENT_LIST_OF_QUEUE)
        .bind(queue.0.cast_signed())
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| Ok(SegmentId(number(row, 0)?)))
        .collect()
}

pub(super) async fn damaged_segments(
    conn: &mut SqliteConnection,
) -> Result<Vec<SegmentHeader>, sqlx::Error> {
    rows(conn, statement::DAMAGED_SEGMENT_LIST, segment).await
}

/// Lines of SQLite's own check; none when all is whole. Damage may end the check itself.
pub(super) async fn check(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let read = |row: &SqliteRow| row.try_get::<String, _>(0);
    let mut lines = match rows(conn, statement::ENGINE_INTEGRITY, read).await {
        Err(error) if is_damage(&error) => vec![error.to_string()],
        lines => lines?,
    };
    lines.retain(|line| line != "ok");
    Ok(lines)
}

fn is_damage(error: &sqlx::Error) -> bool {
    let code = writer::sqlite_code(error).map(|code| code & 0xff);
    code == Some(libsqlite3_sys::SQLITE_CORRUPT)
}

pub(super) async fn read_segment(
    conn: &mut SqliteConnection,
    id: SegmentId,
) -> Result<Option<SegmentBody>, sqlx::Error> {
    sqlx::query(statement::SEGMENT_READ)
        .bind(id.0.cast_signed())
        .fetch_optional(conn)
        .await?
        .map(|row| {
            Ok(SegmentBody {
                index: row.try_get(0)?,
                data: row.try_get(1)?,
            })
        })
        .transpose()
}

pub(super) async fn read_waiting(
    conn: &mut SqliteConnection,
    queue: QueueId,
    seqs: Vec<Seq>,
) -> Result<Vec<WaitingRow>, sqlx::Error> {
    let mut list = String::with_capacity(2 + seqs.len() * 8);
    let mut places = HashMap::with_capacity(seqs.len());
    for (place, seq) in seqs.into_iter().enumerate() {
        list.push(if list.is_empty() { '[' } else { ',' });
        let _ = write!(list, "{seq}");
        places.insert(seq, place);
    }
    list.push_str(if list.is_empty() { "[]" } else { "]" });
    let read = |row: SqliteRow| {
        Ok(WaitingRow {
            queue,
            seq: number(&row, 0)?,
            due_at: row.try_get(1)?,
            attempt: row.try_get(2)?,
            accepted_at: row.try_get(3)?,
            index: row.try_get(4)?,
            data: row.try_get(5)?,
        })
    };
    let mut found = sqlx::query(statement::WAITING_READ)
        .bind(queue.0.cast_signed())
        .bind(list)
        .try_map(read)
        .fetch_all(conn)
        .await?;
    found.sort_unstable_by_key(|row| places.get(&row.seq).copied());
    Ok(found)
}

pub(super) async fn read_job(
    conn: &mut SqliteConnection,
    id: JobId,
) -> Result<Option<Job>, sqlx::Error> {
    let row = sqlx::query(statement::JOB_READ)
        .bind(&id.0[..])
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(job).transpose()
}

pub(super) async fn read_job_result(
    conn: &mut SqliteConnection,
    id: JobId,
) -> Result<Option<JobResult>, sqlx::Error> {
    sqlx::query(statement::JOB_RESULT_READ)
        .bind(&id.0[..])
        .fetch_optional(conn)
        .await?
        .map(|row| {
            Ok(JobResult {
                content_type: row.try_get(0)?,
                content_encoding: row.try_get(1)?,
                body: row.try_get(2)?,
            })
        })
        .transpose()
}

pub(super) async fn key_claim(
    conn: &mut SqliteConnection,
    scope: String,
    now: Micros,
) -> Result<Option<KeyClaim>, sqlx::Error> {
    sqlx::query(statement::JOB_KEY_READ)
        .bind(scope)
        .bind(now)
        .fetch_optional(conn)
        .await?
        .map(|row| {
            Ok(KeyClaim {
                scope: row.try_get(0)?,
                job: job_id(&row, 1)?,
                fingerprint: bytes(&row, 2)?,
                expires_at: row.try_get(3)?,
            })
        })
        .transpose()
}

pub(super) async fn list_jobs(
    conn: &mut SqliteConnection,
    filter: JobFilter,
) -> Result<Vec<Job>, sqlx::Error> {
    // One byte longer than an id, so above each of them.
    let before = filter
        .before
        .map_or_else(|| vec![0xff; 17], |id| id.0.to_vec());
    let text = match filter.state {
        Some(_) => statement::JOB_LIST_IN_STATE,
        None => statement::JOB_LIST,
    };
    let mut query = sqlx::query(text)
        .bind(before)
        .bind(filter.vhost)
        .bind(filter.target)
        .bind(filter.limit);
    if let Some(state) = filter.state {
        query = query.bind(state.as_str());
    }
    query.fetch_all(conn).await?.iter().map(job).collect()
}

pub(super) async fn job_counts(
    conn: &mut SqliteConnection,
) -> Result<Vec<(JobState, u64)>, sqlx::Error> {
    rows(conn, statement::JOB_COUNT, |row| {
        Ok((job_state(row, 0)?, number(row, 1)?))
    })
    .await
}

pub(super) async fn overdue_jobs(
    conn: &mut SqliteConnection,
    now: Micros,
    limit: u32,
) -> Result<Vec<Job>, sqlx::Error> {
    let rows = sqlx::query(statement::JOB_LIST_OVERDUE)
        .bind(now)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    rows.iter().map(job).collect()
}

async fn rows<T>(
    conn: &mut SqliteConnection,
    text: &'static str,
    read: fn(&SqliteRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, sqlx::Error>
where
    T: Send + Unpin,
{
    // Row by row: a row in the driver's form is many times as big as what is kept of it.
    sqlx::query(text)
        .try_map(|row: SqliteRow| read(&row))
        .fetch_all(conn)
        .await
}

pub(super) fn number(row: &SqliteRow, at: usize) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(at)?.cast_unsigned())
}

pub(super) fn name(row: &SqliteRow, at: usize) -> Result<Arc<str>, sqlx::Error> {
    Ok(row.try_get::<&str, _>(at)?.into())
}

pub(super) fn bytes<const N: usize>(row: &SqliteRow, at: usize) -> Result<[u8; N], sqlx::Error> {
    let bytes: &[u8] = row.try_get(at)?;
    bytes
        .try_into()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(super) fn job_id(row: &SqliteRow, at: usize) -> Result<JobId, sqlx::Error> {
    Ok(JobId(bytes(row, at)?))
}

fn job_state(row: &SqliteRow, at: usize) -> Result<JobState, sqlx::Error> {
    let word: &str = row.try_get(at)?;
    JobState::parse(word)
        .ok_or_else(|| sqlx::Error::Decode(format!("'{word}' is no state of a job").into()))
}

fn exchange(row: &SqliteRow) -> Result<ExchangeSpec, sqlx::Error> {
    Ok(ExchangeSpec {
        vhost: name(row, 0)?,
        name: name(row, 1)?,
        kind: row.try_get(2)?,
        durable: row.try_get(3)?,
        auto_delete: row.try_get(4)?,
        internal: row.try_get(5)?,
        arguments: row.try_get(6)?,
    })
}

fn queue(row: &SqliteRow) -> Result<QueueSpec, sqlx::Error> {
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

fn binding(row: &SqliteRow) -> Result<BindingSpec, sqlx::Error> {
    let destination_kind = match row.try_get::<&str, _>(2)? {
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

fn head(row: &SqliteRow) -> Result<HeadRow, sqlx::Error> {
    Ok(HeadRow {
        queue: QueueId(number(row, 0)?),
        head: number(row, 1)?,
        handed: number(row, 2)?,
        next: number(row, 3)?,
    })
}

pub(super) fn segment(row: &SqliteRow) -> Result<SegmentHeader, sqlx::Error> {
    Ok(SegmentHeader {
        id: SegmentId(number(row, 0)?),
        queue: QueueId(number(row, 1)?),
        first_seq: number(row, 2)?,
        last_seq: number(row, 3)?,
        count: row.try_get(4)?,
        bytes: number(row, 5)?,
        transient: row.try_get(6)?,
        first_at: row.try_get(7)?,
        last_at: row.try_get(8)?,
    })
}

fn settled(row: &SqliteRow) -> Result<(SegmentId, Vec<u8>), sqlx::Error> {
    Ok((SegmentId(number(row, 0)?), row.try_get(1)?))
}

fn retained(row: &SqliteRow) -> Result<RetainedRow, sqlx::Error> {
    Ok(RetainedRow {
        segment: SegmentId(number(row, 0)?),
        queue: QueueId(number(row, 1)?),
        settled_at: row.try_get(2)?,
    })
}

fn waiting(row: &SqliteRow) -> Result<WaitingHeader, sqlx::Error> {
    Ok(WaitingHeader {
        queue: QueueId(number(row, 0)?),
        seq: number(row, 1)?,
        due_at: row.try_get(2)?,
        attempt: row.try_get(3)?,
    })
}

fn schedule(row: &SqliteRow) -> Result<ScheduleRow, sqlx::Error> {
    Ok(ScheduleRow {
        name: row.try_get(0)?,
        spec_hash: number(row, 1)?,
        last_nominal_at: row.try_get(2)?,
    })
}

fn deduplication(row: &SqliteRow) -> Result<DeduplicationRow, sqlx::Error> {
    Ok(DeduplicationRow {
        queue: QueueId(number(row, 0)?),
        newest_ms: row.try_get(1)?,
        entries: row.try_get(2)?,
    })
}

fn redrive(row: &SqliteRow) -> Result<RedriveRow, sqlx::Error> {
    let (state, kind): (&str, &str) = (row.try_get(11)?, row.try_get(15)?);
    Ok(RedriveRow {
        id: name(row, 0)?,
        queue: QueueId(number(row, 1)?),
        vhost: name(row, 2)?,
        source: name(row, 3)?,
        target: row.try_get::<Option<&str>, _>(4)?.map(Arc::from),
        filter: row.try_get(5)?,
        rate: row.try_get(6)?,
        until: number(row, 7)?,
        next: number(row, 8)?,
        moved: number(row, 9)?,
        skipped: number(row, 10)?,
        state: RedriveState::parse(state).ok_or_else(|| {
            sqlx::Error::Decode(format!("'{state}' is no state of a redrive").into())
        })?,
        detail: row.try_get(12)?,
        created_at: row.try_get(13)?,
        ended_at: row.try_get(14)?,
        kind: RedriveKind::parse(kind).ok_or_else(|| {
            sqlx::Error::Decode(format!("'{kind}' is no kind of a redrive").into())
        })?,
    })
}

fn job(row: &SqliteRow) -> Result<Job, sqlx::Error> {
    let code: Option<String> = row.try_get(15)?;
    let detail: Option<String> = row.try_get(16)?;
    let result_bytes: Option<i64> = row.try_get(19)?;
    let result = match result_bytes {
        None => None,
        Some(bytes) => Some(ResultMeta {
            content_type: row.try_get(17)?,
            content_encoding: row.try_get(18)?,
            bytes: bytes.cast_unsigned(),
        }),
    };
    Ok(Job {
        id: job_id(row, 0)?,
        vhost: name(row, 1)?,
        target: row.try_get(2)?,
        principal: row.try_get(3)?,
        state: job_state(row, 4)?,
        attempt: row.try_get(5)?,
        max_attempts: row.try_get(6)?,
        created_at: row.try_get(7)?,
        started_at: row.try_get(8)?,
        completed_at: row.try_get(9)?,
        next_attempt_at: row.try_get(10)?,
        deadline_at: row.try_get(11)?,
        expires_at: row.try_get(12)?,
        result_ttl_ms: row.try_get(13)?,
        idempotency_key: row.try_get(14)?,
        error: code
            .zip(detail)
            .map(|(code, detail)| JobError { code, detail }),
        result,
    })
}
