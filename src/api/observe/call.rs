//! One request, as its handler and the log see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::{FromRequestParts, MatchedPath, Request};
use http::Method;
use http::request::Parts;

use super::envelope::Envelope;
use crate::api::error::ApiError;
use crate::api::identity::Caller;
use crate::api::ignored::Ignored;
use crate::api::intake::Room;
use crate::api::request_id;
use crate::model::{CallTrace, KeyId, RequestId, ResponseId, SessionIdentity, Trace};

/// One request. An extractor. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    /// What its head says of the caller.
    pub(crate) caller: Arc<Caller>,
    pub(super) method: Method,
    /// The path as given may hold anything; the route is ours.
    path: Option<MatchedPath>,
    pub(super) notes: Arc<Notes>,
}

/// What becomes known while it is served.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) key: OnceLock<KeyId>,
    pub(super) error: OnceLock<String>,
    wants_trace: AtomicBool,
    ignored: OnceLock<Vec<String>>,
    /// Of the request's body.
    room: OnceLock<Room>,
    /// One for each answer, in the order of the choices. Locked for a moment only.
    traces: Mutex<Vec<CallTrace>>,
}

impl Call {
    pub(super) fn of(request: &Request) -> Self {
        let caller = Caller::of(request.headers());
        let notes = Notes { wants_trace: caller.wants_trace.into(), ..Notes::default() };
        Self {
            request_id: request_id::of(request.headers()),
            caller: Arc::new(caller),
            method: request.method().clone(),
            path: request.extensions().get().cloned(),
            notes: Arc::new(notes),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::of(&Request::new(axum::body::Body::empty()))
    }

    pub(super) fn path(&self) -> &str {
        self.path.as_ref().map_or("-", MatchedPath::as_str)
    }

    /// Whose request it is.
    pub(crate) fn key(&self) -> KeyId {
        self.notes.key.get().cloned().unwrap_or_else(KeyId::anonymous)
    }

    pub(crate) fn set_key(&self, key: KeyId) {
        let _ = self.notes.key.set(key);
    }

    /// One more answer begins; gives its trace, for the engine to write.
    pub(crate) fn begin(&self, id: &ResponseId, session: &SessionIdentity) -> CallTrace {
        let trace = CallTrace::new(id.clone(), session.clone());
        self.notes.traces.lock().unwrap_or_else(PoisonError::into_inner).push(trace.clone());
        trace
    }

    /// What had no effect.
    pub(crate) fn note_ignored(&self, ignored: &Ignored) {
        let _ = self.notes.ignored.set(ignored.names().to_vec());
    }

    /// A failure after the head was sent. The first one counts.
    pub(crate) fn note_error(&self, error: &ApiError) {
        let _ = self.notes.error.set(error.code.clone().unwrap_or_else(|| error.kind.to_owned()));
    }

    /// Gives the room of the request's body back when the call has ended.
    pub(crate) fn keep_room(&self, room: Room) {
        let _ = self.notes.room.set(room);
    }

    /// The caller asks for the trace in the body.
    pub(crate) fn want_trace(&self) {
        self.notes.wants_trace.store(true, Ordering::Relaxed);
    }

    /// What is known of its answers by now.
    pub(super) fn traces(&self) -> Vec<Trace> {
        let traces = self.notes.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().map(CallTrace::read).collect()
    }

    /// The trace, for a caller that asked for it.
    pub(crate) fn envelope(&self) -> Option<Envelope> {
        if !self.notes.wants_trace.load(Ordering::Relaxed) {
            return None;
        }
        let target = format!("{} {}", self.method, self.path());
        let ignored = self.notes.ignored.get().cloned().unwrap_or_default();
        Some(Envelope::new(&self.request_id, target, ignored, &self.traces()))
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let call = parts.extensions.get::<Self>().cloned();
        std::future::ready(call.ok_or_else(|| internal("The request was not prepared."))).await
    }
}

/// 500 `internal_error`.
pub(super) fn internal(message: &str) -> ApiError {
    ApiError::new("internal_error", message)
}
