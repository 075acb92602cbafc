//! The rules for single files.
//!
//! Keeps: each rule a function from a file to findings, each with a test that breaks it.
//! Never: knows where files come from.
//! In: `tidy`.

use super::Finding;
use super::source::{Source, numbered};

/// Folders and files that decide and never act: what they hold replays.
const PURE: &[&str] = &[
    "amqp/src",
    "store/src/topology",
    "store/src/rules",
    "store/src/access",
    "store/src/policy",
    "store/src/queue",
    "store/src/model.rs",
    "scheduler/src/cron",
];

/// What pure code does not say, as whole words.
const IMPURE: &[&str] = &[
    "async",
    ".await",
    "tokio",
    "sqlx",
    "std::net",
    "std::fs",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "crate::clock",
    "crate::log",
    "crate::shard",
    "crate::sql",
];

/// Corridors between rooms that have none: in the first place, the second is not named.
const CLOSED: &[(&str, &[&str])] = &[
    (
        "store/src",
        &[
            "amqp::connection",
            "amqp::Connection",
            "amqp::channel",
            "amqp::output",
        ],
    ),
    ("gateway/src/http", &["crate::session", "super::session"]),
    ("gateway/src/session.rs", &["crate::http"]),
    ("gateway/src/session", &["crate::http"]),
];

/// The only doors to the wall clock. Monotonic spans (`Instant`) are free outside pure code.
const CLOCKS: &[&str] = &["SystemTime::now", "Timestamp::now", "Zoned::now"];
const CLOCK_ROOM: &str = "store/src/clock.rs";
const PRODUCT: &[&str] = &["amqp/src", "store/src", "scheduler/src", "gateway/src"];

/// Where types may be made for a wire: at the rim, and in programs of our own.
const SERIALIZERS: &[&str] = &[
    "gateway/src/http",
    "gateway/src/config",
    "gateway/src/config.rs",
    "gateway/src/definitions",
    "gateway/src/admin",
    "bench",
    "xtask",
    "tests",
];

/// Names that say nothing; a noun lives with its owner.
const REFUSED_STEMS: &[&str] = &[
    "util", "utils", "helper", "helpers", "manager", "handler", "handlers", "common", "types",
    "misc", "base", "impl",
];

/// How statements begin.
const SQL: &[&str] = &[
    "select ",
    "insert into ",
    "insert or ",
    "update ",
    "delete from ",
    "create table ",
    "create index ",
    "alter table ",
    "drop table ",
    "pragma ",
    "begin immediate",
    "with recursive ",
];
const SQL_ROOM: &str = "store/src/sql/statements";

pub(super) const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 800;
const FILE_LINES_MORE: usize = 1200;
const COLUMNS: usize = 100;

/// A ratchet: files that are longer than they should be, and how long they may be at most. A
/// line goes when the file is short enough; a new line wants a reason in the commit.
const LONG_FILES: &[(&str, usize)] = &[];

/// All findings on one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let rules: [fn(&Source) -> Vec<Finding>; 11] = [
        header,
        length,
        name,
        columns,
        marks,
        purity,
        corridors,
        clock,
        serialization,
        sql,
        place_of_sql,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

/// A file says first what it keeps.
fn header(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![Finding::new(
        source,
        1,
        "does not begin with a header (`//! …`)",
    )]
}

fn length(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let engine = source.is_in("store/src/sql");
    let usual = if source.is_tests() || engine {
        FILE_LINES_MORE
    } else {
        FILE_LINES
    };
    // Tests at the bottom make a file longer, not harder to keep in mind.
    let all = source.text.lines().count();
    let (lines, usual) = match source.tests_from {
        from if from < all && all <= FILE_LINES_MORE => (from - 1, usual),
        from if from < all => (all, FILE_LINES_MORE),
        _ => (all, usual),
    };
    let granted = LONG_FILES
        .iter()
        .find(|(path, _)| *path == source.path)
        .map(|(_, most)| *most);
    match granted {
        Some(_) if lines <= usual => {
            vec![Finding::new(
                source,
                0,
                "is short enough: take it off LONG_FILES in xtask",
            )]
        }
        granted if lines > granted.unwrap_or(usual) => {
            let most = granted.unwrap_or(usual);
            vec![Finding::new(
                source,
                0,
                format!("has {lines} lines, {most} is the most"),
            )]
        }
        _ => Vec::new(),
    }
}

fn name(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let parts = source
        .path
        .split('/')
        .map(|part| part.trim_end_matches(".rs"));
    let refused = parts.filter(|part| REFUSED_STEMS.contains(part));
    refused
        .map(|part| Finding::new(source, 0, format!("the name `{part}` says nothing")))
        .collect()
}

/// A line that is wide because of a literal is left to its author: no tool can break it.
fn columns(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let wide = numbered(&source.text).filter(|(_, line)| line.chars().count() > COLUMNS);
    let wide = wide.filter(|(line, _)| !source.literals.iter().any(|one| spans(one, *line)));
    wide.map(|(line, _)| Finding::new(source, line, format!("is wider than {COLUMNS} columns")))
        .collect()
}

fn spans((start, text): &(usize, String), line: usize) -> bool {
    (*start..=start + text.matches('\n').count()).contains(&line)
}

/// Left-overs, in any kind of file.
fn marks(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Written apart, so that this file passes its own rule.
    let marks = [
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("HA", "CK:"),
    ];
    let tabs_belong = [".go", "go.mod", "go.sum", "Makefile"]
        .iter()
        .any(|end| source.path.ends_with(end));
    for (line, text) in numbered(&source.text) {
        if let Some(mark) = marks.iter().find(|mark| text.contains(*mark)) {
            findings.push(Finding::new(source, line, format!("{mark} is left")));
        }
        if text.contains('\t') && !tabs_belong {
            findings.push(Finding::new(source, line, "has a tab"));
        }
    }
    let debug = numbered(&source.code).filter(|(_, line)| has_word(line, "dbg!"));
    findings.extend(debug.map(|(line, _)| Finding::new(source, line, "dbg! is left")));
    findings
}

fn purity(source: &Source) -> Vec<Finding> {
    if !is_under(source, PURE) {
        return Vec::new();
    }
    named(source, IMPURE, |word| {
        format!("pure code does not say `{word}`")
    })
}

fn corridors(source: &Source) -> Vec<Finding> {
    let closed = CLOSED
        .iter()
        .filter(|(place, _)| is_under(source, &[place]));
    closed
        .flat_map(|(place, words)| {
            named(source, words, |word| format!("{place} does not use {word}"))
        })
        .collect()
}

fn clock(source: &Source) -> Vec<Finding> {
    if !is_under(source, PRODUCT) || source.path == CLOCK_ROOM {
        return Vec::new();
    }
    named(source, CLOCKS, |word| {
        format!("`{word}`: the wall clock is read in {CLOCK_ROOM} only")
    })
}

fn serialization(source: &Source) -> Vec<Finding> {
    if is_under(source, SERIALIZERS) || !source.is_rust() || source.is_tests() {
        return Vec::new();
    }
    // A derive may stand over several lines.
    let mut findings = Vec::new();
    let mut derives = false;
    for (line, text) in source.shipped() {
        derives |= text.contains("derive(");
        if derives && has_word(text, "Serialize") {
            findings.push(Finding::new(
                source,
                line,
                "only the rim (http, config) serializes",
            ));
        }
        derives &= !text.contains(")]");
    }
    findings
}

/// Statements are files, not literals.
fn sql(source: &Source) -> Vec<Finding> {
    if !is_under(source, PRODUCT) || source.is_tests() {
        return Vec::new();
    }
    let shipped = source
        .literals
        .iter()
        .filter(|(line, _)| *line < source.tests_from);
    let statements = shipped.filter(|(_, text)| is_sql(text));
    statements
        .map(|(line, _)| Finding::new(source, *line, format!("SQL belongs into {SQL_ROOM}")))
        .collect()
}

fn place_of_sql(source: &Source) -> Vec<Finding> {
    let places = [SQL_ROOM, "migrations"];
    if !source.path.ends_with(".sql") || is_under(source, &places) {
        return Vec::new();
    }
    vec![Finding::new(
        source,
        0,
        format!("SQL belongs into {SQL_ROOM} or migrations"),
    )]
}

/// Functions beyond the aim, with their length and place.
pub(super) fn long_functions(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = source.code.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let length = body_lines(&lines[index..]);
        if length > FUNCTION_LINES {
            found.push((length, format!("{}:{} {name}", source.path, index + 1)));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let at = line.find("fn ").filter(|at| {
        let front = line[..*at].trim();
        front
            .split_whitespace()
            .all(|word| word.starts_with("pub") || MODIFIERS.contains(&word))
    })?;
    let name = line[at + 3..].split(['(', '<']).next()?.trim();
    (!name.is_empty()).then_some(name)
}

const MODIFIERS: [&str; 4] = ["async", "const", "extern", "in"];

/// Lines from the first to the one that closes the first brace.
fn body_lines(lines: &[&str]) -> usize {
    let mut depth = 0_usize;
    for (index, line) in lines.iter().enumerate() {
        for letter in line.chars() {
            match letter {
                '{' => depth += 1,
                '}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return index + 1;
                    }
                }
                // A declaration without a body.
                ';' if depth == 0 && !line.contains('[') => return index + 1,
                _ => {}
            }
        }
    }
    lines.len()
}

fn is_under(source: &Source, places: &[&str]) -> bool {
    places
        .iter()
        .any(|place| source.path == *place || source.is_in(place))
}

/// Shipped lines that say one of the words.
fn named(source: &Source, words: &[&str], tell: impl Fn(&str) -> String) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in source.shipped() {
        for word in words.iter().filter(|word| has_word(text, word)) {
            findings.push(Finding::new(source, line, tell(word)));
        }
    }
    findings
}

/// Whether `word` stands in the line with nothing of a name directly before or behind it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let behind = line[at + word.len()..].chars().next();
        // A dot in front of `.await` is its own; the end of `dbg!` is no letter.
        let free = |letter: Option<char>, edge: Option<char>| {
            !edge.is_some_and(part) || !letter.is_some_and(part)
        };
        free(before, word.chars().next()) && free(behind, word.chars().next_back())
    })
}

fn is_sql(literal: &str) -> bool {
    let text = literal.trim_start().to_lowercase();
    let begins = SQL.iter().any(|front| text.starts_with(front));
    // Words that English sentences begin with too want a second sign.
    let sure = match text.split_whitespace().next() {
        Some("select") => text.contains(" from ") || text.contains('('),
        Some("update") => text.contains(" set "),
        _ => true,
    };
    begins && sure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, text: &str) -> Vec<String> {
        let text = if path.ends_with(".rs") {
            format!("//! Header.\n{text}")
        } else {
            text.to_owned()
        };
        let found = check(&Source::new(path, text));
        found
            .into_iter()
            .map(|finding| format!("{}: {}", finding.line, finding.text))
            .collect()
    }

    fn is_clean(path: &str, text: &str) {
        assert_eq!(texts(path, text), [""; 0]);
    }

    fn has(path: &str, text: &str, part: &str) {
        let found = texts(path, text);
        assert!(
            found.iter().any(|one| one.contains(part)),
            "{part:?} is not in {found:?}"
        );
    }

    #[test]
    fn a_file_has_a_header() {
        let bare = Source::new("store/src/a.rs", "fn a() {}\n".to_owned());
        assert_eq!(header(&bare).len(), 1);
        is_clean("store/src/a.rs", "fn a() {}\n");
    }

    #[test]
    fn a_file_has_an_end() {
        has(
            "store/src/a.rs",
            &"\n".repeat(800),
            "has 801 lines, 800 is the most",
        );
        is_clean("store/src/a.rs", &"\n".repeat(799));
        is_clean("store/src/sql/a.rs", &"\n".repeat(1199));
        has("tests/a.rs", &"\n".repeat(1200), "1200 is the most");
        let tests = |lines| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(lines));
        is_clean("store/src/a.rs", &tests(900));
        has("store/src/a.rs", &tests(1200), "1200 is the most");
        has(
            "store/src/a.rs",
            &("\n".repeat(800) + &tests(9)),
            "has 801 lines, 800 is the most",
        );
    }

    #[test]
    fn empty_names_are_refused() {
        has("store/src/utils.rs", "", "the name `utils` says nothing");
        has(
            "store/src/common/queue.rs",
            "",
            "the name `common` says nothing",
        );
        is_clean("store/src/baseline.rs", "");
    }

    #[test]
    fn lines_have_an_end_in_characters() {
        has(
            "store/src/a.rs",
            &format!("// {}", "x".repeat(98)),
            "wider than 100",
        );
        is_clean("store/src/a.rs", &format!("// {}", "ü".repeat(97)));
        is_clean("store/src/a.rs", &format!("a(\"{}\")", "x".repeat(98)));
        is_clean("store/src/a.rs", &format!("a(\"b\n{}\")", "x".repeat(98)));
    }

    #[test]
    fn left_overs_are_found() {
        has("a.md", concat!("FIX", "ME later"), "is left");
        has("deploy/a.yaml", "\tx", "has a tab");
        is_clean("a.go", "\tx");
        has("store/src/a.rs", "fn a() { dbg!(1) }", "dbg! is left");
        is_clean("store/src/a.rs", "// dbg!(1)");
    }

    #[test]
    fn pure_folders_are_pure() {
        has(
            "amqp/src/a.rs",
            "async fn a() {}",
            "2: pure code does not say `async`",
        );
        has(
            "store/src/queue/a.rs",
            "use tokio::sync;",
            "pure code does not say `tokio`",
        );
        has(
            "store/src/model.rs",
            "a().await;",
            "pure code does not say `.await`",
        );
        is_clean("store/src/jobs.rs", "async fn a() { tokio::b().await }");
        is_clean("amqp/src/a.rs", "// async\nfn asynchronous() {}");
        is_clean(
            "amqp/src/a.rs",
            "#[cfg(test)]\nmod tests {\n    use std::thread;\n}",
        );
    }

    #[test]
    fn rooms_without_a_corridor_stay_apart() {
        has(
            "store/src/a.rs",
            "use amqp::connection::State;",
            "does not use amqp::connection",
        );
        has(
            "gateway/src/http/jobs.rs",
            "use crate::session::A;",
            "does not use crate::session",
        );
        is_clean("gateway/src/node.rs", "use crate::session::A;");
    }

    #[test]
    fn the_wall_clock_has_one_door() {
        has(
            "gateway/src/a.rs",
            "let a = SystemTime::now();",
            "store/src/clock.rs only",
        );
        is_clean("store/src/clock.rs", "let a = SystemTime::now();");
        is_clean("gateway/src/a.rs", "let a = Instant::now();");
        is_clean("bench/src/a.rs", "let a = SystemTime::now();");
    }

    #[test]
    fn only_the_rim_serializes() {
        has(
            "store/src/a.rs",
            "#[derive(Debug,\n    Serialize)]\nstruct A;",
            "3: only the rim",
        );
        is_clean("store/src/a.rs", "#[derive(Debug, Deserialize)]\nstruct A;");
        is_clean(
            "gateway/src/http/jobs.rs",
            "#[derive(Serialize)]\nstruct A;",
        );
        is_clean("gateway/src/config.rs", "#[derive(Serialize)]\nstruct A;");
    }

    #[test]
    fn statements_are_files() {
        has(
            "store/src/sql/a.rs",
            r#"let a = "select id from queue";"#,
            "SQL belongs into",
        );
        has(
            "store/src/sql/a.rs",
            r#"let a = "PRAGMA synchronous";"#,
            "SQL belongs into",
        );
        is_clean("gateway/src/a.rs", r#"let a = "select a schedule";"#);
        is_clean(
            "store/src/sql/a.rs",
            "#[cfg(test)]\nmod tests {\n    const A: &str = \"pragma x\";\n}",
        );
        is_clean(
            "store/src/sql/statements/queue.list.sql",
            "select name from queue",
        );
        has("gateway/src/a.sql", "select 1", "or migrations");
    }

    #[test]
    fn long_functions_are_told() {
        let body = "    a();\n".repeat(70);
        let text = format!("pub async fn long(a: [u8; 2]) -> u8 {{\n{body}}}\nfn short() {{}}\n");
        let found = long_functions(&Source::new("a.rs", text));
        assert_eq!(found, [(72, "a.rs:1 long".to_owned())]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use tokio::sync", "tokio"));
        assert!(!has_word("tokio_like", "tokio"));
        assert!(has_word("x.await?", ".await"));
        assert!(!has_word("x.awaited", ".await"));
    }
}
