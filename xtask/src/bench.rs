//! `cargo xtask bench`: a fresh release build, then the bench program in place of this one.
//!
//! Keeps: what is measured is what is in the work tree.
//! Never: knows a workload; `cargo xtask bench --help` is the bench program's own.
//! In: `main`.

use std::env;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// Builds the server and becomes the bench program.
///
/// # Errors
/// The server does not build, or cargo cannot be started.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
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
    Err(bench.exec()).context("starting cargo run")
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

/// A cold build with SQLite's C on two busy cores takes ten minutes.
const BUILD_MAX: Duration = Duration::from_secs(3600);
