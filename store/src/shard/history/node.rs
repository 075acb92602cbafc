//! What the node does by itself in a history: time, the loader, commits, crashes; and the end.
//!
//! Keeps: a cut takes a copy of the model along, and that is what a crash must bring back.
//! In: `world`.

use super::model::{Fault, Model, Place};
use super::op::{Op, Word};
use super::rules::{COUNT, RULES};
use super::world::{Outcome, World, start, wait};
use super::*;
use crate::log::writer::encode;
use crate::sql::Backend;

/// Times that the end may wait for what is not ready yet: longer than any backoff or delay.
const ROUNDS: u32 = 40;

impl World {
    pub(super) fn tick(&mut self) {
        let now = self.now();
        for (holder, spot) in self.held() {
            let place = self.model.copies[&spot].place;
            if let Place::Out {
                until: Some(until), ..
            } = place
                && until <= now
            {
                self.fail(spot, Fault::Late);
                self.over.push(holder);
            }
        }
        self.shard.tick();
    }

    pub(super) fn cut(&mut self) {
        if self.under_way.is_none() {
            self.cuts += 1;
            let mut cut = self.shard.cut(self.cuts);
            encode(&mut cut);
            self.under_way = Some((cut, self.model.clone()));
        }
    }

    pub(super) fn store(&mut self, cut: &mut Cut, then: Model) -> Outcome {
        let batch = Arc::new(std::mem::take(&mut cut.batch));
        let stored = wait(self.memory.commit(batch.clone(), cut.sync));
        stored.map_err(|error| format!("a commit is refused: {error}"))?;
        cut.batch.jobs.clone_from(&batch.jobs);
        self.unsynced = batch.number;
        if cut.sync {
            self.durable_cut = batch.number;
            self.durable = then.clone();
        }
        self.current = then;
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Outcome {
        if let Some((mut cut, then)) = self.under_way.take() {
            self.store(&mut cut, then)?;
            self.shard.committed(cut, &[]);
        }
        Ok(())
    }

    pub(super) fn commit_all(&mut self) -> Outcome {
        self.commit()?;
        drop(self.shard.on_disk());
        self.cut();
        self.commit()
    }

    /// What the loader does.
    pub(super) fn serve(&mut self) {
        for (queue, segment) in std::mem::take(&mut self.shard.loads) {
            let log = self.shard.queues.get(&queue).map(|queue| &queue.log);
            let Some((first, at)) = log.and_then(|log| log.place_of(segment)) else {
                self.shard.not_loaded(queue);
                continue;
            };
            let found = wait(crate::read(&self.memory, segment, first, at));
            self.shard.loaded(queue, segment, found);
        }
        if let Some(merge) = self.shard.merge.take() {
            let joined = wait(crate::read_together(&self.memory, &merge));
            self.shard.merged(&merge, joined);
        }
        self.read();
        self.hand_in();
    }

    pub(super) fn read(&mut self) {
        for (queue, seqs) in std::mem::take(&mut self.shard.due_reads) {
            let rows = wait(self.memory.read_waiting(queue, seqs.clone()));
            self.rows.push((queue, seqs, rows.expect("rows")));
        }
    }

    pub(super) fn hand_in(&mut self) {
        for (queue, seqs, rows) in std::mem::take(&mut self.rows) {
            rows.iter().for_each(|row| self.shard.woken(row));
            self.shard.not_there_yet(queue, &seqs);
        }
    }

    /// Nothing is left to do before time passes or a client comes.
    pub(super) fn rest(&mut self) -> Outcome {
        for _ in 0..4 {
            let standing = self.model.clone();
            self.commit_all()?;
            self.tick();
            for _ in 0..8 {
                self.serve();
            }
            self.listen();
            self.settle_arrivals()?;
            self.see(&standing)?;
        }
        self.commit_all()
    }

    pub(super) fn crash(&mut self, arrived: bool, power: bool) -> Outcome {
        if let Some((mut cut, then)) = self.under_way.take().filter(|_| arrived) {
            self.store(&mut cut, then)?;
        }
        if power {
            self.current = self.durable.clone();
        } else {
            wait(self.memory.close());
            self.durable_cut = self.durable_cut.max(self.unsynced);
        }
        self.memory = self.memory.crash();
        self.shard = start(&self.memory);
        self.model = self.current.clone();
        self.model.crash();
        self.current = self.model.clone();
        self.durable = self.model.clone();
        self.cuts = self.cuts.max(self.durable_cut);
        self.durable_cut = self.cuts;
        self.key_stamps.clear();
        self.claims.clear();
        self.consumers.clear();
        self.over.clear();
        self.done.clear();
        self.rows.clear();
        self.heard.clear();
        let copies = &self.model.copies;
        self.handed.retain(|spot| copies.contains_key(spot));
        (0..2).for_each(|at| self.open_session(at));
        self.find_queues();
        self.be_thrifty();
        for (queue, id) in (0..).zip(self.ids) {
            let known = id.and_then(|id| self.shard.queues.get(&id));
            self.next[queue] = known.map_or(0, |queue| queue.log.next_seq());
        }
        Ok(())
    }

    pub(super) fn find_queues(&mut self) {
        for (rule, id) in RULES.iter().zip(&mut self.ids) {
            *id = self.shard.queue(0, "/", rule.name).ok();
        }
    }

    /// A last crash; then everything that is left is fetched and settled.
    pub(super) fn finish(&mut self) -> Outcome {
        self.play(&Op::Rest)?;
        let (arrived, power) = (true, self.last_id.is_multiple_of(2));
        self.play(&Op::Crash { arrived, power })?;
        for queue in 0..COUNT {
            if self.model.paused[queue] {
                self.play(&Op::Pause { queue })?;
            }
        }
        for _ in 0..ROUNDS {
            self.play(&Op::Rest)?;
            for queue in 0..COUNT {
                self.fetch(queue)?;
            }
            if self.model.copies.is_empty() {
                return self.is_empty();
            }
            self.play(&Op::Pass { ms: 50 })?;
        }
        let left = self.model.copies.iter().next();
        Err(format!("never came: {left:?}"))
    }

    /// Gets and acks what is ready.
    pub(super) fn fetch(&mut self, queue: usize) -> Outcome {
        loop {
            self.play(&Op::Get { queue, channel: 0 })?;
            let (nth, word) = (0, Word::Ack);
            match self.held().is_empty() {
                true => return Ok(()),
                false => self.play(&Op::Settle {
                    nth,
                    word,
                    multiple: true,
                })?,
            }
        }
    }

    pub(super) fn is_empty(&mut self) -> Outcome {
        self.commit_all()?;
        let left = wait(self.memory.load()).map_err(|error| error.to_string())?;
        if !left.waiting.is_empty() {
            return Err(format!("{} rows of no message", left.waiting.len()));
        }
        let mut queues = self.shard.queues.values();
        match queues.find(|queue| !queue.log.lanes_are_idle() || !queue.failures.is_empty()) {
            Some(queue) => Err(format!("{} is empty, but not at rest", queue.spec.name)),
            None => Ok(()),
        }
    }

    /// The seqs that a row on disk holds.
    pub(super) fn row(&self, log: &Log, segment: SegmentId) -> Vec<Seq> {
        let Some((first, at)) = log.place_of(segment) else {
            return Vec::new();
        };
        let pieces = match wait(crate::read(&self.memory, segment, first, at)) {
            ReadBack::Sound(pieces) | ReadBack::Damaged(pieces) => pieces,
            ReadBack::Unreadable => Vec::new(),
        };
        let seqs = |piece: &Piece| piece.first..piece.first + u64::from(piece.count);
        pieces.iter().flat_map(seqs).collect()
    }
}
