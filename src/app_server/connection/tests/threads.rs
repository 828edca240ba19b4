//! Threads: starting, turns, letting go.

use super::*;

#[tokio::test]
async fn items_and_turn_go_out_back_to_back_without_waiting() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let turn_options = TurnOptions {
        effort: Some("high".into()),
        service_tier: Some("flex".into()),
        output_schema: Some(json!({"type": "object"})),
        client_metadata: [("k".to_owned(), "v".to_owned())].into(),
        ..TurnOptions::default()
    };
    let items = hello();
    // Both are there before either is answered.
    let (turn, (items_sent, params)) =
        tokio::join!(thread.start_turn(&items, &turn_options), fake.serve_turn_start("u1"));
    assert_eq!(turn.unwrap(), TurnId::new("u1"));
    assert_eq!(
        items_sent,
        json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}])
    );
    let expected = json!({"threadId": "t1", "input": [], "effort": "high", "summary": "none", "serviceTier": "flex",
        "outputSchema": {"type": "object"}, "responsesapiClientMetadata": {"k": "v"}});
    assert_eq!(params, expected);
    assert!(thread.is_running());
}

#[tokio::test]
async fn what_an_earlier_turn_set_does_not_stick() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let items = hello();
    let mut sent = Vec::new();
    for effort in [None, Some("high"), None, None] {
        let turn_options = TurnOptions { effort: effort.map(str::to_owned), ..TurnOptions::default() };
        let (turn, (_, params)) =
            tokio::join!(thread.start_turn(&items, &turn_options), fake.serve_turn_start("u1"));
        turn.unwrap();
        assert_eq!((&params["summary"], &params["serviceTier"]), (&json!("none"), &Value::Null));
        assert!(params.as_object().unwrap().contains_key("serviceTier"), "only null resets it");
        sent.push((params.get("effort").cloned(), params.get("collaborationMode").cloned()));
    }
    let settings = json!({"model": "gpt-test", "reasoning_effort": null, "developer_instructions": null});
    let reset = json!({"mode": "default", "settings": settings});
    assert_eq!(sent, [(None, None), (Some(json!("high")), None), (None, Some(reset)), (None, None)]);
}

#[tokio::test]
async fn a_turn_tells_its_events_in_order() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let in_turn = |more: Value| {
        let mut params = json!({"threadId": "t1", "turnId": "u1"}).as_object().unwrap().clone();
        params.extend(more.as_object().unwrap().clone());
        Value::Object(params)
    };
    let echo =
        json!({"threadId": "t1", "turnId": "auto-compact-0", "item": {"type": "message", "role": "user"}});
    let usage = json!({"totalTokens": 3, "inputTokens": 2, "cachedInputTokens": 0, "cacheWriteInputTokens": 0,
        "outputTokens": 1, "reasoningOutputTokens": 0});
    fake.notify("rawResponseItem/completed", echo).await;
    fake.notify("turn/started", json!({"threadId": "t1", "turn": {"id": "u1", "status": "inProgress"}}))
        .await;
    fake.notify("thread/brandNew", json!({"threadId": "t1"})).await;
    fake.notify("turn/completed", json!({"threadId": "t1"})).await;
    fake.notify("item/started", in_turn(json!({"item": {"type": "agentMessage", "id": "m"}}))).await;
    fake.notify("item/agentMessage/delta", delta("m", "hi")).await;
    fake.notify(
        "item/agentMessage/delta",
        json!({"threadId": "another", "turnId": "u", "itemId": "m", "delta": "x"}),
    )
    .await;
    fake.notify("rawResponseItem/completed", in_turn(json!({"item": {"type": "message", "id": "m"}}))).await;
    fake.notify("rawResponse/completed", in_turn(json!({"responseId": "resp_1", "usage": usage}))).await;
    fake.notify("turn/completed", ended()).await;
    let turn = || TurnId::new("u1");
    let item = Item::from_value(json!({"type": "message", "id": "m"})).unwrap();
    let usage = Usage { input_tokens: 2, output_tokens: 1, total_tokens: 3, ..Usage::default() };
    for expected in [
        ThreadEvent::TurnStarted { turn: turn() },
        ThreadEvent::ItemStarted { turn: turn(), kind: ItemKind::Message, item_id: "m".into() },
        ThreadEvent::TextDelta { turn: turn(), item_id: "m".into(), delta: "hi".into() },
        ThreadEvent::RawItem { turn: turn(), item },
        ThreadEvent::ResponseCompleted { turn: turn(), response_id: "resp_1".into(), usage: Some(usage) },
        ThreadEvent::TurnCompleted { turn: turn(), status: TurnStatus::Completed },
    ] {
        assert_eq!(bounded(thread.next_event()).await, expected);
    }
    assert!(!thread.is_running());
}

#[tokio::test]
async fn events_before_the_reply_are_not_lost() {
    let (connection, mut fake, _tasks) = connected().await;
    let serve = async {
        let request = fake.expect("thread/start").await;
        fake.notify("turn/started", json!({"threadId": "t1", "turn": {"id": "u0"}})).await;
        fake.reply(&request, json!({"thread": {"id": "t1"}})).await;
        fake.notify("turn/started", json!({"threadId": "t1", "turn": {"id": "u1"}})).await;
        fake
    };
    let lean = ThreadOptions::lean("gpt-test", "/empty");
    let (thread, _fake) = tokio::join!(connection.start_thread(&lean), serve);
    let mut thread = thread.unwrap();
    for turn in ["u0", "u1"] {
        assert_eq!(bounded(thread.next_event()).await, ThreadEvent::TurnStarted { turn: TurnId::new(turn) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_thread_whose_reply_comes_too_late_is_let_go() {
    let (connection, mut fake, _tasks) = connected().await;
    let lean = ThreadOptions::lean("gpt-test", "/empty");
    let (thread, request) = tokio::join!(connection.start_thread(&lean), fake.expect("thread/start"));
    assert!(matches!(thread, Err(AppServerError::Timeout { .. })), "{thread:?}");
    assert_eq!(connection.requests_in_flight(), 0);
    fake.reply(&request, json!({"thread": {"id": "late"}})).await;
    let unsubscribe = fake.expect("thread/unsubscribe").await;
    assert_eq!(unsubscribe["params"], json!({"threadId": "late"}));
    assert_eq!(connection.threads(), 0);
}

#[tokio::test]
async fn a_dropped_thread_is_interrupted_if_it_runs_and_unsubscribed() {
    let (connection, mut fake, _tasks) = connected().await;
    let idle = fake.start_thread(&connection, "idle").await;
    drop(idle);
    assert_eq!(fake.expect("thread/unsubscribe").await["params"], json!({"threadId": "idle"}));

    let mut running = fake.start_thread(&connection, "t1").await;
    // Given up before the reply: the interrupt must not overtake the start.
    let (items, turn_options) = (hello(), TurnOptions::default());
    assert!(futures_util::poll!(Box::pin(running.start_turn(&items, &turn_options))).is_pending());
    drop(running);
    fake.expect("thread/inject_items").await;
    fake.expect("turn/start").await;
    assert_eq!(fake.expect("turn/interrupt").await["params"], json!({"threadId": "t1", "turnId": ""}));
    assert_eq!(fake.expect("thread/unsubscribe").await["params"], json!({"threadId": "t1"}));
    assert_eq!((connection.threads(), connection.requests_in_flight()), (0, 0));
}

#[tokio::test]
async fn a_released_thread_is_unsubscribed_once() {
    let (connection, mut fake, _tasks) = connected().await;
    let thread = fake.start_thread(&connection, "t1").await;
    let serve = async {
        let request = fake.expect("thread/unsubscribe").await;
        fake.reply(&request, json!({"status": "unsubscribed"})).await;
    };
    let (released, ()) = tokio::join!(thread.release(), serve);
    released.unwrap();
    drop(connection);
    fake.closed().await;
}

#[tokio::test]
async fn a_turn_without_its_items_is_interrupted() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let serve = async {
        let inject = fake.expect("thread/inject_items").await;
        let start = fake.expect("turn/start").await;
        fake.refuse(&inject, -32600, "items[0] is not a valid response item").await;
        fake.reply(&start, json!({"turn": {"id": "u1"}})).await;
        fake.expect("turn/interrupt").await
    };
    let (items, turn_options) = (hello(), TurnOptions::default());
    let (turn, interrupt) = tokio::join!(thread.start_turn(&items, &turn_options), serve);
    assert!(matches!(turn, Err(AppServerError::Refused { method: "thread/inject_items", .. })), "{turn:?}");
    assert_eq!(interrupt["params"], json!({"threadId": "t1", "turnId": ""}));
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_turn_start_never_injects_twice() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let serve = async {
        for request in [fake.expect("thread/inject_items").await, fake.expect("turn/start").await] {
            fake.refuse(&request, -32001, "Server overloaded; retry later.").await;
        }
        let inject = fake.expect("thread/inject_items").await;
        let start = fake.expect("turn/start").await;
        fake.reply(&inject, json!({})).await;
        fake.refuse(&start, -32001, "Server overloaded; retry later.").await;
        let start = fake.expect("turn/start").await;
        fake.reply(&start, json!({"turn": {"id": "u1"}})).await;
    };
    let (items, turn_options) = (hello(), TurnOptions::default());
    let (turn, ()) = tokio::join!(thread.start_turn(&items, &turn_options), serve);
    assert_eq!(turn.unwrap(), TurnId::new("u1"));
}

#[tokio::test]
async fn a_tool_call_waits_for_its_answer_and_one_that_is_dropped_has_failed() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let call = json!({"threadId": "t1", "turnId": "u1", "callId": "c1", "namespace": "n", "tool": "f", "arguments": {"x": 1}});
    for (id, answered) in [(json!(0), true), (json!("one"), false)] {
        fake.send(json!({"id": id, "method": "item/tool/call", "params": call})).await;
        let event = bounded(thread.next_event()).await;
        let ThreadEvent::ToolCall { turn, call_id, namespace, name, arguments, reply } = event else {
            panic!("{event:?}")
        };
        assert_eq!((turn, call_id.as_str(), name.as_str()), (TurnId::new("u1"), "c1", "f"));
        assert_eq!((namespace.as_deref(), arguments), (Some("n"), json!({"x": 1})));
        if answered {
            let answer = reply.prepare(&[json!({"type": "inputText", "text": "42"})]).unwrap();
            reply.send(answer).await.unwrap();
            // A second one is none.
            reply.send(reply.prepare(&[]).unwrap()).await.unwrap();
        }
        drop(reply);
        let answer = fake.recv().await;
        assert_eq!((&answer["id"], &answer["result"]["success"]), (&id, &json!(answered)));
        let text = &answer["result"]["contentItems"][0]["text"];
        assert_eq!(text == "42", answered, "{text}");
    }
}

#[tokio::test]
async fn a_tool_call_that_nobody_can_take_is_answered_at_once() {
    let (connection, mut fake, _tasks) = connected().await;
    let thread = fake.start_thread(&connection, "t1").await;
    let call = json!({"threadId": "another", "turnId": "u", "callId": "c", "tool": "f", "arguments": {}});
    for params in [call, json!({"unreadable": true})] {
        let answer = fake.ask(json!(7), "item/tool/call", params).await;
        assert_eq!(answer["result"]["success"], false);
    }
    // What waits in a thread's queue when that is dropped, too: after the goodbye.
    let call = json!({"threadId": "t1", "turnId": "u", "callId": "c", "tool": "f", "arguments": {}});
    fake.send(json!({"id": 8, "method": "item/tool/call", "params": call})).await;
    fake.notify("turn/started", json!({"threadId": "t1", "turn": {"id": "u"}})).await;
    bounded(async {
        while !thread.is_running() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(thread);
    fake.expect("turn/interrupt").await;
    fake.expect("thread/unsubscribe").await;
    assert_eq!(fake.recv().await["result"]["success"], false);
}

#[tokio::test]
async fn interrupt_names_the_turn_and_a_closed_thread_says_so() {
    let (connection, mut fake, _tasks) = connected().await;
    let mut thread = fake.start_thread(&connection, "t1").await;
    let turn = TurnId::new("u1");
    let serve = async {
        let request = fake.expect("turn/interrupt").await;
        assert_eq!(request["params"], json!({"threadId": "t1", "turnId": "u1"}));
        fake.reply(&request, json!({})).await;
    };
    let (interrupted, ()) = tokio::join!(thread.interrupt(&turn), serve);
    interrupted.unwrap();
    fake.notify("thread/closed", json!({"threadId": "t1"})).await;
    let closed = ThreadEvent::Closed(DisconnectReason::ThreadClosed);
    assert_eq!(bounded(thread.next_event()).await, closed);
    assert!(!connection.is_closed());
}
