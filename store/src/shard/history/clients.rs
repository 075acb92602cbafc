//! What clients do in a history: publish, consume, settle, come too late, leave.
//!
//! Keeps: the model is told what must follow before the queues are asked to do it.
//! In: `world`.

use amqp::field::Value;

use super::expect::Heard;
use super::model::{Arrival, Copy, Fault, Holder, Model, Place, Spot, Traits};
use super::op::{CHANNELS, Draft, Word};
use super::rules::{FANNED, KEY, ONCE, RULES, TARGETS};
use super::world::{Claim, Outcome, Promise, World};
use super::*;
use crate::shard::receive::{Begun, Ending, LeaseKey, Wish};

impl World {
    pub(super) fn publish(&mut self, target: usize, draft: Draft, count: u32) -> Outcome {
        let fanned = target == TARGETS;
        let targets = if fanned { &FANNED[..] } else { &[target] };
        // Where one may be refused, each goes alone.
        let count = if fanned || target == ONCE { 1 } else { count };
        let key = self.channel(self.last_id as usize % CHANNELS);
        let mut block = Block::default();
        let confirm = self.last_number + 1;
        for offset in 0..count {
            self.last_id += 1;
            self.last_number += 1;
            let traits = Traits {
                id: self.last_id,
                persistent: draft.persistent,
                key: draft.key.map(|key| (key + offset as u8) % 3),
                priority: draft.priority,
                limit: draft.limit,
                gaps: false,
            };
            let address = match fanned {
                true => Address::new(b"amq.fanout", b""),
                false => Address::new(b"", RULES[target].name.as_bytes()),
            };
            let raw = properties_of(&draft, &traits).encode();
            block.push(&address, &raw, &traits.id.to_be_bytes());
            let claim = self.expect_published(targets, &draft, traits);
            self.claims.insert((key, self.last_number), claim);
        }
        let (vhost, block) = ("/".into(), Arc::new(block));
        let run = Run {
            channel: Some(key),
            count,
            confirm,
            ..Run::alone(&vhost, &block)
        };
        match self.shard.publish(&run) {
            Ok(unroutable) if unroutable.is_empty() => Ok(()),
            Ok(_) => Err("a message reached no queue".into()),
            Err(error) => Err(format!("a publish was refused: {error}")),
        }
    }

    pub(super) fn expect_published(
        &mut self,
        targets: &[usize],
        draft: &Draft,
        traits: Traits,
    ) -> Claim {
        let (now, stamp) = (self.now(), self.cuts + 1);
        let claim = |stamp, kind| Claim {
            stamp,
            id: traits.id,
            kind,
        };
        if targets == [ONCE] {
            if let Some(name) = draft.name.filter(|name| self.model.is_known(*name, now)) {
                let stamp = self.key_stamps.get(&name).copied().unwrap_or(0);
                return claim(stamp, Promise::Strict);
            }
            if self.model.ready(ONCE) + 1 > RULES[ONCE].max_length.unwrap_or(u64::MAX) {
                return claim(stamp, Promise::Refused);
            }
            if let Some(name) = draft.name {
                self.model.keys.insert(name, now / 1000);
                self.key_stamps.insert(name, stamp);
            }
        }
        for &queue in targets {
            let mut copy = Copy::new(queue, traits);
            let delay = draft.delay_ms.filter(|_| RULES[queue].retry.is_some());
            if let Some(ms) = delay {
                let at = now + Micros::from(ms) * 1000;
                copy.place = Place::Waiting { from: at, to: at };
                (copy.stored, copy.in_row) = (true, true);
            }
            self.expected.push(Arrival {
                queue,
                copy,
                death: None,
            });
        }
        match (targets, traits.persistent) {
            ([ONCE], _) => claim(stamp, Promise::Strict),
            (_, true) => claim(stamp, Promise::Loose),
            (_, false) => claim(stamp, Promise::None),
        }
    }

    pub(super) fn consume(&mut self, queue: usize, key: ChannelKey, prefetch: u32) {
        let tag = RULES[queue].name.as_bytes();
        let Some(id) = self.ids[queue] else {
            return;
        };
        if self.consumers.remove(&(key, queue)).is_some() {
            return self.shard.cancel(key, tag);
        }
        let consumer = Consumer {
            key,
            tag: tag.into(),
            no_ack: false,
            exclusive: false,
            prefetch,
            unacked: 0,
            priority: 0,
            timeout_ms: None,
            leases: false,
        };
        self.shard.consume(id, consumer).expect("a consumer");
        self.consumers.insert((key, queue), prefetch);
        self.shard.pump(id);
    }

    pub(super) fn get(&mut self, queue: usize, key: ChannelKey) {
        let Some(id) = self.ids[queue] else {
            return;
        };
        let got = self.shard.get(id, key, false);
        if let Got::Message {
            tag,
            piece,
            redelivered,
            ..
        } = got
        {
            let holder = Holder { key, tag };
            self.heard.push(Heard::Delivery {
                queue,
                holder,
                piece,
                redelivered,
                lease_ms: Model::lease_ms(queue, None, false),
            });
        }
    }

    pub(super) fn receive(&mut self, queue: usize, max: u32, lease_ms: Option<u64>) {
        let Some(id) = self.ids[queue] else {
            return;
        };
        let wish = Wish {
            max,
            waits: false,
            lease_ms,
        };
        let leased = match self.shard.receive(id, &wish).expect("no limit") {
            Begun::Handed(leased) => leased,
            Begun::Waiting(tag, mut told) => {
                self.shard.give_up(&tag);
                let told = told.try_recv().unwrap_or(Ok(Vec::new()));
                told.expect("the queue is there")
            }
        };
        // The one session that no client opened.
        let mut all = self.shard.sessions.keys();
        let session = *all
            .find(|id| !self.sessions.contains(id))
            .expect("receivers");
        for one in leased {
            let (channel, tag) = (one.key.channel, one.key.tag);
            let key = ChannelKey { session, channel };
            self.heard.push(Heard::Delivery {
                queue,
                holder: Holder { key, tag },
                piece: one.piece,
                redelivered: one.redelivered,
                lease_ms: Model::lease_ms(queue, lease_ms, true),
            });
        }
    }

    /// All deliveries, in the order of their channels and tags.
    pub(super) fn held(&self) -> Vec<(Holder, Spot)> {
        let copies = self.model.copies.iter();
        let held = copies.filter_map(|(spot, copy)| Some((copy.holder()?, *spot)));
        let mut held: Vec<_> = held.collect();
        held.sort_unstable();
        held
    }

    pub(super) fn settle(&mut self, nth: usize, word: Word, multiple: bool) -> Outcome {
        let held = self.held();
        let Some(&(holder, spot)) = held.get(nth % held.len().max(1)) else {
            return Ok(());
        };
        if self.is_receiver(holder) {
            return self.end_lease(holder, spot, word);
        }
        let multiple = multiple && !matches!(word, Word::Reject { .. });
        let meant = |other: &Holder| match multiple {
            true => other.key == holder.key && other.tag <= holder.tag,
            false => *other == holder,
        };
        for (other, spot) in held.into_iter().filter(|(other, _)| meant(other)) {
            self.say(spot, word);
            self.done.push(other);
        }
        if multiple {
            self.over.retain(|other| !meant(other));
        }
        let verdict = verdict(word);
        let tag = (holder.tag, multiple);
        match self.shard.conclude(holder.key, tag, verdict) {
            true => Ok(()),
            false => Err(format!("{holder:?} is not known")),
        }
    }

    pub(super) fn say(&mut self, spot: Spot, word: Word) {
        match word {
            Word::Ack => drop(self.model.copies.remove(&spot)),
            Word::Nack { requeue } | Word::Reject { requeue } => {
                let fault = match requeue {
                    true => Fault::Returned,
                    false => Fault::Rejected,
                };
                self.fail(spot, fault);
            }
        }
    }

    /// A delivery ends with a fault; what follows from it waits while the content is on disk only.
    pub(super) fn fail(&mut self, spot: Spot, fault: Fault) {
        let (now, at_hand) = (self.now(), self.is_at_hand(spot));
        let rule = &RULES[spot.0];
        // What it is needed for: its own rules, or its way to where the dead go.
        let returns = self.model.copies.get(&spot).map_or(0, |copy| copy.failures);
        let is_last = rule.returns.is_some_and(|limit| returns + 1 > limit);
        let asks = match fault {
            Fault::Released => false,
            Fault::Rejected => rule.dead.is_some(),
            Fault::Left | Fault::Recovered => is_last,
            _ => rule.retry.is_some() || is_last,
        };
        if asks && !at_hand {
            if let Some(copy) = self.model.copies.get_mut(&spot) {
                copy.place = Place::Undecided(fault);
            }
            return;
        }
        let gone = self.model.fail(spot, fault, now);
        self.expected.extend(gone);
    }

    /// The content of an unacked message is in memory.
    pub(super) fn is_at_hand(&self, (queue, seq): Spot) -> bool {
        let Some(id) = self.ids[queue] else {
            return false;
        };
        let known = self.shard.queues.get(&id);
        if known.is_some_and(|queue| queue.log.content(seq).is_some()) {
            return true;
        }
        let sessions = self.shard.sessions.values();
        let channels = sessions.flat_map(|session| session.channels.values());
        let mut runs = channels.flat_map(|channel| &channel.unacked);
        runs.any(|run| {
            let seqs = run.seq..run.seq + u64::from(run.count);
            run.queue == id && seqs.contains(&seq) && run.own.is_some()
        })
    }

    pub(super) fn end_lease(&mut self, holder: Holder, spot: Spot, word: Word) -> Outcome {
        let ending = match word {
            Word::Ack => Ending::Done,
            Word::Nack { requeue: true } | Word::Reject { requeue: true } => Ending::Released,
            _ => Ending::Failed("in a worker's words"),
        };
        match ending {
            Ending::Done => drop(self.model.copies.remove(&spot)),
            Ending::Failed(_) => self.fail(spot, Fault::Rejected),
            Ending::Released => self.fail(spot, Fault::Released),
        }
        self.done.push(holder);
        let queue = self.ids[spot.0].expect("a queue");
        match self.shard.end_lease(lease(queue, holder), ending) {
            true => Ok(()),
            false => Err(format!("{holder:?} is no lease")),
        }
    }

    /// A settlement of what is over changes nothing; of what was settled, it is an error.
    pub(super) fn be_late(&mut self, nth: usize, word: Word) -> Outcome {
        let ended = self.over.len();
        let known = !nth.is_multiple_of(4) && ended > 0;
        let list = if known {
            &mut self.over
        } else {
            &mut self.done
        };
        if list.is_empty() {
            return Ok(());
        }
        let holder = list.remove(nth % list.len());
        if self.is_receiver(holder) {
            for queue in self.ids.into_iter().flatten() {
                if self.shard.end_lease(lease(queue, holder), Ending::Done) {
                    return Err(format!("{holder:?} is settled after its end"));
                }
            }
            return Ok(());
        }
        let told = self
            .shard
            .conclude(holder.key, (holder.tag, false), verdict(word));
        match told == known {
            true => Ok(()),
            false => Err(format!("{holder:?} is answered {told}")),
        }
    }

    pub(super) fn extend(&mut self, nth: usize, ms: Option<u64>) -> Outcome {
        let now = self.now();
        if let Some(&holder) = self.over.get(nth)
            && let Some(until) = self.shard.extend(holder.key, holder.tag, ms)
        {
            return Err(format!("{holder:?} is over, and extended to {until}"));
        }
        let held = self.held();
        let Some(&(holder, spot)) = held.get(nth % held.len().max(1)) else {
            return Ok(());
        };
        let copy = self.model.copies.get_mut(&spot).expect("it is held");
        let Place::Out { until, span_ms, .. } = &mut copy.place else {
            return Ok(());
        };
        let asked = now + ms.unwrap_or(*span_ms).cast_signed() * 1000;
        *until = until.map(|until| until.max(asked));
        let (until, told) = (*until, self.shard.extend(holder.key, holder.tag, ms));
        match told == until {
            true => Ok(()),
            false => Err(format!("{holder:?} is extended to {told:?}, not {until:?}")),
        }
    }

    /// All deliveries of a channel end.
    pub(super) fn end_deliveries(&mut self, key: ChannelKey, fault: Fault) {
        for (holder, spot) in self.held() {
            if holder.key == key {
                self.fail(spot, fault);
                self.done.push(holder);
            }
        }
    }

    pub(super) fn close_session(&mut self, session: usize, lost: bool) {
        for nth in 0..CHANNELS {
            let key = self.channel(nth);
            if key.session == self.sessions[session] {
                self.forget_channel(key, lost);
            }
        }
        self.shard.close_session(self.sessions[session], lost);
        self.open_session(session);
    }

    pub(super) fn forget_channel(&mut self, key: ChannelKey, lost: bool) {
        let fault = if lost { Fault::Lost } else { Fault::Left };
        self.end_deliveries(key, fault);
        self.over.retain(|holder| holder.key != key);
        self.done.retain(|holder| holder.key != key);
        self.consumers.retain(|(known, _), _| *known != key);
        self.claims.retain(|(known, _), _| *known != key);
    }
}

fn lease(queue: QueueId, holder: Holder) -> LeaseKey {
    LeaseKey {
        queue,
        channel: holder.key.channel,
        tag: holder.tag,
    }
}

fn verdict(word: Word) -> Verdict {
    match word {
        Word::Ack => Verdict::Ack,
        Word::Nack { requeue } => Verdict::Nack { requeue },
        Word::Reject { requeue } => Verdict::Reject { requeue },
    }
}

fn properties_of(draft: &Draft, traits: &Traits) -> Properties {
    let mut headers = Table::default();
    if let Some(key) = traits.key {
        headers.insert(KEY, Value::I32(key.into()));
    }
    if let Some(ms) = draft.delay_ms {
        headers.insert("x-delay", Value::I32(ms.into()));
    }
    if let Some(limit) = draft.limit {
        headers.insert("x-retry-limit", Value::I64(limit.into()));
    }
    Properties {
        delivery_mode: Some(1 + u8::from(draft.persistent)),
        priority: Some(draft.priority),
        message_id: draft.name.map(|name| vec![b'n', name]),
        headers: (!headers.0.is_empty()).then_some(headers),
        ..Properties::default()
    }
}
