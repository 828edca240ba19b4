//! In memory: gone with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::kv::{Change, Expected, Kv, Pair, Scan};
use crate::store::StoreError;

#[derive(Debug, Default)]
pub(super) struct MemoryKv(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: u64,
    closed: bool,
}

impl MemoryKv {
    fn open(&self) -> Result<MutexGuard<'_, Kept>, StoreError> {
        let kept = self.lock();
        if kept.closed {
            return Err(StoreError::Unavailable { reason: "it was closed".into() });
        }
        Ok(kept)
    }

    /// Held for one call, never across an await.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn make(&mut self, change: Change) {
        let size = |key: &[u8], value: &[u8]| (key.len() + value.len()) as u64;
        match change {
            Change::Put(key, value) => {
                self.make(Change::Remove(key.clone()));
                self.bytes += size(&key, &value);
                self.pairs.insert(key, value);
            }
            Change::Remove(key) => {
                if let Some(value) = self.pairs.remove(&key) {
                    self.bytes -= size(&key, &value);
                }
            }
        }
    }
}

impl Kv for MemoryKv {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Vec<u8>>>, StoreError>> {
        ready(self.open().map(|kept| keys.iter().map(|key| kept.pairs.get(key).cloned()).collect())).boxed()
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        let found = self.open().map(|kept| {
            if scan.keys.is_empty() {
                return Vec::new();
            }
            let range = kept.pairs.range(scan.keys).map(|(key, value)| (key.clone(), value.clone()));
            if scan.descending {
                range.rev().take(scan.limit).collect()
            } else {
                range.take(scan.limit).collect()
            }
        });
        ready(found).boxed()
    }

    fn write_if(
        &self,
        expected: Vec<Expected>,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let written = self.open().map(|mut kept| {
            let is_so = expected.iter().all(|(key, value)| kept.pairs.get(key) == value.as_ref());
            if is_so {
                for change in changes {
                    kept.make(change);
                }
            }
            is_so
        });
        ready(written).boxed()
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.lock().bytes)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.lock().closed = true;
        ready(()).boxed()
    }
}
