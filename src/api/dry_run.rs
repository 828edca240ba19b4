//! `?dry_run=true` or `x-codex-bridge-dry-run: true`: a request is decoded, checked and resolved as it would be for
//! a call, and answered with what the call would come to. Nothing is taken, started or sent.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::classes::{Chosen, Told};
use super::error::ApiError;
use super::fields::{Check, Field, Policy};
use super::ignored::Ignored;
use super::observe::{Call, Session};
use super::openapi::Parameter;
use crate::bridge::{Bridge, BridgeError, DryRun, Unsent};
use crate::model::{Item, Rebuilt, ResponseId, Retention, TurnRequest};

pub(crate) const X_DRY_RUN: &str = "x-codex-bridge-dry-run";
/// What it may say.
pub(crate) const WORDS: &[&str] = &["true", "1", "full", "false", "0"];
const QUERY: &str = "dry_run";
pub(crate) const PARAMETER: Parameter =
    Parameter::new(QUERY, Check::Word(WORDS), "as the header `x-codex-bridge-dry-run`");

/// How much of a dry run is asked for. An extractor; the header wins over the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It is a call.
    Nothing,
    /// What would be done.
    Summary,
    /// The injected items as well.
    Full,
}

impl<S: Sync> FromRequestParts<S> for Wanted {
    type Rejection = ApiError;

    /// A dry run is nobody else's to answer: the fallback would take it for a call.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let wanted = std::future::ready(Self::of(parts)).await?;
        if wanted != Self::Nothing
            && let Some(call) = parts.extensions.get::<Call>()
        {
            call.keep_here();
        }
        Ok(wanted)
    }
}

impl Wanted {
    fn of(parts: &Parts) -> Result<Self, ApiError> {
        let pairs = parts.uri.query().unwrap_or_default().split('&').map(|pair| pair.split_once('='));
        let asked = pairs.flatten().find(|(name, _)| *name == QUERY);
        // Read where the header wins too: a mistake is a mistake.
        let asked = asked.map(|(_, value)| Self::read(QUERY, value)).transpose()?;
        match parts.headers.get(X_DRY_RUN) {
            Some(value) => Self::read(X_DRY_RUN, value.to_str().unwrap_or_default()),
            None => Ok(asked.unwrap_or(Self::Nothing)),
        }
    }

    fn read(param: &str, value: &str) -> Result<Self, ApiError> {
        match value.to_ascii_lowercase().as_str() {
            "false" | "0" => Ok(Self::Nothing),
            "true" | "1" => Ok(Self::Summary),
            "full" => Ok(Self::Full),
            _ => Err(super::read::not_one_of(param, &["true", "full", "false"])),
        }
    }
}

/// What both APIs know of a request beside what the engine does.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) call: &'a Call,
    pub(crate) class: Option<&'a Chosen>,
    pub(crate) emulated: Vec<&'static str>,
    pub(crate) ignored: &'a Ignored,
    /// Turns that the request would take.
    pub(crate) turns: usize,
    pub(crate) stream: bool,
}

/// The emulated fields that the body gives, by the API's table.
pub(crate) fn emulated(table: &[Field], body: &Map<String, Value>) -> Vec<&'static str> {
    let given = |field: &&Field| {
        let mut path = field.name.split('.');
        let first = path.next().and_then(|name| body.get(name));
        path.fold(first, |value, name| value?.get(name)).is_some_and(|value| !value.is_null())
    };
    let emulated = table.iter().filter(|field| field.policy == Policy::Emulated);
    emulated.filter(given).map(|field| field.name).collect()
}

/// Answers with what the request would come to.
pub(crate) async fn respond(
    wanted: Wanted,
    bridge: &Bridge,
    request: TurnRequest,
    about: About<'_>,
) -> Result<Response, BridgeError> {
    let found = bridge.dry_run(request.clone()).await?;
    let mut response = Json(Plan::new(wanted, &request, &found, &about)).into_response();
    about.ignored.report(&mut response);
    Ok(response)
}

/// `bridge.dry_run`.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Plan<'a> {
    object: &'static str,
    request: Request<'a>,
    model: Model<'a>,
    task_class: Option<&'a Told>,
    session: Session,
    settings: Settings<'a>,
    /// Without effect.
    ignored: &'a [String],
    /// Done by the bridge itself.
    emulated: &'a [&'static str],
    route: &'static str,
    rebuilt_because: Option<&'static str>,
    chain: Chain<'a>,
    estimate: Estimate,
    thread: Option<Sent<'a>>,
    inject: Injected<'a>,
    turn: Option<Sent<'a>>,
    admission: Admission,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Request<'a> {
    id: &'a str,
    target: String,
    stream: bool,
    /// More than one with `n`; what is told is the first one's.
    turns: usize,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Model<'a> {
    /// As the request, its class or the configuration names it.
    asked: Option<&'a str>,
    resolved: &'a str,
}

/// What is sent or applied; null for the model's or the account's own.
#[derive(Debug, JsonSchema, Serialize)]
struct Settings<'a> {
    effort: Option<&'a str>,
    summary: Option<&'a str>,
    verbosity: Option<&'a str>,
    service_tier: Option<&'a str>,
    max_output_tokens: Option<u64>,
    priority: &'static str,
    deadline_seconds: f64,
    max_retry_wait_seconds: Option<f64>,
    /// `stored`, `continuable` (in memory alone) or `nothing`.
    kept: &'static str,
    client_metadata: &'a BTreeMap<String, String>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Chain<'a> {
    previous_response_id: Option<&'a str>,
    length: u32,
    items: usize,
}

/// By the tokenizer of the GPT-5 family; images, audio and reasoning count nothing.
#[derive(Debug, JsonSchema, Serialize)]
struct Estimate {
    input_tokens: u64,
}

/// A request to the app-server.
#[derive(Debug, JsonSchema, Serialize)]
struct Sent<'a> {
    method: &'static str,
    params: &'a Value,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Injected<'a> {
    count: usize,
    /// Of their JSON.
    bytes: usize,
    /// Outputs that the waiting turn is given instead.
    tool_outputs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Map<String, Value>>")]
    items: Option<&'a [Item]>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Admission {
    /// `open`, `queueing`, `full` or `draining`.
    state: &'static str,
    slot_free: bool,
    slots: usize,
    in_use: usize,
    queued: usize,
    queue_limit: usize,
}

impl<'a> Plan<'a> {
    fn new(wanted: Wanted, request: &'a TurnRequest, found: &'a DryRun, about: &'a About<'_>) -> Self {
        let sent = |unsent: &'a Unsent| Sent { method: unsent.method, params: &unsent.params };
        Self {
            object: "bridge.dry_run",
            request: Request {
                id: about.call.request_id.as_str(),
                target: about.call.target(),
                stream: about.stream,
                turns: about.turns,
            },
            model: Model { asked: request.model.as_deref(), resolved: &found.model.id },
            task_class: about.class.map(Chosen::told),
            session: Session::of(&found.session),
            settings: Settings {
                effort: request.effort.as_deref(),
                summary: request.summary.as_deref(),
                verbosity: request.verbosity.as_deref(),
                service_tier: request.service_tier.as_deref(),
                max_output_tokens: request.max_output_tokens,
                priority: request.priority.as_str(),
                deadline_seconds: found.deadline.as_secs_f64(),
                max_retry_wait_seconds: request.max_retry_wait.as_ref().map(Duration::as_secs_f64),
                kept: match request.retention {
                    Retention::Stored => "stored",
                    Retention::Continuable => "continuable",
                    Retention::Nothing => "nothing",
                },
                client_metadata: &request.client_metadata,
            },
            ignored: about.ignored.names(),
            emulated: &about.emulated,
            route: found.route.as_str(),
            rebuilt_because: found.rebuilt_because.map(Rebuilt::as_str),
            chain: Chain {
                previous_response_id: request.previous.as_ref().map(ResponseId::as_str),
                length: found.chain_length,
                items: found.chain_items,
            },
            estimate: Estimate { input_tokens: found.input_tokens },
            thread: found.thread.as_ref().map(sent),
            inject: Injected {
                count: found.items.len(),
                bytes: found.item_bytes,
                tool_outputs: found.tool_outputs,
                items: (wanted == Wanted::Full).then_some(&found.items),
            },
            turn: found.turn.as_ref().map(sent),
            admission: Admission::new(found),
        }
    }
}

impl Admission {
    fn new(found: &DryRun) -> Self {
        let slots = found.slots;
        let slot_free = slots.in_use < slots.total && !found.draining;
        let state = if found.draining {
            "draining"
        } else if slot_free {
            "open"
        } else if slots.queued < slots.queue_limit {
            "queueing"
        } else {
            "full"
        };
        Self {
            state,
            slot_free,
            slots: slots.total,
            in_use: slots.in_use,
            queued: slots.queued,
            queue_limit: slots.queue_limit,
        }
    }
}

#[cfg(test)]
mod tests;
