//! The HTTP side: its routes as a table of contents.
//!
//! Keeps: every answer that is no success is problem+json, also for unknown paths and methods.
//! Never: a rule of jobs (the store's) or of time (the scheduler's).
//! In: `node` serves it on its listener.

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::response::Json;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::ticker::Ticker;
use store::Store;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Calls;
pub use gate::Gate;
pub use leases::LeaseNames;
use problem::{Kind, Problem};
pub use serve::serve;

mod calls;
mod gate;
mod health;
mod jobs;
mod leases;
mod login;
mod message;
mod messages;
mod number;
mod page;
mod preference;
mod problem;
mod prometheus;
#[cfg(test)]
mod queue_tests;
mod queues;
mod receive;
mod redrives;
mod replays;
mod schedules;
mod serve;
#[cfg(test)]
mod signal_tests;
mod signals;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_tests;

/// What the routes share.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub ticker: Arc<Ticker>,
    pub calls: Calls,
    pub recorder: PrometheusHandle,
    /// Cancelled when the node stops: waiting requests answer at once.
    pub stop: CancellationToken,
    pub leases: LeaseNames,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Leveret",
        description = "Deferred calls, jobs, schedules and queues. All of /v1 asks for basic authentication."
    ),
    components(schemas(problem::Document))
)]
struct Described;

/// All routes.
pub fn router(app: App) -> Router {
    let (router, described) = OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(calls::submit))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::read))
        .routes(routes!(jobs::result))
        .routes(routes!(jobs::cancel))
        .routes(routes!(schedules::list))
        .routes(routes!(queues::peek, messages::publish))
        .routes(routes!(receive::receive))
        .routes(routes!(leases::ack))
        .routes(routes!(leases::fail))
        .routes(routes!(leases::extend))
        .routes(routes!(leases::release))
        .routes(routes!(leases::by_verb))
        .routes(routes!(signals::read))
        .routes(routes!(queues::purge))
        .routes(routes!(queues::dead))
        .routes(routes!(queues::purge_dead))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(redrives::messages))
        .routes(routes!(redrives::redrive))
        .routes(routes!(replays::replay))
        .routes(routes!(replays::retained))
        .routes(routes!(redrives::list))
        .routes(routes!(redrives::read, redrives::cancel))
        .split_for_parts();
    let described = Arc::new(described);
    let openapi = move |_: login::Login| {
        let described = described.clone();
        async move { Json(described.as_ref().clone()) }
    };
    router
        .route("/v1/openapi.json", get(openapi))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(prometheus::render))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn nothing() -> Problem {
    Problem::new(Kind::NotFound, "see /v1/openapi.json for what there is")
}

async fn wrong_method(method: Method) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not possible here"),
    )
}
