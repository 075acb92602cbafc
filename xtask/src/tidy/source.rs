//! A text file as the rules see it; Rust also without comments and literals.
//!
//! Keeps: line numbers: the code view has a line for each line of the file.
//! Never: parses Rust beyond comments, literals and braces.
//! In: `rules`, `documents`.

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the workspace, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// For Rust: the text with comments and literals blanked out.
    pub(super) code: String,
    /// For Rust: string literals and the lines they begin in.
    pub(super) literals: Vec<(usize, String)>,
    /// The line from which on all is tests (`#[cfg(test)]` before a module), if any.
    pub(super) tests_from: usize,
}

impl Source {
    pub(super) fn new(path: &str, text: String) -> Self {
        let mut source = Self {
            path: path.to_owned(),
            text,
            code: String::new(),
            literals: Vec::new(),
            tests_from: usize::MAX,
        };
        if source.is_rust() {
            let split = Splitter::new(&source.text).run();
            (source.code, source.literals) = (split.code, split.literals);
            source.tests_from = tests_from(&source.code);
        }
        source
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(super) fn is_in(&self, folder: &str) -> bool {
        self.path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// A file whose whole content is tests.
    pub(super) fn is_tests(&self) -> bool {
        let parts = ["tests", "bench", "examples", "fuzz"];
        let mut stems = self
            .path
            .split('/')
            .map(|part| part.trim_end_matches(".rs"));
        parts.iter().any(|part| self.is_in(part))
            || stems.any(|stem| TEST_STEMS.contains(&stem) || stem.ends_with("_tests"))
    }

    /// The lines of code that ship, with their numbers.
    pub(super) fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_tests() { 0 } else { self.tests_from };
        numbered(&self.code).take_while(move |(number, _)| *number < end)
    }
}

/// Lines from 1.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Where the tests at the bottom begin. The attribute before anything but a module is a detail
/// of the code above and below it.
fn tests_from(code: &str) -> usize {
    let lines: Vec<_> = code.lines().map(str::trim).collect();
    let at = (0..lines.len())
        .find(|at| lines[*at].starts_with("#[cfg(test)]") && opens_module(&lines[*at..]));
    at.map_or(usize::MAX, |index| index + 1)
}

/// Whether a module with a body follows the attributes that `lines` begin with.
fn opens_module(lines: &[&str]) -> bool {
    let mut open = 0_usize;
    for line in lines {
        if open == 0 && !line.is_empty() && !line.starts_with("#[") {
            let words: Vec<_> = line.split_whitespace().collect();
            return words.contains(&"mod") && words.last() == Some(&"{");
        }
        open = (open + line.matches('[').count()).saturating_sub(line.matches(']').count());
    }
    false
}

/// Test code whose name does not say so: suites and measurements within a crate.
const TEST_STEMS: [&str; 4] = ["tests", "contract", "measure", "simulation"];

struct Split {
    code: String,
    literals: Vec<(usize, String)>,
}

/// Walks over Rust text once.
struct Splitter<'a> {
    rest: &'a str,
    line: usize,
    split: Split,
}

impl<'a> Splitter<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
            split: Split {
                code: String::new(),
                literals: Vec::new(),
            },
        }
    }

    fn run(mut self) -> Split {
        while let Some(next) = self.rest.chars().next() {
            if self.rest.starts_with("//") {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.blank(end);
            } else if self.rest.starts_with("/*") {
                self.blank(block_comment(self.rest));
            } else if let Some(literal) = raw_string(self.rest) {
                self.literal(literal);
            } else if next == '"' {
                self.literal(Literal {
                    front: 1,
                    end: quoted(self.rest, '"'),
                    back: 1,
                });
            } else if let Some(end) = character(self.rest) {
                self.blank(end);
            } else {
                self.keep(word(self.rest));
            }
        }
        self.split
    }

    fn literal(&mut self, literal: Literal) {
        let inner = self
            .rest
            .get(literal.front..literal.end.saturating_sub(literal.back));
        self.split
            .literals
            .push((self.line, inner.unwrap_or_default().to_owned()));
        self.blank(literal.end);
    }

    fn blank(&mut self, end: usize) {
        let (gone, rest) = self.rest.split_at(end);
        self.line += gone.matches('\n').count();
        self.split.code.extend(
            gone.chars()
                .map(|letter| if letter == '\n' { '\n' } else { ' ' }),
        );
        self.rest = rest;
    }

    fn keep(&mut self, end: usize) {
        let (kept, rest) = self.rest.split_at(end);
        self.line += kept.matches('\n').count();
        self.split.code.push_str(kept);
        self.rest = rest;
    }
}

/// Bytes of a literal: before its text, in all, behind its text.
struct Literal {
    front: usize,
    end: usize,
    back: usize,
}

/// A whole word, so that the `r` of `for"` is no prefix; else one character.
fn word(text: &str) -> usize {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    match end.unwrap_or(text.len()) {
        0 => text.chars().next().map_or(0, char::len_utf8),
        end => end,
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<Literal> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = text[prefix.len()..].find('"')?;
    let front = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = text[front..]
        .find(&close)
        .map_or(text.len(), |at| front + at + close.len());
    Some(Literal {
        front,
        end,
        back: close.len(),
    })
}

/// The end of a literal that begins at the start of `text` and may escape its own end.
fn quoted(text: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == end => return at + letter.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// A character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let mut letters = text.strip_prefix('\'')?.chars();
    match (letters.next()?, letters.next()?) {
        ('\\', _) => Some(quoted(text, '\'')),
        (letter, '\'') => Some(2 + letter.len_utf8()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("a/src/b.rs", text.to_owned()).code
    }

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"f("a\"b", c)"#), "f(      , c)");
        assert_eq!(code("f(r##\"a\"# b\"##, c)"), "f(            , c)");
        assert_eq!(code("'a' '\\'' '\"' x"), format!("{:13}x", ""));
    }

    #[test]
    fn a_lifetime_is_no_literal() {
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
    }

    #[test]
    fn a_word_that_ends_in_r_is_no_raw_string() {
        let source = Source::new("b.rs", "for\"x\"".to_owned());
        assert_eq!(source.code, "for   ");
        assert_eq!(source.literals, [(1, "x".to_owned())]);
    }

    #[test]
    fn literals_know_their_line() {
        let source = Source::new("b.rs", "a\n\"x\ny\"\nr#\"z\"#".to_owned());
        assert_eq!(
            source.literals,
            [(2, "x\ny".to_owned()), (4, "z".to_owned())]
        );
    }

    #[test]
    fn tests_at_the_bottom_do_not_ship() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        let source = Source::new("a/src/b.rs", text.to_owned());
        assert_eq!(
            source.shipped().map(|(_, line)| line).collect::<Vec<_>>(),
            ["fn a() {}"]
        );
        let more =
            "fn a() {}\n#[cfg(test)]\n#[expect(\n    x,\n    y\n)]\npub(crate) mod tests {\n}\n";
        assert_eq!(Source::new("b.rs", more.to_owned()).shipped().count(), 1);
        let detail = Source::new("b.rs", "#[cfg(test)]\nfn a() {}\nfn b() {}\n".to_owned());
        assert_eq!(detail.shipped().count(), 3);
    }

    #[test]
    fn suites_are_tests() {
        let is_tests = |path| Source::new(path, String::new()).is_tests();
        assert!(is_tests("tests/crash.rs"));
        assert!(is_tests("store/src/sql/contract.rs"));
        assert!(is_tests("store/src/sql/contract/job.rs"));
        assert!(is_tests("scheduler/src/cron/calendar_tests.rs"));
        assert!(!is_tests("store/src/queue/mod.rs"));
    }
}
