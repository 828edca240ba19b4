//! The request's body becomes what a turn needs.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::FIELDS;
use super::messages;
use crate::api::error::ApiError;
use crate::api::fields::apply_rest;
use crate::api::format::{Format, Nesting};
use crate::api::ignored::Ignored;
use crate::api::items::Draft;
use crate::api::read::{self, Fields, missing, wrong_type};
use crate::api::tier::Tier;
use crate::api::tools::{self, Dialect, Tools};
use crate::config::RequestsConfig;
use crate::model::ToolChoice;

/// Choices of one request, as the official range has it.
pub(super) const MAX_CHOICES: i64 = 128;
/// Stop sequences of one request, as the official bound.
const MAX_STOPS: usize = 4;

pub(super) const TIERS: &[&str] = &["auto", "default", "flex", "scale", "priority", "fast"];

/// A request, read and checked; its images are still where the client left them.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) messages: Draft,
    pub(super) settings: Settings,
    /// Choices; at least 1.
    pub(super) n: usize,
    pub(super) stream: bool,
    /// The messages as they came, with `store: true`.
    pub(super) to_keep: Option<Vec<Value>>,
    pub(super) ignored: Ignored,
}

/// Everything but the conversation.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) model: Option<String>,
    pub(super) effort: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) verbosity: Option<&'static str>,
    pub(super) tier: Tier,
    pub(super) format: Format,
    pub(super) tools: Tools,
    /// Calls are answered in the deprecated form.
    pub(super) deprecated_functions: bool,
    pub(super) max_tokens: Option<u64>,
    pub(super) stop: Vec<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) prompt_cache_key: Option<String>,
    /// A last chunk with the usage is wanted.
    pub(super) include_usage: bool,
}

impl Settings {
    /// Whether reasoning summaries are shown: only to those who asked for one.
    pub(super) fn shows_reasoning(&self) -> bool {
        self.summary.is_some()
    }
}

/// Reads a request's body. Fields that only have a policy are left to the table.
pub(super) fn decode(body: Map<String, Value>, config: RequestsConfig) -> Result<Decoded, ApiError> {
    let mut body = Fields::new("", body);
    let mut ignored = Ignored::default();

    let messages = body.array("messages")?.ok_or_else(|| missing("messages"))?;
    let store = body.boolean("store")?.unwrap_or(false);
    let to_keep = store.then(|| messages.clone());
    let messages = messages::decode(messages, &mut ignored)?;
    let stream = body.boolean("stream")?.unwrap_or(false);
    let n = match body.take("n") {
        Some(n) => usize::try_from(read::integer("n", &n, 1, MAX_CHOICES)?).unwrap_or(1),
        None => 1,
    };
    let (tools, deprecated_functions) = take_tools(&mut body, config, &mut ignored)?;
    let mut settings = Settings {
        model: body.string("model")?.filter(|model| !model.is_empty()),
        verbosity: body.one_of("verbosity", &["low", "medium", "high"])?,
        format: take_response_format(&mut body, &mut ignored)?,
        tools,
        deprecated_functions,
        max_tokens: take_limit(&mut body)?,
        stop: take_stop(&mut body)?,
        metadata: read::metadata(&mut body)?,
        prompt_cache_key: body.string("prompt_cache_key")?,
        include_usage: take_stream_options(&mut body, stream, &mut ignored)?,
        ..Settings::default()
    };
    take_reasoning(&mut body, &mut settings, &mut ignored)?;
    settings.tier = Tier::read(&mut body, TIERS, &mut ignored)?;
    check_modalities(&mut body)?;
    apply_rest(FIELDS, body, &mut ignored)?;
    ignored.refuse_if(config.strict_params)?;
    Ok(Decoded { messages, settings, n, stream, to_keep, ignored })
}

pub(super) fn take_stream_options(
    body: &mut Fields,
    stream: bool,
    ignored: &mut Ignored,
) -> Result<bool, ApiError> {
    let Some(mut options) = body.object("stream_options")? else { return Ok(false) };
    if !stream {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(ApiError::invalid("stream_options", message));
    }
    let usage = options.boolean("include_usage")?.unwrap_or(false);
    apply_rest(FIELDS, options, ignored)?;
    Ok(usage)
}

/// `reasoning` is the Responses API's; here it is how summaries are asked for.
fn take_reasoning(body: &mut Fields, settings: &mut Settings, ignored: &mut Ignored) -> Result<(), ApiError> {
    settings.effort = body.string("reasoning_effort")?;
    let Some(mut reasoning) = body.object("reasoning")? else { return Ok(()) };
    if let Some(effort) = reasoning.string("effort")? {
        if settings.effort.as_ref().is_some_and(|first| *first != effort) {
            let message = "'reasoning_effort' and 'reasoning.effort' differ. Send one of them.";
            return Err(ApiError::invalid("reasoning.effort", message).with_code("invalid_value"));
        }
        settings.effort = Some(effort);
    }
    let summary = reasoning.one_of("summary", &["auto", "concise", "detailed", "none"])?;
    settings.summary = summary.filter(|word| *word != "none").map(str::to_owned);
    apply_rest(FIELDS, reasoning, ignored)
}

fn take_response_format(body: &mut Fields, ignored: &mut Ignored) -> Result<Format, ApiError> {
    match body.object("response_format")? {
        Some(format) => Format::read(format, Nesting::JsonSchema, FIELDS, ignored),
        None => Ok(Format::default()),
    }
}

/// The deprecated `functions` are read as tools; what is wrong with them is said in their own words.
fn take_tools(
    body: &mut Fields,
    config: RequestsConfig,
    ignored: &mut Ignored,
) -> Result<(Tools, bool), ApiError> {
    let deprecated = tools::modernise(body)?;
    let mut tools =
        Tools::read(body, Dialect::Chat, config.unknown_tools, ignored).map_err(|mut error| {
            if let Some(param) = error.param.as_mut().filter(|_| deprecated) {
                *param = param
                    .replace("tools[", "functions[")
                    .replace("].function", "]")
                    .replace("tool_choice.function", "function_call")
                    .replace("tool_choice", "function_call");
            }
            error
        })?;
    // The deprecated form has room for one call.
    tools.parallel &= !deprecated;
    if let Some(mut options) = body.object("web_search_options")? {
        let search = tools::search_options(&mut options, ignored)?;
        apply_rest(FIELDS, options, ignored)?;
        tools.web_search = (tools.choice != ToolChoice::None).then_some(search);
    }
    Ok((tools, deprecated))
}

fn take_limit(body: &mut Fields) -> Result<Option<u64>, ApiError> {
    let limit = read::token_limit(body, "max_completion_tokens", 1)?;
    let older = read::token_limit(body, "max_tokens", 1)?;
    if limit.is_some() && older.is_some() && limit != older {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(ApiError::invalid("max_tokens", message).with_code("invalid_parameter_combination"));
    }
    Ok(limit.or(older))
}

pub(super) fn take_stop(body: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stops = match body.take("stop") {
        None => return Ok(Vec::new()),
        Some(stop @ Value::String(_)) => vec![stop],
        Some(Value::Array(stops)) => stops,
        Some(other) => return Err(wrong_type("stop", "a string or an array", &other)),
    };
    if stops.len() > MAX_STOPS {
        let message = format!("Invalid 'stop': expected at most {MAX_STOPS} sequences.");
        return Err(ApiError::invalid("stop", message).with_code("array_above_max_length"));
    }
    let text = |(index, stop): (usize, Value)| match stop {
        Value::String(stop) => Ok(stop),
        other => Err(wrong_type(format!("stop[{index}]"), "a string", &other)),
    };
    stops.into_iter().enumerate().map(text).collect()
}

/// Text is the only thing that comes out.
fn check_modalities(body: &mut Fields) -> Result<(), ApiError> {
    for modality in body.array("modalities")?.unwrap_or_default() {
        match modality.as_str() {
            Some("text") => {}
            Some("audio") => {
                let message = "Audio output is not supported by this endpoint.";
                return Err(ApiError::unsupported("modalities", message));
            }
            Some(_) => return Err(crate::api::read::not_one_of("modalities", &["text", "audio"])),
            None => return Err(wrong_type("modalities", "strings", &modality)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
