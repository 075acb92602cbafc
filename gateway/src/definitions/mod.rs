//! RabbitMQ's definitions.json: read whole, written so that RabbitMQ takes it back.
//!
//! Keeps: the file's form stays here; the store judges what it means and takes all of it or none.
//! Never: applies anything.
//! In: `node` at the start (`load_definitions`), `admin` on command.
//! RabbitMQ: the form of 3.10, with what later releases added.

use amqp::field::{Table, Value};
use serde_json::{Map, Number, Value as Json};

mod read;
mod write;

pub use read::read;
pub use write::write;

/// Why a file cannot be taken; names the object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// Longest name of AMQP, bytes (a short string).
const NAME_MAX: usize = 255;

/// Arguments from JSON, checked to survive the store.
pub(crate) fn to_table(json: &Map<String, Json>) -> Result<Table, String> {
    let mut table = Table::default();
    for (key, value) in json {
        if key.len() > NAME_MAX {
            return Err(format!("a key is longer than {NAME_MAX} bytes"));
        }
        table.insert(key, to_value(value)?);
    }
    Ok(table)
}

/// As `to_table`, and no deeper or larger than the store reads back.
pub(crate) fn to_sound_table(json: &Map<String, Json>) -> Result<Table, String> {
    let table = to_table(json)?;
    Table::parse(&table.encode()).map_err(|error| error.to_string())
}

fn to_value(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Void,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::I64(number),
            None => Value::F64(number.as_f64().unwrap_or_default().to_bits()),
        },
        Json::String(text) => Value::text(text),
        Json::Array(values) => Value::Array(values.iter().map(to_value).collect::<Result<_, _>>()?),
        Json::Object(map) => Value::Table(to_table(map)?),
    })
}

/// Arguments as JSON. Bytes that are no text are replaced, as nothing in JSON can hold them.
pub(crate) fn from_table(table: &Table) -> Map<String, Json> {
    let pairs = table.0.iter();
    pairs
        .map(|(key, value)| {
            let key = String::from_utf8_lossy(key).into_owned();
            (key, from_value(value))
        })
        .collect()
}

fn from_value(value: &Value) -> Json {
    let float = |value: f64| Number::from_f64(value).map_or(Json::Null, Json::Number);
    match value {
        Value::Void => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::F32(bits) => float(f64::from(f32::from_bits(*bits))),
        Value::F64(bits) => float(f64::from_bits(*bits)),
        Value::Decimal(scale, value) => float(f64::from(*value) / 10_f64.powi(i32::from(*scale))),
        Value::Timestamp(seconds) => (*seconds).into(),
        Value::LongStr(bytes) | Value::Bytes(bytes) => {
            String::from_utf8_lossy(bytes).into_owned().into()
        }
        Value::Array(values) => values.iter().map(from_value).collect(),
        Value::Table(table) => Json::Object(from_table(table)),
        number => number.as_i64().map_or(Json::Null, Json::from),
    }
}

#[cfg(test)]
mod tests;
