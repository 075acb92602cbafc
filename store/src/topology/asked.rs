//! Arguments asked for by type. Pure.
//!
//! Keeps: an argument of RabbitMQ's is refused in RabbitMQ's words; one of ours in words that name
//! the value and what is allowed.
//! In: `arguments`.

use amqp::field::{Table, Value};

use super::arguments::{EXPIRY_MAX_MS, RATE_MAX, RATE_MIN};
use crate::definitions::{kind_of, plain};

/// An argument and what is wrong with it.
pub(super) type Invalid = (String, String);

/// A table whose values are asked for by type.
pub(super) struct Asked<'a>(pub(super) &'a Table);

/// Bytes of a name that a client chooses.
const NAME_MAX: usize = 128;
/// Of a text that was refused, as much as a refusal repeats: it is a short string itself.
const SHOWN_MAX: usize = 32;

/// A value that was refused, with its type where it is no number.
pub(crate) fn shown(value: &Value) -> String {
    let kind = kind_of(value);
    match value {
        Value::F64(bits) => f64::from_bits(*bits).to_string(),
        Value::F32(bits) => f32::from_bits(*bits).to_string(),
        _ if value.as_i64().is_some() => plain(value),
        _ => match value.as_text() {
            Some(text) => {
                let start: String = text.chars().take(SHOWN_MAX).collect();
                let more = if start.len() < text.len() { "…" } else { "" };
                format!("'{start}{more}' ({kind})")
            }
            None => match plain(value).as_str() {
                "" => format!("a value of type {kind}"),
                known => format!("{known} ({kind})"),
            },
        },
    }
}

/// RabbitMQ's arguments.
impl Asked<'_> {
    pub(super) fn number(&self, name: &str, low: i64) -> Result<Option<u64>, Invalid> {
        match self.signed(name)? {
            None => Ok(None),
            Some(n) if n >= low => Ok(u64::try_from(n).ok()),
            Some(n) if n < 0 => Err((name.to_owned(), format!("{{value_negative,{n}}}"))),
            Some(n) => Err((name.to_owned(), format!("{{value_zero,{n}}}"))),
        }
    }

    pub(super) fn signed(&self, name: &str) -> Result<Option<i64>, Invalid> {
        match self.0.find(name) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| {
                let kind = kind_of(value);
                (name.to_owned(), format!("\"expected integer, got {kind}\""))
            }),
        }
    }

    /// A span in ms.
    pub(super) fn span(&self, name: &str, low: i64) -> Result<Option<u64>, Invalid> {
        match self.number(name, low)? {
            Some(ms) if ms > EXPIRY_MAX_MS => {
                Err((name.to_owned(), format!("{{value_too_large,{ms}}}")))
            }
            span => Ok(span),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Invalid> {
        match self.0.find(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(unacceptable(name, value)),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Invalid> {
        match self.0.find(name) {
            None => Ok(None),
            Some(value) => match value.as_text() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(unacceptable(name, value)),
            },
        }
    }

    /// The name of an exchange, whose type RabbitMQ checks in other words.
    pub(super) fn exchange(&self, name: &str) -> Result<Option<String>, Invalid> {
        self.text(name).map_err(|(name, _)| {
            let kind = self.0.find(&name).map_or("void", kind_of);
            (name, format!("type {kind}"))
        })
    }

    /// A text that is one of these words; `what` names another.
    pub(super) fn word(
        &self,
        name: &str,
        words: &[&str],
        what: &str,
    ) -> Result<Option<&str>, Invalid> {
        match self.0.find(name) {
            None => Ok(None),
            Some(value) => match value.as_text() {
                Some(text) if words.contains(&text) => Ok(Some(text)),
                Some(_) => Err((name.to_owned(), what.to_owned())),
                None => Err(unacceptable(name, value)),
            },
        }
    }
}

/// Our own.
impl Asked<'_> {
    pub(super) fn within(&self, name: &str, low: i64, high: i64) -> Result<Option<i64>, Invalid> {
        let number = |value: &Value| value.as_i64().filter(|n| (low..=high).contains(n));
        self.read(name, number, || format!("is not within {low} to {high}"))
    }

    /// So many a second.
    pub(super) fn rate(&self, name: &str) -> Result<Option<f64>, Invalid> {
        let number = |value: &Value| {
            let number = match value {
                Value::F64(bits) => f64::from_bits(*bits),
                Value::F32(bits) => f64::from(f32::from_bits(*bits)),
                value => value.as_i64()? as f64,
            };
            (RATE_MIN..=RATE_MAX).contains(&number).then_some(number)
        };
        self.read(name, number, || {
            format!("is not within one a day to {RATE_MAX} a second")
        })
    }

    /// A header's name.
    pub(super) fn name(&self, name: &str) -> Result<Option<String>, Invalid> {
        let fits = |text: &&str| (1..=NAME_MAX).contains(&text.len());
        let read = |value: &Value| value.as_text().filter(fits).map(str::to_owned);
        self.read(name, read, || {
            format!("is no name of 1 to {NAME_MAX} bytes")
        })
    }

    /// One of two words: is it the second?
    pub(super) fn choice(&self, name: &str, words: [&str; 2]) -> Result<Option<bool>, Invalid> {
        let read = |value: &Value| {
            let at = words
                .iter()
                .position(|word| value.as_text() == Some(word))?;
            Some(at == 1)
        };
        self.read(name, read, || {
            format!("is not one of '{}', '{}'", words[0], words[1])
        })
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Value) -> Option<T>,
        allowed: impl FnOnce() -> String,
    ) -> Result<Option<T>, Invalid> {
        let Some(value) = self.0.find(name) else {
            return Ok(None);
        };
        let refused = || (name.to_owned(), format!("{} {}", shown(value), allowed()));
        read(value).map(Some).ok_or_else(refused)
    }
}

fn unacceptable(name: &str, value: &Value) -> Invalid {
    let kind = kind_of(value);
    (name.to_owned(), format!("{{unacceptable_type,{kind}}}"))
}
