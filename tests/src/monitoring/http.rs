//! The least HTTP client: one request, one connection, HTTP/1.0 so that no body is chunked.
//!
//! Keeps: every request ends, at the latest after [`PATIENCE`].
//! Never: follows, retries or caches.
//! In: `prometheus`, `load`, `tests/monitoring.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// A status code and a body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// # Errors
/// Nobody answers, or not with HTTP.
pub(crate) fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    ask(
        server,
        &format!("GET {path} HTTP/1.0\r\nhost: {server}\r\n\r\n"),
    )
}

/// As `guest`, with a body of JSON.
///
/// # Errors
/// Nobody answers, or not with HTTP.
pub(crate) fn post(server: SocketAddr, path: &str, headers: &str, body: &str) -> Result<Answer> {
    let length = body.len();
    ask(
        server,
        &format!(
            "POST {path} HTTP/1.0\r\nhost: {server}\r\nauthorization: Basic {GUEST}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        ),
    )
}

fn ask(server: SocketAddr, request: &str) -> Result<Answer> {
    let mut socket = TcpStream::connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("no end of the headers")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

/// What a text needs to stand in a query.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            byte if plain(byte) => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `guest:guest` in base64.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";
const PATIENCE: Duration = Duration::from_secs(15);
