//! The server's end of the socket in the data directory: a JSON line in, a JSON line out.
//!
//! Keeps: only the user that runs the server, and root, are heard; a bounded number at a time.
//! Never: stops a server from starting; without a socket it says so and goes on.
//! In: `node`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::Store;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Request, Response, SOCKET, VERSION, run};

/// Commands at a time; each may hold a whole file of definitions.
const AT_A_TIME: usize = 4;
/// Longest line, bytes: a file of definitions of a hundred thousand queues fits.
const LINE_MAX: u64 = 256 << 20;

/// Listens in `folder` until `stop`, then removes the socket. `None` when it cannot.
pub async fn serve(
    folder: &Path,
    store: Store,
    stop: CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    let path = folder.join(SOCKET);
    let (listener, owner) = match bind(&path).await {
        Ok(bound) => bound,
        Err(error) => {
            let path = path.display();
            tracing::warn!(%error, "commands cannot reach this server: no socket at {path}");
            return None;
        }
    };
    Some(tokio::spawn(accept(listener, owner, path, store, stop)))
}

async fn bind(path: &Path) -> std::io::Result<(UnixListener, u32)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(std::io::Error::other("another server answers there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let owner = std::fs::metadata(path)?.uid();
    Ok((listener, owner))
}

async fn accept(
    listener: UnixListener,
    owner: u32,
    path: PathBuf,
    store: Store,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a command");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // The mode of the socket was not yet set when somebody may have opened it.
        let peer = stream.peer_cred().map(|peer| peer.uid());
        if !matches!(peer, Ok(uid) if uid == owner || uid == 0) {
            continue;
        }
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                served = converse(stream, &store) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a command ended early");
                    }
                }
            }
            drop(place);
        });
    }
    let _ = std::fs::remove_file(&path);
}

async fn converse(stream: UnixStream, store: &Store) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut lines)
            .take(LINE_MAX)
            .read_until(b'\n', &mut line)
            .await?;
        if read == 0 {
            return Ok(());
        }
        let result = match line.last() {
            Some(b'\n') => answer(store, &line).await,
            _ => Err("the line is too long or was cut off".to_owned()),
        };
        let response = Response {
            version: VERSION,
            result,
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
}

async fn answer(store: &Store, line: &[u8]) -> Result<super::Answer, String> {
    // Read first without the command, which a newer release may have reshaped.
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    let invalid = |error: serde_json::Error| format!("not a request: {error}");
    let head: Head = serde_json::from_slice(line).map_err(invalid)?;
    if head.version != VERSION {
        return Err(format!(
            "this server speaks version {VERSION} of the admin socket, the command version {}: \
             use the binary that the server runs",
            head.version
        ));
    }
    let request: Request = serde_json::from_slice(line).map_err(invalid)?;
    run(store, request.command).await
}
