//! The app-server tries a cut stream again, from the start and under the same item id; clients see no prefix
//! twice.

use serde_json::{Value, json};

use crate::daemon::{Daemon, deltas_of, terminal_of, text_of};

fn cut() -> Value {
    json!({"responseStreamDisconnected": {"httpStatusCode": null}})
}

#[tokio::test]
async fn a_retry_that_says_the_same_shows_once() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("one two").await;
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut");
    turn.item_started("agentMessage", "m").delta("m", "one").delta("m", " two thr").delta("m", "ee");
    turn.retrying(&cut(), "Reconnecting... 2/5", "cut");
    turn.item_started("agentMessage", "m").delta("m", "one two three four");
    turn.message("m", "one two three four").response(1, 4).completed();
    let events = events.rest().await;
    assert_eq!(deltas_of(&events), "one two three four");
    let terminal = terminal_of(&events);
    assert_eq!(terminal["type"], "response.completed");
    assert_eq!(text_of(&terminal["response"]), "one two three four");
    let added = events.iter().filter(|event| event["type"] == "response.output_item.added").count();
    assert_eq!(added, 1);
    daemon.finish().await;
}

#[tokio::test]
async fn a_retry_that_says_something_else_is_a_named_failure() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("one two").await;
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut");
    turn.item_started("agentMessage", "m").delta("m", "one other").message("m", "one other");
    turn.response(1, 2).completed();
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    let message =
        terminal_of(&events)["response"]["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("retry"), "{message}");
    assert_eq!(deltas_of(&events), "one two");

    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let (events, turn) = daemon.streaming_at("/v1/chat/completions", body, "one two").await;
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut").delta("m", "else");
    let events = events.rest().await;
    let errors: Vec<_> = events.iter().filter(|event| event.get("error").is_some()).collect();
    assert_eq!(errors.len(), 1, "{events:#?}");
    crate::http::assert_error_shape(errors[0]);
    assert_eq!(errors[0]["error"]["code"], "retry_diverged");
    assert!(events.iter().all(|event| event["choices"][0]["finish_reason"].is_null()));
    daemon.finish().await;
}

#[tokio::test]
async fn nobody_saw_the_first_try_of_a_whole_answer() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "one two");
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut");
    turn.item_started("agentMessage", "m").delta("m", "something else").message("m", "something else");
    turn.response(1, 2).completed();
    assert_eq!(text_of(&asking.answer().await.ok()), "something else");
    daemon.finish().await;
}

#[tokio::test]
async fn reasoning_of_a_retry_shows_once_too() {
    let mut daemon = Daemon::start(|_| {}).await;
    let body = json!({"input": "hi", "reasoning": {"summary": "auto"}});
    let client = daemon.client.clone();
    let (events, turn) = tokio::join!(client.stream("/v1/responses", &body), async {
        let turn = daemon.peer.turn().await;
        turn.begin();
        turn
    });
    let think = |text: &str| {
        turn.item_started("reasoning", "r");
        turn.tell("item/reasoning/summaryPartAdded", json!({"itemId": "r", "summaryIndex": 0}));
        turn.tell(
            "item/reasoning/summaryTextDelta",
            json!({"itemId": "r", "summaryIndex": 0, "delta": text}),
        );
    };
    think("hmm, ");
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut");
    think("hmm, well");
    let summary = json!([{"type": "summary_text", "text": "hmm, well"}]);
    let item = json!({"type": "reasoning", "id": "r", "summary": summary, "encrypted_content": "x"});
    turn.tell("rawResponseItem/completed", json!({"item": item}));
    turn.item_started("agentMessage", "m").delta("m", "done").message("m", "done").response(1, 2).completed();
    let events = events.rest().await;
    let thought: String = events
        .iter()
        .filter(|event| event["type"] == "response.reasoning_summary_text.delta")
        .filter_map(|event| event["delta"].as_str())
        .collect();
    assert_eq!(thought, "hmm, well");
    let response = &terminal_of(&events)["response"];
    assert_eq!(response["output"][0]["summary"], summary);
    assert_eq!(text_of(response), "done");
    daemon.finish().await;
}
