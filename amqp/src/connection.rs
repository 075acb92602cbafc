//! One connection's protocol state: handshake, channels, contents, heartbeats, close. Pure.
//!
//! Keeps: events in wire order; every reply but the handshake's is the shell's, so that answers
//! keep that order too. Sizes are checked before bytes are kept.
//! Never: a socket or a clock.
//!
//! ```text
//! Header ─► Start ─► Tune ─► Opening ─► Open ─► Closing ─► Gone
//!    └────────┴────────┴────────┴─ failure ─────────┘
//! Open ─► Leaving ─► Gone      the client closes
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, connection, gen_class, parse_class,
};

use crate::content::Block;
use crate::field::{Table, Value, check_table};
use crate::limits::{CLOSE_OK, FRAME_MIN, HANDSHAKE, MESSAGE_CAP, SILENT_CLOSE};
use crate::reply::{Close, Scope};

#[path = "parse.rs"]
mod parse;

use parse::Assembly;

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
    Login {
        mechanism: String,
        response: Vec<u8>,
    },
    Open {
        vhost: String,
    },
    ChannelOpen {
        channel: u16,
    },
    /// The client closes a channel: clean up, then `channel_closed`.
    ChannelClose {
        channel: u16,
    },
    Method {
        channel: u16,
        method: AMQPClass,
    },
    /// Consecutive publishes with equal address, mandatory bit and persistence.
    Publish {
        channel: u16,
        first: u32,
        count: u32,
        mandatory: bool,
        confirm: u64,
    },
    Ack {
        channel: u16,
        tag: u64,
        multiple: bool,
    },
    Nack {
        channel: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    ConfirmSelect {
        channel: u16,
        nowait: bool,
    },
    /// The machine found a fault: clean the channel up, then `close_channel`.
    ChannelError {
        channel: u16,
        close: Close,
    },
    /// The client closes the connection: clean up, then `connection_closed`.
    Closed {
        text: String,
    },
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
    /// A close was sent, or silence is kept; close-ok or the deadline ends it.
    Closing,
    /// The client sent its close; the shell cleans up.
    Leaving,
    Gone,
}

/// How a channel ends; anything but `No` ignores its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Closing {
    #[default]
    No,
    /// The client asked; the shell cleans up.
    Asked,
    /// A fault was found; the shell has not sent the close yet.
    Fault,
    /// As `Fault`, and the client's own close came meanwhile.
    Crossed,
    /// The server's close is out; close-ok is awaited.
    Sent,
}

#[derive(Default)]
struct ChannelState {
    confirm: Option<u64>,
    tx: bool,
    closing: Closing,
    content: Option<Assembly>,
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
    pub fn new(now: Instant, mut options: Options) -> Self {
        options.message_max = options.message_max.min(MESSAGE_CAP);
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
    ///
    /// The rest is the front of an incomplete frame, or, when 65,536 addresses met in one turn,
    /// frames for the next turn.
    pub fn handle_bytes(&mut self, now: Instant, input: &[u8]) -> usize {
        self.heard = now;
        let mut at = 0;
        if self.state == State::Header {
            match self.protocol_header(input) {
                Some(used) => at = used,
                None => return 0,
            }
        }
        while !matches!(self.state, State::Gone | State::Leaving) && !self.block_is_full() {
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
                    // Past a close nobody waits for a verdict, and out of step the next frames
                    // may look broken: drop this read, look for close-ok in the next.
                    if self.state != State::Closing {
                        self.fail(close);
                    }
                    return input.len();
                }
            }
        }
        if matches!(self.state, State::Gone | State::Leaving) {
            input.len()
        } else {
            at
        }
    }

    fn protocol_header(&mut self, input: &[u8]) -> Option<usize> {
        const OURS: &[u8; 8] = b"AMQP\0\0\x09\x01";
        const OLD: &[u8; 8] = b"AMQP\x01\x01\0\x09";
        let n = input.len().min(8);
        if input[..n] != OURS[..n] && input[..n] != OLD[..n] {
            self.out.extend_from_slice(OURS);
            self.gone();
            return Some(input.len());
        }
        if n < 8 {
            return None;
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
        self.until = None;
        self.events.push_back(Event::Gone);
    }

    fn fail(&mut self, close: Close) {
        self.state = State::Gone;
        self.events.push_back(Event::Failed(close));
    }

    // ---- control methods -------------------------------------------------------------------

    fn method(&mut self, number: u16, payload: &[u8]) -> Fault {
        if self.state == State::Closing {
            match (number, payload) {
                (0, [0, 10, 0, 51, ..]) => self.gone(),
                (0, [0, 10, 0, 50, ..]) => self.connection_closed(),
                _ => {}
            }
            return Ok(());
        }
        if let Some(channel) = self.channels.get(&number)
            && channel.closing != Closing::No
        {
            self.closing_channel(number, payload);
            return Ok(());
        }
        let cause = crate::control::ids(payload)?;
        if self
            .channels
            .get(&number)
            .is_some_and(|channel| channel.content.is_some())
        {
            let text = "expected content header or body, got a method";
            return Err(Close::connection(505, text, cause));
        }
        if (number == 0) != (cause.0 == 10) {
            let text = if number == 0 {
                "method on channel 0"
            } else {
                "connection method on a channel"
            };
            return Err(Close::connection(503, text, cause));
        }
        if number != 0 && self.state != State::Open {
            return Err(Close::connection(
                503,
                "method before connection.open",
                cause,
            ));
        }
        if cause == (60, 40) {
            return self.publish(number, payload);
        }
        crate::control::guard(payload, cause)?;
        let (rest, method) = parse_class(payload).map_err(|_| {
            Close::connection(
                502,
                format!("cannot decode method {}.{}", cause.0, cause.1),
                cause,
            )
        })?;
        if !rest.is_empty() {
            let text = format!("trailing bytes after method {}.{}", cause.0, cause.1);
            return Err(Close::connection(502, text, cause));
        }
        if number == 0 {
            self.connection_method(method, cause)
        } else {
            self.channel_method(number, method, cause)
        }
    }

    fn closing_channel(&mut self, number: u16, payload: &[u8]) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        match (payload, channel.closing) {
            ([0, 20, 0, 41, ..], Closing::Sent) => {
                self.channels.remove(&number);
            }
            ([0, 20, 0, 40, ..], Closing::Sent) => self.channel_closed(number),
            // Answered once the shell has sent its own close, so that replies keep their order.
            ([0, 20, 0, 40, ..], Closing::Fault) => channel.closing = Closing::Crossed,
            _ => {}
        }
    }

    fn connection_method(&mut self, method: AMQPClass, cause: (u16, u16)) -> Fault {
        use connection::AMQPMethod as M;
        let AMQPClass::Connection(method) = method else {
            return Ok(());
        };
        match (self.state, method) {
            (State::Start, M::StartOk(ok)) => {
                self.client_properties = crate::control::from_field_table(&ok.client_properties);
                self.state = State::Tune;
                let mechanism = ok.mechanism.as_str().to_owned();
                let response = ok.response.as_bytes().to_vec();
                self.events.push_back(Event::Login {
                    mechanism,
                    response,
                });
            }
            (State::Tune, M::TuneOk(ok)) => self.tune(&ok)?,
            (State::Opening, M::Open(open)) => {
                self.state = State::Open;
                self.events.push_back(Event::Open {
                    vhost: open.virtual_host.as_str().to_owned(),
                });
            }
            (_, M::Close(close)) => {
                self.state = State::Leaving;
                let text = close.reply_text.as_str().to_owned();
                self.events.push_back(Event::Closed { text });
            }
            (State::Open, method @ M::UpdateSecret(_)) => {
                let method = AMQPClass::Connection(method);
                self.events.push_back(Event::Method { channel: 0, method });
            }
            _ => {
                return Err(Close::connection(
                    503,
                    "unexpected connection method",
                    cause,
                ));
            }
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
        // Zero on both sides: no limit.
        self.channel_max = u16::try_from(channels)
            .ok()
            .filter(|&n| n > 0)
            .unwrap_or(u16::MAX);
        self.heartbeat = ok.heartbeat;
        self.state = State::Opening;
        Ok(())
    }

    fn channel_method(&mut self, number: u16, method: AMQPClass, cause: (u16, u16)) -> Fault {
        // Both sides closed at once: the answer to ours comes after theirs ended the channel.
        if cause == (20, 41) {
            return Ok(());
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
            self.events
                .push_back(Event::ChannelOpen { channel: number });
            return Ok(());
        }
        let Some(channel) = self.channels.get_mut(&number) else {
            return Err(Close::connection(504, "expected 'channel.open'", cause));
        };
        let mix = |channel: &mut ChannelState, text: &str| {
            channel.closing = Closing::Fault;
            Event::ChannelError {
                channel: number,
                close: Close::channel(406, text, cause),
            }
        };
        use basic::AMQPMethod as B;
        let event = match method {
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                channel.closing = Closing::Asked;
                Event::ChannelClose { channel: number }
            }
            AMQPClass::Basic(B::Ack(m)) => Event::Ack {
                channel: number,
                tag: m.delivery_tag,
                multiple: m.multiple,
            },
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
            AMQPClass::Confirm(confirm::AMQPMethod::Select(m)) => {
                if channel.tx {
                    mix(channel, "cannot switch from tx to confirm mode")
                } else {
                    channel.confirm.get_or_insert(1);
                    Event::ConfirmSelect {
                        channel: number,
                        nowait: m.nowait,
                    }
                }
            }
            method @ AMQPClass::Tx(_) if cause == (90, 10) => {
                if channel.confirm.is_some() {
                    mix(channel, "cannot switch from confirm to tx mode")
                } else {
                    channel.tx = true;
                    Event::Method {
                        channel: number,
                        method,
                    }
                }
            }
            method => Event::Method {
                channel: number,
                method,
            },
        };
        self.events.push_back(event);
        Ok(())
    }

    // ---- the shell's side ------------------------------------------------------------------

    /// The next event; those of a channel that the server closed meanwhile are left out.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The contents that this turn's `Publish` events index into; call before polling them.
    pub fn take_block(&mut self) -> Block {
        let last = &self.block;
        let next = Block {
            data: Vec::with_capacity(last.data.len().min(1 << 18)),
            entries: Vec::with_capacity(last.entries.len().min(1 << 12)),
            addresses: Vec::with_capacity(last.addresses.len().min(1 << 8)),
        };
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
        self.out
            .extend_from_slice(&(payload.len() as u32).to_be_bytes());
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
        self.reply(
            0,
            &AMQPClass::Connection(connection::AMQPMethod::Tune(tune)),
        );
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
            // What the client sent ahead of the verdict must not be acted on.
            self.events.clear();
            self.state = State::Closing;
            self.until = Some(now + SILENT_CLOSE);
        }
    }

    /// The vhost is open.
    pub fn accept_open(&mut self) {
        let ok = connection::OpenOk {};
        self.reply(
            0,
            &AMQPClass::Connection(connection::AMQPMethod::OpenOk(ok)),
        );
    }

    /// The server closes the connection; a second close is left out.
    pub fn close(&mut self, now: Instant, close: &Close) {
        if self.state == State::Closing {
            return;
        }
        self.state = State::Closing;
        self.until = Some(now + CLOSE_OK);
        self.events.clear();
        let close = connection::Close {
            reply_code: close.code,
            reply_text: close.text.as_str().into(),
            class_id: close.class,
            method_id: close.method,
        };
        self.reply(
            0,
            &AMQPClass::Connection(connection::AMQPMethod::Close(close)),
        );
    }

    /// The server closes a channel; its frames are ignored until close-ok.
    pub fn close_channel(&mut self, number: u16, close: &Close) {
        debug_assert_eq!(close.scope, Scope::Channel);
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if channel.closing == Closing::Sent {
            return;
        }
        let crossed = channel.closing == Closing::Crossed;
        channel.closing = Closing::Sent;
        if let Some(content) = channel.content.take() {
            self.assembling = self.assembling.saturating_sub(content.data.len() as u64);
        }
        let answered = crossed
            || self.events.iter().any(
                |event| matches!(event, Event::ChannelClose { channel } if *channel == number),
            );
        self.events.retain(|event| !event.is_of(number));
        let close = channel::Close {
            reply_code: close.code,
            reply_text: close.text.as_str().into(),
            class_id: close.class,
            method_id: close.method,
        };
        self.reply(
            number,
            &AMQPClass::Channel(channel::AMQPMethod::Close(close)),
        );
        if answered {
            self.channel_closed(number);
        }
    }

    /// The shell has cleaned a channel up that the client closed.
    pub fn channel_closed(&mut self, number: u16) {
        self.channels.remove(&number);
        let ok = channel::CloseOk {};
        self.reply(
            number,
            &AMQPClass::Channel(channel::AMQPMethod::CloseOk(ok)),
        );
    }

    /// The shell has cleaned up after a client's close.
    pub fn connection_closed(&mut self) {
        let ok = connection::CloseOk {};
        self.reply(
            0,
            &AMQPClass::Connection(connection::AMQPMethod::CloseOk(ok)),
        );
        self.gone();
    }

    /// When `handle_deadline` must be called.
    pub fn deadline(&self) -> Option<Instant> {
        if self.until.is_some() {
            return self.until;
        }
        match self.state {
            State::Gone | State::Leaving | State::Closing => None,
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
