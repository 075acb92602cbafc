//! A schedule's expression: text in, something that can be searched out. Pure.
//!
//! Keeps: an `Expression` that exists is well formed and fires at least once (civil time, 1970
//! to 4999); what cannot fire is refused here, before anything is stored.
//! Never: reads a clock, knows a zone, or maps civil times to instants (`calendar` does).
//! In: configuration and the schedules API.  Out: `calendar` walks `Kind`.
//! Grammar: docs/guide/schedules.md. The matcher is `croner`, on civil time only: ADR 2.

use std::fmt;

use croner::Cron;
use jiff::Timestamp;

use super::calendar::Matcher;
use super::field::{self, Context, Parsed, Part};

/// Which reading of numbers and days an expression is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// crontab(5): 0 and 7 are Sunday; with both day fields restricted either may match.
    #[default]
    Posix,
    /// Quartz and the `cron` crate: 1 is Sunday, both day fields must match, `5/15` is allowed.
    Quartz,
}

/// Why an expression or a zone was refused: which field, which text, and the reason.
///
/// Displays as one line, as in `minute: 61 is out of range 0-59`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text} {reason}")]
pub struct Invalid {
    /// The part at fault: a field's name, `expression` or `zone`.
    pub field: &'static str,
    /// The offending text, not the whole expression where less will do.
    pub text: String,
    /// What is wrong with it, as the end of a sentence that begins with the text.
    pub reason: String,
}

/// A schedule's checked expression. Equal when written the same way for the same outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    source: String,
    kind: Kind,
    warning: Option<String>,
}

/// The three shapes an expression takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Civil times that match a pattern.
    Civil(Box<Matcher>),
    /// Every so many seconds since the epoch, in no zone.
    Every(i64),
    /// Once.
    At(Timestamp),
}

impl Expression {
    /// Reads `text` in the POSIX dialect; `name` is the schedule's name and decides what `H` means.
    ///
    /// # Errors
    /// `Invalid` when the text is malformed, out of range, or can never fire.
    pub fn parse(text: &str, name: &str) -> Result<Self, Invalid> {
        Self::parse_as(text, name, Dialect::Posix)
    }

    /// Reads `text` in the given dialect.
    ///
    /// # Errors
    /// As `parse`.
    pub fn parse_as(text: &str, name: &str, dialect: Dialect) -> Result<Self, Invalid> {
        let source = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if source.len() > TEXT_BYTES_MAX {
            let reason = format!("is longer than {TEXT_BYTES_MAX} bytes");
            return Err(Invalid::whole("the text", reason));
        }
        if source.is_empty() {
            return Err(Invalid::whole("the text", "is empty"));
        }
        if source.starts_with("TZ=") || source.starts_with("CRON_TZ=") {
            return Err(Invalid::whole(
                &source,
                "sets a zone; write it in the schedule's `zone`",
            ));
        }
        if source.starts_with('@') {
            return Self::parse_alias(source, name);
        }
        Self::parse_fields(&source, name, dialect).map(|(matcher, warning)| Self {
            source,
            kind: Kind::Civil(Box::new(matcher)),
            warning,
        })
    }

    /// The expression as written, white space collapsed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Something legal that often is a mistake, as a sentence for the log.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Whether second, minute and hour are single values or comma lists, so that the expression
    /// names times of day rather than a rhythm. Decides the daylight-saving rules.
    pub fn is_fixed(&self) -> bool {
        matches!(&self.kind, Kind::Civil(matcher) if matcher.fixed)
    }

    /// Whether the expression fires once and never again.
    pub fn is_one_shot(&self) -> bool {
        matches!(self.kind, Kind::At(_))
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    fn parse_alias(source: String, name: &str) -> Result<Self, Invalid> {
        let lower = source.to_ascii_lowercase();
        let (alias, argument) = lower.split_once(' ').unwrap_or((&lower, ""));
        let kind = match alias {
            "@every" => Kind::Every(parse_period(argument)?),
            "@at" => Kind::At(parse_instant(argument)?),
            "@reboot" => {
                return Err(Invalid::whole(
                    &source,
                    "is not supported: a schedule fires at times, not at starts of the server",
                ));
            }
            _ => {
                let known = ALIASES.iter().find(|(known, _)| *known == lower);
                let Some((_, fields)) = known else {
                    return Err(Invalid::whole(&source, alias_list()));
                };
                let (matcher, _) = Self::parse_fields(fields, name, Dialect::Posix)?;
                Kind::Civil(Box::new(matcher))
            }
        };
        Ok(Self {
            source,
            kind,
            warning: None,
        })
    }

    fn parse_fields(
        source: &str,
        name: &str,
        dialect: Dialect,
    ) -> Result<(Matcher, Option<String>), Invalid> {
        let texts: Vec<&str> = source.split(' ').collect();
        let parts: &[Part] = match texts.len() {
            5 => &PARTS[1..6],
            6 => &PARTS[..6],
            7 => &PARTS,
            count => return Err(Invalid::field_count(source, count)),
        };
        let mut fields = Fields::default();
        for (&part, &text) in parts.iter().zip(&texts) {
            fields.take(
                Context {
                    part,
                    dialect,
                    name,
                },
                text,
            )?;
        }
        let pattern = fields.pattern(dialect);
        let cron: Cron = pattern
            .parse()
            .map_err(|error| Invalid::whole(source, format!("was refused: {error}")))?;
        let matcher = Matcher {
            cron,
            fixed: !fields.interval,
        };
        if !matcher.fires() {
            return Err(fields.never());
        }
        Ok((matcher, fields.warning(dialect)))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.source)
    }
}

impl Invalid {
    pub(super) fn new(field: &'static str, text: &str, reason: impl Into<String>) -> Self {
        Self {
            field,
            text: text.to_owned(),
            reason: reason.into(),
        }
    }

    fn whole(text: &str, reason: impl Into<String>) -> Self {
        Self::new("expression", text, reason)
    }

    fn field_count(source: &str, count: usize) -> Self {
        let plural = if count == 1 { "field" } else { "fields" };
        Self::whole(
            source,
            format!(
                "has {count} {plural}; write 5 (minute hour day month weekday), \
                 6 (second first) or 7 (second first, year last)"
            ),
        )
    }
}

/// The canonical fields as they are collected.
#[derive(Default)]
struct Fields {
    second: Option<String>,
    /// Minute and hour, in this order.
    time: Vec<String>,
    day: String,
    month: String,
    weekday: String,
    year: Option<String>,
    /// The date fields as the user wrote them, for messages.
    written: Vec<String>,
    interval: bool,
    day_star: bool,
    weekday_star: bool,
    /// The weekday field began with `+`.
    both: bool,
}

impl Fields {
    fn take(&mut self, context: Context<'_>, text: &str) -> Result<(), Invalid> {
        let bare = match (context.part, text.strip_prefix('+')) {
            (Part::Weekday, Some(rest)) => {
                self.both = true;
                rest
            }
            _ => text,
        };
        let Parsed {
            canonical,
            interval,
            star,
        } = field::parse(context, bare)?;
        match context.part {
            Part::Second => {
                self.interval |= interval;
                self.second = Some(canonical);
            }
            Part::Minute | Part::Hour => {
                self.interval |= interval;
                self.time.push(canonical);
            }
            Part::Day => {
                self.day_star = star;
                self.day = canonical;
                self.written.push(text.to_owned());
            }
            Part::Month => {
                self.month = canonical;
                self.written.push(text.to_owned());
            }
            Part::Weekday => {
                self.weekday_star = star;
                self.weekday = canonical;
                self.written.push(text.to_owned());
            }
            Part::Year => {
                self.year = Some(canonical);
                self.written.push(text.to_owned());
            }
        }
        Ok(())
    }

    fn day_restricted(&self) -> bool {
        self.day != "*"
    }

    fn weekday_restricted(&self) -> bool {
        self.weekday != "*"
    }

    /// Whether a day must satisfy both day fields.
    ///
    /// crontab(5) lets either match only when neither field begins with a star, so `*/2` beside a
    /// weekday means both; Quartz always means both.
    fn both_days(&self, dialect: Dialect) -> bool {
        self.both || dialect == Dialect::Quartz || self.day_star || self.weekday_star
    }

    fn pattern(&self, dialect: Dialect) -> String {
        let both = if self.both_days(dialect) { "+" } else { "" };
        format!(
            "{} {} {} {} {both}{} {}",
            self.second.as_deref().unwrap_or("0"),
            self.time.join(" "),
            self.day,
            self.month,
            self.weekday,
            self.year.as_deref().unwrap_or("*"),
        )
    }

    fn warning(&self, dialect: Dialect) -> Option<String> {
        let either = self.day_restricted() && self.weekday_restricted() && !self.both_days(dialect);
        either.then(|| {
            format!(
                "fires when the day of month or the day of week matches; write +{} for both",
                self.written[2]
            )
        })
    }

    /// Every time of day exists, so a pattern that never fires has an impossible date.
    fn never(&self) -> Invalid {
        let day_and_month = !self.weekday_restricted() && self.year.is_none();
        if day_and_month {
            let text = self.written[..2].join(" ");
            return Invalid::new("day of month and month", &text, "never occurs");
        }
        Invalid::new("date fields", &self.written.join(" "), "never occurs")
    }
}

/// `90s`, `5m`, `1h30m`, `1d`: whole seconds.
fn parse_period(text: &str) -> Result<i64, Invalid> {
    let invalid = |reason: &str| {
        let shown = if text.is_empty() { "@every" } else { text };
        Err(Invalid::new("@every", shown, reason))
    };
    let mut seconds = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let mut tail = tail.chars();
        let unit = match tail.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return invalid("is not a span such as 90s, 5m, 1h30m or 1d"),
        };
        rest = tail.as_str();
        let added = number
            .parse::<i64>()
            .ok()
            .and_then(|number| number.checked_mul(unit));
        let Some(total) = added.and_then(|added| seconds.checked_add(added)) else {
            return invalid("is not a span such as 90s, 5m, 1h30m or 1d");
        };
        seconds = total;
    }
    match seconds {
        0 if text.is_empty() => invalid("needs a span, as in @every 90s"),
        0 => invalid("is no time at all; the least is 1s"),
        EVERY_SECONDS_MAX.. => invalid("is longer than 100 years"),
        _ => Ok(seconds),
    }
}

/// Kept to the millisecond: a nominal time must survive storage unchanged, or it fires twice.
fn parse_instant(text: &str) -> Result<Timestamp, Invalid> {
    let parsed = text.to_ascii_uppercase().parse::<Timestamp>();
    let rounded = parsed.and_then(|at| Timestamp::from_millisecond(at.as_millisecond()));
    rounded.map_err(|_| {
        let shown = if text.is_empty() { "@at" } else { text };
        let reason = "is not an RFC 3339 time with an offset, as in 2027-03-01T09:00:00Z";
        Invalid::new("@at", shown, reason)
    })
}

fn alias_list() -> String {
    let names: Vec<&str> = ALIASES.iter().map(|(name, _)| *name).collect();
    format!(
        "is not known; there are {}, @every 90s and @at <time>",
        names.join(", ")
    )
}

const PARTS: [Part; 7] = [
    Part::Second,
    Part::Minute,
    Part::Hour,
    Part::Day,
    Part::Month,
    Part::Weekday,
    Part::Year,
];

const ALIASES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Longer than any honest expression; bounds the work a hostile one can cause.
const TEXT_BYTES_MAX: usize = 1_024;

/// 100 years and a second.
const EVERY_SECONDS_MAX: i64 = 100 * 366 * 86_400 + 1;

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
