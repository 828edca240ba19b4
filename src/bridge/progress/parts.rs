//! Items and events of a turn, read and made.

use serde_json::{Value, json};

use super::{Kind, Part};
use crate::bridge::BridgeError;
use crate::bridge::replay::Diverged;
use crate::model::{Item, TurnEvent};

/// Items the model made; tool outputs and injected messages come by the same way.
pub(super) fn is_output(item: &Item) -> bool {
    match item.kind() {
        "message" => item.str("role") == Some("assistant"),
        "reasoning" => true,
        kind => kind.ends_with("_call"),
    }
}

pub(super) fn texts_of(item: &Item) -> Vec<(Part, u32, String)> {
    let parts = |field: &str| item.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |part: &Value| part.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
    let indexed = |part: Part, field: &str| {
        let numbered = (0u32..).zip(parts(field));
        numbered.map(move |(index, value)| (part, index, text(&value))).collect::<Vec<_>>()
    };
    match item.kind() {
        "message" => vec![(Part::Text, 0, parts("content").iter().map(text).collect())],
        "reasoning" => {
            let mut texts = indexed(Part::Summary, "summary");
            texts.extend(indexed(Part::Reasoning, "content"));
            texts
        }
        _ => Vec::new(),
    }
}

/// All text of a message.
pub(super) fn text_of(item: &Item) -> String {
    texts_of(item).into_iter().map(|(_, _, text)| text).collect()
}

/// A message of ours in the place of the model's own.
pub(super) fn message_of(id: &str, text: &str, whole: bool) -> Item {
    let content = vec![json!({"type": "output_text", "text": text})];
    let mut fields = Item::message("assistant", content).fields().clone();
    if !id.is_empty() {
        fields.insert("id".into(), id.into());
    }
    fields.insert("status".into(), if whole { "completed" } else { "incomplete" }.into());
    Item::new(fields)
}

pub(super) fn with_id(item: Item, id: String) -> Item {
    if item.id() == Some(id.as_str()) || id.is_empty() {
        return item;
    }
    let mut fields = item.fields().clone();
    fields.insert("id".into(), Value::String(id));
    Item::new(fields)
}

pub(super) fn started_event(kind: Kind, item_id: String) -> TurnEvent {
    match kind {
        Kind::Message => TurnEvent::MessageStarted { item_id },
        Kind::Reasoning => TurnEvent::ReasoningStarted { item_id },
    }
}

pub(super) fn delta_event(part: Part, item_id: String, index: u32, delta: String) -> TurnEvent {
    match part {
        Part::Text => TurnEvent::TextDelta { item_id, delta },
        Part::Summary => TurnEvent::SummaryDelta { item_id, index, delta },
        Part::Reasoning => TurnEvent::ReasoningDelta { item_id, index, delta },
    }
}

/// Such as a refusal: the app-server knows texts alone, and lets a message of anything else fall.
pub(super) fn unreadable() -> BridgeError {
    BridgeError::Upstream {
        message:
            "The model answered with something that the app-server does not pass on, most likely a refusal."
                .into(),
        status: None,
        code: "answer_not_passed_on",
    }
}

pub(super) fn diverged(_: Diverged) -> BridgeError {
    BridgeError::Upstream {
        message:
            "The model's answer was cut off, and its retry said something else than what was already sent."
                .into(),
        status: None,
        code: "retry_diverged",
    }
}
