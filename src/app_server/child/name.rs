//! What of a home belongs to one child as long as it lives, by a number.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers are taken in turn and used again: fresh for each child, yet few, because the app-server leaves a lock
/// file for each socket name when it is killed. Far more than children there can be at once.
const NUMBERS: u64 = 128;

/// The numbers in use. Two children that live never have the same.
#[derive(Debug, Default)]
pub(crate) struct Names {
    // A std mutex: held for bookkeeping, never across an await.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    numbers: BTreeSet<u64>,
    next: u64,
}

/// A child's own number; free again when dropped.
#[derive(Debug)]
pub(crate) struct Name {
    number: u64,
    /// Removed with it: what it logs and indexes is of no use to the next child.
    databases: PathBuf,
    names: Arc<Names>,
}

impl Names {
    /// A number that no living child has, whose databases are in `home`; `None` if there is none.
    pub(crate) fn take(self: &Arc<Self>, home: &Path) -> Option<Name> {
        let mut taken = self.lock();
        let number =
            (0..NUMBERS).map(|ahead| (taken.next + ahead) % NUMBERS).find(|n| !taken.numbers.contains(n))?;
        taken.numbers.insert(number);
        taken.next = (number + 1) % NUMBERS;
        drop(taken);
        let databases = home.join(format!("databases-{number}"));
        Some(Name { number, databases, names: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Where the child keeps its databases; it makes the folder.
    pub(crate) fn databases(&self) -> &Path {
        &self.databases
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // A dozen files. What a child that is just being killed still writes is removed at the next start.
        let _ = std::fs::remove_dir_all(&self.databases);
        self.names.lock().numbers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_that_live_have_the_same_and_databases_go_with_their_child() {
        let temp = tempfile::tempdir().unwrap();
        let names = Arc::new(Names::default());
        let mut held: Vec<Name> = (0..NUMBERS).map(|_| names.take(temp.path()).unwrap()).collect();
        assert!(names.take(temp.path()).is_none());
        let gone = held.swap_remove(7);
        std::fs::create_dir(gone.databases()).unwrap();
        std::fs::write(gone.databases().join("logs.sqlite"), "x").unwrap();
        let (number, databases) = (gone.number(), gone.databases().to_owned());
        drop(gone);
        assert!(!databases.exists());
        assert_eq!(names.take(temp.path()).unwrap().number(), number);
        drop(held);
        let first = names.take(temp.path()).unwrap().number();
        assert_ne!(names.take(temp.path()).unwrap().number(), first, "not at once again");
    }
}
