//! A bridge and its peer: what every client does first is answered by itself, turns are played by the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::app_server::AppServer;
use crate::app_server::testing::{FakeAppServer, bounded};
use crate::bridge::{Bridge, BridgeError, Turn, TurnStep};
use crate::config::{AppServerConfig, Config};
use crate::model::{
    Item, Outcome, ResponseId, SessionId, SessionIdentity, SessionSource, Tool, TurnEvent, TurnRequest,
};
use crate::store::ResponseStore;
use crate::store::testing::Shelf;
use crate::tasks::Tasks;

/// The bridge under test.
pub(super) struct Scene {
    pub(super) bridge: Bridge,
    peer: Arc<Peer>,
    tasks: Tasks,
    _temp: tempfile::TempDir,
}

/// The app-server's side, shared with the task that serves it.
#[derive(Default)]
struct Peer {
    /// Everything that came, in order.
    seen: Mutex<Vec<Value>>,
    came: Notify,
    /// Who is logged in; nobody needs to be before it is said.
    account: Mutex<Option<String>>,
    /// What is refused, and with which code.
    refusal: Mutex<Option<(&'static str, i32)>>,
    out: Mutex<Option<mpsc::UnboundedSender<Value>>>,
}

/// A turn that runs on the peer.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) thread: String,
    pub(super) turn: String,
    peer: Arc<Peer>,
}

impl Scene {
    pub(super) fn new(configure: impl FnOnce(&mut Config)) -> Self {
        Self::with_store(Shelf::default(), configure)
    }

    pub(super) fn with_store(store: Shelf, configure: impl FnOnce(&mut Config)) -> Self {
        Self::over(Arc::new(store), configure)
    }

    pub(super) fn over(store: Arc<dyn ResponseStore>, configure: impl FnOnce(&mut Config)) -> Self {
        let (temp, tasks, peer) = (tempfile::tempdir().unwrap(), Tasks::new(), Arc::new(Peer::default()));
        let (shared, spawner) = (Arc::clone(&peer), tasks.clone());
        let open = move || {
            let (ours, theirs) = tokio::io::duplex(256 * 1024);
            spawner.spawn("peer", serve(theirs, Arc::clone(&shared), spawner.stop_token().clone()));
            std::future::ready(std::io::Result::Ok(ours))
        };
        // Nothing is asked but what a call asks.
        let quiet = AppServerConfig {
            probe_interval: Duration::ZERO,
            orphan_sweep: Duration::ZERO,
            ..AppServerConfig::default()
        };
        let app_server = AppServer::over_streams(&quiet, temp.path(), None, open, &tasks);
        let mut config = Config::default();
        config.continuation.spare_threads = 0;
        configure(&mut config);
        Self { bridge: Bridge::new(app_server, store, &config, &tasks), peer, tasks, _temp: temp }
    }

    /// Runs `request` until its turn is started.
    pub(super) async fn start(&self, request: TurnRequest) -> (Turn, Running) {
        let before = self.peer.count("turn/start");
        let turn = bounded(self.bridge.run(request)).await.expect("the turn starts");
        (turn, self.peer.running(before))
    }

    /// Runs `request`, which goes on in a turn that runs already.
    pub(super) async fn resume(&self, request: TurnRequest) -> Turn {
        let before = self.peer.count("turn/start");
        let turn = bounded(self.bridge.run(request)).await.expect("the turn goes on");
        assert_eq!(self.peer.count("turn/start"), before, "a turn was started");
        turn
    }

    pub(super) async fn refused(&self, request: TurnRequest) -> BridgeError {
        bounded(self.bridge.run(request)).await.expect_err("it is refused")
    }

    /// The requests and notifications of `method` so far.
    pub(super) fn seen(&self, method: &str) -> Vec<Value> {
        self.peer.seen(method)
    }

    /// Waits for the `n`th message of `method`; gives its parameters.
    pub(super) async fn nth(&self, method: &str, n: usize) -> Value {
        bounded(async {
            loop {
                let came = self.peer.came.notified();
                if let Some(message) = self.peer.seen(method).get(n - 1) {
                    return message["params"].clone();
                }
                came.await;
            }
        })
        .await
    }

    /// Waits for our answer to the app-server's request `id`.
    pub(super) async fn answer(&self, id: i64) -> Value {
        bounded(async {
            loop {
                let came = self.peer.came.notified();
                if let Some(answer) = self.peer.answer(id) {
                    return answer;
                }
                came.await;
            }
        })
        .await
    }

    pub(super) fn answered(&self, id: i64) -> bool {
        self.peer.answer(id).is_some()
    }

    /// The turn of the `nth` start, counted from 0.
    pub(super) fn running(&self, nth: usize) -> Running {
        self.peer.running(nth)
    }

    /// All items that were injected into `thread`.
    pub(super) fn items(&self, thread: &str) -> Vec<Value> {
        let injected = self.peer.seen("thread/inject_items");
        let own = injected.into_iter().filter(|message| message["params"]["threadId"] == thread);
        own.flat_map(|message| message["params"]["items"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// Runs `future` beside the test; its value is what comes back.
    pub(super) fn beside<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, value) = oneshot::channel();
        self.tasks.spawn("beside", async move { drop(done.send(future.await)) });
        value
    }

    /// Somebody logs in; it is noticed once what is known of the login is too old.
    pub(super) fn log_in(&self, name: &str) {
        *self.peer.account.lock().unwrap() = Some(name.to_owned());
    }

    /// The same, and waits until it is noticed.
    pub(super) async fn log_in_and_wait(&self, name: &str) {
        self.log_in(name);
        tokio::time::sleep(Duration::from_secs(6)).await;
    }

    /// Refuses forks with this code, or grants them.
    pub(super) fn refuse_forks(&self, code: Option<i32>) {
        self.refuse(code.map(|code| ("thread/fork", code)));
    }

    /// Refuses a method with this code, or grants all.
    pub(super) fn refuse(&self, refusal: Option<(&'static str, i32)>) {
        *self.peer.refusal.lock().unwrap() = refusal;
    }

    /// Drops the socket.
    pub(super) fn cut(&self) {
        self.peer.out.lock().unwrap().take();
    }

    /// Slots in use and turns held.
    pub(super) async fn load(&self) -> (usize, usize) {
        let health = bounded(self.bridge.health()).await;
        (health.slots.in_use, health.continuation.held_turns)
    }

    /// Ends it: no slot and no task may be left.
    pub(super) async fn end(self) {
        assert_eq!(bounded(self.bridge.drain(Duration::from_secs(5))).await, 0, "a slot is held");
        assert!(self.tasks.shut_down(Duration::from_secs(30)).await, "a task is left");
    }
}

impl Running {
    /// A notification about this turn.
    pub(super) fn tell(&self, method: &str, mut params: Value) -> &Self {
        params["threadId"] = self.thread.as_str().into();
        if params.get("turn").is_none() {
            params["turnId"] = self.turn.as_str().into();
        }
        self.peer.send(json!({"method": method, "params": params}));
        self
    }

    pub(super) fn item(&self, item: impl Into<Value>) -> &Self {
        let item = item.into();
        self.tell("rawResponseItem/completed", json!({"item": item}))
    }

    pub(super) fn begin(&self, item: &str) -> &Self {
        self.tell("item/started", json!({"item": {"type": "agentMessage", "id": item}}))
    }

    pub(super) fn delta(&self, item: &str, text: &str) -> &Self {
        self.tell("item/agentMessage/delta", json!({"itemId": item, "delta": text}))
    }

    /// The raw item of a call.
    pub(super) fn call(&self, call_id: &str, name: &str) -> &Self {
        self.item(call(call_id, name))
    }

    /// The app-server's own request for the output of a call.
    pub(super) fn ask(&self, id: i64, call_id: &str, name: &str) -> &Self {
        let params = json!({
            "threadId": self.thread, "turnId": self.turn, "callId": call_id, "tool": name, "arguments": {},
        });
        self.peer.send(json!({"id": id, "method": "item/tool/call", "params": params}));
        self
    }

    pub(super) fn message(&self, item: &str, text: &str) -> &Self {
        self.item(message(item, text))
    }

    /// One upstream response is complete.
    pub(super) fn response(&self, id: &str, input: u32, output: u32) -> &Self {
        let usage = json!({
            "inputTokens": input, "cachedInputTokens": 0, "cacheWriteInputTokens": 0,
            "outputTokens": output, "reasoningOutputTokens": 0, "totalTokens": input + output,
        });
        self.tell("rawResponse/completed", json!({"responseId": id, "usage": usage}))
    }

    pub(super) fn completed(&self) -> &Self {
        self.end("completed", &Value::Null)
    }

    pub(super) fn failed(&self, message: &str) -> &Self {
        let error = json!({"message": message, "codexErrorInfo": "other", "additionalDetails": null});
        self.end("failed", &error)
    }

    fn end(&self, status: &str, error: &Value) -> &Self {
        let turn = json!({"id": self.turn, "items": [], "status": status, "error": error});
        self.tell("turn/completed", json!({"turn": turn}))
    }

    /// A whole good turn.
    pub(super) fn say(&self, text: &str) {
        self.begin("m").delta("m", text).message("m", text).response("resp_u", 3, 2).completed();
    }
}

impl Peer {
    fn send(&self, message: Value) {
        if let Some(out) = &*self.out.lock().unwrap() {
            let _ = out.send(message);
        }
    }

    fn seen(&self, method: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|message| message["method"] == method).cloned().collect()
    }

    fn count(&self, method: &str) -> usize {
        self.seen(method).len()
    }

    fn answer(&self, id: i64) -> Option<Value> {
        let seen = self.seen.lock().unwrap();
        let own = |message: &&Value| message.get("method").is_none() && message["id"] == id;
        seen.iter().find(own).map(|message| message["result"].clone())
    }

    fn running(self: &Arc<Self>, nth: usize) -> Running {
        let start = self.seen("turn/start").swap_remove(nth);
        let thread = start["params"]["threadId"].as_str().expect("a thread").to_owned();
        Running { thread, turn: turn_of(&start["id"]), peer: Arc::clone(self) }
    }
}

fn turn_of(request: &Value) -> String {
    format!("turn-{request}")
}

async fn serve(stream: tokio::io::DuplexStream, peer: Arc<Peer>, stop: tokio_util::sync::CancellationToken) {
    let mut fake = FakeAppServer::accept(stream).await;
    let (out, mut outgoing) = mpsc::unbounded_channel();
    *peer.out.lock().unwrap() = Some(out);
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            told = outgoing.recv() => match told {
                Some(told) => { fake.send(told).await; continue }
                None => return,
            },
            message = fake.next() => match message {
                Some(message) => message,
                None => return,
            },
        };
        peer.seen.lock().unwrap().push(message.clone());
        let account = peer.account.lock().unwrap().clone();
        let refusal = peer.refusal.lock().unwrap().filter(|(method, _)| message["method"] == *method);
        if let Some((_, code)) = refusal {
            fake.refuse(&message, code, "refused").await;
        } else if let Some(result) = usual(&message, account.as_deref()) {
            fake.reply(&message, result).await;
        }
        if message["method"] == "turn/interrupt" {
            let turn = json!({"id": message["params"]["turnId"], "items": [], "status": "interrupted", "error": null});
            let ended = json!({"threadId": message["params"]["threadId"], "turn": turn});
            fake.notify("turn/completed", ended).await;
        }
        peer.came.notify_waiters();
    }
}

fn usual(message: &Value, account: Option<&str>) -> Option<Value> {
    message.get("id")?;
    let params = &message["params"];
    Some(match message["method"].as_str()? {
        "initialize" => json!({"userAgent": "codex_bridge/0.169.0 (Linux)", "codexHome": "/nowhere"}),
        "account/read" => {
            let account = account.map(|name| json!({"type": "chatgpt", "email": name, "planType": "pro"}));
            json!({"account": account, "requiresOpenaiAuth": account.is_some()})
        }
        "model/list" => json!({"nextCursor": null, "data": [model("model-a"), model("model-b")]}),
        "thread/start" | "thread/fork" => {
            let thread = json!({"id": uuid::Uuid::new_v4().to_string(), "status": {"type": "idle"}});
            json!({"thread": thread, "model": params["model"]})
        }
        "thread/read" => json!({"thread": {"id": params["threadId"], "status": {"type": "active"}}}),
        "turn/start" => {
            json!({"turn": {"id": turn_of(&message["id"]), "items": [], "status": "inProgress", "error": null}})
        }
        _ => json!({}),
    })
}

fn model(id: &str) -> Value {
    json!({
        "id": id, "model": id, "displayName": id, "description": "", "hidden": false, "isDefault": id == "model-a",
        "supportedReasoningEfforts": [], "defaultReasoningEffort": "low", "inputModalities": ["text", "image"],
        "serviceTiers": [],
    })
}

/// A user's request.
pub(in crate::bridge) fn ask(text: &str) -> TurnRequest {
    TurnRequest::new(vec![Item::input_text("user", text)])
}

/// The same, of a session that the caller names.
pub(super) fn named(name: &str, request: TurnRequest) -> TurnRequest {
    let source = SessionSource::Header("session-id");
    TurnRequest { session: SessionIdentity::named(SessionId::new(name), source), ..request }
}

/// A tool of that name.
pub(in crate::bridge) fn function(name: &str) -> Tool {
    let parameters = json!({"type": "object", "properties": {}});
    Tool::function(name, Some("does it"), parameters)
}

/// The same, after the response `previous`.
pub(super) fn after(previous: &ResponseId, text: &str) -> TurnRequest {
    TurnRequest { previous: Some(previous.clone()), ..ask(text) }
}

pub(super) fn message(id: &str, text: &str) -> Value {
    let content = json!([{"type": "output_text", "text": text}]);
    json!({"type": "message", "id": id, "role": "assistant", "content": content})
}

pub(super) fn call(call_id: &str, name: &str) -> Value {
    json!({
        "type": "function_call", "id": format!("fc_{call_id}"), "call_id": call_id, "name": name,
        "arguments": "{\"a\": 1}",
    })
}

/// The output of a call.
pub(super) fn output(call_id: &str, said: &str) -> Item {
    item(json!({"type": "function_call_output", "call_id": call_id, "output": said}))
}

pub(super) fn item(value: Value) -> Item {
    Item::from_value(value).expect("an object")
}

/// All text deltas, and the end.
pub(super) async fn told(mut turn: Turn) -> (String, Result<Outcome, BridgeError>) {
    let mut text = String::new();
    loop {
        match bounded(turn.next()).await {
            TurnStep::Event(TurnEvent::TextDelta { delta, .. }) => text.push_str(&delta),
            TurnStep::Event(_) => {}
            TurnStep::Finished(result) => return (text, result),
        }
    }
}

/// The texts of an outcome's messages.
pub(super) fn texts(outcome: &Outcome) -> Vec<String> {
    let text =
        |item: &Item| item.get("content").and_then(|content| content[0]["text"].as_str().map(str::to_owned));
    outcome.output.iter().filter_map(text).collect()
}
