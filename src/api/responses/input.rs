//! `input`: every form of it the SDKs send, output items sent back included, becomes a draft.

use serde_json::{Map, Value};

use crate::api::error::ApiError;
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
];

/// Adds everything in `input` to the draft, one item for each of its own.
pub(crate) fn decode(input: Value, draft: &mut Draft) -> Result<(), ApiError> {
    match input {
        Value::String(text) => draft.message("user", vec![Part::text("user", text)]),
        Value::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                decode_item(Fields::of(format!("input[{index}]"), item)?, draft)?;
            }
        }
        other => return Err(wrong_type("input", "a string or an array of items", &other)),
    }
    Ok(())
}

fn decode_item(mut from: Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let kind = match from.string("type")? {
        Some(kind) => kind,
        None if from.has("role") => "message".to_owned(),
        // The one other item whose type may be left out.
        None if from.has("id") => "item_reference".to_owned(),
        None => return Err(missing(from.param("type"))),
    };
    match kind.as_str() {
        "message" => message(from, draft),
        "reasoning" => reasoning(from, draft),
        "function_call" => call(from, &kind, "arguments", draft),
        "custom_tool_call" => call(from, &kind, "input", draft),
        "function_call_output" | "custom_tool_call_output" => call_output(from, &kind, draft),
        "web_search_call" => web_search_call(from, draft),
        "image_generation_call" => image_generation_call(from, draft),
        "compaction" => compaction(from, draft),
        "item_reference" => Err(ApiError::invalid(
            from.path(),
            "Items cannot be given by reference: send the item itself, or `previous_response_id`.",
        )
        .with_code("unsupported_value")),
        _ => Err(not_one_of(from.param("type"), KINDS)),
    }
}

fn message(mut from: Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let Some(role) = from.one_of("role", ROLES)? else { return Err(missing(from.param("role"))) };
    let path = from.param("content");
    let content = match from.required("content")? {
        Value::String(text) => vec![Part::text(role, text)],
        Value::Array(parts) => {
            let part = |(index, part)| content_part(Fields::of(format!("{path}[{index}]"), part)?, role);
            parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?
        }
        other => return Err(wrong_type(path, "a string or an array of content parts", &other)),
    };
    let mut item = typed("message", &mut from)?;
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

fn content_part(mut from: Fields, role: &str) -> Result<Part, ApiError> {
    let kind = from.required_string("type")?;
    match kind.as_str() {
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
            Ok(part)
        }
        // The app-server has no refusals: what was said is kept as text.
        "refusal" if role == "assistant" => Ok(Part::text(role, from.required_string("refusal")?)),
        "input_image" if role != "assistant" => image(from),
        "input_file" => Err(unsupported_part(&from, "Files are not supported: send their text.")),
        "input_audio" => Err(unsupported_part(&from, "Audio input is not supported.")),
        _ if role == "assistant" => Err(not_one_of(from.param("type"), &["output_text", "refusal"])),
        _ => Err(not_one_of(from.param("type"), &["input_text", "input_image"])),
    }
}

fn image(mut from: Fields) -> Result<Part, ApiError> {
    if from.has("file_id") {
        let message = "Images by file id are not supported: send a `data:` or `https:` address.";
        return Err(ApiError::invalid(from.param("file_id"), message).with_code("unsupported_value"));
    }
    let detail = from.one_of("detail", DETAILS)?;
    let param = from.param("image_url");
    Ok(Part::image(from.required_string("image_url")?, detail, param))
}

fn unsupported_part(part: &Fields, message: &str) -> ApiError {
    ApiError::invalid(part.path(), message).with_code("unsupported_value")
}

fn reasoning(mut from: Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed("reasoning", &mut from)?;
    let summary = from.array("summary")?.unwrap_or_default();
    item.insert("summary".into(), texts(summary, "summary_text", &from.param("summary"))?);
    if let Some(content) = from.array("content")? {
        item.insert("content".into(), texts(content, "reasoning_text", &from.param("content"))?);
    }
    let encrypted = from.string("encrypted_content")?;
    item.insert("encrypted_content".into(), encrypted.map_or(Value::Null, Value::String));
    draft.item(item);
    Ok(())
}

/// Parts of one type, written `{"type": kind, "text": …}`.
fn texts(parts: Vec<Value>, kind: &'static str, path: &str) -> Result<Value, ApiError> {
    let part = |(index, part)| {
        let mut from = Fields::of(format!("{path}[{index}]"), part)?;
        let named = from.string("type")?;
        if named.is_some_and(|named| named != kind && named != "text") {
            return Err(not_one_of(from.param("type"), &[kind]));
        }
        let mut fields = Map::new();
        fields.insert("type".into(), kind.into());
        fields.insert("text".into(), from.required_string("text")?.into());
        Ok(Value::Object(fields))
    };
    parts.into_iter().enumerate().map(part).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn call(mut from: Fields, kind: &str, payload: &str, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed(kind, &mut from)?;
    item.insert("call_id".into(), call_id(&mut from)?.into());
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

fn call_output(mut from: Fields, kind: &str, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed(kind, &mut from)?;
    item.insert("call_id".into(), call_id(&mut from)?.into());
    let path = from.param("output");
    match from.required("output")? {
        Value::String(text) => {
            item.insert("output".into(), text.into());
            draft.item(item);
        }
        Value::Array(parts) => {
            // A tool's output is input to the model, whoever wrote it.
            let part = |(index, part)| content_part(Fields::of(format!("{path}[{index}]"), part)?, "tool");
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

fn web_search_call(mut from: Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed("web_search_call", &mut from)?;
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
        item.insert("action".into(), fields.into());
    }
    draft.item(item);
    Ok(())
}

fn image_generation_call(mut from: Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed("image_generation_call", &mut from)?;
    let status = from.string("status")?.unwrap_or_else(|| "completed".into());
    item.insert("status".into(), status.into());
    item.insert("result".into(), from.required_string("result")?.into());
    draft.item(item);
    Ok(())
}

fn compaction(mut from: Fields, draft: &mut Draft) -> Result<(), ApiError> {
    let mut item = typed("compaction", &mut from)?;
    item.insert("encrypted_content".into(), from.required_string("encrypted_content")?.into());
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
