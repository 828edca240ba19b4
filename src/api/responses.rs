//! `POST /v1/responses`: items in, the official Response object or its stream of events out.

mod background;
mod decode;
mod events;
mod fields;
mod input;
mod input_tokens;
mod kept;
mod output;
mod wire;

pub(crate) use background::Background;
pub(crate) use input::decode_items;
pub(crate) use input_tokens::count as count_input_tokens;
pub(crate) use kept::{cancel, delete, given, input_items, retrieve};
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
use super::{answer, dry_run, effort, identity, sse};
use crate::model::{Outcome, ResponseId, Retention, TurnRequest};

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
    /// Unix seconds.
    created_at: u64,
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
        if body.get("conversation").is_some_and(|conversation| !conversation.is_null()) {
            let message = "A background response cannot go on with a conversation here.";
            return Err(ApiError::unsupported("conversation", message));
        }
        return background::create(&edge, &call, access.asked, max_wait, &head, body).await;
    }
    let mut emulated = dry_run::emulated(FIELDS, &body);
    let pays = dry == dry_run::Wanted::Nothing;
    let asker =
        Asker { call: &call, access: &access, max_wait, pays, created_at: unix_seconds(SystemTime::now()) };
    let prepared = prepare(&edge, asker, ResponseId::generate(), body).await?;
    let Prepared { mut request, rule, mut head, joined, class, stream, ignored } = prepared;
    if dry != dry_run::Wanted::Nothing {
        answer::under(&mut request, rule.as_deref());
        emulated.extend(rule.as_ref().map(|_| "text.format"));
        let about =
            About { call: &call, class: class.as_ref(), emulated, ignored: &ignored, turns: 1, stream };
        return Ok(dry_run::respond(dry, &edge.bridge, request, about).await?);
    }
    let (answer, model) = answer::start(&edge.bridge, request, rule).await?;
    head.model = model;
    let (id, encrypted_reasoning) = (head.id.clone(), head.echo.encrypted_reasoning);
    let answer = Appending::new(answer, joined, move |output| {
        output::with_ids(output, Form { id: &id, encrypted_reasoning })
    });
    let mut response = if stream {
        sse::respond(vec![answer], Events::new(head, call), &edge.stream).await?
    } else {
        whole(&answer.outcome().await?, &head, &call)
    };
    ignored.report(&mut response);
    Ok(response)
}

/// Reads and checks a request, and charges its key where it `pays`.
async fn prepare(
    edge: &Edge,
    asker: Asker<'_>,
    response_id: ResponseId,
    body: Map<String, Value>,
) -> Result<Prepared, ApiError> {
    let Asker { call, access, max_wait, pays, created_at } = asker;
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
        wants_trace,
        mut echo,
        mut ignored,
    } = decode(body, edge.requests)?;
    if wants_trace {
        call.want_trace();
    }
    if let Some(previous) = previous.as_ref().filter(|id| edge.background.is_running(id, &call.key())) {
        let message = format!("Previous response with id '{previous}' has not ended.");
        return Err(ApiError::new("previous_response_in_progress", message));
    }
    let silent = Silent {
        model: &mut model,
        verbosity: &mut echo.text.verbosity,
        max_output_tokens: &mut echo.max_output_tokens,
    };
    let allowed = |name: &str| access.allows(&edge.bridge, name);
    let mut class = edge.classes.choose(call.task_class(), &echo.metadata, allowed, silent)?;
    let mut joined = Joined::read(&edge.conversations, conversation, call.key()).await?;
    let dry = if pays { dry_run::Wanted::Nothing } else { dry_run::Wanted::Summary };
    access.charge(dry, cost(&echo, &input, joined.as_ref()))?;
    let model = access.model(&edge.bridge, model).await?;
    if let Some(class) = &mut class {
        class.choose_effort(&edge.bridge, model.as_deref(), &mut echo.reasoning.effort).await?;
    }
    call.note_class(class.as_ref().filter(|_| pays));
    let Echo { instructions, metadata, reasoning, text, .. } = echo.clone();
    effort::check(&edge.bridge, model.as_deref(), reasoning.effort.as_deref(), "reasoning.effort").await?;
    check_own_tools(&edge.bridge, model.as_deref(), &tools, "tools").await?;
    let modalities = input.modalities();
    let input = input.finish(&edge.media).await?;
    let input = Joined::extend(joined.as_mut(), input)?;
    check_modalities(&edge.bridge, model.as_deref(), modalities).await?;
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
        retention: match retention {
            Retention::Continuable if !edge.keep_unstored => Retention::Nothing,
            retention => retention,
        },
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
    Ok(Prepared { request, rule: format.rule, head, joined, class, stream, ignored })
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
