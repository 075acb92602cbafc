//! Who owns the store: one row, a lease and an epoch.
//!
//! Keeps: the epoch rises with each taking, under a lock that excludes every commit under way; from
//! then on commits with an older one fail. Only that is relied on: the clocks decide when a taking
//! is tried, and when an owner that cannot renew gives up by itself.
//! Never: asks twice whether it owns the store to conclude that it still does.
//! In: `Postgres::open` waits here; its task renews.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::migration::{self, SchemaError};
use super::session::{Fault, Role, Session, Unusable, describe};
use super::statement;
use super::target::Target;
use super::value::{Value, Words, number, text};
use super::{OpenError, Options, Shared};

/// Renewals in one lease, so that two may fail.
const RENEWALS: u32 = 3;
/// Looks at the owner's row in one lease, while waiting.
const LOOKS: u32 = 10;
/// Between two tries to reach a server that is not there.
const RECONNECT_AFTER: Duration = Duration::from_millis(250);

/// What a node that does not own the store waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// The database cannot be used; tried again all the time.
    Unusable(String),
    /// Another node is the owner.
    Standby { owner: String, epoch: u64 },
    /// This node is the owner.
    Owner { epoch: u64 },
}

/// The row of `owner`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRow {
    pub epoch: u64,
    /// Empty where no node ever owned it.
    pub cluster: String,
    pub node: String,
    pub released: bool,
    pub lease: Duration,
    /// By the server's clock.
    pub renewed_ago: Duration,
}

impl OwnerRow {
    /// True when the lease can be taken.
    pub fn is_free(&self) -> bool {
        self.released || self.renewed_ago > self.lease
    }
}

/// A taken lease.
pub(super) struct Taken {
    pub(super) epoch: i64,
    /// By this machine's clock, before it was asked for.
    pub(super) asked_at: Duration,
    pub(super) session: Session,
}

/// Waits until this node is the owner.
pub(super) async fn wait(
    target: &Target,
    options: &Options,
    standing: &watch::Sender<Standing>,
) -> Result<Taken, OpenError> {
    let mut session: Option<Session> = None;
    let mut last = Duration::ZERO;
    loop {
        let taken = match &mut session {
            Some(open) => look(open, options, standing).await,
            None => match start(target, options).await {
                Ok(open) => {
                    session = Some(open);
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        match taken {
            Ok(Some((epoch, asked_at))) => {
                if let Some(session) = session {
                    tell(
                        standing,
                        Standing::Owner {
                            epoch: epoch as u64,
                        },
                    );
                    return Ok(Taken {
                        epoch,
                        asked_at,
                        session,
                    });
                }
            }
            Ok(None) => {
                if !options.wait {
                    // One that does not renew is dead, and its lease ends.
                    let ago = heard(standing, &mut session).await;
                    if ago < last {
                        let (to, owner) = (target.name(), owner_of(standing));
                        return Err(OpenError::Owned { to, owner });
                    }
                    last = ago;
                }
                tokio::time::sleep(options.lease / LOOKS).await;
                continue;
            }
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(detail)) if !options.wait => {
                let to = target.name();
                return Err(OpenError::Other { to, detail });
            }
            Err(Trouble::Passing(why)) => {
                tell(standing, Standing::Unusable(why));
                if let Some(session) = session.take() {
                    session.close();
                }
            }
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

/// How long ago the owner renewed; nothing where nobody knows.
async fn heard(standing: &watch::Sender<Standing>, session: &mut Option<Session>) -> Duration {
    let is_standby = matches!(&*standing.borrow(), Standing::Standby { .. });
    match session {
        Some(session) if is_standby => {
            let row = read(session).await;
            row.map_or(Duration::ZERO, |row| row.renewed_ago)
        }
        _ => Duration::ZERO,
    }
}

fn owner_of(standing: &watch::Sender<Standing>) -> String {
    match &*standing.borrow() {
        Standing::Standby { owner, .. } => owner.clone(),
        _ => String::new(),
    }
}

enum Trouble {
    /// Waiting does not help.
    Final(OpenError),
    Passing(String),
}

/// A session to a database of the present schema that is this cluster's.
async fn start(target: &Target, options: &Options) -> Result<Session, Trouble> {
    let opened = Session::open(target, Role::Lease).await;
    let mut session = opened.map_err(|error| match error {
        Unusable::Old { .. } | Unusable::Encoding { .. } => Trouble::Final(error.into()),
        other => Trouble::Passing(other.to_string()),
    })?;
    let to = target.name();
    let migrated = migration::run(&mut session, target.schema()).await;
    let (before, after) = migrated.map_err(|error| match error {
        SchemaError::Other(why) => Trouble::Passing(format!("{to}: {why}")),
        source => Trouble::Final(OpenError::Schema {
            to: to.clone(),
            source,
        }),
    })?;
    if before != after {
        tracing::info!(before, after, "the schema was brought up to date");
    }
    let row = read(&mut session).await;
    let row = row.map_err(|why| Trouble::Passing(format!("{to}: {why}")))?;
    if !row.cluster.is_empty() && row.cluster != options.cluster {
        return Err(Trouble::Final(OpenError::Cluster {
            to,
            found: row.cluster,
            ours: options.cluster.clone(),
        }));
    }
    Ok(session)
}

fn tell(standing: &watch::Sender<Standing>, now: Standing) {
    standing.send_if_modified(|known| {
        if *known == now {
            return false;
        }
        match &now {
            Standing::Unusable(why) => tracing::error!(reason = why, "the database cannot be used"),
            Standing::Standby { owner, epoch } => {
                tracing::info!(owner, epoch, "standing by: another node owns the store");
            }
            Standing::Owner { epoch } => tracing::info!(epoch, "this node owns the store"),
            Standing::Starting => {}
        }
        *known = now;
        true
    });
}

/// The present row.
pub(super) async fn read(session: &mut Session) -> Result<OwnerRow, String> {
    let rows = session.rows(statement::OWNER_READ, vec![]).await;
    let rows = rows.map_err(|error| describe(&error))?;
    let row = rows.first().ok_or("the table owner is empty")?;
    let read = || {
        Ok::<_, tokio_postgres::Error>(OwnerRow {
            epoch: number(row, 0)?,
            cluster: text(row, 1)?,
            node: text(row, 2)?,
            released: row.try_get(3)?,
            lease: Duration::from_millis(number(row, 4)?),
            renewed_ago: Duration::from_micros(row.try_get::<_, i64>(5)?.max(0).cast_unsigned()),
        })
    };
    read().map_err(|error| describe(&error))
}

/// Takes the lease if nobody has it; the epoch, and when it was asked for.
async fn look(
    session: &mut Session,
    options: &Options,
    standing: &watch::Sender<Standing>,
) -> Result<Option<(i64, Duration)>, Trouble> {
    let row = read(session).await.map_err(Trouble::Passing)?;
    if !row.is_free() {
        let (owner, epoch) = (row.node, row.epoch);
        tell(standing, Standing::Standby { owner, epoch });
        return Ok(None);
    }
    let asked_at = boot_time();
    let values: Vec<Value<'_>> = vec![
        Box::new(row.epoch.cast_signed()),
        Box::new(Words(&options.cluster)),
        Box::new(Words(&options.node)),
        Box::new(options.lease.as_millis() as i64),
    ];
    // Waits for the commit of the last owner that is under way, if there is one.
    let taken = session.rows(statement::OWNER_TAKE, values).await;
    match taken {
        Ok(rows) => match rows.first() {
            Some(row) => {
                let epoch = row.try_get(0);
                let epoch: i64 = epoch.map_err(|error| Trouble::Passing(describe(&error)))?;
                Ok(Some((epoch, asked_at)))
            }
            None => Ok(None),
        },
        Err(error)
            if error
                .code()
                .is_some_and(|code| code.code() == LOCK_NOT_AVAILABLE) =>
        {
            // A commit that holds the row and does not end belongs to an owner that stands still.
            let ended = session.rows(statement::OWNER_END_HOLDERS, vec![]).await;
            ended.map_err(|error| Trouble::Passing(describe(&error)))?;
            Ok(None)
        }
        Err(error) => Err(Trouble::Passing(describe(&error))),
    }
}

const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Renews until the lease is lost or the engine ends.
pub(super) async fn renew(shared: Arc<Shared>, target: Target, taken: Taken) {
    let lease = shared.options.lease;
    let Taken {
        epoch,
        asked_at,
        session,
    } = taken;
    let (mut renewed_at, mut session) = (asked_at, Some(session));
    loop {
        tokio::time::sleep(match session {
            Some(_) => lease / RENEWALS,
            None => RECONNECT_AFTER,
        })
        .await;
        let now = boot_time();
        let left = (renewed_at + lease).saturating_sub(now);
        if left.is_zero() {
            shared.lose("the lease could not be renewed in time");
            return;
        }
        let done = tokio::time::timeout(left, ask(&mut session, &target, epoch)).await;
        match done {
            Ok(Ok(true)) => renewed_at = now,
            Ok(Ok(false)) => {
                shared.lose("another node took the store over");
                return;
            }
            Ok(Err(why)) => {
                tracing::warn!(reason = why, "the lease was not renewed, trying again");
                close(&mut session);
            }
            Err(_) => close(&mut session),
        }
    }
}

fn close(session: &mut Option<Session>) {
    if let Some(session) = session.take() {
        session.close();
    }
}

/// False when the lease is another's.
async fn ask(session: &mut Option<Session>, target: &Target, epoch: i64) -> Result<bool, String> {
    if session.as_ref().is_none_or(Session::is_closed) {
        let opened = Session::open(target, Role::Lease).await;
        *session = Some(opened.map_err(|error| error.to_string())?);
    }
    let Some(open) = session else {
        return Ok(true);
    };
    let renewed = open
        .transact("begin", vec![fence(epoch), renewal(epoch)])
        .await;
    match renewed {
        Ok(rows) => Ok(rows.get(1).is_some_and(|rows| *rows == 1)),
        Err(Fault::Fenced) => Ok(false),
        Err(Fault::Refused(why) | Fault::Full(why) | Fault::Lost(why)) => Err(why),
    }
}

/// The first statement of every transaction that writes.
pub(super) fn fence<'a>(epoch: i64) -> super::session::Step<'a> {
    super::session::Step::new(statement::OWNER_FENCE, vec![Box::new(epoch)])
}

fn renewal<'a>(epoch: i64) -> super::session::Step<'a> {
    super::session::Step::new(statement::OWNER_RENEW, vec![Box::new(epoch)])
}

/// Since the machine started, also while it slept.
pub(super) fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.max(0).cast_unsigned(), now.tv_nsec.max(0) as u32)
}
