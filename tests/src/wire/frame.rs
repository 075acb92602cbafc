//! Frames: seven bytes, a payload, and 0xCE.
//!
//! Keeps: what a frame looks like, for good frames and for bad ones.
//! Never: reads a socket.
//! In: `conversation::client`, `crash::peer`.
//!
//! ```text
//! +------+---------+------+-- - --+------+
//! | type | channel | size | bytes | 0xCE |
//! +------+---------+------+-- - --+------+
//!    1        2       4     size     1
//! ```

use anyhow::{Result, bail};

use super::content::Content;
use super::method::Method;

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
pub const HEARTBEAT: u8 = 8;
pub const END: u8 = 0xCE;
/// What a frame costs beside its payload.
pub const OVERHEAD: usize = 8;
/// The protocol header of 0-9-1.
pub const PROTOCOL: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// One frame without its end octet.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub channel: u16,
    pub payload: Vec<u8>,
}

/// What stands at the front of received bytes.
#[derive(Debug)]
pub enum Front {
    /// More bytes are due.
    Short,
    /// The server's protocol header.
    Protocol(Vec<u8>),
    Frame(Frame),
}

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    put_bad(out, kind, channel, size, payload, &[END]);
}

/// Appends a frame whose size and end may lie.
pub fn put_bad(out: &mut Vec<u8>, kind: u8, channel: u16, size: u32, payload: &[u8], end: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(end);
}

/// Appends a method, and its content split for `frame_max`.
///
/// # Errors
/// A value has another kind than its argument.
pub fn put_method(
    out: &mut Vec<u8>,
    channel: u16,
    method: &Method,
    content: Option<&Content>,
    frame_max: usize,
) -> Result<()> {
    put(out, METHOD, channel, &method.encode()?);
    let Some(content) = content else {
        return Ok(());
    };
    put(
        out,
        HEADER,
        channel,
        &content.header(60, 0, content.body.len() as u64)?,
    );
    for part in content.body.chunks(frame_max - OVERHEAD) {
        put(out, BODY, channel, part);
    }
    Ok(())
}

/// Takes one frame off the front of `bytes`; `frame_max` 0 is no limit.
///
/// # Errors
/// The server wrote a frame that is larger than agreed, or without its end.
pub fn take(bytes: &mut Vec<u8>, frame_max: usize) -> Result<Front> {
    if bytes.first() == Some(&b'A') {
        if bytes.len() < PROTOCOL.len() {
            return Ok(Front::Short);
        }
        return Ok(Front::Protocol(bytes.drain(..PROTOCOL.len()).collect()));
    }
    if bytes.len() < 7 {
        return Ok(Front::Short);
    }
    let size = u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]) as usize;
    if frame_max != 0 && size + OVERHEAD > frame_max {
        bail!(
            "a frame of {} bytes where {frame_max} were agreed",
            size + OVERHEAD
        );
    }
    if bytes.len() < size + OVERHEAD {
        return Ok(Front::Short);
    }
    if bytes[size + 7] != END {
        bail!("a frame that ends with {:#04x}", bytes[size + 7]);
    }
    let frame = Frame {
        kind: bytes[0],
        channel: u16::from_be_bytes([bytes[1], bytes[2]]),
        payload: bytes[7..7 + size].to_vec(),
    };
    bytes.drain(..size + OVERHEAD);
    Ok(Front::Frame(frame))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_are_taken_one_by_one() {
        let mut bytes = PROTOCOL.to_vec();
        put(&mut bytes, METHOD, 7, b"abc");
        bytes.extend_from_slice(&[8, 0]);
        assert!(matches!(take(&mut bytes, 0).unwrap(), Front::Protocol(_)));
        let Front::Frame(frame) = take(&mut bytes, 0).unwrap() else {
            panic!("no frame")
        };
        assert_eq!(
            (frame.kind, frame.channel, &frame.payload[..]),
            (METHOD, 7, &b"abc"[..])
        );
        assert!(matches!(take(&mut bytes, 0).unwrap(), Front::Short));
    }

    #[test]
    fn a_server_that_breaks_the_rules_is_caught() {
        let mut large = Vec::new();
        put(&mut large, BODY, 1, &[0; 100]);
        assert!(take(&mut large, 107).is_err());
        let mut open = Vec::new();
        put_bad(&mut open, BODY, 1, 3, b"abc", &[0]);
        assert!(take(&mut open, 0).is_err());
    }
}
