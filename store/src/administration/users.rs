//! Users and what they may do.
//!
//! Keeps: no permission without its user and vhost; a user that goes takes its permissions along
//! and its connections are closed, as RabbitMQ closes them.

use super::*;

impl Shard {
    /// Adds or replaces a user. The password hash is one of `password`'s forms, or empty.
    ///
    /// # Errors
    /// `PreconditionFailed`: no name, or an unknown hashing algorithm.
    pub fn put_user(&mut self, user: UserSpec) -> Result<()> {
        check_user(&user)?;
        self.directory.users.insert(user.name.clone(), user.clone());
        self.directory.changed();
        self.change(AccessChange::PutUser(user));
        Ok(())
    }

    /// Deletes a user; its connections are closed.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn delete_user(&mut self, name: &str) -> Result<()> {
        let removed = self.directory.users.remove(name);
        let name = removed.ok_or_else(|| missing(Noun::User, name))?.name;
        let book = &mut self.directory;
        book.permissions.retain(|(_, user), _| *user != name);
        book.topic_permissions
            .retain(|(_, user, _), _| *user != name);
        book.limits
            .retain(|(of, subject, _), _| *of != LimitOf::User || *subject != name);
        book.changed();
        self.change(AccessChange::DeleteUser(name.clone()));
        let text = format!("user '{name}' is deleted");
        self.close_sessions(&text, |user, _| *user == *name);
        Ok(())
    }

    /// # Errors
    /// `NotFound` without user or vhost, `PreconditionFailed` for a pattern that cannot be used.
    pub fn put_permission(&mut self, permission: PermissionSpec) -> Result<()> {
        self.need_user(&permission.user)?;
        self.need_vhost(&permission.vhost)?;
        check_permission(&permission)?;
        let key = (permission.vhost.clone(), permission.user.clone());
        self.directory.permissions.insert(key, permission.clone());
        self.directory.changed();
        self.change(AccessChange::PutPermission(permission));
        Ok(())
    }

    /// A user without a permission is no error.
    ///
    /// # Errors
    /// `NotFound` without user or vhost.
    pub fn delete_permission(&mut self, vhost: &str, user: &str) -> Result<()> {
        self.need_user(user)?;
        self.need_vhost(vhost)?;
        let (vhost, user): (Arc<str>, Arc<str>) = (vhost.into(), user.into());
        let key = (vhost, user);
        if self.directory.permissions.remove(&key).is_some() {
            self.directory.changed();
            let (vhost, user) = key;
            self.change(AccessChange::DeletePermission { vhost, user });
        }
        Ok(())
    }

    /// # Errors
    /// As `put_permission`. The exchange need not exist.
    pub fn put_topic_permission(&mut self, topic: TopicPermissionSpec) -> Result<()> {
        self.need_user(&topic.user)?;
        self.need_vhost(&topic.vhost)?;
        check_topic_permission(&topic)?;
        let key = (
            topic.vhost.clone(),
            topic.user.clone(),
            topic.exchange.clone(),
        );
        self.directory.topic_permissions.insert(key, topic.clone());
        self.directory.changed();
        self.change(AccessChange::PutTopicPermission(topic));
        Ok(())
    }

    /// Of one exchange, or of all when none is named.
    ///
    /// # Errors
    /// `NotFound` without user or vhost.
    pub fn delete_topic_permissions(
        &mut self,
        vhost: &str,
        user: &str,
        exchange: Option<&str>,
    ) -> Result<()> {
        self.need_user(user)?;
        self.need_vhost(vhost)?;
        let rows = self.directory.topic_permissions.keys();
        let gone: Vec<_> = rows
            .filter(|(at, of, name)| {
                &**at == vhost && &**of == user && exchange.is_none_or(|only| only == &**name)
            })
            .cloned()
            .collect();
        for key in gone {
            self.directory.topic_permissions.remove(&key);
            let (vhost, user, exchange) = key;
            self.change(AccessChange::DeleteTopicPermission {
                vhost,
                user,
                exchange,
            });
        }
        self.directory.changed();
        Ok(())
    }

    /// Adds or replaces a limit of a user or a vhost; open connections stay.
    ///
    /// # Errors
    /// `NotFound` without its subject, `PreconditionFailed` for a limit that it cannot have.
    pub fn put_limit(&mut self, limit: LimitSpec) -> Result<()> {
        match limit.of {
            LimitOf::User => self.need_user(&limit.subject)?,
            LimitOf::Vhost => self.need_vhost(&limit.subject)?,
        }
        check_limit(&limit)?;
        let key = (limit.of, limit.subject.clone(), limit.name);
        self.directory.limits.insert(key, limit.clone());
        self.change(AccessChange::PutLimit(limit));
        Ok(())
    }

    /// One limit, or all of the subject when none is named.
    ///
    /// # Errors
    /// `NotFound` without its subject.
    pub fn delete_limits(
        &mut self,
        of: LimitOf,
        subject: &str,
        name: Option<LimitName>,
    ) -> Result<()> {
        match of {
            LimitOf::User => self.need_user(subject)?,
            LimitOf::Vhost => self.need_vhost(subject)?,
        }
        let rows = self.directory.limits.keys();
        let gone: Vec<_> = rows
            .filter(|row| row.0 == of && &*row.1 == subject && name.is_none_or(|n| n == row.2))
            .cloned()
            .collect();
        for key in gone {
            self.directory.limits.remove(&key);
            let (of, subject, name) = key;
            self.change(AccessChange::DeleteLimit { of, subject, name });
        }
        Ok(())
    }
}

pub(super) fn check_user(user: &UserSpec) -> Result<()> {
    use crate::password::{MD5, SHA256, SHA512};
    if user.name.is_empty() {
        return Err(invalid(Noun::User, "", "a user needs a name"));
    }
    if ![SHA256, SHA512, MD5].contains(&&*user.hashing) {
        let reason = format!("the hashing algorithm '{}' is not known", user.hashing);
        return Err(invalid(Noun::User, &user.name, reason));
    }
    Ok(())
}

pub(super) fn check_permission(permission: &PermissionSpec) -> Result<()> {
    let name = format!("{}@{}", permission.user, permission.vhost);
    for (what, pattern) in [
        ("configure", &permission.configure),
        ("write", &permission.write),
        ("read", &permission.read),
    ] {
        check_pattern(Noun::Permission, &name, what, pattern)?;
    }
    Ok(())
}

pub(super) fn check_topic_permission(topic: &TopicPermissionSpec) -> Result<()> {
    let name = format!("{}@{}", topic.user, topic.vhost);
    for (what, pattern) in [("write", &topic.write), ("read", &topic.read)] {
        check_pattern(Noun::TopicPermission, &name, what, pattern)?;
    }
    Ok(())
}

pub(super) fn check_limit(limit: &LimitSpec) -> Result<()> {
    let has = match limit.of {
        LimitOf::Vhost => [LimitName::MaxConnections, LimitName::MaxQueues],
        LimitOf::User => [LimitName::MaxConnections, LimitName::MaxChannels],
    };
    if has.contains(&limit.name) {
        return Ok(());
    }
    let reason = format!("a {} has no such limit", limit.of.as_str());
    Err(invalid(Noun::Limit, limit.name.as_str(), reason))
}
