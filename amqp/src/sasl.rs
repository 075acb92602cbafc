//! The credentials in a SASL response. Pure.
//!
//! Source: RFC 4616 (PLAIN); AMQPLAIN is a field table without its length (RabbitMQ).

use crate::field::{Table, check_table};
use crate::reply::Close;

/// Offered mechanisms.
pub const MECHANISMS: &str = "PLAIN AMQPLAIN";

const START_OK: (u16, u16) = (10, 11);

/// (user, password).
///
/// # Errors
/// 503 for another mechanism, 502 for a malformed response.
pub fn credentials(mechanism: &str, response: &[u8]) -> Result<(String, String), Close> {
    let malformed = || Close::connection(502, "malformed SASL response", START_OK);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| malformed());
    match mechanism {
        "PLAIN" => {
            let mut parts = response.split(|&byte| byte == 0);
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(_), Some(user), Some(password), None) => Ok((text(user)?, text(password)?)),
                _ => Err(malformed()),
            }
        }
        "AMQPLAIN" => {
            check_table(response).map_err(|_| malformed())?;
            let table = Table::parse(response).map_err(|_| malformed())?;
            let of = |key| table.find(key).and_then(|v| v.as_text()).map(str::to_owned);
            of("LOGIN").zip(of("PASSWORD")).ok_or_else(malformed)
        }
        other => {
            let text = format!("unknown authentication mechanism '{other}'");
            Err(Close::connection(503, text, START_OK))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Value;

    fn pair(user: &str, password: &str) -> Result<(String, String), Close> {
        Ok((user.into(), password.into()))
    }

    #[test]
    fn both_mechanisms_give_the_same_pair() {
        let mut table = Table::default();
        table.insert("LOGIN", Value::text("ann"));
        table.insert("PASSWORD", Value::text("p w"));
        assert_eq!(credentials("AMQPLAIN", &table.encode()), pair("ann", "p w"));
        assert_eq!(credentials("PLAIN", b"\0ann\0p w"), pair("ann", "p w"));
        assert_eq!(credentials("PLAIN", b"other\0ann\0"), pair("ann", ""));
    }

    #[test]
    fn malformed_is_502_and_unknown_503() {
        let code = |mechanism, response| credentials(mechanism, response).map_err(|c| c.code);
        for response in [&b""[..], b"ann", b"\0ann", b"\0a\0b\0c", b"\0\xff\0b"] {
            assert_eq!(code("PLAIN", response), Err(502), "{response:?}");
        }
        for response in [&b""[..], b"\x05LOGINS\0\0\0\x01a", b"\x05LOGINS\0\0\0\x09a"] {
            assert_eq!(code("AMQPLAIN", response), Err(502), "{response:?}");
        }
        assert_eq!(code("EXTERNAL", b""), Err(503));
    }
}
