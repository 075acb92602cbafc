//! The model engine: the promises of the seam without a disk, for tests and the simulation.
//!
//! Keeps: a commit is visible at once and durable with the next synced one; `crash` keeps only what
//! is durable. Refuses what the SQL engines' keys and checks refuse.
//! Never: waits; every answer is ready when asked for.
//! In: tests open it, plan failures, crash it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::*;
use crate::log::batch::*;

mod access;
mod export;

/// A store in memory, with the failures that a test has planned.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    current: State,
    durable: State,
    /// What `current` has and `durable` has not, in order.
    unsynced: Vec<Step>,
    failures: VecDeque<(CommitError, bool)>,
    full: bool,
    number: u64,
}

enum Step {
    Commit(Arc<Stored>),
    Retire {
        now: Micros,
        tombstones_at: Micros,
        fires_before: Micros,
        limit: usize,
    },
    Prune,
    Import(Arc<Import>),
}

/// A batch with its big rows behind pointers, so that both states share them.
struct Stored {
    batch: Arc<Batch>,
    segments: Vec<Arc<SegmentRow>>,
    waiting: Vec<Arc<WaitingRow>>,
}

#[derive(Clone, Default)]
struct State {
    access: access::Rows,
    exchanges: BTreeMap<(Arc<str>, Arc<str>), ExchangeSpec>,
    queues: BTreeMap<QueueId, QueueSpec>,
    bindings: BTreeMap<BindingKey, BindingSpec>,
    heads: BTreeMap<QueueId, HeadRow>,
    segments: BTreeMap<SegmentId, Arc<SegmentRow>>,
    /// Kept aside by `Batch::damaged`.
    damaged: BTreeMap<SegmentId, Arc<SegmentRow>>,
    settled: BTreeMap<SegmentId, Vec<u8>>,
    retained: BTreeMap<SegmentId, RetainedRow>,
    waiting: BTreeMap<(QueueId, Seq), Arc<WaitingRow>>,
    jobs: BTreeMap<JobId, Job>,
    results: BTreeMap<JobId, JobResult>,
    /// Each with the time of its claim.
    keys: BTreeMap<String, (KeyClaim, Micros)>,
    schedules: BTreeMap<String, ScheduleRow>,
    redrives: BTreeMap<Arc<str>, RedriveRow>,
    deduplication: Vec<DeduplicationRow>,
    fires: BTreeMap<(String, Micros), Micros>,
    last_queue_id: u64,
    last_segment_id: u64,
}

type BindingKey = (Arc<str>, Arc<str>, &'static str, Arc<str>, Vec<u8>, Vec<u8>);

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    /// What a process finds that starts after this one died: synced commits only.
    pub fn crash(&self) -> Self {
        let durable = self.inner().durable.clone();
        let inner = Inner {
            current: durable.clone(),
            durable,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Makes the next commit answer `error`; several calls queue up. `stored` says whether the
    /// batch is stored all the same, which only `Unknown` allows.
    pub fn fail_next(&self, error: CommitError, stored: bool) {
        assert!(
            !stored || matches!(error, CommitError::Unknown(_)),
            "only Unknown may be stored"
        );
        self.inner().failures.push_back((error, stored));
    }

    /// While full, batches that add messages or jobs answer `Full`; those that only remove or
    /// replace small rows pass, as they do on a disk with a ballast file.
    pub fn set_full(&self, full: bool) {
        self.inner().full = full;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&State) -> T,
    ) -> Pending<'_, Result<T, BackendError>> {
        let answer = query(&self.inner().current);
        Box::pin(std::future::ready(Ok(answer)))
    }
}

impl Inner {
    fn commit(&mut self, batch: Arc<Batch>, sync: bool) -> Result<Committed, CommitError> {
        if self.full && adds_content(&batch) {
            return Err(CommitError::Full("the store was set to full".into()));
        }
        match self.failures.pop_front() {
            Some((error, false)) => return Err(error),
            Some((error, true)) => {
                self.store(batch, sync)?;
                return Err(error);
            }
            None => {}
        }
        self.store(batch, sync)
    }

    fn store(&mut self, batch: Arc<Batch>, sync: bool) -> Result<Committed, CommitError> {
        self.current.check(&batch).map_err(CommitError::NotDone)?;
        self.number = batch.number;
        let segments = batch.segments.iter().cloned().map(Arc::new).collect();
        let waiting = batch.waiting.iter().cloned().map(Arc::new).collect();
        let step = Step::Commit(Arc::new(Stored {
            batch,
            segments,
            waiting,
        }));
        let committed = self.current.apply(&step).0;
        self.unsynced.push(step);
        if sync {
            for step in self.unsynced.drain(..) {
                self.durable.apply(&step);
            }
        }
        Ok(committed)
    }

    fn step(&mut self, step: Step) -> Retired {
        let retired = self.current.apply(&step).1;
        self.unsynced.push(step);
        retired
    }
}

impl Backend for Memory {
    fn load(&self) -> Pending<'_, Result<Image, BackendError>> {
        self.inner().step(Step::Prune);
        self.read(State::image)
    }

    fn commit(&self, batch: Arc<Batch>, sync: bool) -> Pending<'_, Result<Committed, CommitError>> {
        let answer = self.inner().commit(batch, sync);
        Box::pin(std::future::ready(answer))
    }

    fn committed_number(&self) -> Pending<'_, Result<u64, BackendError>> {
        let number = self.inner().number;
        Box::pin(std::future::ready(Ok(number)))
    }

    fn read_segment(
        &self,
        id: SegmentId,
    ) -> Pending<'_, Result<Option<SegmentBody>, BackendError>> {
        self.read(|state| {
            let row = state.segments.get(&id)?;
            Some(SegmentBody {
                index: row.index.clone(),
                data: row.data.clone(),
            })
        })
    }

    fn read_waiting(
        &self,
        queue: QueueId,
        seqs: Vec<Seq>,
    ) -> Pending<'_, Result<Vec<WaitingRow>, BackendError>> {
        self.read(|state| {
            let rows = seqs
                .into_iter()
                .filter_map(|seq| state.waiting.get(&(queue, seq)));
            rows.map(|row| WaitingRow::clone(row)).collect()
        })
    }

    fn job(&self, id: JobId) -> Pending<'_, Result<Option<Job>, BackendError>> {
        self.read(|state| state.jobs.get(&id).cloned())
    }

    fn job_result(&self, id: JobId) -> Pending<'_, Result<Option<JobResult>, BackendError>> {
        self.read(|state| state.results.get(&id).cloned())
    }

    fn key_claim(
        &self,
        scope: String,
        now: Micros,
    ) -> Pending<'_, Result<Option<KeyClaim>, BackendError>> {
        self.read(|state| {
            state
                .keys
                .get(&scope)
                .map(|(key, _)| key)
                .filter(|key| key.expires_at > now)
                .cloned()
        })
    }

    fn jobs(&self, filter: JobFilter) -> Pending<'_, Result<Vec<Job>, BackendError>> {
        self.read(|state| {
            let rows = state.jobs.values().rev().filter(|job| {
                filter.before.is_none_or(|before| job.id < before)
                    && filter
                        .vhost
                        .as_deref()
                        .is_none_or(|vhost| *job.vhost == *vhost)
                    && filter
                        .target
                        .as_ref()
                        .is_none_or(|target| job.target == *target)
                    && filter.state.is_none_or(|state| job.state == state)
            });
            rows.take(filter.limit as usize).cloned().collect()
        })
    }

    fn damaged_segments(&self) -> Pending<'_, Result<Vec<SegmentHeader>, BackendError>> {
        self.read(|state| state.damaged.values().map(|row| header(row)).collect())
    }

    fn job_counts(&self) -> Pending<'_, Result<Vec<(JobState, u64)>, BackendError>> {
        self.read(|state| {
            let count = |wanted| {
                state
                    .jobs
                    .values()
                    .filter(|job| job.state == wanted)
                    .count()
            };
            let counts = JobState::ALL.map(|state| (state, count(state) as u64));
            counts.into_iter().filter(|(_, count)| *count > 0).collect()
        })
    }

    fn overdue_jobs(&self, now: Micros, limit: u32) -> Pending<'_, Result<Vec<Job>, BackendError>> {
        self.read(|state| {
            let overdue = |job: &&Job| job.completed_at.is_none() && job.deadline_at <= now;
            let mut jobs: Vec<Job> = state.jobs.values().filter(overdue).cloned().collect();
            jobs.sort_by_key(|job| job.deadline_at);
            jobs.truncate(limit as usize);
            jobs
        })
    }

    fn retire(
        &self,
        now: Micros,
        tombstone_ms: i64,
        fires_before: Micros,
        limit: u32,
    ) -> Pending<'_, Result<Retired, BackendError>> {
        let tombstones_at = now.saturating_sub(tombstone_ms.saturating_mul(1000));
        let limit = limit as usize;
        let step = Step::Retire {
            now,
            tombstones_at,
            fires_before,
            limit,
        };
        let retired = self.inner().step(step);
        Box::pin(std::future::ready(Ok(retired)))
    }

    fn image(&self) -> Pending<'_, Result<Image, BackendError>> {
        self.read(State::image)
    }

    fn export(
        &self,
        after: Cursor,
        limit: u32,
    ) -> Pending<'_, Result<Vec<Exported>, BackendError>> {
        self.read(|state| state.export(after, limit as usize))
    }

    fn import(&self, rows: Arc<Import>) -> Pending<'_, Result<(), CommitError>> {
        let mut inner = self.inner();
        let checked = inner.current.check_import(&rows);
        if checked.is_ok() {
            inner.step(Step::Import(rows));
        }
        Box::pin(std::future::ready(checked.map_err(CommitError::NotDone)))
    }

    fn check(&self) -> Pending<'_, Result<Vec<String>, BackendError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn maintain(&self) -> Pending<'_, Result<(), BackendError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn room(&self) -> Pending<'_, Result<Option<Room>, BackendError>> {
        Box::pin(async { Ok(None) })
    }

    fn disk_bytes(&self) -> (u64, u64) {
        let inner = self.inner();
        let bytes = inner
            .durable
            .segments
            .values()
            .map(|row| row.index.len() + row.data.len());
        (bytes.sum::<usize>() as u64, 0)
    }

    fn close(&self) -> Pending<'_, ()> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        for step in inner.unsynced.drain(..) {
            inner.durable.apply(&step);
        }
        Box::pin(std::future::ready(()))
    }
}

fn adds_content(batch: &Batch) -> bool {
    let submits = |change: &JobChange| matches!(change, JobChange::Submit { .. });
    !batch.segments.is_empty() || !batch.waiting.is_empty() || batch.jobs.iter().any(submits)
}

impl State {
    /// What keys and checks refuse. Nothing is applied before this has passed.
    fn check(&self, batch: &Batch) -> Result<(), String> {
        self.check_queues(&batch.definitions)?;
        self.check_rows(batch)?;
        self.check_jobs(&batch.jobs)?;
        let mut fired = BTreeSet::new();
        for fire in &batch.fires {
            let key = (fire.schedule.clone(), fire.nominal_at);
            if self.fires.contains_key(&key) || !fired.insert(key) {
                let FireRow {
                    schedule,
                    nominal_at,
                    ..
                } = fire;
                return Err(format!(
                    "schedule '{schedule}' fired at {nominal_at} already"
                ));
            }
        }
        Ok(())
    }

    fn check_queues(&self, changes: &[DefinitionChange]) -> Result<(), String> {
        if changes.is_empty() {
            return Ok(());
        }
        let place = |queue: &QueueSpec| (Arc::clone(&queue.vhost), Arc::clone(&queue.name));
        let mut places: BTreeMap<_, _> = self
            .queues
            .values()
            .map(|queue| (place(queue), queue.id))
            .collect();
        for change in changes {
            match change {
                DefinitionChange::PutQueue(queue) => {
                    places.retain(|at, id| *id != queue.id || *at == place(queue));
                    let holder = *places.entry(place(queue)).or_insert(queue.id);
                    if holder != queue.id {
                        return Err(format!("queue '{}' exists", queue.name));
                    }
                }
                DefinitionChange::DeleteQueue(gone) => places.retain(|_, id| id != gone),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_rows(&self, batch: &Batch) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for row in &batch.segments {
            if self.segments.contains_key(&row.id) || !ids.insert(row.id) {
                return Err(format!("segment {} exists", row.id.0));
            }
            let span = row
                .last_seq
                .checked_sub(row.first_seq)
                .map_or(0, |span| span + 1);
            if row.count == 0 || u64::from(row.count) > span {
                return Err(format!("segment {} cannot hold {}", row.id.0, row.count));
            }
        }
        let wrong = batch
            .heads
            .iter()
            .find(|row| row.head > row.next || row.handed > row.next);
        wrong.map_or(Ok(()), |row| {
            Err(format!("the head of queue {} is past its end", row.queue.0))
        })
    }

    fn check_jobs(&self, changes: &[JobChange]) -> Result<(), String> {
        let mut submitted = BTreeSet::new();
        let mut claimed = BTreeMap::new();
        let mut claim = |key: &KeyClaim, at: Micros| {
            let stored = self.keys.get(&key.scope).map(|(key, _)| key.expires_at);
            let until = claimed.insert(key.scope.clone(), key.expires_at).or(stored);
            match until {
                Some(until) if until > at => {
                    Err(format!("the idempotency key of job {} is claimed", key.job))
                }
                _ => Ok(()),
            }
        };
        for change in changes {
            match change {
                JobChange::Submit { job, key } => {
                    let fits = job.state.is_final() == job.completed_at.is_some()
                        && job.completed_at.is_some() == job.expires_at.is_some();
                    if !fits || self.jobs.contains_key(&job.id) || !submitted.insert(job.id) {
                        return Err(format!("job {} cannot be inserted", job.id));
                    }
                    if let Some(key) = key {
                        claim(key, job.created_at)?;
                    }
                }
                JobChange::Claim { key, at } => claim(key, *at)?,
                JobChange::Finish { id, state, .. } if !state.is_final() => {
                    return Err(format!("job {id} cannot finish as {}", state.as_str()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Cannot fail: `check` went before. The same step on the same state gives the same state.
    fn apply(&mut self, step: &Step) -> (Committed, Retired) {
        match step {
            Step::Commit(stored) => (self.store(stored), Retired::default()),
            Step::Retire {
                now,
                tombstones_at,
                fires_before,
                limit,
            } => {
                let retired = self.retire(*now, *tombstones_at, *fires_before, *limit);
                (Committed::default(), retired)
            }
            Step::Prune => {
                self.prune();
                Default::default()
            }
            Step::Import(rows) => {
                self.import(rows);
                Default::default()
            }
        }
    }

    fn store(&mut self, stored: &Stored) -> Committed {
        let batch = &*stored.batch;
        for change in &batch.definitions {
            self.define(change);
        }
        for row in &stored.segments {
            self.last_segment_id = self.last_segment_id.max(row.id.0);
            self.segments.insert(row.id, Arc::clone(row));
        }
        for row in &batch.settled {
            self.settled.insert(row.segment, row.bits.clone());
        }
        for id in &batch.damaged {
            if let Some(row) = self.segments.get(id) {
                self.damaged.entry(*id).or_insert_with(|| Arc::clone(row));
            }
        }
        for id in &batch.dropped_segments {
            self.segments.remove(id);
            self.settled.remove(id);
        }
        self.retain(batch);
        self.heads
            .extend(batch.heads.iter().map(|row| (row.queue, *row)));
        for place in &batch.dropped_waiting {
            self.waiting.remove(place);
        }
        for row in &stored.waiting {
            self.waiting.insert((row.queue, row.seq), Arc::clone(row));
        }
        let mut committed = Committed::default();
        for change in &batch.jobs {
            committed.refused.extend(self.change_job(change));
        }
        for name in &batch.dropped_schedules {
            self.schedules.remove(name);
        }
        self.schedules.extend(
            batch
                .schedules
                .iter()
                .map(|row| (row.name.clone(), row.clone())),
        );
        for id in &batch.dropped_redrives {
            self.redrives.remove(id);
        }
        let redrives = batch.redrives.iter();
        self.redrives
            .extend(redrives.map(|row| (row.id.clone(), row.clone())));
        for (queue, until) in &batch.dropped_deduplication {
            self.deduplication
                .retain(|row| row.queue != *queue || row.newest_ms > *until);
        }
        self.deduplication
            .extend(batch.deduplication.iter().cloned());
        let fires = batch.fires.iter();
        self.fires
            .extend(fires.map(|row| ((row.schedule.clone(), row.nominal_at), row.fired_at)));
        committed
    }

    fn retain(&mut self, batch: &Batch) {
        for kept in &batch.kept_waiting {
            let row = self.waiting.get(&(kept.queue, kept.seq));
            let Some(row) = row.filter(|row| !row.data.is_empty()) else {
                continue;
            };
            let segment = SegmentRow {
                id: kept.segment,
                queue: kept.queue,
                first_seq: kept.seq,
                last_seq: kept.seq,
                count: 1,
                bytes: row.data.len() as u64,
                transient: false,
                first_at: kept.settled_at,
                last_at: kept.settled_at,
                index: row.index.clone(),
                data: row.data.clone(),
            };
            self.waiting.remove(&(kept.queue, kept.seq));
            self.last_segment_id = self.last_segment_id.max(kept.segment.0);
            self.segments.insert(kept.segment, Arc::new(segment));
        }
        for row in &batch.retained {
            self.retained.insert(row.segment, *row);
            self.settled.remove(&row.segment);
        }
        for id in &batch.dropped_retained {
            self.retained.remove(id);
            self.segments.remove(id);
            self.settled.remove(id);
        }
    }

    fn define(&mut self, change: &DefinitionChange) {
        match change.clone() {
            DefinitionChange::Access(change) => {
                if let AccessChange::DeleteVhost(name) = &change {
                    self.exchanges.retain(|(vhost, _), _| vhost != name);
                    self.bindings.retain(|_, row| row.vhost != *name);
                }
                self.access.apply(change);
            }
            DefinitionChange::PutExchange(row) => {
                self.exchanges
                    .insert((Arc::clone(&row.vhost), Arc::clone(&row.name)), row);
            }
            DefinitionChange::DeleteExchange { vhost, name } => {
                self.exchanges.remove(&(vhost, name));
            }
            DefinitionChange::PutQueue(row) => {
                self.last_queue_id = self.last_queue_id.max(row.id.0);
                self.queues.insert(row.id, row);
            }
            DefinitionChange::DeleteQueue(id) => self.delete_queue(id),
            DefinitionChange::PutBinding(row) => {
                self.bindings.insert(binding_key(&row), row);
            }
            DefinitionChange::DeleteBinding(row) => {
                self.bindings.remove(&binding_key(&row));
            }
        }
    }

    fn delete_queue(&mut self, id: QueueId) {
        self.queues.remove(&id);
        self.prune_queues();
    }

    /// Returns the job when it was final already.
    fn change_job(&mut self, change: &JobChange) -> Option<JobId> {
        if let JobChange::Submit { job, key } = change {
            self.jobs.insert(job.id, Job::clone(job));
            let at = job.created_at;
            self.keys
                .extend(key.clone().map(|key| (key.scope.clone(), (key, at))));
            return None;
        }
        if let JobChange::Claim { key, at } = change {
            self.keys.insert(key.scope.clone(), (key.clone(), *at));
            return None;
        }
        let (JobChange::Started { id, .. }
        | JobChange::Retrying { id, .. }
        | JobChange::Finish { id, .. }) = change
        else {
            return None;
        };
        let open = self.jobs.get_mut(id).filter(|job| !job.state.is_final());
        let Some(job) = open else {
            return matches!(change, JobChange::Finish { .. }).then_some(*id);
        };
        match change {
            JobChange::Started { attempt, at, .. } => {
                job.state = JobState::Running;
                job.attempt = *attempt;
                job.started_at.get_or_insert(*at);
                job.next_attempt_at = None;
            }
            JobChange::Retrying {
                next_attempt_at,
                error,
                ..
            } => {
                job.state = JobState::Retrying;
                job.next_attempt_at = Some(*next_attempt_at);
                job.error = Some(error.clone());
            }
            JobChange::Finish {
                state,
                at,
                error,
                result,
                ..
            } => {
                job.state = *state;
                job.completed_at = Some(*at);
                job.expires_at = Some(at + job.result_ttl_ms * 1000);
                job.next_attempt_at = None;
                job.error.clone_from(error);
                job.result = result.as_ref().map(|result| ResultMeta {
                    content_type: result.content_type.clone(),
                    content_encoding: result.content_encoding.clone(),
                    bytes: result.body.len() as u64,
                });
                self.results
                    .extend(result.clone().map(|result| (*id, result)));
            }
            JobChange::Submit { .. } | JobChange::Claim { .. } => {}
        }
        None
    }

    fn retire(
        &mut self,
        now: Micros,
        tombstones_at: Micros,
        fires_before: Micros,
        limit: usize,
    ) -> Retired {
        let mut retired = Retired::default();
        for id in self.expired_jobs(now, true, limit) {
            self.results.remove(&id);
            if let Some(job) = self.jobs.get_mut(&id) {
                job.result = None;
                retired.results += 1;
            }
        }
        for id in self.expired_jobs(tombstones_at, false, limit) {
            self.jobs.remove(&id);
            retired.tombstones += 1;
        }
        let keys = self.keys.values().map(|(key, _)| key);
        let mut keys: Vec<_> = keys
            .filter(|key| key.expires_at <= now)
            .map(|key| (key.expires_at, key.scope.clone()))
            .collect();
        keys.sort();
        for (_, scope) in keys.into_iter().take(limit) {
            self.keys.remove(&scope);
            retired.keys += 1;
        }
        let fires = self
            .fires
            .iter()
            .filter(|(_, fired_at)| **fired_at < fires_before);
        let mut fires: Vec<_> = fires
            .map(|(key, fired_at)| (*fired_at, key.clone()))
            .collect();
        fires.sort();
        for (_, key) in fires.into_iter().take(limit) {
            self.fires.remove(&key);
            retired.fires += 1;
        }
        retired
    }

    fn expired_jobs(&self, at: Micros, with_result: bool, limit: usize) -> Vec<JobId> {
        let jobs = self
            .jobs
            .values()
            .filter(|job| job.result.is_some() == with_result);
        let expired =
            jobs.filter_map(|job| Some((job.expires_at.filter(|due| *due <= at)?, job.id)));
        let mut expired: Vec<_> = expired.collect();
        expired.sort();
        expired.into_iter().take(limit).map(|(_, id)| id).collect()
    }

    /// What only a crash could have left goes.
    fn prune(&mut self) {
        self.segments.retain(|_, row| !row.transient);
        self.prune_queues();
    }

    fn prune_queues(&mut self) {
        let queues = &self.queues;
        self.heads.retain(|id, _| queues.contains_key(id));
        self.segments
            .retain(|_, row| queues.contains_key(&row.queue));
        self.waiting.retain(|(id, _), _| queues.contains_key(id));
        self.deduplication
            .retain(|row| queues.contains_key(&row.queue));
        let segments = &self.segments;
        self.settled.retain(|id, _| segments.contains_key(id));
        self.retained.retain(|id, _| segments.contains_key(id));
    }

    fn image(&self) -> Image {
        let segments = self.segments.values().map(|row| header(row));
        let mut segments: Vec<_> = segments.collect();
        segments.sort_by_key(|row| (row.queue, row.first_seq, row.id));
        let waiting = self.waiting.values().map(|row| WaitingHeader {
            queue: row.queue,
            seq: row.seq,
            due_at: row.due_at,
            attempt: row.attempt,
        });
        Image {
            exchanges: self.exchanges.values().cloned().collect(),
            queues: self.queues.values().cloned().collect(),
            bindings: self.bindings.values().cloned().collect(),
            heads: self.heads.values().copied().collect(),
            segments,
            settled: self
                .settled
                .iter()
                .map(|(id, bits)| (*id, bits.clone()))
                .collect(),
            retained: self.retained.values().copied().collect(),
            waiting: waiting.collect(),
            schedules: self.schedules.values().cloned().collect(),
            redrives: self.redrives.values().cloned().collect(),
            deduplication: self.deduplication.clone(),
            last_queue_id: self.last_queue_id,
            last_segment_id: self.last_segment_id,
            ..self.access.image()
        }
    }
}

fn binding_key(row: &BindingSpec) -> BindingKey {
    (
        Arc::clone(&row.vhost),
        Arc::clone(&row.source),
        row.destination_kind.as_str(),
        Arc::clone(&row.destination),
        row.routing_key.clone(),
        row.arguments.clone(),
    )
}

fn header(row: &SegmentRow) -> SegmentHeader {
    SegmentHeader {
        id: row.id,
        queue: row.queue,
        first_seq: row.first_seq,
        last_seq: row.last_seq,
        count: row.count,
        bytes: row.bytes,
        transient: row.transient,
        first_at: row.first_at,
        last_at: row.last_at,
    }
}

#[cfg(test)]
#[path = "memory/memory_tests.rs"]
mod tests;
