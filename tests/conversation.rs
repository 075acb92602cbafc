//! Plays all conversations against RabbitMQ, against our binary, and against our server in this
//! process under virtual time; a test for each.
//!
//! Keeps: one list of files for all servers.
//! Never: stops at the first file that fails.
//! `TEST_CONVERSATION=part/of/a/path` plays only the files that contain it; `TEST_RABBITMQ` and
//! `TEST_LEVERET` name the address of a server that runs already.

mod in_process;
mod policies;
mod rules;

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use in_process::InProcess;
use tests::conversation::stage::{Stage, Tcp};
use tests::conversation::{Conversation, Patience, Report, files, play_all};
use tests::leveret::Leveret;
use tests::rabbitmq::{DEFINITIONS, RabbitMq};

#[test]
fn rabbitmq_holds_the_conversations() -> Result<()> {
    let server = RabbitMq::start()?;
    let stage = Tcp {
        name: "RabbitMQ".to_owned(),
        family: "rabbitmq",
        address: server.address,
    };
    let chosen = Chosen::read()?;
    play(&chosen.plain, &stage)?;
    // A server that ran already is not ours to command.
    if !chosen.traced.is_empty() && env::var("TEST_RABBITMQ").is_err() {
        server.ctl(&["trace_on"])?;
        play(&chosen.traced, &stage)?;
    }
    Ok(())
}

#[test]
fn leveret_holds_the_conversations() -> Result<()> {
    let name = "leveret on SQLite".to_owned();
    let family = "leveret";
    if let Ok(address) = env::var("TEST_LEVERET") {
        let address = address.parse()?;
        return play(
            &Chosen::read()?.plain,
            &Tcp {
                name,
                family,
                address,
            },
        );
    }
    let folder = tempfile::tempdir()?;
    let definitions = folder.path().join("definitions.json");
    fs::write(&definitions, DEFINITIONS)?;
    let config = format!("load_definitions = {:?}", definitions.display().to_string());
    let server = Leveret::start(&config)?;
    let address = server.amqp;
    let stage = Tcp {
        name,
        family,
        address,
    };
    let chosen = Chosen::read()?;
    play(&chosen.plain, &stage)?;
    let traced = server.command(&["trace", "on"])?;
    assert!(traced.status.success(), "{traced:?}");
    play(&chosen.traced, &stage)
}

#[test]
fn leveret_in_process_holds_the_conversations() -> Result<()> {
    let Chosen { plain, traced } = Chosen::read()?;
    in_process::runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let report = play_all(&plain, &server, PATIENCE).await?;
        let skipped: Vec<_> = report.skipped.iter().map(|(_, why)| why).collect();
        let time_costs_nothing = skipped.iter().all(|why| why.starts_with("holds on"));
        assert!(time_costs_nothing, "skipped without need: {skipped:?}");
        judge(&report);
        server.trace()?;
        judge(&play_all(&traced, &server, PATIENCE).await?);
        server.stop().await
    })
}

fn play(files: &[(String, Conversation)], stage: &impl Stage) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    judge(&runtime.block_on(play_all(files, stage, PATIENCE))?);
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
}

/// The files to play.
struct Chosen {
    plain: Vec<(String, Conversation)>,
    /// Played where the vhost is traced.
    traced: Vec<(String, Conversation)>,
}

impl Chosen {
    fn read() -> Result<Self> {
        let part = env::var("TEST_CONVERSATION").unwrap_or_default();
        let read = |folder: &str| -> Result<Vec<_>> {
            let mut all = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))?;
            all.retain(|(name, _)| name.contains(&part));
            Ok(all)
        };
        let chosen = Self {
            plain: read("conversation")?,
            traced: read("conversation_traced")?,
        };
        let none = chosen.plain.is_empty() && chosen.traced.is_empty();
        ensure!(!none, "no conversation has {part:?} in its name");
        Ok(chosen)
    }
}

const PATIENCE: Patience = Patience(Duration::from_secs(5));
