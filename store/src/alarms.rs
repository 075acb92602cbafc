//! Why publishers must wait: a set of causes, told in RabbitMQ's words. Pure.
//!
//! Keeps: an end of one cause is not the end of another.
//! In: `shard` asks and tells sessions; `log::writer` and the gateway's watch raise and clear.

use std::sync::Arc;

use tokio::sync::Notify;

/// One reason to take nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Messages came faster than the disk took them, for a while.
    Behind = 1,
    /// The process is larger than it may be.
    Memory = 2,
    /// A commit found no room.
    DiskFull = 4,
    /// Little room is left.
    DiskFree = 8,
}

/// What the gateway's watch saw last, and what an operator asked of it since the start.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Bytes that the process uses, and may use.
    pub memory_used: Option<u64>,
    pub memory_max: Option<u64>,
    /// Free bytes of the database's file system, and how many there must be.
    pub disk_free: Option<u64>,
    pub disk_min: Option<u64>,
    /// Instead of the configured limits.
    pub memory_max_asked: Option<u64>,
    pub disk_min_asked: Option<u64>,
    /// How often an operator has asked, and up to which of these the watch has looked.
    pub asked: u64,
    pub answered: u64,
    /// Makes it look at once.
    pub look: Arc<Notify>,
}

/// Those that hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms(u8);

impl Alarms {
    /// True when that changed whether publishers wait at all.
    pub fn set(&mut self, cause: Cause, holds: bool) -> bool {
        let before = self.any();
        if holds {
            self.0 |= cause as u8;
        } else {
            self.0 &= !(cause as u8);
        }
        before != self.any()
    }

    pub fn holds(self, cause: Cause) -> bool {
        self.0 & cause as u8 != 0
    }

    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn memory(self) -> bool {
        self.holds(Cause::Behind) || self.holds(Cause::Memory)
    }

    pub fn disk(self) -> bool {
        self.holds(Cause::DiskFull) || self.holds(Cause::DiskFree)
    }

    /// What connection.blocked says.
    pub fn reason(self) -> Option<String> {
        let memory = self.memory().then_some("low on memory");
        let disk = self.disk().then_some("low on disk");
        let reasons: Vec<_> = memory.into_iter().chain(disk).collect();
        (!reasons.is_empty()).then(|| reasons.join(" & "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_ends_with_its_last_cause() {
        let mut alarms = Alarms::default();
        assert_eq!(alarms.reason(), None);
        assert!(alarms.set(Cause::DiskFree, true));
        assert!(!alarms.set(Cause::DiskFull, true));
        assert_eq!(alarms.reason().as_deref(), Some("low on disk"));
        assert!(!alarms.set(Cause::Behind, true));
        assert_eq!(
            alarms.reason().as_deref(),
            Some("low on memory & low on disk")
        );
        assert!(!alarms.set(Cause::DiskFull, false));
        assert!(!alarms.set(Cause::Behind, false));
        assert_eq!(alarms.reason().as_deref(), Some("low on disk"));
        assert!(alarms.set(Cause::DiskFree, false));
        assert!(!alarms.any());
    }
}
