//! What was on disk, at the start.
//!
//! In: `Store::open`, after the vhosts and before what is declared in them.

use super::*;
use crate::password;
use crate::sql::Image;

impl Shard {
    /// Takes people, places and rules out of the image.
    pub(crate) fn recover_access(&mut self, image: &mut Image) {
        let book = &mut self.directory;
        for row in std::mem::take(&mut image.vhosts) {
            book.vhosts.insert(row.name.clone(), row);
        }
        for row in std::mem::take(&mut image.users) {
            book.users.insert(row.name.clone(), row);
        }
        for row in std::mem::take(&mut image.permissions) {
            let key = (row.vhost.clone(), row.user.clone());
            book.permissions.insert(key, row);
        }
        for row in std::mem::take(&mut image.topic_permissions) {
            let key = (row.vhost.clone(), row.user.clone(), row.exchange.clone());
            book.topic_permissions.insert(key, row);
        }
        for row in std::mem::take(&mut image.parameters) {
            let key = (row.vhost.clone(), row.component.clone(), row.name.clone());
            book.parameters.insert(key, row);
        }
        for row in std::mem::take(&mut image.limits) {
            book.limits
                .insert((row.of, row.subject.clone(), row.name), row);
        }
        for row in std::mem::take(&mut image.policies) {
            if let Err(error) = self.policies.put(row) {
                tracing::error!(%error, "a stored policy cannot be used and is left out");
            }
        }
    }

    /// The first vhost and user, where nothing ever was: what operators deleted stays deleted.
    pub(crate) fn first_start(&mut self) {
        if !(self.directory.vhosts.is_empty() && self.directory.users.is_empty()) {
            return;
        }
        let vhost: Arc<str> = self.options.default_vhost.as_str().into();
        let described = VhostSpec {
            name: vhost.clone(),
            description: "Default virtual host".into(),
            ..VhostSpec::default()
        };
        let mut made = self.put_vhost(described);
        if let Some((name, password)) = self.options.default_user.clone() {
            let user: Arc<str> = name.into();
            let all = || ".*".to_owned();
            let permission = PermissionSpec {
                vhost,
                user: user.clone(),
                configure: all(),
                write: all(),
                read: all(),
            };
            let spec = UserSpec {
                name: user,
                password_hash: password::hash(&password),
                hashing: password::SHA256.into(),
                tags: "administrator".into(),
            };
            made = made
                .and_then(|()| self.put_user(spec))
                .and_then(|()| self.put_permission(permission));
        }
        if let Err(error) = made {
            tracing::error!(%error, "the first vhost and user cannot be made");
        }
    }

    /// True when the user may use the vhost at all.
    pub fn may_open(&self, user: &str, vhost: &str) -> bool {
        self.directory.permission(user, vhost).is_some()
    }
}
