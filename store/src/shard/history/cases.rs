//! Histories that the rules did not survive once, cut down to what they were about.
//!
//! In: `cargo test`; each played by the same world as the random ones.

use super::op::{Draft, Op, Word};
use super::rules::{COUNTED, KEYED, TARGETS, WORK};
use super::{play, told};

const DRAFT: Draft = Draft {
    persistent: true,
    key: None,
    name: None,
    priority: 0,
    delay_ms: None,
    limit: None,
};
const ACK: Op = say(Word::Ack);
const REJECT: Op = say(Word::Reject { requeue: false });
const REQUEUE: Op = say(Word::Nack { requeue: true });
const KILL: Op = Op::Crash {
    arrived: true,
    power: false,
};
const SPILL: Op = Op::Spill { all: true };

const fn say(word: Word) -> Op {
    Op::Settle {
        nth: 0,
        word,
        multiple: false,
    }
}

const fn publish(target: usize, draft: Draft) -> Op {
    Op::Publish {
        target,
        draft,
        count: 1,
    }
}

const fn consume(queue: usize, channel: usize) -> Op {
    Op::Consume {
        queue,
        channel,
        prefetch: 1,
    }
}

const fn get(queue: usize) -> Op {
    Op::Get { queue, channel: 0 }
}

fn survives(ops: &[Op]) {
    if let Err(fault) = play(ops) {
        panic!("{fault}\n{}", told(ops));
    }
}

/// A message with `key` that waits for a moment before it is ready.
const fn delayed(key: Option<u8>) -> Draft {
    Draft {
        key,
        delay_ms: Some(1),
        ..DRAFT
    }
}

const fn keyed(key: u8) -> Draft {
    Draft {
        key: Some(key),
        ..DRAFT
    }
}

#[test]
fn a_delayed_message_without_a_key_hides_none_that_came_before() {
    survives(&[
        publish(KEYED, keyed(0)),
        publish(KEYED, delayed(None)),
        Op::Pass { ms: 1 },
        Op::Rest,
        get(KEYED),
        get(KEYED),
    ]);
}

#[test]
fn a_delayed_message_overtakes_none_of_its_key() {
    survives(&[
        publish(KEYED, keyed(0)),
        publish(KEYED, keyed(0)),
        publish(KEYED, delayed(Some(0))),
        Op::Pass { ms: 1 },
        Op::Rest,
        get(KEYED),
        ACK,
        get(KEYED),
    ]);
}

#[test]
fn a_delayed_message_alone_is_handed_out_at_once() {
    // Those that the cursor finds and those that were held back take turns.
    for others in 0..2 {
        let mut ops = vec![consume(KEYED, 0)];
        for _ in 0..others {
            ops.extend([publish(KEYED, DRAFT), ACK]);
        }
        ops.extend([
            publish(KEYED, delayed(Some(0))),
            Op::Rest,
            Op::Pass { ms: 1 },
            Op::Rest,
        ]);
        survives(&ops);
    }
}

#[test]
fn a_key_waits_for_what_was_out_when_the_node_died() {
    survives(&[
        publish(KEYED, delayed(Some(0))),
        consume(KEYED, 0),
        Op::Pass { ms: 1 },
        Op::Rest,
        publish(KEYED, keyed(0)),
        Op::Rest,
        KILL,
        get(KEYED),
        Op::Serve,
        get(KEYED),
    ]);
}

/// A message of the queue's own row is out with a consumer.
const OUT_OF_ITS_ROW: [Op; 4] = [
    publish(WORK, delayed(None)),
    consume(WORK, 0),
    Op::Pass { ms: 1 },
    Op::Rest,
];

#[test]
fn returns_of_a_message_in_a_row_of_its_own_are_counted_for_good() {
    survives(&[&OUT_OF_ITS_ROW[..], &[REQUEUE, Op::Rest, KILL]].concat());
    // Settled before any commit knew of the return.
    survives(&[&OUT_OF_ITS_ROW[..], &[REQUEUE, ACK, Op::Rest, KILL]].concat());
}

#[test]
fn each_failure_is_on_record_once() {
    survives(&[&OUT_OF_ITS_ROW[..], &[REQUEUE, REQUEUE, REJECT]].concat());
}

#[test]
fn a_purge_leaves_the_record_of_what_is_out() {
    survives(&[
        publish(WORK, DRAFT),
        get(WORK),
        REQUEUE,
        get(WORK),
        REQUEUE,
        get(WORK),
        Op::Purge { queue: WORK },
        REJECT,
    ]);
}

#[test]
fn a_count_goes_with_a_message_that_no_crash_leaves() {
    let volatile = Draft {
        persistent: false,
        ..DRAFT
    };
    survives(&[
        publish(WORK, DRAFT),
        publish(WORK, volatile),
        publish(WORK, DRAFT),
        get(WORK),
        get(WORK),
        Op::Settle {
            nth: 1,
            word: Word::Nack { requeue: true },
            multiple: false,
        },
        Op::Rest,
        KILL,
    ]);
}

#[test]
fn a_lost_connection_is_one_attempt_however_many_channels_it_had() {
    survives(&[
        consume(WORK, 1),
        publish(WORK, DRAFT),
        consume(WORK, 3),
        Op::CloseSession {
            session: 1,
            lost: true,
        },
    ]);
}

#[test]
fn a_failure_follows_the_rules_when_the_message_is_on_disk_only() {
    let own = |limit| Draft {
        limit: Some(limit),
        ..DRAFT
    };
    for (limit, failure) in [(0, REQUEUE), (0, REJECT), (1, REJECT), (3, REQUEUE)] {
        let on_disk = [publish(WORK, own(limit)), get(WORK), Op::Rest, SPILL];
        survives(&[&on_disk[..], &[failure.clone(), Op::Rest]].concat());
        survives(&[&on_disk[..], &[failure.clone(), KILL]].concat());
    }
    let on_disk = [publish(COUNTED, DRAFT), get(COUNTED), Op::Rest, SPILL];
    survives(&[&on_disk[..], &[REJECT, Op::Rest]].concat());
}

#[test]
fn a_segment_that_went_before_it_was_read_holds_up_no_other() {
    let on_disk = [publish(WORK, DRAFT), Op::Rest, SPILL];
    let read_in_vain = [
        consume(WORK, 0),
        Op::Cut,
        Op::Commit,
        Op::Purge { queue: WORK },
        Op::Serve,
        consume(WORK, 0),
    ];
    let again = [consume(WORK, 0), Op::Rest];
    survives(&[&on_disk[..], &read_in_vain, &on_disk, &again].concat());
}

#[test]
fn a_fanned_out_message_is_confirmed_when_all_its_copies_are_safe() {
    survives(&[
        publish(TARGETS, DRAFT),
        get(WORK),
        ACK,
        Op::Cut,
        publish(TARGETS, DRAFT),
        Op::Commit,
    ]);
}
