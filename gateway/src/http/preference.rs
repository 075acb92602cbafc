//! What a request asks for in its headers: waiting, deadline, idempotency. Pure.
//!
//! Keeps: one reading of each header; what is malformed is a refusal, except `Prefer`, which
//! RFC 7240 wants ignored then.
//! In: `calls`, `jobs`.

use std::time::Duration;

use axum::http::HeaderMap;

use super::problem::{Kind, Problem};
use crate::config::Span;

/// Longest wait for a result in one request.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
const KEY_BYTES_MAX: usize = 255;

/// `Prefer: wait=N`, seconds, cut to `WAIT_MAX`.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let seconds = values
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, value)| value.trim().trim_matches('"').parse().ok())?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// `Rpc-Timeout: 90s`, or `default`.
pub(super) fn timeout(headers: &HeaderMap, default: Duration) -> Result<Duration, Problem> {
    let Some(value) = headers.get("rpc-timeout") else {
        return Ok(default);
    };
    let refused = |detail: String| Problem::new(Kind::Validation, format!("Rpc-Timeout: {detail}"));
    let text = value.to_str().map_err(|_| refused("not ASCII".into()))?;
    let span: Span = text.parse().map_err(refused)?;
    if span.0 > TIMEOUT_MAX {
        return Err(refused(format!("{text} is longer than 30d")));
    }
    Ok(span.0)
}

/// `Idempotency-Key`, quoted or bare, without its quotes.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else {
        return Ok(None);
    };
    let refused = |detail: &str| Problem::new(Kind::KeyInvalid, detail);
    if given.next().is_some() {
        return Err(refused("send one Idempotency-Key"));
    }
    let text = value
        .to_str()
        .map_err(|_| refused("the key must be ASCII"))?
        .trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => rest
            .strip_suffix('"')
            .ok_or_else(|| refused("the closing quote is missing"))?,
        None => text,
    };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(refused("the key must have 1 to 255 characters"));
    }
    if !key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"')
    {
        return Err(refused(
            "the key must consist of visible ASCII characters without quotes",
        ));
    }
    Ok(Some(key.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn waits_are_read_and_cut() {
        let seconds = |value| wait(&headers("prefer", value)).map(|span| span.as_secs());
        assert_eq!(seconds("wait=5"), Some(5));
        assert_eq!(seconds("respond-async, Wait=7"), Some(7));
        assert_eq!(seconds("wait=9999"), Some(60));
        assert_eq!(seconds("respond-async"), None);
        assert_eq!(seconds("wait=soon"), None);
    }

    #[test]
    fn keys_are_quoted_or_bare() {
        let key = |value: &str| idempotency_key(&headers("idempotency-key", value));
        assert_eq!(key("\"a-1\"").unwrap().unwrap(), "a-1");
        assert_eq!(key("a-1").unwrap().unwrap(), "a-1");
        assert!(idempotency_key(&HeaderMap::new()).unwrap().is_none());
        let long = format!("\"{}\"", "k".repeat(256));
        for wrong in [long.as_str(), "\"\"", "\"open", "with space", "\"", "a\"b"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn timeouts_have_bounds() {
        let read = |value| timeout(&headers("rpc-timeout", value), WAIT_MAX);
        assert_eq!(read("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(timeout(&HeaderMap::new(), WAIT_MAX).unwrap(), WAIT_MAX);
        for wrong in ["0s", "31d", "90", "soon"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
