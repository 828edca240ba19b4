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
use super::items::check_images;
use super::observe::Call;
use super::tools::check_web_search;
use super::{answer, effort, sse};
use crate::model::{ResponseId, TurnRequest};

/// Answers with the response, or its events. A client that leaves drops this future, or the stream's body,
/// and with it the turn.
pub(crate) async fn create(
    State(edge): State<Edge>,
    call: Call,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let Decoded { model, input, previous, service_tier, format, tools, retention, stream, echo, ignored } =
        decode(body, edge.requests)?;
    let Echo { instructions, metadata, reasoning, text, .. } = echo.clone();
    effort::check(&edge.bridge, model.as_deref(), reasoning.effort.as_deref(), "reasoning.effort").await?;
    check_web_search(&edge.bridge, model.as_deref(), &tools, "tools").await?;
    let first_image = input.first_image();
    let input = input.finish(&edge.images).await?;
    check_images(&edge.bridge, model.as_deref(), first_image).await?;
    let request = TurnRequest {
        response_id: ResponseId::generate(),
        request_id: call.request_id.clone(),
        key: call.key(),
        model,
        instructions,
        input,
        previous,
        effort: reasoning.effort,
        summary: reasoning.summary.map(str::to_owned),
        verbosity: text.verbosity.map(str::to_owned),
        service_tier,
        output_schema: format.output_schema,
        tools: tools.functions,
        tool_choice: tools.choice,
        parallel_tool_calls: tools.parallel,
        web_search: tools.web_search,
        max_output_tokens: echo.max_output_tokens,
        stop: Vec::new(),
        retention,
        client_metadata: metadata,
    };
    let created_at = unix_now();
    call.note_response(&request.response_id);
    let id = request.response_id.as_str().to_owned();
    let (answer, model) = answer::start(&edge.bridge, request, format.rule).await?;
    let head = Head { id, created_at, model, echo };
    let mut response = if stream {
        sse::respond(vec![answer], Events::new(head, call), &edge.stream).await?
    } else {
        whole(answer, &head).await?
    };
    ignored.report(&mut response);
    Ok(response)
}

async fn whole(answer: Answer, head: &Head) -> Result<Response, ApiError> {
    let outcome = answer.outcome().await?;
    let output = output::official_items(&outcome.output, head);
    Ok(Json(wire::Response::new(head, Progress::ended(outcome.incomplete), &output, outcome.usage))
        .into_response())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests;
