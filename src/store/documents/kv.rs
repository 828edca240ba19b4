//! What documents are kept in: ordered keys and values, changed several at once.

use std::fmt::Debug;
use std::ops::Range;

use futures_util::future::BoxFuture;

use crate::store::StoreError;

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// A key and the value that it has; `None` where it is not there.
pub(super) type Expected = (Vec<u8>, Option<Vec<u8>>);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
}

/// A part of the keys.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) keys: Range<Vec<u8>>,
    /// Most pairs given.
    pub(super) limit: usize,
    /// From the last key down.
    pub(super) descending: bool,
}

impl Scan {
    /// All keys that begin with `prefix`, which does not end in 255.
    pub(super) fn of(prefix: Vec<u8>, limit: usize) -> Self {
        let mut end = prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { keys: prefix..end, limit, descending: false }
    }
}

/// Ordered keys and values. Cheap to share.
pub(super) trait Kv: Debug + Send + Sync + 'static {
    /// The values of `keys`, in their order.
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Vec<u8>>>, StoreError>>;

    /// The pairs of a part, in order.
    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>>;

    /// Makes all changes or none: none where a value is not as `expected` says. Gives whether they are made; once this
    /// returns they are as durable as the store makes them.
    fn write_if(
        &self,
        expected: Vec<Expected>,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Bytes kept, about, where that is known without a count.
    fn bytes(&self) -> Option<u64>;

    /// Later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}
