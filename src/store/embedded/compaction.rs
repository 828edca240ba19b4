//! Gives the disk back what the file no longer needs, while it is in use: all of it is copied into a new file, which
//! then takes its place. Only a flush writes to the file, and none runs meanwhile: what changes is in memory and in
//! the journal until the new file is there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redb::Database;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::disk::{Plan, Trouble, begin};
use super::tables::{Tables, View};
use super::write_back::WriteBack;
use crate::store::OpenError;

/// How long it works before it rests as long: requests want the machine too.
const WORK_FOR: Duration = Duration::from_millis(2);

/// A new file, in the place of the old one.
#[derive(Debug)]
pub(super) struct Compacted {
    pub(super) database: Arc<Database>,
    pub(super) file: Arc<WriteBack>,
    pub(super) view: View,
}

/// The place of a file that is not whole yet: it is removed with it.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                debug!(%error, path = %self.0.display(), "an unfinished copy is left; it goes with the next one");
            }
            _ => {}
        }
    }
}

/// Where the new file is while it is made.
fn place(plan: &Plan) -> PathBuf {
    let mut path = plan.path.clone().into_os_string();
    path.push("-compact");
    path.into()
}

/// Forgets what was not finished.
pub(super) fn clear(plan: &Plan) -> io::Result<()> {
    match fs::remove_file(place(plan)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies what is in `view`, and puts the copy in the place of the file that it is of. `None` if it was stopped.
pub(super) fn compact(
    plan: &Plan,
    view: &View,
    stop: &CancellationToken,
) -> Result<Option<Compacted>, String> {
    let path = place(plan);
    let trouble = |trouble: Trouble| match trouble {
        Trouble::Unusable { reason, .. } => reason,
        Trouble::Fatal(error) => error.to_string(),
    };
    clear(plan).map_err(|error| trouble(Trouble::Fatal(OpenError::file("cannot remove", &path, &error))))?;
    // Once the file is in its place, there is nothing here to remove.
    let _unfinished = Unfinished(path.clone());
    let (database, file) = begin(&path, plan).map_err(trouble)?;
    let copied = copy(&database, view, stop).map_err(|error| error.to_string())?;
    if !copied {
        return Ok(None);
    }
    let database = Arc::new(database);
    let view = View::of(&database).map_err(|error| error.to_string())?;
    put_in_place(&path, &plan.path).map_err(|error| error.to_string())?;
    file.defer();
    Ok(Some(Compacted { database, file, view }))
}

/// All in one transaction, which is in the file when it ends; `false` if it was stopped.
fn copy(database: &Database, view: &View, stop: &CancellationToken) -> Result<bool, redb::Error> {
    let transaction = database.begin_write()?;
    let mut began = Instant::now();
    let pause = || {
        let worked = began.elapsed();
        if worked >= WORK_FOR {
            sleep(worked);
            began = Instant::now();
        }
        if stop.is_cancelled() { Err(Copying::Stopped) } else { Ok(()) }
    };
    let copied = Tables::open(&transaction)?.copy(view, pause);
    match copied {
        Ok(()) => transaction.commit().map(|()| true).map_err(redb::Error::from),
        Err(Copying::Stopped) => Ok(false),
        Err(Copying::Failed(error)) => Err(error.into()),
    }
}

/// Why it did not come to an end.
enum Copying {
    Stopped,
    Failed(redb::StorageError),
}

impl From<redb::StorageError> for Copying {
    fn from(error: redb::StorageError) -> Self {
        Self::Failed(error)
    }
}

/// Once it is in its place there is no way back.
fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty())
        && let Err(error) = File::open(folder).and_then(|folder| folder.sync_all())
    {
        warn!(%error, folder = %folder.display(), "a compacted file may be the old one after a loss of power");
    }
    Ok(())
}
