//! The operators' routes in process: looking, purging, moving, redriving, pausing.
#![allow(clippy::unwrap_used)]

use amqp::content::{Address, Block};
use serde_json::json;
use store::definitions::QueueDeclare;
use store::queue::consumers::ChannelKey;
use store::shard::{Got, Run};

use super::tests::{app, bytes, json as body_of, send, send_body};
use serde_json::Value;

use super::*;

pub(super) const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

pub(super) fn declare(app: &App, name: &str, retries: Option<i64>) {
    let mut arguments = amqp::field::Table::default();
    if let Some(retries) = retries {
        arguments.insert("x-retry-limit", amqp::field::Value::I64(retries));
    }
    let ask = QueueDeclare {
        name: name.into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    app.store.lock().declare_queue(0, &"/".into(), ask).unwrap();
}

fn publish(app: &App, queue: &str, id: &str, body: &[u8]) {
    let properties = amqp::properties::Properties {
        message_id: Some(id.into()),
        delivery_mode: Some(2),
        ..Default::default()
    };
    let mut block = Block::default();
    let address = Address::new(b"", queue.as_bytes());
    block.push(&address, &properties.encode(), body);
    let (vhost, block) = ("/".into(), Arc::new(block));
    app.store
        .lock()
        .publish(&Run::alone(&vhost, &block))
        .unwrap();
}

/// Lets so many messages of a queue die.
fn kill(app: &App, queue: &str, count: u32) {
    let mut shard = app.store.lock();
    let session = shard.open_session(Arc::default());
    let key = ChannelKey {
        session,
        channel: 1,
    };
    shard.open_channel(key);
    let id = shard.queue(0, "/", queue).unwrap();
    for _ in 0..count {
        let Got::Message { tag, .. } = shard.get(id, key, false) else {
            panic!("nothing to kill");
        };
        shard.nack(key, tag, false, false);
    }
}

#[tokio::test]
async fn messages_are_shown_and_stay() {
    let app = app().await;
    declare(&app, "q", None);
    publish(&app, "q", "one", "text".as_bytes());
    publish(&app, "q", "two", &[0xff, 0xfe]);
    for _ in 0..2 {
        let response = send(&app, "GET", "/v1/queues/q/messages", &[]).await;
        assert_eq!(response.status(), 200);
        let page = body_of(response).await;
        assert_eq!(page["next"], Value::Null);
        let first = &page["messages"][0];
        assert_eq!(first["body"], "text");
        assert_eq!(first["routing_key"], "q");
        assert_eq!(first["properties"]["message_id"], "one");
        assert_eq!(first["failures"], 0);
        assert_eq!(page["messages"][1]["body_base64"], "//4=");
    }
    let response = send(&app, "GET", "/v1/queues/q/messages?limit=1&id=two", &[]).await;
    let page = body_of(response).await;
    assert_eq!(page["messages"][0]["seq"], 1);
    for (query, detail) in [
        ("limit=0", "limit: '0' is not within 1 to 1000"),
        ("limit=1001", "limit: '1001' is not within 1 to 1000"),
        ("limit=ten", "limit: 'ten' is not within 1 to 1000"),
        (
            "cursor=7",
            "cursor: '7' is not a next_cursor of this list; without one it begins at the front",
        ),
        (
            "cursor=bTc&from=7",
            "from: 7 is an older spelling of cursor; give one of the two",
        ),
        ("state=gone", "state: 'gone' is not one of ready, waiting"),
        (
            "since=today",
            "since: 'today' is no instant such as 2026-01-31T08:00:00Z",
        ),
        ("header=x", "header: 'x' is not of the form name:value"),
        (
            "body_bytes=-1",
            "body_bytes: '-1' is no whole number from 0 on",
        ),
        ("from=first", "from: 'first' is no whole number from 0 on"),
    ] {
        let response = send(&app, "GET", &format!("/v1/queues/q/messages?{query}"), &[]).await;
        assert_eq!(response.status(), 400);
        assert_eq!(body_of(response).await["detail"], detail);
    }
    let response = send(&app, "GET", "/v1/queues/none/messages", &[]).await;
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn the_dead_are_listed_counted_redriven_and_purged() {
    let app = app().await;
    declare(&app, "q", Some(0));
    for id in ["a", "b", "c"] {
        publish(&app, "q", id, b"x");
    }
    assert_eq!(
        send(&app, "GET", "/v1/queues/q/dead", &[]).await.status(),
        404
    );
    kill(&app, "q", 3);
    let dead = body_of(send(&app, "GET", "/v1/queues/q/dead", &[]).await).await;
    assert_eq!(dead["messages"].as_array().unwrap().len(), 3);
    let path = "/v1/queues/q/dead:redrive";
    let count = json!({"dry_run": true, "filter": {"ids": ["a", "b"]}}).to_string();
    let counted = send_body(&app, "POST", path, &JSON, &count).await;
    assert_eq!(body_of(counted).await, json!({"count": 2, "dry_run": true}));
    let some = json!({"filter": {"ids": ["a", "b"]}}).to_string();
    let begun = send_body(&app, "POST", path, &JSON, &some).await;
    assert_eq!(begun.status(), 202);
    let at = begun.headers()["location"].to_str().unwrap().to_owned();
    let ended = loop {
        let view = body_of(send(&app, "GET", &at, &[]).await).await;
        if view["state"] != "running" {
            break view;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&ended["state"], &ended["moved"]),
        (&json!("done"), &json!(2))
    );
    assert_eq!(ended["filter"], json!({"ids": ["a", "b"], "died_in": "q"}));
    let back = body_of(send(&app, "GET", "/v1/queues/q/messages", &[]).await).await;
    assert_eq!(back["messages"][1]["headers"]["x-redrive-count"], 1);
    let purged = send_body(&app, "POST", "/v1/queues/q/dead:purge", &JSON, "{}").await;
    assert_eq!(body_of(purged).await, json!({"count": 1, "dry_run": false}));
    let all = body_of(send(&app, "GET", "/v1/redrives", &[]).await).await;
    assert_eq!(all["redrives"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused_and_nothing_changed() {
    let app = app().await;
    declare(&app, "q", None);
    declare(&app, "to", None);
    publish(&app, "q", "a", b"x");
    let path = "/v1/queues/q/messages:move";
    for (body, status, detail) in [
        (
            json!({"to": "none"}),
            404,
            "to: no queue 'none' in vhost '/'",
        ),
        (
            json!({"to": "q"}),
            400,
            "the messages of queue 'q' are in queue 'q'",
        ),
        (
            json!({"to": "to", "rate": -1}),
            400,
            "rate: -1 is not within 0.001 to 1000000 a second",
        ),
        (
            json!({"to": "to", "rate": 2e6, "dry_run": true}),
            400,
            "rate: 2000000.0 is not within 0.001 to 1000000 a second",
        ),
        (
            json!({"to": "to", "rate": "fast"}),
            400,
            "rate: \"fast\" is not within 0.001 to 1000000 a second",
        ),
        (
            json!({"to": "to", "filter": {"reason": "bored"}}),
            400,
            "reason: 'bored' is not one of rejected, expired, maxlen, delivery_limit",
        ),
    ] {
        let response = send_body(&app, "POST", path, &JSON, &body.to_string()).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(body_of(response).await["detail"], detail);
    }
    let unknown = json!({"filter": {"idz": []}}).to_string();
    let response = send_body(&app, "POST", path, &JSON, &unknown).await;
    assert_eq!(response.status(), 400);
    let page = body_of(send(&app, "GET", "/v1/queues/q/messages", &[]).await).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_acked_is_shown_counted_and_replayed() {
    let app = app().await;
    declare(&app, "plain", None);
    let mut arguments = amqp::field::Table::default();
    arguments.insert("x-retain", amqp::field::Value::I64(60_000));
    let ask = QueueDeclare {
        name: "kept".into(),
        durable: true,
        arguments,
        ..QueueDeclare::default()
    };
    app.store.lock().declare_queue(0, &"/".into(), ask).unwrap();
    for id in ["a", "b", "c"] {
        publish(&app, "kept", id, b"x");
    }
    {
        let mut shard = app.store.lock();
        let id = shard.queue(0, "/", "kept").unwrap();
        assert_eq!(shard.purge(id), 3);
    }
    let page = body_of(send(&app, "GET", "/v1/queues/kept/retained?limit=2", &[]).await).await;
    assert_eq!(page["messages"][1]["properties"]["message_id"], "b");
    assert_eq!(page["next"], 2);
    let cursor = page["next_cursor"].as_str().unwrap();
    let same = format!("/v1/queues/kept/retained?cursor={cursor}");
    let same = body_of(send(&app, "GET", &same, &[]).await).await;
    let page = body_of(send(&app, "GET", "/v1/queues/kept/retained?from=2", &[]).await).await;
    assert_eq!(page, same, "the older spelling");
    assert_eq!(page["messages"][0]["properties"]["message_id"], "c");
    assert_eq!(page["next"], Value::Null);
    let path = "/v1/queues/kept/replay";
    let order = json!({"from_seq": 1, "to": "plain", "dry_run": true}).to_string();
    let counted = body_of(send_body(&app, "POST", path, &JSON, &order).await).await;
    assert_eq!(counted, json!({"count": 2, "dry_run": true}));
    for (path, body, status, detail) in [
        (
            path,
            json!({"to": "none"}),
            404,
            "to: no queue 'none' in vhost '/'",
        ),
        (
            path,
            json!({"from_seq": -5}),
            400,
            "from_seq: -5 is no whole number from 0 on",
        ),
        (
            path,
            json!({"from_seq": 5, "to_seq": 4}),
            400,
            "to_seq: 4 is less than from_seq, which is 5",
        ),
        (
            "/v1/queues/plain/replay",
            json!({}),
            400,
            "queue 'plain' in vhost '/' keeps no settled messages: it has neither 'x-retain' nor \
             'x-retain-bytes'",
        ),
    ] {
        let response = send_body(&app, "POST", path, &JSON, &body.to_string()).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(body_of(response).await["detail"], detail);
    }
    let order = json!({"to_seq": 1, "to": "plain", "filter": {"ids": ["a", "c"]}}).to_string();
    let response = send_body(&app, "POST", path, &JSON, &order).await;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let view = loop {
        let view = body_of(send(&app, "GET", &location, &[]).await).await;
        if view["state"] != "running" {
            break view;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&view["state"], &view["kind"], &view["moved"]),
        (&json!("done"), &json!("replay"), &json!(1))
    );
    let page = body_of(send(&app, "GET", "/v1/queues/plain/messages", &[]).await).await;
    assert_eq!(page["messages"][0]["properties"]["message_id"], "a");
    let headers = &page["messages"][0]["headers"];
    assert_eq!(headers["x-replayed-from"], "kept");
    let metrics = bytes(send(&app, "GET", "/metrics", &[]).await).await;
    let text = String::from_utf8(metrics).unwrap();
    assert!(text.contains("leveret_queue_retained_messages{vhost=\"/\",queue=\"kept\"} 3"));
    assert!(text.contains("leveret_queue_retained_bytes{vhost=\"/\",queue=\"kept\"} 195"));
}

#[tokio::test]
async fn a_queue_is_paused_and_resumed() {
    let app = app().await;
    declare(&app, "q", None);
    publish(&app, "q", "a", b"x");
    let paused = send(&app, "POST", "/v1/queues/q/pause", &[]).await;
    assert_eq!(body_of(paused).await, json!({"paused": true}));
    let id = app.store.lock().queue(0, "/", "q").unwrap();
    let key = ChannelKey {
        session: 0,
        channel: 0,
    };
    assert!(matches!(app.store.lock().get(id, key, true), Got::Empty));
    let resumed = send(&app, "POST", "/v1/queues/q/resume", &[]).await;
    assert_eq!(body_of(resumed).await, json!({"paused": false}));
    assert_eq!(
        send(&app, "POST", "/v1/queues/none/pause", &[])
            .await
            .status(),
        404
    );
}

/// All entries of a list, page by page; `between` is called after each page.
async fn walked(
    app: &App,
    path: &str,
    list: &str,
    mut between: impl AsyncFnMut(usize),
) -> Vec<Value> {
    let (mut entries, mut cursor) = (Vec::new(), String::new());
    for page in 0.. {
        let response = send(app, "GET", &format!("{path}{cursor}"), &[]).await;
        assert_eq!(response.status(), 200);
        let body = body_of(response).await;
        entries.extend(body[list].as_array().unwrap().iter().cloned());
        match body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        between(page).await;
    }
    entries
}

#[tokio::test]
async fn a_walk_by_cursors_meets_each_message_that_stays_once() {
    let app = app().await;
    declare(&app, "q", None);
    for n in 0..60 {
        publish(&app, "q", &n.to_string(), b"x");
    }
    let mut gone = Vec::new();
    let path = "/v1/queues/q/messages?limit=7&body_bytes=0";
    let seen = walked(&app, path, "messages", async |page| {
        // Before the reader, behind it, and at the end.
        for id in [page * 2, 59 - page] {
            let purge = json!({"filter": {"ids": [id.to_string()]}}).to_string();
            let path = "/v1/queues/q/messages:purge";
            let purged = body_of(send_body(&app, "POST", path, &JSON, &purge).await).await;
            assert_eq!(purged["count"], 1);
            gone.push(id as u64);
        }
        publish(&app, "q", "late", b"x");
    })
    .await;
    assert!(gone.len() > 12);
    let seqs: Vec<u64> = seen.iter().map(|m| m["seq"].as_u64().unwrap()).collect();
    let stays = |seq: &u64| *seq < 60 && !gone.contains(seq);
    let found: Vec<u64> = seqs.iter().copied().filter(stays).collect();
    assert_eq!(found, (0..60).filter(stays).collect::<Vec<_>>());
    assert!(seqs.is_sorted_by(|a, b| a < b), "none twice");
}

#[tokio::test]
async fn a_walk_over_redrives_meets_each_once() {
    let app = app().await;
    declare(&app, "q", None);
    declare(&app, "to", None);
    let begin = async || {
        let body = json!({"to": "to"}).to_string();
        let path = "/v1/queues/q/messages:move";
        let begun = send_body(&app, "POST", path, &JSON, &body).await;
        body_of(begun).await["id"].as_str().unwrap().to_owned()
    };
    let mut begun = Vec::new();
    for _ in 0..5 {
        begun.push(begin().await);
    }
    let seen = walked(&app, "/v1/redrives?limit=2", "redrives", async |page| {
        if page == 0 {
            begun.push(begin().await);
        }
    })
    .await;
    let seen: Vec<&str> = seen.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(seen, begun, "oldest first");
    for path in ["/v1/redrives", "/v1/schedules", "/v1/jobs"] {
        // A cursor of another list.
        for wrong in ["limit=0", "limit=-1", "cursor=bTc", "cursor="] {
            let response = send(&app, "GET", &format!("{path}?{wrong}"), &[]).await;
            assert_eq!(response.status(), 400, "{path}?{wrong}");
            let (name, _) = wrong.split_once('=').unwrap();
            let body = body_of(response).await;
            assert!(body["detail"].as_str().unwrap().starts_with(name), "{body}");
        }
    }
}
