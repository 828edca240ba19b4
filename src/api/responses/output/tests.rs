use serde_json::json;

use super::*;
use crate::api::responses::events::tests::head;
use crate::api::spec;

fn official_form(item: Value) -> Option<Value> {
    let item = Item::from_value(item).unwrap();
    let form = official(&item, 3, head().form()).map(Value::Object)?;
    spec::assert_valid("OutputItem", &form);
    // What has begun is an official item too.
    spec::assert_valid("OutputItem", &Value::Object(begun(form.as_object().unwrap())));
    Some(form)
}

#[expect(clippy::needless_pass_by_value, reason = "cases are written as literals")]
fn check(item: Value, expected: Value) {
    assert_eq!(official_form(item).unwrap(), expected);
}

#[test]
fn a_message_gets_its_required_fields_and_loses_the_others() {
    check(
        json!({ "type": "message", "role": "assistant", "id": "msg_1", "phase": "final_answer", "surprise": 1,
            "content": [{ "type": "output_text", "text": "x", "surprise": 1 }] }),
        json!({ "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "phase": "final_answer",
            "content": [{ "type": "output_text", "text": "x", "annotations": [], "logprobs": [] }] }),
    );
    let form =
        official_form(json!({ "type": "message", "role": "assistant", "phase": "new", "content": [] }));
    assert_eq!(form.unwrap()["phase"], Value::Null);
}

#[test]
fn the_parts_of_a_message_are_one_text_and_its_refusals() {
    let citation = |start: u32, title: Value| {
        json!({ "type": "url_citation", "url": "http://a", "start_index": start, "end_index": start + 1,
                "title": title })
    };
    check(
        json!({ "type": "message", "role": "assistant", "id": "msg_1", "content": [
            { "type": "output_text", "text": "äb", "annotations": [citation(0, json!("t"))] },
            { "type": "refusal", "refusal": "no" },
            { "type": "output_text", "text": "c", "annotations": [citation(0, json!(null)), { "type": "new" }] },
        ] }),
        json!({ "id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [
            { "type": "output_text", "text": "äbc", "logprobs": [],
              "annotations": [citation(0, json!("t")), citation(2, json!(""))] },
            { "type": "refusal", "refusal": "no" },
        ] }),
    );
}

#[test]
fn encrypted_reasoning_is_for_those_who_asked() {
    let item = Item::from_value(json!({ "type": "reasoning", "id": "rs_1", "content": null,
        "summary": [{ "type": "summary_text", "text": "s" }], "encrypted_content": "e" }))
    .unwrap();
    let mut head = head();
    let plain =
        json!({ "id": "rs_1", "type": "reasoning", "summary": [{ "type": "summary_text", "text": "s" }] });
    assert_eq!(Value::Object(official(&item, 0, head.form()).unwrap()), plain);
    head.echo.encrypted_reasoning = true;
    assert_eq!(official(&item, 0, head.form()).unwrap()["encrypted_content"], "e");
}

#[test]
fn tool_calls_and_the_rest_are_official() {
    check(
        json!({ "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}",
            "encrypted_function_args": [] }),
        json!({ "id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}",
            "status": "completed" }),
    );
    check(
        json!({ "type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "f", "input": "x",
            "status": "completed" }),
        json!({ "id": "ctc_1", "type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "x" }),
    );
    for action in [
        json!({ "type": "search", "query": "q", "queries": ["q"] }),
        json!({ "type": "open_page", "url": "http://a" }),
        json!({ "type": "find_in_page", "url": "http://a", "pattern": "p" }),
    ] {
        let item =
            json!({ "id": "ws_1", "type": "web_search_call", "status": "completed", "action": action });
        check(item.clone(), item);
    }
    official_form(json!({ "type": "web_search_call", "action": { "type": "other" } })).unwrap();
    official_form(json!({ "type": "web_search_call" })).unwrap();
    official_form(json!({ "type": "image_generation_call", "result": "aGk=", "revised_prompt": "p" }))
        .unwrap();
    official_form(json!({ "type": "compaction", "encrypted_content": "e" })).unwrap();
    official_form(json!({ "type": "reasoning", "content": [{ "type": "text", "text": "c" }] })).unwrap();
}

#[test]
fn items_nobody_asked_for_are_left_out() {
    for item in [
        json!({ "type": "message", "role": "user", "content": [] }),
        json!({ "type": "context_compaction" }),
        json!({ "type": "surprise" }),
        json!({}),
    ] {
        assert_eq!(official_form(item), None);
    }
}

#[test]
fn an_item_without_an_id_gets_one_from_its_place() {
    let item = json!({ "type": "message", "role": "assistant", "content": [] });
    assert_eq!(official_form(item.clone()).unwrap()["id"], "msg_103");
    assert_eq!(official_form(item).unwrap()["id"], "msg_103");
}
