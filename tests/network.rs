//! What comes before and around the protocol: TLS, PROXY headers, limits, slow clients.
//!
//! Keeps: only what needs the real binary on real sockets; forms of headers and certificates are
//! unit tests of the gateway.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tempfile::TempDir;
use tests::conversation::client::{Client, Incoming, Opening};
use tests::leveret::Leveret;
use tests::server::free_address;
use tests::wire::method::Method;
use tests::wire::value::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than any answer takes here.
const PATIENCE: Duration = Duration::from_secs(15);

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

/// A signer of certificates and what it signed, as files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = TempDir::new()?;
        fs::write(
            folder.path().join("ca.pem"),
            params.self_signed(&key)?.pem(),
        )?;
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, folder })
    }

    fn sign(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".into()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let signed = params.signed_by(&key, &self.issuer)?;
        fs::write(self.path(name, "key"), key.serialize_pem())?;
        Ok(fs::write(self.path(name, "pem"), signed.pem())?)
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{kind}"))
    }

    async fn connect(&self, to: &str, own: Option<&str>) -> Result<TlsStream<TcpStream>> {
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
            Ok(CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?)
        };
        let mut roots = RootCertStore::empty();
        for signer in certificates(&self.path("ca", "pem"))? {
            roots.add(signer)?;
        }
        let client = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let client = match own {
            None => client.with_no_client_auth(),
            Some(name) => client.with_client_auth_cert(
                certificates(&self.path(name, "pem"))?,
                PrivateKeyDer::from_pem_file(self.path(name, "key"))?,
            )?,
        };
        let socket = TcpStream::connect(to).await?;
        let name = ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(Arc::new(client))
            .connect(name, socket)
            .await?)
    }
}

/// Through the handshake with a mechanism that needs no password.
async fn log_in(client: &mut Client, mechanism: &str) -> Result<String> {
    client.write(b"AMQP\0\0\x09\x01").await;
    let start = client.await_method(0, "connection.start", PATIENCE).await?;
    let Some(Value::Str(offered)) = start.method.fields.get(3) else {
        bail!("no list of mechanisms: {start:?}");
    };
    let offered = String::from_utf8_lossy(offered).into_owned();
    let ok = Method::named("connection.start-ok")?
        .with("mechanism", Value::str(mechanism))?
        .with("locale", Value::str("en_US"))?
        .with("client-properties", Value::Table(capable()))?;
    client.send(0, &ok, None).await?;
    client.await_method(0, "connection.tune", PATIENCE).await?;
    let ok = Method::named("connection.tune-ok")?
        .with("channel-max", Value::int(2047))?
        .with("frame-max", Value::int(131_072))?;
    client.send(0, &ok, None).await?;
    let open = Method::named("connection.open")?.with("virtual-host", Value::str("/"))?;
    client.send(0, &open, None).await?;
    client
        .await_method(0, "connection.open-ok", PATIENCE)
        .await?;
    Ok(offered)
}

fn capable() -> Vec<(String, Value)> {
    let one = ("authentication_failure_close".to_owned(), Value::Bool(true));
    vec![("capabilities".to_owned(), Value::Table(vec![one]))]
}

fn secure(authority: &Authority) -> Result<(Leveret, String, String)> {
    let (amqps, https) = (free_address()?, free_address()?);
    let file = |name, kind| authority.path(name, kind).display().to_string();
    let server = Leveret::start(&format!(
        "[listen]\namqps = \"{amqps}\"\nhttps = [\"{https}\"]\n\
         [tls]\ncert = {:?}\nkey = {:?}\nca = {:?}\nverify_peer = true\n\
         [auth]\nmechanisms = [\"PLAIN\", \"EXTERNAL\"]\nanonymous_login_user = \"guest\"\n",
        file("server", "pem"),
        file("server", "key"),
        file("ca", "pem"),
    ))?;
    Ok((server, amqps.to_string(), https.to_string()))
}

#[test]
fn tls_carries_amqp_and_a_certificate_is_a_login() -> Result<()> {
    let authority = Authority::new()?;
    for name in ["server", "guest", "stranger"] {
        authority.sign(name)?;
    }
    let (server, amqps, https) = secure(&authority)?;
    run(async {
        let mut client = Client::new(authority.connect(&amqps, None).await?);
        client.open(&Opening::default(), PATIENCE).await?;
        client.open_channel(1, PATIENCE).await?;
        let mut client = Client::new(authority.connect(&amqps, Some("guest")).await?);
        let offered = log_in(&mut client, "EXTERNAL").await?;
        ensure!(offered == "PLAIN EXTERNAL ANONYMOUS", "{offered}");
        // No such user, and no certificate at all: refused as a wrong password is.
        for own in [Some("stranger"), None] {
            let mut client = Client::new(authority.connect(&amqps, own).await?);
            let refused = log_in(&mut client, "EXTERNAL").await.map(drop);
            let said = refused.err().context("let in")?.to_string();
            ensure!(
                said.contains("using authentication mechanism EXTERNAL"),
                "{said}"
            );
        }
        let mut client = Client::new(TcpStream::connect(server.amqp).await?);
        let offered = log_in(&mut client, "ANONYMOUS").await?;
        ensure!(offered == "PLAIN ANONYMOUS", "{offered}");
        let mut web = authority.connect(&https, None).await?;
        tokio::io::AsyncWriteExt::write_all(&mut web, b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        let _ = web.read_to_string(&mut answer).await;
        ensure!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        Ok(())
    })
}

#[test]
fn a_renewed_certificate_is_shown_after_sighup() -> Result<()> {
    let authority = Authority::new()?;
    authority.sign("server")?;
    let (server, amqps, _) = secure(&authority)?;
    let pid = server.id().context("it runs")?.to_string();
    run(async {
        let shown = async || {
            let stream = authority.connect(&amqps, None).await?;
            let chain = stream.get_ref().1.peer_certificates();
            Ok::<_, anyhow::Error>(chain.context("a certificate")?[0].to_vec())
        };
        let first = shown().await?;
        let mut old = Client::new(authority.connect(&amqps, None).await?);
        old.open(&Opening::default(), PATIENCE).await?;
        authority.sign("server")?;
        Command::new("kill").args(["-HUP", &pid]).status()?;
        let deadline = Instant::now() + PATIENCE;
        while shown().await? == first {
            ensure!(
                Instant::now() < deadline,
                "the old certificate is still shown"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let second = shown().await?;
        fs::write(authority.path("server", "pem"), "half a")?;
        Command::new("kill").args(["-HUP", &pid]).status()?;
        let deadline = Instant::now() + PATIENCE;
        while !server
            .last_output()
            .contains("the certificate in use stays")
        {
            ensure!(Instant::now() < deadline, "{}", server.last_output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(shown().await? == second);
        // Whoever was there stays.
        old.open_channel(1, PATIENCE).await
    })
}

#[test]
fn the_address_in_a_proxy_header_counts() -> Result<()> {
    let proxied = free_address()?;
    let _server = Leveret::start(&format!(
        "[listen]\namqps = []\nhttp = \"{proxied}\"\nproxy_protocol = [\"amqp\"]\n"
    ));
    // The readiness of the harness asks over HTTP only.
    let server = _server?;
    run(async {
        let connect = async |header: &str| {
            let socket = TcpStream::connect(server.amqp).await?;
            let mut client = Client::new(socket);
            client.write(header.as_bytes()).await;
            Ok::<_, anyhow::Error>(client)
        };
        let mut near = connect("PROXY TCP4 127.0.0.1 127.0.0.1 5 5672\r\n").await?;
        near.open(&Opening::default(), PATIENCE).await?;
        for header in [
            "PROXY TCP4 192.0.2.1 127.0.0.1 5 5672\r\n",
            "PROXY UNKNOWN\r\n",
        ] {
            let mut far = connect(header).await?;
            let refused = far.open(&Opening::default(), PATIENCE).await;
            let said = refused.err().context("guest came from afar")?.to_string();
            ensure!(said.contains("ACCESS_REFUSED"), "{said}");
        }
        for header in ["", "PROXY nonsense, and no end in sight\r\n"] {
            let mut bare = connect(header).await?;
            bare.write(b"AMQP\0\0\x09\x01AMQP\0\0\x09\x01").await;
            match bare.next(None, PATIENCE).await? {
                Incoming::Closed => {}
                other => bail!("answered {}", other.show()),
            }
        }
        Ok(())
    })
}

#[test]
fn connections_beyond_the_limit_are_refused_and_places_come_back() -> Result<()> {
    let server = Leveret::start("[listen]\nconnections_max = 2\n")?;
    run(async {
        let connect = async || -> Result<Client> {
            let mut client = Client::new(TcpStream::connect(server.amqp).await?);
            client.open(&Opening::default(), PATIENCE).await?;
            Ok(client)
        };
        let first = connect().await?;
        let _second = connect().await?;
        let refused = connect()
            .await
            .err()
            .context("a third came in")?
            .to_string();
        let text = "NOT_ALLOWED - connection refused: node connection limit (2) is reached";
        ensure!(refused.contains(text), "{refused}");
        drop(first);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = connect().await {
            ensure!(
                Instant::now() < deadline,
                "the place is not free again: {error}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
}

#[test]
fn a_request_by_the_drop_is_cut_off() -> Result<()> {
    let server = Leveret::start("")?;
    let mut socket = std::net::TcpStream::connect(server.http)?;
    socket.set_read_timeout(Some(4 * PATIENCE))?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nx-slow: ")?;
    let mut answer = Vec::new();
    // An answer of 408 or the bare end of the socket, but an end.
    socket.read_to_end(&mut answer)?;
    ensure!(!answer.starts_with(b"HTTP/1.1 200"));
    Ok(())
}
