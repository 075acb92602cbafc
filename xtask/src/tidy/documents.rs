//! Rules for documents, and between them.
//!
//! Keeps: every guide page can be reached from the README; every proof that a page on AMQP names
//! is there.
//! Never: checks spelling or links to the outside; judges what a proof proves.
//! In: `tidy`.

use std::collections::BTreeSet;

use super::Finding;
use super::source::{Source, numbered};

/// The pages that name a proof for each of their rows.
const ON_AMQP: &str = "docs/reference/amqp";

/// Where conversations are; the pages leave this and `.conv` out.
const CONVERSATIONS: &str = "tests/conversation/";

/// All findings on Markdown files.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let documents = || sources.iter().filter(|source| source.path.ends_with(".md"));
    let mut findings: Vec<_> = documents().filter_map(one_title).collect();
    findings.extend(documents().flat_map(|source| broken_links(source, sources)));
    findings.extend(unlinked_pages(sources));
    let on_amqp = documents().filter(|source| source.path.starts_with(ON_AMQP));
    findings.extend(on_amqp.flat_map(|source| missing_proofs(source, sources)));
    findings
}

/// One `#` title in each document.
fn one_title(source: &Source) -> Option<Finding> {
    let titles: Vec<_> = prose(&source.text)
        .filter(|(_, line)| line.starts_with("# "))
        .collect();
    match titles.as_slice() {
        [_] => None,
        [] => Some(Finding::new(source, 0, "has no title (`# …`)")),
        [_, (line, _), ..] => Some(Finding::new(source, *line, "is a second title (`# …`)")),
    }
}

/// Guide pages that neither the README nor the guide's own one names.
fn unlinked_pages(sources: &[Source]) -> Vec<Finding> {
    let hubs = ["README.md", "docs/guide/README.md"];
    let hubs = sources
        .iter()
        .filter(|source| hubs.contains(&source.path.as_str()));
    let linked: BTreeSet<_> = hubs
        .flat_map(|hub| links(hub).map(|(_, link)| resolved(&hub.path, &link)))
        .collect();
    let pages = sources.iter().filter(|page| page.is_in("docs/guide"));
    pages
        .filter(|page| page.path.ends_with(".md") && !linked.contains(&page.path))
        .map(|page| {
            Finding::new(
                page,
                0,
                "is linked neither in README.md nor in docs/guide/README.md",
            )
        })
        .collect()
}

/// Links to files of this repository that are not there.
fn broken_links(source: &Source, sources: &[Source]) -> Vec<Finding> {
    let exists = |path: &str| {
        sources
            .iter()
            .any(|one| one.path == path || one.is_in(path))
    };
    links(source)
        .filter(|(_, link)| !resolved(&source.path, link).is_empty())
        .filter(|(_, link)| !exists(resolved(&source.path, link).trim_end_matches('/')))
        .map(|(line, link)| {
            Finding::new(source, line, format!("links to {link}, which is not there"))
        })
        .collect()
}

/// Conversations and other files, named in backticks, that are not there.
fn missing_proofs(source: &Source, sources: &[Source]) -> Vec<Finding> {
    let exists = |path: &str| sources.iter().any(|one| one.path == path);
    let is_folder = |path: &str| sources.iter().any(|one| one.is_in(path));
    let wanted = |name: &str| -> Option<String> {
        if [".rs", ".py", ".go", ".js", ".java"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            return Some(name.to_owned());
        }
        let stem = name.strip_suffix(".conv").unwrap_or(name);
        let (folder, file) = stem.rsplit_once('/')?;
        if file.is_empty() {
            return None;
        }
        let homes = ["", "tests/", CONVERSATIONS].map(|home| format!("{home}{folder}"));
        let home = homes
            .iter()
            .find(|home| is_folder(home) && home.starts_with("tests/conversation"));
        match home {
            Some(home) => Some(format!("{home}/{file}.conv")),
            None => (stem != name).then(|| name.to_owned()),
        }
    };
    let named = prose(&source.text).flat_map(|(number, line)| {
        let names = line.split('`').skip(1).step_by(2);
        names.map(move |name| (number, name))
    });
    named
        .filter_map(|(line, name)| Some((line, name, wanted(name)?)))
        .filter(|(_, _, path)| !exists(path))
        .map(|(line, name, _)| {
            Finding::new(source, line, format!("names {name}, which is not there"))
        })
        .collect()
}

/// `(line, target)` of every relative link.
fn links(source: &Source) -> impl Iterator<Item = (usize, String)> {
    prose(&source.text).flat_map(|(number, line)| {
        let targets = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'));
        let targets = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
        let relative = targets.filter(|target| !target.is_empty() && !target.contains(':'));
        relative
            .map(|target| (number, target.to_owned()))
            .collect::<Vec<_>>()
    })
}

/// The path that a link in the file at `from` means.
fn resolved(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    numbered(text).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files
            .iter()
            .map(|(path, text)| Source::new(path, (*text).to_owned()))
            .collect();
        check(&sources)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.path, finding.text))
            .collect()
    }

    #[test]
    fn a_document_has_one_title() {
        assert_eq!(
            texts(&[("a.md", "# A\n```\n# no title\n```\n## B\n")]),
            [""; 0]
        );
        assert_eq!(texts(&[("a.md", "text\n")]), ["a.md: has no title (`# …`)"]);
        assert_eq!(
            texts(&[("a.md", "# A\n# B\n")]),
            ["a.md: is a second title (`# …`)"]
        );
    }

    #[test]
    fn a_guide_page_must_be_linked() {
        let page = ("docs/guide/queues.md", "# Queues\n");
        assert_eq!(
            texts(&[page, ("README.md", "# R\n[q](docs/guide/queues.md#top)\n")]),
            [""; 0]
        );
        let hub = ("docs/guide/README.md", "# Guide\n[q](queues.md)\n");
        let front = ("README.md", "# R\n[guide](docs/guide/README.md)\n");
        assert_eq!(texts(&[page, hub, front]), [""; 0]);
        let told = texts(&[page, ("README.md", "# R\n")]);
        assert_eq!(
            told,
            ["docs/guide/queues.md: is linked neither in README.md nor in docs/guide/README.md"]
        );
    }

    #[test]
    fn a_proof_must_be_there() {
        let page = "# A\n| `text/plain` | `queue/there`, `queue/gone`, `traced` |\n\
                    `conversation_traced/x/gone` and `new/kind.conv`\n`a/src/a.rs` `a/src/b.rs`\n";
        let files = [
            ("docs/reference/amqp-queues.md", page),
            ("docs/reference/other.md", page),
            ("tests/conversation/queue/there.conv", ""),
            ("tests/conversation_traced/x/there.conv", ""),
            ("a/src/a.rs", ""),
        ];
        let gone = [
            "queue/gone",
            "conversation_traced/x/gone",
            "new/kind.conv",
            "a/src/b.rs",
        ];
        let gone = gone
            .map(|name| format!("docs/reference/amqp-queues.md: names {name}, which is not there"));
        assert_eq!(texts(&files), gone);
    }

    #[test]
    fn a_link_must_lead_somewhere() {
        let told = texts(&[(
            "docs/a.md",
            "# A\n[b](../b.md) [c](https://c.example) [d](#d)\n",
        )]);
        assert_eq!(told, ["docs/a.md: links to ../b.md, which is not there"]);
        assert_eq!(
            texts(&[("docs/a.md", "# A\n[b](../src)\n"), ("src/b.rs", "")]),
            [""; 0]
        );
    }
}
