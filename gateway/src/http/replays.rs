//! Settled messages that a queue keeps: looked at, and published again.
//!
//! Keeps: `202` only after the order is on disk, so that a crash does not forget it; whoever
//! replays may read the one queue and publish to the other.
//! Never: the order's later life; that is a redrive's (`redrives`).
//! In: the router.  Out: `Store::redrive`, `Store::peek_retained`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::access::Right;
use store::model::RedriveKind;
use store::operator::Redrive;
use utoipa::ToSchema;

use super::number;
use super::problem::{Document, Kind, Problem, Refused};
use super::queues::{About, Given, Meant, MessagePage, Place, Wanted, asked};
use super::redrives::{Counted, RedriveView, accepted, sound};

/// What to publish again, where to, how fast.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Replay {
    filter: Meant,
    /// The first place in the queue that is meant; from the oldest on when not given.
    #[serde(deserialize_with = "number::maybe::<_, _, 0, { u64::MAX }>")]
    from_seq: Option<u64>,
    /// The last place that is meant; what is settled already when not given.
    #[serde(deserialize_with = "number::maybe::<_, _, 0, { u64::MAX }>")]
    to_seq: Option<u64>,
    /// A queue; the same one when not given.
    to: Option<String>,
    /// Messages a second; as fast as they go when not given.
    #[serde(deserialize_with = "number::rate")]
    rate: Option<f64>,
    /// Count, and publish nothing.
    dry_run: bool,
}

/// Publishes settled messages again. 202, or with `dry_run` a count.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/replay",
    params(("queue" = String, Path, description = "Percent-encoded"), Place),
    request_body = Replay,
    responses(
        (status = 200, body = Counted),
        (status = 202, body = RedriveView),
        Refused,
        (status = 409, body = Document),
    )
)]
pub(super) async fn replay(about: About<Place>, body: Given<Replay>) -> Result<Response, Problem> {
    let ask: Replay = asked(body)?;
    let named = about.named(Right::Read)?;
    let (app, filter) = sound(&named, ask.filter, ask.to.as_deref())?;
    let from = ask.from_seq.unwrap_or(0);
    if let Some(to) = ask.to_seq.filter(|to| *to < from) {
        let detail = format!("to_seq: {to} is less than from_seq, which is {from}");
        return Err(Problem::new(Kind::Validation, detail));
    }
    let until = ask.to_seq.map(|seq| seq.saturating_add(1));
    if ask.dry_run {
        let range = (from, until.unwrap_or(u64::MAX));
        let counted = app.store.count_retained(named.both(), &filter, range);
        return Ok(Json(Counted::new(counted.await?)).into_response());
    }
    let begun = app.store.redrive(Redrive {
        kind: RedriveKind::Retained,
        vhost: named.vhost,
        source: named.queue,
        target: ask.to,
        filter,
        rate: ask.rate,
        from,
        until,
    });
    Ok(accepted(begun.await?))
}

/// Shows settled messages that the queue keeps.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}/retained",
    params(("queue" = String, Path, description = "Percent-encoded"), Wanted),
    responses(
        (status = 200, body = MessagePage),
        Refused,
    )
)]
pub(super) async fn retained(about: About<Wanted>) -> Result<Json<MessagePage>, Problem> {
    let (named, mut wanted) = about.wanted()?;
    if let Some(state) = wanted.state.take() {
        let detail = format!("state: '{state}' is not allowed: all of these are settled");
        return Err(Problem::new(Kind::Validation, detail));
    }
    let (_, filter, from, limit, body_bytes) = wanted.split()?;
    let range = (from, u64::MAX);
    let store = &named.app.store;
    let page = store.peek_retained(named.both(), &filter, range, limit);
    Ok(Json(MessagePage::new(page.await?, body_bytes)))
}
