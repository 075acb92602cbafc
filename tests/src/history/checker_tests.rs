//! The checker on books of a few lines, with each fault planted once.

use std::time::Instant;

use super::*;
use crate::history::ledger::{Ledger, Replay};
use crate::history::queues::{KEPT, NARROW};

const WORK: usize = 0;
const KEYED: usize = 1;
const ONCE: usize = 3;

fn id(number: u64) -> Id {
    Id { writer: 0, number }
}

struct Case {
    book: Book,
    at: Instant,
}

impl Case {
    fn new() -> Self {
        Self {
            book: Ledger::default().close(),
            at: Instant::now(),
        }
    }

    fn sent(mut self, number: u64, queue: usize, confirmed: bool) -> Self {
        let sent = Sent {
            queue,
            key: (queue == KEYED).then(|| "a".to_owned()),
            name: (queue == ONCE).then(|| "n".to_owned()),
            limit: QUEUES[queue].limit,
            own_limit: false,
            delay_ms: None,
            at: self.at,
            confirmed,
        };
        self.book.sent.insert(id(number), sent);
        self
    }

    /// Delivers, on session 1, and says something.
    fn came(self, number: u64, (attempt, error): (i64, &str), word: Option<Word>) -> Self {
        self.came_again(number, (attempt, error), word, attempt > 1)
    }

    fn came_again(
        mut self,
        number: u64,
        (attempt, error): (i64, &str),
        word: Option<Word>,
        redelivered: bool,
    ) -> Self {
        let queue = self.book.sent.get(&id(number)).map_or(0, |sent| sent.queue);
        let delivery = Delivery {
            queue,
            dead: false,
            id: id(number),
            redelivered,
            attempt,
            most: (attempt > 1).then(|| QUEUES[queue].limit + 1),
            error: (!error.is_empty()).then(|| error.to_owned()),
            record: (1..attempt).collect(),
            at: self.at,
        };
        let line = self.book.note(Event::Delivered(1, delivery));
        if let Some(word) = word {
            self.book.note(Event::Said(line, word));
        }
        self
    }

    /// Comes from the dead-letter queue.
    fn died(mut self, number: u64, error: &str) -> Self {
        let queue = self.book.sent.get(&id(number)).map_or(0, |sent| sent.queue);
        let most = QUEUES[queue].limit + 1;
        let delivery = Delivery {
            queue,
            dead: true,
            id: id(number),
            redelivered: false,
            attempt: most,
            most: Some(most),
            error: Some(error.to_owned()),
            record: (1..=most).collect(),
            at: self.at,
        };
        let line = self.book.note(Event::Delivered(2, delivery));
        self.book.note(Event::Said(line, Word::Ack));
        self
    }

    fn event(mut self, event: Event) -> Self {
        self.book.note(event);
        self
    }

    /// The kinds of faults that are found.
    fn faults(&self) -> Vec<&'static str> {
        let verdict = check(&self.book);
        let found = verdict.faults().filter(|(_, faults)| faults.count > 0);
        found.map(|(kind, _)| kind).collect()
    }
}

const ACK: Option<Word> = Some(Word::Ack);
const FAIL: Option<Word> = Some(Word::Fail);
const RETURN: Option<Word> = Some(Word::Return);
const NONE: [&str; 0] = [];

fn left(peacefully: bool) -> Event {
    let session = 1;
    Event::Left {
        session,
        peacefully,
    }
}

#[test]
fn what_the_rules_allow_is_no_fault() {
    let fails = || {
        let case = Case::new().sent(1, WORK, true).came(1, (1, ""), FAIL);
        case.came(1, (2, "rejected"), RETURN)
    };
    assert_eq!(fails().came(1, (3, "returned"), ACK).faults(), NONE);
    let dies = fails().came(1, (3, "returned"), FAIL);
    assert_eq!(dies.died(1, "rejected").faults(), NONE);
    // An ack that came too late, and one that a crash took.
    let acked = || Case::new().sent(1, WORK, true).came(1, (1, ""), ACK);
    assert_eq!(acked().came(1, (2, "lease-ended"), ACK).faults(), NONE);
    let again = acked().event(Event::Killed);
    assert_eq!(again.came_again(1, (1, ""), ACK, true).faults(), NONE);
    // Who leaves in peace is not counted, who is lost is.
    let held = || Case::new().sent(1, WORK, true).came(1, (1, ""), None);
    let gone = held().event(left(true));
    assert_eq!(gone.came_again(1, (1, ""), ACK, true).faults(), NONE);
    let gone = held().event(left(false));
    assert_eq!(gone.came(1, (2, "consumer-lost"), ACK).faults(), NONE);
    // A slow client reads a delivery after the next one.
    let late = Case::new().sent(1, WORK, true);
    let late = late.came(1, (2, "lease-ended"), ACK);
    assert_eq!(late.came(1, (1, ""), None).faults(), NONE);
    // Nobody was promised anything, and a crash came.
    let unsure = Case::new().sent(1, WORK, false).event(Event::Killed);
    assert_eq!(unsure.faults(), NONE);
}

#[test]
fn a_message_is_found_missing() {
    assert_eq!(Case::new().sent(1, WORK, true).faults(), ["lost"]);
    let held = Case::new().sent(1, WORK, true).came(1, (1, ""), None);
    assert_eq!(held.faults(), ["lost"]);
}

#[test]
fn a_message_is_found_in_two_places() {
    let both = Case::new()
        .sent(1, WORK, true)
        .came(1, (3, "returned"), ACK);
    let both = both.died(1, "rejected");
    assert_eq!(both.faults(), ["redelivered without a reason"]);
    let twice = Case::new()
        .sent(1, WORK, true)
        .came(1, (3, "returned"), FAIL);
    let twice = twice.died(1, "rejected").died(1, "rejected");
    assert!(twice.faults().contains(&"misplaced"));
    let stranger = Case::new().came(9, (1, ""), ACK);
    assert_eq!(stranger.faults(), ["misplaced"]);
}

#[test]
fn a_delivery_is_found_out_that_hides_others() {
    let case = Case::new().sent(1, WORK, true).event(left(true));
    let case = case.came(1, (1, ""), None);
    let case = case.came_again(1, (1, ""), ACK, false);
    assert_eq!(case.faults(), ["second delivery not flagged"]);
}

#[test]
fn a_wrong_count_is_found() {
    let many = Case::new()
        .sent(1, WORK, true)
        .came(1, (4, "returned"), ACK);
    assert_eq!(many.faults(), ["attempts"]);
    let failed = || Case::new().sent(1, WORK, true).came(1, (1, ""), FAIL);
    let kinds = ["redelivered without a reason"];
    assert_eq!(failed().came_again(1, (1, ""), ACK, true).faults(), kinds);
    assert_eq!(failed().came(1, (3, "rejected"), ACK).faults(), kinds);
    assert_eq!(failed().came(1, (2, "returned"), ACK).faults(), kinds);
    let crashed = failed().event(Event::Killed);
    assert_eq!(crashed.came(1, (3, "rejected"), ACK).faults(), kinds);
}

#[test]
fn what_comes_again_without_a_reason_is_found() {
    let kinds = ["redelivered without a reason"];
    let acked = || Case::new().sent(1, WORK, true).came(1, (1, ""), ACK);
    assert_eq!(acked().came(1, (2, "returned"), ACK).faults(), kinds);
    assert_eq!(acked().came(1, (2, "consumer-lost"), ACK).faults(), kinds);
    assert_eq!(acked().came_again(1, (1, ""), ACK, true).faults(), kinds);
}

#[test]
fn an_overtaken_message_is_found() {
    let two = || Case::new().sent(1, KEYED, true).sent(2, KEYED, true);
    let order = two().came(1, (1, ""), ACK).came(2, (1, ""), ACK);
    assert_eq!(order.faults(), NONE);
    let wrong = two().came(2, (1, ""), ACK).came(1, (1, ""), ACK);
    assert_eq!(wrong.faults(), ["out of order"]);
    // It was not over, only away.
    let wrong = two().came(1, (1, ""), FAIL).came(2, (1, ""), ACK);
    let wrong = wrong.came(1, (2, "rejected"), ACK);
    assert_eq!(wrong.faults(), ["out of order"]);
    let dead = two().came(1, (1, ""), FAIL).came(1, (2, "rejected"), FAIL);
    let dead = dead.came(2, (1, ""), ACK).died(1, "rejected");
    assert_eq!(dead.faults(), NONE);
    // A crash took its death.
    let back = two().came(1, (1, ""), FAIL).came(1, (2, "rejected"), FAIL);
    let back = back.came(2, (1, ""), ACK).event(Event::Killed);
    assert_eq!(back.came(1, (2, ""), ACK).faults(), NONE);
}

#[test]
fn a_name_is_taken_once() {
    let two = || Case::new().sent(1, ONCE, true).sent(2, ONCE, true);
    assert_eq!(two().came(2, (1, ""), ACK).faults(), NONE);
    let both = two().came(1, (1, ""), ACK).came(2, (1, ""), ACK);
    assert_eq!(both.faults(), ["deduplication"]);
    assert_eq!(two().faults(), ["deduplication"]);
}

#[test]
fn what_comes_too_early_is_found() {
    let mut case = Case::new().sent(1, WORK, true).came(1, (1, ""), ACK);
    if let Some(sent) = case.book.sent.get_mut(&id(1)) {
        sent.delay_ms = Some(1_000);
    }
    assert_eq!(case.faults(), ["too early"]);
}

/// Two messages that are acked and kept, at places 7 and 8, and a replay of both.
fn kept() -> Case {
    let two = Case::new().sent(1, KEPT, true).sent(2, KEPT, true);
    let mut two = two.came(1, (1, ""), ACK).came(2, (1, ""), ACK);
    let listed: BTreeMap<_, _> = [(7, id(1)), (8, id(2))].into();
    two.book.kept = vec![[(7, id(1))].into(), listed.clone()];
    two.book.replays.push(Replay {
        room: Some(2),
        listed,
        waited: 2,
        state: "done".to_owned(),
        moved: 2,
        copies: vec![(7, id(1), 1), (8, id(2), 1)],
        ..Replay::default()
    });
    two
}

#[test]
fn what_is_not_kept_is_found() {
    assert_eq!(kept().faults(), NONE);
    let with = |last: &[(u64, Id)]| {
        let mut case = kept();
        case.book.replays.clear();
        case.book.kept[1] = last.iter().copied().collect();
        case.faults()
    };
    assert_eq!(with(&[(7, id(1)), (8, id(2))]), NONE);
    assert_eq!(with(&[(7, id(1))]), ["not kept"], "settled, and never kept");
    assert_eq!(with(&[(9, id(1)), (8, id(2))]), ["not kept"], "elsewhere");
    let twice = [(7, id(1)), (8, id(2)), (9, id(2))];
    assert_eq!(with(&twice), ["not kept"]);
    let stranger = [(7, id(1)), (8, id(2)), (9, id(3))];
    assert_eq!(with(&stranger), ["not kept"]);
}

#[test]
fn a_replay_is_found_that_leaves_out_or_doubles() {
    let with = |change: fn(&mut Replay)| {
        let mut case = kept();
        case.book.replays.iter_mut().for_each(change);
        case.faults()
    };
    assert_eq!(with(|_| ()), NONE);
    let changes: [fn(&mut Replay); 6] = [
        |replay| {
            replay.copies.pop();
            replay.moved -= 1;
        },
        |replay| {
            replay.copies.push(replay.copies[0]);
            replay.moved += 1;
        },
        |replay| replay.copies[0].1 = id(2),
        |replay| replay.copies[0].2 = 2,
        |replay| replay.moved += 1,
        |replay| replay.waited += 1,
    ];
    for change in changes {
        assert_eq!(with(change), ["replays"]);
    }
    assert_eq!(
        with(|replay| replay.state = "failed".to_owned()),
        ["replays"]
    );
}

#[test]
fn a_queue_is_found_that_does_not_stop_its_publishers() {
    let with = |first, most| {
        let mut case = Case::new().sent(1, NARROW, true).came(1, (1, ""), ACK);
        case.book.lengths = vec![(0, 20), (first, most)];
        case.faults()
    };
    assert_eq!(with(0, 20 + UNDER_WAY), NONE);
    assert_eq!(with(0, 21 + UNDER_WAY), ["overflow"]);
    assert_eq!(with(90, 90 + UNDER_WAY), NONE);
    assert_eq!(with(90, 91 + UNDER_WAY), ["overflow"]);
}
