//! The queues of a history, one for each family of rules.
//!
//! In: `drive` declares them and publishes to them, `checker` judges by them.

use crate::wire::value::{Table, Value};

/// A queue with the rules of work; its dead go to `<name>.dlq`.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    pub name: &'static str,
    /// Retries after the first delivery, unless a message has its own.
    pub limit: i64,
    /// Backoff, first and longest, ms.
    backoff: (i64, i64),
    pub keys: Option<Keys>,
    /// Takes a message-id once.
    pub once: bool,
    /// Keeps settled messages; each has its id as its name, too.
    pub keeps: bool,
    /// Takes so many ready messages, and then stops its publishers. Those are not who works on it:
    /// a connection that is stopped cannot ack in time.
    pub room: Option<i64>,
}

/// What a failing message does to the others of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Block,
    Skip,
}

pub const QUEUES: [Queue; 6] = [
    Queue {
        name: "history.work",
        limit: 2,
        backoff: (20, 60),
        keys: None,
        once: false,
        keeps: false,
        room: None,
    },
    Queue {
        name: "history.keyed",
        limit: 1,
        backoff: (20, 40),
        keys: Some(Keys::Block),
        once: false,
        keeps: false,
        room: None,
    },
    Queue {
        name: "history.passing",
        limit: 1,
        backoff: (30, 30),
        keys: Some(Keys::Skip),
        once: false,
        keeps: false,
        room: None,
    },
    Queue {
        name: "history.once",
        limit: 1,
        backoff: (10, 40),
        keys: None,
        once: true,
        keeps: false,
        room: None,
    },
    Queue {
        name: "history.kept",
        limit: 1,
        backoff: (10, 40),
        keys: None,
        once: false,
        keeps: true,
        room: None,
    },
    Queue {
        name: "history.narrow",
        limit: 2,
        backoff: (10, 40),
        keys: None,
        once: false,
        keeps: false,
        room: Some(20),
    },
];

/// Where the queue that keeps its messages stands.
pub const KEPT: usize = 4;
/// Where the queue that stops its publishers stands.
pub const NARROW: usize = 5;

/// The header that holds the key.
pub const KEY: &str = "account";
/// The shortest that a lease can be and still be longer than what a worker takes, ms.
const LEASE: i64 = 1_000;
/// Longer than any history, ms.
const WINDOW: i64 = 3_600_000;

impl Queue {
    /// Where its dead go.
    pub fn dead(&self) -> String {
        format!("{}.dlq", self.name)
    }

    /// What it is declared with.
    pub fn arguments(&self) -> Table {
        let mut out: Table = Vec::new();
        let mut put = |name: &str, value| out.push((name.to_owned(), value));
        put("x-retry-limit", Value::int(self.limit));
        put("x-retry-delay", Value::int(self.backoff.0));
        put("x-retry-max-delay", Value::int(self.backoff.1));
        put("x-lease-timeout", Value::int(LEASE));
        if let Some(keys) = self.keys {
            put("x-partition-header", Value::str(KEY));
            let word = match keys {
                Keys::Block => "block",
                Keys::Skip => "skip",
            };
            put("x-partition-on-retry", Value::str(word));
        }
        if self.once {
            put("x-deduplication-window", Value::int(WINDOW));
        }
        if self.keeps {
            put("x-retain", Value::int(WINDOW));
        }
        if let Some(room) = self.room {
            put("x-max-length", Value::int(room));
            put("x-overflow", Value::str("block"));
        }
        out
    }
}
