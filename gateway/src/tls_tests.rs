//! Certificates made on the spot: handshakes, renewal, and what is said about broken files.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::config::NameFrom;
use crate::listen::{Door, Peer, welcome};

/// A signer, and a folder with what it signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = TempDir::new().unwrap();
        let own = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), own.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { issuer, folder }
    }

    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Org, Inc");
        change(&mut params);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(name, "pem"), signed.pem()).unwrap();
        fs::write(self.path(name, "key"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str, kind: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{name}.{kind}"))
    }

    fn settings(&self) -> config::Tls {
        config::Tls {
            cert: self.path("server", "pem"),
            key: self.path("server", "key"),
            ca: Some(self.path("ca", "pem")),
            verify_peer: true,
            fail_if_no_peer_cert: false,
        }
    }

    fn client(
        &self,
        own: Option<&str>,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        for signer in certificates(&self.path("ca", "pem")).unwrap() {
            roots.add(signer).unwrap();
        }
        let client = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let client = match own {
            None => client.with_no_client_auth(),
            Some(name) => {
                let chain = certificates(&self.path(name, "pem")).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(name, "key")).unwrap();
                client.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Arc::new(client).into()
    }
}

/// What the server learns of the client, and the client of the server.
async fn meet(
    tls: &Arc<Tls>,
    client: TlsConnector,
    from: NameFrom,
) -> (io::Result<Peer>, io::Result<TlsStream<TcpStream>>) {
    let door = Door {
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        proxied: false,
        tls: Some(tls.clone()),
    };
    let address: SocketAddr = door.listener.local_addr().unwrap();
    let server = async {
        let (socket, peer) = door.listener.accept().await.unwrap();
        welcome(&door, socket, peer, from)
            .await
            .map(|(_, peer)| peer)
    };
    let client = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        client.connect(name, socket).await
    };
    tokio::join!(server, client)
}

use std::io;

#[tokio::test]
async fn both_versions_shake_hands_and_name_the_client() {
    let authority = Authority::new();
    authority.sign("server", |_| {});
    authority.sign("ann", |_| {});
    let tls = Tls::load(authority.settings()).unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let (peer, _client) =
            meet(&tls, authority.client(None, version), NameFrom::CommonName).await;
        assert_eq!(peer.unwrap().certified, None);
        for (from, user) in [
            (NameFrom::CommonName, "ann"),
            (NameFrom::DistinguishedName, "O=Org\\, Inc,CN=ann"),
        ] {
            let (peer, _client) = meet(&tls, authority.client(Some("ann"), version), from).await;
            let peer = peer.unwrap();
            assert_eq!(peer.certified.as_deref(), Some(user));
            assert!(peer.tls && peer.is_loopback());
        }
    }
}

#[tokio::test]
async fn strangers_and_the_nameless_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("server", |_| {});
    other.sign("ann", |_| {});
    fs::copy(other.path("ann", "pem"), authority.path("stranger", "pem")).unwrap();
    fs::copy(other.path("ann", "key"), authority.path("stranger", "key")).unwrap();
    let settings = config::Tls {
        fail_if_no_peer_cert: true,
        ..authority.settings()
    };
    let tls = Tls::load(settings).unwrap();
    for own in [None, Some("stranger")] {
        let client = authority.client(own, &version::TLS13);
        let (peer, _client) = meet(&tls, client, NameFrom::CommonName).await;
        assert!(peer.is_err(), "{own:?}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_serves_the_next_handshake_and_a_broken_one_never() {
    let authority = Authority::new();
    authority.sign("server", |_| {});
    let tls = Tls::load(authority.settings()).unwrap();
    let shown = async || {
        let client = authority.client(None, &version::TLS13);
        let (_, client) = meet(&tls, client, NameFrom::CommonName).await;
        let client = client.unwrap();
        client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    authority.sign("server", |_| {});
    let before = tls.stamps();
    tls.reload().unwrap();
    let second = shown().await;
    assert_ne!(first, second);
    fs::write(authority.path("server", "pem"), "half a file").unwrap();
    assert_ne!(tls.stamps(), before);
    assert!(tls.reload().is_err());
    assert_eq!(shown().await, second);
}

#[test]
fn what_is_wrong_is_said_with_its_file() {
    let authority = Authority::new();
    authority.sign("server", |_| {});
    authority.sign("other", |_| {});
    fs::write(authority.path("empty", "pem"), "").unwrap();
    let settings = authority.settings();
    for (change, file, reason) in [
        (
            config::Tls {
                cert: "no.pem".into(),
                ..settings.clone()
            },
            "no.pem",
            "No such file",
        ),
        (
            config::Tls {
                cert: authority.path("empty", "pem"),
                ..settings.clone()
            },
            "empty.pem",
            "no PEM certificate",
        ),
        (
            config::Tls {
                key: authority.path("server", "pem"),
                ..settings.clone()
            },
            "server.pem",
            "no PEM private key",
        ),
        (
            config::Tls {
                key: authority.path("other", "key"),
                ..settings.clone()
            },
            "other.key",
            "is not the key of",
        ),
        (
            config::Tls {
                ca: Some(authority.path("empty", "pem")),
                ..settings
            },
            "empty.pem",
            "no PEM certificate",
        ),
    ] {
        let said = Tls::load(change)
            .err()
            .map(|error| error.to_string())
            .unwrap();
        assert!(said.contains(file) && said.contains(reason), "{said}");
    }
}

#[test]
fn an_expired_certificate_is_served_all_the_same() {
    let authority = Authority::new();
    authority.sign("server", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    assert!(Tls::load(authority.settings()).is_ok());
    let facts = certificate::read(&certificates(&authority.path("server", "pem")).unwrap()[0]);
    assert_eq!(facts.unwrap().not_after, Duration::from_secs(1_009_843_200));
}
