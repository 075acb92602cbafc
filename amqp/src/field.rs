//! Field tables: values with their RabbitMQ letters, order and bytes kept.
//!
//! Keeps: decoding then encoding gives the same bytes; depth and number of values are bounded
//! before anything is built.
//! Source: RabbitMQ's letters (`s` is a 16-bit integer), not the specification's.

use crate::limits::{TABLE_DEPTH_MAX, TABLE_VALUES_MAX};

/// The bytes are no table, or one too deep or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed field table: {0}")]
pub struct Malformed(pub &'static str);

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    /// `U`, the specification's letter for `s`; kept apart.
    I16Upper(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    /// `l`; `L` is kept apart.
    I64(i64),
    I64Upper(i64),
    F32(u32),
    F64(u64),
    Decimal(u8, u32),
    LongStr(Vec<u8>),
    Bytes(Vec<u8>),
    Array(Vec<Self>),
    Timestamp(u64),
    Table(Table),
    Void,
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::LongStr(text.as_bytes().to_vec())
    }

    /// The value of any integer letter.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::I8(v) => Some(i64::from(*v)),
            Self::U8(v) => Some(i64::from(*v)),
            Self::I16(v) | Self::I16Upper(v) => Some(i64::from(*v)),
            Self::U16(v) => Some(i64::from(*v)),
            Self::I32(v) => Some(i64::from(*v)),
            Self::U32(v) => Some(i64::from(*v)),
            Self::I64(v) | Self::I64Upper(v) => Some(*v),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::LongStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut put = |letter: u8, bytes: &[u8]| {
            out.push(letter);
            out.extend_from_slice(bytes);
        };
        match self {
            Self::Bool(v) => put(b't', &[u8::from(*v)]),
            Self::I8(v) => put(b'b', &v.to_be_bytes()),
            Self::U8(v) => put(b'B', &[*v]),
            Self::I16(v) => put(b's', &v.to_be_bytes()),
            Self::I16Upper(v) => put(b'U', &v.to_be_bytes()),
            Self::U16(v) => put(b'u', &v.to_be_bytes()),
            Self::I32(v) => put(b'I', &v.to_be_bytes()),
            Self::U32(v) => put(b'i', &v.to_be_bytes()),
            Self::I64(v) => put(b'l', &v.to_be_bytes()),
            Self::I64Upper(v) => put(b'L', &v.to_be_bytes()),
            Self::F32(v) => put(b'f', &v.to_be_bytes()),
            Self::F64(v) => put(b'd', &v.to_be_bytes()),
            Self::Decimal(scale, v) => {
                put(b'D', &[*scale]);
                out.extend_from_slice(&v.to_be_bytes());
            }
            Self::Timestamp(v) => put(b'T', &v.to_be_bytes()),
            Self::Void => put(b'V', &[]),
            Self::LongStr(v) => {
                put(b'S', &(v.len() as u32).to_be_bytes());
                out.extend_from_slice(v);
            }
            Self::Bytes(v) => {
                put(b'x', &(v.len() as u32).to_be_bytes());
                out.extend_from_slice(v);
            }
            Self::Array(values) => {
                let mut inner = Vec::new();
                values.iter().for_each(|value| value.write(&mut inner));
                put(b'A', &(inner.len() as u32).to_be_bytes());
                out.extend_from_slice(&inner);
            }
            Self::Table(table) => {
                let inner = table.encode();
                put(b'F', &(inner.len() as u32).to_be_bytes());
                out.extend_from_slice(&inner);
            }
        }
    }
}

/// Keys in the order of the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub Vec<(Vec<u8>, Value)>);

impl Table {
    /// Decodes the bytes after a table's length.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut values = TABLE_VALUES_MAX;
        let mut at = bytes;
        table(&mut at, 0, &mut values)
    }

    /// The bytes after a table's length.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in &self.0 {
            out.push(key.len() as u8);
            out.extend_from_slice(key);
            value.write(&mut out);
        }
        out
    }

    pub fn find(&self, key: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(k, _)| k == key.as_bytes())
            .map(|(_, value)| value)
    }

    /// Replaces in place, or appends.
    pub fn insert(&mut self, key: &str, value: Value) {
        match self.0.iter_mut().find(|(k, _)| k == key.as_bytes()) {
            Some(entry) => entry.1 = value,
            None => self.0.push((key.as_bytes().to_vec(), value)),
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(k, _)| k == key.as_bytes())?;
        Some(self.0.remove(at).1)
    }
}

/// True for a header's key by which a publisher asks the broker for something, or by which an
/// earlier broker left word: copies, delays, retries, deaths. Some others begin like these, too;
/// who acts on one looks closer, and need not look at all where no key is like these.
pub fn asks(key: &[u8]) -> bool {
    key.starts_with(b"x-") && matches!(key.get(2), Some(b'd' | b'r'))
        || key == b"CC"
        || key == b"BCC"
}

/// Refuses what is too deep, too wide or does not end where it says. Allocates nothing.
pub fn check_table(bytes: &[u8]) -> Result<(), Malformed> {
    survey(bytes, |_| false).map(drop)
}

/// As `check_table`; answers whether a key on the table's own level is wanted.
pub fn survey(bytes: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Result<bool, Malformed> {
    let mut found = false;
    let mut ends: [usize; TABLE_DEPTH_MAX] = [0; TABLE_DEPTH_MAX];
    let mut arrays = [false; TABLE_DEPTH_MAX];
    let (mut depth, mut at, mut values) = (0, 0, 0);
    ends[0] = bytes.len();
    loop {
        if at == ends[depth] {
            if depth == 0 {
                return Ok(found);
            }
            depth -= 1;
            continue;
        }
        let need = |n: usize, at: usize| {
            at.checked_add(n)
                .filter(|&end| end <= ends[depth])
                .ok_or(Malformed("cut short"))
        };
        if !arrays[depth] {
            let end = need(1, at)?;
            at = need(usize::from(bytes[end - 1]), end)?;
            found |= depth == 0 && wanted(&bytes[end..at]);
        }
        at = need(1, at)?;
        values += 1;
        if values > TABLE_VALUES_MAX {
            return Err(Malformed("too many values"));
        }
        match bytes[at - 1] {
            b't' | b'b' | b'B' => at = need(1, at)?,
            b's' | b'u' | b'U' => at = need(2, at)?,
            b'I' | b'i' | b'f' => at = need(4, at)?,
            b'D' => at = need(5, at)?,
            b'l' | b'L' | b'd' | b'T' => at = need(8, at)?,
            b'V' => {}
            letter @ (b'S' | b'x' | b'A' | b'F') => {
                let start = need(4, at)?;
                let length = u32::from_be_bytes(
                    bytes[at..start]
                        .try_into()
                        .map_err(|_| Malformed("cut short"))?,
                );
                let end = need(length as usize, start)?;
                at = end;
                if matches!(letter, b'A' | b'F') {
                    if depth + 1 == TABLE_DEPTH_MAX {
                        return Err(Malformed("nested too deep"));
                    }
                    depth += 1;
                    ends[depth] = end;
                    arrays[depth] = letter == b'A';
                    at = start;
                }
            }
            _ => return Err(Malformed("unknown type")),
        }
    }
}

/// True when a key on the table's own level is wanted. Decodes nothing; false for what is no table.
pub fn any_key(bytes: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
    let mut at = bytes;
    while !at.is_empty() {
        match next_key(&mut at) {
            Some(key) if wanted(key) => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// The letter and the value's own bytes under a key, without decoding: of texts and tables what
/// follows their length. `None`: no such key, or a malformed table before it.
pub fn raw<'a>(bytes: &'a [u8], wanted: &[u8]) -> Option<(u8, &'a [u8])> {
    let mut at = bytes;
    while !at.is_empty() {
        let whole = at;
        let key = next_key(&mut at)?;
        if key == wanted {
            let value = &whole[1 + key.len()..whole.len() - at.len()];
            let (&letter, value) = value.split_first()?;
            let counted = matches!(letter, b'S' | b'x' | b'A' | b'F');
            return Some((letter, if counted { value.get(4..)? } else { value }));
        }
    }
    None
}

/// The key at the front; moves behind its value.
fn next_key<'a>(at: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = at.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let (letter, rest) = rest.split_first()?;
    let size = match letter {
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'V' => 0,
        _ => 4 + u32::from_be_bytes(*rest.first_chunk()?) as usize,
    };
    *at = rest.get(size..)?;
    Some(key)
}

fn bytes<'a>(at: &mut &'a [u8], n: usize) -> Result<&'a [u8], Malformed> {
    if at.len() < n {
        return Err(Malformed("cut short"));
    }
    let (head, tail) = at.split_at(n);
    *at = tail;
    Ok(head)
}

fn word<const N: usize>(at: &mut &[u8]) -> Result<[u8; N], Malformed> {
    bytes(at, N)?.try_into().map_err(|_| Malformed("cut short"))
}

fn table(at: &mut &[u8], depth: usize, left: &mut usize) -> Result<Table, Malformed> {
    let mut out = Table::default();
    while !at.is_empty() {
        let [length] = word::<1>(at)?;
        let key = bytes(at, usize::from(length))?.to_vec();
        out.0.push((key, value(at, depth, left)?));
    }
    Ok(out)
}

fn value(at: &mut &[u8], depth: usize, left: &mut usize) -> Result<Value, Malformed> {
    *left = left.checked_sub(1).ok_or(Malformed("too many values"))?;
    let [letter] = word::<1>(at)?;
    Ok(match letter {
        b't' => Value::Bool(word::<1>(at)?[0] != 0),
        b'b' => Value::I8(i8::from_be_bytes(word(at)?)),
        b'B' => Value::U8(word::<1>(at)?[0]),
        b's' => Value::I16(i16::from_be_bytes(word(at)?)),
        b'U' => Value::I16Upper(i16::from_be_bytes(word(at)?)),
        b'u' => Value::U16(u16::from_be_bytes(word(at)?)),
        b'I' => Value::I32(i32::from_be_bytes(word(at)?)),
        b'i' => Value::U32(u32::from_be_bytes(word(at)?)),
        b'l' => Value::I64(i64::from_be_bytes(word(at)?)),
        b'L' => Value::I64Upper(i64::from_be_bytes(word(at)?)),
        b'f' => Value::F32(u32::from_be_bytes(word(at)?)),
        b'd' => Value::F64(u64::from_be_bytes(word(at)?)),
        b'D' => Value::Decimal(word::<1>(at)?[0], u32::from_be_bytes(word(at)?)),
        b'T' => Value::Timestamp(u64::from_be_bytes(word(at)?)),
        b'V' => Value::Void,
        b'S' | b'x' | b'A' | b'F' => {
            let length = u32::from_be_bytes(word(at)?) as usize;
            let mut inner = bytes(at, length)?;
            match letter {
                b'S' => Value::LongStr(inner.to_vec()),
                b'x' => Value::Bytes(inner.to_vec()),
                _ if depth + 1 >= TABLE_DEPTH_MAX => return Err(Malformed("nested too deep")),
                b'F' => Value::Table(table(&mut inner, depth + 1, left)?),
                _ => {
                    let mut values = Vec::new();
                    while !inner.is_empty() {
                        values.push(value(&mut inner, depth + 1, left)?);
                    }
                    Value::Array(values)
                }
            }
        }
        _ => return Err(Malformed("unknown type")),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Any table of a few levels, with any letters.
    pub(crate) fn tables() -> impl Strategy<Value = Table> {
        let bytes = || vec(any::<u8>(), 0..9);
        let key = || "[a-z]{0,3}".prop_map(String::into_bytes);
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<u8>().prop_map(Value::U8),
            any::<i16>().prop_map(Value::I16),
            any::<i16>().prop_map(Value::I16Upper),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<i64>().prop_map(Value::I64Upper),
            any::<u32>().prop_map(Value::F32),
            any::<u64>().prop_map(Value::F64),
            any::<(u8, u32)>().prop_map(|(scale, v)| Value::Decimal(scale, v)),
            bytes().prop_map(Value::LongStr),
            bytes().prop_map(Value::Bytes),
            any::<u64>().prop_map(Value::Timestamp),
            Just(Value::Void),
        ];
        let value = leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::Array),
                vec((key(), inner), 0..4).prop_map(|entries| Value::Table(Table(entries))),
            ]
        });
        vec((key(), value), 0..6).prop_map(Table)
    }

    proptest! {
        #[test]
        fn any_table_survives_a_round_trip(table in tables()) {
            let bytes = table.encode();
            prop_assert_eq!(check_table(&bytes), Ok(()));
            let again = Table::parse(&bytes)?;
            prop_assert_eq!(again.encode(), bytes);
            prop_assert_eq!(again, table);
        }

        #[test]
        fn a_raw_value_is_the_parsed_one(table in tables()) {
            let bytes = table.encode();
            for (at, (key, value)) in table.0.iter().enumerate() {
                if table.0[..at].iter().any(|(known, _)| known == key) {
                    continue;
                }
                let (letter, raw) = raw(&bytes, key).expect("it is there");
                let mut alone = vec![0, letter];
                if let b'S' | b'x' | b'A' | b'F' = letter {
                    alone.extend_from_slice(&(raw.len() as u32).to_be_bytes());
                }
                alone.extend_from_slice(raw);
                prop_assert_eq!(&Table::parse(&alone)?.0[0].1, value);
            }
            prop_assert_eq!(raw(&bytes, b"not there, this one"), None);
        }

        /// One spoilt byte: what the guard lets through can be decoded, and nothing else.
        #[test]
        fn guard_and_decoder_agree(table in tables(), at in any::<usize>(), byte in any::<u8>()) {
            let mut bytes = table.encode();
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            prop_assert_eq!(check_table(&bytes).is_ok(), Table::parse(&bytes).is_ok());
        }
    }

    #[test]
    fn depth_and_number_end_at_their_limits() {
        let nested = |levels: usize| {
            let mut table = Table(vec![(b"k".to_vec(), Value::Void)]);
            for _ in 1..levels {
                table = Table(vec![(b"k".to_vec(), Value::Table(table))]);
            }
            table.encode()
        };
        let wide = |count| {
            let values = std::iter::repeat_n((b"k".to_vec(), Value::Void), count);
            Table(values.collect()).encode()
        };
        for (good, bad) in [
            (nested(TABLE_DEPTH_MAX), nested(TABLE_DEPTH_MAX + 1)),
            (wide(TABLE_VALUES_MAX), wide(TABLE_VALUES_MAX + 1)),
        ] {
            assert!(check_table(&good).is_ok() && Table::parse(&good).is_ok());
            assert!(check_table(&bad).is_err() && Table::parse(&bad).is_err());
        }
    }

    fn sample() -> Table {
        let mut inner = Table::default();
        inner.insert(
            "deep",
            Value::Array(vec![Value::Void, Value::I64Upper(-1), Value::U16(9)]),
        );
        let mut table = Table::default();
        table.insert("z", Value::text("last letter first"));
        table.insert("a", Value::Table(inner));
        table.insert("n", Value::Decimal(2, 314));
        table
    }

    #[test]
    fn order_and_letters_survive_a_round_trip() {
        let bytes = sample().encode();
        check_table(&bytes).expect("a sound table");
        let again = Table::parse(&bytes).expect("a sound table");
        assert_eq!(again, sample());
        assert_eq!(again.encode(), bytes);
    }

    #[test]
    fn every_cut_is_refused_by_both() {
        let bytes = sample().encode();
        for end in 1..bytes.len() {
            let cut = &bytes[..end];
            assert_eq!(
                check_table(cut).is_ok(),
                Table::parse(cut).is_ok(),
                "at {end}"
            );
        }
    }

    #[test]
    fn ten_thousand_levels_are_refused_without_recursion() {
        let mut bytes = Vec::new();
        for level in (0..10_000u32).rev() {
            let length = level * 5;
            bytes.push(b'A');
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        let mut table = vec![1, b'k'];
        table.extend_from_slice(&bytes);
        assert_eq!(check_table(&table), Err(Malformed("nested too deep")));
        assert_eq!(Table::parse(&table), Err(Malformed("nested too deep")));
    }
}
