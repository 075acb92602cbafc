//! Addresses whose way is known. Pure.
//!
//! Keeps: a bounded number of ways, the ones in use; an answer from before a change of the
//! topology is never given.
//! In: `Vhost`.

use std::collections::HashMap;
use std::sync::Arc;

use amqp::content::Address;
use foldhash::fast::RandomState;

use crate::model::QueueId;

/// Room for ways, in units of one address or sixteen queues: keys come from clients. When half of
/// it is full, the half that was full before is forgotten but for what was used since.
const ROUTES_MAX: usize = 65_536;
/// Queues that cost as much as an address.
const QUEUES_PER_UNIT: usize = 16;

/// Queues that a message reaches, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queues {
    None,
    /// None, because an exchange knew the message already: it is not unroutable.
    Dropped,
    One(QueueId),
    Many(Arc<[QueueId]>),
}

impl Queues {
    pub(super) fn of(mut found: Vec<QueueId>) -> Self {
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [] => Self::None,
            [one] => Self::One(one),
            _ => Self::Many(found.into()),
        }
    }

    pub(super) fn first(&self) -> Option<QueueId> {
        self.as_slice().first().copied()
    }

    pub fn as_slice(&self) -> &[QueueId] {
        match self {
            Self::None | Self::Dropped => &[],
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// What is known of an address.
#[derive(Clone, Debug)]
pub struct Way {
    /// What every message to it reaches; `None` when each must be looked at.
    pub queues: Option<Queues>,
    /// Clients may not publish to the exchange.
    pub internal: bool,
}

#[derive(Default)]
pub(super) struct Routes {
    version: u64,
    young: HashMap<Address, (u64, Way), RandomState>,
    old: HashMap<Address, (u64, Way), RandomState>,
    used: usize,
}

impl Routes {
    /// The topology changed: what is known counts no more. Costs nothing, whatever is known.
    pub(super) fn forget(&mut self) {
        self.version += 1;
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn find(&mut self, address: &Address) -> Option<Way> {
        if let Some((version, way)) = self.young.get(address) {
            return (*version == self.version).then(|| way.clone());
        }
        let (version, way) = self.old.remove(address)?;
        if version != self.version {
            return None;
        }
        self.keep(address, way.clone());
        Some(way)
    }

    pub(super) fn keep(&mut self, address: &Address, way: Way) {
        let queues = way
            .queues
            .as_ref()
            .map_or(0, |queues| queues.as_slice().len());
        self.used += 1 + queues / QUEUES_PER_UNIT;
        if self.used > ROUTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.used = 1;
        }
        self.young.insert(address.clone(), (self.version, way));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Address {
        Address::new(b"x", number.to_string().as_bytes())
    }

    fn way(queues: Queues) -> Way {
        Way {
            queues: Some(queues),
            internal: false,
        }
    }

    fn known(routes: &mut Routes, number: usize) -> bool {
        routes.find(&address(number)).is_some()
    }

    #[test]
    fn what_is_in_use_stays_and_the_rest_goes() {
        let mut routes = Routes::default();
        for number in 0..ROUTES_MAX * 2 {
            routes.keep(&address(number), way(Queues::None));
            assert!(known(&mut routes, 0), "used all the time, lost at {number}");
        }
        assert!(routes.young.len() + routes.old.len() <= ROUTES_MAX + 1);
        assert!(!known(&mut routes, 1));
    }

    #[test]
    fn a_change_makes_all_unknown() {
        let mut routes = Routes::default();
        routes.keep(&address(1), way(Queues::None));
        routes.forget();
        assert!(!known(&mut routes, 1));
        routes.keep(&address(1), way(Queues::None));
        assert!(known(&mut routes, 1));
    }

    #[test]
    fn wide_routes_use_more_room() {
        let mut routes = Routes::default();
        let wide = Queues::of((0..16_000).map(QueueId).collect());
        for number in 0..1000 {
            routes.keep(&address(number), way(wide.clone()));
        }
        assert!(routes.young.len() + routes.old.len() <= ROUTES_MAX / 1000);
    }
}
