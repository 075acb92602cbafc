//! What routing costs; run by hand: `cargo test --release -p store -- --ignored routing_costs`.

use std::hint::black_box;
use std::time::Instant;

use super::tests::{binding, exchange, queue};
use super::*;

/// Messages per figure.
const MESSAGES: u32 = 200_000;

fn vhost(bindings: u64) -> Vhost {
    let mut vhost = Vhost::default();
    exchange(&mut vhost, "t", "topic", None);
    for number in 0..bindings {
        queue(&mut vhost, number);
        let key = format!("orders.{number}.*.#");
        vhost.bind(binding("t", &format!("q{number}"), &key));
    }
    vhost
}

fn nanoseconds(vhost: &mut Vhost, addresses: &[Address]) -> f64 {
    let started = Instant::now();
    for number in 0..MESSAGES as usize {
        black_box(vhost.way(&addresses[number % addresses.len()]));
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(MESSAGES)
}

#[test]
#[ignore = "measures"]
#[expect(clippy::print_stdout, reason = "figures are for whoever asks")]
fn routing_costs() {
    for bindings in [1, 1000] {
        let mut vhost = vhost(bindings);
        let known: Vec<Address> = (0..16)
            .map(|number| Address::new(b"t", format!("orders.0.new.{number}").as_bytes()))
            .collect();
        let new: Vec<Address> = (0..MESSAGES)
            .map(|n| Address::new(b"t", format!("orders.{}.new.{n}", n % 1000).as_bytes()))
            .collect();
        let known = nanoseconds(&mut vhost, &known);
        let new = nanoseconds(&mut vhost, &new);
        println!("{bindings} bindings: {known:.0} ns a known address, {new:.0} ns a new one");
    }
}
