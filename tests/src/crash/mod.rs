//! Load, a fault, and a checker that knows what was promised.
//!
//! Keeps: the log of what was sent, confirmed and received in the test process, which never dies.
//! Never: asks the server what it did; only what came over the wire counts.
//! In: `tests/crash.rs` and `tests/torture.rs` run the cycles.
//!
//! | checked | by |
//! |---|---|
//! | confirmed messages arrive; nothing else does; repeats say so; order per writer | `checker` |
//! | dead letters are in one place; what was declared is still there | `checker`, `topology` |
//! | an accepted call has one job, one final state, one result | `calls` |
//! | a schedule fires once per nominal time, without gaps while the server runs | `ticks` |

pub mod calls;
pub mod checker;
pub mod http;
pub mod ledger;
pub mod load;
pub mod message;
pub mod peer;
pub mod random;
pub mod run;
pub mod ticks;
pub mod topology;

/// Faults in words: all are counted, the first are kept.
#[derive(Debug, Default)]
pub struct Faults {
    pub count: usize,
    pub first: Vec<String>,
}

impl Faults {
    pub fn add(&mut self, fault: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(fault());
        }
    }

    pub fn append(&mut self, other: Self) {
        self.count += other.count;
        let room = KEPT.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }
}

const KEPT: usize = 20;
