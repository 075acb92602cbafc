//! What operators do with a queue's messages: look, remove, move, redrive; and stop a queue for a
//! while.
//!
//! Keeps: looking counts as no attempt and changes nothing; a move survives a crash and goes on,
//! each message in one place all the time (I1).
//! Never: holds the queues for longer than a step; bodies are read off their path.
//! In: the gateway's HTTP routes and commands.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use amqp::content::{Address, Block};
use tokio::sync::Notify;

use crate::clock;
use crate::error::{Error, Noun, Result};
use crate::log::segment;
use crate::model::*;
use crate::page::{Filling, PAGE_BYTES_MAX, Page, Seen};
use crate::queue::Piece;
use crate::rules::filter::Filter;
use crate::rules::rate::Rate;
use crate::shard::Shard;
use crate::shard::sweep::Step;
use crate::topology::arguments::{RETAIN, RETAIN_BYTES};
use crate::{Store, StoreInner};

/// Messages moved or removed in one step: one commit's worth, and no more memory than that.
const STEP: u32 = 1_000;
/// Waiting rows read at a time, at most.
const ROWS_MAX: usize = 256;
/// Waiting rows read at first: how large they are is not known before.
const ROWS_FIRST: usize = 8;
/// Between two looks at a rate, or at a target without room.
const PAUSE: Duration = Duration::from_millis(20);
/// A body that was asked for is asked for again after this long: its queue may be gone.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// How long a redrive that has ended is remembered: a day, µs.
const REMEMBERED: Micros = 86_400_000_000;
/// How many redrives are remembered: each is a row and a look at every new one.
const REMEMBERED_MAX: usize = 10_000;
/// Redrives that may run at a time: each costs a task, and a share of every commit.
const REDRIVES_MAX: usize = 64;

/// Which of a queue's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Ready,
    /// In backoff or delayed.
    Waiting,
}

/// A move, or a replay of settled messages, to begin.
#[derive(Clone, Debug, Default)]
pub struct Redrive {
    pub kind: RedriveKind,
    pub vhost: String,
    pub source: String,
    /// `None`: each message to the queue in which it died; a replay goes to its own queue.
    pub target: Option<String>,
    pub filter: Filter,
    /// Messages a second.
    pub rate: Option<f64>,
    /// Messages below are not meant.
    pub from: Seq,
    /// Neither are those from here on.
    pub until: Option<Seq>,
}

impl Store {
    /// Messages from `from` on, at most `limit` that the filter means.
    ///
    /// # Errors
    /// `NotFound`: no such queue. `Exclusive`: it belongs to a connection.
    pub async fn peek(
        &self,
        (vhost, queue): (&str, &str),
        which: Which,
        filter: &Filter,
        from: Seq,
        limit: u32,
    ) -> Result<Page> {
        match which {
            Which::Ready => self.peek_ready((vhost, queue), filter, from, limit).await,
            Which::Waiting => self.peek_waiting((vhost, queue), filter, from, limit).await,
        }
    }

    async fn peek_ready(
        &self,
        (vhost, queue): (&str, &str),
        filter: &Filter,
        mut from: Seq,
        limit: u32,
    ) -> Result<Page> {
        let mut filling = Filling::new(limit);
        let read_back = self.lock().read_back.clone();
        loop {
            let read = listen(&read_back);
            let (found, next, loading) = {
                let mut shard = self.lock();
                let id = shard.queue(0, vhost, queue)?;
                let looked = shard.look_over(id, (from, Seq::MAX), filter, filling.wants());
                let log = shard.queues.get(&id).map(|queue| &queue.log);
                let failures = |seq| log.and_then(|log| log.attempts.get(&seq).copied());
                let seen = |piece: Piece| Seen {
                    seq: piece.first,
                    due_at: None,
                    failures: failures(piece.first).unwrap_or(0),
                    piece,
                };
                let found: Vec<Seen> = looked.found.into_iter().map(seen).collect();
                (found, looked.next, looked.loading)
            };
            for seen in found {
                let seq = seen.seq;
                if !filling.take(seen) {
                    return Ok(filling.end(Some(seq)));
                }
            }
            let Some(next) = next.filter(|_| filling.wants() > 0) else {
                return Ok(filling.end(next));
            };
            from = next;
            if loading {
                let _ = tokio::time::timeout(READ_WITHIN, read).await;
            }
        }
    }

    async fn peek_waiting(
        &self,
        at: (&str, &str),
        filter: &Filter,
        from: Seq,
        limit: u32,
    ) -> Result<Page> {
        let mut filling = Filling::new(limit);
        let mut rows = Rows::default();
        let mut after = from.checked_sub(1);
        loop {
            let most = match filter.is_empty() {
                // One more tells where the next page begins.
                true => rows.0.min(filling.wants() as usize + 1),
                false => rows.0,
            };
            let (id, seqs) = self.waiting_after(at, after, most)?;
            let Some(&(last, _)) = seqs.last() else {
                return Ok(filling.end(None));
            };
            let found = self.read_waiting(id, &seqs).await?;
            rows.learn(&found);
            for (piece, due_at, failures) in found {
                if !filter.matches(&piece.block, piece.index(0), piece.at) {
                    continue;
                }
                let seq = piece.first;
                let seen = Seen {
                    seq,
                    piece,
                    due_at: Some(due_at),
                    failures,
                };
                if !filling.take(seen) {
                    return Ok(filling.end(Some(seq)));
                }
            }
            after = Some(last);
        }
    }

    fn waiting_after(
        &self,
        (vhost, queue): (&str, &str),
        after: Option<Seq>,
        most: usize,
    ) -> Result<(QueueId, Vec<(Seq, Micros)>)> {
        let shard = self.lock();
        let id = shard.queue(0, vhost, queue)?;
        let waiting = shard.queues.get(&id).map(|queue| &queue.log.waiting);
        let seqs = waiting.map(|waiting| waiting.after(after).take(most).collect());
        Ok((id, seqs.unwrap_or_default()))
    }

    /// Contents of messages that wait, with due time and failures.
    async fn read_waiting(
        &self,
        id: QueueId,
        seqs: &[(Seq, Micros)],
    ) -> Result<Vec<(Piece, Micros, u32)>> {
        // What was parked a moment ago must be in its row.
        self.on_disk().await?;
        let wanted = seqs.iter().map(|(seq, _)| *seq).collect();
        let rows = self.backend().read_waiting(id, wanted).await;
        let rows = rows.map_err(|error| Error::Io(error.to_string()))?;
        let mut found: Vec<(Piece, Micros, u32)> = rows
            .into_iter()
            .filter_map(|row| {
                let decoded = segment::decode(&row.index, row.data, row.seq, 0)?;
                let piece = decoded.pieces.into_iter().next()?;
                Some((piece, row.due_at, row.attempt))
            })
            .collect();
        let shard = self.lock();
        if let Some(queue) = shard.queues.get(&id) {
            for &(seq, due_at) in seqs {
                let has_row = found.iter().any(|(piece, ..)| piece.first == seq);
                if let Some(piece) = queue.log.parked.get(seq).filter(|_| !has_row) {
                    let failures = queue.log.attempts.get(&seq).copied().unwrap_or(0);
                    found.push((piece.clone(), due_at, failures));
                }
            }
        }
        found.sort_unstable_by_key(|(piece, ..)| piece.first);
        Ok(found)
    }

    /// Removes what the filter means, or with `dry_run` counts it. Answers how many.
    ///
    /// # Errors
    /// As `peek`.
    pub async fn purge_matching(
        &self,
        (vhost, queue): (&str, &str),
        which: Which,
        filter: &Filter,
        dry_run: bool,
    ) -> Result<u64> {
        let count = match which {
            Which::Ready => self.purge_ready((vhost, queue), filter, dry_run).await?,
            Which::Waiting => self.purge_waiting((vhost, queue), filter, dry_run).await?,
        };
        self.on_disk().await?;
        Ok(count)
    }

    async fn purge_ready(
        &self,
        (vhost, queue): (&str, &str),
        filter: &Filter,
        dry_run: bool,
    ) -> Result<u64> {
        let read_back = self.lock().read_back.clone();
        let (mut from, mut until, mut count) = (0, None, 0);
        loop {
            let read = listen(&read_back);
            let (next, loading) = {
                let mut shard = self.lock();
                let id = shard.queue(0, vhost, queue)?;
                let end = shard.queues.get(&id).map_or(0, |q| q.log.next_seq());
                // What comes while this runs is not meant.
                let until = *until.get_or_insert(end);
                let looked = shard.look_over(id, (from, until), filter, STEP);
                let seqs: Vec<Seq> = looked.found.iter().map(|piece| piece.first).collect();
                count += match dry_run {
                    true => seqs.len() as u64,
                    false => shard.remove_ready(id, &seqs),
                };
                (looked.next, looked.loading)
            };
            match next {
                None => return Ok(count),
                Some(next) => from = next,
            }
            if loading {
                let _ = tokio::time::timeout(READ_WITHIN, read).await;
            }
        }
    }

    async fn purge_waiting(&self, at: (&str, &str), filter: &Filter, dry_run: bool) -> Result<u64> {
        let (mut after, mut count) = (None, 0);
        let mut rows = Rows::default();
        loop {
            let (id, seqs) = self.waiting_after(at, after, rows.0)?;
            let Some(&(last, _)) = seqs.last() else {
                return Ok(count);
            };
            let found = match filter.is_empty() {
                true => seqs.iter().map(|(seq, _)| *seq).collect(),
                false => {
                    let mut found = self.read_waiting(id, &seqs).await?;
                    rows.learn(&found);
                    found.retain(|(p, ..)| filter.matches(&p.block, p.index(0), p.at));
                    found
                        .into_iter()
                        .map(|(piece, ..)| piece.first)
                        .collect::<Vec<_>>()
                }
            };
            let mut shard = self.lock();
            count += match dry_run {
                true => found.len() as u64,
                false => found
                    .iter()
                    .map(|seq| u64::from(shard.cancel_waiting(id, *seq)))
                    .sum(),
            };
            after = Some(last);
        }
    }

    /// Stops handing out a queue's messages, or goes on. Publishers notice nothing.
    ///
    /// # Errors
    /// As `peek`.
    pub async fn set_paused(&self, vhost: &str, queue: &str, paused: bool) -> Result<()> {
        {
            let mut shard = self.lock();
            let id = shard.queue(0, vhost, queue)?;
            shard.set_paused(id, paused);
        }
        self.on_disk().await
    }

    /// The queue to which the dead messages of a queue go.
    ///
    /// # Errors
    /// `NotFound`: no such queue, or it has no dead-letter queue (yet). `PreconditionFailed`: they
    /// go to several.
    pub fn dead_letter_queue(&self, vhost: &str, queue: &str) -> Result<String> {
        self.lock().dead_letter_queue(vhost, queue)
    }

    /// Begins to move messages; returns when that is on disk. A crash does not end it.
    ///
    /// # Errors
    /// `NotFound`: source or target is not there. `PreconditionFailed`: they are the same, the rate
    /// makes no sense, too many redrives run, or a queue to replay keeps no settled messages.
    pub async fn redrive(&self, ask: Redrive) -> Result<RedriveRow> {
        let row = self.lock().begin_redrive(&ask)?;
        self.on_disk().await?;
        tokio::spawn(run(self.0.clone(), row.id.clone()));
        Ok(row)
    }

    /// Those that run or are remembered, oldest first: at most `limit` that began after the
    /// one of the id `after`, which need not be there any more.
    pub fn redrives(&self, after: Option<&str>, limit: usize) -> Vec<RedriveRow> {
        // Ids rise with time.
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let shard = self.lock();
        let rows = shard.redrives.range::<str, _>((from, Bound::Unbounded));
        rows.take(limit).map(|(_, row)| row.clone()).collect()
    }

    pub fn redrive_of(&self, id: &str) -> Option<RedriveRow> {
        self.lock().redrives.get(id).cloned()
    }

    /// What was moved stays where it is. False: it had ended.
    pub async fn cancel_redrive(&self, id: &str) -> Result<bool> {
        let cancelled = {
            let mut shard = self.lock();
            let row = shard.redrives.get(id).cloned();
            let row = row.filter(|row| row.state == RedriveState::Running);
            let running = row.is_some();
            if let Some(row) = row {
                shard.end_redrive(row, RedriveState::Cancelled, String::new());
            }
            running
        };
        self.on_disk().await?;
        Ok(cancelled)
    }

    /// Goes on with what a stop or a crash interrupted.
    pub(crate) fn resume_redrives(&self) {
        let running: Vec<Arc<str>> = {
            let shard = self.lock();
            let rows = shard.redrives.values();
            let rows = rows.filter(|row| row.state == RedriveState::Running);
            rows.map(|row| row.id.clone()).collect()
        };
        for id in running {
            tokio::spawn(run(self.0.clone(), id));
        }
    }
}

impl Shard {
    pub(crate) fn dead_letter_queue(&mut self, vhost: &str, queue: &str) -> Result<String> {
        let id = self.queue(0, vhost, queue)?;
        let absent = |detail: String| Error::NotFound {
            noun: Noun::Queue,
            name: queue.to_owned(),
            detail,
        };
        let Some(known) = self.queues.get(&id) else {
            return Err(absent(format!("no queue '{queue}' in vhost '{vhost}'")));
        };
        let asked = &known.arguments;
        let vhost = known.spec.vhost.clone();
        let Some(exchange) = asked.dead_letter_exchange.clone() else {
            let name = format!("{queue}.dlq");
            return match self.has_queue(&vhost, &name) {
                true => Ok(name),
                false => Err(absent(format!(
                    "queue '{queue}' in vhost '{vhost}' has no dead-letter queue: none of its \
                     messages has died for good"
                ))),
            };
        };
        let key = asked
            .dead_letter_key
            .clone()
            .unwrap_or_else(|| queue.into());
        let mut block = Block::default();
        let address = Address::new(exchange.as_bytes(), key.as_bytes());
        block.push(&address, &[0, 0], b"");
        let found = self.route(&vhost, &Arc::new(block), 0);
        let ids: Vec<QueueId> = found.map(|ids| ids.as_slice().to_vec()).unwrap_or_default();
        match ids[..] {
            [one] => Ok(self
                .queues
                .get(&one)
                .map_or_else(String::new, |q| q.spec.name.to_string())),
            [] => Err(absent(format!(
                "the dead of queue '{queue}' in vhost '{vhost}' go to exchange '{exchange}', and \
                 from there nowhere"
            ))),
            _ => Err(Error::PreconditionFailed {
                noun: Noun::Queue,
                name: queue.to_owned(),
                detail: format!(
                    "the dead of queue '{queue}' in vhost '{vhost}' go to {} queues through \
                     exchange '{exchange}': name one of them",
                    ids.len()
                ),
            }),
        }
    }

    fn begin_redrive(&mut self, ask: &Redrive) -> Result<RedriveRow> {
        let refused = |detail: String| Error::PreconditionFailed {
            noun: Noun::Queue,
            name: ask.source.clone(),
            detail,
        };
        let source = self.queue(0, &ask.vhost, &ask.source)?;
        let target = match &ask.target {
            Some(target) => Some(self.queue(0, &ask.vhost, target)?),
            None => None,
        };
        let replays = ask.kind == RedriveKind::Retained;
        let known = self.queues.get(&source);
        let end = known.map_or(0, |queue| queue.log.next_seq());
        if replays && known.is_none_or(|queue| queue.log.retained.is_none()) {
            let (source, vhost) = (&ask.source, &ask.vhost);
            let detail = format!(
                "queue '{source}' in vhost '{vhost}' keeps no settled messages: it has neither \
                 '{RETAIN}' nor '{RETAIN_BYTES}'"
            );
            return Err(refused(detail));
        }
        if let Some(name) = &ask.target
            && target == Some(source)
            && !replays
        {
            let target = name;
            let detail = format!("the messages of queue '{target}' are in queue '{target}'");
            return Err(refused(detail));
        }
        if let Some(rate) = ask.rate
            && !(RATE_MIN..=RATE_MAX).contains(&rate)
        {
            let detail = format!("rate {rate} is not within {RATE_MIN} to {RATE_MAX} a second");
            return Err(refused(detail));
        }
        let now = clock::now();
        self.forget_redrives(now);
        let running = |row: &&RedriveRow| row.state == RedriveState::Running;
        if self.redrives.values().filter(running).count() >= REDRIVES_MAX {
            return Err(refused(format!("{REDRIVES_MAX} redrives run already")));
        }
        let target = ask
            .target
            .as_ref()
            .or_else(|| replays.then_some(&ask.source));
        let row = RedriveRow {
            id: JobId(clock::new_id()).to_string().into(),
            kind: ask.kind,
            queue: source,
            vhost: ask.vhost.as_str().into(),
            source: ask.source.as_str().into(),
            target: target.map(|name| name.as_str().into()),
            filter: ask.filter.encode(),
            rate: ask.rate,
            until: ask.until.map_or(end, |until| until.min(end)),
            next: ask.from,
            moved: 0,
            skipped: 0,
            state: RedriveState::Running,
            detail: String::new(),
            created_at: now,
            ended_at: None,
        };
        self.put_redrive(row.clone());
        Ok(row)
    }

    /// Room for one more: those that ended long ago go, and the oldest where they are too many.
    fn forget_redrives(&mut self, now: Micros) {
        let excess = (self.redrives.len() + 1).saturating_sub(REMEMBERED_MAX);
        let rows = self.redrives.values().enumerate();
        let gone: Vec<Arc<str>> = rows
            .filter_map(|(at, row)| {
                let ended_at = row.ended_at?;
                let goes = at < excess || ended_at + REMEMBERED < now;
                goes.then(|| row.id.clone())
            })
            .collect();
        for id in gone {
            self.redrives.remove(&id);
            self.pending.redrives.retain(|row| row.id != id);
            self.pending.dropped_redrives.push(id);
        }
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
pub(crate) mod tests;

/// Messages a second, at least and at most.
pub const RATE_MIN: f64 = 0.001;
pub const RATE_MAX: f64 = 1e6;

/// How many waiting rows to read at a time, so that they are a quarter of a page.
struct Rows(usize);

impl Default for Rows {
    fn default() -> Self {
        Self(ROWS_FIRST)
    }
}

impl Rows {
    fn learn(&mut self, found: &[(Piece, Micros, u32)]) {
        let bytes: u64 = found.iter().map(|(piece, ..)| piece.memory_bytes()).sum();
        let mean = bytes / (found.len() as u64).max(1);
        let many = PAGE_BYTES_MAX / 4 / mean.max(1);
        self.0 = usize::try_from(many).map_or(ROWS_MAX, |many| many.clamp(1, ROWS_MAX));
    }
}

/// Told of every body that is read from now on.
fn listen(read_back: &Arc<Notify>) -> impl Future<Output = ()> + use<> {
    let mut read = Box::pin(read_back.clone().notified_owned());
    read.as_mut().enable();
    read
}

/// Moves messages step by step until the redrive ends.
async fn run(store: Arc<StoreInner>, id: Arc<str>) {
    let mut rate = Rate::default();
    // The segment that a replay is at.
    let mut segment = None;
    let read_back = store.lock().read_back.clone();
    // What was settled before the order is in its segment then.
    let told = store.lock().on_disk();
    let _ = told.await;
    while !store.is_stopping() {
        let read = listen(&read_back);
        let step = {
            let mut shard = store.lock();
            let row = shard.redrives.get(&id);
            let limit = row.and_then(|row| row.rate);
            let replays = row.is_some_and(|row| row.kind == RedriveKind::Retained);
            let allowed = limit.map(|limit| rate.allowed(limit, clock::now()));
            match allowed.unwrap_or(STEP).min(STEP) {
                0 => Step::Moved(0),
                most if replays => shard.replay_step(&id, most, segment.as_ref()),
                most => shard.redrive_step(&id, most),
            }
        };
        match step {
            Step::Moved(count) => {
                rate.spend(count);
                let told = store.lock().on_disk();
                // One commit at a time, so that what moves is not all in memory.
                let _ = told.await;
                let limited = store
                    .lock()
                    .redrives
                    .get(&id)
                    .is_some_and(|row| row.rate.is_some());
                if limited {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Step::Loading => {
                let _ = tokio::time::timeout(READ_WITHIN, read).await;
            }
            Step::Read(entry) => {
                let source = store.lock().redrives.get(&id).map(|row| row.queue);
                let Some(source) = source else { return };
                segment = match store.read_retained(source, &entry).await {
                    Ok(segment) => segment,
                    Err(_) => return,
                };
            }
            Step::Full => tokio::time::sleep(PAUSE).await,
            Step::Ended => {
                let told = store.lock().on_disk();
                let _ = told.await;
                return;
            }
        }
    }
}
