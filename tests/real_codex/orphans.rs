//! Turns of ours that nobody waits for, at an app-server that others use too.
#![expect(clippy::unwrap_used, reason = "a test's own helper: what fails here fails the test")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use codex_bridge::app_server::{
    ConnectOptions, Connection, Thread, ThreadOptions, ThreadStatus, TurnOptions,
};
use codex_bridge::config::{Config, Endpoint};
use codex_bridge::model::Item;
use codex_bridge::tasks::Tasks;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::connect::Foreign;
use crate::http::{Client, until};
use crate::support::{Place, bounded, codex};
use crate::world::{On, World};

/// Somebody else's client of the same app-server: it introduces itself just as the bridge does.
struct Other {
    connection: Connection,
    /// Loaded, and nothing runs there.
    idle: Thread,
    /// A turn runs there.
    busy: Thread,
}

impl Other {
    async fn connect(socket: &Path, place: &Place, tasks: &Tasks) -> Self {
        let endpoint = Endpoint::Unix(socket.to_owned());
        let connection =
            bounded(Connection::connect(&endpoint, ConnectOptions::default(), tasks)).await.unwrap();
        let options = ThreadOptions::lean("gpt-5.5", place.temp.path());
        let idle = bounded(connection.start_thread(&options)).await.unwrap();
        let mut busy = bounded(connection.start_thread(&options)).await.unwrap();
        let items = [Item::input_text("user", "SLOW 10000 20")];
        bounded(busy.start_turn(&items, &TurnOptions::default())).await.unwrap();
        Self { connection, idle, busy }
    }

    async fn is_untouched(&self) -> bool {
        let idle = bounded(self.connection.thread_status(self.idle.id())).await.unwrap();
        let busy = bounded(self.connection.thread_status(self.busy.id())).await.unwrap();
        (idle, busy) == (ThreadStatus::Idle, ThreadStatus::Active)
    }

    /// Threads beside its own on which a turn runs.
    async fn strangers(&self) -> usize {
        let mut running = 0;
        for thread in bounded(self.connection.loaded_threads()).await.unwrap() {
            let is_own = thread == *self.idle.id() || thread == *self.busy.id();
            let status = bounded(self.connection.thread_status(&thread)).await.unwrap();
            running += usize::from(!is_own && status == ThreadStatus::Active);
        }
        running
    }
}

/// A bridge before an app-server that is not its own.
async fn shared(configure: impl FnOnce(&mut Config)) -> (World, Foreign, std::path::PathBuf) {
    let mut socket = None;
    let world = Box::pin(World::unconnected(On::Plain, |config, place| {
        let path = place.temp.path().join("app-server.sock");
        config.app_server.connect = Some(Endpoint::Unix(path.clone()));
        socket = Some(path);
        configure(config);
    }))
    .await;
    let socket = socket.unwrap();
    let listen = format!("unix://{}", socket.display());
    let foreign = Foreign::start(&world.standin, &world.place, &listen, None, &[]).await;
    until("it is connected", async || (world.client.get("/readyz").await.status == 200).then_some(())).await;
    (world, foreign, socket)
}

#[tokio::test]
async fn threads_of_another_client_are_never_touched() {
    let (world, foreign, socket) =
        shared(|config| config.app_server.orphan_sweep = Duration::from_millis(500)).await;
    let other = Other::connect(&socket, &world.place, &world.tasks).await;
    let mut events = world.client.stream("/v1/responses", &json!({"input": "SLOW 160 50"})).await;
    events.until("response.output_text.delta").await;
    // Several sweeps pass over them; each looks twice, two seconds apart.
    events.until("response.completed").await;
    assert!(other.is_untouched().await);
    let health = world.client.get("/v1/health").await.ok();
    assert_eq!(health["app_server"]["orphans_interrupted"], 0, "{health}");
    drop(other);
    foreign.stop().await;
    world.end().await;
}

/// `codex-bridge serve` before the app-server at `socket`.
async fn serve(place: &Place, socket: &Path) -> (Child, Client) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codex-bridge"));
    command.arg("serve").args(["--port", "0"]).arg("--state").arg(place.state());
    command.arg("--connect").arg(format!("unix://{}", socket.display()));
    command.env("HOME", place.temp.path()).env("XDG_CONFIG_HOME", place.temp.path().join("config"));
    command.env_remove("CODEX_BIN").env("PATH", codex().await.parent().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = bounded(lines.next_line()).await.unwrap().expect("it listens before it ends");
        if let Some(address) = line.strip_prefix("listening on http://") {
            break address.trim().parse().unwrap();
        }
    };
    let client = Client::new(address, None);
    until("it is ready", async || (client.get("/readyz").await.status == 200).then_some(())).await;
    (child, client)
}

#[tokio::test]
async fn what_a_killed_bridge_left_running_is_interrupted_by_the_next_one() {
    // The bridge in this process is another one on the same app-server: not touched either.
    let (world, foreign, socket) = shared(|_| {}).await;
    let other = Other::connect(&socket, &world.place, &world.tasks).await;
    let mut neighbour = world.client.stream("/v1/responses", &json!({"input": "SLOW 10000 20"})).await;
    neighbour.until("response.output_text.delta").await;

    let place = Place::new();
    let (mut bridge, client) = serve(&place, &socket).await;
    let mut events = client.stream("/v1/responses", &json!({"input": "SLOW 10000 20"})).await;
    events.until("response.output_text.delta").await;
    bridge.kill().await.unwrap();
    assert_eq!(other.strangers().await, 2, "the neighbour's and the orphan");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(other.strangers().await, 2, "nobody stops it by himself");

    let (mut bridge, client) = serve(&place, &socket).await;
    until("the orphan is interrupted", async || (other.strangers().await == 1).then_some(())).await;
    until("it is counted", async || {
        let health = client.get("/v1/health").await.ok();
        (health["app_server"]["orphans_interrupted"] == 1).then_some(())
    })
    .await;
    assert!(other.is_untouched().await);
    neighbour.until("response.output_text.delta").await;
    bridge.kill().await.unwrap();
    drop((neighbour, other));
    world.until_idle().await;
    foreign.stop().await;
    world.end().await;
}
