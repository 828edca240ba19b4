//! The app-server tries a cut stream again, from the start and under the same item id; clients see no prefix
//! twice.

use std::time::Duration;

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
    assert!(message.ends_with("(retry_diverged)"), "{message}");
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

#[tokio::test]
async fn the_first_retry_may_end_the_call() {
    let limited = || json!({"responseStreamDisconnected": {"httpStatusCode": 429}});
    let mut daemon = Daemon::start(|config| config.turn.fail_fast = true).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().retrying(&limited(), "Reconnecting... 1/5", "exceeded retry limit. Try again in 20s.");
    let answer = asking.answer().await;
    assert_eq!(answer.failure(), (429, "rate_limit_exceeded".into()));
    assert_eq!(answer.header("retry-after"), Some("20"));
    daemon.until_interrupted(&turn).await;

    let (events, turn) = daemon.streaming("one ").await;
    turn.retrying(&cut(), "Reconnecting... 1/5", "stream disconnected before completion: why");
    let events = events.rest().await;
    let error = &terminal_of(&events)["response"]["error"];
    let told = "stream disconnected before completion: why (stream_disconnected)";
    assert_eq!((&error["code"], &error["message"]), (&json!("server_error"), &json!(told)));
    daemon.until_interrupted(&turn).await;
    daemon.finish().await;
}

#[tokio::test]
async fn retries_end_with_the_last_attempts_own_error() {
    let mut daemon = Daemon::start(|config| config.turn.max_retry_wait = Duration::from_millis(150)).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().retrying(&cut(), "Reconnecting... 1/5", "stream disconnected before completion: first");
    let refused = json!({"responseStreamDisconnected": {"httpStatusCode": 503}});
    turn.retrying(&refused, "Reconnecting... 2/5", "unexpected status 503");
    let answer = asking.answer().await;
    assert_eq!(answer.failure(), (503, "server_overloaded".into()));
    assert_eq!(answer.error()["message"], "unexpected status 503");
    daemon.until_interrupted(&turn).await;

    // An attempt that answers may go on for longer; the next one has no time left.
    let (events, turn) = daemon.streaming("one ").await;
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut").item_started("agentMessage", "m").delta("m", "one ");
    tokio::time::sleep(Duration::from_millis(300)).await;
    turn.delta("m", "two ");
    turn.retrying(&cut(), "Reconnecting... 1/5", "cut").item_started("agentMessage", "m");
    tokio::time::sleep(Duration::from_millis(300)).await;
    turn.retrying(&cut(), "Reconnecting... 2/5", "cut again");
    let events = events.rest().await;
    assert_eq!(deltas_of(&events), "one two ");
    let error = &terminal_of(&events)["response"]["error"];
    assert_eq!(error["message"], "cut again (stream_disconnected)");
    daemon.finish().await;
}

/// Over the upstream WebSocket nothing tells of the first retry: it shows where the answer begins anew.
#[tokio::test]
async fn a_retry_that_nobody_told_counts_too() {
    let mut daemon = Daemon::start(|config| config.turn.fail_fast = true).await;
    let (events, turn) = daemon.streaming("one two").await;
    turn.item_started("agentMessage", "m2").delta("m2", "one two three");
    let events = events.rest().await;
    assert_eq!(deltas_of(&events), "one two");
    let error = &terminal_of(&events)["response"]["error"];
    assert!(error["message"].as_str().is_some_and(|told| told.ends_with("(stream_disconnected)")), "{error}");
    daemon.until_interrupted(&turn).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_request_may_shorten_the_wait_and_never_lengthen_it() {
    let mut daemon = Daemon::start(|config| config.turn.max_retry_wait = Duration::from_millis(150)).await;
    for (path, body) in [
        ("/v1/responses", json!({"input": "hi"})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "hi"}]})),
    ] {
        for wait in ["0s", "1h"] {
            let client = daemon.client.clone();
            let headers = [("x-codex-bridge-max-wait", wait)];
            let (answer, ()) = tokio::join!(client.post_with(path, &headers, &body), async {
                let turn = daemon.peer.turn().await;
                turn.begin().retrying(&cut(), "Reconnecting... 1/5", "cut");
            });
            assert_eq!(answer.failure(), (502, "stream_disconnected".into()), "{path} {wait}");
        }
        let answer = daemon.client.post_with(path, &[("x-codex-bridge-max-wait", "soon")], &body).await;
        assert_eq!(answer.failure(), (400, "invalid_value".into()));
        assert_eq!(answer.error()["param"], "x-codex-bridge-max-wait");
    }
    daemon.finish().await;
}

/// Going on would tell the model that it was filtered, in words that are not the client's.
#[tokio::test]
async fn an_answer_that_a_filter_ends_is_incomplete_and_not_tried_again() {
    let mut daemon = Daemon::start(|_| {}).await;
    let why = "stream disconnected before completion: Incomplete response returned, reason: content_filter";
    let (events, turn) = daemon.streaming("half").await;
    turn.retrying(&cut(), "Reconnecting... 1/5", why);
    let events = events.rest().await;
    let terminal = terminal_of(&events);
    assert_eq!(terminal["type"], "response.incomplete");
    assert_eq!(terminal["response"]["incomplete_details"]["reason"], "content_filter");
    assert_eq!(text_of(&terminal["response"]), "half");
    daemon.until_interrupted(&turn).await;

    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let asking = daemon.post("/v1/chat/completions", chat);
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half").retrying(
        &cut(),
        "Reconnecting... 1/5",
        why,
    );
    let answer = asking.answer().await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(answer["choices"][0]["message"]["content"], "half");
    daemon.finish().await;
}
