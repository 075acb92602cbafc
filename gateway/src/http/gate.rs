//! What a request meets: the node's routes while it owns its store, and before and after that a
//! word about whom to ask.
//!
//! Keeps: the process says that it lives and that it is not ready, whatever it waits for; its
//! counters can be read all the time.
//! Never: lets a request wait for the store.
//! In: `node` opens it and shuts it; `serve` sends every request through.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use store::sql::postgres::Standing;
use tokio::sync::watch;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::problem::{Kind, Problem};
use super::{App, health, prometheus, router, serve};

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
    pub fn stand_by(&self, standing: watch::Receiver<Standing>, recorder: PrometheusHandle) {
        let refuse = move || {
            let standing = standing.clone();
            async move { refused(&standing.borrow()) }
        };
        let metrics = move || async move { prometheus::render_process(&recorder) };
        let routes = Router::new()
            .route("/healthz", get(health::alive))
            .route("/metrics", get(metrics));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_standby_tells_its_counters_and_refuses_the_rest() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let gate = Gate::new();
        let (_standing, known) = watch::channel(Standing::default());
        gate.stand_by(known, recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("leveret_store_fenced_total").increment(3);
        });
        let ask = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = gate.routes().oneshot(request).await.unwrap();
            let status = answer.status();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(bytes.to_vec()).unwrap())
        };
        let (status, text) = ask("/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("\nleveret_store_fenced_total 3\n"), "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        assert_eq!(ask("/healthz").await.0, StatusCode::OK);
        for path in ["/readyz", "/v1/queues/a/messages", "/nothing"] {
            assert_eq!(ask(path).await.0, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
