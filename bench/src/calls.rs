//! Deferred calls over HTTP: POSTs on keep-alive connections, each waiting for its `202`.
//!
//! Keeps: one request in flight per connection; the answers are counted, then the queue behind
//! them, so that an accept that stored nothing is seen.
//! Never: pipelines, and never counts an answer other than `202`.
//! In: `main`. One thread, non-blocking sockets, HTTP/1.1 by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

use crate::broker::{Broker, stored};
use crate::control::{thread_cpu_ns, timespec};
use crate::latency::Latency;
use crate::link::{Declare, Link};
use crate::measurement::Measurement;
use crate::procfs::Usage;
use crate::producer::would_wait;
use crate::run::{left, mib, per_message_us, rss_peak_mib};
use crate::workload::Workload;

const QUEUE: &str = "bench-calls";
const BODY: &str = "{\"n\":30}";
const SILENCE_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 64 * 1024;

/// Plays it; `Measurement::e2e` holds the time from request to answer.
pub(crate) fn play(
    broker: &Broker,
    workload: &Workload,
    connections: usize,
    calls: u64,
) -> Result<Measurement> {
    let mut link = Link::open(broker.amqp)?;
    link.declare_queue(QUEUE, Declare::Durable)?;
    link.close()?;
    let mut result = Measurement::new(&workload.name, broker.kind, true);
    let mut clients = (0..connections)
        .map(|_| Client::connect(broker.http))
        .collect::<Result<Vec<_>>>()
        .context("connect over HTTP")?;
    let before = Usage::of(broker.pid())?;
    let commits_before = stored(broker.http).map(|stored| stored.commits);
    let (began, cpu_began) = (Instant::now(), thread_cpu_ns());
    let latency = post_all(&mut clients, calls)?;
    let (seconds, cpu_ns) = (began.elapsed().as_secs_f64(), thread_cpu_ns() - cpu_began);
    let used = Usage::of(broker.pid())?.since(before);
    result.messages_per_s = calls as f64 / seconds;
    result.e2e = latency.quantiles();
    result.broker_cpu_us = Some(used.cpu_us / calls.max(1) as f64);
    result.generator_cpu_us = Some(per_message_us(cpu_ns, calls));
    result.written_mib = used.written_bytes.map(mib);
    let commits = stored(broker.http)
        .map(|stored| stored.commits)
        .zip(commits_before);
    result.commits_per_s = commits.map(|(after, before)| (after - before) as f64 / seconds);
    result.rss_peak_mib = rss_peak_mib(broker);
    let stored = left(broker, &[QUEUE.to_owned()])?;
    if stored != calls {
        result.failure = Some(format!(
            "{calls} calls accepted, {stored} messages in the queue"
        ));
    }
    Ok(result)
}

struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
    sent_at: Option<Instant>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            answer: Vec::new(),
            sent_at: None,
        })
    }

    /// The request is far smaller than an empty send buffer, so one write takes it whole.
    fn post(&mut self, request: &[u8]) -> Result<()> {
        self.sent_at = Some(Instant::now());
        let count = (&self.stream).write(request)?;
        if count != request.len() {
            bail!("a request did not fit the send buffer");
        }
        Ok(())
    }

    /// Reads what is there; the time since the request once the answer is whole.
    fn poll_answer(&mut self) -> Result<Option<Duration>> {
        let mut chunk = [0; 4_096];
        loop {
            match (&self.stream).read(&mut chunk) {
                Ok(0) => bail!("the server closed a keep-alive connection"),
                Ok(count) => self.answer.extend_from_slice(&chunk[..count]),
                Err(error) if would_wait(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let Some((status, span)) = parse_answer(&self.answer)? else {
            return Ok(None);
        };
        if status != 202 {
            bail!(
                "a call was answered:\n{}",
                String::from_utf8_lossy(&self.answer)
            );
        }
        self.answer.drain(..span);
        Ok(self.sent_at.take().map(|sent| sent.elapsed()))
    }
}

fn post_all(clients: &mut [Client], calls: u64) -> Result<Latency> {
    let request = format!(
        "POST /v1/calls/queue/{QUEUE} HTTP/1.1\r\nHost: localhost\r\n\
        Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nContent-Type: application/json\r\n\
        Content-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let (mut sent, mut accepted, mut latency) = (0, 0, Latency::new());
    for client in clients.iter_mut().take(calls as usize) {
        client.post(request.as_bytes())?;
        sent += 1;
    }
    while accepted < calls {
        for index in readable(clients)? {
            let Some(took) = clients[index].poll_answer()? else {
                continue;
            };
            latency.record(took.as_nanos() as u64);
            accepted += 1;
            if sent < calls {
                clients[index].post(request.as_bytes())?;
                sent += 1;
            }
        }
    }
    Ok(latency)
}

fn readable(clients: &[Client]) -> Result<Vec<usize>> {
    let mut polled: Vec<PollFd<'_>> = clients
        .iter()
        .map(|client| PollFd::new(&client.stream, PollFlags::IN))
        .collect();
    if poll(&mut polled, Some(&timespec(SILENCE_MAX)))? == 0 {
        bail!("no answer for {} s", SILENCE_MAX.as_secs());
    }
    let ready = polled
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.revents().is_empty());
    Ok(ready.map(|(index, _)| index).collect())
}

/// Status and length of the first whole answer, `None` while it is incomplete. Only answers with
/// a `content-length` are understood.
fn parse_answer(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > ANSWER_MAX {
            bail!("an answer without an end of its head");
        }
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_end]).context("head of an answer")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or("");
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no HTTP status in {status_line:?}"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .context("an answer without a content-length")?;
    let span = head_end + 4 + length;
    Ok((bytes.len() >= span).then_some((status, span)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_is_taken_when_its_last_byte_is_there() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-LENGTH: 3\r\nx: y\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert_eq!(parse_answer(&whole[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(parse_answer(whole).unwrap(), Some((202, whole.len())));
        let two = [&whole[..], b"HTTP/1.1 500"].concat();
        assert_eq!(parse_answer(&two).unwrap(), Some((202, whole.len())));
    }

    /// A server that answers each request on each of `connections` with `answer`.
    fn serve(connections: usize, answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut request = [0; 1_024];
                    while stream.read(&mut request).is_ok_and(|count| count > 0) {
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        address
    }

    fn posted(connections: usize, calls: u64, answer: &'static str) -> Result<Latency> {
        let address = serve(connections, answer);
        let mut clients: Vec<Client> = (0..connections)
            .map(|_| Client::connect(address).unwrap())
            .collect();
        post_all(&mut clients, calls)
    }

    #[test]
    fn each_call_is_answered_once() {
        let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(posted(4, 103, accepted).unwrap().count(), 103);
        assert_eq!(posted(4, 2, accepted).unwrap().count(), 2);
    }

    #[test]
    fn another_status_ends_the_run() {
        let refused = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let error = posted(2, 10, refused).err().unwrap().to_string();
        assert!(error.contains("404"), "{error}");
    }

    #[test]
    fn answers_that_cannot_be_measured_are_errors() {
        assert!(parse_answer(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        assert!(parse_answer(b"nonsense\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
