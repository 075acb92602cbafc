//! Settled messages that a queue keeps: listed, published again, and compared over crashes.
//!
//! Keeps: what was listed once is listed for as long as the history lasts, and in every replay
//! that was ordered after; each replay has a queue of its own, every second one with little room.
//! Never: asks the server whether it is content; it looks at lists and at what is delivered.
//! In: `tests/history.rs` after each start and at the end; `checker` judges by `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value as Json, json};

use super::ledger::{Book, Ledger, Replay};
use super::queues::{KEPT, QUEUES};
use crate::crash::Faults;
use crate::crash::http;
use crate::crash::message::{self, Id};
use crate::crash::peer::Peer;
use crate::crash::topology;
use crate::wire::method::Method;
use crate::wire::value::{Table, Value, entry};

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Doors {
    pub amqp: SocketAddr,
    pub http: SocketAddr,
}

/// Notes what is kept.
///
/// # Errors
/// The server is gone, or lists what nobody published.
pub fn list(doors: Doors, ledger: &Ledger) -> Result<()> {
    let listed = listed(doors)?;
    ledger.open().kept.push(listed);
    Ok(())
}

/// Notes what is kept, and orders all of it to be published again, so many a second at most.
///
/// # Errors
/// The server is gone, or refuses.
pub fn order(doors: Doors, ledger: &Ledger, rate: u64) -> Result<()> {
    let listed = listed(doors)?;
    let number = ledger.open().replays.len();
    let target = format!("history.again.{number}");
    let room = (number % 2 == 1).then_some(ROOM);
    let mut arguments: Table = Vec::new();
    if let Some(room) = room {
        arguments.push(("x-max-length".to_owned(), Value::int(room)));
        arguments.push(("x-overflow".to_owned(), Value::str("block")));
    }
    let declare = Method::named("queue.declare")?
        .with("queue", Value::str(&target))?
        .with("durable", Value::Bool(true))?
        .with("arguments", Value::Table(arguments))?;
    Peer::connect(doors.amqp)?.call(1, &declare, "queue.declare-ok")?;
    let path = format!("/v1/queues/{}/replay", QUEUES[KEPT].name);
    let body = json!({ "to": target, "rate": rate });
    let answer = ask(doors, "POST", &path, &body)?;
    let id = answer["id"].as_str().context("no id")?.to_owned();
    let mut book = ledger.open();
    book.kept.push(listed.clone());
    book.replays.push(Replay {
        id,
        target,
        room,
        listed,
        ..Replay::default()
    });
    Ok(())
}

/// Takes the copies of all replays; each goes on as its queue is emptied. False: one does not end.
///
/// # Errors
/// The server is gone.
pub fn collect(doors: Doors, ledger: &Ledger, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    let count = ledger.open().replays.len();
    for at in 0..count {
        let mut replay = ledger.open().replays[at].clone();
        let ended = take(doors, &mut replay, deadline)?;
        ledger.open().replays[at] = replay;
        if !ended {
            return Ok(false);
        }
    }
    Ok(true)
}

fn take(doors: Doors, replay: &mut Replay, deadline: Instant) -> Result<bool> {
    let mut peer = Peer::connect(doors.amqp)?;
    // As far as it goes without anybody's help.
    loop {
        look(doors, replay)?;
        replay.waited = topology::ready(&mut peer, &replay.target)?;
        let is_full = replay.room.is_some_and(|room| replay.waited >= room);
        if is_full || replay.state != "running" {
            break;
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(BETWEEN);
    }
    let consume = Method::named("basic.consume")?
        .with("queue", Value::str(&replay.target))?
        .with("no-ack", Value::Bool(true))?;
    peer.call(1, &consume, "basic.consume-ok")?;
    loop {
        // Asked before: what it published until then has come when nothing comes any more.
        look(doors, replay)?;
        while let Some(received) = peer.next(QUIET)? {
            let content = received.content.context("no content")?;
            let headers = match content.get("headers") {
                Some(Value::Table(headers)) => headers.clone(),
                _ => bail!("a copy without headers"),
            };
            let number = |name| entry(&headers, name).and_then(Value::as_int);
            let seq = number("x-replayed-seq").context("a copy without its place")?;
            let attempt = number("x-attempt").unwrap_or(1);
            let id = message::read(&content.body)?;
            replay.copies.push((seq, id, attempt));
        }
        if replay.state != "running" {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
    }
}

/// How far it is.
fn look(doors: Doors, replay: &mut Replay) -> Result<()> {
    let answer = ask(
        doors,
        "GET",
        &format!("/v1/redrives/{}", replay.id),
        &Json::Null,
    )?;
    answer["state"]
        .as_str()
        .context("no state")?
        .clone_into(&mut replay.state);
    replay.moved = answer["moved"].as_u64().context("no count")?;
    Ok(())
}

fn listed(doors: Doors) -> Result<BTreeMap<u64, Id>> {
    let mut out = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let name = QUEUES[KEPT].name;
        let path = format!("/v1/queues/{name}/retained?limit=1000&body_bytes=0{cursor}");
        let page = ask(doors, "GET", &path, &Json::Null)?;
        for message in page["messages"].as_array().context("no messages")? {
            let seq = message["seq"].as_u64().context("no seq")?;
            let name = message["properties"]["message_id"].as_str();
            let id = name.and_then(Id::named).context("a stranger")?;
            ensure!(out.insert(seq, id).is_none(), "place {seq} comes twice");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(out),
        }
    }
}

fn ask(doors: Doors, method: &str, path: &str, body: &Json) -> Result<Json> {
    let (headers, bytes) = match body {
        Json::Null => (&[][..], Vec::new()),
        body => (
            &[("content-type", "application/json")][..],
            body.to_string().into_bytes(),
        ),
    };
    let answer = http::request(doors.http, method, path, headers, &bytes)?;
    let text = answer.text();
    ensure!(
        answer.status < 300,
        "{method} {path}: {} {text}",
        answer.status
    );
    Ok(serde_json::from_str(&text)?)
}

/// Were settled messages kept, and published again, each once?
///
/// | | |
/// |---|---|
/// | kept | what a list showed is in all later ones; a confirmed message is in the last, once |
/// | replayed | what was listed when the order was given, once, as it was; not beyond its room |
pub fn check(book: &Book, kept: &mut Faults, replayed: &mut Faults) {
    for pair in book.kept.windows(2) {
        for (seq, id) in &pair[0] {
            if pair[1].get(seq) != Some(id) {
                kept.add(|| format!("{id:?} at {seq} was kept, now {:?}", pair[1].get(seq)));
            }
        }
    }
    let none = BTreeMap::new();
    let last = book.kept.last().unwrap_or(&none);
    let mut seen = BTreeSet::new();
    for (seq, id) in last {
        if !seen.insert(*id) {
            kept.add(|| format!("{id:?} is kept twice, once at {seq}"));
        }
        if book.sent.get(id).is_none_or(|sent| sent.queue != KEPT) {
            kept.add(|| format!("{id:?} at {seq} was never sent there"));
        }
    }
    for (id, sent) in &book.sent {
        if sent.queue == KEPT && sent.confirmed && !book.kept.is_empty() && !seen.contains(id) {
            kept.add(|| format!("{id:?} is settled and not kept"));
        }
    }
    for replay in &book.replays {
        check_replay(replay, last, replayed);
    }
}

fn check_replay(replay: &Replay, last: &BTreeMap<u64, Id>, faults: &mut Faults) {
    let target = &replay.target;
    if replay.state != "done" || replay.moved != replay.copies.len() as u64 {
        let (state, moved, came) = (&replay.state, replay.moved, replay.copies.len());
        faults.add(|| format!("{target} is {state} with {moved}, and {came} came"));
    }
    if replay.room.is_some_and(|room| replay.waited > room) {
        faults.add(|| format!("{target} had {} messages", replay.waited));
    }
    let mut seen = BTreeSet::new();
    for (seq, id, attempt) in &replay.copies {
        let place = seq.cast_unsigned();
        if !seen.insert(place) {
            faults.add(|| format!("{target}: {id:?} at {seq} came twice"));
        }
        if last.get(&place) != Some(id) || *attempt != 1 {
            faults.add(|| format!("{target}: {id:?} at {seq}, attempt {attempt}, is none of them"));
        }
    }
    for (seq, id) in &replay.listed {
        if !seen.contains(seq) {
            faults.add(|| format!("{target}: {id:?} at {seq} did not come"));
        }
    }
}

/// Ready messages that every second queue for copies takes.
const ROOM: i64 = 25;
/// Between two looks at a replay.
const BETWEEN: Duration = Duration::from_millis(20);
/// Nothing comes for so long.
const QUIET: Duration = Duration::from_millis(100);
