//! What is read again while the daemon runs: the keys, at SIGHUP.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::api::Edge;
use crate::config::{AuthConfig, Mistakes};
use crate::tasks::Tasks;

/// Reads `auth.*` and the file of keys again.
pub type ReadKeys = Box<dyn Fn() -> Result<AuthConfig, Mistakes> + Send + Sync>;

/// Where keys come from, and when they are to be read again.
pub struct Reload {
    /// One message for each time; what comes while the keys are read is one more time.
    pub asked: mpsc::Receiver<()>,
    /// May read files.
    pub read: ReadKeys,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

/// Reloads the keys of `edge` whenever that is asked for, until the daemon stops.
pub(super) async fn reload_keys(reload: Reload, edge: Edge, tasks: Tasks) {
    let Reload { mut asked, read } = reload;
    let read = Arc::new(read);
    loop {
        let again = tokio::select! {
            () = tasks.stop_token().cancelled() => return,
            again = asked.recv() => again,
        };
        if again.is_none() {
            return;
        }
        let read = Arc::clone(&read);
        let keys = tasks.blocking(move || read()).await;
        let failed = || Err("the keys could not be read".to_owned());
        edge.reload_keys(keys.map_or_else(failed, |keys| keys.map_err(|mistakes| mistakes.to_string())));
    }
}
