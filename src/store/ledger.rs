//! Which records are kept: links between them, what goes when, and what waits for its children. The same for
//! every store that keeps its own books.
//!
//! - A record that has expired or was deleted is *dead*: nobody is given it, and it stays for as long as a
//!   record that continues it is kept. With its last child it goes, and with it a dead predecessor.
//! - Past the limits the least recently used record without children goes: only such a one frees anything.
//! - A deleted record without children is emptied, and remembered until it would have expired.

use super::node::{Node, OVERHEAD, micros};
use super::{Lookup, StoredResponse};
use crate::model::ResponseId;

/// Most records that one call lets go of; what is left is found by the next sweep.
pub(super) const BATCH: usize = 64;

/// Most records of a chain that are counted: a bound, should the links ever run in a circle.
const LONGEST_CHAIN: usize = 10_000;

/// The books: nodes by id, and two orders of them.
pub(super) trait Books {
    /// What can go wrong with them.
    type Error;

    fn get(&self, id: &ResponseId) -> Result<Option<Node>, Self::Error>;
    /// Writes the node and leaves the content alone.
    fn set(&mut self, id: &ResponseId, node: &Node) -> Result<(), Self::Error>;
    /// Removes the content and leaves the node.
    fn empty(&mut self, id: &ResponseId) -> Result<(), Self::Error>;
    /// Removes the node and the content.
    fn remove(&mut self, id: &ResponseId) -> Result<(), Self::Error>;
    fn enter(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), Self::Error>;
    /// Taking out what is not in is fine.
    fn leave(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), Self::Error>;
    fn first(&self, order: Order) -> Result<Option<(u64, ResponseId)>, Self::Error>;
}

/// An order of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Those without children, by last use.
    Use,
    /// Those that a sweep has not seen yet, by expiry; at 0 what it is to take up again.
    Expiry,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, node: &Node) {
        self.records += 1;
        self.bytes += node.size;
    }

    fn subtract(&mut self, node: &Node) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(node.size);
    }
}

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Limits {
    fn exceeded(self, totals: Totals) -> bool {
        totals.records > self.records || totals.bytes > self.bytes
    }
}

/// A record that is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) previous: Option<ResponseId>,
    pub(super) expires_at: u64,
    pub(super) last_used_at: u64,
    /// Bytes of its content.
    pub(super) length: u64,
}

impl Entry {
    /// The entry of `record`, whose content takes `length` bytes.
    pub(super) fn of(record: &StoredResponse, length: usize) -> Self {
        Self {
            previous: record.previous.clone(),
            expires_at: micros(record.expires_at),
            last_used_at: micros(record.last_used_at),
            length: length as u64,
        }
    }
}

/// The books, open for changes.
pub(super) struct Ledger<'a, B> {
    pub(super) books: &'a mut B,
    pub(super) totals: &'a mut Totals,
    pub(super) now: u64,
}

impl<B: Books> Ledger<'_, B> {
    /// Whether the record's chain takes no more than half of what all may: past that, one chain in use would evict
    /// every other. The books of a store that is not half full need not be asked.
    pub(super) fn takes(&self, entry: &Entry, limits: Limits) -> Result<bool, B::Error> {
        let most = limits.bytes / 2;
        let mut chain = entry.length + OVERHEAD;
        let mut next = entry.previous.clone().filter(|_| self.totals.bytes + chain > most);
        for _ in 0..LONGEST_CHAIN {
            let Some(id) = next.filter(|_| chain <= most) else { break };
            let Some(node) = self.books.get(&id)? else { break };
            chain += node.size;
            next = node.previous;
        }
        Ok(chain <= most)
    }

    /// Enters a record whose content is written, in place of an earlier one of its id, and keeps to `limits`.
    /// Gives what was there of the predecessor that it names.
    pub(super) fn put(
        &mut self,
        id: &ResponseId,
        entry: Entry,
        limits: Limits,
    ) -> Result<Lookup<()>, B::Error> {
        let previous = match &entry.previous {
            Some(previous) => self.books.get(previous)?.map_or(Lookup::Unknown, |node| node.status(self.now)),
            None => Lookup::Found(()),
        };
        let earlier = self.books.get(id)?;
        let mut node = Node {
            linked: false,
            children: earlier.as_ref().map_or(0, |earlier| earlier.children),
            deleted: false,
            expires_at: entry.expires_at,
            last_used_at: entry.last_used_at,
            size: entry.length + OVERHEAD,
            previous: entry.previous,
        };
        let mut unlinked = None;
        if let Some(earlier) = earlier {
            self.take_out(id, &earlier)?;
            if earlier.linked && earlier.previous == node.previous {
                node.linked = true;
            } else if earlier.linked {
                unlinked = earlier.previous;
            }
        }
        if let Some(previous) = node.previous.clone().filter(|previous| !node.linked && previous != id) {
            node.linked = self.link(&previous)?;
        }
        self.put_in(id, &node)?;
        if let Some(previous) = unlinked {
            self.unlink(&previous)?;
        }
        self.keep_to(limits, id)?;
        Ok(previous)
    }

    /// The record was used, and lives until `expires_at`.
    pub(super) fn touch(&mut self, id: &ResponseId, expires_at: u64) -> Result<Lookup<()>, B::Error> {
        let Some(mut node) = self.books.get(id)? else { return Ok(Lookup::Unknown) };
        let status = node.status(self.now);
        if status == Lookup::Found(()) {
            self.take_out(id, &node)?;
            node.expires_at = node.expires_at.max(expires_at);
            node.last_used_at = self.now;
            self.put_in(id, &node)?;
        }
        Ok(status)
    }

    /// Forgets the record.
    pub(super) fn delete(&mut self, id: &ResponseId) -> Result<Lookup<()>, B::Error> {
        let Some(mut node) = self.books.get(id)? else { return Ok(Lookup::Unknown) };
        let status = node.status(self.now);
        if status == Lookup::Found(()) {
            node.deleted = true;
            self.books.set(id, &node)?;
            if node.children == 0 {
                self.release(id.clone(), node)?;
            }
        }
        Ok(status)
    }

    /// Looks at the next `most` records that have expired, and lets go of those that nothing needs. Gives how
    /// many it looked at: fewer than that were the last.
    pub(super) fn sweep(&mut self, most: usize) -> Result<usize, B::Error> {
        for seen in 0..most {
            let Some((at, id)) = self.books.first(Order::Expiry)?.filter(|(at, _)| *at <= self.now) else {
                return Ok(seen);
            };
            self.books.leave(Order::Expiry, at, &id)?;
            if let Some(node) =
                self.books.get(&id)?.filter(|node| node.children == 0 && node.is_dead(self.now))
            {
                self.release(id, node)?;
            }
        }
        Ok(most)
    }

    /// Evicts the least recently used, but not `kept`.
    fn keep_to(&mut self, limits: Limits, kept: &ResponseId) -> Result<(), B::Error> {
        for _ in 0..BATCH {
            if !limits.exceeded(*self.totals) {
                break;
            }
            let Some((at, id)) = self.books.first(Order::Use)?.filter(|(_, id)| id != kept) else { break };
            let Some(node) = self.books.get(&id)? else {
                self.books.leave(Order::Use, at, &id)?;
                continue;
            };
            self.take_out(&id, &node)?;
            self.books.remove(&id)?;
            if let Some(previous) = node.previous.filter(|_| node.linked) {
                self.unlink(&previous)?;
            }
        }
        Ok(())
    }

    /// Lets go of a dead record without children, and of dead predecessors that nothing else needs. At most a
    /// batch: a sweep goes on from there.
    fn release(&mut self, id: ResponseId, node: Node) -> Result<(), B::Error> {
        let mut next = Some((id, node));
        for _ in 0..BATCH {
            let Some((id, mut node)) = next else { return Ok(()) };
            self.take_out(&id, &node)?;
            let previous = node.previous.take().filter(|_| node.linked);
            if node.status(self.now) == Lookup::Deleted {
                node = Node { linked: false, size: OVERHEAD, ..node };
                self.books.empty(&id)?;
                self.put_in(&id, &node)?;
            } else {
                self.books.remove(&id)?;
            }
            next = match previous {
                Some(previous) => self.count_down(&previous)?,
                None => None,
            };
        }
        match next {
            Some((id, _)) => self.books.enter(Order::Expiry, 0, &id),
            None => Ok(()),
        }
    }

    fn unlink(&mut self, id: &ResponseId) -> Result<(), B::Error> {
        match self.count_down(id)? {
            Some((id, node)) => self.release(id, node),
            None => Ok(()),
        }
    }

    /// One child fewer; gives the record if nothing needs it any more.
    fn count_down(&mut self, id: &ResponseId) -> Result<Option<(ResponseId, Node)>, B::Error> {
        let Some(mut node) = self.books.get(id)? else { return Ok(None) };
        node.children = node.children.saturating_sub(1);
        self.books.set(id, &node)?;
        if node.children > 0 {
            return Ok(None);
        }
        if node.is_dead(self.now) {
            return Ok(Some((id.clone(), node)));
        }
        self.books.enter(Order::Use, node.last_used_at, id)?;
        Ok(None)
    }

    /// One child more, if the record is there.
    fn link(&mut self, id: &ResponseId) -> Result<bool, B::Error> {
        let Some(mut node) = self.books.get(id)? else { return Ok(false) };
        if node.children == 0 {
            self.books.leave(Order::Use, node.last_used_at, id)?;
        }
        node.children += 1;
        self.books.set(id, &node)?;
        Ok(true)
    }

    fn take_out(&mut self, id: &ResponseId, node: &Node) -> Result<(), B::Error> {
        self.totals.subtract(node);
        self.books.leave(Order::Use, node.last_used_at, id)?;
        self.books.leave(Order::Expiry, node.expires_at, id)
    }

    fn put_in(&mut self, id: &ResponseId, node: &Node) -> Result<(), B::Error> {
        self.totals.add(node);
        self.books.set(id, node)?;
        if node.children == 0 {
            self.books.enter(Order::Use, node.last_used_at, id)?;
        }
        self.books.enter(Order::Expiry, node.expires_at, id)
    }
}
