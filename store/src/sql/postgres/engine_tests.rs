//! What is about this engine only: ownership, lost answers, slots, what a database may be like.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Instant;

use tokio_postgres::Client;

use super::server::Database;
use super::*;
use crate::log::batch::*;
use crate::sql::contract::{put_queues, segment, waiting};

fn small() -> Options {
    Options {
        lease: Duration::from_secs(1),
        slot_bytes: 20_000,
        slot_rows: 50,
        journal_bytes: 30_000,
        ..Options::default()
    }
}

fn segments(ids: impl IntoIterator<Item = u64>) -> Batch {
    Batch {
        segments: ids.into_iter().map(|id| segment(id, 1, id * 10)).collect(),
        ..Batch::default()
    }
}

async fn commit(engine: &Postgres, batch: Batch) -> Result<Committed, CommitError> {
    engine.commit(Arc::new(batch), true).await
}

async fn ids(engine: &Postgres) -> BTreeSet<u64> {
    let image = engine.load().await.unwrap();
    image.segments.iter().map(|row| row.id.0).collect()
}

/// Bytes of all tables, by the files.
async fn size(client: &Client) -> i64 {
    let row = client
        .query_one(statement::DATABASE_BYTES, &[])
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test]
async fn an_older_owner_is_refused_and_told() {
    let database = Database::new().await;
    let first = database.open(Options::default()).await;
    commit(&first, put_queues([1])).await.unwrap();
    commit(&first, segments([1])).await.unwrap();
    // As after a pause longer than its lease.
    database.free().await;
    let second = database.open(Options::default()).await;
    let refused = commit(&first, segments([2])).await;
    assert!(
        matches!(refused, Err(CommitError::Fenced(_))),
        "{refused:?}"
    );
    let refused = first.retire(0, 0, 0, 10).await;
    assert!(refused.is_err_and(|error| error.0.contains("took the store over")));
    assert!(first.lost().await.contains("took the store over"));
    commit(&second, segments([3])).await.unwrap();
    assert_eq!(ids(&second).await, [1, 3].into());
    first.close().await;
    // A stale owner that ends gives nothing back.
    commit(&second, segments([4])).await.unwrap();
    second.close().await;
}

#[tokio::test]
async fn whoever_waits_for_a_commit_that_is_refused_is_told() {
    let database = Database::new().await;
    let first = Arc::new(database.open(Options::default()).await);
    let store = crate::Store::open(first, crate::Options::default());
    let store = store.await.unwrap();
    database.free().await;
    let second = database.open(Options::default()).await;
    let waits = store.declare_work_queue("/", "late");
    let told = tokio::time::timeout(Duration::from_secs(30), waits).await;
    let told = told.expect("the wait ends");
    assert!(matches!(told, Err(crate::Error::Stopped)), "{told:?}");
    let stopped = tokio::time::timeout(Duration::from_secs(30), store.stop()).await;
    stopped.expect("the store stops");
    // As a request that came before the node stood by.
    let waits = store.declare_work_queue("/", "later");
    let told = tokio::time::timeout(Duration::from_secs(30), waits).await;
    assert!(matches!(told, Ok(Err(crate::Error::Stopped))), "{told:?}");
    second.close().await;
}

#[tokio::test]
async fn a_standby_takes_over_when_the_lease_ends_or_is_given_back() {
    let database = Database::new().await;
    let options = Options {
        node: "one".into(),
        ..small()
    };
    let first = database.open(options.clone()).await;
    commit(&first, put_queues([1])).await.unwrap();
    let (standing, mut known) = watch::channel(Standing::default());
    let target = database.target();
    let waiting = tokio::spawn(async move {
        let options = Options {
            node: "two".into(),
            ..small()
        };
        Postgres::open(target, options, &standing).await.unwrap()
    });
    let expected = Standing::Standby {
        owner: "one".into(),
        epoch: 1,
    };
    known.wait_for(|now| *now == expected).await.unwrap();
    // It renews, so it keeps the store for longer than a lease.
    tokio::time::sleep(options.lease * 2).await;
    assert_eq!(*known.borrow(), expected);
    commit(&first, segments([1])).await.unwrap();
    first.abandon();
    let second = waiting.await.unwrap();
    assert_eq!(*known.borrow(), Standing::Owner { epoch: 2 });
    assert_eq!(ids(&second).await, [1].into());
    second.close().await;
    // Given back: nobody waits for the lease, though it is an hour.
    let hour = Options {
        lease: Duration::from_secs(3600),
        ..Options::default()
    };
    let third = database.open(hour.clone()).await;
    third.close().await;
    let fourth = database.open(hour).await;
    fourth.close().await;
}

/// A command beside the nodes: a dead owner's lease is waited for, a living one is an error.
#[tokio::test]
async fn whoever_does_not_wait_is_told_who_owns_it() {
    let database = Database::new().await;
    let once = Options {
        wait: false,
        ..small()
    };
    let first = database.open(small()).await;
    let text = refusal(&database, once.clone()).await;
    assert!(text.contains("is owned by node 'leveret'"), "{text}");
    first.abandon();
    let second = database.open(once).await;
    second.close().await;
}

/// What is seen is of one moment, and its owner is not disturbed.
#[tokio::test]
async fn a_store_is_looked_at_while_it_is_served() {
    let database = Database::new().await;
    let missing = Postgres::look(database.target()).await.err().unwrap();
    assert!(
        missing.to_string().contains("there is no store"),
        "{missing}"
    );
    let engine = database.open(small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    commit(&engine, segments(1..=100)).await.unwrap();
    let look = Postgres::look(database.target()).await.unwrap();
    let dropped = Batch {
        dropped_segments: (1..=100).map(SegmentId).collect(),
        ..segments(101..=160)
    };
    commit(&engine, dropped).await.unwrap();
    commit(&engine, segments([161])).await.unwrap();
    engine.maintain().await.unwrap();
    let image = look.image().await.unwrap();
    assert_eq!(image.segments.len(), 100);
    for row in &image.segments {
        let body = look.read_segment(row.id).await.unwrap().unwrap();
        assert!(body.data == segment(row.id.0, 1, 0).data);
    }
    let refused = commit(&look, segments([200])).await;
    assert!(
        matches!(refused, Err(CommitError::NotDone(_))),
        "{refused:?}"
    );
    look.close().await;
    let seen = Postgres::see(&database.target()).await.unwrap();
    assert_eq!(seen.schema, seen.schema_ours);
    assert!(!seen.owner.unwrap().is_free() && seen.bytes > 0);
    engine.close().await;
}

#[tokio::test]
async fn an_owner_that_cannot_renew_gives_up() {
    let database = Database::new().await;
    let engine = database.open(small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let client = database.client().await;
    // Renewals and commits wait behind this lock.
    client
        .batch_execute("begin; lock table owner in access exclusive mode")
        .await
        .unwrap();
    assert!(engine.lost().await.contains("could not be renewed"));
    client.batch_execute("rollback").await.unwrap();
    let refused = commit(&engine, segments([1])).await;
    assert!(
        matches!(refused, Err(CommitError::Fenced(_))),
        "{refused:?}"
    );
    engine.close().await;
}

/// A store that was lost is closed while a commit waits: that commit was refused, nothing else.
#[tokio::test]
async fn a_commit_that_waits_at_the_end_is_refused() {
    let database = Database::new().await;
    let engine = Arc::new(database.open(small()).await);
    commit(&engine, put_queues([1])).await.unwrap();
    let client = database.client().await;
    client
        .batch_execute("begin; lock table owner in access exclusive mode")
        .await
        .unwrap();
    let waits = Arc::clone(&engine);
    let waits = tokio::spawn(async move { commit(&waits, segments([1])).await });
    assert!(engine.lost().await.contains("could not be renewed"));
    engine.abandon();
    let refused = waits.await.unwrap();
    assert!(
        matches!(refused, Err(CommitError::Fenced(_))),
        "{refused:?}"
    );
    let refused = commit(&engine, segments([2])).await;
    assert!(
        matches!(refused, Err(CommitError::Fenced(_))),
        "{refused:?}"
    );
    client.batch_execute("rollback").await.unwrap();
}

/// Connections end at any moment of a commit; each commit is stored once, and none is forgotten.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_again() {
    let database = Database::new().await;
    let options = Options {
        lease: Duration::from_secs(60),
        ..small()
    };
    let engine = database.open(options).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let (client, name) = (
        database.client().await,
        database.target().application().to_owned(),
    );
    let ending = tokio::spawn(async move {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
             where application_name = $1 and datname = current_database() and query not like '%owner%'";
        for round in 0_u64.. {
            client.execute(end, &[&name]).await.unwrap();
            tokio::time::sleep(Duration::from_micros(1000 + round * 7919 % 20_000)).await;
        }
    });
    for id in 1..=60 {
        let batch = Batch {
            waiting: vec![waiting(1, id, 1)],
            dropped_waiting: if id > 5 {
                vec![(QueueId(1), id - 5)]
            } else {
                vec![]
            },
            ..segments([id])
        };
        commit(&engine, batch).await.unwrap();
    }
    ending.abort();
    let _ = ending.await;
    assert_eq!(ids_again(&engine).await, (1..=60).collect());
    let image = engine.load().await.unwrap();
    let seqs: Vec<Seq> = image.waiting.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, [56, 57, 58, 59, 60]);
    engine.close().await;
}

/// A reader's connection may have been ended, too: it says so once.
async fn ids_again(engine: &Postgres) -> BTreeSet<u64> {
    for _ in 0..4 {
        if let Ok(image) = engine.load().await {
            return image.segments.iter().map(|row| row.id.0).collect();
        }
    }
    panic!("the store cannot be read");
}

/// A queue sets aside what cannot be read, so that a server that is away must not look like that.
#[tokio::test]
async fn a_segment_is_read_when_the_server_is_back() {
    let database = Database::new().await;
    let options = Options {
        lease: Duration::from_secs(60),
        ..small()
    };
    let engine = Arc::new(database.open(options).await);
    commit(&engine, put_queues([1])).await.unwrap();
    commit(&engine, segments([1])).await.unwrap();
    let client = database.client().await;
    let doors = async |open: bool| {
        let set = "update pg_database set datallowconn = $1 where datname = current_database()";
        client.execute(set, &[&open]).await.unwrap();
    };
    doors(false).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
         where datname = current_database() and pid <> pg_backend_pid()";
    client.execute(end, &[]).await.unwrap();
    let reader = engine.clone();
    let reading = tokio::spawn(async move { reader.read_segment(SegmentId(1)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!reading.is_finished(), "it gave up");
    doors(true).await;
    let found = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(found.unwrap().unwrap().unwrap().is_some());
    engine.close().await;
}

/// With a snapshot that pins everything: what is settled leaves no trace for long.
#[tokio::test]
async fn a_long_transaction_beside_it_makes_no_table_grow() {
    let database = Database::new().await;
    let engine = database.open(small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let (pin, client) = (database.client().await, database.client().await);
    pin.batch_execute("begin isolation level repeatable read; select count(*) from pg_class")
        .await
        .unwrap();
    let mut sizes = Vec::new();
    for round in 0..6_u64 {
        for id in round * 300 + 1..=round * 300 + 300 {
            let batch = Batch {
                dropped_segments: if id > 20 {
                    vec![SegmentId(id - 20)]
                } else {
                    vec![]
                },
                heads: vec![HeadRow {
                    queue: QueueId(1),
                    head: id,
                    handed: id,
                    next: id + 1,
                }],
                waiting: vec![waiting(1, id, 1)],
                dropped_waiting: if id > 20 {
                    vec![(QueueId(1), id - 20)]
                } else {
                    vec![]
                },
                settled: vec![SettledRow {
                    segment: SegmentId(id),
                    queue: QueueId(1),
                    bits: vec![1; 30],
                }],
                ..segments([id])
            };
            engine.commit(Arc::new(batch), false).await.unwrap();
            if id.is_multiple_of(25) {
                engine.maintain().await.unwrap();
            }
        }
        sizes.push(size(&client).await);
    }
    assert!(sizes[5] <= sizes[1] * 5 / 4, "{sizes:?}");
    assert_eq!(ids(&engine).await, (1781..=1800).collect());
    // And a start finds the same.
    engine.abandon();
    database.free().await;
    let again = database.open(small()).await;
    let image = again.load().await.unwrap();
    assert_eq!(image.segments.len(), 20);
    assert_eq!((image.settled.len(), image.waiting.len()), (20, 20));
    assert_eq!(image.heads[0].head, 1800);
    again.close().await;
}

/// A dump reads all tables for hours: they are emptied later, and commits go on.
#[tokio::test]
async fn a_table_that_is_read_is_emptied_later() {
    let database = Database::new().await;
    let engine = database.open(small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let (dump, client) = (database.client().await, database.client().await);
    dump.batch_execute(
        "begin; select count(*) from segment; select count(*) from journal_0, journal_1",
    )
    .await
    .unwrap();
    for id in 1..=400 {
        let dropped_segments = if id > 1 {
            vec![SegmentId(id - 1)]
        } else {
            vec![]
        };
        let batch = Batch {
            dropped_segments,
            ..segments([id])
        };
        engine.commit(Arc::new(batch), false).await.unwrap();
        if id.is_multiple_of(100) {
            engine.maintain().await.unwrap();
        }
    }
    let rows: i64 = client
        .query_one("select count(*) from segment", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(rows, 400, "all are still there");
    dump.batch_execute("commit").await.unwrap();
    let begun = Instant::now();
    loop {
        engine.maintain().await.unwrap();
        let rows: i64 = client
            .query_one("select count(*) from segment", &[])
            .await
            .unwrap()
            .get(0);
        if rows < 100 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{rows} rows");
    }
    assert_eq!(ids(&engine).await, [400].into());
    assert!(engine.read_segment(SegmentId(400)).await.unwrap().is_some());
    engine.close().await;
}

/// The server's own cleaning holds one table: it is tried again soon, and others are emptied
/// meanwhile.
#[tokio::test]
async fn a_table_that_is_held_holds_back_no_other() {
    let database = Database::new().await;
    let engine = database.open(small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let (reader, client) = (database.client().await, database.client().await);
    let count = async |table: &str| -> i64 {
        let statement = format!("select count(*) from {table}");
        client.query_one(&statement, &[]).await.unwrap().get(0)
    };
    let fill = async |ids: std::ops::RangeInclusive<u64>| {
        for id in ids {
            let dropped_segments = (id > 1).then(|| SegmentId(id - 1));
            let batch = Batch {
                dropped_segments: dropped_segments.into_iter().collect(),
                ..segments([id])
            };
            engine.commit(Arc::new(batch), false).await.unwrap();
        }
    };
    fill(1..=200).await;
    let statement = "begin; select count(*) from segment_00";
    reader.batch_execute(statement).await.unwrap();
    let held = count("segment_00").await;
    assert!(held > 0);
    engine.maintain().await.unwrap();
    assert_eq!(count("segment_00").await, held);
    fill(201..=400).await;
    engine.maintain().await.unwrap();
    let left = count("segment").await;
    assert!(left < held + 100, "{left} left, {held} held");
    reader.batch_execute("commit").await.unwrap();
    // After one failure and two, it is tried at the next call but one.
    engine.maintain().await.unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(count("segment_00").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn any_name_comes_back() {
    let database = Database::new().await;
    let engine = database.open(Options::default()).await;
    let name: Arc<str> = "nul \0, stand-in \u{fdd0}, 'quote', 兔".into();
    let queue = QueueSpec {
        id: QueueId(1),
        vhost: "/".into(),
        name: name.clone(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        work: false,
        arguments: vec![0; 100_000],
        paused: false,
    };
    let binding = BindingSpec {
        vhost: "/".into(),
        source: name.clone(),
        destination_kind: DestinationKind::Queue,
        destination: name.clone(),
        routing_key: vec![0xff; 255],
        // Not compressible, so that an index of it would be too large.
        arguments: (0..100_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect(),
    };
    let definitions = vec![
        DefinitionChange::PutQueue(queue.clone()),
        DefinitionChange::PutBinding(binding.clone()),
        DefinitionChange::PutBinding(binding.clone()),
    ];
    let batch = Batch {
        definitions,
        ..Batch::default()
    };
    commit(&engine, batch).await.unwrap();
    let image = engine.load().await.unwrap();
    assert_eq!(
        (image.queues, image.bindings),
        (vec![queue], vec![binding.clone()])
    );
    let batch = Batch {
        definitions: vec![DefinitionChange::DeleteBinding(binding)],
        ..Batch::default()
    };
    commit(&engine, batch).await.unwrap();
    assert!(engine.load().await.unwrap().bindings.is_empty());
    engine.close().await;
}

async fn refusal(database: &Database, options: Options) -> String {
    let standing = watch::channel(Standing::default()).0;
    let opened = Postgres::open(database.target(), options, &standing).await;
    opened
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_schema_or_cluster_that_is_not_ours_is_refused() {
    let database = Database::new().await;
    database.open(Options::default()).await.close().await;
    let other = Options {
        cluster: "other".into(),
        ..Options::default()
    };
    let text = refusal(&database, other).await;
    assert!(
        text.contains("the store of cluster 'leveret'") && text.contains("'other'"),
        "{text}"
    );

    let client = database.client().await;
    client
        .batch_execute("update migration set checksum = 'x' where version = 2")
        .await
        .unwrap();
    let text = refusal(&database, Options::default()).await;
    assert!(text.contains("migration 2 is not the one"), "{text}");
    client
        .batch_execute("insert into migration values (9999, 'z', 'z')")
        .await
        .unwrap();
    client
        .batch_execute("delete from migration where version = 2")
        .await
        .unwrap();
    let text = refusal(&database, Options::default()).await;
    assert!(
        text.contains("newer release (it has migration 9999)"),
        "{text}"
    );
}

#[tokio::test]
async fn two_stores_in_one_database_have_schemas_of_their_own() {
    let database = Database::new().await;
    let mut engines = Vec::new();
    for schema in ["one", "two"] {
        let url = format!("{}?schema={schema}", database.url());
        let target = Target::parse(&url, None, None).unwrap();
        let standing = watch::channel(Standing::default()).0;
        let opened = Postgres::open(target, Options::default(), &standing).await;
        engines.push(opened.unwrap());
    }
    commit(&engines[0], put_queues([1])).await.unwrap();
    commit(&engines[0], segments([1])).await.unwrap();
    assert_eq!(ids(&engines[1]).await, [].into());
    for engine in &engines {
        engine.maintain().await.unwrap();
        engine.close().await;
    }
}

#[tokio::test]
async fn a_role_without_rights_is_told_what_it_lacks() {
    let database = Database::new().await;
    let client = database.client().await;
    let role = format!("poor_{}", database.name);
    client
        .batch_execute(&format!("create role {role} login"))
        .await
        .unwrap();
    let url = database.url().replace("leveret@", &format!("{role}@"));
    let text = waits_for(&url).await;
    assert!(
        text.contains("permission denied for schema public"),
        "{text}"
    );
    assert!(
        text.contains(&role) && text.contains(&database.name),
        "{text}"
    );
}

/// What a node says that waits for a database which cannot be used.
async fn waits_for(url: &str) -> String {
    let (standing, mut known) = watch::channel(Standing::default());
    let target = Target::parse(url, None, None).unwrap();
    let waiting = tokio::spawn(async move {
        let _ = Postgres::open(target, Options::default(), &standing).await;
    });
    let said = known.wait_for(|now| matches!(now, Standing::Unusable(_)));
    let said = said.await.unwrap().clone();
    waiting.abort();
    match said {
        Standing::Unusable(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_waits_for_a_server_and_says_why() {
    let database = Database::new().await;
    for (url, words) in [
        ("postgres://leveret@127.0.0.1:1/x".to_owned(), "refused"),
        (
            "postgres://leveret@no-such-host.invalid/x?sslmode=disable".to_owned(),
            "no-such-host.invalid",
        ),
        (database.url().replace("/test_", "/none_"), "does not exist"),
    ] {
        let why = waits_for(&url).await;
        assert!(why.contains(words), "{why}");
    }
}

/// As after a crash of the server: the newest lines are gone, of which nobody waited for some.
#[tokio::test]
async fn a_database_that_went_back_is_read_anew() {
    for (sync, words) in [
        (false, "nobody had waited for"),
        (true, "what it had confirmed"),
    ] {
        let database = Database::new().await;
        let engine = database.open(Options::default()).await;
        commit(&engine, put_queues([1])).await.unwrap();
        engine.commit(Arc::new(segments([1])), sync).await.unwrap();
        let client = database.client().await;
        let newest = "delete from journal_0 where position = (select max(position) from journal_0)";
        client.batch_execute(newest).await.unwrap();
        client
            .batch_execute("delete from segment_00")
            .await
            .unwrap();
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and pid <> pg_backend_pid()";
        client.batch_execute(end).await.unwrap();
        let refused = commit(&engine, segments([2])).await;
        assert!(
            matches!(refused, Err(CommitError::Fenced(_))),
            "{refused:?}"
        );
        assert!(engine.lost().await.contains(words));
        engine.close().await;
        // Nobody waits for the lease.
        let hour = Options {
            lease: Duration::from_secs(3600),
            ..Options::default()
        };
        let again = database.open(hour).await;
        assert_eq!(ids(&again).await, [].into());
        commit(&again, segments([2])).await.unwrap();
        again.close().await;
    }
}

#[tokio::test]
async fn a_server_is_reached_by_tls_and_its_certificate_must_be_right() {
    let database = Database::new().await;
    let url = database.url().replace("127.0.0.1", "localhost");
    let roots = server::certificate();
    let right = format!("{url}?sslmode=verify-full&sslrootcert={}", roots.display());
    let target = Target::parse(&right, None, None).unwrap();
    let standing = watch::channel(Standing::default()).0;
    let engine = Postgres::open(target, Options::default(), &standing)
        .await
        .unwrap();
    commit(&engine, put_queues([1])).await.unwrap();
    let client = database.client().await;
    let row = client
        .query_one(
            "select count(*) filter (where ssl), count(*) from pg_stat_ssl \
             join pg_stat_activity using (pid) where application_name like 'leveret%'
             and datname = current_database()",
            &[],
        )
        .await
        .unwrap();
    let (with, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(with == all && all >= 3, "{with} of {all}");
    engine.close().await;
    // The name is not in the certificate; and the system trusts no such signer.
    let other = right.replace("localhost", "127.0.0.1");
    let why = waits_for(&other).await;
    assert!(why.contains("not valid for name"), "{why}");
    let why = waits_for(&format!("{url}?sslmode=require")).await;
    assert!(why.contains("TLS is asked for"), "{why}");
}

#[tokio::test]
async fn a_password_is_asked_for_and_found_in_its_file() {
    let database = Database::new().await;
    let client = database.client().await;
    let (group, role) = (server::ASKS_PASSWORD, format!("asked_{}", database.name));
    let make = format!(
        "create role {group}; create role {role} login password 'right' in role {group}; \
         grant all on schema public to {role}"
    );
    client.batch_execute(&make).await.unwrap();
    let url = database.url().replace("leveret@", &format!("{role}@"));
    let why = waits_for(&url).await;
    assert!(why.contains("password missing"), "{why}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "right\n").unwrap();
    let target = Target::parse(&url, None, Some(&file)).unwrap();
    let standing = watch::channel(Standing::default()).0;
    let engine = Postgres::open(target, Options::default(), &standing)
        .await
        .unwrap();
    engine.close().await;
    let why = waits_for(&url.replace("@", ":wrong@")).await;
    assert!(why.contains("password authentication failed"), "{why}");
    assert!(!why.contains("wrong"), "{why}");
}

/// Nothing is confirmed while the database takes no writes; the node gives up what it cannot renew,
/// and waits until it can.
#[tokio::test]
async fn a_read_only_database_is_waited_for() {
    let database = Database::new().await;
    let engine = database.open(small()).await;
    commit(&engine, put_queues([1])).await.unwrap();
    let client = database.client().await;
    let set = |value: &str| {
        let name = &database.name;
        format!("alter database {name} set default_transaction_read_only = {value}")
    };
    client.batch_execute(&set("on")).await.unwrap();
    let writable = "set default_transaction_read_only = off";
    client.batch_execute(writable).await.unwrap();
    // Sessions from now on are read-only.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
         where datname = current_database() and pid <> pg_backend_pid()";
    client.batch_execute(end).await.unwrap();
    let refused = commit(&engine, segments([1])).await;
    assert!(
        matches!(refused, Err(CommitError::Fenced(_))),
        "{refused:?}"
    );
    engine.close().await;
    let why = waits_for(&database.url()).await;
    assert!(why.contains("read-only transaction"), "{why}");
    client.batch_execute(&set("off")).await.unwrap();
    let engine = database.open(small()).await;
    commit(&engine, segments([2])).await.unwrap();
    assert_eq!(ids(&engine).await, [2].into());
    engine.close().await;
}

/// Every statement is understood by the server, in each slot.
#[tokio::test]
async fn statements_are_sound() {
    let database = Database::new().await;
    database.open(Options::default()).await.close().await;
    let client = database.client().await;
    for (name, sql) in statement::ALL {
        for slot in [0, slots::SLOTS - 1] {
            let slot = if sql.contains("{journal}") {
                slot % 2
            } else {
                slot
            };
            let form = statement::Text::moved(sql, slot, 1).form();
            let prepared = client.prepare(&form).await;
            assert!(prepared.is_ok(), "{name}: {prepared:?}");
        }
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sql/statements/postgres");
    let listed = statement::ALL.iter().filter_map(|(name, _)| {
        let own = name.strip_prefix("postgres/")?;
        Some(format!("{own}.sql"))
    });
    assert_eq!(files(folder), listed.collect());
}

fn files(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn migrations_are_the_twins_of_sqlite() {
    let names = |all: &[(i64, &'static str, &str)]| -> Vec<(i64, &'static str)> {
        all.iter()
            .map(|(version, name, _)| (*version, *name))
            .collect()
    };
    assert_eq!(names(migration::ALL), names(sqlite::migration::ALL));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres");
    let listed = migration::ALL.iter().map(|step| format!("{}.sql", step.1));
    assert_eq!(files(folder), listed.collect());
}
