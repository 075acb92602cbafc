//! Which publishers wait for room in which queues (`x-overflow=block`). Pure.
//!
//! Keeps: a publisher goes on when the last queue that it waits for has room, not before; a queue
//! stops publishers from its limit down to a mark below it, so that they do not stop and go with
//! each message.
//! Never: refuses a message, or knows one; what was read has been taken.
//! In: `pressure`, which is told by `publish`, `pump`, `tick` and whatever else empties a queue.
//! RabbitMQ: no such overflow; a full queue there drops or refuses.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::model::QueueId;

/// Publishers go on when a tenth of the limit is free: fewer turns of stop and go, and the
/// consumers have nine tenths to work on meanwhile.
const FREE_PART: u64 = 10;
/// What connection.blocked may say, bytes: it is a short string.
const REASON_MAX: usize = 255;
/// Stands for what has no room in a reason.
const MORE: &str = "...";

/// True when so much is as much as a queue of this limit takes. A limit of nothing is one of one:
/// who may send nothing at all could never go on.
pub(super) fn is_reached(limit: u64, now: u64) -> bool {
    now >= limit.max(1)
}

/// True when so little is there that stopped publishers may go on.
pub(super) fn is_roomy(limit: u64, now: u64) -> bool {
    let limit = limit.max(1);
    now <= limit - (limit / FREE_PART).max(1)
}

/// What connection.blocked says: as many of the reasons as it holds.
pub(super) fn reason(parts: impl Iterator<Item = String>) -> Option<String> {
    let mut out = String::new();
    for part in parts {
        let joint = if out.is_empty() { "" } else { " & " };
        // Room for more is kept back, so that the last one fits as well.
        let room = REASON_MAX - " & ".len() - MORE.len();
        if out.len() + joint.len() + part.len() <= room {
            out.push_str(joint);
            out.push_str(&part);
            continue;
        }
        if out.is_empty() {
            let end = (0..=room).rev().find(|at| part.is_char_boundary(*at));
            out.push_str(&part[..end.unwrap_or(0)]);
        } else {
            out.push_str(joint);
        }
        out.push_str(MORE);
        break;
    }
    (!out.is_empty()).then_some(out)
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Credit {
    queues: HashMap<QueueId, BTreeSet<usize>, RandomState>,
    sessions: HashMap<usize, BTreeSet<QueueId>, RandomState>,
}

impl Credit {
    /// A session waits for room in a queue. False: it does so already.
    pub(super) fn wait(&mut self, session: usize, queue: QueueId) -> bool {
        self.queues.entry(queue).or_default().insert(session)
            && self.sessions.entry(session).or_default().insert(queue)
    }

    /// The queue has room, or is gone: answers the sessions that wait for nothing more.
    pub(super) fn end(&mut self, queue: QueueId) -> Vec<usize> {
        let sessions = self.queues.remove(&queue).unwrap_or_default();
        let mut free = Vec::new();
        for session in sessions {
            let Some(queues) = self.sessions.get_mut(&session) else {
                continue;
            };
            queues.remove(&queue);
            if queues.is_empty() {
                self.sessions.remove(&session);
                free.push(session);
            }
        }
        free
    }

    /// The session is gone: answers the queues for which nobody waits any more.
    pub(super) fn leave(&mut self, session: usize) -> Vec<QueueId> {
        let queues = self.sessions.remove(&session).unwrap_or_default();
        let mut free = Vec::new();
        for queue in queues {
            let Some(sessions) = self.queues.get_mut(&queue) else {
                continue;
            };
            sessions.remove(&session);
            if sessions.is_empty() {
                self.queues.remove(&queue);
                free.push(queue);
            }
        }
        free
    }

    /// How many sessions wait.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn waits(&self, session: usize) -> bool {
        self.sessions.contains_key(&session)
    }

    /// The queues for which a session waits, the oldest queue first.
    pub(super) fn awaited(&self, session: usize) -> impl Iterator<Item = QueueId> + '_ {
        self.sessions.get(&session).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_queue_lets_a_publisher_go() {
        let mut credit = Credit::default();
        let (a, b) = (QueueId(1), QueueId(2));
        assert!(credit.wait(7, a) && credit.wait(7, b) && credit.wait(8, a));
        assert!(!credit.wait(7, a), "once is enough");
        assert_eq!(credit.awaited(7).collect::<Vec<_>>(), [a, b]);
        assert_eq!(credit.end(a), [8]);
        assert!(credit.waits(7) && !credit.waits(8));
        assert_eq!(credit.end(a), [0; 0]);
        assert_eq!(credit.end(b), [7]);
        assert!(!credit.waits(7));
        assert!(credit.queues.is_empty() && credit.sessions.is_empty());
    }

    #[test]
    fn whoever_leaves_waits_no_more() {
        let mut credit = Credit::default();
        let (a, b) = (QueueId(1), QueueId(2));
        assert!(credit.wait(7, a) && credit.wait(7, b) && credit.wait(8, a));
        assert_eq!(credit.leave(7), [b], "for the other one somebody waits");
        assert_eq!(credit.leave(7), []);
        assert_eq!(credit.end(a), [8]);
        assert!(credit.queues.is_empty() && credit.sessions.is_empty());
    }

    #[test]
    fn there_is_room_again_below_the_limit() {
        for (limit, full, roomy) in [
            (0, 1, 0),
            (1, 1, 0),
            (2, 2, 1),
            (10, 10, 9),
            (19, 19, 18),
            (100, 100, 90),
            (u64::MAX, u64::MAX, u64::MAX - u64::MAX / 10),
        ] {
            assert!(is_reached(limit, full) && !is_reached(limit, full - 1));
            assert!(is_roomy(limit, roomy) && !is_roomy(limit, roomy + 1));
            assert!(roomy < full, "at least one place is free");
        }
    }

    #[test]
    fn a_reason_is_a_short_string() {
        let reason = |parts: &[String]| reason(parts.iter().cloned());
        assert_eq!(reason(&[]), None);
        let two = ["a".to_owned(), "b".to_owned()];
        assert_eq!(reason(&two).as_deref(), Some("a & b"));
        for part in ["x".repeat(40), "ü".repeat(200), "x".repeat(249)] {
            for count in 1..10 {
                let text = reason(&vec![part.clone(); count]).unwrap_or_default();
                assert!(text.len() <= REASON_MAX, "{text}");
                let whole = vec![part.clone(); count].join(" & ");
                assert!(text == whole || text.ends_with(MORE), "{text}");
                let shown = text.strip_suffix(MORE).unwrap_or(&text);
                assert!(whole.starts_with(shown) && !shown.is_empty());
            }
        }
    }
}
