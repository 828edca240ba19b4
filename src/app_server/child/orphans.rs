//! Children that outlived a bridge which was killed.

use std::path::Path;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Kills recorded children that still work in `codex_home`. The caller holds the state folder's lock, so
/// none of them is another bridge's. Where a process's environment cannot be looked at, nothing is killed.
pub(crate) fn end_orphans(records: &Path, codex_home: &Path) {
    let Ok(entries) = std::fs::read_dir(records) else { return };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid.filter(|&pid| pid > 1 && works_in(pid, codex_home)) {
            tracing::warn!(pid, "a codex app-server left by an earlier bridge is ended");
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Whether the process was started by us: no other has our private home as its `CODEX_HOME`.
fn works_in(pid: i32, codex_home: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = [b"CODEX_HOME=", codex_home.as_os_str().as_encoded_bytes()].concat();
    environment.split(|&byte| byte == 0).any(|variable| variable == wanted)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_recorded_process_of_this_home_is_ended() {
        let temp = tempfile::tempdir().unwrap();
        let records = temp.path().join("children");
        std::fs::create_dir(&records).unwrap();
        let home = temp.path().join("home");
        let start = |home: &Path| {
            let mut command = Command::new("/bin/sleep");
            let child = command.arg("60").env("CODEX_HOME", home).process_group(0).spawn().unwrap();
            // `spawn` returns while the kernel is still laying the environment out.
            let environ = format!("/proc/{}/environ", child.id());
            while std::fs::read(&environ).unwrap().is_empty() {
                std::thread::yield_now();
            }
            child
        };
        let mut orphan = start(&home);
        let mut stranger = start(&temp.path().join("other"));
        for pid in [orphan.id(), stranger.id()] {
            std::fs::write(records.join(pid.to_string()), "").unwrap();
        }
        std::fs::write(records.join("notes"), "").unwrap();
        end_orphans(&records, &home);
        assert_eq!(orphan.wait().unwrap().signal(), Some(9));
        assert!(stranger.try_wait().unwrap().is_none(), "not ours");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0);
    }
}
