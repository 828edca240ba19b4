//! The trace that a caller may ask for, through the whole daemon.

use serde_json::{Value, json};

use crate::daemon::{Daemon, terminal_of};
use crate::spec::{assert_valid, stream_event};

fn asked(input: &str) -> Value {
    json!({"input": input, "include": ["bridge.trace"], "metadata": {"session_id": "s-1"}, "seed": 1})
}

/// Takes the trace out of an object.
fn taken(object: &mut Value) -> Value {
    let fields = object.as_object_mut().unwrap_or_else(|| panic!("no object"));
    let bridge = fields.shift_remove("bridge").unwrap_or_else(|| panic!("no trace: {fields:?}"));
    assert_eq!(bridge.as_object().map(serde_json::Map::len), Some(1));
    bridge["trace"].clone()
}

#[tokio::test]
async fn an_answer_tells_where_it_ran_and_is_else_official() {
    let mut daemon = Daemon::start(|_| {}).await;
    let asking = daemon.post("/v1/responses", asked("hi"));
    let turn = daemon.peer.turn().await;
    turn.answer("hello");
    let mut response = asking.answer().await.ok();
    let trace = taken(&mut response);
    assert_valid("Response", &response);
    assert_eq!(trace["request"]["target"], "POST /v1/responses");
    assert_eq!(trace["session"], json!({"id": "s-1", "source": "body", "name": "metadata.session_id"}));
    assert_eq!((&trace["route"], &trace["rebuilt_because"]), (&json!("fresh"), &Value::Null));
    let mapping = json!({
        "response_id": response["id"], "thread_id": turn.thread, "turn_id": turn.id,
        "upstream_response_id": "resp_upstream", "app_server_generation": 1,
    });
    assert_eq!(trace["mapping"], mapping);
    assert_eq!(trace["continuation"]["chain_length"], 1);
    assert!(trace["continuation"]["expires_at"].as_u64() > response["created_at"].as_u64());
    assert_eq!(
        (&trace["turns"], &trace["retries"], &trace["ended"]),
        (&json!(1), &json!(0), &json!("answered"))
    );
    assert_eq!(trace["ignored"], json!(["seed"]));
    let phases = ["queued", "starting", "first_event", "done"].map(|name| trace["phases_ms"][name].as_u64());
    assert!(phases.iter().all(Option::is_some) && phases.is_sorted(), "{phases:?}");
    let metadata = &turn.params["responsesapiClientMetadata"];
    assert_eq!(*metadata, json!({"client_session_id": "s-1"}));

    let mut again = asked("more");
    again["previous_response_id"] = response["id"].clone();
    let asking = daemon.post("/v1/responses", again);
    daemon.peer.turn().await.answer("more");
    let trace = taken(&mut asking.answer().await.ok());
    // This daemon keeps no warm threads.
    assert_eq!((&trace["route"], &trace["rebuilt_because"]), (&json!("rebuilt"), &json!("not_loaded")));
    assert_eq!(trace["continuation"]["previous_response_id"], response["id"]);
    assert_eq!(trace["continuation"]["chain_length"], 2);
    daemon.finish().await;
}

#[tokio::test]
async fn nobody_gets_a_trace_unasked() {
    let mut daemon = Daemon::start(|_| {}).await;
    for (path, body) in [
        ("/v1/responses", json!({"input": "hi"})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "hi"}]})),
    ] {
        let asking = daemon.post(path, body.clone());
        daemon.peer.turn().await.answer("hello");
        assert_eq!(asking.answer().await.ok().get("bridge"), None);
        let (events, turn) = daemon.streaming_at(path, body, "hel").await;
        turn.message("m", "hello").response(1, 2).completed();
        assert!(!json!(events.rest().await).to_string().contains("\"bridge\""));
    }
    daemon.finish().await;
}

#[tokio::test]
async fn only_the_last_event_of_a_stream_has_it() {
    let mut daemon = Daemon::start(|_| {}).await;
    let (events, turn) = daemon.streaming_at("/v1/responses", asked("hi"), "hel").await;
    turn.retrying(&json!("other"), "Reconnecting... 1/5", "cut");
    turn.item_started("agentMessage", "m")
        .delta("m", "hello")
        .message("m", "hello")
        .response(1, 2)
        .completed();
    let mut events = events.rest().await;
    let at = events.len() - 2;
    let trace = taken(&mut events[at]["response"]);
    assert_eq!((&trace["retries"], &trace["ended"]), (&json!(1), &json!("answered")));
    assert_eq!(terminal_of(&events)["type"], "response.completed");
    for event in &events[..=at] {
        assert_valid(&stream_event(event["type"].as_str().expect("a type")), event);
    }

    let (events, turn) = daemon.streaming_at("/v1/responses", asked("hi"), "hel").await;
    turn.failed(&json!("other"), "no");
    let mut events = events.rest().await;
    let at = events.len() - 2;
    let trace = taken(&mut events[at]["response"]);
    assert_eq!((&trace["ended"], &trace["mapping"]["turn_id"]), (&json!("failed"), &json!(turn.id)));
    assert_valid("ResponseFailedEvent", &events[at]);
    daemon.finish().await;
}

#[tokio::test]
async fn a_chat_request_asks_with_a_header() {
    let mut daemon = Daemon::start(|_| {}).await;
    let client = daemon.client.clone().with_header("x-codex-bridge-trace", "1");
    let client = client.with_header("session-id", "no name").with_header("session_id", "s-2");
    let path = "/v1/chat/completions";
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let (answer, turn) = tokio::join!(client.post(path, &body), async {
        let turn = daemon.peer.turn().await;
        turn.answer("hello");
        turn
    });
    let mut completion = answer.ok();
    // What is no name is passed over, and said.
    assert_eq!(answer.header("x-codex-bridge-ignored"), Some("headers.session-id"));
    let trace = taken(&mut completion);
    assert_valid("CreateChatCompletionResponse", &completion);
    assert_eq!(trace["session"], json!({"id": "s-2", "source": "header", "name": "session_id"}));
    assert_eq!(trace["mapping"]["thread_id"], turn.thread);
    assert_eq!(trace["ignored"], json!(["headers.session-id"]));
    assert_eq!(trace["continuation"]["expires_at"], Value::Null);

    let (events, ()) =
        tokio::join!(client.stream(path, &body), async { daemon.peer.turn().await.answer("hello") });
    let events = events.rest().await;
    let told = |event: &Value| event.get("bridge").is_some();
    assert_eq!(events.iter().position(told), Some(events.len() - 2), "{events:?}");

    let (answer, ()) = tokio::join!(client.post(path, &body), async {
        daemon.peer.turn().await.begin().failed(&json!("other"), "no");
    });
    let mut failure = answer.json();
    let trace = taken(&mut failure["error"]);
    crate::http::assert_error_shape(&failure);
    assert_eq!((&trace["ended"], &trace["route"]), (&json!("failed"), &json!("fresh")));
    daemon.finish().await;
}

#[tokio::test]
async fn another_model_on_somebody_elses_app_server_is_a_reason() {
    let mut daemon = Daemon::start(|config| config.continuation.warm_threads = 1).await;
    let asking = daemon.post("/v1/responses", asked("hi"));
    daemon.peer.turn().await.answer("hello");
    let mut body = asked("more");
    body["previous_response_id"] = asking.answer().await.ok()["id"].clone();
    body["model"] = json!("model-b");
    let asking = daemon.post("/v1/responses", body);
    daemon.peer.turn().await.answer("more");
    let trace = taken(&mut asking.answer().await.ok());
    assert_eq!((&trace["route"], &trace["rebuilt_because"]), (&json!("rebuilt"), &json!("model_changed")));
    daemon.end().await;
}
