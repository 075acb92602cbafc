//! Accepts connections: addresses, PROXY headers, TLS handshakes, limits.
//!
//! Keeps: what a stranger may cost before the protocol begins is bounded in time and number.
//! Never: speaks AMQP or HTTP; a `Socket` is handed on.
//! In: `node` binds and serves; `http::serve` accepts over the same doors.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use store::Store;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificate;
use crate::config::NameFrom;
use crate::proxy_protocol::{self, Source};
use crate::session::{self, Shared};
use crate::tls::Tls;

/// One address that is listened on, and what comes before the protocol there.
pub struct Door {
    pub listener: TcpListener,
    /// Each connection begins with a PROXY header.
    pub proxied: bool,
    pub tls: Option<Arc<Tls>>,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// As the PROXY header says where there is one; none when it does not say.
    pub address: Option<SocketAddr>,
    /// Our end of the socket.
    pub local: Option<SocketAddr>,
    pub tls: bool,
    /// The user that the client's certificate names.
    pub certified: Option<String>,
}

impl Peer {
    /// The connection's name, as RabbitMQ makes it: both ends.
    pub fn connection_name(&self) -> String {
        let end = |address: Option<SocketAddr>| match address {
            Some(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
            }
            None => "unknown".to_owned(),
        };
        format!("{} -> {}", end(self.address), end(self.local))
    }

    /// On this machine: where `guest` comes from.
    pub fn is_loopback(&self) -> bool {
        self.address
            .is_some_and(|address| is_loopback(address.ip()))
    }
}

/// IPv4 addresses in IPv6 form count as what they are.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// A connection after PROXY and TLS.
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A line of the log for what may happen thousands of times a second.
struct Rarely(Mutex<(Option<Instant>, u64)>);

impl Rarely {
    const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// At most once a second, with how often it happened since.
    fn note(&self, say: impl FnOnce(u64)) {
        self.note_at(tokio::time::Instant::now().into_std(), say);
    }

    fn note_at(&self, now: Instant, say: impl FnOnce(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, count) = &mut *state;
        *count += 1;
        if said.is_none_or(|at| now.duration_since(at) >= SAY_EVERY) {
            *said = Some(now);
            say(std::mem::take(count));
        }
    }
}

/// How many sockets this process may have open for AMQP, set once at the start.
#[derive(Debug)]
pub struct Room {
    open: AtomicUsize,
    max: usize,
}

struct Place(Arc<Room>);

impl Room {
    pub fn new(max: usize) -> Arc<Self> {
        let open = AtomicUsize::new(0);
        Arc::new(Self { open, max })
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(self.clone());
        (self.open.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves AMQP until `stop`; the handle ends when every session has ended.
pub fn serve(
    doors: Vec<Door>,
    store: Store,
    shared: Arc<Shared>,
    room: Arc<Room>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let sessions = TaskTracker::new();
    let mut accepting = tokio::task::JoinSet::new();
    for door in doors {
        let (store, shared) = (store.clone(), shared.clone());
        let (room, stop, sessions) = (room.clone(), stop.clone(), sessions.clone());
        accepting.spawn(async move {
            while let Some((socket, peer)) = accept(&door, &stop).await {
                let Some(place) = room.enter() else {
                    static FULL: Rarely = Rarely::new();
                    FULL.note(|count| {
                        tracing::warn!(%peer, count, "too many connections: closed at once");
                    });
                    continue;
                };
                let welcome = welcome(&door, socket, peer, shared.login_from());
                let (store, shared, stop) = (store.clone(), shared.clone(), stop.clone());
                sessions.spawn(async move {
                    let _place = place;
                    let welcomed = tokio::select! {
                        () = stop.cancelled() => return,
                        welcomed = welcome => welcomed,
                    };
                    match welcomed {
                        Ok((socket, who)) => session::run(socket, who, store, shared, stop).await,
                        Err(error) => tracing::info!(%peer, %error, "refused before the protocol"),
                    }
                });
            }
        });
    }
    tokio::spawn(async move {
        accepting.join_all().await;
        sessions.close();
        sessions.wait().await;
    })
}

/// The next connection; none when the node stops.
pub async fn accept(door: &Door, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = door.listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let _ = socket.set_nodelay(true);
                return Some((socket, peer));
            }
            Err(error) => {
                // Out of descriptors: breathe instead of spinning.
                static FAILED: Rarely = Rarely::new();
                FAILED.note(|count| tracing::warn!(%error, count, "cannot accept connections"));
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// A connection on its way to its protocol.
pub type Welcome = Pin<Box<dyn Future<Output = io::Result<(Socket, Peer)>> + Send>>;

/// What comes before the protocol: the PROXY header, then TLS; each within its time.
///
/// # Errors
/// A header or a handshake that is missing, broken or late.
pub fn welcome(
    door: &Door,
    mut socket: TcpStream,
    from: SocketAddr,
    login_from: NameFrom,
) -> Welcome {
    let (proxied, tls) = (door.proxied, door.tls.clone());
    // In a box: what a handshake needs is gone when the session begins.
    Box::pin(async move {
        let mut peer = Peer {
            address: Some(from),
            local: socket.local_addr().ok(),
            tls: tls.is_some(),
            certified: None,
        };
        if proxied {
            let header = proxy_protocol::read(&mut socket);
            let header = tokio::time::timeout(PROXY_WITHIN, header).await;
            match header.map_err(|_| late("PROXY header"))?? {
                Source::Client(address) => peer.address = Some(address),
                Source::Proxy => {}
                Source::Unknown => peer.address = None,
            }
        }
        let Some(tls) = tls else {
            return Ok((Socket::Plain(socket), peer));
        };
        let handshake = tls.acceptor().accept(socket);
        let handshake = tokio::time::timeout(TLS_WITHIN, handshake).await;
        let stream = handshake.map_err(|_| late("TLS handshake"))??;
        let chain = stream.get_ref().1.peer_certificates();
        let own = chain.and_then(<[_]>::first);
        peer.certified = own.and_then(|own| certificate::user(own, login_from));
        Ok((Socket::Tls(Box::new(stream)), peer))
    })
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no {what} in time"))
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// Between two lines about one trouble.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// After a failed accept.
const BREATH: Duration = Duration::from_millis(50);
/// A proxy writes its header with the first packet.
const PROXY_WITHIN: Duration = Duration::from_secs(3);
/// Two round trips, over the worst of networks.
const TLS_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_a_second() {
        let rarely = Rarely::new();
        let begun = tokio::time::Instant::now().into_std();
        let mut said = Vec::new();
        for step in 0..250 {
            let now = begun + Duration::from_millis(10 * step);
            rarely.note_at(now, |count| said.push(count));
        }
        assert_eq!(said, [1, 100, 100]);
    }
}
