//! Writes one batch: `begin`, few, fat statements, `commit`, in as few trips as its size allows.
//!
//! Keeps: the order that `Backend::commit` promises. A fence that holds (a tick fired twice, a key
//! claimed twice) is a `Fault`, and the caller rolls everything back.
//! Never: judges what a failure means; never rolls back.
//! In: `writer`.

use sqlx::{SqliteConnection, SqliteExecutor};

use super::script::Script;
use super::statement::{self, Rows};
use super::{access, export};
use crate::log::batch::*;
use crate::model::*;
use crate::sql::Import;

/// Ids are marked this far ahead, so that deleting segments seldom costs a write of the mark.
pub(super) const MARK_AHEAD: u64 = 4096;

/// Why a statement or a fence stopped the batch.
#[derive(Debug)]
pub(super) enum Fault {
    /// `commit` was not reached.
    Sql(sqlx::Error),
    /// `commit` was sent, alone or after others in one trip: it may have been reached.
    Ending(sqlx::Error),
    Fence(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// The texts for many rows, made once per writer.
pub(super) struct Texts {
    segment_delete: Rows,
    settled_put: Rows,
    settled_delete: Rows,
    head_put: Rows,
    waiting_put: Rows,
    waiting_delete: Rows,
    job_insert: Rows,
    retained_put: Rows,
    retained_delete: Rows,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self {
            segment_delete: Rows::new(statement::SEGMENT_DELETE),
            settled_put: Rows::new(statement::SETTLED_PUT),
            settled_delete: Rows::new(statement::SETTLED_DELETE),
            head_put: Rows::new(statement::HEAD_PUT),
            waiting_put: Rows::new(statement::WAITING_PUT),
            waiting_delete: Rows::new(statement::WAITING_DELETE),
            job_insert: Rows::new(statement::JOB_INSERT),
            retained_put: Rows::new(statement::RETAINED_PUT),
            retained_delete: Rows::new(statement::RETAINED_DELETE),
        }
    }
}

/// What the writer knows beside the batch.
pub(super) struct Place {
    pub(super) run: i64,
    /// No segment id above this one is safe from reuse once its row is gone.
    pub(super) segment_mark: u64,
}

/// Commits all of `batch`. `place` runs ahead of what is committed: after a fault, the caller rolls
/// back and restores it.
pub(super) async fn batch(
    conn: &mut SqliteConnection,
    texts: &Texts,
    place: &mut Place,
    batch: &Batch,
) -> Result<Committed, Fault> {
    let mut script = if is_small(batch) {
        Script::joined()
    } else {
        Script::single()
    };
    script.statement(conn, statement::TRANSACTION_BEGIN).await?;
    if !batch.definitions.is_empty() {
        script.send(conn).await?;
        for change in &batch.definitions {
            define(conn, change).await?;
        }
    }
    if !batch.damaged.is_empty() {
        script.send(conn).await?;
        for id in &batch.damaged {
            sqlx::query(statement::DAMAGED_SEGMENT_KEEP)
                .bind(id.0.cast_signed())
                .execute(&mut *conn)
                .await?;
        }
    }
    for segment in &batch.segments {
        insert_segment(conn, &mut script, segment).await?;
    }
    put_settled(conn, &mut script, texts, &batch.settled).await?;
    drop_segments(conn, &mut script, texts, place, &batch.dropped_segments).await?;
    retain(conn, &mut script, texts, place, batch).await?;
    put_heads(conn, &mut script, texts, place.run, batch).await?;
    drop_waiting(conn, &mut script, texts, &batch.dropped_waiting).await?;
    put_waiting(conn, &mut script, texts, &batch.waiting).await?;
    put_keys(conn, &mut script, batch).await?;
    let mut committed = Committed::default();
    if has_more(batch) {
        script.send(conn).await?;
        committed = change_jobs(conn, texts, &batch.jobs).await?;
        put_schedules(conn, batch).await?;
        put_redrives(conn, batch).await?;
        for fire in &batch.fires {
            insert_fire(conn, fire).await?;
        }
    }
    script
        .statement(conn, statement::TRANSACTION_COMMIT)
        .await?;
    script.send(conn).await.map_err(Fault::Ending)?;
    Ok(committed)
}

/// Puts rows of a copy, all or none.
pub(super) async fn import(conn: &mut SqliteConnection, rows: &Import) -> Result<(), Fault> {
    run(conn, statement::TRANSACTION_BEGIN).await?;
    for (job, result) in &rows.jobs {
        bind_job(sqlx::query(statement::JOB_INSERT), job)
            .execute(&mut *conn)
            .await?;
        if let Some(result) = result {
            insert_result(conn, job.id, result).await?;
        }
    }
    for row in &rows.damaged {
        export::insert_damaged(conn, row).await?;
    }
    for (text, id) in [
        (statement::ENGINE_MARK_QUEUE, rows.last_queue_id),
        (statement::ENGINE_MARK_SEGMENT, rows.last_segment_id),
    ] {
        sqlx::query(text)
            .bind(id.cast_signed())
            .execute(&mut *conn)
            .await?;
    }
    run(conn, statement::TRANSACTION_COMMIT)
        .await
        .map_err(Fault::Ending)
}

async fn run(conn: &mut SqliteConnection, text: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(text).execute(conn).await.map(drop)
}

/// True when the batch has rows whose answers matter, one by one.
fn has_more(batch: &Batch) -> bool {
    !batch.jobs.is_empty()
        || !batch.schedules.is_empty()
        || !batch.dropped_schedules.is_empty()
        || !batch.fires.is_empty()
        || !batch.redrives.is_empty()
        || !batch.dropped_redrives.is_empty()
}

/// True for the batches that come by the thousand each second: all their shapes together are few
/// enough to stay prepared.
fn is_small(batch: &Batch) -> bool {
    batch.segments.len() <= 4
        && batch.settled.len() <= 64
        && batch.dropped_segments.len() <= 64
        && batch.heads.len() <= 64
        && batch.waiting.len() <= 1
        && batch.dropped_waiting.len() <= 8
        && batch.deduplication.len() <= 1
        && batch.dropped_deduplication.is_empty()
        && batch.kept_waiting.is_empty()
        && batch.retained.len() <= 8
        && batch.dropped_retained.len() <= 8
}

/// What becomes of settled messages that are kept.
async fn retain(
    conn: &mut SqliteConnection,
    script: &mut Script,
    texts: &Texts,
    place: &mut Place,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    for row in &batch.kept_waiting {
        script
            .statement(conn, statement::SEGMENT_KEEP_WAITING)
            .await?;
        script.number(row.segment.0)?;
        script.value(row.settled_at)?;
        script.value(row.settled_at)?;
        script.number(row.queue.0)?;
        script.number(row.seq)?;
    }
    let waiting: Vec<(QueueId, Seq)> = batch
        .kept_waiting
        .iter()
        .map(|row| (row.queue, row.seq))
        .collect();
    drop_waiting(conn, script, texts, &waiting).await?;
    let mut left = &*batch.retained;
    while let Some(last) = left.last() {
        let (places, text) = texts.retained_put.with_room_for(left.len());
        script.statement(conn, text).await?;
        for at in 0..places {
            let row = left.get(at).unwrap_or(last);
            script.number(row.segment.0)?;
            script.number(row.queue.0)?;
            script.value(row.settled_at)?;
        }
        left = &left[places.min(left.len())..];
    }
    let settled: Vec<SegmentId> = batch.retained.iter().map(|row| row.segment).collect();
    delete(conn, script, &texts.settled_delete, &settled).await?;
    if !batch.dropped_retained.is_empty() {
        drop_segments(conn, script, texts, place, &batch.dropped_retained).await?;
        let ids = &batch.dropped_retained;
        delete(conn, script, &texts.retained_delete, ids).await?;
    }
    Ok(())
}

/// Deletes segments and what is settled in them.
pub(super) async fn drop_segments(
    conn: &mut SqliteConnection,
    script: &mut Script,
    texts: &Texts,
    place: &mut Place,
    ids: &[SegmentId],
) -> Result<(), sqlx::Error> {
    let Some(highest) = ids.iter().map(|id| id.0).max() else {
        return Ok(());
    };
    if highest > place.segment_mark {
        let mark = highest + MARK_AHEAD;
        script
            .statement(conn, statement::ENGINE_MARK_SEGMENT)
            .await?;
        script.number(mark)?;
        place.segment_mark = mark;
    }
    for rows in [&texts.segment_delete, &texts.settled_delete] {
        delete(conn, script, rows, ids).await?;
    }
    Ok(())
}

async fn delete(
    conn: &mut SqliteConnection,
    script: &mut Script,
    rows: &Rows,
    mut left: &[SegmentId],
) -> Result<(), sqlx::Error> {
    while let Some(last) = left.last() {
        let (places, text) = rows.with_room_for(left.len());
        script.statement(conn, text).await?;
        for at in 0..places {
            script.number(left.get(at).unwrap_or(last).0)?;
        }
        left = &left[places.min(left.len())..];
    }
    Ok(())
}

async fn define(conn: &mut SqliteConnection, change: &DefinitionChange) -> Result<(), Fault> {
    match change {
        DefinitionChange::Access(change) => access::define(conn, change).await?,
        DefinitionChange::PutExchange(exchange) => {
            sqlx::query(statement::EXCHANGE_PUT)
                .bind(&*exchange.vhost)
                .bind(&*exchange.name)
                .bind(&exchange.kind)
                .bind(exchange.durable)
                .bind(exchange.auto_delete)
                .bind(exchange.internal)
                .bind(&exchange.arguments)
                .execute(conn)
                .await?;
        }
        DefinitionChange::DeleteExchange { vhost, name } => {
            sqlx::query(statement::EXCHANGE_DELETE)
                .bind(&**vhost)
                .bind(&**name)
                .execute(conn)
                .await?;
        }
        DefinitionChange::PutQueue(queue) => put_queue(conn, queue).await?,
        DefinitionChange::DeleteQueue(id) => delete_queue(conn, *id).await?,
        DefinitionChange::PutBinding(binding) => {
            bind_or_unbind(conn, statement::BINDING_PUT, binding).await?;
        }
        DefinitionChange::DeleteBinding(binding) => {
            bind_or_unbind(conn, statement::BINDING_DELETE, binding).await?;
        }
    }
    Ok(())
}

async fn put_queue(conn: &mut SqliteConnection, queue: &QueueSpec) -> Result<(), sqlx::Error> {
    sqlx::query(statement::QUEUE_PUT)
        .bind(queue.id.0.cast_signed())
        .bind(&*queue.vhost)
        .bind(&*queue.name)
        .bind(queue.durable)
        .bind(queue.exclusive)
        .bind(queue.auto_delete)
        .bind(queue.work)
        .bind(&queue.arguments)
        .bind(queue.paused)
        .execute(conn)
        .await
        .map(drop)
}

/// The small rows go at once. Segments and waiting rows may be gigabytes: they are out of sight
/// without their queue, and `maintain` deletes them in steps between commits.
async fn delete_queue(conn: &mut SqliteConnection, id: QueueId) -> Result<(), sqlx::Error> {
    for text in [
        statement::QUEUE_DELETE,
        statement::HEAD_DELETE,
        statement::ENGINE_MARK_QUEUE,
    ] {
        sqlx::query(text)
            .bind(id.0.cast_signed())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn bind_or_unbind(
    conn: impl SqliteExecutor<'_>,
    text: &'static str,
    binding: &BindingSpec,
) -> Result<(), sqlx::Error> {
    sqlx::query(text)
        .bind(&*binding.vhost)
        .bind(&*binding.source)
        .bind(binding.destination_kind.as_str())
        .bind(&*binding.destination)
        .bind(&binding.routing_key)
        .bind(&binding.arguments)
        .execute(conn)
        .await
        .map(drop)
}

async fn insert_segment(
    conn: &mut SqliteConnection,
    script: &mut Script,
    segment: &SegmentRow,
) -> Result<(), sqlx::Error> {
    script.statement(conn, statement::SEGMENT_INSERT).await?;
    script.number(segment.id.0)?;
    script.number(segment.queue.0)?;
    script.number(segment.first_seq)?;
    script.number(segment.last_seq)?;
    script.value(segment.count)?;
    script.number(segment.bytes)?;
    script.value(segment.transient)?;
    script.value(segment.first_at)?;
    script.value(segment.last_at)?;
    script.value(&*segment.index)?;
    script.value(&*segment.data)
}

async fn put_settled(
    conn: &mut SqliteConnection,
    script: &mut Script,
    texts: &Texts,
    mut left: &[SettledRow],
) -> Result<(), sqlx::Error> {
    while let Some(last) = left.last() {
        let (places, text) = texts.settled_put.with_room_for(left.len());
        script.statement(conn, text).await?;
        for at in 0..places {
            let row = left.get(at).unwrap_or(last);
            script.number(row.segment.0)?;
            script.number(row.queue.0)?;
            script.value(&*row.bits)?;
        }
        left = &left[places.min(left.len())..];
    }
    Ok(())
}

/// The heads carry the commit's number. Only a batch without heads pays for a write of its own.
async fn put_heads(
    conn: &mut SqliteConnection,
    script: &mut Script,
    texts: &Texts,
    run: i64,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    let mut left = &*batch.heads;
    if left.is_empty() {
        script.statement(conn, statement::ENGINE_NUMBER).await?;
        return script.number(batch.number);
    }
    while let Some(last) = left.last() {
        let (places, text) = texts.head_put.with_room_for(left.len());
        script.statement(conn, text).await?;
        for at in 0..places {
            let row = left.get(at).unwrap_or(last);
            script.number(row.queue.0)?;
            script.number(row.head)?;
            script.number(row.handed)?;
            script.number(row.next)?;
            script.value(run)?;
            script.number(batch.number)?;
        }
        left = &left[places.min(left.len())..];
    }
    Ok(())
}

/// No row is written twice to fill a form: its content may be large.
async fn put_waiting(
    conn: &mut SqliteConnection,
    script: &mut Script,
    texts: &Texts,
    mut left: &[WaitingRow],
) -> Result<(), sqlx::Error> {
    while !left.is_empty() {
        let (places, text) = texts.waiting_put.filled_by(left.len());
        script.statement(conn, text).await?;
        for row in &left[..places] {
            script.number(row.queue.0)?;
            script.number(row.seq)?;
            script.value(row.due_at)?;
            script.value(row.attempt)?;
            script.value(row.accepted_at)?;
            script.value(&*row.index)?;
            script.value(&*row.data)?;
        }
        left = &left[places..];
    }
    Ok(())
}

async fn put_keys(
    conn: &mut SqliteConnection,
    script: &mut Script,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    for (queue, until) in &batch.dropped_deduplication {
        script
            .statement(conn, statement::DEDUPLICATION_DROP)
            .await?;
        script.number(queue.0)?;
        script.value(*until)?;
    }
    for row in &batch.deduplication {
        script
            .statement(conn, statement::DEDUPLICATION_INSERT)
            .await?;
        script.number(row.queue.0)?;
        script.value(row.newest_ms)?;
        script.value(&*row.entries)?;
    }
    Ok(())
}

async fn drop_waiting(
    conn: &mut SqliteConnection,
    script: &mut Script,
    texts: &Texts,
    mut left: &[(QueueId, Seq)],
) -> Result<(), sqlx::Error> {
    while let Some(last) = left.last() {
        let (places, text) = texts.waiting_delete.with_room_for(left.len());
        script.statement(conn, text).await?;
        for at in 0..places {
            let (queue, seq) = left.get(at).unwrap_or(last);
            script.number(queue.0)?;
            script.number(*seq)?;
        }
        left = &left[places.min(left.len())..];
    }
    Ok(())
}

async fn put_schedules(conn: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    for name in &batch.dropped_schedules {
        sqlx::query(statement::SCHEDULE_DELETE)
            .bind(name)
            .execute(&mut *conn)
            .await?;
    }
    for row in &batch.schedules {
        sqlx::query(statement::SCHEDULE_PUT)
            .bind(&row.name)
            .bind(row.spec_hash.cast_signed())
            .bind(row.last_nominal_at)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn put_redrives(conn: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    for id in &batch.dropped_redrives {
        sqlx::query(statement::REDRIVE_DELETE)
            .bind(&**id)
            .execute(&mut *conn)
            .await?;
    }
    for row in &batch.redrives {
        sqlx::query(statement::REDRIVE_PUT)
            .bind(&*row.id)
            .bind(row.queue.0.cast_signed())
            .bind(&*row.vhost)
            .bind(&*row.source)
            .bind(row.target.as_deref())
            .bind(&row.filter)
            .bind(row.rate)
            .bind(row.until.cast_signed())
            .bind(row.next.cast_signed())
            .bind(row.moved.cast_signed())
            .bind(row.skipped.cast_signed())
            .bind(row.state.as_str())
            .bind(&row.detail)
            .bind(row.created_at)
            .bind(row.ended_at)
            .bind(row.kind.as_str())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn change_jobs(
    conn: &mut SqliteConnection,
    texts: &Texts,
    mut left: &[JobChange],
) -> Result<Committed, Fault> {
    let mut committed = Committed::default();
    while let Some(change) = left.first() {
        let submitted = left
            .iter()
            .take_while(|change| matches!(change, JobChange::Submit { .. }))
            .count();
        if submitted > 0 {
            submit_jobs(conn, texts, &left[..submitted]).await?;
            left = &left[submitted..];
            continue;
        }
        if let JobChange::Claim { key, at } = change {
            claim_key(conn, key, *at).await?;
        }
        if !change_job(conn, change).await?
            && let JobChange::Finish { id, .. } = change
        {
            committed.refused.push(*id);
        }
        left = &left[1..];
    }
    Ok(committed)
}

/// Rows of submissions that stand side by side go together.
async fn submit_jobs(
    conn: &mut SqliteConnection,
    texts: &Texts,
    changes: &[JobChange],
) -> Result<(), Fault> {
    let submitted = changes.iter().filter_map(|change| match change {
        JobChange::Submit { job, key } => Some((&**job, key.as_ref())),
        _ => None,
    });
    let rows: Vec<_> = submitted.collect();
    let mut left = &*rows;
    while !left.is_empty() {
        let (places, text) = texts.job_insert.filled_by(left.len());
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
        for (job, _) in &left[..places] {
            query = bind_job(query, job);
        }
        query.execute(&mut *conn).await?;
        left = &left[places..];
    }
    for (job, key) in rows {
        if let Some(key) = key {
            claim_key(conn, key, job.created_at).await?;
        }
    }
    Ok(())
}

async fn claim_key(conn: &mut SqliteConnection, key: &KeyClaim, at: Micros) -> Result<(), Fault> {
    let done = sqlx::query(statement::JOB_KEY_CLAIM)
        .bind(&key.scope)
        .bind(&key.job.0[..])
        .bind(at)
        .bind(key.expires_at)
        .bind(&key.fingerprint[..])
        .execute(conn)
        .await?;
    if done.rows_affected() == 0 {
        let id = key.job;
        let detail = format!("the idempotency key of job {id} is claimed");
        return Err(Fault::Fence(detail));
    }
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind_job<'q>(query: Query<'q>, job: &'q Job) -> Query<'q> {
    query
        .bind(&job.id.0[..])
        .bind(&*job.vhost)
        .bind(&job.target)
        .bind(&job.principal)
        .bind(job.state.as_str())
        .bind(job.attempt)
        .bind(job.max_attempts)
        .bind(job.created_at)
        .bind(job.started_at)
        .bind(job.completed_at)
        .bind(job.next_attempt_at)
        .bind(job.deadline_at)
        .bind(job.expires_at)
        .bind(job.result_ttl_ms)
        .bind(&job.idempotency_key)
        .bind(job.error.as_ref().map(|error| &error.code))
        .bind(job.error.as_ref().map(|error| &error.detail))
        .bind(
            job.result
                .as_ref()
                .and_then(|result| result.content_type.as_ref()),
        )
        .bind(
            job.result
                .as_ref()
                .and_then(|result| result.content_encoding.as_ref()),
        )
        .bind(job.result.as_ref().map(|result| result.bytes.cast_signed()))
}

/// False when the job was final already.
async fn change_job(conn: &mut SqliteConnection, change: &JobChange) -> Result<bool, sqlx::Error> {
    let done = match change {
        JobChange::Submit { .. } | JobChange::Claim { .. } => return Ok(true),
        JobChange::Started { id, attempt, at } => {
            sqlx::query(statement::JOB_START)
                .bind(&id.0[..])
                .bind(*attempt)
                .bind(*at)
                .execute(conn)
                .await?
        }
        JobChange::Retrying {
            id,
            next_attempt_at,
            error,
        } => {
            sqlx::query(statement::JOB_RETRY)
                .bind(&id.0[..])
                .bind(*next_attempt_at)
                .bind(&error.code)
                .bind(&error.detail)
                .execute(conn)
                .await?
        }
        JobChange::Finish {
            id,
            state,
            at,
            error,
            result,
        } => {
            let done = sqlx::query(statement::JOB_FINISH)
                .bind(&id.0[..])
                .bind(state.as_str())
                .bind(*at)
                .bind(error.as_ref().map(|error| &error.code))
                .bind(error.as_ref().map(|error| &error.detail))
                .bind(
                    result
                        .as_ref()
                        .and_then(|result| result.content_type.as_ref()),
                )
                .bind(
                    result
                        .as_ref()
                        .and_then(|result| result.content_encoding.as_ref()),
                )
                .bind(result.as_ref().map(|result| result.body.len() as i64))
                .execute(&mut *conn)
                .await?;
            if let (1, Some(result)) = (done.rows_affected(), result) {
                insert_result(conn, *id, result).await?;
            }
            done
        }
    };
    Ok(done.rows_affected() > 0)
}

async fn insert_result(
    conn: &mut SqliteConnection,
    id: JobId,
    result: &JobResult,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement::JOB_RESULT_INSERT)
        .bind(&id.0[..])
        .bind(&result.content_type)
        .bind(&result.content_encoding)
        .bind(&result.body)
        .execute(conn)
        .await
        .map(drop)
}

async fn insert_fire(conn: &mut SqliteConnection, fire: &FireRow) -> Result<(), Fault> {
    let inserted = sqlx::query(statement::FIRE_INSERT)
        .bind(&fire.schedule)
        .bind(fire.nominal_at)
        .bind(fire.fired_at)
        .execute(conn)
        .await;
    match inserted {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(Fault::Fence(format!(
                "schedule '{}' fired at {} already",
                fire.schedule, fire.nominal_at
            )))
        }
        other => Ok(other.map(drop)?),
    }
}
