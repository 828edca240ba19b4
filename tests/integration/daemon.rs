//! The daemon in this process, before a scripted app-server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codex_bridge::app::{App, Reload};
use codex_bridge::bridge::Bridge;
use codex_bridge::config::{self, Config, Endpoint, Flag, FlagValue, Profile};
use codex_bridge::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::http::{Answer, Client, Events, PATIENCE, until};
use crate::peer::{Peer, Turn};

/// A daemon and its peer. End it with `finish`, which checks that nothing is left.
pub(crate) struct Daemon {
    pub(crate) client: Client,
    pub(crate) peer: Peer,
    pub(crate) bridge: Bridge,
    /// Has it read its keys again, as SIGHUP does.
    pub(crate) reload: mpsc::Sender<()>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), String>>,
    tasks: Tasks,
    config: Config,
}

/// A running app, and how it is told to stop.
struct Running {
    client: Client,
    bridge: Bridge,
    reload: mpsc::Sender<()>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), String>>,
}

impl Daemon {
    /// Limits are short, and no thread is kept: each test sees its own turn's threads alone.
    pub(crate) async fn start(configure: impl FnOnce(&mut Config)) -> Self {
        let peer = Peer::start();
        let mut config = Config { state_dir: peer.folder().join("state"), ..Config::default() };
        config.server.port = 0;
        config.app_server.connect = Some(Endpoint::Unix(peer.socket()));
        config.app_server.user_codex_home = peer.folder().join("codex");
        config.continuation.warm_threads = 0;
        config.continuation.spare_threads = 0;
        config.turn.status_check = Duration::from_millis(50);
        config.turn.usage_timeout = Duration::from_millis(200);
        config.stream.head_timeout = Duration::from_millis(50);
        configure(&mut config);
        let tasks = Tasks::new();
        let Running { client, bridge, reload, stop, ended } = run(&peer, &config, &tasks).await;
        Self { client, peer, bridge, reload, stop, ended, tasks, config }
    }

    /// Stops it, and starts another one on the same state folder and app-server.
    pub(crate) async fn restart(self) -> Self {
        let Self { peer, stop, ended, tasks, config, .. } = self;
        stop.send_replace(true);
        let ended = timeout(PATIENCE, ended).await.expect("the daemon ends in time");
        ended.expect("the daemon does not panic").expect("the daemon ends well");
        let Running { client, bridge, reload, stop, ended } = run(&peer, &config, &tasks).await;
        Self { client, peer, bridge, reload, stop, ended, tasks, config }
    }

    /// Posts a Responses request in a task of its own, so that the test can play the turn meanwhile.
    pub(crate) fn ask(&self, text: &str) -> Asking {
        self.post("/v1/responses", json!({"input": text}))
    }

    pub(crate) fn post(&self, path: &'static str, body: Value) -> Asking {
        self.post_as(&self.client, path, body)
    }

    pub(crate) fn post_as(&self, client: &Client, path: &'static str, body: Value) -> Asking {
        let (client, (told, answer)) = (client.clone(), oneshot::channel());
        self.tasks.spawn("asking", async move {
            let _ = told.send(client.post(path, &body).await);
        });
        Asking(answer)
    }

    /// Starts a Responses stream and its turn, which has said `first` of the message `m`.
    pub(crate) async fn streaming(&mut self, first: &str) -> (Events, Turn) {
        self.streaming_at("/v1/responses", json!({"input": "hi"}), first).await
    }

    pub(crate) async fn streaming_at(&mut self, path: &str, body: Value, first: &str) -> (Events, Turn) {
        let client = self.client.clone();
        tokio::join!(client.stream(path, &body), async {
            let turn = self.peer.turn().await;
            turn.begin().item_started("agentMessage", "m").delta("m", first);
            turn
        })
    }

    /// Turns that run and requests that wait.
    pub(crate) async fn load(&self) -> (usize, usize) {
        let slots = self.bridge.health().await.slots;
        (slots.in_use, slots.queued)
    }

    pub(crate) async fn until_load(&self, wanted: (usize, usize)) {
        let what = format!("{wanted:?} turns running and waiting");
        until(&what, async || (self.load().await == wanted).then_some(())).await;
    }

    /// Waits until the turn was interrupted: by its id, or as whatever runs on its thread where the id is not
    /// known yet.
    pub(crate) async fn until_interrupted(&self, turn: &Turn) {
        until("the turn is interrupted", async || {
            let requests = self.peer.seen("turn/interrupt");
            let this = |request: &&Value| {
                let params = &request["params"];
                params["threadId"] == turn.thread && (params["turnId"] == turn.id || params["turnId"] == "")
            };
            requests.iter().find(this).map(drop)
        })
        .await;
    }

    /// Waits until nothing of any call is left: no slot, no thread, no unanswered request.
    pub(crate) async fn until_idle(&self) {
        self.until_load((0, 0)).await;
        until("all threads let go", async || self.peer.threads().is_empty().then_some(())).await;
        assert_eq!(self.peer.unanswered(), 0, "a request of the app-server was not answered");
    }

    /// Tells the daemon to stop, without waiting.
    pub(crate) fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Checks that nothing is left, and stops.
    pub(crate) async fn finish(self) {
        self.until_idle().await;
        self.end().await;
    }

    /// Stops; the daemon must end well.
    pub(crate) async fn end(self) {
        self.begin_stop();
        let ended = timeout(PATIENCE, self.ended).await.expect("the daemon ends in time");
        ended.expect("the daemon does not panic").expect("the daemon ends well");
        assert!(self.tasks.shut_down(PATIENCE).await, "a task of the test is left");
        self.peer.stop().await;
    }
}

async fn run(peer: &Peer, config: &Config, tasks: &Tasks) -> Running {
    let (reload, asked) = mpsc::channel(1);
    let read = loader(peer.folder().to_owned(), &config.state_dir);
    let read = Box::new(move || config::load(&read, &config::read_file).map(|loaded| loaded.config.auth));
    let app =
        App::build(config.clone()).await.expect("the daemon is built").reloading(Reload { asked, read });
    let (client, bridge) = (Client::new(app.address(), None), app.bridge().clone());
    let (stop, stopping) = watch::channel(false);
    let (told, ended) = oneshot::channel();
    tasks.spawn("daemon", async move {
        let _ = told.send(app.run(stopping).await.map_err(|error| format!("{error:#}")));
    });
    Running { client, bridge, reload, stop, ended }
}

/// Where a daemon of that home and state folder would find its keys.
fn loader(home: PathBuf, state: &Path) -> config::Request {
    let state = Flag {
        name: "--state",
        key: "state.dir",
        value: FlagValue::One(state.to_string_lossy().into_owned()),
    };
    config::Request {
        file: None,
        environment: BTreeMap::from([("HOME".to_owned(), home.to_string_lossy().into_owned())]),
        flags: vec![state],
        working_dir: home,
        project_install: None,
        program: None,
        profile: Profile::Serve,
    }
}

/// A request under way.
pub(crate) struct Asking(oneshot::Receiver<Answer>);

impl Asking {
    pub(crate) async fn answer(self) -> Answer {
        timeout(PATIENCE, self.0).await.expect("an answer in time").expect("the client lives")
    }
}

/// The text of a Responses object.
pub(crate) fn text_of(response: &Value) -> String {
    let content =
        response["output"].as_array().into_iter().flatten().filter_map(|item| item["content"].as_array());
    content.flatten().filter_map(|part| part["text"].as_str()).collect()
}

/// The joined text deltas of a Responses stream.
pub(crate) fn deltas_of(events: &[Value]) -> String {
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    deltas.filter_map(|event| event["delta"].as_str()).collect()
}

/// The one terminal event, which must be followed by `[DONE]` alone.
#[track_caller]
pub(crate) fn terminal_of(events: &[Value]) -> &Value {
    let is_terminal = |event: &&Value| {
        ["response.completed", "response.failed", "response.incomplete", "error"]
            .iter()
            .any(|kind| event["type"] == *kind)
    };
    assert_eq!(events.iter().filter(is_terminal).count(), 1, "{events:#?}");
    let [.., terminal, done] = events else { panic!("too short: {events:#?}") };
    assert_eq!(done, "[DONE]");
    assert!(is_terminal(&terminal), "{terminal}");
    terminal
}
