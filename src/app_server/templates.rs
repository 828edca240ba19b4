//! Threads that are kept on disk, for others to be forked from: in our own home only, where nobody else can
//! read them, and no longer than the app-server runs.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{AppServer, AppServerError, ThreadOptions};
use crate::config::Scaffold;
use crate::model::{Item, ThreadId};

impl AppServer {
    /// Whether threads may be kept and forked here: in a home of ours, and with nothing of Codex's own in them,
    /// which a fork would bring anew.
    pub fn can_fork(&self) -> bool {
        self.owns_app_server() && self.scaffold() == Scaffold::None
    }

    /// Makes a thread on disk that holds `items`. It is not kept loaded. What fails leaves nothing behind.
    pub async fn make_template(
        &self,
        options: &ThreadOptions,
        items: &[Item],
    ) -> Result<ThreadId, AppServerError> {
        let thread = self.connection().await?.start_template(options).await?;
        let id = thread.id().clone();
        let injected = thread.inject(items).await;
        if let Some(sessions) = self.sessions().map(Path::to_owned) {
            // The folder above is ours alone already; this is for whoever copies or moves it.
            let narrowed = self.tasks().blocking(move || close_to_others(&sessions)).await;
            if let Some(Err(error)) = narrowed {
                tracing::debug!(%error, "the files of kept threads could not be narrowed");
            }
        }
        match injected {
            Ok(()) => {
                // Forks find it on disk. One that cannot be let go now goes with the connection.
                let _ = thread.release().await;
                Ok(id)
            }
            Err(error) => {
                drop(thread);
                let _ = self.delete_thread(&id).await;
                Err(error)
            }
        }
    }

    /// Deletes a thread that is kept on disk, whichever child of ours made it. Its forks go on.
    pub async fn delete_thread(&self, thread: &ThreadId) -> Result<(), AppServerError> {
        let mut deleted = self.live().await?.connection.delete_thread(thread).await;
        // One that holds it open lets no other delete it: that is the one that made it, for a moment.
        for live in self.ready().into_iter().skip(1) {
            if deleted.is_ok() {
                break;
            }
            deleted = live.connection.delete_thread(thread).await;
        }
        deleted
    }
}

/// Folders 0700, files 0600, all the way down.
fn close_to_others(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            close_to_others(&path)?;
        } else if kind.is_file() {
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}
