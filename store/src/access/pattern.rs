//! Regular expressions of permissions and policies, read as RabbitMQ reads them. Pure.
//!
//! Keeps: time linear in the name whatever the pattern is, and bounded memory for each; a pattern
//! that could mean something else here than in PCRE is refused, never guessed at.
//! In: `access` for names and routing keys, `policy` for names.
//! RabbitMQ: unanchored, on bytes; the empty pattern matches the empty name only.

use regex::bytes::{Regex, RegexBuilder};

/// No pattern is longer, bytes: definition files of the wild stay far below.
const PATTERN_MAX: usize = 4096;
/// No compiled pattern is bigger, bytes; refuses `(a{1000}){1000}`.
const COMPILED_MAX: usize = 256 << 10;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern(Form);

#[derive(Debug)]
enum Form {
    Nothing,
    OnlyEmpty,
    Anything,
    Regex {
        /// Looked at from the first byte on; false: must not be there.
        ahead: Vec<(bool, Regex)>,
        whole: Regex,
    },
}

impl Pattern {
    /// Compiles; the error says what is wrong, for the one who wrote it.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_MAX {
            return Err(format!("it is longer than {PATTERN_MAX} bytes"));
        }
        match text {
            "" => return Ok(Self(Form::OnlyEmpty)),
            ".*" => return Ok(Self(Form::Anything)),
            _ => {}
        }
        let (ahead, rest) = split_look_ahead(text)?;
        let ahead: Vec<(bool, Regex)> = ahead
            .into_iter()
            .map(|(wanted, part)| Ok((wanted, regex(&format!("^(?:{})", translate(part)?))?)))
            .collect::<Result<_, String>>()?;
        let whole = if ahead.is_empty() {
            regex(&translate(text)?)?
        } else {
            regex(&format!("^(?:{})", translate(rest)?))?
        };
        Ok(Self(Form::Regex { ahead, whole }))
    }

    /// Matches no name, not even the empty one.
    pub fn nothing() -> Self {
        Self(Form::Nothing)
    }

    pub fn is_match(&self, name: &[u8]) -> bool {
        match &self.0 {
            Form::Nothing => false,
            Form::OnlyEmpty => name.is_empty(),
            Form::Anything => true,
            Form::Regex { ahead, whole } => {
                ahead
                    .iter()
                    .all(|(wanted, part)| part.is_match(name) == *wanted)
                    && whole.is_match(name)
            }
        }
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(COMPILED_MAX)
        .dfa_size_limit(COMPILED_MAX)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it needs too much memory when compiled".into(),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let last = last.strip_prefix("error: ").unwrap_or(last);
            if last.contains("look-around") {
                return "look-around is taken only right after a leading ^".into();
            }
            last.to_owned()
        }
    })
}

type Ahead<'a> = Vec<(bool, &'a str)>;

/// `^(?!amq\.)rest` is how RabbitMQ users say "not the system's": split into what must (not) come
/// first, and the rest. Empty when the pattern does not begin so.
fn split_look_ahead(text: &str) -> Result<(Ahead<'_>, &str), String> {
    let mut ahead = Vec::new();
    let Some(mut rest) = text.strip_prefix('^') else {
        return Ok((ahead, text));
    };
    loop {
        let (wanted, inner) = match (rest.strip_prefix("(?!"), rest.strip_prefix("(?=")) {
            (Some(inner), _) => (false, inner),
            (_, Some(inner)) => (true, inner),
            _ => break,
        };
        let end = outer(inner)
            .find(|(_, c)| *c == ')')
            .ok_or("a parenthesis is not closed")?
            .0;
        ahead.push((wanted, &inner[..end]));
        rest = &inner[end + 1..];
    }
    if !ahead.is_empty() && outer(rest).any(|(_, c)| c == '|') {
        return Err("look-ahead beside a | outside parentheses is not taken".into());
    }
    Ok((ahead, rest))
}

/// The characters that stand outside classes and parentheses, unescaped, and the parenthesis that
/// closes what was not opened.
fn outer(text: &str) -> impl Iterator<Item = (usize, char)> + '_ {
    let (mut depth, mut escaped, mut class, mut named) = (0_u32, false, None, false);
    text.char_indices().filter(move |&(at, c)| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        if c == '\\' {
            escaped = true;
            return false;
        }
        if let Some(start) = class {
            named |= text[at..].starts_with("[:");
            if c == ']' && !(named && text[..at].ends_with(':')) && !is_first(text, start, at) {
                class = None;
            }
            named &= c != ']';
            return false;
        }
        match c {
            '[' => class = Some(at),
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            _ => return depth == 0,
        }
        false
    })
}

/// What PCRE takes literally and this engine would not, escaped.
fn translate(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 8);
    let (mut class, mut named) = (None, false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                out.push('\\');
                match chars.next() {
                    Some((_, 'Z')) => out.push('z'),
                    Some((_, next)) => {
                        out.push(next);
                        let braced = matches!(next, 'x' | 'p' | 'P');
                        if braced && chars.next_if(|(_, c)| *c == '{').is_some() {
                            out.push('{');
                        }
                    }
                    None => {}
                }
            }
            '[' if class.is_none() => {
                class = Some(at);
                out.push('[');
            }
            '[' if text[at..].starts_with("[:") => {
                named = true;
                out.push('[');
            }
            '[' => out.push_str("\\["),
            ']' if named && text[..at].ends_with(':') => {
                named = false;
                out.push(']');
            }
            ']' if class.is_some_and(|start| !is_first(text, start, at)) => {
                class = None;
                out.push(']');
            }
            '&' | '~' if class.is_some() => {
                out.push('\\');
                out.push(c);
            }
            '-' if class.is_some() && text[at..].starts_with("--") => {
                return Err("-- in a class is not taken".into());
            }
            '{' if class.is_none() && !is_count(&text[at + 1..]) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// A bracket that is the first in its class is a member.
fn is_first(text: &str, start: usize, at: usize) -> bool {
    text[start + 1..at].trim_start_matches('^').is_empty()
}

/// `3}`, `3,}` or `3,5}`.
fn is_count(rest: &str) -> bool {
    let Some((inside, _)) = rest.split_once('}') else {
        return false;
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match inside.split_once(',') {
        None => !inside.is_empty() && digits(inside),
        Some((low, high)) => !low.is_empty() && digits(low) && digits(high),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_pattern_and_no_name_panics(
            pattern in "[\\[\\](){}?!=|^$.*:\\\\aZé,0-9&~-]{0,24}",
            name in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            if let Ok(pattern) = Pattern::compile(&pattern) {
                pattern.is_match(&name);
            }
        }
    }

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::compile(pattern)
            .unwrap_or_else(|error| panic!("{pattern}: {error}"))
            .is_match(name.as_bytes())
    }

    #[test]
    fn patterns_mean_what_they_mean_in_rabbitmq() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "q", false),
            (".*", "", true),
            ("my", "not-my-queue", true),
            ("^my-", "not-my-queue", false),
            ("^my-", "my-queue", true),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.gen-x", true),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.direct", false),
            ("^a{2}$", "aa", true),
            ("^{a}$", "{a}", true),
            ("^a{,2}$", "a{,2}", true),
            ("^[[]x[&&~]$", "[x&", true),
            ("^[^x&&y]$", "x", false),
            ("^[]a]$", "]", true),
            ("^[[:alpha:]-]$", "-", true),
            ("^[a:][b]$", ":b", true),
            ("^\\d+$", "12", true),
            ("^\\d+$", "١", false),
            ("^é$", "é", true),
            ("(?i)^ABC$", "abc", true),
            ("^x\\Z", "x", true),
            ("^.$", "é", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn look_ahead_at_the_start_is_taken() {
        for (pattern, name, expected) in [
            ("^(?!amq\\.).*", "amq.gen-1", false),
            ("^(?!amq\\.).*", "orders", true),
            ("^(?!amq\\.)", "orders", true),
            ("^(?!a)(?!b).+$", "b", false),
            ("^(?=a|b)..$", "bx", true),
            ("^(?=a|b)..$", "cx", false),
            ("^(?!(a|b[)]))(c|d)", "d", true),
            ("^(?!x)", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_cannot_be_taken_is_refused_with_a_reason() {
        for (pattern, reason) in [
            ("(", "unclosed group"),
            ("*", "repetition operator missing expression"),
            (
                "a(?!b)",
                "look-around is taken only right after a leading ^",
            ),
            (
                "(?<=a)b",
                "look-around is taken only right after a leading ^",
            ),
            (
                "^(?!a)b|c",
                "look-ahead beside a | outside parentheses is not taken",
            ),
            ("^(?!a", "a parenthesis is not closed"),
            ("(a)\\1", "backreferences are not supported"),
            ("[a--b]", "-- in a class is not taken"),
            ("(a{1000}){1000}", "it needs too much memory when compiled"),
            ("[é]", "Unicode not allowed here"),
        ] {
            let error = Pattern::compile(pattern).err();
            assert_eq!(error.as_deref(), Some(reason), "{pattern}");
        }
        assert!(Pattern::compile(&"a".repeat(PATTERN_MAX + 1)).is_err());
    }
}
