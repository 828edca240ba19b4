//! A Responses API item: the same JSON on both of our wires.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One Responses API item. Cheap to clone; immutable; kept as JSON because both wires carry it verbatim.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Item(Arc<Map<String, Value>>);

impl Item {
    /// Wraps an item as it came.
    pub fn new(fields: Map<String, Value>) -> Self {
        Self(Arc::new(fields))
    }

    /// The item in `value`, if that is an object.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Self::new(fields)),
            _ => None,
        }
    }

    /// A message with the given content parts.
    pub fn message(role: &str, content: Vec<Value>) -> Self {
        let mut fields = Map::new();
        fields.insert("type".into(), "message".into());
        fields.insert("role".into(), role.into());
        fields.insert("content".into(), Value::Array(content));
        Self::new(fields)
    }

    /// A message of one `input_text` part.
    pub fn input_text(role: &str, text: &str) -> Self {
        Self::message(role, vec![json!({"type": "input_text", "text": text})])
    }

    /// The item's `type`; empty if it has none.
    pub fn kind(&self) -> &str {
        self.str("type").unwrap_or_default()
    }

    /// The item's own `id`.
    pub fn id(&self) -> Option<&str> {
        self.str("id")
    }

    /// A string field.
    pub fn str(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    /// Any field.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// What a compaction item of ours stands for. Ours alone: no client can say it, and none is told.
    pub const SUMMARY: &str = "codex_bridge_summary";

    /// The message that goes to the model in the place of a compaction item; `None` where the item goes itself.
    pub fn summary(&self) -> Option<Self> {
        self.get(Self::SUMMARY).cloned().and_then(Self::from_value)
    }

    /// Whether it takes the place of all that was said before it, but for the messages of users and developers.
    pub fn is_compaction(&self) -> bool {
        self.kind() == "compaction"
    }

    /// Whether a compaction leaves it where it is.
    pub fn is_asked(&self) -> bool {
        self.kind() == "message" && matches!(self.str("role"), Some("user" | "developer"))
    }

    /// All fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The item as a JSON value (a deep copy).
    pub fn to_value(&self) -> Value {
        Value::Object((*self.0).clone())
    }

    /// Whether its content or output has a part of type `kind`.
    pub fn has_part(&self, kind: &str) -> bool {
        let parts = ["content", "output"].into_iter().filter_map(|field| self.get(field)?.as_array());
        parts.flatten().any(|part| part["type"] == kind)
    }

    /// About how many bytes the item takes, for bounds; not its exact serialised size.
    pub fn weight(&self) -> usize {
        Self::weight_of(&self.0)
    }

    /// The same, of an item's fields.
    pub fn weight_of(fields: &Map<String, Value>) -> usize {
        fields.iter().map(|(key, value)| key.len() + 4 + weigh(value)).sum()
    }
}

/// Items at rest, each as its JSON text: parsed, they take about ten times the memory.
#[derive(Clone)]
pub struct PackedItems(Box<[Packed]>);

#[derive(Clone)]
enum Packed {
    Text(Box<str>),
    /// What JSON text cannot hold; nothing that came as JSON is.
    Item(Item),
}

impl PackedItems {
    /// Packs `items`.
    pub fn pack(items: &[Item]) -> Self {
        let pack = |item: &Item| match serde_json::to_string(item) {
            Ok(text) => Packed::Text(text.into()),
            Err(_) => Packed::Item(item.clone()),
        };
        Self(items.iter().map(pack).collect())
    }

    /// The items again.
    pub fn unpack(&self) -> impl Iterator<Item = Item> {
        self.0.iter().filter_map(|packed| match packed {
            Packed::Text(text) => serde_json::from_str(text).ok().map(Item::new),
            Packed::Item(item) => Some(item.clone()),
        })
    }

    /// Bytes they take.
    pub fn weight(&self) -> usize {
        let weight = |packed: &Packed| match packed {
            Packed::Text(text) => text.len(),
            Packed::Item(item) => item.weight(),
        };
        self.0.iter().map(weight).sum()
    }
}

/// Their number only: what is in them stays out of logs.
impl fmt::Debug for PackedItems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedItems").field("items", &self.0.len()).finish_non_exhaustive()
    }
}

/// Kind and id only: an item's text stays out of logs.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("type", &self.kind()).field("id", &self.id()).finish_non_exhaustive()
    }
}

fn weigh(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| weigh(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() + 4 + weigh(value)).sum::<usize>() + 2
        }
    }
}
