//! What holds for this engine beyond the contract: files, room, log, statements, plans.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use sqlx::{Executor, SqlSafeStr};
use tempfile::TempDir;

use super::super::contract::{put_queues, segment, waiting};
use super::*;
use crate::log::batch::*;

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("leveret.db")
}

fn small() -> Options {
    Options {
        ballast_bytes: 0,
        ..Options::default()
    }
}

async fn open(dir: &TempDir, options: Options) -> Sqlite {
    Sqlite::open(&path(dir), options).await.unwrap()
}

async fn refusal(path: &Path) -> OpenError {
    Sqlite::open(path, small())
        .await
        .err()
        .expect("must be refused")
}

/// A connection beside the engine.
async fn plain(dir: &TempDir) -> SqliteConnection {
    connect(&path(dir), &small(), Role::Checkpointer)
        .await
        .unwrap()
}

async fn commit(engine: &Sqlite, batch: Batch) -> Result<Committed, CommitError> {
    engine.commit(Arc::new(batch), true).await
}

/// One segment of `bytes`, each time the next one of the queue.
fn blob(n: u64, bytes: usize) -> Batch {
    let row = SegmentRow {
        data: vec![n as u8; bytes],
        ..segment(n, 1, n * 10)
    };
    let heads = vec![HeadRow {
        queue: QueueId(1),
        head: 0,
        handed: 0,
        next: n * 10 + 10,
    }];
    Batch {
        number: n,
        segments: vec![row],
        heads,
        ..Batch::default()
    }
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir, small()).await;
    let refused = refusal(&path(&dir)).await.to_string();
    assert!(refused.contains("leveret.lock"), "{refused}");
    assert!(
        refused.contains(&std::process::id().to_string()),
        "{refused}"
    );
    engine.close().await;
    open(&dir, small()).await.close().await;
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, small()).await.close().await;
    let mut conn = plain(&dir).await;
    let newer = "insert into _sqlx_migrations values (9999, 'x', 0, true, x'00', 0)";
    conn.execute(newer).await.unwrap();
    let refused = refusal(&path(&dir)).await;
    assert!(
        matches!(refused, OpenError::Newer { version: 9999, .. }),
        "{refused}"
    );
    conn.execute("delete from _sqlx_migrations where version = 9999")
        .await
        .unwrap();
    conn.execute("update _sqlx_migrations set checksum = x'00' where version = 2")
        .await
        .unwrap();
    let refused = refusal(&path(&dir)).await;
    assert!(
        matches!(refused, OpenError::Changed { version: 2, .. }),
        "{refused}"
    );
}

/// As a release before migration 7 left the table.
const FOUR_TYPES: &str = "
    delete from _sqlx_migrations where version = 7;
    drop table exchange;
    create table exchange (
      id integer primary key,
      vhost text not null,
      name text not null,
      kind text not null check (kind in ('direct', 'fanout', 'topic', 'headers')),
      durable integer not null check (durable in (0, 1)),
      auto_delete integer not null check (auto_delete in (0, 1)),
      internal integer not null check (internal in (0, 1)),
      arguments blob not null,
      unique (vhost, name)
    );
    insert into exchange (vhost, name, kind, durable, auto_delete, internal, arguments)
    values ('/', 'logs', 'topic', 1, 0, 1, x'010203')";

#[tokio::test]
async fn exchanges_of_an_older_release_are_kept_and_may_be_of_any_type() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, small()).await.close().await;
    let mut conn = plain(&dir).await;
    sqlx::raw_sql(FOUR_TYPES).execute(&mut conn).await.unwrap();
    drop(conn);
    let store = open(&dir, small()).await;
    let old = store.load().await.unwrap().exchanges.remove(0);
    assert_eq!(
        (&*old.name, &*old.kind, &old.arguments[..], old.internal),
        ("logs", "topic", &[1u8, 2, 3][..], true)
    );
    let hash = ExchangeSpec {
        name: "hash".into(),
        kind: "x-consistent-hash".into(),
        ..old
    };
    let batch = Batch {
        number: 1,
        definitions: vec![DefinitionChange::PutExchange(hash)],
        ..Batch::default()
    };
    store.commit(batch.into(), true).await.unwrap();
    assert_eq!(store.load().await.unwrap().exchanges.len(), 2);
}

#[tokio::test]
async fn another_file_in_the_place_of_the_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path(&dir), vec![b'x'; 100_000]).unwrap();
    let refused = refusal(&path(&dir)).await;
    assert!(
        matches!(refused, OpenError::NotADatabase { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("leveret.db"), "{refused}");
}

#[test]
fn old_libraries_are_refused() {
    assert!(new_enough("3.51.3") && new_enough("3.52.0") && new_enough("4.0"));
    assert!(!new_enough("3.51.2") && !new_enough("3.46.0") && !new_enough("3.9.9"));
}

#[tokio::test]
async fn every_connection_has_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, small()).await.close().await;
    for (pragma, writer, reader) in [
        ("pragma journal_mode", "wal", "wal"),
        ("pragma synchronous", "2", ""),
        ("pragma page_size", "8192", "8192"),
        ("pragma mmap_size", "0", "0"),
        ("pragma foreign_keys", "0", "0"),
        ("pragma temp_store", "2", "2"),
        ("pragma wal_autocheckpoint", "0", ""),
        ("pragma cache_size", "-32768", "-4096"),
        ("pragma auto_vacuum", "0", "0"),
    ] {
        for (role, expected) in [(Role::Writer, writer), (Role::Reader, reader)] {
            let mut conn = connect(&path(&dir), &small(), role).await.unwrap();
            let row = sqlx::query(pragma).fetch_one(&mut conn).await.unwrap();
            let found = row
                .try_get::<String, _>(0)
                .or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()))
                .unwrap();
            assert!(
                expected.is_empty() || found == expected,
                "{pragma}: {found}"
            );
        }
    }
}

/// Each file must be named in `statement.rs`, be valid on the present schema, and be used.
#[tokio::test]
async fn every_statement_prepares_and_is_used() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, small()).await.close().await;
    let mut conn = plain(&dir).await;
    let sources = [
        "access",
        "apply",
        "backup",
        "checkpoint",
        "export",
        "keys",
        "look",
        "reader",
        "writer",
    ]
    .map(|name| fs::read_to_string(format!("{SOURCES}/sqlite/{name}.rs")).unwrap());
    let sources = sources.concat() + &fs::read_to_string(format!("{SOURCES}/sqlite.rs")).unwrap();
    for (name, text) in statement::ALL {
        let prepared = conn
            .prepare(sqlx::AssertSqlSafe(*text).into_sql_str())
            .await;
        assert!(prepared.is_ok(), "{name}: {:?}", prepared.err());
        let constant = format!("statement::{}", name.replace('.', "_").to_uppercase());
        let used = sources
            .split(&constant)
            .skip(1)
            .any(|rest| !rest.starts_with(|c: char| c == '_' || c.is_ascii_alphanumeric()));
        assert!(used, "{name}.sql is used nowhere");
    }
    let named: BTreeSet<String> = statement::ALL
        .iter()
        .map(|(name, _)| format!("{name}.sql"))
        .collect();
    let files = files(&format!("{SOURCES}/statements"));
    // The other engine's own are in a folder.
    let ours = files.into_iter().filter(|name| name != "postgres");
    assert_eq!(named, ours.collect());
}

#[test]
fn every_migration_is_in_the_list() {
    let listed: BTreeSet<String> = migration::ALL
        .iter()
        .map(|(_, file, _)| format!("{file}.sql"))
        .collect();
    assert_eq!(
        listed,
        files(&format!(
            "{}/../migrations/sqlite",
            env!("CARGO_MANIFEST_DIR")
        ))
    );
    assert!(migration::ALL.is_sorted_by_key(|(version, ..)| *version));
    for (version, file, _) in migration::ALL {
        assert!(file.starts_with(&format!("{version:04}_")), "{file}");
    }
}

fn files(dir: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// No hot statement may walk a whole table, and no header scan may need a blob.
#[tokio::test]
async fn hot_statements_use_their_index() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, small()).await.close().await;
    let mut conn = plain(&dir).await;
    let scans = [
        "list",
        "count",
        "list_of_queue",
        "delete_of_user",
        "delete_of_vhost",
    ];
    for (name, text) in statement::ALL {
        let (noun, verb) = name.split_once('.').unwrap();
        if ["transaction", "checkpoint", "synchronous", "engine"].contains(&noun)
            || (scans.contains(&verb) && *name != "job.list")
        {
            continue;
        }
        let plan = sqlx::AssertSqlSafe(format!("explain query plan {text}"));
        for row in sqlx::query(plan).fetch_all(&mut conn).await.unwrap() {
            let step: String = row.try_get(3).unwrap();
            // The list that we give it is walked.
            let ours = ["CONSTANT ROW", "json_each"];
            let walks = step.starts_with("SCAN") && !ours.iter().any(|word| step.contains(word));
            assert!(!walks, "{name}: {step}");
            assert!(!step.contains("TEMP B-TREE"), "{name}: {step}");
        }
    }
}

#[tokio::test]
async fn the_log_stays_short_under_sustained_commits() {
    const ROUNDS: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_bytes: 1 << 20,
        restart_bytes: 4 << 20,
        wal_bytes_max: 12 << 20,
        ..small()
    };
    let engine = open(&dir, options).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let mut longest = 0;
    for n in 1..=ROUNDS {
        commit(&engine, blob(n, 256 << 10)).await.unwrap();
        longest = longest.max(engine.disk_bytes().1);
    }
    // One commit may go past the limit before the writer sees it.
    assert!(longest < 14 << 20, "{longest}");
    let image = engine.load().await.unwrap();
    assert_eq!(image.segments.len(), ROUNDS as usize);
    engine.close().await;
    assert_eq!(
        engine.disk_bytes().1,
        0,
        "the log is empty after a good end"
    );
}

#[tokio::test]
async fn freed_pages_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir, small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    for n in 1..=200 {
        let drops = if n > 2 {
            vec![SegmentId(n - 2)]
        } else {
            vec![]
        };
        commit(
            &engine,
            Batch {
                dropped_segments: drops,
                ..blob(n, 128 << 10)
            },
        )
        .await
        .unwrap();
    }
    engine.close().await;
    assert!(engine.disk_bytes().0 < 2 << 20, "{:?}", engine.disk_bytes());
}

#[tokio::test]
async fn a_full_store_says_so_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(
        &dir,
        Options {
            pages_max: Some(256),
            ballast_bytes: 1 << 20,
            ..small()
        },
    )
    .await;
    assert!(dir.path().join("ballast").exists());
    commit(&engine, put_queues([1])).await.unwrap();
    let mut stored = 0;
    let refused = loop {
        match commit(&engine, blob(stored + 1, 128 << 10)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CommitError::Full(_)), "{refused:?}");
    assert!((8..=16).contains(&stored), "{stored}");
    assert!(
        !dir.path().join("ballast").exists(),
        "the reserve was given back"
    );
    assert_eq!(engine.committed_number().await.unwrap(), stored);

    let drops = vec![SegmentId(1), SegmentId(2)];
    commit(
        &engine,
        Batch {
            number: 50,
            dropped_segments: drops,
            ..Batch::default()
        },
    )
    .await
    .unwrap();
    commit(&engine, blob(stored + 1, 128 << 10)).await.unwrap();
    engine.maintain().await.unwrap();
    assert!(dir.path().join("ballast").exists());
    let ids: Vec<_> = engine
        .load()
        .await
        .unwrap()
        .segments
        .iter()
        .map(|row| row.id.0)
        .collect();
    assert_eq!(ids, (3..=stored + 1).collect::<Vec<_>>());
    engine.close().await;
}

/// On a real file system without room. `FULL_DISK` names an empty directory on a small one, such as
/// `mount -t tmpfs -o size=40m none DIR` makes.
#[tokio::test]
#[ignore = "needs FULL_DISK"]
async fn a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir_in(std::env::var("FULL_DISK").unwrap()).unwrap();
    let options = Options {
        ballast_bytes: 4 << 20,
        ..small()
    };
    let engine = open(&dir, options).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let (mut stored, mut first) = (Vec::new(), 1);
    for round in 1..=5 {
        let mut next = first;
        let refused = loop {
            match commit(&engine, blob(next, 256 << 10)).await {
                Ok(_) => stored.push(next),
                Err(error) => break error,
            }
            next += 1;
        };
        assert!(
            matches!(refused, CommitError::Full(_)),
            "{round}: {refused:?}"
        );
        assert_eq!(engine.committed_number().await.unwrap(), next - 1);
        if round > 1 {
            assert!(next > first, "{round}: freed room was not used");
        }
        // Acks still pass, and make room for more.
        let drops: Vec<_> = stored.drain(..stored.len() / 2).map(SegmentId).collect();
        let batch = Batch {
            number: next,
            dropped_segments: drops,
            ..Batch::default()
        };
        commit(&engine, batch).await.unwrap();
        engine.maintain().await.unwrap();
        first = next + 1;
    }
    engine.close().await;
    let engine = open(&dir, small()).await;
    let image = engine.load().await.unwrap();
    let ids: Vec<_> = image.segments.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, stored);
    engine.close().await;
}

#[tokio::test]
async fn an_outsiders_lock_is_not_done_and_may_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir, small()).await;
    let mut other = plain(&dir).await;
    other.execute("begin immediate").await.unwrap();
    let refused = commit(&engine, put_queues([1])).await;
    assert!(
        matches!(refused, Err(CommitError::NotDone(_))),
        "{refused:?}"
    );
    other.execute("rollback").await.unwrap();
    commit(&engine, put_queues([1])).await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn relaxed_and_synced_commits_may_alternate() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir, small()).await;
    engine
        .commit(Arc::new(put_queues([1])), false)
        .await
        .unwrap();
    for n in 1..=20 {
        engine
            .commit(Arc::new(blob(n, 100)), n % 3 == 0)
            .await
            .unwrap();
    }
    assert_eq!(engine.committed_number().await.unwrap(), 20);
    engine.close().await;
    let engine = open(&dir, small()).await;
    assert_eq!(engine.load().await.unwrap().segments.len(), 20);
    engine.close().await;
}

/// What a crash between `delete queue` and the sweep leaves is found again by the next start.
#[tokio::test]
async fn an_interrupted_sweep_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir, small()).await;
    let batch = Batch {
        segments: (1..=100).map(|n| segment(n, 1, n * 10)).collect(),
        waiting: (1..=10).map(|seq| waiting(1, seq, 1)).collect(),
        ..put_queues([1])
    };
    commit(&engine, batch).await.unwrap();
    let definitions = vec![DefinitionChange::DeleteQueue(QueueId(1))];
    commit(
        &engine,
        Batch {
            definitions,
            ..Batch::default()
        },
    )
    .await
    .unwrap();
    engine.close().await;

    let engine = open(&dir, small()).await;
    let image = engine.load().await.unwrap();
    assert!(image.segments.is_empty() && image.waiting.is_empty());
    assert!(
        engine.read_segment(SegmentId(50)).await.unwrap().is_some(),
        "not swept yet"
    );
    engine.maintain().await.unwrap();
    assert!(engine.read_segment(SegmentId(50)).await.unwrap().is_none());
    engine.close().await;
    let mut conn = plain(&dir).await;
    for text in [
        "select count(*) from segment",
        "select count(*) from waiting",
    ] {
        let row = sqlx::query(text).fetch_one(&mut conn).await.unwrap();
        assert_eq!(row.try_get::<i64, _>(0).unwrap(), 0, "{text}");
    }
}

#[tokio::test]
async fn verbs_after_close_answer_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir, small()).await;
    engine.close().await;
    assert!(matches!(
        commit(&engine, put_queues([1])).await,
        Err(CommitError::NotDone(_))
    ));
    assert!(engine.load().await.is_err());
    engine.close().await;
}

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sql");
