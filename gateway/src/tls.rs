//! TLS: certificate, key and trusted signers from files, renewed without a restart.
//!
//! Keeps: a handshake uses the newest sound files; broken ones are named, and the old stay.
//! Never: a version below 1.2, or a check of a client that was asked for and left out.
//! In: `node` loads and watches; `listen` and `http` accept with it.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificate;
use crate::config;

/// What is wrong with which file.
#[derive(Debug, thiserror::Error)]
#[error("tls: {file}: {reason}")]
pub struct Error {
    file: String,
    reason: String,
}

/// The server's side of TLS, as its files are now.
pub struct Tls {
    settings: config::Tls,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// # Errors
    /// A file that cannot be read, holds no PEM of its kind, or a key of another certificate.
    pub fn load(settings: config::Tls) -> Result<Arc<Self>, Error> {
        let current = RwLock::new(Arc::new(read(&settings)?));
        Ok(Arc::new(Self { settings, current }))
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        let current = self
            .current
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        current.clone().into()
    }

    /// Reads the files again; connections that are open stay as they are.
    ///
    /// # Errors
    /// As `load`; what was in use stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        let fresh = Arc::new(read(&self.settings)?);
        let mut current = self
            .current
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = fresh;
        Ok(())
    }

    /// Reloads on SIGHUP and when a file changes, until `stop`.
    ///
    /// # Errors
    /// The signal cannot be listened for.
    pub fn watch(self: Arc<Self>, stop: CancellationToken) -> std::io::Result<()> {
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut seen = self.stamps();
        tokio::spawn(async move {
            loop {
                let told = tokio::select! {
                    () = stop.cancelled() => break,
                    told = hang_up.recv() => told.is_some(),
                    () = tokio::time::sleep(LOOK_EVERY) => false,
                };
                let stamps = self.stamps();
                if !told && stamps == seen {
                    continue;
                }
                seen = stamps;
                match self.reload() {
                    Ok(()) => tracing::info!("the certificate was read again"),
                    Err(error) => {
                        tracing::error!(%error, "the certificate in use stays");
                    }
                }
            }
        });
        Ok(())
    }

    /// Size and time of each file; links are followed, so that a swapped link counts as a change.
    fn stamps(&self) -> Vec<Option<(u64, SystemTime)>> {
        let stamp = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.len(), data.modified().ok()?))
        };
        let settings = &self.settings;
        let files = [
            Some(&settings.cert),
            Some(&settings.key),
            settings.ca.as_ref(),
        ];
        files
            .into_iter()
            .flatten()
            .map(|file| stamp(file))
            .collect()
    }
}

fn read(settings: &config::Tls) -> Result<ServerConfig, Error> {
    let chain = certificates(&settings.cert)?;
    if let Some(first) = chain.first() {
        judge(&settings.cert, first)?;
    }
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|error| fault(&settings.key, &pem(&error, "private key")))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| fault(&settings.cert, &error))?;
    let builder = match settings.ca.as_ref().filter(|_| settings.verify_peer) {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for signer in certificates(ca)? {
                roots.add(signer).map_err(|error| fault(ca, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if settings.fail_if_no_peer_cert {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier.build().map_err(|error| fault(ca, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let text = format!("is not the key of {}", settings.cert.display());
                fault(&settings.key, &text)
            }
            error => fault(&settings.key, &error),
        })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let chain: Vec<_> = read.map_err(|error| fault(file, &pem(&error, "certificate")))?;
    if chain.is_empty() {
        return Err(fault(file, &"there is no PEM certificate in it"));
    }
    Ok(chain)
}

/// A certificate out of its time is served, for clients may not look; but it is told.
fn judge(file: &Path, own: &CertificateDer<'_>) -> Result<(), Error> {
    let facts = certificate::read(own).ok_or_else(|| fault(file, &"is no X.509 certificate"))?;
    let now = Duration::from_micros(u64::try_from(store::clock::now()).unwrap_or(0));
    let file = file.display();
    if facts.not_after < now {
        tracing::warn!(%file, "the certificate has expired");
    } else if facts.not_after < now + SOON {
        tracing::warn!(%file, "the certificate expires within two weeks");
    } else if facts.not_before > now {
        tracing::warn!(%file, "the certificate is not valid yet");
    }
    Ok(())
}

fn pem(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        rustls::pki_types::pem::Error::NoItemsFound => format!("there is no PEM {what} in it"),
        error => format!("is no sound PEM: {error}"),
    }
}

fn fault(file: &Path, reason: &impl ToString) -> Error {
    Error {
        file: file.display().to_string(),
        reason: reason.to_string(),
    }
}

/// Between two looks at the files: three `stat`s, and a renewal is days early anyway.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long before its end a certificate is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
