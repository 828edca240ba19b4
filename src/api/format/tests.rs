use serde_json::json;

use super::*;
use crate::api::responses;

fn read(format: &Value, nesting: Nesting) -> Result<Format, ApiError> {
    let mut ignored = Ignored::default();
    Format::read(Fields::of("text.format", format.clone()).unwrap(), nesting, responses::FIELDS, &mut ignored)
}

fn flat(fields: &Value) -> Result<Format, ApiError> {
    let mut format = json!({ "type": "json_schema", "name": "n" });
    for (name, value) in fields.as_object().unwrap() {
        format[name] = value.clone();
    }
    read(&format, Nesting::Flat)
}

fn strict_schema() -> Value {
    json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"],
            "additionalProperties": false })
}

fn answer(text: &str) -> Vec<Item> {
    vec![
        Item::from_value(json!({ "type": "reasoning", "summary": [] })).unwrap(),
        Item::message("assistant", vec![json!({ "type": "output_text", "text": text })]),
    ]
}

#[test]
fn strictness_decides_who_holds_the_answer_to_its_schema() {
    let loose = json!({ "type": "object" });
    for (schema, strict, enforced) in [
        (strict_schema(), json!(true), true),
        (strict_schema(), json!(null), true),
        (strict_schema(), json!(false), false),
        (loose.clone(), json!(null), false),
        (loose.clone(), json!(false), false),
    ] {
        let format = flat(&json!({ "schema": schema, "strict": strict })).unwrap();
        assert_eq!(format.output_schema.is_some(), enforced, "{schema} {strict}");
        assert_eq!(format.rule.is_none(), enforced);
        assert_eq!(format.echo["strict"], strict == json!(true));
        assert_eq!(format.echo["schema"], schema);
    }
    let error = flat(&json!({ "schema": loose, "strict": true })).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("text.format.schema"));
    assert_eq!(error.code.as_deref(), Some("invalid_json_schema"));
    assert_eq!(
        error.message,
        "Invalid schema for response_format 'n': In context=(), 'additionalProperties' is required to be \
         supplied and to be false."
    );
}

#[test]
fn a_rule_needs_a_schema_that_is_one() {
    for schema in [json!({ "type": "nonsense" }), json!({ "$ref": "http://nowhere.invalid/x" })] {
        let error = flat(&json!({ "schema": schema, "strict": false })).unwrap_err();
        assert_eq!(error.code.as_deref(), Some("invalid_json_schema"), "{schema}");
    }
}

#[test]
fn answers_are_held_to_the_schema() {
    let rule =
        flat(&json!({ "schema": strict_schema(), "strict": false, "description": "about a" })).unwrap();
    let rule = rule.rule.unwrap();
    assert!(rule.instruction.contains("about a") && rule.instruction.contains(&strict_schema().to_string()));
    assert_eq!(rule.complaint(&answer(r#"{"a": 1}"#)), None);
    assert!(rule.complaint(&answer(r#"{"a": "x"}"#)).unwrap().contains("at '/a'"));
    assert!(rule.complaint(&answer("```json\n{}\n```")).unwrap().starts_with("It is no JSON"));
    assert_eq!(rule.complaint(&[]).unwrap(), "It has 0 messages; one was asked for.");
}

#[test]
fn any_object_will_do_for_json_object() {
    let format = read(&json!({ "type": "json_object" }), Nesting::Flat).unwrap();
    assert_eq!(format.echo, json!({ "type": "json_object" }));
    let rule = format.rule.unwrap();
    assert_eq!(rule.complaint(&answer("{}")), None);
    assert_eq!(rule.complaint(&answer("[]")).unwrap(), "It is JSON, but not an object.");
}

#[test]
fn calls_and_refusals_have_no_form() {
    let rule = read(&json!({ "type": "json_object" }), Nesting::Flat).unwrap().rule.unwrap();
    let call = Item::from_value(json!({ "type": "function_call", "name": "f" })).unwrap();
    assert_eq!(rule.complaint(&[call]), None);
    let refusal = Item::message("assistant", vec![json!({ "type": "refusal", "refusal": "no" })]);
    assert_eq!(rule.complaint(&[refusal]), None);
    for kind in ["web_search_call", "image_generation_call"] {
        let own = Item::from_value(json!({ "type": kind })).unwrap();
        assert!(rule.complaint(&[own]).is_some(), "{kind}");
    }
}

#[test]
fn what_is_said_on_the_way_is_no_answer() {
    let rule = read(&json!({ "type": "json_object" }), Nesting::Flat).unwrap().rule.unwrap();
    let commentary = json!({ "type": "message", "role": "assistant", "phase": "commentary",
                             "content": [{ "type": "output_text", "text": "let me see" }] });
    let commentary = Item::from_value(commentary).unwrap();
    assert_eq!(rule.complaint(&[vec![commentary.clone()], answer("{}")].concat()), None);
    assert!(rule.complaint(&[commentary]).is_some());
    let twice = [answer("{}"), answer("{}")].concat();
    assert_eq!(rule.complaint(&twice).unwrap(), "It has 2 messages; one was asked for.");
}
