//! What the shard tells of its queues: depths, ages, growth, dead letters, heads of keys.
//!
//! Keeps: looking changes nothing; a look at a queue is bounded, a look at all is a few steps for
//! each.
//! Never: reads a body or waits; `Store::signals` reads what is on disk.
//! In: the janitor samples, `Store::stats` and `Store::signals` ask.

use super::*;
use crate::queue::{Content, Heads};
use crate::replay::Kept;
use crate::signals::{QueueStats, Signals};

/// Between two samples of the depths: a twelfth of the shortest mean.
const SAMPLE_AFTER: Micros = 5_000_000;
/// Deliveries looked at on one channel, at most: they are in the order in which they went out, so
/// that only a channel with several queues has others before.
const DELIVERIES_MAX: usize = 4_096;

impl Shard {
    /// A second has passed: the depths are sampled when it is time.
    pub(crate) fn sample(&mut self, now: Micros) {
        self.second = now;
        // A clock that was set back must not end the sampling.
        if (self.sampled_at..self.sampled_at + SAMPLE_AFTER).contains(&now) {
            return;
        }
        self.sampled_at = now;
        for queue in self.queues.values_mut() {
            queue.growth.sample(queue.depth(), now);
        }
    }

    /// All queues, for metrics.
    pub(crate) fn queue_stats(&mut self) -> Vec<QueueStats> {
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        let dead: Vec<Option<u64>> = ids
            .iter()
            .map(|id| self.dead_letters(*id).map(|(_, count)| count))
            .collect();
        let known = ids.iter().zip(dead);
        let stats = known.filter_map(|(id, dead_letters)| {
            let queue = self.queues.get(id)?;
            Some(QueueStats {
                vhost: queue.spec.vhost.clone(),
                name: queue.spec.name.clone(),
                ready: queue.log.ready(),
                unacked: queue.log.unacked(),
                waiting: queue.log.waiting.len() as u64,
                consumers: queue.consumers.len() as u64,
                oldest_ready_at: queue.log.oldest_ready_at(),
                keeps_order: queue.arguments.partition.is_some(),
                head_of_line_at: queue.log.head_of_line_at(),
                growth: queue.growth,
                ready_bytes: queue.log.ready_bytes(),
                dead_letter: queue.spec.name.ends_with(".dlq"),
                dead_letters,
                lease_ms: queue.lease_ms(),
                deduplicated: queue.deduplicated,
                retained: queue.log.retained.as_ref().map(|retained| Kept {
                    messages: retained.messages(),
                    bytes: retained.bytes(),
                }),
            })
        });
        stats.collect()
    }

    /// One queue, and where the heads of its `keys` oldest keys are.
    pub(crate) fn signals(
        &mut self,
        (vhost, name): (&str, &str),
        keys: usize,
    ) -> Result<(QueueId, Signals, Option<Heads>)> {
        let id = self.queue(0, vhost, name)?;
        let dead = self.dead_letters(id);
        let absent = || Error::NotFound {
            noun: Noun::Queue,
            name: name.to_owned(),
            detail: format!("no queue '{name}' in vhost '{vhost}'"),
        };
        let queue = self.queues.get(&id).ok_or_else(absent)?;
        let signals = Signals {
            at: clock::now(),
            ready: queue.log.ready(),
            unacked: queue.log.unacked(),
            waiting: queue.log.waiting.len() as u64,
            consumers: queue.consumers.len() as u64,
            dead_letter_queue: dead.as_ref().map(|(name, _)| name.clone()),
            dead_letters: dead.map(|(_, count)| count),
            growth: queue.growth,
            oldest_ready_at: queue.log.oldest_ready_at(),
            oldest_unacked_at: self.oldest_delivery(id),
            keys: None,
        };
        let mut heads = queue.log.heads(keys);
        if let Some(heads) = &mut heads {
            self.find_elsewhere(id, heads);
        }
        Ok((id, signals, heads))
    }

    /// Where the dead of a queue go, and how many messages are there: 0 also when that queue is
    /// only declared on first use. `None`: they go nowhere, or to several queues.
    fn dead_letters(&mut self, id: QueueId) -> Option<(String, u64)> {
        let queue = self.queues.get(&id)?;
        let (vhost, name) = (queue.spec.vhost.clone(), queue.spec.name.clone());
        let asked = &queue.arguments;
        let dead = match (&asked.dead_letter_exchange, &asked.work) {
            (None, None) => return None,
            (None, Some(_)) => format!("{name}.dlq"),
            (Some(_), _) => self.dead_letter_queue(&vhost, &name).ok()?,
        };
        let found = self.queue(0, &vhost, &dead).ok();
        let count = found.and_then(|id| self.queues.get(&id)).map(Queue::depth);
        Some((dead, count.unwrap_or(0)))
    }

    /// When the oldest delivery that is not settled went out, to the second.
    fn oldest_delivery(&self, id: QueueId) -> Option<Micros> {
        let sessions = self.sessions.values();
        let channels = sessions.flat_map(|session| session.channels.values());
        let first = |channel: &Channel| {
            let mut runs = channel.unacked.iter().take(DELIVERIES_MAX);
            let found = runs.find(|run| run.queue == id && run.count > 0);
            found.map(|run| run.handed_at)
        };
        channels.filter_map(first).min()
    }

    /// Of a queue that is not durable, contents that have waited are with their deliveries.
    fn find_elsewhere(&self, id: QueueId, heads: &mut Heads) {
        let lost = heads.heads.iter_mut();
        let mut lost: HashMap<Seq, &mut Content> = lost
            .filter(|head| matches!(head.content, Content::Elsewhere))
            .map(|head| (head.seq, &mut head.content))
            .collect();
        if lost.is_empty() {
            return;
        }
        let sessions = self.sessions.values();
        let channels = sessions.flat_map(|session| session.channels.values());
        let runs = channels.flat_map(|channel| channel.unacked.iter().take(DELIVERIES_MAX));
        for run in runs.filter(|run| run.queue == id) {
            if let Some(own) = &run.own
                && let Some(content) = lost.remove(&run.seq)
            {
                *content = Content::Here(own.clone());
            }
        }
    }
}

impl Queue {
    /// Messages that are here and not settled.
    pub(crate) fn depth(&self) -> u64 {
        self.log.ready() + self.log.unacked() + self.log.waiting.len() as u64
    }
}
