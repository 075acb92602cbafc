//! The end of a delivery: ack, return, failure, retry; `dead` has what follows the last one.
//!
//! Keeps: a move between queues is one commit; the work rules bound every failure (I5).
//! In: `gateway::session`, `time`.

use super::*;

impl Shard {
    /// What a client says of a delivery, or with `multiple` of all up to it. False: the tag is not
    /// known on this channel.
    pub fn conclude(
        &mut self,
        key: ChannelKey,
        (tag, multiple): (u64, bool),
        verdict: Verdict,
    ) -> bool {
        let known = match verdict {
            Verdict::Ack => self.ack(key, tag, multiple),
            Verdict::Nack { requeue } => self.nack(key, tag, multiple, requeue),
            Verdict::Reject { requeue } => {
                self.take_back(key, (tag, false), requeue, Return::Rejected)
            }
        };
        match known && !multiple {
            true => true,
            false => self.settled_late(key, (tag, multiple), verdict) || known,
        }
    }

    /// Acknowledges. False: the tag is not known on this channel.
    pub fn ack(&mut self, key: ChannelKey, tag: u64, multiple: bool) -> bool {
        let Some(runs) = self.take_unacked(key, tag, multiple) else {
            return false;
        };
        self.acked(key, runs);
        true
    }

    /// Acknowledges `count` tags from `first` on, which came one by one. Answers how many from the
    /// front are settled now; the tag after them is not known on this channel.
    pub fn ack_run(&mut self, key: ChannelKey, first: u64, count: u32) -> u32 {
        let Some(channel) = self.channel(key) else {
            return 0;
        };
        let runs = take_tags(&mut channel.unacked, first, count);
        let done = runs.iter().map(|run| run.count).sum();
        self.acked(key, runs);
        done
    }

    pub(super) fn acked(&mut self, key: ChannelKey, runs: Vec<Unacked>) {
        let mut runs = runs.into_iter().peekable();
        while let Some(run) = runs.next() {
            self.counters.acked += u64::from(run.count);
            if run.started > 0 {
                self.measure(run.queue, run.started, run.count);
            }
            self.settle(run.queue, run.seq, run.count);
            self.credit(key, &run);
            // One look at a queue serves all its messages.
            if runs.peek().is_none_or(|next| next.queue != run.queue) {
                self.pump(run.queue);
            }
        }
    }

    /// basic.nack. False: the tag is not known on this channel.
    pub fn nack(&mut self, key: ChannelKey, tag: u64, multiple: bool, requeue: bool) -> bool {
        self.take_back(key, (tag, multiple), requeue, Return::Given)
    }

    fn take_back(
        &mut self,
        key: ChannelKey,
        (tag, multiple): (u64, bool),
        requeue: bool,
        why: Return,
    ) -> bool {
        let Some(runs) = self.take_unacked(key, tag, multiple) else {
            return false;
        };
        for run in runs {
            if requeue {
                self.give_back(&run, run.seq, run.count, why);
            } else {
                self.fail(&run, Fault::Rejected, None);
            }
            self.credit(key, &run);
            self.pump(run.queue);
        }
        true
    }

    /// basic.recover with requeue.
    pub fn recover(&mut self, key: ChannelKey) {
        if let Some(runs) = self.take_unacked(key, 0, true) {
            let queues: Vec<QueueId> = runs.iter().map(|run| run.queue).collect();
            for run in runs {
                self.give_back(&run, run.seq, run.count, Return::Recovered);
                self.credit(key, &run);
            }
            queues.into_iter().for_each(|queue| self.pump(queue));
        }
    }

    pub(super) fn credit(&mut self, key: ChannelKey, run: &Unacked) {
        if let Some(channel) = self.channel(key).filter(|_| !run.consumer.is_empty()) {
            channel.in_window = channel.in_window.saturating_sub(run.count);
            if channel.window > 0 {
                let others: Vec<QueueId> = channel.consumers.values().copied().collect();
                others
                    .into_iter()
                    .filter(|id| *id != run.queue)
                    .for_each(|id| self.pump(id));
            }
        }
        if let Some(queue) = self.queues.get_mut(&run.queue)
            && let Some(consumer) = queue.consumers.find(key, &run.consumer)
        {
            consumer.unacked = consumer.unacked.saturating_sub(run.count);
        }
    }

    pub(super) fn take_unacked(
        &mut self,
        key: ChannelKey,
        tag: u64,
        multiple: bool,
    ) -> Option<Vec<Unacked>> {
        let channel = self.channel(key)?;
        let list = &mut channel.unacked;
        let mut out = Vec::new();
        if multiple {
            if tag != 0 && tag >= channel.next_tag {
                return None;
            }
            let known = tag == 0 || list.front().is_some_and(|run| run.first <= tag);
            if !known {
                return None;
            }
            while let Some(front) = list.front_mut() {
                let end = front.first + u64::from(front.count);
                if tag == 0 || end - 1 <= tag {
                    out.extend(list.pop_front());
                } else if front.first <= tag {
                    let n = (tag + 1 - front.first) as u32;
                    out.push(front.split_front(n));
                    break;
                } else {
                    break;
                }
            }
            return Some(out);
        }
        out = take_tags(list, tag, 1);
        (!out.is_empty()).then_some(out)
    }

    pub(crate) fn settle(&mut self, id: QueueId, seq: Seq, count: u32) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let settled = queue.log.settle(seq, count);
        if !queue.failures.is_empty() {
            (seq..seq + u64::from(count)).for_each(|seq| drop(queue.failures.remove(&seq)));
        }
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        self.release(settled.tickets);
    }

    /// Back to its place, at once or later; a return may count, and may be one too many.
    pub(super) fn give_back(&mut self, run: &Unacked, seq: Seq, count: u32, why: Return) {
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            return;
        };
        let (work, counts) = (queue.arguments.work.is_some(), queue.arguments.counts);
        if work && !matches!(why, Return::Left | Return::Recovered) {
            (seq..seq + u64::from(count)).for_each(|seq| self.return_to_work(run, seq, why));
        } else if counts && !work {
            (seq..seq + u64::from(count)).for_each(|seq| self.return_counted(run, seq, why));
        } else {
            queue.log.put_back(seq, count, run.own.clone());
        }
    }

    /// On a work queue a return is an attempt.
    fn return_to_work(&mut self, run: &Unacked, seq: Seq, why: Return) {
        let fault = match why {
            Return::Late => Fault::LeaseEnded,
            Return::Lost => Fault::Lost,
            _ => Fault::Returned,
        };
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            return;
        };
        let content = run.own.clone().or_else(|| queue.log.content(seq));
        let Some(content) = content else {
            return self.leave_undecided(run.queue, seq, Failing::Returned(why));
        };
        let Some(work) = queue.work_for(&content) else {
            return;
        };
        let known = queue.log.attempts.get(&seq).copied().unwrap_or(0);
        if known < work.retry_limit {
            queue.note_failure(seq, fault, None);
            return self.put_back_counted(run, seq);
        }
        let one = Unacked {
            seq,
            count: 1,
            own: run.own.clone(),
            ..run.empty()
        };
        self.fail(&one, fault, None);
    }

    /// Where returns are counted they may end in a delay, or be too many.
    fn return_counted(&mut self, run: &Unacked, seq: Seq, why: Return) {
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            return;
        };
        let returns = queue.log.attempts.get(&seq).copied().unwrap_or(0) + 1;
        let asked = &queue.arguments;
        let too_many = asked.delivery_limit.is_some_and(|limit| returns > limit);
        let delay = asked.delayed_retry.filter(|delays| match why {
            Return::Given | Return::Recovered => delays.returned,
            Return::Rejected | Return::Lost | Return::Late => delays.failed,
            Return::Left => false,
        });
        if !too_many && delay.is_none() {
            queue.log.attempts.insert(seq, returns);
            return self.put_back_counted(run, seq);
        }
        let Some(piece) = run.own.clone().or_else(|| queue.log.content(seq)) else {
            return self.leave_undecided(run.queue, seq, Failing::Returned(why));
        };
        queue.log.attempts.insert(seq, returns);
        if too_many {
            return self.bury(run.queue, &piece, Reason::DeliveryLimit);
        }
        let ms = delay.map_or(0, |delays| retry::delayed_ms(&delays, returns));
        let raw = piece.block.properties(piece.index(0)).to_vec();
        self.park(run.queue, (seq, &piece), &raw, returns, ms);
    }

    /// Back to its place, and the next commit writes how often that was.
    fn put_back_counted(&mut self, run: &Unacked, seq: Seq) {
        let Some(queue) = self.queues.get_mut(&run.queue) else {
            return;
        };
        queue.log.put_back(seq, 1, run.own.clone());
        if !queue.spec.durable {
            return;
        }
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        match &run.own {
            _ if planted(Planted::CountUnwritten) && run.own.is_none() => {}
            _ if planted(Planted::RowUnwritten) && run.own.is_some() => {}
            // It is in a row of its own, which tells its count as well.
            Some(piece) if queue.log.stragglers.contains(&seq) => {
                let mut encoder = segment::Encoder::default();
                encoder.push(&piece.block, piece.index(0), 0, 0);
                let (index, data) = encoder.finish();
                let row = WaitingRow {
                    queue: run.queue,
                    seq,
                    due_at: clock::now(),
                    attempt: queue.log.attempts.get(&seq).copied().unwrap_or(0),
                    accepted_at: queue.log.since.get(&seq).copied().unwrap_or(0),
                    index,
                    data,
                };
                self.pending.waiting.push(row);
                self.rewritten = true;
            }
            _ => queue.log.record_count(seq),
        }
    }

    /// A failure: the next retry on a work queue, else dead-lettered or dropped. `detail`: in the
    /// worker's own words.
    pub(super) fn fail(&mut self, run: &Unacked, fault: Fault, detail: Option<&str>) {
        for offset in 0..run.count {
            let seq = run.seq + u64::from(offset);
            let Some(queue) = self.queues.get_mut(&run.queue) else {
                return;
            };
            if queue.arguments.work.is_none() && queue.arguments.dead_letter_exchange.is_none() {
                self.settle(run.queue, seq, 1);
                continue;
            }
            let piece = match &run.own {
                Some(piece) => Some(piece.clone()),
                None => queue.log.content(seq),
            };
            match (piece, queue.arguments.work.is_some()) {
                (Some(piece), true) => self.fail_work(run.queue, &piece, fault, detail),
                (Some(piece), false) => self.bury(run.queue, &piece, Reason::Rejected),
                (None, _) => {
                    let failing = Failing::Failed(fault, detail.map(attempt::detail));
                    self.leave_undecided(run.queue, seq, failing);
                }
            }
        }
    }

    /// The message's content is on disk only, and with it its own rules: it stays unacked, held by
    /// nobody, until that is read.
    fn leave_undecided(&mut self, id: QueueId, seq: Seq, failing: Failing) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.undecided.insert(seq, failing);
        if let Some(segment) = queue.log.segment_of(seq) {
            self.want_load(id, segment);
        }
    }

    /// Contents may have been read: what failed meets its verdict, as far as they were.
    pub(super) fn decide(&mut self, id: QueueId) {
        let queue = self.queues.get(&id);
        let Some(queue) = queue.filter(|queue| !queue.undecided.is_empty()) else {
            return;
        };
        let mut seqs: Vec<Seq> = queue.undecided.keys().copied().collect();
        seqs.sort_unstable();
        for seq in seqs {
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            if !queue.log.has(seq) {
                // Set aside as damaged.
                queue.undecided.remove(&seq);
                self.settle(id, seq, 1);
                continue;
            }
            if queue.log.content(seq).is_none() {
                if let Some(segment) = queue.log.segment_of(seq) {
                    self.want_load(id, segment);
                }
                continue;
            }
            let Some(failing) = queue.undecided.remove(&seq) else {
                continue;
            };
            let run = Unacked {
                seq,
                count: 1,
                ..Unacked::of(id)
            };
            match failing {
                Failing::Returned(why) => self.give_back(&run, seq, 1, why),
                Failing::Failed(fault, detail) => self.fail(&run, fault, detail.as_deref()),
            }
        }
    }

    /// A message of a work queue waits for its next try, or has had all.
    fn fail_work(&mut self, id: QueueId, piece: &Piece, fault: Fault, detail: Option<&str>) {
        let seq = piece.first;
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(clock::now() as u64 | 1);
        let chance = (self.chance >> 11) as f64 / (1u64 << 53) as f64;
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let Some(work) = queue.work_for(piece) else {
            return;
        };
        let made = queue.note_failure(seq, fault, detail);
        let Some(ms) = retry::backoff_ms(&work, made, chance) else {
            return self.bury(id, piece, Reason::DeliveryLimit);
        };
        let failures = queue.failures.remove(&seq).unwrap_or_default();
        let raw = piece.block.properties(piece.index(0));
        let raw = attempt_properties(raw, made + 1, work.retry_limit, &failures);
        self.tell_retry(piece, ms, detail.unwrap_or(fault.as_str()));
        self.park(id, (seq, piece), &raw, made, ms);
    }

    fn tell_retry(&mut self, piece: &Piece, ms: u64, error: &str) {
        if let Some(id) = job_of(&piece.block, piece.index(0)) {
            let error = JobError {
                code: "worker-error".into(),
                detail: error.to_owned(),
            };
            self.pending.jobs.push(JobChange::Retrying {
                id,
                next_attempt_at: clock::now() + ms as i64 * 1000,
                error,
            });
        }
    }

    /// Moves a message, with these properties, to a waiting row until its next try.
    pub(super) fn park(
        &mut self,
        id: QueueId,
        (seq, piece): (Seq, &Piece),
        raw: &[u8],
        failures: u32,
        ms: u64,
    ) {
        let now = clock::now();
        let due_at = now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000));
        self.counters.retried += 1;
        let mut block = Block::default();
        let index = piece.index(0);
        block.push_copy(&piece.block, index, piece.block.address(index), Some(raw));
        let mut encoder = segment::Encoder::default();
        encoder.push(&block, 0, 0, 0);
        let (index, data) = encoder.finish();
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.log.park(seq, due_at, failures, queue.spec.durable);
        Self::mark_dirty(&mut self.dirty, &self.writer, queue);
        if queue.spec.durable {
            let row = WaitingRow {
                queue: id,
                seq,
                due_at,
                attempt: failures,
                accepted_at: queue.log.since.get(&seq).copied().unwrap_or(0),
                index,
                data,
            };
            self.pending.waiting.push(row);
        } else {
            let piece = Piece::new(seq, 1, Arc::new(block), 0, due_at);
            queue.log.parked.insert(seq, piece);
        }
        self.watch(id);
        self.writer.notify_one();
    }

    /// Rows that were asked for but not found: their commit is still under way, so the next tick
    /// asks again.
    pub(crate) fn not_there_yet(&mut self, id: QueueId, seqs: &[Seq]) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for seq in seqs {
            if queue.log.is_waiting(*seq) && !queue.log.parked.contains(*seq) {
                queue.log.waiting.ask_again(*seq);
            }
        }
    }

    /// Which of these contents may come out of the queue's rows now.
    pub(crate) fn may_read_back(&self, id: QueueId, seqs: &[Seq]) -> Vec<Seq> {
        let Some(log) = self.queues.get(&id).map(|queue| &queue.log) else {
            return Vec::new();
        };
        let all = log.read_back_bytes() < READ_BACK_BYTES;
        let urgent = !all && time::reads_urgent(log);
        let may = |seq: &&Seq| all || urgent && log.waiting.is_urgent(**seq);
        seqs.iter().filter(may).copied().collect()
    }

    /// A waiting row was read: its time has come, or comes soon.
    pub(crate) fn woken(&mut self, row: &WaitingRow) {
        // Its age as a ready message begins here, also after a restart.
        let Some(decoded) = segment::decode(&row.index, row.data.clone(), row.seq, row.due_at)
        else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&row.queue) else {
            return;
        };
        let Some(piece) = decoded.pieces.into_iter().next() else {
            return;
        };
        // The row of an earlier failure, while that of the newest one is still under way.
        let old = row.attempt != queue.log.attempts.get(&row.seq).copied().unwrap_or(0);
        if row.is_aged() && queue.log.is_waiting(row.seq) {
            queue.log.since.entry(row.seq).or_insert(row.accepted_at);
        }
        match queue.log.waiting.due_of(row.seq).filter(|_| !old) {
            Some(due) if queue.log.waiting.is_told(due) || planted(Planted::WokenEarly) => {
                self.wake(row.queue, row.seq, piece);
                self.pump(row.queue);
            }
            Some(_) => queue.log.parked.insert(row.seq, piece),
            None => {}
        }
    }
}

impl Queue {
    /// The rules of work for a message, whose own headers count.
    fn work_for(&self, piece: &Piece) -> Option<Work> {
        let work = self.arguments.work.as_ref()?;
        Some(retry::for_message(work, &piece.block, piece.index(0)))
    }

    /// One more attempt has failed; answers how many have.
    fn note_failure(&mut self, seq: Seq, fault: Fault, detail: Option<&str>) -> u32 {
        let made = self.log.attempts.entry(seq).or_default();
        *made += 1;
        let failure = Failure {
            attempt: *made,
            at: clock::now(),
            fault,
            detail: detail.map(attempt::detail),
        };
        let known = self.failures.entry(seq).or_default();
        if known.len() == attempt::RECORD_MAX {
            known.remove(1);
        }
        known.push(failure);
        *made
    }

    /// What is known of the attempts of a message that ends in a work queue.
    pub(super) fn attempts_of(&self, piece: &Piece) -> Option<Attempts> {
        let failures = self.failures.get(&piece.first).cloned().unwrap_or_default();
        let retry_limit = self.work_for(piece)?.retry_limit;
        let count = self.log.attempts.get(&piece.first).copied().unwrap_or(0);
        (count > 0).then_some(Attempts {
            count,
            retry_limit,
            failures,
        })
    }
}

/// Takes the tags from `first` on, at most `count`, up to the first that is not there.
pub(super) fn take_tags(list: &mut VecDeque<Unacked>, first: u64, count: u32) -> Vec<Unacked> {
    let (mut tag, end) = (first, first.saturating_add(u64::from(count)));
    let mut at = list.partition_point(|run| run.first + u64::from(run.count) <= tag);
    let mut out = Vec::new();
    while tag < end {
        let Some(run) = list.get_mut(at).filter(|run| run.first <= tag) else {
            break;
        };
        let before = (tag - run.first) as u32;
        let taken = (run.count - before).min(u32::try_from(end - tag).unwrap_or(u32::MAX));
        tag += u64::from(taken);
        if before == 0 && taken == run.count {
            out.extend(list.remove(at));
            continue;
        }
        if before > 0 {
            let front = run.split_front(before);
            list.insert(at, front);
            at += 1;
        }
        let run = &mut list[at];
        if taken == run.count {
            out.extend(list.remove(at));
        } else {
            out.push(run.split_front(taken));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u32) -> Unacked {
        Unacked {
            first,
            count,
            queue: QueueId(1),
            seq: first + 1000,
            consumer: Arc::from(&b"c"[..]),
            redelivered: false,
            own: None,
            deadline: None,
            patience_ms: 0,
            started: 0,
            handed_at: 0,
            leased: false,
        }
    }

    /// The tags in a list, checking that each run's seq went along with its tag.
    fn tags<'a>(list: impl IntoIterator<Item = &'a Unacked>) -> Vec<u64> {
        let of = |run: &Unacked| {
            assert!(run.count > 0 && run.seq == run.first + 1000);
            run.first..run.first + u64::from(run.count)
        };
        list.into_iter().flat_map(of).collect()
    }

    #[test]
    fn tags_are_taken_from_runs_up_to_the_first_that_is_missing() {
        // Tags 1 to 12 but for 6: in runs of three, one and five.
        for first in 0..14 {
            for count in 1..14 {
                let mut list = VecDeque::from([run(1, 3), run(4, 1), run(5, 1), run(7, 6)]);
                let all = tags(&list);
                let want: Vec<u64> = (first..first + u64::from(count))
                    .take_while(|tag| all.contains(tag))
                    .collect();
                let taken = take_tags(&mut list, first, count);
                assert_eq!(tags(&taken), want, "{count} from {first}");
                let left: Vec<u64> = all.into_iter().filter(|t| !want.contains(t)).collect();
                assert_eq!(tags(&list), left, "{count} from {first}");
            }
        }
    }
}
