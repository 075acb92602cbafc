//! What a dead-lettered message carries. Pure.
//!
//! Source: RabbitMQ 3.13's `x-death`: newest first, one entry per (queue, reason), with count,
//! reason, queue, time of the first such death, exchange, routing keys.

use amqp::content::{Address, Block};
use amqp::field::{self, Table, Value};
use amqp::properties::{self, Properties};

use crate::rules::attempt::{self, Failure};
use crate::topology::copies;

/// What a work queue knows of a message's attempts when it dies.
pub struct Attempts {
    pub count: u32,
    pub retry_limit: u32,
    /// Those that its headers do not have yet.
    pub failures: Vec<Failure>,
}

/// Why a message left its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Rejected,
    Expired,
    Maxlen,
    DeliveryLimit,
}

impl Reason {
    const ALL: [Self; 4] = [
        Self::Rejected,
        Self::Expired,
        Self::Maxlen,
        Self::DeliveryLimit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Maxlen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// The new properties of `block[index]`, dead in `queue` for `reason` at `seconds` since the epoch.
pub fn properties(
    block: &Block,
    index: usize,
    queue: &str,
    reason: Reason,
    seconds: u64,
    attempts: Option<&Attempts>,
) -> Vec<u8> {
    let raw = block.properties(index);
    let Ok(mut properties) = Properties::parse(raw) else {
        return raw.to_vec();
    };
    let expiration = properties.expiration.take();
    let headers = properties.headers.get_or_insert_with(Table::default);
    let mut deaths = match headers.remove("x-death") {
        Some(Value::Array(deaths)) => deaths,
        _ => Vec::new(),
    };
    let address = block.address(index);
    let mut keys = vec![address.routing_key().to_vec()];
    keys.extend(copies::in_headers(headers));
    let entry = death(
        &mut deaths,
        queue,
        reason,
        seconds,
        (address, keys),
        expiration,
    );
    deaths.insert(0, Value::Table(entry));
    let mut mark = |prefix: &str, overwrite: bool| {
        for (part, value) in [
            ("reason", Value::text(reason.as_str())),
            ("queue", Value::text(queue)),
            ("exchange", Value::LongStr(address.exchange().to_vec())),
        ] {
            let name = format!("{prefix}-{part}");
            if overwrite || headers.find(&name).is_none() {
                headers.insert(&name, value);
            }
        }
    };
    mark("x-first-death", false);
    mark("x-last-death", true);
    if let Some(made) = attempts {
        attempt::record(headers, &made.failures);
        attempt::number(headers, made.count, made.retry_limit);
    }
    headers.insert("x-death", Value::Array(deaths));
    properties.encode()
}

fn death(
    deaths: &mut Vec<Value>,
    queue: &str,
    reason: Reason,
    seconds: u64,
    (address, keys): (&Address, Vec<Vec<u8>>),
    expiration: Option<Vec<u8>>,
) -> Table {
    let same = |value: &Value| match value {
        Value::Table(table) => {
            table.find("queue").and_then(Value::as_text) == Some(queue)
                && table.find("reason").and_then(Value::as_text) == Some(reason.as_str())
        }
        _ => false,
    };
    if let Some(at) = deaths.iter().position(same)
        && let Value::Table(mut table) = deaths.remove(at)
    {
        let count = table.find("count").and_then(Value::as_i64).unwrap_or(0);
        table.insert("count", Value::I64(count + 1));
        return table;
    }
    let mut table = Table::default();
    if let Some(expiration) = expiration {
        table.insert("original-expiration", Value::LongStr(expiration));
    }
    table.insert("count", Value::I64(1));
    table.insert("reason", Value::text(reason.as_str()));
    table.insert("queue", Value::text(queue));
    table.insert("time", Value::Timestamp(seconds));
    table.insert("exchange", Value::LongStr(address.exchange().to_vec()));
    let keys = keys.into_iter().map(Value::LongStr).collect();
    table.insert("routing-keys", Value::Array(keys));
    table
}

/// The entry of the newest death.
pub fn newest(properties: &Properties) -> Option<&Table> {
    match properties.header("x-death")? {
        Value::Array(deaths) => match deaths.first()? {
            Value::Table(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

/// In the row of a dead message that waits: why it died. Nobody sees it there.
pub(super) const KEPT: &str = "x-leveret-dead";

/// Properties for the row of a dead message that has nowhere to go yet.
pub fn keep(raw: &[u8], reason: Reason) -> Vec<u8> {
    let Ok(mut properties) = Properties::parse(raw) else {
        return raw.to_vec();
    };
    let headers = properties.headers.get_or_insert_with(Table::default);
    headers.insert(KEPT, Value::text(reason.as_str()));
    properties.encode()
}

/// Why a message in a row is dead, and its properties as they were; `None` when it is not.
pub fn kept(raw: &[u8]) -> Option<(Reason, Vec<u8>)> {
    let headers = properties::headers(raw)?;
    if !field::any_key(headers, |key| key == KEPT.as_bytes()) {
        return None;
    }
    let mut properties = Properties::parse(raw).ok()?;
    let headers = properties.headers.as_mut()?;
    let value = headers.remove(KEPT)?;
    let text = value.as_text()?;
    let reason = Reason::ALL.into_iter().find(|it| it.as_str() == text)?;
    if headers.0.is_empty() {
        properties.headers = None;
    }
    Some((reason, properties.encode()))
}

/// The same without CC: the queue's own dead-letter key stands for all keys.
pub fn without_copies(raw: Vec<u8>) -> Vec<u8> {
    let Ok(mut properties) = Properties::parse(&raw) else {
        return raw;
    };
    if let Some(headers) = &mut properties.headers {
        copies::forget(headers);
    }
    properties.encode()
}

/// True when going to `target` again would close a loop without any rejection in it.
pub fn is_cycle(raw: &[u8], target: &str, reason: Reason) -> bool {
    if reason == Reason::Rejected {
        return false;
    }
    let Ok(properties) = Properties::parse(raw) else {
        return false;
    };
    let Some(Value::Array(deaths)) = properties.header("x-death") else {
        return false;
    };
    for death in deaths {
        let Value::Table(table) = death else { continue };
        if table.find("reason").and_then(Value::as_text) == Some("rejected") {
            return false;
        }
        if table.find("queue").and_then(Value::as_text) == Some(target) {
            return true;
        }
    }
    false
}
