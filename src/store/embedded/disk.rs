//! The database file and its journal, held by the writer alone. Everything here blocks.
//!
//! A change goes into the journal first, then into the database by a commit that stays in memory (some 30 µs; one
//! that waits for the device takes milliseconds). Within [`WRITE_OUT_AFTER`] all of it is written out by one
//! commit that does wait, and the journal is emptied. So a killed process loses nothing, and a loss of power
//! the moments since.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, Durability, ReadableTable};
use tracing::{error, info};

use super::aside::move_aside;
use super::change::{Change, Done};
use super::journal::Journal;
use super::tables::{FILE, Tables, all_nodes};
use crate::store::OpenError;
use crate::store::codec::Codec;
use crate::store::ledger::{Limits, Totals};
use crate::store::node::micros;

/// The form of the tables; another one is another number.
const SCHEMA: u32 = 1;
/// Memory for pages, read and not yet written out.
const CACHE_BYTES: usize = 48 * 1024 * 1024;
/// How long a change may be in the journal alone.
const WRITE_OUT_AFTER: Duration = Duration::from_secs(1);
/// Past this many changed records the database is written out at once: what waits meanwhile does not wait long,
/// and the file does not grow by the many copies of its pages.
const WRITE_OUT_RECORDS: usize = 512;
/// Past this many bytes of journal the database is written out at once.
const JOURNAL_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes that must be free on the device before anything is put, beside some copies of what waits in the journal:
/// the database takes no failed write, not even for its readers, so it must not come to one.
const ROOM: u64 = 4 * 1024 * 1024;
/// Copies of what waits: the content, pages half empty, and pages in use that are written anew.
const COPIES: u64 = 4;
/// A file smaller than this is never compacted.
const COMPACT_FROM: u64 = 8 * 1024 * 1024;

/// Where the file is and what may be in it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    pub(super) codec: Arc<Codec>,
    /// Bytes free for a file in this folder.
    pub(super) free: fn(&Path) -> io::Result<u64>,
}

/// Bytes free on the device of `folder`.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    // The types differ from system to system.
    fn wide(number: impl Into<u64>) -> u64 {
        number.into()
    }
    let free = nix::sys::statvfs::statvfs(folder)?;
    Ok(wide(free.blocks_available()).saturating_mul(wide(free.fragment_size())))
}

/// The open file.
#[derive(Debug)]
pub(super) struct Disk {
    database: Arc<Database>,
    journal: Journal,
    folder: PathBuf,
    free: fn(&Path) -> io::Result<u64>,
    limits: Limits,
    totals: Totals,
    /// Since when the file lacks changes, and of how many records.
    dirty: Option<(Instant, usize)>,
}

/// Why a file could not be used.
enum Trouble {
    /// It is moved aside, and a fresh one begun.
    Unusable { why: &'static str, reason: String },
    /// For a person to mend.
    Fatal(OpenError),
}

impl Disk {
    /// Opens the file, or begins one; one that cannot be read is moved aside.
    pub(super) fn open(plan: &Plan) -> Result<Self, OpenError> {
        let io = |what: &'static str| move |error: io::Error| OpenError::file(what, &plan.path, &error);
        if let Some(folder) = plan.path.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(io("cannot make the folder of"))?;
        }
        let (database, totals) = match usable(plan) {
            Ok(opened) => opened,
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Unusable { why, reason }) => {
                let aside =
                    move_aside(&plan.path, why, SystemTime::now()).map_err(io("cannot move aside"))?;
                error!(
                    path = %plan.path.display(),
                    aside = %aside.display(),
                    reason,
                    "the response store cannot be read; it was moved aside, and an empty one is begun: earlier \
                     responses cannot be continued"
                );
                match usable(plan) {
                    Ok(opened) => opened,
                    Err(Trouble::Fatal(error)) => return Err(error),
                    Err(Trouble::Unusable { reason, .. }) => {
                        return Err(OpenError::File {
                            what: "cannot begin",
                            path: plan.path.clone(),
                            reason,
                        });
                    }
                }
            }
        };
        let mut journal_path = plan.path.clone().into_os_string();
        journal_path.push("-journal");
        let (journal, frames) =
            Journal::open(Path::new(&journal_path)).map_err(io("cannot open the journal of"))?;
        let folder = plan.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut disk = Self {
            database: Arc::new(database),
            journal,
            folder: folder.unwrap_or(Path::new(".")).to_owned(),
            free: plan.free,
            limits: plan.limits,
            totals,
            dirty: None,
        };
        disk.replay(&frames).map_err(|error| OpenError::file("cannot write", &plan.path, &error))?;
        Ok(disk)
    }

    /// For readers.
    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// When the file wants to be written out.
    pub(super) fn due(&self) -> Option<Instant> {
        let (since, records) = self.dirty?;
        let at_once = records >= WRITE_OUT_RECORDS || self.journal.len() >= JOURNAL_BYTES;
        Some(if at_once { since } else { since + WRITE_OUT_AFTER })
    }

    /// Writes changes into the journal: from then on they outlive the process. A failure leaves everything as it
    /// was, and the database to its readers.
    pub(super) fn note(&mut self, changes: &[Change]) -> io::Result<()> {
        let frames: Vec<Vec<u8>> = changes.iter().filter_map(Change::to_frame).collect();
        if frames.is_empty() {
            return Ok(());
        }
        let waits = self.journal.len() + frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        if (self.free)(&self.folder)? < ROOM + COPIES * waits {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.journal.append(frames.iter().map(Vec::as_slice))
    }

    /// Makes changes that are noted, all in one transaction.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<Vec<Done>, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let mut totals = self.totals;
        let done = {
            let mut tables = Tables::open(&transaction)?;
            let now = micros(SystemTime::now());
            let each = changes.iter().map(|change| change.make(&mut tables, &mut totals, self.limits, now));
            each.collect::<Result<_, _>>()?
        };
        transaction.commit()?;
        self.totals = totals;
        let (_, records) = self.dirty.get_or_insert_with(|| (Instant::now(), 0));
        *records += changes.iter().map(Change::records).sum::<usize>();
        Ok(done)
    }

    /// Writes everything out, so that it outlives the machine, and empties the journal.
    pub(super) fn write_out(&mut self) -> Result<(), redb::Error> {
        if self.dirty.take().is_some() {
            self.database.begin_write()?.commit()?;
            self.journal.clear()?;
        }
        Ok(())
    }

    /// Makes the changes of an earlier process that did not come to write them out.
    fn replay(&mut self, frames: &[Vec<u8>]) -> Result<(), redb::Error> {
        let changes: Vec<Change> = frames.iter().filter_map(|frame| Change::from_frame(frame)).collect();
        if !changes.is_empty() {
            self.commit(&changes)?;
            self.write_out()?;
            info!(
                changes = changes.len(),
                "the response store took up what an earlier process left in its journal"
            );
        }
        Ok(())
    }
}

/// Opens the file and looks at all of it, so that damage is found now and not by a request.
fn usable(plan: &Plan) -> Result<(Database, Totals), Trouble> {
    // Damage that the database does not expect is a panic in it.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut database = open(&plan.path)?;
        look_at_schema(&database, plan)?;
        let mut totals = Totals::default();
        all_nodes(&database, |node| totals.add(node)).map_err(|error| trouble(error, plan))?;
        compact(&mut database, totals, plan)?;
        Ok((database, totals))
    }));
    opened.unwrap_or_else(|_| Err(unusable("corrupt", "it breaks off where its own marks say more")))
}

fn open(path: &Path) -> Result<Database, Trouble> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file))
        .map_err(|error| Trouble::Fatal(OpenError::file("cannot open", path, &error)))?;
    let opened = FileBackend::new(file).and_then(|backend| {
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            // A file that was closed well is trusted otherwise, and damage found by a panic.
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
    });
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Trouble::Fatal(OpenError::InUse { path: path.to_owned() })
        }
        DatabaseError::UpgradeRequired(version) => {
            unusable("old", format!("it has the old file format {version}"))
        }
        DatabaseError::Storage(redb::StorageError::Io(error)) if !is_damage(&error) => {
            Trouble::Fatal(OpenError::file("cannot open", path, &error))
        }
        error => unusable("corrupt", error),
    })
}

/// Whether the failure is of the file's content, not of the device.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
    )
}

fn unusable(why: &'static str, reason: impl std::fmt::Display) -> Trouble {
    Trouble::Unusable { why, reason: reason.to_string() }
}

fn trouble(error: redb::Error, plan: &Plan) -> Trouble {
    match error {
        redb::Error::Io(error) if !is_damage(&error) => {
            Trouble::Fatal(OpenError::file("cannot read", &plan.path, &error))
        }
        error => unusable("corrupt", error),
    }
}

/// Whether the file is of this version and this key; marks a fresh one.
fn look_at_schema(database: &Database, plan: &Plan) -> Result<(), Trouble> {
    let looked = || -> Result<Option<Trouble>, redb::Error> {
        let transaction = database.begin_write()?;
        {
            // All tables are there from the start, so that readers need not ask.
            Tables::open(&transaction)?;
            let mut file = transaction.open_table(FILE)?;
            let schema = file.get("schema")?.map(|schema| schema.value().try_into().map(u32::from_le_bytes));
            match schema {
                None => {
                    file.insert("schema", SCHEMA.to_le_bytes().as_slice())?;
                }
                Some(Ok(SCHEMA)) => {}
                Some(Ok(found)) if found > SCHEMA => {
                    let path = plan.path.clone();
                    return Ok(Some(Trouble::Fatal(OpenError::Newer { path, found, ours: SCHEMA })));
                }
                Some(Ok(found)) => {
                    return Ok(Some(unusable("old", format!("its tables are of version {found}"))));
                }
                Some(Err(_)) => return Ok(Some(unusable("corrupt", "its version cannot be read"))),
            }
            let check = file.get("check")?.map(|check| check.value().to_vec());
            let place = || plan.path.display().to_string();
            match (check, plan.codec.check_value()) {
                (Some(_), None) => return Ok(Some(Trouble::Fatal(OpenError::KeyMissing { place: place() }))),
                (Some(check), Some(_)) if !plan.codec.is_right(&check) => {
                    return Ok(Some(Trouble::Fatal(OpenError::WrongKey { place: place() })));
                }
                (None, Some(check)) => {
                    file.insert("check", check.as_slice())?;
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        transaction.commit()?;
        Ok(None)
    };
    match looked() {
        Ok(None) => Ok(()),
        Ok(Some(trouble)) => Err(trouble),
        Err(error) => Err(trouble(error, plan)),
    }
}

/// Gives the disk back what the file no longer needs: at the start, when no request waits.
fn compact(database: &mut Database, totals: Totals, plan: &Plan) -> Result<(), Trouble> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let before = length(&plan.path);
    // Pages are half empty at worst, and a page in use has a copy at times.
    if before < COMPACT_FROM || before < totals.bytes.saturating_mul(3) {
        return Ok(());
    }
    database.compact().map_err(|error| trouble(error.into(), plan))?;
    info!(before, after = length(&plan.path), "the response store's file was compacted");
    Ok(())
}
