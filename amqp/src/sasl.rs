//! The credentials in a SASL response. Pure.
//!
//! Source: RFC 4616 (PLAIN); AMQPLAIN is a field table without its length (RabbitMQ).

use crate::field::{Table, check_table};
use crate::reply::Close;

/// Offered by default.
pub const MECHANISMS: &str = "PLAIN AMQPLAIN";

const START_OK: (u16, u16) = (10, 11);

/// What a client shows to be let in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// Whatever its certificate says; a name in the response is no proof of anything.
    External,
    Anonymous,
}

/// `offered` is the list of connection.start.
///
/// # Errors
/// 503 for a mechanism that was not offered, 502 for a malformed response.
pub fn credentials(mechanism: &str, response: &[u8], offered: &str) -> Result<Credentials, Close> {
    let malformed = || Close::connection(502, "malformed SASL response", START_OK);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| malformed());
    let known = offered.split(' ').any(|name| name == mechanism);
    let (user, password) = match mechanism {
        "PLAIN" if known => {
            let mut parts = response.split(|&byte| byte == 0);
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(_), Some(user), Some(password), None) => (text(user)?, text(password)?),
                _ => return Err(malformed()),
            }
        }
        "AMQPLAIN" if known => {
            check_table(response).map_err(|_| malformed())?;
            let table = Table::parse(response).map_err(|_| malformed())?;
            let of = |key| table.find(key).and_then(|v| v.as_text()).map(str::to_owned);
            of("LOGIN").zip(of("PASSWORD")).ok_or_else(malformed)?
        }
        "EXTERNAL" if known => return Ok(Credentials::External),
        "ANONYMOUS" if known => return Ok(Credentials::Anonymous),
        other => {
            let text = format!("unknown authentication mechanism '{other}'");
            return Err(Close::connection(503, text, START_OK));
        }
    };
    Ok(Credentials::Password { user, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Value;

    const ALL: &str = "PLAIN AMQPLAIN EXTERNAL ANONYMOUS";

    fn of(mechanism: &str, response: &[u8]) -> Result<(String, String), u16> {
        match credentials(mechanism, response, ALL).map_err(|close| close.code)? {
            Credentials::Password { user, password } => Ok((user, password)),
            _ => Err(0),
        }
    }

    fn pair(user: &str, password: &str) -> Result<(String, String), u16> {
        Ok((user.into(), password.into()))
    }

    #[test]
    fn both_mechanisms_give_the_same_pair() {
        let mut table = Table::default();
        table.insert("LOGIN", Value::text("ann"));
        table.insert("PASSWORD", Value::text("p w"));
        assert_eq!(of("AMQPLAIN", &table.encode()), pair("ann", "p w"));
        assert_eq!(of("PLAIN", b"\0ann\0p w"), pair("ann", "p w"));
        assert_eq!(of("PLAIN", b"other\0ann\0"), pair("ann", ""));
    }

    #[test]
    fn malformed_is_502_and_unknown_503() {
        for response in [&b""[..], b"ann", b"\0ann", b"\0a\0b\0c", b"\0\xff\0b"] {
            assert_eq!(of("PLAIN", response), Err(502), "{response:?}");
        }
        for response in [&b""[..], b"\x05LOGINS\0\0\0\x01a", b"\x05LOGINS\0\0\0\x09a"] {
            assert_eq!(of("AMQPLAIN", response), Err(502), "{response:?}");
        }
        assert_eq!(of("RABBIT-CR-DEMO", b""), Err(503));
    }

    #[test]
    fn only_what_is_offered_is_known() {
        let found = credentials("EXTERNAL", b"", ALL);
        assert!(found.is_ok_and(|found| found == Credentials::External));
        let found = credentials("ANONYMOUS", b"trace", ALL);
        assert!(found.is_ok_and(|found| found == Credentials::Anonymous));
        for mechanism in ["EXTERNAL", "ANONYMOUS", "", "PLAIN AMQPLAIN"] {
            let found = credentials(mechanism, b"", MECHANISMS);
            assert!(found.is_err_and(|close| close.code == 503), "{mechanism}");
        }
        let found = credentials("PLAIN", b"\0a\0b", "AMQPLAIN");
        assert!(found.is_err_and(|close| close.code == 503));
    }
}
