//! Housekeeping: calls that nobody answered, and what is past its retention. A shell.
//!
//! Keeps: no job stays open for long after its deadline (I6); every step is bounded.
//! Never: touches an open job before its deadline. `run_once` is what tests call.
//! In: the gateway's node starts it and stops it.

use std::time::Duration;

use store::model::{Job, JobError, JobState};
use store::{Result, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often checkpoints get their chance.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);
/// Deadlines and retention are looked at every so many of these turns.
const TURNS_PER_SWEEP: u64 = 2;
/// Rows per kind and step, so that commits are never held up for long.
const STEP: u32 = 1_000;
/// How long a job whose result is gone is still told from an unknown one.
const TOMBSTONE_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// How long ledger lines are kept: far beyond any clock that goes back.
const FIRES_KEPT_MICROS: i64 = 30 * 24 * 60 * 60 * 1_000_000;

/// A running janitor.
pub struct Janitor {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Janitor {
    pub fn start(store: Store) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(store, stopped));
        Self { stop, task }
    }

    /// Returns when the step under way has ended.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// One sweep: ends overdue jobs, then drops what is past its retention.
///
/// # Errors
/// The store's; the next sweep tries again.
pub async fn run_once(store: &Store) -> Result<()> {
    let failed = |error: store::sql::BackendError| store::Error::Io(error.to_string());
    let now = store.now();
    for job in store
        .backend()
        .overdue_jobs(now, STEP)
        .await
        .map_err(failed)?
    {
        let (state, error) = verdict(&job);
        store.finish_job(job.id, state, Some(error), None).await?;
    }
    let fires_before = now - FIRES_KEPT_MICROS;
    let retired = store
        .backend()
        .retire(now, TOMBSTONE_MS, fires_before, STEP);
    retired.await.map_err(failed)?;
    Ok(())
}

async fn run(store: Store, mut stopped: watch::Receiver<bool>) {
    let mut interval = tokio::time::interval(MAINTAIN_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn: u64 = 0;
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = interval.tick() => {}
        }
        store.end_retention();
        if let Err(error) = store.backend().maintain().await {
            tracing::warn!(%error, "housekeeping failed, trying again");
        }
        turn += 1;
        if turn.is_multiple_of(TURNS_PER_SWEEP)
            && let Err(error) = run_once(&store).await
        {
            tracing::warn!(%error, "retention failed, trying again");
        }
    }
}

/// How a job ends at its deadline: it never began, it was between tries, or nobody answered.
fn verdict(job: &Job) -> (JobState, JobError) {
    let (state, code, detail) = match job.state {
        JobState::Queued | JobState::Succeeded | JobState::Cancelled | JobState::Expired => (
            JobState::Expired,
            "deadline-exceeded",
            "no worker took the call before its deadline",
        ),
        JobState::Retrying => (
            JobState::Failed,
            "deadline-exceeded",
            "the deadline passed before the next attempt",
        ),
        JobState::Running | JobState::Failed => (
            JobState::Failed,
            "no-reply",
            "a worker took the call and sent no reply in time",
        ),
    };
    (
        state,
        JobError {
            code: code.into(),
            detail: detail.into(),
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use store::Options;
    use store::model::JobId;
    use store::sql::memory::Memory;

    use super::*;

    async fn submit(store: &Store, deadline_at: i64) -> JobId {
        let id = store.new_job_id();
        let job = Job {
            id,
            vhost: "/".into(),
            target: "queue/fib".into(),
            principal: "guest".into(),
            state: JobState::Queued,
            attempt: 0,
            max_attempts: 6,
            created_at: store.now(),
            started_at: None,
            completed_at: None,
            next_attempt_at: None,
            deadline_at,
            expires_at: None,
            result_ttl_ms: 1_000,
            idempotency_key: None,
            error: None,
            result: None,
        };
        store
            .submit_call(job, None, "fib", vec![0, 0], b"{}".to_vec())
            .await
            .unwrap();
        id
    }

    #[tokio::test]
    async fn only_jobs_past_their_deadline_end() {
        let store = Store::open(Arc::new(Memory::new()), Options::default())
            .await
            .unwrap();
        store.declare_work_queue("/", "fib").await.unwrap();
        let late = submit(&store, store.now() - 1).await;
        let early = submit(&store, store.now() + 60_000_000).await;
        run_once(&store).await.unwrap();
        let late = store.backend().job(late).await.unwrap().unwrap();
        assert_eq!(late.state, JobState::Expired);
        assert_eq!(late.error.unwrap().code, "deadline-exceeded");
        let early = store.backend().job(early).await.unwrap().unwrap();
        assert_eq!(early.state, JobState::Queued);
    }
}
