//! A very small HTTP client: one request, one connection.
//!
//! Keeps: an answer counts only when it came whole.
//! Never: follows redirects or keeps connections.
//! In: `calls`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Generous: a call waits for a commit, and a commit for a database that comes back.
pub const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; the name is written in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request as guest.
///
/// # Errors
/// The server is gone, or its answer is not whole.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    socket.write_all(&bytes)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no whole head")?;
    let head = String::from_utf8(answer[..end].to_vec())?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .context("no status")?;
    let mut answer = Answer {
        status,
        head,
        body: answer[end + 4..].to_vec(),
    };
    let length = answer
        .header("content-length")
        .map(str::parse::<usize>)
        .transpose()?;
    match length {
        Some(length) if answer.body.len() != length => bail!("half a body"),
        None if answer.header("transfer-encoding") == Some("chunked") => {
            answer.body = unchunk(&answer.body)?;
        }
        _ => {}
    }
    Ok(answer)
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .context("half a chunk")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end])?.trim(), 16)?;
        let chunk = bytes.get(end + 2..end + 2 + size).context("half a chunk")?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).context("half a chunk")?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let answer = parse(b"HTTP/1.1 202 Accepted\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nok");
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.header("location")),
            (202, Some("/x"))
        );
        assert_eq!(answer.text(), "ok");
        assert!(parse(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\no").is_err());
        assert!(parse(b"HTTP/1.1 202 Acc").is_err());
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().text(), "abc");
        assert!(parse(&chunked[..chunked.len() - 5]).is_err());
    }
}
