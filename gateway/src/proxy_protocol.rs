//! The PROXY header that a proxy puts before a connection, versions 1 and 2.
//!
//! Keeps: not one byte behind the header is read, so that TLS or AMQP finds its first byte.
//! Never: guesses: a connection without a whole, sound header is refused.
//! In: `listen`, on listeners that the configuration names.
//!
//! Source: HAProxy's specification of the protocol, §2.
//!
//! ```text
//! v1  PROXY TCP4 192.0.2.7 192.0.2.1 51000 5672\r\n                         at most 107 bytes
//! v2  signature 12 │ version, command 1 │ family 1 │ length 2 │ addresses │ extras
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client behind the proxy.
    Client(SocketAddr),
    /// The proxy itself, asking whether we live: the socket's own address counts.
    Proxy,
    /// The proxy does not say: nobody's address, and hence not this machine's.
    Unknown,
}

/// Takes the header off the front of a fresh connection.
///
/// # Errors
/// `InvalidData` for anything else than a header; whatever the socket says.
pub async fn read(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Source> {
    let mut head = [0; 16];
    socket.read_exact(&mut head[..12]).await?;
    if head[..12] == SIGNATURE {
        socket.read_exact(&mut head[12..]).await?;
        let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
        if length > EXTRAS_MAX {
            return Err(refused("longer than any proxy writes"));
        }
        let mut rest = vec![0; length];
        socket.read_exact(&mut rest).await?;
        return version_2(head[12], head[13], &rest);
    }
    if !head.starts_with(b"PROXY ") {
        return Err(refused("missing"));
    }
    let mut line = head[..12].to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_MAX {
            return Err(refused("a line without an end"));
        }
        line.push(socket.read_u8().await?);
    }
    version_1(&line)
}

fn version_1(line: &[u8]) -> io::Result<Source> {
    let malformed = || refused("malformed");
    let line = std::str::from_utf8(line).map_err(|_| malformed())?;
    let words: Vec<&str> = line.trim_end_matches("\r\n").split(' ').collect();
    let (from, to, from_port, to_port) = match words[..] {
        ["PROXY", "UNKNOWN", ..] => return Ok(Source::Unknown),
        ["PROXY", "TCP4" | "TCP6", from, to, from_port, to_port] => (from, to, from_port, to_port),
        _ => return Err(malformed()),
    };
    let from: IpAddr = from.parse().map_err(|_| malformed())?;
    let to: IpAddr = to.parse().map_err(|_| malformed())?;
    let (_, port): (u16, u16) = to_port
        .parse()
        .and_then(|to| Ok((to, from_port.parse()?)))
        .map_err(|_| malformed())?;
    if from.is_ipv4() != (words[1] == "TCP4") || to.is_ipv4() != from.is_ipv4() {
        return Err(malformed());
    }
    Ok(Source::Client(SocketAddr::new(from, port)))
}

fn version_2(version_command: u8, family: u8, rest: &[u8]) -> io::Result<Source> {
    match version_command {
        0x20 => return Ok(Source::Proxy),
        0x21 => {}
        _ => return Err(refused("of an unknown version or command")),
    }
    let (ip, port): (IpAddr, _) = match (family, rest) {
        // From, to, port from, port to.
        (0x11, [a, b, c, d, _, _, _, _, high, low, _, _, ..]) => {
            ([*a, *b, *c, *d].into(), [*high, *low])
        }
        (0x21, rest) if rest.len() >= 36 => {
            let from = rest.first_chunk::<16>().copied().unwrap_or_default();
            (from.into(), [rest[32], rest[33]])
        }
        (0x11 | 0x21, _) => return Err(refused("shorter than its addresses")),
        _ => return Ok(Source::Unknown),
    };
    Ok(Source::Client(SocketAddr::new(
        ip,
        u16::from_be_bytes(port),
    )))
}

fn refused(why: &str) -> io::Error {
    let text = format!("the PROXY header is {why}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1 by its specification.
const LINE_MAX: usize = 107;
/// Addresses and extras of version 2: proxies write some hundred bytes (a TLS subject, a token).
const EXTRAS_MAX: usize = 4096;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed test")]
mod tests {
    use super::*;

    async fn of(mut wire: &[u8]) -> Result<(Source, usize), io::ErrorKind> {
        let source = read(&mut wire).await.map_err(|error| error.kind())?;
        Ok((source, wire.len()))
    }

    fn client(text: &str) -> Source {
        Source::Client(text.parse().unwrap())
    }

    fn version_2_wire(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut wire = SIGNATURE.to_vec();
        wire.extend([command, family]);
        wire.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        wire.extend(rest);
        wire.extend(b"AMQP");
        wire
    }

    #[tokio::test]
    async fn a_line_names_the_client_and_leaves_what_follows() {
        let wire = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 5672\r\nAMQP";
        assert_eq!(of(wire).await, Ok((client("192.0.2.7:51000"), 4)));
        let wire = b"PROXY TCP6 2001:db8::7 ::1 51000 5672\r\nAMQP";
        assert_eq!(of(wire).await, Ok((client("[2001:db8::7]:51000"), 4)));
        assert_eq!(of(b"PROXY UNKNOWN\r\nAMQP").await, Ok((Source::Unknown, 4)));
        let wire = b"PROXY UNKNOWN 127.0.0.1 x y z\r\n";
        assert_eq!(of(wire).await, Ok((Source::Unknown, 0)));
    }

    #[tokio::test]
    async fn binary_headers_name_the_client_too() {
        let four = [
            192, 0, 2, 7, 192, 0, 2, 1, 0xC7, 0x38, 0x16, 0x28, 4, 0, 1, 9,
        ];
        let wire = version_2_wire(0x21, 0x11, &four);
        assert_eq!(of(&wire).await, Ok((client("192.0.2.7:51000"), 4)));
        let mut six = [0; 36];
        (six[15], six[32], six[33]) = (1, 0xC7, 0x38);
        let wire = version_2_wire(0x21, 0x21, &six);
        assert_eq!(of(&wire).await, Ok((client("[::1]:51000"), 4)));
        let local = version_2_wire(0x20, 0, b"");
        assert_eq!(of(&local).await, Ok((Source::Proxy, 4)));
        let unix = version_2_wire(0x21, 0x31, &[0; 216]);
        assert_eq!(of(&unix).await, Ok((Source::Unknown, 4)));
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for wire in [
            &b"AMQP\0\0\x09\x01AMQP\0\0\x09\x01"[..],
            b"PROXY TCP4 192.0.2.7 192.0.2.1 51000\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 99999\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n....",
            b"PROXY TCP6 ::1 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 192.0.2.7 192.0.2.1 5 6\r\n",
            &[b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            &version_2_wire(0x31, 0x11, &[0; 12]),
            &version_2_wire(0x22, 0x11, &[0; 12]),
            &version_2_wire(0x21, 0x11, &[0; 11]),
            &version_2_wire(0x21, 0x21, &[0; 12]),
            &version_2_wire(0x21, 0x11, &[0; EXTRAS_MAX + 1]),
        ] {
            let found = of(wire).await;
            assert_eq!(
                found,
                Err(io::ErrorKind::InvalidData),
                "{}",
                wire.escape_ascii()
            );
        }
        let short = of(b"PROXY TCP4 192").await;
        assert_eq!(short, Err(io::ErrorKind::UnexpectedEof));
    }
}
