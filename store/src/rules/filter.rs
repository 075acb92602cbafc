//! Which messages an operator means. Pure.
//!
//! Keeps: all given conditions hold together; an empty filter means every message.
//! In: peek, purge, move and redrive.

use amqp::content::Block;
use amqp::field::{Table, Value};
use amqp::properties::Properties;

use crate::model::Micros;
use crate::rules::dead_letter;

/// Conditions on one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these message ids.
    pub ids: Vec<String>,
    /// Accepted by this queue at or after this instant.
    pub since: Option<Micros>,
    /// Accepted by this queue before this instant.
    pub until: Option<Micros>,
    /// Of the newest death: `rejected`, `expired`, `maxlen`, `delivery_limit`.
    pub reason: Option<String>,
    /// The queue of the newest death.
    pub died_in: Option<String>,
    pub routing_key: Option<String>,
    /// Headers with these values, numbers as their digits.
    pub headers: Vec<(String, String)>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a message that its queue accepted `at` is meant.
    pub fn matches(&self, block: &Block, index: usize, at: Micros) -> bool {
        if self.since.is_some_and(|since| at < since) || self.until.is_some_and(|until| at >= until)
        {
            return false;
        }
        let key = block.address(index).routing_key();
        if self
            .routing_key
            .as_ref()
            .is_some_and(|wanted| wanted.as_bytes() != key)
        {
            return false;
        }
        let by_properties = !self.ids.is_empty()
            || self.reason.is_some()
            || self.died_in.is_some()
            || !self.headers.is_empty();
        !by_properties || self.matches_properties(block.properties(index))
    }

    fn matches_properties(&self, raw: &[u8]) -> bool {
        let Ok(properties) = Properties::parse(raw) else {
            return false;
        };
        let id = properties.message_id.as_deref().unwrap_or_default();
        if !self.ids.is_empty() && !self.ids.iter().any(|wanted| wanted.as_bytes() == id) {
            return false;
        }
        let death = dead_letter::newest(&properties);
        let has = |name: &str, wanted: &Option<String>| {
            let wanted = wanted.as_deref();
            wanted.is_none_or(|wanted| {
                death.and_then(|death| death.find(name)?.as_text()) == Some(wanted)
            })
        };
        has("reason", &self.reason)
            && has("queue", &self.died_in)
            && self.headers.iter().all(|(name, wanted)| {
                properties.header(name).and_then(plain).as_deref() == Some(wanted)
            })
    }

    /// For a row in the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut table = Table::default();
        let texts = [
            ("reason", &self.reason),
            ("died-in", &self.died_in),
            ("routing-key", &self.routing_key),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                table.insert(name, Value::text(text));
            }
        }
        for (name, at) in [("since", self.since), ("until", self.until)] {
            if let Some(at) = at {
                table.insert(name, Value::I64(at));
            }
        }
        if !self.ids.is_empty() {
            let ids = self.ids.iter().map(|id| Value::text(id)).collect();
            table.insert("ids", Value::Array(ids));
        }
        let mut headers = Table::default();
        for (name, value) in &self.headers {
            headers.insert(name, Value::text(value));
        }
        table.insert("headers", Value::Table(headers));
        table.encode()
    }

    /// What `encode` wrote; `None` when it did not.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let table = Table::parse(bytes).ok()?;
        let text = |name| table.find(name).and_then(Value::as_text).map(str::to_owned);
        let number = |name| table.find(name).and_then(Value::as_i64);
        let ids = match table.find("ids") {
            Some(Value::Array(ids)) => ids
                .iter()
                .filter_map(|id| id.as_text().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        let headers = match table.find("headers") {
            Some(Value::Table(headers)) => headers
                .0
                .iter()
                .filter_map(|(name, value)| {
                    let name = String::from_utf8(name.clone()).ok()?;
                    Some((name, value.as_text()?.to_owned()))
                })
                .collect(),
            _ => Vec::new(),
        };
        Some(Self {
            ids,
            since: number("since"),
            until: number("until"),
            reason: text("reason"),
            died_in: text("died-in"),
            routing_key: text("routing-key"),
            headers,
        })
    }
}

/// A header as a filter writes it.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Timestamp(at) => Some(at.to_string()),
        value => {
            let number = value.as_i64().map(|n| n.to_string());
            number.or_else(|| value.as_text().map(str::to_owned))
        }
    }
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;

    use super::*;
    use crate::rules::dead_letter::Reason;

    fn dead(id: &str, tenant: i64) -> Block {
        let mut headers = Table::default();
        headers.insert("tenant", Value::I64(tenant));
        let properties = Properties {
            message_id: Some(id.as_bytes().to_vec()),
            headers: Some(headers),
            ..Properties::default()
        };
        let mut block = Block::default();
        let at = block.push(&Address::new(b"x", b"key"), &properties.encode(), b"");
        let raw = dead_letter::properties(&block, at, "q", Reason::Rejected, 7, None);
        let mut dead = Block::default();
        dead.push(&Address::new(b"", b"q.dlq"), &raw, b"");
        dead
    }

    #[test]
    fn all_conditions_hold_together() {
        let block = dead("m1", 5);
        let some = |text: &str| Some(text.to_owned());
        let all = Filter {
            ids: vec!["m0".into(), "m1".into()],
            since: Some(10),
            until: Some(20),
            reason: some("rejected"),
            died_in: some("q"),
            routing_key: some("q.dlq"),
            headers: vec![("tenant".into(), "5".into())],
        };
        assert!(all.matches(&block, 0, 10));
        assert!(Filter::default().matches(&block, 0, 0));
        let wrong: [fn(&mut Filter); 7] = [
            |f| f.ids = vec!["m2".into()],
            |f| f.since = Some(11),
            |f| f.until = Some(10),
            |f| f.reason = Some("expired".into()),
            |f| f.died_in = Some("p".into()),
            |f| f.routing_key = Some("q".into()),
            |f| f.headers.push(("other".into(), "5".into())),
        ];
        for change in wrong {
            let mut filter = all.clone();
            change(&mut filter);
            assert!(!filter.matches(&block, 0, 10), "{filter:?}");
        }
    }

    #[test]
    fn a_filter_survives_a_row() {
        let filter = Filter {
            ids: vec!["a".into()],
            since: Some(-5),
            headers: vec![("h".into(), "v".into())],
            died_in: Some("q".into()),
            ..Filter::default()
        };
        assert_eq!(Filter::decode(&filter.encode()), Some(filter));
        let empty = Filter::default();
        assert_eq!(Filter::decode(&empty.encode()), Some(empty));
    }
}
