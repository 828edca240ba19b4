use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::api::testing::{self, KEY, config, routes};
use crate::model::{Ended, Phases, Rebuilt, ResponseId, Route, SessionIdentity, ThreadId, TurnId, Usage};
use std::time::Duration;

/// Log lines, as JSON.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    /// Collects what this thread logs until the guard is dropped.
    fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(lines.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The one line of the one request.
    fn request(&self) -> Value {
        let text = self.text();
        let parsed = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut requests = parsed.filter(|line| line["fields"]["message"] == "request");
        let line = requests.next().expect("a line");
        assert!(requests.next().is_none(), "{text}");
        line
    }
}

#[tokio::test]
async fn a_request_is_one_line_without_anything_private() {
    let (lines, _guard) = Lines::collect();
    let body = r#"{"messages": [{"role": "user", "content": "my-secret-question"}]}"#;
    let mut request = testing::post("/v1/chat/completions", body);
    request.headers_mut().insert("x-request-id", HeaderValue::from_static("mine-1"));
    request.headers_mut().insert("session-id", HeaderValue::from_static("conversation-1"));
    testing::send(routes(&config()), request).await;
    let line = lines.request();
    let fields = &line["fields"];
    assert_eq!(line["level"], "WARN");
    for (field, expected) in [
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("request_id", "mine-1"),
        ("key", "tester"),
        ("session", "conversation-1"),
        ("session_source", "header"),
        ("ended", "failed"),
        ("error", "shutting_down"),
    ] {
        assert_eq!(fields[field], expected);
    }
    assert_eq!((&fields["status"], &fields["client_left"]), (&Value::from(503), &Value::from(false)));
    assert!(fields["response_id"].as_str().unwrap().starts_with("resp_"));
    assert!(fields["ms"].is_u64() && fields["head_ms"].is_u64() && fields["done_ms"].is_u64());
    assert_eq!((&fields["answers"], &fields["turns"]), (&Value::from(1), &Value::from(0)));
    assert!(!lines.text().contains("my-secret-question") && !lines.text().contains(KEY));
}

#[tokio::test]
async fn a_path_without_a_route_is_not_repeated() {
    let (lines, _guard) = Lines::collect();
    testing::send(routes(&config()), testing::get("/my-secret?token=my-secret")).await;
    assert_eq!(lines.request()["fields"]["path"], "-");
    assert!(!lines.text().contains("my-secret"));
}

#[tokio::test]
async fn probes_are_not_worth_a_line_at_info() {
    for (probe, status) in [("/healthz", 200), ("/readyz", 503)] {
        let (lines, _guard) = Lines::collect();
        testing::send(routes(&config()), testing::get(probe)).await;
        let line = lines.request();
        assert_eq!((&line["level"], &line["fields"]["status"]), (&"DEBUG".into(), &status.into()), "{probe}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_shows_before_and_after_the_head() {
    let router = || {
        let body = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        Router::new()
            .route("/wait", get(std::future::pending::<()>))
            .route("/stream", get(move || std::future::ready(body())))
            .layer(axum::middleware::from_fn(observe))
    };
    let (lines, guard) = Lines::collect();
    assert!(router().oneshot(testing::get("/wait")).now_or_never().is_none());
    let fields = lines.request()["fields"].take();
    assert_eq!((&fields["client_left"], fields.get("status")), (&Value::from(true), None));
    drop(guard);

    let (lines, _guard) = Lines::collect();
    let mut response = router().oneshot(testing::get("/stream")).await.unwrap();
    assert!(response.body_mut().frame().now_or_never().is_none());
    assert!(!lines.text().contains("\"message\":\"request\""), "the request has not ended");
    drop(response);
    let fields = lines.request()["fields"].take();
    assert_eq!((&fields["client_left"], &fields["status"]), (&Value::from(true), &Value::from(200)));
}

#[tokio::test]
async fn the_line_has_what_the_trace_has() {
    let (lines, guard) = Lines::collect();
    let call = Call::for_tests();
    let line = Line { call: call.clone(), started: Instant::now(), head: None, ended: true };
    let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens, ..Usage::default() };
    for (id, usage) in [("resp_1", usage(10, 2)), ("resp_2", usage(10, 3))] {
        let trace = call.begin(&ResponseId::new(id), &SessionIdentity::fresh());
        trace.note(|trace| {
            (trace.route, trace.rebuilt_because) = (Some(Route::Rebuilt), Some(Rebuilt::SettingsChanged));
            (trace.thread, trace.turn) = (Some(ThreadId::new("t")), Some(TurnId::new("u")));
            trace.phases = Phases { queued: Some(Duration::from_millis(7)), ..Phases::default() };
            (trace.turns, trace.retries, trace.usage) = (1, 2, Some(usage));
            trace.reruns = 1;
            (trace.generation, trace.ended) = (Some(3), Some(Ended::Answered));
        });
    }
    drop(line);
    drop(guard);
    let fields = lines.request()["fields"].take();
    for (field, expected) in [
        ("response_id", "resp_1"),
        ("route", "rebuilt"),
        ("rebuilt_because", "settings_changed"),
        ("thread_id", "t"),
        ("turn_id", "u"),
        ("session_source", "fresh"),
        ("ended", "answered"),
    ] {
        assert_eq!(fields[field], expected, "{fields}");
    }
    for (field, expected) in [
        ("generation", 3),
        ("queued_ms", 7),
        ("answers", 2),
        ("turns", 2),
        ("retries", 4),
        ("reruns", 2),
        ("input_tokens", 20),
        ("output_tokens", 5),
    ] {
        assert_eq!(fields[field], expected, "{field}: {fields}");
    }
    assert_eq!(fields.get("starting_ms"), None);
}

#[tokio::test]
async fn a_failure_has_its_trace_for_those_who_ask() {
    let ask = |trace: Option<&'static str>, body: &str| {
        let mut request = testing::post("/v1/responses", body.to_owned());
        if let Some(trace) = trace {
            request.headers_mut().insert("x-codex-bridge-trace", HeaderValue::from_static(trace));
        }
        testing::send(routes(&config()), request)
    };
    let plain = ask(None, r#"{"input": "hi"}"#).await;
    assert_eq!(plain.code(), "shutting_down");
    for (header, body) in [
        (Some("1"), r#"{"input": "hi", "seed": 1}"#),
        (None, r#"{"input": "hi", "seed": 1, "include": ["bridge.trace"]}"#),
    ] {
        let traced = ask(header, body).await;
        let mut body = traced.json();
        let trace = body["error"].as_object_mut().unwrap().shift_remove("bridge").unwrap()["trace"].take();
        assert_eq!(body, plain.json());
        assert_eq!(trace["request"]["target"], "POST /v1/responses");
        assert_eq!(trace["request"]["id"], traced.header("x-request-id").unwrap());
        assert_eq!((&trace["ended"], &trace["route"]), (&"failed".into(), &Value::Null));
        assert_eq!(trace["session"]["source"], "derived");
        assert_eq!(trace["ignored"], serde_json::json!(["seed"]));
        assert!(trace["mapping"]["response_id"].as_str().unwrap().starts_with("resp_"));
        assert_eq!(traced.headers["content-type"], "application/json");
    }
    // Before there is a call to trace.
    let unread = ask(Some("true"), "{").await.json();
    assert_eq!(unread["error"]["bridge"]["trace"]["session"], Value::Null);
    // Any other value asks for nothing.
    let body = r#"{"input": "hi", "metadata": {"a": "b"}}"#;
    assert_eq!(ask(Some("0"), body).await.code(), "shutting_down");
    assert_eq!(ask(Some("yes"), body).await.code(), "shutting_down");
}
