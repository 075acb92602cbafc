//! Any bytes, cut anywhere, from the protocol header on or after a login. Pure.
#![no_main]

mod shell;

use std::time::Duration;

use amqp::client::{HEADER, method, start_ok, tune_and_open};
use amqp::field::Table;
use amqp::protocol::{AMQPClass, channel};
use libfuzzer_sys::fuzz_target;
use shell::Shell;

fuzz_target!(|input: &[u8]| {
    let [mode, cut, bytes @ ..] = input else {
        return;
    };
    let mut shell = Shell::new(1 << 20);
    if mode & 1 == 1 {
        let mut opening = HEADER.to_vec();
        start_ok(&mut opening, "guest", "guest", &Table::default());
        tune_and_open(&mut opening, 8, 4096 + u32::from(*mode) * 64, 60, "/");
        let open = channel::AMQPMethod::Open(channel::Open {});
        method(&mut opening, 1, &AMQPClass::Channel(open));
        assert!(shell.turn(&opening), "the opening is sound");
    }
    let size = usize::from(*cut).max(1) * if mode & 2 == 2 { 64 } else { 1 };
    for part in bytes.chunks(size) {
        if !shell.turn(part) {
            return;
        }
    }
    if mode & 4 == 4 {
        shell.wait(Duration::from_secs(31));
        shell.wait(Duration::from_secs(120));
    }
});
