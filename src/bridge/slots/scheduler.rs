//! Who runs next.
//!
//! A slot that is free while somebody who may run waits is granted before the lock is let go of, so that nobody is
//! ever left waiting beside it. Interactive requests go before batch ones; within a class the keys take turns, and
//! a key that runs as much as it may holds nobody up. In a full queue a key that has nothing in it takes the place of
//! another's newest.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Claim;
use super::ring::{Ring, Waiter};
use crate::bridge::health::SlotHealth;
use crate::model::{CallTicket, KeyId, Priority};

/// While both classes wait, this many interactive grants are followed by one to batch, which so is never starved.
const INTERACTIVE_GRANTS: u32 = 8;

#[derive(Debug)]
pub(super) struct Scheduler {
    slots: usize,
    queue: usize,
    in_use: usize,
    /// Turns of each key that runs any.
    running: HashMap<KeyId, usize>,
    interactive: Ring,
    batch: Ring,
    /// Interactive grants in a row that batch could have had.
    passed_over: u32,
    last_number: u64,
    /// Only calls that have begun may enter.
    closed: bool,
    /// Nobody may.
    shut: bool,
    /// Moving average of how long a slot is held; for `Retry-After`.
    held: Duration,
    /// When the first slot was given.
    first: Option<Instant>,
    counts: SlotCounts,
}

/// What became of requests for slots, counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Slots given to interactive requests.
    pub granted_interactive: u64,
    /// Slots given to batch requests.
    pub granted_batch: u64,
    /// Refused because the queue was full.
    pub refused_full: u64,
    /// Refused because the key's or the class's share of the queue was full.
    pub refused_share: u64,
    /// Refused after the longest wait.
    pub timed_out: u64,
    /// Left the queue by themselves.
    pub left: u64,
}

pub(super) enum Entered {
    Granted,
    Waiting { number: u64, granted: oneshot::Receiver<Result<(), Refused>> },
}

#[derive(Debug)]
pub(super) enum Refused {
    Closed,
    Full { retry_after: Duration },
}

impl Scheduler {
    pub(super) fn new(slots: usize, queue: usize) -> Self {
        Self {
            slots,
            queue,
            in_use: 0,
            running: HashMap::new(),
            interactive: Ring::default(),
            batch: Ring::default(),
            passed_over: 0,
            last_number: 0,
            closed: false,
            shut: false,
            held: Duration::ZERO,
            first: None,
            counts: SlotCounts::default(),
        }
    }

    /// A slot, a place in the queue, or neither.
    pub(super) fn enter(&mut self, claim: &Claim) -> Result<Entered, Refused> {
        if self.shut || self.closed && !claim.call.has_begun() {
            return Err(Refused::Closed);
        }
        // What the key may do now holds for those of it who wait, too.
        self.interactive.bind(&claim.key, claim.concurrency);
        self.batch.bind(&claim.key, claim.concurrency);
        self.dispatch();
        if self.in_use < self.slots && may_run(&self.running, &claim.key, claim.concurrency) {
            self.begin(&claim.key, claim.priority);
            return Ok(Entered::Granted);
        }
        let (full, shared) = (self.queued() >= self.queue, self.has_used_its_share(claim));
        if (full || shared) && !self.make_room(claim) {
            let counts = &mut self.counts;
            *(if full { &mut counts.refused_full } else { &mut counts.refused_share }) += 1;
            return Err(self.full(claim));
        }
        self.last_number += 1;
        let number = self.last_number;
        let (grant, granted) = oneshot::channel();
        let waiter = Waiter { number, granted: grant };
        self.ring(claim.priority).push(&claim.key, claim.concurrency, waiter);
        Ok(Entered::Waiting { number, granted })
    }

    /// Whoever waited leaves.
    pub(super) fn leave(&mut self, claim: &Claim, number: u64) {
        if self.remove(claim, number) {
            self.counts.left += 1;
        }
    }

    /// Whoever waited has waited too long.
    pub(super) fn timed_out(&mut self, claim: &Claim, number: u64) -> Refused {
        if self.remove(claim, number) {
            self.counts.timed_out += 1;
        }
        self.full(claim)
    }

    /// A slot comes back that was held for so long.
    pub(super) fn release(&mut self, key: &KeyId, held: Duration) {
        self.held = if self.held.is_zero() { held } else { self.held / 8 * 7 + held / 8 };
        self.hand_on(key);
    }

    /// A slot comes back unused.
    pub(super) fn hand_on(&mut self, key: &KeyId) {
        self.end(key);
        self.dispatch();
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.interactive.clear();
        self.batch.clear();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn shut(&mut self) {
        self.close();
        self.shut = true;
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    pub(super) fn health(&self) -> SlotHealth {
        SlotHealth {
            total: self.slots,
            in_use: self.in_use,
            queued: self.queued(),
            queued_batch: self.batch.len(),
            queue_limit: self.queue,
            counts: self.counts,
        }
    }

    /// Grants what is free to those who may have it.
    fn dispatch(&mut self) {
        while self.in_use < self.slots
            && let Some((key, priority, waiter)) = self.next()
        {
            self.begin(&key, priority);
            if waiter.granted.send(Ok(())).is_err() {
                self.end(&key);
            }
        }
    }

    fn remove(&mut self, claim: &Claim, number: u64) -> bool {
        let removed = self.ring(claim.priority).remove(&claim.key, number);
        // The next of its key may be held to less.
        self.dispatch();
        removed
    }

    fn next(&mut self) -> Option<(KeyId, Priority, Waiter)> {
        let may_run = |key: &KeyId, concurrency| may_run(&self.running, key, concurrency);
        let batch_waits = self.batch.has(&may_run);
        let batch_is_due = batch_waits && self.passed_over >= INTERACTIVE_GRANTS;
        if !batch_is_due && let Some((key, waiter)) = self.interactive.take(&may_run) {
            self.passed_over = if batch_waits { self.passed_over + 1 } else { 0 };
            return Some((key, Priority::Interactive, waiter));
        }
        self.passed_over = 0;
        let (key, waiter) = self.batch.take(&may_run)?;
        Some((key, Priority::Batch, waiter))
    }

    fn begin(&mut self, key: &KeyId, priority: Priority) {
        self.first.get_or_insert_with(Instant::now);
        self.in_use += 1;
        *self.running.entry(key.clone()).or_default() += 1;
        match priority {
            Priority::Interactive => self.counts.granted_interactive += 1,
            Priority::Batch => self.counts.granted_batch += 1,
        }
    }

    fn end(&mut self, key: &KeyId) {
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(running) = self.running.get_mut(key) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(key);
            }
        }
    }

    fn queued(&self) -> usize {
        self.interactive.len() + self.batch.len()
    }

    /// One key, and batch as a whole, get at most half of the queue: the other half is there for whoever comes
    /// next. Where there are no keys there is nobody to keep room for.
    fn has_used_its_share(&self, claim: &Claim) -> bool {
        let share = self.queue.div_ceil(2);
        let alone = claim.key == KeyId::anonymous();
        (!alone && self.waiting_of(&claim.key) >= share)
            || (claim.priority == Priority::Batch && self.batch.len() >= share)
    }

    /// A key with nothing in the queue gets a place before another has two: the newest of the one with most goes,
    /// batch first. Batch takes none of interactive's. Gives whether there is room now.
    fn make_room(&mut self, claim: &Claim) -> bool {
        if claim.key == KeyId::anonymous() || self.waiting_of(&claim.key) > 0 {
            return false;
        }
        let rings: &[Priority] = match claim.priority {
            Priority::Interactive => &[Priority::Batch, Priority::Interactive],
            Priority::Batch => &[Priority::Batch],
        };
        let mut waiting: HashMap<KeyId, usize> = HashMap::new();
        for priority in rings {
            for (key, length) in self.ring(*priority).lengths() {
                *waiting.entry(key.clone()).or_default() += length;
            }
        }
        let most = waiting
            .into_iter()
            .filter(|(_, length)| *length > 1)
            .max_by(|(key, length), (other, most)| (length, key).cmp(&(most, other)));
        let Some((key, _)) = most else { return false };
        let Some((priority, waiter)) =
            rings.iter().find_map(|priority| Some((*priority, self.ring(*priority).take_newest(&key)?)))
        else {
            return false;
        };
        self.counts.refused_share += 1;
        let refused = self.full(&Claim { key, priority, concurrency: None, call: CallTicket::default() });
        // One who has left meanwhile has made room as well.
        let _ = waiter.granted.send(Err(refused));
        true
    }

    fn waiting_of(&self, key: &KeyId) -> usize {
        self.interactive.len_of(key) + self.batch.len_of(key)
    }

    fn full(&self, claim: &Claim) -> Refused {
        Refused::Full { retry_after: self.retry_after(claim) }
    }

    /// How long those before it take at the present pace, within the key's own bound too; at least a second.
    fn retry_after(&self, claim: &Claim) -> Duration {
        let before = match claim.priority {
            Priority::Interactive => self.interactive.len(),
            Priority::Batch => self.queued(),
        };
        let own = |bound: usize| self.waiting_of(&claim.key) / bound.max(1) + 1;
        let rounds = (before / self.slots.max(1) + 1).max(claim.concurrency.map_or(0, own));
        // Before the first has ended: it takes at least as long as it has taken.
        let since_first = || self.first.map_or(Duration::ZERO, |first| first.elapsed());
        let held = if self.held.is_zero() { since_first() } else { self.held };
        held.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX)).max(Duration::from_secs(1))
    }

    fn ring(&mut self, priority: Priority) -> &mut Ring {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Batch => &mut self.batch,
        }
    }
}

fn may_run(running: &HashMap<KeyId, usize>, key: &KeyId, concurrency: Option<usize>) -> bool {
    concurrency.is_none_or(|bound| running.get(key).copied().unwrap_or_default() < bound)
}
