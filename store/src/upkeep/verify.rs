//! Whether everything in a store is as it was written, and agrees with everything else.
//!
//! Keeps: each finding names the place; a finding is damage only when something is lost or
//! contradicts, and a leftover when the next start, or the janitor, removes it.
//! Never: repairs; holds more than one segment's content.
//! In: `leveret store verify`, and a copy once it is done.
//!
//! ```text
//! engine's own check · definitions · heads · segments (index, CRC of each message, counts, no seq
//! twice) · waiting rows (CRC, not ready, too) · jobs and their results
//! ```

use std::collections::{HashMap, HashSet};

use amqp::field::Table;

use super::{Names, PAGE, ROWS_TOGETHER, is_set};
use crate::log::batch::{HeadRow, WaitingRow};
use crate::log::segment::{Contents, inspect};
use crate::model::*;
use crate::sql::{
    Backend, BackendError, Cursor, Exported, Image, JobFilter, SegmentHeader, WaitingHeader,
};

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// False for what is only left over, or was set aside before.
    pub damage: bool,
    /// `store`, `queue`, `segment`, `waiting`, `job`, …
    pub noun: &'static str,
    /// Vhost and name.
    pub queue: Option<(String, String)>,
    pub segment: Option<SegmentId>,
    /// First and last.
    pub seqs: Option<(Seq, Seq)>,
    pub job: Option<JobId>,
    pub detail: String,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub queues: u64,
    pub segments: u64,
    /// Their CRC was computed; those in waiting rows, too.
    pub messages: u64,
    pub waiting: u64,
    pub jobs: u64,
    pub results: u64,
    /// Findings that are damage, and others.
    pub damage: u64,
    pub notes: u64,
}

/// Checks all of it; `tell` hears each finding as it comes.
///
/// # Errors
/// The store cannot be read on: not every check was made.
pub async fn verify(
    backend: &dyn Backend,
    tell: &mut (dyn FnMut(Finding) + Send),
) -> Result<Verified, BackendError> {
    let mut done = Verified::default();
    let lines = backend.check().await?;
    let mut check = Check {
        backend,
        is_broken: !lines.is_empty(),
        tell,
        done: &mut done,
    };
    for line in lines {
        check.damage("engine", line);
    }
    match check.all().await {
        Err(error) if check.is_broken => {
            check.damage("store", format!("the check ends here: {error}"));
        }
        other => other?,
    }
    Ok(done)
}

fn found(noun: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        noun,
        detail: detail.into(),
        ..Finding::default()
    }
}

struct Check<'a> {
    backend: &'a dyn Backend,
    /// The engine itself says so: what cannot be read is one more finding.
    is_broken: bool,
    tell: &'a mut (dyn FnMut(Finding) + Send),
    done: &'a mut Verified,
}

/// One queue as its rows say.
struct Queue<'a> {
    name: Option<(String, String)>,
    head: Option<&'a HeadRow>,
    /// By first seq.
    segments: &'a [SegmentHeader],
    /// By seq.
    waiting: &'a [WaitingHeader],
}

impl Check<'_> {
    async fn all(&mut self) -> Result<(), BackendError> {
        let image = self.backend.image().await?;
        self.definitions(&image);
        self.rows_of_none(&image);
        self.queues(&image).await?;
        self.jobs().await?;
        self.results().await?;
        let names = Names::of(&image);
        for row in self.backend.damaged_segments().await? {
            let detail = "was set aside as damaged; what was whole in it went on";
            self.note(Finding {
                segment: Some(row.id),
                seqs: Some((row.first_seq, row.last_seq)),
                queue: names.get(row.queue),
                ..found("segment", detail)
            });
        }
        Ok(())
    }

    fn damage(&mut self, noun: &'static str, detail: impl Into<String>) {
        self.damaged(found(noun, detail));
    }

    fn damaged(&mut self, finding: Finding) {
        self.done.damage += 1;
        (self.tell)(Finding {
            damage: true,
            ..finding
        });
    }

    fn note(&mut self, finding: Finding) {
        self.done.notes += 1;
        (self.tell)(finding);
    }

    fn definitions(&mut self, image: &Image) {
        if super::copy::is_incomplete(image) {
            self.damage("store", super::copy::INCOMPLETE);
        }
        let vhosts: HashSet<&str> = image.vhosts.iter().map(|row| &*row.name).collect();
        for row in &image.queues {
            let finding = |detail: &str| Finding {
                queue: Some((row.vhost.to_string(), row.name.to_string())),
                ..found("queue", detail)
            };
            if !vhosts.contains(&*row.vhost) {
                self.damaged(finding("its vhost is not there"));
            }
            if Table::parse(&row.arguments).is_err() {
                self.damaged(finding("its arguments cannot be read"));
            }
            if row.id.0 > image.last_queue_id {
                self.damaged(finding("its number is above the highest ever given"));
            }
        }
        for row in &image.exchanges {
            let (vhost, name) = (&row.vhost, &row.name);
            if !vhosts.contains(&**vhost) {
                let detail = format!("'{name}' in vhost '{vhost}': the vhost is not there");
                self.damage("exchange", detail);
            }
            if Table::parse(&row.arguments).is_err() {
                let detail = format!("'{name}' in vhost '{vhost}': its arguments cannot be read");
                self.damage("exchange", detail);
            }
        }
        let queues = image.queues.iter().map(|row| (&*row.vhost, &*row.name));
        let queues: HashSet<_> = queues.collect();
        for row in &image.bindings {
            let is_gone = row.destination_kind == DestinationKind::Queue
                && !queues.contains(&(&*row.vhost, &*row.destination));
            if is_gone {
                let (from, to) = (&row.source, &row.destination);
                let detail = format!("from '{from}' to queue '{to}', which is not there");
                self.note(found("binding", detail));
            }
        }
    }

    /// Rows that belong to no queue, or to no segment: the next start removes them.
    fn rows_of_none(&mut self, image: &Image) {
        let queues: HashSet<_> = image.queues.iter().map(|row| row.id).collect();
        let segments: HashSet<_> = image.segments.iter().map(|row| row.id).collect();
        let of_none =
            |ids: &mut dyn Iterator<Item = QueueId>| ids.filter(|id| !queues.contains(id)).count();
        let without = |ids: &mut dyn Iterator<Item = SegmentId>| {
            ids.filter(|id| !segments.contains(id)).count()
        };
        let transient = image.segments.iter().filter(|row| row.transient);
        for (count, what) in [
            (
                of_none(&mut image.heads.iter().map(|row| row.queue)),
                "heads of queues that are gone",
            ),
            (
                of_none(&mut image.segments.iter().map(|row| row.queue)),
                "segments of queues that are gone",
            ),
            (
                of_none(&mut image.waiting.iter().map(|row| row.queue)),
                "waiting rows of queues that are gone",
            ),
            (
                of_none(&mut image.deduplication.iter().map(|row| row.queue)),
                "keys of queues that are gone",
            ),
            (
                without(&mut image.settled.iter().map(|(id, _)| *id)),
                "settled rows of segments that are gone",
            ),
            (
                without(&mut image.retained.iter().map(|row| row.segment)),
                "retained rows of segments that are gone",
            ),
            (transient.count(), "transient segments"),
        ] {
            if count > 0 {
                self.note(found("leftover", format!("{count} {what}")));
            }
        }
    }

    async fn queues(&mut self, image: &Image) -> Result<(), BackendError> {
        let names = Names::of(image);
        let heads: HashMap<_, _> = image.heads.iter().map(|row| (row.queue, row)).collect();
        let settled = image.settled.iter();
        let settled: HashMap<_, _> = settled.map(|(id, bits)| (*id, &bits[..])).collect();
        let retained: HashSet<_> = image.retained.iter().map(|row| row.segment).collect();
        let mut segments: HashMap<QueueId, &[SegmentHeader]> = HashMap::new();
        for rows in image.segments.chunk_by(|a, b| a.queue == b.queue) {
            segments.insert(rows[0].queue, rows);
        }
        let mut waiting: HashMap<QueueId, &[WaitingHeader]> = HashMap::new();
        for rows in image.waiting.chunk_by(|a, b| a.queue == b.queue) {
            waiting.insert(rows[0].queue, rows);
        }
        for spec in &image.queues {
            self.done.queues += 1;
            let queue = Queue {
                name: names.get(spec.id),
                head: heads.get(&spec.id).copied(),
                segments: segments.get(&spec.id).copied().unwrap_or_default(),
                waiting: waiting.get(&spec.id).copied().unwrap_or_default(),
            };
            self.places(&queue, &retained);
            for row in queue.segments.iter().filter(|row| !row.transient) {
                if row.id.0 > image.last_segment_id {
                    let detail = "its number is above the highest ever given";
                    self.damaged(at(&queue, row, detail));
                }
                let live = !retained.contains(&row.id);
                let bits = settled.get(&row.id).copied();
                self.segment(&queue, row, bits, live).await?;
            }
            self.waiting(&queue, spec.id).await?;
        }
        Ok(())
    }

    /// What headers tell: the head, and that no seq is in two segments.
    fn places(&mut self, queue: &Queue<'_>, retained: &HashSet<SegmentId>) {
        if let Some(row) = queue.head
            && (row.head > row.next || row.handed > row.next)
        {
            let detail = format!(
                "its head ({}, handed {}) is past its end ({})",
                row.head, row.handed, row.next
            );
            self.damaged(Finding {
                queue: queue.name.clone(),
                ..found("queue", detail)
            });
        }
        let live = queue.segments.iter();
        let mut before: Option<&SegmentHeader> = None;
        for row in live.filter(|row| !row.transient && !retained.contains(&row.id)) {
            if let Some(other) = before.filter(|other| other.last_seq >= row.first_seq) {
                let id = other.id.0;
                let detail = format!("holds seqs that segment {id} holds, too");
                self.damaged(at(queue, row, &detail));
            }
            before = Some(row);
        }
    }

    async fn segment(
        &mut self,
        queue: &Queue<'_>,
        row: &SegmentHeader,
        bits: Option<&[u8]>,
        live: bool,
    ) -> Result<(), BackendError> {
        self.done.segments += 1;
        let body = match self.backend.read_segment(row.id).await {
            Err(error) if self.is_broken => {
                self.damaged(at(queue, row, &format!("cannot be read: {error}")));
                return Ok(());
            }
            read => read?,
        };
        let Some(body) = body else {
            self.damaged(at(queue, row, "its content is not there"));
            return Ok(());
        };
        let Some(contents) = inspect(&body.index, &body.data, row.first_seq) else {
            self.damaged(at(queue, row, "its index cannot be read"));
            return Ok(());
        };
        self.done.messages += contents.seqs.len() as u64;
        for run in runs(&contents.damaged) {
            self.damaged(Finding {
                seqs: Some(run),
                ..at(queue, row, "does not read back as written")
            });
        }
        for detail in contradictions(row, &contents, body.data.len() as u64) {
            self.damaged(at(queue, row, &detail));
        }
        // Bits may go on behind the last message: what came after it was settled before it was
        // stored.
        if live {
            self.both(queue, row, bits, &contents);
        }
        Ok(())
    }

    /// A message that waits in a row is settled in its segment (I1).
    fn both(
        &mut self,
        queue: &Queue<'_>,
        row: &SegmentHeader,
        bits: Option<&[u8]>,
        contents: &Contents,
    ) {
        let rows = queue.waiting;
        let from = rows.partition_point(|waiting| waiting.seq < row.first_seq);
        let to = rows.partition_point(|waiting| waiting.seq <= row.last_seq);
        let head = queue.head.map_or(0, |head| head.head);
        let messages = rows.get(from..to).unwrap_or_default().iter();
        for waiting in messages.filter(|waiting| waiting.due_at != WaitingRow::COUNT_ONLY) {
            let seq = waiting.seq;
            let is_live = seq >= head
                && !is_set(bits, seq - row.first_seq)
                && contents.seqs.binary_search(&seq).is_ok();
            if is_live {
                self.damaged(Finding {
                    seqs: Some((seq, seq)),
                    ..at(queue, row, "is ready here, and waits in a row of its own")
                });
            }
        }
    }

    async fn waiting(&mut self, queue: &Queue<'_>, id: QueueId) -> Result<(), BackendError> {
        for rows in queue.waiting.chunks(ROWS_TOGETHER) {
            let seqs: Vec<_> = rows.iter().map(|row| row.seq).collect();
            let whole = self.backend.read_waiting(id, seqs).await?;
            let whole: HashMap<_, _> = whole.into_iter().map(|row| (row.seq, row)).collect();
            for header in rows {
                self.done.waiting += 1;
                let Some(detail) = waiting_fault(header, whole.get(&header.seq)) else {
                    self.done.messages += u64::from(header.due_at != WaitingRow::COUNT_ONLY);
                    continue;
                };
                self.damaged(Finding {
                    queue: queue.name.clone(),
                    seqs: Some((header.seq, header.seq)),
                    ..found("waiting", detail)
                });
            }
        }
        Ok(())
    }

    async fn jobs(&mut self) -> Result<(), BackendError> {
        let mut filter = JobFilter {
            limit: PAGE,
            ..JobFilter::default()
        };
        loop {
            let jobs = self.backend.jobs(filter.clone()).await?;
            let Some(last) = jobs.last() else {
                return Ok(());
            };
            filter.before = Some(last.id);
            for job in &jobs {
                self.done.jobs += 1;
                let Some(meta) = &job.result else {
                    continue;
                };
                let detail = match self.backend.job_result(job.id).await? {
                    None => "says it has a result, which is not there".to_owned(),
                    Some(result) if result.body.len() as u64 != meta.bytes => format!(
                        "says its result has {} bytes; it has {}",
                        meta.bytes,
                        result.body.len()
                    ),
                    Some(_) if !job.state.is_final() => {
                        format!("has a result, and is {}", job.state.as_str())
                    }
                    Some(_) => {
                        self.done.results += 1;
                        continue;
                    }
                };
                self.damaged(Finding {
                    job: Some(job.id),
                    ..found("job", detail)
                });
            }
        }
    }

    /// Results that no job knows of.
    async fn results(&mut self) -> Result<(), BackendError> {
        let mut after = Cursor::FIRST_RESULT;
        loop {
            let rows = self.backend.export(after, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.cursor();
            for row in &rows {
                let Exported::Result(id, _) = row else {
                    continue;
                };
                let job = self.backend.job(*id).await?;
                if job.is_none_or(|job| job.result.is_none()) {
                    self.damaged(Finding {
                        job: Some(*id),
                        ..found("result", "belongs to no job that says it has one")
                    });
                }
            }
        }
    }
}

fn at(queue: &Queue<'_>, row: &SegmentHeader, detail: &str) -> Finding {
    Finding {
        queue: queue.name.clone(),
        segment: Some(row.id),
        seqs: Some((row.first_seq, row.last_seq)),
        ..found("segment", detail)
    }
}

/// Where the header says other than the content.
fn contradictions(row: &SegmentHeader, contents: &Contents, data: u64) -> Vec<String> {
    let mut out = Vec::new();
    let count = contents.seqs.len();
    if count as u64 != u64::from(row.count) {
        out.push(format!(
            "says it has {} messages; it has {count}",
            row.count
        ));
    }
    // A waiting row that was kept as a segment counts its blob.
    let kept = count == 1 && row.bytes == data;
    if contents.body_bytes != row.bytes && !kept {
        let (said, are) = (row.bytes, contents.body_bytes);
        out.push(format!("says it has {said} bytes; they are {are}"));
    }
    if contents.data_bytes != data {
        let said = contents.data_bytes;
        out.push(format!("its messages take {said} bytes of {data}"));
    }
    if !contents.seqs.is_sorted_by(|a, b| a < b) {
        out.push("its seqs do not rise".into());
    }
    let within = |seq: &Seq| (row.first_seq..=row.last_seq).contains(seq);
    if !contents.seqs.iter().all(within) {
        out.push("has a seq outside its range".into());
    }
    out
}

/// What is wrong with a waiting row; `None` when it is whole.
fn waiting_fault(header: &WaitingHeader, row: Option<&WaitingRow>) -> Option<String> {
    let Some(row) = row else {
        return Some("its content is not there".into());
    };
    if header.due_at == WaitingRow::COUNT_ONLY {
        let empty = row.index.is_empty() && row.data.is_empty();
        return (!empty).then(|| "only counts attempts, and has content".into());
    }
    match inspect(&row.index, &row.data, row.seq) {
        None => Some("its index cannot be read".into()),
        Some(contents) if contents.seqs.len() != 1 => {
            Some(format!("holds {} messages", contents.seqs.len()))
        }
        Some(contents) if !contents.damaged.is_empty() => {
            Some("does not read back as written".into())
        }
        Some(contents) if contents.data_bytes != row.data.len() as u64 => {
            Some("is longer than its message".into())
        }
        Some(_) => None,
    }
}

/// Seqs side by side as (first, last).
fn runs(seqs: &[Seq]) -> Vec<(Seq, Seq)> {
    let side_by_side = |a: &Seq, b: &Seq| a.checked_add(1) == Some(*b);
    let runs = seqs.chunk_by(side_by_side);
    runs.filter_map(|run| Some((*run.first()?, *run.last()?)))
        .collect()
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
