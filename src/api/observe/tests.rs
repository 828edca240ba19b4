use std::io::Write;
use std::sync::Mutex;

use axum::Router;
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::api::testing::{self, KEY, config, routes};

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
    testing::send(routes(&config()), request).await;
    let line = lines.request();
    let fields = &line["fields"];
    assert_eq!(line["level"], "WARN");
    for (field, expected) in [
        ("method", "POST"),
        ("route", "/v1/chat/completions"),
        ("request_id", "mine-1"),
        ("key", "tester"),
        ("error", "shutting_down"),
    ] {
        assert_eq!(fields[field], expected);
    }
    assert_eq!((&fields["status"], &fields["client_left"]), (&Value::from(503), &Value::from(false)));
    assert!(fields["response_id"].as_str().unwrap().starts_with("resp_"));
    assert!(fields["ms"].is_u64() && fields["head_ms"].is_u64());
    assert!(!lines.text().contains("my-secret-question") && !lines.text().contains(KEY));
}

#[tokio::test]
async fn a_path_without_a_route_is_not_repeated() {
    let (lines, _guard) = Lines::collect();
    testing::send(routes(&config()), testing::get("/my-secret?token=my-secret")).await;
    assert_eq!(lines.request()["fields"]["route"], "-");
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
