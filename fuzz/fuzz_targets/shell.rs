//! The least shell around a connection: answers its events as the gateway would, keeps no store.
//!
//! Keeps: what the machine promises its shell, asserted: contents lie whole in their block, and
//! memory stays in proportion to what came in.
//! In: the targets that drive `amqp::connection` alone.
#![allow(dead_code, reason = "each target uses a part")]

use std::time::{Duration, Instant};

use amqp::client::decode_all;
use amqp::connection::{Connection, Event, Options};
use amqp::content::Block;
use amqp::field::{Table, Value};
use amqp::limits;
use amqp::protocol::{AMQPClass, channel};
use amqp::reply::Scope;

/// Bytes of output that one event may cause at most, the handshake's tables included.
const ANSWER_MAX: usize = 4096;

pub struct Shell {
    pub connection: Connection,
    now: Instant,
    /// Bytes taken that may still be looked at again.
    rest: Vec<u8>,
    taken: usize,
}

impl Shell {
    pub fn new(message_max: u64) -> Self {
        let now = Instant::now();
        let mut server_properties = Table::default();
        server_properties.insert("product", Value::text("RabbitMQ"));
        let options = Options {
            frame_max: limits::FRAME_MAX,
            channel_max: 16,
            heartbeat: limits::HEARTBEAT,
            message_max,
            server_properties,
            mechanisms: "PLAIN AMQPLAIN".into(),
        };
        Self {
            connection: Connection::new(now, options),
            now,
            rest: Vec::new(),
            taken: 0,
        }
    }

    /// One read turn. False once the connection is gone.
    pub fn turn(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        self.taken += bytes.len();
        loop {
            let used = self.connection.handle_bytes(self.now, &self.rest);
            assert!(used <= self.rest.len());
            self.rest.drain(..used);
            let block = self.connection.take_block();
            assert!(block.data.len() <= self.taken + 64 * (block.entries.len() + 1));
            let acted = self.events(&block);
            if self.connection.is_gone() {
                return false;
            }
            if used == 0 || self.rest.is_empty() || !acted {
                return true;
            }
        }
    }

    /// Time passes.
    pub fn wait(&mut self, span: Duration) {
        self.now += span;
        if self.connection.deadline().is_some_and(|at| at <= self.now) {
            self.connection.handle_deadline(self.now);
        }
        self.events(&Block::default());
    }

    fn events(&mut self, block: &Block) -> bool {
        let mut acted = false;
        while let Some(event) = self.connection.poll_event() {
            acted = true;
            let before = self.connection.output().len();
            self.event(event, block);
            let grown = self.connection.output().len().saturating_sub(before);
            assert!(grown <= ANSWER_MAX, "{grown} bytes in answer to one event");
        }
        self.check_output();
        acted
    }

    fn event(&mut self, event: Event, block: &Block) {
        match event {
            Event::Login { .. } => self.connection.accept_login(),
            Event::Open { .. } => self.connection.accept_open(),
            Event::ChannelOpen { channel } => {
                let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
                self.connection.reply(channel, &AMQPClass::Channel(ok));
            }
            Event::ChannelClose { channel } => self.connection.channel_closed(channel),
            Event::ChannelError { channel, close } => match close.scope {
                Scope::Channel => self.connection.close_channel(channel, &close),
                Scope::Connection => self.connection.close(self.now, &close),
            },
            Event::Closed { .. } => self.connection.connection_closed(),
            Event::Failed(close) => self.connection.close(self.now, &close),
            Event::Publish { first, count, .. } => check_contents(block, first, count),
            _ => {}
        }
    }

    /// What goes out is whole frames that an independent decoder reads.
    fn check_output(&mut self) {
        let output = std::mem::take(self.connection.output());
        let frames = decode_all(&output);
        assert!(frames.is_ok(), "{frames:?}: {output:?}");
    }
}

/// By hand: a short string need not be UTF-8, which `decode_all` insists on.
fn check_contents(block: &Block, first: u32, count: u32) {
    assert!(count > 0);
    for index in first as usize..(first + count) as usize {
        let size = block.entries[index].body_size as usize;
        let (mut at, mut body, mut kind) = (block.content(index), 0, 2);
        while !at.is_empty() {
            let length = u32::from_be_bytes([at[3], at[4], at[5], at[6]]) as usize;
            assert_eq!((at[0], at[7 + length]), (kind, 0xCE));
            if kind == 2 {
                let told: [u8; 8] = at[11..19].try_into().expect("eight bytes");
                assert_eq!(u64::from_be_bytes(told), size as u64);
            } else {
                body += length;
            }
            (at, kind) = (&at[8 + length..], 3);
        }
        assert_eq!((body, block.body(index).len()), (size, size));
        assert!(block.address(index).exchange().len() <= 255);
    }
}
