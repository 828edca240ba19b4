//! Usage counted here, for answers that are cut short: the backend's own figures never come.

use serde_json::Value;

use super::compaction::in_force;
use super::{emulate, tools};
use crate::model::{Item, ToolInput, TurnRequest, Usage};

/// What a turn sent and got, by the tokenizer: texts, calls and tool definitions. Images and reasoning count
/// nothing, and nothing counts as cached: only the backend knows.
pub(super) fn usage(request: &TurnRequest, before: &[Item], output: &[Item]) -> Usage {
    let instructions = request.instructions.as_deref().map_or(0, emulate::count);
    let schema = request.output_schema.as_ref().map_or(0, |schema| emulate::count(&schema.to_string()));
    let tool_tokens = tools::chosen(request).map(|tool| {
        let described = tool.description.as_deref().map_or(0, emulate::count);
        let input = match &tool.input {
            ToolInput::Arguments { schema, .. } => emulate::count(&schema.to_string()),
            ToolInput::Text { pattern } => pattern.as_deref().map_or(0, emulate::count),
        };
        emulate::count(&tool.name) + described + input
    });
    let said = in_force(before.iter().chain(&request.input));
    let input_tokens = instructions + schema + tool_tokens.sum::<u64>() + items(said);
    let output_tokens = items(output);
    Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() }
}

fn items<'a>(items: impl IntoIterator<Item = &'a Item>) -> u64 {
    let fields = items.into_iter().filter(|item| item.kind() != "reasoning").flat_map(Item::fields);
    fields.map(|(name, value)| texts(name, value)).sum()
}

/// The texts the model reads or writes; ids, types and encoded data are none.
fn texts(name: &str, value: &Value) -> u64 {
    match value {
        Value::String(text)
            if matches!(name, "text" | "refusal" | "name" | "arguments" | "input" | "output") =>
        {
            emulate::count(text)
        }
        Value::Array(values) => values.iter().map(|value| texts(name, value)).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| texts(name, value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}
