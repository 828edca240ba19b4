//! Output items: what the model gave, in the official form: no field beside the specification's, and every
//! required one.

use serde_json::{Map, Value, json};

use super::wire::{Form, OutputItem};
use crate::model::Item;

/// All items that have an official form, in order.
pub(crate) fn official_items(items: &[Item], form: Form<'_>) -> Vec<OutputItem> {
    let mut output = Vec::with_capacity(items.len());
    for item in items {
        output.extend(official(item, output.len(), form));
    }
    output
}

/// The items with the ids that [`official_items`] gives them; those without an official form get none.
pub(crate) fn with_ids(items: &[Item], form: Form<'_>) -> Vec<(Option<String>, Item)> {
    let mut told = 0;
    let with_id = |item: &Item| {
        let official = official(item, told, form);
        told += usize::from(official.is_some());
        (official.as_ref().map(id).map(str::to_owned), item.clone())
    };
    items.iter().map(with_id).collect()
}

/// The item in its official form; `None` if it has none: nothing a client could have asked for. `index` is
/// its place in the output, from which an item without an id gets one.
pub(crate) fn official(item: &Item, index: usize, form: Form<'_>) -> Option<OutputItem> {
    let mut out = Map::new();
    let prefix = match item.kind() {
        "message" if item.str("role") == Some("assistant") => "msg",
        "reasoning" => "rs",
        "function_call" => "fc",
        "custom_tool_call" => "ctc",
        "web_search_call" => "ws",
        "image_generation_call" => "ig",
        "compaction" => "cmp",
        kind => {
            tracing::debug!(kind, "an output item without an official form was left out");
            return None;
        }
    };
    out.insert("id".into(), item.id().map_or_else(|| made_id(prefix, index, form), str::to_owned).into());
    out.insert("type".into(), item.kind().into());
    match item.kind() {
        "message" => message(item, &mut out),
        "reasoning" => reasoning(item, &mut out, form.encrypted_reasoning),
        "function_call" => call(item, &mut out, "arguments"),
        "custom_tool_call" => call(item, &mut out, "input"),
        "web_search_call" => web_search_call(item, &mut out),
        "image_generation_call" => {
            out.insert("status".into(), status(item, "completed", &["generating", "failed"]).into());
            out.insert("result".into(), item.get("result").filter(|r| r.is_string()).cloned().into());
        }
        _ => {
            out.insert("encrypted_content".into(), item.str("encrypted_content").unwrap_or_default().into());
        }
    }
    Some(out)
}

/// An official item's type.
pub(crate) fn kind(item: &OutputItem) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// An official item's id.
pub(crate) fn id(item: &OutputItem) -> &str {
    item.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// The item as it is when it begins: its heads and no content.
pub(crate) fn begun(item: &OutputItem) -> OutputItem {
    let mut begun = item.clone();
    for (name, value) in &mut begun {
        match name.as_str() {
            "status" => *value = "in_progress".into(),
            "content" | "summary" => *value = json!([]),
            "arguments" | "input" => *value = "".into(),
            "result" => *value = Value::Null,
            _ => {}
        }
    }
    if item.get("type") == Some(&"reasoning".into()) {
        begun.shift_remove("content");
        begun.shift_remove("encrypted_content");
    }
    begun
}

/// A message or reasoning item of which nothing is known but that it has begun.
pub(crate) fn begun_unknown(kind: &str, id: &str) -> OutputItem {
    let begun = match kind {
        "message" => json!({
            "id": id, "type": kind, "role": "assistant", "status": "in_progress", "content": [],
        }),
        _ => json!({ "id": id, "type": kind, "summary": [] }),
    };
    match begun {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The same for the same item of the same response, in the stream and in the final object.
fn made_id(prefix: &str, index: usize, form: Form<'_>) -> String {
    let response = form.id.strip_prefix("resp_").unwrap_or(form.id);
    format!("{prefix}_{response}{index:02x}")
}

fn message(item: &Item, out: &mut OutputItem) {
    out.insert("role".into(), "assistant".into());
    out.insert("status".into(), status(item, "completed", &["incomplete"]).into());
    if let Some(phase) = item.str("phase").filter(|phase| matches!(*phase, "commentary" | "final_answer")) {
        out.insert("phase".into(), phase.into());
    }
    out.insert("content".into(), content(item).into());
}

/// All text of a message is one part: its deltas do not say which part they belong to.
fn content(item: &Item) -> Vec<Value> {
    let mut text: Option<(String, Vec<Value>)> = None;
    let mut refusals = Vec::new();
    for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
        let said = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or_default();
        match said("type") {
            "output_text" => {
                let (all, annotations) = text.get_or_insert_default();
                let before = all.chars().count();
                all.push_str(said("text"));
                let given = part.get("annotations").and_then(Value::as_array).into_iter().flatten();
                annotations.extend(given.filter_map(|given| url_citation(given, before)));
            }
            "refusal" => refusals.push(json!({ "type": "refusal", "refusal": said("refusal") })),
            _ => {}
        }
    }
    let text = text.map(|(text, annotations)| {
        json!({ "type": "output_text", "text": text, "annotations": annotations, "logprobs": [] })
    });
    text.into_iter().chain(refusals).collect()
}

/// The one annotation there can be without files. `before`: characters of the parts it follows.
fn url_citation(given: &Value, before: usize) -> Option<Value> {
    let position = |name: &str| Some(given.get(name)?.as_u64()? + before as u64);
    if given.get("type")?.as_str()? != "url_citation" {
        return None;
    }
    Some(json!({
        "type": "url_citation",
        "url": given.get("url")?.as_str()?,
        "start_index": position("start_index")?,
        "end_index": position("end_index")?,
        "title": given.get("title").and_then(Value::as_str).unwrap_or_default(),
    }))
}

fn reasoning(item: &Item, out: &mut OutputItem, encrypted: bool) {
    out.insert("summary".into(), texts(item, "summary", "summary_text").into());
    let content = texts(item, "content", "reasoning_text");
    if !content.is_empty() {
        out.insert("content".into(), content.into());
    }
    if encrypted {
        let content = item.str("encrypted_content").map_or(Value::Null, Value::from);
        out.insert("encrypted_content".into(), content);
    }
}

fn texts(item: &Item, field: &str, kind: &str) -> Vec<Value> {
    let parts = item.get(field).and_then(Value::as_array).into_iter().flatten();
    let texts = parts.filter_map(|part| part.get("text")?.as_str());
    texts.map(|text| json!({ "type": kind, "text": text })).collect()
}

fn call(item: &Item, out: &mut OutputItem, payload: &'static str) {
    for name in ["call_id", "name", payload] {
        out.insert(name.into(), item.str(name).unwrap_or_default().into());
    }
    if let Some(namespace) = item.str("namespace") {
        out.insert("namespace".into(), namespace.into());
    }
    // Custom calls have no official status.
    if payload == "arguments" {
        out.insert("status".into(), status(item, "completed", &["incomplete"]).into());
    }
}

fn web_search_call(item: &Item, out: &mut OutputItem) {
    out.insert("status".into(), status(item, "completed", &["failed"]).into());
    let action = item.get("action");
    let said = |name: &str| action.and_then(|action| action.get(name)?.as_str());
    let action = match said("type") {
        Some("open_page") => json!({ "type": "open_page", "url": said("url") }),
        Some("find_in_page") => json!({
            "type": "find_in_page", "url": said("url").unwrap_or_default(),
            "pattern": said("pattern").unwrap_or_default(),
        }),
        _ => {
            let mut search = Map::new();
            search.insert("type".into(), "search".into());
            search.insert("query".into(), said("query").unwrap_or_default().into());
            let queries = action.and_then(|action| action.get("queries")?.as_array());
            let queries: Vec<_> = queries.into_iter().flatten().filter(|query| query.is_string()).collect();
            if !queries.is_empty() {
                search.insert("queries".into(), queries.into_iter().cloned().collect());
            }
            Value::Object(search)
        }
    };
    out.insert("action".into(), action);
}

/// The item's status if it is one a finished item can have.
fn status<'a>(item: &'a Item, usual: &'a str, others: &[&str]) -> &'a str {
    item.str("status").filter(|status| others.contains(status)).unwrap_or(usual)
}

#[cfg(test)]
mod tests;
