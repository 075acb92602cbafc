//! HTTP over the doors of `listen`: plain, behind a proxy, or with TLS.
//!
//! Keeps: a client that sends its request by the drop, or none at all, costs a place for seconds
//! only; places are counted.
//! Never: looks at a request.
//! In: `node`.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::Gate;
use crate::config::NameFrom;
use crate::listen::{self, Door};

/// Serves until `stop`; the task ends when the requests under way have ended.
pub fn serve(doors: Vec<Door>, gate: Gate, stop: CancellationToken) -> JoinHandle<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let mut accepting = JoinSet::new();
    for door in doors {
        let (gate, stop) = (gate.clone(), stop.clone());
        let (places, connections) = (places.clone(), connections.clone());
        accepting.spawn(async move {
            // Beyond the limit the next clients wait in the kernel's queue.
            while let Some(place) = place(&places, &stop).await
                && let Some((socket, from)) = listen::accept(&door, &stop).await
            {
                let welcome = listen::welcome(&door, socket, from, NameFrom::CommonName);
                let (gate, stop) = (gate.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    match welcome.await {
                        Ok((socket, peer)) => answer(socket, peer.address, gate, stop).await,
                        Err(error) => tracing::debug!(peer = %from, %error, "refused before HTTP"),
                    }
                });
            }
        });
    }
    tokio::spawn(async move {
        accepting.join_all().await;
        connections.close();
        connections.wait().await;
    })
}

async fn place(places: &Arc<Semaphore>, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        () = stop.cancelled() => None,
        place = places.clone().acquire_owned() => place.ok(),
    }
}

/// All requests of one connection; after `stop` the one under way is the last.
async fn answer(
    socket: listen::Socket,
    peer: Option<SocketAddr>,
    gate: Gate,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        gate.routes().call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN);
    let mut serving = pin!(http.serve_connection(TokioIo::new(socket), service));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// Connections at a time: each waiting call holds one, and each costs some 20 KiB.
const CONNECTIONS_MAX: usize = 4096;
/// For all of a request's head; also how long an idle connection is kept for its next request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Between two pieces of a request's body.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);
