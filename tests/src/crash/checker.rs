//! Was every promise about messages kept?
//!
//! Keeps: one pass over the deliveries in the order of their arrival, then one over what was sent.
//! Never: tolerates anything that no rule allows.
//! In: `run` after the final drain. The tests below plant each fault.

use std::collections::{HashMap, HashSet};

use super::Faults;
use super::ledger::{Delivery, Fate, Ledger};
use super::message::Id;

/// What a queue of the load does.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub name: &'static str,
    /// Where rejected messages go, as a position in the list.
    pub dead_letters_to: Option<u8>,
    /// One consumer at a time, so that order holds over all its lives.
    pub one_consumer: bool,
}

/// Counts of each kind of fault, and the first ones in words.
#[derive(Debug, Default)]
pub struct Verdict {
    pub received: usize,
    pub redelivered: usize,
    /// From an owner whose store another one had taken over.
    pub late: usize,
    pub dead_lettered: usize,
    pub lost: Faults,
    pub unexpected: Faults,
    pub unflagged: Faults,
    pub disorder: Faults,
    /// Dead letters that are nowhere, or in two places.
    pub misplaced: Faults,
    /// Confirmed messages that were handed out, not settled, and never came again.
    pub unsettled: Faults,
}

impl Verdict {
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, &Faults)> {
        [
            ("lost", &self.lost),
            ("unexpected", &self.unexpected),
            ("second delivery not flagged", &self.unflagged),
            ("out of order", &self.disorder),
            ("dead letter misplaced", &self.misplaced),
            ("lost unsettled", &self.unsettled),
        ]
        .into_iter()
    }
}

/// Judges a complete ledger: everything is drained and settled.
pub fn check(ledger: &mut Ledger, rules: &[Rule]) -> Verdict {
    ledger.deliveries.sort_by_key(|delivery| delivery.at);
    let mut verdict = Verdict::default();
    for damage in &ledger.damaged {
        verdict.unexpected.add(|| damage.clone());
    }
    let last = deliveries(ledger, rules, &mut verdict);
    arrivals(ledger, rules, &last, &mut verdict);
    settled(ledger, rules, &last, &mut verdict);
    verdict
}

/// The last fate of each message in each queue where it arrived.
type Last = HashMap<(u8, Id), Fate>;

fn deliveries(ledger: &Ledger, rules: &[Rule], verdict: &mut Verdict) -> Last {
    let mut last = Last::new();
    let mut newest: HashMap<(u8, u32, u16), u64> = HashMap::new();
    for delivery in &ledger.deliveries {
        let (queue, id) = (delivery.queue, delivery.id);
        let name = || rules[usize::from(queue)].name;
        verdict.received += 1;
        verdict.redelivered += usize::from(delivery.redelivered);
        let writer = ledger.writers.get(usize::from(id.writer));
        let route = writer.and_then(|sent| sent.route(id.number)).unwrap_or(0);
        if route & reaching(rules, queue) == 0 {
            verdict
                .unexpected
                .add(|| format!("{id:?} from {} was not sent there", name()));
        }
        if delivery.late {
            verdict.late += 1;
            continue;
        }
        let seen_before = last.insert((queue, id), delivery.fate).is_some();
        if seen_before && !delivery.redelivered {
            verdict
                .unflagged
                .add(|| format!("{id:?} from {} at {}", name(), delivery.at));
        }
        // What comes again has lost its place in the order of first deliveries.
        if !delivery.redelivered && !is_dead_letter_queue(rules, queue) {
            let session = if rules[usize::from(queue)].one_consumer {
                0
            } else {
                delivery.session
            };
            let before = newest.insert((queue, session, id.writer), id.number);
            if before.is_some_and(|before| before >= id.number) {
                verdict
                    .disorder
                    .add(|| format!("{id:?} from {} after {before:?}", name()));
            }
        }
    }
    last
}

/// The queues whose messages may show up in this one: itself, or those that dead-letter to it.
fn reaching(rules: &[Rule], queue: u8) -> u8 {
    let sources = (0..)
        .zip(rules)
        .filter(|(_, rule)| rule.dead_letters_to == Some(queue));
    sources.fold(1 << queue, |mask, (source, _)| mask | 1 << source)
}

fn is_dead_letter_queue(rules: &[Rule], queue: u8) -> bool {
    rules.iter().any(|rule| rule.dead_letters_to == Some(queue))
}

/// Each confirmed message must have arrived in each queue that it was routed to. Where all of its
/// consumers have acked it, a message is confirmed without the disk: then a late delivery is one.
fn arrivals(ledger: &Ledger, rules: &[Rule], last: &Last, verdict: &mut Verdict) {
    let deliveries = ledger.deliveries.iter();
    let done = deliveries.filter(|delivery| delivery.late && is_done(delivery, rules));
    let done: HashSet<_> = done.map(|delivery| (delivery.queue, delivery.id)).collect();
    for (writer, sent) in (0..).zip(&ledger.writers) {
        for (number, (route, confirmed)) in (0..).zip(sent.routes.iter().zip(&sent.confirmed)) {
            let id = Id { writer, number };
            for (queue, rule) in (0..).zip(rules) {
                let due = *confirmed && route & (1 << queue) != 0;
                let place = (queue, id);
                if due && !last.contains_key(&place) && !done.contains(&place) {
                    verdict.lost.add(|| format!("{id:?} in {}", rule.name));
                }
            }
        }
    }
}

/// Its consumer wants no more of it, and nothing else follows from that.
fn is_done(delivery: &Delivery, rules: &[Rule]) -> bool {
    let dropped = rules[usize::from(delivery.queue)].dead_letters_to.is_none();
    match delivery.fate {
        Fate::Acked => true,
        Fate::Rejected => dropped,
        Fate::Held | Fate::Requeued => false,
    }
}

/// A confirmed message that was not settled comes again; one that was rejected last is in the
/// dead-letter queue, one that was acked last is not. A message that was never confirmed may
/// have gone with the crash, whoever held it.
fn settled(ledger: &Ledger, rules: &[Rule], last: &Last, verdict: &mut Verdict) {
    for ((queue, id), fate) in last {
        let rule = &rules[usize::from(*queue)];
        let confirmed = ledger.is_confirmed(*id);
        if confirmed && matches!(fate, Fate::Held | Fate::Requeued) {
            verdict
                .unsettled
                .add(|| format!("{id:?} in {} was {fate:?} last", rule.name));
        }
        let Some(dead) = rule.dead_letters_to else {
            continue;
        };
        let is_there = last.contains_key(&(dead, *id));
        verdict.dead_lettered += usize::from(is_there);
        let missing = *fate == Fate::Rejected && !is_there && confirmed;
        let doubled = *fate != Fate::Rejected && is_there;
        if missing || doubled {
            verdict
                .misplaced
                .add(|| format!("{id:?} {fate:?} last, dead-lettered: {is_there}"));
        }
    }
    // A dead letter whose source never delivered it to anyone.
    for (queue, id) in last
        .keys()
        .filter(|(queue, _)| is_dead_letter_queue(rules, *queue))
    {
        let mut sources = (0..)
            .zip(rules)
            .filter(|(_, rule)| rule.dead_letters_to == Some(*queue));
        if !sources.any(|(source, _)| last.contains_key(&(source, *id))) {
            verdict
                .misplaced
                .add(|| format!("{id:?} was dead-lettered by nobody"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 3] = [
        Rule {
            name: "plain",
            dead_letters_to: None,
            one_consumer: true,
        },
        Rule {
            name: "work",
            dead_letters_to: Some(2),
            one_consumer: false,
        },
        Rule {
            name: "dead",
            dead_letters_to: None,
            one_consumer: true,
        },
    ];

    /// Four confirmed messages to queue 0, four to queue 1.
    fn sent() -> Ledger {
        let mut ledger = Ledger::new(1);
        for number in 0..8 {
            ledger.writers[0].send(1 << (number / 4));
            ledger.writers[0].confirm(number);
        }
        ledger
    }

    fn deliver(ledger: &mut Ledger, queue: u8, number: u64, redelivered: bool, fate: Fate) {
        let (at, id) = (ledger.deliveries.len() as u64, Id { writer: 0, number });
        ledger.deliveries.push(Delivery {
            at,
            queue,
            session: 1,
            id,
            redelivered,
            fate,
            late: false,
        });
    }

    fn all_well() -> Ledger {
        let mut ledger = sent();
        for number in 0..8 {
            deliver(
                &mut ledger,
                u8::from(number > 3),
                number,
                false,
                Fate::Acked,
            );
        }
        ledger
    }

    /// The kinds of fault that are found.
    fn faults(mut ledger: Ledger) -> Vec<&'static str> {
        let verdict = check(&mut ledger, &RULES);
        verdict
            .faults()
            .filter(|(_, faults)| faults.count > 0)
            .map(|(kind, _)| kind)
            .collect()
    }

    #[test]
    fn a_clean_history_has_no_fault() {
        assert!(faults(all_well()).is_empty());
    }

    #[test]
    fn a_crash_with_everything_flagged_has_no_fault() {
        let mut ledger = sent();
        deliver(&mut ledger, 0, 0, false, Fate::Acked);
        deliver(&mut ledger, 0, 1, false, Fate::Held);
        deliver(&mut ledger, 0, 0, true, Fate::Acked);
        deliver(&mut ledger, 0, 1, true, Fate::Requeued);
        deliver(&mut ledger, 0, 2, false, Fate::Acked);
        deliver(&mut ledger, 0, 1, true, Fate::Acked);
        // Flagged though nobody saw it before: allowed after a crash.
        deliver(&mut ledger, 0, 3, true, Fate::Rejected);
        for number in 4..8 {
            deliver(&mut ledger, 1, number, false, Fate::Acked);
        }
        assert!(faults(ledger).is_empty());
    }

    #[test]
    fn an_unconfirmed_message_may_be_missing_or_there() {
        let mut ledger = all_well();
        ledger.writers[0].send(1);
        ledger.writers[0].send(1);
        deliver(&mut ledger, 0, 9, false, Fate::Acked);
        assert!(faults(ledger).is_empty());
    }

    #[test]
    fn a_lost_message_is_found() {
        let mut ledger = all_well();
        ledger.deliveries.remove(2);
        assert_eq!(faults(ledger), ["lost"]);
    }

    #[test]
    fn a_message_lost_in_one_of_two_queues_is_found() {
        let mut ledger = all_well();
        ledger.writers[0].routes[3] = 0b11;
        assert_eq!(faults(ledger), ["lost"]);
    }

    #[test]
    fn a_message_that_nobody_sent_is_found() {
        let mut ledger = all_well();
        deliver(&mut ledger, 0, 77, false, Fate::Acked);
        assert_eq!(faults(ledger), ["unexpected"]);
    }

    #[test]
    fn a_message_in_the_wrong_queue_is_found() {
        let mut ledger = all_well();
        deliver(&mut ledger, 0, 5, false, Fate::Acked);
        assert_eq!(faults(ledger), ["unexpected"]);
    }

    #[test]
    fn a_damaged_body_is_found() {
        let mut ledger = all_well();
        ledger.damaged.push("a wrong checksum".to_owned());
        assert_eq!(faults(ledger), ["unexpected"]);
    }

    #[test]
    fn a_silent_repeat_is_found() {
        let mut ledger = all_well();
        deliver(&mut ledger, 1, 7, false, Fate::Acked);
        // The repeat of an old message is out of order as well.
        assert_eq!(
            faults(ledger),
            ["second delivery not flagged", "out of order"]
        );
    }

    #[test]
    fn a_late_delivery_is_judged_by_its_route_and_ack() {
        let mut ledger = all_well();
        deliver(&mut ledger, 1, 7, false, Fate::Requeued);
        ledger.deliveries[8].late = true;
        assert!(faults(ledger).is_empty());
        let mut ledger = all_well();
        deliver(&mut ledger, 1, 3, false, Fate::Acked);
        ledger.deliveries[8].late = true;
        assert_eq!(faults(ledger), ["unexpected"]);
        let mut ledger = all_well();
        ledger.deliveries[5].late = true;
        assert!(faults(ledger).is_empty());
        for fate in [Fate::Held, Fate::Requeued, Fate::Rejected] {
            let mut ledger = all_well();
            ledger.deliveries[5].late = true;
            ledger.deliveries[5].fate = fate;
            assert_eq!(faults(ledger), ["lost"]);
        }
    }

    #[test]
    fn a_swap_is_found() {
        let mut ledger = all_well();
        ledger.deliveries[1].id.number = 2;
        ledger.deliveries[2].id.number = 1;
        assert_eq!(faults(ledger), ["out of order"]);
    }

    #[test]
    fn a_swap_between_two_consumers_is_no_fault() {
        let mut ledger = all_well();
        ledger.deliveries[4].id.number = 5;
        ledger.deliveries[5].id.number = 4;
        ledger.deliveries[5].session = 2;
        assert!(faults(ledger).is_empty());
    }

    #[test]
    fn dead_letters_must_arrive_once() {
        let mut ledger = all_well();
        ledger.deliveries[6].fate = Fate::Rejected;
        assert_eq!(faults(ledger), ["dead letter misplaced"]);
        let mut ledger = all_well();
        ledger.deliveries[6].fate = Fate::Rejected;
        deliver(&mut ledger, 2, 6, false, Fate::Acked);
        assert!(faults(ledger).is_empty());
    }

    #[test]
    fn a_message_in_source_and_dead_letter_queue_is_found() {
        let mut ledger = all_well();
        deliver(&mut ledger, 2, 6, false, Fate::Acked);
        assert_eq!(faults(ledger), ["dead letter misplaced"]);
    }

    #[test]
    fn a_held_message_that_does_not_come_again_is_found() {
        for fate in [Fate::Held, Fate::Requeued] {
            let mut ledger = all_well();
            ledger.deliveries[0].fate = fate;
            assert_eq!(faults(ledger), ["lost unsettled"]);
        }
    }

    #[test]
    fn an_unconfirmed_message_may_vanish_while_it_is_held_or_rejected() {
        for fate in [Fate::Held, Fate::Rejected] {
            let mut ledger = all_well();
            ledger.deliveries[6].fate = fate;
            ledger.writers[0].confirmed[6] = false;
            assert!(faults(ledger).is_empty());
        }
    }
}
