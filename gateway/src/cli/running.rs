//! The command lines about a running node.
//!
//! In: `operate`.

use clap::{Subcommand, ValueEnum};

use super::operate::In;
use crate::admin::Command;
use crate::admin::node::{Node, Resource};

/// Copies of what is published and delivered, until the server stops.
#[derive(Subcommand)]
pub(super) enum Trace {
    /// Copy to amq.rabbitmq.trace what is published and delivered in the vhost.
    On(In),
    /// Copy nothing more.
    Off(In),
    /// Whether the vhost is traced.
    Status(In),
}

/// When publishers must wait.
#[derive(Subcommand)]
pub(super) enum Alarm {
    /// Show use, limits and alarms.
    List,
    /// Change a limit until the server stops; the configuration has it for longer.
    Set {
        resource: Watched,
        /// Bytes, as in 512MiB; of memory also a share, as in 40% or 0.4.
        amount: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Watched {
    /// What the process may use.
    Memory,
    /// What must stay free on the database's file system.
    Disk,
}

/// Connections of clients.
#[derive(Subcommand)]
pub(super) enum Connection {
    List,
    /// Close one by its name (320, CONNECTION_FORCED).
    Close {
        name: String,
        #[arg(long, default_value = REASON)]
        reason: String,
    },
    /// Close all.
    CloseAll {
        #[arg(long, default_value = REASON)]
        reason: String,
    },
}

/// As the management of RabbitMQ says it.
const REASON: &str = "Closed via leveret";

impl From<Trace> for Command {
    fn from(trace: Trace) -> Self {
        let (at, on) = match trace {
            Trace::On(at) => (at, Some(true)),
            Trace::Off(at) => (at, Some(false)),
            Trace::Status(at) => (at, None),
        };
        let vhost = at.vhost;
        Self::Node(Node::Trace { vhost, on })
    }
}

impl From<Alarm> for Command {
    fn from(alarm: Alarm) -> Self {
        Self::Node(match alarm {
            Alarm::List => Node::AlarmList,
            Alarm::Set { resource, amount } => Node::AlarmSet {
                resource: match resource {
                    Watched::Memory => Resource::Memory,
                    Watched::Disk => Resource::Disk,
                },
                amount,
            },
        })
    }
}

impl From<Connection> for Command {
    fn from(connection: Connection) -> Self {
        Self::Node(match connection {
            Connection::List => Node::ConnectionList,
            Connection::Close { name, reason } => Node::ConnectionClose {
                name: Some(name),
                reason,
            },
            Connection::CloseAll { reason } => Node::ConnectionClose { name: None, reason },
        })
    }
}
