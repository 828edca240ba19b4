use serde_json::json;

use super::*;

/// Makes an instance, checks it against its schema, and gives it.
#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn made(schema: Value, text: &str) -> Value {
    let value = of_schema(&schema, text);
    assert!(jsonschema::is_valid(&schema, &value), "{value} does not follow {schema}");
    value
}

#[test]
fn words_and_numbers_are_borrowed() {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "mood"],
        "properties": {
            "name": {"type": "string"}, "age": {"type": "integer"}, "nickname": {"type": "string"},
            "mood": {"type": "string", "enum": ["sad", "happy"]}}});
    let made = made(schema, "Extract: Bob is 42, happy and 1.5 m tall");
    assert_eq!(made.to_string(), r#"{"name":"Bob","age":42,"mood":"happy"}"#);
}

#[test]
fn bounds_formats_and_patterns_are_kept() {
    let schema = json!({"type": "object",
        "required": ["score", "share", "day", "code", "long", "short", "tags", "pair", "even", "id"],
        "properties": {
            "score": {"type": "integer", "minimum": 0, "maximum": 10},
            "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "day": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
            "long": {"type": "string", "minLength": 30},
            "short": {"type": "string", "maxLength": 2},
            "tags": {"type": "array", "minItems": 3, "items": {"type": ["null", "string"]}},
            "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false},
            "even": {"type": "integer", "multipleOf": 2, "minimum": 7},
            "id": {"const": "fixed"}}});
    let made = made(schema, "score it 99 please");
    assert_eq!(made["score"], 10);
    assert_eq!(made["even"], 98);
    assert_eq!(made["tags"].as_array().map(Vec::len), Some(3));
}

#[test]
fn references_unions_and_recursion_end() {
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "additionalProperties": false, "required": ["value", "children", "parent"],
        "properties": {
            "value": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}});
    assert_eq!(made(tree, "Oak").to_string(), r#"{"value":"Oak","children":[],"parent":null}"#);
    let all = json!({"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}],
        "$defs": {"a": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}}});
    assert_eq!(made(all, "").to_string(), r#"{"a":null,"b":true}"#);
    let endless = json!({"type": "object", "required": ["more"], "properties": {"more": {"$ref": "#"}}});
    assert!(of_schema(&endless, "x").is_object());
}

#[test]
fn a_schema_that_requires_nothing_shows_every_property() {
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "again": {"$ref": "#"}}});
    assert_eq!(made(schema, "weather in Paris for 3 days").to_string(), r#"{"city":"Paris","days":3}"#);
}
