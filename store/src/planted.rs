//! Faults that tests plant in the rules, to see that the proof of the rules finds each.
//!
//! Keeps: outside this crate's own tests `planted` is a constant, so that nothing of a fault is
//! compiled into a program.
//! Never: is a switch that somebody could turn; there is no feature and no variable for it.
//! In: the rules ask at the place of each fault; `shard::history` plants them one by one.

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A fault, named by what it does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Planted {
            $($(#[$doc])* $name,)*
        }

        #[cfg(test)]
        impl Planted {
            /// Every one of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

faults! {
    /// A delivery stays with its consumer when its lease ends: a late ack settles the next attempt.
    LateAckSettles,
    /// The end of a lease is no attempt.
    LeaseEndUncounted,
    /// More time is answered, and not given.
    ExtendForgotten,
    /// A lost connection is no attempt.
    LostUncounted,
    /// A consumer that leaves in peace failed.
    LeftCounted,
    /// The channels of a lost connection hand its messages to each other.
    LostHandsOn,
    /// A message that was woken begins with its first attempt.
    AttemptsForgotten,
    /// The count of immediate returns is not in the commit.
    CountUnwritten,
    /// The same, of a message that has a row of its own.
    RowUnwritten,
    /// One attempt too many.
    LimitOffByOne,
    /// A dead message stays in its queue, too.
    DeadUnsettled,
    /// A dead message says nothing of its attempts.
    RecordForgotten,
    /// A waiting message can be woken again.
    WokenTwice,
    /// A waiting message is ready when it is read, not when it is due.
    WokenEarly,
    /// A requeued message has no key any more.
    RequeueLosesKey,
    /// A second message of a busy key goes out.
    BusyKeyAdmits,
    /// A backoff lets its key go.
    BackoffFreesKey,
    /// A start does not know the keys of messages in backoff.
    StartFreesKeys,
    /// Keys of a window are not in the commit.
    WindowUnwritten,
    /// The key of a message that was refused is taken.
    WindowTakesRefused,
    /// A key is never free again.
    WindowNeverEnds,
    /// A duplicate is confirmed before what it repeats is on disk.
    DuplicateConfirmed,
    /// A publish is confirmed before its commit.
    ConfirmedEarly,
    /// A requeued message goes behind all others.
    RequeueToTail,
    /// Priorities are accepted and mean nothing.
    PriorityIgnored,
    /// What was settled out of order is not in the commit.
    SettledUnwritten,
    /// What was handed out is not in the commit: it comes again and does not say so.
    HandedUnwritten,
    /// The progress of a redrive is not in the commit.
    RedriveUnwritten,
    /// A pause is not in the commit.
    PauseUnwritten,
}

/// True while a test has planted this fault on its thread.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn planted(_: Planted) -> bool {
    false
}

#[cfg(test)]
pub(crate) use planting::{Planting, planted};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// True while a test has planted this fault on its thread.
    pub(crate) fn planted(fault: Planted) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// While it lives, one fault is planted on this thread.
    pub(crate) struct Planting(());

    impl Planting {
        pub(crate) fn of(fault: Planted) -> Self {
            PLANTED.set(Some(fault));
            Self(())
        }
    }

    impl Drop for Planting {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}
