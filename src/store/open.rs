//! From the configuration to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::{Documents, EmbeddedStore, MemoryStore, RedisStore, ResponseStore};
use crate::config::{StoreBackend, StoreConfig};
use crate::tasks::Tasks;

/// The embedded store's file, where none is named.
const FILE: &str = "responses.redb";

/// What only a person can mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Another process has the file.
    #[error("the response store {path} is in use by another process; is another bridge running?", path = .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "the response store {path} was written by a newer version (its form is {found}, this version knows {ours}); \
         use that version, or move the file away",
        path = .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version written here.
        ours: u32,
    },
    /// It is encrypted with another key.
    #[error(
        "the response store {place} is encrypted with another key; set the right store.encryption_key, or begin a new store"
    )]
    WrongKey {
        /// The file, or the server's prefix.
        place: String,
    },
    /// It is encrypted, and there is no key.
    #[error("the response store {place} is encrypted; set store.encryption_key or store.encryption_key_file")]
    KeyMissing {
        /// The file, or the server's prefix.
        place: String,
    },
    /// The file cannot be read or written.
    #[error("{what} the response store {path}: {reason}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        reason: String,
    },
    /// The server's address cannot be used.
    #[error("store.redis_url cannot be used: {reason}")]
    Address {
        /// Never the address, which may hold a password.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn file(what: &'static str, path: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::File { what, path: path.to_owned(), reason: error.to_string() }
    }
}

/// Opens the documents, which are kept where the responses are.
pub async fn open_documents(
    config: &StoreConfig,
    state_dir: &Path,
    tasks: &Tasks,
) -> Result<Arc<Documents>, OpenError> {
    Documents::open(config, state_dir, tasks).await.map(Arc::new)
}

/// Opens the store that `config` names. A server that cannot be reached is no error: it is tried again with
/// each call.
pub async fn open(
    config: &StoreConfig,
    state_dir: &Path,
    tasks: &Tasks,
) -> Result<Arc<dyn ResponseStore>, OpenError> {
    Ok(match config.backend {
        StoreBackend::Memory => Arc::new(MemoryStore::new(config.max_records, config.max_bytes, tasks)),
        StoreBackend::Embedded => {
            let path = config.path.clone().unwrap_or_else(|| state_dir.join(FILE));
            let key = config.encryption_key.as_ref();
            Arc::new(EmbeddedStore::open(path, config.max_records, config.max_bytes, key, tasks).await?)
        }
        StoreBackend::Redis => Arc::new(RedisStore::open(config, tasks).await?),
    })
}
