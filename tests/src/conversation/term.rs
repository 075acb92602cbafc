//! The words of a line: values that are sent, patterns that are expected.
//!
//! Keeps: one grammar for both; what cannot be sent (`*`, `none`, a pattern) is refused there.
//! Never: knows methods or sockets.
//! In: `script` splits lines into these; `matching` compares; `play` sends.
//!
//! ```text
//! key=word  key="text \x00 ${var}"  key="x"*5000  key~"begin*"  key=*  key=none  key=$var
//! key={a=1 b="s" c={} d=[1 2]}  key~{a=1}  l:5  T:1700000000  f:0.5  D:2/314  x:00ff  nested(100)
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};

use crate::wire::value::Value;

/// What captures have put aside, by name.
pub type Vars = BTreeMap<String, String>;

/// One value or pattern.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// `*`: whatever it is.
    Any,
    /// `none`: must not be there.
    None,
    Void,
    Bool(bool),
    /// With a type letter when it matters.
    Int(Option<u8>, i64),
    Float(u8, f64),
    Decimal(u8, i32),
    /// Bytes; `${name}` inside is replaced when used.
    Str(Vec<u8>),
    /// A text so many times over.
    Repeat(Vec<u8>, usize),
    Bytes(Vec<u8>),
    Time(u64),
    Var(String),
    Array(Vec<Self>),
    Table(Vec<Arg>),
    Nested(usize),
}

/// `name=term`, `name~term`, or a term alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    pub name: Option<String>,
    /// `~`: a string is a pattern with `*`, a table may hold more.
    pub like: bool,
    pub term: Term,
    /// It stood without quotes or brackets: a flag, when alone.
    pub bare: bool,
}

/// Splits the rest of a line into its words.
///
/// # Errors
/// A quote or bracket stays open, or a typed value cannot be read.
pub fn parse(text: &str) -> Result<Vec<Arg>> {
    let mut scanner = Scanner {
        rest: text.as_bytes(),
    };
    scanner.args(None)
}

/// `200ms`, `2s`.
pub fn span(word: &str) -> Option<std::time::Duration> {
    if let Some(number) = word.strip_suffix("ms") {
        return number.parse().ok().map(std::time::Duration::from_millis);
    }
    number_of_seconds(word.strip_suffix('s')?)
}

fn number_of_seconds(word: &str) -> Option<std::time::Duration> {
    word.parse().ok().map(std::time::Duration::from_secs_f64)
}

/// Replaces `${name}` in a text.
///
/// # Errors
/// The name was never captured.
pub fn fill(text: &[u8], vars: &Vars) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find(rest, b"${") {
        out.extend_from_slice(&rest[..at]);
        let end = find(&rest[at..], b"}").context("`${` without `}`")? + at;
        let name = String::from_utf8_lossy(&rest[at + 2..end]);
        out.extend_from_slice(lookup(vars, &name)?.as_bytes());
        rest = &rest[end + 1..];
    }
    out.extend_from_slice(rest);
    Ok(out)
}

/// A captured value.
///
/// # Errors
/// The name was never captured.
pub fn lookup<'v>(vars: &'v Vars, name: &str) -> Result<&'v str> {
    vars.get(name)
        .map(String::as_str)
        .ok_or_else(|| anyhow!("${name} was never captured"))
}

impl Term {
    /// The value to send.
    ///
    /// # Errors
    /// It is a pattern, or names a variable without a value.
    pub fn value(&self, vars: &Vars) -> Result<Value> {
        Ok(match self {
            Self::Any | Self::None => bail!("a pattern cannot be sent"),
            Self::Void => Value::Void,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Int(letter, number) => {
                let fits = i32::try_from(*number).is_ok();
                Value::Int(letter.unwrap_or(if fits { b'I' } else { b'l' }), *number)
            }
            Self::Float(letter, number) => Value::Float(*letter, *number),
            Self::Decimal(scale, digits) => Value::Decimal(*scale, *digits),
            Self::Str(text) => Value::Str(fill(text, vars)?),
            Self::Repeat(text, count) => Value::Str(text.repeat(*count)),
            Self::Bytes(bytes) => Value::Bytes(bytes.clone()),
            Self::Time(at) => Value::Time(*at),
            Self::Var(name) => Value::str(lookup(vars, name)?),
            Self::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| item.value(vars))
                    .collect::<Result<_>>()?,
            ),
            Self::Table(args) => {
                let entries = args.iter().map(|arg| {
                    let name = arg.name.clone().unwrap_or_default();
                    Ok((name, arg.term.value(vars)?))
                });
                Value::Table(entries.collect::<Result<_>>()?)
            }
            Self::Nested(depth) => Value::nested(*depth),
        })
    }

    /// A bare word as text, for method names and flags.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Str(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }
}

struct Scanner<'t> {
    rest: &'t [u8],
}

impl Scanner<'_> {
    fn args(&mut self, close: Option<u8>) -> Result<Vec<Arg>> {
        let mut args = Vec::new();
        loop {
            self.skip_blanks();
            match (self.rest.first(), close) {
                (None, None) => return Ok(args),
                (None, Some(close)) => bail!("no {:?} to end with", char::from(close)),
                (Some(byte), Some(close)) if *byte == close => {
                    self.rest = &self.rest[1..];
                    return Ok(args);
                }
                (Some(b'#'), None) if matches!(self.rest.get(1), None | Some(b' ')) => {
                    return Ok(args);
                }
                _ => args.push(self.arg()?),
            }
        }
    }

    fn arg(&mut self) -> Result<Arg> {
        let name = self.name();
        let like = name.as_ref().is_some_and(|(_, like)| *like);
        let bare = !matches!(self.rest.first(), Some(b'"' | b'{' | b'['));
        let term = self.term()?;
        Ok(Arg {
            name: name.map(|(name, _)| name),
            like,
            term,
            bare,
        })
    }

    /// Eats `name=` or `name~`, or a lone `~`.
    fn name(&mut self) -> Option<(String, bool)> {
        let end = self.rest.iter().position(|byte| !is_name(*byte))?;
        let like = match self.rest[end] {
            b'=' => false,
            b'~' => true,
            _ => return None,
        };
        let name = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        Some((name, like))
    }

    fn term(&mut self) -> Result<Term> {
        match self.rest.first() {
            Some(b'"') => {
                let text = self.quoted()?;
                if self.rest.first() != Some(&b'*') {
                    return Ok(Term::Str(text));
                }
                self.rest = &self.rest[1..];
                Ok(Term::Repeat(
                    text,
                    self.word().parse().context("times of a repeated text")?,
                ))
            }
            Some(b'{') => {
                self.rest = &self.rest[1..];
                Ok(Term::Table(self.args(Some(b'}'))?))
            }
            Some(b'[') => {
                self.rest = &self.rest[1..];
                let items = self.args(Some(b']'))?;
                Ok(Term::Array(items.into_iter().map(|arg| arg.term).collect()))
            }
            _ => {
                let word = self.word();
                unquoted(&word).with_context(|| format!("the word {word:?}"))
            }
        }
    }

    fn word(&mut self) -> String {
        let end = self
            .rest
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t' | b'}' | b']'));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        String::from_utf8_lossy(word).into_owned()
    }

    fn quoted(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = 1;
        loop {
            match self.rest.get(at).copied() {
                None => bail!("a quote stays open"),
                Some(b'"') => break,
                Some(b'\\') => {
                    let escape = self.rest.get(at + 1).copied().context("a lone backslash")?;
                    at += 2;
                    out.push(match escape {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'x' => {
                            let digits =
                                self.rest.get(at..at + 2).context("\\x wants two digits")?;
                            at += 2;
                            u8::from_str_radix(std::str::from_utf8(digits)?, 16)?
                        }
                        other => other,
                    });
                }
                Some(byte) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        self.rest = &self.rest[at + 1..];
        Ok(out)
    }

    fn skip_blanks(&mut self) {
        let blanks = self
            .rest
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        self.rest = &self.rest[blanks..];
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn unquoted(word: &str) -> Result<Term> {
    match word {
        "*" => return Ok(Term::Any),
        "none" => return Ok(Term::None),
        "void" => return Ok(Term::Void),
        "true" => return Ok(Term::Bool(true)),
        "false" => return Ok(Term::Bool(false)),
        _ => {}
    }
    if let Some(name) = word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
        return Ok(Term::Var(name.to_owned()));
    }
    if let Ok(number) = word.parse() {
        return Ok(Term::Int(None, number));
    }
    if let Some(depth) = word
        .strip_prefix("nested(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return Ok(Term::Nested(depth.parse()?));
    }
    match word.as_bytes() {
        [letter, b':', ..] if b"bBsuIilL".contains(letter) => {
            Ok(Term::Int(Some(*letter), word[2..].parse()?))
        }
        [letter @ (b'f' | b'd'), b':', ..] => Ok(Term::Float(*letter, word[2..].parse()?)),
        [b'T', b':', ..] => Ok(Term::Time(word[2..].parse()?)),
        [b'x', b':', ..] => Ok(Term::Bytes(hex(&word[2..])?)),
        [b'D', b':', ..] => {
            let (scale, digits) = word[2..].split_once('/').context("D:scale/digits")?;
            Ok(Term::Decimal(scale.parse()?, digits.parse()?))
        }
        _ => Ok(Term::Str(word.as_bytes().to_vec())),
    }
}

fn hex(digits: &str) -> Result<Vec<u8>> {
    let digits = digits.replace('_', "");
    if !digits.len().is_multiple_of(2) {
        bail!("half a byte in {digits:?}");
    }
    let bytes = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    Ok(bytes.collect::<Result<_, _>>()?)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(text: &str) -> Arg {
        let mut args = parse(text).unwrap();
        assert_eq!(args.len(), 1, "{args:?}");
        args.remove(0)
    }

    #[test]
    fn words_and_numbers() {
        assert_eq!(one("durable").term, Term::Str(b"durable".to_vec()));
        assert_eq!(one("a=-7").term, Term::Int(None, -7));
        assert_eq!(one("a=l:7").term, Term::Int(Some(b'l'), 7));
        assert_eq!(one("a=D:2/314").term, Term::Decimal(2, 314));
        assert_eq!(one("a=x:00_ff").term, Term::Bytes(vec![0, 255]));
        assert_eq!(one("key=a.#").term, Term::Str(b"a.#".to_vec()));
        assert_eq!(one("a=\"ab\"*3").term, Term::Repeat(b"ab".to_vec(), 3));
    }

    #[test]
    fn quotes_brackets_and_comments() {
        let args = parse(r##"x "a # b\x00\"" t={a=1 b=[x "y"] c~{}} # ends"##).unwrap();
        assert_eq!(args.len(), 3);
        assert_eq!(args[1].term, Term::Str(b"a # b\0\"".to_vec()));
        let Term::Table(entries) = &args[2].term else {
            panic!("no table")
        };
        assert_eq!(entries.len(), 3);
        assert!(entries[2].like && !entries[0].like);
        assert!(parse("a=\"open").is_err() && parse("a={b=1").is_err());
    }

    #[test]
    fn variables_are_filled_in() {
        let vars = Vars::from([("q".to_owned(), "name".to_owned())]);
        assert_eq!(fill(b"a '${q}' b", &vars).unwrap(), b"a 'name' b");
        assert!(fill(b"${other}", &vars).is_err());
        assert_eq!(one("a=$q").term.value(&vars).unwrap(), Value::str("name"));
    }

    #[test]
    fn spans() {
        assert_eq!(span("200ms"), Some(std::time::Duration::from_millis(200)));
        assert_eq!(span("2s"), Some(std::time::Duration::from_secs(2)));
        assert_eq!(span("soon"), None);
    }
}
