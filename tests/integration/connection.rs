//! The socket to the app-server is lost, and had again.

use serde_json::json;

use crate::daemon::{Daemon, terminal_of, text_of};
use crate::http::until;

#[tokio::test]
async fn a_cut_socket_fails_what_was_told_by_name_and_runs_the_rest_again() {
    let mut daemon = Daemon::start(|_| {}).await;
    // Accepted, and not yet: both are run again, since their clients have seen nothing.
    let begun = daemon.ask("begun");
    daemon.peer.turn().await.begin();
    let (events, _turn) = daemon.streaming("half").await;
    let asked = daemon.ask("asked");
    let _unanswered = daemon.peer.turn().await;
    daemon.peer.cut();
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.failed");
    for _ in 0..2 {
        let turn = daemon.peer.turn().await;
        turn.answer(&format!("again {}", turn.items[0]["content"][0]["text"].as_str().expect("text")));
    }
    assert_eq!(text_of(&begun.answer().await.ok()), "again begun");
    assert_eq!(text_of(&asked.answer().await.ok()), "again asked");

    let asking = daemon.ask("again");
    daemon.peer.turn().await.answer("here");
    assert_eq!(text_of(&asking.answer().await.ok()), "here");
    assert_eq!(daemon.peer.connections(), 2);
    let health = daemon.client.get("/v1/health").await.json();
    assert!(health["app_server"]["last_disconnect"].is_string(), "{health}");
    assert_eq!(health["app_server"]["reruns"], 2, "{health}");
    daemon.until_load((0, 0)).await;
    daemon.end().await;
}

#[tokio::test]
async fn a_conversation_goes_on_after_the_socket_was_lost() {
    let mut daemon = Daemon::start(|config| config.continuation.warm_threads = 4).await;
    let asking = daemon.ask("one");
    daemon.peer.turn().await.answer("first");
    let first = asking.answer().await.ok();
    daemon.peer.cut();
    until("a new connection", async || (daemon.peer.connections() == 2).then_some(())).await;
    let asking = daemon.post("/v1/responses", json!({"input": "two", "previous_response_id": first["id"]}));
    let turn = daemon.peer.turn().await;
    let texts: Vec<_> = turn.items.iter().map(|item| item["content"][0]["text"].clone()).collect();
    assert_eq!(texts, ["one", "first", "two"]);
    turn.answer("second");
    assert_eq!(text_of(&asking.answer().await.ok()), "second");
    daemon.end().await;
}

#[tokio::test]
async fn a_warm_thread_is_continued_in_place_and_a_branch_is_not() {
    let mut daemon = Daemon::start(|config| config.continuation.warm_threads = 4).await;
    let asking = daemon.ask("one");
    let turn = daemon.peer.turn().await;
    let thread = turn.thread.clone();
    turn.answer("first");
    let first = asking.answer().await.ok();
    let next = json!({"input": "two", "previous_response_id": first["id"]});
    let asking = daemon.post("/v1/responses", next.clone());
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.thread, thread);
    assert_eq!(turn.items.len(), 2, "only what is new is injected: {:?}", turn.items);
    assert_eq!(turn.items[1]["content"][0]["text"], "two");
    turn.answer("second");
    asking.answer().await.ok();

    let asking = daemon.post("/v1/responses", next);
    let turn = daemon.peer.turn().await;
    assert_ne!(turn.thread, thread);
    let texts: Vec<_> = turn.items.iter().map(|item| item["content"][0]["text"].clone()).collect();
    assert_eq!(texts, ["one", "first", "two"]);
    turn.answer("other");
    asking.answer().await.ok();
    daemon.until_load((0, 0)).await;
    daemon.end().await;
}

#[tokio::test]
async fn a_thread_that_the_app_server_closes_fails_its_turn() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin();
    daemon.peer.notify("thread/closed", &json!({"threadId": turn.thread}));
    // Nothing was told: once more, on another one.
    let turn = daemon.peer.turn().await;
    turn.begin();
    daemon.peer.notify("thread/closed", &json!({"threadId": turn.thread}));
    let answer = asking.answer().await;
    assert_eq!(answer.status, 502, "{}", answer.text);
    answer.error();
    daemon.end().await;
}
