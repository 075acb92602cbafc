//! The node's options: file < environment < flags, checked before anything is stored.
//!
//! Keeps: every error names file, line and reason; an unknown key names the nearest known one.
//! Never: opens a store or a socket.
//! In: `cli` (which brings the environment and the flags) and `node`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amqp::field::{Table, Value};
use amqp::properties::Properties;
use jiff::Timestamp;
use scheduler::cron::{self, CatchUp, Dialect, Expression, Gap, Overlap, Plan};
use scheduler::ticker::{Encode, Schedule};
use serde::Deserialize;
use store::sql::place::Place;
use store::sql::postgres::{self, UrlError};
use toml::Spanned;

pub use network::{Alarm, Amount, Auth, Listen, Listener, Mechanism, NameFrom, Tls};
use network::{AlarmSection, AuthSection, ListenSection, TlsSection};

mod network;

/// What a node runs with, all sources merged.
pub struct Config {
    pub listen: Listen,
    pub tls: Option<Tls>,
    pub auth: Auth,
    pub alarm: Alarm,
    pub data_dir: PathBuf,
    pub store: StoreUrl,
    /// The work rules hold for every queue, not only for those that ask for them.
    pub work_rules_all: bool,
    /// Until an unacked delivery of a quorum queue closes its channel, ms; none for never.
    pub consumer_timeout_ms: Option<u64>,
    pub log: String,
    pub log_json: bool,
    /// RabbitMQ's definitions.json, taken in at each start.
    pub load_definitions: Option<PathBuf>,
    pub calls: Calls,
    pub schedules: Vec<Schedule>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// Which engine keeps the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `leveret.db` in the data directory, or the file named.
    Sqlite(Option<PathBuf>),
    /// Nothing survives a restart.
    Memory,
    /// A PostgreSQL that several nodes may ask for; one of them owns it at a time.
    Postgres(Box<Shared>),
}

/// A store that nodes share.
#[derive(Clone, PartialEq, Eq)]
pub struct Shared {
    pub url: String,
    pub password: Option<String>,
    /// Read anew for each connection.
    pub password_file: Option<PathBuf>,
    /// An owner that was not heard of for so long is no owner any more.
    pub lease: Duration,
    /// Whose store it is.
    pub cluster_name: String,
    /// This node, for people.
    pub node_name: String,
}

impl Shared {
    /// # Errors
    /// What is wrong with the URL; the password is in no text.
    pub fn target(&self) -> Result<postgres::Target, UrlError> {
        let file = self.password_file.as_deref();
        postgres::Target::parse(&self.url, self.password.as_deref(), file)
    }
}

impl Shared {
    /// Where it is, and how this node owns it.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn place(&self) -> anyhow::Result<Place> {
        let options = postgres::Options {
            lease: self.lease,
            node: self.node_name.clone(),
            cluster: self.cluster_name.clone(),
            ..postgres::Options::default()
        };
        Ok(Place::Postgres(Box::new(self.target()?), options))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.target().map(|target| target.name());
        f.write_str(&name.unwrap_or_else(|_| "a malformed URL".into()))
    }
}

/// Deferred calls over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Deadline of a call that sets none.
    pub timeout: Duration,
    /// How long a result can be fetched.
    pub result_ttl: Duration,
    /// How long an idempotency key returns the same job.
    pub key_ttl: Duration,
    /// Largest request body, bytes.
    pub body_bytes_max: u64,
}

/// Flags and environment; each one given replaces what the file says.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub file: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub amqp_listen: Option<SocketAddr>,
    pub http_listen: Option<SocketAddr>,
    pub store: Option<String>,
    pub store_password: Option<String>,
    pub store_password_file: Option<PathBuf>,
    pub log: Option<String>,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{file}:{line}: {reason}")]
    At {
        file: String,
        line: usize,
        reason: String,
    },
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("{0}")]
    Flag(String),
}

/// Read when no `--config` is given and it exists.
pub const DEFAULT_FILE: &str = "leveret.toml";

/// Reads the file, lays flags and environment over it and checks all of it.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(given: &Given) -> Result<Config, Error> {
    let default = Path::new(DEFAULT_FILE);
    let file = given
        .file
        .clone()
        .or_else(|| default.exists().then(|| default.to_owned()));
    let Some(file) = file else {
        return merge(given, File::default(), Vec::new(), None);
    };
    let name = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|error| Error::File {
        file: name.clone(),
        reason: error.to_string(),
    })?;
    let mut config = read(&name, &text, given)?;
    config.file = Some(file);
    Ok(config)
}

/// The same of a text that has been read; `name` is the file's, for errors.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(name: &str, text: &str, given: &Given) -> Result<Config, Error> {
    let source = Source { name, text };
    let mut parsed = source.parse()?;
    let schedules = source.schedules(std::mem::take(&mut parsed.schedule))?;
    merge(given, parsed, schedules, None)
}

fn merge(
    given: &Given,
    file: File,
    schedules: Vec<Schedule>,
    path: Option<PathBuf>,
) -> Result<Config, Error> {
    let store = given.store.clone().or_else(|| file.store.url.clone());
    let store = store_url(store.as_deref().unwrap_or("sqlite"), given, &file.store)?;
    let calls = file.calls;
    let listen = file.listen.merge(given.amqp_listen, given.http_listen);
    let tls = file.tls.merge(&listen)?;
    Ok(Config {
        auth: file.auth.merge(tls.as_ref())?,
        alarm: file.alarm.merge(),
        listen,
        tls,
        data_dir: given
            .data_dir
            .clone()
            .or(file.store.data_dir)
            .unwrap_or_else(|| PathBuf::from("./leveret-data")),
        store,
        work_rules_all: file.store.work_rules == WorkRules::All,
        consumer_timeout_ms: match file.store.consumer_timeout {
            None => Some(store::CONSUMER_TIMEOUT_MS),
            Some(Patience(span)) => {
                span.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
            }
        },
        log: given
            .log
            .clone()
            .or(file.log.level)
            .unwrap_or_else(|| "info".into()),
        load_definitions: file.load_definitions,
        log_json: file.log.format == LogFormat::Json,
        calls: Calls {
            timeout: calls.timeout.map_or(HOUR, |span| span.0),
            result_ttl: calls.result_ttl.map_or(24 * HOUR, |span| span.0),
            key_ttl: calls.key_ttl.map_or(24 * HOUR, |span| span.0),
            body_bytes_max: calls.body_max.map_or(1 << 20, |size| size.0),
        },
        schedules,
        file: path,
    })
}

/// `sqlite`, `sqlite://FILE`, `postgres://…` or `memory`.
fn store_url(text: &str, given: &Given, section: &StoreSection) -> Result<StoreUrl, Error> {
    match text.split_once("://") {
        None if text == "sqlite" => Ok(StoreUrl::Sqlite(None)),
        None if text == "memory" => Ok(StoreUrl::Memory),
        Some(("sqlite", path)) if !path.is_empty() => Ok(StoreUrl::Sqlite(Some(path.into()))),
        Some(("postgres" | "postgresql", _)) => shared(text, given, section),
        _ => Err(Error::Flag(format!(
            "store: {text} is not a store; write sqlite, sqlite://FILE, postgres://… or memory"
        ))),
    }
}

fn shared(url: &str, given: &Given, section: &StoreSection) -> Result<StoreUrl, Error> {
    let file = given.store_password_file.clone();
    let lease = section.lease.map_or(LEASE, |span| span.0);
    if !LEASES.contains(&lease) {
        let reason = format!("store: lease is {lease:?}; it may be 1s to 60s");
        return Err(Error::Flag(reason));
    }
    let host = || {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    };
    let shared = Shared {
        url: url.to_owned(),
        password: given.store_password.clone(),
        password_file: file.or_else(|| section.password_file.clone()),
        lease,
        cluster_name: section
            .cluster_name
            .clone()
            .unwrap_or_else(|| "leveret".into()),
        node_name: section.node_name.clone().unwrap_or_else(host),
    };
    let wrong = |error: UrlError| Error::Flag(format!("store: {error}"));
    shared.target().map_err(wrong)?;
    Ok(StoreUrl::Postgres(Box::new(shared)))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    load_definitions: Option<PathBuf>,
    listen: ListenSection,
    tls: TlsSection,
    auth: AuthSection,
    alarm: AlarmSection,
    store: StoreSection,
    log: LogSection,
    calls: CallsSection,
    schedule: Vec<ScheduleSection>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StoreSection {
    url: Option<String>,
    data_dir: Option<PathBuf>,
    work_rules: WorkRules,
    consumer_timeout: Option<Patience>,
    password_file: Option<PathBuf>,
    lease: Option<Span>,
    cluster_name: Option<String>,
    node_name: Option<String>,
}

/// A span, or `never`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Patience(Option<Span>);

impl TryFrom<String> for Patience {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "never" => Ok(Self(None)),
            text => text.parse().map(|span| Self(Some(span))),
        }
    }
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum WorkRules {
    #[default]
    Declared,
    All,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogSection {
    level: Option<String>,
    format: LogFormat,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CallsSection {
    timeout: Option<Span>,
    result_ttl: Option<Span>,
    key_ttl: Option<Span>,
    body_max: Option<ByteSize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleSection {
    name: Spanned<String>,
    cron: Spanned<String>,
    zone: Option<Spanned<String>>,
    target: Spanned<Target>,
    #[serde(default)]
    body: String,
    content_type: Option<Spanned<String>>,
    #[serde(default)]
    headers: BTreeMap<String, Header>,
    #[serde(default = "default_vhost")]
    vhost: String,
    #[serde(default)]
    dialect: DialectName,
    dst_gap: Option<GapName>,
    dst_overlap: Option<OverlapName>,
    #[serde(default)]
    catch_up: CatchUpName,
    catch_up_window: Option<Span>,
    catch_up_max: Option<u32>,
}

fn default_vhost() -> String {
    "/".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    queue: Option<String>,
    exchange: Option<String>,
    routing_key: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Header {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

#[derive(Default, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum DialectName {
    #[default]
    Posix,
    Quartz,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum GapName {
    Next,
    Skip,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum OverlapName {
    First,
    Last,
    Both,
}

#[derive(Default, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum CatchUpName {
    None,
    #[default]
    Latest,
    All,
}

/// A span of time as in `90s`, `1h30m`, `500ms`, `2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text} is not a span of time; write it as in 90s, 1h30m or 2d");
        let (mut rest, mut total) = (text.trim(), Duration::ZERO);
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(refused)?;
            let count: u32 = rest[..digits].parse().map_err(|_| refused())?;
            rest = &rest[digits..];
            let end = rest
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(rest.len());
            let unit = match &rest[..end] {
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => HOUR,
                "d" => 24 * HOUR,
                _ => return Err(refused()),
            };
            total = unit
                .checked_mul(count)
                .and_then(|s| total.checked_add(s))
                .ok_or_else(refused)?;
            rest = &rest[end..];
        }
        let sound = !total.is_zero() && total <= SPAN_MAX;
        sound
            .then_some(Self(total))
            .ok_or_else(|| format!("{text} is not within 1ms and 365d"))
    }
}

/// A number of bytes as in `65536`, `"64 KiB"`, `"1MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ByteText")]
struct ByteSize(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum ByteText {
    Number(u64),
    Text(String),
}

impl TryFrom<ByteText> for ByteSize {
    type Error = String;

    fn try_from(text: ByteText) -> Result<Self, String> {
        let text = match text {
            ByteText::Number(bytes) => return Ok(Self(bytes)),
            ByteText::Text(text) => text,
        };
        let refused = || format!("{text} is not a size; write it as in 65536, 64KiB or 1MiB");
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let count: u64 = text[..end].parse().map_err(|_| refused())?;
        let unit: u64 = match text[end..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(refused()),
        };
        count.checked_mul(unit).map(Self).ok_or_else(refused)
    }
}

/// A file's name and text, to say where something is.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn parse(&self) -> Result<File, Error> {
        toml::from_str(self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.at(at, nearest(error.message()))
        })
    }

    fn at(&self, offset: usize, reason: impl Into<String>) -> Error {
        let before = self.text.as_bytes().iter().take(offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Error::At {
            file: self.name.into(),
            line,
            reason: reason.into(),
        }
    }

    fn schedules(&self, sections: Vec<ScheduleSection>) -> Result<Vec<Schedule>, Error> {
        let mut names = BTreeSet::new();
        let mut schedules = Vec::with_capacity(sections.len());
        for section in sections {
            let (name, at) = (section.name.get_ref().clone(), section.name.span().start);
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(self.at(at, format!("name: write 1 to {NAME_BYTES_MAX} bytes")));
            }
            if !names.insert(name.clone()) {
                return Err(self.at(at, format!("name: {name} is used by two schedules")));
            }
            schedules.push(self.schedule(name, section)?);
        }
        Ok(schedules)
    }

    fn schedule(&self, name: String, section: ScheduleSection) -> Result<Schedule, Error> {
        let plan = self.plan(&name, &section)?;
        let (exchange, routing_key) = self.target(&section.target)?;
        if let Some(kind) = section
            .content_type
            .as_ref()
            .filter(|k| k.get_ref().len() > 255)
        {
            return Err(self.at(kind.span().start, "content_type: at most 255 bytes"));
        }
        let spec_hash = spec_hash(&plan, section.dialect);
        let encode = encoder(&section);
        let (vhost, body) = (section.vhost, section.body.into_bytes());
        Ok(Schedule {
            name,
            plan,
            vhost,
            exchange,
            routing_key,
            body,
            encode,
            spec_hash,
        })
    }

    fn plan(&self, name: &str, section: &ScheduleSection) -> Result<Plan, Error> {
        let dialect = match section.dialect {
            DialectName::Posix => Dialect::Posix,
            DialectName::Quartz => Dialect::Quartz,
        };
        let (cron, at) = (section.cron.get_ref(), section.cron.span().start);
        let expression = Expression::parse_as(cron, name, dialect)
            .map_err(|invalid| self.at(at, invalid.to_string()))?;
        let zone = match &section.zone {
            None => jiff::tz::TimeZone::UTC,
            Some(zone) => cron::find_zone(zone.get_ref())
                .map_err(|invalid| self.at(zone.span().start, invalid.to_string()))?,
        };
        let mut plan = Plan::new(expression, zone);
        if let Some(gap) = section.dst_gap {
            plan.rules.gap = match gap {
                GapName::Next => Gap::Next,
                GapName::Skip => Gap::Skip,
            };
        }
        if let Some(overlap) = section.dst_overlap {
            plan.rules.overlap = match overlap {
                OverlapName::First => Overlap::First,
                OverlapName::Last => Overlap::Last,
                OverlapName::Both => Overlap::Both,
            };
        }
        plan.catch_up = match section.catch_up {
            CatchUpName::None => CatchUp::None,
            CatchUpName::Latest => CatchUp::Latest,
            CatchUpName::All => CatchUp::All {
                max: section.catch_up_max.unwrap_or(100),
            },
        };
        plan.window = section.catch_up_window.map_or(plan.window, |span| span.0);
        Ok(plan)
    }

    /// Exchange and routing key.
    fn target(&self, target: &Spanned<Target>) -> Result<(String, String), Error> {
        let refused = |reason: &str| Err(self.at(target.span().start, format!("target: {reason}")));
        let Target {
            queue,
            exchange,
            routing_key,
        } = target.get_ref();
        let texts = [queue, exchange, routing_key];
        if texts.into_iter().flatten().any(|text| text.len() > 255) {
            return refused("names have at most 255 bytes");
        }
        match (queue, exchange) {
            (Some(queue), None) if routing_key.is_none() && !queue.is_empty() => {
                Ok((String::new(), queue.clone()))
            }
            (None, Some(exchange)) if !exchange.is_empty() => {
                Ok((exchange.clone(), routing_key.clone().unwrap_or_default()))
            }
            _ => refused("write { queue = \"…\" } or { exchange = \"…\", routing_key = \"…\" }"),
        }
    }
}

/// The message without its list of all keys; for an unknown key, with the nearest known one.
fn nearest(message: &str) -> String {
    let Some((unknown, rest)) = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
    else {
        return message.trim().replace('\n', " ");
    };
    let near = rest
        .split('`')
        .skip(1)
        .step_by(2)
        .min_by_key(|k| strsim::damerau_levenshtein(k, unknown));
    match near {
        Some(near) => format!("{unknown} is not a known key; did you mean {near}?"),
        None => format!("{unknown} is not a known key"),
    }
}

/// FNV-1a over what decides the nominal times: equal on every machine and in every release.
fn spec_hash(plan: &Plan, dialect: DialectName) -> u64 {
    let dialect = match dialect {
        DialectName::Posix => "posix",
        DialectName::Quartz => "quartz",
    };
    let zone = plan.zone.iana_name().unwrap_or("UTC");
    let text = format!(
        "{}\0{zone}\0{:?}\0{dialect}",
        plan.expression.source(),
        plan.rules
    );
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What a tick carries besides its body; `docs/guide/schedules.md` lists the headers.
fn encoder(section: &ScheduleSection) -> Encode {
    let own = section.headers.clone();
    let content_type = section
        .content_type
        .as_ref()
        .map(|text| text.get_ref().clone().into_bytes());
    Arc::new(move |name: &str, nominal: Timestamp, fired: Timestamp| {
        let mut headers = Table::default();
        for (key, value) in &own {
            let value = match value {
                Header::Bool(value) => Value::Bool(*value),
                Header::Integer(value) => Value::I64(*value),
                Header::Float(value) => Value::F64(value.to_bits()),
                Header::Text(value) => Value::text(value),
            };
            headers.insert(key, value);
        }
        headers.insert("x-schedule", Value::text(name));
        headers.insert("x-scheduled-time", Value::text(&nominal.to_string()));
        headers.insert("x-fired-at", Value::text(&fired.to_string()));
        let properties = Properties {
            content_type: content_type.clone(),
            headers: Some(headers),
            delivery_mode: Some(2),
            timestamp: u64::try_from(fired.as_second()).ok(),
            ..Properties::default()
        };
        properties.encode()
    })
}

const HOUR: Duration = Duration::from_secs(3_600);
/// A takeover comes within twice this; a server's restart takes less.
const LEASE: Duration = Duration::from_secs(5);
/// Shorter ones end in a busy moment; longer ones leave a cluster without an owner for minutes.
const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const SPAN_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
