//! Control methods: known or not, their tables guarded, tables to and from `amq-protocol`. Pure.

use amq_protocol::types::{AMQPValue, DecimalValue, FieldTable};

use crate::connection::guarded;
use crate::field::{Table, Value};
use crate::reply::Close;

/// Class and method at the front of a payload.
///
/// # Errors
/// 502 when cut short, 540 for a class or method that does not exist.
pub fn ids(payload: &[u8]) -> Result<(u16, u16), Close> {
    let Some(head) = payload.first_chunk::<4>() else {
        let text = "a method frame that is too short for a method";
        return Err(Close::connection(501, text, (0, 0)));
    };
    let (class, method) = (
        u16::from_be_bytes([head[0], head[1]]),
        u16::from_be_bytes([head[2], head[3]]),
    );
    let known = match class {
        10 => matches!(
            method,
            10 | 11 | 20 | 21 | 30 | 31 | 40 | 41 | 50 | 51 | 60 | 61 | 70 | 71
        ),
        20 => matches!(method, 10 | 11 | 20 | 21 | 40 | 41),
        30 => matches!(method, 10 | 11),
        40 => matches!(method, 10 | 11 | 20 | 21 | 30 | 31 | 40 | 51),
        50 => matches!(method, 10 | 11 | 20 | 21 | 30 | 31 | 40 | 41 | 50 | 51),
        60 => matches!(
            method,
            10 | 11
                | 20
                | 21
                | 30
                | 31
                | 40
                | 50
                | 60
                | 70
                | 71
                | 72
                | 80
                | 90
                | 100
                | 110
                | 111
                | 120
        ),
        85 => matches!(method, 10 | 11),
        90 => matches!(method, 10 | 11 | 20 | 21 | 30 | 31),
        _ => false,
    };
    if known {
        Ok((class, method))
    } else {
        let text = format!("unknown method {class}.{method}");
        Err(Close::connection(540, text, (class, method)))
    }
}

/// Refuses on an open channel what no client may send or no server of ours does; texts as
/// RabbitMQ's.
///
/// # Errors
/// 503 for a connection's or a server's method, 540 for arguments that are not supported.
pub fn refuse(payload: &[u8], cause: (u16, u16)) -> Result<(), Close> {
    let arguments = payload.get(4..).unwrap_or_default();
    let (code, text) = match (cause, arguments) {
        ((10, _), _) => (503, "connection method on a channel".to_owned()),
        (
            (20 | 30, 11)
            | (40, 11 | 21 | 31 | 51)
            | (50, 11 | 21 | 31 | 41 | 51)
            | (60, 11 | 21 | 50 | 60 | 71 | 72 | 111)
            | (85, 11)
            | (90, 11 | 21 | 31),
            _,
        ) => (503, "unimplemented method".to_owned()),
        ((20, 20), [bits, ..]) if bits & 1 == 0 => (540, "active=false".to_owned()),
        ((60, 10), [a, b, c, d, ..]) if [*a, *b, *c, *d] != [0; 4] => {
            let size = u32::from_be_bytes([*a, *b, *c, *d]);
            (540, format!("prefetch_size!=0 ({size})"))
        }
        _ => return Ok(()),
    };
    Err(Close::connection(code, text, cause))
}

/// Checks the table inside a method's arguments, where it has one.
///
/// # Errors
/// 502 when the table is malformed or nested too deep.
pub fn guard(payload: &[u8], cause: (u16, u16)) -> Result<(), Close> {
    // Fields before the table: fixed bytes, then short strings, then fixed bytes.
    let (before, strings, after) = match cause {
        (10, 10) => (2, 0, 0),
        (10, 11) => (0, 0, 0),
        (40, 10) => (2, 2, 1),
        (40, 30 | 40) => (2, 3, 1),
        (50, 10) => (2, 1, 1),
        (50, 20) => (2, 3, 1),
        (50, 50) => (2, 3, 0),
        (60, 20) => (2, 2, 1),
        _ => return Ok(()),
    };
    let cut = || Close::connection(502, "cannot decode method", cause);
    let mut at = 4 + before;
    for _ in 0..strings {
        at += 1 + usize::from(*payload.get(at).ok_or_else(cut)?);
    }
    at += after;
    let length = payload
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(cut)?;
    let start = at + 4;
    let end = start
        .checked_add(u32::from_be_bytes(length) as usize)
        .ok_or_else(cut)?;
    guarded(payload.get(start..end).ok_or_else(cut)?, cause)
}

/// For methods that the crate encodes: keys sorted, `L` and `U` as `l` and `s`, else the same.
pub fn to_field_table(table: &Table) -> FieldTable {
    let mut out = FieldTable::default();
    for (key, value) in &table.0 {
        out.insert(
            String::from_utf8_lossy(key).as_ref().into(),
            to_value(value),
        );
    }
    out
}

fn to_value(value: &Value) -> AMQPValue {
    match value {
        Value::Bool(v) => AMQPValue::Boolean(*v),
        Value::I8(v) => AMQPValue::ShortShortInt(*v),
        Value::U8(v) => AMQPValue::ShortShortUInt(*v),
        Value::I16(v) | Value::I16Upper(v) => AMQPValue::ShortInt(*v),
        Value::U16(v) => AMQPValue::ShortUInt(*v),
        Value::I32(v) => AMQPValue::LongInt(*v),
        Value::U32(v) => AMQPValue::LongUInt(*v),
        Value::I64(v) | Value::I64Upper(v) => AMQPValue::LongLongInt(*v),
        Value::F32(v) => AMQPValue::Float(f32::from_bits(*v)),
        Value::F64(v) => AMQPValue::Double(f64::from_bits(*v)),
        Value::Decimal(scale, value) => AMQPValue::DecimalValue(DecimalValue {
            scale: *scale,
            value: *value,
        }),
        Value::LongStr(v) => AMQPValue::LongString(v.clone().into()),
        Value::Bytes(v) => AMQPValue::ByteArray(v.clone().into()),
        Value::Array(v) => AMQPValue::FieldArray(v.iter().map(to_value).collect::<Vec<_>>().into()),
        Value::Timestamp(v) => AMQPValue::Timestamp(*v),
        Value::Table(v) => AMQPValue::FieldTable(to_field_table(v)),
        Value::Void => AMQPValue::Void,
    }
}

/// From methods that the crate decoded, with the letters it kept.
pub fn from_field_table(table: &FieldTable) -> Table {
    let entries = table.inner().iter();
    Table(
        entries
            .map(|(k, v)| (k.as_str().as_bytes().to_vec(), from_value(v)))
            .collect(),
    )
}

fn from_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(v) => Value::Bool(*v),
        AMQPValue::ShortShortInt(v) => Value::I8(*v),
        AMQPValue::ShortShortUInt(v) => Value::U8(*v),
        AMQPValue::ShortInt(v) => Value::I16(*v),
        AMQPValue::ShortUInt(v) => Value::U16(*v),
        AMQPValue::LongInt(v) => Value::I32(*v),
        AMQPValue::LongUInt(v) => Value::U32(*v),
        AMQPValue::LongLongInt(v) => Value::I64(*v),
        AMQPValue::Float(v) => Value::F32(v.to_bits()),
        AMQPValue::Double(v) => Value::F64(v.to_bits()),
        AMQPValue::DecimalValue(v) => Value::Decimal(v.scale, v.value),
        AMQPValue::ShortString(v) => Value::text(v.as_str()),
        AMQPValue::LongString(v) => Value::LongStr(v.as_bytes().to_vec()),
        AMQPValue::FieldArray(v) => Value::Array(v.as_slice().iter().map(from_value).collect()),
        AMQPValue::Timestamp(v) => Value::Timestamp(*v),
        AMQPValue::FieldTable(v) => Value::Table(from_field_table(v)),
        AMQPValue::ByteArray(v) => Value::Bytes(v.as_slice().to_vec()),
        AMQPValue::Void => Value::Void,
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed test; any instant"
)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::{AMQPClass, basic, exchange, gen_class, queue};
    use amq_protocol::types::generation::gen_field_table;
    use proptest::prelude::*;

    use super::*;
    use crate::connection::testing::{codes, frame, new, run, start_ok};
    use crate::field::tests::tables;

    #[test]
    fn deep_tables_never_reach_the_decoder() {
        let mut table = vec![1, b'k'];
        for level in (0..1_500u32).rev() {
            table.push(b'A');
            table.extend_from_slice(&(level * 5).to_be_bytes());
        }
        let mut start = vec![0, 10, 0, 10, 0, 9];
        start.extend_from_slice(&(table.len() as u32).to_be_bytes());
        start.extend_from_slice(&table);
        for wire in [start_ok(&table), frame(1, 0, &start)] {
            let mut machine = new(Instant::now());
            run(&mut machine, b"AMQP\0\0\x09\x01");
            let (events, _) = run(&mut machine, &wire);
            assert_eq!(codes(&events), [502]);
        }
    }

    /// As the decoder's own types keep it: keys once and sorted, `L` and `U` as `l` and `s`.
    fn plain(value: Value) -> Value {
        match value {
            Value::I16Upper(v) => Value::I16(v),
            Value::I64Upper(v) => Value::I64(v),
            Value::Array(values) => Value::Array(values.into_iter().map(plain).collect()),
            Value::Table(Table(entries)) => {
                let sorted: BTreeMap<_, _> =
                    entries.into_iter().map(|(k, v)| (k, plain(v))).collect();
                Value::Table(Table(sorted.into_iter().collect()))
            }
            other => other,
        }
    }

    proptest! {
        #[test]
        fn tables_of_both_kinds_say_the_same(table in tables()) {
            let theirs = to_field_table(&table);
            let Value::Table(table) = plain(Value::Table(table)) else { unreachable!() };
            prop_assert_eq!(&from_field_table(&theirs), &table);
            let wire = gen_field_table(&theirs)(WriteContext::from(Vec::new()));
            prop_assert_eq!(&wire.unwrap().into_inner().0[4..], table.encode());
        }
    }

    /// The guard looks where the encoder puts the table: a value letter spoilt there is refused.
    #[test]
    fn the_guard_finds_every_table() {
        let mut table = Table::default();
        table.insert("spoil", Value::Bool(true));
        let arguments = to_field_table(&table);
        let name = || "some-name".into();
        let methods = [
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: name(),
                kind: name(),
                arguments: arguments.clone(),
                ..Default::default()
            })),
            AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                source: name(),
                routing_key: name(),
                arguments: arguments.clone(),
                ..Default::default()
            })),
            AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
                source: name(),
                routing_key: name(),
                arguments: arguments.clone(),
                ..Default::default()
            })),
            AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: name(),
                arguments: arguments.clone(),
                ..Default::default()
            })),
            AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
                queue: name(),
                exchange: name(),
                arguments: arguments.clone(),
                ..Default::default()
            })),
            AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
                queue: name(),
                routing_key: name(),
                arguments: arguments.clone(),
                ..Default::default()
            })),
            AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: name(),
                consumer_tag: name(),
                arguments,
                ..Default::default()
            })),
        ];
        for method in methods {
            let encoded = gen_class(&method)(WriteContext::from(Vec::new())).unwrap();
            let (mut payload, _) = encoded.into_inner();
            let cause = ids(&payload).unwrap();
            assert_eq!(guard(&payload, cause), Ok(()));
            let letter = payload.windows(6).position(|w| w == b"spoilt").unwrap() + 5;
            payload[letter] = b'?';
            assert_eq!(guard(&payload, cause).unwrap_err().code, 502, "{cause:?}");
            payload.truncate(letter);
            assert_eq!(guard(&payload, cause).unwrap_err().code, 502, "{cause:?}");
        }
    }
}
