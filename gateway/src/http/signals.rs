//! `/v1/queues/{queue}/signals`: depths, ages, growth, dead letters, and the keys that stand.
//!
//! Keeps: ages in ms from one instant, so that they can be compared; a list of keys that is cut
//! short says so.
//! Never: computes a signal; the store does.
//! In: the router.
#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies parameter types"
)]

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use store::access::Right;
use store::model::Micros;
use store::signals::{Head, KEYS_MAX, Signals};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::jobs::instant;
use super::login::Login;
use super::number;
use super::problem::{Problem, Refused};
use super::queues::{Named, given};

const KEYS_DEFAULT: usize = 10;

/// Which signals.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `/` when not given.
    vhost: Option<String>,
    /// How many keys to show, those with the oldest heads: 1 to 100; 10 when not given.
    #[serde(
        default,
        deserialize_with = "number::asked::<_, _, 1, { KEYS_MAX as u64 }>"
    )]
    keys: Option<usize>,
}

/// The signals of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct SignalsView {
    vhost: String,
    queue: String,
    /// The instant from which ages count back, RFC 3339.
    at: Option<String>,
    /// Messages that a consumer could have now.
    ready: u64,
    /// Messages that a consumer has.
    unacked: u64,
    /// Messages in backoff or delayed.
    waiting: u64,
    consumers: u64,
    /// Where its dead go; null when they are dropped.
    dead_letter_queue: Option<String>,
    /// Messages there: 0 before the first.
    dead_letters: Option<u64>,
    growth: GrowthView,
    /// How long the oldest ready message could have been had: since it was accepted, or since its
    /// wait was over. Null when none is ready.
    oldest_ready_ms: Option<i64>,
    /// How long ago the oldest delivery went out that is not settled, to the second.
    oldest_unacked_ms: Option<i64>,
    /// The keys with the oldest heads, oldest first; null without order by key.
    keys: Option<Vec<KeyView>>,
    /// There are more keys or messages than were looked at: `behind` counts at least.
    partial: bool,
}

/// Growth of ready, unacked and waiting messages together, messages a second; negative while they
/// become fewer.
#[derive(Serialize, ToSchema)]
pub(super) struct GrowthView {
    /// Over the last minute.
    #[serde(rename = "1m")]
    minute: f64,
    /// Over the last five minutes.
    #[serde(rename = "5m")]
    five_minutes: f64,
}

/// A key and the message at its head.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyView {
    /// Its text or digits; null when the message could not be read.
    key: Option<String>,
    /// The head's place in the queue.
    seq: u64,
    /// Of the head: `ready`, `out` with a consumer, or in `backoff`.
    state: &'static str,
    /// How long ago the queue accepted the head.
    head_age_ms: Option<i64>,
    /// Messages of the key behind it.
    behind: u64,
}

impl SignalsView {
    fn new(named: Named, found: Signals) -> Self {
        let age = |at: Option<Micros>| at.map(|at| ms_between(at, found.at));
        let view = |head: Head| KeyView {
            key: head.key,
            seq: head.seq,
            state: head.state.as_str(),
            head_age_ms: age(head.accepted_at),
            behind: head.behind,
        };
        let (oldest_ready_ms, oldest_unacked_ms) =
            (age(found.oldest_ready_at), age(found.oldest_unacked_at));
        let partial = found.keys.as_ref().is_some_and(|keys| keys.partial);
        Self {
            vhost: named.vhost,
            queue: named.queue,
            at: instant(Some(found.at)),
            ready: found.ready,
            unacked: found.unacked,
            waiting: found.waiting,
            consumers: found.consumers,
            dead_letter_queue: found.dead_letter_queue,
            dead_letters: found.dead_letters,
            growth: GrowthView {
                minute: rounded(found.growth.minute()),
                five_minutes: rounded(found.growth.five_minutes()),
            },
            oldest_ready_ms,
            oldest_unacked_ms,
            keys: found
                .keys
                .map(|keys| keys.heads.into_iter().map(view).collect()),
            partial,
        }
    }
}

/// Never negative: the clock may have been set back, or a delivery went out in this second.
fn ms_between(from: Micros, to: Micros) -> i64 {
    (to - from).max(0) / 1000
}

/// To the thousandth, and no negative zero.
fn rounded(rate: f64) -> f64 {
    (rate * 1e3).round() / 1e3 + 0.0
}

/// Tells how a queue is: what stands in it, for how long, and whether it becomes more.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}/signals",
    params(("queue" = String, Path, description = "Percent-encoded"), Wanted),
    responses(
        (status = 200, body = SignalsView),
        Refused,
    )
)]
pub(super) async fn read(
    State(app): State<App>,
    login: Login,
    queue: Result<Path<String>, PathRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<SignalsView>, Problem> {
    let wanted = given(wanted)?;
    let named = Named::new(app, login, queue, wanted.vhost, Right::Read)?;
    let keys = wanted.keys.unwrap_or(KEYS_DEFAULT);
    let found = named.app.store.signals(named.both(), keys).await?;
    Ok(Json(SignalsView::new(named, found)))
}
