//! What the process gives up, and what it may have, before it serves anybody.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files asked for, where we may have them: connections, pages of the store, children's pipes.
const OPEN_FILES: u64 = 65_536;

/// Too short for a core file. Unlike 0 it also keeps Linux from handing the memory to a crash reporter.
const CORE_FILE: u64 = if cfg!(target_os = "linux") { 1 } else { 0 };

/// Leaves nothing of our memory behind (tokens, conversations): no core file of us or of what we start, and, on
/// Linux, no dump of us by anybody and no look into us by others of our user. Lets us have as many files open as
/// we are allowed.
pub fn harden() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, CORE_FILE, CORE_FILE) {
        tracing::warn!(%error, "core files cannot be turned off");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "dumps of the process cannot be turned off");
    }
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = OPEN_FILES.min(hard);
        if soft < wanted
            && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
        {
            tracing::warn!(%error, soft, "the limit of open files cannot be raised");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_cannot_be_dumped_and_may_open_files() {
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        harden();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (CORE_FILE, CORE_FILE));
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        let (after, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(after >= before && after >= OPEN_FILES.min(hard));
        // What we start again is found all the same.
        assert!(std::path::Path::new("/proc/self/exe").exists());
    }
}
