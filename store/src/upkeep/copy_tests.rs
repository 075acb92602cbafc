//! A copy is whole, or says that it is not.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::sql::memory::Memory;
use crate::sql::place::Place;
use crate::sql::postgres::server::Database;
use crate::upkeep::count::Counts;
use crate::upkeep::fixture::{self, Rows};
use crate::{Options, Store};

/// A store with something of each kind, also aside, and what a copy leaves behind.
async fn source() -> Memory {
    let Rows { mut batch, import } = fixture::rows();
    let transient = SegmentRow {
        id: SegmentId(9),
        transient: true,
        ..batch.segments[0].clone()
    };
    batch.segments.push(transient);
    batch.damaged = vec![SegmentId(1)];
    fixture::filled(Rows { batch, import }).await
}

async fn everything(store: &dyn Backend) -> Vec<Exported> {
    let mut out = Vec::new();
    for first in ASIDE.iter().cloned().chain([Cursor::FIRST_RESULT]) {
        out.extend(store.export(first, 100).await.unwrap());
    }
    out
}

#[tokio::test]
async fn everything_arrives_on_any_engine() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Sqlite(dir.path().join("copy").join("leveret.db"));
    let (from, to, back) = (source().await, place.open().await.unwrap(), Memory::new());
    let database = Database::new().await;
    let shared = database.open(Default::default()).await;
    let before = from.image().await.unwrap();
    let first = copy(&from, to.as_ref()).await.unwrap();
    assert_eq!(copy(to.as_ref(), &shared).await.unwrap(), first);
    assert_eq!(copy(&shared, &back).await.unwrap(), first);
    let expected = Copied {
        definitions: 3,
        queues: 2,
        segments: 3,
        messages: 31,
        waiting: 2,
        jobs: 2,
        results: 1,
        claims: 1,
        fires: 1,
        damaged_segments: 1,
        bytes: first.bytes,
    };
    assert_eq!(first, expected);
    assert!(
        from.image().await.unwrap() == before,
        "the source is as it was"
    );
    for copied in [to.as_ref(), &shared, &back] {
        let image = copied.image().await.unwrap();
        assert!(!is_incomplete(&image));
        assert_eq!(image, from.load().await.unwrap());
        assert_eq!((image.last_queue_id, image.last_segment_id), (11, 12));
        assert!(everything(copied).await == everything(&from).await);
        let (done, found) = fixture::verified(copied).await;
        assert_eq!((done.damage, done.messages), (0, 31), "{found:#?}");
        let counts = Counts::of(copied).await.unwrap();
        assert_eq!(counts, Counts::of(&from).await.unwrap());
        // Three below the head, one settled after it.
        assert_eq!((counts.ready, counts.waiting, counts.retained), (16, 1, 10));
    }
    to.close().await;
    shared.close().await;
}

#[tokio::test]
async fn a_target_with_content_is_refused() {
    let from = source().await;
    for (change, what) in [
        (
            DefinitionChange::Access(AccessChange::PutVhost(VhostSpec::default())),
            "vhosts",
        ),
        (
            DefinitionChange::PutExchange(ExchangeSpec {
                vhost: "/".into(),
                name: "x".into(),
                kind: "fanout".into(),
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Vec::new(),
            }),
            "definitions",
        ),
    ] {
        let to = Memory::new();
        let batch = Batch {
            definitions: vec![change],
            ..Batch::default()
        };
        to.commit(Arc::new(batch), true).await.unwrap();
        let before = to.image().await.unwrap();
        let refused = copy(&from, &to).await;
        assert!(matches!(refused, Err(Error::NotEmpty(found)) if found == what));
        assert_eq!(to.image().await.unwrap(), before);
    }
    let to = Memory::new();
    let rows = Rows {
        batch: Batch::default(),
        import: fixture::rows().import,
    };
    fixture::fill(&to, rows).await;
    assert!(matches!(
        copy(&from, &to).await,
        Err(Error::NotEmpty("jobs"))
    ));
}

#[tokio::test]
async fn an_interrupted_copy_says_so_and_is_not_served() {
    let from = source().await;
    let to = Arc::new(Memory::new());
    to.set_full(true);
    let ended = copy(&from, to.as_ref()).await;
    assert!(matches!(ended, Err(Error::Write(CommitError::Full(_)))));
    to.set_full(false);
    // As a process finds it that starts afterwards.
    let to = Arc::new(to.crash());
    assert!(is_incomplete(&to.image().await.unwrap()));
    assert!(Counts::of(to.as_ref()).await.unwrap().is_incomplete);
    let again = copy(&from, to.as_ref()).await;
    assert!(matches!(again, Err(Error::TargetIncomplete)));
    let onwards = copy(to.as_ref(), &Memory::new()).await;
    assert!(matches!(onwards, Err(Error::SourceIncomplete)));
    let (done, found) = fixture::verified(to.as_ref()).await;
    assert_eq!((done.damage, &*found[0].detail), (1, INCOMPLETE));
    let Err(refused) = Store::open(to, Options::default()).await else {
        panic!("it is served");
    };
    assert_eq!(refused.to_string(), INCOMPLETE);
}

/// Each kind of row, changed on its way, is seen by the comparison.
#[tokio::test]
async fn what_differs_is_named() {
    type Change = fn(&mut Rows);
    let changes: [(Change, &str); 8] = [
        (|rows| rows.batch.segments[0].data[0] ^= 1, "segment 1"),
        (|rows| rows.batch.segments[2].index[3] ^= 1, "segment 3"),
        (
            |rows| rows.batch.heads[0].handed += 1,
            "a definition or a header",
        ),
        (
            |rows| rows.batch.deduplication.clear(),
            "a definition or a header",
        ),
        (|rows| rows.batch.waiting[0].data[0] ^= 1, "a waiting row"),
        (
            |rows| rows.import.jobs[1].0.attempt = 2,
            "a job or its result",
        ),
        (
            |rows| rows.import.jobs[0].1.as_mut().unwrap().body[0] ^= 1,
            "a job or its result",
        ),
        (
            |rows| rows.batch.fires[0].fired_at += 1,
            "a key, a fire, or a segment set aside",
        ),
    ];
    let from = fixture::filled(fixture::rows()).await;
    let image = from.image().await.unwrap();
    for (change, expected) in changes {
        let mut rows = fixture::rows();
        change(&mut rows);
        let to = fixture::filled(rows).await;
        let mut copy = Copy {
            from: &from,
            to: &to,
            number: 0,
            done: Copied::default(),
        };
        match copy.compare(&image).await {
            Err(Error::Differs { what }) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}
