//! Plays all conversations against RabbitMQ, against our binary, and against our server in this
//! process under virtual time; a test for each.
//!
//! Keeps: one list of files for all servers.
//! Never: stops at the first file that fails.
//! `TEST_CONVERSATION=part/of/a/path` plays only the files that contain it; `TEST_RABBITMQ` and
//! `TEST_LEVERET` name the address of a server that runs already.

mod in_process;
mod rules;

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use in_process::InProcess;
use tests::conversation::stage::{Stage, Tcp};
use tests::conversation::{Conversation, Patience, Report, files, play_all};
use tests::leveret::Leveret;
use tests::rabbitmq::{DEFINITIONS, RabbitMq};

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
    let folder = tempfile::tempdir()?;
    let definitions = folder.path().join("definitions.json");
    fs::write(&definitions, DEFINITIONS)?;
    let config = format!("load_definitions = {:?}", definitions.display().to_string());
    let server = Leveret::start(&config)?;
    play(&Tcp {
        name,
        family,
        address: server.amqp,
    })
}

#[test]
fn leveret_in_process_holds_the_conversations() -> Result<()> {
    let files = chosen()?;
    in_process::runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let report = play_all(&files, &server, PATIENCE).await?;
        let skipped: Vec<_> = report.skipped.iter().map(|(_, why)| why).collect();
        let time_costs_nothing = skipped.iter().all(|why| why.starts_with("holds on"));
        assert!(time_costs_nothing, "skipped without need: {skipped:?}");
        judge(&report);
        server.stop().await
    })
}

fn play(stage: &impl Stage) -> Result<()> {
    let files = chosen()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    judge(&runtime.block_on(play_all(&files, stage, PATIENCE))?);
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the report is for whoever reads the test run"
)]
fn judge(report: &Report) {
    println!("{}", report.text());
    let failed = report.failed.len();
    assert!(failed == 0, "{failed} conversations failed");
    assert!(report.passed > 0, "no conversation was played");
}

fn chosen() -> Result<Vec<(String, Conversation)>> {
    let mut all = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("conversation"))?;
    if let Ok(part) = env::var("TEST_CONVERSATION") {
        all.retain(|(name, _)| name.contains(&part));
    }
    Ok(all)
}

const PATIENCE: Patience = Patience(Duration::from_secs(5));
