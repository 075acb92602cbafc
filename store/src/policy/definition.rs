//! What a policy may say: its keys and the form of their values. Pure.
//!
//! Keeps: a policy that is stored can be applied; whatever cannot is refused when it is set.
//! In: `policy::compile`.

use amqp::field::{Table, Value};

use crate::access::Pattern;
use crate::error::{Error, Noun, Result};
use crate::model::{ApplyTo, PolicyKind, PolicySpec};
use crate::topology::arguments::{Arguments, EXPIRY_MAX_MS, OVERFLOW};
use crate::topology::shown;

/// The form of a value.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A whole number, no smaller than this.
    Number(i64),
    /// Milliseconds, no fewer than this and not more than ten years.
    Span(i64),
    Text,
    Words(&'static [&'static str]),
    /// Judged as the argument of that name is.
    Own,
    /// Accepted for RabbitMQ's sake, without effect.
    Any,
}

/// As for arguments.
const SPAN_MAX: i64 = EXPIRY_MAX_MS as i64;

/// Keys with which operators may bound what users ask for.
const OPERATOR: &[&str] = &[
    "delivery-limit",
    "expires",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "max-length",
    "max-length-bytes",
    "message-ttl",
    "overflow",
    "queue-version",
    "target-group-size",
];

const KEYS: &[(&str, Form)] = &[
    ("alternate-exchange", Form::Text),
    ("consumer-disconnected-timeout", Form::Number(0)),
    ("consumer-timeout", Form::Number(0)),
    ("dead-letter-exchange", Form::Text),
    ("dead-letter-routing-key", Form::Text),
    (
        "dead-letter-strategy",
        Form::Words(&["at-most-once", "at-least-once"]),
    ),
    ("deduplication-header", Form::Own),
    ("deduplication-window", Form::Own),
    ("delayed-retry-max", Form::Number(0)),
    ("delayed-retry-min", Form::Number(0)),
    (
        "delayed-retry-type",
        Form::Words(&["disabled", "all", "failed", "returned"]),
    ),
    ("delivery-limit", Form::Number(-1)),
    ("expires", Form::Span(1)),
    ("federation-upstream", Form::Any),
    ("federation-upstream-pattern", Form::Any),
    ("federation-upstream-set", Form::Any),
    ("ha-mode", Form::Any),
    ("ha-params", Form::Any),
    ("ha-promote-on-failure", Form::Any),
    ("ha-promote-on-shutdown", Form::Any),
    ("ha-sync-batch-size", Form::Any),
    ("ha-sync-mode", Form::Any),
    ("initial-cluster-size", Form::Any),
    ("lease-timeout", Form::Own),
    ("max-age", Form::Any),
    ("max-in-memory-bytes", Form::Number(0)),
    ("max-in-memory-length", Form::Number(0)),
    ("max-length", Form::Number(0)),
    ("max-length-bytes", Form::Number(0)),
    ("max-priority", Form::Number(0)),
    ("message-ttl", Form::Span(0)),
    ("overflow", Form::Words(&OVERFLOW)),
    ("partition-concurrency", Form::Own),
    ("partition-header", Form::Own),
    ("partition-on-retry", Form::Own),
    ("partition-rate-limit", Form::Own),
    ("priority-ageing", Form::Own),
    ("queue-leader-locator", Form::Any),
    ("queue-master-locator", Form::Any),
    ("queue-mode", Form::Words(&["default", "lazy"])),
    ("queue-version", Form::Number(1)),
    ("rate-limit", Form::Own),
    ("retain", Form::Own),
    ("retain-bytes", Form::Own),
    ("retry-delay", Form::Own),
    ("retry-jitter", Form::Own),
    ("retry-limit", Form::Own),
    ("retry-max-delay", Form::Own),
    ("retry-multiplier", Form::Own),
    ("shards-per-node", Form::Any),
    ("stream-max-segment-size-bytes", Form::Any),
    ("target-group-size", Form::Any),
];

/// The definition, when every key and value can be used.
///
/// # Errors
/// `PreconditionFailed`, naming the policy and the key.
pub fn check(spec: &PolicySpec) -> Result<Table> {
    let table = Table::parse(&spec.definition).map_err(|error| refused(spec, error.to_string()))?;
    if table.0.is_empty() {
        return Err(refused(spec, "its definition is empty"));
    }
    if spec.kind == PolicyKind::Operator && spec.apply_to == ApplyTo::Exchanges {
        return Err(refused(spec, "an operator policy applies to queues only"));
    }
    for (key, value) in &table.0 {
        let key = String::from_utf8_lossy(key);
        let known = KEYS.iter().find(|(name, _)| *name == key);
        let Some((name, form)) = known else {
            return Err(refused(spec, format!("'{key}' is no key of a policy")));
        };
        if spec.kind == PolicyKind::Operator && !OPERATOR.contains(name) {
            let reason = format!("'{key}' is no key of an operator policy");
            return Err(refused(spec, reason));
        }
        if let Err(expected) = fits(*form, value) {
            let reason = format!("'{key}' must be {expected}, not {}", shown(value));
            return Err(refused(spec, reason));
        }
    }
    delayed_retry(spec, &table)?;
    rules_of_work(spec, &table)?;
    Ok(table)
}

/// Keys that RabbitMQ does not have, by their beginnings.
const OWN: [&str; 7] = [
    "deduplication-",
    "lease-",
    "partition-",
    "priority-ageing",
    "rate-limit",
    "retain",
    "retry-",
];

/// What our own keys may say is what arguments may.
fn rules_of_work(spec: &PolicySpec, table: &Table) -> Result<()> {
    let mut arguments = Table::default();
    for (key, value) in &table.0 {
        let key = String::from_utf8_lossy(key);
        if OWN.iter().any(|own| key.starts_with(own)) {
            arguments.insert(&format!("x-{key}"), value.clone());
        }
    }
    Arguments::parse(&arguments, false)
        .map(drop)
        .map_err(|(argument, why)| {
            let key = argument.strip_prefix("x-").unwrap_or(&argument);
            refused(spec, format!("'{key}': {why}"))
        })
}

/// RabbitMQ 4.3: a delay needs a least, and its most is no smaller.
fn delayed_retry(spec: &PolicySpec, table: &Table) -> Result<()> {
    let number = |key| table.find(key).and_then(Value::as_i64);
    let (min, max) = (number("delayed-retry-min"), number("delayed-retry-max"));
    let kind = table.find("delayed-retry-type").and_then(Value::as_text);
    if min.is_none() && kind.is_some_and(|kind| kind != "disabled") {
        let reason = "'delayed-retry-type' needs 'delayed-retry-min'";
        return Err(refused(spec, reason));
    }
    if min.zip(max).is_some_and(|(min, max)| max < min) {
        let reason = "'delayed-retry-max' must not be smaller than 'delayed-retry-min'";
        return Err(refused(spec, reason));
    }
    Ok(())
}

fn fits(form: Form, value: &Value) -> std::result::Result<(), String> {
    let fits = match form {
        Form::Number(low) => value.as_i64().is_some_and(|n| n >= low),
        Form::Span(low) => value
            .as_i64()
            .is_some_and(|n| (low..=SPAN_MAX).contains(&n)),
        Form::Text => value.as_text().is_some(),
        Form::Words(words) => value.as_text().is_some_and(|word| words.contains(&word)),
        Form::Own | Form::Any => true,
    };
    if fits {
        return Ok(());
    }
    Err(match form {
        Form::Number(low) => format!("a whole number, at least {low}"),
        Form::Span(low) => format!("milliseconds, from {low} to {SPAN_MAX}"),
        Form::Text => "text".into(),
        Form::Words(words) => format!("one of {}", words.join(", ")),
        Form::Own | Form::Any => "anything".into(),
    })
}

/// The policy's pattern, compiled.
pub(super) fn pattern(spec: &PolicySpec) -> Result<Pattern> {
    Pattern::compile(&spec.pattern).map_err(|reason| {
        let reason = format!("the pattern '{}' cannot be used: {reason}", spec.pattern);
        refused(spec, reason)
    })
}

fn refused(spec: &PolicySpec, reason: impl std::fmt::Display) -> Error {
    let noun = match spec.kind {
        PolicyKind::User => Noun::Policy,
        PolicyKind::Operator => Noun::OperatorPolicy,
    };
    let (name, vhost) = (&spec.name, &spec.vhost);
    let detail = format!("{} '{name}' in vhost '{vhost}': {reason}", noun.as_str());
    Error::PreconditionFailed {
        noun,
        name: name.to_string(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: PolicyKind, key: &str, value: Value) -> String {
        let mut definition = Table::default();
        definition.insert(key, value);
        let spec = PolicySpec {
            kind,
            vhost: "/".into(),
            name: "p".into(),
            pattern: String::new(),
            apply_to: ApplyTo::All,
            priority: 0,
            definition: definition.encode(),
        };
        check(&spec)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn keys_and_values_are_judged_when_they_are_set() {
        use PolicyKind::{Operator, User};
        for (kind, key, value, reason) in [
            (User, "max-length", Value::I64(5), ""),
            (User, "ha-mode", Value::text("all"), ""),
            (User, "retry-jitter", Value::F64(0.5_f64.to_bits()), ""),
            (
                User,
                "retry-limit",
                Value::I64(20_000),
                "policy 'p' in vhost '/': 'retry-limit': 20000 is not within 0 to 10000",
            ),
            (
                User,
                "rate-limit",
                Value::I64(0),
                "policy 'p' in vhost '/': 'rate-limit': 0 is not within one a day to 10000000 a \
                 second",
            ),
            (
                User,
                "retain",
                Value::I64(-1),
                "policy 'p' in vhost '/': 'retain': -1 is not within 1000 to 31536000000",
            ),
            (
                User,
                "partition-on-retry",
                Value::text("wait"),
                "policy 'p' in vhost '/': 'partition-on-retry': 'wait' (longstr) is not one of \
                 'block', 'skip'",
            ),
            (User, "deduplication-window", Value::I64(1000), ""),
            (
                User,
                "deduplication-window",
                Value::I64(2_592_000_001),
                "policy 'p' in vhost '/': 'deduplication-window': 2592000001 is not within 1000 to \
                 2592000000",
            ),
            (Operator, "overflow", Value::text("drop-head"), ""),
            (User, "overflow", Value::text("block"), ""),
            (User, "priority-ageing", Value::I64(60_000), ""),
            (
                User,
                "message-ttl",
                Value::I64(315_360_000_001),
                "policy 'p' in vhost '/': 'message-ttl' must be milliseconds, from 0 to 315360000000, \
                 not 315360000001",
            ),
            (User, "lease-timeout", Value::text("auto"), ""),
            (
                User,
                "lease-timeout",
                Value::I64(0),
                "policy 'p' in vhost '/': 'lease-timeout': 0 is neither 'auto' nor within 1 to \
                 43200000 ms",
            ),
            (
                User,
                "delayed-retry-type",
                Value::text("all"),
                "policy 'p' in vhost '/': 'delayed-retry-type' needs 'delayed-retry-min'",
            ),
            (
                User,
                "max-lenght",
                Value::I64(5),
                "policy 'p' in vhost '/': 'max-lenght' is no key of a policy",
            ),
            (
                User,
                "max-length",
                Value::text("5"),
                "policy 'p' in vhost '/': 'max-length' must be a whole number, at least 0, not '5' \
                 (longstr)",
            ),
            (
                User,
                "overflow",
                Value::text("x"),
                "policy 'p' in vhost '/': 'overflow' must be one of drop-head, reject-publish, \
                 reject-publish-dlx, block, not 'x' (longstr)",
            ),
            (
                Operator,
                "dead-letter-exchange",
                Value::text("x"),
                "operator policy 'p' in vhost '/': 'dead-letter-exchange' is no key of an \
                 operator policy",
            ),
        ] {
            assert_eq!(refusal(kind, key, value), reason, "{key}");
        }
    }
}
