//! `[listen]`, `[tls]`, `[auth]` and `[alarm]`: who may connect, how, and when publishers wait.
//!
//! Keeps: what the sections mean, with their defaults and reasons.
//! Never: opens a socket or reads a certificate; `node` and `tls` do.
//! In: `config`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use super::{ByteSize, ByteText, Error};

/// Where each protocol is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub amqp: Vec<SocketAddr>,
    pub amqps: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    /// Listeners that only a proxy reaches: each connection begins with a PROXY header.
    pub proxied: Vec<Listener>,
    /// AMQP connections past connection.open; more are refused with 530.
    pub connections_max: Option<usize>,
}

/// One of the four listeners, by its name in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listener {
    Amqp,
    Amqps,
    Http,
    Https,
}

/// Certificate and key of this server, and which clients it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: Option<PathBuf>,
    /// Asks clients for a certificate and checks it.
    pub verify_peer: bool,
    /// Refuses a client without one.
    pub fail_if_no_peer_cert: bool,
}

/// How clients may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub mechanisms: Vec<Mechanism>,
    /// Whom ANONYMOUS logs in; none: it is not offered.
    pub anonymous_user: Option<String>,
    /// What of a client's certificate is its user.
    pub login_from: NameFrom,
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mechanism {
    Plain,
    Amqplain,
    External,
}

/// The part of a certificate's subject that names a user, in RabbitMQ's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameFrom {
    #[default]
    CommonName,
    DistinguishedName,
}

/// When publishers must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Of the process, above which nothing more is taken.
    pub memory: Amount,
    /// Free bytes of the database's file system below which nothing more is taken.
    pub disk_free: Option<u64>,
}

/// Bytes, or a share of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ByteText")]
pub enum Amount {
    Bytes(u64),
    Percent(u8),
}

impl Listen {
    pub fn of(&self, listener: Listener) -> &[SocketAddr] {
        match listener {
            Listener::Amqp => &self.amqp,
            Listener::Amqps => &self.amqps,
            Listener::Http => &self.http,
            Listener::Https => &self.https,
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mechanisms: vec![Mechanism::Plain, Mechanism::Amqplain],
            anonymous_user: None,
            login_from: NameFrom::CommonName,
        }
    }
}

impl Auth {
    /// The list of connection.start. A certificate exists on TLS only.
    pub fn offered(&self, tls: bool) -> String {
        let names = self.mechanisms.iter().filter_map(|one| match one {
            Mechanism::Plain => Some("PLAIN"),
            Mechanism::Amqplain => Some("AMQPLAIN"),
            Mechanism::External => tls.then_some("EXTERNAL"),
        });
        let anonymous = self.anonymous_user.is_some().then_some("ANONYMOUS");
        names.chain(anonymous).collect::<Vec<_>>().join(" ")
    }
}

impl Amount {
    /// In bytes, of `whole`.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => whole / 100 * u64::from(percent),
        }
    }
}

impl std::str::FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ByteText::Text(text.to_owned()).try_into()
    }
}

impl TryFrom<ByteText> for Amount {
    type Error = String;

    fn try_from(text: ByteText) -> Result<Self, String> {
        if let ByteText::Text(share) = &text
            && let Some(percent) = share.trim().strip_suffix('%')
        {
            let percent = percent
                .trim()
                .parse()
                .ok()
                .filter(|p| (1..=100).contains(p));
            return percent
                .map(Self::Percent)
                .ok_or_else(|| format!("{share} is no share; write it as in 60%"));
        }
        ByteSize::try_from(text).map(|size| Self::Bytes(size.0))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenSection {
    amqp: Option<Addresses>,
    amqps: Option<Addresses>,
    http: Option<Addresses>,
    https: Option<Addresses>,
    proxy_protocol: Vec<Listener>,
    connections_max: Option<std::num::NonZeroUsize>,
}

impl ListenSection {
    /// `amqp` and `http` from flags replace what the file says.
    pub(super) fn merge(self, amqp: Option<SocketAddr>, http: Option<SocketAddr>) -> Listen {
        let flag = |given: Option<SocketAddr>, file: Option<Addresses>, port| match (given, file) {
            (Some(address), _) => vec![address],
            (None, Some(addresses)) => addresses.0,
            (None, None) => this_machine(port),
        };
        let only = |file: Option<Addresses>| file.map(|addresses| addresses.0).unwrap_or_default();
        Listen {
            amqp: flag(amqp, self.amqp, 5672),
            amqps: only(self.amqps),
            http: flag(http, self.http, 15672),
            https: only(self.https),
            proxied: self.proxy_protocol,
            connections_max: self.connections_max.map(Into::into),
        }
    }
}

/// Both loopback addresses: `localhost` means either, by the client's resolver.
fn this_machine(port: u16) -> Vec<SocketAddr> {
    vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ]
}

/// One address or a list of them.
#[derive(Deserialize)]
#[serde(try_from = "AddressText")]
struct Addresses(Vec<SocketAddr>);

#[derive(Deserialize)]
#[serde(untagged)]
enum AddressText {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<AddressText> for Addresses {
    type Error = String;

    fn try_from(text: AddressText) -> Result<Self, String> {
        let texts = match text {
            AddressText::One(text) => vec![text],
            AddressText::Many(texts) => texts,
        };
        let read = |text: String| {
            let address = text.trim().parse();
            address.map_err(|_| {
                format!("{text} is no address; write it as in 127.0.0.1:5672 or [::1]:5672")
            })
        };
        texts
            .into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsSection {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
    verify_peer: bool,
    fail_if_no_peer_cert: bool,
}

impl TlsSection {
    /// # Errors
    /// Half of a pair, or a check without what it needs.
    pub(super) fn merge(self, listen: &Listen) -> Result<Option<Tls>, Error> {
        let refused = |reason: &str| Err(Error::Flag(format!("tls: {reason}")));
        if self.fail_if_no_peer_cert && !self.verify_peer {
            return refused("fail_if_no_peer_cert needs verify_peer = true");
        }
        if self.verify_peer && self.ca.is_none() {
            return refused("verify_peer needs ca, the certificates that sign your clients'");
        }
        match (self.cert, self.key) {
            (Some(cert), Some(key)) => Ok(Some(Tls {
                cert,
                key,
                ca: self.ca,
                verify_peer: self.verify_peer,
                fail_if_no_peer_cert: self.fail_if_no_peer_cert,
            })),
            (None, None) if listen.amqps.is_empty() && listen.https.is_empty() => Ok(None),
            (None, None) => refused("amqps and https need cert and key"),
            _ => refused("cert and key go together"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuthSection {
    mechanisms: Option<Vec<Mechanism>>,
    anonymous_login_user: Option<String>,
    ssl_cert_login_from: NameFrom,
}

impl AuthSection {
    /// # Errors
    /// Nobody could log in.
    pub(super) fn merge(self, tls: Option<&Tls>) -> Result<Auth, Error> {
        let default = Auth::default();
        let auth = Auth {
            mechanisms: self.mechanisms.unwrap_or(default.mechanisms),
            // "none" is how RabbitMQ says it.
            anonymous_user: self.anonymous_login_user.filter(|user| user != "none"),
            login_from: self.ssl_cert_login_from,
        };
        if auth.mechanisms.contains(&Mechanism::External) && !tls.is_some_and(|t| t.verify_peer) {
            let text = "auth: EXTERNAL needs [tls] with verify_peer = true";
            return Err(Error::Flag(text.into()));
        }
        if auth.offered(true).is_empty() {
            return Err(Error::Flag(
                "auth: no mechanism is left to log in by".into(),
            ));
        }
        Ok(auth)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AlarmSection {
    memory: Option<Amount>,
    disk_free: Option<ByteSize>,
}

impl AlarmSection {
    pub(super) fn merge(&self) -> Alarm {
        Alarm {
            memory: self.memory.unwrap_or(MEMORY),
            disk_free: self.disk_free.map(|size| size.0),
        }
    }
}

/// As RabbitMQ 4's. Messages are bounded long before; this is the last line before the kernel's.
const MEMORY: Amount = Amount::Percent(60);
