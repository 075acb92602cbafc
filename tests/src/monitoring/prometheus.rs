//! Debian's Prometheus with the configuration of `deploy/`, run for one test.
//!
//! Keeps: its files in a folder of its own; rules and job as they are deployed.
//! Never: outlives its value.
//! In: `tests/monitoring.rs`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tests::server::{Process, free_address};

use super::http;

/// A running Prometheus.
pub(crate) struct Prometheus {
    address: SocketAddr,
    process: Process,
    // Dropped after the process.
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` each second.
    ///
    /// # Errors
    /// It is not installed, does not take the configuration, or does not come up.
    pub(crate) fn start(target: SocketAddr) -> Result<Self> {
        let folder = TempDir::with_prefix("prometheus-")?;
        let deployed = deploy().join("prometheus");
        let config = fs::read_to_string(deployed.join("prometheus.yml"))?;
        let config = replaced(&config, "leveret:15672", &target.to_string())?;
        let config = replaced(&config, "scrape_interval: 10s", "scrape_interval: 1s")?;
        let config = replaced(
            &config,
            "evaluation_interval: 10s",
            "evaluation_interval: 1s",
        )?;
        fs::write(folder.path().join("prometheus.yml"), config)?;
        fs::copy(
            deployed.join("alerts.yml"),
            folder.path().join("alerts.yml"),
        )?;
        let address = free_address()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                folder.path().join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        let process = Process::start(&mut command, &folder.path().join("log"))?;
        let mut prometheus = Self {
            address,
            process,
            _folder: folder,
        };
        prometheus
            .process
            .await_port(address, START_MAX)
            .context("starting prometheus")?;
        prometheus.await_ready()?;
        Ok(prometheus)
    }

    /// The samples that a query gives now, each with its labels.
    ///
    /// # Errors
    /// It is no valid query, or Prometheus does not answer.
    pub(crate) fn ask(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let data = self.api(&format!("query?query={}", http::escaped(query)))?;
        let samples = data["result"].as_array().context("no result")?;
        let one = |sample: &Value| -> Result<(Value, f64)> {
            let number = sample["value"][1].as_str().context("no value")?;
            Ok((sample["metric"].clone(), number.parse()?))
        };
        samples.iter().map(one).collect()
    }

    /// Whether a query gives a number now; a quotient of nothing by nothing is none.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) fn has_data(&self, query: &str) -> Result<bool> {
        Ok(self.ask(query)?.iter().any(|(_, number)| !number.is_nan()))
    }

    /// The rules as they stand, with what they last evaluated to.
    ///
    /// # Errors
    /// Prometheus does not answer.
    pub(crate) fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("rules")?;
        let groups = data["groups"].as_array().context("no groups")?;
        Ok(groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten()
            .cloned()
            .collect())
    }

    fn api(&self, path: &str) -> Result<Value> {
        let answer = http::get(self.address, &format!("/api/v1/{path}"))?;
        let value: Value = serde_json::from_str(&answer.body)
            .with_context(|| format!("{path}: {} {}", answer.status, answer.body))?;
        if value["status"] != "success" {
            bail!("{path}: {}", answer.body);
        }
        Ok(value["data"].clone())
    }

    fn await_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while http::get(self.address, "/-/ready")?.status != 200 {
            if Instant::now() > deadline {
                bail!("prometheus is not ready: {}", self.process.last_output());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// The folder with what is deployed.
pub(crate) fn deploy() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    if !text.contains(from) {
        bail!("{from:?} does not stand in prometheus.yml");
    }
    Ok(text.replace(from, to))
}

const START_MAX: Duration = Duration::from_secs(60);
