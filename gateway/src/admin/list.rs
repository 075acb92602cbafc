//! What is defined, as tables.

use amqp::field::Table;
use serde_json::Value as Json;
use store::model::*;
use store::shard::Shard;

use super::{Answer, Only};
use crate::definitions::from_table;

fn table(columns: &[&str], rows: Vec<Vec<Json>>) -> Answer {
    Answer::Table {
        columns: columns.iter().map(|&name| name.to_owned()).collect(),
        rows,
    }
}

fn words(text: &str) -> Json {
    let words = text.split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).collect()
}

fn is_meant(only: Option<&str>, name: &str) -> bool {
    only.is_none_or(|only| only == name)
}

pub(super) fn users(shard: &Shard) -> Answer {
    let users = shard.directory().users.values();
    let rows = users.map(|user| vec![(&*user.name).into(), words(&user.tags)]);
    table(&["name", "tags"], rows.collect())
}

pub(super) fn vhosts(shard: &Shard) -> Answer {
    let vhosts = shard.directory().vhosts.values();
    let rows = vhosts.map(|vhost| {
        vec![
            (&*vhost.name).into(),
            (&*vhost.description).into(),
            words(&vhost.tags),
            (&*vhost.default_queue_type).into(),
        ]
    });
    let columns = ["name", "description", "tags", "default queue type"];
    table(&columns, rows.collect())
}

pub(super) fn permissions(shard: &Shard, only: &Only) -> Answer {
    let rows = shard.directory().permissions.values().filter(|row| {
        is_meant(only.vhost.as_deref(), &row.vhost) && is_meant(only.user.as_deref(), &row.user)
    });
    let rows = rows.map(|row| {
        let texts = [
            &*row.vhost,
            &*row.user,
            &row.configure,
            &row.write,
            &row.read,
        ];
        texts.map(Json::from).to_vec()
    });
    let columns = ["vhost", "user", "configure", "write", "read"];
    table(&columns, rows.collect())
}

pub(super) fn topic_permissions(shard: &Shard, only: &Only) -> Answer {
    let rows = shard.directory().topic_permissions.values().filter(|row| {
        is_meant(only.vhost.as_deref(), &row.vhost) && is_meant(only.user.as_deref(), &row.user)
    });
    let rows = rows.map(|row| {
        let texts = [
            &*row.vhost,
            &*row.user,
            &*row.exchange,
            &row.write,
            &row.read,
        ];
        texts.map(Json::from).to_vec()
    });
    let columns = ["vhost", "user", "exchange", "write", "read"];
    table(&columns, rows.collect())
}

pub(super) fn policies(shard: &Shard, kind: PolicyKind, vhost: Option<&str>) -> Answer {
    let rows = shard
        .policies()
        .filter(|row| row.kind == kind && is_meant(vhost, &row.vhost));
    let rows = rows.map(|row| {
        let definition = Table::parse(&row.definition).unwrap_or_default();
        vec![
            (&*row.vhost).into(),
            (&*row.name).into(),
            (&*row.pattern).into(),
            row.apply_to.as_str().into(),
            row.priority.into(),
            from_table(&definition).into(),
        ]
    });
    let columns = [
        "vhost",
        "name",
        "pattern",
        "apply-to",
        "priority",
        "definition",
    ];
    table(&columns, rows.collect())
}

pub(super) fn parameters(shard: &Shard, global: bool, vhost: Option<&str>) -> Answer {
    let rows = shard.directory().parameters.values();
    let rows = rows.filter(|row| row.vhost.is_empty() == global && is_meant(vhost, &row.vhost));
    let value = |row: &ParameterSpec| serde_json::from_str(&row.value).unwrap_or_default();
    if global {
        let rows = rows.map(|row| vec![(&*row.name).into(), value(row)]);
        return table(&["name", "value"], rows.collect());
    }
    let rows = rows.map(|row| {
        vec![
            (&*row.vhost).into(),
            (&*row.component).into(),
            (&*row.name).into(),
            value(row),
        ]
    });
    table(&["vhost", "component", "name", "value"], rows.collect())
}

pub(super) fn limits(shard: &Shard) -> Answer {
    let rows = shard.directory().limits.values().map(|row| {
        vec![
            row.of.as_str().into(),
            (&*row.subject).into(),
            row.name.as_str().into(),
            row.value.into(),
        ]
    });
    table(&["of", "name", "limit", "value"], rows.collect())
}
