//! Bytes from the socket: a buffer of its own for who fills it, a shared one for who does not.
//!
//! Keeps: an idle connection holds no buffer; thousands of them cost what they are.
//! In: the read turn.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::ready;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::TURN;

/// What was read and is not used up yet.
#[derive(Default)]
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    /// Something was read since the last `rest`.
    busy: bool,
}

thread_local! {
    /// Borrowed for one read at a time.
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; TURN]);
}

impl Input {
    /// Waits for bytes, at most `max`; answers how many came, 0 at the end.
    pub(super) async fn read<R>(&mut self, reader: &mut R, max: usize) -> io::Result<usize>
    where
        R: AsyncRead + Unpin,
    {
        let count = if self.bytes.capacity() >= TURN && max >= TURN {
            reader.read_buf(&mut self.bytes).await?
        } else {
            std::future::poll_fn(|cx| {
                SHARED.with_borrow_mut(|shared| {
                    let mut buffer = ReadBuf::new(&mut shared[..max]);
                    ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer))?;
                    self.bytes.extend_from_slice(buffer.filled());
                    io::Result::Ok(buffer.filled().len()).into()
                })
            })
            .await?
        };
        self.busy = true;
        Ok(count)
    }

    /// The front is used up; who reads much gets room of his own for the next turn.
    pub(super) fn used(&mut self, count: usize) {
        let much = self.bytes.len() >= MUCH;
        self.bytes.drain(..count);
        if much && self.bytes.capacity() - self.bytes.len() < TURN / 2 {
            self.bytes.reserve(TURN);
        }
    }

    /// Called now and then: a buffer that nobody has used since is given back.
    pub(super) fn rest(&mut self) {
        if !std::mem::take(&mut self.busy) {
            self.bytes.shrink_to_fit();
        }
    }
}

/// Bytes in one turn, or of one unfinished frame, that are worth a buffer.
const MUCH: usize = 16 << 10;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed test")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_reads_much_keeps_a_buffer() {
        let mut input = Input::default();
        assert_eq!(input.read(&mut &b"abc"[..], TURN).await.unwrap(), 3);
        input.used(1);
        assert_eq!(input.bytes, b"bc");
        assert!(input.bytes.capacity() < 64);
        let large = vec![7; MUCH];
        input.read(&mut &large[..], TURN).await.unwrap();
        input.used(MUCH + 2);
        assert!(input.bytes.capacity() >= TURN);
        assert_eq!(input.read(&mut &large[..], 9).await.unwrap(), 9);
        input.used(9);
        assert_eq!(input.read(&mut &large[..], TURN).await.unwrap(), MUCH);
        input.used(MUCH);
        input.rest();
        assert!(input.bytes.capacity() >= TURN, "it was in use");
        input.rest();
        assert_eq!(input.bytes.capacity(), 0);
    }
}
