//! The known failures: a table of the compatibility page, read as data.
//!
//! Keeps: each entry names a suite, a test and a reason.
//! Never: hides a failure without a reason.
//! In: `suites`, `page`.

use std::fs;

use anyhow::{Context, Result, bail};

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) suite: String,
    /// A test's name, in which a `*` stands for anything.
    pub(super) test: String,
    pub(super) often: Often,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Often {
    Always,
    Sometimes,
}

impl Entry {
    pub(super) fn covers(&self, name: &str) -> bool {
        let Some((front, rest)) = self.test.split_once('*') else {
            return self.test == name;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let within = name.strip_prefix(front);
        let Some(mut within) = within.and_then(|rest| rest.strip_suffix(end)) else {
            return false;
        };
        for part in middle.split('*') {
            match within.split_once(part) {
                Some((_, behind)) => within = behind,
                None => return false,
            }
        }
        true
    }
}

/// All rows, by suite.
pub(super) struct Known(Vec<Entry>);

impl Known {
    /// # Errors
    /// The page or its table is not there, or a row lacks something.
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string(crate::root().join(PAGE)).context(PAGE)?;
        Self::parse(&text).context(PAGE)
    }

    /// Those of one suite.
    pub(super) fn of(&self, suite: &str) -> &[Entry] {
        let start = self.0.iter().position(|entry| entry.suite == suite);
        let from = &self.0[start.unwrap_or(self.0.len())..];
        let count = from.iter().take_while(|entry| entry.suite == suite).count();
        &from[..count]
    }

    fn parse(page: &str) -> Result<Self> {
        let rows = page.lines().skip_while(|line| !line.starts_with(HEAD));
        let mut rows = rows.skip(2).take_while(|line| line.starts_with('|'));
        let entries = rows.by_ref().map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [suite, test, often, reason] = cells.as_slice() else {
                bail!("four cells are wanted in {line:?}");
            };
            let often = match *often {
                "always" => Often::Always,
                "sometimes" => Often::Sometimes,
                other => bail!("{other:?} is neither always nor sometimes"),
            };
            if reason.is_empty() {
                bail!("no reason in {line:?}");
            }
            Ok(Entry {
                suite: (*suite).to_owned(),
                test: test.trim_matches('`').to_owned(),
                often,
            })
        });
        let mut entries: Vec<_> = entries.collect::<Result<_>>()?;
        if !page.contains(HEAD) {
            bail!("the table of known failures is missing: {HEAD}");
        }
        entries.sort_by(|one, other| one.suite.cmp(&other.suite));
        Ok(Self(entries))
    }
}

pub(super) const PAGE: &str = "docs/reference/compatibility.md";
const HEAD: &str = "| suite | test | fails | why |";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_read_by_suite() {
        let page = format!(
            "# P\n\n| suite | other |\n|--|--|\n| x | y |\n\n{HEAD}\n|--|--|--|--|\n\
            | b | `t/x.py::test[a-*` | always | no TLS |\n\
            | a | `TestA` | sometimes | a race in the test |\n\
            | b | `t2` | always | none |\n\nText.\n| no | row |\n"
        );
        let known = Known::parse(&page).unwrap();
        assert_eq!(known.of("a").len(), 1);
        assert_eq!(known.of("b").len(), 2);
        assert_eq!(known.of("c").len(), 0);
        assert!(known.of("b")[0].covers("t/x.py::test[a-b]"));
        assert!(!known.of("b")[1].covers("t23"));
        assert_eq!(known.of("a")[0].often, Often::Sometimes);
    }

    #[test]
    fn a_star_stands_for_anything() {
        let covers = |test: &str, name: &str| {
            let (suite, test) = ("s".to_owned(), test.to_owned());
            let often = Often::Always;
            Entry { suite, test, often }.covers(name)
        };
        assert!(covers("*amqps*", "t/c.py::big[channel0-amqps-client]"));
        assert!(!covers("*amqps*", "t/c.py::big[channel0-amqp]"));
        assert!(covers(
            "t/*::big*-amqps*]",
            "t/c.py::big[channel0-amqps-client]"
        ));
        assert!(!covers(
            "t/*::big*-amqps*]",
            "t/c.py::big[channel0-amqps-client"
        ));
        assert!(covers("*", ""));
        assert!(!covers("a*a", "a"));
    }

    #[test]
    fn a_row_without_a_reason_is_refused() {
        let page = |row: &str| format!("{HEAD}\n|--|--|--|--|\n{row}\n");
        assert!(Known::parse(&page("| a | `t` | always |  |")).is_err());
        assert!(Known::parse(&page("| a | `t` | never | so |")).is_err());
        assert!(Known::parse(&page("| a | `t` |")).is_err());
        assert!(Known::parse("# nothing\n").is_err());
    }
}
