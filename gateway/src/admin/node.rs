//! Commands about the running node: tracing, alarms, connections.
//!
//! Keeps: a limit is in force when the answer comes.
//! Never: survives a restart; the configuration does.
//! In: `run`.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use store::Store;
use store::alarms::Cause;

use super::Answer;
use crate::alarm;

/// The watch looks at once; more than this, and something is wrong.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// What can be asked of a running node only.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Node {
    /// The fire-hose of a vhost; without `on` whether it runs.
    Trace {
        vhost: String,
        on: Option<bool>,
    },
    AlarmList,
    /// Bytes, as in 512MiB, or a share of the machine's memory, as in 40% or 0.4.
    AlarmSet {
        resource: Resource,
        amount: String,
    },
    ConnectionList,
    ConnectionClose {
        /// All of them without.
        name: Option<String>,
        reason: String,
    },
}

/// What an alarm watches.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    Memory,
    Disk,
}

/// Does it, or says in words why not.
///
/// # Errors
/// What was wrong, for the operator.
pub(super) async fn run(store: &Store, ask: Node) -> Result<Answer, String> {
    match ask {
        Node::Trace { vhost, on: None } => {
            let traced = store.is_traced(&vhost).map_err(|error| error.to_string())?;
            Ok(table(
                &["vhost", "traced"],
                vec![vec![vhost.into(), traced.into()]],
            ))
        }
        Node::Trace {
            vhost,
            on: Some(on),
        } => {
            let done = store.set_tracing(&vhost, on);
            done.map(|()| Answer::Done)
                .map_err(|error| error.to_string())
        }
        Node::AlarmList => Ok(alarms(store)),
        Node::AlarmSet { resource, amount } => set_limit(store, resource, &amount).await,
        Node::ConnectionList => Ok(connections(store)),
        Node::ConnectionClose { name, reason } => {
            let closed = store.lock().close_connections(name.as_deref(), &reason);
            match (name, closed) {
                (Some(name), 0) => Err(format!("no connection '{name}'")),
                _ => Ok(Answer::Done),
            }
        }
    }
}

async fn set_limit(store: &Store, resource: Resource, amount: &str) -> Result<Answer, String> {
    let bytes = alarm::amount(amount, matches!(resource, Resource::Memory))?;
    let mine = {
        let mut shard = store.lock();
        let watched = &mut shard.watched;
        match resource {
            Resource::Memory => watched.memory_max_asked = Some(bytes),
            Resource::Disk => watched.disk_min_asked = Some(bytes),
        }
        watched.asked += 1;
        watched.look.notify_one();
        watched.asked
    };
    let begun = Instant::now();
    while store.lock().watched.answered < mine {
        if begun.elapsed() > LOOK_WITHIN {
            return Err("the limit is set, but nothing has looked at it yet".into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(Answer::Done)
}

fn alarms(store: &Store) -> Answer {
    let shard = store.lock();
    let (watched, alarms) = (&shard.watched, shard.alarms());
    let from = |asked: Option<u64>| Json::from(if asked.is_some() { "command" } else { "config" });
    let rows = vec![
        vec![
            "memory".into(),
            watched.memory_used.into(),
            watched.memory_max.into(),
            from(watched.memory_max_asked),
            alarms.holds(Cause::Memory).into(),
        ],
        vec![
            "disk".into(),
            watched.disk_free.into(),
            watched.disk_min.into(),
            from(watched.disk_min_asked),
            alarms.disk().into(),
        ],
        vec![
            "commits behind".into(),
            Json::Null,
            Json::Null,
            Json::Null,
            alarms.holds(Cause::Behind).into(),
        ],
    ];
    table(&["resource", "is", "limit", "limit from", "alarm"], rows)
}

fn connections(store: &Store) -> Answer {
    let rows = store.lock().connections().into_iter().map(|connection| {
        vec![
            connection.name.to_string().into(),
            connection.user.to_string().into(),
            connection.vhost.to_string().into(),
            connection.channels.into(),
            connection.unacked.into(),
        ]
    });
    table(
        &["name", "user", "vhost", "channels", "unacked"],
        rows.collect(),
    )
}

fn table(columns: &[&str], rows: Vec<Vec<Json>>) -> Answer {
    Answer::Table {
        columns: columns.iter().map(|&name| name.to_owned()).collect(),
        rows,
    }
}
