//! `cargo xtask torture`: faults by the dozen on a store that nodes share.
//!
//! Keeps: a step for each kind of fault, on a store of its own; what is left out is said.
//! Never: judges; the test programs do.
//! In: `main`. `cargo xtask test` has a few faults of each kind.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::postgres::Postgres;
use crate::step::Steps;
use crate::{bench, install, suite};

/// How many faults of each kind.
#[derive(Args)]
pub(crate) struct Options {
    /// SIGKILL of the only node.
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// `pg_ctl restart -m immediate` under two nodes.
    #[arg(long, default_value_t = 50)]
    restarts: u32,
    /// SIGKILL of the owner while another node stands by.
    #[arg(long, default_value_t = 30)]
    takeovers: u32,
    /// SIGSTOP of the owner beyond its lease, then SIGCONT.
    #[arg(long, default_value_t = 30)]
    pauses: u32,
    /// Failovers of PostgreSQL to a synchronous standby, by Patroni.
    #[arg(long, default_value_t = 10)]
    failovers: u32,
    /// Where choices begin; another one each time without it.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs them on the release binary.
///
/// # Errors
/// Only for faults of this program; a failed step ends it with code 1 after the count.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::new(false);
    let built = steps.run("release build", bench::build)?;
    let kinds = [
        ("kills", options.kills),
        ("restarts", options.restarts),
        ("takeovers", options.takeovers),
        ("pauses", options.pauses),
        ("failovers", options.failovers),
    ];
    for (kind, count) in kinds {
        let name = format!("{count} {kind}");
        match (count, built) {
            (0, _) => println!("left out: {kind}"),
            (_, false) => steps.miss(&name, "the release build failed"),
            (_, true) => {
                let binary = bench::binary();
                steps.run(&name, || suffer(kind, &binary, &options.variables(kind)))?;
            }
        }
    }
    steps.close()
}

/// One kind of fault, on a database of its own.
fn suffer(kind: &str, binary: &Path, own: &[(&'static str, String)]) -> Result<()> {
    if kind == "failovers" {
        install::for_failovers()?;
    }
    let server = Postgres::start()?;
    let test = if kind == "kills" { "crash" } else { "torture" };
    let variables: Vec<_> = server.variables().into_iter().chain(own.to_vec()).collect();
    suite::test_program(test, binary, &variables)
}

impl Options {
    /// What tells a test program to do one kind of fault and no other.
    fn variables(&self, kind: &str) -> Vec<(&'static str, String)> {
        let only = |its: &str, count: u32| if its == kind { count } else { 0 };
        let counts = [
            ("LEVERET_CRASH_CYCLES", only("kills", self.kills)),
            ("LEVERET_TORTURE_RESTARTS", only("restarts", self.restarts)),
            (
                "LEVERET_TORTURE_TAKEOVERS",
                only("takeovers", self.takeovers),
            ),
            ("LEVERET_TORTURE_PAUSES", only("pauses", self.pauses)),
            (
                "LEVERET_TORTURE_FAILOVERS",
                only("failovers", self.failovers),
            ),
        ];
        let counts = counts.map(|(name, count)| (name, count.to_string()));
        let seeds = ["LEVERET_CRASH_SEED", "LEVERET_TORTURE_SEED"];
        let seeds = seeds
            .into_iter()
            .filter_map(|name| Some((name, self.seed?.to_string())));
        counts.into_iter().chain(seeds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_its_own_count_and_seed() {
        let options = Options {
            kills: 1,
            restarts: 2,
            takeovers: 3,
            pauses: 4,
            failovers: 5,
            seed: Some(6),
        };
        let variables = options.variables("takeovers");
        let told = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(told("LEVERET_TORTURE_TAKEOVERS"), Some("3"));
        assert_eq!(told("LEVERET_TORTURE_PAUSES"), Some("0"));
        assert_eq!(told("LEVERET_TORTURE_SEED"), Some("6"));
    }
}
