//! Where the server is, and how to get in: a URL, a password, TLS.
//!
//! Keeps: a password is read anew for each connection, so that it can be changed; it is in no name
//! and no error. TLS is asked for unless the server is on this machine, and then its certificate
//! must be right.
//! Never: falls back to no TLS.
//! In: `session` connects.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::session;
use crate::clock;

/// Where most systems keep the certificates that they trust.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// A database, and how its server is reached.
#[derive(Clone)]
pub struct Target {
    config: Config,
    password_file: Option<PathBuf>,
    tls: Option<Tls>,
    application: String,
    schema: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Tls {
    roots: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Why a URL names no database.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("not a PostgreSQL URL: {0}")]
    Malformed(String),
    #[error("'{0}' names no database: postgres://user@host:port/database")]
    NoDatabase(String),
    #[error("sslmode '{0}' is not known: disable, require, verify-ca and verify-full are")]
    SslMode(String),
    #[error("sslcert and sslkey go together")]
    HalfCertificate,
    #[error("schema '{0}' is no name: a letter, then letters, digits and _, at most 63")]
    Schema(String),
}

impl Target {
    /// `postgres://user@host:port/database`, with libpq's parameters, also `sslmode`,
    /// `sslrootcert`, `sslcert` and `sslkey`, and `schema` for tables elsewhere than in `public`. A
    /// password that stands in the URL is used when there is none here.
    ///
    /// # Errors
    /// The URL is malformed, or a parameter is not known.
    pub fn parse(
        url: &str,
        password: Option<&str>,
        password_file: Option<&Path>,
    ) -> Result<Self, UrlError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut tls, mut mode, mut schema) = (Tls::default(), None, None);
        let mut rest: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "sslmode" => mode = Some(value),
                "sslrootcert" => tls.roots = Some(unescaped(value).into()),
                "sslcert" => tls.certificate = Some(unescaped(value).into()),
                "sslkey" => tls.key = Some(unescaped(value).into()),
                "schema" => schema = Some(unescaped(value)),
                _ => rest.push(pair),
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(UrlError::HalfCertificate);
        }
        let plain = match rest[..] {
            [] => base.to_owned(),
            _ => format!("{base}?{}", rest.join("&")),
        };
        let mut config = Config::from_str(&plain)
            .map_err(|error| UrlError::Malformed(session::describe(&error)))?;
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(UrlError::NoDatabase(name(&config)));
        }
        if let Some(password) = password {
            config.password(password);
        }
        if let Some(schema) = &schema {
            if !is_name(schema) {
                return Err(UrlError::Schema(schema.clone()));
            }
            let before = config.get_options().unwrap_or_default();
            config.options(format!("{before} -c search_path={schema}").trim());
        }
        let wants_tls = match mode {
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            None => !is_here(&config),
            Some(other) => return Err(UrlError::SslMode(other.to_owned())),
        };
        config.ssl_mode(match wants_tls {
            true => SslMode::Require,
            false => SslMode::Disable,
        });
        // Not the process alone: in containers all are number 1.
        let [a, b, c, d, ..] = clock::random_bytes();
        let application = format!(
            "leveret {} {:08x}",
            std::process::id(),
            u32::from_be_bytes([a, b, c, d])
        );
        config.application_name(&application);
        Ok(Self {
            config,
            password_file: password_file.map(Path::to_owned),
            tls: wants_tls.then_some(tls),
            application,
            schema,
        })
    }

    /// User, hosts and database, for people.
    pub fn name(&self) -> String {
        name(&self.config)
    }

    /// As the server lists this process's sessions.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// Where the tables are, if not in `public`.
    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    pub(super) fn config(&self) -> Result<Config, String> {
        let mut config = self.config.clone();
        if let Some(path) = &self.password_file {
            let read = std::fs::read_to_string(path);
            let text =
                read.map_err(|error| format!("password file {}: {error}", path.display()))?;
            config.password(text.trim_end_matches(['\r', '\n']));
        }
        Ok(config)
    }

    pub(super) async fn connect(
        &self,
        config: &Config,
    ) -> Result<(Client, JoinHandle<()>), String> {
        let failed = |error: tokio_postgres::Error| session::describe(&error);
        let Some(tls) = &self.tls else {
            let (client, link) = config.connect(NoTls).await.map_err(failed)?;
            return Ok((client, tokio::spawn(async move { ended(link.await) })));
        };
        let connector = MakeRustlsConnect::new(tls.client()?);
        let (client, link) = config.connect(connector).await.map_err(|error| {
            format!(
                "{} (TLS is asked for; sslmode=disable goes without)",
                failed(error)
            )
        })?;
        Ok((client, tokio::spawn(async move { ended(link.await) })))
    }
}

fn ended(how: Result<(), tokio_postgres::Error>) {
    if let Err(error) = how {
        tracing::debug!(
            error = session::describe(&error),
            "a database connection ended"
        );
    }
}

impl Tls {
    fn client(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        let system = || {
            SYSTEM_ROOTS
                .iter()
                .map(Path::new)
                .find(|path| path.exists())
        };
        let Some(file) = self.roots.as_deref().or_else(system) else {
            return Err("no certificates to trust: name them by sslrootcert".into());
        };
        let shown = file.display();
        let certificates = CertificateDer::pem_file_iter(file);
        for found in certificates.map_err(|error| format!("{shown}: {error}"))? {
            let found = found.map_err(|error| format!("{shown}: {error}"))?;
            // Systems trust some that the library does not take.
            if let Err(error) = roots.add(found)
                && self.roots.is_some()
            {
                return Err(format!("{shown}: {error}"));
            }
        }
        if roots.is_empty() {
            return Err(format!("{shown} holds no certificate"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(builder.with_no_client_auth());
        };
        let shown = certificate.display();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
            .map_err(|error| format!("{shown}: {error}"))?
            .collect();
        let chain = chain.map_err(|error| format!("{shown}: {error}"))?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("{}: {error}", key.display()))?;
        let built = builder.with_client_auth_cert(chain, key);
        built.map_err(|error| format!("{shown}: {error}"))
    }
}

fn name(config: &Config) -> String {
    let hosts = config
        .get_hosts()
        .iter()
        .zip(config.get_ports().iter().cycle());
    let hosts: Vec<String> = hosts
        .map(|(host, port)| match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        })
        .collect();
    let hosts = match hosts[..] {
        [] => "localhost".to_owned(),
        _ => hosts.join(","),
    };
    let user = config.get_user().map(|user| format!("{user}@"));
    let database = config.get_dbname().unwrap_or_default();
    format!("postgres://{}{hosts}/{database}", user.unwrap_or_default())
}

/// True when the server can only be on this machine.
fn is_here(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            let address: Result<std::net::IpAddr, _> = name.parse();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
    })
}

/// True for what needs no quotes.
fn is_name(text: &str) -> bool {
    let starts = text.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_');
    let all =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    starts && text.len() <= NAME_MAX && text.chars().all(all)
}

/// PostgreSQL cuts longer ones off.
const NAME_MAX: usize = 63;

/// `%2F` and the like as they are meant.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        let digits = rest.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                bytes = &rest[2..];
            }
            None => out.push(*first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parsed(url: &str) -> Result<Target, UrlError> {
        Target::parse(url, None, None)
    }

    #[test]
    fn a_name_holds_no_password() {
        let target = parsed("postgres://me:secret@db.example:6000/work?connect_timeout=3").unwrap();
        assert_eq!(target.name(), "postgres://me@db.example:6000/work");
        let two = parsed("postgres://me@a,b:6000/work?target_session_attrs=read-write").unwrap();
        assert_eq!(two.name(), "postgres://me@a:5432,b:6000/work");
    }

    #[test]
    fn tls_is_asked_for_unless_the_server_is_here() {
        for (url, tls) in [
            ("postgres://me@db.example/work", true),
            ("postgres://me@db.example/work?sslmode=disable", false),
            ("postgres://me@127.0.0.1/work", false),
            (
                "postgres://me@localhost/work?sslmode=verify-full&sslrootcert=/x%2Fy.pem",
                true,
            ),
            ("postgres://me@%2Frun%2Fpostgresql/work", false),
        ] {
            assert_eq!(parsed(url).unwrap().tls.is_some(), tls, "{url}");
        }
        let named = parsed("postgres://me@h/w?sslrootcert=/x%2Fy.pem").unwrap();
        assert_eq!(named.tls.unwrap().roots, Some("/x/y.pem".into()));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (url, words) in [
            ("postgres://me@h", "names no database"),
            ("postgres://me@h/w?sslmode=prefer", "sslmode 'prefer'"),
            ("postgres://me@h/w?sslcert=/c", "go together"),
            ("postgres://me@h/w?colour=blue", "colour"),
            ("postgres://me@h/w?schema=a%20b", "schema 'a b' is no name"),
            ("postgres://me@h:port/w", "not a PostgreSQL URL"),
        ] {
            let error = parsed(url).err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|text| text.contains(words)),
                "{url}: {error:?}"
            );
        }
    }

    #[test]
    fn a_password_is_read_when_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let target = Target::parse("postgres://me@h/w", None, Some(&file)).unwrap();
        assert!(target.config().unwrap_err().contains("password file"));
        std::fs::write(&file, "pass word\n").unwrap();
        assert_eq!(
            target.config().unwrap().get_password(),
            Some(&b"pass word"[..])
        );
    }
}
