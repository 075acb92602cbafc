//! Leases: until when a delivery must be settled, who gets more time, what comes too late.
//!
//! Keeps: one delivery, one settlement: what comes after a lease's end is ignored and counted, and
//! what was settled is never settled again.
//! In: the timer task, `settle`, `reply`.

use amqp::field::Value;

use super::*;
use crate::topology::arguments::LEASE_MS;

/// Ended leases remembered by a channel, in runs. Of older ones a channel remembers only that they
/// are old: a client that settles none of thousands has no use for a finer answer.
const LATE_MAX: usize = 1024;
/// Of an interim reply's body, what is shown as its message, bytes.
const MESSAGE_SHOWN: usize = 1024;

/// Deliveries of a channel whose lease is over.
#[derive(Default)]
pub(super) struct Late {
    /// In the order of their tags, apart from each other.
    runs: VecDeque<LateRun>,
    /// Tags below it were forgotten: any of them may be late.
    below: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LateRun {
    first: u64,
    count: u32,
    queue: QueueId,
    started: Micros,
}

impl LateRun {
    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

impl Late {
    fn push(&mut self, run: &Unacked) {
        let at = self.runs.partition_point(|known| known.first < run.first);
        let run = LateRun {
            first: run.first,
            count: run.count,
            queue: run.queue,
            started: run.started,
        };
        self.runs.insert(at, run);
        if self.runs.len() > LATE_MAX
            && let Some(oldest) = self.runs.pop_front()
        {
            self.below = self.below.max(oldest.end());
        }
    }

    /// True when the tag (or, with `multiple`, one up to it; 0: any) is of an ended lease.
    fn has(&self, tag: u64, multiple: bool) -> bool {
        let at = self.runs.partition_point(|run| run.end() <= tag);
        let covers = self.runs.get(at).is_some_and(|run| run.first <= tag);
        let one_before = multiple && (at > 0 || tag == 0 && !self.runs.is_empty());
        covers || one_before || tag > 0 && tag < self.below
    }

    /// Takes the tag, or with `multiple` all up to it; 0 means all there are.
    fn take(&mut self, tag: u64, multiple: bool) -> Vec<LateRun> {
        let mut out = Vec::new();
        if multiple {
            let all = tag == 0;
            while let Some(run) = self.runs.front_mut().filter(|run| all || run.first <= tag) {
                if all || run.end() <= tag + 1 {
                    out.extend(self.runs.pop_front());
                    continue;
                }
                let count = (tag + 1 - run.first) as u32;
                out.push(LateRun {
                    count,
                    ..run.clone()
                });
                run.first += u64::from(count);
                run.count -= count;
            }
            return out;
        }
        let at = self.runs.partition_point(|run| run.end() <= tag);
        let Some(run) = self.runs.get(at).filter(|run| run.first <= tag).cloned() else {
            return out;
        };
        self.runs.remove(at);
        let (before, after) = ((tag - run.first) as u32, (run.end() - tag - 1) as u32);
        let part = |first, count| LateRun {
            first,
            count,
            ..run.clone()
        };
        for (first, count) in [(tag + 1, after), (run.first, before)] {
            if count > 0 {
                self.runs.insert(at, part(first, count));
            }
        }
        out.push(part(tag, 1));
        out
    }
}

/// A job that somebody works on: its delivery, and what its worker said of it.
pub(super) struct Running {
    key: ChannelKey,
    queue: QueueId,
    seq: Seq,
    progress: Option<Progress>,
}

impl Running {
    pub(super) fn new(key: ChannelKey, queue: QueueId, seq: Seq) -> Self {
        Self {
            key,
            queue,
            seq,
            progress: None,
        }
    }
}

impl Shard {
    pub(super) fn end_leases(&mut self, now: Micros) {
        if self.next_lease.is_none_or(|at| at > now) {
            return;
        }
        let mut ended = Vec::new();
        let mut impatient = Vec::new();
        for (&session, slot) in &mut self.sessions {
            for (&channel, slot) in &mut slot.channels {
                if slot.next_lease.is_none_or(|at| at > now) {
                    continue;
                }
                let key = ChannelKey { session, channel };
                let mut at = 0;
                while at < slot.unacked.len() {
                    let run = &mut slot.unacked[at];
                    let over = run.deadline.is_some_and(|deadline| deadline <= now);
                    let queue = self.queues.get(&run.queue).filter(|_| over);
                    match queue.map(|queue| run.leased || queue.arguments.work.is_some()) {
                        Some(true) if planted(Planted::LateAckSettles) => {
                            run.deadline = None;
                            let next = Unacked {
                                first: run.first,
                                count: run.count,
                                seq: run.seq,
                                own: run.own.clone(),
                                ..run.empty()
                            };
                            ended.push((key, next));
                        }
                        Some(true) => {
                            slot.late.push(run);
                            ended.extend(slot.unacked.remove(at).map(|run| (key, run)));
                            continue;
                        }
                        Some(false) => impatient.push((key, run.patience_ms)),
                        None => {}
                    }
                    if over {
                        // Told once; the channel is closed by its session.
                        run.deadline = None;
                    }
                    at += 1;
                }
                slot.next_lease = slot.unacked.iter().filter_map(|run| run.deadline).min();
            }
        }
        let channels = self.sessions.values().flat_map(|s| s.channels.values());
        self.next_lease = channels.filter_map(|channel| channel.next_lease).min();
        for (key, ms) in impatient {
            let channel = key.channel;
            self.send(key.session, Out::TimedOut { channel, ms });
        }
        for (key, run) in ended {
            self.counters.leases_ended += u64::from(run.count);
            let why = match planted(Planted::LeaseEndUncounted) {
                true => Return::Left,
                false => Return::Late,
            };
            self.give_back(&run, run.seq, run.count, why);
            self.credit(key, &run);
            self.pump(run.queue);
        }
    }

    /// True when the tag (or, with `multiple`, one up to it) is unacked on the channel.
    pub fn has_unacked(&mut self, key: ChannelKey, tag: u64, multiple: bool) -> bool {
        let Some(channel) = self.channel(key) else {
            return false;
        };
        let list = &channel.unacked;
        if multiple {
            return tag < channel.next_tag && list.front().is_some_and(|run| run.first <= tag);
        }
        let at = list.partition_point(|run| run.first + u64::from(run.count) <= tag);
        list.get(at).is_some_and(|run| run.first <= tag)
    }

    /// True when the tag (or, with `multiple`, one up to it) is of a delivery whose lease is over:
    /// its settlement is ignored, and no error.
    pub fn is_late(&mut self, key: ChannelKey, tag: u64, multiple: bool) -> bool {
        self.counters.leases_ended > 0
            && self
                .channel(key)
                .is_some_and(|channel| tag < channel.next_tag && channel.late.has(tag, multiple))
    }

    /// Takes note of settlements that come too late. False: there is none of them.
    pub(super) fn settled_late(
        &mut self,
        key: ChannelKey,
        (tag, multiple): (u64, bool),
        verdict: Verdict,
    ) -> bool {
        if !self.is_late(key, tag, multiple) {
            return false;
        }
        let Some(channel) = self.channel(key) else {
            return false;
        };
        let runs = channel.late.take(tag, multiple);
        // One of those that are only known to be old.
        self.counters.late += u64::from(runs.is_empty());
        for run in runs {
            self.counters.late += u64::from(run.count);
            // How long it took in truth, or work longer than its lease would never be measured.
            if verdict == Verdict::Ack && run.started > 0 {
                self.measure(run.queue, run.started, run.count);
            }
        }
        true
    }

    /// So many messages of a queue were handed out at an instant and are done now.
    pub(super) fn measure(&mut self, id: QueueId, started: Micros, count: u32) {
        if let Some(queue) = self.queues.get_mut(&id) {
            let durations = queue.durations.get_or_insert_default();
            durations.record(clock::now() - started, count);
        }
    }

    /// The worker says how far it is: its lease begins anew.
    pub(super) fn progressed(&mut self, id: JobId, value: &Value, body: &[u8]) {
        let now = clock::now();
        let Some(running) = self.running.get_mut(&id) else {
            return;
        };
        let percent = match value {
            Value::F64(bits) => Some(f64::from_bits(*bits)),
            Value::F32(bits) => Some(f64::from(f32::from_bits(*bits))),
            value => value.as_i64().map(|n| n as f64),
        };
        let shown = &body[..body.len().min(MESSAGE_SHOWN)];
        running.progress = Some(Progress {
            percent: percent.map(|n| if n > 0.0 { n.min(100.0) } else { 0.0 }),
            message: (!shown.is_empty()).then(|| String::from_utf8_lossy(shown).into_owned()),
            updated_at: now,
        });
        let (key, queue, seq) = (running.key, running.queue, running.seq);
        let channel = self.channel(key);
        let list = channel.map(|channel| &channel.unacked);
        let tag = list.and_then(|list| {
            let holds = |run: &&Unacked| {
                run.queue == queue && (run.seq..run.seq + u64::from(run.count)).contains(&seq)
            };
            let run = list.iter().find(holds)?;
            Some(run.first + seq - run.seq)
        });
        if let Some(tag) = tag {
            self.extend(key, tag, None);
        }
    }

    /// Gives a delivery so many ms from now on, or its lease anew; never less than it has. Answers
    /// until when; none when it is not unacked, or has no lease.
    pub(super) fn extend(&mut self, key: ChannelKey, tag: u64, ms: Option<u64>) -> Option<Micros> {
        let now = clock::now();
        let channel = self.channel(key)?;
        let at = |list: &VecDeque<Unacked>| list.partition_point(|run| run.first < tag);
        let mut one = settle::take_tags(&mut channel.unacked, tag, 1).pop()?;
        let until = later(now, ms.unwrap_or(one.patience_ms));
        let deadline = one.deadline.map(|known| known.max(until));
        if !planted(Planted::ExtendForgotten) {
            one.deadline = deadline;
        }
        let at = at(&channel.unacked);
        channel.unacked.insert(at, one);
        deadline
    }

    /// How far a running job is, as its worker said last.
    pub fn progress(&self, id: JobId) -> Option<&Progress> {
        self.running.get(&id)?.progress.as_ref()
    }
}

impl Queue {
    /// The lease of a delivery on a work queue, ms.
    pub(crate) fn lease_ms(&self) -> Option<u64> {
        let work = self.arguments.work.as_ref()?;
        Some(work.lease_ms.unwrap_or_else(|| self.measured_lease_ms()))
    }

    /// The lease that goes by what the queue's messages take, ms.
    fn measured_lease_ms(&self) -> u64 {
        self.durations
            .as_ref()
            .map_or(LEASE_MS, |durations| durations.lease_ms())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn run(first: u64, count: u32) -> Unacked {
        Unacked {
            first,
            count,
            queue: QueueId(1),
            seq: first,
            consumer: Arc::default(),
            redelivered: false,
            own: None,
            deadline: None,
            patience_ms: 0,
            started: 0,
            handed_at: 0,
            leased: false,
        }
    }

    fn tags(runs: &[LateRun]) -> Vec<u64> {
        runs.iter().flat_map(|run| run.first..run.end()).collect()
    }

    proptest! {
        /// Against a set of tags: runs that do not overlap go in, tags come out once.
        #[test]
        fn late_tags_are_a_set(
            steps in proptest::collection::vec((0..4u8, 0..60u64), 1..80),
        ) {
            let mut late = Late::default();
            let mut model = BTreeSet::new();
            for (kind, tag) in steps {
                if kind == 0 {
                    // Places that hold 1, 2, 3 or 4 tags of five.
                    let (first, count) = (tag * 5 + 1, (tag % 4 + 1) as u32);
                    let all: Vec<u64> = (first..first + u64::from(count)).collect();
                    if all.iter().all(|tag| !model.contains(tag)) {
                        late.push(&run(first, count));
                        model.extend(all);
                    }
                    continue;
                }
                let (tag, multiple) = (tag * 3, kind == 1);
                let meant = |known: &u64| match multiple {
                    true => tag == 0 || *known <= tag,
                    false => *known == tag,
                };
                let expected: Vec<u64> = model.iter().copied().filter(meant).collect();
                prop_assert_eq!(late.has(tag, multiple), !expected.is_empty());
                prop_assert_eq!(tags(&late.take(tag, multiple)), expected.clone());
                expected.iter().for_each(|tag| _ = model.remove(tag));
            }
        }
    }

    #[test]
    fn of_too_many_the_oldest_are_only_known_to_be_old() {
        let mut late = Late::default();
        for n in 0..=LATE_MAX as u64 {
            late.push(&run(n * 2 + 1, 1));
        }
        assert!(late.has(1, false) && late.take(1, false).is_empty());
        assert!(!late.has(2, false), "settled in time");
        assert!(late.has(3, false));
        assert_eq!(late.runs.len(), LATE_MAX);
    }
}
