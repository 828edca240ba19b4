//! The tables of the database, as the ledger's books and for readers.

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};

use crate::model::ResponseId;
use crate::store::StoreError;
use crate::store::codec::unreadable;
use crate::store::ledger::{Books, Order};
use crate::store::node::Node;

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
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(change: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            nodes: change.open_table(NODES)?,
            content: change.open_table(CONTENT)?,
            by_use: change.open_table(BY_USE)?,
            by_expiry: change.open_table(BY_EXPIRY)?,
        })
    }

    pub(super) fn put_content(&mut self, id: &ResponseId, content: &[u8]) -> Result<(), StorageError> {
        self.content.insert(id.as_str(), content)?;
        Ok(())
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
        self.nodes.insert(id.as_str(), node.to_bytes().as_slice())?;
        Ok(())
    }

    fn empty(&mut self, id: &ResponseId) -> Result<(), StorageError> {
        self.content.remove(id.as_str())?;
        Ok(())
    }

    fn remove(&mut self, id: &ResponseId) -> Result<(), StorageError> {
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
    pub(super) fn of(database: &Database) -> Result<Self, StoreError> {
        let read = database.begin_read().map_err(|error| failed(&error.into()))?;
        Ok(Self {
            nodes: read.open_table(NODES).map_err(|error| failed(&error.into()))?,
            content: read.open_table(CONTENT).map_err(|error| failed(&error.into()))?,
        })
    }

    pub(super) fn node(&self, id: &ResponseId) -> Result<Option<Node>, StoreError> {
        let found = self.nodes.get(id.as_str()).map_err(|error| failed(&error.into()))?;
        found.map(|found| node(found.value()).map_err(|error| failed(&error.into()))).transpose()
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
