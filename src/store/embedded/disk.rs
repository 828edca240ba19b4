//! The database file and its journal, held by the writer alone. Everything here blocks.
//!
//! A change goes into the journal first, then into the database by a commit that stays in memory (some 30 µs). Within
//! [`WRITE_OUT_AFTER`] a durable commit closes all of it into a layer ([`WriteBack`]), and a [`Flush`], which nobody
//! waits for, puts that into the file, waits for the device, and empties the journal; the other journal takes what
//! comes meanwhile. So a killed process loses nothing, and a loss of power the moments since.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, Durability, ReadableTable, StorageBackend};
use tracing::{error, info};

use super::aside::move_aside;
use super::change::{Change, Done};
use super::compaction::{Compaction, Next, Round};
use super::journal::Journal;
use super::tables::{Changed, FILE, Tables, View, all_nodes};
use super::write_back::{Handle, WriteBack};
use crate::store::OpenError;
use crate::store::codec::Codec;
use crate::store::ledger::{Limits, Totals};
use crate::store::node::micros;

/// The form of the tables; another one is another number.
const SCHEMA: u32 = 1;
/// Memory for pages.
pub(super) const CACHE_BYTES: usize = 48 * 1024 * 1024;
/// How long a change may be in the journal alone.
const WRITE_OUT_AFTER: Duration = Duration::from_secs(1);
/// Past this many changed records the database is written out at once: closing them into a layer is some
/// milliseconds of work, which changes wait for, and the file does not grow by the many copies of its pages.
const WRITE_OUT_RECORDS: usize = 256;
/// Past this many bytes of journal the database is written out at once.
const JOURNAL_BYTES: u64 = 8 * 1024 * 1024;
/// Past this many bytes of journal while the device still has the layer before, changes wait for it.
const JOURNAL_LIMIT: u64 = 4 * JOURNAL_BYTES;
/// Bytes that must be free on the device before anything is put, beside some copies of what waits in the journal:
/// the database takes no failed write, not even for its readers, so it must not come to one.
const ROOM: u64 = 4 * 1024 * 1024;
/// Copies of what waits: the content, pages half empty, and pages in use that are written anew.
const COPIES: u64 = 4;
/// A file smaller than this is never compacted.
const COMPACT_FROM: u64 = 8 * 1024 * 1024;
/// A file this many times as long as its records take is compacted: pages are half empty at worst, and a page in use
/// has a copy at times.
const COMPACT_FACTOR: u64 = 3;
/// How long after one compaction, or its failure, the next may be.
pub(super) const COMPACT_EVERY: Duration = Duration::from_secs(60);

/// Where the file is and what may be in it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    pub(super) codec: Arc<Codec>,
    /// Bytes free for a file in this folder.
    pub(super) free: fn(&Path) -> io::Result<u64>,
    /// Bytes of memory for pages, read and not yet written out.
    pub(super) cache: usize,
    /// How long after one compaction, or its failure, the next may be.
    pub(super) compact_every: Duration,
    /// Stands between the database and its file.
    pub(super) backend: fn(FileBackend) -> Box<dyn StorageBackend>,
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
    plan: Arc<Plan>,
    database: Arc<Database>,
    file: Arc<WriteBack>,
    /// Where changes are noted.
    journal: Journal,
    /// The other one, empty; `None` while a [`Flush`] has it.
    spare: Option<Journal>,
    /// Bytes of journal that a [`Flush`] has.
    in_flight: u64,
    folder: PathBuf,
    totals: Totals,
    /// Since when the file lacks changes, and of how many records.
    dirty: Option<(Instant, usize)>,
    /// Whether the last write-out was for the time and not for the number of changes: a compaction would make a file
    /// that changes fast only longer, for the moment that it copies from takes room.
    is_calm: bool,
    /// What has changed since a compaction took its view; `None` while there is none.
    changed: Option<Changed>,
    /// When there may be one.
    compact_from: Instant,
    /// The file's length after the last one, and the bytes of the records that it was begun with: what could not be
    /// made shorter then, cannot now.
    compacted: (u64, u64),
    /// The bytes of the records that the present one was begun with.
    begun_with: u64,
}

/// What is left to do of a write-out: the slow part, which needs nothing that requests wait for. After a failure
/// it can be run again.
#[derive(Debug)]
pub(super) struct Flush {
    file: Arc<WriteBack>,
    /// Whose changes are on their way.
    journal: Journal,
    switch: Option<Switch>,
    /// Whose entry for the new file the device may lack still.
    renamed_in: Option<PathBuf>,
}

/// The file takes the place of another.
#[derive(Debug)]
struct Switch {
    from: PathBuf,
    to: PathBuf,
    /// Holds the lock of that place until then.
    _old: Arc<Database>,
}

/// What came of a round of compaction.
pub(super) enum Compacted {
    /// The new file is in use; its flush puts it in its place.
    Done(Flush),
    /// What is to be copied next.
    NotYet(Box<(Compaction, Round, View)>),
    GaveUp,
}

impl Flush {
    /// Waits for the device.
    pub(super) fn run(&mut self) -> io::Result<()> {
        self.file.flush()?;
        if let Some(Switch { from, to, .. }) = &self.switch {
            fs::rename(from, to)?;
            self.renamed_in = Some(folder_of(to).to_owned());
            self.switch = None;
        }
        if let Some(folder) = &self.renamed_in {
            File::open(folder)?.sync_all()?;
            self.renamed_in = None;
        }
        self.journal.clear()
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Why a file could not be used.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is moved aside, and a fresh one begun.
    Unusable { why: &'static str, reason: String },
    /// For a person to mend.
    Fatal(OpenError),
}

impl Disk {
    /// Opens the file, or begins one; one that cannot be read is moved aside.
    pub(super) fn open(plan: &Arc<Plan>) -> Result<Self, OpenError> {
        let io = |what: &'static str| move |error: io::Error| OpenError::file(what, &plan.path, &error);
        if let Some(folder) = plan.path.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(io("cannot make the folder of"))?;
        }
        let (database, file, totals) = match usable(plan) {
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
        // Not before the file is locked: the copy may be another process's.
        Compaction::clear(plan).map_err(io("cannot remove an unfinished copy of"))?;
        let journal = |suffix: &str| {
            let mut path = plan.path.clone().into_os_string();
            path.push(suffix);
            Journal::open(Path::new(&path)).map_err(io("cannot open the journal of"))
        };
        let mut journals = [journal("-journal")?, journal("-journal2")?];
        journals.sort_by_key(|(journal, _)| journal.turn());
        let [(spare, mut frames), (journal, later)] = journals;
        frames.extend(later);
        let mut disk = Self {
            plan: Arc::clone(plan),
            database: Arc::new(database),
            file,
            journal,
            spare: Some(spare),
            in_flight: 0,
            folder: folder_of(&plan.path).to_owned(),
            totals,
            dirty: None,
            is_calm: true,
            changed: None,
            compact_from: Instant::now(),
            compacted: (0, 0),
            begun_with: 0,
        };
        disk.replay(&frames).map_err(|error| OpenError::file("cannot write", &plan.path, &error))?;
        disk.file.defer();
        Ok(disk)
    }

    /// For readers.
    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a read has failed: nothing more comes out of the database until it is opened again.
    pub(super) fn is_broken(&self) -> bool {
        self.file.is_broken()
    }

    /// Whether changes are to wait until the device has taken what is on its way.
    pub(super) fn is_full(&self) -> bool {
        self.spare.is_none() && self.journal.len() >= JOURNAL_LIMIT
    }

    /// When the file wants to be written out.
    pub(super) fn due(&self) -> Option<Instant> {
        let (since, records) = self.dirty.filter(|_| self.spare.is_some())?;
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
        let new = frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        let waits = self.in_flight + self.journal.len() + new;
        if !self.has_room(waits)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.journal.append(frames.iter().map(Vec::as_slice))
    }

    fn has_room(&self, bytes: u64) -> io::Result<bool> {
        Ok((self.plan.free)(&self.folder)? >= ROOM + COPIES * bytes)
    }

    /// Makes changes that are noted, all in one transaction.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<Vec<Done>, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let mut totals = self.totals;
        let (done, noted) = {
            let mut tables = Tables::open(&transaction)?;
            if self.changed.is_some() {
                tables.track();
            }
            let (now, limits) = (micros(SystemTime::now()), self.plan.limits);
            let each = changes.iter().map(|change| change.make(&mut tables, &mut totals, limits, now));
            (each.collect::<Result<_, _>>()?, tables.into_changed())
        };
        transaction.commit()?;
        self.totals = totals;
        if let Some(all) = &mut self.changed {
            all.extend(noted);
        }
        let (_, records) = self.dirty.get_or_insert_with(|| (Instant::now(), 0));
        *records += changes.iter().map(Change::records).sum::<usize>();
        Ok(done)
    }

    /// Closes all changes into a layer, where there are some and the last one is in the file. Gives what is left
    /// to do.
    pub(super) fn write_out(&mut self) -> Result<Option<Flush>, redb::Error> {
        let Some((_, records)) = self.dirty else { return Ok(None) };
        let Some(spare) = self.spare.take() else { return Ok(None) };
        self.is_calm = records < WRITE_OUT_RECORDS;
        self.database.begin_write()?.commit()?;
        Ok(Some(self.flush(spare, None)))
    }

    fn flush(&mut self, mut spare: Journal, switch: Option<Switch>) -> Flush {
        self.dirty = None;
        spare.follow(&self.journal);
        self.in_flight = self.journal.len();
        let journal = std::mem::replace(&mut self.journal, spare);
        Flush { file: Arc::clone(&self.file), journal, switch, renamed_in: None }
    }

    /// It was run, and all of it is done.
    pub(super) fn flushed(&mut self, flush: Flush) {
        self.in_flight = 0;
        self.spare = Some(flush.journal);
    }

    /// Writes everything out and waits for it.
    pub(super) fn close(mut self) -> Result<(), redb::Error> {
        if let Some(mut flush) = self.write_out()? {
            flush.run()?;
        }
        Ok(())
    }

    /// What a compaction is to copy from, if it is time for one.
    pub(super) fn begin_compaction(&mut self) -> Option<View> {
        let (length, bytes) = (self.file.length(), self.totals.bytes);
        let may_be = self.is_calm && self.changed.is_none() && self.spare.is_some();
        let is_time = may_be && Instant::now() >= self.compact_from;
        // Records may be such that their pages are emptier than most.
        let (settled, settled_bytes) = self.compacted;
        let has_moved = length >= settled.saturating_mul(2) || bytes <= settled_bytes / 2;
        if !is_time || !has_moved || length < COMPACT_FROM || length < bytes.saturating_mul(COMPACT_FACTOR) {
            return None;
        }
        let view = self.has_room(self.totals.bytes).ok().filter(|has_room| *has_room);
        let view = view.and_then(|_| View::of(&self.database).ok());
        match &view {
            Some(_) => (self.changed, self.begun_with) = (Some(Changed::default()), bytes),
            None => self.end_compaction(false),
        }
        view
    }

    /// A round is done, and no flush runs: goes on in the new file, if little is left to copy.
    pub(super) fn go_on(&mut self, compaction: Compaction) -> Result<Compacted, redb::Error> {
        let view = View::of(&self.database)?;
        let changed = self.changed.take().unwrap_or_default();
        match compaction.next(&changed, &view)? {
            Next::Again => {
                self.changed = Some(Changed::default());
                let round = Round::Changed(changed.into_records());
                Ok(Compacted::NotYet(Box::new((compaction, round, view))))
            }
            Next::Last => {
                let before = self.file.length();
                let (database, file, from) = compaction.finish(&view, changed)?;
                let Some(spare) = self.spare.take() else { return Ok(Compacted::GaveUp) };
                let old = std::mem::replace(&mut self.database, Arc::new(database));
                self.file = file;
                self.end_compaction(true);
                let switch = Switch { from, to: self.plan.path.clone(), _old: old };
                let flush = self.flush(spare, Some(switch));
                info!(before, after = self.file.length(), "the response store's file was compacted");
                Ok(Compacted::Done(flush))
            }
            Next::GiveUp => Ok(Compacted::GaveUp),
        }
    }

    /// Ends it, `done` or not.
    pub(super) fn end_compaction(&mut self, done: bool) {
        self.changed = None;
        if done {
            self.compacted = (self.file.length(), self.begun_with);
        }
        self.compact_from = Instant::now() + self.plan.compact_every;
    }

    /// Makes the changes of an earlier process that did not come to write them out.
    fn replay(&mut self, frames: &[Vec<u8>]) -> Result<(), redb::Error> {
        let changes: Vec<Change> = frames.iter().filter_map(|frame| Change::from_frame(frame)).collect();
        if !changes.is_empty() {
            self.commit(&changes)?;
            self.database.begin_write()?.commit()?;
            self.dirty = None;
            info!(
                changes = changes.len(),
                "the response store took up what an earlier process left in its journal"
            );
        }
        for journal in self.spare.iter_mut().chain([&mut self.journal]) {
            journal.clear()?;
        }
        Ok(())
    }
}

/// Opens the file and looks at all of it, so that damage is found now and not by a request.
fn usable(plan: &Plan) -> Result<(Database, Arc<WriteBack>, Totals), Trouble> {
    // Damage that the database does not expect is a panic in it.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let (mut database, file) = begin(&plan.path, plan)?;
        let mut totals = Totals::default();
        all_nodes(&database, |node| totals.add(node)).map_err(|error| trouble(error, plan))?;
        compact(&mut database, totals, plan)?;
        Ok((database, file, totals))
    }));
    opened.unwrap_or_else(|_| Err(unusable("corrupt", "it breaks off where its own marks say more")))
}

/// Opens the file at `path`, with all its tables.
pub(super) fn begin(path: &Path, plan: &Plan) -> Result<(Database, Arc<WriteBack>), Trouble> {
    let (database, file) = open(path, plan)?;
    look_at_schema(&database, plan)?;
    Ok((database, file))
}

fn open(path: &Path, plan: &Plan) -> Result<(Database, Arc<WriteBack>), Trouble> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file))
        .map_err(|error| Trouble::Fatal(OpenError::file("cannot open", path, &error)))?;
    let opened = FileBackend::new(file).and_then(|backend| {
        let file = WriteBack::new((plan.backend)(backend)).map_err(redb::StorageError::from)?;
        let database = Database::builder()
            .set_cache_size(plan.cache)
            // A file that was closed well is trusted otherwise, and damage found by a panic.
            .set_check_integrity_on_open(true)
            .create_with_backend(Handle(Arc::clone(&file)))?;
        Ok((database, file))
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
    if before < COMPACT_FROM || before < totals.bytes.saturating_mul(COMPACT_FACTOR) {
        return Ok(());
    }
    database.compact().map_err(|error| trouble(error.into(), plan))?;
    info!(before, after = length(&plan.path), "the response store's file was compacted");
    Ok(())
}
