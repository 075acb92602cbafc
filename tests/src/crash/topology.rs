//! What the crash test declares, and whether it is still there.
//!
//! Keeps: what was answered with ok (durable declarations and deletions survive).
//! Never: declares again what must have survived; it asks passively.
//! In: `tests/crash.rs` before each cycle, `load` by name.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::Faults;
use super::checker::Rule;
use super::peer::Peer;
use crate::wire::method::Method;
use crate::wire::value::Value;

/// The queues of the load; the position is what routes and deliveries name.
pub const RULES: [Rule; 5] = [
    Rule {
        name: "crash.0",
        dead_letters_to: None,
        one_consumer: true,
    },
    Rule {
        name: "crash.1",
        dead_letters_to: None,
        one_consumer: false,
    },
    Rule {
        name: "crash.2",
        dead_letters_to: Some(4),
        one_consumer: true,
    },
    Rule {
        name: "crash.3",
        dead_letters_to: Some(4),
        one_consumer: false,
    },
    Rule {
        name: "crash.dead",
        dead_letters_to: None,
        one_consumer: true,
    },
];

/// Queues that writers publish to.
pub const TARGETS: usize = 4;

/// A fanout exchange to `crash.0` and `crash.1`.
pub const FANOUT: &str = "crash.fan";
pub const FANOUT_ROUTE: u8 = 0b11;

/// Where the calls and the ticks go.
pub const CALLS: &str = "crash.calls";
pub const TICKS: &str = "crash.ticks";

/// Declares all of it.
///
/// # Errors
/// The server refuses.
pub fn declare(address: SocketAddr) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    for rule in RULES {
        let mut arguments = Vec::new();
        if let Some(dead) = rule.dead_letters_to {
            let name = RULES[usize::from(dead)].name;
            arguments.push(("x-dead-letter-exchange".to_owned(), Value::str("")));
            arguments.push(("x-dead-letter-routing-key".to_owned(), Value::str(name)));
        }
        let declare = durable(rule.name)?.with("arguments", Value::Table(arguments))?;
        peer.call(1, &declare, "queue.declare-ok")?;
    }
    peer.call(1, &durable(CALLS)?, "queue.declare-ok")?;
    let exchange = Method::named("exchange.declare")?
        .with("exchange", Value::str(FANOUT))?
        .with("type", Value::str("fanout"))?
        .with("durable", Value::Bool(true))?;
    peer.call(1, &exchange, "exchange.declare-ok")?;
    for queue in ["crash.0", "crash.1"] {
        peer.call(1, &bind(queue, FANOUT, "")?, "queue.bind-ok")?;
    }
    Ok(())
}

/// Declares the queue of a cycle, with a binding, and deletes that of two cycles before.
/// Each answer is a promise that [`verify`] holds the server to after the next crash.
///
/// # Errors
/// The server refuses or is gone.
pub fn change(address: SocketAddr, cycle: usize) -> Result<()> {
    let mut peer = Peer::connect(address)?;
    let name = cycle_queue(cycle);
    peer.call(1, &durable(&name)?, "queue.declare-ok")?;
    peer.call(1, &bind(&name, "amq.topic", &name)?, "queue.bind-ok")?;
    if cycle >= 2 {
        let old = Value::str(&cycle_queue(cycle - 2));
        let delete = Method::named("queue.delete")?.with("queue", old)?;
        peer.call(1, &delete, "queue.delete-ok")?;
    }
    Ok(())
}

/// Is everything there after a crash, given that [`change`] was answered up to `cycle`?
///
/// # Errors
/// The server cannot be asked.
pub fn verify(address: SocketAddr, cycle: Option<usize>, faults: &mut Faults) -> Result<()> {
    for rule in RULES {
        if !exists(address, rule.name)? {
            faults.add(|| format!("the queue {} is gone", rule.name));
        }
    }
    let Some(cycle) = cycle else { return Ok(()) };
    let name = cycle_queue(cycle);
    if !exists(address, &name)? {
        faults.add(|| format!("the queue {name} is gone, its declaration was answered"));
    } else if !is_bound(address, &name)? {
        faults.add(|| format!("the binding of {name} is gone, it was answered"));
    }
    if cycle >= 2 && exists(address, &cycle_queue(cycle - 2))? {
        faults.add(|| {
            format!(
                "{} is back, its deletion was answered",
                cycle_queue(cycle - 2)
            )
        });
    }
    Ok(())
}

/// How many ready messages a queue has.
///
/// # Errors
/// The queue is missing, or the server is gone.
pub fn ready(peer: &mut Peer, queue: &str) -> Result<i64> {
    let passive = durable(queue)?.with("passive", Value::Bool(true))?;
    Ok(peer
        .call(1, &passive, "queue.declare-ok")?
        .method
        .int("message-count"))
}

fn exists(address: SocketAddr, queue: &str) -> Result<bool> {
    // A refusal closes the channel, hence a connection for each question.
    let mut peer = Peer::connect(address)?;
    match ready(&mut peer, queue) {
        Ok(_) => Ok(true),
        Err(fault) if fault.to_string().contains("NOT_FOUND") => Ok(false),
        Err(fault) => Err(fault).context("asking for a queue"),
    }
}

fn is_bound(address: SocketAddr, queue: &str) -> Result<bool> {
    let mut peer = Peer::connect(address)?;
    peer.call(1, &Method::named("confirm.select")?, "confirm.select-ok")?;
    let before = ready(&mut peer, queue)?;
    let publish = Method::named("basic.publish")?
        .with("exchange", Value::str("amq.topic"))?
        .with("routing-key", Value::str(queue))?;
    peer.put(1, &publish, Some(&crate::wire::content::Content::default()))?;
    peer.next(std::time::Duration::from_secs(10))?
        .context("no confirm")?;
    Ok(ready(&mut peer, queue)? == before + 1)
}

fn cycle_queue(cycle: usize) -> String {
    format!("crash.cycle.{cycle}")
}

fn durable(queue: &str) -> Result<Method> {
    Method::named("queue.declare")?
        .with("queue", Value::str(queue))?
        .with("durable", Value::Bool(true))
}

fn bind(queue: &str, exchange: &str, key: &str) -> Result<Method> {
    Method::named("queue.bind")?
        .with("queue", Value::str(queue))?
        .with("exchange", Value::str(exchange))?
        .with("routing-key", Value::str(key))
}
