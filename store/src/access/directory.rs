//! Users, vhosts, permissions, limits and parameters, as the newest change left them. Pure.
//!
//! Keeps: rights compiled once and forgotten when a rule changes; `version` rises with each change,
//! so that a session notices before it uses an answer of its own.
//! Never: judges a change; the verbs in `administration` did.
//! In: `Shard` holds the one there is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Rights;
use crate::model::*;

/// Compiled rights kept, at most: each costs some tens of KiB.
const RIGHTS_MAX: usize = 1024;

type Name = Arc<str>;

/// What operators said about people and places.
#[derive(Default)]
pub struct Directory {
    pub users: BTreeMap<Name, UserSpec>,
    pub vhosts: BTreeMap<Name, VhostSpec>,
    /// By vhost and user.
    pub permissions: BTreeMap<(Name, Name), PermissionSpec>,
    /// By vhost, user and exchange.
    pub topic_permissions: BTreeMap<(Name, Name, Name), TopicPermissionSpec>,
    /// By vhost, component and name.
    pub parameters: BTreeMap<(Name, Name, Name), ParameterSpec>,
    pub limits: BTreeMap<(LimitOf, Name, LimitName), LimitSpec>,
    compiled: HashMap<(Name, Name), Arc<Rights>>,
    version: Arc<AtomicU64>,
}

impl Directory {
    /// Changes whenever anybody's rights may have changed.
    pub fn version(&self) -> Arc<AtomicU64> {
        self.version.clone()
    }

    /// Somebody's rights changed.
    pub(crate) fn changed(&mut self) {
        self.compiled.clear();
        self.version.fetch_add(1, Ordering::Release);
    }

    pub fn permission(&self, user: &str, vhost: &str) -> Option<&PermissionSpec> {
        self.permissions.get(&(vhost.into(), user.into()))
    }

    /// The user's rights in the vhost; none at all where no permission is set.
    pub fn rights(&mut self, user: &str, vhost: &str) -> Arc<Rights> {
        let key: (Name, Name) = (vhost.into(), user.into());
        if let Some(known) = self.compiled.get(&key) {
            return known.clone();
        }
        let Some(permission) = self.permissions.get(&key) else {
            return Arc::new(Rights::none(key.1, key.0));
        };
        let topics: Vec<_> = self
            .topic_permissions
            .values()
            .filter(|row| row.vhost == key.0 && row.user == key.1)
            .collect();
        let rights = Arc::new(Rights::new(permission, &topics));
        if self.compiled.len() >= RIGHTS_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(key, rights.clone());
        rights
    }

    /// A limit that holds.
    pub fn limit(&self, of: LimitOf, subject: &str, name: LimitName) -> Option<u64> {
        if self.limits.is_empty() {
            return None;
        }
        let row = self.limits.get(&(of, subject.into(), name))?;
        u64::try_from(row.value).ok()
    }

    /// True when the user carries the tag, as in `administrator`.
    pub fn has_tag(&self, user: &str, tag: &str) -> bool {
        self.users
            .get(user)
            .is_some_and(|user| user.tags.split(',').any(|known| known.trim() == tag))
    }
}
