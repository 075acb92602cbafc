//! What a certificate says: its time, and the names of its subject. Pure.
//!
//! Never: trusts one; rustls has checked a client's before this is asked for its name.
//! In: `tls` for the server's own, `listen` for the user of a client's.

use std::time::Duration;

use x509_cert::Certificate;
use x509_cert::attr::AttributeValue;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;

use crate::config::NameFrom;

/// Since the epoch.
pub struct Facts {
    pub not_before: Duration,
    pub not_after: Duration,
}

/// `None`: not a certificate.
pub fn read(der: &[u8]) -> Option<Facts> {
    let validity = Certificate::from_der(der).ok()?.tbs_certificate.validity;
    Some(Facts {
        not_before: validity.not_before.to_unix_duration(),
        not_after: validity.not_after.to_unix_duration(),
    })
}

/// The user that the subject names: its common names, joined by commas where there are several,
/// or the whole distinguished name in the form of RFC 4514, both as RabbitMQ's.
pub fn user(der: &[u8], from: NameFrom) -> Option<String> {
    let subject = Certificate::from_der(der).ok()?.tbs_certificate.subject;
    let name = match from {
        NameFrom::DistinguishedName => subject.to_string(),
        NameFrom::CommonName => {
            let parts = subject.0.iter().flat_map(|part| part.0.iter());
            let names = parts.filter(|part| part.oid == COMMON_NAME);
            let names: Vec<_> = names.map(|part| text(&part.value)).collect::<Option<_>>()?;
            names.join(",")
        }
    };
    Some(name).filter(|name| !name.is_empty())
}

fn text(value: &AttributeValue) -> Option<String> {
    let utf8 = Utf8StringRef::try_from(value).map(|text| text.as_str().to_owned());
    let printable = || PrintableStringRef::try_from(value).map(|text| text.as_str().to_owned());
    let teletex = || TeletexStringRef::try_from(value).map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| teletex()).ok()
}

/// id-at-commonName, X.520.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
