//! Plays all conversations against RabbitMQ and against our binary, a test for each.
//!
//! Keeps: one list of files for all servers.
//! Never: stops at the first file that fails.
//! `TEST_CONVERSATION=part/of/a/path` plays only the files that contain it; `TEST_RABBITMQ` and
//! `TEST_LEVERET` name the address of a server that runs already.

use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tests::conversation::stage::Tcp;
use tests::conversation::{Conversation, Patience, files, play_all};
use tests::leveret::Leveret;
use tests::rabbitmq::RabbitMq;

#[test]
fn rabbitmq_holds_the_conversations() -> Result<()> {
    let server = RabbitMq::start()?;
    let name = "RabbitMQ".to_owned();
    play(&Tcp {
        name,
        family: "rabbitmq",
        address: server.address,
    })
}

#[test]
fn leveret_holds_the_conversations() -> Result<()> {
    let name = "leveret on SQLite".to_owned();
    let family = "leveret";
    if let Ok(address) = env::var("TEST_LEVERET") {
        let address = address.parse()?;
        return play(&Tcp {
            name,
            family,
            address,
        });
    }
    let server = Leveret::start("")?;
    play(&Tcp {
        name,
        family,
        address: server.amqp,
    })
}

#[expect(
    clippy::print_stdout,
    reason = "the report is for whoever reads the test run"
)]
fn play(stage: &Tcp) -> Result<()> {
    let files = chosen()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(play_all(&files, stage, Patience(Duration::from_secs(5))))?;
    println!("{}", report.text());
    assert!(
        report.failed.is_empty(),
        "{} conversations failed",
        report.failed.len()
    );
    assert!(report.passed > 0, "no conversation was played");
    Ok(())
}

fn chosen() -> Result<Vec<(String, Conversation)>> {
    let mut all = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("conversation"))?;
    if let Ok(part) = env::var("TEST_CONVERSATION") {
        all.retain(|(name, _)| name.contains(&part));
    }
    Ok(all)
}
