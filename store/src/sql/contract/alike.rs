//! Random batches on an engine and on the model in memory: both say the same at any time.
//!
//! In: each SQL engine's bench, some hundred batches with crashes between them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the generator knows of the store.
#[derive(Default)]
struct Known {
    queues: BTreeSet<u64>,
    segments: BTreeMap<u64, u64>,
    retained: BTreeSet<u64>,
    waiting: BTreeSet<(u64, u64)>,
    last_segment: u64,
    last_queue: u64,
    number: u64,
}

/// SplitMix64: the same throws for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most.max(1)
    }

    fn one<T: Clone>(&mut self, of: impl ExactSizeIterator<Item = T>) -> Option<T> {
        let at = self.below(of.len() as u64) as usize;
        let mut of = of;
        of.nth(at)
    }
}

impl Known {
    fn batch(&mut self, dice: &mut Dice) -> Batch {
        self.number += 1;
        let mut batch = Batch {
            number: self.number,
            ..Batch::default()
        };
        for _ in 0..=dice.below(6) {
            self.step(dice, &mut batch);
        }
        batch
    }

    fn step(&mut self, dice: &mut Dice, batch: &mut Batch) {
        let Some(queue) = dice.one(self.queues.iter().copied()) else {
            return self.declare(batch);
        };
        match dice.below(14) {
            0 if self.queues.len() < 5 => self.declare(batch),
            1 if self.queues.len() > 2 && batch.is_empty() => self.delete(queue, batch),
            2..=5 => {
                self.last_segment += 1;
                self.segments.insert(self.last_segment, queue);
                let row = segment(self.last_segment, queue, self.last_segment * 10);
                batch.segments.push(row);
            }
            6 | 7 => {
                if let Some((&id, _)) = dice.one(self.segments.iter())
                    && !self.retained.contains(&id)
                {
                    self.segments.remove(&id);
                    batch.dropped_segments.push(SegmentId(id));
                    batch.settled.retain(|row| row.segment.0 != id);
                    batch.retained.retain(|row| row.segment.0 != id);
                }
            }
            8 => {
                if let Some((&id, &of)) = dice.one(self.segments.iter())
                    && !self.retained.contains(&id)
                {
                    batch.settled.retain(|row| row.segment.0 != id);
                    batch.settled.push(settled(id, of, dice.below(256) as u8));
                }
            }
            9 => {
                if let Some((&id, &of)) = dice.one(self.segments.iter()) {
                    self.retained.insert(id);
                    batch.settled.retain(|row| row.segment.0 != id);
                    batch.retained.retain(|row| row.segment.0 != id);
                    batch.retained.push(RetainedRow {
                        segment: SegmentId(id),
                        queue: QueueId(of),
                        settled_at: dice.below(1000) as i64,
                    });
                }
            }
            10 => {
                if let Some(id) = dice.one(self.retained.iter().copied()) {
                    self.retained.remove(&id);
                    self.segments.remove(&id);
                    batch.dropped_retained.push(SegmentId(id));
                }
            }
            11 => {
                let seq = dice.below(40);
                batch
                    .waiting
                    .retain(|row| (row.queue.0, row.seq) != (queue, seq));
                batch
                    .waiting
                    .push(waiting(queue, seq, dice.below(5) as u32));
                self.waiting.insert((queue, seq));
            }
            12 => {
                let put: BTreeSet<_> = batch
                    .waiting
                    .iter()
                    .map(|row| (row.queue.0, row.seq))
                    .collect();
                if let Some((of, seq)) = dice.one(self.waiting.iter().copied())
                    && !put.contains(&(of, seq))
                {
                    self.waiting.remove(&(of, seq));
                    batch.dropped_waiting.push((QueueId(of), seq));
                }
            }
            _ => {
                let at = self.number;
                batch.heads.retain(|row| row.queue.0 != queue);
                batch.heads.push(head(queue, at, at + 1));
            }
        }
    }

    fn declare(&mut self, batch: &mut Batch) {
        self.last_queue += 1;
        self.queues.insert(self.last_queue);
        let put = DefinitionChange::PutQueue(queue(self.last_queue));
        batch.definitions.push(put);
    }

    fn delete(&mut self, queue: u64, batch: &mut Batch) {
        self.queues.remove(&queue);
        self.segments.retain(|id, of| {
            let stays = *of != queue;
            if !stays {
                self.retained.remove(id);
            }
            stays
        });
        self.waiting.retain(|(of, _)| *of != queue);
        let delete = DefinitionChange::DeleteQueue(QueueId(queue));
        batch.definitions.push(delete);
    }
}

/// Runs `batches` on both; every now and then looks, cleans up, ends well or crashes.
pub(super) async fn random_batches_are_alike(mut bench: Bench) {
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let (model, mut known) = (Memory::new(), Known::default());
        // Each seed has queues, segments and messages of its own.
        known.last_queue = seed * 1_000;
        known.last_segment = seed * 100_000;
        let first = known.last_queue;
        for round in 0..120 {
            let batch = known.batch(&mut dice);
            model.commit(Arc::new(batch.clone()), true).await.unwrap();
            bench.commit(batch).await.unwrap();
            match dice.below(40) {
                0 => bench = bench.crash().await,
                1 => bench = bench.reopen().await,
                2..=5 => bench.backend().maintain().await.unwrap(),
                6 => drop(bench.backend().retire(0, 0, 0, 10).await.unwrap()),
                _ => {}
            }
            if round % 8 == 7 {
                let mut expected = of(model.load().await.unwrap(), first);
                let found = of(bench.load().await, first);
                // Numbers may be skipped, never used twice.
                assert!(found.last_queue_id >= expected.last_queue_id);
                assert!(found.last_segment_id >= expected.last_segment_id);
                expected.last_queue_id = found.last_queue_id;
                expected.last_segment_id = found.last_segment_id;
                assert_eq!(found, expected, "seed {seed}, round {round}");
            }
        }
        for id in known.segments.keys() {
            let id = SegmentId(*id);
            let found = bench.backend().read_segment(id).await.unwrap().unwrap();
            let expected = model.read_segment(id).await.unwrap().unwrap();
            assert!(found == expected, "{id:?}");
        }
        for of in &known.queues {
            let all = || (0..40).rev().collect();
            let found = bench
                .backend()
                .read_waiting(QueueId(*of), all())
                .await
                .unwrap();
            let expected = model.read_waiting(QueueId(*of), all()).await.unwrap();
            assert!(found == expected, "waiting rows of {of}");
        }
    }
    done(bench).await;
}

/// What belongs to queues above `first`, in one order.
fn of(mut image: Image, first: u64) -> Image {
    image.queues.retain(|row| row.id.0 > first);
    image.heads.retain(|row| row.queue.0 > first);
    image.segments.retain(|row| row.queue.0 > first);
    let ids: BTreeSet<_> = image.segments.iter().map(|row| row.id).collect();
    image.settled.retain(|(id, _)| ids.contains(id));
    image.settled.sort();
    image.retained.retain(|row| row.queue.0 > first);
    image.waiting.retain(|row| row.queue.0 > first);
    image
}
