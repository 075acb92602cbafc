//! The contract's cases about deferred calls: jobs, results, idempotency keys and their retention.

use super::*;

pub(super) async fn a_job_goes_through_its_life(bench: Bench) {
    bench.commit(jobs([submit(1)])).await.unwrap();
    assert_eq!(bench.job(1).await, Some(job(1)));
    bench.commit(jobs([started(1, 1, 110)])).await.unwrap();
    let running = Job {
        state: JobState::Running,
        attempt: 1,
        started_at: Some(110),
        ..job(1)
    };
    assert_eq!(bench.job(1).await, Some(running.clone()));

    let error = JobError {
        code: "worker-error".into(),
        detail: "no luck".into(),
    };
    let retry = JobChange::Retrying {
        id: id(1),
        next_attempt_at: 150,
        error: error.clone(),
    };
    bench.commit(jobs([retry])).await.unwrap();
    let retrying = Job {
        state: JobState::Retrying,
        next_attempt_at: Some(150),
        error: Some(error),
        ..running
    };
    assert_eq!(bench.job(1).await, Some(retrying.clone()));

    bench.commit(jobs([started(1, 2, 151)])).await.unwrap();
    let running = Job {
        state: JobState::Running,
        attempt: 2,
        next_attempt_at: None,
        ..retrying
    };
    assert_eq!(
        bench.job(1).await,
        Some(running.clone()),
        "the first start and last error stay"
    );
    done(bench).await;
}

pub(super) async fn a_result_is_kept_verbatim(bench: Bench) {
    let changes = [submit(1), started(1, 1, 110)];
    bench.commit(jobs(changes)).await.unwrap();
    bench
        .commit(jobs([finish(1, JobState::Succeeded, 160, Some(b"42"))]))
        .await
        .unwrap();
    let meta = ResultMeta {
        content_type: Some("text/plain".into()),
        content_encoding: None,
        bytes: 2,
    };
    let succeeded = Job {
        state: JobState::Succeeded,
        attempt: 1,
        started_at: Some(110),
        completed_at: Some(160),
        expires_at: Some(5_160),
        error: None,
        result: Some(meta),
        ..job(1)
    };
    assert_eq!(bench.job(1).await, Some(succeeded));
    let result = bench.backend().job_result(id(1)).await.unwrap().unwrap();
    assert_eq!(
        (result.content_type.as_deref(), &*result.body),
        (Some("text/plain"), &b"42"[..])
    );
    done(bench).await;
}

pub(super) async fn a_job_finishes_once(bench: Bench) {
    bench.commit(jobs([submit(1), submit(2)])).await.unwrap();
    let both = jobs([
        finish(1, JobState::Succeeded, 200, Some(b"first")),
        finish(1, JobState::Failed, 201, None),
        finish(2, JobState::Cancelled, 202, None),
    ]);
    assert_eq!(bench.commit(both).await.unwrap().refused, [id(1)]);
    let late = jobs([
        finish(2, JobState::Succeeded, 300, Some(b"late")),
        finish(1, JobState::Succeeded, 301, Some(b"late")),
        finish(9, JobState::Succeeded, 302, Some(b"unknown")),
    ]);
    assert_eq!(
        bench.commit(late).await.unwrap().refused,
        [id(2), id(1), id(9)]
    );
    assert_eq!(bench.job(1).await.unwrap().completed_at, Some(200));
    assert_eq!(bench.job(2).await.unwrap().state, JobState::Cancelled);
    assert_eq!(
        bench
            .backend()
            .job_result(id(1))
            .await
            .unwrap()
            .unwrap()
            .body,
        b"first"
    );
    assert!(bench.backend().job_result(id(2)).await.unwrap().is_none());
    assert!(bench.backend().job_result(id(9)).await.unwrap().is_none());
    done(bench).await;
}

pub(super) async fn changes_of_a_final_job_are_ignored(bench: Bench) {
    bench
        .commit(jobs([submit(1), finish(1, JobState::Expired, 200, None)]))
        .await
        .unwrap();
    let before = bench.job(1).await;
    let error = JobError {
        code: "no-reply".into(),
        detail: String::new(),
    };
    let late = jobs([
        started(1, 3, 210),
        JobChange::Retrying {
            id: id(1),
            next_attempt_at: 220,
            error,
        },
    ]);
    assert!(bench.commit(late).await.unwrap().refused.is_empty());
    assert_eq!(bench.job(1).await, before);
    done(bench).await;
}

pub(super) async fn job_changes_apply_in_order(bench: Bench) {
    let batch = jobs([
        submit(1),
        started(1, 1, 110),
        submit(2),
        submit(3),
        finish(1, JobState::Succeeded, 120, Some(b"")),
        finish(3, JobState::Failed, 120, None),
        submit(4),
    ]);
    assert!(bench.commit(batch).await.unwrap().refused.is_empty());
    let job = bench.job(1).await.unwrap();
    assert_eq!(
        (job.started_at, job.state),
        (Some(110), JobState::Succeeded)
    );
    assert_eq!(job.result.unwrap().bytes, 0);
    assert_eq!(bench.job(4).await.unwrap().state, JobState::Queued);
    let twice = bench.commit(jobs([submit(5), submit(4)])).await;
    assert!(matches!(twice, Err(CommitError::NotDone(_))));
    assert_eq!(bench.job(5).await, None);
    done(bench).await;
}

pub(super) async fn a_job_cannot_finish_as_open(bench: Bench) {
    bench.commit(jobs([submit(1)])).await.unwrap();
    let refused = bench
        .commit(jobs([finish(1, JobState::Retrying, 120, None)]))
        .await;
    assert!(matches!(refused, Err(CommitError::NotDone(_))));
    assert_eq!(bench.job(1).await, Some(job(1)));
    done(bench).await;
}

pub(super) async fn a_key_claims_until_it_expires(bench: Bench) {
    bench.commit(claim(1, "scope", 100, 500)).await.unwrap();
    let read = |now| bench.backend().key_claim("scope".into(), now);
    assert_eq!(read(499).await.unwrap(), Some(key(1, "scope", 500)));
    assert_eq!(read(500).await.unwrap(), None);
    assert_eq!(
        bench.backend().key_claim("other".into(), 0).await.unwrap(),
        None
    );

    let early = bench.commit(claim(2, "scope", 499, 900)).await;
    assert!(matches!(early, Err(CommitError::NotDone(_))));
    assert_eq!(bench.job(2).await, None, "no job without its claim");
    bench.commit(claim(2, "scope", 500, 900)).await.unwrap();
    assert_eq!(read(600).await.unwrap(), Some(key(2, "scope", 900)));

    let mut both = claim(3, "twice", 500, 900);
    both.jobs.extend(claim(4, "twice", 500, 900).jobs);
    assert!(matches!(
        bench.commit(both).await,
        Err(CommitError::NotDone(_))
    ));
    assert_eq!(bench.job(3).await, None);

    let alone = |n, at, expires_at| {
        let key = key(n, "alone", expires_at);
        jobs([JobChange::Claim { key, at }])
    };
    bench.commit(alone(5, 100, 500)).await.unwrap();
    assert!(matches!(
        bench.commit(alone(6, 499, 900)).await,
        Err(CommitError::NotDone(_))
    ));
    bench.commit(alone(7, 500, 900)).await.unwrap();
    let read = bench.backend().key_claim("alone".into(), 600).await;
    assert_eq!(read.unwrap(), Some(key(7, "alone", 900)));
    assert_eq!(bench.job(7).await, None);
    done(bench).await;
}

pub(super) async fn jobs_are_listed_newest_first(bench: Bench) {
    let other = Job {
        vhost: "other".into(),
        ..job(9)
    };
    let other = JobChange::Submit {
        job: Box::new(other),
        key: None,
    };
    let changes = (1..=8)
        .map(submit)
        .chain([other, finish(6, JobState::Failed, 200, None)]);
    bench.commit(jobs(changes)).await.unwrap();
    let list = async |filter: JobFilter| -> Vec<u8> {
        let jobs = bench.backend().jobs(filter).await.unwrap();
        jobs.iter().map(|job| job.id.0[0]).collect()
    };
    let all = JobFilter {
        limit: 100,
        ..JobFilter::default()
    };
    assert_eq!(list(all.clone()).await, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(
        list(JobFilter {
            limit: 2,
            ..all.clone()
        })
        .await,
        [9, 8]
    );
    let page = JobFilter {
        before: Some(id(8)),
        limit: 2,
        ..all.clone()
    };
    assert_eq!(list(page).await, [7, 6]);
    let vhost = JobFilter {
        vhost: Some("/".into()),
        ..all.clone()
    };
    assert_eq!(list(vhost).await, [8, 7, 6, 5, 4, 3, 2, 1]);
    let even = JobFilter {
        vhost: Some("/".into()),
        target: Some("queue/0".into()),
        state: Some(JobState::Queued),
        before: Some(id(8)),
        limit: 100,
    };
    assert_eq!(list(even).await, [4, 2]);
    let failed = JobFilter {
        state: Some(JobState::Failed),
        ..all
    };
    assert_eq!(list(failed).await, [6]);
    done(bench).await;
}

pub(super) async fn jobs_are_counted_by_state(bench: Bench) {
    let changes = (1..=5)
        .map(submit)
        .chain([finish(1, JobState::Failed, 200, None), started(2, 1, 150)]);
    bench.commit(jobs(changes)).await.unwrap();
    let mut counts = bench.backend().job_counts().await.unwrap();
    counts.retain(|(_, count)| *count > 0);
    counts.sort_by_key(|(state, _)| state.as_str());
    assert_eq!(
        counts,
        [
            (JobState::Failed, 1),
            (JobState::Queued, 3),
            (JobState::Running, 1)
        ]
    );
    done(bench).await;
}

pub(super) async fn overdue_jobs_come_oldest_first(bench: Bench) {
    let changes = (1..=5)
        .map(submit)
        .chain([finish(5, JobState::Succeeded, 200, None)]);
    bench.commit(jobs(changes)).await.unwrap();
    let overdue = async |now, limit| -> Vec<u8> {
        let jobs = bench.backend().overdue_jobs(now, limit).await.unwrap();
        jobs.iter().map(|job| job.id.0[0]).collect()
    };
    assert_eq!(overdue(9_998, 10).await, [4, 3, 2]);
    assert_eq!(overdue(9_998, 1).await, [4]);
    assert_eq!(overdue(9_995, 10).await, [0; 0]);
    done(bench).await;
}

/// Results expire at 5,200 µs and later; tombstones live 10 ms more.
pub(super) async fn retire_works_in_bounded_steps(bench: Bench) {
    let mut batch = jobs((1..=5).map(submit));
    batch
        .jobs
        .extend((1..=4).map(|n| finish(n, JobState::Succeeded, 200, Some(b"body"))));
    batch.jobs.push(finish(5, JobState::Failed, 200, None));
    batch.fires = (1..=4).map(|n| fire("a", n, n * 10)).collect();
    bench.commit(batch).await.unwrap();
    for n in 11..=13 {
        bench
            .commit(claim(n, &format!("scope {n}"), 100, 400))
            .await
            .unwrap();
    }
    let retire = async |now, fires_before, limit| {
        bench
            .backend()
            .retire(now, 10, fires_before, limit)
            .await
            .unwrap()
    };
    assert_eq!(retire(399, 10, 100).await, Retired::default());
    assert_eq!(retire(5_199, 0, 2).await, retired(0, 0, 2, 0));
    assert_eq!(retire(5_200, 0, 3).await, retired(3, 0, 1, 0));
    assert_eq!(retire(5_200, 0, 3).await, retired(1, 0, 0, 0));
    assert_eq!(retire(5_200, 0, 3).await, Retired::default());
    for n in 1..=5 {
        assert!(bench.backend().job_result(id(n)).await.unwrap().is_none());
        assert_eq!(
            bench.job(n).await.unwrap().result,
            None,
            "the tombstone stays"
        );
    }
    assert_eq!(retire(15_199, 30, 3).await, retired(0, 0, 0, 2));
    assert_eq!(retire(15_200, 1_000, 3).await, retired(0, 3, 0, 2));
    assert_eq!(retire(15_200, 1_000, 3).await, retired(0, 2, 0, 0));
    for n in 1..=5 {
        assert_eq!(bench.job(n).await, None);
    }
    bench.commit(fires([fire("a", 1, 1)])).await.unwrap();
    done(bench).await;
}

pub(super) async fn retire_leaves_open_jobs_alone(bench: Bench) {
    bench
        .commit(jobs([submit(1), started(1, 1, 1)]))
        .await
        .unwrap();
    let retired = bench
        .backend()
        .retire(i64::MAX / 2, 0, i64::MAX / 2, 100)
        .await
        .unwrap();
    assert_eq!(retired, Retired::default());
    assert_eq!(bench.job(1).await.unwrap().state, JobState::Running);
    done(bench).await;
}

fn started(n: u8, attempt: u32, at: Micros) -> JobChange {
    let id = id(n);
    JobChange::Started { id, attempt, at }
}

fn retired(results: u64, tombstones: u64, keys: u64, fires: u64) -> Retired {
    Retired {
        results,
        tombstones,
        keys,
        fires,
    }
}

fn key(n: u8, scope: &str, expires_at: Micros) -> KeyClaim {
    KeyClaim {
        scope: scope.into(),
        job: id(n),
        fingerprint: [n; 32],
        expires_at,
    }
}

fn claim(n: u8, scope: &str, created_at: Micros, expires_at: Micros) -> Batch {
    let job = Job {
        created_at,
        ..job(n)
    };
    let key = Some(key(n, scope, expires_at));
    jobs([JobChange::Submit {
        job: Box::new(job),
        key,
    }])
}
