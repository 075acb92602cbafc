//! Who asks: basic authentication against the broker's users.
//!
//! Keeps: no route below `/v1` runs without a `Login`; `guest` comes from loopback only.
//! Never: tells an unknown user from a wrong password.
//! In: an extractor of the routes.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use store::access::{Resource, Right};

use super::App;
use super::problem::{Kind, Problem};
use crate::access::authorize;
use crate::listen::is_loopback;

/// A user who has shown the right password.
pub(super) struct Login {
    pub(super) user: String,
}

impl Login {
    /// The user may use the vhost, or a refusal that does not tell whether it exists.
    pub(super) fn authorize(&self, app: &App, vhost: &str) -> Result<(), Problem> {
        if app.store.lock().may_open(&self.user, vhost) {
            return Ok(());
        }
        let detail = format!("user '{}' has no access to vhost '{vhost}'", self.user);
        Err(Problem::new(Kind::Forbidden, detail))
    }
}

impl Login {
    /// The user may publish to the exchange, as an AMQP client would need to.
    pub(super) fn authorize_publish(
        &self,
        app: &App,
        vhost: &str,
        exchange: &str,
    ) -> Result<(), Problem> {
        let (who, what) = ((&*self.user, vhost), Resource::Exchange(exchange));
        Ok(authorize(&app.store, who, Right::Write, what)?)
    }
}

impl FromRequestParts<App> for Login {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let refused = |detail: &str| Problem::new(Kind::Unauthorized, detail);
        let given = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let (user, password) = given
            .and_then(credentials)
            .ok_or_else(|| refused("send an Authorization header of type Basic"))?;
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let loopback = peer.is_some_and(|peer| is_loopback(peer.ip()));
        if !app.store.check_password(&user, &password, loopback) {
            return Err(refused(
                "user or password is wrong, or guest is not on this machine",
            ));
        }
        Ok(Self { user })
    }
}

fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_basic_credentials_count() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(
            credentials("Basic Z3Vlc3Q6Z3Vlc3Q="),
            pair("guest", "guest")
        );
        assert_eq!(credentials("basic Z3Vlc3Q6YTpi"), pair("guest", "a:b"));
        for wrong in [
            "Bearer Z3Vlc3Q6Z3Vlc3Q=",
            "Basic",
            "Basic ???",
            "Basic Z3Vlc3Q=",
        ] {
            assert_eq!(credentials(wrong), None, "{wrong}");
        }
    }
}
