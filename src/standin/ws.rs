//! The backend's WebSocket: one `response.create` a message, answered by the events of the stream, one a message.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::engine::{Engine, Refusal, Reply};
use super::history::History;
use super::http::MAX_BODY_BYTES;
use super::requests::{Arrival, Transport, shown};
use super::script::{Script, Step};

/// Requests that came while one is answered; a peer that sends more is dropped.
const MAX_WAITING: usize = 16;

/// Upgrades the connection and talks on it until the peer leaves or the engine stops.
pub(crate) fn accept(
    upgrade: WebSocketUpgrade,
    engine: &Arc<Engine>,
    path: &str,
    headers: &HeaderMap,
) -> Response {
    let (upgraded, socket) = oneshot::channel();
    let (path, headers, engine) = (path.to_owned(), shown(headers), Arc::clone(engine));
    let tasks = engine.tasks.clone();
    tasks.spawn("stand-in socket", async move {
        let stop = engine.stop.clone();
        let talk = async {
            if let Ok(socket) = socket.await {
                Peer { socket, engine, path, headers, waiting: VecDeque::new() }.talk().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = talk => {}
        }
    });
    upgrade.max_message_size(MAX_BODY_BYTES).max_frame_size(MAX_BODY_BYTES).on_upgrade(|socket| async {
        // Nobody receives it once the engine has stopped; dropped, it closes.
        let _ = upgraded.send(socket);
    })
}

struct Peer {
    socket: WebSocket,
    engine: Arc<Engine>,
    path: String,
    headers: Arc<BTreeMap<String, String>>,
    waiting: VecDeque<Utf8Bytes>,
}

impl Peer {
    async fn talk(mut self) {
        let mut history = History::default();
        while let Some(text) = self.next_request().await {
            self.engine.travel().await;
            if self.answer(&text, &mut history).await.is_break() {
                return;
            }
        }
    }

    async fn next_request(&mut self) -> Option<Utf8Bytes> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Some(text);
            }
            if self.listen().await.is_break() {
                return None;
            }
        }
    }

    /// Takes one message; breaks when the peer has left. Cancel-safe.
    async fn listen(&mut self) -> ControlFlow<()> {
        match self.socket.recv().await {
            Some(Ok(Message::Text(text))) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back(text);
                Continue(())
            }
            // Pings are answered below us.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Continue(()),
            Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Close(_)) | Err(_)) | None => Break(()),
        }
    }

    async fn answer(&mut self, text: &Utf8Bytes, history: &mut History) -> ControlFlow<()> {
        let Ok(body) = serde_json::from_str::<Value>(text) else {
            return self.refuse(&Refusal::malformed("The message is not JSON.", None)).await;
        };
        if body["type"] != "response.create" {
            return self.refuse(&Refusal::malformed("The message type is not known.", None)).await;
        }
        let arrival = Arrival {
            transport: Transport::Ws,
            path: self.path.clone(),
            headers: Arc::clone(&self.headers),
            bytes: text.len(),
        };
        let body = Arc::new(body);
        let Some(whole) = history.expand(&body) else {
            self.engine.requests.add(arrival, body, None);
            let message = "Previous response is not found.";
            return self.refuse(&Refusal::malformed(message, Some("previous_response_not_found"))).await;
        };
        match self.engine.reply(arrival, &body, Some(&whole)) {
            Reply::Refused(refusal) => self.refuse(&refusal).await,
            Reply::Streamed(script) => {
                if body["generate"] != false {
                    let event = self.engine.account.event();
                    self.send(&event).await?;
                }
                self.play(script, whole, history).await
            }
        }
    }

    async fn play(&mut self, mut script: Script, whole: Value, history: &mut History) -> ControlFlow<()> {
        let _open = self.engine.begin();
        let mut completed = false;
        for step in script.by_ref() {
            match step {
                Step::Event(event) => {
                    completed = event["type"] == "response.completed";
                    self.send(&event).await?;
                }
                Step::Pause(pause) => self.pause(pause).await?,
                Step::Cut => return Break(()),
                Step::Stall => loop {
                    self.listen().await?;
                },
            }
        }
        if completed {
            history.keep(script.response_id, whole, script.output);
        }
        Continue(())
    }

    /// Waits, unless the peer leaves.
    async fn pause(&mut self, pause: Duration) -> ControlFlow<()> {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            // Both branches are cancel-safe: a message is taken whole or not at all.
            tokio::select! {
                () = &mut over => return Continue(()),
                heard = self.listen() => heard?,
            }
        }
    }

    async fn refuse(&mut self, refusal: &Refusal) -> ControlFlow<()> {
        let mut frame = json!({"type": "error", "status": refusal.status, "error": refusal.error});
        if let Some(seconds) = refusal.retry_after {
            frame["headers"] = json!({"retry-after": seconds.to_string()});
        }
        self.send(&frame).await
    }

    async fn send(&mut self, event: &Value) -> ControlFlow<()> {
        match self.socket.send(Message::Text(event.to_string().into())).await {
            Ok(()) => Continue(()),
            Err(_) => Break(()),
        }
    }
}
