//! Moves of messages between queues: begun, watched, cancelled.
//!
//! Keeps: `202` only after the move is on disk, so that a crash does not forget it; whoever moves
//! may read the one queue and publish to the other.
//! In: the router.  Out: `Store::redrive`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use store::access::Right;
use store::model::{RedriveKind, RedriveRow};
use store::operator::{Redrive, Which};
use store::rules::filter::Filter;
use utoipa::ToSchema;

use super::App;
use super::jobs::instant;
use super::login::Login;
use super::number;
use super::page::{self, List};
use super::problem::{Document, Kind, Problem, Refused};
use super::queues::{About, Given, Meant, Named, Place, asked, given};

/// What to move, where to, how fast.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Move {
    filter: Meant,
    /// A queue; when not given, each message goes to the queue in which it died.
    to: Option<String>,
    /// Messages a second; as fast as they go when not given.
    #[serde(deserialize_with = "number::rate")]
    rate: Option<f64>,
    /// Count, and move nothing.
    dry_run: bool,
}

/// A move, or a replay, as far as it is.
#[derive(Serialize, ToSchema)]
pub(super) struct RedriveView {
    id: String,
    /// `redrive`, or `replay` of settled messages.
    kind: &'static str,
    vhost: String,
    from: String,
    /// Null: each message goes to the queue in which it died.
    to: Option<String>,
    filter: Meant,
    rate: Option<f64>,
    /// running, done, cancelled or failed.
    state: &'static str,
    moved: u64,
    /// Meant, but the queue in which they died is gone: they stay.
    skipped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    created_at: Option<String>,
    ended_at: Option<String>,
}

impl RedriveView {
    fn new(row: RedriveRow) -> Self {
        let filter = Filter::decode(&row.filter).unwrap_or_default();
        Self {
            id: row.id.to_string(),
            kind: match row.kind {
                RedriveKind::Ready => "redrive",
                RedriveKind::Retained => "replay",
            },
            vhost: row.vhost.to_string(),
            from: row.source.to_string(),
            to: row.target.map(|name| name.to_string()),
            filter: Meant::of(filter),
            rate: row.rate,
            state: row.state.as_str(),
            moved: row.moved,
            skipped: row.skipped,
            detail: (!row.detail.is_empty()).then_some(row.detail),
            created_at: instant(Some(row.created_at)),
            ended_at: instant(row.ended_at),
        }
    }
}

/// How many would be moved.
#[derive(Serialize, ToSchema)]
pub(super) struct Counted {
    count: u64,
    dry_run: bool,
}

impl Counted {
    pub(super) fn new(count: u64) -> Self {
        Self {
            count,
            dry_run: true,
        }
    }
}

/// One page of the moves and replays that run, or ended within a day.
#[derive(Serialize, ToSchema)]
pub(super) struct Redrives {
    redrives: Vec<RedriveView>,
    /// Give it as `cursor` to see later ones; null at the end.
    next_cursor: Option<String>,
}

/// Moves the dead messages of a queue back to it, or elsewhere. 202, or with `dry_run` a count.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/dead:redrive",
    params(("queue" = String, Path, description = "Where they died, percent-encoded"), Place),
    request_body = Move,
    responses(
        (status = 200, body = Counted),
        (status = 202, body = RedriveView),
        Refused,
    )
)]
pub(super) async fn redrive(about: About<Place>, body: Given<Move>) -> Result<Response, Problem> {
    let mut ask = asked(body)?;
    let named = about.named(Right::Read)?;
    let named = named.dead(&mut ask.filter.died_in)?;
    begin(named, ask).await
}

/// Moves messages from a queue to another, or back to where they died. 202, or with `dry_run` a
/// count.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/messages:move",
    params(("queue" = String, Path, description = "Percent-encoded"), Place),
    request_body = Move,
    responses(
        (status = 200, body = Counted),
        (status = 202, body = RedriveView),
        Refused,
    )
)]
pub(super) async fn messages(about: About<Place>, body: Given<Move>) -> Result<Response, Problem> {
    let ask = asked(body)?;
    begin(about.named(Right::Read)?, ask).await
}

async fn begin(from: Named, ask: Move) -> Result<Response, Problem> {
    let (app, filter) = sound(&from, ask.filter, ask.to.as_deref())?;
    if ask.dry_run {
        let counted = app
            .store
            .purge_matching(from.both(), Which::Ready, &filter, true);
        return Ok(Json(Counted::new(counted.await?)).into_response());
    }
    let begun = app.store.redrive(Redrive {
        vhost: from.vhost,
        source: from.queue,
        target: ask.to,
        filter,
        rate: ask.rate,
        ..Redrive::default()
    });
    Ok(accepted(begun.await?))
}

/// What a move or a replay must hold before it is counted or begun.
///
/// # Errors
/// 403 without the right to publish; 400 for a bad filter; 404 when the queue that is to get the
/// messages is not there.
pub(super) fn sound(
    from: &Named,
    filter: Meant,
    to: Option<&str>,
) -> Result<(App, Filter), Problem> {
    let (app, vhost) = (&from.app, &from.vhost);
    // A queue is reached through the default exchange, as by any publisher.
    from.login.authorize_publish(app, vhost, "")?;
    let filter = filter.filter()?;
    match to.filter(|name| !app.store.has_queue(vhost, name)) {
        Some(name) => {
            let detail = format!("to: no queue '{name}' in vhost '{vhost}'");
            Err(Problem::new(Kind::UnknownTarget, detail))
        }
        None => Ok((app.clone(), filter)),
    }
}

/// What has begun, and where it can be watched.
pub(super) fn accepted(row: RedriveRow) -> Response {
    let view = RedriveView::new(row);
    let location = format!("/v1/redrives/{}", view.id);
    let mut response = (StatusCode::ACCEPTED, Json(view)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Lists moves and replays, oldest first.
#[utoipa::path(
    get,
    path = "/v1/redrives",
    params(page::Wanted),
    responses(
        (status = 200, body = Redrives),
        (status = 400, body = Document),
        (status = 401, body = Document),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    login: Login,
    wanted: Result<Query<page::Wanted>, QueryRejection>,
) -> Result<Json<Redrives>, Problem> {
    let (mut after, limit) = given(wanted)?.of(List::Redrives)?;
    let mut rows: Vec<RedriveRow> = Vec::new();
    // Those of other users' vhosts fill no page.
    while rows.len() <= limit {
        let known = app.store.redrives(after.as_deref(), limit + 1);
        let Some(last) = known.last() else {
            break;
        };
        after = Some(last.id.to_string());
        let is_allowed = |row: &RedriveRow| login.authorize(&app, &row.vhost).is_ok();
        rows.extend(known.into_iter().filter(is_allowed));
    }
    let place = |row: &RedriveRow| row.id.to_string();
    let next_cursor = page::cut(List::Redrives, &mut rows, limit, place);
    Ok(Json(Redrives {
        redrives: rows.into_iter().map(RedriveView::new).collect(),
        next_cursor,
    }))
}

/// How far a move is.
#[utoipa::path(
    get,
    path = "/v1/redrives/{id}",
    params(("id" = String, Path, description = "The move's id")),
    responses(
        (status = 200, body = RedriveView),
        (status = 401, body = Document),
        (status = 404, body = Document),
    )
)]
pub(super) async fn read(
    State(app): State<App>,
    login: Login,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RedriveView>, Problem> {
    Ok(Json(RedriveView::new(known(&app, &login, id)?)))
}

/// Ends a move; what was moved stays where it is.
#[utoipa::path(
    delete,
    path = "/v1/redrives/{id}",
    params(("id" = String, Path, description = "The move's id")),
    responses(
        (status = 200, body = RedriveView),
        (status = 401, body = Document),
        (status = 404, body = Document),
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    login: Login,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RedriveView>, Problem> {
    let row = known(&app, &login, id)?;
    app.store.cancel_redrive(&row.id).await?;
    let row = app.store.redrive_of(&row.id).unwrap_or(row);
    Ok(Json(RedriveView::new(row)))
}

fn known(
    app: &App,
    login: &Login,
    id: Result<Path<String>, PathRejection>,
) -> Result<RedriveRow, Problem> {
    let Path(id) = id.map_err(|error| Problem::new(Kind::Validation, error.body_text()))?;
    let row = app.store.redrive_of(&id);
    let row = row.filter(|row| login.authorize(app, &row.vhost).is_ok());
    row.ok_or_else(|| Problem::new(Kind::NotFound, format!("no redrive '{id}'")))
}
