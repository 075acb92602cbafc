//! Publishes on several channels whose headers lie, whose bodies stop early or run over, and that
//! interleave with other methods. Pure.
#![no_main]

mod shell;

use amqp::client::{HEADER, frame, method, start_ok, tune_and_open};
use amqp::content::Address;
use amqp::field::Table;
use amqp::protocol::{AMQPClass, channel, confirm};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shell::Shell;

#[derive(Arbitrary, Debug)]
enum Step {
    Publish {
        channel: u8,
        exchange: Vec<u8>,
        key: Vec<u8>,
        flags: u8,
    },
    Header {
        channel: u8,
        class: u8,
        size: u32,
        huge: bool,
        properties: Vec<u8>,
    },
    Body {
        channel: u8,
        size: u16,
    },
    Whole {
        channel: u8,
        properties: Vec<u8>,
        size: u16,
        mandatory: bool,
    },
    Open {
        channel: u8,
    },
    Close {
        channel: u8,
    },
    Confirms {
        channel: u8,
    },
    Ack {
        channel: u8,
        tag: u64,
        multiple: bool,
    },
    Heartbeat,
    Turn,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut shell = Shell::new(64 << 10);
    let mut wire = HEADER.to_vec();
    start_ok(&mut wire, "guest", "guest", &Table::default());
    tune_and_open(&mut wire, 8, 4096, 0, "/");
    for number in 1..4 {
        method(&mut wire, number, &open());
    }
    for step in steps.into_iter().take(200) {
        match step {
            Step::Turn => {
                if !shell.turn(&wire) {
                    return;
                }
                wire.clear();
            }
            step => encode(&mut wire, step),
        }
    }
    shell.turn(&wire);
});

fn encode(wire: &mut Vec<u8>, step: Step) {
    match step {
        Step::Publish {
            channel,
            exchange,
            key,
            flags,
        } => {
            let mut payload = vec![0, 60, 0, 40, 0, 0];
            payload.extend_from_slice(Address::new(&exchange, &key).wire());
            payload.push(flags);
            frame(wire, 1, of(channel), &payload);
        }
        Step::Header {
            channel,
            class,
            size,
            huge,
            properties,
        } => {
            let class = if class < 250 { 60 } else { class };
            let size = if huge {
                u64::MAX - u64::from(size)
            } else {
                u64::from(size)
            };
            let mut payload = vec![0, class, 0, 0];
            payload.extend_from_slice(&size.to_be_bytes());
            payload.extend_from_slice(&properties);
            frame(wire, 2, of(channel), &payload);
        }
        Step::Body { channel, size } => {
            frame(wire, 3, of(channel), &vec![b'b'; usize::from(size % 5000)]);
        }
        Step::Whole {
            channel,
            properties,
            size,
            mandatory,
        } => {
            let body = vec![b'w'; usize::from(size)];
            let address = Address::new(b"", b"q");
            let properties = if properties.len() < 2 {
                vec![0, 0]
            } else {
                properties
            };
            let number = of(channel);
            amqp::client::publish(wire, number, &address, mandatory, &properties, &body, 4096);
        }
        Step::Open { channel } => method(wire, of(channel), &open()),
        Step::Close { channel } => {
            let close = channel::Close {
                reply_code: 200,
                reply_text: "".into(),
                class_id: 0,
                method_id: 0,
            };
            let close = AMQPClass::Channel(channel::AMQPMethod::Close(close));
            method(wire, of(channel), &close);
        }
        Step::Confirms { channel } => {
            let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
            method(wire, of(channel), &AMQPClass::Confirm(select));
        }
        Step::Ack {
            channel,
            tag,
            multiple,
        } => {
            let mut payload = vec![0, 60, 0, 80];
            payload.extend_from_slice(&tag.to_be_bytes());
            payload.push(u8::from(multiple));
            frame(wire, 1, of(channel), &payload);
        }
        Step::Heartbeat => frame(wire, 8, 0, &[]),
        Step::Turn => {}
    }
}

fn open() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

/// Mostly the three channels that are open.
fn of(channel: u8) -> u16 {
    if channel < 240 {
        u16::from(channel % 3) + 1
    } else {
        u16::from(channel) - 236
    }
}
