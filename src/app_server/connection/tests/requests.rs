//! Requests, replies, what the app-server asks and tells.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_late_reply_finds_nobody_and_nothing_is_left() {
    let (connection, mut fake, _tasks) = connected().await;
    let begun = Instant::now();
    let status = async { connection.thread_status(&ThreadId::new("t1")).await };
    let (error, request) = tokio::join!(status, fake.expect("thread/read"));
    let error = error.unwrap_err();
    assert!(matches!(error, AppServerError::Timeout { method: "thread/read", .. }), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(connection.requests_in_flight(), 0);
    fake.reply(&request, json!({"thread": {"id": "t1"}})).await;
    fake.reply(&json!({"id": 4711}), json!({})).await;
    fake.reply(&json!({"id": "strange"}), json!({})).await;
    fake.send(json!({"nonsense": true})).await;
    let ping = async {
        let request = fake.expect("thread/loaded/list").await;
        fake.reply(&request, json!({"data": [], "nextCursor": null})).await;
    };
    let (alive, ()) = tokio::join!(connection.ping(Duration::from_secs(1)), ping);
    alive.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_leaves_nothing() {
    let (connection, mut fake, _tasks) = connected().await;
    tokio::select! {
        _ = connection.models() => panic!("nobody answered"),
        _ = fake.expect("model/list") => {}
    }
    assert_eq!(connection.requests_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_retried_within_the_limit() {
    let (connection, mut fake, _tasks) = connected().await;
    let begun = Instant::now();
    let serve = async {
        for _ in 0..3 {
            let request = fake.expect("account/read").await;
            fake.refuse(&request, -32001, "Server overloaded; retry later.").await;
        }
        let request = fake.expect("account/read").await;
        assert_eq!(request["params"], json!({"refreshToken": false}));
        fake.reply(&request, json!({"account": null, "requiresOpenaiAuth": false})).await;
    };
    let (account, ()) = tokio::join!(connection.account(false), serve);
    assert_eq!(account.unwrap(), LoginState::NotNeeded);
    assert!(begun.elapsed() > Duration::from_millis(50), "it backed off");

    let never = async {
        loop {
            let request = fake.expect("account/read").await;
            fake.refuse(&request, -32001, "Server overloaded; retry later.").await;
        }
    };
    let begun = Instant::now();
    tokio::select! {
        account = connection.account(false) => {
            assert!(matches!(account, Err(AppServerError::Overloaded { method: "account/read" })), "{account:?}");
        }
        () = never => {}
    }
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(connection.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_refusal_keeps_code_words_and_input_error() {
    let (connection, mut fake, _tasks) = connected().await;
    let serve = async {
        let request = fake.expect("model/list").await;
        let error =
            json!({"code": -32602, "message": "too long", "data": {"input_error_code": "input_too_large"}});
        fake.send(json!({"id": request["id"], "error": error})).await;
    };
    let (models, ()) = tokio::join!(connection.models(), serve);
    match models.unwrap_err() {
        AppServerError::Refused { method, code, message, input_error } => {
            assert_eq!((method, code, &*message), ("model/list", -32602, "too long"));
            assert_eq!(input_error.as_deref(), Some("input_too_large"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let (connection, mut fake, _tasks) = connected().await;
    let model = |id: &str| {
        json!({"id": id, "displayName": id, "description": "", "hidden": false, "isDefault": id == "a",
            "supportedReasoningEfforts": [{"reasoningEffort": "low", "description": ""}],
            "defaultReasoningEffort": "low", "inputModalities": ["text"], "serviceTiers": [{"id": "priority"}]})
    };
    let serve = async {
        let first = fake.expect("model/list").await;
        assert_eq!(first["params"], json!({"includeHidden": true}));
        fake.reply(&first, json!({"data": [model("a")], "nextCursor": "c1"})).await;
        let second = fake.expect("model/list").await;
        assert_eq!(second["params"], json!({"cursor": "c1", "includeHidden": true}));
        fake.reply(&second, json!({"data": [model("b")], "nextCursor": null})).await;
    };
    let (models, ()) = tokio::join!(connection.models(), serve);
    let models = models.unwrap();
    assert_eq!(models.iter().map(|model| &*model.id).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        (&models[0].efforts[..], &models[0].service_tiers[..]),
        (&["low".to_owned()][..], &["priority".to_owned()][..])
    );
    assert!(models[0].is_default && !models[1].is_default);
}

#[tokio::test]
async fn reads_configuration_status_and_gauges() {
    let (connection, mut fake, _tasks) = connected().await;
    let serve = async {
        let request = fake.expect("config/read").await;
        fake.reply(
            &request,
            json!({"config": {"mcp_servers": {"b": {"command": "x"}, "a": {}}}, "origins": {}}),
        )
        .await;
        let request = fake.expect("thread/read").await;
        fake.reply(
            &request,
            json!({"thread": {"id": "t1", "status": {"type": "active", "activeFlags": []}}}),
        )
        .await;
        let request = fake.expect("thread/read").await;
        fake.refuse(&request, -32600, "thread not loaded: t2").await;
        let request = fake.expect("server/diagnostics").await;
        let gauges =
            json!([{"name": "core.threads.live", "value": 3}, {"name": "core.turns.active", "value": 0}]);
        let process = json!({"id": 42, "residentMemoryBytes": 1000, "physicalFootprintBytes": null});
        fake.reply(&request, json!({"process": process, "gauges": gauges})).await;
    };
    let read = async {
        assert_eq!(connection.config_mcp_servers().await.unwrap(), ["a", "b"]);
        assert_eq!(connection.thread_status(&ThreadId::new("t1")).await.unwrap(), ThreadStatus::Active);
        assert_eq!(connection.thread_status(&ThreadId::new("t2")).await.unwrap(), ThreadStatus::NotLoaded);
        let expected = Diagnostics {
            pid: Some(42),
            resident_bytes: Some(1000),
            threads_live: Some(3),
            turns_active: Some(0),
            requests_in_flight: None,
        };
        assert_eq!(connection.diagnostics().await.unwrap(), expected);
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn every_server_request_is_answered_under_its_own_id() {
    let (connection, mut fake, _tasks) = connected().await;
    // The same number as a request of ours that waits: the two directions do not meet.
    let asking = async {
        let waiting = fake.expect("model/list").await;
        let id = waiting["id"].clone();
        let answer = fake.ask(id, "item/commandExecution/requestApproval", json!({"threadId": "t1"})).await;
        assert_eq!(answer["result"], json!({"decision": "decline"}));
        let answer = fake.ask(json!("s-1"), "brand/new", Value::Null).await;
        assert_eq!(answer["error"]["code"], -32601);
        let answer = fake.ask(json!(-3), "mcpServer/elicitation/request", json!({})).await;
        assert_eq!(answer["result"]["action"], "decline");
        let answer = fake.ask(json!(9), "item/tool/requestUserInput", json!({})).await;
        assert_eq!(answer["result"], json!({"answers": {}}));
        let answer = fake.ask(json!(10), "account/chatgptAuthTokens/refresh", json!({})).await;
        assert!(answer["error"]["message"].as_str().unwrap().contains("codex login"));
        fake.reply(&waiting, json!({"data": [], "nextCursor": null})).await;
    };
    let (models, ()) = tokio::join!(connection.models(), asking);
    assert_eq!(models.unwrap(), []);
}

#[tokio::test]
async fn notices_reach_every_listener() {
    let (connection, mut fake, _tasks) = connected().await;
    let (mut first, mut second) = (connection.notices(), connection.notices());
    let window = json!({"usedPercent": 42, "windowDurationMins": 300, "resetsAt": 1_700_000_000});
    fake.notify("account/updated", json!({"authMode": "chatgpt", "planType": "plus"})).await;
    fake.notify("account/rateLimits/updated", json!({"rateLimits": {"primary": window, "secondary": null}}))
        .await;
    fake.notify("warning", json!({"threadId": null, "message": "careful"})).await;
    for listener in [&mut first, &mut second] {
        assert_eq!(bounded(listener.recv()).await.unwrap(), Notice::AccountUpdated);
        let Notice::RateLimits(limits) = bounded(listener.recv()).await.unwrap() else { panic!() };
        let primary = limits.primary.unwrap();
        assert_eq!((primary.used_percent, primary.minutes), (42.0, Some(300)));
        assert_eq!(primary.resets_at, Some(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        assert_eq!(bounded(listener.recv()).await.unwrap(), Notice::Warning { message: "careful".into() });
    }
}
