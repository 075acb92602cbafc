//! How much is in a store.
//!
//! In: `leveret store status`.

use std::collections::{HashMap, HashSet};

use super::is_set;
use crate::log::batch::WaitingRow;
use crate::log::segment::inspect;
use crate::model::*;
use crate::sql::{Backend, BackendError, Image};

/// Rows and messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub vhosts: u64,
    pub queues: u64,
    /// Those that hold ready messages, and those that are retained.
    pub segments: u64,
    pub retained_segments: u64,
    /// Unsettled ones outside waiting rows, handed out or not.
    pub ready: u64,
    pub waiting: u64,
    pub retained: u64,
    /// Set aside because they were damaged.
    pub damaged_segments: u64,
    /// States that no job is in are left out.
    pub jobs: Vec<(JobState, u64)>,
    /// A copy to this store was interrupted.
    pub is_incomplete: bool,
}

impl Counts {
    /// Counts as a start would: bodies are read only of segments that are settled in part.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn of(backend: &dyn Backend) -> Result<Self, BackendError> {
        let image = backend.image().await?;
        let is_message = |row: &&crate::sql::WaitingHeader| row.due_at != WaitingRow::COUNT_ONLY;
        let mut counts = Self {
            vhosts: image.vhosts.len() as u64,
            queues: image.queues.len() as u64,
            waiting: image.waiting.iter().filter(is_message).count() as u64,
            damaged_segments: backend.damaged_segments().await?.len() as u64,
            jobs: backend.job_counts().await?,
            is_incomplete: super::copy::is_incomplete(&image),
            ..Self::default()
        };
        counts.count_segments(backend, &image).await?;
        Ok(counts)
    }

    async fn count_segments(
        &mut self,
        backend: &dyn Backend,
        image: &Image,
    ) -> Result<(), BackendError> {
        let queues: HashSet<_> = image.queues.iter().map(|row| row.id).collect();
        let retained: HashSet<_> = image.retained.iter().map(|row| row.segment).collect();
        let heads: HashMap<_, _> = image
            .heads
            .iter()
            .map(|row| (row.queue, row.head))
            .collect();
        let settled = image.settled.iter();
        let settled: HashMap<_, _> = settled.map(|(id, bits)| (*id, &bits[..])).collect();
        for row in &image.segments {
            if row.transient || !queues.contains(&row.queue) {
                continue;
            }
            if retained.contains(&row.id) {
                self.retained_segments += 1;
                self.retained += u64::from(row.count);
                continue;
            }
            self.segments += 1;
            let head = heads.get(&row.queue).copied().unwrap_or(0);
            let bits = settled.get(&row.id).copied();
            if head <= row.first_seq && bits.is_none() {
                self.ready += u64::from(row.count);
                continue;
            }
            let body = backend.read_segment(row.id).await?;
            let contents = body.and_then(|body| inspect(&body.index, &body.data, row.first_seq));
            let seqs = contents.map(|contents| contents.seqs).unwrap_or_default();
            let is_live = |seq: &&u64| **seq >= head && !is_set(bits, **seq - row.first_seq);
            self.ready += seqs.iter().filter(is_live).count() as u64;
        }
        Ok(())
    }
}
