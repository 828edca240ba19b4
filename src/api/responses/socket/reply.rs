//! One request of a socket's, from its key to its last event.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tracing::Instrument;

use super::lanes::Lane;
use super::passing::Passing;
use super::unstored::Unstored;
use crate::api::access::Access;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::fallback::{self, Instead};
use crate::api::observe::{Call, CallLine, internal};
use crate::api::request_id::X_REQUEST_ID;
use crate::api::responses::events::Events;
use crate::api::responses::{Asker, Prepared, Transport, begin, prepare};
use crate::api::sse::{Frames, Pump, Steps};
use crate::api::time::unix_seconds;
use crate::bridge::TurnStep;
use crate::model::{Outcome, Priority, ResponseId, Retention, Usage};

/// What all requests of one socket have in common: what the head of the one that it was says.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) edge: Edge,
    pub(super) call: Call,
    /// Of its head, for the key.
    pub(super) authorization: HeaderMap,
    pub(super) priority: Option<Priority>,
    pub(super) max_wait: Option<Duration>,
    pub(super) unstored: Unstored,
}

/// One request.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) entry: CallLine,
    pub(super) body: Map<String, Value>,
}

/// A part of the answer on its way to the client.
pub(super) struct Told {
    pub(super) lane: Lane,
    pub(super) what: What,
}

pub(super) enum What {
    /// Whole events.
    Events(Vec<Bytes>),
    /// The answer has ended, well or not; nothing follows.
    Ended,
    /// The key is none of ours any more: neither is the socket.
    Revoked,
}

enum State {
    Waiting(Box<Asked>),
    Running(Box<Running>),
    Passing(Box<Passing>, CallLine),
    /// The last was told.
    Over(What),
}

struct Running {
    pump: Pump<Events>,
    call: Call,
    entry: CallLine,
    previous: Option<ResponseId>,
}

/// An answer that has nothing to say.
struct Nothing;

impl Steps for Nothing {
    async fn next(&mut self) -> TurnStep {
        let outcome = Outcome { usage: Some(Usage::default()), ..Outcome::default() };
        std::future::ready(TurnStep::Finished(Ok(outcome))).await
    }
}

/// Answers a request. Dropped, it interrupts what runs.
pub(super) fn reply(context: Arc<Context>, lane: Lane, asked: Asked) -> BoxStream<'static, Told> {
    let request_id = asked.call.request_id.clone();
    let span = tracing::info_span!("request", %request_id);
    let told = lane.clone();
    let steps = move |state: Option<State>| {
        let (context, lane, call) = (Arc::clone(&context), lane.clone(), context.call.clone());
        async move {
            let state = state?;
            // Nothing of ours is looked at again after a panic.
            let step = AssertUnwindSafe(step(&context, &lane, state)).catch_unwind().await;
            Some(step.unwrap_or_else(|_| {
                tracing::error!("a request of a socket's panicked");
                let error = internal("The bridge failed on this request.");
                (What::Events(vec![event_of(&error, &lane, &call)]), Some(State::Over(What::Ended)))
            }))
        }
        .instrument(span.clone())
    };
    let steps = stream::unfold(Some(State::Waiting(Box::new(asked))), steps);
    steps.map(move |what| Told { lane: told.clone(), what }).boxed()
}

/// The next part, and what comes after it.
async fn step(context: &Context, lane: &Lane, state: State) -> (What, Option<State>) {
    match state {
        State::Waiting(asked) => answer(context, lane, *asked).await,
        State::Running(mut running) => {
            if running.pump.fill().await {
                let events = running.pump.frames.take_messages();
                return (What::Events(events), Some(State::Running(running)));
            }
            let Running { call, entry, previous, .. } = *running;
            if let Some(previous) = previous.filter(|_| call.has_failed()) {
                context.unstored.evict(&previous, lane);
            }
            entry.end(StatusCode::OK);
            (What::Ended, None)
        }
        State::Passing(mut passing, entry) => {
            if let Some(event) = passing.next().await {
                return (What::Events(vec![event]), Some(State::Passing(passing, entry)));
            }
            entry.end(StatusCode::OK);
            (What::Ended, None)
        }
        State::Over(what) => (what, None),
    }
}

/// The first events of the answer, or the one that says why there is none.
async fn answer(context: &Context, lane: &Lane, asked: Asked) -> (What, Option<State>) {
    let Asked { call, entry, body } = asked;
    let previous = body.get("previous_response_id").and_then(Value::as_str).map(ResponseId::new);
    let error = match start(context, lane, &call, body).await {
        Ok(mut pump) => {
            let events = pump.frames.take_messages();
            let running = Running { pump, call, entry, previous };
            return (What::Events(events), Some(State::Running(Box::new(running))));
        }
        Err(error) => error,
    };
    if let Instead::Answered(response) = fallback::instead(&context.edge, &call, "responses", &error).await
        && let Some(passing) = Passing::of(response, lane.clone(), context.edge.max_body_bytes)
    {
        return (What::Events(Vec::new()), Some(State::Passing(Box::new(passing), entry)));
    }
    if let Some(previous) = previous {
        context.unstored.evict(&previous, lane);
    }
    let last = if error.code.as_deref() == Some("invalid_api_key") { What::Revoked } else { What::Ended };
    (What::Events(vec![refuse(&error, lane, &call, entry)]), Some(State::Over(last)))
}

/// Checks the request as a POST is checked, and starts its turn.
async fn start(
    context: &Context,
    lane: &Lane,
    call: &Call,
    body: Map<String, Value>,
) -> Result<Pump<Events>, ApiError> {
    let edge = &context.edge;
    // Anew for each request: the keys may have changed since the last.
    call.set_key(edge.keys.owner(&context.authorization)?);
    if edge.fallback.is_some() {
        let mut body = body.clone();
        body.insert("stream".into(), true.into());
        call.keep_body(serde_json::to_vec(&body).unwrap_or_default().into());
    }
    let access = Access::of(call.clone(), context.priority);
    let (max_wait, created_at) = (context.max_wait, unix_seconds(SystemTime::now()));
    let transport = Transport::Socket;
    let asker = Asker { call, access: &access, max_wait, pays: true, transport, created_at };
    let prepared = prepare(edge, asker, ResponseId::generate(), body).await?;
    let request = &prepared.request;
    if request.retention == Retention::Continuable {
        context.unstored.add(request.response_id.clone(), request.key.clone(), lane.clone());
    }
    let events = |head| Events::new(head, call.clone()).on_lane(lane.name().cloned());
    if !prepared.generate {
        let Prepared { request, mut head, .. } = prepared;
        head.model = edge.bridge.warm_up(request).await?;
        return Pump::open(vec![Nothing], events(head), Frames::messages(), &edge.stream).await;
    }
    let (answer, head) = begin(edge, prepared).await?;
    Pump::open(vec![answer], events(head), Frames::messages(), &edge.stream).await
}

/// Ends a request of which nothing was told with its error.
pub(super) fn refuse(error: &ApiError, lane: &Lane, call: &Call, entry: CallLine) -> Bytes {
    call.note_error(error);
    let event = event_of(error, lane, call);
    entry.end(error.status);
    event
}

/// The event that says so, with what a response's head would say.
pub(super) fn event_of(error: &ApiError, lane: &Lane, call: &Call) -> Bytes {
    let mut headers = error.headers();
    if let Ok(id) = HeaderValue::from_str(call.request_id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    if let Some(key) = call.owner() {
        key.rates.tell(&mut headers);
    }
    let trace = call.envelope();
    let event = error.event(lane.name().map(AsRef::as_ref), &headers).with_trace(trace.as_ref());
    serde_json::to_vec(&event).unwrap_or_default().into()
}
