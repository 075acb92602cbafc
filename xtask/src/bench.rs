//! `cargo xtask bench`: a fresh release build, then the bench program in place of this one; with
//! `--store postgres` beside a PostgreSQL that lives as long.
//!
//! Keeps: what is measured is what is in the work tree; no server outlives the run.
//! Never: knows a workload; `cargo xtask bench --help` is the bench program's own.
//! In: `main`.

use std::env;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::postgres::Postgres;
use crate::process;

/// Builds the server and becomes the bench program.
///
/// # Errors
/// The server does not build, or cargo cannot be started.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (arguments, wants_server) = without_store(arguments);
    build()?;
    let mut bench = process::command("cargo", &["run", "--release", "--locked"]);
    bench
        .args(["--quiet", "--package", "bench", "--"])
        .args(arguments);
    // Paths among the arguments are the caller's.
    bench.current_dir(env::current_dir()?);
    if env::var_os("LEVERET_BIN").is_none() {
        bench.env("LEVERET_BIN", binary());
    }
    if !wants_server {
        return Err(bench.exec()).context("starting cargo run");
    }
    let server = Postgres::start()?;
    let status = bench.args(["--store", &server.url()]).status()?;
    drop(server);
    ensure!(status.success(), "the bench program ended with {status}");
    Ok(())
}

/// The arguments without `--store postgres`, which asks for a server of our own, and whether it
/// was among them. A URL is the bench program's own matter.
fn without_store(arguments: &[String]) -> (Vec<String>, bool) {
    let mut rest = Vec::new();
    let mut from = arguments.iter().peekable();
    let mut found = false;
    while let Some(argument) = from.next() {
        let split = argument == "--store" && from.peek().is_some_and(|value| *value == OWN);
        if split {
            from.next();
        }
        match split || argument.strip_prefix("--store=") == Some(OWN) {
            true => found = true,
            false => rest.push(argument.clone()),
        }
    }
    (rest, found)
}

/// Builds the release binary.
///
/// # Errors
/// It does not build.
pub(crate) fn build() -> Result<()> {
    let mut cargo = process::command("cargo", &["build", "--release", "--locked"]);
    process::run(cargo.args(["--package", "gateway"]), BUILD_MAX)
}

/// Where [`build`] leaves it.
pub(crate) fn binary() -> std::path::PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(std::path::PathBuf::from);
    target
        .unwrap_or_else(|| crate::root().join("target"))
        .join("release/leveret")
}

/// A server for the time of the run.
const OWN: &str = "postgres";

/// A cold build with SQLite's C on two busy cores takes ten minutes.
const BUILD_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (String, bool) {
        let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let (rest, found) = without_store(&arguments);
        (rest.join(" "), found)
    }

    #[test]
    fn only_the_word_asks_for_a_server_of_our_own() {
        let asked = ("--check soak-pinned".to_owned(), true);
        assert_eq!(split("--check --store postgres soak-pinned"), asked);
        assert_eq!(split("--check --store=postgres soak-pinned"), asked);
        let url = "--store postgres://a@h/d postgres";
        assert_eq!(split(url), (url.to_owned(), false));
        assert_eq!(split("--store"), ("--store".to_owned(), false));
    }
}
