//! A conversation file, read: lines become steps.
//!
//! Keeps: the grammar of `tests/conversation/*.conv` (see the module above).
//! Never: plays anything.
//! In: `mod` reads files; `play` walks over the steps.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::term::{Arg, Term, parse, span};

/// A whole file.
#[derive(Debug)]
pub struct Script {
    /// The first comment line.
    pub name: String,
    /// Played on this family of servers only.
    pub only: Option<String>,
    /// This family of servers does not hold it yet; the day it does, the file must say so.
    pub not_yet: Option<String>,
    /// It waits for long and touches no queue: played beside the others.
    pub aside: bool,
    pub lines: Vec<Line>,
}

/// One step and where it stands.
#[derive(Debug)]
pub struct Line {
    pub number: usize,
    pub text: String,
    /// It holds on this family only.
    pub only: Option<String>,
    pub step: Step,
}

/// What a line says.
#[derive(Debug)]
pub enum Step {
    Wait(Duration),
    /// `A: open …`
    Open {
        connection: String,
        args: Vec<Arg>,
    },
    /// `A: socket`
    Socket {
        connection: String,
    },
    /// `A: drop`
    Drop {
        connection: String,
    },
    Send {
        to: Target,
        what: Sent,
        until_it_fits: bool,
    },
    Expect {
        from: Target,
        what: Expected,
        options: Options,
    },
}

/// A connection, and a channel of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub connection: String,
    pub channel: Option<u16>,
}

/// What the client sends.
#[derive(Debug)]
pub enum Sent {
    Method(String, Vec<Arg>),
    Bytes(Vec<Term>),
    Frame(Vec<Arg>),
    ContentHeader(Vec<Arg>),
    ContentBody(Term),
    Heartbeat,
}

/// What the server is expected to do.
#[derive(Debug)]
pub enum Expected {
    Method(String, Vec<Arg>),
    Bytes(Term),
    Closed,
    Nothing,
    Heartbeat,
    Confirms { acked: Vec<u64>, nacked: Vec<u64> },
}

/// How an expectation is met.
#[derive(Debug, Default)]
pub struct Options {
    pub within: Option<Duration>,
    /// `<?`: others may come first.
    pub anywhere: bool,
    /// A close is not answered.
    pub hold: bool,
}

impl Script {
    /// # Errors
    /// A line that cannot be read, with its number.
    pub fn read(text: &str) -> Result<Self> {
        let mut script = Self {
            name: String::new(),
            only: None,
            not_yet: None,
            aside: false,
            lines: Vec::new(),
        };
        for (at, text) in text.lines().enumerate() {
            let text = text.trim();
            if let Some(comment) = text.strip_prefix('#') {
                script.comment(comment.trim());
            } else if !text.is_empty() {
                let line = line(at + 1, text);
                script
                    .lines
                    .push(line.with_context(|| format!("line {}: {text}", at + 1))?);
            }
        }
        if script.name.is_empty() {
            bail!("no first comment line to name the test");
        }
        Ok(script)
    }

    /// How long the file waits by its own wish on this family.
    pub fn waits(&self, family: &str) -> Duration {
        let lines = self.lines.iter().filter(|line| line.holds_on(family));
        lines.filter_map(|line| line.step.waits()).sum()
    }

    fn comment(&mut self, comment: &str) {
        if self.name.is_empty() {
            comment.clone_into(&mut self.name);
        } else if let Some(family) = comment.strip_prefix("only: ") {
            self.only = Some(family.to_owned());
        } else if let Some(family) = comment.strip_prefix("not yet: ") {
            self.not_yet = Some(family.to_owned());
        } else if comment == "aside" {
            self.aside = true;
        }
    }
}

impl Step {
    /// Silence takes the whole of its time, as a wait does.
    fn waits(&self) -> Option<Duration> {
        match self {
            Self::Wait(span) => Some(*span),
            Self::Expect {
                what: Expected::Nothing,
                options,
                ..
            } => options.within,
            _ => None,
        }
    }
}

impl Line {
    pub fn holds_on(&self, family: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == family)
    }
}

fn line(number: usize, text: &str) -> Result<Line> {
    let mut rest = text;
    let mut only = None;
    if let Some(prefixed) = text.strip_prefix('@') {
        let (family, after) = prefixed.split_once(' ').context("a stage and a line")?;
        only = Some(family.to_owned());
        rest = after.trim_start();
    }
    Ok(Line {
        number,
        text: text.to_owned(),
        only,
        step: step(rest)?,
    })
}

fn step(text: &str) -> Result<Step> {
    if let Some(wait) = text.strip_prefix('+') {
        let wait = span(wait.trim()).ok_or_else(|| anyhow!("no span of time"))?;
        return Ok(Step::Wait(wait));
    }
    let at = text
        .find(['<', '>', ':'])
        .context("none of < > : in the line")?;
    let (target, rest) = text.split_at(at);
    let end = rest.find(' ').unwrap_or(rest.len());
    let (sign, rest) = rest.split_at(end);
    let target = Target::read(target)?;
    let args = parse(rest)?;
    match sign {
        ":" => directive(target, args),
        ">" => Ok(Step::Send {
            to: target,
            what: sent(args)?,
            until_it_fits: false,
        }),
        ">>" => Ok(Step::Send {
            to: target,
            what: sent(args)?,
            until_it_fits: true,
        }),
        "<" => expect(target, args, false),
        "<?" => expect(target, args, true),
        other => bail!("no sign {other:?}"),
    }
}

impl Target {
    fn read(text: &str) -> Result<Self> {
        let (connection, channel) = match text.split_once('.') {
            Some((connection, channel)) => (connection, Some(channel)),
            None if text.starts_with(|c: char| c.is_ascii_digit()) => ("A", Some(text)),
            None => (text, None),
        };
        if !connection.starts_with(|c: char| c.is_ascii_uppercase()) {
            bail!("no connection {connection:?}");
        }
        let channel = channel.map(str::parse).transpose().context("the channel")?;
        Ok(Self {
            connection: connection.to_owned(),
            channel,
        })
    }
}

fn directive(target: Target, mut args: Vec<Arg>) -> Result<Step> {
    let connection = target.connection;
    match first_word(&mut args)?.as_str() {
        "open" => Ok(Step::Open { connection, args }),
        "socket" => Ok(Step::Socket { connection }),
        "drop" => Ok(Step::Drop { connection }),
        other => bail!("no directive {other:?}"),
    }
}

fn sent(mut args: Vec<Arg>) -> Result<Sent> {
    let word = first_word(&mut args)?;
    Ok(match word.as_str() {
        "bytes" => Sent::Bytes(args.into_iter().map(|arg| arg.term).collect()),
        "frame" => Sent::Frame(args),
        "content-header" => Sent::ContentHeader(args),
        "content-body" => {
            let body = args.pop().filter(|_| args.is_empty()).context("one body")?;
            Sent::ContentBody(body.term)
        }
        "heartbeat" => Sent::Heartbeat,
        _ => Sent::Method(word, args),
    })
}

fn expect(from: Target, mut args: Vec<Arg>, anywhere: bool) -> Result<Step> {
    let mut options = Options {
        anywhere,
        ..Options::default()
    };
    if let [.., within, time] = &args[..]
        && within.term.word() == Some("within")
    {
        let time = time.term.word().and_then(span);
        options.within = Some(time.context("within what span of time?")?);
        args.truncate(args.len() - 2);
    }
    if args
        .last()
        .is_some_and(|arg| arg.bare && arg.term.word() == Some("hold"))
    {
        options.hold = true;
        args.pop();
    }
    let word = first_word(&mut args)?;
    let what = match word.as_str() {
        "bytes" => Expected::Bytes(args.pop().context("which bytes?")?.term),
        "closed" => Expected::Closed,
        "nothing" => Expected::Nothing,
        "heartbeat" => Expected::Heartbeat,
        "confirmed" => confirms(&args)?,
        _ => Expected::Method(word, args),
    };
    Ok(Step::Expect {
        from,
        what,
        options,
    })
}

/// `confirmed 1..3 5 nacked 4`
fn confirms(args: &[Arg]) -> Result<Expected> {
    let (mut acked, mut nacked) = (Vec::new(), Vec::new());
    let mut list = &mut acked;
    for arg in args {
        match &arg.term {
            Term::Int(None, tag) => list.push(u64::try_from(*tag)?),
            Term::Str(word) if word == b"nacked" => list = &mut nacked,
            Term::Str(word) => {
                let word = String::from_utf8_lossy(word);
                let (first, last) = word.split_once("..").context("a range of tags")?;
                list.extend(first.parse::<u64>()?..=last.parse()?);
            }
            other => bail!("{other:?} is no tag"),
        }
    }
    Ok(Expected::Confirms { acked, nacked })
}

fn first_word(args: &mut Vec<Arg>) -> Result<String> {
    if args.is_empty() {
        bail!("the line says nothing");
    }
    let first = args.remove(0);
    let word = first.term.word().filter(|_| first.name.is_none());
    word.map(str::to_owned)
        .ok_or_else(|| anyhow!("{:?} is no word to begin with", first.term))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_read() {
        let script = Script::read(
            "# What it shows.\n# aside\n\n1> basic.publish key=q body=x # why\n\
             @rabbitmq B.2<? basic.ack tag=1 within 300ms\n+1s\n1< confirmed 1..3 5 nacked 4\n\
             A: open user=x\nA< closed\n1< channel.close 404 hold\n1< nothing within 2s\n",
        )
        .unwrap();
        assert_eq!(
            (script.name.as_str(), script.aside),
            ("What it shows.", true)
        );
        assert_eq!(script.lines.len(), 8);
        assert_eq!(script.waits("leveret"), Duration::from_secs(3));
        assert!(!script.lines[1].holds_on("leveret"));
        let Step::Expect { from, options, .. } = &script.lines[1].step else {
            panic!("expect")
        };
        assert_eq!((from.connection.as_str(), from.channel), ("B", Some(2)));
        assert_eq!(options.within, Some(Duration::from_millis(300)));
        let Step::Expect {
            what: Expected::Confirms { acked, nacked },
            ..
        } = &script.lines[3].step
        else {
            panic!("confirms")
        };
        assert_eq!((&acked[..], &nacked[..]), (&[1, 2, 3, 5][..], &[4][..]));
        let Step::Expect { options, .. } = &script.lines[6].step else {
            panic!("expect")
        };
        assert!(options.hold);
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        for bad in [
            "what",
            "1! x",
            "b> x",
            "1> ",
            "+soon",
            "A: fly",
            "1< confirmed x",
        ] {
            let fault = Script::read(&format!("# name\n{bad}\n")).unwrap_err();
            assert!(fault.to_string().contains("line 2"), "{bad}: {fault:#}");
        }
        assert!(Script::read("1> tx.select\n").is_err());
    }
}
