//! Whether the process lives and whether it takes work.
//!
//! In: load balancers, `leveret health`, tests.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::App;
use super::problem::{Kind, Problem};

/// The process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The node takes work: it has recovered, and it is not stopping.
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, Problem> {
    if app.stop.is_cancelled() {
        return Err(Problem::new(Kind::Stopping, "this node takes no new work"));
    }
    let blocked = app.store.lock().is_blocked();
    Ok(Json(
        json!({ "status": "ready", "publishers_blocked": blocked }),
    ))
}
