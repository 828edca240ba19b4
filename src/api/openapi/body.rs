//! A table of field policies as a JSON Schema of the request's body.

use serde_json::{Map, Value, json};

use crate::api::fields::{Check, Field, Neutral, Policy};
use crate::api::read::{MAX_KEY, MAX_PAIRS, MAX_VALUE};

/// The whole body. `null` is the same as absent, everywhere.
pub(super) fn schema(fields: &[Field]) -> Value {
    let mut root = json!({ "type": "object" });
    for field in fields {
        let mut at = &mut root;
        let mut name = field.name;
        while let Some((holder, rest)) = name.split_once('.') {
            at = step(at, holder);
            name = rest;
        }
        if field.required {
            let known = at["required"].as_array().into_iter().flatten().cloned();
            at["required"] = known.chain([name.into()]).collect();
        }
        let property = step(at, name);
        for (key, value) in described(field) {
            property[key] = value;
        }
    }
    root
}

/// Into a property, and into the entries of an array where the name says so: `content[]`.
fn step<'a>(schema: &'a mut Value, name: &str) -> &'a mut Value {
    let plain = name.trim_end_matches("[]");
    let mut at = &mut schema["properties"][plain];
    for _ in 0..(name.len() - plain.len()) / 2 {
        at = &mut at["items"];
    }
    at
}

fn described(field: &Field) -> Map<String, Value> {
    let form = if field.policy == Policy::Refused { neutral(field) } else { form(&field.check) };
    let mut schema = if field.required { form } else { or_null(form) };
    let policy = format!("{:?}", field.policy);
    let description =
        if field.note.is_empty() { format!("{policy}.") } else { format!("{policy}: {}.", field.note) };
    schema.insert("description".into(), description.into());
    schema.insert("x-codex-bridge-policy".into(), policy.to_lowercase().into());
    schema
}

/// All that a refused field may be, beside null.
fn neutral(field: &Field) -> Map<String, Value> {
    let schema = match (&field.neutral, &field.check) {
        (Neutral::None, _) => json!({ "enum": [] }),
        (Neutral::Flag(flag), _) => json!({ "enum": [flag] }),
        (Neutral::Number(number), _) => json!({ "enum": [number] }),
        (Neutral::Words(words), _) => json!({ "enum": words }),
        (Neutral::Empty, Check::Array) => json!({ "type": "array", "maxItems": 0 }),
        (Neutral::Empty, _) => json!({ "type": "object", "maxProperties": 0 }),
    };
    fields_of(schema)
}

/// The values that a check lets through.
pub(super) fn form(check: &Check) -> Map<String, Value> {
    let schema = match check {
        Check::Elsewhere => json!({}),
        Check::Flag => json!({ "type": "boolean" }),
        Check::Text => json!({ "type": "string" }),
        Check::TextUpTo(max) => json!({ "type": "string", "maxLength": max }),
        Check::Object => json!({ "type": "object" }),
        Check::Array => json!({ "type": "array" }),
        Check::Integer(min, max) => integer(*min, *max),
        Check::Number(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
        Check::Word(words) => json!({ "type": "string", "enum": words }),
        Check::Integers(min, max) => json!({ "type": "object", "additionalProperties": integer(*min, *max) }),
        Check::Content(kind) => {
            let text = json!({ "type": "object", "required": ["type", "text"],
                "properties": { "type": { "const": "text" }, "text": { "type": "string" } } });
            let content = json!([{ "type": "string" }, { "type": "array", "items": text }]);
            json!({ "type": "object", "required": ["type", "content"],
                "properties": { "type": { "const": kind }, "content": { "anyOf": content } } })
        }
        Check::List(entry) => json!({ "type": "array", "items": form(entry) }),
        Check::TextOr(other) => json!({ "anyOf": [{ "type": "string" }, form(other)] }),
        Check::Metadata => json!({ "type": "object", "maxProperties": MAX_PAIRS,
            "propertyNames": { "maxLength": MAX_KEY },
            "additionalProperties": { "type": "string", "maxLength": MAX_VALUE } }),
    };
    fields_of(schema)
}

fn integer(min: i64, max: i64) -> Value {
    let mut schema = json!({ "type": "integer" });
    for (key, bound) in [("minimum", min), ("maximum", max)] {
        if bound.unsigned_abs() < i64::MAX.unsigned_abs() {
            schema[key] = bound.into();
        }
    }
    schema
}

fn or_null(mut schema: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.push(Value::Null);
    }
    if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.push(json!({ "type": "null" }));
    }
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
    schema
}

fn fields_of(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
