//! What the store has for the client, encoded.
//!
//! In: the write turn.

use super::*;

impl Session {
    /// Encodes what the store has for this client.
    pub(super) fn fill(&mut self) {
        let outbox = if self.cleaned {
            Vec::new()
        } else {
            self.store.lock().take_outbox(self.id)
        };
        if outbox.is_empty() {
            return;
        }
        let frame_max = self.conn.frame_max();
        let mut late = Vec::new();
        for out in outbox {
            match out {
                Out::Deliver {
                    channel,
                    tag,
                    first,
                    piece,
                    redelivered,
                } => hot::deliver_run(
                    self.conn.output(),
                    channel,
                    &tag,
                    first,
                    redelivered,
                    &piece.block,
                    piece.index(0),
                    piece.count as usize,
                    frame_max,
                ),
                Out::Confirm {
                    channel,
                    first,
                    count,
                } => {
                    if let Some(confirms) = self.confirms.get_mut(&channel) {
                        confirms.complete(first, count);
                    }
                }
                Out::Refuse { channel, number } => {
                    if let Some(confirms) = self.confirms.get_mut(&channel) {
                        confirms.reject(number);
                    }
                }
                Out::Cancel { channel, tag } => {
                    if self.conn.client_capability("consumer_cancel_notify") {
                        hot::cancel(self.conn.output(), channel, &tag);
                    }
                }
                Out::TimedOut { channel, ms } => late.push((channel, ms)),
                Out::Blocked(reason) => {
                    let waits = self.store.lock().waits_for_room(self.id);
                    self.hold(self.held || waits);
                    self.tell_blocked(Some(&reason));
                }
                Out::Close { code, text } => return self.ended(code, text),
                // Unless it has published to a full queue since that was said.
                Out::Unblocked if self.store.lock().is_stopped(self.id) => {}
                Out::Unblocked => {
                    self.hold(false);
                    self.tell_blocked(None);
                }
            }
        }
        self.tell_confirms();
        for (channel, ms) in late {
            let text = format!(
                "delivery acknowledgement on channel {channel} timed out. Timeout value used: \
                 {ms} ms. This timeout value can be configured, see consumers doc guide to learn \
                 more"
            );
            self.close_channel(channel, &Close::channel(406, text, (0, 0)));
        }
    }

    pub(super) fn tell_blocked(&mut self, reason: Option<&str>) {
        if !self.conn.client_capability("connection.blocked") || !self.conn.is_open() {
            return;
        }
        let method = match reason {
            Some(reason) if self.has_published && !self.told_blocked => {
                connection::AMQPMethod::Blocked(connection::Blocked {
                    reason: reason.into(),
                })
            }
            None if self.told_blocked => {
                connection::AMQPMethod::Unblocked(connection::Unblocked {})
            }
            _ => return,
        };
        self.told_blocked = reason.is_some();
        self.conn.reply(0, &AMQPClass::Connection(method));
    }

    pub(super) fn tell_confirms(&mut self) {
        for (&channel, confirms) in &mut self.confirms {
            let out = self.conn.output();
            confirms.drain(|confirm| match confirm {
                Confirm::Ack { tag, multiple } => hot::confirm_ack(out, channel, tag, multiple),
                Confirm::Nack { tag } => hot::confirm_nack(out, channel, tag),
            });
        }
    }
}
