//! A PostgreSQL that is there: what it has written and spent, and how large its tables are.
//!
//! Keeps: one schema of ours for Leveret's tables and one for the peer's; both are dropped before
//! each run.
//! Never: changes a setting of the server, which Leveret and its peer share.
//! In: `main` empties it, `run`, `skip_locked` and `soak` read it.

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

use crate::procfs;

/// Where Leveret's tables stand.
pub(crate) const SCHEMA: &str = "leveret_bench";
/// Those of a peer in SQL.
pub(crate) const PEER_SCHEMA: &str = "leveret_bench_peer";

const SIZES: &str = "select \
    coalesce(sum(pg_total_relation_size(c.oid)) filter (where n.nspname = $1), 0)::int8, \
    coalesce(sum(pg_total_relation_size(c.oid)) filter (where n.nspname = 'pg_catalog'), 0)::int8 \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'm')";

/// A session of our own.
pub(crate) struct Database {
    runtime: Runtime,
    client: Client,
    /// The process that all of the server's are children of; none on another machine.
    postmaster: Option<u32>,
}

/// Sums since some beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// CPU time of all of the server's processes, µs.
    pub(crate) cpu_us: Option<f64>,
    pub(crate) wal_bytes: u64,
    /// Syncs of the write-ahead log; not told before PostgreSQL 14 nor after 17.
    pub(crate) wal_syncs: Option<u64>,
}

/// Bytes on disk, with indexes and TOAST.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) tables: u64,
    pub(crate) catalogue: u64,
}

impl Database {
    /// Connects to a server.
    pub(crate) fn connect(url: &str) -> Result<Self> {
        let runtime = runtime()?;
        let client = runtime.block_on(connect(url))?;
        let row = runtime.block_on(client.query_one("select pg_backend_pid()", &[]))?;
        let backend: i32 = row.get(0);
        let postmaster = backend.try_into().ok().and_then(procfs::postmaster_of);
        Ok(Self {
            runtime,
            client,
            postmaster,
        })
    }

    /// Runs statements that answer nothing.
    pub(crate) fn run(&self, statements: &str) -> Result<()> {
        let done = self.client.batch_execute(statements);
        self.runtime
            .block_on(done)
            .with_context(|| statements.to_owned())
    }

    /// The first column of the only row.
    pub(crate) fn number(&self, statement: &str) -> Result<i64> {
        let row = self.client.query_one(statement, &[]);
        Ok(self.runtime.block_on(row)?.try_get(0)?)
    }

    /// Removes what earlier runs left, and lets the server write out what it still holds for them.
    pub(crate) fn empty(&self) -> Result<()> {
        for schema in [SCHEMA, PEER_SCHEMA] {
            self.run(&format!("drop schema if exists {schema} cascade"))?;
        }
        // Only a superuser may; for anybody else the next run begins with some disk traffic.
        let _ = self.run("checkpoint");
        Ok(())
    }

    pub(crate) fn reading(&self) -> Result<Reading> {
        let wal_bytes = self.number("select (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8")?;
        let wal_syncs = self.number("select wal_sync from pg_stat_wal").ok();
        Ok(Reading {
            cpu_us: self.postmaster.and_then(procfs::family_cpu_us),
            wal_bytes: wal_bytes.unsigned_abs(),
            wal_syncs: wal_syncs.map(i64::unsigned_abs),
        })
    }

    pub(crate) fn sizes(&self, schema: &str) -> Result<Sizes> {
        let row = self
            .runtime
            .block_on(self.client.query_one(SIZES, &[&schema]))?;
        let bytes = |column| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
        Ok(Sizes {
            tables: bytes(0)?,
            catalogue: bytes(1)?,
        })
    }
}

impl Reading {
    pub(crate) fn since(self, before: Self) -> Self {
        let syncs = self.wal_syncs.zip(before.wal_syncs);
        Self {
            cpu_us: self.cpu_us.zip(before.cpu_us).map(|(now, then)| now - then),
            wal_bytes: self.wal_bytes.saturating_sub(before.wal_bytes),
            wal_syncs: syncs.map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// The store's URL for Leveret.
pub(crate) fn store_url(url: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}schema={SCHEMA}")
}

/// A runtime of the calling thread alone.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// One session, served by the calling runtime.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("connect to PostgreSQL")?;
    // What goes wrong is told to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_one_more_parameter() {
        let with = |url| store_url(url);
        assert_eq!(
            with("postgres://a@h/d"),
            "postgres://a@h/d?schema=leveret_bench"
        );
        assert_eq!(
            with("postgres://a@h/d?sslmode=disable"),
            "postgres://a@h/d?sslmode=disable&schema=leveret_bench"
        );
    }
}
