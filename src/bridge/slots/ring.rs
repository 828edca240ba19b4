//! The waiters of one priority class: those of a key in order, the keys in turn.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::model::KeyId;

/// As many keys as wait: few. A key is in it while it waits.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Next first.
    keys: VecDeque<(KeyId, VecDeque<Waiter>)>,
    len: usize,
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) number: u64,
    /// Most turns of its key at once.
    pub(super) concurrency: Option<usize>,
    pub(super) granted: oneshot::Sender<()>,
}

impl Ring {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many of `key` wait.
    pub(super) fn len_of(&self, key: &KeyId) -> usize {
        self.keys.iter().find(|(other, _)| other == key).map_or(0, |(_, waiters)| waiters.len())
    }

    pub(super) fn push(&mut self, key: &KeyId, waiter: Waiter) {
        self.len += 1;
        match self.keys.iter_mut().find(|(other, _)| other == key) {
            Some((_, waiters)) => waiters.push_back(waiter),
            None => self.keys.push_back((key.clone(), VecDeque::from([waiter]))),
        }
    }

    /// Whether somebody may run.
    pub(super) fn has(&self, may_run: &impl Fn(&KeyId, Option<usize>) -> bool) -> bool {
        self.next(may_run).is_some()
    }

    /// The next one that may run. Its key goes to the end; one that was passed over, because it runs as much as it
    /// may, stays in front.
    pub(super) fn take(
        &mut self,
        may_run: &impl Fn(&KeyId, Option<usize>) -> bool,
    ) -> Option<(KeyId, Waiter)> {
        let at = self.next(may_run)?;
        let (key, mut waiters) = self.keys.remove(at)?;
        let waiter = waiters.pop_front()?;
        self.len -= 1;
        if !waiters.is_empty() {
            self.keys.push_back((key.clone(), waiters));
        }
        Some((key, waiter))
    }

    /// Takes one out. Gives whether it was there.
    pub(super) fn remove(&mut self, key: &KeyId, number: u64) -> bool {
        let Some(at) = self.keys.iter().position(|(other, _)| other == key) else { return false };
        let Some((_, waiters)) = self.keys.get_mut(at) else { return false };
        let before = waiters.len();
        waiters.retain(|waiter| waiter.number != number);
        let removed = before - waiters.len();
        if waiters.is_empty() {
            self.keys.remove(at);
        }
        self.len -= removed;
        removed > 0
    }

    /// Everybody goes: whoever waits sees its sender gone.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn next(&self, may_run: &impl Fn(&KeyId, Option<usize>) -> bool) -> Option<usize> {
        let may = |(key, waiters): &(KeyId, VecDeque<Waiter>)| {
            waiters.front().is_some_and(|waiter| may_run(key, waiter.concurrency))
        };
        self.keys.iter().position(may)
    }
}
