//! Publishes and settlements of a session, on plain, confirm and tx channels.
//!
//! Keeps: a return reaches the client before its confirm.
//! In: `Session::events`.

use super::*;

impl Session {
    pub(super) fn publish(
        &mut self,
        block: &Arc<Block>,
        channel: u16,
        (first, count): (u32, u32),
        mandatory: bool,
        confirm: u64,
    ) {
        self.has_published = true;
        let entries = &block.entries[first as usize..(first + count) as usize];
        let special = Entry::HAS_REPLY_TO | Entry::HAS_USER_ID | Entry::HAS_EXPIRATION;
        let odd = entries.iter().any(|entry| entry.flags & special != 0);
        let exchange = block.address(first as usize).exchange();
        let alike = std::str::from_utf8(exchange)
            .is_ok_and(|exchange| self.store.lock().routes_alike(&self.vhost, exchange));
        // Pieces of a few hundred confirm sooner than one of thousands.
        let step = if odd || !alike { 1 } else { RUN };
        let mut at = 0;
        while at < count {
            let n = (count - at).min(step);
            let number = if confirm == 0 {
                0
            } else {
                confirm + u64::from(at)
            };
            let checked = if odd {
                self.checked(block, channel, (first + at) as usize)
            } else {
                Ok((block.clone(), first + at))
            };
            let (block, index) = match checked {
                Ok(found) => found,
                Err(close) => return self.close_channel(channel, &close),
            };
            if self.tx.contains_key(&channel) {
                if !self.keep_for_commit(channel, block, (index, n), mandatory) {
                    return;
                }
            } else if !self.publish_run(&block, channel, (index, n), mandatory, number) {
                return;
            }
            at += n;
        }
    }

    /// On a tx channel a publish waits for commit, but a missing exchange is told at once.
    pub(super) fn keep_for_commit(
        &mut self,
        channel: u16,
        block: Arc<Block>,
        (first, count): (u32, u32),
        mandatory: bool,
    ) -> bool {
        let exchange = block.address(first as usize).exchange();
        let exchange = String::from_utf8_lossy(exchange);
        let known = self.store.lock().check_exchange(&self.vhost, &exchange);
        if let Err(error) = known {
            self.close_channel(channel, &reply::close(&error, (60, 40)));
            return false;
        }
        if let Some(tx) = self.tx.get_mut(&channel) {
            tx.publishes.push((block, first, count, mandatory));
        }
        true
    }

    /// Validates what needs a look, and puts the real address in place of direct reply-to's.
    pub(super) fn checked(
        &mut self,
        block: &Arc<Block>,
        channel: u16,
        index: usize,
    ) -> Result<(Arc<Block>, u32), Close> {
        let cause = (60, 40);
        let raw = block.properties(index);
        if let Some(text) = properties::expiration(raw)
            && std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse::<u64>().ok())
                .is_none()
        {
            let text = format!("invalid expiration '{}'", String::from_utf8_lossy(text));
            return Err(Close::channel(406, text, cause));
        }
        if let Some(user) = properties::user_id(raw)
            && user != self.user.as_bytes()
        {
            let text = format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(user),
                self.user
            );
            return Err(Close::channel(406, text, cause));
        }
        if properties::reply_to(raw) != Some(REPLY_TO.as_bytes()) {
            return Ok((block.clone(), index as u32));
        }
        let Some(address) = self.store.lock().reply_address(self.key(channel)) else {
            return Err(Close::channel(
                406,
                "fast reply consumer does not exist",
                cause,
            ));
        };
        let mut parsed = Properties::parse(raw)
            .map_err(|error| Close::connection(502, error.to_string(), cause))?;
        parsed.reply_to = Some(address.as_bytes().to_vec());
        let mut copy = Block::default();
        let at = copy.push_copy(block, index, block.address(index), Some(&parsed.encode()));
        Ok((Arc::new(copy), at as u32))
    }

    pub(super) fn publish_run(
        &mut self,
        block: &Arc<Block>,
        channel: u16,
        (first, count): (u32, u32),
        mandatory: bool,
        confirm: u64,
    ) -> bool {
        let key = Some(self.key(channel));
        let reached = {
            let mut shard = self.store.lock();
            // A return must reach the client before its confirm.
            let probe = if mandatory { 0 } else { confirm };
            let reached = shard.publish(&self.vhost, key, block, (first, count), probe);
            if mandatory && !matches!(reached, Ok(n) if n == 0) && confirm != 0 {
                drop(shard);
                self.late_confirm(channel, confirm, count);
            }
            reached
        };
        match reached {
            Ok(0) if mandatory => {
                self.give_back(channel, block, (first, count));
                if confirm != 0
                    && let Some(confirms) = self.confirms.get_mut(&channel)
                {
                    confirms.complete(confirm, u64::from(count));
                    self.tell_confirms();
                }
                true
            }
            Ok(_) => true,
            Err(error) => {
                self.close_channel(channel, &reply::close(&error, (60, 40)));
                false
            }
        }
    }

    /// A routed mandatory message is confirmed by the next commit.
    pub(super) fn late_confirm(&mut self, channel: u16, confirm: u64, count: u32) {
        let key = self.key(channel);
        self.store.lock().confirm_with_commit(key, confirm, count);
    }

    /// Acks of `count` tags from `first` on, one by one but under one lock.
    pub(super) fn ack_run(&mut self, channel: u16, first: u64, count: u32) {
        let done = match self.tx.contains_key(&channel) {
            true => 0,
            false => self.store.lock().ack_run(self.key(channel), first, count),
        };
        for tag in first + u64::from(done)..first + u64::from(count) {
            if !self.settle(channel, (tag, false), None, 80) {
                return;
            }
        }
    }

    /// Acks (`requeue` none), nacks and rejects; `method` is what to blame. False when that closed
    /// the channel.
    pub(super) fn settle(
        &mut self,
        channel: u16,
        (tag, multiple): (u64, bool),
        requeue: Option<bool>,
        method: u16,
    ) -> bool {
        let key = self.key(channel);
        let known = {
            let mut shard = self.store.lock();
            let known = match (self.tx.get_mut(&channel), requeue) {
                (Some(tx), _) => {
                    let known = shard.has_unacked(key, tag, multiple);
                    tx.settles.push((tag, multiple, requeue));
                    known
                }
                (None, None) => shard.ack(key, tag, multiple),
                (None, Some(requeue)) => shard.nack(key, tag, multiple, requeue),
            };
            known || shard.is_late(key, tag)
        };
        let is_fine = known || multiple && tag == 0;
        if !is_fine {
            let text = format!("unknown delivery tag {tag}");
            self.close_channel(channel, &Close::channel(406, text, (60, method)));
        }
        is_fine
    }
}
