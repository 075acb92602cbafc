//! Routing: topic, headers, fanout, exchange to exchange, and what is not routable.

use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind};

use leveret_clients_rust::*;

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str, arguments: FieldTable) {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            arguments,
        )
        .await
        .unwrap();
}

/// Empties the queues and names those that held exactly one message.
async fn reached<'a>(channel: &Channel, queues: &[(&'a str, String)]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (label, queue) in queues {
        if channel
            .queue_purge(queue.as_str().into(), QueuePurgeOptions::default())
            .await
            .unwrap()
            == 1
        {
            found.push(*label);
        }
    }
    found
}

#[test]
fn topic_bindings() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let exchange = world.exchange(&channel, "x", ExchangeKind::Topic).await;
        let mut queues = Vec::new();
        for (n, pattern) in ["#", "log.*", "log.#", "*.error", "*.*.error", "log.#.error"]
            .into_iter()
            .enumerate()
        {
            let queue = world
                .queue(&channel, &n.to_string(), FieldTable::default())
                .await;
            bind(&channel, &queue, &exchange, pattern, FieldTable::default()).await;
            queues.push((pattern, queue));
        }
        for (key, wanted) in [
            ("log", vec!["#", "log.#"]),
            (
                "log.error",
                vec!["#", "log.*", "log.#", "*.error", "log.#.error"],
            ),
            (
                "log.disk.error",
                vec!["#", "log.#", "*.*.error", "log.#.error"],
            ),
            ("app.error", vec!["#", "*.error"]),
            ("app", vec!["#"]),
            ("", vec!["#"]),
        ] {
            publish(&channel, &exchange, key, b"m", BasicProperties::default()).await;
            assert_eq!(reached(&channel, &queues).await, wanted, "{key}");
        }
    });
}

#[test]
fn headers_bindings() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let exchange = world.exchange(&channel, "x", ExchangeKind::Headers).await;
        let mut queues = Vec::new();
        for kind in ["all", "any"] {
            let queue = world.queue(&channel, kind, FieldTable::default()).await;
            let arguments = table([
                ("x-match", string(kind)),
                ("format", string("pdf")),
                ("pages", AMQPValue::LongInt(3)),
            ]);
            bind(&channel, &queue, &exchange, "", arguments).await;
            queues.push((kind, queue));
        }
        for (headers, wanted) in [
            (
                table([("format", string("pdf")), ("pages", AMQPValue::LongInt(3))]),
                vec!["all", "any"],
            ),
            (table([("format", string("pdf"))]), vec!["any"]),
            (table([("format", string("zip"))]), vec![]),
            (FieldTable::default(), vec![]),
        ] {
            let properties = BasicProperties::default().with_headers(headers);
            publish(&channel, &exchange, "ignored", b"m", properties).await;
            assert_eq!(reached(&channel, &queues).await, wanted);
        }
    });
}

#[test]
fn fanout_and_exchange_to_exchange() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let source = world
            .exchange(&channel, "source", ExchangeKind::Direct)
            .await;
        let fan = world.exchange(&channel, "fan", ExchangeKind::Fanout).await;
        let mut queues = Vec::new();
        for label in ["a", "b"] {
            let queue = world.queue(&channel, label, FieldTable::default()).await;
            bind(&channel, &queue, &fan, "", FieldTable::default()).await;
            queues.push((label, queue));
        }
        let (to, from) = (|| fan.as_str().into(), || source.as_str().into());
        let bound = ExchangeBindOptions::default();
        channel
            .exchange_bind(to(), from(), "eu".into(), bound, FieldTable::default())
            .await
            .unwrap();
        publish(&channel, &source, "eu", b"m", BasicProperties::default()).await;
        assert_eq!(reached(&channel, &queues).await, ["a", "b"]);
        publish(&channel, &source, "us", b"m", BasicProperties::default()).await;
        assert!(reached(&channel, &queues).await.is_empty());
        let gone = ExchangeUnbindOptions::default();
        channel
            .exchange_unbind(to(), from(), "eu".into(), gone, FieldTable::default())
            .await
            .unwrap();
        publish(&channel, &source, "eu", b"m", BasicProperties::default()).await;
        assert!(reached(&channel, &queues).await.is_empty());
    });
}

#[test]
fn mandatory_messages_come_back_with_their_confirm() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let sent = BasicProperties::default().with_message_id("7".into());
        let confirm = channel
            .basic_publish(
                "amq.direct".into(),
                "nobody-listens-here".into(),
                options,
                b"back",
                sent.clone(),
            )
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(confirm.is_ack());
        let back = confirm
            .take_message()
            .expect("confirmed without coming back");
        assert_eq!(
            (back.reply_code, back.reply_text.as_str()),
            (312, "NO_ROUTE")
        );
        assert_eq!(back.delivery.routing_key.as_str(), "nobody-listens-here");
        assert_eq!(
            (back.delivery.properties, back.delivery.data.as_slice()),
            (sent, b"back".as_slice())
        );

        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let routed = channel
            .basic_publish(
                "".into(),
                queue.into(),
                options,
                b"m",
                BasicProperties::default(),
            )
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(routed.is_ack() && routed.take_message().is_none());
    });
}

#[test]
fn publishing_to_a_missing_exchange_closes_the_channel() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish(
                "nowhere-at-all".into(),
                "k".into(),
                options,
                b"m",
                BasicProperties::default(),
            )
            .await
            .unwrap()
            .await;
        refused(
            confirm,
            404,
            "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'",
        );
    });
}
