//! A sink, a source and a relay that speak just enough AMQP, to measure what the load generator
//! itself costs, what latency this machine allows at best, and that faults are noticed.
//!
//! Keeps: nothing. Never: a broker: what is published here is counted and forgotten or passed on
//! at once, what is delivered was encoded beforehand.
//! In: `main` for `--self-test` and beside each report; the tests give the source a faulty script.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::consumer::{self, Ack, Consumer};
use crate::control::{Control, Phase};
use crate::latency::Quantiles;
use crate::link::Inbox;
use crate::producer::{self, Number, Pace, Producer};
use crate::run::{join, wait_for_drain};
use crate::sequence::Checker;
use crate::wire::{self, Fields, Method, Publication, method};

/// CPU time per message of each side of the generator, ns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) publish_ns: f64,
    pub(crate) consume_ns: f64,
}

/// What the source delivers: the numbers in this order.
pub(crate) type Script = Box<dyn Iterator<Item = u64> + Send>;

/// End-to-end latency of `per_second` messages through a relay that does nothing but pass each on:
/// one thread, one read and one write a message. No broker on this machine can be quicker, unless
/// it spins.
pub(crate) fn relay_latency(per_second: u64, span: Duration) -> Result<Option<Quantiles>> {
    let exit = Arc::new(OnceLock::new());
    let (address, taking) = serve(Role::Exit(exit.clone()))?;
    let plan = consumer::Plan {
        queue: QUEUE,
        stream: 0,
        ack: Ack::Auto,
        prefetch: 0,
        body_bytes: 16,
        failing: None,
    };
    let consumers = vec![Consumer::connect(address, &plan, 0)?];
    let (address, giving) = serve(Role::Entry(exit))?;
    let plan = producer::Plan {
        pace: Pace::Every {
            interval_ns: 1_000_000_000 / per_second,
        },
        ..publisher(None, 0)
    };
    let producers = vec![Producer::connect(address, &plan)?];
    let control = Control::new();
    let consumed = thread::scope(|scope| {
        let checker = Checker::new(1, 1, 1);
        let consuming = scope.spawn(|| consumer::drive(consumers, checker, &control));
        let producing = scope.spawn(|| producer::drive(producers, &control));
        thread::sleep(span / 4);
        control.enter(Phase::Measure);
        thread::sleep(span);
        control.enter(Phase::Drain);
        let published = join(producing, "producer")?.published;
        wait_for_drain(&control, published, || !consuming.is_finished());
        control.enter(Phase::Done);
        join(consuming, "consumer")
    })?;
    for side in [taking, giving] {
        side.join().expect("the relay does not panic")?;
    }
    Ok(consumed.latency.quantiles())
}

/// Measures both sides on `messages` messages of 16 bytes, consumer in `ack` mode.
pub(crate) fn generator_cost(messages: u64, window: Option<usize>, ack: Ack) -> Result<Cost> {
    let produced = publish_to_sink(messages, window)?;
    let consumed = consume_from_source(Box::new(0..messages), messages, ack)?;
    let per = |cpu_ns: u64| cpu_ns as f64 / messages as f64;
    Ok(Cost {
        publish_ns: per(produced.cpu_ns),
        consume_ns: per(consumed.cpu_ns),
    })
}

fn publish_to_sink(messages: u64, window: Option<usize>) -> Result<producer::Summary> {
    let (address, serving) = serve(Role::Sink)?;
    let producers = vec![Producer::connect(address, &publisher(window, messages))?];
    let control = Control::new();
    // Histograms are part of the cost.
    control.enter(Phase::Measure);
    let summary = thread::scope(|scope| {
        join(
            scope.spawn(|| producer::drive(producers, &control)),
            "producer",
        )
    })?;
    serving.join().expect("the sink does not panic")?;
    Ok(summary)
}

fn publisher(window: Option<usize>, messages: u64) -> producer::Plan<'static> {
    producer::Plan {
        id: 0,
        publication: Publication {
            exchange: "",
            routing_key: QUEUE,
            body_bytes: 16,
            persistent: window.is_some(),
            header: None,
        },
        window,
        pace: Pace::Count { messages },
        copies: 1,
        number: Number::None,
    }
}

fn consume_from_source(script: Script, expected: u64, ack: Ack) -> Result<consumer::Summary> {
    let (address, serving) = serve(Role::Source(script))?;
    let plan = consumer::Plan {
        queue: QUEUE,
        stream: 0,
        ack,
        prefetch: 0,
        body_bytes: 16,
        failing: None,
    };
    let consumers = vec![Consumer::connect(address, &plan, 0)?];
    let control = Control::new();
    control.enter(Phase::Measure);
    let summary = thread::scope(|scope| {
        let checker = Checker::new(1, 1, 1);
        let consuming = scope.spawn(|| consumer::drive(consumers, checker, &control));
        wait_for_drain(&control, expected, || !consuming.is_finished());
        control.enter(Phase::Done);
        join(consuming, "consumer")
    })?;
    serving.join().expect("the source does not panic")?;
    Ok(summary)
}

type Serving = thread::JoinHandle<Result<()>>;

/// What the other end of the generator's connection does.
enum Role {
    /// Counts what is published.
    Sink,
    /// Delivers a script to its consumer.
    Source(Script),
    /// Lends its consumer's socket to the entry.
    Exit(Arc<OnceLock<TcpStream>>),
    /// Passes each published body on to the exit's consumer.
    Entry(Arc<OnceLock<TcpStream>>),
}

/// Serves one connection on a thread; it ends with the connection.
fn serve(role: Role) -> Result<(SocketAddr, Serving)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        Peer {
            stream,
            inbox: Inbox::new(),
            published: 0,
            confirming: false,
            role,
        }
        .serve()
    });
    Ok((address, serving))
}

struct Peer {
    stream: TcpStream,
    inbox: Inbox,
    published: u64,
    confirming: bool,
    role: Role,
}

impl Peer {
    fn serve(mut self) -> Result<()> {
        self.inbox.fill(&self.stream).context("protocol header")?;
        self.inbox.consume(wire::PROTOCOL_HEADER.len());
        self.answer(
            &Method::new(method::START)
                .u8(0)
                .u8(9)
                .flags(&[])
                .long(b"PLAIN")
                .long(b"en_US"),
        )?;
        loop {
            let confirmed = self.published;
            let (mut answers, mut passed) = (Vec::new(), Vec::new());
            while let Some((frame, span)) = wire::scan(self.inbox.unread())? {
                if frame.kind == wire::METHOD {
                    let id = Fields(frame.payload).method()?;
                    self.published += u64::from(id == method::PUBLISH);
                    self.confirming |= id == method::CONFIRM_SELECT;
                    answers.extend(answer_to(id));
                } else if frame.kind == wire::BODY && matches!(self.role, Role::Entry(_)) {
                    let (mut delivery, stamp_at) = encode_delivery();
                    delivery[stamp_at..stamp_at + 16].copy_from_slice(frame.payload);
                    passed.extend_from_slice(&delivery);
                }
                self.inbox.consume(span);
            }
            let consuming = answers.contains(&method::CONSUME_OK);
            let over = answers.contains(&method::CLOSE_OK);
            for id in answers {
                self.answer(&arguments_for(id))?;
            }
            if self.confirming && self.published > confirmed {
                let mut bytes = Vec::new();
                wire::push_ack(&mut bytes, 1, self.published, true);
                self.stream.write_all(&bytes)?;
            }
            if let Role::Entry(exit) = &self.role
                && !passed.is_empty()
            {
                let mut exit = exit.get().context("nobody consumes yet")?;
                exit.write_all(&passed)?;
            }
            if consuming {
                self.deliver()?;
            }
            if over {
                return Ok(());
            }
            match self.inbox.fill(&self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&mut self, answer: &Method) -> Result<()> {
        let mut bytes = Vec::new();
        answer.frame(1, &mut bytes);
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Delivers the script from a thread of its own, so that acks are read meanwhile; or lends
    /// the socket.
    fn deliver(&mut self) -> Result<()> {
        let mut stream = self.stream.try_clone()?;
        let script = match std::mem::replace(&mut self.role, Role::Sink) {
            Role::Source(script) => script,
            Role::Exit(exit) => {
                let _ = exit.set(stream);
                return Ok(());
            }
            Role::Sink | Role::Entry(_) => bail!("nothing to deliver"),
        };
        thread::spawn(move || {
            let (mut delivery, stamp_at) = encode_delivery();
            let mut bytes = Vec::with_capacity(128 * 1024);
            for (index, seq) in script.enumerate() {
                delivery[TAG_AT..TAG_AT + 8].copy_from_slice(&(index as u64 + 1).to_be_bytes());
                delivery[stamp_at..stamp_at + 8].copy_from_slice(&seq.to_be_bytes());
                delivery[stamp_at + 8..stamp_at + 16].fill(0);
                bytes.extend_from_slice(&delivery);
                if bytes.len() > 100 * 1024 {
                    if stream.write_all(&bytes).is_err() {
                        return;
                    }
                    bytes.clear();
                }
            }
            // A consumer that has gone is seen by the reading side.
            let _ = stream.write_all(&bytes);
        });
        Ok(())
    }
}

const QUEUE: &str = "bench-q00";

/// Offset of the delivery tag: frame head, ids, one-letter consumer tag.
const TAG_AT: usize = 7 + 4 + 2;

fn encode_delivery() -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    Method::new(method::DELIVER)
        .short("c")
        .u64(0)
        .u8(0)
        .short("")
        .short(QUEUE)
        .frame(1, &mut bytes);
    let stamp_at = wire::push_content(&mut bytes, 1, 16, 2);
    (bytes, stamp_at)
}

fn answer_to(id: wire::MethodId) -> Option<wire::MethodId> {
    Some(match id {
        method::START_OK => method::TUNE,
        method::OPEN => method::OPEN_OK,
        method::CHANNEL_OPEN => method::CHANNEL_OPEN_OK,
        method::CONFIRM_SELECT => method::CONFIRM_SELECT_OK,
        method::QOS => method::QOS_OK,
        method::CONSUME => method::CONSUME_OK,
        method::CHANNEL_CLOSE => method::CHANNEL_CLOSE_OK,
        method::CLOSE => method::CLOSE_OK,
        _ => return None,
    })
}

fn arguments_for(id: wire::MethodId) -> Method {
    let answer = Method::new(id);
    match id {
        method::TUNE => answer.u16(2_047).u32(wire::FRAME_MAX as u32).u16(0),
        method::OPEN_OK => answer.short(""),
        method::CHANNEL_OPEN_OK => answer.long(b""),
        method::CONSUME_OK => answer.short("c"),
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sequence::Tally;

    fn tally_of(numbers: Vec<u64>, sent: u64, ack: Ack) -> Tally {
        let count = numbers.len() as u64;
        consume_from_source(Box::new(numbers.into_iter()), count, ack)
            .unwrap()
            .tally
            .settle(sent)
    }

    #[test]
    fn a_faultless_stream_is_clean_in_each_ack_mode() {
        for ack in [Ack::Auto, Ack::Each, Ack::Every(100)] {
            let tally = tally_of((0..5_050).collect(), 5_050, ack);
            assert!(tally.is_clean(), "{ack:?}: {tally:?}");
        }
    }

    #[test]
    fn loss_doubling_and_disorder_are_seen_through_the_wire() {
        let mut numbers: Vec<u64> = (0..1_000).collect();
        numbers.swap(500, 501);
        numbers[700] = 699;
        let tally = tally_of(numbers, 1_000, Ack::Auto);
        assert_eq!((tally.lost, tally.doubled), (1, 1));
        // The swapped pair, and the second copy of 699, which follows itself.
        assert_eq!(tally.reordered, 2);
    }

    #[test]
    fn a_relay_passes_on_each_message() {
        let found = relay_latency(2_000, Duration::from_millis(100)).unwrap();
        let quantiles = found.unwrap();
        assert!(quantiles.p50_us > 0.0 && quantiles.p50_us <= quantiles.p99_us);
    }

    #[test]
    fn a_publisher_sends_exactly_what_it_counts() {
        for window in [None, Some(1), Some(50)] {
            let summary = publish_to_sink(1_234, window).unwrap();
            assert_eq!((summary.published, summary.nacked), (1_234, 0));
        }
    }

    #[test]
    fn a_body_of_another_size_is_damage() {
        let (address, _serving) = serve(Role::Source(Box::new(0..10))).unwrap();
        let plan = consumer::Plan {
            queue: "q",
            stream: 0,
            ack: Ack::Auto,
            prefetch: 0,
            body_bytes: 17,
            failing: None,
        };
        let consumers = vec![Consumer::connect(address, &plan, 0).unwrap()];
        let control = Control::new();
        let summary = thread::scope(|scope| {
            let checker = Checker::new(1, 1, 1);
            let consuming = scope.spawn(|| consumer::drive(consumers, checker, &control));
            wait_for_drain(&control, 10, || !consuming.is_finished());
            control.enter(Phase::Done);
            join(consuming, "consumer").unwrap()
        });
        assert_eq!(summary.tally.damaged, 10);
    }
}
