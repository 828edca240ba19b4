//! What the app-server's failures mean to a client.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::daemon::{Daemon, terminal_of};
use crate::http::until;
use crate::peer::Instead;

#[tokio::test]
async fn each_kind_has_its_status_and_code() {
    let status = |kind: &str, code: u16| json!({kind: {"httpStatusCode": code}});
    let table: Vec<(Value, u16, &str)> = vec![
        (json!("contextWindowExceeded"), 400, "context_length_exceeded"),
        (json!("usageLimitExceeded"), 429, "usage_limit_reached"),
        (json!("serverOverloaded"), 503, ""),
        (json!("modelNotFound"), 404, "model_not_found"),
        (json!("unauthorized"), 401, ""),
        (json!("badRequest"), 400, ""),
        (json!("internalServerError"), 502, ""),
        (json!("other"), 502, ""),
        (json!("aWordFromTheFuture"), 502, ""),
        (json!({"anObjectFromTheFuture": {"x": 1}}), 502, ""),
        (Value::Null, 502, "upstream_refused"),
        (status("httpConnectionFailed", 401), 401, ""),
        (status("responseTooManyFailedAttempts", 429), 429, ""),
        (status("responseTooManyFailedAttempts", 503), 503, ""),
        (status("responseStreamConnectionFailed", 500), 502, ""),
        (json!({"responseStreamDisconnected": {"httpStatusCode": null}}), 502, ""),
    ];
    let mut daemon = Daemon::start(|_| {}).await;
    for (info, status, code) in table {
        let asking = daemon.ask("hi");
        daemon.peer.turn().await.begin().failed(&info, "the backend's words");
        let answer = asking.answer().await;
        let error = answer.error();
        assert_eq!(answer.status, status, "{info}: {error}");
        if !code.is_empty() {
            assert_eq!(error["code"], code, "{info}");
        }
        let kind = match status {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        assert!(error["type"] == kind || status == 401, "{info}: {error}");
        if status == 401 {
            assert!(error["message"].as_str().is_some_and(|words| words.contains("codex login")), "{error}");
        }

        // The same before the first event of a stream: still a status.
        let asking = daemon.post(
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "x"}], "stream": true}),
        );
        daemon.peer.turn().await.begin().failed(&info, "the backend's words");
        assert_eq!(asking.answer().await.status, status, "{info}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn what_the_backend_refuses_is_the_requests_fault() {
    let mut daemon = Daemon::start(|_| {}).await;
    let error = json!({
        "message": "Invalid schema.", "type": "invalid_request_error", "param": "text.format.schema",
        "code": "invalid_json_schema",
    });
    let body = json!({"type": "error", "status": 400, "error": error}).to_string();
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin().failed(&json!("other"), &body);
    let answer = asking.answer().await;
    assert_eq!((answer.status, answer.error()), (400, error));
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let asking = daemon.post("/v1/chat/completions", chat);
    daemon.peer.turn().await.begin().failed(&json!("other"), &body);
    let answer = asking.answer().await;
    assert_eq!((answer.status, &answer.error()["param"]), (400, &json!("response_format")));
    daemon.finish().await;
}

#[tokio::test]
async fn the_last_failure_of_several_has_the_kind_of_the_others() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    let cut = json!({"responseStreamDisconnected": {"httpStatusCode": null}});
    turn.begin().retrying(&cut, "Reconnecting... 5/5", "stream disconnected: why");
    turn.failed(&json!("other"), "stream disconnected: why");
    assert_eq!(asking.answer().await.failure(), (502, "stream_disconnected".into()));
    daemon.finish().await;
}

#[tokio::test]
async fn a_used_up_window_says_when_it_starts_anew() {
    let mut daemon = Daemon::start(|_| {}).await;
    let resets = SystemTime::now() + Duration::from_secs(600);
    let resets = resets.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let window = json!({"usedPercent": 100.0, "windowDurationMins": 300, "resetsAt": resets});
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    // Before it began it would have been refused.
    daemon.peer.rate_limits(&json!({"primary": window, "secondary": null}));
    until("the window is heard of", async || daemon.bridge.account_health().block.map(drop)).await;
    turn.begin().failed(&json!("usageLimitExceeded"), "You've hit your usage limit.");
    let answer = asking.answer().await;
    assert_eq!(answer.failure(), (429, "usage_limit_reached".into()));
    let wait: u64 = answer.header("retry-after").expect("retry-after").parse().expect("seconds");
    assert!((550..=600).contains(&wait), "{wait}");
    daemon.finish().await;
}

#[tokio::test]
async fn an_overloaded_app_server_is_asked_again() {
    let mut daemon = Daemon::start(|_| {}).await;
    let overload = Instead::Refusal { code: -32001, message: "Server overloaded; retry later." };
    for method in ["thread/start", "thread/start", "turn/start"] {
        daemon.peer.instead(method, overload.clone());
    }
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items.len(), 1, "{:?}", turn.items);
    turn.answer("here");
    asking.answer().await.ok();
    daemon.finish().await;
}

/// The two requests travel together, but only one of them may be refused: no turn may be answered that ran
/// without its items.
#[tokio::test]
async fn a_turn_whose_items_were_refused_is_never_answered() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon
        .peer
        .instead("thread/inject_items", Instead::Refusal { code: -32001, message: "Server overloaded" });
    let asking = daemon.ask("hi");
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items, Vec::<Value>::new());
    turn.begin();
    daemon.until_interrupted(&turn).await;
    // Overloaded is not refused: it is tried again.
    let turn = daemon.peer.turn().await;
    assert_eq!(turn.items.len(), 1);
    turn.answer("here");
    assert_eq!(crate::daemon::text_of(&asking.answer().await.ok()), "here");

    daemon.peer.instead("thread/inject_items", Instead::Refusal { code: -32600, message: "unknown variant" });
    let asking = daemon.ask("hi");
    daemon.peer.turn().await.begin();
    let answer = asking.answer().await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    answer.error();
    daemon.finish().await;
}

#[tokio::test]
async fn a_refused_start_is_the_requests_fault() {
    let mut daemon = Daemon::start(|_| {}).await;
    for method in ["thread/start", "turn/start"] {
        daemon.peer.instead(method, Instead::Refusal { code: -32602, message: "bad parameter" });
        let answer = daemon.ask("hi").answer().await;
        assert_eq!(answer.status, 400, "{method}: {}", answer.text);
        answer.error();
    }
    let asking = daemon.ask("again");
    daemon.peer.turn().await.answer("here");
    asking.answer().await.ok();
    daemon.finish().await;
}

#[tokio::test]
async fn a_late_failure_of_a_stream_is_its_last_event() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming("half").await;
    turn.failed(&json!("usageLimitExceeded"), "You've hit your usage limit.");
    let events = events.rest().await;
    let failed = terminal_of(&events);
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"]["code"], "rate_limit_exceeded");
    daemon.finish().await;
}

#[tokio::test]
async fn input_that_a_foreign_app_server_would_compact_is_refused_first() {
    let daemon = Daemon::start(|_| {}).await;
    let answer = daemon.ask(&"word ".repeat(400_000)).answer().await;
    assert_eq!(answer.failure(), (400, "context_length_exceeded".into()));
    assert_eq!(daemon.peer.seen("turn/start").len(), 0);
    daemon.finish().await;
}
