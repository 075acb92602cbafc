//! Damage of each kind, planted in a whole store, is found and named.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::log::segment::decode;
use crate::sql::place::Place;
use crate::upkeep::fixture;

/// The findings on a store after `plant`, damage only.
async fn damage(plant: impl FnOnce(&mut fixture::Rows)) -> Vec<Finding> {
    let mut rows = fixture::rows();
    plant(&mut rows);
    let store = fixture::filled(rows).await;
    let (done, found) = fixture::verified(&store).await;
    let found: Vec<_> = found.into_iter().filter(|found| found.damage).collect();
    assert_eq!(done.damage, found.len() as u64);
    found
}

fn alone(found: Vec<Finding>) -> Finding {
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_whole_store_has_no_finding() {
    let store = fixture::filled(fixture::rows()).await;
    let (done, found) = fixture::verified(&store).await;
    assert_eq!(found, []);
    let expected = Verified {
        queues: 2,
        segments: 3,
        messages: 10 + 10 + 10 + 1,
        waiting: 2,
        jobs: 2,
        results: 1,
        ..Verified::default()
    };
    assert_eq!(done, expected);
}

#[tokio::test]
async fn a_flipped_byte_names_queue_segment_and_seqs() {
    let found = alone(
        damage(|rows| {
            // Two messages side by side. The first of the ten is whole, and as long as the others
            // were before they shared its beginning.
            let row = &mut rows.batch.segments[1];
            let read = decode(&row.index, row.data.clone(), row.first_seq, 0).unwrap();
            let whole = read.pieces[0].block.content(0).len();
            let each = (row.data.len() - whole) / 9;
            row.data[whole + each * 3] ^= 1;
            row.data[whole + each * 4] ^= 1;
        })
        .await,
    );
    assert_eq!(found.queue, Some(("/".into(), "orders".into())));
    assert_eq!(found.segment, Some(SegmentId(2)));
    assert_eq!(found.seqs, Some((14, 15)));
    assert_eq!(found.detail, "does not read back as written");
}

#[tokio::test]
async fn an_index_that_cannot_be_read_is_found() {
    let found = alone(damage(|rows| rows.batch.segments[0].index[0] = 9).await);
    assert_eq!(found.segment, Some(SegmentId(1)));
    assert_eq!(found.seqs, Some((0, 9)));
    assert_eq!(found.detail, "its index cannot be read");
}

#[tokio::test]
async fn counts_that_contradict_the_content_are_found() {
    let found = alone(damage(|rows| rows.batch.segments[0].count = 9).await);
    assert_eq!(found.detail, "says it has 9 messages; it has 10");
    let found = alone(damage(|rows| rows.batch.segments[0].bytes += 1).await);
    assert_eq!(found.detail, "says it has 41 bytes; they are 40");
    let found = alone(damage(|rows| rows.batch.segments[2].data.push(0)).await);
    assert!(found.detail.starts_with("its messages take"), "{found:?}");
    let short = |rows: &mut fixture::Rows| {
        rows.batch.segments[1].last_seq = 18;
        rows.batch.segments[1].count = 9;
    };
    let found = damage(short).await;
    assert_eq!(found[1].detail, "has a seq outside its range");
}

/// The last of a commit's messages may be settled before it is stored: only the bits know them.
#[tokio::test]
async fn bits_may_go_on_behind_the_last_message() {
    for bits in [vec![0b100, 0b100], vec![0b100, 0, 0xff]] {
        let found = damage(|rows| rows.batch.settled[0].bits = bits).await;
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[tokio::test]
async fn a_message_in_two_places_is_found() {
    let found = alone(damage(|rows| rows.batch.settled[0].bits = vec![0, 0]).await);
    assert_eq!(found.detail, "is ready here, and waits in a row of its own");
    assert_eq!(found.seqs, Some((12, 12)));
    let twice = damage(|rows| {
        let (first, last) = (
            rows.batch.segments[0].first_seq,
            rows.batch.segments[0].last_seq,
        );
        rows.batch.segments[1].first_seq = first + 5;
        rows.batch.segments[1].last_seq = last + 5;
        rows.batch.settled.clear();
        rows.batch.waiting.clear();
    })
    .await;
    assert_eq!(alone(twice).detail, "holds seqs that segment 1 holds, too");
}

#[tokio::test]
async fn a_waiting_row_that_is_damaged_is_found() {
    let found = alone(damage(|rows| rows.batch.waiting[0].data[0] ^= 1).await);
    assert_eq!((found.noun, found.seqs), ("waiting", Some((12, 12))));
    assert_eq!(found.queue, Some(("/".into(), "orders".into())));
    let found = alone(damage(|rows| rows.batch.waiting[1].data.push(0)).await);
    assert_eq!(found.detail, "only counts attempts, and has content");
}

#[tokio::test]
async fn a_result_that_is_gone_or_of_nobody_is_found() {
    let found = alone(damage(|rows| rows.import.jobs[0].1 = None).await);
    assert_eq!(found.job, Some(rows_job()));
    assert_eq!(found.detail, "says it has a result, which is not there");
    let found = alone(damage(|rows| rows.import.jobs[0].1.as_mut().unwrap().body.push(0)).await);
    assert_eq!(found.detail, "says its result has 2 bytes; it has 3");
    let found = alone(damage(|rows| rows.import.jobs[0].0.result = None).await);
    assert_eq!((found.noun, found.job), ("result", Some(rows_job())));
}

fn rows_job() -> JobId {
    fixture::rows().import.jobs[0].0.id
}

#[tokio::test]
async fn definitions_without_their_place_are_found() {
    let found = damage(|rows| rows.drop_vhost()).await;
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().all(|found| found.detail.contains("its vhost")));
}

#[tokio::test]
async fn what_is_left_over_is_no_damage() {
    let mut rows = fixture::rows();
    let transient = crate::log::batch::SegmentRow {
        id: SegmentId(8),
        transient: true,
        first_seq: 20,
        last_seq: 29,
        ..rows.batch.segments[2].clone()
    };
    rows.batch.segments.push(transient);
    rows.batch.damaged = vec![SegmentId(1)];
    let store = fixture::filled(rows).await;
    let (done, found) = fixture::verified(&store).await;
    assert_eq!((done.damage, done.notes), (0, 2), "{found:#?}");
    assert_eq!(found[0].detail, "1 transient segments");
    assert_eq!(found[1].segment, Some(SegmentId(1)));
}

/// The engine's own findings come first, and what cannot be read then is one more.
#[tokio::test]
async fn a_broken_file_is_told_by_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("leveret.db");
    let place = Place::Sqlite(file.clone());
    let store = place.open().await.unwrap();
    let mut rows = fixture::rows();
    let (first, count) = (rows.batch.segments[0].clone(), 200);
    rows.batch
        .segments
        .extend((0..count).map(|n| crate::log::batch::SegmentRow {
            id: SegmentId(100 + n),
            first_seq: 100 + n * 10,
            last_seq: 109 + n * 10,
            ..first.clone()
        }));
    rows.import.last_segment_id = 1_000;
    fixture::fill(store.as_ref(), rows).await;
    store.close().await;
    let store = place.look(false).await.unwrap();
    let (whole, found) = fixture::verified(store.as_ref()).await;
    assert_eq!((whole.damage, whole.segments), (0, 203), "{found:#?}");
    store.close().await;

    let mut bytes = std::fs::read(&file).unwrap();
    // A leaf of the segments' table, whole.
    let page = 8192;
    let pattern = &first.data[..20];
    let at = bytes
        .chunks(page)
        .rposition(|page| page.windows(pattern.len()).any(|window| window == pattern));
    let at = at.unwrap() * page;
    bytes[at..at + page].fill(0xaa);
    std::fs::write(&file, bytes).unwrap();
    let store = place.look(false).await.unwrap();
    let (done, found) = fixture::verified(store.as_ref()).await;
    assert!(done.damage > 0);
    assert_eq!(found[0].noun, "engine", "{found:#?}");
    let ends = found.last().unwrap();
    assert!(ends.detail.starts_with("the check ends here"), "{ends:?}");
    store.close().await;
}
