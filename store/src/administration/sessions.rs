//! Connections of users in vhosts: how many there may be, and their end by an operator.
//!
//! Keeps: RabbitMQ's texts and its order of checks at connection.open (3.10).
//! In: `gateway::session`.

use super::*;

/// A connection, as an operator sees it.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    pub name: Arc<str>,
    pub user: Arc<str>,
    pub vhost: Arc<str>,
    pub channels: u64,
    pub unacked: u64,
}

impl Shard {
    /// The session's user enters a vhost. Answers its rights there.
    ///
    /// # Errors
    /// `NotAllowed` with RabbitMQ's text.
    pub fn enter(&mut self, session: usize, user: &str, vhost: &str) -> Result<Arc<Rights>> {
        let refused = |detail: String| Error::NotAllowed {
            noun: Noun::Vhost,
            name: vhost.to_owned(),
            detail,
        };
        if !self.has_vhost(vhost) {
            return Err(refused(format!("vhost {vhost} not found")));
        }
        let limit = (LimitOf::Vhost, vhost, LimitName::MaxConnections);
        if let Some(limit) = self.reached(limit, |_, at| at == vhost) {
            return Err(refused(format!(
                "access to vhost '{vhost}' refused for user '{user}': \
                 connection limit ({limit}) is reached"
            )));
        }
        let limit = (LimitOf::User, user, LimitName::MaxConnections);
        if let Some(limit) = self.reached(limit, |of, _| of == user) {
            return Err(refused(format!(
                "connection refused for user '{user}': user connection limit ({limit}) is reached"
            )));
        }
        if !self.may_open(user, vhost) {
            let detail = format!("access to vhost '{vhost}' refused for user '{user}'");
            return Err(refused(detail));
        }
        if let Some(slot) = self.sessions.get_mut(&session) {
            slot.login = Some((user.into(), vhost.into()));
        }
        Ok(self.directory.rights(user, vhost))
    }

    /// One more channel on the session.
    ///
    /// # Errors
    /// `NotAllowed` with RabbitMQ's text.
    pub fn check_channels(&self, session: usize) -> Result<()> {
        let login = self.sessions.get(&session).and_then(|s| s.login.as_ref());
        let Some((user, _)) = login else {
            return Ok(());
        };
        let limit = self
            .directory
            .limit(LimitOf::User, user, LimitName::MaxChannels);
        let Some(limit) = limit else {
            return Ok(());
        };
        let open = self.sessions.values().filter(|other| {
            let login = other.login.as_ref();
            login.is_some_and(|(other, _)| other == user)
        });
        if (open.map(|s| s.channels.len() as u64).sum::<u64>()) < limit {
            return Ok(());
        }
        let detail = format!(
            "number of channels opened for user '{user}' has reached the maximum allowed user \
             limit of ({limit})"
        );
        Err(Error::NotAllowed {
            noun: Noun::User,
            name: user.to_string(),
            detail,
        })
    }

    /// One more queue in the vhost.
    ///
    /// # Errors
    /// `PreconditionFailed` with RabbitMQ's text.
    pub(crate) fn check_queues(&self, vhost: &str, queue: &str) -> Result<()> {
        let limit = self
            .directory
            .limit(LimitOf::Vhost, vhost, LimitName::MaxQueues);
        let known = self.vhosts.get(vhost).map_or(0, |names| names.queues.len());
        match limit {
            Some(limit) if known as u64 >= limit => Err(Error::PreconditionFailed {
                noun: Noun::Queue,
                name: queue.to_owned(),
                detail: format!(
                    "cannot declare queue '{queue}': queue limit in vhost '{vhost}' ({limit}) is \
                     reached"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The limit, when the connections that count have reached it.
    fn reached(
        &self,
        (of, subject, name): (LimitOf, &str, LimitName),
        counts: impl Fn(&str, &str) -> bool,
    ) -> Option<u64> {
        let limit = self.directory.limit(of, subject, name)?;
        let logins = self.sessions.values().filter_map(|s| s.login.as_ref());
        let open = logins.filter(|(user, vhost)| counts(user, vhost)).count();
        (open as u64 >= limit).then_some(limit)
    }

    /// All connections that are open, by name.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        let open = self.sessions.values().filter_map(|session| {
            let (user, vhost) = session.login.clone()?;
            Some(ConnectionStatus {
                name: session.connection.clone(),
                user,
                vhost,
                channels: session.channels.len() as u64,
                unacked: session.unacked(),
            })
        });
        let mut all: Vec<ConnectionStatus> = open.collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Ends the connections of a name, or all, with RabbitMQ's code for it. Answers how many.
    pub fn close_connections(&mut self, name: Option<&str>, reason: &str) -> usize {
        let chosen = self.sessions.iter().filter(|(_, session)| {
            session.login.is_some() && name.is_none_or(|name| *session.connection == *name)
        });
        let ids: Vec<usize> = chosen.map(|(id, _)| *id).collect();
        for id in &ids {
            let text = reason.to_owned();
            self.send(*id, Out::Close { code: FORCED, text });
        }
        ids.len()
    }

    /// Ends connections by (user, vhost), with RabbitMQ's code for it.
    pub(crate) fn close_sessions(&mut self, text: &str, which: impl Fn(&str, &str) -> bool) {
        let chosen = self.sessions.iter().filter(|(_, session)| {
            let login = session.login.as_ref();
            login.is_some_and(|(user, vhost)| which(user, vhost))
        });
        let ids: Vec<usize> = chosen.map(|(id, _)| *id).collect();
        for id in ids {
            let text = text.to_owned();
            self.send(id, Out::Close { code: FORCED, text });
        }
    }
}
