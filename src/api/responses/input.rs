//! `input`: every form of it the SDKs send, output items sent back included, becomes a draft.

use serde_json::{Map, Value};

use super::fields::FIELDS;
use crate::api::audio::AudioSource;
use crate::api::error::ApiError;
use crate::api::fields;
use crate::api::files::FileSource;
use crate::api::ignored::Ignored;
use crate::api::items::{Draft, Part};
use crate::api::read::{Fields, missing, not_one_of, wrong_type};

const ROLES: &[&str] = &["user", "assistant", "system", "developer"];
const DETAILS: &[&str] = &["auto", "low", "high", "original"];
const STATUSES: &[&str] = &["in_progress", "completed", "incomplete"];
const PHASES: &[&str] = &["commentary", "final_answer"];
const KINDS: &[&str] = &[
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "web_search_call",
    "image_generation_call",
    "compaction",
    "item_reference",
];

/// Longest `encrypted_content` of a compaction item, as the official bound.
const MOST_ENCRYPTED: usize = 20_971_520;

/// What official SDKs and frameworks send back with the items of an answer, and what says nothing to a model:
/// an agent's loop is no reason for a report.
const SENT_BACK: &[&str] = &[
    "id",
    "status",
    "caller",
    "created_by",
    "annotations",
    "logprobs",
    "parsed",
    "parsed_arguments",
    "results",
    "sources",
];
/// The same of an image that was made: how it was asked for.
const OF_AN_IMAGE: &[&str] = &["action", "background", "output_format", "quality", "revised_prompt", "size"];

/// Adds everything in `input` to the draft, one item for each of its own.
pub(crate) fn decode(input: Value, draft: &mut Draft, ignored: &mut Ignored) -> Result<(), ApiError> {
    match input {
        Value::String(text) => draft.message("user", vec![Part::text("user", text)]),
        Value::Array(items) => decode_items("input", items, draft, ignored)?,
        other => return Err(wrong_type("input", "a string or an array of items", &other)),
    }
    Ok(())
}

/// The same for a list of items; `param` is how errors name it.
pub(crate) fn decode_items(
    param: &str,
    items: Vec<Value>,
    draft: &mut Draft,
    ignored: &mut Ignored,
) -> Result<(), ApiError> {
    for (index, item) in items.into_iter().enumerate() {
        decode_item(Fields::of(format!("{param}[{index}]"), item)?, draft, ignored)?;
    }
    Ok(())
}

fn decode_item(mut from: Fields, draft: &mut Draft, ignored: &mut Ignored) -> Result<(), ApiError> {
    let kind = match from.string("type")? {
        Some(kind) => kind,
        None if from.has("role") => "message".to_owned(),
        // The one other item whose type may be left out.
        None if from.has("id") => "item_reference".to_owned(),
        None => return Err(missing(from.param("type"))),
    };
    match kind.as_str() {
        "message" => message(&mut from, draft, ignored)?,
        "reasoning" => reasoning(&mut from, draft, ignored)?,
        "function_call" => call(&mut from, &kind, "arguments", draft)?,
        "custom_tool_call" => call(&mut from, &kind, "input", draft)?,
        "function_call_output" | "custom_tool_call_output" => call_output(&mut from, &kind, draft, ignored)?,
        "web_search_call" => web_search_call(&mut from, draft, ignored)?,
        "image_generation_call" => image_generation_call(&mut from, draft)?,
        "compaction" => compaction(&mut from, draft)?,
        "item_reference" => reference(&mut from, draft)?,
        _ => return Err(not_one_of(from.param("type"), KINDS)),
    }
    add_rest("input[]", from, ignored);
    Ok(())
}

/// Reports what nobody took, but for what is sent back as a matter of course.
fn add_rest(path: &str, mut from: Fields, ignored: &mut Ignored) {
    for name in SENT_BACK {
        from.take(name);
    }
    ignored.add_rest(path, from);
}

fn message(from: &mut Fields, draft: &mut Draft, ignored: &mut Ignored) -> Result<(), ApiError> {
    let Some(role) = from.one_of("role", ROLES)? else { return Err(missing(from.param("role"))) };
    let path = from.param("content");
    let content = match from.required("content")? {
        Value::String(text) => vec![Part::text(role, text)],
        Value::Array(parts) => {
            let part =
                |(index, part)| content_part(Fields::of(format!("{path}[{index}]"), part)?, role, ignored);
            parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?
        }
        other => return Err(wrong_type(path, "a string or an array of content parts", &other)),
    };
    let mut item = typed("message", from)?;
    item.insert("role".into(), if role == "system" { "developer" } else { role }.into());
    if let Some(status) = from.one_of("status", STATUSES)? {
        item.insert("status".into(), status.into());
    }
    if let Some(phase) = from.one_of("phase", PHASES)? {
        item.insert("phase".into(), phase.into());
    }
    draft.item_with(item, "content", content);
    Ok(())
}

fn content_part(mut from: Fields, role: &str, ignored: &mut Ignored) -> Result<Part, ApiError> {
    let kind = from.required_string("type")?;
    let part = match kind.as_str() {
        // Whose words they are is the role's to say: all three names are used for all roles.
        "input_text" | "output_text" | "text" => {
            let mut part = Part::text(role, from.required_string("text")?);
            if role == "assistant" {
                for name in ["annotations", "logprobs"] {
                    if let Some(entries) = from.array(name)? {
                        part = part.with(name, Value::Array(entries));
                    }
                }
            }
            part
        }
        // The app-server has no refusals: what was said is kept as text.
        "refusal" if role == "assistant" => Part::text(role, from.required_string("refusal")?),
        "input_image" if role != "assistant" => image(&mut from, ignored)?,
        "input_file" if role != "assistant" => {
            detail(&mut from, &["auto", "low", "high"], ignored)?;
            Part::file(FileSource::read(&mut from, true)?)
        }
        "input_audio" if role == "user" => {
            let mut audio = from.object("input_audio")?.ok_or_else(|| missing(from.param("input_audio")))?;
            let source = AudioSource::read(&mut audio)?;
            ignored.add_rest("input[].content[].input_audio", audio);
            Part::audio(source)
        }
        _ => return Err(not_one_of(from.param("type"), kinds(role))),
    };
    let path = if role == "tool" { "input[].output[]" } else { "input[].content[]" };
    if let Some(given) = from.take("prompt_cache_breakpoint") {
        fields::apply(FIELDS, &format!("{path}.prompt_cache_breakpoint"), &given, ignored)?;
    }
    add_rest(path, from, ignored);
    Ok(part)
}

fn kinds(role: &str) -> &'static [&'static str] {
    match role {
        "assistant" => &["output_text", "refusal"],
        "user" => &["input_text", "input_image", "input_file", "input_audio"],
        _ => &["input_text", "input_image", "input_file"],
    }
}

fn image(from: &mut Fields, ignored: &mut Ignored) -> Result<Part, ApiError> {
    if from.has("file_id") {
        let message = "Images by file id are not supported: send a `data:` or `https:` address.";
        return Err(ApiError::invalid(from.param("file_id"), message).with_code("unsupported_value"));
    }
    let detail = detail(from, DETAILS, ignored)?;
    let param = from.param("image_url");
    Ok(Part::image(from.required_string("image_url")?, detail, param))
}

/// The app-server sets an image's detail itself, and files are their text.
fn detail(
    from: &mut Fields,
    allowed: &'static [&'static str],
    ignored: &mut Ignored,
) -> Result<Option<&'static str>, ApiError> {
    let detail = from.one_of("detail", allowed)?;
    if let Some(detail) = detail {
        fields::apply(FIELDS, "input[].content[].detail", &detail.into(), ignored)?;
    }
    Ok(detail)
}

fn reasoning(from: &mut Fields, draft: &mut Draft, ignored: &mut Ignored) -> Result<(), ApiError> {
    let mut item = typed("reasoning", from)?;
    let summary = texts(from, "summary", "summary_text", ignored)?;
    item.insert("summary".into(), summary.unwrap_or_default().into());
    if let Some(content) = texts(from, "content", "reasoning_text", ignored)? {
        item.insert("content".into(), content.into());
    }
    let encrypted = from.string("encrypted_content")?;
    item.insert("encrypted_content".into(), encrypted.map_or(Value::Null, Value::String));
    draft.item(item);
    Ok(())
}

/// The parts of a field that are of one type, written `{"type": kind, "text": …}`.
fn texts(
    from: &mut Fields,
    name: &str,
    kind: &'static str,
    ignored: &mut Ignored,
) -> Result<Option<Vec<Value>>, ApiError> {
    let path = from.param(name);
    let Some(parts) = from.array(name)? else { return Ok(None) };
    let part = |(index, part)| {
        let mut from = Fields::of(format!("{path}[{index}]"), part)?;
        let named = from.string("type")?;
        if named.is_some_and(|named| named != kind && named != "text") {
            return Err(not_one_of(from.param("type"), &[kind]));
        }
        let mut fields = Map::new();
        fields.insert("type".into(), kind.into());
        fields.insert("text".into(), from.required_string("text")?.into());
        add_rest(&format!("input[].{name}[]"), from, ignored);
        Ok(Value::Object(fields))
    };
    parts.into_iter().enumerate().map(part).collect::<Result<_, _>>().map(Some)
}

fn call(from: &mut Fields, kind: &str, payload: &str, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed(kind, from)?;
    item.insert("call_id".into(), call_id(from)?.into());
    item.insert("name".into(), from.required_string("name")?.into());
    if let Some(namespace) = from.string("namespace")? {
        item.insert("namespace".into(), namespace.into());
    }
    item.insert(payload.into(), from.required_string(payload)?.into());
    if let Some(status) = from.one_of("status", STATUSES)? {
        item.insert("status".into(), status.into());
    }
    draft.item(item);
    Ok(())
}

fn call_output(
    from: &mut Fields,
    kind: &str,
    draft: &mut Draft,
    ignored: &mut Ignored,
) -> Result<(), ApiError> {
    let mut item = typed(kind, from)?;
    item.insert("call_id".into(), call_id(from)?.into());
    // Which tool it was, the call says.
    for name in ["name", "namespace"] {
        from.take(name);
    }
    let path = from.param("output");
    match from.required("output")? {
        Value::String(text) => {
            item.insert("output".into(), text.into());
            draft.item(item);
        }
        Value::Array(parts) => {
            // A tool's output is input to the model, whoever wrote it.
            let part =
                |(index, part)| content_part(Fields::of(format!("{path}[{index}]"), part)?, "tool", ignored);
            let parts = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
            draft.item_with(item, "output", parts);
        }
        other => return Err(wrong_type(path, "a string or an array of content parts", &other)),
    }
    Ok(())
}

fn call_id(from: &mut Fields) -> Result<String, ApiError> {
    let call_id = from.required_string("call_id")?;
    if call_id.is_empty() {
        let message = "Invalid 'call_id': empty string. Expected a string with minimum length 1.";
        return Err(ApiError::invalid(from.param("call_id"), message).with_code("string_below_min_length"));
    }
    Ok(call_id)
}

fn web_search_call(from: &mut Fields, draft: &mut Draft, ignored: &mut Ignored) -> Result<(), ApiError> {
    let mut item = typed("web_search_call", from)?;
    if let Some(status) = from.one_of("status", &["in_progress", "searching", "completed", "failed"])? {
        item.insert("status".into(), status.into());
    }
    if let Some(mut action) = from.object("action")? {
        let kind = action.required_string("type")?;
        // What a search found (`sources`) is for clients; the model is told what was done.
        let (kind, kept): (&str, &[&str]) = match kind.as_str() {
            "search" => ("search", &["query", "queries"]),
            "open_page" => ("open_page", &["url"]),
            "find_in_page" | "find" => ("find_in_page", &["url", "pattern"]),
            _ => return Err(not_one_of(action.param("type"), &["search", "open_page", "find_in_page"])),
        };
        let mut fields = Map::new();
        fields.insert("type".into(), kind.into());
        for name in kept {
            let value = match *name {
                "queries" => action.array(name)?.map(Value::Array),
                _ => action.string(name)?.map(Value::String),
            };
            if let Some(value) = value {
                fields.insert((*name).into(), value);
            }
        }
        add_rest("input[].action", action, ignored);
        item.insert("action".into(), fields.into());
    }
    draft.item(item);
    Ok(())
}

fn image_generation_call(from: &mut Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed("image_generation_call", from)?;
    for name in OF_AN_IMAGE {
        from.take(name);
    }
    let status = from.string("status")?.unwrap_or_else(|| "completed".into());
    item.insert("status".into(), status.into());
    item.insert("result".into(), from.required_string("result")?.into());
    draft.item(item);
    Ok(())
}

fn compaction(from: &mut Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed("compaction", from)?;
    let content = from.required_string("encrypted_content")?;
    if content.len() > MOST_ENCRYPTED {
        let message =
            format!("Invalid 'encrypted_content': expected a string of at most {MOST_ENCRYPTED} characters.");
        let error = ApiError::invalid(from.param("encrypted_content"), message);
        return Err(error.with_code("string_above_max_length"));
    }
    item.insert("encrypted_content".into(), content.into());
    draft.item(item);
    Ok(())
}

/// The bridge knows the item, if it was part of an answer.
fn reference(from: &mut Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = Map::new();
    item.insert("type".into(), "item_reference".into());
    item.insert("id".into(), from.required_string("id")?.into());
    draft.item(item);
    Ok(())
}

/// The head of an item: its type, and its id where it has one.
fn typed(kind: &str, from: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let mut item = Map::new();
    item.insert("type".into(), kind.into());
    if let Some(id) = from.string("id")? {
        item.insert("id".into(), id.into());
    }
    Ok(item)
}

#[cfg(test)]
mod tests;
