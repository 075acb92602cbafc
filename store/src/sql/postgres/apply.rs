//! One batch as the statements of one transaction.
//!
//! Keeps: the order that `Backend::commit` promises. A fence that holds (a tick fired twice, a key
//! claimed twice) is an error of its statement, so that nothing of the batch is stored.
//! Never: sends anything, or changes what is known of the store: `Effects` say what will hold once
//! it is stored.
//! In: `writer`.

use super::access::{self, texts};
use super::journal::Line;
use super::session::Step;
use super::slots::{Place, Slots};
use super::statement::{self, Text};
use super::value::{Value, Words, bits};
use crate::log::batch::*;
use crate::model::*;
use crate::sql::Import;

/// Content bytes in one statement, so that no value comes near the server's 1 GiB.
const TOGETHER: usize = 16 << 20;

/// What will hold once a batch is stored. `at` is a statement's place in the transaction, whose
/// answer says how many rows it touched.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) put: Vec<(SegmentId, Place)>,
    pub(super) waiting: Vec<(QueueId, Seq, u64)>,
    /// Deletes of waiting rows: at, and from which slot.
    pub(super) unwaiting: Vec<(usize, usize)>,
    /// Waiting rows that became segments: at, and which.
    pub(super) kept: Vec<(usize, SegmentId, Place)>,
    /// Jobs that were to finish.
    pub(super) finishes: Vec<(usize, JobId)>,
    pub(super) gone_queues: Vec<QueueId>,
}

/// What the batch does, but for its line in the journal.
pub(super) fn batch<'a>(batch: &'a Batch, slots: &Slots, steps: &mut Vec<Step<'a>>) -> Effects {
    let mut effects = Effects::default();
    let slot = slots.current();
    for change in &batch.definitions {
        define(change, steps, &mut effects);
    }
    for id in &batch.damaged {
        if let Some(place) = slots.place(*id) {
            let text = Text::of_slot(statement::DAMAGED_SEGMENT_KEEP, place.slot);
            steps.push(Step::new(text, vec![Box::new(bits(id.0))]));
        }
    }
    insert_segments(&batch.segments, slot, steps, &mut effects);
    keep_waiting(batch, slot, steps, &mut effects);
    put_waiting(batch, slots, steps, &mut effects);
    retain(batch, steps);
    put_keys(batch, steps);
    change_jobs(batch, steps, &mut effects);
    for name in &batch.dropped_schedules {
        steps.push(texts(statement::SCHEDULE_DELETE, [name]));
    }
    for row in &batch.schedules {
        let values: Vec<Value<'_>> = vec![
            Box::new(Words(&row.name)),
            Box::new(bits(row.spec_hash)),
            Box::new(row.last_nominal_at),
        ];
        steps.push(Step::new(statement::SCHEDULE_PUT, values));
    }
    for id in &batch.dropped_redrives {
        steps.push(texts(statement::REDRIVE_DELETE, [id]));
    }
    steps.extend(batch.redrives.iter().map(put_redrive));
    for fire in &batch.fires {
        let values: Vec<Value<'_>> = vec![
            Box::new(Words(&fire.schedule)),
            Box::new(fire.nominal_at),
            Box::new(fire.fired_at),
        ];
        steps.push(Step::new(statement::FIRE_INSERT, values));
    }
    effects
}

/// Rows of a copy, as they are.
pub(super) fn import<'a>(rows: &'a Import, steps: &mut Vec<Step<'a>>) {
    let jobs: Vec<&Job> = rows.jobs.iter().map(|(job, _)| job).collect();
    if !jobs.is_empty() {
        steps.push(insert_jobs(&jobs));
    }
    for (job, result) in &rows.jobs {
        let Some(result) = result else { continue };
        let values: Vec<Value<'_>> = vec![
            Box::new(&job.id.0[..]),
            Box::new(result.content_type.as_deref().map(Words)),
            Box::new(result.content_encoding.as_deref().map(Words)),
            Box::new(&*result.body),
        ];
        steps.push(Step::new(statement::JOB_RESULT_INSERT, values));
    }
    for row in &rows.damaged {
        let values: Vec<Value<'_>> = vec![
            Box::new(bits(row.id.0)),
            Box::new(bits(row.queue.0)),
            Box::new(bits(row.first_seq)),
            Box::new(bits(row.last_seq)),
            Box::new(i64::from(row.count)),
            Box::new(bits(row.bytes)),
            Box::new(row.transient),
            Box::new(row.first_at),
            Box::new(row.last_at),
            Box::new(&*row.index),
            Box::new(&*row.data),
        ];
        steps.push(Step::new(statement::DAMAGED_SEGMENT_INSERT, values));
    }
}

/// The batch's line in the journal, but for its place there.
pub(super) fn line(batch: &Batch, effects: &Effects) -> Line {
    let queues = batch.definitions.iter().filter_map(|change| match change {
        DefinitionChange::PutQueue(queue) => Some(queue.id.0),
        DefinitionChange::DeleteQueue(id) => Some(id.0),
        _ => None,
    });
    let put = effects.put.iter().map(|(id, _)| id.0);
    let kept = effects.kept.iter().map(|(_, id, _)| id.0);
    let dropped = batch.dropped_segments.iter().chain(&batch.dropped_retained);
    let last_segment = put.chain(kept).chain(dropped.clone().map(|id| id.0)).max();
    Line {
        number: batch.number,
        last_queue: queues.max().unwrap_or(0),
        last_segment: last_segment.unwrap_or(0),
        heads: batch.heads.clone(),
        dropped_queues: effects.gone_queues.clone(),
        dropped_segments: dropped.copied().collect(),
        unsettled: batch.retained.iter().map(|row| row.segment).collect(),
        settled: batch.settled.clone(),
        ..Line::default()
    }
}

fn define<'a>(change: &'a DefinitionChange, steps: &mut Vec<Step<'a>>, effects: &mut Effects) {
    match change {
        DefinitionChange::Access(change) => access::define(change, steps),
        DefinitionChange::PutExchange(exchange) => {
            let values: Vec<Value<'_>> = vec![
                Box::new(Words(&exchange.vhost)),
                Box::new(Words(&exchange.name)),
                Box::new(Words(&exchange.kind)),
                Box::new(exchange.durable),
                Box::new(exchange.auto_delete),
                Box::new(exchange.internal),
                Box::new(&*exchange.arguments),
            ];
            steps.push(Step::new(statement::EXCHANGE_PUT, values));
        }
        DefinitionChange::DeleteExchange { vhost, name } => {
            steps.push(texts(statement::EXCHANGE_DELETE, [vhost, name]));
        }
        DefinitionChange::PutQueue(queue) => steps.push(put_queue(queue)),
        DefinitionChange::DeleteQueue(id) => {
            // Segments and waiting rows may be gigabytes: they are out of sight without their
            // queue, and `maintain` deletes them in steps.
            steps.push(Step::new(
                statement::QUEUE_DELETE,
                vec![Box::new(bits(id.0))],
            ));
            effects.gone_queues.push(*id);
        }
        DefinitionChange::PutBinding(row) => steps.push(binding(statement::BINDING_PUT, row)),
        DefinitionChange::DeleteBinding(row) => {
            steps.push(binding(statement::BINDING_DELETE, row));
        }
    }
}

fn put_queue(queue: &QueueSpec) -> Step<'_> {
    let values: Vec<Value<'_>> = vec![
        Box::new(bits(queue.id.0)),
        Box::new(Words(&queue.vhost)),
        Box::new(Words(&queue.name)),
        Box::new(queue.durable),
        Box::new(queue.exclusive),
        Box::new(queue.auto_delete),
        Box::new(queue.work),
        Box::new(&*queue.arguments),
        Box::new(queue.paused),
    ];
    Step::new(statement::QUEUE_PUT, values)
}

fn binding<'a>(sql: &'static str, row: &'a BindingSpec) -> Step<'a> {
    let values: Vec<Value<'_>> = vec![
        Box::new(Words(&row.vhost)),
        Box::new(Words(&row.source)),
        Box::new(row.destination_kind.as_str()),
        Box::new(Words(&row.destination)),
        Box::new(&*row.routing_key),
        Box::new(&*row.arguments),
    ];
    Step::new(sql, values)
}

/// Rows side by side, so many that their contents are not too much together.
fn pieces<T>(mut rows: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut out = Vec::new();
    while !rows.is_empty() {
        let mut sum = 0;
        let fits = |row: &&T| {
            let first = sum == 0;
            sum += bytes(row).max(1);
            first || sum <= TOGETHER
        };
        let count = rows.iter().take_while(fits).count();
        let (piece, rest) = rows.split_at(count);
        out.push(piece);
        rows = rest;
    }
    out
}

fn insert_segments<'a>(
    rows: &'a [SegmentRow],
    slot: usize,
    steps: &mut Vec<Step<'a>>,
    effects: &mut Effects,
) {
    let bytes = |row: &SegmentRow| row.index.len() + row.data.len();
    for piece in pieces(rows, bytes) {
        let list = |value: fn(&SegmentRow) -> i64| -> Value<'a> {
            Box::new(piece.iter().map(value).collect::<Vec<i64>>())
        };
        let values: Vec<Value<'a>> = vec![
            list(|row| bits(row.id.0)),
            list(|row| bits(row.queue.0)),
            list(|row| bits(row.first_seq)),
            list(|row| bits(row.last_seq)),
            list(|row| i64::from(row.count)),
            list(|row| bits(row.bytes)),
            Box::new(piece.iter().map(|row| row.transient).collect::<Vec<bool>>()),
            list(|row| row.first_at),
            list(|row| row.last_at),
            Box::new(piece.iter().map(|row| &*row.index).collect::<Vec<&[u8]>>()),
            Box::new(piece.iter().map(|row| &*row.data).collect::<Vec<&[u8]>>()),
        ];
        steps.push(Step::new(
            Text::of_slot(statement::SEGMENT_INSERT, slot),
            values,
        ));
    }
    effects.put.extend(rows.iter().map(|row| {
        let place = Place {
            queue: row.queue,
            slot,
            bytes: bytes(row) as u64,
        };
        (row.id, place)
    }));
}

/// What becomes of waiting messages that are settled and kept.
fn keep_waiting(batch: &Batch, slot: usize, steps: &mut Vec<Step<'_>>, effects: &mut Effects) {
    for row in &batch.kept_waiting {
        let place = Place {
            queue: row.queue,
            slot,
            bytes: super::slots::WAITING_BYTES,
        };
        effects.kept.push((steps.len(), row.segment, place));
        let values: Vec<Value<'_>> = vec![
            Box::new(bits(row.segment.0)),
            Box::new(row.settled_at),
            Box::new(bits(row.queue.0)),
            Box::new(bits(row.seq)),
        ];
        steps.push(Step::new(
            Text::of_slot(statement::SEGMENT_KEEP_WAITING, slot),
            values,
        ));
    }
}

/// Rows that go, and those that others replace, leave each slot where they may stand; then come the
/// others.
fn put_waiting<'a>(
    batch: &'a Batch,
    slots: &Slots,
    steps: &mut Vec<Step<'a>>,
    effects: &mut Effects,
) {
    let kept = batch.kept_waiting.iter().map(|row| (row.queue, row.seq));
    let gone = kept.chain(batch.dropped_waiting.iter().copied());
    let put = batch.waiting.iter().map(|row| (row.queue, row.seq));
    let gone: Vec<(QueueId, Seq)> = gone
        .chain(put)
        .filter(|(queue, seq)| slots.may_wait(*queue, *seq))
        .collect();
    if !gone.is_empty() {
        for slot in slots.with_waiting() {
            effects.unwaiting.push((steps.len(), slot));
            let values: Vec<Value<'a>> = vec![
                Box::new(
                    gone.iter()
                        .map(|(queue, _)| bits(queue.0))
                        .collect::<Vec<i64>>(),
                ),
                Box::new(gone.iter().map(|(_, seq)| bits(*seq)).collect::<Vec<i64>>()),
            ];
            steps.push(Step::new(
                Text::of_slot(statement::WAITING_DELETE, slot),
                values,
            ));
        }
    }
    let bytes = |row: &WaitingRow| row.index.len() + row.data.len();
    for piece in pieces(&batch.waiting, bytes) {
        let list = |value: fn(&WaitingRow) -> i64| -> Value<'a> {
            Box::new(piece.iter().map(value).collect::<Vec<i64>>())
        };
        let values: Vec<Value<'a>> = vec![
            list(|row| bits(row.queue.0)),
            list(|row| bits(row.seq)),
            list(|row| row.due_at),
            list(|row| i64::from(row.attempt)),
            list(|row| row.accepted_at),
            Box::new(piece.iter().map(|row| &*row.index).collect::<Vec<&[u8]>>()),
            Box::new(piece.iter().map(|row| &*row.data).collect::<Vec<&[u8]>>()),
        ];
        let text = Text::of_slot(statement::WAITING_INSERT, slots.current());
        steps.push(Step::new(text, values));
    }
    let rows = batch.waiting.iter();
    effects
        .waiting
        .extend(rows.map(|row| (row.queue, row.seq, bytes(row) as u64)));
}

fn retain<'a>(batch: &'a Batch, steps: &mut Vec<Step<'a>>) {
    if !batch.retained.is_empty() {
        let list = |value: fn(&RetainedRow) -> i64| -> Value<'a> {
            Box::new(batch.retained.iter().map(value).collect::<Vec<i64>>())
        };
        let values = vec![
            list(|row| bits(row.segment.0)),
            list(|row| bits(row.queue.0)),
            list(|row| row.settled_at),
        ];
        steps.push(Step::new(statement::RETAINED_PUT, values));
    }
    if !batch.dropped_retained.is_empty() {
        let ids = batch.dropped_retained.iter().map(|id| bits(id.0));
        let values: Vec<Value<'a>> = vec![Box::new(ids.collect::<Vec<i64>>())];
        steps.push(Step::new(statement::RETAINED_DELETE, values));
    }
}

fn put_keys<'a>(batch: &'a Batch, steps: &mut Vec<Step<'a>>) {
    for (queue, until) in &batch.dropped_deduplication {
        let values: Vec<Value<'_>> = vec![Box::new(bits(queue.0)), Box::new(*until)];
        steps.push(Step::new(statement::DEDUPLICATION_DROP, values));
    }
    for piece in pieces(&batch.deduplication, |row| row.entries.len()) {
        let rows = || piece.iter();
        let values: Vec<Value<'a>> = vec![
            Box::new(rows().map(|row| bits(row.queue.0)).collect::<Vec<i64>>()),
            Box::new(rows().map(|row| row.newest_ms).collect::<Vec<i64>>()),
            Box::new(rows().map(|row| &*row.entries).collect::<Vec<&[u8]>>()),
        ];
        steps.push(Step::new(statement::DEDUPLICATION_INSERT, values));
    }
}

fn put_redrive(row: &RedriveRow) -> Step<'_> {
    let values: Vec<Value<'_>> = vec![
        Box::new(Words(&row.id)),
        Box::new(bits(row.queue.0)),
        Box::new(Words(&row.vhost)),
        Box::new(Words(&row.source)),
        Box::new(row.target.as_deref().map(Words)),
        Box::new(&*row.filter),
        Box::new(row.rate),
        Box::new(bits(row.until)),
        Box::new(bits(row.next)),
        Box::new(bits(row.moved)),
        Box::new(bits(row.skipped)),
        Box::new(row.state.as_str()),
        Box::new(Words(&row.detail)),
        Box::new(row.created_at),
        Box::new(row.ended_at),
        Box::new(row.kind.as_str()),
    ];
    Step::new(statement::REDRIVE_PUT, values)
}

fn change_jobs<'a>(batch: &'a Batch, steps: &mut Vec<Step<'a>>, effects: &mut Effects) {
    let mut left = &*batch.jobs;
    while let Some(change) = left.first() {
        let submitted: Vec<(&Job, Option<&KeyClaim>)> = left
            .iter()
            .map_while(|change| match change {
                JobChange::Submit { job, key } => Some((&**job, key.as_ref())),
                _ => None,
            })
            .collect();
        if !submitted.is_empty() {
            left = &left[submitted.len()..];
            let jobs: Vec<&Job> = submitted.iter().map(|(job, _)| *job).collect();
            steps.push(insert_jobs(&jobs));
            for (job, key) in submitted {
                steps.extend(key.map(|key| claim(key, job.created_at)));
            }
            continue;
        }
        if let JobChange::Finish { id, .. } = change {
            effects.finishes.push((steps.len(), *id));
        }
        steps.extend(change_job(change));
        left = &left[1..];
    }
}

/// An error when the claim before has not ended.
fn claim(key: &KeyClaim, at: Micros) -> Step<'_> {
    let values: Vec<Value<'_>> = vec![
        Box::new(Words(&key.scope)),
        Box::new(&key.job.0[..]),
        Box::new(at),
        Box::new(key.expires_at),
        Box::new(&key.fingerprint[..]),
    ];
    Step::new(statement::JOB_KEY_CLAIM, values)
}

fn insert_jobs<'a>(jobs: &[&'a Job]) -> Step<'a> {
    let list = |value: fn(&Job) -> i64| -> Value<'a> {
        Box::new(jobs.iter().map(|job| value(job)).collect::<Vec<i64>>())
    };
    let some = |value: fn(&Job) -> Option<i64>| -> Value<'a> {
        Box::new(
            jobs.iter()
                .map(|job| value(job))
                .collect::<Vec<Option<i64>>>(),
        )
    };
    let texts = |value: fn(&'a Job) -> &'a str| -> Value<'a> {
        let words = jobs.iter().map(|job| Words(value(job)));
        Box::new(words.collect::<Vec<Words<'a>>>())
    };
    let some_texts = |value: fn(&'a Job) -> Option<&'a String>| -> Value<'a> {
        let words = jobs.iter().map(|job| value(job).map(|text| Words(text)));
        Box::new(words.collect::<Vec<Option<Words<'a>>>>())
    };
    let values = vec![
        Box::new(jobs.iter().map(|job| &job.id.0[..]).collect::<Vec<&[u8]>>()) as Value<'a>,
        texts(|job| &job.vhost),
        texts(|job| &job.target),
        texts(|job| &job.principal),
        texts(|job| job.state.as_str()),
        list(|job| i64::from(job.attempt)),
        list(|job| i64::from(job.max_attempts)),
        list(|job| job.created_at),
        some(|job| job.started_at),
        some(|job| job.completed_at),
        some(|job| job.next_attempt_at),
        list(|job| job.deadline_at),
        some(|job| job.expires_at),
        list(|job| job.result_ttl_ms),
        some_texts(|job| job.idempotency_key.as_ref()),
        some_texts(|job| job.error.as_ref().map(|error| &error.code)),
        some_texts(|job| job.error.as_ref().map(|error| &error.detail)),
        some_texts(|job| job.result.as_ref()?.content_type.as_ref()),
        some_texts(|job| job.result.as_ref()?.content_encoding.as_ref()),
        some(|job| job.result.as_ref().map(|result| bits(result.bytes))),
    ];
    Step::new(statement::JOB_INSERT, values)
}

fn change_job(change: &JobChange) -> Option<Step<'_>> {
    Some(match change {
        JobChange::Submit { .. } => return None,
        JobChange::Claim { key, at } => claim(key, *at),
        JobChange::Started { id, attempt, at } => Step::new(
            statement::JOB_START,
            vec![
                Box::new(&id.0[..]),
                Box::new(i64::from(*attempt)),
                Box::new(*at),
            ],
        ),
        JobChange::Retrying {
            id,
            next_attempt_at,
            error,
        } => Step::new(
            statement::JOB_RETRY,
            vec![
                Box::new(&id.0[..]),
                Box::new(*next_attempt_at),
                Box::new(Words(&error.code)),
                Box::new(Words(&error.detail)),
            ],
        ),
        JobChange::Finish {
            id,
            state,
            at,
            error,
            result,
        } => {
            let error = error.as_ref();
            let result = result.as_ref();
            Step::new(
                statement::JOB_FINISH,
                vec![
                    Box::new(&id.0[..]),
                    Box::new(state.as_str()),
                    Box::new(*at),
                    Box::new(error.map(|error| Words(&error.code))),
                    Box::new(error.map(|error| Words(&error.detail))),
                    Box::new(result.and_then(|it| it.content_type.as_deref()).map(Words)),
                    Box::new(
                        result
                            .and_then(|it| it.content_encoding.as_deref())
                            .map(Words),
                    ),
                    Box::new(result.map(|result| &*result.body)),
                ],
            )
        }
    })
}
