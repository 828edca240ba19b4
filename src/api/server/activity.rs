//! What one connection is at: requests that run, and answers that wait for their client.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// Shared by a connection's task, its requests, and whoever looks for a connection that can be closed.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests whose answers are not through.
    running: usize,
    /// The last one ended then, or the connection came.
    idle_since: Instant,
    /// When an answer was last offered to a client that has not asked for more of it since, by request.
    offered: HashMap<u64, Instant>,
    next: u64,
}

/// How long a connection may wait for its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a request head.
    pub(super) idle: Duration,
    /// To take the next part of an answer.
    pub(super) write: Duration,
}

/// What a connection has waited for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// A request head.
    Request,
    /// A client that takes what it asked for.
    Reader,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let idle_since = Instant::now();
        Arc::new(Self(Mutex::new(State { running: 0, idle_since, offered: HashMap::new(), next: 0 })))
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        let mut state = self.lock();
        state.running += 1;
        state.next += 1;
        Running { id: state.next, activity: Arc::clone(self) }
    }

    /// Whether a request has ever come.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().next > 0
    }

    /// Since when nothing has run; `None` while something does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.running == 0).then_some(state.idle_since)
    }

    /// What has been waited for too long; else when to look again.
    pub(super) fn overdue(&self, patience: Patience) -> Result<Instant, Overdue> {
        let now = Instant::now();
        let state = self.lock();
        if state.running == 0 {
            let until = state.idle_since + patience.idle;
            return if until > now { Ok(until) } else { Err(Overdue::Request) };
        }
        match state.offered.values().min() {
            Some(oldest) if *oldest + patience.write <= now => Err(Overdue::Reader),
            Some(oldest) => Ok(*oldest + patience.write),
            None => Ok(now + patience.idle.min(patience.write)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that runs, its answer included. Ends by drop.
#[derive(Debug)]
pub(super) struct Running {
    id: u64,
    activity: Arc<Activity>,
}

impl Running {
    /// The answer, watched as it goes out.
    pub(super) fn answer(self, body: Body) -> Body {
        self.offered();
        Body::new(Watched { body, running: self })
    }

    /// It is the client's turn.
    fn offered(&self) {
        self.activity.lock().offered.insert(self.id, Instant::now());
    }

    /// The client wants more: it is ours.
    fn wanted(&self) {
        self.activity.lock().offered.remove(&self.id);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.offered.remove(&self.id);
        state.running -= 1;
        if state.running == 0 {
            state.idle_since = Instant::now();
        }
    }
}

/// An answer. The library asks for its next part when there is room for it on the way to the client.
struct Watched {
    body: Body,
    running: Running,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.running.wanted();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.running.offered();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { idle: Duration::from_secs(10), write: Duration::from_secs(5) };

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_overdue_after_its_time() {
        let activity = Activity::new();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(activity.overdue(PATIENCE).is_ok());
        drop(activity.begin());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(activity.overdue(PATIENCE).is_ok(), "the time starts anew after each request");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(activity.overdue(PATIENCE), Err(Overdue::Request));
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_may_take_its_time_and_a_reader_may_not() {
        let activity = Activity::new();
        let running = activity.begin();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(activity.overdue(PATIENCE).is_ok(), "nothing is offered yet");
        assert_eq!(activity.idle_since(), None);
        let frames = futures_util::stream::iter(["a", "b"].map(Ok::<_, std::io::Error>));
        let frames = futures_util::StreamExt::chain(frames, futures_util::stream::pending());
        let mut body = running.answer(Body::from_stream(frames));
        for _ in 0..2 {
            http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        }
        // It wants more, and there is none.
        let waiting =
            tokio::time::timeout(Duration::from_secs(60), http_body_util::BodyExt::frame(&mut body));
        assert!(waiting.await.is_err());
        assert!(activity.overdue(PATIENCE).is_ok());

        let unread = activity.begin().answer(Body::from("x"));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(activity.overdue(PATIENCE), Err(Overdue::Reader));
        drop((unread, body));
        assert!(activity.idle_since().is_some());
    }
}
