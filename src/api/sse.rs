//! Server-sent events: engine steps in, frames out. Each event and its blank line is one write, LF only.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderValue, header};
use serde::Serialize;
use tokio::time::Instant;

use super::error::ApiError;
use crate::bridge::{BridgeError, Turn, TurnStep};
use crate::config::StreamConfig;
use crate::model::{Outcome, TurnEvent};

/// Ready steps join one write up to about this many bytes; a first token never waits for a second.
const WRITE_BYTES: usize = 16 * 1024;

/// Turns engine steps into the frames of one API. `index` is the turn's place among the given ones.
pub(crate) trait Encode: Send + 'static {
    /// Before anything else, once the head is sent.
    fn start(&mut self, out: &mut Frames);
    /// One event.
    fn event(&mut self, index: usize, event: TurnEvent, out: &mut Frames);
    /// The end of one turn.
    fn finish(&mut self, index: usize, result: Result<Outcome, BridgeError>, out: &mut Frames);
    /// Whether nothing but the end of all is to follow: turns that still run are let go.
    fn is_over(&self) -> bool {
        false
    }
    /// The end of all of them: what terminates the stream.
    fn end(&mut self, out: &mut Frames);
}

/// Where steps come from: a [`Turn`], or a script in tests.
pub(crate) trait Steps: Send + 'static {
    /// The next step. Not called again after `Finished`.
    fn next(&mut self) -> impl Future<Output = TurnStep> + Send;
}

impl Steps for Turn {
    async fn next(&mut self) -> TurnStep {
        Turn::next(self).await
    }
}

/// Frames waiting to be written.
#[derive(Debug, Default)]
pub(crate) struct Frames(BytesMut);

impl Frames {
    /// One event with its data as JSON, and its blank line. A name is sent where the API has one.
    pub(crate) fn event(&mut self, name: Option<&str>, data: &impl Serialize) {
        let start = self.0.len();
        if let Some(name) = name {
            self.0.put_slice(b"event: ");
            self.0.put_slice(name.as_bytes());
            self.0.put_u8(b'\n');
        }
        self.0.put_slice(b"data: ");
        // JSON text has no raw line breaks, so one data line holds it.
        if let Err(error) = serde_json::to_writer((&mut self.0).writer(), data) {
            tracing::error!(%error, name, "an event could not be written and was left out");
            self.0.truncate(start);
            return;
        }
        self.0.put_slice(b"\n\n");
    }

    /// A comment: keeps proxies and clients from taking silence for death.
    pub(crate) fn comment(&mut self) {
        self.0.put_slice(b": keep-alive\n\n");
    }

    /// The last frame of every stream.
    pub(crate) fn done(&mut self) {
        self.0.put_slice(b"data: [DONE]\n\n");
    }

    /// All frames so far.
    pub(crate) fn take(&mut self) -> Bytes {
        self.0.split().freeze()
    }
}

/// Streams the turns' steps. The head waits for the first sign of an answer, at most `head_timeout`: a turn
/// that fails before one is an HTTP error instead. Dropping the body drops the turns, and so interrupts them.
pub(crate) async fn respond(
    turns: Vec<impl Steps>,
    encoder: impl Encode,
    config: &StreamConfig,
) -> Result<Response, ApiError> {
    let mut pump = Pump::new(turns, encoder, config.keep_alive);
    let deadline = Instant::now() + config.head_timeout;
    let mut early = Vec::new();
    while let Ok(Some((index, step))) = tokio::time::timeout_at(deadline, pump.steps.next()).await {
        match step {
            TurnStep::Finished(Err(error)) => return Err(error.into()),
            // A turn that has only started may still be refused by the backend.
            TurnStep::Event(TurnEvent::Started { .. }) => early.push((index, step)),
            TurnStep::Event(_) | TurnStep::Finished(Ok(_)) => {
                early.push((index, step));
                break;
            }
        }
    }
    pump.encoder.start(&mut pump.frames);
    for (index, step) in early {
        pump.encode(index, step);
    }
    let mut response = Response::new(Body::from_stream(pump.into_stream()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Owns the turns. Polled by the connection only when the client takes more: what waits meanwhile waits in
/// the turns' own bounded buffers.
struct Pump<E> {
    /// Ends when every turn has finished or been let go.
    steps: SelectAll<BoxStream<'static, (usize, TurnStep)>>,
    encoder: E,
    frames: Frames,
    keep_alive: Duration,
    ended: bool,
}

impl<E: Encode> Pump<E> {
    fn new(turns: Vec<impl Steps>, encoder: E, keep_alive: Duration) -> Self {
        let steps = stream::select_all(turns.into_iter().enumerate().map(steps_of));
        Self { steps, encoder, frames: Frames::default(), keep_alive, ended: false }
    }

    fn into_stream(self) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, |mut pump| async move { pump.write().await.map(|bytes| (Ok(bytes), pump)) })
    }

    /// The next write: at least one whole frame, and those that are ready by then.
    async fn write(&mut self) -> Option<Bytes> {
        while self.frames.0.is_empty() && !self.ended {
            match tokio::time::timeout(self.keep_alive, self.steps.next()).await {
                Ok(step) => self.advance(step),
                Err(_) => self.frames.comment(),
            }
        }
        while self.frames.0.len() < WRITE_BYTES && !self.ended {
            match self.steps.next().now_or_never() {
                Some(step) => self.advance(step),
                None => break,
            }
        }
        (!self.frames.0.is_empty()).then(|| self.frames.take())
    }

    fn advance(&mut self, step: Option<(usize, TurnStep)>) {
        if let Some((index, step)) = step {
            self.encode(index, step);
        } else {
            self.encoder.end(&mut self.frames);
            self.ended = true;
        }
    }

    fn encode(&mut self, index: usize, step: TurnStep) {
        match step {
            TurnStep::Event(event) => self.encoder.event(index, event, &mut self.frames),
            TurnStep::Finished(result) => self.encoder.finish(index, result, &mut self.frames),
        }
        if self.encoder.is_over() {
            self.steps.clear();
        }
    }
}

/// One turn's steps up to and including its end; the turn is let go there.
fn steps_of((index, turn): (usize, impl Steps)) -> BoxStream<'static, (usize, TurnStep)> {
    let next = move |turn: Option<_>| async move {
        let mut turn = turn?;
        let step = Steps::next(&mut turn).await;
        let rest = if matches!(step, TurnStep::Finished(_)) { None } else { Some(turn) };
        Some(((index, step), rest))
    };
    stream::unfold(Some(turn), next).boxed()
}

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
mod fuzz;
