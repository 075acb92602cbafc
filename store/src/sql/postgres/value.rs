//! Values on their way to the server and back.
//!
//! Keeps: any text that a client may name something with comes back as it was. A text of the server
//! cannot hold the character NUL; it and the character that stands in for it are written as two.
//! Unsigned numbers keep their bits.
//! Never: knows a table.
//! In: `apply` and `access` write, `reader` reads.

use std::error::Error;
use std::sync::Arc;

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// A noncharacter, which no text for people holds.
const STAND_IN: char = '\u{fdd0}';

/// What a step of a transaction is given.
pub(super) type Value<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// A text that may hold anything.
#[derive(Debug)]
pub(super) struct Words<'a>(pub(super) &'a str);

impl ToSql for Words<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        if !self.0.contains(['\0', STAND_IN]) {
            return self.0.to_sql(ty, out);
        }
        written(self.0).as_str().to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

fn written(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    for letter in text.chars() {
        match letter {
            '\0' => out.extend([STAND_IN, '0']),
            STAND_IN => out.extend([STAND_IN, STAND_IN]),
            other => out.push(other),
        }
    }
    out
}

/// What `Words` wrote.
fn read(text: &str) -> String {
    let (mut out, mut letters) = (String::with_capacity(text.len()), text.chars());
    while let Some(letter) = letters.next() {
        out.push(match letter {
            STAND_IN => match letters.next() {
                Some('0') => '\0',
                _ => STAND_IN,
            },
            other => other,
        });
    }
    out
}

pub(super) type Decoded<T> = Result<T, tokio_postgres::Error>;

pub(super) fn text(row: &Row, at: usize) -> Decoded<String> {
    let found: String = row.try_get(at)?;
    Ok(if found.contains(STAND_IN) {
        read(&found)
    } else {
        found
    })
}

pub(super) fn some_text(row: &Row, at: usize) -> Decoded<Option<String>> {
    let found: Option<String> = row.try_get(at)?;
    Ok(found.map(|found| {
        if found.contains(STAND_IN) {
            read(&found)
        } else {
            found
        }
    }))
}

pub(super) fn name(row: &Row, at: usize) -> Decoded<Arc<str>> {
    let found: &str = row.try_get(at)?;
    Ok(if found.contains(STAND_IN) {
        read(found).into()
    } else {
        found.into()
    })
}

pub(super) fn number(row: &Row, at: usize) -> Decoded<u64> {
    Ok(row.try_get::<_, i64>(at)?.cast_unsigned())
}

/// A number that the code keeps in 32 bits.
pub(super) fn small(row: &Row, at: usize) -> Decoded<u32> {
    Ok(u32::try_from(row.try_get::<_, i64>(at)?).unwrap_or(u32::MAX))
}

pub(super) fn numbers(row: &Row, at: usize) -> Decoded<Vec<u64>> {
    let found: Vec<i64> = row.try_get(at)?;
    Ok(found.into_iter().map(i64::cast_unsigned).collect())
}

/// A word of a closed set; a text of the database that is none of them is an error of the row.
pub(super) fn word<T>(row: &Row, at: usize, parse: fn(&str) -> Option<T>) -> Decoded<T> {
    let text: &str = row.try_get(at)?;
    match parse(text) {
        Some(word) => Ok(word),
        // Asked as what it is not, the driver says which column is wrong.
        None => Err(wrong(row, at)),
    }
}

/// The driver's own error for a column.
pub(super) fn wrong(row: &Row, at: usize) -> tokio_postgres::Error {
    match row.try_get::<_, Never>(at) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Nothing can be read as this.
enum Never {}

impl<'a> FromSql<'a> for Never {
    fn from_sql(_: &Type, _: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Err("the value is not one of those known here".into())
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

pub(super) fn bits(value: u64) -> i64 {
    value.cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_comes_back(text in "(\\PC|\0|\u{fdd0}|0){0,12}") {
            let stored = written(&text);
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(read(&stored), text);
        }
    }
}
