//! What a commit changes beside segments and rows, as one line; and what all lines together say.
//! Pure.
//!
//! Keeps: `State` after some lines is what a start would find in them.
//! Never: talks to the server.
//! In: `apply` makes lines, `writer` takes them into the state once they are stored, `reader` at a
//! start.

use std::collections::{HashMap, HashSet};

use super::session::Step;
use super::statement::{self, Text};
use super::value::{Decoded, bits, number, numbers};
use crate::log::batch::{HeadRow, SettledRow};
use crate::model::*;

/// One line of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    /// Rises by one with every line of the store, whoever writes it.
    pub(super) position: u64,
    pub(super) epoch: i64,
    pub(super) number: u64,
    /// Where segments went from this line on.
    pub(super) slot: usize,
    /// Nothing of the lines before counts.
    pub(super) whole: bool,
    pub(super) last_queue: u64,
    pub(super) last_segment: u64,
    pub(super) heads: Vec<HeadRow>,
    /// Queues that have no head any more.
    pub(super) dropped_queues: Vec<QueueId>,
    pub(super) dropped_segments: Vec<SegmentId>,
    /// Of a whole line: ids of segments that are there, from and to, rising.
    pub(super) live: Vec<(u64, u64)>,
    /// Segments that have no settled bits any more.
    pub(super) unsettled: Vec<SegmentId>,
    pub(super) settled: Vec<SettledRow>,
}

impl Line {
    /// About what it takes on disk, bytes.
    pub(super) fn bytes(&self) -> u64 {
        let bits: usize = self.settled.iter().map(|row| 24 + row.bits.len()).sum();
        let numbers = self.heads.len() * 4
            + self.dropped_queues.len()
            + self.dropped_segments.len()
            + self.live.len() * 2
            + self.unsettled.len();
        400 + (numbers * 12 + bits) as u64
    }

    /// Writes it into a journal.
    pub(super) fn step<'a>(&self, journal: usize) -> Step<'a> {
        let heads = || self.heads.iter();
        let segments =
            |ids: &[SegmentId]| -> Vec<i64> { ids.iter().map(|id| bits(id.0)).collect() };
        let list =
            |values: &mut dyn Iterator<Item = u64>| -> Vec<i64> { values.map(bits).collect() };
        let settled = || self.settled.iter();
        let blobs: Vec<Vec<u8>> = settled().map(|row| row.bits.clone()).collect();
        Step::new(
            Text::of_slot(statement::JOURNAL_INSERT, journal),
            vec![
                Box::new(bits(self.position)),
                Box::new(self.epoch),
                Box::new(bits(self.number)),
                Box::new(self.slot as i64),
                Box::new(self.whole),
                Box::new(bits(self.last_queue)),
                Box::new(bits(self.last_segment)),
                Box::new(list(&mut heads().map(|row| row.queue.0))),
                Box::new(list(&mut heads().map(|row| row.head))),
                Box::new(list(&mut heads().map(|row| row.handed))),
                Box::new(list(&mut heads().map(|row| row.next))),
                Box::new(list(&mut self.dropped_queues.iter().map(|id| id.0))),
                Box::new(segments(&self.dropped_segments)),
                Box::new(list(&mut self.live.iter().map(|(first, _)| *first))),
                Box::new(list(&mut self.live.iter().map(|(_, last)| *last))),
                Box::new(segments(&self.unsettled)),
                Box::new(list(&mut settled().map(|row| row.segment.0))),
                Box::new(list(&mut settled().map(|row| row.queue.0))),
                Box::new(blobs),
            ],
        )
    }

    pub(super) fn read(row: &tokio_postgres::Row) -> Decoded<Self> {
        let [queues, heads, handed, next] = [7, 8, 9, 10].map(|at| numbers(row, at));
        let (queues, heads, handed, next) = (queues?, heads?, handed?, next?);
        let rows = queues.iter().zip(&heads).zip(&handed).zip(&next);
        let heads = rows.map(|(((queue, head), handed), next)| HeadRow {
            queue: QueueId(*queue),
            head: *head,
            handed: *handed,
            next: *next,
        });
        let segments = |at| Ok(numbers(row, at)?.into_iter().map(SegmentId).collect());
        let bits: Vec<Vec<u8>> = row.try_get(18)?;
        let settled = numbers(row, 16)?
            .into_iter()
            .zip(numbers(row, 17)?)
            .zip(bits);
        Ok(Self {
            position: number(row, 0)?,
            epoch: row.try_get(1)?,
            number: number(row, 2)?,
            slot: number(row, 3)? as usize,
            whole: row.try_get(4)?,
            last_queue: number(row, 5)?,
            last_segment: number(row, 6)?,
            heads: heads.collect(),
            dropped_queues: numbers(row, 11)?.into_iter().map(QueueId).collect(),
            dropped_segments: segments(12)?,
            live: numbers(row, 13)?
                .into_iter()
                .zip(numbers(row, 14)?)
                .collect(),
            unsettled: segments(15)?,
            settled: settled
                .map(|((segment, queue), bits)| SettledRow {
                    segment: SegmentId(segment),
                    queue: QueueId(queue),
                    bits,
                })
                .collect(),
        })
    }
}

/// What the lines say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) position: u64,
    pub(super) slot: usize,
    pub(super) last_queue: u64,
    pub(super) last_segment: u64,
    pub(super) heads: HashMap<QueueId, HeadRow>,
    pub(super) settled: HashMap<SegmentId, SettledRow>,
    /// Only while lines are read at a start: what the whole line said is there, up to which id it
    /// knew, and what went since.
    live: Vec<(u64, u64)>,
    known_to: u64,
    dropped: HashSet<SegmentId>,
}

impl State {
    /// Takes a line in. `reading` at a start, when it must be known which segments went.
    pub(super) fn take(&mut self, line: &Line, reading: bool) {
        if line.whole {
            self.heads.clear();
            self.settled.clear();
            self.dropped.clear();
            if reading {
                self.live.clone_from(&line.live);
                self.known_to = line.last_segment;
            }
        }
        self.position = line.position;
        self.slot = line.slot;
        self.last_queue = self.last_queue.max(line.last_queue);
        self.last_segment = self.last_segment.max(line.last_segment);
        for queue in &line.dropped_queues {
            self.heads.remove(queue);
        }
        for row in &line.settled {
            self.settled.insert(row.segment, row.clone());
        }
        for id in line.unsettled.iter().chain(&line.dropped_segments) {
            self.settled.remove(id);
        }
        for row in &line.heads {
            self.heads.insert(row.queue, *row);
        }
        if reading {
            self.dropped.extend(&line.dropped_segments);
        }
    }

    /// True for a segment whose row is there and is not needed.
    pub(super) fn is_gone(&self, id: SegmentId) -> bool {
        let unknown = id.0 <= self.known_to && {
            let after = self.live.partition_point(|(first, _)| *first <= id.0);
            after == 0 || self.live[after - 1].1 < id.0
        };
        unknown || self.dropped.contains(&id)
    }

    /// Forgets what only a start asks for.
    pub(super) fn read_whole(&mut self) {
        (self.live, self.dropped) = (Vec::new(), HashSet::new());
        self.known_to = 0;
    }

    /// All of it as the first line of a journal. `segments`: all that are there.
    pub(super) fn whole(&self, segments: impl Iterator<Item = SegmentId>) -> Line {
        let mut heads: Vec<HeadRow> = self.heads.values().copied().collect();
        heads.sort_unstable_by_key(|row| row.queue);
        let mut settled: Vec<SettledRow> = self.settled.values().cloned().collect();
        settled.sort_unstable_by_key(|row| row.segment);
        Line {
            position: self.position + 1,
            slot: self.slot,
            whole: true,
            last_queue: self.last_queue,
            last_segment: self.last_segment,
            heads,
            settled,
            live: ranges(segments.map(|id| id.0).collect()),
            ..Line::default()
        }
    }

    /// About what a whole line takes, bytes.
    pub(super) fn bytes(&self, segments: usize) -> u64 {
        let bits: usize = self.settled.values().map(|row| 24 + row.bits.len()).sum();
        (self.heads.len() * 48 + bits + segments * 24) as u64
    }
}

/// Numbers that follow each other as one pair, first and last.
fn ranges(mut numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match out.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => out.push((number, number)),
        }
    }
    out
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
