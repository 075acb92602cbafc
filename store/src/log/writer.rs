//! Self-clocked group commit: take what arrived, commit, release, again.
//!
//! Keeps: a confirm goes out only after the commit that holds its message is on disk (I2); one
//! commit under way at a time.
//! Never: retries a commit whose outcome is unknown.
//! In: `Store::open` starts it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::StoreInner;
use crate::alarms::Cause;
use crate::log::batch::{Batch, Committed, HeadRow, SegmentRow};
use crate::log::segment::Encoder;
use crate::queue::{Piece, Row};
use crate::shard::Cut;
use crate::sql::CommitError;

/// How long settles may wait for company when nobody waits for them.
const IDLE: Duration = Duration::from_millis(100);
/// Between two tries when the disk is full or locked.
const RETRY: Duration = Duration::from_millis(500);

pub(crate) async fn run(store: Arc<StoreInner>) {
    let mut number = 0;
    // A row of the newest commit, while nothing has made that commit wait for the disk.
    let mut unsynced: Option<HeadRow> = None;
    loop {
        store.writer.notified().await;
        if !store.lock().is_urgent() && !store.is_stopping() {
            // Nobody waits: let settles gather, unless somebody comes.
            let _ = tokio::time::timeout(IDLE, store.urgent()).await;
        }
        loop {
            let mut cut = store.lock().cut(number + 1);
            if cut.batch.is_empty() && cut.saving.is_empty() {
                // Whoever asks whether all is on disk asks for the commit before, too: written
                // once more, the row takes it along.
                match unsynced.filter(|_| cut.sync) {
                    Some(row) => cut.batch.heads.push(row),
                    None => {
                        store.lock().committed(cut, &[]);
                        break;
                    }
                }
            }
            number += 1;
            cut.batch.number = number;
            encode(&mut cut);
            let begun = Instant::now();
            let bytes: usize = cut
                .batch
                .segments
                .iter()
                .map(|s| s.data.len() + s.index.len())
                .sum();
            unsynced = match cut.sync {
                true => None,
                false => cut.batch.heads.last().copied().or(unsynced),
            };
            let Some(committed) = commit(&store, &mut cut).await else {
                // Whoever waits for this very commit is told first.
                drop(cut);
                give_up(&store).await;
                return;
            };
            metrics::histogram!("leveret_store_commit_seconds")
                .record(begun.elapsed().as_secs_f64());
            metrics::histogram!("leveret_store_commit_bytes").record(bytes as f64);
            store.lock().committed(cut, &committed.refused);
            if !store.lock().is_urgent() {
                break;
            }
        }
        if store.is_stopping() {
            store.drained.notify_one();
        }
    }
}

/// `None`: another node owns the store.
async fn commit(store: &Arc<StoreInner>, cut: &mut Cut) -> Option<Committed> {
    let sync = cut.sync;
    let batch = Arc::new(std::mem::take(&mut cut.batch));
    let committed = loop {
        match store.backend.commit(batch.clone(), sync).await {
            Ok(committed) => break committed,
            Err(CommitError::Full(why)) => {
                tracing::error!(reason = why, "the disk is full: publishers are blocked");
                store.lock().set_alarm(Cause::DiskFull, true);
                mark(store, batch.number).await;
            }
            Err(CommitError::NotDone(why)) => {
                tracing::error!(reason = why, "commit not stored, trying again");
            }
            Err(CommitError::Unknown(why)) => {
                // Crash before corrupt: a restart reads what is really there.
                tracing::error!(reason = why, "the outcome of a commit is unknown, stopping");
                std::process::exit(70);
            }
            Err(CommitError::Fenced(why)) => {
                tracing::error!(
                    reason = why,
                    "a commit was refused, and nothing of it is confirmed"
                );
                return None;
            }
        }
        tokio::time::sleep(RETRY).await;
    };
    store.lock().set_alarm(Cause::DiskFull, false);
    // Only job changes are looked at afterwards; the rest is freed with the batch.
    cut.batch.jobs = Arc::try_unwrap(batch).map_or_else(|batch| batch.jobs.clone(), |b| b.jobs);
    Some(committed)
}

/// Nothing is stored any more: whoever waits for it is told so, until the node has let them go.
async fn give_up(store: &Arc<StoreInner>) {
    loop {
        drop(store.lock().cut(0));
        store.writer.notified().await;
    }
}

/// Lets consumers go on while there is no room for anything new.
async fn mark(store: &Arc<StoreInner>, number: u64) {
    let heads = store.lock().marks();
    if heads.is_empty() {
        return;
    }
    let marks = Batch {
        number,
        heads: heads.clone(),
        ..Batch::default()
    };
    match store.backend.commit(Arc::new(marks), true).await {
        Ok(_) => store.lock().marked(&heads),
        Err(why) => tracing::error!(%why, "not even marks find room"),
    }
}

/// Writes the segments of a cut, outside the lock.
pub(crate) fn encode(cut: &mut Cut) {
    for saving in &mut cut.saving {
        let settled = &saving.settled;
        let live = |piece: &Piece| {
            let first = piece.first;
            (0..piece.count)
                .filter(move |o| settled.binary_search(&(first + u64::from(*o))).is_err())
        };
        let Some(first_piece) = saving.pieces.first() else {
            continue;
        };
        let base_seq = saving.first;
        let base_at = saving
            .pieces
            .iter()
            .map(|p| p.at)
            .min()
            .unwrap_or(first_piece.at);
        let mut encoder = Encoder::default();
        let (mut last_seq, mut last_at) = (base_seq, base_at);
        for piece in &saving.pieces {
            let at_ms = u32::try_from((piece.at - base_at) / 1000).unwrap_or(u32::MAX);
            for offset in live(piece) {
                let seq = piece.first + u64::from(offset);
                let delta = u32::try_from(seq - base_seq).unwrap_or(u32::MAX);
                encoder.push(&piece.block, piece.index(offset), delta, at_ms);
                last_seq = seq;
                last_at = last_at.max(piece.at);
            }
        }
        let (count, bytes) = (encoder.count(), encoder.bytes());
        if count == 0 {
            continue;
        }
        saving.row = Row {
            count,
            bytes,
            last_at,
        };
        let (index, data) = encoder.finish();
        cut.batch.segments.push(SegmentRow {
            id: saving.id,
            queue: saving.queue,
            first_seq: base_seq,
            last_seq,
            count,
            bytes,
            transient: saving.transient,
            first_at: base_at,
            last_at,
            index,
            data,
        });
    }
}
