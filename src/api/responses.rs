//! `POST /v1/responses`: items in, the official Response object or its stream of events out.

mod decode;
mod events;
mod fields;
mod input;
mod output;
mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use self::decode::{Decoded, decode};
use self::events::Events;
#[cfg(test)]
pub(super) use self::fields::FIELDS;
use self::wire::{Echo, Head, Progress};
use super::answer::Answer;
use super::edge::Edge;
use super::error::ApiError;
use super::extract::JsonBody;
use super::identity::Beginning;
use super::items::check_modalities;
use super::max_wait::MaxWait;
use super::observe::Call;
use super::tools::check_own_tools;
use super::{answer, effort, identity, sse};
use crate::model::{ResponseId, Retention, TurnRequest};

/// Answers with the response, or its events. A client that leaves drops this future, or the stream's body,
/// and with it the turn.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    MaxWait(max_wait): MaxWait,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let Decoded {
        model,
        input,
        previous,
        service_tier,
        format,
        tools,
        retention,
        stream,
        wants_trace,
        echo,
        mut ignored,
    } = decode(body, edge.requests)?;
    if wants_trace {
        call.want_trace();
    }
    let Echo { instructions, metadata, reasoning, text, .. } = echo.clone();
    effort::check(&edge.bridge, model.as_deref(), reasoning.effort.as_deref(), "reasoning.effort").await?;
    check_own_tools(&edge.bridge, model.as_deref(), &tools, "tools").await?;
    let modalities = input.modalities();
    let input = input.finish(&edge.media).await?;
    check_modalities(&edge.bridge, model.as_deref(), modalities).await?;
    let (response_id, key) = (ResponseId::generate(), call.key());
    let named = identity::Body { metadata: &metadata, prompt_cache_key: echo.prompt_cache_key.as_deref() };
    let beginning = Beginning { key: &key, instructions: instructions.as_deref(), items: &input };
    let beginning = previous.is_none().then_some(beginning);
    let session = identity::resolve(&call.caller, named, beginning, &mut ignored);
    let client_metadata = identity::forwarded(&metadata, &mut ignored);
    call.note_ignored(&ignored);
    let request = TurnRequest {
        trace: call.begin(&response_id, &session),
        response_id,
        request_id: call.request_id.clone(),
        key,
        session,
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
        encrypted_reasoning: echo.encrypted_reasoning,
        prompt_cache_key: echo.prompt_cache_key.clone(),
        client_metadata,
    };
    let created_at = unix_now();
    let id = request.response_id.as_str().to_owned();
    let (answer, model) = answer::start(&edge.bridge, request, format.rule).await?;
    let head = Head { id, created_at, model, echo };
    let mut response = if stream {
        sse::respond(vec![answer], Events::new(head, call), &edge.stream).await?
    } else {
        whole(answer, &head, &call).await?
    };
    ignored.report(&mut response);
    Ok(response)
}

async fn whole(answer: Answer, head: &Head, call: &Call) -> Result<Response, ApiError> {
    let outcome = answer.outcome().await?;
    let output = output::official_items(&outcome.output, head);
    let response = wire::Response::new(head, Progress::ended(outcome.incomplete), &output, outcome.usage);
    Ok(Json(response.with_trace(call.envelope())).into_response())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests;
