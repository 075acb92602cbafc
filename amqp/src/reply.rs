//! Who must be told what: closes with code, text and the method that caused them.
//!
//! Source: AMQP 0-9-1 §1.2 reply codes; text form as RabbitMQ's `NAME - explanation`.

use crate::limits::TEXT_MAX;

/// What a text that was too long ends with, as RabbitMQ's.
const CUT: &str = "...";

/// What a close ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Connection,
    Channel,
}

/// A close that the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub scope: Scope,
    pub code: u16,
    /// At most 255 bytes.
    pub text: String,
    pub class: u16,
    pub method: u16,
}

impl Close {
    pub fn channel(code: u16, explanation: impl Into<String>, cause: (u16, u16)) -> Self {
        Self::new(Scope::Channel, code, &explanation.into(), cause)
    }

    pub fn connection(code: u16, explanation: impl Into<String>, cause: (u16, u16)) -> Self {
        Self::new(Scope::Connection, code, &explanation.into(), cause)
    }

    fn new(scope: Scope, code: u16, explanation: &str, (class, method): (u16, u16)) -> Self {
        let mut text = format!("{} - {explanation}", name(code));
        if text.len() > TEXT_MAX {
            let mut end = TEXT_MAX - CUT.len();
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str(CUT);
        }
        Self {
            scope,
            code,
            text,
            class,
            method,
        }
    }
}

/// The constant's name in the specification.
pub fn name(code: u16) -> &'static str {
    match code {
        311 => "CONTENT_TOO_LARGE",
        312 => "NO_ROUTE",
        313 => "NO_CONSUMERS",
        320 => "CONNECTION_FORCED",
        402 => "INVALID_PATH",
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        502 => "SYNTAX_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        506 => "RESOURCE_ERROR",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        _ => "INTERNAL_ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character_within_255_bytes() {
        let close = Close::channel(404, "é".repeat(300), (50, 10));
        assert_eq!(close.text, format!("NOT_FOUND - {}...", "é".repeat(120)));
        let close = Close::channel(404, "e".repeat(243), (50, 10));
        assert_eq!(close.text, format!("NOT_FOUND - {}", "e".repeat(243)));
        assert_eq!(close.text.len(), TEXT_MAX);
    }
}
