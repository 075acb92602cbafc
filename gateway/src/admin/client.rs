//! The command's end of the socket.
//!
//! Keeps: "no server runs" is told apart from "the server did not answer".
//! In: `cli::operate`.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::{Answer, Command, Request, Response, SOCKET, VERSION};

/// Asks the server whose data is in `folder`. The command comes back when there is none.
///
/// # Errors
/// The server refused the command, or something is between us and it.
pub fn ask(folder: &Path, command: Command) -> anyhow::Result<Result<Answer, Command>> {
    let path = folder.join(SOCKET);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(Err(command));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot open {}", path.display()));
        }
    };
    let request = Request {
        version: VERSION,
        command,
    };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    (&stream)
        .write_all(&line)
        .context("the server hung up before the command was sent")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    if answer.is_empty() {
        bail!("the server hung up: it may have done the command, or not");
    }
    let response: Response = serde_json::from_str(&answer).context("not an answer")?;
    match response.result {
        Ok(answer) => Ok(Ok(answer)),
        Err(reason) => bail!(reason),
    }
}
