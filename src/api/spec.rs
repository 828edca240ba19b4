//! For tests: bodies and events against the official schemas (`tests/spec`), closed: no field beside the
//! specification's, and every required one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Map, Value, json};

const SPEC: &str = include_str!("../../tests/spec/openai.json");

/// The specification's schemas by name.
pub(crate) static DEFINITIONS: LazyLock<Map<String, Value>> = LazyLock::new(definitions);

/// Panics with every mistake unless `value` is exactly what the named schema describes.
pub(crate) fn assert_valid(schema: &str, value: &Value) {
    let validator = validator(schema);
    let mistakes: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(mistakes.is_empty(), "not a {schema}:\n{}\n{value:#}", mistakes.join("\n"));
}

/// The same for a whole answer, but for what is ours in it and documented.
pub(crate) fn assert_official(schema: &str, answer: &Value) {
    let mut official = answer.clone();
    without(Some(&mut official), &["bridge", "details"]);
    without(official.get_mut("response"), &["bridge"]);
    without(official.get_mut("error"), &["bridge"]);
    for model in entries(&mut official, "data") {
        without(Some(model), &["details"]);
    }
    for choice in entries(&mut official, "choices") {
        without(choice.get_mut("message"), &["reasoning_content"]);
        without(choice.get_mut("delta"), &["reasoning_content"]);
    }
    assert_valid(schema, &official);
}

/// The same for an event of a stream whose events are of `schema`.
pub(crate) fn assert_official_event(schema: &str, event: &Value) {
    let is_error = event["error"].is_object() && !event["type"].is_string();
    match event["type"].as_str() {
        _ if event == "[DONE]" => {}
        _ if is_error => assert_official("ErrorResponse", event),
        Some(kind) if schema == "ResponseStreamEvent" => assert_official(&stream_event(kind), event),
        _ => assert_official(schema, event),
    }
}

fn entries<'a>(of: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    of.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

fn without(object: Option<&mut Value>, names: &[&str]) {
    if let Some(fields) = object.and_then(Value::as_object_mut) {
        fields.retain(|name, _| !names.contains(&name.as_str()));
    }
}

/// Whether `value` is exactly what the named schema describes.
pub(crate) fn is_valid(schema: &str, value: &Value) -> bool {
    validator(schema).is_valid(value)
}

/// The schema of the stream event that calls itself `kind`.
pub(crate) fn stream_event(kind: &str) -> String {
    static BY_TYPE: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let members = DEFINITIONS["ResponseStreamEvent"]["anyOf"].as_array().expect("a list of events");
        let names = members
            .iter()
            .map(|member| member["$ref"].as_str().expect("a reference").rsplit('/').next().expect("a name"));
        names
            .map(|name| name.trim_end_matches(CLOSED).to_owned())
            .map(|name| {
                let kind = DEFINITIONS[&name]["properties"]["type"]["enum"][0].as_str().expect("a type");
                (kind.to_owned(), name)
            })
            .collect()
    });
    BY_TYPE.get(kind).unwrap_or_else(|| panic!("no official event is called {kind}")).clone()
}

/// The suffix of a schema's closed twin.
const CLOSED: &str = ".closed";

fn validator(schema: &str) -> Arc<Validator> {
    static BUILT: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    // Compiled once each, under the lock: tests only, nothing awaits.
    let mut built = BUILT.lock().expect("no test panics while building");
    Arc::clone(built.entry(schema.to_owned()).or_insert_with(|| {
        let root = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": format!("#/$defs/{schema}{CLOSED}"),
            "$defs": &*DEFINITIONS,
        });
        Arc::new(jsonschema::validator_for(&root).expect("the specification compiles"))
    }))
}

/// Each schema twice: as it is, for `allOf`, and closed, for everything else.
fn definitions() -> Map<String, Value> {
    let spec: Value = serde_json::from_str(SPEC).expect("the specification is JSON");
    let mut schemas = spec["components"]["schemas"].as_object().expect("schemas").clone();
    except(&mut schemas);
    let mut definitions = Map::new();
    for (name, schema) in schemas {
        definitions.insert(name.clone(), rewrite(&schema, Form::Open));
        definitions.insert(format!("{name}{CLOSED}"), rewrite(&schema, Form::Closed));
    }
    definitions
}

/// Where the official service itself leaves its specification, and we follow the service.
fn except(schemas: &mut Map<String, Value>) {
    // `usage` is null until the end.
    let usage = schemas["ResponseUsage"].take();
    schemas["ResponseUsage"] = json!({ "anyOf": [usage, { "type": "null" }] });
    // So it is in a stream of these, as is the reason.
    let completion = &mut schemas["CreateCompletionResponse"]["properties"];
    let reason = &mut completion["choices"]["items"]["properties"]["finish_reason"];
    *reason = json!({ "anyOf": [reason.take(), { "type": "null" }] });
    completion["usage"] = json!({ "anyOf": [completion["usage"].take(), { "type": "null" }] });
    // A stream has what a whole answer has: citations, and calls of custom tools.
    let citations = schemas["ChatCompletionResponseMessage"]["properties"]["annotations"].clone();
    schemas["ChatCompletionStreamResponseDelta"]["properties"]["annotations"] = citations;
    let call = &mut schemas["ChatCompletionMessageToolCallChunk"]["properties"];
    call["type"]["enum"] = json!(["function", "custom"]);
    let text = json!({ "type": "string" });
    call["custom"] = json!({ "type": "object", "properties": { "name": text, "input": text } });
    // What was said is listed with what was answered.
    let mut message = schemas["ChatCompletionResponseMessage"].clone();
    message["properties"]["role"] = json!({ "type": "string" });
    schemas["ChatCompletionMessageList"]["properties"]["data"]["items"]["allOf"][0] = message;
    // `store` is answered as it was asked, and the penalties that nobody can set are told.
    let parts = schemas["Response"]["allOf"].as_array_mut().expect("Response is a composition");
    let penalty = json!({ "type": "number" });
    let properties =
        json!({ "store": { "type": "boolean" }, "frequency_penalty": penalty, "presence_penalty": penalty });
    parts.push(json!({ "type": "object", "properties": properties }));
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Open,
    Closed,
}

fn rewrite(node: &Value, form: Form) -> Value {
    let Value::Object(fields) = node else { return node.clone() };
    let mut out = Map::new();
    for (key, value) in fields {
        let value = match (key.as_str(), value) {
            ("discriminator", _) => continue,
            ("$ref", Value::String(target)) => {
                let name = target.rsplit('/').next().unwrap_or_default();
                let suffix = if form == Form::Closed { CLOSED } else { "" };
                format!("#/$defs/{name}{suffix}").into()
            }
            // The composition closes as a whole; its parts must let the others' fields pass.
            ("allOf", Value::Array(parts)) => parts.iter().map(|part| rewrite(part, Form::Open)).collect(),
            ("anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter().map(|part| rewrite(part, form)).collect()
            }
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, schema)| (name.clone(), rewrite(schema, Form::Closed)))
                .collect(),
            ("default" | "const" | "nullable", value) => value.clone(),
            (_, schema) => rewrite(schema, Form::Closed),
        };
        out.insert(key.clone(), value);
    }
    let describes_fields = out.contains_key("properties") || out.contains_key("allOf");
    if form == Form::Closed && describes_fields && !out.contains_key("additionalProperties") {
        out.insert("unevaluatedProperties".into(), false.into());
    }
    // How the older dialect of the Chat Completions schemas allows null.
    if out.remove("nullable") == Some(Value::Bool(true)) {
        return json!({ "anyOf": [out, { "type": "null" }] });
    }
    Value::Object(out)
}

#[test]
fn the_official_example_is_valid_and_closed() {
    let mut response = json!({
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "error": null,
        "incomplete_details": null, "instructions": null, "model": "gpt-5", "output": [],
        "parallel_tool_calls": true, "metadata": {}, "tools": [], "tool_choice": "auto",
        "temperature": 1.0, "top_p": 1.0, "usage": null, "store": true,
    });
    assert_valid("Response", &response);
    response["surprise"] = json!(1);
    assert!(!is_valid("Response", &response));
    response.as_object_mut().expect("an object").remove("surprise");
    response["output"] = json!([{ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [{ "type": "output_text", "text": "x", "annotations": [], "logprobs": [] }] }]);
    assert_valid("Response", &response);
    response["output"][0]["content"][0]["surprise"] = json!(1);
    assert!(!is_valid("Response", &response));
    response["output"][0]["content"][0] = json!({ "type": "output_text", "text": "x" });
    assert!(!is_valid("Response", &response));
}
