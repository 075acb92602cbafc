//! A queue's signals in process: over HTTP and on `/metrics`.
#![allow(clippy::unwrap_used)]

use amqp::content::{Address, Block};
use amqp::field::{Table, Value as Field};
use amqp::properties::Properties;
use serde_json::{Value, json};
use store::definitions::QueueDeclare;
use store::queue::consumers::ChannelKey;
use store::shard::{Got, Run};

use super::queue_tests::declare;
use super::tests::{app, bytes, json as body_of, send};
use super::*;

fn declare_by_key(app: &App, name: &str) {
    let mut arguments = Table::default();
    arguments.insert("x-partition-header", Field::text("account"));
    arguments.insert("x-retry-delay", Field::I32(3_600_000));
    let ask = QueueDeclare {
        name: name.into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    app.store.lock().declare_queue(0, &"/".into(), ask).unwrap();
}

fn publish(app: &App, queue: &str, account: Field) {
    let mut headers = Table::default();
    headers.insert("account", account);
    let properties = Properties {
        delivery_mode: Some(2),
        headers: Some(headers),
        ..Properties::default()
    };
    let mut block = Block::default();
    block.push(
        &Address::new(b"", queue.as_bytes()),
        &properties.encode(),
        b"x",
    );
    let (vhost, block) = ("/".into(), Arc::new(block));
    let mut shard = app.store.lock();
    shard.publish(&Run::alone(&vhost, &block)).unwrap();
}

/// Takes one message on a channel of its own; refuses it if it is to fail.
async fn take(app: &App, queue: &str, fails: bool) {
    let key = {
        let mut shard = app.store.lock();
        let session = shard.open_session(Arc::default());
        let key = ChannelKey {
            session,
            channel: 1,
        };
        shard.open_channel(key);
        key
    };
    loop {
        let got = {
            let mut shard = app.store.lock();
            let id = shard.queue(0, "/", queue).unwrap();
            shard.get(id, key, false)
        };
        match got {
            Got::Message { tag, .. } if fails => {
                assert!(app.store.lock().nack(key, tag, false, false));
                return;
            }
            Got::Message { .. } => return,
            _ => app.store.on_disk().await.unwrap(),
        }
    }
}

async fn signals(app: &App, path: &str) -> Value {
    let response = send(app, "GET", path, &[]).await;
    assert_eq!(response.status(), 200);
    body_of(response).await
}

#[tokio::test]
async fn an_empty_queue_tells_zero_and_no_age() {
    let app = app().await;
    declare(&app, "plain", None);
    declare(&app, "work", Some(3));
    let plain = signals(&app, "/v1/queues/plain/signals").await;
    for field in ["dead_letters", "oldest_ready_ms", "keys"] {
        assert_eq!(plain[field], Value::Null, "{field}");
    }
    let work = signals(&app, "/v1/queues/work/signals?vhost=%2F").await;
    assert_eq!(work["dead_letter_queue"], "work.dlq");
    assert_eq!(work["dead_letters"], 0);
    assert_eq!(work["growth"], json!({"1m": 0.0, "5m": 0.0}));
    assert_eq!(work["partial"], false);
}

#[tokio::test]
async fn keys_are_shown_with_the_oldest_head_first() {
    let app = app().await;
    declare_by_key(&app, "q");
    for account in ["ada", "bob", "ada", "cyd", "ada"] {
        publish(&app, "q", Field::text(account));
    }
    publish(&app, "q", Field::I32(7));
    take(&app, "q", true).await;
    take(&app, "q", false).await;
    let seen = signals(&app, "/v1/queues/q/signals").await;
    let counts = (&seen["ready"], &seen["unacked"], &seen["waiting"]);
    assert_eq!(counts, (&json!(4), &json!(1), &json!(1)));
    assert!(seen["oldest_unacked_ms"].is_u64() && seen["oldest_ready_ms"].is_u64());
    let keys: Vec<Value> = seen["keys"].as_array().unwrap().clone();
    let told: Vec<_> = keys
        .iter()
        .map(|key| (&key["key"], &key["state"], &key["behind"]))
        .collect();
    let told = json!(told);
    let expected = json!([
        ["ada", "backoff", 2],
        ["bob", "out", 0],
        ["cyd", "ready", 0],
        ["7", "ready", 0],
    ]);
    assert_eq!(told, expected);
    assert!(keys.iter().all(|key| key["head_age_ms"].is_u64()));
    let few = signals(&app, "/v1/queues/q/signals?keys=2").await;
    assert_eq!(few["keys"].as_array().unwrap().len(), 2);
    assert_eq!(few["partial"], true);
    assert_eq!(few["keys"][0]["behind"], 2);
    let metrics = bytes(send(&app, "GET", "/metrics", &[]).await).await;
    let metrics = String::from_utf8(metrics).unwrap();
    let of = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit_once(' '))
            .map(|(_, value)| value.parse::<f64>().unwrap())
    };
    let labels = "{vhost=\"/\",queue=\"q\"}";
    assert!(of(&format!("leveret_queue_head_of_line_seconds{labels}")).unwrap() > 0.0);
    assert_eq!(
        of("leveret_queue_head_of_line_seconds{vhost=\"/\",queue=\"fib\"}"),
        None
    );
    assert_eq!(
        of(&format!("leveret_queue_dead_letters{labels}")),
        Some(0.0)
    );
    for window in ["1m", "5m"] {
        let labels = format!("{{vhost=\"/\",queue=\"q\",window=\"{window}\"}}");
        let name = format!("leveret_queue_growth_messages_per_second{labels}");
        assert_eq!(of(&name), Some(0.0), "{window}");
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let app = app().await;
    declare(&app, "q", None);
    for (query, detail) in [
        ("keys=0", "keys: '0' is not within 1 to 100"),
        ("keys=101", "keys: '101' is not within 1 to 100"),
        ("keys=-1", "keys: '-1' is not within 1 to 100"),
        ("keys=many", "keys: 'many' is not within 1 to 100"),
    ] {
        let path = format!("/v1/queues/q/signals?{query}");
        let response = send(&app, "GET", &path, &[]).await;
        assert_eq!(response.status(), 400);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(body_of(response).await["detail"], detail);
    }
    let path = "/v1/queues/q/signals?kees=3";
    assert_eq!(send(&app, "GET", path, &[]).await.status(), 400);
    let none = send(&app, "GET", "/v1/queues/none/signals", &[]).await;
    assert_eq!(none.status(), 404);
    let nobody = [("authorization", "Basic eDp5")];
    let stranger = send(&app, "GET", "/v1/queues/q/signals", &nobody).await;
    assert_eq!(stranger.status(), 401);
}
