//! A message's properties and body.
//!
//! Keeps: which properties were present, in the order of the flag word.
//! Never: splits bodies; `frame` does.
//! In: `conversation::client` for what arrives, `conversation::play` for what is published.

use anyhow::{Context, Result, bail};

use super::method::Kind;
use super::value::{Reader, Value};

/// The fourteen properties, first flag bit (bit 15) first.
pub const PROPERTIES: [(&str, Kind); 14] = [
    ("content-type", Kind::ShortStr),
    ("content-encoding", Kind::ShortStr),
    ("headers", Kind::Table),
    ("delivery-mode", Kind::Octet),
    ("priority", Kind::Octet),
    ("correlation-id", Kind::ShortStr),
    ("reply-to", Kind::ShortStr),
    ("expiration", Kind::ShortStr),
    ("message-id", Kind::ShortStr),
    ("timestamp", Kind::Timestamp),
    ("type", Kind::ShortStr),
    ("user-id", Kind::ShortStr),
    ("app-id", Kind::ShortStr),
    ("cluster-id", Kind::ShortStr),
];

/// Where the property stands in [`PROPERTIES`].
pub fn position(name: &str) -> Option<usize> {
    PROPERTIES
        .iter()
        .position(|(property, _)| *property == name)
}

/// Properties and body of one message.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub properties: [Option<Value>; 14],
    pub body: Vec<u8>,
    /// How many body frames brought it.
    pub frames: usize,
}

impl Content {
    pub fn get(&self, property: &str) -> Option<&Value> {
        self.properties[position(property)?].as_ref()
    }

    /// The payload of its header frame for a body of `size` bytes.
    ///
    /// # Errors
    /// A property holds a value of another kind.
    pub fn header(&self, class: u16, weight: u16, size: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.extend_from_slice(&class.to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&size.to_be_bytes());
        let mut flags = 0_u16;
        let mut list = Vec::new();
        for (at, value) in self.properties.iter().enumerate() {
            if let Some(value) = value {
                flags |= 1 << (15 - at);
                let (name, kind) = PROPERTIES[at];
                kind.put(&mut list, value)
                    .with_context(|| format!("property {name}"))?;
            }
        }
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&list);
        Ok(out)
    }

    /// Reads a header frame: the content without a body, and the size its body will have.
    ///
    /// # Errors
    /// The header is no header of class basic, or ends early or late.
    pub fn parse_header(payload: &[u8]) -> Result<(Self, u64)> {
        let mut reader = Reader::new(payload);
        let (class, weight) = (reader.number(2)?, reader.number(2)?);
        if (class, weight) != (60, 0) {
            bail!("content header of class {class}, weight {weight}");
        }
        let size = reader.number(8)?;
        let flags = reader.number(2)?;
        let mut content = Self::default();
        for (at, (name, kind)) in PROPERTIES.iter().enumerate() {
            if flags >> (15 - at) & 1 == 1 {
                let value = kind
                    .read(&mut reader)
                    .with_context(|| format!("property {name}"))?;
                content.properties[at] = Some(value);
            }
        }
        if flags & 3 != 0 || !reader.is_empty() {
            bail!(
                "content header with flags {flags:#06x} and {} bytes left",
                reader.rest().len()
            );
        }
        Ok((content, size))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn properties_come_back_as_they_went() {
        let mut content = Content::default();
        content.properties[0] = Some(Value::str("text/plain"));
        content.properties[3] = Some(Value::Int(b'l', 2));
        content.properties[9] = Some(Value::Time(1_700_000_000));
        let payload = content.header(60, 0, 12).unwrap();
        let (back, size) = Content::parse_header(&payload).unwrap();
        assert_eq!(size, 12);
        assert_eq!(back.properties, content.properties);
    }
}
