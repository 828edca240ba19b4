//! The database file and its journal, held by the writer alone. Everything here blocks.
//!
//! A change goes into the journal first, then into a layer in memory ([`Moment`]). Within a second a
//! [`Flush`], which nobody waits for, puts the layer into the database by one durable commit, waits for the device
//! ([`WriteBack`]) and empties the journal; another layer and the other journal take what comes meanwhile. So a killed
//! process loses nothing, and a loss of power the moments since.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableTable, StorageBackend};
use tracing::{error, info};

use super::aside::move_aside;
use super::change::{self, Change, Done};
use super::compaction::{self, Compacted};
use super::journal::Journal;
use super::recent::{Layer, Moment, Pages, Starts};
use super::tables::{FILE, Tables, View, all_nodes};
use super::write_back::{Handle, WriteBack};
use crate::store::OpenError;
use crate::store::codec::Codec;
use crate::store::ledger::{Limits, Totals};
use crate::store::node::micros;

/// The form of the tables; another one is another number.
const SCHEMA: u32 = 1;
/// Memory for pages.
pub(super) const CACHE_BYTES: usize = 48 * 1024 * 1024;
/// Past this many bytes of changes in memory what can wait does: a sweep until they are fewer, a compaction until there
/// is less to do.
const SPARE_BYTES: u64 = LIMIT_BYTES / 2;
/// Past this many, changes wait for the device.
const LIMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that must be free on the device before anything is put, beside some copies of what waits in the journal:
/// the database takes no failed write, not even for its readers, so it must not come to one.
const ROOM: u64 = 4 * 1024 * 1024;
/// The same before anything is deleted: a part of that room is for deletions alone.
const ROOM_TO_DELETE: u64 = ROOM / 4;
/// Copies of what waits: the content, pages half empty, and pages in use that are written anew.
const COPIES: u64 = 4;
/// A file this many times as long as its records take is compacted: pages are half empty at worst, and a page in use
/// has a copy at times.
const COMPACT_FACTOR: u64 = 3;

/// How often what is to be done beside the requests is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How long a change may be in the journal alone.
    pub(super) write_out_after: Duration,
    /// Past this many bytes of changes in memory the database is written out at once. Each is a page or more to
    /// write.
    pub(super) write_out_bytes: u64,
    /// A file shorter than this is never compacted.
    pub(super) compact_from: u64,
    /// How long after one compaction, or its failure, the next may be.
    pub(super) compact_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            write_out_after: Duration::from_secs(1),
            write_out_bytes: 2 * 1024 * 1024,
            compact_from: 8 * 1024 * 1024,
            compact_every: Duration::from_secs(60),
        }
    }
}

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
    pub(super) pace: Pace,
    /// Stands between the database and its file.
    pub(super) backend: fn(FileBackend) -> Box<dyn StorageBackend>,
}

/// Bytes free on the device of `folder`.
pub(in crate::store) fn free_bytes(folder: &Path) -> io::Result<u64> {
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
    moment: Moment,
    starts: Starts,
    /// Where changes are noted.
    journal: Journal,
    /// The other one, empty; `None` while a [`Flush`] has it.
    spare: Option<Journal>,
    /// Bytes of journal that a [`Flush`] has.
    in_flight: u64,
    folder: PathBuf,
    /// Since when the file lacks changes.
    dirty: Option<Instant>,
    /// Whether the last write-out was for the time and not for the number of changes: who changes so much needs the
    /// machine, and has no memory to spare for what would wait.
    is_calm: bool,
    /// When there may be a compaction.
    compact_from: Instant,
    /// The file's length after the last one, and the bytes of the records then: what could not be made shorter then,
    /// cannot now.
    compacted: (u64, u64),
}

/// What is left to do of a write-out: the slow part, which needs nothing that requests wait for. After a failure
/// of the device it can be run again.
#[derive(Debug)]
pub(super) struct Flush {
    database: Arc<Database>,
    file: Arc<WriteBack>,
    /// `None` once the database has it.
    layer: Option<Arc<Layer>>,
    /// Whose changes are on their way.
    journal: Journal,
}

impl Flush {
    /// Waits for the device. The outer failure is the database's, which is to be opened again.
    pub(super) fn run(&mut self) -> Result<io::Result<()>, redb::Error> {
        if let Some(layer) = &self.layer {
            apply(&self.database, layer, self.journal.turn())?;
            self.layer = None;
        }
        Ok(self.file.flush().and_then(|()| self.journal.clear()))
    }
}

/// Makes the changes of `layer` in the database, all or none, and notes up to which journal's turn it has them.
fn apply(database: &Database, layer: &Layer, turn: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    Tables::open(&transaction)?.apply(&layer.read(), turn)?;
    Ok(transaction.commit()?)
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
        let (database, file, moment) = match usable(plan) {
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
        compaction::clear(plan).map_err(io("cannot remove an unfinished copy of"))?;
        let journal = |suffix: &str| {
            let mut path = plan.path.clone().into_os_string();
            path.push(suffix);
            Journal::open(Path::new(&path)).map_err(io("cannot open the journal of"))
        };
        let mut journals = [journal("-journal")?, journal("-journal2")?];
        journals.sort_by_key(|(journal, _)| journal.turn());
        // One that is in the database is not made again: what has changed since would be undone.
        let applied = moment.base.turn();
        let frames = journals.iter_mut().filter(|(journal, _)| !journal.is_before(applied));
        let frames: Vec<Vec<u8>> = frames.flat_map(|(_, frames)| std::mem::take(frames)).collect();
        let [(spare, _), (mut journal, _)] = journals;
        journal.take_turn(journal.turn().max(applied));
        let mut disk = Self {
            plan: Arc::clone(plan),
            database,
            file,
            journal,
            spare: Some(spare),
            in_flight: 0,
            moment,
            starts: Starts::default(),
            folder: folder_of(&plan.path).to_owned(),
            dirty: None,
            is_calm: true,
            compact_from: Instant::now(),
            compacted: (0, 0),
        };
        disk.replay(&frames).map_err(|error| OpenError::file("cannot write", &plan.path, &error))?;
        disk.file.defer();
        Ok(disk)
    }

    /// For readers.
    pub(super) fn moment(&self) -> Moment {
        self.moment.clone()
    }

    /// Whether a read has failed: nothing more comes out of the database until it is opened again.
    pub(super) fn is_broken(&self) -> bool {
        self.file.is_broken()
    }

    /// Whether changes are to wait until what is on its way is in the file.
    pub(super) fn is_full(&self) -> bool {
        self.moment.newest.bytes() >= LIMIT_BYTES
    }

    /// Whether what can wait is to wait, so that requests need not.
    pub(super) fn is_filling(&self) -> bool {
        self.moment.newest.bytes() >= SPARE_BYTES
    }

    /// When the file wants to be written out.
    pub(super) fn due(&self) -> Option<Instant> {
        let since = self.dirty.filter(|_| self.spare.is_some())?;
        let Pace { write_out_after, write_out_bytes, .. } = self.plan.pace;
        Some(if self.moment.newest.bytes() >= write_out_bytes { since } else { since + write_out_after })
    }

    /// Writes changes into the journal: from then on they outlive the process. A failure leaves everything as it
    /// was, and the database to its readers.
    pub(super) fn note<'a>(&mut self, changes: impl Iterator<Item = &'a Change>, now: u64) -> io::Result<()> {
        let (mut frames, mut room) = (vec![change::at(now)], ROOM_TO_DELETE);
        for change in changes {
            frames.extend(change.to_frame());
            if let Change::Put { .. } = change {
                room = ROOM;
            }
        }
        if frames.len() == 1 {
            return Ok(());
        }
        let new = frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        if !self.has_room(room, self.in_flight + self.journal.len() + new)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.journal.append(frames.iter().map(Vec::as_slice))
    }

    /// Whether `room` is there beside what `bytes` of changes take.
    fn has_room(&self, room: u64, bytes: u64) -> io::Result<bool> {
        Ok((self.plan.free)(&self.folder)? >= room + COPIES * bytes)
    }

    /// Makes changes that are noted, as of `now`.
    pub(super) fn make<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        now: u64,
    ) -> Result<Vec<Done>, redb::Error> {
        let mut totals = self.moment.totals;
        let mut pages = Pages { moment: &self.moment, starts: &self.starts };
        let limits = self.plan.limits;
        let each = changes.map(|change| change.make(&mut pages, &mut totals, limits, now));
        let done = each.collect::<Result<_, _>>()?;
        self.moment.totals = totals;
        // What changed nothing is in the journal all the same.
        if self.moment.newest.bytes() > 0 || self.journal.len() > 0 {
            self.dirty.get_or_insert_with(Instant::now);
        }
        Ok(done)
    }

    /// Begins another layer, where there are changes and the last ones are in the file. Gives what is left to do.
    pub(super) fn write_out(&mut self) -> Option<Flush> {
        self.dirty?;
        let mut spare = self.spare.take()?;
        self.dirty = None;
        let layer = std::mem::take(&mut self.moment.newest);
        self.is_calm = layer.bytes() < self.plan.pace.write_out_bytes;
        self.moment.older = Some(Arc::clone(&layer));
        self.starts = Starts::default();
        spare.take_turn(self.journal.turn() + 1);
        self.in_flight = self.journal.len();
        let journal = std::mem::replace(&mut self.journal, spare);
        let (database, file) = (Arc::clone(&self.database), Arc::clone(&self.file));
        Some(Flush { database, file, layer: Some(layer), journal })
    }

    /// It was run, and all of it is done.
    pub(super) fn flushed(&mut self, flush: Flush) -> Result<(), redb::Error> {
        self.in_flight = 0;
        self.spare = Some(flush.journal);
        self.base(View::of(&self.database)?);
        Ok(())
    }

    /// The database has all of the older layer.
    fn base(&mut self, view: View) {
        self.moment.base = Arc::new(view);
        self.moment.older = None;
        self.starts = Starts::default();
    }

    /// Writes everything out and waits for it.
    pub(super) fn close(mut self) -> Result<(), redb::Error> {
        if let Some(mut flush) = self.write_out() {
            flush.run()??;
        }
        Ok(())
    }

    /// What a compaction is to copy, if it is time for one. No flush may begin before it has ended.
    pub(super) fn begin_compaction(&mut self) -> Option<Arc<View>> {
        let (length, bytes) = (self.file.length(), self.moment.totals.bytes);
        // Records may be such that their pages are emptier than most.
        let (settled, settled_bytes) = self.compacted;
        let has_moved = length >= settled.saturating_mul(2) || bytes <= settled_bytes / 2;
        let may_be = self.is_calm && self.spare.is_some() && Instant::now() >= self.compact_from;
        let is_long = length >= self.plan.pace.compact_from && length >= bytes.saturating_mul(COMPACT_FACTOR);
        if !may_be || !has_moved || !is_long {
            return None;
        }
        if !self.has_room(ROOM, bytes).is_ok_and(|has_room| has_room) {
            self.compact_later();
            return None;
        }
        Some(Arc::clone(&self.moment.base))
    }

    /// Goes on in the new file.
    pub(super) fn compacted(&mut self, Compacted { database, file, view }: Compacted) {
        let before = self.file.length();
        (self.database, self.file) = (database, file);
        self.base(view);
        self.compacted = (self.file.length(), self.moment.totals.bytes);
        info!(before, after = self.file.length(), "the response store's file was compacted");
        self.compact_later();
    }

    /// It was, or could not be.
    pub(super) fn compact_later(&mut self) {
        self.compact_from = Instant::now() + self.plan.pace.compact_every;
    }

    /// Makes the changes of an earlier process that did not come to write them out.
    fn replay(&mut self, frames: &[Vec<u8>]) -> Result<(), redb::Error> {
        let (mut now, mut changes) = (micros(SystemTime::now()), 0);
        for frame in frames {
            if let Some(at) = change::from_at(frame) {
                now = at;
            } else if let Some(change) = Change::from_frame(frame) {
                self.make(std::iter::once(&change), now)?;
                changes += 1;
            }
        }
        if changes > 0 {
            let layer: Arc<Layer> = std::mem::take(&mut self.moment.newest);
            apply(&self.database, &layer, self.journal.turn())?;
            self.base(View::of(&self.database)?);
            self.dirty = None;
            info!(changes, "the response store took up what an earlier process left in its journal");
        }
        for journal in self.spare.iter_mut().chain([&mut self.journal]) {
            journal.clear()?;
        }
        self.journal.take_turn(self.journal.turn() + 1);
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens the file and looks at all of it, so that damage is found now and not by a request.
fn usable(plan: &Plan) -> Result<(Arc<Database>, Arc<WriteBack>, Moment), Trouble> {
    // Damage that the database does not expect is a panic in it.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let (mut database, file) = begin(&plan.path, plan)?;
        let mut totals = Totals::default();
        all_nodes(&database, |node| totals.add(node)).map_err(|error| trouble(error, plan))?;
        compact(&mut database, totals, plan)?;
        let database = Arc::new(database);
        let view = View::of(&database).map_err(|error| trouble(error, plan))?;
        Ok((database, file, Moment::of(view, totals)))
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
    if before < plan.pace.compact_from || before < totals.bytes.saturating_mul(COMPACT_FACTOR) {
        return Ok(());
    }
    database.compact().map_err(|error| trouble(error.into(), plan))?;
    info!(before, after = length(&plan.path), "the response store's file was compacted");
    Ok(())
}
