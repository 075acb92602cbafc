//! The store from outside: seen, brought up to date, thrown away, by whoever is not its owner.
//!
//! Keeps: an owner is not disturbed; what is looked at is of one commit.
//! Never: takes the lease.
//! In: `sql::place`, for `leveret store`.

use super::migration::{self, SchemaError};
use super::owner::{self, OwnerRow};
use super::session::{Role, Session};
use super::*;

/// What can be said of a store without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub server: Server,
    /// Newest migration that ran, 0 for no store, and that this program has.
    pub schema: i64,
    pub schema_ours: i64,
    /// `None` where there is no store.
    pub owner: Option<OwnerRow>,
    pub bytes: u64,
}

impl Postgres {
    /// # Errors
    /// The database cannot be read.
    pub async fn see(target: &Target) -> Result<Seen, OpenError> {
        let mut session = Session::open(target, Role::Visitor).await?;
        let seen = seen(target, &mut session).await;
        session.close();
        seen
    }

    /// Opens a store of this schema for reading, as it is at this moment; its owner goes on.
    ///
    /// # Errors
    /// There is none, it is of another schema, or it cannot be read.
    pub async fn look(target: Target) -> Result<Self, OpenError> {
        let mut session = Session::open(&target, Role::Visitor).await?;
        let seen = seen(&target, &mut session).await?;
        let to = target.name();
        match seen.schema.cmp(&seen.schema_ours) {
            _ if seen.owner.is_none() => return Err(OpenError::Missing { to }),
            std::cmp::Ordering::Less => {
                let (found, ours) = (seen.schema, seen.schema_ours);
                return Err(OpenError::Older { to, found, ours });
            }
            std::cmp::Ordering::Greater => {
                let source = SchemaError::Newer(seen.schema);
                return Err(OpenError::Schema { to, source });
            }
            std::cmp::Ordering::Equal => {}
        }
        let found = reader::stay(&mut session).await;
        let found = found.map_err(|error| OpenError::Other {
            to: to.clone(),
            detail: error.0,
        })?;
        let shared = Shared {
            target,
            options: Options::default(),
            slots: Mutex::new(found.slots),
            lost: watch::channel(None).0,
        };
        // Nobody receives: what would write is refused.
        let (writer, _) = mpsc::channel(1);
        Ok(Self {
            shared: Arc::new(shared),
            writer,
            readers: [
                tokio::sync::Mutex::new(Some(session)),
                tokio::sync::Mutex::default(),
            ],
            next_reader: AtomicU64::new(0),
            tasks: Vec::new(),
            image: Mutex::new(Some(sorted(found.image))),
            bytes: AtomicU64::new(seen.bytes),
            maintained: AtomicU64::new(0),
            looks: true,
        })
    }

    /// Runs the migrations that are missing; answers the newest before and after.
    ///
    /// # Errors
    /// The database cannot be used, or a migration failed.
    pub async fn migrate(target: &Target) -> Result<(i64, i64), OpenError> {
        let mut session = Session::open(target, Role::Lease).await?;
        let before = migration::versions(&mut session).await;
        let done = migration::run(&mut session, target.schema()).await;
        session.close();
        let schema = |source| OpenError::Schema {
            to: target.name(),
            source,
        };
        let ((before, _), (_, after)) = (before.map_err(schema)?, done.map_err(schema)?);
        Ok((before, after))
    }
}

async fn seen(target: &Target, session: &mut Session) -> Result<Seen, OpenError> {
    let to = target.name();
    let other = |detail: String| OpenError::Other {
        to: to.clone(),
        detail,
    };
    let (schema, schema_ours) = migration::versions(session)
        .await
        .map_err(|error| other(error.to_string()))?;
    let owner = match schema {
        0 => None,
        _ => Some(owner::read(session).await.map_err(other)?),
    };
    let rows = session.rows(statement::DATABASE_BYTES, vec![]).await;
    let rows = rows.map_err(|error| other(session::describe(&error)))?;
    let bytes = rows.first().map_or(Ok(0), |row| value::number(row, 0));
    Ok(Seen {
        server: session.server.clone(),
        schema,
        schema_ours,
        owner,
        bytes: bytes.map_err(|error| other(session::describe(&error)))?,
    })
}
