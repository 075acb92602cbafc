//! A blocking AMQP client on one socket, for threads that die with the server.
//!
//! Keeps: buffers on both sides; what came while something else was awaited.
//! Never: reconnects; the end of the socket is an error, and the thread's end.
//! In: `load`, `calls`, `ticks`, `topology`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};

use crate::wire::assembly::{Assembler, Received, Whole};
use crate::wire::content::Content;
use crate::wire::frame::{self, Front};
use crate::wire::method::Method;
use crate::wire::value::{Table, Value};

/// One connection.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    /// How much of `input` was taken.
    taken: usize,
    output: Vec<u8>,
    assembler: Assembler,
    pending: VecDeque<Received>,
}

impl Peer {
    /// Connects, logs in as guest and opens channel 1.
    ///
    /// # Errors
    /// The server refuses or is gone.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::connect_as(address, Vec::new())
    }

    /// The same, and wants to hear `connection.blocked`, which [`Peer::next`] then hands out.
    ///
    /// # Errors
    /// The server refuses or is gone.
    pub fn connect_told(address: SocketAddr) -> Result<Self> {
        let capability = ("connection.blocked".to_owned(), Value::Bool(true));
        let capabilities = Value::Table(vec![capability]);
        Self::connect_as(address, vec![("capabilities".to_owned(), capabilities)])
    }

    fn connect_as(address: SocketAddr, client: Table) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut peer = Self {
            stream,
            input: Vec::new(),
            taken: 0,
            output: frame::PROTOCOL.to_vec(),
            assembler: Assembler::default(),
            pending: VecDeque::new(),
        };
        peer.await_method("connection.start")?;
        let start_ok = Method::named("connection.start-ok")?
            .with("client-properties", Value::Table(client))?
            .with("mechanism", Value::str("PLAIN"))?
            .with("response", Value::str("\0guest\0guest"))?
            .with("locale", Value::str("en_US"))?;
        peer.put(0, &start_ok, None)?;
        peer.await_method("connection.tune")?;
        let tune_ok = Method::named("connection.tune-ok")?
            .with("channel-max", Value::int(16))?
            .with("frame-max", Value::int(FRAME_MAX as i64))?;
        peer.put(0, &tune_ok, None)?;
        let open = Method::named("connection.open")?.with("virtual-host", Value::str("/"))?;
        peer.call(0, &open, "connection.open-ok")?;
        peer.call(1, &Method::named("channel.open")?, "channel.open-ok")?;
        Ok(peer)
    }

    /// Appends to the output; nothing is written before [`Peer::flush`] or a wait.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn put(&mut self, channel: u16, method: &Method, content: Option<&Content>) -> Result<()> {
        frame::put_method(&mut self.output, channel, method, content, FRAME_MAX)
    }

    /// Writes what was put.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn flush(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            if let Err(fault) = self.stream.write_all(&self.output) {
                return Err(self.last_words(fault));
            }
            self.output.clear();
        }
        Ok(())
    }

    /// What the server said before it hung up, where nothing can be written any more.
    fn last_words(&mut self, fault: io::Error) -> Error {
        loop {
            match self.read(LAST_WORDS_MAX) {
                Ok(Some(_)) => {}
                Err(said) if said.to_string().contains(".close ") => return said,
                _ => return fault.into(),
            }
        }
    }

    /// Sends a method and waits for its answer; what else comes is kept for [`Peer::next`].
    ///
    /// # Errors
    /// The server closes the channel or the connection, is gone, or does not answer.
    pub fn call(&mut self, channel: u16, method: &Method, answer: &str) -> Result<Received> {
        self.put(channel, method, None)?;
        self.await_method(answer)
    }

    /// The next delivery, confirm or return; `None` when none comes in time.
    ///
    /// # Errors
    /// The server closes the channel or the connection, or is gone.
    pub fn next(&mut self, within: Duration) -> Result<Option<Received>> {
        self.flush()?;
        if let Some(received) = self.pending.pop_front() {
            return Ok(Some(received));
        }
        self.read(within)
    }

    /// What is here already, without waiting.
    ///
    /// # Errors
    /// As [`Peer::next`].
    pub fn ready(&mut self) -> Result<Option<Received>> {
        match self.pending.pop_front() {
            Some(received) => Ok(Some(received)),
            None => self.take(),
        }
    }

    fn await_method(&mut self, name: &str) -> Result<Received> {
        self.flush()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read(deadline.saturating_duration_since(Instant::now()))? {
                Some(received) if received.method.spec.name == name => return Ok(received),
                Some(received) => self.pending.push_back(received),
                None => bail!("no {name} within {PATIENCE:?}"),
            }
        }
    }

    fn read(&mut self, within: Duration) -> Result<Option<Received>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(received) = self.take()? {
                return Ok(Some(received));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the socket ended"),
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(fault) if is_timeout(fault.kind()) => return Ok(None),
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// The next whole method in the input.
    fn take(&mut self) -> Result<Option<Received>> {
        loop {
            let (front, count) = frame::split(&self.input[self.taken..], FRAME_MAX)?;
            self.taken += count;
            let whole = match front {
                Front::Short => {
                    self.input.drain(..self.taken);
                    self.taken = 0;
                    return Ok(None);
                }
                Front::Protocol(_) => bail!("the server speaks another protocol"),
                Front::Frame(frame) => self.assembler.add(frame)?,
            };
            if let Some(Whole::Method(received)) = whole {
                let name = received.method.spec.name;
                if name.ends_with(".close") {
                    let code = received.method.int("reply-code");
                    bail!("{name} {code}: {}", received.method.text("reply-text"));
                }
                return Ok(Some(received));
            }
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

const LAST_WORDS_MAX: Duration = Duration::from_millis(100);
const FRAME_MAX: usize = 131_072;

/// No answer takes longer than this while the server lives.
const PATIENCE: Duration = Duration::from_secs(20);
