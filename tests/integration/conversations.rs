//! Conversations that responses go on with.

use codex_bridge::config::NamedToken;
use serde_json::{Value, json};

use crate::daemon::{Daemon, terminal_of, text_of};
use crate::http::{Client, until};

async fn begin(client: &Client, items: Value) -> String {
    let made = client.post("/v1/conversations", &json!({"items": items})).await.ok();
    made["id"].as_str().expect("an id").to_owned()
}

/// What is in it: who said what.
async fn said(daemon: &Daemon, id: &str) -> Vec<(String, String)> {
    let list = daemon.client.get(&format!("/v1/conversations/{id}/items?order=asc&limit=100")).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let data = list["data"].as_array().expect("a list").iter();
    data.map(|item| (text(&item["role"]), text(&item["content"][0]["text"]))).collect()
}

fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn what_is_asked_and_answered_is_there_before_the_end_is_told() {
    let mut daemon = Daemon::start(|_| ()).await;
    let id = begin(&daemon.client, json!([{"role": "user", "content": "zero"}])).await;
    let asking = daemon.post("/v1/responses", json!({"input": "one", "conversation": id, "store": false}));
    daemon.peer.turn().await.answer("two");
    let told = asking.answer().await.ok();
    assert_eq!((text_of(&told).as_str(), &told["conversation"]), ("two", &json!({"id": id})));
    let first = lines(&[("user", "zero"), ("user", "one"), ("assistant", "two")]);
    assert_eq!(said(&daemon, &id).await, first);
    // What was told and what is kept are one.
    let path = format!("/v1/conversations/{id}/items?limit=1");
    assert_eq!(daemon.client.get(&path).await.ok()["data"][0], told["output"][0]);

    let body = json!({"input": "three", "conversation": {"id": id}, "stream": true});
    let (mut events, turn) = daemon.streaming_at("/v1/responses", body, "fo").await;
    turn.delta("m", "ur");
    assert_eq!(said(&daemon, &id).await, first, "a turn that runs is no part of it");
    turn.message("m", "four").response(3, 4).completed();
    let end = events.until("response.completed").await;
    assert_eq!(end["response"]["conversation"]["id"], id.as_str());
    let second = [first, lines(&[("user", "three"), ("assistant", "four")])].concat();
    assert_eq!(said(&daemon, &id).await, second);
    drop(events);

    // It is in the response that is read again, too.
    let read =
        daemon.client.get(&format!("/v1/responses/{}", end["response"]["id"].as_str().expect("an id"))).await;
    assert_eq!(read.ok()["conversation"]["id"], id.as_str());
    daemon.finish().await;
}

#[tokio::test]
async fn a_failed_turn_adds_nothing_and_a_cut_one_what_it_said() {
    let mut daemon = Daemon::start(|_| ()).await;
    let id = begin(&daemon.client, json!([])).await;
    let asking = daemon.post("/v1/responses", json!({"input": "one", "conversation": id}));
    daemon.peer.turn().await.begin().failed(&json!("badRequest"), "No.");
    assert_eq!(asking.answer().await.status, 400);
    let (events, turn) =
        daemon.streaming_at("/v1/responses", json!({"input": "x", "conversation": id}), "half ").await;
    turn.failed(&json!("badRequest"), "No.");
    assert_eq!(terminal_of(&events.rest().await)["type"], "response.failed");
    assert_eq!(said(&daemon, &id).await, []);

    let long = "word ".repeat(200);
    let asking =
        daemon.post("/v1/responses", json!({"input": "y", "conversation": id, "max_output_tokens": 16}));
    daemon.peer.turn().await.answer(&long);
    let told = asking.answer().await.ok();
    assert_eq!(told["status"], "incomplete");
    let kept = said(&daemon, &id).await;
    assert_eq!((kept.len(), kept[1].1.as_str()), (2, text_of(&told).as_str()));
    daemon.finish().await;
}

#[tokio::test]
async fn two_at_once_both_see_what_was_there_and_are_added_as_they_end() {
    let mut daemon = Daemon::start(|_| ()).await;
    let id = begin(&daemon.client, json!([{"role": "user", "content": "zero"}])).await;
    let first = daemon.post("/v1/responses", json!({"input": "a", "conversation": id}));
    let first_turn = daemon.peer.turn().await;
    let second = daemon.post("/v1/responses", json!({"input": "b", "conversation": id}));
    daemon.peer.turn().await.answer("to b");
    second.answer().await.ok();
    first_turn.answer("to a");
    first.answer().await.ok();
    assert_eq!(
        said(&daemon, &id).await,
        lines(&[
            ("user", "zero"),
            ("user", "b"),
            ("assistant", "to b"),
            ("user", "a"),
            ("assistant", "to a")
        ])
    );
    // Deleted under a turn: its answer is told all the same.
    let asking = daemon.post("/v1/responses", json!({"input": "c", "conversation": id}));
    let turn = daemon.peer.turn().await;
    assert_eq!(daemon.client.delete(&format!("/v1/conversations/{id}")).await.status, 200);
    turn.answer("to c");
    assert_eq!(text_of(&asking.answer().await.ok()), "to c");
    let gone = daemon.client.get(&format!("/v1/conversations/{id}")).await;
    assert_eq!(gone.failure(), (404, "conversation_not_found".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn another_keys_conversation_is_not_there() {
    let named = |name: &str| NamedToken { name: name.into(), token: format!("{name}-secret").into() };
    let mut daemon = Daemon::start(|config| config.auth.tokens = vec![named("a"), named("b")]).await;
    let keyed = |key| Client::new(daemon.client.address(), Some(key));
    let (a, b) = (keyed("a-secret"), keyed("b-secret"));
    daemon.client = a.clone();
    let id = begin(&a, json!([{"role": "user", "content": "x", "id": "msg_x"}])).await;
    let path = format!("/v1/conversations/{id}");
    for missing in [
        b.get(&path).await,
        b.delete(&path).await,
        b.post(&path, &json!({"metadata": {"a": "b"}})).await,
        b.get(&format!("{path}/items")).await,
        b.get(&format!("{path}/items/msg_x")).await,
        b.delete(&format!("{path}/items/msg_x")).await,
        b.post(&format!("{path}/items"), &json!({"items": []})).await,
        b.post("/v1/responses", &json!({"input": "x", "conversation": id})).await,
        a.get("/v1/conversations/conv_unknown").await,
    ] {
        assert_eq!(missing.failure(), (404, "conversation_not_found".into()));
    }
    assert_eq!(said(&daemon, &id).await, lines(&[("user", "x")]), "another key changed nothing");
    daemon.finish().await;
}

#[tokio::test]
async fn an_answer_that_its_conversation_has_no_room_for_fails() {
    let mut daemon = Daemon::start(|config| config.store.max_document_bytes = 400_000).await;
    let id = begin(&daemon.client, json!([{"role": "user", "content": "x".repeat(100_000)}])).await;
    let health = daemon.client.get("/v1/health").await.ok();
    assert!(health["continuation"]["store"]["document_bytes"].as_u64() > Some(100_000), "{health}");
    let asking = daemon.post("/v1/responses", json!({"input": "y".repeat(350_000), "conversation": id}));
    daemon.peer.turn().await.answer("no room");
    let refused = asking.answer().await;
    assert_eq!(refused.failure(), (503, "store_full".into()));
    until("the turn's end", || async { (daemon.load().await == (0, 0)).then_some(()) }).await;
    assert_eq!(said(&daemon, &id).await.len(), 1);
    daemon.finish().await;
}

#[tokio::test]
async fn a_background_response_has_its_conversation_for_itself_until_it_ends() {
    let mut daemon = Daemon::start(|_| ()).await;
    let id = begin(&daemon.client, json!([{"role": "user", "content": "zero"}])).await;
    let body = |input: &str| json!({"input": input, "conversation": id, "background": true});
    let queued = daemon.client.post("/v1/responses", &body("one")).await.ok();
    assert_eq!((&queued["status"], &queued["conversation"]["id"]), (&json!("queued"), &json!(id)));
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items.len(), 2, "{:?}", turn.items);
    for body in [body("two"), json!({"input": "two", "conversation": id})] {
        let refused = daemon.client.post("/v1/responses", &body).await;
        assert_eq!(refused.failure(), (400, "conversation_locked".into()));
        assert_eq!(refused.json()["error"]["param"], "conversation");
    }
    assert_eq!(said(&daemon, &id).await, lines(&[("user", "zero")]));
    turn.answer("done");
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    let ended = until("the end", async || {
        Some(daemon.client.get(&path).await.ok()).filter(|read| read["status"] == "completed")
    })
    .await;
    assert_eq!(said(&daemon, &id).await, lines(&[("user", "zero"), ("user", "one"), ("assistant", "done")]));
    let kept = format!("/v1/conversations/{id}/items?limit=1");
    assert_eq!(daemon.client.get(&kept).await.ok()["data"][0], ended["output"][0]);

    // Whoever fails or is cancelled adds nothing, and lets the next one go on.
    daemon.client.post("/v1/responses", &body("three")).await.ok();
    daemon.peer.turn().await.begin().failed(&json!("badRequest"), "No.");
    let cancelled = until("the next one is taken", async || {
        let answer = daemon.client.post("/v1/responses", &body("four")).await;
        (answer.status == 200).then(|| answer.ok())
    })
    .await;
    daemon.peer.turn().await.begin();
    let path = format!("/v1/responses/{}/cancel", cancelled["id"].as_str().expect("an id"));
    assert_eq!(daemon.client.post(&path, &json!({})).await.ok()["status"], "cancelled");
    let asking = daemon.post("/v1/responses", json!({"input": "five", "conversation": id}));
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items.len(), 4, "{:?}", turn.items);
    turn.answer("six");
    asking.answer().await.ok();
    assert_eq!(said(&daemon, &id).await.len(), 5);

    // One that was deleted meanwhile takes nothing, and the answer is there all the same.
    let queued = daemon.client.post("/v1/responses", &body("seven")).await.ok();
    let turn = daemon.peer.turn().await;
    daemon.client.delete(&format!("/v1/conversations/{id}")).await.ok();
    turn.answer("eight");
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    until("the end", async || {
        Some(daemon.client.get(&path).await.ok()).filter(|read| read["status"] == "completed")
    })
    .await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_background_response_that_is_run_again_is_added_once() {
    let mut daemon = Daemon::start(|config| config.shutdown.drain = std::time::Duration::ZERO).await;
    let id = begin(&daemon.client, json!([{"role": "user", "content": "zero"}])).await;
    let body = json!({"input": "one", "conversation": id, "background": true});
    let queued = daemon.client.post("/v1/responses", &body).await.ok();
    let turn = daemon.peer.turn().await;
    turn.begin().item_started("agentMessage", "m").delta("m", "half");
    let mut daemon = Box::pin(daemon.restart()).await;
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items.len(), 2, "{:?}", turn.items);
    let refused = daemon.client.post("/v1/responses", &json!({"input": "x", "conversation": id})).await;
    assert_eq!(refused.failure(), (400, "conversation_locked".into()));
    turn.answer("whole");
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    until("the end", async || {
        Some(daemon.client.get(&path).await.ok()).filter(|read| read["status"] == "completed")
    })
    .await;
    let all = lines(&[("user", "zero"), ("user", "one"), ("assistant", "whole")]);
    assert_eq!(said(&daemon, &id).await, all);
    let daemon = Box::pin(daemon.restart()).await;
    assert_eq!(said(&daemon, &id).await, all);
    daemon.finish().await;
}
