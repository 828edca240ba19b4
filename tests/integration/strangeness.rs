//! What a newer app-server may say, and what it may ask.

use serde_json::json;

use crate::daemon::{Daemon, deltas_of, terminal_of, text_of};

#[tokio::test]
async fn words_of_the_future_are_passed_over() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("one ").await;
    daemon.peer.notify("brand/new", &json!({"anything": [1, 2]}));
    daemon.peer.send_text(r#"{"method":"bare"}"#);
    turn.tell("item/brandNew/delta", json!({"itemId": "m", "delta": "x"}));
    turn.item_started("brandNewItem", "b");
    turn.tell("item/completed", json!({"item": {"type": "brandNewItem", "id": "b", "more": {}}}));
    turn.tell("item/agentMessage/delta", json!({"itemId": "m", "delta": "two", "brandNew": true}));
    turn.tell("item/agentMessage/delta", json!({"itemId": 7}));
    turn.tell("rawResponseItem/completed", json!({"item": {"type": "brand_new_status", "id": "b", "x": 1}}));
    turn.message("m", "one two").response(1, 2).completed();
    let events = events.rest().await;
    assert_eq!(terminal_of(&events)["type"], "response.completed");
    assert_eq!(deltas_of(&events), "one two");
    let response = &terminal_of(&events)["response"];
    assert_eq!(text_of(response), "one two");
    assert_eq!(response["output"].as_array().map(Vec::len), Some(1));
    daemon.finish().await;
}

#[tokio::test]
async fn garbage_is_survived() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin();
    for text in
        ["", "not json", "{", "[]", "null", "{}", r#"{"id":99999,"result":{}}"#, r#"{"id":"x","error":1}"#]
    {
        daemon.peer.send_text(text);
    }
    daemon.peer.send_bytes(&[0, 159, 146, 150]);
    turn.message("m", "still here").response(1, 2).completed();
    assert_eq!(text_of(&asking.answer().await.ok()), "still here");
    assert_eq!(daemon.peer.connections(), 1);
    daemon.finish().await;
}

#[tokio::test]
async fn whatever_is_asked_is_answered_and_nothing_approved() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    turn.begin();
    let about = json!({"threadId": turn.thread, "turnId": turn.id, "itemId": "i", "callId": "c", "tool": "t", "arguments": {}});
    let mut id = 7000;
    for method in ["item/commandExecution/requestApproval", "item/fileChange/requestApproval"] {
        id += 1;
        let answer = daemon.peer.ask(id, method, about.clone()).await;
        assert_eq!(answer["result"]["decision"], "decline", "{method}");
    }
    let answer = daemon.peer.ask(7100, "mcpServer/elicitation/request", about.clone()).await;
    assert_eq!(answer["result"]["action"], "decline");
    for method in
        ["execCommandApproval", "applyPatchApproval", "item/tool/requestUserInput", "item/tool/call"]
    {
        id += 1;
        let answer = daemon.peer.ask(id, method, about.clone()).await.to_string();
        assert!(!answer.contains("approved") && !answer.contains("accept"), "{method}: {answer}");
    }
    let answer = daemon.peer.ask(7200, "brand/new", json!({})).await;
    assert_eq!(answer["error"]["code"], -32601);
    // Our own ids and theirs are separate: theirs may be the same as one of ours.
    let answer = daemon.peer.ask(1, "brand/new", json!({})).await;
    assert_eq!(answer["error"]["code"], -32601);
    turn.message("m", "done").response(1, 1).completed();
    assert_eq!(text_of(&asking.answer().await.ok()), "done");
    daemon.finish().await;
}

#[tokio::test]
async fn another_threads_events_do_not_mix() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (first, second) = (daemon.ask("first"), daemon.ask("second"));
    let (one, two) = (daemon.peer.turn().await, daemon.peer.turn().await);
    for turn in [&one, &two] {
        turn.begin().item_started("agentMessage", "m");
    }
    for n in 0..50 {
        for turn in [&one, &two] {
            turn.delta("m", &format!("{}-{n} ", turn.items[0]["content"][0]["text"]));
        }
    }
    for turn in [&two, &one] {
        let words: Vec<_> =
            (0..50).map(|n| format!("{}-{n} ", turn.items[0]["content"][0]["text"])).collect();
        turn.message("m", &words.concat()).response(1, 1).completed();
    }
    for (asking, word) in [(first, "\"first\""), (second, "\"second\"")] {
        let text = text_of(&asking.answer().await.ok());
        assert!(text.split_whitespace().all(|part| part.starts_with(word)), "{text}");
    }
    daemon.finish().await;
}
