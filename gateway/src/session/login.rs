//! From the first credentials to the open vhost, and a secret renewed later.
//!
//! Keeps: a refusal says the same for an unknown user, a wrong secret and a stranger's address.
//! In: `Session::control`, `Session::method`.

use amqp::sasl::Credentials;

use super::*;

impl Session {
    pub(super) fn login(&mut self, mechanism: &str, response: &[u8]) {
        let offered = &self.shared.options(self.peer.tls).mechanisms;
        let shown = match sasl::credentials(mechanism, response, offered) {
            Ok(shown) => shown,
            Err(close) => return self.conn.close(now(), &close),
        };
        let loopback = self.peer.is_loopback();
        let (user, right) = match shown {
            Credentials::Password { user, password } => {
                let right = self.store.check_password(&user, &password, loopback);
                (user, right)
            }
            Credentials::External => self.without_password(self.peer.certified.clone()),
            Credentials::Anonymous => {
                self.without_password(self.shared.auth.anonymous_user.clone())
            }
        };
        if right {
            self.user = user;
            return self.conn.accept_login();
        }
        let peer = self.peer.address.map(tracing::field::display);
        tracing::warn!(user, peer, mechanism, "login refused");
        self.conn.refuse_login(now(), mechanism);
    }

    fn without_password(&self, user: Option<String>) -> (String, bool) {
        let user = user.unwrap_or_default();
        let right = self.store.check_user(&user, self.peer.is_loopback());
        (user, right)
    }

    /// connection.update-secret. A user of the store has nothing to renew: whatever comes is
    /// taken, as by RabbitMQ, and the right to be here does not hang on it.
    pub(super) fn renew(&mut self) {
        let ok = connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {});
        self.conn.reply(0, &AMQPClass::Connection(ok));
    }

    pub(super) fn open(&mut self, vhost: &str) {
        if let Err(refused) = self.enter(vhost) {
            self.clean(true);
            return self.conn.close(now(), &refused);
        }
        self.vhost = vhost.into();
        self.door = Door::new(&self.store, &self.user, vhost);
        let name = self.peer.connection_name();
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
