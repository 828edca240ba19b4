//! What the daemon starts beside the app-server does not outlive it, however it ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::http::{PATIENCE, until};

/// A codex that hangs where it is told to: it writes its process id down, and sleeps on under it.
fn hanging(folder: &Path, at: &str) -> std::path::PathBuf {
    let path = folder.join("codex");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = {at} ]; then echo $$ > '{}'; exec sleep 1000; fi\necho codex-cli 999.0.0\n",
        folder.join("pid").display()
    );
    std::fs::write(&path, script).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("an executable");
    path
}

/// Whether the process runs: not one that has ended and waits to be reaped.
fn runs(pid: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_bridge_leaves_no_codex_that_was_asked_for_its_version_or_its_models() {
    for at in ["--version", "debug"] {
        let temp = tempfile::tempdir().expect("a folder");
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_codex-bridge"))
            .args(["serve", "--port", "0", "--state"])
            .arg(temp.path().join("state"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", temp.path())
            .env("CODEX_BIN", hanging(temp.path(), at))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let pid = until("codex hangs", async || {
            let pid = std::fs::read_to_string(temp.path().join("pid")).ok()?;
            Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty() && runs(pid))
        })
        .await;
        daemon.kill().await.expect("it is killed");
        let gone = async {
            while runs(&pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, gone).await.is_ok(), "{at}: {pid} is left");
    }
}
