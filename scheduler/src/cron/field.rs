//! One field of a cron expression: its grammar, its bounds, its errors. Pure.
//!
//! Keeps: every field that leaves here is in one canonical spelling (numbers only, Sunday is 0,
//! `H` resolved, steps with an explicit range), so one matcher serves both dialects.
//! Never: decides when something fires, or knows a zone.
//! In: `expression` calls `parse` once per field.  Out: `Parsed`, or `Invalid` in plain words.

use super::expression::{Dialect, Invalid};

/// Which of the seven places in an expression a field stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Weekday,
    Year,
}

/// A checked field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    /// The field as the matcher reads it.
    pub(super) canonical: String,
    /// The field repeats: it holds `*`, a range or a step. Lists and single values do not.
    pub(super) interval: bool,
    /// The field begins with `*` or `?`. crontab(5) calls such a day field unrestricted.
    pub(super) star: bool,
}

/// What a field is parsed with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) part: Part,
    pub(super) dialect: Dialect,
    /// The schedule's name, the seed of `H`.
    pub(super) name: &'a str,
}

/// Checks one field and rewrites it canonically.
pub(super) fn parse(context: Context<'_>, text: &str) -> Result<Parsed, Invalid> {
    let upper = text.to_ascii_uppercase();
    if upper == "?" {
        return context.question(text);
    }
    let mut items = Vec::new();
    let mut interval = false;
    let mut whole = false;
    for item in upper.split(',') {
        let parsed = context.item(item).map_err(|reason| {
            let shown = if item.is_empty() { text } else { item };
            context.invalid(shown, reason)
        })?;
        interval |= parsed.repeats;
        whole |= parsed.text == "*";
        items.push(parsed.text);
    }
    if items.iter().any(|item| item == "LW") && items.iter().any(|item| item == "L") {
        return Err(context.invalid(text, "holds both L and LW, which exclude each other"));
    }
    Ok(Parsed {
        canonical: if whole {
            "*".to_owned()
        } else {
            items.join(",")
        },
        interval,
        star: upper.starts_with('*'),
    })
}

/// One item of a comma list, canonical, and whether it repeats.
struct Item {
    text: String,
    repeats: bool,
}

impl Item {
    fn once(text: String) -> Self {
        Self {
            text,
            repeats: false,
        }
    }

    fn repeating(text: String) -> Self {
        Self {
            text,
            repeats: true,
        }
    }
}

impl Part {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day of month",
            Self::Month => "month",
            Self::Weekday => "day of week",
            Self::Year => "year",
        }
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::Weekday => &WEEKDAYS,
            _ => &[],
        }
    }
}

impl Context<'_> {
    fn invalid(self, text: &str, reason: impl Into<String>) -> Invalid {
        Invalid::new(self.part.name(), text, reason)
    }

    /// Least and greatest number a user may write, in this dialect.
    const fn bounds(self) -> (u16, u16) {
        match (self.part, self.dialect) {
            (Part::Second | Part::Minute, _) => (0, 59),
            (Part::Hour, _) => (0, 23),
            (Part::Day, _) => (1, 31),
            (Part::Month, _) => (1, 12),
            (Part::Weekday, Dialect::Posix) => (0, 7),
            (Part::Weekday, Dialect::Quartz) => (1, 7),
            (Part::Year, _) => (YEAR_MIN, YEAR_MAX),
        }
    }

    /// What `*` spans: the bounds, except that Sunday is not counted twice.
    const fn span(self) -> (u16, u16) {
        match (self.part, self.dialect) {
            (Part::Weekday, Dialect::Posix) => (0, 6),
            _ => self.bounds(),
        }
    }

    /// What is subtracted from a written number to reach the matcher's numbering.
    const fn shift(self) -> u16 {
        match (self.part, self.dialect) {
            (Part::Weekday, Dialect::Quartz) => 1,
            _ => 0,
        }
    }

    fn question(self, text: &str) -> Result<Parsed, Invalid> {
        if !matches!(self.part, Part::Day | Part::Weekday) {
            return Err(self.invalid(text, "is allowed only in day of month and day of week"));
        }
        Ok(Parsed {
            canonical: "*".to_owned(),
            interval: true,
            star: true,
        })
    }

    fn item(self, item: &str) -> Result<Item, String> {
        if item.is_empty() {
            return Err("has an empty item in its list".to_owned());
        }
        if let Some(special) = self.special(item)? {
            return Ok(special);
        }
        match item.split_once('/') {
            Some((base, step)) => self.stepped(item, base, step),
            None if item == "*" => Ok(Item::repeating("*".to_owned())),
            None if is_hash(item) => {
                let (low, high) = self.hash_range(item)?;
                let value = low + self.hash(high - low + 1);
                Ok(Item::once((value - self.shift()).to_string()))
            }
            None => match self.range(item)? {
                (low, Some(high)) => Ok(Item::repeating(self.emit_range(low, high))),
                (value, None) => Ok(Item::once((value - self.shift()).to_string())),
            },
        }
    }

    /// `L`, `LW`, `15W`, `5L`, `MON#2`, `MON-FRI#1`: items whose day depends on the month.
    fn special(self, item: &str) -> Result<Option<Item>, String> {
        match self.part {
            Part::Day => self.special_day(item),
            Part::Weekday => self.special_weekday(item),
            _ => Ok(None),
        }
    }

    fn special_day(self, item: &str) -> Result<Option<Item>, String> {
        if item == "L" || item == "LW" {
            return Ok(Some(Item::once(item.to_owned())));
        }
        if item.starts_with("L-") {
            return Err("is not supported: only L and LW count from the month's end".to_owned());
        }
        let Some(day) = item.strip_suffix('W') else {
            return Ok(None);
        };
        if !is_number(day) {
            return Err("needs one day before the W, as in 15W or LW".to_owned());
        }
        let day = self.value(day)?;
        Ok(Some(Item::once(format!("{day}W"))))
    }

    fn special_weekday(self, item: &str) -> Result<Option<Item>, String> {
        if item == "L" {
            return match self.dialect {
                // Quartz reads a bare L as the week's last day, Saturday.
                Dialect::Quartz => Ok(Some(Item::once("6".to_owned()))),
                Dialect::Posix => Err("needs a weekday before it, as in 5L or FRIL".to_owned()),
            };
        }
        if let Some((days, nth)) = item.split_once('#') {
            if !matches!(nth, "1" | "2" | "3" | "4" | "5") {
                return Err("needs 1 to 5 after the #".to_owned());
            }
            let days = match self.range(days)? {
                (low, Some(high)) => self.emit_range(low, high),
                (day, None) => (day - self.shift()).to_string(),
            };
            return Ok(Some(Item::once(format!("{days}#{nth}"))));
        }
        let Some(day) = item.strip_suffix('L') else {
            return Ok(None);
        };
        let day = self.value(day)?;
        Ok(Some(Item::once(format!("{}L", day - self.shift()))))
    }

    fn stepped(self, item: &str, base: &str, step: &str) -> Result<Item, String> {
        if !is_number(step) {
            return Err("needs a whole number after the /".to_owned());
        }
        let step: u16 = step
            .parse()
            .map_err(|_| format!("has a step of {step}, too large"))?;
        if step == 0 {
            return Err("has a step of 0".to_owned());
        }
        let hashed = is_hash(base);
        let (low, high) = self.step_range(item, base, step)?;
        let count = high - low + 1;
        if step > count {
            return Err(format!(
                "has a step of {step}, larger than the {count} values it covers"
            ));
        }
        let low = if hashed { low + self.hash(step) } else { low };
        Ok(Item::repeating(format!(
            "{}/{step}",
            self.emit_range(low, high)
        )))
    }

    fn step_range(self, item: &str, base: &str, step: u16) -> Result<(u16, u16), String> {
        let sloppy = self.dialect == Dialect::Quartz;
        match base {
            "*" => Ok(self.span()),
            "" if sloppy => Ok(self.span()),
            "" => Err(format!("needs a range before the step, as in *{item}")),
            // A stepped hash starts anywhere in its first step, so the whole span may be used.
            "H" => Ok(self.span()),
            _ if is_hash(base) => self.hash_range(base),
            _ => match self.range(base)? {
                (low, Some(high)) => Ok((low, high)),
                (low, None) if sloppy => Ok((low, self.span().1)),
                (low, None) => Err(format!(
                    "needs a range before the step, as in {low}-{}/{step}",
                    self.span().1
                )),
            },
        }
    }

    /// A single value, or a range that does not run backwards.
    fn range(self, text: &str) -> Result<(u16, Option<u16>), String> {
        let Some((first, last)) = text.split_once('-') else {
            return Ok((self.value(text)?, None));
        };
        let low = self.value(first)?;
        let mut high = self.value(last)?;
        // POSIX writes Sunday as 0 and as 7; a range that ends on a named Sunday means 7.
        let named_sunday = self.part == Part::Weekday && !is_number(last) && high == 0;
        if named_sunday && low > 0 {
            high = 7;
        }
        if low > high {
            let (min, max) = self.span();
            return Err(format!(
                "runs backwards; write {low}-{max},{min}-{high} to wrap around"
            ));
        }
        Ok((low, Some(high)))
    }

    /// A number within bounds, or a name, in the dialect's numbering.
    fn value(self, text: &str) -> Result<u16, String> {
        if !is_number(text) {
            return self.named(text);
        }
        let (min, max) = self.bounds();
        let out_of_range = || match (text, self.part, self.dialect) {
            ("0", Part::Weekday, Dialect::Quartz) => {
                "is out of range 1-7 (this dialect counts from 1 = Sunday)".to_owned()
            }
            _ => format!("is out of range {min}-{max}"),
        };
        let value: u16 = text.parse().map_err(|_| out_of_range())?;
        if value < min || value > max {
            return Err(out_of_range());
        }
        Ok(value)
    }

    fn named(self, text: &str) -> Result<u16, String> {
        let names = self.part.names();
        let found = names
            .iter()
            .position(|name| text.len() >= 3 && name.starts_with(text));
        let Some(index) = found else {
            return Err(match names {
                [] if text.is_empty() => "is missing a number".to_owned(),
                [] => "is not a number".to_owned(),
                [first, .., last] => format!(
                    "is neither a number nor a name from {} to {}",
                    &first[..3],
                    &last[..3]
                ),
                [_] => "is not a name".to_owned(),
            });
        };
        let first = match self.part {
            Part::Month => 1,
            _ => self.shift(),
        };
        Ok(first + u16::try_from(index).unwrap_or(0))
    }

    fn emit_range(self, low: u16, high: u16) -> String {
        format!("{}-{}", low - self.shift(), high - self.shift())
    }

    /// The values `H` or `H(a-b)` chooses from.
    fn hash_range(self, text: &str) -> Result<(u16, u16), String> {
        if self.part == Part::Year {
            return Err("cannot choose a year".to_owned());
        }
        if text == "H" {
            let (min, max) = self.span();
            // Days past the 28th do not come every month.
            return Ok(if self.part == Part::Day {
                (1, 28)
            } else {
                (min, max)
            });
        }
        let inner = text
            .strip_prefix("H(")
            .and_then(|rest| rest.strip_suffix(')'));
        match inner.map(|inner| self.range(inner)).transpose()? {
            Some((low, Some(high))) => Ok((low, high)),
            _ => Err("needs a range in the parentheses, as in H(0-29)".to_owned()),
        }
    }

    /// A number below `count` that the schedule's name decides, the same on every node for ever.
    ///
    /// FNV-1a over name and field, then a finalizer: FNV's low bits alone are too regular for
    /// names that differ in one digit. Changing this moves every `H` schedule in the field.
    fn hash(self, count: u16) -> u16 {
        let seed = self.name.bytes().chain([0]).chain(self.part.name().bytes());
        let mut hash = seed.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        u16::try_from(hash % u64::from(count)).unwrap_or(0)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_hash(text: &str) -> bool {
    text == "H" || text.starts_with("H(")
}

const MONTHS: [&str; 12] = [
    "JANUARY",
    "FEBRUARY",
    "MARCH",
    "APRIL",
    "MAY",
    "JUNE",
    "JULY",
    "AUGUST",
    "SEPTEMBER",
    "OCTOBER",
    "NOVEMBER",
    "DECEMBER",
];

const WEEKDAYS: [&str; 7] = [
    "SUNDAY",
    "MONDAY",
    "TUESDAY",
    "WEDNESDAY",
    "THURSDAY",
    "FRIDAY",
    "SATURDAY",
];

/// Schedules start with the epoch; a step over years counts from here, as `cron` does.
const YEAR_MIN: u16 = 1970;
/// The matcher searches no further.
const YEAR_MAX: u16 = 4999;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(part: Part, dialect: Dialect, text: &str) -> Result<Parsed, String> {
        parse(
            Context {
                part,
                dialect,
                name: "report",
            },
            text,
        )
        .map_err(|error| error.to_string())
    }

    fn canonical(part: Part, text: &str) -> String {
        read(part, Dialect::Posix, text).unwrap().canonical
    }

    fn error(part: Part, text: &str) -> String {
        read(part, Dialect::Posix, text).unwrap_err()
    }

    #[test]
    fn fields_are_rewritten_to_numbers() {
        for (part, text, expected) in [
            (Part::Minute, "*", "*"),
            (Part::Minute, "*,5", "*"),
            (Part::Minute, "05,7", "5,7"),
            (Part::Minute, "*/15", "0-59/15"),
            (Part::Minute, "*/60", "0-59/60"),
            (Part::Month, "jan,Feb-apr,DECEMBER", "1,2-4,12"),
            (Part::Month, "*/3", "1-12/3"),
            (Part::Weekday, "sun", "0"),
            (Part::Weekday, "FRI-SUN", "5-7"),
            (Part::Weekday, "SUN-TUE", "0-2"),
            (Part::Weekday, "Thurs", "4"),
            (Part::Weekday, "*/2", "0-6/2"),
            (Part::Weekday, "MON-FRI#1", "1-5#1"),
            (Part::Weekday, "fril,7L", "5L,7L"),
            (Part::Day, "?", "*"),
            (Part::Day, "15w,LW", "15W,LW"),
            (Part::Year, "*/2", "1970-4999/2"),
        ] {
            assert_eq!(canonical(part, text), expected, "{part:?} {text}");
        }
    }

    #[test]
    fn quartz_weekdays_count_from_sunday_as_one() {
        for (text, expected) in [
            ("1", "0"),
            ("7", "6"),
            ("MON", "1"),
            ("2-6", "1-5"),
            ("MON-FRI", "1-5"),
            ("6#3", "5#3"),
            ("6L", "5L"),
            ("L", "6"),
            ("2/2", "1-6/2"),
            ("*/3", "0-6/3"),
            ("/3", "0-6/3"),
        ] {
            let parsed = read(Part::Weekday, Dialect::Quartz, text).unwrap();
            assert_eq!(parsed.canonical, expected, "{text}");
        }
        assert_eq!(
            read(Part::Minute, Dialect::Quartz, "5/15")
                .unwrap()
                .canonical,
            "5-59/15"
        );
        assert_eq!(
            read(Part::Weekday, Dialect::Quartz, "0").unwrap_err(),
            "day of week: 0 is out of range 1-7 (this dialect counts from 1 = Sunday)"
        );
    }

    #[test]
    fn only_stars_ranges_and_steps_repeat() {
        for (text, interval) in [
            ("5", false),
            ("5,35", false),
            ("H", false),
            ("H(0-29)", false),
            ("*", true),
            ("5-9", true),
            ("5,10-12", true),
            ("*/5", true),
            ("H/15", true),
        ] {
            let parsed = read(Part::Minute, Dialect::Posix, text).unwrap();
            assert_eq!(parsed.interval, interval, "{text}");
        }
    }

    #[test]
    fn errors_name_field_text_and_reason() {
        for (part, text, expected) in [
            (Part::Minute, "61", "minute: 61 is out of range 0-59"),
            (Part::Minute, "70000", "minute: 70000 is out of range 0-59"),
            (Part::Minute, "5,61", "minute: 61 is out of range 0-59"),
            (
                Part::Minute,
                "*/61",
                "minute: */61 has a step of 61, larger than the 60 values it covers",
            ),
            (
                Part::Minute,
                "10-20/12",
                "minute: 10-20/12 has a step of 12, larger than the 11 values it covers",
            ),
            (Part::Minute, "*/0", "minute: */0 has a step of 0"),
            (
                Part::Minute,
                "5/15",
                "minute: 5/15 needs a range before the step, as in 5-59/15",
            ),
            (
                Part::Minute,
                "/15",
                "minute: /15 needs a range before the step, as in */15",
            ),
            (
                Part::Minute,
                "*/x",
                "minute: */X needs a whole number after the /",
            ),
            (
                Part::Minute,
                "1,,2",
                "minute: 1,,2 has an empty item in its list",
            ),
            (Part::Minute, "five", "minute: FIVE is not a number"),
            (Part::Minute, "-5", "minute: -5 is missing a number"),
            (Part::Minute, "1-2-3", "minute: 1-2-3 is not a number"),
            (
                Part::Minute,
                "?",
                "minute: ? is allowed only in day of month and day of week",
            ),
            (
                Part::Minute,
                "H(5)",
                "minute: H(5) needs a range in the parentheses, as in H(0-29)",
            ),
            (Part::Hour, "24", "hour: 24 is out of range 0-23"),
            (
                Part::Hour,
                "22-2",
                "hour: 22-2 runs backwards; write 22-23,0-2 to wrap around",
            ),
            (Part::Day, "0", "day of month: 0 is out of range 1-31"),
            (
                Part::Day,
                "L-3",
                "day of month: L-3 is not supported: only L and LW count from the month's end",
            ),
            (
                Part::Day,
                "W",
                "day of month: W needs one day before the W, as in 15W or LW",
            ),
            (
                Part::Day,
                "L,LW",
                "day of month: L,LW holds both L and LW, which exclude each other",
            ),
            (Part::Month, "13", "month: 13 is out of range 1-12"),
            (
                Part::Month,
                "foo",
                "month: FOO is neither a number nor a name from JAN to DEC",
            ),
            (
                Part::Month,
                "NOV-FEB",
                "month: NOV-FEB runs backwards; write 11-12,1-2 to wrap around",
            ),
            (Part::Weekday, "8", "day of week: 8 is out of range 0-7"),
            (
                Part::Weekday,
                "FRI-MON",
                "day of week: FRI-MON runs backwards; write 5-6,0-1 to wrap around",
            ),
            (
                Part::Weekday,
                "L",
                "day of week: L needs a weekday before it, as in 5L or FRIL",
            ),
            (
                Part::Weekday,
                "5#6",
                "day of week: 5#6 needs 1 to 5 after the #",
            ),
            (Part::Year, "1969", "year: 1969 is out of range 1970-4999"),
            (Part::Year, "H", "year: H cannot choose a year"),
        ] {
            assert_eq!(error(part, text), expected);
        }
    }

    #[test]
    fn hash_spreads_over_the_field() {
        let mut seen = [0_u32; 60];
        for index in 0..6_000 {
            let name = format!("schedule-{index}");
            let context = Context {
                part: Part::Minute,
                dialect: Dialect::Posix,
                name: &name,
            };
            let minute: usize = parse(context, "H").unwrap().canonical.parse().unwrap();
            seen[minute] += 1;
        }
        assert!(
            seen.iter().all(|&count| (50..=160).contains(&count)),
            "{seen:?}"
        );
    }
}
