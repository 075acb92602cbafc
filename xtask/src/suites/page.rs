//! The compatibility page's table of results, made from the baselines and the known failures.
//!
//! Keeps: the table says what the last green run of each suite says, without running it.
//! Never: touches a line outside its marks.
//! In: `suites`.

use std::fs;

use anyhow::{Context, Result, bail};

use super::known::{Entry, Known, Often, PAGE};
use super::outcome::Baseline;
use super::table::{SUITES, Suite};

/// Writes the table into the page.
///
/// # Errors
/// The page has no marks, or a baseline is missing.
pub(super) fn write() -> Result<()> {
    let path = crate::root().join(PAGE);
    let page = fs::read_to_string(&path).context(PAGE)?;
    fs::write(path, replaced(&page, &table()?)?)?;
    Ok(())
}

/// Whether the page holds the table as it would be written now.
///
/// # Errors
/// It does not.
pub(super) fn check() -> Result<()> {
    let page = fs::read_to_string(crate::root().join(PAGE)).context(PAGE)?;
    if replaced(&page, &table()?)? != page {
        bail!("the table in {PAGE} is old: `cargo xtask suites --page` writes it");
    }
    Ok(())
}

fn table() -> Result<String> {
    let known = Known::read()?;
    let mut text = String::from(HEAD);
    for suite in SUITES {
        let baseline = Baseline::read(suite.name)?;
        text.push_str(&row(suite, &baseline, known.of(suite.name))?);
    }
    Ok(text)
}

/// # Errors
/// A known failure names no test that RabbitMQ passes.
fn row(suite: &Suite, baseline: &Baseline, known: &[Entry]) -> Result<String> {
    for entry in known {
        if baseline.passing(|name| entry.covers(name)) == 0 {
            let (suite, test) = (suite.name, &entry.test);
            bail!("{suite}: no test that passes on RabbitMQ is {test:?}");
        }
    }
    let always = |name: &str| {
        let mut entries = known.iter().filter(|entry| entry.covers(name));
        entries.any(|entry| entry.often == Often::Always)
    };
    let failing = baseline.passing(always);
    let [all, broker, passed] = baseline.counts();
    let Suite {
        client,
        version,
        what,
        ..
    } = suite;
    let ours = passed - failing;
    Ok(format!(
        "| {client} | {version} | {what} | {all} ({broker}) | {passed} | {ours} |\n"
    ))
}

fn replaced(page: &str, table: &str) -> Result<String> {
    let (front, rest) = page.split_once(BEGIN).context("no begin of the table")?;
    let (_, end) = rest.split_once(END).context("no end of the table")?;
    Ok(format!("{front}{BEGIN}\n{table}{END}{end}"))
}

const BEGIN: &str = "<!-- results: written by `cargo xtask suites --page` -->";
const END: &str = "<!-- end of results -->";
const HEAD: &str = "| client | version | tests | how many (need a broker) | pass on RabbitMQ 3.10.8 | \
    of these, pass on Leveret (at least) |\n|---|---|---|---|---|---|\n";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("# P\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n");
        let new = replaced(&page, "| a |\n").unwrap();
        assert_eq!(
            new,
            format!("# P\n\nBefore.\n\n{BEGIN}\n| a |\n{END}\n\nAfter.\n")
        );
        assert!(replaced("# P\n", "").is_err());
    }
}
