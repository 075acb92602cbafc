//! What a user may do in a vhost, and the words of a refusal. Pure.
//!
//! Keeps: nothing is allowed that no rule allows (I10). What is asked twice is answered from the
//! same compiled patterns; whoever keeps an answer compares `Directory::version` first.
//! Never: who the user is; passwords are `password`'s.
//! In: `gateway::access` asks; `Directory` makes `Rights` and forgets them when a rule changes.
//! RabbitMQ 3.12: the refusal names the right; before, it did not.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Noun, Result};
use crate::model::{PermissionSpec, TopicPermissionSpec};

pub mod directory;
pub mod pattern;

pub use pattern::Pattern;

/// The name under which permissions speak of the default exchange.
pub const DEFAULT_EXCHANGE: &str = "amq.default";

/// What may be done to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    Configure,
    Write,
    Read,
}

impl Right {
    fn as_str(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// What something is done to; the default exchange is `Exchange("")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    Exchange(&'a str),
    Queue(&'a str),
}

impl<'a> Resource<'a> {
    pub fn name(self) -> &'a str {
        match self {
            Self::Exchange("") => DEFAULT_EXCHANGE,
            Self::Exchange(name) | Self::Queue(name) => name,
        }
    }

    fn noun(self) -> Noun {
        match self {
            Self::Exchange(_) => Noun::Exchange,
            Self::Queue(_) => Noun::Queue,
        }
    }
}

/// One user's rights in one vhost, compiled.
#[derive(Debug)]
pub struct Rights {
    user: Arc<str>,
    vhost: Arc<str>,
    configure: Pattern,
    write: Pattern,
    read: Pattern,
    /// By exchange: keys to publish with, keys to bind with.
    topics: HashMap<Arc<str>, (Pattern, Pattern)>,
}

impl Rights {
    /// Nothing at all: no permission is set.
    pub fn none(user: Arc<str>, vhost: Arc<str>) -> Self {
        Self {
            user,
            vhost,
            configure: Pattern::nothing(),
            write: Pattern::nothing(),
            read: Pattern::nothing(),
            topics: HashMap::new(),
        }
    }

    /// Compiles. A pattern that an older release stored and this one cannot read matches nothing.
    pub fn new(permission: &PermissionSpec, topics: &[&TopicPermissionSpec]) -> Self {
        let compiled = |text: &str| Pattern::compile(text).unwrap_or_else(|_| Pattern::nothing());
        let topics = topics.iter().map(|topic| {
            let pair = (
                compiled(&fill(&topic.write, topic)),
                compiled(&fill(&topic.read, topic)),
            );
            (topic.exchange.clone(), pair)
        });
        Self {
            user: permission.user.clone(),
            vhost: permission.vhost.clone(),
            configure: compiled(&permission.configure),
            write: compiled(&permission.write),
            read: compiled(&permission.read),
            topics: topics.collect(),
        }
    }

    pub fn may(&self, right: Right, resource: Resource<'_>) -> bool {
        let pattern = match right {
            Right::Configure => &self.configure,
            Right::Write => &self.write,
            Right::Read => &self.read,
        };
        pattern.is_match(resource.name().as_bytes())
    }

    /// # Errors
    /// `Refused` with RabbitMQ's text.
    pub fn check(&self, right: Right, resource: Resource<'_>) -> Result<()> {
        if self.may(right, resource) {
            return Ok(());
        }
        let (noun, name) = (resource.noun(), resource.name());
        let detail = format!(
            "{} access to {} '{name}' in vhost '{}' refused for user '{}'",
            right.as_str(),
            noun.as_str(),
            self.vhost,
            self.user
        );
        Err(Error::Refused {
            noun,
            name: name.to_owned(),
            detail,
        })
    }

    /// Any right will do, as for passive declarations since RabbitMQ 4.3.1.
    ///
    /// # Errors
    /// `Refused`.
    pub fn check_any(&self, resource: Resource<'_>) -> Result<()> {
        if self.may(Right::Write, resource) || self.may(Right::Read, resource) {
            return Ok(());
        }
        self.check(Right::Configure, resource)
    }

    /// True when some exchange's routing keys are restricted.
    pub fn has_topics(&self) -> bool {
        !self.topics.is_empty()
    }

    /// `right` is `Write` to publish, else to bind. The caller knows that it is a topic exchange.
    ///
    /// # Errors
    /// `Refused` with RabbitMQ's text.
    pub fn check_topic(&self, right: Right, exchange: &str, key: &[u8]) -> Result<()> {
        let Some((write, read)) = self.topics.get(exchange) else {
            return Ok(());
        };
        let pattern = match right {
            Right::Write => write,
            Right::Configure | Right::Read => read,
        };
        if pattern.is_match(key) {
            return Ok(());
        }
        let detail = format!(
            "{} access to topic '{}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
            right.as_str(),
            String::from_utf8_lossy(key),
            self.vhost,
            self.user
        );
        Err(Error::Refused {
            noun: Noun::Exchange,
            name: exchange.to_owned(),
            detail,
        })
    }
}

/// The pattern with its variables replaced, their values taken literally.
fn fill(pattern: &str, of: &TopicPermissionSpec) -> String {
    pattern
        .replace("{username}", &regex::escape(&of.user))
        .replace("{vhost}", &regex::escape(&of.vhost))
}

/// Refuses a pattern that cannot be compiled, with or without variables.
pub(crate) fn check_pattern(noun: Noun, name: &str, what: &str, pattern: &str) -> Result<()> {
    Pattern::compile(pattern).map(drop).map_err(|reason| {
        let detail = format!(
            "{} '{name}': the {what} pattern '{pattern}' cannot be used: {reason}",
            noun.as_str()
        );
        Error::PreconditionFailed {
            noun,
            name: name.to_owned(),
            detail,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(topics: &[&TopicPermissionSpec]) -> Rights {
        let permission = PermissionSpec {
            vhost: "/".into(),
            user: "u.1".into(),
            configure: "^my-".into(),
            write: "^(my-|amq\\.default$)".into(),
            read: String::new(),
        };
        Rights::new(&permission, topics)
    }

    fn text(result: Result<()>) -> String {
        result
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_right_is_the_pattern_of_its_kind() {
        let rights = rights(&[]);
        assert!(rights.may(Right::Configure, Resource::Queue("my-q")));
        assert!(rights.may(Right::Write, Resource::Exchange("")));
        assert!(!rights.may(Right::Configure, Resource::Exchange("")));
        assert!(!rights.may(Right::Read, Resource::Queue("my-q")));
        assert_eq!(
            text(rights.check(Right::Read, Resource::Queue("my-q"))),
            "read access to queue 'my-q' in vhost '/' refused for user 'u.1'"
        );
        assert_eq!(
            text(rights.check(Right::Configure, Resource::Exchange(""))),
            "configure access to exchange 'amq.default' in vhost '/' refused for user 'u.1'"
        );
        assert!(rights.check_any(Resource::Queue("my-q")).is_ok());
        assert!(rights.check_any(Resource::Queue("your-q")).is_err());
    }

    #[test]
    fn without_a_permission_nothing_is_allowed() {
        let none = Rights::none("u".into(), "/".into());
        for right in [Right::Configure, Right::Write, Right::Read] {
            for resource in [Resource::Exchange(""), Resource::Queue("")] {
                assert!(!none.may(right, resource));
            }
        }
    }

    #[test]
    fn variables_of_a_topic_pattern_are_literal() {
        let topic = TopicPermissionSpec {
            vhost: "/".into(),
            user: "u.1".into(),
            exchange: "t".into(),
            write: "^{username}\\.".into(),
            read: "^{vhost}$".into(),
        };
        let rights = rights(&[&topic]);
        assert!(rights.check_topic(Right::Write, "t", b"u.1.x").is_ok());
        assert!(rights.check_topic(Right::Write, "other", b"x").is_ok());
        assert!(rights.check_topic(Right::Read, "t", b"/").is_ok());
        assert_eq!(
            text(rights.check_topic(Right::Write, "t", b"u-1.x")),
            "write access to topic 'u-1.x' in exchange 't' in vhost '/' refused for user 'u.1'"
        );
    }
}
