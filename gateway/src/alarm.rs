//! Watches the process' memory and the disk's room, and stops publishers in time.
//!
//! Keeps: an alarm ends only well on the other side of its limit, so that it does not flutter.
//! Never: decides what an alarm means; the store stops publishers, sessions tell them.
//! In: `node` starts it.

use std::time::Duration;

use store::Store;
use store::alarms::Cause;
use tokio_util::sync::CancellationToken;

use crate::config::Alarm;

/// Looks again and again until `stop`.
pub fn watch(store: Store, alarm: Alarm, stop: CancellationToken) {
    let memory_max = alarm.memory.of(memory_of_machine());
    tracing::info!(memory_max, "the memory alarm's limit");
    tokio::spawn(async move {
        let (mut memory, mut disk) = (false, false);
        while tokio::time::timeout(LOOK_EVERY, stop.cancelled())
            .await
            .is_err()
        {
            if let Some(used) = used_by_process() {
                let high = above(memory, used, memory_max);
                if high != memory {
                    tracing::warn!(used, memory_max, high, "memory of the process");
                    memory = high;
                    store.set_alarm(Cause::Memory, high);
                }
            }
            if let Ok(Some(room)) = store.backend().room().await {
                let least = alarm.disk_free.unwrap_or_else(|| least_room(room.size));
                let low = below(disk, room.free, least);
                if low != disk {
                    tracing::warn!(free = room.free, least, low, "room on the disk");
                    disk = low;
                    store.set_alarm(Cause::DiskFree, low);
                }
            }
        }
    });
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
