//! The one place that looks at the process: its environment, its folder, its own path.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The environment as it is now. Values that are not UTF-8 keep their shape with replacement characters,
/// so that the loader can name them.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect()
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
