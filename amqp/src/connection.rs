//! One connection's protocol state: handshake, channels, contents, heartbeats, close. Pure.
//!
//! Keeps: events in wire order; every reply but the handshake's is the shell's, so that answers
//! keep that order too. Sizes are checked before bytes are kept.
//! Never: a socket or a clock.
//!
//! ```text
//! Header ─► Start ─► Tune ─► Opening ─► Open ─► Closing ─► Gone
//!    └────────┴────────┴────────┴─ failure ─────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, gen_class, parse_class};

use crate::content::{Address, Block, Entry, flags_of};
use crate::field::{Table, Value, check_table};
use crate::limits::*;
use crate::reply::{Close, Scope};

/// What the server offers.
#[derive(Clone, Debug)]
pub struct Options {
    pub frame_max: u32,
    pub channel_max: u16,
    /// Seconds.
    pub heartbeat: u16,
    pub message_max: u64,
    pub server_properties: Table,
    pub mechanisms: String,
}

/// What the shell must act on, in wire order.
#[derive(Debug)]
pub enum Event {
    Login { mechanism: String, response: Vec<u8> },
    Open { vhost: String },
    ChannelOpen { channel: u16 },
    /// The client closes a channel: clean up, then `channel_closed`.
    ChannelClose { channel: u16 },
    Method { channel: u16, method: AMQPClass },
    /// Consecutive publishes with equal address, mandatory bit and persistence.
    Publish { channel: u16, first: u32, count: u32, mandatory: bool, confirm: u64 },
    Ack { channel: u16, tag: u64, multiple: bool },
    Nack { channel: u16, tag: u64, multiple: bool, requeue: bool },
    ConfirmSelect { channel: u16, nowait: bool },
    /// The machine found a fault: clean the channel up, then `close_channel`.
    ChannelError { channel: u16, close: Close },
    /// The client closes the connection: clean up, then `connection_closed`.
    Closed { text: String },
    /// The connection is at fault: clean up, then `close`.
    Failed(Close),
    /// Nothing more comes or goes: drop the socket after flushing.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Start,
    /// Waiting for the shell's verdict on the login, or for tune-ok.
    Tune,
    Opening,
    Open,
    /// A close was sent; close-ok is awaited.
    Closing,
    Gone,
}

#[derive(Default)]
struct ChannelState {
    confirm: Option<u64>,
    tx: bool,
    closing: bool,
    content: Option<Assembly>,
}

struct Assembly {
    address: Address,
    mandatory: bool,
    /// Body bytes still to come; `None` before the header.
    left: Option<u64>,
    body_size: u64,
    data: Vec<u8>,
    split: bool,
    flags: u8,
    priority: u8,
}

pub struct Connection {
    options: Options,
    state: State,
    channels: BTreeMap<u16, ChannelState>,
    events: VecDeque<Event>,
    block: Block,
    out: Vec<u8>,
    client_properties: Table,
    frame_max: u32,
    channel_max: u16,
    heartbeat: u16,
    born: Instant,
    heard: Instant,
    sent: Instant,
    until: Option<Instant>,
    assembling: u64,
}

type Fault = Result<(), Close>;

impl Connection {
    pub fn new(now: Instant, options: Options) -> Self {
        Self {
            frame_max: options.frame_max,
            channel_max: options.channel_max,
            heartbeat: 0,
            options,
            state: State::Header,
            channels: BTreeMap::new(),
            events: VecDeque::new(),
            block: Block::default(),
            out: Vec::new(),
            client_properties: Table::default(),
            born: now,
            heard: now,
            sent: now,
            until: None,
            assembling: 0,
        }
    }

    /// Takes whole frames off the front of `input`; answers how many bytes.
    pub fn handle_bytes(&mut self, now: Instant, input: &[u8]) -> usize {
        self.heard = now;
        let mut at = 0;
        if self.state == State::Header {
            match self.protocol_header(input) {
                Some(used) => at = used,
                None => return 0,
            }
        }
        while self.state != State::Gone {
            let rest = &input[at..];
            if self.state == State::Open
                && let Some(used) = self.fast(rest)
            {
                at += used;
                continue;
            }
            match self.frame(rest) {
                Ok(Some(used)) => at += used,
                Ok(None) => break,
                Err(close) => {
                    self.fail(close);
                    return input.len();
                }
            }
        }
        if self.state == State::Gone { input.len() } else { at }
    }

    fn protocol_header(&mut self, input: &[u8]) -> Option<usize> {
        const OURS: &[u8; 8] = b"AMQP\0\0\x09\x01";
        let n = input.len().min(8);
        if n < 8 && input[..n] == OURS[..n] {
            return None;
        }
        if n < 8 || (input[..8] != OURS[..] && input[..8] != b"AMQP\x01\x01\0\x09"[..]) {
            self.out.extend_from_slice(OURS);
            self.gone();
            return Some(input.len());
        }
        self.state = State::Start;
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: crate::control::to_field_table(&self.options.server_properties),
            mechanisms: self.options.mechanisms.as_str().into(),
            locales: "en_US".into(),
        };
        let start = AMQPClass::Connection(connection::AMQPMethod::Start(start));
        self.reply(0, &start);
        Some(8)
    }

    fn gone(&mut self) {
        self.state = State::Gone;
        self.events.push_back(Event::Gone);
    }

    fn fail(&mut self, close: Close) {
        self.state = State::Gone;
        self.events.push_back(Event::Failed(close));
    }

    // ---- the hot path ----------------------------------------------------------------------

    /// One whole publish (method, header, at most one body) or ack at the front; `None`: not so.
    fn fast(&mut self, input: &[u8]) -> Option<usize> {
        let head = input.get(..11)?;
        if head[0] != 1 || head[7..10] != [0, 60, 0] {
            return None;
        }
        let number = u16::from_be_bytes([head[1], head[2]]);
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let frame = input.get(..size + 8).filter(|frame| frame[size + 7] == 0xCE)?;
        match head[10] {
            40 => self.fast_publish(number, size, input),
            80 if size == 13 => {
                self.channels.get(&number).filter(|c| !c.closing && c.content.is_none())?;
                let tag = u64::from_be_bytes(frame[11..19].try_into().ok()?);
                let multiple = frame[19] & 1 != 0;
                self.events.push_back(Event::Ack { channel: number, tag, multiple });
                Some(size + 8)
            }
            _ => None,
        }
    }

    fn fast_publish(&mut self, number: u16, size: usize, input: &[u8]) -> Option<usize> {
        let limit = self.frame_max as usize - 8;
        if size > limit {
            return None;
        }
        let address_end = 7 + size - 1;
        let wire = input.get(13..address_end)?;
        let bits = input[address_end];
        let exchange = usize::from(*wire.first()?);
        let key = usize::from(*wire.get(1 + exchange)?);
        if wire.len() != exchange + key + 2 || bits & 2 != 0 {
            return None;
        }
        let header = &input[size + 8..];
        let head = header.get(..19)?;
        let header_size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let body_size = u64::from_be_bytes(head[11..19].try_into().ok()?);
        if head[0] != 2
            || head[1..3] != input[1..3]
            || header_size > limit
            || header_size < 14
            || header.get(header_size + 7) != Some(&0xCE)
            || head[7..9] != [0, 60]
            || body_size > self.options.message_max
        {
            return None;
        }
        let mut content = header_size + 8;
        if body_size > 0 {
            let body = header.get(content..)?;
            let head = body.get(..7)?;
            let n = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            if head[0] != 3
                || head[1..3] != input[1..3]
                || n as u64 != body_size
                || n > limit
                || body.get(n + 7) != Some(&0xCE)
            {
                return None;
            }
            content += n + 8;
        }
        let channel = self.channels.get(&number)?;
        if channel.closing || channel.content.is_some() {
            return None;
        }
        let (flags, priority) = flags_of(&header[19..header_size + 7])?;
        let split = if body_size > u64::from(FRAME_MIN) - 8 || header_size > FRAME_MIN as usize - 8 {
            Entry::SPLIT
        } else {
            0
        };
        let address = self.intern(wire)?;
        let offset = self.block.data.len();
        self.block.data.extend_from_slice(&header[..content]);
        let entry = Entry {
            offset: offset as u32,
            len: content as u32,
            body_size: body_size as u32,
            address,
            flags: flags | split,
            priority,
        };
        self.published(number, entry, bits & 1 != 0);
        Some(size + 8 + content)
    }

    fn intern(&mut self, wire: &[u8]) -> Option<u16> {
        let known = &self.block.addresses;
        let from = known.len().saturating_sub(8);
        if let Some(at) = known[from..].iter().rposition(|address| address.wire() == wire) {
            return u16::try_from(from + at).ok();
        }
        let at = u16::try_from(known.len()).ok()?;
        self.block.addresses.push(Address::from_wire(wire)?);
        Some(at)
    }

    fn published(&mut self, number: u16, entry: Entry, mandatory: bool) {
        let at = self.block.entries.len() as u32;
        let mut confirm = 0;
        if let Some(next) = self.channels.get_mut(&number).and_then(|c| c.confirm.as_mut()) {
            confirm = *next;
            *next += 1;
        }
        let alike = |other: &Entry| {
            other.address == entry.address
                && (other.flags ^ entry.flags) & (Entry::PERSISTENT | Entry::HAS_REPLY_TO) == 0
        };
        if let Some(Event::Publish { channel, first, count, mandatory: same, .. }) =
            self.events.back_mut()
            && *channel == number
            && *same == mandatory
            && *first + *count == at
            && self.block.entries.last().is_some_and(alike)
        {
            *count += 1;
        } else {
            let event = Event::Publish { channel: number, first: at, count: 1, mandatory, confirm };
            self.events.push_back(event);
        }
        self.block.entries.push(entry);
    }

    // ---- any frame -------------------------------------------------------------------------

    fn frame(&mut self, input: &[u8]) -> Result<Option<usize>, Close> {
        let Some(head) = input.get(..7) else { return Ok(None) };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let open = matches!(self.state, State::Open | State::Opening | State::Closing);
        let limit = if open { self.frame_max } else { PRE_AUTH_FRAME_MAX } as usize;
        if size > limit {
            let text = format!("type {}, payload of {size} bytes exceeds {limit}", head[0]);
            return Err(Close::connection(501, text, (0, 0)));
        }
        let Some(frame) = input.get(..size + 8) else { return Ok(None) };
        if frame[size + 7] != 0xCE {
            return Err(Close::connection(501, "missing frame end octet", (0, 0)));
        }
        let number = u16::from_be_bytes([frame[1], frame[2]]);
        let payload = &frame[7..size + 7];
        match frame[0] {
            1 => self.method(number, payload)?,
            2 | 3 => self.content(number, frame)?,
            8 if number == 0 => {}
            8 => return Err(Close::connection(505, "heartbeat on a channel", (0, 0))),
            kind => {
                let text = format!("unknown frame type {kind}");
                return Err(Close::connection(501, text, (0, 0)));
            }
        }
        Ok(Some(size + 8))
    }

    fn method(&mut self, number: u16, payload: &[u8]) -> Fault {
        let cause = crate::control::ids(payload)?;
        if self.state == State::Closing {
            if number == 0 && cause == (10, 51) {
                self.gone();
            }
            if number == 0 && cause == (10, 50) {
                self.connection_closed();
            }
            return Ok(());
        }
        if let Some(channel) = self.channels.get(&number) {
            if channel.closing {
                return self.closing_channel(number, cause);
            }
            if channel.content.is_some() {
                let text = "expected content header or body, got a method";
                return Err(Close::connection(505, text, cause));
            }
        }
        if (number == 0) != (cause.0 == 10) {
            let text = if number == 0 { "method on channel 0" } else { "connection method on a channel" };
            return Err(Close::connection(503, text, cause));
        }
        crate::control::guard(payload, cause)?;
        let (rest, method) = parse_class(payload).map_err(|_| {
            Close::connection(502, format!("cannot decode method {}.{}", cause.0, cause.1), cause)
        })?;
        if !rest.is_empty() {
            let text = format!("trailing bytes after method {}.{}", cause.0, cause.1);
            return Err(Close::connection(502, text, cause));
        }
        if number == 0 { self.connection_method(method, cause) } else { self.channel_method(number, method, cause) }
    }

    fn closing_channel(&mut self, number: u16, cause: (u16, u16)) -> Fault {
        match cause {
            (20, 41) => {
                self.channels.remove(&number);
            }
            (20, 40) => self.channel_closed(number),
            _ => {}
        }
        Ok(())
    }

    fn connection_method(&mut self, method: AMQPClass, cause: (u16, u16)) -> Fault {
        use connection::AMQPMethod as M;
        let AMQPClass::Connection(method) = method else { return Ok(()) };
        match (self.state, method) {
            (State::Start, M::StartOk(ok)) => {
                self.client_properties = crate::control::from_field_table(&ok.client_properties);
                self.state = State::Tune;
                let mechanism = ok.mechanism.as_str().to_owned();
                let response = ok.response.as_bytes().to_vec();
                self.events.push_back(Event::Login { mechanism, response });
            }
            (State::Tune, M::TuneOk(ok)) => self.tune(&ok)?,
            (State::Opening, M::Open(open)) => {
                self.state = State::Open;
                self.events.push_back(Event::Open { vhost: open.virtual_host.as_str().to_owned() });
            }
            (_, M::Close(close)) => {
                self.state = State::Closing;
                let text = close.reply_text.as_str().to_owned();
                self.events.push_back(Event::Closed { text });
            }
            (State::Open, method @ M::UpdateSecret(_)) => {
                let method = AMQPClass::Connection(method);
                self.events.push_back(Event::Method { channel: 0, method });
            }
            _ => return Err(Close::connection(503, "unexpected connection method", cause)),
        }
        Ok(())
    }

    fn tune(&mut self, ok: &connection::TuneOk) -> Fault {
        let cause = (10, 31);
        let check = |name: &str, offered: u32, got: u32, low: u32| {
            if got != 0 && got < low {
                let text = format!(
                    "negotiated {name} = {got} is lower than the minimum allowed value ({low})"
                );
                return Err(Close::connection(530, text, cause));
            }
            if offered != 0 && (got == 0 || got > offered) {
                let text = format!(
                    "negotiated {name} = {got} is higher than the maximum allowed value ({offered})"
                );
                return Err(Close::connection(530, text, cause));
            }
            Ok(got)
        };
        self.frame_max = check("frame_max", self.options.frame_max, ok.frame_max, FRAME_MIN)?;
        let channels = u32::from(self.options.channel_max);
        let channels = check("channel_max", channels, u32::from(ok.channel_max), 0)?;
        self.channel_max = u16::try_from(channels).unwrap_or(u16::MAX);
        self.heartbeat = ok.heartbeat;
        self.state = State::Opening;
        Ok(())
    }

    fn channel_method(&mut self, number: u16, method: AMQPClass, cause: (u16, u16)) -> Fault {
        if self.state != State::Open {
            return Err(Close::connection(503, "method before connection.open", cause));
        }
        if cause == (20, 10) {
            if number > self.channel_max {
                let text = format!("number of channels opened exceeds {}", self.channel_max);
                return Err(Close::connection(530, text, cause));
            }
            if self.channels.contains_key(&number) {
                return Err(Close::connection(504, "second 'channel.open' seen", cause));
            }
            self.channels.insert(number, ChannelState::default());
            self.events.push_back(Event::ChannelOpen { channel: number });
            return Ok(());
        }
        let Some(channel) = self.channels.get_mut(&number) else {
            return Err(Close::connection(504, "expected 'channel.open'", cause));
        };
        let mix = |text: &str| Event::ChannelError {
            channel: number,
            close: Close::channel(406, text, cause),
        };
        use basic::AMQPMethod as B;
        let event = match method {
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                channel.closing = true;
                Event::ChannelClose { channel: number }
            }
            AMQPClass::Basic(B::Publish(publish)) => {
                if publish.immediate {
                    return Err(Close::connection(540, "immediate=true", cause));
                }
                let address = Address::new(
                    publish.exchange.as_str().as_bytes(),
                    publish.routing_key.as_str().as_bytes(),
                );
                channel.content = Some(Assembly {
                    address,
                    mandatory: publish.mandatory,
                    left: None,
                    body_size: 0,
                    data: Vec::new(),
                    split: false,
                    flags: 0,
                    priority: 0,
                });
                return Ok(());
            }
            AMQPClass::Basic(B::Ack(m)) => {
                Event::Ack { channel: number, tag: m.delivery_tag, multiple: m.multiple }
            }
            AMQPClass::Basic(B::Nack(m)) => Event::Nack {
                channel: number,
                tag: m.delivery_tag,
                multiple: m.multiple,
                requeue: m.requeue,
            },
            AMQPClass::Basic(B::Reject(m)) => Event::Nack {
                channel: number,
                tag: m.delivery_tag,
                multiple: false,
                requeue: m.requeue,
            },
            AMQPClass::Confirm(amq_protocol::protocol::confirm::AMQPMethod::Select(m)) => {
                if channel.tx {
                    mix("cannot switch from tx to confirm mode")
                } else {
                    channel.confirm.get_or_insert(1);
                    Event::ConfirmSelect { channel: number, nowait: m.nowait }
                }
            }
            method @ AMQPClass::Tx(_) if cause == (90, 10) => {
                if channel.confirm.is_some() {
                    mix("cannot switch from confirm to tx mode")
                } else {
                    channel.tx = true;
                    Event::Method { channel: number, method }
                }
            }
            method => Event::Method { channel: number, method },
        };
        self.events.push_back(event);
        Ok(())
    }

    /// A header or body frame of a content that did not come in one piece.
    fn content(&mut self, number: u16, frame: &[u8]) -> Fault {
        let cause = (60, 40);
        let Some(channel) = self.channels.get_mut(&number) else {
            if self.state == State::Closing {
                return Ok(());
            }
            return Err(Close::connection(504, "expected 'channel.open'", (0, 0)));
        };
        if channel.closing || self.state == State::Closing {
            return Ok(());
        }
        let unexpected = |text: &str| Close::connection(505, text, cause);
        let Some(assembly) = &mut channel.content else {
            return Err(unexpected("expected method frame, got content"));
        };
        let payload = &frame[7..frame.len() - 1];
        match (frame[0], assembly.left) {
            (2, None) => {
                if payload.len() < 14 {
                    return Err(Close::connection(502, "cannot decode content header", cause));
                }
                if payload[..2] != [0, 60] {
                    return Err(unexpected("content header of another class"));
                }
                let size = u64::from_be_bytes(payload[4..12].try_into().unwrap_or_default());
                let Some((flags, priority)) = flags_of(&payload[12..]) else {
                    return Err(Close::connection(502, "cannot decode properties", cause));
                };
                if size > self.options.message_max {
                    let max = self.options.message_max;
                    let text =
                        format!("message size {size} is larger than configured max size {max}");
                    channel.content = None;
                    channel.closing = true;
                    let close = Close::channel(406, text, cause);
                    self.events.push_back(Event::ChannelError { channel: number, close });
                    return Ok(());
                }
                (assembly.flags, assembly.priority) = (flags, priority);
                (assembly.left, assembly.body_size) = (Some(size), size);
            }
            (3, Some(left)) => {
                if payload.len() as u64 > left {
                    return Err(Close::connection(501, "content body is longer than declared", cause));
                }
                assembly.left = Some(left - payload.len() as u64);
            }
            (2, Some(_)) => return Err(unexpected("expected content body, got content header")),
            _ => return Err(unexpected("expected content header, got content body")),
        }
        self.assembling += frame.len() as u64;
        if self.assembling > ASSEMBLING_MAX.max(2 * self.options.message_max) {
            return Err(Close::connection(506, "too many contents under way", cause));
        }
        assembly.split |= frame.len() > FRAME_MIN as usize;
        // An empty body frame says nothing; kept, it would only cost.
        if frame[0] == 2 || !payload.is_empty() {
            assembly.data.extend_from_slice(frame);
        }
        if assembly.left == Some(0)
            && let Some(done) = channel.content.take()
        {
            self.assembling = self.assembling.saturating_sub(done.data.len() as u64);
            let address = self.block.intern(&done.address);
            let entry = Entry {
                offset: self.block.data.len() as u32,
                len: done.data.len() as u32,
                body_size: done.body_size as u32,
                address,
                flags: done.flags | if done.split { Entry::SPLIT } else { 0 },
                priority: done.priority,
            };
            self.block.data.extend_from_slice(&done.data);
            self.published(number, entry, done.mandatory);
        }
        Ok(())
    }

    // ---- the shell's side ------------------------------------------------------------------

    /// The next event; those of a channel that the server closed meanwhile are left out.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The contents that this turn's `Publish` events index into; call before polling them.
    pub fn take_block(&mut self) -> Block {
        let size = self.block.data.len();
        let next = Block { data: Vec::with_capacity(size.min(1 << 18)), ..Block::default() };
        std::mem::replace(&mut self.block, next)
    }

    /// Bytes to write.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Encodes a control method.
    pub fn reply(&mut self, channel: u16, method: &AMQPClass) {
        let payload = gen_class(method)(WriteContext::from(Vec::with_capacity(64)))
            .map(|context| context.into_inner().0)
            .unwrap_or_default();
        self.out.push(1);
        self.out.extend_from_slice(&channel.to_be_bytes());
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        self.out.extend_from_slice(&payload);
        self.out.push(0xCE);
    }

    /// The login holds: tune goes out.
    pub fn accept_login(&mut self) {
        let tune = connection::Tune {
            channel_max: self.options.channel_max,
            frame_max: self.options.frame_max,
            heartbeat: self.options.heartbeat,
        };
        self.reply(0, &AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
    }

    /// The login fails: a close for clients that understand it, silence for others.
    pub fn refuse_login(&mut self, now: Instant, mechanism: &str) {
        if self.client_capability("authentication_failure_close") {
            let text = format!(
                "Login was refused using authentication mechanism {mechanism}. For details see \
                 the broker logfile."
            );
            self.close(now, &Close::connection(403, text, (0, 0)));
        } else {
            self.state = State::Closing;
            self.until = Some(now + SILENT_CLOSE);
        }
    }

    /// The vhost is open.
    pub fn accept_open(&mut self) {
        let ok = connection::OpenOk {};
        self.reply(0, &AMQPClass::Connection(connection::AMQPMethod::OpenOk(ok)));
    }

    /// The server closes the connection.
    pub fn close(&mut self, now: Instant, close: &Close) {
        self.state = State::Closing;
        self.until = Some(now + CLOSE_OK);
        self.events.clear();
        let close = connection::Close {
            reply_code: close.code,
            reply_text: close.text.as_str().into(),
            class_id: close.class,
            method_id: close.method,
        };
        self.reply(0, &AMQPClass::Connection(connection::AMQPMethod::Close(close)));
    }

    /// The server closes a channel; its frames are ignored until close-ok.
    pub fn close_channel(&mut self, number: u16, close: &Close) {
        debug_assert_eq!(close.scope, Scope::Channel);
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.closing = true;
        if let Some(content) = channel.content.take() {
            self.assembling = self.assembling.saturating_sub(content.data.len() as u64);
        }
        let answered = self.events.iter().any(
            |event| matches!(event, Event::ChannelClose { channel } if *channel == number),
        );
        self.events.retain(|event| !event.is_of(number));
        let close = channel::Close {
            reply_code: close.code,
            reply_text: close.text.as_str().into(),
            class_id: close.class,
            method_id: close.method,
        };
        self.reply(number, &AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        if answered {
            self.channel_closed(number);
        }
    }

    /// The shell has cleaned a channel up that the client closed.
    pub fn channel_closed(&mut self, number: u16) {
        self.channels.remove(&number);
        let ok = channel::CloseOk {};
        self.reply(number, &AMQPClass::Channel(channel::AMQPMethod::CloseOk(ok)));
    }

    /// The shell has cleaned up after a client's close.
    pub fn connection_closed(&mut self) {
        let ok = connection::CloseOk {};
        self.reply(0, &AMQPClass::Connection(connection::AMQPMethod::CloseOk(ok)));
        self.gone();
    }

    /// When `handle_deadline` must be called.
    pub fn deadline(&self) -> Option<Instant> {
        if self.until.is_some() {
            return self.until;
        }
        match self.state {
            State::Gone => None,
            State::Open if self.heartbeat == 0 => None,
            State::Open => Some((self.sent + self.beat() / 2).min(self.heard + self.beat() * 2)),
            _ => Some(self.born + HANDSHAKE),
        }
    }

    fn beat(&self) -> Duration {
        Duration::from_secs(u64::from(self.heartbeat))
    }

    /// Time has come for something: a heartbeat, or the end of patience.
    pub fn handle_deadline(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            return self.gone();
        }
        match self.state {
            State::Open if self.heartbeat > 0 => {
                if self.heard + self.beat() * 2 <= now {
                    self.gone();
                } else if self.sent + self.beat() / 2 <= now {
                    self.out.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0xCE]);
                    self.sent = now;
                }
            }
            State::Header | State::Start | State::Tune | State::Opening
                if self.born + HANDSHAKE <= now =>
            {
                self.gone();
            }
            _ => {}
        }
    }

    /// Something was written.
    pub fn note_sent(&mut self, now: Instant) {
        self.sent = now;
    }

    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// Past connection.open and not closing.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub fn client_properties(&self) -> &Table {
        &self.client_properties
    }

    /// True when the client advertised it.
    pub fn client_capability(&self, name: &str) -> bool {
        match self.client_properties.find("capabilities") {
            Some(Value::Table(table)) => table.find(name) == Some(&Value::Bool(true)),
            _ => false,
        }
    }
}

impl Event {
    fn is_of(&self, number: u16) -> bool {
        match self {
            Self::ChannelOpen { channel }
            | Self::ChannelClose { channel }
            | Self::Method { channel, .. }
            | Self::Publish { channel, .. }
            | Self::Ack { channel, .. }
            | Self::Nack { channel, .. }
            | Self::ConfirmSelect { channel, .. }
            | Self::ChannelError { channel, .. } => *channel == number,
            _ => false,
        }
    }
}

/// Refuses a table that is too deep, before the decoder sees it.
pub(crate) fn guarded(bytes: &[u8], cause: (u16, u16)) -> Fault {
    check_table(bytes).map_err(|error| Close::connection(502, error.to_string(), cause))
}
