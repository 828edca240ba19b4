//! Around every request: its id, our response headers, one log line, and no panic past this point.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tracing::Instrument;

use super::error::{ApiError, ErrorCode};
use super::request_id::{self, X_REQUEST_ID};
use crate::model::{KeyId, RequestId, ResponseId};

/// Milliseconds until the response head was ready.
pub(crate) const X_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
/// The bridge's version.
pub(crate) const X_VERSION: HeaderName = HeaderName::from_static("x-codex-bridge-version");

/// One request, as its handler and the log see it. An extractor.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    notes: Arc<Notes>,
}

/// What the log line says beside what the middleware itself sees.
#[derive(Debug, Default)]
struct Notes {
    key: OnceLock<KeyId>,
    response_id: OnceLock<ResponseId>,
    error: OnceLock<String>,
}

impl Call {
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self { request_id: RequestId::generate(), notes: Arc::default() }
    }

    /// Whose request it is.
    pub(crate) fn key(&self) -> KeyId {
        self.notes.key.get().cloned().unwrap_or_else(KeyId::anonymous)
    }

    pub(crate) fn set_key(&self, key: KeyId) {
        let _ = self.notes.key.set(key);
    }

    /// For the log line.
    pub(crate) fn note_response(&self, id: &ResponseId) {
        let _ = self.notes.response_id.set(id.clone());
    }

    /// For the log line: a failure after the head was sent. The first one counts.
    pub(crate) fn note_error(&self, error: &ApiError) {
        let _ = self.notes.error.set(error.code.clone().unwrap_or_else(|| error.kind.to_owned()));
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let call = parts.extensions.get::<Self>().cloned();
        std::future::ready(call.ok_or_else(|| internal("The request was not prepared."))).await
    }
}

/// The outermost layer.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let call = Call { request_id: request_id::of(request.headers()), notes: Arc::default() };
    let mut line = Line {
        call: call.clone(),
        method: request.method().clone(),
        route: request.extensions().get().cloned(),
        started: Instant::now(),
        head: None,
        ended: false,
    };
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
    if let Some(ErrorCode(code)) = response.extensions_mut().remove() {
        let _ = call.notes.error.set(code);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(call.request_id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(X_PROCESSING_MS, HeaderValue::from(millis(head)));
    headers.insert(X_VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    response.map(|body| Body::new(ObservedBody { body, line }))
}

fn internal(message: &str) -> ApiError {
    ApiError::server(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Written when it is dropped: after the last byte of the body, or when the client has left.
struct Line {
    call: Call,
    method: Method,
    route: Option<MatchedPath>,
    started: Instant,
    head: Option<(StatusCode, Duration)>,
    /// The whole body was taken.
    ended: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        let notes = &self.call.notes;
        // The path as given may hold anything; the route is ours.
        let route = self.route.as_ref().map_or("-", MatchedPath::as_str);
        let status = self.head.map(|(status, _)| status.as_u16());
        let head_ms = self.head.map(|(_, head)| millis(head));
        let key = notes.key.get().map(KeyId::as_str);
        let response_id = notes.response_id.get().map(ResponseId::as_str);
        let error = notes.error.get().map(String::as_str);
        // One statement per level, because a level is fixed where it is written.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method = %self.method,
                    route,
                    status,
                    head_ms,
                    ms = millis(self.started.elapsed()),
                    request_id = %self.call.request_id,
                    response_id,
                    key,
                    error,
                    client_left = !self.ended,
                    "request"
                )
            };
        }
        // "Not ready" is an answer, and asked for again and again.
        if matches!(route, "/healthz" | "/readyz") {
            line!(debug);
        } else if status.is_some_and(|status| status >= 500) {
            line!(warn);
        } else {
            line!(info);
        }
    }
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
