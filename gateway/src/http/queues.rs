//! `/v1/queues/{queue}`: looking at messages, removing and moving some, pausing.
//!
//! Keeps: looking is no delivery and counts as no attempt; who may purge over AMQP may purge here.
//! Never: a rule of messages; the store's operators' verbs have them.
//! In: the router.  Out: `Store`, `redrives` for what takes longer than a request.
#![expect(
    unused_qualifications,
    reason = "utoipa's macro qualifies parameter types"
)]

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::access::{Resource, Right};
use store::operator::Which;
use store::page::{Page, Seen};
use store::rules::filter::Filter;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::jobs::instant;
use super::login::Login;
use super::message::Content;
use super::number;
use super::page::{self, List};
use super::problem::{Kind, Problem, Refused};
use crate::access::authorize;

/// Of each body: a page of 1,000 stays below 64 MiB, and the store ends a page before that.
const BODY_SHOWN_MAX: usize = 64 << 10;

/// Which messages are meant. All given conditions hold together.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Meant {
    /// Message ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
    /// Accepted by this queue at or after this instant, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Accepted by this queue before this instant, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// Why it died last: `rejected`, `expired`, `maxlen` or `delivery_limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The queue in which it died last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) died_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_key: Option<String>,
    /// Headers with these values, numbers as their digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

const REASONS: [&str; 4] = ["rejected", "expired", "maxlen", "delivery_limit"];

impl Meant {
    /// # Errors
    /// 400, naming the condition, its value and what is allowed.
    pub(super) fn filter(self) -> Result<Filter, Problem> {
        if let Some(reason) = &self.reason
            && !REASONS.contains(&reason.as_str())
        {
            let detail = format!("reason: '{reason}' is not one of {}", REASONS.join(", "));
            return Err(Problem::new(Kind::Validation, detail));
        }
        Ok(Filter {
            ids: self.ids,
            since: moment("since", self.since)?,
            until: moment("until", self.until)?,
            reason: self.reason,
            died_in: self.died_in,
            routing_key: self.routing_key,
            headers: self.headers.into_iter().collect(),
        })
    }

    /// As it was asked for, from the store's form.
    pub(super) fn of(filter: Filter) -> Self {
        Self {
            ids: filter.ids,
            since: instant(filter.since),
            until: instant(filter.until),
            reason: filter.reason,
            died_in: filter.died_in,
            routing_key: filter.routing_key,
            headers: filter.headers.into_iter().collect(),
        }
    }
}

fn moment(name: &str, text: Option<String>) -> Result<Option<i64>, Problem> {
    let Some(text) = text else {
        return Ok(None);
    };
    let at: Result<Timestamp, _> = text.parse();
    let at = at.map_err(|_| {
        let detail = format!("{name}: '{text}' is no instant such as 2026-01-31T08:00:00Z");
        Problem::new(Kind::Validation, detail)
    })?;
    Ok(Some(at.as_microsecond()))
}

/// Which messages to show.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `/` when not given.
    pub(super) vhost: Option<String>,
    /// `ready` (when not given), or `waiting`: in backoff or delayed.
    pub(super) state: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// An older spelling of `cursor`: `next` of the page before.
    #[serde(default, deserialize_with = "number::asked::<_, _, 0, { u64::MAX }>")]
    from: Option<u64>,
    /// 1 to 1000; 100 when not given. A page ends at 16 MiB of messages, too.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// Of each body, bytes; 65536 when not given, and at most.
    #[serde(default, deserialize_with = "number::asked::<_, _, 0, { u64::MAX }>")]
    body_bytes: Option<usize>,
    /// A message id.
    id: Option<String>,
    since: Option<String>,
    until: Option<String>,
    reason: Option<String>,
    died_in: Option<String>,
    routing_key: Option<String>,
    /// `name:value`.
    header: Option<String>,
}

/// One message.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageView {
    /// Its place in the queue.
    seq: u64,
    /// When this queue accepted it; null while it waits.
    accepted_at: Option<String>,
    /// Until when it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    /// How often it has failed or come back.
    failures: u32,
    #[serde(flatten)]
    content: Content,
}

/// Some of a queue's messages, in order.
#[derive(Serialize, ToSchema)]
pub(super) struct MessagePage {
    messages: Vec<MessageView>,
    /// Give it as `cursor` to see the next ones; null at the end.
    next_cursor: Option<String>,
    /// An older spelling of `next_cursor`, for `from`.
    #[schema(deprecated)]
    next: Option<u64>,
}

impl MessagePage {
    pub(super) fn new(page: Page, body_bytes: usize) -> Self {
        let view = |seen: Seen| MessageView {
            seq: seen.seq,
            accepted_at: instant(seen.due_at.is_none().then_some(seen.piece.at)),
            due_at: instant(seen.due_at),
            failures: seen.failures,
            content: Content::new(&seen.piece.block, seen.piece.index(0), body_bytes),
        };
        Self {
            messages: page.messages.into_iter().map(view).collect(),
            next_cursor: page.next.map(|seq| List::Messages.cursor(&seq.to_string())),
            next: page.next,
        }
    }
}

/// Where a queue is.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Place {
    /// The vhost; `/` when not given.
    pub(super) vhost: Option<String>,
}

/// A request about a queue, as it came.
pub(super) struct About<Q> {
    app: App,
    login: Login,
    queue: Result<Path<String>, PathRejection>,
    query: Result<Query<Q>, QueryRejection>,
}

impl<Q: DeserializeOwned + Send> FromRequestParts<App> for About<Q> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self {
            app: app.clone(),
            login: Login::from_request_parts(parts, app).await?,
            queue: Path::from_request_parts(parts, app).await,
            query: Query::from_request_parts(parts, app).await,
        })
    }
}

impl About<Place> {
    /// # Errors
    /// 400 for a malformed path or query, 403 without the rights.
    pub(super) fn named(self, right: Right) -> Result<Named, Problem> {
        let vhost = given(self.query)?.vhost;
        Named::new(self.app, self.login, self.queue, vhost, right)
    }
}

impl About<Wanted> {
    /// The queue, and which of its messages.
    ///
    /// # Errors
    /// 400 for a malformed path or query, 403 without the rights.
    pub(super) fn wanted(self) -> Result<(Named, Wanted), Problem> {
        let mut wanted = given(self.query)?;
        let vhost = wanted.vhost.take();
        let named = Named::new(self.app, self.login, self.queue, vhost, Right::Read)?;
        Ok((named, wanted))
    }
}

/// A queue that the user may use.
pub(super) struct Named {
    pub(super) app: App,
    pub(super) login: Login,
    pub(super) vhost: String,
    pub(super) queue: String,
}

impl Named {
    /// # Errors
    /// 400 for a malformed path, 403 without the rights.
    pub(super) fn new(
        app: App,
        login: Login,
        queue: Result<Path<String>, PathRejection>,
        vhost: Option<String>,
        right: Right,
    ) -> Result<Self, Problem> {
        let invalid = |error: PathRejection| Problem::new(Kind::Validation, error.body_text());
        let Path(queue) = queue.map_err(invalid)?;
        let vhost = vhost.unwrap_or_else(|| "/".into());
        login.authorize(&app, &vhost)?;
        let who = (&*login.user, &*vhost);
        authorize(&app.store, who, right, Resource::Queue(&queue))?;
        Ok(Self {
            app,
            login,
            vhost,
            queue,
        })
    }

    pub(super) fn both(&self) -> (&str, &str) {
        (&self.vhost, &self.queue)
    }

    /// The dead-letter queue in the place of the queue; of one that several share, the queue's
    /// part.
    ///
    /// # Errors
    /// 403 without the right to read it, 404 when there is none.
    pub(super) fn dead(self, died_in: &mut Option<String>) -> Result<Self, Problem> {
        let store = &self.app.store;
        let dead = store.dead_letter_queue(&self.vhost, &self.queue)?;
        let who = (&*self.login.user, &*self.vhost);
        authorize(store, who, Right::Read, Resource::Queue(&dead))?;
        died_in.get_or_insert(self.queue);
        Ok(Self {
            queue: dead,
            ..self
        })
    }
}

/// A body that may be left out.
pub(super) type Given<T> = Result<Option<Json<T>>, JsonRejection>;

pub(super) fn given<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    let Query(query) = query.map_err(|error| number::refused_query(&error))?;
    Ok(query)
}

pub(super) fn asked<T: Default>(body: Given<T>) -> Result<T, Problem> {
    let body = body.map_err(|error| number::refused(&error))?;
    Ok(body.map(|Json(body)| body).unwrap_or_default())
}

fn which(state: Option<&str>) -> Result<Which, Problem> {
    match state {
        None | Some("ready") => Ok(Which::Ready),
        Some("waiting") => Ok(Which::Waiting),
        Some(other) => {
            let detail = format!("state: '{other}' is not one of ready, waiting");
            Err(Problem::new(Kind::Validation, detail))
        }
    }
}

impl Wanted {
    pub(super) fn split(self) -> Result<(Which, Filter, u64, u32, usize), Problem> {
        let headers = match &self.header {
            None => BTreeMap::new(),
            Some(text) => {
                let pair = text.split_once(':').ok_or_else(|| {
                    let detail = format!("header: '{text}' is not of the form name:value");
                    Problem::new(Kind::Validation, detail)
                })?;
                BTreeMap::from([(pair.0.to_owned(), pair.1.to_owned())])
            }
        };
        let limit = page::limit(self.limit.as_deref())?;
        let from = first_seq(self.cursor.as_deref(), self.from)?;
        let body_bytes = self
            .body_bytes
            .unwrap_or(BODY_SHOWN_MAX)
            .min(BODY_SHOWN_MAX);
        let which = which(self.state.as_deref())?;
        let meant = Meant {
            ids: self.id.into_iter().collect(),
            since: self.since,
            until: self.until,
            reason: self.reason,
            died_in: self.died_in,
            routing_key: self.routing_key,
            headers,
        };
        Ok((which, meant.filter()?, from, limit, body_bytes))
    }
}

/// Where a page of messages begins.
fn first_seq(cursor: Option<&str>, from: Option<u64>) -> Result<u64, Problem> {
    let (Some(cursor), Some(place)) = (cursor, List::Messages.place(cursor)?) else {
        return Ok(from.unwrap_or(0));
    };
    if let Some(from) = from {
        let detail = format!("from: {from} is an older spelling of cursor; give one of the two");
        return Err(Problem::new(Kind::Validation, detail));
    }
    place.parse().map_err(|_| page::refused(cursor))
}

/// Shows messages without consuming them: no delivery, no attempt.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}/messages",
    params(("queue" = String, Path, description = "Percent-encoded"), Wanted),
    responses(
        (status = 200, body = MessagePage),
        Refused,
    )
)]
pub(super) async fn peek(about: About<Wanted>) -> Result<Json<MessagePage>, Problem> {
    let (named, wanted) = about.wanted()?;
    show(named, wanted).await
}

async fn show(named: Named, wanted: Wanted) -> Result<Json<MessagePage>, Problem> {
    let (which, filter, from, limit, body_bytes) = wanted.split()?;
    let page = named
        .app
        .store
        .peek(named.both(), which, &filter, from, limit);
    Ok(Json(MessagePage::new(page.await?, body_bytes)))
}

/// Shows the dead messages of a queue, wherever they went.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}/dead",
    params(("queue" = String, Path, description = "Where they died, percent-encoded"), Wanted),
    responses(
        (status = 200, body = MessagePage),
        Refused,
    )
)]
pub(super) async fn dead(about: About<Wanted>) -> Result<Json<MessagePage>, Problem> {
    let (named, mut wanted) = about.wanted()?;
    let named = named.dead(&mut wanted.died_in)?;
    show(named, wanted).await
}

/// What to remove.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Purge {
    filter: Meant,
    /// `ready` (when not given) or `waiting`.
    state: Option<String>,
    /// Count, and remove nothing.
    dry_run: bool,
}

/// What was, or would be, removed.
#[derive(Serialize, ToSchema)]
pub(super) struct Purged {
    count: u64,
    dry_run: bool,
}

/// Removes the messages that the filter means; what is out with a consumer stays.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/messages:purge",
    params(("queue" = String, Path, description = "Percent-encoded"), Place),
    request_body = Purge,
    responses(
        (status = 200, body = Purged),
        Refused,
    )
)]
pub(super) async fn purge(
    about: About<Place>,
    body: Given<Purge>,
) -> Result<Json<Purged>, Problem> {
    let named = about.named(Right::Read)?;
    remove(&named, asked(body)?).await
}

/// Removes the dead messages of a queue that the filter means.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/dead:purge",
    params(("queue" = String, Path, description = "Where they died, percent-encoded"), Place),
    request_body = Purge,
    responses(
        (status = 200, body = Purged),
        Refused,
    )
)]
pub(super) async fn purge_dead(
    about: About<Place>,
    body: Given<Purge>,
) -> Result<Json<Purged>, Problem> {
    let mut purge = asked(body)?;
    let named = about.named(Right::Read)?;
    let named = named.dead(&mut purge.filter.died_in)?;
    remove(&named, purge).await
}

async fn remove(named: &Named, purge: Purge) -> Result<Json<Purged>, Problem> {
    let which = which(purge.state.as_deref())?;
    let (filter, dry_run) = (purge.filter.filter()?, purge.dry_run);
    let store = &named.app.store;
    let removed = store.purge_matching(named.both(), which, &filter, dry_run);
    let count = removed.await?;
    Ok(Json(Purged { count, dry_run }))
}

/// Whether a queue hands out its messages.
#[derive(Serialize, ToSchema)]
pub(super) struct Paused {
    paused: bool,
}

/// Hands out nothing more until the queue is resumed; publishers notice nothing.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/pause",
    params(("queue" = String, Path, description = "Percent-encoded"), Place),
    responses(
        (status = 200, body = Paused),
        Refused,
    )
)]
pub(super) async fn pause(about: About<Place>) -> Result<Json<Paused>, Problem> {
    set_paused(about, true).await
}

/// Hands out messages again.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/resume",
    params(("queue" = String, Path, description = "Percent-encoded"), Place),
    responses(
        (status = 200, body = Paused),
        Refused,
    )
)]
pub(super) async fn resume(about: About<Place>) -> Result<Json<Paused>, Problem> {
    set_paused(about, false).await
}

async fn set_paused(about: About<Place>, paused: bool) -> Result<Json<Paused>, Problem> {
    let named = about.named(Right::Configure)?;
    let (vhost, queue) = named.both();
    named.app.store.set_paused(vhost, queue, paused).await?;
    Ok(Json(Paused { paused }))
}
