//! Steps of a longer chore: named, timed, counted.
//!
//! Keeps: every step ends as passed or failed, also one whose condition was missing.
//! Never: decides what a step does.
//! In: `ci`, `suite`.

use std::time::Instant;

use anyhow::{Result, bail};

/// The count of a chore's steps so far.
pub(crate) struct Steps {
    passed: Vec<(String, f64)>,
    failed: Vec<String>,
    began: Instant,
    stop_at_failure: bool,
}

impl Steps {
    /// With `stop_at_failure`, a failure ends the chore at once; else it only counts.
    pub(crate) fn new(stop_at_failure: bool) -> Self {
        Self {
            passed: Vec::new(),
            failed: Vec::new(),
            began: Instant::now(),
            stop_at_failure,
        }
    }

    /// Does one step. `Ok(false)` is a failure that was counted.
    ///
    /// # Errors
    /// The step failed and the chore ends there.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        println!("\n== {name}");
        let began = Instant::now();
        let outcome = work();
        let seconds = began.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("== {name}: ok ({seconds:.1} s)");
                self.passed.push((name.to_owned(), seconds));
                Ok(true)
            }
            Err(error) => {
                println!("== {name}: FAILED ({seconds:.1} s): {error:#}");
                self.failed.push(name.to_owned());
                if self.stop_at_failure {
                    bail!("{name} failed");
                }
                Ok(false)
            }
        }
    }

    /// Counts a step that could not even begin.
    pub(crate) fn miss(&mut self, name: &str, reason: &str) {
        println!("\n== {name}: FAILED, not run: {reason}");
        self.failed.push(name.to_owned());
    }

    /// Prints the count on a line of its own, last.
    ///
    /// # Errors
    /// A step failed, or there was none.
    pub(crate) fn close(self) -> Result<()> {
        println!("\n{:>8}  step", "s");
        for (name, seconds) in &self.passed {
            println!("{seconds:8.1}  {name}");
        }
        for name in &self.failed {
            println!("{:>8}  {name}", "FAILED");
        }
        println!("{:8.1}  in all", self.began.elapsed().as_secs_f64());
        println!("{} passed, {} failed", self.passed.len(), self.failed.len());
        if self.passed.is_empty() || !self.failed.is_empty() {
            // The count was the last word; main would print an error behind it.
            std::process::exit(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failure_is_counted_and_the_rest_goes_on() {
        let mut steps = Steps::new(false);
        assert!(!steps.run("bad", || bail!("no")).unwrap());
        assert!(steps.run("good", || Ok(())).unwrap());
        steps.miss("after", "bad failed");
        assert_eq!((steps.passed.len(), steps.failed.len()), (1, 2));
    }

    #[test]
    fn a_failure_ends_a_strict_chore() {
        let mut steps = Steps::new(true);
        assert!(steps.run("bad", || bail!("no")).is_err());
    }
}
