//! For tests: documents that several bridges have, and that a test can take away.

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Mutex;

use super::kv::{Change, Expected, Kv, Pair, Scan};
use super::memory::MemoryKv;
use super::{Codec, Documents};
use crate::store::StoreError;

/// What all its handles' documents are kept on. Others come between any two calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    kv: Arc<MemoryKv>,
    down: Arc<AtomicBool>,
}

impl Server {
    /// As one bridge has them.
    pub(crate) fn documents(&self) -> Documents {
        Documents {
            kv: Box::new(self.clone()),
            codec: Codec::new(None),
            max_bytes: u64::MAX,
            last: AtomicU64::new(0),
            changing: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Every call fails, or none does any more.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.down.store(is_down, Ordering::Relaxed);
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce(&'a MemoryKv) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let answer = async move {
            tokio::task::yield_now().await;
            if self.down.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable { reason: "it is down".into() });
            }
            call(&self.kv).await
        };
        answer.boxed()
    }
}

impl Kv for Server {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Vec<u8>>>, StoreError>> {
        self.call(|kv| kv.get(keys))
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        self.call(|kv| kv.scan(scan))
    }

    fn write_if(
        &self,
        expected: Vec<Expected>,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.call(|kv| kv.write_if(expected, changes))
    }

    fn bytes(&self) -> Option<u64> {
        self.kv.bytes()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.kv.close()
    }
}
