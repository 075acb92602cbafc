//! Control methods of a session, answered in the order they came.
//!
//! Keeps: an answer about something durable waits for the disk.
//! In: `Session::events`.

use store::topology::arguments::{ConsumerArguments, STREAM_OFFSET};

use super::*;

impl Session {
    pub(super) async fn method(&mut self, channel: u16, method: AMQPClass) {
        let (class, number) = (method.get_amqp_class_id(), method.get_amqp_method_id());
        let answered = match method {
            AMQPClass::Exchange(method) => self.exchange(channel, method).await,
            AMQPClass::Queue(method) => self.queue(channel, method).await,
            AMQPClass::Basic(method) => self.basic(channel, method).await,
            AMQPClass::Tx(method) => self.tx(channel, method).await,
            AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(_)) => {
                self.renew();
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

    pub(super) async fn on_disk(&self, durable: bool) -> Result<(), Close> {
        if durable {
            self.store
                .on_disk()
                .await
                .map_err(|error| reply::close(&error, (0, 0)))?;
        }
        Ok(())
    }

    pub(super) async fn exchange(
        &mut self,
        ch: u16,
        method: exchange::AMQPMethod,
    ) -> Result<(), Close> {
        use exchange::AMQPMethod as M;
        let vhost = self.vhost.clone();
        let (durable, nowait, ok) = match method {
            M::Declare(m) if m.passive => {
                let name = clean_name(m.exchange.as_str());
                if !name.is_empty() {
                    let exchange = Resource::Exchange(&name);
                    let allowed = self.door.authorize_any(&self.store, exchange);
                    allowed.map_err(|error| reply::close(&error, (40, 10)))?;
                }
                let checked = self.store.lock().check_declared(&vhost, &name);
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
                self.may_declare_exchange(&ask)?;
                let done = self.store.lock().declare_exchange(&vhost, ask);
                let durable = done.map_err(|error| reply::close(&error, (40, 10)))?;
                (durable, m.nowait, M::DeclareOk(exchange::DeclareOk {}))
            }
            M::Delete(m) => {
                let name = clean_name(m.exchange.as_str());
                if !(name.is_empty() || name.starts_with("amq.")) {
                    self.may(Right::Configure, Resource::Exchange(&name), (40, 20))?;
                }
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
                self.may_bind(&spec, (40, 30))?;
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
                self.may_bind(&spec, (40, 40))?;
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

    pub(super) fn binding(
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
    pub(super) fn queue_name(
        &self,
        ch: u16,
        name: &str,
        cause: (u16, u16),
    ) -> Result<String, Close> {
        if !name.is_empty() {
            return Ok(clean_name(name));
        }
        self.last_queue
            .get(&ch)
            .cloned()
            .ok_or_else(|| Close::channel(404, "no previously declared queue", cause))
    }

    pub(super) fn queue_id(&self, name: &str, cause: (u16, u16)) -> Result<QueueId, Close> {
        let found = self.store.lock().queue(self.id, &self.vhost, name);
        found.map_err(|error| reply::close(&error, cause))
    }

    pub(super) async fn queue(&mut self, ch: u16, method: queue::AMQPMethod) -> Result<(), Close> {
        use queue::AMQPMethod as M;
        let (durable, nowait, ok) = match method {
            M::Declare(m) => return self.declare(ch, m).await,
            M::Bind(m) => {
                let cause = (50, 20);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                let both_empty = m.queue.as_str().is_empty() && m.routing_key.as_str().is_empty();
                let key = if both_empty {
                    name.as_str()
                } else {
                    m.routing_key.as_str()
                };
                let table = control::from_field_table(&m.arguments);
                let kind = DestinationKind::Queue;
                let spec = self.binding(m.exchange.as_str(), kind, &name, key.as_bytes(), &table);
                self.may_bind(&spec, cause)?;
                self.queue_id(&name, cause)?;
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
                self.may_bind(&spec, cause)?;
                // What is missing is bound to nothing, but a queue of others is theirs.
                let locked = self.queue_id(&name, cause).err();
                let locked = locked.filter(|close| close.code == 405);
                locked.map_or(Ok(()), Err)?;
                let done = self.store.lock().unbind(&spec);
                let durable = done.map_err(|error| reply::close(&error, cause))?;
                (durable, false, M::UnbindOk(queue::UnbindOk {}))
            }
            M::Purge(m) => {
                let cause = (50, 30);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                self.may(Right::Read, Resource::Queue(&name), cause)?;
                let id = self.queue_id(&name, cause)?;
                let count = self.store.lock().purge(id);
                let message_count = u32::try_from(count).unwrap_or(u32::MAX);
                (true, m.nowait, M::PurgeOk(queue::PurgeOk { message_count }))
            }
            M::Delete(m) => {
                let cause = (50, 40);
                let name = self.queue_name(ch, m.queue.as_str(), cause)?;
                self.may(Right::Configure, Resource::Queue(&name), cause)?;
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

    pub(super) async fn declare(&mut self, ch: u16, m: queue::Declare) -> Result<(), Close> {
        let cause = (50, 10);
        let given = clean_name(m.queue.as_str());
        // Who declares an address of direct reply-to only asks for it, and needs no right.
        let of_replies = given.starts_with(REPLY_TO);
        let (status, durable) = if m.passive || of_replies {
            if !of_replies {
                let allowed = self
                    .door
                    .authorize_any(&self.store, Resource::Queue(&given));
                allowed.map_err(|error| reply::close(&error, cause))?;
            }
            let checked = self.store.lock().check_queue(self.id, &self.vhost, &given);
            (checked.map_err(|error| reply::close(&error, cause))?, false)
        } else {
            let arguments = control::from_field_table(&m.arguments);
            let server_named = given.is_empty();
            let name = match server_named {
                true => server_name(&self.vhost, &arguments)
                    .map_err(|error| reply::close(&error, cause))?,
                false => given,
            };
            let ask = QueueDeclare {
                name,
                server_named,
                durable: m.durable,
                exclusive: m.exclusive,
                auto_delete: m.auto_delete,
                arguments,
            };
            self.may_declare_queue(&ask)?;
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

    pub(super) async fn basic(&mut self, ch: u16, method: basic::AMQPMethod) -> Result<(), Close> {
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

    pub(super) fn consume(&mut self, ch: u16, m: basic::Consume) -> Result<(), Close> {
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
        self.may(Right::Read, Resource::Queue(&name), cause)?;
        let id = self.queue_id(&name, cause)?;
        let arguments = control::from_field_table(&m.arguments);
        let asked = self.consumer_arguments(id, &name, &arguments)?;
        {
            let mut shard = self.store.lock();
            let consumer = Consumer {
                key,
                tag: tag.as_bytes().into(),
                no_ack: m.no_ack,
                exclusive: m.exclusive,
                prefetch: shard.prefetch(key),
                unacked: 0,
                priority: asked.priority,
                timeout_ms: asked.timeout_ms,
                leases: false,
            };
            shard
                .consume(id, consumer)
                .map_err(|error| reply::close(&error, cause))?;
        }
        answer(self);
        self.store.lock().pump(id);
        Ok(())
    }

    fn consumer_arguments(
        &self,
        id: QueueId,
        queue: &str,
        arguments: &Table,
    ) -> Result<ConsumerArguments, Close> {
        let vhost = &self.vhost;
        let refused = |text| Close::channel(406, text, (60, 20));
        if arguments.find(STREAM_OFFSET).is_some() {
            let kind = self.store.lock().type_name(id);
            return Err(refused(format!(
                "invalid arg '{STREAM_OFFSET}' for queue '{queue}' in vhost '{vhost}' of queue type \
                 {kind}"
            )));
        }
        ConsumerArguments::parse(arguments).map_err(|(argument, reason)| {
            refused(format!(
                "invalid arg '{argument}' for queue '{queue}' in vhost '{vhost}': {reason}"
            ))
        })
    }

    pub(super) async fn get(&mut self, ch: u16, m: basic::Get) -> Result<(), Close> {
        let cause = (60, 70);
        let name = self.queue_name(ch, m.queue.as_str(), cause)?;
        self.may(Right::Read, Resource::Queue(&name), cause)?;
        let id = self.queue_id(&name, cause)?;
        let may = self.store.lock().check_get(id);
        may.map_err(|error| reply::close(&error, cause))?;
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

    pub(super) async fn tx(&mut self, ch: u16, method: tx::AMQPMethod) -> Result<(), Close> {
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
}
