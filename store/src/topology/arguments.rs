//! The `x-…` arguments of a queue, parsed once into types. Pure.

use amqp::field::{Table, Value};

use crate::definitions::kind_of;

/// Retries after the first delivery, when the work rules hold.
pub const RETRY_LIMIT: u32 = 5;
/// First backoff, ms.
pub const RETRY_DELAY_MS: u64 = 1000;
/// No backoff is longer unless configured: an hour, ms.
pub const RETRY_MAX_DELAY_MS: u64 = 3_600_000;
/// A delivery not settled in this time returns, when the work rules hold: the floor of `auto`, ms.
pub const LEASE_MS: u64 = 30_000;
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
    pub lease_ms: u64,
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
    pub reject_publish: bool,
    pub work: Option<Work>,
}

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
    "x-queue-mode",
];

impl Arguments {
    /// Parses; the error is the explanation without queue and vhost: (argument, reason).
    pub fn parse(table: &Table, work: bool) -> Result<Self, (String, String)> {
        let number = |name: &str, low: i64| match table.find(name) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(n) if n >= low => Ok(u64::try_from(n).ok()),
                Some(n) if n < 0 => Err((name.to_owned(), format!("{{value_negative,{n}}}"))),
                Some(n) => Err((name.to_owned(), format!("{{value_zero,{n}}}"))),
                None => Err((name.to_owned(), "{unacceptable_type,longstr}".to_owned())),
            },
        };
        let text = |name: &str| match table.find(name) {
            None => Ok(None),
            Some(value) => value
                .as_text()
                .map(|text| Some(text.to_owned()))
                .ok_or_else(|| (name.to_owned(), format!("type {}", kind_of(value)))),
        };
        if let Some(kind) = text("x-queue-type")?
            && !matches!(kind.as_str(), "classic" | "quorum")
        {
            return Err((
                "x-queue-type".into(),
                format!("\"unsupported queue type '{kind}'\""),
            ));
        }
        let overflow = text("x-overflow")?;
        if let Some(word) = overflow.as_deref()
            && !matches!(word, "drop-head" | "reject-publish" | "reject-publish-dlx")
        {
            return Err(("x-overflow".into(), "invalid_overflow".into()));
        }
        let max_priority = number("x-max-priority", 0)?.unwrap_or(0);
        let max_priority = u8::try_from(max_priority).map_err(|_| {
            let reason = format!("{{max_value_exceeded,{max_priority}}}");
            ("x-max-priority".to_owned(), reason)
        })?;
        let out = Self {
            message_ttl_ms: number("x-message-ttl", 0)?,
            expires_ms: number("x-expires", 1)?,
            dead_letter_exchange: text("x-dead-letter-exchange")?,
            dead_letter_key: text("x-dead-letter-routing-key")?,
            max_length: number("x-max-length", 0)?,
            max_length_bytes: number("x-max-length-bytes", 0)?,
            max_priority,
            reject_publish: overflow.is_some_and(|word| word != "drop-head"),
            work: None,
        };
        if out.dead_letter_key.is_some() && out.dead_letter_exchange.is_none() {
            return Err((
                "x-dead-letter-routing-key".into(),
                "routing_key_but_no_dlx_defined".into(),
            ));
        }
        let asked = table
            .0
            .iter()
            .any(|(key, _)| key.starts_with(b"x-retry-") || key.starts_with(b"x-lease-"));
        let rules = (work || asked)
            .then(|| Self::work(table, &number))
            .transpose()?;
        Ok(Self { work: rules, ..out })
    }

    fn work(
        table: &Table,
        number: &impl Fn(&str, i64) -> Result<Option<u64>, (String, String)>,
    ) -> Result<Work, (String, String)> {
        let float = |name: &str, default: f64| match table.find(name) {
            None => default,
            Some(Value::F64(bits)) => f64::from_bits(*bits),
            Some(Value::F32(bits)) => f64::from(f32::from_bits(*bits)),
            Some(value) => value.as_i64().map_or(default, |n| n as f64),
        };
        let lease = match table.find("x-lease-timeout") {
            Some(value) if value.as_text() == Some("auto") => None,
            _ => number("x-lease-timeout", 1)?,
        };
        Ok(Work {
            retry_limit: number("x-retry-limit", 0)?
                .map_or(RETRY_LIMIT, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            delay_ms: number("x-retry-delay", 0)?.unwrap_or(RETRY_DELAY_MS),
            multiplier: float("x-retry-multiplier", 2.0).clamp(1.0, 100.0),
            max_delay_ms: number("x-retry-max-delay", 0)?.unwrap_or(RETRY_MAX_DELAY_MS),
            jitter: float("x-retry-jitter", 0.2).clamp(0.0, 1.0),
            lease_ms: lease.unwrap_or(LEASE_MS).min(LEASE_MAX_MS),
        })
    }
}
