//! The only place that spawns: every task is tracked, named, and ends with the token.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Spawns tasks and waits for them. Cheap to clone; all clones share one tracker.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// A tracker of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the daemon stops; every long-lived task ends on it.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs `future` under `name` (a span in the logs). It must end by itself once the stop token is cancelled.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(future.instrument(tracing::debug_span!("task", name)));
    }

    /// Runs blocking work off the async threads and gives its result; `None` if it panicked.
    pub async fn blocking<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.tracker.spawn_blocking(work).await.ok()
    }

    /// Tasks that have not ended.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Cancels the token and waits for every task; `false` if some were still running after `limit`.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
