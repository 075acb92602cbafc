//! One AMQP connection on one socket: read turn → protocol → store → write turn.
//!
//! Keeps: answers in the order of the questions; acks are read whatever the outbox holds.
//! Never: a rule of delivery (those are the store's) or of the protocol (those are `amqp`'s).
//! In: `listen` spawns one per connection.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use amqp::connection::{Connection, Event, Options};
use amqp::content::{Block, Entry};
use amqp::field::{Table, Value};
use amqp::properties::{self, Properties};
use amqp::protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx};
use amqp::reply::{Close, Scope};
use amqp::tags::{Confirm, Confirms};
use amqp::{control, hot, limits, sasl};
use futures::FutureExt as _;
use store::Store;
use store::access::{Resource, Right};
use store::definitions::{ExchangeDeclare, QueueDeclare, generated, server_name};
use store::model::{BindingSpec, DestinationKind, QueueId};
use store::queue::consumers::{ChannelKey, Consumer};
use store::shard::{Got, Out, Pace, REPLY_TO, Verdict};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::access::Door;
use crate::config::{Auth, NameFrom};
use crate::listen::Peer;
use crate::reply;
use input::Input;

mod input;
mod login;
mod methods;
mod output;
mod publish;
mod rights;

use publish::{Kept, Published};

/// Bytes read in one turn.
const TURN: usize = 256 << 10;
/// Bytes waiting for the socket above which no more deliveries are encoded.
const WRITE_HIGH: usize = 1 << 20;
/// Contents under assembly of all connections together, bytes: eight of the largest messages. Who
/// makes it more while holding more than a small share is ended.
const ASSEMBLING_ALL_MAX: u64 = 1 << 30;
/// What any connection may have under assembly, whatever others do, bytes.
const SMALL_SHARE: u64 = 256 << 10;
/// Content bytes in one turn that make a publisher a fast one.
const HEAVY: usize = 32 << 10;
/// Messages that share one claim to a confirm, at most.
const RUN: u32 = 256;
/// How long a publisher rests when its consumers cannot keep up.
const REST: Duration = Duration::from_millis(2);
/// The same when the disk cannot: commits take longer than turns.
const LONG_REST: Duration = Duration::from_millis(10);
/// During an alarm a publisher is read this much at a time, and this often: acks, cancels and
/// closes behind its messages still get through, and its messages hardly.
const DRIP: usize = 16 << 10;
const DRIP_EVERY: Duration = Duration::from_millis(500);
/// The same where only a full queue stops it and its own acks may make the room: those of a client
/// that publishes and consumes on one connection may be behind a megabyte of messages.
const DRIP_SOON: Duration = Duration::from_millis(100);
/// So often is a publisher read that waits for a full queue and has nothing to ack: a goodbye
/// behind its last messages is heard, and what it sends on all the same has a bound.
const DRIPS_MAX: u32 = 4;
/// For so many turns after it was held a publisher is read little at a time: the limit of the queue
/// that was full is passed by no more. A megabyte without a stop, and turns are large again.
const CAREFUL: u32 = 64;
/// How long a closing client may take to read its goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What all sessions share.
pub struct Shared {
    plain: Arc<Options>,
    /// On TLS more mechanisms can be offered.
    tls: Arc<Options>,
    auth: Auth,
    connections_max: usize,
    /// Connections past connection.open.
    opened: AtomicUsize,
    /// Bytes of contents under assembly, of all connections.
    assembling: AtomicU64,
}

/// A connection's share of the contents under assembly; given back when dropped.
struct Assembling {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Assembling {
    /// What it is now. False: it grew, is no small share, and all together are too many.
    fn is_bearable(&mut self, bytes: u64) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let all = &self.shared.assembling;
        let sum = match bytes.checked_sub(before) {
            Some(0) => return true,
            Some(more) => all.fetch_add(more, Ordering::Relaxed) + more,
            None => all.fetch_sub(before - bytes, Ordering::Relaxed),
        };
        bytes <= before || bytes <= SMALL_SHARE || sum <= ASSEMBLING_ALL_MAX
    }
}

impl Drop for Assembling {
    fn drop(&mut self) {
        self.is_bearable(0);
    }
}

/// One of the node's connections; free again when dropped.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.opened.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// `product` and `version` are what clients sniff (DESIGN.md §6).
    pub fn new(product: &str, version: &str, message_max: u64) -> Self {
        let auth = Auth::default();
        let plain = Arc::new(options(product, version, message_max, auth.offered(false)));
        Self {
            tls: plain.clone(),
            plain,
            auth,
            connections_max: usize::MAX,
            opened: AtomicUsize::new(0),
            assembling: AtomicU64::new(0),
        }
    }

    /// How clients log in, and how many may be there; no number is no limit.
    #[must_use]
    pub fn with(mut self, auth: Auth, connections_max: Option<usize>) -> Self {
        for (tls, options) in [(false, &mut self.plain), (true, &mut self.tls)] {
            Arc::make_mut(options).mechanisms = auth.offered(tls);
        }
        self.auth = auth;
        self.connections_max = connections_max.unwrap_or(usize::MAX);
        self
    }

    fn options(&self, tls: bool) -> &Arc<Options> {
        if tls { &self.tls } else { &self.plain }
    }

    pub fn login_from(&self) -> NameFrom {
        self.auth.login_from
    }

    /// A place for one more open connection, or how many there may be.
    fn enter(self: &Arc<Self>) -> Result<Place, usize> {
        let place = Place(self.clone());
        let before = self.opened.fetch_add(1, Ordering::Relaxed);
        let max = self.connections_max;
        (before < max).then_some(place).ok_or(max)
    }
}

fn options(product: &str, version: &str, message_max: u64, mechanisms: String) -> Options {
    let mut capabilities = Table::default();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.insert(name, Value::Bool(true));
    }
    let own = concat!("Leveret ", env!("CARGO_PKG_VERSION"));
    let mut server = Table::default();
    server.insert("capabilities", Value::Table(capabilities));
    for (key, value) in [
        ("cluster_name", "leveret"),
        ("copyright", "The Leveret authors"),
        ("information", own),
        ("platform", own),
        ("product", product),
        ("version", version),
    ] {
        server.insert(key, Value::text(value));
    }
    Options {
        frame_max: limits::FRAME_MAX,
        channel_max: limits::CHANNEL_MAX,
        heartbeat: limits::HEARTBEAT,
        message_max: message_max.min(limits::MESSAGE_CAP),
        server_properties: server,
        mechanisms,
    }
}

/// A channel on tx: what commit will do.
#[derive(Default)]
struct Tx {
    publishes: Vec<Kept>,
    settles: Vec<(u64, bool, Verdict)>,
}

struct Session {
    id: usize,
    conn: Connection,
    store: Store,
    vhost: Arc<str>,
    user: String,
    /// What the user may do in the vhost.
    door: Door,
    shared: Arc<Shared>,
    peer: Peer,
    place: Option<Place>,
    confirms: HashMap<u16, Confirms>,
    last_queue: HashMap<u16, String>,
    tx: HashMap<u16, Tx>,
    cleaned: bool,
    slow: bool,
    /// The disk is behind: as `slow`, until it has caught up.
    behind: bool,
    /// An alarm holds and this connection has published since, or it has published to a queue that
    /// is full.
    held: bool,
    /// It published in its last turn, though held.
    presses: bool,
    /// How often it did, since it is held.
    drips: u32,
    /// The next one comes sooner.
    soon: bool,
    /// Turns that are small yet.
    careful: u32,
    has_published: bool,
    told_blocked: bool,
    assembling: Assembling,
}

/// Serves one connection to its end.
pub async fn run<S>(
    socket: S,
    peer: Peer,
    store: Store,
    shared: Arc<Shared>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(socket);
    let notify = Arc::new(Notify::new());
    let mut session = Session::new(peer, store, shared, notify.clone());
    let mut input = Input::default();
    let mut output: Vec<u8> = Vec::new();
    let mut sent = 0;
    // TLS may hold back what was written until its socket has room.
    let mut held_back = false;
    let mut stopping = false;
    loop {
        if output.len() - sent < WRITE_HIGH {
            if sent > 0 {
                output.drain(..sent);
                sent = 0;
            }
            session.fill();
            output.append(session.conn.output());
        }
        if session.conn.is_gone() && sent == output.len() && !held_back {
            break;
        }
        let deadline = session
            .conn
            .deadline()
            .unwrap_or_else(|| now() + limits::CLOSE_OK);
        let rest = session.rest();
        let listening = rest.is_none() && !session.conn.is_gone();
        tokio::select! {
            biased;
            written = push(&mut writer, &output[sent..]), if sent < output.len() || held_back => {
                let Ok(count) = written else { break };
                sent += count;
                session.conn.note_sent(now());
                let flushed = count == 0 || writer.flush().now_or_never().is_some();
                held_back = !flushed;
            }
            () = notify.notified() => {}
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                session.forced();
            }
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {
                if session.rested() {
                    match input.read(&mut reader, DRIP).now_or_never() {
                        Some(Ok(n)) if n > 0 => session.turn(&mut input).await,
                        Some(_) => break,
                        None => session.presses = false,
                    }
                }
            }
            read = input.read(&mut reader, session.turn_max()), if listening => match read {
                Ok(n) if n > 0 => session.turn(&mut input).await,
                _ => break,
            },
            () = tokio::time::sleep_until(deadline.into()) => {
                session.conn.handle_deadline(now());
                session.events(Block::default()).await;
                input.rest();
                output.shrink_to(limits::IDLE_ROOM);
            }
        }
    }
    session.clean(true);
    let _ = tokio::time::timeout(GOODBYE, writer.write_all(&output[sent..])).await;
    // The client hangs up first, so that it reads our last words before an end of stream.
    let hang_up = async {
        input.bytes.clear();
        while matches!(input.read(&mut reader, TURN).await, Ok(n) if n > 0) {
            input.bytes.clear();
        }
    };
    if session.conn.is_gone() && !stopping && session.conn.said_goodbye() {
        let _ = tokio::time::timeout(GOODBYE, hang_up).await;
    }
    let _ = tokio::time::timeout(GOODBYE, writer.shutdown()).await;
}

/// Writes some bytes; where there are none, what TLS held back.
async fn push(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write(bytes).await {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        written => written,
    }
}

impl Session {
    fn new(peer: Peer, store: Store, shared: Arc<Shared>, notify: Arc<Notify>) -> Self {
        let id = store.lock().open_session(notify);
        let door = Door::new(&store, "", "");
        let assembling = Assembling {
            shared: shared.clone(),
            bytes: 0,
        };
        Self {
            id,
            conn: Connection::new(now(), shared.options(peer.tls).clone()),
            store,
            vhost: "/".into(),
            user: String::new(),
            door,
            shared,
            peer,
            place: None,
            confirms: HashMap::new(),
            last_queue: HashMap::new(),
            tx: HashMap::new(),
            cleaned: false,
            slow: false,
            behind: false,
            held: false,
            presses: false,
            drips: 0,
            soon: false,
            careful: 0,
            has_published: false,
            told_blocked: false,
            assembling,
        }
    }

    async fn turn(&mut self, input: &mut Input) {
        let used = self.conn.handle_bytes(now(), &input.bytes);
        input.used(used);
        let block = self.conn.take_block();
        // Only a publisher that fills its turns can outrun its consumers.
        let published = block.data.len();
        let heavy = published >= HEAVY;
        let unfinished = self.conn.assembling();
        if !self.assembling.is_bearable(unfinished) {
            let text = "too many bytes of unfinished messages on this node";
            self.conn
                .close(now(), &Close::connection(506, text, (60, 40)));
        }
        self.events(block).await;
        let presses = published > 0 || unfinished > 0;
        self.note_pressing(presses);
        if presses {
            self.keep_pace();
        }
        self.slow |= heavy && self.store.lock().take_slow();
    }

    /// A publisher during an alarm, or of a full queue, is told, and read by the drop only.
    fn keep_pace(&mut self) {
        let (pace, reason) = {
            let mut shard = self.store.lock();
            let alone = shard.waits_for_room(self.id) && !shard.is_blocked();
            self.soon = alone && shard.has_deliveries(self.id);
            (shard.pace(self.id), shard.reason_to_wait(self.id))
        };
        self.hold(pace == Pace::Wait);
        self.behind = pace == Pace::Rest;
        if let Some(reason) = reason {
            self.tell_blocked(Some(&reason));
        }
    }

    /// A turn is over, in which there were messages or none.
    fn note_pressing(&mut self, presses: bool) {
        self.presses = presses;
        if presses {
            self.drips += u32::from(self.held);
            self.careful = self.careful.saturating_sub(1);
        }
    }

    fn hold(&mut self, held: bool) {
        if held && !self.held {
            self.drips = 0;
            self.presses = true;
            self.careful = CAREFUL;
        }
        self.held = held;
    }

    /// How much to read in one turn.
    fn turn_max(&self) -> usize {
        match self.held || self.careful > 0 {
            true => DRIP,
            false => TURN,
        }
    }

    /// How long not to read; none to read at once.
    fn rest(&mut self) -> Option<Duration> {
        let presses = self.held && self.presses;
        if presses || self.behind {
            // Its silence is our doing.
            self.conn.note_heard(now());
        }
        // Who is held but sends no messages is read at once: acks are no pressure.
        match (presses, self.behind, self.slow) {
            (true, ..) if self.soon => Some(DRIP_SOON),
            (true, ..) => Some(DRIP_EVERY),
            (_, true, _) => Some(LONG_REST),
            (.., true) => Some(REST),
            _ => None,
        }
    }

    /// A rest is over. True when a drop may be read before the next one.
    fn rested(&mut self) -> bool {
        self.slow = false;
        if self.behind {
            self.keep_pace();
        }
        if !self.held || self.conn.is_gone() {
            return false;
        }
        let mut shard = self.store.lock();
        // Its acks may be what makes room.
        let is_needed = !shard.waits_for_room(self.id) || shard.has_deliveries(self.id);
        shard.may_drip() && (is_needed || self.drips < DRIPS_MAX)
    }

    async fn events(&mut self, block: Block) {
        let block = Arc::new(block);
        while let Some(event) = self.conn.poll_event() {
            match event {
                Event::Publish {
                    channel,
                    first,
                    count,
                    mandatory,
                    confirm,
                } => {
                    let what = Published {
                        channel,
                        first,
                        count,
                        mandatory,
                        confirm,
                    };
                    self.publish(&block, what);
                }
                Event::Ack {
                    channel,
                    tag,
                    count,
                    multiple: false,
                } if count > 1 => self.ack_run(channel, tag, count),
                Event::Ack {
                    channel,
                    tag,
                    multiple,
                    ..
                } => drop(self.settle(channel, (tag, multiple), Verdict::Ack)),
                Event::Nack {
                    channel,
                    tag,
                    multiple,
                    requeue,
                } => {
                    self.settle(channel, (tag, multiple), Verdict::Nack { requeue });
                }
                Event::Reject {
                    channel,
                    tag,
                    requeue,
                } => {
                    self.settle(channel, (tag, false), Verdict::Reject { requeue });
                }
                Event::Method { channel, method } => self.method(channel, method).await,
                other => self.control(other),
            }
        }
    }

    fn key(&self, channel: u16) -> ChannelKey {
        ChannelKey {
            session: self.id,
            channel,
        }
    }

    fn control(&mut self, event: Event) {
        match event {
            Event::Login {
                mechanism,
                response,
            } => self.login(&mechanism, &response),
            Event::Open { vhost } => self.open(&vhost),
            Event::ChannelOpen { channel } => {
                let allowed = self.store.lock().check_channels(self.id);
                if let Err(error) = allowed {
                    return self.close_channel(channel, &reply::close(&error, (0, 0)));
                }
                self.store.lock().open_channel(self.key(channel));
                let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
                self.conn.reply(channel, &AMQPClass::Channel(ok));
            }
            Event::ChannelClose { channel } => {
                self.drop_channel(channel);
                self.conn.channel_closed(channel);
            }
            Event::ConfirmSelect { channel, nowait } => {
                self.confirms.entry(channel).or_default();
                if !nowait {
                    let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
                    self.conn.reply(channel, &AMQPClass::Confirm(ok));
                }
            }
            Event::ChannelError { channel, close } => self.close_channel(channel, &close),
            Event::Closed { .. } => {
                self.fill();
                self.clean(false);
                self.conn.connection_closed();
            }
            Event::Failed(close) => {
                self.clean(true);
                self.conn.close(now(), &close);
            }
            _ => {}
        }
    }

    /// The operator stops the node.
    fn forced(&mut self) {
        self.clean(false);
        if self.conn.is_open() {
            let text = "broker forced connection closure with reason 'shutdown'";
            self.conn
                .close(now(), &Close::connection(320, text, (0, 0)));
        }
        // The client hears of it; whether it answers is its own affair.
        self.conn
            .handle_deadline(now() + limits::CLOSE_OK + limits::CLOSE_OK);
    }

    /// An operator ends the connection.
    fn ended(&mut self, code: u16, text: String) {
        self.clean(false);
        if self.conn.is_open() {
            self.conn
                .close(now(), &Close::connection(code, text, (0, 0)));
        }
    }

    /// May the user do this? Refused in the words of the method to blame.
    fn may(
        &mut self,
        right: Right,
        resource: Resource<'_>,
        cause: (u16, u16),
    ) -> Result<(), Close> {
        let allowed = self.door.authorize(&self.store, right, resource);
        allowed.map_err(|error| reply::close(&error, cause))
    }

    fn has_tag(&self, tag: &str) -> bool {
        let shard = self.store.lock();
        shard.directory().has_tag(&self.user, tag)
    }

    fn clean(&mut self, lost: bool) {
        if !std::mem::replace(&mut self.cleaned, true) {
            self.store.lock().close_session(self.id, lost);
        }
    }

    fn drop_channel(&mut self, channel: u16) {
        self.store.lock().close_channel(self.key(channel), false);
        self.fill();
        self.confirms.remove(&channel);
        self.last_queue.remove(&channel);
        self.tx.remove(&channel);
    }

    fn close_channel(&mut self, channel: u16, close: &Close) {
        match close.scope {
            Scope::Channel => {
                self.drop_channel(channel);
                self.conn.close_channel(channel, close);
            }
            Scope::Connection => {
                self.clean(true);
                self.conn.close(now(), close);
            }
        }
    }
}

/// The runtime's time, so that heartbeats and sleeps agree where a test has paused it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// RabbitMQ strips line ends from names.
fn clean_name(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_contents_of_all_connections_have_a_bound() {
        let shared = Arc::new(Shared::new("RabbitMQ", "4.2.0", 1 << 20));
        let part = || Assembling {
            shared: shared.clone(),
            bytes: 0,
        };
        let (mut first, mut second, mut small) = (part(), part(), part());
        assert!(first.is_bearable(ASSEMBLING_ALL_MAX));
        assert!(
            small.is_bearable(SMALL_SHARE),
            "a small share is everybody's"
        );
        assert!(!second.is_bearable(SMALL_SHARE + 1));
        assert!(
            first.is_bearable(ASSEMBLING_ALL_MAX - SMALL_SHARE),
            "less is always borne"
        );
        drop(second);
        assert!(first.is_bearable(ASSEMBLING_ALL_MAX - SMALL_SHARE));
        drop((first, small));
        assert_eq!(shared.assembling.load(Ordering::Relaxed), 0);
    }
}
