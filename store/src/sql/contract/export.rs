//! The contract's cases about what checks and copies ask: images, pages, imports.

use super::*;

pub(super) async fn an_image_leaves_nothing_out(bench: Bench) {
    let mut batch = full_batch();
    batch.segments.push(SegmentRow {
        transient: true,
        ..segment(9, 2, 10)
    });
    bench.commit(batch).await.unwrap();
    let image = bench.backend().image().await.unwrap();
    let ids: Vec<_> = image.segments.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, [1, 3, 2, 9], "by queue, first seq, id");
    assert_eq!(bench.backend().image().await.unwrap(), image);
    let loaded = bench.load().await;
    let mut left = image;
    left.segments.retain(|row| !row.transient);
    assert_eq!(left, loaded);
    done(bench).await;
}

pub(super) async fn pages_go_on_behind_their_cursor(bench: Bench) {
    let scopes = ["B", "a", "a b", "z", "é"];
    let mut batch = jobs((1..=5).map(submit));
    for n in [3, 1, 5, 2, 4] {
        let (place, at) = (usize::from(n) - 1, 100 + i64::from(n));
        let key = KeyClaim {
            scope: scopes[place].into(),
            job: id(n),
            fingerprint: [n; 32],
            // Some have expired.
            expires_at: at + i64::from(n % 2) * 1_000,
        };
        batch.jobs.push(JobChange::Claim { key, at });
        batch
            .jobs
            .push(finish(n, JobState::Succeeded, 200, Some(&[n; 7])));
    }
    batch.fires = vec![
        fire("b", 1, 5),
        fire("a", 20, 6),
        fire("a", 3, 7),
        fire("a", -1, 8),
        fire("Z", 9, 9),
    ];
    bench.commit(batch).await.unwrap();
    let mut batch = put_queues([1]);
    batch.segments = (1..=5).map(|n| segment(n, 1, n * 10)).collect();
    bench.commit(batch).await.unwrap();
    let aside = Batch {
        damaged: (1..=5).rev().map(SegmentId).collect(),
        ..Batch::default()
    };
    bench.commit(aside).await.unwrap();

    let damaged = (1..=5).map(|n| Exported::Damaged(segment(n, 1, n * 10)));
    expect(&bench, Cursor::FIRST_DAMAGED, damaged.collect()).await;
    let results = (1..=5).map(|n| Exported::Result(id(n), 7));
    expect(&bench, Cursor::FIRST_RESULT, results.collect()).await;
    let claims = (1..=5).map(|n: u8| {
        let at = 100 + i64::from(n);
        let key = KeyClaim {
            scope: scopes[usize::from(n) - 1].into(),
            job: id(n),
            fingerprint: [n; 32],
            expires_at: at + i64::from(n % 2) * 1_000,
        };
        Exported::Claim(key, at)
    });
    expect(&bench, Cursor::FIRST_CLAIM, claims.collect()).await;
    let fires = [
        fire("Z", 9, 9),
        fire("a", -1, 8),
        fire("a", 3, 7),
        fire("a", 20, 6),
        fire("b", 1, 5),
    ];
    let fires = fires.map(Exported::Fire).to_vec();
    expect(&bench, Cursor::FIRST_FIRE, fires).await;
    done(bench).await;
}

/// Read two at a time, these come in this order, and the last page is the short one.
async fn expect(bench: &Bench, first: Cursor, rows: Vec<Exported>) {
    let mut found = Vec::new();
    let mut after = first;
    for size in [2, 2, 1, 0] {
        let page = bench.backend().export(after.clone(), 2).await.unwrap();
        assert_eq!(page.len(), size, "behind {after:?}");
        if let Some(last) = page.last() {
            after = last.cursor();
        }
        found.extend(page);
    }
    assert!(found == rows, "before {after:?}");
}

fn finished(n: u8, body: &[u8]) -> (Job, Option<JobResult>) {
    let result = JobResult {
        content_type: Some("text/plain".into()),
        content_encoding: None,
        body: body.to_vec(),
    };
    let job = Job {
        state: JobState::Failed,
        attempt: 3,
        started_at: Some(110),
        completed_at: Some(150),
        expires_at: Some(155),
        error: Some(JobError {
            code: "worker-error".into(),
            detail: "no luck".into(),
        }),
        result: Some(ResultMeta {
            content_type: Some("text/plain".into()),
            content_encoding: None,
            bytes: body.len() as u64,
        }),
        ..job(n)
    };
    (job, Some(result))
}

pub(super) async fn an_import_is_put_as_it_is(bench: Bench) {
    let retrying = Job {
        state: JobState::Retrying,
        next_attempt_at: Some(170),
        attempt: 2,
        ..job(2)
    };
    let rows = Import {
        jobs: vec![finished(1, b"body"), (retrying, None)],
        damaged: vec![segment(3, 77, 5)],
        last_queue_id: 50,
        last_segment_id: 60,
    };
    bench
        .backend()
        .import(Arc::new(rows.clone()))
        .await
        .unwrap();
    bench.commit(put_queues([1])).await.unwrap();
    let bench = bench.reopen().await;
    for (job, result) in rows.jobs {
        let found = bench.backend().job_result(job.id).await.unwrap();
        assert_eq!(found, result);
        assert_eq!(bench.backend().job(job.id).await.unwrap(), Some(job));
    }
    let aside = bench.backend().export(Cursor::FIRST_DAMAGED, 9).await;
    assert!(aside.unwrap() == [Exported::Damaged(segment(3, 77, 5))]);
    let image = bench.load().await;
    assert_eq!((image.last_queue_id, image.last_segment_id), (50, 60));
    done(bench).await;
}

pub(super) async fn a_refused_import_stores_nothing(bench: Bench) {
    bench.commit(jobs([submit(1)])).await.unwrap();
    let aside = Import {
        damaged: vec![segment(3, 1, 5)],
        ..Import::default()
    };
    bench.backend().import(Arc::new(aside)).await.unwrap();
    let before = bench.backend().image().await.unwrap();
    for (n, damaged) in [(1, 4), (2, 3)] {
        let rows = Import {
            jobs: vec![finished(5, b"x"), finished(n, b"y")],
            damaged: vec![segment(6, 1, 5), segment(damaged, 1, 5)],
            last_queue_id: 50,
            last_segment_id: 60,
        };
        let refused = bench.backend().import(Arc::new(rows)).await;
        assert!(matches!(refused, Err(CommitError::NotDone(_))), "{n}");
        assert_eq!(bench.job(5).await, None);
        let results = bench.backend().export(Cursor::FIRST_RESULT, 9).await;
        assert!(results.unwrap().is_empty());
        let aside = bench.backend().export(Cursor::FIRST_DAMAGED, 9).await;
        assert!(aside.unwrap() == [Exported::Damaged(segment(3, 1, 5))]);
        assert_eq!(bench.backend().image().await.unwrap(), before);
    }
    // The engine goes on.
    bench.commit(jobs([submit(2)])).await.unwrap();
    assert_eq!(bench.job(2).await, Some(job(2)));
    done(bench).await;
}

pub(super) async fn a_whole_store_has_nothing_to_tell(bench: Bench) {
    bench.commit(full_batch()).await.unwrap();
    assert_eq!(bench.backend().check().await.unwrap(), [""; 0]);
    done(bench).await;
}
