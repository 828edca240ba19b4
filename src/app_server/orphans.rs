//! Threads of ours that nobody waits for: a connection that was lost, or a bridge that was killed, leaves them at an
//! app-server that lives on, where their turns run to the end. They are found and stopped.
//!
//! The originator that the app-server tells of a thread is the same for all clients of one process. What is ours alone
//! is the working folder's name: each state folder has one of its own, and every thread of ours works there.

use std::path::Path;
use std::time::Duration;

use super::connection::{Connection, Leaving};
use super::error::AppServerError;
use super::thread::ThreadStatus;
use crate::model::ThreadId;

/// A thread that was being started or let go at the first look is not there, or has its owner, at the second.
const APART: Duration = Duration::from_secs(2);

/// Threads looked at in one sweep; the next one begins after them.
const LOOKS: usize = 1024;

/// Where the sweeps of one app-server have come to.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// The last thread that was looked at, where there were more than one sweep looks at.
    last: Option<ThreadId>,
}

impl Sweeper {
    /// Stops the threads at `connection`'s app-server that carry `mark` and have no owner among `ours`. Gives how
    /// many turns were interrupted.
    pub(super) async fn sweep(&mut self, connection: &Connection, ours: &[Leaving], mark: &str) -> u64 {
        let is_owned = |thread: &ThreadId| ours.iter().any(|connection| connection.holds(thread));
        let mut loaded = match connection.loaded_threads().await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::debug!(%error, "the threads of the app-server could not be listed");
                return 0;
            }
        };
        loaded.retain(|thread| !is_owned(thread));
        if loaded.is_empty() {
            return 0;
        }
        tokio::time::sleep(APART).await;
        loaded.retain(|thread| !is_owned(thread));
        let mut stopped = 0;
        for thread in self.turn_of(loaded) {
            let (status, folder) = match connection.look_at_thread(&thread).await {
                Ok(looked) => looked,
                Err(error @ AppServerError::Disconnected(_)) => {
                    tracing::debug!(%error, "the sweep ends early");
                    break;
                }
                // What is wrong with one says nothing of the others.
                Err(error) => {
                    tracing::debug!(%thread, %error, "a thread could not be looked at");
                    continue;
                }
            };
            let is_ours = folder.is_some_and(|folder| folder.file_name().is_some_and(|name| name == mark));
            // It may have found its owner while it was looked at.
            if !is_ours || status == ThreadStatus::NotLoaded || is_owned(&thread) {
                continue;
            }
            let runs = status == ThreadStatus::Active;
            tracing::info!(%thread, runs, "a thread that nobody waits for is let go");
            connection.end_thread(&thread, runs).await;
            stopped += u64::from(runs);
        }
        stopped
    }

    /// Those of `loaded` that this sweep looks at: from where the last one stopped, around to the beginning.
    fn turn_of(&mut self, mut loaded: Vec<ThreadId>) -> Vec<ThreadId> {
        if loaded.len() > LOOKS {
            loaded.sort_unstable();
            let last = self.last.as_ref().map_or("", ThreadId::as_str);
            let seen = loaded.partition_point(|thread| thread.as_str() <= last);
            loaded.rotate_left(seen);
            loaded.truncate(LOOKS);
            self.last = loaded.last().cloned();
        }
        loaded
    }
}

/// The mark of the threads that work in `folder`.
pub(super) fn mark(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn more_than_one_sweep_looks_at_are_all_looked_at_in_turn() {
        let loaded: Vec<ThreadId> = (0..2 * LOOKS + 10).map(|n| ThreadId::new(format!("t{n}"))).collect();
        let mut sweeper = Sweeper::default();
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let turn = sweeper.turn_of(loaded.clone());
            assert_eq!(turn.len(), LOOKS);
            seen.extend(turn.iter().map(ToString::to_string));
        }
        assert_eq!(seen.len(), loaded.len());
        let few = &loaded[..5];
        assert_eq!(sweeper.turn_of(few.to_vec()), few);
    }
}
