//! What is continued over the socket that it was made on, and goes with it: its `store: false` responses.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lanes::Lane;
use crate::bridge::Bridge;
use crate::model::{KeyId, ResponseId};

/// Most of one socket; past it the oldest goes, and what continued it goes on.
const MOST: usize = 1024;

/// Those of one socket. All are forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct Unstored {
    bridge: Bridge,
    /// Oldest first. Locked for a moment only.
    made: Mutex<VecDeque<Made>>,
}

#[derive(Debug)]
struct Made {
    id: ResponseId,
    key: KeyId,
    lane: Lane,
}

impl Unstored {
    pub(super) fn new(bridge: Bridge) -> Self {
        Self { bridge, made: Mutex::default() }
    }

    /// One is about to be made.
    pub(super) fn add(&self, id: ResponseId, key: KeyId, lane: Lane) {
        let mut made = self.lock();
        let oldest = if made.len() < MOST { None } else { made.pop_front() };
        made.push_back(Made { id, key, lane });
        drop(made);
        if let Some(oldest) = oldest {
            self.forget(&oldest);
        }
    }

    /// A request on `lane` that continues it has failed, so that it cannot be continued again. One of another lane
    /// stays, for that lane.
    pub(super) fn evict(&self, id: &ResponseId, lane: &Lane) {
        let mut made = self.lock();
        let at = made.iter().position(|made| made.id == *id && made.lane == *lane);
        let evicted = at.and_then(|at| made.remove(at));
        drop(made);
        if let Some(evicted) = evicted {
            self.forget(&evicted);
        }
    }

    fn forget(&self, made: &Made) {
        self.bridge.forget_unstored(&made.id, &made.key);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unstored {
    fn drop(&mut self) {
        let made = std::mem::take(&mut *self.lock());
        for made in &made {
            self.forget(made);
        }
    }
}
