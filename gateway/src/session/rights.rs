//! What declarations and bindings ask of the user, beyond one right on one name.
//!
//! Keeps: RabbitMQ's table and its order (3.10 rabbit_channel).
//! In: `methods`.

use super::*;

impl Session {
    /// Configure on the exchange; for a new one with an alternate, read on it and write on that.
    pub(super) fn may_declare_exchange(&mut self, ask: &ExchangeDeclare) -> Result<(), Close> {
        let cause = (40, 10);
        if ask.name.is_empty() {
            // Refused by its name, whoever asks.
            return Ok(());
        }
        self.may(Right::Configure, Resource::Exchange(&ask.name), cause)?;
        let alternate = ask.arguments.find("alternate-exchange");
        let Some(alternate) = alternate.and_then(Value::as_text) else {
            return Ok(());
        };
        let checked = self.store.lock().check_exchange(&self.vhost, &ask.name);
        if checked.is_ok() || ask.name.starts_with("amq.") {
            return Ok(());
        }
        self.may(Right::Read, Resource::Exchange(&ask.name), cause)?;
        self.may(Right::Write, Resource::Exchange(alternate), cause)
    }

    /// Configure on the queue; for a new one that dead-letters, read on it and write on the
    /// exchange.
    pub(super) fn may_declare_queue(&mut self, ask: &QueueDeclare) -> Result<(), Close> {
        let cause = (50, 10);
        self.may(Right::Configure, Resource::Queue(&ask.name), cause)?;
        let exchange = ask.arguments.find("x-dead-letter-exchange");
        let Some(exchange) = exchange.and_then(Value::as_text) else {
            return Ok(());
        };
        if self.store.has_queue(&self.vhost, &ask.name) {
            return Ok(());
        }
        self.may(Right::Read, Resource::Queue(&ask.name), cause)?;
        self.may(Right::Write, Resource::Exchange(exchange), cause)
    }

    /// Write on the destination, read on the source, and on the topic where those are limited.
    pub(super) fn may_bind(&mut self, spec: &BindingSpec, cause: (u16, u16)) -> Result<(), Close> {
        let destination = match spec.destination_kind {
            DestinationKind::Queue => Resource::Queue(&spec.destination),
            DestinationKind::Exchange => Resource::Exchange(&spec.destination),
        };
        self.may(Right::Write, destination, cause)?;
        let to_default = matches!(destination, Resource::Exchange(""));
        if to_default || spec.source.is_empty() {
            // Refused by its name, whoever asks.
            return Ok(());
        }
        self.may(Right::Read, Resource::Exchange(&spec.source), cause)?;
        let topic =
            self.door
                .authorize_topic(&self.store, Right::Read, &spec.source, &spec.routing_key);
        topic.map_err(|error| reply::close(&error, cause))
    }
}
