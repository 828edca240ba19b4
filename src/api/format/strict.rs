//! Which schemas strict mode takes: the official subset of JSON Schema.

use std::fmt;

use serde_json::{Map, Value};

/// The first thing that strict mode refuses, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offence {
    /// From the root, outermost first.
    path: Vec<String>,
    what: String,
}

/// As the official service writes it: `In context=('properties', 'a'), …`.
impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.path.iter().map(|step| format!("'{step}'")).collect();
        // A tuple of one has a comma.
        let comma = if quoted.len() == 1 { "," } else { "" };
        write!(f, "In context=({}{comma}), {}", quoted.join(", "), self.what)
    }
}

/// Keywords whose meaning strict mode does not have.
const REFUSED: &[&str] = &[
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "prefixItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "minProperties",
    "maxProperties",
];

/// Official bounds: properties in all, levels of objects and arrays, values of all enums.
const MAX_PROPERTIES: usize = 5000;
const MAX_DEPTH: usize = 10;
const MAX_ENUM_VALUES: usize = 1000;

/// Walks the schema in its own order.
pub(crate) fn first_offence(schema: &Value) -> Option<Offence> {
    let mut walk = Walk { root: schema, path: Vec::new(), properties: 0, enum_values: 0 };
    if let Some(root) = schema.as_object() {
        if root.contains_key("anyOf") {
            return Some(walk.offence("the root of a schema must be an object and not 'anyOf'."));
        }
        let target = root.get("$ref").and_then(Value::as_str).and_then(|target| walk.resolve(target));
        let kind = target.unwrap_or(schema).get("type");
        if kind != Some(&Value::from("object")) {
            return Some(walk.offence("schema must have a 'type' of 'object' at its root."));
        }
    }
    walk.schema(schema, 0).err()
}

struct Walk<'a> {
    root: &'a Value,
    path: Vec<String>,
    properties: usize,
    enum_values: usize,
}

impl<'a> Walk<'a> {
    fn offence(&self, what: impl Into<String>) -> Offence {
        Offence { path: self.path.clone(), what: what.into() }
    }

    /// A reference within the document.
    fn resolve(&self, target: &str) -> Option<&'a Value> {
        self.root.pointer(target.strip_prefix('#')?)
    }

    fn below(&mut self, steps: &[&str], schema: &Value, depth: usize) -> Result<(), Offence> {
        self.path.extend(steps.iter().map(|step| (*step).to_owned()));
        self.schema(schema, depth)?;
        self.path.truncate(self.path.len() - steps.len());
        Ok(())
    }

    fn schema(&mut self, schema: &Value, depth: usize) -> Result<(), Offence> {
        let Some(fields) = schema.as_object() else {
            return Err(self.offence("a schema must be an object."));
        };
        if let Some(keyword) = REFUSED.iter().find(|keyword| fields.contains_key(**keyword)) {
            return Err(self.offence(format!("'{keyword}' is not permitted.")));
        }
        for place in ["$defs", "definitions"] {
            for (name, definition) in fields.get(place).and_then(Value::as_object).into_iter().flatten() {
                self.below(&[place, name], definition, 0)?;
            }
        }
        if let Some(target) = fields.get("$ref") {
            let known = target.as_str().and_then(|target| self.resolve(target));
            return known.map(drop).ok_or_else(|| self.offence("'$ref' leads nowhere within the schema."));
        }
        if let Some(choices) = fields.get("anyOf") {
            let choices = choices.as_array().filter(|choices| !choices.is_empty());
            let Some(choices) = choices else {
                return Err(self.offence("'anyOf' must be a list of schemas."));
            };
            for (index, choice) in choices.iter().enumerate() {
                self.below(&["anyOf", &index.to_string()], choice, depth)?;
            }
            return Ok(());
        }
        if let Some(values) = fields.get("enum").and_then(Value::as_array) {
            self.enum_values += values.len();
            if self.enum_values > MAX_ENUM_VALUES {
                return Err(self.offence(format!("more than {MAX_ENUM_VALUES} enum values.")));
            }
        }
        let kinds: Vec<&str> = match fields.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ if fields.contains_key("enum") || fields.contains_key("const") => return Ok(()),
            _ => return Err(self.offence("schema must have a 'type' key.")),
        };
        if depth >= MAX_DEPTH && kinds.iter().any(|kind| matches!(*kind, "object" | "array")) {
            return Err(self.offence(format!("more than {MAX_DEPTH} levels of nesting.")));
        }
        if kinds.contains(&"object") {
            self.object(fields, depth)?;
        }
        if kinds.contains(&"array") {
            let Some(items) = fields.get("items") else {
                return Err(self.offence("array schema missing items."));
            };
            self.below(&["items"], items, depth + 1)?;
        }
        Ok(())
    }

    fn object(&mut self, fields: &Map<String, Value>, depth: usize) -> Result<(), Offence> {
        if fields.get("additionalProperties") != Some(&Value::Bool(false)) {
            return Err(self.offence("'additionalProperties' is required to be supplied and to be false."));
        }
        let empty = Map::new();
        let properties = match fields.get("properties") {
            Some(Value::Object(properties)) => properties,
            None => &empty,
            Some(_) => return Err(self.offence("'properties' must be an object.")),
        };
        self.properties += properties.len();
        if self.properties > MAX_PROPERTIES {
            return Err(self.offence(format!("more than {MAX_PROPERTIES} properties.")));
        }
        let required = fields.get("required").and_then(Value::as_array);
        let required: Vec<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(name) = properties.keys().find(|name| !required.contains(&name.as_str())) {
            return Err(self.offence(format!(
                "'required' is required to be supplied and to be an array including every key in properties. \
                 Missing '{name}'."
            )));
        }
        if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
            return Err(self.offence(format!("'required' names '{name}', which is not in properties.")));
        }
        for (name, property) in properties {
            self.below(&["properties", name], property, depth + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn offence(schema: &Value) -> Option<String> {
        first_offence(schema).map(|offence| offence.to_string())
    }

    #[expect(clippy::needless_pass_by_value, reason = "cases are written as literals")]
    fn object(properties: Value) -> Value {
        let required: Vec<String> = properties.as_object().unwrap().keys().cloned().collect();
        json!({ "type": "object", "properties": properties, "required": required,
                "additionalProperties": false })
    }

    #[test]
    fn what_the_sdks_make_of_types_is_taken() {
        for schema in [
            object(json!({})),
            object(
                json!({ "a": { "type": "string", "pattern": "^x" }, "b": { "type": ["integer", "null"] } }),
            ),
            object(json!({ "a": { "anyOf": [{ "type": "string" }, { "type": "null" }] } })),
            object(json!({ "a": { "type": "array", "items": object(json!({ "b": { "enum": ["x"] } })) } })),
            object(json!({ "kind": { "const": "x" }, "more": { "$ref": "#" } })),
            json!({ "$ref": "#/$defs/A", "$defs": { "A": object(json!({ "next": { "$ref": "#/$defs/A" } })) } }),
        ] {
            assert_eq!(offence(&schema), None, "{schema}");
        }
    }

    #[test]
    fn the_first_offence_is_named_with_its_place() {
        let inner = json!({ "type": "object", "properties": {}, "required": [] });
        for (schema, place, what) in [
            (json!({}), "()", "'type' of 'object'"),
            (json!({ "type": "array", "items": {} }), "()", "'type' of 'object'"),
            (json!({ "anyOf": [] }), "()", "'anyOf'"),
            (inner.clone(), "()", "'additionalProperties'"),
            (object(json!({ "a": inner })), "('properties', 'a')", "'additionalProperties'"),
            (
                json!({ "type": "object", "properties": { "a": {} }, "additionalProperties": false }),
                "()",
                "Missing 'a'",
            ),
            (object(json!({ "a": {} })), "('properties', 'a')", "'type' key"),
            (object(json!({ "a": { "type": "array" } })), "('properties', 'a')", "missing items"),
            (
                object(json!({ "a": { "type": "array", "items": { "oneOf": [] } } })),
                "('properties', 'a', 'items')",
                "'oneOf'",
            ),
            (
                object(json!({ "a": { "anyOf": [{ "type": "string" }, {}] } })),
                "('properties', 'a', 'anyOf', '1')",
                "'type' key",
            ),
            (object(json!({ "a": { "$ref": "#/$defs/B" } })), "('properties', 'a')", "leads nowhere"),
            (object(json!({ "a": { "$ref": "http://x" } })), "('properties', 'a')", "leads nowhere"),
            (object(json!({ "a": true })), "('properties', 'a')", "must be an object"),
        ] {
            let said = offence(&schema).expect("an offence");
            assert!(said.starts_with(&format!("In context={place}, ")) && said.contains(what), "{said}");
        }
    }

    #[test]
    fn bounds_hold() {
        let deep = (0..12).fold(json!({ "type": "string" }), |schema, _| object(json!({ "a": schema })));
        assert!(offence(&deep).unwrap().contains("levels"));
        let wide: Map<String, Value> =
            (0..5001).map(|n| (format!("p{n}"), json!({ "type": "string" }))).collect();
        assert!(offence(&object(Value::Object(wide))).unwrap().contains("5000"));
        let values: Vec<u32> = (0..1001).collect();
        assert!(
            offence(&object(json!({ "a": { "type": "integer", "enum": values } }))).unwrap().contains("1000")
        );
    }
}
