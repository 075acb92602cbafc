//! Every method of AMQP 0-9-1 with RabbitMQ's extensions, by one table of their arguments.
//!
//! Keeps: argument order and kinds in `methods.txt`; one generic encoder and decoder for all.
//! Never: knows what a method means.
//! In: `conversation` by name and argument name; `crash` for its few control methods.

use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, bail};

use super::value::{Reader, Value, put_long_str, put_short_str, put_table};

/// How an argument is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bit,
    Octet,
    Short,
    Long,
    LongLong,
    ShortStr,
    LongStr,
    Table,
    Timestamp,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "bit" => Self::Bit,
            "octet" => Self::Octet,
            "short" => Self::Short,
            "long" => Self::Long,
            "longlong" => Self::LongLong,
            "shortstr" => Self::ShortStr,
            "longstr" => Self::LongStr,
            "table" => Self::Table,
            "timestamp" => Self::Timestamp,
            _ => return None,
        })
    }

    /// What stands for an argument that was not given.
    pub fn zero(self) -> Value {
        match self {
            Self::Bit => Value::Bool(false),
            Self::Octet | Self::Short | Self::Long | Self::LongLong => Value::Int(b'l', 0),
            Self::ShortStr | Self::LongStr => Value::Str(Vec::new()),
            Self::Table => Value::Table(Vec::new()),
            Self::Timestamp => Value::Time(0),
        }
    }

    /// Writes a value that is not a bit.
    pub fn put(self, out: &mut Vec<u8>, value: &Value) -> Result<()> {
        match (self, value) {
            (Self::ShortStr, Value::Str(text) | Value::Bytes(text)) => put_short_str(out, text),
            (Self::LongStr, Value::Str(text) | Value::Bytes(text)) => put_long_str(out, text),
            (Self::Table, Value::Table(table)) => put_table(out, table),
            (Self::Table, Value::Encoded(_, bytes)) => out.extend_from_slice(bytes),
            (kind, value) => {
                let number = value
                    .as_int()
                    .ok_or_else(|| anyhow!("{value:?} is no {kind:?}"))?;
                let width = kind
                    .width()
                    .ok_or_else(|| anyhow!("{value:?} is no {kind:?}"))?;
                out.extend_from_slice(&number.to_be_bytes()[8 - width..]);
            }
        }
        Ok(())
    }

    /// Reads a value that is not a bit.
    pub fn read(self, reader: &mut Reader<'_>) -> Result<Value> {
        Ok(match self {
            Self::ShortStr => Value::Str(reader.short_str()?.to_vec()),
            Self::LongStr => Value::Str(reader.long_str()?.to_vec()),
            Self::Table => Value::Table(reader.table()?),
            Self::Timestamp => Value::Time(reader.number(8)?),
            kind => {
                let width = kind.width().context("a bit has no width of its own")?;
                Value::Int(
                    b'l',
                    i64::try_from(reader.number(width)?).unwrap_or(i64::MAX),
                )
            }
        })
    }

    fn width(self) -> Option<usize> {
        match self {
            Self::Octet => Some(1),
            Self::Short => Some(2),
            Self::Long => Some(4),
            Self::LongLong | Self::Timestamp => Some(8),
            _ => None,
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Spec {
    pub name: &'static str,
    pub class: u16,
    pub method: u16,
    pub fields: Vec<(&'static str, Kind)>,
    /// A content header and bodies follow.
    pub content: bool,
}

impl Spec {
    pub fn named(name: &str) -> Option<&'static Self> {
        SPECS.iter().find(|spec| spec.name == name)
    }

    pub fn numbered(class: u16, method: u16) -> Option<&'static Self> {
        SPECS
            .iter()
            .find(|spec| spec.class == class && spec.method == method)
    }

    pub fn position(&self, field: &str) -> Option<usize> {
        self.fields.iter().position(|(name, _)| *name == field)
    }
}

/// A method with its arguments in the order of the table.
#[derive(Clone, Debug)]
pub struct Method {
    pub spec: &'static Spec,
    pub fields: Vec<Value>,
}

impl Method {
    /// The method with all arguments zero, false or empty.
    ///
    /// # Errors
    /// No method has that name.
    pub fn named(name: &str) -> Result<Self> {
        let spec = Spec::named(name).ok_or_else(|| anyhow!("no method is called {name:?}"))?;
        let fields = spec.fields.iter().map(|(_, kind)| kind.zero()).collect();
        Ok(Self { spec, fields })
    }

    /// The same with one argument set.
    ///
    /// # Errors
    /// The method has no such argument.
    pub fn set(&mut self, field: &str, value: Value) -> Result<()> {
        let at = self
            .spec
            .position(field)
            .ok_or_else(|| anyhow!("{} has no argument {field:?}", self.spec.name))?;
        self.fields[at] = value;
        Ok(())
    }

    /// Chained form of [`Method::set`].
    ///
    /// # Errors
    /// The method has no such argument.
    pub fn with(mut self, field: &str, value: Value) -> Result<Self> {
        self.set(field, value)?;
        Ok(self)
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(self.spec.position(field)?)
    }

    /// An argument that is a number or a bit; 0 when there is none.
    pub fn int(&self, field: &str) -> i64 {
        self.get(field).and_then(Value::as_int).unwrap_or(0)
    }

    /// An argument that is a string; empty when there is none.
    pub fn text(&self, field: &str) -> String {
        let bytes = self.get(field).and_then(Value::as_str).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The payload of its method frame.
    ///
    /// # Errors
    /// An argument holds a value of another kind.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.spec.class.to_be_bytes());
        out.extend_from_slice(&self.spec.method.to_be_bytes());
        let mut bits = 0;
        for ((name, kind), value) in self.spec.fields.iter().zip(&self.fields) {
            if *kind == Kind::Bit {
                let set = value.as_int().ok_or_else(|| anyhow!("{name} is a bit"))? != 0;
                if bits == 0 {
                    out.push(0);
                }
                if set && let Some(byte) = out.last_mut() {
                    *byte |= 1 << bits;
                }
                bits = (bits + 1) % 8;
            } else {
                bits = 0;
                kind.put(&mut out, value)
                    .with_context(|| format!("argument {name}"))?;
            }
        }
        Ok(out)
    }

    /// Reads the payload of a method frame.
    ///
    /// # Errors
    /// The method is unknown, or its arguments end early or late.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(payload);
        let class = u16::try_from(reader.number(2)?)?;
        let method = u16::try_from(reader.number(2)?)?;
        let Some(spec) = Spec::numbered(class, method) else {
            bail!("unknown method {class}.{method}");
        };
        let mut fields = Vec::new();
        let (mut byte, mut bits) = (0, 0);
        for (name, kind) in &spec.fields {
            if *kind == Kind::Bit {
                if bits == 0 {
                    byte = reader.number(1)?;
                }
                fields.push(Value::Bool(byte >> bits & 1 == 1));
                bits = (bits + 1) % 8;
            } else {
                bits = 0;
                let value = kind.read(&mut reader);
                fields.push(value.with_context(|| format!("{} {name}", spec.name))?);
            }
        }
        if !reader.is_empty() {
            bail!("{} has {} bytes too many", spec.name, reader.rest().len());
        }
        Ok(Self { spec, fields })
    }
}

static SPECS: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    include_str!("methods.txt")
        .lines()
        .filter_map(row)
        .collect()
});

fn row(line: &'static str) -> Option<Spec> {
    let mut words = line.split_whitespace();
    let (class, method) = words.next()?.split_once('.')?;
    let name = words.next()?;
    let mut spec = Spec {
        name,
        class: class.parse().ok()?,
        method: method.parse().ok()?,
        fields: Vec::new(),
        content: false,
    };
    for word in words {
        match word.split_once(':') {
            Some((field, kind)) => spec.fields.push((field, Kind::named(kind)?)),
            None => spec.content = true,
        }
    }
    Some(spec)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read() {
        assert_eq!(SPECS.len(), include_str!("methods.txt").lines().count());
    }

    #[test]
    fn bits_share_a_byte_and_end_with_the_next_field() {
        let method = Method::named("queue.declare")
            .and_then(|m| m.with("queue", Value::str("q")))
            .and_then(|m| m.with("durable", Value::Bool(true)))
            .and_then(|m| m.with("nowait", Value::Bool(true)))
            .unwrap();
        let bytes = method.encode().unwrap();
        assert_eq!(bytes, [0, 50, 0, 10, 0, 0, 1, b'q', 0b1_0010, 0, 0, 0, 0]);
        let back = Method::decode(&bytes).unwrap();
        assert_eq!(
            (back.int("durable"), back.int("passive"), back.int("nowait")),
            (1, 0, 1)
        );
    }

    #[test]
    fn every_method_reads_back_what_it_wrote() {
        for spec in SPECS.iter() {
            let method = Method::named(spec.name).unwrap();
            let back = Method::decode(&method.encode().unwrap()).unwrap();
            assert_eq!(back.spec.name, spec.name);
            assert_eq!(back.fields, method.fields);
        }
    }

    #[test]
    fn bytes_too_many_are_noticed() {
        let mut bytes = Method::named("tx.select").unwrap().encode().unwrap();
        bytes.push(0);
        assert!(Method::decode(&bytes).is_err());
    }
}
