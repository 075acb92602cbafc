//! `cargo xtask fuzz`: the targets of `fuzz/`, built with coverage and run for a while each.
//!
//! Keeps: the small corpus in `fuzz/corpus` as seeds, never written; what a run finds new stays
//! beside the build. An input that fails is kept in `fuzz/artifacts` and named.
//! Never: a sanitizer: the product has no `unsafe`; debug assertions and overflow checks are on.
//! In: `main`, `suite`.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{ci, process};

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Targets by name; all by default.
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_name = "S")]
    seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            seconds: 60,
        }
    }
}

/// Builds the targets and runs them, two at a time.
///
/// # Errors
/// A target does not build, or found an input that breaks a promise.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen: Vec<&str> = TARGETS
        .into_iter()
        .filter(|name| options.targets.is_empty() || options.targets.iter().any(|t| t == name))
        .collect();
    if chosen.is_empty() {
        bail!("no such target; there are {}", TARGETS.join(", "));
    }
    let programs = build()?;
    let mut failed = Vec::new();
    for pair in chosen.chunks(AT_ONCE) {
        let running = pair
            .iter()
            .map(|name| start(&programs, name, options.seconds));
        let running: Vec<(&str, Child)> = running.collect::<Result<_>>()?;
        for (name, mut child) in running {
            let limit = Duration::from_secs(options.seconds) + GRACE;
            let sound = process::wait(&mut child, limit)?.is_some_and(|status| status.success());
            println!(
                "fuzz {name}: {}",
                if sound { "nothing found" } else { "FAILED" }
            );
            tell(&programs, name, !sound)?;
            if !sound {
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("{}: see fuzz/artifacts", failed.join(", "));
    }
    Ok(())
}

/// Answers the folder of the programs.
fn build() -> Result<PathBuf> {
    let tool =
        ci::tool("cargo-fuzz").context("cargo-fuzz is missing: run `cargo xtask install`")?;
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target
        .unwrap_or_else(|| crate::root().join("target"))
        .join("fuzz");
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let arguments = ["build", "--sanitizer", "none", "--target", &triple];
    let mut build = process::command(&tool.to_string_lossy(), &arguments);
    // The instrumentation is an unstable flag of the stable compiler.
    build
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target);
    process::run(&mut build, BUILD_MAX)?;
    Ok(target.join(triple).join("release"))
}

fn start<'a>(programs: &Path, name: &'a str, seconds: u64) -> Result<(&'a str, Child)> {
    let fuzz = crate::root().join("fuzz");
    let found = programs.join("corpus").join(name);
    let artifacts = fuzz.join("artifacts").join(name);
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let program = programs.join(name);
    let mut command = process::command(&program.to_string_lossy(), &[]);
    let log = fs::File::create(log_of(programs, name))?;
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(LIMITS)
        .arg(found)
        .args(Some(fuzz.join("corpus").join(name)).filter(|seeds| seeds.is_dir()))
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    Ok((name, child))
}

/// The last line, which counts the runs; all of the end when it failed.
fn tell(programs: &Path, name: &str, all: bool) -> Result<()> {
    let bytes = fs::read(log_of(programs, name))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = if all { LINES_SHOWN } else { 1 };
    for line in &lines[lines.len().saturating_sub(shown)..] {
        println!("  {line}");
    }
    Ok(())
}

fn log_of(programs: &Path, name: &str) -> PathBuf {
    programs.join(format!("{name}.log"))
}

/// As in `fuzz/Cargo.toml`.
const TARGETS: [&str; 7] = [
    "frames", "contents", "session", "tables", "routes", "config", "cron",
];
/// Two cores are what the project counts on.
const AT_ONCE: usize = 2;
/// I9: no input costs memory or time out of proportion.
const LIMITS: [&str; 3] = ["-rss_limit_mb=1024", "-timeout=10", "-max_len=4096"];
const BUILD_MAX: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(60);
const LINES_SHOWN: usize = 60;
