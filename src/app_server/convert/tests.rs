use serde_json::json;

use super::*;

fn event(method: &str, params: &Value) -> ThreadEvent {
    let text = params.to_string();
    match notification(method, &text).unwrap() {
        Notification::Thread { thread, event } => {
            assert_eq!(thread, "t1");
            event
        }
        other => panic!("{other:?}"),
    }
}

fn turn_1() -> TurnId {
    TurnId::new("u1")
}

#[test]
fn reads_every_event_of_a_turn() {
    let base = json!({"threadId": "t1", "turnId": "u1", "itemId": "i1", "emittedAtMs": 5});
    let with = |more: Value| {
        let mut params = base.as_object().unwrap().clone();
        params.extend(more.as_object().unwrap().clone());
        Value::Object(params)
    };
    let item_id = || "i1".to_owned();
    let cases = [
        (
            "item/agentMessage/delta",
            json!({"delta": "a\n\"b\""}),
            ThreadEvent::TextDelta { turn: turn_1(), item_id: item_id(), delta: "a\n\"b\"".into() },
        ),
        (
            "item/reasoning/summaryTextDelta",
            json!({"delta": "s", "summaryIndex": 2}),
            ThreadEvent::SummaryDelta { turn: turn_1(), item_id: item_id(), index: 2, delta: "s".into() },
        ),
        (
            "item/reasoning/textDelta",
            json!({"delta": "r", "contentIndex": 1}),
            ThreadEvent::ReasoningDelta { turn: turn_1(), item_id: item_id(), index: 1, delta: "r".into() },
        ),
        (
            "item/reasoning/summaryPartAdded",
            json!({"summaryIndex": 3}),
            ThreadEvent::SummaryPartAdded { turn: turn_1(), item_id: item_id(), index: 3 },
        ),
        (
            "item/started",
            json!({"item": {"type": "agentMessage", "id": "i1", "text": ""}}),
            ThreadEvent::ItemStarted { turn: turn_1(), kind: ItemKind::Message, item_id: item_id() },
        ),
        (
            "item/completed",
            json!({"item": {"type": "somethingNew", "id": "i1", "text": {"deep": 1}}}),
            ThreadEvent::ItemCompleted {
                turn: turn_1(),
                kind: ItemKind::Other("somethingNew".into()),
                item_id: item_id(),
                item: None,
            },
        ),
        (
            "rawResponseItem/completed",
            json!({"item": {"type": "message", "id": "m"}}),
            ThreadEvent::RawItem {
                turn: turn_1(),
                item: Item::from_value(json!({"type": "message", "id": "m"})).unwrap(),
            },
        ),
        (
            "rawResponse/completed",
            json!({"responseId": "resp_1", "usage": {"totalTokens": 15, "inputTokens": 10, "cachedInputTokens": 2,
                "cacheWriteInputTokens": 1, "outputTokens": 5, "reasoningOutputTokens": 3}, "usageMetadata": null}),
            ThreadEvent::ResponseCompleted {
                turn: turn_1(),
                response_id: "resp_1".into(),
                usage: Some(Usage {
                    input_tokens: 10,
                    cached_input_tokens: 2,
                    cache_write_input_tokens: 1,
                    output_tokens: 5,
                    reasoning_tokens: 3,
                    total_tokens: 15,
                }),
            },
        ),
        (
            "thread/tokenUsage/updated",
            json!({"tokenUsage": {"total": {}, "last": {"inputTokens": 4, "outputTokens": -1}}}),
            ThreadEvent::UsageUpdated { turn: turn_1(), last: Usage { input_tokens: 4, ..Usage::default() } },
        ),
        (
            "error",
            json!({"willRetry": true, "error": {"message": "Reconnecting... 1/5",
                "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": null}}}}),
            ThreadEvent::Retrying {
                turn: turn_1(),
                failure: TurnFailure {
                    kind: FailureKind::ResponseStreamDisconnected,
                    message: "Reconnecting... 1/5".into(),
                    details: None,
                    status: None,
                },
            },
        ),
    ];
    for (method, more, expected) in cases {
        assert_eq!(event(method, &with(more)), expected, "{method}");
    }
}

#[test]
fn reads_a_completed_item_as_the_raw_one() {
    let completed =
        |item: Value| match event("item/completed", &json!({"threadId": "t1", "turnId": "u1", "item": item}))
        {
            ThreadEvent::ItemCompleted { item, .. } => item.map(|item| item.to_value()),
            other => panic!("{other:?}"),
        };
    let part = json!({"type": "output_text", "text": "done", "annotations": [], "logprobs": []});
    let message = json!({
        "type": "message", "id": "m", "role": "assistant", "status": "completed", "phase": "final_answer",
        "content": [part],
    });
    let said =
        json!({"type": "agentMessage", "id": "m", "text": "done", "phase": "final_answer", "more": {}});
    assert_eq!(completed(said), Some(message));
    let summary = json!([{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]);
    let thought =
        |content: Value| json!({"type": "reasoning", "id": "rs", "summary": summary, "content": content});
    let raw = |content: &[&str]| {
        completed(json!({"type": "reasoning", "id": "rs", "summary": ["a", "b"], "content": content}))
    };
    assert_eq!(raw(&[]), Some(thought(Value::Null)));
    assert_eq!(raw(&["c"]), Some(thought(json!([{"type": "reasoning_text", "text": "c"}]))));
    for other in [json!({"type": "agentMessage", "id": "m"}), json!({"type": "plan", "id": "p", "text": "x"})]
    {
        assert_eq!(completed(other), None);
    }
}

#[test]
fn reads_how_a_turn_ended() {
    let ended = |turn: Value| match event("turn/completed", &json!({"threadId": "t1", "turn": turn})) {
        ThreadEvent::TurnCompleted { turn, status } => {
            assert_eq!(turn, turn_1());
            status
        }
        other => panic!("{other:?}"),
    };
    let item = json!([{"type": "agentMessage", "text": "kept out"}]);
    assert_eq!(ended(json!({"id": "u1", "status": "completed", "items": item})), TurnStatus::Completed);
    assert_eq!(ended(json!({"id": "u1", "status": "interrupted", "error": null})), TurnStatus::Interrupted);
    let failed = json!({"id": "u1", "status": "failed", "error": {"message": "no", "additionalDetails": "more",
        "codexErrorInfo": {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}, "misalignment": null}});
    assert_eq!(
        ended(failed),
        TurnStatus::Failed(TurnFailure {
            kind: FailureKind::ResponseTooManyFailedAttempts,
            message: "no".into(),
            details: Some("more".into()),
            status: Some(429),
        })
    );
    assert!(matches!(ended(json!({"id": "u1", "status": "vanished"})), TurnStatus::Failed(_)));
}

#[test]
fn knows_every_failure_word_and_survives_new_ones() {
    let kind = |info: Value| {
        let error: wire::TurnError =
            serde_json::from_value(json!({"message": "", "codexErrorInfo": info})).unwrap();
        let failure = TurnFailure::from(error);
        (failure.kind, failure.status)
    };
    assert_eq!(kind(json!("usageLimitExceeded")), (FailureKind::UsageLimitExceeded, None));
    assert_eq!(
        kind(json!({"httpConnectionFailed": {"httpStatusCode": 401}})),
        (FailureKind::HttpConnectionFailed, Some(401))
    );
    assert_eq!(
        kind(json!({"activeTurnNotSteerable": {"turnKind": "review"}})),
        (FailureKind::ActiveTurnNotSteerable, None)
    );
    assert_eq!(kind(json!("brandNew")), (FailureKind::Unknown("brandNew".into()), None));
    assert_eq!(
        kind(json!({"brandNew": {"httpStatusCode": 99_999}})),
        (FailureKind::Unknown("brandNew".into()), None)
    );
    assert_eq!(kind(json!({})), (FailureKind::Other, None));
    assert_eq!(kind(json!(7)), (FailureKind::Other, None));
    assert_eq!(kind(json!(null)), (FailureKind::Other, None));
}

#[test]
fn drops_echoes_and_final_errors_and_strangers() {
    let echo = json!({"threadId": "t1", "turnId": "auto-compact-0", "item": {"type": "message"}}).to_string();
    assert!(matches!(notification("rawResponseItem/completed", &echo), Ok(Notification::Ignored)));
    let last = json!({"threadId": "t1", "turnId": "u1", "willRetry": false, "error": {}}).to_string();
    assert!(matches!(notification("error", &last), Ok(Notification::Ignored)));
    assert!(matches!(notification("thread/brandNew", "null"), Ok(Notification::Ignored)));
    assert!(notification("turn/started", "null").is_err());
}

#[test]
fn reads_the_account() {
    let state = |response: Value| {
        LoginState::from(serde_json::from_value::<wire::AccountResponse>(response).unwrap())
    };
    assert_eq!(state(json!({"account": null, "requiresOpenaiAuth": true})), LoginState::LoggedOut);
    assert_eq!(state(json!({"account": null, "requiresOpenaiAuth": false})), LoginState::NotNeeded);
    let chatgpt = json!({"account": {"type": "chatgpt", "email": "a@example.org", "planType": "plus"}, "userId": "user-1",
        "requiresOpenaiAuth": true, "workspaceRouting": {"chatgptAccountId": "acct-1"}});
    assert_eq!(
        state(chatgpt),
        LoginState::LoggedIn(Account {
            identity: "chatgpt:user-1:acct-1".into(),
            kind: "chatgpt".into(),
            plan: Some("plus".into()),
        })
    );
    let bare = json!({"account": {"type": "chatgpt", "email": "a@example.org"}, "requiresOpenaiAuth": true});
    let LoginState::LoggedIn(first) = state(bare.clone()) else { panic!() };
    let LoginState::LoggedIn(again) = state(bare) else { panic!() };
    assert_eq!(first, again);
    assert!(!first.identity.contains("example"));
    let other = json!({"account": {"type": "chatgpt", "email": "b@example.org"}, "requiresOpenaiAuth": true});
    let LoginState::LoggedIn(other) = state(other) else { panic!() };
    assert_ne!(first.identity, other.identity);
}

#[test]
fn reads_the_version() {
    let agent = "codex_bridge/0.169.0 (Debian 12.0.0; x86_64) xterm (codex_bridge; 0.1.0)";
    assert_eq!(server_version(agent), Some("0.169.0"));
    assert_eq!(server_version("nothing"), None);
}

#[test]
fn debug_shows_no_text() {
    let params = json!({"threadId": "t1", "turnId": "u1", "itemId": "i1", "delta": "secret"});
    assert!(!format!("{:?}", event("item/agentMessage/delta", &params)).contains("secret"));
}

#[test]
fn calls_that_the_app_server_answers_by_itself_become_their_items() {
    for (item, expected) in [
        (
            json!({"type": "webSearch", "query": "q", "results": null,
                "action": {"type": "search", "query": "q", "queries": null}}),
            json!({"type": "web_search_call", "id": "ws_c1", "status": "completed",
                "action": {"type": "search", "query": "q", "queries": ["q"]}}),
        ),
        (
            json!({"type": "webSearch", "action": {"type": "openPage", "url": "https://x"}}),
            json!({"type": "web_search_call", "id": "ws_c1", "status": "completed",
                "action": {"type": "open_page", "url": "https://x"}}),
        ),
        (
            json!({"type": "imageGeneration", "status": "completed", "result": "iVBO", "failure": null}),
            json!({"type": "image_generation_call", "id": "ig_c1", "status": "completed", "result": "iVBO"}),
        ),
        (
            json!({"type": "imageGeneration", "status": "failed", "result": ""}),
            json!({"type": "image_generation_call", "id": "ig_c1", "status": "failed", "result": null}),
        ),
    ] {
        let mut item = item;
        item["id"] = json!("c1");
        let params = json!({"threadId": "t", "turnId": "u", "item": item}).to_string();
        let Ok(Notification::Thread { event, .. }) = notification("item/completed", &params) else {
            panic!("{params}")
        };
        let ThreadEvent::OwnCallDone { call_id, item, .. } = event else { panic!("{event:?}") };
        assert_eq!((call_id.as_str(), item.to_value()), ("c1", expected));
    }
}
