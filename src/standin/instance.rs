//! A small instance of a JSON schema, its words and numbers borrowed from a text.

use serde_json::{Map, Number, Value, json};

use super::borrow::Borrowed;
use super::pattern;

/// Deeper than this nothing is expanded; only a schema that demands endless nesting gets here.
const MAX_DEPTH: usize = 64;
/// Most elements and characters that a `minItems` or `minLength` is followed to.
const MAX_COUNT: u64 = 10_000;

/// An instance of `schema`: what it requires, and nothing that it does not.
pub(crate) fn of_schema(schema: &Value, text: &str) -> Value {
    let mut maker = Maker { root: schema, borrowed: Borrowed::new(text), open: Vec::new(), depth: 0 };
    maker.instance(schema)
}

struct Maker<'a> {
    root: &'a Value,
    borrowed: Borrowed<'a>,
    /// References being expanded: entering one again would not end.
    open: Vec<String>,
    depth: usize,
}

impl Maker<'_> {
    fn instance(&mut self, schema: &Value) -> Value {
        if self.depth >= MAX_DEPTH {
            return Value::Null;
        }
        self.depth += 1;
        let value = self.expand(schema);
        self.depth -= 1;
        value
    }

    fn expand(&mut self, schema: &Value) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let Some(target) = resolve(self.root, reference) else { return Value::Null };
            let merged = merge(&without(schema, "$ref"), target);
            self.open.push(reference.to_owned());
            let value = self.instance(&merged);
            self.open.pop();
            return value;
        }
        if let Some(all) = schema["allOf"].as_array() {
            let flat = all.iter().fold(without(schema, "allOf"), |whole, part| {
                merge(&whole, part["$ref"].as_str().and_then(|to| resolve(self.root, to)).unwrap_or(part))
            });
            return self.instance(&flat);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(option) = schema[key].as_array().and_then(|options| self.way_out(options)) {
                return self.instance(&merge(&without(schema, key), option));
            }
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema["enum"].as_array() {
            return self.borrowed.one_of(values);
        }
        match kind(schema) {
            "object" => self.object(schema),
            "array" => self.array(schema),
            "string" => Value::String(self.string(schema)),
            "integer" => self.number(schema, true),
            "number" => self.number(schema, false),
            "boolean" => Value::Bool(true),
            _ => Value::Null,
        }
    }

    /// The first option that does not lead back into a reference being expanded.
    fn way_out<'v>(&self, options: &'v [Value]) -> Option<&'v Value> {
        let ends = |option: &&Value| {
            option["$ref"].as_str().is_none_or(|to| !self.open.iter().any(|open| open == to))
        };
        options.iter().find(ends).or_else(|| options.first())
    }

    /// The required properties in the schema's order; all of them where it names none.
    fn object(&mut self, schema: &Value) -> Value {
        let required = schema["required"].as_array();
        let wanted = |name: &str| required.is_none_or(|names| names.iter().any(|one| one == name));
        let mut object = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if wanted(name) && (required.is_some() || !self.leads_back(property)) {
                let value = self.instance(property);
                object.insert(name.clone(), value);
            }
        }
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                let rest = &schema["additionalProperties"];
                let value = if rest.is_object() { self.instance(rest) } else { json!(self.borrowed.word()) };
                object.insert(name.to_owned(), value);
            }
        }
        Value::Object(object)
    }

    /// One element, so that there is something to see, unless the bounds want more or none.
    fn array(&mut self, schema: &Value) -> Value {
        let prefix: &[Value] = schema["prefixItems"].as_array().map_or(&[], Vec::as_slice);
        let items = &schema["items"];
        let most = schema["maxItems"].as_u64().unwrap_or(MAX_COUNT).min(MAX_COUNT);
        let usual = u64::from(!items.is_null() && !self.leads_back(items)).max(prefix.len() as u64);
        let count = schema["minItems"].as_u64().unwrap_or(usual).min(most);
        (0..count)
            .map(|index| {
                let element =
                    usize::try_from(index).ok().and_then(|index| prefix.get(index)).unwrap_or(items);
                self.instance(element)
            })
            .collect()
    }

    fn leads_back(&self, schema: &Value) -> bool {
        let into_open = |to: &str| to == "#" || self.open.iter().any(|open| open == to);
        schema["$ref"].as_str().is_some_and(into_open)
    }

    fn string(&mut self, schema: &Value) -> String {
        if let Some(text) = schema["pattern"].as_str().and_then(pattern::shortest) {
            return text;
        }
        if let Some(example) = schema["format"].as_str().and_then(format_example) {
            return example.to_owned();
        }
        let mut text = self.borrowed.word();
        let least = usize::try_from(schema["minLength"].as_u64().unwrap_or(0).min(MAX_COUNT)).unwrap_or(0);
        while text.chars().count() < least {
            text.push(' ');
            text.push_str(&self.borrowed.word());
        }
        let most = schema["maxLength"].as_u64().and_then(|most| usize::try_from(most).ok());
        most.map_or(text.clone(), |most| text.chars().take(most).collect())
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounds of a made-up whole number; `as` saturates")]
    fn number(&mut self, schema: &Value, whole: bool) -> Value {
        let bound = |key: &str| schema[key].as_f64();
        let step = bound("multipleOf").filter(|step| *step > 0.0);
        let grain = step.unwrap_or(if whole { 1.0 } else { f64::EPSILON.sqrt() });
        let least = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|least| least + grain));
        let most = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|most| most - grain));
        let mut number = self.borrowed.number(whole);
        number = least.map_or(number, |least| number.max(least));
        number = most.map_or(number, |most| number.min(most));
        if let Some(step) = step {
            number = (number / step).floor() * step;
            number = least.filter(|least| number < *least).map_or(number, |_| number + step);
        }
        if whole || number.fract() == 0.0 {
            json!(least.map_or(number, |least| number.max(least.ceil())) as i64)
        } else {
            Number::from_f64(number).map_or(Value::Null, Value::Number)
        }
    }
}

/// The schema's type; of several, the first that is not null; else what its keywords imply.
fn kind(schema: &Value) -> &str {
    let listed = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let named = schema["type"].as_str().or_else(|| {
        let kinds: Vec<&str> = listed.collect();
        kinds.iter().find(|kind| **kind != "null").or(kinds.first()).copied()
    });
    named.unwrap_or_else(|| {
        if schema.get("properties").is_some() || schema.get("required").is_some() {
            "object"
        } else if schema.get("items").is_some() {
            "array"
        } else {
            "string"
        }
    })
}

fn format_example(format: &str) -> Option<&'static str> {
    Some(match format {
        "date" => "2026-01-31",
        "time" => "12:00:00Z",
        "date-time" => "2026-01-31T12:00:00Z",
        "duration" => "P1D",
        "email" => "somebody@example.com",
        "hostname" => "example.com",
        "ipv4" => "192.0.2.1",
        "ipv6" => "2001:db8::1",
        "uuid" => "3d9c2f0e-6a51-4a4e-9d6c-0c2f5b7e8a11",
        "uri" | "url" => "https://example.com/",
        _ => return None,
    })
}

fn resolve<'v>(root: &'v Value, reference: &str) -> Option<&'v Value> {
    root.pointer(reference.strip_prefix('#')?)
}

fn without(schema: &Value, key: &str) -> Value {
    let mut fields = schema.as_object().cloned().unwrap_or_default();
    fields.shift_remove(key);
    Value::Object(fields)
}

/// Both schemas' keywords; properties and required names are joined, otherwise `over` wins.
fn merge(base: &Value, over: &Value) -> Value {
    let mut merged = base.as_object().cloned().unwrap_or_default();
    for (key, value) in over.as_object().into_iter().flatten() {
        match (key.as_str(), merged.get_mut(key), value) {
            ("properties" | "$defs", Some(Value::Object(mine)), Value::Object(theirs)) => {
                mine.extend(theirs.clone());
            }
            ("required", Some(Value::Array(mine)), Value::Array(theirs)) => {
                mine.extend(theirs.iter().cloned());
            }
            _ => {
                merged.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests;
