//! The tables of the database: read at one moment, and written by the flush alone.

use std::ops::Bound;
use std::sync::Arc;

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};

use super::recent::Recent;
use crate::model::ResponseId;
use crate::store::StoreError;
use crate::store::codec::unreadable;
use crate::store::ledger::Order;
use crate::store::node::Node;

const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");
const CONTENT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("content");
const BY_USE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("by_use");
const BY_EXPIRY: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("by_expiry");
/// What is known of the file: `schema`, `check` where it is encrypted, and `turn`: of the last journal whose changes it
/// has.
pub(super) const FILE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("file");

/// The tables, open for changes.
pub(super) struct Tables<'txn> {
    nodes: Table<'txn, &'static str, &'static [u8]>,
    content: Table<'txn, &'static str, &'static [u8]>,
    by_use: Table<'txn, (u64, &'static str), ()>,
    by_expiry: Table<'txn, (u64, &'static str), ()>,
    file: Table<'txn, &'static str, &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(change: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            nodes: change.open_table(NODES)?,
            content: change.open_table(CONTENT)?,
            by_use: change.open_table(BY_USE)?,
            by_expiry: change.open_table(BY_EXPIRY)?,
            file: change.open_table(FILE)?,
        })
    }

    fn set_turn(&mut self, turn: u64) -> Result<(), StorageError> {
        self.file.insert("turn", turn.to_le_bytes().as_slice()).map(drop)
    }

    /// Makes the changes of `recent`, which are those of the journal of `turn`, table by table and key by key, so that
    /// each page is touched once.
    pub(super) fn apply(&mut self, recent: &Recent, turn: u64) -> Result<(), StorageError> {
        self.set_turn(turn)?;
        for (id, node) in recent.nodes() {
            match node {
                Some(node) => drop(self.nodes.insert(id.as_str(), node.to_bytes().as_slice())?),
                None => drop(self.nodes.remove(id.as_str())?),
            }
        }
        for (id, content) in recent.contents() {
            match content {
                Some(content) => drop(self.content.insert(id.as_str(), &**content)?),
                None => drop(self.content.remove(id.as_str())?),
            }
        }
        for (order, table) in [(Order::Use, &mut self.by_use), (Order::Expiry, &mut self.by_expiry)] {
            for (at, id) in recent.left(order) {
                table.remove((*at, id.as_str()))?;
            }
            for (at, id) in recent.entered(order) {
                table.insert((*at, id.as_str()), ())?;
            }
        }
        Ok(())
    }

    /// Copies all that is in `view`, and calls `pause` after each record.
    pub(super) fn copy<E: From<StorageError>>(
        &mut self,
        view: &View,
        mut pause: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        self.set_turn(view.turn)?;
        let tables = [(&view.nodes, &mut self.nodes), (&view.content, &mut self.content)];
        for (from, to) in tables {
            for entry in from.iter()? {
                let (id, value) = entry?;
                to.insert(id.value(), value.value())?;
                pause()?;
            }
        }
        for (from, to) in [(&view.by_use, &mut self.by_use), (&view.by_expiry, &mut self.by_expiry)] {
            for entry in from.iter()? {
                to.insert(entry?.0.value(), ())?;
                pause()?;
            }
        }
        Ok(())
    }
}

fn node(bytes: &[u8]) -> Result<Node, StorageError> {
    Node::from_bytes(bytes).ok_or_else(|| StorageError::Corrupted("a node cannot be read".into()))
}

/// One moment of the database; no writer waits for it, nor it for one.
pub(super) struct View {
    nodes: ReadOnlyTable<&'static str, &'static [u8]>,
    content: ReadOnlyTable<&'static str, &'static [u8]>,
    by_use: ReadOnlyTable<(u64, &'static str), ()>,
    by_expiry: ReadOnlyTable<(u64, &'static str), ()>,
    turn: u64,
    /// Which closes with its last holder.
    _database: Arc<Database>,
}

impl View {
    pub(super) fn of(database: &Arc<Database>) -> Result<Self, redb::Error> {
        let read = database.begin_read()?;
        let turn =
            read.open_table(FILE)?.get("turn")?.map(|turn| turn.value().try_into().map(u64::from_le_bytes));
        let turn = turn.transpose().map_err(|_| StorageError::Corrupted("its turn cannot be read".into()))?;
        Ok(Self {
            turn: turn.unwrap_or_default(),
            nodes: read.open_table(NODES)?,
            content: read.open_table(CONTENT)?,
            by_use: read.open_table(BY_USE)?,
            by_expiry: read.open_table(BY_EXPIRY)?,
            _database: Arc::clone(database),
        })
    }

    /// Of the last journal whose changes it has.
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    pub(super) fn node(&self, id: &ResponseId) -> Result<Option<Node>, StorageError> {
        self.nodes.get(id.as_str())?.map(|found| node(found.value())).transpose()
    }

    pub(super) fn content(&self, id: &ResponseId) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.content.get(id.as_str())?.map(|found| found.value().to_vec()))
    }

    /// The first one of an order, not before `from`, that `is_there`.
    pub(super) fn first(
        &self,
        order: Order,
        from: Option<&(u64, ResponseId)>,
        is_there: impl Fn(&(u64, ResponseId)) -> bool,
    ) -> Result<Option<(u64, ResponseId)>, StorageError> {
        let table = match order {
            Order::Use => &self.by_use,
            Order::Expiry => &self.by_expiry,
        };
        let start = from.map_or(Bound::Unbounded, |(at, id)| Bound::Included((*at, id.as_str())));
        for entry in table.range::<(u64, &str)>((start, Bound::Unbounded))? {
            let (key, _) = entry?;
            let (at, id) = key.value();
            let key = (at, ResponseId::new(id));
            if is_there(&key) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
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
