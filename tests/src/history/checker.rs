//! Were the rules of work kept?
//!
//! Keeps: every exception is one that a crash, a lease or a lost connection allows, and says so.
//! Never: looks at how long something took, but for what must not come too early. A client that was
//! slow may have read a delivery long after its lease, or never: attempts tell their order.
//! In: `tests/history.rs`, after the drain. The tests below plant each fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::client::{FILLING, PREFETCH};
use super::ledger::{Book, Delivery, Event, Sent, Word};
use super::queues::{Keys, NARROW, QUEUES};
use super::replays;
use crate::crash::Faults;
use crate::crash::message::Id;

/// Counts of what happened, and of each kind of fault.
#[derive(Debug, Default)]
pub struct Verdict {
    pub delivered: usize,
    pub redelivered: usize,
    pub dead: usize,
    pub duplicates: usize,
    pub lease_ends: usize,
    pub lost: Faults,
    /// In two places, or in one that it was not sent to.
    pub misplaced: Faults,
    pub unflagged: Faults,
    /// Counts and records of attempts that are not true.
    pub attempts: Faults,
    /// Again without a reason, or in two hands.
    pub unexplained: Faults,
    pub disorder: Faults,
    /// A name was taken twice, or not at all.
    pub doubled: Faults,
    pub early: Faults,
    /// A settled message that was kept is not there any more.
    pub kept: Faults,
    /// A replay left something out, or brought it twice.
    pub replayed: Faults,
    /// The queue that stops its publishers did not.
    pub overflow: Faults,
}

impl Verdict {
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, &Faults)> {
        [
            ("lost", &self.lost),
            ("misplaced", &self.misplaced),
            ("second delivery not flagged", &self.unflagged),
            ("attempts", &self.attempts),
            ("redelivered without a reason", &self.unexplained),
            ("out of order", &self.disorder),
            ("deduplication", &self.doubled),
            ("too early", &self.early),
            ("not kept", &self.kept),
            ("replays", &self.replayed),
            ("overflow", &self.overflow),
        ]
        .into_iter()
    }
}

/// A delivery with what became of it.
#[derive(Clone, Copy)]
struct Told<'a> {
    line: usize,
    life: u32,
    session: u32,
    delivery: &'a Delivery,
    said: Option<(usize, Word)>,
}

/// What is known of one message; deliveries in the order in which they were made.
#[derive(Default)]
struct Story<'a> {
    live: Vec<Told<'a>>,
    dead: Vec<Told<'a>>,
}

impl Told<'_> {
    /// In words, for whoever looks for the reason.
    fn told(&self) -> String {
        let Self {
            line,
            life,
            session,
            delivery,
            said,
        } = self;
        let (attempt, error) = (delivery.attempt, &delivery.error);
        format!("line {line} (life {life}, session {session}): {attempt} {error:?}, {said:?}")
    }
}

impl Story<'_> {
    fn told(&self) -> Vec<String> {
        self.live.iter().chain(&self.dead).map(Told::told).collect()
    }
}

/// The book, by message.
struct Index<'a> {
    stories: BTreeMap<Id, Story<'a>>,
    /// Sessions that said goodbye.
    peaceful: BTreeSet<u32>,
    /// Where the first of the others ended.
    first_lost: Option<usize>,
}

/// Judges a complete book: everything is drained.
pub fn check(book: &Book) -> Verdict {
    let mut verdict = Verdict::default();
    for damage in &book.damaged {
        verdict.misplaced.add(|| damage.clone());
    }
    let index = Index::of(book);
    for (id, story) in &index.stories {
        let Some(sent) = book.sent.get(id) else {
            verdict.misplaced.add(|| format!("{id:?} was never sent"));
            continue;
        };
        index.check_places(*id, sent, story, &mut verdict);
        index.check_attempts(*id, sent, story, &mut verdict);
    }
    check_ends(book, &index, &mut verdict);
    check_names(book, &index, &mut verdict);
    check_order(book, &index, &mut verdict);
    replays::check(book, &mut verdict.kept, &mut verdict.replayed);
    check_lengths(book, &mut verdict);
    verdict
}

impl<'a> Index<'a> {
    fn of(book: &'a Book) -> Self {
        let mut said = BTreeMap::new();
        let mut peaceful = BTreeSet::new();
        let mut first_lost = None;
        for (line, event) in book.events.iter().enumerate() {
            match event {
                Event::Said(of, word) => _ = said.insert(*of, (line, *word)),
                Event::Left {
                    session,
                    peacefully: true,
                } => _ = peaceful.insert(*session),
                Event::Left { .. } => _ = first_lost.get_or_insert(line),
                _ => {}
            }
        }
        let mut stories: BTreeMap<Id, Story<'a>> = BTreeMap::new();
        let mut life = 0;
        for (line, event) in book.events.iter().enumerate() {
            match event {
                Event::Killed => life += 1,
                Event::Delivered(session, delivery) => {
                    let story = stories.entry(delivery.id).or_default();
                    let list = match delivery.dead {
                        true => &mut story.dead,
                        false => &mut story.live,
                    };
                    list.push(Told {
                        line,
                        life,
                        session: *session,
                        delivery,
                        said: said.get(&line).copied(),
                    });
                }
                _ => {}
            }
        }
        for story in stories.values_mut() {
            // In one life attempts only grow.
            let order = |told: &Told<'_>| (told.life, told.delivery.attempt, told.line);
            story.live.sort_by_key(order);
        }
        Self {
            stories,
            peaceful,
            first_lost,
        }
    }

    fn check_places(&self, id: Id, sent: &Sent, story: &Story<'_>, verdict: &mut Verdict) {
        for told in story.live.iter().chain(&story.dead) {
            let delivery = told.delivery;
            verdict.delivered += 1;
            verdict.redelivered += usize::from(delivery.redelivered);
            if delivery.queue != sent.queue {
                let name = QUEUES[delivery.queue].name;
                verdict.misplaced.add(|| format!("{id:?} came from {name}"));
            }
            let delay = Duration::from_millis(sent.delay_ms.unwrap_or(0).into());
            if delivery.at + CLOCKS < sent.at + delay {
                verdict
                    .early
                    .add(|| format!("{id:?} came before {delay:?}"));
            }
        }
        for list in [&story.live, &story.dead] {
            let mut again = list.iter().skip(1);
            if let Some(told) = again.find(|told| !told.delivery.redelivered) {
                let line = told.line;
                verdict.unflagged.add(|| format!("{id:?}, line {line}"));
            }
        }
        verdict.dead += usize::from(!story.dead.is_empty());
        if story.dead.len() > 1 {
            let (name, told) = (QUEUES[sent.queue].name, story.told());
            verdict
                .misplaced
                .add(|| format!("{id:?} of {name} is dead twice: {told:?}"));
        }
    }

    fn check_attempts(&self, id: Id, sent: &Sent, story: &Story<'_>, verdict: &mut Verdict) {
        let most = sent.limit + 1;
        for told in &story.live {
            let delivery = told.delivery;
            let says = delivery.most.is_none_or(|said| said == most);
            if delivery.attempt > most || !says || (delivery.attempt > 1) != delivery.most.is_some()
            {
                let (attempt, said) = (delivery.attempt, delivery.most);
                verdict
                    .attempts
                    .add(|| format!("{id:?} came as {attempt} of {said:?}, not of {most}"));
            }
        }
        for told in &story.dead {
            let delivery = told.delivery;
            let last = delivery.record.last().copied();
            if (delivery.attempt, delivery.most, last) != (most, Some(most), Some(most)) {
                verdict
                    .attempts
                    .add(|| format!("{id:?} died as {delivery:?}, not after {most}"));
            }
        }
        for pair in story.live.windows(2) {
            if let Err(why) = self.follows(&pair[0], &pair[1], verdict) {
                let lines = (pair[0].line, pair[1].line);
                verdict
                    .unexplained
                    .add(|| format!("{id:?}, lines {lines:?}: {why}"));
            }
        }
        if let (Some(last), Some(dead)) = (story.live.last(), story.dead.first())
            && let Err(why) = self.follows(last, dead, verdict)
        {
            verdict
                .unexplained
                .add(|| format!("{id:?} in its end: {why}"));
        }
    }

    /// The second delivery is what must follow from how the first one ended.
    fn follows(
        &self,
        first: &Told<'_>,
        next: &Told<'_>,
        verdict: &mut Verdict,
    ) -> Result<(), String> {
        let (before, after) = (first.delivery.attempt, next.delivery.attempt);
        // What is dead names the attempt that failed last, not the one that would follow.
        let is_dead = next.delivery.dead;
        let step = after - before + i64::from(is_dead);
        let error = next.delivery.error.as_deref();
        // One that was lost may have had deliveries that it did not read.
        let was_lost = self.first_lost.is_some_and(|line| line < next.line);
        if first.life != next.life && !is_dead {
            // What was not on disk is done again.
            return match step <= 1 || was_lost || error == Some("lease-ended") {
                true => Ok(()),
                false => Err(format!("attempt {after} after {before} and a crash")),
            };
        }
        match error {
            // Those between may have been read by nobody.
            Some("lease-ended") if step >= 1 => {
                verdict.lease_ends += 1;
                return Ok(());
            }
            Some("consumer-lost") if step >= 1 && was_lost => return Ok(()),
            _ if step == 0 && self.peaceful.contains(&first.session) => return Ok(()),
            _ => {}
        }
        let expected = match first.said {
            Some((line, Word::Fail)) if line < next.line => "rejected",
            Some((line, Word::Return)) if line < next.line => "returned",
            said => return Err(format!("{said:?}, and then attempt {after}, {error:?}")),
        };
        match step == 1 && error == Some(expected) {
            true => Ok(()),
            false => Err(format!("{expected}, and then attempt {after}, {error:?}")),
        }
    }
}

/// A confirmed message is acked, or dead; whatever was delivered came to its end, but for what no
/// confirm promised and a crash took.
fn check_ends(book: &Book, index: &Index<'_>, verdict: &mut Verdict) {
    let killed = |event: &&Event| matches!(event, Event::Killed);
    let lives = book.events.iter().filter(killed).count() as u32;
    let none = Story::default();
    for (id, sent) in &book.sent {
        let story = index.stories.get(id).unwrap_or(&none);
        let by_name = QUEUES[sent.queue].once && sent.name.is_some();
        let last = story.live.last();
        let acked = last.is_some_and(|told| matches!(told.said, Some((_, Word::Ack))));
        let is_over = acked || !story.dead.is_empty();
        let may_be_gone = !sent.confirmed && last.is_none_or(|told| told.life < lives);
        let never_came = story.live.is_empty() && story.dead.is_empty();
        if !(is_over || may_be_gone || by_name && never_came) {
            verdict.lost.add(|| {
                let said = last.map(|told| (told.line, told.life, told.said));
                format!("{id:?} in {}, last {said:?}", QUEUES[sent.queue].name)
            });
        }
    }
}

/// A name is taken once, whoever published it how often.
fn check_names(book: &Book, index: &Index<'_>, verdict: &mut Verdict) {
    let mut names: BTreeMap<&str, (bool, Vec<Id>)> = BTreeMap::new();
    for (id, sent) in &book.sent {
        if let (Some(name), true) = (&sent.name, QUEUES[sent.queue].once) {
            let (confirmed, seen) = names.entry(name).or_default();
            *confirmed |= sent.confirmed;
            match index.stories.contains_key(id) {
                true => seen.push(*id),
                false => verdict.duplicates += usize::from(sent.confirmed),
            }
        }
    }
    for (name, (confirmed, seen)) in names {
        if seen.len() > 1 || confirmed && seen.is_empty() {
            verdict
                .doubled
                .add(|| format!("'{name}' was taken by {seen:?}"));
        }
    }
}

/// Of a key, a message goes out for the first time when all before it have come to their ends.
fn check_order(book: &Book, index: &Index<'_>, verdict: &mut Verdict) {
    let mut keys: BTreeMap<(usize, &str), Vec<(Id, &Sent)>> = BTreeMap::new();
    for (id, sent) in &book.sent {
        if let (Some(key), Some(Keys::Block)) = (&sent.key, QUEUES[sent.queue].keys) {
            keys.entry((sent.queue, key)).or_default().push((*id, sent));
        }
    }
    for list in keys.values() {
        for (at, (id, _)) in list.iter().enumerate() {
            let story = index.stories.get(id);
            let Some(first) = story.and_then(|story| story.live.first()) else {
                continue;
            };
            for (before, sent) in &list[..at] {
                let was_lost = index.first_lost.is_some_and(|line| line < first.line);
                if !had_ended(index.stories.get(before), sent, first, was_lost) {
                    let story = index.stories.get(before);
                    verdict.disorder.add(|| {
                        let told = story.map(Story::told);
                        format!("{id:?} in {}, before {before:?}: {told:?}", first.told())
                    });
                }
            }
        }
    }
}

/// A queue that stops its publishers becomes no longer than what was under way makes it.
fn check_lengths(book: &Book, verdict: &mut Verdict) {
    let room = QUEUES[NARROW].room.unwrap_or(i64::MAX);
    for (life, (first, most)) in book.lengths.iter().enumerate() {
        if *most > room.max(*first) + UNDER_WAY {
            verdict
                .overflow
                .add(|| format!("life {life} began with {first} messages and had {most}"));
        }
    }
}

/// True when a message had come to its end, or was not there, when another came for the first time.
fn had_ended(story: Option<&Story<'_>>, sent: &Sent, then: &Told<'_>, was_lost: bool) -> bool {
    let Some(story) = story else {
        return !sent.confirmed;
    };
    let acked = |told: &Told<'_>| matches!(told.said, Some((line, Word::Ack)) if line < then.line);
    if story.live.iter().any(acked) {
        return true;
    }
    // When it died, nobody was told; but in this life it did not go out again, unless somebody read
    // of that late.
    let later = |told: &Told<'_>| told.line > then.line && told.life == then.life;
    if story.live.iter().any(later) {
        let dead = story.dead.first();
        let error = dead.and_then(|dead| dead.delivery.error.as_deref());
        return matches!(error, Some("lease-ended" | "consumer-lost"));
    }
    // A crash may have taken its death, so that it comes once more: but then it was out before.
    let was_out = story.live.iter().any(|told| told.line < then.line);
    !story.dead.is_empty() || was_out || was_lost
}

/// How far two clocks of one machine may be apart, one of which is set by the network.
const CLOCKS: Duration = Duration::from_millis(25);

/// What a stopped publisher may have sent before it was stopped and after, 256 and 64 KiB in
/// messages; what the consumers have in hand, or failed, and comes back.
const UNDER_WAY: i64 = (320 << 10) / FILLING as i64 + 8 * PREFETCH;

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
