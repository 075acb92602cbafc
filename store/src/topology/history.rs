//! The last messages of an `x-recent-history` exchange, for whoever binds later. Pure.
//!
//! Keeps: bounded copies in memory; a restart forgets them, as in RabbitMQ.
//! In: `Exchange`.

use std::collections::VecDeque;
use std::sync::Arc;

use amqp::content::Block;
use amqp::field::{Table, Value};

use super::Message;

const LENGTH: &str = "x-recent-history-length";
const NO_STORE: &str = "x-recent-history-no-store";
/// Messages that are kept where nothing is said, as in RabbitMQ.
const LENGTH_DEFAULT: u64 = 20;
/// Bytes of copies that one exchange keeps, at most, whatever its length.
const BYTES_MAX: usize = 16 << 20;

pub(super) struct History {
    length: u64,
    messages: VecDeque<Arc<Block>>,
    bytes: usize,
}

impl History {
    /// # Errors
    /// The plug-in's text.
    pub(super) fn parse(arguments: &Table) -> Result<Self, String> {
        let length = match arguments.find(LENGTH) {
            None => LENGTH_DEFAULT,
            Some(value) => value
                .as_i64()
                .and_then(|length| u64::try_from(length).ok())
                .filter(|length| *length > 0)
                .ok_or_else(|| {
                    format!(
                        "Invalid argument {}, '{LENGTH}' must be a positive integer",
                        shown(value)
                    )
                })?,
        };
        Ok(Self {
            length,
            messages: VecDeque::new(),
            bytes: 0,
        })
    }

    pub(super) fn remember(&mut self, message: &Message<'_>) {
        let Some((block, index)) = message.content else {
            return;
        };
        if message.headers().find(NO_STORE) == Some(&Value::Bool(true)) {
            return;
        }
        let mut copy = Block::default();
        copy.push_copy(block, index, block.address(index), None);
        self.bytes += copy.data.len();
        self.messages.push_back(Arc::new(copy));
        while self.messages.len() as u64 > self.length || self.bytes > BYTES_MAX {
            let Some(oldest) = self.messages.pop_front() else {
                return;
            };
            self.bytes -= oldest.data.len();
        }
    }

    /// Oldest first.
    pub(super) fn messages(&self) -> Vec<Arc<Block>> {
        self.messages.iter().cloned().collect()
    }
}

fn shown(value: &Value) -> String {
    match (value.as_i64(), value) {
        (Some(number), _) => number.to_string(),
        (None, Value::LongStr(text)) => format!("<<\"{}\">>", String::from_utf8_lossy(text)),
        _ => "of another type".to_owned(),
    }
}
