//! What a connection asks of its shell, in wire order. Pure.
//!
//! Keeps: the many small events of a turn stay small in the queue; the rare ones are boxed.
//! In: `connection` and its parser fill the queue; the shell empties it by `poll_event`.

use std::collections::VecDeque;

use amq_protocol::protocol::AMQPClass;

use crate::reply::Close;

/// What the shell must act on, in wire order.
#[derive(Debug)]
pub enum Event {
    Login {
        mechanism: String,
        response: Vec<u8>,
    },
    Open {
        vhost: String,
    },
    ChannelOpen {
        channel: u16,
    },
    /// The client closes a channel: clean up, then `channel_closed`.
    ChannelClose {
        channel: u16,
    },
    Method {
        channel: u16,
        method: AMQPClass,
    },
    /// Consecutive publishes with equal address, mandatory bit and persistence.
    Publish {
        channel: u16,
        first: u32,
        count: u32,
        mandatory: bool,
        confirm: u64,
    },
    /// With `multiple` all up to `tag`; without, the `count` tags from `tag` on, which were acked
    /// one by one in this order.
    Ack {
        channel: u16,
        tag: u64,
        multiple: bool,
        count: u32,
    },
    Nack {
        channel: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Reject {
        channel: u16,
        tag: u64,
        requeue: bool,
    },
    ConfirmSelect {
        channel: u16,
        nowait: bool,
    },
    /// The machine found a fault: clean the channel up, then `close_channel`.
    ChannelError {
        channel: u16,
        close: Close,
    },
    /// The client closes the connection: clean up, then `connection_closed`.
    Closed {
        text: String,
    },
    /// The connection is at fault: clean up, then `close`.
    Failed(Close),
    /// Nothing more comes or goes: drop the socket after flushing.
    Gone,
}

/// Events in wire order, as small as the hot ones.
#[derive(Default)]
pub(crate) struct Events(VecDeque<Queued>);

enum Queued {
    Publish {
        channel: u16,
        first: u32,
        count: u32,
        mandatory: bool,
        confirm: u64,
    },
    Ack {
        channel: u16,
        tag: u64,
        multiple: bool,
        count: u32,
    },
    Nack {
        channel: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Reject {
        channel: u16,
        tag: u64,
        requeue: bool,
    },
    Other(Box<Event>),
}

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        self.0.push_back(Queued::Other(Box::new(event)));
    }

    /// Single acks in the order of their tags become one event.
    pub(crate) fn ack(&mut self, number: u16, at: u64, multiple: bool) {
        if let Some(Queued::Ack {
            channel,
            tag,
            multiple: false,
            count,
        }) = self.0.back_mut()
            && *channel == number
            && !multiple
            && tag.checked_add(u64::from(*count)) == Some(at)
            && *count < u32::MAX
            && at < u64::MAX
        {
            *count += 1;
            return;
        }
        self.0.push_back(Queued::Ack {
            channel: number,
            tag: at,
            multiple,
            count: 1,
        });
    }

    pub(crate) fn reject(&mut self, channel: u16, tag: u64, requeue: bool) {
        self.0.push_back(Queued::Reject {
            channel,
            tag,
            requeue,
        });
    }

    pub(crate) fn nack(&mut self, channel: u16, tag: u64, multiple: bool, requeue: bool) {
        self.0.push_back(Queued::Nack {
            channel,
            tag,
            multiple,
            requeue,
        });
    }

    /// The content at `at` of the turn's block; `alike` when it may share the run of the one
    /// before.
    pub(crate) fn publish(
        &mut self,
        number: u16,
        at: u32,
        alike: bool,
        mandatory: bool,
        confirm: u64,
    ) {
        if let Some(Queued::Publish {
            channel,
            first,
            count,
            mandatory: same,
            ..
        }) = self.0.back_mut()
            && alike
            && *channel == number
            && *same == mandatory
            && *first + *count == at
        {
            *count += 1;
            return;
        }
        self.0.push_back(Queued::Publish {
            channel: number,
            first: at,
            count: 1,
            mandatory,
            confirm,
        });
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Event> {
        Some(match self.0.pop_front()? {
            Queued::Publish {
                channel,
                first,
                count,
                mandatory,
                confirm,
            } => Event::Publish {
                channel,
                first,
                count,
                mandatory,
                confirm,
            },
            Queued::Ack {
                channel,
                tag,
                multiple,
                count,
            } => Event::Ack {
                channel,
                tag,
                multiple,
                count,
            },
            Queued::Nack {
                channel,
                tag,
                multiple,
                requeue,
            } => Event::Nack {
                channel,
                tag,
                multiple,
                requeue,
            },
            Queued::Reject {
                channel,
                tag,
                requeue,
            } => Event::Reject {
                channel,
                tag,
                requeue,
            },
            Queued::Other(event) => *event,
        })
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Leaves a channel's events out; true when its client's close was among them.
    pub(crate) fn forget(&mut self, number: u16) -> bool {
        let mut closes = false;
        self.0.retain(|event| {
            let of = event.channel() == Some(number);
            closes |= of
                && matches!(event, Queued::Other(event)
                    if matches!(**event, Event::ChannelClose { .. }));
            !of
        });
        closes
    }

    /// Gives room back when nothing waits.
    pub(crate) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.0.capacity()
    }
}

impl Queued {
    fn channel(&self) -> Option<u16> {
        match self {
            Self::Publish { channel, .. }
            | Self::Ack { channel, .. }
            | Self::Nack { channel, .. }
            | Self::Reject { channel, .. } => Some(*channel),
            Self::Other(event) => event.channel(),
        }
    }
}

impl Event {
    /// The channel that it happened on; `None` for the connection's own.
    fn channel(&self) -> Option<u16> {
        match self {
            Self::ChannelOpen { channel }
            | Self::ChannelClose { channel }
            | Self::Method { channel, .. }
            | Self::Publish { channel, .. }
            | Self::Ack { channel, .. }
            | Self::Nack { channel, .. }
            | Self::Reject { channel, .. }
            | Self::ConfirmSelect { channel, .. }
            | Self::ChannelError { channel, .. } => Some(*channel),
            Self::Login { .. }
            | Self::Open { .. }
            | Self::Closed { .. }
            | Self::Failed(_)
            | Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_events_stay_small() {
        assert!(size_of::<Queued>() <= 24, "{} B", size_of::<Queued>());
    }

    #[test]
    fn single_acks_in_order_are_one_event() {
        let mut events = Events::default();
        for (channel, tag, multiple) in [
            (1, 5, false),
            (1, 6, false),
            (1, 7, false),
            (1, 9, false),
            (2, 10, false),
            (2, 11, true),
            (2, 12, false),
            (2, u64::MAX - 1, false),
            (2, u64::MAX, false),
            (2, 0, false),
        ] {
            events.ack(channel, tag, multiple);
        }
        let runs: Vec<_> = std::iter::from_fn(|| events.pop())
            .map(|event| match event {
                Event::Ack {
                    channel,
                    tag,
                    multiple,
                    count,
                } => (channel, tag, multiple, count),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            runs,
            [
                (1, 5, false, 3),
                (1, 9, false, 1),
                (2, 10, false, 1),
                (2, 11, true, 1),
                (2, 12, false, 1),
                (2, u64::MAX - 1, false, 1),
                (2, u64::MAX, false, 1),
                (2, 0, false, 1),
            ]
        );
    }

    #[test]
    fn order_holds_across_sizes_and_a_forgotten_channel_leaves_no_trace() {
        let mut events = Events::default();
        events.ack(1, 7, true);
        events.push(Event::ChannelOpen { channel: 2 });
        events.publish(1, 0, false, true, 5);
        events.publish(1, 1, true, true, 6);
        events.publish(1, 2, true, false, 7);
        events.publish(2, 3, true, false, 0);
        events.nack(2, 8, true, false);
        events.push(Event::ChannelClose { channel: 1 });
        events.push(Event::Gone);
        assert!(!events.forget(2));
        let left: Vec<_> = std::iter::from_fn(|| events.pop()).collect();
        assert!(
            matches!(
                left[..],
                [
                    Event::Ack {
                        channel: 1,
                        tag: 7,
                        multiple: true,
                        count: 1
                    },
                    Event::Publish {
                        first: 0,
                        count: 2,
                        mandatory: true,
                        confirm: 5,
                        ..
                    },
                    Event::Publish {
                        first: 2,
                        count: 1,
                        mandatory: false,
                        confirm: 7,
                        ..
                    },
                    Event::ChannelClose { channel: 1 },
                    Event::Gone
                ]
            ),
            "{left:?}"
        );
        events.push(Event::ChannelClose { channel: 1 });
        assert!(events.forget(1));
        assert!(events.pop().is_none());
    }
}
