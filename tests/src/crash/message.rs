//! What a message of the load says: who wrote it, which it is, and a checksum over all of it.
//!
//! ```text
//! writer u16 | number u64 | filling | CRC-32 of all before
//! ```
//! Never: trusts what comes back.
//! In: `load` on both sides.

use anyhow::{Context, Result, bail};

/// One message of one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub writer: u16,
    pub number: u64,
}

impl Id {
    /// In a text, for a message-id.
    pub fn name(self) -> String {
        format!("{}-{}", self.writer, self.number)
    }

    /// Reads what [`Id::name`] wrote.
    pub fn named(text: &str) -> Option<Self> {
        let (writer, number) = text.split_once('-')?;
        Some(Self {
            writer: writer.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// The body of a message; most are small, some need several frames.
pub fn body(id: Id) -> Vec<u8> {
    let filling = match id.number {
        number if number % 997 == 0 => 300_000,
        number if number % 50 == 0 => 5_000,
        number => usize::try_from(number % 280).unwrap_or(0),
    };
    let mut body = Vec::with_capacity(filling + 14);
    body.extend_from_slice(&id.writer.to_be_bytes());
    body.extend_from_slice(&id.number.to_be_bytes());
    body.resize(body.len() + filling, id.number.to_be_bytes()[7]);
    let checksum = crc32fast::hash(&body);
    body.extend_from_slice(&checksum.to_be_bytes());
    body
}

/// Reads a body.
///
/// # Errors
/// It is not what a writer wrote.
pub fn read(body: &[u8]) -> Result<Id> {
    let (said, checksum) = body.split_last_chunk().context("shorter than a checksum")?;
    if crc32fast::hash(said) != u32::from_be_bytes(*checksum) {
        bail!("the checksum of {} bytes is wrong", body.len());
    }
    let (writer, rest) = said.split_first_chunk().context("no writer")?;
    let (number, _) = rest.split_first_chunk().context("no number")?;
    Ok(Id {
        writer: u16::from_be_bytes(*writer),
        number: u64::from_be_bytes(*number),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_body_reads_back_and_damage_shows() {
        for number in [1, 50, 997, 1234] {
            let id = Id { writer: 3, number };
            let mut bytes = body(id);
            assert_eq!(read(&bytes).unwrap(), id);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            assert!(read(&bytes).is_err());
        }
        assert!(read(b"").is_err());
    }
}
