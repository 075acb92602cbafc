//! A publish: where it goes, and what becomes of a message that goes nowhere.
//!
//! Keeps: a run with one address is routed and appended once, unless its messages differ to an
//! exchange on the way; an unroutable message that is mandatory is not confirmed here, so that its
//! return comes first.
//! In: `gateway::session`, `Store`.

use super::*;
use crate::topology::{Message, Moment, Queues, Way, copies, delay};

/// Messages in a row with one address.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub vhost: &'a Arc<str>,
    pub channel: Option<ChannelKey>,
    pub block: &'a Arc<Block>,
    /// Index of the first in the block.
    pub first: u32,
    pub count: u32,
    /// Confirm number of the first; 0 for none.
    pub confirm: u64,
    pub mandatory: bool,
    /// Routing keys beside the address's own: CC and BCC.
    pub copies: &'a [Vec<u8>],
}

impl<'a> Run<'a> {
    /// One message that nobody waits for.
    pub fn alone(vhost: &'a Arc<str>, block: &'a Arc<Block>) -> Self {
        Self {
            vhost,
            channel: None,
            block,
            first: 0,
            count: 1,
            confirm: 0,
            mandatory: false,
            copies: &[],
        }
    }

    fn part(&self, offset: u32, count: u32) -> Self {
        Self {
            first: self.first + offset,
            count,
            confirm: match self.confirm {
                0 => 0,
                confirm => confirm + u64::from(offset),
            },
            ..*self
        }
    }

    fn address(&self) -> &Address {
        self.block.address(self.first as usize)
    }
}

/// Mandatory messages that no queue wanted: runs of (index in the block, count).
pub type Unroutable = Vec<(u32, u32)>;

impl Shard {
    /// Where a message goes that moves on by itself; `None`: no such exchange.
    pub(crate) fn route(
        &mut self,
        vhost: &Arc<str>,
        block: &Block,
        index: usize,
    ) -> Option<Queues> {
        let moment = self.moment();
        let copies = copies::of_stored(block, index);
        let names = self.vhosts.get_mut(vhost)?;
        let address = block.address(index);
        let way = names.way(address)?;
        if let Some(queues) = way.queues.filter(|_| copies.is_empty()) {
            return Some(queues);
        }
        let exchange = std::str::from_utf8(address.exchange()).ok()?;
        let queues = names.look(exchange, &Message::new(block, index, &copies, moment));
        self.note_kept(vhost);
        queues
    }

    /// Lets an exchange pass on a message that was addressed to another one.
    pub(crate) fn pass_on(&mut self, vhost: &str, exchange: &str, block: &Arc<Block>) {
        let copies = copies::of_stored(block, 0);
        let message = Message::new(block, 0, &copies, self.moment());
        let names = self.vhosts.get_mut(vhost);
        let queues = names.and_then(|names| names.look(exchange, &message));
        self.note_kept(vhost);
        if let Some(queues) = queues {
            self.append_all(queues.as_slice(), None, block, (0, 1), 0);
        }
    }

    /// Publishes. Answers what must be returned to the publisher, and then be confirmed by the
    /// caller; everything else is confirmed when it is safe.
    ///
    /// # Errors
    /// `NotFound` when the exchange does not exist, `Refused` when it is internal,
    /// `PreconditionFailed` when a message asks a work queue for what makes no sense; those before
    /// it in the run are accepted.
    pub fn publish(&mut self, run: &Run<'_>) -> Result<Unroutable> {
        let way = self.way_in(run.vhost, run.address())?;
        self.counters.published += u64::from(run.count);
        let mut unroutable = Vec::new();
        match way.queues.filter(|_| run.copies.is_empty()) {
            Some(_) if self.is_reply(run) => {}
            Some(queues) => self.pass_sound(run, &queues, &mut unroutable)?,
            None => {
                let passed = self.publish_each(run, &mut unroutable);
                self.free_refused(run.vhost);
                self.disk_first = false;
                passed?;
            }
        }
        Ok(unroutable)
    }

    /// What publishing to an address would be refused for, before it is done.
    ///
    /// # Errors
    /// As `publish`.
    pub fn check_address(&mut self, vhost: &str, address: &Address) -> Result<()> {
        self.way_in(vhost, address).map(|_| ())
    }

    /// The way of a client's messages, if they may go it.
    fn way_in(&mut self, vhost: &str, address: &Address) -> Result<Way> {
        let names = self.vhosts.get_mut(vhost);
        match names.and_then(|names| names.way(address)) {
            Some(way) if !way.internal => Ok(way),
            Some(_) => Err(internal_exchange(vhost, address)),
            None => Err(missing_exchange(vhost, address)),
        }
    }

    /// Messages that differ to an exchange: neighbours that go one way still go together.
    fn publish_each(&mut self, run: &Run<'_>, unroutable: &mut Unroutable) -> Result<()> {
        let mut last: Option<(u32, Queues)> = None;
        let now = clock::now();
        for offset in 0..run.count {
            let chance = self.throw();
            let queues = self.look(run, run.first + offset, Moment { now, chance });
            self.note_taken(run, run.first + offset);
            if let Some((from, known)) = last.take() {
                if known == queues {
                    last = Some((from, known));
                    continue;
                }
                self.pass_sound(&run.part(from, offset - from), &known, unroutable)?;
            }
            last = Some((offset, queues));
        }
        if let Some((from, queues)) = last {
            self.pass_sound(&run.part(from, run.count - from), &queues, unroutable)?;
        }
        Ok(())
    }

    /// A run whose queues are known, up to a message that one of them cannot take.
    fn pass_sound(
        &mut self,
        run: &Run<'_>,
        queues: &Queues,
        unroutable: &mut Unroutable,
    ) -> Result<()> {
        let Some((offset, error)) = self.first_unsound(run, queues) else {
            self.pass(run, queues, unroutable);
            return Ok(());
        };
        if offset > 0 {
            self.pass(&run.part(0, offset), queues, unroutable);
        }
        self.note_refused(run.block, run.first + offset, u32::MAX);
        Err(error)
    }

    fn first_unsound(&self, run: &Run<'_>, queues: &Queues) -> Option<(u32, Error)> {
        if !self.works {
            return None;
        }
        let of = |id: &QueueId| self.queues.get(id).filter(|q| q.arguments.work.is_some());
        let name = queues.as_slice().iter().find_map(of)?.spec.name.clone();
        let now = clock::now();
        (0..run.count).find_map(|offset| {
            let index = (run.first + offset) as usize;
            let refused = retry::refusal(run.block, index);
            let (header, why) = refused.or_else(|| delay::refusal(run.block, index, now))?;
            let vhost = run.vhost;
            let detail =
                format!("invalid header '{header}' for queue '{name}' in vhost '{vhost}': {why}");
            let error = Error::PreconditionFailed {
                noun: Noun::Message,
                name: name.to_string(),
                detail,
            };
            Some((offset, error))
        })
    }

    fn look(&mut self, run: &Run<'_>, index: u32, moment: Moment) -> Queues {
        let exchange = std::str::from_utf8(run.address().exchange()).unwrap_or_default();
        let message = Message::new(run.block, index as usize, run.copies, moment);
        let names = self.vhosts.get_mut(run.vhost);
        names
            .and_then(|names| names.look(exchange, &message))
            .unwrap_or(Queues::None)
    }

    /// A run whose queues are known.
    fn pass(&mut self, run: &Run<'_>, queues: &Queues, unroutable: &mut Unroutable) {
        if self.tracing {
            self.trace_publish(run, queues.as_slice());
        }
        if !queues.as_slice().is_empty() {
            let (queues, part) = (queues.as_slice(), (run.first, run.count));
            if !run.copies.is_empty() {
                self.copies = run.copies.to_vec();
            }
            self.append_published(queues, run.channel, run.block, part, run.confirm);
            return self.copies.clear();
        }
        if let Queues::Dropped = queues {
            self.counters.deduplicated += u64::from(run.count);
            // Its first copy may be on the way to the disk still.
            return self.confirm_now(run.channel, run.confirm, run.count, self.disk_first);
        }
        self.counters.unroutable += u64::from(run.count);
        self.note_refused(run.block, run.first, run.count);
        if run.mandatory {
            self.counters.returned += u64::from(run.count);
            unroutable.push((run.first, run.count));
        } else {
            self.confirm_now(run.channel, run.confirm, run.count, false);
        }
    }

    /// Time and chance, for routing.
    pub(super) fn moment(&mut self) -> Moment {
        let chance = self.throw();
        Moment {
            now: clock::now(),
            chance,
        }
    }

    fn throw(&mut self) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.chance
    }

    /// True when the messages were replies, which have no queue.
    fn is_reply(&mut self, run: &Run<'_>) -> bool {
        let address = run.address();
        if !address.exchange().is_empty() || !address.routing_key().starts_with(REPLY_TO.as_bytes())
        {
            return false;
        }
        let name = String::from_utf8_lossy(address.routing_key()).into_owned();
        for index in run.first..run.first + run.count {
            if !self.reply(&name, run.block, index as usize) {
                return false;
            }
        }
        let durable = name.starts_with(REPLY_TO_JOB);
        self.confirm_now(run.channel, run.confirm, run.count, durable);
        true
    }
}

fn internal_exchange(vhost: &str, address: &Address) -> Error {
    let name = String::from_utf8_lossy(address.exchange()).into_owned();
    let detail = format!("cannot publish to internal exchange '{name}' in vhost '{vhost}'");
    Error::Refused {
        noun: Noun::Exchange,
        name,
        detail,
    }
}

fn missing_exchange(vhost: &str, address: &Address) -> Error {
    let name = String::from_utf8_lossy(address.exchange()).into_owned();
    let detail = format!("no exchange '{name}' in vhost '{vhost}'");
    Error::NotFound {
        noun: Noun::Exchange,
        name,
        detail,
    }
}
