//! `POST /v1/queues/{queue}/messages`: publishing over HTTP, one message or a batch.
//!
//! Keeps: `201` only after what was accepted is on disk, with its idempotency key; a batch is
//! judged whole before any of it is published; a body's length is judged before it is read (I9).
//! Never: looks into the body of a single message; it passes verbatim.
//! In: the router.  Out: `Store::publish_to_queue`.

use amqp::field::{Table, Value};
use amqp::properties::Properties;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use store::KeyGuard;
use store::model::KeyClaim;
use utoipa::ToSchema;

use super::App;
use super::calls::{micros, read_body, short_text};
use super::login::Login;
use super::number;
use super::preference;
use super::problem::{Document, Kind, Problem};
use super::queues::{Place, given};
use crate::definitions::to_sound_table;

/// Messages in a batch: as many as a commit takes in its stride.
const BATCH_MAX: usize = 1000;
/// A property of AMQP is a short string.
const TEXT_MAX: usize = 255;
/// Longest expiration, as RabbitMQ's: ten years, ms.
const EXPIRATION_MAX: u64 = 315_360_000_000;
/// What comes before a message header's name in an HTTP header's.
const HEADER_PREFIX: &str = "header-";

/// Several messages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    /// 1 to 1000.
    messages: Vec<Message>,
}

/// A message to publish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// The body as text; this or `body_base64`.
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    properties: Given,
    #[serde(default)]
    #[schema(value_type = Object)]
    headers: Map<String, Json>,
}

/// AMQP's basic properties but for the headers. What is not given is not set; messages are
/// persistent.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    content_type: Option<String>,
    content_encoding: Option<String>,
    /// 1 for a message that a restart may forget.
    #[serde(default, deserialize_with = "number::maybe::<_, _, 1, 2>")]
    delivery_mode: Option<u8>,
    #[serde(default, deserialize_with = "number::maybe::<_, _, 0, 255>")]
    priority: Option<u8>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    /// Milliseconds, as a text.
    expiration: Option<String>,
    message_id: Option<String>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "number::maybe::<_, _, 0, { u64::MAX }>")]
    timestamp: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The user's own name, or none.
    user_id: Option<String>,
    app_id: Option<String>,
}

/// What became of each message.
#[derive(Serialize, ToSchema)]
pub(super) struct Published {
    /// Messages that are on disk now.
    accepted: usize,
    /// Messages for which the queue had no room.
    refused: usize,
    /// One for each message, in order.
    messages: Vec<Verdict>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Verdict {
    accepted: bool,
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Validation, detail)
}

impl Given {
    /// The properties as they travel; `at` says where they were given.
    fn properties(self, headers: Table, user: &str, at: &str) -> Result<Properties, Problem> {
        let text = |name: &str, text: Option<String>| match text {
            Some(text) if text.len() > TEXT_MAX => {
                let bytes = text.len();
                let detail = format!("{at}{name}: {bytes} bytes are more than {TEXT_MAX}");
                Err(invalid(detail))
            }
            text => Ok(text.map(String::into_bytes)),
        };
        if let Some(mode) = self.delivery_mode.filter(|mode| !matches!(mode, 1 | 2)) {
            return Err(invalid(format!("{at}delivery_mode: {mode} is not 1 or 2")));
        }
        if let Some(other) = self.user_id.as_ref().filter(|name| *name != user) {
            let detail = format!("{at}user_id: '{other}' is not the user '{user}'");
            return Err(invalid(detail));
        }
        let ms = self.expiration.as_ref().map(|text| text.parse::<u64>());
        if ms.is_some_and(|ms| ms.is_err() || ms.is_ok_and(|ms| ms > EXPIRATION_MAX)) {
            let shown = self.expiration.unwrap_or_default();
            let detail =
                format!("{at}expiration: '{shown}' is not within 0 to {EXPIRATION_MAX} ms");
            return Err(invalid(detail));
        }
        for name in ["CC", "BCC"] {
            if headers.find(name).is_some() {
                let detail = format!("{at}headers: {name} is not possible here, name one queue");
                return Err(invalid(detail));
            }
        }
        Ok(Properties {
            content_type: text("content_type", self.content_type)?,
            content_encoding: text("content_encoding", self.content_encoding)?,
            headers: (!headers.0.is_empty()).then_some(headers),
            delivery_mode: Some(self.delivery_mode.unwrap_or(2)),
            priority: self.priority,
            correlation_id: text("correlation_id", self.correlation_id)?,
            reply_to: text("reply_to", self.reply_to)?,
            expiration: text("expiration", self.expiration)?,
            message_id: text("message_id", self.message_id)?,
            timestamp: self.timestamp,
            kind: text("type", self.kind)?,
            user_id: text("user_id", self.user_id)?,
            app_id: text("app_id", self.app_id)?,
            cluster_id: None,
        })
    }
}

/// Properties and body.
type Content = (Vec<u8>, Vec<u8>);

/// Of one message in a batch.
fn one(message: Message, user: &str, at: &str) -> Result<Content, Problem> {
    let body = match (message.body, message.body_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|error| invalid(format!("{at}body_base64: {error}")))?,
        _ => {
            return Err(invalid(format!(
                "{at}body: give either body or body_base64"
            )));
        }
    };
    let headers = to_sound_table(&message.headers);
    let headers = headers.map_err(|why| invalid(format!("{at}headers: {why}")))?;
    let properties = message.properties.properties(headers, user, at)?;
    Ok((properties.encode(), body))
}

fn batch(body: &[u8], user: &str) -> Result<Vec<Content>, Problem> {
    let axum::Json(given) =
        axum::Json::<Batch>::from_bytes(body).map_err(|error| number::refused(&error))?;
    let count = given.messages.len();
    if !(1..=BATCH_MAX).contains(&count) {
        let detail = format!("messages: {count} are not within 1 to {BATCH_MAX}");
        return Err(invalid(detail));
    }
    let messages = given.messages.into_iter().enumerate();
    messages
        .map(|(n, message)| one(message, user, &format!("messages[{n}].")))
        .collect()
}

/// A single message's properties, from the request's headers.
fn from_headers(headers: &HeaderMap, user: &str) -> Result<Properties, Problem> {
    let text = |name: &'static str| short_text(headers, header::HeaderName::from_static(name));
    let number = |name: &'static str, allowed: &str| -> Result<Option<u64>, Problem> {
        let Some(text) = text(name)? else {
            return Ok(None);
        };
        let refused = |_| invalid(format!("{name}: '{text}' {allowed}"));
        text.trim().parse().map(Some).map_err(refused)
    };
    let small = |name: &'static str| -> Result<Option<u8>, Problem> {
        let allowed = "is not within 0 to 255";
        let refused = |number| invalid(format!("{name}: {number} {allowed}"));
        let small = |number: u64| u8::try_from(number).map_err(|_| refused(number));
        number(name, allowed)?.map(small).transpose()
    };
    let mut table = Table::default();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else {
            continue;
        };
        let value = value
            .to_str()
            .map_err(|_| invalid(format!("{name}: not ASCII")))?;
        let value = match value.parse() {
            Ok(number) => Value::I64(number),
            Err(_) => Value::text(value),
        };
        table.insert(key, value);
    }
    // A proxy may have turned them around; that makes no other message.
    table.0.sort_by(|a, b| a.0.cmp(&b.0));
    let given = Given {
        content_type: match text("message-content-type")? {
            None => short_text(headers, header::CONTENT_TYPE)?,
            given => given,
        },
        content_encoding: short_text(headers, header::CONTENT_ENCODING)?,
        delivery_mode: small("delivery-mode")?,
        priority: small("message-priority")?,
        correlation_id: text("correlation-id")?,
        reply_to: text("reply-to")?,
        expiration: text("message-expiration")?,
        message_id: text("message-id")?,
        timestamp: number("message-timestamp", "is no whole number from 0 on")?,
        kind: text("message-type")?,
        user_id: None,
        app_id: text("app-id")?,
    };
    given.properties(table, user, "")
}

fn is_batch(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|text| text.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Publishes to the queue. The content type `application/json` says that the body is a batch; any
/// other body is one message, verbatim, with its properties in the request's headers.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/messages",
    params(
        ("queue" = String, Path, description = "Percent-encoded; or the reply address of a call"),
        Place,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key, the same messages once"),
        ("Message-Content-Type" = Option<String>, Header, description = "Instead of Content-Type"),
        ("Message-Id" = Option<String>, Header),
        ("Message-Type" = Option<String>, Header),
        ("Message-Priority" = Option<u8>, Header),
        ("Message-Expiration" = Option<u64>, Header, description = "Milliseconds"),
        ("Message-Timestamp" = Option<u64>, Header, description = "Seconds since 1970"),
        ("Correlation-Id" = Option<String>, Header),
        ("Reply-To" = Option<String>, Header),
        ("App-Id" = Option<String>, Header),
        ("Delivery-Mode" = Option<u8>, Header, description = "1: a restart may forget it"),
        ("Header-…" = Option<String>, Header, description = "A header of the message, e.g. `Header-x-delay: 5000`"),
    ),
    request_body(
        content(
            (Batch = "application/json"),
            (Vec<u8> = "application/octet-stream"),
        )
    ),
    responses(
        (status = 201, body = Published),
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
pub(super) async fn publish(
    State(app): State<App>,
    login: Login,
    queue: Result<Path<String>, PathRejection>,
    place: Result<Query<Place>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Path(queue) = queue.map_err(|error| invalid(error.body_text()))?;
    let vhost = given(place)?.vhost.unwrap_or_else(|| "/".into());
    login.authorize(&app, &vhost)?;
    login.authorize_publish(&app, &vhost, "")?;
    let key = preference::idempotency_key(&headers)?;
    let body = read_body(&headers, body, app.calls.body_bytes_max).await?;
    let messages = match is_batch(&headers) {
        true => batch(&body, &login.user)?,
        false => vec![(from_headers(&headers, &login.user)?.encode(), body)],
    };
    let reason = app.store.lock().blocked_reason();
    if let Some(reason) = reason {
        let detail = format!("nothing can be accepted for now: {reason}");
        return Err(Problem::new(Kind::StorageFull, detail));
    }
    let scope = key.map(|key| {
        let user = &login.user;
        format!("{user}\0{vhost}\0messages/{queue}\0{key}")
    });
    let claim = match scope {
        None => None,
        Some(scope) => match claimed(&app, scope, fingerprint(&messages)).await? {
            Claimed::New(claim) => Some(claim),
            Claimed::Known => {
                let mut response = answer(&vec![true; messages.len()]);
                let yes = HeaderValue::from_static("true");
                response.headers_mut().insert("idempotent-replayed", yes);
                return Ok(response);
            }
        },
    };
    let store = app.store.clone();
    let full = format!("queue '{queue}' in vhost '{vhost}' has no room");
    // Whoever hangs up has published all of it or nothing, and frees no key before.
    let publishing = tokio::spawn(async move {
        let to = (&*vhost, &*queue);
        let (claim, guard) = claim.unzip();
        let accepted = store.publish_to_queue(to, &messages, claim).await;
        drop(guard);
        accepted
    });
    let accepted = publishing
        .await
        .map_err(|_| Problem::new(Kind::Internal, "the log of the server says more"))??;
    if !accepted.contains(&true) {
        return Err(Problem::new(Kind::QueueFull, full));
    }
    Ok(answer(&accepted))
}

fn answer(accepted: &[bool]) -> Response {
    let count = accepted.iter().filter(|accepted| **accepted).count();
    let verdict = |accepted: &bool| Verdict {
        accepted: *accepted,
    };
    let published = Published {
        accepted: count,
        refused: accepted.len() - count,
        messages: accepted.iter().map(verdict).collect(),
    };
    (StatusCode::CREATED, axum::Json(published)).into_response()
}

/// What an idempotency key says of a request.
enum Claimed {
    /// It came before, and was accepted.
    Known,
    New((KeyClaim, KeyGuard)),
}

async fn claimed(app: &App, scope: String, fingerprint: [u8; 32]) -> Result<Claimed, Problem> {
    let in_use = || Problem::new(Kind::KeyInUse, "ask again in a second");
    let guard = app.store.claim_key(&scope).ok_or_else(in_use)?;
    let now = app.store.now();
    match app.store.backend().key_claim(scope.clone(), now).await? {
        Some(known) if known.fingerprint == fingerprint => Ok(Claimed::Known),
        Some(_) => {
            let detail = "the key belongs to a request with other messages";
            Err(Problem::new(Kind::KeyReused, detail))
        }
        None => {
            let claim = KeyClaim {
                scope,
                job: app.store.new_job_id(),
                fingerprint,
                expires_at: now + micros(app.calls.key_ttl),
            };
            Ok(Claimed::New((claim, guard)))
        }
    }
}

/// SHA-256 over all properties and bodies, each with its length before it.
fn fingerprint(messages: &[Content]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in messages
        .iter()
        .flat_map(|(properties, body)| [properties, body])
    {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
