//! Files that cannot be used are moved aside, not deleted: a few are kept, for people to look at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most files kept of those moved aside for one reason.
const KEPT: usize = 3;

/// Moves `file` to `<file>.<why>-<seconds since 1970>` and forgets the oldest of its kind. Gives where it went.
pub(in crate::store) fn move_aside(file: &Path, why: &str, now: SystemTime) -> io::Result<PathBuf> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = |at: u64| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{why}-{at}"));
        PathBuf::from(name)
    };
    // Several in one second get names of their own.
    let mut names = (seconds..seconds.saturating_add(100)).map(name);
    let target = names.find(|target| !target.exists()).ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(file, &target)?;
    let mut kept = kept(file, why)?;
    kept.sort_unstable();
    for (_, old) in kept.iter().rev().skip(KEPT) {
        fs::remove_file(old)?;
    }
    Ok(target)
}

/// What was moved aside, by when.
fn kept(file: &Path, why: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let Some(prefix) = file.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}.{why}-"))
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(file.parent().unwrap_or(Path::new(".")))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(at) = name.and_then(|name| name.strip_prefix(&prefix)?.parse().ok()) {
            found.push((at, path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("responses.redb");
        let other = dir.path().join("responses.redb.corrupt-notes");
        fs::write(&other, "mine").unwrap();
        for n in [9, 10, 10, 11, 100] {
            fs::write(&file, n.to_string()).unwrap();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
            let target = move_aside(&file, "corrupt", now).unwrap();
            assert_eq!(fs::read_to_string(target).unwrap(), n.to_string());
            assert!(!file.exists());
        }
        let mut names: Vec<_> = kept(&file, "corrupt").unwrap().into_iter().map(|(at, _)| at).collect();
        names.sort_unstable();
        assert_eq!(names, [11, 12, 100]);
        assert!(other.exists());
    }
}
