//! `POST /v1/queues/{queue}/messages:receive`: messages for workers without AMQP.
//!
//! Keeps: a request that waits is a consumer like any other, and sleeps until it is told; one that
//! is given up gives back what was on its way to it.
//! In: the router.  Out: `Store::receive`; `leases` settles what was received.

use std::time::Duration;

use axum::Json;
use serde::{Deserialize, Serialize};
use store::access::Right;
use store::shard::receive::Leased;
use store::topology::arguments::LEASE_MAX_MS;
use utoipa::ToSchema;

use super::App;
use super::jobs::instant;
use super::message::Content;
use super::number;
use super::preference::WAIT_MAX;
use super::problem::{Document, Problem, Refused};
use super::queues::{About, Given, Place, asked};

/// Messages received at a time: beyond, a request's own cost is small against theirs. A batch ends
/// at a megabyte, too.
const RECEIVE_MAX: u64 = 100;
const WAIT_MAX_MS: u64 = WAIT_MAX.as_secs() * 1_000;

/// What to receive.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Receive {
    /// Messages, at most; 1 to 100.
    #[serde(deserialize_with = "number::whole::<_, _, 1, RECEIVE_MAX>")]
    max: u32,
    /// How long to wait for the first, ms; 0 to 60000.
    #[serde(deserialize_with = "number::whole::<_, _, 0, WAIT_MAX_MS>")]
    wait_ms: u64,
    /// Until when each must be settled, ms from its delivery; 1 to 43200000. When not given: what
    /// the queue says, and 30000 where it says nothing.
    #[serde(deserialize_with = "number::maybe::<_, _, 1, LEASE_MAX_MS>")]
    lease_ms: Option<u64>,
}

impl Default for Receive {
    fn default() -> Self {
        Self {
            max: 1,
            wait_ms: 0,
            lease_ms: None,
        }
    }
}

/// Messages, in order; none at the end of the wait.
#[derive(Serialize, ToSchema)]
pub(super) struct Received {
    messages: Vec<ReceivedMessage>,
}

/// A message on lease.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceivedMessage {
    /// Settle it by this: `/v1/queues/{queue}/leases/{lease}/ack`.
    lease: String,
    /// RFC 3339, UTC. After it the message belongs to its next attempt.
    lease_until: Option<String>,
    /// This delivery's number, from 1.
    attempt: u32,
    /// It may have been delivered before.
    redelivered: bool,
    #[serde(flatten)]
    content: Content,
}

impl ReceivedMessage {
    fn new(app: &App, leased: &Leased) -> Self {
        let (block, index) = (&leased.piece.block, leased.piece.index(0));
        Self {
            lease: app.leases.name(leased.key),
            lease_until: instant(Some(leased.until)),
            attempt: leased.attempt,
            redelivered: leased.redelivered,
            content: Content::new(block, index, usize::MAX),
        }
    }
}

/// Receives messages, each on lease until it is settled. Waits for the first as long as asked.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/messages:receive",
    params(("queue" = String, Path, description = "Percent-encoded"), Place),
    request_body = Receive,
    responses(
        (status = 200, body = Received),
        Refused,
        (status = 409, body = Document),
        (status = 503, body = Document),
    )
)]
pub(super) async fn receive(
    about: About<Place>,
    body: Given<Receive>,
) -> Result<Json<Received>, Problem> {
    let named = about.named(Right::Read)?;
    let app = &named.app;
    let wish = asked(body)?;
    let wait = Duration::from_millis(wish.wait_ms);
    let receiving = app
        .store
        .receive(named.both(), (wish.max, wish.lease_ms), wait);
    let messages = tokio::select! {
        received = receiving => received?,
        () = app.stop.cancelled() => Vec::new(),
    };
    let view = |leased| ReceivedMessage::new(app, leased);
    Ok(Json(Received {
        messages: messages.iter().map(view).collect(),
    }))
}
