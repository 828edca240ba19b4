//! Concurrency slots with a bounded, fair queue.
//!
//! The [`Scheduler`] decides, behind a mutex that is held for moments; here is what waits and gives back.

mod ring;
mod scheduler;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

pub use self::scheduler::SlotCounts;

use self::scheduler::{Entered, Refused, Scheduler};
use super::BridgeError;
use super::health::SlotHealth;
use crate::config::AdmissionConfig;
use crate::model::{CallTicket, KeyId, Priority, TurnRequest};

/// Hands out slots. When there is no room to wait a request is refused at once.
#[derive(Debug)]
pub(super) struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    scheduler: Mutex<Scheduler>,
    queue_timeout: Duration,
    /// Counts the calls that have begun.
    calls: TaskTracker,
}

/// Who wants a slot.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) key: KeyId,
    pub(super) priority: Priority,
    /// Most turns of the key at once.
    pub(super) concurrency: Option<usize>,
    /// A call that has begun is not kept from its end.
    pub(super) call: CallTicket,
}

/// The right to run one turn; goes back by drop.
#[derive(Debug)]
pub(super) struct Slot {
    shared: Arc<Shared>,
    key: KeyId,
    since: Instant,
}

/// A place in the queue. Dropped, it is given back, and with it the slot that it may have been granted already.
struct Ticket {
    shared: Arc<Shared>,
    /// `None` once its slot was taken over.
    claim: Option<Claim>,
    number: u64,
    granted: oneshot::Receiver<Result<(), Refused>>,
}

impl Claim {
    pub(super) fn of(request: &TurnRequest) -> Self {
        Self {
            key: request.key.clone(),
            priority: request.priority,
            concurrency: request.concurrency,
            call: request.ticket.clone(),
        }
    }
}

impl Slots {
    pub(super) fn new(config: &AdmissionConfig) -> Self {
        let scheduler = Mutex::new(Scheduler::new(config.slots, config.queue));
        Self(Arc::new(Shared { scheduler, queue_timeout: config.queue_timeout, calls: TaskTracker::new() }))
    }

    /// Waits for a slot, within the queue's bounds. Cancel-safe: whoever leaves holds nothing.
    pub(super) async fn acquire(&self, claim: Claim) -> Result<Slot, BridgeError> {
        let until = Instant::now() + self.0.queue_timeout;
        let call = claim.call.clone();
        let slot = loop {
            match self.wait(claim.clone(), until).await {
                // All had to leave the queue; this one may come back.
                Err(BridgeError::Draining) if call.has_begun() && !self.0.lock().is_shut() => {}
                waited => break waited?,
            }
        };
        call.begin(&self.0.calls);
        Ok(slot)
    }

    async fn wait(&self, claim: Claim, until: Instant) -> Result<Slot, BridgeError> {
        let entered = self.0.lock().enter(&claim);
        let (number, granted) = match entered {
            Ok(Entered::Granted) => return Ok(self.0.slot(claim.key)),
            Ok(Entered::Waiting { number, granted }) => (number, granted),
            Err(refused) => return Err(refused.into()),
        };
        let mut ticket = Ticket { shared: Arc::clone(&self.0), claim: Some(claim), number, granted };
        match timeout_at(until, &mut ticket.granted).await {
            Ok(Ok(Ok(()))) => ticket.take_over(),
            // It is in the queue no more.
            Ok(Ok(Err(refused))) => Err(ticket.refused(refused)),
            Ok(Err(_closed)) => Err(BridgeError::Draining),
            Err(_elapsed) => ticket.give_up(),
        }
    }

    /// Refuses everyone who waits or comes, but for the further turns of calls that have begun; slots that are held
    /// stay held.
    pub(super) fn close(&self) {
        self.0.lock().close();
    }

    /// Refuses those too.
    pub(super) fn shut(&self) {
        self.0.lock().shut();
    }

    /// Calls that have begun and not ended: each has turns that run, or may yet have some.
    pub(super) fn calls(&self) -> usize {
        self.0.calls.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().is_closed()
    }

    pub(super) fn health(&self) -> SlotHealth {
        self.0.lock().health()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>, key: KeyId) -> Slot {
        Slot { shared: Arc::clone(self), key, since: Instant::now() }
    }
}

impl Ticket {
    /// The slot that was granted.
    fn take_over(mut self) -> Result<Slot, BridgeError> {
        let claim = self.claim.take().ok_or(BridgeError::Draining)?;
        Ok(self.shared.slot(claim.key))
    }

    /// Its place went to somebody else: there is nothing to give back.
    fn refused(mut self, refused: Refused) -> BridgeError {
        self.claim = None;
        refused.into()
    }

    /// The wait was too long, unless the slot comes at the last moment.
    fn give_up(mut self) -> Result<Slot, BridgeError> {
        let shared = Arc::clone(&self.shared);
        let mut scheduler = shared.lock();
        match self.granted.try_recv() {
            Ok(Ok(())) => {
                drop(scheduler);
                return self.take_over();
            }
            Ok(Err(refused)) => return Err(self.refused(refused)),
            Err(_) => {}
        }
        let claim = self.claim.take().ok_or(BridgeError::Draining)?;
        Err(scheduler.timed_out(&claim, self.number).into())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(claim) = &self.claim else { return };
        let mut scheduler = self.shared.lock();
        // Under the lock: nothing is granted between the look and the leaving.
        match self.granted.try_recv() {
            Ok(Ok(())) => scheduler.hand_on(&claim.key),
            Ok(Err(_)) => {}
            Err(_) => scheduler.leave(claim, self.number),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.lock().release(&self.key, self.since.elapsed());
    }
}

impl From<Refused> for BridgeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Closed => Self::Draining,
            Refused::Full { retry_after } => Self::Busy { retry_after },
        }
    }
}
