//! Watches the process' memory and the disk's room, and stops publishers in time.
//!
//! Keeps: an alarm ends only well on the other side of its limit, so that it does not flutter.
//! Never: decides what an alarm means; the store stops publishers, sessions tell them.
//! In: `node` starts it.

use std::time::Duration;

use store::Store;
use store::alarms::Cause;
use tokio_util::sync::CancellationToken;

use crate::config::{Alarm, Amount};

/// Looks again and again until `stop`, and whenever an operator changed a limit.
pub fn watch(store: Store, alarm: Alarm, stop: CancellationToken) {
    let memory_max = alarm.memory.of(memory_of_machine());
    tracing::info!(memory_max, "the memory alarm's limit");
    let look = store.lock().watched.look.clone();
    tokio::spawn(async move {
        let (mut memory, mut disk) = (false, false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = look.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let used = used_by_process();
            let room = store.backend().room().await.ok().flatten();
            let asked = store.lock().watched.clone();
            let max = asked.memory_max_asked.unwrap_or(memory_max);
            let configured = |size| alarm.disk_free.unwrap_or_else(|| least_room(size));
            let asked_least = asked.disk_min_asked;
            let least = room.map(|room| asked_least.unwrap_or_else(|| configured(room.size)));
            if let Some(used) = used {
                let high = above(memory, used, max);
                if high != memory {
                    tracing::warn!(used, max, high, "memory of the process");
                    memory = high;
                    store.set_alarm(Cause::Memory, high);
                }
            }
            if let Some((room, least)) = room.zip(least) {
                let low = below(disk, room.free, least);
                if low != disk {
                    tracing::warn!(free = room.free, least, low, "room on the disk");
                    disk = low;
                    store.set_alarm(Cause::DiskFree, low);
                }
            }
            let watched = &mut store.lock().watched;
            (watched.memory_used, watched.memory_max) = (used, Some(max));
            (watched.disk_free, watched.disk_min) = (room.map(|room| room.free), least);
            watched.answered = asked.asked;
        }
    });
}

/// An operator's limit in bytes: a size, or where `of_memory` a share of the machine's memory.
///
/// # Errors
/// What it should look like.
pub fn amount(text: &str, of_memory: bool) -> Result<u64, String> {
    if of_memory
        && let Ok(share) = text.parse::<f64>()
        && (0.0..=1.0).contains(&share)
    {
        return Ok((memory_of_machine() as f64 * share) as u64);
    }
    let amount: Amount = text.parse()?;
    match amount {
        Amount::Percent(_) if !of_memory => Err(format!("{text} is no size; write it as in 2GiB")),
        amount => Ok(amount.of(memory_of_machine())),
    }
}

/// A limit that is left again a tenth below it.
fn above(before: bool, used: u64, max: u64) -> bool {
    used > if before { max - max / 10 } else { max }
}

/// A limit that is left again a quarter above it.
fn below(before: bool, free: u64, least: u64) -> bool {
    let edge = if before {
        least.saturating_add(least / 4)
    } else {
        least
    };
    free < edge
}

/// What is in memory and in the log must still find room: 1 GiB, on small disks a tenth.
fn least_room(size: u64) -> u64 {
    (size / 10).min(1 << 30)
}

/// Memory of the machine, or of the control group where that is less.
fn memory_of_machine() -> u64 {
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let group = limits.iter().filter_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    });
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(|text| kib(text, "MemTotal:"));
    group.chain(machine).min().unwrap_or(u64::MAX)
}

/// Without pages of files, which the kernel takes back as it likes.
fn used_by_process() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kib(&status, "RssAnon:")
}

/// Bytes of a line such as `MemTotal:  12 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let count: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(count << 10)
}

/// Half a second at a fast disk's 400 MB/s is a fifth of the room that is kept.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_do_not_flutter() {
        assert!(!above(false, 100, 100));
        assert!(above(false, 101, 100));
        assert!(above(true, 91, 100));
        assert!(!above(true, 90, 100));
        assert!(below(false, 99, 100));
        assert!(!below(false, 100, 100));
        assert!(below(true, 124, 100));
        assert!(!below(true, 125, 100));
        assert!(!below(false, 0, 0) && !below(true, 0, 0));
    }

    #[test]
    fn an_operator_may_say_it_in_many_ways() {
        let all = memory_of_machine();
        assert_eq!(amount("512MiB", true), Ok(512 << 20));
        assert_eq!(amount("100%", true), Ok(Amount::Percent(100).of(all)));
        assert_eq!(amount("1.0", true), Ok(all));
        assert_eq!(amount("0", true), Ok(0));
        assert_eq!(amount("1048576", false), Ok(1 << 20));
        for (text, of_memory) in [("40%", false), ("0.4", false), ("much", true), ("-1", true)] {
            assert!(amount(text, of_memory).is_err(), "{text}");
        }
    }

    #[test]
    fn small_disks_keep_a_tenth() {
        assert_eq!(least_room(900 << 20), 90 << 20);
        assert_eq!(least_room(u64::MAX), 1 << 30);
    }

    #[test]
    fn proc_is_read_by_name() {
        assert_eq!(
            kib("A: 1 kB\nRssAnon:\t   12 kB\n", "RssAnon:"),
            Some(12_288)
        );
        assert_eq!(kib("A: 1 kB\n", "RssAnon:"), None);
    }
}
