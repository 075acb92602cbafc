//! Everything of one store into another, empty one, of whatever engines.
//!
//! Keeps: the target says that it is incomplete from its first commit to its last, and nothing
//! serves it until then; at the end it was read back and compared, row by row, and each message
//! with its CRC.
//! Never: changes the source; brings what the next start would remove anyway (transient segments,
//! rows of queues that are gone); holds more than some segments' content.
//! In: `leveret store copy`.
//!
//! ```text
//! mark ─► definitions ─► segments ─► small rows ─► waiting ─► jobs, claims, fires, aside ─►
//! compare ─► unmark
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{PAGE, ROWS_TOGETHER};
use crate::log::batch::*;
use crate::log::segment::inspect;
use crate::model::*;
use crate::sql::{
    Backend, BackendError, CommitError, Cursor, Exported, Image, Import, JobFilter, SegmentBody,
};

/// What is said of a store whose copy was interrupted.
pub const INCOMPLETE: &str =
    "a copy to this store was interrupted: it is incomplete; begin it again with --restart";

/// What a copy moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Vhosts, users, rights, policies, parameters, limits, exchanges, queues, bindings.
    pub definitions: u64,
    pub queues: u64,
    pub segments: u64,
    /// In segments, ready or retained, and in waiting rows.
    pub messages: u64,
    pub waiting: u64,
    pub jobs: u64,
    pub results: u64,
    pub claims: u64,
    pub fires: u64,
    pub damaged_segments: u64,
    /// Content of messages and results, bytes.
    pub bytes: u64,
}

/// Why a copy ended early. The target stays incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the target is not empty: it has {0}")]
    NotEmpty(&'static str),
    #[error("the target: {INCOMPLETE}")]
    TargetIncomplete,
    #[error("the source: {INCOMPLETE}")]
    SourceIncomplete,
    #[error("{what} did not read back from the target as in the source")]
    Differs { what: String },
    #[error("reading: {0}")]
    Read(#[from] BackendError),
    #[error("writing: {0}")]
    Write(#[from] CommitError),
}

/// True for a store that a copy has not finished.
pub fn is_incomplete(image: &Image) -> bool {
    image.parameters.iter().any(|row| *row == mark())
}

/// Copies and compares. Neither store may be served; `to` must be empty.
///
/// # Errors
/// The target is not empty, or something cannot be read, written, or compared.
pub async fn copy(from: &dyn Backend, to: &dyn Backend) -> Result<Copied, Error> {
    let image = living(from.image().await?);
    if is_incomplete(&image) {
        return Err(Error::SourceIncomplete);
    }
    expect_empty(to).await?;
    let mut copy = Copy {
        from,
        to,
        number: 0,
        done: Copied::default(),
    };
    copy.commit(access_batch(AccessChange::PutParameter(mark())), true)
        .await?;
    copy.definitions(&image).await?;
    copy.segments(&image).await?;
    copy.small(&image).await?;
    copy.waiting(&image).await?;
    copy.jobs().await?;
    copy.aside().await?;
    copy.compare(&image).await?;
    let ParameterSpec {
        vhost,
        component,
        name,
        ..
    } = mark();
    let unmark = AccessChange::DeleteParameter {
        vhost,
        component,
        name,
    };
    copy.commit(access_batch(unmark), true).await?;
    Ok(copy.done)
}

/// A parameter that nobody else can set: a global one has no component.
fn mark() -> ParameterSpec {
    ParameterSpec {
        vhost: "".into(),
        component: "leveret-store".into(),
        name: "copy".into(),
        value: "\"incomplete\"".into(),
    }
}

async fn expect_empty(to: &dyn Backend) -> Result<(), Error> {
    let image = to.image().await?;
    if is_incomplete(&image) {
        return Err(Error::TargetIncomplete);
    }
    let count = |cursor| to.export(cursor, 1);
    for (some, what) in [
        (!image.vhosts.is_empty(), "vhosts"),
        (!image.users.is_empty(), "users"),
        (!image.queues.is_empty(), "queues"),
        (!image.segments.is_empty(), "segments"),
        (!to.job_counts().await?.is_empty(), "jobs"),
        (!count(Cursor::FIRST_CLAIM).await?.is_empty(), "keys"),
        (!count(Cursor::FIRST_FIRE).await?.is_empty(), "fires"),
        (!count(Cursor::FIRST_DAMAGED).await?.is_empty(), "segments"),
        (image != Image::default(), "definitions"),
    ] {
        if some {
            return Err(Error::NotEmpty(what));
        }
    }
    Ok(())
}

/// Without what a start would remove.
fn living(mut image: Image) -> Image {
    let queues: HashSet<QueueId> = image.queues.iter().map(|row| row.id).collect();
    let lives = |id: QueueId| queues.contains(&id);
    image.heads.retain(|row| lives(row.queue));
    image
        .segments
        .retain(|row| lives(row.queue) && !row.transient);
    let kept: HashSet<SegmentId> = image.segments.iter().map(|row| row.id).collect();
    image.settled.retain(|(id, _)| kept.contains(id));
    image.retained.retain(|row| kept.contains(&row.segment));
    image.waiting.retain(|row| lives(row.queue));
    image.deduplication.retain(|row| lives(row.queue));
    image
}

/// In an order of its own, so that two engines' can be compared.
fn ordered(mut image: Image) -> Image {
    image.vhosts.sort_by(|a, b| a.name.cmp(&b.name));
    image.users.sort_by(|a, b| a.name.cmp(&b.name));
    image
        .permissions
        .sort_by(|a, b| (&a.vhost, &a.user).cmp(&(&b.vhost, &b.user)));
    image
        .topic_permissions
        .sort_by(|a, b| (&a.vhost, &a.user, &a.exchange).cmp(&(&b.vhost, &b.user, &b.exchange)));
    image
        .policies
        .sort_by(|a, b| (&a.vhost, a.kind, &a.name).cmp(&(&b.vhost, b.kind, &b.name)));
    image.parameters.retain(|row| *row != mark());
    image
        .parameters
        .sort_by(|a, b| (&a.vhost, &a.component, &a.name).cmp(&(&b.vhost, &b.component, &b.name)));
    image
        .limits
        .sort_by(|a, b| (a.of, &a.subject, a.name).cmp(&(b.of, &b.subject, b.name)));
    image
        .exchanges
        .sort_by(|a, b| (&a.vhost, &a.name).cmp(&(&b.vhost, &b.name)));
    image.queues.sort_by_key(|row| row.id);
    image.bindings.sort_by(|a, b| {
        let key = |row: &BindingSpec| {
            let (vhost, source, to) = (&row.vhost, &row.source, &row.destination);
            let names = [vhost.clone(), source.clone(), to.clone()];
            let kind = row.destination_kind.as_str();
            (names, kind, row.routing_key.clone(), row.arguments.clone())
        };
        key(a).cmp(&key(b))
    });
    image.heads.sort_by_key(|row| row.queue);
    image.settled.sort();
    image.retained.sort_by_key(|row| row.segment);
    image.schedules.sort_by(|a, b| a.name.cmp(&b.name));
    image.redrives.sort_by(|a, b| a.id.cmp(&b.id));
    image.deduplication.sort_by(|a, b| {
        (a.queue, a.newest_ms, &a.entries).cmp(&(b.queue, b.newest_ms, &b.entries))
    });
    image
}

fn access_batch(change: AccessChange) -> Batch {
    Batch {
        definitions: vec![DefinitionChange::Access(change)],
        ..Batch::default()
    }
}

struct Copy<'a> {
    from: &'a dyn Backend,
    to: &'a dyn Backend,
    number: u64,
    done: Copied,
}

impl Copy<'_> {
    async fn commit(&mut self, batch: Batch, sync: bool) -> Result<(), Error> {
        self.number += 1;
        let batch = Batch {
            number: self.number,
            ..batch
        };
        if !batch.is_empty() {
            self.to.commit(Arc::new(batch), sync).await?;
        }
        Ok(())
    }

    async fn definitions(&mut self, image: &Image) -> Result<(), Error> {
        let changes = changes(image);
        self.done.definitions = changes.len() as u64;
        self.done.queues = image.queues.len() as u64;
        for some in changes.chunks(ROWS) {
            let batch = Batch {
                definitions: some.to_vec(),
                ..Batch::default()
            };
            self.commit(batch, false).await?;
        }
        Ok(())
    }

    async fn segments(&mut self, image: &Image) -> Result<(), Error> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        for row in &image.segments {
            let body = content(self.from, row.id, "source").await?;
            bytes += body.index.len() + body.data.len();
            self.done.segments += 1;
            self.done.messages += u64::from(row.count);
            batch.segments.push(SegmentRow {
                id: row.id,
                queue: row.queue,
                first_seq: row.first_seq,
                last_seq: row.last_seq,
                count: row.count,
                bytes: row.bytes,
                transient: row.transient,
                first_at: row.first_at,
                last_at: row.last_at,
                index: body.index,
                data: body.data,
            });
            if bytes >= BATCH_BYTES || batch.segments.len() >= ROWS {
                self.done.bytes += bytes as u64;
                bytes = 0;
                self.commit(std::mem::take(&mut batch), false).await?;
            }
        }
        self.done.bytes += bytes as u64;
        self.commit(batch, false).await
    }

    /// Rows that stand beside segments, each kind some at a time.
    async fn small(&mut self, image: &Image) -> Result<(), Error> {
        let queues = image.segments.iter().map(|row| (row.id, row.queue));
        let queues: HashMap<_, _> = queues.collect();
        let settled = image.settled.iter().filter_map(|(segment, bits)| {
            Some(SettledRow {
                segment: *segment,
                queue: *queues.get(segment)?,
                bits: bits.clone(),
            })
        });
        let settled: Vec<_> = settled.collect();
        let mut batches: Vec<Batch> = Vec::new();
        let mut add = |batch: Batch| batches.push(batch);
        for rows in settled.chunks(ROWS) {
            add(Batch {
                settled: rows.to_vec(),
                ..Batch::default()
            });
        }
        for rows in image.retained.chunks(ROWS) {
            add(Batch {
                retained: rows.to_vec(),
                ..Batch::default()
            });
        }
        for rows in image.heads.chunks(ROWS) {
            add(Batch {
                heads: rows.to_vec(),
                ..Batch::default()
            });
        }
        for rows in image.deduplication.chunks(ROWS) {
            add(Batch {
                deduplication: rows.to_vec(),
                ..Batch::default()
            });
        }
        add(Batch {
            schedules: image.schedules.clone(),
            redrives: image.redrives.clone(),
            ..Batch::default()
        });
        for batch in batches {
            self.commit(batch, false).await?;
        }
        let ids = Import {
            last_queue_id: image.last_queue_id,
            last_segment_id: image.last_segment_id,
            ..Import::default()
        };
        Ok(self.to.import(Arc::new(ids)).await?)
    }

    async fn waiting(&mut self, image: &Image) -> Result<(), Error> {
        for rows in waiting_pages(image) {
            let waiting = read_waiting(self.from, &rows, "source").await?;
            self.done.waiting += waiting.len() as u64;
            let counts = |row: &&WaitingRow| row.due_at != WaitingRow::COUNT_ONLY;
            self.done.messages += waiting.iter().filter(counts).count() as u64;
            let bytes = waiting.iter().map(|row| row.index.len() + row.data.len());
            self.done.bytes += bytes.sum::<usize>() as u64;
            let batch = Batch {
                waiting,
                ..Batch::default()
            };
            self.commit(batch, false).await?;
        }
        Ok(())
    }

    async fn jobs(&mut self) -> Result<(), Error> {
        let mut before = None;
        loop {
            let jobs = self.from.jobs(page(before)).await?;
            let Some(last) = jobs.last() else {
                return Ok(());
            };
            before = Some(last.id);
            let mut rows = Import::default();
            let mut bytes = 0;
            for job in jobs {
                let result = match &job.result {
                    Some(_) => self.from.job_result(job.id).await?,
                    None => None,
                };
                self.done.jobs += 1;
                self.done.results += u64::from(result.is_some());
                bytes += result.as_ref().map_or(0, |result| result.body.len());
                rows.jobs.push((job, result));
                if bytes >= BATCH_BYTES {
                    self.done.bytes += bytes as u64;
                    bytes = 0;
                    let some = std::mem::take(&mut rows);
                    self.to.import(Arc::new(some)).await?;
                }
            }
            self.done.bytes += bytes as u64;
            self.to.import(Arc::new(rows)).await?;
        }
    }

    /// What `export` lists.
    async fn aside(&mut self) -> Result<(), Error> {
        for first in ASIDE {
            let mut after = first.clone();
            loop {
                let rows = self.from.export(after, span(first)).await?;
                let Some(last) = rows.last() else {
                    break;
                };
                after = last.cursor();
                let (mut batch, mut import) = (Batch::default(), Import::default());
                for row in rows {
                    match row {
                        Exported::Damaged(row) => {
                            self.done.damaged_segments += 1;
                            import.damaged.push(row);
                        }
                        Exported::Claim(key, at) => {
                            self.done.claims += 1;
                            batch.jobs.push(JobChange::Claim { key, at });
                        }
                        Exported::Fire(row) => {
                            self.done.fires += 1;
                            batch.fires.push(row);
                        }
                        Exported::Result(..) => {}
                    }
                }
                self.commit(batch, false).await?;
                if import != Import::default() {
                    self.to.import(Arc::new(import)).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads both and tells the first thing that is not the same.
    async fn compare(&mut self, image: &Image) -> Result<(), Error> {
        // On disk first: what is compared is what stays.
        let same = access_batch(AccessChange::PutParameter(mark()));
        self.commit(same, true).await?;
        let copied = ordered(self.to.image().await?);
        expect(ordered(image.clone()) == copied, || {
            "a definition or a header".into()
        })?;
        for row in &image.segments {
            let what = || format!("segment {}", row.id.0);
            let body = content(self.from, row.id, "source").await?;
            let copied = content(self.to, row.id, "target").await?;
            expect(body == copied, what)?;
            let inspected = |body: &SegmentBody| inspect(&body.index, &body.data, row.first_seq);
            expect(inspected(&body) == inspected(&copied), what)?;
        }
        for rows in waiting_pages(image) {
            let what = || "a waiting row".into();
            let copied = read_waiting(self.to, &rows, "target").await?;
            expect(
                read_waiting(self.from, &rows, "source").await? == copied,
                what,
            )?;
        }
        self.compare_jobs().await?;
        for first in ASIDE {
            let mut after = first.clone();
            loop {
                let rows = self.from.export(after.clone(), span(first)).await?;
                let copied = self.to.export(after, span(first)).await?;
                expect(rows == copied, || {
                    "a key, a fire, or a segment set aside".into()
                })?;
                let Some(last) = rows.last() else {
                    break;
                };
                after = last.cursor();
            }
        }
        Ok(())
    }

    async fn compare_jobs(&self) -> Result<(), Error> {
        let mut before = None;
        loop {
            let jobs = self.from.jobs(page(before)).await?;
            let what = || "a job or its result".into();
            expect(jobs == self.to.jobs(page(before)).await?, what)?;
            for job in jobs.iter().filter(|job| job.result.is_some()) {
                let result = self.from.job_result(job.id).await?;
                expect(result == self.to.job_result(job.id).await?, what)?;
            }
            let Some(last) = jobs.last() else {
                return Ok(());
            };
            before = Some(last.id);
        }
    }
}

fn changes(image: &Image) -> Vec<DefinitionChange> {
    let mut out = Vec::new();
    let mut access = |change| out.push(DefinitionChange::Access(change));
    let rows = image.vhosts.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutVhost(row)));
    let rows = image.users.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutUser(row)));
    let rows = image.permissions.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutPermission(row)));
    let rows = image.topic_permissions.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutTopicPermission(row)));
    let rows = image.policies.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutPolicy(row)));
    let rows = image.parameters.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutParameter(row)));
    let rows = image.limits.iter().cloned();
    rows.for_each(|row| access(AccessChange::PutLimit(row)));
    let rows = image.exchanges.iter().cloned();
    out.extend(rows.map(DefinitionChange::PutExchange));
    let rows = image.queues.iter().cloned();
    out.extend(rows.map(DefinitionChange::PutQueue));
    let rows = image.bindings.iter().cloned();
    out.extend(rows.map(DefinitionChange::PutBinding));
    out
}

fn expect(same: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    match same {
        true => Ok(()),
        false => Err(Error::Differs { what: what() }),
    }
}

async fn content(
    backend: &dyn Backend,
    id: SegmentId,
    place: &str,
) -> Result<SegmentBody, BackendError> {
    let gone = || BackendError(format!("segment {} is not there in the {place}", id.0));
    backend.read_segment(id).await?.ok_or_else(gone)
}

fn waiting_pages(image: &Image) -> Vec<(QueueId, Vec<Seq>)> {
    let queues = image.waiting.chunk_by(|a, b| a.queue == b.queue);
    let pages = queues.flat_map(|rows| rows.chunks(ROWS_TOGETHER));
    pages
        .filter_map(|rows| {
            let queue = rows.first()?.queue;
            Some((queue, rows.iter().map(|row| row.seq).collect()))
        })
        .collect()
}

async fn read_waiting(
    backend: &dyn Backend,
    (queue, seqs): &(QueueId, Vec<Seq>),
    place: &str,
) -> Result<Vec<WaitingRow>, BackendError> {
    let rows = backend.read_waiting(*queue, seqs.clone()).await?;
    match rows.len() == seqs.len() {
        true => Ok(rows),
        false => Err(BackendError(format!(
            "a waiting row of queue {} is not there in the {place}",
            queue.0
        ))),
    }
}

fn page(before: Option<JobId>) -> JobFilter {
    JobFilter {
        before,
        limit: PAGE,
        ..JobFilter::default()
    }
}

/// A damaged segment is as large as any other; the rest is small.
fn span(cursor: &Cursor) -> u32 {
    match cursor {
        Cursor::Damaged(_) => 1,
        _ => PAGE,
    }
}

const ASIDE: &[Cursor] = &[
    Cursor::FIRST_CLAIM,
    Cursor::FIRST_FIRE,
    Cursor::FIRST_DAMAGED,
];
/// Content in one commit, about, bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Rows in one commit.
const ROWS: usize = 512;

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
