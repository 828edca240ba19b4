//! The daemon in this process with the real codex and the stand-in model behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use codex_bridge::app::App;
use codex_bridge::bridge::Bridge;
use codex_bridge::config::Config;
use codex_bridge::standin::{Face, SeenRequest, StandIn, StandInOptions};
use codex_bridge::store::ResponseStore;
use codex_bridge::tasks::Tasks;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::http::{Client, until};
use crate::processes::processes_in;
use crate::support::{Place, bounded, codex};

/// What the stand-in is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// A plain provider, no login.
    Plain,
    /// The backend of a logged-in Codex.
    LoggedIn,
}

/// Both faces: a test that holds on one must hold on the other.
pub(crate) const FACES: [On; 2] = [On::Plain, On::LoggedIn];

/// A running daemon and all that is behind it.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) standin: Arc<StandIn>,
    pub(crate) bridge: Bridge,
    /// Where the daemon keeps responses.
    pub(crate) store: Arc<dyn ResponseStore>,
    pub(crate) place: Place,
    pub(crate) address: SocketAddr,
    daemon: Daemon,
    config: Config,
    pub(crate) tasks: Tasks,
}

/// How to stop a daemon.
struct Daemon {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), String>>,
}

impl Daemon {
    async fn stop(self) {
        self.stop.send_replace(true);
        let ended = bounded(self.ended).await.expect("the daemon does not panic");
        ended.expect("the daemon ends well");
    }
}

impl World {
    pub(crate) async fn start(face: On) -> Self {
        Self::configured(face, |_, _| {}).await
    }

    /// `configure` also may put files into the place; the user's Codex home is there, with its login if there
    /// is one.
    pub(crate) async fn configured(face: On, configure: impl FnOnce(&mut Config, &Place)) -> Self {
        Self::with(face, |config, place, standin| {
            config.app_server.codex_config.extend(standin.codex_config());
            config.app_server.child_environment.extend(standin.child_environment());
            configure(config, place);
        })
        .await
    }

    /// Before an app-server that is not its own: `configure` says which.
    pub(crate) async fn unconnected(face: On, configure: impl FnOnce(&mut Config, &Place)) -> Self {
        Self::with(face, |config, place, _| configure(config, place)).await
    }

    async fn with(face: On, configure: impl FnOnce(&mut Config, &Place, &StandIn)) -> Self {
        let (place, tasks) = (Place::new(), Tasks::new());
        let (standin, mut config) = prepare(face, &place, &tasks).await;
        configure(&mut config, &place, &standin);
        let app = App::build(config.clone()).await.expect("the daemon is built");
        let (address, bridge, store) = (app.address(), app.bridge().clone(), Arc::clone(app.store()));
        let client = Client::new(address, None);
        let daemon = run(app, &tasks);
        Self { client, standin: Arc::new(standin), bridge, store, place, address, daemon, config, tasks }
    }

    /// Stops the daemon and starts another one in its place.
    pub(crate) async fn restart(&mut self) {
        self.until_idle().await;
        let (stop, _) = watch::channel(true);
        let (_, ended) = oneshot::channel();
        std::mem::replace(&mut self.daemon, Daemon { stop, ended }).stop().await;
        let app = App::build(self.config.clone()).await.expect("the daemon is built");
        (self.address, self.bridge) = (app.address(), app.bridge().clone());
        self.store = Arc::clone(app.store());
        self.client = Client::new(self.address, None);
        self.daemon = run(app, &self.tasks);
    }

    /// What the model was asked, oldest first; warm-ups, which it is not asked to answer, left out.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        self.standin.requests().into_iter().filter(|seen| seen.body["generate"] != false).collect()
    }

    /// What the model was asked with `mark` in it.
    pub(crate) fn seen_with(&self, mark: &str) -> Vec<SeenRequest> {
        self.seen().into_iter().filter(|seen| seen.input.to_string().contains(mark)).collect()
    }

    /// A Responses request with the first model.
    pub(crate) async fn ask(&self, input: impl Into<Value>) -> crate::http::Answer {
        self.client.post("/v1/responses", &json!({"input": input.into()})).await
    }

    pub(crate) async fn models(&self) -> Vec<String> {
        let list = self.client.get("/v1/models").await.ok();
        let models = list["data"].as_array().expect("a list").iter();
        models.map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Waits until no turn runs and nobody waits.
    pub(crate) async fn until_idle(&self) {
        until("all slots are free", async || {
            let slots = self.bridge.health().await.slots;
            (slots.in_use == 0 && slots.queued == 0).then_some(())
        })
        .await;
    }

    /// Stops; the daemon must end well and leave no child. Gives its folders.
    pub(crate) async fn end(self) -> Place {
        self.until_idle().await;
        self.daemon.stop().await;
        drop(self.standin);
        assert!(self.tasks.shut_down(crate::http::PATIENCE).await, "a task is left");
        assert_eq!(processes_of(&self.place), Vec::<String>::new(), "a process is left");
        self.place
    }
}

fn run(app: App, tasks: &Tasks) -> Daemon {
    let (stop, stopping) = watch::channel(false);
    let (told, ended) = oneshot::channel();
    tasks.spawn("daemon", async move {
        let _ = told.send(app.run(stopping).await.map_err(|error| format!("{error:#}")));
    });
    Daemon { stop, ended }
}

/// A stand-in and the configuration of a daemon before it; the child's own settings are not in it yet.
async fn prepare(face: On, place: &Place, tasks: &Tasks) -> (StandIn, Config) {
    let face = match face {
        On::Plain => Face::Plain,
        On::LoggedIn => Face::Chatgpt { folder: place.user_home() },
    };
    let options = StandInOptions { face, ..StandInOptions::default() };
    let standin = StandIn::start(options, tasks).await.expect("the stand-in starts");
    let mut config = Config { state_dir: place.state(), ..Config::default() };
    config.server.port = 0;
    config.app_server.codex_bin = Some(codex().await);
    config.app_server.user_codex_home = place.user_home();
    config.machine.program = Some(env!("CARGO_BIN_EXE_codex-bridge").into());
    (standin, config)
}

/// Command lines of the codex processes that work in this place.
pub(crate) fn processes_of(place: &Place) -> Vec<String> {
    processes_in(place.temp.path())
}

/// Items without what the app-server notes on them for the backend (no model sees it), and without nulls.
pub(crate) fn bare(items: &Value) -> Value {
    let mut items = items.clone();
    for item in items.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        item.remove("id");
        item.remove("internal_chat_message_metadata_passthrough");
        item.retain(|_, value| !value.is_null());
    }
    items
}

/// A user text as an item.
pub(crate) fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

/// A chat request of one user message.
pub(crate) fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

/// A file of the user's Codex home that tells on whoever runs it.
pub(crate) fn tell_tale(place: &Place) -> (PathBuf, String) {
    let touched = place.temp.path().join("mcp-started");
    let script = place.temp.path().join("mcp.sh");
    std::fs::write(&script, format!("#!/bin/sh\ntouch '{}'\nexec cat\n", touched.display()))
        .expect("a script");
    let mut permissions = std::fs::metadata(&script).expect("the script").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
    std::fs::set_permissions(&script, permissions).expect("the script is made executable");
    (touched, format!("[mcp_servers.tell_tale]\ncommand = \"{}\"\n", script.display()))
}
