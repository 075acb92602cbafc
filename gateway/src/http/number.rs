//! Numbers in requests: what is none within its range is refused with its name, value and range.
//! Pure.
//!
//! Keeps: one form of refusal for bodies and queries, and the request's own spelling in it.
//! In: the fields of what handlers read, as `deserialize_with`; `refused` names the field.

use std::fmt::Display;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use store::operator::{RATE_MAX, RATE_MIN};

use super::problem::{Kind, Problem};

/// A whole number of a body.
pub(super) fn whole<'de, D, T, const LOW: u64, const HIGH: u64>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = Value::deserialize(from)?;
    let number = value.as_u64().and_then(fitting::<T, LOW, HIGH>);
    number.ok_or_else(|| D::Error::custom(outside::<LOW, HIGH>(&value)))
}

/// One that may be left out.
pub(super) fn maybe<'de, D, T, const LOW: u64, const HIGH: u64>(
    from: D,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    match Option::<Value>::deserialize(from)? {
        None => Ok(None),
        Some(value) => whole::<_, T, LOW, HIGH>(value)
            .map(Some)
            .map_err(D::Error::custom),
    }
}

/// One of a query, where every value is a text.
pub(super) fn asked<'de, D, T, const LOW: u64, const HIGH: u64>(
    from: D,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let text = String::deserialize(from)?;
    let number = text.parse().ok().and_then(fitting::<T, LOW, HIGH>);
    let refused = || D::Error::custom(outside::<LOW, HIGH>(format!("'{text}'")));
    number.map(Some).ok_or_else(refused)
}

/// Messages a second.
pub(super) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let Some(value) = Option::<Value>::deserialize(from)? else {
        return Ok(None);
    };
    let number = value.as_f64();
    let number = number.filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    number.map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "{value} is not within {RATE_MIN} to {RATE_MAX} a second"
        ))
    })
}

fn fitting<T: TryFrom<u64>, const LOW: u64, const HIGH: u64>(number: u64) -> Option<T> {
    let number = Some(number).filter(|number| (LOW..=HIGH).contains(number))?;
    T::try_from(number).ok()
}

fn outside<const LOW: u64, const HIGH: u64>(value: impl Display) -> String {
    match HIGH {
        u64::MAX => format!("{value} is no whole number from {LOW} on"),
        _ => format!("{value} is not within {LOW} to {HIGH}"),
    }
}

/// A body that could not be read: the field, and what is wrong with it.
pub(super) fn refused(error: &JsonRejection) -> Problem {
    let text = error.body_text();
    let text = text.strip_prefix(BODY).unwrap_or(&text);
    Problem::new(Kind::Validation, said(text))
}

/// The same of a query.
pub(super) fn refused_query(error: &QueryRejection) -> Problem {
    let text = error.body_text();
    Problem::new(Kind::Validation, text.strip_prefix(QUERY).unwrap_or(&text))
}

/// Where a number stands says nothing that its name does not say.
fn said(text: &str) -> &str {
    let ours = text.contains(" is not within ") || text.contains(" is no whole number ");
    match text.rsplit_once(" at line ") {
        Some((before, _)) if ours => before,
        _ => text,
    }
}

/// What axum says before the field.
const BODY: &str = "Failed to deserialize the JSON body into the target type: ";
const QUERY: &str = "Failed to deserialize query string: ";
