//! The project's own commands: `cargo xtask …`.
//!
//! Keeps: each chore in one place, callable by a person and by CI alike.
//! Never: is part of the product; needs a crate beyond anyhow, clap and serde_json.
//! In: `.cargo/config.toml` gives it the name `xtask`, `.ci/run` calls `test`.

#![expect(clippy::print_stdout, reason = "a command line tool talks to its user")]

mod arrows;
mod bench;
mod ci;
mod dashboard;
mod fuzz;
mod install;
mod postgres;
mod process;
mod server;
mod step;
mod suite;
mod suites;
mod tidy;
mod torture;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the Leveret workspace", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything: install, ci, a release build, and every test there is. Ends with a count.
    Test(suite::Options),
    /// Formats, lints, unit tests, documentation, dependencies, house rules. Stops at a failure.
    Ci,
    /// House rules that no compiler knows.
    Tidy,
    /// Which crate may depend on which.
    Arrows,
    /// Installs what the tests need on a Debian machine, where it is missing.
    Install,
    /// Feeds the targets of `fuzz/` for a while.
    Fuzz(fuzz::Options),
    /// Runs the test suites of other people's clients, unpatched, and judges them test by test.
    Suites(suites::Options),
    /// Faults by the dozen on a store that nodes share, and an account of every message. An hour.
    Torture(torture::Options),
    /// Measures against RabbitMQ; the arguments go to the bench program.
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Writes the Grafana dashboard from its description in code.
    Dashboard {
        /// Only says whether the file is current.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Test(options) => suite::run(&options),
        Chore::Ci => ci::run(),
        Chore::Tidy => tidy::run(root()),
        Chore::Arrows => arrows::run(),
        Chore::Install => install::run(),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Suites(options) => suites::run(&options),
        Chore::Torture(options) => torture::run(&options),
        Chore::Bench { arguments } => bench::run(&arguments),
        Chore::Dashboard { check } => dashboard::run(root(), check),
    }
}

/// The workspace.
fn root() -> &'static Path {
    static ROOT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        package.parent().unwrap_or(package).to_owned()
    })
}
