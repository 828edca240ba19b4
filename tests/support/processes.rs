//! The processes that work in a folder.

use std::path::Path;

/// `pid: command line` of each process, this one aside, that has `folder` in its command line or environment.
pub(crate) fn processes_in(folder: &Path) -> Vec<String> {
    let here = folder.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == std::process::id().to_string() {
            continue;
        }
        let read = |name: &str| -> String {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let command = read("cmdline");
        // One that has ended and waits to be reaped has no command line.
        if !command.is_empty() && (command.contains(&here) || read("environ").contains(&here)) {
            found.push(format!("{pid}: {command}"));
        }
    }
    found
}
