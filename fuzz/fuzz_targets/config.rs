//! What comes before the protocol: configuration texts and PROXY headers. Any is refused with a
//! reason, or means something; a header takes no byte of what follows it. Pure.
#![no_main]

use gateway::config::{self, Given};
use gateway::proxy_protocol;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    if kind & 1 == 0 {
        let Ok(text) = std::str::from_utf8(rest) else {
            return;
        };
        if let Err(error) = config::read("leveret.toml", text, &Given::default()) {
            assert!(!error.to_string().is_empty());
        }
        return;
    }
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut wire = rest;
        if proxy_protocol::read(&mut wire).await.is_ok() {
            let header = &rest[..rest.len() - wire.len()];
            // A header is one however it goes on.
            let mut alone = header;
            assert!(proxy_protocol::read(&mut alone).await.is_ok());
            assert!(alone.is_empty());
        }
    });
});
