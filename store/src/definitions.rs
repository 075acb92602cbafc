//! Declaring and deleting exchanges, queues and bindings, with RabbitMQ's texts.
//!
//! Keeps: durable definitions enter the same commit as everything else; a declaration that equals
//! the one there is no change.
//! In: `gateway::session` and `Store`.

use std::sync::Arc;

use amqp::field::{Table, Value};

use crate::clock;
use crate::error::{Error, Noun, Result};
use crate::log::batch::DefinitionChange;
use crate::model::*;
use crate::policy::Subject;
use crate::policy::Subject::QuorumQueue;
use crate::queue::Log;
use crate::queue::consumers::{ChannelKey, Consumer};
use crate::shard::{REPLY_TO, Shard};
use crate::topology::arguments::{Arguments, COMPARED};
use crate::topology::equal;

mod exchange;

pub use exchange::ExchangeDeclare;

/// What queue.declare asks.
#[derive(Clone, Debug, Default)]
pub struct QueueDeclare {
    pub name: String,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: Table,
    /// The name was made up here, so that it may begin with `amq.`.
    pub server_named: bool,
}

/// Before the names that are made up here.
const SERVER_NAMES: &str = "amq.gen-";

/// What a client may ask for instead.
const NAME_PREFIX: &str = "x-name-prefix";

/// Bytes of that, as RabbitMQ's: the name has to fit behind it.
const NAME_PREFIX_MAX: usize = 64;

/// (name, ready messages, consumers).
pub type QueueStatus = (Arc<str>, u64, u64);

fn not_found(noun: Noun, name: &str, vhost: &str) -> Error {
    let detail = format!("no {} '{name}' in vhost '{vhost}'", noun.as_str());
    Error::NotFound {
        noun,
        name: name.to_owned(),
        detail,
    }
}

fn refused(noun: Noun, name: &str, detail: String) -> Error {
    Error::Refused {
        noun,
        name: name.to_owned(),
        detail,
    }
}

fn locked(name: &str, vhost: &str) -> Error {
    let detail = format!(
        "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be \
         originally declared on another connection or the exclusive property value does not \
         match that of the original declaration."
    );
    Error::Exclusive {
        noun: Noun::Queue,
        name: name.to_owned(),
        detail,
    }
}

fn failed(noun: Noun, name: &str, detail: String) -> Error {
    Error::PreconditionFailed {
        noun,
        name: name.to_owned(),
        detail,
    }
}

impl Shard {
    pub fn has_vhost(&self, name: &str) -> bool {
        self.vhosts.contains_key(name)
    }

    /// True when routing keys of the exchange are topics.
    pub fn is_topic(&self, vhost: &str, exchange: &str) -> bool {
        let found = self.vhosts.get(vhost);
        let found = found.and_then(|names| names.exchanges.get(exchange));
        found.is_some_and(|exchange| exchange.spec.kind == "topic")
    }

    pub fn has_queue(&self, vhost: &str, name: &str) -> bool {
        self.find(vhost, name).is_ok()
    }

    fn find(&self, vhost: &str, name: &str) -> Result<QueueId> {
        self.vhosts
            .get(vhost)
            .and_then(|names| names.queues.get(name).copied())
            .ok_or_else(|| not_found(Noun::Queue, name, vhost))
    }

    /// A queue that this session may use.
    pub fn queue(&self, session: usize, vhost: &str, name: &str) -> Result<QueueId> {
        let id = self.find(vhost, name)?;
        match self.queues.get(&id).and_then(|queue| queue.owner) {
            Some(owner) if owner != session => Err(locked(name, vhost)),
            _ => Ok(id),
        }
    }

    pub fn queue_status(&self, id: QueueId) -> QueueStatus {
        self.queues.get(&id).map_or_else(
            || ("".into(), 0, 0),
            |q| (q.spec.name.clone(), q.log.ready(), q.consumers.len() as u64),
        )
    }

    /// Passive declare.
    pub fn check_queue(&mut self, session: usize, vhost: &str, name: &str) -> Result<QueueStatus> {
        if name.starts_with(REPLY_TO) {
            return match name == REPLY_TO || self.has_reply_address(name) {
                true => Ok((name.into(), 0, 1)),
                false => Err(not_found(Noun::Queue, name, vhost)),
            };
        }
        let id = self.queue(session, vhost, name)?;
        self.touch(id);
        Ok(self.queue_status(id))
    }

    /// Declares. The second value: a commit must come before the answer.
    pub fn declare_queue(
        &mut self,
        session: usize,
        vhost: &Arc<str>,
        mut ask: QueueDeclare,
    ) -> Result<(QueueStatus, bool)> {
        self.fill_in_type(vhost, &mut ask);
        if ask.name.is_empty() {
            ask.name = generated(SERVER_NAMES);
        } else if let Ok(id) = self.queue(session, vhost, &ask.name) {
            self.same_queue(id, vhost, &ask)?;
            self.touch(id);
            return Ok((self.queue_status(id), false));
        } else if self.find(vhost, &ask.name).is_ok() {
            self.queue(session, vhost, &ask.name)?;
        } else if ask.name.starts_with("amq.") && !ask.server_named {
            let detail = format!("queue name '{}' contains reserved prefix 'amq.*'", ask.name);
            return Err(refused(Noun::Queue, &ask.name, detail));
        }
        self.check_queues(vhost, &ask.name)?;
        let unnamed = ask.server_named || ask.name.starts_with(SERVER_NAMES);
        if unnamed && Subject::queue(&ask.arguments) == QuorumQueue {
            let detail = "Cannot declare a server-named queue for type rabbit_quorum_queue";
            return Err(failed(Noun::Queue, &ask.name, detail.to_owned()));
        }
        let id = self.create_queue(vhost, &ask, false)?;
        if ask.exclusive {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.owner = Some(session);
            }
            if let Some(slot) = self.sessions.get_mut(&session) {
                slot.exclusive.push(id);
            }
        }
        Ok((self.queue_status(id), ask.durable && !ask.exclusive))
    }

    /// A declaration without a type means the vhost's, as far as the type can be that queue. One
    /// that is there already keeps its own.
    fn fill_in_type(&self, vhost: &str, ask: &mut QueueDeclare) {
        const TYPE: &str = "x-queue-type";
        let known = self.directory.vhosts.get(vhost);
        let kind = known.map_or("", |known| &known.default_queue_type);
        if kind.is_empty() || ask.arguments.find(TYPE).is_some() {
            return;
        }
        if let Ok(id) = self.find(vhost, &ask.name) {
            let spec = self.queues.get(&id).map(|queue| &queue.spec.arguments);
            let current = spec.and_then(|raw| Table::parse(raw).ok());
            if let Some(own) = current.as_ref().and_then(|table| table.find(TYPE)) {
                ask.arguments.insert(TYPE, own.clone());
            }
            return;
        }
        // RabbitMQ 4: what a quorum queue cannot be stays classic.
        let fits = ask.durable && !ask.exclusive && !ask.auto_delete && !ask.name.is_empty();
        if kind != "quorum" || fits && !ask.server_named {
            ask.arguments.insert(TYPE, Value::text(kind));
        }
    }

    pub(crate) fn create_queue(
        &mut self,
        vhost: &Arc<str>,
        ask: &QueueDeclare,
        work: bool,
    ) -> Result<QueueId> {
        let work = work || self.options.work_rules_all;
        let parsed = Arguments::check_together(&ask.arguments)
            .and_then(|()| Arguments::parse(&ask.arguments, work));
        let arguments = parsed.map_err(|(argument, reason)| {
            let name = &ask.name;
            let detail = match reason.strip_prefix("type ") {
                Some(kind) => format!(
                    "invalid type '{kind}' for arg '{argument}' in queue '{name}' in vhost '{vhost}'"
                ),
                None => format!(
                    "invalid arg '{argument}' for queue '{name}' in vhost '{vhost}': {reason}"
                ),
            };
            failed(Noun::Queue, name, detail)
        })?;
        if let Some(argument) = Arguments::refused_argument(&ask.arguments) {
            let (name, kind) = (&ask.name, arguments.type_name());
            let detail = format!(
                "invalid arg '{argument}' for queue '{name}' in vhost '{vhost}' of queue type {kind}"
            );
            return Err(failed(Noun::Queue, name, detail));
        }
        let refused = arguments.refused_property(ask.durable, ask.exclusive, ask.auto_delete);
        if let Some(property) = refused {
            let name = &ask.name;
            let detail =
                format!("invalid property '{property}' for queue '{name}' in vhost '{vhost}'");
            return Err(failed(Noun::Queue, name, detail));
        }
        if (!ask.durable || ask.exclusive)
            && let Some((argument, reason)) = arguments.refused_retention()
        {
            let name = &ask.name;
            let detail =
                format!("invalid arg '{argument}' for queue '{name}' in vhost '{vhost}': {reason}");
            return Err(failed(Noun::Queue, name, detail));
        }
        self.last_queue += 1;
        let spec = QueueSpec {
            id: QueueId(self.last_queue),
            vhost: vhost.clone(),
            name: ask.name.as_str().into(),
            durable: ask.durable && !ask.exclusive,
            exclusive: ask.exclusive,
            auto_delete: ask.auto_delete,
            work,
            arguments: ask.arguments.encode(),
            paused: false,
        };
        if spec.durable {
            self.pending
                .definitions
                .push(DefinitionChange::PutQueue(spec.clone()));
            self.writer.notify_one();
        }
        let id = spec.id;
        let arguments = self.effective_arguments(&spec, &ask.arguments);
        let log = Log::new(arguments.max_priority);
        self.insert_queue(spec, arguments, log);
        Ok(id)
    }

    /// A durable queue that is there afterwards; a work queue when asked.
    pub(crate) fn ensure_queue(&mut self, vhost: &Arc<str>, name: &str, work: bool) {
        match self.find(vhost, name) {
            Ok(id) if work => self.make_work_queue(id),
            Ok(_) => {}
            Err(_) => {
                let ask = QueueDeclare {
                    name: name.to_owned(),
                    durable: true,
                    ..QueueDeclare::default()
                };
                // No arguments: nothing to refuse.
                let _ = self.create_queue(vhost, &ask, work);
            }
        }
    }

    /// Turns the work rules on for a queue that schedules or calls feed.
    pub(crate) fn make_work_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        if queue.arguments.work.is_some() {
            return;
        }
        queue.spec.work = true;
        let spec = queue.spec.clone();
        let table = Table::parse(&spec.arguments).unwrap_or_default();
        let arguments = self.effective_arguments(&spec, &table);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.arguments = arguments;
            self.works = true;
        }
        if spec.durable {
            self.pending
                .definitions
                .push(DefinitionChange::PutQueue(spec));
            self.writer.notify_one();
        }
    }

    fn same_queue(&self, id: QueueId, vhost: &str, ask: &QueueDeclare) -> Result<()> {
        let Some(queue) = self.queues.get(&id) else {
            return Ok(());
        };
        let spec = &queue.spec;
        let flags = [
            ("durable", ask.durable && !ask.exclusive, spec.durable),
            ("auto_delete", ask.auto_delete, spec.auto_delete),
        ];
        if ask.exclusive != spec.exclusive {
            return Err(locked(&ask.name, vhost));
        }
        for (name, received, current) in flags {
            if received != current {
                return Err(self.differs(Noun::Queue, name, &ask.name, vhost, received, current));
            }
        }
        let current = Table::parse(&spec.arguments).unwrap_or_default();
        same_arguments(
            Noun::Queue,
            &ask.name,
            vhost,
            &ask.arguments,
            &current,
            &COMPARED,
        )
    }

    fn differs(
        &self,
        noun: Noun,
        argument: &str,
        name: &str,
        vhost: &str,
        received: impl std::fmt::Display,
        current: impl std::fmt::Display,
    ) -> Error {
        let detail = format!(
            "inequivalent arg '{argument}' for {} '{name}' in vhost '{vhost}': received \
             '{received}' but current is '{current}'",
            noun.as_str()
        );
        failed(noun, name, detail)
    }

    /// Deletes; a queue that is not there counts as empty.
    pub fn delete_queue(
        &mut self,
        session: usize,
        vhost: &str,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u64> {
        let id = match self.queue(session, vhost, name) {
            Ok(id) => id,
            Err(Error::NotFound { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        let (_, ready, consumers) = self.queue_status(id);
        if if_unused && consumers > 0 {
            let detail = format!("queue '{name}' in vhost '{vhost}' in use");
            return Err(failed(Noun::Queue, name, detail));
        }
        if if_empty && ready > 0 {
            let detail = format!("queue '{name}' in vhost '{vhost}' not empty");
            return Err(failed(Noun::Queue, name, detail));
        }
        Ok(self.drop_queue(id))
    }

    /// basic.consume on a queue.
    pub fn consume(&mut self, id: QueueId, consumer: Consumer) -> Result<()> {
        let Some(queue) = self.queues.get(&id) else {
            return Ok(());
        };
        let name = queue.spec.name.clone();
        let alone = !queue.consumers.is_empty() || queue.consumers.is_single();
        if queue.consumers.has_exclusive() || (consumer.exclusive && alone) {
            let detail = format!(
                "queue '{name}' in vhost '{}' in exclusive use",
                queue.spec.vhost
            );
            return Err(refused(Noun::Queue, &name, detail));
        }
        self.add_consumer(id, consumer);
        Ok(())
    }

    /// RabbitMQ's name of the queue's type.
    pub fn type_name(&self, id: QueueId) -> &'static str {
        let queue = self.queues.get(&id);
        queue.map_or("", |queue| queue.arguments.type_name())
    }

    /// basic.get would go around the one consumer that is served alone; RabbitMQ minds on quorum
    /// queues.
    ///
    /// # Errors
    /// `Exclusive`.
    pub fn check_get(&self, id: QueueId) -> Result<()> {
        let Some(queue) = self.queues.get(&id) else {
            return Ok(());
        };
        if !(queue.arguments.quorum && queue.arguments.single_active) {
            return Ok(());
        }
        let (name, vhost) = (&queue.spec.name, &queue.spec.vhost);
        let detail = format!(
            "cannot obtain access to locked queue '{name}' in vhost '{vhost}'. basic.get \
             operations are not supported by quorum queues with single active consumer"
        );
        Err(Error::Exclusive {
            noun: Noun::Queue,
            name: name.to_string(),
            detail,
        })
    }

    /// Per-consumer prefetch for consumers started later on the channel.
    pub fn set_prefetch(&mut self, key: ChannelKey, count: u32) {
        if let Some(channel) = self.channel(key) {
            channel.prefetch = count;
        }
    }

    /// One window for all consumers of the channel (RabbitMQ's `global`).
    pub fn set_window(&mut self, key: ChannelKey, count: u32) {
        let Some(channel) = self.channel(key) else {
            return;
        };
        channel.window = count;
        let queues: Vec<QueueId> = channel.consumers.values().copied().collect();
        queues.into_iter().for_each(|id| self.pump(id));
    }

    pub fn prefetch(&mut self, key: ChannelKey) -> u32 {
        self.channel(key).map_or(0, |channel| channel.prefetch)
    }
}

fn same_arguments(
    noun: Noun,
    name: &str,
    vhost: &str,
    received: &Table,
    current: &Table,
    compared: &[&str],
) -> Result<()> {
    for argument in compared {
        let (new, old) = (received.find(argument), current.find(argument));
        let classic = |value: Option<&Value>| {
            *argument == "x-queue-type" && value.is_none_or(|v| v.as_text() == Some("classic"))
        };
        let same = match (new, old) {
            (None, None) => true,
            (Some(new), Some(old)) => equal(new, old),
            _ => classic(new) && classic(old),
        };
        if !same {
            let (new, old) = match (new, old) {
                (Some(new), Some(old)) => {
                    (format!("'{}'", plain(new)), format!("'{}'", plain(old)))
                }
                (new, old) => (describe(new), describe(old)),
            };
            let detail = format!(
                "inequivalent arg '{argument}' for {} '{name}' in vhost '{vhost}': received {new} \
                 but current is {old}",
                noun.as_str()
            );
            return Err(failed(noun, name, detail));
        }
    }
    Ok(())
}

pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::LongStr(_) => "longstr",
        Value::Bool(_) => "bool",
        Value::I8(_) => "byte",
        Value::U8(_) => "unsignedbyte",
        Value::I16(_) => "short",
        Value::U16(_) => "unsignedshort",
        Value::I32(_) => "signedint",
        Value::U32(_) => "unsignedint",
        Value::I64(_) | Value::I64Upper(_) => "long",
        Value::I16Upper(_) => "short",
        Value::F32(_) => "float",
        Value::F64(_) => "double",
        Value::Decimal(..) => "decimal",
        Value::Bytes(_) => "binary",
        Value::Array(_) => "array",
        Value::Timestamp(_) => "timestamp",
        Value::Table(_) => "table",
        Value::Void => "void",
    }
}

pub(crate) fn plain(value: &Value) -> String {
    let number = value.as_i64().map(|n| n.to_string());
    let text = number.or_else(|| value.as_text().map(str::to_owned));
    let flag = match value {
        Value::Bool(v) => Some(v.to_string()),
        _ => None,
    };
    text.or(flag).unwrap_or_default()
}

fn describe(value: Option<&Value>) -> String {
    value.map_or_else(
        || "none".into(),
        |value| format!("the value '{}' of type '{}'", plain(value), kind_of(value)),
    )
}

/// The name of a queue that is declared without one.
///
/// # Errors
/// The prefix that the client asks for is no text, too long, or reserved.
pub fn server_name(vhost: &str, arguments: &Table) -> Result<String> {
    let invalid = |reason: String| {
        let detail =
            format!("invalid arg '{NAME_PREFIX}' for queue '' in vhost '{vhost}': {reason}");
        failed(Noun::Queue, "", detail)
    };
    let Some(value) = arguments.find(NAME_PREFIX) else {
        return Ok(generated(SERVER_NAMES));
    };
    let asked = value.as_text();
    let asked = asked.ok_or_else(|| invalid(format!("a {} is no text", kind_of(value))))?;
    let prefix: String = asked.chars().filter(|c| !c.is_control()).collect();
    match prefix.len() {
        0 => Ok(generated(SERVER_NAMES)),
        length if length > NAME_PREFIX_MAX => Err(invalid(format!(
            "{length} bytes are more than {NAME_PREFIX_MAX}"
        ))),
        _ if prefix.starts_with("amq.") && prefix != SERVER_NAMES => {
            let detail = format!("queue name '{prefix}' contains reserved prefix 'amq.*'");
            Err(refused(Noun::Queue, &prefix, detail))
        }
        _ => Ok(generated(&prefix)),
    }
}

/// A name that cannot be guessed: the prefix and 22 characters.
pub fn generated(prefix: &str) -> String {
    use base64::Engine as _;
    prefix.to_owned()
        + &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(clock::random_bytes())
}
