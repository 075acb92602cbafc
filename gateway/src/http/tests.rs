//! The routes in process, on the memory engine: no socket, no worker but the store itself.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use amqp::content::{Address, Block};
use amqp::field::Table;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use store::Options;
use store::model::{JobId, JobResult, JobState, PermissionSpec};
use store::queue::consumers::ChannelKey;
use store::shard::{Got, REPLY_TO_JOB, Run};
use store::sql::memory::Memory;
use tower::ServiceExt;

use super::*;

const LOGIN: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

pub(super) async fn app() -> App {
    app_on(Arc::new(Memory::new())).await
}

pub(super) async fn app_on(memory: Arc<Memory>) -> App {
    let opening = Store::open(memory, Options::default());
    let store = opening.await.unwrap();
    store.declare_work_queue("/", "fib").await.unwrap();
    App {
        ticker: Arc::new(Ticker::start(store.clone(), Vec::new()).await.unwrap()),
        store,
        calls: Calls {
            timeout: Duration::from_secs(60),
            result_ttl: Duration::from_secs(60),
            key_ttl: Duration::from_secs(60),
            body_bytes_max: 1_024,
        },
        recorder: PrometheusBuilder::new().build_recorder().handle(),
        stop: CancellationToken::new(),
        leases: LeaseNames::default(),
    }
}

pub(super) async fn send(
    app: &App,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Body> {
    send_body(app, method, path, headers, "{\"n\":30}").await
}

pub(super) async fn send_body(
    app: &App,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:1");
    if !headers.iter().any(|(name, _)| *name == "authorization") {
        request = request.header("authorization", LOGIN);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    let peer: SocketAddr = (Ipv4Addr::LOCALHOST, 9).into();
    request.extensions_mut().insert(ConnectInfo(peer));
    router(app.clone()).oneshot(request).await.unwrap()
}

pub(super) async fn bytes(response: Response<Body>) -> Vec<u8> {
    response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .to_vec()
}

pub(super) async fn json(response: Response<Body>) -> Value {
    serde_json::from_slice(&bytes(response).await).unwrap()
}

async fn expect(response: Response<Body>, status: u16, kind: &str) {
    assert_eq!(response.status(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem = json(response).await;
    assert_eq!(problem["type"], format!("urn:leveret:problem:{kind}"));
    assert_eq!(problem["status"], status);
}

async fn call(app: &App, headers: &[(&str, &str)]) -> Response<Body> {
    send(app, "POST", "/v1/calls/queue/fib", headers).await
}

async fn submitted(app: &App) -> String {
    let response = call(app, &[]).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    json(response).await["id"].as_str().unwrap().to_owned()
}

async fn finish(app: &App, id: &str, state: JobState) {
    let result = JobResult {
        content_type: Some("text/x-fib".into()),
        content_encoding: None,
        body: b"832040".to_vec(),
    };
    let id = JobId::parse(id).unwrap();
    assert!(
        app.store
            .finish_job(id, state, None, Some(result))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_call_is_accepted_and_its_result_is_verbatim() {
    let app = app().await;
    let response = call(&app, &[]).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["retry-after"], "1");
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let job = json(response).await;
    let id = job["id"].as_str().unwrap();
    assert_eq!(location, format!("http://localhost:1/v1/jobs/{id}"));
    assert_eq!(
        (&job["state"], &job["done"]),
        (&"queued".into(), &false.into())
    );
    let path = format!("/v1/jobs/{id}/result");
    assert_eq!(
        send(&app, "GET", &path, &[]).await.status(),
        StatusCode::ACCEPTED
    );
    finish(&app, id, JobState::Succeeded).await;
    let result = send(&app, "GET", &path, &[]).await;
    assert_eq!(result.status(), StatusCode::OK);
    assert_eq!(result.headers()["content-type"], "text/x-fib");
    assert_eq!(bytes(result).await, b"832040");
}

#[tokio::test]
async fn a_wait_ends_with_the_job() {
    let app = app().await;
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { call(&app, &[("prefer", "wait=60")]).await }
    });
    let id = loop {
        let page = json(send(&app, "GET", "/v1/jobs", &[]).await).await;
        if let Some(id) = page["jobs"][0]["id"].as_str() {
            break id.to_owned();
        }
        tokio::task::yield_now().await;
    };
    finish(&app, &id, JobState::Succeeded).await;
    let response = waiting.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["preference-applied"], "wait=60");
    assert_eq!(bytes(response).await, b"832040");
}

#[tokio::test]
async fn one_key_is_one_job() {
    let app = app().await;
    let key = [("idempotency-key", "\"k-1\"")];
    let first = call(&app, &key).await;
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let again = call(&app, &key).await;
    assert_eq!(again.status(), StatusCode::ACCEPTED);
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(json(first).await["id"], json(again).await["id"]);
    assert_eq!(app.store.stats().queues[0].ready, 1);
    let other = send_body(&app, "POST", "/v1/calls/queue/fib", &key, "{}").await;
    expect(other, 422, "idempotency-key-reused").await;
    let held = app.store.claim_key("guest\0/\0queue/fib\0k-2").unwrap();
    let racing = call(&app, &[("idempotency-key", "k-2")]).await;
    expect(racing, 409, "idempotency-key-in-use").await;
    drop(held);
    assert_eq!(
        call(&app, &[("idempotency-key", "k-2")]).await.status(),
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn what_is_refused_stores_nothing() {
    let app = app().await;
    let long = "x".repeat(1_025);
    for (path, headers, body, status, kind) in [
        ("/v1/calls/queue/none", &[][..], "", 404, "unknown-target"),
        ("/v1/calls/queue/fib?vhost=x", &[], "", 403, "forbidden"),
        ("/v1/calls/queue/fib", &[], &*long, 413, "payload-too-large"),
        (
            "/v1/calls/queue/fib",
            &[("content-length", "99999")],
            "",
            413,
            "payload-too-large",
        ),
        (
            "/v1/calls/queue/fib",
            &[("rpc-timeout", "soon")],
            "",
            400,
            "validation",
        ),
        (
            "/v1/calls/queue/fib",
            &[("idempotency-key", "\"")],
            "",
            400,
            "idempotency-key-invalid",
        ),
        (
            "/v1/calls/queue/fib",
            &[("authorization", "Basic eDp5")],
            "",
            401,
            "unauthorized",
        ),
        ("/v1/calls/queue/%ff", &[], "", 400, "validation"),
        ("/v1/nothing", &[], "", 404, "not-found"),
        ("/v1/jobs", &[], "", 405, "method-not-allowed"),
        ("/v1/jobs/x/cancel", &[], "", 404, "job-not-found"),
    ] {
        expect(
            send_body(&app, "POST", path, headers, body).await,
            status,
            kind,
        )
        .await;
    }
    assert_eq!(app.store.stats().queues[0].ready, 0);
}

#[tokio::test]
async fn a_cancelled_job_stays_cancelled() {
    let app = app().await;
    let id = submitted(&app).await;
    let cancel = format!("/v1/jobs/{id}/cancel");
    let job = json(send(&app, "POST", &cancel, &[]).await).await;
    assert_eq!(job["state"], "cancelled");
    expect(
        send(&app, "POST", &cancel, &[]).await,
        409,
        "not-cancellable",
    )
    .await;
    expect(
        send(&app, "GET", &format!("/v1/jobs/{id}/result"), &[]).await,
        409,
        "cancelled",
    )
    .await;
}

#[tokio::test]
async fn a_failed_job_has_a_problem_for_a_result() {
    let app = app().await;
    let id = submitted(&app).await;
    finish(&app, &id, JobState::Failed).await;
    expect(
        send(&app, "GET", &format!("/v1/jobs/{id}/result"), &[]).await,
        502,
        "worker-error",
    )
    .await;
    let unknown = format!("/v1/jobs/{}", app.store.new_job_id());
    expect(send(&app, "GET", &unknown, &[]).await, 404, "job-not-found").await;
}

#[tokio::test]
async fn an_unchanged_job_is_304() {
    let app = app().await;
    let path = format!("/v1/jobs/{}", submitted(&app).await);
    let tag = send(&app, "GET", &path, &[]).await.headers()["etag"]
        .to_str()
        .unwrap()
        .to_owned();
    let same = send(&app, "GET", &path, &[("if-none-match", &tag)]).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn jobs_come_in_pages_newest_first() {
    let app = app().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(submitted(&app).await);
    }
    let first = json(send(&app, "GET", "/v1/jobs?limit=2", &[]).await).await;
    assert_eq!(first["jobs"][0]["id"], ids[2]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = json(send(&app, "GET", &format!("/v1/jobs?cursor={cursor}"), &[]).await).await;
    assert_eq!(rest["jobs"][0]["id"], ids[0]);
    assert!(rest["next_cursor"].is_null());
    // What is submitted meanwhile shifts nothing, and the end is known at once.
    submitted(&app).await;
    let refused = send(&app, "GET", "/v1/jobs?state=lost", &[]).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(
        json(refused).await["detail"],
        "state: 'lost' is not one of queued, running, retrying, succeeded, failed, cancelled, \
         expired"
    );
    let path = format!("/v1/jobs?limit=1&cursor={cursor}");
    let again = json(send(&app, "GET", &path, &[]).await).await;
    assert_eq!(again["jobs"], rest["jobs"]);
    assert!(again["next_cursor"].is_null());
}

#[tokio::test]
async fn metrics_and_description_name_what_there_is() {
    let app = app().await;
    submitted(&app).await;
    let text = String::from_utf8(bytes(send(&app, "GET", "/metrics", &[]).await).await).unwrap();
    for line in [
        "leveret_queue_messages_ready{vhost=\"/\",queue=\"fib\"} 1",
        "leveret_queue_lease_seconds{vhost=\"/\",queue=\"fib\"} 30",
        "leveret_jobs{state=\"queued\"} 1",
        "leveret_jobs_submitted_total 1",
        "leveret_store_blocked 0",
        "leveret_publishers_stopped 0",
        "leveret_alarm_memory 0",
        "leveret_alarm_disk 0",
    ] {
        assert!(
            text.lines().any(|known| known == line),
            "{line} not in\n{text}"
        );
    }
    let described = json(send(&app, "GET", "/v1/openapi.json", &[]).await).await;
    assert!(described["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(described["paths"]["/v1/calls/queue/{name}"]["post"].is_object());
    app.stop.cancel();
    expect(send(&app, "GET", "/readyz", &[]).await, 503, "stopping").await;
}

#[tokio::test]
async fn a_call_asks_write_on_the_default_exchange() {
    let app = app().await;
    let permission = |write: &str| PermissionSpec {
        vhost: "/".into(),
        user: "guest".into(),
        configure: ".*".into(),
        write: write.into(),
        read: ".*".into(),
    };
    app.store
        .lock()
        .put_permission(permission("^fib$"))
        .unwrap();
    expect(call(&app, &[]).await, 403, "forbidden").await;
    let write = permission("^amq\\.default$");
    app.store.lock().put_permission(write).unwrap();
    submitted(&app).await;
    app.store.lock().delete_permission("/", "guest").unwrap();
    expect(call(&app, &[]).await, 403, "forbidden").await;
}

#[tokio::test]
async fn an_interim_reply_shows_as_progress_until_the_job_ends() {
    let app = app().await;
    let id = submitted(&app).await;
    let session = app.store.lock().open_session(Arc::default());
    let key = ChannelKey {
        session,
        channel: 1,
    };
    app.store.lock().open_channel(key);
    let queue = app.store.lock().queue(0, "/", "fib").unwrap();
    loop {
        let got = app.store.lock().get(queue, key, false);
        app.store.on_disk().await.unwrap();
        if let Got::Message { .. } = got {
            break;
        }
    }
    let say = |progress: Option<Table>, body: &str| {
        let properties = amqp::properties::Properties {
            headers: progress,
            ..Default::default()
        };
        let mut block = Block::default();
        let to = format!("{REPLY_TO_JOB}{id}");
        let address = Address::new(b"", to.as_bytes());
        block.push(&address, &properties.encode(), body.as_bytes());
        let (vhost, block) = ("/".into(), Arc::new(block));
        app.store
            .lock()
            .publish(&Run::alone(&vhost, &block))
            .unwrap();
    };
    let at = format!("/v1/jobs/{id}");
    let first = send(&app, "GET", &at, &[]).await;
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(json(first).await.get("progress"), None);
    for (value, shown) in [
        (amqp::field::Value::I32(250), Value::from(100.0)),
        (amqp::field::Value::text("some"), Value::Null),
        (
            amqp::field::Value::F64(12.5f64.to_bits()),
            Value::from(12.5),
        ),
    ] {
        let mut headers = Table::default();
        headers.insert("x-progress", value);
        say(Some(headers), "page 3");
        let seen = send(&app, "GET", &at, &[("if-none-match", &tag)]).await;
        assert_eq!(seen.status(), 200, "the tag tells of progress");
        let seen = json(seen).await;
        assert_eq!(seen["progress"]["percent"], shown);
        assert_eq!(seen["progress"]["message"], "page 3");
        assert_eq!(seen["state"], "running");
    }
    say(None, "832040");
    app.store.on_disk().await.unwrap();
    let ended = json(send(&app, "GET", &at, &[]).await).await;
    assert_eq!(
        (&ended["state"], ended.get("progress")),
        (&"succeeded".into(), None)
    );
}
