//! Child processes of a chore: run to their end, or ended when their time is over.
//!
//! Keeps: a child that is stopped takes its descendants with it.
//! Never: ends a process that this program did not start.
//! In: `step`, `server`, `install`.

use std::collections::{HashMap, HashSet};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, bail};

/// A command of the workspace, from its root.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(crate::root())
        .stdin(Stdio::null());
    command
}

/// Runs it to its end and wants success.
///
/// # Errors
/// It cannot be started, fails, or is not done after `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", shown(command)))?;
    match wait(&mut child, limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{} ended with {status}", shown(command)),
        None => {
            end_tree(&mut child);
            bail!(
                "{} was not done after {} s",
                shown(command),
                limit.as_secs()
            );
        }
    }
}

/// Runs it and gives what it wrote to stdout.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!(
            "{} ended with {}: {}",
            shown(command),
            output.status,
            error.trim()
        );
    }
    String::from_utf8(output.stdout).context("output is not UTF-8")
}

/// Waits for its end; `None` when that takes longer than `limit`.
///
/// # Errors
/// The operating system refuses.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Asks it to end (SIGTERM).
pub(crate) fn ask_to_end(child: &Child) {
    signal("-TERM", &[child.id()]);
}

/// Ends it and whatever it started (SIGKILL), and waits for it.
pub(crate) fn end_tree(child: &mut Child) {
    let mut doomed = descendants(child.id(), &parents());
    doomed.push(child.id());
    signal("-KILL", &doomed);
    let _ = child.wait();
}

fn signal(name: &str, ids: &[u32]) {
    let ids = ids.iter().map(u32::to_string);
    let _ = Command::new("kill")
        .arg(name)
        .args(ids)
        .stderr(Stdio::null())
        .status();
}

/// Each process and its parent.
fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((id, parent_in(&stat)?))
        })
        .collect()
}

/// The fourth field; the second is a name in brackets that may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn descendants(of: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut known = HashSet::from([of]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(id, parent)| known.contains(parent) && !known.contains(id))
            .map(|(id, _)| *id)
            .collect();
        if more.is_empty() {
            known.remove(&of);
            return known.into_iter().collect();
        }
        known.extend(more);
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parent_stands_behind_the_name() {
        assert_eq!(parent_in("12 (a) S b) R 7 12 12 0"), Some(7));
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (9, 8)]);
        let mut found = descendants(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
    }

    #[test]
    fn a_run_that_takes_too_long_is_ended_with_its_children() {
        let mut shell = command("sh", &["-c", "sleep 371 & wait"]);
        let error = run(&mut shell, Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("was not done"), "{error}");
        let lines = output(&mut command("ps", &["-eo", "args"])).unwrap();
        assert!(!lines.lines().any(|line| line == "sleep 371"));
    }
}
