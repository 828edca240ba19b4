//! The way down: what runs finishes within the bound, the rest is interrupted, nothing new is taken.

use std::time::Duration;

use serde_json::json;

use crate::daemon::{Daemon, terminal_of, text_of};
use crate::http::until;

#[tokio::test]
async fn a_running_turn_finishes_and_its_client_hears_the_end() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("one ").await;
    daemon.begin_stop();
    until("draining", async || daemon.bridge.health().await.draining.then_some(())).await;
    turn.delta("m", "two").message("m", "one two").response(1, 2).completed();
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.completed");
    daemon.end().await;
}

#[tokio::test]
async fn past_the_bound_a_turn_is_interrupted_and_told() {
    let mut daemon = Daemon::start(|config| config.shutdown.drain = Duration::from_millis(100)).await;
    let (events, turn) = daemon.streaming("one ").await;
    daemon.begin_stop();
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    daemon.until_interrupted(&turn).await;
    daemon.end().await;
}

#[tokio::test]
async fn who_waits_in_the_queue_is_told_at_once() {
    let mut daemon = Daemon::start(|config| config.admission.slots = 1).await;
    let first = daemon.ask("first");
    let turn = daemon.peer.turn().await;
    turn.begin();
    let second = daemon.ask("second");
    daemon.until_load((1, 1)).await;
    daemon.begin_stop();
    let refused = second.answer().await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    refused.error();
    turn.message("m", "one").response(1, 1).completed();
    first.answer().await.ok();
    daemon.end().await;
}

/// The repair of an answer is a turn of its own, and none of a new call.
#[tokio::test]
async fn an_answer_that_has_to_be_repaired_is() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking =
        daemon.post("/v1/responses", json!({"input": "hi", "text": {"format": {"type": "json_object"}}}));
    let turn = daemon.peer.turn().await;
    daemon.begin_stop();
    until("draining", async || daemon.bridge.health().await.draining.then_some(())).await;
    turn.answer("no JSON");
    daemon.peer.turn().await.answer("{}");
    assert_eq!(text_of(&asking.answer().await.ok()), "{}");
    daemon.end().await;
}

/// Nor is a choice that waits for a slot beside one that has it.
#[tokio::test]
async fn every_choice_of_a_completion_comes_to_its_end() {
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "n": 2});
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", json!({"prompt": ["a", "b"]}))] {
        let mut daemon = Daemon::start(|config| config.admission.slots = 1).await;
        let asking = daemon.post(path, body);
        let turn = daemon.peer.turn().await;
        daemon.until_load((1, 1)).await;
        daemon.begin_stop();
        until("draining", async || daemon.bridge.health().await.draining.then_some(())).await;
        turn.answer("one");
        daemon.peer.turn().await.answer("two");
        let completion = asking.answer().await.ok();
        assert_eq!(completion["choices"].as_array().map(Vec::len), Some(2), "{completion}");
        daemon.end().await;
    }
}
