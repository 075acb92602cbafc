//! Field-table values as RabbitMQ's clients and servers write them.
//!
//! Keeps: the type letter of every number, so that a conversation can ask for it.
//! Never: shares code with the product; this is the other opinion about the bytes.
//! In: `method`, `content`; the conversation's terms become values in `conversation::term`.

use anyhow::{Result, bail};

/// Field tables in wire order; a key may come twice.
pub type Table = Vec<(String, Value)>;

/// One value of a field table, or one argument of a method.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    /// The type letter (`b B s u I i l L`) and the number.
    Int(u8, i64),
    /// The type letter (`f d`) and the number.
    Float(u8, f64),
    Decimal(u8, i32),
    Str(Vec<u8>),
    Bytes(Vec<u8>),
    Array(Vec<Self>),
    Time(u64),
    Table(Table),
    Void,
    /// A type letter and bytes that are written as they are: values no honest client builds.
    Encoded(u8, Vec<u8>),
}

impl Value {
    /// A long string.
    pub fn str(text: &str) -> Self {
        Self::Str(text.as_bytes().to_vec())
    }

    /// A signed 32-bit number, what most clients write for a small integer.
    pub fn int(number: i64) -> Self {
        Self::Int(b'I', number)
    }

    /// A table nested `depth` deep: `{a={a={…}}}`.
    pub fn nested(depth: usize) -> Self {
        // Each level is one entry: key "a" (2 bytes), letter F, and the length of what follows.
        let mut bytes = Vec::with_capacity(depth * 7);
        for level in (1..depth).rev() {
            bytes.extend_from_slice(&[1, b'a', b'F']);
            bytes.extend_from_slice(
                &u32::try_from((level - 1) * 7)
                    .unwrap_or(u32::MAX)
                    .to_be_bytes(),
            );
        }
        let mut whole = u32::try_from(bytes.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
            .to_vec();
        whole.append(&mut bytes);
        Self::Encoded(b'F', whole)
    }

    /// The number in it, whatever its width.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(_, number) => Some(*number),
            Self::Time(at) => i64::try_from(*at).ok(),
            Self::Bool(flag) => Some(i64::from(*flag)),
            _ => None,
        }
    }

    /// The bytes of a string.
    pub fn as_str(&self) -> Option<&[u8]> {
        match self {
            Self::Str(bytes) | Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn letter(&self) -> u8 {
        match self {
            Self::Bool(_) => b't',
            Self::Int(letter, _) | Self::Float(letter, _) | Self::Encoded(letter, _) => *letter,
            Self::Decimal(..) => b'D',
            Self::Str(_) => b'S',
            Self::Bytes(_) => b'x',
            Self::Array(_) => b'A',
            Self::Time(_) => b'T',
            Self::Table(_) => b'F',
            Self::Void => b'V',
        }
    }
}

/// The entry `name` of a table.
pub fn entry<'t>(table: &'t [(String, Value)], name: &str) -> Option<&'t Value> {
    table
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// Writes a table with its length.
pub fn put_table(out: &mut Vec<u8>, table: &[(String, Value)]) {
    let start = reserve_length(out);
    for (key, value) in table {
        put_short_str(out, key.as_bytes());
        put_tagged(out, value);
    }
    fill_length(out, start);
}

/// Writes a string of at most 255 bytes; what is beyond is cut off.
pub fn put_short_str(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(255)];
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text);
}

/// Writes a string with a four-byte length.
pub fn put_long_str(out: &mut Vec<u8>, text: &[u8]) {
    let start = reserve_length(out);
    out.extend_from_slice(text);
    fill_length(out, start);
}

fn put_tagged(out: &mut Vec<u8>, value: &Value) {
    out.push(value.letter());
    match value {
        Value::Bool(flag) => out.push(u8::from(*flag)),
        Value::Int(letter, number) => put_int(out, *letter, *number),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the letter asks for the short form"
        )]
        Value::Float(b'f', number) => out.extend_from_slice(&(*number as f32).to_be_bytes()),
        Value::Float(_, number) => out.extend_from_slice(&number.to_be_bytes()),
        Value::Decimal(scale, digits) => {
            out.push(*scale);
            out.extend_from_slice(&digits.to_be_bytes());
        }
        Value::Str(bytes) | Value::Bytes(bytes) => put_long_str(out, bytes),
        Value::Array(items) => {
            let start = reserve_length(out);
            for item in items {
                put_tagged(out, item);
            }
            fill_length(out, start);
        }
        Value::Time(at) => out.extend_from_slice(&at.to_be_bytes()),
        Value::Table(table) => put_table(out, table),
        Value::Void => {}
        Value::Encoded(_, bytes) => out.extend_from_slice(bytes),
    }
}

fn put_int(out: &mut Vec<u8>, letter: u8, number: i64) {
    let bytes = number.to_be_bytes();
    let width = match letter {
        b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' => 4,
        _ => 8,
    };
    out.extend_from_slice(&bytes[8 - width..]);
}

fn reserve_length(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len()
}

fn fill_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}

/// Reads the pieces of a payload from front to back; every read names what was missing.
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn rest(&self) -> &'b [u8] {
        self.rest
    }

    pub fn take(&mut self, count: usize) -> Result<&'b [u8]> {
        if self.rest.len() < count {
            bail!("{count} bytes due, {} left", self.rest.len());
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned number of `width` bytes, at most eight.
    pub fn number(&mut self, width: usize) -> Result<u64> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub fn short_str(&mut self) -> Result<&'b [u8]> {
        let length = self.number(1)?;
        self.take(usize::try_from(length)?)
    }

    pub fn long_str(&mut self) -> Result<&'b [u8]> {
        let length = self.number(4)?;
        self.take(usize::try_from(length)?)
    }

    pub fn table(&mut self) -> Result<Table> {
        let mut inner = Self::new(self.long_str()?);
        let mut table = Table::new();
        while !inner.is_empty() {
            let key = String::from_utf8_lossy(inner.short_str()?).into_owned();
            table.push((key, inner.tagged()?));
        }
        Ok(table)
    }

    fn tagged(&mut self) -> Result<Value> {
        let letter = self.take(1)?[0];
        Ok(match letter {
            b't' => Value::Bool(self.number(1)? != 0),
            b'b' | b'B' | b's' | b'u' | b'I' | b'i' | b'l' | b'L' => self.int(letter)?,
            b'f' => Value::Float(
                letter,
                f64::from(f32::from_bits(u32::try_from(self.number(4)?)?)),
            ),
            b'd' => Value::Float(letter, f64::from_bits(self.number(8)?)),
            b'D' => {
                let scale = self.take(1)?[0];
                let digits = self.take(4)?;
                Value::Decimal(
                    scale,
                    i32::from_be_bytes([digits[0], digits[1], digits[2], digits[3]]),
                )
            }
            b'S' => Value::Str(self.long_str()?.to_vec()),
            b'x' => Value::Bytes(self.long_str()?.to_vec()),
            b'A' => {
                let mut inner = Self::new(self.long_str()?);
                let mut items = Vec::new();
                while !inner.is_empty() {
                    items.push(inner.tagged()?);
                }
                Value::Array(items)
            }
            b'T' => Value::Time(self.number(8)?),
            b'F' => Value::Table(self.table()?),
            b'V' => Value::Void,
            other => bail!("unknown type letter {:?} in a table", char::from(other)),
        })
    }

    fn int(&mut self, letter: u8) -> Result<Value> {
        let width = match letter {
            b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' => 4,
            _ => 8,
        };
        let raw = self.number(width)?;
        let shift = 64 - 8 * width;
        let signed = matches!(letter, b'b' | b's' | b'I' | b'l' | b'L');
        #[expect(
            clippy::cast_possible_wrap,
            reason = "the sign bit is moved to its place first"
        )]
        let number = if signed {
            ((raw << shift) as i64) >> shift
        } else {
            raw as i64
        };
        Ok(Value::Int(letter, number))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tables_come_back_as_they_went() {
        let table = vec![
            ("flag".to_owned(), Value::Bool(true)),
            ("small".to_owned(), Value::Int(b'b', -3)),
            ("word".to_owned(), Value::Int(b'I', -70_000)),
            ("wide".to_owned(), Value::Int(b'l', i64::MIN)),
            (
                "list".to_owned(),
                Value::Array(vec![Value::str("x"), Value::Void]),
            ),
            (
                "inner".to_owned(),
                Value::Table(vec![("at".to_owned(), Value::Time(7))]),
            ),
            ("pi".to_owned(), Value::Decimal(2, 314)),
            ("half".to_owned(), Value::Float(b'f', 0.5)),
        ];
        let mut bytes = Vec::new();
        put_table(&mut bytes, &table);
        assert_eq!(Reader::new(&bytes).table().unwrap(), table);
    }

    #[test]
    fn a_nested_table_is_well_formed() {
        let mut bytes = Vec::new();
        put_table(&mut bytes, &[("n".to_owned(), Value::nested(3))]);
        let table = Reader::new(&bytes).table().unwrap();
        let leaf = Value::Table(Vec::new());
        let two = Value::Table(vec![("a".to_owned(), leaf)]);
        let three = Value::Table(vec![("a".to_owned(), two)]);
        assert_eq!(table, vec![("n".to_owned(), three)]);
    }
}
