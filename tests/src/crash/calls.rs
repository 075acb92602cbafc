//! Deferred calls under crashes: what was accepted has one job, one final state, one result.
//!
//! Keeps: every accepted call with its key, every final state that was ever seen.
//! Never: counts a call as accepted before its answer came whole.
//! In: `tests/crash.rs`: a caller and a worker per cycle, `verify` after each start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value as Json;

use super::Faults;
use super::http::{ANSWER_MAX, Answer, request};
use super::load::Shared;
use super::peer::Peer;
use super::topology::CALLS;
use crate::wire::content::{Content, position};
use crate::wire::method::Method;
use crate::wire::value::Value;

/// All calls so far.
#[derive(Debug, Default)]
pub struct Calls {
    next: u64,
    /// Number of the call → job.
    pub accepted: BTreeMap<u64, String>,
    /// Sent, but the answer never came; the same key is tried again later.
    uncertain: Vec<u64>,
    /// Final state of a call, as first seen.
    pub finals: BTreeMap<u64, String>,
    /// Calls that were repeated with their key after a crash.
    pub repeated: usize,
    /// Answers 503: the node let its store go while the call waited. Nothing is known of the call
    /// then, so that its key is tried again.
    pub refused: usize,
}

impl Calls {
    /// Posts calls until the server is gone or it is told to stop.
    pub fn post(&mut self, http: SocketAddr, shared: &Shared, faults: &mut Faults) {
        while !shared.stop.load(Ordering::Relaxed) {
            let call = self.uncertain.pop().unwrap_or_else(|| {
                self.next += 1;
                self.next
            });
            let begun = Instant::now();
            let Ok(answer) = send(http, call) else {
                // A server that is gone says so at once, and one that lives answers.
                if begun.elapsed() >= ANSWER_MAX {
                    faults.add(|| format!("call {call}: no answer within {ANSWER_MAX:?}"));
                }
                self.uncertain.push(call);
                return;
            };
            if answer.status == 503 {
                self.refused += 1;
                self.uncertain.push(call);
                return;
            }
            match job_of(&answer) {
                Ok(job) => {
                    self.accepted.insert(call, job);
                }
                Err(fault) => faults.add(|| format!("call {call}: {fault:#}")),
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// After a start: every recent job is there, repeats find their job, final states stay.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn verify(&mut self, http: SocketAddr, faults: &mut Faults) -> Result<()> {
        let recent: Vec<_> = self.accepted.iter().rev().take(SAMPLE).collect();
        let recent: Vec<_> = recent
            .into_iter()
            .map(|(call, job)| (*call, job.clone()))
            .collect();
        if let Some((call, job)) = recent.first() {
            self.repeated += 1;
            let again = job_of(&send(http, *call)?);
            match again {
                Ok(again) if again == *job => {}
                other => faults.add(|| format!("call {call} repeated: {other:?}, not {job}")),
            }
        }
        let older: Vec<_> = self.finals.keys().copied().rev().take(SAMPLE).collect();
        let older = older
            .into_iter()
            .filter_map(|call| Some((call, self.accepted.get(&call)?)));
        let older: Vec<_> = older.map(|(call, job)| (call, job.clone())).collect();
        for (call, job) in recent.into_iter().chain(older) {
            self.look_at(http, call, &job, faults)?;
        }
        Ok(())
    }

    /// At the end: every accepted call reaches its final state, and its result is the worker's.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn finish(&mut self, http: SocketAddr, limit: Duration, faults: &mut Faults) -> Result<()> {
        let deadline = Instant::now() + limit;
        for (call, job) in self.accepted.clone() {
            while !self.look_at(http, call, &job, faults)? {
                if Instant::now() > deadline {
                    faults.add(|| format!("call {call}, job {job} is not final after {limit:?}"));
                    break;
                }
                sleep(Duration::from_millis(100));
            }
            if self
                .finals
                .get(&call)
                .is_some_and(|state| state == "succeeded")
            {
                let result = request(http, "GET", &format!("/v1/jobs/{job}/result"), &[], b"")?;
                if result.status != 200 || result.text() != reply(&call.to_string()) {
                    let is = (result.status, result.text());
                    faults.add(|| format!("the result of call {call} is {is:?}"));
                }
            }
        }
        Ok(())
    }

    pub fn count(&self, state: &str) -> usize {
        self.finals.values().filter(|is| *is == state).count()
    }

    /// Notes a job's state; true when it is final.
    fn look_at(
        &mut self,
        http: SocketAddr,
        call: u64,
        job: &str,
        faults: &mut Faults,
    ) -> Result<bool> {
        let answer = request(http, "GET", &format!("/v1/jobs/{job}"), &[], b"")?;
        if answer.status != 200 {
            faults.add(|| format!("job {job} of call {call} answers {}", answer.status));
            return Ok(true);
        }
        let json: Json = serde_json::from_slice(&answer.body)?;
        let state = json["state"].as_str().unwrap_or_default().to_owned();
        match self.finals.get(&call) {
            Some(before) if *before != state => {
                faults.add(|| format!("call {call} was {before} and is {state}"));
            }
            Some(_) => {}
            None if FINAL.contains(&state.as_str()) => {
                if state != "succeeded" && json["attempt"].as_u64() < json["max_attempts"].as_u64()
                {
                    faults.add(|| format!("call {call} is {state} before its last attempt"));
                }
                self.finals.insert(call, state);
            }
            None => return Ok(false),
        }
        Ok(true)
    }
}

/// Answers calls until the server is gone or it is told to stop.
pub fn work(address: SocketAddr, shared: &Shared) {
    // The socket's end is the expected end.
    let _ = try_to_work(address, shared);
}

fn try_to_work(address: SocketAddr, shared: &Shared) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    let consume = Method::named("basic.consume")?.with("queue", Value::str(CALLS))?;
    peer.call(1, &consume, "basic.consume-ok")?;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(received) = peer.next(Duration::from_millis(20))? else {
            continue;
        };
        let content = received.content.as_ref().context("not a delivery")?;
        let asked = String::from_utf8_lossy(&content.body).into_owned();
        let address = content
            .get("reply-to")
            .cloned()
            .context("a call without reply-to")?;
        let publish = Method::named("basic.publish")?.with("routing-key", address)?;
        let mut answer = Content {
            body: reply(&asked).into_bytes(),
            ..Content::default()
        };
        let correlation = position("correlation-id").context("a property")?;
        answer.properties[correlation] = content.get("correlation-id").cloned();
        peer.put(1, &publish, Some(&answer))?;
        let tag = received
            .method
            .get("delivery-tag")
            .cloned()
            .context("a tag")?;
        peer.put(
            1,
            &Method::named("basic.ack")?.with("delivery-tag", tag)?,
            None,
        )?;
        peer.flush()?;
    }
    Ok(())
}

fn reply(asked: &str) -> String {
    format!("reply to {asked}")
}

fn send(http: SocketAddr, call: u64) -> Result<Answer> {
    let key = format!("\"crash-{call}\"");
    let path = format!("/v1/calls/queue/{CALLS}");
    request(
        http,
        "POST",
        &path,
        &[("idempotency-key", &key)],
        call.to_string().as_bytes(),
    )
}

fn job_of(answer: &Answer) -> Result<String> {
    if !matches!(answer.status, 200 | 202) {
        bail!("answered {}: {}", answer.status, answer.text());
    }
    let location = answer.header("location").context("no location")?;
    location
        .rsplit('/')
        .next()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("no job in {location}"))
}

const FINAL: [&str; 4] = ["succeeded", "failed", "cancelled", "expired"];

/// Jobs that are looked at after each start.
const SAMPLE: usize = 20;
