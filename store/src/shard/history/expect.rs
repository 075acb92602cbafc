//! The queues compared with the model: what came in, what went out, where everything stands.
//!
//! Keeps: each check names the promise that it is about.
//! In: `world`, after each step.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use amqp::field::Value;

use super::model::{Death, Fault, Holder, Model, Place, Spot};
use super::rules::{COUNT, RULES};
use super::world::{Outcome, Promise, World};
use super::*;
use crate::queue::places::Stand;

/// What a client was told.
pub(super) enum Heard {
    Delivery {
        queue: usize,
        holder: Holder,
        piece: Piece,
        redelivered: bool,
        lease_ms: Option<u64>,
    },
    Confirm {
        key: ChannelKey,
        number: u64,
        done: bool,
    },
}

/// Each delivery with its end, as the channels say.
type Held = BTreeMap<Spot, (Holder, Option<Micros>)>;

impl World {
    /// Takes what lies in the outboxes.
    pub(super) fn listen(&mut self) {
        loop {
            let before = self.heard.len();
            for session in self.sessions {
                for out in self.shard.take_outbox(session) {
                    self.hear(session, out);
                }
            }
            if self.heard.len() == before {
                return;
            }
        }
    }

    fn hear(&mut self, session: usize, out: Out) {
        let key = |channel| ChannelKey { session, channel };
        match out {
            Out::Deliver {
                channel,
                tag,
                first,
                piece,
                redelivered,
            } => {
                let name = std::str::from_utf8(&tag).unwrap_or_default();
                let queue = rules::index_of(name).expect("a tag is its queue's name");
                for offset in 0..piece.count {
                    let holder = Holder {
                        key: key(channel),
                        tag: first + u64::from(offset),
                    };
                    self.heard.push(Heard::Delivery {
                        queue,
                        holder,
                        piece: piece.slice(offset, 1),
                        redelivered,
                        lease_ms: Model::lease_ms(queue, None, false),
                    });
                }
            }
            Out::Confirm {
                channel,
                first,
                count,
            } => {
                for number in first..first + count {
                    let (key, done) = (key(channel), true);
                    self.heard.push(Heard::Confirm { key, number, done });
                }
            }
            Out::Refuse { channel, number } => {
                let (key, done) = (key(channel), false);
                self.heard.push(Heard::Confirm { key, number, done });
            }
            _ => {}
        }
    }

    /// What went from one queue to another is at the end of that, and what came from outside, too.
    pub(super) fn settle_arrivals(&mut self) -> Outcome {
        self.find_queues();
        self.decide();
        for queue in 0..COUNT {
            let Some(id) = self.ids[queue] else {
                continue;
            };
            let next = self.shard.queues[&id].log.next_seq();
            for seq in self.next[queue]..next {
                self.arrive(queue, id, seq)?;
            }
            self.next[queue] = next;
        }
        match self.expected.first() {
            Some(lost) => Err(format!("I1: lost on its way: {lost:?}")),
            None => Ok(()),
        }
    }

    fn arrive(&mut self, queue: usize, id: QueueId, seq: Seq) -> Outcome {
        let name = RULES[queue].name;
        let log = &self.shard.queues[&id].log;
        let waits = || {
            let rows = &self.shard.pending.waiting;
            let row = rows.iter().find(|row| row.queue == id && row.seq == seq)?;
            let decoded = segment::decode(&row.index, row.data.clone(), seq, self.now())?;
            decoded.pieces.into_iter().next()
        };
        let found = log.content_of(seq).or_else(waits);
        let found = found.or_else(|| self.heard_content(queue, seq));
        let Some(piece) = found else {
            return Err(format!("I1: {seq} of {name} is of no message"));
        };
        let message = id_of(&piece);
        let known = self
            .expected
            .iter()
            .position(|arrival| arrival.queue == queue && arrival.copy.traits.id == message);
        let Some(at) = known else {
            return Err(format!("I1: {message} came to {name} ({seq}) from nowhere"));
        };
        let before = &self.expected[..at];
        let came = |arrival: &&model::Arrival| arrival.queue == queue && arrival.death.is_none();
        if self.expected[at].death.is_none() && before.iter().any(|one| came(&one)) {
            return Err(format!("I4: {message} came to {name} before its turn"));
        }
        let arrival = self.expected.remove(at);
        if let Some(death) = arrival.death {
            check_death(&piece, &death).map_err(|fault| format!("I5: {message}: {fault}"))?;
        }
        self.model.copies.insert((queue, seq), arrival.copy);
        Ok(())
    }

    fn heard_content(&self, meant: usize, seq: Seq) -> Option<Piece> {
        self.heard.iter().find_map(|heard| match heard {
            Heard::Delivery { queue, piece, .. } if *queue == meant && piece.first == seq => {
                Some(piece.clone())
            }
            _ => None,
        })
    }

    /// Contents that were read decide what becomes of their messages, and wake those that were due.
    fn decide(&mut self) {
        let now = self.now();
        for ((queue, seq), copy) in &mut self.model.copies {
            let known = self.ids[*queue].and_then(|id| self.shard.queues.get(&id));
            if let Place::Waiting { from, .. } = copy.place
                && from <= now
                && known.is_some_and(|queue| !queue.log.is_waiting(*seq))
            {
                copy.place = Place::Ready;
            }
        }
        let copies = self.model.copies.iter();
        let open: Vec<(Spot, Fault)> = copies
            .filter_map(|(spot, copy)| match copy.place {
                Place::Undecided(fault) => Some((*spot, fault)),
                _ => None,
            })
            .collect();
        for ((queue, seq), fault) in open {
            let known = self.ids[queue].and_then(|id| self.shard.queues.get(&id));
            if known.is_some_and(|queue| !queue.undecided.contains_key(&seq)) {
                let gone = self.model.fail((queue, seq), fault, self.now());
                self.expected.extend(gone);
            }
        }
    }

    /// Deliveries of a step: of messages whose turn it was, one at a time, and saying what they
    /// must.
    pub(super) fn see(&mut self, standing: &Model) -> Outcome {
        let mut order: BTreeMap<usize, Vec<Spot>> = BTreeMap::new();
        for heard in std::mem::take(&mut self.heard) {
            let Heard::Delivery {
                queue,
                holder,
                piece,
                redelivered,
                lease_ms,
            } = heard
            else {
                self.heard.push(heard);
                continue;
            };
            let spot = (queue, piece.first);
            let name = RULES[queue].name;
            let told = |fault: String| format!("{} of {name}: {fault}", piece.first);
            self.deliver(spot, holder, lease_ms).map_err(told)?;
            self.check_message(spot, &piece, redelivered)
                .map_err(told)?;
            self.handed.insert(spot);
            order.entry(holder.key.session).or_default().push(spot);
        }
        self.check_order(standing, &order)
    }

    fn deliver(&mut self, spot: Spot, holder: Holder, lease_ms: Option<u64>) -> Outcome {
        let now = self.now();
        let Some(known) = self.model.copies.get_mut(&spot) else {
            return Err("I3: delivered, but settled or never accepted".into());
        };
        if known.place != Place::Ready {
            return Err(format!("I3: delivered, but {:?}", known.place));
        }
        let copy = *known;
        if self.model.paused[spot.0] {
            return Err("delivered, but its queue is paused".into());
        }
        if !self.model.has_room(spot, &copy) {
            return Err("I4: delivered, but its key is busy".into());
        }
        if let Some(retry) = &RULES[spot.0].retry
            && copy.failures > copy.limit(retry)
        {
            return Err(format!("I5: delivered after {} failures", copy.failures));
        }
        let span_ms = lease_ms.unwrap_or(0);
        let place = Place::Out {
            holder,
            until: lease_ms.map(|ms| now + ms.cast_signed() * 1000),
            span_ms,
        };
        self.model.copies.get_mut(&spot).expect("it is there").place = place;
        Ok(())
    }

    fn check_message(&self, spot: Spot, piece: &Piece, redelivered: bool) -> Outcome {
        let copy = &self.model.copies[&spot];
        if id_of(piece) != copy.traits.id {
            return Err(format!(
                "I1: it is {}, not {}",
                id_of(piece),
                copy.traits.id
            ));
        }
        let was_out = self.handed.contains(&spot);
        if was_out && !redelivered {
            return Err("I3: comes again and does not say so".into());
        }
        if redelivered && !was_out && !copy.recovered {
            return Err("I3: says that it comes again, and never was out".into());
        }
        let number = |name| header(piece, name).and_then(|value| value.as_i64());
        let (rule, failures) = (&RULES[spot.0], i64::from(copy.failures));
        let expected = match (&rule.retry, rule.returns, failures) {
            (None, None, _) => return Ok(()),
            (Some(_), _, 0) => [("x-attempt", None), ("x-max-attempts", None)],
            (Some(retry), _, _) => {
                let most = i64::from(copy.limit(retry)) + 1;
                let attempt = failures + 1;
                [("x-attempt", Some(attempt)), ("x-max-attempts", Some(most))]
            }
            (None, Some(_), 0) => return Ok(()),
            (None, Some(_), _) => {
                let count = Some(failures);
                [("x-delivery-count", count), ("x-acquired-count", count)]
            }
        };
        for (name, value) in expected {
            if number(name) != value {
                return Err(format!("I5: {name} is {:?}, not {value:?}", number(name)));
            }
        }
        Ok(())
    }

    /// Of messages that were ready all the time, none was overtaken.
    fn check_order(&self, standing: &Model, order: &BTreeMap<usize, Vec<Spot>>) -> Outcome {
        let all: Vec<Spot> = order.values().flatten().copied().collect();
        let stood = |spot: &Spot| {
            let copy = standing.copies.get(spot);
            copy.is_some_and(|copy| copy.place == Place::Ready)
        };
        let mut model = standing.clone();
        model
            .copies
            .extend(self.model.copies.iter().map(|(spot, copy)| (*spot, *copy)));
        let overtakes = |later: &Spot, first: &Spot| {
            later.0 == first.0 && model.precedes(first.0, first.1, later.1)
        };
        let left = self.model.copies.iter().filter(|(spot, copy)| {
            copy.place == Place::Ready && stood(spot) && !all.contains(spot)
        });
        for (first, _) in left {
            if let Some(later) = all.iter().find(|later| overtakes(later, first)) {
                let name = RULES[first.0].name;
                return Err(format!("I4: {} of {name} went before {}", later.1, first.1));
            }
        }
        for list in order.values() {
            for (at, first) in list.iter().enumerate() {
                let once = all.iter().filter(|spot| *spot == first).count() == 1;
                if once
                    && stood(first)
                    && let Some(later) = list[..at].iter().find(|later| overtakes(later, first))
                {
                    let name = RULES[first.0].name;
                    return Err(format!("I4: {} of {name} came before {}", later.1, first.1));
                }
            }
        }
        Ok(())
    }

    /// Confirms come once, and not before what they promise is true.
    pub(super) fn see_confirms(&mut self) -> Outcome {
        for heard in std::mem::take(&mut self.heard) {
            let Heard::Confirm { key, number, done } = heard else {
                continue;
            };
            let Some(claim) = self.claims.remove(&(key, number)) else {
                return Err(format!("I2: nobody waits for confirm {number}"));
            };
            let mut copies = self.model.copies.values();
            let on_disk = claim.stamp <= self.durable_cut;
            let true_now = match claim.kind {
                Promise::Refused => !done,
                Promise::None => done,
                Promise::Strict => done && on_disk,
                Promise::Loose => {
                    done && (on_disk || !copies.any(|copy| copy.traits.id == claim.id))
                }
            };
            if !true_now {
                let id = claim.id;
                return Err(format!(
                    "I2: {id} is confirmed ({done}) before it is on disk"
                ));
            }
        }
        Ok(())
    }

    /// Everything stands where the model says.
    pub(super) fn compare(&mut self) -> Outcome {
        self.find_queues();
        let mut held = self.unacked()?;
        for (queue, rule) in RULES.iter().enumerate() {
            if let Some(id) = self.ids[queue] {
                let compared = self.compare_queue(queue, id, &mut held);
                compared.map_err(|fault| format!("{}: {fault}", rule.name))?;
            }
        }
        match held.first_key_value() {
            Some((spot, by)) => Err(format!("I3: {spot:?} is gone, but held by {by:?}")),
            None => self.compare_redrives(),
        }
    }

    fn compare_queue(&mut self, queue: usize, id: QueueId, held: &mut Held) -> Outcome {
        let known = &self.shard.queues[&id];
        let log = &known.log;
        let row = |segment| self.row(log, segment).into_iter().collect::<HashSet<Seq>>();
        let stands = log.stands(row).map_err(|fault| format!("I1: {fault}"))?;
        if let Some(seq) = known.failures.keys().find(|seq| !stands.contains_key(seq)) {
            return Err(format!("failures of {seq}, which is settled"));
        }
        if known.spec.paused != self.model.paused[queue] {
            return Err(format!("paused is {}", known.spec.paused));
        }
        let here = self.model.copies.range((queue, 0)..=(queue, Seq::MAX));
        let mut gone = here.filter(|((_, seq), _)| !stands.contains_key(seq));
        if let Some(((_, seq), copy)) = gone.next() {
            return Err(format!("I1: {seq} is lost: {copy:?}"));
        }
        let now = clock::now();
        for (seq, stand) in stands {
            let told = |fault: String| format!("{seq}: {fault}");
            let Some(copy) = self.model.copies.get_mut(&(queue, seq)) else {
                return Err(format!("I1: {seq} is back or was never there"));
            };
            let attempts = log.attempts.get(&seq).copied().unwrap_or(0);
            if attempts != copy.failures {
                let failures = copy.failures;
                return Err(told(format!("I5: {attempts} attempts, not {failures}")));
            }
            let due = log.waiting.due_of(seq);
            copy.place = agree(stand, copy.place, due, now).map_err(told)?;
            let by = held.remove(&(queue, seq));
            is_held_by(queue, copy.place, by).map_err(told)?;
        }
        Ok(())
    }

    fn compare_redrives(&self) -> Outcome {
        for (name, known) in &self.model.redrives {
            let Some(row) = self.shard.redrives.get(&**name) else {
                return Err(format!("{name} is forgotten"));
            };
            let runs = row.state == RedriveState::Running;
            if (row.next, row.moved, runs) != (known.next, known.moved, known.runs) {
                let is = (row.next, row.moved, runs);
                return Err(format!("{name}: {is:?}, not {known:?}"));
            }
        }
        Ok(())
    }

    /// Who holds what, and until when, as the channels say.
    fn unacked(&self) -> Outcome<Held> {
        let mut out = BTreeMap::new();
        for (&session, slot) in &self.shard.sessions {
            for (&channel, slot) in &slot.channels {
                for run in &slot.unacked {
                    let queue = self.ids.iter().position(|id| *id == Some(run.queue));
                    let queue = queue.ok_or("a delivery of no queue")?;
                    for offset in 0..u64::from(run.count) {
                        let key = ChannelKey { session, channel };
                        let tag = run.first + offset;
                        let holder = Holder { key, tag };
                        let before = out.insert((queue, run.seq + offset), (holder, run.deadline));
                        if let Some((other, _)) = before {
                            let seq = run.seq + offset;
                            return Err(format!("I3: {seq} is held by {other:?} and {holder:?}"));
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    /// After a rest nobody waits for nothing: no confirm, no consumer, no message whose time came.
    pub(super) fn is_live(&self) -> Outcome {
        let now = self.now();
        if let Some(((_, number), claim)) = self.claims.iter().next() {
            return Err(format!("I2: confirm {number} of {} never comes", claim.id));
        }
        for (spot, copy) in &self.model.copies {
            let name = RULES[spot.0].name;
            match copy.place {
                Place::Waiting { from, .. } if from <= now => {
                    return Err(format!("{} of {name} was due at {from}", spot.1));
                }
                Place::Undecided(fault) => {
                    return Err(format!("{} of {name} is still {fault:?}", spot.1));
                }
                _ => {}
            }
        }
        for (&(key, queue), &prefetch) in &self.consumers {
            let is_its = |holder: Holder| holder.key == key;
            let copies = self.model.copies.range((queue, 0)..=(queue, Seq::MAX));
            let out: BTreeSet<Spot> = copies
                .clone()
                .filter(|(_, copy)| copy.holder().is_some_and(is_its))
                .map(|(spot, _)| *spot)
                .collect();
            if self.model.paused[queue] || out.len() >= prefetch as usize {
                continue;
            }
            let mut ready = copies.filter(|(_, copy)| copy.place == Place::Ready);
            if let Some((spot, _)) = ready.find(|(spot, copy)| self.model.has_room(**spot, copy)) {
                let name = RULES[queue].name;
                return Err(format!(
                    "{} of {name} is ready, and a consumer waits",
                    spot.1
                ));
            }
        }
        Ok(())
    }
}

/// Who holds a message, against who must.
fn is_held_by(queue: usize, place: Place, by: Option<(Holder, Option<Micros>)>) -> Outcome {
    let measured = RULES[queue].retry.is_some_and(|r| r.lease_ms.is_none());
    match (place, by) {
        (Place::Out { holder, until, .. }, Some((by, deadline)))
            if holder == by && (deadline == until || measured) =>
        {
            Ok(())
        }
        (Place::Out { .. }, None) => Err(format!("I3: {place:?}, but nobody holds it")),
        (_, Some(by)) => Err(format!("I3: {place:?}, but held by {by:?}")),
        (_, None) => Ok(()),
    }
}

/// Where a message stands against where it must stand; answers what is known now.
fn agree(stand: Stand, place: Place, due: Option<Micros>, now: Micros) -> Outcome<Place> {
    match (stand, place) {
        (Stand::Ready, Place::Ready)
        | (Stand::Unacked, Place::Out { .. } | Place::Undecided(_)) => Ok(place),
        (Stand::Waiting, Place::Waiting { from, to }) => {
            let due = due.ok_or("it waits, but for no instant")?;
            let fits = match from {
                // It comes back from a crash, and its time had come before.
                0 => due <= now,
                _ => (from..=to).contains(&due),
            };
            match fits {
                true => Ok(Place::Waiting { from: due, to: due }),
                false => Err(format!("it waits until {due}, not {from} to {to}")),
            }
        }
        _ => Err(format!("I1: it is {stand:?}, not {place:?}")),
    }
}

fn id_of(piece: &Piece) -> u64 {
    let body = piece.block.body(piece.index(0));
    (*body).try_into().map_or(0, u64::from_be_bytes)
}

fn header(piece: &Piece, name: &str) -> Option<Value> {
    let raw = piece.block.properties(piece.index(0));
    Properties::parse(raw).ok()?.header(name).cloned()
}

/// What a dead message carries about its end.
fn check_death(piece: &Piece, death: &Death) -> Outcome {
    let raw = piece.block.properties(piece.index(0));
    let properties = Properties::parse(raw).map_err(|_| "unreadable properties")?;
    let newest = dead_letter::newest(&properties).ok_or("no x-death")?;
    let of = |name| newest.find(name).and_then(Value::as_text);
    let (queue, reason) = (of("queue"), of("reason"));
    if queue != Some(RULES[death.source].name) || reason != Some(death.reason) {
        return Err(format!("died of {reason:?} in {queue:?}, not as {death:?}"));
    }
    if death.failures == 0 {
        return Ok(());
    }
    let number = |name| properties.header(name).and_then(Value::as_i64);
    let (attempt, most) = (number("x-attempt"), number("x-max-attempts"));
    let expected = (death.failures, death.limit + 1);
    if (attempt, most) != (Some(expected.0.into()), Some(expected.1.into())) {
        return Err(format!("attempt {attempt:?} of {most:?}, not {expected:?}"));
    }
    let Some(Value::Array(entries)) = properties.header("x-attempts") else {
        return Err("no record of attempts".into());
    };
    let entry = |entry: &Value| match entry {
        Value::Table(table) => table.find("attempt").and_then(Value::as_i64),
        _ => None,
    };
    let record: Vec<i64> = entries.iter().filter_map(entry).collect();
    let last = i64::from(death.failures);
    // It may have died before, and come back to die once more; each time it failed as often.
    let whole: Vec<i64> = (1..=last).cycle().take(record.len()).collect();
    let is_right = match death.gaps {
        true => record.last() == Some(&last),
        false => !record.is_empty() && record == whole && record.last() == Some(&last),
    };
    match is_right {
        true => Ok(()),
        false => Err(format!("its record is {record:?} after {last} attempts")),
    }
}
