//! Opening and closing, queues and exchanges: what is agreed, and what is refused.

use futures::StreamExt;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use leveret_clients_rust::*;

#[test]
fn wrong_password_is_refused() {
    check(|_| async {
        let wrong = url().replace("guest:guest@", "guest:wrong@");
        let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN";
        refused(connect(&wrong).await, 403, text);
    });
}

#[test]
fn unknown_vhost_is_refused() {
    check(|_| async {
        let wrong = url().replace("%2f", "no-such-vhost");
        refused(
            connect(&wrong).await,
            530,
            "NOT_ALLOWED - vhost no-such-vhost not found",
        );
    });
}

#[test]
fn limits_are_negotiated_and_close_is_clean() {
    check(|world| async move {
        let wish = format!("{}?heartbeat=7&frame_max=4096&channel_max=5", url());
        let connection = connect(&wish).await.unwrap();
        assert_eq!(connection.configuration().heartbeat(), 7);
        assert_eq!(connection.configuration().frame_max(), 4096);
        assert_eq!(connection.configuration().channel_max(), 5);
        let channel = connection.create_channel().await.unwrap();
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let body = "frame".repeat(5000);
        publish(
            &channel,
            "",
            &queue,
            body.as_bytes(),
            BasicProperties::default(),
        )
        .await;
        assert_eq!(get(&channel, &queue, true).await.data, body.as_bytes());
        connection.close(200, "bye".into()).await.unwrap();
        assert!(!connection.status().connected());
    });
}

#[test]
fn an_idle_connection_lives_on_heartbeats() {
    check(|world| async move {
        let connection = connect(&format!("{}?heartbeat=1", url())).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
        let channel = connection.create_channel().await.unwrap();
        world.queue(&channel, "q", FieldTable::default()).await;
    });
}

#[test]
fn a_channel_error_leaves_the_others_alive() {
    check(|world| async move {
        let (healthy, sick) = (world.channel().await, world.channel().await);
        let text = "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'";
        refused(passive(&sick, "nowhere-at-all").await, 404, text);
        let queue = world.queue(&healthy, "q", FieldTable::default()).await;
        fill(&healthy, &queue, &["still here".into()]).await;
        assert_eq!(get(&healthy, &queue, true).await.data, b"still here");
    });
}

#[test]
fn the_secret_can_be_updated() {
    check(|world| async move {
        world
            .connection
            .update_secret("guest".into(), "routine".into())
            .await
            .unwrap();
        world.channel().await;
    });
}

#[test]
fn declare_answers_name_and_counts() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        fill(&channel, &queue, &numbers(0..2)).await;
        channel
            .basic_qos(1, BasicQosOptions::default())
            .await
            .unwrap();
        take(&mut consume(&channel, &queue, false).await, 1).await;
        let state = passive(&channel, &queue).await.unwrap();
        assert_eq!(
            (
                state.name().as_str(),
                state.message_count(),
                state.consumer_count()
            ),
            (queue.as_str(), 1, 1)
        );
    });
}

#[test]
fn missing_exchange_is_404() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let bound = channel
            .queue_bind(
                queue.into(),
                "nowhere-at-all".into(),
                "k".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await;
        refused(
            bound,
            404,
            "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'",
        );
    });
}

#[test]
fn inequivalent_declarations_are_406() {
    check(|world| async move {
        let queue = world
            .queue(&world.channel().await, "q", FieldTable::default())
            .await;
        let transient = declare(
            &world.channel().await,
            &queue,
            QueueDeclareOptions::default(),
        )
        .await;
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': \
             received 'false' but current is 'true'"
        );
        refused(transient, 406, &text);
        let channel = world.channel().await;
        let options = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let ttl = table([("x-message-ttl", AMQPValue::LongInt(5000))]);
        let expiring = channel
            .queue_declare(queue.as_str().into(), options, ttl)
            .await;
        let text =
            format!("PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{queue}'");
        refused(expiring, 406, &text);
        let exchange = world
            .exchange(&world.channel().await, "x", ExchangeKind::Direct)
            .await;
        let channel = world.channel().await;
        let options = ExchangeDeclareOptions::default();
        let other = channel
            .exchange_declare(
                exchange.as_str().into(),
                ExchangeKind::Fanout,
                options,
                FieldTable::default(),
            )
            .await;
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': \
             received 'fanout' but current is 'direct'"
        );
        refused(other, 406, &text);
    });
}

#[test]
fn server_named_and_exclusive_queues() {
    check(|world| async move {
        let owner = connect(&url()).await.unwrap();
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let declared = declare(&owner.create_channel().await.unwrap(), "", options)
            .await
            .unwrap();
        let queue = declared.name().as_str();
        assert!(
            queue.starts_with("amq.gen-") && queue.len() == 30,
            "{queue}"
        );
        let text = format!(
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
        );
        refused(passive(&world.channel().await, queue).await, 405, &text);
        owner.close(200, "bye".into()).await.unwrap();
        let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
        refused(passive(&world.channel().await, queue).await, 404, &text);
    });
}

#[test]
fn auto_delete_queue_goes_with_its_last_consumer() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue_name("auto");
        let options = QueueDeclareOptions {
            auto_delete: true,
            ..Default::default()
        };
        declare(&channel, &queue, options).await.unwrap();
        let consumer = consume(&channel, &queue, true).await;
        assert!(consumer.tag().as_str().starts_with("amq.ctag-"));
        channel
            .basic_cancel(consumer.tag(), BasicCancelOptions::default())
            .await
            .unwrap();
        refused(
            passive(&world.channel().await, &queue).await,
            404,
            "NOT_FOUND - no queue '",
        );
    });
}

#[test]
fn purge_and_delete_count() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        fill(&channel, &queue, &numbers(0..3)).await;
        let name = || queue.as_str().into();
        assert_eq!(
            channel
                .queue_purge(name(), QueuePurgeOptions::default())
                .await
                .unwrap(),
            3
        );
        fill(&channel, &queue, &numbers(0..2)).await;
        assert_eq!(
            channel
                .queue_delete(name(), QueueDeleteOptions::default())
                .await
                .unwrap(),
            2
        );
        assert_eq!(
            channel
                .queue_delete(name(), QueueDeleteOptions::default())
                .await
                .unwrap(),
            0
        );
    });
}

#[test]
fn conditional_deletes_are_406() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        fill(&channel, &queue, &numbers(0..1)).await;
        let if_empty = QueueDeleteOptions {
            if_empty: true,
            ..Default::default()
        };
        let outcome = world
            .channel()
            .await
            .queue_delete(queue.as_str().into(), if_empty)
            .await;
        refused(
            outcome,
            406,
            &format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"),
        );
        let _consumer = consume(&channel, &queue, false).await;
        let if_unused = QueueDeleteOptions {
            if_unused: true,
            ..Default::default()
        };
        let outcome = world
            .channel()
            .await
            .queue_delete(queue.as_str().into(), if_unused)
            .await;
        refused(
            outcome,
            406,
            &format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"),
        );
    });
}

#[test]
fn deleting_a_queue_cancels_its_consumers() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let mut consumer = consume(&channel, &queue, false).await;
        let other = world.channel().await;
        other
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        // lapin ends the stream when the server cancels its consumer.
        let end = tokio::time::timeout(PATIENCE, consumer.next())
            .await
            .expect("no cancel came");
        assert!(end.is_none());
        world.queue(&channel, "q", FieldTable::default()).await;
    });
}
