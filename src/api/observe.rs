//! Around every request: its id, our response headers, its trace, one log line, and no panic past this point.

mod call;
mod envelope;
mod line;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tracing::Instrument;

pub(crate) use self::call::{Call, FALLBACK_FAILED, internal};
use self::envelope::millis;
pub(crate) use self::envelope::{Envelope, Session};
use self::line::Line;
use super::error::ApiError;
use super::request_id::X_REQUEST_ID;

/// Milliseconds until the response head was ready.
pub(crate) const X_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
/// The bridge's version.
pub(crate) const X_VERSION: HeaderName = HeaderName::from_static("x-codex-bridge-version");

/// The log line of a call that no HTTP answer ends: one in the background, one of a socket. Written when it is
/// dropped.
pub(crate) struct CallLine(Line);

impl CallLine {
    pub(crate) fn new(call: Call) -> Self {
        Self(Line { call, started: Instant::now(), head: None, ended: false })
    }

    /// It has ended, as a request with this status would have.
    pub(crate) fn end(mut self, status: StatusCode) {
        self.0.head = Some((status, self.0.started.elapsed()));
        self.0.ended = true;
    }
}

/// The outermost layer.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let call = Call::of(&request);
    let mut line = Line { call: call.clone(), started: Instant::now(), head: None, ended: false };
    let span = tracing::info_span!("request", request_id = %call.request_id);
    request.extensions_mut().insert(call.clone());
    // Nothing of ours is looked at again after a panic.
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span);
    let mut response = answer.await.unwrap_or_else(|_| {
        tracing::error!(request_id = %call.request_id, "a handler panicked");
        internal("The bridge failed on this request.").into_response()
    });

    let head = line.started.elapsed();
    line.head = Some((response.status(), head));
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        call.note_error(&error);
        if let Some(envelope) = call.envelope() {
            *response.body_mut() = error.body().with_trace(Some(&envelope)).to_json().into();
        }
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(call.request_id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(X_PROCESSING_MS, HeaderValue::from(millis(head)));
    headers.insert(X_VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    response.map(|body| Body::new(ObservedBody { body, line }))
}

/// Carries the line until the body has ended.
struct ObservedBody {
    body: Body,
    line: Line,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.line.ended = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        self.line.ended |= self.body.is_end_stream();
    }
}

#[cfg(test)]
mod tests;
