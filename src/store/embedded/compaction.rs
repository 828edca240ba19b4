//! Gives the disk back what the file no longer needs, while it is in use: its records are copied into a new file
//! from one moment of the old one, and what has changed meanwhile is copied again, round by round, until so little is
//! left that the writer copies it between two changes and goes on in the new file. That last part is all that a
//! request may wait for.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Instant;

use redb::{Database, Durability};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::disk::{Plan, Trouble, begin};
use super::tables::{Changed, Tables, View};
use super::write_back::WriteBack;
use crate::model::ResponseId;
use crate::store::OpenError;

/// Most records, and about how many bytes, that the writer copies by itself: some milliseconds.
const LAST_RECORDS: usize = 64;
const LAST_BYTES: u64 = 1 << 20;
/// Rounds after which there is too much going on for it.
const ROUNDS: usize = 8;
/// Records of one transaction.
const CHUNK: usize = 64;
/// Bytes copied between two waits for the device.
const SYNC_AFTER: u64 = 8 << 20;

/// A new file on its way.
#[derive(Debug)]
pub(super) struct Compaction {
    database: Database,
    file: Arc<WriteBack>,
    unfinished: Unfinished,
    rounds: usize,
}

/// The place of a file that is not whole yet: it is removed with it.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            debug!(%error, path = %path.display(), "an unfinished copy is left; it goes with the next one");
        }
    }
}

/// What a round copies.
#[derive(Debug)]
pub(super) enum Round {
    /// Everything after this one.
    All(Option<ResponseId>),
    /// These, and of which the content too.
    Changed(Vec<(ResponseId, bool)>),
}

/// How a compaction goes on once a round is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Little enough is left.
    Last,
    Again,
    GiveUp,
}

impl Compaction {
    /// Where the new file is while it is made.
    fn place(plan: &Plan) -> PathBuf {
        let mut path = plan.path.clone().into_os_string();
        path.push("-compact");
        path.into()
    }

    /// Forgets what was not finished.
    pub(super) fn clear(plan: &Plan) -> io::Result<()> {
        match fs::remove_file(Self::place(plan)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Begins an empty file.
    pub(super) fn begin(plan: &Plan) -> Result<Self, Trouble> {
        let path = Self::place(plan);
        let removed = Self::clear(plan);
        removed.map_err(|error| Trouble::Fatal(OpenError::file("cannot remove", &path, &error)))?;
        let (database, file) = begin(&path, plan)?;
        Ok(Self { database, file, unfinished: Unfinished(Some(path)), rounds: 0 })
    }

    /// Copies what the round asks for, as it is in `view`. Half of the time it rests: requests want the machine
    /// too. It breaks off when the daemon stops; gives whether all was copied.
    pub(super) fn copy(
        &mut self,
        view: &View,
        mut round: Round,
        stop: &CancellationToken,
    ) -> Result<bool, redb::Error> {
        self.rounds += 1;
        let mut unsynced = 0;
        loop {
            let began = Instant::now();
            if stop.is_cancelled() {
                return Ok(false);
            }
            let records = round.next(view)?;
            if records.is_empty() {
                self.database.begin_write()?.commit()?;
                return Ok(true);
            }
            unsynced += self.copy_records(view, &records)?;
            if unsynced >= SYNC_AFTER {
                self.database.begin_write()?.commit()?;
                unsynced = 0;
            }
            sleep(began.elapsed());
        }
    }

    /// What to do with what has changed since, of so many bytes.
    pub(super) fn next(&self, changed: &Changed, view: &View) -> Result<Next, redb::Error> {
        if changed.len() <= LAST_RECORDS && view.bytes_of(changed)? <= LAST_BYTES {
            return Ok(Next::Last);
        }
        Ok(if self.rounds < ROUNDS { Next::Again } else { Next::GiveUp })
    }

    /// Copies the rest, so that the new file is what the old one is in `view`. Waits for no device: that is for
    /// the file's flush.
    pub(super) fn finish(
        mut self,
        view: &View,
        changed: Changed,
    ) -> Result<(Database, Arc<WriteBack>, PathBuf), redb::Error> {
        self.file.defer();
        self.copy_records(view, &changed.into_records())?;
        self.database.begin_write()?.commit()?;
        let path = self.unfinished.0.take().unwrap_or_default();
        Ok((self.database, self.file, path))
    }

    /// Gives how many bytes that were.
    fn copy_records(&self, view: &View, records: &[(ResponseId, bool)]) -> Result<u64, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let mut bytes = 0;
        {
            let mut tables = Tables::open(&transaction)?;
            for (id, changed) in records {
                bytes += tables.copy(view, id, *changed)?;
            }
        }
        transaction.commit()?;
        Ok(bytes)
    }
}

impl Round {
    fn next(&mut self, view: &View) -> Result<Vec<(ResponseId, bool)>, redb::Error> {
        match self {
            Self::All(last) => {
                let ids = view.ids_after(last.as_ref(), CHUNK)?;
                if let Some(id) = ids.last() {
                    *last = Some(id.clone());
                }
                Ok(ids.into_iter().map(|id| (id, true)).collect())
            }
            Self::Changed(records) => Ok(records.split_off(records.len().saturating_sub(CHUNK))),
        }
    }
}
