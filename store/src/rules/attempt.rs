//! What a message of a work queue carries about its attempts. Pure.
//!
//! Keeps: the number of this attempt and how many there may be, the first failure and the last
//! error, and each attempt that failed with its time and reason; bounded, whatever a message went
//! through.
//! In: `shard::settle`, when a message fails, comes back or dies.
//!
//! | header | value |
//! |---|---|
//! | `x-attempt`, `x-max-attempts` | this delivery's number, from 1; how many there may be |
//! | `x-first-failure` | timestamp |
//! | `x-last-error` | why the attempt before failed |
//! | `x-attempts` | array of tables: attempt, at (ms since 1970), reason, detail |

use amqp::field::{Table, Value};

use crate::model::Micros;

/// Failed attempts on record: the first, and the newest of the others. A record of this length
/// costs a message some KiB.
pub const RECORD_MAX: usize = 32;
/// Of a worker's own words, bytes.
pub const DETAIL_MAX: usize = 512;

/// Why an attempt ended without an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The consumer rejected it.
    Rejected,
    /// The consumer gave it back for another try at once.
    Returned,
    /// The consumer's channel or connection was lost.
    Lost,
    /// It was not settled in time.
    LeaseEnded,
}

impl Fault {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Returned => "returned",
            Self::Lost => "consumer-lost",
            Self::LeaseEnded => "lease-ended",
        }
    }
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// From 1.
    pub attempt: u32,
    pub at: Micros,
    pub fault: Fault,
    /// In the worker's own words.
    pub detail: Option<String>,
}

impl Failure {
    fn entry(&self) -> Table {
        let mut entry = Table::default();
        entry.insert("attempt", Value::I64(self.attempt.into()));
        entry.insert("at", Value::I64(self.at / 1000));
        entry.insert("reason", Value::text(self.fault.as_str()));
        if let Some(detail) = &self.detail {
            entry.insert("detail", Value::text(detail));
        }
        entry
    }

    fn error(&self) -> String {
        let fault = self.fault.as_str();
        match &self.detail {
            Some(detail) => format!("{fault}: {detail}"),
            None => fault.to_owned(),
        }
    }
}

/// Adds failures to what a message carries, oldest first.
pub fn record(headers: &mut Table, failures: &[Failure]) {
    let (Some(first), Some(last)) = (failures.first(), failures.last()) else {
        return;
    };
    if headers.find("x-first-failure").is_none() {
        let seconds = u64::try_from(first.at / 1_000_000).unwrap_or(0);
        headers.insert("x-first-failure", Value::Timestamp(seconds));
    }
    headers.insert("x-last-error", Value::text(&last.error()));
    let mut entries = match headers.remove("x-attempts") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    entries.extend(failures.iter().map(|failure| Value::Table(failure.entry())));
    if entries.len() > RECORD_MAX {
        entries.drain(1..entries.len() + 1 - RECORD_MAX);
    }
    headers.insert("x-attempts", Value::Array(entries));
}

/// Numbers the next attempt.
pub fn number(headers: &mut Table, attempt: u32, retry_limit: u32) {
    let most = retry_limit.saturating_add(1);
    headers.insert("x-attempt", Value::I64(attempt.into()));
    headers.insert("x-max-attempts", Value::I64(most.into()));
    let failed = attempt.saturating_sub(1);
    headers.insert("x-delivery-count", Value::I64(failed.into()));
}

/// A worker's own words, cut to what a record keeps.
pub fn detail(text: &str) -> String {
    let mut end = text.len().min(DETAIL_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(attempt: u32) -> Failure {
        Failure {
            attempt,
            at: Micros::from(attempt) * 1_500_000,
            fault: Fault::Rejected,
            detail: (attempt == 2).then(|| "no disk".to_owned()),
        }
    }

    fn attempts(headers: &Table) -> Vec<i64> {
        let Some(Value::Array(entries)) = headers.find("x-attempts") else {
            return Vec::new();
        };
        let number = |entry: &Value| match entry {
            Value::Table(entry) => entry.find("attempt").and_then(Value::as_i64),
            _ => None,
        };
        entries.iter().filter_map(number).collect()
    }

    #[test]
    fn failures_add_up_and_the_first_stays() {
        let mut headers = Table::default();
        record(&mut headers, &[]);
        assert_eq!(headers, Table::default());
        record(&mut headers, &[failure(1)]);
        record(&mut headers, &[failure(2)]);
        assert_eq!(attempts(&headers), [1, 2]);
        let found = |name| headers.find(name);
        assert_eq!(found("x-first-failure"), Some(&Value::Timestamp(1)));
        assert_eq!(
            found("x-last-error"),
            Some(&Value::text("rejected: no disk"))
        );
        let many: Vec<Failure> = (3..100).map(failure).collect();
        record(&mut headers, &many);
        let kept = attempts(&headers);
        assert_eq!(kept.len(), RECORD_MAX);
        assert_eq!((kept[0], kept[1], kept[31]), (1, 69, 99));
    }

    #[test]
    fn the_next_attempt_is_numbered() {
        let mut headers = Table::default();
        number(&mut headers, 3, 5);
        let found = |name| headers.find(name).and_then(Value::as_i64);
        assert_eq!(found("x-attempt"), Some(3));
        assert_eq!(found("x-max-attempts"), Some(6));
        assert_eq!(found("x-delivery-count"), Some(2));
    }

    #[test]
    fn words_are_cut_between_characters() {
        let long = "ä".repeat(DETAIL_MAX);
        assert_eq!(detail(&long).len(), DETAIL_MAX);
        assert_eq!(detail(&format!("x{long}")).len(), DETAIL_MAX - 1);
        assert_eq!(detail("short"), "short");
    }
}
