//! Accepts AMQP connections.

use std::sync::Arc;

use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::session::{self, Shared};

/// Accepts until `stop`; the handle ends when every session has ended.
pub fn serve(
    listener: TcpListener,
    store: Store,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let sessions = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    let loopback = peer.ip().is_loopback();
                    let (reader, writer) = socket.into_split();
                    let store = store.clone();
                    let session = session::run(
                        reader,
                        writer,
                        loopback,
                        store,
                        shared.clone(),
                        stop.clone(),
                    );
                    sessions.spawn(session);
                }
                Err(error) => {
                    // Out of descriptors: breathe instead of spinning.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        sessions.close();
        sessions.wait().await;
    })
}
