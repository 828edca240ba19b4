//! Answers that the bridge itself holds to a form: checked before they are told, repaired once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::{Daemon, terminal_of, text_of};

fn body(stream: bool) -> Value {
    json!({ "input": "hi", "stream": stream, "instructions": "be brief",
            "text": { "format": { "type": "json_object" } } })
}

/// What the items say, each as `role: text`.
fn said(items: &[Value]) -> Vec<String> {
    let text = |item: &Value| item["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .map(|item| format!("{}: {}", item["role"].as_str().unwrap_or_default(), text(item)))
        .collect()
}

#[tokio::test]
async fn a_good_answer_is_told_as_it_is() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.post("/v1/responses", body(false));
    let turn = daemon.peer.turn().await;
    let [instructions, input] = &said(&turn.items)[..] else { panic!("{:?}", turn.items) };
    assert!(instructions.starts_with("developer: be brief\n\nAnswer with exactly one JSON object"));
    assert_eq!(input, "user: hi");
    turn.answer("{}");
    let response = asking.answer().await.ok();
    assert_eq!(text_of(&response), "{}");
    assert_eq!(response["instructions"], "be brief");
    assert_eq!(response["text"]["format"], json!({ "type": "json_object" }));
    daemon.finish().await;
}

#[tokio::test]
async fn a_bad_answer_is_repaired_and_both_attempts_are_counted() {
    for stream in [false, true] {
        let mut daemon = Daemon::start(|_| {}).await;
        let client = daemon.client.clone();
        let request = body(stream);
        let asking = async {
            if stream {
                let events = client.stream("/v1/responses", &request).await.rest().await;
                assert!(!events.iter().any(|event| event.to_string().contains("no JSON")), "{events:?}");
                terminal_of(&events)["response"].clone()
            } else {
                client.post("/v1/responses", &request).await.ok()
            }
        };
        let (response, ()) = tokio::join!(asking, async {
            daemon.peer.turn().await.answer("no JSON");
            let turn = daemon.peer.turn().await;
            let said = said(&turn.items);
            assert_eq!(said[1..3], ["user: hi", "assistant: no JSON"]);
            assert!(said[3].contains("It is no JSON"), "{said:?}");
            turn.answer("{\"a\": 1}");
        });
        assert_eq!(response["status"], "completed");
        assert_eq!(text_of(&response), "{\"a\": 1}");
        assert_eq!(response["usage"]["input_tokens"], 24);
        assert_eq!(response["usage"]["total_tokens"], 30);

        // The response is the repaired answer for those who continue it, too.
        let next = json!({ "input": "go on", "previous_response_id": response["id"] });
        let asking = daemon.post("/v1/responses", next);
        let turn = daemon.peer.turn().await;
        assert_eq!(said(&turn.items).last().map(String::as_str), Some("user: go on"));
        assert!(said(&turn.items).contains(&"assistant: {\"a\": 1}".to_owned()));
        turn.answer("ok");
        asking.answer().await.ok();
        daemon.finish().await;
    }
}

#[tokio::test]
async fn chat_completions_repair_the_same_way() {
    let mut daemon = Daemon::start(|_| {}).await;
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"] });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema, "strict": false } });
    let asking = daemon.post(
        "/v1/chat/completions",
        json!({ "messages": [{ "role": "user", "content": "hi" }], "response_format": format }),
    );
    daemon.peer.turn().await.answer("{\"a\": \"x\"}");
    let turn = daemon.peer.turn().await;
    let said = said(&turn.items);
    assert!(said[0].contains("JSON Schema") && said[3].contains("at '/a'"), "{said:?}");
    assert_eq!(said[1..3], ["user: hi", "assistant: {\"a\": \"x\"}"]);
    turn.answer("{\"a\": 1}");
    let completion = asking.answer().await.ok();
    assert_eq!(completion["choices"][0]["message"]["content"], "{\"a\": 1}");
    assert_eq!(completion["usage"]["completion_tokens"], 6);
    daemon.finish().await;
}

#[tokio::test]
async fn an_answer_that_stays_bad_is_an_honest_failure() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.post("/v1/responses", body(false));
    daemon.peer.turn().await.answer("no");
    daemon.peer.turn().await.answer("no again");
    assert_eq!(asking.answer().await.failure(), (502, "invalid_structured_output".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn an_answer_that_a_stop_sequence_cut_is_not_asked_for_again() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.post(
        "/v1/chat/completions",
        json!({ "messages": [{ "role": "user", "content": "hi" }], "stop": ["}"],
                "response_format": { "type": "json_object" } }),
    );
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "{\"a\": 1} and more");
    let completion = asking.answer().await.ok();
    assert_eq!(completion["choices"][0]["message"]["content"], "{\"a\": 1");
    assert_eq!(completion["choices"][0]["finish_reason"], "stop");
    daemon.finish().await;
}

/// The client has the response's id, and knows nothing of the first attempt.
#[tokio::test]
async fn a_bad_answer_whose_client_leaves_during_the_repair_is_not_continued() {
    let mut daemon = Daemon::start(|config| config.stream.head_timeout = Duration::ZERO).await;
    let client = daemon.client.clone();
    let request = body(true);
    let (mut events, first) = tokio::join!(client.stream("/v1/responses", &request), async {
        let first = daemon.peer.turn().await;
        first.begin();
        first
    });
    let created = events.next().await.expect("an event");
    first.message("m", "no JSON").response(3, 4).completed();
    let repair = daemon.peer.turn().await;
    repair.begin();
    drop(events);
    daemon.until_interrupted(&repair).await;
    daemon.until_idle().await;
    let next = json!({ "input": "go on", "previous_response_id": created["response"]["id"] });
    let mut continued = 0;
    let failure = loop {
        let asking = daemon.post("/v1/responses", next.clone());
        tokio::select! {
            answer = asking.answer() => break answer.failure(),
            // It is forgotten by a task of its own, which may not have run yet.
            turn = daemon.peer.turn() => turn.answer("gone on"),
        }
        continued += 1;
        assert!(continued < 10, "the bad answer is still there");
    };
    assert_eq!(failure, (400, "previous_response_not_found".into()));
    daemon.finish().await;
}
