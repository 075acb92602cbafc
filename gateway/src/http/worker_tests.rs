//! Workers over HTTP in process: publishing, receiving, leases.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use amqp::field::{Table, Value as Field};
use serde_json::{Value, json};
use store::alarms::Cause;
use store::definitions::QueueDeclare;
use store::model::PermissionSpec;
use store::queue::consumers::{ChannelKey, Consumer};
use store::shard::{Got, Out};
use store::sql::memory::Memory;

use super::queue_tests::{JSON, declare};
use super::tests::{app, app_on, json as body_of, send, send_body};
use super::*;

async fn post(app: &App, path: &str, body: Value) -> (u16, Value) {
    let response = send_body(app, "POST", path, &JSON, &body.to_string()).await;
    let status = response.status().as_u16();
    match status {
        204 => (status, Value::Null),
        _ => (status, body_of(response).await),
    }
}

async fn publish(app: &App, queue: &str, bodies: &[&str]) {
    let messages: Vec<Value> = bodies.iter().map(|body| json!({"body": body})).collect();
    let path = format!("/v1/queues/{queue}/messages");
    let (status, told) = post(app, &path, json!({"messages": messages})).await;
    assert_eq!((status, &told["accepted"]), (201, &bodies.len().into()));
}

async fn receive(app: &App, queue: &str, wish: Value) -> Vec<Value> {
    let path = format!("/v1/queues/{queue}/messages:receive");
    let (status, told) = post(app, &path, wish).await;
    assert_eq!(status, 200, "{told}");
    told["messages"].as_array().unwrap().clone()
}

async fn end(app: &App, queue: &str, message: &Value, how: &str, body: Value) -> u16 {
    let lease = message["lease"].as_str().unwrap();
    // Both forms of a verb.
    let how = match how.starts_with(':') {
        true => how.to_owned(),
        false => format!("/{how}"),
    };
    let path = format!("/v1/queues/{queue}/leases/{lease}{how}");
    post(app, &path, body).await.0
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    let body = |message: &Value| message["body"].as_str().map(|_| ());
    assert!(messages.iter().all(|message| body(message).is_some()));
    messages.iter().filter_map(|m| m["body"].as_str()).collect()
}

fn counts(app: &App, queue: &str) -> (u64, u64, u64) {
    let stats = app.store.stats();
    let known = stats.queues.iter().find(|known| &*known.name == queue);
    known.map_or((0, 0, 0), |q| (q.ready, q.unacked, q.waiting))
}

#[tokio::test]
async fn one_message_travels_with_its_properties() {
    let app = app().await;
    declare(&app, "q", None);
    let headers = [
        ("content-type", "text/csv"),
        ("message-id", "m-1"),
        ("message-priority", "3"),
        ("correlation-id", "c"),
        ("header-tenant", "ada"),
        ("header-x-count", "12"),
    ];
    let sent = send_body(&app, "POST", "/v1/queues/q/messages", &headers, "a;b").await;
    assert_eq!(sent.status(), 201);
    let told = json!({"accepted": 1, "refused": 0, "messages": [{"accepted": true}]});
    assert_eq!(body_of(sent).await, told);
    let messages = receive(&app, "q", json!({})).await;
    let message = &messages[0];
    assert_eq!(message["body"], "a;b");
    assert_eq!(message["headers"], json!({"tenant": "ada", "x-count": 12}));
    let properties = json!({
        "content_type": "text/csv", "message_id": "m-1", "priority": 3, "correlation_id": "c",
        "delivery_mode": 2,
    });
    assert_eq!(message["properties"], properties);
    assert_eq!(
        (&message["attempt"], &message["redelivered"]),
        (&1.into(), &false.into())
    );
}

#[tokio::test]
async fn a_header_that_is_no_number_within_its_range_is_refused() {
    let app = app().await;
    declare(&app, "q", None);
    for (name, value, allowed) in [
        ("message-priority", "300", "300 is not within 0 to 255"),
        ("message-priority", "-1", "'-1' is not within 0 to 255"),
        ("delivery-mode", "both", "'both' is not within 0 to 255"),
        (
            "message-timestamp",
            "-1",
            "'-1' is no whole number from 0 on",
        ),
    ] {
        let headers = [("content-type", "text/plain"), (name, value)];
        let told = send_body(&app, "POST", "/v1/queues/q/messages", &headers, "x").await;
        assert_eq!(told.status(), 400);
        assert_eq!(body_of(told).await["detail"], format!("{name}: {allowed}"));
    }
    assert_eq!(counts(&app, "q"), (0, 0, 0));
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_refused_whole() {
    let app = app().await;
    declare(&app, "q", None);
    let path = "/v1/queues/q/messages";
    for (body, detail) in [
        (
            json!({"messages": []}),
            "messages: 0 are not within 1 to 1000",
        ),
        (
            json!({"messages": [{"body": "x"}, {}]}),
            "messages[1].body: give either body or body_base64",
        ),
        (
            json!({"messages": [{"body": "x", "properties": {"delivery_mode": 3}}]}),
            "messages[0].properties.delivery_mode: 3 is not within 1 to 2",
        ),
        (
            json!({"messages": [{"body": "x", "properties": {"priority": 256}}]}),
            "messages[0].properties.priority: 256 is not within 0 to 255",
        ),
        (
            json!({"messages": [{"body": "x", "properties": {"priority": "high"}}]}),
            "messages[0].properties.priority: \"high\" is not within 0 to 255",
        ),
        (
            json!({"messages": [{"body": "x", "properties": {"timestamp": -1}}]}),
            "messages[0].properties.timestamp: -1 is no whole number from 0 on",
        ),
        (
            json!({"messages": [{"body": "x", "properties": {"expiration": "soon"}}]}),
            "messages[0].expiration: 'soon' is not within 0 to 315360000000 ms",
        ),
        (
            json!({"messages": [{"body": "x", "properties": {"user_id": "eve"}}]}),
            "messages[0].user_id: 'eve' is not the user 'guest'",
        ),
        (
            json!({"messages": [{"body": "x", "headers": {"CC": ["other"]}}]}),
            "messages[0].headers: CC is not possible here, name one queue",
        ),
    ] {
        let (status, told) = post(&app, path, body).await;
        assert_eq!((status, &told["detail"]), (400, &detail.into()));
    }
    let (status, _) = post(&app, path, json!({"n": 30})).await;
    assert_eq!(status, 400, "application/json is a batch");
    assert_eq!(counts(&app, "q"), (0, 0, 0));
    let base64 = json!({"messages": [{"body_base64": "//4="}]});
    assert_eq!(post(&app, path, base64).await.0, 201);
    let messages = receive(&app, "q", json!({})).await;
    assert_eq!(messages[0]["body_base64"], "//4=");
    let unknown = "/v1/queues/none/messages";
    let (status, told) = post(&app, unknown, json!({"messages": [{"body": "x"}]})).await;
    assert_eq!(
        (status, &told["type"]),
        (404, &"urn:leveret:problem:unknown-target".into())
    );
}

#[tokio::test]
async fn no_room_is_503_with_a_time_to_ask_again() {
    let app = app().await;
    let mut arguments = Table::default();
    arguments.insert("x-max-length", Field::I64(2));
    arguments.insert("x-overflow", Field::text("reject-publish"));
    let ask = QueueDeclare {
        name: "small".into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    app.store.lock().declare_queue(0, &"/".into(), ask).unwrap();
    let three = json!({"messages": [{"body": "a"}, {"body": "b"}, {"body": "c"}]});
    let (status, told) = post(&app, "/v1/queues/small/messages", three).await;
    assert_eq!(
        (status, &told["accepted"], &told["refused"]),
        (201, &2.into(), &1.into())
    );
    assert_eq!(told["messages"][2]["accepted"], false);
    let one = send(&app, "POST", "/v1/queues/small/messages", &[]).await;
    assert_eq!(
        (one.status().as_u16(), &one.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    assert_eq!(body_of(one).await["type"], "urn:leveret:problem:queue-full");
    app.store.set_alarm(Cause::Memory, true);
    let one = send(&app, "POST", "/v1/queues/fib/messages", &[]).await;
    assert_eq!(one.status(), 503);
    assert_eq!(
        body_of(one).await["type"],
        "urn:leveret:problem:storage-full"
    );
    assert_eq!(counts(&app, "fib"), (0, 0, 0));
}

#[tokio::test]
async fn a_queue_that_blocks_takes_no_more_over_http() {
    let app = app().await;
    let mut arguments = Table::default();
    arguments.insert("x-max-length", Field::I64(2));
    arguments.insert("x-overflow", Field::text("block"));
    let ask = QueueDeclare {
        name: "small".into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    app.store.lock().declare_queue(0, &"/".into(), ask).unwrap();
    let three = json!({"messages": [{"body": "a"}, {"body": "b"}, {"body": "c"}]});
    let (status, told) = post(&app, "/v1/queues/small/messages", three).await;
    assert_eq!(
        (status, &told["accepted"], &told["refused"]),
        (201, &2.into(), &1.into())
    );
    for path in ["/v1/queues/small/messages", "/v1/calls/queue/small"] {
        for key in [&[][..], &[("idempotency-key", "k")]] {
            let refused = send(&app, "POST", path, key).await;
            assert_eq!(refused.status(), 503, "{path}");
            assert_eq!(refused.headers()["retry-after"], "1");
            let told = body_of(refused).await;
            assert_eq!(told["type"], "urn:leveret:problem:queue-full");
        }
    }
    assert_eq!(counts(&app, "small"), (2, 0, 0), "nothing was stored");
    app.store.on_disk().await.unwrap();
    assert_eq!(app.store.stats().counters.jobs_submitted, 0);
    receive(&app, "small", json!({"max": 1})).await;
    let keyed = [("idempotency-key", "k")];
    let sent = send(&app, "POST", "/v1/calls/queue/small", &keyed).await;
    assert_eq!(sent.status(), 202, "the key was not used up");
}

#[tokio::test]
async fn an_idempotency_key_publishes_once() {
    let app = app().await;
    let mut arguments = Table::default();
    arguments.insert("x-max-length", Field::I64(3));
    arguments.insert("x-overflow", Field::text("reject-publish"));
    let ask = QueueDeclare {
        name: "q".into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    app.store.lock().declare_queue(0, &"/".into(), ask).unwrap();
    let key = |key| [("idempotency-key", key), JSON[0]];
    let send = async |key: &[(&str, &str)], bodies: Value| {
        let body = json!({"messages": bodies}).to_string();
        let path = "/v1/queues/q/messages";
        send_body(&app, "POST", path, key, &body).await
    };
    let two = json!([{"body": "a"}, {"body": "b"}]);
    for replayed in [None, Some("true")] {
        let response = send(&key("k"), two.clone()).await;
        let told = response.headers().get("idempotent-replayed");
        assert_eq!(told.map(|value| value.to_str().unwrap()), replayed);
        assert_eq!(response.status(), 201);
        assert_eq!(body_of(response).await["accepted"], 2);
        assert_eq!(counts(&app, "q"), (2, 0, 0));
    }
    let other = send(&key("k"), json!([{"body": "a"}])).await;
    assert_eq!(other.status(), 422);
    // One of two would fit: with a key it is both or none, and the key is free again.
    assert_eq!(send(&key("whole"), two.clone()).await.status(), 503);
    assert_eq!(counts(&app, "q"), (2, 0, 0));
    receive(&app, "q", json!({"max": 2})).await;
    let whole = send(&key("whole"), two).await;
    assert_eq!(whole.headers().get("idempotent-replayed"), None);
    assert_eq!(
        (whole.status().as_u16(), counts(&app, "q")),
        (201, (2, 2, 0))
    );
}

#[tokio::test]
async fn a_batch_is_received_in_order_and_each_lease_ends_once() {
    let app = app().await;
    declare(&app, "q", Some(5));
    publish(&app, "q", &["1", "2", "3", "4", "5"]).await;
    let messages = receive(&app, "q", json!({"max": 4})).await;
    assert_eq!(bodies(&messages), ["1", "2", "3", "4"]);
    assert_eq!(counts(&app, "q"), (1, 4, 0));
    for (n, how, body) in [
        (0, "ack", json!({})),
        (1, "fail", json!({"reason": "no-stock", "detail": "of 7"})),
        (2, "release", json!({})),
    ] {
        assert_eq!(end(&app, "q", &messages[n], how, body).await, 204, "{how}");
        let forms = [":ack", ":fail", ":release", ":extend"];
        for again in forms.into_iter().flat_map(|form| [form, &form[1..]]) {
            let status = end(&app, "q", &messages[n], again, json!({})).await;
            assert_eq!(status, 410, "{again} after {how}");
        }
    }
    // One in backoff, one out, the released one before the one that was never out.
    assert_eq!(counts(&app, "q"), (2, 1, 1));
    let rest = receive(&app, "q", json!({"max": 9})).await;
    assert_eq!(bodies(&rest), ["3", "5"]);
    let told = |m: &Value| (m["attempt"].clone(), m["redelivered"].clone());
    assert_eq!(told(&rest[0]), (1.into(), true.into()), "not counted");
    assert_eq!(told(&rest[1]), (1.into(), false.into()));
    let failed = receive(&app, "q", json!({"wait_ms": 10_000})).await;
    assert_eq!(told(&failed[0]), (2.into(), true.into()));
    assert_eq!(
        failed[0]["headers"]["x-last-error"],
        "rejected: no-stock: of 7"
    );
    let unknown = json!({"lease": "AAMAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAA"});
    assert_eq!(end(&app, "q", &unknown, "ack", json!({})).await, 410);
}

#[tokio::test]
async fn a_lease_that_ends_returns_the_message_and_its_worker_is_late() {
    let app = app().await;
    declare(&app, "plain", None);
    declare(&app, "work", Some(3));
    for (queue, attempt) in [("plain", 1), ("work", 2)] {
        publish(&app, queue, &["x"]).await;
        let wish = json!({"lease_ms": 50, "wait_ms": 5000});
        let first = receive(&app, queue, wish.clone()).await;
        let second = receive(&app, queue, wish).await;
        assert_eq!(second[0]["attempt"], attempt);
        assert_eq!(second[0]["redelivered"], true);
        assert_eq!(end(&app, queue, &first[0], "ack", json!({})).await, 410);
        assert_eq!(
            counts(&app, queue),
            (0, 1, 0),
            "the late ack settled nothing"
        );
        let longer = end(&app, queue, &second[0], ":extend", json!({"ms": 60_000})).await;
        assert_eq!(longer, 200);
        let other = end(&app, queue, &second[0], ":steal", json!({})).await;
        assert_eq!(other, 404);
        let odd = end(&app, queue, &second[0], ":extend", json!({"ms": 0})).await;
        assert_eq!(odd, 400);
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert_eq!(counts(&app, queue), (0, 1, 0), "extended");
        assert_eq!(end(&app, queue, &second[0], ":ack", json!({})).await, 204);
        assert_eq!(counts(&app, queue), (0, 0, 0));
    }
    let counters = app.store.stats().counters;
    assert_eq!((counters.leases_ended, counters.late), (2, 2));
}

#[tokio::test]
async fn who_waits_is_told_in_turn_and_who_has_gone_takes_nothing() {
    let app = app().await;
    declare(&app, "q", None);
    assert_eq!(receive(&app, "q", json!({})).await, Vec::<Value>::new());
    let wait = || {
        let app = app.clone();
        tokio::spawn(async move { receive(&app, "q", json!({"wait_ms": 20_000})).await })
    };
    let consumers = |count: u64| {
        let app = app.clone();
        async move {
            let stats = || {
                app.store
                    .stats()
                    .queues
                    .into_iter()
                    .find(|q| &*q.name == "q")
            };
            while stats().unwrap().consumers != count {
                tokio::task::yield_now().await;
            }
        }
    };
    let (first, gone) = (wait(), wait());
    consumers(2).await;
    gone.abort();
    consumers(1).await;
    let second = wait();
    consumers(2).await;
    publish(&app, "q", &["1", "2", "3"]).await;
    let mut all = Vec::new();
    for told in [first, second] {
        let told = told.await.unwrap();
        assert_eq!(told.len(), 1);
        all.extend(bodies(&told).iter().map(|body| (*body).to_owned()));
    }
    all.sort_unstable();
    assert_eq!(all, ["1", "2"]);
    assert_eq!(counts(&app, "q"), (1, 2, 0));
    consumers(0).await;
    let late = receive(&app, "q", json!({"wait_ms": 60_000})).await;
    assert_eq!(bodies(&late), ["3"]);
    let stopped = tokio::spawn({
        let app = app.clone();
        async move { receive(&app, "q", json!({"wait_ms": 60_000})).await }
    });
    consumers(1).await;
    app.stop.cancel();
    assert_eq!(stopped.await.unwrap(), Vec::<Value>::new());
}

/// A consumer with room for many and a receiver that waits: each has its turn.
#[tokio::test]
async fn consumers_and_receivers_take_turns() {
    let app = app().await;
    declare(&app, "q", None);
    let key = {
        let mut shard = app.store.lock();
        let session = shard.open_session(Arc::default());
        let key = ChannelKey {
            session,
            channel: 1,
        };
        shard.open_channel(key);
        let id = shard.queue(0, "/", "q").unwrap();
        let consumer = Consumer {
            key,
            tag: Arc::from(&b"amqp"[..]),
            no_ack: false,
            exclusive: false,
            prefetch: 100,
            unacked: 0,
            priority: 0,
            timeout_ms: None,
            leases: false,
        };
        shard.consume(id, consumer).unwrap();
        key
    };
    let (mut mine, mut others) = (0, 0);
    for round in 0..20 {
        let waiting = tokio::spawn({
            let app = app.clone();
            async move { receive(&app, "q", json!({"wait_ms": 50})).await }
        });
        let two = || app.store.stats().queues.iter().any(|q| q.consumers == 2);
        while !two() {
            tokio::task::yield_now().await;
        }
        publish(&app, "q", &["a"]).await;
        others += waiting.await.unwrap().len();
        let out = app.store.lock().take_outbox(key.session);
        let count = |out: &Out| match out {
            Out::Deliver { piece, .. } => piece.count,
            _ => 0,
        };
        mine += out.iter().map(count).sum::<u32>();
        assert_eq!(mine as usize + others, round + 1);
    }
    assert_eq!((mine, others), (10, 10));
}

#[tokio::test]
async fn bad_wishes_and_missing_rights_are_refused() {
    let app = app().await;
    declare(&app, "q", None);
    publish(&app, "q", &["x"]).await;
    let path = "/v1/queues/q/messages:receive";
    for (wish, detail) in [
        (json!({"max": 0}), "max: 0 is not within 1 to 100"),
        (json!({"max": 101}), "max: 101 is not within 1 to 100"),
        (json!({"max": -1}), "max: -1 is not within 1 to 100"),
        (json!({"max": 1.5}), "max: 1.5 is not within 1 to 100"),
        (json!({"max": "all"}), "max: \"all\" is not within 1 to 100"),
        (
            json!({"wait_ms": -1}),
            "wait_ms: -1 is not within 0 to 60000",
        ),
        (
            json!({"wait_ms": 60_001}),
            "wait_ms: 60001 is not within 0 to 60000",
        ),
        (
            json!({"lease_ms": 0}),
            "lease_ms: 0 is not within 1 to 43200000",
        ),
    ] {
        let (status, told) = post(&app, path, wish).await;
        assert_eq!((status, &told["detail"]), (400, &detail.into()));
    }
    assert_eq!(post(&app, path, json!({"min": 1})).await.0, 400);
    assert_eq!(counts(&app, "q"), (1, 0, 0));
    let messages = receive(&app, "q", json!({})).await;
    let long = json!({"ms": 43_200_001});
    assert_eq!(end(&app, "q", &messages[0], "extend", long).await, 400);
    assert_eq!(
        end(&app, "fib", &messages[0], "ack", json!({})).await,
        410,
        "another queue"
    );
    assert_eq!(end(&app, "none", &messages[0], "ack", json!({})).await, 404);
    let eve = [("authorization", "Basic ZXZlOmV2ZQ=="), JSON[0]];
    for path in [path, "/v1/queues/q/messages", "/v1/queues/q/leases/x/ack"] {
        let response = send_body(&app, "POST", path, &eve, "{}").await;
        assert_eq!(response.status(), 401);
    }
}

/// An HTTP worker answers a call by publishing to its reply address.
#[tokio::test]
async fn a_worker_over_http_answers_a_call() {
    let app = app().await;
    let call = body_of(send(&app, "POST", "/v1/calls/queue/fib", &[]).await).await;
    let messages = receive(&app, "fib", json!({})).await;
    let to = messages[0]["properties"]["reply_to"].as_str().unwrap();
    let at = format!("/v1/jobs/{}", call["id"].as_str().unwrap());
    let reply = format!("/v1/queues/{to}/messages");
    let kind = ("message-content-type", "application/json");
    let half = [("header-x-progress", "50"), ("content-type", "text/plain")];
    assert_eq!(
        send_body(&app, "POST", &reply, &half, "").await.status(),
        201
    );
    let seen = body_of(send(&app, "GET", &at, &[]).await).await;
    assert_eq!(
        (&seen["state"], &seen["progress"]["percent"]),
        (&"running".into(), &50.0.into())
    );
    let sent = send_body(&app, "POST", &reply, &[kind], "832040").await;
    assert_eq!(sent.status(), 201);
    assert_eq!(end(&app, "fib", &messages[0], "ack", json!({})).await, 204);
    let seen = body_of(send(&app, "GET", &at, &[]).await).await;
    assert_eq!(seen["state"], "succeeded");
    let result = send(&app, "GET", &format!("{at}/result"), &[]).await;
    assert_eq!(result.headers()["content-type"], "application/json");
}

/// A queue whose head is on disk only, or not yet on record as handed out, is not taken for empty.
#[tokio::test]
async fn a_message_that_must_be_fetched_is_no_empty_queue() {
    let app = app().await;
    declare(&app, "q", None);
    publish(&app, "q", &["x"]).await;
    let key = ChannelKey {
        session: 0,
        channel: 0,
    };
    let id = app.store.lock().queue(0, "/", "q").unwrap();
    let got = app.store.lock().get(id, key, true);
    assert!(
        matches!(got, Got::Later),
        "the commit that marks it must come first"
    );
    assert_eq!(bodies(&receive(&app, "q", json!({})).await), ["x"]);
}

#[tokio::test]
async fn a_batch_and_a_page_end_at_their_bytes_with_one_message_at_least() {
    let app = app().await;
    declare(&app, "q", None);
    let fat = |count| vec![(vec![0, 0], vec![b'x'; 9 << 20]); count];
    let publish = async |count| {
        let messages = fat(count);
        let published = app.store.publish_to_queue(("/", "q"), &messages, None);
        assert_eq!(published.await.unwrap().len(), count);
    };
    let many = json!({"max": 10, "wait_ms": 60_000});
    // Told while it waits, and at once.
    let waits = receive(&app, "q", many.clone());
    let (waited, ()) = tokio::join!(waits, async {
        while app.store.stats().queues.iter().all(|q| q.consumers == 0) {
            tokio::task::yield_now().await;
        }
        publish(3).await;
    });
    assert_eq!(waited.len(), 1);
    assert_eq!(receive(&app, "q", many).await.len(), 1);
    publish(2).await;
    let path = "/v1/queues/q/messages?body_bytes=3";
    let page = body_of(send(&app, "GET", path, &[]).await).await;
    let shown = page["messages"].as_array().unwrap();
    assert_eq!(shown.len(), 1, "two are more than 16 MiB");
    assert_eq!(
        (&shown[0]["body"], &shown[0]["bytes"]),
        (&json!("xxx"), &json!(9 << 20))
    );
    assert!(page["next_cursor"].is_string());
}

/// Of what was received before a crash only the acks that were answered count.
#[tokio::test]
async fn a_restart_ends_all_leases() {
    let memory = Arc::new(Memory::new());
    let before = app_on(memory.clone()).await;
    declare(&before, "q", None);
    publish(&before, "q", &["1", "2", "3"]).await;
    let messages = receive(&before, "q", json!({"max": 2})).await;
    assert_eq!(end(&before, "q", &messages[0], "ack", json!({})).await, 204);
    let after = app_on(Arc::new(memory.crash())).await;
    assert_eq!(end(&after, "q", &messages[1], "ack", json!({})).await, 410);
    let rest = receive(&after, "q", json!({"max": 9})).await;
    assert_eq!(bodies(&rest), ["2", "3"]);
    assert_eq!(rest[0]["redelivered"], true);
}

#[tokio::test]
async fn rights_are_those_of_amqp() {
    let app = app().await;
    declare(&app, "q", None);
    publish(&app, "q", &["x"]).await;
    let messages = receive(&app, "q", json!({})).await;
    let lease = messages[0]["lease"].as_str().unwrap();
    let permission = |write: &str, read: &str| PermissionSpec {
        vhost: "/".into(),
        user: "guest".into(),
        configure: ".*".into(),
        write: write.into(),
        read: read.into(),
    };
    let paths = [
        "/v1/queues/q/messages".to_owned(),
        "/v1/queues/q/messages:receive".to_owned(),
        format!("/v1/queues/q/leases/{lease}/ack"),
    ];
    let batch = json!({"messages": [{"body": "y"}]});
    for (write, read, expected) in [
        ("^q$", "^other$", [403, 403, 403]),
        ("^amq\\.default$", "^other$", [201, 403, 403]),
        ("^q$", "^q$", [403, 200, 204]),
    ] {
        let put = app.store.lock().put_permission(permission(write, read));
        put.unwrap();
        let bodies = [batch.clone(), json!({}), json!({})];
        for ((path, body), status) in paths.iter().zip(bodies).zip(expected) {
            let told = post(&app, path, body).await;
            assert_eq!(told.0, status, "{path} with {write} {read}");
        }
    }
}
