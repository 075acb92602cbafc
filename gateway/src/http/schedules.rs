//! The schedules as they stand.
//!
//! Never: changes one; the configuration file is their only source.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use jiff::Timestamp;
use scheduler::ticker::Status;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::login::Login;
use super::page::{self, List};
use super::problem::{Document, Problem};
use super::queues::given;

/// One schedule.
#[derive(Serialize, ToSchema)]
pub(super) struct Schedule {
    name: String,
    cron: String,
    zone: String,
    vhost: String,
    /// Empty for the default exchange.
    exchange: String,
    routing_key: String,
    /// The next nominal time, RFC 3339; null when the schedule is over.
    next: Option<String>,
    /// The newest nominal time that fired since the server started.
    last: Option<String>,
}

impl Schedule {
    fn new(status: Status) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            next: text(status.next_at),
            last: text(status.last_at),
            name: status.name,
            cron: status.cron,
            zone: status.zone,
            vhost: status.vhost,
            exchange: status.exchange,
            routing_key: status.routing_key,
        }
    }
}

/// One page of them.
#[derive(Serialize, ToSchema)]
pub(super) struct Schedules {
    schedules: Vec<Schedule>,
    /// Give it as `cursor` to see the next ones; null at the end.
    next_cursor: Option<String>,
}

/// Lists the schedules of the vhosts that the user may use, by their names.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    params(page::Wanted),
    responses(
        (status = 200, body = Schedules),
        (status = 400, body = Document),
        (status = 401, body = Document),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    login: Login,
    wanted: Result<Query<page::Wanted>, QueryRejection>,
) -> Result<Json<Schedules>, Problem> {
    let (after, limit) = given(wanted)?.of(List::Schedules)?;
    let mut statuses = app.ticker.statuses();
    statuses.retain(|status| {
        let is_later = after.as_ref().is_none_or(|after| status.name > *after);
        is_later && login.authorize(&app, &status.vhost).is_ok()
    });
    statuses.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let place = |status: &Status| status.name.clone();
    let next_cursor = page::cut(List::Schedules, &mut statuses, limit, place);
    Ok(Json(Schedules {
        schedules: statuses.into_iter().map(Schedule::new).collect(),
        next_cursor,
    }))
}
