//! `cargo xtask tidy`: house rules that no compiler knows.
//!
//! Keeps: the rules' constants, such as the list of pure folders, in one place (`rules`).
//! Never: rewrites a file; judges files that git ignores.
//! In: `main`, `ci`.

mod documents;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::process;
use source::Source;

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    text: String,
}

impl Finding {
    fn new(source: &Source, line: usize, text: impl Into<String>) -> Self {
        Self {
            path: source.path.clone(),
            line,
            text: text.into(),
        }
    }
}

/// Prints what breaks a rule, then the longest functions, which are only told.
///
/// # Errors
/// A rule is broken, or git does not list the files.
pub(crate) fn run(root: &Path) -> Result<()> {
    let sources = sources(root)?;
    let mut findings: Vec<_> = sources.iter().flat_map(rules::check).collect();
    findings.extend(documents::check(&sources));
    findings.sort();
    for Finding { path, line, text } in &findings {
        println!("{path}:{line}: {text}");
    }
    let mut long: Vec<_> = sources.iter().flat_map(rules::long_functions).collect();
    long.sort_by_key(|(lines, _)| std::cmp::Reverse(*lines));
    if !long.is_empty() {
        println!(
            "{} functions are longer than {} lines:",
            long.len(),
            rules::FUNCTION_LINES
        );
    }
    for (lines, place) in &long {
        println!("  {lines:4}  {place}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} findings in {} files", sources.len()),
    }
}

/// All text files that are, or could be, in the repository. What a fuzzer wrote is nobody's text.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let listed = process::output(&mut process::command(
        "git",
        &[
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ],
    ))?;
    let written = |path: &&str| !path.is_empty() && !path.starts_with("fuzz/corpus/");
    let paths = listed.split('\0').filter(written);
    let read = |path: &str| {
        // A file that was deleted but not yet committed is still listed.
        let text = String::from_utf8(fs::read(root.join(path)).ok()?).ok()?;
        Some(Source::new(path, text))
    };
    Ok(paths.filter_map(read).collect())
}
