//! The only place that spawns: every task is tracked, named, and ends with the token.

pub(crate) mod shares;
pub(crate) mod tether;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Up to so many bytes are worked on where they are: about a millisecond.
const INLINE_BYTES: usize = 128 * 1024;

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

    /// Does work on about so many bytes, off the async threads where they are many; `None` if it panicked.
    pub async fn on_bytes<T, F>(&self, bytes: usize, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if bytes <= INLINE_BYTES { Some(work()) } else { self.blocking(work).await }
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

type Job = Box<dyn FnOnce() + Send>;

/// Jobs on their way to the lasting thread; as many wait as there are callers, each for its own.
static LASTING: LazyLock<Option<mpsc::SyncSender<Job>>> = LazyLock::new(|| {
    let (jobs, received) = mpsc::sync_channel::<Job>(1);
    let work = move || {
        for job in received {
            // Its caller learns of a panic by the answer that never comes.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    };
    std::thread::Builder::new().name("lasting".into()).spawn(work).ok().map(|_| jobs)
});

/// Does `work` on the one thread that lives as long as the process, and waits for it: for what the system
/// ties to the thread that asked. Keep it short. `None` if it panicked or there is no such thread.
pub fn lasting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::sync_channel(1);
    let job = Box::new(move || drop(answer.send(work())));
    LASTING.as_ref()?.send(job).ok()?;
    answered.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::{INLINE_BYTES, Tasks, lasting};

    #[tokio::test]
    async fn many_bytes_are_worked_on_off_the_async_threads() {
        let (tasks, here) = (Tasks::new(), std::thread::current().id());
        for (bytes, inline) in [(0, true), (INLINE_BYTES, true), (INLINE_BYTES + 1, false)] {
            let there = tasks.on_bytes(bytes, || std::thread::current().id()).await;
            assert_eq!(there.map(|there| there == here), Some(inline), "{bytes} bytes");
        }
    }

    #[test]
    fn lasting_work_is_done_on_one_thread_and_a_panic_does_not_end_it() {
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(lasting(name), Some(Some("lasting".to_owned())));
        assert_eq!(lasting(|| -> u8 { panic!("on purpose") }), None);
        assert_eq!(lasting(|| std::thread::current().id()), lasting(|| std::thread::current().id()));
    }
}
