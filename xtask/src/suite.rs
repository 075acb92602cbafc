//! `cargo xtask test`: everything that can be tested, on one release binary.
//!
//! Keeps: a step that cannot run counts as failed; the last line is the count.
//! Never: leaves something out without saying so.
//! In: `main`; `.ci/run` and the README name it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::postgres::Postgres;
use crate::server::Server;
use crate::step::Steps;
use crate::{bench, ci, fuzz, install, process, suites};

/// What to test.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these parts, in their usual order (everything by default).
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often the crash test kills the server.
    #[arg(long, default_value_t = 50)]
    crash_cycles: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What the machine must have.
    Install,
    /// Lints, unit tests, documentation, house rules.
    Ci,
    /// AMQP conversations and operators' commands, on RabbitMQ and on the binary.
    Conversation,
    /// Client libraries in five languages, and the examples.
    Clients,
    /// The fast ones of the suites that other clients bring along.
    Suites,
    /// Load, kill -9, restart, check; the rules of work under the same.
    Crash,
    /// A disk that lies or is full.
    Faults,
    /// TLS, PROXY headers, limits, alarms.
    Network,
    /// Metrics, dashboard and alerts with Prometheus.
    Monitoring,
    /// Conversations, operators, crashes and histories once more, on PostgreSQL.
    Postgres,
    /// A minute of fuzzing for each target.
    Fuzz,
}

const LANGUAGES: [&str; 5] = ["python", "node", "go", "java", "rust"];

/// Runs them.
///
/// # Errors
/// Only for faults of this program; a failed step ends it with code 1 after the count.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    for part in Part::value_variants().iter().filter(|part| !wanted(**part)) {
        let name = part
            .to_possible_value()
            .map(|value| value.get_name().to_owned());
        println!("left out by --only: {}", name.unwrap_or_default());
    }
    let mut steps = Steps::new(false);
    if wanted(Part::Install) {
        steps.run("install", install::run)?;
    }
    if wanted(Part::Ci) {
        ci::add(&mut steps)?;
    }
    let wants_binary = [
        Part::Conversation,
        Part::Clients,
        Part::Suites,
        Part::Crash,
        Part::Faults,
        Part::Network,
        Part::Monitoring,
        Part::Postgres,
    ];
    let built =
        !wants_binary.into_iter().any(wanted) || steps.run("release build", bench::build)?;
    let binary = bench::binary();
    let mut program = |part, name: &str, test: &str, variables: &[(&str, String)]| -> Result<()> {
        match (wanted(part), built) {
            (true, true) => drop(steps.run(name, || test_program(test, &binary, variables))?),
            (true, false) => steps.miss(name, NO_BINARY),
            (false, _) => {}
        }
        Ok(())
    };
    program(Part::Conversation, "conversations", "conversation", &[])?;
    program(Part::Conversation, "operators", "operator", &[])?;
    program(Part::Conversation, "whole stores", "store", &[])?;
    let cycles = [("LEVERET_CRASH_CYCLES", options.crash_cycles.to_string())];
    program(Part::Crash, "crash test", "crash", &cycles)?;
    program(
        Part::Crash,
        "histories of the rules of work",
        "history",
        &[],
    )?;
    program(Part::Faults, "disk faults", "faults", &[])?;
    program(Part::Network, "network", "network", &[])?;
    program(Part::Network, "floods", "flood", &[])?;
    program(Part::Monitoring, "monitoring", "monitoring", &[])?;
    if wanted(Part::Postgres) {
        shared(&mut steps, built.then_some(&binary))?;
    }
    if wanted(Part::Clients) {
        clients(&mut steps, built.then_some(&binary))?;
    }
    if wanted(Part::Suites) {
        foreign(&mut steps, built.then_some(&binary))?;
    }
    if wanted(Part::Fuzz) {
        steps.run("fuzzing", || fuzz::run(&fuzz::Options::default()))?;
    }
    steps.close()
}

/// What touches the store, on a PostgreSQL of our own.
fn shared(steps: &mut Steps, binary: Option<&PathBuf>) -> Result<()> {
    let mut server = None;
    steps.run("a PostgreSQL for the tests", || {
        server = Some(Postgres::start()?);
        Ok(())
    })?;
    for (name, test, variable) in SHARED {
        let name = format!("{name} on PostgreSQL");
        match (&server, binary) {
            (Some(server), Some(binary)) => {
                let more = variable.map(|(name, value)| (name, value.to_owned()));
                let variables: Vec<_> = server.variables().into_iter().chain(more).collect();
                steps.run(&name, || test_program(test, binary, &variables))?;
            }
            (None, _) => steps.miss(&name, "there is no PostgreSQL"),
            (_, None) => steps.miss(&name, NO_BINARY),
        }
    }
    Ok(())
}

/// One test program of `tests/`. The selection of packages is that of the unit tests, so that the
/// dependencies are built once.
pub(crate) fn test_program(test: &str, binary: &Path, variables: &[(&str, String)]) -> Result<()> {
    let mut cargo = process::command(
        "cargo",
        &["test", "--workspace", "--locked", "--test", test],
    );
    cargo.args(["--", "--nocapture"]).env("LEVERET_BIN", binary);
    for (name, value) in variables {
        cargo.env(name, value);
    }
    process::run(&mut cargo, PROGRAM_MAX)
}

/// Each language's clients and examples, all on one server.
fn clients(steps: &mut Steps, binary: Option<&PathBuf>) -> Result<()> {
    let mut server = None;
    let mut reason = NO_BINARY;
    if let Some(binary) = binary {
        steps.run("a server for the clients", || {
            server = Some(Server::start(binary)?);
            Ok(())
        })?;
        reason = "there is no server";
    }
    for language in LANGUAGES {
        for (what, script) in SCRIPTS {
            let name = format!("{what} in {language}");
            match (&server, binary) {
                (Some(server), Some(binary)) => {
                    steps.run(&name, || script_on(server, binary, script, language))?;
                }
                _ => steps.miss(&name, reason),
            }
        }
    }
    let name = "the server stops well";
    match server {
        Some(server) => drop(steps.run(name, || server.stop())?),
        None => steps.miss(name, reason),
    }
    Ok(())
}

/// The suites of other people's clients, each on a server of its own.
fn foreign(steps: &mut Steps, binary: Option<&PathBuf>) -> Result<()> {
    for suite in suites::fast() {
        let name = format!("the suite of {}", suite.name);
        match binary {
            Some(binary) => drop(steps.run(&name, || suites::judge(suite, binary))?),
            None => steps.miss(&name, NO_BINARY),
        }
    }
    Ok(())
}

fn script_on(server: &Server, binary: &Path, script: &str, language: &str) -> Result<()> {
    let mut command: Command = process::command(script, &[language]);
    command
        .env("AMQP_URL", format!("amqp://guest:guest@{}/", server.amqp))
        .env("HTTP_URL", format!("http://{}", server.http))
        .env("LEVERET", binary)
        // The Rust clients are workspaces of their own that share their dependencies.
        .env("CARGO_TARGET_DIR", shared_target());
    process::run(&mut command, PROGRAM_MAX).or_else(|error| {
        bail!("{error:#}; the server's last words:\n{}", server.log_end());
    })
}

fn shared_target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target
        .unwrap_or_else(|| crate::root().join("target"))
        .join("clients")
}

type Variable = (&'static str, &'static str);

/// Name, test program, and what makes it shorter: each ran in full on SQLite.
const SHARED: [(&str, &str, Option<Variable>); 6] = [
    ("takeovers", "takeover", None),
    ("torture", "torture", None),
    ("conversations", "conversation", None),
    ("operators", "operator", None),
    ("crash test", "crash", Some(("LEVERET_CRASH_CYCLES", "10"))),
    ("histories of the rules of work", "history", None),
];

const SCRIPTS: [(&str, &str); 2] = [
    ("clients", "tests/clients/run.sh"),
    ("examples", "tests/clients/examples.py"),
];
const NO_BINARY: &str = "the release build failed";
const PROGRAM_MAX: Duration = Duration::from_secs(3600);
