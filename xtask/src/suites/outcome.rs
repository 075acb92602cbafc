//! What a suite said of each of its tests, and how two runs compare. Pure, but for two files.
//!
//! Keeps: a test that vanished counts as failed; a test with a known reason is judged both ways.
//! Never: runs anything.
//! In: `suites`, `page`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::known::{Entry, Often};
use super::table::Suite;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Passed,
    Skipped,
    Failed,
}

impl Outcome {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "passed" => Some(Self::Passed),
            "skipped" => Some(Self::Skipped),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// One run, test by test.
pub(super) struct Outcomes(BTreeMap<String, Outcome>);

impl Outcomes {
    /// Lines `OUTCOME NAME`. A test that is told twice has its worse outcome.
    pub(super) fn parse(text: &str) -> Self {
        let mut tests: BTreeMap<String, Outcome> = BTreeMap::new();
        for (word, name) in text.lines().filter_map(|line| line.split_once(' ')) {
            if let Some(outcome) = Outcome::parse(word) {
                let worst = tests.entry(name.to_owned()).or_insert(outcome);
                *worst = outcome.max(*worst);
            }
        }
        Self(tests)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn summary(&self) -> String {
        let count = |wanted| self.0.values().filter(|one| **one == wanted).count();
        let [passed, failed, skipped] =
            [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(count);
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// What RabbitMQ makes of a suite, and which tests pass with nobody listening.
pub(super) struct Baseline(BTreeMap<String, Measured>);

/// One test of the baseline.
#[derive(Clone, Copy)]
struct Measured {
    rabbitmq: Outcome,
    alone: Outcome,
}

impl Baseline {
    /// # Errors
    /// It was never measured, or the file is damaged.
    pub(super) fn read(suite: &str) -> Result<Self> {
        let path = path(suite);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: `cargo xtask suites --baseline {suite}` writes it",
                path.display()
            )
        })?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Joins a run on RabbitMQ with one where nobody listened.
    pub(super) fn join(rabbitmq: Outcomes, alone: &Outcomes) -> Self {
        let missing = Outcome::Failed;
        let measured = rabbitmq.0.into_iter().map(|(name, rabbitmq)| {
            let alone = alone.0.get(&name).copied().unwrap_or(missing);
            (name, Measured { rabbitmq, alone })
        });
        Self(measured.collect())
    }

    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, suite: &Suite, rabbitmq: &str) -> Result<()> {
        let mut text = format!(
            "# {} {} on RabbitMQ {rabbitmq}, and with nobody listening.\n",
            suite.name, suite.version
        );
        for (name, measured) in &self.0 {
            let (rabbitmq, alone) = (measured.rabbitmq.word(), measured.alone.word());
            text.push_str(&format!("{rabbitmq} {alone} {name}\n"));
        }
        fs::write(path(suite.name), text)?;
        Ok(())
    }

    /// How many tests there are, how many of them need a broker, how many pass on RabbitMQ.
    pub(super) fn counts(&self) -> [usize; 3] {
        let count = |test: fn(&Measured) -> bool| self.0.values().filter(|one| test(one)).count();
        [
            self.0.len(),
            count(|one| one.rabbitmq != Outcome::Skipped && one.alone != Outcome::Passed),
            count(|one| one.rabbitmq == Outcome::Passed),
        ]
    }

    /// How many of the tests that pass on RabbitMQ are meant.
    pub(super) fn passing(&self, meant: impl Fn(&str) -> bool) -> usize {
        let passing = self.0.iter();
        let passing = passing.filter(|(_, one)| one.rabbitmq == Outcome::Passed);
        passing.filter(|(name, _)| meant(name)).count()
    }

    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let tests: BTreeMap<_, _> = lines
            .map(|line| {
                let mut words = line.splitn(3, ' ');
                let mut outcome = || words.next().and_then(Outcome::parse);
                let (rabbitmq, alone) = outcome().zip(outcome()).context(line.to_owned())?;
                let name = words.next().context(line.to_owned())?.to_owned();
                Ok((name, Measured { rabbitmq, alone }))
            })
            .collect::<Result<_>>()?;
        if tests.is_empty() {
            bail!("no test in it");
        }
        Ok(Self(tests))
    }
}

/// What is to be said of a run.
#[derive(Default, Debug)]
pub(super) struct Verdict {
    passed: usize,
    of: usize,
    known: usize,
    /// Passed where RabbitMQ does not.
    more: usize,
    /// Failed, though RabbitMQ passes and nothing is known.
    surprises: Vec<String>,
    /// Known to fail, but it passed, or is no test that RabbitMQ passes.
    stale: Vec<String>,
}

impl Verdict {
    pub(super) fn summary(&self) -> String {
        format!(
            "{} of the {} tests that pass on RabbitMQ pass, {} known failures, {} pass beyond it",
            self.passed, self.of, self.known, self.more
        )
    }

    /// One line per test that must be looked at.
    pub(super) fn complaints(&self) -> Vec<String> {
        let new = self.surprises.iter();
        let new = new.map(|name| format!("fails, but passes on RabbitMQ: {name}"));
        let stale = self.stale.iter();
        new.chain(stale.map(|name| format!("is listed as a known failure, but passes: {name}")))
            .collect()
    }
}

/// Judges a run. Only what RabbitMQ passes is asked for.
pub(super) fn compare(baseline: &Baseline, run: &Outcomes, known: &[Entry]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut failing = vec![false; known.len()];
    let mut passing = vec![Vec::new(); known.len()];
    for (name, measured) in &baseline.0 {
        let passed = run.0.get(name) == Some(&Outcome::Passed);
        if measured.rabbitmq != Outcome::Passed {
            verdict.more += usize::from(passed);
            continue;
        }
        verdict.of += 1;
        verdict.passed += usize::from(passed);
        match (passed, known.iter().position(|entry| entry.covers(name))) {
            (true, Some(entry)) => passing[entry].push(name.clone()),
            (true, None) => {}
            (false, None) => verdict.surprises.push(name.clone()),
            (false, Some(entry)) => {
                failing[entry] = true;
                verdict.known += 1;
            }
        }
    }
    // An entry for many tests is old only when none of them fails any more.
    for (entry, (fails, passes)) in known.iter().zip(failing.iter().zip(passing)) {
        if entry.often == Often::Always && !fails {
            verdict.stale.extend(passes);
        }
    }
    verdict
}

fn path(suite: &str) -> PathBuf {
    crate::root().join(format!("tests/suites/baseline/{suite}.txt"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BASELINE: &str = "# on RabbitMQ\n\
        passed passed unit\n\
        passed failed publish\n\
        passed failed consume[a b]\n\
        failed failed docker\n";

    fn verdict(run: &str, known: &[Entry]) -> Verdict {
        let baseline = Baseline::parse(BASELINE).unwrap();
        compare(&baseline, &Outcomes::parse(run), known)
    }

    fn entry(test: &str, often: Often) -> Entry {
        Entry {
            suite: "s".to_owned(),
            test: test.to_owned(),
            often,
        }
    }

    #[test]
    fn the_worse_outcome_of_a_test_counts() {
        let told = Outcomes::parse("passed a\nfailed a\npassed b\nnonsense\nskipped c d\n");
        assert_eq!(told.summary(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_baseline_is_counted() {
        assert_eq!(Baseline::parse(BASELINE).unwrap().counts(), [4, 3, 3]);
        assert!(Baseline::parse("passed only-two").is_err());
        assert!(Baseline::parse("# nothing\n").is_err());
    }

    #[test]
    fn what_vanished_has_failed() {
        let told = verdict("passed unit\npassed publish\n", &[]);
        assert_eq!(told.surprises, ["consume[a b]"]);
        assert_eq!((told.passed, told.of), (2, 3));
    }

    #[test]
    fn a_known_failure_is_no_surprise_until_it_passes() {
        let known = [entry("consume*", Often::Always)];
        let fails = verdict("passed unit\npassed publish\nfailed consume[a b]\n", &known);
        assert_eq!(fails.complaints(), [""; 0]);
        let passes = verdict("passed unit\npassed publish\npassed consume[a b]\n", &known);
        assert_eq!(passes.stale, ["consume[a b]"]);
        let sometimes = [entry("consume[a b]", Often::Sometimes)];
        let passes = verdict(
            "passed unit\npassed publish\npassed consume[a b]\n",
            &sometimes,
        );
        assert_eq!(passes.complaints(), [""; 0]);
    }

    #[test]
    fn what_fails_on_rabbitmq_is_not_asked_for() {
        let all = "passed unit\npassed publish\npassed consume[a b]\n";
        assert_eq!(
            verdict(&format!("{all}failed docker\n"), &[]).complaints(),
            [""; 0]
        );
        assert_eq!(verdict(&format!("{all}passed docker\n"), &[]).more, 1);
    }
}
