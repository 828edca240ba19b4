//! Whether a request can go elsewhere, and what it is there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::classes;
use crate::config::FallbackConfig;

/// What the fallback takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) config: &'a FallbackConfig,
    /// As the head names it; else the body may.
    pub(super) class: Option<&'a str>,
}

/// Why a request stays here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It goes on with something that only this bridge has.
    Chain,
    /// Not of a class of `fallback.task_classes`.
    Class,
}

impl Wanted<'_> {
    /// The body as it goes to the fallback: the client's own bytes, but for the model's name.
    pub(super) fn rewrite(self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        // It was parsed before: what cannot be read now is no call that failed in the engine.
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(body).map_err(|_| Refused::Chain)?;
        let value = |name: &str| {
            let raw = fields.get(name).copied()?;
            serde_json::from_str::<Value>(raw.get()).ok().filter(|value| !value.is_null())
        };
        if continues(&value) {
            return Err(Refused::Chain);
        }
        let classes = &self.config.task_classes;
        if !classes.is_empty() {
            let metadata = value("metadata");
            let named = metadata.as_ref().and_then(|metadata| metadata[classes::MEMBER].as_str());
            let class = self.class.or(named);
            if !class.is_some_and(|class| classes.iter().any(|one| one == class)) {
                return Err(Refused::Class);
            }
        }
        let asked = value("model");
        let asked = asked.as_ref().and_then(Value::as_str);
        let mapped = asked.and_then(|asked| self.config.models.get(asked)).or(self.config.model.as_ref());
        let Some(model) = mapped else { return Ok(body.to_vec()) };
        let model = Value::from(model.as_str()).to_string();
        let Some(raw) = fields.get("model") else {
            let start = body.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
            return Ok([&body[..start], format!("\"model\":{model},").as_bytes(), &body[start..]].concat());
        };
        // The value is a part of the body: this is where.
        let start = raw.get().as_ptr().addr() - body.as_ptr().addr();
        Ok([&body[..start], model.as_bytes(), &body[start + raw.get().len()..]].concat())
    }
}

/// Whether it names or makes what only this bridge has, or answers calls that were made here.
fn continues(value: &impl Fn(&str) -> Option<Value>) -> bool {
    let is_background = value("background") == Some(Value::Bool(true));
    if is_background || value("previous_response_id").is_some() || value("conversation").is_some() {
        return true;
    }
    let list = |name| match value(name) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let (items, messages) = (list("input"), list("messages"));
    let kind = |item: &Value| item["type"].as_str().unwrap_or_default().to_owned();
    items.iter().any(|item| kind(item) == "item_reference" || item["encrypted_content"].is_string())
        || ends_in(&items, |item| kind(item).ends_with("_output"))
        || ends_in(&messages, |message| matches!(message["role"].as_str(), Some("tool" | "function")))
}

/// Whether an output follows what the model said last.
fn ends_in(items: &[Value], is_output: impl Fn(&Value) -> bool) -> bool {
    items.iter().rev().take_while(|item| item["role"] != "assistant").any(is_output)
}
