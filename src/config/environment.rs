//! The one place that looks at the process: its environment, its folder, its own path.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// The environment as it is now. Values that are not UTF-8 keep their shape with replacement characters,
/// so that the loader can name them.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect()
}

/// The listening sockets that a service manager holds for us (`LISTEN_FDS`), if it does. Nothing that we start
/// inherits them, or hears of them: the variables are taken out of the environment, so call it once, before
/// there are other threads.
#[cfg(target_os = "linux")]
pub fn passed_sockets() -> io::Result<Vec<TcpListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    (0..passed.len()).map_while(|index| passed.take_tcp_listener(index).transpose()).collect()
}

/// There is no such service manager here.
#[cfg(not(target_os = "linux"))]
pub fn passed_sockets() -> io::Result<Vec<TcpListener>> {
    Ok(Vec::new())
}

/// The folder that relative paths of flags and variables start from; `/` where it is gone.
pub fn working_dir() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

/// The program that runs, as something that can be run again. On Linux that is the very same one, even where
/// its file has been replaced since.
pub fn own_program() -> Option<PathBuf> {
    const SELF: &str = "/proc/self/exe";
    if Path::new(SELF).exists() { Some(SELF.into()) } else { std::env::current_exe().ok() }
}

/// Where `scripts/run` puts the codex CLI, seen from a binary that cargo built in the same checkout.
pub fn project_install() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    let target = binary.ancestors().find(|folder| folder.ends_with("target"))?;
    Some(target.parent()?.join(".cache/codex"))
}

/// Reads a configuration or token file, for [`super::load()`].
pub fn read_file(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}
