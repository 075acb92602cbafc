//! The one door to rights: may this user do that in this vhost?
//!
//! Keeps: nothing passes that no rule allows (I10); an answer given once costs a look-up until any
//! right changes, then it is asked again, so that a live connection loses what it no longer has.
//! Never: knows what a protocol's method needs; `session` and `http` say it.
//! In: `session` holds a `Door` for its life; `http` asks once a request.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use store::access::{Resource, Right, Rights};
use store::{Result, Store};

/// Exchanges published to lately, compared one by one before anything is looked up.
const WRITTEN_MAX: usize = 4;
/// Answers kept; a client that touches more names pays for a match each time round.
const KEPT_MAX: usize = 64;

/// Asks once.
///
/// # Errors
/// `Refused` with RabbitMQ's text.
pub(crate) fn authorize(
    store: &Store,
    (user, vhost): (&str, &str),
    right: Right,
    resource: Resource<'_>,
) -> Result<()> {
    store.rights(user, vhost).check(right, resource)
}

/// A connection's rights, with what was allowed lately.
pub(crate) struct Door {
    user: Arc<str>,
    vhost: Arc<str>,
    version: u64,
    rights: Arc<Rights>,
    allowed: HashSet<(Right, bool, Box<str>), RandomState>,
    /// Exchanges published to lately.
    written: Vec<Vec<u8>>,
}

impl Door {
    pub(crate) fn new(store: &Store, user: &str, vhost: &str) -> Self {
        let version = store.access_version();
        Self {
            user: user.into(),
            vhost: vhost.into(),
            version,
            rights: store.rights(user, vhost),
            allowed: HashSet::default(),
            written: Vec::new(),
        }
    }

    /// # Errors
    /// `Refused` with RabbitMQ's text.
    pub(crate) fn authorize(
        &mut self,
        store: &Store,
        right: Right,
        resource: Resource<'_>,
    ) -> Result<()> {
        self.refresh(store);
        let is_queue = matches!(resource, Resource::Queue(_));
        let key = (right, is_queue, resource.name().into());
        if self.allowed.contains(&key) {
            return Ok(());
        }
        self.rights.check(right, resource)?;
        if self.allowed.len() >= KEPT_MAX {
            self.allowed.clear();
        }
        self.allowed.insert(key);
        Ok(())
    }

    /// Any right will do: passive declarations.
    ///
    /// # Errors
    /// `Refused`.
    pub(crate) fn authorize_any(&mut self, store: &Store, resource: Resource<'_>) -> Result<()> {
        self.refresh(store);
        self.rights.check_any(resource)
    }

    /// A run of messages with one address. Only where topic permissions are set does the routing
    /// key matter.
    ///
    /// # Errors
    /// `Refused` with RabbitMQ's text.
    pub(crate) fn authorize_publish(
        &mut self,
        store: &Store,
        exchange: &[u8],
        routing_key: &[u8],
    ) -> Result<()> {
        self.refresh(store);
        let is_known = self.written.iter().any(|known| known == exchange);
        if is_known && !self.rights.has_topics() {
            return Ok(());
        }
        let name = String::from_utf8_lossy(exchange);
        self.authorize(store, Right::Write, Resource::Exchange(&name))?;
        self.authorize_topic(store, Right::Write, &name, routing_key)?;
        if !is_known {
            if self.written.len() >= WRITTEN_MAX {
                self.written.clear();
            }
            self.written.push(exchange.to_vec());
        }
        Ok(())
    }

    /// `Write` to publish with a key, `Read` to bind with it; other kinds of exchanges have no
    /// topics.
    ///
    /// # Errors
    /// `Refused` with RabbitMQ's text.
    pub(crate) fn authorize_topic(
        &mut self,
        store: &Store,
        right: Right,
        exchange: &str,
        routing_key: &[u8],
    ) -> Result<()> {
        self.refresh(store);
        if !self.rights.has_topics() || !store.lock().is_topic(&self.vhost, exchange) {
            return Ok(());
        }
        self.rights.check_topic(right, exchange, routing_key)
    }

    /// Somebody's rights changed: what was allowed is asked again.
    fn refresh(&mut self, store: &Store) {
        let version = store.access_version();
        if version != self.version {
            self.version = version;
            self.rights = store.rights(&self.user, &self.vhost);
            self.allowed.clear();
            self.written.clear();
        }
    }
}
