//! Messages become items: the roles and parts of one API in the words of the other, one for one.

use serde_json::{Map, Value, json};

use super::fields::FIELDS;
use crate::api::audio::AudioSource;
use crate::api::error::ApiError;
use crate::api::fields;
use crate::api::files::FileSource;
use crate::api::ignored::Ignored;
use crate::api::items::{Draft, Part};
use crate::api::read::{Fields, missing, wrong_type};

const ROLES: &[&str] = &["developer", "system", "user", "assistant", "tool", "function"];

/// What SDKs and frameworks send back with an answer of ours, and nothing upstream takes: no reason for a report.
const SENT_BACK: &[&str] = &["annotations", "parsed", "reasoning_content"];

/// Reads `messages`, oldest first.
pub(super) fn decode(messages: Vec<Value>, ignored: &mut Ignored) -> Result<Draft, ApiError> {
    if messages.is_empty() {
        return Err(empty("messages"));
    }
    let mut reader = Reader { items: Draft::default(), open: Vec::new(), ignored };
    for (index, message) in messages.into_iter().enumerate() {
        reader.message(Fields::of(format!("messages[{index}]"), message)?, index)?;
    }
    reader.finish()
}

struct Reader<'a> {
    items: Draft,
    /// Calls whose output has not come yet.
    open: Vec<OpenCall>,
    ignored: &'a mut Ignored,
}

struct OpenCall {
    id: String,
    /// A deprecated `function_call` has no id; its output names the function.
    legacy_name: Option<String>,
    /// The kind of item that answers it.
    output: &'static str,
    /// How errors name the message that made the call.
    param: String,
}

impl Reader<'_> {
    fn message(&mut self, mut message: Fields, index: usize) -> Result<(), ApiError> {
        let role = message.one_of("role", ROLES)?.ok_or_else(|| missing(message.param("role")))?;
        let name = message.string("name")?;
        match role {
            "assistant" => self.assistant(&mut message, index)?,
            "tool" => {
                let id = message.required_string("tool_call_id")?;
                let place = self.open.iter().position(|call| call.id == id && call.legacy_name.is_none());
                self.output(place, &mut message)?;
            }
            "function" => {
                let wanted = name.as_ref().ok_or_else(|| missing(message.param("name")))?;
                let place = self.open.iter().position(|call| call.legacy_name.as_ref() == Some(wanted));
                self.output(place, &mut message)?;
            }
            _ => {
                let content = message.required("content")?;
                let parts = self.parts(content, &message.param("content"), role)?;
                self.items.message(role, parts);
            }
        }
        // Upstream, messages have no names, and writing one into the text would change what was said. That of an
        // output says which function, as its call does.
        if name.is_some() && !matches!(role, "function" | "tool") {
            self.ignored.add("messages[].name");
        }
        self.ignored.add_rest("messages[]", message);
        Ok(())
    }

    fn assistant(&mut self, message: &mut Fields, index: usize) -> Result<(), ApiError> {
        if message.take("audio").is_some() {
            let text = "Earlier audio answers cannot be referred to here.";
            return Err(ApiError::unsupported(message.param("audio"), text));
        }
        for name in SENT_BACK {
            message.take(name);
        }
        let calls = message.array("tool_calls")?.unwrap_or_default();
        let legacy = message.object("function_call")?;
        let makes_calls = !calls.is_empty() || legacy.is_some();

        // Beside calls, "" is how some clients write that nothing was said.
        let content = message.take("content").filter(|content| !(makes_calls && content == ""));
        let mut parts = match content {
            Some(content) => self.parts(content, &message.param("content"), "assistant")?,
            None => Vec::new(),
        };
        if let Some(refusal) = message.string("refusal")? {
            parts.push(Part::text("assistant", refusal));
        }
        match (parts.is_empty(), makes_calls) {
            (false, _) => self.items.message("assistant", parts),
            (true, true) => {}
            (true, false) => return Err(missing(message.param("content"))),
        }
        for (place, call) in calls.into_iter().enumerate() {
            let param = format!("{}[{place}]", message.param("tool_calls"));
            self.tool_call(Fields::of(param, call)?, message.path())?;
        }
        match legacy {
            Some(call) => self.legacy_call(call, index, message.path()),
            None => Ok(()),
        }
    }

    fn tool_call(&mut self, mut call: Fields, message: &str) -> Result<(), ApiError> {
        let id = call.required_string("id")?;
        let kind = call.one_of("type", &["function", "custom"])?.unwrap_or("function");
        let mut what = call.object(kind)?.ok_or_else(|| missing(call.param(kind)))?;
        let name = what.required_string("name")?;
        let (item, said, output) = match kind {
            "custom" => ("custom_tool_call", "input", "custom_tool_call_output"),
            _ => ("function_call", "arguments", "function_call_output"),
        };
        let text = what.required_string(said)?;
        // Of a streamed call, and of one that an SDK has read.
        call.take("index");
        what.take("parsed_arguments");
        if self.open.iter().any(|open| open.id == id) {
            let message = "Two tool calls share an id, and no output stands between them.";
            return Err(ApiError::invalid(call.param("id"), message).with_code("invalid_value"));
        }
        self.items.item(Map::from_iter([
            ("type".to_owned(), json!(item)),
            ("call_id".to_owned(), json!(id)),
            ("name".to_owned(), json!(name)),
            (said.to_owned(), json!(text)),
        ]));
        self.open.push(OpenCall { id, legacy_name: None, output, param: message.to_owned() });
        self.ignored.add_rest(&format!("messages[].tool_calls[].{kind}"), what);
        self.ignored.add_rest("messages[].tool_calls[]", call);
        Ok(())
    }

    fn legacy_call(&mut self, mut call: Fields, index: usize, message: &str) -> Result<(), ApiError> {
        let name = call.required_string("name")?;
        let arguments = call.required_string("arguments")?;
        let id = format!("call_message_{index}");
        self.items.item(Map::from_iter([
            ("type".to_owned(), json!("function_call")),
            ("call_id".to_owned(), json!(id)),
            ("name".to_owned(), json!(name)),
            ("arguments".to_owned(), json!(arguments)),
        ]));
        let output = "function_call_output";
        self.open.push(OpenCall { id, legacy_name: Some(name), output, param: message.to_owned() });
        self.ignored.add_rest("messages[].function_call", call);
        Ok(())
    }

    /// The app-server drops an output without its call, and says so nowhere.
    fn output(&mut self, place: Option<usize>, message: &mut Fields) -> Result<(), ApiError> {
        let Some(place) = place else {
            let text = "Invalid parameter: messages with role 'tool' or 'function' must be a response to a \
                        preceding message with 'tool_calls' or 'function_call'.";
            return Err(ApiError::invalid(message.path(), text));
        };
        let call = self.open.remove(place);
        let mut item =
            Map::from_iter([("type".to_owned(), json!(call.output)), ("call_id".to_owned(), json!(call.id))]);
        match message.take("content") {
            // A function that returns nothing, in the deprecated form.
            None if call.legacy_name.is_some() => {
                item.insert("output".into(), json!(""));
                self.items.item(item);
            }
            None => return Err(missing(message.param("content"))),
            Some(Value::String(text)) => {
                item.insert("output".into(), text.into());
                self.items.item(item);
            }
            Some(content) => {
                let parts = self.parts(content, &message.param("content"), "tool")?;
                self.items.item_with(item, "output", parts);
            }
        }
        Ok(())
    }

    /// Content as parts; a string is one part.
    fn parts(&mut self, content: Value, param: &str, role: &str) -> Result<Vec<Part>, ApiError> {
        match content {
            Value::String(text) => Ok(vec![Part::text(role, text)]),
            Value::Array(parts) if parts.is_empty() => Err(empty(param)),
            Value::Array(parts) => {
                let part = |(index, part)| self.part(Fields::of(format!("{param}[{index}]"), part)?, role);
                parts.into_iter().enumerate().map(part).collect()
            }
            other => Err(wrong_type(param, "a string or an array", &other)),
        }
    }

    fn part(&mut self, mut part: Fields, role: &str) -> Result<Part, ApiError> {
        let kinds: &[&str] = match role {
            "user" => &["text", "image_url", "input_audio", "file"],
            "assistant" => &["text", "refusal"],
            // Beyond the official API, as some clients have it: what a tool shows is an output like any other.
            "tool" => &["text", "image_url", "file"],
            _ => &["text"],
        };
        let kind = part.one_of("type", kinds)?.ok_or_else(|| missing(part.param("type")))?;
        let read = match kind {
            "text" => Part::text(role, part.required_string("text")?),
            // The app-server refuses `refusal` parts; what the assistant said stays what it said.
            "refusal" => Part::text(role, part.required_string("refusal")?),
            "image_url" => self.image(&mut part)?,
            "file" => {
                let mut file = part.object("file")?.ok_or_else(|| missing(part.param("file")))?;
                let source = FileSource::read(&mut file, false)?;
                self.ignored.add_rest("messages[].content[].file", file);
                Part::file(source)
            }
            _ => {
                let mut audio =
                    part.object("input_audio")?.ok_or_else(|| missing(part.param("input_audio")))?;
                let source = AudioSource::read(&mut audio)?;
                self.ignored.add_rest("messages[].content[].input_audio", audio);
                Part::audio(source)
            }
        };
        if let Some(given) = part.take("prompt_cache_breakpoint") {
            fields::apply(FIELDS, "messages[].content[].prompt_cache_breakpoint", &given, self.ignored)?;
        }
        self.ignored.add_rest("messages[].content[]", part);
        Ok(read)
    }

    fn image(&mut self, part: &mut Fields) -> Result<Part, ApiError> {
        let param = part.param("image_url");
        // The address alone is not official, but common.
        let mut image = match part.required("image_url")? {
            Value::String(url) => return Ok(Part::image(url, None, param)),
            other => Fields::of(param, other)?,
        };
        let url = image.required_string("url")?;
        let detail = image.one_of("detail", &["auto", "low", "high", "original"])?;
        if let Some(detail) = detail {
            fields::apply(FIELDS, "messages[].content[].image_url.detail", &detail.into(), self.ignored)?;
        }
        let part = Part::image(url, detail, image.param("url"));
        self.ignored.add_rest("messages[].content[].image_url", image);
        Ok(part)
    }

    /// A call without its output would be given an invented one.
    fn finish(self) -> Result<Draft, ApiError> {
        let Some(first) = self.open.first() else { return Ok(self.items) };
        let ids: Vec<&str> = self.open.iter().map(|call| call.id.as_str()).collect();
        let message = format!(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
             'tool_call_id'. The following tool_call_ids did not have response messages: {}.",
            ids.join(", ")
        );
        Err(ApiError::invalid(first.param.clone(), message))
    }
}

fn empty(param: &str) -> ApiError {
    let message = format!("Invalid '{param}': empty array. Expected at least one entry.");
    ApiError::invalid(param, message).with_code("empty_array")
}

#[cfg(test)]
mod tests;
