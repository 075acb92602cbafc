//! One AMQP connection on one socket: read turn → protocol → store → write turn.
//!
//! Keeps: answers in the order of the questions; acks are read whatever the outbox holds.
//! Never: a rule of delivery (those are the store's) or of the protocol (those are `amqp`'s).
//! In: `listen` spawns one per connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp::connection::{Connection, Event, Options};
use amqp::content::{Block, Entry};
use amqp::field::{Table, Value};
use amqp::properties::{self, Properties};
use amqp::protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx};
use amqp::reply::{Close, Scope};
use amqp::tags::{Confirm, Confirms};
use amqp::{control, hot, limits, sasl};
use store::Store;
use store::definitions::{ExchangeDeclare, QueueDeclare, generated};
use store::model::{BindingSpec, DestinationKind, QueueId};
use store::queue::consumers::{ChannelKey, Consumer};
use store::shard::{Got, Out, REPLY_TO};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::reply;

/// Bytes read in one turn.
const TURN: usize = 256 << 10;
/// Bytes waiting for the socket above which no more deliveries are encoded.
const WRITE_HIGH: usize = 1 << 20;
/// Content bytes in one turn that make a publisher a fast one.
const HEAVY: usize = 32 << 10;
/// Messages that share one claim to a confirm, at most.
const RUN: u32 = 256;
/// How long a publisher rests when its consumers cannot keep up.
const REST: Duration = Duration::from_millis(2);
/// How long a closing client may take to read its goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What all sessions share.
pub struct Shared {
    pub options: Options,
}

impl Shared {
    /// `product` and `version` are what clients sniff (DESIGN.md §6).
    pub fn new(product: &str, version: &str, message_max: u64) -> Self {
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
        let options = Options {
            frame_max: limits::FRAME_MAX,
            channel_max: limits::CHANNEL_MAX,
            heartbeat: limits::HEARTBEAT,
            message_max: message_max.min(limits::MESSAGE_CAP),
            server_properties: server,
            mechanisms: sasl::MECHANISMS.into(),
        };
        Self { options }
    }
}

/// A channel on tx: what commit will do.
#[derive(Default)]
struct Tx {
    publishes: Vec<(Arc<Block>, u32, u32, bool)>,
    settles: Vec<(u64, bool, Option<bool>)>,
}

struct Session {
    id: usize,
    conn: Connection,
    store: Store,
    vhost: Arc<str>,
    user: String,
    loopback: bool,
    mechanism: String,
    confirms: HashMap<u16, Confirms>,
    last_queue: HashMap<u16, String>,
    tx: HashMap<u16, Tx>,
    cleaned: bool,
    slow: bool,
    has_published: bool,
    told_blocked: bool,
}

/// Serves one connection to its end.
pub async fn run<R, W>(
    mut reader: R,
    mut writer: W,
    loopback: bool,
    store: Store,
    shared: Arc<Shared>,
    stop: CancellationToken,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let notify = Arc::new(Notify::new());
    let id = store.lock().open_session(notify.clone());
    let mut session = Session {
        id,
        conn: Connection::new(Instant::now(), shared.options.clone()),
        store: store.clone(),
        vhost: "/".into(),
        user: String::new(),
        loopback,
        mechanism: String::new(),
        confirms: HashMap::new(),
        last_queue: HashMap::new(),
        tx: HashMap::new(),
        cleaned: false,
        slow: false,
        has_published: false,
        told_blocked: false,
    };
    let mut input: Vec<u8> = Vec::with_capacity(TURN);
    let mut output: Vec<u8> = Vec::new();
    let mut sent = 0;
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
        if session.conn.is_gone() && sent == output.len() {
            break;
        }
        let deadline = session
            .conn
            .deadline()
            .map_or(Instant::now() + limits::CLOSE_OK, |at| at);
        let resting = session.slow;
        tokio::select! {
            biased;
            written = writer.write(&output[sent..]), if sent < output.len() => match written {
                Ok(n) if n > 0 => {
                    sent += n;
                    session.conn.note_sent(Instant::now());
                }
                _ => break,
            },
            () = notify.notified() => {}
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                session.forced();
            }
            () = tokio::time::sleep(REST), if resting => session.slow = false,
            read = reader.read_buf(&mut input), if !resting && !session.conn.is_gone() => match read {
                Ok(n) if n > 0 => session.turn(&mut input).await,
                _ => break,
            },
            () = tokio::time::sleep_until(deadline.into()) => {
                session.conn.handle_deadline(Instant::now());
                session.events(Block::default()).await;
            }
        }
    }
    session.clean(true);
    let _ = tokio::time::timeout(GOODBYE, writer.write_all(&output[sent..])).await;
    // The client hangs up first, so that it reads our last words before an end of stream.
    let hang_up = async {
        input.clear();
        while matches!(reader.read_buf(&mut input).await, Ok(n) if n > 0) {
            input.clear();
        }
    };
    if session.conn.is_gone() && !stopping && session.conn.said_goodbye() {
        let _ = tokio::time::timeout(GOODBYE, hang_up).await;
    }
    let _ = tokio::time::timeout(GOODBYE, writer.shutdown()).await;
}

impl Session {
    async fn turn(&mut self, input: &mut Vec<u8>) {
        let used = self.conn.handle_bytes(Instant::now(), input);
        input.drain(..used);
        if input.capacity() - input.len() < TURN / 2 {
            input.reserve(TURN);
        }
        let block = self.conn.take_block();
        // Only a publisher that fills its turns can outrun its consumers.
        let heavy = block.data.len() >= HEAVY;
        self.events(block).await;
        self.slow |= heavy && self.store.lock().take_slow();
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
                    self.publish(&block, channel, (first, count), mandatory, confirm);
                }
                Event::Ack {
                    channel,
                    tag,
                    multiple,
                } => {
                    self.settle(channel, (tag, multiple), None, 80);
                }
                Event::Nack {
                    channel,
                    tag,
                    multiple,
                    requeue,
                } => self.settle(channel, (tag, multiple), Some(requeue), 120),
                Event::Reject {
                    channel,
                    tag,
                    requeue,
                } => self.settle(channel, (tag, false), Some(requeue), 90),
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
                self.conn.close(Instant::now(), &close);
            }
            _ => {}
        }
    }

    fn login(&mut self, mechanism: &str, response: &[u8]) {
        self.mechanism = mechanism.to_owned();
        match sasl::credentials(mechanism, response) {
            Ok((user, password)) if self.store.check_password(&user, &password, self.loopback) => {
                self.user = user;
                self.conn.accept_login();
            }
            Ok((user, _)) => {
                tracing::warn!(user, "login refused");
                self.conn.refuse_login(Instant::now(), mechanism);
            }
            Err(close) => self.conn.close(Instant::now(), &close),
        }
    }

    fn open(&mut self, vhost: &str) {
        let cause = (10, 40);
        let (known, may) = {
            let shard = self.store.lock();
            (shard.has_vhost(vhost), shard.may_open(&self.user, vhost))
        };
        let text = if !known {
            format!("vhost {vhost} not found")
        } else if !may {
            format!("access to vhost '{vhost}' refused for user '{}'", self.user)
        } else {
            self.vhost = vhost.into();
            return self.conn.accept_open();
        };
        self.clean(true);
        self.conn
            .close(Instant::now(), &Close::connection(530, text, cause));
    }

    /// The operator stops the node.
    fn forced(&mut self) {
        self.clean(false);
        if self.conn.is_open() {
            let text = "broker forced connection closure with reason 'shutdown'";
            self.conn
                .close(Instant::now(), &Close::connection(320, text, (0, 0)));
        }
        // The client hears of it; whether it answers is its own affair.
        self.conn
            .handle_deadline(Instant::now() + limits::CLOSE_OK + limits::CLOSE_OK);
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
                self.conn.close(Instant::now(), close);
            }
        }
    }

    // ---- publish and settle ----------------------------------------------------------------

    fn publish(
        &mut self,
        block: &Arc<Block>,
        channel: u16,
        (first, count): (u32, u32),
        mandatory: bool,
        confirm: u64,
    ) {
        self.has_published = true;
        let entries = &block.entries[first as usize..(first + count) as usize];
        let special = Entry::HAS_REPLY_TO | Entry::HAS_USER_ID | Entry::HAS_EXPIRATION;
        let odd = entries.iter().any(|entry| entry.flags & special != 0);
        let exchange = block.address(first as usize).exchange();
        let alike = std::str::from_utf8(exchange)
            .is_ok_and(|exchange| self.store.lock().routes_alike(&self.vhost, exchange));
        // Pieces of a few hundred confirm sooner than one of thousands.
        let step = if odd || !alike { 1 } else { RUN };
        let mut at = 0;
        while at < count {
            let n = (count - at).min(step);
            let number = if confirm == 0 {
                0
            } else {
                confirm + u64::from(at)
            };
            let checked = if odd {
                self.checked(block, channel, (first + at) as usize)
            } else {
                Ok((block.clone(), first + at))
            };
            let (block, index) = match checked {
                Ok(found) => found,
                Err(close) => return self.close_channel(channel, &close),
            };
            if self.tx.contains_key(&channel) {
                if !self.keep_for_commit(channel, block, (index, n), mandatory) {
                    return;
                }
            } else if !self.publish_run(&block, channel, (index, n), mandatory, number) {
                return;
            }
            at += n;
        }
    }

    /// On a tx channel a publish waits for commit, but a missing exchange is told at once.
    fn keep_for_commit(
        &mut self,
        channel: u16,
        block: Arc<Block>,
        (first, count): (u32, u32),
        mandatory: bool,
    ) -> bool {
        let exchange = block.address(first as usize).exchange();
        let exchange = String::from_utf8_lossy(exchange);
        let known = self.store.lock().check_exchange(&self.vhost, &exchange);
        if let Err(error) = known {
            self.close_channel(channel, &reply::close(&error, (60, 40)));
            return false;
        }
        if let Some(tx) = self.tx.get_mut(&channel) {
            tx.publishes.push((block, first, count, mandatory));
        }
        true
    }

    /// Validates what needs a look, and puts the real address in place of direct reply-to's.
    fn checked(
        &mut self,
        block: &Arc<Block>,
        channel: u16,
        index: usize,
    ) -> Result<(Arc<Block>, u32), Close> {
        let cause = (60, 40);
        let raw = block.properties(index);
        if let Some(text) = properties::expiration(raw)
            && std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse::<u64>().ok())
                .is_none()
        {
            let text = format!("invalid expiration '{}'", String::from_utf8_lossy(text));
            return Err(Close::channel(406, text, cause));
        }
        if let Some(user) = properties::user_id(raw)
            && user != self.user.as_bytes()
        {
            let text = format!(
                "user_id property set to '{}' but authenticated user was '{}'",
                String::from_utf8_lossy(user),
                self.user
            );
            return Err(Close::channel(406, text, cause));
        }
        if properties::reply_to(raw) != Some(REPLY_TO.as_bytes()) {
            return Ok((block.clone(), index as u32));
        }
        let Some(address) = self.store.lock().reply_address(self.key(channel)) else {
            return Err(Close::channel(
                406,
                "fast reply consumer does not exist",
                cause,
            ));
        };
        let mut parsed = Properties::parse(raw)
            .map_err(|error| Close::connection(502, error.to_string(), cause))?;
        parsed.reply_to = Some(address.as_bytes().to_vec());
        let mut copy = Block::default();
        let at = copy.push_copy(block, index, block.address(index), Some(&parsed.encode()));
        Ok((Arc::new(copy), at as u32))
    }

    fn publish_run(
        &mut self,
        block: &Arc<Block>,
        channel: u16,
        (first, count): (u32, u32),
        mandatory: bool,
        confirm: u64,
    ) -> bool {
        let key = Some(self.key(channel));
        let reached = {
            let mut shard = self.store.lock();
            // A return must reach the client before its confirm.
            let probe = if mandatory { 0 } else { confirm };
            let reached = shard.publish(&self.vhost, key, block, (first, count), probe);
            if mandatory && !matches!(reached, Ok(n) if n == 0) && confirm != 0 {
                drop(shard);
                self.late_confirm(channel, confirm, count);
            }
            reached
        };
        match reached {
            Ok(0) if mandatory => {
                self.give_back(channel, block, (first, count));
                if confirm != 0
                    && let Some(confirms) = self.confirms.get_mut(&channel)
                {
                    confirms.complete(confirm, u64::from(count));
                    self.tell_confirms();
                }
                true
            }
            Ok(_) => true,
            Err(error) => {
                self.close_channel(channel, &reply::close(&error, (60, 40)));
                false
            }
        }
    }

    /// A routed mandatory message is confirmed by the next commit.
    fn late_confirm(&mut self, channel: u16, confirm: u64, count: u32) {
        let key = self.key(channel);
        self.store.lock().confirm_with_commit(key, confirm, count);
    }

    /// Acks (`requeue` none), nacks and rejects; `method` is what to blame.
    fn settle(
        &mut self,
        channel: u16,
        (tag, multiple): (u64, bool),
        requeue: Option<bool>,
        method: u16,
    ) {
        let key = self.key(channel);
        let known = {
            let mut shard = self.store.lock();
            let known = match (self.tx.get_mut(&channel), requeue) {
                (Some(tx), _) => {
                    let known = shard.has_unacked(key, tag, multiple);
                    tx.settles.push((tag, multiple, requeue));
                    known
                }
                (None, None) => shard.ack(key, tag, multiple),
                (None, Some(requeue)) => shard.nack(key, tag, multiple, requeue),
            };
            known || shard.is_late(key, tag)
        };
        if !known && !(multiple && tag == 0) {
            let text = format!("unknown delivery tag {tag}");
            self.close_channel(channel, &Close::channel(406, text, (60, method)));
        }
    }

    // ---- output ----------------------------------------------------------------------------

    /// Encodes what the store has for this client.
    fn fill(&mut self) {
        let outbox = if self.cleaned {
            Vec::new()
        } else {
            self.store.lock().take_outbox(self.id)
        };
        if outbox.is_empty() {
            return;
        }
        let frame_max = self.conn.frame_max();
        for out in outbox {
            match out {
                Out::Deliver {
                    channel,
                    tag,
                    first,
                    piece,
                    redelivered,
                } => hot::deliver_run(
                    self.conn.output(),
                    channel,
                    &tag,
                    first,
                    redelivered,
                    &piece.block,
                    piece.index(0),
                    piece.count as usize,
                    frame_max,
                ),
                Out::Confirm {
                    channel,
                    first,
                    count,
                } => {
                    if let Some(confirms) = self.confirms.get_mut(&channel) {
                        confirms.complete(first, count);
                    }
                }
                Out::Refuse { channel, number } => {
                    if let Some(confirms) = self.confirms.get_mut(&channel) {
                        confirms.reject(number);
                    }
                }
                Out::Cancel { channel, tag } => {
                    if self.conn.client_capability("consumer_cancel_notify") {
                        hot::cancel(self.conn.output(), channel, &tag);
                    }
                }
                Out::Blocked(reason) => self.tell_blocked(Some(&reason)),
                Out::Unblocked => self.tell_blocked(None),
            }
        }
        self.tell_confirms();
    }

    fn tell_blocked(&mut self, reason: Option<&str>) {
        if !self.conn.client_capability("connection.blocked") || !self.conn.is_open() {
            return;
        }
        let method = match reason {
            Some(reason) if self.has_published && !self.told_blocked => {
                connection::AMQPMethod::Blocked(connection::Blocked {
                    reason: reason.into(),
                })
            }
            None if self.told_blocked => {
                connection::AMQPMethod::Unblocked(connection::Unblocked {})
            }
            _ => return,
        };
        self.told_blocked = reason.is_some();
        self.conn.reply(0, &AMQPClass::Connection(method));
    }

    fn tell_confirms(&mut self) {
        for (&channel, confirms) in &mut self.confirms {
            let out = self.conn.output();
            confirms.drain(|confirm| match confirm {
                Confirm::Ack { tag, multiple } => hot::confirm_ack(out, channel, tag, multiple),
                Confirm::Nack { tag } => hot::confirm_nack(out, channel, tag),
            });
        }
    }

    // ---- control methods -------------------------------------------------------------------

    async fn method(&mut self, channel: u16, method: AMQPClass) {
        let (class, number) = (method.get_amqp_class_id(), method.get_amqp_method_id());
        let answered = match method {
            AMQPClass::Exchange(method) => self.exchange(channel, method).await,
            AMQPClass::Queue(method) => self.queue(channel, method).await,
            AMQPClass::Basic(method) => self.basic(channel, method).await,
            AMQPClass::Tx(method) => self.tx(channel, method).await,
            AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(_)) => {
                let ok = connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {});
                self.conn.reply(0, &AMQPClass::Connection(ok));
                Ok(())
            }
            AMQPClass::Access(access::AMQPMethod::Request(_)) => {
                let ok = access::AMQPMethod::RequestOk(access::RequestOk {});
                self.conn.reply(channel, &AMQPClass::Access(ok));
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) if flow.active => {
                let ok = channel::AMQPMethod::FlowOk(channel::FlowOk { active: true });
                self.conn.reply(channel, &AMQPClass::Channel(ok));
                Ok(())
            }
            _ => {
                let text = format!("method {class}.{number} is not implemented");
                Err(Close::connection(540, text, (class, number)))
            }
        };
        if let Err(close) = answered {
            self.close_channel(channel, &close);
        }
    }

    async fn on_disk(&self, durable: bool) -> Result<(), Close> {
        if durable {
            self.store
                .on_disk()
                .await
                .map_err(|error| reply::close(&error, (0, 0)))?;
        }
        Ok(())
    }

    async fn exchange(&mut self, ch: u16, method: exchange::AMQPMethod) -> Result<(), Close> {
        use exchange::AMQPMethod as M;
        let vhost = self.vhost.clone();
        let (durable, nowait, ok) = match method {
            M::Declare(m) if m.passive => {
                let checked = self
                    .store
                    .lock()
                    .check_declared(&vhost, &clean_name(m.exchange.as_str()));
                checked.map_err(|error| reply::close(&error, (40, 10)))?;
                (false, m.nowait, M::DeclareOk(exchange::DeclareOk {}))
            }
            M::Declare(m) => {
                let ask = ExchangeDeclare {
                    name: clean_name(m.exchange.as_str()),
                    kind: m.kind.as_str().to_owned(),
                    durable: m.durable,
                    auto_delete: m.auto_delete,
                    internal: m.internal,
                    arguments: control::from_field_table(&m.arguments),
                };
                let done = self.store.lock().declare_exchange(&vhost, ask);
                let durable = done.map_err(|error| reply::close(&error, (40, 10)))?;
                (durable, m.nowait, M::DeclareOk(exchange::DeclareOk {}))
            }
            M::Delete(m) => {
                let name = clean_name(m.exchange.as_str());
                let done = self
                    .store
                    .lock()
                    .delete_exchange(&vhost, &name, m.if_unused);
                let durable = done.map_err(|error| reply::close(&error, (40, 20)))?;
                (durable, m.nowait, M::DeleteOk(exchange::DeleteOk {}))
            }
            M::Bind(m) => {
                let kind = DestinationKind::Exchange;
                let key = m.routing_key.as_str().as_bytes();
                let table = control::from_field_table(&m.arguments);
                let spec =
                    self.binding(m.source.as_str(), kind, m.destination.as_str(), key, &table);
                let done = self.store.lock().bind(spec);
                let durable = done.map_err(|error| reply::close(&error, (40, 30)))?;
                (durable, m.nowait, M::BindOk(exchange::BindOk {}))
            }
            M::Unbind(m) => {
                let kind = DestinationKind::Exchange;
                let key = m.routing_key.as_str().as_bytes();
                let table = control::from_field_table(&m.arguments);
                let spec =
                    self.binding(m.source.as_str(), kind, m.destination.as_str(), key, &table);
                let done = self.store.lock().unbind(&spec);
                let durable = done.map_err(|error| reply::close(&error, (40, 40)))?;
                (durable, m.nowait, M::UnbindOk(exchange::UnbindOk {}))
            }
            _ => return Err(Close::connection(503, "a server's method", (40, 0))),
        };
        self.on_disk(durable).await?;
        if !nowait {
            self.conn.reply(ch, &AMQPClass::Exchange(ok));
        }
        Ok(())
    }

    fn binding(
        &self,
        source: &str,
        destination_kind: DestinationKind,
        destination: &str,
        routing_key: &[u8],
        arguments: &Table,
    ) -> BindingSpec {
        BindingSpec {
            vhost: self.vhost.clone(),
            source: clean_name(source).into(),
            destination_kind,
            destination: clean_name(destination).into(),
            routing_key: routing_key.to_vec(),
            arguments: arguments.encode(),
        }
    }

    /// The queue meant: by name, or the last one declared on the channel.
    fn queue_name(&self, ch: u16, name: &str, cause: (u16, u16)) -> Result<String, Close> {
        if !name.is_empty() {
            return Ok(clean_name(name));
        }
        self.last_queue
            .get(&ch)
            .cloned()
            .ok_or_else(|| Close::channel(404, "no previously declared queue", cause))
    }

    fn queue_id(&self, name: &str, cause: (u16, u16)) -> Result<QueueId, Close> {
        let found = self.store.lock().queue(self.id, &self.vhost, name);
        found.map_err(|error| reply::close(&error, cause))
    }

    async fn queue(&mut self, ch: u16, method: queue::AMQPMethod) -> Result<(), Close> {
        use queue::AMQPMethod as M;
        let (durable, nowait, ok) = match method {
            M::Declare(m) => return self.declare(ch, m).await,
            M::Bind(m) => {
                let cause = (50, 20);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                self.queue_id(&name, cause)?;
                let both_empty = m.queue.as_str().is_empty() && m.routing_key.as_str().is_empty();
                let key = if both_empty {
                    name.as_str()
                } else {
                    m.routing_key.as_str()
                };
                let table = control::from_field_table(&m.arguments);
                let kind = DestinationKind::Queue;
                let spec = self.binding(m.exchange.as_str(), kind, &name, key.as_bytes(), &table);
                let done = self.store.lock().bind(spec);
                let durable = done.map_err(|error| reply::close(&error, cause))?;
                (durable, m.nowait, M::BindOk(queue::BindOk {}))
            }
            M::Unbind(m) => {
                let cause = (50, 50);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                let table = control::from_field_table(&m.arguments);
                let key = m.routing_key.as_str().as_bytes();
                let kind = DestinationKind::Queue;
                let spec = self.binding(m.exchange.as_str(), kind, &name, key, &table);
                let done = self.store.lock().unbind(&spec);
                let durable = done.map_err(|error| reply::close(&error, cause))?;
                (durable, false, M::UnbindOk(queue::UnbindOk {}))
            }
            M::Purge(m) => {
                let cause = (50, 30);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                let id = self.queue_id(&name, cause)?;
                let count = self.store.lock().purge(id);
                let message_count = u32::try_from(count).unwrap_or(u32::MAX);
                (true, m.nowait, M::PurgeOk(queue::PurgeOk { message_count }))
            }
            M::Delete(m) => {
                let cause = (50, 40);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                let mut shard = self.store.lock();
                let done = shard.delete_queue(self.id, &self.vhost, &name, m.if_unused, m.if_empty);
                drop(shard);
                let count = done.map_err(|error| reply::close(&error, cause))?;
                let message_count = u32::try_from(count).unwrap_or(u32::MAX);
                (
                    true,
                    m.nowait,
                    M::DeleteOk(queue::DeleteOk { message_count }),
                )
            }
            _ => return Err(Close::connection(503, "a server's method", (50, 0))),
        };
        self.on_disk(durable).await?;
        if !nowait {
            self.conn.reply(ch, &AMQPClass::Queue(ok));
        }
        Ok(())
    }

    async fn declare(&mut self, ch: u16, m: queue::Declare) -> Result<(), Close> {
        let cause = (50, 10);
        let (status, durable) = if m.passive {
            let name = self.queue_name(ch, m.queue.as_str(), cause)?;
            let checked = self.store.lock().check_queue(self.id, &self.vhost, &name);
            (checked.map_err(|error| reply::close(&error, cause))?, false)
        } else {
            let ask = QueueDeclare {
                name: clean_name(m.queue.as_str()),
                durable: m.durable,
                exclusive: m.exclusive,
                auto_delete: m.auto_delete,
                arguments: control::from_field_table(&m.arguments),
            };
            let done = self.store.lock().declare_queue(self.id, &self.vhost, ask);
            done.map_err(|error| reply::close(&error, cause))?
        };
        let (name, ready, consumers) = status;
        self.last_queue.insert(ch, name.to_string());
        self.on_disk(durable).await?;
        if !m.nowait {
            let ok = queue::DeclareOk {
                queue: (&*name).into(),
                message_count: u32::try_from(ready).unwrap_or(u32::MAX),
                consumer_count: u32::try_from(consumers).unwrap_or(u32::MAX),
            };
            self.conn
                .reply(ch, &AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
        }
        Ok(())
    }

    async fn basic(&mut self, ch: u16, method: basic::AMQPMethod) -> Result<(), Close> {
        use basic::AMQPMethod as M;
        let ok = match method {
            M::Qos(m) => {
                let (key, count) = (self.key(ch), u32::from(m.prefetch_count));
                let mut shard = self.store.lock();
                if m.global {
                    shard.set_window(key, count)
                } else {
                    shard.set_prefetch(key, count)
                }
                drop(shard);
                M::QosOk(basic::QosOk {})
            }
            M::Consume(m) => return self.consume(ch, m),
            M::Cancel(m) => {
                self.store
                    .lock()
                    .cancel(self.key(ch), m.consumer_tag.as_str().as_bytes());
                self.fill();
                if m.nowait {
                    return Ok(());
                }
                M::CancelOk(basic::CancelOk {
                    consumer_tag: m.consumer_tag,
                })
            }
            M::Get(m) => return self.get(ch, m).await,
            M::Recover(m) if m.requeue => {
                self.store.lock().recover(self.key(ch));
                M::RecoverOk(basic::RecoverOk {})
            }
            M::RecoverAsync(m) if m.requeue => {
                self.store.lock().recover(self.key(ch));
                return Ok(());
            }
            M::Recover(_) => return Err(Close::connection(540, "requeue=false", (60, 110))),
            M::RecoverAsync(_) => return Err(Close::connection(540, "requeue=false", (60, 100))),
            _ => return Err(Close::connection(503, "a server's method", (60, 0))),
        };
        self.conn.reply(ch, &AMQPClass::Basic(ok));
        Ok(())
    }

    fn consume(&mut self, ch: u16, m: basic::Consume) -> Result<(), Close> {
        let cause = (60, 20);
        let key = self.key(ch);
        let mut tag = m.consumer_tag.as_str().to_owned();
        if tag.is_empty() {
            tag = generated("amq.ctag-");
        }
        if self.store.lock().has_consumer(key, tag.as_bytes()) {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Close::connection(530, text, cause));
        }
        let answer = |session: &mut Self| {
            if !m.nowait {
                let ok = basic::ConsumeOk {
                    consumer_tag: tag.as_str().into(),
                };
                session
                    .conn
                    .reply(ch, &AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
            }
        };
        if m.queue.as_str() == REPLY_TO {
            if !m.no_ack {
                return Err(Close::channel(
                    406,
                    "reply consumer cannot acknowledge",
                    cause,
                ));
            }
            let done = self.store.lock().subscribe_replies(key, tag.as_bytes());
            done.map_err(|error| reply::close(&error, cause))?;
            answer(self);
            return Ok(());
        }
        let name = self.queue_name(ch, m.queue.as_str(), cause)?;
        let id = self.queue_id(&name, cause)?;
        let arguments = control::from_field_table(&m.arguments);
        let priority = arguments
            .find("x-priority")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        {
            let mut shard = self.store.lock();
            let consumer = Consumer {
                key,
                tag: tag.as_bytes().into(),
                no_ack: m.no_ack,
                exclusive: m.exclusive,
                prefetch: shard.prefetch(key),
                unacked: 0,
                priority: i32::try_from(priority).unwrap_or(0),
            };
            shard
                .consume(id, consumer)
                .map_err(|error| reply::close(&error, cause))?;
        }
        answer(self);
        self.store.lock().pump(id);
        Ok(())
    }

    async fn get(&mut self, ch: u16, m: basic::Get) -> Result<(), Close> {
        let cause = (60, 70);
        let name = self.queue_name(ch, m.queue.as_str(), cause)?;
        let id = self.queue_id(&name, cause)?;
        let frame_max = self.conn.frame_max();
        // A body on disk comes within a load or two; each try waits for a commit at least.
        for _ in 0..1000 {
            let got = self.store.lock().get(id, self.key(ch), m.no_ack);
            match got {
                Got::Message {
                    tag,
                    piece,
                    redelivered,
                    remaining,
                } => {
                    let (out, index) = (self.conn.output(), piece.index(0));
                    hot::get_ok(
                        out,
                        ch,
                        tag,
                        redelivered,
                        remaining,
                        &piece.block,
                        index,
                        frame_max,
                    );
                    return Ok(());
                }
                Got::Empty => break,
                Got::Later => {
                    self.on_disk(true).await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        let empty = basic::AMQPMethod::GetEmpty(basic::GetEmpty {});
        self.conn.reply(ch, &AMQPClass::Basic(empty));
        Ok(())
    }

    async fn tx(&mut self, ch: u16, method: tx::AMQPMethod) -> Result<(), Close> {
        use tx::AMQPMethod as M;
        let missing = |number| Close::channel(406, "channel is not transactional", (90, number));
        let ok = match method {
            M::Select(_) => {
                self.tx.entry(ch).or_default();
                M::SelectOk(tx::SelectOk {})
            }
            M::Commit(_) => {
                let work = self.tx.remove(&ch).ok_or_else(|| missing(20))?;
                self.commit(ch, work)?;
                self.tx.insert(ch, Tx::default());
                self.on_disk(true).await?;
                M::CommitOk(tx::CommitOk {})
            }
            M::Rollback(_) => {
                *self.tx.get_mut(&ch).ok_or_else(|| missing(30))? = Tx::default();
                M::RollbackOk(tx::RollbackOk {})
            }
            _ => return Err(Close::connection(503, "a server's method", (90, 0))),
        };
        self.conn.reply(ch, &AMQPClass::Tx(ok));
        Ok(())
    }

    /// All of a transaction under one lock: it enters one commit, or none.
    fn commit(&mut self, ch: u16, work: Tx) -> Result<(), Close> {
        let key = self.key(ch);
        let mut unroutable = Vec::new();
        let mut failed = None;
        {
            let mut shard = self.store.lock();
            for (block, first, count, mandatory) in work.publishes {
                match shard.publish(&self.vhost, Some(key), &block, (first, count), 0) {
                    Ok(0) if mandatory => unroutable.push((block, first, count)),
                    Ok(_) => {}
                    Err(error) => failed = Some(reply::close(&error, (60, 40))),
                }
            }
            for (tag, multiple, requeue) in work.settles {
                match requeue {
                    None => shard.ack(key, tag, multiple),
                    Some(requeue) => shard.nack(key, tag, multiple, requeue),
                };
            }
        }
        for (block, first, count) in unroutable {
            self.give_back(ch, &block, (first, count));
        }
        failed.map_or(Ok(()), Err)
    }

    /// basic.return of messages that no queue wanted.
    fn give_back(&mut self, ch: u16, block: &Block, (first, count): (u32, u32)) {
        let frame_max = self.conn.frame_max();
        for index in first..first + count {
            let (out, index) = (self.conn.output(), index as usize);
            hot::returned(out, ch, (312, "NO_ROUTE"), block, index, frame_max);
        }
        self.store.lock().counters.returned += u64::from(count);
    }
}

/// RabbitMQ strips line ends from names.
fn clean_name(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}
