//! The fire-hose: copies of what is published and delivered, for whoever binds to its exchange.
//!
//! Keeps: copies are never traced themselves; a vhost that is not traced pays one branch a run.
//! In: `route` and `deliver`; switched through `Store::set_tracing`.
//! RabbitMQ: keys `publish.<exchange>` and `deliver.<queue>`, headers as there; a restart ends it.

use super::*;
use amqp::field::Value;

use crate::topology::copies;

/// Where the copies go.
const EXCHANGE: &str = "amq.rabbitmq.trace";
/// What stands for the node's name.
const NODE: &str = "leveret";

impl Shard {
    /// Traces a vhost, or ends it.
    ///
    /// # Errors
    /// `NotFound` when there is no such vhost.
    pub fn set_tracing(&mut self, vhost: &str, traced: bool) -> Result<()> {
        self.traces(vhost)?;
        if let Some(names) = self.vhosts.get_mut(vhost) {
            names.traced = traced;
        }
        self.tracing = self.vhosts.values().any(|names| names.traced);
        Ok(())
    }

    /// Whether a vhost is traced.
    ///
    /// # Errors
    /// `NotFound` when there is no such vhost.
    pub fn traces(&self, vhost: &str) -> Result<bool> {
        let names = self.vhosts.get(vhost);
        names
            .map(|names| names.traced)
            .ok_or_else(|| Error::NotFound {
                noun: Noun::Vhost,
                name: vhost.to_owned(),
                detail: format!("no vhost '{vhost}'"),
            })
    }

    /// What a trace, and an operator, calls the connection.
    pub fn name_session(&mut self, id: usize, connection: &str) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.connection = connection.into();
        }
    }

    /// Copies of published messages that reach these queues.
    pub(super) fn trace_publish(&mut self, run: &Run<'_>, queues: &[QueueId]) {
        if !self.is_traced(run.vhost) {
            return;
        }
        let name = |id: &QueueId| self.queues.get(id).map(|queue| queue.spec.name.clone());
        let routed: Vec<Value> = queues
            .iter()
            .filter_map(name)
            .map(|name| Value::text(&name))
            .collect();
        for index in run.first as usize..(run.first + run.count) as usize {
            let own = run.block.address(index).routing_key();
            let keys = std::iter::once(own).chain(run.copies.iter().map(Vec::as_slice));
            let mut headers = message_headers(run.block, index, keys);
            self.name_channel(&mut headers, run.vhost, run.channel);
            headers.insert("routed_queues", Value::Array(routed.clone()));
            let exchange = run.block.address(index).exchange();
            let key = [b"publish.", exchange].concat();
            self.send_copy(run.vhost, (run.block, index), &key, headers);
        }
    }

    /// Copies of messages that are handed out.
    pub(super) fn trace_delivery(
        &mut self,
        id: QueueId,
        channel: ChannelKey,
        piece: &Piece,
        redelivered: bool,
    ) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let (vhost, name) = (queue.spec.vhost.clone(), queue.spec.name.clone());
        if !self.is_traced(&vhost) {
            return;
        }
        for offset in 0..piece.count {
            let (block, index) = (&piece.block, piece.index(offset));
            if block.address(index).exchange() == EXCHANGE.as_bytes() {
                continue;
            }
            let copied = copies::of_stored(block, index);
            let own = block.address(index).routing_key();
            let keys = std::iter::once(own).chain(copied.iter().map(Vec::as_slice));
            let mut headers = message_headers(block, index, keys);
            headers.insert("redelivered", Value::I32(i32::from(redelivered)));
            self.name_channel(&mut headers, &vhost, Some(channel));
            let key = [b"deliver.", name.as_bytes()].concat();
            self.send_copy(&vhost, (block, index), &key, headers);
        }
    }

    fn is_traced(&self, vhost: &str) -> bool {
        self.vhosts.get(vhost).is_some_and(|names| names.traced)
    }

    fn name_channel(&self, headers: &mut Table, vhost: &str, channel: Option<ChannelKey>) {
        let session = channel.and_then(|key| self.sessions.get(&key.session));
        let connection = session.map_or("unknown", |session| &session.connection);
        let login = session.and_then(|session| session.login.as_ref());
        let user = login.map_or("none", |(user, _)| user);
        headers.insert("vhost", Value::text(vhost));
        headers.insert("connection", Value::text(connection));
        let number = channel.map_or(0, |key| i32::from(key.channel));
        headers.insert("channel", Value::I32(number));
        headers.insert("user", Value::text(user));
    }

    fn send_copy(
        &mut self,
        vhost: &str,
        (block, index): (&Block, usize),
        key: &[u8],
        headers: Table,
    ) {
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let mut copy = Block::default();
        let address = Address::new(EXCHANGE.as_bytes(), key);
        copy.push_copy(block, index, &address, Some(&properties.encode()));
        copy.entries[0].flags &= !Entry::JOB;
        self.pass_on(vhost, EXCHANGE, &Arc::new(copy));
    }
}

fn message_headers<'a>(block: &Block, index: usize, keys: impl Iterator<Item = &'a [u8]>) -> Table {
    let exchange = block.address(index).exchange().to_vec();
    let keys = keys.map(|key| Value::LongStr(key.to_vec())).collect();
    let mut table = Table::default();
    table.insert("exchange_name", Value::LongStr(exchange));
    table.insert("routing_keys", Value::Array(keys));
    let properties = Properties::parse(block.properties(index)).unwrap_or_default();
    table.insert("properties", Value::Table(property_table(properties)));
    table.insert("node", Value::text(NODE));
    table
}

fn property_table(properties: Properties) -> Table {
    let mut table = Table::default();
    for (name, text) in [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ] {
        if let Some(text) = text {
            table.insert(name, Value::LongStr(text));
        }
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode),
        ("priority", properties.priority),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            table.insert(name, Value::I32(i32::from(number)));
        }
    }
    if let Some(seconds) = properties.timestamp {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let value = i32::try_from(seconds).map_or(Value::I64(seconds), Value::I32);
        table.insert("timestamp", value);
    }
    if let Some(headers) = properties.headers {
        table.insert("headers", Value::Table(headers));
    }
    table
}
