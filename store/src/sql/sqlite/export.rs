//! Rows that only checks and copies ask for: read page by page, and put as they are.
//!
//! Keeps: a page is found by its key's index, whatever came before it.
//! Never: changes a row that is there.
//! In: `Sqlite` reads pages on a reader's connection; `writer` imports.

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite, SqliteConnection};

use super::reader::{bytes, job_id, number, segment};
use super::statement;
use crate::log::batch::SegmentRow;
use crate::model::*;
use crate::sql::{Cursor, Exported};

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;
type Read = fn(&SqliteRow) -> Result<Exported, sqlx::Error>;

pub(super) async fn page(
    conn: &mut SqliteConnection,
    after: Cursor,
    limit: u32,
) -> Result<Vec<Exported>, sqlx::Error> {
    let (query, read): (Query, Read) = match after {
        Cursor::Damaged(id) => (
            sqlx::query(statement::DAMAGED_SEGMENT_PAGE).bind(id.0.cast_signed()),
            damaged,
        ),
        Cursor::Result(id) => (
            sqlx::query(statement::JOB_RESULT_PAGE).bind(id.0.to_vec()),
            result,
        ),
        Cursor::Claim(scope) => (sqlx::query(statement::JOB_KEY_PAGE).bind(scope), claim),
        Cursor::Fire(schedule, nominal_at) => (
            sqlx::query(statement::FIRE_PAGE)
                .bind(schedule)
                .bind(nominal_at),
            fire,
        ),
    };
    query
        .bind(limit)
        .try_map(|row: SqliteRow| read(&row))
        .fetch_all(conn)
        .await
}

pub(super) async fn insert_damaged(
    conn: &mut SqliteConnection,
    row: &SegmentRow,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement::DAMAGED_SEGMENT_INSERT)
        .bind(row.id.0.cast_signed())
        .bind(row.queue.0.cast_signed())
        .bind(row.first_seq.cast_signed())
        .bind(row.last_seq.cast_signed())
        .bind(row.count)
        .bind(row.bytes.cast_signed())
        .bind(row.transient)
        .bind(row.first_at)
        .bind(row.last_at)
        .bind(&row.index)
        .bind(&row.data)
        .execute(conn)
        .await
        .map(drop)
}

fn damaged(row: &SqliteRow) -> Result<Exported, sqlx::Error> {
    let header = segment(row)?;
    Ok(Exported::Damaged(SegmentRow {
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
    }))
}

fn result(row: &SqliteRow) -> Result<Exported, sqlx::Error> {
    Ok(Exported::Result(job_id(row, 0)?, number(row, 1)?))
}

fn claim(row: &SqliteRow) -> Result<Exported, sqlx::Error> {
    let key = KeyClaim {
        scope: row.try_get(0)?,
        job: job_id(row, 1)?,
        fingerprint: bytes(row, 2)?,
        expires_at: row.try_get(3)?,
    };
    Ok(Exported::Claim(key, row.try_get(4)?))
}

fn fire(row: &SqliteRow) -> Result<Exported, sqlx::Error> {
    Ok(Exported::Fire(FireRow {
        schedule: row.try_get(0)?,
        nominal_at: row.try_get(1)?,
        fired_at: row.try_get(2)?,
    }))
}
