//! What the writer takes, and what follows when it is on disk.
//!
//! Keeps: a cut is consistent over all queues; confirms go out after the disk has it (I2).
//! In: `log::writer`.

use super::*;

impl Shard {
    /// Everything since the last cut; called by the writer alone.
    pub(crate) fn cut(&mut self, number: u64) -> Cut {
        let mut cut = Cut {
            batch: std::mem::take(&mut self.pending),
            ..Cut::default()
        };
        cut.batch.number = number;
        if std::mem::take(&mut self.rewritten) {
            keep_newest(&mut cut.batch.waiting);
        }
        cut.tickets_below = self.ticket_base + self.tickets.len() as u64;
        cut.waiters = std::mem::take(&mut self.waiters);
        cut.sync = std::mem::take(&mut self.wanted);
        self.fenced.clear();
        let mut over = HashSet::default();
        for id in std::mem::take(&mut self.dirty) {
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            queue.dirty = false;
            Self::save(&mut cut, &mut self.last_segment, queue, false);
            let rows = &mut cut.batch.settled;
            queue.log.settled_rows(|segment, bits| {
                if planted(Planted::SettledUnwritten) {
                    return;
                }
                rows.push(SettledRow {
                    segment,
                    queue: id,
                    bits,
                });
            });
            queue.drop_rows(&mut cut.batch, &mut over);
            let counts = queue.log.take_counts().into_iter();
            let rows = counts.map(|(seq, count)| WaitingRow::count(id, seq, count));
            cut.batch.waiting.extend(rows);
            cut.batch
                .dropped_segments
                .append(&mut queue.log.dead_segments);
            queue.save_keys(&mut cut.batch);
            if let Some(exchange) = &queue.keys_for {
                let names = self.vhosts.get_mut(&queue.spec.vhost);
                let exchange = names.and_then(|names| names.exchanges.get_mut(exchange));
                if let Some(written) = exchange.and_then(|it| it.take_written(clock::now())) {
                    window::save_written(id, written, &mut cut.batch);
                }
            }
            if queue.log.retained.is_some() || !queue.log.unretained.is_empty() {
                Self::save_retained(&mut cut, &mut self.last_segment, queue);
            }
            let all = !queue.consumers.is_empty() || queue.saved_handed == Seq::MAX;
            let handed = if all {
                queue.log.next_seq()
            } else {
                queue.log.handed_to()
            };
            queue.saved_handed = handed;
            let handed = queue.log.handed.max(handed);
            queue.log.handed_pending = handed;
            let (head, next) = (queue.log.head(), queue.log.next_seq());
            cut.heads.push((id, handed, head));
            let unwritten = planted(Planted::HandedUnwritten);
            cut.batch.heads.push(HeadRow {
                queue: id,
                head,
                handed: if unwritten { 0 } else { handed },
                next,
            });
        }
        if !over.is_empty() {
            let waiting = &mut cut.batch.waiting;
            waiting.retain(|row| !over.contains(&(row.queue, row.seq)));
        }
        self.make_room(&mut cut);
        cut
    }

    pub(super) fn save(cut: &mut Cut, last_segment: &mut u64, queue: &mut Queue, pressure: bool) {
        let id = queue.spec.id;
        let retained = queue.log.retained.is_some();
        queue.log.start_saving(pressure, |chunk| {
            *last_segment += 1;
            let segment = SegmentId(*last_segment);
            let settled: Vec<Seq> = match retained {
                true => Vec::new(),
                false => (chunk.first..=chunk.last)
                    .filter(|&seq| chunk.is_settled(seq))
                    .collect(),
            };
            if let Some(bits) = retained.then(|| chunk.bits_with_row()).flatten() {
                cut.batch.settled.push(SettledRow {
                    segment,
                    queue: id,
                    bits,
                });
            }
            let (pieces, transient) = chunk.start_saving(segment, pressure);
            cut.batch.dropped_segments.extend(chunk.take_replaced());
            cut.saving.push(Saving {
                id: segment,
                queue: id,
                first: chunk.first,
                pieces,
                settled,
                transient,
                retained: false,
                row: Row::default(),
            });
        });
    }

    /// What becomes of settled messages that the queue keeps.
    fn save_retained(cut: &mut Cut, last_segment: &mut u64, queue: &mut Queue) {
        let (id, now) = (queue.spec.id, clock::now());
        let number = || {
            *last_segment += 1;
            SegmentId(*last_segment)
        };
        let Some(changes) = queue.log.retained_changes(now, number) else {
            return;
        };
        let rows = changes.put.into_iter();
        cut.batch
            .retained
            .extend(rows.map(|(segment, settled_at)| RetainedRow {
                segment,
                queue: id,
                settled_at,
            }));
        keep_rows(&mut cut.batch, id, &changes.rows, now);
        cut.batch.dropped_retained.extend(changes.dropped);
        if let Some((segment, first, pieces)) = changes.merged {
            cut.saving.push(Saving {
                id: segment,
                queue: id,
                first,
                pieces,
                settled: Vec::new(),
                transient: false,
                retained: true,
                row: Row::default(),
            });
        }
    }

    /// Once a second: what was kept long enough goes.
    pub(crate) fn end_retention(&mut self) {
        let now = clock::now();
        for queue in self.queues.values_mut() {
            if queue.log.retains_anew(now) {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
        }
    }

    /// Under memory pressure messages that need no disk go there too, largest queues first.
    pub(super) fn make_room(&mut self, cut: &mut Cut) {
        let (mut resident, budget) = (self.resident(), self.budget());
        if resident <= budget {
            return;
        }
        let mut sizes: Vec<(u64, QueueId)> = self
            .queues
            .iter()
            .map(|(&id, queue)| (queue.log.resident, id))
            .collect();
        sizes.sort_unstable_by_key(|&(size, _)| std::cmp::Reverse(size));
        for (size, id) in sizes {
            if resident <= budget {
                break;
            }
            resident = resident.saturating_sub(size);
            if let Some(queue) = self.queues.get_mut(&id) {
                Self::save(cut, &mut self.last_segment, queue, true);
                queue.spilled = true;
            }
        }
    }

    /// The commit is on disk: confirms and waiters go out.
    pub(crate) fn committed(&mut self, cut: Cut, refused: &[JobId]) {
        self.counters.commits += 1;
        for saving in &cut.saving {
            let Some(queue) = self.queues.get_mut(&saving.queue) else {
                continue;
            };
            if saving.retained {
                continue;
            }
            queue.log.saved(saving.id, saving.row);
            let log = &queue.log;
            if log.head() > 0 && !log.dead_segments.is_empty() || log.has_retired() {
                Self::mark_dirty(&mut self.dirty, &self.writer, queue);
            }
        }
        while self.ticket_base < cut.tickets_below {
            let Some(ticket) = self.tickets.pop_front() else {
                break;
            };
            self.ticket_base += 1;
            if !ticket.done {
                self.confirm_now(Some(ticket.channel), ticket.first, ticket.count, false);
            }
        }
        for waiter in cut.waiters {
            let _ = waiter.send(());
        }
        for change in &cut.batch.jobs {
            let JobChange::Finish { id, state, at, .. } = change else {
                continue;
            };
            self.running.remove(id);
            if !refused.contains(id) {
                let seconds = (at - id.created_at()).max(0) as f64 / 1e6;
                metrics::histogram!("leveret_job_seconds").record(seconds);
                *self
                    .counters
                    .jobs_finished
                    .entry(state.as_str())
                    .or_default() += 1;
            }
            for waiter in self.job_waiters.remove(id).unwrap_or_default() {
                let _ = waiter.send(());
            }
        }
        for &(id, handed, head) in &cut.heads {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.log.handed = queue.log.handed.max(handed);
                queue.saved_head = head;
            }
            self.pump(id);
            self.consider_merge(id);
        }
        self.evict();
        self.look_at_memory();
    }

    /// While a commit cannot find room: marks alone, which take none, so that consumers can go on
    /// with what is on disk. Heads stay where they were, for what moved them waits for room.
    pub(crate) fn marks(&mut self) -> Vec<HeadRow> {
        let fenced = std::mem::take(&mut self.fenced);
        let rows = fenced.into_iter().filter_map(|id| {
            let queue = self.queues.get(&id).filter(|queue| queue.spec.durable)?;
            let next = queue.log.next_seq();
            Some(HeadRow {
                queue: id,
                head: queue.saved_head,
                handed: next,
                next,
            })
        });
        rows.collect()
    }

    /// The marks are on disk.
    pub(crate) fn marked(&mut self, rows: &[HeadRow]) {
        for row in rows {
            if let Some(queue) = self.queues.get_mut(&row.queue) {
                queue.log.handed = queue.log.handed.max(row.handed);
            }
            self.pump(row.queue);
        }
    }

    pub(super) fn evict(&mut self) {
        let (resident, budget) = (self.resident(), self.budget());
        let mut over = resident.saturating_sub(budget);
        // What is read next stays, unless there are so many queues that this alone is too much.
        for keep in [true, false] {
            for queue in self.queues.values_mut() {
                if over == 0 {
                    return;
                }
                let target = queue.log.resident.saturating_sub(over);
                over = over.saturating_sub(queue.log.evict(target, keep));
            }
            if over <= budget / 4 {
                return;
            }
        }
    }

    /// The writer need not wait for company.
    pub(crate) fn is_urgent(&self) -> bool {
        self.wanted || self.is_behind()
    }
}

/// Messages of waiting rows that are settled and kept, each in a segment of its own. A row that is
/// to be put by this very commit must not come after all, so its content becomes the segment here.
fn keep_rows(batch: &mut Batch, queue: QueueId, rows: &[(SegmentId, Seq)], now: Micros) {
    if rows.is_empty() {
        return;
    }
    let segments: HashMap<Seq, SegmentId, RandomState> =
        rows.iter().map(|(segment, seq)| (*seq, *segment)).collect();
    let is_kept = |row: &WaitingRow| row.queue == queue && segments.contains_key(&row.seq);
    let mut contents: HashMap<Seq, WaitingRow, RandomState> = HashMap::default();
    for row in batch.waiting.extract_if(.., |row| is_kept(row)) {
        contents.insert(row.seq, row);
    }
    for &(segment, seq) in rows {
        let Some(row) = contents.remove(&seq) else {
            batch.kept_waiting.push(KeptRow {
                segment,
                queue,
                seq,
                settled_at: now,
            });
            continue;
        };
        batch.dropped_waiting.push((queue, seq));
        batch.segments.push(SegmentRow {
            id: segment,
            queue,
            first_seq: seq,
            last_seq: seq,
            count: 1,
            bytes: row.data.len() as u64,
            transient: false,
            first_at: now,
            last_at: now,
            index: row.index,
            data: row.data,
        });
    }
}

/// Of several rows of one message the last counts.
fn keep_newest(rows: &mut Vec<WaitingRow>) {
    let mut known: HashSet<(QueueId, Seq), RandomState> = HashSet::default();
    rows.reverse();
    rows.retain(|row| known.insert((row.queue, row.seq)));
    rows.reverse();
}

impl Queue {
    /// Rows of messages that are settled. Rows go before others come: one that is not on disk yet
    /// must not come after all, so those of messages that are `over` are to be left out.
    fn drop_rows(&mut self, batch: &mut Batch, over: &mut HashSet<(QueueId, Seq), RandomState>) {
        let (id, log) = (self.spec.id, &mut self.log);
        let dead = std::mem::take(&mut log.dead_rows);
        if !batch.waiting.is_empty() {
            let gone = dead.iter().filter(|seq| !log.has(**seq));
            over.extend(gone.map(|seq| (id, *seq)));
        }
        let rows = dead.into_iter().map(|seq| (id, seq));
        batch.dropped_waiting.extend(rows);
    }
}
