//! `POST /v1/responses`: items in, the official Response object or its stream of events out.

mod background;
mod compact;
mod decode;
mod events;
mod fields;
mod input;
mod input_tokens;
mod kept;
mod output;
mod socket;
mod wire;

pub(crate) use background::Background;
pub(crate) use compact::{COMPACT_FIELDS, Compacted, compact};
pub(crate) use decode::INCLUDES;
pub(crate) use input::decode_items;
pub(crate) use input_tokens::{Counted, count as count_input_tokens};
pub(crate) use kept::{
    INPUT_ITEMS_QUERY, RETRIEVE_QUERY, cancel, delete, given, input_items, retrieve, wants_encrypted,
};
pub(crate) use socket::{SocketHealth, Sockets, connect};
pub(crate) use wire::Form;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde_json::{Map, Value};

use self::decode::{Decoded, decode};
use self::events::Events;
pub(super) use self::fields::FIELDS;
pub(crate) use self::wire::Response as Answered;
use self::wire::{Echo, Head, Progress};
use super::access::Access;
use super::classes::{Chosen, Silent};
use super::conversations::{Appending, Joined};
use super::dry_run::About;
use super::edge::Edge;
use super::error::ApiError;
use super::extract::JsonBody;
use super::format::Rule;
use super::identity::Beginning;
use super::ignored::Ignored;
use super::items::{Draft, check_modalities};
use super::limits::Cost;
use super::max_wait::MaxWait;
use super::observe::Call;
use super::time::unix_seconds;
use super::tools::check_own_tools;
use super::{answer, conversations, dry_run, effort, identity, sse};
use crate::bridge::BridgeError;
use crate::model::{CallTicket, Item, KeyId, Outcome, ResponseId, Retention, TurnRequest};

/// A request, read, checked and ready to be run.
#[derive(Debug)]
struct Prepared {
    request: TurnRequest,
    /// What its answer has to follow.
    rule: Option<Arc<Rule>>,
    /// Without the model's id, which is known once the turn runs.
    head: Head,
    /// The conversation that it goes on with.
    joined: Option<Joined>,
    class: Option<Chosen>,
    stream: bool,
    /// Without it nothing is asked: what is said is kept for what continues it.
    generate: bool,
    ignored: Ignored,
}

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
struct Asker<'a> {
    call: &'a Call,
    access: &'a Access,
    max_wait: Option<Duration>,
    /// Whether it is a call, whose key pays.
    pays: bool,
    transport: Transport,
    /// Unix seconds.
    created_at: u64,
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Http,
    /// What is not stored can be continued for as long as the socket lives, whatever the setting is for others.
    Socket,
}

impl Transport {
    /// Only a socket prepares what is not to be generated.
    fn check(self, generate: bool) -> Result<(), ApiError> {
        if generate || self == Self::Socket {
            return Ok(());
        }
        let message = "Unsupported parameter: 'generate' is for the WebSocket of GET /v1/responses alone.";
        Err(ApiError::unsupported("generate", message))
    }

    fn retention(self, asked: Retention, keep_unstored: bool) -> Retention {
        match asked {
            Retention::Continuable if self == Self::Http && !keep_unstored => Retention::Nothing,
            asked => asked,
        }
    }
}

/// Answers with the response, or its events. A client that leaves drops this future, or the stream's body,
/// and with it the turn.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    access: Access,
    MaxWait(max_wait): MaxWait,
    dry: dry_run::Wanted,
    head: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    if dry == dry_run::Wanted::Nothing && body.get("background") == Some(&Value::Bool(true)) {
        return background::create(&edge, &call, access.asked, max_wait, &head, body).await;
    }
    let mut emulated = dry_run::emulated(FIELDS, &body);
    let pays = dry == dry_run::Wanted::Nothing;
    let created_at = unix_seconds(SystemTime::now());
    let asker =
        Asker { call: &call, access: &access, max_wait, pays, transport: Transport::Http, created_at };
    let mut prepared = prepare(&edge, asker, ResponseId::generate(), body).await?;
    let (stream, ignored) = (prepared.stream, std::mem::take(&mut prepared.ignored));
    if dry != dry_run::Wanted::Nothing {
        let Prepared { mut request, rule, class, .. } = prepared;
        answer::under(&mut request, rule.as_deref());
        emulated.extend(rule.as_ref().map(|_| "text.format"));
        let about =
            About { call: &call, class: class.as_ref(), emulated, ignored: &ignored, turns: 1, stream };
        return Ok(dry_run::respond(dry, &edge.bridge, request, about).await?);
    }
    let (answer, head) = begin(&edge, prepared).await?;
    let mut response = if stream {
        sse::respond(vec![answer], Events::new(head, call), &edge.stream).await?
    } else {
        whole(&answer.outcome().await?, &head, &call)
    };
    ignored.report(&mut response);
    Ok(response)
}

/// Starts the turn.
async fn begin(
    edge: &Edge,
    prepared: Prepared,
) -> Result<(Appending<impl Fn(&[Item]) -> Vec<(Option<String>, Item)> + Send + 'static>, Head), BridgeError>
{
    let Prepared { request, rule, mut head, joined, .. } = prepared;
    let (answer, model) = answer::start(&edge.bridge, request, rule).await?;
    head.model = model;
    let (id, encrypted_reasoning) = (head.id.clone(), head.echo.encrypted_reasoning);
    let answer = Appending::new(answer, joined, move |output| {
        output::with_ids(output, Form { id: &id, encrypted_reasoning })
    });
    Ok((answer, head))
}

/// Reads and checks a request, and charges its key where it `pays`.
async fn prepare(
    edge: &Edge,
    asker: Asker<'_>,
    response_id: ResponseId,
    body: Map<String, Value>,
) -> Result<Prepared, ApiError> {
    let Asker { call, access, max_wait, pays, transport, created_at } = asker;
    let Decoded {
        mut model,
        input,
        previous,
        conversation,
        service_tier,
        format,
        tools,
        retention,
        stream,
        generate,
        wants_trace,
        mut echo,
        mut ignored,
    } = decode(body, edge.requests)?;
    transport.check(generate)?;
    if wants_trace {
        call.want_trace();
    }
    check_ended(edge, previous.as_ref(), &call.key())?;
    let silent = Silent {
        model: &mut model,
        verbosity: &mut echo.text.verbosity,
        max_output_tokens: &mut echo.max_output_tokens,
    };
    let allowed = |name: &str| access.allows(&edge.bridge, name);
    let mut class = edge.classes.choose(call.task_class(), &echo.metadata, allowed, silent)?;
    let mut joined = joined(edge, conversation, &response_id, &call.key()).await?;
    let dry = if pays { dry_run::Wanted::Nothing } else { dry_run::Wanted::Summary };
    access.charge(dry, cost(&echo, &input, joined.as_ref()))?;
    let bridge = edge.bridge.asked_by(call.key());
    let model = access.model(&bridge, model).await?;
    if let Some(class) = &mut class {
        class.choose_effort(&bridge, model.as_deref(), &mut echo.reasoning.effort).await?;
    }
    call.note_class(class.as_ref().filter(|_| pays));
    let Echo { instructions, metadata, reasoning, text, .. } = echo.clone();
    effort::check(&bridge, model.as_deref(), reasoning.effort.as_deref(), "reasoning.effort").await?;
    check_own_tools(&bridge, model.as_deref(), &tools, "tools").await?;
    let modalities = input.modalities();
    let mut input = input.finish(&edge.media).await?;
    edge.compactions.open_all(&bridge, &call.key(), "input", &mut input).await?;
    let input = Joined::extend(joined.as_mut(), input, &response_id)?;
    check_modalities(&bridge, model.as_deref(), modalities).await?;
    let key = call.key();
    let named = identity::Body { metadata: &metadata, prompt_cache_key: echo.prompt_cache_key.as_deref() };
    let beginning = Beginning { key: &key, instructions: instructions.as_deref(), items: &input };
    let beginning = previous.is_none().then_some(beginning);
    let session = identity::resolve(&call.caller, named, beginning, &mut ignored);
    let client_metadata = identity::forwarded(&metadata, &mut ignored);
    call.note_ignored(&ignored);
    let head = Head { id: response_id.to_string(), created_at, model: String::new(), echo };
    let kept = (retention == Retention::Stored).then(|| wire::kept_head(&head)).flatten();
    let echo = &head.echo;
    let mut request = TurnRequest {
        trace: call.begin(&response_id, &session),
        response_id,
        request_id: call.request_id.clone(),
        ticket: CallTicket::default(),
        key,
        session,
        task_class: None,
        priority: access.priority,
        concurrency: access.concurrency,
        deadline: None,
        model,
        instructions,
        input,
        previous,
        compacts: false,
        effort: reasoning.effort,
        summary: reasoning.summary.map(str::to_owned),
        verbosity: text.verbosity.map(str::to_owned),
        service_tier,
        output_schema: format.output_schema,
        tools: tools.offered,
        tool_choice: tools.choice,
        parallel_tool_calls: tools.parallel,
        web_search: tools.web_search,
        image_generation: tools.image_generation,
        max_output_tokens: echo.max_output_tokens,
        stop: Vec::new(),
        max_retry_wait: max_wait,
        retention: transport.retention(retention, edge.keep_unstored),
        head: kept,
        spent: None,
        until: None,
        encrypted_reasoning: echo.encrypted_reasoning,
        prompt_cache_key: echo.prompt_cache_key.clone(),
        client_metadata,
    };
    if let Some(class) = &class {
        class.complete(&mut request);
    }
    Ok(Prepared { request, rule: format.rule, head, joined, class, stream, generate, ignored })
}

/// What is still made cannot be continued.
fn check_ended(edge: &Edge, previous: Option<&ResponseId>, key: &KeyId) -> Result<(), ApiError> {
    let Some(previous) = previous.filter(|id| edge.background.is_running(id, key)) else { return Ok(()) };
    let message = format!("Previous response with id '{previous}' has not ended.");
    Err(ApiError::new("previous_response_in_progress", message))
}

/// The conversation that a request goes on with, unless a background response has it.
async fn joined(
    edge: &Edge,
    conversation: Option<String>,
    response: &ResponseId,
    key: &KeyId,
) -> Result<Option<Joined>, ApiError> {
    let joined = Joined::read(&edge.conversations, conversation, key.clone()).await?;
    match joined.as_ref().and_then(|joined| joined.holder(response)) {
        Some(holder) if edge.background.is_open(holder, key).await? => Err(conversations::locked()),
        _ => Ok(joined),
    }
}

/// What a request is likely to use, as far as that can be told before anything is asked.
fn cost(echo: &Echo, input: &Draft, joined: Option<&Joined>) -> Cost {
    let said = echo.instructions.as_ref().map_or(0, String::len) / 4;
    let tokens = input.tokens().saturating_add(u64::try_from(said).unwrap_or(u64::MAX));
    let tokens = tokens.saturating_add(joined.map_or(0, Joined::tokens));
    Cost { input: tokens, output: echo.max_output_tokens, answers: 1 }
}

fn whole(outcome: &Outcome, head: &Head, call: &Call) -> Response {
    let output = output::official_items(&outcome.output, head.form());
    let response = wire::Response::new(head, Progress::ended(outcome.incomplete), &output, outcome.usage);
    Json(response.with_trace(call.envelope())).into_response()
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
