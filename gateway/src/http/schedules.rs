//! The schedules as they stand.
//!
//! Never: changes one; the configuration file is their only source.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::login::Login;
use super::problem::Document;

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

/// All of them.
#[derive(Serialize, ToSchema)]
pub(super) struct Schedules {
    schedules: Vec<Schedule>,
}

/// Lists the schedules of the vhosts that the user may use.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    responses((status = 200, body = Schedules), (status = 401, body = Document))
)]
pub(super) async fn list(State(app): State<App>, login: Login) -> Json<Schedules> {
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let statuses = app.ticker.statuses().into_iter();
    let allowed = statuses.filter(|status| login.authorize(&app, &status.vhost).is_ok());
    let schedules = allowed.map(|status| Schedule {
        next: text(status.next_at),
        last: text(status.last_at),
        name: status.name,
        cron: status.cron,
        zone: status.zone,
        vhost: status.vhost,
        exchange: status.exchange,
        routing_key: status.routing_key,
    });
    Json(Schedules {
        schedules: schedules.collect(),
    })
}
