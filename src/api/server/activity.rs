//! What one connection is at: requests that run, and answers that wait for their client.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// Of the HTTP/2 stream that runs: ends it, and no other of its connection.
    pub(super) static STREAM: CancellationToken;
}

/// Bytes of an answer handed over at once. What was handed over is the library's, and no longer watched.
const PIECE: usize = 64 * 1024;

/// Shared by a connection's task, its requests, and whoever looks for a connection that can be closed.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests whose answers are not through.
    running: usize,
    /// The last one ended then, or the connection came.
    idle_since: Instant,
    /// What was offered to a client that has not asked for more of it since, by request.
    offered: HashMap<u64, Offer>,
    next: u64,
}

/// A part of an answer that waits to be taken.
#[derive(Debug)]
struct Offer {
    since: Instant,
    /// The stream it is on; `None` where the whole connection is one.
    stream: Option<CancellationToken>,
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

    /// What has been waited for too long; else when to look again. Of several streams those alone are ended whose
    /// client takes nothing; where that is every one, it is the connection's client.
    pub(super) fn overdue(&self, patience: Patience) -> Result<Instant, Overdue> {
        let now = Instant::now();
        let state = self.lock();
        if state.running == 0 {
            let until = state.idle_since + patience.idle;
            return if until > now { Ok(until) } else { Err(Overdue::Request) };
        }
        let (overdue, waiting): (Vec<_>, Vec<_>) =
            state.offered.values().partition(|offer| offer.since + patience.write <= now);
        if overdue.len() == state.running {
            return Err(Overdue::Reader);
        }
        for offer in overdue {
            let stream = offer.stream.as_ref().ok_or(Overdue::Reader)?;
            tracing::debug!("a client that takes nothing of one stream is no longer waited for");
            stream.cancel();
        }
        let next = waiting.iter().map(|offer| offer.since + patience.write).min();
        Ok(next.unwrap_or(now + patience.idle.min(patience.write)))
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
        let stream = STREAM.try_with(CancellationToken::clone).ok();
        let watched = Watched { body, rest: Bytes::new(), running: self, stream };
        watched.offered();
        Body::new(watched)
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
    /// Of the last frame: not handed over yet.
    rest: Bytes,
    running: Running,
    stream: Option<CancellationToken>,
}

impl Watched {
    /// It is the client's turn.
    fn offered(&self) {
        let offer = Offer { since: Instant::now(), stream: self.stream.clone() };
        self.running.activity.lock().offered.insert(self.running.id, offer);
    }

    /// The client wants more: it is ours.
    fn wanted(&self) {
        self.running.activity.lock().offered.remove(&self.running.id);
    }

    /// The next part, no longer than a piece.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.wanted();
        let part = ready!(self.poll_part(cx));
        self.offered();
        Poll::Ready(part)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
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
    /// Of an HTTP/2 connection.
    async fn on_stream(activity: &Arc<Activity>, body: Body) -> (CancellationToken, Body) {
        let stream = CancellationToken::new();
        let answer = STREAM.scope(stream.clone(), async { activity.begin().answer(body) });
        (stream, answer.await)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_ends_alone_unless_all_are_so() {
        let activity = Activity::new();
        let (first, unread) = on_stream(&activity, Body::from("x")).await;
        let thinking = activity.begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        let (second, later) = on_stream(&activity, Body::from("x")).await;
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(activity.overdue(PATIENCE), Ok(Instant::now() + Duration::from_secs(2)));
        assert!(first.is_cancelled() && !second.is_cancelled());
        drop((unread, thinking));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(activity.overdue(PATIENCE), Err(Overdue::Reader), "nobody else is there");
        drop(later);
    }

    #[tokio::test]
    async fn an_answer_goes_out_in_pieces_and_is_whole() {
        let whole: Bytes = (0..PIECE * 5 / 2).map(|n| n.to_le_bytes()[0]).collect();
        let mut body = Activity::new().begin().answer(Body::from(whole.clone()));
        let mut taken = Vec::new();
        while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE);
            taken.extend_from_slice(&data);
            let left = (whole.len() - taken.len()) as u64;
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(left));
            assert_eq!(http_body::Body::is_end_stream(&body), left == 0);
        }
        assert!(taken == whole);
    }
}
