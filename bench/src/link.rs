//! One AMQP connection with one channel, used step by step: handshake, declarations, close.
//!
//! Keeps: the bytes that came with an answer but belong to what follows, in the `Inbox`.
//! Never: heartbeats (both sides agree on 0) and never more than channel 1.
//! In: `run` for set-up; `producer` and `consumer` take the socket over with `into_parts`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::wire::{self, Fields, Frame, Method, MethodId, method};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const INBOX_BYTES: usize = 256 * 1024;
const READ_ROOM_MIN: usize = 64 * 1024;

/// A read buffer that keeps an incomplete frame between reads.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; INBOX_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// One `read`; the number of new bytes. The end of the stream is an error.
    pub(crate) fn fill(&mut self, mut from: impl Read) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < READ_ROOM_MIN {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.bytes.len() - self.end < READ_ROOM_MIN {
                self.bytes.resize(self.bytes.len() * 2, 0);
            }
        }
        let count = from.read(&mut self.bytes[self.end..])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the broker hung up",
            ));
        }
        self.end += count;
        Ok(count)
    }

    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    #[inline]
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }
}

/// The connection while it is used step by step.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    inbox: Inbox,
}

impl Link {
    /// Connects, logs in as guest and opens channel 1.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        Self::open_within(address, ANSWER_WITHIN)
    }

    pub(crate) fn open_within(address: SocketAddr, limit: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, limit).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut link = Self {
            stream,
            inbox: Inbox::new(),
        };
        link.handshake().context("AMQP handshake")?;
        Ok(link)
    }

    /// Sends one method and waits for its answer; the arguments of the answer.
    pub(crate) fn call(&mut self, request: &Method, answer: MethodId) -> Result<Vec<u8>> {
        self.send(1, request)?;
        self.wait_for(answer)
    }

    /// Declares a queue; with `passive` only asks. Returns the number of ready messages.
    pub(crate) fn declare_queue(&mut self, name: &str, kind: Declare) -> Result<u32> {
        self.declare_queue_with(name, kind, &[])
    }

    /// The same with arguments, whole numbers.
    pub(crate) fn declare_queue_with(
        &mut self,
        name: &str,
        kind: Declare,
        arguments: &[(&str, i64)],
    ) -> Result<u32> {
        let bits = match kind {
            Declare::Passive => 1,
            Declare::Durable => 2,
            Declare::Transient => 0,
        };
        let request = Method::new(method::QUEUE_DECLARE)
            .u16(0)
            .short(name)
            .u8(bits)
            .numbers(arguments);
        let answer = self
            .call(&request, method::QUEUE_DECLARE_OK)
            .context("queue.declare")?;
        let mut fields = Fields(&answer);
        fields.short()?;
        Ok(fields.u32()?)
    }

    pub(crate) fn declare_exchange(&mut self, name: &str, kind: &str) -> Result<()> {
        let request = Method::new(method::EXCHANGE_DECLARE)
            .u16(0)
            .short(name)
            .short(kind)
            .u8(0)
            .flags(&[]);
        self.call(&request, method::EXCHANGE_DECLARE_OK)
            .context("exchange.declare")?;
        Ok(())
    }

    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let request = Method::new(method::QUEUE_BIND)
            .u16(0)
            .short(queue)
            .short(exchange)
            .short(key)
            .u8(0)
            .flags(&[]);
        self.call(&request, method::QUEUE_BIND_OK)
            .context("queue.bind")?;
        Ok(())
    }

    /// One transient message, without waiting for anything.
    pub(crate) fn publish(&mut self, queue: &str, body: &[u8]) -> Result<()> {
        let publish = Method::new(method::PUBLISH)
            .u16(0)
            .short("")
            .short(queue)
            .u8(0);
        let mut bytes = Vec::new();
        publish.frame(1, &mut bytes);
        let at = wire::push_content(&mut bytes, 1, body.len(), 1);
        bytes[at..at + body.len()].copy_from_slice(body);
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    pub(crate) fn select_confirms(&mut self) -> Result<()> {
        let request = Method::new(method::CONFIRM_SELECT).u8(0);
        self.call(&request, method::CONFIRM_SELECT_OK)
            .context("confirm.select")?;
        Ok(())
    }

    /// Starts a consumer; `prefetch` 0 means unlimited.
    pub(crate) fn consume(&mut self, queue: &str, prefetch: u16, no_ack: bool) -> Result<()> {
        if prefetch > 0 {
            let request = Method::new(method::QOS).u32(0).u16(prefetch).u8(0);
            self.call(&request, method::QOS_OK).context("basic.qos")?;
        }
        let request = Method::new(method::CONSUME)
            .u16(0)
            .short(queue)
            .short("c")
            .u8(u8::from(no_ack) << 1)
            .flags(&[]);
        self.call(&request, method::CONSUME_OK)
            .context("basic.consume")?;
        Ok(())
    }

    /// Closes channel and connection and waits for both answers, so that what was sent before is
    /// known to be processed. Deliveries that cross are dropped.
    pub(crate) fn close(mut self) -> Result<()> {
        let goodbye = |id| Method::new(id).u16(200).short("done").u16(0).u16(0);
        self.send(1, &goodbye(method::CHANNEL_CLOSE))?;
        self.wait_for(method::CHANNEL_CLOSE_OK)
            .context("channel.close")?;
        self.send(0, &goodbye(method::CLOSE))?;
        self.wait_for(method::CLOSE_OK)
            .context("connection.close")?;
        Ok(())
    }

    /// The socket, now non-blocking, and what was read ahead.
    pub(crate) fn into_parts(self) -> Result<(TcpStream, Inbox)> {
        self.stream.set_nonblocking(true)?;
        Ok((self.stream, self.inbox))
    }

    /// Takes a socket back for an orderly close.
    pub(crate) fn from_parts(stream: TcpStream, inbox: Inbox) -> Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream, inbox })
    }

    fn handshake(&mut self) -> Result<()> {
        self.stream.write_all(wire::PROTOCOL_HEADER)?;
        self.wait_for(method::START)?;
        let capabilities = [
            "publisher_confirms",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
        ];
        let start_ok = Method::new(method::START_OK)
            .client_properties("leveret-bench", &capabilities)
            .short("PLAIN")
            .long(b"\0guest\0guest")
            .short("en_US");
        self.send(0, &start_ok)?;
        let tune = self.wait_for(method::TUNE).context("login")?;
        let mut fields = Fields(&tune);
        let (channel_max, frame_max) = (fields.u16()?, fields.u32()?);
        if frame_max != 0 && (frame_max as usize) < wire::FRAME_MAX {
            bail!(
                "the broker's frame_max of {frame_max} is below {}",
                wire::FRAME_MAX
            );
        }
        let tune_ok = Method::new(method::TUNE_OK)
            .u16(channel_max)
            .u32(wire::FRAME_MAX as u32)
            .u16(0);
        self.send(0, &tune_ok)?;
        self.send(0, &Method::new(method::OPEN).short("/").short("").u8(0))?;
        self.wait_for(method::OPEN_OK).context("connection.open")?;
        self.call(
            &Method::new(method::CHANNEL_OPEN).short(""),
            method::CHANNEL_OPEN_OK,
        )?;
        Ok(())
    }

    fn send(&mut self, channel: u16, request: &Method) -> Result<()> {
        let mut bytes = Vec::new();
        request.frame(channel, &mut bytes);
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    fn wait_for(&mut self, wanted: MethodId) -> Result<Vec<u8>> {
        loop {
            while let Some((frame, span)) = wire::scan(self.inbox.unread())? {
                let answer = match_answer(&frame, wanted)?;
                self.inbox.consume(span);
                if let Some(arguments) = answer {
                    return Ok(arguments);
                }
            }
            self.inbox
                .fill(&self.stream)
                .with_context(|| format!("wait for {wanted:?}"))?;
        }
    }
}

/// How a queue is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declare {
    Passive,
    Durable,
    Transient,
}

/// The error that a close method carries: code and text.
pub(crate) fn closed_by_broker(what: &str, mut arguments: Fields<'_>) -> anyhow::Error {
    let code = arguments.u16().unwrap_or(0);
    let text = String::from_utf8_lossy(arguments.short().unwrap_or(b"")).into_owned();
    anyhow!("the broker closed the {what}: {code} {text}")
}

fn match_answer(frame: &Frame<'_>, wanted: MethodId) -> Result<Option<Vec<u8>>> {
    if frame.kind != wire::METHOD {
        return Ok(None);
    }
    let mut fields = Fields(frame.payload);
    let id = fields.method()?;
    if id == wanted {
        return Ok(Some(fields.0.to_vec()));
    }
    match id {
        method::CLOSE => Err(closed_by_broker("connection", fields)),
        method::CHANNEL_CLOSE => Err(closed_by_broker("channel", fields)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn inbox_keeps_a_partial_frame_over_many_reads() {
        let mut frame = Vec::new();
        wire::push_frame(&mut frame, wire::BODY, 1, &vec![7; 100_000]);
        let stream = frame.repeat(9);
        let mut source = stream.as_slice();
        let (mut inbox, mut frames) = (Inbox::new(), 0);
        while frames < 9 {
            inbox.fill(&mut source).unwrap();
            while let Some((seen, span)) = wire::scan(inbox.unread()).unwrap() {
                assert_eq!(seen.payload.len(), 100_000);
                inbox.consume(span);
                frames += 1;
            }
        }
        assert!(
            inbox.fill(&mut source).is_err(),
            "the end of the stream is an error"
        );
    }

    #[test]
    fn a_close_in_place_of_an_answer_is_an_error_with_its_text() {
        let mut bytes = Vec::new();
        Method::new(method::CHANNEL_CLOSE)
            .u16(404)
            .short("NOT_FOUND - no queue 'x'")
            .u16(50)
            .u16(10)
            .frame(1, &mut bytes);
        let (frame, _) = wire::scan(&bytes).unwrap().unwrap();
        let error = match_answer(&frame, method::QUEUE_DECLARE_OK)
            .unwrap_err()
            .to_string();
        assert!(error.contains("404 NOT_FOUND - no queue 'x'"), "{error}");
    }
}
