//! Verbs of operators: users, vhosts, permissions, policies, parameters, limits.
//!
//! Keeps: a change is judged whole before any of it is done, holds for live objects at once, and
//! enters the next commit; whoever asked waits for `Store::on_disk`.
//! Never: asks who the operator is; the caller did.
//! In: `gateway::admin`, `Store`.

use std::sync::Arc;

use crate::access::directory::Directory;
use crate::access::{Rights, check_pattern};
use crate::error::{Error, Noun, Result};
use crate::log::batch::{AccessChange, DefinitionChange};
use crate::model::*;
use crate::shard::{Out, Shard};

mod import;
mod policies;
mod recovery;
mod sessions;
mod users;
mod vhosts;

pub use import::{Definitions, ExchangeDefinition, QueueDefinition};

/// RabbitMQ's reply code for a connection that an operator ends.
const FORCED: u16 = 320;

fn missing(noun: Noun, name: &str) -> Error {
    Error::NotFound {
        noun,
        name: name.to_owned(),
        detail: format!("no {} '{name}'", noun.as_str()),
    }
}

fn invalid(noun: Noun, name: &str, reason: impl std::fmt::Display) -> Error {
    Error::PreconditionFailed {
        noun,
        name: name.to_owned(),
        detail: format!("{} '{name}': {reason}", noun.as_str()),
    }
}

impl Shard {
    /// People and places as they are.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    fn change(&mut self, change: AccessChange) {
        self.pending
            .definitions
            .push(DefinitionChange::Access(change));
        self.writer.notify_one();
    }

    fn need_user(&self, name: &str) -> Result<()> {
        match self.directory.users.contains_key(name) {
            true => Ok(()),
            false => Err(missing(Noun::User, name)),
        }
    }

    fn need_vhost(&self, name: &str) -> Result<()> {
        match self.has_vhost(name) {
            true => Ok(()),
            false => Err(missing(Noun::Vhost, name)),
        }
    }
}
