//! Operations of clients on a whole node in this process: the engine in memory, time that jumps.
//!
//! Keeps: nobody panics, everybody gets an answer or an end, and nothing is left when all have
//! gone: no session, no exclusive queue, no message bytes once the queues are deleted.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use amqp::client::{HEADER, frame, method, publish, start_ok, tune_and_open};
use amqp::content::Address;
use amqp::control::to_field_table;
use amqp::field::{Table, Value};
use amqp::properties::Properties;
use amqp::protocol::{AMQPClass, basic, channel, confirm, exchange, queue, tx};
use arbitrary::Arbitrary;
use gateway::listen::Peer;
use gateway::session::{self, Shared};
use libfuzzer_sys::fuzz_target;
use store::Store;
use store::clock::simulation;
use store::sql::memory::Memory;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

const STEPS_MAX: usize = 120;
const QUEUES: [&str; 4] = ["a", "b", "c.dlq", ""];
const EXCHANGES: [&str; 5] = ["", "amq.topic", "amq.headers", "amq.fanout", "x"];

#[derive(Arbitrary, Debug)]
struct Argument {
    name: u8,
    value: i16,
    text: bool,
}

#[derive(Arbitrary, Debug)]
struct Message {
    exchange: u8,
    key: u8,
    size: u16,
    persistent: bool,
    expiration: Option<u8>,
    priority: Option<u8>,
    reply_to: bool,
    mandatory: bool,
    headers: Vec<Argument>,
}

#[derive(Arbitrary, Debug)]
enum Deed {
    Declare {
        queue: u8,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Vec<Argument>,
    },
    Delete {
        queue: u8,
        if_unused: bool,
        if_empty: bool,
    },
    Purge {
        queue: u8,
    },
    Exchange {
        name: u8,
        kind: u8,
        durable: bool,
        arguments: Vec<Argument>,
    },
    Bind {
        exchange: u8,
        queue: u8,
        key: u8,
        arguments: Vec<Argument>,
    },
    Unbind {
        exchange: u8,
        queue: u8,
        key: u8,
    },
    Qos {
        count: u8,
        global: bool,
    },
    Publish(Message),
    Consume {
        queue: u8,
        no_ack: bool,
        exclusive: bool,
        replies: bool,
    },
    Cancel {
        tag: u8,
    },
    Get {
        queue: u8,
        no_ack: bool,
    },
    Ack {
        tag: u8,
        multiple: bool,
    },
    Nack {
        tag: u8,
        multiple: bool,
        requeue: bool,
    },
    Reject {
        tag: u8,
        requeue: bool,
    },
    Recover,
    Confirms,
    TxSelect,
    TxCommit,
    TxRollback,
    CloseChannel,
    OpenChannel,
    Drop,
    Wait {
        seconds: u16,
    },
}

#[derive(Arbitrary, Debug)]
struct Step {
    connection: bool,
    channel: bool,
    deed: Deed,
}

fuzz_target!(|steps: Vec<Step>| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(play(steps));
});

async fn play(steps: Vec<Step>) {
    simulation::follow_runtime();
    let engine = Arc::new(Memory::new());
    let store = Store::open(engine, store::Options::default())
        .await
        .expect("an empty engine opens");
    let node = Node {
        store,
        shared: Arc::new(Shared::new("RabbitMQ", "4.2.0", 1 << 20)),
        stop: CancellationToken::new(),
    };
    let mut clients: [Option<Client>; 2] = [None, None];
    for step in steps.into_iter().take(STEPS_MAX) {
        let slot = &mut clients[usize::from(step.connection)];
        if matches!(step.deed, Deed::Drop) {
            *slot = None;
            continue;
        }
        if let Deed::Wait { seconds } = step.deed {
            tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
            continue;
        }
        if slot.is_none() {
            *slot = Some(Client::open(&node).await);
        }
        let Some(client) = slot else { continue };
        if !client.act(1 + u16::from(step.channel), step.deed).await {
            *slot = None;
        }
    }
    drop(clients);
    clean(&node).await;
}

/// All have gone; what durable queues are left is deleted over one more connection.
async fn clean(node: &Node) {
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.store.stats().connections, 0, "a session was left");
    let mut client = Client::open(node).await;
    for queue in node.store.stats().queues {
        assert!(
            queue.unacked == 0,
            "unacked messages of nobody in {}",
            queue.name
        );
        let delete = queue::Delete {
            queue: queue.name.as_ref().into(),
            if_unused: false,
            if_empty: false,
            nowait: true,
        };
        let mut wire = Vec::new();
        method(
            &mut wire,
            1,
            &AMQPClass::Queue(queue::AMQPMethod::Delete(delete)),
        );
        client.send(&wire).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(client);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let left = node.store.stats();
    assert_eq!(
        (left.connections, left.queues.len(), left.resident_bytes),
        (0, 0, 0)
    );
    node.stop.cancel();
    node.store.stop().await;
}

struct Node {
    store: Store,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Client {
    pipe: DuplexStream,
}

impl Client {
    async fn open(node: &Node) -> Self {
        let (pipe, server) = tokio::io::duplex(64 << 10);
        let peer = Peer {
            address: Some(([127, 0, 0, 1], 5672).into()),
            local: Some(([127, 0, 0, 1], 5672).into()),
            tls: false,
            certified: None,
        };
        tokio::spawn(session::run(
            server,
            peer,
            node.store.clone(),
            node.shared.clone(),
            node.stop.clone(),
        ));
        let mut wire = HEADER.to_vec();
        let mut properties = Table::default();
        let mut capabilities = Table::default();
        capabilities.insert("consumer_cancel_notify", Value::Bool(true));
        capabilities.insert("connection.blocked", Value::Bool(true));
        properties.insert("capabilities", Value::Table(capabilities));
        start_ok(&mut wire, "guest", "guest", &properties);
        tune_and_open(&mut wire, 8, 4096, 0, "/");
        for number in [1, 2] {
            method(&mut wire, number, &open_channel());
        }
        let mut client = Self { pipe };
        client.send(&wire).await;
        client
    }

    /// Sends, then reads what comes. False when the server hung up.
    async fn send(&mut self, wire: &[u8]) -> bool {
        if self.pipe.write_all(wire).await.is_err() {
            return false;
        }
        let mut bytes = [0; 4096];
        loop {
            let read = self.pipe.read(&mut bytes);
            match tokio::time::timeout(Duration::from_millis(5), read).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return false,
                Err(_) => return true,
            }
        }
    }

    async fn act(&mut self, number: u16, deed: Deed) -> bool {
        let mut wire = Vec::new();
        match deed {
            Deed::Publish(message) => encode_message(&mut wire, number, &message),
            Deed::Ack { tag, multiple } => settle(&mut wire, number, 80, tag, u8::from(multiple)),
            Deed::Nack {
                tag,
                multiple,
                requeue,
            } => {
                let bits = u8::from(multiple) | u8::from(requeue) << 1;
                settle(&mut wire, number, 120, tag, bits);
            }
            Deed::Reject { tag, requeue } => settle(&mut wire, number, 90, tag, u8::from(requeue)),
            deed => {
                if let Some(class) = control(deed) {
                    method(&mut wire, number, &class);
                }
            }
        }
        self.send(&wire).await
    }
}

fn control(deed: Deed) -> Option<AMQPClass> {
    Some(match deed {
        Deed::Declare { .. }
        | Deed::Delete { .. }
        | Deed::Purge { .. }
        | Deed::Bind { .. }
        | Deed::Unbind { .. } => AMQPClass::Queue(on_queue(deed)?),
        Deed::Exchange {
            name,
            kind,
            durable,
            arguments,
        } => {
            let kinds = ["direct", "fanout", "topic", "headers"];
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: exchange_name(name).into(),
                kind: kinds[usize::from(kind) % kinds.len()].into(),
                durable,
                passive: false,
                auto_delete: false,
                internal: false,
                nowait: false,
                arguments: to_field_table(&table(&arguments)),
            }))
        }
        Deed::Confirms => AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
            nowait: false,
        })),
        Deed::TxSelect => AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})),
        Deed::TxCommit => AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})),
        Deed::TxRollback => AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {})),
        Deed::OpenChannel => open_channel(),
        Deed::CloseChannel => AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: "".into(),
            class_id: 0,
            method_id: 0,
        })),
        deed => AMQPClass::Basic(on_messages(deed)?),
    })
}

fn on_queue(deed: Deed) -> Option<queue::AMQPMethod> {
    Some(match deed {
        Deed::Declare {
            queue,
            durable,
            exclusive,
            auto_delete,
            arguments,
        } => queue::AMQPMethod::Declare(queue::Declare {
            queue: queue_name(queue).into(),
            durable,
            exclusive,
            auto_delete,
            passive: false,
            nowait: false,
            arguments: to_field_table(&table(&arguments)),
        }),
        Deed::Delete {
            queue,
            if_unused,
            if_empty,
        } => queue::AMQPMethod::Delete(queue::Delete {
            queue: queue_name(queue).into(),
            if_unused,
            if_empty,
            nowait: false,
        }),
        Deed::Purge { queue } => queue::AMQPMethod::Purge(queue::Purge {
            queue: queue_name(queue).into(),
            nowait: false,
        }),
        Deed::Bind {
            exchange,
            queue,
            key,
            arguments,
        } => queue::AMQPMethod::Bind(queue::Bind {
            queue: queue_name(queue).into(),
            exchange: exchange_name(exchange).into(),
            routing_key: routing_key(key).into(),
            nowait: false,
            arguments: to_field_table(&table(&arguments)),
        }),
        Deed::Unbind {
            exchange,
            queue,
            key,
        } => queue::AMQPMethod::Unbind(queue::Unbind {
            queue: queue_name(queue).into(),
            exchange: exchange_name(exchange).into(),
            routing_key: routing_key(key).into(),
            arguments: to_field_table(&Table::default()),
        }),
        _ => return None,
    })
}

fn on_messages(deed: Deed) -> Option<basic::AMQPMethod> {
    Some(match deed {
        Deed::Qos { count, global } => basic::AMQPMethod::Qos(basic::Qos {
            prefetch_count: u16::from(count),
            global,
        }),
        Deed::Consume {
            queue,
            no_ack,
            exclusive,
            replies,
        } => {
            let name = if replies {
                "amq.rabbitmq.reply-to"
            } else {
                queue_name(queue)
            };
            basic::AMQPMethod::Consume(basic::Consume {
                queue: name.into(),
                consumer_tag: format!("c{}", queue % 6).as_str().into(),
                no_local: false,
                no_ack,
                exclusive,
                nowait: false,
                arguments: to_field_table(&Table::default()),
            })
        }
        Deed::Cancel { tag } => basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: format!("c{}", tag % 6).as_str().into(),
            nowait: false,
        }),
        Deed::Get { queue, no_ack } => basic::AMQPMethod::Get(basic::Get {
            queue: queue_name(queue).into(),
            no_ack,
        }),
        Deed::Recover => basic::AMQPMethod::Recover(basic::Recover { requeue: true }),
        _ => return None,
    })
}

fn encode_message(wire: &mut Vec<u8>, number: u16, message: &Message) {
    let text = |value: Option<u8>| value.map(|value| value.to_string().into_bytes());
    let headers = table(&message.headers);
    let properties = Properties {
        delivery_mode: Some(if message.persistent { 2 } else { 1 }),
        priority: message.priority,
        expiration: text(message.expiration),
        reply_to: message.reply_to.then(|| b"amq.rabbitmq.reply-to".to_vec()),
        headers: (!headers.0.is_empty()).then_some(headers),
        ..Properties::default()
    };
    let address = Address::new(
        exchange_name(message.exchange).as_bytes(),
        routing_key(message.key).as_bytes(),
    );
    let body = vec![b'm'; usize::from(message.size)];
    publish(
        wire,
        number,
        &address,
        message.mandatory,
        &properties.encode(),
        &body,
        4096,
    );
}

fn settle(wire: &mut Vec<u8>, number: u16, id: u8, tag: u8, bits: u8) {
    let mut payload = vec![0, 60, 0, id];
    payload.extend_from_slice(&u64::from(tag % 16).to_be_bytes());
    payload.push(bits);
    frame(wire, 1, number, &payload);
}

fn table(arguments: &[Argument]) -> Table {
    const NAMES: [&str; 20] = [
        "x-message-ttl",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-overflow",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-priority",
        "x-single-active-consumer",
        "x-delivery-limit",
        "x-retry-limit",
        "x-retry-delay",
        "x-lease-timeout",
        "x-match",
        "alternate-exchange",
        "x-queue-type",
        "CC",
        "BCC",
        "x-death",
        "x-delay",
    ];
    const TEXTS: [&str; 9] = [
        "reject-publish",
        "drop-head",
        "reject-publish-dlx",
        "any",
        "all",
        "a",
        "c.dlq",
        "amq.fanout",
        "quorum",
    ];
    let mut table = Table::default();
    for argument in arguments.iter().take(4) {
        let name = NAMES[usize::from(argument.name) % NAMES.len()];
        let value = if argument.text {
            Value::text(TEXTS[usize::from(argument.value.unsigned_abs()) % TEXTS.len()])
        } else {
            Value::I32(i32::from(argument.value))
        };
        table.insert(name, value);
    }
    table
}

fn open_channel() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

fn queue_name(choice: u8) -> &'static str {
    QUEUES[usize::from(choice) % QUEUES.len()]
}

fn exchange_name(choice: u8) -> &'static str {
    EXCHANGES[usize::from(choice) % EXCHANGES.len()]
}

fn routing_key(choice: u8) -> &'static str {
    const KEYS: [&str; 6] = ["a", "b", "c.dlq", "a.b.c", "#", "*.b"];
    KEYS[usize::from(choice) % KEYS.len()]
}
