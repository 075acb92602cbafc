//! A client of a history that other people wrote: lapin, on a runtime of its own.
//!
//! Keeps: deliveries and confirms in one mailbox, as they come.
//! Never: reconnects, or retries.
//! In: `tests/history.rs`; its place among tests keeps lapin out of what other tests need.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    BasicRejectOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tests::crash::message::{self, Id};
use tests::history::client::{Client, HeaderValue, Heard, PREFETCH, delivery, headers, tag};
use tests::history::ledger::{Sent, Word};
use tests::history::queues::QUEUES;
use tests::wire::value::{Table, Value};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// A connection with one channel.
#[derive(Debug)]
pub(crate) struct Lapin {
    runtime: Runtime,
    connection: Connection,
    channel: Channel,
    mailbox: mpsc::UnboundedReceiver<Result<Heard>>,
    tell: mpsc::UnboundedSender<Result<Heard>>,
}

impl Lapin {
    /// Connects and asks for confirms.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(open(address))?;
        let (tell, mailbox) = mpsc::unbounded_channel();
        Ok(Self {
            runtime,
            connection,
            channel,
            mailbox,
            tell,
        })
    }
}

async fn open(address: SocketAddr) -> Result<(Connection, Channel)> {
    let url = format!("amqp://guest:guest@{address}/%2f");
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    let connection = tokio::time::timeout(PATIENCE, connecting).await??;
    let channel = connection.create_channel().await?;
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await?;
    let prefetch = u16::try_from(PREFETCH)?;
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await?;
    Ok((connection, channel))
}

impl Client for Lapin {
    fn publish(&mut self, id: Id, sent: &Sent) -> Result<()> {
        let mut table = FieldTable::default();
        for (name, value) in headers(sent) {
            let value = match value {
                HeaderValue::Text(text) => AMQPValue::LongString(text.into()),
                HeaderValue::Number(number) => AMQPValue::LongLongInt(number),
            };
            table.insert(name.into(), value);
        }
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_headers(table);
        if let Some(name) = &sent.name {
            properties = properties.with_message_id(name.as_str().into());
        }
        let (queue, body) = (QUEUES[sent.queue].name, message::body(id));
        let options = BasicPublishOptions::default();
        let publish =
            self.channel
                .basic_publish("".into(), queue.into(), options, &body, properties);
        let confirm = self.runtime.block_on(publish)?;
        let tell = self.tell.clone();
        self.runtime.spawn(async move {
            let heard = match confirm.await {
                Ok(Confirmation::Ack(_)) => Ok(Heard::Confirmed(id)),
                Ok(_) => Ok(Heard::Refused(id)),
                Err(fault) => Err(fault.into()),
            };
            // Nobody listens any more when the session is over.
            let _ = tell.send(heard);
        });
        Ok(())
    }

    fn consume(&mut self, queue: usize, dead: bool) -> Result<()> {
        let tag = tag(queue, dead);
        let options = BasicConsumeOptions::default();
        let name = tag.as_str();
        let consume =
            self.channel
                .basic_consume(name.into(), name.into(), options, FieldTable::default());
        let mut consumer = self.runtime.block_on(consume)?;
        let tell = self.tell.clone();
        self.runtime.spawn(async move {
            while let Some(next) = consumer.next().await {
                let heard = next
                    .map_err(anyhow::Error::from)
                    .map(|one| read(&tag, &one));
                if tell.send(heard).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    fn settle(&mut self, tag: u64, word: Word) -> Result<()> {
        let channel = &self.channel;
        self.runtime.block_on(async {
            match word {
                Word::Ack => channel.basic_ack(tag, BasicAckOptions::default()).await,
                Word::Fail => {
                    let options = BasicRejectOptions { requeue: false };
                    channel.basic_reject(tag, options).await
                }
                Word::Return => {
                    let options = BasicNackOptions {
                        requeue: true,
                        multiple: false,
                    };
                    channel.basic_nack(tag, options).await
                }
            }
        })?;
        Ok(())
    }

    fn hear(&mut self, within: Duration) -> Result<Option<Heard>> {
        let next = self.mailbox.recv();
        let next = async { tokio::time::timeout(within, next).await };
        match self.runtime.block_on(next) {
            Ok(heard) => heard.context("the mailbox ended")?.map(Some),
            Err(_) if self.connection.status().connected() => Ok(None),
            Err(_) => anyhow::bail!("the connection ended"),
        }
    }

    fn close(&mut self) -> Result<()> {
        let close = self.connection.close(200, "goodbye".into());
        let closing = async { tokio::time::timeout(PATIENCE, close).await };
        self.runtime.block_on(closing)??;
        Ok(())
    }

    fn can_be_lost(&self) -> bool {
        false
    }
}

fn read(tag: &str, one: &lapin::message::Delivery) -> Heard {
    let table = one.properties.headers().as_ref();
    let headers = table.map(values).unwrap_or_default();
    match delivery(tag, &one.data, one.redelivered, &headers) {
        Ok(delivery) => Heard::Delivered {
            tag: one.delivery_tag,
            delivery,
        },
        Err(fault) => Heard::Damaged(format!("{fault:#}")),
    }
}

/// The same table in our own words.
fn values(table: &FieldTable) -> Table {
    let entry = |(name, value): (&lapin::types::ShortString, &AMQPValue)| {
        (name.to_string(), value_of(value))
    };
    table.inner().iter().map(entry).collect()
}

fn value_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::LongLongInt(number) => Value::int(*number),
        AMQPValue::LongInt(number) => Value::int((*number).into()),
        AMQPValue::LongString(text) => Value::Str(text.as_bytes().to_vec()),
        AMQPValue::FieldTable(table) => Value::Table(values(table)),
        AMQPValue::FieldArray(list) => Value::Array(list.as_slice().iter().map(value_of).collect()),
        _ => Value::Void,
    }
}

/// No answer takes longer while the server lives.
const PATIENCE: Duration = Duration::from_secs(20);
