//! The app-server client against the real app-server, with a provider of our own behind it.

mod harness;

use std::time::Duration;

use codex_bridge::app_server::{
    AppServerError, ConnectOptions, DisconnectReason, ItemKind, ThreadEvent, ThreadOptions, ThreadStatus,
    TurnOptions, TurnStatus,
};
use codex_bridge::model::{Item, LoginState, Usage};
use harness::{Codex, ended, in_time};
use serde_json::json;

fn say(text: &str) -> Vec<Item> {
    vec![Item::input_text("developer", "be brief"), Item::input_text("user", text)]
}

#[tokio::test]
async fn one_turn_tells_everything_in_order_and_adds_nothing() {
    let codex = Codex::start().await;
    let connection = codex.connect().await;
    assert!(connection.server_version().is_some_and(|version| version.starts_with("0.")));
    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    let turn = thread.start_turn(&say("THINK"), &TurnOptions::default()).await.unwrap();
    let mut seen = Vec::new();
    let mut message_ids = Vec::new();
    let mut usage = None;
    loop {
        let event = in_time(thread.next_event()).await;
        seen.push(match event {
            ThreadEvent::TurnStarted { turn: started } => {
                assert_eq!(started, turn);
                "turn"
            }
            ThreadEvent::ItemStarted { kind: ItemKind::Reasoning, .. } => "reasoning",
            ThreadEvent::ItemStarted { kind: ItemKind::Message, item_id, .. } => {
                message_ids.push(item_id);
                "message"
            }
            ThreadEvent::SummaryPartAdded { index: 0, .. } => "part",
            ThreadEvent::SummaryDelta { index: 0, .. } => "summary",
            ThreadEvent::TextDelta { item_id, .. } => {
                message_ids.push(item_id);
                "text"
            }
            ThreadEvent::ItemCompleted { .. } => "done",
            ThreadEvent::RawItem { item, .. } => {
                if item.kind() == "message" {
                    message_ids.push(item.id().unwrap().to_owned());
                }
                "item"
            }
            ThreadEvent::ResponseCompleted { usage: exact, response_id, .. } => {
                assert_eq!(response_id, "resp_1");
                usage = exact;
                "response"
            }
            ThreadEvent::UsageUpdated { last, .. } => {
                assert_eq!(Some(last), usage);
                "usage"
            }
            ThreadEvent::TurnCompleted { status: TurnStatus::Completed, .. } => break,
            other => panic!("{other:?}"),
        });
    }
    seen.dedup();
    assert_eq!(
        seen,
        [
            "turn",
            "reasoning",
            "part",
            "summary",
            "done",
            "item",
            "message",
            "text",
            "done",
            "item",
            "response",
            "usage"
        ]
    );
    message_ids.dedup();
    assert_eq!(message_ids, ["msg_1"], "start, deltas and raw item share the upstream's id");
    let expected = Usage {
        input_tokens: 10,
        cached_input_tokens: 2,
        cache_write_input_tokens: 0,
        output_tokens: 5,
        reasoning_tokens: 1,
        total_tokens: 15,
    };
    assert_eq!(usage, Some(expected));
    let body = codex.bodies().pop().unwrap();
    let texts: Vec<_> =
        body["input"].as_array().unwrap().iter().map(|item| &item["content"][0]["text"]).collect();
    assert_eq!(texts, ["be brief", "THINK"], "{body}");
    assert_eq!(thread.status().await.unwrap(), ThreadStatus::Idle);
}

#[tokio::test]
async fn what_one_turn_sets_the_next_does_not_inherit() {
    let codex = Codex::start().await;
    let connection = codex.connect().await;
    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    let special = TurnOptions {
        effort: Some("high".into()),
        summary: Some("detailed".into()),
        service_tier: Some("priority".into()),
        output_schema: Some(json!({"type": "object", "properties": {}, "additionalProperties": false})),
        ..TurnOptions::default()
    };
    for options in [TurnOptions::default(), special, TurnOptions::default()] {
        thread.start_turn(&say("hi"), &options).await.unwrap();
        assert_eq!(ended(&mut thread).await, TurnStatus::Completed);
    }
    let bodies = codex.bodies();
    let settings = |at: usize| ["reasoning", "service_tier", "text"].map(|field| bodies[at][field].clone());
    assert_eq!(bodies[1]["reasoning"], json!({"effort": "high", "summary": "detailed"}));
    assert_eq!(bodies[1]["service_tier"], "priority");
    assert_eq!(settings(2), settings(0));
    assert_eq!(bodies[2]["input"].as_array().unwrap().len(), 8, "three pairs of ours, two answers");
}

#[tokio::test]
async fn large_items_pass_and_threads_are_let_go() {
    let codex = Codex::start().await;
    let connection = codex.connect().await;
    for _ in 0..3 {
        let mut thread = connection.start_thread(&codex.options()).await.unwrap();
        thread.start_turn(&say(&"word ".repeat(4 << 20)), &TurnOptions::default()).await.unwrap();
        assert_eq!(ended(&mut thread).await, TurnStatus::Completed);
        thread.release().await.unwrap();
    }
    assert!(codex.bodies()[0]["input"][1]["content"][0]["text"].as_str().unwrap().len() == 20 << 20);
    codex.until(|| async { connection.diagnostics().await.unwrap().threads_live == Some(0) }).await;
    assert_eq!((connection.threads(), connection.requests_in_flight()), (0, 0));
}

#[tokio::test]
async fn a_burst_that_nobody_takes_costs_deltas_and_not_the_connection() {
    let codex = Codex::start().await;
    let connection = codex.connect().await;
    let mut slow = connection.start_thread(&codex.options()).await.unwrap();
    slow.start_turn(&say("BURST"), &TurnOptions::default()).await.unwrap();
    codex.until(|| async { slow.status().await.unwrap() == ThreadStatus::Idle }).await;
    let mut bytes = 0;
    loop {
        match in_time(slow.next_event()).await {
            ThreadEvent::TextDelta { delta, .. } => bytes += delta.len(),
            ThreadEvent::TurnCompleted { status, .. } => break assert_eq!(status, TurnStatus::Completed),
            ThreadEvent::Closed(reason) => panic!("{reason}"),
            _ => {}
        }
    }
    assert_eq!(bytes, harness::BURST.len() * harness::BURST_DELTAS);
    connection.ping(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_call_given_up_ends_its_turn_upstream() {
    let codex = Codex::start().await;
    let connection = codex.connect().await;
    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    thread.start_turn(&say("STALL"), &TurnOptions::default()).await.unwrap();
    codex.until(|| async { codex.bodies().len() == 1 }).await;
    drop(thread);
    codex.until(|| async { connection.diagnostics().await.unwrap().turns_active == Some(0) }).await;

    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    let turn = thread.start_turn(&say("STALL"), &TurnOptions::default()).await.unwrap();
    // Between its acceptance and its start a turn cannot be interrupted.
    while !matches!(in_time(thread.next_event()).await, ThreadEvent::TurnStarted { .. }) {}
    thread.interrupt(&turn).await.unwrap();
    assert_eq!(ended(&mut thread).await, TurnStatus::Interrupted);
}

#[tokio::test]
async fn refusals_come_back_by_name() {
    let codex = Codex::start().await;
    let connection = codex.connect().await;
    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    let bad = Item::from_value(json!({"type": "message", "role": "user", "content": "text"})).unwrap();
    let refused = thread.start_turn(&[bad], &TurnOptions::default()).await;
    assert!(
        matches!(&refused, Err(AppServerError::Refused { method: "thread/inject_items", code: -32600, .. })),
        "{refused:?}"
    );
    drop(thread);
    assert_eq!(connection.account(false).await.unwrap(), LoginState::NotNeeded);
    assert!(matches!(connection.rate_limits().await, Err(AppServerError::Refused { .. })));
    assert_eq!(connection.config_mcp_servers().await.unwrap(), ["stray.server"]);
    let models = connection.models().await.unwrap();
    assert!(models.iter().filter(|model| model.is_default).count() == 1 && !models[0].efforts.is_empty());
    codex.until(|| async { connection.loaded_threads().await.unwrap().is_empty() }).await;
}

#[tokio::test]
async fn speaks_over_tcp_with_a_token_and_names_a_wrong_one() {
    let codex = Codex::start_on_tcp().await;
    let with = |token: &str| ConnectOptions { token: Some(token.into()), ..ConnectOptions::default() };
    let refused = codex.connect_with(&with("wrong")).await;
    assert!(matches!(refused, Err(AppServerError::Handshake { status: Some(401), .. })), "{refused:?}");
    let connection = codex.connect_with(&with(harness::TOKEN)).await.unwrap();
    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    thread.start_turn(&say("hi"), &TurnOptions::default()).await.unwrap();
    assert_eq!(ended(&mut thread).await, TurnStatus::Completed);
    connection.close().await;
}

#[tokio::test]
async fn the_end_of_the_app_server_reaches_everyone() {
    let mut codex = Codex::start().await;
    let connection = codex.connect().await;
    let mut thread = connection.start_thread(&codex.options()).await.unwrap();
    thread.start_turn(&say("STALL"), &TurnOptions::default()).await.unwrap();
    codex.kill().await;
    loop {
        if let ThreadEvent::Closed(reason) = in_time(thread.next_event()).await {
            assert_eq!(reason, connection.closed().await);
            assert!(matches!(reason, DisconnectReason::Socket(_) | DisconnectReason::ClosedByPeer { .. }));
            break;
        }
    }
    let options = ThreadOptions::lean("m", "/");
    assert!(matches!(connection.start_thread(&options).await, Err(AppServerError::Disconnected(_))));
}
