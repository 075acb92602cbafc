//! What can go wrong in the store: one closed enum, each variant with noun and name.
//!
//! Never: protocol codes or HTTP statuses; `gateway::reply` is the one place that translates.

use thiserror::Error;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The noun an error speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    Vhost,
    User,
    Exchange,
    Queue,
    Binding,
    Consumer,
    Message,
    Job,
    Schedule,
    Store,
    Permission,
    TopicPermission,
    Policy,
    OperatorPolicy,
    Parameter,
    Limit,
}

impl Noun {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vhost => "vhost",
            Self::User => "user",
            Self::Exchange => "exchange",
            Self::Queue => "queue",
            Self::Binding => "binding",
            Self::Consumer => "consumer",
            Self::Message => "message",
            Self::Job => "job",
            Self::Schedule => "schedule",
            Self::Store => "store",
            Self::Permission => "permission",
            Self::TopicPermission => "topic permission",
            Self::Policy => "policy",
            Self::OperatorPolicy => "operator policy",
            Self::Parameter => "parameter",
            Self::Limit => "limit",
        }
    }
}

/// `name` is the object's name; `detail` is RabbitMQ's explanation where it has one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    #[error("{}", .detail)]
    NotFound {
        noun: Noun,
        name: String,
        detail: String,
    },
    /// Not allowed, whoever asks (system names, default exchange) or for this user.
    #[error("{}", .detail)]
    Refused {
        noun: Noun,
        name: String,
        detail: String,
    },
    #[error("{}", .detail)]
    PreconditionFailed {
        noun: Noun,
        name: String,
        detail: String,
    },
    /// Held by another connection.
    #[error("{}", .detail)]
    Exclusive {
        noun: Noun,
        name: String,
        detail: String,
    },
    /// A rule of the connection was broken; closes it.
    #[error("{}", .detail)]
    NotAllowed {
        noun: Noun,
        name: String,
        detail: String,
    },
    #[error("{}", .detail)]
    NotImplemented {
        noun: Noun,
        name: String,
        detail: String,
    },
    #[error("{} '{}' is too large: {}", .noun.as_str(), .name, .detail)]
    TooLarge {
        noun: Noun,
        name: String,
        detail: String,
    },
    /// Exists already with other contents.
    #[error("{} '{}' exists: {}", .noun.as_str(), .name, .detail)]
    Exists {
        noun: Noun,
        name: String,
        detail: String,
    },
    /// Cannot be served now; try again later.
    #[error("{} '{}' is busy: {}", .noun.as_str(), .name, .detail)]
    Busy {
        noun: Noun,
        name: String,
        detail: String,
    },
    #[error("{} '{}' is damaged: {}", .noun.as_str(), .name, .detail)]
    Corrupt {
        noun: Noun,
        name: String,
        detail: String,
    },
    #[error("storage failed: {0}")]
    Io(String),
    #[error("the store is stopping")]
    Stopped,
}
