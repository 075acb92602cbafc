//! The queues of a history, and what holds for each.
//!
//! Keeps: one queue for each family of rules, small limits and short spans, so that a history of
//! some dozen steps gets to the end of them.
//! In: `model` decides by these, `world` declares by these.

use amqp::field::{Table, Value};

pub(super) const WORK: usize = 0;
pub(super) const KEYED: usize = 1;
pub(super) const ONCE: usize = 3;
pub(super) const COUNTED: usize = 5;
pub(super) const DEAD: usize = 6;
const WORK_DEAD: usize = 7;
const KEYED_DEAD: usize = 8;
const ONCE_DEAD: usize = 9;
const RANKED_DEAD: usize = 10;
pub(super) const COUNT: usize = 11;

/// Queues that clients publish to; the others take what dies there.
pub(super) const TARGETS: usize = 6;
/// What a message to `amq.fanout` reaches.
pub(super) const FANNED: [usize; 3] = [WORK, KEYED, COUNTED];
/// The header that holds the key, where order is kept by key.
pub(super) const KEY: &str = "account";

/// How failures are tried again.
#[derive(Clone, Copy)]
pub(super) struct Retry {
    pub(super) limit: u32,
    pub(super) delay_ms: u64,
    pub(super) multiplier: f64,
    pub(super) max_delay_ms: u64,
    pub(super) jitter: f64,
    /// `None`: measured, and with so few messages the floor.
    pub(super) lease_ms: Option<u64>,
}

/// Order by key.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub(super) concurrency: usize,
    pub(super) skip: bool,
}

pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) retry: Option<Retry>,
    /// Not a work queue, but returns are counted up to here.
    pub(super) returns: Option<u32>,
    /// Where its dead go.
    pub(super) dead: Option<usize>,
    pub(super) keys: Option<Keys>,
    /// A key is taken once in so many ms.
    pub(super) window_ms: Option<i64>,
    /// Beyond, publishes are refused.
    pub(super) max_length: Option<u64>,
    pub(super) levels: u8,
}

const RETRY: Retry = Retry {
    limit: 1,
    delay_ms: 30,
    multiplier: 2.0,
    max_delay_ms: 3_600_000,
    jitter: 0.0,
    lease_ms: Some(1_000),
};

const PLAIN: Rule = Rule {
    name: "",
    retry: None,
    returns: None,
    dead: None,
    keys: None,
    window_ms: None,
    max_length: None,
    levels: 0,
};

const fn plain(name: &'static str) -> Rule {
    Rule { name, ..PLAIN }
}

pub(super) const RULES: [Rule; COUNT] = [
    Rule {
        name: "work",
        retry: Some(Retry {
            limit: 2,
            delay_ms: 40,
            max_delay_ms: 60,
            ..RETRY
        }),
        dead: Some(WORK_DEAD),
        ..PLAIN
    },
    Rule {
        name: "keyed",
        retry: Some(Retry {
            jitter: 0.5,
            ..RETRY
        }),
        dead: Some(KEYED_DEAD),
        keys: Some(Keys {
            concurrency: 1,
            skip: false,
        }),
        ..PLAIN
    },
    Rule {
        name: "passing",
        retry: Some(Retry {
            lease_ms: None,
            ..RETRY
        }),
        dead: Some(DEAD),
        keys: Some(Keys {
            concurrency: 2,
            skip: true,
        }),
        ..PLAIN
    },
    Rule {
        name: "once",
        retry: Some(RETRY),
        dead: Some(ONCE_DEAD),
        window_ms: Some(2_000),
        max_length: Some(4),
        ..PLAIN
    },
    Rule {
        name: "ranked",
        retry: Some(RETRY),
        dead: Some(RANKED_DEAD),
        levels: 3,
        ..PLAIN
    },
    Rule {
        name: "counted",
        returns: Some(2),
        dead: Some(DEAD),
        ..PLAIN
    },
    plain("dead"),
    plain("work.dlq"),
    plain("keyed.dlq"),
    plain("once.dlq"),
    plain("ranked.dlq"),
];

/// Where a queue stands in the list.
pub(super) fn index_of(name: &str) -> Option<usize> {
    RULES.iter().position(|rule| rule.name == name)
}

impl Rule {
    /// The dead-letter queues with names of their own come by themselves.
    pub(super) fn is_declared(&self) -> bool {
        !self.name.ends_with(".dlq")
    }

    /// What it is declared with.
    pub(super) fn arguments(&self) -> Table {
        let mut out = Table::default();
        let mut put = |name: &str, value: Value| out.insert(name, value);
        let whole = |number: u64| Value::I64(number.cast_signed());
        if let Some(retry) = &self.retry {
            put("x-retry-limit", whole(retry.limit.into()));
            put("x-retry-delay", whole(retry.delay_ms));
            put("x-retry-max-delay", whole(retry.max_delay_ms));
            put("x-retry-jitter", Value::F64(retry.jitter.to_bits()));
            if let Some(ms) = retry.lease_ms {
                put("x-lease-timeout", whole(ms));
            }
        }
        if let Some(limit) = self.returns {
            put("x-delivery-limit", whole(limit.into()));
        }
        if let Some(keys) = &self.keys {
            put("x-partition-header", Value::text(KEY));
            put("x-partition-concurrency", whole(keys.concurrency as u64));
            let word = if keys.skip { "skip" } else { "block" };
            put("x-partition-on-retry", Value::text(word));
        }
        if let Some(ms) = self.window_ms {
            put("x-deduplication-window", Value::I64(ms));
        }
        if let Some(length) = self.max_length {
            put("x-max-length", whole(length));
            put("x-overflow", Value::text("reject-publish"));
        }
        if self.levels > 0 {
            put("x-max-priority", whole(self.levels.into()));
        }
        if self.dead == Some(DEAD) {
            put("x-dead-letter-exchange", Value::text(""));
            put("x-dead-letter-routing-key", Value::text("dead"));
        }
        out
    }
}
