//! Where bindings lead, and what a walk over them has found. Pure.
//!
//! Keeps: a destination counts once however many bindings lead there.
//! In: the routers of this folder.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::duplicates::Key;
use crate::model::QueueId;

/// The far end of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Queue(QueueId),
    Exchange(Arc<str>),
}

/// Destinations, each with the number of bindings that lead there.
#[derive(Default)]
pub(super) struct Targets(HashMap<Target, u32, RandomState>);

impl Targets {
    pub(super) fn add(&mut self, target: &Target) {
        match self.0.get_mut(target) {
            Some(count) => *count += 1,
            None => {
                self.0.insert(target.clone(), 1);
            }
        }
    }

    pub(super) fn remove(&mut self, target: &Target) {
        if let Some(count) = self.0.get_mut(target) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(target);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn find(&self, found: &mut Found) {
        self.0.keys().for_each(|target| found.add(target));
    }
}

/// Destinations that matched; one may stand here more than once.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) queues: Vec<QueueId>,
    pub(super) exchanges: Vec<Arc<str>>,
    /// An exchange took the message and dropped it, so that it is not unroutable.
    pub(super) dropped: bool,
    /// Keys that exchanges on the way took for it.
    pub(super) taken: Vec<(Arc<str>, Key)>,
    /// Queues that the keys of exchanges on the way are written to.
    pub(super) kept: Vec<QueueId>,
}

impl Found {
    pub(super) fn add(&mut self, target: &Target) {
        match target {
            Target::Queue(id) => self.queues.push(*id),
            Target::Exchange(name) => self.exchanges.push(name.clone()),
        }
    }

    /// Rises with everything that is found.
    pub(super) fn len(&self) -> usize {
        self.queues.len() + self.exchanges.len() + usize::from(self.dropped)
    }
}
