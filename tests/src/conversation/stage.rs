//! Where a conversation is played: anything that one can connect to.
//!
//! Keeps: the little that differs between RabbitMQ, our binary, and our server in process.
//! Never: starts a server; `rabbitmq` and `leveret` do.
//! In: `play` asks for streams. A pipe into the server under virtual time is one more `Stage`.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A server to talk to.
pub trait Stage: Sync {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// For reports.
    fn name(&self) -> &str;

    /// The word after `@` and `only:` that means this server: `rabbitmq` or `leveret`.
    fn family(&self) -> &str;

    /// Waiting costs nothing here, so that no file is skipped for its length.
    fn has_virtual_time(&self) -> bool {
        false
    }

    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A server process behind a TCP port.
#[derive(Debug)]
pub struct Tcp {
    pub name: String,
    pub family: &'static str,
    pub address: SocketAddr,
}

impl Stage for Tcp {
    type Stream = TcpStream;

    fn name(&self) -> &str {
        &self.name
    }

    fn family(&self) -> &str {
        self.family
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
