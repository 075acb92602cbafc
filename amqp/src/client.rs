//! The other side of the wire, for tests and load: a client's frames out, the server's frames in.
//! Pure.
//!
//! Keeps: it decodes through `amq-protocol` alone, so that it can stand as oracle for `hot`.
//! Never: trusts its peer less than a test must; the server's side has the guards.
//! In: unit tests, and whoever enables the feature `client`.

use amq_protocol::frame::{AMQPFrame, WriteContext, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, connection, gen_class};
use amq_protocol::types::FieldTable;

use crate::content::Address;
use crate::field::{Malformed, Table};
use crate::limits::FRAME_OVERHEAD;

/// What a client says first.
pub const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

const END: u8 = 0xCE;

/// One frame from the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub channel: u16,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// The server speaks another protocol: the version it wants, major first.
    Version([u8; 3]),
    Method(AMQPClass),
    Header {
        body_size: u64,
        properties: Box<basic::AMQPProperties>,
    },
    Body(Vec<u8>),
    Heartbeat,
}

/// The frame at the front of `input` and its length; `None` while it is incomplete.
///
/// # Errors
/// The bytes are no frame.
pub fn decode(input: &[u8]) -> Result<Option<(Frame, usize)>, Malformed> {
    let (rest, frame) = match parse_frame(input) {
        Ok(done) => done,
        Err(error) if error.is_incomplete() => return Ok(None),
        Err(_) => return Err(Malformed("not a frame")),
    };
    let (channel, payload) = match frame {
        AMQPFrame::ProtocolHeader(version) => {
            let version = [version.major, version.minor, version.revision];
            (0, Payload::Version(version))
        }
        AMQPFrame::Method(channel, class) => (channel, Payload::Method(class)),
        AMQPFrame::Header(channel, header) => {
            let properties = Box::new(header.properties);
            let body_size = header.body_size;
            (
                channel,
                Payload::Header {
                    body_size,
                    properties,
                },
            )
        }
        AMQPFrame::Body(channel, body) => (channel, Payload::Body(body)),
        AMQPFrame::Heartbeat => (0, Payload::Heartbeat),
        AMQPFrame::InvalidHeartbeat(_) => return Err(Malformed("heartbeat on a channel")),
    };
    let frame = Frame { channel, payload };
    Ok(Some((frame, input.len() - rest.len())))
}

/// All frames of `input`, which must end with a frame's end.
///
/// # Errors
/// Some bytes are no frame, or the last frame is incomplete.
pub fn decode_all(mut input: &[u8]) -> Result<Vec<Frame>, Malformed> {
    let mut out = Vec::new();
    while !input.is_empty() {
        let (frame, used) = decode(input)?.ok_or(Malformed("cut short"))?;
        out.push(frame);
        input = &input[used..];
    }
    Ok(out)
}

/// Any frame: kind 1 method, 2 header, 3 body, 8 heartbeat.
pub fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
}

/// Any method.
pub fn method(out: &mut Vec<u8>, channel: u16, method: &AMQPClass) {
    let payload = gen_class(method)(WriteContext::from(Vec::new()))
        .map(|context| context.into_inner().0)
        .expect("a vector takes any method");
    frame(out, 1, channel, &payload);
}

/// connection.start-ok with SASL PLAIN.
pub fn start_ok(out: &mut Vec<u8>, user: &str, password: &str, properties: &Table) {
    let properties: FieldTable = crate::control::to_field_table(properties);
    let ok = connection::StartOk {
        client_properties: properties,
        mechanism: "PLAIN".into(),
        response: format!("\0{user}\0{password}").as_str().into(),
        locale: "en_US".into(),
    };
    let ok = AMQPClass::Connection(connection::AMQPMethod::StartOk(ok));
    method(out, 0, &ok);
}

/// connection.tune-ok and connection.open; `heartbeat` in seconds.
pub fn tune_and_open(
    out: &mut Vec<u8>,
    channel_max: u16,
    frame_max: u32,
    heartbeat: u16,
    vhost: &str,
) {
    let ok = connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    };
    let ok = AMQPClass::Connection(connection::AMQPMethod::TuneOk(ok));
    method(out, 0, &ok);
    let open = connection::Open {
        virtual_host: vhost.into(),
    };
    let open = AMQPClass::Connection(connection::AMQPMethod::Open(open));
    method(out, 0, &open);
}

/// basic.publish with its content, the body in frames of at most `frame_max`.
pub fn publish(
    out: &mut Vec<u8>,
    channel: u16,
    address: &Address,
    mandatory: bool,
    raw_properties: &[u8],
    body: &[u8],
    frame_max: u32,
) {
    let mut payload = vec![0, 60, 0, 40, 0, 0];
    payload.extend_from_slice(address.wire());
    payload.push(u8::from(mandatory));
    frame(out, 1, channel, &payload);
    let mut payload = vec![0, 60, 0, 0];
    payload.extend_from_slice(&(body.len() as u64).to_be_bytes());
    payload.extend_from_slice(raw_properties);
    frame(out, 2, channel, &payload);
    for part in body.chunks(frame_max as usize - FRAME_OVERHEAD) {
        frame(out, 3, channel, part);
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed test; any instant"
)]
mod tests {
    use std::time::Instant;

    use amq_protocol::protocol::channel;

    use super::*;
    use crate::connection::testing::new;
    use crate::connection::{Connection, Event};
    use crate::{hot, sasl};

    /// The server's turn: hands over the client's bytes, answers what a broker would.
    fn turn(server: &mut Connection, wire: &mut Vec<u8>, seen: &mut Vec<String>) -> Vec<Frame> {
        assert_eq!(server.handle_bytes(Instant::now(), wire), wire.len());
        wire.clear();
        let block = server.take_block();
        while let Some(event) = server.poll_event() {
            match event {
                Event::Login {
                    mechanism,
                    response,
                } => {
                    let shown = sasl::credentials(&mechanism, &response, sasl::MECHANISMS);
                    let Ok(sasl::Credentials::Password { user, password }) = shown else {
                        panic!("{mechanism}");
                    };
                    seen.push(format!("{user}:{password}"));
                    server.accept_login();
                }
                Event::Open { vhost } => {
                    seen.push(vhost);
                    server.accept_open();
                }
                Event::ChannelOpen { channel } => {
                    let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
                    server.reply(channel, &AMQPClass::Channel(ok));
                }
                Event::Publish { first, count, .. } => {
                    let (first, count, size) = (first as usize, count as usize, 4096);
                    hot::deliver_run(
                        server.output(),
                        1,
                        b"c",
                        1,
                        false,
                        &block,
                        first,
                        count,
                        size,
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        let frames = decode_all(server.output()).unwrap();
        server.output().clear();
        frames
    }

    #[test]
    fn a_message_comes_back_through_a_whole_session() {
        let mut server = new(Instant::now());
        let (mut wire, mut seen) = (HEADER.to_vec(), Vec::new());
        let frames = turn(&mut server, &mut wire, &mut seen);
        let Payload::Method(AMQPClass::Connection(connection::AMQPMethod::Start(start))) =
            &frames[0].payload
        else {
            panic!("{frames:?}")
        };
        assert!(start.mechanisms.to_string().contains("PLAIN"));
        start_ok(&mut wire, "ann", "secret", &Table::default());
        assert_eq!(turn(&mut server, &mut wire, &mut seen).len(), 1);
        tune_and_open(&mut wire, 10, 4096, 0, "a vhost");
        let open = channel::AMQPMethod::Open(channel::Open {});
        method(&mut wire, 1, &AMQPClass::Channel(open));
        assert_eq!(turn(&mut server, &mut wire, &mut seen).len(), 2);
        assert_eq!(seen, ["ann:secret", "a vhost"]);

        let body: Vec<u8> = (0..9000u32).map(|n| n as u8).collect();
        let address = Address::new(b"x", b"k");
        publish(&mut wire, 1, &address, false, &[0x10, 0, 2], &body, 4096);
        let frames = turn(&mut server, &mut wire, &mut seen);
        let parts = frames.iter().filter_map(|frame| match &frame.payload {
            Payload::Body(part) => Some(&part[..]),
            _ => None,
        });
        assert_eq!(parts.collect::<Vec<_>>().concat(), body);
        assert_eq!(frames.len(), 5);
    }

    #[test]
    fn a_cut_frame_is_awaited_and_a_broken_one_refused() {
        let mut wire = Vec::new();
        frame(&mut wire, 8, 0, b"");
        for end in 0..wire.len() {
            assert_eq!(decode(&wire[..end]), Ok(None), "at {end}");
        }
        let heartbeat = Frame {
            channel: 0,
            payload: Payload::Heartbeat,
        };
        assert_eq!(decode(&wire), Ok(Some((heartbeat, 8))));
        wire[7] = 0;
        assert!(decode(&wire).is_err());
        assert_eq!(decode_all(&wire[..3]), Err(Malformed("cut short")));
    }
}
