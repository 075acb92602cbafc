//! What a process cost so far, read from `/proc`.
//!
//! Keeps: nothing. Never: fails a run for a figure that the kernel hides; it is `None` then.
//! In: `run` and `backlog` take one `Usage` before and one after. Source: proc(5).

use std::fs;

use anyhow::{Context, Result};

/// Sums since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and kernel time of the process and the children it waited for, µs.
    pub(crate) cpu_us: f64,
    /// Bytes that it caused to be written to the disk; `None` where the kernel hides it.
    pub(crate) written_bytes: Option<u64>,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).context("read /proc/PID/stat")?;
        let ticks = cpu_ticks(&stat).context("parse /proc/PID/stat")?;
        let per_second = rustix::param::clock_ticks_per_second();
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        Ok(Self {
            cpu_us: ticks as f64 * 1e6 / per_second as f64,
            written_bytes: field(&io, "write_bytes:"),
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        let written = self.written_bytes.zip(before.written_bytes);
        Self {
            cpu_us: self.cpu_us - before.cpu_us,
            written_bytes: written.map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// Highest resident size since the start or the last reset, KiB.
pub(crate) fn rss_peak_kib(pid: u32) -> Option<u64> {
    field(&status(pid), "VmHWM:")
}

/// Resident size now, KiB.
pub(crate) fn rss_kib(pid: u32) -> Option<u64> {
    field(&status(pid), "VmRSS:")
}

/// One minute's load average and the share of CPU time stolen by the host since boot, percent.
pub(crate) fn machine_load() -> (f64, f64) {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = load
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    let times: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|text| text.parse().ok())
        .collect();
    let total: f64 = times.iter().sum();
    let stolen = times.get(7).copied().unwrap_or(0.0);
    (
        first,
        if total > 0.0 {
            stolen * 100.0 / total
        } else {
            0.0
        },
    )
}

/// Of a process of PostgreSQL on this machine the one that starts all others.
pub(crate) fn postmaster_of(backend: u32) -> Option<u32> {
    let name = fs::read_to_string(format!("/proc/{backend}/comm")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{backend}/stat")).ok()?;
    name.starts_with("postgres").then_some(parent(&stat)?)
}

/// CPU time of a process, of its children, and of those that have gone, µs.
pub(crate) fn family_cpu_us(pid: u32) -> Option<f64> {
    let mut sum = Usage::of(pid).ok()?.cpu_us;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let id = entry.file_name().to_string_lossy().parse::<u32>();
        let Ok(id) = id else {
            continue;
        };
        // One that has gone by now counts among its parent's next time.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        if parent(&stat) == Some(pid) {
            sum += Usage::of(id).map_or(0.0, |usage| usage.cpu_us);
        }
    }
    Some(sum)
}

/// CPU time of the whole machine that was spent on anything, µs.
pub(crate) fn machine_busy_us() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let times = stat.lines().next()?.split_whitespace().skip(1);
    let times: Vec<u64> = times.filter_map(|text| text.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq.
    let [user, nice, system, _, _, irq, softirq] = times.get(..7)?.try_into().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some((user + nice + system + irq + softirq) as f64 * 1e6 / per_second as f64)
}

/// Field 4.
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// utime, stime, cutime and cstime: fields 14 to 17, counted after the last parenthesis, since the
/// name in field 2 may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields
        .get(11..15)?
        .iter()
        .map(|text| text.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ticks_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 9";
        assert_eq!(cpu_ticks(stat), Some(127));
        assert_eq!(parent(stat), Some(1));
        assert_eq!(cpu_ticks("12 (x) S 1"), None);
    }

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(io, "write_bytes:"), Some(4096));
        assert_eq!(field("VmHWM:\t  123 kB\n", "VmHWM:"), Some(123));
        assert_eq!(field(io, "missing:"), None);
    }

    #[test]
    fn usage_is_a_difference() {
        let before = Usage {
            cpu_us: 10.0,
            written_bytes: Some(5),
        };
        let after = Usage {
            cpu_us: 25.0,
            written_bytes: Some(9),
        };
        assert_eq!(
            after.since(before),
            Usage {
                cpu_us: 15.0,
                written_bytes: Some(4)
            }
        );
        let unknown = Usage {
            written_bytes: None,
            ..after
        };
        assert_eq!(unknown.since(before).written_bytes, None);
    }

    #[test]
    fn the_machine_is_busy_at_least_with_us() {
        let ours = Usage::of(std::process::id()).unwrap().cpu_us;
        assert!(machine_busy_us().unwrap() >= ours);
    }

    #[test]
    fn our_own_process_has_a_size() {
        let pid = std::process::id();
        assert!(rss_kib(pid).unwrap() > 100);
        assert!(rss_peak_kib(pid).unwrap() >= rss_kib(pid).unwrap() / 2);
        Usage::of(pid).unwrap();
    }
}
