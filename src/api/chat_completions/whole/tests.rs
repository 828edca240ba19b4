use serde_json::{Value, json};

use super::*;
use crate::api::chat_completions::tests::{PLAIN, plan};
use crate::api::spec::assert_valid;
use crate::model::Usage;

fn item(value: Value) -> Item {
    Item::from_value(value).unwrap()
}

fn said(texts: &[&str]) -> Item {
    let part = |text: &&str| json!({"type": "output_text", "text": text, "annotations": []});
    let parts: Vec<Value> = texts.iter().map(part).collect();
    item(json!({"type": "message", "id": "msg_1", "role": "assistant", "content": parts}))
}

fn thought() -> Item {
    item(json!({"type": "reasoning", "id": "rs_1", "summary": [
        {"type": "summary_text", "text": "first"}, {"type": "summary_text", "text": "second"}]}))
}

fn outcome(output: Vec<Item>) -> Outcome {
    let usage = Usage {
        input_tokens: 10,
        cached_input_tokens: 4,
        output_tokens: 5,
        reasoning_tokens: 2,
        total_tokens: 15,
        ..Usage::default()
    };
    Outcome { usage: Some(usage), model: "gpt-x".into(), output, ..Outcome::default() }
}

fn completion(body: Value, outcomes: &[Outcome]) -> Value {
    let plan = Plan { id: "chatcmpl-1".into(), created: 0, ..plan(body) };
    serde_json::to_value(Completion::new(&plan, outcomes)).unwrap()
}

fn message(output: Vec<Item>) -> Value {
    completion(PLAIN.clone(), &[outcome(output)])["choices"][0]["message"].take()
}

#[test]
fn a_completion_is_the_official_object() {
    let body = completion(PLAIN.clone(), &[outcome(vec![thought(), said(&["Hel", "lo"])])]);
    assert_valid("CreateChatCompletionResponse", &body);
    insta::assert_json_snapshot!(body, @r#"
    {
      "id": "chatcmpl-1",
      "object": "chat.completion",
      "created": 0,
      "model": "gpt-x",
      "choices": [
        {
          "index": 0,
          "message": {
            "role": "assistant",
            "content": "Hello",
            "refusal": null,
            "annotations": []
          },
          "logprobs": null,
          "finish_reason": "stop"
        }
      ],
      "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {
          "cached_tokens": 4
        },
        "completion_tokens_details": {
          "reasoning_tokens": 2
        }
      }
    }
    "#);
}

#[test]
fn several_choices_share_one_prompt() {
    let mut request = PLAIN.clone();
    request["n"] = json!(2);
    let body = completion(request, &[outcome(vec![said(&["a"])]), outcome(vec![said(&["b"])])]);
    assert_valid("CreateChatCompletionResponse", &body);
    let contents: Vec<&Value> =
        body["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(contents, ["a", "b"]);
    assert_eq!(body["choices"][1]["index"], 1);
    assert_eq!(body["usage"]["prompt_tokens"], 10);
    assert_eq!(body["usage"]["completion_tokens"], 10);
}

#[test]
fn reasoning_is_shown_where_it_was_asked_for() {
    let output = || vec![outcome(vec![thought(), said(&["x"])])];
    let mut request = PLAIN.clone();
    request["reasoning"] = json!({"summary": "auto"});
    let body = completion(request, &output());
    assert_eq!(body["choices"][0]["message"]["reasoning_content"], "first\n\nsecond");
    let body = completion(PLAIN.clone(), &output());
    assert_eq!(body["choices"][0]["message"].get("reasoning_content"), None);
}

#[test]
fn what_the_output_may_hold() {
    assert_eq!(message(vec![said(&["one"]), said(&["two"])])["content"], "one\n\ntwo");
    assert_eq!(message(vec![])["content"], "");
    let refused = item(json!({"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}));
    let message = message(vec![refused]);
    assert_eq!((&message["content"], &message["refusal"]), (&Value::Null, &json!("No.")));
}

#[test]
fn usage_that_never_came_is_left_out() {
    let outcome = Outcome { usage: None, ..outcome(vec![said(&["x"])]) };
    let body = completion(PLAIN.clone(), &[outcome]);
    assert_valid("CreateChatCompletionResponse", &body);
    assert_eq!(body.get("usage"), None);
}

#[test]
fn the_tier_is_told_to_those_who_named_one() {
    let mut request = PLAIN.clone();
    request["service_tier"] = json!("fast");
    let body = completion(request, &[outcome(vec![said(&["x"])])]);
    assert_valid("CreateChatCompletionResponse", &body);
    assert_eq!(body["service_tier"], "priority");
}

fn call(id: &str, name: &str) -> Item {
    item(json!({"type": "function_call", "id": "fc", "call_id": id, "name": name, "arguments": "{\"a\":1}"}))
}

#[test]
fn calls_are_the_message_and_end_it() {
    let body = completion(PLAIN.clone(), &[outcome(vec![call("c1", "f"), call("c2", "g")])]);
    assert_valid("CreateChatCompletionResponse", &body);
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let function = |name: &str| json!({"name": name, "arguments": "{\"a\":1}"});
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [
            {"id": "c1", "type": "function", "function": function("f")},
            {"id": "c2", "type": "function", "function": function("g")}]})
    );
    let mut request = PLAIN.clone();
    request["functions"] = json!([{"name": "f"}]);
    let body = completion(request, &[outcome(vec![said(&["so"]), call("c1", "f")])]);
    assert_valid("CreateChatCompletionResponse", &body);
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    assert_eq!(
        (&choice["message"]["content"], &choice["message"]["function_call"]),
        (&json!("so"), &function("f"))
    );
    assert_eq!(choice["message"].get("tool_calls"), None);
}

#[test]
fn an_answer_that_was_cut_says_why() {
    for (reason, said_so) in
        [(IncompleteReason::MaxOutputTokens, "length"), (IncompleteReason::ContentFilter, "content_filter")]
    {
        let outcome = Outcome { incomplete: Some(reason), ..outcome(vec![said(&["x"])]) };
        let body = completion(PLAIN.clone(), &[outcome]);
        assert_valid("CreateChatCompletionResponse", &body);
        assert_eq!(body["choices"][0]["finish_reason"], said_so);
    }
}

#[test]
fn citations_are_placed_in_the_joined_text() {
    let cited = |text: &str| {
        let citation = json!({"type": "url_citation", "url": "http://a", "title": "t", "start_index": 1, "end_index": 2});
        item(json!({"type": "message", "content": [
            {"type": "output_text", "text": text, "annotations": [citation, {"type": "new"}]}]}))
    };
    let body = completion(PLAIN.clone(), &[outcome(vec![cited("\u{e4}b"), cited("cd")])]);
    assert_valid("CreateChatCompletionResponse", &body);
    let annotations = body["choices"][0]["message"]["annotations"].as_array().unwrap();
    let starts: Vec<&Value> = annotations.iter().map(|one| &one["url_citation"]["start_index"]).collect();
    assert_eq!(starts, [1, 5]);
}

#[test]
fn a_trace_is_one_more_member() {
    let outcomes = [outcome(vec![said(&["a"])]), outcome(vec![said(&["b"])])];
    for n in [1, 2] {
        let plan = plan(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": n}));
        let completion = || serde_json::to_value(Completion::new(&plan, &outcomes[..n])).unwrap();
        let ids: Vec<_> = std::iter::once(&plan.first).chain(&plan.others).collect();
        for id in &ids {
            plan.turn(id).trace.note(|trace| trace.turns = 1);
        }
        let untraced = completion();
        assert_valid("CreateChatCompletionResponse", &untraced);
        plan.call.want_trace();
        let mut traced = completion();
        let trace = traced.as_object_mut().unwrap().shift_remove("bridge").unwrap()["trace"].take();
        assert_eq!(traced, untraced);
        assert_eq!(trace["mapping"]["response_id"], ids[0].as_str());
        let choices = trace["choices"].as_array().map_or(0, Vec::len);
        assert_eq!(choices, if n == 1 { 0 } else { n });
        if n > 1 {
            assert_eq!(trace["choices"][1]["mapping"]["response_id"], ids[1].as_str());
        }
    }
}
