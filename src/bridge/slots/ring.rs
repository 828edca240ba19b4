//! The waiters of one priority class: those of a key in order, the keys in turn.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::scheduler::Refused;
use crate::model::KeyId;

/// As many keys as wait: few. A key is in it while it waits.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Next first.
    keys: VecDeque<Line>,
    len: usize,
}

/// Those of one key, next first; never empty.
#[derive(Debug)]
struct Line {
    key: KeyId,
    /// Most turns of the key at once, as last said.
    concurrency: Option<usize>,
    waiters: VecDeque<Waiter>,
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) number: u64,
    /// A slot; or the end of the wait, where its place went to somebody else.
    pub(super) granted: oneshot::Sender<Result<(), Refused>>,
}

impl Ring {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many of `key` wait.
    pub(super) fn len_of(&self, key: &KeyId) -> usize {
        self.line(key).map_or(0, |line| line.waiters.len())
    }

    /// Those who wait, by key.
    pub(super) fn lengths(&self) -> impl Iterator<Item = (&KeyId, usize)> {
        self.keys.iter().map(|line| (&line.key, line.waiters.len()))
    }

    pub(super) fn push(&mut self, key: &KeyId, concurrency: Option<usize>, waiter: Waiter) {
        self.len += 1;
        if let Some(line) = self.keys.iter_mut().find(|line| line.key == *key) {
            line.waiters.push_back(waiter);
        } else {
            let waiters = VecDeque::from([waiter]);
            self.keys.push_back(Line { key: key.clone(), concurrency, waiters });
        }
    }

    /// Those of `key` who wait are bound so from here on.
    pub(super) fn bind(&mut self, key: &KeyId, concurrency: Option<usize>) {
        if let Some(line) = self.keys.iter_mut().find(|line| line.key == *key) {
            line.concurrency = concurrency;
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
        let mut line = self.keys.remove(at)?;
        let (key, waiter) = (line.key.clone(), line.waiters.pop_front()?);
        self.len -= 1;
        if !line.waiters.is_empty() {
            self.keys.push_back(line);
        }
        Some((key, waiter))
    }

    /// The last one of `key`.
    pub(super) fn take_newest(&mut self, key: &KeyId) -> Option<Waiter> {
        let number = self.line(key)?.waiters.back()?.number;
        self.take_out(key, number)
    }

    /// Takes one out. Gives whether it was there.
    pub(super) fn remove(&mut self, key: &KeyId, number: u64) -> bool {
        self.take_out(key, number).is_some()
    }

    /// Everybody goes: whoever waits sees its sender gone.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn take_out(&mut self, key: &KeyId, number: u64) -> Option<Waiter> {
        let at = self.keys.iter().position(|line| line.key == *key)?;
        let waiters = &mut self.keys.get_mut(at)?.waiters;
        let place = waiters.iter().position(|waiter| waiter.number == number)?;
        let waiter = waiters.remove(place)?;
        if waiters.is_empty() {
            self.keys.remove(at);
        }
        self.len -= 1;
        Some(waiter)
    }

    fn line(&self, key: &KeyId) -> Option<&Line> {
        self.keys.iter().find(|line| line.key == *key)
    }

    fn next(&self, may_run: &impl Fn(&KeyId, Option<usize>) -> bool) -> Option<usize> {
        self.keys.iter().position(|line| may_run(&line.key, line.concurrency))
    }
}
