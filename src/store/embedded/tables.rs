//! The tables of the database, as the ledger's books and for readers.

use std::collections::HashMap;
use std::ops::Bound;

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};

use crate::model::ResponseId;
use crate::store::StoreError;
use crate::store::codec::unreadable;
use crate::store::ledger::{Books, Order};
use crate::store::node::{Node, OVERHEAD};

const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");
const CONTENT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("content");
const BY_USE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("by_use");
const BY_EXPIRY: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("by_expiry");
/// What is known of the file: `schema`, and `check` where it is encrypted.
pub(super) const FILE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("file");

/// The tables of one change.
pub(super) struct Tables<'txn> {
    nodes: Table<'txn, &'static str, &'static [u8]>,
    content: Table<'txn, &'static str, &'static [u8]>,
    by_use: Table<'txn, (u64, &'static str), ()>,
    by_expiry: Table<'txn, (u64, &'static str), ()>,
    /// Where somebody wants to know.
    changed: Option<Changed>,
}

/// The records that were changed: their content too, or only what is known of them beside it.
#[derive(Debug, Default)]
pub(super) struct Changed(HashMap<ResponseId, bool>);

impl Changed {
    fn note(&mut self, id: &ResponseId, content: bool) {
        let noted = self.0.entry(id.clone()).or_default();
        *noted |= content;
    }

    pub(super) fn extend(&mut self, later: Self) {
        for (id, content) in later.0 {
            self.note(&id, content);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Each with whether its content was changed.
    pub(super) fn into_records(self) -> Vec<(ResponseId, bool)> {
        self.0.into_iter().collect()
    }
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(change: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            nodes: change.open_table(NODES)?,
            content: change.open_table(CONTENT)?,
            by_use: change.open_table(BY_USE)?,
            by_expiry: change.open_table(BY_EXPIRY)?,
            changed: None,
        })
    }

    /// Takes note of what is changed from now on.
    pub(super) fn track(&mut self) {
        self.changed = Some(Changed::default());
    }

    /// What was changed.
    pub(super) fn into_changed(self) -> Changed {
        self.changed.unwrap_or_default()
    }

    pub(super) fn put_content(&mut self, id: &ResponseId, content: &[u8]) -> Result<(), StorageError> {
        self.note(id, true);
        self.content.insert(id.as_str(), content)?;
        Ok(())
    }

    /// Makes the record of `id` what it is in `view`, or nothing; of its content only if that has `changed`. Gives
    /// its bytes.
    pub(super) fn copy(&mut self, view: &View, id: &ResponseId, changed: bool) -> Result<u64, StorageError> {
        if let Some(node) = self.get(id)? {
            for at in [0, node.expires_at] {
                self.leave(Order::Expiry, at, id)?;
            }
            self.leave(Order::Use, node.last_used_at, id)?;
        }
        let Some(node) = view.find(id)? else {
            self.remove(id)?;
            return Ok(0);
        };
        self.set(id, &node)?;
        if changed {
            match view.content.get(id.as_str())? {
                Some(content) => self.put_content(id, content.value())?,
                None => self.empty(id)?,
            }
        }
        if node.children == 0 {
            self.enter(Order::Use, node.last_used_at, id)?;
        }
        // One that a sweep has seen is seen once more; one that was deleted and not yet emptied is to be.
        let is_left = node.children == 0 && node.deleted && node.size > OVERHEAD;
        self.enter(Order::Expiry, if is_left { 0 } else { node.expires_at }, id)?;
        Ok(if changed { node.size } else { OVERHEAD })
    }

    fn note(&mut self, id: &ResponseId, content: bool) {
        if let Some(changed) = &mut self.changed {
            changed.note(id, content);
        }
    }

    fn order(&mut self, order: Order) -> &mut Table<'txn, (u64, &'static str), ()> {
        match order {
            Order::Use => &mut self.by_use,
            Order::Expiry => &mut self.by_expiry,
        }
    }
}

impl Books for Tables<'_> {
    type Error = StorageError;

    fn get(&self, id: &ResponseId) -> Result<Option<Node>, StorageError> {
        self.nodes.get(id.as_str())?.map(|found| node(found.value())).transpose()
    }

    fn set(&mut self, id: &ResponseId, node: &Node) -> Result<(), StorageError> {
        self.note(id, false);
        self.nodes.insert(id.as_str(), node.to_bytes().as_slice())?;
        Ok(())
    }

    fn empty(&mut self, id: &ResponseId) -> Result<(), StorageError> {
        self.note(id, true);
        self.content.remove(id.as_str())?;
        Ok(())
    }

    fn remove(&mut self, id: &ResponseId) -> Result<(), StorageError> {
        self.note(id, true);
        self.nodes.remove(id.as_str())?;
        self.content.remove(id.as_str())?;
        Ok(())
    }

    fn enter(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), StorageError> {
        self.order(order).insert((at, id.as_str()), ())?;
        Ok(())
    }

    fn leave(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), StorageError> {
        self.order(order).remove((at, id.as_str()))?;
        Ok(())
    }

    fn first(&self, order: Order) -> Result<Option<(u64, ResponseId)>, StorageError> {
        let order = match order {
            Order::Use => &self.by_use,
            Order::Expiry => &self.by_expiry,
        };
        let first = order.first()?;
        Ok(first.map(|(key, _)| {
            let (at, id) = key.value();
            (at, ResponseId::new(id))
        }))
    }
}

fn node(bytes: &[u8]) -> Result<Node, StorageError> {
    Node::from_bytes(bytes).ok_or_else(|| StorageError::Corrupted("a node cannot be read".into()))
}

/// One moment of the database; the writer does not wait for it, nor it for the writer.
pub(super) struct View {
    nodes: ReadOnlyTable<&'static str, &'static [u8]>,
    content: ReadOnlyTable<&'static str, &'static [u8]>,
}

impl View {
    pub(super) fn of(database: &Database) -> Result<Self, redb::Error> {
        let read = database.begin_read()?;
        Ok(Self { nodes: read.open_table(NODES)?, content: read.open_table(CONTENT)? })
    }

    pub(super) fn node(&self, id: &ResponseId) -> Result<Option<Node>, StoreError> {
        self.find(id).map_err(|error| failed(&error.into()))
    }

    fn find(&self, id: &ResponseId) -> Result<Option<Node>, StorageError> {
        self.nodes.get(id.as_str())?.map(|found| node(found.value())).transpose()
    }

    /// What has changed, bytes.
    pub(super) fn bytes_of(&self, changed: &Changed) -> Result<u64, StorageError> {
        let contents = changed.0.iter().filter(|(_, content)| **content);
        contents.map(|(id, _)| Ok(self.find(id)?.map_or(0, |node| node.size))).sum()
    }

    /// The first `most` ids after `id`.
    pub(super) fn ids_after(
        &self,
        id: Option<&ResponseId>,
        most: usize,
    ) -> Result<Vec<ResponseId>, StorageError> {
        let start = id.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_str()));
        let found = self.nodes.range::<&str>((start, Bound::Unbounded))?.take(most);
        found.map(|entry| Ok(ResponseId::new(entry?.0.value()))).collect()
    }

    pub(super) fn content(&self, id: &ResponseId) -> Result<Vec<u8>, StoreError> {
        let found = self.content.get(id.as_str()).map_err(|error| failed(&error.into()))?;
        found.map(|found| found.value().to_vec()).ok_or_else(|| unreadable(&"its content is gone"))
    }
}

/// Every node there is, of a file that was just opened.
pub(super) fn all_nodes(database: &Database, mut each: impl FnMut(&Node)) -> Result<(), redb::Error> {
    let read = database.begin_read()?;
    for entry in read.open_table(NODES)?.iter()? {
        each(&node(entry?.1.value())?);
    }
    Ok(())
}

/// What a caller is told of a failure.
pub(super) fn failed(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_) => unreadable(&"the store's file is damaged"),
        error => StoreError::Unavailable { reason: error.to_string() },
    }
}
