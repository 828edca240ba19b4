use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::api::spec_samples;

/// What `input` becomes; items without images need no fetcher to be looked at.
fn decoded(input: Value) -> Result<Vec<Value>, ApiError> {
    let mut draft = Draft::default();
    decode(input, &mut draft, &mut Ignored::default())?;
    assert!(draft.image_params().is_empty());
    Ok(draft.into_values())
}

#[expect(clippy::needless_pass_by_value, reason = "cases are written as literals")]
fn check(input: Value, expected: Value) {
    assert_eq!(Value::Array(decoded(input).unwrap()), expected);
}

/// Items that go through as they are.
fn check_verbatim(items: Value) {
    check(items.clone(), items);
}

fn refused(input: Value) -> (String, String) {
    let error = decoded(input).unwrap_err();
    (error.param.unwrap(), error.code.unwrap())
}

fn at(param: &str, code: &str) -> (String, String) {
    (param.to_owned(), code.to_owned())
}

fn user(text: &str) -> Value {
    json!({ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": text }] })
}

#[test]
fn text_is_a_user_message() {
    check(json!("hi"), json!([user("hi")]));
}

#[test]
fn messages_come_with_and_without_type_and_parts() {
    check(
        json!([
            { "role": "user", "content": "hi" },
            { "type": "message", "role": "user", "content": "hi" },
            { "type": null, "role": "user", "content": [{ "type": "input_text", "text": "hi" }] },
        ]),
        json!([user("hi"), user("hi"), user("hi")]),
    );
    check_verbatim(json!([]));
    check_verbatim(json!([{ "type": "message", "role": "user", "content": [] }]));
}

#[test]
fn roles_decide_the_kind_of_text() {
    for (role, sent_as, kind) in [
        ("system", "developer", "input_text"),
        ("developer", "developer", "input_text"),
        ("user", "user", "input_text"),
        ("assistant", "assistant", "output_text"),
    ] {
        let expected =
            json!([{ "type": "message", "role": sent_as, "content": [{ "type": kind, "text": "x" }] }]);
        check(json!([{ "role": role, "content": "x" }]), expected.clone());
        check(json!([{ "role": role, "content": [{ "type": "input_text", "text": "x" }] }]), expected);
    }
}

#[test]
fn output_items_go_back_verbatim() {
    let annotation =
        json!({ "type": "url_citation", "url": "http://a", "start_index": 0, "end_index": 1, "title": "t" });
    check_verbatim(json!([
        { "type": "reasoning", "id": "rs_1", "summary": [{ "type": "summary_text", "text": "s" }],
          "content": [{ "type": "reasoning_text", "text": "c" }], "encrypted_content": "e" },
        { "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "final_answer",
          "content": [{ "type": "output_text", "text": "x", "annotations": [annotation], "logprobs": [] }] },
        { "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "namespace": "n",
          "arguments": "{}", "status": "completed" },
        { "type": "function_call_output", "id": "fco_1", "call_id": "c1", "output": "out" },
        { "type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "g", "input": "in" },
        { "type": "custom_tool_call_output", "call_id": "c2", "output": [{ "type": "input_text", "text": "out" }] },
        { "type": "web_search_call", "id": "ws_1", "status": "completed",
          "action": { "type": "search", "query": "q", "queries": ["q"] } },
        { "type": "web_search_call", "id": "ws_2", "status": "completed",
          "action": { "type": "find_in_page", "url": "http://a", "pattern": "p" } },
        { "type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk=" },
        { "type": "compaction", "id": "cmp_1", "encrypted_content": "e" },
    ]));
}

#[test]
fn the_rest_of_an_output_item_is_left_behind() {
    check(
        json!([
            { "type": "reasoning", "id": "rs_1", "summary": [], "content": null, "status": "completed",
              "encrypted_content": null },
            { "type": "web_search_call", "id": "ws_1", "status": "completed",
              "action": { "type": "search", "query": "q", "sources": [{ "type": "url", "url": "http://a" }] } },
            { "type": "message", "role": "user", "id": null, "status": null, "unknown": 1,
              "content": [{ "type": "input_text", "text": "x", "prompt_cache_breakpoint": { "mode": "explicit" } }] },
        ]),
        json!([
            { "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": null },
            { "type": "web_search_call", "id": "ws_1", "status": "completed",
              "action": { "type": "search", "query": "q" } },
            user("x"),
        ]),
    );
}

#[test]
fn what_has_no_effect_is_reported_but_for_what_every_loop_sends_back() {
    let ignored = |input: Value| {
        let mut ignored = Ignored::default();
        decode(input, &mut Draft::default(), &mut ignored).unwrap();
        ignored.names().to_vec()
    };
    let breakpoint = json!({ "mode": "explicit" });
    assert_eq!(
        ignored(json!([
            { "role": "user", "surprise": 1,
              "content": [{ "type": "input_text", "text": "x", "prompt_cache_breakpoint": breakpoint }] },
            { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "hurry": true },
            { "type": "function_call_output", "call_id": "c", "status": "completed",
              "output": [{ "type": "input_text", "text": "x", "prompt_cache_breakpoint": breakpoint }] },
            { "type": "reasoning", "summary": [{ "type": "summary_text", "text": "s", "mood": "good" }] },
        ])),
        [
            "input[].content[].prompt_cache_breakpoint",
            "input[].surprise",
            "input[].hurry",
            "input[].output[].prompt_cache_breakpoint",
            "input[].summary[].mood",
        ]
    );
    let sent_back = json!([
        { "type": "reasoning", "id": "rs", "summary": [], "content": null, "status": null, "encrypted_content": "e" },
        { "type": "message", "id": "msg", "role": "assistant", "status": "completed", "phase": "final_answer",
          "content": [{ "type": "output_text", "text": "x", "annotations": [], "logprobs": [], "parsed": {} }] },
        { "type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed",
          "parsed_arguments": {}, "namespace": null, "caller": { "type": "direct" } },
        { "type": "function_call_output", "id": "fco", "call_id": "c", "output": "x", "status": "completed",
          "created_by": "x" },
        { "type": "web_search_call", "id": "ws", "status": "completed",
          "action": { "type": "search", "query": "q", "queries": ["q"], "sources": [] } },
        { "type": "image_generation_call", "id": "ig", "status": "completed", "result": "aGk=",
          "revised_prompt": "x", "size": "1024x1024", "quality": "low", "output_format": "png", "background": "auto",
          "action": "generate" },
    ]);
    assert_eq!(ignored(sent_back), Vec::<String>::new());
}

#[test]
fn a_refusal_is_what_the_assistant_said() {
    check(
        json!([{ "role": "assistant", "content": [{ "type": "refusal", "refusal": "no" }] }]),
        json!([{ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "no" }] }]),
    );
}

#[test]
fn images_are_named_by_their_place() {
    let mut draft = Draft::default();
    let image =
        json!({ "type": "input_image", "image_url": "https://a/b", "detail": "high", "file_id": null });
    let input = json!([
        { "role": "user", "content": "x" },
        { "role": "user", "content": [{ "type": "input_text", "text": "x" }, image] },
    ]);
    let mut ignored = Ignored::default();
    decode(input, &mut draft, &mut ignored).unwrap();
    assert_eq!(draft.image_params(), ["input[1].content[1].image_url"]);
    assert_eq!(
        draft.into_values()[1]["content"][1],
        json!({ "type": "input_image", "image_url": "https://a/b", "detail": "high" })
    );
    let mut expected = Ignored::default();
    expected.add("input[].content[].detail");
    assert_eq!(ignored, expected);
}

#[test]
fn an_item_may_be_given_by_reference() {
    let reference = json!([{ "type": "item_reference", "id": "msg_1" }]);
    check(reference.clone(), reference.clone());
    check(json!([{ "id": "msg_1" }]), reference);
    assert_eq!(
        refused(json!([{ "type": "item_reference" }])),
        at("input[0].id", "missing_required_parameter")
    );
}

#[test]
fn what_would_be_lost_is_refused_by_name() {
    let part =
        |part: Value| json!([{ "role": "user", "content": "x" }, { "role": "user", "content": [part] }]);
    let unsupported = "unsupported_value";
    assert_eq!(refused(json!([{ "type": "mcp_call", "id": "m" }])), at("input[0].type", "invalid_value"));
    assert_eq!(refused(json!([{ "type": "surprise" }])), at("input[0].type", "invalid_value"));
    assert_eq!(
        refused(part(json!({ "type": "input_file", "file_id": "f" }))),
        at("input[1].content[0].file_id", unsupported)
    );
    assert_eq!(
        refused(json!([{ "role": "developer", "content": [{ "type": "input_audio", "input_audio": {} }] }])),
        at("input[0].content[0].type", "invalid_value")
    );
    assert_eq!(
        refused(part(json!({ "type": "input_image", "file_id": "f" }))),
        at("input[1].content[0].file_id", unsupported)
    );
    assert_eq!(
        refused(part(json!({ "type": "refusal", "refusal": "no" }))),
        at("input[1].content[0].type", "invalid_value")
    );
}

#[test]
fn mistakes_name_their_place() {
    let (missing, wrong, value) = ("missing_required_parameter", "invalid_type", "invalid_value");
    assert_eq!(refused(json!(1)), at("input", wrong));
    assert_eq!(refused(json!(["x"])), at("input[0]", wrong));
    assert_eq!(refused(json!([{}])), at("input[0].type", missing));
    assert_eq!(refused(json!([{ "role": "user" }])), at("input[0].content", missing));
    assert_eq!(refused(json!([{ "role": "user", "content": null }])), at("input[0].content", missing));
    assert_eq!(refused(json!([{ "role": "user", "content": 1 }])), at("input[0].content", wrong));
    assert_eq!(refused(json!([{ "role": "tool", "content": "x" }])), at("input[0].role", value));
    assert_eq!(refused(json!([{ "type": "message", "content": "x" }])), at("input[0].role", missing));
    assert_eq!(refused(json!([{ "role": "user", "content": ["x"] }])), at("input[0].content[0]", wrong));
    assert_eq!(
        refused(json!([{ "role": "user", "content": [{ "type": "input_text" }] }])),
        at("input[0].content[0].text", missing)
    );
    assert_eq!(
        refused(json!([{ "role": "user", "content": [{ "type": "input_image" }] }])),
        at("input[0].content[0].image_url", missing)
    );
    assert_eq!(
        refused(json!([{ "type": "reasoning", "id": "rs", "summary": [{ "type": "x", "text": "y" }] }])),
        at("input[0].summary[0].type", value)
    );
    let both = json!({ "type": "input_file", "file_data": "x", "file_url": "https://a/b" });
    assert_eq!(
        refused(json!([{ "role": "user", "content": [both] }])),
        at("input[0].content[0].file_url", value)
    );
    let flac = json!({ "type": "input_audio", "input_audio": { "data": "AA", "format": "flac" } });
    assert_eq!(
        refused(json!([{ "role": "user", "content": [flac] }])),
        at("input[0].content[0].input_audio.format", value)
    );
    assert_eq!(refused(json!([{ "type": "function_call", "name": "f" }])), at("input[0].call_id", missing));
    assert_eq!(
        refused(json!([{ "type": "function_call_output", "call_id": "c" }])),
        at("input[0].output", missing)
    );
    assert_eq!(
        refused(
            json!([{ "type": "function_call_output", "call_id": "c", "output": [{ "type": "input_file" }] }])
        ),
        at("input[0].output[0].file_data", missing)
    );
    assert_eq!(
        refused(json!([{ "type": "web_search_call", "action": { "type": "other" } }])),
        at("input[0].action.type", value)
    );
}

#[test]
fn every_official_property_of_an_item_is_read_refused_or_has_a_policy() {
    let mut kinds = BTreeSet::new();
    for item in spec_samples::samples("InputItem") {
        let kind = item["type"].as_str().unwrap().to_owned();
        if !KINDS.contains(&&*kind) {
            continue;
        }
        let mut items = json!([item]);
        let ignored = loop {
            let mut ignored = Ignored::default();
            match decode(items.clone(), &mut Draft::default(), &mut ignored) {
                Ok(()) => break ignored,
                Err(error) => {
                    let param = error.param.clone().unwrap();
                    assert!(
                        spec_samples::remove(&mut items, param.strip_prefix("input").unwrap()),
                        "{error:?}"
                    );
                }
            }
        };
        for name in ignored.names() {
            assert!(FIELDS.iter().any(|field| field.name == *name), "{name} of {kind} has no policy");
        }
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), KINDS.len(), "{kinds:?}");
}
