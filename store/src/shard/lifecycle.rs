//! Queues come, are emptied and go; publishers are stopped by an alarm.
//!
//! In: `definitions`, recovery.

use super::*;
use crate::topology::{delay, duplicates};

impl Shard {
    pub(crate) fn insert_queue(&mut self, spec: QueueSpec, asked: Arguments, mut log: Log) {
        let id = spec.id;
        let (delays_for, keys_for) = self.insert_name(&spec);
        // No policy and no rule of the node is meant for what an exchange keeps.
        let arguments = match delays_for.is_some() || keys_for.is_some() {
            true => Arguments::default(),
            false => asked,
        };
        self.works |= arguments.work.is_some();
        self.blocks |= arguments.block;
        log.keep_order_by_key(arguments.partition.clone());
        log.age_priorities(arguments.priority_ageing_ms);
        log.count_bodies(arguments.max_length_bytes.is_some());
        log.retain(arguments.retention.filter(|_| spec.durable));
        let saved_head = log.head();
        let mut consumers = Consumers::default();
        consumers.be_single(arguments.single_active, arguments.quorum);
        if !spec.durable {
            // Nothing of it survives a restart, so nothing must be marked before it is handed out.
            log.handed = Seq::MAX;
        }
        let unique = Unique::of(&spec.arguments).map(Box::new);
        self.windows |= arguments.deduplication.is_some();
        let window = arguments.deduplication.clone();
        let mut queue = Queue {
            spec,
            arguments,
            log,
            consumers,
            owner: None,
            had_consumer: false,
            loading: None,
            dirty: false,
            saved_handed: 0,
            saved_head,
            idle_since: clock::now(),
            spilled: false,
            watched: false,
            undecided: HashMap::default(),
            delays_for,
            keys_for,
            unique,
            durations: None,
            window: None,
            deduplicated: 0,
            rate: Rate::default(),
            throttled: false,
            stops_publishers: false,
            failures: HashMap::default(),
            growth: Growth::default(),
        };
        queue.set_window(window);
        self.queues.insert(id, queue);
        self.watch(id);
    }

    /// Gives the queue its name; answers the exchange that it belongs to instead, if so: one whose
    /// delayed messages, or one whose keys it keeps.
    fn insert_name(&mut self, spec: &QueueSpec) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let Some(names) = self.vhosts.get_mut(&spec.vhost) else {
            return (None, None);
        };
        let exchange = delay::exchange_of(&spec.name);
        if let Some(exchange) = exchange.filter(|name| names.set_delay_queue(name, spec.id)) {
            return (Some(exchange.into()), None);
        }
        let exchange = duplicates::exchange_of(&spec.name);
        if let Some(exchange) = exchange.filter(|name| names.set_key_queue(name, spec.id)) {
            return (None, Some(exchange.into()));
        }
        names.queues.insert(spec.name.clone(), spec.id);
        (None, None)
    }

    /// A policy changed what holds for a live queue.
    pub(crate) fn apply_arguments(&mut self, id: QueueId, arguments: Arguments) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        if queue.arguments == arguments {
            return;
        }
        self.works |= arguments.work.is_some();
        self.blocks |= arguments.block;
        queue.log.keep_order_by_key(arguments.partition.clone());
        queue.log.age_priorities(arguments.priority_ageing_ms);
        queue.log.count_bodies(arguments.max_length_bytes.is_some());
        queue
            .log
            .retain(arguments.retention.filter(|_| queue.spec.durable));
        if queue.log.retains_anew(clock::now()) {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
        self.windows |= arguments.deduplication.is_some();
        if queue.set_window(arguments.deduplication.clone()) {
            window::drop_rows(&mut self.pending, id);
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
        queue.throttled = false;
        if queue.arguments.expires_ms != arguments.expires_ms {
            // Nobody could know before that being idle would count.
            queue.idle_since = clock::now();
        }
        queue.arguments = arguments;
        self.watch(id);
        self.trim(id);
        self.expire(id);
        self.pump(id);
    }

    /// Removes a queue with its bindings and messages; its consumers hear of it. Answers how many
    /// messages were ready.
    pub(crate) fn drop_queue(&mut self, id: QueueId) -> u64 {
        let Some(mut queue) = self.queues.remove(&id) else {
            return 0;
        };
        let ready = queue.log.ready();
        self.remove_names(&queue.spec);
        self.end_waiting(id);
        let tickets = queue.log.purge().tickets;
        self.release(tickets);
        for consumer in queue.consumers.drain() {
            if let Some(channel) = self.channel(consumer.key) {
                channel.consumers.remove(&consumer.tag);
            }
            let out = Out::Cancel {
                channel: consumer.key.channel,
                tag: consumer.tag,
            };
            self.send(consumer.key.session, out);
        }
        if let Some(owner) = queue.owner.and_then(|owner| self.sessions.get_mut(&owner)) {
            owner.exclusive.retain(|known| *known != id);
        }
        if queue.spec.durable || queue.spilled {
            self.pending.waiting.retain(|row| row.queue != id);
            self.pending
                .definitions
                .push(crate::log::batch::DefinitionChange::DeleteQueue(id));
            self.writer.notify_one();
        }
        ready
    }

    /// Removes ready messages; answers how many.
    pub fn purge(&mut self, id: QueueId) -> u64 {
        let Some(queue) = self.queues.get_mut(&id) else {
            return 0;
        };
        let settled = queue.log.purge();
        let log = &queue.log;
        queue.failures.retain(|seq, _| log.has(*seq));
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        self.release(settled.tickets);
        self.resume_publishers(id);
        u64::from(settled.count)
    }

    pub(crate) fn touch(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.idle_since = clock::now();
        }
    }

    /// Publishers are stopped or may go on; sessions hear of the first cause and of the last's end.
    pub(crate) fn set_alarm(&mut self, cause: Cause, holds: bool) {
        if !self.alarms.set(cause, holds) {
            return;
        }
        let reason = self.alarms.reason();
        match &reason {
            Some(reason) => tracing::warn!(reason, "publishers must wait"),
            None => tracing::warn!("publishers go on"),
        }
        let ids: Vec<usize> = self.sessions.keys().copied().collect();
        for id in ids {
            match self.reason_to_wait(id) {
                Some(reason) if self.alarms.any() => self.send(id, Out::Blocked(reason)),
                // Until a full queue has room.
                Some(_) => {}
                None => self.send(id, Out::Unblocked),
            }
        }
    }

    /// A queue whose rows must be looked at by the next commit.
    pub(crate) fn mark(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
    }

    /// Before a clean stop: what was never handed out must not come back as redelivered.
    pub(crate) fn settle_marks(&mut self) {
        for queue in self.queues.values_mut() {
            queue.log.handed = queue.log.handed_to();
            queue.saved_handed = 0;
            Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        }
    }

    /// Why all publishers must wait, while they must.
    pub fn blocked_reason(&self) -> Option<String> {
        self.alarms.reason()
    }

    pub fn is_blocked(&self) -> bool {
        self.alarms.any()
    }

    pub fn alarms(&self) -> Alarms {
        self.alarms
    }
}
