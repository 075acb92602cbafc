//! Commands about a queue's messages: look, remove, move, redrive, replay; pause and resume.
//!
//! Keeps: what `dead` names is the queue in which messages died, wherever they went.
//! In: `run`.  Out: `Store`'s operators' verbs.

use std::time::Duration;

use amqp::properties::Properties;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use store::Store;
use store::model::{Micros, RedriveKind, RedriveRow, RedriveState};
use store::operator::{Redrive, Which};
use store::page::{Page, Seen};
use store::rules::dead_letter;
use store::rules::filter::Filter;
use store::signals::{KEYS_MAX, Signals};

use super::{Answer, Span};
use crate::definitions::from_table;

/// Between two looks at a redrive that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Rows of one answer: it is a line on the socket, and whoever asks goes on from there.
const PAGE_ROWS: u32 = 1_000;

/// What can be asked about a queue's messages.
#[derive(Clone, Deserialize, Serialize)]
pub struct Ask {
    pub vhost: String,
    pub queue: String,
    /// Its dead-letter queue is meant.
    pub dead: bool,
    pub meant: Meant,
    pub verb: Verb,
}

/// Which messages; all given conditions hold together.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct Meant {
    pub ids: Vec<String>,
    /// RFC 3339.
    pub since: Option<String>,
    /// RFC 3339.
    pub until: Option<String>,
    pub reason: Option<String>,
    pub routing_key: Option<String>,
    /// `name=value`.
    pub headers: Vec<String>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    List {
        waiting: bool,
        span: Span,
    },
    /// One message whole, by its place.
    Show {
        seq: u64,
    },
    Purge {
        waiting: bool,
        dry_run: bool,
    },
    Move(How),
    /// Settled ones that the queue keeps.
    ListRetained {
        span: Span,
    },
    ShowRetained {
        seq: u64,
    },
    Replay {
        from: u64,
        /// The first place that is not meant.
        until: Option<u64>,
        how: How,
    },
    /// Depths, ages, growth, and so many keys.
    Signals {
        keys: u32,
    },
    Pause,
    Resume,
}

/// Where messages go, and how.
#[derive(Clone, Deserialize, Serialize)]
pub struct How {
    /// A queue; when not given, that in which they died, or for a replay the same one.
    pub to: Option<String>,
    /// Messages a second; as fast as they go when not given.
    pub rate: Option<f64>,
    /// Count, and move nothing.
    pub dry_run: bool,
    /// Answer when it has begun.
    pub detach: bool,
}

/// Does it, or says in words why not.
///
/// # Errors
/// What was wrong, for the operator.
pub(super) async fn run(store: &Store, ask: Ask) -> Result<Answer, String> {
    let mut filter = ask.meant.filter()?;
    let queue = match ask.dead {
        false => ask.queue,
        true => {
            let dead = store.dead_letter_queue(&ask.vhost, &ask.queue);
            filter.died_in = Some(ask.queue);
            dead.map_err(text)?
        }
    };
    let at = (&*ask.vhost, &*queue);
    match ask.verb {
        Verb::List { waiting, span } => {
            let (from, limit) = (place(&span)?, span.rows(PAGE_ROWS));
            let page = store.peek(at, which(waiting), &filter, from, limit);
            Ok(table(page.await.map_err(text)?, waiting))
        }
        Verb::Show { seq } => {
            let all = Filter::default();
            let page = store.peek(at, Which::Ready, &all, seq, 1);
            let found = page.await.map_err(text)?.messages;
            match found.into_iter().find(|seen| seen.seq == seq) {
                Some(seen) => Ok(Answer::Text(whole(&seen))),
                None => Err(format!("no message {seq} is ready in queue '{queue}'")),
            }
        }
        Verb::Purge { waiting, dry_run } => {
            let count = store.purge_matching(at, which(waiting), &filter, dry_run);
            Ok(counted(count.await.map_err(text)?, dry_run))
        }
        Verb::Move(how) if how.dry_run => {
            let count = store.purge_matching(at, Which::Ready, &filter, true);
            Ok(counted(count.await.map_err(text)?, true))
        }
        Verb::Move(how) => {
            let asked = Redrive {
                vhost: ask.vhost.clone(),
                source: queue,
                filter,
                ..Redrive::default()
            };
            begin(store, asked, how).await
        }
        Verb::ListRetained { span } => {
            let (from, limit) = (place(&span)?, span.rows(PAGE_ROWS));
            let page = store.peek_retained(at, &filter, (from, u64::MAX), limit);
            Ok(table(page.await.map_err(text)?, false))
        }
        Verb::ShowRetained { seq } => {
            let one = (seq, seq.saturating_add(1));
            let page = store.peek_retained(at, &filter, one, 1);
            match page.await.map_err(text)?.messages.first() {
                Some(seen) => Ok(Answer::Text(whole(seen))),
                None => Err(format!("queue '{queue}' keeps no settled message {seq}")),
            }
        }
        Verb::Replay { from, until, how } if how.dry_run => {
            let range = (from, until.unwrap_or(u64::MAX));
            let count = store.count_retained(at, &filter, range);
            Ok(counted(count.await.map_err(text)?, true))
        }
        Verb::Replay { from, until, how } => {
            let asked = Redrive {
                kind: RedriveKind::Retained,
                vhost: ask.vhost.clone(),
                source: queue,
                filter,
                from,
                until,
                ..Redrive::default()
            };
            begin(store, asked, how).await
        }
        Verb::Signals { keys } => {
            let keys = keys.clamp(1, KEYS_MAX as u32) as usize;
            let found = store.signals(at, keys).await.map_err(text)?;
            Ok(Answer::Text(signals(found)))
        }
        Verb::Pause => paused(store, at, true).await,
        Verb::Resume => paused(store, at, false).await,
    }
}

/// A page of the redrives, oldest first.
pub(super) fn list_redrives(store: &Store, span: &Span) -> Answer {
    let most = span.rows(PAGE_ROWS) as usize;
    let mut rows = store.redrives(span.cursor.as_deref(), most + 1);
    let has_more = rows.len() > most;
    rows.truncate(most);
    let last = rows.last().filter(|_| has_more);
    let next = last.map(|row| row.id.to_string());
    let (columns, rows) = redrives(rows);
    Answer::Page {
        columns,
        rows,
        next,
    }
}

/// Ends a redrive.
pub(super) async fn cancel_redrive(store: &Store, id: String) -> Result<Answer, String> {
    match store.cancel_redrive(&id).await.map_err(text)? {
        true => Ok(Answer::Done),
        false => Err(format!("no redrive '{id}' runs")),
    }
}

/// Begins it, and waits for its end unless told otherwise.
async fn begin(store: &Store, asked: Redrive, how: How) -> Result<Answer, String> {
    let begun = store.redrive(Redrive {
        target: how.to,
        rate: how.rate,
        ..asked
    });
    let row = begun.await.map_err(text)?;
    match how.detach {
        true => Ok(redrive_table([row])),
        false => ended(store, &row.id).await,
    }
}

async fn paused(store: &Store, (vhost, queue): (&str, &str), on: bool) -> Result<Answer, String> {
    let done = store.set_paused(vhost, queue, on).await;
    done.map(|()| Answer::Done).map_err(text)
}

async fn ended(store: &Store, id: &str) -> Result<Answer, String> {
    loop {
        match store.redrive_of(id) {
            Some(row) if row.state == RedriveState::Running => tokio::time::sleep(LOOK).await,
            Some(row) if row.state == RedriveState::Failed => {
                return Err(format!("{} after {} messages", row.detail, row.moved));
            }
            row => return Ok(redrive_table(row)),
        }
    }
}

fn which(waiting: bool) -> Which {
    match waiting {
        true => Which::Waiting,
        false => Which::Ready,
    }
}

/// Where a page begins.
fn place(span: &Span) -> Result<u64, String> {
    let Some(cursor) = &span.cursor else {
        return Ok(0);
    };
    let place = cursor.parse();
    place.map_err(|_| format!("cursor: '{cursor}' is no place of this list"))
}

fn text(error: store::Error) -> String {
    error.to_string()
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn counted(count: u64, dry_run: bool) -> Answer {
    let name = if dry_run { "meant" } else { "removed" };
    Answer::Table {
        columns: columns(&[name]),
        rows: vec![vec![count.into()]],
    }
}

fn moment(at: Option<Micros>) -> Json {
    let at = at.and_then(|at| Timestamp::from_microsecond(at).ok());
    at.map_or(Json::Null, |at| format!("{at:.3}").into())
}

fn table(page: Page, waiting: bool) -> Answer {
    let when = if waiting { "due" } else { "accepted" };
    let names = [
        "seq",
        when,
        "message id",
        "routing key",
        "bytes",
        "failures",
        "died of",
        "in",
    ];
    let row = |seen: &Seen| {
        let (block, index) = (&seen.piece.block, seen.piece.index(0));
        let properties = Properties::parse(block.properties(index)).unwrap_or_default();
        let death = dead_letter::newest(&properties);
        let of = |name: &str| death.and_then(|death| death.find(name)?.as_text());
        let id = properties
            .message_id
            .as_deref()
            .map(String::from_utf8_lossy);
        let key = String::from_utf8_lossy(block.address(index).routing_key());
        vec![
            seen.seq.into(),
            moment(Some(seen.due_at.unwrap_or(seen.piece.at))),
            id.map_or(Json::Null, |id| id.into()),
            key.into(),
            block.entries[index].body_size.into(),
            seen.failures.into(),
            of("reason").map_or(Json::Null, Json::from),
            of("queue").map_or(Json::Null, Json::from),
        ]
    };
    Answer::Page {
        columns: columns(&names),
        rows: page.messages.iter().map(row).collect(),
        next: page.next.map(|seq| seq.to_string()),
    }
}

fn whole(seen: &Seen) -> String {
    let (block, index) = (&seen.piece.block, seen.piece.index(0));
    let properties = Properties::parse(block.properties(index)).unwrap_or_default();
    let address = block.address(index);
    let body = block.body(index);
    let shown = match std::str::from_utf8(&body) {
        Ok(text) => Json::from(text),
        Err(_) => Json::from(format!("{} bytes that are no text", body.len())),
    };
    let described = serde_json::json!({
        "seq": seen.seq,
        "accepted": moment(Some(seen.piece.at)),
        "failures": seen.failures,
        "exchange": String::from_utf8_lossy(address.exchange()),
        "routing_key": String::from_utf8_lossy(address.routing_key()),
        "message_id": properties.message_id.as_deref().map(String::from_utf8_lossy),
        "headers": properties.headers.as_ref().map(from_table),
        "bytes": body.len(),
        "body": shown,
    });
    format!("{described:#}\n")
}

fn signals(found: Signals) -> String {
    let age = |at: Option<Micros>| match at {
        None => "-".to_owned(),
        Some(at) => format!("{:.1} s", (found.at - at).max(0) as f64 / 1e6),
    };
    let (minute, five) = (found.growth.minute(), found.growth.five_minutes());
    let dead = match (&found.dead_letter_queue, found.dead_letters) {
        (Some(queue), Some(count)) => format!("{count} in {queue}"),
        _ => "dropped".to_owned(),
    };
    let mut out = String::new();
    for (name, value) in [
        ("ready", found.ready.to_string()),
        ("unacked", found.unacked.to_string()),
        ("waiting", found.waiting.to_string()),
        ("consumers", found.consumers.to_string()),
        ("dead", dead),
        (
            "growth",
            format!("{minute:+.1}/s over 1m, {five:+.1}/s over 5m"),
        ),
        ("oldest ready", age(found.oldest_ready_at)),
        ("oldest unacked", age(found.oldest_unacked_at)),
    ] {
        out.push_str(&format!("{name:<16}{value}\n"));
    }
    let Some(keys) = found.keys else {
        return out;
    };
    let columns = ("head of key", "age", "behind", "state", "key");
    let (seq, old, behind, state, key) = columns;
    out.push_str(&format!("{seq:<16}{old:<12}{behind:<10}{state:<10}{key}\n"));
    for head in keys.heads {
        let (old, state) = (age(head.accepted_at), head.state.as_str());
        // What a publisher wrote must not move a terminal's cursor.
        let key = head
            .key
            .unwrap_or_else(|| "?".into())
            .escape_debug()
            .to_string();
        let (seq, behind) = (head.seq, head.behind);
        out.push_str(&format!("{seq:<16}{old:<12}{behind:<10}{state:<10}{key}\n"));
    }
    if keys.partial {
        out.push_str("There is more than was looked at.\n");
    }
    out
}

fn redrive_table(rows: impl IntoIterator<Item = RedriveRow>) -> Answer {
    let (columns, rows) = redrives(rows);
    Answer::Table { columns, rows }
}

type Rows = (Vec<String>, Vec<Vec<Json>>);

fn redrives(rows: impl IntoIterator<Item = RedriveRow>) -> Rows {
    let names = [
        "id", "from", "to", "state", "moved", "skipped", "begun", "detail",
    ];
    let row = |row: RedriveRow| {
        vec![
            row.id.to_string().into(),
            row.source.to_string().into(),
            row.target.map_or(Json::Null, |to| to.to_string().into()),
            row.state.as_str().into(),
            row.moved.into(),
            row.skipped.into(),
            moment(Some(row.created_at)),
            row.detail.into(),
        ]
    };
    (columns(&names), rows.into_iter().map(row).collect())
}

impl Meant {
    fn filter(self) -> Result<Filter, String> {
        let at = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => text
                .parse::<Timestamp>()
                .map(|at| Some(at.as_microsecond()))
                .map_err(|_| format!("'{text}' is no instant such as 2026-01-31T08:00:00Z")),
        };
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("'{text}' is not of the form name=value")),
        };
        Ok(Filter {
            ids: self.ids,
            since: at(self.since)?,
            until: at(self.until)?,
            reason: self.reason,
            died_in: None,
            routing_key: self.routing_key,
            headers: self
                .headers
                .into_iter()
                .map(pair)
                .collect::<Result<_, _>>()?,
        })
    }
}
