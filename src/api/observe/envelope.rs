//! The trace as its caller sees it: the member `bridge`, which no official object has.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::classes;
use crate::api::time::unix_seconds;
use crate::model::{Ended, Rebuilt, RequestId, Route, SessionIdentity, Trace};

/// `bridge`: of a Response, a completion, a stream's last chunk, an error.
#[derive(Debug, Clone, JsonSchema, Serialize)]
pub(crate) struct Envelope {
    trace: Told,
}

/// A call's trace.
#[derive(Debug, Clone, JsonSchema, Serialize)]
struct Told {
    request: Request,
    session: Option<Session>,
    task_class: Option<classes::Told>,
    /// What became of it at the fallback, where it was asked.
    fallback: Option<&'static str>,
    /// The first answer's; nothing is known before there is one.
    #[serde(flatten)]
    answer: Answer,
    ignored: Vec<String>,
    /// Where there are several (`n`): each, the first one too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    choices: Vec<Answer>,
}

#[derive(Debug, Clone, JsonSchema, Serialize)]
struct Request {
    id: String,
    /// Method and path.
    target: String,
}

#[derive(Debug, Clone, JsonSchema, Serialize)]
pub(crate) struct Session {
    id: String,
    source: &'static str,
    /// The header's name or the field's path.
    name: Option<&'static str>,
}

#[derive(Debug, Clone, Default, JsonSchema, Serialize)]
struct Answer {
    route: Option<&'static str>,
    rebuilt_because: Option<&'static str>,
    mapping: Mapping,
    continuation: Continuation,
    phases_ms: PhasesMs,
    turns: u32,
    retries: u32,
    reruns: u32,
    ended: Option<&'static str>,
}

#[derive(Debug, Clone, Default, JsonSchema, Serialize)]
struct Mapping {
    response_id: Option<String>,
    thread_id: Option<String>,
    turn_id: Option<String>,
    upstream_response_id: Option<String>,
    app_server_generation: Option<u64>,
}

#[derive(Debug, Clone, Default, JsonSchema, Serialize)]
struct Continuation {
    previous_response_id: Option<String>,
    chain_length: Option<u32>,
    /// What it survives: `memory`, `disk`, `shared`.
    kept: Option<&'static str>,
    /// Unix seconds.
    expires_at: Option<u64>,
}

#[derive(Debug, Clone, Default, JsonSchema, Serialize)]
struct PhasesMs {
    queued: Option<u64>,
    starting: Option<u64>,
    first_event: Option<u64>,
    done: Option<u64>,
}

impl Envelope {
    /// One answer a trace, in order.
    pub(super) fn new(
        request: &RequestId,
        target: String,
        ignored: Vec<String>,
        task_class: Option<classes::Told>,
        fallback: Option<&'static str>,
        traces: &[Trace],
    ) -> Self {
        let first = traces.first();
        let session = first.and_then(|trace| trace.session.as_ref()).map(Session::of);
        let several = if traces.len() > 1 { traces } else { &[] };
        Self {
            trace: Told {
                request: Request { id: request.to_string(), target },
                session,
                task_class,
                fallback,
                answer: first.map(Answer::new).unwrap_or_default(),
                ignored,
                choices: several.iter().map(Answer::new).collect(),
            },
        }
    }
}

impl Session {
    pub(crate) fn of(session: &SessionIdentity) -> Self {
        let (id, source) = (session.id().to_string(), session.source());
        Self { id, source: source.as_str(), name: source.name() }
    }
}

impl Answer {
    fn new(trace: &Trace) -> Self {
        let phases = &trace.phases;
        Self {
            route: trace.route.map(Route::as_str),
            rebuilt_because: trace.rebuilt_because.map(Rebuilt::as_str),
            mapping: Mapping {
                response_id: trace.response_id.as_ref().map(ToString::to_string),
                thread_id: trace.thread.as_ref().map(ToString::to_string),
                turn_id: trace.turn.as_ref().map(ToString::to_string),
                upstream_response_id: trace.upstream_response_id.clone(),
                app_server_generation: trace.generation,
            },
            continuation: Continuation {
                previous_response_id: trace.previous.as_ref().map(ToString::to_string),
                chain_length: trace.chain_length,
                kept: trace.kept.map(|kept| kept.durability),
                expires_at: trace.kept.map(|kept| unix_seconds(kept.expires_at)),
            },
            phases_ms: PhasesMs {
                queued: phases.queued.map(millis),
                starting: phases.starting.map(millis),
                first_event: phases.first_event.map(millis),
                done: phases.done.map(millis),
            },
            turns: trace.turns,
            retries: trace.retries,
            reruns: trace.reruns,
            ended: trace.ended.map(Ended::as_str),
        }
    }
}

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
