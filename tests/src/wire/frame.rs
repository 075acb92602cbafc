//! Frames: seven bytes, a payload, and 0xCE.
//!
//! Keeps: what a frame looks like, for good frames and for bad ones.
//! Never: reads a socket.
//! In: `assembly` joins them`.
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

/// What stands at the front of `bytes`, and how many of them it takes; `frame_max` 0 is no limit.
///
/// # Errors
/// The server wrote a frame that is larger than agreed, or without its end.
pub fn split(bytes: &[u8], frame_max: usize) -> Result<(Front, usize)> {
    if bytes.first() == Some(&b'A') {
        return Ok(match bytes.get(..PROTOCOL.len()) {
            Some(header) => (Front::Protocol(header.to_vec()), header.len()),
            None => (Front::Short, 0),
        });
    }
    let Some(head) = bytes.get(..7) else {
        return Ok((Front::Short, 0));
    };
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if frame_max != 0 && size + OVERHEAD > frame_max {
        bail!(
            "a frame of {} bytes where {frame_max} were agreed",
            size + OVERHEAD
        );
    }
    let Some(whole) = bytes.get(..size + OVERHEAD) else {
        return Ok((Front::Short, 0));
    };
    if whole[size + 7] != END {
        bail!("a frame that ends with {:#04x}", whole[size + 7]);
    }
    let frame = Frame {
        kind: head[0],
        channel: u16::from_be_bytes([head[1], head[2]]),
        payload: whole[7..size + 7].to_vec(),
    };
    Ok((Front::Frame(frame), whole.len()))
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
        let (front, first) = split(&bytes, 0).unwrap();
        assert!(matches!(front, Front::Protocol(_)));
        let (Front::Frame(frame), second) = split(&bytes[first..], 0).unwrap() else {
            panic!("no frame")
        };
        assert_eq!(
            (frame.kind, frame.channel, &frame.payload[..]),
            (METHOD, 7, &b"abc"[..])
        );
        let rest = split(&bytes[first + second..], 0).unwrap();
        assert!(matches!(rest, (Front::Short, 0)));
    }

    #[test]
    fn a_server_that_breaks_the_rules_is_caught() {
        let mut large = Vec::new();
        put(&mut large, BODY, 1, &[0; 100]);
        assert!(split(&large, 107).is_err());
        let mut open = Vec::new();
        put_bad(&mut open, BODY, 1, 3, b"abc", &[0]);
        assert!(split(&open, 0).is_err());
    }
}
