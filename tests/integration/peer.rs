//! A scripted app-server on a unix socket, in raw JSON: it shares no types with the client, so that a mistake
//! in those shows. What every client does first is answered by itself; turns are played by the test, step by
//! step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use codex_bridge::tasks::Tasks;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::http::PATIENCE;

/// The scripted peer. All tests of one daemon share one.
pub(crate) struct Peer {
    state: Arc<Mutex<State>>,
    turns: mpsc::UnboundedReceiver<Turn>,
    tasks: Tasks,
    folder: tempfile::TempDir,
}

/// A `turn/start`, or a `thread/compact/start`, that waits for what the test does with it.
pub(crate) struct Turn {
    pub(crate) thread: String,
    pub(crate) id: String,
    /// The parameters of the request.
    pub(crate) params: Value,
    /// What was injected into the thread so far.
    pub(crate) items: Vec<Value>,
    request: Value,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Of the connection that lives now.
    out: Option<mpsc::UnboundedSender<Message>>,
    cut: CancellationToken,
    connections: usize,
    /// Every request and notification that came, as it came.
    seen: Vec<Value>,
    /// Loaded threads with the items injected into each.
    threads: BTreeMap<String, Vec<Value>>,
    /// The turn that runs on each thread.
    running: BTreeMap<String, String>,
    started: usize,
    /// What `thread/read` says.
    status: String,
    /// Answers in place of the usual ones, each for one request: by method.
    instead: HashMap<String, Vec<Instead>>,
    rate_limits: Value,
    /// What the files of kept threads hold.
    files: HashMap<String, String>,
    /// Who is logged in.
    account: Value,
    /// Somebody must be.
    wants_login: bool,
    /// Our own requests that the bridge has not answered, and the answers it gave.
    asked: BTreeSet<i64>,
    answers: HashMap<i64, Value>,
}

/// What a request gets in place of its usual answer.
#[derive(Clone)]
pub(crate) enum Instead {
    /// This error.
    Refusal { code: i64, message: &'static str },
    /// None at all.
    Silence,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("app.sock")).expect("a socket");
        let state = Arc::new(Mutex::new(State { status: "active".into(), ..State::default() }));
        let (tasks, (told, turns)) = (Tasks::new(), mpsc::unbounded_channel());
        let (stop, shared, spawner) = (tasks.stop_token().clone(), Arc::clone(&state), tasks.clone());
        tasks.spawn("peer", async move {
            loop {
                let stream = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.expect("a connection").0,
                };
                let serve = serve(stream, Arc::clone(&shared), told.clone(), stop.clone());
                spawner.spawn("peer connection", serve);
            }
        });
        Self { state, turns, tasks, folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("app.sock")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The next turn the bridge starts. Nothing has been answered yet.
    pub(crate) async fn turn(&mut self) -> Turn {
        timeout(PATIENCE, self.turns.recv()).await.expect("a turn in time").expect("the peer lives")
    }

    /// The next request of `method` gets this instead of its answer; several calls queue up.
    pub(crate) fn instead(&self, method: &str, instead: Instead) {
        self.lock().instead.entry(method.into()).or_default().push(instead);
    }

    /// What `thread/read` says from now on: `idle`, `active`, …
    pub(crate) fn status(&self, status: &str) {
        self.lock().status = status.into();
    }

    /// Who is logged in, for those who ask from now on.
    pub(crate) fn account(&self, account: &Value) {
        self.lock().account = account.clone();
    }

    /// Nobody is, and somebody must be.
    pub(crate) fn logged_out(&self) {
        let mut state = self.lock();
        (state.account, state.wants_login) = (Value::Null, true);
    }

    /// Tells the account's usage windows, now and when asked.
    pub(crate) fn rate_limits(&self, limits: &Value) {
        self.lock().rate_limits = limits.clone();
        self.notify("account/rateLimits/updated", &json!({"rateLimits": limits}));
    }

    /// The requests of `method` so far.
    pub(crate) fn seen(&self, method: &str) -> Vec<Value> {
        self.lock().seen.iter().filter(|message| message["method"] == method).cloned().collect()
    }

    /// Threads that are loaded.
    pub(crate) fn threads(&self) -> Vec<String> {
        self.lock().threads.keys().cloned().collect()
    }

    /// Requests of ours that the bridge has not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.lock().asked.len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.lock().connections
    }

    pub(crate) fn notify(&self, method: &str, params: &Value) {
        self.lock().send(&json!({"method": method, "params": params, "emittedAtMs": 1}));
    }

    /// Any text at all.
    pub(crate) fn send_text(&self, text: &str) {
        let state = self.lock();
        let out = state.out.as_ref().expect("a connection");
        out.send(Message::text(text)).expect("the connection lives");
    }

    pub(crate) fn send_bytes(&self, bytes: &'static [u8]) {
        let state = self.lock();
        let out = state.out.as_ref().expect("a connection");
        out.send(Message::binary(bytes)).expect("the connection lives");
    }

    /// Asks the bridge something and gives its answer.
    pub(crate) async fn ask(&self, id: i64, method: &str, params: Value) -> Value {
        {
            let mut state = self.lock();
            state.asked.insert(id);
            state.send(&json!({"id": id, "method": method, "params": params}));
        }
        crate::http::until("an answer to the app-server's request", async || self.lock().answers.remove(&id))
            .await
    }

    /// Drops the socket without a word.
    pub(crate) fn cut(&self) {
        self.lock().cut.cancel();
    }

    /// Whether it was dropped, and no other one has come yet.
    pub(crate) fn is_cut(&self) -> bool {
        self.lock().cut.is_cancelled()
    }

    pub(crate) async fn stop(self) {
        self.tasks.shut_down(PATIENCE).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Turn {
    /// Answers `turn/start` and tells that the turn runs.
    pub(crate) fn begin(&self) -> &Self {
        self.reply();
        self.tell("turn/started", json!({"turn": self.state_of("inProgress", &Value::Null)}))
    }

    /// Answers `turn/start`.
    pub(crate) fn reply(&self) -> &Self {
        let turn = self.state_of("inProgress", &Value::Null);
        lock(&self.state).send(&json!({"id": self.request["id"], "result": {"turn": turn}}));
        self
    }

    /// A notification about this turn: its thread and turn ids are added.
    pub(crate) fn tell(&self, method: &str, mut params: Value) -> &Self {
        params["threadId"] = self.thread.as_str().into();
        if params.get("turn").is_none() {
            params["turnId"] = self.id.as_str().into();
        }
        lock(&self.state).send(&json!({"method": method, "params": params, "emittedAtMs": 1}));
        self
    }

    pub(crate) fn item_started(&self, kind: &str, item: &str) -> &Self {
        self.tell("item/started", json!({"item": {"type": kind, "id": item}}))
    }

    pub(crate) fn delta(&self, item: &str, text: &str) -> &Self {
        self.tell("item/agentMessage/delta", json!({"itemId": item, "delta": text}))
    }

    /// The raw message item.
    pub(crate) fn message(&self, item: &str, text: &str) -> &Self {
        let content = json!([{"type": "output_text", "text": text}]);
        let item = json!({"type": "message", "id": item, "role": "assistant", "content": content});
        self.tell("rawResponseItem/completed", json!({"item": item}))
    }

    /// One upstream response is complete; usage of so many input and output tokens.
    pub(crate) fn response(&self, input: u32, output: u32) -> &Self {
        let usage = usage(input, output);
        self.tell("rawResponse/completed", json!({"responseId": "resp_upstream", "usage": usage}))
    }

    /// One upstream response is complete, its usage not known.
    pub(crate) fn response_without_usage(&self) -> &Self {
        self.tell("rawResponse/completed", json!({"responseId": "resp_upstream", "usage": null}))
    }

    pub(crate) fn completed(&self) -> &Self {
        self.end("completed", &Value::Null)
    }

    pub(crate) fn failed(&self, info: &Value, message: &str) -> &Self {
        self.end("failed", &error(info, message))
    }

    /// Somebody else stopped it.
    pub(crate) fn interrupted(&self) -> &Self {
        self.end("interrupted", &Value::Null)
    }

    /// The app-server tries again: what it says, and why it does.
    pub(crate) fn retrying(&self, info: &Value, message: &str, cause: &str) -> &Self {
        let mut error = error(info, message);
        error["additionalDetails"] = cause.into();
        self.tell("error", json!({"error": error, "willRetry": true}))
    }

    /// The file that the thread is kept in says what the conversation has become: what Codex tells the model of it,
    /// and what the thread holds from then on.
    pub(crate) fn compacted(&self, message: &str, replacement: &Value) -> &Self {
        let payload = json!({"message": message, "replacement_history": replacement});
        let lines = [
            json!({"type": "session_meta", "payload": {}}),
            json!({"type": "compacted", "payload": payload}),
        ];
        let file = lines.map(|line| line.to_string()).join("\n");
        lock(&self.state).files.insert(self.thread.clone(), file);
        self
    }

    /// A whole good compaction.
    pub(crate) fn summarise(&self, summary: &str) {
        self.begin().item_started("contextCompaction", "c").message("m", "the model's own words");
        self.response(40, 9).compacted(summary, &json!([])).completed();
    }

    /// A whole good turn.
    pub(crate) fn answer(&self, text: &str) {
        self.begin().item_started("agentMessage", "msg_1").delta("msg_1", text).message("msg_1", text);
        self.response(12, 3).completed();
    }

    fn end(&self, status: &str, error: &Value) -> &Self {
        lock(&self.state).running.remove(&self.thread);
        self.tell("turn/completed", json!({"turn": self.state_of(status, error)}))
    }

    fn state_of(&self, status: &str, error: &Value) -> Value {
        json!({"id": self.id, "items": [], "status": status, "error": error})
    }
}

/// Token counts as the app-server writes them.
pub(crate) fn usage(input: u32, output: u32) -> Value {
    json!({
        "inputTokens": input, "cachedInputTokens": 2, "cacheWriteInputTokens": 0, "outputTokens": output,
        "reasoningOutputTokens": 1, "totalTokens": input + output,
    })
}

fn error(info: &Value, message: &str) -> Value {
    json!({"message": message, "codexErrorInfo": info, "additionalDetails": null})
}

impl State {
    fn send(&self, message: &Value) {
        if let Some(out) = &self.out {
            // A connection that was cut takes nothing more.
            let _ = out.send(Message::text(message.to_string()));
        }
    }

    /// The answer to a request that the peer answers by itself.
    fn usual(&mut self, method: &str, params: &Value) -> Value {
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        match method {
            "initialize" => {
                let agent = "codex_bridge/0.169.0 (Linux; x86_64) dumb (codex_bridge; 0.1.0)";
                json!({"userAgent": agent, "codexHome": "/nowhere", "platformFamily": "unix", "platformOs": "linux"})
            }
            "config/read" => {
                json!({"config": {"mcp_servers": {"noisy": {"command": "false"}}}, "origins": {}})
            }
            "account/read" => json!({"account": self.account, "requiresOpenaiAuth": self.wants_login}),
            "account/rateLimits/read" => json!({"rateLimits": self.rate_limits}),
            "model/list" => {
                json!({"nextCursor": null, "data": [model("model-a", true), model("model-b", false)]})
            }
            "thread/start" => {
                self.started += 1;
                let id = format!("thread-{}", self.started);
                self.threads.insert(id.clone(), Vec::new());
                let thread = json!({"id": id, "status": {"type": "idle"}, "ephemeral": params["ephemeral"]});
                json!({"thread": thread, "model": params["model"]})
            }
            "thread/inject_items" => {
                let items = params["items"].as_array().expect("items").clone();
                self.threads.get_mut(&thread).expect("a loaded thread").extend(items);
                json!({})
            }
            "thread/read" => {
                let path = format!("/kept/{thread}.jsonl");
                json!({"thread": {"id": thread, "status": {"type": self.status}, "path": path}})
            }
            "fs/readFile" => {
                let path = params["path"].as_str().expect("a path");
                let thread = path.trim_start_matches("/kept/").trim_end_matches(".jsonl");
                json!({"dataBase64": STANDARD.encode(self.files.get(thread).map_or("", String::as_str))})
            }
            "thread/loaded/list" => json!({"data": [], "nextCursor": null}),
            "thread/unsubscribe" => {
                self.threads.remove(&thread);
                json!({"status": "unsubscribed"})
            }
            _ => json!({}),
        }
    }
}

fn model(id: &str, default: bool) -> Value {
    json!({
        "id": id, "model": id, "displayName": id, "description": "", "hidden": false, "isDefault": default,
        "supportedReasoningEfforts": [{"reasoningEffort": "low", "description": ""}],
        "defaultReasoningEffort": "low", "inputModalities": ["text", "image"], "serviceTiers": [],
    })
}

async fn serve(
    stream: UnixStream,
    state: Arc<Mutex<State>>,
    turns: mpsc::UnboundedSender<Turn>,
    stop: CancellationToken,
) {
    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let (mut sink, mut source) = socket.split();
    let (out, mut outgoing) = mpsc::unbounded_channel();
    let cut = CancellationToken::new();
    {
        let mut state = lock(&state);
        state.connections += 1;
        (state.out, state.cut) = (Some(out), cut.clone());
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = cut.cancelled() => return,
            Some(message) = outgoing.recv() => {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            received = source.next() => match received {
                Some(Ok(Message::Text(text))) => received_text(&text, &state, &turns),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        }
    }
}

fn received_text(text: &str, shared: &Arc<Mutex<State>>, turns: &mpsc::UnboundedSender<Turn>) {
    let message: Value = serde_json::from_str(text).expect("the bridge writes JSON");
    assert!(message.get("jsonrpc").is_none(), "{message}");
    let mut state = lock(shared);
    let Some(method) = message["method"].as_str() else {
        let id = message["id"].as_i64().expect("an id of ours");
        assert!(state.asked.remove(&id), "a second answer, or one to nothing: {message}");
        state.answers.insert(id, message);
        return;
    };
    state.seen.push(message.clone());
    if message.get("id").is_none() {
        return;
    }
    let queue = state.instead.get_mut(method).filter(|queue| !queue.is_empty());
    if let Some(instead) = queue.map(|queue| queue.remove(0)) {
        if let Instead::Refusal { code, message: words } = instead {
            state.send(&json!({"id": message["id"], "error": {"code": code, "message": words}}));
        }
        return;
    }
    let params = &message["params"];
    let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
    if method == "turn/start" || method == "thread/compact/start" {
        let items = state.threads.get(&thread).expect("a loaded thread").clone();
        let id = format!("turn-{}", state.seen.len());
        assert!(state.running.insert(thread.clone(), id.clone()).is_none(), "a turn was steered: {message}");
        drop(state);
        let (params, state) = (params.clone(), Arc::clone(shared));
        // The test may be over.
        let _ = turns.send(Turn { thread, id, params, items, request: message, state });
        return;
    }
    let result = state.usual(method, params);
    state.send(&json!({"id": message["id"], "result": result}));
    if method == "turn/interrupt"
        && let Some(turn) = state.running.remove(&thread)
    {
        let turn = json!({"id": turn, "items": [], "status": "interrupted", "error": null});
        state.send(&json!({"method": "turn/completed", "params": {"threadId": thread, "turn": turn}}));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
