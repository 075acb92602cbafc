//! Deduplication rows of few keys become rows of many, so that a start reads a million in one go.
//!
//! Keeps: every key, at its time; a row goes in the transaction that writes what replaces it.
//! Never: runs inside a commit.
//! In: `writer`, when so many rows came that it pays.

use std::collections::BTreeMap;

use sqlx::{Row, SqliteConnection};

use super::statement;

/// Rows that come between two looks.
pub(super) const LOOK_AFTER: u64 = 1024;
/// A row with so many bytes stays as it is: about a hundred keys.
const SMALL_BYTES: i64 = 2048;
/// Rows in one look: some milliseconds.
const ROWS: usize = 4096;

/// What a look adds to the log, about.
pub(super) const MERGE_BYTES: u64 = 1 << 20;

/// A queue's small rows.
#[derive(Default)]
struct Small {
    ids: Vec<i64>,
    newest_at: i64,
    entries: Vec<u8>,
}

/// Merges small rows behind the row `after`. Answers the last one it looked at, and whether there
/// may be more. What it writes stands behind that, so that it grows until it is not small any more;
/// what was alone in its queue waits for the next start.
pub(super) async fn merge(
    conn: &mut SqliteConnection,
    after: i64,
) -> Result<(i64, bool), sqlx::Error> {
    let rows = sqlx::query(statement::DEDUPLICATION_LIST_SMALL)
        .bind(after)
        .bind(SMALL_BYTES)
        .bind(ROWS as i64)
        .fetch_all(&mut *conn)
        .await?;
    let mut queues: BTreeMap<i64, Small> = BTreeMap::new();
    // None behind it: ids began anew, as the highest rows are gone.
    let mut last = if rows.is_empty() { 0 } else { after };
    for row in &rows {
        last = row.try_get(0)?;
        let small = queues.entry(row.try_get(1)?).or_default();
        small.ids.push(last);
        small.newest_at = small.newest_at.max(row.try_get(2)?);
        small.entries.extend_from_slice(row.try_get(3)?);
    }
    for (queue, small) in queues {
        if small.ids.len() < 2 {
            continue;
        }
        // First, so that its id is above all others.
        sqlx::query(statement::DEDUPLICATION_INSERT)
            .bind(queue)
            .bind(small.newest_at)
            .bind(small.entries)
            .execute(&mut *conn)
            .await?;
        for id in small.ids {
            sqlx::query(statement::DEDUPLICATION_DELETE)
                .bind(id)
                .execute(&mut *conn)
                .await?;
        }
    }
    Ok((last, rows.len() == ROWS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::Instant;

    use crate::log::batch::{Batch, DeduplicationRow};
    use crate::model::QueueId;
    use crate::rules::window::{Deduplication, Verdict, Window};
    use crate::sql::Backend;
    use crate::sql::contract::put_queues;
    use crate::sql::sqlite::{Options, Sqlite};

    fn window() -> Window {
        let asked = Deduplication {
            header: "k".into(),
            span_ms: 60_000,
        };
        Window::new(asked, true, 3)
    }

    async fn open(dir: &tempfile::TempDir) -> Sqlite {
        let path = dir.path().join("leveret.db");
        Sqlite::open(&path, Options::default()).await.unwrap()
    }

    fn hash(number: u64) -> [u8; 16] {
        // Odd steps through the range: as scattered as a hash, as far as tables go.
        let wide = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        wide.to_be_bytes()
    }

    /// Commits so many keys, so many in a row; answers the rows that a start then finds.
    async fn after(engine: &Sqlite, keys: u64, each: u64) -> Vec<DeduplicationRow> {
        let mut window = window();
        engine
            .commit(Arc::new(put_queues([1])), true)
            .await
            .unwrap();
        let mut number = 0;
        while number < keys {
            // Many rows in a batch, so that the test takes no time.
            let mut batch = Batch::default();
            for _ in 0..100 {
                for _ in 0..each {
                    assert_eq!(window.admit(&hash(number), 1_000_000), Verdict::New);
                    number += 1;
                }
                let (newest_ms, entries) = window.take_fresh().unwrap();
                batch.deduplication.push(DeduplicationRow {
                    queue: QueueId(1),
                    newest_ms,
                    entries,
                });
            }
            engine.commit(Arc::new(batch), false).await.unwrap();
            engine.retire(0, 0, 0, 10).await.unwrap();
        }
        engine.load().await.unwrap().deduplication
    }

    #[tokio::test]
    async fn rows_of_one_key_become_rows_of_hundreds() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir).await;
        let rows = after(&engine, 10_000, 1).await;
        assert!(rows.len() < 10_000 / 4, "{} rows", rows.len());
        let mut found = window();
        for row in &rows {
            found.restore(&row.entries, 1_000_000);
        }
        assert_eq!(found.count(), 10_000);
        engine.close().await;
    }

    /// By hand: cargo test -p store --release -- --ignored --nocapture measure_keys
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "measures"]
    #[expect(clippy::print_stdout, reason = "the figures are the point")]
    async fn measure_keys() {
        for each in [1, 10, 1000] {
            let dir = tempfile::tempdir_in(".").unwrap();
            let engine = open(&dir).await;
            after(&engine, 1_000_000, each).await;
            let begun = Instant::now();
            let rows = engine.load().await.unwrap().deduplication;
            let read = begun.elapsed();
            let mut found = window();
            for row in &rows {
                found.restore(&row.entries, 1_000_000);
            }
            assert_eq!(found.count(), 1_000_000);
            println!(
                "{each:>4} keys a commit: {} rows, read in {read:?}, known after {:?}",
                rows.len(),
                begun.elapsed()
            );
            engine.close().await;
        }
    }
}
