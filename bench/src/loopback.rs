//! A sink and a source that speak just enough AMQP, to measure what the load generator itself costs
//! and to check that it notices faults.
//!
//! Keeps: nothing. Never: a broker: what is published here is counted and forgotten, what is
//! delivered was encoded beforehand.
//! In: `generator_cost` for `--self-test`; the tests give the source a faulty script.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};

use crate::consumer::{self, Ack, Consumer};
use crate::control::{Control, Phase};
use crate::link::Inbox;
use crate::producer::{self, Pace, Producer};
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
    let (address, serving) = serve(None)?;
    let plan = producer::Plan {
        id: 0,
        publication: Publication {
            exchange: "",
            routing_key: "bench-q00",
            body_bytes: 16,
            persistent: true,
        },
        window,
        pace: Pace::Count { messages },
        copies: 1,
    };
    let producers = vec![Producer::connect(address, &plan)?];
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

fn consume_from_source(script: Script, expected: u64, ack: Ack) -> Result<consumer::Summary> {
    let (address, serving) = serve(Some(script))?;
    let plan = consumer::Plan {
        queue: "bench-q00",
        stream: 0,
        ack,
        prefetch: 0,
        body_bytes: 16,
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

/// Serves one connection on a thread; it ends with the connection.
fn serve(script: Option<Script>) -> Result<(SocketAddr, Serving)> {
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
            script,
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
    script: Option<Script>,
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
            let mut answers = Vec::new();
            while let Some((frame, span)) = wire::scan(self.inbox.unread())? {
                if frame.kind == wire::METHOD {
                    let id = Fields(frame.payload).method()?;
                    self.published += u64::from(id == method::PUBLISH);
                    self.confirming |= id == method::CONFIRM_SELECT;
                    answers.extend(answer_to(id));
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

    /// Delivers the script from a thread of its own, so that acks are read meanwhile.
    fn deliver(&mut self) -> Result<()> {
        let script = self
            .script
            .take()
            .context("a sink has nothing to deliver")?;
        let mut stream = self.stream.try_clone()?;
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

/// Offset of the delivery tag: frame head, ids, one-letter consumer tag.
const TAG_AT: usize = 7 + 4 + 2;

fn encode_delivery() -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    Method::new(method::DELIVER)
        .short("c")
        .u64(0)
        .u8(0)
        .short("")
        .short("bench-q00")
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
    fn a_publisher_sends_exactly_what_it_counts() {
        for window in [None, Some(1), Some(50)] {
            let summary = publish_to_sink(1_234, window).unwrap();
            assert_eq!((summary.published, summary.nacked), (1_234, 0));
        }
    }

    #[test]
    fn a_body_of_another_size_is_damage() {
        let (address, _serving) = serve(Some(Box::new(0..10))).unwrap();
        let plan = consumer::Plan {
            queue: "q",
            stream: 0,
            ack: Ack::Auto,
            prefetch: 0,
            body_bytes: 17,
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
