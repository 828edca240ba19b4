//! A WebSocket client for tests. Each event is checked against the official schemas. Every wait is bounded.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::http::{Client, PATIENCE};
use crate::spec::assert_valid;

/// An open socket. Dropping it leaves without a word.
pub(crate) struct Socket {
    pub(crate) stream: WebSocketStream<TcpStream>,
    /// Of the answer to the upgrade.
    pub(crate) headers: HeaderMap,
}

impl Socket {
    /// Connects to the client's bridge, without a key.
    pub(crate) async fn connect(client: &Client) -> Self {
        Self::with(client.address(), &[]).await.expect("a socket")
    }

    /// Connects with further headers; the status of a refusal.
    pub(crate) async fn with(address: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let mut request = format!("ws://{address}/v1/responses").into_client_request().expect("a request");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header");
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let tcp = TcpStream::connect(address).await.expect("a connection");
        match timeout(PATIENCE, client_async(request, tcp)).await.expect("an answer in time") {
            Ok((stream, response)) => Ok(Self { stream, headers: response.headers().clone() }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no socket: {error}"),
        }
    }

    /// Asks for a response.
    pub(crate) async fn create(&mut self, fields: Value) {
        let mut event = fields;
        event["type"] = "response.create".into();
        self.send(Message::text(event.to_string())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        timeout(PATIENCE, self.stream.send(message)).await.expect("taken in time").expect("taken");
    }

    /// The next event; the close frame's code as `{"closed": code}`.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            let message = timeout(PATIENCE, self.stream.next()).await.expect("an event in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).expect("JSON");
                    assert_official(&event);
                    return event;
                }
                Some(Ok(Message::Close(frame))) => {
                    return json!({"closed": frame.map(|frame| u16::from(frame.code))});
                }
                Some(Ok(_)) => {}
                other => panic!("no event: {other:?}"),
            }
        }
    }

    /// The next event that calls itself `kind`; what comes before it is passed over.
    pub(crate) async fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await;
            assert!(event.get("closed").is_none(), "{event} before {kind}");
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// All events of one response, the terminal one included.
    pub(crate) async fn response(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let kind =
                event["type"].as_str().unwrap_or_else(|| panic!("{event} after {events:#?}")).to_owned();
            events.push(event);
            if ["response.completed", "response.incomplete", "response.failed", "error"].contains(&&*kind) {
                return events;
            }
        }
    }

    /// The error event that must come next: status, code and param.
    pub(crate) async fn refusal(&mut self) -> (u64, String, Value) {
        let event = self.next().await;
        assert_eq!(event["type"], "error", "{event}");
        let error = &event["error"];
        let code = error["code"].as_str().unwrap_or_default().to_owned();
        (event["status"].as_u64().expect("a status"), code, error["param"].clone())
    }

    /// The close frame that must come next.
    pub(crate) async fn closed(&mut self) -> u16 {
        let event = self.next().await;
        let code = event["closed"].as_u64().unwrap_or_else(|| panic!("not closed: {event}"));
        u16::try_from(code).expect("a code")
    }
}

/// The events of a stream have nothing but the lane beside what they have over HTTP.
fn assert_official(event: &Value) {
    if event["type"] == "error" {
        return assert_valid("ResponseWsError", event);
    }
    if event["type"] == "response.steer.failed" {
        return;
    }
    let mut event = event.clone();
    if let Some(event) = event.as_object_mut() {
        event.shift_remove("stream_id");
    }
    assert_valid("ResponseStreamEvent", &event);
}
