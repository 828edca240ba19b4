//! The one log line of a request.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::call::Call;
use super::envelope::millis;
use crate::api::classes::{Chosen, Fate};
use crate::model::{Ended, Rebuilt, Route, Trace};

/// Written when it is dropped: after the last byte of the body, or when the client has left.
pub(super) struct Line {
    pub(super) call: Call,
    pub(super) started: Instant,
    pub(super) head: Option<(StatusCode, Duration)>,
    /// The whole body was taken.
    pub(super) ended: bool,
}

impl Line {
    /// Adds it to the figures of its class, where the engine was asked.
    fn count(&self, class: Option<&Chosen>, traces: &[Trace]) {
        let Some(class) = class.filter(|_| !traces.is_empty()) else { return };
        let refused =
            self.head.is_none_or(|(status, _)| status.is_client_error() || status.is_server_error());
        let fate = if !self.ended {
            Fate::Abandoned
        } else if self.call.stand_in().is_some() {
            // What is noted is why the native path did not.
            Fate::Answered
        } else if refused || self.call.notes.error.get().is_some() {
            Fate::Failed
        } else {
            Fate::Answered
        };
        let usage = traces.iter().filter_map(|trace| trace.usage);
        class.figures().add(fate, usage, self.started.elapsed());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.call.settle();
        let notes = &self.call.notes;
        let path = self.call.path();
        let status = self.head.map(|(status, _)| status.as_u16());
        let traces = self.call.traces();
        // What differs between the answers of one request is the first one's.
        let first = traces.first().cloned().unwrap_or_default();
        let session = first.session.as_ref();
        let tokens = Tokens::of(&traces);
        let fallback = notes.fallback.get().copied();
        let route = match self.call.stand_in() {
            Some(_) => Some("fallback"),
            None => first.route.map(Route::as_str),
        };
        let class = notes.class.get();
        self.count(class, &traces);
        // One statement per level, because a level is fixed where it is written.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method = %self.call.method,
                    path,
                    status,
                    head_ms = self.head.map(|(_, head)| millis(head)),
                    ms = millis(self.started.elapsed()),
                    request_id = %self.call.request_id,
                    response_id = first.response_id.as_ref().map(tracing::field::display),
                    key = notes.key.get().map(|key| key.id.as_str()),
                    task_class = class.map(Chosen::name),
                    session = session.map(|session| session.id().as_str()),
                    session_source = session.map(|session| session.source().as_str()),
                    route,
                    fallback,
                    rebuilt_because = first.rebuilt_because.map(Rebuilt::as_str),
                    thread_id = first.thread.as_ref().map(tracing::field::display),
                    turn_id = first.turn.as_ref().map(tracing::field::display),
                    upstream_response_id = first.upstream_response_id.as_deref(),
                    generation = first.generation,
                    queued_ms = first.phases.queued.map(millis),
                    starting_ms = first.phases.starting.map(millis),
                    first_event_ms = first.phases.first_event.map(millis),
                    done_ms = first.phases.done.map(millis),
                    answers = traces.len(),
                    turns = traces.iter().map(|trace| trace.turns).sum::<u32>(),
                    retries = traces.iter().map(|trace| trace.retries).sum::<u32>(),
                    reruns = traces.iter().map(|trace| trace.reruns).sum::<u32>(),
                    input_tokens = tokens.input,
                    cached_tokens = tokens.cached,
                    output_tokens = tokens.output,
                    ended = first.ended.map(Ended::as_str),
                    error = notes.error.get().map(String::as_str),
                    client_left = !self.ended,
                    "request"
                )
            };
        }
        // "Not ready" is an answer, and asked for again and again.
        if matches!(path, "/healthz" | "/readyz") {
            line!(debug);
        } else if status.is_some_and(|status| status >= 500) {
            line!(warn);
        } else {
            line!(info);
        }
    }
}

/// What the answers took together; nothing where no figures came.
#[derive(Default)]
struct Tokens {
    input: Option<u64>,
    cached: Option<u64>,
    output: Option<u64>,
}

impl Tokens {
    fn of(traces: &[Trace]) -> Self {
        let mut sum = Self::default();
        for usage in traces.iter().filter_map(|trace| trace.usage) {
            *sum.input.get_or_insert(0) += usage.input_tokens;
            *sum.cached.get_or_insert(0) += usage.cached_input_tokens;
            *sum.output.get_or_insert(0) += usage.output_tokens;
        }
        sum
    }
}
