//! What time does to queues: expiry, retries that come due, idle queues; `lease` has the rest.
//!
//! In: the timer task of `Store`, and `deliver` for heads.

use std::time::Duration;

use super::*;

impl Shard {
    /// Expires heads whose time is over.
    pub(super) fn expire(&mut self, id: QueueId) {
        loop {
            let Some(queue) = self.queues.get_mut(&id) else {
                return;
            };
            // What an exchange delayed begins to age in the queue where it arrives.
            if queue.log.ready() == 0 || queue.delays_for.is_some() {
                return;
            }
            let ttl = queue.arguments.message_ttl_ms;
            if ttl.is_none() && !queue.log.may_expire() {
                return;
            }
            let Some(piece) = queue.log.peek() else {
                return self.read_old_head(id);
            };
            let index = piece.index(0);
            let own = properties::expiration(piece.block.properties(index))
                .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
            let limit = match (ttl, own) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) | (None, Some(a)) => a,
                (None, None) => return,
            };
            let at = later(piece.at, limit);
            // A consumer with room takes a message of TTL 0 before it expires.
            if at > clock::now() || (limit == 0 && queue.consumers.iter().any(|c| c.credit() > 0)) {
                return;
            }
            let Take::Run { piece, .. } = queue.log.take_head() else {
                return;
            };
            self.bury(id, &piece, Reason::Expired);
        }
    }

    /// Only the body of a head says whether it has expired, and where it goes then. Read when
    /// somebody would notice: after a restart no queue's head is in memory.
    fn read_old_head(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let arguments = &queue.arguments;
        let since = queue.log.oldest_ready_at();
        let is_old = since
            .zip(arguments.message_ttl_ms)
            .is_some_and(|(at, ms)| later(at, ms) <= clock::now());
        if (is_old || arguments.dead_letter_exchange.is_some())
            && let Some(segment) = queue.log.head_on_disk()
        {
            self.want_load(id, segment);
        }
    }

    /// Time passes: heads expire, leases end, retries come due, idle queues go.
    pub fn tick(&mut self) {
        let now = clock::now();
        if self.is_behind() {
            self.look_at_memory();
        }
        for id in std::mem::take(&mut self.timed) {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.watched = false;
            }
            self.expire(id);
            self.trim(id);
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            if let Some(ms) = queue.arguments.expires_ms
                && queue.consumers.is_empty()
                && now > later(queue.idle_since, ms)
            {
                self.drop_queue(id);
                continue;
            }
            for seq in queue.log.waiting.come_due(now) {
                let queue = self.queues.get_mut(&id);
                if let Some(piece) = queue.and_then(|queue| queue.log.parked.remove(seq)) {
                    self.wake(id, seq, piece);
                }
            }
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            let log = &mut queue.log;
            let mut rows = match log.read_back_bytes() < READ_BACK_BYTES {
                true => log.waiting.ahead(now + READ_AHEAD, READ_AHEAD_MAX),
                // Those that are due wait on until a consumer has taken others, but for those
                // without which no consumer would get any.
                false if reads_urgent(log) => log.waiting.urgent(now + READ_AHEAD, URGENT_MAX),
                false => Vec::new(),
            };
            rows.retain(|seq| !log.parked.contains(*seq));
            if !rows.is_empty() {
                self.due_reads.push((id, rows));
                self.loader.notify_one();
            }
            self.pump(id);
        }
        self.end_leases(now);
    }

    /// Time may change this queue: `tick` looks at it from now on.
    pub(crate) fn watch(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        if !queue.watched && queue.is_timed() {
            queue.watched = true;
            self.timed.push(id);
            self.timer.notify_one();
        }
    }

    /// When `tick` has something to do: every so often, at an instant, or not at all.
    pub(crate) fn next_tick(&self) -> NextTick {
        match self.next_lease {
            _ if !self.timed.is_empty() || self.is_behind() => NextTick::Within(self.grain()),
            Some(at) => NextTick::At(at),
            None => NextTick::Never,
        }
    }

    /// Until the next waiting message is due, or as long as everything else may be late.
    fn grain(&self) -> Duration {
        let queues = self.timed.iter().filter_map(|id| self.queues.get(id));
        let now = clock::now();
        let due = queues.filter_map(|queue| queue.log.waiting.next_due());
        // One that was due at the last look and is not here yet is woken by its reader.
        let next = due.min().unwrap_or(Micros::MAX);
        let left = u64::try_from(next.saturating_sub(now)).unwrap_or(0);
        Duration::from_micros(left).clamp(GRAIN_MIN, TICK)
    }
}

/// Whether a queue whose contents fill what it may hold in memory reads those that others wait for.
pub(super) fn reads_urgent(log: &Log) -> bool {
    log.read_back_bytes() < 2 * READ_BACK_BYTES || log.needs_urgent()
}

/// So many milliseconds after an instant; whoever asks for more than there is gets the end of time.
pub(super) fn later(at: Micros, ms: u64) -> Micros {
    let span = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000);
    at.saturating_add(span)
}

impl Queue {
    fn is_timed(&self) -> bool {
        let asked = &self.arguments;
        let limited = asked.message_ttl_ms.is_some()
            || asked.max_length.is_some()
            || asked.max_length_bytes.is_some()
            || self.log.may_expire();
        asked.expires_ms.is_some()
            || self.throttled
            || self.stops_publishers
            || self.log.goes_on_by_time()
            || !self.log.waiting.is_empty()
            || limited && self.log.ready() > 0
    }
}

/// How often time is looked at: expiry, leases, idle queues.
const TICK: Duration = Duration::from_millis(20);
/// No more often, however many messages are due: they go together.
const GRAIN_MIN: Duration = Duration::from_millis(2);

/// When time is next looked at.
pub(crate) enum NextTick {
    Within(Duration),
    At(Micros),
    Never,
}
