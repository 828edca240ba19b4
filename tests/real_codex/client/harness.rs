//! A codex app-server of the test's own, in a home of its own, before a provider inside the test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helper: what fails here fails the test"
)]

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use codex_bridge::app_server::{
    AppServerError, ConnectOptions, Connection, Thread, ThreadEvent, ThreadOptions, TurnStatus,
};
use codex_bridge::config::Endpoint;
use codex_bridge::tasks::Tasks;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Every wait ends here.
const PATIENCE: Duration = Duration::from_secs(60);
/// One delta of `BURST`.
pub(crate) const BURST: &str = "word ";
/// How many of them come.
pub(crate) const BURST_DELTAS: usize = 100_000;

/// The requests the provider has seen.
type Bodies = Arc<Mutex<Vec<Value>>>;

/// A running app-server.
pub(crate) struct Codex {
    home: tempfile::TempDir,
    child: Child,
    bodies: Bodies,
    tasks: Tasks,
    /// Where it listens.
    pub(crate) endpoint: Endpoint,
}

/// The capability token of [`Codex::start_on_tcp`].
pub(crate) const TOKEN: &str = "a-token-for-this-test-alone";

impl Codex {
    /// Starts one on a unix socket.
    pub(crate) async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(home.path().join("socket"));
        let listen = format!("unix://{}", home.path().join("socket").display());
        Self::launch(home, endpoint, &[&listen]).await
    }

    /// Starts one on a TCP port, behind [`TOKEN`].
    pub(crate) async fn start_on_tcp() -> Self {
        let home = tempfile::tempdir().unwrap();
        // Free a moment ago: good enough for a test.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("ws://{address}");
        let token = home.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let auth = ["--ws-auth", "capability-token", "--ws-token-file", &token.display().to_string()];
        Self::launch(home, Endpoint::Tcp(url.clone()), &[&[&*url][..], &auth].concat()).await
    }

    async fn launch(home: tempfile::TempDir, endpoint: Endpoint, listen: &[&str]) -> Self {
        let binary = crate::support::codex().await;
        let tasks = Tasks::new();
        let bodies = Bodies::default();
        let address = serve_provider(&tasks, Arc::clone(&bodies)).await;
        let config = format!(
            "model = \"gpt-5.5\"\nmodel_provider = \"local\"\n[model_providers.local]\nname = \"local\"\n\
             base_url = \"http://{address}/v1\"\nwire_api = \"responses\"\nrequires_openai_auth = false\n\
             [mcp_servers.\"stray.server\"]\ncommand = \"/bin/false\"\n"
        );
        std::fs::write(home.path().join("config.toml"), config).unwrap();
        std::fs::create_dir(home.path().join("empty")).unwrap();
        let child = Command::new(binary)
            .arg("app-server")
            .arg("--listen")
            .args(listen)
            .env("CODEX_HOME", home.path())
            .env("HOME", home.path())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { home, child, bodies, tasks, endpoint }
    }

    /// A connection to it, as soon as it listens.
    pub(crate) async fn connect(&self) -> Connection {
        self.connect_with(&ConnectOptions::default()).await.expect("a connection")
    }

    /// The first attempt that somebody listens to.
    pub(crate) async fn connect_with(&self, options: &ConnectOptions) -> Result<Connection, AppServerError> {
        in_time(async {
            loop {
                match Connection::connect(&self.endpoint, options.clone(), &self.tasks).await {
                    Err(AppServerError::Connect { .. }) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    result => return result,
                }
            }
        })
        .await
    }

    /// A lean thread that starts no MCP server.
    pub(crate) fn options(&self) -> ThreadOptions {
        let empty: PathBuf = self.home.path().join("empty");
        ThreadOptions {
            disabled_mcp_servers: vec!["stray.server".into()],
            ..ThreadOptions::lean("gpt-5.5", empty)
        }
    }

    /// What the provider was asked.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().clone()
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, condition: impl Fn() -> F) {
        in_time(async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Reads events up to the end of the turn.
pub(crate) async fn ended(thread: &mut Thread) -> TurnStatus {
    loop {
        match in_time(thread.next_event()).await {
            ThreadEvent::TurnCompleted { status, .. } => return status,
            ThreadEvent::Closed(reason) => panic!("{reason}"),
            _ => {}
        }
    }
}

/// `future`, which must end in time.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

async fn serve_provider(tasks: &Tasks, bodies: Bodies) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new()
        .route("/v1/responses", post(respond))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(bodies);
    tasks.spawn("provider", async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// `THINK`: a reasoning item first. `BURST`: many deltas at once. `STALL`: begins and never ends.
async fn respond(State(bodies): State<Bodies>, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let last = body["input"].as_array().and_then(|items| items.last()).cloned().unwrap_or_default();
    let last = last["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    let count = {
        let mut bodies = bodies.lock().unwrap();
        bodies.push(body);
        bodies.len()
    };
    let (response, message) = (format!("resp_{count}"), format!("msg_{count}"));
    let deltas = if last == "BURST" { BURST_DELTAS } else { 3 };
    let mut events = vec![json!({"type": "response.created", "response": {"id": response}})];
    if last == "THINK" {
        let part = json!({"type": "summary_text", "text": "why"});
        let at = |kind: &str| json!({"type": kind, "item_id": "rs_1", "output_index": 0, "summary_index": 0});
        let with = |mut event: Value, key: &str, value: Value| {
            event[key] = value;
            event
        };
        events.extend([
            json!({"type": "response.output_item.added", "output_index": 0,
                "item": {"type": "reasoning", "id": "rs_1", "summary": []}}),
            with(at("response.reasoning_summary_part.added"), "part", json!({"type": "summary_text", "text": ""})),
            with(at("response.reasoning_summary_text.delta"), "delta", json!("why")),
            json!({"type": "response.output_item.done", "output_index": 0,
                "item": {"type": "reasoning", "id": "rs_1", "summary": [part], "encrypted_content": "secret"}}),
        ]);
    }
    let item = |text: &str| {
        json!({"type": "message", "id": message, "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}]})
    };
    events.push(json!({"type": "response.output_item.added", "output_index": 1, "item": item("")}));
    let delta = json!({"type": "response.output_text.delta", "item_id": message, "output_index": 1,
        "content_index": 0, "delta": BURST});
    events.extend(std::iter::repeat_n(delta, deltas));
    let stalls = last == "STALL";
    if !stalls {
        let usage = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 15});
        events.extend([
            json!({"type": "response.output_item.done", "output_index": 1, "item": item(&BURST.repeat(deltas))}),
            json!({"type": "response.completed", "response": {"id": response, "usage": usage}}),
        ]);
    }
    let text: String = events
        .iter()
        .flat_map(|event| {
            ["event: ", event["type"].as_str().unwrap_or_default(), "\ndata: "]
                .map(str::to_owned)
                .into_iter()
                .chain([event.to_string(), "\n\n".to_owned()])
        })
        .collect();
    let sent = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from(text))]);
    let body = if stalls {
        Body::from_stream(sent.chain(futures_util::stream::pending()))
    } else {
        Body::from_stream(sent)
    };
    ([("content-type", "text/event-stream")], body).into_response()
}
