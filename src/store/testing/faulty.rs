//! A disk that a test can break, between a database and its file.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// What is wrong with a disk. One for each test: a plan has no room for more than a function.
#[derive(Debug)]
pub(in crate::store) struct Faults {
    pub(in crate::store) reads: AtomicBool,
    pub(in crate::store) writes: AtomicBool,
    /// Whether the device takes its time.
    stuck: Mutex<bool>,
    freed: Condvar,
}

impl Faults {
    pub(in crate::store) const fn none() -> Self {
        Self {
            reads: AtomicBool::new(false),
            writes: AtomicBool::new(false),
            stuck: Mutex::new(false),
            freed: Condvar::new(),
        }
    }

    pub(in crate::store) fn set_stuck(&self, stuck: bool) {
        *self.stuck.lock().unwrap() = stuck;
        self.freed.notify_all();
    }

    fn check(flag: &AtomicBool) -> io::Result<()> {
        if flag.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

/// A test that fails does not wait for the device for good.
pub(in crate::store) struct Freed(pub(in crate::store) &'static Faults);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.set_stuck(false);
    }
}

#[derive(Debug)]
pub(in crate::store) struct Faulty {
    pub(in crate::store) file: FileBackend,
    pub(in crate::store) faults: &'static Faults,
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        Faults::check(&self.faults.reads)?;
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Faults::check(&self.faults.writes)?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        drop(self.faults.freed.wait_while(self.faults.stuck.lock().unwrap(), |stuck| *stuck).unwrap());
        Faults::check(&self.faults.writes)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Faults::check(&self.faults.writes)?;
        self.file.write(offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
