//! One request, as its handler and the log see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use axum::extract::{FromRequestParts, MatchedPath, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

use super::envelope::Envelope;
use crate::api::auth::Key;
use crate::api::classes::Chosen;
use crate::api::error::ApiError;
use crate::api::identity::Caller;
use crate::api::ignored::Ignored;
use crate::api::intake::Room;
use crate::api::limits::{Charge, Cost};
use crate::api::request_id;
use crate::config::KeyLimits;
use crate::model::{CallTrace, KeyId, RequestId, ResponseId, SessionIdentity, Trace};

/// What became of a call at a fallback that could not answer it either.
pub(crate) const FALLBACK_FAILED: &str = "failed";

/// One request. An extractor. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    /// What its head says of the caller.
    pub(crate) caller: Arc<Caller>,
    pub(super) method: Method,
    /// The path as given may hold anything; the route is ours.
    path: Option<Arc<str>>,
    pub(super) notes: Arc<Notes>,
}

/// What becomes known while it is served.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) key: OnceLock<Arc<Key>>,
    /// What was taken from the key's rates, until it is settled. Locked for a moment only.
    charge: Mutex<Option<Charge>>,
    pub(super) error: OnceLock<String>,
    wants_trace: AtomicBool,
    ignored: OnceLock<Vec<String>>,
    pub(super) class: OnceLock<Chosen>,
    /// Of the request's body.
    room: OnceLock<Room>,
    /// As the client wrote it, where a fallback may want it.
    body: OnceLock<Bytes>,
    /// None for the fallback, whatever becomes of it.
    stays: AtomicBool,
    /// Why the fallback answered, or `failed`.
    pub(super) fallback: OnceLock<&'static str>,
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
            path: request.extensions().get().map(|path: &MatchedPath| path.as_str().into()),
            notes: Arc::new(notes),
        }
    }

    /// The part of a call of `POST /v1/responses` that goes on once its request is answered: the head and the key,
    /// and nothing that was noted.
    pub(crate) fn in_background(request_id: RequestId, head: &HeaderMap, key: Option<Arc<Key>>) -> Self {
        let caller = Caller::of(head);
        let notes = Notes { wants_trace: caller.wants_trace.into(), ..Notes::default() };
        if let Some(key) = key {
            let _ = notes.key.set(key);
        }
        let path = Some("/v1/responses".into());
        Self { request_id, caller: Arc::new(caller), method: Method::POST, path, notes: Arc::new(notes) }
    }

    /// A message of the socket that this request has become: a request of its own, with the same head.
    pub(crate) fn of_message(&self) -> Self {
        let notes = Notes { wants_trace: self.caller.wants_trace.into(), ..Notes::default() };
        Self { request_id: RequestId::generate(), notes: Arc::new(notes), ..self.clone() }
    }

    /// Whether a failure was noted.
    pub(crate) fn has_failed(&self) -> bool {
        self.notes.error.get().is_some()
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self::of(&Request::new(axum::body::Body::empty()))
    }

    pub(super) fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("-")
    }

    /// Method and path.
    pub(crate) fn target(&self) -> String {
        format!("{} {}", self.method, self.path())
    }

    /// Whose request it is.
    pub(crate) fn key(&self) -> KeyId {
        self.notes.key.get().map_or_else(KeyId::anonymous, |key| key.id.clone())
    }

    pub(crate) fn set_key(&self, key: Arc<Key>) {
        let _ = self.notes.key.set(key);
    }

    /// The key itself.
    pub(crate) fn owner(&self) -> Option<Arc<Key>> {
        self.notes.key.get().cloned()
    }

    /// What its key may do.
    pub(crate) fn limits(&self) -> &KeyLimits {
        static NONE: LazyLock<KeyLimits> = LazyLock::new(KeyLimits::default);
        self.notes.key.get().map_or(&NONE, |key| &key.limits)
    }

    /// Takes from its key's rates what it is likely to use.
    pub(crate) fn charge(&self, cost: Cost) -> Result<(), ApiError> {
        let charge = self.notes.key.get().map(|key| key.rates.charge(cost)).transpose()?;
        *self.notes.charge.lock().unwrap_or_else(PoisonError::into_inner) = charge;
        Ok(())
    }

    /// Corrects what was taken with what was used, once every answer has ended.
    pub(crate) fn settle_ended(&self) {
        if self.traces().iter().all(|trace| trace.ended.is_some()) {
            self.settle();
        }
    }

    /// The same, with what is known by now.
    pub(crate) fn settle(&self) {
        let charge = self.notes.charge.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What the fallback used is not known: it is taken to be what was estimated.
        if let Some(charge) = charge.filter(|_| self.stand_in().is_none()) {
            charge.settle(&self.traces());
        }
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

    /// The class of task it is.
    pub(crate) fn note_class(&self, class: Option<&Chosen>) {
        if let Some(class) = class {
            let _ = self.notes.class.set(class.clone());
        }
    }

    /// The class of task that its head names.
    pub(crate) fn task_class(&self) -> Option<&str> {
        self.caller.task_class.as_deref()
    }

    /// A failure after the head was sent. The first one counts.
    pub(crate) fn note_error(&self, error: &ApiError) {
        let _ = self.notes.error.set(error.code.clone().unwrap_or_else(|| error.kind.to_owned()));
    }

    /// Gives the room of the request's body back when the call has ended.
    pub(crate) fn keep_room(&self, room: Room) {
        let _ = self.notes.room.set(room);
    }

    /// Keeps the body as the client wrote it.
    pub(crate) fn keep_body(&self, body: Bytes) {
        let _ = self.notes.body.set(body);
    }

    /// The body as the client wrote it, where it was kept.
    pub(crate) fn body(&self) -> Option<&Bytes> {
        self.notes.body.get()
    }

    /// Whatever becomes of it, it is none for the fallback.
    pub(crate) fn keep_here(&self) {
        self.notes.stays.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stays_here(&self) -> bool {
        self.notes.stays.load(Ordering::Relaxed)
    }

    /// What became of it at the fallback.
    pub(crate) fn note_fallback(&self, how: &'static str) {
        let _ = self.notes.fallback.set(how);
    }

    /// Why the fallback answered, where it did.
    pub(super) fn stand_in(&self) -> Option<&'static str> {
        self.notes.fallback.get().copied().filter(|how| *how != FALLBACK_FAILED)
    }

    /// The caller asks for the trace in the body.
    pub(crate) fn want_trace(&self) {
        self.notes.wants_trace.store(true, Ordering::Relaxed);
    }

    /// Whether the caller asked for the trace.
    fn wants_trace(&self) -> bool {
        self.notes.wants_trace.load(Ordering::Relaxed)
    }

    /// What the caller gets of the trace where the fallback answered, whose body is passed on as it came: a header's
    /// value. `error` is what became of the native path.
    pub(crate) fn trace_of_fallback(&self, reason: &str, error: Option<&ApiError>) -> Option<HeaderValue> {
        if !self.wants_trace() {
            return None;
        }
        let error = error.and_then(|error| error.code.as_deref());
        let request = json!({ "id": self.request_id.as_str(), "target": self.target() });
        let trace = json!({ "request": request, "fallback": reason, "error": error });
        HeaderValue::try_from(trace.to_string()).ok()
    }

    /// What is known of its answers by now.
    pub(super) fn traces(&self) -> Vec<Trace> {
        let traces = self.notes.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().map(CallTrace::read).collect()
    }

    /// The trace, for a caller that asked for it.
    pub(crate) fn envelope(&self) -> Option<Envelope> {
        if !self.wants_trace() {
            return None;
        }
        let target = self.target();
        let ignored = self.notes.ignored.get().cloned().unwrap_or_default();
        let class = self.notes.class.get().map(Chosen::told);
        let fallback = self.notes.fallback.get().copied();
        Some(Envelope::new(&self.request_id, target, ignored, class.cloned(), fallback, &self.traces()))
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
pub(crate) fn internal(message: &str) -> ApiError {
    ApiError::new("internal_error", message)
}
