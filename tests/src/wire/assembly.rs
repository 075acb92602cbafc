//! Frames become methods with their contents, channel by channel.
//!
//! Keeps: what a channel has of a content that is not whole yet.
//! Never: reads a socket.
//! In: `conversation::client` and `crash::peer`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::content::Content;
use super::frame::{self, Frame};
use super::method::Method;

/// A method with the content that followed it.
#[derive(Clone, Debug)]
pub struct Received {
    pub channel: u16,
    pub method: Method,
    /// Boxed: most methods bring none.
    pub content: Option<Box<Content>>,
}

/// What a frame completed.
#[derive(Debug)]
pub enum Whole {
    Method(Received),
    Heartbeat,
}

/// The contents under way on one connection.
#[derive(Debug, Default)]
pub struct Assembler {
    /// The method, and once its header came, the content and the size it will have.
    contents: BTreeMap<u16, (Method, Option<(Content, u64)>)>,
}

impl Assembler {
    /// Adds a frame to what its channel has; returns what became whole.
    ///
    /// # Errors
    /// The server broke the protocol.
    pub fn add(&mut self, frame: Frame) -> Result<Option<Whole>> {
        let channel = frame.channel;
        match (frame.kind, self.contents.remove(&channel)) {
            (frame::HEARTBEAT, None) => Ok(Some(Whole::Heartbeat)),
            (frame::METHOD, None) => {
                let method = Method::decode(&frame.payload)?;
                if method.spec.content {
                    self.contents.insert(channel, (method, None));
                    return Ok(None);
                }
                let content = None;
                Ok(Some(Whole::Method(Received {
                    channel,
                    method,
                    content,
                })))
            }
            (frame::HEADER, Some((method, None))) => {
                let content = Content::parse_header(&frame.payload)?;
                Ok(self.keep(channel, method, content))
            }
            (frame::BODY, Some((method, Some((mut content, size))))) => {
                content.body.extend_from_slice(&frame.payload);
                content.frames += 1;
                if content.body.len() as u64 > size {
                    bail!("a body of more than the {size} bytes that its header said");
                }
                Ok(self.keep(channel, method, (content, size)))
            }
            (kind, _) => bail!("a frame of type {kind} out of turn on channel {channel}"),
        }
    }

    fn keep(&mut self, channel: u16, method: Method, content: (Content, u64)) -> Option<Whole> {
        if content.0.body.len() as u64 != content.1 {
            self.contents.insert(channel, (method, Some(content)));
            return None;
        }
        let content = Some(Box::new(content.0));
        Some(Whole::Method(Received {
            channel,
            method,
            content,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frame(kind: u8, payload: Vec<u8>) -> Frame {
        Frame {
            kind,
            channel: 1,
            payload,
        }
    }

    #[test]
    fn a_content_is_whole_with_its_last_body() {
        let mut assembler = Assembler::default();
        let method = Method::named("basic.deliver").unwrap().encode().unwrap();
        let header = Content::default().header(60, 0, 3).unwrap();
        assert!(
            assembler
                .add(frame(frame::METHOD, method))
                .unwrap()
                .is_none()
        );
        assert!(
            assembler
                .add(frame(frame::HEADER, header))
                .unwrap()
                .is_none()
        );
        assert!(
            assembler
                .add(frame(frame::BODY, b"ab".to_vec()))
                .unwrap()
                .is_none()
        );
        let whole = assembler.add(frame(frame::BODY, b"c".to_vec())).unwrap();
        let Some(Whole::Method(received)) = whole else {
            panic!("not whole")
        };
        let content = received.content.unwrap();
        assert_eq!((&content.body[..], content.frames), (&b"abc"[..], 2));
    }

    #[test]
    fn a_server_out_of_turn_is_caught() {
        let mut assembler = Assembler::default();
        assert!(assembler.add(frame(frame::BODY, b"x".to_vec())).is_err());
        let method = Method::named("basic.return").unwrap().encode().unwrap();
        assembler.add(frame(frame::METHOD, method.clone())).unwrap();
        assert!(assembler.add(frame(frame::METHOD, method)).is_err());
    }
}
