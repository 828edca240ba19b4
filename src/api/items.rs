//! A conversation on its way in: items in the form `thread/inject_items` takes without loss, built the same
//! way for both APIs.
//!
//! Each item is typed, its content is parts, `system` is `developer`, and every image is inline. What the
//! app-server would drop, refuse or rewrite is refused before it gets here.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::images::{ImageFetcher, ImageSource};
use crate::bridge::Bridge;
use crate::model::Item;

/// Items being collected, images still where the client left them.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    items: Vec<Map<String, Value>>,
    images: Vec<Slot>,
}

/// One part of a message or of a tool's output.
#[derive(Debug)]
pub(crate) struct Part {
    fields: Map<String, Value>,
    /// Set for an image: how errors name its address.
    image: Option<String>,
}

/// A tool call or output whose other half is missing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unpaired {
    /// The app-server would make an output up.
    Call {
        /// The item's place in the draft.
        index: usize,
        /// Its `call_id`.
        call_id: String,
    },
    /// The app-server would drop it.
    Output {
        /// The item's place in the draft.
        index: usize,
        /// Its `call_id`.
        call_id: String,
    },
}

/// Where an image goes once it is inline: a part of a field of an item.
#[derive(Debug)]
struct Slot {
    item: usize,
    field: &'static str,
    part: usize,
    param: String,
}

impl Part {
    /// Text that `role` says: the assistant's is output, everybody else's input.
    pub(crate) fn text(role: &str, text: impl Into<String>) -> Self {
        let mut fields = Map::new();
        let kind = if role == "assistant" { "output_text" } else { "input_text" };
        fields.insert("type".into(), kind.into());
        fields.insert("text".into(), text.into().into());
        Self { fields, image: None }
    }

    /// An image by its `data:` or `https:` address; `param` is how errors name that address.
    pub(crate) fn image(url: String, detail: Option<&str>, param: impl Into<String>) -> Self {
        let mut fields = Map::new();
        fields.insert("type".into(), "input_image".into());
        fields.insert("image_url".into(), url.into());
        if let Some(detail) = detail {
            fields.insert("detail".into(), detail.into());
        }
        Self { fields, image: Some(param.into()) }
    }

    /// The same part with one more field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.fields.insert(name.into(), value);
        self
    }
}

impl Draft {
    /// Adds a message. `system` becomes `developer`: the app-server drops `system` without a word.
    pub(crate) fn message(&mut self, role: &str, content: Vec<Part>) {
        let mut fields = Map::new();
        fields.insert("type".into(), "message".into());
        fields.insert("role".into(), if role == "system" { "developer" } else { role }.into());
        self.item_with(fields, "content", content);
    }

    /// Adds an item as it stands; `fields` has its `type`.
    pub(crate) fn item(&mut self, fields: Map<String, Value>) {
        self.items.push(fields);
    }

    /// Adds an item whose `field` is a list of parts.
    pub(crate) fn item_with(
        &mut self,
        mut fields: Map<String, Value>,
        field: &'static str,
        parts: Vec<Part>,
    ) {
        let item = self.items.len();
        let mut values = Vec::with_capacity(parts.len());
        for (part, Part { fields, image }) in parts.into_iter().enumerate() {
            if let Some(param) = image {
                self.images.push(Slot { item, field, part, param });
            }
            values.push(Value::Object(fields));
        }
        fields.insert(field.into(), Value::Array(values));
        self.items.push(fields);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How errors name the first image; `None` if there is none.
    pub(crate) fn first_image(&self) -> Option<String> {
        self.images.first().map(|slot| slot.param.clone())
    }

    /// The first tool call without its output, else the first output without its call. With `history`,
    /// calls may be in the part of the conversation that the bridge keeps.
    pub(crate) fn unpaired(&self, history: bool) -> Option<Unpaired> {
        let calls = self.halves(call_of);
        let outputs = self.halves(output_of);
        if let Some((index, call_id)) = first_without(&calls, &outputs) {
            return Some(Unpaired::Call { index, call_id });
        }
        if history {
            return None;
        }
        first_without(&outputs, &calls).map(|(index, call_id)| Unpaired::Output { index, call_id })
    }

    /// The items, every image inline.
    pub(crate) async fn finish(mut self, images: &ImageFetcher) -> Result<Vec<Item>, ApiError> {
        let mut sources = Vec::with_capacity(self.images.len());
        for slot in &self.images {
            let url = take_url(&mut self.items, slot).unwrap_or_default();
            sources.push(ImageSource { param: slot.param.clone(), url });
        }
        for (slot, url) in self.images.iter().zip(images.inline(sources).await?) {
            if let Some(place) = url_of(&mut self.items, slot) {
                *place = Value::String(url);
            }
        }
        Ok(self.items.into_iter().map(Item::new).collect())
    }

    /// How errors name the images.
    #[cfg(test)]
    pub(crate) fn image_params(&self) -> Vec<&str> {
        self.images.iter().map(|slot| slot.param.as_str()).collect()
    }

    /// The items as they stand, images not fetched.
    #[cfg(test)]
    pub(crate) fn into_values(self) -> Vec<Value> {
        self.items.into_iter().map(Value::Object).collect()
    }

    fn halves(&self, half: impl Fn(&str) -> Option<&'static str>) -> Vec<(usize, Half<'_>)> {
        let mut halves = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            let field = |name| item.get(name).and_then(Value::as_str);
            if let (Some(kind), Some(call_id)) = (field("type").and_then(&half), field("call_id")) {
                halves.push((index, (kind, call_id)));
            }
        }
        halves
    }
}

/// Refuses images (`first_image` is how errors name the first one) for a model that takes none: the app-server
/// would replace each by a sentence.
pub(crate) async fn check_images(
    bridge: &Bridge,
    model: Option<&str>,
    first_image: Option<String>,
) -> Result<(), ApiError> {
    let Some(param) = first_image else { return Ok(()) };
    let model = bridge.resolve_model(model).await?;
    let modalities = &model.input_modalities;
    if modalities.is_empty() || modalities.iter().any(|known| known == "image") {
        return Ok(());
    }
    let message = format!("The model '{}' does not take images.", model.id);
    Err(ApiError::invalid(param, message).with_code("unsupported_value"))
}

/// A pair's kind (an output of another kind does not answer a call) and its `call_id`.
type Half<'a> = (&'static str, &'a str);

fn first_without(halves: &[(usize, Half<'_>)], others: &[(usize, Half<'_>)]) -> Option<(usize, String)> {
    let others: HashSet<_> = others.iter().map(|(_, half)| half).collect();
    let (index, (_, call_id)) = halves.iter().find(|(_, half)| !others.contains(half))?;
    Some((*index, (*call_id).to_owned()))
}

fn call_of(kind: &str) -> Option<&'static str> {
    match kind {
        "function_call" => Some("function"),
        "custom_tool_call" => Some("custom"),
        _ => None,
    }
}

fn output_of(kind: &str) -> Option<&'static str> {
    match kind {
        "function_call_output" => Some("function"),
        "custom_tool_call_output" => Some("custom"),
        _ => None,
    }
}

fn take_url(items: &mut [Map<String, Value>], slot: &Slot) -> Option<String> {
    match url_of(items, slot)?.take() {
        Value::String(url) => Some(url),
        _ => None,
    }
}

fn url_of<'a>(items: &'a mut [Map<String, Value>], slot: &Slot) -> Option<&'a mut Value> {
    items.get_mut(slot.item)?.get_mut(slot.field)?.get_mut(slot.part)?.get_mut("image_url")
}

#[cfg(test)]
mod tests;
