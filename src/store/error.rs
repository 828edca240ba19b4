//! What can go wrong with a store, by what the caller does next.

use thiserror::Error;

/// A store's failure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The store cannot be reached now; go on without it.
    #[error("the response store is not available: {reason}")]
    Unavailable {
        /// For people; never an address with a password.
        reason: String,
    },
    /// The store can be read, and takes no change now (a full disk or memory, a read-only server).
    #[error("the response store takes no changes: {reason}")]
    Refused {
        /// For people.
        reason: String,
    },
    /// The record's chain takes more room than one may; others are taken.
    #[error("the response's chain takes more than half of what the response store may hold, {limit} bytes")]
    TooLarge {
        /// Most bytes that all of them may take.
        limit: u64,
    },
    /// The record is there and cannot be read (another encryption key, damage); it is as good as gone.
    #[error("a stored response cannot be read: {reason}")]
    Unreadable {
        /// For people; never the record's content.
        reason: String,
    },
}
