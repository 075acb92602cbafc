//! `cargo xtask ci`: what every change must pass before its behaviour is tested.
//!
//! Keeps: cheap checks first; one selection of packages, so that nothing is built twice.
//! Never: starts a server, or needs a network once the dependencies are there.
//! In: `main`, `suite`.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::step::Steps;
use crate::{arrows, dashboard, process, suites, tidy};

/// All steps; ends at the first failure.
///
/// # Errors
/// A step failed.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::new(true);
    add(&mut steps)?;
    steps.close()
}

/// The steps, counted into `steps`.
///
/// # Errors
/// A step failed and `steps` is strict.
pub(crate) fn add(steps: &mut Steps) -> Result<()> {
    steps.run("format", || cargo(&["fmt", "--all", "--check"]))?;
    steps.run("tidy", || tidy::run(crate::root()))?;
    steps.run("arrows", arrows::run)?;
    steps.run("dashboard is current", || {
        dashboard::run(crate::root(), true)
    })?;
    steps.run("compatibility page is current", suites::check_page)?;
    steps.run("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    steps.run("unit tests", || {
        cargo(&[
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--lib",
            "--bins",
        ])
    })?;
    steps.run("examples in the documentation", || {
        cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--doc"])
    })?;
    steps.run("documentation", document)?;
    steps.run("dependencies", dependencies)?;
    Ok(())
}

/// Cargo on the workspace, with its own output.
///
/// # Errors
/// It fails, or takes too long.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(&mut process::command("cargo", arguments), CARGO_MAX)
}

fn document() -> Result<()> {
    let mut rustdoc = process::command("cargo", &["doc", "--workspace", "--locked", "--no-deps"]);
    // Private items are documented here, so links to them lead somewhere.
    let flags = "-D warnings -A rustdoc::private-intra-doc-links";
    rustdoc
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", flags);
    process::run(&mut rustdoc, CARGO_MAX)
}

/// Licences, bans and sources. The advisories need a clone of a database from the network, so
/// that they would make an offline machine fail; `cargo deny check advisories` is for releases.
fn dependencies() -> Result<()> {
    let deny = tool("cargo-deny").context("cargo-deny is missing: run `cargo xtask install`")?;
    let mut deny = process::command(&deny.to_string_lossy(), &["check"]);
    process::run(deny.args(["bans", "licenses", "sources"]), CARGO_MAX)
}

/// A tool of cargo: the one of the project, else the one of the machine.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let tools = std::iter::once(crate::root().join(".tools/bin"));
    tools
        .chain(env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|at| at.is_file())
}

/// Installs the tools for the project where there is none.
///
/// # Errors
/// One does not build.
pub(crate) fn install_tools() -> Result<()> {
    for (name, version) in TOOLS {
        if tool(name).is_some() {
            continue;
        }
        // A debug build takes half the time, and the tools work for a second.
        let mut cargo = process::command("cargo", &["install", "--locked", "--debug"]);
        cargo.args(["--root", ".tools", "--version", version, name]);
        process::run(&mut cargo, CARGO_MAX)?;
        if tool(name).is_none() {
            bail!("cargo install left no {name} in .tools/bin");
        }
    }
    Ok(())
}

const TOOLS: [(&str, &str); 2] = [("cargo-deny", "0.20.2"), ("cargo-fuzz", "0.13.2")];
const CARGO_MAX: Duration = Duration::from_secs(3600);
