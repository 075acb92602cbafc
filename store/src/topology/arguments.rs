//! The `x-…` arguments of a queue, parsed once into types. Pure.

use std::sync::Arc;

use amqp::field::{Table, Value};

use super::asked::{Asked, Invalid, shown};
use crate::model::Micros;
use crate::rules::window::{self, Deduplication, SPAN_MAX_MS, SPAN_MIN_MS};

/// Retries after the first delivery, when the work rules hold.
pub const RETRY_LIMIT: u32 = 5;
/// First backoff, ms.
pub const RETRY_DELAY_MS: u64 = 1000;
/// No backoff is longer unless configured: an hour, ms.
pub const RETRY_MAX_DELAY_MS: u64 = 3_600_000;
/// Retries that can be asked for: beyond, a message never dies in practice.
pub const RETRY_LIMIT_MAX: u32 = 10_000;
/// No backoff is longer: thirty days, ms.
pub const BACKOFF_MAX_MS: u64 = 2_592_000_000;
/// Growth of the backoff, at most: from 1 s to the longest in four retries.
pub const MULTIPLIER_MAX: f64 = 100.0;
/// A delivery not settled in this time returns, when the work rules hold: the floor of `auto`, ms.
pub const LEASE_MS: u64 = 30_000;
/// The header that holds the key, where a queue keeps order by key and names no other.
pub const PARTITION_HEADER: &str = "x-partition-key";
/// Unsettled messages of one key at a time, at most: beyond, a key means nothing.
pub const PARTITION_CONCURRENCY_MAX: i64 = 65_535;
/// Deliveries a second, at most: beyond, a limit limits nothing.
pub const RATE_MAX: f64 = 1e7;
/// And at least: one in a day.
pub const RATE_MIN: f64 = 1.0 / 86_400.0;
/// No lease is longer: 12 h, ms.
pub const LEASE_MAX_MS: u64 = 43_200_000;

/// The work rules of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pub retry_limit: u32,
    pub delay_ms: u64,
    pub multiplier: f64,
    pub max_delay_ms: u64,
    /// Share of the delay, e.g. 0.2.
    pub jitter: f64,
    /// `None`: by what the queue's messages take (`rules::lease`).
    pub lease_ms: Option<u64>,
}

/// How a queue keeps order by key (`x-partition-…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The header that holds the key.
    pub header: Arc<str>,
    /// Unsettled messages of one key at a time, at least 1.
    pub concurrency: u32,
    /// A message in backoff lets the others of its key pass.
    pub skip: bool,
    /// Between two deliveries of one key, µs; 0 for no limit.
    pub interval: Micros,
}

/// A number that a queue, a policy or a message may give for the retries.
pub struct RetryRule {
    /// As an argument or a header; a policy leaves `x-` out.
    pub name: &'static str,
    pub low: f64,
    pub high: f64,
    whole: bool,
}

/// All of them.
pub const RETRY_RULES: [RetryRule; 5] = [
    RetryRule::whole("x-retry-limit", RETRY_LIMIT_MAX as f64),
    RetryRule::whole("x-retry-delay", BACKOFF_MAX_MS as f64),
    RetryRule {
        name: "x-retry-multiplier",
        low: 1.0,
        high: MULTIPLIER_MAX,
        whole: false,
    },
    RetryRule::whole("x-retry-max-delay", BACKOFF_MAX_MS as f64),
    RetryRule {
        name: "x-retry-jitter",
        low: 0.0,
        high: 1.0,
        whole: false,
    },
];

impl RetryRule {
    const fn whole(name: &'static str, high: f64) -> Self {
        Self {
            name,
            low: 0.0,
            high,
            whole: true,
        }
    }

    /// The number, if it is one within the range.
    ///
    /// # Errors
    /// What it is instead, and what is allowed.
    pub fn read(&self, value: &Value) -> Result<f64, String> {
        let number = match value {
            Value::F64(bits) if !self.whole => Some(f64::from_bits(*bits)),
            Value::F32(bits) if !self.whole => Some(f64::from(f32::from_bits(*bits))),
            value => value.as_i64().map(|number| number as f64),
        };
        let (low, high) = (self.low, self.high);
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            Some(number) => Err(format!("{number} is not within {low} to {high}")),
            None => {
                let (shown, what) = (
                    shown(value),
                    if self.whole { "whole number" } else { "number" },
                );
                Err(format!("{shown} is no {what} within {low} to {high}"))
            }
        }
    }
}

impl Work {
    /// Takes a number that `RetryRule::read` let pass.
    pub fn set(&mut self, rule: &RetryRule, number: f64) {
        match rule.name {
            "x-retry-limit" => self.retry_limit = number as u32,
            "x-retry-delay" => self.delay_ms = number as u64,
            "x-retry-multiplier" => self.multiplier = number,
            "x-retry-max-delay" => self.max_delay_ms = number as u64,
            _ => self.jitter = number,
        }
    }
}

/// How long messages that come back stay away (RabbitMQ 4.3's `x-delayed-retry-…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedRetry {
    /// Those that their consumer rejected, and those whose consumer was lost.
    pub failed: bool,
    /// Those that their consumer gave back (basic.nack, basic.recover).
    pub returned: bool,
    pub min_ms: u64,
    pub max_ms: u64,
}

/// What a queue's arguments ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arguments {
    pub message_ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub dead_letter_exchange: Option<String>,
    pub dead_letter_key: Option<String>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    /// Highest priority that makes a difference; 0 without priorities.
    pub max_priority: u8,
    /// A message that waits so long gains one priority; `None`: it gains none.
    pub priority_ageing_ms: Option<u64>,
    pub reject_publish: bool,
    /// Publishers wait while it is full.
    pub block: bool,
    /// What is refused for room goes where the dead go.
    pub bury_refused: bool,
    /// A dead message is kept until it has somewhere to go (`at-least-once`, which in RabbitMQ
    /// counts only where a full queue refuses).
    pub keeps_dead: bool,
    pub single_active: bool,
    /// Declared with `x-queue-type=quorum`.
    pub quorum: bool,
    /// Returns are counted, and told in `x-delivery-count`.
    pub counts: bool,
    /// A message that came back more often is dead; `None`: never.
    pub delivery_limit: Option<u32>,
    pub delayed_retry: Option<DelayedRetry>,
    /// Instead of the node's; 0 for none.
    pub consumer_timeout_ms: Option<u64>,
    pub work: Option<Work>,
    pub partition: Option<Partition>,
    /// Deliveries a second.
    pub rate_limit: Option<f64>,
    /// A key is taken once within a time.
    pub deduplication: Option<Deduplication>,
    /// Settled messages are kept.
    pub retention: Option<Retention>,
}

/// By how long a wait, ms, a message gains one priority; 0 for none.
pub const PRIORITY_AGEING: &str = "x-priority-ageing";
/// A day: what gains no more than that gains nothing that anybody would notice.
const PRIORITY_AGEING_MAX_MS: i64 = 86_400_000;

/// What a full queue may do; `block` is ours.
pub const OVERFLOW: [&str; 4] = ["drop-head", "reject-publish", "reject-publish-dlx", "block"];

/// How long, and how much, a queue keeps of its settled messages: whichever ends first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub ms: Option<u64>,
    /// Bodies, and a little for each message.
    pub bytes: Option<u64>,
}

/// How long settled messages are kept, ms: at least, as time is looked at once a second.
pub const RETAIN: &str = "x-retain";
/// How much of them, bytes.
pub const RETAIN_BYTES: &str = "x-retain-bytes";
const RETAIN_MIN_MS: i64 = 1_000;
/// 365 days: beyond, an archive is the better place.
const RETAIN_MAX_MS: i64 = 31_536_000_000;
/// A pebibyte: more than one node's disk.
const RETAIN_MAX_BYTES: i64 = 1 << 50;

/// Neither TTL nor expiry is longer: ten years, ms, as in RabbitMQ.
pub const EXPIRY_MAX_MS: u64 = 315_360_000_000;

/// The arguments RabbitMQ compares when a queue is declared again.
pub const COMPARED: [&str; 11] = [
    "x-queue-type",
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-max-priority",
    "x-single-active-consumer",
    "x-delivery-limit",
];

/// Numbers that mean nothing here, and the least that they may be.
const IGNORED: [(&str, i64); 5] = [
    ("x-max-in-memory-length", 0),
    ("x-max-in-memory-bytes", 0),
    ("x-quorum-initial-group-size", 1),
    ("x-initial-cluster-size", 1),
    ("x-consumer-disconnected-timeout", 0),
];

/// What only a stream can have: to take it would promise what no queue does.
const OF_STREAMS: [&str; 2] = ["x-max-age", "x-stream-max-segment-size-bytes"];

impl Arguments {
    /// What a declaration cannot ask for together; of what policies add, one gives way.
    pub fn check_together(table: &Table) -> Result<(), (String, String)> {
        let asked = Asked(table);
        let priorities = asked.number("x-max-priority", 0)?.unwrap_or(0);
        match Self::partition(&asked)? {
            Some(_) if priorities > 0 => Err((
                "x-max-priority".into(),
                format!(
                    "{priorities} contradicts order by key (x-partition-…): within 0 to 0 here"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn partition(asked: &Asked<'_>) -> Result<Option<Partition>, Invalid> {
        let header = asked.name("x-partition-header")?;
        let name = "x-partition-concurrency";
        let concurrency = asked.within(name, 1, PARTITION_CONCURRENCY_MAX)?;
        let skip = asked.choice("x-partition-on-retry", ["block", "skip"])?;
        let rate = asked.rate("x-partition-rate-limit")?;
        let wanted = header.is_some() || concurrency.is_some() || skip.is_some() || rate.is_some();
        Ok(wanted.then(|| Partition {
            header: header.as_deref().unwrap_or(PARTITION_HEADER).into(),
            concurrency: concurrency.map_or(1, |n| n as u32),
            skip: skip.unwrap_or(false),
            interval: rate.map_or(0, |rate| (1e6 / rate) as Micros),
        }))
    }

    fn deduplication(asked: &Asked<'_>) -> Result<Option<Deduplication>, Invalid> {
        let header = asked.name(window::HEADER)?;
        let (low, high) = (SPAN_MIN_MS.cast_signed(), SPAN_MAX_MS.cast_signed());
        let span = asked.within(window::ARGUMENT, low, high)?;
        Ok(span.map(|span| Deduplication {
            header: header.as_deref().unwrap_or(window::HEADER).into(),
            span_ms: span.cast_unsigned(),
        }))
    }

    fn priority_ageing(asked: &Asked<'_>) -> Result<Option<u64>, Invalid> {
        let ms = asked.within(PRIORITY_AGEING, 0, PRIORITY_AGEING_MAX_MS)?;
        Ok(ms.map(i64::cast_unsigned).filter(|ms| *ms > 0))
    }

    fn retention(asked: &Asked<'_>) -> Result<Option<Retention>, Invalid> {
        let ms = asked.within(RETAIN, RETAIN_MIN_MS, RETAIN_MAX_MS)?;
        let bytes = asked.within(RETAIN_BYTES, 1, RETAIN_MAX_BYTES)?;
        let wanted = ms.is_some() || bytes.is_some();
        Ok(wanted.then(|| Retention {
            ms: ms.map(i64::cast_unsigned),
            bytes: bytes.map(i64::cast_unsigned),
        }))
    }

    /// The argument that a queue without a place on disk cannot have: name and reason.
    pub fn refused_retention(&self) -> Option<(&'static str, String)> {
        let asked = self.retention?;
        let (name, value) = match (asked.ms, asked.bytes) {
            (Some(ms), _) => (RETAIN, ms),
            (None, bytes) => (RETAIN_BYTES, bytes.unwrap_or_default()),
        };
        let reason =
            format!("{value} contradicts a transient or exclusive queue, which keeps nothing");
        Some((name, reason))
    }

    /// Parses; the error is the explanation without queue and vhost: (argument, reason).
    pub fn parse(table: &Table, work: bool) -> Result<Self, (String, String)> {
        let asked = Asked(table);
        let quorum = Self::is_quorum(&asked)?;
        Self::check_ignored(&asked)?;
        let overflow = asked.word("x-overflow", &OVERFLOW, "invalid_overflow")?;
        let max_priority = asked.number("x-max-priority", 0)?.unwrap_or(0);
        let max_priority = u8::try_from(max_priority).map_err(|_| {
            let reason = format!("{{max_value_exceeded,{max_priority}}}");
            ("x-max-priority".to_owned(), reason)
        })?;
        let limit = asked.signed("x-delivery-limit")?;
        let name = "x-dead-letter-strategy";
        let words = ["at-most-once", "at-least-once"];
        let strategy = asked.word(name, &words, "invalid_dlx_strategy")?;
        let delayed_retry = Self::delayed_retry(&asked)?;
        let out = Self {
            message_ttl_ms: asked.span("x-message-ttl", 0)?,
            expires_ms: asked.span("x-expires", 1)?,
            dead_letter_exchange: asked.exchange("x-dead-letter-exchange")?,
            dead_letter_key: asked.text("x-dead-letter-routing-key")?,
            max_length: asked.number("x-max-length", 0)?,
            max_length_bytes: asked.number("x-max-length-bytes", 0)?,
            max_priority,
            priority_ageing_ms: Self::priority_ageing(&asked)?,
            reject_publish: overflow.is_some_and(|word| word.starts_with("reject-publish")),
            block: overflow == Some("block"),
            bury_refused: overflow == Some("reject-publish-dlx"),
            keeps_dead: overflow == Some("reject-publish")
                && strategy == Some("at-least-once")
                && table.find("x-dead-letter-exchange").is_some(),
            single_active: asked.flag("x-single-active-consumer")?,
            quorum,
            counts: quorum || limit.is_some() || delayed_retry.is_some(),
            delivery_limit: limit.and_then(|limit| u32::try_from(limit).ok()),
            delayed_retry,
            consumer_timeout_ms: asked.number("x-consumer-timeout", 0)?,
            work: None,
            partition: Self::partition(&asked)?.filter(|_| max_priority == 0),
            rate_limit: asked.rate("x-rate-limit")?,
            deduplication: Self::deduplication(&asked)?,
            retention: Self::retention(&asked)?,
        };
        if out.dead_letter_key.is_some() && out.dead_letter_exchange.is_none() {
            return Err((
                "x-dead-letter-routing-key".into(),
                "routing_key_but_no_dlx_defined".into(),
            ));
        }
        let named = |(key, _): &(Vec<u8>, Value)| {
            key.starts_with(b"x-retry-") || key.starts_with(b"x-lease-")
        };
        let rules = (work || table.0.iter().any(named))
            .then(|| Self::work(&asked))
            .transpose()?;
        Ok(Self { work: rules, ..out })
    }

    fn is_quorum(asked: &Asked<'_>) -> Result<bool, Invalid> {
        match asked.text("x-queue-type")?.as_deref() {
            None | Some("classic") => Ok(false),
            Some("quorum") => Ok(true),
            Some(kind) => Err((
                "x-queue-type".into(),
                format!("\"unsupported queue type '{kind}'\""),
            )),
        }
    }

    /// What is accepted for RabbitMQ's sake: it must make sense there.
    fn check_ignored(asked: &Asked<'_>) -> Result<(), Invalid> {
        for (name, low) in IGNORED {
            asked.number(name, low)?;
        }
        let locators = ["client-local", "balanced", "least-leaders", "random"];
        let what = "invalid_queue_locator_arg";
        asked.word("x-queue-leader-locator", &locators, what)?;
        match asked.number("x-queue-version", 0)? {
            None | Some(1 | 2) => Ok(()),
            Some(version) => Err((
                "x-queue-version".into(),
                format!("\"unsupported queue version '{version}'\""),
            )),
        }
    }

    fn delayed_retry(asked: &Asked<'_>) -> Result<Option<DelayedRetry>, Invalid> {
        let name = "x-delayed-retry-type";
        let words = ["disabled", "all", "failed", "returned"];
        let kind = asked.word(name, &words, "invalid_delayed_retry_type")?;
        let min_ms = asked.number("x-delayed-retry-min", 0)?;
        let max_ms = asked.number("x-delayed-retry-max", 0)?;
        Ok(match kind {
            None | Some("disabled") => None,
            Some(kind) => min_ms.filter(|ms| *ms > 0).map(|min_ms| DelayedRetry {
                failed: kind != "returned",
                returned: kind != "failed",
                min_ms,
                // Without a most the delay does not grow.
                max_ms: max_ms.unwrap_or(min_ms),
            }),
        })
    }

    /// What RabbitMQ's texts call the type.
    pub fn type_name(&self) -> &'static str {
        match self.quorum {
            true => "rabbit_quorum_queue",
            false => "rabbit_classic_queue",
        }
    }

    /// An argument of a declaration that only a stream can have.
    pub fn refused_argument(table: &Table) -> Option<&'static str> {
        let asks = |name: &&&str| table.find(name).is_some();
        OF_STREAMS.iter().find(asks).copied()
    }

    /// The property of a declaration that a quorum queue cannot have, as RabbitMQ calls it.
    pub fn refused_property(
        &self,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
    ) -> Option<&'static str> {
        match self.quorum {
            true if auto_delete => Some("auto-delete"),
            true if exclusive => Some("exclusive-owner"),
            true if !durable => Some("non-durable"),
            _ => None,
        }
    }

    fn work(asked: &Asked<'_>) -> Result<Work, Invalid> {
        let mut work = Self::work_rules(asked)?;
        let given = asked.0.find("x-retry-max-delay").is_some();
        if given && work.max_delay_ms < work.delay_ms {
            let (most, first) = (work.max_delay_ms, work.delay_ms);
            let reason = format!("{most} is less than 'x-retry-delay', which is {first}");
            return Err(("x-retry-max-delay".into(), reason));
        }
        work.max_delay_ms = work.max_delay_ms.max(work.delay_ms);
        Ok(work)
    }

    fn work_rules(asked: &Asked<'_>) -> Result<Work, Invalid> {
        let lease = lease(asked.0.find(LEASE).unwrap_or(&Value::Void));
        let mut work = Work {
            retry_limit: RETRY_LIMIT,
            delay_ms: RETRY_DELAY_MS,
            multiplier: 2.0,
            max_delay_ms: RETRY_MAX_DELAY_MS,
            jitter: 0.2,
            lease_ms: lease.map_err(|reason| (LEASE.to_owned(), reason))?,
        };
        for rule in &RETRY_RULES {
            if let Some(value) = asked.0.find(rule.name) {
                let number = rule.read(value);
                work.set(rule, number.map_err(|why| (rule.name.to_owned(), why))?);
            }
        }
        Ok(work)
    }
}

/// The argument that says how long a lease is.
const LEASE: &str = "x-lease-timeout";

/// How long a lease is, ms; `None` for `auto`, which is also what nothing means.
///
/// # Errors
/// What it must be.
pub fn lease(value: &Value) -> Result<Option<u64>, String> {
    let fits = |ms: &u64| (1..=LEASE_MAX_MS).contains(ms);
    let ms = value.as_i64().and_then(|ms| u64::try_from(ms).ok());
    match (value, ms.filter(fits)) {
        (Value::Void, _) => Ok(None),
        (_, Some(ms)) => Ok(Some(ms)),
        _ if value.as_text() == Some("auto") => Ok(None),
        _ => Err(format!(
            "{} is neither 'auto' nor within 1 to {LEASE_MAX_MS} ms",
            shown(value)
        )),
    }
}

/// What only a consumer of a stream can ask for.
pub const STREAM_OFFSET: &str = "x-stream-offset";

/// What basic.consume's arguments ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerArguments {
    pub priority: i32,
    /// Instead of the queue's; 0 for none.
    pub timeout_ms: Option<u64>,
}

impl ConsumerArguments {
    /// Parses; the error is as of `Arguments::parse`.
    pub fn parse(table: &Table) -> Result<Self, (String, String)> {
        let asked = Asked(table);
        let priority = asked.signed("x-priority")?.unwrap_or(0);
        Ok(Self {
            priority: priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
            timeout_ms: asked.number("x-consumer-timeout", 0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, value: Value) -> Option<String> {
        let mut table = Table::default();
        table.insert(name, value);
        Arguments::parse(&table, false).err().map(|(_, why)| why)
    }

    #[test]
    fn a_lease_is_auto_or_within_its_range() {
        for (value, ms) in [
            (Value::text("auto"), None),
            (Value::I32(1), Some(1)),
            (Value::I64(43_200_000), Some(43_200_000)),
        ] {
            assert_eq!(lease(&value), Ok(ms));
        }
        let range = "is neither 'auto' nor within 1 to 43200000 ms";
        for (value, shown) in [
            (Value::I32(0), "0"),
            (Value::I64(-5), "-5"),
            (Value::I64(43_200_001), "43200001"),
            (Value::text("long"), "'long' (longstr)"),
            (Value::Bool(true), "true (bool)"),
            (Value::F64(1.5f64.to_bits()), "1.5"),
        ] {
            let why = format!("{shown} {range}");
            assert_eq!(refusal("x-lease-timeout", value), Some(why));
        }
    }

    #[test]
    fn a_refusal_of_ours_names_the_value_and_what_is_allowed() {
        let text = Value::text;
        let half = Value::F64(0.5f64.to_bits());
        let many = "is not within 1000 to 31536000000";
        let rate = "is not within one a day to 10000000 a second";
        let name = "is no name of 1 to 128 bytes";
        for (argument, value, why) in [
            (
                "x-retry-limit",
                text("2"),
                "'2' (longstr) is no whole number within 0 to 10000",
            ),
            (
                "x-retry-limit",
                half.clone(),
                "0.5 is no whole number within 0 to 10000",
            ),
            (
                "x-retry-jitter",
                Value::Bool(true),
                "true (bool) is no number within 0 to 1",
            ),
            (
                "x-retry-jitter",
                Value::Void,
                "a value of type void is no number within 0 to 1",
            ),
            (
                "x-priority-ageing",
                Value::I64(-1),
                "-1 is not within 0 to 86400000",
            ),
            (
                "x-priority-ageing",
                text("1 s"),
                "'1 s' (longstr) is not within 0 to 86400000",
            ),
            (
                "x-deduplication-window",
                Value::I32(9),
                "9 is not within 1000 to 2592000000",
            ),
            (
                "x-deduplication-header",
                text(""),
                &format!("'' (longstr) {name}"),
            ),
            (
                "x-deduplication-header",
                Value::I32(5),
                &format!("5 {name}"),
            ),
            ("x-partition-header", half.clone(), &format!("0.5 {name}")),
            (
                "x-partition-header",
                text(&"h".repeat(129)),
                &format!("'{}…' (longstr) {name}", "h".repeat(32)),
            ),
            (
                "x-partition-concurrency",
                text("x"),
                "'x' (longstr) is not within 1 to 65535",
            ),
            (
                "x-partition-concurrency",
                half,
                "0.5 is not within 1 to 65535",
            ),
            (
                "x-partition-on-retry",
                text("wait"),
                "'wait' (longstr) is not one of 'block', 'skip'",
            ),
            (
                "x-partition-on-retry",
                Value::I32(1),
                "1 is not one of 'block', 'skip'",
            ),
            (
                "x-partition-rate-limit",
                Value::I32(0),
                &format!("0 {rate}"),
            ),
            (
                "x-rate-limit",
                text("fast"),
                &format!("'fast' (longstr) {rate}"),
            ),
            (
                "x-rate-limit",
                Value::F64(f64::NAN.to_bits()),
                &format!("NaN {rate}"),
            ),
            ("x-retain", text("1d"), &format!("'1d' (longstr) {many}")),
            ("x-retain", Value::I32(999), &format!("999 {many}")),
            (
                "x-retain-bytes",
                Value::I32(0),
                "0 is not within 1 to 1125899906842624",
            ),
        ] {
            assert_eq!(refusal(argument, value).as_deref(), Some(why), "{argument}");
        }
    }

    #[test]
    fn arguments_are_checked_as_rabbitmq_does() {
        let text = Value::text;
        for (name, value, why) in [
            ("x-expires", Value::I32(0), "{value_zero,0}"),
            ("x-message-ttl", Value::I64(-1), "{value_negative,-1}"),
            (
                "x-message-ttl",
                text("1"),
                "\"expected integer, got longstr\"",
            ),
            (
                "x-message-ttl",
                Value::I64(315_360_000_001),
                "{value_too_large,315360000001}",
            ),
            (
                "x-max-length",
                Value::Bool(true),
                "\"expected integer, got bool\"",
            ),
            ("x-overflow", text("spill"), "invalid_overflow"),
            ("x-overflow", Value::I32(1), "{unacceptable_type,signedint}"),
            (
                "x-queue-version",
                Value::I32(3),
                "\"unsupported queue version '3'\"",
            ),
            (
                "x-queue-leader-locator",
                text("here"),
                "invalid_queue_locator_arg",
            ),
            (
                "x-max-priority",
                Value::I32(256),
                "{max_value_exceeded,256}",
            ),
            (
                "x-single-active-consumer",
                Value::I8(1),
                "{unacceptable_type,byte}",
            ),
            (
                "x-dead-letter-strategy",
                text("twice"),
                "invalid_dlx_strategy",
            ),
            (
                "x-delivery-limit",
                text("1"),
                "\"expected integer, got longstr\"",
            ),
            ("x-consumer-timeout", Value::I32(-5), "{value_negative,-5}"),
            (
                "x-quorum-initial-group-size",
                Value::I32(0),
                "{value_zero,0}",
            ),
            (
                "x-delayed-retry-type",
                text("some"),
                "invalid_delayed_retry_type",
            ),
            (
                "x-queue-type",
                text("stream"),
                "\"unsupported queue type 'stream'\"",
            ),
        ] {
            assert_eq!(refusal(name, value).as_deref(), Some(why), "{name}");
        }
        assert_eq!(refusal("x-delivery-limit", Value::I32(-1)), None);
        assert_eq!(refusal("x-queue-mode", text("lazy")), None);
        assert_eq!(refusal("x-priority-ageing", Value::I32(0)), None);
        assert_eq!(refusal("x-overflow", text("block")), None);
        assert_eq!(refusal("x-of-somebody", Value::Void), None);
    }
}
