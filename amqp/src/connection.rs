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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, connection, gen_class, parse_class,
};

use crate::content::Block;
pub use crate::event::Event;
use crate::event::Events;
use crate::field::{Table, Value, check_table};
use crate::limits::{CLOSE_OK, FRAME_MIN, HANDSHAKE, IDLE_ROOM, SILENT_CLOSE};
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
    /// At most `limits::MESSAGE_CAP`.
    pub message_max: u64,
    pub server_properties: Table,
    pub mechanisms: String,
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

impl ChannelState {
    /// Takes methods: not closing, and no content is due.
    fn is_ready(&self) -> bool {
        self.closing == Closing::No && self.content.is_none()
    }

    /// The number of the next publish; 0 outside confirm mode.
    fn next_confirm(&mut self) -> u64 {
        self.confirm
            .as_mut()
            .map_or(0, |next| std::mem::replace(next, *next + 1))
    }
}

pub struct Connection {
    options: Arc<Options>,
    state: State,
    channels: BTreeMap<u16, ChannelState>,
    events: Events,
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
    goodbye: bool,
}

type Fault = Result<(), Close>;

impl Connection {
    pub fn new(now: Instant, options: impl Into<Arc<Options>>) -> Self {
        let options = options.into();
        Self {
            frame_max: options.frame_max,
            channel_max: options.channel_max,
            heartbeat: 0,
            options,
            state: State::Header,
            channels: BTreeMap::new(),
            events: Events::default(),
            block: Block::default(),
            out: Vec::new(),
            client_properties: Table::default(),
            born: now,
            heard: now,
            sent: now,
            until: None,
            assembling: 0,
            goodbye: false,
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
        self.events.push(Event::Gone);
    }

    fn fail(&mut self, close: Close) {
        self.state = State::Gone;
        self.events.push(Event::Failed(close));
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
        let due = self
            .channels
            .get(&number)
            .and_then(|channel| channel.content.as_ref());
        if let Some(content) = due {
            return Err(content.due());
        }
        let cause = crate::control::ids(payload)?;
        if number == 0 && cause.0 != 10 {
            return Err(self.unexpected(cause));
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
        if number != 0 {
            if cause.0 != 20 && !self.channels.contains_key(&number) {
                return Err(Close::connection(504, "expected 'channel.open'", cause));
            }
            crate::control::refuse(payload, cause)?;
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

    /// A method out of its order on channel 0; text as RabbitMQ's.
    fn unexpected(&self, cause: (u16, u16)) -> Close {
        let state = match self.state {
            State::Header | State::Start => "starting",
            State::Tune => "tuning",
            State::Opening => "opening",
            State::Open => "running",
            State::Closing | State::Leaving | State::Gone => "closing",
        };
        let text = format!("unexpected method in connection state {state}");
        Close::connection(504, text, cause)
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
                self.events.push(Event::Login {
                    mechanism,
                    response,
                });
            }
            (State::Tune, M::TuneOk(ok)) => self.tune(&ok)?,
            (State::Opening, M::Open(open)) => {
                self.state = State::Open;
                self.events.push(Event::Open {
                    vhost: open.virtual_host.as_str().to_owned(),
                });
            }
            (_, M::Close(close)) => {
                self.state = State::Leaving;
                let text = close.reply_text.as_str().to_owned();
                self.events.push(Event::Closed { text });
            }
            (State::Open, method @ M::UpdateSecret(_)) => {
                let method = AMQPClass::Connection(method);
                self.events.push(Event::Method { channel: 0, method });
            }
            _ => return Err(self.unexpected(cause)),
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

    fn open_channel(&mut self, number: u16, cause: (u16, u16)) -> Fault {
        let (open, most) = (self.channels.len(), self.channel_max);
        // RabbitMQ counts the channels; their numbers may be any.
        if open >= usize::from(most) && !self.channels.contains_key(&number) {
            let text = format!(
                "number of channels opened ({open}) has reached the negotiated channel_max \
                 ({most})"
            );
            return Err(Close::connection(530, text, (0, 0)));
        }
        if self.channels.contains_key(&number) {
            return Err(Close::connection(504, "second 'channel.open' seen", cause));
        }
        self.channels.insert(number, ChannelState::default());
        self.events.push(Event::ChannelOpen { channel: number });
        Ok(())
    }

    fn channel_method(&mut self, number: u16, method: AMQPClass, cause: (u16, u16)) -> Fault {
        match cause {
            // Both sides closed at once: the answer to ours comes after theirs ended the channel.
            (20, 41) => return Ok(()),
            (20, 10) => return self.open_channel(number, cause),
            _ => {}
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
                count: 1,
            },
            AMQPClass::Basic(B::Nack(m)) => Event::Nack {
                channel: number,
                tag: m.delivery_tag,
                multiple: m.multiple,
                requeue: m.requeue,
            },
            AMQPClass::Basic(B::Reject(m)) => Event::Reject {
                channel: number,
                tag: m.delivery_tag,
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
        self.events.push(event);
        Ok(())
    }

    // ---- the shell's side ------------------------------------------------------------------

    /// The next event; those of a channel that the server closed meanwhile are left out.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
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
        // Out of step with its frames, close-ok may never be made out.
        let patience = if close.code == 501 {
            SILENT_CLOSE
        } else {
            CLOSE_OK
        };
        self.until = Some(now + patience);
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
        let answered = self.events.forget(number) || crossed;
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
        self.goodbye = true;
        self.gone();
    }

    /// True when the client asked to close and was answered: it hangs up first.
    pub fn said_goodbye(&self) -> bool {
        self.goodbye
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
                    self.shrink();
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

    /// A connection that was quiet for so long keeps no room for its busiest turn.
    fn shrink(&mut self) {
        self.events.shrink();
        self.out.shrink_to(IDLE_ROOM);
        if self.block.entries.is_empty() {
            self.block = Block::default();
        }
    }

    /// The shell does not read on purpose, so the client cannot be blamed for silence.
    pub fn note_heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Something was written.
    pub fn note_sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Bytes of contents that have begun and not ended.
    pub fn assembling(&self) -> u64 {
        self.assembling
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

/// Refuses a table that is too deep, before the decoder sees it.
pub(crate) fn guarded(bytes: &[u8], cause: (u16, u16)) -> Fault {
    check_table(bytes).map_err(|error| Close::connection(502, error.to_string(), cause))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test; any instant")]
pub(crate) mod testing {
    use super::*;
    use crate::limits;

    pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(&channel.to_be_bytes());
        out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        out.extend_from_slice(payload);
        out.push(0xCE);
        out
    }

    pub(crate) fn publish_method(channel: u16, exchange: &[u8], key: &[u8], bits: u8) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 40, 0, 0, exchange.len() as u8];
        payload.extend_from_slice(exchange);
        payload.push(key.len() as u8);
        payload.extend_from_slice(key);
        payload.push(bits);
        frame(1, channel, &payload)
    }

    /// One turn: all events and the block.
    pub(crate) fn run(machine: &mut Connection, wire: &[u8]) -> (Vec<Event>, Block) {
        machine.handle_bytes(Instant::now(), wire);
        let block = machine.take_block();
        (std::iter::from_fn(|| machine.poll_event()).collect(), block)
    }

    pub(crate) fn new(now: Instant) -> Connection {
        let options = Options {
            frame_max: limits::FRAME_MAX,
            channel_max: limits::CHANNEL_MAX,
            heartbeat: limits::HEARTBEAT,
            message_max: limits::MESSAGE_MAX,
            server_properties: Table::default(),
            mechanisms: crate::sasl::MECHANISMS.into(),
        };
        Connection::new(now, options)
    }

    pub(crate) fn start_ok(table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 10, 0, 11];
        payload.extend_from_slice(&(table.len() as u32).to_be_bytes());
        payload.extend_from_slice(table);
        payload.extend_from_slice(b"\x05PLAIN\0\0\0\x04\0u\0p\x05en_US");
        frame(1, 0, &payload)
    }

    fn tune_ok(channels: u16, size: u32, beat: u16) -> Vec<u8> {
        let mut payload = vec![0, 10, 0, 31];
        payload.extend_from_slice(&channels.to_be_bytes());
        payload.extend_from_slice(&size.to_be_bytes());
        payload.extend_from_slice(&beat.to_be_bytes());
        frame(1, 0, &payload)
    }

    const OPEN: &[u8] = &[0, 10, 0, 40, 1, b'/', 0, 0];

    /// Through the handshake, with these channels open and all events taken.
    pub(crate) fn open(channels: &[u16]) -> Connection {
        let mut machine = new(Instant::now());
        let mut wire = b"AMQP\0\0\x09\x01".to_vec();
        wire.extend(start_ok(&[]));
        run(&mut machine, &wire);
        machine.accept_login();
        let mut wire = tune_ok(2047, limits::FRAME_MAX, 60);
        wire.extend(frame(1, 0, OPEN));
        for &channel in channels {
            wire.extend(frame(1, channel, &[0, 20, 0, 10, 0]));
        }
        run(&mut machine, &wire);
        machine.accept_open();
        machine.output().clear();
        assert!(machine.is_open());
        machine
    }

    /// (channel, class, method) of the method frames in the output.
    fn told(machine: &mut Connection) -> Vec<(u16, u16, u16)> {
        let bytes = std::mem::take(machine.output());
        let (mut at, mut out) = (0, Vec::new());
        while at < bytes.len() {
            let two = |i: usize| u16::from_be_bytes([bytes[at + i], bytes[at + i + 1]]);
            if bytes[at] == 1 {
                out.push((two(1), two(7), two(9)));
            }
            at += crate::content::frame_size(&bytes[at..]) + 8;
        }
        out
    }

    pub(crate) fn codes(events: &[Event]) -> Vec<u16> {
        let code = |event: &Event| match event {
            Event::Failed(close) | Event::ChannelError { close, .. } => Some(close.code),
            _ => None,
        };
        events.iter().filter_map(code).collect()
    }

    fn close_of(channel: u16) -> Vec<u8> {
        frame(1, channel, &[0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0])
    }

    #[test]
    fn the_handshake_reaches_open() {
        let mut machine = new(Instant::now());
        assert_eq!(machine.handle_bytes(Instant::now(), b"AMQP"), 0);
        assert_eq!(machine.handle_bytes(Instant::now(), b"AMQP\0\0\x09\x01"), 8);
        assert_eq!(told(&mut machine), [(0, 10, 10)]);
        let (events, _) = run(&mut machine, &start_ok(&[]));
        let [
            Event::Login {
                mechanism,
                response,
            },
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!(
            (mechanism.as_str(), &response[..]),
            ("PLAIN", &b"\0u\0p"[..])
        );
        machine.accept_login();
        assert_eq!(told(&mut machine), [(0, 10, 30)]);
        let wire = [tune_ok(10, 4096, 0), frame(1, 0, OPEN)].concat();
        let (events, _) = run(&mut machine, &wire);
        assert!(matches!(&events[..], [Event::Open { vhost }] if vhost == "/"));
        assert_eq!((machine.frame_max(), machine.deadline()), (4096, None));
    }

    #[test]
    fn other_headers_are_answered_with_ours() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"AMQP\x03\x01\0\0", b"AMQQ"] {
            let mut machine = new(Instant::now());
            let (events, _) = run(&mut machine, bytes);
            assert!(matches!(events[..], [Event::Gone]));
            assert_eq!(machine.output(), b"AMQP\0\0\x09\x01");
        }
        let mut old = new(Instant::now());
        assert_eq!(old.handle_bytes(Instant::now(), b"AMQP\x01"), 0);
        assert_eq!(old.handle_bytes(Instant::now(), b"AMQP\x01\x01\0\x09"), 8);
    }

    #[test]
    fn nothing_sent_ahead_of_a_refused_login_is_acted_on() {
        let mut machine = new(Instant::now());
        let mut wire = b"AMQP\0\0\x09\x01".to_vec();
        wire.extend(start_ok(&[]));
        wire.extend(tune_ok(2047, limits::FRAME_MAX, 0));
        wire.extend(frame(1, 0, OPEN));
        wire.extend(frame(1, 1, &[0, 20, 0, 10, 0]));
        let now = Instant::now();
        machine.handle_bytes(now, &wire);
        assert!(matches!(machine.poll_event(), Some(Event::Login { .. })));
        machine.refuse_login(now, "PLAIN");
        assert!(machine.poll_event().is_none());
        run(&mut machine, &frame(1, 2, &[0, 20, 0, 10, 0]));
        assert!(!machine.is_open());
        assert_eq!(machine.deadline(), Some(now + SILENT_CLOSE));
        machine.handle_deadline(now + SILENT_CLOSE);
        assert!(matches!(machine.poll_event(), Some(Event::Gone)));
    }

    #[test]
    fn a_capable_client_hears_why_its_login_failed() {
        let mut machine = new(Instant::now());
        let mut inner = Table::default();
        inner.insert("authentication_failure_close", Value::Bool(true));
        let mut table = Table::default();
        table.insert("capabilities", Value::Table(inner));
        run(
            &mut machine,
            &[b"AMQP\0\0\x09\x01".to_vec(), start_ok(&table.encode())].concat(),
        );
        machine.output().clear();
        machine.refuse_login(Instant::now(), "PLAIN");
        assert_eq!(told(&mut machine), [(0, 10, 50)]);
    }

    #[test]
    fn tune_answers_outside_the_offer_are_refused() {
        for (channels, size, fine) in [
            (2047, 131_072, true),
            (0, 131_072, false),
            (2048, 131_072, false),
            (9, 4095, false),
            (9, 131_073, false),
            (9, 0, false),
        ] {
            let mut machine = new(Instant::now());
            run(
                &mut machine,
                &[b"AMQP\0\0\x09\x01".to_vec(), start_ok(&[])].concat(),
            );
            machine.accept_login();
            let (events, _) = run(&mut machine, &tune_ok(channels, size, 5));
            assert_eq!(codes(&events).is_empty(), fine, "{channels} {size}");
            assert!(codes(&events).iter().all(|&code| code == 530));
        }
    }

    #[test]
    fn a_closed_channel_is_deaf_until_close_ok() {
        let mut machine = open(&[1]);
        machine.close_channel(1, &Close::channel(404, "no", (50, 10)));
        machine.close_channel(1, &Close::channel(404, "again", (50, 10)));
        let wire = [
            publish_method(1, b"", b"q", 0),
            frame(1, 1, &[0, 60, 0, 99]),
        ]
        .concat();
        assert!(run(&mut machine, &wire).0.is_empty());
        assert_eq!(told(&mut machine), [(1, 20, 40)]);
        let wire = [
            frame(1, 1, &[0, 20, 0, 41]),
            frame(1, 1, &[0, 20, 0, 10, 0]),
        ]
        .concat();
        let (events, _) = run(&mut machine, &wire);
        assert!(matches!(events[..], [Event::ChannelOpen { channel: 1 }]));
    }

    #[test]
    fn crossing_channel_closes_end_both_ways() {
        let mut machine = open(&[1]);
        machine.close_channel(1, &Close::channel(404, "no", (50, 10)));
        let (events, _) = run(&mut machine, &close_of(1));
        assert!(events.is_empty());
        assert_eq!(told(&mut machine), [(1, 20, 40), (1, 20, 41)]);
        let (events, _) = run(&mut machine, &frame(1, 1, &[0, 20, 0, 41]));
        assert!(events.is_empty(), "{events:?}");
    }

    #[test]
    fn a_clients_close_waits_for_the_verdict_on_its_fault() {
        let mut machine = open(&[1]);
        let confirm = frame(1, 1, &[0, 85, 0, 10, 0]);
        let wire = [confirm, frame(1, 1, &[0, 90, 0, 10]), close_of(1)].concat();
        let (events, _) = run(&mut machine, &wire);
        assert_eq!(codes(&events), [406]);
        assert!(told(&mut machine).is_empty(), "answered before its turn");
        let Some(Event::ChannelError { close, .. }) = events.last() else {
            panic!("{events:?}")
        };
        machine.close_channel(1, close);
        assert_eq!(told(&mut machine), [(1, 20, 40), (1, 20, 41)]);
    }

    #[test]
    fn a_failed_connection_waits_for_close_ok_only() {
        let mut machine = open(&[1]);
        let (events, _) = run(&mut machine, &frame(9, 0, b""));
        assert_eq!(codes(&events), [501]);
        let now = Instant::now();
        machine.close(now, &Close::connection(501, "", (0, 0)));
        machine.close(now, &Close::connection(320, "", (0, 0)));
        assert_eq!(machine.deadline(), Some(now + SILENT_CLOSE));
        assert!(run(&mut machine, &[9; 40]).0.is_empty());
        assert_eq!(told(&mut machine), [(0, 10, 50)]);
        let (events, _) = run(&mut machine, &frame(1, 0, &[0, 10, 0, 51]));
        assert!(matches!(events[..], [Event::Gone]));
    }

    #[test]
    fn a_clients_close_is_answered_once() {
        let mut machine = open(&[1]);
        let close = frame(1, 0, &[0, 10, 0, 50, 0, 200, 0, 0, 0, 0, 0]);
        let (events, _) = run(&mut machine, &[close.clone(), close].concat());
        assert!(matches!(events[..], [Event::Closed { .. }]));
        machine.connection_closed();
        assert_eq!(told(&mut machine), [(0, 10, 51)]);
        assert!(machine.is_gone());
    }

    #[test]
    fn heartbeats_go_out_and_silence_ends() {
        let mut machine = open(&[]);
        let start = Instant::now();
        machine.handle_bytes(start, b"");
        machine.note_sent(start);
        let half = start + Duration::from_secs(30);
        assert_eq!(machine.deadline(), Some(half));
        machine.handle_deadline(half);
        assert_eq!(machine.output(), &[8, 0, 0, 0, 0, 0, 0, 0xCE]);
        machine.handle_deadline(start + Duration::from_secs(119));
        assert!(!machine.is_gone());
        machine.handle_deadline(start + Duration::from_secs(120));
        assert!(machine.is_gone());
    }

    #[test]
    fn a_quiet_connection_keeps_no_room() {
        let mut machine = open(&[1]);
        let start = Instant::now();
        let mut wire = Vec::new();
        for n in 0..200u8 {
            wire.extend(publish_method(1, b"x", &[n], 0));
            wire.extend(frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        }
        run(&mut machine, &wire);
        machine.output().resize(100_000, 0);
        machine.output().clear();
        assert!(machine.events.room() >= 200 && machine.block.data.capacity() > 0);
        machine.handle_deadline(start + Duration::from_secs(45));
        assert_eq!(machine.output().len(), 8);
        assert!(machine.output().capacity() <= IDLE_ROOM);
        assert_eq!(
            (machine.events.room(), machine.block.data.capacity()),
            (0, 0)
        );
    }
}
