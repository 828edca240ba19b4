//! Background responses: without their client, cancelled, streamed again, over a restart.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::{Daemon, deltas_of, terminal_of, text_of};
use crate::http::{Answer, Events, until};
use crate::peer::Turn;
use crate::spec::assert_valid;

fn body(more: &Value) -> Value {
    let mut body = json!({"input": "hi", "background": true});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// The answer to a background request, which is there before any turn.
async fn queued(daemon: &Daemon, more: &Value) -> Value {
    let queued = daemon.client.post("/v1/responses", &body(more)).await.ok();
    assert_valid("Response", &queued);
    assert_eq!((&queued["status"], &queued["background"]), (&json!("queued"), &json!(true)));
    queued
}

/// Ends a turn that has begun.
fn say(turn: &Turn, text: &str) {
    turn.message("m", text).response(12, 3).completed();
}

fn path(response: &Value) -> String {
    format!("/v1/responses/{}", response["id"].as_str().expect("an id"))
}

async fn read(daemon: &Daemon, response: &Value) -> Value {
    let read = daemon.client.get(&path(response)).await.ok();
    assert_valid("Response", &read);
    read
}

async fn until_status(daemon: &Daemon, response: &Value, status: &str) -> Value {
    until(status, async || Some(read(daemon, response).await).filter(|read| read["status"] == status)).await
}

async fn cancel(daemon: &Daemon, response: &Value) -> Answer {
    daemon.client.post(&format!("{}/cancel", path(response)), &json!({})).await
}

async fn stream(daemon: &Daemon, response: &Value, after: Option<u64>) -> Events {
    let after = after.map(|after| format!("&starting_after={after}")).unwrap_or_default();
    daemon.client.stream_at(&format!("{}?stream=true{after}", path(response))).await
}

#[tokio::test]
async fn a_response_is_made_without_its_client() {
    let mut daemon = Daemon::start(|_| ()).await;
    let queued = queued(&daemon, &json!({"metadata": {"a": "b"}})).await;
    assert_eq!(queued["output"], json!([]));
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "he");
    until_status(&daemon, &queued, "in_progress").await;
    let items = daemon.client.get(&format!("{}/input_items", path(&queued))).await.ok();
    assert_eq!(items["data"][0]["content"][0]["text"], "hi");
    turn.delta("m", "llo");
    say(&turn, "hello");
    let done = until_status(&daemon, &queued, "completed").await;
    assert_eq!((text_of(&done).as_str(), &done["metadata"]), ("hello", &json!({"a": "b"})));
    assert_eq!((&done["background"], &done["created_at"]), (&json!(true), &queued["created_at"]));

    let again = cancel(&daemon, &queued).await.ok();
    assert_eq!((&again["status"], text_of(&again).as_str()), (&json!("completed"), "hello"));
    let refused = daemon.client.get(&format!("{}?stream=true", path(&queued))).await;
    assert_eq!(refused.failure(), (400, "unsupported_value".into()));
    let asking = daemon.post("/v1/responses", json!({"input": "x", "previous_response_id": queued["id"]}));
    daemon.peer.turn().await.answer("more");
    assert_eq!(text_of(&asking.answer().await.ok()), "more");
    assert_eq!(daemon.client.delete(&path(&queued)).await.ok()["deleted"], true);
    assert_eq!(daemon.client.get(&path(&queued)).await.status, 404);
    daemon.finish().await;
}

#[tokio::test]
async fn what_the_request_gets_wrong_is_told_at_once() {
    let daemon = Daemon::start(|config| config.background.max_jobs = 1).await;
    let post = async |more: Value| daemon.client.post("/v1/responses", &body(&more)).await.failure();
    assert_eq!(post(json!({"store": false})).await, (400, "invalid_parameter_combination".into()));
    assert_eq!(post(json!({"model": "none"})).await, (404, "model_not_found".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn events_are_told_again_to_several_readers_while_they_come() {
    let mut daemon = Daemon::start(|_| ()).await;
    let mut first = daemon.client.stream("/v1/responses", &body(&json!({}))).await;
    let created = first.next().await.expect("an event");
    assert_eq!((&created["type"], &created["sequence_number"]), (&json!("response.created"), &json!(0)));
    assert_eq!(created["response"]["status"], "queued");
    assert_eq!(first.next().await.expect("an event")["type"], "response.queued");
    let response = created["response"].clone();
    drop(first);
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half ");
    let mut second = stream(&daemon, &response, Some(1)).await;
    let begun = second.next().await.expect("an event");
    assert_eq!((&begun["type"], &begun["sequence_number"]), (&json!("response.in_progress"), &json!(2)));
    second.until("response.output_text.delta").await;
    let third = stream(&daemon, &response, None).await;
    // One that takes nothing delays nobody.
    let _slow = stream(&daemon, &response, None).await;
    turn.delta("m", "done");
    say(&turn, "half done");
    let (second, third) = tokio::join!(second.rest(), third.rest());
    assert_eq!(deltas_of(&third), "half done");
    assert_eq!(terminal_of(&second), terminal_of(&third));
    for (event, number) in third.iter().zip(0_u64..) {
        if event != "[DONE]" {
            assert_valid("ResponseStreamEvent", event);
            assert_eq!(event["sequence_number"], number);
        }
    }
    let done = until_status(&daemon, &response, "completed").await;
    assert_eq!(text_of(&done), "half done");
    let all = stream(&daemon, &response, None).await.rest().await;
    assert_eq!(all, third, "after the end");
    daemon.finish().await;
}

#[tokio::test]
async fn events_are_kept_for_a_while() {
    let mut daemon = Daemon::start(|config| config.background.log_bytes = 20_000).await;
    let mut events = daemon.client.stream("/v1/responses", &body(&json!({}))).await;
    let response = events.next().await.expect("an event")["response"].clone();
    let turn = daemon.peer.turn().await;
    turn.begin();
    say(&turn, &"x".repeat(30_000));
    let rest = events.rest().await;
    assert!(rest.iter().any(|event| event["code"] == "stream_expired"), "{rest:#?}");
    let done = until_status(&daemon, &response, "completed").await;
    assert_eq!(text_of(&done).len(), 30_000);
    let refused = daemon.client.get(&format!("{}?stream=true", path(&response))).await;
    assert_eq!(refused.failure(), (400, "stream_expired".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn what_waits_or_runs_can_be_cancelled() {
    let mut daemon = Daemon::start(|config| config.admission.slots = 1).await;
    let running = queued(&daemon, &json!({})).await;
    let turn = daemon.peer.turn().await;
    turn.begin();
    until_status(&daemon, &running, "in_progress").await;
    let waiting = queued(&daemon, &json!({})).await;
    daemon.until_load((1, 1)).await;
    for response in [&waiting, &running] {
        for _ in 0..2 {
            let cancelled = cancel(&daemon, response).await.ok();
            assert_valid("Response", &cancelled);
            assert_eq!(cancelled["status"], "cancelled");
        }
        assert_eq!(read(&daemon, response).await["status"], "cancelled");
    }
    daemon.until_interrupted(&turn).await;
    turn.interrupted();
    let streamed = daemon.client.stream("/v1/responses", &body(&json!({}))).await;
    let turn = daemon.peer.turn().await;
    turn.begin();
    let mut streamed = streamed;
    let response = streamed.until("response.in_progress").await["response"].clone();
    assert_eq!(daemon.client.delete(&path(&response)).await.ok()["deleted"], true);
    assert_eq!(streamed.rest().await.last(), Some(&json!("[DONE]")));
    daemon.until_interrupted(&turn).await;
    turn.interrupted();
    assert_eq!(daemon.client.get(&path(&response)).await.status, 404);
    assert_eq!(cancel(&daemon, &response).await.status, 404);
    daemon.finish().await;
}

#[tokio::test]
async fn a_failure_is_told_and_kept() {
    let mut daemon = Daemon::start(|_| ()).await;
    let response = queued(&daemon, &json!({})).await;
    daemon.peer.turn().await.begin().failed(&json!("usageLimitExceeded"), "No more.");
    let failed = until_status(&daemon, &response, "failed").await;
    assert_eq!(failed["error"]["code"], "rate_limit_exceeded");
    let message = failed["error"]["message"].as_str().expect("a message");
    assert!(message.contains("usage_limit_reached"), "{message}");
    assert_eq!(cancel(&daemon, &response).await.ok()["status"], "failed");
    let items = daemon.client.get(&format!("{}/input_items", path(&response))).await.ok();
    assert_eq!(items["data"][0]["content"][0]["text"], "hi");
    daemon.finish().await;
}

#[tokio::test]
async fn a_full_queue_is_tried_again() {
    let mut daemon = Daemon::start(|config| {
        (config.admission.slots, config.admission.queue) = (1, 0);
        config.background.max_jobs = 2;
    })
    .await;
    let first = queued(&daemon, &json!({})).await;
    let turn = daemon.peer.turn().await;
    let second = queued(&daemon, &json!({})).await;
    let refused = daemon.client.post("/v1/responses", &body(&json!({}))).await;
    assert_eq!(refused.failure(), (429, "rate_limit_exceeded".into()));
    assert_eq!(read(&daemon, &second).await["status"], "queued");
    turn.answer("one");
    until_status(&daemon, &first, "completed").await;
    daemon.peer.turn().await.answer("two");
    assert_eq!(text_of(&until_status(&daemon, &second, "completed").await), "two");
    daemon.finish().await;
}

#[tokio::test]
async fn what_has_not_ended_is_not_continued() {
    let mut daemon = Daemon::start(|_| ()).await;
    let response = queued(&daemon, &json!({})).await;
    let turn = daemon.peer.turn().await;
    let more = json!({"input": "x", "previous_response_id": response["id"]});
    let refused = daemon.client.post("/v1/responses", &more).await;
    assert_eq!(refused.failure(), (400, "previous_response_in_progress".into()));
    assert_eq!(refused.error()["param"], "previous_response_id");
    turn.answer("one");
    until_status(&daemon, &response, "completed").await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_full_store_takes_none() {
    let daemon = Daemon::start(|config| config.store.max_document_bytes = 10).await;
    let refused = daemon.client.post("/v1/responses", &body(&json!({}))).await;
    assert_eq!(refused.failure(), (503, "store_full".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn what_nobody_has_seen_is_run_again_after_a_restart() {
    let mut daemon = Daemon::start(|config| {
        config.admission.slots = 1;
        config.shutdown.drain = Duration::ZERO;
    })
    .await;
    let done = queued(&daemon, &json!({})).await;
    daemon.peer.turn().await.answer("done");
    until_status(&daemon, &done, "completed").await;
    let running = queued(&daemon, &json!({"instructions": "be kind"})).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half");
    until_status(&daemon, &running, "in_progress").await;
    let waiting = queued(&daemon, &json!({})).await;
    let mut daemon = Box::pin(daemon.restart()).await;
    assert_eq!(text_of(&read(&daemon, &done).await), "done");
    for answer in ["one", "two"] {
        daemon.peer.turn().await.answer(answer);
    }
    let mut texts = Vec::new();
    for response in [&running, &waiting] {
        let now = until_status(&daemon, response, "completed").await;
        assert_eq!((&now["id"], &now["created_at"]), (&response["id"], &response["created_at"]));
        assert_eq!(now["instructions"], response["instructions"]);
        texts.push(text_of(&now));
    }
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
    daemon.finish().await;
}

#[tokio::test]
async fn what_was_seen_has_failed_when_the_bridge_stops() {
    let mut daemon = Daemon::start(|config| config.shutdown.drain = Duration::ZERO).await;
    let mut seen = daemon.client.stream("/v1/responses", &body(&json!({}))).await;
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half");
    let response = seen.until("response.in_progress").await["response"].clone();
    seen.until("response.output_text.delta").await;
    let (daemon, rest) = tokio::join!(daemon.restart(), seen.rest());
    assert_eq!(terminal_of(&rest)["type"], "response.failed");
    let failed = read(&daemon, &response).await;
    let message = failed["error"]["message"].as_str().expect("a message");
    assert!(message.contains("interrupted"), "{message}");
    let refused = daemon.client.get(&format!("{}?stream=true", path(&response))).await;
    assert_eq!(refused.failure(), (400, "stream_expired".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn tokens_of_the_input_are_counted_without_a_turn() {
    let daemon = Daemon::start(|_| ()).await;
    let count = async |body: Value| {
        let answer = daemon.client.post("/v1/responses/input_tokens", &body).await;
        assert_eq!(answer.header("x-codex-bridge-estimate"), Some("true"));
        let counted = answer.ok();
        assert_valid("TokenCountsResource", &counted);
        counted["input_tokens"].as_u64().expect("a number")
    };
    let short = count(json!({"input": "one two three"})).await;
    assert_eq!(short, 3);
    let long = json!({"input": "one two three", "instructions": "be very kind", "personality": "friendly"});
    assert_eq!(count(long).await, 6);
    let refused =
        daemon.client.post("/v1/responses/input_tokens", &json!({"model": "none", "input": "x"})).await;
    assert_eq!(refused.failure(), (404, "model_not_found".into()));
    daemon.finish().await;
}
