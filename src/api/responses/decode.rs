//! The request's body becomes a turn request's parts, and what its answer repeats of it.

use serde_json::{Map, Value};

use super::fields::FIELDS;
use super::input;
use super::wire::{Echo, ReasoningEcho, TextEcho};
use crate::api::error::ApiError;
use crate::api::fields::apply_rest;
use crate::api::format::{Format, Nesting};
use crate::api::ignored::Ignored;
use crate::api::items::{Draft, Unpaired};
use crate::api::read::{self, Fields, not_one_of, wrong_type};
use crate::api::tier::Tier;
use crate::api::tools::{Dialect, Tools};
use crate::config::RequestsConfig;
use crate::model::{ResponseId, Retention};

/// Least `max_output_tokens`, as the official bound.
pub(super) const LEAST_TOKENS: i64 = 16;

pub(super) const TIERS: &[&str] = &["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"];
pub(super) const SUMMARIES: &[&str] = &["auto", "concise", "detailed"];
pub(super) const VERBOSITIES: &[&str] = &["low", "medium", "high"];
pub(crate) const INCLUDES: &[&str] = &[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    ENCRYPTED_REASONING,
    LOGPROBS,
    TRACE,
];
pub(super) const ENCRYPTED_REASONING: &str = "reasoning.encrypted_content";
const LOGPROBS: &str = "message.output_text.logprobs";
/// Ours.
const TRACE: &str = "bridge.trace";

/// A request, read and checked; images are still where the client left them.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) model: Option<String>,
    pub(crate) input: Draft,
    pub(crate) previous: Option<ResponseId>,
    pub(crate) conversation: Option<String>,
    /// For the backend; `None` for its default.
    pub(crate) service_tier: Option<String>,
    pub(crate) format: Format,
    pub(crate) tools: Tools,
    pub(crate) retention: Retention,
    pub(crate) stream: bool,
    /// Of a socket: whether there is to be an answer, rather than only what it is made from.
    pub(crate) generate: bool,
    /// The trace is asked for.
    pub(crate) wants_trace: bool,
    /// What the answer repeats; its own copy is the one the turn request is made from.
    pub(crate) echo: Echo,
    pub(crate) ignored: Ignored,
}

/// Reads a request's body. Fields that only have a policy are left to the table.
pub(crate) fn decode(body: Map<String, Value>, config: RequestsConfig) -> Result<Decoded, ApiError> {
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();

    let model = body.string("model")?.filter(|model| !model.is_empty());
    let previous = body.string("previous_response_id")?.map(ResponseId::new);
    let conversation = take_conversation(&mut body, &mut ignored)?;
    if previous.is_some() && conversation.is_some() {
        let message = "Mutually exclusive parameters: Ensure you are only providing one of: \
                       'previous_response_id' or 'conversation'.";
        return Err(
            ApiError::invalid("previous_response_id", message).with_code("mutually_exclusive_parameters")
        );
    }
    let generate = body.boolean("generate")?.unwrap_or(true);
    if !generate && conversation.is_some() {
        let message = "A response that is not generated adds nothing to a conversation.";
        return Err(ApiError::invalid("conversation", message).with_code("invalid_parameter_combination"));
    }
    let history = previous.is_some() || conversation.is_some();
    // What is only prepared may be the tools and the instructions alone.
    let wants_input = generate && !history;
    let input = take_input(&mut body, wants_input, history, &mut ignored)?;
    if conversation.is_some() {
        input.check_no_references("input")?;
    }
    let stream = body.boolean("stream")?.unwrap_or(false);
    if let Some(options) = body.object("stream_options")? {
        apply_rest(FIELDS, options, &mut ignored)?;
    }
    let store = body.boolean("store")?.unwrap_or(true);
    let background = body.boolean("background")?.unwrap_or(false);
    if background && !store {
        let message = "Background mode requires 'store' to be true.";
        return Err(ApiError::invalid("background", message).with_code("invalid_parameter_combination"));
    }
    let (format, text) = take_text(&mut body, &mut ignored)?;
    let tools = Tools::read(&mut body, Dialect::Responses, config.unknown_tools, &mut ignored)?;
    let max_output_tokens = read::token_limit(&mut body, "max_output_tokens", LEAST_TOKENS)?;
    let tier = Tier::read(&mut body, TIERS, &mut ignored)?;
    let include = take_include(&mut body)?;
    let echo = Echo {
        instructions: body.string("instructions")?,
        metadata: read::metadata(&mut body)?,
        previous_response_id: previous.as_ref().map(ToString::to_string),
        conversation: conversation.clone(),
        reasoning: take_reasoning(&mut body, &mut ignored)?,
        text,
        service_tier: tier.shown.unwrap_or("default"),
        store,
        background,
        streamed: background && stream,
        encrypted_reasoning: include.encrypted_reasoning,
        max_output_tokens,
        tools: tools.echo.clone(),
        tool_choice: tools.choice_echo.clone(),
        parallel_tool_calls: tools.parallel,
        user: body.peek("user").map(str::to_owned),
        safety_identifier: body.peek("safety_identifier").map(str::to_owned),
        prompt_cache_key: body.string("prompt_cache_key")?,
    };
    apply_rest(FIELDS, body, &mut ignored)?;
    ignored.refuse_if(config.strict_params)?;
    Ok(Decoded {
        model,
        input,
        previous,
        conversation,
        service_tier: tier.sent.map(str::to_owned),
        format,
        tools,
        retention: if store { Retention::Stored } else { Retention::Continuable },
        stream,
        generate,
        wants_trace: include.trace,
        echo,
        ignored,
    })
}

/// An id, or an object that has it.
fn take_conversation(body: &mut Fields, ignored: &mut Ignored) -> Result<Option<String>, ApiError> {
    match body.take("conversation") {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(Value::Object(fields)) => {
            let mut fields = Fields::new("conversation", fields);
            let id = fields.required_string("id")?;
            apply_rest(FIELDS, fields, ignored)?;
            Ok(Some(id))
        }
        Some(other) => Err(wrong_type("conversation", "a string or an object", &other)),
    }
}

fn take_input(
    body: &mut Fields,
    wanted: bool,
    history: bool,
    ignored: &mut Ignored,
) -> Result<Draft, ApiError> {
    let mut draft = Draft::default();
    if let Some(input) = body.take("input") {
        input::decode(input, &mut draft, ignored)?;
    } else if wanted {
        let message = "One of 'input' or 'previous_response_id' must be provided.";
        return Err(ApiError::invalid("input", message).with_code("missing_required_parameter"));
    }
    if draft.is_empty() && wanted {
        let message = "Invalid 'input': empty array. Expected at least one item.";
        return Err(ApiError::invalid("input", message).with_code("empty_array"));
    }
    match draft.unpaired(history) {
        None => Ok(draft),
        Some(Unpaired::Call { index, call_id }) => Err(ApiError::invalid(
            format!("input[{index}]"),
            format!("No tool output found for function call {call_id}."),
        )),
        Some(Unpaired::Output { index, call_id }) => Err(ApiError::invalid(
            format!("input[{index}]"),
            format!("No tool call found for function call output with call_id {call_id}."),
        )),
    }
}

fn take_reasoning(body: &mut Fields, ignored: &mut Ignored) -> Result<ReasoningEcho, ApiError> {
    let Some(mut reasoning) = body.object("reasoning")? else { return Ok(ReasoningEcho::default()) };
    let effort = reasoning.string("effort")?;
    let summary = reasoning.one_of("summary", SUMMARIES)?;
    let older = reasoning.one_of("generate_summary", SUMMARIES)?;
    apply_rest(FIELDS, reasoning, ignored)?;
    Ok(ReasoningEcho { effort, summary: summary.or(older) })
}

fn take_text(body: &mut Fields, ignored: &mut Ignored) -> Result<(Format, TextEcho), ApiError> {
    let Some(mut text) = body.object("text")? else { return Ok((Format::default(), TextEcho::default())) };
    let verbosity = text.one_of("verbosity", VERBOSITIES)?;
    let format = match text.object("format")? {
        Some(format) => Format::read(format, Nesting::Flat, FIELDS, ignored)?,
        None => Format::default(),
    };
    apply_rest(FIELDS, text, ignored)?;
    let echo = TextEcho { format: format.echo.clone(), verbosity };
    Ok((format, echo))
}

/// What an answer is to have beside its usual fields.
#[derive(Default)]
struct Include {
    encrypted_reasoning: bool,
    trace: bool,
}

fn take_include(body: &mut Fields) -> Result<Include, ApiError> {
    let mut include = Include::default();
    for (index, entry) in body.array("include")?.unwrap_or_default().into_iter().enumerate() {
        let param = format!("include[{index}]");
        match entry.as_str() {
            None => return Err(wrong_type(param, "a string", &entry)),
            Some(LOGPROBS) => {
                let message = "Unsupported value: log probabilities are not available here.";
                return Err(ApiError::unsupported(param, message));
            }
            // The others are about tools, or about input that nobody reads back: nothing to leave out.
            Some(known) if INCLUDES.contains(&known) => {
                include.encrypted_reasoning |= known == ENCRYPTED_REASONING;
                include.trace |= known == TRACE;
            }
            Some(_) => return Err(not_one_of(param, INCLUDES)),
        }
    }
    Ok(include)
}

#[cfg(test)]
mod tests;
