//! From the store's rows to RabbitMQ's file.
//!
//! Keeps: RabbitMQ 3.10 imports what is written here; what only we know stands in keys that it
//! leaves out.

use amqp::field::Table;
use serde_json::{Map, Value as Json, json};
use store::administration::{Definitions, ExchangeDefinition, QueueDefinition};
use store::model::*;

use super::from_table;

/// The version that the file claims: what it is written for.
const VERSION: &str = "3.10.8";

/// The whole file, pretty-printed.
pub fn write(all: &Definitions) -> String {
    let own = concat!("Leveret ", env!("CARGO_PKG_VERSION"));
    let limits = |of, subject: &str| limits(&all.limits, of, subject);
    let operator = all.policies.iter();
    let operator = operator.filter(|row| row.kind == PolicyKind::Operator);
    let limited = all.limits.iter().filter(|row| row.of == LimitOf::Vhost);
    let mut limited: Vec<_> = limited.map(|row| &row.subject).collect();
    limited.dedup();
    let parameters = all.parameters.iter().filter(|row| !row.vhost.is_empty());
    let parameters: Vec<Json> = parameters
        .map(parameter)
        .chain(operator.map(|row| {
            let (vhost, name) = (&row.vhost, &row.name);
            let value = policy(row);
            json!({"vhost": **vhost, "component": "operator_policy", "name": **name,
                   "value": value})
        }))
        .chain(limited.iter().map(|vhost| {
            json!({"vhost": ***vhost, "component": "vhost-limits", "name": "limits",
                   "value": limits(LimitOf::Vhost, vhost)})
        }))
        .collect();
    let file = json!({
        "rabbit_version": VERSION,
        "rabbitmq_version": VERSION,
        "product_name": "RabbitMQ",
        "product_version": VERSION,
        "rabbitmq_definition_format": "cluster",
        "explanation": format!("Definitions of {own}"),
        "vhosts": list(&all.vhosts, vhost),
        "users": list(&all.users, |row| user(row, limits(LimitOf::User, &row.name))),
        "permissions": list(&all.permissions, permission),
        "topic_permissions": list(&all.topic_permissions, topic_permission),
        "parameters": parameters,
        "global_parameters": all.parameters.iter().filter(|row| row.vhost.is_empty())
            .map(|row| json!({"name": &*row.name, "value": value(row)})).collect::<Vec<_>>(),
        "policies": all.policies.iter().filter(|row| row.kind == PolicyKind::User)
            .map(named_policy).collect::<Vec<_>>(),
        "exchanges": list(&all.exchanges, exchange),
        "queues": list(&all.queues, queue),
        "bindings": list(&all.bindings, binding),
    });
    format!("{file:#}\n")
}

fn list<T>(rows: &[T], write: impl Fn(&T) -> Json) -> Vec<Json> {
    rows.iter().map(write).collect()
}

fn words(text: &str) -> Vec<&str> {
    let words = text.split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).collect()
}

fn limits(all: &[LimitSpec], of: LimitOf, subject: &str) -> Map<String, Json> {
    let mine = all
        .iter()
        .filter(|row| row.of == of && &*row.subject == subject);
    mine.map(|row| (row.name.as_str().to_owned(), row.value.into()))
        .collect()
}

fn vhost(row: &VhostSpec) -> Json {
    let mut metadata = json!({"description": row.description, "tags": words(&row.tags)});
    let mut vhost = json!({"name": &*row.name, "limits": []});
    if !row.default_queue_type.is_empty() {
        // RabbitMQ 3.13 reads it in the one place, earlier and later series in the other.
        metadata["default_queue_type"] = row.default_queue_type.as_str().into();
        vhost["default_queue_type"] = row.default_queue_type.as_str().into();
    }
    vhost["metadata"] = metadata;
    vhost
}

fn user(row: &UserSpec, limits: Map<String, Json>) -> Json {
    json!({
        "name": &*row.name,
        "password_hash": row.password_hash,
        "hashing_algorithm": row.hashing,
        "tags": words(&row.tags),
        "limits": limits,
    })
}

fn permission(row: &PermissionSpec) -> Json {
    json!({
        "user": &*row.user,
        "vhost": &*row.vhost,
        "configure": row.configure,
        "write": row.write,
        "read": row.read,
    })
}

fn topic_permission(row: &TopicPermissionSpec) -> Json {
    json!({
        "user": &*row.user,
        "vhost": &*row.vhost,
        "exchange": &*row.exchange,
        "write": row.write,
        "read": row.read,
    })
}

fn value(row: &ParameterSpec) -> Json {
    serde_json::from_str(&row.value).unwrap_or_else(|_| row.value.clone().into())
}

fn parameter(row: &ParameterSpec) -> Json {
    json!({
        "vhost": &*row.vhost,
        "component": &*row.component,
        "name": &*row.name,
        "value": value(row),
    })
}

fn policy(row: &PolicySpec) -> Map<String, Json> {
    let definition = Table::parse(&row.definition).unwrap_or_default();
    let mut out = Map::new();
    out.insert("pattern".into(), row.pattern.clone().into());
    out.insert("apply-to".into(), row.apply_to.as_str().into());
    out.insert("priority".into(), row.priority.into());
    out.insert("definition".into(), from_table(&definition).into());
    out
}

fn named_policy(row: &PolicySpec) -> Json {
    let mut out = policy(row);
    out.insert("vhost".into(), (&*row.vhost).into());
    out.insert("name".into(), (&*row.name).into());
    out.into()
}

fn exchange(row: &ExchangeDefinition) -> Json {
    let declare = &row.declare;
    json!({
        "vhost": &*row.vhost,
        "name": declare.name,
        "type": declare.kind,
        "durable": declare.durable,
        "auto_delete": declare.auto_delete,
        "internal": declare.internal,
        "arguments": from_table(&declare.arguments),
    })
}

fn queue(row: &QueueDefinition) -> Json {
    let declare = &row.declare;
    let kind = declare.arguments.find("x-queue-type");
    let kind = kind.and_then(|kind| kind.as_text()).unwrap_or("classic");
    let mut out = json!({
        "vhost": &*row.vhost,
        "name": declare.name,
        "type": kind,
        "durable": declare.durable,
        "auto_delete": declare.auto_delete,
        "arguments": from_table(&declare.arguments),
    });
    if row.work {
        out["work_rules"] = true.into();
    }
    out
}

fn binding(row: &BindingSpec) -> Json {
    let arguments = Table::parse(&row.arguments).unwrap_or_default();
    json!({
        "vhost": &*row.vhost,
        "source": &*row.source,
        "destination": &*row.destination,
        "destination_type": row.destination_kind.as_str(),
        "routing_key": String::from_utf8_lossy(&row.routing_key),
        "arguments": from_table(&arguments),
    })
}
