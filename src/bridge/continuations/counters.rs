//! How look-ups and records fared, counted since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why there is nothing to continue. The caller sees one answer for most; logs and counters tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bridge) enum Miss {
    /// Never there, or gone for good.
    Unknown,
    /// There, but past its time.
    Expired,
    /// There, and then deleted.
    Deleted,
    /// There, but another key's.
    OtherKey,
    /// There, but made under another login.
    OtherAccount,
    /// There, but the store cannot read it.
    Unreadable,
    /// The store, which may have it, cannot be asked.
    StoreUnavailable,
}

impl Miss {
    /// Its name in logs.
    pub(in crate::bridge) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::OtherKey => "another key's",
            Self::OtherAccount => "another account's",
            Self::Unreadable => "unreadable",
            Self::StoreUnavailable => "the store is not available",
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContinuationCounts {
    /// Found among the recent ones.
    pub found_recent: u64,
    /// Read from the store.
    pub found_stored: u64,
    /// Made under another login, and rebuilt as configured.
    pub rebuilt_for_account: u64,
    /// Never there, or gone for good.
    pub unknown: u64,
    /// Past their time.
    pub expired: u64,
    /// Deleted.
    pub deleted: u64,
    /// Another key's.
    pub other_key: u64,
    /// Made under another login.
    pub other_account: u64,
    /// Not readable.
    pub unreadable: u64,
    /// Not to be told while the store was down.
    pub store_unavailable: u64,
    /// Answers that were to be stored and were not.
    pub not_stored: u64,
}

macro_rules! counters {
    ($($field:ident),+ $(,)?) => {
        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $field: Counter,)+
        }

        impl Counters {
            pub(super) fn read(&self) -> ContinuationCounts {
                ContinuationCounts { $($field: self.$field.0.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    found_recent, found_stored, rebuilt_for_account, unknown, expired, deleted, other_key, other_account,
    unreadable, store_unavailable, not_stored,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counters {
    pub(super) fn missed(&self, miss: Miss) {
        match miss {
            Miss::Unknown => &self.unknown,
            Miss::Expired => &self.expired,
            Miss::Deleted => &self.deleted,
            Miss::OtherKey => &self.other_key,
            Miss::OtherAccount => &self.other_account,
            Miss::Unreadable => &self.unreadable,
            Miss::StoreUnavailable => &self.store_unavailable,
        }
        .add();
    }
}
