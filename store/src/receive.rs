//! Messages for workers that ask for some, hold them by leases and settle them one by one.
//!
//! Keeps: a caller that goes away while it waits takes nothing with it; a settlement is on disk
//! when it is answered.
//! In: the HTTP routes.  Out: `shard::receive`.

use std::sync::Arc;
use std::time::Duration;

use amqp::content::{Address, Block};
use tokio::sync::{Notify, oneshot};

use crate::model::{KeyClaim, Micros, QueueId};
use crate::shard::Run;
use crate::shard::receive::{Begun, Ending, LeaseKey, Leased, Wish};
use crate::{Error, Result, Store, StoreInner};

/// A receiver that does not wait for messages still waits so long for one that is on disk only, or
/// whose delivery must be on record first.
const READ_BACK: Duration = Duration::from_secs(1);

/// Hands over what comes for receivers that wait.
pub(crate) async fn run(store: Arc<StoreInner>, notify: Arc<Notify>) {
    while !store.is_stopping() {
        notify.notified().await;
        store.lock().hand_over();
    }
}

/// A receiver that waits.
struct Waiter<'a> {
    store: &'a Store,
    tag: Arc<[u8]>,
    told: oneshot::Receiver<Result<Vec<Leased>>>,
}

impl Waiter<'_> {
    /// Waits no longer; answers what came at the last moment.
    fn give_up(&mut self) -> Result<Vec<Leased>> {
        self.store.lock().give_up(&self.tag);
        self.told.try_recv().unwrap_or(Ok(Vec::new()))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Ok(handed) = self.give_up() else {
            return;
        };
        let mut shard = self.store.lock();
        for leased in handed {
            shard.end_lease(leased.key, Ending::Released);
        }
    }
}

impl Store {
    /// Up to so many messages of a queue, in the turns and the order of its consumers; waits so
    /// long for the first. None at the end of the wait.
    ///
    /// # Errors
    /// `NotFound` when there is no such queue or it is deleted meanwhile, `Exclusive` and `Refused`
    /// when others have it for themselves, `Busy` when too many wait.
    pub async fn receive(
        &self,
        (vhost, queue): (&str, &str),
        (max, lease_ms): (u32, Option<u64>),
        wait: Duration,
    ) -> Result<Vec<Leased>> {
        let wish = Wish {
            max,
            waits: !wait.is_zero(),
            lease_ms,
        };
        let begun = {
            let mut shard = self.lock();
            let id = shard.queue(0, vhost, queue)?;
            shard.receive(id, &wish)?
        };
        let (tag, told) = match begun {
            Begun::Handed(messages) => return Ok(messages),
            Begun::Waiting(tag, told) => (tag, told),
        };
        let mut waiter = Waiter {
            store: self,
            tag,
            told,
        };
        let limit = if wish.waits { wait } else { READ_BACK };
        match tokio::time::timeout(limit, &mut waiter.told).await {
            Ok(Ok(handed)) => handed,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => waiter.give_up(),
        }
    }

    /// Ends a lease; returns when that is on disk. False: it had ended before.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn end_lease(&self, lease: LeaseKey, ending: Ending<'_>) -> Result<bool> {
        let told = {
            let mut shard = self.lock();
            if !shard.end_lease(lease, ending) {
                return Ok(false);
            }
            shard.on_disk()
        };
        told.await.map_err(|_| Error::Stopped)?;
        Ok(true)
    }

    /// Gives a lease more time; answers until when, or nothing when it has ended.
    pub fn extend_lease(&self, lease: LeaseKey, ms: Option<u64>) -> Option<Micros> {
        self.lock().extend_lease(lease, ms)
    }

    /// Publishes to a queue, through the default exchange; returns when all that was accepted is on
    /// disk. Of each message: was there room for it? With a key the messages are accepted all
    /// together, and the key with them, or none is.
    ///
    /// # Errors
    /// `NotFound` when there is no such queue.
    pub async fn publish_to_queue(
        &self,
        (vhost, queue): (&str, &str),
        messages: &[(Vec<u8>, Vec<u8>)],
        key: Option<KeyClaim>,
    ) -> Result<Vec<bool>> {
        let vhost: Arc<str> = vhost.into();
        let (accepted, told) = {
            let mut shard = self.lock();
            let id: Option<QueueId> = match shard.is_job_reply(queue) {
                true => None,
                false => Some(shard.queue(0, &vhost, queue)?),
            };
            if key.is_some() {
                let bytes = messages.iter().map(|(_, body)| body.len() as u64).sum();
                let count = messages.len() as u64;
                if id.is_some_and(|id| !shard.has_room(id, count, bytes)) {
                    return Ok(vec![false; messages.len()]);
                }
            }
            let mut accepted = Vec::with_capacity(messages.len());
            for (properties, body) in messages {
                // What is refused is published too: it may go where the dead go.
                let mut block = Block::default();
                block.push(&Address::new(b"", queue.as_bytes()), properties, body);
                // There is no connection to stop.
                let stopped = id.is_some_and(|id| shard.blocks_now(id));
                let full = stopped || id.is_some_and(|id| shard.refuses_message(id, &block, 0));
                if !stopped {
                    shard.publish(&Run::alone(&vhost, &Arc::new(block)))?;
                }
                accepted.push(!full);
            }
            // Where a full window refused some, a repetition finds the others' keys in it.
            if let Some(key) = key.filter(|_| !accepted.contains(&false)) {
                shard.claim_alone(key);
            }
            (accepted, shard.on_disk())
        };
        told.await.map_err(|_| Error::Stopped)?;
        Ok(accepted)
    }
}
