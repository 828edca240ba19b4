//! In a file of its own (redb). A change is on the device before its caller goes on: documents change seldom.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use tracing::error;

use super::kv::{Change, Kv, Pair, Scan};
use crate::store::codec::{blocking, unreadable};
use crate::store::embedded::move_aside;
use crate::store::{OpenError, StoreError};
use crate::tasks::Tasks;

const PAIRS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("documents");
/// Memory for pages.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct EmbeddedKv {
    /// `None` once it was closed. Locked to take the handle, no longer.
    database: Mutex<Option<Arc<Database>>>,
    bytes: Arc<AtomicU64>,
    tasks: Tasks,
}

impl EmbeddedKv {
    /// Opens the file, or begins one; one that cannot be read is moved aside. Blocks.
    pub(super) fn open(path: &Path, tasks: &Tasks) -> Result<Self, OpenError> {
        let (database, bytes) = match usable(path) {
            Ok(opened) => opened,
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Unusable(reason)) => {
                let aside = move_aside(path, "corrupt", SystemTime::now());
                let aside = aside.map_err(|error| OpenError::file("cannot move aside", path, &error))?;
                error!(
                    path = %path.display(), aside = %aside.display(), reason,
                    "the documents cannot be read; the file was moved aside, and an empty one is begun"
                );
                usable(path).map_err(|trouble| match trouble {
                    Trouble::Fatal(error) => error,
                    Trouble::Unusable(reason) => OpenError::file("cannot begin", path, &reason),
                })?
            }
        };
        Ok(Self {
            database: Mutex::new(Some(Arc::new(database))),
            bytes: Arc::new(bytes.into()),
            tasks: tasks.clone(),
        })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let database =
            database.ok_or_else(|| StoreError::Unavailable { reason: "its file is not open".into() })?;
        blocking(&self.tasks, move || work(&database).map_err(|error| failed(&error))).await
    }
}

impl Kv for EmbeddedKv {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Vec<u8>>>, StoreError>> {
        let get = move |database: &Database| {
            let table = database.begin_read()?.open_table(PAIRS)?;
            let value = |key: &Vec<u8>| Ok(table.get(key.as_slice())?.map(|value| value.value().to_vec()));
            keys.iter().map(value).collect()
        };
        self.with(get).boxed()
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        let read = move |database: &Database| {
            if scan.keys.is_empty() {
                return Ok(Vec::new());
            }
            let table = database.begin_read()?.open_table(PAIRS)?;
            let mut range = table.range(scan.keys.start.as_slice()..scan.keys.end.as_slice())?;
            let mut pairs = Vec::new();
            while pairs.len() < scan.limit {
                let next = if scan.descending { range.next_back() } else { range.next() };
                let Some(next) = next else { break };
                let (key, value) = next?;
                pairs.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(pairs)
        };
        self.with(read).boxed()
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StoreError>> {
        let bytes = Arc::clone(&self.bytes);
        let write = move |database: &Database| {
            let transaction = database.begin_write()?;
            let (mut more, mut less) = (0, 0);
            {
                let mut table = transaction.open_table(PAIRS)?;
                for change in &changes {
                    let (key, old) = match change {
                        Change::Put(key, value) => {
                            more += (key.len() + value.len()) as u64;
                            (key, table.insert(key.as_slice(), value.as_slice())?)
                        }
                        Change::Remove(key) => (key, table.remove(key.as_slice())?),
                    };
                    less += old.map_or(0, |old| (key.len() + old.value().len()) as u64);
                }
            }
            transaction.commit()?;
            bytes.fetch_add(more, Ordering::Relaxed);
            bytes.fetch_sub(less, Ordering::Relaxed);
            Ok(())
        };
        self.with(write).boxed()
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes.load(Ordering::Relaxed))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Its last handle writes the file's end.
        self.tasks.blocking(move || drop(database)).map(|_| ()).boxed()
    }
}

enum Trouble {
    /// What the file holds cannot be read.
    Unusable(String),
    Fatal(OpenError),
}

/// The database, and the bytes of its pairs.
fn usable(path: &Path) -> Result<(Database, u64), Trouble> {
    // Damage that the database does not expect is a panic in it.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = open(path)?;
        let bytes = size(&database).map_err(|error| Trouble::Unusable(error.to_string()))?;
        Ok((database, bytes))
    }));
    opened.unwrap_or_else(|_| Err(Trouble::Unusable("it breaks off where its own marks say more".into())))
}

fn open(path: &Path) -> Result<Database, Trouble> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file))
        .map_err(|error| Trouble::Fatal(OpenError::file("cannot open", path, &error)))?;
    let opened = FileBackend::new(file).and_then(|backend| {
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
    });
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Trouble::Fatal(OpenError::InUse { path: path.to_owned() })
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
            ) =>
        {
            Trouble::Fatal(OpenError::file("cannot open", path, &error))
        }
        error => Trouble::Unusable(error.to_string()),
    })
}

/// Makes the table, where there is none, and adds up what is in it.
fn size(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let bytes = transaction.open_table(PAIRS)?.stats()?.stored_bytes();
    transaction.commit()?;
    Ok(bytes)
}

fn failed(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_) => unreadable(&"the documents' file is damaged"),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::Refused { reason: "the disk is full".into() }
        }
        error => StoreError::Unavailable { reason: error.to_string() },
    }
}
