//! The last messages of an `x-recent-history` exchange, for whoever binds later. Pure.
//!
//! Keeps: bounded copies in memory, of each exchange and of all together; a restart forgets them,
//! as in RabbitMQ.
//! In: `Exchange`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amqp::content::Block;
use amqp::field::{Table, Value};

use super::Message;

const LENGTH: &str = "x-recent-history-length";
const NO_STORE: &str = "x-recent-history-no-store";
/// Messages that are kept where nothing is said, as in RabbitMQ.
const LENGTH_DEFAULT: u64 = 20;
/// Bytes of copies that one exchange keeps, at most, whatever its length.
const BYTES_MAX: usize = 16 << 20;
/// Bytes of copies that all exchanges together keep, at most, however many there are.
const ALL_BYTES_MAX: usize = 128 << 20;

/// Bytes that all of them keep now.
static ALL_BYTES: AtomicUsize = AtomicUsize::new(0);

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
        ALL_BYTES.fetch_add(copy.data.len(), Ordering::Relaxed);
        self.messages.push_back(Arc::new(copy));
        while self.messages.len() as u64 > self.length
            || self.bytes > BYTES_MAX
            || ALL_BYTES.load(Ordering::Relaxed) > ALL_BYTES_MAX
        {
            let Some(oldest) = self.messages.pop_front() else {
                return;
            };
            self.bytes -= oldest.data.len();
            ALL_BYTES.fetch_sub(oldest.data.len(), Ordering::Relaxed);
        }
    }

    /// Oldest first.
    pub(super) fn messages(&self) -> Vec<Arc<Block>> {
        self.messages.iter().cloned().collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        ALL_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn shown(value: &Value) -> String {
    match (value.as_i64(), value) {
        (Some(number), _) => number.to_string(),
        (None, Value::LongStr(text)) => format!("<<\"{}\">>", String::from_utf8_lossy(text)),
        _ => "of another type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use amqp::content::Address;

    use super::super::Moment;
    use super::*;

    #[test]
    fn all_exchanges_together_keep_so_much() {
        let mut block = Block::default();
        block.push(&Address::new(b"x", b"k"), &[0, 0], &vec![0; 1 << 20]);
        let message = Message::new(&block, 0, &[], Moment::default());
        let history = |_| History::parse(&Table::default()).expect("no arguments");
        let mut all: Vec<History> = (0..20).map(history).collect();
        for history in &mut all {
            (0..20).for_each(|_| history.remember(&message));
            assert!(history.bytes <= BYTES_MAX);
        }
        let kept: usize = all.iter().map(|history| history.bytes).sum();
        assert!(kept > ALL_BYTES_MAX / 2 && kept <= ALL_BYTES_MAX, "{kept}");
        let last = all.pop().expect("twenty");
        assert!(last.messages.is_empty(), "the first took all there is");
        all.clear();
        assert!(ALL_BYTES.load(Ordering::Relaxed) < BYTES_MAX);
        let mut after = history(0);
        after.remember(&message);
        assert_eq!(after.messages.len(), 1);
    }
}
