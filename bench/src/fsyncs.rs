//! Counts the fsync-like system calls of a process with `perf stat`, at next to no cost to it.
//!
//! Keeps: one `perf` process while counting, ended by its id.
//! Never: fails a run: without `perf`, or without the right to use it, the count is unknown.
//! In: `run`.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

const CALLS: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "syncfs"];

#[derive(Debug)]
pub(crate) struct Counter {
    perf: Child,
    began: Instant,
    output: PathBuf,
    _dir: tempfile::TempDir,
}

impl Counter {
    /// Begins to count; `None` where that is not possible.
    pub(crate) fn attach(pid: u32) -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let output = dir.path().join("perf.csv");
        let events: Vec<String> = CALLS
            .iter()
            .map(|call| format!("syscalls:sys_enter_{call}"))
            .collect();
        let perf = Command::new("perf")
            .args([
                "stat",
                "-x,",
                "-e",
                &events.join(","),
                "-p",
                &pid.to_string(),
                "-o",
            ])
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self {
            perf,
            began: Instant::now(),
            output,
            _dir: dir,
        })
    }

    /// Ends the count; calls per second since it began.
    pub(crate) fn finish(mut self) -> Option<f64> {
        let seconds = self.began.elapsed().as_secs_f64();
        let pid = Pid::from_raw(i32::try_from(self.perf.id()).ok()?)?;
        kill_process(pid, Signal::INT).ok()?;
        self.perf.wait().ok()?;
        Some(total(&fs::read_to_string(&self.output).ok()?)? as f64 / seconds)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Sum of the first column; lines that are not counts are skipped.
fn total(csv: &str) -> Option<u64> {
    let counts: Vec<u64> = csv
        .lines()
        .filter(|line| line.contains("sys_enter_"))
        .filter_map(|line| line.split(',').next()?.parse().ok())
        .collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_and_uncounted_lines_skipped() {
        let csv = "# started on now\n\n12,,syscalls:sys_enter_fsync,1,100.00,,\n\
            30,,syscalls:sys_enter_fdatasync,1,100.00,,\n\
            <not counted>,,syscalls:sys_enter_syncfs\n";
        assert_eq!(total(csv), Some(42));
        assert_eq!(total("no permission\n"), None);
    }
}
