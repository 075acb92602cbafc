//! Moves the write-ahead log into the database beside the commits, so that it stays short.
//!
//! Keeps: passes run on a connection of their own; commits go on meanwhile. Only when a pass has
//! left little to do, or the log is long, is the writer asked for the last step, which starts the
//! log again from its beginning (a log that is written to all the time never gets there alone).
//! Never: runs inside a commit; fails one.
//! In: the writer nudges by bytes written, `maintain` by the clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::writer::Request;
use super::{Shared, statement};

/// Passes in a row before the writer has to help.
const PASSES: usize = 3;

/// The log's length and how much of it is in the database already, in pages.
struct Measured {
    pages: u64,
    moved: u64,
}

/// Runs until the engine closes.
pub(super) async fn run(
    mut conn: SqliteConnection,
    shared: Arc<Shared>,
    writer: mpsc::WeakSender<Request>,
) {
    loop {
        shared.nudge.notified().await;
        if shared.closing.load(Ordering::Acquire) {
            break;
        }
        if let Err(error) = shorten(&mut conn, &shared, &writer).await {
            tracing::warn!(%error, "checkpoint failed");
        }
    }
    let _ = conn.close().await;
}

async fn shorten(
    conn: &mut SqliteConnection,
    shared: &Shared,
    writer: &mpsc::WeakSender<Request>,
) -> Result<(), sqlx::Error> {
    let options = &shared.options;
    let page = u64::from(options.page_bytes);
    for pass in 1..=PASSES {
        let before = ask(conn, statement::CHECKPOINT_MEASURE).await?;
        if (before.pages - before.moved) * page < options.checkpoint_bytes {
            return Ok(());
        }
        // Without room for all of it a pass would only eat up what acks and deletes need.
        if shared.missing(conn, 0, 0).await? > 0 {
            return Ok(());
        }
        {
            let _alone = shared.pass.lock().await;
            ask(conn, statement::CHECKPOINT_PASSIVE).await?;
        }
        let after = ask(conn, statement::CHECKPOINT_MEASURE).await?;
        let near = (after.pages - after.moved) * page < options.checkpoint_bytes;
        if after.pages * page >= options.restart_bytes && (near || pass == PASSES) {
            let (reply, done) = oneshot::channel();
            if let Some(writer) = writer.upgrade()
                && writer.send(Request::Restart { reply }).await.is_ok()
            {
                let _ = done.await;
            }
            return Ok(());
        }
    }
    Ok(())
}

async fn ask(conn: &mut SqliteConnection, text: &'static str) -> Result<Measured, sqlx::Error> {
    let row = sqlx::query(text).fetch_one(conn).await?;
    let pages = row.try_get::<i64, _>(1)?.max(0).cast_unsigned();
    let moved = row.try_get::<i64, _>(2)?.max(0).cast_unsigned();
    Ok(Measured {
        pages,
        moved: moved.min(pages),
    })
}
