//! Concurrency slots with a bounded, fair queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::BridgeError;
use super::health::SlotHealth;
use crate::config::AdmissionConfig;

/// Hands out slots, first come first served. When the queue is full a request is refused at once.
#[derive(Debug)]
pub(super) struct Slots {
    /// Fair: the runtime's semaphore queues waiters in order. Closed on drain.
    semaphore: Arc<Semaphore>,
    config: AdmissionConfig,
    queued: AtomicUsize,
    /// Moving average of how long a slot is held, microseconds; for `Retry-After`.
    held_us: Arc<AtomicU64>,
}

/// The right to run one turn; goes back by drop.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    since: Instant,
    held_us: Arc<AtomicU64>,
}

impl Slots {
    pub(super) fn new(config: AdmissionConfig) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(config.slots)),
            config,
            queued: AtomicUsize::new(0),
            held_us: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Waits for a slot, within the queue's bounds.
    pub(super) async fn acquire(&self) -> Result<Slot, BridgeError> {
        if let Ok(permit) = Arc::clone(&self.semaphore).try_acquire_owned() {
            return Ok(self.slot(permit));
        }
        if self.semaphore.is_closed() {
            return Err(BridgeError::Draining);
        }
        let Some(_place) = Place::take(&self.queued, self.config.queue) else {
            return Err(BridgeError::Busy { retry_after: self.retry_after() });
        };
        let wait = Arc::clone(&self.semaphore).acquire_owned();
        match tokio::time::timeout(self.config.queue_timeout, wait).await {
            Ok(Ok(permit)) => Ok(self.slot(permit)),
            Ok(Err(_closed)) => Err(BridgeError::Draining),
            Err(_elapsed) => Err(BridgeError::Busy { retry_after: self.retry_after() }),
        }
    }

    /// Refuses everyone who waits or comes; slots that are held stay held.
    pub(super) fn close(&self) {
        self.semaphore.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.semaphore.is_closed()
    }

    pub(super) fn health(&self) -> SlotHealth {
        SlotHealth {
            total: self.config.slots,
            in_use: self.config.slots.saturating_sub(self.semaphore.available_permits()),
            queued: self.queued.load(Ordering::Relaxed),
            queue_limit: self.config.queue,
        }
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot { _permit: permit, since: Instant::now(), held_us: Arc::clone(&self.held_us) }
    }

    /// How long the present queue takes at the present pace; at least a second.
    fn retry_after(&self) -> Duration {
        let held = Duration::from_micros(self.held_us.load(Ordering::Relaxed));
        let rounds = self.queued.load(Ordering::Relaxed) / self.config.slots.max(1) + 1;
        (held * u32::try_from(rounds).unwrap_or(u32::MAX)).max(Duration::from_secs(1))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let held = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        // A lost update between two drops only makes an estimate a little older.
        let average = self.held_us.load(Ordering::Relaxed);
        let next = if average == 0 { held } else { average - average / 8 + held / 8 };
        self.held_us.store(next, Ordering::Relaxed);
    }
}

/// A place in the queue; given back by drop, also when the waiting future is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(queued: &'a AtomicUsize, limit: usize) -> Option<Self> {
        queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .ok()
            .map(|_| Self(queued))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn slots(slots: usize, queue: usize) -> Arc<Slots> {
        Arc::new(Slots::new(AdmissionConfig { slots, queue, queue_timeout: Duration::from_secs(5) }))
    }

    fn waiting(slots: &Arc<Slots>) -> JoinSet<Result<(), BridgeError>> {
        let slots = Arc::clone(slots);
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { slots.acquire().await.map(drop) });
        waiting
    }

    fn figures(slots: &Slots) -> (usize, usize) {
        let health = slots.health();
        (health.in_use, health.queued)
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once_and_a_long_wait_later() {
        let slots = slots(1, 1);
        let held = slots.acquire().await.unwrap();
        let mut waiter = waiting(&slots);
        tokio::task::yield_now().await;
        assert_eq!(figures(&slots), (1, 1));
        assert!(matches!(slots.acquire().await, Err(BridgeError::Busy { .. })));
        let start = Instant::now();
        assert!(matches!(waiter.join_next().await.unwrap().unwrap(), Err(BridgeError::Busy { .. })));
        assert_eq!(start.elapsed().as_secs(), 5);
        drop(held);
        assert_eq!(figures(&slots), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_leaves_gives_its_place_back_and_takes_no_slot() {
        let slots = slots(1, 4);
        let held = slots.acquire().await.unwrap();
        let left = tokio::time::timeout(Duration::from_secs(1), slots.acquire()).await;
        assert!(left.is_err());
        assert_eq!(figures(&slots), (1, 0));
        drop(held);
        assert_eq!(figures(&slots), (0, 0));
        drop(slots.acquire().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn closing_refuses_waiters_and_newcomers() {
        let slots = slots(1, 4);
        let _held = slots.acquire().await.unwrap();
        let mut waiter = waiting(&slots);
        tokio::task::yield_now().await;
        slots.close();
        assert!(matches!(waiter.join_next().await.unwrap().unwrap(), Err(BridgeError::Draining)));
        assert!(matches!(slots.acquire().await, Err(BridgeError::Draining)));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_follows_the_pace() {
        let slots = slots(1, 0);
        let held = slots.acquire().await.unwrap();
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(held);
        let _held = slots.acquire().await.unwrap();
        let Err(BridgeError::Busy { retry_after }) = slots.acquire().await else { panic!("not refused") };
        assert_eq!(retry_after.as_secs(), 20);
    }
}
