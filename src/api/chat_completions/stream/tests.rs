use serde_json::{Value, json};

use super::*;
use crate::api::chat_completions::tests::{PLAIN, plan};
use crate::api::spec::assert_valid;
use crate::api::sse;
use crate::api::sse::tests::Script;
use crate::config::StreamConfig;
use crate::model::{IncompleteReason, ThreadId, TurnId, Usage};
use http_body_util::BodyExt;

fn event(event: TurnEvent) -> TurnStep {
    TurnStep::Event(event)
}

fn started() -> TurnStep {
    event(TurnEvent::Started { thread: ThreadId::new("t"), turn: TurnId::new("1") })
}

fn text(item: &str, delta: &str) -> TurnStep {
    event(TurnEvent::TextDelta { item_id: item.into(), delta: delta.into() })
}

fn message(id: &str, text: &str) -> TurnStep {
    let content = json!([{"type": "output_text", "text": text}]);
    done(json!({"type": "message", "id": id, "role": "assistant", "content": content}))
}

fn done(item: Value) -> TurnStep {
    event(TurnEvent::ItemDone(Item::from_value(item).unwrap()))
}

fn finished() -> TurnStep {
    let usage = Usage {
        input_tokens: 10,
        cached_input_tokens: 4,
        output_tokens: 5,
        reasoning_tokens: 2,
        total_tokens: 15,
        ..Usage::default()
    };
    TurnStep::Finished(Ok(Outcome { usage: Some(usage), model: "gpt-x".into(), ..Outcome::default() }))
}

fn thoughts() -> Vec<TurnStep> {
    let item_id = || "rs_1".to_owned();
    let delta = |index, delta: &str| {
        event(TurnEvent::SummaryDelta { item_id: item_id(), index, delta: delta.to_owned() })
    };
    let part = |index| event(TurnEvent::SummaryPartAdded { item_id: item_id(), index });
    let summary =
        json!([{"type": "summary_text", "text": "one two"}, {"type": "summary_text", "text": "three"}]);
    vec![
        event(TurnEvent::ReasoningStarted { item_id: item_id() }),
        part(0),
        delta(0, "one"),
        delta(0, " two"),
        part(1),
        delta(1, "three"),
        done(json!({"type": "reasoning", "id": "rs_1", "summary": summary})),
    ]
}

fn request(fields: Value) -> Value {
    let mut body = PLAIN.clone();
    body["stream"] = json!(true);
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    body
}

/// The stream as it goes over the wire, but for its id and time.
async fn transcript(fields: Value, scripts: Vec<Vec<TurnStep>>) -> String {
    transcript_of(plan(request(fields)), scripts).await
}

async fn transcript_of(plan: Plan, scripts: Vec<Vec<TurnStep>>) -> String {
    let plan = Plan { id: "chatcmpl-1".into(), created: 0, ..plan };
    let turns = scripts.into_iter().map(Script::of).collect::<Vec<_>>();
    let response = sse::respond(turns, Chunks::new(&plan, "gpt-x"), &StreamConfig::default()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The chunks, each checked against the official schema; the stream must end as it should.
fn chunks(transcript: &str) -> Vec<Value> {
    let body = transcript.strip_suffix("data: [DONE]\n\n").expect("the end is told");
    let chunks = body.split_terminator("\n\n").map(|frame| {
        let chunk: Value = serde_json::from_str(frame.strip_prefix("data: ").unwrap()).unwrap();
        if chunk.get("error").is_some() {
            assert_valid("ErrorResponse", &chunk);
        } else {
            let mut official = chunk.clone();
            for choice in official["choices"].as_array_mut().unwrap() {
                choice["delta"].as_object_mut().unwrap().remove("reasoning_content");
            }
            assert_valid("CreateChatCompletionStreamResponse", &official);
        }
        chunk
    });
    chunks.collect()
}

fn joined(chunks: &[Value], index: usize, member: &str) -> String {
    let choices = chunks.iter().filter_map(|chunk| chunk["choices"].as_array()).flatten();
    let of_index = choices.filter(|choice| choice["index"] == index);
    of_index.filter_map(|choice| choice["delta"].get(member)?.as_str()).collect()
}

#[tokio::test]
async fn a_plain_stream() {
    let script = vec![
        started(),
        event(TurnEvent::MessageStarted { item_id: "m1".into() }),
        text("m1", "Hel"),
        text("m1", "lo"),
        message("m1", "Hello"),
        finished(),
    ];
    let transcript = transcript(json!({}), vec![script]).await;
    assert_eq!(joined(&chunks(&transcript), 0, "content"), "Hello");
    insta::assert_snapshot!(transcript, @r#"
    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

    data: [DONE]
    "#);
}

#[tokio::test]
async fn usage_comes_last_where_it_was_asked_for() {
    let fields = json!({"stream_options": {"include_usage": true}, "service_tier": "flex"});
    let transcript = transcript(fields, vec![vec![text("m1", "x"), message("m1", "x"), finished()]]).await;
    chunks(&transcript);
    insta::assert_snapshot!(transcript, @r#"
    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"service_tier":"flex","usage":null}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"content":"x"},"logprobs":null,"finish_reason":null}],"service_tier":"flex","usage":null}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"service_tier":"flex","usage":null}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[],"service_tier":"flex","usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}

    data: [DONE]
    "#);
}

#[tokio::test]
async fn reasoning_is_shown_where_it_was_asked_for() {
    let script = || {
        let mut script = thoughts();
        script.extend([text("m1", "x"), message("m1", "x"), finished()]);
        vec![script]
    };
    let shown = transcript(json!({"reasoning": {"summary": "auto"}}), script()).await;
    assert_eq!(joined(&chunks(&shown), 0, "reasoning_content"), "one two\n\nthree");
    assert_eq!(joined(&chunks(&shown), 0, "content"), "x");
    insta::assert_snapshot!(shown, @r#"
    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"reasoning_content":"one"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"reasoning_content":" two"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"reasoning_content":"\n\n"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"reasoning_content":"three"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{"content":"x"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"gpt-x","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

    data: [DONE]
    "#);
    let hidden = transcript(json!({}), script()).await;
    assert!(!hidden.contains("reasoning_content"));
}

#[tokio::test]
async fn what_came_without_deltas_is_written_at_its_end() {
    let refusal = json!({"type": "message", "id": "m3", "content": [{"type": "refusal", "refusal": "No."}]});
    let summary = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]});
    let script = vec![
        done(summary),
        message("m1", "one"),
        text("m2", "tw"),
        message("m2", "two"),
        done(refusal),
        finished(),
    ];
    let chunks = chunks(&transcript(json!({"reasoning": {"summary": "auto"}}), vec![script]).await);
    assert_eq!(joined(&chunks, 0, "content"), "one\n\ntwo");
    assert_eq!(joined(&chunks, 0, "refusal"), "No.");
    assert_eq!(joined(&chunks, 0, "reasoning_content"), "hm");
}

#[tokio::test]
async fn choices_are_told_apart_and_counted_together() {
    let script = |word: &str| vec![text("m1", word), message("m1", word), finished()];
    let fields = json!({"n": 2, "stream_options": {"include_usage": true}});
    let chunks = chunks(&transcript(fields, vec![script("a"), script("b")]).await);
    assert_eq!((joined(&chunks, 0, "content"), joined(&chunks, 1, "content")), ("a".into(), "b".into()));
    let ends = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "stop").count();
    assert_eq!(ends, 2);
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(10), &json!(10)));
}

#[tokio::test]
async fn a_failure_midway_is_the_last_thing_told() {
    let failed = TurnStep::Finished(Err(BridgeError::ConnectionLost { reason: "gone".into() }));
    let scripts = vec![vec![text("m1", "Hel"), failed], vec![text("m1", "more"), finished()]];
    let transcript = transcript(json!({"n": 2, "stream_options": {"include_usage": true}}), scripts).await;
    let chunks = chunks(&transcript);
    let last = chunks.last().unwrap();
    assert_eq!(last["error"]["code"], "app_server_connection_lost");
    assert_eq!(chunks.iter().filter(|chunk| chunk.get("error").is_some()).count(), 1);
}

#[tokio::test]
async fn a_later_choice_starts_when_it_is_asked_for() {
    let mut start = Start::later(async { Err(BridgeError::Draining) });
    assert!(matches!(start.next().await, TurnStep::Finished(Err(BridgeError::Draining))));
}

fn calls_script() -> Vec<TurnStep> {
    let call = |id: &str, name: &str| json!({"type": "function_call", "call_id": id, "name": name, "arguments": "{\"a\":1}"});
    let output = [call("c1", "f"), call("c2", "g")].map(|item| Item::from_value(item).unwrap());
    let mut script: Vec<TurnStep> = output.iter().cloned().map(TurnEvent::ItemDone).map(event).collect();
    let outcome = Outcome { model: "gpt-x".into(), output: output.to_vec(), ..Outcome::default() };
    script.push(TurnStep::Finished(Ok(outcome)));
    script
}

#[tokio::test]
async fn calls_come_head_first_and_once() {
    let transcript = transcript(json!({}), vec![calls_script()]).await;
    chunks(&transcript);
    insta::assert_snapshot!(transcript);
}

#[tokio::test]
async fn a_deprecated_call_has_its_own_form() {
    let script = calls_script().split_off(1);
    let transcript = transcript(json!({"functions": [{"name": "g"}]}), vec![script]).await;
    let chunks = chunks(&transcript);
    let joined: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["function_call"]).collect();
    assert_eq!(*joined[1], json!({"name": "g", "arguments": ""}));
    assert_eq!(*joined[2], json!({"arguments": "{\"a\":1}"}));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "function_call");
}

#[tokio::test]
async fn a_cut_answer_ends_with_its_reason() {
    let outcome = Outcome { incomplete: Some(IncompleteReason::MaxOutputTokens), ..Outcome::default() };
    let script = vec![text("m1", "Hel"), TurnStep::Finished(Ok(outcome))];
    let chunks = chunks(&transcript(json!({}), vec![script]).await);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_trace_is_one_more_member_of_the_last_chunk() {
    for (fields, n) in
        [(json!({}), 1), (json!({"n": 2}), 2), (json!({"stream_options": {"include_usage": true}}), 1)]
    {
        let scripts = || (0..n).map(|_| vec![started(), text("m1", "Hello"), finished()]).collect::<Vec<_>>();
        let untraced = chunks(&transcript(fields.clone(), scripts()).await);
        let plan = plan(request(fields));
        plan.call.want_trace();
        plan.turn(&plan.first).trace.note(|trace| trace.turns = 1);
        let transcript = transcript_of(plan, scripts()).await;
        let body = transcript.strip_suffix("data: [DONE]\n\n").unwrap();
        let frames = body.split_terminator("\n\n").map(|frame| frame.strip_prefix("data: ").unwrap());
        let mut traced: Vec<Value> = frames.map(|data| serde_json::from_str(data).unwrap()).collect();
        let last = traced.last_mut().unwrap().as_object_mut().unwrap();
        assert_eq!(last.shift_remove("bridge").unwrap()["trace"]["turns"], 1);
        assert_eq!(traced, untraced);
    }
}

#[tokio::test]
async fn an_error_in_a_stream_has_its_trace_too() {
    let plan = plan(request(json!({})));
    plan.call.want_trace();
    let failing = vec![started(), text("m1", "Hel"), TurnStep::Finished(Err(BridgeError::Draining))];
    let transcript = transcript_of(plan, vec![failing]).await;
    let frame = transcript.split("\n\n").find(|frame| frame.contains("\"error\"")).unwrap();
    let mut error: Value = serde_json::from_str(frame.strip_prefix("data: ").unwrap()).unwrap();
    let bridge = error["error"].as_object_mut().unwrap().shift_remove("bridge").unwrap();
    assert_eq!(bridge["trace"]["request"]["target"], "GET -");
    assert_valid("ErrorResponse", &error);
}
