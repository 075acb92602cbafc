//! The queries of the Grafana dashboard, as Grafana would send them.
//!
//! Keeps: no panel without a query, no variable left in a query.
//! Never: renders anything.
//! In: `tests/monitoring.rs`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One query of one panel.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) panel: String,
    pub(crate) text: String,
}

/// All queries of a dashboard's file, with "all" chosen for every variable.
///
/// # Errors
/// It is no dashboard, a panel has no query, or a query holds an unknown variable.
pub(crate) fn queries(file: &Path) -> Result<Vec<Query>> {
    let board: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let panels = board["panels"].as_array().context("no panels")?;
    let mut all = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().context("a panel without a title")?;
        let targets = panel["targets"].as_array().context("no targets")?;
        if targets.is_empty() {
            bail!("{title} asks nothing");
        }
        for target in targets {
            let text = target["expr"]
                .as_str()
                .with_context(|| format!("{title}: no expr"))?;
            all.push(Query {
                panel: title.to_owned(),
                text: substituted(text)?,
            });
        }
    }
    Ok(all)
}

fn substituted(text: &str) -> Result<String> {
    let values = [
        ("$instance", ".*"),
        ("$vhost", ".*"),
        ("$queue", ".*"),
        // Four scrapes, the least that Grafana takes.
        ("$__rate_interval", "4s"),
    ];
    let text = values
        .iter()
        .fold(text.to_owned(), |text, (name, to)| text.replace(name, to));
    match text.find('$') {
        Some(at) => bail!("an unknown variable in {}", &text[at..]),
        None => Ok(text),
    }
}
