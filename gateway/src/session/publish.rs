//! Publishes and settlements of a session, on plain, confirm and tx channels.
//!
//! Keeps: a return reaches the client before its confirm.
//! In: `Session::events`.

use store::shard::Run;
use store::topology::copies;

use super::*;

/// basic.publish, as what to blame.
const PUBLISH: (u16, u16) = (60, 40);
/// What must be looked at before a message is taken.
const SPECIAL: u8 = Entry::HAS_REPLY_TO | Entry::HAS_USER_ID | Entry::HAS_EXPIRATION | Entry::ASKS;
/// Longest expiration, as RabbitMQ's: ten years, ms.
const EXPIRATION_MAX: u64 = 315_360_000_000;

/// Messages of one publish on a tx channel, until commit.
pub(super) struct Kept {
    block: Arc<Block>,
    first: u32,
    count: u32,
    mandatory: bool,
    copies: Vec<Vec<u8>>,
}

/// A message that cannot go with its neighbours.
struct Alone {
    /// The message as it goes on, where it had to be changed.
    block: Option<Arc<Block>>,
    /// Further routing keys.
    copies: Vec<Vec<u8>>,
}

/// A publish as the client sent it: neighbours with one address.
#[derive(Clone, Copy)]
pub(super) struct Published {
    pub(super) channel: u16,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) mandatory: bool,
    /// Number of the first; 0 outside confirm mode.
    pub(super) confirm: u64,
}

impl Published {
    fn part(&self, from: u32, to: u32) -> Self {
        Self {
            first: from,
            count: to - from,
            confirm: match self.confirm {
                0 => 0,
                confirm => confirm + u64::from(from - self.first),
            },
            ..*self
        }
    }
}

impl Session {
    pub(super) fn publish(&mut self, block: &Arc<Block>, what: Published) {
        self.has_published = true;
        let address = block.address(what.first as usize);
        let (exchange, routing_key) = (address.exchange(), address.routing_key());
        let allowed = self
            .door
            .authorize_publish(&self.store, exchange, routing_key);
        if let Err(error) = allowed {
            return self.close_channel(what.channel, &reply::close(&error, PUBLISH));
        }
        let (mut from, mut at, end) = (what.first, what.first, what.first + what.count);
        while at < end {
            if block.entries[at as usize].flags & SPECIAL == 0 {
                at += 1;
                continue;
            }
            match self.checked(block, what.channel, at as usize) {
                Ok(None) => {}
                Ok(Some(alone)) => {
                    let mut one = what.part(at, at + 1);
                    if alone.block.is_some() {
                        one.first = 0;
                    }
                    let own = alone.block.as_ref().unwrap_or(block);
                    if !self.pass(block, &what.part(from, at), &[])
                        || !self.pass(own, &one, &alone.copies)
                    {
                        return;
                    }
                    from = at + 1;
                }
                Err(close) => {
                    if self.pass(block, &what.part(from, at), &[]) {
                        self.close_channel(what.channel, &close);
                    }
                    return;
                }
            }
            at += 1;
        }
        self.pass(block, &what.part(from, end), &[]);
    }

    /// Hands messages on, in pieces that confirm sooner than thousands would. False when that
    /// closed the channel.
    fn pass(&mut self, block: &Arc<Block>, what: &Published, copies: &[Vec<u8>]) -> bool {
        if what.count > 0 && self.tx.contains_key(&what.channel) {
            return self.keep_for_commit(block, what, copies);
        }
        let (mut from, end) = (what.first, what.first + what.count);
        while from < end {
            let to = end.min(from + RUN);
            if !self.publish_run(block, &what.part(from, to), copies) {
                return false;
            }
            from = to;
        }
        true
    }

    /// On a tx channel a publish waits for commit, but a missing exchange is told at once.
    fn keep_for_commit(
        &mut self,
        block: &Arc<Block>,
        what: &Published,
        copies: &[Vec<u8>],
    ) -> bool {
        let address = block.address(what.first as usize);
        let known = self.store.lock().check_address(&self.vhost, address);
        if let Err(error) = known {
            self.close_channel(what.channel, &reply::close(&error, PUBLISH));
            return false;
        }
        if let Some(tx) = self.tx.get_mut(&what.channel) {
            tx.publishes.push(Kept {
                block: block.clone(),
                first: what.first,
                count: what.count,
                mandatory: what.mandatory,
                copies: copies.to_vec(),
            });
        }
        true
    }

    /// Validates what needs a look. Answers a message that has further keys, or that must change:
    /// BCC is hidden, and the real address stands in place of direct reply-to's.
    fn checked(
        &mut self,
        block: &Block,
        channel: u16,
        index: usize,
    ) -> Result<Option<Alone>, Close> {
        let cause = PUBLISH;
        let raw = block.properties(index);
        if let Some(text) = properties::expiration(raw)
            && let Err(reason) = expiration_ms(text)
        {
            let text = String::from_utf8_lossy(text);
            let text = format!("invalid expiration '{text}': {reason}");
            return Err(Close::channel(406, text, cause));
        }
        if let Some(user) = properties::user_id(raw)
            && user != self.user.as_bytes()
            && !self.has_tag("impersonator")
        {
            let text = format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(user),
                self.user
            );
            return Err(Close::channel(406, text, cause));
        }
        let copies = copies::of(raw).map_err(|text| Close::channel(406, text, cause))?;
        let to_reply = properties::reply_to(raw) == Some(REPLY_TO.as_bytes());
        let (keys, mut changed) = match copies {
            Some(copies) => (copies.keys, copies.properties),
            None if !to_reply => return Ok(None),
            None => (Vec::new(), None),
        };
        self.may_copy(block.address(index).exchange(), &keys)?;
        if to_reply {
            let address = self.reply_address(channel)?;
            let mut parsed = Properties::parse(changed.as_deref().unwrap_or(raw))
                .map_err(|error| Close::connection(502, error.to_string(), cause))?;
            parsed.reply_to = Some(address.as_bytes().to_vec());
            changed = Some(parsed.encode());
        }
        let block = changed.map(|raw| {
            let mut copy = Block::default();
            copy.push_copy(block, index, block.address(index), Some(&raw));
            Arc::new(copy)
        });
        let copies = keys;
        Ok(Some(Alone { block, copies }))
    }

    /// Topics that CC and BCC add need the right that the message's own topic needs.
    fn may_copy(&mut self, exchange: &[u8], keys: &[Vec<u8>]) -> Result<(), Close> {
        let exchange = String::from_utf8_lossy(exchange);
        for key in keys {
            let allowed = self
                .door
                .authorize_topic(&self.store, Right::Write, &exchange, key);
            allowed.map_err(|error| reply::close(&error, PUBLISH))?;
        }
        Ok(())
    }

    /// What stands for direct reply-to's address on this channel.
    fn reply_address(&self, channel: u16) -> Result<Arc<str>, Close> {
        let text = "fast reply consumer does not exist";
        let address = self.store.lock().reply_address(self.key(channel));
        address.ok_or_else(|| Close::channel(406, text, PUBLISH))
    }

    fn publish_run(&mut self, block: &Arc<Block>, what: &Published, copies: &[Vec<u8>]) -> bool {
        let run = Run {
            vhost: &self.vhost,
            channel: Some(self.key(what.channel)),
            block,
            first: what.first,
            count: what.count,
            confirm: what.confirm,
            mandatory: what.mandatory,
            copies,
        };
        let published = self.store.lock().publish(&run);
        match published {
            Ok(unroutable) => {
                if !unroutable.is_empty() {
                    self.refuse_route(block, what, &unroutable);
                }
                true
            }
            Err(error) => {
                self.close_channel(what.channel, &reply::close(&error, PUBLISH));
                false
            }
        }
    }

    /// Mandatory messages that no queue wanted: returned, and only then confirmed.
    fn refuse_route(&mut self, block: &Block, what: &Published, parts: &[(u32, u32)]) {
        for part in parts {
            self.give_back(what.channel, block, *part);
        }
        if what.confirm == 0 {
            return;
        }
        if let Some(confirms) = self.confirms.get_mut(&what.channel) {
            for &(first, count) in parts {
                let confirm = what.part(first, first + count).confirm;
                confirms.complete(confirm, u64::from(count));
            }
        }
        self.tell_confirms();
    }

    /// All of a transaction under one lock: it enters one commit, or none.
    pub(super) fn commit(&mut self, ch: u16, work: Tx) -> Result<(), Close> {
        let key = self.key(ch);
        let mut unroutable = Vec::new();
        let mut failed = None;
        {
            let mut shard = self.store.lock();
            for kept in work.publishes {
                let run = Run {
                    vhost: &self.vhost,
                    channel: Some(key),
                    block: &kept.block,
                    first: kept.first,
                    count: kept.count,
                    confirm: 0,
                    mandatory: kept.mandatory,
                    copies: &kept.copies,
                };
                match shard.publish(&run) {
                    Ok(parts) if parts.is_empty() => {}
                    Ok(parts) => unroutable.push((kept.block, parts)),
                    Err(error) => failed = Some(reply::close(&error, PUBLISH)),
                }
            }
            for (tag, multiple, verdict) in work.settles {
                shard.conclude(key, (tag, multiple), verdict);
            }
        }
        for (block, parts) in unroutable {
            for part in parts {
                self.give_back(ch, &block, part);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// basic.return of messages that no queue wanted.
    fn give_back(&mut self, ch: u16, block: &Block, (first, count): (u32, u32)) {
        let frame_max = self.conn.frame_max();
        for index in first..first + count {
            let (out, index) = (self.conn.output(), index as usize);
            hot::returned(out, ch, (312, "NO_ROUTE"), block, index, frame_max);
        }
    }

    /// Acks of `count` tags from `first` on, one by one but under one lock.
    pub(super) fn ack_run(&mut self, channel: u16, first: u64, count: u32) {
        let done = match self.tx.contains_key(&channel) {
            true => 0,
            false => self.store.lock().ack_run(self.key(channel), first, count),
        };
        for tag in first + u64::from(done)..first + u64::from(count) {
            if !self.settle(channel, (tag, false), Verdict::Ack) {
                return;
            }
        }
    }

    /// Acks, nacks and rejects. False when that closed the channel.
    pub(super) fn settle(
        &mut self,
        channel: u16,
        (tag, multiple): (u64, bool),
        verdict: Verdict,
    ) -> bool {
        let key = self.key(channel);
        let known = {
            let mut shard = self.store.lock();
            match self.tx.get_mut(&channel) {
                Some(tx) => {
                    let known =
                        shard.has_unacked(key, tag, multiple) || shard.is_late(key, tag, multiple);
                    tx.settles.push((tag, multiple, verdict));
                    known
                }
                None => shard.conclude(key, (tag, multiple), verdict),
            }
        };
        let is_fine = known || multiple && tag == 0;
        if !is_fine {
            let text = format!("unknown delivery tag {tag}");
            let method = match verdict {
                Verdict::Ack => 80,
                Verdict::Reject { .. } => 90,
                Verdict::Nack { .. } => 120,
            };
            self.close_channel(channel, &Close::channel(406, text, (60, method)));
        }
        is_fine
    }
}

/// A message's expiration.
///
/// # Errors
/// Why it is none, in the words of RabbitMQ 3.10.
fn expiration_ms(text: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(text);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit());
    let (digits, left) = unsigned.split_at(end.unwrap_or(unsigned.len()));
    if digits.is_empty() {
        return Err("no_integer".to_owned());
    }
    if !left.is_empty() {
        return Err(format!("{{leftover_string,\"{left}\"}}"));
    }
    let ms = digits.parse().unwrap_or(u64::MAX);
    if text.starts_with('-') && ms > 0 {
        return Err(format!("{{value_negative,-{digits}}}"));
    }
    if ms > EXPIRATION_MAX {
        return Err(format!("{{value_too_large,{digits}}}"));
    }
    Ok(ms)
}
