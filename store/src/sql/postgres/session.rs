//! One connection to the server: prepared statements, and transactions that are one trip.
//!
//! Keeps: a session that answers is on a primary, of a version and with settings that keep the
//! engine's promises. A transaction's statements are all sent before the first answer is awaited. A
//! future that is dropped leaves nothing behind: the driver reads its answers and throws them away.
//! Never: uses a connection again of which it does not know whether a transaction is open.
//! In: `writer`, `reader`, `owner`.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::{MaybeDone, maybe_done};
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{Client, Row, Statement};

use super::statement::{self, Text};
use super::target::Target;
use super::value::Value;

/// Oldest server that has what the statements ask for.
const OLDEST: i64 = 140_000;
/// A server that is not there any more is noticed after this, at rest.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVES: u32 = 3;
/// And after this, with data under way.
const UNANSWERED: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
    /// Takes and renews the lease.
    Lease,
    /// Looks only: also at a server that is a standby itself.
    Visitor,
}

/// Why a session cannot be had, or not used any more.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{to}: {detail}")]
    Unreachable { to: String, detail: String },
    #[error("{to} is a standby (pg_is_in_recovery() is true); it takes no writes")]
    Standby { to: String },
    #[error("{to} is PostgreSQL {found}; 14 or later is required")]
    Old { to: String, found: String },
    #[error("{to}: the encoding of the database is {found}; UTF8 is required")]
    Encoding { to: String, found: String },
}

/// Why a transaction is not known to be stored.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another node owns the store; nothing was stored.
    Fenced,
    /// Nothing was stored.
    Refused(String),
    /// Nothing was stored; the server has no room.
    Full(String),
    /// The connection ended: it may be stored or not.
    Lost(String),
}

/// One statement of a transaction.
pub(super) struct Step<'a> {
    pub(super) text: Text,
    values: Vec<Value<'a>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(text: impl Into<Text>, values: Vec<Value<'a>>) -> Self {
        Self {
            text: text.into(),
            values,
        }
    }
}

pub(super) struct Session {
    client: Client,
    prepared: HashMap<Text, Statement>,
    link: JoinHandle<()>,
    to: String,
    /// What the server says of itself.
    pub(super) server: Server,
}

/// A server, as far as promises depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    pub version: String,
    /// It waits for the disk.
    pub fsync: bool,
    pub synchronous_commit: String,
    /// Empty: what is committed is on this server only.
    pub synchronous_standbys: String,
    pub is_standby: bool,
}

impl Session {
    pub(super) async fn open(target: &Target, role: Role) -> Result<Self, Unusable> {
        let to = target.name();
        let unreachable = |detail: String| Unusable::Unreachable {
            to: target.name(),
            detail,
        };
        let mut config = target.config().map_err(unreachable)?;
        config
            .connect_timeout(CONNECT_WITHIN)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_AFTER)
            .keepalives_interval(KEEPALIVE_EVERY)
            .keepalives_retries(KEEPALIVES)
            .tcp_user_timeout(UNANSWERED);
        let connected = target.connect(&config);
        let connected = tokio::time::timeout(CONNECT_WITHIN * 2, connected).await;
        let (client, link) = match connected {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(unreachable(error)),
            Err(_) => return Err(unreachable("no answer".into())),
        };
        let mut session = Self {
            client,
            prepared: HashMap::new(),
            link,
            to,
            server: Server::default(),
        };
        session.begin(role).await?;
        Ok(session)
    }

    /// Settings and checks of a new session.
    async fn begin(&mut self, role: Role) -> Result<(), Unusable> {
        let settings = match role {
            Role::Writer => WRITER,
            Role::Reader | Role::Visitor => READER,
            Role::Lease => LEASE,
        };
        let failed = |to: &str, error: &tokio_postgres::Error| Unusable::Unreachable {
            to: to.to_owned(),
            detail: describe(error),
        };
        let set = self.client.batch_execute(settings).await;
        set.map_err(|error| failed(&self.to, &error))?;
        let row = self.client.query_one(statement::DATABASE_CHECK, &[]).await;
        let row = row.map_err(|error| failed(&self.to, &error))?;
        let wrong = |error: tokio_postgres::Error| failed(&self.to, &error);
        let to = self.to.clone();
        let (number, version): (i64, String) = (
            row.try_get(0).map_err(wrong)?,
            row.try_get(1).map_err(wrong)?,
        );
        if number < OLDEST {
            return Err(Unusable::Old { to, found: version });
        }
        let encoding: String = row.try_get(7).map_err(wrong)?;
        if encoding != "UTF8" {
            let found = encoding;
            return Err(Unusable::Encoding { to, found });
        }
        self.server = Server {
            version,
            is_standby: row.try_get(2).map_err(wrong)?,
            fsync: row.try_get(3).map_err(wrong)?,
            synchronous_commit: row.try_get(4).map_err(wrong)?,
            synchronous_standbys: row.try_get(5).map_err(wrong)?,
        };
        if self.server.is_standby && role != Role::Visitor {
            return Err(Unusable::Standby { to });
        }
        if role == Role::Writer && self.server.synchronous_commit == "off" {
            let on = self
                .client
                .batch_execute("set synchronous_commit = on")
                .await;
            on.map_err(wrong)?;
        }
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn prepare(&mut self, text: Text) -> Result<Statement, tokio_postgres::Error> {
        if let Some(found) = self.prepared.get(&text) {
            return Ok(found.clone());
        }
        let made = self.client.prepare(&text.form()).await?;
        self.prepared.insert(text, made.clone());
        Ok(made)
    }

    /// Runs `steps` as one transaction; how many rows each touched. The first one fences.
    pub(super) async fn transact(
        &mut self,
        begin: &str,
        steps: Vec<Step<'_>>,
    ) -> Result<Vec<u64>, Fault> {
        let mut ready = Vec::with_capacity(steps.len());
        for step in steps {
            // Outside the transaction, so that it is one trip.
            let statement = self.prepare(step.text).await.map_err(|e| judge(&e))?;
            ready.push((statement, step.values));
        }
        let client = &self.client;
        let mut opening = sent(client.batch_execute(begin)).await;
        let mut answers = Vec::with_capacity(ready.len());
        let mut end = "commit";
        for (statement, values) in ready {
            answers.push(sent(async move { client.execute_raw(&statement, values).await }).await);
            // A statement that could not even be sent must not be missing from what is committed.
            if answers.last().is_some_and(has_failed) {
                end = "rollback";
                break;
            }
        }
        let mut ending = sent(client.batch_execute(end)).await;
        let opened = taken(&mut opening).await;
        let mut fault = opened.err().map(|error| judge(&error));
        let mut rows = Vec::with_capacity(answers.len());
        for (at, answer) in answers.iter_mut().enumerate() {
            match taken(answer).await {
                Ok(count) => rows.push(count),
                Err(error) if fault.is_none() => {
                    fault = Some(match error.code() {
                        Some(&SqlState::DIVISION_BY_ZERO) if at == 0 => Fault::Fenced,
                        _ => judge(&error),
                    });
                }
                Err(_) => {}
            }
        }
        let ended = taken(&mut ending).await;
        match (fault, ended) {
            (None, Ok(())) => Ok(rows),
            // The server rolled back, as a statement before had failed.
            (Some(fault), Ok(())) => Err(fault),
            (Some(Fault::Fenced), Err(_)) => Err(Fault::Fenced),
            (_, Err(error)) => Err(match judge(&error) {
                Fault::Refused(text) if self.client.is_closed() => Fault::Lost(text),
                fault => fault,
            }),
        }
    }

    /// Runs a text of ours that gives no rows, outside any transaction.
    pub(super) async fn run(&self, text: &str) -> Result<(), Fault> {
        self.client
            .batch_execute(text)
            .await
            .map_err(|error| judge(&error))
    }

    pub(super) async fn rows(
        &mut self,
        text: impl Into<Text>,
        values: Vec<Value<'_>>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        use futures::TryStreamExt;
        let statement = self.prepare(text.into()).await?;
        self.client
            .query_raw(&statement, values)
            .await?
            .try_collect()
            .await
    }

    /// Row by row: what is kept of a row is much smaller than the driver's form of it.
    pub(super) async fn each<T>(
        &mut self,
        text: impl Into<Text>,
        read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>, tokio_postgres::Error> {
        use futures::TryStreamExt;
        let statement = self.prepare(text.into()).await?;
        let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
        let rows = self.client.query_raw(&statement, none).await?;
        let mut rows = std::pin::pin!(rows);
        let mut out = Vec::new();
        while let Some(row) = rows.try_next().await? {
            out.push(read(&row)?);
        }
        Ok(out)
    }

    /// Ends the connection whatever it is at.
    pub(super) fn close(self) {
        self.link.abort();
    }
}

type Sent<F> = Pin<Box<MaybeDone<F>>>;

/// Sends what `future` has to send, without waiting for the answer: the driver does so the first
/// time that a future is asked.
async fn sent<F: Future>(future: F) -> Sent<F> {
    let mut sent = Box::pin(maybe_done(future));
    poll_fn(|context| {
        let _ = sent.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    sent
}

fn has_failed<F, T>(sent: &Sent<F>) -> bool
where
    F: Future<Output = Result<T, tokio_postgres::Error>>,
{
    matches!(**sent, MaybeDone::Done(Err(_)))
}

async fn taken<F, T>(sent: &mut Sent<F>) -> Result<T, tokio_postgres::Error>
where
    F: Future<Output = Result<T, tokio_postgres::Error>>,
{
    sent.as_mut().await;
    match sent.as_mut().take_output() {
        Some(output) => output,
        None => unreachable!("each answer is taken once"),
    }
}

/// What an error of the driver means for the transaction that it ended.
pub(super) fn judge(error: &tokio_postgres::Error) -> Fault {
    let text = describe(error);
    let Some(error) = error.as_db_error() else {
        // A value that cannot be written never leaves this process, and leaves the session as it
        // was.
        let source = std::error::Error::source(error);
        let is_io = source.is_some_and(|source| source.is::<std::io::Error>());
        return match error.is_closed() || is_io {
            true => Fault::Lost(text),
            false => Fault::Refused(text),
        };
    };
    if ends_session(error) {
        return Fault::Lost(text);
    }
    match *error.code() {
        SqlState::DISK_FULL => Fault::Full(text),
        _ => Fault::Refused(text),
    }
}

fn ends_session(error: &DbError) -> bool {
    let fatal = matches!(
        error.parsed_severity(),
        Some(Severity::Fatal | Severity::Panic)
    );
    fatal || error.code().code().starts_with("57P") || error.code().code().starts_with("08")
}

/// All that the server said, in one line.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    let Some(found) = error.as_db_error() else {
        let source = std::error::Error::source(error);
        return source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    };
    let mut out = format!("{} ({})", found.message(), found.code().code());
    for (what, more) in [("detail", found.detail()), ("hint", found.hint())] {
        if let Some(more) = more {
            out.push_str(&format!("; {what}: {more}"));
        }
    }
    out
}

/// Of writes: rows are found by keys, whatever the statistics say of tables that fill and are
/// emptied all the time. A commit has no time limit: one that is cancelled while it waits for a
/// standby reports success. A lock is waited for briefly.
const WRITER: &str = "
set enable_seqscan = off;
set enable_hashjoin = off;
set enable_mergejoin = off;
set plan_cache_mode = force_generic_plan;
set statement_timeout = 0;
set lock_timeout = '10s';
set idle_in_transaction_session_timeout = '10s';
set client_min_messages = warning;
set jit = off";

const READER: &str = "
set statement_timeout = '60s';
set lock_timeout = '10s';
set idle_in_transaction_session_timeout = '60s';
set client_min_messages = warning;
set plan_cache_mode = force_generic_plan;
set jit = off";

const LEASE: &str = "
set statement_timeout = '5s';
set lock_timeout = '1s';
set idle_in_transaction_session_timeout = '5s';
set client_min_messages = warning";
