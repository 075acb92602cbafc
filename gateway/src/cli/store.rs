//! Commands on a whole store: status, verify, backup, copy, migrate.
//!
//! Keeps: exit codes that scripts rely on (`docs/reference/store.md`); a store that a node serves
//! is only read.
//! Never: knows an engine; `store::sql::place` does. Asks a server: a store that does not start is
//! looked at, too.
//! In: `cli`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value as Json, json};
use store::sql::place::{self, Place, Status};
use store::sql::{postgres, sqlite};
use store::upkeep::copy::{self, Copied};
use store::upkeep::count::Counts;
use store::upkeep::verify::{self, Finding, Verified};

use super::print;
use crate::config::{self, Given};
use crate::node;

#[derive(Subcommand)]
pub(super) enum Stores {
    /// Which store it is, its schema, who serves it, how large it is and what is in it.
    Status,
    /// Check every message, count and result; exits with 1 when something is damaged.
    Verify,
    /// Copy the store to one new file, also while it is served. The file is a store itself.
    Backup {
        /// The file; one that exists is left as it is.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Copy everything to an empty store, and compare. The source must not be served.
    Copy {
        /// A data directory, sqlite:DIR or sqlite://FILE.
        #[arg(long, value_name = "URL")]
        from: String,
        /// The same; it is made where it is missing.
        #[arg(long, value_name = "URL")]
        to: String,
        /// Remove what an interrupted copy left in the target, and begin anew.
        #[arg(long)]
        restart: bool,
    },
    /// Bring the schema up to date, as a start does, and end.
    Migrate,
}

/// A command on a store that ended other than well, for the process to end with `code`.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Ended {
    pub(super) code: u8,
    text: String,
}

/// Something in the store is damaged, or was copied wrong.
const DAMAGED: u8 = 1;
/// None of the others; 2 is a wrong command line.
const FAILED: u8 = 3;
const IN_USE: u8 = 4;
/// Of a newer or an older release.
const OTHER_SCHEMA: u8 = 5;
const NO_STORE: u8 = 6;
const NO_PERMISSION: u8 = 7;

/// Does the command and prints what there is to say.
///
/// # Errors
/// `Ended`, unless the configuration cannot be read.
pub(super) fn run(given: &Given, command: Stores, json: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let done = match command {
        Stores::Copy { from, to, restart } => {
            let (from, to) = (named(given, from)?, named(given, to)?);
            runtime.block_on(copied(&from, &to, restart, json))
        }
        Stores::Status => runtime.block_on(status(&place(given)?, json)),
        Stores::Verify => runtime.block_on(verified(&place(given)?, json)),
        Stores::Backup { to } => runtime.block_on(backup(&place(given)?, &to, json)),
        Stores::Migrate => runtime.block_on(migrate(&place(given)?, json)),
    };
    done.map_err(Into::into)
}

/// `--store` alone names it; without it the configuration does.
fn place(given: &Given) -> anyhow::Result<Place> {
    if let Some(url) = &given.store
        && url != "sqlite"
        && url != "memory"
        && !url.starts_with("postgres")
    {
        return Place::parse(url).map_err(anyhow::Error::msg);
    }
    let config = config::load(given)?;
    if let config::StoreUrl::Postgres(shared) = &config.store {
        return shared.place();
    }
    match node::database(&config) {
        Some(path) => Ok(Place::Sqlite(path)),
        None => bail!("a store in memory is nowhere but in its server"),
    }
}

/// A text of the command line; the password of a database stands where `serve` finds it.
fn named(given: &Given, text: String) -> anyhow::Result<Place> {
    if !text.starts_with("postgres") {
        return Place::parse(&text).map_err(anyhow::Error::msg);
    }
    let given = Given {
        store: Some(text),
        ..given.clone()
    };
    place(&given)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn status(place: &Place, json: bool) -> Result<(), Ended> {
    let status = place.status().await?;
    let counts = match status.schema == status.schema_ours {
        true => {
            let store = place.look(false).await?;
            let counts = Counts::of(store.as_ref()).await;
            store.close().await;
            Some(counts.map_err(|error| failed(place, &error))?)
        }
        false => None,
    };
    match json {
        true => println!("{}", status_json(place, &status, counts.as_ref())),
        false => print!("{}", status_text(place, &status, counts.as_ref())),
    }
    Ok(())
}

fn status_json(place: &Place, status: &Status, counts: Option<&Counts>) -> Json {
    let counts = counts.map(|counts| {
        let jobs = counts.jobs.iter();
        let jobs = jobs.map(|(state, count)| (state.as_str().to_owned(), json!(count)));
        json!({
            "vhosts": counts.vhosts,
            "queues": counts.queues,
            "segments": counts.segments,
            "retained_segments": counts.retained_segments,
            "damaged_segments": counts.damaged_segments,
            "ready": counts.ready,
            "waiting": counts.waiting,
            "retained": counts.retained,
            "jobs": jobs.collect::<serde_json::Map<_, _>>(),
            "incomplete": counts.is_incomplete,
        })
    });
    json!({
        "store": place.to_string(),
        "engine": status.engine,
        "schema": status.schema,
        "schema_ours": status.schema_ours,
        "served_by": status.served_by,
        "bytes": status.bytes,
        "log_bytes": status.log_bytes,
        "counts": counts,
    })
}

fn status_text(place: &Place, status: &Status, counts: Option<&Counts>) -> String {
    let Status {
        engine,
        schema,
        schema_ours,
        ..
    } = status;
    let schema = match schema.cmp(schema_ours) {
        std::cmp::Ordering::Equal => format!("{schema}"),
        std::cmp::Ordering::Less => format!(
            "{schema}, older than this release's {schema_ours}: `leveret store migrate`, or a \
             start, brings it up to date"
        ),
        std::cmp::Ordering::Greater => {
            format!("{schema}, newer than this release's {schema_ours}: it takes the newer one")
        }
    };
    let served = match &status.served_by {
        Some(holder) => format!("process {holder}"),
        None => "nobody".to_owned(),
    };
    let mut lines = vec![
        ("store", format!("{place} ({engine})")),
        ("schema", schema),
        ("served by", served),
        (
            "size",
            format!("{} bytes, log {}", status.bytes, status.log_bytes),
        ),
    ];
    if let Some(counts) = counts {
        let jobs = counts.jobs.iter();
        let jobs = jobs.map(|(state, count)| format!("{count} {}", state.as_str()));
        let jobs: Vec<_> = jobs.collect();
        let plain = [
            ("vhosts", counts.vhosts),
            ("queues", counts.queues),
            ("ready", counts.ready),
            ("waiting", counts.waiting),
            ("retained", counts.retained),
            ("segments", counts.segments + counts.retained_segments),
            ("damaged segments", counts.damaged_segments),
        ];
        lines.extend(plain.map(|(name, count)| (name, count.to_string())));
        let jobs = match jobs.is_empty() {
            true => "0".to_owned(),
            false => jobs.join(", "),
        };
        lines.push(("jobs", jobs));
        if counts.is_incomplete {
            lines.push(("incomplete", copy::INCOMPLETE.to_owned()));
        }
    }
    let mut out = String::new();
    for (name, value) in lines {
        let _ = writeln!(out, "{name:16}  {value}");
    }
    out
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn verified(place: &Place, json: bool) -> Result<(), Ended> {
    let store = place.look(false).await?;
    let mut listing = print::Listing::new(json);
    let columns = COLUMNS.map(str::to_owned);
    let mut unheard = false;
    let mut tell = |finding: Finding| match json {
        true => unheard |= !matches!(listing.page(&columns, &[cells(&finding)]), Ok(true)),
        false => println!("{}", line(&finding)),
    };
    let done = verify::verify(store.as_ref(), &mut tell).await;
    store.close().await;
    if json && !unheard {
        let _ = listing.end(None);
    }
    let Verified {
        queues,
        segments,
        messages,
        waiting,
        jobs,
        results,
        damage,
        notes,
    } = done.map_err(|error| failed(place, &error))?;
    let looked = format!(
        "{queues} queues, {segments} segments, {waiting} waiting rows, {messages} messages, \
         {jobs} jobs, {results} results; {notes} notes"
    );
    match damage {
        0 if json => {}
        0 => println!("{place} is whole: {looked}"),
        _ => {
            return Err(Ended {
                code: DAMAGED,
                text: format!("{place} is damaged: {damage} findings in {looked}"),
            });
        }
    }
    Ok(())
}

const COLUMNS: [&str; 9] = [
    "severity", "noun", "vhost", "queue", "segment", "first", "last", "job", "detail",
];

fn severity(finding: &Finding) -> &'static str {
    match finding.damage {
        true => "damage",
        false => "note",
    }
}

fn cells(finding: &Finding) -> Vec<Json> {
    let (vhost, queue) = finding.queue.clone().unzip();
    let (first, last) = finding.seqs.unzip();
    vec![
        severity(finding).into(),
        finding.noun.into(),
        vhost.into(),
        queue.into(),
        finding.segment.map(|id| id.0).into(),
        first.into(),
        last.into(),
        finding.job.map(|id| id.to_string()).into(),
        finding.detail.as_str().into(),
    ]
}

fn line(finding: &Finding) -> String {
    let mut out = format!("{}: {}", severity(finding), finding.noun);
    if let Some(id) = finding.segment {
        let _ = write!(out, " {}", id.0);
    }
    if let Some(id) = finding.job {
        let _ = write!(out, " {id}");
    }
    if let Some((first, last)) = finding.seqs {
        let _ = write!(out, ", seqs {first} to {last}");
    }
    if let Some((vhost, name)) = &finding.queue {
        let _ = write!(out, ", queue '{name}' in vhost '{vhost}'");
    }
    let _ = write!(out, ": {}", finding.detail);
    out.replace(char::is_control, "?")
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn backup(place: &Place, to: &std::path::Path, json: bool) -> Result<(), Ended> {
    let bytes = place.backup(to).await?;
    let to = to.display().to_string();
    match json {
        true => println!("{}", json!({ "file": to, "bytes": bytes })),
        false => println!("{to}: {bytes} bytes"),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn migrate(place: &Place, json: bool) -> Result<(), Ended> {
    let (from, to) = place.migrate().await?;
    match json {
        true => println!("{}", json!({ "from": from, "to": to })),
        false if from == to => println!("{place}: schema {to}, nothing to do"),
        false => println!("{place}: schema {from} to {to}"),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn copied(from: &Place, to: &Place, restart: bool, json: bool) -> Result<(), Ended> {
    let source = from.look(true).await?;
    if restart && to.exists() {
        let target = to.look(true).await?;
        let image = target.image().await;
        target.close().await;
        if copy::is_incomplete(&image.map_err(|error| failed(to, &error))?) {
            to.discard().await?;
        }
    }
    let target = to.open().await?;
    let done = copy::copy(source.as_ref(), target.as_ref()).await;
    target.close().await;
    source.close().await;
    let done = done.map_err(|error| Ended {
        code: match error {
            copy::Error::Differs { .. } => DAMAGED,
            _ => FAILED,
        },
        text: format!("{from} to {to}: {error}"),
    })?;
    match json {
        true => println!("{}", copied_json(&done)),
        false => println!("{from} to {to}, compared: {}", copied_text(&done)),
    }
    Ok(())
}

fn copied_json(done: &Copied) -> Json {
    json!({
        "definitions": done.definitions,
        "queues": done.queues,
        "segments": done.segments,
        "messages": done.messages,
        "waiting": done.waiting,
        "jobs": done.jobs,
        "results": done.results,
        "claims": done.claims,
        "fires": done.fires,
        "damaged_segments": done.damaged_segments,
        "bytes": done.bytes,
    })
}

fn copied_text(done: &Copied) -> String {
    format!(
        "{} definitions, {} queues, {} segments, {} messages, {} waiting rows, {} jobs, \
         {} results, {} keys, {} fires, {} damaged segments, {} bytes",
        done.definitions,
        done.queues,
        done.segments,
        done.messages,
        done.waiting,
        done.jobs,
        done.results,
        done.claims,
        done.fires,
        done.damaged_segments,
        done.bytes
    )
}

fn failed(place: &Place, error: &impl std::fmt::Display) -> Ended {
    Ended {
        code: FAILED,
        text: format!("{place}: {error}"),
    }
}

impl From<place::OpenError> for Ended {
    fn from(error: place::OpenError) -> Self {
        let code = match &error {
            place::OpenError::Sqlite(error) => code_of_sqlite(error),
            place::OpenError::Postgres(error) => code_of_postgres(error),
            place::OpenError::Elsewhere(_) => FAILED,
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

fn code_of_sqlite(error: &sqlite::OpenError) -> u8 {
    use sqlite::OpenError;
    match error {
        OpenError::Locked { .. } => IN_USE,
        OpenError::Newer { .. } | OpenError::Older { .. } | OpenError::Changed { .. } => {
            OTHER_SCHEMA
        }
        OpenError::Missing { .. } | OpenError::NotADatabase { .. } => NO_STORE,
        OpenError::Damaged { .. } => DAMAGED,
        OpenError::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => NO_PERMISSION,
            std::io::ErrorKind::NotFound => NO_STORE,
            _ => FAILED,
        },
        OpenError::Exists { .. } | OpenError::OldSqlite { .. } | OpenError::Other { .. } => FAILED,
    }
}

fn code_of_postgres(error: &postgres::OpenError) -> u8 {
    use postgres::OpenError;
    match error {
        OpenError::Owned { .. } => IN_USE,
        OpenError::Schema { .. } | OpenError::Older { .. } => OTHER_SCHEMA,
        OpenError::Missing { .. } => NO_STORE,
        OpenError::Unusable(_) | OpenError::Cluster { .. } | OpenError::Other { .. } => FAILED,
    }
}
