//! The answer in one piece, and how output items read as a message.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::Plan;
use super::decode::Settings;
use super::usage::{CompletionUsage, Totals};
use crate::api::observe::Envelope;
use crate::model::{IncompleteReason, Item, Outcome};

/// Between two messages, or two parts of a reasoning summary, of one answer.
pub(super) const BREAK: &str = "\n\n";

/// The official `chat.completion`.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<CompletionUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    /// Ours, only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<Envelope>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    /// Ours, only where a summary was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    refusal: Option<String>,
    annotations: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    /// The deprecated form of the one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Function>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ToolCall {
    id: String,
    #[serde(flatten)]
    call: Called,
}

/// What was called, under the name of its type.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Called {
    Function { function: Function },
    Custom { custom: Custom },
}

#[derive(Debug, JsonSchema, Serialize)]
struct Custom {
    name: String,
    input: String,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

impl<'a> Completion<'a> {
    /// One choice an outcome, in order; there is at least one.
    pub(super) fn new(plan: &'a Plan, outcomes: &'a [Outcome]) -> Self {
        let mut totals = Totals::default();
        for outcome in outcomes {
            totals.add(outcome.usage);
        }
        let choice = |(index, outcome): (usize, &Outcome)| Choice {
            index,
            message: Message::new(&outcome.output, &plan.settings),
            logprobs: None,
            finish_reason: finish_reason(outcome, plan.settings.deprecated_functions),
        };
        Self {
            id: &plan.id,
            object: "chat.completion",
            created: plan.created,
            model: outcomes.first().map_or("", |outcome| &outcome.model),
            choices: outcomes.iter().enumerate().map(choice).collect(),
            usage: totals.get(),
            service_tier: plan.settings.tier.shown,
            bridge: plan.call.envelope(),
        }
    }

    /// As it is kept: the trace is its first caller's.
    pub(super) fn without_trace(self) -> Self {
        Self { bridge: None, ..self }
    }
}

impl Message {
    fn new(output: &[Item], settings: &Settings) -> Self {
        let content = join(output.iter().map(text));
        let refusal = join(output.iter().map(refusal));
        let calls: Vec<ToolCall> = calls(output).map(ToolCall::new).collect();
        // A refusal and a call stand alone; an empty answer is an empty one, not none.
        let empty = refusal.is_none() && calls.is_empty();
        let reasoning = || join(output.iter().map(summary));
        let (tool_calls, function_call) = if settings.deprecated_functions {
            (Vec::new(), calls.into_iter().next().and_then(ToolCall::into_function))
        } else {
            (calls, None)
        };
        Self {
            role: "assistant",
            content: content.or_else(|| empty.then(String::new)),
            reasoning_content: if settings.shows_reasoning() { reasoning() } else { None },
            refusal,
            annotations: annotations(output),
            tool_calls,
            function_call,
        }
    }
}

impl ToolCall {
    fn new(item: &Item) -> Self {
        let said = |field| item.str(field).unwrap_or_default().to_owned();
        let name = said("name");
        let call = if item.kind() == "custom_tool_call" {
            Called::Custom { custom: Custom { name, input: said("input") } }
        } else {
            Called::Function { function: Function { name, arguments: said("arguments") } }
        };
        Self { id: said("call_id"), call }
    }

    /// As the deprecated form has it, which knows functions only.
    fn into_function(self) -> Option<Function> {
        match self.call {
            Called::Function { function } => Some(function),
            Called::Custom { .. } => None,
        }
    }
}

/// The answer's calls, in order.
pub(super) fn calls(output: &[Item]) -> impl Iterator<Item = &Item> {
    output.iter().filter(|item| is_call(item))
}

/// Whether the item calls a tool of the client's.
pub(super) fn is_call(item: &Item) -> bool {
    matches!(item.kind(), "function_call" | "custom_tool_call")
}

/// Why a choice ends.
pub(super) fn finish_reason(outcome: &Outcome, deprecated_functions: bool) -> &'static str {
    match outcome.incomplete {
        Some(IncompleteReason::MaxOutputTokens) => "length",
        Some(IncompleteReason::ContentFilter) => "content_filter",
        None if calls(&outcome.output).next().is_none() => "stop",
        None if deprecated_functions => "function_call",
        None => "tool_calls",
    }
}

/// What the text cites, by its place in the joined content.
pub(super) fn annotations(output: &[Item]) -> Vec<Value> {
    let mut before = 0;
    let mut found = Vec::new();
    for item in output {
        let said = text(item);
        if said.is_empty() {
            continue;
        }
        let mut at = before;
        let content = item.get("content").and_then(Value::as_array);
        for part in content.into_iter().flatten().filter(|part| part["type"] == "output_text") {
            let given = part["annotations"].as_array().into_iter().flatten();
            found.extend(given.filter_map(|given| citation(given, at)));
            at += part["text"].as_str().unwrap_or_default().chars().count();
        }
        before = at + BREAK.len();
    }
    found
}

fn citation(given: &Value, before: usize) -> Option<Value> {
    if given["type"] != "url_citation" {
        return None;
    }
    let place = |name: &str| Some(given[name].as_u64()? + before as u64);
    Some(json!({ "type": "url_citation", "url_citation": {
        "url": given["url"].as_str()?,
        "title": given["title"].as_str().unwrap_or_default(),
        "start_index": place("start_index")?,
        "end_index": place("end_index")?,
    } }))
}

/// The text of a message; empty for any other item.
pub(super) fn text(item: &Item) -> String {
    parts(item, "message", "content", "output_text", "text").concat()
}

/// The refusal in a message.
pub(super) fn refusal(item: &Item) -> String {
    parts(item, "message", "content", "refusal", "refusal").concat()
}

/// The summary of a reasoning item.
pub(super) fn summary(item: &Item) -> String {
    parts(item, "reasoning", "summary", "summary_text", "text").join(BREAK)
}

/// The strings under `member` of `list`'s parts of one kind.
fn parts<'a>(item: &'a Item, item_kind: &str, list: &str, kind: &str, member: &str) -> Vec<&'a str> {
    if item.kind() != item_kind {
        return Vec::new();
    }
    let parts = item.get(list).and_then(serde_json::Value::as_array);
    let of_kind = parts.into_iter().flatten().filter(|part| part["type"] == kind);
    of_kind.filter_map(|part| part.get(member)?.as_str()).collect()
}

fn join(texts: impl Iterator<Item = String>) -> Option<String> {
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    if texts.is_empty() { None } else { Some(texts.join(BREAK)) }
}

#[cfg(test)]
mod tests;
