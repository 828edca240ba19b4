//! App-servers on their way out: lost ones that end, replaced ones that finish what they have.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::STOP_LIMIT;
use crate::app_server::DisconnectReason;
use crate::app_server::child::Child;
use crate::app_server::launch::Live;

/// Replaced app-servers that drain at once; past it the oldest is ended.
const DRAINING: usize = 2;

/// Owned and polled by the supervisor.
#[derive(Debug, Default)]
pub(super) struct Drains {
    running: FuturesUnordered<BoxFuture<'static, ()>>,
    /// One for each that drains, oldest first; cancelled, it is ended at once.
    ends: VecDeque<CancellationToken>,
}

impl Drains {
    /// Ends a child that is of no more use.
    pub(super) fn end(&mut self, child: Child) {
        self.running.push(Box::pin(child.stop(STOP_LIMIT)));
    }

    /// Lets a replaced app-server finish what it has, within `limit`. Turns that it has then are lost, and may be run
    /// again by another one.
    pub(super) fn drain(&mut self, live: Arc<Live>, child: Option<Child>, limit: Duration) {
        self.ends.retain(|end| !end.is_cancelled());
        if self.ends.len() == DRAINING
            && let Some(oldest) = self.ends.pop_front()
        {
            tracing::warn!("too many replaced app-servers still work; the oldest is ended");
            oldest.cancel();
        }
        let end = CancellationToken::new();
        self.ends.push_back(end.clone());
        let generation = live.generation;
        let leaving = live.connection.clone().leave();
        drop(live);
        self.running.push(Box::pin(async move {
            // Cancel-safe: nothing is taken by waiting.
            tokio::select! {
                () = leaving.ended() => {}
                () = tokio::time::sleep(limit) => {
                    tracing::warn!(generation, ?limit, "a replaced app-server still works; ended");
                }
                () = end.cancelled() => {}
            }
            leaving.close(DisconnectReason::Replaced);
            if let Some(child) = child {
                child.stop(STOP_LIMIT).await;
            }
            tracing::info!(generation, "the replaced app-server has ended");
            end.cancel();
        }));
    }

    /// Makes progress; pends for ever when there is nothing to do. Cancel-safe.
    pub(super) async fn advance(&mut self) {
        while self.running.next().await.is_some() {}
        std::future::pending::<()>().await;
    }

    /// Ends all of them now, within `limit`; what is left then is killed.
    pub(super) async fn finish(mut self, limit: Duration) {
        for end in self.ends.drain(..) {
            end.cancel();
        }
        // Each ends within `STOP_LIMIT` now.
        let finished = async { while self.running.next().await.is_some() {} };
        if timeout(limit.max(STOP_LIMIT * 2), finished).await.is_err() {
            tracing::warn!("a replaced app-server did not end in time");
        }
    }
}
