//! How a turn ends, also where the app-server does not say so plainly.

use serde_json::{Value, json};

use crate::daemon::{Daemon, deltas_of, terminal_of, text_of};
use crate::http::until;
use crate::peer::usage;

#[tokio::test]
async fn a_plain_turn_reaches_the_model_lean_and_leaves_nothing() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.params["input"], json!([]));
    let [item] = &turn.items[..] else { panic!("{:?}", turn.items) };
    assert_eq!(item["role"], "user");
    assert_eq!(item["content"], json!([{"type": "input_text", "text": "hi"}]));
    turn.answer("hello");
    let response = asking.answer().await.ok();
    assert_eq!(text_of(&response), "hello");
    let usage = &response["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(12), &json!(3)));
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 2);
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], 1);
    let started = &daemon.peer.seen("thread/start")[0]["params"];
    assert_eq!(started["config"]["mcp_servers"]["noisy"]["enabled"], false, "an MCP server would start");
    assert!(started["config"]["tool_output_token_limit"].as_u64().is_some_and(|limit| limit > 1_000_000));
    assert_eq!(started["model"], "model-a");
    daemon.finish().await;
}

#[tokio::test]
async fn an_idle_thread_ends_the_wait_and_what_was_heard_is_the_answer() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon.peer.status("idle");
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin()
        .item_started("agentMessage", "m")
        .delta("m", "all of")
        .message("m", "all of it")
        .response(5, 3);
    let response = asking.answer().await.ok();
    assert_eq!(text_of(&response), "all of it");
    assert_eq!(response["usage"]["total_tokens"], 8);
    daemon.finish().await;
}

#[tokio::test]
async fn an_idle_thread_without_a_whole_answer_is_a_named_failure() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon.peer.status("idle");
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half of");
    assert_eq!(asking.answer().await.failure(), (502, "lost_turn".into()));

    let (events, _turn) = daemon.streaming("half of").await;
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    assert_eq!(deltas_of(&events), "half of");
    daemon.finish().await;
}

#[tokio::test]
async fn an_active_thread_is_waited_for() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin();
    until("the silent thread is looked at twice", async || {
        (daemon.peer.seen("thread/read").len() >= 2).then_some(())
    })
    .await;
    turn.message("m", "late").response(1, 1).completed();
    assert_eq!(text_of(&asking.answer().await.ok()), "late");
    daemon.finish().await;
}

#[tokio::test]
async fn usage_that_comes_after_the_end_counts() {
    let mut daemon =
        Daemon::start(|config| config.turn.usage_timeout = std::time::Duration::from_secs(30)).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().message("m", "done").completed().response(70, 7);
    assert_eq!(asking.answer().await.ok()["usage"]["total_tokens"], 77);

    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().message("m", "done").response_without_usage().completed();
    turn.tell(
        "thread/tokenUsage/updated",
        json!({"tokenUsage": {"last": usage(80, 8), "total": usage(800, 80)}}),
    );
    assert_eq!(asking.answer().await.ok()["usage"]["total_tokens"], 88);
    daemon.finish().await;
}

#[tokio::test]
async fn usage_that_never_comes_is_not_made_up() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin().message("m", "done").response_without_usage().completed();
    let response = asking.answer().await.ok();
    assert_eq!((text_of(&response).as_str(), &response["usage"]), ("done", &Value::Null));
    daemon.finish().await;
}

#[tokio::test]
async fn events_before_the_reply_to_the_start_are_not_lost() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.item_started("agentMessage", "m")
        .delta("m", "early")
        .message("m", "early")
        .response(1, 1)
        .completed();
    turn.reply();
    assert_eq!(text_of(&asking.answer().await.ok()), "early");
    daemon.finish().await;
}

#[tokio::test]
async fn a_compaction_is_a_failure_and_never_output() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("contextCompaction", "c");
    assert_eq!(asking.answer().await.failure(), (502, "context_compacted".into()));
    daemon.until_interrupted(&turn).await;

    let (events, turn) = daemon.streaming("x").await;
    turn.item_started("contextCompaction", "c").message("s", "a summary").response(9, 9).completed();
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    assert!(!format!("{events:?}").contains("a summary"));
    daemon.finish().await;
}

#[tokio::test]
async fn one_turn_ends_once_however_often_it_is_said() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("done").await;
    turn.message("m", "done").response(1, 1).completed().completed();
    turn.failed(&json!("internalServerError"), "no").delta("m", "more");
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.completed");
    assert_eq!(deltas_of(&events), "done");
    daemon.finish().await;
}

#[tokio::test]
async fn an_answer_without_any_output_is_whole() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin().response(4, 0).completed();
    let response = asking.answer().await.ok();
    assert_eq!((&response["output"], &response["status"]), (&json!([]), &json!("completed")));
    let asking =
        daemon.post("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "hi"}]}));
    daemon.peer.turn().await.begin().response(4, 0).completed();
    let completion = asking.answer().await.ok();
    assert_eq!(completion["choices"][0]["finish_reason"], "stop");
    daemon.finish().await;
}
