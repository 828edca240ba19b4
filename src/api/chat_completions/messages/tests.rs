use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::api::spec_samples;

fn read(messages: Value) -> (Result<Draft, ApiError>, Ignored) {
    let Value::Array(messages) = messages else { panic!("not a list") };
    let mut ignored = Ignored::default();
    let result = decode(messages, &mut ignored);
    (result, ignored)
}

fn check(messages: Value, expected: &Value) {
    let (draft, ignored) = read(messages);
    assert_eq!(Value::Array(draft.unwrap().into_values()), *expected);
    assert_eq!(ignored, Ignored::default());
}

fn refused(messages: Value) -> (String, String) {
    let error = read(messages).0.unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    (error.param.unwrap(), error.code.unwrap_or_default())
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}})
}

#[test]
fn every_role_with_a_string() {
    check(
        json!([
            {"role": "system", "content": "one"},
            {"role": "developer", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": "four"},
            {"role": "user", "content": ""},
        ]),
        &json!([
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "one"}]},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "two"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "three"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "four"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ""}]},
        ]),
    );
}

#[test]
fn content_in_parts() {
    check(
        json!([
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "auto"}},
                {"type": "image_url", "image_url": "data:image/png;base64,AA"},
            ]},
            {"role": "assistant", "content": [{"type": "text", "text": "c"}, {"type": "refusal", "refusal": "no"}]},
        ]),
        &json!([
            {"type": "message", "role": "developer", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "https://a.example/x.png", "detail": "auto"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA"},
            ]},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "c"}, {"type": "output_text", "text": "no"}]},
        ]),
    );
}

#[test]
fn our_own_answer_comes_back_without_a_word() {
    check(
        json!([{
            "role": "assistant", "content": "hello", "refusal": null, "annotations": [], "audio": null,
            "function_call": null, "tool_calls": null, "reasoning_content": "hm", "parsed": {"a": 1},
        }]),
        &json!([{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]}]),
    );
    check(
        json!([{"role": "assistant", "content": null, "refusal": "I cannot."}]),
        &json!([{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I cannot."}]}]),
    );
}

#[test]
fn past_tool_calls_and_their_outputs() {
    let custom = json!({"id": "c2", "type": "custom", "custom": {"name": "g", "input": "raw"}});
    check(
        json!([
            {"role": "assistant", "content": "calling", "tool_calls": [call("c1"), custom]},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
            {"role": "assistant", "content": "", "tool_calls": [call("c1")]},
            {"role": "tool", "tool_call_id": "c1", "content": "again"},
        ]),
        &json!([
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "calling"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "raw"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "two"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "again"},
        ]),
    );
}

#[test]
fn past_function_calls_of_the_deprecated_form() {
    check(
        json!([
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "one"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": null},
        ]),
        &json!([
            {"type": "function_call", "call_id": "call_message_0", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_message_0", "output": "one"},
            {"type": "function_call", "call_id": "call_message_2", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_message_2", "output": ""},
        ]),
    );
}

#[test]
fn calls_and_outputs_must_pair_up() {
    let orphan =
        json!([{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c1", "content": "y"}]);
    assert_eq!(refused(orphan).0, "messages[1]");
    let orphan = json!([{"role": "function", "name": "f", "content": "y"}]);
    assert_eq!(refused(orphan).0, "messages[0]");
    let unanswered = json!([
        {"role": "assistant", "tool_calls": [call("c1"), call("c2")]},
        {"role": "tool", "tool_call_id": "c1", "content": "y"},
        {"role": "user", "content": "and?"},
    ]);
    let error = read(unanswered).0.unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages[0]"));
    assert!(error.message.ends_with("response messages: c2."), "{}", error.message);
    let twice = json!([
        {"role": "assistant", "tool_calls": [call("c1")]},
        {"role": "tool", "tool_call_id": "c1", "content": "y"},
        {"role": "tool", "tool_call_id": "c1", "content": "z"},
    ]);
    assert_eq!(refused(twice).0, "messages[2]");
    let same = json!([{"role": "assistant", "tool_calls": [call("c1"), call("c1")]}]);
    assert_eq!(refused(same).0, "messages[0].tool_calls[1].id");
}

#[test]
fn what_has_no_place_upstream_is_reported() {
    let (draft, ignored) = read(json!([
        {"role": "user", "name": "ann", "content": "x"},
        {"role": "user", "name": "bob", "content": [
            {"type": "text", "text": "y", "prompt_cache_breakpoint": {}},
            {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
        ]},
        {"role": "assistant", "content": "z", "mood": "good", "tool_calls": [
            {"id": "c", "index": 0, "type": "function", "surprise": 1,
             "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}, "hurry": true}},
        ]},
        {"role": "tool", "name": "f", "tool_call_id": "c", "content": "done"},
    ]));
    assert_eq!(draft.unwrap().into_values().len(), 5);
    let names = [
        "name",
        "content[].prompt_cache_breakpoint",
        "content[].image_url.detail",
        "tool_calls[].function.hurry",
        "tool_calls[].surprise",
        "mood",
    ];
    let mut expected = Ignored::default();
    for name in names {
        expected.add(format!("messages[].{name}"));
    }
    assert_eq!(ignored, expected);
}

#[test]
fn mistakes_name_their_place() {
    for (message, param, code) in [
        (json!("hi"), "messages[0]", "invalid_type"),
        (json!({"content": "x"}), "messages[0].role", "missing_required_parameter"),
        (json!({"role": "boss", "content": "x"}), "messages[0].role", "invalid_value"),
        (json!({"role": "user"}), "messages[0].content", "missing_required_parameter"),
        (json!({"role": "user", "content": null}), "messages[0].content", "missing_required_parameter"),
        (json!({"role": "user", "content": 7}), "messages[0].content", "invalid_type"),
        (json!({"role": "user", "content": []}), "messages[0].content", "empty_array"),
        (json!({"role": "user", "content": ["x"]}), "messages[0].content[0]", "invalid_type"),
        (
            json!({"role": "user", "content": [{}]}),
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        (
            json!({"role": "user", "content": [{"type": "text"}]}),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}),
            "messages[0].content[0].input_audio.format",
            "missing_required_parameter",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "flac"}}]}),
            "messages[0].content[0].input_audio.format",
            "invalid_value",
        ),
        (
            json!({"role": "user", "content": [{"type": "file", "file": {}}]}),
            "messages[0].content[0].file.file_data",
            "missing_required_parameter",
        ),
        (
            json!({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}),
            "messages[0].content[0].file.file_id",
            "unsupported_value",
        ),
        (
            json!({"role": "system", "content": [{"type": "file", "file": {"file_data": "x"}}]}),
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            json!({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            "messages[0].content[0].image_url.url",
            "missing_required_parameter",
        ),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "huge"}}]}),
            "messages[0].content[0].image_url.detail",
            "invalid_value",
        ),
        (json!({"role": "user", "content": "x", "name": 1}), "messages[0].name", "invalid_type"),
        (json!({"role": "assistant"}), "messages[0].content", "missing_required_parameter"),
        (
            json!({"role": "assistant", "content": "x", "audio": {"id": "a"}}),
            "messages[0].audio",
            "unsupported_parameter",
        ),
        (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id", "missing_required_parameter"),
        (json!({"role": "function", "content": "x"}), "messages[0].name", "missing_required_parameter"),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}]}),
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
    ] {
        let expected = (param.to_owned(), code.to_owned());
        assert_eq!(refused(json!([message.clone()])), expected, "{message}");
    }
    assert_eq!(refused(json!([])), ("messages".into(), "empty_array".into()));
}

/// A conversation of one official message, and of what it cannot be without.
fn conversation(mut message: Value) -> Value {
    let called = json!({"role": "assistant", "tool_calls": [call("x")]});
    let output = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "x"});
    match message["role"].as_str() {
        Some("assistant") => {
            message["tool_calls"][0]["id"] = json!("a");
            message["tool_calls"][1]["id"] = json!("b");
            json!([message, output("a"), output("b"), {"role": "function", "name": "x", "content": "x"}])
        }
        Some("tool") => json!([message, called]),
        Some("function") => {
            json!([message, {"role": "assistant", "function_call": {"name": "x", "arguments": "{}"}}])
        }
        _ => json!([message]),
    }
}

#[test]
fn every_official_property_of_a_message_is_read_refused_or_has_a_policy() {
    let mut roles = BTreeSet::new();
    for message in spec_samples::samples("ChatCompletionRequestMessage") {
        roles.insert(message["role"].as_str().unwrap().to_owned());
        let mut messages = conversation(message);
        // What the message answers stands before it; errors name the message by its place.
        let answers = matches!(messages[0]["role"].as_str(), Some("tool" | "function"));
        let ignored = loop {
            let mut given = messages.clone();
            if answers {
                given.as_array_mut().unwrap().reverse();
            }
            match read(given) {
                (Ok(_), ignored) => break ignored,
                (Err(error), _) => {
                    let param = error.param.clone().unwrap();
                    let place = param.strip_prefix("messages").unwrap();
                    assert!(!answers && spec_samples::remove(&mut messages, place), "{error:?}");
                }
            }
        };
        for name in ignored.names() {
            assert!(FIELDS.iter().any(|field| field.name == *name), "{name} has no policy");
        }
    }
    assert_eq!(roles.len(), ROLES.len());
}
