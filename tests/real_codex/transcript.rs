//! What a model is to be given: a transcript that a test keeps itself, and the form in which it is compared with
//! what came.

use std::collections::BTreeSet;

use codex_bridge::standin::SeenRequest;
use serde_json::{Map, Value, json};

/// An assistant's text as an item.
pub(crate) fn assistant(text: &str) -> Value {
    json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
}

/// The output of a call as an item.
pub(crate) fn output(call_id: &str, said: &str) -> Value {
    json!({"type": "function_call_output", "call_id": call_id, "output": said})
}

/// The items that a response object says, as the next request must have them.
pub(crate) fn items_of(response: &Value) -> Vec<Value> {
    response["output"].as_array().expect("items").iter().map(canonical).collect()
}

/// Codex's own item, which wraps the tools.
const TOOLS: &str = "additional_tools";

/// The items of a request, in the form of [`canonical`]; what only wraps the tools is left out.
pub(crate) fn input_of(seen: &SeenRequest) -> Vec<Value> {
    let items = seen.input.as_array().expect("items").iter();
    items.filter(|item| item["type"] != TOOLS).map(canonical).collect()
}

/// What an item says: no ids, no status, nothing that no model sees.
pub(crate) fn canonical(item: &Value) -> Value {
    let pick = |value: &Value, fields: &[&str]| -> Value {
        let fields = fields.iter().filter(|field| !value[**field].is_null());
        fields.map(|field| ((*field).to_owned(), value[*field].clone())).collect::<Map<_, _>>().into()
    };
    match item["type"].as_str() {
        Some("message") => {
            let mut message = pick(item, &["type", "role"]);
            let parts = item["content"].as_array().expect("parts").iter();
            message["content"] = parts.map(|part| pick(part, &["type", "text", "image_url"])).collect();
            message
        }
        Some("reasoning") => {
            let mut reasoning = pick(item, &["type", "encrypted_content"]);
            let parts = item["summary"].as_array().into_iter().flatten();
            reasoning["summary"] = parts.map(|part| pick(part, &["type", "text"])).collect();
            reasoning
        }
        Some("function_call") => pick(item, &["type", "call_id", "name", "arguments"]),
        Some("function_call_output") => pick(item, &["type", "call_id", "output"]),
        _ => item.clone(),
    }
}

/// What a request asks for beside its items: without what names its thread, and with its tools
/// wherever they stand.
pub(crate) fn settings_of(seen: &SeenRequest) -> Value {
    const NAMES: [&str; 7] =
        ["input", "prompt_cache_key", "client_metadata", "previous_response_id", "type", "stream", "store"];
    let mut body = seen.body.as_object().expect("an object").clone();
    body.retain(|name, value| !NAMES.contains(&name.as_str()) && !value.is_null());
    let mut body = Value::from(body);
    let mut tools = BTreeSet::new();
    for item in seen.input.as_array().into_iter().flatten() {
        if item["type"] == TOOLS {
            tools.insert(item["tools"].to_string());
        }
    }
    body["wrapped tools"] = tools.into_iter().collect();
    body
}
