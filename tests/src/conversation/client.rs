//! One connection of a conversation: bytes out, whole methods in.
//!
//! Keeps: what arrived and was not looked at yet, in order; which channels are open.
//! Never: answers on its own, beyond the opening that a file did not write out.
//! In: `play`. A task reads the socket, so that nothing arrives too late to be seen.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::matching::show_received;
pub use crate::wire::assembly::Received;
use crate::wire::assembly::{Assembler, Whole};
use crate::wire::content::Content;
use crate::wire::frame::{self, Front};
use crate::wire::method::Method;
use crate::wire::value::Value;

/// One thing that the server did.
#[derive(Clone, Debug)]
pub enum Incoming {
    Method(Received),
    Heartbeat,
    /// A protocol header instead of frames.
    Protocol(Vec<u8>),
    /// The socket ended.
    Closed,
    /// The server broke the protocol itself.
    Broken(String),
}

impl Incoming {
    /// In the notation of the files.
    pub fn show(&self) -> String {
        match self {
            Self::Method(received) => {
                format!("{}< {}", received.channel, show_received(received))
            }
            Self::Heartbeat => "heartbeat".to_owned(),
            Self::Protocol(bytes) => format!("bytes \"{}\"", bytes.escape_ascii()),
            Self::Closed => "the end of the socket".to_owned(),
            Self::Broken(fault) => format!("a broken frame: {fault}"),
        }
    }
}

/// How to log in and what to agree on.
#[derive(Clone, Debug)]
pub struct Opening {
    pub user: String,
    pub password: String,
    pub vhost: String,
    pub heartbeat: u16,
    pub frame_max: u32,
    pub channel_max: u16,
    pub capabilities: Vec<String>,
}

impl Default for Opening {
    fn default() -> Self {
        let capabilities = [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "authentication_failure_close",
        ];
        Self {
            user: "guest".to_owned(),
            password: "guest".to_owned(),
            vhost: "/".to_owned(),
            heartbeat: 0,
            frame_max: 131_072,
            channel_max: 2047,
            capabilities: capabilities.map(str::to_owned).to_vec(),
        }
    }
}

/// One connection.
pub struct Client {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    inbox: mpsc::UnboundedReceiver<Incoming>,
    pending: VecDeque<Incoming>,
    reader: JoinHandle<()>,
    frame_max: Arc<AtomicUsize>,
    pub open_channels: BTreeSet<u16>,
    /// Channels are opened when first used.
    pub opens_channels: bool,
    /// The close is done: nothing more is expected.
    pub finished: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Wraps a fresh stream; nothing is written yet.
    pub fn new<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> Self {
        let (source, sink) = tokio::io::split(stream);
        let (outbox, inbox) = mpsc::unbounded_channel();
        let frame_max = Arc::new(AtomicUsize::new(0));
        let reader = tokio::spawn(read(source, outbox, Arc::clone(&frame_max)));
        Self {
            writer: Box::new(sink),
            inbox,
            pending: VecDeque::new(),
            reader,
            frame_max,
            open_channels: BTreeSet::new(),
            opens_channels: false,
            finished: false,
        }
    }

    /// The handshake from protocol header to open-ok.
    ///
    /// # Errors
    /// The server answers otherwise.
    pub async fn open(&mut self, opening: &Opening, patience: Duration) -> Result<()> {
        self.write(&frame::PROTOCOL).await;
        self.await_method(0, "connection.start", patience).await?;
        let flags = opening
            .capabilities
            .iter()
            .map(|name| (name.clone(), Value::Bool(true)));
        let properties = vec![
            ("product".to_owned(), Value::str("conversation")),
            ("capabilities".to_owned(), Value::Table(flags.collect())),
        ];
        let response = format!("\0{}\0{}", opening.user, opening.password);
        let start_ok = Method::named("connection.start-ok")?
            .with("client-properties", Value::Table(properties))?
            .with("mechanism", Value::str("PLAIN"))?
            .with("response", Value::str(&response))?
            .with("locale", Value::str("en_US"))?;
        self.send(0, &start_ok, None).await?;
        self.await_method(0, "connection.tune", patience).await?;
        let tune_ok = Method::named("connection.tune-ok")?
            .with("channel-max", Value::int(i64::from(opening.channel_max)))?
            .with("frame-max", Value::int(i64::from(opening.frame_max)))?
            .with("heartbeat", Value::int(i64::from(opening.heartbeat)))?;
        self.send(0, &tune_ok, None).await?;
        let vhost = Value::str(&opening.vhost);
        let open = Method::named("connection.open")?.with("virtual-host", vhost)?;
        self.send(0, &open, None).await?;
        self.await_method(0, "connection.open-ok", patience).await?;
        Ok(())
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// The server answers otherwise.
    pub async fn open_channel(&mut self, channel: u16, patience: Duration) -> Result<()> {
        self.send(channel, &Method::named("channel.open")?, None)
            .await?;
        self.await_method(channel, "channel.open-ok", patience)
            .await?;
        self.open_channels.insert(channel);
        Ok(())
    }

    /// Writes bytes. A closed socket is no error here: the next expectation shows it.
    pub async fn write(&mut self, bytes: &[u8]) {
        if self.writer.write_all(bytes).await.is_ok() {
            let _ = self.writer.flush().await;
        }
    }

    /// Writes a method and its content.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub async fn send(
        &mut self,
        channel: u16,
        method: &Method,
        content: Option<&Content>,
    ) -> Result<()> {
        if method.spec.name == "connection.tune-ok" {
            let agreed = usize::try_from(method.int("frame-max"))?;
            self.frame_max.store(agreed, Ordering::Relaxed);
        }
        let agreed = self.frame_max.load(Ordering::Relaxed);
        let frame_max = if agreed > frame::OVERHEAD {
            agreed
        } else {
            131_072
        };
        let mut bytes = Vec::new();
        frame::put_method(&mut bytes, channel, method, content, frame_max)?;
        self.write(&bytes).await;
        Ok(())
    }

    /// The next thing on a channel, or (`None`) on the whole connection, taken out.
    ///
    /// # Errors
    /// Nothing came in time, or the connection ended meanwhile.
    pub async fn next(&mut self, channel: Option<u16>, within: Duration) -> Result<Incoming> {
        let deadline = Instant::now() + within;
        loop {
            while let Ok(incoming) = self.inbox.try_recv() {
                self.pending.push_back(incoming);
            }
            if let Some(at) = self.pending.iter().position(|it| concerns(it, channel)) {
                let incoming = self.pending.remove(at);
                return Ok(incoming.unwrap_or(Incoming::Closed));
            }
            let ended = |it: &&Incoming| ends(it);
            if let Some(end) = self.pending.iter().find(ended) {
                bail!("the connection ended: {}", end.show());
            }
            match timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(incoming)) => self.pending.push_back(incoming),
                Ok(None) => bail!("the connection is over"),
                Err(_) => bail!("nothing came within {within:?}"),
            }
        }
    }

    /// The first method on a channel that `fits`; others stay where they are.
    ///
    /// # Errors
    /// None came in time; the error names those that did not fit.
    pub async fn next_that(
        &mut self,
        channel: u16,
        within: Duration,
        mut fits: impl FnMut(&Received) -> bool,
    ) -> Result<Received> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        loop {
            while let Ok(incoming) = self.inbox.try_recv() {
                self.pending.push_back(incoming);
            }
            for at in seen..self.pending.len() {
                if let Incoming::Method(received) = &self.pending[at]
                    && received.channel == channel
                    && fits(received)
                {
                    let received = received.clone();
                    self.pending.remove(at);
                    return Ok(received);
                }
            }
            seen = self.pending.len();
            match timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(incoming)) => self.pending.push_back(incoming),
                _ => {
                    let list: Vec<_> = self.pending.iter().map(Incoming::show).collect();
                    bail!(
                        "none fits within {within:?}; there came [{}]",
                        list.join(", ")
                    )
                }
            }
        }
    }

    /// Everything that came and was never looked at.
    pub fn rest(&mut self) -> Vec<Incoming> {
        while let Ok(incoming) = self.inbox.try_recv() {
            self.pending.push_back(incoming);
        }
        self.pending.drain(..).collect()
    }

    /// Waits for one method.
    ///
    /// # Errors
    /// Something else comes, or nothing.
    pub async fn await_method(
        &mut self,
        channel: u16,
        name: &str,
        patience: Duration,
    ) -> Result<Received> {
        match self.next(Some(channel), patience).await? {
            Incoming::Method(received) if received.method.spec.name == name => Ok(received),
            other => bail!("{name} was due, there came {}", other.show()),
        }
    }
}

/// Heartbeats concern nobody who did not ask; a file asks by `A< heartbeat`.
fn concerns(incoming: &Incoming, channel: Option<u16>) -> bool {
    match (incoming, channel) {
        (Incoming::Heartbeat, _) => false,
        (_, None) => true,
        (Incoming::Method(received), Some(channel)) => received.channel == channel,
        (_, Some(_)) => false,
    }
}

fn ends(incoming: &Incoming) -> bool {
    match incoming {
        Incoming::Method(received) => received.method.spec.name == "connection.close",
        Incoming::Closed | Incoming::Broken(_) => true,
        Incoming::Heartbeat | Incoming::Protocol(_) => false,
    }
}

impl Client {
    /// Waits for a heartbeat.
    ///
    /// # Errors
    /// None came in time.
    pub async fn next_heartbeat(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let found = self
                .pending
                .iter()
                .position(|it| matches!(it, Incoming::Heartbeat));
            if let Some(at) = found {
                self.pending.remove(at);
                return Ok(());
            }
            match timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(incoming)) => self.pending.push_back(incoming),
                _ => bail!("no heartbeat within {within:?}"),
            }
        }
    }
}

/// Reads until the end and hands on what is whole.
async fn read(
    mut source: impl AsyncRead + Unpin,
    outbox: mpsc::UnboundedSender<Incoming>,
    frame_max: Arc<AtomicUsize>,
) {
    let mut bytes = Vec::new();
    let mut assembler = Assembler::default();
    loop {
        loop {
            let incoming = match take(&mut bytes, &mut assembler, &frame_max) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => break,
                Err(fault) => Incoming::Broken(format!("{fault:#}")),
            };
            let broken = matches!(incoming, Incoming::Broken(_));
            if outbox.send(incoming).is_err() || broken {
                return;
            }
        }
        match source.read_buf(&mut bytes).await {
            Ok(count) if count > 0 => {}
            _ => {
                let _ = outbox.send(Incoming::Closed);
                return;
            }
        }
    }
}

/// The next thing that is whole, taken off the front.
fn take(
    bytes: &mut Vec<u8>,
    assembler: &mut Assembler,
    frame_max: &AtomicUsize,
) -> Result<Option<Incoming>> {
    loop {
        let (front, taken) = frame::split(bytes, frame_max.load(Ordering::Relaxed))?;
        bytes.drain(..taken);
        let whole = match front {
            Front::Short => return Ok(None),
            Front::Protocol(header) => return Ok(Some(Incoming::Protocol(header))),
            Front::Frame(frame) => assembler.add(frame)?,
        };
        match whole {
            Some(Whole::Method(received)) => return Ok(Some(Incoming::Method(received))),
            Some(Whole::Heartbeat) => return Ok(Some(Incoming::Heartbeat)),
            None => {}
        }
    }
}
