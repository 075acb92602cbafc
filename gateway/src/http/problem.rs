//! Every refusal over HTTP, as problem+json (RFC 9457).
//!
//! Keeps: status, type and title of a kind in one table; each store error has a row.
//! Never: says more of a failure inside than that there was one; the log has the rest.
//! In: every route.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use store::Error;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// A refusal on its way out.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    instance: Option<String>,
}

/// What goes wrong. The name is the last part of the problem's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Validation,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    UnknownTarget,
    JobNotFound,
    PayloadTooLarge,
    RequestTimeout,
    QueueExclusive,
    KeyInvalid,
    KeyInUse,
    KeyReused,
    NotCancellable,
    ResultExpired,
    Cancelled,
    WorkerError,
    NoReply,
    DeadlineExceeded,
    LeaseEnded,
    QueueFull,
    Busy,
    StorageFull,
    Stopping,
    Starting,
    Standby,
    StoreUnusable,
    Internal,
}

impl Kind {
    /// Status, name, title.
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Validation => (400, "validation", "The request is not valid"),
            Self::Unauthorized => (401, "unauthorized", "A user and a password are needed"),
            Self::Forbidden => (403, "forbidden", "The user may not do this"),
            Self::NotFound => (404, "not-found", "There is nothing here"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "Not with this method"),
            Self::UnknownTarget => (404, "unknown-target", "There is no such target"),
            Self::JobNotFound => (404, "job-not-found", "There is no such job"),
            Self::PayloadTooLarge => (413, "payload-too-large", "The body is too large"),
            Self::RequestTimeout => (408, "request-timeout", "The body did not arrive in time"),
            Self::QueueExclusive => (409, "queue-exclusive", "The queue belongs to a connection"),
            Self::KeyInvalid => (
                400,
                "idempotency-key-invalid",
                "The idempotency key is malformed",
            ),
            Self::KeyInUse => (
                409,
                "idempotency-key-in-use",
                "A request with this key is being accepted",
            ),
            Self::KeyReused => (
                422,
                "idempotency-key-reused",
                "The key was used for another request",
            ),
            Self::NotCancellable => (409, "not-cancellable", "The job has ended"),
            Self::ResultExpired => (410, "result-expired", "The result is no longer kept"),
            Self::Cancelled => (409, "cancelled", "The job was cancelled"),
            Self::WorkerError => (502, "worker-error", "The worker failed"),
            Self::NoReply => (504, "no-reply", "The worker sent no reply"),
            Self::DeadlineExceeded => (504, "deadline-exceeded", "The deadline has passed"),
            Self::LeaseEnded => (410, "lease-ended", "The lease has ended"),
            Self::QueueFull => (503, "queue-full", "The queue has no room"),
            Self::Busy => (503, "busy", "Too much at once"),
            Self::StorageFull => (503, "storage-full", "There is no room on the disk"),
            Self::Starting => (503, "starting", "The node has not read its store yet"),
            Self::Standby => (503, "standby", "Another node owns the store"),
            Self::StoreUnusable => (503, "store-unusable", "The store cannot be used"),
            Self::Stopping => (503, "stopping", "The server is stopping"),
            Self::Internal => (500, "internal", "The server failed"),
        }
    }

    /// The kind of a job's stored error code.
    pub(super) fn of_job(code: &str) -> Self {
        let kinds = [Self::NoReply, Self::DeadlineExceeded, Self::Cancelled];
        kinds
            .into_iter()
            .find(|kind| kind.row().1 == code)
            .unwrap_or(Self::WorkerError)
    }
}

/// The document itself.
#[derive(Serialize, ToSchema)]
pub(super) struct Document {
    /// Identifies the kind, e.g. `urn:leveret:problem:unknown-target`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The kind in a few words.
    pub(super) title: &'static str,
    /// The HTTP status.
    pub(super) status: u16,
    /// What is wrong this time.
    pub(super) detail: String,
    /// The job it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
}

/// For the description: what every route about a queue may refuse with.
pub(super) struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let described = |status: u16| {
            let schema = Ref::from_schema_name(Document::name());
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let response = ResponseBuilder::new().content("application/json", content);
            (status.to_string(), RefOr::T(response.build()))
        };
        [400, 401, 403, 404].map(described).into()
    }
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            instance: None,
        }
    }

    /// The path of the job that it is about.
    pub(super) fn about(mut self, instance: String) -> Self {
        self.instance = Some(instance);
        self
    }

    pub(super) fn document(self) -> Document {
        let (status, name, title) = self.kind.row();
        let kind = format!("urn:leveret:problem:{name}");
        Document {
            kind,
            title,
            status,
            detail: self.detail,
            instance: self.instance,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = self.kind;
        let document = self.document();
        let status = StatusCode::from_u16(document.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = (status, Json(document)).into_response();
        let mut set = |name, value| {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value))
        };
        set(header::CONTENT_TYPE, "application/problem+json");
        set(header::CACHE_CONTROL, "no-store");
        match kind {
            Kind::Unauthorized => {
                set(
                    header::WWW_AUTHENTICATE,
                    "Basic realm=\"leveret\", charset=\"UTF-8\"",
                );
            }
            Kind::KeyInUse
            | Kind::QueueFull
            | Kind::Busy
            | Kind::StorageFull
            | Kind::Stopping
            | Kind::Starting
            | Kind::Standby
            | Kind::StoreUnusable => {
                set(header::RETRY_AFTER, "1");
            }
            Kind::PayloadTooLarge | Kind::RequestTimeout => {
                // What is left of the body is not read.
                set(header::CONNECTION, "close");
            }
            _ => {}
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        let kind = match &error {
            Error::NotFound { .. } => Kind::UnknownTarget,
            Error::Refused { .. } | Error::NotAllowed { .. } => Kind::Forbidden,
            Error::Exclusive { .. } => Kind::QueueExclusive,
            Error::PreconditionFailed { .. }
            | Error::Exists { .. }
            | Error::NotImplemented { .. } => Kind::Validation,
            Error::TooLarge { .. } => Kind::PayloadTooLarge,
            Error::Stopped => Kind::Stopping,
            Error::Busy { .. } => Kind::Busy,
            Error::Corrupt { .. } | Error::Io(_) => {
                tracing::error!(%error, "the store failed a request");
                // A database that is away comes back, or another node has it by then.
                let kind = match &error {
                    Error::Io(_) => Kind::StoreUnusable,
                    _ => Kind::Internal,
                };
                return Self::new(kind, "the log of the server says more");
            }
        };
        Self::new(kind, detail)
    }
}

impl From<store::sql::BackendError> for Problem {
    fn from(error: store::sql::BackendError) -> Self {
        Error::Io(error.to_string()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_worth_another_try() {
        let away = Problem::from(Error::Io("connection refused".into())).document();
        assert_eq!(away.status, 503);
        assert_eq!(away.kind, "urn:leveret:problem:store-unusable");
        let answer = Problem::from(Error::Io(String::new())).into_response();
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
    }
}
