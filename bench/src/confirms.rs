//! A publisher's window of unconfirmed messages. Pure.
//!
//! Keeps: each delivery tag is confirmed at most once, in any order, single or as a range.
//! Never: waits or writes; `producer` asks `room` before it sends.
//!
//! ```text
//!   base            next
//!    v                v
//! ...|x.x..x..........|        x = confirmed ahead of an older one
//! ```

use crate::latency::Latency;

/// Tags are given from 1 on, as the broker counts them.
#[derive(Debug)]
pub(crate) struct Window {
    limit: u64,
    base: u64,
    next: u64,
    unconfirmed: u64,
    /// Ring over tags: confirmed before its elders.
    early: Vec<bool>,
    /// Ring over tags: when the message was meant to be sent, ns.
    sent_at: Vec<u64>,
}

/// A confirm for a tag that is not outstanding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unexpected(pub(crate) u64);

impl Window {
    pub(crate) fn new(limit: usize) -> Self {
        // Out-of-order confirms may stretch the ring beyond the limit.
        let ring = (limit * 4).next_power_of_two();
        Self {
            limit: limit as u64,
            base: 1,
            next: 1,
            unconfirmed: 0,
            early: vec![false; ring],
            sent_at: vec![0; ring],
        }
    }

    /// How many messages may be sent now.
    pub(crate) fn room(&self) -> usize {
        let by_count = self.limit - self.unconfirmed;
        let by_ring = self.early.len() as u64 - (self.next - self.base);
        by_count.min(by_ring) as usize
    }

    /// So many are confirmed from the first on, without a gap.
    pub(crate) fn confirmed_below(&self) -> u64 {
        self.base - 1
    }

    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed
    }

    #[inline]
    pub(crate) fn publish(&mut self, at_ns: u64) {
        debug_assert!(self.room() > 0, "publish needs room");
        let slot = self.slot(self.next);
        self.sent_at[slot] = at_ns;
        self.next += 1;
        self.unconfirmed += 1;
    }

    /// Takes a confirm; returns how many messages it settled. Tag 0 with `multiple` means all.
    pub(crate) fn confirm(
        &mut self,
        tag: u64,
        multiple: bool,
        now_ns: u64,
        latency: Option<&mut Latency>,
    ) -> Result<u64, Unexpected> {
        let tag = if multiple && tag == 0 {
            self.next - 1
        } else {
            tag
        };
        if tag >= self.next || tag < self.base {
            return Err(Unexpected(tag));
        }
        let before = self.unconfirmed;
        let mut latency = latency;
        if multiple {
            for older in self.base..=tag {
                self.settle(older, now_ns, latency.as_deref_mut());
            }
        } else if !self.settle(tag, now_ns, latency) {
            return Err(Unexpected(tag));
        }
        while self.base < self.next {
            let slot = self.slot(self.base);
            if !self.early[slot] {
                break;
            }
            self.early[slot] = false;
            self.base += 1;
        }
        Ok(before - self.unconfirmed)
    }

    #[inline]
    fn settle(&mut self, tag: u64, now_ns: u64, latency: Option<&mut Latency>) -> bool {
        let slot = self.slot(tag);
        if self.early[slot] {
            return false;
        }
        self.early[slot] = true;
        self.unconfirmed -= 1;
        if let Some(latency) = latency {
            latency.record(now_ns.saturating_sub(self.sent_at[slot]));
        }
        true
    }

    #[inline]
    fn slot(&self, tag: u64) -> usize {
        tag as usize & (self.early.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn filled(limit: usize) -> Window {
        let mut window = Window::new(limit);
        for at in 0..limit {
            window.publish(at as u64);
        }
        window
    }

    #[test]
    fn room_shrinks_and_comes_back() {
        let mut window = filled(10);
        assert_eq!(window.room(), 0);
        assert_eq!(window.confirm(4, true, 0, None), Ok(4));
        assert_eq!((window.room(), window.unconfirmed()), (4, 6));
    }

    #[test]
    fn single_confirms_out_of_order_are_not_counted_again_by_a_range() {
        let mut window = filled(5);
        assert_eq!(window.confirm(3, false, 0, None), Ok(1));
        assert_eq!(window.confirm(1, false, 0, None), Ok(1));
        assert_eq!(window.confirm(4, true, 0, None), Ok(2));
        assert_eq!(window.unconfirmed(), 1);
        assert_eq!(window.base, 5);
    }

    #[test]
    fn tag_zero_with_multiple_confirms_all() {
        assert_eq!(filled(5).confirm(0, true, 0, None), Ok(5));
    }

    #[test]
    fn a_second_or_unknown_confirm_is_refused() {
        let mut window = filled(5);
        window.confirm(3, false, 0, None).unwrap();
        assert_eq!(window.confirm(3, false, 0, None), Err(Unexpected(3)));
        window.confirm(5, true, 0, None).unwrap();
        assert_eq!(window.confirm(2, false, 0, None), Err(Unexpected(2)));
        assert_eq!(window.confirm(6, false, 0, None), Err(Unexpected(6)));
    }

    #[test]
    fn the_ring_wraps_for_many_rounds() {
        let mut window = Window::new(3);
        for tag in 1..=10_000u64 {
            window.publish(tag);
            assert_eq!(window.confirm(tag, tag % 2 == 0, tag, None), Ok(1));
        }
        assert_eq!(window.room(), 3);
    }

    #[test]
    fn a_stuck_oldest_tag_stops_the_sender_before_the_ring_overruns() {
        let mut window = Window::new(4);
        for _ in 0..100 {
            while window.room() > 0 {
                window.publish(0);
            }
            let newest = window.next - 1;
            if newest > 1 && window.confirm(newest, false, 0, None).is_err() {
                break;
            }
        }
        assert!(window.next - window.base <= window.early.len() as u64);
    }

    #[test]
    fn latency_is_taken_from_the_send_time_of_each_tag() {
        let mut latency = Latency::new();
        let mut window = Window::new(4);
        window.publish(1_000_000);
        window.publish(2_000_000);
        window
            .confirm(2, true, 5_000_000, Some(&mut latency))
            .unwrap();
        assert_eq!(latency.count(), 2);
        let quantiles = latency.quantiles().unwrap();
        assert!((quantiles.max_us - 4_000.0).abs() < 40.0);
    }
}
