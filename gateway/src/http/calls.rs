//! `POST /v1/calls/queue/{name}`: a request becomes a job and a message.
//!
//! Keeps: `202` only after job, key and message are on disk together; one key, one job (I6); a
//! body's length is judged before it is read (I9).
//! Never: looks into the body; it passes verbatim.
//! In: the router.  Out: `Store::submit_call`.
#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies parameter types"
)]

use std::time::Duration;

use amqp::field::{Table, Value};
use amqp::properties::Properties;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use store::Error;
use store::model::{Job, JobId, JobState, KeyClaim, Micros};
use store::shard::REPLY_TO_JOB;
use utoipa::IntoParams;

use super::App;
use super::jobs::{self, JobView};
use super::login::Login;
use super::preference;
use super::problem::{Document, Kind, Problem};

/// The first delivery and five retries (DESIGN.md §3.4).
const ATTEMPTS_MAX: u32 = 6;
/// A client that sends its body more slowly than this is not waited for.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Where the target lives.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Place {
    /// The vhost; `/` when not given.
    vhost: Option<String>,
}

struct Call {
    vhost: String,
    queue: String,
    user: String,
    timeout: Duration,
    key: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    body: Vec<u8>,
}

/// Hands the body to a worker of the queue. Answers 202 and the job, or with `Prefer: wait=N`
/// the worker's reply if it comes in time.
#[utoipa::path(
    post,
    path = "/v1/calls/queue/{name}",
    params(
        ("name" = String, Path, description = "The queue, percent-encoded"),
        Place,
        ("Prefer" = Option<String>, Header, description = "`wait=N`: up to N (60) seconds"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key, the same job"),
        ("Rpc-Timeout" = Option<String>, Header, description = "Deadline, as in `90s`"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The reply, verbatim"),
        (status = 202, body = JobView),
        (status = 400, body = Document),
        (status = 401, body = Document),
        (status = 403, body = Document),
        (status = 404, body = Document),
        (status = 409, body = Document),
        (status = 413, body = Document),
        (status = 422, body = Document),
        (status = 503, body = Document),
    )
)]
pub(super) async fn submit(
    State(app): State<App>,
    login: Login,
    name: Result<Path<String>, PathRejection>,
    place: Result<Query<Place>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let invalid = |detail: String| Problem::new(Kind::Validation, detail);
    let Path(queue) = name.map_err(|error| invalid(error.body_text()))?;
    let Query(place) = place.map_err(|error| invalid(error.body_text()))?;
    let vhost = place.vhost.unwrap_or_else(|| "/".into());
    login.authorize(&app, &vhost)?;
    login.authorize_publish(&app, &vhost, "")?;
    let call = Call {
        user: login.user,
        timeout: preference::timeout(&headers, app.calls.timeout)?,
        key: preference::idempotency_key(&headers)?,
        content_type: short_text(&headers, header::CONTENT_TYPE)?,
        content_encoding: short_text(&headers, header::CONTENT_ENCODING)?,
        body: read_body(&headers, body, app.calls.body_bytes_max).await?,
        vhost,
        queue,
    };
    if !app.store.has_queue(&call.vhost, &call.queue) {
        let detail = format!("no queue '{}' in vhost '{}'", call.queue, call.vhost);
        return Err(Problem::new(Kind::UnknownTarget, detail));
    }
    if app.store.lock().is_blocked() {
        return Err(Problem::new(
            Kind::StorageFull,
            "nothing can be accepted until there is room",
        ));
    }
    let (id, replayed) = accept(&app, call).await?;
    answer(&app, id, replayed, &headers).await
}

/// Stores the call, or finds the job that its key already has.
async fn accept(app: &App, call: Call) -> Result<(JobId, bool), Problem> {
    let (now, id) = (app.store.now(), app.store.new_job_id());
    let mut guard = None;
    let mut claim = None;
    if let Some(key) = &call.key {
        let scope = format!("{}\0{}\0queue/{}\0{key}", call.user, call.vhost, call.queue);
        let in_use = || Problem::new(Kind::KeyInUse, "ask again in a second");
        guard = Some(app.store.claim_key(&scope).ok_or_else(in_use)?);
        let fingerprint = fingerprint(&call);
        if let Some(known) = app.store.backend().key_claim(scope.clone(), now).await? {
            if known.fingerprint != fingerprint {
                let detail = "the key belongs to a request with another body or type";
                return Err(Problem::new(Kind::KeyReused, detail));
            }
            return Ok((known.job, true));
        }
        let expires_at = now + micros(app.calls.key_ttl.max(call.timeout));
        claim = Some(KeyClaim {
            scope,
            job: id,
            fingerprint,
            expires_at,
        });
    }
    let properties = properties(&call, id, now);
    let job = job(app, &call, id, now);
    let store = app.store.clone();
    // A client that goes away must not free its key while the commit is under way.
    let storing = tokio::spawn(async move {
        let stored = store
            .submit_call(job, claim, &call.queue, properties, call.body)
            .await;
        drop(guard);
        stored
    });
    match storing.await {
        Ok(Err(Error::Busy { detail, .. })) => return Err(Problem::new(Kind::QueueFull, detail)),
        Ok(stored) => stored?,
        Err(error) => {
            tracing::error!(%error, "a call could not be stored");
            return Err(Problem::new(
                Kind::Internal,
                "the log of the server says more",
            ));
        }
    }
    Ok((id, false))
}

async fn answer(
    app: &App,
    id: JobId,
    replayed: bool,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let wait = preference::wait(headers);
    if let Some(limit) = wait {
        jobs::wait(app, id, limit).await;
    }
    let job = app.store.backend().job(id).await?;
    let Some(job) = job else {
        return Err(Problem::new(
            Kind::ResultExpired,
            "the job of this key is no longer kept",
        ));
    };
    let mut response = if wait.is_some() && job.state.is_final() {
        let mut response = jobs::reply(app, &job).await?;
        jobs::set(
            &mut response,
            header::CONTENT_LOCATION,
            &format!("{}/result", jobs::path(id)),
        );
        response
    } else {
        (StatusCode::ACCEPTED, axum::Json(JobView::new(&job))).into_response()
    };
    if !job.state.is_final() {
        jobs::set(&mut response, header::RETRY_AFTER, "1");
        jobs::set(&mut response, header::CACHE_CONTROL, "no-store");
    }
    jobs::set(&mut response, header::LOCATION, &jobs::url(headers, id));
    jobs::set(&mut response, "rpc-job-id", &id.to_string());
    jobs::set(&mut response, header::VARY, "Prefer");
    let preferred = wait.map(|span| format!("wait={}", span.as_secs()));
    if let Some(preferred) = preferred {
        jobs::set(&mut response, "preference-applied", &preferred);
    }
    if replayed {
        response
            .headers_mut()
            .insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn job(app: &App, call: &Call, id: JobId, now: Micros) -> Job {
    Job {
        id,
        vhost: call.vhost.as_str().into(),
        target: format!("queue/{}", call.queue),
        principal: call.user.clone(),
        state: JobState::Queued,
        attempt: 0,
        max_attempts: ATTEMPTS_MAX,
        created_at: now,
        started_at: None,
        completed_at: None,
        next_attempt_at: None,
        deadline_at: now + micros(call.timeout),
        expires_at: None,
        result_ttl_ms: i64::try_from(app.calls.result_ttl.as_millis()).unwrap_or(i64::MAX),
        idempotency_key: call.key.clone(),
        error: None,
        result: None,
    }
}

/// What the worker sees: it has to copy `correlation_id` and answer to `reply_to`, no more.
fn properties(call: &Call, id: JobId, now: Micros) -> Vec<u8> {
    let id = id.to_string().into_bytes();
    let mut headers = Table::default();
    headers.insert("x-attempt", Value::I32(1));
    headers.insert("x-max-attempts", Value::I32(ATTEMPTS_MAX as i32));
    headers.insert(
        "x-deadline",
        Value::I64((now + micros(call.timeout)) / 1_000),
    );
    let bytes = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
    let properties = Properties {
        content_type: bytes(&call.content_type),
        content_encoding: bytes(&call.content_encoding),
        headers: Some(headers),
        delivery_mode: Some(2),
        correlation_id: Some(id.clone()),
        reply_to: Some([REPLY_TO_JOB.as_bytes(), &id].concat()),
        expiration: Some(call.timeout.as_millis().to_string().into_bytes()),
        message_id: Some(id),
        timestamp: u64::try_from(now / 1_000_000).ok(),
        ..Properties::default()
    };
    properties.encode()
}

/// SHA-256 over method, target, content type and body, each with its length before it.
fn fingerprint(call: &Call) -> [u8; 32] {
    let mut hash = Sha256::new();
    let kind = call.content_type.as_deref().unwrap_or_default();
    for part in [b"POST", call.queue.as_bytes(), kind.as_bytes(), &call.body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A header that becomes a short string of AMQP.
pub(super) fn short_text(
    headers: &HeaderMap,
    name: header::HeaderName,
) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(&name) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) if text.len() <= 255 => Ok(Some(text.to_owned())),
        _ => Err(Problem::new(
            Kind::Validation,
            format!("{name} must be ASCII, up to 255 bytes"),
        )),
    }
}

pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    max: u64,
) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            Kind::PayloadTooLarge,
            format!("a body may have up to {max} bytes"),
        )
    };
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let length: u64 = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    if length > max {
        return Err(too_large());
    }
    let reading = async {
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut stream = body.into_data_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| Problem::new(Kind::Validation, error.to_string()))?;
            if (bytes.len() + chunk.len()) as u64 > max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let late = |_| Problem::new(Kind::RequestTimeout, "send the body within 60 seconds");
    tokio::time::timeout(BODY_WITHIN, reading)
        .await
        .map_err(late)?
}

pub(super) fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX / 4)
}
