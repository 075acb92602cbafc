//! A message as JSON: its address, its properties, its body.
//!
//! Keeps: nothing is lost that JSON can hold; a body that is no text is base64.
//! In: the routes that show or hand out messages.

use amqp::content::Block;
use amqp::properties::Properties;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use crate::definitions::from_table;

/// A message's content.
#[derive(Serialize, ToSchema)]
pub(super) struct Content {
    /// The exchange through which it came; empty for the default exchange.
    exchange: String,
    routing_key: String,
    /// AMQP's basic properties but for the headers, those that are set.
    #[schema(value_type = Object)]
    properties: Map<String, Json>,
    #[schema(value_type = Object)]
    headers: Map<String, Json>,
    /// Of the body.
    bytes: usize,
    /// The body, when it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// The body is longer than what is shown of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl Content {
    /// At most so many bytes of the body are shown.
    pub(super) fn new(block: &Block, index: usize, body_bytes_max: usize) -> Self {
        let address = block.address(index);
        let properties = Properties::parse(block.properties(index)).unwrap_or_default();
        let whole = block.body(index);
        let shown = &whole[..whole.len().min(body_bytes_max)];
        let (body, body_base64) = match std::str::from_utf8(shown) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(error) => match shown.len() < whole.len() && error.error_len().is_none() {
                // A character was cut.
                true => {
                    let text = String::from_utf8_lossy(&shown[..error.valid_up_to()]);
                    (Some(text.into_owned()), None)
                }
                false => (None, Some(STANDARD.encode(shown))),
            },
        };
        Self {
            exchange: String::from_utf8_lossy(address.exchange()).into_owned(),
            routing_key: String::from_utf8_lossy(address.routing_key()).into_owned(),
            headers: properties
                .headers
                .as_ref()
                .map(from_table)
                .unwrap_or_default(),
            properties: plain(&properties),
            bytes: whole.len(),
            truncated: shown.len() < whole.len(),
            body,
            body_base64,
        }
    }
}

/// Under the names of RabbitMQ's management API.
fn plain(properties: &Properties) -> Map<String, Json> {
    let mut out = Map::new();
    let texts = [
        ("content_type", &properties.content_type),
        ("content_encoding", &properties.content_encoding),
        ("correlation_id", &properties.correlation_id),
        ("reply_to", &properties.reply_to),
        ("expiration", &properties.expiration),
        ("message_id", &properties.message_id),
        ("type", &properties.kind),
        ("user_id", &properties.user_id),
        ("app_id", &properties.app_id),
        ("cluster_id", &properties.cluster_id),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            out.insert(name.into(), String::from_utf8_lossy(text).into());
        }
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            out.insert(name.into(), number.into());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;

    use super::*;

    fn shown(body: &[u8], most: usize) -> (Option<String>, Option<String>, bool) {
        let mut block = Block::default();
        let at = block.push(&Address::new(b"x", b"k"), &[0, 0], body);
        let content = Content::new(&block, at, most);
        (content.body, content.body_base64, content.truncated)
    }

    #[test]
    fn a_body_is_text_or_base64() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown("grün".as_bytes(), 9), (text("grün"), None, false));
        assert_eq!(shown("grün".as_bytes(), 3), (text("gr"), None, true));
        assert_eq!(shown(&[255, 1], 9), (None, text("/wE="), false));
        assert_eq!(shown(&[255, 1], 1), (None, text("/w=="), true));
        assert_eq!(shown(b"", 0), (text(""), None, false));
    }
}
