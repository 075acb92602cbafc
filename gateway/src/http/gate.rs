//! What a request meets: the node's routes while it owns its store, and before and after that a
//! word about whom to ask.
//!
//! Keeps: the process says that it lives and that it is not ready, whatever it waits for.
//! Never: lets a request wait for the store.
//! In: `node` opens it and shuts it; `serve` sends every request through.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::get;
use store::sql::postgres::Standing;
use tokio::sync::watch;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::problem::{Kind, Problem};
use super::{App, health, router, serve};

/// The routes of the moment.
#[derive(Clone)]
pub struct Gate(Arc<ArcSwap<Router>>);

impl Gate {
    /// Nothing is open yet.
    pub fn new() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Router::new())))
    }

    /// The node owns its store.
    pub fn open(&self, app: App) {
        self.set(router(app));
    }

    /// The node waits for its store; `standing` says for what.
    pub fn stand_by(&self, standing: watch::Receiver<Standing>) {
        let refuse = move || {
            let standing = standing.clone();
            async move { refused(&standing.borrow()) }
        };
        let routes = Router::new().route("/healthz", get(health::alive));
        self.set(routes.fallback(refuse));
    }

    fn set(&self, routes: Router) {
        let routes = routes.layer(RequestBodyTimeoutLayer::new(serve::BODY_WITHIN));
        self.0.store(Arc::new(routes));
    }

    pub(super) fn routes(&self) -> Router {
        Router::clone(&self.0.load())
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

fn refused(standing: &Standing) -> Problem {
    let (kind, detail) = match standing {
        Standing::Starting | Standing::Owner { .. } => {
            (Kind::Starting, "this node is reading its store".to_owned())
        }
        Standing::Unusable(why) => (Kind::StoreUnusable, why.clone()),
        Standing::Standby { owner, epoch } => (
            Kind::Standby,
            format!(
                "node '{owner}' owns the store (epoch {epoch}); this one takes over when it fails"
            ),
        ),
    };
    Problem::new(kind, detail)
}
