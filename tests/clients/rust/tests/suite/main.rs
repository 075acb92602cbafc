//! The lapin suites. AMQP_URL names the broker.

mod messages;
mod routing;
mod topology;
