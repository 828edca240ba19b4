//! Streams: engine steps in, frames out, as server-sent events or as the messages of a socket. Of server-sent events,
//! each with its blank line is one write, LF only.

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
#[derive(Debug)]
pub(crate) enum Frames {
    /// Server-sent events.
    Events(BytesMut),
    /// Messages: each the data of one event.
    Messages(Vec<Bytes>),
}

impl Default for Frames {
    fn default() -> Self {
        Self::Events(BytesMut::new())
    }
}

impl Frames {
    /// None yet, for a socket.
    pub(crate) const fn messages() -> Self {
        Self::Messages(Vec::new())
    }

    /// One event with its data as JSON, and its blank line. A name is sent where the API has one.
    pub(crate) fn event(&mut self, name: Option<&str>, data: &impl Serialize) {
        let written = match self {
            Self::Events(frames) => write_event(frames, name, data),
            Self::Messages(messages) => serde_json::to_vec(data).map(|message| messages.push(message.into())),
        };
        if let Err(error) = written {
            tracing::error!(%error, name, "an event could not be written and was left out");
        }
    }

    /// A comment: keeps proxies and clients from taking silence for death. A socket has pings for that.
    pub(crate) fn comment(&mut self) {
        if let Self::Events(frames) = self {
            frames.put_slice(b": keep-alive\n\n");
        }
    }

    /// The last frame of every stream of events; a socket goes on.
    pub(crate) fn done(&mut self) {
        if let Self::Events(frames) = self {
            frames.put_slice(b"data: [DONE]\n\n");
        }
    }

    /// All server-sent events so far.
    pub(crate) fn take(&mut self) -> Bytes {
        match self {
            Self::Events(frames) => frames.split().freeze(),
            Self::Messages(_) => Bytes::new(),
        }
    }

    /// All messages so far.
    pub(crate) fn take_messages(&mut self) -> Vec<Bytes> {
        match self {
            Self::Events(_) => Vec::new(),
            Self::Messages(messages) => std::mem::take(messages),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Events(frames) => frames.len(),
            Self::Messages(messages) => messages.iter().map(Bytes::len).sum(),
        }
    }
}

fn write_event(frames: &mut BytesMut, name: Option<&str>, data: &impl Serialize) -> serde_json::Result<()> {
    let start = frames.len();
    if let Some(name) = name {
        frames.put_slice(b"event: ");
        frames.put_slice(name.as_bytes());
        frames.put_u8(b'\n');
    }
    frames.put_slice(b"data: ");
    // JSON text has no raw line breaks, so one data line holds it.
    let written = serde_json::to_writer((&mut *frames).writer(), data);
    match &written {
        Ok(()) => frames.put_slice(b"\n\n"),
        Err(_) => frames.truncate(start),
    }
    written
}

/// Streams the turns' steps as server-sent events. A turn that fails before the head is sent is an HTTP error
/// instead. Dropping the body drops the turns, and so interrupts them.
pub(crate) async fn respond(
    turns: Vec<impl Steps>,
    encoder: impl Encode,
    config: &StreamConfig,
) -> Result<Response, ApiError> {
    let pump = Pump::open(turns, encoder, Frames::default(), config).await?;
    let mut response = Response::new(Body::from_stream(pump.into_stream()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Owns the turns. Polled by the connection only when the client takes more: what waits meanwhile waits in
/// the turns' own bounded buffers.
pub(crate) struct Pump<E> {
    /// Ends when every turn has finished or been let go.
    steps: SelectAll<BoxStream<'static, (usize, TurnStep)>>,
    encoder: E,
    pub(crate) frames: Frames,
    keep_alive: Duration,
    ended: bool,
}

impl<E: Encode> Pump<E> {
    /// Waits for the first sign of an answer, at most `head_timeout`, and begins: a turn that fails before is an
    /// error, of which nothing was told yet.
    pub(crate) async fn open(
        turns: Vec<impl Steps>,
        encoder: E,
        frames: Frames,
        config: &StreamConfig,
    ) -> Result<Self, ApiError> {
        let steps = stream::select_all(turns.into_iter().enumerate().map(steps_of));
        let mut pump = Self { steps, encoder, frames, keep_alive: config.keep_alive, ended: false };
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
        Ok(pump)
    }

    fn into_stream(self) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(
            self,
            |mut pump| async move { pump.fill().await.then(|| (Ok(pump.frames.take()), pump)) },
        )
    }

    /// Waits for the next write: at least one whole frame, and those that are ready by then. `false` at the end.
    pub(crate) async fn fill(&mut self) -> bool {
        while self.frames.len() == 0 && !self.ended {
            match tokio::time::timeout(self.keep_alive, self.steps.next()).await {
                Ok(step) => self.advance(step),
                Err(_) => self.frames.comment(),
            }
        }
        while self.frames.len() < WRITE_BYTES && !self.ended {
            match self.steps.next().now_or_never() {
                Some(step) => self.advance(step),
                None => break,
            }
        }
        self.frames.len() > 0
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
