//! `/v1/jobs`: a job's state, its result, its end.
//!
//! Keeps: the wire form of a job; a user sees only jobs of vhosts that they may use.
//! Never: decides a transition; the store's fences do (I6).
//! In: the router; `calls` answers with the same parts.
#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies parameter types"
)]

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{self, IntoHeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::model::{Job, JobError, JobId, JobState, Micros, Progress};
use store::sql::JobFilter;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::login::Login;
use super::page::{self, List};
use super::preference;
use super::problem::{Document, Kind, Problem};

/// A job as clients see it. Times are RFC 3339, UTC.
#[derive(Serialize, ToSchema)]
pub(super) struct JobView {
    id: String,
    kind: &'static str,
    vhost: String,
    /// E.g. `queue/fib`.
    target: String,
    /// queued, running, retrying, succeeded, failed, cancelled or expired.
    state: &'static str,
    /// True once nothing will change any more.
    done: bool,
    /// What the worker said last of this attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView>,
    attempt: u32,
    max_attempts: u32,
    created_at: Option<String>,
    started_at: Option<String>,
    completed_at: Option<String>,
    next_attempt_at: Option<String>,
    deadline: Option<String>,
    /// When the result is forgotten.
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Document>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultView>,
    links: Links,
}

/// What is known of a result without its body.
#[derive(Serialize, ToSchema)]
pub(super) struct ResultView {
    content_type: Option<String>,
    size: u64,
    href: String,
}

/// How far a worker is.
#[derive(Serialize, ToSchema)]
pub(super) struct ProgressView {
    /// 0 to 100; null when the worker gave no number.
    percent: Option<f64>,
    /// The body of its interim reply.
    message: Option<String>,
    updated_at: Option<String>,
}

impl ProgressView {
    fn new(progress: Progress) -> Self {
        Self {
            percent: progress.percent,
            message: progress.message,
            updated_at: instant(Some(progress.updated_at)),
        }
    }
}

/// Where to go on.
#[derive(Serialize, ToSchema)]
pub(super) struct Links {
    #[serde(rename = "self")]
    own: String,
    result: String,
    cancel: String,
}

/// One page of jobs, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct JobPage {
    jobs: Vec<JobView>,
    /// Give it as `cursor` to see older ones; null at the end.
    next_cursor: Option<String>,
}

/// Which jobs to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// `/` when not given.
    vhost: Option<String>,
    /// E.g. `queue/fib`.
    target: Option<String>,
    state: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 1000; 100 when not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
}

impl JobView {
    pub(super) fn new(job: &Job) -> Self {
        let href = path(job.id);
        let result = job.result.as_ref().map(|meta| ResultView {
            content_type: meta.content_type.clone(),
            size: meta.bytes,
            href: format!("{href}/result"),
        });
        Self {
            id: job.id.to_string(),
            kind: "call",
            vhost: job.vhost.to_string(),
            target: job.target.clone(),
            state: job.state.as_str(),
            done: job.state.is_final(),
            progress: None,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            created_at: instant(Some(job.created_at)),
            started_at: instant(job.started_at),
            completed_at: instant(job.completed_at),
            next_attempt_at: instant(job.next_attempt_at),
            deadline: instant(Some(job.deadline_at)),
            expires_at: instant(job.expires_at),
            idempotency_key: job.idempotency_key.clone(),
            error: job
                .error
                .as_ref()
                .map(|error| problem(job, error).document()),
            result,
            links: Links {
                result: format!("{href}/result"),
                cancel: format!("{href}/cancel"),
                own: href,
            },
        }
    }
}

impl JobView {
    /// With what its worker said last, which only the running node knows.
    fn told(app: &App, job: &Job) -> Self {
        let shard = app.store.lock();
        let progress = shard.progress(job.id).filter(|_| !job.state.is_final());
        Self {
            progress: progress.cloned().map(ProgressView::new),
            ..Self::new(job)
        }
    }
}

/// Lists jobs, newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    params(Wanted),
    responses(
        (status = 200, body = JobPage),
        (status = 400, body = Document),
        (status = 401, body = Document),
        (status = 403, body = Document),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    login: Login,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<JobPage>, Problem> {
    let invalid = |detail: String| Problem::new(Kind::Validation, detail);
    let Query(wanted) = wanted.map_err(|error| invalid(error.body_text()))?;
    let vhost = wanted.vhost.unwrap_or_else(|| "/".into());
    login.authorize(&app, &vhost)?;
    let state = match wanted.state {
        None => None,
        Some(text) => {
            let known = JobState::parse(&text);
            let states = JobState::ALL.map(JobState::as_str).join(", ");
            let refused = || invalid(format!("state: '{text}' is not one of {states}"));
            Some(known.ok_or_else(refused)?)
        }
    };
    let cursor = wanted.cursor.as_deref();
    let before = match List::Jobs.place(cursor)? {
        None => None,
        Some(place) => {
            let id = JobId::parse(&place);
            Some(id.ok_or_else(|| page::refused(cursor.unwrap_or_default()))?)
        }
    };
    let limit = page::limit(wanted.limit.as_deref())?;
    let filter = JobFilter {
        vhost: Some(vhost),
        target: wanted.target,
        state,
        before,
        limit: limit + 1,
    };
    let mut jobs = app.store.backend().jobs(filter).await?;
    let place = |job: &Job| job.id.to_string();
    let next_cursor = page::cut(List::Jobs, &mut jobs, limit as usize, place);
    Ok(Json(JobPage {
        jobs: jobs.iter().map(|job| JobView::told(&app, job)).collect(),
        next_cursor,
    }))
}

/// A job's state. `Prefer: wait=N` waits for its end.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobView),
        (status = 304, description = "Unchanged, with If-None-Match"),
        (status = 401, body = Document),
        (status = 404, body = Document),
        (status = 410, body = Document),
    )
)]
pub(super) async fn read(
    State(app): State<App>,
    login: Login,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = identity(id.map(|Path(text)| text).unwrap_or_default())?;
    let job = waited(&app, &login, id, &headers).await?;
    if is_expired(&app, &job) {
        return Err(Problem::new(Kind::ResultExpired, "the job ended long ago").about(path(id)));
    }
    let view = JobView::told(&app, &job);
    let told = view
        .progress
        .as_ref()
        .and_then(|known| known.updated_at.as_deref());
    let (state, told) = (job.state.as_str(), told.unwrap_or("0"));
    let tag = format!("\"{state}-{}-{told}\"", job.attempt);
    let same = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if same {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(view).into_response()
    };
    set(&mut response, header::ETAG, &tag);
    decorate(&mut response, &job, &headers);
    Ok(response)
}

/// The worker's reply, verbatim; 202 while there is none.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/result",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "The reply, verbatim"),
        (status = 202, body = JobView),
        (status = 401, body = Document),
        (status = 404, body = Document),
        (status = 409, body = Document),
        (status = 410, body = Document),
        (status = 502, body = Document),
        (status = 504, body = Document),
    )
)]
pub(super) async fn result(
    State(app): State<App>,
    login: Login,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = identity(id.map(|Path(text)| text).unwrap_or_default())?;
    let job = waited(&app, &login, id, &headers).await?;
    let mut response = if job.state.is_final() {
        reply(&app, &job).await?
    } else {
        (StatusCode::ACCEPTED, Json(JobView::new(&job))).into_response()
    };
    decorate(&mut response, &job, &headers);
    Ok(response)
}

/// Ends an open job. A reply that comes later is dropped; so is the message, once its deadline
/// has passed.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobView),
        (status = 401, body = Document),
        (status = 404, body = Document),
        (status = 409, body = Document),
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    login: Login,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<JobView>, Problem> {
    let id = identity(id.map(|Path(text)| text).unwrap_or_default())?;
    find(&app, &login, id).await?;
    let error = JobError {
        code: "cancelled".into(),
        detail: format!("cancelled by user '{}'", login.user),
    };
    let store = app.store.clone();
    let ending = tokio::spawn(async move {
        store
            .finish_job(id, JobState::Cancelled, Some(error), None)
            .await
    });
    let ended = ending
        .await
        .map_err(|_| Problem::new(Kind::Internal, "see the server's log"))?;
    let asked = ended?;
    let job = find(&app, &login, id).await?;
    // A reply may have won the race to the disk.
    if !asked || job.state != JobState::Cancelled {
        let detail = format!("the job has ended as {}", job.state.as_str());
        return Err(Problem::new(Kind::NotCancellable, detail).about(path(id)));
    }
    Ok(Json(JobView::new(&job)))
}

/// Returns when the job has ended, after `limit`, or when the node stops.
pub(super) async fn wait(app: &App, id: JobId, limit: Duration) {
    tokio::select! {
        () = app.store.wait_job(id, limit) => {}
        () = app.stop.cancelled() => {}
    }
}

/// A final job's answer: the reply verbatim, or why there is none.
pub(super) async fn reply(app: &App, job: &Job) -> Result<Response, Problem> {
    if is_expired(app, job) {
        let detail = "results are kept for a limited time";
        return Err(Problem::new(Kind::ResultExpired, detail).about(path(job.id)));
    }
    if job.state != JobState::Succeeded {
        let unknown = JobError {
            code: "worker-error".into(),
            detail: String::new(),
        };
        return Ok(problem(job, job.error.as_ref().unwrap_or(&unknown)).into_response());
    }
    let Some(result) = app.store.backend().job_result(job.id).await? else {
        let detail = "results are kept for a limited time";
        return Err(Problem::new(Kind::ResultExpired, detail).about(path(job.id)));
    };
    let mut response = result.body.into_response();
    let kind = result
        .content_type
        .as_deref()
        .unwrap_or("application/octet-stream");
    set(&mut response, header::CONTENT_TYPE, kind);
    if let Some(encoding) = &result.content_encoding {
        set(&mut response, header::CONTENT_ENCODING, encoding);
    }
    // A worker's bytes are never a page of this origin.
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox");
    Ok(response)
}

/// The job's path on this server.
pub(super) fn path(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

/// The job's address, absolute as far as the request says under which name it came.
pub(super) fn url(headers: &HeaderMap, id: JobId) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let plain = |host: &&str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".:-_[]".contains(&byte))
    };
    match host.filter(|host| !host.is_empty()).filter(plain) {
        Some(host) => format!("http://{host}{}", path(id)),
        None => path(id),
    }
}

/// Sets a header; a value that no header can hold is left out.
pub(super) fn set(response: &mut Response, name: impl IntoHeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn identity(text: String) -> Result<JobId, Problem> {
    let unknown = || Problem::new(Kind::JobNotFound, format!("no job '{text}'"));
    JobId::parse(&text).ok_or_else(unknown)
}

/// The job, if it exists and the user may use its vhost; otherwise both look the same.
async fn find(app: &App, login: &Login, id: JobId) -> Result<Job, Problem> {
    let job = app.store.backend().job(id).await?;
    job.filter(|job| login.authorize(app, &job.vhost).is_ok())
        .ok_or_else(|| Problem::new(Kind::JobNotFound, format!("no job '{id}'")))
}

/// The job now, or after the wait that the request prefers.
async fn waited(app: &App, login: &Login, id: JobId, headers: &HeaderMap) -> Result<Job, Problem> {
    let job = find(app, login, id).await?;
    let Some(limit) = preference::wait(headers).filter(|_| !job.state.is_final()) else {
        return Ok(job);
    };
    wait(app, id, limit).await;
    find(app, login, id).await
}

fn decorate(response: &mut Response, job: &Job, headers: &HeaderMap) {
    if !job.state.is_final() {
        set(response, header::RETRY_AFTER, "1");
        set(response, header::CACHE_CONTROL, "no-store");
    }
    set(response, header::VARY, "Prefer");
    if let Some(limit) = preference::wait(headers) {
        set(
            response,
            "preference-applied",
            &format!("wait={}", limit.as_secs()),
        );
    }
}

fn is_expired(app: &App, job: &Job) -> bool {
    job.state.is_final() && job.expires_at.is_some_and(|at| at <= app.store.now())
}

fn problem(job: &Job, error: &JobError) -> Problem {
    Problem::new(Kind::of_job(&error.code), error.detail.clone()).about(path(job.id))
}

pub(super) fn instant(at: Option<Micros>) -> Option<String> {
    let at = Timestamp::from_microsecond(at?).ok()?;
    Some(format!("{at:.3}"))
}
