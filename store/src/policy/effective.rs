//! What holds for a queue: its own arguments, a policy and an operator policy laid over each other.
//! Pure.
//!
//! Keeps: of two numbers the lower; otherwise an argument beats a policy, but for what quorum
//! queues let a policy say; an operator policy beats a user's.
//! In: `Shard`, for each declaration and each change of a policy.
//! RabbitMQ: rabbit_policy:merge_operator_definitions, rabbit_amqqueue:args_policy_lookup.

use amqp::field::{Table, Value};

/// Keys without effect as a policy: the argument alone counts, or nothing does.
const IGNORED: [&str; 6] = [
    "alternate-exchange",
    "max-priority",
    "queue-mode",
    "queue-version",
    "queue-leader-locator",
    "queue-master-locator",
];

/// Words that on a quorum queue a policy says rather than an argument, as in RabbitMQ.
const FIRST_ON_QUORUM: [&str; 3] = ["overflow", "dead-letter-strategy", "delayed-retry-type"];

/// The arguments that hold, named as in a declaration (`x-max-length`).
pub fn effective(declared: &Table, policy: Option<&Table>, operator: Option<&Table>) -> Table {
    let mut out = declared.clone();
    let kind = declared.find("x-queue-type").and_then(Value::as_text);
    let is_quorum = kind == Some("quorum");
    for (key, value) in merged(policy, operator) {
        let wins = is_quorum && FIRST_ON_QUORUM.contains(&&*key);
        let key = format!("x-{key}");
        let found = out.0.iter_mut().find(|(name, _)| name == key.as_bytes());
        match found {
            Some((_, own)) if wins => *own = value,
            Some((_, own)) => {
                if let Some(lower) = lower(own, &value) {
                    *own = lower;
                }
            }
            None => out.insert(&key, value),
        }
    }
    // A policy may name the key without an exchange; then nothing is dead-lettered.
    if out.find("x-dead-letter-exchange").is_none() {
        out.0
            .retain(|(name, _)| name != b"x-dead-letter-routing-key");
    }
    out
}

/// The keys that count, with the value of both policies together.
fn merged(policy: Option<&Table>, operator: Option<&Table>) -> Vec<(String, Value)> {
    let mut out: Vec<(String, Value)> = Vec::new();
    let tables = [policy, operator];
    for (key, value) in tables.into_iter().flatten().flat_map(|table| &table.0) {
        let key = String::from_utf8_lossy(key).into_owned();
        if IGNORED.contains(&&*key) {
            continue;
        }
        match out.iter_mut().find(|(name, _)| *name == key) {
            Some((_, known)) => *known = lower(known, value).unwrap_or_else(|| value.clone()),
            None => out.push((key, value.clone())),
        }
    }
    out
}

/// The lower of two numbers; a negative one means no limit. `None` when they are no numbers.
fn lower(left: &Value, right: &Value) -> Option<Value> {
    let (a, b) = (left.as_i64()?, right.as_i64()?);
    let of = |n: i64| if n < 0 { i64::MAX } else { n };
    Some(if of(a) <= of(b) { left } else { right }.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, Value)]) -> Table {
        let mut out = Table::default();
        for (key, value) in pairs {
            out.insert(key, value.clone());
        }
        out
    }

    #[test]
    fn the_lower_number_holds_and_arguments_beat_policies() {
        let (n, t) = (Value::I64, Value::text);
        for (declared, policy, operator, expected) in [
            (None, Some(n(5)), None, Some(n(5))),
            (Some(n(3)), Some(n(5)), None, Some(n(3))),
            (Some(n(9)), Some(n(5)), None, Some(n(5))),
            (Some(n(9)), Some(n(5)), Some(n(2)), Some(n(2))),
            (None, None, Some(n(2)), Some(n(2))),
            (Some(n(-1)), Some(n(20)), None, Some(n(20))),
            (Some(n(7)), Some(n(-1)), None, Some(n(7))),
            (Some(t("own")), Some(t("policy")), None, Some(t("own"))),
            (
                None,
                Some(t("policy")),
                Some(t("operator")),
                Some(t("operator")),
            ),
        ] {
            let one = |value: Option<Value>, key: &str| value.map(|value| table(&[(key, value)]));
            let declared = one(declared, "x-delivery-limit").unwrap_or_default();
            let policy = one(policy, "delivery-limit");
            let operator = one(operator, "delivery-limit");
            let found = effective(&declared, policy.as_ref(), operator.as_ref());
            assert_eq!(found.find("x-delivery-limit"), expected.as_ref());
        }
    }

    #[test]
    fn on_a_quorum_queue_a_policy_says_what_overflows() {
        let policy = table(&[("overflow", Value::text("reject-publish"))]);
        for (kind, expected) in [("quorum", "reject-publish"), ("classic", "drop-head")] {
            let own = table(&[
                ("x-queue-type", Value::text(kind)),
                ("x-overflow", Value::text("drop-head")),
            ]);
            let found = effective(&own, Some(&policy), None);
            assert_eq!(found.find("x-overflow"), Some(&Value::text(expected)));
        }
    }

    #[test]
    fn a_dead_letter_key_needs_an_exchange() {
        let key = table(&[("dead-letter-routing-key", Value::text("k"))]);
        let found = effective(&Table::default(), Some(&key), None);
        assert_eq!(found, Table::default());
        let own = table(&[("x-dead-letter-exchange", Value::text("dlx"))]);
        let found = effective(&own, Some(&key), None);
        let expected = Some(Value::text("k"));
        assert_eq!(found.find("x-dead-letter-routing-key"), expected.as_ref());
    }

    #[test]
    fn what_has_no_effect_as_a_policy_is_left_out() {
        let policy = table(&[
            ("max-priority", Value::I64(5)),
            ("alternate-exchange", Value::text("x")),
        ]);
        let found = effective(&Table::default(), Some(&policy), None);
        assert_eq!(found, Table::default());
    }
}
