//! The response store: what is kept of responses, in memory, on disk, or shared by several bridges.
//!
//! A record holds its own response's items alone and names its predecessor, so a chain holds each item once.
//! A record that expires or is deleted leaves its items behind for as long as a later one of its chain needs
//! them.

mod codec;
mod documents;
mod embedded;
mod error;
mod ledger;
mod memory;
mod node;
mod open;
mod record;
mod seal;
mod shared;

pub use documents::{Document, DocumentKind, Documents, Entry, Listed, Page};
pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use open::{OpenError, open, open_documents, open_seal};
pub use record::{Chain, Lookup, StoredResponse};
pub use seal::Seal;
pub use shared::RedisStore;

use std::fmt;
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use crate::model::ResponseId;

/// Where records live. Cheap to share; every method may be called at once from many tasks.
pub trait ResponseStore: fmt::Debug + Send + Sync + 'static {
    /// What the records survive: `memory` nothing, `disk` the process, `shared` the machine.
    fn durability(&self) -> &'static str;

    /// Keeps `record`, in place of an earlier one of its id. Once this returns, the record is as durable as
    /// the store makes it. Gives what was there of the predecessor that it names, which is kept from now on for
    /// the record's sake; `Found` if it names none.
    fn put(&self, record: StoredResponse) -> BoxFuture<'_, Result<Lookup<()>, StoreError>>;

    /// The record of `id`, and all items before it, oldest first.
    fn chain<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<Chain>, StoreError>>;

    /// The record of `id` alone.
    fn get<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<StoredResponse>, StoreError>>;

    /// The record was used: it lives until `expires_at`, and what it needs of its chain no shorter. Gives
    /// whether it is still there.
    fn touch<'a>(
        &'a self,
        id: &'a ResponseId,
        expires_at: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>>;

    /// Forgets the record; a chain that goes on from it goes on. Gives what was there.
    fn delete<'a>(&'a self, id: &'a ResponseId) -> BoxFuture<'a, Result<Lookup<()>, StoreError>>;

    /// The same for a record that a put given up halfway may still bring: none comes that was begun before. A store
    /// that takes changes in the order in which they are sent needs no more than the deletion. Others remember it
    /// as deleted until then.
    fn bury<'a>(
        &'a self,
        id: &'a ResponseId,
        _until: SystemTime,
    ) -> BoxFuture<'a, Result<Lookup<()>, StoreError>> {
        self.delete(id)
    }

    /// Lets go of what has expired, a bounded number at a time. Gives how many records went.
    fn sweep(&self, now: SystemTime) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Records kept and about how many bytes they take, where that is known without a count.
    fn size(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>, StoreError>>;

    /// Writes out what is pending and closes; later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod fuzz;
