//! In a file of its own (redb). A change is on the device before its caller goes on: documents change seldom.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use tracing::{error, info};

use super::kv::{Change, Expected, Kv, Pair, Scan};
use crate::store::codec::{blocking, unreadable};
use crate::store::embedded::{free_bytes, move_aside};
use crate::store::{OpenError, StoreError};
use crate::tasks::Tasks;

/// Makes the database over its file.
type Create = fn(&Builder, FileBackend) -> Result<Database, DatabaseError>;

const PAIRS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("documents");
/// Memory for pages.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// How long after a failure of the device the file is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Bytes that must be free on the device before anything is written, beside some copies of it: after a write that
/// failed the database gives nothing more out.
const ROOM: u64 = 4 * 1024 * 1024;
/// Copies of what is written: pages half empty, and pages in use that are written anew.
const COPIES: u64 = 4;

#[derive(Debug)]
pub(super) struct EmbeddedKv {
    file: Arc<File>,
    tasks: Tasks,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    create: Create,
    /// How long after a failure of the device it is opened again.
    reopen_after: Duration,
    /// Locked to take the handle, and while the file is opened again.
    state: Mutex<State>,
    /// Of all pairs.
    bytes: AtomicU64,
}

#[derive(Debug)]
enum State {
    Open(Arc<Database>),
    /// The device failed; when to open it again.
    Failed(Instant),
    Closed,
}

impl EmbeddedKv {
    /// Opens the file, or begins one; one that cannot be read is moved aside. Blocks.
    pub(super) fn open(path: &Path, tasks: &Tasks) -> Result<Self, OpenError> {
        Self::over(path, Builder::create_with_backend, REOPEN_AFTER, tasks)
    }

    fn over(path: &Path, create: Create, reopen_after: Duration, tasks: &Tasks) -> Result<Self, OpenError> {
        let (database, bytes) = match usable(path, create) {
            Ok(opened) => opened,
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Unusable(reason)) => {
                let aside = move_aside(path, "corrupt", SystemTime::now());
                let aside = aside.map_err(|error| OpenError::file("cannot move aside", path, &error))?;
                error!(
                    path = %path.display(), aside = %aside.display(), reason,
                    "the documents cannot be read; the file was moved aside, and an empty one is begun"
                );
                usable(path, create).map_err(|trouble| match trouble {
                    Trouble::Fatal(error) => error,
                    Trouble::Unusable(reason) => OpenError::file("cannot begin", path, &reason),
                })?
            }
        };
        let state = Mutex::new(State::Open(Arc::new(database)));
        let file = File { path: path.to_owned(), create, reopen_after, state, bytes: bytes.into() };
        Ok(Self { file: Arc::new(file), tasks: tasks.clone() })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File, &Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        let work = move || {
            let database = file.database()?;
            work(&file, &database).map_err(|error| {
                if matches!(error, redb::Error::PreviousIo | redb::Error::Io(_)) && !is_full(&error) {
                    file.fail(&error);
                }
                failed(&error)
            })
        };
        blocking(&self.tasks, work).await
    }
}

impl File {
    /// The open database; opened again if it is time.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut state = self.state();
        match &*state {
            State::Open(database) => return Ok(Arc::clone(database)),
            State::Failed(again) if Instant::now() >= *again => {}
            State::Failed(_) | State::Closed => {
                return Err(StoreError::Unavailable { reason: "its file is not open".into() });
            }
        }
        // Never moved aside here: what cannot be read now was read before.
        match usable(&self.path, self.create) {
            Ok((database, bytes)) => {
                info!(path = %self.path.display(), "the documents are there again");
                let database = Arc::new(database);
                self.bytes.store(bytes, Ordering::Relaxed);
                *state = State::Open(Arc::clone(&database));
                Ok(database)
            }
            Err(trouble) => {
                *state = State::Failed(Instant::now() + self.reopen_after);
                let reason = match trouble {
                    Trouble::Fatal(error) => error.to_string(),
                    Trouble::Unusable(reason) => reason,
                };
                Err(StoreError::Unavailable { reason })
            }
        }
    }

    /// The database gives nothing more out.
    fn fail(&self, error: &redb::Error) {
        let mut state = self.state();
        if let State::Open(_) = &*state {
            error!(path = %self.path.display(), %error, "the documents' file cannot be used; it is opened again");
            *state = State::Failed(Instant::now() + self.reopen_after);
        }
    }

    /// Before anything is written of which there would be no end.
    fn check_room(&self, more: u64) -> Result<(), redb::Error> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let free = free_bytes(folder.unwrap_or(Path::new("."))).map_err(redb::Error::Io)?;
        if free < ROOM + COPIES * more {
            return Err(redb::Error::Io(io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
}

impl Kv for EmbeddedKv {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Vec<u8>>>, StoreError>> {
        let get = move |_: &File, database: &Database| {
            let table = database.begin_read()?.open_table(PAIRS)?;
            let value = |key: &Vec<u8>| Ok(table.get(key.as_slice())?.map(|value| value.value().to_vec()));
            keys.iter().map(value).collect()
        };
        self.with(get).boxed()
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        let read = move |_: &File, database: &Database| {
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

    fn write_if(
        &self,
        expected: Vec<Expected>,
        changes: Vec<Change>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let write = move |file: &File, database: &Database| {
            let size = |change: &Change| match change {
                Change::Put(key, value) => (key.len() + value.len()) as u64,
                Change::Remove(_) => 0,
            };
            file.check_room(changes.iter().map(size).sum())?;
            let transaction = database.begin_write()?;
            let (mut more, mut less) = (0, 0);
            {
                let mut table = transaction.open_table(PAIRS)?;
                for (key, value) in &expected {
                    let found = table.get(key.as_slice())?;
                    if found.as_ref().map(redb::AccessGuard::value) != value.as_deref() {
                        // The transaction goes with its handle.
                        return Ok(false);
                    }
                }
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
            file.bytes.fetch_add(more, Ordering::Relaxed);
            file.bytes.fetch_sub(less, Ordering::Relaxed);
            Ok(true)
        };
        self.with(write).boxed()
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.file.bytes.load(Ordering::Relaxed))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let open = std::mem::replace(&mut *self.file.state(), State::Closed);
        // Its last handle writes the file's end.
        self.tasks.blocking(move || drop(open)).map(|_| ()).boxed()
    }
}

enum Trouble {
    /// What the file holds cannot be read.
    Unusable(String),
    Fatal(OpenError),
}

/// The database, and the bytes of its pairs.
fn usable(path: &Path, create: Create) -> Result<(Database, u64), Trouble> {
    // Damage that the database does not expect is a panic in it.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = open(path, create)?;
        let bytes = size(&database).map_err(|error| Trouble::Unusable(error.to_string()))?;
        Ok((database, bytes))
    }));
    opened.unwrap_or_else(|_| Err(Trouble::Unusable("it breaks off where its own marks say more".into())))
}

fn open(path: &Path, create: Create) -> Result<Database, Trouble> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file))
        .map_err(|error| Trouble::Fatal(OpenError::file("cannot open", path, &error)))?;
    let opened = FileBackend::new(file).and_then(|file| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        create(&builder, file)
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
        error if is_full(error) => StoreError::Refused { reason: "the disk is full".into() },
        error => StoreError::Unavailable { reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::faulty::{Faults, Faulty};

    #[tokio::test]
    async fn after_a_device_that_failed_the_file_is_opened_again_by_itself() {
        static FAULTS: Faults = Faults::none();
        let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
        let faulty: Create = |builder, file| builder.create_with_backend(Faulty { file, faults: &FAULTS });
        let path = folder.path().join("documents.redb");
        let kv = EmbeddedKv::over(&path, faulty, Duration::ZERO, &tasks).unwrap();
        let put = |key: &[u8]| kv.write_if(Vec::new(), vec![Change::Put(key.to_vec(), b"value".to_vec())]);
        assert_eq!(put(b"before").await, Ok(true));
        FAULTS.writes.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert!(matches!(put(b"lost").await, Err(StoreError::Unavailable { .. })));
        }
        FAULTS.writes.store(false, Ordering::Relaxed);
        assert_eq!(put(b"after").await, Ok(true));
        let keys = [b"before".to_vec(), b"lost".to_vec(), b"after".to_vec()];
        let found = kv.get(keys.to_vec()).await.unwrap();
        assert_eq!(found, [Some(b"value".to_vec()), None, Some(b"value".to_vec())]);
        kv.close().await;
        assert!(put(b"late").await.is_err());
    }
}
