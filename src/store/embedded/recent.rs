//! What the database does not have yet. The writer makes changes in a layer in memory, which costs no copies of the
//! database's pages; a flush puts the layer into the database, all of it in one transaction, while the next one takes
//! what comes. Readers look into the layers first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::StorageError;

use super::tables::{View, failed};
use crate::model::ResponseId;
use crate::store::StoreError;
use crate::store::codec::unreadable;
use crate::store::ledger::{Books, Order, Totals};
use crate::store::node::{Node, OVERHEAD};

/// A place in an order.
type Place = (u64, ResponseId);

/// Changes, by what they left; `None` is removed.
#[derive(Debug, Default)]
pub(super) struct Recent {
    nodes: BTreeMap<ResponseId, Option<Node>>,
    content: BTreeMap<ResponseId, Option<Arc<[u8]>>>,
    orders: [Places; 2],
    /// About what it takes.
    bytes: u64,
}

/// What came into an order and what went.
#[derive(Debug, Default)]
struct Places {
    entered: BTreeSet<Place>,
    left: BTreeSet<Place>,
}

impl Recent {
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&ResponseId, Option<&Node>)> {
        self.nodes.iter().map(|(id, node)| (id, node.as_ref()))
    }

    pub(super) fn contents(&self) -> impl Iterator<Item = (&ResponseId, Option<&Arc<[u8]>>)> {
        self.content.iter().map(|(id, content)| (id, content.as_ref()))
    }

    pub(super) fn entered(&self, order: Order) -> &BTreeSet<Place> {
        &self.orders[order as usize].entered
    }

    pub(super) fn left(&self, order: Order) -> &BTreeSet<Place> {
        &self.orders[order as usize].left
    }
}

/// One that readers look at while the writer changes it.
#[derive(Debug, Default)]
pub(super) struct Layer(RwLock<Recent>);

impl Layer {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Recent> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one entry at a time: a reader waits for no more.
    fn write(&self) -> RwLockWriteGuard<'_, Recent> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.read().bytes
    }
}

/// What there is: the layers over the database as it was when they were begun.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// Takes the changes; they are seen here too.
    pub(super) newest: Arc<Layer>,
    /// One that is on its way into the database, and changes no more.
    pub(super) older: Option<Arc<Layer>>,
    pub(super) base: Arc<View>,
    pub(super) totals: Totals,
}

impl Moment {
    /// The database alone.
    pub(super) fn of(base: View, totals: Totals) -> Self {
        Self { newest: Arc::default(), older: None, base: Arc::new(base), totals }
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&*self.newest).chain(self.older.as_deref())
    }

    fn get(&self, id: &ResponseId) -> Result<Option<Node>, StorageError> {
        let known = self.layers().find_map(|layer| layer.read().nodes.get(id).cloned());
        known.map_or_else(|| self.base.node(id), Ok)
    }

    pub(super) fn node(&self, id: &ResponseId) -> Result<Option<Node>, StoreError> {
        self.get(id).map_err(|error| failed(&error.into()))
    }

    pub(super) fn content(&self, id: &ResponseId) -> Result<Arc<[u8]>, StoreError> {
        let known = self.layers().find_map(|layer| layer.read().content.get(id).cloned());
        let found = match known {
            Some(known) => known,
            None => self.base.content(id).map_err(|error| failed(&error.into()))?.map(Arc::from),
        };
        found.ok_or_else(|| unreadable(&"its content is gone"))
    }
}

/// The moment, open for changes. The writer alone has it.
pub(super) struct Pages<'a> {
    pub(super) moment: &'a Moment,
    pub(super) starts: &'a Starts,
}

/// Where the orders of the older layer and of the database begin: what is before has left, and is not looked at
/// again. Good for as long as these two are the same.
#[derive(Debug, Default)]
pub(super) struct Starts([std::cell::RefCell<[Option<Place>; 2]>; 2]);

impl Pages<'_> {
    pub(super) fn put_content(&mut self, id: &ResponseId, content: Arc<[u8]>) {
        self.set_content(id, Some(content));
    }

    fn set_node(&mut self, id: &ResponseId, node: Option<Node>) {
        let mut recent = self.moment.newest.write();
        recent.bytes += OVERHEAD;
        recent.nodes.insert(id.clone(), node);
    }

    fn set_content(&mut self, id: &ResponseId, content: Option<Arc<[u8]>>) {
        let mut recent = self.moment.newest.write();
        recent.bytes += OVERHEAD + content.as_ref().map_or(0, |content| content.len() as u64);
        recent.content.insert(id.clone(), content);
    }
}

impl Books for Pages<'_> {
    type Error = StorageError;

    fn get(&self, id: &ResponseId) -> Result<Option<Node>, StorageError> {
        self.moment.get(id)
    }

    fn set(&mut self, id: &ResponseId, node: &Node) -> Result<(), StorageError> {
        self.set_node(id, Some(node.clone()));
        Ok(())
    }

    fn empty(&mut self, id: &ResponseId) -> Result<(), StorageError> {
        self.set_content(id, None);
        Ok(())
    }

    fn remove(&mut self, id: &ResponseId) -> Result<(), StorageError> {
        self.set_node(id, None);
        self.set_content(id, None);
        Ok(())
    }

    fn enter(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), StorageError> {
        let mut recent = self.moment.newest.write();
        recent.bytes += OVERHEAD / 2;
        let places = &mut recent.orders[order as usize];
        places.left.remove(&(at, id.clone()));
        places.entered.insert((at, id.clone()));
        Ok(())
    }

    fn leave(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), StorageError> {
        let mut recent = self.moment.newest.write();
        recent.bytes += OVERHEAD / 2;
        let places = &mut recent.orders[order as usize];
        places.entered.remove(&(at, id.clone()));
        places.left.insert((at, id.clone()));
        Ok(())
    }

    fn first(&self, order: Order) -> Result<Option<Place>, StorageError> {
        let newest = self.moment.newest.read();
        let newest = &newest.orders[order as usize];
        let before = self.moment.older.as_ref().map(|before| before.read());
        let before = before.as_ref().map(|before| &before.orders[order as usize]);
        let [from_older, from_base] = &mut *self.starts.0[order as usize].borrow_mut();
        let mut first = newest.entered.first().cloned();
        if let Some(before) = before {
            let rest = match from_older {
                Some(from) => before.entered.range(from.clone()..),
                None => before.entered.range(..),
            };
            let found = rest.into_iter().find(|place| !newest.left.contains(place)).cloned();
            let end = || before.entered.last().cloned();
            *from_older = found.clone().or_else(end);
            first = first.into_iter().chain(found).min();
        }
        let is_there = |place: &Place| {
            !newest.left.contains(place) && before.is_none_or(|before| !before.left.contains(place))
        };
        let found = self.moment.base.first(order, from_base.as_ref(), is_there)?;
        if found.is_some() {
            from_base.clone_from(&found);
        }
        Ok(first.into_iter().chain(found).min())
    }
}
