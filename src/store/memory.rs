//! Records in memory: gone with the process, bounded in number and bytes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use futures_util::future::{BoxFuture, FutureExt, ready};

use super::codec::{Codec, before, blocking};
use super::ledger::{BATCH, Books, Entry, Ledger, Limits, Order, Totals};
use super::node::{Node, micros};
use super::{Chain, Lookup, ResponseStore, StoreError, StoredResponse};
use crate::model::ResponseId;
use crate::tasks::Tasks;

/// Between two batches of a sweep, each of which takes far less.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// A record: its place, and its content as it would stand on disk. Parsed items take about ten times as much.
type Kept = (Node, Arc<[u8]>);

/// Records in memory. Changes are made at once; records are written and read off the async threads.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Arc<Inner>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Inner {
    codec: Codec,
    limits: Limits,
    records: DashMap<ResponseId, Kept>,
    /// What changes take in turn; look-ups take none of it. Never held across an await.
    orders: Mutex<Orders>,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Orders {
    by_use: BTreeSet<(u64, ResponseId)>,
    by_expiry: BTreeSet<(u64, ResponseId)>,
    totals: Totals,
}

impl MemoryStore {
    /// An empty store; past either limit the least recently used record goes.
    pub fn new(max_records: usize, max_bytes: usize, tasks: &Tasks) -> Self {
        let inner = Inner {
            codec: Codec::default(),
            limits: Limits { records: max_records as u64, bytes: max_bytes as u64 },
            records: DashMap::new(),
            orders: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner), tasks: tasks.clone() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(&self.tasks, move || work(&inner)).await
    }
}

impl Inner {
    fn change<T>(
        &self,
        now: SystemTime,
        change: impl FnOnce(&mut Ledger<'_, Shelf<'_>>) -> Result<T, Infallible>,
    ) -> Result<T, StoreError> {
        let orders = &mut *self.lock();
        self.is_open()?;
        let mut totals = orders.totals;
        let mut books = Shelf { records: &self.records, orders, fresh: None };
        let Ok(result) = change(&mut Ledger { books: &mut books, totals: &mut totals, now: micros(now) });
        orders.totals = totals;
        Ok(result)
    }

    fn is_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "it was closed".into() });
        }
        Ok(())
    }

    fn find(&self, id: &ResponseId) -> Result<Lookup<Kept>, StoreError> {
        self.is_open()?;
        let Some(found) = self.records.get(id) else { return Ok(Lookup::Unknown) };
        Ok(found.0.status(micros(SystemTime::now())).map(|()| (*found).clone()))
    }

    fn read_chain(&self, id: &ResponseId) -> Result<Lookup<Chain>, StoreError> {
        let read = self.find(id)?.try_map(|(node, content)| {
            let record = self.codec.decode(id, &node, &content)?;
            let find = |id: &ResponseId| Ok(self.records.get(id).map(|found| (*found).clone()));
            Ok(Chain { record, before: before(&self.codec, node, find)? })
        });
        match read {
            // It may have gone while it was read.
            Err(error) => self.find(id)?.try_map(|_| Err(error)),
            read => read,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResponseStore for MemoryStore {
    fn durability(&self) -> &'static str {
        "memory"
    }

    fn put(&self, record: StoredResponse) -> BoxFuture<'_, Result<Lookup<()>, StoreError>> {
        let encode = move |inner: &Inner| {
            let content: Arc<[u8]> = inner.codec.encode(&record)?.into();
            Ok((record.id.clone(), Entry::of(&record, content.len()), content))
        };
        let put = async move {
            let (id, entry, content) = self.blocking(encode).await?;
            let limits = self.inner.limits;
            // Here and not over there: nothing of a put that is given up comes later.
            let put = self.inner.change(SystemTime::now(), |ledger| {
                if !ledger.takes(&entry, limits)? {
                    return Ok(None);
                }
                ledger.books.fresh = Some((id.clone(), content));
                ledger.put(&id, entry, limits).map(Some)
            });
            put?.ok_or(StoreError::TooLarge { limit: limits.bytes })
        };
        put.boxed()
    }

    fn chain<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<Chain>, StoreError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.read_chain(&id)).boxed()
    }

    fn get<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<StoredResponse>, StoreError>> {
        let id = id.clone();
        let get = move |inner: &Inner| {
            inner.find(&id)?.try_map(|(node, content)| inner.codec.decode(&id, &node, &content))
        };
        self.blocking(get).boxed()
    }

    fn touch<'a>(
        &'a self,
        id: &'a ResponseId,
        expires_at: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        ready(self.inner.change(SystemTime::now(), |ledger| ledger.touch(id, micros(expires_at)))).boxed()
    }

    fn delete<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        ready(self.inner.change(SystemTime::now(), |ledger| ledger.delete(id))).boxed()
    }

    fn sweep(&self, now: SystemTime) -> BoxFuture<'_, Result<usize, StoreError>> {
        let sweep = async move {
            let mut swept = 0;
            loop {
                let seen = self.inner.change(now, |ledger| ledger.sweep(BATCH))?;
                swept += seen;
                if seen < BATCH {
                    return Ok(swept);
                }
                // Who waits for the lock is not always next: it gets time of its own.
                tokio::time::sleep(SWEEP_PAUSE).await;
            }
        };
        sweep.boxed()
    }

    fn size(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>, StoreError>> {
        let totals = self.inner.lock().totals;
        ready(self.inner.is_open().map(|()| Some((totals.records, totals.bytes)))).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.closed.store(true, Ordering::Relaxed);
        ready(()).boxed()
    }
}

/// The store's books, locked.
struct Shelf<'a> {
    records: &'a DashMap<ResponseId, Kept>,
    orders: &'a mut Orders,
    /// The content of the record that is put: it comes into sight with its node.
    fresh: Option<(ResponseId, Arc<[u8]>)>,
}

impl Shelf<'_> {
    fn order(&mut self, order: Order) -> &mut BTreeSet<(u64, ResponseId)> {
        match order {
            Order::Use => &mut self.orders.by_use,
            Order::Expiry => &mut self.orders.by_expiry,
        }
    }
}

impl Books for Shelf<'_> {
    type Error = Infallible;

    fn get(&self, id: &ResponseId) -> Result<Option<Node>, Infallible> {
        Ok(self.records.get(id).map(|found| found.0.clone()))
    }

    fn set(&mut self, id: &ResponseId, node: &Node) -> Result<(), Infallible> {
        if let Some((_, content)) = self.fresh.take_if(|(fresh, _)| fresh == id) {
            self.records.insert(id.clone(), (node.clone(), content));
        } else if let Some(mut found) = self.records.get_mut(id) {
            found.0 = node.clone();
        }
        Ok(())
    }

    fn empty(&mut self, id: &ResponseId) -> Result<(), Infallible> {
        if let Some(mut found) = self.records.get_mut(id) {
            found.1 = [].into();
        }
        Ok(())
    }

    fn remove(&mut self, id: &ResponseId) -> Result<(), Infallible> {
        self.records.remove(id);
        Ok(())
    }

    fn enter(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), Infallible> {
        self.order(order).insert((at, id.clone()));
        Ok(())
    }

    fn leave(&mut self, order: Order, at: u64, id: &ResponseId) -> Result<(), Infallible> {
        self.order(order).remove(&(at, id.clone()));
        Ok(())
    }

    fn first(&self, order: Order) -> Result<Option<(u64, ResponseId)>, Infallible> {
        let order = match order {
            Order::Use => &self.orders.by_use,
            Order::Expiry => &self.orders.by_expiry,
        };
        Ok(order.first().cloned())
    }
}
