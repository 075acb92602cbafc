//! Messages: confirms, settling, prefetch, bodies, properties, TTL, dead letters, RPC.

use futures::StreamExt;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};

use leveret_clients_rust::*;

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn redelivered(deliveries: &[Delivery]) -> Vec<bool> {
    deliveries.iter().map(|d| d.redelivered).collect()
}

#[test]
fn confirms_one_by_one_and_in_bulk() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let mut confirms = Vec::new();
        for body in numbers(0..2000) {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                options,
                body.as_bytes(),
                properties,
            );
            let confirm = sent.await.unwrap();
            if body == "0" {
                assert!(confirm.await.unwrap().is_ack());
                assert_eq!(ready(&channel, &queue).await, 1);
            } else {
                confirms.push(confirm);
            }
        }
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
        assert_eq!(ready(&channel, &queue).await, 2000);
        let got = take(&mut consume(&channel, &queue, true).await, 2000).await;
        assert_eq!(bodies(&got), numbers(0..2000));
    });
}

#[test]
fn ack_each_and_multiple() {
    check(|world| async move {
        let (watch, channel) = (world.channel().await, world.channel().await);
        let queue = world.queue(&watch, "q", FieldTable::default()).await;
        fill(&watch, &queue, &numbers(0..10)).await;
        let got = take(&mut consume(&channel, &queue, false).await, 10).await;
        got[0].ack(BasicAckOptions::default()).await.unwrap();
        got[6]
            .ack(BasicAckOptions { multiple: true })
            .await
            .unwrap();
        channel.close(200, "bye".into()).await.unwrap();
        until_ready(&watch, &queue, 3).await;
        let rest = take(&mut consume(&watch, &queue, true).await, 3).await;
        assert_eq!(bodies(&rest), numbers(7..10));
        assert_eq!(redelivered(&rest), [true; 3]);
    });
}

#[test]
fn requeue_returns_to_the_original_place() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        fill(&channel, &queue, &numbers(0..4)).await;
        let (first, second) = (
            get(&channel, &queue, false).await,
            get(&channel, &queue, false).await,
        );
        second
            .reject(BasicRejectOptions { requeue: true })
            .await
            .unwrap();
        until_ready(&channel, &queue, 3).await;
        first
            .nack(BasicNackOptions {
                requeue: true,
                multiple: false,
            })
            .await
            .unwrap();
        until_ready(&channel, &queue, 4).await;
        let got = take(&mut consume(&channel, &queue, true).await, 4).await;
        assert_eq!(bodies(&got), numbers(0..4));
        assert_eq!(redelivered(&got), [true, true, false, false]);
    });
}

#[test]
fn without_requeue_it_is_dropped() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        fill(&channel, &queue, &numbers(0..4)).await;
        get(&channel, &queue, false)
            .await
            .reject(BasicRejectOptions { requeue: false })
            .await
            .unwrap();
        get(&channel, &queue, false).await;
        let third = get(&channel, &queue, false).await;
        third
            .nack(BasicNackOptions {
                requeue: false,
                multiple: true,
            })
            .await
            .unwrap();
        channel.close(200, "bye".into()).await.unwrap();
        let other = world.channel().await;
        assert_eq!(ready(&other, &queue).await, 1);
        assert_eq!(get(&other, &queue, true).await.data, b"3");
    });
}

#[test]
fn closing_a_channel_returns_its_unacked_in_order() {
    check(|world| async move {
        let (watch, channel) = (world.channel().await, world.channel().await);
        let queue = world.queue(&watch, "q", FieldTable::default()).await;
        fill(&watch, &queue, &numbers(0..6)).await;
        channel
            .basic_qos(3, BasicQosOptions::default())
            .await
            .unwrap();
        take(&mut consume(&channel, &queue, false).await, 3).await;
        channel.close(200, "bye".into()).await.unwrap();
        until_ready(&watch, &queue, 6).await;
        let got = take(&mut consume(&watch, &queue, true).await, 6).await;
        assert_eq!(bodies(&got), numbers(0..6));
        assert_eq!(redelivered(&got), [true, true, true, false, false, false]);
    });
}

#[test]
fn prefetch_bounds_the_unacked() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        fill(&channel, &queue, &numbers(0..10)).await;
        channel
            .basic_qos(3, BasicQosOptions::default())
            .await
            .unwrap();
        let mut consumer = consume(&channel, &queue, false).await;
        let got = take(&mut consumer, 3).await;
        assert_eq!(ready(&channel, &queue).await, 7);
        got[1]
            .ack(BasicAckOptions { multiple: true })
            .await
            .unwrap();
        assert_eq!(bodies(&take(&mut consumer, 2).await), numbers(3..5));
        assert_eq!(ready(&channel, &queue).await, 5);
    });
}

#[test]
fn get_answers_a_message_with_its_count_or_nothing() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let options = BasicGetOptions { no_ack: true };
        assert!(
            channel
                .basic_get(queue.as_str().into(), options)
                .await
                .unwrap()
                .is_none()
        );
        fill(&channel, &queue, &numbers(0..3)).await;
        let message = channel
            .basic_get(queue.as_str().into(), options)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (message.message_count, message.delivery.routing_key.as_str()),
            (2, queue.as_str())
        );
        assert!(!message.delivery.redelivered);
    });
}

#[test]
fn a_cancelled_consumer_ends() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let mut consumer = consume(&channel, &queue, true).await;
        publish(&channel, "", &queue, b"1", BasicProperties::default()).await;
        take(&mut consumer, 1).await;
        channel
            .basic_cancel(consumer.tag(), BasicCancelOptions::default())
            .await
            .unwrap();
        fill(&channel, &queue, &["2".into()]).await;
        assert!(consumer.next().await.is_none());
    });
}

/// How the channel of this consumer ends; the error comes through its stream.
async fn ending(consumer: &mut lapin::Consumer) -> Result<Delivery, lapin::Error> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("the channel stayed open")
        .expect("the consumer ended without an error")
}

#[test]
fn an_unknown_tag_is_406() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let mut consumer = consume(&channel, &queue, false).await;
        channel
            .basic_ack(42, BasicAckOptions::default())
            .await
            .unwrap();
        let text = "PRECONDITION_FAILED - unknown delivery tag 42";
        refused(ending(&mut consumer).await, 406, text);
    });
}

#[test]
fn bodies_of_every_size() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        for size in [0, 1, 131_064, 131_065, 1 << 20] {
            let body = vec![b'x'; size];
            publish(
                &channel,
                "",
                &queue,
                &body,
                BasicProperties::default().with_delivery_mode(2),
            )
            .await;
            assert!(get(&channel, &queue, true).await.data == body, "{size}");
        }
    });
}

#[test]
fn properties_and_headers_round_trip() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let mut list = FieldArray::default();
        list.push(AMQPValue::LongInt(1));
        list.push(string("two"));
        list.push(AMQPValue::Void);
        let headers = table([
            ("yes", AMQPValue::Boolean(true)),
            ("no", AMQPValue::Boolean(false)),
            ("byte", AMQPValue::ShortShortInt(-5)),
            ("octet", AMQPValue::ShortShortUInt(200)),
            ("short", AMQPValue::ShortInt(-300)),
            ("ushort", AMQPValue::ShortUInt(60_000)),
            ("int", AMQPValue::LongInt(-70_000)),
            ("uint", AMQPValue::LongUInt(4_000_000_000)),
            ("long", AMQPValue::LongLongInt(1 << 45)),
            ("float", AMQPValue::Float(0.5)),
            ("double", AMQPValue::Double(3.25)),
            (
                "decimal",
                AMQPValue::DecimalValue(DecimalValue {
                    scale: 2,
                    value: 1234,
                }),
            ),
            ("text", string("grüße")),
            ("bytes", AMQPValue::ByteArray(vec![0u8, 255, 128].into())),
            ("list", AMQPValue::FieldArray(list)),
            ("time", AMQPValue::Timestamp(1_700_000_000)),
            (
                "table",
                AMQPValue::FieldTable(table([(
                    "none",
                    AMQPValue::FieldTable(FieldTable::default()),
                )])),
            ),
            ("nothing", AMQPValue::Void),
        ]);
        let sent = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("gzip".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(5)
            .with_correlation_id("c-1".into())
            .with_reply_to("somewhere".into())
            .with_expiration("3600000".into())
            .with_message_id("m-1".into())
            .with_timestamp(1_700_000_000)
            .with_type("kind".into())
            .with_user_id("guest".into())
            .with_app_id("suite".into());
        publish(&channel, "", &queue, b"{}", sent.clone()).await;
        assert_eq!(get(&channel, &queue, true).await.properties, sent);
        publish(&channel, "", &queue, b"{}", BasicProperties::default()).await;
        assert_eq!(
            get(&channel, &queue, true).await.properties,
            BasicProperties::default()
        );
    });
}

fn header<'a>(message: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    message.properties.headers().as_ref()?.inner().get(name)
}

/// The x-death entries as (queue, reason, count).
fn deaths(message: &Delivery) -> Vec<(AMQPValue, AMQPValue, AMQPValue)> {
    let list = header(message, "x-death")
        .and_then(AMQPValue::as_array)
        .expect("x-death");
    list.as_slice()
        .iter()
        .map(|entry| {
            let entry = entry.as_field_table().unwrap().inner();
            (
                entry["queue"].clone(),
                entry["reason"].clone(),
                entry["count"].clone(),
            )
        })
        .collect()
}

#[test]
fn messages_expire() {
    check(|world| async move {
        let channel = world.confirm_channel().await;
        let grave = world.queue(&channel, "grave", FieldTable::default()).await;
        let mut dead = table([
            ("x-dead-letter-exchange", string("")),
            ("x-dead-letter-routing-key", string(&grave)),
        ]);
        let own = world.queue(&channel, "own", dead.clone()).await;
        dead.insert("x-message-ttl".into(), AMQPValue::LongInt(50));
        let bulk = world.queue(&channel, "bulk", dead).await;
        publish(
            &channel,
            "",
            &own,
            b"own",
            BasicProperties::default().with_expiration("50".into()),
        )
        .await;
        let first = get(&channel, &grave, true).await;
        assert_eq!(first.data, b"own");
        assert!(first.properties.expiration().is_none());
        assert_eq!(
            deaths(&first),
            [(string(&own), string("expired"), AMQPValue::LongLongInt(1))]
        );
        let list = header(&first, "x-death")
            .and_then(AMQPValue::as_array)
            .unwrap();
        let entry = list.as_slice()[0].as_field_table().unwrap().inner();
        assert_eq!(entry["exchange"], string(""));
        assert_eq!(entry["original-expiration"], string("50"));
        assert!(matches!(entry["time"], AMQPValue::Timestamp(time) if time > 1_700_000_000));
        assert_eq!(
            entry["routing-keys"].as_array().unwrap().as_slice(),
            [string(&own)]
        );
        assert_eq!(
            header(&first, "x-first-death-reason"),
            Some(&string("expired"))
        );
        publish(&channel, "", &bulk, b"bulk", BasicProperties::default()).await;
        assert_eq!(get(&channel, &grave, true).await.data, b"bulk");
    });
}

#[test]
fn the_retry_ladder_counts_its_rounds() {
    check(|world| async move {
        let channel = world.channel().await;
        let work = world.queue_name("work");
        let ladder = |to: &str| {
            table([
                ("x-dead-letter-exchange", string("")),
                ("x-dead-letter-routing-key", string(to)),
            ])
        };
        let mut back = ladder(&work);
        back.insert("x-message-ttl".into(), AMQPValue::LongInt(50));
        let wait = world.queue(&channel, "wait", back).await;
        world.queue(&channel, "work", ladder(&wait)).await;
        publish(&channel, "", &work, b"job", BasicProperties::default()).await;
        for _ in 0..2 {
            get(&channel, &work, false)
                .await
                .reject(BasicRejectOptions { requeue: false })
                .await
                .unwrap();
        }
        let last = get(&channel, &work, true).await;
        let twice = AMQPValue::LongLongInt(2);
        let wanted = [
            (string(&wait), string("expired"), twice.clone()),
            (string(&work), string("rejected"), twice),
        ];
        assert_eq!(deaths(&last), wanted);
        assert_eq!(header(&last, "x-first-death-queue"), Some(&string(&work)));
        assert!(!last.redelivered);
    });
}

#[test]
fn direct_reply_to() {
    check(|world| async move {
        let worker = world.channel().await;
        let queue = world.queue(&worker, "q", FieldTable::default()).await;
        let mut requests = consume(&worker, &queue, true).await;
        let work = tokio::spawn(async move {
            for _ in 0..10 {
                let request = requests.next().await.unwrap().unwrap();
                let address = request.properties.reply_to().clone().unwrap();
                let id = request.properties.correlation_id().clone().unwrap();
                let properties = BasicProperties::default().with_correlation_id(id);
                publish(
                    &worker,
                    "",
                    address.as_str(),
                    &request.data.to_ascii_uppercase(),
                    properties,
                )
                .await;
            }
        });
        let client = world.channel().await;
        let mut replies = consume(&client, REPLY_TO, true).await;
        for n in numbers(0..10) {
            let properties = BasicProperties::default()
                .with_reply_to(REPLY_TO.into())
                .with_correlation_id(n.as_str().into());
            publish(
                &client,
                "",
                &queue,
                format!("call {n}").as_bytes(),
                properties,
            )
            .await;
        }
        let got = take(&mut replies, 10).await;
        assert_eq!(
            bodies(&got),
            numbers(0..10)
                .iter()
                .map(|n| format!("CALL {n}"))
                .collect::<Vec<_>>()
        );
        work.await.unwrap();
    });
}

#[test]
fn a_request_without_a_reply_consumer_is_406() {
    check(|world| async move {
        let channel = world.channel().await;
        let queue = world.queue(&channel, "q", FieldTable::default()).await;
        let mut consumer = consume(&channel, &queue, true).await;
        let properties = BasicProperties::default().with_reply_to(REPLY_TO.into());
        publish(&channel, "", &queue, b"m", properties).await;
        let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
        refused(ending(&mut consumer).await, 406, text);
    });
}

#[test]
fn transactions() {
    check(|world| async move {
        let (watch, channel) = (world.channel().await, world.channel().await);
        let queue = world.queue(&watch, "q", FieldTable::default()).await;
        channel.tx_select().await.unwrap();
        publish(&channel, "", &queue, b"kept", BasicProperties::default()).await;
        channel.tx_commit().await.unwrap();
        assert_eq!(ready(&watch, &queue).await, 1);
        publish(&channel, "", &queue, b"dropped", BasicProperties::default()).await;
        channel.tx_rollback().await.unwrap();
        assert_eq!(ready(&watch, &queue).await, 1);
    });
}
