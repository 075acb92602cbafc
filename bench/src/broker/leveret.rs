//! Leveret as a child process, and its commit counter.
//!
//! Keeps: nothing. Never: passes options that a user would not; the defaults are what is measured.
//! In: `broker`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::bound_to_us;
use crate::database;

const COMMITS: &str = "leveret_store_commits_total";
const BYTES: &str = "leveret_store_commit_bytes_sum";
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The store is SQLite in the data directory, or the PostgreSQL that is named.
pub(super) fn command(
    (program, store): (&Path, Option<&str>),
    dir: &Path,
    amqp: SocketAddr,
    http: SocketAddr,
) -> Command {
    let mut command = bound_to_us(program);
    command
        .current_dir(dir)
        .arg("serve")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--amqp-listen", &amqp.to_string()])
        .args(["--http-listen", &http.to_string()]);
    if let Some(store) = store {
        command.args(["--store", &database::store_url(store)]);
    }
    command
}

/// What the store was given so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) commits: u64,
    /// Of segments: messages with their index.
    pub(crate) bytes: u64,
}

/// From `/metrics`; `None` when it does not say.
pub(crate) fn stored(http: SocketAddr) -> Option<Stored> {
    let text = fetch_metrics(http)?;
    Some(Stored {
        commits: sum_of(&text, COMMITS)?,
        bytes: sum_of(&text, BYTES).unwrap_or(0),
    })
}

fn fetch_metrics(http: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&http, ANSWER_WITHIN).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\
        Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Sum of a counter over all its label sets.
fn sum_of(text: &str, name: &str) -> Option<u64> {
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_labels_and_not_mixed_with_longer_names() {
        let text = "# TYPE leveret_store_commits_total counter\n\
            leveret_store_commits_total{outcome=\"done\"} 40\n\
            leveret_store_commits_total{outcome=\"unknown\"} 2\n\
            leveret_store_commits_total_other 9\n";
        assert_eq!(sum_of(text, COMMITS), Some(42));
        assert_eq!(sum_of("leveret_store_commits_total 7\n", COMMITS), Some(7));
        assert_eq!(sum_of("nothing 1\n", COMMITS), None);
    }
}
