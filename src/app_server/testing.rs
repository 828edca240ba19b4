//! An app-server for tests: the other end of an in-memory stream, scripted step by step in raw JSON. It shares
//! no types with the client, so that a mistake in those shows.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{ConnectOptions, Connection, Thread, ThreadOptions};
use crate::tasks::Tasks;

/// Every wait of a test ends here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room of the in-memory stream.
const PIPE_BYTES: usize = 256 * 1024;

/// The scripted peer.
#[derive(Debug)]
pub(crate) struct FakeAppServer {
    socket: WebSocketStream<DuplexStream>,
}

impl FakeAppServer {
    /// A connection and its peer, initialised.
    pub(crate) async fn connect(options: ConnectOptions, tasks: &Tasks) -> (Connection, Self) {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let serve = async {
            let mut fake = Self::accept(theirs).await;
            fake.serve_initialize().await;
            fake
        };
        let (connection, fake) = tokio::join!(Connection::open(ours, options, tasks), serve);
        (connection.expect("the handshake works"), fake)
    }

    /// The WebSocket handshake alone.
    pub(crate) async fn accept(stream: DuplexStream) -> Self {
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(Some(16 << 20));
        let accepting = tokio_tungstenite::accept_async_with_config(stream, Some(config));
        Self { socket: bounded(accepting).await.expect("a handshake") }
    }

    /// Answers `initialize` and takes `initialized`; gives the parameters.
    pub(crate) async fn serve_initialize(&mut self) -> Value {
        let initialize = self.expect("initialize").await;
        let agent = "codex_bridge/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_bridge; 0.1.0)";
        self.reply(&initialize, json!({"userAgent": agent, "codexHome": "/home/codex"})).await;
        let initialized = self.expect("initialized").await;
        assert_eq!(initialized, json!({"method": "initialized"}));
        initialize["params"].clone()
    }

    /// Starts a thread through `connection` under the given id.
    pub(crate) async fn start_thread(&mut self, connection: &Connection, id: &str) -> Thread {
        let options = ThreadOptions::lean("gpt-test", "/empty");
        let serve = self.serve_thread_start(id);
        let (thread, _) = tokio::join!(connection.start_thread(&options), serve);
        thread.expect("a thread")
    }

    /// Answers a `thread/start` with the given id; gives the parameters.
    pub(crate) async fn serve_thread_start(&mut self, id: &str) -> Value {
        let request = self.expect("thread/start").await;
        let thread = json!({"id": id, "status": {"type": "idle"}, "ephemeral": true});
        self.reply(&request, json!({"thread": thread, "model": "gpt-test"})).await;
        request["params"].clone()
    }

    /// Answers `thread/inject_items` and `turn/start` with the given turn id; gives items and parameters.
    pub(crate) async fn serve_turn_start(&mut self, turn: &str) -> (Value, Value) {
        let inject = self.expect("thread/inject_items").await;
        let start = self.expect("turn/start").await;
        self.reply(&inject, json!({})).await;
        self.reply(&start, json!({"turn": {"id": turn, "items": [], "status": "inProgress", "error": null}}))
            .await;
        (inject["params"]["items"].clone(), start["params"].clone())
    }

    /// The next message.
    pub(crate) async fn recv(&mut self) -> Value {
        loop {
            match bounded(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected a message, got {other:?}"),
            }
        }
    }

    /// The next message, however long it takes; `None` once the other side is gone.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// The next message, which must be `method`.
    pub(crate) async fn expect(&mut self, method: &str) -> Value {
        let message = self.recv().await;
        assert_eq!(message["method"], method, "{message}");
        assert!(message.get("jsonrpc").is_none());
        message
    }

    /// Waits for the other side's close frame.
    pub(crate) async fn closed(&mut self) {
        loop {
            match bounded(self.socket.next()).await {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Answers pings for `time` and takes nothing else.
    pub(crate) async fn idle(&mut self, time: Duration) {
        let _ = timeout(time, async {
            while let Some(message) = self.socket.next().await {
                assert!(matches!(message, Ok(Message::Ping(_) | Message::Pong(_))), "{message:?}");
            }
        })
        .await;
    }

    /// Answers a request.
    pub(crate) async fn reply(&mut self, request: &Value, result: Value) {
        self.send(json!({"id": request["id"], "result": result})).await;
    }

    /// Refuses a request.
    pub(crate) async fn refuse(&mut self, request: &Value, code: i32, message: &str) {
        self.send(json!({"id": request["id"], "error": {"code": code, "message": message}})).await;
    }

    /// Tells something.
    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({"method": method, "params": params, "emittedAtMs": 1})).await;
    }

    /// Asks something and gives the answer.
    pub(crate) async fn ask(&mut self, id: Value, method: &str, params: Value) -> Value {
        self.send(json!({"id": id, "method": method, "params": params})).await;
        let answer = self.recv().await;
        assert_eq!(answer["id"], id);
        answer
    }

    /// Any message at all.
    pub(crate) async fn send(&mut self, message: Value) {
        bounded(self.socket.send(Message::text(message.to_string()))).await.expect("the socket takes it");
    }

    /// Closes with a code and a reason.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame =
            tokio_tungstenite::tungstenite::protocol::CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await.expect("the socket closes");
    }
}

/// `future`, which must end in time.
pub(crate) async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}
