//! Which request waits for which reply. Bookkeeping only: no I/O, no time, no locks.

use std::collections::{HashMap, VecDeque};

use super::error::DisconnectReason;

/// Abandoned ids remembered; past it the oldest is forgotten, and what a late reply would bring stays with
/// the app-server.
const ABANDONED: usize = 1024;

/// Waiting requests of one connection, by id.
#[derive(Debug)]
pub(super) struct Pending<W> {
    waiting: HashMap<u64, W>,
    /// Requests nobody waits for any more whose reply brings something to be let go (a thread).
    abandoned: VecDeque<u64>,
    closed: Option<DisconnectReason>,
}

impl<W> Pending<W> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new(), abandoned: VecDeque::new(), closed: None }
    }

    /// Waits for the reply to `id`; refused once the connection has ended.
    pub(super) fn insert(&mut self, id: u64, waiter: W) -> Result<(), DisconnectReason> {
        if let Some(reason) = &self.closed {
            return Err(reason.clone());
        }
        self.waiting.insert(id, waiter);
        Ok(())
    }

    /// The waiter for a reply that has come; `None` for an unknown id.
    pub(super) fn take(&mut self, id: u64) -> Option<W> {
        self.waiting.remove(&id)
    }

    /// Nobody waits for `id` any more.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    /// As [`Self::forget`], but what a late reply brings is to be let go.
    pub(super) fn abandon(&mut self, id: u64) {
        if self.waiting.remove(&id).is_some() {
            if self.abandoned.len() == ABANDONED {
                self.abandoned.pop_front();
            }
            self.abandoned.push_back(id);
        }
    }

    /// Whether `id` was abandoned; asked once, when its late reply has come.
    pub(super) fn take_abandoned(&mut self, id: u64) -> bool {
        match self.abandoned.iter().position(|abandoned| *abandoned == id) {
            Some(position) => self.abandoned.remove(position).is_some(),
            None => false,
        }
    }

    /// Ends it: nothing is taken in any more, and every waiter is handed back to be told.
    pub(super) fn close(&mut self, reason: DisconnectReason) -> Vec<W> {
        self.closed.get_or_insert(reason);
        self.abandoned.clear();
        self.waiting.drain().map(|(_, waiter)| waiter).collect()
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_finds_its_waiter_once() {
        let mut pending = Pending::new();
        pending.insert(1, "a").unwrap();
        pending.insert(2, "b").unwrap();
        assert_eq!(pending.take(2), Some("b"));
        assert_eq!(pending.take(2), None);
        assert_eq!(pending.take(99), None);
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn a_forgotten_request_leaves_nothing() {
        let mut pending = Pending::new();
        pending.insert(1, ()).unwrap();
        pending.forget(1);
        assert_eq!((pending.len(), pending.take_abandoned(1)), (0, false));
    }

    #[test]
    fn an_abandoned_request_is_known_once_and_bounded() {
        let mut pending = Pending::new();
        for id in 0..=ABANDONED as u64 {
            pending.insert(id, ()).unwrap();
            pending.abandon(id);
        }
        assert_eq!(pending.len(), 0);
        assert!(!pending.take_abandoned(0), "the oldest went");
        assert!(pending.take_abandoned(1));
        assert!(!pending.take_abandoned(1));
        pending.abandon(5000);
        assert!(!pending.take_abandoned(5000), "it never waited");
    }

    #[test]
    fn the_end_hands_back_every_waiter_and_keeps_the_first_reason() {
        let mut pending = Pending::new();
        pending.insert(1, 'a').unwrap();
        pending.insert(2, 'b').unwrap();
        let mut waiters = pending.close(DisconnectReason::Stopping);
        waiters.sort_unstable();
        assert_eq!(waiters, ['a', 'b']);
        assert!(pending.close(DisconnectReason::ClosedByUs).is_empty());
        assert_eq!(pending.insert(3, 'c'), Err(DisconnectReason::Stopping));
    }
}
