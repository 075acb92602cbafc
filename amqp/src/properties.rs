//! The fourteen basic properties: passed through raw, parsed on demand.
//!
//! Source: §4.2.6.1; the flag word's highest bit is content-type.

use crate::field::{self, Malformed, Table, Value};

const HEADERS: usize = 2;
const DELIVERY_MODE: usize = 3;
const PRIORITY: usize = 4;
const TIMESTAMP: usize = 9;

/// All properties, decoded. Strings are bytes, as on the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    pub content_type: Option<Vec<u8>>,
    pub content_encoding: Option<Vec<u8>>,
    pub headers: Option<Table>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<Vec<u8>>,
    pub reply_to: Option<Vec<u8>>,
    pub expiration: Option<Vec<u8>>,
    pub message_id: Option<Vec<u8>>,
    pub timestamp: Option<u64>,
    pub kind: Option<Vec<u8>>,
    pub user_id: Option<Vec<u8>>,
    pub app_id: Option<Vec<u8>>,
    pub cluster_id: Option<Vec<u8>>,
}

impl Properties {
    /// Decodes the flag word and what follows it.
    pub fn parse(raw: &[u8]) -> Result<Self, Malformed> {
        let mut out = Self::default();
        let mut failed = None;
        walk(raw, |number, bytes| {
            let own = || Some(bytes.to_vec());
            match number {
                0 => out.content_type = own(),
                1 => out.content_encoding = own(),
                HEADERS => match Table::parse(bytes) {
                    Ok(table) => out.headers = Some(table),
                    Err(error) => failed = Some(error),
                },
                DELIVERY_MODE => out.delivery_mode = bytes.first().copied(),
                PRIORITY => out.priority = bytes.first().copied(),
                5 => out.correlation_id = own(),
                6 => out.reply_to = own(),
                7 => out.expiration = own(),
                8 => out.message_id = own(),
                TIMESTAMP => out.timestamp = bytes.try_into().ok().map(u64::from_be_bytes),
                10 => out.kind = own(),
                11 => out.user_id = own(),
                12 => out.app_id = own(),
                _ => out.cluster_id = own(),
            }
        })?;
        failed.map_or(Ok(out), Err)
    }

    /// The flag word and the properties after it.
    pub fn encode(&self) -> Vec<u8> {
        let mut flags = 0u16;
        let mut body = Vec::new();
        let mut text = |number: usize, value: &Option<Vec<u8>>, body: &mut Vec<u8>| {
            if let Some(value) = value {
                flags |= 1 << (15 - number);
                let length = value.len().min(255);
                body.push(length as u8);
                body.extend_from_slice(&value[..length]);
            }
        };
        text(0, &self.content_type, &mut body);
        text(1, &self.content_encoding, &mut body);
        let mut fixed = 0u16;
        if let Some(headers) = &self.headers {
            fixed |= 1 << (15 - HEADERS);
            let bytes = headers.encode();
            body.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            body.extend_from_slice(&bytes);
        }
        for (number, value) in [
            (DELIVERY_MODE, self.delivery_mode),
            (PRIORITY, self.priority),
        ] {
            if let Some(value) = value {
                fixed |= 1 << (15 - number);
                body.push(value);
            }
        }
        text(5, &self.correlation_id, &mut body);
        text(6, &self.reply_to, &mut body);
        text(7, &self.expiration, &mut body);
        text(8, &self.message_id, &mut body);
        if let Some(value) = self.timestamp {
            fixed |= 1 << (15 - TIMESTAMP);
            body.extend_from_slice(&value.to_be_bytes());
        }
        text(10, &self.kind, &mut body);
        text(11, &self.user_id, &mut body);
        text(12, &self.app_id, &mut body);
        text(13, &self.cluster_id, &mut body);
        let mut out = (flags | fixed).to_be_bytes().to_vec();
        out.extend_from_slice(&body);
        out
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.headers.as_ref()?.find(name)
    }
}

/// Calls `each` with every property's number (0 = content-type) and bytes (without its length).
fn walk<'a>(raw: &'a [u8], mut each: impl FnMut(usize, &'a [u8])) -> Result<(), Malformed> {
    const CUT: Malformed = Malformed("properties cut short");
    let (flags, mut at) = raw.split_first_chunk::<2>().ok_or(CUT)?;
    let flags = u16::from_be_bytes(*flags);
    if flags & 3 != 0 {
        return Err(Malformed("unknown property flags"));
    }
    let mut left = flags;
    while left != 0 {
        let number = left.leading_zeros() as usize;
        left &= !(1 << (15 - number));
        let (skip, length) = match number {
            HEADERS => {
                let (length, _) = at.split_first_chunk::<4>().ok_or(CUT)?;
                (4, u32::from_be_bytes(*length) as usize)
            }
            DELIVERY_MODE | PRIORITY => (0, 1),
            TIMESTAMP => (0, 8),
            _ => (1, usize::from(*at.first().ok_or(CUT)?)),
        };
        let end = skip + length;
        each(number, at.get(skip..end).ok_or(CUT)?);
        at = &at[end..];
    }
    if at.is_empty() {
        Ok(())
    } else {
        Err(Malformed("bytes after the properties"))
    }
}

fn one(raw: &[u8], wanted: usize) -> Option<&[u8]> {
    let flags = u16::from_be_bytes(*raw.first_chunk::<2>()?);
    if flags & (1 << (15 - wanted)) == 0 {
        return None;
    }
    let mut found = None;
    walk(raw, |number, bytes| {
        if number == wanted {
            found = Some(bytes);
        }
    })
    .ok()?;
    found
}

/// Raw table bytes, without their length.
pub fn headers(raw: &[u8]) -> Option<&[u8]> {
    one(raw, HEADERS)
}

pub fn correlation_id(raw: &[u8]) -> Option<&[u8]> {
    one(raw, 5)
}

pub fn reply_to(raw: &[u8]) -> Option<&[u8]> {
    one(raw, 6)
}

pub fn expiration(raw: &[u8]) -> Option<&[u8]> {
    one(raw, 7)
}

pub fn message_id(raw: &[u8]) -> Option<&[u8]> {
    one(raw, 8)
}

/// Eight bytes, as on the wire.
pub fn timestamp(raw: &[u8]) -> Option<&[u8]> {
    one(raw, TIMESTAMP)
}

pub fn user_id(raw: &[u8]) -> Option<&[u8]> {
    one(raw, 11)
}

/// What a look at the whole block finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// 0 when absent.
    pub delivery_mode: u8,
    /// 0 when absent.
    pub priority: u8,
    /// Some header may ask the broker for something.
    pub asks: bool,
}

/// Checks the block whole.
///
/// # Errors
/// It does not end where it says, or its table is not sound.
pub fn scan(raw: &[u8]) -> Result<Scanned, Malformed> {
    let mut found = Scanned::default();
    if raw == [0x10, 0x00, 2] {
        found.delivery_mode = 2;
        return Ok(found);
    }
    let mut bad = None;
    walk(raw, |number, bytes| match number {
        HEADERS => match field::survey(bytes, field::asks) {
            Ok(asks) => found.asks = asks,
            Err(error) => bad = Some(error),
        },
        DELIVERY_MODE => found.delivery_mode = bytes[0],
        PRIORITY => found.priority = bytes[0],
        _ => {}
    })?;
    bad.map_or(Ok(found), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fourteen_survive_a_round_trip() {
        let text = |t: &str| Some(t.as_bytes().to_vec());
        let mut headers = Table::default();
        headers.insert("x", Value::I32(7));
        let all = Properties {
            content_type: text("a"),
            content_encoding: text("b"),
            headers: Some(headers),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: text("c"),
            reply_to: text("d"),
            expiration: text("60"),
            message_id: text("e"),
            timestamp: Some(77),
            kind: text("f"),
            user_id: text("g"),
            app_id: text("h"),
            cluster_id: text("i"),
        };
        let raw = all.encode();
        assert_eq!(Properties::parse(&raw), Ok(all));
        assert_eq!(expiration(&raw), Some(&b"60"[..]));
        assert_eq!(message_id(&raw), Some(&b"e"[..]));
        let scanned = scan(&raw).expect("sound");
        assert_eq!((scanned.delivery_mode, scanned.priority), (2, 9));
        assert!(!scanned.asks);
        for end in 0..raw.len() {
            assert!(scan(&raw[..end]).is_err(), "cut at {end}");
        }
    }
}
