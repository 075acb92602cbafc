//! What checks and copies ask of the model engine.

use std::ops::Bound::{Excluded, Unbounded};

use super::*;

impl State {
    pub(super) fn export(&self, after: Cursor, limit: usize) -> Vec<Exported> {
        match after {
            Cursor::Damaged(id) => {
                let rows = self.damaged.range((Excluded(id), Unbounded));
                let rows = rows.map(|(_, row)| Exported::Damaged(SegmentRow::clone(row)));
                rows.take(limit).collect()
            }
            Cursor::Result(id) => {
                let rows = self.results.range((Excluded(id), Unbounded));
                let rows = rows.map(|(id, row)| Exported::Result(*id, row.body.len() as u64));
                rows.take(limit).collect()
            }
            Cursor::Claim(scope) => {
                let rows = self.keys.range((Excluded(scope), Unbounded));
                let rows = rows.map(|(_, (key, at))| Exported::Claim(key.clone(), *at));
                rows.take(limit).collect()
            }
            Cursor::Fire(schedule, at) => {
                let rows = self.fires.range((Excluded((schedule, at)), Unbounded));
                let rows = rows.map(|((schedule, nominal_at), fired_at)| {
                    Exported::Fire(FireRow {
                        schedule: schedule.clone(),
                        nominal_at: *nominal_at,
                        fired_at: *fired_at,
                    })
                });
                rows.take(limit).collect()
            }
        }
    }

    pub(super) fn check_import(&self, rows: &Import) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for (job, _) in &rows.jobs {
            let fits = job.state.is_final() == job.completed_at.is_some()
                && job.completed_at.is_some() == job.expires_at.is_some();
            if !fits || self.jobs.contains_key(&job.id) || !ids.insert(job.id) {
                return Err(format!("job {} cannot be inserted", job.id));
            }
        }
        let mut ids = BTreeSet::new();
        let known = |row: &&SegmentRow| self.damaged.contains_key(&row.id) || !ids.insert(row.id);
        match rows.damaged.iter().find(known) {
            Some(row) => Err(format!("segment {} is aside already", row.id.0)),
            None => Ok(()),
        }
    }

    pub(super) fn import(&mut self, rows: &Import) {
        for (job, result) in &rows.jobs {
            self.jobs.insert(job.id, job.clone());
            self.results
                .extend(result.clone().map(|result| (job.id, result)));
        }
        let damaged = rows.damaged.iter().cloned();
        self.damaged
            .extend(damaged.map(|row| (row.id, Arc::new(row))));
        self.last_queue_id = self.last_queue_id.max(rows.last_queue_id);
        self.last_segment_id = self.last_segment_id.max(rows.last_segment_id);
    }
}
