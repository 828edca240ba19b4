//! An HTTP client for tests: JSON in and out, errors checked for the official shape, event streams read one
//! event at a time. Every wait is bounded.

use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

use crate::described::{assert_described, official_events};
use crate::spec::{assert_official, assert_official_event};
use codex_bridge::api::openapi_document;

/// Every wait of a test ends here; a passed test's time is never spent on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between the fields of a form.
pub(crate) const BOUNDARY: &str = "----the-boundary";

/// A client of one bridge.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    key: Option<String>,
    /// Sent with every request.
    headers: HeaderMap,
    http: reqwest::Client,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// An event stream. Dropping it leaves.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: String,
    /// The official schema of each; `None` for what the fallback passes on.
    official: Option<&'static str>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, key: Option<&str>) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Self { address, key: key.map(str::to_owned), headers: HeaderMap::new(), http }
    }

    /// The same with one more header.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().expect("a header"));
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = self.http.get(format!("http://{}{path}", self.address));
        whole("GET", self.authorized(request).send().await.expect("an answer")).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        let request = self.http.delete(format!("http://{}{path}", self.address));
        whole("DELETE", self.authorized(request).send().await.expect("an answer")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().into_bytes()).await
    }

    pub(crate) async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Answer {
        let request =
            self.http.post(format!("http://{}{path}", self.address)).header(CONTENT_TYPE, "application/json");
        whole("POST", self.authorized(request).body(body).send().await.expect("an answer")).await
    }

    /// Posts a form of these fields; the one named `file` has a file's name.
    pub(crate) async fn post_form(&self, path: &str, fields: &[(&str, &[u8])]) -> Answer {
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let request = self.http.post(format!("http://{}{path}", self.address)).header(CONTENT_TYPE, kind);
        whole("POST", self.authorized(request).body(form(fields)).send().await.expect("an answer")).await
    }

    /// Posts with further headers.
    pub(crate) async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request =
            self.http.post(format!("http://{}{path}", self.address)).header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        whole("POST", self.authorized(request).body(body.to_string()).send().await.expect("an answer")).await
    }

    /// Posts with `stream: true`; the head must be a stream's.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Events {
        let mut body = body.clone();
        body["stream"] = true.into();
        let request =
            self.http.post(format!("http://{}{path}", self.address)).header(CONTENT_TYPE, "application/json");
        let response =
            self.authorized(request).body(body.to_string()).send().await.expect("the head of a stream");
        Events::of("POST", response).await
    }

    /// Gets a stream; its head must be a stream's.
    pub(crate) async fn stream_at(&self, path: &str) -> Events {
        let request = self.http.get(format!("http://{}{path}", self.address));
        Events::of("GET", self.authorized(request).send().await.expect("the head of a stream")).await
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = request.headers(self.headers.clone());
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, value) in fields {
        let filename = if *name == "file" { "; filename=\"rows.jsonl\"" } else { "" };
        let head =
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{filename}\r\n\r\n");
        form.extend([head.as_bytes(), value, b"\r\n"].concat());
    }
    form.extend(format!("--{BOUNDARY}--\r\n").bytes());
    form
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{}: not JSON ({error}): {}", self.status, self.text))
    }

    /// The JSON of an answer that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// The error of an answer that must have failed: in the official shape, no field beside it.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        assert!(self.status >= 400, "{}: {}", self.status, self.text);
        let kind = self.headers.get(CONTENT_TYPE).expect("a content type");
        assert!(kind.to_str().expect("text").starts_with("application/json"), "{kind:?}");
        let body = self.json();
        assert_error_shape(&body);
        body["error"].clone()
    }

    /// Status and code of a failure.
    #[track_caller]
    pub(crate) fn failure(&self) -> (u16, String) {
        (self.status, self.error()["code"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

impl Events {
    async fn of(method: &str, response: reqwest::Response) -> Self {
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_stream = response.status() == 200 && kind.starts_with("text/event-stream");
        assert!(is_stream, "not a stream: {:?}", whole(method, response).await);
        let official = if is_ours(response.headers()) {
            Some(official_events(openapi_document(), method, response.url().path()).expect("a stream's path"))
        } else {
            None
        };
        Self { response, buffer: String::new(), official }
    }

    /// The next event's data, `[DONE]` as a string; `None` at the end. A connection that breaks instead fails
    /// the test.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let frame: String = self.buffer.drain(..end + 2).collect();
                assert!(!frame.contains('\r'), "{frame:?}");
                if let Some(event) = data(&frame) {
                    if let Some(official) = self.official {
                        assert_official_event(official, &event);
                    }
                    return Some(event);
                }
                continue;
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("an event in time");
            let Some(bytes) = chunk.expect("the stream ends well") else {
                assert_eq!(self.buffer, "", "half an event");
                return None;
            };
            self.buffer.push_str(std::str::from_utf8(&bytes).expect("whole characters"));
        }
    }

    /// The next event whose `type` is `kind`; what comes before it is passed over.
    pub(crate) async fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended without {kind}"));
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// All that is left.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Checks `{"error": {message, type, param, code}}`, closed.
#[track_caller]
pub(crate) fn assert_error_shape(body: &Value) {
    let fields = |value: &Value| -> Vec<String> {
        let mut names: Vec<_> =
            value.as_object().unwrap_or_else(|| panic!("not an object: {body}")).keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(fields(body), ["error"], "{body}");
    let error = &body["error"];
    assert_eq!(fields(error), ["code", "message", "param", "type"], "{body}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    assert!(error["type"].as_str().is_some_and(|kind| !kind.is_empty()), "{body}");
    for field in ["param", "code"] {
        assert!(error[field].is_string() || error[field].is_null(), "{body}");
    }
}

/// Polls until `look` gives something; fails after the bound.
pub(crate) async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let polling = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Whether the bridge made it itself.
fn is_ours(headers: &HeaderMap) -> bool {
    headers.get("x-codex-bridge-fallback").is_none_or(|reason| reason == "failed")
}

/// Each answer of the bridge's own is one that its OpenAPI document has, and an official one.
async fn whole(method: &str, response: reqwest::Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let path = response.url().path().to_owned();
    let answer = Answer { status, headers, text: response.text().await.expect("a whole body") };
    if is_ours(&answer.headers) {
        let kind = answer.header("content-type").unwrap_or_default();
        let official = assert_described(openapi_document(), method, &path, status, kind, &answer.text);
        if let Some(official) = official {
            assert_official(&official, &answer.json());
        }
    }
    answer
}

/// The data of one frame; `None` for a comment. The event's name must be its data's type.
fn data(frame: &str) -> Option<Value> {
    let (mut name, mut data) = (None, None);
    for line in frame.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => name = Some(value),
            Some(("data", value)) => data = Some(value),
            _ => assert!(line.is_empty() || line.starts_with(':'), "an unknown line: {line:?}"),
        }
    }
    let data = data?;
    if data == "[DONE]" {
        return Some(data.into());
    }
    let event: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
    if let Some(name) = name {
        assert_eq!(event["type"], name);
    }
    Some(event)
}
