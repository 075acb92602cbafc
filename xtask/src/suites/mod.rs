//! `cargo xtask suites`: the test suites of other people's clients, unpatched, as judges.
//!
//! Keeps: a suite is judged test by test against what it says of RabbitMQ; what fails is either
//! known, with its reason, in the compatibility page, or a failure of this command.
//! Never: changes a test, or leaves one out silently; reaches a broker that it did not start.
//! In: `main`, `suite` (the fast ones). The suites themselves are in `tests/suites`.

mod known;
mod outcome;
mod page;
mod room;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{bench, process};
use known::Known;
use outcome::Baseline;
use room::{Broker, Room};
use table::{SUITES, Suite};

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// These suites, by name; all by default.
    names: Vec<String>,
    /// The server to judge; by default one is built.
    #[arg(long, env = "LEVERET_BIN")]
    binary: Option<PathBuf>,
    /// Measures RabbitMQ instead, and no broker at all, and writes what is compared with.
    #[arg(long)]
    baseline: bool,
    /// Only says which suites there are.
    #[arg(long)]
    list: bool,
    /// Writes the table of the compatibility page anew; runs no suite.
    #[arg(long)]
    page: bool,
}

/// Runs them, one after another.
///
/// # Errors
/// A suite could not be run, failed anew, or passes what is known to fail.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for suite in SUITES {
            println!("{:12} {:8} {}", suite.name, suite.version, suite.what);
        }
        return Ok(());
    }
    if options.page {
        return page::write();
    }
    let chosen = chosen(&options.names)?;
    if options.baseline {
        return chosen.into_iter().try_for_each(measure);
    }
    page::check()?;
    let binary = match &options.binary {
        Some(binary) => binary.canonicalize().context("--binary")?,
        None => {
            bench::build()?;
            bench::binary()
        }
    };
    let mut bad = Vec::new();
    for suite in &chosen {
        println!("\n== {} {}", suite.name, suite.version);
        if let Err(error) = judge(suite, &binary) {
            println!("== {}: FAILED: {error:#}", suite.name);
            bad.push(suite.name);
        }
    }
    println!("{} passed, {} failed", chosen.len() - bad.len(), bad.len());
    match bad.as_slice() {
        [] => Ok(()),
        bad => bail!("failed: {}", bad.join(", ")),
    }
}

/// The suites that are fast enough to be run with every change.
pub(crate) fn fast() -> impl Iterator<Item = &'static Suite> {
    SUITES.iter().filter(|suite| suite.fast)
}

/// Whether the compatibility page says what the baselines and the known failures add up to.
///
/// # Errors
/// It does not, or names a test that there is not.
pub(crate) fn check_page() -> Result<()> {
    page::check()
}

/// One suite against the binary.
///
/// # Errors
/// It could not be run; a test failed that RabbitMQ passes and that is not known to fail, or one
/// passed that is known to fail.
pub(crate) fn judge(suite: &Suite, binary: &std::path::Path) -> Result<()> {
    let baseline = Baseline::read(suite.name)?;
    let known = Known::read()?;
    let room = Room::prepare(suite)?;
    let outcomes = room.run(suite, Broker::Leveret(binary))?;
    let verdict = outcome::compare(&baseline, &outcomes, known.of(suite.name));
    println!("== {}: {}", suite.name, verdict.summary());
    let complaints = verdict.complaints();
    for line in &complaints {
        println!("   {line}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => bail!("{count} surprises; the log is {}", room.log().display()),
    }
}

/// Measures a suite on RabbitMQ and with nobody listening, and keeps it as baseline.
fn measure(suite: &Suite) -> Result<()> {
    println!("\n== {} {} on RabbitMQ", suite.name, suite.version);
    let room = Room::prepare(suite)?;
    let oracle = room.run(suite, Broker::RabbitMq)?;
    println!("{}", oracle.summary());
    println!("== {} {} without a broker", suite.name, suite.version);
    let alone = room.run(suite, Broker::None)?;
    println!("{}", alone.summary());
    Baseline::join(oracle, &alone).write(suite, &rabbitmq_version()?)
}

fn rabbitmq_version() -> Result<String> {
    let mut ask = process::command(
        "dpkg-query",
        &["--show", "--showformat", "${Version}", "rabbitmq-server"],
    );
    process::output(&mut ask)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Suite>> {
    if names.is_empty() {
        return Ok(SUITES.iter().collect());
    }
    let find = |name: &String| {
        let found = SUITES.iter().find(|suite| suite.name == name);
        found.with_context(|| format!("no suite is called {name}; --list names them"))
    };
    names.iter().map(find).collect()
}
