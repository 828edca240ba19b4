//! From the configuration to a store.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{Documents, EmbeddedStore, MemoryStore, RedisStore, ResponseStore, Seal};
use crate::config::{EncryptionKey, StoreBackend, StoreConfig};
use crate::tasks::Tasks;

/// The embedded store's file, where none is named.
const FILE: &str = "responses.redb";
/// What seals compactions, where the store has no key.
const KEY_FILE: &str = "compaction.key";

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
    /// The key of the state folder's own cannot be used.
    #[error("{what} the key {path}: {reason}", path = .path.display())]
    Key {
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

/// Opens the documents, which are kept where the responses are. A server that does not answer within `limit` counts as
/// down.
pub async fn open_documents(
    config: &StoreConfig,
    limit: Duration,
    state_dir: &Path,
    tasks: &Tasks,
) -> Result<Arc<Documents>, OpenError> {
    Documents::open(config, limit, state_dir, tasks).await.map(Arc::new)
}

/// What seals what clients keep for us: the key of the store, which several bridges may have, else one of the state
/// folder's own, made when it is first wanted.
pub fn open_seal(config: &StoreConfig, state_dir: &Path) -> Result<Seal, OpenError> {
    if let Some(key) = &config.encryption_key {
        return Ok(Seal::new(key));
    }
    let path = state_dir.join(KEY_FILE);
    let failed = |what| {
        move |error: std::io::Error| OpenError::Key {
            what,
            path: state_dir.join(KEY_FILE),
            reason: error.to_string(),
        }
    };
    match std::fs::read(&path) {
        Ok(bytes) => {
            let bytes = <[u8; 32]>::try_from(bytes);
            let bytes = bytes
                .map_err(|_| failed("cannot use")(std::io::Error::other("it does not hold 32 bytes")))?;
            Ok(Seal::new(&EncryptionKey::new(bytes)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let bytes: [u8; 32] = rand::random();
            // Whole or not at all; one bridge alone has the folder.
            let fresh = path.with_extension("new");
            let written = (|| {
                let mut file =
                    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                std::fs::rename(&fresh, &path)
            })();
            written.map_err(failed("cannot write"))?;
            Ok(Seal::new(&EncryptionKey::new(bytes)))
        }
        Err(error) => Err(failed("cannot read")(error)),
    }
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
