//! The state folder: ours alone, one bridge at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::SetupError;

/// A locked state folder. The lock goes with the value (and with the process, however that ends).
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    lock: File,
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        // Closing it is not enough: a child between its fork and its exec has it open too.
        let _ = self.lock.unlock();
    }
}

impl StateFolder {
    /// Makes the folder (0700) where it is missing and takes its lock; refused while another bridge holds it.
    pub fn open(path: &Path) -> Result<Self, SetupError> {
        let path =
            std::path::absolute(path).map_err(|error| SetupError::folder("cannot use", path, &error))?;
        private_dir(&path)?;
        let file = path.join("lock");
        let failed = |error: &std::io::Error| SetupError::folder("cannot lock", &file, error);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(|error| failed(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SetupError::StateInUse { path, pid: holder(&mut lock) });
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        // For the message that a second bridge gives; the lock itself is the kernel's.
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(|e| failed(&e))?;
        Ok(Self { path, lock })
    }

    /// Where it is; absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A folder that only we can enter: made where missing, narrowed where wider, refused where not ours.
pub(crate) fn private_dir(path: &Path) -> Result<(), SetupError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| SetupError::folder("cannot make", path, &error))?;
    let found =
        std::fs::metadata(path).map_err(|error| SetupError::folder("cannot look at", path, &error))?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(SetupError::Folder {
            what: "cannot use",
            path: path.to_owned(),
            reason: "it belongs to another user".into(),
        });
    }
    if found.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| SetupError::folder("cannot close to others", path, &error))?;
    }
    Ok(())
}

/// Writes a file (0600) so that readers see the old or the new content, never a part.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), SetupError> {
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        std::fs::rename(&fresh, path)
    })();
    written.map_err(|error| SetupError::folder("cannot write", path, &error))
}

fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_is_private_even_if_it_was_open_before() {
        let temp = tempfile::tempdir().unwrap();
        let wide = temp.path().join("wide");
        std::fs::create_dir(&wide).unwrap();
        std::fs::set_permissions(&wide, Permissions::from_mode(0o755)).unwrap();
        let state = StateFolder::open(&wide).unwrap();
        assert_eq!(mode(state.path()), 0o700);
        assert_eq!(mode(&state.path().join("lock")), 0o600);
        let deep = StateFolder::open(&temp.path().join("a/b")).unwrap();
        assert_eq!(mode(deep.path()), 0o700);
        assert_eq!(mode(&temp.path().join("a")), 0o700);
    }

    #[test]
    fn a_second_bridge_is_refused_and_told_who_is_first() {
        let temp = tempfile::tempdir().unwrap();
        let first = StateFolder::open(temp.path()).unwrap();
        let refused = StateFolder::open(temp.path()).unwrap_err();
        assert_eq!(
            refused,
            SetupError::StateInUse { path: first.path().to_owned(), pid: Some(std::process::id()) }
        );
        assert!(refused.to_string().contains("--state"), "{refused}");
        drop(first);
        StateFolder::open(temp.path()).unwrap();
    }

    #[test]
    fn a_private_file_is_replaced_whole() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file.json");
        std::fs::write(&file, "old and longer").unwrap();
        write_private(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
