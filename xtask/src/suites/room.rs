//! Where a suite runs: a working folder that lasts, namespaces that end with the run.
//!
//! Keeps: the suite has the usual ports for itself; whatever a run starts ends with it.
//! Never: lets a suite see another network than its own loopback.
//! In: `suites`; the script that starts the broker inside is `tests/suites/room.sh`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::outcome::Outcomes;
use super::table::Suite;
use crate::process;

/// Who answers on port 5672.
#[derive(Clone, Copy)]
pub(super) enum Broker<'a> {
    Leveret(&'a Path),
    RabbitMq,
    None,
}

impl Broker<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Leveret(_) => "leveret",
            Self::RabbitMq => "rabbitmq",
            Self::None => "none",
        }
    }
}

/// The working folder of one suite, with everything fetched.
pub(super) struct Room {
    folder: PathBuf,
}

impl Room {
    /// Fetches the suite at its pinned version, where that was not done before.
    ///
    /// # Errors
    /// It cannot be fetched or built.
    pub(super) fn prepare(suite: &Suite) -> Result<Self> {
        let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| crate::root().join("target"));
        let folder = target.join("suites").join(suite.name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let script = scripts().join(suite.name).join("suite.sh");
        let mut prepare = process::command(&script.to_string_lossy(), &["prepare"]);
        prepare.current_dir(&folder);
        process::run(&mut prepare, PREPARE_MAX)?;
        Ok(Self { folder })
    }

    /// One run. What the suite and the broker print goes into the log.
    ///
    /// # Errors
    /// The room cannot be had, the broker did not start or ended before the suite, or no test ran.
    pub(super) fn run(&self, suite: &Suite, broker: Broker<'_>) -> Result<Outcomes> {
        let noted = self.folder.join("outcomes.txt");
        fs::write(&noted, "")?;
        let log = fs::File::create(self.log())?;
        let script = scripts().join("room.sh").to_string_lossy().into_owned();
        let mut command = alone(&[&script, broker.name(), suite.name])?;
        command
            .current_dir(&self.folder)
            .env("OUTCOMES", &noted)
            .env("SERVER_LOG", self.folder.join("server.log"))
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Broker::Leveret(binary) = broker {
            command.env("LEVERET", binary);
        }
        let ended = process::run(&mut command, suite.limit());
        let outcomes = Outcomes::parse(&fs::read_to_string(&noted)?);
        if let Err(error) = ended {
            bail!(
                "{error:#} after {}; the end of {}:\n{}",
                outcomes.summary(),
                self.log().display(),
                self.log_end()
            );
        }
        if outcomes.is_empty() {
            bail!("no test ran:\n{}", self.log_end());
        }
        Ok(outcomes)
    }

    /// Everything that the last run printed.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("run.log")
    }

    fn log_end(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// A command in network and process namespaces of its own, which end with it.
fn alone(words: &[&str]) -> Result<Command> {
    let root = process::output(&mut process::command("id", &["-u"]))?.trim() == "0";
    let mut arguments = vec!["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !root {
        arguments.push("--map-root-user");
    }
    let probe = [arguments.as_slice(), &["true"]].concat();
    process::output(&mut process::command("unshare", &probe))
        .context("a suite needs a network namespace of its own")?;
    arguments.extend(words);
    Ok(process::command("unshare", &arguments))
}

fn scripts() -> PathBuf {
    crate::root().join("tests/suites")
}

const PREPARE_MAX: Duration = Duration::from_secs(1800);
const LOG_LINES: usize = 60;
