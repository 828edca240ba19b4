//! The file under the database, written behind its back: a write is kept in memory, and a barrier (the database's
//! `sync_data`) closes what was written since the last one into a layer. [`WriteBack::flush`] puts layer by layer
//! into the file and waits for the device after each, in the order of the barriers, as the database would have
//! done. So a durable commit costs memory and no waiting, and a device that fails takes nothing from readers: what
//! it has not taken is still here, and is tried again.
//!
//! How much is kept is the writer's to bound.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, StorageBackend};

/// What is kept of a write, bytes; pages of the database are one or more of them.
const BLOCK: usize = 4096;
/// Most bytes that are written at once.
const RUN: usize = 1 << 20;

/// The file and what it lacks.
#[derive(Debug)]
pub(super) struct WriteBack {
    file: Box<dyn StorageBackend>,
    /// Locked for a look or a copy of what is in memory; never while the device works, but for a part of a block
    /// that is not here yet.
    state: RwLock<State>,
    /// Held while layers go into the file: one at a time, oldest first.
    flushing: Mutex<()>,
    /// A read failed, and the database serves nothing any more.
    broken: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Whether writes are kept; otherwise they go straight to the file.
    behind: bool,
    /// As the database sees it.
    length: u64,
    /// As it is.
    file_length: u64,
    open: Layer,
    /// Oldest first.
    closed: VecDeque<Arc<Layer>>,
}

/// What was written between two barriers.
#[derive(Debug, Default)]
struct Layer {
    /// By number.
    blocks: BTreeMap<u64, Arc<[u8]>>,
    /// The shortest that the file was meanwhile: what earlier layers have from there on is gone.
    cut: Option<u64>,
    /// The file's length at the end.
    length: Option<u64>,
}

impl WriteBack {
    /// Over `file`, which is written straight until [`WriteBack::defer`].
    pub(super) fn new(file: Box<dyn StorageBackend>) -> io::Result<Arc<Self>> {
        let length = file.len()?;
        let state = State {
            behind: false,
            length,
            file_length: length,
            open: Layer::default(),
            closed: VecDeque::new(),
        };
        let (state, flushing, broken) = (RwLock::new(state), Mutex::default(), AtomicBool::new(false));
        Ok(Arc::new(Self { file, state, flushing, broken }))
    }

    /// From now on writes are kept until they are flushed.
    pub(super) fn defer(&self) {
        self.write_state().behind = true;
    }

    /// Whether a read has failed: the database takes that for its end.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Its length with all that it lacks.
    pub(super) fn length(&self) -> u64 {
        self.read_state().length
    }

    /// Brings the file to the last barrier. After a failure all that it may lack is still here.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(layer) = self.read_state().closed.front().cloned() else { return Ok(()) };
            self.put(&layer)?;
            self.write_state().closed.pop_front();
        }
    }

    fn put(&self, layer: &Layer) -> io::Result<()> {
        let file_length = self.read_state().file_length;
        if let Some(cut) = layer.cut.filter(|cut| *cut < file_length) {
            self.file.set_len(cut)?;
            self.write_state().file_length = cut;
        }
        if let Some(length) = layer.length.filter(|length| *length > self.read_state().file_length) {
            self.file.set_len(length)?;
            self.write_state().file_length = length;
        }
        let (mut run, mut start) = (Vec::new(), 0);
        for (number, block) in &layer.blocks {
            let at = number * BLOCK as u64;
            if at != start + run.len() as u64 || run.len() >= RUN {
                self.put_run(start, &run)?;
                run.clear();
                start = at;
            }
            run.extend_from_slice(block);
        }
        self.put_run(start, &run)?;
        self.file.sync_data()
    }

    fn put_run(&self, start: u64, run: &[u8]) -> io::Result<()> {
        // The last block may reach past the end.
        let room = self.read_state().file_length.saturating_sub(start);
        let length = usize::try_from(room).map_or(run.len(), |room| run.len().min(room));
        if length == 0 { Ok(()) } else { self.file.write(start, &run[..length]) }
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `out` with what the file itself has at `at`; nothing is behind its end.
    fn read_file(&self, at: u64, file_length: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(file_length.saturating_sub(at)).map_or(out.len(), |n| n.min(out.len()));
        let (there, behind) = out.split_at_mut(there);
        behind.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        self.file.read(at, there).inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }
}

impl State {
    /// What is known of a block beside the file: its bytes, or that it is all zero.
    fn block(&self, number: u64) -> Option<Block> {
        let newest_first = std::iter::once(&self.open).chain(self.closed.iter().rev().map(|layer| &**layer));
        for layer in newest_first {
            if let Some(block) = layer.blocks.get(&number) {
                return Some(Block::Here(Arc::clone(block)));
            }
            if layer.cut.is_some_and(|cut| cut <= number * BLOCK as u64) {
                return Some(Block::Empty);
            }
        }
        None
    }

    fn is_clean(&self) -> bool {
        self.closed.is_empty() && self.open.is_empty()
    }
}

impl Layer {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.length.is_none()
    }
}

enum Block {
    Here(Arc<[u8]>),
    Empty,
}

/// The blocks that `range` touches: number, and the part of it.
fn blocks(range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let size = BLOCK as u64;
    (range.start / size..range.end.div_ceil(size))
        .map(move |number| (number, range.start.max(number * size)..range.end.min((number + 1) * size)))
}

/// A distance within what is in memory.
fn within(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

/// The database's hold of it.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<WriteBack>);

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.read_state();
        let end = offset + out.len() as u64;
        if end > state.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file_length = state.file_length;
        if state.is_clean() {
            drop(state);
            return self.0.read_file(offset, file_length, out);
        }
        let known: Vec<_> = blocks(offset..end).map(|(number, part)| (part, state.block(number))).collect();
        drop(state);
        // What is not in memory is read run by run.
        for run in known.chunk_by(|(_, one), (_, other)| one.is_none() && other.is_none()) {
            let [(first, known), ..] = run else { continue };
            let last = run.last().map_or(first.end, |(last, _)| last.end);
            let out = &mut out[within(first.start - offset)..within(last - offset)];
            match known {
                Some(Block::Here(block)) => {
                    let start = within(first.start % BLOCK as u64);
                    out.copy_from_slice(&block[start..start + out.len()]);
                }
                Some(Block::Empty) => out.fill(0),
                None => self.0.read_file(first.start, file_length, out)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let state = &mut *self.0.write_state();
        if !state.behind {
            self.0.file.set_len(length)?;
            (state.length, state.file_length) = (length, length);
            return Ok(());
        }
        if length < state.length {
            // The database's lengths are whole pages.
            if !length.is_multiple_of(BLOCK as u64) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            state.open.blocks.split_off(&(length / BLOCK as u64));
            state.open.cut = Some(state.open.cut.map_or(length, |cut| cut.min(length)));
        }
        state.length = length;
        state.open.length = Some(length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.0.write_state();
        if !state.behind {
            return self.0.file.sync_data();
        }
        if !state.open.is_empty() {
            state.closed.push_back(Arc::new(std::mem::take(&mut state.open)));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let state = &mut *self.0.write_state();
        if !state.behind {
            return self.0.file.write(offset, data);
        }
        for (number, part) in blocks(offset..offset + data.len() as u64) {
            let new = &data[within(part.start - offset)..within(part.end - offset)];
            let block = if new.len() == BLOCK {
                new.into()
            } else {
                let mut whole = [0; BLOCK];
                match state.block(number) {
                    Some(Block::Here(block)) => whole.copy_from_slice(&block),
                    Some(Block::Empty) => {}
                    None => self.0.read_file(number * BLOCK as u64, state.file_length, &mut whole)?,
                }
                let start = within(part.start % BLOCK as u64);
                whole[start..start + new.len()].copy_from_slice(new);
                whole.as_slice().into()
            };
            state.open.blocks.insert(number, block);
        }
        Ok(())
    }

    /// What has a barrier goes into the file, if that can be; the journal has it in any case.
    fn close(&self) -> io::Result<()> {
        let flushed = self.0.flush();
        self.0.file.close()?;
        flushed
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, usize, u8),
        SetLength(u64),
        Barrier,
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..60_000u64, 1..20_000usize, any::<u8>()).prop_map(|(at, n, byte)| Step::Write(at, n, byte)),
            2 => (0..16u64).prop_map(|blocks| Step::SetLength(blocks * BLOCK as u64)),
            2 => Just(Step::Barrier),
            2 => Just(Step::Flush),
        ]
    }

    /// All there is.
    fn content(of: &dyn StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; within(of.len().unwrap())];
        of.read(0, &mut bytes).unwrap();
        bytes
    }

    /// What the test can look at while the other end is in use.
    #[derive(Debug, Clone)]
    struct Shared(Arc<InMemoryBackend>);

    impl StorageBackend for Shared {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, length: u64) -> io::Result<()> {
            self.0.set_len(length)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    proptest! {
        /// The database sees one file, whatever is in it by now; and after a flush it has what the last barrier had.
        #[test]
        fn it_is_one_file_with_what_was_written(steps in prop::collection::vec(step(), 1..40)) {
            let disk = Shared(Arc::new(InMemoryBackend::new()));
            let file = WriteBack::new(Box::new(disk.clone())).unwrap();
            let seen = Handle(Arc::clone(&file));
            file.defer();
            let (mut expected, mut barrier) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Write(at, length, byte) => {
                        let at = within(at).min(expected.len());
                        let length = length.min(expected.len() - at);
                        expected[at..at + length].fill(byte);
                        seen.write(at as u64, &vec![byte; length]).unwrap();
                    }
                    Step::SetLength(length) => {
                        expected.resize(within(length), 0);
                        seen.set_len(length).unwrap();
                    }
                    Step::Barrier => {
                        barrier.clone_from(&expected);
                        seen.sync_data().unwrap();
                    }
                    Step::Flush => {
                        file.flush().unwrap();
                        prop_assert!(content(&disk) == barrier);
                    }
                }
                prop_assert!(content(&seen) == expected);
                let part = expected.len() / 3..expected.len() / 2;
                let mut bytes = vec![0; part.len()];
                seen.read(part.start as u64, &mut bytes).unwrap();
                prop_assert!(bytes == expected[part]);
            }
        }
    }
}
