//! From the first credentials to the open vhost, and a secret renewed later.
//!
//! Keeps: a refusal says the same for an unknown user, a wrong secret and a stranger's address.
//! In: `Session::control`, `Session::method`.

use amqp::sasl::Credentials;

use super::*;

/// What a user showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Proof {
    #[default]
    None,
    Password,
    /// A certificate, or nothing where ANONYMOUS is offered: there is no secret to renew.
    Other,
}

impl Session {
    pub(super) fn login(&mut self, mechanism: &str, response: &[u8]) {
        let offered = &self.shared.options(self.peer.tls).mechanisms;
        let shown = match sasl::credentials(mechanism, response, offered) {
            Ok(shown) => shown,
            Err(close) => return self.conn.close(now(), &close),
        };
        let loopback = self.peer.is_loopback();
        let (user, proof, right) = match shown {
            Credentials::Password { user, password } => {
                let right = self.store.check_password(&user, &password, loopback);
                (user, Proof::Password, right)
            }
            Credentials::External => self.without_password(self.peer.certified.clone()),
            Credentials::Anonymous => {
                self.without_password(self.shared.auth.anonymous_user.clone())
            }
        };
        if right {
            (self.user, self.proof) = (user, proof);
            return self.conn.accept_login();
        }
        let peer = self.peer.address.map(tracing::field::display);
        tracing::warn!(user, peer, mechanism, "login refused");
        self.conn.refuse_login(now(), mechanism);
    }

    fn without_password(&self, user: Option<String>) -> (String, Proof, bool) {
        let user = user.unwrap_or_default();
        let right = self.store.check_user(&user, self.peer.is_loopback());
        (user, Proof::Other, right)
    }

    /// connection.update-secret: as in RabbitMQ the connection goes on or ends.
    pub(super) fn renew(&mut self, secret: &[u8]) -> Result<(), Close> {
        let secret = String::from_utf8_lossy(secret);
        let loopback = self.peer.is_loopback();
        if self.proof == Proof::Password
            && !self.store.check_password(&self.user, &secret, loopback)
        {
            tracing::warn!(user = self.user, "a new secret was refused");
            let text = "New secret was refused by one of the backends";
            return Err(Close::connection(530, text, (10, 70)));
        }
        let ok = connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {});
        self.conn.reply(0, &AMQPClass::Connection(ok));
        Ok(())
    }

    pub(super) fn open(&mut self, vhost: &str) {
        if let Err(refused) = self.enter(vhost) {
            self.clean(true);
            return self.conn.close(now(), &refused);
        }
        self.vhost = vhost.into();
        self.door = Door::new(&self.store, &self.user, vhost);
        let name = format!("connection {}", self.id);
        self.store.lock().name_session(self.id, &name);
        self.conn.accept_open();
    }

    fn enter(&mut self, vhost: &str) -> Result<(), Close> {
        let cause = (10, 40);
        let place = self.shared.enter().map_err(|limit| {
            let text = format!("connection refused: node connection limit ({limit}) is reached");
            Close::connection(530, text, cause)
        })?;
        let entered = self.store.lock().enter(self.id, &self.user, vhost);
        entered.map_err(|error| reply::close(&error, cause))?;
        self.place = Some(place);
        Ok(())
    }
}
