//! What operators do in a history: redrives, pauses, purges, single messages.
//!
//! In: `world`.

use super::model::{Arrival, Copy, Place, Redrive, Spot};
use super::rules::RULES;
use super::world::{Outcome, World};
use super::*;
use crate::rules::filter::Filter;

impl World {
    /// Stops a queue, or lets it go on.
    pub(super) fn pause(&mut self, queue: usize) {
        if let Some(id) = self.ids[queue] {
            self.model.paused[queue] = !self.model.paused[queue];
            self.shard.set_paused(id, self.model.paused[queue]);
        }
    }

    pub(super) fn redrive(&mut self, queue: usize) {
        let running = |known: &Redrive| known.runs && known.queue == queue;
        let Some(id) = self.ids[queue] else {
            return;
        };
        if self.model.redrives.values().any(running) {
            return;
        }
        self.redrives += 1;
        let name = format!("redrive {}", self.redrives);
        let until = self.next[queue];
        self.model.redrives.insert(
            name.clone(),
            Redrive {
                queue,
                next: 0,
                until,
                moved: 0,
                runs: true,
            },
        );
        self.shard.put_redrive(RedriveRow {
            id: name.into(),
            kind: RedriveKind::Ready,
            queue: id,
            vhost: "/".into(),
            source: RULES[queue].name.into(),
            target: None,
            filter: Filter::default().encode(),
            rate: None,
            until,
            next: 0,
            moved: 0,
            skipped: 0,
            state: RedriveState::Running,
            detail: String::new(),
            created_at: self.now(),
            ended_at: None,
        });
    }

    /// What stood between the place before and the place after has moved.
    pub(super) fn redrive_step(&mut self, nth: usize, most: u32) -> Outcome {
        let n = self.model.redrives.len();
        let Some(name) = self.model.redrives.keys().nth(nth % n.max(1)).cloned() else {
            return Ok(());
        };
        let before = self.model.redrives[&name].clone();
        self.shard.redrive_step(&name, most);
        let row = self.shard.redrives[&*name].clone();
        let runs = row.state == RedriveState::Running;
        let known = self.model.redrives.get_mut(&name).expect("it was there");
        (known.next, known.runs) = (row.next, runs);
        let (from, to) = (before.next, row.next.min(before.until));
        if to < from || row.skipped > 0 {
            return Err(format!("from {from} to {to}, {} skipped", row.skipped));
        }
        let span = (before.queue, from)..(before.queue, to);
        let meant: Vec<(Spot, Copy)> = self
            .model
            .copies
            .range(span)
            .filter(|(_, copy)| copy.place == Place::Ready)
            .map(|(spot, copy)| (*spot, *copy))
            .collect();
        known.moved += meant.len() as u64;
        if !before.runs && !meant.is_empty() || meant.len() > most as usize {
            return Err(format!("{} moved by one step", meant.len()));
        }
        for (spot, copy) in meant {
            self.model.copies.remove(&spot);
            let queue = copy.origin.ok_or("it did not die")?;
            self.expected.push(Arrival {
                queue,
                copy: Copy::new(queue, copy.traits),
                death: None,
            });
        }
        Ok(())
    }

    pub(super) fn nth_in(&self, nth: usize, meant: impl Fn(&Place) -> bool) -> Option<Spot> {
        let copies = self.model.copies.iter();
        let all: Vec<Spot> = copies
            .filter(|(_, copy)| meant(&copy.place))
            .map(|(spot, _)| *spot)
            .collect();
        all.get(nth % all.len().max(1)).copied()
    }

    pub(super) fn remove(&mut self, nth: usize) {
        let Some(spot) = self.nth_in(nth, |place| *place == Place::Ready) else {
            return;
        };
        let id = self.ids[spot.0].expect("a queue");
        if self.shard.remove_ready(id, &[spot.1]) > 0 {
            self.model.copies.remove(&spot);
        }
    }

    pub(super) fn cancel_waiting(&mut self, nth: usize) -> Outcome {
        let Some(spot) = self.nth_in(nth, |place| matches!(place, Place::Waiting { .. })) else {
            return Ok(());
        };
        self.model.copies.remove(&spot);
        let id = self.ids[spot.0].expect("a queue");
        match self.shard.cancel_waiting(id, spot.1) {
            true => Ok(()),
            false => Err(format!("{spot:?} does not wait")),
        }
    }

    pub(super) fn purge(&mut self, queue: usize) -> Outcome {
        let Some(id) = self.ids[queue] else {
            return Ok(());
        };
        let ready = self.model.ready(queue);
        let left = |spot: &Spot, copy: &mut Copy| spot.0 != queue || copy.place != Place::Ready;
        self.model.copies.retain(left);
        let purged = self.shard.purge(id);
        match purged == ready {
            true => Ok(()),
            false => Err(format!("{purged} were purged of {ready}")),
        }
    }
}
