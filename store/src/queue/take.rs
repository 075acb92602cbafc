//! Which ready message is next, and messages that come back to their places.
//!
//! Keeps: seq order, a higher priority first, or the order of each key; a message comes out as
//! redelivered when a consumer may have had it (I3, I4).
//! In: `Log` only.

use super::*;

/// Keys that are looked at for a message in memory before a segment is read for one.
const KEYS_TRIED: usize = 32;
/// Messages that the cursor may pass in one go, looking for a key that is idle: some milliseconds.
const PASSED_MAX: usize = 1 << 16;

/// Where a ready message stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Cursor,
    /// Beside the cursor, at this level.
    Aside(u8),
    /// Held behind its key, whose turn it is.
    Lane,
    /// Held behind its key, and leaves without going out.
    Held,
    /// Behind the cursor's next, and leaves without going out.
    Middle,
}

enum Look {
    Found {
        piece: Piece,
        source: Source,
        own: bool,
    },
    Load(SegmentId),
    Fence,
    Empty,
}

impl Log {
    /// The next ready messages, at most `max`, as one run. Moves them to unacked.
    #[cfg(test)]
    pub fn take(&mut self, max: u32) -> Take {
        self.take_live(max, Micros::MIN)
    }

    /// The same, up to one that has expired by now: that one must become the head to end.
    pub fn take_live(&mut self, max: u32, now: Micros) -> Take {
        let taken = match self.lanes {
            Some(_) => self.take_by_key(max, now),
            None => {
                let mut found = self.look(max, true);
                if let Look::Found { piece, .. } = &mut found
                    && piece.expiring
                {
                    *piece = piece.slice(0, piece.live(now));
                }
                self.take_found(found)
            }
        };
        if let Take::Run { piece, .. } = &taken {
            self.top = self.top.max(piece.first + u64::from(piece.count));
        }
        taken
    }

    /// The head, for its end and not for a consumer: nobody will have seen it, so that the store
    /// need not know before.
    pub fn take_head(&mut self) -> Take {
        let found = self.look(1, false);
        self.take_found(found)
    }

    /// One message that `browse` found leaves.
    pub(super) fn take_out(&mut self, piece: Piece) -> Piece {
        let seq = piece.first;
        let held = self.lanes.as_ref().is_some_and(|lanes| lanes.is_held(seq));
        let levels = 0..=self.levels;
        let aside = levels
            .map(|level| (level, seq))
            .find(|standing| self.aside.contains_key(standing));
        let source = match aside {
            Some((level, _)) => Source::Aside(level),
            None if held => Source::Held,
            None => Source::Middle,
        };
        let cursor = self.cursor;
        self.take_found(Look::Found {
            piece: piece.clone(),
            source,
            own: false,
        });
        // What stands before it stays.
        self.cursor = cursor;
        piece
    }

    fn take_found(&mut self, found: Look) -> Take {
        let (mut piece, source, own) = match found {
            Look::Found { piece, source, own } => (piece, source, own),
            Look::Load(id) => return Take::Load(id),
            Look::Fence => return Take::Fence,
            Look::Empty => return Take::Empty,
        };
        if piece.first < self.recovered_handed {
            // What was handed out before the restart says so, and no more.
            let known = self.recovered_handed - piece.first;
            piece = piece.slice(0, u64::from(piece.count).min(known) as u32);
        }
        let mut redelivered = piece.first < self.recovered_handed;
        let (first, n) = (piece.first, u64::from(piece.count));
        let counted = match source {
            Source::Aside(level) => {
                let mut counted = false;
                for seq in first..first + n {
                    if let Some(aside) = self.aside.remove(&(level, seq)) {
                        redelivered |= aside.redelivered;
                        counted |= aside.counted;
                    }
                }
                // All below is settled, unacked or waiting; but with keys, where those that have
                // none do not wait for the cursor.
                if self.lanes.is_none() {
                    self.cursor = self.cursor.max(first + n);
                }
                counted
            }
            Source::Cursor => {
                self.cursor = first + n;
                true
            }
            Source::Middle => true,
            Source::Lane | Source::Held => {
                let lanes = self.lanes.as_mut();
                let aside = lanes.and_then(|lanes| match source {
                    Source::Lane => lanes.take_free(first),
                    _ => lanes.take_held(first),
                });
                redelivered |= aside.as_ref().is_some_and(|aside| aside.redelivered);
                aside.is_none_or(|aside| aside.counted)
            }
        };
        if own {
            self.own_bytes = self.own_bytes.saturating_sub(piece.memory_bytes());
        }
        if counted {
            self.ready_bytes = self.ready_bytes.saturating_sub(piece.wire_bytes());
        }
        if let Some(total) = &mut self.ready_body {
            *total = total.saturating_sub(piece.body_bytes());
        }
        self.note_out(&piece, own);
        self.ready -= n;
        self.unacked += n;
        if self.ready == 0 {
            self.ready_bytes = 0;
        }
        Take::Run {
            piece,
            redelivered,
            own,
        }
    }

    fn note_out(&mut self, piece: &Piece, own: bool) {
        let retained = own && self.retained.is_some();
        if self.levels == 0 && self.ready_body.is_none() && !retained {
            return;
        }
        for offset in 0..piece.count {
            let entry = piece.entry(offset);
            let out = Out {
                level: self.level(entry.priority),
                body: entry.body_size,
            };
            self.out.insert(piece.first + u64::from(offset), out);
        }
    }

    /// How far below the highest a priority stands; nothing stands above the highest.
    fn level(&self, priority: u8) -> u8 {
        if planted(Planted::PriorityIgnored) {
            return 0;
        }
        self.levels - priority.min(self.levels)
    }

    /// The head, if its body is at hand.
    pub fn peek(&mut self) -> Option<Piece> {
        match self.look(1, false) {
            Look::Found { piece, .. } => Some(piece),
            _ => None,
        }
    }

    /// What must be read before the head can be looked at.
    pub fn head_on_disk(&mut self) -> Option<SegmentId> {
        match self.look(1, false) {
            Look::Load(segment) => Some(segment),
            _ => None,
        }
    }

    fn look(&mut self, max: u32, fenced: bool) -> Look {
        let held = self.lanes.as_ref().and_then(|lanes| lanes.first_held());
        let first = self.next_aside();
        let aside = first.map(|(_, seq)| seq);
        if let Some(seq) = held.filter(|seq| aside.is_none_or(|aside| *seq < aside)) {
            return match self.look_in_log(max, fenced, seq) {
                Look::Empty => self.look_held(seq, Source::Held, fenced),
                found => found,
            };
        }
        let Some(standing) = first else {
            return self.look_in_log(max, fenced, Seq::MAX);
        };
        let (_, seq) = standing;
        if seq >= self.cursor || planted(Planted::RequeueToTail) {
            let seq = match planted(Planted::RequeueToTail) {
                true => Seq::MAX,
                false => seq,
            };
            // It was held back: what came before it, and never left, goes first.
            match self.look_in_log(max, fenced, seq) {
                Look::Empty => {}
                found => return found,
            }
        }
        self.look_aside(standing, max, fenced)
    }

    /// One of those beside the cursor, and those that follow it there.
    fn look_aside(&mut self, (level, seq): Standing, max: u32, fenced: bool) -> Look {
        let Some(aside) = self.aside.get(&(level, seq)) else {
            return Look::Empty;
        };
        let (own, redelivered) = (aside.own.clone(), aside.redelivered);
        let chunk = self.chunk_of(seq).map(|at| &self.chunks[at]);
        let mark = match (&own, chunk) {
            (Some(_), _) => self.handed,
            (None, Some(chunk)) => self.mark_of(chunk),
            (None, None) => Seq::MAX,
        };
        if fenced && !redelivered && seq >= mark {
            return Look::Fence;
        }
        if let Some(own) = own {
            return Look::Found {
                piece: *own,
                source: Source::Aside(level),
                own: true,
            };
        }
        let Some(chunk) = chunk.filter(|chunk| !chunk.is_settled(seq)) else {
            // Set aside as damaged meanwhile.
            self.aside.remove(&(level, seq));
            self.ready = self.ready.saturating_sub(1);
            return self.look(max, fenced);
        };
        let Some((piece, offset)) = chunk.find(seq) else {
            return chunk.segment().map_or(Look::Empty, Look::Load);
        };
        let limit = u64::from(max.min(piece.count - offset));
        let stop = if fenced && !redelivered {
            limit.min(mark - seq)
        } else {
            limit
        };
        let more = self.aside.range((level, seq)..(level, seq + stop));
        let alike = more
            .zip(seq..)
            .take_while(|((key, other), seq)| {
                key.1 == *seq && other.own.is_none() && other.redelivered == redelivered
            })
            .count();
        Look::Found {
            piece: piece.slice(offset, alike as u32),
            source: Source::Aside(level),
            own: false,
        }
    }

    /// A message held behind its key.
    fn look_held(&mut self, seq: Seq, source: Source, fenced: bool) -> Look {
        let Some(lanes) = &self.lanes else {
            return Look::Empty;
        };
        let aside = lanes.aside(seq);
        let redelivered = aside.is_some_and(|aside| aside.redelivered);
        let own = aside.and_then(|aside| aside.own.as_deref().cloned());
        let chunk = self.chunk_of(seq).map(|at| &self.chunks[at]);
        let mark = match (&own, chunk) {
            (Some(_), _) => self.handed,
            (None, Some(chunk)) => self.mark_of(chunk),
            (None, None) => Seq::MAX,
        };
        if fenced && !redelivered && seq >= mark {
            return Look::Fence;
        }
        if let Some(piece) = own {
            let own = true;
            return Look::Found { piece, source, own };
        }
        let Some(chunk) = chunk.filter(|chunk| !chunk.is_settled(seq)) else {
            // Set aside as damaged meanwhile.
            if let Some(lanes) = &mut self.lanes {
                lanes.take_held(seq);
            }
            self.ready = self.ready.saturating_sub(1);
            return Look::Empty;
        };
        match chunk.find(seq) {
            Some((piece, offset)) => Look::Found {
                piece: piece.slice(offset, 1),
                source,
                own: false,
            },
            None => chunk.segment().map_or(Look::Empty, Look::Load),
        }
    }

    /// The next messages whose keys have room: those that the cursor finds and those that were
    /// held take turns.
    fn take_by_key(&mut self, max: u32, now: Micros) -> Take {
        if let Some(standing @ (_, seq)) = self.next_aside() {
            // They came back, or were held back, and have no key.
            if seq >= self.cursor {
                match self.take_idle(max, now, seq) {
                    Take::Empty => {}
                    taken => return taken,
                }
            }
            let found = self.look_aside(standing, max, true);
            return self.take_found(found);
        }
        self.lanes_turn = !self.lanes_turn;
        let first = self.take_turn(self.lanes_turn, max, now);
        if let Take::Run { .. } = first {
            return first;
        }
        let cursor = self.cursor;
        match (first, self.take_turn(!self.lanes_turn, max, now)) {
            // The cursor has passed places of messages that were held back: those may go now.
            (_, Take::Empty) if self.lanes_turn && self.cursor > cursor => self.take_lane(),
            (first, Take::Empty) => first,
            (_, second) => second,
        }
    }

    fn take_turn(&mut self, lanes: bool, max: u32, now: Micros) -> Take {
        match lanes {
            true => self.take_lane(),
            false => self.take_idle(max, now, Seq::MAX),
        }
    }

    /// A held message whose key is free.
    fn take_lane(&mut self) -> Take {
        let (chunks, cursor) = (&self.chunks, self.cursor);
        let at_hand = |seq: Seq, aside: Option<&Aside>| {
            if seq >= cursor {
                // It was held back: others of its key may stand between.
                return false;
            }
            aside.is_some_and(|aside| aside.own.is_some()) || {
                let at = chunks.partition_point(|chunk| chunk.last < seq);
                chunks.get(at).is_some_and(Chunk::is_resident)
            }
        };
        let found = self.lanes.as_mut();
        let found = found.map_or(Err(None), |lanes| lanes.next_free(KEYS_TRIED, at_hand));
        let found = match found {
            Ok(seq) => self.look_held(seq, Source::Lane, true),
            Err(Some(seq)) => match self.look_held(seq, Source::Lane, true) {
                // Its key's turn is not now.
                Look::Found { .. } => Look::Empty,
                found => found,
            },
            Err(None) => Look::Empty,
        };
        self.take_found(found)
    }

    /// What the cursor finds below `limit`, up to a message whose key is busy.
    fn take_idle(&mut self, max: u32, now: Micros, limit: Seq) -> Take {
        let mut passed = 0;
        loop {
            let held = self.lanes.as_ref().map_or(0, |lanes| lanes.held());
            self.unfinished = passed >= PASSED_MAX;
            if self.unfinished || held >= lanes::HELD_MAX {
                return Take::Empty;
            }
            let found = self.look_in_log(max, true, limit);
            let Look::Found { mut piece, .. } = found else {
                return self.take_found(found);
            };
            let below = u64::from(piece.count).min(limit - piece.first);
            piece = piece.slice(0, below as u32);
            if piece.first < self.recovered_handed {
                let known = self.recovered_handed - piece.first;
                piece = piece.slice(0, u64::from(piece.count).min(known) as u32);
            }
            piece = piece.slice(0, piece.live(now));
            let (admitted, held) = self.admit(&piece);
            passed += admitted as usize + 1;
            let end = piece.first + u64::from(admitted) + u64::from(held);
            if admitted == 0 {
                self.cursor = end;
                continue;
            }
            let taken = self.take_found(Look::Found {
                piece: piece.slice(0, admitted),
                source: Source::Cursor,
                own: false,
            });
            self.cursor = end;
            return taken;
        }
    }

    /// How many messages from the front go out, and whether the one after them is held.
    fn admit(&mut self, piece: &Piece) -> (u32, bool) {
        let Some(lanes) = &mut self.lanes else {
            return (piece.count, false);
        };
        for offset in 0..piece.count {
            let key = lanes.key_of(&piece.block, piece.index(offset));
            if !lanes.admit(piece.first + u64::from(offset), key) {
                return (offset, true);
            }
        }
        (piece.count, false)
    }

    /// Messages of the chunk below may be handed out.
    fn mark_of(&self, chunk: &Chunk) -> Seq {
        match chunk.place {
            _ if chunk.is_on_disk() || self.disk_first || chunk.first < self.disk_first_to => {
                self.handed
            }
            Place::Saving(_) => self.handed.max(self.handed_pending),
            _ => Seq::MAX,
        }
    }

    /// The next messages that never left, if they stand below `limit`.
    fn look_in_log(&mut self, max: u32, fenced: bool, limit: Seq) -> Look {
        loop {
            if self.cursor >= self.next.min(limit) {
                return Look::Empty;
            }
            let at = self.chunk_of(self.cursor).unwrap_or_else(|| {
                self.chunks
                    .partition_point(|chunk| chunk.last < self.cursor)
            });
            let Some(chunk) = self.chunks.get(at) else {
                self.cursor = self.next.min(limit);
                return Look::Empty;
            };
            // In a gap between chunks everything is settled, or stands aside.
            self.cursor = self.cursor.max(chunk.first);
            if self.cursor >= limit {
                self.cursor = limit;
                return Look::Empty;
            }
            let mark = self.mark_of(chunk);
            if fenced && self.cursor >= mark {
                return Look::Fence;
            }
            if !chunk.is_resident() {
                return chunk.segment().map_or(Look::Empty, Look::Load);
            }
            self.hint = at;
            let Some(mut piece) = chunk.ready_from(self.cursor, max) else {
                self.cursor = chunk.last + 1;
                continue;
            };
            if piece.first >= limit {
                return Look::Empty;
            }
            if fenced && piece.first >= mark {
                return Look::Fence;
            }
            if fenced && mark - piece.first < u64::from(piece.count) {
                piece = piece.slice(0, (mark - piece.first) as u32);
            }
            return Look::Found {
                piece,
                source: Source::Cursor,
                own: false,
            };
        }
    }

    /// Unacked messages come back to their places.
    pub fn put_back(&mut self, first: Seq, count: u32, own: Option<Piece>) {
        self.unacked -= u64::from(count);
        self.ready += u64::from(count);
        self.own_bytes += own.as_ref().map_or(0, Piece::memory_bytes);
        for seq in first..first + u64::from(count) {
            let out = self.out.remove(&seq).unwrap_or_default();
            if let Some(total) = &mut self.ready_body {
                *total += u64::from(out.body);
            }
            let aside = Aside {
                own: own.clone().map(Box::new),
                redelivered: true,
                counted: false,
            };
            if let Some(lanes) = &mut self.lanes
                && lanes.put_back(seq, aside.clone())
            {
                continue;
            }
            self.aside.insert((out.level, seq), aside);
        }
    }

    /// A message whose waiting time is over becomes ready at its old place.
    pub fn wake(&mut self, seq: Seq, piece: Piece) {
        if !planted(Planted::WokenTwice) {
            self.leave_waiting(seq);
        }
        if planted(Planted::AttemptsForgotten) {
            self.attempts.remove(&seq);
        }
        let redelivered = self.attempts.contains_key(&seq);
        self.show(seq, piece, redelivered);
    }

    /// A message whose waiting time is over is to end, not to be ready.
    pub fn take_waiting(&mut self, seq: Seq) {
        self.leave_waiting(seq);
        self.unacked += 1;
    }

    /// From now on its row goes when it is settled.
    fn leave_waiting(&mut self, seq: Seq) {
        self.parked.remove(seq);
        if self.waiting.remove(seq) && self.waiting.in_rows {
            self.stragglers.insert(seq);
        }
    }

    /// A message that was held back until its commit becomes ready.
    pub fn appear(&mut self, seq: Seq, piece: Piece) {
        self.show(seq, piece, false);
    }

    fn show(&mut self, seq: Seq, piece: Piece, redelivered: bool) {
        self.expiring |= piece.expiring;
        self.ready += 1;
        if let Some(total) = &mut self.ready_body {
            *total += piece.body_bytes();
        }
        self.own_bytes += piece.memory_bytes();
        self.since.entry(seq).or_insert(piece.at);
        let level = self.level(piece.entry(0).priority);
        let lanes = self.lanes.as_ref();
        let key = lanes.map_or(0, |lanes| lanes.key_of(&piece.block, piece.index(0)));
        let aside = Aside {
            own: Some(Box::new(piece)),
            redelivered,
            counted: false,
        };
        if let Some(lanes) = &mut self.lanes
            && lanes.wake(seq, key, aside.clone())
        {
            return;
        }
        self.aside.insert((level, seq), aside);
    }

    /// Gives messages of the log, all in memory, their places by priority.
    pub(super) fn stand_by_priority(&mut self, first: Seq, count: u32, redelivered: bool) {
        for seq in first..first + u64::from(count) {
            let found = self.chunk_of(seq).and_then(|at| self.chunks[at].find(seq));
            let Some((piece, offset)) = found else {
                continue;
            };
            let level = self.level(piece.entry(offset).priority);
            let aside = Aside {
                own: None,
                redelivered,
                counted: true,
            };
            self.aside.insert((level, seq), aside);
        }
    }
}
