//! The one task that writes: a request is a transaction, and a transaction is one trip.
//!
//! Keeps: a request runs to its end whoever stops waiting for it. When the connection ends in a
//! commit, the next one finds out, by the position of the commit's line, whether it was stored;
//! until then nothing is answered. What is known of the store changes only with what is stored in
//! it.
//! Never: reads for others.
//! In: `Postgres` sends `Request`s.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::apply::{self, Effects};
use super::journal::{Line, State};
use super::reader::failed;
use super::session::{Fault, Role, Session, Step, describe};
use super::slots::SLOTS;
use super::statement::{self, Text};
use super::value::{Value, number};
use super::{Shared, owner};
use crate::log::batch::{Batch, Committed, JobChange};
use crate::model::*;
use crate::sql::doomed::Doomed;
use crate::sql::{BackendError, CommitError, Import, Retired};

type Reply<T> = oneshot::Sender<T>;

pub(super) enum Request {
    Commit {
        batch: Arc<Batch>,
        sync: bool,
        reply: Reply<Result<Committed, CommitError>>,
    },
    Import {
        rows: Arc<Import>,
        reply: Reply<Result<(), CommitError>>,
    },
    Number {
        reply: Reply<Result<u64, BackendError>>,
    },
    Retire {
        due: Due,
        reply: Reply<Result<Retired, BackendError>>,
    },
    Maintain {
        reply: Reply<Result<(), BackendError>>,
    },
    /// What a start found that must go.
    Doom(Doomed),
    Close {
        reply: Reply<()>,
    },
}

/// What `Backend::retire` was asked.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub(super) results_at: Micros,
    pub(super) tombstones_at: Micros,
    pub(super) fires_before: Micros,
    pub(super) limit: u32,
}

/// Segments whose end is told in one line.
const SWEEP_SEGMENTS: usize = 4096;
/// Rows deleted in one statement: some milliseconds.
const SWEEP_ROWS: i64 = 1000;
/// Content moved from slot to slot in one transaction.
const MOVE_BYTES: u64 = 4 << 20;
const MOVE_ROWS: i64 = 2000;
/// Steps of each kind in one call of `maintain`.
const SWEEPS: usize = 16;
/// Deduplication rows that come between two looks for small ones.
const LOOK_AFTER: u64 = 1024;
/// A row with so many bytes stays as it is: about a hundred keys.
const SMALL_BYTES: i64 = 2048;
/// Rows in one look.
const LOOK_ROWS: i64 = 4096;

const BEGIN: &str = "begin";
/// Nobody waits for the disk.
const BEGIN_RELAXED: &str = "begin; set local synchronous_commit = off";
/// A table that somebody else holds is truncated another time: commits wait behind this one.
const BEGIN_TRUNCATE: &str =
    "begin; set local synchronous_commit = off; set local lock_timeout = '20ms'";
/// For the end of a connection that is gone.
const BEGIN_RESOLVE: &str = "begin; set local lock_timeout = '2s'";

const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_MOST: Duration = Duration::from_secs(1);
/// A table that was held is tried again at the next call of `maintain`, then after two, four, at
/// most so many: the server's own cleaning holds one for a moment, a dump for long.
const HELD_PAUSE_MAX: u32 = 10;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: i64,
    pub(super) state: State,
    /// Which journal lines go to, and its length, about.
    pub(super) journal: usize,
    pub(super) journal_bytes: u64,
    /// The other one is to be truncated.
    pub(super) stale_journal: bool,
    pub(super) session: Option<Session>,
    pub(super) doomed: Doomed,
    /// Deduplication rows since small ones were merged; rows up to which they were.
    pub(super) key_rows: u64,
    pub(super) keys_merged: i64,
    /// Tables that somebody held: slots, and behind them the stale journal.
    pub(super) held: [Held; SLOTS + 1],
    /// Of the newest batch.
    pub(super) number: u64,
    /// The newest line that was on disk when the server answered; lines behind it may be lost when
    /// the server crashes.
    pub(super) synced: u64,
}

/// How long a table that somebody held is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Calls of `maintain` that still pass.
    calls: u32,
    /// How many they were after the last try, and one more.
    pause: u32,
}

impl Held {
    fn is_left_alone(&mut self) -> bool {
        let is_held = self.calls > 0;
        self.calls = self.calls.saturating_sub(1);
        is_held
    }

    fn after(self, done: bool) -> Self {
        if done {
            return Self::default();
        }
        let pause = (self.pause * 2).clamp(1, HELD_PAUSE_MAX);
        Self {
            calls: pause - 1,
            pause,
        }
    }
}

/// A transaction that was stored.
struct Stored {
    effects: Effects,
    /// Of each statement how many rows it touched; not known when the connection ended before the
    /// answer.
    rows: Option<Vec<u64>>,
}

impl Stored {
    fn rows(&self, at: usize) -> u64 {
        let rows = self.rows.as_ref();
        rows.and_then(|rows| rows.get(at).copied()).unwrap_or(0)
    }
}

impl Writer {
    /// Serves until `Close`, or until every sender is gone.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            // An answer nobody waits for is no error.
            match request {
                Request::Commit { batch, sync, reply } => {
                    let done = self.commit(&batch, sync).await;
                    if let Err(CommitError::Fenced(_)) = done {
                        metrics::counter!("leveret_store_fenced_total").increment(1);
                    }
                    let _ = reply.send(done);
                }
                Request::Import { rows, reply } => {
                    let stored = self.store(BEGIN, Work::Import(&rows)).await;
                    let _ = reply.send(stored.map(drop));
                }
                Request::Number { reply } => {
                    let _ = reply.send(Ok(self.number));
                }
                Request::Retire { due, reply } => {
                    let _ = reply.send(self.retire(due).await);
                }
                Request::Maintain { reply } => {
                    let _ = reply.send(self.maintain().await);
                }
                Request::Doom(doomed) => self.doomed = doomed,
                Request::Close { reply } => {
                    self.release().await;
                    let _ = reply.send(());
                    break;
                }
            }
        }
        if let Some(session) = self.session {
            session.close();
        }
    }

    async fn commit(&mut self, batch: &Batch, sync: bool) -> Result<Committed, CommitError> {
        self.turn().await?;
        let taken = {
            let slots = self.shared.slots();
            let taken = |id: &SegmentId| slots.place(*id).is_some();
            let mut ids = batch.segments.iter().map(|row| row.id);
            ids.find(taken)
        };
        if let Some(id) = taken {
            return Err(CommitError::NotDone(format!(
                "segment {} is there already",
                id.0
            )));
        }
        let begin = if sync { BEGIN } else { BEGIN_RELAXED };
        let stored = self.store(begin, Work::Batch(batch)).await?;
        let refused = self.refused(batch, &stored).await?;
        self.number = batch.number;
        self.key_rows += batch.deduplication.len() as u64;
        self.doomed.queues.extend(&stored.effects.gone_queues);
        Ok(Committed { refused })
    }

    /// Jobs that were final before.
    async fn refused(&mut self, batch: &Batch, stored: &Stored) -> Result<Vec<JobId>, CommitError> {
        let finishes = &stored.effects.finishes;
        if stored.rows.is_some() {
            let late = finishes.iter().filter(|(at, _)| stored.rows(*at) == 0);
            return Ok(late.map(|(_, id)| *id).collect());
        }
        let mut refused = Vec::new();
        for change in &batch.jobs {
            let JobChange::Finish { id, state, at, .. } = change else {
                continue;
            };
            let values = || -> Vec<Value<'_>> {
                vec![Box::new(&id.0[..]), Box::new(state.as_str()), Box::new(*at)]
            };
            let is_ours = loop {
                let found = self
                    .connected()
                    .await?
                    .rows(statement::JOB_FINISHED, values())
                    .await;
                match found {
                    Ok(rows) => break !rows.is_empty(),
                    Err(error) => self.disconnect(&describe(&error)),
                }
            };
            if !is_ours {
                refused.push(*id);
            }
        }
        Ok(refused)
    }

    /// Goes on in another slot or journal where the present one is full.
    async fn turn(&mut self) -> Result<(), CommitError> {
        {
            let mut slots = self.shared.slots();
            if let Some(next) = slots.next() {
                slots.turn_to(next);
            }
        }
        if self.journal_bytes < self.shared.options.journal_bytes || self.stale_journal {
            return Ok(());
        }
        // Counted only now: it looks at all that is known.
        let whole = self.state.bytes(self.shared.slots().count());
        if self.journal_bytes < whole * 4 {
            return Ok(());
        }
        self.store(BEGIN_RELAXED, Work::Whole).await.map(drop)
    }

    /// Runs one transaction until it is known to be stored, or not to be.
    async fn store(&mut self, begin: &str, work: Work<'_>) -> Result<Stored, CommitError> {
        let position = self.state.position + 1;
        let synced = begin == BEGIN;
        let mut unknown = false;
        loop {
            let found = self.position().await?;
            if unknown && found >= position {
                let (_, effects, line) = self.build(&work);
                return self.stored((work, synced), effects, &line, None).await;
            }
            let (steps, effects, line) = self.build(&work);
            let Some(session) = &mut self.session else {
                continue;
            };
            match session.transact(begin, steps).await {
                Ok(rows) => {
                    return self
                        .stored((work, synced), effects, &line, Some(rows))
                        .await;
                }
                Err(Fault::Fenced) => return Err(self.fenced()),
                Err(Fault::Refused(why)) => return Err(CommitError::NotDone(why)),
                Err(Fault::Full(why)) => return Err(CommitError::Full(why)),
                Err(Fault::Lost(why)) => {
                    unknown = true;
                    self.disconnect(&why);
                }
            }
        }
    }

    /// Statements, what they will have done, and their line in the journal.
    fn build<'a>(&self, work: &Work<'a>) -> (Vec<Step<'a>>, Effects, Line) {
        let slots = self.shared.slots();
        let mut steps = vec![owner::fence(self.epoch)];
        let mut effects = Effects::default();
        let (mut line, mut journal) = (Line::default(), self.journal);
        match work {
            Work::Batch(batch) => {
                effects = apply::batch(batch, &slots, &mut steps);
                line = apply::line(batch, &effects);
            }
            Work::Import(rows) => {
                apply::import(rows, &mut steps);
                line.last_queue = rows.last_queue_id;
                line.last_segment = rows.last_segment_id;
            }
            Work::Whole => {
                line = self.state.whole(slots.segments());
                journal = 1 - journal;
            }
            Work::Drop(ids) => line.dropped_segments.clone_from(ids),
            Work::Move(ids, from) => {
                let ids: Vec<i64> = ids.iter().map(|id| id.0.cast_signed()).collect();
                let text = Text::moved(statement::SEGMENT_MOVE, slots.current(), *from);
                steps.push(Step::new(text, vec![Box::new(ids)]));
            }
            Work::MoveWaiting(from) => {
                let text = Text::moved(statement::WAITING_MOVE, slots.current(), *from);
                steps.push(Step::new(text, vec![Box::new(MOVE_ROWS)]));
            }
            Work::Rows(rows) => {
                for (at, (text, values)) in rows.iter().enumerate() {
                    if let Text {
                        sql: statement::WAITING_DELETE_OF_QUEUES,
                        slot,
                        ..
                    } = text
                    {
                        effects.unwaiting.push((at + 1, usize::from(*slot)));
                    }
                    let values = values.iter().map(|value| -> Value<'a> {
                        match value {
                            Given::Number(number) => Box::new(*number),
                            Given::Numbers(numbers) => Box::new(numbers.clone()),
                        }
                    });
                    steps.push(Step::new(*text, values.collect()));
                }
            }
        }
        line.position = self.state.position + 1;
        line.epoch = self.epoch;
        line.slot = slots.current();
        drop(slots);
        steps.push(line.step(journal));
        (steps, effects, line)
    }

    /// What is known of the store follows what was stored.
    async fn stored(
        &mut self,
        (work, synced): (Work<'_>, bool),
        effects: Effects,
        line: &Line,
        rows: Option<Vec<u64>>,
    ) -> Result<Stored, CommitError> {
        let stored = Stored { effects, rows };
        self.state.take(line, false);
        if synced {
            self.synced = line.position;
        }
        if line.whole {
            self.journal = 1 - self.journal;
            self.journal_bytes = 0;
            self.stale_journal = true;
        }
        self.journal_bytes += line.bytes();
        {
            let mut slots = self.shared.slots();
            let (effects, current) = (&stored.effects, slots.current());
            for (id, place) in &effects.put {
                slots.put(*id, *place);
            }
            for (at, slot) in &effects.unwaiting {
                slots.drop_waiting(*slot, stored.rows(*at));
            }
            for (queue, seq, bytes) in &effects.waiting {
                slots.put_waiting(current, *queue, *seq, *bytes);
            }
            for (at, id, place) in &effects.kept {
                // One that is not there costs nothing but a place.
                if stored.rows.is_none() || stored.rows(*at) > 0 {
                    slots.put(*id, *place);
                }
            }
            for id in &line.dropped_segments {
                slots.forget(*id);
            }
            match work {
                Work::Move(ids, _) => slots.moved(&ids, current),
                Work::MoveWaiting(from) => {
                    slots.moved_waiting(from, current, stored.rows(1));
                }
                _ => {}
            }
        }
        if stored.rows.is_none() {
            self.count_waiting().await?;
        }
        Ok(stored)
    }

    /// After a commit whose answer was lost.
    async fn count_waiting(&mut self) -> Result<(), CommitError> {
        for slot in 0..SLOTS {
            let text = Text::of_slot(statement::WAITING_COUNT, slot);
            let count = loop {
                let found = self.connected().await?.rows(text, vec![]).await;
                let counted =
                    found.and_then(|rows| rows.first().map_or(Ok(0), |row| number(row, 0)));
                match counted {
                    Ok(count) => break count,
                    Err(error) => self.disconnect(&describe(&error)),
                }
            };
            self.shared.slots().set_waiting(slot, count);
        }
        Ok(())
    }

    fn fenced(&self) -> CommitError {
        self.shared.lose("another node took the store over");
        CommitError::Fenced(self.shared.why_lost().unwrap_or_default())
    }

    fn disconnect(&mut self, why: &str) {
        tracing::warn!(reason = why, "the connection to the database ended");
        if let Some(session) = self.session.take() {
            session.close();
        }
    }

    /// The session, opened anew where it ended; waits for the database as long as this node owns
    /// it.
    async fn connected(&mut self) -> Result<&mut Session, CommitError> {
        self.position().await?;
        match &mut self.session {
            Some(session) => Ok(session),
            None => Err(CommitError::NotDone("no connection".into())),
        }
    }

    /// The position of the newest line. With a new session it is read, once the transaction that
    /// the last one may have left has ended.
    async fn position(&mut self) -> Result<u64, CommitError> {
        let mut pause = RECONNECT_FIRST;
        loop {
            if let Some(why) = self.shared.why_lost() {
                return Err(CommitError::Fenced(why));
            }
            if self
                .session
                .as_ref()
                .is_some_and(|session| !session.is_closed())
            {
                return Ok(self.state.position);
            }
            match self.resolve().await {
                Ok(found) if found < self.state.position => self.went_back(found).await,
                Ok(found) => return Ok(found),
                Err(Fault::Fenced) => return Err(self.fenced()),
                Err(Fault::Refused(why) | Fault::Full(why) | Fault::Lost(why)) => {
                    self.disconnect(&why);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_MOST);
                }
            }
        }
    }

    /// The newest lines are not there any more. What nobody waited for goes when a server crashes;
    /// what was confirmed only goes when another server took its place. Either way the store is to
    /// be read anew, by whoever is first.
    async fn went_back(&mut self, found: u64) {
        let known = self.state.position;
        let why = match found < self.synced {
            true => {
                metrics::counter!("leveret_store_went_back_total").increment(1);
                tracing::error!(
                    found,
                    known,
                    confirmed = self.synced,
                    "the database lacks commits that it confirmed: it failed over to a server that \
                     did not have them",
                );
                "the database went back behind what it had confirmed"
            }
            false => "the database crashed, and lacks what nobody had waited for",
        };
        self.release().await;
        self.shared.lose(why);
    }

    /// A new session, and the newest line that is stored.
    async fn resolve(&mut self) -> Result<u64, Fault> {
        let opened = Session::open(&self.shared.target, Role::Writer).await;
        let mut session = opened.map_err(|error| Fault::Lost(error.to_string()))?;
        let of = |error: tokio_postgres::Error| super::session::judge(&error);
        session.run(BEGIN_RESOLVE).await?;
        // Nobody can hold the row any more once this has it: what was under way has ended.
        let rows = match session.rows(statement::OWNER_LOCK, vec![]).await {
            Ok(rows) => rows,
            Err(error) => {
                // A session of ours that does not end: its client is gone.
                session.run("rollback").await?;
                let name = self.shared.target.application();
                let values: Vec<Value<'_>> = vec![Box::new(name)];
                session
                    .rows(statement::DATABASE_END_OTHERS, values)
                    .await
                    .map_err(of)?;
                return Err(of(error));
            }
        };
        let epoch: Option<i64> = rows.first().map(|row| row.get(0));
        if epoch != Some(self.epoch) {
            return Err(Fault::Fenced);
        }
        let rows = session
            .rows(statement::JOURNAL_POSITION, vec![])
            .await
            .map_err(of)?;
        let found = rows
            .first()
            .map_or(Ok(0), |row| number(row, 0))
            .map_err(of)?;
        session.run("commit").await?;
        self.session = Some(session);
        Ok(found)
    }

    async fn retire(&mut self, due: Due) -> Result<Retired, BackendError> {
        let limit = Given::Number(i64::from(due.limit));
        let step = |sql: &'static str, at: Micros| {
            (Text::from(sql), vec![Given::Number(at), limit.clone()])
        };
        let rows = vec![
            step(statement::JOB_RESULT_RETIRE, due.results_at),
            step(statement::JOB_FORGET_RESULT, due.results_at),
            step(statement::JOB_RETIRE, due.tombstones_at),
            step(statement::JOB_KEY_RETIRE, due.results_at),
            step(statement::FIRE_RETIRE, due.fires_before),
        ];
        let stored = self.store(BEGIN, Work::Rows(rows)).await.map_err(why)?;
        if self.key_rows >= LOOK_AFTER {
            self.merge_keys().await?;
        }
        Ok(Retired {
            results: stored.rows(2),
            tombstones: stored.rows(3),
            keys: stored.rows(4),
            fires: stored.rows(5),
        })
    }

    /// Deduplication rows of few keys become rows of many, so that a start reads a million in one
    /// go.
    async fn merge_keys(&mut self) -> Result<(), BackendError> {
        let after = self.keys_merged;
        let values: Vec<Value<'_>> =
            vec![Box::new(after), Box::new(SMALL_BYTES), Box::new(LOOK_ROWS)];
        let session = self.connected().await.map_err(why)?;
        let rows = session
            .rows(statement::DEDUPLICATION_LIST_SMALL, values)
            .await?;
        let mut queues: std::collections::BTreeMap<i64, Vec<i64>> = Default::default();
        let mut last = if rows.is_empty() { 0 } else { after };
        for row in &rows {
            last = row.try_get(0)?;
            queues.entry(row.try_get(1)?).or_default().push(last);
        }
        queues.retain(|_, ids| ids.len() > 1);
        let ids: Vec<i64> = queues.into_values().flatten().collect();
        if !ids.is_empty() {
            let merge = (
                Text::from(statement::DEDUPLICATION_MERGE),
                vec![Given::Numbers(ids)],
            );
            self.store(BEGIN, Work::Rows(vec![merge]))
                .await
                .map_err(why)?;
        }
        self.keys_merged = last;
        self.key_rows = match rows.len() as i64 == LOOK_ROWS {
            true => LOOK_AFTER,
            false => 0,
        };
        Ok(())
    }

    /// Deletes some of what is doomed, truncates what is empty, moves what stands alone.
    async fn maintain(&mut self) -> Result<(), BackendError> {
        self.sweep_queues().await?;
        for _ in 0..SWEEPS {
            let count = self.doomed.segments.len().min(SWEEP_SEGMENTS);
            if count == 0 {
                break;
            }
            let ids: Vec<SegmentId> = self.doomed.segments.iter().take(count).copied().collect();
            self.store(BEGIN_RELAXED, Work::Drop(ids))
                .await
                .map_err(why)?;
            self.doomed.segments.drain(..count);
        }
        self.truncate().await?;
        for _ in 0..SWEEPS {
            if !self.move_some().await? {
                break;
            }
        }
        Ok(())
    }

    async fn sweep_queues(&mut self) -> Result<(), BackendError> {
        if self.doomed.queues.is_empty() {
            return Ok(());
        }
        let queues = self.doomed.queues.clone();
        let ids = Given::Numbers(queues.iter().map(|id| id.0.cast_signed()).collect());
        let mut left = true;
        for _ in 0..SWEEPS {
            let waiting: Vec<usize> = self.shared.slots().with_waiting().collect();
            let some = || vec![ids.clone(), Given::Number(SWEEP_ROWS)];
            let mut rows: Vec<(Text, Vec<Given>)> = waiting
                .into_iter()
                .map(|slot| Text::of_slot(statement::WAITING_DELETE_OF_QUEUES, slot))
                .chain([statement::DEDUPLICATION_DELETE_OF_QUEUES.into()])
                .map(|text| (text, some()))
                .collect();
            let retained = Text::from(statement::RETAINED_DELETE_OF_QUEUES);
            rows.push((retained, vec![ids.clone()]));
            // All but the last, which has no limit.
            let limited = rows.len() - 1;
            let stored = self
                .store(BEGIN_RELAXED, Work::Rows(rows))
                .await
                .map_err(why)?;
            let full = |at: usize| stored.rows(at).cast_signed() >= SWEEP_ROWS;
            left = stored.rows.is_none() || (1..=limited).any(full);
            if !left {
                break;
            }
        }
        let segments = self.shared.slots().of_queues(&queues);
        self.doomed.segments.extend(segments);
        if !left {
            self.shared.slots().forget_queues(&queues);
            self.doomed.queues.clear();
        }
        Ok(())
    }

    /// Each in a transaction of its own: one that somebody reads stays for now.
    async fn truncate(&mut self) -> Result<(), BackendError> {
        let slots = self.shared.slots().to_truncate();
        for slot in slots {
            let text = Text::of_slot(statement::SLOT_TRUNCATE, slot);
            if self.tried(slot, text).await? {
                self.shared.slots().truncated(slot);
            }
        }
        if self.stale_journal {
            let text = Text::of_slot(statement::JOURNAL_TRUNCATE, 1 - self.journal);
            self.stale_journal = !self.tried(SLOTS, text).await?;
        }
        Ok(())
    }

    /// True when it was truncated; what was held is not tried at each call.
    async fn tried(&mut self, at: usize, text: Text) -> Result<bool, BackendError> {
        if self.held[at].is_left_alone() {
            return Ok(false);
        }
        let done = self.truncated(text).await?;
        self.held[at] = self.held[at].after(done);
        Ok(done)
    }

    async fn truncated(&mut self, text: Text) -> Result<bool, BackendError> {
        self.position().await.map_err(why)?;
        let epoch = self.epoch;
        let Some(session) = &mut self.session else {
            return Ok(false);
        };
        let steps = vec![owner::fence(epoch), Step::new(text, vec![])];
        match session.transact(BEGIN_TRUNCATE, steps).await {
            Ok(_) => Ok(true),
            Err(Fault::Fenced) => Err(why(self.fenced())),
            Err(Fault::Lost(why)) => {
                self.disconnect(&why);
                Ok(false)
            }
            Err(Fault::Refused(why) | Fault::Full(why)) => {
                tracing::debug!(
                    reason = why,
                    "a table is held by somebody: it is emptied later"
                );
                Ok(false)
            }
        }
    }

    /// False when nothing is to be moved.
    async fn move_some(&mut self) -> Result<bool, BackendError> {
        let found = {
            let slots = self.shared.slots();
            slots
                .to_move()
                .map(|from| (from, slots.some_of(from, MOVE_BYTES)))
        };
        let Some((from, ids)) = found else {
            return Ok(false);
        };
        let work = match ids.is_empty() {
            false => Work::Move(ids, from),
            true => Work::MoveWaiting(from),
        };
        self.store(BEGIN_RELAXED, work).await.map_err(why)?;
        Ok(true)
    }

    /// Another node need not wait for the lease to end.
    async fn release(&mut self) {
        if self.shared.why_lost().is_some() {
            return;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let steps = vec![
            owner::fence(self.epoch),
            Step::new(statement::OWNER_RELEASE, vec![Box::new(self.epoch)]),
        ];
        if let Err(fault) = session.transact(BEGIN, steps).await {
            tracing::warn!(reason = failed(fault).0, "the lease was not given back");
        }
    }
}

/// What a transaction is for.
enum Work<'a> {
    Batch(&'a Batch),
    Import(&'a Import),
    /// A journal begins.
    Whole,
    Drop(Vec<SegmentId>),
    Move(Vec<SegmentId>, usize),
    MoveWaiting(usize),
    Rows(Vec<(Text, Vec<Given>)>),
}

#[derive(Clone)]
enum Given {
    Number(i64),
    Numbers(Vec<i64>),
}

fn why(error: CommitError) -> BackendError {
    BackendError(error.to_string())
}
