//! What operators may ask of a node, from the command line: the commands and their way in.
//!
//! Keeps: a command means the same whether a server runs (over its socket) or not (on the store
//! itself), but for those about the running node, which need one; an answer comes after the disk
//! has the change.
//! Never: asks for a password; whoever may open the socket owns the data anyway.
//! In: `cli` sends, `node` serves.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

pub mod client;
mod list;
pub mod messages;
pub mod node;
mod run;
pub mod socket;

pub use run::run;

/// Of the lines on the socket. A change that an older binary misreads is a new number.
pub const VERSION: u32 = 2;

/// The socket's name in the data directory.
pub const SOCKET: &str = "admin.sock";

/// A line from the command.
#[derive(Deserialize, Serialize)]
pub struct Request {
    pub version: u32,
    pub command: Command,
}

/// A line from the server.
#[derive(Deserialize, Serialize)]
pub struct Response {
    pub version: u32,
    pub result: Result<Answer, String>,
}

/// What there is to say.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done,
    /// Done but for these.
    LeftOut(Vec<String>),
    Table {
        columns: Vec<String>,
        rows: Vec<Vec<Json>>,
    },
    /// A part of a list that may be long.
    Page {
        columns: Vec<String>,
        rows: Vec<Vec<Json>>,
        /// The cursor of the rest; `None` at the end.
        next: Option<String>,
    },
    /// A document, to be printed as it is.
    Text(String),
}

/// What can be asked.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    UserAdd {
        name: String,
        password: String,
        tags: Vec<String>,
    },
    UserDelete {
        name: String,
    },
    UserPassword {
        name: String,
        password: String,
    },
    UserTags {
        name: String,
        tags: Vec<String>,
    },
    UserList,
    PermissionSet {
        vhost: String,
        user: String,
        configure: String,
        write: String,
        read: String,
    },
    PermissionClear {
        vhost: String,
        user: String,
    },
    PermissionList(Only),
    TopicPermissionSet {
        vhost: String,
        user: String,
        exchange: String,
        write: String,
        read: String,
    },
    TopicPermissionClear {
        vhost: String,
        user: String,
        exchange: Option<String>,
    },
    TopicPermissionList(Only),
    VhostAdd {
        name: String,
        description: String,
        tags: Vec<String>,
        #[serde(default)]
        default_queue_type: String,
    },
    VhostDelete {
        name: String,
    },
    VhostList,
    PolicySet(Policy),
    PolicyClear {
        operator: bool,
        vhost: String,
        name: String,
    },
    PolicyList {
        operator: bool,
        vhost: Option<String>,
    },
    ParameterSet {
        /// Neither vhost nor component: a global one.
        vhost: String,
        component: String,
        name: String,
        value: Json,
    },
    ParameterClear {
        vhost: String,
        component: String,
        name: String,
    },
    ParameterList {
        global: bool,
        vhost: Option<String>,
    },
    LimitSet {
        subject: Subject,
        name: String,
        value: i64,
    },
    LimitClear {
        subject: Subject,
        name: Option<String>,
    },
    LimitList,
    DefinitionsImport {
        text: String,
        vhost: Option<String>,
    },
    DefinitionsExport {
        vhost: Option<String>,
    },
    Node(node::Node),
    Messages(messages::Ask),
    RedriveList(Span),
    RedriveCancel {
        id: String,
    },
}

/// Which rows of a list that may be long. An answer holds a page of them.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct Span {
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// Rows that are still wanted; all when not given.
    pub limit: Option<u64>,
}

impl Span {
    /// Rows on a page, at most so many.
    fn rows(&self, most: u32) -> u32 {
        let left = self.limit.map_or(most, |left| left.min(most.into()) as u32);
        left.max(1)
    }

    /// The span of what comes after a page; `None` when nothing more is wanted.
    #[must_use]
    pub fn after(&self, rows: u64, next: String) -> Option<Self> {
        let limit = self.limit.map(|limit| limit.saturating_sub(rows));
        let goes_on = limit != Some(0);
        goes_on.then_some(Self {
            cursor: Some(next),
            limit,
        })
    }
}

impl Command {
    /// Which rows it asks for, when it asks for a list that may be long.
    pub fn span(&mut self) -> Option<&mut Span> {
        match self {
            Self::RedriveList(span) => Some(span),
            Self::Messages(ask) => match &mut ask.verb {
                messages::Verb::List { span, .. } | messages::Verb::ListRetained { span } => {
                    Some(span)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// What the answer is about, when only a running server can give it.
    pub fn needs_server(&self) -> Option<&'static str> {
        match self {
            Self::Node(node::Node::Trace { .. }) => Some("tracing"),
            Self::Node(node::Node::AlarmList | node::Node::AlarmSet { .. }) => Some("alarms"),
            Self::Node(_) => Some("connections"),
            _ => None,
        }
    }
}

/// Which rows to list; all without either.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct Only {
    pub vhost: Option<String>,
    pub user: Option<String>,
}

/// A policy as an operator writes it.
#[derive(Clone, Deserialize, Serialize)]
pub struct Policy {
    pub operator: bool,
    pub vhost: String,
    pub name: String,
    pub pattern: String,
    pub apply_to: String,
    pub priority: i32,
    pub definition: Map<String, Json>,
}

/// Whom a limit binds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Vhost(String),
    User(String),
}

#[cfg(test)]
mod tests;
