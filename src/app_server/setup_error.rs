//! Why an app-server of ours cannot be had.

use std::path::{Path, PathBuf};

/// Why the folders, the binary, the catalogue or the child could not be had. Names what mends it where
/// something does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// No codex anywhere.
    #[error("codex was not found (looked at {looked_at}). Install it with: {mend}")]
    CodexNotFound {
        /// The places, for people.
        looked_at: String,
        /// The command.
        mend: String,
    },
    /// A codex, but older than the protocol we speak.
    #[error("{} is codex {found}; at least {wanted} is needed. Update it with: {mend}", path.display())]
    CodexTooOld {
        /// Which one.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest that will do.
        wanted: String,
        /// The command.
        mend: String,
    },
    /// Something that does not answer `--version` as codex does.
    #[error("{} cannot be used as codex: {reason}. Install it anew with: {mend}", path.display())]
    CodexUnusable {
        /// Which one.
        path: PathBuf,
        /// What it did.
        reason: String,
        /// The command.
        mend: String,
    },
    /// Another bridge works in the state folder.
    #[error(
        "another codex-bridge{} uses the state folder {}; stop it, or give this one its own with --state",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display()
    )]
    StateInUse {
        /// The state folder.
        path: PathBuf,
        /// Who, where it says so.
        pid: Option<u32>,
    },
    /// A folder or file of ours cannot be made or used.
    #[error("{what} {}: {reason}", path.display())]
    Folder {
        /// What was to be done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// `codex debug models` gave no catalogue.
    #[error("the model catalogue could not be read: {0}")]
    Catalogue(String),
    /// The child could not be started, or ended before it was ready.
    #[error("codex app-server did not start: {0}")]
    Child(String),
    /// The child (or the app-server somebody else runs) runs, but talking to it failed.
    #[error("{0}")]
    Connect(String),
    /// Not ready in time.
    #[error("the app-server was not ready within {0:?}")]
    Timeout(std::time::Duration),
}

impl SetupError {
    /// A failed step on a folder or file.
    pub(crate) fn folder(what: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::Folder { what, path: path.to_owned(), reason: error.to_string() }
    }

    /// Whether trying again at once is no use: somebody has to mend it first.
    pub fn needs_mending(&self) -> bool {
        match self {
            Self::CodexNotFound { .. }
            | Self::CodexTooOld { .. }
            | Self::CodexUnusable { .. }
            | Self::StateInUse { .. }
            | Self::Folder { .. } => true,
            Self::Catalogue(_) | Self::Child(_) | Self::Connect(_) | Self::Timeout(_) => false,
        }
    }
}
