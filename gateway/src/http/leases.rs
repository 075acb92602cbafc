//! `/v1/queues/{queue}/leases/{lease}`: settling what was received.
//!
//! Keeps: a lease is ended once, by whoever knows its name, and on disk when that is answered; a
//! restart ends all of them.
//! In: the router.  Out: `Store::end_lease`, `Store::extend_lease`.
#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies parameter types"
)]

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::access::Right;
use store::clock;
use store::model::QueueId;
use store::shard::receive::{Ending, LeaseKey};
use store::topology::arguments::LEASE_MAX_MS;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::jobs::instant;
use super::login::Login;
use super::number;
use super::problem::{Document, Kind, Problem, Refused};
use super::queues::{Given, Named, Place, asked, given};

/// Of a reason and of its detail, bytes; the store keeps less of both together.
const WORDS_MAX: usize = 4096;
/// Channel and tag in a lease's name.
const PLACE_BYTES: usize = 10;
/// What makes a name hard to guess.
const SEAL_BYTES: usize = 16;

/// Makes names of leases that nobody can guess, and knows them again until the process ends.
#[derive(Clone)]
pub struct LeaseNames(Arc<[u8; 32]>);

impl Default for LeaseNames {
    fn default() -> Self {
        let mut secret = [0; 32];
        let (left, right) = secret.split_at_mut(16);
        left.copy_from_slice(&clock::random_bytes());
        right.copy_from_slice(&clock::random_bytes());
        Self(Arc::new(secret))
    }
}

impl LeaseNames {
    pub(super) fn name(&self, key: LeaseKey) -> String {
        let mut bytes = Vec::with_capacity(PLACE_BYTES + SEAL_BYTES);
        bytes.extend(key.channel.to_be_bytes());
        bytes.extend(key.tag.to_be_bytes());
        bytes.extend(self.seal(key));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The lease of that name in this queue; `None`: no name of ours.
    fn find(&self, queue: QueueId, name: &str) -> Option<LeaseKey> {
        let bytes = URL_SAFE_NO_PAD.decode(name).ok()?;
        let (place, seal) = bytes.split_at_checked(PLACE_BYTES)?;
        let (channel, tag) = place.split_at(2);
        let key = LeaseKey {
            queue,
            channel: u16::from_be_bytes(channel.try_into().ok()?),
            tag: u64::from_be_bytes(tag.try_into().ok()?),
        };
        let seal: [u8; SEAL_BYTES] = seal.try_into().ok()?;
        let pairs = seal.iter().zip(self.seal(key));
        // All bytes are looked at, so that time tells nothing.
        let differs = pairs.fold(0, |differs, (a, b)| differs | (a ^ b));
        (differs == 0).then_some(key)
    }

    /// Every input has the same length, so a plain hash behind a secret is a sound one.
    fn seal(&self, key: LeaseKey) -> [u8; SEAL_BYTES] {
        let mut hash = Sha256::new();
        hash.update(*self.0);
        hash.update(key.queue.0.to_be_bytes());
        hash.update(key.channel.to_be_bytes());
        hash.update(key.tag.to_be_bytes());
        let whole = hash.finalize();
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&whole[..SEAL_BYTES]);
        seal
    }
}

fn ended() -> Problem {
    let detail = "it was settled, its time is over, or the server was started anew; the message \
                  belongs to another attempt, or is done";
    Problem::new(Kind::LeaseEnded, detail)
}

/// Which lease, in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
struct Names {
    /// Percent-encoded.
    #[expect(dead_code, reason = "for the description")]
    queue: String,
    /// From `messages:receive`.
    #[expect(dead_code, reason = "for the description")]
    lease: String,
}

/// A lease that a request names, and that its user may end.
pub(super) struct Held {
    app: App,
    key: LeaseKey,
}

impl Held {
    fn new(
        (app, login): (App, Login),
        (queue, name): (String, &str),
        place: Result<Query<Place>, QueryRejection>,
    ) -> Result<Self, Problem> {
        let vhost = given(place)?.vhost;
        let named = Named::new(app, login, Ok(Path(queue)), vhost, Right::Read)?;
        let app = &named.app;
        let id = app.store.lock().queue(0, &named.vhost, &named.queue)?;
        let key = app.leases.find(id, name).ok_or_else(ended)?;
        Ok(Self {
            app: named.app,
            key,
        })
    }

    async fn end(self, ending: Ending<'_>) -> Result<StatusCode, Problem> {
        match self.app.store.end_lease(self.key, ending).await? {
            true => Ok(StatusCode::NO_CONTENT),
            false => Err(ended()),
        }
    }
}

impl FromRequestParts<App> for Held {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let login = Login::from_request_parts(parts, app).await?;
        let path = Path::from_request_parts(parts, app).await;
        let Path((queue, name)): Path<(String, String)> = path.map_err(invalid)?;
        let place = Query::from_request_parts(parts, app).await;
        Self::new((app.clone(), login), (queue, &name), place)
    }
}

fn invalid(error: PathRejection) -> Problem {
    Problem::new(Kind::Validation, error.body_text())
}

/// The work is done: the message is settled.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/leases/{lease}/ack",
    params(Names, Place),
    responses(
        (status = 204, description = "Settled, and on disk"),
        Refused,
        (status = 410, body = Document),
    )
)]
pub(super) async fn ack(held: Held) -> Result<StatusCode, Problem> {
    held.end(Ending::Done).await
}

/// Why an attempt failed.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Failure {
    /// In a word or two; up to 4096 bytes.
    reason: Option<String>,
    /// What helps whoever looks at the dead letter; up to 4096 bytes.
    detail: Option<String>,
}

impl Failure {
    fn words(self) -> Result<String, Problem> {
        for (name, text) in [("reason", &self.reason), ("detail", &self.detail)] {
            let bytes = text.as_ref().map_or(0, String::len);
            if bytes > WORDS_MAX {
                let detail = format!("{name}: {bytes} bytes are more than {WORDS_MAX}");
                return Err(Problem::new(Kind::Validation, detail));
            }
        }
        let words = [self.reason, self.detail].into_iter().flatten();
        Ok(words.collect::<Vec<_>>().join(": "))
    }
}

/// The work failed: on a work queue it is tried again after a while, or is a dead letter after the
/// last attempt; elsewhere it is rejected.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/leases/{lease}/fail",
    params(Names, Place),
    request_body = Failure,
    responses(
        (status = 204, description = "Recorded, and on disk"),
        Refused,
        (status = 410, body = Document),
    )
)]
pub(super) async fn fail(held: Held, body: Given<Failure>) -> Result<StatusCode, Problem> {
    let words = asked(body)?.words()?;
    held.end(Ending::Failed(&words)).await
}

/// The message goes back to its place at once, and this attempt is not counted.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/leases/{lease}/release",
    params(Names, Place),
    responses(
        (status = 204, description = "Returned"),
        Refused,
        (status = 410, body = Document),
    )
)]
pub(super) async fn release(held: Held) -> Result<StatusCode, Problem> {
    held.end(Ending::Released).await
}

/// How much longer.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Extension {
    /// From now on, ms, 1 to 43200000; a whole lease when not given.
    #[serde(deserialize_with = "number::maybe::<_, _, 1, LEASE_MAX_MS>")]
    ms: Option<u64>,
}

/// Until when a lease is now.
#[derive(Serialize, ToSchema)]
pub(super) struct Extended {
    lease_until: Option<String>,
}

/// Gives the lease more time, and never less than it has.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/leases/{lease}/extend",
    params(Names, Place),
    request_body = Extension,
    responses(
        (status = 200, body = Extended),
        Refused,
        (status = 410, body = Document),
    )
)]
pub(super) async fn extend(held: Held, body: Given<Extension>) -> Result<Json<Extended>, Problem> {
    let ms = asked(body)?.ms;
    let until = held
        .app
        .store
        .extend_lease(held.key, ms)
        .ok_or_else(ended)?;
    Ok(Json(Extended {
        lease_until: instant(Some(until)),
    }))
}

/// `leases/{lease}:ack` and the like are the same as `leases/{lease}/ack`.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/leases/{lease}",
    params(
        ("queue" = String, Path, description = "Percent-encoded"),
        ("lease" = String, Path, description = "From `messages:receive`, then `:ack`, `:fail`, `:extend` or `:release`"),
        Place,
    ),
    responses(
        (status = 200, description = "`:extend`", body = Extended),
        (status = 204, description = "The others"),
        Refused,
        (status = 410, body = Document),
    )
)]
pub(super) async fn by_verb(
    State(app): State<App>,
    login: Login,
    path: Result<Path<(String, String)>, PathRejection>,
    place: Result<Query<Place>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Path((queue, named)) = path.map_err(invalid)?;
    let (name, verb) = named.rsplit_once(':').unwrap_or((&named, ""));
    let held = || Held::new((app, login), (queue, name), place);
    match verb {
        "ack" => Ok(ack(held()?).await?.into_response()),
        "release" => Ok(release(held()?).await?.into_response()),
        "fail" => {
            let held = held()?;
            let body = Option::<Json<Failure>>::from_request(request, &()).await;
            Ok(fail(held, body).await?.into_response())
        }
        "extend" => {
            let held = held()?;
            let body = Option::<Json<Extension>>::from_request(request, &()).await;
            Ok(extend(held, body).await?.into_response())
        }
        _ => {
            let detail = format!("a lease knows :ack, :fail, :extend and :release, not ':{verb}'");
            Err(Problem::new(Kind::NotFound, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_again_in_its_queue_and_no_other_is() {
        let (names, others) = (LeaseNames::default(), LeaseNames::default());
        let key = LeaseKey {
            queue: QueueId(7),
            channel: 3,
            tag: 1 << 40,
        };
        let name = names.name(key);
        assert_eq!(names.find(QueueId(7), &name), Some(key));
        assert_eq!(names.find(QueueId(8), &name), None);
        assert_eq!(others.find(QueueId(7), &name), None, "after a restart");
        let next = names.name(LeaseKey {
            tag: key.tag + 1,
            ..key
        });
        assert_ne!(name[14..], next[14..], "the seal differs");
        for wrong in ["", "x", &name[1..], &name.replace(&name[20..22], "__")] {
            assert_eq!(names.find(QueueId(7), wrong), None, "{wrong}");
        }
    }
}
